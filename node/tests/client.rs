//! Upload and download against real nodes: a real chain with the contracts, stores behind their own RPC, and between
//! client and node whatever may stand there: connections that die, nodes that lie, servers that never end.

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use alloy::{
    node_bindings::{Anvil, AnvilInstance},
    primitives::U256,
    providers::ProviderBuilder,
    signers::local::PrivateKeySigner,
    transports::http::reqwest,
};
use axum::{Router, body::Bytes, http::StatusCode, response::IntoResponse, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use zgpu_core::{
    H256,
    file::{FileShape, FileTree},
    shard::Shard,
    units::{BYTES_PER_LOAD, BYTES_PER_SECTOR},
};
use zgpu_node::{
    chain::{
        anvil::find_anvil,
        client::ChainClient,
        contracts::{DeployParams, Deployment, deploy},
        keys::Key,
        rpc::RpcOptions,
        tx::{TxManager, TxPolicy},
        upload::{FileSubmission, submit_file},
    },
    client::{
        Progress,
        download::{DownloadOptions, Downloaded, Wanted, download},
        error::ClientError,
        indexer::Indexer,
        network::{connect, identify},
        node::{NodeError, NodeOptions, StorageNode},
        upload::{Payer, SourceFile, UploadOptions, Uploaded, upload},
    },
    duties::sync::{LogSync, SyncOptions},
    rpc::{Connections, NetworkIdentity, NodeStatus, ProtocolVersion, RpcConfig, RpcHandle, any_local_port, serve},
    store::{Settings, Store},
};

/// Longer than anything here takes; what waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);
const PRICE: u64 = 1000;

fn runs<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let output = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("it does not hang") });
    runtime.shutdown_timeout(Duration::from_secs(1));
    output
}

/// A chain with the contracts.
struct Chain {
    anvil: AnvilInstance,
    contracts: Deployment,
    client: ChainClient,
}

impl Chain {
    async fn start() -> Chain {
        let anvil = Anvil::at(find_anvil().unwrap()).host("127.0.0.1").timeout(60_000).try_spawn().unwrap();
        let provider = ProviderBuilder::new().disable_recommended_fillers().connect_http(anvil.endpoint_url());
        let params = DeployParams { price_per_sector: U256::from(PRICE), ..DeployParams::default() };
        let contracts = deploy(&provider, anvil.addresses()[0], &params).await.unwrap();
        let rpc = RpcOptions { timeout: Duration::from_secs(20), ..RpcOptions::default() };
        let client = connect(&[anvil.endpoint()], rpc, Some(anvil.chain_id()), contracts.flow).await.unwrap();
        assert_eq!(client.contracts().mine, contracts.mine, "the mine contract follows from the flow contract");
        Chain { anvil, contracts, client }
    }

    fn key(&self) -> PrivateKeySigner {
        PrivateKeySigner::from(self.anvil.keys()[1].clone())
    }

    fn payer(&self) -> Payer {
        let policy = TxPolicy { poll: Duration::from_millis(50), ..TxPolicy::default() };
        let (rpc, id) = (self.client.rpc().clone(), self.client.chain_id());
        Payer { chain: self.client.clone(), account: TxManager::new(rpc, id, Key::from(self.key()), policy) }
    }

    async fn submissions(&self) -> u64 {
        self.client.flow_state().await.unwrap().submissions
    }

    async fn ask(&self, method: &'static str, params: Value) {
        let _: Value = self.client.rpc().call(method, "", params).await.unwrap();
    }
}

/// A storage node that follows the chain.
struct Node {
    rpc: RpcHandle,
    store: Store,
    sync: Option<LogSync>,
    status: Option<watch::Sender<NodeStatus>>,
    _dir: TempDir,
}

impl Node {
    async fn start(chain: &Chain) -> Node {
        Node::with_shard(chain, Shard::WHOLE).await
    }

    /// A node that keeps a share of the flow.
    async fn with_shard(chain: &Chain, shard: Shard) -> Node {
        let mut node = Node::blind(chain).await;
        node.store.set_shard(shard).unwrap();
        node.follow(chain);
        node
    }

    /// A node that does not follow the chain yet.
    async fn blind(chain: &Chain) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
        let store = Store::open_with(dir.path(), settings).unwrap();
        let (status, watching) = watch::channel(NodeStatus::default());
        let network = NetworkIdentity {
            chain_id: chain.client.chain_id(),
            flow_address: chain.contracts.flow.to_string().to_lowercase(),
            p2p_protocol_version: ProtocolVersion { major: 0, minor: 4, build: 0 },
        };
        let config = RpcConfig::new(any_local_port(), network);
        let rpc = serve(config, Connections { store: store.clone(), status: watching, miner: None, files: None })
            .await
            .unwrap();
        Node { rpc, store, sync: None, status: Some(status), _dir: dir }
    }

    fn follow(&mut self, chain: &Chain) {
        let options = SyncOptions {
            start_block: chain.contracts.start_block,
            confirmations: 0,
            poll: Duration::from_millis(100),
            ..SyncOptions::default()
        };
        let sync = LogSync::start(chain.client.clone(), self.store.clone(), options);
        sync.publish(self.status.take().expect("it does not follow yet"));
        self.sync = Some(sync);
    }

    fn address(&self) -> SocketAddr {
        self.rpc.address()
    }

    fn client(&self) -> StorageNode {
        node_at(self.address())
    }
}

fn node_at(address: SocketAddr) -> StorageNode {
    node_with(address, |_| ())
}

fn node_with(address: SocketAddr, change: impl FnOnce(&mut NodeOptions)) -> StorageNode {
    let mut options = NodeOptions {
        timeout: Duration::from_secs(30),
        backoff: Duration::from_millis(10),
        busy_wait: Duration::from_millis(20),
        ..NodeOptions::default()
    };
    change(&mut options);
    StorageNode::new(&format!("http://{address}"), options).unwrap()
}

fn quick() -> UploadOptions {
    let limit = Duration::from_secs(60);
    UploadOptions {
        seen_within: limit,
        finalised_within: Some(limit),
        pending_within: limit,
        poll: Duration::from_millis(50),
        ..UploadOptions::default()
    }
}

/// A file of random bytes.
struct Sample {
    dir: TempDir,
    data: Vec<u8>,
    file: SourceFile,
}

impl Sample {
    fn new(size: usize, seed: u64) -> Self {
        let mut data = vec![0; size];
        StdRng::seed_from_u64(seed).fill_bytes(&mut data);
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("in"), &data).unwrap();
        let file = SourceFile::open(&dir.path().join("in"), &()).unwrap();
        Sample { dir, data, file }
    }

    fn root(&self) -> H256 {
        self.file.tree().root()
    }

    fn segments(&self) -> u64 {
        self.file.tree().shape().segments()
    }

    async fn up(&self, nodes: &[StorageNode], payer: Option<&Payer>) -> Result<Uploaded, ClientError> {
        upload(nodes, payer, &self.file, &quick(), &()).await
    }

    /// Downloads the file and compares it.
    async fn down(&self, nodes: &[StorageNode], options: &DownloadOptions) -> Result<Downloaded, ClientError> {
        let out = self.dir.path().join("out");
        let done = download(nodes, Wanted::Root(self.root()), &out, options, &()).await?;
        assert!(fs::read(&out).unwrap() == self.data, "other bytes came back");
        assert!(!self.partial().exists(), "the partial file is gone");
        fs::remove_file(&out).unwrap();
        Ok(done)
    }

    fn partial(&self) -> std::path::PathBuf {
        self.dir.path().join("out.download")
    }

    /// Offset in the partial file.
    fn offset(&self) -> u64 {
        let bytes = fs::read(self.partial()).unwrap();
        assert_eq!(bytes.len(), self.data.len() + 48);
        let offset = u64::from_be_bytes(bytes[bytes.len() - 8..].try_into().unwrap());
        assert!(bytes[..offset as usize] == self.data[..offset as usize], "what counts as come is right");
        offset
    }
}

#[test]
fn files_of_all_sizes_go_up_and_come_back() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let (nodes, payer) = ([node.client()], chain.payer());
        assert_eq!(identify(&nodes).await.unwrap().flow, chain.contracts.flow);
        let sizes = [1, 256, BYTES_PER_LOAD - 1, BYTES_PER_LOAD, BYTES_PER_LOAD + 1, 3 << 20, 20 << 20];
        for (seq, size) in (0..).zip(sizes) {
            let sample = Sample::new(size, seq);
            let before = chain.client.balance(chain.contracts.flow).await.unwrap();
            let done = sample.up(&nodes, Some(&payer)).await.unwrap();
            assert_eq!((done.root, done.size, done.tx_seq), (sample.root(), size as u64, seq));
            assert_eq!(done.finalised, Some(true));
            let paid = done.paid.expect("it is new");
            let sectors = sample.file.tree().shape().padded_sectors();
            assert_eq!(paid.fee_wei, (sectors * PRICE).to_string());
            assert_eq!(chain.client.balance(chain.contracts.flow).await.unwrap(), before, "nothing is paid too much");
            assert_eq!((done.nodes[0].sent, done.nodes[0].had, done.dropped.len()), (sample.segments(), 0, 0));
            assert!(node.store.is_finalised(seq).unwrap());

            let again = sample.up(&nodes, Some(&payer)).await.unwrap();
            assert!(again.paid.is_none() && again.tx_seq == seq && again.nodes[0].sent == 0, "{again:?}");
            let unpaid = sample.up(&nodes, None).await.unwrap();
            assert!(unpaid.paid.is_none() && unpaid.tx_seq == seq);

            for proof in [true, false] {
                let options = DownloadOptions { proof, ..DownloadOptions::default() };
                let done = sample.down(&nodes, &options).await.unwrap();
                assert_eq!((done.tx_seq, done.resumed_bytes), (seq, 0));
                assert_eq!(done.nodes, BTreeMap::from([(nodes[0].url().to_owned(), sample.segments())]));
            }
            let out = sample.dir.path().join("by-seq");
            download(&nodes, Wanted::Seq(seq), &out, &DownloadOptions::default(), &()).await.unwrap();
            assert!(fs::read(&out).unwrap() == sample.data);
        }
        assert_eq!(chain.submissions().await, sizes.len() as u64);

        let unknown = Sample::new(77, 99);
        assert!(matches!(unknown.up(&nodes, None).await, Err(ClientError::NotSubmitted { .. })));
        let error = unknown.down(&nodes, &DownloadOptions::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { .. }) && error.to_string().contains(nodes[0].url()), "{error}");
        assert!(!unknown.partial().exists(), "nothing is begun for a file that nobody knows");
    });
}

/// Bytes pass until so many went to the node, or came from it; then the node is dead.
struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    async fn start(target: SocketAddr, to_node: usize, from_node: usize) -> Relay {
        let listener = TcpListener::bind(any_local_port()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, came) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (dead, died) = watch::channel(());
        let dead = Arc::new(dead);
        let task = tokio::spawn(async move {
            let mut died_first = died.clone();
            let accepting = async {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    let (sent, came, dead, mut died) = (sent.clone(), came.clone(), dead.clone(), died.clone());
                    tokio::spawn(async move {
                        let Ok(node) = TcpStream::connect(target).await else { return };
                        let (client, node) = (client.into_split(), node.into_split());
                        tokio::select! {
                            () = pass(client.0, node.1, &sent, to_node, &dead) => {}
                            () = pass(node.0, client.1, &came, from_node, &dead) => {}
                            _ = died.changed() => {}
                        }
                    });
                }
            };
            tokio::select! {
                () = accepting => {}
                _ = died_first.changed() => {}
            }
        });
        Relay { address, task }
    }

    fn is_dead(&self) -> bool {
        self.task.is_finished()
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    count: &AtomicUsize,
    limit: usize,
    dead: &watch::Sender<()>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
        if count.fetch_add(bytes, Ordering::SeqCst) + bytes > limit {
            dead.send_replace(());
            return;
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

#[test]
fn an_interrupted_upload_goes_on_with_what_is_missing() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let payer = chain.payer();
        let sample = Sample::new(40 * BYTES_PER_LOAD + 1000, 1);
        // 10 segments make 3.5 MB: two requests get through, one after the other, and the third does not.
        let relay = Relay::start(node.address(), 9 << 20, usize::MAX).await;
        let options = UploadOptions { tasks: 1, ..quick() };
        let error = upload(&[node_at(relay.address)], Some(&payer), &sample.file, &options, &()).await.unwrap_err();
        assert!(relay.is_dead());
        let text = error.to_string();
        assert!(matches!(error, ClientError::NotCovered { .. }), "{text}");
        assert!(text.contains(&relay.address.to_string()) && text.contains("zgs_uploadSegmentsByTxSeq"), "{text}");

        let status = node.store.status(0).unwrap().unwrap();
        assert!(!status.finalised && status.stored > 0, "{status:?}");
        let counting = Proxy::start(node.address(), |_, reply| reply).await;
        let done = sample.up(&[node_at(counting.address)], Some(&payer)).await.unwrap();
        assert!(done.paid.is_none() && done.finalised == Some(true));
        assert_eq!(chain.submissions().await, 1, "nothing is paid twice");
        assert_eq!(done.nodes[0].had, status.stored);
        assert_eq!(done.nodes[0].sent, sample.segments() - status.stored);
        assert_eq!(counting.segments_sent(), done.nodes[0].sent, "only what was missing went over the wire");
        sample.down(&[node.client()], &DownloadOptions::default()).await.unwrap();
    });
}

#[test]
fn a_submission_that_nodes_have_not_seen_is_not_paid_again() {
    runs(async {
        let chain = Chain::start().await;
        let payer = chain.payer();
        let mut node = Node::blind(&chain).await;
        let (mined, pending) = (Sample::new(5000, 1), Sample::new(6000, 2));
        // An upload that was killed after its transaction was mined.
        submit_file(&chain.client, &payer.account, &FileSubmission::of(mined.file.tree())).await.unwrap();
        // And one that was killed before: the transaction waits for a block.
        chain.ask("evm_setAutomine", json!([false])).await;
        let (client, account) = (chain.client.clone(), chain.payer().account);
        let submission = FileSubmission::of(pending.file.tree());
        let killed = tokio::spawn(async move { submit_file(&client, &account, &submission).await });
        let count = async |at: &'static str| -> String {
            chain.client.rpc().call("eth_getTransactionCount", at, (payer.account.address(), at)).await.unwrap()
        };
        let started = Instant::now();
        while count("pending").await == count("latest").await {
            assert!(started.elapsed() < PATIENCE, "the transaction is never sent");
        }
        killed.abort();

        let told = Arc::new(Told::default());
        let up = {
            let (payer, told, address) = (chain.payer(), told.clone(), [node.client()]);
            async move {
                let first = upload(&address, Some(&payer), &pending.file, &quick(), &*told).await.unwrap();
                let second = upload(&address, Some(&payer), &mined.file, &quick(), &()).await.unwrap();
                (first, second)
            }
        };
        let up = tokio::spawn(up);
        told.until("waiting for 1 transactions").await;
        chain.ask("evm_setAutomine", json!([true])).await;
        chain.ask("evm_mine", json!([])).await;
        told.until("the chain has the file already, as transaction 1").await;
        node.follow(&chain);
        let (first, second) = up.await.unwrap();
        assert!(first.paid.is_none() && first.tx_seq == 1 && first.finalised == Some(true), "{first:?}");
        assert!(second.paid.is_none() && second.tx_seq == 0, "{second:?}");
        assert_eq!(chain.submissions().await, 2);
    });
}

/// Remembers what a person would be told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn begin(&self, _: &'static str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn note(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

impl Told {
    async fn until(&self, text: &str) {
        let started = Instant::now();
        while !self.0.lock().unwrap().iter().any(|note| note.contains(text)) {
            assert!(started.elapsed() < PATIENCE, "{text:?} is never said: {:?}", self.0.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What a proxy does with a call: its method, and what the node answers to it.
type Behaviour = dyn Fn(&str, Value) -> Value + Send + Sync;

/// An HTTP server in front of a node that changes what the node says.
struct Proxy {
    address: SocketAddr,
    sent: Arc<AtomicUsize>,
    _server: Aborted,
}

/// A task that ends with its owner.
struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Proxy {
    async fn start(target: SocketAddr, behave: impl Fn(&str, Value) -> Value + Send + Sync + 'static) -> Proxy {
        let behave: Arc<Behaviour> = Arc::new(behave);
        let sent = Arc::new(AtomicUsize::new(0));
        let counting = sent.clone();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let handle = move |body: Bytes| {
            let (behave, counting, client) = (behave.clone(), counting.clone(), client.clone());
            async move {
                let request: Value = serde_json::from_slice(&body).unwrap();
                let method = request["method"].as_str().unwrap_or("batch").to_owned();
                if method.starts_with("zgs_upload") {
                    counting.fetch_add(request["params"][0].as_array().map_or(1, Vec::len), Ordering::SeqCst);
                }
                let reply = client.post(format!("http://{target}")).header("content-type", "application/json");
                let Ok(reply) = reply.body(body).send().await else { return StatusCode::BAD_GATEWAY.into_response() };
                let reply: Value = serde_json::from_slice(&reply.bytes().await.unwrap()).unwrap();
                behave(&method, reply).to_string().into_response()
            }
        };
        let (address, _server) = serve_posts(handle).await;
        Proxy { address, sent, _server }
    }

    fn segments_sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst) as u64
    }
}

async fn serve_posts<F, R>(handle: F) -> (SocketAddr, Aborted)
where
    F: FnOnce(Bytes) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = axum::response::Response> + Send + 'static,
{
    let listener = TcpListener::bind(any_local_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/", post(handle)).layer(axum::extract::DefaultBodyLimit::disable());
    (address, Aborted(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })))
}

#[test]
fn another_node_takes_the_place_of_one_that_dies() {
    runs(async {
        let chain = Chain::start().await;
        let (first, second) = (Node::start(&chain).await, Node::start(&chain).await);
        let sample = Sample::new(30 * BYTES_PER_LOAD, 1);
        let relay = Relay::start(first.address(), 5 << 20, usize::MAX).await;
        let nodes = [node_at(relay.address), second.client()];
        let done = sample.up(&nodes, Some(&chain.payer())).await.unwrap();
        assert!(relay.is_dead());
        assert_eq!(done.nodes.len(), 1);
        assert_eq!((done.nodes[0].node.as_str(), done.nodes[0].sent), (second.client().url(), 30));
        assert_eq!(done.dropped.len(), 1);
        assert!(done.dropped[0].node.ends_with(&relay.address.to_string()) && done.finalised == Some(true));
        assert!(second.store.is_finalised(0).unwrap() && !first.store.is_finalised(0).unwrap());

        // Two copies, of which one is there already.
        let options = UploadOptions { replicas: 2, ..quick() };
        let nodes = [first.client(), second.client()];
        let done = upload(&nodes, Some(&chain.payer()), &sample.file, &options, &()).await.unwrap();
        assert!(done.paid.is_none() && first.store.is_finalised(0).unwrap());
        assert_eq!(done.nodes.iter().map(|share| share.sent + share.had).collect::<Vec<_>>(), [30, 30]);
        // Three are not to be had, though one is named twice; and that is known before anything is paid.
        let other = Sample::new(100, 2);
        let options = UploadOptions { replicas: 3, ..quick() };
        let nodes = [first.client(), second.client(), first.client()];
        let error = upload(&nodes, Some(&chain.payer()), &other.file, &options, &()).await.unwrap_err();
        assert!(matches!(error, ClientError::NotCovered { wanted: 3, .. }), "{error}");
        assert_eq!(chain.submissions().await, 1);

        // A download goes on with the other node when one dies.
        let relay = Relay::start(first.address(), usize::MAX, 2 << 20).await;
        let nodes = [node_at(relay.address), second.client()];
        let done = sample.down(&nodes, &DownloadOptions::default()).await.unwrap();
        assert!(relay.is_dead() && done.dropped.len() == 1, "{done:?}");
        assert!(done.nodes[second.client().url()] >= 15);
    });
}

#[test]
fn nodes_that_keep_shares_get_theirs_and_give_it_back() {
    runs(async {
        let chain = Chain::start().await;
        let shard = |text: &str| -> Shard { text.parse().unwrap() };
        let nodes = [
            Node::with_shard(&chain, shard("0/2")).await,
            Node::with_shard(&chain, shard("1/2")).await,
            Node::with_shard(&chain, shard("1/4")).await,
        ];
        let clients: Vec<StorageNode> = nodes.iter().map(Node::client).collect();
        let payer = chain.payer();
        let sample = Sample::new(21 * BYTES_PER_LOAD + 900, 1);
        let error = sample.up(&clients[..1], Some(&payer)).await.unwrap_err();
        assert!(matches!(error, ClientError::NotCovered { .. }) && error.to_string().contains("shard 1/2"), "{error}");
        assert_eq!(chain.submissions().await, 0, "nothing is paid for what cannot be stored");

        let counting = [
            Proxy::start(nodes[0].address(), |_, reply| reply).await,
            Proxy::start(nodes[1].address(), |_, reply| reply).await,
            Proxy::start(nodes[2].address(), |_, reply| reply).await,
        ];
        let proxied: Vec<StorageNode> = counting.iter().map(|proxy| node_at(proxy.address)).collect();
        let done = sample.up(&proxied, Some(&payer)).await.unwrap();
        assert_eq!(done.finalised, Some(true));
        let first_load = done.start_sector / 1024;
        let share = |text: &str| (0..22).filter(|index| shard(text).contains(first_load + index)).count() as u64;
        assert_eq!(done.nodes.iter().map(|node| node.shard.as_str()).collect::<Vec<_>>(), ["0/2", "1/2"]);
        assert_eq!(counting.map(|proxy| proxy.segments_sent()), [share("0/2"), share("1/2"), 0]);
        assert_eq!(nodes.each_ref().map(|node| node.store.is_finalised(0).unwrap()), [true, true, false]);

        let got = sample.down(&clients, &DownloadOptions::default()).await.unwrap();
        assert_eq!(got.nodes[clients[0].url()] + got.nodes[clients[1].url()], 22, "{got:?}");
        assert_eq!(got.dropped, [], "the third has nothing of its share, which is no lie");
        let error = sample.down(&clients[..1], &DownloadOptions::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::Segment { .. }), "{error}");
        sample.down(&clients, &DownloadOptions { proof: false, ..DownloadOptions::default() }).await.unwrap();

        // Two copies of each part: the third joins for what it keeps, and that is not all of the second copy.
        let options = UploadOptions { replicas: 2, ..quick() };
        let error = upload(&clients, Some(&payer), &sample.file, &options, &()).await.unwrap_err();
        assert!(matches!(error, ClientError::NotCovered { wanted: 2, .. }), "{error}");
        // A file below a segment lies in one load, which one of them keeps; the other has nothing to wait for.
        for (seed, size) in (2..).zip([300, 70_000, 200_000]) {
            let small = Sample::new(size, seed);
            let done = small.up(&clients, Some(&payer)).await.unwrap();
            assert_eq!(done.nodes.iter().map(|node| node.sent).sum::<u64>(), 1, "{done:?}");
            small.down(&clients, &DownloadOptions::default()).await.unwrap();
        }
    });
}

#[test]
fn an_interrupted_download_goes_on_where_it_was() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let sample = Sample::new(30 * BYTES_PER_LOAD + 17, 1);
        sample.up(&[node.client()], Some(&chain.payer())).await.unwrap();
        let options = DownloadOptions { parallel: 3, ..DownloadOptions::default() };
        let relay = Relay::start(node.address(), usize::MAX, 4 << 20).await;
        let error = sample.down(&[node_at(relay.address)], &options).await.unwrap_err();
        assert!(matches!(error, ClientError::Segment { .. }), "{error}");
        assert!(error.to_string().contains(&relay.address.to_string()), "{error}");
        let offset = sample.offset();
        assert!(offset > 0 && offset < sample.data.len() as u64);

        // Somebody damages what is there: the whole is checked, and nothing wrong gets the file's name.
        let mut bytes = fs::read(sample.partial()).unwrap();
        let kept = bytes.clone();
        bytes[3] ^= 1;
        fs::write(sample.partial(), &bytes).unwrap();
        let error = sample.down(&[node.client()], &options).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongRoot { .. }), "{error}");
        assert!(!sample.partial().exists() && !sample.dir.path().join("out").exists());

        fs::write(sample.partial(), &kept).unwrap();
        let counting = Proxy::start(node.address(), |_, reply| reply).await;
        let done = sample.down(&[node_at(counting.address)], &options).await.unwrap();
        assert_eq!(done.resumed_bytes, offset);
        assert_eq!(done.nodes.values().sum::<u64>(), sample.segments() - offset / BYTES_PER_LOAD as u64);

        // What exists stays, unless it may go.
        let out = sample.dir.path().join("out");
        fs::write(&out, "mine").unwrap();
        let error = sample.down(&[node.client()], &options).await.unwrap_err();
        assert!(matches!(error, ClientError::Exists { .. }) && error.to_string().contains("--force"), "{error}");
        assert_eq!(fs::read(&out).unwrap(), b"mine");
        sample.down(&[node.client()], &DownloadOptions { force: true, ..options }).await.unwrap();
    });
}

#[test]
fn nodes_that_lie_are_named_and_left_out() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let sample = Sample::new(9 * BYTES_PER_LOAD + 300, 1);
        let shape = *sample.file.tree().shape();
        sample.up(&[node.client()], Some(&chain.payer())).await.unwrap();

        fn segment(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Arc<Behaviour> {
            Arc::new(move |method, mut reply| {
                if method == "zgs_downloadSegmentWithProofByTxSeq" {
                    change(&mut reply["result"]);
                }
                reply
            })
        }
        fn info(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Arc<Behaviour> {
            Arc::new(move |method, mut reply| {
                if method.starts_with("zgs_getFileInfo") {
                    change(&mut reply["result"]);
                }
                reply
            })
        }
        let flip = |result: &mut Value| {
            let mut data = STANDARD.decode(result["data"].as_str().unwrap()).unwrap();
            data[9] ^= 1;
            result["data"] = json!(STANDARD.encode(data));
        };
        let lies: Vec<(&str, &str, Arc<Behaviour>)> = vec![
            ("other data", "not the root of the data", segment(flip)),
            ("too little data", "bytes, expected", segment(|result| result["data"] = json!(STANDARD.encode([7; 256])))),
            ("no data", "bytes, expected", segment(|result| result["data"] = json!(""))),
            ("no base64", "not understood", segment(|result| result["data"] = json!("!!!"))),
            ("too much", "more than", segment(|result| result["data"] = json!("A".repeat(2 << 20)))),
            ("no proof", "lemma and path", segment(|result| result["proof"] = json!({"lemma": [], "path": []}))),
            (
                "a proof of another shape",
                "lemma and path",
                segment(|result| {
                    result["proof"]["path"].as_array_mut().unwrap().push(json!(true));
                }),
            ),
            (
                "other siblings",
                "do not lead to the root",
                segment(|result| result["proof"]["lemma"][1] = json!(H256([3; 32]))),
            ),
            ("another result", "not understood", segment(|result| *result = json!([1, 2, 3]))),
            ("another root", "not asked for", info(|result| result["tx"]["dataMerkleRoot"] = json!(H256([3; 32])))),
            ("another size", "is wrong", info(|result| result["tx"]["size"] = json!(4 * BYTES_PER_LOAD))),
            ("no size", "empty", info(|result| result["tx"]["size"] = json!(0))),
            ("an endless size", "limit", info(|result| result["tx"]["size"] = json!(u64::MAX))),
            ("no levels", "levels", info(|result| result["tx"]["merkleNodes"][0][0] = json!(0))),
            ("no transaction", "not understood", info(|result| result["tx"] = json!(null))),
        ];
        for (what, words, behave) in lies {
            let liar = Proxy::start(node.address(), move |method, reply| behave(method, reply)).await;
            let nodes = [node_at(liar.address), node.client()];
            let done = sample.down(&nodes, &DownloadOptions::default()).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(done.dropped.len(), 1, "{what}: {done:?}");
            assert_eq!(done.dropped[0].node, nodes[0].url(), "{what}");
            assert!(done.dropped[0].reason.contains(words), "{what}: {}", done.dropped[0].reason);
            assert_eq!(done.nodes.get(nodes[0].url()), None, "{what}: nothing is taken from it");
            let error = sample.down(&nodes[..1], &DownloadOptions::default()).await.unwrap_err().to_string();
            assert!(error.contains(nodes[0].url()) && error.contains(words), "{what}: {error}");
            assert!(!sample.dir.path().join("out").exists());
        }

        // Files that differ in zeros at their end have one root: proofs do not tell them apart.
        let longer = shape.size() + 1;
        let liar = Proxy::start(node.address(), move |method, mut reply| {
            if method.starts_with("zgs_getFileInfo") {
                reply["result"]["tx"]["size"] = json!(longer);
            }
            reply
        });
        let liar = liar.await;
        let last = sample.data.len() % BYTES_PER_SECTOR;
        assert!(last != 0, "the last sector has room for another byte");
        let error =
            sample.down(&[node_at(liar.address), node.client()], &DownloadOptions::default()).await.unwrap_err();
        assert!(matches!(error, ClientError::Disagree { .. }), "{error}");

        // A node that says that it has nothing is asked for other segments, and not blamed.
        let forgetful = Proxy::start(node.address(), |method, mut reply| {
            if method == "zgs_downloadSegmentWithProofByTxSeq" && reply["result"]["index"].as_u64() > Some(4) {
                reply["result"] = Value::Null;
            }
            reply
        });
        let forgetful = forgetful.await;
        let nodes = [node_at(forgetful.address), node.client()];
        let done = sample.down(&nodes, &DownloadOptions::default()).await.unwrap();
        assert_eq!(done.dropped, []);
        let error = sample.down(&nodes[..1], &DownloadOptions::default()).await.unwrap_err().to_string();
        assert!(error.contains("segment 5 of 10") && error.contains("does not have segment 5"), "{error}");

        // Without proofs a lie is found out at the end, and nothing of it is left.
        let liar = Proxy::start(node.address(), |method, mut reply| {
            if method == "zgs_downloadSegmentByTxSeq" {
                let mut data = STANDARD.decode(reply["result"].as_str().unwrap()).unwrap();
                data[0] ^= 1;
                reply["result"] = json!(STANDARD.encode(data));
            }
            reply
        });
        let liar = liar.await;
        fs::remove_file(sample.partial()).unwrap();
        let blind = DownloadOptions { proof: false, ..DownloadOptions::default() };
        let error = sample.down(&[node_at(liar.address)], &blind).await.unwrap_err();
        assert!(matches!(error, ClientError::WrongRoot { .. }) && error.to_string().contains("--no-proof"), "{error}");
        assert!(!sample.partial().exists() && !sample.dir.path().join("out").exists());
    });
}

#[test]
fn nodes_that_lie_about_submissions_are_left_out() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let payer = chain.payer();
        let other = Sample::new(700, 1);
        other.up(&[node.client()], Some(&payer)).await.unwrap();
        let sample = Sample::new(900, 2);
        let nodes = sample.file.tree().submission_nodes();
        let nodes: Vec<_> = nodes.iter().map(|node| json!([node.height + 1, node.root])).collect();
        for (seq, words) in [(0u64, "others know as another one"), (1 << 40, "is transaction 1099511627776 of")] {
            let root = sample.root();
            let (nodes, sample) = (nodes.clone(), Sample::new(900 + seq.min(1) as usize, 2 + seq));
            let claimed = if seq == 0 { root } else { sample.root() };
            let claim = json!({
                "tx": {
                    "streamIds": [], "data": [], "dataMerkleRoot": claimed, "merkleNodes": nodes, "startEntryIndex": 4,
                    "size": sample.data.len(), "seq": seq,
                },
                "finalized": true, "isCached": false, "uploadedSegNum": 1, "pruned": false,
            });
            let claims = move |method: &str, mut reply: Value| {
                if method.starts_with("zgs_getFileInfo") {
                    reply["result"] = claim.clone();
                }
                reply
            };
            let liar = Proxy::start(node.address(), claims).await;
            let both = [node_at(liar.address), node.client()];
            let done = sample.up(&both, Some(&payer)).await.unwrap();
            assert!(done.paid.is_some(), "the file is stored all the same: {done:?}");
            assert_eq!((done.dropped.len(), done.nodes.len()), (1, 1));
            assert!(done.dropped[0].node == both[0].url() && done.dropped[0].reason.contains(words), "{done:?}");
            sample.down(&both[1..], &DownloadOptions::default()).await.unwrap();
        }

        // A node of another network gets nothing, and one that names a contract of its own is not believed.
        let stranger = |change: fn(&mut Value)| {
            Proxy::start(node.address(), move |method, mut reply| {
                if method == "zgs_getStatus" {
                    change(&mut reply["result"]["networkIdentity"]);
                }
                reply
            })
        };
        let foreign = stranger(|identity| identity["chainId"] = json!(1)).await;
        let new = Sample::new(1000, 7);
        let error = new.up(&[node_at(foreign.address)], Some(&payer)).await.unwrap_err().to_string();
        assert!(error.contains("serves chain 1 ") && error.contains("expected chain 31337"), "{error}");
        let error = identify(&[node.client(), node_at(foreign.address)]).await.unwrap_err();
        assert!(matches!(error, ClientError::OtherNetwork { chain_id: 1, .. }), "{error}");
        let thief = stranger(|identity| identity["chainId"] = json!(16661)).await;
        let error = identify(&[node_at(thief.address)]).await.unwrap_err();
        assert!(matches!(error, ClientError::StrangeFlow { network: "mainnet", .. }), "{error}");
        let nonsense = stranger(|identity| identity["flowAddress"] = json!("x".repeat(10_000))).await;
        let error = identify(&[node_at(nonsense.address)]).await.unwrap_err().to_string();
        assert!(error.len() < 500 && error.contains("xxx"), "{error}");
    });
}

#[test]
fn busy_nodes_are_waited_for_and_duplicates_are_no_failure() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let sample = Sample::new(12 * BYTES_PER_LOAD, 1);
        let refuse = |text: &str| json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": text}});
        // The node does its work each time, and says otherwise: what comes again is a duplicate in the old words, for the
        // first of the segments and then for each.
        let calls = AtomicUsize::new(0);
        let busy = Proxy::start(node.address(), move |method, reply| match (method, calls.load(Ordering::SeqCst)) {
            ("zgs_uploadSegmentsByTxSeq", call @ (0 | 1)) => {
                calls.store(call + 1, Ordering::SeqCst);
                refuse("too many data writing: 16")
            }
            ("zgs_uploadSegmentsByTxSeq", call @ 2..20) => {
                calls.store(call + 1, Ordering::SeqCst);
                refuse("segment has already been uploaded or is being uploaded")
            }
            _ => reply,
        });
        let busy = busy.await;
        let done = sample.up(&[node_at(busy.address)], Some(&chain.payer())).await.unwrap();
        assert!(done.finalised == Some(true) && done.dropped.is_empty(), "{done:?}");
        sample.down(&[node.client()], &DownloadOptions::default()).await.unwrap();

        // One that is always busy is given up.
        let sample = Sample::new(100, 2);
        let always = Proxy::start(node.address(), move |method, reply| match method {
            "zgs_uploadSegmentsByTxSeq" => refuse("too many data writing: 16"),
            _ => reply,
        });
        let always = always.await;
        let patient = node_with(always.address, |options| options.busy_tries = 2);
        let error = sample.up(&[patient], Some(&chain.payer())).await.unwrap_err().to_string();
        assert!(error.contains("too many data writing: 16"), "{error}");
        assert_eq!(always.segments_sent(), 3, "the first time, and twice more");

        // A node that does not see the transaction in time is named, with what it has seen.
        let blind = Node::blind(&chain).await;
        let options = UploadOptions { seen_within: Duration::from_millis(100), ..quick() };
        let sample = Sample::new(101, 3);
        let error = upload(&[blind.client()], Some(&chain.payer()), &sample.file, &options, &()).await.unwrap_err();
        assert!(error.to_string().contains("it has read the chain up to block 0"), "{error}");

        // And one that never completes the file too.
        let never = Proxy::start(node.address(), |method, mut reply| {
            if method == "zgs_getFileInfoByTxSeq" {
                reply["result"]["finalized"] = json!(false);
            }
            reply
        });
        let never = never.await;
        let options = UploadOptions { finalised_within: Some(Duration::from_millis(100)), ..quick() };
        let error =
            upload(&[node_at(never.address)], Some(&chain.payer()), &sample.file, &options, &()).await.unwrap_err();
        assert!(matches!(error, ClientError::NotFinalised { .. }), "{error}");
        assert!(error.to_string().contains(&never.address.to_string()), "{error}");
        let options = UploadOptions { finalised_within: None, ..quick() };
        let done = upload(&[node_at(never.address)], None, &sample.file, &options, &()).await.unwrap();
        assert_eq!(done.finalised, None);

        // A file that changes meanwhile is not sent.
        let sample = Sample::new(3 * BYTES_PER_LOAD, 4);
        let mut data = sample.data.clone();
        data[2 * BYTES_PER_LOAD] ^= 1;
        fs::write(sample.dir.path().join("in"), &data).unwrap();
        let error = sample.up(&[node.client()], Some(&chain.payer())).await.unwrap_err();
        assert!(matches!(error, ClientError::Changed { index: 2, .. }), "{error}");
    });
}

/// A server that reads a request and then writes `head`, and `body` again and again, until the client has enough.
async fn raw_server(head: &'static str, body: &'static [u8], endless: bool) -> (SocketAddr, Aborted) {
    let listener = TcpListener::bind(any_local_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while stream.write_all(body).await.is_ok() && endless {}
                if head.is_empty() {
                    // Says nothing, and stays.
                    let _ = stream.read(&mut request).await;
                }
            });
        }
    });
    (address, Aborted(task))
}

#[test]
fn servers_that_are_no_nodes_cost_no_more_than_the_limits() {
    runs(async {
        let hostile = |options: &mut NodeOptions| {
            options.timeout = Duration::from_secs(5);
            options.attempts = 1;
        };
        let (address, _endless) = raw_server("HTTP/1.1 200 OK\r\n\r\n", &[b'['; 8192], true).await;
        let error = node_with(address, hostile).state().await.unwrap_err();
        assert!(matches!(error, NodeError::TooLong { limit: 262_144, .. }), "{error}");
        let error = node_with(address, hostile).segment_with_proof(0, 0).await.unwrap_err();
        assert!(matches!(error, NodeError::TooLong { limit: 415_060, .. }), "{error}");
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n";
        let (address, _announced) = raw_server(head, b"{", false).await;
        let error = node_with(address, hostile).state().await.unwrap_err();
        assert!(matches!(error, NodeError::TooLong { .. }), "{error}");
        let (target, reached) = (TcpListener::bind(any_local_port()).await.unwrap(), Arc::new(AtomicBool::new(false)));
        let head = format!(
            "HTTP/1.1 307 x\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n",
            target.local_addr().unwrap()
        );
        let following = reached.clone();
        let _watch = Aborted(tokio::spawn(async move {
            let _ = target.accept().await;
            following.store(true, Ordering::SeqCst);
        }));
        let (address, _redirect) = raw_server(head.leak(), b"", false).await;
        let error = node_with(address, hostile).state().await.unwrap_err();
        assert!(matches!(error, NodeError::Http { status: 307, .. }), "{error}");
        assert!(!reached.load(Ordering::SeqCst), "redirects are not followed");
        let (address, _silent) = raw_server("", b"", false).await;
        let silent =
            node_with(address, |options| (options.attempts, options.timeout) = (1, Duration::from_millis(200)));
        let error = silent.state().await.unwrap_err();
        assert!(matches!(error, NodeError::Timeout { .. }), "{error}");
        for (head, body, words) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &b"hello"[..], "not understood"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"{}", "it is null"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", b"{}", "cannot be reached"),
            ("HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n", b"", "HTTP status 500"),
            ("SSH-2.0-OpenSSH\r\n", b"", "cannot be reached"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 19\r\n\r\n", b"{\"result\":{\"a\":[1]}", "not understood"),
        ] {
            let (address, _server) = raw_server(head, body, false).await;
            let error = node_with(address, hostile).state().await.unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(&address.to_string()), "{head:?}: {error}");
        }
        // Text of a stranger is cut, and stays on its line.
        let (address, _server) = serve_posts(async |_: Bytes| {
            let text = "\n\u{1b}[2Jyou are pwned\n".repeat(1000);
            json!({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": text}}).to_string().into_response()
        })
        .await;
        let error = node_with(address, hostile).state().await.unwrap_err();
        assert!(matches!(error, NodeError::Refused { code: 1, .. }));
        let text = error.to_string();
        assert!(text.len() < 500 && !text.contains('\n') && !text.contains('\u{1b}'), "{text:?}");
    });
}

#[test]
fn an_indexer_names_the_nodes() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let sample = Sample::new(3000, 1);
        let (url, root) = (format!("http://{}", node.address()), sample.root().to_string());
        let reply = move |body: Bytes| {
            let (url, root) = (url.clone(), root.clone());
            async move {
                let request: Value = serde_json::from_slice(&body).unwrap();
                let whole = json!({"shardId": 0, "numShard": 1});
                let result = match request["method"].as_str().unwrap() {
                    "indexer_getShardedNodes" => json!({
                        "trusted": [
                            {"url": "http://127.0.0.1:1", "config": whole, "latency": 9, "since": 1},
                            {"url": "ftp://nowhere", "config": whole, "latency": 2, "since": 1},
                            {"url": "http://127.0.0.1:2", "config": {"shardId": 3, "numShard": 3}, "latency": 1},
                        ],
                        "discovered": [{"url": url, "config": whole, "latency": 1, "since": 1}],
                    }),
                    "indexer_getFileLocations" if request["params"][0] == root => {
                        json!([{"url": url, "config": whole, "latency": 1, "since": 1}])
                    }
                    "indexer_getFileLocations" => Value::Null,
                    method => panic!("{method}"),
                };
                json!({"jsonrpc": "2.0", "id": request["id"], "result": result}).to_string().into_response()
            }
        };
        let (address, _server) = serve_posts(reply).await;
        let options = NodeOptions { attempts: 1, ..NodeOptions::default() };
        let indexer = Indexer::new(&format!("http://{address}"), options).unwrap();
        let nodes = indexer.nodes().await.unwrap();
        let urls: Vec<&str> = nodes.iter().map(StorageNode::url).collect();
        assert_eq!(urls, ["http://127.0.0.1:1", node.client().url()], "those that make sense");
        let done = sample.up(&nodes, Some(&chain.payer())).await.unwrap();
        assert_eq!((done.nodes.len(), done.dropped.len()), (1, 1), "the other one is not there");
        assert!(indexer.locations(&H256([5; 32])).await.unwrap().is_empty());
        let nodes = indexer.locations(&sample.root()).await.unwrap();
        assert_eq!(nodes.len(), 1);
        sample.down(&nodes, &DownloadOptions::default()).await.unwrap();

        // The commands take it from there.
        let mut zgpu = Zgpu::new();
        zgpu.key = Some(chain.key());
        let (dir, indexer) = (sample.dir.path(), format!("http://{address}"));
        let arguments = ["upload", "in", "--indexer", &indexer, "--rpc", &chain.anvil.endpoint()];
        let output = zgpu.run(dir, &arguments).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stdout(&output).contains("nothing: it was submitted before"), "{}", stdout(&output));
        let root = sample.root().to_string();
        let output = zgpu.run(dir, &["download", &root, "--indexer", &indexer, "-o", "copy"]).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(fs::read(dir.join("copy")).unwrap() == sample.data);
    });
}

/// The binary.
struct Zgpu {
    key: Option<PrivateKeySigner>,
}

impl Zgpu {
    fn new() -> Self {
        Zgpu { key: None }
    }

    async fn run(&self, dir: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zgpu"));
        command.args(arguments).current_dir(dir).env_remove("ZGPU_KEY");
        if let Some(key) = &self.key {
            command.env("ZGPU_KEY", key.to_bytes().to_string());
        }
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// Exits with `code` and says all of `words` on stderr, and nothing on stdout.
    async fn refused(&self, dir: &Path, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.run(dir, arguments).await;
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        for word in words {
            assert!(text.contains(word), "{arguments:?} should say {word:?}: {text}");
        }
        assert_eq!(stdout(&output), "", "{arguments:?}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is text")
}

#[test]
fn the_commands_upload_and_download() {
    runs(async {
        let chain = Chain::start().await;
        let node = Node::start(&chain).await;
        let (url, rpc) = (format!("http://{}", node.address()), chain.anvil.endpoint());
        let sample = Sample::new(5 * BYTES_PER_LOAD + 99, 1);
        let dir = sample.dir.path();
        let mut zgpu = Zgpu::new();
        let root = sample.root().to_string();

        zgpu.refused(dir, &["upload", "in", "--node", &url], 1, &["not submitted yet", &root]).await;
        zgpu.key = Some(chain.key());
        zgpu.refused(dir, &["upload", "in", "--node", &url], 1, &["--rpc URL"]).await;
        zgpu.refused(dir, &["upload", "in", "--node", &url, "--skip-tx"], 1, &["not submitted yet", "--skip-tx"]).await;
        zgpu.refused(dir, &["upload", "in", "--rpc", &rpc], 1, &["--node URL"]).await;
        zgpu.refused(dir, &["upload", "gone", "--node", &url, "--rpc", &rpc], 1, &["gone", "No such file"]).await;
        zgpu.refused(dir, &["upload", ".", "--node", &url, "--rpc", &rpc], 1, &["not a file"]).await;
        fs::write(dir.join("empty"), "").unwrap();
        zgpu.refused(dir, &["upload", "empty", "--node", &url, "--rpc", &rpc], 1, &["empty"]).await;
        zgpu.refused(dir, &["upload", "in", "--network", "moon"], 2, &["mainnet", "testnet"]).await;
        zgpu.refused(dir, &["upload", "in", "--node", &url, "--indexer", &url], 2, &["cannot be used with"]).await;
        let wrong = "0x00000000000000000000000000000000000000aa";
        zgpu.refused(dir, &["upload", "in", "--node", &url, "--rpc", &rpc, "--flow", wrong], 1, &["flow contract"])
            .await;
        zgpu.refused(
            dir,
            &["upload", "in", "--node", &url, "--rpc", &rpc, "--network", "testnet"],
            1,
            &["flow contract", "market()"],
        )
        .await;
        assert_eq!(chain.submissions().await, 0, "nothing was paid for any of these");

        let arguments = ["upload", "in", "--node", &url, "--rpc", &rpc, "--json"];
        let output = zgpu.run(dir, &arguments).await;
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!((&report["root"], &report["tx_seq"]), (&json!(root), &json!(0)));
        assert_eq!(report["finalised"], true);
        assert_eq!((&report["nodes"][0]["sent"], &report["nodes"][0]["shard"]), (&json!(6), &json!("0/1")));
        let key = chain.key().to_bytes().to_string();
        assert!(!stderr(&output).contains(&key[2..]) && !stdout(&output).contains(&key[2..]));
        let output = zgpu.run(dir, &["upload", "in", "--node", &url, "--skip-tx"]).await;
        assert!(output.status.success() && stdout(&output).contains("state     complete"), "{}", stderr(&output));
        assert_eq!(chain.submissions().await, 1);

        let output = zgpu.run(dir, &["download", &root, "--node", &url, "--out", "a", "--json"]).await;
        assert!(output.status.success(), "{}", stderr(&output));
        let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
        assert_eq!((&report["size"], &report["resumed_bytes"]), (&json!(sample.data.len()), &json!(0)));
        let output = zgpu.run(dir, &["download", "--tx-seq", "0", "--node", &url, "-o", "b", "--no-proof"]).await;
        assert!(output.status.success() && stdout(&output).contains("6 segments"), "{}", stderr(&output));
        for name in ["a", "b"] {
            assert!(fs::read(dir.join(name)).unwrap() == sample.data);
        }
        zgpu.refused(dir, &["download", &root, "--node", &url, "-o", "a"], 1, &["exists", "--force"]).await;
        let output = zgpu.run(dir, &["download", &root, "--node", &url, "-o", "a", "--force"]).await;
        assert!(output.status.success());
        zgpu.refused(dir, &["download", &root, "-o", "c"], 1, &["--node URL"]).await;
        zgpu.refused(dir, &["download", "-o", "c"], 2, &["--tx-seq"]).await;
        zgpu.refused(dir, &["download", "0x12", "-o", "c"], 2, &["64 hex digits"]).await;
        zgpu.refused(dir, &["download", "--tx-seq", "7", "--node", &url, "-o", "c"], 1, &["transaction 7"]).await;
        zgpu.refused(dir, &["download", &root, "--node", "http://127.0.0.1:1", "-o", "c"], 1, &["127.0.0.1:1"]).await;
        zgpu.refused(dir, &["download", &root, "--node", &url, "-o", "no/where"], 1, &["no/where"]).await;
        assert!(!dir.join("c").exists() && !dir.join("c.download").exists());
    });
}

/// The tree that uploads use is the one that the rest of the project uses.
#[test]
fn a_source_file_has_the_tree_of_its_bytes() {
    let sample = Sample::new(2 * BYTES_PER_LOAD + 5, 3);
    let shape = FileShape::new(sample.data.len() as u64).unwrap();
    assert_eq!(FileTree::read(shape, &sample.data[..], |_| ()).unwrap().root(), sample.root());
}
