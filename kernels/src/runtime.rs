//! Memory and launches: what [`crate::pora`] and [`crate::blob`] need of a place that runs kernels.
//!
//! Two places exist, a card ([`crate::Cuda`]) and the host that emulates one. Every call has finished its work when it returns,
//! launches excepted: they run in order with what follows on the same runtime, and the next read waits for them.

use zgpu_core::device::{DeviceError, DeviceInfo};

/// Declares every kernel once: its name here and in the sources, the object whose image holds it, the threads of a block.
macro_rules! kernels {
    ($($(#[doc = $doc:literal])* $kernel:ident = $object:literal $name:literal by $threads:literal,)*) => {
        /// A kernel by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kernel {
            $($(#[doc = $doc])* $kernel,)*
        }

        impl Kernel {
            /// All kernels, those of one object side by side.
            pub const ALL: &[Kernel] = &[$(Kernel::$kernel),*];

            /// Name in the sources.
            pub fn name(self) -> &'static str {
                match self { $(Kernel::$kernel => $name,)* }
            }

            /// The object whose image holds it.
            pub fn object(self) -> &'static str {
                match self { $(Kernel::$kernel => $object,)* }
            }

            /// Threads in a block; the source's launch bounds say the same.
            pub fn threads_per_block(self) -> u32 {
                match self { $(Kernel::$kernel => $threads,)* }
            }
        }
    };
}

kernels! {
    /// Pad seeds of consecutive nonces.
    SeedPads = "draw" "seed_pads" by 128,
    /// Scratch pads and recall seeds from pad seeds.
    DrawPads = "draw" "draw_pads" by 128,
    /// Qualities of the seals of loads, compared with a target.
    ScanItems = "scan" "scan_items" by 128,
    /// Seals in place.
    SealUnits = "seal" "seal_units" by 128,
    /// Powers of a root of unity.
    BuildTwiddles = "ntt" "build_twiddles" by 128,
    /// Field elements from 31-byte scalars.
    UnpackScalars = "ntt" "unpack_scalars" by 128,
    /// 32-byte scalars from field elements.
    ReadElements = "ntt" "read_elements" by 128,
    /// A few levels of an NTT.
    NttPass = "ntt" "ntt_pass" by 256,
    /// Digests of sectors of 8 scalars.
    HashSectors = "merkle" "hash_sectors" by 128,
    /// Digests of pairs of digests.
    HashParents = "merkle" "hash_parents" by 128,
    /// Slices from rows, points and digests.
    WriteSlices = "slice" "write_slices" by 256,
    /// Multiples of bases from the multiples before.
    ExtendTable = "table" "extend_table" by 128,
    /// Affine form of multiples.
    NormaliseTable = "table" "normalise_table" by 128,
    /// Digits of scalars, sorted by bucket.
    SortDigits = "sort" "sort_digits" by 256,
    /// Sums of the entries of buckets.
    AccumulateBuckets = "bucket" "accumulate_buckets" by 128,
    /// Buckets that several threads have summed.
    MergeTasks = "bucket" "merge_tasks" by 128,
    /// Weighted sums of neighbouring buckets.
    ReduceSegments = "bucket" "reduce_segments" by 128,
    /// Sums of points by lists.
    SumPoints = "combine" "sum_points" by 128,
    /// Scalars as digits of two halves.
    SplitScalars = "combine" "split_scalars" by 128,
    /// Products of points and scalars.
    MultiplyPoints = "combine" "multiply_points" by 128,
    /// Affine form of points.
    NormalisePoints = "combine" "normalise_points" by 128,
}

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
    /// Memory of the host that the device copies from and to at full speed. Freed when dropped.
    type Staging: Send + AsRef<[u8]> + AsMut<[u8]>;

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
    /// `bytes` of staging memory for `what`, zeros.
    fn alloc_staging(&self, what: &'static str, bytes: u64) -> Result<Self::Staging, DeviceError>;
    /// Copies the first `bytes` of `staging` to the start of `memory`. Both have so many.
    fn upload(&self, memory: &mut Self::Memory, staging: &Self::Staging, bytes: u64) -> Result<(), DeviceError>;
    /// Copies the first `bytes` of `memory` to the start of `staging`, after all work queued before. Both have so many.
    fn download(&self, memory: &Self::Memory, staging: &mut Self::Staging, bytes: u64) -> Result<(), DeviceError>;
    /// Queues `blocks` blocks of `kernel`, of [`Kernel::threads_per_block`] threads each.
    ///
    /// # Safety
    /// `A` is the kernel's argument structure in the sources, and every address in it is valid on this device, for the whole
    /// length that the kernel reads or writes, until the next `read` or `wait` returns.
    unsafe fn launch<A: Copy + Sync>(&self, kernel: Kernel, blocks: u32, args: &A) -> Result<(), DeviceError>;
    /// Returns when all queued work is done.
    fn wait(&self) -> Result<(), DeviceError>;
}
