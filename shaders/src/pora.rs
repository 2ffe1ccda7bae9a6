//! Draw and scan: the two halves of mining, and the device that does them.

use std::sync::Arc;
use std::time::Instant;

use bytemuck::{Pod, Zeroable};
use wgpu::{BindGroup, Buffer, BufferBinding, BufferUsages, ComputePassDescriptor, DeviceType};
use zgpu_core::device::{DeviceError, DeviceInfo};
use zgpu_core::units::{BYTES_PER_CELL, BYTES_PER_LOAD, BYTES_PER_PAD, SEALS_PER_LOAD};
use zgpu_core::work::{DrawJob, ScanHit, ScanItem};

use crate::adapter::WORKGROUP;
use crate::device::Device;
use crate::memory::{Loads, Pads};
use crate::seal::Sealing;
use crate::tuning::{Pace, Tuning};

/// Bytes of a recall seed.
const BYTES_PER_RECALL_SEED: usize = 32;
/// Words of a hit: item, seal, quality.
const WORDS_PER_HIT: usize = 10;
/// Bytes before the hits: their count.
const BYTES_PER_HIT_COUNT: usize = 4;
/// Bytes of an item on the device.
const BYTES_PER_ITEM: usize = 16;
/// Most dispatches in one scan submission, one for each pair of a pad tile and a load tile.
const DISPATCHES_PER_SUBMISSION: usize = 64;
/// Hits that one submission can report when the tuning does not say.
const HIT_CAPACITY: u32 = 4096;
/// Nonces that fill the largest cards: four or more warps for each of their schedulers.
const BATCH_DISCRETE: u32 = 65536;
/// Bytes of one upload step: bounds the staging memory that wgpu keeps at a time to two of them.
const BYTES_PER_UPLOAD: usize = 64 * BYTES_PER_LOAD;

/// `DrawParams` of `draw.wgsl`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DrawParams {
    message: [u8; 128],
    counter_lo: u32,
    counter_hi: u32,
    first_slot: u32,
    count: u32,
}

/// `ScanParams` of `scan.wgsl`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ScanParams {
    goal: [u32; 8],
    first_item: u32,
    capacity: u32,
    _padding: [u32; 2],
}

/// One lane of a device: its own staging and parameter buffers on a device and queue that lanes share.
///
/// Calls return when the device has done the work. Two lanes on two threads keep the device busy while one of them is on
/// the host. Every call reports a failed device as [`DeviceError::Lost`] from then on.
pub struct PoraDevice {
    pub(crate) device: Arc<Device>,
    tuning: Tuning,
    /// Bytes of a tile of pads or loads.
    binding_bytes: u64,
    hit_capacity: u32,
    draw_pace: Pace,
    scan_pace: Pace,
    draw_params: Buffer,
    recall_seeds: Buffer,
    scan_params: Buffer,
    items: Buffer,
    hits: Buffer,
    read_back: Buffer,
    /// Items of the scan under way: tile pair in the high half, number in the low half; sorted.
    order: Vec<u64>,
    /// Items of the submission under way, as the kernel reads them.
    packed: Vec<[u32; 4]>,
    /// Parameters of the submission under way, a stride each.
    packed_params: Vec<u8>,
    pub(crate) sealing: Option<Sealing>,
}

impl PoraDevice {
    /// Opens device `index` of [`crate::list`].
    ///
    /// Fails with [`DeviceError::Unusable`] when there is no such device or its driver refuses.
    pub fn open(index: usize) -> Result<Self, DeviceError> {
        Self::open_tuned(index, Tuning::default())
    }

    /// [`PoraDevice::open`] with bounds on the pieces that work is cut into.
    pub fn open_tuned(index: usize, tuning: Tuning) -> Result<Self, DeviceError> {
        Self::on(Device::open(index)?, tuning)
    }

    /// One more lane on the same device and queue, with its own staging and parameter buffers. Pads and loads of one lane
    /// serve all lanes of the device.
    pub fn lane(&self) -> Result<Self, DeviceError> {
        Self::on(Arc::clone(&self.device), self.tuning)
    }

    fn on(device: Arc<Device>, tuning: Tuning) -> Result<Self, DeviceError> {
        let limits = &device.limits;
        let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        let load = BYTES_PER_LOAD as u64;
        let binding_bytes = tuning.binding_bytes.unwrap_or(largest).min(largest).max(load) / load * load;
        let hit_capacity = tuning.hit_capacity.unwrap_or(HIT_CAPACITY).max(SEALS_PER_LOAD as u32);
        // A scan has one workgroup an item, a draw one for 64 nonces. Powers of two, so that batches split evenly.
        let groups = limits.max_compute_workgroups_per_dimension;
        let tuned = tuning.submission.unwrap_or(u32::MAX);
        let most_draws = tuned.min(groups.saturating_mul(WORKGROUP)).min(BATCH_DISCRETE);
        let most_items = tuned.min(groups).min(BATCH_DISCRETE / 2);
        let (draw_pace, scan_pace) = match device.kind {
            DeviceType::Cpu => (Pace::new(64, 16, most_draws.min(1024)), Pace::new(16, 1, most_items.min(1024))),
            DeviceType::DiscreteGpu | DeviceType::VirtualGpu => {
                (Pace::new(16384, 256, most_draws), Pace::new(4096, 64, most_items))
            }
            DeviceType::IntegratedGpu | DeviceType::Other => {
                (Pace::new(2048, 64, most_draws), Pace::new(512, 16, most_items))
            }
        };

        let recall_bytes = u64::from(draw_pace.most()) * BYTES_PER_RECALL_SEED as u64;
        let hit_bytes = (BYTES_PER_HIT_COUNT + 4 * WORDS_PER_HIT * hit_capacity as usize) as u64;
        let item_bytes = u64::from(scan_pace.most()) * BYTES_PER_ITEM as u64;
        let scan_param_bytes = (DISPATCHES_PER_SUBMISSION * scan_param_stride(limits)) as u64;
        let uniform = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let storage = BufferUsages::STORAGE;
        Ok(Self {
            draw_params: device.buffer("draw parameters", size_of::<DrawParams>() as u64, uniform)?,
            recall_seeds: device.buffer("recall seeds", recall_bytes, storage | BufferUsages::COPY_SRC)?,
            scan_params: device.buffer("scan parameters", scan_param_bytes, uniform)?,
            items: device.buffer("scan items", item_bytes, storage | BufferUsages::COPY_DST)?,
            hits: device.buffer("hits", hit_bytes, storage | BufferUsages::COPY_SRC | BufferUsages::COPY_DST)?,
            read_back: device.buffer(
                "read-back memory",
                recall_bytes.max(hit_bytes).max((BYTES_PER_PAD + BYTES_PER_CELL) as u64),
                BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            )?,
            device,
            tuning,
            binding_bytes,
            hit_capacity,
            draw_pace,
            scan_pace,
            order: Vec::new(),
            packed: Vec::new(),
            packed_params: Vec::new(),
            sealing: None,
        })
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        &self.device.info
    }

    /// Nonces a draw should have to fill the device: their pads fit one binding and an eighth of the device's memory.
    pub fn preferred_batch(&self) -> u32 {
        let batch: u64 = match self.device.kind {
            DeviceType::Cpu => 128,
            DeviceType::DiscreteGpu | DeviceType::VirtualGpu => BATCH_DISCRETE.into(),
            DeviceType::IntegratedGpu | DeviceType::Other => 4096,
        };
        let memory = match self.device.info.memory_bytes {
            0 => u64::MAX,
            known => known / 8,
        };
        let fitting = (self.binding_bytes.min(memory) / BYTES_PER_PAD as u64).max(1);
        u32::try_from(batch.min(fitting)).expect("at most 65536")
    }

    pub(crate) fn tuning(&self) -> Tuning {
        self.tuning
    }

    pub(crate) fn binding_bytes(&self) -> u64 {
        self.binding_bytes
    }

    /// Device memory for `capacity` pads (16 KiB) and their seeds (64 B).
    pub fn alloc_pads(&mut self, capacity: u32) -> Result<Pads, DeviceError> {
        Pads::alloc(&self.device, capacity, self.binding_bytes)
    }

    /// Device memory for `capacity` loads (256 KiB).
    pub fn alloc_loads(&mut self, capacity: u32) -> Result<Loads, DeviceError> {
        Loads::alloc(&self.device, capacity, self.binding_bytes)
    }

    /// Copies whole sealed loads, as they lie on disk, into the slots from `first_slot` on.
    ///
    /// Fails with [`DeviceError::Shape`] when `bytes` is no whole number of loads or reaches past the last slot, and when
    /// a clone of `loads` exists: another lane may be scanning it.
    pub fn upload_loads(&mut self, loads: &mut Loads, first_slot: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        expect_same("the loads' device", self.device.number, loads.inner.device)?;
        expect_same("bytes past the last whole load of an upload", 0, (bytes.len() % BYTES_PER_LOAD) as u64)?;
        let end = u64::from(first_slot) + (bytes.len() / BYTES_PER_LOAD) as u64;
        expect_at_most("end slot of an upload", loads.slots().into(), end)?;
        let owners = Arc::strong_count(&loads.inner) as u64;
        let Some(inner) = Arc::get_mut(&mut loads.inner) else {
            return Err(shape("owners of the loads that an upload writes to", 1, owners));
        };

        let mut before = None;
        let mut slot = first_slot;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (tile, at) = (slot / inner.per_tile, slot % inner.per_tile);
            let room = (inner.per_tile - at) as usize * BYTES_PER_LOAD;
            let (piece, after) = rest.split_at(rest.len().min(room).min(BYTES_PER_UPLOAD));
            self.device.write(&inner.tiles[tile as usize], u64::from(at) * BYTES_PER_LOAD as u64, piece)?;
            let submission = self.device.submit(|_| ())?;
            if let Some(earlier) = before.replace(submission) {
                self.device.wait(&earlier)?;
            }
            slot += (piece.len() / BYTES_PER_LOAD) as u32;
            rest = after;
        }
        before.map_or(Ok(()), |last| self.device.wait(&last))
    }

    /// Draws `job.count` nonces: their pads and pad seeds into `pads`, slot `i` for nonce `i`, and their recall seeds, 32 bytes
    /// each as they come out of the hash (a big-endian integer), into `recall_seeds`, which they replace.
    ///
    /// Fails with [`DeviceError::Shape`] when the pads are too few or of another device. After any failure the pads are empty.
    pub fn draw(
        &mut self,
        job: &DrawJob,
        pads: &mut Pads,
        recall_seeds: &mut Vec<[u8; 32]>,
    ) -> Result<(), DeviceError> {
        expect_same("the pads' device", self.device.number, pads.device)?;
        expect_at_most("nonces in a draw", pads.capacity.into(), job.count.into())?;
        recall_seeds.clear();
        recall_seeds.reserve(job.count as usize);
        pads.drawn = 0;
        let program = self.device.draw_program()?;

        let mut params = DrawParams::zeroed();
        params.message[..32].copy_from_slice(&job.miner_id);
        params.message[32..56].copy_from_slice(&job.nonce_base[..24]);
        params.message[64..96].copy_from_slice(&job.subtask_digest);
        params.message[96..].copy_from_slice(&job.range_digest);

        let mut bound: Option<(u32, BindGroup)> = None;
        let mut first = 0;
        while first < job.count {
            let (tile, slot) = (first / pads.per_tile, first % pads.per_tile);
            let count = self.draw_pace.size().min(job.count - first).min(pads.per_tile - slot);
            let counter = job.nonce(first);
            let counter = u64::from_be_bytes(counter[24..].try_into().expect("8 of 32 bytes"));
            (params.counter_lo, params.counter_hi) = (counter as u32, (counter >> 32) as u32);
            (params.first_slot, params.count) = (slot, count);
            self.device.write(&self.draw_params, 0, bytemuck::bytes_of(&params))?;

            let group = match bound.take() {
                Some((of, group)) if of == tile => group,
                _ => {
                    let memory = &pads.tiles[tile as usize];
                    let buffers = [&memory.pads, &memory.seeds, &self.recall_seeds];
                    self.device.bind(&program, self.draw_params.as_entire_binding(), &buffers)?
                }
            };
            let bytes = u64::from(count) * BYTES_PER_RECALL_SEED as u64;
            let start = Instant::now();
            self.device.submit_and_read(
                &self.read_back,
                bytes,
                |encoder| {
                    let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
                    pass.set_pipeline(&program.pipeline);
                    pass.set_bind_group(0, &group, &[]);
                    pass.dispatch_workgroups(count.div_ceil(WORKGROUP), 1, 1);
                    drop(pass);
                    encoder.copy_buffer_to_buffer(&self.recall_seeds, 0, &self.read_back, 0, bytes);
                },
                |seeds| {
                    let seeds = seeds.chunks_exact(BYTES_PER_RECALL_SEED);
                    recall_seeds.extend(seeds.map(|seed| <[u8; 32]>::try_from(seed).expect("chunks of 32 bytes")));
                },
            )?;
            self.draw_pace.note(count, start.elapsed());
            bound = Some((tile, group));
            first += count;
        }
        pads.drawn = job.count;
        Ok(())
    }

    /// Reads pad and pad seed of a slot back, for checks.
    ///
    /// Fails with [`DeviceError::Shape`] when the slot was not drawn.
    pub fn read_pad(
        &mut self,
        pads: &Pads,
        slot: u32,
    ) -> Result<([u8; BYTES_PER_PAD], [u8; BYTES_PER_CELL]), DeviceError> {
        expect_same("the pads' device", self.device.number, pads.device)?;
        expect_below("pad slot", pads.drawn, slot)?;
        let tile = &pads.tiles[(slot / pads.per_tile) as usize];
        let at = u64::from(slot % pads.per_tile);
        let (pad, seed) = (BYTES_PER_PAD as u64, BYTES_PER_CELL as u64);
        self.device.submit_and_read(
            &self.read_back,
            pad + seed,
            |encoder| {
                encoder.copy_buffer_to_buffer(&tile.pads, at * pad, &self.read_back, 0, pad);
                encoder.copy_buffer_to_buffer(&tile.seeds, at * seed, &self.read_back, pad, seed);
            },
            |bytes| {
                let (pad, seed) = bytes.split_at(BYTES_PER_PAD);
                (pad.try_into().expect("a pad was read"), seed.try_into().expect("and its seed"))
            },
        )
    }

    /// Hashes every available seal of every item's load against the item's pad. `hits` is replaced by all seals whose quality,
    /// a big-endian integer, is at most `target` (big-endian), sorted by item and seal. Any number of hits is reported.
    ///
    /// Fails with [`DeviceError::Shape`] when an item names a pad that was not drawn or a load slot that does not exist, or when
    /// pads or loads are of another device.
    pub fn scan(
        &mut self,
        pads: &Pads,
        loads: &Loads,
        items: &[ScanItem],
        target: &[u8; 32],
        hits: &mut Vec<ScanHit>,
    ) -> Result<(), DeviceError> {
        hits.clear();
        self.plan_scan(pads, loads, items)?;

        let mut params = ScanParams { capacity: self.hit_capacity, ..ScanParams::zeroed() };
        for (word, bytes) in params.goal.iter_mut().zip(target.chunks_exact(4)) {
            *word = u32::from_be_bytes(bytes.try_into().expect("chunks of 4 bytes"));
        }
        let mut size = self.scan_pace.size() as usize;
        let mut first = 0;
        while first < self.order.len() {
            let start = Instant::now();
            let (count, found) = self.scan_some(pads, loads, items, first, size, params, hits)?;
            self.scan_pace.note(count as u32, start.elapsed());
            let room = self.hit_capacity as usize;
            if found > room {
                // So many items that about three quarters of the room is used; one item always fits.
                size = (count * room / found * 3 / 4).max(1);
                continue;
            }
            first += count;
            size = if found * 4 > room { size } else { size * 2 }.min(self.scan_pace.size() as usize);
        }
        hits.sort_unstable_by_key(|hit| (hit.item, hit.seal));
        Ok(())
    }

    /// Checks the items, drops those with nothing to hash, and sorts the others by the buffers they need.
    fn plan_scan(&mut self, pads: &Pads, loads: &Loads, items: &[ScanItem]) -> Result<(), DeviceError> {
        let loads = &loads.inner;
        expect_same("the pads' device", self.device.number, pads.device)?;
        expect_same("the loads' device", self.device.number, loads.device)?;
        expect_at_most("items in a scan", u32::MAX.into(), items.len() as u64)?;
        self.order.clear();
        for (number, item) in (0u64..).zip(items) {
            expect_below("pad slot", pads.drawn, item.pad_slot)?;
            expect_below("load slot", loads.slots, item.load_slot)?;
            if item.available != 0 {
                let pair = u64::from(item.pad_slot / pads.per_tile) * loads.tiles.len() as u64
                    + u64::from(item.load_slot / loads.per_tile);
                self.order.push(pair << 32 | number);
            }
        }
        self.order.sort_unstable();
        Ok(())
    }

    /// Runs one submission of at most `size` items, from `first` of the order on. Returns how many items it had and how many
    /// hits there are; when these have room, they are appended to `hits`.
    #[expect(clippy::too_many_arguments, reason = "those of `scan`, and the range to do")]
    fn scan_some(
        &mut self,
        pads: &Pads,
        loads: &Loads,
        items: &[ScanItem],
        first: usize,
        size: usize,
        params: ScanParams,
        hits: &mut Vec<ScanHit>,
    ) -> Result<(usize, usize), DeviceError> {
        let program = self.device.scan_program()?;
        let loads = &loads.inner;
        let stride = scan_param_stride(&self.device.limits);

        // One dispatch for each pair of tiles.
        let end = self.order.len().min(first + size);
        let order = &self.order[first..end];
        self.packed.clear();
        self.packed_params.clear();
        let mut dispatches: Vec<(BindGroup, u32)> = Vec::new();
        for same_pair in order.chunk_by(|p, q| p >> 32 == q >> 32).take(DISPATCHES_PER_SUBMISSION) {
            let pair = (same_pair[0] >> 32) as usize;
            let (pad_tile, load_tile) = (&pads.tiles[pair / loads.tiles.len()], &loads.tiles[pair % loads.tiles.len()]);
            let params = ScanParams { first_item: self.packed.len() as u32, ..params };
            self.packed_params.extend_from_slice(bytemuck::bytes_of(&params));
            self.packed_params.resize(self.packed_params.len().next_multiple_of(stride), 0);
            self.packed.extend(same_pair.iter().map(|&entry| {
                let item = &items[entry as u32 as usize];
                let (pad, load) = (item.pad_slot % pads.per_tile, item.load_slot % loads.per_tile);
                [pad, load, item.available as u32, (item.available >> 32) as u32]
            }));
            let window = BufferBinding {
                buffer: &self.scan_params,
                offset: 0,
                size: std::num::NonZeroU64::new(size_of::<ScanParams>() as u64),
            };
            let buffers = [&pad_tile.pads, &pad_tile.seeds, load_tile, &self.items, &self.hits];
            let group = self.device.bind(&program, wgpu::BindingResource::Buffer(window), &buffers)?;
            dispatches.push((group, same_pair.len() as u32));
        }
        self.device.write(&self.scan_params, 0, &self.packed_params)?;
        self.device.write(&self.items, 0, bytemuck::cast_slice(&self.packed))?;

        let order = &order[..self.packed.len()];
        let (bytes, capacity) = (self.hits.size(), self.hit_capacity as usize);
        let found = self.device.submit_and_read(
            &self.read_back,
            bytes,
            |encoder| {
                encoder.clear_buffer(&self.hits, 0, Some(BYTES_PER_HIT_COUNT as u64));
                let mut pass = encoder.begin_compute_pass(&ComputePassDescriptor::default());
                pass.set_pipeline(&program.pipeline);
                for (number, (group, count)) in dispatches.iter().enumerate() {
                    pass.set_bind_group(0, group, &[(number * stride) as u32]);
                    pass.dispatch_workgroups(*count, 1, 1);
                }
                drop(pass);
                encoder.copy_buffer_to_buffer(&self.hits, 0, &self.read_back, 0, bytes);
            },
            |bytes| {
                let (count, records) = bytes.split_at(BYTES_PER_HIT_COUNT);
                let found = u32::from_le_bytes(count.try_into().expect("4 bytes")) as usize;
                if found > order.len() * SEALS_PER_LOAD {
                    return None;
                }
                if found <= capacity {
                    for record in records.chunks_exact(4 * WORDS_PER_HIT).take(found) {
                        hits.push(hit(record, order)?);
                    }
                }
                Some(found)
            },
        )?;
        match found {
            Some(found) => Ok((order.len(), found)),
            None => Err(self.device.lost("it reported hits that cannot be".into())),
        }
    }
}

/// A record of `scan.wgsl`, with the item's number within the submission replaced by the caller's. `None` when the record
/// names no seal of the submission: a device's word is not trusted.
fn hit(record: &[u8], order: &[u64]) -> Option<ScanHit> {
    let word = |at: usize| u32::from_le_bytes(record[4 * at..4 * at + 4].try_into().expect("4 bytes"));
    let item = *order.get(word(0) as usize)? as u32;
    let seal = word(1);
    let quality = record[8..40].try_into().expect("8 words of quality");
    ((seal as usize) < SEALS_PER_LOAD).then_some(ScanHit { item, seal, quality })
}

/// Bytes from the parameters of one dispatch to those of the next.
fn scan_param_stride(limits: &wgpu::Limits) -> usize {
    size_of::<ScanParams>().next_multiple_of(limits.min_uniform_buffer_offset_alignment as usize)
}

pub(crate) fn shape(what: &'static str, expected: u64, got: u64) -> DeviceError {
    DeviceError::Shape { what, expected, got }
}

pub(crate) fn expect_same(what: &'static str, expected: u64, got: u64) -> Result<(), DeviceError> {
    if got == expected { Ok(()) } else { Err(shape(what, expected, got)) }
}

pub(crate) fn expect_at_most(what: &'static str, most: u64, got: u64) -> Result<(), DeviceError> {
    if got <= most { Ok(()) } else { Err(shape(what, most, got)) }
}

/// `limit` is the first slot that does not exist, and what the error names.
fn expect_below(what: &'static str, limit: u32, got: u32) -> Result<(), DeviceError> {
    if got < limit { Ok(()) } else { Err(shape(what, limit.into(), got.into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_that_no_item_can_have_are_refused() {
        let record = |item: u8, seal: u8| {
            let mut record = [7; 4 * WORDS_PER_HIT];
            record[..8].copy_from_slice(&[item, 0, 0, 0, seal, 0, 0, 0]);
            record
        };
        let order = [9, 1 << 32 | 4];
        let found = ScanHit { item: 4, seal: 63, quality: [7; 32] };
        assert_eq!(hit(&record(1, 63), &order), Some(found));
        assert_eq!(hit(&record(2, 63), &order), None);
        assert_eq!(hit(&record(1, 64), &order), None);
    }
}
