//! Several whole nodes, each a process, on one chain: what clients hand in to one of them comes to all, whatever the chain
//! and the processes do meanwhile. ZGPU_LONG=1 kills more often and runs longer.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy::primitives::{U64, U256};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use support::{Chain, NodeProcess, PATIENCE, Setup, download, tree, until, upload};
use zgpu_core::H256;
use zgpu_node::{chain::contracts::DeployParams, devnet::fill::heights_to_chunk_end};

fn params() -> DeployParams {
    DeployParams { price_per_sector: U256::from(1000), ..DeployParams::default() }
}

fn is_long() -> bool {
    std::env::var_os("ZGPU_LONG").is_some_and(|value| value == "1")
}

/// A file of random bytes.
struct File {
    path: PathBuf,
    data: Vec<u8>,
    root: H256,
}

fn file(dir: &Path, name: &str, bytes: usize, random: &mut StdRng) -> File {
    let mut data = vec![0; bytes];
    random.fill_bytes(&mut data);
    let path = dir.join(name);
    fs::write(&path, &data).unwrap();
    let root = tree(&data).root();
    File { path, data, root }
}

/// Uploads a file, which has to work at once.
async fn store(chain: &Chain, node: &Setup, file: &File) {
    let (ok, text) = upload(chain, node, &file.path).await;
    assert!(ok, "{text}");
}

/// The node gives the file back, byte for byte, to a client that checks proofs.
async fn gives_back(node: &Setup, file: &File, dir: &Path) {
    let out = dir.join("again");
    let (ok, text) = download(node, file.root, &out).await;
    assert!(ok, "{text}");
    assert!(fs::read(&out).unwrap() == file.data, "{}: other bytes came back", file.path.display());
    fs::remove_file(&out).unwrap();
}

/// All nodes have the same flow.
async fn same_flow(nodes: &[&NodeProcess]) {
    let mut contexts = Vec::new();
    for node in nodes {
        contexts.push(node.call("zgs_getFlowContext", json!([])).await);
    }
    assert!(contexts.windows(2).all(|pair| pair[0] == pair[1]), "{contexts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_keep_one_log_through_reorganisations_and_a_late_joiner_gets_it_all() {
    let mut random = StdRng::seed_from_u64(1);
    let files = tempfile::tempdir().unwrap();
    let chain = Chain::start(&params()).await;
    let first_at = Setup::new(&chain, &[], "", "");
    let second_at = Setup::new(&chain, &[first_at.peer_port], "", "");
    let (first, second) = (first_at.start().await, second_at.start().await);

    let sizes = [700, 256 * 1024 + 1, 3 << 20, 1];
    let mut stored = Vec::new();
    for (index, bytes) in sizes.into_iter().enumerate() {
        let file = file(files.path(), &format!("{index}"), bytes, &mut random);
        store(&chain, &first_at, &file).await;
        stored.push(file);
    }
    second.until_finalised("the second node gets everything from the first", 4).await;

    // Two files come in, then the chain forgets them, and takes them in another order behind a third.
    let point = chain.ask("evm_snapshot", json!([])).await;
    let [early, late, other] = ["early", "late", "other"].map(|name| file(files.path(), name, 300_000, &mut random));
    store(&chain, &first_at, &early).await;
    store(&chain, &second_at, &late).await;
    first.until_finalised("the first node gets what the second was given", 6).await;
    second.until_finalised("the second node gets what the first was given", 6).await;
    assert_eq!(chain.ask("evm_revert", json!([point])).await, json!(true));
    for file in [&other, &late, &early] {
        chain.submit(&file.data).await;
    }
    for (node, at) in [(&first, "first"), (&second, "second")] {
        node.until_status("the reorganisation is seen", |status| status["sync"]["reorgs"].as_u64() > Some(0)).await;
        node.until_status("the new log is read", |status| status["store"]["transactions"] == 7).await;
        // Nobody hands these two in again.
        for seq in [5, 6] {
            let done = async || node.call("zgs_checkFileFinalized", json!([seq])).await == json!(true);
            until(|| format!("the {at} node keeps reverted data {seq}: {}", node.said()), done).await;
        }
        assert_eq!(node.call("zgs_checkFileFinalized", json!([4])).await, json!(false), "nobody has handed it in");
    }
    // The third file was paid for and is handed in now, without another payment.
    store(&chain, &second_at, &other).await;
    stored.extend([other, late, early]);
    first.until_finalised("all of the new log", 7).await;
    second.until_finalised("all of the new log", 7).await;
    same_flow(&[&first, &second]).await;

    // The late joiner reads the chain over a WebSocket.
    let joiner_at = Setup::new(&chain, &[second_at.peer_port], "", "")
        .with("ZGPU_NODE__BLOCKCHAIN_RPC_ENDPOINT", &chain.anvil.ws_endpoint());
    let joiner = joiner_at.start().await;
    joiner.until_finalised("a late joiner gets everything from a peer", 7).await;
    assert!(joiner.said().contains("new blocks are announced"), "{}", joiner.said());
    same_flow(&[&first, &joiner]).await;
    for file in &stored {
        gives_back(&joiner_at, file, files.path()).await;
    }
    for node in [first, second, joiner] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_killed_at_random_moments_lose_nothing() {
    let mut random = StdRng::seed_from_u64(rand::rng().random());
    let files = tempfile::tempdir().unwrap();
    let chain = Chain::start(&params()).await;
    let first_at = Setup::new(&chain, &[], "", "");
    let second_at = Setup::new(&chain, &[first_at.peer_port], "", "");
    let setups = [&first_at, &second_at];
    let mut nodes = [Some(first_at.start().await), Some(second_at.start().await)];

    let rounds = if is_long() { 40 } else { 6 };
    let mut stored = Vec::new();
    for round in 0..rounds {
        let bytes = random.random_range(1..2 << 20);
        let file = file(files.path(), &round.to_string(), bytes, &mut random);
        let moment = Duration::from_millis(random.random_range(0..1500));
        let which = round % 2;
        let victim = nodes[which].take().unwrap();
        let ((mut ok, mut text), again) = tokio::join!(upload(&chain, &first_at, &file.path), async {
            tokio::time::sleep(moment).await;
            let (status, said) = victim.end_with("-KILL").await;
            assert!(!status.success() && !said.contains("panicked"), "{said}");
            setups[which].start().await
        });
        nodes[which] = Some(again);
        // What was interrupted goes on when it is run again.
        let started = Instant::now();
        while !ok {
            assert!(started.elapsed() < PATIENCE, "round {round}, killed after {moment:?}: {text}");
            (ok, text) = upload(&chain, &first_at, &file.path).await;
        }
        stored.push(file);
    }

    let [first, second] = nodes.map(Option::unwrap);
    // One transaction a file: an interrupted upload does not pay again.
    first.until_status("the log", |status| status["store"]["transactions"] == stored.len()).await;
    first.until_finalised("everything that was acknowledged is there", stored.len() as u64).await;
    second.until_finalised("the other node gets it all", stored.len() as u64).await;
    same_flow(&[&first, &second]).await;
    for file in &stored {
        gives_back(&first_at, file, files.path()).await;
        gives_back(&second_at, file, files.path()).await;
    }
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_mines_what_came_from_a_client_of_another_node() {
    const BLOCKS_PER_EPOCH: u64 = 200;
    const TOKEN: u128 = 1_000_000_000_000_000_000;
    let mut random = StdRng::seed_from_u64(3);
    let files = tempfile::tempdir().unwrap();
    let chain = Chain::start(&DeployParams {
        blocks_per_epoch: BLOCKS_PER_EPOCH,
        target_mine_blocks: BLOCKS_PER_EPOCH - 10,
        target_submissions: 1000,
        n_subtasks: 1,
        subtask_interval: 1,
        // Every ticket wins: few of the chunk's loads are held.
        initial_difficulty: U256::from(1),
        base_reward: U256::from(TOKEN),
        donation: U256::from(100 * TOKEN),
        ..params()
    })
    .await;
    let server_at = Setup::new(&chain, &[], "", "");
    let miner_at = Setup::new(&chain, &[server_at.peer_port], "backend = 'cpu'\nmine_context_query_seconds = 1", "")
        .with("ZGPU_MINER_KEY", &chain.secret(3));
    let (server, miner) = (server_at.start().await, miner_at.start().await);

    // The flow's first load has the reserved sector, so the file comes behind it; zeros complete the pricing chunk.
    chain.submit_zeros(&[10]).await;
    let data = file(files.path(), "data", 2 << 20, &mut random);
    store(&chain, &server_at, &data).await;
    miner.until_finalised("the miner gets the file from its peer", 2).await;
    let length = chain.client.flow_state().await.unwrap().length;
    chain.submit_zeros(&heights_to_chunk_end(length)).await;
    chain.ask("anvil_mine", json!([U64::from(BLOCKS_PER_EPOCH + 2)])).await;
    let accepted = |status: &Value| status["mining"]["answers"]["accepted"].as_u64();
    miner.until_status("answers are accepted", |status| accepted(status) >= Some(2)).await;
    assert_eq!(accepted(&server.status().await), None, "the other one has no key");
    miner.stop().await;
    server.stop().await;
}

/// Files come in without end, peers follow, and neither memory nor the backlog grows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_while_files_come_in() {
    let mut random = StdRng::seed_from_u64(4);
    let files = tempfile::tempdir().unwrap();
    let chain = Chain::start(&params()).await;
    let first_at = Setup::new(&chain, &[], "", "");
    let second_at = Setup::new(&chain, &[first_at.peer_port], "", "");
    let (first, second) = (first_at.start().await, second_at.start().await);
    let (rounds, bytes) = if is_long() { (100, 32 << 20) } else { (4, 16 << 20) };
    for round in 0..rounds {
        let file = file(files.path(), "soak", bytes, &mut random);
        store(&chain, &first_at, &file).await;
        second.until_finalised("the peer follows", round + 1).await;
        for node in [&first, &second] {
            let status = node.status().await;
            let resident = status["process"]["resident_bytes"].as_u64().unwrap();
            // The database's own limits are 64 MiB of cache and 128 MiB of writes.
            assert!(resident < 1 << 30, "round {round}: {resident} bytes resident, {status:#}");
        }
    }
    first.stop().await;
    second.stop().await;
}
