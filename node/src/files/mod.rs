//! Files between peers: which are wanted, who has them, and how they come.
//!
//! [`Files::start`] joins the network ([`crate::net`]) and the store. It answers what peers ask, announces what is new, and
//! fetches files: those that the operator names, and, when that is wished, all that are missing. Each file on its way is a
//! job of its own (`sync`); the number of jobs is bounded, and so is everything that is remembered about peers and files.

mod announce;
mod auto;
mod config;
mod desk;
mod locations;
mod queue;
mod roster;
mod shelf;
mod sync;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use libp2p::{Multiaddr, PeerId};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::timeout,
};
use tracing::warn;

use self::{
    announce::{Announcer, Outgoing},
    locations::{Locations, cover_everything},
    queue::Queue,
    roster::Roster,
    shelf::{Shelf, tx_id},
    sync::{Bandwidth, Goal, Job, Origin},
};
pub use self::{
    config::{FilesConfig, LocationConfig, RouterConfig, SyncConfig},
    sync::{StartError, SyncInfo},
};
use crate::{
    net::{
        NetError, NetEvent, NetHandle, Overview, ip_of,
        wire::{
            ShardConfig,
            gossip::{SignedAnnouncement, is_public},
        },
    },
    store::{Store, StoreError},
};

/// Things to tell that wait for the announcer.
const OUTBOX_CAPACITY: usize = 1024;
/// Jobs that ended and that the operator may still ask about.
const MAX_ENDED_JOBS: usize = 256;
/// How long a failed job can be asked about.
const FAILURE_MEMORY: Duration = Duration::from_secs(600);
/// Time that the tasks may take to end.
const STOP_TIME: Duration = Duration::from_secs(10);

/// Starts the part of the node that deals with files and peers.
pub struct Files;

impl Files {
    /// Starts all tasks. They end with [`FilesHandle::stop`], or when the network ends. Call it within a tokio runtime.
    ///
    /// Files are fetched unasked only once `caught_up` is true.
    pub fn start(
        net: NetHandle,
        events: mpsc::Receiver<NetEvent>,
        store: Store,
        config: FilesConfig,
        caught_up: watch::Receiver<bool>,
    ) -> FilesHandle {
        let (outbox, inbox) = mpsc::channel(OUTBOX_CAPACITY);
        let sync = &config.sync;
        let shared = Arc::new(Shared {
            net,
            shelf: Arc::new(Shelf(store)),
            roster: Mutex::default(),
            locations: Mutex::new(Locations::new(config.locations.clone())),
            jobs: Mutex::default(),
            queue: Mutex::new(Queue::new(sync.ready_txs_cache_cap, sync.auto_sync_error_interval)),
            bandwidth: Bandwidth::new(sync.max_bandwidth_bytes),
            listening: Mutex::default(),
            outbox,
            changed: watch::Sender::new(()),
            connected: watch::Sender::new(0),
            caught_up,
            stopping: watch::Sender::new(false),
            tasks: watch::Sender::new(0),
            runtime: Handle::current(),
            config,
        });
        shared.spawn(Announcer::new(shared.clone(), inbox).run());
        desk::start(&shared, events);
        if shared.config.sync.auto_sync_enabled {
            auto::start(&shared);
        }
        FilesHandle { shared }
    }
}

/// What all tasks share. Locks are held for moments, never while something is awaited; where two are held, the roster comes
/// first.
struct Shared {
    net: NetHandle,
    shelf: Arc<Shelf>,
    config: FilesConfig,
    roster: Mutex<Roster>,
    locations: Mutex<Locations>,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
    queue: Mutex<Queue>,
    bandwidth: Bandwidth,
    listening: Mutex<Vec<Multiaddr>>,
    outbox: mpsc::Sender<Outgoing>,
    /// Wakes jobs: a peer came or went, or has room.
    changed: watch::Sender<()>,
    connected: watch::Sender<u64>,
    caught_up: watch::Receiver<bool>,
    stopping: watch::Sender<bool>,
    /// Tasks that run.
    tasks: watch::Sender<usize>,
    runtime: Handle,
}

/// A panic in another task leaves nothing half-changed that matters: what is shared are hints.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970; 0 for a clock before.
fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Counts a task while it runs.
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|count| *count -= 1);
    }
}

impl Shared {
    /// Runs a task until it ends or the node stops.
    fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.send_modify(|count| *count += 1);
        let counted = Counted(self.clone());
        self.runtime.spawn(async move {
            let mut stopping = counted.0.stopping.subscribe();
            tokio::select! {
                () = task => {}
                // The sender lives in what is shared.
                _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
            }
        });
    }

    fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Has something told to others. What does not fit is dropped: all of it is asked for, or told again, later.
    fn tell(&self, outgoing: Outgoing) {
        let _ = self.outbox.try_send(outgoing);
    }

    /// Sleeps for `time`, or until something happens that a worker may want to know.
    async fn idle(&self, time: Duration) {
        let mut changed = self.changed.subscribe();
        // The sender lives here.
        let _ = timeout(time, changed.changed()).await;
    }

    /// Where others reach this node.
    fn address(&self) -> Option<Multiaddr> {
        let router = &self.config.router;
        let listening = lock(&self.listening);
        let public = || listening.iter().find(|address| is_public(address));
        let seen = || self.net.seen_at().filter(|address| router.private_ip_enabled || is_public(address));
        let any = || listening.first().filter(|_| router.private_ip_enabled).cloned();
        router.public_address.clone().or_else(|| public().cloned()).or_else(seen).or_else(any)
    }

    fn job(&self, seq: u64) -> Option<Arc<Job>> {
        lock(&self.jobs).get(&seq).cloned()
    }

    fn is_syncing(&self, seq: u64) -> bool {
        self.job(seq).is_some_and(|job| job.ended_at().is_none())
    }

    /// Starts to fetch a file, unless that goes on already. Reads the store, so it blocks.
    fn start_sync(self: &Arc<Self>, seq: u64, goal: Goal, origin: Origin) -> Result<Arc<Job>, StartError> {
        let sync = &self.config.sync;
        if origin == Origin::Rpc && !sync.sync_file_by_rpc_enabled {
            return Err(StartError::Disabled);
        }
        let prepared = sync::prepare(self, seq, goal, origin)?;
        let mut jobs = lock(&self.jobs);
        if *self.stopping.borrow() {
            return Err(StartError::Stopped);
        }
        if let Some(job) = jobs.get(&seq).filter(|job| job.ended_at().is_none()) {
            return Ok(job.clone());
        }
        if jobs.values().filter(|job| job.ended_at().is_none()).count() >= sync.max_sync_files {
            return Err(StartError::Limit(sync.max_sync_files));
        }
        let job = Arc::new(prepared);
        jobs.insert(seq, job.clone());
        self.spawn(sync::run(self.clone(), job.clone()));
        Ok(job)
    }

    /// Forgets jobs that are done, and failed ones after a while.
    fn tidy_jobs(&self) {
        let mut jobs = lock(&self.jobs);
        jobs.retain(|_, job| match job.ended_at() {
            None => true,
            Some(at) => !job.is_completed() && at.elapsed() < FAILURE_MEMORY,
        });
        let mut ended: Vec<_> = jobs.iter().filter_map(|(seq, job)| Some((job.ended_at()?, *seq))).collect();
        ended.sort();
        for (_, seq) in ended.iter().take(ended.len().saturating_sub(MAX_ENDED_JOBS)) {
            jobs.remove(seq);
        }
    }
}

/// Where fetching stands as a whole.
#[derive(Clone, Debug)]
pub struct ServiceState {
    /// Files on their way.
    pub syncing: Vec<u64>,
    /// True once the log has been read to its end, after which files are fetched unasked.
    pub caught_up: bool,
    /// Files that wait to be fetched unasked; `None` when that is not wished.
    pub auto: Option<AutoState>,
}

/// Files that wait to be fetched unasked.
#[derive(Clone, Debug)]
pub struct AutoState {
    /// Those on their way that a worker for any file fetches.
    pub random: Vec<u64>,
    /// Those that a worker for the log in order fetches; `None` without such workers.
    pub sequential: Option<Vec<u64>>,
    /// Those that somebody has.
    pub ready: usize,
    /// Those to be tried again later.
    pub pending: usize,
}

/// Somebody who has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Its IP address.
    pub ip: IpAddr,
    /// What it keeps.
    pub shard: ShardConfig,
}

/// Speaks to the tasks. Clones speak to the same ones.
#[derive(Clone)]
pub struct FilesHandle {
    shared: Arc<Shared>,
}

impl FilesHandle {
    /// Starts to fetch the file of transaction `seq`; fine when that goes on already. Blocks on the store.
    pub fn start_file(&self, seq: u64) -> Result<(), StartError> {
        self.shared.start_sync(seq, Goal::File, Origin::Rpc).map(drop)
    }

    /// Starts to fetch the segments with these sectors of a file, counted from its start. Blocks on the store.
    pub fn start_chunks(&self, seq: u64, sectors: Range<u64>) -> Result<(), StartError> {
        self.shared.start_sync(seq, Goal::Chunks(sectors), Origin::Rpc).map(drop)
    }

    /// Stops fetching a file; false when that does not go on. What has come stays.
    pub fn terminate(&self, seq: u64) -> bool {
        let job = lock(&self.shared.jobs).remove(&seq);
        job.as_ref().inspect(|job| job.cancel());
        self.shared.notify();
        job.is_some()
    }

    /// Where fetching stands as a whole.
    pub fn service_state(&self) -> ServiceState {
        let shared = &self.shared;
        let active: Vec<Arc<Job>> =
            lock(&shared.jobs).values().filter(|job| job.ended_at().is_none()).cloned().collect();
        let of = |origin: Origin| active.iter().filter(|job| job.origin() == origin).map(|job| job.seq).collect();
        let sync = &shared.config.sync;
        let auto = sync.auto_sync_enabled.then(|| {
            let queue = lock(&shared.queue);
            AutoState {
                random: of(Origin::Random),
                sequential: (sync.max_sequential_workers > 0).then(|| of(Origin::Sequential)),
                ready: queue.ready_count(),
                pending: queue.pending_count(),
            }
        });
        let syncing = active.iter().map(|job| job.seq).collect();
        ServiceState { syncing, caught_up: *shared.caught_up.borrow(), auto }
    }

    /// State of the job that fetches a file; `unknown` when there is none, soon after it has completed too.
    pub fn sync_status(&self, seq: u64) -> String {
        self.shared.job(seq).map_or("unknown".into(), |job| job.state_text())
    }

    /// All jobs, or the one for `seq`.
    pub fn sync_info(&self, seq: Option<u64>) -> BTreeMap<u64, SyncInfo> {
        let jobs: Vec<Arc<Job>> = match seq {
            Some(seq) => self.shared.job(seq).into_iter().collect(),
            None => lock(&self.shared.jobs).values().cloned().collect(),
        };
        let roster = lock(&self.shared.roster);
        jobs.iter().map(|job| (job.seq, job.info(&roster))).collect()
    }

    /// Who announced the file of a transaction; `None` when `all_shards` are wanted and they do not have all between them.
    /// Blocks on the store; fails for a transaction that is not known.
    pub fn file_location(&self, seq: u64, all_shards: bool) -> Result<Option<Vec<Location>>, StoreError> {
        let unknown = || StoreError::UnknownTransaction { seq, next: self.shared.shelf.0.next_seq() };
        let transaction = self.shared.shelf.0.transaction(seq)?.ok_or_else(unknown)?;
        let announcements = lock(&self.shared.locations).of(&tx_id(&transaction), unix_time());
        let location = |announcement: &Arc<SignedAnnouncement>| {
            let ip = ip_of(&announcement.address()?)?;
            Some(Location { ip, shard: announcement.announcement.inner.shard })
        };
        let locations: Vec<Location> = announcements.iter().filter_map(location).collect();
        let shards: Vec<ShardConfig> = locations.iter().map(|location| location.shard).collect();
        Ok((!all_shards || cover_everything(&shards)).then_some(locations))
    }

    /// Asks the whole network who has a file; answers show in [`FilesHandle::file_location`]. Blocks on the store.
    pub fn find_file(&self, seq: u64) -> Result<(), StartError> {
        let transaction = self.shared.shelf.0.transaction(seq)?.ok_or(StartError::NotFound)?;
        self.shared.tell(Outgoing::FindFile(tx_id(&transaction)));
        Ok(())
    }

    /// Who this node is on the network.
    pub fn local_peer(&self) -> PeerId {
        self.shared.net.local_peer()
    }

    /// Where others are told to reach this node; `None` while it does not know.
    pub fn announced_at(&self) -> Option<Multiaddr> {
        self.shared.address()
    }

    /// Listeners and peers.
    pub async fn network_info(&self) -> Result<Overview, NetError> {
        self.shared.net.overview().await
    }

    /// The number of connected peers, now and whenever it changes.
    pub fn connected_peers(&self) -> watch::Receiver<u64> {
        self.shared.connected.subscribe()
    }

    /// Ends all tasks. What is half fetched goes on at the next start.
    pub async fn stop(&self) {
        self.shared.stopping.send_replace(true);
        let mut tasks = self.shared.tasks.subscribe();
        if timeout(STOP_TIME, tasks.wait_for(|count| *count == 0)).await.is_err() {
            warn!("tasks that fetch files did not end in {STOP_TIME:?}");
        }
    }
}
