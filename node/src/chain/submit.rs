//! Sends answers to the mine contract: bounded, several at a time, each once, and says what became of every one.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::{SolCall, SolEvent},
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::sleep,
};
use zgpu_core::{
    H256,
    units::{BYTES_PER_UNIT, SECTORS_PER_SEAL},
};
use zgpu_miner::answer::Answer;

use super::{
    client::ChainClient,
    contracts::{self, PoraMine, Reward},
    error::ChainError,
    revert::Revert,
    tx::{MinedTx, TxCall, TxError, TxManager, TxOutcome},
    watch::MiningState,
};

/// How answers are sent.
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// Answers that wait to be sent; when there are as many, [`Submitter::submit`] waits.
    pub queue: usize,
    /// Answers that are sent and waited for at once.
    pub in_flight: usize,
    /// Whether the chain is asked about the context that the seal was sealed with, before anything is sent.
    pub check_seal_context: bool,
    /// Wait before the second attempt after a failure that passes.
    pub retry_after: Duration,
}

impl Default for SubmitOptions {
    fn default() -> Self {
        SubmitOptions { queue: 256, in_flight: 16, check_seal_context: true, retry_after: Duration::from_millis(500) }
    }
}

/// What makes an answer itself and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnswerId {
    /// Digest of the mining context.
    pub context_digest: H256,
    /// Identity of the miner.
    pub miner_id: H256,
    /// The nonce.
    pub nonce: H256,
    /// First sector of the seal.
    pub recall_position: u64,
}

impl AnswerId {
    /// The id of an answer.
    pub fn of(answer: &Answer) -> Self {
        AnswerId {
            context_digest: answer.context_digest,
            miner_id: answer.miner_id,
            nonce: answer.nonce,
            recall_position: answer.recall_position,
        }
    }
}

/// What became of one answer.
#[derive(Clone, Debug)]
pub enum SubmitOutcome {
    /// In a block, and paid for as the rules say; that may be nothing.
    Accepted {
        /// Wei credited to the beneficiary.
        reward: U256,
        /// The transaction.
        tx: MinedTx,
    },
    /// The contract would refuse it; nothing was sent.
    Rejected {
        /// The contract's reason.
        reason: Revert,
    },
    /// The contract refused it in a block: gas was paid.
    Reverted {
        /// The contract's reason.
        reason: Revert,
        /// The transaction.
        tx: MinedTx,
    },
    /// Its context is over; nothing was sent.
    Stale,
    /// It was handed in before; nothing was sent.
    Duplicate,
    /// It is not known to be in a block.
    Failed {
        /// Why.
        error: Arc<TxError>,
    },
}

/// One answer and what became of it.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The answer.
    pub answer: AnswerId,
    /// What became of it.
    pub outcome: SubmitOutcome,
}

/// How many answers ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SubmitCounters {
    /// Handed in.
    pub submitted: u64,
    /// In a block.
    pub accepted: u64,
    /// Refused by the simulation.
    pub rejected: u64,
    /// Refused in a block.
    pub reverted: u64,
    /// Too late for their context.
    pub stale: u64,
    /// Handed in more than once.
    pub duplicate: u64,
    /// Not known to be in a block.
    pub failed: u64,
    /// Of the rejected, reverted and stale: how many for which reason. At most [`MAX_REASONS`] reasons.
    pub reasons: BTreeMap<String, u64>,
    /// Wei credited for accepted answers.
    #[serde(serialize_with = "decimal")]
    pub reward: U256,
    /// Wei paid for gas, of accepted and reverted answers.
    #[serde(serialize_with = "decimal")]
    pub gas_cost: U256,
    /// Gas of accepted answers.
    pub gas_accepted: u64,
}

/// Wei as a decimal text: numbers of JSON are too short for it.
pub(crate) fn decimal<S: serde::Serializer>(wei: &U256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(wei)
}

/// Reasons that are counted on their own; the texts come from outside.
pub const MAX_REASONS: usize = 64;

impl SubmitCounters {
    /// Answers that are queued or under way.
    pub fn open(&self) -> u64 {
        let closed = self.accepted + self.rejected + self.reverted + self.stale + self.duplicate + self.failed;
        self.submitted.saturating_sub(closed)
    }

    fn count(&mut self, outcome: &SubmitOutcome) {
        match outcome {
            SubmitOutcome::Accepted { reward, tx } => {
                self.accepted += 1;
                self.reward = self.reward.saturating_add(*reward);
                self.gas_accepted = self.gas_accepted.saturating_add(tx.gas_used);
                self.gas_cost = self.gas_cost.saturating_add(tx.cost());
            }
            SubmitOutcome::Rejected { reason } => {
                self.rejected += 1;
                self.count_reason(reason.text());
            }
            SubmitOutcome::Reverted { reason, tx } => {
                self.reverted += 1;
                self.gas_cost = self.gas_cost.saturating_add(tx.cost());
                self.count_reason(reason.text());
            }
            SubmitOutcome::Stale => {
                self.stale += 1;
                self.count_reason(CONTEXT_OVER);
            }
            SubmitOutcome::Duplicate => self.duplicate += 1,
            SubmitOutcome::Failed { .. } => self.failed += 1,
        }
    }

    fn count_reason(&mut self, reason: &str) {
        let is_room = self.reasons.len() < MAX_REASONS || self.reasons.contains_key(reason);
        *self.reasons.entry(if is_room { reason } else { "other" }.to_owned()).or_default() += 1;
    }
}

const CONTEXT_OVER: &str = "the mining context is over";

/// The submitter has stopped.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("answers are no longer taken")]
pub struct SubmitterStopped;

/// Takes answers and sends them.
#[derive(Debug)]
pub struct Submitter {
    queue: mpsc::Sender<Answer>,
    counters: watch::Receiver<SubmitCounters>,
    counting: watch::Sender<SubmitCounters>,
    outcomes: broadcast::Sender<Submitted>,
    task: JoinHandle<()>,
}

impl Drop for Submitter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Submitter {
    /// Starts a submitter. `state` tells which context is on.
    pub fn start(
        client: ChainClient,
        txs: TxManager,
        state: watch::Receiver<MiningState>,
        options: SubmitOptions,
    ) -> Self {
        let (queue, answers) = mpsc::channel(options.queue.max(1));
        let (counting, counters) = watch::channel(SubmitCounters::default());
        let (outcomes, _) = broadcast::channel(1024);
        let sender = Sender {
            client,
            txs,
            state,
            options,
            counting: counting.clone(),
            outcomes: outcomes.clone(),
            seen: Mutex::default(),
        };
        let task = tokio::spawn(Arc::new(sender).run(answers));
        Submitter { queue, counters, counting, outcomes, task }
    }

    /// Hands an answer in; waits while the queue is full.
    pub async fn submit(&self, answer: Answer) -> Result<(), SubmitterStopped> {
        let place = self.queue.reserve().await.map_err(|_| SubmitterStopped)?;
        self.counting.send_modify(|counters| counters.submitted += 1);
        place.send(answer);
        Ok(())
    }

    /// How many answers ended how, now and whenever it changes.
    pub fn counters(&self) -> watch::Receiver<SubmitCounters> {
        self.counters.clone()
    }

    /// What becomes of each answer from now on. A receiver that is slow loses the oldest; the counters are exact.
    pub fn outcomes(&self) -> broadcast::Receiver<Submitted> {
        self.outcomes.subscribe()
    }

    /// Takes no more answers, waits for those that are queued or under way, and says how all ended.
    pub async fn finish(mut self) -> SubmitCounters {
        // The task ends when the last sender of its queue is gone.
        let (closed, _) = mpsc::channel(1);
        self.queue = closed;
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the submitter broke");
        }
        self.counters.borrow().clone()
    }
}

struct Sender {
    client: ChainClient,
    txs: TxManager,
    state: watch::Receiver<MiningState>,
    options: SubmitOptions,
    counting: watch::Sender<SubmitCounters>,
    outcomes: broadcast::Sender<Submitted>,
    seen: Mutex<Seen>,
}

/// Answers of the context that is on, to notice one that is handed in twice.
#[derive(Default)]
struct Seen {
    context_digest: H256,
    answers: HashSet<AnswerId>,
}

impl Seen {
    /// Most answers that are remembered. One that comes twice beyond it is refused by the contract.
    const MAX: usize = 1 << 16;

    /// Whether the answer is new.
    fn insert(&mut self, answer: AnswerId) -> bool {
        if self.context_digest != answer.context_digest || self.answers.len() >= Self::MAX {
            self.context_digest = answer.context_digest;
            self.answers.clear();
        }
        self.answers.insert(answer)
    }
}

impl Sender {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, mut answers: mpsc::Receiver<Answer>) {
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(ended) = running.join_next(), if !running.is_empty() => note_end(ended),
                answer = answers.recv(), if running.len() < self.options.in_flight.max(1) => {
                    let Some(answer) = answer else { break };
                    let id = AnswerId::of(&answer);
                    if self.is_over(&id.context_digest) {
                        self.report(id, SubmitOutcome::Stale);
                    } else if !self.seen().insert(id) {
                        self.report(id, SubmitOutcome::Duplicate);
                    } else {
                        let sender = self.clone();
                        running.spawn(async move {
                            let outcome = sender.send(&answer).await;
                            if matches!(outcome, SubmitOutcome::Failed { .. }) {
                                // It may be handed in again, once the cause is gone.
                                sender.seen().answers.remove(&id);
                            }
                            sender.report(id, outcome);
                        });
                    }
                }
            }
        }
        while let Some(ended) = running.join_next().await {
            note_end(ended);
        }
    }

    /// Whether another context is known to be on. While nothing is known, the contract decides.
    fn is_over(&self, context_digest: &H256) -> bool {
        self.state.borrow().puzzle().is_some_and(|puzzle| puzzle.context_digest != *context_digest)
    }

    fn report(&self, answer: AnswerId, outcome: SubmitOutcome) {
        match &outcome {
            SubmitOutcome::Accepted { reward, tx } => {
                tracing::info!(nonce = %answer.nonce, position = answer.recall_position, %reward, gas = tx.gas_used, hash = %tx.hash, "answer accepted");
            }
            SubmitOutcome::Rejected { reason } => {
                tracing::warn!(nonce = %answer.nonce, position = answer.recall_position, %reason, "answer rejected");
            }
            SubmitOutcome::Reverted { reason, tx } => {
                tracing::warn!(nonce = %answer.nonce, position = answer.recall_position, %reason, hash = %tx.hash, "answer reverted");
            }
            SubmitOutcome::Stale => tracing::info!(nonce = %answer.nonce, "answer came too late for its context"),
            SubmitOutcome::Duplicate => tracing::debug!(nonce = %answer.nonce, "answer was handed in twice"),
            SubmitOutcome::Failed { error } => tracing::warn!(nonce = %answer.nonce, %error, "answer not sent"),
        }
        self.counting.send_modify(|counters| counters.count(&outcome));
        // Nobody listening is fine: the counters have it.
        let _ = self.outcomes.send(Submitted { answer, outcome });
    }

    /// Sends an answer, and once more after a failure that passes.
    async fn send(&self, answer: &Answer) -> SubmitOutcome {
        let first = self.send_once(answer).await;
        let passes = match &first {
            SubmitOutcome::Rejected { reason } => is_passing(reason),
            SubmitOutcome::Failed { error } => error.is_transient(),
            _ => false,
        };
        if !passes {
            return first;
        }
        sleep(self.options.retry_after).await;
        if self.is_over(&answer.context_digest) {
            return SubmitOutcome::Stale;
        }
        self.send_once(answer).await
    }

    async fn send_once(&self, answer: &Answer) -> SubmitOutcome {
        if self.options.check_seal_context {
            match self.check_seal_context(answer).await {
                Ok(None) => {}
                Ok(Some(reason)) => return SubmitOutcome::Rejected { reason },
                Err(error) => {
                    return SubmitOutcome::Failed { error: Arc::new(TxError::chain(WHAT, error)) };
                }
            }
        }
        match self.txs.send(answer_call(self.client.contracts().mine, answer)).await {
            TxOutcome::Mined(tx) => SubmitOutcome::Accepted { reward: self.reward_of(&tx.logs, answer), tx },
            TxOutcome::Refused { reason } if is_stale(&reason) => SubmitOutcome::Stale,
            TxOutcome::Refused { reason } => SubmitOutcome::Rejected { reason },
            TxOutcome::Reverted { tx, reason } => SubmitOutcome::Reverted { reason, tx },
            TxOutcome::Failed(error) => SubmitOutcome::Failed { error: Arc::new(error) },
        }
    }

    /// Asks the chain whether the seal's last sector still belongs to the context that it was sealed with: a
    /// reorganisation of the chain can take it away. Says why not.
    async fn check_seal_context(&self, answer: &Answer) -> Result<Option<Revert>, ChainError> {
        // The question by position, not by digest: it also knows an epoch that is due and not made yet.
        let last_sector = answer.recall_position.saturating_add(SECTORS_PER_SEAL as u64 - 1);
        let range = self.client.query_context_at_position(last_sector).await?;
        if range.is_some_and(|range| range.digest == answer.sealed_context_digest) {
            return Ok(None);
        }
        // The contract's own words for it.
        Ok(Some(Revert::from_text("Invalid sealed context digest")))
    }

    /// Wei that a transaction's events credit for an answer.
    fn reward_of(&self, logs: &[Log], answer: &Answer) -> U256 {
        let reward = self.client.contracts().reward;
        logs.iter()
            .filter(|log| log.address() == reward)
            .filter_map(|log| Reward::DistributeReward::decode_log_data(log.data()).ok())
            .filter(|event| event.minerId == B256::from(answer.miner_id.0))
            .fold(U256::ZERO, |sum, event| sum.saturating_add(event.amount))
    }
}

const WHAT: &str = "the answer";

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "sending an answer broke");
    }
}

/// Refusals that another block may lift: the endpoint is a block behind the one that opened the window.
fn is_passing(reason: &Revert) -> bool {
    reason.text().starts_with("Earlier than expected subtask start block")
}

/// Refusals that say that the context or its window is over.
fn is_stale(reason: &Revert) -> bool {
    ["Inconsistent mining digest", "Mine deadline exceed"].iter().any(|text| reason.text().starts_with(text))
}

/// The call that hands an answer to the mine contract.
pub fn answer_call(mine: Address, answer: &Answer) -> TxCall {
    let data = PoraMine::submitCall { answer: abi_answer(answer) }.abi_encode().into();
    TxCall { what: WHAT, to: mine, data, value: U256::ZERO }
}

/// An answer as the contract's ABI wants it.
pub fn abi_answer(answer: &Answer) -> contracts::PoraAnswer {
    let mut sealed_data = [B256::ZERO; 128];
    for (word, unit) in sealed_data.iter_mut().zip(answer.sealed_data.chunks_exact(BYTES_PER_UNIT)) {
        word.copy_from_slice(unit);
    }
    contracts::PoraAnswer {
        contextDigest: answer.context_digest.0.into(),
        nonce: answer.nonce.0.into(),
        minerId: answer.miner_id.0.into(),
        range: contracts::MineRange {
            startPosition: U256::from(answer.range.start_position),
            mineLength: U256::from(answer.range.mining_length),
            shardId: answer.range.shard_id,
            shardMask: answer.range.shard_mask,
        },
        recallPosition: U256::from(answer.recall_position),
        sealOffset: U256::from(answer.seal_offset),
        sealedContextDigest: answer.sealed_context_digest.0.into(),
        sealedData: sealed_data,
        merkleProof: answer.merkle_proof.iter().map(|node| node.0.into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_reasons_apart_and_their_number_bounded() {
        let mut counters = SubmitCounters { submitted: 102, ..SubmitCounters::default() };
        for index in 0..100 {
            counters.count(&SubmitOutcome::Rejected { reason: Revert::from_text(&format!("reason {index}")) });
        }
        counters.count(&SubmitOutcome::Stale);
        assert_eq!((counters.rejected, counters.stale, counters.open()), (100, 1, 1));
        assert_eq!(counters.reasons.len(), MAX_REASONS + 1);
        assert_eq!(counters.reasons["other"], 37);
    }

    #[test]
    fn an_answer_is_new_once_per_context() {
        let id = |context: u8, nonce: u8| AnswerId {
            context_digest: H256([context; 32]),
            miner_id: H256::ZERO,
            nonce: H256([nonce; 32]),
            recall_position: 0,
        };
        let mut seen = Seen::default();
        assert!(seen.insert(id(1, 1)) && seen.insert(id(1, 2)));
        assert!(!seen.insert(id(1, 1)));
        assert!(seen.insert(id(2, 1)));
    }
}
