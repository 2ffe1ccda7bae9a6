//! Hosts on loopback with real sockets: they meet, gossip and answer, and get rid of those who do not behave.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use zgpu_core::{
    H256,
    digest::parent,
    flow::{self, FlowNodes},
    tree::sector_hash,
};
use zgpu_node::net::{
    GossipEvent, NetConfig, NetError, NetEvent, NetHandle, NetService, Offence, RequestError, Timeouts,
    chunks::{ChunkSink, FetchError, FilePlace, FileSource, Taken, fetch, prove, serve, verify},
    discovery::{Discovery, DiscoveryConfig, Tuning, dial_address},
    judge::Verdict,
    wire::{
        Message, Method, NetworkIdentity, PROTOCOL_VERSION, Request, Response, ShardConfig, Status, TxId,
        gossip::{FindFile, Timed},
        rpc::{ChunkRequest, ChunksWithProof, FlowProof, PING_VALUE, Refusal},
        types::ShardedFile,
    },
};

/// Longer than anything takes here, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
const TX: TxId = TxId { seq: 7, hash: H256([0x11; 32]) };

fn status(chain_id: u64, shard: ShardConfig) -> Status {
    Status { identity: NetworkIdentity { chain_id, flow_address: [5; 20], version: PROTOCOL_VERSION }, shard }
}

fn ours() -> Status {
    status(16661, ShardConfig::WHOLE)
}

struct Host {
    net: NetHandle,
    events: mpsc::Receiver<NetEvent>,
    address: Multiaddr,
    task: JoinHandle<Result<(), NetError>>,
}

async fn next(events: &mut mpsc::Receiver<NetEvent>) -> NetEvent {
    timeout(PATIENCE, events.recv()).await.expect("an event in time").expect("the service runs")
}

impl Host {
    async fn start(status: Status) -> Host {
        Host::start_with(status, Timeouts::default()).await
    }

    async fn start_with(status: Status, timeouts: Timeouts) -> Host {
        Host::start_as(Keypair::generate_secp256k1(), status, timeouts).await
    }

    async fn start_as(key: Keypair, status: Status, timeouts: Timeouts) -> Host {
        let mut config = NetConfig::new(key, status);
        config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        config.timeouts = timeouts;
        config.private_addresses = true;
        let (service, net, mut events) = NetService::new(config).unwrap();
        let task = tokio::spawn(service.run());
        let NetEvent::Listening(address) = next(&mut events).await else { panic!("the first event is the address") };
        Host { net, events, address, task }
    }

    async fn next(&mut self) -> NetEvent {
        next(&mut self.events).await
    }

    async fn connected(&mut self) -> PeerId {
        match self.next().await {
            NetEvent::Connected { peer, .. } => peer,
            other => panic!("expected a peer, got {other:?}"),
        }
    }

    async fn score(&self, peer: PeerId) -> Option<f64> {
        self.net.peers().await.unwrap().iter().find(|info| info.peer == peer).map(|info| info.score)
    }

    /// Waits until the connection to `peer` is gone.
    async fn lost(&self, peer: PeerId) {
        let start = Instant::now();
        while self.score(peer).await.is_some() {
            assert!(start.elapsed() < PATIENCE, "{peer} is still connected");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn pair() -> (Host, Host) {
    let (mut a, mut b) = (Host::start(ours()).await, Host::start(ours()).await);
    b.net.dial(a.address.clone()).await.unwrap();
    assert_eq!(a.connected().await, b.net.local_peer());
    assert_eq!(b.connected().await, a.net.local_peer());
    (a, b)
}

fn now() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32
}

const CHUNKS: ChunkRequest = ChunkRequest { tx_id: TX, start: 1, end: 3, root_seq: 9 };

fn some_chunks() -> ChunksWithProof {
    let proof = FlowProof { lemma: vec![H256([1; 32]); 22], path: vec![true; 20] };
    ChunksWithProof { start: 1, data: vec![7; 512], left: proof.clone(), right: proof }
}

#[tokio::test]
async fn two_hosts_meet_and_answer_each_other() {
    let (mut a, mut b) = pair().await;
    let (a_id, b_id) = (a.net.local_peer(), b.net.local_peer());
    let peers = a.net.peers().await.unwrap();
    assert_eq!((peers.len(), peers[0].peer, peers[0].is_outgoing), (1, b_id, false));
    assert_eq!(peers[0].shard, Some(ShardConfig::WHOLE));

    assert_eq!(b.net.request(a_id, Request::Status(ours())).await.unwrap(), Response::Status(ours()));
    assert_eq!(a.net.request(b_id, Request::Ping(PING_VALUE)).await.unwrap(), Response::Ping(PING_VALUE));
    let file = ShardedFile { tx_id: TX, shard: ShardConfig::WHOLE };
    assert_eq!(b.net.request(a_id, Request::AnswerFile(file)).await.unwrap(), Response::None);
    assert!(matches!(a.next().await, NetEvent::Answer { peer, file: told } if peer == b_id && told == file));

    for response in [
        Response::Chunks(Box::new(some_chunks())),
        Response::Refused { refusal: Refusal::InvalidRequest, text: "Chunks not found".into() },
    ] {
        let net = b.net.clone();
        let asked = tokio::spawn(async move { net.request(a_id, Request::GetChunks(CHUNKS)).await });
        let NetEvent::ChunksWanted { peer, id, request } = a.next().await else { panic!("chunks are wanted") };
        assert_eq!((peer, request), (b_id, CHUNKS));
        a.net.respond(id, response.clone()).await.unwrap();
        match asked.await.unwrap() {
            Ok(got) => assert_eq!(got, response),
            Err(RequestError::Refused { refusal: Refusal::InvalidRequest, text, .. }) => {
                assert_eq!(text, "Chunks not found")
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(matches!(
        a.net.request(PeerId::random(), Request::Ping(PING_VALUE)).await,
        Err(RequestError::NotConnected(_))
    ));

    // The one who leaves says so, and the other one hears it.
    b.net.shutdown().await.unwrap();
    timeout(PATIENCE, b.task).await.unwrap().unwrap().unwrap();
    assert!(matches!(a.next().await, NetEvent::Disconnected(peer) if peer == b_id));
    assert!(b.events.recv().await.is_none());
    assert!(matches!(b.net.peers().await, Err(NetError::Closed)));
}

#[tokio::test]
async fn three_hosts_gossip_and_neighbours_keep_what_is_for_them() {
    let (mut a, mut b) = pair().await;
    let mut c = Host::start(ours()).await;
    c.net.dial(b.address.clone()).await.unwrap();
    assert_eq!(b.connected().await, c.net.local_peer());
    assert_eq!(c.connected().await, b.net.local_peer());

    let publisher = a.net.clone();
    let publish = tokio::spawn(async move {
        // A mesh takes a few heartbeats to form: publish until that has happened.
        loop {
            let file = ShardedFile { tx_id: TX, shard: ShardConfig::WHOLE };
            let find = FindFile { tx_id: TX, shard: None };
            let new_file = Message::NewFile(Timed { inner: file, timestamp: now() });
            for message in [new_file, Message::FindFile(Timed { inner: find, timestamp: now() })] {
                match publisher.publish(message).await {
                    Ok(()) | Err(NetError::Publish(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            sleep(Duration::from_millis(1500)).await;
        }
    });
    let (a_id, b_id) = (a.net.local_peer(), b.net.local_peer());
    let mut has_new_file = false;
    let from_b = loop {
        tokio::select! {
            event = b.next() => {
                let NetEvent::Gossip(GossipEvent { from, author, message, undecided }) = event else { panic!("{event:?}") };
                assert_eq!((from, author), (a_id, a_id));
                has_new_file |= matches!(message, Message::NewFile(_));
                assert_eq!(undecided.is_some(), matches!(message, Message::FindFile(_)));
                if let Some(id) = undecided {
                    b.net.verdict(id, from, Verdict::Accept).await.unwrap();
                }
            }
            event = c.next() => break event,
        }
    };
    publish.abort();
    assert!(has_new_file);
    // The question went on through b; what is for neighbours did not.
    let NetEvent::Gossip(GossipEvent { from, author, message, .. }) = from_b else { panic!("{from_b:?}") };
    assert_eq!((from, author), (b_id, a_id));
    assert!(matches!(message, Message::FindFile(find) if find.inner.tx_id == TX));
    while let Ok(event) = c.events.try_recv() {
        assert!(matches!(event, NetEvent::Gossip(GossipEvent { message: Message::FindFile(_), .. })));
    }
    assert!(a.events.try_recv().is_err());
}

#[tokio::test]
async fn hosts_of_other_networks_and_shards_are_sent_away() {
    let mut a = Host::start(ours()).await;
    let other = Host::start(status(16602, ShardConfig::WHOLE)).await;
    other.net.dial(a.address.clone()).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    a.lost(other.net.local_peer()).await;
    other.lost(a.net.local_peer()).await;
    // It is banned: the connection does not come up again, from either side.
    for _ in 0..3 {
        other.net.dial(a.address.clone()).await.unwrap();
        a.net.dial(other.address.clone()).await.unwrap();
        sleep(Duration::from_millis(200)).await;
        assert!(a.net.peers().await.unwrap().is_empty());
    }
    let invalid = Host::start(status(16661, ShardConfig { num_shard: 3, shard_id: 0 })).await;
    invalid.net.dial(a.address.clone()).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    a.lost(invalid.net.local_peer()).await;
    assert!(a.events.try_recv().is_err(), "none of them was ever a peer");

    let good = Host::start(ours()).await;
    good.net.dial(a.address.clone()).await.unwrap();
    assert_eq!(a.connected().await, good.net.local_peer());
}

#[tokio::test]
async fn offences_reported_by_the_node_lead_to_a_ban() {
    let (mut a, b) = pair().await;
    let b_id = b.net.local_peer();
    a.net.punish(b_id, Offence::Low).await.unwrap();
    assert!(a.score(b_id).await.is_some_and(|score| (-10.0..-9.9).contains(&score)));
    a.net.punish(b_id, Offence::Fatal).await.unwrap();
    assert!(matches!(a.next().await, NetEvent::Disconnected(peer) if peer == b_id));
    b.net.dial(a.address.clone()).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert!(a.net.peers().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_does_not_take_its_events_still_obeys() {
    let (a, b) = pair().await;
    let a_id = a.net.local_peer();
    let file = ShardedFile { tx_id: TX, shard: ShardConfig::WHOLE };
    for _ in 0..250 {
        // Once everything between the two is full, requests fail; nothing is kept for them.
        let _ = timeout(Duration::from_millis(200), b.net.request(a_id, Request::AnswerFile(file))).await;
        if a.events.len() == a.events.max_capacity() {
            break;
        }
    }
    assert_eq!(timeout(PATIENCE, a.net.peers()).await.unwrap().unwrap().len(), 1);
    let Host { events, net, task, .. } = a;
    drop((events, net));
    timeout(PATIENCE, task).await.expect("it ends when nobody listens").unwrap().unwrap();
}

/// A host that writes what it is told to and answers what it likes.
struct Hostile {
    swarm: Swarm<Raw>,
}

#[derive(NetworkBehaviour)]
struct Raw {
    status: request_response::Behaviour<RawCodec>,
    ping: request_response::Behaviour<RawCodec>,
    chunks: request_response::Behaviour<RawCodec>,
}

/// Bytes as they are; `hang` keeps the stream open behind them.
#[derive(Clone, Debug)]
struct Bytes {
    bytes: Vec<u8>,
    hang: bool,
}

#[derive(Clone)]
struct RawCodec;

async fn write_raw<T: AsyncWrite + Unpin + Send>(io: &mut T, raw: Bytes) -> io::Result<()> {
    io.write_all(&raw.bytes).await?;
    io.flush().await?;
    if raw.hang {
        sleep(PATIENCE).await;
    }
    Ok(())
}

async fn read_raw<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    io.read_to_end(&mut bytes).await?;
    Ok(Bytes { bytes, hang: false })
}

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Bytes;
    type Response = Bytes;

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Bytes> {
        read_raw(io).await
    }
    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Bytes> {
        read_raw(io).await
    }
    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        request: Bytes,
    ) -> io::Result<()> {
        write_raw(io, request).await
    }
    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: Bytes,
    ) -> io::Result<()> {
        write_raw(io, response).await
    }
}

impl Hostile {
    /// Connects to `host` and greets it properly.
    async fn meet(host: &mut Host) -> Hostile {
        let rpc = |method: Method| {
            let protocol = StreamProtocol::new(method.protocol());
            let config = request_response::Config::default().with_request_timeout(PATIENCE);
            request_response::Behaviour::with_codec(RawCodec, [(protocol, ProtocolSupport::Full)], config)
        };
        let behaviour = Raw { status: rpc(Method::Status), ping: rpc(Method::Ping), chunks: rpc(Method::GetChunks) };
        let mut swarm = SwarmBuilder::with_existing_identity(Keypair::generate_secp256k1())
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
            .build();
        swarm.dial(host.address.clone()).unwrap();
        let mut hostile = Hostile { swarm };
        let host_id = host.net.local_peer();
        hostile.run_until(|event| matches!(event, SwarmEvent::ConnectionEstablished { .. })).await;
        let hello = Bytes { bytes: Request::Status(ours()).to_wire().unwrap(), hang: false };
        hostile.swarm.behaviour_mut().status.send_request(&host_id, hello);
        hostile
            .run_until(|event| {
                let SwarmEvent::Behaviour(RawEvent::Status(request_response::Event::Message { message, .. })) = event
                else {
                    return false;
                };
                let request_response::Message::Response { response, .. } = message else { return false };
                assert_eq!(response.bytes, Response::Status(ours()).to_wire().unwrap());
                true
            })
            .await;
        assert_eq!(host.connected().await, *hostile.swarm.local_peer_id());
        hostile
    }

    fn id(&self) -> PeerId {
        *self.swarm.local_peer_id()
    }

    async fn run_until(&mut self, is_it: impl Fn(&SwarmEvent<RawEvent>) -> bool) {
        let run = async { while !is_it(&self.swarm.select_next_some().await) {} };
        timeout(PATIENCE, run).await.expect("it happens in time");
    }

    /// Goes on, and keeps what it gets: no request is answered, no stream closed.
    async fn hold(&mut self) -> Vec<SwarmEvent<RawEvent>> {
        let mut held = Vec::new();
        while held.len() < 10_000 {
            held.push(self.swarm.select_next_some().await);
        }
        held
    }

    /// Sends a request for chunks that is none, and expects to be banned for it.
    async fn get_banned_for(mut self, host: &mut Host, bytes: Vec<u8>) {
        let host_id = host.net.local_peer();
        self.swarm.behaviour_mut().chunks.send_request(&host_id, Bytes { bytes, hang: false });
        self.run_until(|event| matches!(event, SwarmEvent::ConnectionClosed { .. })).await;
        let gone = host.next().await;
        assert!(matches!(gone, NetEvent::Disconnected(peer) if peer == self.id()), "{gone:?}");
        self.swarm.dial(host.address.clone()).unwrap();
        self.run_until(|event| {
            matches!(event, SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. })
        })
        .await;
        assert!(host.net.peers().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_the_last_ones() {
    let mut host = Host::start(ours()).await;
    let good = Request::GetChunks(CHUNKS).to_wire().unwrap();
    let mut broken_checksum = good.clone();
    broken_checksum[16] ^= 1;
    let rows = [
        // A length of 11 MiB.
        vec![0x80, 0x80, 0xc0, 0x05, 0, 0],
        // Garbage.
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        // The right length, a chunk of a type that does not exist.
        vec![64, 0x10, 0, 0, 0],
        broken_checksum,
        // Another length than the method has.
        Request::Ping(PING_VALUE).to_wire().unwrap(),
    ];
    // A request that breaks off is a connection that broke, not an offence.
    let mut clumsy = Hostile::meet(&mut host).await;
    let (host_id, clumsy_id) = (host.net.local_peer(), clumsy.id());
    clumsy.swarm.behaviour_mut().chunks.send_request(&host_id, Bytes { bytes: good[..20].to_vec(), hang: false });
    clumsy.run_until(|event| matches!(event, SwarmEvent::Behaviour(RawEvent::Chunks(_)))).await;
    assert_eq!(host.score(clumsy_id).await, Some(0.0));
    clumsy.swarm.disconnect_peer_id(host_id).unwrap();
    clumsy.run_until(|event| matches!(event, SwarmEvent::ConnectionClosed { .. })).await;
    assert!(matches!(host.next().await, NetEvent::Disconnected(peer) if peer == clumsy_id));

    for bytes in rows {
        Hostile::meet(&mut host).await.get_banned_for(&mut host, bytes).await;
    }
    // So many banned peers at one address: the address is banned.
    let innocent = Host::start(ours()).await;
    innocent.net.dial(host.address.clone()).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    host.lost(innocent.net.local_peer()).await;
    assert!(host.events.try_recv().is_err());
}

#[tokio::test]
async fn slow_peers_time_out_and_lose_standing() {
    let fast = Duration::from_millis(300);
    let timeouts = Timeouts { first_byte: fast, request: fast, response: 3 * fast, ..Timeouts::default() };
    let mut host = Host::start_with(ours(), timeouts).await;
    let mut slow = Hostile::meet(&mut host).await;
    let (host_id, slow_id) = (host.net.local_peer(), slow.id());

    // A request that does not end.
    let half = Request::GetChunks(CHUNKS).to_wire().unwrap()[..20].to_vec();
    slow.swarm.behaviour_mut().chunks.send_request(&host_id, Bytes { bytes: half, hang: true });
    let wait = async {
        while host.score(slow_id).await.is_some_and(|score| score > -4.9) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        _ = slow.hold() => panic!("it runs for ever"),
        () = wait => {}
    }
    assert!(host.score(slow_id).await.is_some_and(|score| (-5.0..-4.9).contains(&score)));

    // A request that is not answered: silence may be the network's fault, and costs little.
    let asked = host.net.request(slow_id, Request::GetChunks(CHUNKS));
    let answer = tokio::select! {
        _ = slow.hold() => panic!("it runs for ever"),
        answer = asked => answer,
    };
    assert!(matches!(answer, Err(RequestError::Timeout(peer)) if peer == slow_id), "{answer:?}");
    assert!(host.score(slow_id).await.is_some_and(|score| (-6.0..-5.9).contains(&score)));
}

#[tokio::test]
async fn a_flood_is_limited_and_ends_the_connection() {
    let mut host = Host::start(ours()).await;
    let mut flood = Hostile::meet(&mut host).await;
    let host_id = host.net.local_peer();
    let ping = Bytes { bytes: Request::Ping(PING_VALUE).to_wire().unwrap(), hang: false };
    let (mut answered, mut refused) = (0, 0);
    let run = async {
        for _ in 0..200 {
            flood.swarm.behaviour_mut().ping.send_request(&host_id, ping.clone());
            loop {
                match flood.swarm.select_next_some().await {
                    SwarmEvent::Behaviour(RawEvent::Ping(request_response::Event::Message {
                        message: request_response::Message::Response { response, .. },
                        ..
                    })) => {
                        match response.bytes[0] {
                            0 => answered += 1,
                            139 => refused += 1,
                            other => panic!("result {other}"),
                        }
                        break;
                    }
                    SwarmEvent::Behaviour(RawEvent::Ping(request_response::Event::OutboundFailure { .. })) => break,
                    SwarmEvent::ConnectionClosed { .. } => return,
                    _ => {}
                }
            }
        }
        panic!("200 pings were answered");
    };
    timeout(PATIENCE, run).await.expect("it ends in time");
    assert!(answered >= 2 && refused >= 19, "{answered} answered, {refused} refused");
    assert!(matches!(host.next().await, NetEvent::Disconnected(peer) if peer == flood.id()));
}

#[tokio::test]
async fn answers_that_cannot_be_read_lead_to_a_ban() {
    let mut host = Host::start(ours()).await;
    let mut liar = Hostile::meet(&mut host).await;
    let liar_id = liar.id();
    let asked = host.net.request(liar_id, Request::GetChunks(CHUNKS));
    let lie = async {
        loop {
            if let SwarmEvent::Behaviour(RawEvent::Chunks(request_response::Event::Message { message, .. })) =
                liar.swarm.select_next_some().await
                && let request_response::Message::Request { channel, .. } = message
            {
                // A successful result with a length of 11 MiB.
                let bytes = Bytes { bytes: vec![0, 0x80, 0x80, 0xc0, 0x05, 0], hang: false };
                liar.swarm.behaviour_mut().chunks.send_response(channel, bytes).unwrap();
            }
        }
    };
    let answer = tokio::select! {
        answer = asked => answer,
        () = lie => panic!("it runs for ever"),
    };
    assert!(matches!(answer, Err(RequestError::Io { .. })), "{answer:?}");
    tokio::select! {
        event = host.next() => assert!(matches!(event, NetEvent::Disconnected(peer) if peer == liar_id)),
        _ = liar.hold() => panic!("it runs for ever"),
    }
}

/// A flow of 20 sectors, sector i filled with the byte i; a file takes all of them but the first three.
struct Flow {
    stored: Mutex<Vec<u8>>,
}

const FLOW_LENGTH: u64 = 20;
const FILE: FilePlace = FilePlace { tx_id: TX, start: 3, sectors: FLOW_LENGTH - 3 };

impl Flow {
    fn new() -> Arc<Flow> {
        Arc::new(Flow { stored: Mutex::new(Vec::new()) })
    }

    fn root() -> H256 {
        flow::root_at(&*Flow::new(), FLOW_LENGTH).unwrap()
    }
}

impl FlowNodes for Flow {
    type Error = Infallible;
    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Infallible> {
        if height > 0 {
            let [left, right] = [2 * index, 2 * index + 1].map(|index| self.node(height - 1, index));
            return Ok(left?.zip(right?).map(|(left, right)| parent(&left, &right)));
        }
        Ok((index < FLOW_LENGTH).then(|| match index {
            0 => flow::RESERVED_LEAF,
            index => sector_hash(&[index as u8; 256]),
        }))
    }
}

impl FileSource for Flow {
    type Error = Infallible;
    fn place(&self, seq: u64) -> Result<Option<FilePlace>, Infallible> {
        Ok((seq == TX.seq).then_some(FILE))
    }
    fn chunks(&self, place: &FilePlace, request: &ChunkRequest) -> Result<Option<ChunksWithProof>, Infallible> {
        let sectors = place.start + request.start..place.start + request.end;
        let proof = |position| prove(self, FLOW_LENGTH, position).unwrap();
        let (left, right) = (proof(sectors.start), proof(sectors.end - 1));
        let data = sectors.flat_map(|position| [position as u8; 256]).collect();
        Ok(Some(ChunksWithProof { start: request.start, data, left, right }))
    }
}

impl ChunkSink for Flow {
    type Error = Infallible;
    fn place(&self, seq: u64) -> Result<Option<FilePlace>, Infallible> {
        FileSource::place(self, seq)
    }
    fn is_flow_root(&self, root: &H256) -> Result<bool, Infallible> {
        Ok(*root == Flow::root())
    }
    fn put(&self, place: &FilePlace, chunks: &ChunksWithProof, root: &H256) -> Result<Taken, Infallible> {
        assert_eq!(*place, FILE);
        let end = chunks.start + (chunks.data.len() / 256) as u64;
        let request = ChunkRequest { tx_id: place.tx_id, start: chunks.start, end, root_seq: 7 };
        if verify(&request, place.start, chunks).is_ok_and(|proven| proven == *root) {
            self.stored.lock().unwrap().extend(&chunks.data);
            return Ok(Taken::Stored);
        }
        Ok(Taken::Wrong { reason: "the sectors do not lead to the root" })
    }
}

#[tokio::test]
async fn sectors_come_from_honest_peers_and_liars_are_banned() {
    let (mut a, mut b) = pair().await;
    let (a_id, b_id) = (a.net.local_peer(), b.net.local_peer());
    let sink = Flow::new();
    let request = ChunkRequest { tx_id: TX, start: 0, end: FILE.sectors, root_seq: 7 };

    let asked = tokio::spawn(fetch_from(b.net.clone(), sink.clone(), a_id, request));
    let NetEvent::ChunksWanted { peer, id, request: wanted } = a.next().await else { panic!("chunks are wanted") };
    serve(&a.net, Flow::new(), peer, id, wanted).await.unwrap();
    asked.await.unwrap().unwrap();
    let expected: Vec<u8> = (3..20).flat_map(|position| [position; 256]).collect();
    assert_eq!(*sink.stored.lock().unwrap(), expected);

    // Not asked at all: the file ends before.
    let outside = ChunkRequest { end: FILE.sectors + 1, ..request };
    assert!(matches!(fetch(&b.net, sink.clone(), a_id, outside).await, Err(FetchError::NotAFile(_))));

    // One wrong bit.
    let asked = tokio::spawn(fetch_from(b.net.clone(), sink.clone(), a_id, request));
    let NetEvent::ChunksWanted { id, .. } = a.next().await else { panic!("chunks are wanted") };
    let mut lie = Flow::new().chunks(&FILE, &request).unwrap().unwrap();
    lie.data[700] ^= 1;
    a.net.respond(id, Response::Chunks(Box::new(lie))).await.unwrap();
    let answer = asked.await.unwrap();
    assert!(matches!(answer, Err(FetchError::Wrong { peer, .. }) if peer == a_id), "{answer:?}");
    assert!(matches!(b.next().await, NetEvent::Disconnected(peer) if peer == a_id));
    assert_eq!(sink.stored.lock().unwrap().len(), expected.len());
    a.lost(b_id).await;
    a.net.dial(b.address.clone()).await.unwrap();
    sleep(Duration::from_millis(500)).await;
    assert!(b.net.peers().await.unwrap().is_empty());
}

async fn fetch_from(
    net: NetHandle,
    sink: Arc<Flow>,
    peer: PeerId,
    request: ChunkRequest,
) -> Result<(), FetchError<Infallible>> {
    fetch(&net, sink, peer, request).await
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_a_ban() {
    let (mut a, b) = pair().await;
    let (a_id, b_id) = (a.net.local_peer(), b.net.local_peer());
    let net = b.net.clone();
    let request = ChunkRequest { tx_id: TX, start: 2, end: 2, root_seq: 7 };
    let asked = tokio::spawn(async move { net.request(a_id, Request::GetChunks(request)).await });
    let NetEvent::ChunksWanted { peer, id, request } = a.next().await else { panic!("chunks are wanted") };
    serve(&a.net, Flow::new(), peer, id, request).await.unwrap();
    assert!(asked.await.unwrap().is_err());
    assert!(matches!(a.next().await, NetEvent::Disconnected(peer) if peer == b_id));
}

/// Where discovery reaches the node of a record, and who that is.
fn boot_address(record: &str) -> Multiaddr {
    let record: enr::Enr<enr::CombinedKey> = record.parse().unwrap();
    let (peer, _) = dial_address(&record).unwrap();
    format!("/ip4/127.0.0.1/udp/{}/p2p/{peer}", record.udp4().unwrap()).parse().unwrap()
}

async fn discovery(
    host: &Host,
    key: Keypair,
    identity: NetworkIdentity,
    boot_records: Vec<String>,
    boot_addresses: Vec<Multiaddr>,
) -> Discovery {
    let tcp_port = host.address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let config = discovery_config(key, identity, tcp_port.unwrap());
    Discovery::start(DiscoveryConfig { boot_records, boot_addresses, ..config }).await.unwrap()
}

fn discovery_config(key: Keypair, identity: NetworkIdentity, tcp_port: u16) -> DiscoveryConfig {
    DiscoveryConfig {
        key,
        identity,
        listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
        ip: Some(Ipv4Addr::LOCALHOST),
        tcp_port,
        record_file: None,
        boot_records: vec![],
        boot_addresses: vec![],
        target: 2,
        period: Duration::from_millis(300),
        private_addresses: true,
        udp_port: None,
        has_identity: true,
        tuning: Tuning::default(),
    }
}

/// A node that does not know its address, as behind a router or in a rented machine, learns it from those that it meets.
#[tokio::test]
async fn an_address_is_learned_when_many_agree_on_it() {
    let identity = ours().identity;
    let mut boot_records: Vec<String> = Vec::new();
    let mut hosts = Vec::new();
    // Ten have to agree; the last one does not know where it is.
    for index in 0..13 {
        let key = Keypair::generate_secp256k1();
        let host = Host::start_as(key.clone(), ours(), Timeouts::default()).await;
        let ip = (index < 12).then_some(Ipv4Addr::LOCALHOST);
        let config = discovery_config(key, identity, 4000 + index);
        let config = DiscoveryConfig { ip, target: 50, boot_records: boot_records.clone(), ..config };
        let discovery = Discovery::start(config).await.unwrap();
        boot_records.is_empty().then(|| boot_records.push(discovery.record()));
        tokio::spawn(discovery.run(host.net.clone()));
        hosts.push(host);
    }
    let lost = hosts.pop().unwrap();
    assert_eq!(lost.net.seen_at(), None);
    let start = Instant::now();
    while lost.net.seen_at().is_none() {
        assert!(start.elapsed() < PATIENCE, "nobody tells it");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(lost.net.seen_at(), Some("/ip4/127.0.0.1/tcp/4012".parse().unwrap()));
    assert!(hosts.iter().all(|host| host.net.seen_at().is_none()), "what is configured is not asked for");
}

#[tokio::test]
async fn hosts_of_one_network_find_each_other() {
    let mut hosts = Vec::new();
    let mut records = Vec::new();
    // The last one belongs to another network, and nobody tells it about this one.
    for chain_id in [16661, 16661, 16661, 1] {
        let (key, status) = (Keypair::generate_secp256k1(), status(chain_id, ShardConfig::WHOLE));
        let host = Host::start_as(key.clone(), status, Timeouts::default()).await;
        let boot: Vec<String> = records.first().cloned().filter(|_| chain_id == 16661).into_iter().collect();
        // The second starts from a record, the third from an address that it asks for the record.
        let (boot_records, boot_addresses) = match records.len() {
            2 => (vec![], boot.iter().map(|record| boot_address(record)).collect()),
            _ => (boot, vec![]),
        };
        let discovery = discovery(&host, key, status.identity, boot_records, boot_addresses).await;
        records.push(discovery.record());
        tokio::spawn(discovery.run(host.net.clone()));
        hosts.push(host);
    }
    let ids: Vec<PeerId> = hosts[..3].iter().map(|host| host.net.local_peer()).collect();
    for host in &mut hosts[..3] {
        let mut met = vec![host.net.local_peer(), host.connected().await];
        while met.len() < 3 {
            match host.next().await {
                NetEvent::Connected { peer, .. } if !met.contains(&peer) => met.push(peer),
                NetEvent::Disconnected(peer) => met.retain(|other| *other != peer),
                _ => {}
            }
        }
        assert!(ids.iter().all(|id| met.contains(id)));
    }
    assert!(hosts[3].net.peers().await.unwrap().is_empty());
}
