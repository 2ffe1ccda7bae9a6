//! The network as one task: commands go in, events come out, both through bounded channels.
//!
//! The task owns the connections. It greets peers, drops those of other networks, limits and judges what they send, keeps
//! their scores, and hands the rest to the node. A node that does not take its events in time slows the network down
//! rather than filling memory: nothing more is read from the connections until it does.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, SwarmBuilder, Transport,
    core::{ConnectedPoint, upgrade::Version},
    gossipsub::{self, IdentTopic, MessageAcceptance, MessageId},
    identify,
    identity::{Keypair, SigningError},
    multiaddr::Protocol,
    noise,
    request_response::{self, InboundRequestId, OutboundFailure, OutboundRequestId, ResponseChannel},
    swarm::SwarmEvent,
    tcp, yamux,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{debug, warn};

use super::{
    behaviour::{Behaviour, BehaviourEvent, IDENTIFY_PROTOCOL, Incoming},
    error::{NetError, RequestError},
    judge::{Circumstances, Verdict},
    limits::Limiter,
    peers::{ClientInfo, Offence, PeerInfo, PeerRecord, PeerTable, Standing},
    start::peer_of,
    stream::Mortal,
    wire::{
        Message, Method, Request, Response, ShardConfig, Status, Topic,
        gossip::{FileAnnouncement, SignedAnnouncement, Timed},
        rpc::{ChunkRequest, Goodbye, PING_VALUE, Refusal},
        types::ShardedFile,
    },
};

/// Events that wait for the node before the connections are no longer read.
const MAX_WAITING_EVENTS: usize = 64;
/// Commands and events in their channels.
const CHANNEL_CAPACITY: usize = 64;
/// Time between two looks at what is due.
const TICK: Duration = Duration::from_millis(500);
/// Longest text that is kept of what a peer says about itself, in bytes.
const MAX_CLIENT_TEXT: usize = 128;
/// Addresses that are kept of what a peer says about itself.
const MAX_CLIENT_ADDRESSES: usize = 8;
/// Time between two looks at how many peers there are.
const PRUNE_PERIOD: Duration = Duration::from_secs(30);
/// Time that a farewell may take before the connection is cut.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// Time between two connections to the same peer: it takes five greetings in 15 s.
const GREETING_PERIOD: Duration = Duration::from_secs(4);
/// Time that a dial may take until the connection is encrypted and multiplexed.
const UPGRADE_TIME: Duration = Duration::from_secs(10);

/// How long things may take, and how often they are done.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// From a request to the first byte of its response. Default 5 s.
    pub first_byte: Duration,
    /// From the first byte of an incoming request to its last. Default 15 s.
    pub request: Duration,
    /// From a request to the end of its response. Default 30 s.
    pub response: Duration,
    /// From a connection to the end of the handshake. Default 15 s.
    pub handshake: Duration,
    /// Between two pings of a peer that we dialled; of others a third more. Peers take two in 10 s. Default 15 s.
    pub ping: Duration,
    /// Without anything that can be written to a connection, after which it is dead. Default 20 s.
    pub write: Duration,
    /// Between two handshakes. Default 300 s.
    pub status: Duration,
    /// Between two attempts to reach a boot node that is not connected. Default 30 s.
    pub redial: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Timeouts {
            first_byte: seconds(5),
            request: seconds(15),
            response: seconds(30),
            handshake: seconds(15),
            ping: seconds(15),
            write: seconds(20),
            status: seconds(300),
            redial: seconds(30),
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Peers that are wanted; more are sent away, the worst first. Default 50.
    pub target: u32,
    /// Incoming connections that are not encrypted yet. Default 5.
    pub pending_incoming: u32,
    /// Outgoing connections that are not encrypted yet. Default 16.
    pub pending_outgoing: u32,
    /// Incoming connections. Default 45.
    pub incoming: u32,
    /// Outgoing connections. Default 55.
    pub outgoing: u32,
    /// All connections. Default 65.
    pub total: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { target: 50, pending_incoming: 5, pending_outgoing: 16, incoming: 45, outgoing: 55, total: 65 }
    }
}

/// What the network needs to know.
#[derive(Clone, Debug)]
pub struct NetConfig {
    /// The node's identity: a secp256k1 key.
    pub key: Keypair,
    /// Which network, and what this node keeps.
    pub status: Status,
    /// Where to listen, `/ip4/…/tcp/…`; none makes a node that only dials.
    pub listen: Vec<Multiaddr>,
    /// Nodes to stay connected to, `/ip4/…/tcp/…`, with `/p2p/…` when their identity is known.
    pub boot_nodes: Vec<Multiaddr>,
    /// How the node calls itself, such as `zgpu/v0.1.0/x86_64-linux`.
    pub agent: String,
    /// Version of the protocol family that the node tells; empty for one that keeps to itself. Default `eth2/1.0.0`.
    pub protocol: String,
    /// True when others may announce private addresses: test networks alone.
    pub private_addresses: bool,
    /// True when the topics about single sectors are subscribed to as well.
    pub find_chunks: bool,
    /// See [`Limits`].
    pub limits: Limits,
    /// See [`Timeouts`].
    pub timeouts: Timeouts,
}

impl NetConfig {
    /// A node of this key and network that listens nowhere, with defaults for the rest.
    pub fn new(key: Keypair, status: Status) -> Self {
        NetConfig {
            key,
            status,
            listen: Vec::new(),
            boot_nodes: Vec::new(),
            agent: format!("zgpu/v{}/{}-{}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS),
            protocol: IDENTIFY_PROTOCOL.into(),
            private_addresses: false,
            find_chunks: false,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// What the node hears from the network.
#[derive(Debug)]
pub enum NetEvent {
    /// The network listens here.
    Listening(Multiaddr),
    /// A peer is connected and belongs to our network.
    Connected {
        /// Who.
        peer: PeerId,
        /// What it keeps.
        shard: ShardConfig,
        /// True when we dialled it.
        is_outgoing: bool,
    },
    /// Such a peer is gone.
    Disconnected(PeerId),
    /// A message that follows the rules.
    Gossip(GossipEvent),
    /// A peer answers that it has a file that we asked for.
    Answer {
        /// Who.
        peer: PeerId,
        /// The file.
        file: ShardedFile,
    },
    /// A peer asks for sectors; [`NetHandle::respond`] answers.
    ChunksWanted {
        /// Who.
        peer: PeerId,
        /// Which request is to be answered.
        id: ChunksId,
        /// What it asks for.
        request: ChunkRequest,
    },
}

/// A message of gossip.
#[derive(Debug)]
pub struct GossipEvent {
    /// Who passed it to us.
    pub from: PeerId,
    /// Who made it.
    pub author: PeerId,
    /// What it says.
    pub message: Message,
    /// When set, the node must tell [`NetHandle::verdict`] whether the message is passed on.
    pub undecided: Option<MessageId>,
}

/// Names a request for sectors until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunksId(InboundRequestId);

/// The network as the operator sees it.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Where this node listens.
    pub listeners: Vec<Multiaddr>,
    /// All peers that are connected or remembered.
    pub peers: Vec<PeerRecord>,
}

enum Command {
    Dial(Multiaddr),
    Publish(Box<Message>, oneshot::Sender<Result<(), NetError>>),
    Request(PeerId, Request, oneshot::Sender<Result<Response, RequestError>>),
    Respond(ChunksId, Response),
    Verdict { id: MessageId, from: PeerId, verdict: Verdict },
    Punish(PeerId, Offence),
    Disconnect(PeerId, Goodbye),
    SetShard(ShardConfig),
    Peers(oneshot::Sender<Vec<PeerInfo>>),
    Overview(oneshot::Sender<Overview>),
    Shutdown,
}

/// Speaks to the network's task. Clones speak to the same one; when the last is gone, the task ends.
#[derive(Clone)]
pub struct NetHandle {
    commands: mpsc::Sender<Command>,
    seen_at: Arc<watch::Sender<Option<Multiaddr>>>,
    local_peer: PeerId,
    key: Keypair,
}

impl NetHandle {
    /// Who we are.
    pub fn local_peer(&self) -> PeerId {
        self.local_peer
    }

    /// Where other nodes say that they see this one, `/ip4/…/tcp/…` with the port that it tells; `None` while too few agree.
    pub fn seen_at(&self) -> Option<Multiaddr> {
        self.seen_at.borrow().clone()
    }

    /// Notes where others see this node.
    pub(super) fn set_seen_at(&self, address: Option<Multiaddr>) {
        self.seen_at.send_if_modified(|seen| {
            let has_changed = *seen != address;
            *seen = address;
            has_changed
        });
    }

    /// Signs an announcement as this node; its `peer_id` must be ours.
    pub fn sign(&self, announcement: Timed<FileAnnouncement>) -> Result<SignedAnnouncement, SigningError> {
        SignedAnnouncement::sign(announcement, &self.key)
    }

    async fn send(&self, command: Command) -> Result<(), NetError> {
        self.commands.send(command).await.map_err(|_| NetError::Closed)
    }

    /// Starts to dial an address; when that succeeds, [`NetEvent::Connected`] follows.
    pub async fn dial(&self, address: Multiaddr) -> Result<(), NetError> {
        self.send(Command::Dial(address)).await
    }

    /// Publishes a message to the network.
    pub async fn publish(&self, message: Message) -> Result<(), NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Publish(Box::new(message), reply)).await?;
        answer.await.map_err(|_| NetError::Closed)?
    }

    /// Asks a connected peer and waits for its answer, for a limited time.
    pub async fn request(&self, peer: PeerId, request: Request) -> Result<Response, RequestError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Request(peer, request, reply)).await.map_err(|_| RequestError::Closed)?;
        answer.await.map_err(|_| RequestError::Closed)?
    }

    /// Answers a peer's request for sectors. Too late is no error: the peer no longer waits.
    pub async fn respond(&self, id: ChunksId, response: Response) -> Result<(), NetError> {
        self.send(Command::Respond(id, response)).await
    }

    /// Decides whether a message of [`GossipEvent::undecided`] is passed on.
    pub async fn verdict(&self, id: MessageId, from: PeerId, verdict: Verdict) -> Result<(), NetError> {
        self.send(Command::Verdict { id, from, verdict }).await
    }

    /// Holds something against a peer; with a low score it is disconnected, with a very low one banned.
    pub async fn punish(&self, peer: PeerId, offence: Offence) -> Result<(), NetError> {
        self.send(Command::Punish(peer, offence)).await
    }

    /// Says goodbye to a peer and disconnects it.
    pub async fn disconnect(&self, peer: PeerId, reason: Goodbye) -> Result<(), NetError> {
        self.send(Command::Disconnect(peer, reason)).await
    }

    /// This node keeps another shard from now on; peers learn it at the next handshake and from an announcement.
    pub async fn set_shard(&self, shard: ShardConfig) -> Result<(), NetError> {
        self.send(Command::SetShard(shard)).await
    }

    /// The connected peers.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Peers(reply)).await?;
        answer.await.map_err(|_| NetError::Closed)
    }

    /// Listeners and all peers, for the operator to see.
    pub async fn overview(&self) -> Result<Overview, NetError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Overview(reply)).await?;
        answer.await.map_err(|_| NetError::Closed)
    }

    /// Says goodbye to all and ends the task.
    pub async fn shutdown(&self) -> Result<(), NetError> {
        self.send(Command::Shutdown).await
    }
}

struct Pending {
    peer: PeerId,
    method: Method,
    /// `None` for what the service asks on its own.
    reply: Option<oneshot::Sender<Result<Response, RequestError>>>,
}

struct Due {
    ping: Instant,
    status: Instant,
    is_outgoing: bool,
}

/// A node that is dialled again whenever it is not connected.
struct BootNode {
    address: Multiaddr,
    /// Told by the address, or learned from the first connection.
    peer: Option<PeerId>,
    due: Instant,
}

/// The task; see the module documentation.
pub struct NetService {
    swarm: Swarm<Behaviour>,
    config: NetConfig,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<NetEvent>,
    waiting: VecDeque<NetEvent>,
    peers: PeerTable,
    limiter: Limiter,
    asked: HashMap<(Method, OutboundRequestId), Pending>,
    wanted: HashMap<ChunksId, ResponseChannel<Response>>,
    due: HashMap<PeerId, Due>,
    /// Peers that we have said goodbye to, and when the connection is cut at the latest.
    leaving: HashMap<PeerId, Instant>,
    banned: HashSet<PeerId>,
    boot_nodes: Vec<BootNode>,
    prune_due: Instant,
}

impl NetService {
    /// Sets the network up and starts to listen; nothing happens before [`NetService::run`]. Call it within a tokio runtime.
    pub fn new(config: NetConfig) -> Result<(Self, NetHandle, mpsc::Receiver<NetEvent>), NetError> {
        let behaviour = Behaviour::new(&config)?;
        let write_limit = config.timeouts.write;
        let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
            .map(move |stream, _| Mortal::new(stream, write_limit))
            .upgrade(Version::V1Lazy)
            .authenticate(noise::Config::new(&config.key)?)
            .multiplex(yamux::Config::default());
        let mut swarm = SwarmBuilder::with_existing_identity(config.key.clone())
            .with_tokio()
            .with_other_transport(|_| transport)
            .unwrap_or_else(|never| match never {})
            .with_behaviour(|_| behaviour)
            .unwrap_or_else(|never| match never {})
            .with_swarm_config(|settings| settings.with_idle_connection_timeout(Duration::MAX))
            .with_connection_timeout(UPGRADE_TIME)
            .build();
        for address in &config.listen {
            swarm.listen_on(address.clone())?;
        }
        let (commands_in, commands) = mpsc::channel(CHANNEL_CAPACITY);
        let (events, events_out) = mpsc::channel(CHANNEL_CAPACITY);
        let handle = NetHandle {
            commands: commands_in,
            seen_at: Arc::new(watch::Sender::new(None)),
            local_peer: *swarm.local_peer_id(),
            key: config.key.clone(),
        };
        let now = Instant::now();
        let boot_node = |address: &Multiaddr| BootNode { address: address.clone(), peer: peer_of(address), due: now };
        let boot_nodes = config.boot_nodes.iter().map(boot_node).collect();
        let service = NetService {
            swarm,
            config,
            commands,
            events,
            waiting: VecDeque::new(),
            peers: PeerTable::default(),
            limiter: Limiter::default(),
            asked: HashMap::new(),
            wanted: HashMap::new(),
            due: HashMap::new(),
            leaving: HashMap::new(),
            banned: HashSet::new(),
            boot_nodes,
            prune_due: now + PRUNE_PERIOD,
        };
        Ok((service, handle, events_out))
    }

    /// Runs until it is shut down, all handles are gone, or nobody listens to events any more.
    ///
    /// Fails when every listener is gone.
    pub async fn run(mut self) -> Result<(), NetError> {
        let events = self.events.clone();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                permit = events.reserve(), if !self.waiting.is_empty() => {
                    let Ok(permit) = permit else { break };
                    if let Some(event) = self.waiting.pop_front() {
                        permit.send(event);
                    }
                }
                command = self.commands.recv() => match command {
                    None | Some(Command::Shutdown) => break,
                    Some(command) => self.on_command(command),
                },
                event = self.swarm.select_next_some(), if self.waiting.len() < MAX_WAITING_EVENTS => {
                    self.on_swarm_event(event)?;
                }
                _ = tick.tick() => self.on_tick(Instant::now()),
            }
        }
        self.say_goodbye_to_all().await;
        Ok(())
    }

    async fn say_goodbye_to_all(&mut self) {
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in &connected {
            self.ask(*peer, Request::Goodbye(Goodbye::ClientShutdown), None);
        }
        let flush = async {
            while self.asked.values().any(|pending| pending.method == Method::Goodbye) {
                if let SwarmEvent::Behaviour(event) = self.swarm.select_next_some().await {
                    self.on_behaviour_event(event);
                }
            }
        };
        // Whoever does not listen to farewells is left without one.
        let _ = timeout(FAREWELL_TIME, flush).await;
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Dial(address) => self.dial(address),
            Command::Publish(message, reply) => {
                // Nobody waiting for the outcome is no reason not to publish.
                let _ = reply.send(self.publish(&message));
            }
            Command::Request(peer, request, reply) => {
                if self.swarm.is_connected(&peer) {
                    self.ask(peer, request, Some(reply));
                } else {
                    let _ = reply.send(Err(RequestError::NotConnected(peer)));
                }
            }
            Command::Respond(id, response) => {
                if let Some(channel) = self.wanted.remove(&id) {
                    self.answer(Method::GetChunks, channel, response);
                }
            }
            Command::Verdict { id, from, verdict } => self.give_verdict(&id, &from, verdict),
            Command::Punish(peer, offence) => self.punish(peer, offence, "reported by the node"),
            Command::Disconnect(peer, reason) => self.part_with(peer, reason),
            Command::SetShard(shard) => self.config.status.shard = shard,
            Command::Peers(reply) => {
                let _ = reply.send(self.peers.connected(Instant::now()));
            }
            Command::Overview(reply) => {
                let listeners = self.swarm.listeners().cloned().collect();
                let _ = reply.send(Overview { listeners, peers: self.peers.records(Instant::now()) });
            }
            Command::Shutdown => {}
        }
    }

    /// Dials, unless that is known to be in vain.
    fn dial(&mut self, address: Multiaddr) {
        if peer_of(&address).is_some_and(|peer| !self.is_worth_dialling(&peer, Instant::now())) {
            return debug!(%address, "not worth dialling");
        }
        if let Err(error) = self.swarm.dial(address.clone()) {
            debug!(%address, %error, "not dialled");
        }
    }

    /// False for a peer that is connected or was a moment ago, is in poor standing, or keeps nothing of interest.
    fn is_worth_dialling(&self, peer: &PeerId, now: Instant) -> bool {
        let ours = self.config.status.shard;
        let is_stranger = self.peers.remembered_shard(peer, now).is_some_and(|shard| !shard.is_neighbour(&ours));
        let is_too_soon = self.peers.met_at(peer).is_some_and(|at| now.saturating_duration_since(at) < GREETING_PERIOD);
        let is_good = self.peers.standing(peer, now) == Standing::Good;
        is_good && !is_stranger && !is_too_soon && !self.swarm.is_connected(peer)
    }

    fn publish(&mut self, message: &Message) -> Result<(), NetError> {
        let topic = IdentTopic::new(message.topic().name());
        self.swarm.behaviour_mut().gossip.publish(topic, message.to_ssz())?;
        Ok(())
    }

    fn ask(&mut self, peer: PeerId, request: Request, reply: Option<oneshot::Sender<Result<Response, RequestError>>>) {
        let method = request.method();
        let id = self.swarm.behaviour_mut().rpc(method).send_request(&peer, Ok(request));
        self.asked.insert((method, id), Pending { peer, method, reply });
    }

    fn answer(&mut self, method: Method, channel: ResponseChannel<Response>, response: Response) {
        if self.swarm.behaviour_mut().rpc(method).send_response(channel, response).is_err() {
            debug!(?method, "the answer came too late");
        }
    }

    fn give_verdict(&mut self, id: &MessageId, from: &PeerId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.swarm.behaviour_mut().gossip.report_message_validation_result(id, from, acceptance);
    }

    fn punish(&mut self, peer: PeerId, offence: Offence, reason: &str) {
        debug!(%peer, ?offence, reason, "offence");
        match self.peers.punish(peer, offence, Instant::now()) {
            Standing::Good => {}
            Standing::Poor => self.part_with(peer, Goodbye::BadScore),
            Standing::Banned => {
                self.banned.insert(peer);
                self.part_with(peer, Goodbye::Banned);
            }
        }
    }

    /// Says goodbye; the connection is cut when that has been sent, or soon.
    fn part_with(&mut self, peer: PeerId, reason: Goodbye) {
        if !self.swarm.is_connected(&peer) {
            self.cut(peer);
        } else if let Entry::Vacant(farewell) = self.leaving.entry(peer) {
            farewell.insert(Instant::now() + FAREWELL_TIME);
            self.ask(peer, Request::Goodbye(reason), None);
        }
    }

    fn cut(&mut self, peer: PeerId) {
        self.leaving.remove(&peer);
        if self.banned.contains(&peer) {
            self.swarm.behaviour_mut().bans.block_peer(peer);
        }
        // No connection is what is wanted.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    fn on_tick(&mut self, now: Instant) {
        for peer in self.peers.silent(self.config.timeouts.handshake, now) {
            self.part_with(peer, Goodbye::UnableToVerifyNetwork);
        }
        let late: Vec<PeerId> =
            self.leaving.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        late.into_iter().for_each(|peer| self.cut(peer));
        self.greet_and_ping(now);
        self.lift_bans(now);
        self.limiter.tidy(now);
        if now >= self.prune_due {
            self.prune_due = now + PRUNE_PERIOD;
            for peer in self.peers.excess(self.config.limits.target as usize, now) {
                self.part_with(peer, Goodbye::TooManyPeers);
            }
        }
        self.dial_boot_nodes(now);
    }

    fn dial_boot_nodes(&mut self, now: Instant) {
        let mut addresses = Vec::new();
        for node in self.boot_nodes.iter_mut().filter(|node| now >= node.due) {
            node.due = now + self.config.timeouts.redial;
            addresses.push((node.address.clone(), node.peer));
        }
        for (address, peer) in addresses {
            if peer.is_none_or(|peer| self.is_worth_dialling(&peer, now)) {
                self.dial(address);
            }
        }
    }

    fn greet_and_ping(&mut self, now: Instant) {
        let timeouts = self.config.timeouts;
        let mut requests = Vec::new();
        for (peer, due) in &mut self.due {
            if now >= due.ping {
                due.ping = now + if due.is_outgoing { timeouts.ping } else { timeouts.ping * 4 / 3 };
                requests.push((*peer, Request::Ping(PING_VALUE)));
            }
            if now >= due.status {
                due.status = now + timeouts.status;
                requests.push((*peer, Request::Status(self.config.status)));
            }
        }
        for (peer, request) in requests {
            self.ask(peer, request, None);
        }
    }

    fn lift_bans(&mut self, now: Instant) {
        let peers = &self.peers;
        for peer in self.banned.extract_if(|peer| peers.standing(peer, now) != Standing::Banned) {
            self.swarm.behaviour_mut().bans.unblock_peer(peer);
        }
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) -> Result<(), NetError> {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } => self.on_connection(peer_id, &endpoint),
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.due.remove(&peer_id);
                self.leaving.remove(&peer_id);
                if self.peers.disconnect(&peer_id, Instant::now()) {
                    self.waiting.push_back(NetEvent::Disconnected(peer_id));
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => self.waiting.push_back(NetEvent::Listening(address)),
            SwarmEvent::ListenerClosed { reason, addresses, .. } => {
                warn!(?addresses, ?reason, "a listener is gone");
                if self.swarm.listeners().next().is_none() {
                    return Err(NetError::NoListener);
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => debug!(?peer_id, %error, "dial failed"),
            _ => {}
        }
        Ok(())
    }

    fn on_connection(&mut self, peer: PeerId, endpoint: &ConnectedPoint) {
        let now = Instant::now();
        let is_outgoing = endpoint.is_dialer();
        if is_outgoing {
            let address = without_peer(endpoint.get_remote_address());
            let dialled = self.boot_nodes.iter_mut().filter(|node| without_peer(&node.address) == address);
            dialled.for_each(|node| node.peer = Some(peer));
        }
        let ip = ip_of(endpoint.get_remote_address());
        self.peers.connect(peer, ip, is_outgoing, now);
        if ip.is_some_and(|ip| self.peers.is_ip_banned(ip, now)) {
            return self.part_with(peer, Goodbye::BannedIp);
        }
        match self.peers.standing(&peer, now) {
            Standing::Good => {}
            Standing::Poor => return self.part_with(peer, Goodbye::BadScore),
            Standing::Banned => return self.part_with(peer, Goodbye::Banned),
        }
        let timeouts = self.config.timeouts;
        // Whoever dialled greets first; the other one greets when it is time again.
        let status = if is_outgoing { now } else { now + timeouts.status };
        self.due.insert(peer, Due { ping: now + timeouts.ping, status, is_outgoing });
        self.greet_and_ping(now);
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                self.on_gossip(propagation_source, message_id, message);
            }
            BehaviourEvent::Status(event) => self.on_rpc(Method::Status, event),
            BehaviourEvent::Goodbye(event) => self.on_rpc(Method::Goodbye, event),
            BehaviourEvent::Ping(event) => self.on_rpc(Method::Ping, event),
            BehaviourEvent::DataByHash(event) => self.on_rpc(Method::DataByHash, event),
            BehaviourEvent::AnswerFile(event) => self.on_rpc(Method::AnswerFile, event),
            BehaviourEvent::GetChunks(event) => self.on_rpc(Method::GetChunks, event),
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                let client = ClientInfo {
                    protocol: info.protocol_version.chars().take(MAX_CLIENT_TEXT).collect(),
                    agent: info.agent_version.chars().take(MAX_CLIENT_TEXT).collect(),
                    addresses: info.listen_addrs.into_iter().take(MAX_CLIENT_ADDRESSES).collect(),
                };
                self.peers.set_client(&peer_id, client);
            }
            BehaviourEvent::Gossip(_) | BehaviourEvent::Identify(_) => {}
            BehaviourEvent::Bans(never) | BehaviourEvent::Limits(never) => match never {},
        }
    }

    fn on_gossip(&mut self, from: PeerId, id: MessageId, message: gossipsub::Message) {
        let now = Instant::now();
        let (Some(topic), Some(author)) = (Topic::from_name(message.topic.as_str()), message.source) else {
            return self.give_verdict(&id, &from, Verdict::Ignore);
        };
        // Before the handshake nobody knows which network it is about.
        if self.peers.shard(&from).is_none() {
            return self.give_verdict(&id, &from, Verdict::Ignore);
        }
        if !self.limiter.allows_gossip(from, topic, now) {
            self.give_verdict(&id, &from, Verdict::Reject);
            return self.punish(from, Offence::Low, "too much gossip");
        }
        let message = match Message::from_ssz(topic, &message.data) {
            Ok(message) => message,
            Err(error) => {
                debug!(%from, %error, "not a message");
                self.give_verdict(&id, &from, Verdict::Reject);
                return self.punish(from, Offence::Low, "gossip that cannot be read");
            }
        };
        let circumstances = Circumstances {
            shard: self.config.status.shard,
            now: unix_time(),
            private_addresses: self.config.private_addresses,
        };
        let judgement = circumstances.judge(&message);
        if let Some(verdict) = judgement.verdict {
            self.give_verdict(&id, &from, verdict);
        }
        if let Some(offence) = judgement.offence {
            self.punish(from, offence, "gossip against the rules");
        }
        if !judgement.is_delivered {
            return;
        }
        if let Message::AnnounceShardConfig(shard) = &message {
            self.peers.set_shard(&author, shard.inner, now);
        }
        let undecided = judgement.verdict.is_none().then_some(id);
        self.waiting.push_back(NetEvent::Gossip(GossipEvent { from, author, message, undecided }));
    }

    fn on_rpc(&mut self, method: Method, event: request_response::Event<Incoming, Response>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                request_response::Message::Request { request_id, request, channel } => match request {
                    Ok(request) => self.on_request(peer, request_id, request, channel),
                    Err(error) => self.on_unreadable_request(peer, &error),
                },
                request_response::Message::Response { request_id, response } => {
                    if let Some(pending) = self.asked.remove(&(method, request_id)) {
                        self.on_response(pending, response);
                    }
                }
            },
            request_response::Event::OutboundFailure { request_id, error, .. } => {
                if let Some(pending) = self.asked.remove(&(method, request_id)) {
                    self.on_failure(pending, error);
                }
            }
            request_response::Event::InboundFailure { peer, request_id, error, .. } => {
                // The other side closed, or no answer was due.
                debug!(%peer, ?method, %error, "not answered");
                if method == Method::GetChunks {
                    self.wanted.remove(&ChunksId(request_id));
                }
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_unreadable_request(&mut self, peer: PeerId, error: &io::Error) {
        debug!(%peer, %error, "a request that cannot be read");
        match error.kind() {
            io::ErrorKind::InvalidData => self.punish(peer, Offence::Fatal, "a request that is none"),
            io::ErrorKind::TimedOut => self.punish(peer, Offence::Mid, "a request that does not end"),
            // The connection broke, which is nobody's fault.
            _ => {}
        }
    }

    fn on_request(&mut self, peer: PeerId, id: InboundRequestId, request: Request, channel: ResponseChannel<Response>) {
        let method = request.method();
        if !self.limiter.allows_request(peer, method, Instant::now()) {
            if method.is_answered() {
                let text = "too many requests".into();
                self.answer(method, channel, Response::Refused { refusal: Refusal::RateLimited, text });
            }
            return self.punish(peer, Offence::High, "too many requests");
        }
        match request {
            Request::Status(status) => {
                let ours = self.config.status;
                self.answer(method, channel, Response::Status(ours));
                self.on_status(peer, status);
            }
            Request::Ping(_) => self.answer(method, channel, Response::Ping(PING_VALUE)),
            Request::Goodbye(reason) => {
                debug!(%peer, ?reason, "goodbye");
                self.cut(peer);
            }
            Request::AnswerFile(file) => self.waiting.push_back(NetEvent::Answer { peer, file }),
            Request::GetChunks(request) => {
                let id = ChunksId(id);
                self.wanted.insert(id, channel);
                self.waiting.push_back(NetEvent::ChunksWanted { peer, id, request });
            }
            // No node of the network answers these; a dropped channel ends the stream.
            Request::DataByHash(_) => {}
        }
    }

    fn on_status(&mut self, peer: PeerId, status: Status) {
        if status.identity != self.config.status.identity {
            debug!(%peer, theirs = ?status.identity, ours = ?self.config.status.identity, "another network");
            self.banned.insert(peer);
            self.peers.punish(peer, Offence::Fatal, Instant::now());
            return self.part_with(peer, Goodbye::IrrelevantNetwork);
        }
        if !status.shard.is_valid() {
            return self.punish(peer, Offence::Fatal, "a shard that is none");
        }
        if !status.shard.is_neighbour(&self.config.status.shard) {
            self.peers.remember_shard(&peer, status.shard, Instant::now());
            self.punish(peer, Offence::Low, "nothing in common");
            return self.part_with(peer, Goodbye::IrrelevantNetwork);
        }
        if self.leaving.contains_key(&peer) {
            return;
        }
        if self.peers.set_shard(&peer, status.shard, Instant::now()) {
            let is_outgoing = self.due.get(&peer).is_some_and(|due| due.is_outgoing);
            self.waiting.push_back(NetEvent::Connected { peer, shard: status.shard, is_outgoing });
        }
    }

    fn on_response(&mut self, pending: Pending, response: Response) {
        let Pending { peer, method, reply } = pending;
        let result = match response {
            Response::Refused { refusal, text } => {
                if let Some(offence) = offence_of_refusal(method, refusal) {
                    self.punish(peer, offence, "a refused request");
                }
                Err(RequestError::Refused { peer, refusal, text })
            }
            response => {
                match &response {
                    Response::Status(status) => self.on_status(peer, *status),
                    Response::None if method == Method::Goodbye && self.leaving.contains_key(&peer) => self.cut(peer),
                    _ => {}
                }
                Ok(response)
            }
        };
        if let Some(reply) = reply {
            // Whoever no longer waits needs no answer.
            let _ = reply.send(result);
        }
    }

    fn on_failure(&mut self, pending: Pending, error: OutboundFailure) {
        let Pending { peer, method, reply } = pending;
        if let Some(offence) = offence_of_failure(method, &error) {
            self.punish(peer, offence, "a request without answer");
        }
        let is_dead = method == Method::Ping && is_timeout(&error);
        if is_dead || method == Method::Goodbye && self.leaving.contains_key(&peer) {
            self.cut(peer);
        }
        let error = match error {
            OutboundFailure::Timeout => RequestError::Timeout(peer),
            OutboundFailure::Io(error) if error.kind() == io::ErrorKind::TimedOut => RequestError::Timeout(peer),
            OutboundFailure::Io(source) => RequestError::Io { peer, source },
            OutboundFailure::UnsupportedProtocols => RequestError::Unsupported(peer),
            OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => RequestError::NotConnected(peer),
        };
        if let Some(reply) = reply {
            let _ = reply.send(Err(error));
        }
    }
}

/// What a refusal says about the peer.
fn offence_of_refusal(method: Method, refusal: Refusal) -> Option<Offence> {
    Some(match refusal {
        // A peer that has read less of the chain, or does not hold the sectors, says so. Who asks judges it by its promises.
        Refusal::InvalidRequest if method == Method::GetChunks => return None,
        Refusal::ServerError if method == Method::GetChunks => Offence::High,
        Refusal::Unknown(_) | Refusal::InvalidRequest => Offence::High,
        Refusal::ServerError => Offence::Mid,
        Refusal::ResourceUnavailable => Offence::Fatal,
        Refusal::RateLimited => match method {
            Method::Goodbye | Method::Status => Offence::Low,
            _ => Offence::Mid,
        },
    })
}

fn is_timeout(error: &OutboundFailure) -> bool {
    match error {
        OutboundFailure::Timeout => true,
        OutboundFailure::Io(error) => error.kind() == io::ErrorKind::TimedOut,
        _ => false,
    }
}

/// What a failed request says about the peer. Lost packets, a cable that is pulled and a partition of the network look like
/// a peer that does not answer or breaks off, so these cost little or nothing: such a peer is left, not banned.
fn offence_of_failure(method: Method, error: &OutboundFailure) -> Option<Offence> {
    match error {
        OutboundFailure::UnsupportedProtocols => match method {
            Method::Ping => Some(Offence::Fatal),
            Method::Status => Some(Offence::Low),
            _ => None,
        },
        OutboundFailure::Io(error) if error.kind() == io::ErrorKind::InvalidData => Some(Offence::Fatal),
        error if is_timeout(error) => match method {
            // The connection of a peer that does not answer a ping is cut.
            Method::Goodbye | Method::Status | Method::Ping => None,
            Method::DataByHash | Method::AnswerFile | Method::GetChunks => Some(Offence::High),
        },
        _ => None,
    }
}

fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}

/// The IP address in an address.
pub(crate) fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// Seconds since 1970; 0 for a clock before.
fn unix_time() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
