//! The protocols that one node speaks on a connection, put together from libp2p's.

use std::{collections::HashSet, io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    StreamProtocol, allow_block_list,
    connection_limits::{self, ConnectionLimits},
    gossipsub::{
        self, DataTransform, IdentTopic, MaxCountSubscriptionFilter, MessageAuthenticity, MessageId, PeerScoreParams,
        PeerScoreThresholds, RawMessage, TopicHash, TopicScoreParams, ValidationMode, WhitelistSubscriptionFilter,
    },
    identify,
    identity::Keypair,
    request_response::{self, ProtocolSupport},
    swarm::NetworkBehaviour,
};
use tokio::time::timeout;

use super::{
    error::NetError,
    service::{NetConfig, Timeouts},
    wire::{
        Method, Request, Response, RpcError, Topic,
        gossip::{MAX_MESSAGE_BYTES, message_id},
        snappy,
    },
};

/// What nodes of this network say that they speak when they identify themselves.
pub(super) const IDENTIFY_PROTOCOL: &str = "eth2/1.0.0";
/// Topics that a peer may be subscribed to, and change in one message.
const MAX_SUBSCRIBED_TOPICS: usize = 200;
const MAX_SUBSCRIPTIONS_PER_MESSAGE: usize = 150;
/// Streams of one kind on one connection at a time.
const MAX_STREAMS: usize = 32;

type Gossip = gossipsub::Behaviour<SnappyTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;
type Rpc = request_response::Behaviour<RpcCodec>;

/// All protocols. Each method has a behaviour of its own, so that a stream is negotiated for exactly that method.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) bans: allow_block_list::Behaviour<allow_block_list::BlockedPeers>,
    limits: connection_limits::Behaviour,
    identify: identify::Behaviour,
    pub(super) gossip: Gossip,
    status: Rpc,
    goodbye: Rpc,
    ping: Rpc,
    data_by_hash: Rpc,
    answer_file: Rpc,
    get_chunks: Rpc,
}

impl Behaviour {
    pub(super) fn new(config: &NetConfig) -> Result<Self, NetError> {
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(config.limits.pending_incoming))
            .with_max_pending_outgoing(Some(config.limits.pending_outgoing))
            .with_max_established_incoming(Some(config.limits.incoming))
            .with_max_established_outgoing(Some(config.limits.outgoing))
            .with_max_established(Some(config.limits.total))
            .with_max_established_per_peer(Some(1));
        let identify = identify::Config::new(config.protocol.clone(), config.key.public())
            .with_agent_version(config.agent.clone());
        let rpc = |method: Method| {
            let codec = RpcCodec { method, timeouts: config.timeouts };
            let settings = request_response::Config::default()
                .with_request_timeout(config.timeouts.response)
                .with_max_concurrent_streams(MAX_STREAMS);
            Rpc::with_codec(codec, [(StreamProtocol::new(method.protocol()), ProtocolSupport::Full)], settings)
        };
        Ok(Behaviour {
            bans: allow_block_list::Behaviour::default(),
            limits: connection_limits::Behaviour::new(limits),
            identify: identify::Behaviour::new(identify),
            gossip: gossip(&config.key, &subscribed_topics(config.find_chunks))?,
            status: rpc(Method::Status),
            goodbye: rpc(Method::Goodbye),
            ping: rpc(Method::Ping),
            data_by_hash: rpc(Method::DataByHash),
            answer_file: rpc(Method::AnswerFile),
            get_chunks: rpc(Method::GetChunks),
        })
    }

    pub(super) fn rpc(&mut self, method: Method) -> &mut Rpc {
        match method {
            Method::Status => &mut self.status,
            Method::Goodbye => &mut self.goodbye,
            Method::Ping => &mut self.ping,
            Method::DataByHash => &mut self.data_by_hash,
            Method::AnswerFile => &mut self.answer_file,
            Method::GetChunks => &mut self.get_chunks,
        }
    }
}

fn subscribed_topics(find_chunks: bool) -> Vec<Topic> {
    let is_wanted = |topic: &Topic| find_chunks || !matches!(topic, Topic::FindChunks | Topic::AnnounceChunks);
    Topic::ALL.into_iter().filter(is_wanted).collect()
}

fn gossip(key: &Keypair, topics: &[Topic]) -> Result<Gossip, NetError> {
    let id = |message: &gossipsub::Message| {
        let source = message.source.map(|peer| peer.to_bytes()).unwrap_or_default();
        let number = message.sequence_number.unwrap_or_default();
        MessageId::new(&message_id(&source, message.topic.as_str(), &message.data, number))
    };
    let config = gossipsub::ConfigBuilder::default()
        .mesh_n(5)
        .mesh_n_low(3)
        .mesh_n_high(10)
        .mesh_outbound_min(2)
        .gossip_lazy(3)
        .history_gossip(3)
        .history_length(12)
        .heartbeat_interval(Duration::from_millis(700))
        .fanout_ttl(Duration::from_secs(60))
        .duplicate_cache_time(Duration::from_secs(397))
        .max_transmit_size(MAX_MESSAGE_BYTES)
        .max_publish_messages(500)
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .allow_self_origin(true)
        .message_id_fn(id)
        .build()?;
    let names: HashSet<TopicHash> = topics.iter().map(|topic| TopicHash::from_raw(topic.name())).collect();
    // Quiet topics are normal here, so that a peer loses nothing by delivering little.
    let topic_score = TopicScoreParams {
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        ..TopicScoreParams::default()
    };
    let score = PeerScoreParams {
        topics: names.iter().map(|name| (name.clone(), topic_score.clone())).collect(),
        ..PeerScoreParams::default()
    };
    let thresholds = PeerScoreThresholds {
        gossip_threshold: -4000.0,
        publish_threshold: -8000.0,
        graylist_threshold: -16000.0,
        accept_px_threshold: 100.0,
        opportunistic_graft_threshold: 5.0,
    };
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(names),
        max_subscribed_topics: MAX_SUBSCRIBED_TOPICS,
        max_subscriptions_per_request: MAX_SUBSCRIPTIONS_PER_MESSAGE,
    };
    let mut gossip = Gossip::new_with_subscription_filter_and_transform(
        MessageAuthenticity::Signed(key.clone()),
        config,
        filter,
        SnappyTransform,
    )
    .map_err(NetError::Gossip)?;
    gossip.with_peer_score(score, thresholds).map_err(NetError::GossipScore)?;
    for topic in topics {
        gossip.subscribe(&IdentTopic::new(topic.name()))?;
    }
    Ok(gossip)
}

/// Messages travel as raw snappy blocks; the id is made of the plain bytes.
#[derive(Default)]
pub(super) struct SnappyTransform;

impl DataTransform for SnappyTransform {
    fn inbound_transform(&self, raw: RawMessage) -> Result<gossipsub::Message, io::Error> {
        let data = snappy::decompress_block(&raw.data, MAX_MESSAGE_BYTES).map_err(invalid_data)?;
        Ok(gossipsub::Message { source: raw.source, data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        snappy::compress_block(&data).map_err(invalid_data)
    }
}

fn invalid_data(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A request, or why it could not be read. libp2p tells nobody when reading a request fails, and the peer would go
/// unpunished; so a failure is handed on in place of the request.
pub(super) type Incoming = io::Result<Request>;

/// Reads and writes one method's messages, none slower than allowed.
#[derive(Clone)]
pub(super) struct RpcCodec {
    method: Method,
    timeouts: Timeouts,
}

/// What the peer did wrong becomes [`io::ErrorKind::InvalidData`]; what the connection did keeps its kind.
fn io_error(error: RpcError) -> io::Error {
    match error {
        error if error.is_peers_fault() => invalid_data(error),
        RpcError::Io(error) | RpcError::Snappy(snappy::SnappyError::Stream(error)) => error,
        error => io::Error::other(error),
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = Result<T, io::Error>>) -> io::Result<T> {
    timeout(limit, future).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl request_response::Codec for RpcCodec {
    type Protocol = StreamProtocol;
    type Request = Incoming;
    type Response = Response;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Incoming>
    where
        T: AsyncRead + Unpin + Send,
    {
        let read = async { Request::read(self.method, io).await.map_err(io_error) };
        Ok(within(self.timeouts.request, read).await)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Response>
    where
        T: AsyncRead + Unpin + Send,
    {
        if !self.method.is_answered() {
            return Ok(Response::None);
        }
        let mut first = [0];
        within(self.timeouts.first_byte, io.read_exact(&mut first)).await?;
        let mut source = first.as_slice().chain(io);
        within(self.timeouts.response, async { Response::read(self.method, &mut source).await.map_err(io_error) }).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Incoming) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&request?.to_wire().map_err(invalid_data)?).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Response) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response.to_wire().map_err(invalid_data)?).await
    }
}
