//! Sealing as a duty: finds data that is known and not sealed, whatever came when, and hands it to the engine.
//!
//! What is sealed is written down by the store, so a restart goes on where it was. Whether contexts that seals were made
//! with are still the chain's is checked at the start and after each reorganisation; seals of others are dropped, and
//! are found again as data that is not sealed.

use std::{collections::HashSet, ops::Range, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    sync::{Semaphore, broadcast::error::TryRecvError, mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep,
};
use zgpu_core::{digest::H256, units::SECTORS_PER_LOAD};

use super::{
    batch::{Contexts, LOADS_PER_BATCH, read_batch, seal_jobs},
    engine::SealBatch,
    source::StoreSource,
};
use crate::{
    chain::client::{ChainClient, MineContext},
    duties::blocking,
    store::{Store, StoreError},
};

/// Batches of 16 MiB that are in memory at once: being read, sealed and written.
pub(super) const BATCHES: usize = 6;
/// Batches that wait for the engine.
pub(super) const BATCHES_WAITING: usize = 4;
/// Loads that one search lists.
const LOADS_PER_SEARCH: usize = 4096;
/// How often it is searched when nothing tells of new data: there may be segments of a file that is not complete.
const SEARCH_EVERY: Duration = Duration::from_secs(20);
/// Wait after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Contexts that the chain is asked about at once.
const CONTEXTS_AT_ONCE: usize = 4;
/// Wait before a context that the chain does not know is asked for again: endpoints behind a load balancer may lag.
const SECOND_LOOK: Duration = Duration::from_secs(3);

/// How sealing goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SealProgress {
    /// Loads that are known to be left.
    pub(super) loads_left: u64,
    /// Whether there may be more.
    pub(super) more: bool,
    /// Bytes sealed since the start.
    pub(super) sealed_bytes: u64,
    /// Why it does not go on.
    pub(super) trouble: Option<String>,
}

/// What sealing works with.
pub(super) struct Sealing {
    pub(super) chain: ChainClient,
    pub(super) store: Store,
    pub(super) miner_id: H256,
    pub(super) loads: Range<u64>,
    pub(super) context: watch::Receiver<Option<MineContext>>,
    pub(super) reorgs: watch::Receiver<u64>,
    pub(super) batches: mpsc::Sender<SealBatch>,
    /// As many permits as there may be batches in memory.
    pub(super) places: Arc<Semaphore>,
    pub(super) source: StoreSource,
    pub(super) progress: watch::Sender<SealProgress>,
}

impl Sealing {
    /// Seals for ever.
    pub(super) async fn run(mut self) {
        let (mut log, mut finalised) = (self.store.watch_log(), self.store.watch_finalised());
        let mut contexts = Contexts::default();
        loop {
            log.borrow_and_update();
            // What was told so far is found by the search below; to be behind is as good as to be told.
            while !matches!(finalised.try_recv(), Err(TryRecvError::Empty | TryRecvError::Closed)) {}
            let context = *self.context.borrow_and_update();
            if self.reorgs.has_changed().unwrap_or(false) {
                self.reorgs.borrow_and_update();
                contexts = Contexts::default();
            }
            let result = match context {
                Some(context) => self.seal_all(&context, &mut contexts).await,
                None => Ok(0),
            };
            match result {
                // More may have come meanwhile.
                Ok(sealed) if sealed > 0 => continue,
                Ok(_) => self.note_trouble(None),
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "sealing pauses");
                    self.note_trouble(Some(format!("data cannot be sealed: {error:#}")));
                    sleep(PAUSE).await;
                }
            }
            tokio::select! {
                Ok(()) = log.changed() => {}
                _ = finalised.recv() => {}
                Ok(()) = self.context.changed() => {}
                Ok(()) = self.reorgs.changed() => contexts = Contexts::default(),
                () = sleep(SEARCH_EVERY) => {}
            }
        }
    }

    fn note_trouble(&self, trouble: Option<String>) {
        self.progress.send_if_modified(|progress| {
            let changed = progress.trouble != trouble;
            progress.trouble = trouble;
            changed
        });
    }

    /// Seals everything that is known now and that the context covers; returns the bytes sealed.
    async fn seal_all(&self, context: &MineContext, contexts: &mut Contexts) -> anyhow::Result<u64> {
        let end = context.flow_length.min(self.loads.end.saturating_mul(SECTORS_PER_LOAD as u64));
        let mut from = self.loads.start;
        let mut sealed = 0;
        // Dropped with the rest of it when something fails; what the engine has then is sealed again.
        let mut writes = JoinSet::new();
        loop {
            let (store, miner_id) = (self.store.clone(), self.miner_id);
            let tasks = blocking(move || store.unsealed(&miner_id, from, end, LOADS_PER_SEARCH)).await?;
            let Some(last) = tasks.last() else { break };
            from = last.load + 1;
            let more = tasks.len() == LOADS_PER_SEARCH;
            self.progress.send_modify(|progress| {
                (progress.loads_left, progress.more) = (writes.len() as u64 + tasks.len() as u64, more);
            });
            for tasks in tasks.chunks(LOADS_PER_BATCH) {
                let place = self.places.clone().acquire_owned().await.context("sealing is over")?;
                let jobs = seal_jobs(&self.chain, contexts, tasks).await?;
                let (store, miner_id) = (self.store.clone(), self.miner_id);
                let (batch, place) = blocking(move || (read_batch(&store, &miner_id, jobs), place)).await;
                let mut batch = batch?;
                let (done, sealed_data) = oneshot::channel();
                let data = std::mem::take(&mut batch.data);
                let first_masks = std::mem::take(&mut batch.first_masks);
                self.batches
                    .send(SealBatch { first_masks, data, done, place })
                    .await
                    .ok()
                    .context("the engine's thread has ended")?;
                let (store, source, progress) = (self.store.clone(), self.source.clone(), self.progress.clone());
                let loads = tasks.len() as u64;
                writes.spawn(async move {
                    let (data, place) = sealed_data.await.context("the device failed while it sealed")?;
                    let bytes = data.len() as u64;
                    let written = blocking(move || {
                        let _place = place;
                        let sealed = batch.loads(&data);
                        store.put_sealed(&miner_id, &sealed)?;
                        source.add(&batch.masks());
                        Ok(bytes)
                    });
                    let written = match written.await {
                        // The flow was cut meanwhile: what is left of it is found again.
                        Err(StoreError::Stale { .. }) => 0,
                        written => written?,
                    };
                    progress.send_modify(|progress| {
                        progress.sealed_bytes += written;
                        progress.loads_left = progress.loads_left.saturating_sub(loads);
                    });
                    Ok(written)
                });
                while let Some(written) = writes.try_join_next() {
                    sealed += flat(written)?;
                }
            }
        }
        while let Some(written) = writes.join_next().await {
            sealed += flat(written)?;
        }
        self.progress.send_if_modified(|progress| {
            let changed = progress.loads_left != 0 || progress.more;
            (progress.loads_left, progress.more) = (0, false);
            changed
        });
        Ok(sealed)
    }
}

fn flat(written: Result<anyhow::Result<u64>, tokio::task::JoinError>) -> anyhow::Result<u64> {
    written.context("writing seals broke")?
}

/// Checks the contexts that seals were made with at the start and after each reorganisation, for ever.
pub(super) struct ContextCheck {
    pub(super) chain: ChainClient,
    pub(super) store: Store,
    pub(super) context: watch::Receiver<Option<MineContext>>,
    pub(super) reorgs: watch::Receiver<u64>,
    pub(super) source: StoreSource,
}

impl ContextCheck {
    pub(super) async fn run(mut self) {
        loop {
            self.reorgs.borrow_and_update();
            if let Err(error) = self.check().await {
                tracing::warn!(error = format!("{error:#}"), "the contexts of the seals cannot be checked");
                sleep(PAUSE).await;
                continue;
            }
            if self.reorgs.changed().await.is_err() {
                return;
            }
        }
    }

    /// Drops the seals whose context the chain does not have, in two looks.
    async fn check(&mut self) -> anyhow::Result<()> {
        self.context.wait_for(|context| context.is_some()).await.context("the context watcher has stopped")?;
        let store = self.store.clone();
        let suspects = self.vanished(blocking(move || store.seal_contexts()).await?).await?;
        if suspects.is_empty() {
            return Ok(());
        }
        sleep(SECOND_LOOK).await;
        for digest in self.vanished(suspects).await? {
            let store = self.store.clone();
            let seals = blocking(move || store.drop_seals_with_context(&digest)).await?;
            self.source.seals_dropped();
            tracing::warn!(%digest, seals, "the chain does not have a context any more, its seals were dropped");
        }
        Ok(())
    }

    /// Those that the chain does not know.
    async fn vanished(&self, digests: Vec<H256>) -> anyhow::Result<Vec<H256>> {
        // An epoch that is due and not made yet is not known by its digest; only the newest one that covers data can
        // be such.
        let context = *self.context.borrow();
        let mut due = HashSet::new();
        if let Some(context) = context {
            due.insert(context.digest);
            let last = self.chain.query_context_at_position(context.flow_length.saturating_sub(1)).await?;
            due.extend(last.map(|range| range.digest));
        }
        let mut vanished = Vec::new();
        for digests in digests.chunks(CONTEXTS_AT_ONCE) {
            let asked = digests.iter().map(|digest| async { (*digest, self.chain.epoch_range(*digest).await) });
            for (digest, range) in futures::future::join_all(asked).await {
                if range?.is_none() && !due.contains(&digest) {
                    vanished.push(digest);
                }
            }
        }
        Ok(vanished)
    }
}
