//! The contracts in a real EVM: every rule that a node or a miner relies on, against plain twins written here.

use std::{collections::BTreeMap, time::Duration};

use alloy::{
    contract::{CallBuilder, CallDecoder, Error as ContractError},
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, B256, Bytes, U256, address, b256, hex, keccak256},
    providers::{DynProvider, Provider, ProviderBuilder, ext::AnvilApi},
    rpc::types::{TransactionReceipt, TransactionRequest},
    sol,
    sol_types::{Panic, Revert, SolError, SolEvent, SolValue},
};
use zgpu_node::chain::{
    anvil::find_anvil,
    contracts::{
        DeployParams, Deployment, DigestHistory, EpochRange, Flow, Market, MineContext, MineRange, PoraAnswer,
        PoraMine, Reward, Submission, SubmissionData, SubmissionNode, creation_code, deploy,
    },
};

mod harness {
    //! The contract that opens the libraries of the mine contract to tests.
    use super::sol;

    sol! {
        struct MineRange {
            uint256 startPosition;
            uint256 mineLength;
            uint64 shardId;
            uint64 shardMask;
        }
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
        #[sol(rpc)]
        contract PoraHarness {
            constructor();
            function unseal(bytes32[128] sealedData, bytes32 minerId, bytes32 contextDigest, uint256 startSector)
                external pure returns (bytes32[128] data);
            function sealRoot(bytes32[128] data) external pure returns (bytes32);
            function climb(bytes32 hash, uint256 sealIndex, bytes32[] siblings) external pure returns (bytes32);
            function pora(PoraAnswer answer, bytes32 subtaskDigest) external view returns (bytes32);
            function rangeDigest(MineRange range) external pure returns (bytes32);
            function checkRange(MineRange range, uint256 flowLength) external pure;
            function target(MineRange range, uint256 poraTarget, uint256 flowLength) external pure returns (uint256);
            function zeros(uint256 height) external pure returns (bytes32);
        }
    }

    pub(super) const ARTIFACT: &str = include_str!("../contracts/artifacts/PoraHarness.json");
}

const EMPTY_HASH: B256 = b256!("c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470");
const WORKER_CONTEXT_CALLER: Address = address!("000000000000000000000000000000000000000A");
const SUBMITTER: Address = address!("5555555555555555555555555555555555555555");
const SECTORS_PER_PRICING: u64 = 1 << 25;
const POLL_INTERVAL: Duration = Duration::from_millis(5);
const FLOW_ARTIFACT: &str = include_str!("../contracts/artifacts/FixedPriceFlow.json");

// The chain -----------------------------------------------------------------------------------------------------------

/// An anvil with the contracts on it. Every transaction makes a block.
struct Chain {
    /// Signs for anvil's accounts.
    provider: DynProvider,
    /// Signs for nobody: anvil sends for accounts that it impersonates.
    unsigned: DynProvider,
    admin: Address,
    other: Address,
    contracts: Deployment,
    /// Ends the process when dropped.
    _anvil: AnvilInstance,
}

/// Starts anvil. The provider signs for its accounts.
fn anvil(arguments: &[&str]) -> (AnvilInstance, DynProvider) {
    let program = find_anvil().expect("these tests need anvil");
    let anvil = Anvil::at(program)
        .host("127.0.0.1")
        .prague()
        .args(arguments)
        .timeout(60_000)
        .try_spawn()
        .expect("anvil starts");
    let wallet = anvil.wallet().expect("anvil has accounts");
    let provider = ProviderBuilder::new().wallet(wallet).connect_http(anvil.endpoint_url()).erased();
    provider.client().set_poll_interval(POLL_INTERVAL);
    (anvil, provider)
}

/// Starts anvil and deploys the contracts.
async fn start(params: &DeployParams) -> Chain {
    let (anvil, provider) = anvil(&[]);
    let unsigned = ProviderBuilder::new().connect_http(anvil.endpoint_url()).erased();
    unsigned.client().set_poll_interval(POLL_INTERVAL);
    let (admin, other) = (anvil.addresses()[0], anvil.addresses()[1]);
    let contracts = deploy(&provider, admin, params).await.expect("the contracts can be deployed");
    Chain { provider, unsigned, admin, other, contracts, _anvil: anvil }
}

impl Chain {
    fn flow(&self) -> Flow::FlowInstance<DynProvider> {
        Flow::new(self.contracts.flow, self.provider.clone())
    }

    fn market(&self) -> Market::MarketInstance<DynProvider> {
        Market::new(self.contracts.market, self.provider.clone())
    }

    fn reward(&self) -> Reward::RewardInstance<DynProvider> {
        Reward::new(self.contracts.reward, self.provider.clone())
    }

    fn mine(&self) -> PoraMine::PoraMineInstance<DynProvider> {
        PoraMine::new(self.contracts.mine, self.provider.clone())
    }

    async fn block_number(&self) -> u64 {
        self.provider.get_block_number().await.unwrap()
    }

    async fn block_hash(&self, number: u64) -> B256 {
        self.provider.get_block_by_number(number.into()).await.unwrap().unwrap().header.hash
    }

    async fn now(&self) -> u64 {
        self.provider.get_block_by_number(Default::default()).await.unwrap().unwrap().header.timestamp
    }

    /// Makes blocks until the last one has this number.
    async fn advance_to(&self, number: u64) {
        let count = number.checked_sub(self.block_number().await).expect("that block is still to come");
        self.provider.anvil_mine(Some(count), None).await.unwrap();
    }

    /// Appends files and returns the event of each.
    async fn upload(&self, files: &[Vec<SubmissionNode>]) -> Vec<Flow::Submit> {
        let price: U256 = self.market().pricePerSector().call().await.unwrap();
        let sectors: u64 = files.iter().flatten().map(|node| 1u64 << node.height.to::<u64>()).sum();
        let submissions: Vec<_> = files.iter().map(|nodes| submission(nodes.clone())).collect();
        let flow = self.flow();
        let receipt = done(flow.batchSubmit(submissions).value(price * U256::from(sectors))).await;
        events(&receipt)
    }

    /// Lets `unsigned` send in the name of a contract, with money of its own.
    async fn impersonate(&self, account: Address) {
        self.provider.anvil_impersonate_account(account).await.unwrap();
        self.provider.anvil_set_balance(account, U256::from(10u128.pow(24))).await.unwrap();
    }
}

/// Sends a call and waits for it to be done.
async fn done<P: Provider, D: CallDecoder>(call: CallBuilder<P, D>) -> TransactionReceipt {
    let receipt = call.send().await.expect("the call is taken").get_receipt().await.unwrap();
    assert!(receipt.status(), "transaction {} failed", receipt.transaction_hash);
    receipt
}

fn events<E: SolEvent>(receipt: &TransactionReceipt) -> Vec<E> {
    let logs = receipt.logs().iter().filter(|log| log.topic0() == Some(&E::SIGNATURE_HASH));
    logs.map(|log| E::decode_log(&log.inner).unwrap().data).collect()
}

/// Text of a refusal.
fn reason<T>(result: Result<T, ContractError>) -> String {
    let error = result.err().expect("the contract has to refuse this");
    let data = error.as_revert_data().unwrap_or_else(|| panic!("not a revert: {error}"));
    if let Ok(revert) = Revert::abi_decode(&data) {
        return revert.reason;
    }
    Panic::abi_decode(&data).map_or_else(|_| hex::encode(data), |panic| format!("panic {:#x}", panic.code))
}

/// Parameters with short epochs and cheap answers.
fn small() -> DeployParams {
    DeployParams {
        blocks_per_epoch: 200,
        initial_difficulty: U256::from(40),
        target_mine_blocks: 60,
        target_submissions: 2,
        max_shards: 4,
        n_subtasks: 2,
        subtask_interval: 70,
        price_per_sector: U256::from(1000),
        release_seconds: 1000,
        ..DeployParams::default()
    }
}

// Plain twins ---------------------------------------------------------------------------------------------------------

fn uint(value: u64) -> U256 {
    U256::from(value)
}

fn parent(left: B256, right: B256) -> B256 {
    keccak256([left, right].concat())
}

/// Root of 2^height zero sectors.
fn zeros(height: u32) -> B256 {
    (0..height).fold(keccak256([0; 256]), |hash, _| parent(hash, hash))
}

/// The subtrees of a file whose bytes are 0, 1, … 255, 0, …
fn counting_file(size: usize) -> (Vec<u8>, Vec<SubmissionNode>) {
    let mut data: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let sectors = size.div_ceil(256);
    let power = sectors.next_power_of_two();
    let padded = sectors.next_multiple_of(if power < 16 { 1 } else { power / 16 });
    data.resize(padded * 256, 0);
    let mut nodes = Vec::new();
    let mut rest = &data[..];
    for height in (0..=power.ilog2()).rev() {
        if rest.len() >= 256 << height {
            let (part, tail) = rest.split_at(256 << height);
            nodes.push(node(height, tree_root(part)));
            rest = tail;
        }
    }
    (data, nodes)
}

fn tree_root(data: &[u8]) -> B256 {
    if data.len() == 256 {
        return keccak256(data);
    }
    let (left, right) = data.split_at(data.len() / 2);
    parent(tree_root(left), tree_root(right))
}

fn node(height: u32, root: B256) -> SubmissionNode {
    SubmissionNode { root, height: U256::from(height) }
}

/// Subtrees of these sizes in sectors, with roots of their own.
fn file_of(sectors: &[u64], tag: &str) -> Vec<SubmissionNode> {
    sectors.iter().map(|size| node(size.ilog2(), keccak256(format!("{tag} {size}")))).collect()
}

fn capacity(nodes: &[SubmissionNode]) -> U256 {
    nodes.iter().map(|node| U256::ONE << node.height).sum()
}

/// The largest file with these subtrees.
fn submission(nodes: Vec<SubmissionNode>) -> Submission {
    let length = capacity(&nodes) * uint(256);
    Submission { data: SubmissionData { length, tags: Bytes::new(), nodes }, submitter: SUBMITTER }
}

/// The flow as a set of subtrees with zero sectors between them.
struct FlowTwin {
    length: u64,
    /// First sector -> height and root.
    subtrees: BTreeMap<u64, (u32, B256)>,
}

impl FlowTwin {
    fn new() -> Self {
        FlowTwin { length: 1, subtrees: BTreeMap::from([(0, (0, B256::ZERO))]) }
    }

    /// Appends a file, returns its first sector.
    fn append(&mut self, nodes: &[SubmissionNode]) -> u64 {
        let sectors: u64 = capacity(nodes).to();
        let unit = 1 << nodes[0].height.to::<u64>();
        let mut start = self.length.next_multiple_of(unit);
        if !start.is_multiple_of(1024) && start / 1024 != (start + sectors - 1) / 1024 {
            start = start.next_multiple_of(1024);
        }
        self.length = start;
        for node in nodes {
            let height = node.height.to::<u32>();
            if node.root != zeros(height) {
                self.subtrees.insert(self.length, (height, node.root));
            }
            self.length += 1 << height;
        }
        start
    }

    /// Replaces a subtree by its sectors, so that proofs can be made inside.
    fn open(&mut self, start: u64, data: &[u8]) {
        for (i, sector) in (0..).zip(data.chunks_exact(256)) {
            self.subtrees.insert(start + i, (0, keccak256(sector)));
        }
    }

    fn height(&self) -> u32 {
        self.length.next_power_of_two().ilog2()
    }

    fn root(&self) -> B256 {
        self.subtree(0, self.height())
    }

    fn subtree(&self, start: u64, height: u32) -> B256 {
        if self.subtrees.range(start..start + (1 << height)).next().is_none() {
            return zeros(height);
        }
        match self.subtrees.get(&start) {
            Some((own, root)) if *own == height => *root,
            _ => parent(self.subtree(start, height - 1), self.subtree(start + (1 << (height - 1)), height - 1)),
        }
    }

    /// Siblings of the subtree of 2^height sectors at `start`, from the bottom up.
    fn siblings(&self, start: u64, height: u32) -> Vec<B256> {
        (height..self.height()).map(|h| self.subtree((start >> h ^ 1) << h, h)).collect()
    }
}

/// 4 KiB sealed.
fn seal(data: &[u8], miner: B256, context: B256, start_sector: u64) -> [B256; 128] {
    let mut mask = keccak256((miner, context, uint(start_sector)).abi_encode());
    std::array::from_fn(|i| {
        let word = B256::from_slice(&data[32 * i..32 * (i + 1)]) ^ mask;
        mask = keccak256(word);
        word
    })
}

/// What a nonce gives.
struct Draw {
    seed: [u8; 64],
    pad: Vec<u8>,
    recall_seed: B256,
    /// First sector of the recalled load.
    load: u64,
}

fn range_digest(range: &MineRange) -> B256 {
    keccak256((range.startPosition, range.mineLength, uint(range.shardId), uint(range.shardMask)).abi_encode())
}

fn draw(miner: B256, nonce: B256, subtask: B256, range: &MineRange) -> Draw {
    let head = [miner, nonce, subtask, range_digest(range)].concat();
    let seed = *blake2b_simd::blake2b(&head).as_array();
    let mut cell = seed;
    let mut pad = Vec::with_capacity(16_384);
    for _ in 0..256 {
        for half in 0..2 {
            let hash = keccak256(cell);
            cell[32 * half..32 * (half + 1)].copy_from_slice(&hash[..]);
        }
        pad.extend_from_slice(&cell);
    }
    let recall_seed = keccak256(cell);
    let k = U256::from_be_bytes(recall_seed.0) % (range.mineLength / uint(1024));
    let index = (k.as_limbs()[0] & range.shardMask) | range.shardId;
    let load = range.startPosition.to::<u64>() + 1024 * index;
    Draw { seed, pad, recall_seed, load }
}

/// Quality of a seal: the hash that has to be at most the target.
fn quality(draw: &Draw, index: u64, sealed: &[B256; 128]) -> B256 {
    let pad = &draw.pad[(index % 4) as usize * 4096..][..4096];
    let mixed: Vec<u8> = sealed.concat().iter().zip(pad).map(|(a, b)| a ^ b).collect();
    let index = uint(index).to_be_bytes::<32>();
    let input = [&index[..], &draw.seed, &[0; 32], &mixed].concat();
    B256::from_slice(&blake2b_simd::blake2b(&input).as_bytes()[..32])
}

/// Largest hash that answers, for a declared shard.
fn scaled(target: U256, flow_length: u64, shards: u64) -> U256 {
    let whole = flow_length.min(1 << 35);
    let shard = (flow_length / shards).min(1 << 35);
    (target / ((uint(whole) << 64) / uint(shard))) << 64
}

// Flow ----------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn flow_roots_of_small_files() {
    let chain = start(&small()).await;
    let flow = chain.flow();
    let (_, r0) = counting_file(256);
    let (_, r1) = counting_file(257);
    assert_eq!(flow.computeFlowRoot().call().await.unwrap(), B256::ZERO);
    let tree = flow.tree().call().await.unwrap();
    assert_eq!((tree.currentLength, tree.unstagedHeight), (uint(1), uint(1)));

    let first = Submission {
        data: SubmissionData { length: uint(256), tags: Bytes::from_static(b"anything"), nodes: r0.clone() },
        submitter: SUBMITTER,
    };
    let preview = flow.submit(first.clone()).value(uint(1000)).call().await.unwrap();
    assert_eq!((preview.index, preview.startIndex, preview.length), (uint(0), uint(1), uint(1)));
    let receipt = done(flow.submit(first.clone()).value(uint(1000))).await;
    println!("gas of the first submission: {}", receipt.gas_used);
    let event = events::<Flow::Submit>(&receipt).pop().unwrap();
    let topics = receipt.logs().last().unwrap().topics().to_vec();
    assert_eq!(topics[0], b256!("167ce04d2aa1981994d3a31695da0d785373335b1078cec239a1a3a2c7675555"));
    assert_eq!(event.identity, b256!("4fdc7f06abe65799b346ea580eb897f5d6333f54f498eea8da678267d8df67a5"));
    assert_eq!(event.identity, preview.digest);
    assert_eq!((event.sender, event.submission), (SUBMITTER, first.data));
    assert_eq!((event.submissionIndex, event.startPos, event.length), (uint(0), uint(1), uint(1)));

    let events = chain.upload(&[r1, r0]).await;
    assert_eq!(events[0].identity, b256!("53b1cfc10f9a6357980901f445722de42c9b736e3fda73a73110965471c85d8a"));
    assert_eq!([events[0].startPos, events[1].startPos], [uint(2), uint(4)]);

    let expected = [
        b256!("e0c046404115b2ee309f989bc0bc0c6b092f5787adb82ff9df17f6ce861bf01b"),
        b256!("3d8e99c8ad9c0accc65ebb22bca3be02d10f49a1950b995f7e9b926a6d79b2f4"),
        b256!("fafcc02de023b1913ce921b8ef86cb1c38d65ffd1772890b3ea85e99dce3254f"),
    ];
    for (index, root) in expected.iter().enumerate() {
        assert_eq!(flow.getFlowRootByTxSeq(U256::from(index)).call().await.unwrap(), *root);
    }
    assert_eq!(flow.getFlowRootByTxSeq(uint(3)).call().await.unwrap(), B256::ZERO);
    assert_eq!(flow.computeFlowRoot().call().await.unwrap(), expected[2]);
    assert_eq!(flow.numSubmissions().call().await.unwrap(), uint(3));
    assert_eq!(flow.submissionIndex().call().await.unwrap(), uint(3));

    let digest = keccak256((keccak256("block"), expected[2], uint(5)).abi_encode());
    assert_eq!(digest, b256!("b395ba79297b94ad7c40e4448450ee1ec9516de83ee6d4ac21f62459d4556b9e"));
}

#[tokio::test]
async fn node_roots_are_those_of_the_file() {
    let identities = [
        (1, "907462103f4f1c3e2f1be0a063eca38991dc4c945c1b56d3f9e4deb0f1d5d98c"),
        (1023, "574e71900c6d84031dfd9f9c68b5a2777e45d430c6be92cd38cd7ef5b61815ad"),
        (1025, "9b90ba9b357ec49cddde50e614cab9b9c912cd00cf2f666b20c32deac987edfd"),
        (4352, "51a7447034b868706ef348a0ae88ace21ad40b38b40cecced96e7cc4e3bb3717"),
        (262_144, "58e7c6acf5cfd2fc9e8e5c80aca2279255f0562ecbc1bb13c68fc633252e4780"),
        (262_400, "d9c86ee12a66e3c7b3913d8f27b78b7be6ba1a3b693ed0f56b838c5440608569"),
    ];
    let chain = start(&small()).await;
    let files: Vec<_> = identities.iter().map(|(size, _)| counting_file(*size).1).collect();
    let mut twin = FlowTwin::new();
    for ((event, file), (size, identity)) in chain.upload(&files).await.iter().zip(&files).zip(identities) {
        assert_eq!(hex::encode(event.identity), identity, "{size} bytes");
        assert_eq!(event.startPos, uint(twin.append(file)));
        let root = chain.flow().getFlowRootByTxSeq(event.submissionIndex).call().await.unwrap();
        assert_eq!(root, twin.root(), "{size} bytes");
    }
}

#[tokio::test]
async fn files_are_aligned_and_do_not_straddle_segments() {
    // Subtree sizes of each file, where it starts, and the flow's length behind it.
    type Step = (&'static [u64], u64, u64);
    let lengths: [Step; 4] = [(&[1], 1, 2), (&[8, 4, 2], 8, 22), (&[128, 64], 128, 320), (&[512, 256], 1024, 1792)];
    let starts: [Step; 3] =
        [(&[256], 256, 512), (&[512, 256, 128, 64], 1024, 1984), (&[512, 256, 128, 64], 2048, 3008)];
    // A pricing chunk completed by subtrees up to its half, and one that reaches into the next.
    let large: [Step; 4] = [
        (&[1 << 24], 1 << 24, 1 << 25),
        (&[1 << 26, 1 << 25, 1 << 24, 1 << 23], 1 << 26, (1 << 27) + (3 << 24) + (1 << 23)),
        (&[1], (1 << 27) + (3 << 24) + (1 << 23), (1 << 27) + (3 << 24) + (1 << 23) + 1),
        (&[1 << 30], 1 << 30, 1 << 31),
    ];
    for steps in [&lengths[..], &starts, &large] {
        let chain = start(&small()).await;
        chain.provider.anvil_set_balance(chain.admin, U256::MAX >> 8).await.unwrap();
        done(chain.market().setPricePerSector(U256::ZERO)).await;
        let mut twin = FlowTwin::new();
        for (sizes, start, length) in steps {
            let file = file_of(sizes, &format!("at {start}"));
            let event = chain.upload(std::slice::from_ref(&file)).await.pop().unwrap();
            assert_eq!(event.startPos, uint(*start), "{sizes:?}");
            assert_eq!(twin.append(&file), *start, "{sizes:?}");
            assert_eq!(event.length, uint(sizes.iter().sum()));
            let tree = chain.flow().tree().call().await.unwrap();
            assert_eq!(tree.currentLength, uint(*length), "{sizes:?}");
            assert_eq!(tree.unstagedHeight, U256::from(twin.height() + 1));
            assert_eq!(chain.flow().computeFlowRoot().call().await.unwrap(), twin.root(), "{sizes:?}");
        }
    }
}

#[tokio::test]
async fn flow_root_follows_the_twin_over_many_files() {
    let chain = start(&small()).await;
    let mut twin = FlowTwin::new();
    // Heights from a fixed sequence that reaches every alignment and carry within a few segments.
    let files: Vec<_> = (0..60u64)
        .map(|i| {
            let top = 1u64 << (i * 7 % 12);
            let sizes: Vec<u64> = (0..4).filter(|k| *k == 0 || (i >> k) & 1 == 1).map(|k| top >> k).collect();
            file_of(&sizes.into_iter().filter(|size| *size > 0).collect::<Vec<_>>(), &format!("file {i}"))
        })
        .collect();
    for batch in files.chunks(20) {
        for (event, file) in chain.upload(batch).await.iter().zip(batch) {
            assert_eq!(event.startPos, uint(twin.append(file)));
            let root = chain.flow().getFlowRootByTxSeq(event.submissionIndex).call().await.unwrap();
            assert_eq!(root, twin.root(), "after file {}", event.submissionIndex);
        }
    }
    assert_eq!(chain.flow().computeFlowRoot().call().await.unwrap(), twin.root());
    assert_eq!(chain.flow().tree().call().await.unwrap().currentLength, uint(twin.length));
}

#[tokio::test]
async fn invalid_submissions_are_refused() {
    let chain = start(&small()).await;
    let flow = chain.flow();
    let call = async |submission: Submission| {
        let value = capacity(&submission.data.nodes).saturating_mul(uint(1000)).min(U256::from(10u128.pow(20)));
        flow.submit(submission).value(value).call().await
    };
    let with_length = |sizes: &[u64], length: u64| {
        let mut submission = submission(file_of(sizes, "x"));
        submission.data.length = uint(length);
        submission
    };

    let refused = [
        submission(vec![]),
        Submission { submitter: Address::ZERO, ..submission(file_of(&[4], "x")) },
        submission(file_of(&[16, 1], "x")),
        submission(file_of(&[4, 4], "x")),
        submission(file_of(&[8, 2, 4], "x")),
        submission(vec![node(64, B256::ZERO)]),
        // One byte too long; as short as the next smaller cut, with less than 16 sectors, one node, several nodes.
        with_length(&[4], 4 * 256 + 1),
        with_length(&[4], 3 * 256),
        with_length(&[8, 4, 2, 1], 14 * 256),
        with_length(&[16], 15 * 256),
        with_length(&[1024], 960 * 256),
        with_length(&[1024, 128], 1024 * 256),
        with_length(&[16, 2], 16 * 256),
        with_length(&[1], 0),
    ];
    for (i, submission) in refused.into_iter().enumerate() {
        assert_eq!(reason(call(submission).await), "Invalid submission", "number {i}");
    }
    // The spread of heights is below zero.
    assert_eq!(reason(call(submission(file_of(&[4, 8], "x"))).await), "panic 0x11");

    let accepted = [
        with_length(&[4], 4 * 256),
        with_length(&[4], 3 * 256 + 1),
        with_length(&[8, 4, 2, 1], 14 * 256 + 1),
        with_length(&[16], 15 * 256 + 1),
        with_length(&[1024], 960 * 256 + 1),
        with_length(&[1024, 128], 1024 * 256 + 1),
        with_length(&[16, 2], 16 * 256 + 1),
        with_length(&[1], 1),
    ];
    for (i, submission) in accepted.into_iter().enumerate() {
        assert!(call(submission).await.is_ok(), "number {i}");
    }
}

#[tokio::test]
async fn submissions_need_a_launched_and_running_flow() {
    let chain = start(&DeployParams { deploy_delay: 50, ..small() }).await;
    let flow = chain.flow();
    let file = submission(file_of(&[1], "x"));
    let submit = async || flow.submit(file.clone()).value(uint(1000)).call().await;

    let first: u64 = flow.firstBlock().call().await.unwrap().to();
    assert_eq!(flow.deployDelay().call().await.unwrap(), uint(50));
    assert_eq!(reason(submit().await), "Contract has not launched.");
    chain.advance_to(first).await;
    assert!(submit().await.is_ok());

    let pause = flow.pause().from(chain.other).call().await;
    assert!(reason(pause).starts_with("e2517d3f"), "only the pauser may pause");
    done(flow.pause()).await;
    assert!(flow.paused().call().await.unwrap());
    assert_eq!(reason(submit().await), "d93c0665");
    done(flow.unpause()).await;
    assert!(submit().await.is_ok());

    let too_little = flow.submit(submission(file_of(&[4, 1], "x"))).value(uint(4999)).call().await;
    let paid = Flow::NotEnoughFee { price: uint(1000), sectors: uint(5), paid: uint(4999) };
    assert_eq!(reason(too_little), hex::encode(paid.abi_encode()));
    assert_eq!(Flow::NotEnoughFee::SELECTOR, hex!("f85c6482"));

    // Once set, parameters stay; a second initialize is refused.
    let (blocks, history) = (flow.blocksPerEpoch().call().await.unwrap(), flow.rootHistory().call().await.unwrap());
    done(flow.setParams(uint(7), uint(7), chain.other).from(chain.other)).await;
    assert_eq!(flow.blocksPerEpoch().call().await.unwrap(), blocks);
    assert_eq!(flow.firstBlock().call().await.unwrap(), uint(first));
    assert_eq!(flow.rootHistory().call().await.unwrap(), history);
    assert_eq!(reason(flow.initialize(chain.other, uint(1)).call().await), "f92ee8a9");
}

#[tokio::test]
async fn epochs_tile_the_flow() {
    let chain = start(&small()).await;
    let flow = chain.flow();
    let first: u64 = flow.firstBlock().call().await.unwrap().to();
    let stored = flow.getContext().call().await.unwrap();
    assert_eq!((stored.epoch, stored.digest, stored.flowLength), (uint(0), EMPTY_HASH, uint(1)));
    assert_eq!(reason(flow.queryContextAtPosition(1).call().await), "Queried position exceeds upper bound");

    let mut twin = FlowTwin::new();
    let file = file_of(&[4], "first");
    twin.append(&file);
    chain.upload(&[file]).await;
    assert_eq!(reason(flow.queryContextAtPosition(1).call().await), "Can not find proper context");

    // An epoch begins one block after its start; the second of two files belongs to it only if it comes after.
    chain.advance_to(first + 200).await;
    assert_eq!(flow.makeContextWithResult().call().await.unwrap().epoch, uint(0));
    chain.advance_to(first + 201).await;
    let receipt = done(flow.makeContext()).await;
    let digest = keccak256((chain.block_hash(first + 200).await, twin.root(), uint(8)).abi_encode());
    let event = events::<Flow::NewEpoch>(&receipt).pop().unwrap();
    assert_eq!(
        receipt.logs()[0].topics()[0],
        b256!("bc8a3fd82465d43f1709e44ed882f7e1af0147274196ef1ec009f5d52ff4e993")
    );
    assert_eq!((event.sender, event.index, event.startMerkleRoot), (chain.admin, uint(1), twin.root()));
    assert_eq!((event.submissionIndex, event.flowLength, event.context), (uint(1), uint(8), digest));
    let context = flow.getContext().call().await.unwrap();
    let expected = MineContext {
        epoch: uint(1),
        mineStart: uint(first + 200),
        flowRoot: twin.root(),
        flowLength: uint(8),
        blockDigest: chain.block_hash(first + 200).await,
        digest,
    };
    assert_eq!(context, expected);
    assert_eq!(flow.getEpochRange(digest).call().await.unwrap(), EpochRange { start: 0, end: 8 });
    assert_eq!(flow.epoch().call().await.unwrap(), uint(1));
    assert_eq!(flow.epochStartPosition().call().await.unwrap(), uint(8));

    // A submission makes the epochs that are due before it appends; two pass, the second of them empty.
    chain.advance_to(first + 610).await;
    let file = file_of(&[16], "second");
    twin.append(&file);
    chain.upload(&[file]).await;
    assert_eq!(flow.epoch().call().await.unwrap(), uint(3));
    for (index, range) in [(0, (0, 8)), (1, (8, 8)), (2, (8, 8))] {
        let got = flow.getEpochRangeHistory(uint(index)).call().await.unwrap();
        assert_eq!((got.start, got.end), range, "range {index}");
        assert_eq!(flow.getEpochRange(got.digest).call().await.unwrap(), EpochRange { start: got.start, end: got.end });
    }
    assert!(flow.getEpochRangeHistory(uint(3)).call().await.is_err());

    // makeContextFixedTimes(n) makes n + 1 epochs at most.
    chain.advance_to(first + 1450).await;
    done(flow.makeContextFixedTimes(U256::ZERO)).await;
    assert_eq!(flow.epoch().call().await.unwrap(), uint(4));
    done(flow.makeContextFixedTimes(U256::ONE)).await;
    assert_eq!(flow.epoch().call().await.unwrap(), uint(6));
    done(flow.makeContext()).await;
    assert_eq!(flow.epoch().call().await.unwrap(), uint(7));

    // Every sector is found in the range that first covered it. The one before last epoch began over 256 blocks ago,
    // and its block hash still came from the chain's history.
    let fourth = flow.getEpochRangeHistory(uint(3)).call().await.unwrap();
    let old_hash = chain.block_hash(first + 800).await;
    assert_eq!(fourth.digest, keccak256((old_hash, twin.root(), uint(32)).abi_encode()));
    for (position, digest) in [(0, digest), (7, digest), (8, fourth.digest), (31, fourth.digest)] {
        let range = flow.queryContextAtPosition(position).call().await.unwrap();
        assert_eq!(range.digest, digest, "sector {position}");
        assert!(range.start <= position && position < range.end);
    }
    assert_eq!(reason(flow.queryContextAtPosition(32).call().await), "Queried position exceeds upper bound");
    assert_eq!(flow.getEpochRange(keccak256("unknown")).call().await.unwrap(), EpochRange { start: 0, end: 0 });

    let history = DigestHistory::new(flow.rootHistory().call().await.unwrap(), chain.provider.clone());
    assert!(history.contains(twin.root()).call().await.unwrap());
    assert!(!history.contains(keccak256("unknown")).call().await.unwrap());
    assert!(history.available(uint(6)).call().await.unwrap());
    assert!(!history.available(uint(7)).call().await.unwrap());
    let at = async |index| history.call_builder(&DigestHistory::atCall(uint(index))).call().await;
    assert_eq!(at(6).await.unwrap(), twin.root());
    let unavailable = DigestHistory::UnavailableIndex { index: uint(7) };
    assert_eq!(reason(at(7).await), hex::encode(unavailable.abi_encode()));
}

#[tokio::test]
async fn an_epoch_without_its_block_hash_is_empty() {
    // The chain begins with block 20,000, so that old epochs need no blocks. The flow gets its first block beforehand.
    let (anvil, provider) = anvil(&["--number", "20000"]);
    let admin = anvil.addresses()[0];
    let code = creation_code(FLOW_ARTIFACT, &Flow::constructorCall { deployDelay: U256::ZERO });
    let receipt = done(CallBuilder::<_, ()>::new_raw_deploy(provider.clone(), code)).await;
    let flow = Flow::new(receipt.contract_address.unwrap(), provider.clone());
    // Epochs 1 and 2 begin 8191 blocks apart: makeContext, three blocks on, is 8192 blocks behind the first.
    let third = receipt.block_number.unwrap() + 3;
    let (epoch_blocks, first) = (8191, third - 8192 - 8191);
    done(flow.setParams(uint(epoch_blocks), uint(first), Address::ZERO)).await;
    done(flow.initialize(admin, uint(epoch_blocks))).await;
    assert_eq!(flow.firstBlock().call().await.unwrap(), uint(first));

    let receipt = done(flow.makeContext()).await;
    assert_eq!(receipt.block_number, Some(third));
    let epochs = events::<Flow::NewEpoch>(&receipt);
    assert_eq!(epochs.len(), 2);
    assert_eq!((epochs[0].index, epochs[0].context), (uint(1), EMPTY_HASH));
    let recent = provider.get_block_by_number((third - 1).into()).await.unwrap().unwrap().header.hash;
    assert_eq!(epochs[1].context, keccak256((recent, B256::ZERO, uint(1)).abi_encode()));
    // The empty epoch covers nothing; its sectors went to the next.
    let range = flow.getEpochRangeHistory(U256::ZERO).call().await.unwrap();
    assert_eq!((range.start, range.end, range.digest), (0, 1, epochs[1].context));
    assert!(flow.getEpochRangeHistory(U256::ONE).call().await.is_err());
    assert_eq!(flow.getEpochRange(EMPTY_HASH).call().await.unwrap(), EpochRange { start: 0, end: 0 });
}

// Market and reward ---------------------------------------------------------------------------------------------------

#[tokio::test]
async fn fees_are_split_by_sectors() {
    let chain = start(&small()).await;
    let (flow, market, reward) = (chain.flow(), chain.market(), chain.reward());
    let locked = async |chunk| reward.rewards(uint(chunk)).call().await.unwrap().lockedReward;

    // One sector and no padding; 300 too much, which stays with the flow.
    done(flow.submit(submission(file_of(&[1], "a"))).value(uint(1300))).await;
    assert_eq!(locked(0).await, 1000);
    assert_eq!(chain.provider.get_balance(flow.address().to_owned()).await.unwrap(), uint(300));

    // The next submission may use it. Padding from 2 to 8: 6 of 14 sectors.
    done(flow.submit(submission(file_of(&[8], "b"))).value(uint(7700))).await;
    assert_eq!(chain.provider.get_balance(*flow.address()).await.unwrap(), U256::ZERO);
    assert_eq!(locked(0).await, 9000);

    // A bonus lies in the market before the upload. A service fee of 2.5 % goes to the treasury, of the padding's part
    // and of the rest each. From 16 to 2^24 is padding, up to the end of the pricing chunk the file.
    let treasury = address!("7777777777777777777777777777777777777777");
    done(reward.setServiceFeeRate(uint(250))).await;
    done(reward.setTreasury(treasury)).await;
    let bonus = TransactionRequest::default().from(chain.admin).to(*market.address()).value(uint(1_000_003));
    chain.provider.send_transaction(bonus).await.unwrap().get_receipt().await.unwrap();
    chain.upload(&[file_of(&[1 << 24], "c")]).await;
    let (upload, padding) = (1u128 << 24, (1 << 24) - 16);
    let base_fee = 1000 * upload;
    let padding_part = base_fee * padding / (upload + padding);
    let rest = base_fee - padding_part + 1_000_003;
    let service = padding_part * 250 / 10_000 + rest * 250 / 10_000;
    assert_eq!(locked(0).await, 9000 + base_fee + 1_000_003 - service);
    assert_eq!(chain.provider.get_balance(treasury).await.unwrap(), U256::from(service));
    assert_eq!(chain.provider.get_balance(*market.address()).await.unwrap(), U256::ZERO);

    // That filled the first pricing chunk.
    let first = reward.rewards(U256::ZERO).call().await.unwrap();
    assert_eq!(first.startTime.to::<u64>(), chain.now().await);
    assert_eq!(reward.rewardDeadline(U256::ZERO).call().await.unwrap(), uint(chain.now().await + 1000));
    assert_eq!(reward.rewardDeadline(U256::ONE).call().await.unwrap(), U256::ZERO);

    let denied = "Sender does not have permission";
    assert_eq!(reason(market.chargeFee(U256::ONE, U256::ONE, U256::ZERO).call().await), denied);
    assert_eq!(reason(reward.fillReward(U256::ONE, U256::ONE).call().await), denied);
    assert_eq!(reason(reward.claimMineReward(U256::ZERO, chain.other, B256::ZERO).call().await), denied);
    assert!(reason(market.setPricePerSector(U256::ONE).from(chain.other).call().await).starts_with("e2517d3f"));
    assert_eq!(reason(reward.setBaseReward(U256::ONE).from(chain.other).call().await), "Not foundation admin");
    chain.impersonate(*flow.address()).await;
    let unpaid = market.chargeFee(U256::ONE, U256::ONE, U256::ZERO).from(*flow.address()).call().await;
    assert_eq!(reason(unpaid), "Not enough paid fee");
}

#[tokio::test]
async fn fees_of_several_chunks_are_rounded_down() {
    let chain = start(&small()).await;
    let market = chain.contracts.market;
    let reward = Reward::new(chain.contracts.reward, chain.unsigned.clone());
    chain.impersonate(market).await;
    let fill = async |before: u64, sectors: u64, value: u64| {
        done(reward.fillReward(uint(before), uint(sectors)).value(uint(value)).from(market)).await
    };
    let locked = async |chunk| reward.rewards(uint(chunk)).call().await.unwrap().lockedReward;

    // 3 sectors at the end of chunk 0, two whole chunks, 5 sectors of chunk 3: f = floor(value · 2^25 / sectors).
    let value = 10u64.pow(18);
    let sectors = 8 + 2 * SECTORS_PER_PRICING;
    fill(SECTORS_PER_PRICING - 3, sectors, value).await;
    let f = u128::from(value) * u128::from(SECTORS_PER_PRICING) / u128::from(sectors);
    for (chunk, part) in [(0, (3 * f) >> 25), (1, f), (2, f), (3, (5 * f) >> 25)] {
        assert_eq!(locked(chunk).await, part, "chunk {chunk}");
        let started = !reward.rewards(uint(chunk)).call().await.unwrap().startTime.is_zero();
        assert_eq!(started, chunk < 3, "chunk {chunk}");
    }
    let again = reward.fillReward(U256::ZERO, U256::ONE).from(market).call().await;
    assert_eq!(reason(again), "Reward item has been initialized");
    let too_much = reward.fillReward(uint(4 * SECTORS_PER_PRICING), U256::ONE).value(U256::ONE << 128).from(market);
    chain.provider.anvil_set_balance(market, U256::ONE << 129).await.unwrap();
    assert_eq!(reason(too_much.call().await), "Reward overflow");
}

#[tokio::test]
async fn rewards_are_released_over_time_and_halved_by_each_answer() {
    let chain = start(&small()).await;
    let (market, mine) = (chain.contracts.market, chain.contracts.mine);
    let reward = Reward::new(chain.contracts.reward, chain.unsigned.clone());
    let beneficiary = address!("8888888888888888888888888888888888888888");
    let miner = keccak256("a miner");
    chain.impersonate(market).await;
    chain.impersonate(mine).await;
    done(reward.setBaseReward(uint(100)).from(chain.admin)).await;
    done(reward.donate().value(uint(230)).from(chain.other)).await;
    done(reward.fillReward(U256::ONE, uint(SECTORS_PER_PRICING - 1)).value(uint(1_000_000)).from(market)).await;
    done(reward.fillReward(uint(SECTORS_PER_PRICING), U256::ONE).value(uint(5000)).from(market)).await;
    let full = chain.now().await;

    let claim = async |chunk: u64, time: u64| {
        chain.provider.anvil_set_next_block_timestamp(time).await.unwrap();
        let receipt = done(reward.claimMineReward(uint(chunk), beneficiary, miner).from(mine)).await;
        let event = events::<Reward::DistributeReward>(&receipt).pop();
        event.map(|event| {
            assert_eq!((event.pricingIndex, event.beneficiary, event.minerId), (uint(chunk), beneficiary, miner));
            event.amount.to::<u64>()
        })
    };
    let state = async |chunk: u64| {
        let reward = reward.rewards(uint(chunk)).call().await.unwrap();
        (reward.lockedReward, reward.claimableReward, reward.distributedReward)
    };
    // 1,000,000 over 1000 s: 333 s release 333,000, of which half is paid; the base reward of 100 besides.
    assert_eq!(claim(0, full + 333).await, Some(166_500 + 100));
    assert_eq!(state(0).await, (667_000, 166_500, 166_500));
    // 1 s later 1000 more: half of 167,500.
    assert_eq!(claim(0, full + 334).await, Some(83_750 + 100));
    assert_eq!(state(0).await, (666_000, 83_750, 250_250));
    // The donations end; an unfinished chunk pays nothing and takes no base reward.
    assert_eq!(claim(1, full + 335).await, None);
    assert_eq!(state(1).await, (5000, 0, 0));
    assert_eq!(claim(0, full + 999).await, Some((1_000_000 * 999 / 1000 - 250_250) / 2 + 30));
    assert_eq!(reward.totalBaseReward().call().await.unwrap(), U256::ZERO);
    done(reward.donate().value(uint(500)).from(chain.other)).await;
    // At the deadline all is released, and the base reward has ended.
    let (_, claimable, distributed) = state(0).await;
    let outstanding = 1_000_000 - distributed;
    assert_eq!(claimable, 999_000 - distributed);
    assert_eq!(claim(0, full + 1001).await, Some((outstanding / 2) as u64));
    assert_eq!(state(0).await.0, 0);
    assert_eq!(claim(0, full + 5000).await, Some((outstanding.div_ceil(2) / 2) as u64));
    assert_eq!(reward.totalBaseReward().call().await.unwrap(), uint(500));
    // Chunk 0 has expired; chunk 1 has not begun.
    let first = reward.firstRewardableChunk().call().await.unwrap();
    assert_eq!((first.index, first.timestamp), (1, uint(chain.now().await)));

    let owed = reward.payments(beneficiary).call().await.unwrap();
    let (_, _, distributed) = state(0).await;
    assert_eq!(owed, U256::from(distributed) + uint(230));
    done(reward.withdrawPayments(beneficiary).from(chain.other)).await;
    assert_eq!(chain.provider.get_balance(beneficiary).await.unwrap(), owed);
    assert_eq!(reward.payments(beneficiary).call().await.unwrap(), U256::ZERO);
}

// Proofs of random access ---------------------------------------------------------------------------------------------

#[derive(serde::Deserialize)]
struct Vectors {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    miner_id: B256,
    subtask_digest: B256,
    seal_context_digest: B256,
    nonce: B256,
    range: CaseRange,
    range_digest: B256,
    pad_seed: Bytes,
    scratch_pad_keccak: B256,
    recall_seed: B256,
    recall_position: String,
    raw_chunk_rule: String,
    sealed_chunk_keccak: B256,
    qualities: Vec<B256>,
}

#[derive(serde::Deserialize)]
struct CaseRange {
    start_position: String,
    mining_length: String,
    shard_id: String,
    shard_mask: String,
}

async fn deploy_harness(chain: &Chain) -> harness::PoraHarness::PoraHarnessInstance<DynProvider> {
    let code = creation_code(harness::ARTIFACT, &harness::PoraHarness::constructorCall {});
    let receipt = done(CallBuilder::<_, ()>::new_raw_deploy(chain.provider.clone(), code)).await;
    harness::PoraHarness::new(receipt.contract_address.unwrap(), chain.provider.clone())
}

/// The same bytes as the harness's type.
fn as_harness<A: SolValue, B: SolValue + From<<B::SolType as alloy::sol_types::SolType>::RustType>>(value: &A) -> B {
    B::abi_decode(&value.abi_encode()).unwrap()
}

#[tokio::test]
async fn vectors_hold_in_the_evm() {
    let vectors: Vectors = serde_json::from_str(include_str!("../../miner/vectors/pora.json")).unwrap();
    assert_eq!(vectors.cases.len(), 8);
    let chain = start(&small()).await;
    let contract = deploy_harness(&chain).await;

    for (number, case) in vectors.cases.iter().enumerate() {
        let mask = case.range.shard_mask.strip_prefix("0x").unwrap();
        let range = MineRange {
            startPosition: case.range.start_position.parse().unwrap(),
            mineLength: case.range.mining_length.parse().unwrap(),
            shardId: case.range.shard_id.parse().unwrap(),
            shardMask: u64::from_str_radix(mask, 16).unwrap(),
        };
        let digest = contract.rangeDigest(as_harness(&range)).call().await.unwrap();
        assert_eq!(digest, case.range_digest, "case {number}");

        // The twin first.
        let draw = draw(case.miner_id, case.nonce, case.subtask_digest, &range);
        assert_eq!(draw.seed[..], case.pad_seed[..], "case {number}");
        assert_eq!(keccak256(&draw.pad), case.scratch_pad_keccak, "case {number}");
        assert_eq!(draw.recall_seed, case.recall_seed, "case {number}");
        assert_eq!(draw.load.to_string(), case.recall_position, "case {number}");

        let prefix = case.raw_chunk_rule.split('"').nth(1).unwrap();
        let raw: Vec<u8> = (0..8192).flat_map(|word| keccak256(format!("{prefix}{word}")).0).collect();
        let seals: Vec<_> = (0..64)
            .map(|i| {
                let data = &raw[4096 * i as usize..][..4096];
                seal(data, case.miner_id, case.seal_context_digest, draw.load + 16 * i)
            })
            .collect();
        assert_eq!(keccak256(seals.concat().concat()), case.sealed_chunk_keccak, "case {number}");

        for s in [0, 1, 63] {
            let start = uint(draw.load + 16 * s);
            let (sealed, miner, context) = (seals[s as usize], case.miner_id, case.seal_context_digest);
            let data = contract.unseal(sealed, miner, context, start).call().await.unwrap();
            assert_eq!(data.concat(), raw[4096 * s as usize..][..4096], "case {number}, seal {s}");
            let root = contract.sealRoot(data).call().await.unwrap();
            assert_eq!(root, tree_root(&data.concat()), "case {number}, seal {s}");
        }

        // All seals of one case, each quarter of the pad in the others.
        let checked: Vec<u64> = if number == 0 { (0..64).collect() } else { vec![0, 1, 2, 3, 29, 46, 63] };
        for s in checked {
            let answer = PoraAnswer {
                contextDigest: B256::ZERO,
                nonce: case.nonce,
                minerId: case.miner_id,
                range: range.clone(),
                recallPosition: uint(draw.load + 16 * s),
                sealOffset: uint(s),
                sealedContextDigest: case.seal_context_digest,
                sealedData: seals[s as usize],
                merkleProof: vec![],
            };
            let expected = case.qualities[s as usize];
            assert_eq!(quality(&draw, s, &answer.sealedData), expected, "case {number}, seal {s}");
            let got = contract.pora(as_harness(&answer), case.subtask_digest).call().await.unwrap();
            assert_eq!(got, expected, "case {number}, seal {s}");
        }
    }
}

#[tokio::test]
async fn vectors_of_the_specification() {
    let chain = start(&small()).await;
    let contract = deploy_harness(&chain).await;
    let miner = keccak256("minerId");
    let data: Vec<u8> = (0..4096).map(|i| i as u8).collect();
    let sealed = seal(&data, miner, keccak256("44"), 3248);
    assert_eq!(sealed[0], b256!("c8a1a6f7e3720279ad1f9ddc73e68e7beec65ce04ee27fc0011c6529ce85365c"));
    assert_eq!(sealed[127], b256!("78d9d0f719821b82fde91fe764b610501bbdb78a4650ca4ca88ad12f7b60b3f1"));
    assert_eq!(keccak256(sealed.concat()), b256!("b269d1c2bd1d5276ef34ce34f1a1de20e4c101ed69655df653f7071a5040bb18"));
    let unsealed = contract.unseal(sealed, miner, keccak256("44"), uint(3248)).call().await.unwrap();
    assert_eq!(unsealed.concat(), data);

    let range = MineRange { startPosition: U256::ZERO, mineLength: uint(16_384), shardId: 0, shardMask: u64::MAX };
    let digest = contract.rangeDigest(as_harness(&range)).call().await.unwrap();
    assert_eq!(digest, b256!("0428b8d537318479957e9cfcb45d2c3913808f11bfc15ef366eda4cf589fa3c0"));
    let sharded = MineRange { shardId: 3, shardMask: u64::MAX - 7, ..range.clone() };
    let digest = contract.rangeDigest(as_harness(&sharded)).call().await.unwrap();
    assert_eq!(digest, b256!("db177891bc81af9ac0a017f559506ad93d6bdab07d1f860876ff7279c52312e3"));

    let answer = PoraAnswer {
        contextDigest: B256::ZERO,
        nonce: keccak256("nonce"),
        minerId: miner,
        range,
        recallPosition: uint(12_288 + 11 * 16),
        sealOffset: uint(11),
        sealedContextDigest: keccak256("44"),
        sealedData: sealed,
        merkleProof: vec![],
    };
    let hash = contract.pora(as_harness(&answer), keccak256("subtask")).call().await.unwrap();
    assert_eq!(hash, b256!("528aa39154f5e6568da275462c07cff795e92edf96f7a9f62429f79edb304e36"));

    let refused =
        async |answer: PoraAnswer| reason(contract.pora(as_harness(&answer), keccak256("subtask")).call().await);
    assert_eq!(refused(PoraAnswer { minerId: B256::ZERO, ..answer.clone() }).await, "Miner ID cannot be empty");
    let elsewhere = PoraAnswer { recallPosition: uint(12_288), ..answer.clone() };
    assert_eq!(refused(elsewhere).await, "Incorrect recall position");
    // A shard whose id lies beyond the range.
    let beyond = MineRange { shardId: 1 << 40, shardMask: u64::MAX - (1 << 40), ..answer.range.clone() };
    assert_eq!(refused(PoraAnswer { range: beyond, ..answer.clone() }).await, "Recall position out of bound");
    let sealing = contract.unseal(sealed, miner, B256::ZERO, uint(3248)).call().await;
    assert_eq!(reason(sealing), "Seal digest cannot be empty");

    for height in [0, 1, 10, 25, 63] {
        assert_eq!(contract.zeros(U256::from(height)).call().await.unwrap(), zeros(height), "height {height}");
    }
    assert_eq!(zeros(63), b256!("b48a92d40b61dc995ceecee4cded6415050dcece448b1e0b5e5b6a0e6981f3ef"));
    assert_eq!(reason(contract.zeros(uint(64)).call().await), "Index out of bound");
}

#[tokio::test]
async fn ranges_and_targets() {
    let chain = start(&small()).await;
    let contract = deploy_harness(&chain).await;
    let range = |start: u64, length: u64, id: u64, mask: u64| harness::MineRange {
        startPosition: uint(start),
        mineLength: uint(length),
        shardId: id,
        shardMask: mask,
    };
    let (chunk, tera8) = (SECTORS_PER_PRICING, 1u64 << 35);
    let whole = u64::MAX;
    let flow = tera8 + 3 * chunk + 1030;
    let good = [
        (range(0, 4096, 0, whole), 5000),
        (range(0, tera8, 0, whole), flow),
        (range(3 * chunk, tera8, 0, whole), flow),
        // Two shards: the range may be twice as long, so here it has to be all of the flow.
        (range(0, flow - 6, 1, whole - 1), flow),
        (range(0, 4096, 5, !5), 4096),
    ];
    for (number, (range, length)) in good.into_iter().enumerate() {
        assert!(contract.checkRange(range, uint(length)).call().await.is_ok(), "number {number}");
    }
    let bad = [
        (range(1024, 4096, 0, whole), 5000, "Start position is not aligned"),
        (range(0, 5120, 0, whole), 5000, "Mining range overflow"),
        (range(4 * chunk, tera8, 0, whole), flow, "Mining range overflow"),
        (range(0, tera8 + 1024, 0, whole), flow, "Mining range too long"),
        (range(0, tera8 - 1024, 0, whole), flow, "Mining range too short"),
        (range(0, 3072, 0, whole), 5000, "Mining range too short"),
        (range(0, tera8, 0, whole - 1), flow, "Mining range too short"),
        (range(0, 4096, 2, whole - 1), 5000, "Masked bits should be zero"),
    ];
    for (number, (range, length, text)) in bad.into_iter().enumerate() {
        assert_eq!(reason(contract.checkRange(range, uint(length)).call().await), text, "number {number}");
    }

    for (flow, mask, shards) in [(4096, whole, 1), (4097, whole - 3, 4), (flow, whole - 1, 2), (1 << 38, !5, 4)] {
        let target = U256::MAX / uint(1000);
        let got = contract.target(range(0, 0, 0, mask), target, uint(flow)).call().await.unwrap();
        assert_eq!(got, scaled(target, flow, shards), "{flow} sectors, {shards} shards");
    }
}

// Mining --------------------------------------------------------------------------------------------------------------

/// What a miner works with: its id, the context of the epoch, and the flow with the data of one file.
struct Miner {
    chain: Chain,
    id: B256,
    twin: FlowTwin,
    /// First sector and bytes of the one file that is not zero.
    file: (u64, Vec<u8>),
}

/// What to answer now.
struct Work {
    context: MineContext,
    target: U256,
    subtask: B256,
    range: MineRange,
    /// Digest that the seals of the flow are made with.
    sealed_context: B256,
}

/// A flow of two segments of data, behind 2048 zero sectors.
async fn miner(params: &DeployParams) -> Miner {
    let chain = start(params).await;
    let data: Vec<u8> = (0..2 * 8192u64).flat_map(|word| keccak256(word.to_be_bytes()).0).collect();
    let nodes = vec![node(11, tree_root(&data))];
    let mut twin = FlowTwin::new();
    let event = chain.upload(std::slice::from_ref(&nodes)).await.pop().unwrap();
    let start = twin.append(&nodes);
    assert_eq!(event.startPos, uint(start));
    twin.open(start, &data);

    let receipt = done(chain.mine().requestMinerId(chain.other, 7)).await;
    let event = events::<PoraMine::NewMinerId>(&receipt).pop().unwrap();
    assert_eq!(event.beneficiary, chain.other);
    let hash = chain.block_hash(receipt.block_number.unwrap() - 1).await;
    assert_eq!(event.minerId, keccak256([&hash[..], &chain.admin[..], &7u64.to_be_bytes()].concat()));
    Miner { chain, id: event.minerId, twin, file: (start, data) }
}

impl Miner {
    /// First block of the miner's window less one, in the epoch of the context.
    async fn window_start(&self, context: &MineContext) -> u64 {
        let mine = self.chain.mine();
        let draw = U256::from_be_bytes(keccak256((context.digest, self.id).abi_encode()).0);
        let index = draw % mine.nSubtasks().call().await.unwrap();
        (context.mineStart + index * mine.subtaskInterval().call().await.unwrap()).to()
    }

    /// Begins an epoch that nobody has mined in and goes to the opening of the miner's window.
    async fn next_epoch(&self) -> (MineContext, u64) {
        let flow = self.chain.flow();
        let blocks = flow.blocksPerEpoch().call().await.unwrap();
        let last = flow.makeContextWithResult().call().await.unwrap();
        let epoch = last.epoch + U256::ONE;
        let start: u64 = (flow.firstBlock().call().await.unwrap() + epoch * blocks).to();
        self.chain.advance_to(start + 1).await;
        let context = flow.makeContextWithResult().call().await.unwrap();
        assert_eq!(context.epoch, epoch);
        let window = self.window_start(&context).await;
        (context, window)
    }

    /// What the mine contract says there is to do.
    async fn work(&self) -> Work {
        let mine = self.chain.mine();
        let worker = mine.computeWorkerContext(self.id).from(WORKER_CONTEXT_CALLER).call().await.unwrap();
        let length = worker.context.flowLength / uint(1024) * uint(1024);
        let range = MineRange { startPosition: U256::ZERO, mineLength: length, shardId: 0, shardMask: u64::MAX };
        // All files came before the first epoch, so its digest seals every sector; there is none in epoch 0.
        let sealed = self.chain.flow().queryContextAtPosition(0).call().await;
        let sealed_context = sealed.map_or(B256::ZERO, |range| range.digest);
        let (context, target, subtask) = (worker.context, worker.poraTarget, worker.subtaskDigest);
        Work { context, target, subtask, range, sealed_context }
    }

    /// Opens the miner's window in the next epoch.
    async fn open_window(&self) -> Work {
        let (_, window) = self.next_epoch().await;
        self.chain.advance_to((window + 1).max(self.chain.block_number().await)).await;
        self.work().await
    }

    fn data(&self, start_sector: u64) -> Vec<u8> {
        let (file, data) = &self.file;
        let offset = start_sector.wrapping_sub(*file).wrapping_mul(256) as usize;
        match start_sector >= *file && offset < data.len() {
            true => data[offset..offset + 4096].to_vec(),
            false => vec![0; 4096],
        }
    }

    /// The seal at an offset from the recalled load, and its quality.
    fn ticket(&self, work: &Work, draw: &Draw, offset: u64) -> ([B256; 128], U256) {
        let position = draw.load + 16 * offset;
        let sealed = seal(&self.data(position), self.id, work.sealed_context, position);
        (sealed, U256::from_be_bytes(quality(draw, offset, &sealed).0))
    }

    /// The answer of a nonce with the seal at an offset from the recalled load, whatever its quality.
    fn answer(&self, work: &Work, nonce: B256, offset: u64) -> PoraAnswer {
        let draw = draw(self.id, nonce, work.subtask, &work.range);
        let position = draw.load + 16 * offset;
        PoraAnswer {
            contextDigest: work.context.digest,
            nonce,
            minerId: self.id,
            range: work.range.clone(),
            recallPosition: uint(position),
            sealOffset: uint(offset),
            sealedContextDigest: work.sealed_context,
            sealedData: self.ticket(work, &draw, offset).0,
            merkleProof: self.twin.siblings(position, 4),
        }
    }

    /// Tries nonces until `wanted` likes an answer; it is given the load, the offset, and whether the target is met.
    fn search(&self, work: &Work, salt: &str, wanted: impl Fn(u64, u64, bool) -> bool) -> PoraAnswer {
        let shards = 1 << work.range.shardMask.count_zeros();
        let target = scaled(work.target, work.context.flowLength.to(), shards);
        for i in 0..1000 {
            let nonce = keccak256(format!("{salt} {i}"));
            let draw = draw(self.id, nonce, work.subtask, &work.range);
            // Seal 0 of the flow holds the reserved sector and proves nothing.
            let mut offsets = (0..64).filter(|offset| draw.load + offset > 0);
            let found = offsets.find(|o| wanted(draw.load, *o, self.ticket(work, &draw, *o).1 <= target));
            if let Some(offset) = found {
                return self.answer(work, nonce, offset);
            }
        }
        panic!("no answer in 1000 nonces");
    }

    /// An answer that meets the target.
    fn find(&self, work: &Work, salt: &str) -> PoraAnswer {
        self.search(work, salt, |_, _, met| met)
    }

    /// Sends an answer that must be accepted.
    async fn accept(&self, answer: &PoraAnswer) -> TransactionReceipt {
        done(self.chain.mine().submit(answer.clone())).await
    }

    async fn refuse(&self, answer: PoraAnswer) -> String {
        reason(self.chain.mine().submit(answer).call().await)
    }
}

#[tokio::test]
async fn an_answer_is_accepted_and_every_change_to_it_refused() {
    let miner = miner(&small()).await;
    let mine = miner.chain.mine();
    assert_eq!(miner.twin.length, 4096);
    let work = miner.open_window().await;
    assert_eq!((work.target, work.range.mineLength), (U256::MAX / uint(40), uint(4096)));
    assert_eq!(work.context.flowRoot, miner.twin.root());

    // In the data of the file, and not in the last load, so that there is a load behind it.
    let good = miner.search(&work, "good", |load, offset, met| met && load == 2048 && offset > 0);
    assert!(mine.submit(good.clone()).call().await.is_ok());
    let change = |change: &dyn Fn(&mut PoraAnswer)| {
        let mut answer = good.clone();
        change(&mut answer);
        answer
    };

    let other_load = miner.search(&work, "other", |load, _, _| load != 2048).nonce;
    let missed = miner.search(&work, "missed", |load, _, met| load == 2048 && !met);
    // Seal 64 of the recalled load is seal 0 of the next one. It has data and a proof, but it was not drawn.
    let mut beyond = None;
    for i in 0..1000 {
        let nonce = keccak256(format!("beyond {i}"));
        let load = draw(miner.id, nonce, work.subtask, &work.range).load;
        if load == 2048 {
            beyond = Some(miner.answer(&work, nonce, 64));
            break;
        }
    }

    let table: Vec<(&str, PoraAnswer, &str)> = vec![
        ("no miner", change(&|a| a.minerId = B256::ZERO), "MinerId cannot be zero"),
        ("unknown miner", change(&|a| a.minerId = keccak256("nobody")), "MinerId does not registered"),
        ("other context", change(&|a| a.contextDigest = keccak256("x")), "Inconsistent mining digest"),
        ("start", change(&|a| a.range.startPosition = uint(1024)), "Start position is not aligned"),
        ("start in a chunk to come", change(&|a| a.range.startPosition = uint(1 << 25)), "Mining range overflow"),
        ("longer range", change(&|a| a.range.mineLength = uint(5120)), "Mining range overflow"),
        ("shorter range", change(&|a| a.range.mineLength = uint(3072)), "Mining range too short"),
        ("shard id", change(&|a| a.range.shardId = 1), "Masked bits should be zero"),
        ("seal's context", change(&|a| a.sealedContextDigest = keccak256("x")), "Invalid sealed context digest"),
        ("no seal context", change(&|a| a.sealedContextDigest = B256::ZERO), "Invalid sealed context digest"),
        ("place behind the flow", change(&|a| a.recallPosition = uint(4096)), "Invalid sealed context digest"),
        ("8 shards of 4", change(&|a| a.range.shardMask = !7), "Exceeding the allowed number of shards"),
        ("a bit of the seal", change(&|a| a.sealedData[77].0[31] ^= 1), "Inconsistent merkle root"),
        ("a bit of the proof", change(&|a| a.merkleProof[3].0[0] ^= 1), "Inconsistent merkle root"),
        ("shorter proof", change(&|a| a.merkleProof.truncate(7)), "Inconsistent merkle root"),
        ("longer proof", change(&|a| a.merkleProof.push(B256::ZERO)), "Inconsistent merkle root"),
        ("other place", change(&|a| a.recallPosition -= uint(16)), "Inconsistent merkle root"),
        ("place in mid-seal", change(&|a| a.recallPosition += U256::ONE), "Inconsistent merkle root"),
        ("nonce of another load", change(&|a| a.nonce = other_load), "Incorrect recall position"),
        ("other seal", change(&|a| a.sealOffset -= U256::ONE), "Incorrect recall position"),
        ("seal 64", beyond.expect("a nonce for load 2"), "Incorrect recall position"),
        ("poor hash", missed, "Do not reach target quality"),
    ];
    for (what, answer, text) in table {
        assert_eq!(miner.refuse(answer).await, text, "{what}");
    }

    let receipt = miner.accept(&good).await;
    println!("gas of an answer to a flow of 4096 sectors: {}", receipt.gas_used);
    let event = events::<PoraMine::NewSubmission>(&receipt).pop().unwrap();
    let topic = receipt.logs().last().unwrap().topics()[0];
    assert_eq!(topic, b256!("fedd8f58059af8fd54b4394c01ea8d07cac041988be3b5a822fb779f9c8de3a4"));
    assert_eq!((event.epoch, event.minerId), (work.context.epoch, miner.id));
    assert_eq!((event.epochIndex, event.recallPosition), (U256::ZERO, good.recallPosition));
    assert_eq!(mine.lastMinedEpoch().call().await.unwrap(), work.context.epoch);
    assert_eq!(mine.currentSubmissions().call().await.unwrap(), U256::ONE);
    // The pricing chunk is not full, so there is nothing to pay.
    assert_eq!(events::<Reward::DistributeReward>(&receipt).len(), 0);
    assert_eq!(miner.refuse(good.clone()).await, "Answer has been submitted");

    // A declared shard has to hash twice as well.
    let range = MineRange { shardMask: !1, ..work.range.clone() };
    let sharded = Work { range, ..miner.work().await };
    let answer = miner.find(&sharded, "sharded");
    assert!(mine.submit(answer).call().await.is_ok());

    // The epoch takes twice its target, whoever sends them.
    for i in 1..4 {
        let answer = miner.find(&work, &format!("more {i}"));
        assert!(mine.canSubmit().call().await.unwrap());
        let receipt = done(mine.submit(answer).from(miner.chain.other)).await;
        assert_eq!(events::<PoraMine::NewSubmission>(&receipt)[0].epochIndex, uint(i));
    }
    assert!(!mine.canSubmit().call().await.unwrap());
    let late = miner.find(&work, "late");
    assert_eq!(miner.refuse(late.clone()).await, "Epoch has enough submissions");
    let full = miner.work().await;
    assert_eq!((full.target, full.subtask), (U256::ZERO, work.subtask));

    // In the next epoch the old digest is of no use. Four answers instead of two make the target 0.975 of what it was.
    let next = miner.open_window().await;
    assert_eq!(miner.refuse(late).await, "Inconsistent mining digest");
    assert!(mine.canSubmit().call().await.unwrap());
    let t = (U256::MAX / uint(40)) >> 16;
    assert_eq!(next.target, ((t * uint(19) + t * uint(2) / uint(4)) / uint(20)) << 16);
    let answer = miner.find(&next, "next");
    miner.accept(&answer).await;
    assert_eq!(mine.poraTarget().call().await.unwrap(), next.target);
    assert_eq!(mine.currentSubmissions().call().await.unwrap(), U256::ONE);
}

#[tokio::test]
async fn answers_count_only_in_their_window() {
    // The window is longer than the 256 blocks that the EVM's own opcode looks back.
    let params = DeployParams {
        blocks_per_epoch: 900,
        target_mine_blocks: 400,
        subtask_interval: 450,
        initial_difficulty: U256::ONE,
        ..small()
    };
    let miner = miner(&params).await;
    let mine = miner.chain.mine();
    let (context, window) = loop {
        let (context, window) = miner.next_epoch().await;
        if window > context.mineStart.to() {
            break (context, window);
        }
    };
    let before = miner.work().await;
    assert_eq!((before.target, before.subtask), (U256::ZERO, B256::ZERO));
    assert_eq!(before.context, context);
    let unopened = Work { subtask: B256::ZERO, target: U256::MAX, ..before };
    let early = miner.find(&unopened, "early");
    miner.chain.advance_to(window).await;
    assert_eq!(miner.refuse(early).await, "Earlier than expected subtask start block.");

    miner.chain.advance_to(window + 1).await;
    let work = miner.work().await;
    let hash = miner.chain.block_hash(window).await;
    assert_eq!(work.target, U256::MAX);
    assert_eq!(work.subtask, keccak256((context.digest, hash).abi_encode()));
    let good = miner.find(&work, "good");
    assert!(mine.submit(good.clone()).call().await.is_ok());

    // It is good to the last block, and the digest of the subtask stays what it was.
    miner.chain.advance_to(window + 400).await;
    assert_eq!(miner.work().await.subtask, work.subtask);
    assert!(mine.submit(good.clone()).call().await.is_ok());
    miner.chain.advance_to(window + 401).await;
    assert_eq!(miner.refuse(good).await, "Mine deadline exceed");
    assert_eq!(miner.work().await.target, U256::ZERO);

    let worker = mine.computeWorkerContext(miner.id);
    assert_eq!(reason(worker.call().await), "Only authorized caller can compute worker context");
    let worker = mine.computeWorkerContext(B256::ZERO).from(WORKER_CONTEXT_CALLER);
    assert_eq!(reason(worker.call().await), "MinerId cannot be zero");
    let worker = mine.computeWorkerContext(keccak256("nobody")).from(WORKER_CONTEXT_CALLER);
    assert_eq!(reason(worker.call().await), "MinerId does not registered");
}

#[tokio::test]
async fn epoch_zero_cannot_be_mined() {
    let params = DeployParams { target_mine_blocks: 150, n_subtasks: 1, ..small() };
    let miner = miner(&params).await;
    let work = miner.work().await;
    assert_eq!((work.context.epoch, work.context.digest), (U256::ZERO, EMPTY_HASH));
    let answer = PoraAnswer {
        contextDigest: EMPTY_HASH,
        nonce: B256::ZERO,
        minerId: miner.id,
        range: work.range,
        recallPosition: U256::ZERO,
        sealOffset: U256::ZERO,
        sealedContextDigest: EMPTY_HASH,
        sealedData: [B256::ZERO; 128],
        merkleProof: vec![],
    };
    assert_eq!(miner.refuse(answer).await, "Empty digest can not mine");
}

#[tokio::test]
async fn answers_in_a_full_chunk_are_paid() {
    let params = DeployParams {
        price_per_sector: U256::from(10u64.pow(12)),
        release_seconds: 1_000_000,
        base_reward: U256::from(10u64.pow(15)),
        donation: U256::from(10u64.pow(18)),
        ..small()
    };
    let mut miner = miner(&params).await;
    // Zero subtrees complete the 8 GiB: 2^12, 2^13, … 2^24 sectors.
    let files: Vec<_> = (12..25).map(|height| vec![node(height, zeros(height))]).collect();
    for (event, file) in miner.chain.upload(&files).await.iter().zip(&files) {
        assert_eq!(event.startPos, uint(miner.twin.append(file)));
    }
    assert_eq!(miner.twin.length, SECTORS_PER_PRICING);
    let (reward, mine) = (miner.chain.reward(), miner.chain.mine());
    let before = reward.rewards(U256::ZERO).call().await.unwrap();
    assert!(!before.startTime.is_zero());

    let work = miner.open_window().await;
    let mut paid = U256::ZERO;
    // The first answer also makes the epoch, and opens the beneficiary's account.
    for (i, gas_limit) in [(0, 700_000), (1, 333_000)] {
        let answer = miner.find(&work, &format!("full {i}"));
        let old = reward.rewards(U256::ZERO).call().await.unwrap();
        let receipt = miner.accept(&answer).await;
        println!("gas of answer {i} to a flow of 2^25 sectors, paid: {}", receipt.gas_used);
        assert!(receipt.gas_used <= gas_limit, "{} gas, at most {gas_limit} expected", receipt.gas_used);
        let event = events::<Reward::DistributeReward>(&receipt).pop().unwrap();
        let topic = b256!("f099de0c527342bff1397d08daae31c3de66104f48886094fbe9126a21ebf4b0");
        assert_eq!(Reward::DistributeReward::SIGNATURE_HASH, topic);
        assert_eq!((event.beneficiary, event.minerId), (miner.chain.other, miner.id));

        let total = U256::from(old.lockedReward + old.claimableReward + old.distributedReward);
        let elapsed = miner.chain.now().await - old.startTime.to::<u64>();
        let released = total * uint(elapsed) / uint(1_000_000);
        let half = (released - U256::from(old.distributedReward)) / uint(2);
        assert_eq!(event.amount, half + U256::from(10u64.pow(15)), "answer {i}");
        paid += event.amount;
    }
    assert_eq!(reward.payments(miner.chain.other).call().await.unwrap(), paid);

    // The beneficiary may pass the id on.
    let heir = address!("9999999999999999999999999999999999999999");
    let theft = mine.transferBeneficial(heir, miner.id).call().await;
    assert_eq!(reason(theft), "Sender does not own minerId");
    let receipt = done(mine.transferBeneficial(heir, miner.id).from(miner.chain.other)).await;
    assert_eq!(events::<PoraMine::UpdateMinerId>(&receipt)[0].to, heir);
    assert_eq!(mine.beneficiaries(miner.id).call().await.unwrap(), heir);
    let answer = miner.find(&work, "heir");
    miner.accept(&answer).await;
    assert!(reward.payments(heir).call().await.unwrap() > U256::ZERO);
}

#[tokio::test]
async fn parameters_of_the_mine() {
    let miner = miner(&small()).await;
    let mine = miner.chain.mine();
    assert_eq!(mine.poraVersion().call().await.unwrap(), 1);
    assert_eq!(mine.computeWorkerContextCaller().call().await.unwrap(), WORKER_CONTEXT_CALLER);
    assert!(mine.sealDataEnabled().call().await.unwrap() && mine.dataProofEnabled().call().await.unwrap());
    assert!(!mine.fixedDifficulty().call().await.unwrap());
    assert_eq!((mine.flow().call().await.unwrap(), mine.reward().call().await.unwrap()), {
        (miner.chain.contracts.flow, miner.chain.contracts.reward)
    });

    assert_eq!(reason(mine.setTargetMineBlocks(uint(257)).call().await), "target mine block must <= 256");
    assert!(reason(mine.setMaxShards(3).from(miner.chain.other).call().await).starts_with("e2517d3f"));
    for call in [mine.setMaxShards(3).call().await, mine.setMaxShards(0).call().await] {
        assert_eq!(reason(call), "Max shards must be a power of two");
    }
    assert_eq!(reason(mine.setDifficultyAdjustRatio(U256::ZERO).call().await), "Adjust ratio must be positive");
    // (n − 1) · 70 + 60 + 1 < 200 holds up to n = 2; with n = 2 the interval may be 138.
    assert_eq!(reason(mine.setNumSubtasks(uint(3)).call().await), "Subtasks do not fit into an epoch");
    assert_eq!(reason(mine.setSubtaskInterval(uint(139)).call().await), "Subtasks do not fit into an epoch");
    assert_eq!(reason(mine.setNumSubtasks(U256::ZERO).call().await), "Number of subtasks must be positive");

    // Before the first answer they hold at once, afterwards from the next epoch on.
    done(mine.setSubtaskInterval(uint(138))).await;
    assert_eq!(mine.subtaskInterval().call().await.unwrap(), uint(138));
    done(mine.setSubtaskInterval(uint(70))).await;
    let work = miner.open_window().await;
    miner.accept(&miner.find(&work, "one")).await;
    done(mine.setTargetSubmissions(uint(5))).await;
    done(mine.setNumSubtasks(U256::ONE)).await;
    assert_eq!(mine.targetSubmissions().call().await.unwrap(), uint(2));
    assert_eq!(mine.targetSubmissionsNextEpoch().call().await.unwrap(), uint(5));
    assert_eq!(mine.nSubtasks().call().await.unwrap(), uint(2));
    assert_eq!(mine.nSubtasksNextEpoch().call().await.unwrap(), U256::ONE);

    let (context, _) = miner.next_epoch().await;
    miner.chain.advance_to((context.mineStart + uint(2)).to()).await;
    let work = miner.work().await;
    // One answer where two were aimed at: (19 t + 2 t) / 20.
    let t = (U256::MAX / uint(40)) >> 16;
    assert_eq!(work.target, ((t * uint(19) + t * uint(2)) / uint(20)) << 16);
    miner.accept(&miner.find(&work, "two")).await;
    assert_eq!(mine.targetSubmissions().call().await.unwrap(), uint(5));
    assert_eq!(mine.nSubtasks().call().await.unwrap(), U256::ONE);

    // A minimum difficulty binds at once and in every adjustment.
    done(mine.setMinDifficulty(uint(50))).await;
    assert_eq!(mine.poraTarget().call().await.unwrap(), U256::MAX / uint(50));
    let (context, _) = miner.next_epoch().await;
    miner.chain.advance_to((context.mineStart + uint(2)).to()).await;
    assert_eq!(miner.work().await.target, U256::MAX / uint(50));
}

#[tokio::test]
async fn test_settings_switch_checks_off() {
    // Raw data, no proof, and every hash is good.
    let miner = miner(&DeployParams { mine_settings: 7, ..small() }).await;
    let mine = miner.chain.mine();
    assert!(!mine.sealDataEnabled().call().await.unwrap() && !mine.dataProofEnabled().call().await.unwrap());
    assert!(mine.fixedDifficulty().call().await.unwrap());
    let work = miner.open_window().await;
    assert_eq!(work.target, U256::MAX);
    let mut answer = miner.answer(&work, keccak256("any"), 5);
    answer.sealedData = [keccak256("any data"); 128];
    answer.merkleProof.clear();
    miner.accept(&answer).await;
    miner.open_window().await;
    assert_eq!(miner.work().await.target, U256::MAX);
}
