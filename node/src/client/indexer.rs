//! The indexer: it knows storage nodes, and who has a file.

use serde::Deserialize;
use serde_json::json;
use zgpu_core::{H256, shard::Shard};

use super::node::{NodeError, NodeOptions, ShardReply, StorageNode};

/// Longest answer of an indexer, in bytes.
const MAX_REPLY_BYTES: usize = 4 << 20;
/// Nodes that are taken from an answer.
const MAX_NODES: usize = 100;

/// An indexer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Indexer {
    /// It speaks the same JSON-RPC as a node.
    rpc: StorageNode,
    options: NodeOptions,
}

/// A node as the indexer describes it.
#[derive(Deserialize)]
struct Entry {
    url: String,
    config: ShardReply,
    #[serde(default)]
    latency: i64,
}

#[derive(Deserialize)]
struct ShardedNodes {
    #[serde(default)]
    trusted: Option<Vec<Entry>>,
    #[serde(default)]
    discovered: Option<Vec<Entry>>,
}

impl Indexer {
    /// Prepares requests to the indexer at `url`, and to its nodes with `options`; nothing is sent yet.
    pub fn new(url: &str, options: NodeOptions) -> Result<Self, NodeError> {
        Ok(Indexer { rpc: StorageNode::new(url, options.clone())?, options })
    }

    /// Nodes that take files: those that the indexer's operator trusts, then those that were discovered, each the
    /// quickest first.
    pub async fn nodes(&self) -> Result<Vec<StorageNode>, NodeError> {
        let call = "indexer_getShardedNodes";
        let reply: Option<ShardedNodes> = self.rpc.call(call, json!([]), MAX_REPLY_BYTES).await?;
        let reply = reply.ok_or_else(|| self.rpc.bad_reply(call, "it is null"))?;
        let mut nodes = self.usable(reply.trusted.unwrap_or_default());
        nodes.extend(self.usable(reply.discovered.unwrap_or_default()));
        nodes.truncate(MAX_NODES);
        Ok(nodes)
    }

    /// Nodes that have the file with this root; empty where the indexer knows none.
    pub async fn locations(&self, root: &H256) -> Result<Vec<StorageNode>, NodeError> {
        let reply: Option<Vec<Entry>> =
            self.rpc.call("indexer_getFileLocations", json!([root]), MAX_REPLY_BYTES).await?;
        let mut nodes = self.usable(reply.unwrap_or_default());
        nodes.truncate(MAX_NODES);
        Ok(nodes)
    }

    /// The entries that make sense, those with the shortest way first.
    fn usable(&self, mut entries: Vec<Entry>) -> Vec<StorageNode> {
        entries.sort_by_key(|entry| entry.latency);
        let usable = |entry: Entry| {
            let _: Shard = entry.config.shard().ok()?;
            StorageNode::new(&entry.url, self.options.clone()).ok()
        };
        entries.into_iter().filter_map(usable).collect()
    }
}
