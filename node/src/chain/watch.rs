//! Follows the chain's mining context and tells everybody what there is to mine.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, task::JoinHandle};
use zgpu_miner::puzzle::Puzzle;

use super::{
    client::{ChainClient, IdleReason, MineContext, MinerConfig, MiningTask},
    error::ChainError,
};

/// What there is to mine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MiningState {
    /// This.
    Ready(Arc<Puzzle>),
    /// Nothing, and why.
    Idle {
        /// The first thing that is in the way.
        reason: IdleReason,
    },
}

impl MiningState {
    /// The puzzle, if there is one.
    pub fn puzzle(&self) -> Option<&Arc<Puzzle>> {
        match self {
            MiningState::Ready(puzzle) => Some(puzzle),
            MiningState::Idle { .. } => None,
        }
    }
}

/// How the context is followed.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// How often the chain is asked for its last block, besides when a new one is announced. The context is asked for
    /// once in each new block.
    pub poll: Duration,
    /// How long a puzzle stays up while the chain does not answer.
    pub patience: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        WatchOptions { poll: Duration::from_millis(200), patience: Duration::from_secs(30) }
    }
}

/// Follows the context until it is dropped.
#[derive(Debug)]
pub struct ContextWatcher {
    state: watch::Receiver<MiningState>,
    context: watch::Receiver<Option<MineContext>>,
    miner: watch::Sender<MinerConfig>,
    task: JoinHandle<()>,
}

impl Drop for ContextWatcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ContextWatcher {
    /// Starts to follow the context of one miner.
    pub fn start(client: ChainClient, miner: MinerConfig, options: WatchOptions) -> Self {
        let (sender, state) = watch::channel(MiningState::Idle { reason: IdleReason::Starting });
        let (context_sender, context) = watch::channel(None);
        let (miner, config) = watch::channel(miner);
        let follower = Follower {
            client,
            miner: config,
            options,
            sender,
            context: context_sender,
            generation: 0,
            last: None,
            last_block: None,
            seen_block: None,
            same_until: 0,
        };
        ContextWatcher { state, context, miner, task: tokio::spawn(follower.run()) }
    }

    /// What there is to mine, now and whenever it changes. Each puzzle has a larger generation than those before it.
    pub fn state(&self) -> watch::Receiver<MiningState> {
        self.state.clone()
    }

    /// The epoch's context, in and out of the miner's window, now and whenever it changes; `None` before the chain's
    /// first answer.
    pub fn context(&self) -> watch::Receiver<Option<MineContext>> {
        self.context.clone()
    }

    /// Has another part of the flow mined from now on.
    pub fn set_miner(&self, miner: MinerConfig) {
        self.miner.send_if_modified(|current| std::mem::replace(current, miner) != miner);
    }
}

struct Follower {
    client: ChainClient,
    miner: watch::Receiver<MinerConfig>,
    options: WatchOptions,
    sender: watch::Sender<MiningState>,
    context: watch::Sender<Option<MineContext>>,
    /// Of the last puzzle.
    generation: u64,
    /// The last puzzle, as the chain gave it: with generation 0.
    last: Option<Puzzle>,
    /// The last block that the context was asked for in.
    last_block: Option<u64>,
    /// The last block that the chain told of.
    seen_block: Option<u64>,
    /// Up to this block the answer is known to be the same, unless the chain is reorganised.
    same_until: u64,
}

/// Blocks after which the context is asked for in any case.
const MAX_SAME_BLOCKS: u64 = 16;

impl Follower {
    async fn run(mut self) {
        let mut answered = Instant::now();
        let mut ticks = tokio::time::interval(self.options.poll);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heads = self.client.rpc().heads();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = heads.announced() => ticks.reset(),
                Ok(()) = self.miner.changed() => self.last_block = None,
            }
            let looked = self.look().await;
            heads.looked(matches!(looked, Ok(true)));
            match looked {
                Ok(_) => answered = Instant::now(),
                Err(error) => {
                    tracing::warn!(%error, "the mining context cannot be read");
                    // What was up may still be right for a while; an old puzzle only makes answers that are refused.
                    if self.last.is_none() || answered.elapsed() > self.options.patience {
                        self.publish_idle(IdleReason::Chain(error.to_string()));
                    }
                }
            }
        }
    }

    /// Asks for the context if there is a block that it was not asked for in, and that may bring another answer.
    /// Returns whether there is a block that was not seen before.
    async fn look(&mut self) -> Result<bool, ChainError> {
        let block = self.client.block_number().await?;
        let is_new = self.seen_block.replace(block) != Some(block);
        // Another number, not a larger one: a reorganised chain may be shorter.
        if self.last_block.is_some_and(|last| block == last || last < block && block <= self.same_until) {
            return Ok(is_new);
        }
        let miner = *self.miner.borrow_and_update();
        let task = match self.client.worker_context(miner.miner_id).await? {
            Some(worker) => {
                let context = Some(worker.context);
                self.context.send_if_modified(|current| std::mem::replace(current, context) != context);
                self.client.task_in(&miner, &worker).await?
            }
            None => MiningTask::Idle(IdleReason::NotRegistered { miner_id: miner.miner_id }),
        };
        // Outside the miner's window nothing changes before it opens, or before the next epoch.
        let until = match &task {
            MiningTask::Idle(IdleReason::BeforeWindow { opens_after, .. }) => *opens_after,
            MiningTask::Idle(IdleReason::AfterWindow { next_epoch_block, .. }) => next_epoch_block.saturating_sub(1),
            _ => block,
        };
        self.same_until = until.min(block.saturating_add(MAX_SAME_BLOCKS));
        match task {
            MiningTask::Ready(puzzle) => self.publish_puzzle(puzzle),
            MiningTask::Idle(reason) => self.publish_idle(reason),
        }
        self.last_block = Some(block);
        Ok(is_new)
    }

    fn publish_puzzle(&mut self, puzzle: Puzzle) {
        if self.last.as_ref() == Some(&puzzle) {
            return;
        }
        self.generation += 1;
        tracing::info!(
            generation = self.generation,
            context = %puzzle.context_digest,
            subtask = %puzzle.subtask_digest,
            flow_length = puzzle.flow_length,
            "new puzzle"
        );
        self.last = Some(puzzle.clone());
        self.sender.send_replace(MiningState::Ready(Arc::new(Puzzle { generation: self.generation, ..puzzle })));
    }

    fn publish_idle(&mut self, reason: IdleReason) {
        if self.last.take().is_some() {
            tracing::info!(%reason, "nothing to mine");
        }
        let state = MiningState::Idle { reason };
        self.sender.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }
}
