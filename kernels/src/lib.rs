//! CUDA kernels, and one safe call for each.
//!
//! The kernels (`cuda/`, one folder per object) are compiled by `build.rs` and embedded. [`PoraDevice`] and [`BlobDevice`] run
//! them on a card through the driver alone: libcuda is loaded at run time, and a machine without it gets a reason instead of
//! a failure. With the feature `emulate` the same sources also run as host code, behind the same calls: `emulated::PoraDevice`,
//! `emulated::BlobDevice`.
//!
//! Layers: `cuda/` device code; [`runtime`] memory and launches; `launch` and `commit` the kernels' signatures, the only
//! callers of a launch; [`pora`] and [`blob`] shapes, batches and tiles. This crate knows shapes, not protocols.

pub mod blob;
pub mod commit;
mod cuda;
#[cfg(feature = "emulate")]
pub mod emulated;
pub mod images;
mod launch;
pub mod pora;
pub mod runtime;

pub use cuda::{Cuda, list};

/// An NVIDIA card that draws, scans and seals.
pub type PoraDevice = pora::Device<Cuda>;
/// Scratch pads in the memory of a [`PoraDevice`].
pub type Pads = pora::Pads<Cuda>;
/// Sealed loads in the memory of a [`PoraDevice`].
pub type Loads = pora::Loads<Cuda>;
/// An NVIDIA card that encodes blobs.
pub type BlobDevice = blob::Device<Cuda>;
/// A blob in the memory of a [`BlobDevice`].
pub type Blob = blob::Blob<Cuda>;
