//! The contracts of the storage network: their interfaces, and a deployment of our own for the devnet and the tests.
//!
//! The interfaces are those of the deployed networks. The bytecode comes from node/contracts (`scripts/contracts build`).

use alloy::{
    network::TransactionBuilder,
    primitives::{Address, Bytes, TxHash, TxKind, U256},
    providers::{PendingTransactionError, Provider},
    rpc::types::TransactionRequest,
    sol,
    sol_types::{SolCall, SolConstructor},
    transports::TransportError,
};
use serde::Deserialize;

sol! {
    /// Root of a full subtree of 2^height sectors.
    #[derive(Debug, PartialEq, Eq)]
    struct SubmissionNode {
        bytes32 root;
        uint256 height;
    }

    /// A file: its length in bytes, bytes nobody reads, and its subtrees, largest first.
    #[derive(Debug, PartialEq, Eq)]
    struct SubmissionData {
        uint256 length;
        bytes tags;
        SubmissionNode[] nodes;
    }

    /// A file and the account that its event names as the sender.
    #[derive(Debug, PartialEq, Eq)]
    struct Submission {
        SubmissionData data;
        address submitter;
    }

    /// What the miners of one epoch work on.
    #[derive(Debug, PartialEq, Eq)]
    struct MineContext {
        uint256 epoch;
        uint256 mineStart;
        bytes32 flowRoot;
        uint256 flowLength;
        bytes32 blockDigest;
        bytes32 digest;
    }

    /// Sectors [start, end), first covered by one epoch.
    #[derive(Debug, PartialEq, Eq)]
    struct EpochRange {
        uint128 start;
        uint128 end;
    }

    /// An epoch's sectors and the digest of its context.
    #[derive(Debug, PartialEq, Eq)]
    struct EpochRangeWithContextDigest {
        uint128 start;
        uint128 end;
        bytes32 digest;
    }

    /// The sectors an answer mines, and which of their loads.
    #[derive(Debug, PartialEq, Eq)]
    struct MineRange {
        uint256 startPosition;
        uint256 mineLength;
        uint64 shardId;
        uint64 shardMask;
    }

    /// A proof of random access, with its data and the data's Merkle proof.
    #[derive(Debug, PartialEq, Eq)]
    struct PoraAnswer {
        bytes32 contextDigest;
        bytes32 nonce;
        bytes32 minerId;
        MineRange range;
        uint256 recallPosition;
        uint256 sealOffset;
        bytes32 sealedContextDigest;
        bytes32[128] sealedData;
        bytes32[] merkleProof;
    }

    /// Parameters of the mine contract's `initialize`.
    #[derive(Debug, PartialEq, Eq)]
    struct MineParams {
        uint256 difficulty;
        uint256 targetMineBlocks;
        uint256 targetSubmissions;
        uint64 maxShards;
        uint256 nSubtasks;
        uint256 subtaskInterval;
    }

    /// Roles, as all contracts but the reward contract have them.
    #[sol(rpc)]
    interface AccessControl {
        event RoleGranted(bytes32 indexed role, address indexed account, address indexed sender);
        event RoleRevoked(bytes32 indexed role, address indexed account, address indexed sender);
        error AccessControlUnauthorizedAccount(address account, bytes32 neededRole);

        function hasRole(bytes32 role, address account) external view returns (bool);
        function getRoleMemberCount(bytes32 role) external view returns (uint256);
        function getRoleMember(bytes32 role, uint256 index) external view returns (address);
        function grantRole(bytes32 role, address account) external;
        function revokeRole(bytes32 role, address account) external;
        function renounceRole(bytes32 role, address account) external;
    }

    /// The array of sectors that all files are appended to, cut into mining epochs.
    #[sol(rpc)]
    contract Flow {
        #[derive(Debug)]
        event Submit(
            address indexed sender,
            bytes32 indexed identity,
            uint256 submissionIndex,
            uint256 startPos,
            uint256 length,
            SubmissionData submission
        );
        #[derive(Debug)]
        event NewEpoch(
            address indexed sender,
            uint256 indexed index,
            bytes32 startMerkleRoot,
            uint256 submissionIndex,
            uint256 flowLength,
            bytes32 context
        );
        #[derive(Debug)]
        error NotEnoughFee(uint256 price, uint256 sectors, uint256 paid);
        #[derive(Debug)]
        error EnforcedPause();

        constructor(uint256 deployDelay);
        function initialize(address market, uint256 blocksPerEpoch) external;
        function setParams(uint256 blocksPerEpoch, uint256 firstBlock, address rootHistory) external;
        function pause() external;
        function unpause() external;
        function paused() external view returns (bool);

        function submit(Submission submission)
            external payable returns (uint256 index, bytes32 digest, uint256 startIndex, uint256 length);
        function batchSubmit(Submission[] submissions)
            external payable
            returns (uint256[] indexes, bytes32[] digests, uint256[] startIndexes, uint256[] lengths);

        function makeContext() external;
        function makeContextFixedTimes(uint256 count) external;
        function makeContextWithResult() external returns (MineContext);
        function getContext() external view returns (MineContext);
        function getEpochRange(bytes32 digest) external view returns (EpochRange);
        function getEpochRangeHistory(uint256) external view returns (EpochRangeWithContextDigest);
        function queryContextAtPosition(uint128 position) external returns (EpochRangeWithContextDigest);
        function getFlowRootByTxSeq(uint256) external view returns (bytes32);
        function computeFlowRoot() external returns (bytes32);
        function numSubmissions() external view returns (uint256);
        function submissionIndex() external view returns (uint256);
        function epoch() external view returns (uint256);
        function epochStartPosition() external view returns (uint256);
        function firstBlock() external view returns (uint256);
        function blocksPerEpoch() external view returns (uint256);
        function deployDelay() external view returns (uint256);
        function market() external view returns (address);
        function rootHistory() external view returns (address);
        function tree() external view returns (uint256 currentLength, uint256 unstagedHeight);
    }

    /// The last roots of the flow.
    #[sol(rpc)]
    contract DigestHistory {
        #[derive(Debug)]
        error UnavailableIndex(uint256 index);

        function available(uint256) external view returns (bool);
        function contains(bytes32) external view returns (bool);
        function at(uint256) external view returns (bytes32);
    }

    /// Sets the price and passes fees on.
    #[sol(rpc)]
    contract Market {
        constructor();
        function initialize(uint256 pricePerSector, address flow, address reward) external;
        function pricePerSector() external view returns (uint256);
        function setPricePerSector(uint256 pricePerSector) external;
        function chargeFee(uint256 beforeLength, uint256 uploadSectors, uint256 paddingSectors) external;
        function flow() external view returns (address);
        function reward() external view returns (address);
    }

    /// Pays accepted answers.
    #[sol(rpc)]
    contract Reward {
        #[derive(Debug)]
        event DistributeReward(
            uint256 indexed pricingIndex, address indexed beneficiary, bytes32 indexed minerId, uint256 amount
        );

        constructor(uint256 releaseSeconds);
        function initialize(address market, address mine) external;
        function market() external view returns (address);
        function mine() external view returns (address);
        function rewards(uint256) external view returns (
            uint128 lockedReward, uint128 claimableReward, uint128 distributedReward, uint40 startTime, uint40 lastUpdate
        );
        function rewardDeadline(uint256) external view returns (uint256);
        function firstRewardableChunk() external view returns (uint64 index, uint256 timestamp);
        function releaseSeconds() external view returns (uint256);
        function baseReward() external view returns (uint256);
        function totalBaseReward() external view returns (uint256);
        function serviceFeeRateBps() external view returns (uint256);
        function treasury() external view returns (address);
        function foundationAdmin() external view returns (address);
        function setBaseReward(uint256 baseReward) external;
        function setServiceFeeRate(uint256 bps) external;
        function setTreasury(address treasury) external;
        function setFoundationAdmin(address admin) external;
        function donate() external payable;
        function fillReward(uint256 beforeLength, uint256 chargedSectors) external payable;
        function claimMineReward(uint256 pricingIndex, address beneficiary, bytes32 minerId) external;
        function payments(address) external view returns (uint256);
        function withdrawPayments(address payee) external;
    }

    /// Checks answers.
    #[sol(rpc)]
    contract PoraMine {
        #[derive(Debug)]
        event NewMinerId(bytes32 indexed minerId, address indexed beneficiary);
        #[derive(Debug)]
        event UpdateMinerId(bytes32 indexed minerId, address indexed from, address indexed to);
        #[derive(Debug)]
        event NewSubmission(
            uint256 indexed epoch, bytes32 indexed minerId, uint256 epochIndex, uint256 recallPosition
        );

        constructor(uint256 settings);
        function initialize(address flow, address reward, MineParams params) external;
        function submit(PoraAnswer answer) external;
        function computeWorkerContext(bytes32 minerId)
            external returns (MineContext context, uint256 poraTarget, bytes32 subtaskDigest, uint64 maxShards);
        function canSubmit() external returns (bool);
        function requestMinerId(address beneficiary, uint64 seed) external returns (bytes32 minerId);
        function transferBeneficial(address to, bytes32 minerId) external;
        function beneficiaries(bytes32) external view returns (address);

        function flow() external view returns (address);
        function reward() external view returns (address);
        function computeWorkerContextCaller() external view returns (address);
        function poraVersion() external view returns (uint64);
        function sealDataEnabled() external view returns (bool);
        function dataProofEnabled() external view returns (bool);
        function fixedDifficulty() external view returns (bool);
        function poraTarget() external view returns (uint256);
        function minDifficulty() external view returns (uint256);
        function difficultyAdjustRatio() external view returns (uint256);
        function maxShards() external view returns (uint64);
        function lastMinedEpoch() external view returns (uint256);
        function currentSubmissions() external view returns (uint256);
        function targetSubmissions() external view returns (uint256);
        function targetSubmissionsNextEpoch() external view returns (uint256);
        function targetMineBlocks() external view returns (uint256);
        function nSubtasks() external view returns (uint256);
        function nSubtasksNextEpoch() external view returns (uint256);
        function subtaskInterval() external view returns (uint256);
        function subtaskIntervalNextEpoch() external view returns (uint256);

        function setTargetMineBlocks(uint256 blocks) external;
        function setTargetSubmissions(uint256 submissions) external;
        function setNumSubtasks(uint256 count) external;
        function setSubtaskInterval(uint256 interval) external;
        function setDifficultyAdjustRatio(uint256 ratio) external;
        function setMaxShards(uint64 shards) external;
        function setMinDifficulty(uint256 difficulty) external;
    }
}

const FLOW_ARTIFACT: &str = include_str!("../../contracts/artifacts/FixedPriceFlow.json");
const MARKET_ARTIFACT: &str = include_str!("../../contracts/artifacts/FixedPriceMarket.json");
const REWARD_ARTIFACT: &str = include_str!("../../contracts/artifacts/ChunkLinearReward.json");
const MINE_ARTIFACT: &str = include_str!("../../contracts/artifacts/PoraMine.json");

/// Gas of a creation beside what its code costs.
const CREATION_GAS: u64 = 600_000;
/// Gas per byte of creation code: 200 to keep it, 16 to send it, and some for running it.
const CREATION_GAS_PER_BYTE: u64 = 260;
/// Gas limit of every call of a deployment. The dearest creates the flow's history of roots.
const CALL_GAS: u64 = 1_500_000;

/// What a deployment is made with. Times are in blocks unless a name says seconds; amounts are in wei.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeployParams {
    /// Blocks from the deployment to the first block that takes submissions.
    pub deploy_delay: u64,
    /// Blocks of a mining epoch.
    pub blocks_per_epoch: u64,
    /// Bits of the mine contract's constructor: 1 answers carry raw data, 2 answers need no Merkle proof, 4 every hash
    /// answers. Production: 0.
    pub mine_settings: u64,
    /// The first target is (2^256 − 1) / difficulty. At least 1.
    pub initial_difficulty: U256,
    /// Blocks that the window of a subtask is open.
    pub target_mine_blocks: u64,
    /// Answers aimed at per epoch; twice as many are accepted.
    pub target_submissions: u64,
    /// Largest number of shards an answer may declare.
    pub max_shards: u64,
    /// Subtasks per epoch, at least 1; a miner draws one of them.
    pub n_subtasks: u64,
    /// Blocks from the opening of a subtask's window to that of the next.
    pub subtask_interval: u64,
    /// Wei per sector of a file's padded size; see [`price_per_sector`].
    pub price_per_sector: U256,
    /// Seconds in which the fees of a full pricing chunk are released. At least 1.
    pub release_seconds: u64,
    /// Wei per accepted answer besides its share of fees, as long as donations last.
    pub base_reward: U256,
    /// Wei donated for the base reward.
    pub donation: U256,
    /// Part of each fee that goes to the treasury, in 1/10,000; the deploying account is the treasury.
    pub service_fee_bps: u64,
}

/// Parameters of the networks of today (turbo), without base reward.
impl Default for DeployParams {
    fn default() -> Self {
        DeployParams {
            deploy_delay: 0,
            blocks_per_epoch: 3750,
            mine_settings: 0,
            initial_difficulty: U256::from(1_000_000),
            target_mine_blocks: 750,
            target_submissions: 100,
            max_shards: 256,
            n_subtasks: 4,
            subtask_interval: 800,
            price_per_sector: price_per_sector(33, 12),
            release_seconds: 12 * 31 * 86_400,
            base_reward: U256::ZERO,
            donation: U256::ZERO,
            service_fee_bps: 0,
        }
    }
}

/// Wei per sector from a unit price and months of storage: months · unit price · 10^18 / 2^30 / 12.
pub fn price_per_sector(unit_price: u32, months: u32) -> U256 {
    U256::from(months) * U256::from(unit_price) * U256::from(10u64.pow(18)) / U256::from(12u64 << 30)
}

/// Where a deployment's contracts live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Takes submissions.
    pub flow: Address,
    /// Sets the price.
    pub market: Address,
    /// Pays.
    pub reward: Address,
    /// Takes answers.
    pub mine: Address,
    /// Block that created the flow; no event of it is older.
    pub start_block: u64,
}

/// Why contracts could not be deployed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// A parameter that divides is zero.
    #[error("{name} is 0, it has to be at least 1")]
    Zero {
        /// Name of the parameter.
        name: &'static str,
    },
    /// The last subtask would reach into the next epoch.
    #[error("the windows of the subtasks need {needed} blocks, an epoch has {blocks_per_epoch}")]
    Windows {
        /// Blocks that an epoch has to have.
        needed: u64,
        /// Blocks that it has.
        blocks_per_epoch: u64,
    },
    /// More than the whole fee for the treasury.
    #[error("a service fee of {got} in 10,000 is more than the fee")]
    ServiceFee {
        /// Service fee asked for.
        got: u64,
    },
    /// The chain did not take a transaction.
    #[error("{step}: {source}")]
    Send {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        source: TransportError,
    },
    /// A transaction did not get into a block.
    #[error("{step}: {source}")]
    Pending {
        /// What was to be done.
        step: &'static str,
        /// Why not.
        source: PendingTransactionError,
    },
    /// Another transaction of the account came between.
    #[error("{step}: the contract came to {got:?} instead of {expected}; the account sent something else meanwhile")]
    Address {
        /// What was to be done.
        step: &'static str,
        /// Where the contract is.
        got: Option<Address>,
        /// Where the others expect it.
        expected: Address,
    },
    /// A transaction failed.
    #[error("{step}: transaction {hash} failed")]
    Failed {
        /// What was to be done.
        step: &'static str,
        /// The transaction.
        hash: TxHash,
    },
}

impl DeployParams {
    /// Whether contracts with these parameters can be mined with.
    fn check(&self) -> Result<(), DeployError> {
        let zero = |name| Err(DeployError::Zero { name });
        if self.initial_difficulty.is_zero() {
            return zero("initial_difficulty");
        }
        if self.n_subtasks == 0 {
            return zero("n_subtasks");
        }
        if self.release_seconds == 0 {
            return zero("release_seconds");
        }
        let last_start = (self.n_subtasks - 1).saturating_mul(self.subtask_interval);
        let needed = last_start.saturating_add(self.target_mine_blocks).saturating_add(2);
        if needed > self.blocks_per_epoch {
            return Err(DeployError::Windows { needed, blocks_per_epoch: self.blocks_per_epoch });
        }
        if self.service_fee_bps > 10_000 {
            return Err(DeployError::ServiceFee { got: self.service_fee_bps });
        }
        Ok(())
    }
}

/// Deploys the contracts from an account that the provider signs for, and connects them. The account becomes their admin
/// and the treasury; it must send nothing else meanwhile. All transactions are sent at once: it takes one or two blocks.
pub async fn deploy(provider: &impl Provider, from: Address, params: &DeployParams) -> Result<Deployment, DeployError> {
    params.check()?;
    let nonce = provider
        .get_transaction_count(from)
        .pending()
        .await
        .map_err(|source| DeployError::Send { step: "nonce of the deploying account", source })?;
    let [flow, market, reward, mine] = [0, 1, 2, 3].map(|i| from.create(nonce + i));

    let mut pending = Vec::new();
    for (step, call) in steps(params, flow, market, reward, mine) {
        let sent = provider.send_transaction(call.with_from(from)).await;
        pending.push((step, sent.map_err(|source| DeployError::Send { step, source })?));
    }

    let mut start_block = 0;
    let mut addresses = [flow, market, reward, mine].into_iter();
    for (step, sent) in pending {
        let receipt = sent.get_receipt().await.map_err(|source| DeployError::Pending { step, source })?;
        if !receipt.status() {
            return Err(DeployError::Failed { step, hash: receipt.transaction_hash });
        }
        if let Some(expected) = addresses.next() {
            let got = receipt.contract_address;
            if got != Some(expected) {
                return Err(DeployError::Address { step, got, expected });
            }
            // The first transaction that creates a contract creates the flow.
            if expected == flow {
                start_block = receipt.block_number.unwrap_or_default();
            }
        }
    }
    Ok(Deployment { flow, market, reward, mine, start_block })
}

/// The transactions of a deployment in their order. The first four create the contracts whose addresses are given.
fn steps(
    params: &DeployParams,
    flow: Address,
    market: Address,
    reward: Address,
    mine: Address,
) -> Vec<(&'static str, TransactionRequest)> {
    let mine_params = MineParams {
        difficulty: params.initial_difficulty,
        targetMineBlocks: U256::from(params.target_mine_blocks),
        targetSubmissions: U256::from(params.target_submissions),
        maxShards: params.max_shards,
        nSubtasks: U256::from(params.n_subtasks),
        subtaskInterval: U256::from(params.subtask_interval),
    };
    let flow_arguments = Flow::constructorCall { deployDelay: U256::from(params.deploy_delay) };
    let reward_arguments = Reward::constructorCall { releaseSeconds: U256::from(params.release_seconds) };
    let mine_arguments = PoraMine::constructorCall { settings: U256::from(params.mine_settings) };
    let flow_call = Flow::initializeCall { market, blocksPerEpoch: U256::from(params.blocks_per_epoch) };
    let market_call = Market::initializeCall { pricePerSector: params.price_per_sector, flow, reward };
    let mut steps = vec![
        ("creation of the flow contract", create(FLOW_ARTIFACT, flow_arguments)),
        ("creation of the market contract", create(MARKET_ARTIFACT, Market::constructorCall {})),
        ("creation of the reward contract", create(REWARD_ARTIFACT, reward_arguments)),
        ("creation of the mine contract", create(MINE_ARTIFACT, mine_arguments)),
        ("flow.initialize", call(flow, flow_call)),
        ("market.initialize", call(market, market_call)),
        ("reward.initialize", call(reward, Reward::initializeCall { market, mine })),
        ("mine.initialize", call(mine, PoraMine::initializeCall { flow, reward, params: mine_params })),
    ];
    if !params.base_reward.is_zero() {
        let set = Reward::setBaseRewardCall { baseReward: params.base_reward };
        steps.push(("reward.setBaseReward", call(reward, set)));
    }
    if params.service_fee_bps > 0 {
        let set = Reward::setServiceFeeRateCall { bps: U256::from(params.service_fee_bps) };
        steps.push(("reward.setServiceFeeRate", call(reward, set)));
    }
    if !params.donation.is_zero() {
        steps.push(("reward.donate", call(reward, Reward::donateCall {}).with_value(params.donation)));
    }
    steps
}

/// A creation with a gas limit, since nothing can be estimated before the contracts are there.
fn create(artifact: &str, arguments: impl SolConstructor) -> TransactionRequest {
    let code = creation_code(artifact, &arguments);
    let gas = CREATION_GAS + CREATION_GAS_PER_BYTE * code.len() as u64;
    TransactionRequest { to: Some(TxKind::Create), ..Default::default() }.with_input(code).with_gas_limit(gas)
}

fn call(to: Address, call: impl SolCall) -> TransactionRequest {
    TransactionRequest::default().with_to(to).with_input(call.abi_encode()).with_gas_limit(CALL_GAS)
}

/// Creation code from an artefact that `scripts/contracts build` wrote, with the constructor's arguments behind it.
pub fn creation_code(artifact: &str, arguments: &impl SolConstructor) -> Bytes {
    #[derive(Deserialize)]
    struct Artifact {
        bytecode: Bytes,
    }
    let artifact: Artifact = serde_json::from_str(artifact).expect("an artefact is JSON with a field bytecode");
    [&artifact.bytecode[..], &arguments.abi_encode()].concat().into()
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{b256, hex},
        sol_types::SolEvent,
    };

    use super::*;

    /// The interfaces have to be those of the deployed networks, whatever our own contracts look like.
    #[test]
    fn selectors_and_topics_of_the_networks() {
        let selectors = [
            (Flow::submitCall::SELECTOR, hex!("bc8c11f8")),
            (Flow::batchSubmitCall::SELECTOR, hex!("49aa3395")),
            (Flow::makeContextCall::SELECTOR, hex!("38d45e10")),
            (Flow::makeContextFixedTimesCall::SELECTOR, hex!("18a641ef")),
            (Flow::makeContextWithResultCall::SELECTOR, hex!("b464b53e")),
            (Flow::getContextCall::SELECTOR, hex!("127f0f07")),
            (Flow::getEpochRangeCall::SELECTOR, hex!("7d590708")),
            (Flow::getEpochRangeHistoryCall::SELECTOR, hex!("4282b532")),
            (Flow::queryContextAtPositionCall::SELECTOR, hex!("31bae174")),
            (Flow::getFlowRootByTxSeqCall::SELECTOR, hex!("6d7ad0fc")),
            (Flow::computeFlowRootCall::SELECTOR, hex!("1deb0fca")),
            (Flow::treeCall::SELECTOR, hex!("fd54b228")),
            (Market::pricePerSectorCall::SELECTOR, hex!("61ec5082")),
            (Market::setPricePerSectorCall::SELECTOR, hex!("14aa90a1")),
            (Market::chargeFeeCall::SELECTOR, hex!("da6eb36a")),
            (Reward::rewardsCall::SELECTOR, hex!("f301af42")),
            (Reward::rewardDeadlineCall::SELECTOR, hex!("0a539a19")),
            (Reward::firstRewardableChunkCall::SELECTOR, hex!("b3b30c1a")),
            (Reward::paymentsCall::SELECTOR, hex!("e2982c21")),
            (Reward::withdrawPaymentsCall::SELECTOR, hex!("31b3eb94")),
            (Reward::donateCall::SELECTOR, hex!("ed88c68e")),
            (Reward::fillRewardCall::SELECTOR, hex!("59e96700")),
            (Reward::claimMineRewardCall::SELECTOR, hex!("b7a3c04c")),
            (PoraMine::submitCall::SELECTOR, hex!("ae722e82")),
            (PoraMine::computeWorkerContextCall::SELECTOR, hex!("296beba7")),
            (PoraMine::requestMinerIdCall::SELECTOR, hex!("047c13f5")),
            (PoraMine::transferBeneficialCall::SELECTOR, hex!("b0628ee0")),
            (PoraMine::beneficiariesCall::SELECTOR, hex!("39cd53ee")),
            (PoraMine::canSubmitCall::SELECTOR, hex!("ffbc9bd0")),
            (PoraMine::poraTargetCall::SELECTOR, hex!("48f61441")),
            (PoraMine::poraVersionCall::SELECTOR, hex!("e282e27b")),
            (PoraMine::currentSubmissionsCall::SELECTOR, hex!("a8279182")),
        ];
        for (i, (got, expected)) in selectors.into_iter().enumerate() {
            assert_eq!(hex::encode(got), hex::encode(expected), "number {i}");
        }
        let topics = [
            (Flow::Submit::SIGNATURE_HASH, b256!("167ce04d2aa1981994d3a31695da0d785373335b1078cec239a1a3a2c7675555")),
            (Flow::NewEpoch::SIGNATURE_HASH, b256!("bc8a3fd82465d43f1709e44ed882f7e1af0147274196ef1ec009f5d52ff4e993")),
            (
                Reward::DistributeReward::SIGNATURE_HASH,
                b256!("f099de0c527342bff1397d08daae31c3de66104f48886094fbe9126a21ebf4b0"),
            ),
            (
                PoraMine::NewMinerId::SIGNATURE_HASH,
                b256!("bfeb006f16aca8eb3d9953cf44db6b11b6f3041a313875dfa18f2e9d71bd309e"),
            ),
            (
                PoraMine::NewSubmission::SIGNATURE_HASH,
                b256!("fedd8f58059af8fd54b4394c01ea8d07cac041988be3b5a822fb779f9c8de3a4"),
            ),
        ];
        for (got, expected) in topics {
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn prices_of_the_networks() {
        assert_eq!(price_per_sector(33, 12), U256::from(30_733_644_962u64));
        assert_eq!(price_per_sector(24, 12), U256::from(22_351_741_790u64));
        assert_eq!(price_per_sector(1, 3), U256::from(232_830_643));
    }

    #[test]
    fn refuses_parameters_that_cannot_be_mined_with() {
        let good = DeployParams::default();
        assert!(good.check().is_ok());
        let refused = |params: DeployParams| params.check().unwrap_err().to_string();
        assert!(refused(DeployParams { n_subtasks: 0, ..good.clone() }).contains("n_subtasks is 0"));
        assert!(refused(DeployParams { release_seconds: 0, ..good.clone() }).contains("release_seconds is 0"));
        assert!(refused(DeployParams { initial_difficulty: U256::ZERO, ..good.clone() }).contains("difficulty is 0"));
        assert!(refused(DeployParams { blocks_per_epoch: 3151, ..good.clone() }).contains("need 3152 blocks"));
        assert!(DeployParams { blocks_per_epoch: 3152, ..good.clone() }.check().is_ok());
        assert!(refused(DeployParams { service_fee_bps: 10_001, ..good.clone() }).contains("10001"));
    }
}
