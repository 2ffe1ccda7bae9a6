//! The kernels that draw, scan and seal.

use zgpu_core::device::DeviceError;
use zgpu_core::units::{BYTES_PER_LOAD, BYTES_PER_PAD, BYTES_PER_SEAL, SEALS_PER_LOAD};

use super::{has, holds, launch_each};
use crate::runtime::{Kernel, Memory, Runtime};

/// Bytes of a pad seed.
pub(crate) const BYTES_PER_PAD_SEED: usize = 64;
/// Bytes of a recall seed, a mask, a target or a quality.
pub(crate) const BYTES_PER_DIGEST: usize = 32;
/// Bytes of an item as `scan_items` reads it: pad slot, load slot (u32), available seals (u64), all little-endian.
pub(crate) const BYTES_PER_ITEM: usize = 16;
/// Bytes of a hit as `scan_items` writes it: item, seal (u32, little-endian), 32 bytes of quality.
pub(crate) const BYTES_PER_HIT: usize = 40;

/// `DrawArgs` of `cuda/pora/draw.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct DrawArgs {
    message: [u64; 16],
    nonce_low: u64,
    pads: u64,
    pad_seeds: u64,
    recall_seeds: u64,
    count: u32,
    unused: u32,
}

/// `ScanArgs` of `cuda/pora/scan.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ScanArgs {
    pads: u64,
    pad_seeds: u64,
    chunks: u64,
    items: u64,
    hits: u64,
    hit_count: u64,
    target: [u32; 8],
    item_count: u32,
    hit_capacity: u32,
    lg_loads_per_chunk: u32,
    unused: u32,
}

/// `SealArgs` of `cuda/seal/seal.cu`.
#[repr(C)]
#[derive(Clone, Copy)]
struct SealArgs {
    data: u64,
    masks: u64,
    count: u32,
    unused: u32,
}

/// Memory that a draw fills: pads of 16 KiB, pad seeds of 64 bytes, recall seeds of 32 bytes, each from slot 0 on.
pub(crate) struct DrawMemory<M> {
    pub(crate) pads: M,
    pub(crate) pad_seeds: M,
    pub(crate) recall_seeds: M,
}

/// Queues the draw of `count` nonces. `message` is what BLAKE2b hashes for the first one; its bytes 56 to 63, the end of the
/// nonce, count up as a big-endian integer.
pub(crate) fn draw<R: Runtime>(
    runtime: &R,
    message: &[u8; 128],
    count: u32,
    memory: &mut DrawMemory<R::Memory>,
) -> Result<(), DeviceError> {
    holds("pads in memory", &memory.pads, count, BYTES_PER_PAD)?;
    holds("pad seeds in memory", &memory.pad_seeds, count, BYTES_PER_PAD_SEED)?;
    holds("recall seeds in memory", &memory.recall_seeds, count, BYTES_PER_DIGEST)?;
    let (words, _) = message.as_chunks::<8>();
    let args = DrawArgs {
        message: std::array::from_fn(|i| u64::from_le_bytes(words[i])),
        nonce_low: u64::from_be_bytes(words[7]),
        pads: memory.pads.address(),
        pad_seeds: memory.pad_seeds.address(),
        recall_seeds: memory.recall_seeds.address(),
        count,
        unused: 0,
    };
    for kernel in [Kernel::SeedPads, Kernel::DrawPads] {
        // SAFETY: both kernels take DrawArgs; thread i < count touches slot i of the three arrays, which hold `count` slots
        // (checked above) and are borrowed mutably here; the caller keeps them until its next read.
        unsafe { launch_each(runtime, kernel, count, &args)? };
    }
    Ok(())
}

/// What a scan reads and where it writes.
pub(crate) struct ScanMemory<'a, R: Runtime> {
    /// Pads and pad seeds of a finished draw of `drawn` nonces.
    pub(crate) draw: &'a DrawMemory<R::Memory>,
    pub(crate) drawn: u32,
    /// Chunks that hold so many loads together, cut as [`chunk_slots`] says, and the table of their addresses.
    pub(crate) load_slots: u32,
    pub(crate) chunks: &'a [R::Memory],
    pub(crate) chunk_table: &'a R::Memory,
    /// Items, encoded. The caller has checked that pad slots are below `drawn` and load slots below `load_slots`.
    pub(crate) items: &'a R::Memory,
    /// Room for hits, and the counter.
    pub(crate) hits: &'a mut R::Memory,
    pub(crate) hit_count: &'a mut R::Memory,
}

/// Queues the scan of items `first .. first + count`; hits count their item from `first`.
///
/// # Safety
/// The items in memory are checked as [`ScanMemory::items`] says, and the table holds the chunks' addresses.
pub(crate) unsafe fn scan<R: Runtime>(
    runtime: &R,
    target: &[u8; 32],
    first: u32,
    count: u32,
    memory: &mut ScanMemory<'_, R>,
) -> Result<(), DeviceError> {
    holds("pads in memory", &memory.draw.pads, memory.drawn, BYTES_PER_PAD)?;
    holds("pad seeds in memory", &memory.draw.pad_seeds, memory.drawn, BYTES_PER_PAD_SEED)?;
    holds("items in memory", memory.items, first.saturating_add(count), BYTES_PER_ITEM)?;
    holds("hit counters in memory", memory.hit_count, 1, size_of::<u32>())?;
    for (place, slots) in chunk_slots::<R>(memory.load_slots).enumerate() {
        let bytes = memory.chunks.get(place).map_or(0, Memory::len);
        has("loads in a chunk", slots, bytes / BYTES_PER_LOAD as u64)?;
    }
    let (words, _) = target.as_chunks::<4>();
    let hit_capacity = memory.hits.len() / BYTES_PER_HIT as u64;
    let args = ScanArgs {
        pads: memory.draw.pads.address(),
        pad_seeds: memory.draw.pad_seeds.address(),
        chunks: memory.chunk_table.address(),
        items: memory.items.address() + u64::from(first) * BYTES_PER_ITEM as u64,
        hits: memory.hits.address(),
        hit_count: memory.hit_count.address(),
        target: std::array::from_fn(|i| u32::from_be_bytes(words[i])),
        item_count: count,
        hit_capacity: u32::try_from(hit_capacity).unwrap_or(u32::MAX),
        lg_loads_per_chunk: R::LG_LOADS_PER_CHUNK,
        unused: 0,
    };
    let items_per_block = Kernel::ScanItems.threads_per_block() / SEALS_PER_LOAD as u32;
    // SAFETY: scan_items takes ScanArgs. It reads items first .. first + count (checked), the pads and loads that they name
    // (checked by the caller), and writes at most hit_capacity hits and one counter, both borrowed mutably here.
    unsafe { runtime.launch(Kernel::ScanItems, count.div_ceil(items_per_block), &args) }
}

/// Queues the sealing of `count` seals in place; `masks` holds the first mask of each.
pub(crate) fn seal<R: Runtime>(
    runtime: &R,
    count: u32,
    data: &mut R::Memory,
    masks: &R::Memory,
) -> Result<(), DeviceError> {
    holds("seals in memory", data, count, BYTES_PER_SEAL)?;
    holds("masks in memory", masks, count, BYTES_PER_DIGEST)?;
    let args = SealArgs { data: data.address(), masks: masks.address(), count, unused: 0 };
    // SAFETY: seal_units takes SealArgs; thread i < count reads mask i and rewrites seal i, both inside their memory (checked
    // above); the data is borrowed mutably, and the caller keeps both until its next read.
    unsafe { launch_each(runtime, Kernel::SealUnits, count, &args) }
}

/// Loads in each chunk of memory for `slots` loads: all chunks are full but the last.
pub(crate) fn chunk_slots<R: Runtime>(slots: u32) -> impl Iterator<Item = u64> {
    let per_chunk = 1u64 << R::LG_LOADS_PER_CHUNK;
    (0..u64::from(slots))
        .step_by(1 << R::LG_LOADS_PER_CHUNK)
        .map(move |first| (u64::from(slots) - first).min(per_chunk))
}
