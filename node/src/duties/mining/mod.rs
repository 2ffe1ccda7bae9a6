//! Sealing and mining for as long as the node runs.
//!
//! [`Mining::start`] waits until the log is read and a miner id is there, then three tasks and a thread work together:
//! *sealing* finds data that is not sealed, the *engine* seals it and mines (see [`engine`] for how it is shared), and
//! *answering* turns hits into answers as far as they pay. What each of them waits for is in [`MiningStatus`], in words.
//! Nothing that goes wrong here ends the node: a part that breaks, which would be a fault of this program, ends the mining
//! alone, and with it the status, so that whoever started it can start it anew.
//!
//! Which shard is declared: none while the flow is at most 8 TiB. Holding one part of n, a miner finds as many hits per
//! nonce whether it declares that or not, and nonces whose load is not held cost no reading; but a load that is read gives
//! n times the tickets when nothing is declared. Beyond 8 TiB a range covers 8 TiB for each declared shard, so the
//! store's own shard is declared, as far as the chain allows that many.

mod answering;
mod batch;
mod engine;
pub(crate) mod identity;
mod proof;
mod sealing;
mod source;
mod status;

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::{Address, U256};
use tokio::{
    sync::{Semaphore, broadcast, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use zgpu_core::{digest::H256, shard::Shard, units::SECTORS_PER_MAX_MINING_RANGE};
use zgpu_miner::{Engine, MineCounters, Puzzle, engine::open_at};

use self::{
    answering::{AnswerLinks, AnswerPolicy, Answering, Tally},
    engine::{Doing, EngineLinks, EngineLoop, EngineReport},
    identity::find_miner_id,
    sealing::{BATCHES, BATCHES_WAITING, ContextCheck, SealProgress, Sealing},
    source::StoreSource,
    status::History,
};
pub use self::{
    engine::Reopen,
    status::{MiningPhase, MiningStatus, NonceRates},
};
use crate::{
    chain::{
        client::{ChainClient, MineContext, MinerConfig},
        contracts::PoraMine,
        keys::Key,
        submit::{SubmitCounters, SubmitOptions, Submitted, Submitter},
        tx::{TxManager, TxPolicy},
        watch::{ContextWatcher, MiningState, WatchOptions},
    },
    duties::{blocking, sync::SyncStatus},
    rpc::MinerCommand,
    store::Store,
};

/// Hits that wait to be looked at. An engine that finds more waits, so memory stays bounded.
const HITS_WAITING: usize = 1024;
/// Commands that wait.
const COMMANDS_WAITING: usize = 16;
/// Outcomes that a slow listener may be behind.
const OUTCOMES_KEPT: usize = 1024;
/// How often the status is put together.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// Least time between two phases in the log.
const LOG_EVERY: Duration = Duration::from_secs(5);
/// How long the parts are waited for at the end.
const STOP_WITHIN: Duration = Duration::from_millis(1800);
/// Waits before a failed start is tried again: the first, and the longest that doubling leads to.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How to seal and mine.
#[derive(Clone)]
pub struct MiningConfig {
    /// The miner id; without one the store's is used, or one is registered.
    pub miner_id: Option<H256>,
    /// Whether a miner id may be registered, for gas, when there is none. Default true.
    pub may_register: bool,
    /// Who has to be paid for answers; default: the account of the key.
    pub beneficiary: Option<Address>,
    /// Shard that answers declare. `None`, the default, decides as the module's documentation says.
    pub shard: Option<Shard>,
    /// First sector to mine from where the flow is longer than a range may be. Default 0.
    pub start_position: u64,
    /// Loads of the flow that are sealed and mined. Default: all.
    pub loads: Range<u64>,
    /// Whether it mines from the start, or waits for [`MinerCommand::Start`]. Default true. It seals in any case.
    pub mine: bool,
    /// Wei that an answer has to earn beyond its gas. Default 0: none is sent that costs more than it earns. `None` sends
    /// whatever it earns. Where the reward contract does not tell, answers are sent.
    pub min_profit: Option<U256>,
    /// Accepted answers after which no more are sent; default: no end.
    pub wanted: Option<u64>,
    /// How transactions are sent; has the cap on the price of gas.
    pub tx: TxPolicy,
    /// How answers are sent.
    pub submit: SubmitOptions,
    /// How the context is followed.
    pub watch: WatchOptions,
    /// Status of the log sync, whose reorganisations are heard of; without it only those that show in the store or in the
    /// epoch's context are.
    pub sync: Option<watch::Receiver<SyncStatus>>,
    /// How a device that failed is opened anew. Default: the same device by its backend and index, with all of its memory.
    pub reopen: Reopen,
}

impl Default for MiningConfig {
    fn default() -> Self {
        MiningConfig {
            miner_id: None,
            may_register: true,
            beneficiary: None,
            shard: None,
            start_position: 0,
            loads: 0..u64::MAX,
            mine: true,
            min_profit: Some(U256::ZERO),
            wanted: None,
            tx: TxPolicy::default(),
            submit: SubmitOptions::default(),
            watch: WatchOptions::default(),
            sync: None,
            reopen: Arc::new(|info| open_at(info.backend, info.index, Default::default())),
        }
    }
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Control {
    mine: bool,
    start_position: u64,
}

/// Sealing and mining, under way. It ends when this is dropped; [`Mining::stop`] also waits for it.
#[derive(Debug)]
pub struct Mining {
    status: watch::Receiver<MiningStatus>,
    commands: mpsc::Sender<MinerCommand>,
    outcomes: broadcast::Sender<Submitted>,
    over: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Mining {
    fn drop(&mut self) {
        self.over.send_replace(true);
    }
}

impl Mining {
    /// Starts, once `caught_up` is true. The account of `key` pays for gas. To be called in a tokio runtime.
    pub fn start(
        chain: ChainClient,
        store: Store,
        engine: Box<dyn Engine>,
        key: Key,
        config: MiningConfig,
        caught_up: watch::Receiver<bool>,
    ) -> Mining {
        let first = MiningStatus::new(engine.info().name.clone(), key.address());
        let (status_sender, status) = watch::channel(first);
        let (commands, orders) = mpsc::channel(COMMANDS_WAITING);
        let (over, is_over) = watch::channel(false);
        let outcomes = broadcast::Sender::new(OUTCOMES_KEPT);
        let control = Control { mine: config.mine, start_position: config.start_position };
        let director = Director {
            beneficiary: config.beneficiary.unwrap_or(key.address()),
            txs: TxManager::new(chain.rpc().clone(), chain.chain_id(), key, config.tx.clone()),
            chain,
            store,
            config,
            status: status_sender,
            control: watch::Sender::new(control),
            outcomes: outcomes.clone(),
            over: is_over,
            places: Arc::new(Semaphore::new(BATCHES)),
            thread: None,
            logged_at: None,
        };
        let task = tokio::spawn(director.run(engine, orders, caught_up));
        Mining { status, commands, outcomes, over, task }
    }

    /// What it is doing, now and whenever it changes. The sender goes when mining ends.
    pub fn status(&self) -> watch::Receiver<MiningStatus> {
        self.status.clone()
    }

    /// Where commands of the operator go.
    pub fn commands(&self) -> mpsc::Sender<MinerCommand> {
        self.commands.clone()
    }

    /// What becomes of each answer from now on. A receiver that is slow loses the oldest; the status counts all.
    pub fn outcomes(&self) -> broadcast::Receiver<Submitted> {
        self.outcomes.subscribe()
    }

    /// Ends, within 2 seconds: a batch of the engine is not waited for longer than that. Answers that were sent are on
    /// their way, those that were not are dropped.
    pub async fn stop(mut self) {
        self.over.send_replace(true);
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "mining broke");
        }
    }
}

/// What starts the parts and watches over them.
struct Director {
    chain: ChainClient,
    store: Store,
    txs: TxManager,
    config: MiningConfig,
    beneficiary: Address,
    status: watch::Sender<MiningStatus>,
    control: watch::Sender<Control>,
    outcomes: broadcast::Sender<Submitted>,
    over: watch::Receiver<bool>,
    /// Memory for batches; all of it is free when nothing reads or writes any more.
    places: Arc<Semaphore>,
    /// Of the engine.
    thread: Option<JoinHandle<()>>,
    /// When a phase was last logged.
    logged_at: Option<Instant>,
}

impl Director {
    async fn run(
        mut self,
        engine: Box<dyn Engine>,
        orders: mpsc::Receiver<MinerCommand>,
        caught_up: watch::Receiver<bool>,
    ) {
        let mut over = self.over.clone();
        let control = self.control.clone();
        tokio::select! {
            () = self.work(engine, caught_up) => {}
            () = obey(orders, control) => {}
            _ = over.wait_for(|over| *over) => {}
        }
        // The tasks went with the future above; this is for what runs on threads.
        let places = self.places.clone();
        let ended = async {
            if let Some(thread) = &mut self.thread
                && let Err(error) = thread.await
            {
                tracing::error!(%error, "the engine's thread broke");
            }
            let _ = places.acquire_many(BATCHES as u32).await;
        };
        if timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("the device does not come to an end; it is left behind");
        }
    }

    fn set_phase(&mut self, phase: MiningPhase) {
        self.log_phase(&phase);
        self.status.send_if_modified(|status| std::mem::replace(&mut status.phase, phase) != status.phase);
    }

    fn log_phase(&mut self, phase: &MiningPhase) {
        let before = self.status.borrow().phase.clone();
        let is_other = std::mem::discriminant(&before) != std::mem::discriminant(phase);
        if is_other && self.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged_at = Some(Instant::now());
            tracing::info!("mining: {phase}");
        } else if before != *phase {
            tracing::debug!("mining: {phase}");
        }
    }

    /// Goes through everything that is needed before there is anything to do, and then does it until a part breaks.
    async fn work(&mut self, engine: Box<dyn Engine>, mut caught_up: watch::Receiver<bool>) {
        if !*caught_up.borrow() {
            let reason = "the log of the chain is not read to its end yet".to_owned();
            self.set_phase(MiningPhase::Waiting { reason });
        }
        if caught_up.wait_for(|caught_up| *caught_up).await.is_err() {
            let reason = "following the log has ended before it was read to its end".to_owned();
            return self.set_phase(MiningPhase::Failed { reason });
        }
        let miner_id = self.miner_id().await;
        let max_shards = self.max_shards().await;
        let parts = self.start_parts(engine, miner_id, max_shards);
        self.watch_over(parts).await;
    }

    /// Asks until there is a miner id.
    async fn miner_id(&mut self) -> H256 {
        let mut wait = FIRST_RETRY;
        loop {
            let (configured, may_register) = (self.config.miner_id, self.config.may_register);
            let found =
                find_miner_id(&self.chain, &self.store, &self.txs, configured, self.beneficiary, may_register).await;
            let reason = match found {
                Ok(miner_id) => return miner_id,
                Err(error) if error.may_pass() => MiningPhase::Waiting { reason: error.to_string() },
                Err(error) => MiningPhase::Failed { reason: error.to_string() },
            };
            self.set_phase(reason);
            sleep(wait).await;
            wait = (wait * 2).min(MAX_RETRY);
        }
    }

    /// Asks until the chain says how many shards may be declared.
    async fn max_shards(&mut self) -> u64 {
        loop {
            match self.chain.read(self.chain.contracts().mine, PoraMine::maxShardsCall {}).await {
                Ok(max_shards) => return max_shards,
                Err(error) => self.set_phase(MiningPhase::Waiting { reason: error.to_string() }),
            }
            sleep(FIRST_RETRY).await;
        }
    }

    fn miner(&self, miner_id: H256, max_shards: u64) -> MinerConfig {
        let decided = || declared_shard(self.store.flow_length(), self.store.shard(), max_shards);
        let start_position = self.control.borrow().start_position;
        MinerConfig { miner_id, shard: self.config.shard.unwrap_or_else(decided), start_position }
    }

    fn start_parts(&mut self, engine: Box<dyn Engine>, miner_id: H256, max_shards: u64) -> Parts {
        let (chain, store, loads) = (self.chain.clone(), self.store.clone(), self.config.loads.clone());
        let source = StoreSource::new(store.clone(), miner_id, loads.clone());
        let watcher = ContextWatcher::start(chain.clone(), self.miner(miner_id, max_shards), self.config.watch.clone());
        let (state, context) = (watcher.state(), watcher.context());
        let submitter = Submitter::start(chain.clone(), self.txs.clone(), state.clone(), self.config.submit.clone());
        let answers = submitter.counters();
        let counters = Arc::new(MineCounters::default());
        let (reorgs, reorged) = watch::channel(0);
        let (enough_sender, has_enough) = watch::channel(false);
        let (batch_sender, batches) = mpsc::channel(BATCHES_WAITING);
        let (found, hits) = mpsc::channel(HITS_WAITING);
        let (report_sender, report) = watch::channel(EngineReport::default());
        let (tally_sender, tally) = watch::channel(Tally::default());
        let (progress_sender, progress) = watch::channel(SealProgress::default());

        let links = EngineLinks {
            reopen: self.config.reopen.clone(),
            state: state.clone(),
            control: self.control.subscribe(),
            has_enough: has_enough.clone(),
            batches,
            source: source.clone(),
            found,
            counters: counters.clone(),
            report: report_sender,
            over: self.over.clone(),
        };
        self.thread = Some(tokio::task::spawn_blocking(move || EngineLoop::new(engine, links).run()));
        let mut tasks = JoinSet::new();
        let sealing = Sealing {
            chain: chain.clone(),
            store: store.clone(),
            miner_id,
            loads,
            context: context.clone(),
            reorgs: reorged.clone(),
            batches: batch_sender,
            places: self.places.clone(),
            source: source.clone(),
            progress: progress_sender,
        };
        tasks.spawn(sealing.run());
        let check = ContextCheck {
            chain: chain.clone(),
            store: store.clone(),
            context: context.clone(),
            reorgs: reorged,
            source: source.clone(),
        };
        tasks.spawn(check.run());
        let links = AnswerLinks {
            chain,
            store,
            source: source.clone(),
            txs: self.txs.clone(),
            submitter,
            hits,
            state: state.clone(),
            context: context.clone(),
            control: self.control.subscribe(),
            reorgs: reorgs.clone(),
            has_enough: enough_sender,
            tally: tally_sender,
            outcomes: self.outcomes.clone(),
        };
        let policy = AnswerPolicy {
            min_profit: self.config.min_profit,
            wanted: self.config.wanted,
            in_flight: self.config.submit.in_flight.max(1),
            beneficiary: self.beneficiary,
            max_shards,
        };
        tasks.spawn(Answering::new(links, policy).run());
        Parts {
            miner_id,
            max_shards,
            shard: Shard::WHOLE,
            watcher,
            tasks,
            state,
            context,
            reorgs,
            has_enough,
            source,
            counters,
            answers,
            report,
            tally,
            progress,
            history: History::default(),
            held: (0, 0),
        }
    }

    /// Puts the status together, tells of reorganisations, and passes on what the operator wants, until a part breaks.
    async fn watch_over(&mut self, mut parts: Parts) {
        let mut ticks = tokio::time::interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut log, mut changes) = (self.store.watch_log(), parts.source.changes());
        changes.mark_changed();
        let history = |director: &Director| {
            let reorgs = director.config.sync.as_ref().map_or(0, |sync| sync.borrow().reorgs);
            (director.store.revision(), reorgs)
        };
        let share = |store: &Store| (store.shard(), store.pruned_below());
        let (mut last_history, mut last_share) = (history(self), share(&self.store));
        let mut last_context: Option<MineContext> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = parts.context.changed() => {}
                Ok(()) = log.changed() => {}
                Some(ended) = parts.tasks.join_next() => {
                    let reason = match ended {
                        Ok(()) => "a part of it ended".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    return self.break_down(&reason);
                }
            }
            if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                return self.break_down("the engine's thread ended");
            }
            let context = *parts.context.borrow_and_update();
            log.borrow_and_update();
            let now = history(self);
            if now != last_history || is_reorganised(last_context.as_ref(), context.as_ref()) {
                tracing::warn!("the chain was reorganised, the contexts of the seals are checked");
                parts.reorgs.send_modify(|reorgs| *reorgs += 1);
                parts.source.reload();
            }
            let kept = share(&self.store);
            if kept != last_share {
                parts.source.reload();
            }
            (last_context, last_history, last_share) = (context, now, kept);
            let miner = self.miner(parts.miner_id, parts.max_shards);
            parts.shard = miner.shard;
            parts.watcher.set_miner(miner);
            if changes.has_changed().unwrap_or(false) {
                changes.borrow_and_update();
                let source = parts.source.clone();
                match blocking(move || source.count()).await {
                    Ok(held) => parts.held = held,
                    Err(error) => tracing::error!(%error, "the sealed loads cannot be counted"),
                }
            }
            self.show(&mut parts);
        }
    }

    fn break_down(&mut self, reason: &str) {
        tracing::error!(%reason, "mining broke");
        self.set_phase(MiningPhase::Failed { reason: format!("it broke: {reason}") });
    }

    fn show(&mut self, parts: &mut Parts) {
        let counts = parts.counters.get();
        parts.history.take(Instant::now(), counts);
        let (report, tally, progress) =
            (parts.report.borrow().clone(), parts.tally.borrow().clone(), parts.progress.borrow().clone());
        let context = *parts.context.borrow();
        let puzzle = parts.state.borrow().puzzle().cloned();
        let phase = self.phase(parts, &report, &tally, &progress);
        self.log_phase(&phase);
        self.status.send_if_modified(|status| {
            let now = MiningStatus {
                phase,
                trouble: tally.trouble.or(progress.trouble),
                device: status.device.clone(),
                device_restarts: report.restarts,
                miner_id: Some(parts.miner_id),
                account: status.account,
                epoch: context.map(|context| context.epoch),
                context: context.map(|context| context.digest),
                flow_length: context.map_or(0, |context| context.flow_length),
                loads_held: parts.held.0,
                seals_held: parts.held.1,
                loads_in_range: puzzle.as_ref().map_or(0, |puzzle| puzzle.range.loads()),
                range_start: puzzle.as_ref().map_or(0, |puzzle| puzzle.range.start_position),
                declared_shard: parts.shard,
                loads_left: progress.loads_left,
                seals_left_is_least: progress.more,
                sealed_bytes: progress.sealed_bytes,
                counts,
                rates: parts.history.nonce_rates(),
                seconds_per_hit: puzzle.and_then(|puzzle| parts.seconds_per_hit(&puzzle)),
                mining_seconds: report.mining_time().as_secs_f64(),
                sealing_seconds: report.sealing.as_secs_f64(),
                answers: parts.answers.borrow().clone(),
                hits_waiting: tally.waiting,
                unprofitable: tally.unprofitable,
                late: tally.late,
                surplus: tally.surplus,
                unprovable: tally.unprovable,
                claimable: tally.claimable,
            };
            let changed = *status != now;
            *status = now;
            changed
        });
    }

    /// What it is doing, or the first thing that is in the way.
    fn phase(&self, parts: &Parts, report: &EngineReport, tally: &Tally, progress: &SealProgress) -> MiningPhase {
        if let Doing::Failed(reason) = &report.doing {
            return MiningPhase::Waiting { reason: reason.clone() };
        }
        if !self.control.borrow().mine {
            return MiningPhase::Stopped;
        }
        let sealing = MiningPhase::Sealing { loads_left: progress.loads_left };
        let waiting = |reason: String| MiningPhase::Waiting { reason };
        let is_on = |puzzle: &Puzzle| report.puzzle == Some(puzzle.generation);
        match (&*parts.state.borrow(), &report.doing) {
            // Slices of sealing in between are part of it.
            (MiningState::Ready(puzzle), Doing::Mining | Doing::Sealing) if is_on(puzzle) => {
                MiningPhase::Mining { epoch: parts.context.borrow().map_or(0, |context| context.epoch) }
            }
            (_, Doing::Sealing) => sealing,
            _ if progress.loads_left > 0 => sealing,
            (MiningState::Idle { reason }, _) => waiting(reason.to_string()),
            (_, Doing::Barred(reason)) => waiting(match &tally.worthless {
                Some(worthless) => format!("nothing that is held pays: {worthless}"),
                None => reason.clone(),
            }),
            _ if *parts.has_enough.borrow() => waiting(match &tally.trouble {
                Some(trouble) => trouble.clone(),
                None => "as many hits wait to be sent as the epoch takes".to_owned(),
            }),
            _ => waiting("the device starts on the puzzle".to_owned()),
        }
    }
}

/// The parts, and what they tell.
struct Parts {
    miner_id: H256,
    max_shards: u64,
    /// What answers declare.
    shard: Shard,
    watcher: ContextWatcher,
    tasks: JoinSet<()>,
    state: watch::Receiver<MiningState>,
    context: watch::Receiver<Option<MineContext>>,
    reorgs: watch::Sender<u64>,
    has_enough: watch::Receiver<bool>,
    source: StoreSource,
    counters: Arc<MineCounters>,
    answers: watch::Receiver<SubmitCounters>,
    report: watch::Receiver<EngineReport>,
    tally: watch::Receiver<Tally>,
    progress: watch::Receiver<SealProgress>,
    history: History,
    /// Loads and seals that are held.
    held: (u64, u64),
}

impl Parts {
    /// Seconds between two hits at the speed of the last minute; `None` while nothing is scanned.
    fn seconds_per_hit(&self, puzzle: &Puzzle) -> Option<f64> {
        let loads_per_second = self.history.rate(Duration::from_secs(60), |counts| counts.loads);
        let (loads, seals) = self.held;
        // Of 2^256 hashes so many win.
        let target = puzzle.target().ok()?.iter().rev().fold(0.0, |sum, byte| (sum + f64::from(*byte)) / 256.0);
        let hits_per_second = loads_per_second * seals as f64 / loads.max(1) as f64 * target;
        (hits_per_second > 0.0).then(|| hits_per_second.recip())
    }
}

/// Does what the operator says.
async fn obey(mut orders: mpsc::Receiver<MinerCommand>, control: watch::Sender<Control>) {
    while let Some(order) = orders.recv().await {
        tracing::info!(?order, "the operator steers the miner");
        control.send_modify(|control| match order {
            MinerCommand::Start => control.mine = true,
            MinerCommand::Stop => control.mine = false,
            MinerCommand::SetStartPosition(sector) => control.start_position = sector,
        });
    }
    // Whoever could give orders is gone; mining goes on.
    std::future::pending().await
}

/// Whether the chain took an epoch back: another context for the same epoch, or an earlier one.
fn is_reorganised(before: Option<&MineContext>, now: Option<&MineContext>) -> bool {
    match (before, now) {
        (Some(before), Some(now)) => {
            now.epoch < before.epoch || now.epoch == before.epoch && now.digest != before.digest
        }
        _ => false,
    }
}

/// The shard that answers declare when nobody decides: see the module's documentation. `stored` is what the store holds.
fn declared_shard(flow_length: u64, stored: Shard, max_shards: u64) -> Shard {
    if flow_length <= SECTORS_PER_MAX_MINING_RANGE {
        return Shard::WHOLE;
    }
    let count = stored.count.min(1 << max_shards.max(1).ilog2());
    Shard { id: stored.id % count, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_is_declared_only_beyond_eight_tebibytes() {
        let stored = Shard { id: 6, count: 8 };
        let long = SECTORS_PER_MAX_MINING_RANGE + 1;
        assert_eq!(declared_shard(SECTORS_PER_MAX_MINING_RANGE, stored, 256), Shard::WHOLE);
        assert_eq!(declared_shard(long, stored, 256), stored);
        // The chain allows fewer: the shard that holds the store's.
        assert_eq!(declared_shard(long, stored, 4), Shard { id: 2, count: 4 });
        assert_eq!(declared_shard(long, stored, 7), Shard { id: 2, count: 4 });
        assert_eq!(declared_shard(long, stored, 0), Shard::WHOLE);
        assert!(stored.is_within(&declared_shard(long, stored, 4)));
    }

    #[test]
    fn reorganisations_are_seen_by_epoch_and_digest() {
        let context = |epoch, digest| MineContext {
            epoch,
            mine_start: 0,
            flow_root: H256::ZERO,
            flow_length: 1,
            block_digest: H256::ZERO,
            digest: H256([digest; 32]),
        };
        let is = |before: &MineContext, now: &MineContext| is_reorganised(Some(before), Some(now));
        assert!(!is(&context(3, 1), &context(3, 1)) && !is(&context(3, 1), &context(4, 2)));
        assert!(is(&context(3, 1), &context(3, 2)) && is(&context(3, 1), &context(2, 1)));
        assert!(!is_reorganised(None, Some(&context(3, 1))));
    }
}
