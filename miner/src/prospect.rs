//! The mining loop over any device: keeps loads in fast memory, drops draws whose load is not held, streams what does
//! not fit in ascending order, and re-checks every hit.

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use rand::Rng;
use rayon::prelude::*;
use zgpu_core::{
    device::{DeviceError, DeviceInfo},
    digest::H256,
    units::{BYTES_PER_LOAD, BYTES_PER_PAD, BYTES_PER_SEAL, SEALS_PER_LOAD},
    work::{DrawJob, ScanHit, ScanItem},
};

use crate::{
    answer::Hit,
    engine::{Disagreement, Engine, EngineOptions, HeldLoad, LoadSource, MineCounters, MineError, Probe},
    plain,
    puzzle::Puzzle,
    seam::{Prospector, Sealer},
};

const LOAD: u64 = BYTES_PER_LOAD as u64;
/// Budget where neither the caller nor the driver names one.
const DEFAULT_MEMORY: u64 = 1 << 30;
/// Memory below which an engine does not retreat.
const LEAST_MEMORY: u64 = 4 << 20;
/// Loads that are read, or uploaded, between two looks at the stop flag.
const LOADS_PER_READ: usize = 32;
/// Most draws, in batches, that wait for one sweep through the loads that are streamed.
const MAX_SWEEP_BATCHES: u64 = 16;
/// Streaming is left out when the rate with it falls below this part of the rate without.
const CLEAR_LOSS: f64 = 0.8;
/// Batches until streaming is tried again.
const BATCHES_WITHOUT_STREAMING: u32 = 256;
/// Least nonces worth a call of the device.
const MIN_BATCH: u64 = 8;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine over a device of any kind.
pub(crate) struct DeviceEngine<P: Prospector> {
    device: P,
    memory_bytes: u64,
    lanes: Vec<Lane<P>>,
    resident: Option<Resident<P::Loads>>,
    probe: Option<(P::Pads, P::Loads)>,
    quarantined: bool,
}

/// How memory is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Nonces per draw.
    batch: u32,
    /// Loads that stay in fast memory.
    resident: usize,
    /// Loads that there is room for in fast memory.
    room: usize,
    /// Batches whose draws are kept for one sweep; 1 if nothing is streamed.
    sweep_batches: usize,
    /// Loads of one window of a sweep; 0 if nothing is streamed.
    window: usize,
}

impl Plan {
    /// Everything resident if it fits, else a quarter of the memory for draws that wait, an eighth for windows.
    fn new(memory: u64, preferred_batch: u32, lanes: u64, held: u64) -> Plan {
        let batch =
            (memory / 4 / lanes / BYTES_PER_PAD as u64).clamp(MIN_BATCH, u64::from(preferred_batch).max(MIN_BATCH));
        let pads = batch * BYTES_PER_PAD as u64;
        let all_fit = held.saturating_mul(LOAD).saturating_add(lanes * pads) <= memory && held <= u64::from(u32::MAX);
        if all_fit {
            let room = ((memory - lanes * pads) / LOAD).min(u64::from(u32::MAX)) as usize;
            return Plan { batch: batch as u32, resident: held as usize, room, sweep_batches: 1, window: 0 };
        }
        let sweep_batches = (memory / 4 / lanes / pads).clamp(1, MAX_SWEEP_BATCHES);
        let window = (memory / 8 / lanes / LOAD).clamp(1, LOADS_PER_READ as u64);
        let spent = lanes * (sweep_batches * pads + window * LOAD);
        let room = (memory.saturating_sub(spent) / LOAD).min(u64::from(u32::MAX)) as usize;
        Plan {
            batch: batch as u32,
            resident: room.min(held as usize),
            room,
            sweep_batches: sweep_batches as usize,
            window: window as usize,
        }
    }
}

/// A load in a slot of fast memory.
#[derive(Clone, Copy)]
struct Slot {
    slot: u32,
    available: u64,
}

/// Loads that stay in fast memory from one call to the next.
struct Resident<L> {
    loads: L,
    capacity: usize,
    miner_id: H256,
    version: u64,
    /// By index in the flow.
    slots: HashMap<u64, Slot>,
    /// For each slot, a check sum of every seal as it was uploaded.
    sums: Vec<[u64; SEALS_PER_LOAD]>,
}

/// Tells whether bytes have changed; guards against no adversary.
fn check_sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(8).fold(0, |sum: u64, word| {
        let word = u64::from_le_bytes(word.try_into().expect("chunks of 8 bytes"));
        (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

fn seal_of(load: &[u8], seal: u32) -> &[u8; BYTES_PER_SEAL] {
    load[seal as usize * BYTES_PER_SEAL..].first_chunk().expect("a load has 64 seals")
}

/// Reads a load; one that has gone in the meantime counts as held in no part.
fn read_load(source: &dyn LoadSource, load: u64, into: &mut [u8], progress: &MineCounters) -> Result<u64, MineError> {
    progress.reads.fetch_add(1, Ordering::Relaxed);
    match source.read(load, into) {
        Ok(available) => Ok(available),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(MineError::Read { load, error }),
    }
}

/// Reads loads side by side into `buffer`, one after the other, and returns which of their seals are there.
fn read_loads(
    source: &dyn LoadSource,
    loads: &[u64],
    buffer: &mut Vec<u8>,
    progress: &MineCounters,
) -> Result<Vec<u64>, MineError> {
    buffer.resize(loads.len() * BYTES_PER_LOAD, 0);
    let pieces = buffer.par_chunks_exact_mut(BYTES_PER_LOAD);
    loads.par_iter().zip(pieces).map(|(load, into)| read_load(source, *load, into, progress)).collect()
}

fn add_nanos(counter: &AtomicU64, since: Instant) -> u64 {
    let nanos = since.elapsed().as_nanos() as u64;
    counter.fetch_add(nanos, Ordering::Relaxed);
    nanos
}

impl<P: Prospector + Sealer> DeviceEngine<P> {
    /// Checks the device against the plain twin before anything relies on it.
    pub(crate) fn new(mut device: P, options: EngineOptions) -> Result<Self, DeviceError> {
        self_test(&mut device)?;
        let memory_bytes = options.memory_bytes.unwrap_or(match device.info().memory_bytes / 4 * 3 {
            0 => DEFAULT_MEMORY,
            bytes => bytes,
        });
        Ok(DeviceEngine { device, memory_bytes, lanes: Vec::new(), resident: None, probe: None, quarantined: false })
    }

    /// Makes the lanes and fills fast memory.
    fn prepare(&mut self, plan: &Plan, held: &[HeldLoad], work: &Work<'_>) -> Result<(), MineError> {
        self.make_lanes(plan)?;
        self.make_resident(plan, held, work)
    }

    /// Brings as many of `held` as the plan says into fast memory, and keeps those that are there already.
    fn make_resident(&mut self, plan: &Plan, held: &[HeldLoad], work: &Work<'_>) -> Result<(), MineError> {
        let wanted = &held[..plan.resident.min(held.len())];
        let version = work.source.version();
        let usable = self.resident.as_ref().is_some_and(|resident| {
            resident.miner_id == work.puzzle.miner_id
                && resident.version == version
                && resident.capacity >= wanted.len()
                && resident.capacity <= plan.room
        });
        if !usable {
            self.resident = None;
            if wanted.is_empty() {
                return Ok(());
            }
            // Room for the loads that a node adds from one context to the next.
            let room = (wanted.len() + wanted.len() / 8 + 64).min(plan.room);
            let loads = self.device.alloc_loads(room as u32)?;
            self.resident = Some(Resident {
                loads,
                capacity: room,
                miner_id: work.puzzle.miner_id,
                version,
                slots: HashMap::with_capacity(room),
                sums: vec![[0; SEALS_PER_LOAD]; room],
            });
        }
        let resident = self.resident.as_mut().expect("it is there or was made");
        let still: HashMap<u64, u64> = wanted.iter().map(|held| (held.load, held.available)).collect();
        resident.slots.retain(|load, slot| still.get(load) == Some(&slot.available));
        let mut taken = vec![false; resident.capacity];
        resident.slots.values().for_each(|slot| taken[slot.slot as usize] = true);
        let free: Vec<u32> = (0..resident.capacity as u32).filter(|slot| !taken[*slot as usize]).collect();
        let missing: Vec<u64> =
            wanted.iter().map(|held| held.load).filter(|load| !resident.slots.contains_key(load)).collect();
        let mut buffer = Vec::new();
        for (loads, slots) in missing.chunks(LOADS_PER_READ).zip(free.chunks(LOADS_PER_READ)) {
            if (work.stop)() {
                break;
            }
            let start = Instant::now();
            let available = read_loads(work.source, loads, &mut buffer, work.progress)?;
            resident.upload(&mut self.device, loads, slots, &available, &buffer)?;
            add_nanos(&work.progress.read_nanos, start);
        }
        Ok(())
    }

    /// Makes the lanes, with pads for the plan; keeps those of the call before if they fit.
    fn make_lanes(&mut self, plan: &Plan) -> Result<(), DeviceError> {
        let fits = |lane: &Lane<P>| {
            lane.batch == plan.batch
                && lane.pads.len() == plan.sweep_batches
                && lane.window.as_ref().map_or(0, |(_, capacity)| *capacity) == plan.window
        };
        if self.lanes.len() == self.device.preferred_lanes() && self.lanes.iter().all(fits) {
            return Ok(());
        }
        self.lanes.clear();
        for _ in 0..self.device.preferred_lanes() {
            self.lanes.push(Lane::new(self.device.lane()?, plan)?);
        }
        Ok(())
    }

    fn run(&mut self, held: Vec<HeldLoad>, work: &Work<'_>) -> Result<(), MineError> {
        let lanes = self.device.preferred_lanes() as u64;
        let plan = loop {
            let plan = Plan::new(self.memory_bytes, self.device.preferred_batch(), lanes, held.len() as u64);
            match self.prepare(&plan, &held, work) {
                // Somebody else has a part of the device's memory: make do with less.
                Err(MineError::Device(DeviceError::OutOfMemory { .. })) if self.memory_bytes > LEAST_MEMORY => {
                    self.memory_bytes /= 2;
                    self.lanes.clear();
                    self.resident = None;
                }
                Err(error) => return Err(error),
                Ok(()) => break plan,
            }
        };
        let streamed = held[plan.resident.min(held.len())..].iter().map(|held| held.load).collect();
        let tiers = Tiers { resident: self.resident.as_ref(), streamed };
        let failed = AtomicBool::new(false);
        let failure = Mutex::new(None);
        std::thread::scope(|scope| {
            for lane in &mut self.lanes {
                let (tiers, failed, failure) = (&tiers, &failed, &failure);
                scope.spawn(move || {
                    let result = lane.run(tiers, work, &|| failed.load(Ordering::Relaxed) || (work.stop)());
                    if let Err(error) = result {
                        failed.store(true, Ordering::Relaxed);
                        lock(failure).get_or_insert(error);
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl<L> Resident<L> {
    /// Uploads loads that lie in `bytes` one after the other into `slots`.
    fn upload<P: Prospector<Loads = L>>(
        &mut self,
        device: &mut P,
        loads: &[u64],
        slots: &[u32],
        available: &[u64],
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        // Runs of neighbouring slots go in one call.
        let mut start = 0;
        for end in 1..=loads.len() {
            if end == loads.len() || slots[end] != slots[end - 1] + 1 {
                let bytes = &bytes[start * BYTES_PER_LOAD..end * BYTES_PER_LOAD];
                device.upload_loads(&mut self.loads, slots[start], bytes)?;
                start = end;
            }
        }
        let sums = |load: &[u8]| std::array::from_fn(|seal| check_sum(seal_of(load, seal as u32)));
        for (i, load) in bytes.chunks_exact(BYTES_PER_LOAD).enumerate().take(loads.len()) {
            self.sums[slots[i] as usize] = sums(load);
            self.slots.insert(loads[i], Slot { slot: slots[i], available: available[i] });
        }
        Ok(())
    }
}

impl<P: Prospector + Sealer + 'static> Engine for DeviceEngine<P> {
    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        self.device.seal(first_masks, data)
    }

    fn probe(&mut self, job: &DrawJob, load: &[u8], available: u64, target: &[u8; 32]) -> Result<Probe, DeviceError> {
        if load.len() != BYTES_PER_LOAD {
            return Err(DeviceError::Shape { what: "bytes of a load", expected: LOAD, got: load.len() as u64 });
        }
        let (mut pads, mut loads) = match self.probe.take() {
            Some(memory) => memory,
            None => (self.device.alloc_pads(1)?, self.device.alloc_loads(1)?),
        };
        let (mut seeds, mut hits) = (Vec::new(), Vec::new());
        self.device.draw(&DrawJob { count: 1, ..*job }, &mut pads, &mut seeds)?;
        self.device.upload_loads(&mut loads, 0, load)?;
        let item = ScanItem { pad_slot: 0, load_slot: 0, available };
        self.device.scan(&pads, &loads, &[item], target, &mut hits)?;
        let pad = self.device.read_pad(&pads, 0)?.map(|pad| pad.to_vec());
        self.probe = Some((pads, loads));
        Ok(Probe {
            recall_seed: seeds.first().copied().unwrap_or_default(),
            pad,
            hits: hits.into_iter().map(|hit| (hit.seal, hit.quality)).collect(),
        })
    }

    fn mine(
        &mut self,
        puzzle: &Puzzle,
        source: &dyn LoadSource,
        stop: &(dyn Fn() -> bool + Sync),
        on_hit: &mut (dyn FnMut(Hit) + Send),
        progress: &MineCounters,
    ) -> Result<(), MineError> {
        if self.quarantined {
            return Err(MineError::Quarantined { device: self.device.info().name.clone() });
        }
        let target = puzzle.target()?;
        puzzle.range.check_shape(puzzle.flow_length)?;
        let range_digest = puzzle.range.digest().0;
        let all = source.held();
        let total = all.len();
        let mut held: Vec<HeldLoad> =
            all.into_iter().filter(|held| held.available != 0 && puzzle.range.reaches(held.load)).collect();
        held.sort_unstable_by_key(|held| held.load);
        held.dedup_by_key(|held| held.load);
        if held.is_empty() {
            return Err(MineError::NothingHeld { held: total, loads: puzzle.range.loads() });
        }
        let name = self.device.info().name.clone();
        let on_hit = Mutex::new(on_hit);
        let on_hit = |hit: Hit| (lock(&on_hit))(hit);
        let work = Work { device: &name, puzzle, target, range_digest, source, stop, on_hit: &on_hit, progress };
        let result = self.run(held, &work);
        match &result {
            Err(MineError::Disagreement(_)) => self.quarantined = true,
            // A device that failed is given nothing to rely on.
            Err(MineError::Device(error)) if error.is_fatal() => {
                (self.resident, self.probe) = (None, None);
                self.lanes.clear();
            }
            _ => {}
        }
        result
    }
}

/// One call of `mine`.
struct Work<'a> {
    device: &'a str,
    puzzle: &'a Puzzle,
    target: [u8; 32],
    range_digest: [u8; 32],
    source: &'a dyn LoadSource,
    stop: &'a (dyn Fn() -> bool + Sync),
    on_hit: &'a (dyn Fn(Hit) + Sync),
    progress: &'a MineCounters,
}

/// Which loads are where.
struct Tiers<'a, L> {
    resident: Option<&'a Resident<L>>,
    streamed: HashSet<u64>,
}

/// A draw that waits for its load.
#[derive(Clone, Copy)]
struct WaitingDraw {
    load: u64,
    /// Which of the lane's pads.
    batch: u32,
    /// Which nonce of it.
    slot: u32,
}

/// A queue of work on the device, with its own pads and nonces.
struct Lane<P: Prospector> {
    device: P,
    batch: u32,
    /// One for each batch that a sweep serves.
    pads: Vec<P::Pads>,
    /// Slots for the loads of a window, and their number.
    window: Option<(P::Loads, usize)>,
    /// First nonce of the batch in each of the pads.
    bases: Vec<[u8; 32]>,
    seeds: Vec<[u8; 32]>,
    items: Vec<ScanItem>,
    /// Load of each item.
    item_loads: Vec<u64>,
    hits: Vec<ScanHit>,
    waiting: Vec<WaitingDraw>,
    buffer: Vec<u8>,
    rates: Rates,
}

/// Where the lane's time went, to tell whether streaming pays.
#[derive(Clone, Copy, Default)]
struct Rates {
    drawn: u64,
    draw_nanos: u64,
    resident: u64,
    resident_nanos: u64,
    streamed: u64,
    stream_nanos: u64,
    /// Batches since streaming was left out.
    without_streaming: u32,
}

impl Rates {
    /// False when loads in fast memory alone clearly give more scans per second than with streaming; true until it is
    /// known, and now and then to see whether the source has become faster.
    fn streaming_pays(&mut self) -> bool {
        if self.streamed == 0 || self.resident == 0 {
            return true;
        }
        let without = self.resident as f64 / (self.draw_nanos + self.resident_nanos).max(1) as f64;
        let with = (self.resident + self.streamed) as f64
            / (self.draw_nanos + self.resident_nanos + self.stream_nanos).max(1) as f64;
        if with >= CLEAR_LOSS * without {
            return true;
        }
        self.without_streaming += 1;
        if self.without_streaming == BATCHES_WITHOUT_STREAMING {
            *self = Rates::default();
        }
        false
    }
}

impl<P: Prospector> Lane<P> {
    fn new(mut device: P, plan: &Plan) -> Result<Self, DeviceError> {
        let pads = (0..plan.sweep_batches).map(|_| device.alloc_pads(plan.batch)).collect::<Result<_, _>>()?;
        let window = match plan.window {
            0 => None,
            window => Some((device.alloc_loads(window as u32)?, window)),
        };
        Ok(Lane {
            device,
            batch: plan.batch,
            pads,
            window,
            bases: vec![[0; 32]; plan.sweep_batches],
            seeds: Vec::new(),
            items: Vec::new(),
            item_loads: Vec::new(),
            hits: Vec::new(),
            waiting: Vec::new(),
            buffer: Vec::new(),
            rates: Rates::default(),
        })
    }

    /// Draws batch after batch: scans what is resident at once, and sweeps over the rest when the pads are full.
    fn run(&mut self, tiers: &Tiers<'_, P::Loads>, work: &Work<'_>, stop: &dyn Fn() -> bool) -> Result<(), MineError> {
        // A prefix of its own keeps the nonces apart from those of other lanes, calls and machines.
        let mut nonce = [0u8; 32];
        rand::rng().fill(&mut nonce[..24]);
        let mut counter = 0u64;
        self.waiting.clear();
        self.rates = Rates::default();
        let mut batch = 0;
        while !stop() {
            nonce[24..].copy_from_slice(&counter.to_be_bytes());
            counter = counter.wrapping_add(u64::from(self.batch));
            self.bases[batch] = nonce;
            self.draw(batch, work)?;
            self.sort_out(batch, tiers, work);
            if let Some(resident) = tiers.resident {
                let start = Instant::now();
                self.scan_resident(batch, resident, work, stop)?;
                self.rates.resident_nanos += add_nanos(&work.progress.scan_nanos, start);
            }
            if self.waiting.is_empty() {
                continue;
            }
            batch += 1;
            if batch == self.pads.len() {
                let start = Instant::now();
                self.sweep(work, stop)?;
                self.rates.stream_nanos += start.elapsed().as_nanos() as u64;
                batch = 0;
            }
        }
        Ok(())
    }

    fn job(&self, batch: usize, work: &Work<'_>) -> DrawJob {
        DrawJob {
            miner_id: work.puzzle.miner_id.0,
            nonce_base: self.bases[batch],
            count: self.batch,
            subtask_digest: work.puzzle.subtask_digest.0,
            range_digest: work.range_digest,
        }
    }

    fn draw(&mut self, batch: usize, work: &Work<'_>) -> Result<(), MineError> {
        let start = Instant::now();
        let job = self.job(batch, work);
        self.device.draw(&job, &mut self.pads[batch], &mut self.seeds)?;
        if self.seeds.len() != self.batch as usize {
            let (expected, got) = (u64::from(self.batch), self.seeds.len() as u64);
            return Err(DeviceError::Shape { what: "recall seeds of a draw", expected, got }.into());
        }
        self.rates.drawn += u64::from(self.batch);
        self.rates.draw_nanos += add_nanos(&work.progress.draw_nanos, start);
        work.progress.nonces.fetch_add(u64::from(self.batch), Ordering::Relaxed);
        Ok(())
    }

    /// Finds each draw's load: items for those in fast memory, a place in the queue for those that are streamed;
    /// the others are dropped.
    fn sort_out(&mut self, batch: usize, tiers: &Tiers<'_, P::Loads>, work: &Work<'_>) {
        self.items.clear();
        self.item_loads.clear();
        let stream = !tiers.streamed.is_empty() && self.rates.streaming_pays();
        for (i, seed) in self.seeds.iter().enumerate() {
            let Some(load) = work.puzzle.range.recall(seed) else { continue };
            if let Some(slot) = tiers.resident.and_then(|resident| resident.slots.get(&load)) {
                if slot.available == 0 {
                    continue;
                }
                self.items.push(ScanItem { pad_slot: i as u32, load_slot: slot.slot, available: slot.available });
                self.item_loads.push(load);
            } else if stream && tiers.streamed.contains(&load) {
                self.waiting.push(WaitingDraw { load, batch: batch as u32, slot: i as u32 });
            }
        }
    }

    fn scan_resident(
        &mut self,
        batch: usize,
        resident: &Resident<P::Loads>,
        work: &Work<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), MineError> {
        if self.items.is_empty() || stop() {
            return Ok(());
        }
        self.device.scan(&self.pads[batch], &resident.loads, &self.items, &work.target, &mut self.hits)?;
        self.rates.resident += self.items.len() as u64;
        work.progress.loads.fetch_add(self.items.len() as u64, Ordering::Relaxed);
        let mut check = HitCheck::new(self.job(batch, work));
        let mut read_again: Option<(u64, u64)> = None;
        for hit in &self.hits {
            let (item, load) = check.item(hit, &self.items, &self.item_loads)?;
            // The bytes are not here any more: read them again, and see that they are still those that were uploaded.
            if read_again.is_none_or(|(last, _)| last != load) {
                self.buffer.resize(BYTES_PER_LOAD, 0);
                read_again = Some((load, read_load(work.source, load, &mut self.buffer, work.progress)?));
            }
            let there = read_again.is_some_and(|(_, available)| available >> hit.seal & 1 == 1);
            let sum = resident.sums[item.load_slot as usize][hit.seal as usize];
            if there && check_sum(seal_of(&self.buffer, hit.seal)) == sum {
                check.report(hit, item, load, &self.buffer, work)?;
            } else {
                work.progress.stale.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Serves every draw that waits, load by load in ascending order: each load is read once.
    fn sweep(&mut self, work: &Work<'_>, stop: &dyn Fn() -> bool) -> Result<(), MineError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.sort_unstable_by_key(|draw| (draw.load, draw.batch, draw.slot));
        let mut rest = &waiting[..];
        let mut loads: Vec<u64> = Vec::new();
        while !rest.is_empty() && !stop() {
            let window = self.window.as_ref().map_or(1, |(_, capacity)| *capacity);
            loads.clear();
            let mut end = 0;
            while end < rest.len() && (loads.last() == Some(&rest[end].load) || loads.len() < window) {
                if loads.last() != Some(&rest[end].load) {
                    loads.push(rest[end].load);
                }
                end += 1;
            }
            let (draws, later) = rest.split_at(end);
            rest = later;
            self.scan_window(&loads, draws, work, stop)?;
        }
        waiting.clear();
        self.waiting = waiting;
        Ok(())
    }

    /// Reads the loads of one window and scans the draws that recall them, batch by batch.
    fn scan_window(
        &mut self,
        loads: &[u64],
        draws: &[WaitingDraw],
        work: &Work<'_>,
        stop: &dyn Fn() -> bool,
    ) -> Result<(), MineError> {
        let start = Instant::now();
        let Some((slots, _)) = &mut self.window else { return Ok(()) };
        let available = read_loads(work.source, loads, &mut self.buffer, work.progress)?;
        self.device.upload_loads(slots, 0, &self.buffer)?;
        add_nanos(&work.progress.read_nanos, start);
        let start = Instant::now();
        for batch in 0..self.pads.len() {
            self.items.clear();
            self.item_loads.clear();
            for draw in draws.iter().filter(|draw| draw.batch as usize == batch) {
                let slot = loads.binary_search(&draw.load).expect("the window has every load of its draws");
                if available[slot] != 0 {
                    let (pad_slot, load_slot) = (draw.slot, slot as u32);
                    self.items.push(ScanItem { pad_slot, load_slot, available: available[slot] });
                    self.item_loads.push(draw.load);
                }
            }
            if self.items.is_empty() || stop() {
                continue;
            }
            let (slots, _) = self.window.as_ref().expect("it was there above");
            self.device.scan(&self.pads[batch], slots, &self.items, &work.target, &mut self.hits)?;
            self.rates.streamed += self.items.len() as u64;
            work.progress.loads.fetch_add(self.items.len() as u64, Ordering::Relaxed);
            let mut check = HitCheck::new(self.job(batch, work));
            for hit in &self.hits {
                let (item, load) = check.item(hit, &self.items, &self.item_loads)?;
                let bytes = &self.buffer[item.load_slot as usize * BYTES_PER_LOAD..][..BYTES_PER_LOAD];
                check.report(hit, item, load, bytes, work)?;
            }
        }
        add_nanos(&work.progress.scan_nanos, start);
        Ok(())
    }
}

/// Re-checks the hits of one scan, and remembers the pad of the hit before.
struct HitCheck {
    job: DrawJob,
    pad: Option<(u32, plain::Pad)>,
}

impl HitCheck {
    fn new(job: DrawJob) -> Self {
        HitCheck { job, pad: None }
    }

    /// The item and the load that a hit is about; a hit about nothing is a fault of the device.
    fn item(&self, hit: &ScanHit, items: &[ScanItem], loads: &[u64]) -> Result<(ScanItem, u64), DeviceError> {
        let outside =
            |what, expected: usize, got: u32| DeviceError::Shape { what, expected: expected as u64, got: got.into() };
        let index = hit.item as usize;
        let (item, load) = items
            .get(index)
            .zip(loads.get(index))
            .ok_or_else(|| outside("item of a hit, below", items.len(), hit.item))?;
        if hit.seal as usize >= SEALS_PER_LOAD {
            return Err(outside("seal of a hit, below", SEALS_PER_LOAD, hit.seal));
        }
        Ok((*item, *load))
    }

    /// Hands the hit on if the plain twin finds the same, and fails otherwise.
    fn report(
        &mut self,
        hit: &ScanHit,
        item: ScanItem,
        load: u64,
        bytes: &[u8],
        work: &Work<'_>,
    ) -> Result<(), MineError> {
        let nonce = self.job.nonce(item.pad_slot);
        if self.pad.as_ref().is_none_or(|(slot, _)| *slot != item.pad_slot) {
            let job = &self.job;
            self.pad =
                Some((item.pad_slot, plain::draw(&job.miner_id, &nonce, &job.subtask_digest, &job.range_digest)));
        }
        let (_, pad) = self.pad.as_ref().expect("it was made above");
        let expected = plain::quality(pad, hit.seal as usize, seal_of(bytes, hit.seal));
        let recalled = work.puzzle.range.recall(&pad.recall_seed) == Some(load);
        let there = item.available >> hit.seal & 1 == 1;
        if expected != hit.quality || expected > work.target || !recalled || !there {
            return Err(MineError::Disagreement(Box::new(Disagreement {
                device: work.device.to_string(),
                nonce: H256(nonce),
                load,
                seal: hit.seal,
                got: H256(hit.quality),
                expected: H256(expected),
            })));
        }
        work.progress.hits.fetch_add(1, Ordering::Relaxed);
        let (generation, quality) = (work.puzzle.generation, H256(expected));
        (work.on_hit)(Hit { generation, nonce: H256(nonce), load, seal: hit.seal, quality });
        Ok(())
    }
}

/// Seals, draws and scans a little on the device and compares all of it with the plain twin.
fn self_test<P: Prospector + Sealer>(device: &mut P) -> Result<(), DeviceError> {
    const NONCES: u32 = 3;
    let job = DrawJob {
        miner_id: [1; 32],
        nonce_base: [0xff; 32],
        count: NONCES,
        subtask_digest: [2; 32],
        range_digest: [3; 32],
    };
    let mut load: Vec<u8> = (0..BYTES_PER_LOAD as u32).map(|i| (i.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    let masks: Vec<[u8; 32]> = (0..SEALS_PER_LOAD as u8).map(|i| [i; 32]).collect();
    let raw = load.clone();
    device.seal(&masks, &mut load)?;
    let sealed_well = raw.chunks_exact(BYTES_PER_SEAL).zip(&masks).zip(load.chunks_exact(BYTES_PER_SEAL)).all(
        |((raw, mask), sealed)| {
            let mut twin: [u8; BYTES_PER_SEAL] = raw.try_into().expect("chunks of a seal");
            plain::seal(mask, &mut twin);
            twin == sealed
        },
    );
    let mut pads = device.alloc_pads(NONCES)?;
    let mut loads = device.alloc_loads(1)?;
    let (mut seeds, mut hits) = (Vec::new(), Vec::new());
    device.draw(&job, &mut pads, &mut seeds)?;
    device.upload_loads(&mut loads, 0, &load)?;
    let items: Vec<ScanItem> =
        (0..NONCES).map(|pad_slot| ScanItem { pad_slot, load_slot: 0, available: u64::MAX }).collect();
    device.scan(&pads, &loads, &items, &[0xff; 32], &mut hits)?;
    let twins: Vec<plain::Pad> = (0..NONCES)
        .map(|i| plain::draw(&job.miner_id, &job.nonce(i), &job.subtask_digest, &job.range_digest))
        .collect();
    let drawn_well = seeds.iter().eq(twins.iter().map(|pad| &pad.recall_seed));
    let expected =
        (0..NONCES).flat_map(|item| (0..SEALS_PER_LOAD as u32).map(move |seal| (item, seal))).map(|(item, seal)| {
            let quality = plain::quality(&twins[item as usize], seal as usize, seal_of(&load, seal));
            ScanHit { item, seal, quality }
        });
    let scanned_well = hits.iter().copied().eq(expected);
    let verdicts = [(sealed_well, "sealing"), (drawn_well, "drawing"), (scanned_well, "scanning")];
    match verdicts.into_iter().find(|(well, _)| !well) {
        None => Ok(()),
        Some((_, stage)) => Err(DeviceError::Unusable {
            backend: device.info().backend,
            index: device.info().index,
            reason: format!("{}: its {stage} differs from the plain twin's", device.info().name),
            remedy: "do not mine with it; check its memory, clocks and driver".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_stay_within_the_memory() {
        let pad = BYTES_PER_PAD as u64;
        for memory in [8 << 20, 64 << 20, 1 << 30, 100 << 30] {
            for (preferred, lanes) in [(64, 1), (256, 2), (1 << 17, 2)] {
                for held in [1, 10, 1000, 1 << 25] {
                    let plan = Plan::new(memory, preferred, lanes, held);
                    let pads = lanes * plan.sweep_batches as u64 * u64::from(plan.batch) * pad;
                    assert!(plan.resident <= plan.room && plan.resident as u64 <= held);
                    let loads = plan.room as u64 + lanes * plan.window as u64;
                    assert!(pads + loads * LOAD <= memory, "{memory} {preferred} {lanes} {held}: {plan:?}");
                    assert!(plan.batch <= preferred);
                    // What is not resident is streamed.
                    assert_eq!(plan.window == 0, plan.resident as u64 == held, "{plan:?}");
                }
            }
        }
        assert_eq!(Plan::new(1 << 30, 256, 1, 100).resident, 100);
    }

    #[test]
    fn streaming_is_left_out_when_it_costs_more_than_it_gives() {
        let rates = Rates { drawn: 1000, draw_nanos: 100, resident: 500, resident_nanos: 400, ..Rates::default() };
        assert!(Rates { ..rates }.streaming_pays());
        assert!(Rates { streamed: 500, stream_nanos: 500, ..rates }.streaming_pays());
        // 1000 scans in 1250 against 500 in 500 is the border.
        assert!(Rates { streamed: 500, stream_nanos: 749, ..rates }.streaming_pays());
        let mut slow = Rates { streamed: 500, stream_nanos: 751, ..rates };
        assert!((0..BATCHES_WITHOUT_STREAMING).all(|_| !slow.streaming_pays()));
        assert!(slow.streaming_pays());
        assert!(Rates { streamed: 500, stream_nanos: 1 << 40, ..Rates::default() }.streaming_pays());
    }
}
