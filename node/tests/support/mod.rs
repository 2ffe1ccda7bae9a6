//! Whole nodes as processes, on a chain of their own: what their tests share.

// Each test uses a part of it.
#![allow(dead_code)]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use zgpu_core::{
    H256,
    file::{FileShape, FileTree},
};
use zgpu_node::chain::{
    anvil::find_anvil,
    client::{ChainClient, ChainOptions},
    contracts::{DeployParams, Deployment, deploy},
    keys::Key,
    rpc::RpcOptions,
    tx::{TxManager, TxPolicy},
    upload::{FileSubmission, submit_file, submit_files, zero_submission},
};

/// How long something may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A chain with the contracts.
pub(crate) struct Chain {
    /// Its process.
    pub(crate) anvil: AnvilInstance,
    /// Where they are.
    pub(crate) contracts: Deployment,
    /// Reads from it.
    pub(crate) client: ChainClient,
}

impl Chain {
    /// Starts one that makes a block for each transaction.
    pub(crate) async fn start(params: &DeployParams) -> Chain {
        let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let contracts = deploy(&provider, anvil.addresses()[0], params).await.unwrap();
        let rpc = RpcOptions { timeout: Duration::from_secs(30), requests_per_second: None, ..RpcOptions::default() };
        let Deployment { flow, mine, .. } = contracts;
        let options = ChainOptions { urls: vec![anvil.endpoint()], chain_id: None, flow, mine, rpc };
        let client = ChainClient::connect(&options).await.unwrap();
        Chain { anvil, contracts, client }
    }

    /// The secret key of account `index`, 64 hex digits.
    pub(crate) fn secret(&self, index: usize) -> String {
        self.anvil.keys()[index].to_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Submits a file and hands in nothing.
    pub(crate) async fn submit(&self, data: &[u8]) -> u64 {
        let submission = FileSubmission::of(&tree(data));
        submit_file(&self.client, &self.account(), &submission).await.unwrap().seq
    }

    /// Submits zeros: one submission of 2^height sectors for each height.
    pub(crate) async fn submit_zeros(&self, heights: &[u32]) {
        let zeros: Vec<_> = heights.iter().map(|height| zero_submission(*height).unwrap()).collect();
        submit_files(&self.client, &self.account(), &zeros).await.unwrap();
    }

    fn account(&self) -> TxManager {
        let key = Key::from(PrivateKeySigner::from(self.anvil.keys()[1].clone()));
        let policy = TxPolicy { poll: Duration::from_millis(50), ..TxPolicy::default() };
        TxManager::new(self.client.rpc().clone(), self.client.chain_id(), key, policy)
    }

    /// Calls a method of the chain.
    pub(crate) async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.client.rpc().call(method, "", params).await.unwrap()
    }
}

/// The tree of a file.
pub(crate) fn tree(data: &[u8]) -> FileTree {
    FileTree::read(FileShape::new(data.len() as u64).unwrap(), data, |_| ()).unwrap()
}

/// Sends a signal to a process.
pub(crate) fn kill(pid: u32, signal: &str) {
    let status = std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A folder with a node's configuration and its data, and the ports that it keeps over restarts.
pub(crate) struct Setup {
    dir: TempDir,
    config: PathBuf,
    /// Where clients call it.
    pub(crate) rpc_port: u16,
    /// Where peers reach it.
    pub(crate) peer_port: u16,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// A node that knows the peers at these ports. `flat` and `sections` are further lines of its configuration.
    pub(crate) fn new(chain: &Chain, peers: &[u16], flat: &str, sections: &str) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let (rpc_port, peer_port) = (free_port(), free_port());
        let peers: Vec<String> = peers.iter().map(|port| format!("'/ip4/127.0.0.1/tcp/{port}'")).collect();
        let text = format!(
            "blockchain_rpc_endpoint = '{endpoint}'\nlog_contract_address = '{flow}'\n\
             log_sync_start_block_number = {start}\nconfirmation_block_count = 0\nwatch_loop_wait_time_ms = 100\n\
             blockchain_rpc_timeout_secs = 10\ndb_dir = '{db}'\nnetwork_dir = '{network}'\n\
             db_reserve_bytes = 1048576\nlog_config_file = ''\nnetwork_listen_address = '127.0.0.1'\n\
             network_enr_address = '127.0.0.1'\nnetwork_enr_tcp_port = {peer_port}\n\
             network_libp2p_port = {peer_port}\nnetwork_disable_discovery = true\nnetwork_libp2p_nodes = [{peers}]\n\
             {flat}\n\
             [router]\nprivate_ip_enabled = true\n\
             [sync]\nauto_sync_enabled = true\nauto_sync_idle_interval = '1s'\n\
             [rpc]\nlisten_address = '127.0.0.1:{rpc_port}'\nlisten_address_admin = '127.0.0.1:0'\n\
             listen_address_grpc = ''\n\
             [metrics]\nlisten = '127.0.0.1:0'\n{sections}\n",
            endpoint = chain.anvil.endpoint(),
            flow = chain.contracts.flow,
            start = chain.contracts.start_block,
            db = dir.path().join("db").display(),
            network = dir.path().join("network").display(),
            peers = peers.join(", "),
        );
        let config = dir.path().join("zgpu.toml");
        fs::write(&config, text).unwrap();
        Setup { dir, config, rpc_port, peer_port, environment: Vec::new() }
    }

    /// With a variable of the environment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Setup {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Address of its JSON-RPC.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.rpc_port)
    }

    /// Starts the node and waits until it says where it can be reached.
    pub(crate) async fn start(&self) -> NodeProcess {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
        command.arg("node").arg("--config").arg(&self.config).current_dir(self.dir.path());
        command.env_remove("ZGPU_MINER_KEY").env_remove("ZGPU_LOG").envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        NodeProcess::start(command).await
    }
}

/// A node that runs.
pub(crate) struct NodeProcess {
    child: Child,
    said: Arc<Mutex<String>>,
    rpc: SocketAddr,
    status: SocketAddr,
    /// Where peers find it, as a multiaddress.
    pub(crate) peers: String,
}

impl NodeProcess {
    /// Starts `zgpu node` and waits until it says where it can be reached.
    pub(crate) async fn start(mut command: Command) -> NodeProcess {
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let hearing = said.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let mut said = hearing.lock().unwrap();
                said.push_str(&line);
                said.push('\n');
            }
        });
        let place = |what: &str| -> Option<SocketAddr> {
            let said = said.lock().unwrap();
            let (_, rest) = said.split_once(&format!("{what} at http://"))?;
            rest.split([',', '\n', '"']).next()?.trim().parse().ok()
        };
        let told = || format!("the node says where it is: {}", said.lock().unwrap());
        until(told, async || {
            assert_eq!(child.try_wait().unwrap(), None, "it has ended: {}", said.lock().unwrap());
            place("status").is_some()
        })
        .await;
        let (rpc, status) = (place("clients").unwrap(), place("status").unwrap());
        let text = said.lock().unwrap().clone();
        let (_, peers) = text.split_once("peers at ").expect("the node says where peers find it");
        let peers = peers.split(['\n', '"']).next().unwrap().trim().to_owned();
        NodeProcess { child, said, rpc, status, peers }
    }

    /// Everything that it has said.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// What the status listener answers, and with which code.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        exchange(self.status, head).await.expect("the status listener answers")
    }

    /// The status document.
    pub(crate) async fn status(&self) -> Value {
        let (code, text) = self.get("/status").await;
        assert_eq!(code, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until the status document is as it should be.
    pub(crate) async fn until_status(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let last = Mutex::new(Value::Null);
        let look = async || {
            let now = self.status().await;
            let found = is_so(&now);
            *last.lock().unwrap() = now;
            found
        };
        until(|| format!("{what}: {:#}\n{}", last.lock().unwrap(), self.said()), look).await;
        last.into_inner().unwrap()
    }

    /// Calls a method of its JSON-RPC.
    pub(crate) async fn call(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let head = format!(
            "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        );
        let (code, text) = exchange(self.rpc, head).await.expect("the RPC answers");
        assert_eq!(code, 200, "{text}");
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].take()
    }

    /// Waits until transactions 0 to `count` are finalised.
    pub(crate) async fn until_finalised(&self, what: &str, count: u64) {
        let missing = Mutex::new(Vec::new());
        let look = async || {
            let mut open = Vec::new();
            for seq in 0..count {
                let state = self.call("zgs_checkFileFinalized", json!([seq])).await;
                if state != json!(true) {
                    open.push((seq, state));
                }
            }
            *missing.lock().unwrap() = open;
            missing.lock().unwrap().is_empty()
        };
        let told = || format!("{what}: {:?} of {count} are not finalised\n{}", missing.lock().unwrap(), self.said());
        until(told, look).await;
    }

    /// Sends a signal and waits for the end.
    pub(crate) async fn end_with(self, signal: &str) -> (ExitStatus, String) {
        kill(self.child.id().unwrap(), signal);
        self.ended().await
    }

    /// Waits for the end.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", self.said())).unwrap();
        (status, self.said())
    }

    /// Ends it as a service manager does.
    pub(crate) async fn stop(self) {
        let (status, said) = self.end_with("-TERM").await;
        assert!(status.success(), "{status}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

/// Runs `zgpu upload` on a file for one node: true when it succeeded, and what it said.
pub(crate) async fn upload(chain: &Chain, node: &Setup, file: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
    command.arg("upload").arg(file).args(["--node", &node.url(), "--rpc", &chain.anvil.endpoint()]);
    command.args(["--timeout", "20", "--wait", "60"]).env("ZGPU_KEY", chain.secret(2));
    run(command).await
}

/// Runs `zgpu download` of a file by its root from one node.
pub(crate) async fn download(node: &Setup, root: H256, out: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
    command.arg("download").arg(root.to_string()).args(["--node", &node.url(), "--out"]).arg(out);
    run(command).await
}

async fn run(mut command: Command) -> (bool, String) {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the command ends").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
    (output.status.success(), text)
}

/// Waits until something is so.
pub(crate) async fn until(what: impl Fn() -> String, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "never: {}", what());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One HTTP exchange: status and body of the answer; none when nobody answers.
async fn exchange(address: SocketAddr, request: String) -> Option<(u16, String)> {
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    })
    .await
    .unwrap()
}
