//! Drawing, scanning and sealing on one device: shapes are checked here, big work is cut into pieces that fit.
//!
//! A call returns when its results are on the host. Two lanes of a card ([`Device::lane`]) used from two threads overlap:
//! one draws while the other scans, copies or is busy on the host.

use std::sync::Arc;

use zgpu_core::device::{DeviceError, DeviceInfo};
use zgpu_core::units::{BYTES_PER_LOAD, BYTES_PER_PAD, BYTES_PER_SEAL, SEALS_PER_LOAD};
use zgpu_core::work::{DrawJob, ScanHit, ScanItem};

use crate::launch::pora::{
    self as launch, BYTES_PER_DIGEST, BYTES_PER_HIT, BYTES_PER_ITEM, BYTES_PER_PAD_SEED, DrawMemory, ScanMemory,
};
use crate::runtime::{Kernel, Memory, Runtime};

/// Items that one launch scans at most; more are scanned piece by piece. 16 MiB of device memory.
const ITEMS_PER_LAUNCH: usize = 1 << 20;
/// Hits that one launch keeps; a launch with more is split and run again. 640 KiB of device memory.
const HITS_PER_LAUNCH: usize = 1 << 14;
/// Seals in a tile: 256 MiB of device memory at most, enough threads for any card.
const SEALS_PER_TILE: usize = 1 << 16;
/// Part of the device's free memory that a batch of pads may take, as a divisor.
const BATCH_SHARE: u64 = 8;
/// How often a batch fills the device: the second filling hides the end of the first.
const FILLINGS_PER_BATCH: u32 = 2;

const _: () = assert!(HITS_PER_LAUNCH >= SEALS_PER_LOAD, "a launch of one item cannot overflow");

/// A device that draws, scans and seals, or one lane of it.
pub struct Device<R: Runtime> {
    runtime: R,
    scratch: Option<ScanScratch<R::Memory>>,
    tile: Option<Tile<R::Memory>>,
    bytes: Vec<u8>,
}

/// Memory that a lane's scans use again and again.
struct ScanScratch<M> {
    items: M,
    hits: M,
    hit_count: M,
}

/// Memory that a lane's sealing uses again and again.
struct Tile<M> {
    seals: usize,
    data: M,
    masks: M,
}

/// Scratch pads with their pad seeds, in device memory.
pub struct Pads<R: Runtime> {
    device: usize,
    capacity: u32,
    drawn: u32,
    memory: DrawMemory<R::Memory>,
}

impl<R: Runtime> Pads<R> {
    /// Pads that fit.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Pads of the last draw; a scan may name these slots.
    pub fn drawn(&self) -> u32 {
        self.drawn
    }
}

/// Loads in device memory, shared by clones. Slots that were never uploaded hold unspecified bytes.
pub struct Loads<R: Runtime> {
    shared: Arc<LoadMemory<R>>,
}

struct LoadMemory<R: Runtime> {
    device: usize,
    slots: u32,
    chunks: Vec<R::Memory>,
    table: R::Memory,
}

impl<R: Runtime> Clone for Loads<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<R: Runtime> Loads<R> {
    /// Loads that fit.
    pub fn slots(&self) -> u32 {
        self.shared.slots
    }
}

impl<R: Runtime> Device<R> {
    /// Opens device `index`, as numbered by the listing. Errors: `Unusable` with what to do about it.
    pub fn open(index: usize) -> Result<Self, DeviceError> {
        Ok(Self::new(R::open(index)?))
    }

    /// The same card with a queue of its own. Pads and loads can be used on every lane of their card.
    pub fn lane(&self) -> Result<Self, DeviceError> {
        Ok(Self::new(self.runtime.fork()?))
    }

    fn new(runtime: R) -> Self {
        Self { runtime, scratch: None, tile: None, bytes: Vec::new() }
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        self.runtime.info()
    }

    /// Nonces a draw should have: they fill the card twice, within an eighth of the memory that is free now.
    pub fn preferred_batch(&self) -> u32 {
        let filling = self.runtime.resident_threads(Kernel::DrawPads).unwrap_or(0).max(1);
        let fits = self.runtime.free_bytes().unwrap_or(0) / BATCH_SHARE / BYTES_PER_PAD as u64;
        let fits = u32::try_from(fits).unwrap_or(u32::MAX);
        // Whole fillings where they fit: a part of one costs as much time as all of it.
        let fillings = (fits / filling).min(FILLINGS_PER_BATCH);
        if fillings > 0 { filling * fillings } else { fits.max(1) }
    }

    /// Memory for `capacity` pads: 16 KiB of pad, 64 bytes of pad seed and 32 of recall seed each.
    pub fn alloc_pads(&mut self, capacity: u32) -> Result<Pads<R>, DeviceError> {
        let alloc = |what, bytes: usize| self.runtime.alloc(what, u64::from(capacity) * bytes as u64);
        Ok(Pads {
            device: self.info().index,
            capacity,
            drawn: 0,
            memory: DrawMemory {
                pads: alloc("scratch pads", BYTES_PER_PAD)?,
                pad_seeds: alloc("pad seeds", BYTES_PER_PAD_SEED)?,
                recall_seeds: alloc("recall seeds", BYTES_PER_DIGEST)?,
            },
        })
    }

    /// Builds the pads of a job's nonces, nonce `i` in slot `i`, and puts their recall seeds, 32 bytes as keccak256 gives them,
    /// in place of what `recall_seeds` held. Errors: `Shape` when the job has more nonces than the pads have room for.
    pub fn draw(
        &mut self,
        job: &DrawJob,
        pads: &mut Pads<R>,
        recall_seeds: &mut Vec<[u8; 32]>,
    ) -> Result<(), DeviceError> {
        self.same_device("device of the pads", pads.device)?;
        at_most("nonces of a draw", u64::from(pads.capacity), u64::from(job.count))?;
        recall_seeds.clear();
        pads.drawn = 0;
        if job.count == 0 {
            return Ok(());
        }
        let mut message = [0u8; 128];
        let parts = [&job.miner_id, &job.nonce_base, &job.subtask_digest, &job.range_digest];
        for (place, part) in message.chunks_exact_mut(BYTES_PER_DIGEST).zip(parts) {
            place.copy_from_slice(part);
        }
        launch::draw(&self.runtime, &message, job.count, &mut pads.memory)?;
        recall_seeds.resize(job.count as usize, [0; 32]);
        self.runtime.read(&pads.memory.recall_seeds, 0, recall_seeds.as_flattened_mut())?;
        pads.drawn = job.count;
        Ok(())
    }

    /// Memory for `capacity` loads of 256 KiB, in several allocations.
    pub fn alloc_loads(&mut self, capacity: u32) -> Result<Loads<R>, DeviceError> {
        let (wanted, available) = (u64::from(capacity) * BYTES_PER_LOAD as u64, self.runtime.free_bytes()?);
        if wanted > available {
            return Err(DeviceError::OutOfMemory {
                device: self.info().name.clone(),
                what: "loads",
                wanted,
                available,
            });
        }
        let chunks: Vec<R::Memory> = launch::chunk_slots::<R>(capacity)
            .map(|slots| self.runtime.alloc("loads", slots * BYTES_PER_LOAD as u64))
            .collect::<Result<_, _>>()?;
        let addresses: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.address().to_le_bytes()).collect();
        let mut table = self.runtime.alloc("table of loads", addresses.len() as u64)?;
        self.runtime.write(&mut table, 0, &addresses)?;
        let memory = LoadMemory { device: self.info().index, slots: capacity, chunks, table };
        Ok(Loads { shared: Arc::new(memory) })
    }

    /// Copies whole loads, `bytes.len()` a multiple of 256 KiB, to the slots from `first_slot` on.
    /// Errors: `Shape` when the length is no multiple, when slots are missing, or when clones of `loads` exist, since a scan
    /// could be reading them.
    pub fn upload_loads(&mut self, loads: &mut Loads<R>, first_slot: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.same_device("device of the loads", loads.shared.device)?;
        whole("bytes of loads", bytes.len(), BYTES_PER_LOAD)?;
        let end = u64::from(first_slot) + (bytes.len() / BYTES_PER_LOAD) as u64;
        at_most("end of the uploaded slots", u64::from(loads.shared.slots), end)?;
        let owners = Arc::strong_count(&loads.shared) as u64;
        let memory = Arc::get_mut(&mut loads.shared).ok_or(DeviceError::Shape {
            what: "owners of the loads to upload to",
            expected: 1,
            got: owners,
        })?;
        let slots_per_chunk = 1u64 << R::LG_LOADS_PER_CHUNK;
        let mut slot = u64::from(first_slot);
        let mut rest = bytes;
        while !rest.is_empty() {
            let (chunk, within) = (slot / slots_per_chunk, slot % slots_per_chunk);
            let room = (slots_per_chunk - within) as usize * BYTES_PER_LOAD;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.runtime.write(&mut memory.chunks[chunk as usize], within * BYTES_PER_LOAD as u64, now)?;
            slot += slots_per_chunk - within;
            rest = later;
        }
        Ok(())
    }

    /// Hashes the available seals of each item's load with its pad. What `hits` held is replaced by the seals with
    /// quality <= `target` (both 32 bytes, big-endian), sorted by item and seal.
    /// Errors: `Shape` when an item names a pad that the last draw did not make, or a slot that the loads do not have.
    pub fn scan(
        &mut self,
        pads: &Pads<R>,
        loads: &Loads<R>,
        items: &[ScanItem],
        target: &[u8; 32],
        hits: &mut Vec<ScanHit>,
    ) -> Result<(), DeviceError> {
        self.same_device("device of the pads", pads.device)?;
        self.same_device("device of the loads", loads.shared.device)?;
        at_most("items of a scan", u64::from(u32::MAX), items.len() as u64)?;
        hits.clear();
        for item in items {
            below("pad slot of an item", pads.drawn, item.pad_slot)?;
            below("load slot of an item", loads.shared.slots, item.load_slot)?;
        }
        if items.is_empty() {
            return Ok(());
        }
        let scratch = match &mut self.scratch {
            Some(scratch) => scratch,
            empty => empty.insert(ScanScratch {
                items: self.runtime.alloc("items of a scan", (ITEMS_PER_LAUNCH * BYTES_PER_ITEM) as u64)?,
                hits: self.runtime.alloc("hits of a scan", (HITS_PER_LAUNCH * BYTES_PER_HIT) as u64)?,
                hit_count: self.runtime.alloc("hits of a scan", size_of::<u32>() as u64)?,
            }),
        };
        for (piece, first_item) in items.chunks(ITEMS_PER_LAUNCH).zip((0u32..).step_by(ITEMS_PER_LAUNCH)) {
            self.bytes.clear();
            for item in piece {
                self.bytes.extend_from_slice(&item.pad_slot.to_le_bytes());
                self.bytes.extend_from_slice(&item.load_slot.to_le_bytes());
                self.bytes.extend_from_slice(&item.available.to_le_bytes());
            }
            self.runtime.write(&mut scratch.items, 0, &self.bytes)?;

            // Ranges still to scan, the next one last. A range with more hits than there is room for comes back as its halves.
            let mut ranges = vec![(0, piece.len() as u32)];
            while let Some((first, count)) = ranges.pop() {
                self.runtime.write(&mut scratch.hit_count, 0, &0u32.to_le_bytes())?;
                let mut memory = ScanMemory::<R> {
                    draw: &pads.memory,
                    drawn: pads.drawn,
                    load_slots: loads.shared.slots,
                    chunks: &loads.shared.chunks,
                    chunk_table: &loads.shared.table,
                    items: &scratch.items,
                    hits: &mut scratch.hits,
                    hit_count: &mut scratch.hit_count,
                };
                // SAFETY: every pad slot and load slot was checked above, the items are written from the same slice, and the
                // table was written from the chunks' addresses when they were allocated.
                unsafe { launch::scan(&self.runtime, target, first, count, &mut memory)? };
                let mut found = [0; 4];
                self.runtime.read(&scratch.hit_count, 0, &mut found)?;
                let found = u32::from_le_bytes(found) as usize;
                if found > HITS_PER_LAUNCH {
                    ranges.extend([(first + count / 2, count - count / 2), (first, count / 2)]);
                    continue;
                }
                self.bytes.resize(found * BYTES_PER_HIT, 0);
                self.runtime.read(&scratch.hits, 0, &mut self.bytes)?;
                let (found, _) = self.bytes.as_chunks::<BYTES_PER_HIT>();
                hits.extend(found.iter().map(|bytes| decode_hit(bytes, first_item + first)));
            }
        }
        hits.sort_unstable();
        Ok(())
    }

    /// Seals `data`, n x 4 KiB, in place; `first_masks` has the first mask of each seal. n may be 0, or more than memory holds.
    /// Errors: `Shape` when the length does not fit the number of masks.
    pub fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        let expected = first_masks.len() as u64 * BYTES_PER_SEAL as u64;
        if data.len() as u64 != expected {
            return Err(DeviceError::Shape { what: "bytes to seal", expected, got: data.len() as u64 });
        }
        let tile_seals = first_masks.len().min(SEALS_PER_TILE);
        let tile = match &mut self.tile {
            Some(tile) if tile.seals >= tile_seals => tile,
            other => {
                *other = None;
                let alloc = |what, bytes| self.runtime.alloc(what, (tile_seals * bytes) as u64);
                other.insert(Tile {
                    seals: tile_seals,
                    data: alloc("seals", BYTES_PER_SEAL)?,
                    masks: alloc("masks", BYTES_PER_DIGEST)?,
                })
            }
        };
        for (masks, data) in first_masks.chunks(SEALS_PER_TILE).zip(data.chunks_mut(SEALS_PER_TILE * BYTES_PER_SEAL)) {
            self.runtime.write(&mut tile.masks, 0, masks.as_flattened())?;
            self.runtime.write(&mut tile.data, 0, data)?;
            launch::seal(&self.runtime, masks.len() as u32, &mut tile.data, &tile.masks)?;
            self.runtime.read(&tile.data, 0, data)?;
        }
        Ok(())
    }

    fn same_device(&self, what: &'static str, got: usize) -> Result<(), DeviceError> {
        let expected = self.info().index;
        if got != expected {
            return Err(DeviceError::Shape { what, expected: expected as u64, got: got as u64 });
        }
        Ok(())
    }
}

impl<R: Runtime> Drop for Device<R> {
    /// A failed call may have left work in the queue that uses this lane's memory.
    fn drop(&mut self) {
        let _ = self.runtime.wait();
    }
}

/// A hit as the kernel wrote it.
fn decode_hit(bytes: &[u8; BYTES_PER_HIT], first_item: u32) -> ScanHit {
    let (words, _) = bytes.as_chunks::<4>();
    let mut quality = [0; 32];
    quality.copy_from_slice(&bytes[8..]);
    ScanHit { item: first_item + u32::from_le_bytes(words[0]), seal: u32::from_le_bytes(words[1]), quality }
}

fn at_most(what: &'static str, expected: u64, got: u64) -> Result<(), DeviceError> {
    if got > expected { Err(DeviceError::Shape { what, expected, got }) } else { Ok(()) }
}

/// `expected` is the number that `got` must stay below.
fn below(what: &'static str, expected: u32, got: u32) -> Result<(), DeviceError> {
    if got >= expected {
        return Err(DeviceError::Shape { what, expected: expected.into(), got: got.into() });
    }
    Ok(())
}

/// The error names the nearest whole length below.
fn whole(what: &'static str, got: usize, unit: usize) -> Result<(), DeviceError> {
    if !got.is_multiple_of(unit) {
        return Err(DeviceError::Shape { what, expected: (got - got % unit) as u64, got: got as u64 });
    }
    Ok(())
}
