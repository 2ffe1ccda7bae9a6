//! 0G DA: erasure coding, commitments, proofs and slices of blobs, as pure computation.
//!
//! `bytes -> `[`blob`]` -> `[`extend`]`: 3 cosets -> `[`commit`]` and `[`merkle`]` -> `[`mod@slice`]`: 3R slices`, put
//! together by [`encode`]. [`verify`] judges slices; [`recover`] gets the bytes back from any third of the rows;
//! [`check`] recomputes the network's vectors.

pub mod backends;
pub mod blob;
pub mod check;
pub mod commit;
pub mod cpu;
pub mod encode;
pub mod engine;
pub mod extend;
pub mod merkle;
mod msm;
pub mod params;
pub mod points;
pub mod recover;
pub mod seam;
pub mod slice;
pub mod verify;
