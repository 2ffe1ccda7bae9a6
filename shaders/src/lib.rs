//! GPU kernels in WGSL, and one safe call for each, through wgpu: Vulkan, Metal and Direct3D 12 devices.
//!
//! The crate knows shapes, hashes and points, not the protocol around them. [`list`] names the devices. [`PoraDevice::open`]
//! takes one of them, and its methods draw scratch pads, scan loads against them, and seal data; [`BlobDevice::open`] takes
//! one to encode blobs, from bytes to slices. The shaders in `wgsl/` have one folder per object. They use neither 64-bit
//! integers nor subgroups, so every device that can compute gives the same bytes.

mod adapter;
mod blob;
mod commit;
mod device;
#[cfg(test)]
mod field;
mod memory;
mod plan;
mod pora;
mod program;
mod seal;
mod tuning;

// What the tests share names this crate as those outside of it do.
#[cfg(test)]
extern crate self as zgpu_shaders;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

pub use adapter::list;
pub use blob::{Blob, BlobDevice, BlobTuning};
pub use memory::{Loads, Pads};
pub use pora::PoraDevice;
pub use tuning::Tuning;
