//! What goes over the wire: camelCase names, hashes as 0x and hex digits, bytes as base64.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, Visitor},
};
use zgpu_core::{H256, file, shard::Shard};

use crate::store::{SectorProof, Transaction};

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
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SyncServiceState {
    pub(crate) num_syncing: u64,
    pub(crate) catched_up: Option<bool>,
    pub(crate) auto_sync_serial: Option<()>,
    pub(crate) auto_sync_random: Option<()>,
}
