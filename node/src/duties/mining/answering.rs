//! Hits become answers: the ones that pay most first, none that costs more than it pays, no more than the epoch takes.
//!
//! An answer pays half of what its pricing chunk has released, and the base reward (see [`RewardBook`]); so each answer
//! that is on its way halves what the next one in the same chunk is worth, and taking the best hit each time spreads
//! answers over chunks.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::{Address, U256};
use tokio::{
    sync::{broadcast, mpsc, watch},
    task::JoinSet,
    time::sleep,
};
use zgpu_core::{
    digest::H256,
    units::{LOADS_PER_PRICING, SECTORS_PER_SEAL},
};
use zgpu_miner::{Answer, ChainRules, Hit, Puzzle};

use super::{
    Control,
    batch::Contexts,
    proof::{Proof, prove},
    source::StoreSource,
};
use crate::{
    chain::{
        client::{ChainClient, EpochRange, MineContext},
        contracts::PoraMine,
        error::ChainError,
        rewards::RewardBook,
        submit::{AnswerId, SubmitOutcome, Submitted, Submitter, answer_call},
        tx::{TxError, TxManager},
        watch::MiningState,
    },
    duties::blocking,
    store::Store,
};

/// Hits that wait at most.
const MAX_WAITING: usize = 256;
/// Times that an answer is tried after failures that are not about money.
const MAX_TRIES: u32 = 3;
/// How often waiting hits and chunks that did not pay are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Wait before the next answer after one could not be sent; that one tells whether the cause is gone.
const HOLD: Duration = Duration::from_secs(3);
/// How long the number of answers in the epoch is good for.
const ROOM_FOR: Duration = Duration::from_secs(2);
/// How often the chain is asked what can be withdrawn.
const CLAIMABLE_EVERY: Duration = Duration::from_secs(60);

/// Which answers are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerPolicy {
    /// Wei that an answer has to earn beyond its gas; `None` sends whatever it earns.
    pub(super) min_profit: Option<U256>,
    /// Accepted answers after which no more are sent.
    pub(super) wanted: Option<u64>,
    /// Answers that are under way at once.
    pub(super) in_flight: usize,
    /// Who is paid.
    pub(super) beneficiary: Address,
    /// Most shards that an answer may declare.
    pub(super) max_shards: u64,
}

/// How answering goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) waiting: u64,
    pub(super) unprofitable: u64,
    pub(super) late: u64,
    pub(super) surplus: u64,
    pub(super) unprovable: u64,
    pub(super) claimable: U256,
    /// Why answers are not sent now.
    pub(super) trouble: Option<String>,
    /// Why loads are left out of mining.
    pub(super) worthless: Option<String>,
}

/// What answering is connected to.
pub(super) struct AnswerLinks {
    pub(super) chain: ChainClient,
    pub(super) store: Store,
    pub(super) source: StoreSource,
    pub(super) txs: TxManager,
    pub(super) submitter: Submitter,
    pub(super) hits: mpsc::Receiver<(Arc<Puzzle>, Hit)>,
    pub(super) state: watch::Receiver<MiningState>,
    pub(super) context: watch::Receiver<Option<MineContext>>,
    pub(super) control: watch::Receiver<Control>,
    pub(super) reorgs: watch::Sender<u64>,
    pub(super) has_enough: watch::Sender<bool>,
    pub(super) tally: watch::Sender<Tally>,
    pub(super) outcomes: broadcast::Sender<Submitted>,
}

/// A hit on its way.
#[derive(Clone)]
struct Found {
    puzzle: Arc<Puzzle>,
    hit: Hit,
    tries: u32,
}

impl Found {
    fn chunk(&self) -> u64 {
        self.hit.load / LOADS_PER_PRICING
    }

    fn id(&self) -> AnswerId {
        AnswerId {
            context_digest: self.puzzle.context_digest,
            miner_id: self.puzzle.miner_id,
            nonce: self.hit.nonce,
            recall_position: self.hit.recall_position(),
        }
    }
}

/// Answers that the epoch still takes, as of a look.
#[derive(Clone, Copy)]
struct Room {
    context: H256,
    left: u64,
    read_at: Instant,
}

/// Turns hits into answers until its channel of hits is closed.
pub(super) struct Answering {
    links: AnswerLinks,
    policy: AnswerPolicy,
    book: RewardBook,
    contexts: Contexts,
    /// By pricing chunk.
    waiting: BTreeMap<u64, VecDeque<Found>>,
    /// Being proven or sent.
    open: HashMap<AnswerId, Found>,
    proving: JoinSet<(Found, anyhow::Result<Proof>)>,
    room: Option<Room>,
    /// Gas that an answer takes, once it is known.
    gas: Option<u64>,
    /// Nothing is sent before, and only one answer at a time until one is accepted.
    held_until: Option<Instant>,
    /// Whether the trouble is that the chain does not answer or the log is behind: it is over by itself.
    is_behind: bool,
    worthless: HashSet<u64>,
    claimable_at: Option<Instant>,
}

impl Answering {
    pub(super) fn new(links: AnswerLinks, policy: AnswerPolicy) -> Self {
        Answering {
            book: RewardBook::new(links.chain.clone()),
            links,
            policy,
            contexts: Contexts::default(),
            waiting: BTreeMap::new(),
            open: HashMap::new(),
            proving: JoinSet::new(),
            room: None,
            gas: None,
            held_until: None,
            is_behind: false,
            worthless: HashSet::new(),
            claimable_at: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut outcomes = self.links.submitter.outcomes();
        let mut reorgs = self.links.reorgs.subscribe();
        loop {
            tokio::select! {
                found = self.links.hits.recv() => {
                    let Some((puzzle, hit)) = found else { return };
                    self.take(Found { puzzle, hit, tries: 0 });
                }
                outcome = outcomes.recv() => match outcome {
                    Ok(outcome) => self.settle(outcome),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.open.clear(),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                Some(proven) = self.proving.join_next(), if !self.proving.is_empty() => match proven {
                    Ok((found, proof)) => self.hand_in(found, proof).await,
                    Err(error) => {
                        tracing::error!(%error, "proving a hit broke");
                        // Which one is not known; the submitter notices one that is sent twice.
                        self.open.clear();
                    }
                },
                Ok(()) = self.links.state.changed() => self.drop_late(),
                Ok(()) = self.links.control.changed() => {}
                Ok(()) = self.links.context.changed() => {
                    self.links.context.borrow_and_update();
                    self.book.forget();
                }
                Ok(()) = reorgs.changed() => self.contexts.forget(),
                () = sleep(LOOK_EVERY) => {}
            }
            self.look_at_claimable().await;
            let waits = match self.send_what_pays().await {
                Ok(()) => self.why_unread(),
                Err(error) => {
                    let reason = format!("answers wait: {error}");
                    self.hold(reason.clone());
                    Some(reason)
                }
            };
            if self.is_behind || waits.is_some() {
                self.is_behind = waits.is_some();
                self.count(|tally| tally.trouble = waits);
            }
            self.tell();
        }
    }

    /// Whether a puzzle is not the one that is on.
    fn is_late(&self, puzzle: &Puzzle) -> bool {
        self.links.state.borrow().puzzle().is_none_or(|now| now.generation != puzzle.generation)
    }

    fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        self.links.tally.send_modify(change);
    }

    fn take(&mut self, found: Found) {
        if self.is_late(&found.puzzle) {
            return self.count(|tally| tally.late += 1);
        }
        if self.waiting() >= MAX_WAITING {
            return self.count(|tally| tally.surplus += 1);
        }
        self.waiting.entry(found.chunk()).or_default().push_back(found);
    }

    fn drop_late(&mut self) {
        let state = self.links.state.borrow_and_update().clone();
        let generation = state.puzzle().map(|puzzle| puzzle.generation);
        let before = self.waiting();
        self.waiting.retain(|_, found| {
            found.retain(|found| Some(found.puzzle.generation) == generation);
            !found.is_empty()
        });
        let late = (before - self.waiting()) as u64;
        if late > 0 {
            self.count(|tally| tally.late += late);
        }
        self.room = None;
    }

    /// Proves hits that pay, best first, as many as may be under way.
    async fn send_what_pays(&mut self) -> Result<(), ChainError> {
        if !self.links.control.borrow().mine {
            self.waiting.clear();
        }
        self.forgive_worthless().await?;
        if self.waiting.is_empty() && !*self.links.has_enough.borrow() {
            return Ok(());
        }
        while !self.waiting.is_empty() && self.may_send().await? {
            let Some(found) = self.take_best().await? else { break };
            let range = match self.contexts.of_seal(&self.links.chain, found.hit.recall_position()).await {
                Ok(Some(range)) => range,
                Ok(None) => {
                    self.count(|tally| tally.unprovable += 1);
                    continue;
                }
                Err(error) => {
                    self.take(found);
                    return Err(error);
                }
            };
            self.prove(found, range);
        }
        let room = self.room_left().await?;
        let enough = self.waiting() >= MAX_WAITING.min(room.saturating_mul(2).try_into().unwrap_or(MAX_WAITING));
        self.links.has_enough.send_if_modified(|current| std::mem::replace(current, enough) != enough);
        Ok(())
    }

    fn prove(&mut self, found: Found, range: EpochRange) {
        let rules =
            ChainRules { max_shards: self.policy.max_shards, seal_epoch_start: range.start, seal_epoch_end: range.end };
        let store = self.links.store.clone();
        self.open.insert(found.id(), found.clone());
        self.proving.spawn(async move {
            let (puzzle, hit) = (found.puzzle.clone(), found.hit);
            (found, blocking(move || prove(&store, &puzzle, &hit, range.digest, &rules)).await)
        });
    }

    async fn may_send(&mut self) -> Result<bool, ChainError> {
        let open = self.open.len();
        let limit = match self.held_until {
            Some(until) if Instant::now() < until => 0,
            Some(_) => 1,
            // The first one tells what gas answers take.
            None if self.gas.is_none() && self.policy.min_profit.is_some() => 1,
            None => self.policy.in_flight,
        };
        Ok(open < limit && self.why_unread().is_none() && self.room_left().await? > open as u64)
    }

    /// Why hits cannot be proven yet: the log may be read a little behind the chain, and proofs need all of the flow that
    /// the context has.
    fn why_unread(&self) -> Option<String> {
        let wanted = self.links.state.borrow().puzzle().map_or(0, |puzzle| puzzle.flow_length);
        let read = self.links.store.flow_length();
        (read < wanted && !self.waiting.is_empty())
            .then(|| format!("answers wait: the log is read up to sector {read} of the flow, the epoch has {wanted}"))
    }

    /// Answers that may still be sent, those that are under way included.
    async fn room_left(&mut self) -> Result<u64, ChainError> {
        let accepted = self.links.submitter.counters().borrow().accepted;
        let wanted = self.policy.wanted.map_or(u64::MAX, |wanted| wanted.saturating_sub(accepted));
        let context = *self.links.context.borrow();
        let Some(context) = context else { return Ok(0) };
        let is_fresh = |room: &Room| room.context == context.digest && room.read_at.elapsed() < ROOM_FOR;
        let room = match self.room.filter(is_fresh) {
            Some(room) => room,
            None => {
                let room = self.read_room(&context).await?;
                self.room = Some(room);
                room
            }
        };
        Ok(room.left.min(wanted))
    }

    async fn read_room(&self, context: &MineContext) -> Result<Room, ChainError> {
        let (chain, mine) = (&self.links.chain, self.links.chain.contracts().mine);
        // The numbers of an epoch begin with its first answer.
        let is_begun = chain.read(mine, PoraMine::lastMinedEpochCall {}).await? >= U256::from(context.epoch);
        let (target, used) = if is_begun {
            let target = chain.read(mine, PoraMine::targetSubmissionsCall {}).await?;
            (target, chain.read(mine, PoraMine::currentSubmissionsCall {}).await?)
        } else {
            (chain.read(mine, PoraMine::targetSubmissionsNextEpochCall {}).await?, U256::ZERO)
        };
        let left = target.saturating_mul(U256::from(2)).saturating_sub(used).saturating_to();
        Ok(Room { context: context.digest, left, read_at: Instant::now() })
    }

    /// The waiting hit that earns most, without those that cost more than they earn.
    async fn take_best(&mut self) -> Result<Option<Found>, ChainError> {
        let mut best: Option<(U256, u64)> = None;
        for chunk in self.waiting.keys().copied().collect::<Vec<_>>() {
            let ahead = self.open.values().filter(|open| open.chunk() == chunk).count() as u32;
            let worth = self.book.worth(chunk, ahead).await?;
            if let Some(reason) = self.why_not(chunk, worth).await? {
                // With others ahead it may pay later.
                if ahead == 0 {
                    self.drop_worthless(chunk, reason);
                }
                continue;
            }
            let worth = worth.unwrap_or_default();
            if best.is_none_or(|(most, _)| worth > most) {
                best = Some((worth, chunk));
            }
        }
        let Some((_, chunk)) = best else { return Ok(None) };
        let Some(found) = self.waiting.get_mut(&chunk) else { return Ok(None) };
        let first = found.pop_front();
        if found.is_empty() {
            self.waiting.remove(&chunk);
        }
        Ok(first)
    }

    /// Why an answer that earns `worth` is not sent. What is not known does not speak against it.
    async fn why_not(&mut self, chunk: u64, worth: Option<U256>) -> Result<Option<String>, ChainError> {
        let (Some(worth), Some(gas), Some(margin)) = (worth, self.gas, self.policy.min_profit) else { return Ok(None) };
        let price = self.book.gas_price().await?;
        let cost = price.saturating_mul(U256::from(gas));
        let is_paid = worth >= cost.saturating_add(margin);
        Ok((!is_paid).then(|| {
            format!(
                "an answer in pricing chunk {chunk} earns {worth} wei and costs {cost} ({gas} gas at {price} wei); \
                 it has to earn {margin} wei more than it costs"
            )
        }))
    }

    /// Drops the hits in a chunk that does not pay, and has it left out of mining.
    fn drop_worthless(&mut self, chunk: u64, reason: String) {
        let dropped = self.waiting.remove(&chunk).map_or(0, |found| found.len() as u64);
        if self.worthless.insert(chunk) {
            tracing::info!(%reason, "a pricing chunk is not mined");
            self.links.source.leave_out(self.worthless.clone());
        }
        self.count(|tally| {
            tally.unprofitable += dropped;
            tally.worthless = Some(reason);
        });
    }

    /// Takes chunks in again that pay now.
    async fn forgive_worthless(&mut self) -> Result<(), ChainError> {
        let before = self.worthless.len();
        for chunk in self.worthless.iter().copied().collect::<Vec<_>>() {
            let worth = self.book.worth(chunk, 0).await?;
            if self.why_not(chunk, worth).await?.is_none() {
                self.worthless.remove(&chunk);
            }
        }
        if self.worthless.len() != before {
            self.links.source.leave_out(self.worthless.clone());
            if self.worthless.is_empty() {
                self.count(|tally| tally.worthless = None);
            }
        }
        Ok(())
    }

    /// Hands a proven answer to the submitter.
    async fn hand_in(&mut self, found: Found, proof: anyhow::Result<Proof>) {
        let answer = match proof {
            Ok(Proof::Answer(answer)) => answer,
            Ok(Proof::Gone) => {
                self.open.remove(&found.id());
                return self.count(|tally| tally.unprovable += 1);
            }
            Ok(Proof::OtherContext { sealed_with }) => {
                self.open.remove(&found.id());
                return self.look_at_context(found, sealed_with).await;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "a hit cannot be proven");
                self.open.remove(&found.id());
                return self.count(|tally| tally.unprovable += 1);
            }
        };
        if self.gas.is_none() && self.policy.min_profit.is_some() {
            self.learn_gas(&answer).await;
            let worth = self.book.worth(found.chunk(), 0).await.ok().flatten();
            if let Ok(Some(reason)) = self.why_not(found.chunk(), worth).await {
                self.open.remove(&found.id());
                self.count(|tally| tally.unprofitable += 1);
                return self.drop_worthless(found.chunk(), reason);
            }
        }
        if self.links.submitter.submit(*answer).await.is_err() {
            self.open.remove(&found.id());
        }
    }

    async fn learn_gas(&mut self, answer: &Answer) {
        let call = answer_call(self.links.chain.contracts().mine, answer);
        match self.links.txs.estimate(&call).await {
            Ok(Ok(gas)) => self.gas = Some(gas),
            // The submitter finds the same and says so.
            Ok(Err(reason)) => tracing::debug!(%reason, "the gas of an answer is not known yet"),
            Err(error) => tracing::debug!(%error, "the gas of an answer is not known yet"),
        }
    }

    /// A seal was made with another context than the chain has now, as far as it is remembered: asks anew.
    async fn look_at_context(&mut self, found: Found, sealed_with: H256) {
        self.contexts.forget();
        let last_sector = found.hit.recall_position() + SECTORS_PER_SEAL as u64 - 1;
        match self.links.chain.query_context_at_position(last_sector).await {
            Ok(Some(range)) if range.digest == sealed_with && found.tries < MAX_TRIES => {
                self.take(Found { tries: found.tries + 1, ..found });
            }
            Ok(_) => {
                self.count(|tally| tally.unprovable += 1);
                let store = self.links.store.clone();
                match blocking(move || store.drop_seals_with_context(&sealed_with)).await {
                    Ok(seals) => {
                        tracing::warn!(context = %sealed_with, seals, "the chain does not have a context any more, its seals were dropped");
                        self.links.source.seals_dropped();
                        self.links.reorgs.send_modify(|reorgs| *reorgs += 1);
                    }
                    Err(error) => tracing::error!(%error, "seals of a context that vanished cannot be dropped"),
                }
            }
            Err(error) => self.hold(format!("answers wait: {error}")),
        }
    }

    /// Learns from the end of an answer.
    fn settle(&mut self, submitted: Submitted) {
        let found = self.open.remove(&submitted.answer);
        match &submitted.outcome {
            SubmitOutcome::Accepted { tx, .. } => {
                self.gas = Some(tx.gas_used);
                self.held_until = None;
                self.claimable_at = None;
                self.room = None;
                self.count(|tally| tally.trouble = None);
                if let Some(found) = &found {
                    self.book.forget_chunk(found.chunk());
                }
            }
            SubmitOutcome::Rejected { reason } | SubmitOutcome::Reverted { reason, .. } => {
                self.room = None;
                if reason.text().starts_with("Invalid sealed context digest") {
                    self.contexts.forget();
                    self.links.reorgs.send_modify(|reorgs| *reorgs += 1);
                }
            }
            SubmitOutcome::Failed { error } => {
                self.hold(advice(error));
                let is_money = matches!(**error, TxError::Funds { .. } | TxError::Fee { .. });
                if let Some(found) = found
                    && (is_money || found.tries < MAX_TRIES)
                {
                    self.take(Found { tries: found.tries + u32::from(!is_money), ..found });
                }
            }
            SubmitOutcome::Stale | SubmitOutcome::Duplicate => {}
        }
        // Nobody listening is fine.
        let _ = self.links.outcomes.send(submitted);
    }

    fn hold(&mut self, reason: String) {
        self.held_until = Some(Instant::now() + HOLD);
        self.count(|tally| tally.trouble = Some(reason));
    }

    async fn look_at_claimable(&mut self) {
        if self.claimable_at.is_some_and(|at| at.elapsed() < CLAIMABLE_EVERY) {
            return;
        }
        self.claimable_at = Some(Instant::now());
        match self.links.chain.payments(self.policy.beneficiary).await {
            Ok(claimable) => self.count(|tally| tally.claimable = claimable),
            Err(error) => tracing::debug!(%error, "what can be withdrawn is not known"),
        }
    }

    fn tell(&self) {
        let waiting = self.waiting() as u64;
        self.links.tally.send_if_modified(|tally| std::mem::replace(&mut tally.waiting, waiting) != waiting);
    }
}

/// Why an answer was not sent, and what to do about it.
fn advice(error: &TxError) -> String {
    match error {
        TxError::Funds { .. } => format!("{error}; send it some for gas, mining goes on by itself then"),
        TxError::Fee { .. } => format!("{error}; it is tried again, a higher limit lets it pass"),
        error => error.to_string(),
    }
}
