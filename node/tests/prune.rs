//! The pruner: a store within its budget, and expired pricing chunks of a real chain.

#[path = "support/sample.rs"]
mod sample;

use std::{path::Path, time::Duration};

use alloy::{
    node_bindings::Anvil,
    primitives::{U64, U256},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
};
use serde_json::{Value, json};
use zgpu_core::{
    file::SubmissionNode,
    shard::Shard,
    tree::zero_root,
    units::{BYTES_PER_LOAD, SECTORS_PER_LOAD},
};
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{DeployParams, deploy},
        keys::Key,
        rpc::{Rpc, RpcOptions},
        tx::{TxManager, TxPolicy},
        upload::{submit_file, zero_submission},
    },
    duties::prune::{PruneSettings, PruneState, PruneStatus, Pruner},
    store::{Settings, Store},
};

use sample::{Sample, append};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;

fn open(dir: &Path) -> Store {
    Store::open_with(dir, Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() })
        .unwrap()
}

/// Appends a file of random bytes and stores it.
fn add(store: &Store, size: usize, seed: u64) -> u64 {
    Sample::new(size, seed).add(store)
}

fn often(max_sectors: u64) -> PruneSettings {
    let (check_every, pause) = (Duration::from_millis(30), Duration::from_millis(1));
    PruneSettings { check_every, pause, batch_loads: 3, ..PruneSettings::new(max_sectors) }
}

async fn until(pruner: &Pruner, what: &str, is_so: impl Fn(&PruneStatus) -> bool) -> PruneStatus {
    let mut status = pruner.status();
    let found = tokio::time::timeout(Duration::from_secs(60), status.wait_for(|status| is_so(status))).await;
    found.unwrap_or_else(|_| panic!("never: {what}; {:?}", pruner.status().borrow())).unwrap().clone()
}

/// Segments of a file that are there.
fn held(store: &Store, seq: u64, segments: u64) -> Vec<u64> {
    (0..segments).filter(|index| store.read_segment(seq, *index).unwrap().is_some()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_gives_up_half_of_its_shard() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let pruner = Pruner::start(store.clone(), None, often(16 * PER_LOAD));
    let mut shards = pruner.shard();
    until(&pruner, "it has looked", |status| status.state == PruneState::Idle).await;
    assert_eq!(*shards.borrow_and_update(), Shard::WHOLE);
    let first = add(&store, 14 * BYTES_PER_LOAD, 1);
    let status = until(&pruner, "the file is counted", |status| status.used_loads == 14).await;
    assert_eq!((status.splits, status.max_loads), (0, 16));
    // The one more that reaches nine tenths lies on an odd load, so the odd half is the fuller one.
    let load = store.flow_length().div_ceil(PER_LOAD);
    let filler = if load.is_multiple_of(2) { vec![SubmissionNode { root: zero_root(10), height: 10 }] } else { vec![] };
    if !filler.is_empty() {
        append(&store, BYTES_PER_LOAD as u64, filler);
    }
    let second = add(&store, 700, 2);
    assert_eq!(store.transaction(second).unwrap().unwrap().start / PER_LOAD % 2, 1);
    tokio::time::timeout(Duration::from_secs(60), shards.changed()).await.unwrap().unwrap();
    assert_eq!(*shards.borrow(), Shard::new(1, 2).unwrap());
    let status = until(&pruner, "half is deleted", |status| status.used_loads == 8).await;
    assert_eq!((status.shard, status.splits, status.deleted_loads), (Shard::new(1, 2).unwrap(), 1, 7));
    assert_eq!(status.last_error, None);
    assert_eq!(held(&store, first, 14), [1, 3, 5, 7, 9, 11, 13]);
    assert_eq!(held(&store, second, 1), [0]);
    assert!(store.is_finalised(first).unwrap());
    pruner.stop().await;

    // It was stopped by a kill in the middle: what is left is deleted at the next start.
    store.set_shard(Shard::new(3, 4).unwrap()).unwrap();
    assert!(store.drop_outside_shard(1).unwrap() == 1 && store.has_leftovers());
    drop(store);
    let store = open(dir.path());
    let pruner = Pruner::start(store.clone(), None, often(1 << 30));
    until(&pruner, "the rest is deleted", |status| status.state == PruneState::Idle && status.used_loads > 0).await;
    assert!(!store.has_leftovers());
    let start = store.transaction(first).unwrap().unwrap().start / PER_LOAD;
    let kept: Vec<u64> = (0..14).filter(|index| (start + index) % 4 == 3).collect();
    assert_eq!(held(&store, first, 14), kept);
    drop(pruner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_pricing_chunks_are_deleted() {
    let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
    let params = DeployParams { price_per_sector: U256::from(1000), release_seconds: 100, ..DeployParams::default() };
    let contracts = deploy(&provider, anvil.addresses()[0], &params).await.unwrap();
    let rpc = Rpc::new(&anvil.endpoint(), RpcOptions::default()).unwrap();
    let options = ChainOptions {
        urls: vec![anvil.endpoint()],
        chain_id: None,
        flow: contracts.flow,
        mine: contracts.mine,
        rpc: RpcOptions::default(),
    };
    let chain = ChainClient::connect(&options).await.unwrap();
    let key = Key::from(PrivateKeySigner::from(anvil.keys()[1].clone()));
    let txs = TxManager::new(rpc.clone(), anvil.chain_id(), key, TxPolicy::default());
    let ask = async |method: &'static str, params: Value| rpc.call::<_, Value>(method, "", params).await.unwrap();
    let mine = async |seconds: u64| {
        ask("evm_increaseTime", json!([U64::from(seconds)])).await;
        ask("anvil_mine", json!([U64::from(1)])).await;
    };

    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let early = add(&store, 3 * BYTES_PER_LOAD, 1);
    append(&store, 8 << 30, vec![SubmissionNode { root: zero_root(25), height: 25 }]);
    let late = add(&store, 3 * BYTES_PER_LOAD, 2);
    let pruner = Pruner::start(store.clone(), Some(chain.clone()), often(1 << 40));
    until(&pruner, "it has looked", |status| status.state == PruneState::Idle).await;
    assert_eq!((store.used_loads().unwrap(), store.pruned_below()), (6, 0));

    // Two pricing chunks become full, and their fees are released 100 s later.
    let chunk = submit_file(&chain, &txs, &zero_submission(25).unwrap()).await.unwrap();
    assert_eq!(chunk.start, 1 << 25);
    assert_eq!(chain.first_rewardable_chunk().await.unwrap().index, 0);
    mine(101).await;
    assert_eq!(chain.first_rewardable_chunk().await.unwrap().index, 2);
    let status = until(&pruner, "they are pruned", |status| status.deleted_loads == 3).await;
    assert_eq!((status.pruned_below, status.splits), (2 << 25, 0));
    assert!(store.is_pruned(early).unwrap() && !store.is_pruned(late).unwrap());
    assert_eq!((held(&store, early, 3), held(&store, late, 3)), (vec![], vec![0, 1, 2]));

    // A clock that is far ahead is not believed.
    submit_file(&chain, &txs, &zero_submission(25).unwrap()).await.unwrap();
    mine(5000).await;
    assert_eq!(chain.first_rewardable_chunk().await.unwrap().index, 3);
    let status = until(&pruner, "it says why it waits", |status| status.last_error.is_some()).await;
    assert!(status.last_error.unwrap().contains("check this machine's clock"));
    assert_eq!(store.pruned_below(), 2 << 25);
    pruner.stop().await;
}
