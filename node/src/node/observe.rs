//! Who looks at the parts: keeps what they last told, and makes snapshots of the whole.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    snapshot::{
        ChainFacts, EndpointFacts, Facts, PeerFacts, ProcessFacts, PruneFacts, Snapshot, StoreFacts, SyncFacts,
        resident_bytes,
    },
    supervise::Board,
};
use crate::{
    chain::client::ChainClient,
    config::Config,
    duties::{blocking, mining::MiningStatus, prune::PruneStatus, sync::SyncStatus},
    files::FilesHandle,
    store::{Store, StoreError},
};

/// A snapshot is used again for this long: however often it is asked for, it costs the same.
const FRESH: Duration = Duration::from_millis(250);
/// What takes long to count is counted this often.
const COUNT_EVERY: Duration = Duration::from_secs(30);

/// What a part tells, for as long as it runs.
#[derive(Debug)]
pub(super) struct Slot<T>(Mutex<Option<watch::Receiver<T>>>);

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Slot(Mutex::new(None))
    }
}

impl<T: Clone> Slot<T> {
    /// A part that has started, perhaps anew.
    pub(super) fn set(&self, status: watch::Receiver<T>) {
        *lock(&self.0) = Some(status);
    }

    /// What it told last.
    fn get(&self) -> Option<T> {
        lock(&self.0).as_ref().map(|status| status.borrow().clone())
    }
}

/// A panic in another thread leaves no half-written state behind: changes are single assignments.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The chain, or why it was not reached yet.
enum Chain {
    Missing(String),
    Found(ChainClient),
}

/// Looks at the parts.
pub(super) struct Observer {
    started: Instant,
    network: String,
    dir: PathBuf,
    store: Store,
    board: Board,
    is_starting: AtomicBool,
    has_key: bool,
    chain: Mutex<Chain>,
    files: Mutex<Option<FilesHandle>>,
    pub(super) sync: Slot<SyncStatus>,
    pub(super) mining: Slot<MiningStatus>,
    pub(super) prune: Slot<PruneStatus>,
    counted: Mutex<Option<(Instant, u64)>>,
    last: tokio::sync::Mutex<Option<(Instant, Arc<Snapshot>)>>,
}

impl Observer {
    pub(super) fn new(config: &Config, store: Store, board: Board) -> Self {
        Observer {
            started: Instant::now(),
            network: config.network.clone(),
            dir: config.store.dir.clone(),
            store,
            board,
            has_key: config.miner.key.is_some(),
            is_starting: AtomicBool::new(true),
            chain: Mutex::new(Chain::Missing("it has not answered yet".to_owned())),
            files: Mutex::default(),
            sync: Slot::default(),
            mining: Slot::default(),
            prune: Slot::default(),
            counted: Mutex::default(),
            last: tokio::sync::Mutex::default(),
        }
    }

    /// The chain was reached.
    pub(super) fn chain_is(&self, chain: ChainClient) {
        *lock(&self.chain) = Chain::Found(chain);
    }

    /// The chain was not reached yet, and why.
    pub(super) fn chain_is_missing(&self, reason: String) {
        *lock(&self.chain) = Chain::Missing(reason);
    }

    /// The network was started.
    pub(super) fn files_are(&self, files: FilesHandle) {
        *lock(&self.files) = Some(files);
    }

    /// All parts were started.
    pub(super) fn all_started(&self) {
        self.is_starting.store(false, Ordering::Relaxed);
    }

    /// The node now, or a moment ago.
    pub(super) async fn snapshot(&self) -> Arc<Snapshot> {
        let mut last = self.last.lock().await;
        if let Some((at, snapshot)) = &*last
            && at.elapsed() < FRESH
        {
            return snapshot.clone();
        }
        let snapshot = Arc::new(self.look().await);
        *last = Some((Instant::now(), snapshot.clone()));
        snapshot
    }

    async fn look(&self) -> Snapshot {
        let store = match self.look_at_store().await {
            Ok(store) => store,
            Err(error) => {
                tracing::warn!(%error, "the store cannot be looked at");
                StoreFacts::default()
            }
        };
        let files = lock(&self.files).clone();
        let peers = files.map(|files| PeerFacts::of(&files));
        let (chain, missing) = match &*lock(&self.chain) {
            Chain::Found(chain) => (Some(chain.clone()), None),
            Chain::Missing(reason) => (None, Some(reason.clone())),
        };
        Snapshot::of(Facts {
            process: ProcessFacts {
                version: env!("CARGO_PKG_VERSION"),
                network: self.network.clone(),
                pid: std::process::id(),
                uptime_seconds: self.started.elapsed().as_secs(),
                resident_bytes: resident_bytes(),
            },
            parts: self.board.reports(),
            store,
            chain: chain.as_ref().map(chain_facts),
            no_chain_because: missing,
            sync: self.sync.get().as_ref().map(SyncFacts::of),
            peers,
            mining: self.mining.get(),
            prune: self.prune.get().as_ref().map(PruneFacts::of),
            is_starting: self.is_starting.load(Ordering::Relaxed),
            has_key: self.has_key,
        })
    }

    async fn look_at_store(&self) -> Result<StoreFacts, StoreError> {
        let counted = *lock(&self.counted);
        let counted = counted.filter(|(at, _)| at.elapsed() < COUNT_EVERY);
        let (store, dir) = (self.store.clone(), self.dir.clone());
        let work = move || -> Result<_, StoreError> {
            let loads = match counted {
                Some((_, loads)) => loads,
                None => store.used_loads()?,
            };
            let free = rustix::fs::statvfs(&dir).map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize));
            let shard = store.shard();
            let flow_sectors = store.flow_length();
            let facts = StoreFacts {
                dir: dir.display().to_string(),
                shard: shard.to_string(),
                transactions: store.next_seq(),
                flow_sectors,
                loads,
                loads_of_shard: shard.loads_below(flow_sectors.div_ceil(zgpu_core::units::SECTORS_PER_LOAD as u64)),
                free_bytes: free.unwrap_or(0),
            };
            Ok(facts)
        };
        let facts = blocking(work).await?;
        if counted.is_none() {
            *lock(&self.counted) = Some((Instant::now(), facts.loads));
        }
        Ok(facts)
    }
}

fn chain_facts(chain: &ChainClient) -> ChainFacts {
    let contracts = chain.contracts();
    let endpoints = chain.rpc().endpoints().into_iter();
    ChainFacts {
        chain_id: chain.chain_id(),
        flow: contracts.flow.to_string(),
        mine: contracts.mine.to_string(),
        reward: contracts.reward.to_string(),
        endpoints: endpoints
            .map(|endpoint| EndpointFacts {
                url: endpoint.url,
                usable: endpoint.usable,
                head: endpoint.head,
                requests: endpoint.requests,
                failures: endpoint.failures,
                last_error: endpoint.last_error,
            })
            .collect(),
    }
}
