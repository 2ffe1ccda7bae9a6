//! Keeping the store within its budget: expired parts of the flow are deleted, and when that is not enough, half of the
//! shard is given up.
//!
//! A pricing chunk that cannot earn any more is expired; the reward contract tells the first that can. A shard is halved
//! when what is stored reaches nine tenths of the budget. The half to keep is the one whose loads earn more: each load
//! that is stored counts with what the next answer in its pricing chunk is worth. When they earn the same, or no reward
//! contract is known, it is the half with more loads; of equal halves, the one with the lower id.
//!
//! The new shard is on disk before anything is deleted, and deletion goes on after a restart where it ended.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy::primitives::U256;
use tokio::{sync::watch, task::JoinHandle, time::MissedTickBehavior};
use zgpu_core::{
    shard::Shard,
    units::{LOADS_PER_PRICING, SECTORS_PER_LOAD, SECTORS_PER_PRICING},
};

use super::blocking;
use crate::{
    chain::{client::ChainClient, error::ChainError},
    store::{Store, StoreError},
};

/// Loads that are deleted in one go, 512 MiB: no wait for the end is longer than that takes.
const LOADS_PER_STEP: u64 = 2048;
/// How far the chain's clock may be from this machine's for its word on what is expired to be taken.
const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(3600);

/// When and how much is deleted.
#[derive(Clone, Copy, Debug)]
pub struct PruneSettings {
    /// Most sectors that the store is to keep. At least 1024.
    pub max_sectors: u64,
    /// How often it is looked. Default 60 s.
    pub check_every: Duration,
    /// Loads that are deleted between two pauses. Default 16384.
    pub batch_loads: u64,
    /// Length of a pause. Default 1 s.
    pub pause: Duration,
}

impl PruneSettings {
    /// A budget of so many sectors, everything else as the defaults are.
    pub fn new(max_sectors: u64) -> Self {
        PruneSettings {
            max_sectors,
            check_every: Duration::from_secs(60),
            batch_loads: 16_384,
            pause: Duration::from_secs(1),
        }
    }
}

/// What the pruner is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PruneState {
    /// It has not looked yet.
    #[default]
    Starting,
    /// The store is within its budget.
    Idle,
    /// It deletes what is not kept any more.
    Deleting,
}

/// Where pruning stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneStatus {
    /// What is going on.
    pub state: PruneState,
    /// Shard that is kept.
    pub shard: Shard,
    /// Loads that take space, as last counted.
    pub used_loads: u64,
    /// Loads that the budget allows.
    pub max_loads: u64,
    /// Sectors in front of this one are expired.
    pub pruned_below: u64,
    /// Loads deleted since the start.
    pub deleted_loads: u64,
    /// How often the shard was halved since the start.
    pub splits: u64,
    /// What failed last, until something succeeds.
    pub last_error: Option<String>,
}

/// The running duty. It ends when this is dropped, after the step it is at.
#[derive(Debug)]
pub struct Pruner {
    task: JoinHandle<()>,
    stop: watch::Sender<bool>,
    status: watch::Receiver<PruneStatus>,
    shard: watch::Receiver<Shard>,
}

impl Pruner {
    /// Starts it. With `chain`, expired pricing chunks are deleted too.
    pub fn start(store: Store, chain: Option<ChainClient>, settings: PruneSettings) -> Pruner {
        let (stop, stopped) = watch::channel(false);
        let first = PruneStatus {
            shard: store.shard(),
            max_loads: settings.max_sectors / SECTORS_PER_LOAD as u64,
            pruned_below: store.pruned_below(),
            ..PruneStatus::default()
        };
        let (status, told) = watch::channel(first);
        let shard = store.watch_shard();
        let work = Work { store, chain, settings, status, stopped };
        Pruner { task: tokio::spawn(work.run()), stop, status: told, shard }
    }

    /// Where it stands, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<PruneStatus> {
        self.status.clone()
    }

    /// The shard that is kept, now and whenever it changes: network and miner have to follow.
    pub fn shard(&self) -> watch::Receiver<Shard> {
        self.shard.clone()
    }

    /// Ends it and waits for the step it is at.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.task).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Pruner {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Why a round did not end well.
#[derive(Debug, thiserror::Error)]
enum PruneError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the chain cannot be asked what is expired: {0}")]
    Chain(#[from] ChainError),
    #[error(
        "the chain's clock says {chain} s, this machine's {here} s: nothing is deleted as expired until they agree to \
         {limit} s; check this machine's clock and whether the chain's node follows the chain",
        limit = MAX_CLOCK_DIFFERENCE.as_secs()
    )]
    Clock { chain: u64, here: u64 },
}

struct Work {
    store: Store,
    chain: Option<ChainClient>,
    settings: PruneSettings,
    status: watch::Sender<PruneStatus>,
    stopped: watch::Receiver<bool>,
}

impl Work {
    async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.settings.check_every.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = self.stopped.wait_for(|stop| *stop) => return,
            }
            // What is expired goes first: it may make room enough.
            let expired = self.drop_expired().await;
            let halved = self.keep_within_budget().await;
            let mut failure = None;
            for error in [expired, halved].into_iter().filter_map(Result::err) {
                tracing::warn!(%error, "pruning goes on later");
                failure = Some(error.to_string());
            }
            self.status.send_modify(|status| {
                status.state = PruneState::Idle;
                status.last_error = failure;
            });
        }
    }

    /// Deletes the pricing chunks that cannot earn any more.
    async fn drop_expired(&mut self) -> Result<(), PruneError> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let first = chain.first_rewardable_chunk().await?;
        let here = seconds_now();
        if first.timestamp.abs_diff(here) > MAX_CLOCK_DIFFERENCE.as_secs() {
            return Err(PruneError::Clock { chain: first.timestamp, here });
        }
        let sector = first.index.saturating_mul(SECTORS_PER_PRICING);
        let before = self.store.pruned_below();
        if sector < before {
            // What is deleted stays so, whatever the chain says now.
            tracing::debug!(sector, before, "the chain says that less is expired than before");
            return Ok(());
        }
        if sector > before {
            tracing::info!(chunks = first.index, "pricing chunks are expired and deleted");
        }
        self.delete(move |store, limit| store.prune_below(sector, limit)).await
    }

    /// Halves the shard when it fills its budget, and deletes the other half.
    async fn keep_within_budget(&mut self) -> Result<(), PruneError> {
        // What a kill has left.
        self.delete(Store::drop_outside_shard).await?;
        let store = self.store.clone();
        let used = blocking(move || store.used_loads()).await?;
        self.status.send_modify(|status| status.used_loads = used);
        let sectors = used.saturating_mul(SECTORS_PER_LOAD as u64);
        if used == 0 || sectors < self.settings.max_sectors - self.settings.max_sectors / 10 {
            return Ok(());
        }
        let shard = self.store.shard();
        let Some(halves) = shard.halves() else { return Ok(()) };
        let kept = self.better_half(halves).await?;
        tracing::info!(%shard, %kept, used, max = self.settings.max_sectors / SECTORS_PER_LOAD as u64, "the shard is halved");
        let store = self.store.clone();
        blocking(move || store.set_shard(kept)).await?;
        self.status.send_modify(|status| {
            status.shard = kept;
            status.splits += 1;
        });
        self.delete(Store::drop_outside_shard).await?;
        let store = self.store.clone();
        let used = blocking(move || store.used_loads()).await?;
        self.status.send_modify(|status| status.used_loads = used);
        Ok(())
    }

    /// Which half to keep; see the module documentation.
    async fn better_half(&self, halves: [Shard; 2]) -> Result<Shard, PruneError> {
        let store = self.store.clone();
        let stored = blocking(move || -> Result<_, StoreError> {
            let mut stored: BTreeMap<u64, [u64; 2]> = BTreeMap::new();
            store.each_used(|load| {
                let counts = stored.entry(load / LOADS_PER_PRICING).or_default();
                for (half, count) in halves.iter().zip(counts) {
                    *count += u64::from(half.contains(load));
                }
            })?;
            Ok(stored)
        })
        .await?;
        let worths = match self.worths(stored.keys().copied()).await {
            Ok(worths) => worths,
            Err(error) => {
                tracing::warn!(%error, "what loads earn is not known; the fuller half of the shard is kept");
                BTreeMap::new()
            }
        };
        Ok(halves[better(&stored, &worths)])
    }

    /// What the next answer in each of these pricing chunks is worth, in wei. Empty without a reward contract.
    async fn worths(&self, chunks: impl Iterator<Item = u64>) -> Result<BTreeMap<u64, U256>, ChainError> {
        let mut worths = BTreeMap::new();
        let Some(chain) = &self.chain else { return Ok(worths) };
        let state = chain.reward_state().await?;
        for chunk in chunks {
            worths.insert(chunk, chain.chunk_reward(chunk).await?.worth(&state, seconds_now()));
        }
        Ok(worths)
    }

    /// Deletes in steps until nothing is left, with pauses, or until the end is asked for.
    async fn delete(
        &mut self,
        step: impl Fn(&Store, u64) -> Result<u64, StoreError> + Copy + Send + 'static,
    ) -> Result<(), PruneError> {
        let mut since_pause = 0;
        loop {
            let store = self.store.clone();
            let limit = self.settings.batch_loads.clamp(1, LOADS_PER_STEP);
            let deleted = blocking(move || step(&store, limit)).await?;
            self.status.send_modify(|status| status.pruned_below = self.store.pruned_below());
            if deleted == 0 || *self.stopped.borrow() {
                return Ok(());
            }
            self.status.send_modify(|status| {
                status.state = PruneState::Deleting;
                status.deleted_loads += deleted;
            });
            since_pause += deleted;
            if since_pause >= self.settings.batch_loads {
                since_pause = 0;
                // The end may be asked for during a pause; nobody can ask for it any more when its sender is gone.
                let _ = tokio::time::timeout(self.settings.pause, self.stopped.wait_for(|stop| *stop)).await;
            }
        }
    }
}

/// 0 or 1: the half whose stored loads, by pricing chunk, earn more; the fuller one when they earn the same.
fn better(stored: &BTreeMap<u64, [u64; 2]>, worths: &BTreeMap<u64, U256>) -> usize {
    let sum = |half: usize| {
        stored.iter().fold((U256::ZERO, 0u64), |(worth, loads), (chunk, counts)| {
            let each = worths.get(chunk).copied().unwrap_or_default();
            (worth.saturating_add(each.saturating_mul(U256::from(counts[half]))), loads.saturating_add(counts[half]))
        })
    };
    usize::from(sum(1) > sum(0))
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_half_that_earns_more_is_kept_then_the_fuller_then_the_lower() {
        let worths = |worths: &[u64]| (0..).zip(worths.iter().map(|wei| U256::from(*wei))).collect();
        let stored = |counts: &[[u64; 2]]| (0..).zip(counts.iter().copied()).collect();
        for (counts, wei, expected) in [
            (&[[0, 0]][..], &[][..], 0),
            (&[[5, 5]], &[7], 0),
            (&[[5, 6]], &[], 1),
            (&[[6, 5]], &[], 0),
            // More loads, less worth.
            (&[[9, 1], [2, 3]], &[1, 100], 1),
            (&[[1, 9], [3, 2]], &[1, 100], 0),
            // The same worth: the fuller one.
            (&[[5, 6], [1, 1]], &[0, 3], 1),
            (&[[2, 2]], &[u64::MAX], 0),
        ] {
            assert_eq!(better(&stored(counts), &worths(wei)), expected, "{counts:?} {wei:?}");
        }
        let most = (0..).zip([U256::MAX, U256::MAX]).collect();
        assert_eq!(better(&stored(&[[2, 3], [1, 1]]), &most), 1);
    }
}
