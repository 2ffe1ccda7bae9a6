//! The CUDA kernels run by the host: the same sources, compiled as C++, behind the same calls.
//!
//! For tests on machines without a card. Slow, and never listed.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::Arc;

use zgpu_core::device::{BackendKind, DeviceError, DeviceInfo};

use crate::pora;
use crate::runtime::{Kernel, Memory, Runtime, THREADS_PER_BLOCK};

/// The host, in place of a card that draws, scans and seals.
pub type PoraDevice = pora::Device<Host>;
/// Scratch pads of a [`PoraDevice`].
pub type Pads = pora::Pads<Host>;
/// Sealed loads of a [`PoraDevice`].
pub type Loads = pora::Loads<Host>;

unsafe extern "C" {
    fn zgpu_emulate_seed_pads(args: *const c_void, first: u32, count: u32, threads: u32);
    fn zgpu_emulate_draw_pads(args: *const c_void, first: u32, count: u32, threads: u32);
    fn zgpu_emulate_scan_items(args: *const c_void, first: u32, count: u32, threads: u32);
    fn zgpu_emulate_seal_units(args: *const c_void, first: u32, count: u32, threads: u32);
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

    unsafe fn launch<A: Copy + Sync>(&self, kernel: Kernel, blocks: u32, args: &A) -> Result<(), DeviceError> {
        let run = match kernel {
            Kernel::SeedPads => zgpu_emulate_seed_pads,
            Kernel::DrawPads => zgpu_emulate_draw_pads,
            Kernel::ScanItems => zgpu_emulate_scan_items,
            Kernel::SealUnits => zgpu_emulate_seal_units,
        };
        let share = blocks.div_ceil(self.info.compute_units).max(1);
        std::thread::scope(|scope| {
            for first in (0..blocks).step_by(share as usize) {
                scope.spawn(move || {
                    // SAFETY: the caller vouches for the arguments; each block runs once, and blocks share only what kernels
                    // update atomically.
                    unsafe { run((&raw const *args).cast(), first, share.min(blocks - first), THREADS_PER_BLOCK) }
                });
            }
        });
        Ok(())
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
