//! The CUDA kernels run by the host: the same sources, compiled as C++, behind the same calls.
//!
//! For tests on machines without a card. Slow, and never listed.

use std::cell::UnsafeCell;
use std::ffi::{CString, c_char, c_void};
use std::sync::Arc;

use zgpu_core::device::{BackendKind, DeviceError, DeviceInfo};

use crate::runtime::{Kernel, Memory, Runtime};
use crate::{blob, pora};

/// The host, in place of a card that draws, scans and seals.
pub type PoraDevice = pora::Device<Host>;
/// Scratch pads of a [`PoraDevice`].
pub type Pads = pora::Pads<Host>;
/// Sealed loads of a [`PoraDevice`].
pub type Loads = pora::Loads<Host>;
/// The host, in place of a card that encodes blobs.
pub type BlobDevice = blob::Device<Host>;
/// A blob of a [`BlobDevice`].
pub type Blob = blob::Blob<Host>;

unsafe extern "C" {
    /// Runs blocks `first .. first + count` of a grid of `blocks`; false when no kernel has the name.
    fn zgpu_emulate(
        name: *const c_char,
        args: *const c_void,
        first: u32,
        count: u32,
        blocks: u32,
        threads: u32,
    ) -> bool;
}

unsafe extern "C" {
    /// One operation of `cuda/field/field.cuh`; false when there is none of this name.
    fn zgpu_emulate_field(
        field: *const c_char,
        operation: *const c_char,
        a: *const [u32; 8],
        b: *const [u32; 8],
        result: *mut [u32; 8],
    ) -> bool;
}

/// A field of `cuda/field/field.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Coordinates of points.
    Fq,
    /// Scalars.
    Fr,
}

impl Field {
    /// What the kernels' function `operation` gives for `a`, or for `a` and `b`: limbs, the lowest first. Predicates give one
    /// or zero. `None` when there is no such operation.
    pub fn call(self, operation: &str, a: [u32; 8], b: [u32; 8]) -> Option<[u32; 8]> {
        let field = match self {
            Field::Fq => c"Fq",
            Field::Fr => c"Fr",
        };
        let operation = CString::new(operation).ok()?;
        let mut result = [0; 8];
        // SAFETY: the texts end with a zero byte, and all pointers are to eight words each.
        let known = unsafe { zgpu_emulate_field(field.as_ptr(), operation.as_ptr(), &a, &b, &mut result) };
        known.then_some(result)
    }
}

/// What one allocation may take, and what is said to be free: tests need no more.
const MEMORY_BYTES: u64 = 1 << 30;

/// The host as a place that runs kernels.
pub struct Host {
    info: Arc<DeviceInfo>,
}

/// Sixteen bytes, the alignment that kernels count on.
#[repr(C, align(16))]
struct Line(UnsafeCell<[u8; 16]>);

/// Host memory that kernels write through its address.
pub struct HostMemory {
    lines: Box<[Line]>,
    len: u64,
}

// SAFETY: the bytes are plain data. They are only touched by `write` (which has the memory mutably), by `read`, and by kernels,
// whose launches borrow what they write mutably and have finished when the launch returns.
unsafe impl Sync for HostMemory {}

impl Memory for HostMemory {
    fn len(&self) -> u64 {
        self.len
    }

    fn address(&self) -> u64 {
        self.lines.as_ptr().expose_provenance() as u64
    }
}

impl Runtime for Host {
    type Memory = HostMemory;
    type Staging = Vec<u8>;

    /// Small, so that tests cross the border between two chunks.
    const LG_LOADS_PER_CHUNK: u32 = 1;

    fn open(index: usize) -> Result<Self, DeviceError> {
        if index != 0 {
            return Err(DeviceError::Unusable {
                backend: BackendKind::Cuda,
                index,
                reason: "the host emulates one card".into(),
                remedy: "ask for index 0".into(),
            });
        }
        let compute_units = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        Ok(Self {
            info: Arc::new(DeviceInfo {
                backend: BackendKind::Cuda,
                index,
                name: "host emulation of CUDA kernels".into(),
                driver: "none".into(),
                level: "host C++".into(),
                memory_bytes: MEMORY_BYTES,
                compute_units,
                software: true,
            }),
        })
    }

    fn fork(&self) -> Result<Self, DeviceError> {
        Ok(Self { info: Arc::clone(&self.info) })
    }

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_bytes(&self) -> Result<u64, DeviceError> {
        Ok(MEMORY_BYTES)
    }

    fn resident_threads(&self, _kernel: Kernel) -> Result<u32, DeviceError> {
        Ok(self.info.compute_units * 32)
    }

    fn alloc(&self, what: &'static str, bytes: u64) -> Result<HostMemory, DeviceError> {
        if bytes > MEMORY_BYTES {
            let device = self.info.name.clone();
            return Err(DeviceError::OutOfMemory { device, what, wanted: bytes, available: MEMORY_BYTES });
        }
        let lines = bytes.div_ceil(16);
        Ok(HostMemory { lines: (0..lines).map(|_| Line(UnsafeCell::new([0; 16]))).collect(), len: bytes })
    }

    fn write(&self, memory: &mut HostMemory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError> {
        assert!(offset + bytes.len() as u64 <= memory.len, "the range lies inside the memory");
        // SAFETY: the range lies inside the lines, which are contiguous plain bytes and borrowed mutably.
        unsafe {
            let start = memory.lines.as_mut_ptr().cast::<u8>().add(offset as usize);
            start.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
        Ok(())
    }

    fn read(&self, memory: &HostMemory, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError> {
        assert!(offset + bytes.len() as u64 <= memory.len, "the range lies inside the memory");
        // SAFETY: the range lies inside the lines, which are contiguous plain bytes; no kernel is running on memory that is
        // borrowed here.
        unsafe {
            let start = memory.lines.as_ptr().cast::<u8>().add(offset as usize);
            bytes.as_mut_ptr().copy_from_nonoverlapping(start, bytes.len());
        }
        Ok(())
    }

    fn alloc_staging(&self, _what: &'static str, bytes: u64) -> Result<Vec<u8>, DeviceError> {
        Ok(vec![0; bytes as usize])
    }

    fn upload(&self, memory: &mut HostMemory, staging: &Vec<u8>, bytes: u64) -> Result<(), DeviceError> {
        self.write(memory, 0, &staging[..bytes as usize])
    }

    fn download(&self, memory: &HostMemory, staging: &mut Vec<u8>, bytes: u64) -> Result<(), DeviceError> {
        self.read(memory, 0, &mut staging[..bytes as usize])
    }

    unsafe fn launch<A: Copy + Sync>(&self, kernel: Kernel, blocks: u32, args: &A) -> Result<(), DeviceError> {
        let name = CString::new(kernel.name()).expect("no zero byte in a kernel's name");
        let name = name.as_c_str();
        let share = blocks.div_ceil(self.info.compute_units).max(1);
        std::thread::scope(|scope| {
            for first in (0..blocks).step_by(share as usize) {
                scope.spawn(move || {
                    let count = share.min(blocks - first);
                    let args = (&raw const *args).cast();
                    // SAFETY: the caller vouches for the arguments; each block runs once, and blocks share only what kernels
                    // update atomically.
                    let known =
                        unsafe { zgpu_emulate(name.as_ptr(), args, first, count, blocks, kernel.threads_per_block()) };
                    assert!(known, "emulate.cpp lists {}", kernel.name());
                });
            }
        });
        Ok(())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
