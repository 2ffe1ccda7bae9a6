//! Files between nodes: real stores and real sockets on loopback, links that break, peers that lie. Transactions are appended
//! to all stores directly, as the chain would report them.

#[path = "support/sample.rs"]
mod sample;

use std::{
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use zgpu_core::{
    H256,
    shard::Shard,
    units::{BYTES_PER_LOAD, BYTES_PER_SECTOR, SECTORS_PER_LOAD},
};
use zgpu_node::{
    files::{Files, FilesConfig, FilesHandle},
    net::{
        self, GossipEvent, NetEvent, NetHandle, NetSettings, NetTasks, Timeouts,
        wire::{
            Message, NetworkIdentity, PROTOCOL_VERSION, Request, Response, ShardConfig, Status, TxId,
            gossip::{FileAnnouncement, Timed},
            rpc::{ChunkRequest, ChunksWithProof, FlowProof, Refusal},
            types::ShardedFile,
        },
    },
    rpc::{self, Connections, NodeStatus, RpcConfig, RpcHandle, any_local_port, serve},
    store::{SectorProof, Settings, Store, StoreError},
};

use sample::Sample;

/// Longer than anything takes here, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);
const CHAIN_ID: u64 = 16661;
const MIB: usize = 1 << 20;

/// Waits until `is_so` holds.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn open_store(dir: &Path) -> Store {
    let settings = Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() };
    Store::open_with(&dir.join("store"), settings).unwrap()
}

fn status(chain_id: u64, shard: ShardConfig) -> Status {
    Status { identity: NetworkIdentity { chain_id, flow_address: [5; 20], version: PROTOCOL_VERSION }, shard }
}

/// Links of tests break, so what is dead is found out soon.
fn settings(dir: &Path, shard: ShardConfig, peers: &[Multiaddr]) -> NetSettings {
    let mut settings = NetSettings::new(dir.join("network"), status(CHAIN_ID, shard));
    settings.listen = Ipv4Addr::LOCALHOST;
    settings.tcp_port = 0;
    settings.has_discovery = false;
    settings.libp2p_nodes = peers.to_vec();
    settings.private_addresses = true;
    settings.find_chunks = true;
    settings.timeouts = Timeouts {
        first_byte: Duration::from_secs(4),
        response: Duration::from_secs(6),
        write: Duration::from_secs(3),
        // Peers grant two in 10 s.
        ping: Duration::from_millis(5500),
        redial: Duration::from_millis(500),
        ..Timeouts::default()
    };
    settings
}

fn config() -> FilesConfig {
    let mut config = FilesConfig::default();
    config.router.private_ip_enabled = true;
    let sync = &mut config.sync;
    sync.find_chunks_enabled = true;
    sync.heartbeat_interval = Duration::from_secs(1);
    sync.peer_find_timeout = Duration::from_secs(2);
    sync.random_find_peer_timeout = Duration::from_secs(2);
    sync.peer_connect_timeout = Duration::from_secs(5);
    sync.peer_chunks_download_timeout = Duration::from_secs(8);
    sync.auto_sync_idle_interval = Duration::from_millis(300);
    sync.auto_sync_error_interval = Duration::from_secs(1);
    config
}

fn auto() -> FilesConfig {
    let mut config = config();
    config.sync.auto_sync_enabled = true;
    config
}

fn wire(shard: Shard) -> ShardConfig {
    ShardConfig { num_shard: shard.count, shard_id: shard.id }
}

struct Node {
    files: FilesHandle,
    net: NetHandle,
    tasks: NetTasks,
    address: Multiaddr,
    store: Store,
    _caught_up: watch::Sender<bool>,
}

impl Node {
    async fn start(dir: &Path, peers: &[Multiaddr], config: FilesConfig) -> Node {
        Node::start_on(open_store(dir), dir, peers, config).await
    }

    async fn start_on(store: Store, dir: &Path, peers: &[Multiaddr], config: FilesConfig) -> Node {
        let network = net::start(settings(dir, wire(store.shard()), peers)).await.unwrap();
        let (caught_up, is_caught_up) = watch::channel(true);
        let files = Files::start(network.handle.clone(), network.events, store.clone(), config, is_caught_up);
        let net = network.handle;
        let address = network.address.with(Protocol::P2p(net.local_peer()));
        Node { files, net, tasks: network.tasks, address, store, _caught_up: caught_up }
    }

    async fn stop(self) {
        let start = Instant::now();
        self.files.stop().await;
        self.tasks.stop().await;
        assert!(start.elapsed() < Duration::from_secs(20), "stopping takes seconds");
    }

    async fn has(&self, seq: u64) {
        until(&format!("file {seq} is here: {}", self.files.sync_status(seq)), async || {
            self.store.is_finalised(seq).unwrap()
        })
        .await;
    }

    async fn has_peers(&self, count: u64) {
        let mut peers = self.files.connected_peers();
        let waited = timeout(PATIENCE, peers.wait_for(|now| *now == count)).await.map(|count| *count.unwrap());
        assert!(waited.is_ok(), "waited in vain for {count} peers: {:?}", self.net.overview().await.unwrap().peers);
    }

    /// Meets a peer and gets a file from it, whatever went wrong with the file before.
    async fn gets_from(&self, peer: &Node, seq: u64, sample: &Sample) {
        self.net.dial(peer.address.clone()).await.unwrap();
        until("the file comes from the honest peer", async || {
            if self.files.sync_status(seq).starts_with("Failed") {
                self.files.start_file(seq).unwrap();
            }
            self.store.is_finalised(seq).unwrap()
        })
        .await;
        assert!(sample.is_in(&self.store, seq));
    }

    async fn is_banned(&self, peer: PeerId) -> bool {
        let overview = self.net.overview().await.unwrap();
        overview.peers.iter().any(|record| record.peer == peer && record.is_banned)
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// Files of all kinds of sizes: 1 byte to 3 MiB, around the borders of sectors and segments.
fn samples() -> Vec<Sample> {
    let mut random = StdRng::seed_from_u64(1);
    let borders = [1, 2, 255, 256, 257, 1023, 1024, 1025, 256 * 1023, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1];
    let mut sizes = borders.to_vec();
    sizes.extend([256 * 1025, 256 * 2047 + 1, 3 * MIB]);
    sizes.extend((sizes.len()..30).map(|_| random.random_range(1..600_000)));
    (0..).zip(sizes).map(|(seed, size)| Sample::new(size, seed)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_joiner_gets_all_files_and_new_ones() {
    let dirs = [folder(), folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let samples = samples();
    for sample in &samples {
        sample.add(&a.store);
    }
    // One that nobody has keeps nobody from the others.
    let lost = Sample::new(100, 99);
    let lost_seq = lost.append(&a.store);

    let with_log = |dir: &TempDir| {
        let store = open_store(dir.path());
        samples.iter().chain([&lost]).for_each(|sample| {
            sample.append(&store);
        });
        store
    };
    let peers = std::slice::from_ref(&a.address);
    let b = Node::start_on(with_log(&dirs[1]), dirs[1].path(), peers, auto()).await;
    for (seq, sample) in (0..).zip(&samples) {
        b.has(seq).await;
        assert!(sample.is_in(&b.store, seq), "{seq}");
    }
    assert!(!b.store.is_finalised(lost_seq).unwrap());

    // A new file, announced by who has it; the third node learns of it from the second.
    let peers = std::slice::from_ref(&b.address);
    let c = Node::start_on(with_log(&dirs[2]), dirs[2].path(), peers, auto()).await;
    c.has(0).await;
    let new = Sample::new(300_000, 100);
    let seq = new.append(&b.store);
    assert_eq!(seq, new.append(&c.store));
    assert_eq!(seq, new.add(&a.store));
    b.has(seq).await;
    c.has(seq).await;
    assert!(new.is_in(&c.store, seq));
    // The same file again needs nobody.
    let again = new.append(&c.store);
    c.files.start_file(again).unwrap();
    c.has(again).await;
    let state = b.files.service_state();
    assert!(state.caught_up && state.auto.is_some());
    a.stop().await;
    c.has_peers(1).await;
    b.stop().await;
    c.has_peers(0).await;
    c.stop().await;
}

/// One worker that keeps the order of the log, and none for any file.
#[tokio::test(flavor = "multi_thread")]
async fn files_come_in_the_order_of_the_log() {
    const LOST: u64 = 5;
    let dirs = [folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let store = open_store(dirs[1].path());
    let mut samples: Vec<Sample> = (0..16).map(|seed| Sample::new(1000 + 40_000 * seed as usize, seed)).collect();
    for (seq, sample) in (0..).zip(&samples) {
        assert_eq!((sample.append(&a.store), sample.append(&store)), (seq, seq));
        if seq != LOST {
            sample.upload(&a.store, seq);
        }
    }
    let mut in_order = auto();
    (in_order.sync.max_random_workers, in_order.sync.max_sequential_workers) = (0, 1);
    let mut finalised = store.watch_finalised();
    let b = Node::start_on(store, dirs[1].path(), std::slice::from_ref(&a.address), in_order).await;
    let (rpc, _status) = rpc_of(&b).await;
    let state = call(rpc.address(), "admin_getSyncServiceState", json!([])).await.unwrap();
    assert_eq!(
        (&state["autoSyncSerial"]["name"], &state["catchedUp"]),
        (&json!("sequential"), &json!(true)),
        "{state}"
    );
    let mut came = Vec::new();
    while came.len() < samples.len() - 1 {
        came.push(timeout(PATIENCE, finalised.recv()).await.expect("the next file comes").unwrap());
    }
    assert_eq!(came, (0..16).filter(|seq| *seq != LOST).collect::<Vec<u64>>());

    // What nobody had is tried again, and what is new follows, also for a node without workers for any file.
    samples[LOST as usize].upload(&a.store, LOST);
    b.has(LOST).await;
    samples.push(Sample::new(300_000, 100));
    assert_eq!((samples[16].append(&b.store), samples[16].add(&a.store)), (16, 16));
    b.has(16).await;
    for (seq, sample) in (0..).zip(&samples) {
        assert!(sample.is_in(&b.store, seq), "{seq}");
    }
    let auto = b.files.service_state().auto.unwrap();
    assert_eq!((auto.sequential, auto.random), (Some(vec![]), vec![]));
    rpc.stop().await;
    a.stop().await;
    b.stop().await;
}

/// A link between two nodes that does what it is told.
struct Link {
    address: Multiaddr,
    mode: Arc<AtomicU8>,
    cuts: Arc<AtomicU64>,
}

const FINE: u8 = 0;
/// Every connection breaks or stands still for a while, at a moment of its own.
const LOSSY: u8 = 1;
/// Nothing goes through, and nobody is told.
const DOWN: u8 = 2;

impl Link {
    async fn to(target: &Multiaddr) -> Link {
        let port = target.iter().find_map(|part| match part {
            Protocol::Tcp(port) => Some(port),
            _ => None,
        });
        let target = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port.unwrap());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let address = Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Tcp(port));
        let link = Link { address, mode: Arc::default(), cuts: Arc::default() };
        let (mode, cuts) = (link.mode.clone(), link.cuts.clone());
        tokio::spawn(async move {
            let mut seed = 0;
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(target).await else { continue };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                let (mode, cuts) = (mode.clone(), cuts.clone());
                seed += 1;
                tokio::spawn(async move {
                    // One direction that breaks takes the other one with it.
                    tokio::select! {
                        () = carry(near_in, far_out, mode.clone(), seed) => {}
                        () = carry(far_in, near_out, mode, seed + 1000) => {}
                    }
                    cuts.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        link
    }

    fn set(&self, mode: u8) {
        self.mode.store(mode, Ordering::SeqCst);
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mode: Arc<AtomicU8>,
    seed: u64,
) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut left: usize = random.random_range(200_000..2_000_000);
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = from.read(&mut buffer).await {
        while mode.load(Ordering::SeqCst) == DOWN {
            sleep(Duration::from_millis(20)).await;
        }
        if mode.load(Ordering::SeqCst) == LOSSY {
            if random.random_range(0..40) == 0 {
                sleep(Duration::from_millis(random.random_range(10..200))).await;
            }
            if count >= left {
                return;
            }
            left -= count;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_break_delay_files_and_ban_nobody() {
    let dirs = [folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let link = Link::to(&a.address).await;
    link.set(LOSSY);
    let b = Node::start(dirs[1].path(), std::slice::from_ref(&link.address), config()).await;
    let sample = Sample::new(4 * MIB + 77, 1);
    let seq = sample.add(&a.store);
    sample.append(&b.store);
    // As an operator would: what failed is started again.
    until("the file comes over a bad link", async || {
        if !b.store.is_finalised(seq).unwrap() && !b.files.sync_info(Some(seq)).contains_key(&seq)
            || b.files.sync_status(seq).starts_with("Failed")
        {
            b.files.start_file(seq).unwrap();
        }
        b.store.is_finalised(seq).unwrap()
    })
    .await;
    assert!(sample.is_in(&b.store, seq));
    assert!(link.cuts.load(Ordering::SeqCst) > 0, "the link did break");
    assert!(!b.is_banned(a.net.local_peer()).await && !a.is_banned(b.net.local_peer()).await);

    // A partition in the middle of a file: silence, then all is well again.
    link.set(FINE);
    b.has_peers(1).await;
    let sample = Sample::new(8 * MIB, 2);
    let seq = sample.add(&a.store);
    sample.append(&b.store);
    b.files.start_file(seq).unwrap();
    until("some of it is here", async || b.store.status(seq).unwrap().unwrap().stored > 0).await;
    link.set(DOWN);
    b.has_peers(0).await;
    a.has_peers(0).await;
    link.set(FINE);
    until("the file comes after the partition", async || {
        if b.files.sync_status(seq).starts_with("Failed") {
            b.files.start_file(seq).unwrap();
        }
        b.store.is_finalised(seq).unwrap()
    })
    .await;
    assert!(sample.is_in(&b.store, seq));
    assert!(!b.is_banned(a.net.local_peer()).await && !a.is_banned(b.net.local_peer()).await);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_on_where_it_was_after_a_restart() {
    let dirs = [folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let mut slow = config();
    slow.sync.max_bandwidth_bytes = MIB as u64;
    let b = Node::start(dirs[1].path(), std::slice::from_ref(&a.address), slow).await;
    let id = b.net.local_peer();
    let sample = Sample::new(6 * MIB, 1);
    let seq = sample.add(&a.store);
    sample.append(&b.store);
    b.files.start_file(seq).unwrap();
    until("some of it is here", async || b.store.status(seq).unwrap().unwrap().stored >= 3).await;
    assert!(b.files.sync_status(seq).starts_with("Downloading"), "{}", b.files.sync_status(seq));
    let info = &b.files.sync_info(None)[&seq];
    assert_eq!((info.sectors, info.wanted.clone(), info.peers["Connected"]), (6 << 12, 0..6 << 12, 1));
    let Node { files, tasks, store, net, .. } = b;
    files.stop().await;
    tasks.stop().await;
    let stored = store.status(seq).unwrap().unwrap();
    assert!(stored.stored >= 3 && stored.stored < stored.segments && !stored.finalised, "{stored:?}");
    drop((files, store, net));
    // Whoever still writes has the store open for a moment longer.
    let store = loop {
        let settings = Settings { reserve_bytes: 1 << 20, ..Settings::default() };
        match Store::open_with(&dirs[1].path().join("store"), settings) {
            Ok(store) => break store,
            Err(StoreError::InUse { .. }) => sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(store.status(seq).unwrap().unwrap().stored >= stored.stored);
    let b = Node::start_on(store, dirs[1].path(), std::slice::from_ref(&a.address), config()).await;
    assert_eq!(b.net.local_peer(), id, "the node keeps its identity");
    b.files.start_file(seq).unwrap();
    b.has(seq).await;
    assert!(sample.is_in(&b.store, seq));
    // Soon after it has completed, nothing is known of the job any more.
    until("the job is forgotten", async || b.files.sync_status(seq) == "unknown").await;
    assert_eq!(b.files.start_file(seq).unwrap_err().to_string(), "File already exists [Finalized]");
    a.stop().await;
    b.stop().await;
}

/// A peer that speaks the protocol and says what it likes.
struct Liar {
    net: NetHandle,
    events: mpsc::Receiver<NetEvent>,
    _tasks: NetTasks,
    _dir: TempDir,
}

impl Liar {
    async fn meet(node: &Node) -> Liar {
        let dir = folder();
        let network =
            net::start(settings(dir.path(), ShardConfig::WHOLE, std::slice::from_ref(&node.address))).await.unwrap();
        let mut liar = Liar { net: network.handle, events: network.events, _tasks: network.tasks, _dir: dir };
        loop {
            if let NetEvent::Connected { .. } = liar.next().await {
                return liar;
            }
        }
    }

    async fn next(&mut self) -> NetEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("the network runs")
    }

    /// Says that it has every file that is asked for, and answers requests with what `lie` makes of the truth; until its
    /// victim has had enough.
    async fn lie(mut self, truth: Store, lie: impl Fn(&mut ChunksWithProof)) -> PeerId {
        loop {
            match self.next().await {
                NetEvent::Disconnected(_) => return self.net.local_peer(),
                NetEvent::Gossip(GossipEvent { from, message: Message::AskFile(asked), .. }) => {
                    let file = ShardedFile { tx_id: asked.inner.tx_id, shard: ShardConfig::WHOLE };
                    let _ = self.net.request(from, Request::AnswerFile(file)).await;
                }
                NetEvent::ChunksWanted { id, request, .. } => {
                    let mut chunks = truthful(&truth, &request);
                    lie(&mut chunks);
                    self.net.respond(id, Response::Chunks(Box::new(chunks))).await.unwrap();
                }
                _ => {}
            }
        }
    }
}

fn truthful(store: &Store, request: &ChunkRequest) -> ChunksWithProof {
    let proven = store.chunks(request.tx_id.seq, request.start..request.end, request.root_seq).unwrap().unwrap();
    let first = store.transaction(request.tx_id.seq).unwrap().unwrap().start;
    let proof = |proof: SectorProof, position: u64| {
        let path = (0..proof.siblings.len()).map(|step| position >> step & 1 == 0).collect();
        FlowProof { lemma: [&[proof.leaf], &proof.siblings[..], &[proven.root]].concat(), path }
    };
    ChunksWithProof {
        start: proven.start,
        data: proven.data.clone(),
        left: proof(proven.left.clone(), first + request.start),
        right: proof(proven.right.clone(), first + request.end - 1),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_are_banned_and_the_file_comes_from_an_honest_peer() {
    let dirs = [folder(), folder()];
    let honest = Node::start(dirs[0].path(), &[], config()).await;
    let sample = Sample::new(MIB + 300, 7);
    let seq = sample.add(&honest.store);
    type Lie = fn(&mut ChunksWithProof);
    let lies: [(&str, Lie); 5] = [
        ("data in the middle", |chunks| chunks.data[700] ^= 1),
        ("data at the end", |chunks| *chunks.data.last_mut().unwrap() ^= 1),
        ("proof", |chunks| chunks.left.lemma[3].0[5] ^= 1),
        ("bytes", |chunks| chunks.data.truncate(1000)),
        ("too much data", |chunks| chunks.data.resize(16 * MIB, 7)),
    ];
    let victim = Node::start(dirs[1].path(), &[], config()).await;
    assert_eq!(sample.append(&victim.store), seq);
    // Each liar is the only one who answers, and is found out by its first answer.
    victim.files.start_file(seq).unwrap();
    for (index, (what, lie)) in lies.into_iter().enumerate() {
        let liar = Liar::meet(&victim).await.lie(honest.store.clone(), lie).await;
        until(&format!("who lies about {what} is banned"), async || victim.is_banned(liar).await).await;
        assert_eq!(victim.store.status(seq).unwrap().unwrap().stored, 0, "{index} {what}");
        if victim.files.sync_status(seq).starts_with("Failed") {
            victim.files.start_file(seq).unwrap();
        }
    }
    victim.gets_from(&honest, seq, &sample).await;
    assert!(!victim.is_banned(honest.net.local_peer()).await);
    honest.stop().await;
    victim.stop().await;
}

/// Another range than asked for may be a mistake: an offence, and no ban before there are many.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_another_range_is_sent_away_and_nothing_of_it_is_kept() {
    let dirs = [folder(), folder()];
    let honest = Node::start(dirs[0].path(), &[], config()).await;
    let sample = Sample::new(MIB + 300, 7);
    let seq = sample.add(&honest.store);
    let victim = Node::start(dirs[1].path(), &[], config()).await;
    assert_eq!(sample.append(&victim.store), seq);
    // The true sectors without the last one, each of them proven.
    let truth = honest.store.clone();
    let tx_id = TxId { seq, hash: H256::ZERO };
    let one_less = move |chunks: &mut ChunksWithProof| {
        let end = chunks.start + (chunks.data.len() / BYTES_PER_SECTOR) as u64 - 1;
        *chunks = truthful(&truth, &ChunkRequest { tx_id, start: chunks.start, end, root_seq: seq });
    };
    type Lie = Box<dyn Fn(&mut ChunksWithProof) + Send + Sync>;
    let lies: [(&str, Lie); 3] = [
        ("ends too early", Box::new(one_less)),
        ("starts elsewhere", Box::new(|chunks| chunks.start += 1)),
        ("ends too late", Box::new(|chunks| chunks.data.extend([0; BYTES_PER_SECTOR]))),
    ];
    for (what, lie) in lies {
        let told = AtomicU64::new(0);
        let counted = |chunks: &mut ChunksWithProof| {
            told.fetch_add(1, Ordering::SeqCst);
            lie(chunks);
        };
        if victim.files.sync_status(seq) == "unknown" || victim.files.sync_status(seq).starts_with("Failed") {
            victim.files.start_file(seq).unwrap();
        }
        let liar = Liar::meet(&victim).await.lie(honest.store.clone(), counted).await;
        let overview = victim.net.overview().await.unwrap();
        let record = overview.peers.iter().find(|record| record.peer == liar).expect("it is remembered");
        assert!(record.score < -20.0 && record.score >= -50.0 && !record.is_banned, "{what}: {record:?}");
        assert!(told.load(Ordering::SeqCst) >= 3, "{what}: one lie is not the end");
        assert_eq!(victim.store.status(seq).unwrap().unwrap().stored, 0, "{what}");
    }
    victim.gets_from(&honest, seq, &sample).await;
    honest.stop().await;
    victim.stop().await;
}

/// An announcement leads to whom it names, at the address that this peer has signed, whoever passes it on.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_announces_for_another() {
    let dirs = [folder(), folder()];
    let honest = Node::start(dirs[0].path(), &[], config()).await;
    let samples = [Sample::new(300_000, 7), Sample::new(5000, 8)];
    let victim = Node::start(dirs[1].path(), &[], config()).await;
    for sample in &samples {
        assert_eq!(sample.append(&victim.store), sample.add(&honest.store));
    }
    let tx_id = |seq| {
        let transaction = honest.store.transaction(seq).unwrap().unwrap();
        TxId::new(seq, &transaction.data_root, transaction.start, transaction.size_bytes, &transaction.nodes)
    };
    let liar = Liar::meet(&victim).await;
    let trap = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let trap_address =
        Multiaddr::from(Ipv4Addr::LOCALHOST).with(Protocol::Tcp(trap.local_addr().unwrap().port())).to_vec();
    let mut real_address = honest.address.clone();
    real_address.pop();
    let announcement = |seq, peer: PeerId, address: &[u8]| Timed {
        inner: FileAnnouncement {
            tx_ids: vec![tx_id(seq)],
            shard: ShardConfig::WHOLE,
            peer_id: peer.to_bytes(),
            address: address.to_vec(),
        },
        timestamp: unix_time(),
    };
    let (us, them) = (liar.net.local_peer(), honest.net.local_peer());
    // In the name of another, with a key of one's own; or in one's own name, with the other's words changed.
    let in_its_name = liar.net.sign(announcement(0, them, &trap_address)).unwrap();
    let real = honest.net.sign(announcement(0, them, &real_address.to_vec())).unwrap();
    let mut moved = real.clone();
    moved.announcement.inner.address = trap_address.clone();
    let mut stolen = real.clone();
    stolen.announcement.inner.peer_id = us.to_bytes();
    // Behind those, a good one about another file: when it has come, they have been judged.
    let good = liar.net.sign(announcement(1, us, &trap_address)).unwrap();
    for signed in [in_its_name, moved, stolen, good] {
        let message = Message::AnnounceFile(vec![signed]);
        // Before the other side has subscribed, nothing is published.
        until("it is published", async || liar.net.publish(message.clone()).await.is_ok()).await;
    }
    let locations = |seq| victim.files.file_location(seq, false).unwrap().unwrap().len();
    until("the good announcement has come", async || locations(1) == 1).await;
    assert_eq!(locations(0), 0, "no false one is believed");
    assert!(timeout(Duration::from_millis(300), trap.accept()).await.is_err(), "nobody is led into the trap");

    // What the honest peer has signed is good, and may be told again by a stranger.
    let again = Message::AnnounceFile(vec![real]);
    liar.net.publish(again).await.unwrap();
    until("the true announcement has come", async || locations(0) == 1).await;
    victim.files.start_file(0).unwrap();
    victim.has(0).await;
    assert!(samples[0].is_in(&victim.store, 0));
    assert!(timeout(Duration::from_millis(300), trap.accept()).await.is_err(), "nobody is led into the trap");
    honest.stop().await;
    victim.stop().await;
}

fn unix_time() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_or_belongs_elsewhere_is_sent_away() {
    let dir = folder();
    let node = Node::start(dir.path(), &[], auto()).await;
    let mut flood = Liar::meet(&node).await;
    let id = flood.net.local_peer();
    let file = ShardedFile { tx_id: TxId { seq: 5, hash: H256([7; 32]) }, shard: ShardConfig::WHOLE };
    let start = Instant::now();
    while !node.is_banned(id).await {
        assert!(start.elapsed() < PATIENCE, "a flood goes on");
        let timestamp = unix_time();
        for _ in 0..20 {
            // Before the other side has subscribed, nothing is published; after it has gone, neither.
            let _ = flood.net.publish(Message::NewFile(Timed { inner: file, timestamp })).await;
        }
        while flood.events.try_recv().is_ok() {}
        sleep(Duration::from_millis(50)).await;
    }
    // Bounded, whatever was said: one file that may come, no jobs.
    let state = node.files.service_state();
    assert!(state.syncing.len() <= 16 && state.auto.is_some_and(|auto| auto.ready + auto.pending <= 1));

    let dir = folder();
    let mut settings = settings(dir.path(), ShardConfig::WHOLE, std::slice::from_ref(&node.address));
    settings.status = status(CHAIN_ID + 1, ShardConfig::WHOLE);
    let foreign = net::start(settings).await.unwrap();
    until("a node of another network is banned", async || node.is_banned(foreign.handle.local_peer()).await).await;
    node.has_peers(0).await;
    foreign.tasks.stop().await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_feed_a_whole_node_and_a_quarter_gets_its_own() {
    let dirs: Vec<TempDir> = (0..4).map(|_| folder()).collect();
    let sample = Sample::new(8 * BYTES_PER_LOAD, 3);
    let shards = [Shard { id: 0, count: 2 }, Shard { id: 1, count: 2 }];
    let mut halves = Vec::new();
    for (dir, shard) in dirs.iter().zip(shards) {
        let store = open_store(dir.path());
        store.set_shard(shard).unwrap();
        let node = Node::start_on(store, dir.path(), &[], config()).await;
        sample.add(&node.store);
        halves.push(node);
    }
    let addresses: Vec<Multiaddr> = halves.iter().map(|node| node.address.clone()).collect();
    let whole = Node::start(dirs[2].path(), &addresses, config()).await;
    let seq = sample.append(&whole.store);
    whole.has_peers(2).await;
    whole.files.start_file(seq).unwrap();
    whole.has(seq).await;
    assert!(sample.is_in(&whole.store, seq));

    // Its data is in the second half, which the network's rule takes for a stranger; the whole node has it too.
    let store = open_store(dirs[3].path());
    store.set_shard(Shard { id: 1, count: 4 }).unwrap();
    let peers = [addresses, vec![whole.address.clone()]].concat();
    let quarter = Node::start_on(store, dirs[3].path(), &peers, config()).await;
    sample.append(&quarter.store);
    quarter.files.start_file(seq).unwrap();
    quarter.has(seq).await;
    let first = quarter.store.transaction(seq).unwrap().unwrap().start / SECTORS_PER_LOAD as u64;
    for index in 0..sample.segments() {
        let stored = quarter.store.read_segment(seq, index).unwrap();
        assert_eq!(stored.is_some(), (first + index) % 4 == 1, "{index}");
    }
    until("the stranger is gone", async || {
        let overview = quarter.net.overview().await.unwrap();
        let stranger = overview.peers.iter().find(|record| record.peer == halves[1].net.local_peer());
        stranger.is_some_and(|record| !record.is_connected && !record.is_banned)
    })
    .await;
    for node in halves.into_iter().chain([whole, quarter]) {
        node.stop().await;
    }
}

/// A node with its interface.
async fn rpc_of(node: &Node) -> (RpcHandle, watch::Sender<NodeStatus>) {
    let network = rpc::NetworkIdentity {
        chain_id: CHAIN_ID,
        flow_address: format!("0x{}", "05".repeat(20)),
        p2p_protocol_version: rpc::ProtocolVersion { major: 0, minor: 4, build: 0 },
    };
    let mut config = RpcConfig::new(any_local_port(), network);
    config.listen_admin = Some(config.listen);
    let (sender, status) = watch::channel(NodeStatus::default());
    let to = Connections { store: node.store.clone(), status, miner: None, files: Some(node.files.clone()) };
    (serve(config, to).await.unwrap(), sender)
}

async fn call(address: SocketAddr, method: &str, params: Value) -> Result<Value, Value> {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let length = body.len();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut answer: Value = serde_json::from_str(body).unwrap();
    match answer.get_mut("error") {
        Some(error) => Err(error["message"].take()),
        None => Ok(answer["result"].take()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_has_single_segments_fetched_and_sees_everything() {
    let dirs = [folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let sample = Sample::new(3 * BYTES_PER_LOAD, 3);
    let seq = sample.append(&a.store);
    sample.put_segment(&a.store, seq, 1);
    let b = Node::start(dirs[1].path(), std::slice::from_ref(&a.address), config()).await;
    assert_eq!(sample.append(&b.store), seq);
    let (rpc, _status) = rpc_of(&b).await;
    let at = rpc.address();
    let ok = async |method: &str, params: Value| call(at, method, params).await.unwrap();
    let refused = async |method: &str, params: Value| call(at, method, params).await.unwrap_err();
    assert_eq!(refused("admin_startSyncFile", json!([9])).await, "Transaction not found");
    assert_eq!(refused("admin_startSyncChunks", json!([seq, 5, 5])).await, "Invalid chunk range");
    assert_eq!(refused("admin_startSyncChunks", json!([seq, 0, 3073])).await, "Invalid chunk range");
    assert_eq!(refused("admin_getFileLocation", json!([9, false])).await, "tx not found");
    assert_eq!(ok("admin_getSyncStatus", json!([seq])).await, "unknown");

    assert_eq!(ok("admin_startSyncChunks", json!([seq, 1024, 2048])).await, Value::Null);
    until("the segment is here", async || b.store.has_segment(seq, 1).unwrap()).await;
    until("the job says so", async || {
        let status = ok("admin_getSyncStatus", json!([seq])).await;
        status == "Completed" || status == "unknown"
    })
    .await;
    assert!(!b.store.has_segment(seq, 0).unwrap() && !b.store.is_finalised(seq).unwrap());
    assert_eq!(b.store.read_segment(seq, 1).unwrap().unwrap(), sample.data[BYTES_PER_LOAD..2 * BYTES_PER_LOAD]);

    // A job that finds nobody can be looked at and ended.
    ok("admin_startSyncFile", json!([seq])).await;
    until("it looks for peers", async || ok("admin_getSyncStatus", json!([seq])).await == "FindingPeers").await;
    let info = ok("admin_getSyncInfo", json!([null])).await;
    let goal = json!({"numChunks": 3072, "indexStart": 0, "indexEnd": 3072, "allChunks": true});
    assert_eq!(info["0"]["goal"], goal);
    assert_eq!((&info["0"]["nextChunks"], &info["0"]["state"]), (&json!(0), &json!("FindingPeers")));
    assert_eq!(
        ok("admin_getSyncServiceState", json!([])).await,
        json!({"numSyncing": 1, "catchedUp": null, "autoSyncSerial": null, "autoSyncRandom": null})
    );
    assert_eq!(ok("admin_terminateSync", json!([seq])).await, true);
    assert_eq!(ok("admin_terminateSync", json!([seq])).await, false);
    assert_eq!(ok("admin_getSyncInfo", json!([])).await, json!({}));

    let info = ok("admin_getNetworkInfo", json!([])).await;
    assert_eq!(info["peerId"], b.net.local_peer().to_base58());
    assert_eq!((&info["totalPeers"], &info["connectedOutgoingPeers"]), (&json!(1), &json!(1)));
    assert_eq!((&info["bannedPeers"], &info["disconnectedPeers"]), (&json!(0), &json!(0)));
    until("peers have identified themselves", async || {
        ok("admin_getPeers", json!([])).await[a.net.local_peer().to_base58()]["client"]["agent"].is_string()
    })
    .await;
    let peer = &ok("admin_getPeers", json!([])).await[a.net.local_peer().to_base58()];
    assert_eq!(peer["connectionStatus"]["status"], "connected");
    assert_eq!((&peer["connectionDirection"], &peer["seenIps"]), (&json!("Outgoing"), &json!(["127.0.0.1"])));
    assert_eq!(peer["client"]["protocol"], "eth2/1.0.0");

    // Who has the whole file, as told to the whole network.
    assert_eq!(ok("admin_getFileLocation", json!([seq, false])).await, json!([]));
    assert_eq!(ok("admin_getFileLocation", json!([seq, true])).await, Value::Null);
    sample.upload(&a.store, seq);
    let here = json!([{"ip": "127.0.0.1", "shardConfig": {"shardId": 0, "numShard": 1}}]);
    until("the file is announced", async || {
        assert_eq!(ok("admin_findFile", json!([seq])).await, Value::Null);
        sleep(Duration::from_millis(500)).await;
        ok("admin_getFileLocation", json!([seq, true])).await == here
    })
    .await;
    ok("admin_startSyncFile", json!([seq])).await;
    b.has(seq).await;
    assert_eq!(refused("admin_startSyncFile", json!([seq])).await, "File already exists [Finalized]");
    rpc.stop().await;
    a.stop().await;
    b.stop().await;
}

/// Peers that refuse, or are behind, lose nothing and delay nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_lacks_the_file_is_no_enemy() {
    let dirs = [folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let b = Node::start(dirs[1].path(), std::slice::from_ref(&a.address), config()).await;
    let sample = Sample::new(1000, 3);
    let seq = sample.append(&b.store);
    b.has_peers(1).await;
    for (end, expected) in [(4, "Tx not found"), (4, "Tx not found")].repeat(40) {
        let tx_id = TxId { seq, hash: H256([3; 32]) };
        let request = Request::GetChunks(ChunkRequest { tx_id, start: 0, end, root_seq: seq });
        match b.net.request(a.net.local_peer(), request).await {
            Err(net::RequestError::Refused { refusal: Refusal::InvalidRequest, text, .. }) => {
                assert_eq!(text, expected)
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!b.is_banned(a.net.local_peer()).await && !a.is_banned(b.net.local_peer()).await);
    sample.add(&a.store);
    b.files.start_file(seq).unwrap();
    b.has(seq).await;
    a.stop().await;
    b.stop().await;
}

/// Not a check: how fast a file goes from one node to another on this machine. Run by name with `--ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn measure_64_mib() {
    let dirs = [folder(), folder()];
    let a = Node::start(dirs[0].path(), &[], config()).await;
    let sample = Sample::new(64 * MIB, 3);
    let seq = sample.add(&a.store);
    let b = Node::start(dirs[1].path(), std::slice::from_ref(&a.address), config()).await;
    sample.append(&b.store);
    b.has_peers(1).await;
    let start = Instant::now();
    b.files.start_file(seq).unwrap();
    b.has(seq).await;
    let seconds = start.elapsed().as_secs_f64();
    println!("64 MiB in {seconds:.2} s: {:.1} MiB/s", 64.0 / seconds);
}

/// One host of [`three_hosts_in_network_namespaces`], as a process of its own: tells on standard output how far it is, for
/// as long as somebody holds its standard input.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of another test"]
async fn namespace_host() {
    let Ok(ip) = std::env::var("ZGPU_TEST_HOST") else { return };
    let dir = folder();
    let store = open_store(dir.path());
    let samples = namespace_samples();
    let has_files = ip.ends_with(".1");
    for sample in &samples {
        let seq = sample.append(&store);
        if has_files {
            sample.upload(&store, seq);
        }
    }
    let peers: Vec<Multiaddr> =
        std::env::var("ZGPU_TEST_PEERS").unwrap().split_terminator(',').map(|text| text.parse().unwrap()).collect();
    let mut settings = settings(dir.path(), ShardConfig::WHOLE, &peers);
    (settings.listen, settings.tcp_port) = (ip.parse().unwrap(), 4001);
    let network = net::start(settings).await.unwrap();
    let (_caught_up, is_caught_up) = watch::channel(true);
    let files = Files::start(network.handle.clone(), network.events, store.clone(), auto(), is_caught_up);
    let connected = files.connected_peers();
    let parent = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    while !parent.is_finished() {
        let finalised = (0..samples.len() as u64).filter(|seq| store.is_finalised(*seq).unwrap()).count();
        let stored: u64 = (0..samples.len() as u64).map(|seq| store.status(seq).unwrap().unwrap().stored).sum();
        let right = finalised == samples.len() && (0..).zip(&samples).all(|(seq, sample)| sample.is_in(&store, seq));
        println!("{} {finalised} {stored} {right}", *connected.borrow());
        sleep(Duration::from_millis(200)).await;
    }
}

fn namespace_samples() -> Vec<Sample> {
    [1, 300_000, 8 * MIB, 4 * MIB + 5].into_iter().zip(50..).map(|(size, seed)| Sample::new(size, seed)).collect()
}

/// Network namespaces that go away with this.
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn ip(line: &str) -> bool {
    let output = Command::new("ip").args(line.split(' ')).stderr(Stdio::null()).stdout(Stdio::null()).status();
    output.is_ok_and(|status| status.success())
}

/// A host that runs, and what it said last: peers, finalised files, stored segments, whether all is right.
struct Host {
    process: Child,
    _stdin: ChildStdin,
    said: watch::Receiver<(u64, u64, u64, bool)>,
}

impl Host {
    fn start(namespace: &str, address: &str, peers: &str) -> Host {
        let test = std::env::current_exe().unwrap();
        let mut process = Command::new("ip")
            .args(["netns", "exec", namespace])
            .arg(test)
            .args(["--ignored", "--exact", "--nocapture", "namespace_host"])
            .env("ZGPU_TEST_HOST", address)
            .env("ZGPU_TEST_PEERS", peers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, said) = watch::channel((0, 0, 0, false));
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let words: Vec<&str> = line.split(' ').collect();
                if let [peers, files, segments, right] = words[..]
                    && let (Ok(peers), Ok(files), Ok(segments)) = (peers.parse(), files.parse(), segments.parse())
                {
                    sender.send_replace((peers, files, segments, right == "true"));
                }
            }
        });
        Host { _stdin: process.stdin.take().unwrap(), process, said }
    }

    async fn says(&mut self, what: &str, is_it: impl Fn(&(u64, u64, u64, bool)) -> bool) {
        timeout(PATIENCE, self.said.wait_for(|said| is_it(said))).await.expect(what).expect("the host runs");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Hosts with interfaces of their own on one bridge: a cable is pulled in the middle of a file and put back.
#[tokio::test(flavor = "multi_thread")]
async fn three_hosts_in_network_namespaces() {
    let id = std::process::id() % 100_000;
    let names: Vec<String> = ["hub", "a", "b", "c"].iter().map(|name| format!("zf{id}{name}")).collect();
    let hub = &names[0];
    let namespaces = Namespaces(names.clone());
    let is_able = namespaces.0.iter().all(|name| ip(&format!("netns add {name}")))
        && ip(&format!("-n {hub} link add bridge type bridge"))
        && ip(&format!("-n {hub} link set bridge up"));
    let is_able = is_able
        && (1..4).all(|host| {
            let name = &names[host];
            ip(&format!("-n {hub} link add port{host} type veth peer name net netns {name}"))
                && ip(&format!("-n {hub} link set port{host} master bridge"))
                && ip(&format!("-n {hub} link set port{host} up"))
                && ip(&format!("-n {name} addr add 10.99.0.{host}/24 dev net"))
                && ip(&format!("-n {name} link set net up"))
                && ip(&format!("-n {name} link set lo up"))
        });
    if !is_able {
        println!("skipped: network namespaces, a bridge and veth pairs need root and the ip command");
        return;
    }
    let is_lossy = (1..4).all(|host| {
        let tc = format!("netns exec {hub} tc qdisc add dev port{host} root netem loss 2% delay 10ms");
        ip(&tc)
    });
    println!("links with loss and delay: {is_lossy}");
    // The third host reaches the files through the second one alone.
    let _a = Host::start(&names[1], "10.99.0.1", "");
    let mut b = Host::start(&names[2], "10.99.0.2", "/ip4/10.99.0.1/tcp/4001");
    b.says("some of it comes", |(_, _, segments, _)| *segments > 2).await;
    assert!(ip(&format!("-n {hub} link set port1 down")));
    b.says("the connection is given up", |(peers, ..)| *peers == 0).await;
    assert!(ip(&format!("-n {hub} link set port1 up")));
    b.says("all files are here", |(.., right)| *right).await;
    let mut c = Host::start(&names[3], "10.99.0.3", "/ip4/10.99.0.2/tcp/4001");
    c.says("all files are at the third host", |(.., right)| *right).await;
}
