//! WebSocket endpoints: one connection for all calls, blocks that are read when they are announced, another endpoint
//! that steps in, and endpoints that lie in every way that a stranger can.

mod support;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::{
    primitives::{B256, U64, U256},
    transports::http::reqwest,
};
use futures::{SinkExt, StreamExt, future::join_all};
use serde_json::{Value, json};
use support::{Chain, PATIENCE};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::broadcast,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_async,
    tungstenite::{
        Bytes, Message,
        protocol::{CloseFrame, Role, frame::coding::CloseCode},
    },
};
use zgpu_core::{H256, shard::Shard};
use zgpu_node::{
    chain::{
        client::{ChainClient, ChainOptions, MinerConfig},
        contracts::{DeployParams, Deployment},
        error::ChainError,
        keys::Key,
        miner_id::request_miner_id,
        rpc::{Rpc, RpcOptions},
        tx::{TxManager, TxPolicy},
        watch::{ContextWatcher, WatchOptions},
    },
    duties::sync::{LogSync, SyncOptions, SyncPhase, SyncStatus},
    store::{Settings, Store},
};

/// Far longer than any test waits: what is seen before was not found by polling.
const NEVER: Duration = Duration::from_secs(3600);

fn params() -> DeployParams {
    DeployParams {
        blocks_per_epoch: 40,
        target_mine_blocks: 30,
        n_subtasks: 1,
        subtask_interval: 1,
        initial_difficulty: U256::from(1),
        price_per_sector: U256::from(1000),
        ..DeployParams::default()
    }
}

/// Patient, since tests share two cores, and quick to ask an endpoint again.
fn rpc_options() -> RpcOptions {
    RpcOptions {
        timeout: Duration::from_secs(20),
        requests_per_second: None,
        cool_down: Duration::from_millis(50),
        max_cool_down: Duration::from_millis(200),
        ..RpcOptions::default()
    }
}

impl Chain {
    fn options(&self, urls: &[&str]) -> ChainOptions {
        let Deployment { flow, mine, .. } = self.contracts;
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        ChainOptions { urls, chain_id: None, flow, mine, rpc: rpc_options() }
    }

    async fn over(&self, urls: &[&str]) -> ChainClient {
        ChainClient::connect(&self.options(urls)).await.unwrap()
    }

    async fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([U64::from(blocks)])).await;
    }

    async fn head_hash(&self) -> H256 {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await;
        H256(serde_json::from_value::<B256>(block["hash"].clone()).unwrap().0)
    }

    /// A sync of its own, over this client.
    fn sync(&self, client: ChainClient, poll: Duration) -> Synced {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
        let store = Store::open_with(folder.path(), settings).unwrap();
        let options = SyncOptions {
            start_block: self.contracts.start_block,
            confirmations: 0,
            poll,
            compare_interval: NEVER,
            check_interval: NEVER,
            ..SyncOptions::default()
        };
        Synced { sync: LogSync::start(client, store, options), _folder: folder }
    }
}

struct Synced {
    sync: LogSync,
    _folder: TempDir,
}

impl Synced {
    async fn until(&self, what: &str, is_so: impl FnMut(&SyncStatus) -> bool) -> SyncStatus {
        let mut status = self.sync.status();
        match timeout(PATIENCE, status.wait_for(is_so)).await {
            Ok(found) => found.unwrap().clone(),
            Err(_) => panic!("never: {what}: {:?}", self.sync.status().borrow()),
        }
    }

    /// Waits until it has read the chain as it is now.
    async fn settled(&self, chain: &Chain) -> SyncStatus {
        let hash = chain.head_hash().await;
        self.until("the chain is read", |status| status.synced_hash == hash && status.phase == SyncPhase::Following)
            .await
    }
}

// Endpoints -----------------------------------------------------------------------------------------------------------

/// What an endpoint does with a request.
enum Act {
    /// Asks the chain. A subscription is taken, and announces what the test says.
    Forward,
    /// This result.
    Answer(Value),
    /// A JSON-RPC error.
    Error(i64, &'static str),
    /// No reply.
    Hang,
    /// These messages, and then the reply.
    Before(Vec<Message>),
    /// These messages in place of a reply.
    Instead(Vec<Message>),
    /// The reply, two times.
    Twice,
    /// Keeps the request until there are so many, and then answers all, the last one first, each with its id.
    Hold(usize),
    /// These bytes, whatever WebSocket says.
    Raw(Vec<u8>),
    /// Text in frames without an end.
    Endless,
    /// Cuts the connection.
    Cut,
    /// Takes everything from now on and says nothing, not even to pings.
    Freeze,
    /// This result, and from then on the same.
    Last(Value),
}

type Lie = Box<dyn Fn() -> Act + Send + Sync>;
type Rule = Arc<dyn Fn(&Value) -> Act + Send + Sync>;

/// A WebSocket server that does with each request what a rule says.
struct Endpoint {
    url: String,
    served: Arc<Served>,
    task: JoinHandle<()>,
}

struct Served {
    /// Where requests are passed on to.
    chain: Option<String>,
    client: reqwest::Client,
    rule: Mutex<Rule>,
    /// What a connection is answered with in place of a WebSocket.
    refusal: Mutex<Option<String>>,
    seen: Mutex<BTreeMap<String, u64>>,
    opened: AtomicU64,
    open: AtomicU64,
    pongs: AtomicU64,
    news: broadcast::Sender<()>,
}

impl Endpoint {
    async fn start(chain: Option<&Chain>, rule: impl Fn(&Value) -> Act + Send + Sync + 'static) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/a-secret-key", listener.local_addr().unwrap());
        let served = Arc::new(Served {
            chain: chain.map(|chain| chain.anvil.endpoint()),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            rule: Mutex::new(Arc::new(rule)),
            refusal: Mutex::default(),
            seen: Mutex::default(),
            opened: AtomicU64::new(0),
            open: AtomicU64::new(0),
            pongs: AtomicU64::new(0),
            news: broadcast::channel(10_000).0,
        });
        let serving = served.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let served = serving.clone();
                tokio::spawn(async move {
                    served.opened.fetch_add(1, Ordering::SeqCst);
                    served.open.fetch_add(1, Ordering::SeqCst);
                    // However it ends, it has.
                    let _ = served.serve(stream).await;
                    served.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Endpoint { url, served, task }
    }

    fn rule(&self, rule: impl Fn(&Value) -> Act + Send + Sync + 'static) {
        *self.served.rule.lock().unwrap() = Arc::new(rule);
    }

    fn refuse(&self, with: Option<&str>) {
        *self.served.refusal.lock().unwrap() = with.map(str::to_owned);
    }

    fn times(&self, method: &str) -> u64 {
        self.served.seen.lock().unwrap().get(method).copied().unwrap_or_default()
    }

    fn requests(&self) -> u64 {
        self.served.seen.lock().unwrap().values().sum()
    }

    fn opened(&self) -> u64 {
        self.served.opened.load(Ordering::SeqCst)
    }

    fn announce(&self) {
        // An error says that nobody listens.
        let _ = self.served.news.send(());
    }

    /// Waits until no request came for a second, and returns how many there were.
    async fn quiet(&self) -> u64 {
        loop {
            let before = self.requests();
            sleep(Duration::from_secs(1)).await;
            if self.requests() == before {
                return before;
            }
        }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&Endpoint) -> bool) {
        until(what, || is_so(self)).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}

fn reply(request: &Value, result: impl Into<Value>) -> Message {
    text(&json!({ "jsonrpc": "2.0", "id": request["id"], "result": result.into() }))
}

fn announcement() -> Message {
    let result = json!({ "number": "0xffffffffffffffff", "hash": "0x00", "parentHash": 5 });
    let params = json!({ "subscription": "0x77", "result": result });
    text(&json!({ "jsonrpc": "2.0", "method": "eth_subscription", "params": params }))
}

impl Served {
    async fn serve(&self, mut stream: TcpStream) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let refusal = self.refusal.lock().unwrap().clone();
        let was_refused = refusal.is_some();
        if let Some(refusal) = refusal {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await?);
            }
            stream.write_all(refusal.as_bytes()).await?;
            if !refusal.starts_with("HTTP/1.1 101") {
                return Ok(());
            }
        }
        // One that took the connection wrongly goes on as if all were well.
        let mut socket = match was_refused {
            true => WebSocketStream::from_raw_socket(stream, Role::Server, None).await,
            false => accept_async(stream).await?,
        };
        let (mut news, mut is_subscribed, mut held) = (self.news.subscribe(), false, Vec::new());
        loop {
            let message = tokio::select! {
                message = socket.next() => message.ok_or("closed")??,
                _ = news.recv() => {
                    if is_subscribed {
                        socket.send(announcement()).await?;
                    }
                    continue;
                }
            };
            let request: Value = match message {
                Message::Text(text) => serde_json::from_str(&text)?,
                Message::Pong(_) => {
                    self.pongs.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                _ => continue,
            };
            let method = request["method"].as_str().unwrap().to_owned();
            *self.seen.lock().unwrap().entry(method.clone()).or_default() += 1;
            let rule = self.rule.lock().unwrap().clone();
            match rule(&request) {
                Act::Forward => {
                    is_subscribed |= method == "eth_subscribe";
                    socket.send(self.answer(&request).await?).await?;
                }
                Act::Answer(result) => socket.send(reply(&request, result)).await?,
                Act::Error(code, message) => {
                    let error = json!({ "code": code, "message": message });
                    socket.send(text(&json!({ "jsonrpc": "2.0", "id": request["id"], "error": error }))).await?;
                }
                Act::Hang => {}
                Act::Before(messages) => {
                    for message in messages {
                        socket.feed(message).await?;
                    }
                    socket.send(self.answer(&request).await?).await?;
                }
                Act::Instead(messages) => {
                    for message in messages {
                        socket.send(message).await?;
                    }
                }
                Act::Twice => {
                    let answer = self.answer(&request).await?;
                    socket.feed(answer.clone()).await?;
                    socket.send(answer).await?;
                }
                Act::Hold(count) => {
                    held.push(request);
                    if held.len() == count {
                        for request in held.drain(..).rev() {
                            socket.feed(reply(&request, request["id"].clone())).await?;
                        }
                        socket.flush().await?;
                    }
                }
                Act::Raw(bytes) => socket.get_mut().write_all(&bytes).await?,
                Act::Endless => endless(socket.get_mut()).await?,
                Act::Cut => return Ok(()),
                Act::Freeze => return freeze(socket).await,
                Act::Last(result) => {
                    socket.send(reply(&request, result)).await?;
                    return freeze(socket).await;
                }
            }
        }
    }

    /// The chain's reply; a word where there is no chain.
    async fn answer(&self, request: &Value) -> Result<Message, reqwest::Error> {
        let method = request["method"].as_str().unwrap();
        let Some(chain) = self.chain.as_ref().filter(|_| !method.ends_with("subscribe")) else {
            return Ok(reply(request, "0x77"));
        };
        let asked = self.client.post(chain).header("content-type", "application/json").body(request.to_string());
        Ok(Message::text(String::from_utf8(asked.send().await?.bytes().await?.to_vec()).unwrap()))
    }
}

/// One text of many frames, without an end.
async fn endless(stream: &mut TcpStream) -> io::Result<()> {
    let part = [b'x'; 1000];
    let mut kind = 1;
    loop {
        stream.write_all(&[kind, 126, 3, 232]).await?;
        stream.write_all(&part).await?;
        kind = 0;
    }
}

/// Returns when the other side has given up.
async fn freeze(mut socket: WebSocketStream<TcpStream>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut bytes = [0; 1024];
    while socket.get_mut().read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Passes bytes on to a port of this machine, while it is up.
struct Relay {
    port: u16,
    is_up: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Relay {
    async fn start(to: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_up, taken) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
        let (up, count) = (is_up.clone(), taken.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if !up.load(Ordering::SeqCst) {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let up = up.clone();
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    let is_down = async {
                        while up.load(Ordering::SeqCst) {
                            sleep(Duration::from_millis(5)).await;
                        }
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut to) => {}
                        () = is_down => {}
                    }
                });
            }
        });
        Relay { port, is_up, taken, accepting }
    }

    fn set_up(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// Following the chain -------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_and_puzzles_are_seen_when_they_are_announced() {
    let chain = Chain::start(&params()).await;
    let client = chain.over(&[&chain.anvil.ws_endpoint()]).await;
    let synced = chain.sync(client.clone(), NEVER);
    synced.settled(&chain).await;
    for seed in 0..3u8 {
        chain.submit(&[seed; 1000]).await;
        let status = synced.settled(&chain).await;
        assert_eq!(status.next_seq, u64::from(seed) + 1);
    }

    // The miner's context, on the same connection.
    let key = Key::from(alloy::signers::local::PrivateKeySigner::from(chain.anvil.keys()[1].clone()));
    let policy = TxPolicy { poll: Duration::from_millis(50), ..TxPolicy::default() };
    let txs = TxManager::new(client.rpc().clone(), client.chain_id(), key, policy);
    let miner_id = request_miner_id(&client, &txs, txs.address(), 0).await.unwrap();
    chain.mine(41).await;
    chain.submit_zeros(&[12]).await;
    let miner = MinerConfig { miner_id, shard: Shard::WHOLE, start_position: 0 };
    let watcher = ContextWatcher::start(client.clone(), miner, WatchOptions { poll: NEVER, ..WatchOptions::default() });
    let mut state = watcher.state();
    for round in 0..2u64 {
        let start = client.flow_state().await.unwrap().epoch_block(2 + round);
        chain.mine(start + 2 - client.block_number().await.unwrap()).await;
        let digest = client.context_preview().await.unwrap().digest;
        let is_ready = state.wait_for(|state| state.puzzle().is_some_and(|puzzle| puzzle.context_digest == digest));
        timeout(PATIENCE, is_ready).await.expect("the puzzle is seen").unwrap();
    }
    synced.settled(&chain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn announcements_wake_and_are_not_believed() {
    let chain = Chain::start(&params()).await;
    let endpoint = Endpoint::start(Some(&chain), |_| Act::Forward).await;
    let synced = chain.sync(chain.over(&[&endpoint.url]).await, NEVER);
    synced.settled(&chain).await;
    endpoint.until("blocks are asked for", |endpoint| endpoint.times("eth_subscribe") == 1).await;

    // Without an announcement nothing is asked, so the poll is not what finds the block below.
    let before = endpoint.quiet().await;
    chain.submit(&[1; 1000]).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!((endpoint.requests(), synced.sync.status().borrow().next_seq), (before, 0));
    endpoint.announce();
    assert_eq!(synced.settled(&chain).await.next_seq, 1);

    // The block is announced before this endpoint has it: the sync looks once more by itself.
    let before = endpoint.quiet().await;
    let head = chain.ask("eth_blockNumber", json!([])).await;
    let looks = AtomicU64::new(0);
    endpoint.rule(move |request| match request["method"].as_str() {
        Some("eth_blockNumber") if looks.fetch_add(1, Ordering::SeqCst) == 0 => Act::Answer(head.clone()),
        _ => Act::Forward,
    });
    chain.submit(&[2; 1000]).await;
    endpoint.announce();
    assert_eq!(synced.settled(&chain).await.next_seq, 2);
    assert!(endpoint.requests() - before < 20);
    endpoint.rule(|_| Act::Forward);

    // A flood of announcements of block 2^64 - 1: the sync looks now and then, and believes what it sees.
    endpoint.quiet().await;
    let before = endpoint.times("eth_blockNumber");
    for _ in 0..200 {
        (0..20).for_each(|_| endpoint.announce());
        sleep(Duration::from_millis(10)).await;
    }
    let looks = endpoint.times("eth_blockNumber") - before;
    assert!((1..20).contains(&looks), "{looks} looks");
    let status = synced.sync.status().borrow().clone();
    assert_eq!((status.phase, status.reorgs), (SyncPhase::Following, 0));
    chain.submit(&[3; 1000]).await;
    endpoint.announce();
    assert_eq!(synced.settled(&chain).await.next_seq, 3);
    assert_eq!(endpoint.times("eth_subscribe"), 1);

    // Nobody who does not follow the chain asks for announcements.
    let other = Endpoint::start(Some(&chain), |_| Act::Forward).await;
    let client = chain.over(&[&other.url]).await;
    client.block_number().await.unwrap();
    assert_eq!((other.times("eth_subscribe"), other.opened()), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_announcements_blocks_are_looked_for() {
    let chain = Chain::start(&params()).await;
    let http = chain.anvil.endpoint();
    let refusing = |request: &Value| match request["method"].as_str() {
        Some("eth_subscribe") => Act::Error(-32601, "the method eth_subscribe does not exist"),
        _ => Act::Forward,
    };
    let refused = Endpoint::start(Some(&chain), refusing).await;
    let poll = Duration::from_millis(50);
    let synced = chain.sync(chain.over(&[&refused.url]).await, poll);
    chain.submit(&[1; 1000]).await;
    assert_eq!(synced.settled(&chain).await.next_seq, 1);
    refused.until("blocks are asked for", |endpoint| endpoint.times("eth_subscribe") == 1).await;
    chain.submit(&[2; 1000]).await;
    assert_eq!(synced.settled(&chain).await.next_seq, 2);

    // One that takes the subscription and says nothing: it is asked anew when blocks came all the same.
    let silent = Endpoint::start(Some(&chain), |_| Act::Forward).await;
    let mut options = chain.options(&[&silent.url, &http]);
    options.rpc.timeout = Duration::from_millis(700);
    let client = ChainClient::connect(&options).await.unwrap();
    let synced = chain.sync(client.clone(), poll);
    let started = Instant::now();
    let mut count = 2u64;
    while silent.times("eth_unsubscribe") == 0 || silent.times("eth_subscribe") < 2 {
        assert!(started.elapsed() < PATIENCE, "the silence is not noticed");
        count += 1;
        chain.submit(&count.to_be_bytes()).await;
        assert_eq!(synced.settled(&chain).await.next_seq, count);
    }
    assert!(refused.times("eth_subscribe") < 10, "it is not asked again and again");
    assert_eq!(refused.opened(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_steps_in_while_the_websocket_is_away() {
    let chain = Chain::start(&params()).await;
    let relay = Relay::start(chain.anvil.port()).await;
    let urls = [format!("ws://127.0.0.1:{}/", relay.port), chain.anvil.endpoint()];
    let client = chain.over(&[&urls[0], &urls[1]]).await;
    let synced = chain.sync(client.clone(), Duration::from_millis(50));
    let mut heads = client.rpc().heads();
    chain.submit(&[1; 1000]).await;
    synced.settled(&chain).await;
    timeout(PATIENCE, heads.announced()).await.expect("blocks are announced");
    heads.looked(true);

    for round in 0..2u8 {
        let taken = relay.taken.load(Ordering::SeqCst);
        let failures = client.rpc().endpoints()[0].failures;
        relay.set_up(false);
        chain.submit(&[10 + round; 1000]).await;
        synced.settled(&chain).await;
        until("the failure is noticed", || client.rpc().endpoints()[0].failures > failures).await;
        assert_eq!(client.rpc().url(), urls[1]);
        assert_eq!(relay.taken.load(Ordering::SeqCst), taken);

        relay.set_up(true);
        let started = Instant::now();
        let mut seed = 100 * (u64::from(round) + 1);
        // The preferred one is asked again, on one new connection, and announces blocks again.
        while client.rpc().url() != urls[0].trim_end_matches('/') || relay.taken.load(Ordering::SeqCst) == taken {
            assert!(started.elapsed() < PATIENCE, "{:?}", client.rpc().endpoints());
            seed += 1;
            chain.submit(&seed.to_be_bytes()).await;
            synced.settled(&chain).await;
        }
        // The first may be the subscription itself.
        for _ in 0..3 {
            heads.looked(true);
            while timeout(Duration::from_secs(1), heads.announced()).await.is_ok() {
                heads.looked(true);
            }
            chain.mine(1).await;
            timeout(PATIENCE, heads.announced()).await.expect("a block is announced");
        }
        synced.settled(&chain).await;
        assert_eq!(relay.taken.load(Ordering::SeqCst), taken + 1);
    }
}

// The connection ------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_carries_all_calls_in_any_order() {
    const CALLS: usize = 100;
    let endpoint = Endpoint::start(None, |_| Act::Hold(CALLS)).await;
    let rpc = Rpc::new(&endpoint.url, rpc_options()).unwrap();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(endpoint.opened(), 0, "it is opened when it is needed");
    let calls = (0..CALLS).map(|_| rpc.call::<_, u64>("zgpu_echo", "", ()));
    let mut ids = Vec::new();
    for call in join_all(calls).await {
        ids.push(call.unwrap());
    }
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "each call got its own reply: {ids:?}");
    assert_eq!(endpoint.opened(), 1);

    // More calls at once than are let through: the others wait for a place, and all get their replies.
    endpoint.rule(|request| Act::Answer(request["id"].clone()));
    let calls = join_all((0..1000).map(|_| rpc.call::<_, u64>("zgpu_echo", "", ()))).await;
    assert!(calls.iter().all(Result::is_ok));

    // Pings are answered while nothing else goes on.
    endpoint.rule(|_| Act::Before(vec![Message::Ping(Bytes::from_static(b"are you there"))]));
    rpc.call::<_, String>("zgpu_echo", "", ()).await.unwrap();
    endpoint.until("the ping is answered", |endpoint| endpoint.served.pongs.load(Ordering::SeqCst) == 1).await;

    // An error of the question is one, and ends nothing.
    endpoint.rule(|_| Act::Error(-32000, "no"));
    let error = rpc.call::<_, String>("zgpu_echo", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Rpc { code: -32000, .. }), "{error}");
    assert_eq!(endpoint.opened(), 1);

    // It ends with those who may call.
    assert_eq!(endpoint.served.open.load(Ordering::SeqCst), 1);
    drop(rpc);
    endpoint.until("the connection ends", |endpoint| endpoint.served.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_leave_no_trace() {
    let endpoint = Endpoint::start(None, |_| Act::Hang).await;
    let rpc = Rpc::new(&endpoint.url, rpc_options()).unwrap();
    for round in 1..=5 {
        let calls: Vec<_> = (0..100)
            .map(|_| {
                let rpc = rpc.clone();
                tokio::spawn(async move { rpc.call::<_, u64>("zgpu_hang", "", ()).await })
            })
            .collect();
        endpoint.until("all are sent", |endpoint| endpoint.times("zgpu_hang") == 100 * round).await;
        calls.iter().for_each(JoinHandle::abort);
    }
    // 500 places would be taken if they kept theirs.
    endpoint.rule(|request| Act::Answer(request["id"].clone()));
    let calls = join_all((0..100).map(|_| rpc.call::<_, u64>("zgpu_echo", "", ()))).await;
    assert!(calls.iter().all(Result::is_ok), "{calls:?}");
    assert_eq!(endpoint.opened(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_connection_is_given_up_and_a_slow_call_is_not() {
    let slow = |request: &Value| if request["method"] == "zgpu_slow" { Act::Hang } else { Act::Answer(json!(5)) };
    let endpoint = Endpoint::start(None, slow).await;
    let options = RpcOptions { timeout: Duration::from_secs(2), attempts: 1, ..rpc_options() };
    let rpc = Rpc::new(&endpoint.url, options).unwrap();

    // The endpoint lives, it only does not answer this. That pings are answered shows it, then and while it is idle.
    let error = rpc.call::<_, u64>("zgpu_slow", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Timeout { .. }), "{error}");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(rpc.call::<_, u64>("zgpu_echo", "", ()).await.unwrap(), 5);
    assert_eq!(endpoint.opened(), 1);

    // Nothing comes any more.
    endpoint.rule(|_| Act::Freeze);
    let error = rpc.call::<_, u64>("zgpu_echo", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Timeout { .. } | ChainError::Unreachable { .. }), "{error}");
    endpoint.until("it is given up", |endpoint| endpoint.served.open.load(Ordering::SeqCst) == 0).await;
    endpoint.rule(slow);
    assert_eq!(rpc.call::<_, u64>("zgpu_echo", "", ()).await.unwrap(), 5);
    assert_eq!(endpoint.opened(), 2);

    // The same where nobody calls: only the pings can tell.
    endpoint.rule(|_| Act::Last(json!(6)));
    assert_eq!(rpc.call::<_, u64>("zgpu_echo", "", ()).await.unwrap(), 6);
    endpoint.until("it is given up", |endpoint| endpoint.served.open.load(Ordering::SeqCst) == 0).await;
}

/// A frame's header that promises a text of this many bytes.
fn header(bytes: u64) -> Vec<u8> {
    [&[0x81, 127][..], &bytes.to_be_bytes()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_end_the_connection_and_another_endpoint_is_asked() {
    let chain = Chain::start(&params()).await;
    let endpoint = Endpoint::start(None, |_| Act::Answer(json!("0x7a69"))).await;
    let options = RpcOptions { max_reply_bytes: 100_000, ..rpc_options() };
    let rpc = Rpc::over(&[&endpoint.url, &chain.anvil.endpoint()], options.clone()).unwrap();
    let id = async || rpc.call::<_, U64>("eth_chainId", "", ()).await.unwrap().to::<u64>();
    let ws = endpoint.url.trim_end_matches("/a-secret-key");
    let back = async || {
        let started = Instant::now();
        endpoint.rule(|_| Act::Answer(json!("0x7a69")));
        endpoint.refuse(None);
        while (id().await, rpc.url()) != (31337, ws) {
            assert!(started.elapsed() < PATIENCE, "{:?}", rpc.endpoints());
            sleep(Duration::from_millis(10)).await;
        }
    };

    let close = CloseFrame { code: CloseCode::Policy, reason: "a-secret-key is not welcome".into() };
    let said = |text: String| move || Act::Instead(vec![Message::text(text.clone())]);
    const NO_RPC: &str = "no JSON-RPC";
    const LONG: &str = "longer than any that is taken";
    let lies: Vec<(&str, &str, Lie)> = vec![
        ("garbage", NO_RPC, Box::new(said("<html>a-secret-key</html>".into()))),
        ("nothing", NO_RPC, Box::new(said(String::new()))),
        ("a list", NO_RPC, Box::new(said(r#"[{"id":1,"result":"0x1"}]"#.into()))),
        ("an id of another kind", NO_RPC, Box::new(said(r#"{"id":{"a":[1]},"result":1}"#.into()))),
        ("an id twice", NO_RPC, Box::new(said(r#"{"id":1,"id":2,"result":1}"#.into()))),
        ("bytes", "no text", Box::new(|| Act::Instead(vec![Message::binary(vec![0u8; 1000])]))),
        ("a long message", LONG, Box::new(said("x".repeat(200_000)))),
        ("a frame of 2^62 bytes", LONG, Box::new(|| Act::Raw(header(1 << 62)))),
        ("a long frame that does not come", LONG, Box::new(|| Act::Raw(header(200_000)))),
        ("frames without an end", LONG, Box::new(|| Act::Endless)),
        ("no UTF-8", "utf-8", Box::new(|| Act::Raw(vec![0x81, 2, 0xff, 0xff]))),
        ("no frame", "opcode", Box::new(|| Act::Raw(vec![0xff; 64]))),
        ("a masked frame", "masked", Box::new(|| Act::Raw(vec![0x81, 0x81, 0, 0, 0, 0, b'1']))),
        ("a goodbye", "not welcome", Box::new(move || Act::Instead(vec![Message::Close(Some(close.clone()))]))),
        ("a cut", "", Box::new(|| Act::Cut)),
    ];
    for (name, words, lie) in lies {
        back().await;
        let (failures, opened) = (rpc.endpoints()[0].failures, endpoint.opened());
        endpoint.rule(move |_| lie());
        assert_eq!(id().await, 31337, "{name}");
        let status = &rpc.endpoints()[0];
        assert!(status.failures > failures, "{name}: {status:?}");
        let error = status.last_error.as_ref().unwrap();
        assert!(!error.contains("a-secret-key") && error.contains("eth_chainId"), "{name}: {error}");
        assert!(error.contains(words), "{name}: {error}");
        back().await;
        assert!(endpoint.opened() > opened, "{name}: on a new connection");
    }

    // What is no lie about this call is passed over.
    let strange = json!({ "jsonrpc": "2.0", "id": u64::MAX, "result": "0x1" });
    let ours = json!({ "jsonrpc": "2.0", "id": 1, "method": "zgpu_call", "params": [] });
    let nobodys = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": 1, "message": "m" } });
    let (open, close) = ("[".repeat(40_000), "]".repeat(40_000));
    let nested = format!(r#"{{"id":{},"result":{open}{close}}}"#, u64::MAX);
    let flood: Vec<Message> = (0..20_000).map(|_| announcement()).collect();
    let pings: Vec<Message> = (0..5_000).map(|_| Message::Ping(Bytes::from_static(&[7; 100]))).collect();
    let forms: Vec<(&str, Lie)> = vec![
        ("an unknown id", Box::new(move || Act::Before(vec![text(&strange)]))),
        ("a deep reply to nobody", Box::new(move || Act::Before(vec![Message::text(nested.clone())]))),
        ("a question", Box::new(move || Act::Before(vec![text(&ours)]))),
        ("nobody's error", Box::new(move || Act::Before(vec![text(&nobodys)]))),
        ("the reply twice", Box::new(|| Act::Twice)),
        ("a flood of announcements", Box::new(move || Act::Before(flood.clone()))),
        ("a flood of pings", Box::new(move || Act::Before(pings.clone()))),
    ];
    let rpc = Rpc::new(&endpoint.url, options.clone()).unwrap();
    let before = endpoint.opened();
    for (name, form) in forms {
        endpoint.rule(move |_| form());
        for _ in 0..3 {
            assert_eq!(rpc.call::<_, String>("zgpu_word", "", ()).await.expect(name), "0x77", "{name}");
        }
        assert_eq!((endpoint.opened(), rpc.endpoints()[0].failures), (before + 1, 0), "{name}");
    }

    // Logs that are too long are asked for in smaller pieces: the error says so, and to nobody else.
    let long = |request: &Value| match request["method"].as_str() {
        Some("eth_getLogs") => Act::Answer(json!("x".repeat(200_000))),
        _ => Act::Hang,
    };
    endpoint.rule(long);
    let rpc = Rpc::new(&endpoint.url, RpcOptions { attempts: 1, ..options }).unwrap();
    let (logs, other) = tokio::join!(
        async {
            endpoint.until("the other call waits", |endpoint| endpoint.times("zgpu_hang") > 0).await;
            rpc.call::<_, String>("eth_getLogs", "", ()).await.unwrap_err()
        },
        rpc.call::<_, String>("zgpu_hang", "", ()),
    );
    assert!(matches!(logs, ChainError::TooLong { limit: 100_000, .. }), "{logs}");
    let other = other.unwrap_err();
    assert!(matches!(other, ChainError::Unreachable { .. }), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_of_a_connection_are_told_as_what_they_are() {
    let endpoint = Endpoint::start(None, |_| Act::Answer(json!(5))).await;
    let options = RpcOptions { attempts: 1, max_cool_down: Duration::from_secs(60), ..rpc_options() };
    let asked = async |answer: &str| {
        endpoint.refuse(Some(answer));
        let rpc = Rpc::new(&endpoint.url, options.clone()).unwrap();
        let error = rpc.call::<_, u64>("zgpu_echo", "", ()).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("a-secret-key"), "{error}");
        println!("{error}");
        (error, rpc)
    };
    let (error, _) = asked("HTTP/1.1 403 no\r\ncontent-length: 23\r\n\r\na-secret-key is expired").await;
    assert!(matches!(error, ChainError::Http { status: 403, .. }) && error.to_string().contains("expired"), "{error}");
    let busy = "HTTP/1.1 429 busy\r\nretry-after: 50\r\ncontent-length: 0\r\n\r\n";
    let (error, rpc) = asked(busy).await;
    assert!(matches!(error, ChainError::Http { status: 429, .. }), "{error}");
    // As long as it asks for, no connection is tried.
    let opened = endpoint.opened();
    let error = rpc.call::<_, u64>("zgpu_echo", "", ()).await.unwrap_err();
    assert!(matches!(error, ChainError::Busy { wait, .. } if wait > Duration::from_secs(20)), "{error}");
    assert_eq!(endpoint.opened(), opened);
    let accepted = "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":5}",
        "HTTP/1.1 400 no\r\ncontent-length: 0\r\n\r\n",
        "220 mail.example ESMTP a-secret-key\r\n",
        "",
        &format!("{accepted}\r\n"),
        &format!("{accepted}sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
        &format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(1 << 20)),
    ] {
        let (error, _) = asked(answer).await;
        assert!(matches!(error, ChainError::Unreachable { .. }), "{answer}: {error}");
        assert!(!answer.contains(" 101 ") || error.to_string().contains("does not speak WebSocket"), "{error}");
    }
    let (error, _) = asked(&format!("HTTP/1.1 503 no\r\n\r\n{}", "a-secret-key".repeat(100_000))).await;
    assert!(matches!(error, ChainError::Http { status: 503, .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_of_the_url_are_shown_nowhere() {
    // Of all tests of this process: their URLs have secrets as well.
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer({
        let log = log.clone();
        move || log.clone()
    });
    tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
    let chain = Chain::start(&params()).await;
    let endpoint = Endpoint::start(Some(&chain), |_| Act::Forward).await;
    let url = endpoint.url.replace("ws://", "ws://user:hunter22@") + "?key=topsecret";
    let dead = "ws://user:hunter22@127.0.0.1:1/a-secret-key?key=topsecret";
    let client = chain.over(&[&url, dead, &chain.anvil.endpoint()]).await;
    let synced = chain.sync(client.clone(), Duration::from_millis(20));
    synced.settled(&chain).await;
    let told = CloseFrame { code: CloseCode::Policy, reason: "hunter22 topsecret a-secret-key".into() };
    for act in [0, 1, 2] {
        let told = told.clone();
        endpoint.rule(move |_| match act {
            0 => Act::Instead(vec![Message::Close(Some(told.clone()))]),
            1 => Act::Error(-32000, "hunter22 topsecret a-secret-key"),
            _ => Act::Instead(vec![Message::text("hunter22 topsecret a-secret-key")]),
        });
        let failures = client.rpc().endpoints()[0].failures;
        if act == 1 {
            let options = RpcOptions { attempts: 1, ..rpc_options() };
            let error = Rpc::new(&url, options).unwrap().call::<_, U64>("eth_chainId", "", ()).await.unwrap_err();
            log.0.lock().unwrap().extend_from_slice(error.to_string().as_bytes());
            assert!(matches!(error, ChainError::Rpc { .. }), "{error}");
        } else {
            until("it fails", || client.rpc().endpoints()[0].failures > failures).await;
        }
        endpoint.rule(|_| Act::Forward);
    }
    endpoint.refuse(Some("HTTP/1.1 403 no\r\ncontent-length: 31\r\n\r\nhunter22 topsecret a-secret-key"));
    let refused = Rpc::new(&url, rpc_options()).unwrap().call::<_, U64>("eth_chainId", "", ()).await.unwrap_err();
    let shown = format!("{refused} {refused:?} {:?} {client:?}", client.rpc().endpoints());
    let lines = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(lines.contains("an endpoint fails, others are asked meanwhile"), "the log is heard");
    for text in [&shown, &lines] {
        for secret in ["hunter22", "topsecret", "a-secret-key"] {
            assert_eq!(text.lines().find(|line| line.contains(secret)), None);
        }
    }
}

/// What was written to the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
