//! Memory and launches: what [`crate::pora`] needs of a place that runs kernels.
//!
//! Two places exist, a card ([`crate::Cuda`]) and the host that emulates one. Every call has finished its work when it returns,
//! launches excepted: they run in order with what follows on the same runtime, and the next read waits for them.

use zgpu_core::device::{DeviceError, DeviceInfo};

/// A kernel by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Pad seeds of consecutive nonces.
    SeedPads,
    /// Scratch pads and recall seeds from pad seeds.
    DrawPads,
    /// Qualities of the seals of loads, compared with a target.
    ScanItems,
    /// Seals in place.
    SealUnits,
}

impl Kernel {
    /// All kernels.
    pub const ALL: [Kernel; 4] = [Kernel::SeedPads, Kernel::DrawPads, Kernel::ScanItems, Kernel::SealUnits];

    /// Name in the sources.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::SeedPads => "seed_pads",
            Kernel::DrawPads => "draw_pads",
            Kernel::ScanItems => "scan_items",
            Kernel::SealUnits => "seal_units",
        }
    }

    /// The object whose image holds it.
    pub fn object(self) -> &'static str {
        match self {
            Kernel::SeedPads | Kernel::DrawPads => "draw",
            Kernel::ScanItems => "scan",
            Kernel::SealUnits => "seal",
        }
    }
}

/// Threads in a block, of every kernel; the sources' launch bounds say the same.
pub const THREADS_PER_BLOCK: u32 = 128;

/// A piece of device memory.
pub trait Memory: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> u64;
    /// True when it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Address that kernels use, a multiple of 16.
    fn address(&self) -> u64;
}

/// A place that runs kernels, with a queue of its own.
pub trait Runtime: Send + Sized {
    /// Its memory. Freed when dropped.
    type Memory: Memory;

    /// Loads that share one allocation, as a power of two: memory of many GiB is had in pieces.
    const LG_LOADS_PER_CHUNK: u32;

    /// Opens device `index`.
    fn open(index: usize) -> Result<Self, DeviceError>;
    /// Another queue on the same device, with the same memory.
    fn fork(&self) -> Result<Self, DeviceError>;
    /// What the device is.
    fn info(&self) -> &DeviceInfo;
    /// Memory that is free now, in bytes.
    fn free_bytes(&self) -> Result<u64, DeviceError>;
    /// Threads of `kernel` that the whole device runs at once.
    fn resident_threads(&self, kernel: Kernel) -> Result<u32, DeviceError>;
    /// `bytes` of memory for `what`, with unspecified content.
    fn alloc(&self, what: &'static str, bytes: u64) -> Result<Self::Memory, DeviceError>;
    /// Copies `bytes` to `memory` from byte `offset` on. The range lies inside the memory.
    fn write(&self, memory: &mut Self::Memory, offset: u64, bytes: &[u8]) -> Result<(), DeviceError>;
    /// Fills `bytes` from `memory`, from byte `offset` on, after all work queued before. The range lies inside the memory.
    fn read(&self, memory: &Self::Memory, offset: u64, bytes: &mut [u8]) -> Result<(), DeviceError>;
    /// Queues `blocks` blocks of `kernel`.
    ///
    /// # Safety
    /// `A` is the kernel's argument structure in the sources, and every address in it is valid on this device, for the whole
    /// length that the kernel reads or writes, until the next `read` or `wait` returns.
    unsafe fn launch<A: Copy + Sync>(&self, kernel: Kernel, blocks: u32, args: &A) -> Result<(), DeviceError>;
    /// Returns when all queued work is done.
    fn wait(&self) -> Result<(), DeviceError>;
}
