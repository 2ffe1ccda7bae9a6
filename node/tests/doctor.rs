//! The doctor on a real devnet: healthy, with the node stopped and running, and with one thing wrong at a time.

#[path = "support/sample.rs"]
mod sample;

use std::{
    fs,
    future::Future,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, Bytes, U256},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
    sol_types::SolCall,
    transports::http::reqwest,
};
use axum::{Router, body, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use zgpu_core::H256;
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{DeployParams, Deployment, deploy},
        keys::Key,
        miner_id::request_miner_id,
        rpc::RpcOptions,
        tx::{TxManager, TxPolicy},
        upload::{submit_files, zero_submission},
    },
    client::{
        doctor::{DoctorOptions, Outcome, Report, examine},
        node::{NodeOptions, StorageNode},
        upload::{Payer, SourceFile, UploadOptions, upload},
    },
    config::Sources,
    devnet::fill::heights_to_chunk_end,
    duties::sync::{LogSync, SyncOptions},
    rpc::{Connections, NetworkIdentity, NodeStatus, ProtocolVersion, RpcConfig, RpcHandle, serve},
    store::{Settings, Store, StoreError},
};

use sample::Sample;

/// Longer than anything here takes; what waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(240);
/// So many that an epoch lasts for the checks of one test, and few enough to be made at once.
const BLOCKS_PER_EPOCH: u64 = 200;
const TOKEN: u128 = 1_000_000_000_000_000_000;

alloy::sol! {
    function setBaseReward(uint256 wei) external;
}

fn runs<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let output = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it does not hang") });
    runtime.shutdown_timeout(Duration::from_secs(1));
    output
}

fn patience() -> DoctorOptions {
    DoctorOptions { timeout: Duration::from_secs(20), block_within: Duration::from_secs(20) }
}

/// A chain with the contracts, and the account, the folder and the configuration of a node.
struct Site {
    anvil: AnvilInstance,
    contracts: Deployment,
    chain: ChainClient,
    miner_id: H256,
    account: Address,
    dir: TempDir,
    ports: Vec<u16>,
}

impl Site {
    async fn new() -> Site {
        let anvil = Anvil::at(find_anvil().unwrap())
            .host("127.0.0.1")
            .block_time_f64(0.3)
            .args(["--gas-limit", "60000000"])
            .timeout(60_000)
            .try_spawn()
            .unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let params = DeployParams {
            base_reward: U256::from(TOKEN),
            donation: U256::from(100 * TOKEN),
            price_per_sector: U256::from(1),
            blocks_per_epoch: BLOCKS_PER_EPOCH,
            target_mine_blocks: BLOCKS_PER_EPOCH - 2,
            n_subtasks: 1,
            subtask_interval: BLOCKS_PER_EPOCH,
            // Two answers fill an epoch, and a few nonces find them.
            target_submissions: 1,
            initial_difficulty: U256::from(50 * 64),
            ..DeployParams::default()
        };
        let contracts = deploy(&provider, anvil.addresses()[0], &params).await.unwrap();
        let options = ChainOptions {
            urls: vec![anvil.endpoint()],
            chain_id: None,
            flow: contracts.flow,
            mine: contracts.mine,
            rpc: RpcOptions { timeout: Duration::from_secs(20), ..RpcOptions::default() },
        };
        let chain = ChainClient::connect(&options).await.unwrap();
        let signer = PrivateKeySigner::from(anvil.keys()[1].clone());
        let (account, hex) = (signer.address(), signer.to_bytes().to_string());
        let txs = TxManager::new(chain.rpc().clone(), chain.chain_id(), Key::from(signer), TxPolicy::default());
        let miner_id = request_miner_id(&chain, &txs, account, 0).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, hex).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        // Held all at once, so that they differ.
        let listeners: Vec<TcpListener> = (0..5).map(|_| TcpListener::bind(local(0)).unwrap()).collect();
        let ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        Site { anvil, contracts, chain, miner_id, account, dir, ports }
    }

    async fn ask(&self, method: &'static str, params: Value) {
        let _: Value = self.chain.rpc().call(method, "", params).await.unwrap();
    }

    /// Fills the first pricing chunk, so that answers are paid.
    async fn fill_a_chunk(&self) {
        let signer = PrivateKeySigner::from(self.anvil.keys()[2].clone());
        let (rpc, id) = (self.chain.rpc().clone(), self.chain.chain_id());
        let txs = TxManager::new(rpc, id, Key::from(signer), TxPolicy::default());
        let heights = heights_to_chunk_end(self.chain.flow_state().await.unwrap().length);
        let zeros: Vec<_> = heights.into_iter().map(|height| zero_submission(height).unwrap()).collect();
        submit_files(&self.chain, &txs, &zeros).await.unwrap();
    }

    /// Has the foundation pay so much for an answer, besides what is claimable.
    async fn set_base_reward(&self, wei: u128) {
        let data = setBaseRewardCall { wei: U256::from(wei) }.abi_encode();
        let (from, to) = (self.anvil.addresses()[0], self.contracts.reward);
        self.ask("eth_sendTransaction", json!([{"from": from, "to": to, "data": Bytes::from(data)}])).await;
        while self.chain.reward_state().await.unwrap().base_reward != U256::from(wei) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the configuration, with these keys put in, replaced, or taken out.
    fn config(&self, changes: &[(&str, Value)]) -> PathBuf {
        let (dir, ports) = (self.dir.path().display(), &self.ports);
        let mut config = json!({
            "chain_id": self.chain.chain_id(),
            "blockchain_rpc_endpoint": self.anvil.endpoint(),
            "log_contract_address": self.contracts.flow.to_string(),
            "mine_contract_address": self.contracts.mine.to_string(),
            "reward_contract_address": self.contracts.reward.to_string(),
            "log_sync_start_block_number": self.contracts.start_block,
            "miner_key_file": format!("{dir}/key"),
            "miner_id": self.miner_id.to_string(),
            "db_dir": format!("{dir}/db"),
            "db_max_num_sectors": 100_000,
            "db_reserve_bytes": 1 << 20,
            "network_dir": format!("{dir}/network"),
            "network_listen_address": "127.0.0.1",
            "network_libp2p_port": ports[0],
            "network_disable_discovery": true,
            "backend": "cpu",
            "rpc": {
                "listen_address": local(ports[1]).to_string(),
                "listen_address_admin": local(ports[2]).to_string(),
                "listen_address_grpc": local(ports[3]).to_string(),
            },
            "metrics": {"listen": local(ports[4]).to_string()},
        });
        for (key, value) in changes {
            let (table, key) = match key.split_once('.') {
                Some((section, key)) => (config[section].as_object_mut().unwrap(), key),
                None => (config.as_object_mut().unwrap(), *key),
            };
            match value {
                Value::Null => table.remove(key),
                value => table.insert(key.to_owned(), value.clone()),
            };
        }
        let path = self.path("zgpu.toml");
        fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
        path
    }

    async fn examine(&self, changes: &[(&str, Value)]) -> Report {
        self.examine_within(changes, &patience()).await
    }

    async fn examine_within(&self, changes: &[(&str, Value)], options: &DoctorOptions) -> Report {
        let sources = Sources { file: Some(self.config(changes)), ..Sources::default() };
        let report = examine(&sources, options).await;
        for check in &report.checks {
            assert!(!check.found.is_empty() && !check.found.contains('\n'), "{check:?}");
            let is_wrong = matches!(check.outcome, Outcome::Warn | Outcome::Fail);
            assert_eq!(check.remedy.is_some(), is_wrong, "what is wrong has a remedy: {check:?}");
        }
        assert!(report.to_string().lines().count() > report.checks.len(), "{report}");
        report
    }

    /// With these changes, check `name` comes out as `outcome` and says all of `words`, and no other check fails.
    async fn says(&self, changes: &[(&str, Value)], name: &str, outcome: Outcome, words: &[&str]) -> Report {
        let report = self.examine(changes).await;
        expect(&report, name, outcome, words);
        report
    }

    async fn zgpu(&self, changes: &[(&str, Value)], before: &str, json: bool) -> Output {
        let config = self.config(changes);
        let flag = if json { "--json" } else { "" };
        let line = format!("{before}exec {} doctor --config {} {flag}", env!("CARGO_BIN_EXE_zgpu"), config.display());
        let mut command = Command::new("sh");
        command.args(["-c", &line]).env_remove("ZGPU_MINER_KEY");
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

fn expect(report: &Report, name: &str, outcome: Outcome, words: &[&str]) {
    let found = report.checks.iter().filter(|check| check.name == name);
    let check = found.max_by_key(|check| check.outcome).unwrap_or_else(|| panic!("no check {name}: {report}"));
    assert_eq!(check.outcome, outcome, "{name}: {report}");
    let text = format!("{} -> {}", check.found, check.remedy.as_deref().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "{name} should say {word:?}: {text}");
    }
    let others = report.checks.iter().filter(|check| check.name != name && check.outcome == Outcome::Fail);
    assert_eq!(others.count(), 0, "nothing else fails: {report}");
    assert_eq!(report.is_fine(), outcome != Outcome::Fail);
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A node that runs: its store, its interfaces, and listeners where its other parts would be.
struct Node {
    rpc: RpcHandle,
    sync: Option<LogSync>,
    _others: [TcpListener; 2],
}

impl Node {
    async fn start(site: &Site, follow: bool, change: impl FnOnce(&mut RpcConfig)) -> Node {
        let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
        let store = Store::open_with(&site.path("db"), settings).unwrap();
        let (status, watching) = watch::channel(NodeStatus::default());
        let network = NetworkIdentity {
            chain_id: site.chain.chain_id(),
            flow_address: site.contracts.flow.to_string().to_lowercase(),
            p2p_protocol_version: ProtocolVersion { major: 0, minor: 4, build: 0 },
        };
        let mut config = RpcConfig::new(local(site.ports[1]), network);
        config.listen_admin = Some(local(site.ports[2]));
        config.listen_grpc = Some(local(site.ports[3]));
        change(&mut config);
        let rpc = serve(config, Connections { store: store.clone(), status: watching, miner: None, files: None })
            .await
            .unwrap();
        let sync = follow.then(|| {
            let options = SyncOptions {
                start_block: site.contracts.start_block,
                confirmations: 0,
                poll: Duration::from_millis(100),
                ..SyncOptions::default()
            };
            let sync = LogSync::start(site.chain.clone(), store, options);
            sync.publish(status);
            sync
        });
        let listen = |port: u16| TcpListener::bind(local(port)).unwrap();
        Node { rpc, sync, _others: [listen(site.ports[0]), listen(site.ports[4])] }
    }

    async fn caught_up(&self) {
        self.sync.as_ref().unwrap().caught_up().wait_for(|caught_up| *caught_up).await.unwrap();
    }

    async fn stop(self, site: &Site) {
        if let Some(sync) = self.sync {
            sync.stop().await;
        }
        self.rpc.stop().await;
        // What it was doing with its store goes to its end behind it.
        while let Err(error) = Store::open(&site.path("db")) {
            assert!(matches!(error, StoreError::InUse { .. }), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[test]
fn a_healthy_node_stopped_and_running() {
    runs(async {
        let site = Site::new().await;
        let report = site.says(&[], "reward", Outcome::Warn, &["no pricing chunk is full"]).await;
        expect(&report, "node", Outcome::Warn, &["does not run", "zgpu node"]);
        expect(&report, "data", Outcome::Ok, &["no store"]);
        // Before the first upload, no epoch has a context.
        expect(&report, "epoch", Outcome::Warn, &["epoch 0 cannot be mined", "wait for the next epoch", "next upload"]);
        site.fill_a_chunk().await;

        // An answer that costs more than it earns, and why: nothing is left but what uploads have paid.
        site.set_base_reward(0).await;
        let words = &["1 of 1 full", "base reward 0", "costs more than it earns", "wait for cheaper gas"];
        site.says(&[], "reward", Outcome::Warn, words).await;
        site.set_base_reward(TOKEN).await;

        let report = site.says(&[], "reward", Outcome::Ok, &["1 of 1 full", "pays 1"]).await;
        for name in ["configuration", "endpoint", "head", "clock", "contracts", "key", "balance", "miner id"] {
            expect(&report, name, Outcome::Ok, &[]);
        }
        for name in ["ports", "shard", "disk"] {
            expect(&report, name, Outcome::Ok, &[]);
        }
        assert!(report.check("epoch").is_some_and(|check| check.outcome <= Outcome::Warn), "{report}");
        assert!(!site.path("db").exists() && !site.path("network").exists(), "nothing is made");
        let order: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
        let place = |name: &str| order.iter().position(|other| *other == name).unwrap();
        assert!(place("endpoint") < place("contracts") && place("contracts") < place("key"));
        assert!(place("key") < place("node") && place("node") < place("data") && place("data") < place("epoch"));

        let node = Node::start(&site, true, |_| ()).await;
        node.caught_up().await;
        let report = site.says(&[], "node", Outcome::Ok, &["runs"]).await;
        expect(&report, "log", Outcome::Ok, &["transactions"]);
        expect(&report, "ports", Outcome::Ok, &["answer"]);
        expect(&report, "peers", Outcome::Warn, &["none"]);
        let output = site.zgpu(&[], "", true).await;
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let checks = document["checks"].as_array().unwrap();
        assert!(checks.iter().any(|check| check["name"] == "contracts" && check["outcome"] == "ok"), "{document}");
        let key = fs::read_to_string(site.path("key")).unwrap();
        assert!(!String::from_utf8_lossy(&output.stdout).contains(&key[2..]), "secrets stay secret");
        node.stop(&site).await;

        // Stopped again, what it keeps is read from its store; and what it keeps is all.
        site.says(&[], "data", Outcome::Warn, &["0 of 32768 loads of shard 0/1", "get data"]).await;
        let store = Store::open(&site.path("db")).unwrap();
        let sample = Sample::of(vec![7; 700]);
        let seq = sample.append(&store);
        sample.put_segment(&store, seq, 0);
        let report = site.says(&[], "data", Outcome::Skipped, &[]).await;
        expect(&report, "node", Outcome::Warn, &[]);
        drop(store);
        site.says(&[], "data", Outcome::Warn, &["1 of 32769 loads", "0 are sealed", "seal"]).await;
    });
}

/// The real program, which seals what it is given: the doctor says how far that is.
#[test]
fn a_node_that_mines_is_asked_what_it_has() {
    runs(async {
        let site = Site::new().await;
        let changes = [("confirmation_block_count", json!(0)), ("miner_ignore_profit", json!(true))];
        let config = site.config(&changes);
        let mut node = tokio::process::Command::new(env!("CARGO_BIN_EXE_zgpu"))
            .args(["node", "--config", config.to_str().unwrap()])
            .env("ZGPU_LOG", "error")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let until = async |name: &str, outcome: Outcome, words: &str| loop {
            let report = site.examine(&changes).await;
            if report.check(name).is_some_and(|check| check.outcome == outcome && check.found.contains(words)) {
                return report;
            }
        };
        let report = until("log", Outcome::Ok, "").await;
        expect(&report, "ports", Outcome::Ok, &["answer"]);
        assert!(report.check("data").is_some_and(|check| check.outcome != Outcome::Ok), "{report}");

        let file = site.path("file");
        fs::write(&file, vec![7; 3 << 20]).unwrap();
        let source = SourceFile::open(&file, &()).unwrap();
        let url = format!("http://{}", local(site.ports[1]));
        let nodes = [StorageNode::new(&url, NodeOptions::default()).unwrap()];
        let signer = PrivateKeySigner::from(site.anvil.keys()[4].clone());
        let (rpc, id) = (site.chain.rpc().clone(), site.chain.chain_id());
        let account = TxManager::new(rpc, id, Key::from(signer), TxPolicy::default());
        let payer = Payer { chain: site.chain.clone(), account };
        upload(&nodes, Some(&payer), &source, &UploadOptions::default(), &()).await.unwrap();
        // It seals what an epoch has seen.
        site.ask("anvil_mine", json!([format!("{:#x}", BLOCKS_PER_EPOCH + 1)])).await;
        let report = until("data", Outcome::Ok, "").await;
        expect(&report, "data", Outcome::Ok, &["loads are sealed"]);
        expect(&report, "miner id", Outcome::Ok, &[&site.miner_id.to_string()]);
        expect(&report, "shard", Outcome::Ok, &["0/1"]);
        assert!(report.check("node").is_some_and(|check| check.outcome <= Outcome::Warn), "{report}");
        // It mines until the epoch takes no more.
        let report = until("epoch", Outcome::Warn, "is full").await;
        expect(&report, "epoch", Outcome::Warn, &["is full: 2 of 2 answers", "wait for the next epoch"]);

        let ended = Command::new("kill").args(["-TERM", &node.id().unwrap().to_string()]).status().unwrap();
        assert!(ended.success() && node.wait().await.unwrap().success());
        site.says(&[], "data", Outcome::Ok, &["are sealed"]).await;
    });
}

#[test]
fn what_is_wrong_on_the_chain_is_said() {
    runs(async {
        use Outcome::{Fail, Warn};
        let site = Site::new().await;
        let endpoint = site.anvil.endpoint();
        let one = |key: &'static str, value: Value| [(key, value)];

        // The configuration.
        let report = site.examine(&one("blockchain_rpc_endpiont", json!("http://x"))).await;
        expect(&report, "configuration", Fail, &["blockchain_rpc_endpiont", "blockchain_rpc_endpoint"]);
        assert_eq!(report.checks.len(), 1, "nothing else makes sense then");
        site.says(&one("miner_cpu_percentage", json!(50)), "configuration", Warn, &["no effect"]).await;

        // The endpoints.
        let dead = "http://user:hunter2@127.0.0.1:1/topsecret";
        let report = site.says(&one("blockchain_rpc_endpoint", json!(dead)), "endpoint", Fail, &["127.0.0.1:1"]).await;
        assert!(!report.to_string().contains("hunter2") && !report.to_string().contains("topsecret"), "{report}");
        for name in ["head", "contracts", "balance", "epoch", "reward"] {
            expect_skipped(&report, name);
        }
        let both = one("blockchain_rpc_endpoints", json!([dead]));
        site.says(&both, "endpoint", Warn, &["127.0.0.1:1", "others are used"]).await;
        site.says(&one("chain_id", json!(16661)), "endpoint", Fail, &["chain 31337, expected 16661"]).await;
        let (refusing, _proxy) = refusing_logs(&endpoint).await;
        let words = &["blocks of the log at a time are refused", "block range is too large", "log_page_size"];
        site.says(&one("blockchain_rpc_endpoint", json!(refusing)), "endpoint", Warn, words).await;

        let words = &[&site.anvil.ws_endpoint()[..], "it announces new blocks"];
        let over_ws = one("blockchain_rpc_endpoint", json!(site.anvil.ws_endpoint()));
        site.says(&over_ws, "endpoint", Outcome::Ok, words).await;

        // The contracts.
        let nobody = json!("0x00000000000000000000000000000000000000aa");
        for key in ["log_contract_address", "mine_contract_address", "reward_contract_address"] {
            let words = &["0x00000000000000000000000000000000000000AA", "mine_contract_address"];
            let report = site.says(&one(key, nobody.clone()), "contracts", Fail, words).await;
            expect_skipped(&report, "epoch");
        }
        let report = site.examine(&one("mine_contract_address", Value::Null)).await;
        expect(&report, "contracts", Outcome::Ok, &[&site.contracts.mine.to_string()]);

        // The account.
        site.says(&one("miner_key_file", Value::Null), "key", Fail, &["none is configured", "miner_keystore"]).await;
        let gone = json!(site.path("gone"));
        site.says(&one("miner_key_file", gone), "key", Fail, &["there is no key file"]).await;
        let write = |name: &str, text: &str, mode| {
            fs::write(site.path(name), text).unwrap();
            fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
            json!(site.path(name))
        };
        site.says(&one("miner_key_file", write("short", "12ab", 0o600)), "key", Fail, &["64 hex digits"]).await;
        let text = fs::read_to_string(site.path("key")).unwrap();
        let words = &["mode 644", "chmod 600"];
        let report = site.says(&one("miner_key_file", write("open", &text, 0o644)), "key", Warn, words).await;
        assert!(!report.to_string().contains(&text[2..]));
        let tokens = |wei: u128| json!([site.account, U256::from(wei)]);
        site.ask("anvil_setBalance", tokens(1000)).await;
        let words = &["0 answers", &*format!("send tokens to {}", site.account)];
        site.says(&[], "balance", Fail, words).await;
        site.ask("anvil_setBalance", tokens(TOKEN / 100)).await;
        site.says(&[], "balance", Warn, &["send tokens"]).await;
        site.ask("anvil_setBalance", tokens(1000 * TOKEN)).await;
        let capped = site.config(&[]);
        let text = fs::read_to_string(&capped).unwrap() + "\n[submission_config]\nmax_gas_price = 1\n";
        fs::write(&capped, text).unwrap();
        let sources = Sources { file: Some(capped), ..Sources::default() };
        expect(&examine(&sources, &patience()).await, "balance", Fail, &["the limit is 1", "max_gas_price"]);

        // The miner's id.
        let unknown = json!(H256([5; 32]).to_string());
        site.says(&one("miner_id", unknown), "miner id", Fail, &["is not registered"]).await;
        let other = PrivateKeySigner::from(site.anvil.keys()[3].clone()).to_bytes().to_string();
        let other = write("other", &other, 0o600);
        site.says(&one("miner_key_file", other), "miner id", Fail, &["pays", "use the key of that account"]).await;
        let report = site.examine(&one("miner_id", Value::Null)).await;
        expect(&report, "miner id", Outcome::Ok, &["registers one"]);

        // Shards: the chain takes a limited number.
        site.says(&one("shard_position", json!("0/65536")), "shard", Fail, &["0/65536"]).await;

        // The clock and the head. A chain whose clock goes wrong is a clock that is wrong here.
        site.ask("evm_increaseTime", json!([7200])).await;
        site.says(&[], "clock", Warn, &["behind", "NTP"]).await;
        site.ask("evm_setIntervalMining", json!([0])).await;
        let impatient = DoctorOptions { block_within: Duration::from_secs(2), ..patience() };
        let report = site.examine_within(&[], &impatient).await;
        expect(&report, "head", Fail, &["no block came"]);
    });
}

fn expect_skipped(report: &Report, name: &str) {
    assert!(report.check(name).is_none_or(|check| check.outcome == Outcome::Skipped), "{name}: {report}");
}

#[test]
fn what_is_wrong_on_this_machine_is_said() {
    runs(async {
        use Outcome::{Fail, Warn};
        let site = Site::new().await;
        let one = |key: &'static str, value: Value| [(key, value)];

        let words = &["cuda"];
        let report = site.examine(&one("backend", json!("cuda"))).await;
        if zgpu_miner::devices().0.iter().all(|device| device.backend.to_string() != "cuda") {
            expect(&report, "device", Fail, words);
        }
        site.says(&one("device", json!("cpu:99")), "device", Fail, &["cpu:99", "zgpu devices"]).await;
        site.says(&one("backend", json!("cpu")), "device", Warn, &["a processor mines slowly"]).await;

        let words = &["db_reserve_bytes", "nothing is written"];
        site.says(&one("db_reserve_bytes", json!(1u64 << 50)), "disk", Fail, words).await;
        site.says(&one("db_max_num_sectors", json!(1u64 << 45)), "disk", Warn, &["lower db_max_num_sectors"]).await;
        site.says(&one("db_max_num_sectors", Value::Null), "disk", Warn, &["no limit"]).await;
        let output = site.zgpu(&[], "ulimit -n 256; ", false).await;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("256 may be open at once") && text.contains("ulimit -n 8192"), "{text}");
        assert_eq!(output.status.code(), Some(0), "{text}");

        // Ports, with the node stopped and running.
        let taken = TcpListener::bind(local(site.ports[3])).unwrap();
        let words = &["rpc.listen_address_grpc", "cannot be listened at"];
        site.says(&[], "ports", Fail, words).await;
        let output = site.zgpu(&[], "", false).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stdout).unwrap().contains("first: ports"));
        drop(taken);
        let node = Node::start(&site, true, |config| config.listen_grpc = None).await;
        node.caught_up().await;
        site.says(&[], "ports", Warn, &["nothing answers", "rpc.listen_address_grpc"]).await;
        node.stop(&site).await;

        // A node of another network has the port.
        let node = Node::start(&site, true, |config| config.network.flow_address = "0xabc".into()).await;
        site.says(&[], "node", Fail, &["flow 0xabc", "another node"]).await;
        node.stop(&site).await;

        // A node that is behind.
        let node = Node::start(&site, false, |_| ()).await;
        site.ask("anvil_mine", json!(["0xc8"])).await;
        site.says(&[], "log", Fail, &["blocks behind", "catch up"]).await;
        node.stop(&site).await;
    });
}

/// A task that ends with its owner.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An endpoint that leads to `target` and refuses to give logs.
async fn refusing_logs(target: &str) -> (String, Aborted) {
    let (target, client) = (target.to_owned(), reqwest::Client::builder().no_proxy().build().unwrap());
    let handle = move |body: body::Bytes| {
        let (target, client) = (target.clone(), client.clone());
        async move {
            let request: Value = serde_json::from_slice(&body).unwrap();
            if request["method"] == "eth_getLogs" {
                let error = json!({"code": -32005, "message": "block range is too large, 100 blocks at most"});
                return json!({"jsonrpc": "2.0", "id": request["id"], "error": error}).to_string().into_response();
            }
            let reply = client.post(target).header("content-type", "application/json").body(body).send();
            reply.await.unwrap().bytes().await.unwrap().into_response()
        }
    };
    let listener = tokio::net::TcpListener::bind(local(0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", post(handle));
    (url, Aborted(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })))
}
