//! JSON-RPC over HTTP to one storage node. Every reply is bounded in size and time, redirects are not followed, and no
//! error tells a secret that the node's URL holds.

use std::{fmt, sync::Arc, time::Duration};

use alloy::transports::http::reqwest;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use zgpu_core::{
    H256,
    file::{FileProof, SubmissionNode},
    shard::Shard,
    units::{BYTES_PER_LOAD, SECTORS_PER_LOAD},
};

use crate::{
    chain::{
        http::{self, HTTP, Server, with_causes},
        revert::clip,
    },
    rpc::types::{Base64, SegmentWithProof},
};

/// Longest reply that holds no data, in bytes.
const MAX_REPLY_BYTES: usize = 256 << 10;
/// Longest reply with a segment: base64 makes 4 bytes of 3, and there is a proof beside it.
const MAX_SEGMENT_REPLY_BYTES: usize = BYTES_PER_LOAD / 3 * 4 + (64 << 10);
/// Questions in one request when many are asked.
const QUESTIONS_AT_ONCE: usize = 50;
/// What a node answers to a segment that it has.
const DUPLICATE: &str = "segment has already been uploaded or is being uploaded";
/// What a node answers for a file that it has.
const FINALISED: &str = "already uploaded and finalized";
/// What a node answers when it has too much to do.
const BUSY: [&str; 2] = ["too many data writing", "too many requests"];

/// How patient a client is with a node.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest time for one request, from its first byte to the last byte of the answer.
    pub timeout: Duration,
    /// Times that a request is made before a passing failure is reported; at least 1.
    pub attempts: u32,
    /// Wait before the second attempt; it doubles with each further one.
    pub backoff: Duration,
    /// Wait when the node says that it has too much to do.
    pub busy_wait: Duration,
    /// Times that it may say so for one request.
    pub busy_tries: u32,
}

impl Default for NodeOptions {
    /// 10 s for a connection, 120 s for a request, 3 attempts after 0.5 s; 12 tries with 10 s between them at a busy node.
    fn default() -> Self {
        NodeOptions {
            connect_timeout: Duration::from_secs(10),
            timeout: Duration::from_secs(120),
            attempts: 3,
            backoff: Duration::from_millis(500),
            busy_wait: Duration::from_secs(10),
            busy_tries: 12,
        }
    }
}

/// Why a node did not answer as it should. URLs in it are shown without credentials, paths or queries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The URL cannot be used.
    #[error("the URL of a node is not usable: {reason}; expected something like http://127.0.0.1:5678")]
    Url {
        /// What is wrong with it, without the URL itself: it may hold a secret.
        reason: String,
    },
    /// No connection, or it broke.
    #[error("{call} at {url}: the node cannot be reached ({reason})")]
    Unreachable {
        /// The node.
        url: String,
        /// The method.
        call: &'static str,
        /// What the system says.
        reason: String,
    },
    /// No complete reply in time.
    #[error("{call} at {url}: no complete reply within {limit:?}")]
    Timeout {
        /// The node.
        url: String,
        /// The method.
        call: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The node answered with an HTTP status that is no success; a redirect is one.
    #[error("{call} at {url}: HTTP status {status}")]
    Http {
        /// The node.
        url: String,
        /// The method.
        call: &'static str,
        /// HTTP status.
        status: u16,
    },
    /// The reply is longer than any right one.
    #[error("{call} at {url}: the reply has more than {limit} bytes")]
    TooLong {
        /// The node.
        url: String,
        /// The method.
        call: &'static str,
        /// Bytes of the longest right reply.
        limit: usize,
    },
    /// The reply is not what the method answers.
    #[error("{call} at {url}: the reply is not understood: {reason}")]
    Reply {
        /// The node.
        url: String,
        /// The method.
        call: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The node refuses.
    #[error("{call} at {url}: the node refuses: {message}")]
    Refused {
        /// The node.
        url: String,
        /// The method.
        call: &'static str,
        /// Code of the error.
        code: i64,
        /// Its text, and what it says beside.
        message: String,
    },
}

impl NodeError {
    /// Whether the same request may be answered a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            NodeError::Unreachable { .. } | NodeError::Timeout { .. } => true,
            NodeError::Http { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }

    fn says(&self, text: &str) -> bool {
        matches!(self, NodeError::Refused { message, .. } if message.contains(text))
    }

    fn is_busy(&self) -> bool {
        BUSY.iter().any(|text| self.says(text))
    }
}

/// What a node says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Peers that it is connected to.
    pub connected_peers: u64,
    /// Block up to which it has read the log.
    pub log_sync_height: u64,
    /// Number of transactions that it knows.
    pub next_tx_seq: u64,
    /// Id of its chain.
    pub chain_id: u64,
    /// Its flow contract, as it writes it.
    pub flow_address: String,
}

/// What a node says about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Number of its transaction.
    pub seq: u64,
    /// Its root.
    pub root: H256,
    /// Its bytes.
    pub size: u64,
    /// First sector in the flow.
    pub start: u64,
    /// Its subtrees, largest first.
    pub nodes: Vec<SubmissionNode>,
    /// Whether the node has all of its share of it.
    pub finalised: bool,
    /// Whether the node has dropped it.
    pub pruned: bool,
    /// Segments that the node has, as it counts them.
    pub uploaded: u64,
}

/// A segment with its proof, as a node gave it. Nothing about it is checked yet.
#[derive(Clone, Debug)]
pub struct GivenSegment {
    /// Whole sectors.
    pub data: Vec<u8>,
    /// Where it claims to belong.
    pub proof: FileProof,
}

/// One storage node. Cheap to clone.
#[derive(Clone)]
pub struct StorageNode {
    inner: Arc<Inner>,
}

struct Inner {
    client: reqwest::Client,
    url: reqwest::Url,
    shown: String,
    options: NodeOptions,
}

impl fmt::Debug for StorageNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StorageNode").field(&self.inner.shown).finish()
    }
}

impl fmt::Display for StorageNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.shown)
    }
}

#[derive(Deserialize)]
#[serde(bound = "R: DeserializeOwned")]
struct Answer<R> {
    #[serde(default)]
    id: u64,
    result: Option<R>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
    message: String,
    #[serde(default)]
    data: serde_json::Value,
}

impl StorageNode {
    /// Prepares requests to the node at `url`; nothing is sent yet.
    pub fn new(url: &str, options: NodeOptions) -> Result<Self, NodeError> {
        let found = http::server(url, HTTP, options.connect_timeout, options.timeout);
        let Server { url, client, shown } = found.map_err(|reason| NodeError::Url { reason })?;
        Ok(StorageNode { inner: Arc::new(Inner { client, url, shown, options }) })
    }

    /// The node as it may be shown: scheme, host and port.
    pub fn url(&self) -> &str {
        &self.inner.shown
    }

    /// Whether both are the same place, secrets included.
    pub(super) fn is_same(&self, other: &StorageNode) -> bool {
        self.inner.url == other.inner.url
    }

    /// Where the node stands.
    pub async fn state(&self) -> Result<NodeState, NodeError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            connected_peers: u64,
            log_sync_height: u64,
            next_tx_seq: u64,
            network_identity: Identity,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Identity {
            chain_id: u64,
            flow_address: String,
        }
        let status: Status = self.ask("zgs_getStatus", json!([])).await?;
        Ok(NodeState {
            connected_peers: status.connected_peers,
            log_sync_height: status.log_sync_height,
            next_tx_seq: status.next_tx_seq,
            chain_id: status.network_identity.chain_id,
            flow_address: clip(&status.network_identity.flow_address, 64),
        })
    }

    /// Which share of the flow the node keeps.
    pub async fn shard(&self) -> Result<Shard, NodeError> {
        let config: ShardReply = self.ask("zgs_getShardConfig", json!([])).await?;
        config.shard().map_err(|reason| self.bad_reply("zgs_getShardConfig", reason))
    }

    /// What the node knows about the file with this root, among those that it has not dropped.
    pub async fn file_info(&self, root: &H256) -> Result<Option<FileInfo>, NodeError> {
        self.info("zgs_getFileInfo", json!([root, true])).await
    }

    /// What the node knows about transaction `seq`.
    pub async fn file_info_by_seq(&self, seq: u64) -> Result<Option<FileInfo>, NodeError> {
        let info = self.info("zgs_getFileInfoByTxSeq", json!([seq])).await?;
        match info {
            Some(info) if info.seq != seq => {
                let reason = format!("transaction {seq} was asked for, {} came", info.seq);
                Err(self.bad_reply("zgs_getFileInfoByTxSeq", reason))
            }
            info => Ok(info),
        }
    }

    async fn info(&self, call: &'static str, params: serde_json::Value) -> Result<Option<FileInfo>, NodeError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Info {
            tx: Tx,
            finalized: bool,
            #[serde(default)]
            pruned: bool,
            uploaded_seg_num: u64,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tx {
            data_merkle_root: H256,
            merkle_nodes: Vec<(u32, H256)>,
            start_entry_index: u64,
            size: u64,
            seq: u64,
        }
        let Some(info): Option<Info> = self.call(call, params, MAX_REPLY_BYTES).await? else { return Ok(None) };
        let nodes = info.tx.merkle_nodes.iter().map(|(levels, root)| {
            // A node of one level is a sector, of height 0.
            let height = levels.checked_sub(1).filter(|height| *height < u64::BITS)?;
            Some(SubmissionNode { root: *root, height })
        });
        let nodes: Option<Vec<SubmissionNode>> = nodes.collect();
        Ok(Some(FileInfo {
            seq: info.tx.seq,
            root: info.tx.data_merkle_root,
            size: info.tx.size,
            start: info.tx.start_entry_index,
            nodes: nodes.ok_or_else(|| self.bad_reply(call, "a node of the submission has no or too many levels"))?,
            finalised: info.finalized,
            pruned: info.pruned,
            uploaded: info.uploaded_seg_num,
        }))
    }

    /// Hands in segments of transaction `seq`. Segments that the node has already count as taken.
    pub(crate) async fn upload(&self, seq: u64, segments: &[SegmentWithProof]) -> Result<(), NodeError> {
        match self.upload_at_once(seq, segments).await {
            // The node may have stopped at the one that it had, before the others.
            Err(error) if error.says(DUPLICATE) && segments.len() > 1 => {
                for segment in segments {
                    match self.upload_at_once(seq, std::slice::from_ref(segment)).await {
                        Err(error) if error.says(DUPLICATE) => {}
                        other => other?,
                    }
                }
                Ok(())
            }
            Err(error) if error.says(DUPLICATE) => Ok(()),
            other => other,
        }
    }

    async fn upload_at_once(&self, seq: u64, segments: &[SegmentWithProof]) -> Result<(), NodeError> {
        const CALL: &str = "zgs_uploadSegmentsByTxSeq";
        let body = serde_json::to_vec(&Request::new(CALL, (segments, seq))).expect("segments are JSON");
        let body = bytes::Bytes::from(body);
        let mut busy = 0;
        loop {
            // The result is null; a whole number is what some servers say instead.
            match self.answer::<serde_json::Value>(CALL, body.clone(), MAX_REPLY_BYTES).await {
                Ok(_) => return Ok(()),
                Err(error) if error.says(FINALISED) => return Ok(()),
                Err(error) if error.is_busy() && busy < self.inner.options.busy_tries => {
                    busy += 1;
                    tracing::debug!(busy, %error, "the node has too much to do, waiting");
                    tokio::time::sleep(self.inner.options.busy_wait).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// For each of the file's segments in `segments`, whether the node has its first sector.
    pub async fn has_segments(&self, seq: u64, segments: &[u64]) -> Result<Vec<bool>, NodeError> {
        const CALL: &str = "zgs_downloadSegmentByTxSeq";
        let mut has = vec![false; segments.len()];
        for (batch, has) in segments.chunks(QUESTIONS_AT_ONCE).zip(has.chunks_mut(QUESTIONS_AT_ONCE)) {
            let questions: Vec<_> = (0..)
                .zip(batch)
                .map(|(id, segment)| {
                    let first = segment.saturating_mul(SECTORS_PER_LOAD as u64);
                    Request { jsonrpc: "2.0", id, method: CALL, params: (seq, first, first.saturating_add(1)) }
                })
                .collect();
            let body = serde_json::to_vec(&questions).expect("numbers are JSON");
            let reply = self.reply(CALL, body.into(), MAX_REPLY_BYTES).await?;
            let answers: Vec<Answer<String>> =
                serde_json::from_slice(&reply).map_err(|error| self.bad_reply(CALL, error))?;
            for answer in answers {
                let place = usize::try_from(answer.id).ok().and_then(|id| has.get_mut(id));
                let place = place.ok_or_else(|| self.bad_reply(CALL, "it answers what was not asked"))?;
                *place = answer.result.is_some();
            }
        }
        Ok(has)
    }

    /// Segment `index` of transaction `seq` with its proof; `None` where the node does not have it.
    pub async fn segment_with_proof(&self, seq: u64, index: u64) -> Result<Option<GivenSegment>, NodeError> {
        const CALL: &str = "zgs_downloadSegmentWithProofByTxSeq";
        let segment: Option<SegmentWithProof> = self.call(CALL, json!([seq, index]), MAX_SEGMENT_REPLY_BYTES).await?;
        Ok(segment.map(|segment| GivenSegment { data: segment.data.0, proof: segment.proof.file_proof() }))
    }

    /// Sectors `start..end` of the file of transaction `seq`; `None` where the node does not have them.
    pub async fn sectors(&self, seq: u64, start: u64, end: u64) -> Result<Option<Vec<u8>>, NodeError> {
        let call = "zgs_downloadSegmentByTxSeq";
        let data: Option<Base64> = self.call(call, json!([seq, start, end]), MAX_SEGMENT_REPLY_BYTES).await?;
        Ok(data.map(|data| data.0))
    }

    /// Calls a method that always has a result.
    pub(super) async fn ask<R: DeserializeOwned>(
        &self,
        call: &'static str,
        params: impl Serialize,
    ) -> Result<R, NodeError> {
        let result = self.call(call, params, MAX_REPLY_BYTES).await?;
        result.ok_or_else(|| self.bad_reply(call, "it is null"))
    }

    /// Calls a method; `None` is null.
    pub(super) async fn call<R: DeserializeOwned>(
        &self,
        call: &'static str,
        params: impl Serialize,
        max_bytes: usize,
    ) -> Result<Option<R>, NodeError> {
        let body = serde_json::to_vec(&Request::new(call, params)).expect("parameters are JSON");
        self.answer(call, body.into(), max_bytes).await
    }

    async fn answer<R: DeserializeOwned>(
        &self,
        call: &'static str,
        body: bytes::Bytes,
        max_bytes: usize,
    ) -> Result<Option<R>, NodeError> {
        let reply = self.reply(call, body, max_bytes).await?;
        let answer: Answer<R> = serde_json::from_slice(&reply).map_err(|error| self.bad_reply(call, error))?;
        match answer.error {
            None => Ok(answer.result),
            Some(Refusal { code, message, data }) => {
                let message = match data {
                    serde_json::Value::Null => message,
                    serde_json::Value::String(data) => format!("{message}; {data}"),
                    data => format!("{message}; {data}"),
                };
                Err(NodeError::Refused { url: self.shown(), call, code, message: clip(&message, 300) })
            }
        }
    }

    /// The body of the reply to a request, sent again after passing failures.
    async fn reply(&self, call: &'static str, body: bytes::Bytes, max_bytes: usize) -> Result<Vec<u8>, NodeError> {
        let mut wait = self.inner.options.backoff;
        let mut attempt = 1;
        loop {
            match self.reply_once(call, body.clone(), max_bytes).await {
                Err(error) if error.is_transient() && attempt < self.inner.options.attempts => {
                    tracing::debug!(attempt, %error, "the node did not answer, trying again");
                    tokio::time::sleep(wait).await;
                    wait = wait.saturating_mul(2);
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    async fn reply_once(&self, call: &'static str, body: bytes::Bytes, limit: usize) -> Result<Vec<u8>, NodeError> {
        let failed = |error: reqwest::Error| match error.is_timeout() {
            true => NodeError::Timeout { url: self.shown(), call, limit: self.inner.options.timeout },
            false => NodeError::Unreachable {
                url: self.shown(),
                call,
                reason: clip(&with_causes(&error.without_url()), 300),
            },
        };
        let request = self.inner.client.post(self.inner.url.clone()).header("content-type", "application/json");
        let mut response = request.body(body).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(NodeError::Http { url: self.shown(), call, status: response.status().as_u16() });
        }
        let too_long = || NodeError::TooLong { url: self.shown(), call, limit };
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_long());
        }
        let mut reply = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if reply.len() + chunk.len() > limit {
                return Err(too_long());
            }
            reply.extend_from_slice(&chunk);
        }
        Ok(reply)
    }

    fn shown(&self) -> String {
        self.inner.shown.clone()
    }

    pub(super) fn bad_reply(&self, call: &'static str, reason: impl fmt::Display) -> NodeError {
        NodeError::Reply { url: self.shown(), call, reason: clip(&reason.to_string(), 200) }
    }
}

#[derive(Serialize)]
struct Request<P> {
    jsonrpc: &'static str,
    id: u64,
    method: &'static str,
    params: P,
}

impl<P: Serialize> Request<P> {
    fn new(method: &'static str, params: P) -> Self {
        Request { jsonrpc: "2.0", id: 1, method, params }
    }
}

/// A shard as it goes over the wire.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ShardReply {
    shard_id: u64,
    num_shard: u64,
}

impl ShardReply {
    pub(super) fn shard(self) -> Result<Shard, zgpu_core::shard::ShardError> {
        Shard::new(self.shard_id, self.num_shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_shown_without_their_secrets() {
        let node =
            StorageNode::new("http://user:hunter2@127.0.0.1:1/topsecret?key=abc", NodeOptions::default()).unwrap();
        assert_eq!(node.url(), "http://127.0.0.1:1");
        assert_eq!(format!("{node} {node:?}"), "http://127.0.0.1:1 StorageNode(\"http://127.0.0.1:1\")");
        for url in ["", "127.0.0.1:5678", "ftp://user:hunter2@host", "http://user:hunter2@"] {
            let error = StorageNode::new(url, NodeOptions::default()).unwrap_err();
            assert!(matches!(error, NodeError::Url { .. }) && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
