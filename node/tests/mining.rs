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
        flow_log::PageSize,
        keys::Key,
        miner_id::request_miner_id,
        rpc::{Rpc, RpcOptions},
        submit::SubmitOptions,
        tx::{TxManager, TxPolicy},
        upload::{FileSubmission, submit_file, submit_files, zero_submission},
        watch::WatchOptions,
    },
    devnet::fill::heights_to_chunk_end,
    duties::mining::{Mining, MiningConfig, MiningPhase, MiningStatus},
    rpc::MinerCommand,
    store::{Store, StoreError, Transaction},
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
    RpcOptions { timeout: Duration::from_secs(30), ..RpcOptions::default() }
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
        let options = ChainOptions { url: anvil.endpoint(), chain_id: None, flow, mine, rpc: rpc_options() };
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

    /// Submits a file of so many bytes, and has the store know it and its data.
    async fn add_file(&self, store: &Store, bytes: usize, seed: u64) {
        let data = random_bytes(bytes, seed);
        let tree = FileTree::read(FileShape::new(bytes as u64).unwrap(), &data[..], |_| ()).unwrap();
        let record = submit_file(&self.chain, &self.txs(1), &FileSubmission::of(&tree)).await.unwrap();
        self.sync(store).await;
        for (index, segment) in (0..).zip(data.chunks(BYTES_PER_LOAD)) {
            store.put_segment(record.seq, index, segment, &tree.proof(index).unwrap()).unwrap();
        }
        store.finalise(record.seq).unwrap();
    }

    /// Zeros up to the end of the pricing chunk, so that answers in it are paid.
    async fn fill_chunk(&self, store: &Store) {
        let length = self.chain.flow_state().await.unwrap().length;
        let zeros: Vec<_> =
            heights_to_chunk_end(length).into_iter().map(|height| zero_submission(height).unwrap()).collect();
        submit_files(&self.chain, &self.txs(1), &zeros).await.unwrap();
        self.sync(store).await;
    }

    /// Has the store know the chain's submissions.
    async fn sync(&self, store: &Store) {
        let head = self.chain.block_number().await.unwrap();
        let (mut next, mut page) = (self.contracts.start_block, PageSize::default());
        while next <= head {
            let log = self.chain.submissions(next, head, &mut page).await.unwrap();
            for record in log.transactions {
                let seq = record.seq;
                let transaction = Transaction {
                    seq,
                    data_root: record.data_root,
                    start: record.start,
                    size_bytes: record.size,
                    nodes: record.nodes,
                };
                match store.append(&transaction) {
                    Err(StoreError::Conflict { .. }) => {
                        store.truncate(seq).unwrap();
                        store.append(&transaction).unwrap();
                    }
                    appended => appended.unwrap(),
                }
            }
            next = log.next_block;
        }
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
    mining.stop().await;
}
