//! The kernels' signatures: argument structures as in `cuda/`, and one function for each kernel that proves its launch.

pub(crate) mod blob;
pub(crate) mod pora;

use zgpu_core::device::DeviceError;

use crate::runtime::{Kernel, Memory, Runtime};

/// Queues a kernel with a thread for each of `count` pieces of work.
///
/// # Safety
/// As [`Runtime::launch`].
pub(crate) unsafe fn launch_each<R: Runtime, A: Copy + Sync>(
    runtime: &R,
    kernel: Kernel,
    count: u32,
    args: &A,
) -> Result<(), DeviceError> {
    // SAFETY: the caller vouches for the arguments.
    unsafe { runtime.launch(kernel, count.div_ceil(kernel.threads_per_block()), args) }
}

/// Refuses memory that is too short for `count` pieces of `bytes`.
pub(crate) fn holds<M: Memory>(what: &'static str, memory: &M, count: u32, bytes: usize) -> Result<(), DeviceError> {
    has(what, count.into(), memory.len() / bytes as u64)
}

/// Refuses less than was expected.
pub(crate) fn has(what: &'static str, expected: u64, got: u64) -> Result<(), DeviceError> {
    if got < expected { Err(DeviceError::Shape { what, expected, got }) } else { Ok(()) }
}
