//! The one engine, shared by sealing and mining, on a thread of its own.
//!
//! While there is a puzzle, mining goes first: sealing gets at most a quarter of the engine's time, in slices, and at
//! least that when there is something to seal. Without a puzzle sealing has the engine for itself. Reading data and
//! writing seals takes no time of the engine.
//!
//! An engine that fails is dropped and opened anew after a while; a device that disagreed with the plain twin waits longer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time::{sleep, timeout},
};
use zgpu_core::device::{DeviceError, DeviceInfo};
use zgpu_miner::{Engine, Hit, MineCounters, MineError, Puzzle};

use super::{Control, source::StoreSource};
use crate::chain::watch::MiningState;

/// Opens a device again.
pub type Reopen = Arc<dyn Fn(&DeviceInfo) -> Result<Box<dyn Engine>, DeviceError> + Send + Sync>;

/// Least time that the engine mines before it is taken away for sealing, or told of new seals.
const LEAST_SLICE: Duration = Duration::from_millis(500);
/// Starting on a puzzle may take this part of the time that is then mined: 1/20.
const SLICES_PER_STARTUP: u32 = 20;
const MAX_SLICE: Duration = Duration::from_secs(30);
/// Mining has this many parts of the engine's time for one part of sealing.
const MINING_PARTS: f64 = 3.0;
/// Most seconds of sealing that are saved up.
const MAX_SAVED: f64 = 1.0;
/// How long the engine waits for further data while it may seal.
const NEXT_BATCH: Duration = Duration::from_millis(20);
/// Waits before a device that failed is opened anew: the first, and the longest that doubling leads to.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Wait before a device that disagreed with the plain twin is opened anew.
const QUARANTINE: Duration = Duration::from_secs(600);
/// Wait after sealed data could not be read.
const READ_PAUSE: Duration = Duration::from_secs(5);

/// Data to seal.
pub(super) struct SealBatch {
    /// First mask of each seal.
    pub(super) first_masks: Vec<[u8; 32]>,
    /// 4096 bytes for each.
    pub(super) data: Vec<u8>,
    /// Gets the sealed data; dropped when the engine failed.
    pub(super) done: oneshot::Sender<(Vec<u8>, OwnedSemaphorePermit)>,
    /// Its share of the memory for batches.
    pub(super) place: OwnedSemaphorePermit,
}

/// What the engine is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing is asked of it.
    #[default]
    Nothing,
    Sealing,
    Mining,
    /// It cannot mine the puzzle that is on, and why.
    Barred(String),
    /// The device failed, and what happens next.
    Failed(String),
}

/// What the engine tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EngineReport {
    pub(super) doing: Doing,
    pub(super) restarts: u64,
    /// Generation of the puzzle that it mined last.
    pub(super) puzzle: Option<u64>,
    /// Time that it mined, without the puzzle that it is on.
    mining: Duration,
    /// Since when it is on a puzzle.
    mining_since: Option<Instant>,
    pub(super) sealing: Duration,
}

impl EngineReport {
    /// Time that it mined.
    pub(super) fn mining_time(&self) -> Duration {
        self.mining + self.mining_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Why a puzzle is not mined for now.
struct Barred {
    generation: u64,
    /// Changes of the source when it was tried.
    changes: u64,
    until: Option<Instant>,
    reason: String,
}

enum Work {
    /// `costs`: mining waits for it.
    Seal {
        batch: SealBatch,
        costs: bool,
    },
    Mine(Arc<Puzzle>),
    Wait,
}

/// The channels and shared state that the engine's thread is connected to.
pub(super) struct EngineLinks {
    pub(super) reopen: Reopen,
    pub(super) state: watch::Receiver<MiningState>,
    pub(super) control: watch::Receiver<Control>,
    /// Whether as many hits wait as the epoch can take.
    pub(super) has_enough: watch::Receiver<bool>,
    pub(super) batches: mpsc::Receiver<SealBatch>,
    pub(super) source: StoreSource,
    pub(super) found: mpsc::Sender<(Arc<Puzzle>, Hit)>,
    pub(super) counters: Arc<MineCounters>,
    pub(super) report: watch::Sender<EngineReport>,
    pub(super) over: watch::Receiver<bool>,
}

/// What the thread of the engine works with.
pub(super) struct EngineLoop {
    links: EngineLinks,
    /// `None` while the device is broken.
    engine: Option<Box<dyn Engine>>,
    info: DeviceInfo,
    changes: watch::Receiver<u64>,
    barred: Option<Barred>,
    waiting: Option<SealBatch>,
    backoff: Duration,
    /// Seconds of sealing that mining has left to it; below 0 when sealing took more.
    saved: f64,
    slice: Duration,
}

impl EngineLoop {
    pub(super) fn new(engine: Box<dyn Engine>, links: EngineLinks) -> Self {
        EngineLoop {
            info: engine.info().clone(),
            engine: Some(engine),
            changes: links.source.changes(),
            links,
            barred: None,
            waiting: None,
            backoff: FIRST_BACKOFF,
            saved: 0.0,
            slice: LEAST_SLICE,
        }
    }

    /// Seals and mines until it is over. Blocks; to be called on a thread that may.
    pub(super) fn run(mut self) {
        let runtime = Handle::current();
        while !*self.links.over.borrow() {
            if self.engine.is_none() {
                runtime.block_on(self.wait(self.backoff, false));
                self.open_again();
                continue;
            }
            match self.next_work(&runtime) {
                Work::Seal { batch, costs } => self.seal(batch, costs),
                Work::Mine(puzzle) => self.mine(puzzle),
                Work::Wait => {
                    let generation = self.links.state.borrow().puzzle().map(|puzzle| puzzle.generation);
                    let doing = match &self.barred {
                        Some(barred) if Some(barred.generation) == generation => Doing::Barred(barred.reason.clone()),
                        _ => Doing::Nothing,
                    };
                    self.report(|report| report.doing = doing);
                    let limit = self.barred.as_ref().and_then(|barred| barred.until);
                    let limit = limit.map_or(MAX_SLICE, |until| until.saturating_duration_since(Instant::now()));
                    runtime.block_on(self.wait(limit, true));
                }
            }
        }
    }

    fn report(&self, change: impl FnOnce(&mut EngineReport)) {
        self.links.report.send_if_modified(|report| {
            let before = report.clone();
            change(report);
            *report != before
        });
    }

    fn next_work(&mut self, runtime: &Handle) -> Work {
        let puzzle = self.puzzle();
        if puzzle.is_none() || self.saved > 0.0 {
            let batch = self.waiting.take().or_else(|| self.links.batches.try_recv().ok());
            let batch = match &puzzle {
                // What is left of the slice may be waited for; it is sealing's time.
                Some(_) if batch.is_none() => {
                    let started = Instant::now();
                    let next = async { timeout(NEXT_BATCH, self.links.batches.recv()).await };
                    let next = runtime.block_on(next).ok().flatten();
                    self.saved = if next.is_some() { self.saved - started.elapsed().as_secs_f64() } else { 0.0 };
                    next
                }
                _ => batch,
            };
            if let Some(batch) = batch {
                return Work::Seal { batch, costs: puzzle.is_some() };
            }
        }
        match puzzle {
            Some(puzzle) => Work::Mine(puzzle),
            None => Work::Wait,
        }
    }

    /// The puzzle to mine now, if there is one and nothing is in the way.
    fn puzzle(&mut self) -> Option<Arc<Puzzle>> {
        let changes = *self.changes.borrow_and_update();
        let puzzle = self.links.state.borrow_and_update().puzzle().cloned();
        if !self.links.control.borrow_and_update().mine || *self.links.has_enough.borrow_and_update() {
            return None;
        }
        let puzzle = puzzle?;
        let is_barred = |barred: &Barred| {
            barred.generation == puzzle.generation
                && barred.changes == changes
                && barred.until.is_none_or(|until| Instant::now() < until)
        };
        if self.barred.as_ref().is_some_and(is_barred) {
            return None;
        }
        self.barred = None;
        Some(puzzle)
    }

    /// Waits for anything that may be work, at most `limit`. With a broken device only for the end.
    async fn wait(&mut self, limit: Duration, for_work: bool) {
        let links = &mut self.links;
        tokio::select! {
            _ = links.over.wait_for(|over| *over) => {}
            () = sleep(limit) => {}
            Some(batch) = links.batches.recv(), if for_work && self.waiting.is_none() => self.waiting = Some(batch),
            Ok(()) = links.state.changed(), if for_work => {}
            Ok(()) = links.control.changed(), if for_work => {}
            Ok(()) = links.has_enough.changed(), if for_work => {}
            Ok(()) = self.changes.changed(), if for_work => {}
        }
    }

    fn seal(&mut self, mut batch: SealBatch, costs: bool) {
        let Some(engine) = &mut self.engine else { return };
        let started = Instant::now();
        self.links.report.send_modify(|report| report.doing = Doing::Sealing);
        let result = engine.seal(&batch.first_masks, &mut batch.data);
        let took = started.elapsed();
        if costs {
            self.saved -= took.as_secs_f64();
        }
        self.report(|report| report.sealing += took);
        match result {
            Ok(()) => {
                self.backoff = FIRST_BACKOFF;
                // Nobody waits for it when mining stops.
                let _ = batch.done.send((batch.data, batch.place));
            }
            Err(error) => self.drop_engine(&error.to_string(), self.backoff),
        }
    }

    /// Mines until the puzzle is replaced, sealing has its turn, new seals are to be seen, or it is over.
    fn mine(&mut self, puzzle: Arc<Puzzle>) {
        let Some(engine) = &mut self.engine else { return };
        let links = &self.links;
        let (started, changes) = (Instant::now(), *self.changes.borrow());
        let nonces = links.counters.nonces.load(Ordering::Relaxed);
        let is_waiting = self.waiting.is_some();
        // Nanoseconds until the first nonces were drawn; 0 before.
        let startup = AtomicU64::new(0);
        let has_turned = || {
            if startup.load(Ordering::Relaxed) == 0 && links.counters.nonces.load(Ordering::Relaxed) != nonces {
                startup.store(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
            }
            let has_saved = || self.saved + started.elapsed().as_secs_f64() / MINING_PARTS > 0.0;
            let has_batch = || is_waiting || !links.batches.is_empty();
            let is_wanted = || has_batch() && has_saved() || *self.changes.borrow() != changes;
            *links.over.borrow()
                || !links.control.borrow().mine
                || *links.has_enough.borrow()
                || links.state.borrow().puzzle().is_none_or(|now| now.generation != puzzle.generation)
                || started.elapsed() >= self.slice && is_wanted()
        };
        // A full channel makes the engine wait; a closed one means that nobody wants hits any more.
        let mut on_hit = |hit| drop(links.found.blocking_send((puzzle.clone(), hit)));
        links.report.send_modify(|report| {
            (report.doing, report.mining_since) = (Doing::Mining, Some(started));
            report.puzzle = Some(puzzle.generation);
        });
        let result = engine.mine(&puzzle, &links.source, &has_turned, &mut on_hit, &links.counters);

        let took = started.elapsed();
        self.saved = (self.saved + took.as_secs_f64() / MINING_PARTS).min(MAX_SAVED);
        let startup = Duration::from_nanos(startup.into_inner());
        self.slice = (startup * SLICES_PER_STARTUP).clamp(LEAST_SLICE, MAX_SLICE);
        self.report(|report| (report.mining, report.mining_since) = (report.mining + took, None));
        let bar = |until, reason| Some(Barred { generation: puzzle.generation, changes, until, reason });
        match result {
            Ok(()) => self.backoff = FIRST_BACKOFF,
            Err(error @ (MineError::NothingHeld { .. } | MineError::Range(_) | MineError::Puzzle(_))) => {
                self.barred = bar(None, error.to_string());
            }
            Err(error @ MineError::Read { .. }) => {
                tracing::error!(%error, "mining pauses");
                self.barred = bar(Some(Instant::now() + READ_PAUSE), error.to_string());
            }
            Err(error @ MineError::Device(_)) => self.drop_engine(&error.to_string(), self.backoff),
            Err(error @ (MineError::Disagreement(_) | MineError::Quarantined { .. })) => {
                self.drop_engine(&error.to_string(), QUARANTINE);
            }
        }
    }

    fn drop_engine(&mut self, error: &str, wait: Duration) {
        self.engine = None;
        self.backoff = wait;
        tracing::error!(%error, seconds = wait.as_secs(), "the device failed, it will be opened anew");
        let text = format!("{error}; the device is opened anew in {} s", wait.as_secs());
        self.report(|report| report.doing = Doing::Failed(text));
    }

    fn open_again(&mut self) {
        if *self.links.over.borrow() {
            return;
        }
        let next = (self.backoff * 2).min(MAX_BACKOFF);
        match (self.links.reopen)(&self.info) {
            Ok(engine) => {
                tracing::info!(device = %self.info.name, "the device is open again");
                self.engine = Some(engine);
                // Reset by the first work that succeeds.
                self.backoff = next;
                self.report(|report| (report.restarts, report.doing) = (report.restarts + 1, Doing::Nothing));
            }
            Err(error) => self.drop_engine(&error.to_string(), next),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;
    use tokio::sync::Semaphore;
    use zgpu_core::{
        digest::H256,
        file::SubmissionNode,
        tree::zero_root,
        units::{BYTES_PER_LOAD, SEALS_PER_LOAD},
    };
    use zgpu_miner::{
        MineRange,
        cpu::{CpuDevice, Level},
        engine::{EngineOptions, engine_on},
    };

    use super::*;
    use crate::store::{SealedLoad, Store, Transaction};

    const MINER: H256 = H256([7; 32]);

    /// A store with two loads of zeros behind the first, sealed: any bytes do.
    fn store(dir: &std::path::Path) -> Store {
        let store = Store::open(dir).unwrap();
        let nodes = vec![SubmissionNode { root: zero_root(11), height: 11 }];
        let data_root = zgpu_core::file::submission_root(&nodes).unwrap();
        store.append(&Transaction { seq: 0, data_root, start: 2048, size_bytes: 2048 * 256, nodes }).unwrap();
        let seals: Vec<(u32, H256)> = (0..SEALS_PER_LOAD as u32).map(|seal| (seal, MINER)).collect();
        let bytes = vec![3; BYTES_PER_LOAD];
        let sealed = [2, 3].map(|load| SealedLoad { load, revision: store.revision(), seals: &seals, bytes: &bytes });
        store.put_sealed(&MINER, &sealed).unwrap();
        store
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn neither_sealing_nor_mining_starves() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let puzzle = Puzzle {
            generation: 1,
            miner_id: MINER,
            context_digest: H256([1; 32]),
            flow_root: H256([2; 32]),
            flow_length: 4096,
            subtask_digest: H256([3; 32]),
            // No hash is so small.
            pora_target: U256::from(1),
            range: MineRange::choose(4096, Default::default(), 0).unwrap(),
        };
        let (_state, state) = watch::channel(MiningState::Ready(Arc::new(puzzle)));
        let (_control, control) = watch::channel(Control { mine: true, start_position: 0 });
        let (_enough, has_enough) = watch::channel(false);
        let (over, is_over) = watch::channel(false);
        let (report, reports) = watch::channel(EngineReport::default());
        let (sender, batches) = mpsc::channel(4);
        let (found, _hits) = mpsc::channel(1);
        let counters = Arc::new(MineCounters::default());
        let device = CpuDevice::with_threads(Level::Portable, 1).unwrap();
        let engine = engine_on(device, EngineOptions { memory_bytes: Some(8 << 20) }).unwrap();
        let links = EngineLinks {
            reopen: Arc::new(|_| unreachable!("the device works")),
            state,
            control,
            has_enough,
            batches,
            source: StoreSource::new(store, MINER, 0..u64::MAX),
            found,
            counters: counters.clone(),
            report,
            over: is_over,
        };
        let thread = tokio::task::spawn_blocking(move || EngineLoop::new(engine, links).run());

        // There is always something to seal.
        let places = Arc::new(Semaphore::new(6));
        let mut longest = Duration::ZERO;
        let mut mined = Vec::new();
        for _ in 0..12 {
            let (done, sealed) = oneshot::channel();
            let place = places.clone().acquire_owned().await.unwrap();
            let before = reports.borrow().sealing;
            let batch = SealBatch { first_masks: vec![[1; 32]; 1024], data: vec![0; 4 << 20], done, place };
            assert!(sender.send(batch).await.is_ok());
            let (data, _) = sealed.await.expect("it is sealed");
            assert!(data[..4096] != [0; 4096]);
            longest = longest.max(reports.borrow().sealing - before);
            mined.push(counters.get().nonces);
        }
        let report = reports.borrow().clone();
        assert!(mined[0] > 0 && mined[11] > mined[0], "mining goes first and goes on: {mined:?}");
        let allowed = report.mining_time().as_secs_f64() / MINING_PARTS + longest.as_secs_f64();
        assert!(report.sealing.as_secs_f64() <= allowed, "{report:?}, the longest batch took {longest:?}");
        over.send_replace(true);
        thread.await.unwrap();
    }
}
