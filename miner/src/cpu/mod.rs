//! The CPU backend: SIMD across independent nonces and seals, rayon across the host's cores.

mod blake2b;
mod keccak;
mod kernels;
mod lanes;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use rayon::{ThreadPool, ThreadPoolBuilder, prelude::*};
use zgpu_core::{
    device::{BackendKind, DeviceError, DeviceInfo, UnusableDevice},
    host::{available_memory, processor_name},
    units::{BYTES_PER_LOAD, BYTES_PER_PAD, BYTES_PER_SEAL},
    work::{DrawJob, ScanHit, ScanItem},
};

use crate::seam::{Prospector, Sealer};
use kernels::{Kernels, ScanJob};

/// Nonces that one thread draws and scans in one batch: a few hundredths of a second at most.
const NONCES_PER_THREAD: u32 = 128;

/// An instruction set that the code is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// AVX-512F: 8 nonces at a time.
    Avx512,
    /// AVX2: 4 nonces at a time.
    Avx2,
    /// Any processor: one nonce at a time.
    Portable,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        })
    }
}

impl Level {
    /// Every level, the fastest first.
    pub const ALL: [Level; 3] = [Level::Avx512, Level::Avx2, Level::Portable];

    /// Why this processor cannot run the level; `None` if it can.
    fn missing(self) -> Option<&'static str> {
        #[cfg(target_arch = "x86_64")]
        return match self {
            Level::Avx512 if !is_x86_feature_detected!("avx512f") => Some("the processor has no AVX-512F"),
            Level::Avx2 if !is_x86_feature_detected!("avx2") => Some("the processor has no AVX2"),
            _ => None,
        };
        #[cfg(not(target_arch = "x86_64"))]
        return match self {
            Level::Avx512 | Level::Avx2 => Some("the processor is no x86-64"),
            Level::Portable => None,
        };
    }

    fn kernels(self) -> &'static Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => &kernels::avx512::KERNELS,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => &kernels::avx2::KERNELS,
            _ => &kernels::portable::KERNELS,
        }
    }
}

/// The levels that this processor can run, the fastest first, and why it cannot run the others.
pub fn list() -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for level in Level::ALL {
        match level.missing() {
            None => usable.push(describe(level, usable.len(), threads())),
            Some(reason) => unusable.push(UnusableDevice {
                backend: BackendKind::Cpu,
                name: level.to_string(),
                reason: reason.into(),
                remedy: "use a level below it, or a machine that has it".into(),
            }),
        }
    }
    (usable, unusable)
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn describe(level: Level, index: usize, threads: usize) -> DeviceInfo {
    DeviceInfo {
        backend: BackendKind::Cpu,
        index,
        name: format!("{} ({level})", processor_name()),
        driver: "instructions detected at run time".into(),
        level: level.to_string(),
        memory_bytes: available_memory(),
        compute_units: threads as u32,
        software: false,
    }
}

/// 64 bytes on a cache line of their own.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes that start on a cache line, zero at first.
struct Lines(Vec<Line>);

impl Lines {
    fn new(bytes: usize) -> Self {
        Lines(vec![Line([0; 64]); bytes.div_ceil(64)])
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a `Line` is 64 bytes without padding, so a slice of them is 64 times as many bytes.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; every value of the bytes makes a `Line`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 64) }
    }
}

/// Scratch pads of one draw.
pub struct Pads {
    /// 16 KiB for each nonce.
    bytes: Lines,
    seeds: Vec<[u8; 64]>,
    /// Nonces of the last draw.
    drawn: u32,
    capacity: u32,
}

/// Sealed loads, in the order in which the device's level reads them.
#[derive(Clone)]
pub struct Loads(Arc<Vec<RwLock<Lines>>>);

/// The host's cores at one level.
pub struct CpuDevice {
    info: DeviceInfo,
    level: Level,
    pool: Arc<ThreadPool>,
}

impl CpuDevice {
    /// Opens a level by its position in [`list`], with a thread for every core.
    pub fn open(index: usize) -> Result<Self, DeviceError> {
        let usable = Level::ALL.into_iter().filter(|level| level.missing().is_none());
        let level = usable.clone().nth(index).ok_or_else(|| DeviceError::Unusable {
            backend: BackendKind::Cpu,
            index,
            reason: format!("there are {} CPU levels here", usable.count()),
            remedy: "choose one that the list of devices shows".into(),
        })?;
        Self::with_threads(level, threads())
    }

    /// Opens a level with so many threads (at least 1).
    pub fn with_threads(level: Level, threads: usize) -> Result<Self, DeviceError> {
        let unusable = |reason: String, remedy: &str| DeviceError::Unusable {
            backend: BackendKind::Cpu,
            index: Level::ALL.iter().position(|other| *other == level).expect("every level is in ALL"),
            reason,
            remedy: remedy.into(),
        };
        if let Some(reason) = level.missing() {
            return Err(unusable(reason.into(), "use a level below it"));
        }
        let index = Level::ALL
            .into_iter()
            .filter(|level| level.missing().is_none())
            .position(|other| other == level)
            .expect("the level is usable");
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("zgpu-cpu-{i}"))
            .build()
            .map_err(|error| unusable(format!("its threads do not start: {error}"), "raise the limit of threads"))?;
        Ok(CpuDevice { info: describe(level, index, threads.max(1)), level, pool: Arc::new(pool) })
    }

    /// The instruction set in use.
    pub fn level(&self) -> Level {
        self.level
    }
}

fn shape(what: &'static str, expected: u64, got: u64) -> DeviceError {
    DeviceError::Shape { what, expected, got }
}

impl Sealer for CpuDevice {
    fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        let expected = first_masks.len() as u64 * BYTES_PER_SEAL as u64;
        if data.len() as u64 != expected {
            return Err(shape("bytes to seal", expected, data.len() as u64));
        }
        let kernels = self.level.kernels();
        let groups = first_masks.par_chunks(kernels.lanes);
        self.pool.install(|| {
            groups.zip(data.par_chunks_mut(kernels.lanes * BYTES_PER_SEAL)).for_each(|(masks, data)| {
                if masks.len() == kernels.lanes {
                    // SAFETY: `with_threads` found the level's instructions on this processor.
                    unsafe { (kernels.seal)(masks, data) };
                } else {
                    // The last seals do not fill a vector.
                    for (mask, data) in masks.chunks(1).zip(data.chunks_exact_mut(BYTES_PER_SEAL)) {
                        // SAFETY: the portable level needs no special instructions.
                        unsafe { (kernels::portable::KERNELS.seal)(mask, data) };
                    }
                }
            });
        });
        Ok(())
    }
}

impl Prospector for CpuDevice {
    type Pads = Pads;
    type Loads = Loads;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn lane(&self) -> Result<Self, DeviceError> {
        Ok(CpuDevice { info: self.info.clone(), level: self.level, pool: self.pool.clone() })
    }

    /// One: its threads are the host's, so a second lane would only take turns.
    fn preferred_lanes(&self) -> usize {
        1
    }

    fn preferred_batch(&self) -> u32 {
        NONCES_PER_THREAD * self.info.compute_units
    }

    fn alloc_pads(&mut self, capacity: u32) -> Result<Pads, DeviceError> {
        let slots = (capacity as usize).next_multiple_of(self.level.kernels().lanes);
        Ok(Pads { bytes: Lines::new(slots * BYTES_PER_PAD), seeds: vec![[0; 64]; slots], drawn: 0, capacity })
    }

    fn draw(&mut self, job: &DrawJob, pads: &mut Pads, recall_seeds: &mut Vec<[u8; 32]>) -> Result<(), DeviceError> {
        if job.count > pads.capacity {
            return Err(shape("nonces to draw, at most", pads.capacity.into(), job.count.into()));
        }
        recall_seeds.clear();
        recall_seeds.resize(job.count as usize, [0; 32]);
        pads.drawn = job.count;
        let kernels = self.level.kernels();
        let bytes = pads.bytes.bytes_mut().par_chunks_mut(kernels.lanes * BYTES_PER_PAD);
        let seeds = pads.seeds.par_chunks_mut(kernels.lanes);
        let recall = recall_seeds.par_chunks_mut(kernels.lanes);
        self.pool.install(|| {
            recall.zip(bytes).zip(seeds).enumerate().for_each(|(group, ((recall, bytes), seeds))| {
                let first = (group * kernels.lanes) as u32;
                // SAFETY: `with_threads` found the level's instructions on this processor.
                unsafe { (kernels.draw)(job, first, bytes, seeds, recall) };
            });
        });
        Ok(())
    }

    fn alloc_loads(&mut self, capacity: u32) -> Result<Loads, DeviceError> {
        Ok(Loads(Arc::new((0..capacity).map(|_| RwLock::new(Lines::new(BYTES_PER_LOAD))).collect())))
    }

    fn upload_loads(&mut self, loads: &mut Loads, first_slot: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        if !bytes.len().is_multiple_of(BYTES_PER_LOAD) {
            let whole = bytes.len().next_multiple_of(BYTES_PER_LOAD);
            return Err(shape("bytes of whole loads", whole as u64, bytes.len() as u64));
        }
        let end = u64::from(first_slot) + (bytes.len() / BYTES_PER_LOAD) as u64;
        if end > loads.0.len() as u64 {
            return Err(shape("slots of loads, at most", loads.0.len() as u64, end));
        }
        let kernels = self.level.kernels();
        let slots = loads.0[first_slot as usize..end as usize].par_iter();
        self.pool.install(|| {
            slots.zip(bytes.par_chunks_exact(BYTES_PER_LOAD)).for_each(|(slot, bytes)| {
                let mut slot = slot.write().unwrap_or_else(PoisonError::into_inner);
                // SAFETY: `with_threads` found the level's instructions on this processor.
                unsafe { (kernels.arrange)(bytes, slot.bytes_mut()) };
            });
        });
        Ok(())
    }

    fn scan(
        &mut self,
        pads: &Pads,
        loads: &Loads,
        items: &[ScanItem],
        target: &[u8; 32],
        hits: &mut Vec<ScanHit>,
    ) -> Result<(), DeviceError> {
        for item in items {
            if item.pad_slot >= pads.drawn {
                return Err(shape("pad slot, below", pads.drawn.into(), item.pad_slot.into()));
            }
            if item.load_slot as usize >= loads.0.len() {
                return Err(shape("load slot, below", loads.0.len() as u64, item.load_slot.into()));
            }
        }
        let kernels = self.level.kernels();
        hits.clear();
        let found = Mutex::new(hits);
        self.pool.install(|| {
            items.par_iter().enumerate().for_each(|(index, item)| {
                let load = loads.0[item.load_slot as usize].read().unwrap_or_else(PoisonError::into_inner);
                let job = ScanJob {
                    pad: &pads.bytes.bytes()[item.pad_slot as usize * BYTES_PER_PAD..][..BYTES_PER_PAD],
                    pad_seed: &pads.seeds[item.pad_slot as usize],
                    load: load.bytes(),
                    available: item.available,
                    target,
                };
                let mut report = |seal, quality| {
                    let mut hits = found.lock().unwrap_or_else(PoisonError::into_inner);
                    hits.push(ScanHit { item: index as u32, seal, quality });
                };
                // SAFETY: `with_threads` found the level's instructions on this processor.
                unsafe { (kernels.scan)(&job, &mut report) };
            });
        });
        let hits = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        hits.sort_unstable();
        Ok(())
    }

    fn read_pad(&mut self, pads: &Pads, slot: u32) -> Result<Option<Box<[u8; BYTES_PER_PAD]>>, DeviceError> {
        if slot >= pads.drawn {
            return Err(shape("pad slot, below", pads.drawn.into(), slot.into()));
        }
        let pad = &pads.bytes.bytes()[slot as usize * BYTES_PER_PAD..][..BYTES_PER_PAD];
        Ok(pad.to_vec().into_boxed_slice().try_into().ok())
    }
}
