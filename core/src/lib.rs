//! Facts and small shared parts of zgpu: units, hashes, merkle trees, device descriptions, shapes of work, reports of checks.
//!
//! Everything else may use this crate; it uses none of the others.

pub mod blob;
pub mod check;
pub mod device;
pub mod digest;
pub mod file;
pub mod flow;
pub mod host;
pub mod shard;
pub mod tree;
pub mod units;
pub mod work;

pub use digest::H256;
