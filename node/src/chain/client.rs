//! What the node reads from the chain and the contracts of the storage network.

use alloy::{
    primitives::{Address, B256, Bytes, U64, U256, address},
    rpc::types::TransactionRequest,
    sol_types::{SolCall, SolValue},
};
use zgpu_core::H256;
use zgpu_miner::puzzle::{MineRange, Puzzle, PuzzleError, Shard};

use super::{
    contracts::{self, Flow, Market, PoraMine, Reward},
    error::{ChainError, WrongContracts},
    rpc::{Rpc, RpcOptions},
};

/// Version of the proof that this program speaks.
pub const PORA_VERSION: u64 = 1;

/// keccak256 of nothing: digest of an epoch that nobody can mine.
pub const EMPTY_HASH: H256 = H256([
    0xc5, 0xd2, 0x46, 0x01, 0x86, 0xf7, 0x23, 0x3c, 0x92, 0x7e, 0x7d, 0xb2, 0xdc, 0xc7, 0x03, 0xc0, 0xe5, 0x00, 0xb6,
    0x53, 0xca, 0x82, 0x27, 0x3b, 0x7b, 0xfa, 0xd8, 0x04, 0x5d, 0x85, 0xa4, 0x70,
]);

/// The only caller that may ask the mine contract for a worker's context.
const WORKER_CONTEXT_CALLER: Address = address!("000000000000000000000000000000000000000A");

/// Which chain, which contracts.
#[derive(Clone)]
pub struct ChainOptions {
    /// URLs of the chain's JSON-RPC endpoints, the preferred one first. May hold credentials; they are never shown.
    pub urls: Vec<String>,
    /// Chain id that must answer, if one is configured.
    pub chain_id: Option<u64>,
    /// The flow contract.
    pub flow: Address,
    /// The mine contract.
    pub mine: Address,
    /// Patience with the endpoint.
    pub rpc: RpcOptions,
}

impl std::fmt::Debug for ChainOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainOptions")
            .field("chain_id", &self.chain_id)
            .field("flow", &self.flow)
            .field("mine", &self.mine)
            .field("rpc", &self.rpc)
            .finish_non_exhaustive()
    }
}

/// Where the contracts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contracts {
    /// Takes submissions.
    pub flow: Address,
    /// Takes answers.
    pub mine: Address,
    /// Sets the price.
    pub market: Address,
    /// Pays.
    pub reward: Address,
}

/// Reads from one chain. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ChainClient {
    rpc: Rpc,
    chain_id: u64,
    contracts: Contracts,
}

/// Where the flow stands. Lengths and positions are in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// Sectors in the flow.
    pub length: u64,
    /// Submissions so far.
    pub submissions: u64,
    /// The last epoch that was made.
    pub epoch: u64,
    /// First sector that no epoch covers yet.
    pub epoch_start_position: u64,
    /// Block of epoch 0.
    pub first_block: u64,
    /// Blocks in an epoch.
    pub blocks_per_epoch: u64,
}

impl FlowState {
    /// Number of the block that epoch `epoch` starts at.
    pub fn epoch_block(&self, epoch: u64) -> u64 {
        self.first_block.saturating_add(epoch.saturating_mul(self.blocks_per_epoch))
    }
}

/// What the miners of one epoch work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MineContext {
    /// Number of the epoch.
    pub epoch: u64,
    /// Block that the epoch starts at.
    pub mine_start: u64,
    /// Root of the flow.
    pub flow_root: H256,
    /// Sectors in the flow.
    pub flow_length: u64,
    /// Hash of the epoch's first block.
    pub block_digest: H256,
    /// Identity of the context.
    pub digest: H256,
}

/// Sectors `start..end`, first seen by the epoch with this digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRange {
    /// First sector.
    pub start: u64,
    /// First sector behind it.
    pub end: u64,
    /// Digest of the epoch's context.
    pub digest: H256,
}

impl EpochRange {
    /// Whether the last sector of the seal at this position (its first sector) belongs to the range: the contract's rule
    /// for the context that a seal is sealed with.
    pub fn covers_seal_at(&self, position: u64) -> bool {
        let end = position.saturating_add(zgpu_core::units::SECTORS_PER_SEAL as u64);
        self.start < end && end <= self.end
    }
}

/// The mining context as the chain sees it for one miner now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerContext {
    /// The epoch's context.
    pub context: MineContext,
    /// The target before it is scaled to a shard; 0 when nothing is accepted from this miner now.
    pub target: U256,
    /// Digest of the miner's subtask; zero outside its window.
    pub subtask_digest: H256,
    /// Most shards that a range may declare.
    pub max_shards: u64,
}

/// Why there is nothing to mine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdleReason {
    /// The chain was not asked yet.
    #[error("waiting for the chain's first answer")]
    Starting,
    /// The miner's id is not known to the mine contract.
    #[error("miner id {miner_id} is not registered")]
    NotRegistered {
        /// The id.
        miner_id: H256,
    },
    /// No epoch has started yet, or the epoch began too long ago to be mined.
    #[error("epoch {epoch} cannot be mined: its block hash is not known to the chain")]
    EmptyContext {
        /// The epoch.
        epoch: u64,
    },
    /// The miner's window has not opened yet.
    #[error("the window of this miner in epoch {epoch} opens after block {opens_after}; block {block} is the last")]
    BeforeWindow {
        /// The epoch.
        epoch: u64,
        /// The last block.
        block: u64,
        /// Answers count from the block behind this one.
        opens_after: u64,
    },
    /// The miner's window has closed.
    #[error("the window of this miner in epoch {epoch} closed with block {closed_with}; epoch {next} starts at block {next_epoch_block}", next = epoch + 1)]
    AfterWindow {
        /// The epoch.
        epoch: u64,
        /// The last block that counted.
        closed_with: u64,
        /// Block that the next epoch starts at.
        next_epoch_block: u64,
    },
    /// The epoch has all the answers it takes.
    #[error("epoch {epoch} is full: {submissions} of {limit} answers")]
    EpochFull {
        /// The epoch.
        epoch: u64,
        /// Answers accepted in it.
        submissions: u64,
        /// Most that are accepted.
        limit: u64,
    },
    /// More shards are configured than the chain allows.
    #[error("{shards} shards are configured, the chain allows {limit}")]
    TooManyShards {
        /// Configured number.
        shards: u64,
        /// Most that may be.
        limit: u64,
    },
    /// The configured range does not fit the flow.
    #[error("no range to mine: {0}")]
    Range(PuzzleError),
    /// The chain does not answer.
    #[error("the chain does not answer: {0}")]
    Chain(String),
}

/// What there is to mine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MiningTask {
    /// Something. Its generation is 0: whoever follows the chain counts.
    Ready(Puzzle),
    /// Nothing.
    Idle(IdleReason),
}

/// What is mined: who, and which part of the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinerConfig {
    /// Identity of the miner.
    pub miner_id: H256,
    /// Share of the flow that answers declare.
    pub shard: Shard,
    /// First sector to mine from where the flow is longer than a range may be.
    pub start_position: u64,
}

/// Fees and rewards of one pricing chunk, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkReward {
    /// Not yet released.
    pub locked: u128,
    /// Released and not yet paid, as of the last update.
    pub claimable: u128,
    /// Paid.
    pub distributed: u128,
    /// When the chunk became full, in seconds of the chain's clock; 0 for a chunk that is not full.
    pub start_time: u64,
    /// When the numbers were last updated.
    pub last_update: u64,
}

/// What the reward contract holds for whole of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RewardState {
    /// Wei that an answer in a full, unexpired chunk gets besides the chunk's fees.
    pub base_reward: U256,
    /// Wei that are left for base rewards.
    pub total_base_reward: U256,
    /// Part of the fees that is kept, in hundredths of a percent.
    pub service_fee_bps: u64,
    /// Seconds over which a chunk's fees are released.
    pub release_seconds: u64,
}

/// The mine contract that belongs to a flow contract: the one that its market's reward contract pays for.
pub async fn find_mine(rpc: &Rpc, flow: Address) -> Result<Address, ChainError> {
    async fn ask<C: SolCall<Return = Address>>(rpc: &Rpc, to: Address, call: C) -> Result<Address, ChainError> {
        let request = TransactionRequest::default().to(to).input(call.abi_encode().into());
        let reply: Bytes = rpc.call("eth_call", C::SIGNATURE, (request, "latest")).await?;
        C::abi_decode_returns(&reply).map_err(|error| {
            let reason = format!("{} bytes from {to}: {error}; check the address of the flow contract", reply.len());
            rpc.bad_reply(C::SIGNATURE, reason)
        })
    }
    let market = ask(rpc, flow, Flow::marketCall {}).await?;
    let reward = ask(rpc, market, Market::rewardCall {}).await?;
    ask(rpc, reward, Reward::mineCall {}).await
}

impl ChainClient {
    /// Connects, and checks that the chain and the contracts are the right ones.
    pub async fn connect(options: &ChainOptions) -> Result<Self, ChainError> {
        let rpc = Rpc::over(&options.urls, options.rpc.clone())?;
        let chain_id = rpc.agree_on_chain(options.chain_id).await?;
        let unknown =
            Contracts { flow: options.flow, mine: options.mine, market: Address::ZERO, reward: Address::ZERO };
        let mut client = ChainClient { rpc, chain_id, contracts: unknown };
        client.contracts = client.check_contracts(options.flow, options.mine).await?;
        Ok(client)
    }

    /// Asks the contracts about each other; every answer has to fit.
    async fn check_contracts(&self, flow: Address, mine: Address) -> Result<Contracts, ChainError> {
        self.check_code("flow", flow).await?;
        self.check_code("mine", mine).await?;
        let got = self.ask("mine", mine, PoraMine::poraVersionCall {}).await?;
        if got != PORA_VERSION {
            return Err(self.wrong(WrongContracts::Version { got, expected: PORA_VERSION }));
        }
        let linked = self.ask("mine", mine, PoraMine::flowCall {}).await?;
        self.check_link("mine", "flow", linked, flow)?;
        let market = self.ask("flow", flow, Flow::marketCall {}).await?;
        self.check_code("market", market).await?;
        let linked = self.ask("market", market, Market::flowCall {}).await?;
        self.check_link("market", "flow", linked, flow)?;
        let reward = self.ask("mine", mine, PoraMine::rewardCall {}).await?;
        self.check_code("reward", reward).await?;
        let linked = self.ask("market", market, Market::rewardCall {}).await?;
        self.check_link("market", "reward", linked, reward)?;
        let linked = self.ask("reward", reward, Reward::mineCall {}).await?;
        self.check_link("reward", "mine", linked, mine)?;
        Ok(Contracts { flow, mine, market, reward })
    }

    fn wrong(&self, reason: WrongContracts) -> ChainError {
        ChainError::WrongContracts { url: self.rpc.url().to_owned(), reason }
    }

    async fn check_code(&self, role: &'static str, address: Address) -> Result<(), ChainError> {
        let code: Bytes = self.rpc.call("eth_getCode", role, (address, "latest")).await?;
        if code.is_empty() { Err(self.wrong(WrongContracts::NoCode { role, address })) } else { Ok(()) }
    }

    fn check_link(
        &self,
        from: &'static str,
        role: &'static str,
        got: Address,
        expected: Address,
    ) -> Result<(), ChainError> {
        if got == expected { Ok(()) } else { Err(self.wrong(WrongContracts::Link { from, role, got, expected })) }
    }

    /// Like a read, but a refusal means that the contract is another one.
    async fn ask<C: SolCall>(&self, role: &'static str, address: Address, call: C) -> Result<C::Return, ChainError> {
        self.read(address, call).await.map_err(|error| match error {
            ChainError::Reverted { .. } | ChainError::Reply { .. } => self.wrong(WrongContracts::NoAnswer {
                role,
                address,
                call: C::SIGNATURE,
                reason: match error {
                    ChainError::Reply { reason, .. } => reason,
                    other => other.revert().map(|revert| revert.text().to_owned()).unwrap_or_default(),
                },
            }),
            other => other,
        })
    }

    /// The endpoint.
    pub fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// Id of the chain.
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// Addresses of the contracts.
    pub fn contracts(&self) -> &Contracts {
        &self.contracts
    }

    /// Calls a function of a contract on the last block, without a transaction.
    pub async fn read<C: SolCall>(&self, to: Address, call: C) -> Result<C::Return, ChainError> {
        self.read_as(Address::ZERO, to, call).await
    }

    async fn read_as<C: SolCall>(&self, from: Address, to: Address, call: C) -> Result<C::Return, ChainError> {
        let request = TransactionRequest::default().from(from).to(to).input(call.abi_encode().into());
        let reply: Bytes = self.rpc.call("eth_call", C::SIGNATURE, (request, "latest")).await?;
        C::abi_decode_returns(&reply)
            .map_err(|error| self.rpc.bad_reply(C::SIGNATURE, format!("{} bytes: {error}", reply.len())))
    }

    fn small(
        &self,
        what: &'static str,
        number: impl TryInto<u64> + std::fmt::Display + Copy,
    ) -> Result<u64, ChainError> {
        number.try_into().map_err(|_| self.rpc.bad_reply(what, format!("{number} does not fit 64 bits")))
    }

    /// Number of the last block.
    pub async fn block_number(&self) -> Result<u64, ChainError> {
        self.rpc.head().await
    }

    /// Wei that an account has.
    pub async fn balance(&self, account: Address) -> Result<U256, ChainError> {
        self.rpc.call("eth_getBalance", "", (account, "latest")).await
    }

    /// Wei per gas that the network asks for now.
    pub async fn gas_price(&self) -> Result<U256, ChainError> {
        self.rpc.call("eth_gasPrice", "", ()).await
    }

    /// Submissions up to block `block`, inclusive.
    pub async fn submissions_until(&self, block: u64) -> Result<u64, ChainError> {
        let (flow, call) = (self.contracts.flow, Flow::numSubmissionsCall {});
        let request = TransactionRequest::default().to(flow).input(call.abi_encode().into());
        let name = Flow::numSubmissionsCall::SIGNATURE;
        let reply: Bytes = self.rpc.call("eth_call", name, (request, U64::from(block))).await?;
        let count = Flow::numSubmissionsCall::abi_decode_returns(&reply)
            .map_err(|error| self.rpc.bad_reply(name, format!("{} bytes: {error}", reply.len())))?;
        self.small(name, count)
    }

    /// Where the flow stands.
    pub async fn flow_state(&self) -> Result<FlowState, ChainError> {
        let flow = self.contracts.flow;
        let tree = self.read(flow, Flow::treeCall {}).await?;
        Ok(FlowState {
            length: self.small("tree()", tree.currentLength)?,
            submissions: self.small("numSubmissions()", self.read(flow, Flow::numSubmissionsCall {}).await?)?,
            epoch: self.small("epoch()", self.read(flow, Flow::epochCall {}).await?)?,
            epoch_start_position: self
                .small("epochStartPosition()", self.read(flow, Flow::epochStartPositionCall {}).await?)?,
            first_block: self.small("firstBlock()", self.read(flow, Flow::firstBlockCall {}).await?)?,
            blocks_per_epoch: self.small("blocksPerEpoch()", self.read(flow, Flow::blocksPerEpochCall {}).await?)?,
        })
    }

    /// Root of the flow right after submission `seq`; `None` where the contract does not know it, or is an older one that
    /// does not take the question.
    pub async fn flow_root_after(&self, seq: u64) -> Result<Option<H256>, ChainError> {
        match self.read(self.contracts.flow, Flow::getFlowRootByTxSeqCall(U256::from(seq))).await {
            Ok(root) => Ok(Some(H256(root.0)).filter(|root| *root != H256::ZERO)),
            Err(ChainError::Reverted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The context as it would be if an epoch that is due were made now.
    pub async fn context_preview(&self) -> Result<MineContext, ChainError> {
        self.context(self.read(self.contracts.flow, Flow::makeContextWithResultCall {}).await?)
    }

    fn context(&self, context: contracts::MineContext) -> Result<MineContext, ChainError> {
        Ok(MineContext {
            epoch: self.small("epoch of the context", context.epoch)?,
            mine_start: self.small("mineStart of the context", context.mineStart)?,
            flow_root: H256(context.flowRoot.0),
            flow_length: self.small("flowLength of the context", context.flowLength)?,
            block_digest: H256(context.blockDigest.0),
            digest: H256(context.digest.0),
        })
    }

    /// The epoch range with this digest; `None` where the contract does not know it, or not yet: an epoch that is due
    /// is made with the first transaction that needs it. An epoch in which nothing was
    /// submitted has an empty range.
    pub async fn epoch_range(&self, digest: H256) -> Result<Option<EpochRange>, ChainError> {
        let range = self.read(self.contracts.flow, Flow::getEpochRangeCall { digest: B256::from(digest.0) }).await?;
        let (start, end) = (self.small("getEpochRange", range.start)?, self.small("getEpochRange", range.end)?);
        Ok((end != 0).then_some(EpochRange { start, end, digest }))
    }

    /// The epoch range that sector `position` belongs to; `None` where no epoch covers it yet, or the flow ends before.
    pub async fn query_context_at_position(&self, position: u64) -> Result<Option<EpochRange>, ChainError> {
        let call = Flow::queryContextAtPositionCall { position: u128::from(position) };
        let range = match self.read(self.contracts.flow, call).await {
            Ok(range) => range,
            Err(ChainError::Reverted { revert, .. })
                if ["Queried position exceeds upper bound", "Can not find proper context"].contains(&revert.text()) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(Some(EpochRange {
            start: self.small("queryContextAtPosition", range.start)?,
            end: self.small("queryContextAtPosition", range.end)?,
            digest: H256(range.digest.0),
        }))
    }

    /// What the mine contract would check an answer of this miner against, on the last block.
    /// `None` for an id that is not registered.
    pub async fn worker_context(&self, miner_id: H256) -> Result<Option<WorkerContext>, ChainError> {
        let call = PoraMine::computeWorkerContextCall { minerId: B256::from(miner_id.0) };
        let reply = match self.read_as(WORKER_CONTEXT_CALLER, self.contracts.mine, call).await {
            Ok(reply) => reply,
            Err(ChainError::Reverted { revert, .. })
                if ["MinerId does not registered", "MinerId cannot be zero"].contains(&revert.text()) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(Some(WorkerContext {
            context: self.context(reply.context)?,
            target: reply.poraTarget,
            subtask_digest: H256(reply.subtaskDigest.0),
            max_shards: reply.maxShards,
        }))
    }

    /// What this miner has to mine now, or why nothing.
    pub async fn mining_task(&self, miner: &MinerConfig) -> Result<MiningTask, ChainError> {
        let miner_id = miner.miner_id;
        match self.worker_context(miner_id).await? {
            Some(worker) => self.task_in(miner, &worker).await,
            None => Ok(MiningTask::Idle(IdleReason::NotRegistered { miner_id })),
        }
    }

    /// What this miner has to mine in the context that the chain gave for it, or why nothing.
    pub async fn task_in(&self, miner: &MinerConfig, worker: &WorkerContext) -> Result<MiningTask, ChainError> {
        let miner_id = miner.miner_id;
        let context = &worker.context;
        if context.digest == EMPTY_HASH {
            return Ok(MiningTask::Idle(IdleReason::EmptyContext { epoch: context.epoch }));
        }
        if worker.target.is_zero() {
            return Ok(MiningTask::Idle(self.why_no_target(miner_id, worker).await?));
        }
        if miner.shard.count > worker.max_shards {
            let (shards, limit) = (miner.shard.count, worker.max_shards);
            return Ok(MiningTask::Idle(IdleReason::TooManyShards { shards, limit }));
        }
        let range = match MineRange::choose(context.flow_length, miner.shard, miner.start_position) {
            Ok(range) => range,
            Err(error) => return Ok(MiningTask::Idle(IdleReason::Range(error))),
        };
        Ok(MiningTask::Ready(Puzzle {
            generation: 0,
            miner_id,
            context_digest: context.digest,
            flow_root: context.flow_root,
            flow_length: context.flow_length,
            subtask_digest: worker.subtask_digest,
            pora_target: worker.target,
            range,
        }))
    }

    /// Tells a window that is not open from an epoch that is full.
    async fn why_no_target(&self, miner_id: H256, worker: &WorkerContext) -> Result<IdleReason, ChainError> {
        let (mine, epoch) = (self.contracts.mine, worker.context.epoch);
        if worker.subtask_digest != H256::ZERO {
            let submissions = self.read(mine, PoraMine::currentSubmissionsCall {}).await?;
            let target = self.read(mine, PoraMine::targetSubmissionsCall {}).await?;
            return Ok(IdleReason::EpochFull {
                epoch,
                submissions: self.small("currentSubmissions()", submissions)?,
                limit: self.small("targetSubmissions()", target.saturating_mul(U256::from(2)))?,
            });
        }
        let subtasks = self.read(mine, PoraMine::nSubtasksCall {}).await?;
        let interval = self.small("subtaskInterval()", self.read(mine, PoraMine::subtaskIntervalCall {}).await?)?;
        let blocks = self.small("targetMineBlocks()", self.read(mine, PoraMine::targetMineBlocksCall {}).await?)?;
        let block = self.block_number().await?;
        // idx = keccak256(abi.encode(context digest, miner id)) mod the number of subtasks.
        let draw = (B256::from(worker.context.digest.0), B256::from(miner_id.0)).abi_encode();
        let draw = U256::from_be_bytes(alloy::primitives::keccak256(draw).0);
        let index: u64 = draw.checked_rem(subtasks).map_or(0, |index| index.saturating_to());
        let opens_after = worker.context.mine_start.saturating_add(index.saturating_mul(interval));
        if block <= opens_after {
            return Ok(IdleReason::BeforeWindow { epoch, block, opens_after });
        }
        let blocks_per_epoch =
            self.small("blocksPerEpoch()", self.read(self.contracts.flow, Flow::blocksPerEpochCall {}).await?)?;
        Ok(IdleReason::AfterWindow {
            epoch,
            closed_with: opens_after.saturating_add(blocks),
            next_epoch_block: worker.context.mine_start.saturating_add(blocks_per_epoch),
        })
    }

    /// Who is paid for the answers of a miner; `None` for an id that is not registered.
    pub async fn beneficiary(&self, miner_id: H256) -> Result<Option<Address>, ChainError> {
        let call = PoraMine::beneficiariesCall(B256::from(miner_id.0));
        let beneficiary = self.read(self.contracts.mine, call).await?;
        Ok(Some(beneficiary).filter(|address| *address != Address::ZERO))
    }

    /// Wei that a sector costs.
    pub async fn price_per_sector(&self) -> Result<U256, ChainError> {
        self.read(self.contracts.market, Market::pricePerSectorCall {}).await
    }

    /// Fees and rewards of pricing chunk `index`.
    pub async fn chunk_reward(&self, index: u64) -> Result<ChunkReward, ChainError> {
        let reward = self.read(self.contracts.reward, Reward::rewardsCall(U256::from(index))).await?;
        Ok(ChunkReward {
            locked: reward.lockedReward,
            claimable: reward.claimableReward,
            distributed: reward.distributedReward,
            start_time: reward.startTime.to(),
            last_update: reward.lastUpdate.to(),
        })
    }

    /// What the reward contract holds for all.
    pub async fn reward_state(&self) -> Result<RewardState, ChainError> {
        let reward = self.contracts.reward;
        Ok(RewardState {
            base_reward: self.read(reward, Reward::baseRewardCall {}).await?,
            total_base_reward: self.read(reward, Reward::totalBaseRewardCall {}).await?,
            service_fee_bps: self
                .small("serviceFeeRateBps()", self.read(reward, Reward::serviceFeeRateBpsCall {}).await?)?,
            release_seconds: self.small("releaseSeconds()", self.read(reward, Reward::releaseSecondsCall {}).await?)?,
        })
    }

    /// Wei that an account can withdraw from the reward contract.
    pub async fn payments(&self, payee: Address) -> Result<U256, ChainError> {
        self.read(self.contracts.reward, Reward::paymentsCall(payee)).await
    }
}
