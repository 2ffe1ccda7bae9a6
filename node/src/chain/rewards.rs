//! What answers are worth, and the withdrawal of what they earned.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, U64, U256, U512},
    sol,
    sol_types::{SolCall, SolEvent},
};

use super::{
    client::{ChainClient, ChunkReward, RewardState},
    contracts::Reward,
    error::ChainError,
    revert::Revert,
    tx::{MinedTx, TxCall, TxError, TxManager, TxOutcome},
};

sol! {
    /// What the escrow of the reward contract says when it pays.
    #[allow(missing_docs)]
    event Withdrawn(address indexed payee, uint256 weiAmount);
}

impl ChunkReward {
    /// Wei that the next answer in this pricing chunk earns at `now` (seconds of the chain's clock):
    /// half of what is released and not paid, and the base reward while the chunk's fees are being released.
    /// Source: the reward contract's claim of a mined answer.
    pub fn worth(&self, state: &RewardState, now: u64) -> U256 {
        self.worth_behind(state, now, 0)
    }

    /// As [`ChunkReward::worth`], for the answer behind `ahead` others that are accepted first: each takes half of what
    /// is released, and its base reward.
    pub fn worth_behind(&self, state: &RewardState, now: u64, ahead: u32) -> U256 {
        if self.start_time == 0 {
            return U256::ZERO;
        }
        let paid_or_claimable = U256::from(self.claimable).saturating_add(U256::from(self.distributed));
        let total = paid_or_claimable.saturating_add(U256::from(self.locked));
        let age = now.saturating_sub(self.start_time);
        let earned = if age >= state.release_seconds {
            total
        } else {
            total
                .widening_mul::<256, 4, 512, 8>(U256::from(age))
                .checked_div(U512::from(state.release_seconds))
                .map_or(total, |earned| earned.saturating_to())
        };
        let released = earned.saturating_sub(paid_or_claimable);
        let claimable = U256::from(self.claimable).saturating_add(released);
        let half = claimable.wrapping_shr(ahead as usize + 1);
        let donated = state.total_base_reward.saturating_sub(state.base_reward.saturating_mul(U256::from(ahead)));
        let base = if age < state.release_seconds { state.base_reward.min(donated) } else { U256::ZERO };
        half.saturating_add(base)
    }
}

/// The first pricing chunk that can still earn, as a block of the chain has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstRewardable {
    /// Its number: those in front of it are expired.
    pub index: u64,
    /// Time of the block in seconds; [`u64::MAX`] for one beyond that.
    pub timestamp: u64,
}

impl ChainClient {
    /// The first pricing chunk whose fees are not all released.
    pub async fn first_rewardable_chunk(&self) -> Result<FirstRewardable, ChainError> {
        let first = self.read(self.contracts().reward, Reward::firstRewardableChunkCall {}).await?;
        Ok(FirstRewardable { index: first.index, timestamp: first.timestamp.saturating_to() })
    }
}

/// How long what was read of rewards and gas is good for.
const TERMS_FOR: Duration = Duration::from_secs(30);

/// What answers pay and what gas costs, read from the chain when it is asked for and kept for a while.
#[derive(Debug)]
pub struct RewardBook {
    client: ChainClient,
    terms: Option<Terms>,
    /// `None` for a chunk that the reward contract does not tell about.
    chunks: HashMap<u64, Option<ChunkReward>>,
}

/// What holds for all chunks.
#[derive(Clone, Copy, Debug)]
struct Terms {
    read_at: Instant,
    /// `None` when the reward contract does not tell.
    state: Option<RewardState>,
    /// The chain's clock when it was read, in seconds.
    chain_time: u64,
    gas_price: U256,
}

impl RewardBook {
    /// An empty book.
    pub fn new(client: ChainClient) -> Self {
        RewardBook { client, terms: None, chunks: HashMap::new() }
    }

    /// Forgets everything that was read.
    pub fn forget(&mut self) {
        self.terms = None;
        self.chunks.clear();
    }

    /// Forgets what a pricing chunk holds: an answer in it was paid.
    pub fn forget_chunk(&mut self, chunk: u64) {
        self.chunks.remove(&chunk);
    }

    /// Wei that an answer in pricing chunk `chunk` earns behind `ahead` others in it. `None` when the network's reward
    /// contract does not tell.
    pub async fn worth(&mut self, chunk: u64, ahead: u32) -> Result<Option<U256>, ChainError> {
        let terms = self.terms().await?;
        let Some(state) = terms.state else { return Ok(None) };
        let reward = match self.chunks.get(&chunk) {
            Some(reward) => *reward,
            None => {
                let reward = told(self.client.chunk_reward(chunk).await)?;
                self.chunks.insert(chunk, reward);
                reward
            }
        };
        let now = terms.chain_time.saturating_add(terms.read_at.elapsed().as_secs());
        Ok(reward.map(|reward| reward.worth_behind(&state, now, ahead)))
    }

    /// Wei per gas that the network asks for.
    pub async fn gas_price(&mut self) -> Result<U256, ChainError> {
        Ok(self.terms().await?.gas_price)
    }

    async fn terms(&mut self) -> Result<Terms, ChainError> {
        if let Some(terms) = self.terms.filter(|terms| terms.read_at.elapsed() < TERMS_FOR) {
            return Ok(terms);
        }
        #[derive(Clone, Debug, serde::Deserialize)]
        struct Block {
            timestamp: U64,
        }
        let block: Block = self.client.rpc().call("eth_getBlockByNumber", "", ("latest", false)).await?;
        let terms = Terms {
            state: told(self.client.reward_state().await)?,
            gas_price: self.client.gas_price().await?,
            chain_time: block.timestamp.to(),
            read_at: Instant::now(),
        };
        self.chunks.clear();
        self.terms = Some(terms);
        Ok(terms)
    }
}

/// What a contract says; `None` for one that does not know the question. Test networks have such reward contracts.
fn told<T>(answer: Result<T, ChainError>) -> Result<Option<T>, ChainError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ChainError::Reverted { .. } | ChainError::Reply { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why nothing was withdrawn.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WithdrawError {
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The reward contract refused.
    #[error("the reward contract refuses the withdrawal: {0}")]
    Refused(Revert),
    /// It was not mined.
    #[error(transparent)]
    Tx(#[from] TxError),
}

/// What was withdrawn.
#[derive(Clone, Debug)]
pub struct Withdrawal {
    /// Wei that the payee got.
    pub amount: U256,
    /// The transaction.
    pub tx: MinedTx,
}

/// Has the reward contract pay out what it owes `payee`, who need not be the sender. `None` when it owes nothing.
pub async fn withdraw(
    client: &ChainClient,
    txs: &TxManager,
    payee: Address,
) -> Result<Option<Withdrawal>, WithdrawError> {
    if client.payments(payee).await?.is_zero() {
        return Ok(None);
    }
    let data = Reward::withdrawPaymentsCall { payee }.abi_encode().into();
    let call = TxCall { what: "the withdrawal", to: client.contracts().reward, data, value: U256::ZERO };
    match txs.send(call).await {
        TxOutcome::Mined(tx) => {
            let amount = tx
                .logs
                .iter()
                .filter_map(|log| Withdrawn::decode_log_data(log.data()).ok())
                .filter(|event| event.payee == payee)
                .fold(U256::ZERO, |sum, event| sum.saturating_add(event.weiAmount));
            Ok(Some(Withdrawal { amount, tx }))
        }
        TxOutcome::Refused { reason } | TxOutcome::Reverted { reason, .. } => Err(WithdrawError::Refused(reason)),
        TxOutcome::Failed(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worth_follows_the_contract() {
        let state = RewardState {
            base_reward: U256::from(100),
            total_base_reward: U256::from(60),
            service_fee_bps: 0,
            release_seconds: 1000,
        };
        let chunk = ChunkReward { locked: 800, claimable: 100, distributed: 100, start_time: 10, last_update: 10 };
        // Half a release: 500 earned, 200 of it claimable or paid; half of 100 + 300, and what is left of the base.
        assert_eq!(chunk.worth(&state, 510), U256::from(200 + 60));
        // All released: half of 900, and no base any more.
        assert_eq!(chunk.worth(&state, 1010), U256::from(450));
        // Behind another one: a quarter of 400, and no base reward is left. Behind very many: nothing.
        assert_eq!(chunk.worth_behind(&state, 510, 1), U256::from(100));
        assert_eq!(chunk.worth_behind(&state, 510, u32::MAX), U256::ZERO);
        assert_eq!(ChunkReward { start_time: 0, ..chunk }.worth(&state, 510), U256::ZERO);
        let rich = ChunkReward { locked: u128::MAX, claimable: u128::MAX, ..chunk };
        assert!(rich.worth(&state, 510) > U256::from(u128::MAX / 3));
    }
}
