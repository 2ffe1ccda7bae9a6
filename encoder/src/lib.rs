//! 0G DA: the parts of an encoded blob, as pure computation.
//!
//! So far: how bytes become the matrix of scalars that is erasure coded and committed to, and back.

pub mod blob;
