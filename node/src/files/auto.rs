//! Files are fetched without being told to: new ones as neighbours announce them, old ones in a walk through the log.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Mutex as AsyncMutex, time::sleep};
use tracing::{debug, warn};

use super::{
    Shared, lock,
    sync::{Goal, Origin, StartError},
};
use crate::duties::blocking;

/// Files that one look at the store finds.
const PER_LOOK: usize = 256;
/// Time between two walks through the log. What is new meanwhile is announced by who has it.
const WALK_PERIOD: Duration = Duration::from_secs(60);

/// The walk through all files that are not here, from the first one on.
pub(super) struct Walk {
    found: VecDeque<u64>,
    next: u64,
    /// When the next walk begins; `None` while one goes on.
    resumes: Option<Instant>,
}

impl Walk {
    pub(super) const fn new() -> Self {
        Walk { found: VecDeque::new(), next: 0, resumes: None }
    }
}

/// Starts the workers.
pub(super) fn start(shared: &Arc<Shared>) {
    let config = &shared.config.sync;
    let walk = Arc::new(AsyncMutex::new(Walk::new()));
    for _ in 0..config.max_random_workers {
        shared.spawn(work(shared.clone(), walk.clone(), Origin::Random));
    }
    for _ in 0..config.max_sequential_workers {
        shared.spawn(work(shared.clone(), walk.clone(), Origin::Sequential));
    }
}

async fn work(shared: Arc<Shared>, walk: Arc<AsyncMutex<Walk>>, origin: Origin) {
    let mut caught_up = shared.caught_up.clone();
    if caught_up.wait_for(|is_caught_up| *is_caught_up).await.is_err() {
        return;
    }
    loop {
        match next(&shared, &walk, origin).await {
            Some((seq, attempts)) => fetch(&shared, seq, attempts, origin).await,
            None => shared.idle(shared.config.sync.auto_sync_idle_interval).await,
        }
    }
}

/// The next file to fetch, and how often it failed before. A worker for any file takes what somebody has before it walks; one
/// that keeps the order of the log walks first, and takes what came behind its end after that.
async fn next(shared: &Arc<Shared>, walk: &AsyncMutex<Walk>, origin: Origin) -> Option<(u64, u32)> {
    if origin == Origin::Sequential {
        return match walk_on(shared, walk).await {
            Some(seq) => Some((seq, 0)),
            None => lock(&shared.queue).take_first(Instant::now()),
        };
    }
    let taken = lock(&shared.queue).take_any(&mut rand::rng(), Instant::now());
    match taken {
        Some(taken) => Some(taken),
        None => walk_on(shared, walk).await.map(|seq| (seq, 0)),
    }
}

/// The next file of the walk that is not here, not under way, and not to be tried again later; `None` between two walks.
async fn walk_on(shared: &Arc<Shared>, walk: &AsyncMutex<Walk>) -> Option<u64> {
    let mut walk = walk.lock().await;
    let now = Instant::now();
    if walk.resumes.is_some_and(|at| at > now) {
        return None;
    }
    walk.resumes = None;
    loop {
        while let Some(seq) = walk.found.pop_front() {
            if !shared.is_syncing(seq) && lock(&shared.queue).claim(seq) {
                return Some(seq);
            }
        }
        let (store, from) = (shared.shelf.0.clone(), walk.next);
        let found = match blocking(move || store.unfinished(from, PER_LOOK)).await {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "the store does not tell which files are missing");
                Vec::new()
            }
        };
        match found.last() {
            Some(last) => walk.next = last.saturating_add(1),
            None => {
                (walk.next, walk.resumes) = (0, Some(now + WALK_PERIOD));
                return None;
            }
        }
        walk.found = found.into();
    }
}

/// Fetches a file; one that cannot be fetched is tried again later.
async fn fetch(shared: &Arc<Shared>, seq: u64, attempts: u32, origin: Origin) {
    let starting = shared.clone();
    let job = match blocking(move || starting.start_sync(seq, Goal::File, origin)).await {
        Ok(job) => job,
        Err(StartError::Limit(_)) => {
            lock(&shared.queue).add_ready(seq);
            return sleep(shared.config.sync.auto_sync_idle_interval).await;
        }
        // Heard of before the log told it.
        Err(StartError::NotFound) if seq >= shared.shelf.0.next_seq() => {
            return lock(&shared.queue).add_pending(seq, attempts + 1, Instant::now());
        }
        Err(error) => return debug!(seq, %error, "not fetched"),
    };
    if !job.finished().await {
        debug!(seq, state = job.state_text(), "not fetched");
        lock(&shared.queue).add_pending(seq, attempts + 1, Instant::now());
    }
}
