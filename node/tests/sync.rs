//! Following the log of a real EVM (anvil) with our contracts: through endpoints that misbehave as real ones do, through
//! reorganisations of every depth, and through kills at random moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::{Address, B256, Bytes, U64, U256},
    providers::ProviderBuilder,
    sol_types::SolCall,
    transports::http::reqwest,
};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use zgpu_core::H256;
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::{ChainClient, ChainOptions},
        contracts::{self, DeployParams, Deployment, Flow, deploy},
        error::ChainError,
        rpc::{Rpc, RpcOptions},
    },
    duties::sync::{LogSync, SyncError, SyncOptions, SyncPhase, SyncStatus, catch_up},
    rpc::NodeStatus,
    store::{Settings, Store, Transaction},
};

/// Longest wait for anything, on a machine with two busy cores.
const PATIENCE: Duration = Duration::from_secs(60);
const PRICE: u64 = 1000;

// The chain -----------------------------------------------------------------------------------------------------------

/// A chain of its own with contracts on it, and a block per transaction.
struct Net {
    anvil: AnvilInstance,
    contracts: Deployment,
    rpc: Rpc,
    /// Makes the blocks after each reorganisation differ from those before.
    forks: Mutex<u64>,
    /// Blocks that the chain can be taken back to.
    snapshots: Mutex<Vec<(u64, Value)>>,
}

impl Net {
    async fn start() -> Net {
        let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let params = DeployParams { price_per_sector: U256::from(PRICE), ..DeployParams::default() };
        let contracts = deploy(&provider, anvil.addresses()[0], &params).await.unwrap();
        // Mining many blocks takes anvil long.
        let rpc = Rpc::new(&anvil.endpoint(), RpcOptions { timeout: 10 * PATIENCE, ..rpc_options() }).unwrap();
        Net { anvil, contracts, rpc, forks: Mutex::new(0), snapshots: Mutex::default() }
    }

    async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.rpc.call(method, "", params).await.unwrap()
    }

    /// Mines empty blocks. The chain can be taken back to each of them if they are few, and else to the one before them.
    async fn mine(&self, blocks: u64) {
        let (steps, blocks) = if blocks <= 5 { (blocks, 1) } else { (1, blocks) };
        for _ in 0..steps {
            self.snapshot().await;
            self.ask("anvil_mine", json!([U64::from(blocks)])).await;
        }
    }

    async fn snapshot(&self) {
        let snapshot = (self.head().await, self.ask("evm_snapshot", json!([])).await);
        self.snapshots.lock().unwrap().push(snapshot);
    }

    async fn head(&self) -> u64 {
        self.rpc.head().await.unwrap()
    }

    async fn head_hash(&self) -> H256 {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await;
        H256(serde_json::from_value::<B256>(block["hash"].clone()).unwrap().0)
    }

    /// Submits files made from these seeds, all in one block.
    async fn submit(&self, seeds: &[u64]) {
        self.snapshot().await;
        let submitter = self.anvil.addresses()[1];
        let files: Vec<contracts::Submission> = seeds.iter().map(|seed| submission(*seed, submitter)).collect();
        let sectors: U256 = files.iter().flat_map(|file| &file.data.nodes).map(|node| U256::ONE << node.height).sum();
        let data: Bytes = Flow::batchSubmitCall { submissions: files }.abi_encode().into();
        let tx = json!([{
            "from": submitter, "to": self.contracts.flow, "data": data, "gas": "0x1c00000",
            "value": sectors * U256::from(PRICE),
        }]);
        let hash = self.ask("eth_sendTransaction", tx.clone()).await;
        let started = Instant::now();
        let receipt = loop {
            let receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await;
            if !receipt.is_null() {
                break receipt;
            }
            assert!(started.elapsed() < PATIENCE, "{hash} is not mined");
        };
        if receipt["status"] != "0x1" {
            let again = self.rpc.call::<_, Value>("eth_call", "", json!([tx[0], "latest"])).await;
            panic!("{seeds:?}: {again:?} {receipt}");
        }
    }

    /// Takes back the last blocks, at least so many. What is mined from now on differs from what was there.
    async fn take_back(&self, blocks: u64) {
        self.take_back_to(self.head().await - blocks).await;
    }

    /// Takes back all blocks behind this one, and a few more if need be.
    async fn take_back_to(&self, block: u64) {
        let (number, id) = {
            let mut snapshots = self.snapshots.lock().unwrap();
            let found = snapshots.iter().rposition(|(number, _)| *number <= block).expect("the start of the chain");
            snapshots.drain(found..).next().unwrap()
        };
        assert_eq!(self.ask("evm_revert", json!([id])).await, json!(true));
        assert_eq!(self.head().await, number);
        self.snapshot().await;
        let fork = {
            let mut forks = self.forks.lock().unwrap();
            *forks += 1;
            *forks
        };
        self.ask("anvil_setCoinbase", json!([Address::left_padding_from(&fork.to_be_bytes())])).await;
    }

    fn options(&self, urls: &[&str]) -> ChainOptions {
        let Deployment { flow, mine, .. } = self.contracts;
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        ChainOptions { urls, chain_id: None, flow, mine, rpc: rpc_options() }
    }

    async fn client(&self) -> ChainClient {
        ChainClient::connect(&self.options(&[&self.anvil.endpoint()])).await.unwrap()
    }

    fn sync_options(&self) -> SyncOptions {
        SyncOptions {
            start_block: self.contracts.start_block,
            confirmations: 0,
            poll: Duration::from_millis(20),
            compare_interval: Duration::from_millis(200),
            check_interval: Duration::from_secs(1),
            max_backoff: Duration::from_millis(200),
            ..SyncOptions::default()
        }
    }

    /// Waits until the sync has read the chain as it is now, and checks that the store holds exactly that.
    async fn settled(&self, sync: &LogSync, store: &Store) -> SyncStatus {
        let hash = self.head_hash().await;
        let status = wait(sync, "the chain is read", |status| {
            status.synced_hash == hash && status.phase == SyncPhase::Following
        })
        .await;
        assert_eq!(self.head_hash().await, hash);
        assert_eq!(status.next_seq, store.next_seq());
        self.compare(store).await;
        status
    }

    /// The store holds what a fresh one would, and what the contract says.
    async fn compare(&self, store: &Store) -> Held {
        let client = self.client().await;
        let fresh = Kept::new();
        catch_up(&client, &fresh.store, self.contracts.start_block).await.unwrap();
        let held = Held::of(store);
        assert_eq!(held, Held::of(&fresh.store));
        let flow = client.flow_state().await.unwrap();
        assert_eq!((held.transactions.len() as u64, held.length), (flow.submissions, flow.length));
        if flow.submissions > 0 {
            assert_eq!(client.flow_root_after(flow.submissions - 1).await.unwrap(), Some(held.root));
        }
        held
    }
}

fn rpc_options() -> RpcOptions {
    RpcOptions {
        timeout: Duration::from_secs(20),
        requests_per_second: None,
        cool_down: Duration::from_millis(200),
        max_cool_down: Duration::from_secs(1),
        ..RpcOptions::default()
    }
}

/// A file that nobody has the data of: some subtrees with roots made from the seed.
fn submission(seed: u64, submitter: Address) -> contracts::Submission {
    let mut random = StdRng::seed_from_u64(seed);
    let top = random.random_range(0..12u32);
    let mut heights = BTreeSet::from([top]);
    heights.extend((0..2).map(|_| top.saturating_sub(random.random_range(0..4))));
    let nodes: Vec<contracts::SubmissionNode> = heights
        .iter()
        .rev()
        .map(|height| contracts::SubmissionNode {
            root: B256::from(random.random::<[u8; 32]>()),
            height: U256::from(*height),
        })
        .collect();
    let sectors: U256 = nodes.iter().map(|node| U256::ONE << node.height).sum();
    let data = contracts::SubmissionData { length: sectors * U256::from(256), tags: Bytes::new(), nodes };
    contracts::Submission { data, submitter }
}

// The store -----------------------------------------------------------------------------------------------------------

/// A store in a folder of its own.
struct Kept {
    store: Store,
    _folder: TempDir,
}

impl Kept {
    fn new() -> Kept {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
        Kept { store: Store::open_with(folder.path(), settings).unwrap(), _folder: folder }
    }
}

/// All that a store holds of the log.
#[derive(PartialEq, Eq)]
struct Held {
    length: u64,
    root: H256,
    transactions: Vec<Transaction>,
}

impl Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let roots: Vec<_> = self.transactions.iter().map(|transaction| transaction.data_root.to_string()).collect();
        write!(f, "{} sectors, root {}, {} files {roots:?}", self.length, self.root, roots.len())
    }
}

impl Held {
    fn of(store: &Store) -> Held {
        let transactions = (0..store.next_seq()).map(|seq| store.transaction(seq).unwrap().unwrap()).collect();
        Held { length: store.flow_length(), root: store.root_at(store.flow_length()).unwrap(), transactions }
    }
}

/// Waits until the status is as wanted.
async fn wait(sync: &LogSync, what: &str, is_so: impl FnMut(&SyncStatus) -> bool) -> SyncStatus {
    let mut status = sync.status();
    match tokio::time::timeout(PATIENCE, status.wait_for(is_so)).await {
        Ok(found) => found.unwrap_or_else(|_| panic!("the sync ended before {what}")).clone(),
        Err(_) => panic!("{what}: not within {PATIENCE:?}; {:?}", sync.status().borrow()),
    }
}

// Endpoints -----------------------------------------------------------------------------------------------------------

/// What an endpoint does with a request.
enum Act {
    Forward,
    /// An HTTP status, and when to come again.
    Status(u16, Option<u64>),
    /// A JSON-RPC error.
    Error(i64, &'static str),
    /// A reply that is none.
    Garbage,
    /// No reply.
    Hang,
    /// The chain's reply, changed.
    Edit(Box<dyn Fn(&mut Value) + Send>),
}

fn edit(change: impl Fn(&mut Value) + Send + 'static) -> Act {
    Act::Edit(Box::new(change))
}

type Rule = Arc<dyn Fn(&Value) -> Act + Send + Sync>;

/// An endpoint of the chain that does with each request what a rule says. Each connection serves one request.
struct Endpoint {
    url: String,
    served: Arc<Served>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Served {
    chain: String,
    rule: Mutex<Rule>,
    seen: Mutex<BTreeMap<String, u64>>,
    client: reqwest::Client,
}

impl Endpoint {
    async fn start(net: &Net, rule: impl Fn(&Value) -> Act + Send + Sync + 'static) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let served = Arc::new(Served {
            chain: net.anvil.endpoint(),
            rule: Mutex::new(Arc::new(rule)),
            seen: Mutex::default(),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        });
        let url = format!("http://{}/a-secret-key", listener.local_addr().unwrap());
        let endpoint = Endpoint { url, served, task: Mutex::default() };
        endpoint.serve(listener);
        endpoint
    }

    fn serve(&self, listener: TcpListener) {
        let router = Router::new().fallback(serve).with_state(self.served.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        if let Some(before) = self.task.lock().unwrap().replace(task) {
            before.abort();
        }
    }

    /// From now on nobody listens.
    async fn die(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        let _ = task.await;
    }

    async fn come_back(&self) {
        let address = self.url.trim_start_matches("http://").trim_end_matches("/a-secret-key");
        self.serve(TcpListener::bind(address).await.unwrap());
    }

    fn rule(&self, rule: impl Fn(&Value) -> Act + Send + Sync + 'static) {
        *self.served.rule.lock().unwrap() = Arc::new(rule);
    }

    fn requests(&self) -> u64 {
        self.served.seen.lock().unwrap().values().sum()
    }

    fn times(&self, method: &str) -> u64 {
        self.served.seen.lock().unwrap().get(method).copied().unwrap_or_default()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap().take() {
            task.abort();
        }
    }
}

async fn serve(State(served): State<Arc<Served>>, body: axum::body::Bytes) -> Response {
    let request: Value = serde_json::from_slice(&body).unwrap();
    let method = request["method"].as_str().unwrap().to_owned();
    *served.seen.lock().unwrap().entry(method).or_default() += 1;
    let rule = served.rule.lock().unwrap().clone();
    let json = |value: Value| (StatusCode::OK, value.to_string()).into_response();
    let mut response = match rule(&request) {
        Act::Forward => json(served.forward(&request).await),
        Act::Status(status, retry_after) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), "a-secret-key is busy").into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            response
        }
        Act::Error(code, message) => {
            json(json!({ "jsonrpc": "2.0", "id": request["id"], "error": { "code": code, "message": message } }))
        }
        Act::Garbage => (StatusCode::OK, "<html>Welcome to a-secret-key</html>").into_response(),
        Act::Hang => std::future::pending().await,
        Act::Edit(edit) => {
            let mut reply = served.forward(&request).await;
            edit(&mut reply["result"]);
            json(reply)
        }
    };
    response.headers_mut().insert(header::CONNECTION, "close".parse().unwrap());
    response
}

impl Served {
    async fn forward(&self, request: &Value) -> Value {
        let request =
            self.client.post(&self.chain).header("content-type", "application/json").body(request.to_string());
        let reply = request.send().await.unwrap().bytes().await.unwrap();
        serde_json::from_slice(&reply).unwrap()
    }
}

fn number(value: &Value) -> u64 {
    serde_json::from_value::<U64>(value.clone()).unwrap().to()
}

/// Blocks that an eth_getLogs asks for; `None` for other requests, and for logs of one block by its hash.
fn asked_blocks(request: &Value) -> Option<u64> {
    let filter = &request["params"][0];
    (request["method"] == "eth_getLogs" && filter.get("fromBlock").is_some_and(|from| !from.is_null()))
        .then(|| number(&filter["toBlock"]) - number(&filter["fromBlock"]) + 1)
}

// Catching up ---------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_read_through_endpoints_as_they_are() {
    let net = Net::start().await;
    // 500 submissions. anvil takes time over many blocks; with 20 000, this is the measurement of the documentation.
    let blocks: u64 = std::env::var("ZGPU_SYNC_BLOCKS").map_or(2000, |blocks| blocks.parse().unwrap());
    for batch in 0..20u64 {
        net.mine(blocks / 20).await;
        let seeds: Vec<u64> = (batch * 25..batch * 25 + 25).collect();
        net.submit(&seeds).await;
    }
    let endpoint = Endpoint::start(&net, |_| Act::Forward).await;
    let client = ChainClient::connect(&net.options(&[&endpoint.url])).await.unwrap();
    let before = endpoint.requests();
    let kept = Kept::new();
    let started = Instant::now();
    assert_eq!(catch_up(&client, &kept.store, net.contracts.start_block).await.unwrap(), 500);
    println!(
        "{blocks} blocks with 500 submissions: {:?}, {} requests ({} for logs)",
        started.elapsed(),
        endpoint.requests() - before,
        endpoint.times("eth_getLogs")
    );
    let expected = net.compare(&kept.store).await;
    assert!(endpoint.times("eth_getLogs") < 20, "{} pages", endpoint.times("eth_getLogs"));

    // As the endpoints of real providers limit the range, in their words.
    let refusals: [(u64, i64, &str); 6] = [
        (100, -32614, "eth_getLogs is limited to a 100 range"),
        (200, -32000, "block range too large, the range exceeds the max limit of 200"),
        (300, -32602, "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block range"),
        (80, -32005, "query returned more than 10000 results"),
        (400, -32000, "query timeout exceeded"),
        (999, -32701, "Please specify fewer blocks"),
    ];
    for (limit, code, text) in refusals {
        endpoint.rule(move |request| {
            if asked_blocks(request).is_some_and(|blocks| blocks > limit) {
                Act::Error(code, text)
            } else {
                Act::Forward
            }
        });
        let (kept, before) = (Kept::new(), endpoint.times("eth_getLogs"));
        catch_up(&client, &kept.store, net.contracts.start_block).await.unwrap();
        assert_eq!(Held::of(&kept.store), expected, "{text}");
        let pages = endpoint.times("eth_getLogs") - before;
        assert!(pages < blocks / limit * 2 + 40, "{pages} pages of at most {limit} blocks");
    }

    // By the length of the reply, by an HTTP status, by taking too long, and as a reply that is cut off here.
    let mut options = net.options(&[&endpoint.url]);
    options.rpc.timeout = Duration::from_millis(1500);
    options.rpc.max_reply_bytes = 100_000;
    let client = ChainClient::connect(&options).await.unwrap();
    let slow = [(150, 413), (150, 504), (300, 0)];
    for (limit, status) in slow {
        endpoint.rule(move |request| match asked_blocks(request) {
            Some(blocks) if blocks > limit && status == 0 => Act::Hang,
            Some(blocks) if blocks > limit => Act::Status(status, None),
            _ => Act::Forward,
        });
        let kept = Kept::new();
        catch_up(&client, &kept.store, net.contracts.start_block).await.unwrap();
        assert_eq!(Held::of(&kept.store), expected, "status {status}");
    }

    // A sync over an endpoint that limits the rate, and now and then answers with an error or with nothing useful.
    let calls = AtomicU64::new(0);
    endpoint.rule(move |_| match calls.fetch_add(1, Ordering::Relaxed) + 1 {
        n if n % 17 == 0 => Act::Status(429, Some(1)),
        n if n % 23 == 0 => Act::Error(-32005, "limit exceeded"),
        n if n % 29 == 0 => Act::Status(503, None),
        n if n % 31 == 0 => Act::Garbage,
        _ => Act::Forward,
    });
    let kept = Kept::new();
    let client = loop {
        // The endpoint may be at its worst when it is connected to.
        match ChainClient::connect(&net.options(&[&endpoint.url])).await {
            Ok(client) => break client,
            Err(error) => println!("{error}"),
        }
    };
    let options = SyncOptions { first_page: 50, max_page: 200, ..net.sync_options() };
    let sync = LogSync::start(client, kept.store.clone(), options);
    let status = net.settled(&sync, &kept.store).await;
    assert!(status.caught_up && status.lag_blocks() == 0 && status.time_left == Some(Duration::ZERO), "{status:?}");
    assert!(!format!("{status:?}").contains("a-secret-key"), "{status:?}");
    let mut node = watch::channel(NodeStatus::default());
    sync.publish(node.0);
    net.mine(1).await;
    let head = net.head().await;
    let told = tokio::time::timeout(PATIENCE, node.1.wait_for(|node| node.log_sync_height == head)).await;
    told.unwrap().unwrap();
    sync.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_asks_to_wait_gets_no_request_before() {
    let net = Net::start().await;
    let endpoint = Endpoint::start(&net, |_| Act::Forward).await;
    let rpc = Rpc::new(&endpoint.url, RpcOptions { max_cool_down: Duration::from_secs(60), ..rpc_options() }).unwrap();
    let (until, early) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
    endpoint.rule({
        let (until, early) = (until.clone(), early.clone());
        move |_| {
            let mut until = until.lock().unwrap();
            match *until {
                None => {
                    *until = Some(Instant::now() + Duration::from_secs(2));
                    return Act::Status(429, Some(2));
                }
                // What the clocks of a busy machine may differ by.
                Some(until) if Instant::now() + Duration::from_millis(20) < until => {
                    early.fetch_add(1, Ordering::Relaxed)
                }
                Some(_) => 0,
            };
            Act::Forward
        }
    });
    let chain: U64 = rpc.call("eth_chainId", "", ()).await.unwrap();
    assert_eq!(chain.to::<u64>(), net.anvil.chain_id());
    assert_eq!((endpoint.requests(), early.load(Ordering::Relaxed)), (2, 0));

    // Longer than a call waits: the call fails at once, says why, and sends nothing.
    endpoint.rule(|_| Act::Status(429, Some(50)));
    let error = rpc.call::<_, U64>("eth_chainId", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Busy { wait, .. } if wait > Duration::from_secs(30)), "{error}");
    assert_eq!(endpoint.requests(), 3);
    assert!(!error.to_string().contains("a-secret-key"), "{error}");

    // The configured rate holds whatever the endpoint says.
    endpoint.rule(|_| Act::Forward);
    let rpc = Rpc::new(&endpoint.url, RpcOptions { requests_per_second: Some(20), ..rpc_options() }).unwrap();
    let started = Instant::now();
    for _ in 0..50 {
        rpc.call::<_, U64>("eth_chainId", "", ()).await.unwrap();
    }
    assert!(started.elapsed() > Duration::from_millis(1400), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_endpoint_steps_in_and_the_preferred_one_comes_back() {
    let net = Net::start().await;
    let (first, second) =
        (Endpoint::start(&net, |_| Act::Forward).await, Endpoint::start(&net, |_| Act::Forward).await);
    let client = ChainClient::connect(&net.options(&[&first.url, &second.url])).await.unwrap();
    let kept = Kept::new();
    let sync = LogSync::start(client.clone(), kept.store.clone(), net.sync_options());
    net.submit(&[1, 2]).await;
    net.settled(&sync, &kept.store).await;
    assert_eq!(second.times("eth_getLogs"), 0, "the preferred one does");

    for (round, mishap) in [None, Some(502), Some(403)].into_iter().enumerate() {
        match mishap {
            None => first.die().await,
            Some(status) => first.rule(move |_| Act::Status(status, None)),
        }
        net.submit(&[10 + round as u64]).await;
        net.settled(&sync, &kept.store).await;
        let status = client.rpc().endpoints();
        assert!(
            status[0].failures > 0 && !status[0].last_error.as_ref().unwrap().contains("a-secret-key"),
            "{status:?}"
        );
        let served = second.times("eth_getLogs");
        assert!(served > 0);

        match mishap {
            None => first.come_back().await,
            Some(_) => first.rule(|_| Act::Forward),
        }
        // It is asked again when its rest is over.
        let started = Instant::now();
        let (logs, mut seed) = (first.times("eth_getLogs"), 100 * (round as u64 + 1));
        while first.times("eth_getLogs") == logs {
            assert!(started.elapsed() < PATIENCE, "the preferred endpoint is not asked again");
            seed += 1;
            net.submit(&[seed]).await;
            net.settled(&sync, &kept.store).await;
        }
    }

    // Logs are what it does not answer.
    let mut options = net.options(&[&first.url, &second.url]);
    options.rpc.timeout = Duration::from_secs(2);
    let other = Kept::new();
    first.rule(|request| if asked_blocks(request).is_some() { Act::Hang } else { Act::Forward });
    let silent = LogSync::start(ChainClient::connect(&options).await.unwrap(), other.store.clone(), net.sync_options());
    net.settled(&silent, &other.store).await;
    silent.stop().await;
    first.rule(|_| Act::Forward);

    // Nobody answers: the sync says so, and goes on when somebody does.
    first.die().await;
    second.rule(|_| Act::Garbage);
    let status = wait(&sync, "the trouble is told", |status| matches!(status.phase, SyncPhase::Waiting { .. })).await;
    let error = status.last_error.unwrap();
    assert!(!error.contains("a-secret-key"), "{error}");
    assert!(status.caught_up, "never false again");
    net.submit(&[500]).await;
    first.come_back().await;
    net.settled(&sync, &kept.store).await;
    sync.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_of_other_chains_and_laggards_are_not_followed() {
    let net = Net::start().await;
    net.mine(30).await;
    let right = Endpoint::start(&net, |_| Act::Forward).await;
    let wrong = Endpoint::start(&net, |request| match request["method"].as_str() {
        Some("eth_chainId") => edit(|result| *result = json!("0x1")),
        _ => Act::Forward,
    })
    .await;
    for urls in [[&*right.url, &wrong.url], [&wrong.url, &right.url]] {
        let error = ChainClient::connect(&net.options(&urls)).await.unwrap_err();
        assert!(matches!(error, ChainError::WrongChain { .. }), "{error}");
        let error =
            ChainClient::connect(&ChainOptions { chain_id: Some(31337), ..net.options(&urls) }).await.unwrap_err();
        assert!(matches!(error, ChainError::WrongChain { got: 1, expected: 31337, .. }), "{error}");
    }
    // One that cannot be asked at first is checked before it is used.
    wrong.die().await;
    let client = ChainClient::connect(&net.options(&[&right.url, &wrong.url])).await.unwrap();
    wrong.come_back().await;
    right.die().await;
    let error = client.block_number().await.unwrap_err();
    assert!(matches!(error, ChainError::WrongChain { got: 1, .. } | ChainError::Unreachable { .. }), "{error}");
    assert_eq!(wrong.times("eth_blockNumber"), 0);
    right.come_back().await;

    // An endpoint that stands still: no head, no block and no log behind its own.
    let lagging = Endpoint::start(&net, |_| Act::Forward).await;
    let client = ChainClient::connect(&net.options(&[&lagging.url, &right.url])).await.unwrap();
    let kept = Kept::new();
    let sync = LogSync::start(client.clone(), kept.store.clone(), net.sync_options());
    net.submit(&[1]).await;
    net.settled(&sync, &kept.store).await;
    let stuck = net.head().await;
    lagging.rule(move |request| match request["method"].as_str().unwrap() {
        "eth_blockNumber" => edit(move |result| *result = json!(U64::from(stuck))),
        "eth_getBlockByNumber" if number(&request["params"][0]) > stuck => edit(|result| *result = Value::Null),
        "eth_getLogs" => edit(|result| *result = json!([])),
        _ => Act::Forward,
    });
    net.mine(20).await;
    net.submit(&[2, 3]).await;
    let status = net.settled(&sync, &kept.store).await;
    assert_eq!((status.reorgs, status.reverted), (0, 0));
    let endpoints = client.rpc().endpoints();
    assert!(endpoints[0].lags && !endpoints[1].lags, "{endpoints:?}");
    sync.stop().await;
}

// Reorganisations -----------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reorganisations_of_every_depth_are_followed() {
    let net = Net::start().await;
    let (kept, client) = (Kept::new(), net.client().await);
    let sync = LogSync::start(client.clone(), kept.store.clone(), net.sync_options());
    let empty = net.head().await;
    net.submit(&[1, 2]).await;
    let two = net.head().await;
    for seeds in [&[3][..], &[4, 5], &[6]] {
        net.submit(seeds).await;
    }
    net.mine(3).await;
    let status = net.settled(&sync, &kept.store).await;
    assert_eq!((status.next_seq, status.reorgs, status.reverted), (6, 0, 0));

    // One block without a submission in it: nothing is taken back, and yet it is told.
    net.take_back(1).await;
    net.mine(1).await;
    let status = net.settled(&sync, &kept.store).await;
    assert_eq!((status.reorgs, status.reverted), (1, 0));

    // The last submission comes back as it was: it stays.
    net.take_back(4).await;
    net.mine(1).await;
    net.submit(&[6]).await;
    net.mine(3).await;
    let status = net.settled(&sync, &kept.store).await;
    assert_eq!((status.reorgs, status.reverted), (2, 0));

    // Submissions come back in another order, with another one, in blocks of the same numbers.
    net.take_back_to(two).await;
    for seeds in [&[6][..], &[4], &[7, 5]] {
        net.submit(seeds).await;
    }
    net.mine(12).await;
    let status = net.settled(&sync, &kept.store).await;
    assert!(status.reorgs == 3 && status.reverted > 0, "{status:?}");

    // The chain is cut and stands still, shorter than what was read: nothing is taken back before it grows.
    let before = Held::of(&kept.store);
    net.take_back(10).await;
    let shorter = |status: &SyncStatus| status.head_block < status.synced_block;
    let status = wait(&sync, "the shorter chain is seen", shorter).await;
    assert_eq!(Held::of(&kept.store), before);
    let reason = match wait(&sync, "it is told", |status| status.phase != SyncPhase::Following).await.phase {
        SyncPhase::Waiting { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason.contains(&status.synced_block.to_string()), "{reason}");
    net.mine(20).await;
    net.settled(&sync, &kept.store).await;

    // It is cut again, and grows by so many blocks at once that they are read as old ones.
    net.submit(&[40]).await;
    net.settled(&sync, &kept.store).await;
    net.take_back(1).await;
    wait(&sync, "the shorter chain is seen", shorter).await;
    net.mine(150).await;
    net.settled(&sync, &kept.store).await;

    // Down to before the first submission.
    let reverted = sync.status().borrow().reverted;
    let held = kept.store.next_seq();
    let head = net.head().await;
    net.take_back_to(empty).await;
    net.mine(head - empty + 1).await;
    let status = net.settled(&sync, &kept.store).await;
    assert_eq!((kept.store.next_seq(), status.reverted), (0, reverted + held));
    net.submit(&[50, 51]).await;
    net.settled(&sync, &kept.store).await;

    // While it was stopped, and deeper than blocks are remembered one by one.
    for seed in 60..70 {
        net.submit(&[seed]).await;
        net.mine(40).await;
    }
    net.settled(&sync, &kept.store).await;
    sync.stop().await;
    net.take_back(300).await;
    net.mine(100).await;
    net.submit(&[65, 80]).await;
    net.mine(250).await;
    let sync = LogSync::start(client, kept.store.clone(), net.sync_options());
    let status = net.settled(&sync, &kept.store).await;
    assert!(status.reorgs == 1 && status.reverted > 0, "{status:?}");
    sync.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_without_confirmations_are_left_alone() {
    let net = Net::start().await;
    let kept = Kept::new();
    let options = SyncOptions { confirmations: 3, ..net.sync_options() };
    let sync = LogSync::start(net.client().await, kept.store.clone(), options);
    net.submit(&[1]).await;
    net.mine(3).await;
    let head = net.head().await;
    let status = wait(&sync, "the log is read", |status| status.synced_block == head - 3 && status.caught_up).await;
    assert_eq!((kept.store.next_seq(), status.lag_blocks()), (1, 3));
    net.submit(&[2]).await;
    net.take_back(2).await;
    net.submit(&[3]).await;
    net.mine(4).await;
    let head = net.head().await;
    let status = wait(&sync, "the log is read", |status| status.synced_block == head - 3).await;
    assert_eq!((kept.store.next_seq(), status.reorgs, status.reverted), (2, 0, 0), "the fork was never read");
    sync.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_on_one_chain_end_equal() {
    let net = Net::start().await;
    let (one, two) = (Kept::new(), Kept::new());
    let first = LogSync::start(net.client().await, one.store.clone(), net.sync_options());
    let options = SyncOptions { first_page: 3, max_page: 7, poll: Duration::from_millis(70), ..net.sync_options() };
    let second = LogSync::start(net.client().await, two.store.clone(), options);
    net.mine(5).await;
    let mut random = StdRng::seed_from_u64(7);
    for round in 0..15u64 {
        net.submit(&[round, 1000 + round]).await;
        net.mine(random.random_range(1..4)).await;
        net.take_back(random.random_range(1..5)).await;
        net.submit(&[2000 + round]).await;
    }
    net.mine(6).await;
    net.settled(&first, &one.store).await;
    net.settled(&second, &two.store).await;
    assert_eq!(Held::of(&one.store), Held::of(&two.store));
    first.stop().await;
    second.stop().await;
}

// Wrong answers -------------------------------------------------------------------------------------------------------

/// Leaves out some logs of a range of blocks, others with each call.
fn drop_logs(result: &mut Value) {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let call = CALLS.fetch_add(1, Ordering::Relaxed);
    if let Some(logs) = result.as_array_mut() {
        let mut index = 0;
        logs.retain(|_| {
            index += 1;
            !(index + call).is_multiple_of(3)
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_are_left_out_are_asked_for_again() {
    let net = Net::start().await;
    for batch in 0..6u64 {
        net.mine(30).await;
        net.submit(&[batch * 3, batch * 3 + 1, batch * 3 + 2]).await;
    }
    net.mine(100).await;
    let good = Endpoint::start(&net, |_| Act::Forward).await;
    let leaky = Endpoint::start(&net, |request| match asked_blocks(request) {
        // Small pages are answered well, so there is a way out.
        Some(blocks) if blocks > 4 => edit(drop_logs),
        _ => Act::Forward,
    })
    .await;
    for urls in [vec![&*leaky.url], vec![&leaky.url, &good.url]] {
        let kept = Kept::new();
        let client = ChainClient::connect(&net.options(&urls)).await.unwrap();
        let sync = LogSync::start(client, kept.store.clone(), net.sync_options());
        let status = net.settled(&sync, &kept.store).await;
        assert_eq!((status.next_seq, status.reverted), (18, 0));
        sync.stop().await;
    }

    // The newest logs are left out: the header of their block, or the contract's count, gives them away.
    let blind = Endpoint::start(&net, |request| match asked_blocks(request) {
        Some(_) => edit(|result| *result = json!([])),
        None => Act::Forward,
    })
    .await;
    let client = ChainClient::connect(&net.options(&[&blind.url])).await.unwrap();
    let kept = Kept::new();
    let sync = LogSync::start(client, kept.store.clone(), net.sync_options());
    let status = wait(&sync, "the trouble is told", |status| matches!(status.phase, SyncPhase::Waiting { .. })).await;
    assert!(!status.caught_up && status.last_error.as_ref().unwrap().contains("18 submissions"), "{status:?}");
    blind.rule(|_| Act::Forward);
    net.settled(&sync, &kept.store).await;
    blind.rule(|request| match asked_blocks(request) {
        Some(_) => edit(|result| *result = json!([])),
        None => Act::Forward,
    });
    net.submit(&[90]).await;
    net.settled(&sync, &kept.store).await;
    sync.stop().await;

    // A start block behind the first submission is a mistake that is told, not a gap for ever.
    let options = SyncOptions { start_block: net.contracts.start_block + 100, ..net.sync_options() };
    let kept = Kept::new();
    let sync = LogSync::start(net.client().await, kept.store.clone(), options);
    let told =
        |status: &SyncStatus| status.last_error.as_ref().is_some_and(|error| error.contains("earlier start block"));
    wait(&sync, "the mistake is told", told).await;
    assert_eq!(kept.store.next_seq(), 0);
    sync.stop().await;
}

/// Says that the first log is of another file.
fn forge_logs(result: &mut Value) {
    if let Some(data) = result.pointer_mut("/0/data") {
        // The root of the first node: behind the event's head and the submission's.
        let text = data.as_str().unwrap().to_owned();
        let end = text.len() - 64;
        *data = json!(format!("{}{}{}", &text[..end - 64], "ab".repeat(32), &text[end..]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_logs_are_found_by_the_contracts_roots() {
    let net = Net::start().await;
    for seed in 0..12 {
        net.submit(&[seed]).await;
        net.mine(20).await;
    }
    let forger = Endpoint::start(&net, |_| Act::Forward).await;
    let client = ChainClient::connect(&net.options(&[&forger.url])).await.unwrap();
    forger.rule(|request| if asked_blocks(request).is_some() { edit(forge_logs) } else { Act::Forward });
    let kept = Kept::new();
    let options = SyncOptions { check_transactions: 3, ..net.sync_options() };
    let sync = LogSync::start(client.clone(), kept.store.clone(), options.clone());
    wait(&sync, "the repair", |status| status.repairs > 0).await;
    wait(&sync, "the trouble is told", |status| matches!(status.phase, SyncPhase::Waiting { .. })).await;
    forger.rule(|_| Act::Forward);
    let status = net.settled(&sync, &kept.store).await;
    assert!(status.repairs > 0, "{status:?}");

    // With the right log stored, forged ones do no harm: they are not believed, and nothing is taken back.
    sync.stop().await;
    kept.store.put_note("sync.trail", &[]).unwrap();
    forger.rule(|request| if asked_blocks(request).is_some() { edit(forge_logs) } else { Act::Forward });
    let sync = LogSync::start(client, kept.store.clone(), options);
    wait(&sync, "the trouble is told", |status| matches!(status.phase, SyncPhase::Waiting { .. })).await;
    net.compare(&kept.store).await;
    forger.rule(|_| Act::Forward);
    assert_eq!(net.settled(&sync, &kept.store).await.reverted, 0);
    sync.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_contract_is_not_touched() {
    let net = Net::start().await;
    net.submit(&[1, 2]).await;
    let (kept, client) = (Kept::new(), net.client().await);
    catch_up(&client, &kept.store, net.contracts.start_block).await.unwrap();
    let before = Held::of(&kept.store);

    let other = Net::start().await;
    other.mine(50).await;
    let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(other.anvil.endpoint_url());
    let contracts = deploy(&provider, other.anvil.addresses()[2], &DeployParams::default()).await.unwrap();
    let options =
        ChainOptions { flow: contracts.flow, mine: contracts.mine, ..other.options(&[&other.anvil.endpoint()]) };
    let elsewhere = ChainClient::connect(&options).await.unwrap();
    let error = catch_up(&elsewhere, &kept.store, 0).await.unwrap_err();
    assert!(matches!(error, SyncError::OtherOrigin { .. }), "{error}");
    assert_eq!(Held::of(&kept.store), before);
}

// Kills ---------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_the_store_is_as_a_fresh_one() {
    let net = Net::start().await;
    let client = net.client().await;
    let kept = Kept::new();
    let mut random = StdRng::seed_from_u64(42);
    let mut seed = 0;
    let mut seeds = |random: &mut StdRng| -> Vec<u64> {
        let count = random.random_range(1..6);
        (0..count)
            .map(|_| {
                seed += 1;
                // Now and then a file that was there before.
                if random.random_range(0..5) == 0 { random.random_range(0..seed) } else { seed }
            })
            .collect()
    };
    let options = SyncOptions { first_page: 4, max_page: 50, check_transactions: 10, ..net.sync_options() };
    net.snapshot().await;
    let (empty, mut sync, mut kills) = (net.head().await, None, 0);
    let mut longest = empty;
    for _ in 0..120 {
        longest = longest.max(net.head().await);
        match random.random_range(0..10) {
            0..4 => net.submit(&seeds(&mut random)).await,
            4 => net.mine(random.random_range(1..90)).await,
            5 | 6 => {
                let most = net.head().await - empty;
                let deep = if random.random_range(0..4) == 0 { 100 } else { 4 };
                if most > 0 {
                    net.take_back(random.random_range(1..=most.min(deep))).await;
                }
                net.mine(random.random_range(0..3)).await;
            }
            // Killed at any moment, between any two writes.
            7 | 8 => {
                sync = None;
                let killed = LogSync::start(client.clone(), kept.store.clone(), options.clone());
                tokio::time::sleep(Duration::from_micros(random.random_range(0..30_000))).await;
                drop(killed);
                kills += 1;
            }
            _ => {
                let running =
                    sync.take().unwrap_or_else(|| LogSync::start(client.clone(), kept.store.clone(), options.clone()));
                // A chain that is shorter than what was read may be an endpoint that lags: its time comes when it has grown.
                net.mine(longest.saturating_sub(net.head().await) + 1).await;
                net.settled(&running, &kept.store).await;
                sync = Some(running);
            }
        }
    }
    assert!(kills > 10);
    drop(sync);
    net.mine(longest.saturating_sub(net.head().await) + 70).await;
    let sync = LogSync::start(client, kept.store.clone(), options);
    let status = net.settled(&sync, &kept.store).await;
    println!("{kills} kills; at the end {} transactions, head {}", status.next_seq, status.head_block);
    sync.stop().await;
}
