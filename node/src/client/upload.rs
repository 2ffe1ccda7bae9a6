//! Storing a file on the network: one transaction for its root and its fee, then its segments to storage nodes.
//!
//! Nothing is paid twice: nodes are asked for the file, then the blocks that they have not read yet, then what the account
//! has still in flight. An upload that was interrupted goes on with the segments that are missing.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fs::File,
    io::BufReader,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256, U64};
use futures::{TryStreamExt, future::join_all, stream};
use serde::Serialize;
use tokio::sync::Semaphore;
use zgpu_core::{
    H256,
    file::{FileError, FileShape, FileTree, SubmissionNode, segment_root},
    shard::Shard,
    units::{BYTES_PER_LOAD, BYTES_PER_SECTOR, SECTORS_PER_LOAD},
};

use super::{
    Progress, cover,
    error::{ClientError, Dropped},
    network::Identity,
    node::{FileInfo, NodeError, NodeState, StorageNode},
};
use crate::{
    chain::{
        client::ChainClient,
        error::ChainError,
        flow_log::PageSize,
        tx::TxManager,
        upload::{FileSubmission, submit_batch},
    },
    duties::blocking,
    rpc::types::{Base64, Proof, SegmentWithProof},
};

/// Segments that are handed in with one request.
const SEGMENTS_PER_TASK: usize = 10;
/// Requests that are on their way to one node at once.
const TASKS_PER_NODE: usize = 4;
/// Blocks behind the chain's head that are looked through for a submission that nodes do not know.
const LOOK_BACK_BLOCKS: u64 = 10_000;

/// How a file is stored.
#[derive(Clone, Debug)]
pub struct UploadOptions {
    /// Nodes that each part of the file goes to; at least 1.
    pub replicas: usize,
    /// Requests that are on their way at once, 2.5 MiB of data each; at least 1.
    pub tasks: usize,
    /// How long a node may take to see the transaction.
    pub seen_within: Duration,
    /// How long nodes may take to complete the file; they are not asked when there is no limit.
    pub finalised_within: Option<Duration>,
    /// How long a transaction of the account that is in no block yet is waited for.
    pub pending_within: Duration,
    /// Pause between two questions of the same kind.
    pub poll: Duration,
}

impl Default for UploadOptions {
    /// One node for each part, 8 requests at once, 5 minutes for each wait, a question a second.
    fn default() -> Self {
        let limit = Duration::from_secs(300);
        UploadOptions {
            replicas: 1,
            tasks: 8,
            seen_within: limit,
            finalised_within: Some(limit),
            pending_within: limit,
            poll: Duration::from_secs(1),
        }
    }
}

/// Who pays for a submission, and on which chain.
#[derive(Clone, Debug)]
pub struct Payer {
    /// The chain.
    pub chain: ChainClient,
    /// The account.
    pub account: TxManager,
}

/// A file to upload, with its tree. Its bytes stay on disk.
#[derive(Clone, Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: Arc<File>,
    tree: Arc<FileTree>,
}

impl SourceFile {
    /// Opens a file and computes its tree. Blocks.
    pub fn open(path: &Path, progress: &dyn Progress) -> Result<Self, ClientError> {
        let failed = |done| move |error| ClientError::Io { path: path.to_owned(), done, error };
        let wrong = |error| ClientError::File { path: path.to_owned(), error };
        let file = File::open(path).map_err(failed("opened"))?;
        let metadata = file.metadata().map_err(failed("read"))?;
        if !metadata.is_file() {
            return Err(failed("uploaded")(std::io::Error::other("it is not a file")));
        }
        let shape = FileShape::new(metadata.len()).map_err(wrong)?;
        progress.begin("hashing", shape.size());
        let reader = BufReader::with_capacity(BYTES_PER_LOAD, &file);
        let tree = FileTree::read(shape, reader, |bytes| progress.advance(bytes as u64)).map_err(wrong)?;
        Ok(SourceFile { path: path.to_owned(), file: Arc::new(file), tree: Arc::new(tree) })
    }

    /// Its merkle tree.
    pub fn tree(&self) -> &FileTree {
        &self.tree
    }

    /// Segment `index` as nodes want it. Blocks.
    fn segment(&self, index: u64) -> Result<SegmentWithProof, ClientError> {
        let shape = self.tree.shape();
        let wrong = |error: FileError| ClientError::File { path: self.path.clone(), error };
        let mut data = vec![0; shape.segment_bytes(index)];
        self.file.read_exact_at(&mut data, index * BYTES_PER_LOAD as u64).map_err(|error| ClientError::Io {
            path: self.path.clone(),
            done: "read",
            error,
        })?;
        let is_same = segment_root(shape, index, &data).map_err(wrong)? == self.tree.segment_roots()[index as usize];
        if !is_same {
            return Err(ClientError::Changed { path: self.path.clone(), index });
        }
        data.resize(data.len().next_multiple_of(BYTES_PER_SECTOR), 0);
        Ok(SegmentWithProof {
            root: self.tree.root(),
            data: Base64(data),
            index,
            proof: Proof::from(self.tree.proof(index).map_err(wrong)?),
            file_size: shape.size(),
        })
    }
}

/// A file that is stored.
#[derive(Clone, Debug, Serialize)]
pub struct Uploaded {
    /// Its root.
    pub root: H256,
    /// Its bytes.
    pub size: u64,
    /// Number of its transaction in the flow.
    pub tx_seq: u64,
    /// Its first sector in the flow.
    pub start_sector: u64,
    /// What was paid now; none where it was submitted before.
    pub paid: Option<Payment>,
    /// Whether all nodes below say that they have it complete; none where they were not asked.
    pub finalised: Option<bool>,
    /// Nodes that have it.
    pub nodes: Vec<Share>,
    /// Nodes that were left out.
    pub dropped: Vec<Dropped>,
}

/// The transaction that submitted a file.
#[derive(Clone, Debug, Serialize)]
pub struct Payment {
    /// Its hash.
    pub tx_hash: B256,
    /// Its block.
    pub block: u64,
    /// Wei paid to the market, in decimal.
    pub fee_wei: String,
    /// Wei paid for gas, in decimal.
    pub gas_wei: String,
}

/// What one node has of a file.
#[derive(Clone, Debug, Serialize)]
pub struct Share {
    /// The node.
    pub node: String,
    /// Its share of the flow.
    pub shard: String,
    /// Segments that were handed in.
    pub sent: u64,
    /// Segments that it had before.
    pub had: u64,
}

/// Stores `file` on `nodes`; without a payer only when it was submitted before.
///
/// # Errors
/// When the nodes that work do not keep the whole flow, the submission fails, or nodes do not complete the file in time.
pub async fn upload(
    nodes: &[StorageNode],
    payer: Option<&Payer>,
    file: &SourceFile,
    options: &UploadOptions,
    progress: &dyn Progress,
) -> Result<Uploaded, ClientError> {
    let identity = payer.map(|payer| Identity { chain_id: payer.chain.chain_id(), flow: payer.chain.contracts().flow });
    let mut members = Members::ask(nodes, identity, progress).await?;
    // Before anything is paid: is there a place for all of the file?
    members.choose(options.replicas)?;

    let (place, paid) = match members.find(file, payer).await? {
        Some(place) => (place, None),
        None => match payer {
            Some(payer) => members.submit(file, payer, options, progress).await?,
            None => return Err(ClientError::NotSubmitted { root: file.tree.root() }),
        },
    };
    let sending = Sending {
        file,
        place,
        // What was submitted just now is nowhere yet.
        is_new: paid.is_some(),
        options,
        requests: Semaphore::new(options.tasks.max(1)),
        progress,
    };
    members.hand_in(&sending).await?;
    let finalised = match options.finalised_within {
        Some(limit) => {
            members.wait_until_finalised(place.seq, limit, options.poll, progress).await?;
            Some(true)
        }
        None => None,
    };
    let (nodes, dropped) = members.report();
    let (root, size) = (file.tree.root(), file.tree.shape().size());
    Ok(Uploaded { root, size, tx_seq: place.seq, start_sector: place.start, paid, finalised, nodes, dropped })
}

/// Where a file lies in the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    seq: u64,
    start: u64,
}

/// What all tasks of an upload share.
struct Sending<'a> {
    file: &'a SourceFile,
    place: Place,
    is_new: bool,
    options: &'a UploadOptions,
    requests: Semaphore,
    progress: &'a dyn Progress,
}

/// A node that takes part.
struct Member {
    node: StorageNode,
    shard: Shard,
    state: NodeState,
    /// What it got; none until it has its whole share.
    share: Option<(u64, u64)>,
}

/// Nodes that take part, and those that do not any more.
struct Members {
    alive: Vec<Member>,
    dropped: Vec<Dropped>,
    replicas: usize,
}

impl Members {
    /// Asks all nodes for their state. Those that do not answer, or belong to another network, are left out.
    async fn ask(
        nodes: &[StorageNode],
        identity: Option<Identity>,
        progress: &dyn Progress,
    ) -> Result<Self, ClientError> {
        if nodes.is_empty() {
            return Err(ClientError::NoNodes);
        }
        let mut members = Members { alive: Vec::new(), dropped: Vec::new(), replicas: 1 };
        let mut expected = identity;
        let ask = |node: &StorageNode| {
            let node = node.clone();
            async move { (node.clone(), async { Ok::<_, NodeError>((node.state().await?, node.shard().await?)) }.await) }
        };
        // A node that is named twice is one node: it does not keep two copies.
        let named = nodes.iter().enumerate();
        let once = named.filter(|(at, node)| !nodes[..*at].iter().any(|other| other.is_same(node)));
        for (node, answer) in join_all(once.map(|(_, node)| ask(node))).await {
            let (state, shard) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    members.drop_node(&node, error.to_string(), progress);
                    continue;
                }
            };
            let identity = identity_of(&state);
            match (identity, expected) {
                (Some(identity), None) => expected = Some(identity),
                (Some(identity), Some(expected)) if identity == expected => {}
                (_, expected) => {
                    let expected = expected.map_or_else(|| "an address".to_owned(), |expected| expected.to_string());
                    let (chain_id, flow) = (state.chain_id, &state.flow_address);
                    let text = format!("it serves chain {chain_id} with the flow contract {flow}, expected {expected}");
                    members.drop_node(&node, text, progress);
                    continue;
                }
            }
            members.alive.push(Member { node, shard, state, share: None });
        }
        Ok(members)
    }

    fn drop_node(&mut self, node: &StorageNode, reason: String, progress: &dyn Progress) {
        let dropped = Dropped { node: node.url().to_owned(), reason };
        progress.note(&format!("left out: {dropped}"));
        self.dropped.push(dropped);
    }

    /// Drops every member that has a reason in `reasons`, which has one entry for each.
    fn drop_where(&mut self, reasons: Vec<Option<String>>, progress: &dyn Progress) {
        let members = std::mem::take(&mut self.alive);
        for (member, reason) in members.into_iter().zip(reasons) {
            match reason {
                None => self.alive.push(member),
                Some(reason) => self.drop_node(&member.node, reason, progress),
            }
        }
    }

    /// Members that have all of the flow between them, those that have their share already first.
    fn choose(&mut self, replicas: usize) -> Result<Vec<usize>, ClientError> {
        self.replicas = replicas.max(1);
        self.alive.sort_by_key(|member| member.share.is_none());
        let shards: Vec<Shard> = self.alive.iter().map(|member| member.shard).collect();
        cover::choose(&shards, self.replicas).map_err(|part| ClientError::NotCovered {
            part,
            wanted: self.replicas,
            dropped: self.dropped.clone(),
        })
    }

    /// Looks for a submission of the file that nodes know.
    async fn find(&mut self, file: &SourceFile, payer: Option<&Payer>) -> Result<Option<Place>, ClientError> {
        let root = file.tree.root();
        let submissions = match payer {
            Some(payer) => payer.chain.flow_state().await?.submissions,
            None => u64::MAX,
        };
        loop {
            let answers = join_all(self.alive.iter().map(|member| member.node.file_info(&root))).await;
            let mut reasons = Vec::new();
            let mut claims: Vec<Option<FileInfo>> = Vec::new();
            for answer in answers {
                let (claim, reason) = match answer {
                    Err(error) => (None, Some(error.to_string())),
                    Ok(Some(info)) if info.root != root => {
                        (None, Some(format!("it was asked for root {root} and told of {}", info.root)))
                    }
                    Ok(Some(info)) if info.seq >= submissions => {
                        let seq = info.seq;
                        (None, Some(format!("it says that the file is transaction {seq} of {submissions}")))
                    }
                    // Files that differ in zeros at their end have the same root.
                    Ok(info) => (info.filter(|info| file.is(info)), None),
                };
                claims.extend(reason.is_none().then_some(claim));
                reasons.push(reason);
            }
            self.drop_where(reasons, &());
            // The transaction that most nodes have complete, or know, the earliest of them.
            let mut found: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
            for claim in claims.iter().flatten() {
                let count = found.entry(Place { seq: claim.seq, start: claim.start }).or_default();
                *count = (count.0 + u64::from(claim.finalised), count.1 + 1);
            }
            let Some(place) = found.into_iter().max_by_key(|(place, count)| (*count, Reverse(*place))) else {
                return Ok(None);
            };
            let place = place.0;
            let witnesses = join_all(self.alive.iter().map(|member| member.node.file_info_by_seq(place.seq))).await;
            let of = |has: bool| {
                let known = witnesses.iter().filter_map(|answer| answer.as_ref().ok()?.as_ref());
                known.filter(|info| (file.is(info) && info.start == place.start) == has).count()
            };
            if of(false) < of(true) {
                return Ok(Some(place));
            }
            // The others know another transaction of that number.
            let claims_it = |claim: &Option<FileInfo>| claim.as_ref().is_some_and(|claim| claim.seq == place.seq);
            let text = format!("it says that the file is transaction {}, which others know as another one", place.seq);
            self.drop_where(claims.iter().map(|claim| claims_it(claim).then(|| text.clone())).collect(), &());
        }
    }

    /// Submits the file, unless the chain has it already in blocks that the nodes have not read.
    async fn submit(
        &self,
        file: &SourceFile,
        payer: &Payer,
        options: &UploadOptions,
        progress: &dyn Progress,
    ) -> Result<(Place, Option<Payment>), ClientError> {
        let submission = FileSubmission::of(&file.tree);
        payer.wait_for_pending(options, progress).await?;
        let read = self.alive.iter().map(|member| member.state.log_sync_height).min().unwrap_or_default();
        if let Some(place) = payer.find_in_blocks(&submission, read).await? {
            progress.note(&format!("the chain has the file already, as transaction {}", place.seq));
            return Ok((place, None));
        }
        let uploaded = submit_batch(&payer.chain, &payer.account, std::slice::from_ref(&submission)).await?;
        let record = uploaded.transactions.first().expect("a submission has as many records as files");
        let payment = Payment {
            tx_hash: uploaded.tx.hash,
            block: uploaded.tx.block,
            fee_wei: uploaded.fee.to_string(),
            gas_wei: uploaded.tx.cost().to_string(),
        };
        progress.note(&format!(
            "submitted as transaction {}, block {}, fee {} wei",
            record.seq, payment.block, payment.fee_wei
        ));
        Ok((Place { seq: record.seq, start: record.start }, Some(payment)))
    }

    /// Hands every chosen node its share. When one fails, others take its place as long as there are any.
    async fn hand_in(&mut self, sending: &Sending<'_>) -> Result<(), ClientError> {
        loop {
            let chosen = self.choose(sending.options.replicas)?;
            let fresh: Vec<usize> = chosen.into_iter().filter(|at| self.alive[*at].share.is_none()).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            let bytes = fresh.iter().map(|at| sending.share_bytes(self.alive[*at].shard)).sum();
            sending.progress.begin("uploading", bytes);
            let results = join_all(fresh.iter().map(|at| sending.hand_in(&self.alive[*at]))).await;
            let mut reasons = vec![None; self.alive.len()];
            for (at, result) in fresh.into_iter().zip(results) {
                match result {
                    Ok(share) => self.alive[at].share = Some(share),
                    Err(Failed::Node(reason)) => reasons[at] = Some(reason),
                    Err(Failed::Client(error)) => return Err(error),
                }
            }
            self.drop_where(reasons, sending.progress);
        }
    }

    /// Waits until every node with a share says that it has the file complete.
    async fn wait_until_finalised(
        &self,
        seq: u64,
        limit: Duration,
        poll: Duration,
        progress: &dyn Progress,
    ) -> Result<(), ClientError> {
        let started = Instant::now();
        let mut waiting: Vec<&Member> = self.alive.iter().filter(|member| member.share.is_some()).collect();
        loop {
            let answers = join_all(waiting.iter().map(|member| member.node.file_info_by_seq(seq))).await;
            let is_done = |answer: &Result<Option<FileInfo>, NodeError>| {
                answer.as_ref().is_ok_and(|info| info.as_ref().is_some_and(|info| info.finalised))
            };
            waiting =
                waiting.into_iter().zip(&answers).filter(|(_, answer)| !is_done(answer)).map(|(m, _)| m).collect();
            if waiting.is_empty() {
                return Ok(());
            }
            if started.elapsed() >= limit {
                let nodes = waiting.iter().map(|member| member.node.url()).collect::<Vec<_>>().join(", ");
                return Err(ClientError::NotFinalised { seq, nodes, waited: limit });
            }
            if started.elapsed() < poll {
                progress.note("waiting until the nodes have completed the file");
            }
            tokio::time::sleep(poll).await;
        }
    }

    fn report(self) -> (Vec<Share>, Vec<Dropped>) {
        let share = |member: Member| {
            let (sent, had) = member.share?;
            Some(Share { node: member.node.url().to_owned(), shard: member.shard.to_string(), sent, had })
        };
        (self.alive.into_iter().filter_map(share).collect(), self.dropped)
    }
}

impl SourceFile {
    /// Whether a node speaks of this file.
    fn is(&self, info: &FileInfo) -> bool {
        let nodes: Vec<SubmissionNode> = self.tree.submission_nodes();
        info.root == self.tree.root() && info.size == self.tree.shape().size() && info.nodes == nodes
    }
}

/// Network of a node; none where its flow contract is no address.
pub(super) fn identity_of(state: &NodeState) -> Option<Identity> {
    let flow: Address = state.flow_address.parse().ok()?;
    Some(Identity { chain_id: state.chain_id, flow })
}

impl Payer {
    /// Waits until what the account has sent so far is in blocks: an upload that was interrupted may be among it.
    async fn wait_for_pending(&self, options: &UploadOptions, progress: &dyn Progress) -> Result<(), ClientError> {
        let sent = match self.transactions("pending").await {
            // Not every endpoint knows what is pending.
            Err(ChainError::Rpc { .. } | ChainError::Reply { .. }) => return Ok(()),
            sent => sent?,
        };
        let started = Instant::now();
        loop {
            let mined = self.transactions("latest").await?;
            if mined >= sent {
                return Ok(());
            }
            if started.elapsed() >= options.pending_within {
                let (address, waited) = (self.account.address(), options.pending_within);
                return Err(ClientError::StillPending { address, count: sent - mined, waited });
            }
            if started.elapsed() < options.poll {
                progress.note(&format!("waiting for {} transactions of the account to be mined", sent - mined));
            }
            tokio::time::sleep(options.poll).await;
        }
    }

    async fn transactions(&self, at: &'static str) -> Result<u64, ChainError> {
        let count: U64 = self.chain.rpc().call("eth_getTransactionCount", at, (self.account.address(), at)).await?;
        Ok(count.to())
    }

    /// Looks for a submission of the file in the blocks from `read` on, the last one that nodes have read.
    async fn find_in_blocks(&self, file: &FileSubmission, read: u64) -> Result<Option<Place>, ClientError> {
        let head = self.chain.block_number().await?;
        let mut next = read.max(head.saturating_sub(LOOK_BACK_BLOCKS));
        let mut page = PageSize::default();
        let mut found = None;
        while next <= head {
            let log = self.chain.submissions(next, head, &mut page).await?;
            next = log.next_block;
            let records = log.transactions.into_iter();
            let mut same = records.filter(|record| record.nodes == file.nodes && record.size == file.size);
            found = same.next_back().map(|record| Place { seq: record.seq, start: record.start }).or(found);
        }
        Ok(found)
    }
}

/// Why a node does not have its share.
enum Failed {
    /// The node is at fault.
    Node(String),
    /// This side is.
    Client(ClientError),
}

impl From<NodeError> for Failed {
    fn from(error: NodeError) -> Self {
        Failed::Node(error.to_string())
    }
}

impl Sending<'_> {
    /// Segments of the file that a node keeps.
    fn share(&self, shard: Shard) -> impl Iterator<Item = u64> {
        let first_load = self.place.start / SECTORS_PER_LOAD as u64;
        (0..self.file.tree.shape().segments()).filter(move |index| shard.contains(first_load + index))
    }

    fn share_bytes(&self, shard: Shard) -> u64 {
        self.share(shard).map(|index| self.segment_bytes(index)).sum()
    }

    fn segment_bytes(&self, index: u64) -> u64 {
        self.file.tree.shape().segment_bytes(index) as u64
    }

    /// Hands a node its share; returns the segments that were sent, and those that it had.
    async fn hand_in(&self, member: &Member) -> Result<(u64, u64), Failed> {
        let info = self.wait_until_seen(member).await?;
        let mut missing: Vec<u64> = self.share(member.shard).collect();
        let all = missing.len() as u64;
        if info.finalised {
            missing.clear();
            self.progress.advance(self.share_bytes(member.shard));
        } else if !self.is_new {
            let has = member.node.has_segments(self.place.seq, &missing).await?;
            let mut known = has.into_iter();
            missing.retain(|index| {
                let has = known.next() == Some(true);
                if has {
                    self.progress.advance(self.segment_bytes(*index));
                }
                !has
            });
        }
        let tasks = missing.chunks(SEGMENTS_PER_TASK).map(|task| Ok(self.send(&member.node, task)));
        stream::iter(tasks).try_for_each_concurrent(TASKS_PER_NODE, |task| task).await?;
        Ok((missing.len() as u64, all - missing.len() as u64))
    }

    /// Waits until a node knows the transaction.
    async fn wait_until_seen(&self, member: &Member) -> Result<FileInfo, Failed> {
        let (node, Place { seq, start }) = (&member.node, self.place);
        let started = Instant::now();
        loop {
            let answer = node.file_info_by_seq(seq).await;
            match answer {
                Ok(Some(info)) if !self.file.is(&info) || info.start != start => {
                    let text = format!("it has another file as transaction {seq}: root {}", info.root);
                    return Err(Failed::Node(text));
                }
                Ok(Some(info)) if info.pruned => {
                    return Err(Failed::Node(format!("it has dropped transaction {seq} and takes it no more")));
                }
                Ok(Some(info)) => return Ok(info),
                Err(error) if !error.is_transient() => return Err(error.into()),
                Ok(None) | Err(_) if started.elapsed() < self.options.seen_within => {}
                Err(error) => return Err(error.into()),
                Ok(None) => {
                    let height = node.state().await.map_or(member.state.log_sync_height, |state| state.log_sync_height);
                    let limit = self.options.seen_within;
                    let text = format!(
                        "it does not know transaction {seq} after {limit:?}; it has read the chain up to block {height}"
                    );
                    return Err(Failed::Node(text));
                }
            }
            tokio::time::sleep(self.options.poll).await;
        }
    }

    /// Sends the segments of one task.
    async fn send(&self, node: &StorageNode, task: &[u64]) -> Result<(), Failed> {
        let _place = self.requests.acquire().await.expect("the semaphore is never closed");
        let (file, indexes) = (self.file.clone(), task.to_vec());
        let segments: Result<Vec<SegmentWithProof>, ClientError> =
            blocking(move || indexes.into_iter().map(|index| file.segment(index)).collect()).await;
        node.upload(self.place.seq, &segments.map_err(Failed::Client)?).await?;
        self.progress.advance(task.iter().map(|index| self.segment_bytes(*index)).sum());
        Ok(())
    }
}
