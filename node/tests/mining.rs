//! Sealing and mining as a duty, against a real EVM (anvil) with our contracts, on the CPU engine: data that comes in
//! while the node runs, commands, restarts, reorganisations, rewards that do not pay, and what goes wrong.
//!
//! Blocks come with transactions and when a test asks for them, so epochs change only when a test says so.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, U64, U256},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use zgpu_core::{
    H256,
    device::{DeviceError, DeviceInfo},
    file::{FileShape, FileTree},
    shard::Shard,
    units::{BYTES_PER_LOAD, SECTORS_PER_LOAD},
    work::DrawJob,
};
use zgpu_miner::{
    Engine, Hit, LoadSource, MineCounters, MineError, Puzzle,
    cpu::{CpuDevice, Level},
    engine::{EngineOptions, Probe, engine_on},
};
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{DeployParams, Deployment, Reward, deploy},
        keys::Key,
        miner_id::request_miner_id,
        rpc::{Rpc, RpcOptions},
        submit::SubmitOptions,
        tx::{TxManager, TxPolicy},
        upload::{FileSubmission, submit_batch, submit_file, submit_files, zero_submission},
        watch::WatchOptions,
    },
    devnet::fill::heights_to_chunk_end,
    duties::{
        mining::{Mining, MiningConfig, MiningPhase, MiningStatus},
        sync::{LogSync, SyncOptions},
    },
    rpc::MinerCommand,
    store::{LogPosition, Store, StoreError},
};

const TICK: Duration = Duration::from_millis(50);
/// Tests share two cores with others: nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(120);
const BLOCKS_PER_EPOCH: u64 = 200;
const ETHER: u128 = 1_000_000_000_000_000_000;

/// A chain of its own with contracts on it.
struct Net {
    anvil: AnvilInstance,
    contracts: Deployment,
    rpc: Rpc,
    chain: ChainClient,
}

fn params() -> DeployParams {
    DeployParams {
        blocks_per_epoch: BLOCKS_PER_EPOCH,
        target_mine_blocks: BLOCKS_PER_EPOCH - 10,
        target_submissions: 2,
        n_subtasks: 1,
        subtask_interval: 1,
        // A hit in some 50 nonces, where all loads are held.
        initial_difficulty: U256::from(50 * 64),
        price_per_sector: U256::from(1000),
        ..DeployParams::default()
    }
}

fn rpc_options() -> RpcOptions {
    RpcOptions { timeout: Duration::from_secs(30), requests_per_second: None, ..RpcOptions::default() }
}

fn policy() -> TxPolicy {
    TxPolicy { poll: TICK, resend_after: TICK, deadline: PATIENCE, ..TxPolicy::default() }
}

impl Net {
    async fn start(params: &DeployParams) -> Net {
        let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let contracts = deploy(&provider, anvil.addresses()[0], params).await.unwrap();
        let rpc = Rpc::new(&anvil.endpoint(), rpc_options()).unwrap();
        let Deployment { flow, mine, .. } = contracts;
        let options = ChainOptions { urls: vec![anvil.endpoint()], chain_id: None, flow, mine, rpc: rpc_options() };
        let chain = ChainClient::connect(&options).await.unwrap();
        Net { anvil, contracts, rpc, chain }
    }

    fn key(&self, index: usize) -> Key {
        Key::from(PrivateKeySigner::from(self.anvil.keys()[index].clone()))
    }

    fn txs(&self, index: usize) -> TxManager {
        TxManager::new(self.rpc.clone(), self.anvil.chain_id(), self.key(index), policy())
    }

    async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.rpc.call(method, "", params).await.unwrap()
    }

    async fn mine_blocks(&self, count: u64) {
        self.ask("anvil_mine", json!([U64::from(count)])).await;
    }

    /// To the first block in which answers of the next epoch count.
    async fn next_epoch(&self) {
        let flow = self.chain.flow_state().await.unwrap();
        let block = self.chain.block_number().await.unwrap();
        let epoch = (block - flow.first_block) / flow.blocks_per_epoch;
        self.mine_blocks(flow.epoch_block(epoch + 1) + 2 - block).await;
    }

    async fn set_balance(&self, account: Address, wei: u128) {
        self.ask("anvil_setBalance", json!([account, U256::from(wei)])).await;
    }

    /// Follows the log into a store.
    fn follow(&self, store: &Store) -> LogSync {
        let options = SyncOptions {
            start_block: self.contracts.start_block,
            confirmations: 0,
            poll: TICK,
            ..SyncOptions::default()
        };
        LogSync::start(self.chain.clone(), store.clone(), options)
    }

    /// Submits a file of so many bytes; returns it with its number, once the store knows it.
    async fn submit(&self, store: &Store, bytes: usize, seed: u64) -> (u64, FileTree, Vec<u8>) {
        let (tree, data) = file(bytes, seed);
        let record = submit_file(&self.chain, &self.txs(1), &FileSubmission::of(&tree)).await.unwrap();
        self.wait_for_log(store, record.seq, tree.root()).await;
        (record.seq, tree, data)
    }

    /// As [`Net::submit`], with its data.
    async fn add_file(&self, store: &Store, bytes: usize, seed: u64) {
        let (seq, tree, data) = self.submit(store, bytes, seed).await;
        for (index, segment) in (0..).zip(data.chunks(BYTES_PER_LOAD)) {
            store.put_segment(seq, index, segment, &tree.proof(index).unwrap()).unwrap();
        }
        store.finalise(seq).unwrap();
    }

    /// Zeros up to the end of the pricing chunk, so that answers in it are paid.
    async fn fill_chunk(&self, store: &Store) {
        let length = self.chain.flow_state().await.unwrap().length;
        let zeros: Vec<_> =
            heights_to_chunk_end(length).into_iter().map(|height| zero_submission(height).unwrap()).collect();
        let records = submit_files(&self.chain, &self.txs(1), &zeros).await.unwrap();
        let last = records.last().unwrap();
        self.wait_for_log(store, last.seq, last.data_root).await;
    }

    /// Waits until the store has this transaction.
    async fn wait_for_log(&self, store: &Store, seq: u64, data_root: H256) {
        let mut log = store.watch_log();
        let is_read = |_: &LogPosition| store.transaction(seq).unwrap().is_some_and(|tx| tx.data_root == data_root);
        tokio::time::timeout(PATIENCE, log.wait_for(is_read)).await.expect("the log is read").unwrap();
    }

    fn mine(&self, store: &Store, key: Key, config: MiningConfig) -> Mining {
        self.mine_on(store, engine(), key, config)
    }

    fn mine_on(&self, store: &Store, engine: Box<dyn Engine>, key: Key, config: MiningConfig) -> Mining {
        Mining::start(self.chain.clone(), store.clone(), engine, key, config, watch::channel(true).1)
    }
}

/// Quick looks, and answers whatever they earn: most flows here are too short to earn anything.
fn config() -> MiningConfig {
    MiningConfig {
        min_profit: None,
        tx: policy(),
        submit: SubmitOptions { retry_after: TICK, ..SubmitOptions::default() },
        watch: WatchOptions { poll: TICK, ..WatchOptions::default() },
        reopen: Arc::new(|_| Ok(engine())),
        ..MiningConfig::default()
    }
}

fn random_bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn file(bytes: usize, seed: u64) -> (FileTree, Vec<u8>) {
    let data = random_bytes(bytes, seed);
    (FileTree::read(FileShape::new(bytes as u64).unwrap(), &data[..], |_| ()).unwrap(), data)
}

fn open(dir: &Path) -> Store {
    Store::open(dir).unwrap()
}

/// One thread, so that tests beside each other get on.
fn engine() -> Box<dyn Engine> {
    let device = CpuDevice::with_threads(Level::Portable, 1).unwrap();
    engine_on(device, EngineOptions { memory_bytes: Some(32 << 20) }).unwrap()
}

/// Waits for a status.
async fn until(mining: &Mining, what: &str, is: impl FnMut(&MiningStatus) -> bool) -> MiningStatus {
    let mut status = mining.status();
    match tokio::time::timeout(PATIENCE, status.wait_for(is)).await {
        Ok(found) => found.expect("mining runs").clone(),
        Err(_) => panic!("waiting for {what}: {:#?}", mining.status().borrow()),
    }
}

fn waits_for(status: &MiningStatus, words: &str) -> bool {
    matches!(&status.phase, MiningPhase::Waiting { reason } if reason.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_seals_and_mines_what_comes_in_while_it_runs() {
    let net = Net::start(&params()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sync = net.follow(&store);
    let (caught_up, is_caught_up) = watch::channel(false);
    let mining = Mining::start(net.chain.clone(), store.clone(), engine(), net.key(2), config(), is_caught_up);
    until(&mining, "the log", |status| waits_for(status, "not read to its end")).await;
    caught_up.send_replace(true);
    // No epoch can be mined yet; a miner id is there, and it is written down.
    let status = until(&mining, "a context", |status| waits_for(status, "epoch 0 cannot be mined")).await;
    let miner_id = status.miner_id.unwrap();
    assert_eq!(net.chain.beneficiary(miner_id).await.unwrap(), Some(net.key(2).address()));
    assert_eq!(store.note("mining.miner_id").unwrap(), Some(miner_id.0.to_vec()));

    // The first file: three loads and a part of a fourth. The gap before it is known as well, without sector 0.
    net.add_file(&store, 3 * BYTES_PER_LOAD + 40_000, 1).await;
    net.next_epoch().await;
    let status = until(&mining, "a full epoch", |status| status.answers.accepted == 4).await;
    assert_eq!((status.answers.reverted, status.answers.failed), (0, 0), "{status:#?}");
    let status = until(&mining, "the epoch to be full", |status| {
        waits_for(status, "epoch 1 is full: 4 of 4 answers") && status.loads_left == 0
    })
    .await;
    let flow = store.flow_length();
    assert_eq!(status.seals_held, flow / 16 - 1, "all but seal 0: {status:#?}");
    assert_eq!(status.sealed_bytes, (flow / 16 - 1) * 4096);
    assert!(status.counts.hits >= 4 && status.counts.nonces > 0 && status.mining_seconds > 0.0);

    // A second one, in the next epoch; before that no epoch has seen it.
    net.add_file(&store, 2 * BYTES_PER_LOAD, 2).await;
    assert_eq!(mining.status().borrow().seals_held, flow / 16 - 1);
    net.next_epoch().await;
    let status = until(&mining, "both files to be mined", |status| {
        status.answers.accepted >= 5 && status.seals_held == store.flow_length() / 16 - 1
    })
    .await;
    assert_eq!(status.epoch, Some(2));
    assert_eq!(status.loads_held, store.flow_length().div_ceil(SECTORS_PER_LOAD as u64));
    until(&mining, "the second epoch to be full", |status| status.answers.accepted == 8).await;

    // Stopped, it seals and does not mine; started, it goes on.
    mining.commands().send(MinerCommand::Stop).await.unwrap();
    until(&mining, "the stop", |status| status.phase == MiningPhase::Stopped).await;
    net.add_file(&store, BYTES_PER_LOAD, 3).await;
    net.next_epoch().await;
    let status = until(&mining, "the third file to be sealed", |status| {
        status.epoch == Some(3) && status.seals_held == store.flow_length() / 16 - 1
    })
    .await;
    assert_eq!((status.answers.accepted, status.phase), (8, MiningPhase::Stopped));
    mining.commands().send(MinerCommand::Start).await.unwrap();
    let status = until(&mining, "answers of the third epoch", |status| status.answers.accepted == 12).await;
    assert_eq!((status.unprovable, status.answers.rejected), (0, 0), "{status:#?}");

    // A log that is not read as far as the epoch goes: hits wait for it.
    sync.stop().await;
    let late = file(BYTES_PER_LOAD, 4).0;
    submit_file(&net.chain, &net.txs(1), &FileSubmission::of(&late)).await.unwrap();
    net.next_epoch().await;
    let is_behind = |status: &MiningStatus| {
        status.trouble.as_ref().is_some_and(|trouble| trouble.contains("the log is read up to sector"))
    };
    assert_eq!(until(&mining, "the log to be behind", is_behind).await.answers.accepted, 12);
    let _sync = net.follow(&store);
    until(&mining, "answers of the fourth epoch", |status| status.answers.accepted == 16 && status.trouble.is_none())
        .await;
    mining.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_flow_is_mined_where_the_operator_says_and_as_the_stores_shard() {
    let net = Net::start(&params()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.set_shard(Shard::new(1, 2).unwrap()).unwrap();
    let _sync = net.follow(&store);
    let mining = net.mine(&store, net.key(2), MiningConfig { loads: 0..16, ..config() });
    net.add_file(&store, 6 * BYTES_PER_LOAD, 1).await;
    net.next_epoch().await;
    // Short: no shard is declared, although half of it is held.
    let status = until(&mining, "a full epoch", |status| status.answers.accepted == 4).await;
    assert_eq!((status.declared_shard, status.loads_held), (Shard::WHOLE, store.flow_length() / 1024 / 2));

    // A little more than 8 TiB: the store's shard is declared, whose range covers all of it.
    const LENGTH: u64 = 34 << 30;
    let zeros = vec![zero_submission(30).unwrap(); 33];
    for some in zeros.chunks(8) {
        let uploaded = submit_batch(&net.chain, &net.txs(1), some).await.unwrap();
        let last = uploaded.transactions.last().unwrap();
        net.wait_for_log(&store, last.seq, last.data_root).await;
    }
    assert_eq!(store.flow_length(), LENGTH);
    net.next_epoch().await;
    let range = |status: &MiningStatus| (status.range_start, status.loads_in_range);
    let status = until(&mining, "the long range", |status| range(status) == (0, LENGTH / 1024)).await;
    assert_eq!(status.declared_shard, store.shard());
    mining.stop().await;

    // With nothing declared a range covers 8 TiB, and the operator says where.
    let config = MiningConfig { loads: 0..16, shard: Some(Shard::WHOLE), ..config() };
    let mining = net.mine(&store, net.key(2), config);
    until(&mining, "the first range", |status| range(status) == (0, 1 << 25) && status.loads_held == 8).await;
    mining.commands().send(MinerCommand::SetStartPosition((1 << 30) + 12_345)).await.unwrap();
    until(&mining, "the other range", |status| range(status) == (1 << 30, 1 << 25)).await;
    until(&mining, "the reason", |status| waits_for(status, "none of the 8 loads held lies in the mining range")).await;
    mining.stop().await;
}

/// Mines blocks, as long as something is waited for that needs them.
async fn with_blocks<T>(net: &Net, waiting: impl Future<Output = T>) -> T {
    let mining = async {
        loop {
            net.mine_blocks(1).await;
            tokio::time::sleep(TICK * 4).await;
        }
    };
    tokio::select! {
        done = waiting => done,
        () = mining => unreachable!("blocks are mined until the other is done"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seals_follow_a_chain_that_is_reorganised() {
    let net = Net::start(&params()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sync = net.follow(&store);
    let mining = net.mine(&store, net.key(2), MiningConfig { sync: Some(sync.status()), ..config() });
    until(&mining, "a miner id", |status| status.miner_id.is_some()).await;
    net.add_file(&store, 2 * BYTES_PER_LOAD, 1).await;
    let fork = net.ask("evm_snapshot", json!([])).await;

    // One branch: a second file, an epoch, answers.
    net.add_file(&store, 3 * BYTES_PER_LOAD, 2).await;
    net.next_epoch().await;
    let sealed_all = |status: &MiningStatus| status.seals_held == store.flow_length() / 16 - 1;
    let status = until(&mining, "answers", |status| status.answers.accepted == 4 && sealed_all(status)).await;
    let old_contexts = store.seal_contexts().unwrap();
    assert!(!old_contexts.is_empty());

    // The other: the chain goes back behind the second file, and has another one and other blocks instead. The contexts
    // of all seals are gone, those of data that is still in the flow too.
    assert_eq!(net.ask("evm_revert", json!([fork])).await, json!(true));
    net.ask("evm_increaseTime", json!([1000])).await;
    let third = submit_file(&net.chain, &net.txs(1), &FileSubmission::of(&file(BYTES_PER_LOAD, 3).0)).await.unwrap();
    net.next_epoch().await;
    // A chain that is shorter than what was read says nothing yet; it grows.
    with_blocks(&net, net.wait_for_log(&store, third.seq, third.data_root)).await;
    let accepted = status.answers.accepted;
    let again = until(&mining, "answers after the reorganisation", |status| {
        status.answers.accepted > accepted
            && store.seal_contexts().unwrap().iter().all(|digest| !old_contexts.contains(digest))
    });
    let status = with_blocks(&net, again).await;
    // All but seal 0, and the third file, whose data nobody has handed in.
    let missing = SECTORS_PER_LOAD as u64;
    let status = match status.seals_held == (store.flow_length() - missing) / 16 - 1 {
        true => status,
        false => {
            until(&mining, "the rest", |status| status.seals_held == (store.flow_length() - missing) / 16 - 1).await
        }
    };
    assert_eq!(status.answers.reverted, 0, "{status:#?}");
    mining.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_what_is_left_is_sealed_and_mined() {
    // The epoch takes so many answers that mining does not end by itself.
    let net = Net::start(&DeployParams { target_submissions: 1000, ..params() }).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let sync = net.follow(&store);
    net.add_file(&store, 2 * BYTES_PER_LOAD, 1).await;
    net.next_epoch().await;
    let mining = net.mine(&store, net.key(2), config());
    let status = until(&mining, "answers", |status| {
        status.answers.accepted >= 2 && matches!(status.phase, MiningPhase::Mining { .. })
    })
    .await;
    let miner_id = status.miner_id.unwrap();
    tokio::time::timeout(Duration::from_secs(30), mining.stop()).await.expect("it stops in the middle of a batch");

    // Meanwhile a second file comes, and one segment of a third.
    net.add_file(&store, BYTES_PER_LOAD + 5000, 2).await;
    let (seq, tree, data) = net.submit(&store, 2 * BYTES_PER_LOAD, 3).await;
    store.put_segment(seq, 1, &data[BYTES_PER_LOAD..], &tree.proof(1).unwrap()).unwrap();
    sync.stop().await;
    drop(store);
    let store = reopen(dir.path()).await;
    let _sync = net.follow(&store);
    net.next_epoch().await;

    // The id is the one from before, and none is registered.
    let mining = net.mine(&store, net.key(2), MiningConfig { may_register: false, ..config() });
    let known = store.flow_length() - SECTORS_PER_LOAD as u64;
    let status = until(&mining, "the rest to be sealed, and answers", |status| {
        status.seals_held == known / 16 - 1 && status.answers.accepted >= 2
    })
    .await;
    assert_eq!(status.miner_id, Some(miner_id));
    mining.stop().await;
}

/// Opens a store again. Tasks that end with others let go of it a moment later.
async fn reopen(dir: &Path) -> Store {
    let started = Instant::now();
    loop {
        match Store::open(dir) {
            Err(StoreError::InUse { .. }) if started.elapsed() < PATIENCE => tokio::time::sleep(TICK).await,
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_do_not_pay_are_not_sent_until_they_do() {
    let params = DeployParams {
        initial_difficulty: U256::from(1),
        target_submissions: 3,
        donation: U256::from(100 * ETHER),
        ..params()
    };
    let net = Net::start(&params).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let _sync = net.follow(&store);
    let config = MiningConfig { min_profit: Some(U256::from(ETHER / 2)), loads: 0..16, ..config() };
    let mining = net.mine(&store, net.key(2), config);
    net.add_file(&store, 4 * BYTES_PER_LOAD, 1).await;
    net.next_epoch().await;
    // A pricing chunk that is not full pays nothing.
    let status = until(&mining, "the reason", |status| waits_for(status, "earns 0 wei and costs")).await;
    assert!(waits_for(&status, "nothing that is held pays"), "{status:#?}");
    assert_eq!(status.answers.submitted, 0, "{status:#?}");
    assert!(status.unprofitable > 0, "{status:#?}");

    // Full, and with a base reward, it pays.
    net.fill_chunk(&store).await;
    let call = Reward::setBaseRewardCall { baseReward: U256::from(ETHER) }.abi_encode();
    let tx = json!([{ "from": net.anvil.addresses()[0], "to": net.contracts.reward, "input": alloy::hex::encode_prefixed(call) }]);
    net.ask("eth_sendTransaction", tx).await;
    net.next_epoch().await;
    let status = until(&mining, "a full epoch", |status| status.answers.accepted == 6).await;
    assert!(status.answers.reward >= U256::from(6 * ETHER), "{status:#?}");
    assert!(status.answers.gas_cost > U256::ZERO, "{status:#?}");
    assert_eq!(status.loads_held, 16, "no more than it may");
    let reward = status.answers.reward;
    until(&mining, "what can be withdrawn", |status| status.claimable == reward).await;
    mining.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miner_id_that_is_not_ours_is_refused_with_a_reason() {
    let net = Net::start(&params()).await;
    let refused = async |words: &str, store: &Store, config: MiningConfig| {
        let mining = net.mine(store, net.key(2), config);
        let status = until(&mining, words, |status| matches!(status.phase, MiningPhase::Failed { .. })).await;
        assert!(status.phase.to_string().contains(words), "{}", status.phase);
        mining.stop().await;
    };
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let with = |miner_id| MiningConfig { miner_id, may_register: false, ..config() };
    refused("no miner id is configured", &store, with(None)).await;
    let unknown = H256([7; 32]);
    refused("is not registered with the mine contract", &store, with(Some(unknown))).await;
    let txs = net.txs(1);
    let theirs = request_miner_id(&net.chain, &txs, txs.address(), 0).await.unwrap();
    refused("mining with it would earn for others", &store, with(Some(theirs))).await;
    // Paid to somebody else on purpose.
    let beneficiary = Some(txs.address());
    let mining = net.mine(&store, net.key(2), MiningConfig { beneficiary, ..with(Some(theirs)) });
    until(&mining, "the chain", |status| status.miner_id == Some(theirs)).await;
    mining.stop().await;
    // From now on the folder is for that one.
    let ours = request_miner_id(&net.chain, &net.txs(2), net.key(2).address(), 0).await.unwrap();
    let words = format!("miner id {ours} is configured, and the data in this folder is sealed for {theirs}");
    refused(&words, &store, with(Some(ours))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_money_for_gas_it_says_so_and_goes_on_when_there_is_some() {
    let net = Net::start(&params()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let _sync = net.follow(&store);
    let key = Key::from(PrivateKeySigner::random());
    let account = key.address();
    let mining = net.mine(&store, key, config());
    let status = until(&mining, "the reason", |status| waits_for(status, "too little money")).await;
    assert!(waits_for(&status, &account.to_string()), "{}", status.phase);
    net.set_balance(account, ETHER).await;
    until(&mining, "a miner id", |status| status.miner_id.is_some()).await;

    net.set_balance(account, 0).await;
    net.add_file(&store, 2 * BYTES_PER_LOAD, 1).await;
    net.next_epoch().await;
    let is_poor = |status: &MiningStatus| {
        status
            .trouble
            .as_ref()
            .is_some_and(|trouble| trouble.contains("too little money") && trouble.contains("send it"))
    };
    let status = until(&mining, "the trouble", is_poor).await;
    assert_eq!(status.answers.accepted, 0);
    net.set_balance(account, ETHER).await;
    let status = until(&mining, "answers", |status| status.answers.accepted == 4).await;
    assert_eq!(status.trouble, None);
    mining.stop().await;
}

/// A real engine that is lost the first time that it is to mine.
struct Fragile(Box<dyn Engine>);

impl Engine for Fragile {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        self.0.seal(first_masks, data)
    }

    fn probe(&mut self, job: &DrawJob, load: &[u8], available: u64, target: &[u8; 32]) -> Result<Probe, DeviceError> {
        self.0.probe(job, load, available, target)
    }

    fn mine(
        &mut self,
        _: &Puzzle,
        _: &dyn LoadSource,
        _: &(dyn Fn() -> bool + Sync),
        _: &mut (dyn FnMut(Hit) + Send),
        _: &MineCounters,
    ) -> Result<(), MineError> {
        Err(DeviceError::Lost { device: self.0.info().name.clone(), reason: "it fell off the bus".into() }.into())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_fails_is_opened_again() {
    let net = Net::start(&params()).await;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let _sync = net.follow(&store);
    net.add_file(&store, 2 * BYTES_PER_LOAD, 1).await;
    net.next_epoch().await;
    let opened = Arc::new(AtomicU32::new(0));
    let opening = opened.clone();
    // The first try comes too early for it.
    let reopen = Arc::new(move |info: &DeviceInfo| match opening.fetch_add(1, Ordering::SeqCst) {
        0 => Err(DeviceError::Lost { device: info.name.clone(), reason: "it is not back yet".into() }),
        _ => Ok(engine()),
    });
    let config = MiningConfig { reopen, ..config() };
    let mining = net.mine_on(&store, Box::new(Fragile(engine())), net.key(2), config);
    until(&mining, "the failure", |status| waits_for(status, "it fell off the bus")).await;
    until(&mining, "the second failure", |status| waits_for(status, "it is not back yet")).await;
    let status = until(&mining, "answers", |status| status.answers.accepted == 4).await;
    assert_eq!((status.device_restarts, opened.load(Ordering::SeqCst)), (1, 2));
    mining.stop().await;
}
