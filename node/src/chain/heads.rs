//! New blocks as endpoints announce them (`eth_subscribe`, `newHeads`), for those who follow the chain. An announcement is
//! a hint that it is time to look, and nothing in it is read: whoever follows the chain goes on looking at intervals, which
//! is all there is where no endpoint announces anything.

use std::{
    future::pending,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

use super::{
    endpoints::Endpoints,
    error::ChainError,
    rpc::{EndpointId, Rpc},
};

/// Shortest time between two looks because of announcements; it doubles with each look that finds nothing, since an
/// endpoint may announce what it likes.
const FIRST_GAP: Duration = Duration::from_millis(100);
/// Longest such time.
const MAX_GAP: Duration = Duration::from_secs(30);
/// Wait before an endpoint is asked for announcements again; it doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest such wait.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Blocks that have to come without an announcement before that counts as silence.
const MISSED_BLOCKS: u64 = 2;

/// Announcements of new blocks, for one who follows the chain. Many at once are one.
#[derive(Debug)]
pub struct Heads {
    news: watch::Receiver<u64>,
    gap: Duration,
    not_before: Instant,
    /// Whether the look that is under way comes from an announcement.
    was_announced: bool,
    /// Whether to look once more: the endpoint that is asked may get a block later than the one that announced it.
    once_more: bool,
}

impl Heads {
    pub(super) fn of(rpc: &Rpc) -> Self {
        let endpoints = &rpc.endpoints;
        let mut keeper = keeper_of(endpoints);
        let news = endpoints.news.subscribe();
        if endpoints.may_announce() && keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            *keeper = Some(tokio::spawn(keep(rpc.clone())));
        }
        let not_before = Instant::now();
        Heads { news, gap: FIRST_GAP, not_before, was_announced: false, once_more: false }
    }

    /// Waits until it is time to look because of an announcement. May be dropped at any time: nothing is missed.
    pub async fn announced(&mut self) {
        sleep_until(self.not_before).await;
        if !self.once_more && self.news.changed().await.is_err() {
            pending::<()>().await;
        }
        self.was_announced = true;
    }

    /// Notes whether a look found something new, whatever it came from.
    pub fn looked(&mut self, found: bool) {
        let was_announced = std::mem::take(&mut self.was_announced);
        let is_second = std::mem::take(&mut self.once_more);
        if found {
            self.gap = FIRST_GAP;
        } else if was_announced {
            self.gap = (self.gap * 2).min(MAX_GAP);
            self.once_more = !is_second;
        }
        self.not_before = Instant::now() + self.gap;
    }
}

fn keeper_of(endpoints: &Endpoints) -> MutexGuard<'_, Option<JoinHandle<()>>> {
    endpoints.keeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sees to it that an endpoint announces blocks, for as long as somebody wants to hear of them.
async fn keep(rpc: Rpc) {
    loop {
        tokio::select! {
            () = rpc.endpoints.news.closed() => {}
            never = keep_subscribed(&rpc) => match never {},
        }
        let mut keeper = keeper_of(&rpc.endpoints);
        if rpc.endpoints.news.is_closed() {
            *keeper = None;
            return;
        }
    }
}

async fn keep_subscribed(rpc: &Rpc) -> std::convert::Infallible {
    let mut pause = FIRST_PAUSE;
    let mut in_vain = None;
    loop {
        if let Some(id) = rpc.endpoints.announcer(in_vain) {
            let asked = Instant::now();
            in_vain = match subscribe(rpc, id).await {
                Ok(End::Closed) => None,
                Ok(End::Silent) => Some(id),
                Err(error) => {
                    // Told once, not with every further try.
                    if pause == FIRST_PAUSE {
                        tracing::info!(%error, "new blocks are not announced, they are looked for at intervals");
                    }
                    Some(id)
                }
            };
            // Not with an endpoint that takes the question and goes away at once, over and over.
            if asked.elapsed() >= MAX_PAUSE {
                pause = FIRST_PAUSE;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Why an endpoint does not announce blocks any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The connection ended.
    Closed,
    /// Blocks came that it did not announce.
    Silent,
}

/// Has the endpoint announce blocks, and returns when it does not any more.
async fn subscribe(rpc: &Rpc, id: EndpointId) -> Result<End, ChainError> {
    let subscription: Value = rpc.call_at(id, "eth_subscribe", "newHeads", ("newHeads",)).await?;
    let endpoint = rpc.endpoints.get(id);
    let url = &endpoint.shown;
    // The connection may have ended, and another one been opened, since it was asked.
    let line = match endpoint.wire.socket() {
        Some(socket) => socket.subscribed().await,
        None => None,
    };
    let Some(line) = line else { return Ok(End::Closed) };
    tracing::info!(url, "new blocks are announced");
    // One may have come since the last look.
    rpc.endpoints.announce();
    loop {
        let before = (*rpc.endpoints.news.borrow(), rpc.endpoints.highest_head());
        tokio::select! {
            () = line.ended() => return Ok(End::Closed),
            () = sleep(rpc.options.timeout * 3) => {}
        }
        let after = (*rpc.endpoints.news.borrow(), rpc.endpoints.highest_head());
        let has_missed = before.1.zip(after.1).is_some_and(|(old, new)| new >= old.saturating_add(MISSED_BLOCKS));
        if before.0 == after.0 && has_missed {
            tracing::warn!(url, "new blocks came that were not announced");
            // Asked anew, it would announce each block twice if this one is not taken back.
            let _ = rpc.call_at::<_, Value>(id, "eth_unsubscribe", "", (subscription,)).await;
            return Ok(End::Silent);
        }
    }
}
