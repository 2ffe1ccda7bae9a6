//! GPU kernels in WGSL, and one safe call for each, through wgpu: Vulkan, Metal and Direct3D 12 devices.
//!
//! The crate knows shapes and hashes, not the protocol around them. [`list`] names the devices, [`PoraDevice::open`] takes
//! one of them, and its methods draw scratch pads, scan loads against them, and seal data. The shaders in `wgsl/` have one
//! folder per object. They use neither 64-bit integers nor subgroups, so every device that can compute gives the same bytes.

mod adapter;
mod device;
mod memory;
mod pora;
mod program;
mod seal;
mod tuning;

pub use adapter::list;
pub use memory::{Loads, Pads};
pub use pora::PoraDevice;
pub use tuning::Tuning;
