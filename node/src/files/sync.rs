//! One file on its way: who has it, which segments are under way, what is left.
//!
//! A job is a task. It asks neighbours, then everybody, who has the file; it asks several peers for segments at once, those
//! first that are expected to answer first; a segment that does not come is asked of another peer. What came is verified
//! and stored before it counts, so a job may end at any moment and another one goes on where it was.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until, timeout},
};
use tracing::{debug, info};
use zgpu_core::units::{BYTES_PER_SECTOR, SECTORS_PER_LOAD};

use super::{Shared, announce::Outgoing, lock, roster::Roster, shelf::tx_id, unix_time};
use crate::{
    duties::blocking,
    net::{
        RequestError,
        chunks::{FetchError, FilePlace, fetch},
        wire::{
            ShardConfig, TxId,
            gossip::ChunkRange,
            rpc::{ChunkRequest, Refusal},
        },
    },
    store::StoreError,
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;
/// Missing segments that one look at the store finds.
const SEGMENTS_PER_LOOK: usize = 1024;
/// Missing segments that are considered for the next request.
const SEGMENTS_IN_VIEW: usize = 256;
/// Times that a peer may prove sectors for roots that are not known here before it is left.
const MAX_UNKNOWN_ROOTS: u32 = 10;
/// Shortest and longest time before a peer that failed is asked again.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// A new peer has told which topics it listens to after that time.
const ARRIVAL_TIME: Duration = Duration::from_secs(1);
/// Peers that are remembered to have a file.
const MAX_HOLDERS: usize = 128;
/// Questions who has the file, until the operator's job gives up.
const ROUNDS_OF_OPERATOR: u32 = 12;
/// The same for jobs that nobody waits for: one to neighbours, one to everybody.
const ROUNDS_OF_WORKER: u32 = 2;
/// Other transactions with the same file that get its data.
const MAX_TWINS: usize = 64;

/// What is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// All segments of our shard.
    File,
    /// Those of them that have some of these sectors.
    Chunks(Range<u64>),
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The operator.
    Rpc,
    /// Somebody far away announced it.
    Announcement,
    /// A worker that takes any file.
    Random,
    /// A worker that goes through the log.
    Sequential,
}

/// Why a job does not start. The texts are the network's.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The operator may not.
    #[error("Disabled to sync file")]
    Disabled,
    /// Too many go on.
    #[error("Max sync file limitation reached: {0}")]
    Limit(usize),
    /// There is no such transaction.
    #[error("Transaction not found")]
    NotFound,
    /// The transaction holds no file.
    #[error("Unexpected transaction size")]
    Size,
    /// The file is here.
    #[error("File already exists [Finalized]")]
    Finalised,
    /// The file was here and is not wanted any more.
    #[error("File already exists [Pruned]")]
    Pruned,
    /// The sectors are none of the file's.
    #[error("Invalid chunk range")]
    Range,
    /// The node shuts down.
    #[error("the node shuts down")]
    Stopped,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where a job stands. The names are the network's; the operator reads them as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    FindingPeers,
    ConnectingPeers,
    AwaitingDownload,
    #[allow(dead_code, reason = "read through Debug")]
    Downloading {
        segments: usize,
        peers: usize,
    },
    Completed,
    #[allow(dead_code, reason = "read through Debug")]
    Failed {
        reason: FailureReason,
    },
}

/// Why a job failed. The names are the network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FailureReason {
    #[allow(dead_code, reason = "read through Debug")]
    DBError(String),
    TxReverted,
    TimeoutFindFile,
    Terminated,
}

impl From<StoreError> for FailureReason {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Reverted { .. } | StoreError::UnknownTransaction { .. } => FailureReason::TxReverted,
            error => FailureReason::DBError(error.to_string()),
        }
    }
}

/// A peer that has the file, or says so.
struct Holder {
    shard: ShardConfig,
    /// Where it is dialled when it is not connected.
    address: Option<Multiaddr>,
    dialled: Option<Instant>,
    /// It has not said that it has the file, it only knows the transaction.
    is_presumed: bool,
    failures: u32,
    unknown_roots: u32,
    rests_until: Option<Instant>,
}

/// What a person can see of a job.
#[derive(Clone, Debug)]
pub struct SyncInfo {
    /// Time since it began.
    pub elapsed: Duration,
    /// Peers by their state.
    pub peers: BTreeMap<&'static str, u64>,
    /// Sectors of the file.
    pub sectors: u64,
    /// Those that are fetched.
    pub wanted: Range<u64>,
    /// First sector that is not here yet.
    pub next: u64,
    /// Its state.
    pub state: String,
}

/// One file on its way.
pub(super) struct Job {
    pub(super) seq: u64,
    place: FilePlace,
    goal: Goal,
    origin: Origin,
    started: Instant,
    state: Mutex<State>,
    next: Mutex<u64>,
    holders: Mutex<HashMap<PeerId, Holder>>,
    is_cancelled: AtomicBool,
    ended: watch::Sender<Option<Instant>>,
}

impl Job {
    pub(super) fn tx_id(&self) -> TxId {
        self.place.tx_id
    }

    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    pub(super) fn state_text(&self) -> String {
        format!("{:?}", lock(&self.state))
    }

    /// When it ended, if it has.
    pub(super) fn ended_at(&self) -> Option<Instant> {
        *self.ended.borrow()
    }

    pub(super) fn is_completed(&self) -> bool {
        *lock(&self.state) == State::Completed
    }

    /// Waits until it has ended; true when all is here.
    pub(super) async fn finished(&self) -> bool {
        // The sender lives in this job.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
        self.is_completed()
    }

    pub(super) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::SeqCst);
    }

    /// Segments that may be wanted.
    fn segments(&self) -> Range<u64> {
        match &self.goal {
            Goal::File => 0..self.place.sectors.div_ceil(PER_LOAD),
            Goal::Chunks(sectors) => sectors.start / PER_LOAD..sectors.end.div_ceil(PER_LOAD),
        }
    }

    fn sectors_of(&self, segment: u64) -> Range<u64> {
        segment * PER_LOAD..self.place.sectors.min((segment + 1) * PER_LOAD)
    }

    fn load_of(&self, segment: u64) -> u64 {
        self.place.start / PER_LOAD + segment
    }

    /// Somebody has the file: a peer that said so itself, or that was announced at an address.
    pub(super) fn add_holder(&self, peer: PeerId, shard: ShardConfig, address: Option<Multiaddr>) {
        self.insert_holder(peer, shard, address, false);
    }

    fn insert_holder(&self, peer: PeerId, shard: ShardConfig, address: Option<Multiaddr>, is_presumed: bool) {
        let mut holders = lock(&self.holders);
        let has_room = holders.len() < MAX_HOLDERS;
        match holders.get_mut(&peer) {
            Some(holder) => {
                holder.shard = shard;
                holder.is_presumed &= is_presumed;
                holder.address = address.or(holder.address.take());
            }
            None if shard.is_valid() && has_room => {
                let holder = Holder {
                    shard,
                    address,
                    dialled: None,
                    is_presumed,
                    failures: 0,
                    unknown_roots: 0,
                    rests_until: None,
                };
                holders.insert(peer, holder);
            }
            None => {}
        }
    }

    pub(super) fn info(&self, roster: &Roster) -> SyncInfo {
        let mut peers = BTreeMap::new();
        for (peer, holder) in lock(&self.holders).iter() {
            let state = match (roster.get(peer), holder.dialled) {
                (Some(_), _) => "Connected",
                (None, Some(_)) => "Connecting",
                (None, None) => "Found",
            };
            *peers.entry(state).or_default() += 1;
        }
        let sectors = self.place.sectors;
        let wanted = match &self.goal {
            Goal::File => 0..sectors,
            Goal::Chunks(range) => range.clone(),
        };
        let next = if self.is_completed() { wanted.end } else { (*lock(&self.next) * PER_LOAD).min(wanted.end) };
        SyncInfo { elapsed: self.started.elapsed(), peers, sectors, wanted, next, state: self.state_text() }
    }
}

/// Checks that a file can be fetched, and makes a job for it. Reads the store, so it blocks.
pub(super) fn prepare(shared: &Shared, seq: u64, goal: Goal, origin: Origin) -> Result<Job, StartError> {
    let store = &shared.shelf.0;
    let transaction = store.transaction(seq)?.ok_or(StartError::NotFound)?;
    let shape = transaction.shape().map_err(|_| StartError::Size)?;
    let status = store.status(seq)?.ok_or(StartError::NotFound)?;
    if status.pruned {
        return Err(StartError::Pruned);
    }
    if status.finalised {
        return Err(StartError::Finalised);
    }
    if let Goal::Chunks(sectors) = &goal
        && (sectors.start >= sectors.end || sectors.end > shape.sectors())
    {
        return Err(StartError::Range);
    }
    Ok(Job {
        seq,
        place: FilePlace { tx_id: tx_id(&transaction), start: transaction.start, sectors: shape.sectors() },
        goal,
        origin,
        started: Instant::now(),
        state: Mutex::new(State::Idle),
        next: Mutex::new(0),
        holders: Mutex::default(),
        is_cancelled: AtomicBool::new(false),
        ended: watch::Sender::new(None),
    })
}

/// Runs a job to its end.
pub(super) async fn run(shared: Arc<Shared>, job: Arc<Job>) {
    let result = Drive::new(&shared, &job).run().await;
    match &result {
        Ok(()) => info!(seq = job.seq, goal = ?job.goal, took = ?job.started.elapsed(), "fetched from peers"),
        Err(reason) => debug!(seq = job.seq, ?reason, "not fetched"),
    }
    *lock(&job.state) = match result {
        Ok(()) => State::Completed,
        Err(reason) => State::Failed { reason },
    };
    job.ended.send_replace(Some(Instant::now()));
}

/// A request that is over.
struct Fetched {
    peer: PeerId,
    segment: u64,
    result: Result<(), FetchError<StoreError>>,
}

struct Drive<'a> {
    shared: &'a Arc<Shared>,
    job: &'a Arc<Job>,
    /// Missing segments that are not under way, ascending as far as they did not fail.
    wanted: VecDeque<u64>,
    /// Where the next look at the store begins.
    cursor: u64,
    /// Looks that found segments missing which had been stored.
    rechecks: u32,
    in_flight: FuturesUnordered<BoxFuture<'static, Fetched>>,
    asked: HashMap<u64, PeerId>,
    find_timeout: Duration,
    rounds: u32,
    asks_at: Instant,
    arrivals: u64,
    progress_at: Instant,
}

impl<'a> Drive<'a> {
    fn new(shared: &'a Arc<Shared>, job: &'a Arc<Job>) -> Self {
        let config = &shared.config.sync;
        let find_timeout = match job.origin {
            Origin::Rpc | Origin::Announcement => config.peer_find_timeout,
            Origin::Random => config.random_find_peer_timeout,
            Origin::Sequential => config.sequential_find_peer_timeout,
        };
        let now = Instant::now();
        Drive {
            shared,
            job,
            wanted: VecDeque::new(),
            cursor: job.segments().start,
            rechecks: 0,
            in_flight: FuturesUnordered::new(),
            asked: HashMap::new(),
            find_timeout,
            rounds: 0,
            asks_at: now,
            arrivals: lock(&shared.roster).arrivals(),
            progress_at: now,
        }
    }

    async fn run(mut self) -> Result<(), FailureReason> {
        if self.job.goal == Goal::File && self.copy_from_twin().await? {
            return Ok(());
        }
        // Whoever knows the transaction and keeps the right shard is worth a question.
        for (peer, shard) in lock(&self.shared.roster).knowing(self.job.seq) {
            self.job.insert_holder(peer, shard, None, true);
        }
        let mut changed = self.shared.changed.subscribe();
        loop {
            if self.job.is_cancelled.load(Ordering::SeqCst) {
                return Err(FailureReason::Terminated);
            }
            if !self.look_for_segments().await? {
                return self.finish().await;
            }
            let now = Instant::now();
            changed.mark_unchanged();
            self.tidy_holders(now).await;
            self.assign(now);
            self.look_for_peers(now)?;
            self.show_state();
            let wakes_at = self.wakes_at(now);
            tokio::select! {
                Some(fetched) = self.in_flight.next(), if !self.in_flight.is_empty() => self.on_fetched(fetched)?,
                result = changed.changed() => if result.is_err() { return Err(FailureReason::Terminated) },
                () = sleep_until(wakes_at.into()) => {}
            }
        }
    }

    /// Fills up the list of wanted segments. False when there is nothing left to fetch.
    async fn look_for_segments(&mut self) -> Result<bool, FailureReason> {
        while self.wanted.is_empty() {
            let segments = self.job.segments();
            let missing = self.missing_from(self.cursor).await?;
            if let Some(last) = missing.last() {
                self.cursor = last + 1;
                self.wanted.extend(missing.into_iter().filter(|segment| !self.asked.contains_key(segment)));
                continue;
            }
            if !self.in_flight.is_empty() {
                self.cursor = segments.end;
                return Ok(true);
            }
            // The end: what is missing now was there when it was passed.
            let missing = self.missing_from(segments.start).await?;
            let Some(first) = missing.first() else { return Ok(false) };
            self.rechecks += 1;
            if self.rechecks > self.shared.config.sync.max_request_failures {
                return Err(FailureReason::DBError(format!("segment {first} is missing after it was stored")));
            }
            self.cursor = segments.start;
        }
        let first = self.wanted.iter().chain(self.asked.keys()).min().copied();
        *lock(&self.job.next) = first.unwrap_or(self.cursor);
        Ok(true)
    }

    async fn missing_from(&mut self, from: u64) -> Result<Vec<u64>, FailureReason> {
        let (store, seq, end) = (self.shared.shelf.0.clone(), self.job.seq, self.job.segments().end);
        if from >= end {
            return Ok(Vec::new());
        }
        let mut missing = blocking(move || store.missing_segments(seq, from, SEGMENTS_PER_LOOK)).await?;
        missing.retain(|segment| *segment < end);
        Ok(missing)
    }

    /// Forgets holders that cannot be asked, and dials those that can be reached.
    async fn tidy_holders(&mut self, now: Instant) {
        let patience = self.shared.config.sync.peer_connect_timeout;
        let mut to_dial = Vec::new();
        {
            let roster = lock(&self.shared.roster);
            lock(&self.job.holders).retain(|peer, holder| {
                if roster.get(peer).is_some() {
                    holder.dialled = None;
                    return true;
                }
                let Some(address) = &holder.address else { return false };
                match holder.dialled {
                    Some(at) => now < at + patience,
                    None => {
                        holder.dialled = Some(now);
                        to_dial.push(address.clone().with(Protocol::P2p(*peer)));
                        true
                    }
                }
            });
        }
        for address in to_dial {
            // A network that is gone ends this job soon.
            let _ = self.shared.net.dial(address).await;
        }
    }

    /// Asks for as many segments as peers and limits allow.
    fn assign(&mut self, now: Instant) {
        let config = &self.shared.config.sync;
        while self.in_flight.len() < config.max_segments_per_file.max(1)
            && self.shared.bandwidth.wait(now) <= config.bandwidth_wait_timeout
            && let Some((at, peer)) = self.next_assignment(now)
            && let Some(segment) = self.wanted.remove(at)
        {
            let uses_own_root = lock(&self.job.holders).get(&peer).is_some_and(|holder| holder.failures % 2 == 1);
            lock(&self.shared.roster).begin(&peer);
            self.asked.insert(segment, peer);
            let (shared, job) = (self.shared.clone(), self.job.clone());
            self.in_flight.push(Box::pin(fetch_segment(shared, job, peer, segment, uses_own_root)));
        }
    }

    /// The first wanted segment that a peer can be asked for, and the peer that is expected to have it here first.
    fn next_assignment(&self, now: Instant) -> Option<(usize, PeerId)> {
        let limit = self.shared.config.sync.max_segments_per_peer.max(1);
        let roster = lock(&self.shared.roster);
        let holders = lock(&self.job.holders);
        let mut usable: Vec<(PeerId, ShardConfig, f64)> = holders
            .iter()
            .filter(|(_, holder)| holder.rests_until.is_none_or(|until| until <= now))
            .filter_map(|(peer, holder)| {
                let neighbour = roster.get(peer).filter(|neighbour| neighbour.in_flight < limit)?;
                Some((*peer, holder.shard, neighbour.expected_seconds()))
            })
            .collect();
        usable.sort_by(|a, b| a.2.total_cmp(&b.2));
        self.wanted.iter().take(SEGMENTS_IN_VIEW).enumerate().find_map(|(at, segment)| {
            let load = self.job.load_of(*segment);
            let (peer, ..) = usable.iter().find(|(_, shard, _)| shard.contains(load))?;
            Some((at, *peer))
        })
    }

    /// True when nobody is known to have one of the wanted segments.
    fn is_uncovered(&self) -> bool {
        let holders = lock(&self.job.holders);
        // Shards are few; segments of one shard are many.
        let shards: HashSet<ShardConfig> = holders.values().map(|holder| holder.shard).collect();
        let is_held = |segment: &u64| shards.iter().any(|shard| shard.contains(self.job.load_of(*segment)));
        self.wanted.iter().take(SEGMENTS_IN_VIEW).any(|segment| !is_held(segment))
    }

    /// Asks who has the file, neighbours first and then everybody. Fails when nobody answers for long.
    fn look_for_peers(&mut self, now: Instant) -> Result<(), FailureReason> {
        if !self.is_uncovered() {
            return Ok(());
        }
        let arrivals = lock(&self.shared.roster).arrivals();
        if arrivals != self.arrivals {
            self.arrivals = arrivals;
            self.asks_at = self.asks_at.min(now + ARRIVAL_TIME);
        }
        if now < self.asks_at {
            return Ok(());
        }
        let rounds = match self.job.origin {
            Origin::Rpc => ROUNDS_OF_OPERATOR,
            Origin::Announcement | Origin::Random | Origin::Sequential => ROUNDS_OF_WORKER,
        };
        let is_waiting = !self.in_flight.is_empty() || lock(&self.job.holders).values().any(|it| it.dialled.is_some());
        if now.saturating_duration_since(self.progress_at) >= self.find_timeout * rounds && !is_waiting {
            return Err(FailureReason::TimeoutFindFile);
        }
        let tx_id = self.job.tx_id();
        if let Goal::Chunks(sectors) = &self.job.goal
            && self.shared.config.sync.find_chunks_enabled
        {
            self.shared.tell(Outgoing::FindChunks(ChunkRange { tx_id, start: sectors.start, end: sectors.end }));
        }
        self.shared.tell(Outgoing::AskFile(tx_id));
        if self.rounds > 0 || !self.shared.config.sync.neighbors_only {
            for announcement in lock(&self.shared.locations).of(&tx_id, unix_time()) {
                if let Some(peer) = announcement.peer_id().filter(|peer| *peer != self.shared.net.local_peer()) {
                    self.job.add_holder(peer, announcement.announcement.inner.shard, announcement.address());
                }
            }
            self.shared.tell(Outgoing::FindFile(tx_id));
        }
        self.rounds += 1;
        self.asks_at = now + self.find_timeout;
        Ok(())
    }

    fn show_state(&self) {
        let peers: HashSet<&PeerId> = self.asked.values().collect();
        let state = if !self.in_flight.is_empty() {
            State::Downloading { segments: self.in_flight.len(), peers: peers.len() }
        } else {
            let roster = lock(&self.shared.roster);
            let holders = lock(&self.job.holders);
            match holders.keys().any(|peer| roster.get(peer).is_some()) {
                true => State::AwaitingDownload,
                false if holders.is_empty() => State::FindingPeers,
                false => State::ConnectingPeers,
            }
        };
        *lock(&self.job.state) = state;
    }

    /// When there is something to do even if nothing happens.
    fn wakes_at(&self, now: Instant) -> Instant {
        let holders = lock(&self.job.holders);
        let rests = holders.values().filter_map(|holder| holder.rests_until).filter(|until| *until > now).min();
        let latest = now + Duration::from_secs(1);
        rests.into_iter().chain((self.asks_at > now).then_some(self.asks_at)).fold(latest, Instant::min)
    }

    fn on_fetched(&mut self, fetched: Fetched) -> Result<(), FailureReason> {
        let Fetched { peer, segment, result } = fetched;
        self.asked.remove(&segment);
        let now = Instant::now();
        let error = match result {
            Ok(()) => {
                (self.progress_at, self.rounds) = (now, 0);
                if let Some(holder) = lock(&self.job.holders).get_mut(&peer) {
                    (holder.failures, holder.unknown_roots, holder.is_presumed) = (0, 0, false);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        debug!(seq = self.job.seq, segment, %peer, %error, "a segment did not come");
        self.wanted.push_front(segment);
        let config = &self.shared.config.sync;
        let mut holders = lock(&self.job.holders);
        match error {
            FetchError::NotAFile(_) => return Err(FailureReason::TxReverted),
            FetchError::Sink(error) => return Err(error.into()),
            FetchError::Request(RequestError::Closed) => return Err(FailureReason::Terminated),
            FetchError::Wrong { .. } => {
                holders.remove(&peer);
            }
            FetchError::UnknownRoot { .. } => {
                if let Some(holder) = holders.get_mut(&peer) {
                    holder.unknown_roots += 1;
                    holder.rests_until = Some(now + config.peer_next_chunks_request_wait_timeout);
                    if holder.unknown_roots > MAX_UNKNOWN_ROOTS {
                        holders.remove(&peer);
                    }
                }
            }
            FetchError::Request(error) => {
                let lacks_it = matches!(&error, RequestError::Refused { refusal: Refusal::InvalidRequest, .. });
                if let Some(holder) = holders.get_mut(&peer) {
                    holder.failures += 1;
                    let back_off = BACK_OFF.0.saturating_mul(1 << holder.failures.min(10)).min(BACK_OFF.1);
                    holder.rests_until = Some(now + back_off);
                    if (lacks_it && holder.is_presumed) || holder.failures >= config.max_request_failures {
                        holders.remove(&peer);
                    }
                }
            }
        }
        Ok(())
    }

    /// Another transaction with the same file may be here already.
    async fn copy_from_twin(&mut self) -> Result<bool, FailureReason> {
        let (store, seq) = (self.shared.shelf.0.clone(), self.job.seq);
        let copied = blocking(move || {
            let transaction = store.transaction(seq)?.ok_or(StoreError::Reverted { seq })?;
            for twin in store.transactions_by_root(&transaction.data_root)?.into_iter().take(MAX_TWINS) {
                if twin != seq && store.is_finalised(twin)? && store.copy_file(twin, seq)? {
                    return Ok(true);
                }
            }
            Ok::<bool, StoreError>(false)
        });
        Ok(copied.await?)
    }

    /// Marks the file as complete, and gives its data to other transactions with the same file.
    async fn finish(&mut self) -> Result<(), FailureReason> {
        if self.job.goal != Goal::File {
            return Ok(());
        }
        let (store, seq) = (self.shared.shelf.0.clone(), self.job.seq);
        let finished = blocking(move || {
            store.finalise(seq)?;
            let transaction = store.transaction(seq)?.ok_or(StoreError::Reverted { seq })?;
            for twin in store.transactions_by_root(&transaction.data_root)?.into_iter().take(MAX_TWINS) {
                if twin != seq && !store.is_finalised(twin)? {
                    store.copy_file(seq, twin)?;
                }
            }
            Ok::<(), StoreError>(())
        });
        Ok(finished.await?)
    }
}

/// Counts a request to a peer until it is over, however it ends.
struct Place {
    shared: Arc<Shared>,
    peer: PeerId,
    took: Option<Duration>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.shared.roster).end(&self.peer, self.took, Instant::now());
        self.shared.notify();
    }
}

/// Fetches one segment. Proofs lead to the newest root that we know; with `uses_own_root`, to the one right after the file's
/// transaction, which a peer that has read less of the chain knows too.
async fn fetch_segment(shared: Arc<Shared>, job: Arc<Job>, peer: PeerId, segment: u64, uses_own_root: bool) -> Fetched {
    let mut place = Place { shared: shared.clone(), peer, took: None };
    let sectors = job.sectors_of(segment);
    let bytes = (sectors.end - sectors.start) * BYTES_PER_SECTOR as u64;
    sleep(shared.bandwidth.take(bytes, Instant::now())).await;
    let newest = shared.shelf.0.next_seq().saturating_sub(1).max(job.seq);
    let root_seq = if uses_own_root { job.seq } else { newest };
    let request = ChunkRequest { tx_id: job.tx_id(), start: sectors.start, end: sectors.end, root_seq };
    let started = Instant::now();
    let fetching = fetch(&shared.net, shared.shelf.clone(), peer, request);
    let result = match timeout(shared.config.sync.peer_chunks_download_timeout, fetching).await {
        Ok(result) => result,
        Err(_) => Err(RequestError::Timeout(peer).into()),
    };
    if result.is_ok() {
        place.took = Some(started.elapsed());
        lock(&shared.roster).knows(&peer, root_seq);
    }
    Fetched { peer, segment, result }
}

/// A limit of bytes in a second over all files.
pub(super) struct Bandwidth {
    /// 0 for none.
    bytes_per_second: u64,
    /// When what was taken so far is paid for.
    free_at: Mutex<Option<Instant>>,
}

impl Bandwidth {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Bandwidth { bytes_per_second, free_at: Mutex::new(None) }
    }

    /// Time that the next bytes would have to wait.
    fn wait(&self, now: Instant) -> Duration {
        lock(&self.free_at).map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// Takes bytes, and tells how long to wait before they are asked for.
    fn take(&self, bytes: u64, now: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let mut free_at = lock(&self.free_at);
        let from = free_at.map_or(now, |at| at.max(now));
        *free_at = Some(from + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64));
        from - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_is_shared_out_in_order() {
        let (bandwidth, now) = (Bandwidth::new(1000), Instant::now());
        assert_eq!(bandwidth.take(500, now), Duration::ZERO);
        assert_eq!(bandwidth.take(1000, now), Duration::from_millis(500));
        assert_eq!(bandwidth.wait(now), Duration::from_millis(1500));
        assert_eq!(bandwidth.wait(now + Duration::from_secs(9)), Duration::ZERO);
        assert_eq!(bandwidth.take(1, now + Duration::from_secs(9)), Duration::ZERO);
        let free = Bandwidth::new(0);
        assert_eq!((free.take(u64::MAX, now), free.wait(now)), (Duration::ZERO, Duration::ZERO));
    }

    /// Clients poll for these texts.
    #[test]
    fn states_are_read_as_they_are_named() {
        let texts = [
            (State::Completed, "Completed"),
            (State::FindingPeers, "FindingPeers"),
            (State::Downloading { segments: 4, peers: 2 }, "Downloading { segments: 4, peers: 2 }"),
            (State::Failed { reason: FailureReason::TimeoutFindFile }, "Failed { reason: TimeoutFindFile }"),
        ];
        for (state, text) in texts {
            assert_eq!(format!("{state:?}"), text);
        }
    }
}
