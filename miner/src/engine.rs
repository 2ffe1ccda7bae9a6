//! The engine that a node uses: one object per device, whatever the device is.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
};

use zgpu_core::{
    device::{BackendChoice, BackendKind, DeviceError, DeviceInfo, UnusableDevice},
    digest::H256,
    work::DrawJob,
};

use crate::{
    answer::Hit,
    backends::{self, DeviceVisitor},
    cpu,
    prospect::DeviceEngine,
    puzzle::{Puzzle, PuzzleError, RangeError},
    seam::{Prospector, Sealer},
};

/// A load that is there in sealed form, whole or in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldLoad {
    /// Its index in the flow.
    pub load: u64,
    /// Bit `i` is set when seal `i` is there.
    pub available: u64,
}

/// Where sealed loads come from.
pub trait LoadSource: Sync {
    /// Every load of which a seal is there. An engine asks once per [`Engine::mine`].
    fn held(&self) -> Vec<HeldLoad>;

    /// Reads the 256 KiB of a load and returns which seals are there as read (bit `i`: seal `i`).
    fn read(&self, load: u64, into: &mut [u8]) -> io::Result<u64>;

    /// Raised whenever bytes of seals that were there already have changed (a reorg, another miner id):
    /// an engine then forgets the loads it keeps in fast memory.
    fn version(&self) -> u64 {
        0
    }
}

/// What an engine has done, for others to read while it runs.
#[derive(Debug, Default)]
pub struct MineCounters {
    /// Nonces drawn.
    pub nonces: AtomicU64,
    /// Loads scanned, one for each nonce whose load is there.
    pub loads: AtomicU64,
    /// Loads read from the source.
    pub reads: AtomicU64,
    /// Hits reported.
    pub hits: AtomicU64,
    /// Hits dropped because the source's bytes changed under them.
    pub stale: AtomicU64,
    /// Nanoseconds that lanes spent drawing.
    pub draw_nanos: AtomicU64,
    /// Nanoseconds that lanes spent reading and uploading.
    pub read_nanos: AtomicU64,
    /// Nanoseconds that lanes spent scanning.
    pub scan_nanos: AtomicU64,
}

/// [`MineCounters`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MineCounts {
    /// Nonces drawn.
    pub nonces: u64,
    /// Loads scanned.
    pub loads: u64,
    /// Loads read from the source.
    pub reads: u64,
    /// Hits reported.
    pub hits: u64,
    /// Hits dropped because the source's bytes changed under them.
    pub stale: u64,
    /// Nanoseconds that lanes spent drawing.
    pub draw_nanos: u64,
    /// Nanoseconds that lanes spent reading and uploading.
    pub read_nanos: u64,
    /// Nanoseconds that lanes spent scanning.
    pub scan_nanos: u64,
}

impl MineCounters {
    /// The counts now.
    pub fn get(&self) -> MineCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MineCounts {
            nonces: load(&self.nonces),
            loads: load(&self.loads),
            reads: load(&self.reads),
            hits: load(&self.hits),
            stale: load(&self.stale),
            draw_nanos: load(&self.draw_nanos),
            read_nanos: load(&self.read_nanos),
            scan_nanos: load(&self.scan_nanos),
        }
    }
}

/// A hit on which a device and the plain twin differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{device} is quarantined: seal {seal} of load {load}, nonce {nonce}: it says {got}, the plain twin {expected}")]
pub struct Disagreement {
    /// Name of the device.
    pub device: String,
    /// The nonce.
    pub nonce: H256,
    /// Index of the load in the flow.
    pub load: u64,
    /// The seal.
    pub seal: u32,
    /// Quality that the device reported.
    pub got: H256,
    /// Quality by the twin; when it is equal, the load, the seal or the target is what differs.
    pub expected: H256,
}

/// Why mining stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum MineError {
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The puzzle's range breaks a rule of the contract.
    #[error("the mining range is refused: {0}")]
    Range(#[from] RangeError),
    /// The puzzle has no answer.
    #[error(transparent)]
    Puzzle(#[from] PuzzleError),
    /// No load of the range is there.
    #[error("none of the {held} loads held lies in the mining range of {loads} loads")]
    NothingHeld {
        /// Loads held, anywhere.
        held: usize,
        /// Loads in the range.
        loads: u64,
    },
    /// The source failed.
    #[error("load {load} cannot be read: {error}")]
    Read {
        /// Index of the load in the flow.
        load: u64,
        /// What went wrong.
        error: io::Error,
    },
    /// The device's result differs from the plain twin's. Nothing it returns can be trusted any more.
    #[error(transparent)]
    Disagreement(Box<Disagreement>),
    /// The device disagreed earlier and is not used again.
    #[error("{device} is quarantined since it disagreed with the plain twin; open it anew after checking the hardware")]
    Quarantined {
        /// Name of the device.
        device: String,
    },
}

/// What a device makes of one load for one nonce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Recall seed of the nonce.
    pub recall_seed: [u8; 32],
    /// The scratch pad, where the device lets the host see it.
    pub pad: Option<Vec<u8>>,
    /// Seals that meet the target, with their qualities.
    pub hits: Vec<(u32, [u8; 32])>,
}

/// A device that seals and mines.
pub trait Engine: Send {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// Seals consecutive seals in place. `data`: 4096 bytes for each of `first_masks`; see [`crate::plain::first_mask`].
    fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError>;

    /// Draws the first nonce of `job` and hashes one load (256 KiB) against it: for checks, not for mining.
    fn probe(&mut self, job: &DrawJob, load: &[u8], available: u64, target: &[u8; 32]) -> Result<Probe, DeviceError>;

    /// Draws and scans until `stop` says so. Every hit is re-checked by the plain twin before `on_hit` sees it; a device
    /// that disagrees is quarantined. All winning seals of a load are reported.
    fn mine(
        &mut self,
        puzzle: &Puzzle,
        source: &dyn LoadSource,
        stop: &(dyn Fn() -> bool + Sync),
        on_hit: &mut (dyn FnMut(Hit) + Send),
        progress: &MineCounters,
    ) -> Result<(), MineError>;
}

/// How to open an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineOptions {
    /// Bytes that loads and pads may take; `None` takes three quarters of the device's memory.
    pub memory_bytes: Option<u64>,
}

/// Every device that can be opened, the fastest kind first, and why others cannot.
pub fn devices() -> (Vec<DeviceInfo>, Vec<UnusableDevice>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for (devices, others) in [backends::list(BackendKind::Cuda), backends::list(BackendKind::Wgpu), cpu::list()] {
        usable.extend(devices);
        unusable.extend(others);
    }
    (usable, unusable)
}

/// Opens the device that `choice` names; errors carry the reason and a remedy.
pub fn open(choice: BackendChoice) -> Result<Box<dyn Engine>, DeviceError> {
    open_with(choice, EngineOptions::default())
}

/// As [`open`], with options.
pub fn open_with(choice: BackendChoice, options: EngineOptions) -> Result<Box<dyn Engine>, DeviceError> {
    backends::with_device(choice, NewEngine(options))?
}

/// Opens one device by its backend and its index there, as [`devices`] shows them.
pub fn open_at(backend: BackendKind, index: usize, options: EngineOptions) -> Result<Box<dyn Engine>, DeviceError> {
    backends::with_device_at(backend, index, NewEngine(options))?
}

/// An engine on a device that the caller opened.
pub fn engine_on<P>(device: P, options: EngineOptions) -> Result<Box<dyn Engine>, DeviceError>
where
    P: Prospector + Sealer + 'static,
{
    NewEngine(options).visit(device)
}

struct NewEngine(EngineOptions);

impl DeviceVisitor for NewEngine {
    type Output = Result<Box<dyn Engine>, DeviceError>;

    fn visit<P: Prospector + Sealer + 'static>(self, device: P) -> Self::Output {
        Ok(Box::new(DeviceEngine::new(device, self.0)?))
    }
}
