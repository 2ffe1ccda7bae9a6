//! What goes over the wire: camelCase names, hashes as 0x and hex digits, bytes as base64.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use libp2p::PeerId;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};
use zgpu_core::{H256, file, shard::Shard};

use crate::{
    files::{AutoState, Location, ServiceState, SyncInfo},
    net::{Overview, PeerRecord},
    store::{SectorProof, Transaction},
};

/// Bytes, as base64 with padding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Base64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes in base64")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Base64, E> {
                STANDARD.decode(text).map(Base64).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// `{lemma, path}`: of a segment in its file, or of a sector in the flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    pub(crate) lemma: Vec<H256>,
    pub(crate) path: Vec<bool>,
}

impl From<file::FileProof> for Proof {
    fn from(proof: file::FileProof) -> Self {
        Proof { lemma: proof.lemma, path: proof.path }
    }
}

impl Proof {
    pub(crate) fn file_proof(self) -> file::FileProof {
        file::FileProof { lemma: self.lemma, path: self.path }
    }

    /// Proof of sector `sector` under the flow root `root`; the root stands in it even when there is no sibling.
    pub(crate) fn of_sector(proof: SectorProof, sector: u64, root: H256) -> Self {
        let path = (0..proof.siblings.len()).map(|step| sector >> step & 1 == 0).collect();
        let mut lemma = vec![proof.leaf];
        lemma.extend(proof.siblings);
        lemma.push(root);
        Proof { lemma, path }
    }
}

/// A segment on its way in or out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SegmentWithProof {
    /// File root.
    pub(crate) root: H256,
    /// Its sectors, whole ones.
    pub(crate) data: Base64,
    /// Its number in the file.
    pub(crate) index: u64,
    pub(crate) proof: Proof,
    /// Bytes of the file.
    pub(crate) file_size: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) connected_peers: u64,
    pub(crate) log_sync_height: u64,
    pub(crate) log_sync_block: H256,
    pub(crate) next_tx_seq: u64,
    pub(crate) network_identity: NetworkIdentity,
}

/// Which network a node belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkIdentity {
    /// Id of the chain.
    pub chain_id: u64,
    /// Address of the flow contract, 0x and lowercase hex digits.
    pub flow_address: String,
    /// Version of the protocol between nodes.
    pub p2p_protocol_version: ProtocolVersion,
}

/// Version of the protocol between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ProtocolVersion {
    /// Nodes of different major versions do not talk to each other.
    pub major: u8,
    /// Second part.
    pub minor: u8,
    /// Third part.
    pub build: u8,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionRecord {
    /// Always empty: streams belong to another layer.
    stream_ids: [(); 0],
    /// Always empty: data never comes with the transaction.
    data: [(); 0],
    data_merkle_root: H256,
    /// Levels and root of each node; a single sector has one level.
    merkle_nodes: Vec<(u32, H256)>,
    start_entry_index: u64,
    size: u64,
    seq: u64,
}

impl From<&Transaction> for TransactionRecord {
    fn from(transaction: &Transaction) -> Self {
        TransactionRecord {
            stream_ids: [],
            data: [],
            data_merkle_root: transaction.data_root,
            merkle_nodes: transaction.nodes.iter().map(|node| (node.height + 1, node.root)).collect(),
            start_entry_index: transaction.start,
            size: transaction.size_bytes,
            seq: transaction.seq,
        }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileInfo {
    pub(crate) tx: TransactionRecord,
    pub(crate) finalized: bool,
    pub(crate) is_cached: bool,
    pub(crate) uploaded_seg_num: u64,
    /// Its time is over, and its data is not kept.
    pub(crate) pruned: bool,
}

/// Which segments of the flow a node keeps: those whose number leaves `shardId` when divided by `numShard`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShardConfig {
    pub(crate) shard_id: u64,
    pub(crate) num_shard: u64,
}

impl From<Shard> for ShardConfig {
    fn from(shard: Shard) -> Self {
        ShardConfig { shard_id: shard.id, num_shard: shard.count }
    }
}

/// A sequence number or a file root.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum SeqOrRoot {
    Seq(u64),
    Root(H256),
}

/// Where file sync stands.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SyncServiceState {
    num_syncing: usize,
    catched_up: Option<bool>,
    auto_sync_serial: Option<AutoSyncState>,
    auto_sync_random: Option<AutoSyncState>,
}

/// Where a kind of workers of the sync stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AutoSyncState {
    name: &'static str,
    /// Transactions that they fetch now.
    tasks: Vec<u64>,
    pending_txs: usize,
    ready_txs: usize,
    cached_ready_txs: usize,
}

impl From<ServiceState> for SyncServiceState {
    fn from(state: ServiceState) -> Self {
        let ServiceState { syncing, caught_up, auto } = state;
        let workers = |name, tasks, auto: &AutoState| AutoSyncState {
            name,
            tasks,
            pending_txs: auto.pending,
            ready_txs: auto.ready,
            cached_ready_txs: auto.ready,
        };
        SyncServiceState {
            num_syncing: syncing.len(),
            catched_up: auto.is_some().then_some(caught_up),
            auto_sync_serial: auto.as_ref().and_then(|it| Some(workers("sequential", it.sequential.clone()?, it))),
            auto_sync_random: auto.as_ref().map(|it| workers("random", it.random.clone(), it)),
        }
    }
}

/// A file on its way.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct FileSyncInfo {
    elapsed_secs: u64,
    /// Peers by their state.
    peers: BTreeMap<&'static str, u64>,
    goal: FileSyncGoal,
    /// First sector that is not here yet.
    next_chunks: u64,
    state: String,
}

/// Which sectors of a file are fetched.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileSyncGoal {
    num_chunks: u64,
    index_start: u64,
    index_end: u64,
    all_chunks: bool,
}

impl From<SyncInfo> for FileSyncInfo {
    fn from(info: SyncInfo) -> Self {
        let SyncInfo { elapsed, peers, sectors, wanted, next, state } = info;
        let goal = FileSyncGoal {
            num_chunks: sectors,
            index_start: wanted.start,
            index_end: wanted.end,
            all_chunks: wanted == (0..sectors),
        };
        FileSyncInfo { elapsed_secs: elapsed.as_secs(), peers, goal, next_chunks: next, state }
    }
}

/// Who has a file.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LocationInfo {
    ip: IpAddr,
    shard_config: ShardConfig,
}

impl From<Location> for LocationInfo {
    fn from(Location { ip, shard }: Location) -> Self {
        let shard_config = ShardConfig { shard_id: shard.shard_id, num_shard: shard.num_shard };
        LocationInfo { ip, shard_config }
    }
}

/// This node on the network, and its peers by number.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NetworkInfo {
    peer_id: String,
    listen_addresses: Vec<String>,
    total_peers: usize,
    banned_peers: usize,
    disconnected_peers: usize,
    connected_peers: usize,
    connected_outgoing_peers: usize,
    connected_incoming_peers: usize,
}

impl NetworkInfo {
    pub(crate) fn new(local: PeerId, overview: &Overview) -> Self {
        let count = |is_one: fn(&PeerRecord) -> bool| overview.peers.iter().filter(|record| is_one(record)).count();
        NetworkInfo {
            peer_id: local.to_base58(),
            listen_addresses: overview.listeners.iter().map(ToString::to_string).collect(),
            total_peers: overview.peers.len(),
            banned_peers: count(|it| it.is_banned),
            disconnected_peers: count(|it| !it.is_connected && !it.is_banned),
            connected_peers: count(|it| it.is_connected),
            connected_outgoing_peers: count(|it| it.is_connected && it.is_outgoing == Some(true)),
            connected_incoming_peers: count(|it| it.is_connected && it.is_outgoing == Some(false)),
        }
    }
}

/// A peer.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerInfo {
    client: PeerClient,
    connection_status: ConnectionStatus,
    listening_addresses: Vec<String>,
    seen_ips: Vec<IpAddr>,
    is_trusted: bool,
    connection_direction: Option<&'static str>,
    /// Never: records belong to discovery, which dials by address.
    enr: Option<String>,
}

/// What a peer says that it runs.
#[derive(Clone, Debug, Serialize)]
struct PeerClient {
    version: String,
    os: String,
    protocol: String,
    agent: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionStatus {
    status: &'static str,
    connections_in: u8,
    connections_out: u8,
    last_seen_secs: u64,
}

impl From<PeerRecord> for PeerInfo {
    fn from(record: PeerRecord) -> Self {
        let client = record.client.as_ref();
        let agent = client.map(|client| client.agent.clone());
        // Such as zgs/v1.0.0/x86_64-linux.
        let part =
            |index: usize| agent.iter().flat_map(|agent| agent.split('/')).nth(index).unwrap_or("unknown").into();
        let status = match (record.is_banned, record.is_connected) {
            (true, _) => "banned",
            (false, true) => "connected",
            (false, false) if record.is_outgoing.is_none() => "unknown",
            (false, false) => "disconnected",
        };
        PeerInfo {
            client: PeerClient {
                version: part(1),
                os: part(2),
                protocol: client.map_or_else(|| "unknown".into(), |client| client.protocol.clone()),
                agent: agent.clone(),
            },
            connection_status: ConnectionStatus {
                status,
                connections_in: u8::from(record.is_connected && record.is_outgoing == Some(false)),
                connections_out: u8::from(record.is_connected && record.is_outgoing == Some(true)),
                last_seen_secs: record.unseen.as_secs(),
            },
            listening_addresses: client.iter().flat_map(|it| &it.addresses).map(ToString::to_string).collect(),
            seen_ips: record.ips,
            is_trusted: false,
            connection_direction: record.is_outgoing.map(|it| if it { "Outgoing" } else { "Incoming" }),
            enr: None,
        }
    }
}
