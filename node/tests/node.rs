//! The node as a process: what it answers, what it says of itself, and how it ends, with anvil as the chain.

mod support;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::{U64, U256},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use support::{NodeProcess, PATIENCE, kill, until};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};
use zgpu_core::file::{FileShape, FileTree};
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{DeployParams, Deployment, deploy},
        keys::Key,
        rpc::RpcOptions,
        tx::{TxManager, TxPolicy},
        upload::{FileSubmission, submit_files, zero_submission},
    },
    config::{Config, Sources},
    devnet::fill::heights_to_chunk_end,
    node::Node,
};

/// A chain with the contracts.
struct Chain {
    anvil: AnvilInstance,
    contracts: Deployment,
}

impl Chain {
    async fn start() -> Chain {
        Chain::start_with(&DeployParams { price_per_sector: U256::from(1000), ..DeployParams::default() }).await
    }

    async fn start_with(params: &DeployParams) -> Chain {
        let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let contracts = deploy(&provider, anvil.addresses()[0], params).await.unwrap();
        Chain { anvil, contracts }
    }

    async fn client(&self) -> ChainClient {
        let rpc = RpcOptions { timeout: Duration::from_secs(20), ..RpcOptions::default() };
        let (flow, mine) = (self.contracts.flow, self.contracts.mine);
        let options = ChainOptions { urls: vec![self.anvil.endpoint()], chain_id: None, flow, mine, rpc };
        ChainClient::connect(&options).await.unwrap()
    }

    /// Submits files, as a client does.
    async fn submit_all(&self, files: &[FileSubmission]) {
        let chain = self.client().await;
        let key = Key::from(PrivateKeySigner::from(self.anvil.keys()[1].clone()));
        let account = TxManager::new(chain.rpc().clone(), chain.chain_id(), key, TxPolicy::default());
        submit_files(&chain, &account, files).await.unwrap();
    }

    async fn submit(&self, tree: &FileTree) {
        self.submit_all(&[FileSubmission::of(tree)]).await;
    }

    /// Makes blocks up to the first one in which answers of the next epoch count.
    async fn next_epoch(&self) {
        let chain = self.client().await;
        let flow = chain.flow_state().await.unwrap();
        let block = chain.block_number().await.unwrap();
        let epoch = (block - flow.first_block) / flow.blocks_per_epoch;
        let blocks = U64::from(flow.epoch_block(epoch + 1) + 2 - block);
        let _: Value = chain.rpc().call("anvil_mine", "", json!([blocks])).await.unwrap();
    }

    /// Stops or continues the chain's process.
    fn signal(&self, signal: &str) {
        kill(self.anvil.child().id(), signal);
    }
}

/// A folder with a node's configuration and its data.
struct Setup {
    dir: TempDir,
    config: PathBuf,
}

impl Setup {
    fn new(endpoint: &str, contracts: &Deployment, more: &str) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "blockchain_rpc_endpoint = '{endpoint}'\nlog_contract_address = '{}'\nlog_sync_start_block_number = {}\n\
             confirmation_block_count = 0\nwatch_loop_wait_time_ms = 100\nblockchain_rpc_timeout_secs = 2\n\
             db_dir = '{db}'\nnetwork_dir = '{network}'\ndb_reserve_bytes = 1048576\nlog_config_file = ''\n\
             network_listen_address = '127.0.0.1'\nnetwork_libp2p_port = 0\nnetwork_disable_discovery = true\n\
             {more}\n\
             [rpc]\nlisten_address = '127.0.0.1:0'\nlisten_address_admin = '127.0.0.1:0'\nlisten_address_grpc = '127.0.0.1:0'\n\
             [metrics]\nlisten = '127.0.0.1:0'\nstatus_line_interval = '1s'\n",
            contracts.flow,
            contracts.start_block,
            db = dir.path().join("db").display(),
            network = dir.path().join("network").display(),
        );
        let config = dir.path().join("zgpu.toml");
        fs::write(&config, text).unwrap();
        Setup { dir, config }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
        command.arg("node").arg("--config").arg(&self.config);
        command.current_dir(self.dir.path()).env_remove("ZGPU_MINER_KEY").env_remove("ZGPU_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn command_with(&self, arguments: &[&str]) -> Command {
        let mut command = self.command();
        command.args(arguments);
        command
    }

    /// Starts the node and waits until it says where it can be reached.
    async fn start(&self) -> NodeProcess {
        NodeProcess::start(self.command()).await
    }

    /// Runs a node that does not start: its exit code and what it says.
    async fn refused(&self) -> (Option<i32>, String) {
        let output = tokio::time::timeout(PATIENCE, self.command().output()).await.expect("it ends").unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

/// A small file, and its only segment as clients send it.
fn sample() -> (FileTree, Value) {
    let (tree, mut segments) = file(800);
    (tree, segments.remove(0))
}

/// A file of so many bytes, and its segments as clients send them.
fn file(bytes: usize) -> (FileTree, Vec<Value>) {
    let data: Vec<u8> = b"the node keeps what it has acknowledged".iter().copied().cycle().take(bytes).collect();
    let tree = FileTree::read(FileShape::new(bytes as u64).unwrap(), &data[..], |_| ()).unwrap();
    let segment = |(index, segment): (u64, &[u8])| {
        let mut padded = segment.to_vec();
        padded.resize(segment.len().next_multiple_of(256), 0);
        let proof = tree.proof(index).unwrap();
        json!({
            "root": tree.root(), "data": STANDARD.encode(padded), "index": index,
            "proof": {"lemma": proof.lemma, "path": proof.path}, "fileSize": bytes,
        })
    };
    let segments = (0..).zip(data.chunks(256 << 10)).map(segment).collect();
    (tree, segments)
}

/// The value of a metric without labels.
fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_tells_of_itself_and_survives_kills() {
    let chain = Chain::start().await;
    let setup = Setup::new(&chain.anvil.endpoint(), &chain.contracts, "");
    let node = setup.start().await;
    let status = node.until_status("it is healthy", |status| status["healthy"] == true).await;
    assert_eq!(status["chain"]["chain_id"], 31337);
    // The flow contract leads to the others.
    assert_eq!(status["chain"]["mine"], chain.contracts.mine.to_string());
    for part in ["store", "chain", "log sync", "rpc", "status"] {
        assert_eq!(status["parts"][part]["state"], "running", "{part}: {status:#}");
    }
    assert!(status["not_earning_because"].as_str().unwrap().contains("miner_key_file"), "{status:#}");
    assert_eq!(node.get("/health").await, (200, r#"{"healthy":true,"reasons":[]}"#.to_owned()));

    // A file, from its submission to its end.
    let (tree, segment) = sample();
    chain.submit(&tree).await;
    node.until_status("the transaction is there", |status| status["store"]["transactions"] == 1).await;
    assert_eq!(node.call("zgs_uploadSegment", json!([segment])).await, Value::Null);
    until(
        || "it is finalised".to_owned(),
        async || node.call("zgs_checkFileFinalized", json!([0])).await == json!(true),
    )
    .await;
    let answer = node.call("zgs_getStatus", json!([])).await;
    assert_eq!((&answer["nextTxSeq"], &answer["networkIdentity"]["chainId"]), (&json!(1), &json!(31337)));
    let flow = chain.contracts.flow.to_string().to_lowercase();
    assert_eq!(answer["networkIdentity"]["flowAddress"], json!(flow));
    assert!(answer["logSyncHeight"].as_u64() > Some(0), "{answer}");

    let (code, text) = node.get("/metrics").await;
    assert_eq!(code, 200);
    for (name, least) in [
        ("zgpu_node_healthy", 1.0),
        ("zgpu_node_transactions", 1.0),
        ("zgpu_node_caught_up", 1.0),
        ("zgpu_node_resident_bytes", 1e6),
    ] {
        assert!(metric(&text, name) >= Some(least), "{name}: {text}");
    }
    for line in [
        r#"zgpu_node_rpc_calls_total{method="zgs_uploadSegment",outcome="Answered"} 1"#,
        r#"zgpu_node_part_up{part="log sync"} 1"#,
        "zgpu_node_rpc_time_seconds_bucket",
        "zgpu_node_chain_requests_total",
        "# EOF",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    until(|| format!("a status line: {}", node.said()), async || node.said().contains("synced to block ")).await;
    assert!(node.said().contains("1 file, 0 peers; not earning: "), "{}", node.said());

    // Nobody else gets the folder.
    let (code, text) = setup.refused().await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is in use by another process; stop that process or choose another folder"), "{text}");

    // What was acknowledged is there after a kill.
    let (status, _) = node.end_with("-KILL").await;
    assert!(!status.success());
    let node = setup.start().await;
    assert_eq!(node.call("zgs_checkFileFinalized", json!([0])).await, json!(true));
    assert_eq!(node.call("zgs_getStatus", json!([])).await["nextTxSeq"], 1);
    node.until_status("it is healthy again", |status| status["healthy"] == true).await;

    let (status, said) = node.end_with("-TERM").await;
    assert!(status.success() && said.contains("SIGTERM") && said.contains("the node has ended"), "{status} {said}");
    assert!(!said.contains("cut off"), "every part ends within its time: {said}");

    let node = setup.start().await;
    assert_eq!(node.call("admin_shutdown", json!([])).await, Value::Null);
    let (status, said) = node.ended().await;
    assert!(status.success() && said.contains("admin_shutdown"), "{status} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_that_goes_away_and_comes_back_is_survived_and_seen() {
    let chain = Chain::start().await;
    let setup = Setup::new(&chain.anvil.endpoint(), &chain.contracts, "");
    let node = setup.start().await;
    node.until_status("it is healthy", |status| status["healthy"] == true).await;
    chain.signal("-STOP");
    let status = node.until_status("the chain is missed", |status| status["healthy"] == false).await;
    assert_eq!(node.get("/health").await.0, 503);
    let reasons = &status["unhealthy_because"];
    assert!(reasons[0].as_str().unwrap().starts_with("the log sync waits: "), "{reasons}");
    assert_eq!(status["not_earning_because"], reasons[0]);
    // Clients are served all the same.
    assert_eq!(node.call("zgs_getShardConfig", json!([])).await["numShard"], 1);
    chain.signal("-CONT");
    node.until_status("it is healthy again", |status| status["healthy"] == true).await;
    let (tree, _) = sample();
    chain.submit(&tree).await;
    node.until_status("new transactions are seen", |status| status["store"]["transactions"] == 1).await;
    let (status, said) = node.end_with("-INT").await;
    assert!(status.success(), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_knows_its_chain_serves_before_that_answers() {
    let chain = Chain::start().await;
    chain.signal("-STOP");
    let more = "chain_id = 31337\nlog_format = 'json'";
    let setup = Setup::new(&chain.anvil.endpoint(), &chain.contracts, more);
    let node = setup.start().await;
    let status = node.status().await;
    assert_eq!((&status["healthy"], &status["chain"]), (&json!(false), &Value::Null));
    assert!(status["unhealthy_because"][0].as_str().unwrap().starts_with("the chain is not reached yet"), "{status:#}");
    assert_eq!(node.call("zgs_getStatus", json!([])).await["networkIdentity"]["chainId"], 31337);
    chain.signal("-CONT");
    node.until_status("it is healthy", |status| status["healthy"] == true).await;
    let said = node.said();
    for line in said.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(line["level"].is_string() && line["message"].is_string(), "{line}");
    }
    let (status, said) = node.end_with("-TERM").await;
    assert!(status.success(), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_for_its_chain_can_be_ended() {
    let chain = Chain::start().await;
    chain.signal("-STOP");
    let setup = Setup::new(&chain.anvil.endpoint(), &chain.contracts, "");
    let mut node = setup.command_with(&["--log-format", "text"]).env("ZGPU_LOG", "zgpu_node=info").spawn().unwrap();
    let mut lines = BufReader::new(node.stderr.take().unwrap()).lines();
    // Only the chain can say which one it is, so nobody is served before it answers; the status line goes on.
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("starting, 0 files; not earning: the node is starting"), "{line}");
    kill(node.id().unwrap(), "-TERM");
    let status = tokio::time::timeout(PATIENCE, node.wait()).await.expect("it ends").unwrap();
    let mut said = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        said.push_str(&line);
    }
    assert!(status.success() && said.contains("SIGTERM: the node had not started yet"), "{status} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_work_is_said_and_ends_the_node() {
    let chain = Chain::start().await;
    let (endpoint, contracts) = (chain.anvil.endpoint(), &chain.contracts);
    let reward = "reward_contract_address = '0x00000000000000000000000000000000000000ff'";
    for (more, words) in [
        ("chain_id = 5", "chain 31337 answers"),
        (reward, "expected 0x00000000000000000000000000000000000000"),
        ("mine_contract_address = '0x00000000000000000000000000000000000000ff'", "there is no contract at"),
        ("miner_key_file = '/nowhere/key'", "the miner's key cannot be loaded: there is no key file at /nowhere/key"),
        ("device = 'gpu'", "`zgpu devices`"),
        ("unheard_of = 1", "there is no key \"unheard_of\""),
    ] {
        let (code, text) = Setup::new(&endpoint, contracts, more).refused().await;
        assert_eq!(code, Some(1), "{more}: {text}");
        assert!(text.contains(words), "{more}: {words:?} is missing in: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
    // An address that is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for key in ["metrics.listen", "rpc.listen_address"] {
        let setup = Setup::new(&endpoint, contracts, "");
        let mut command = setup.command_with(&["--set", &format!("{key}={address}")]);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(&format!("cannot listen at {address}")), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_on_the_command_line_is_refused_without_being_shown() {
    let secret = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
    let by_set = format!("--set=miner_key={secret}");
    for arguments in [&["--miner-key", secret][..], &["--miner-key"], &[&by_set]] {
        let output = Command::new(env!("CARGO_BIN_EXE_zgpu")).arg("node").args(arguments).output().await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("miner_key_file") && text.contains("ZGPU_MINER_KEY") && !text.contains(secret), "{text}");
    }
    let print = ["node", "--network", "mainnet", "--print-config"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
    let output = command.args(print).env("ZGPU_NODE__MINER_KEY", secret).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("# miner_key = \"***\"") && !text.contains(secret), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_gets_the_files_of_another() {
    let chain = Chain::start().await;
    let (endpoint, contracts) = (chain.anvil.endpoint(), &chain.contracts);
    let keeping = "[router]\nprivate_ip_enabled = true\n";
    let first_setup = Setup::new(&endpoint, contracts, keeping);
    let first = first_setup.start().await;
    let (tree, segment) = sample();
    chain.submit(&tree).await;
    first.until_status("the transaction is there", |status| status["store"]["transactions"] == 1).await;
    assert_eq!(first.call("zgs_uploadSegment", json!([segment])).await, Value::Null);

    let fetching = format!(
        "network_libp2p_nodes = ['{}']\n{keeping}[sync]\nauto_sync_enabled = true\nauto_sync_idle_interval = '100ms'\n",
        first.peers
    );
    let setup = Setup::new(&endpoint, contracts, &fetching);
    let second = setup.start().await;
    until(
        || format!("it has the file: {}", second.said()),
        async || second.call("zgs_checkFileFinalized", json!([0])).await == json!(true),
    )
    .await;
    let answer = second.call("zgs_downloadSegmentWithProofByTxSeq", json!([0, 0])).await;
    assert_eq!((&answer["data"], &answer["root"]), (&segment["data"], &json!(tree.root())));
    second.until_status("it counts its peer", |status| status["peers"]["connected"] == 1).await;
    let tells_where = |status: &Value| {
        status["peers"]["announced_at"].as_str().is_some_and(|address| address.starts_with("/ip4/127.0.0.1/tcp/"))
    };
    second.until_status("it says where it tells others to reach it", tells_where).await;
    assert_eq!(second.call("zgs_getStatus", json!([])).await["connectedPeers"], 1);
    assert_eq!(metric(&second.get("/metrics").await.1, "zgpu_node_peers"), Some(1.0));
    for node in [second, first] {
        let (status, said) = node.end_with("-TERM").await;
        assert!(status.success() && !said.contains("cut off"), "{status} {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_key_seals_mines_and_earns() {
    let ether = U256::from(10).pow(U256::from(18));
    let params = DeployParams {
        blocks_per_epoch: 200,
        target_mine_blocks: 190,
        target_submissions: 1000,
        n_subtasks: 1,
        subtask_interval: 1,
        // Every ticket wins: few of the chunk's loads are held.
        initial_difficulty: U256::from(1),
        price_per_sector: U256::from(1000),
        base_reward: ether,
        donation: ether * U256::from(100),
        ..DeployParams::default()
    };
    let chain = Chain::start_with(&params).await;
    let setup =
        Setup::new(&chain.anvil.endpoint(), &chain.contracts, "backend = 'cpu'\nmine_context_query_seconds = 1");
    let mut command = setup.command();
    let key = PrivateKeySigner::from(chain.anvil.keys()[3].clone()).to_bytes().to_string();
    command.env("ZGPU_MINER_KEY", &key);
    let node = NodeProcess::start(command).await;

    // The flow's first load has the reserved sector, so the file comes behind it; zeros complete the pricing chunk.
    let (tree, segments) = file(16 * (256 << 10));
    chain.submit_all(&[zero_submission(10).unwrap(), FileSubmission::of(&tree)]).await;
    let length = chain.client().await.flow_state().await.unwrap().length;
    let zeros: Vec<_> =
        heights_to_chunk_end(length).into_iter().map(|height| zero_submission(height).unwrap()).collect();
    chain.submit_all(&zeros).await;
    let count = 2 + zeros.len() as u64;
    node.until_status("the flow is read", |status| status["store"]["transactions"] == count).await;
    for segment in &segments {
        assert_eq!(node.call("zgs_uploadSegment", json!([segment])).await, Value::Null);
    }
    chain.next_epoch().await;
    let status = node.until_status("it earns", |status| status["not_earning_because"] == Value::Null).await;
    assert_eq!(
        (&status["healthy"], &status["parts"]["mining"]["state"]),
        (&json!(true), &json!("running")),
        "{status:#}"
    );
    assert!(status["mining"]["answers"]["accepted"].as_u64() > Some(0), "{status:#}");
    let accepted = async || {
        let text = node.get("/metrics").await.1;
        metric(&text, "zgpu_node_answers_total{outcome=\"accepted\"}") >= Some(1.0)
            && metric(&text, "zgpu_node_nonces_total") >= Some(1.0)
            && metric(&text, "zgpu_node_sealed_bytes_total") >= Some(4e6)
    };
    until(|| "the metrics say so".to_owned(), accepted).await;
    until(|| node.said(), async || node.said().contains(" accepted")).await;

    assert_eq!(node.call("miner_stop", json!([])).await, json!(true));
    let stopped = |status: &Value| status["not_earning_because"] == "the operator stopped mining; miner_start goes on";
    node.until_status("mining has stopped", stopped).await;
    let said = node.said();
    assert!(!said.contains(&key[2..]), "the key is never shown");
    let (status, said) = node.end_with("-TERM").await;
    assert!(status.success() && !said.contains("cut off"), "{status} {said}");
}

/// The node as a library: what starts it can also end it, and cutting it off leaves the folder usable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_can_be_run_and_cut_off_by_its_caller() {
    let chain = Chain::start().await;
    let setup = Setup::new(&chain.anvil.endpoint(), &chain.contracts, "");
    let config = |path: &Path| Config::load(&Sources { file: Some(path.to_owned()), ..Sources::default() }).unwrap();
    let node = Node::start(config(&setup.config)).await.unwrap();
    assert!(node.addresses().rpc.is_some() && node.addresses().admin.is_some());
    until(|| "it is healthy".to_owned(), async || node.snapshot().await.healthy).await;
    node.stop().await;
    let opened = || zgpu_node::store::Store::open(&setup.dir.path().join("db"));
    until(|| "the folder is free".to_owned(), async || opened().is_ok()).await;
    drop(Node::start(config(&setup.config)).await.unwrap());
    until(|| "the folder is free again".to_owned(), async || opened().is_ok()).await;
}
