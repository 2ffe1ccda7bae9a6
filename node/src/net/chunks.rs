//! Sectors of files between peers: what is answered when they are asked for, and how an answer is checked.
//!
//! Each range of sectors travels with flow proofs of its first and its last sector. Together with the data they lead to a
//! root of the flow; the siblings left of the range come from one proof, those right of it from the other.

use std::sync::Arc;

use tracing::debug;
use zgpu_core::{
    H256,
    flow::{self, FlowError, FlowNodes, SectorProof},
    tree::sector_hash,
    units::BYTES_PER_SECTOR,
};

use libp2p::PeerId;

use super::{
    error::{NetError, RequestError},
    peers::Offence,
    service::{ChunksId, NetHandle},
    wire::{
        Request, Response, TxId,
        rpc::{ChunkRequest, ChunksWithProof, FlowProof, MAX_SECTORS_PER_REQUEST, Refusal},
    },
};

/// Where a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePlace {
    /// Its transaction.
    pub tx_id: TxId,
    /// Its first sector in the flow.
    pub start: u64,
    /// Sectors that hold its data.
    pub sectors: u64,
}

/// Files that others may ask for. All calls may block.
pub trait FileSource: Send + Sync + 'static {
    /// What can go wrong when something is looked up.
    type Error: std::error::Error + Send;

    /// The file of transaction `seq`, whether or not its data is there.
    fn place(&self, seq: u64) -> Result<Option<FilePlace>, Self::Error>;

    /// The sectors `request.start..request.end` of the file at `place`, with proofs that lead to the root of the flow right
    /// after transaction `request.root_seq`; `None` when something of it is not there.
    fn chunks(&self, place: &FilePlace, request: &ChunkRequest) -> Result<Option<ChunksWithProof>, Self::Error>;
}

/// Takes what others send. All calls may block.
pub trait ChunkSink: Send + Sync + 'static {
    /// What can go wrong.
    type Error: std::error::Error + Send + 'static;

    /// The file of transaction `seq` as this node knows it.
    fn place(&self, seq: u64) -> Result<Option<FilePlace>, Self::Error>;

    /// True when the flow had this root after some transaction.
    fn is_flow_root(&self, root: &H256) -> Result<bool, Self::Error>;

    /// Verifies that the sectors lead to `root`, a root of the flow, as [`verify`] does, and stores them. Their number and
    /// the form of their proofs have been checked.
    fn put(&self, place: &FilePlace, chunks: &ChunksWithProof, root: &H256) -> Result<Taken, Self::Error>;
}

/// What became of sectors that a peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// They are stored.
    Stored,
    /// They do not lead to the root.
    Wrong {
        /// What is wrong.
        reason: &'static str,
    },
}

/// Flow proof of the sector at `position` in a flow of `length` sectors. `tree` must know the sector's neighbours.
pub fn prove<S: FlowNodes>(tree: &S, length: u64, position: u64) -> Result<FlowProof, FlowError<S::Error>> {
    let siblings = flow::siblings_at(tree, length, 0, position)?;
    let leaf = flow::node_at(tree, length, 0, position)?;
    let root = flow::fold_siblings(leaf, position, &siblings);
    let path = (0..siblings.len()).map(|step| position >> step & 1 == 0).collect();
    let lemma = [&[leaf], &siblings[..], &[root]].concat();
    Ok(FlowProof { lemma, path })
}

/// Why sectors are not taken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunksError {
    /// The bytes are no whole number of sectors.
    #[error("{got} bytes are no positive number of sectors of {BYTES_PER_SECTOR}")]
    Bytes {
        /// Their number.
        got: usize,
    },
    /// Other sectors were asked for.
    #[error("asked for sectors {start} to {end}, got {count} from {got}")]
    Range {
        /// First one asked for.
        start: u64,
        /// The one behind the last one.
        end: u64,
        /// First one that came.
        got: u64,
        /// How many came.
        count: u64,
    },
    /// A proof is wrong.
    #[error("the proof of sectors from {position} of the flow is wrong: {reason}")]
    Proof {
        /// First sector in the flow.
        position: u64,
        /// What is wrong.
        reason: &'static str,
    },
}

impl ChunksError {
    /// What the peer that sent it has done.
    pub fn offence(&self) -> Offence {
        match self {
            ChunksError::Bytes { .. } | ChunksError::Proof { .. } => Offence::Fatal,
            ChunksError::Range { .. } => Offence::Low,
        }
    }
}

/// Checks that `chunks` are the sectors asked for, of a file whose first sector is `file_start` in the flow, and returns
/// the root that they lead to. Whether the flow ever had that root is for the caller to find out.
pub fn verify(request: &ChunkRequest, file_start: u64, chunks: &ChunksWithProof) -> Result<H256, ChunksError> {
    let Ends { position, left, right, root } = verify_ends(request, file_start, chunks)?;
    let hashes = chunks.data.chunks(BYTES_PER_SECTOR).map(sector_hash).collect();
    match flow::check_range(position, hashes, &left, &right, u64::BITS) {
        Ok(_) => Ok(root),
        Err(reason) => Err(ChunksError::Proof { position, reason }),
    }
}

/// Proofs of the two ends of a range, which lead to the same root.
struct Ends {
    position: u64,
    left: SectorProof,
    right: SectorProof,
    root: H256,
}

/// Checks what costs little: that these are the sectors asked for, and that the proofs of the first and of the last one
/// are of one root.
fn verify_ends(request: &ChunkRequest, file_start: u64, chunks: &ChunksWithProof) -> Result<Ends, ChunksError> {
    let bytes = chunks.data.len();
    if bytes == 0 || !bytes.is_multiple_of(BYTES_PER_SECTOR) {
        return Err(ChunksError::Bytes { got: bytes });
    }
    let count = (bytes / BYTES_PER_SECTOR) as u64;
    if chunks.start != request.start || chunks.start.checked_add(count) != Some(request.end) {
        return Err(ChunksError::Range { start: request.start, end: request.end, got: chunks.start, count });
    }
    let position = file_start.saturating_add(request.start);
    let wrong = |reason| ChunksError::Proof { position, reason };
    let last = position.checked_add(count - 1).ok_or(wrong("it lies outside any flow"))?;
    let left = sector_proof(&chunks.left, position).map_err(wrong)?;
    let right = sector_proof(&chunks.right, last).map_err(wrong)?;
    if left.leaf != sector_hash(&chunks.data[..BYTES_PER_SECTOR])
        || right.leaf != sector_hash(&chunks.data[bytes - BYTES_PER_SECTOR..])
    {
        return Err(wrong("its leaf is not the hash of the sector"));
    }
    if left.siblings.len() != right.siblings.len() {
        return Err(wrong("its two ends have different heights"));
    }
    let root = left.root(position);
    if right.root(last) != root {
        return Err(wrong("its two ends lead to different roots"));
    }
    match [&chunks.left, &chunks.right].iter().all(|proof| proof.lemma.last() == Some(&root)) {
        true => Ok(Ends { position, left, right, root }),
        false => Err(wrong("its hashes do not lead to its root")),
    }
}

/// A proof from the wire, if it is one of the sector at `position`.
fn sector_proof(proof: &FlowProof, position: u64) -> Result<SectorProof, &'static str> {
    let steps = proof.path.len();
    if proof.lemma.len() != steps + 2 || steps >= u64::BITS as usize {
        return Err("lemma and path do not fit together");
    }
    let place = (0..).zip(&proof.path).fold(0, |place, (step, is_left)| place | u64::from(!is_left) << step);
    if place != position {
        return Err("its path leads to another place");
    }
    Ok(SectorProof { leaf: proof.lemma[0], siblings: proof.lemma[1..=steps].to_vec() })
}

/// What a request for sectors gets: a response, or none and an offence.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// It is answered.
    Response(Response),
    /// It makes no sense to ask so: no answer, and a ban.
    Offence(Offence),
}

/// Answers a request from `source`.
///
/// A transaction that is not known here is no offence: whoever asks may have read further in the chain.
pub fn reply_to<S: FileSource>(source: &S, request: &ChunkRequest) -> Reply {
    let refused = |refusal, text: &str| Reply::Response(Response::Refused { refusal, text: text.into() });
    if request.start >= request.end || request.end - request.start > MAX_SECTORS_PER_REQUEST {
        return Reply::Offence(Offence::Fatal);
    }
    let trouble = |error: S::Error| {
        debug!(%error, "chunks cannot be read");
        refused(Refusal::ServerError, "DB error")
    };
    let place = match source.place(request.tx_id.seq) {
        Ok(Some(place)) => place,
        Ok(None) => return refused(Refusal::InvalidRequest, "Tx not found"),
        Err(error) => return trouble(error),
    };
    if place.tx_id != request.tx_id {
        return refused(Refusal::InvalidRequest, "Tx not found (Reverted)");
    }
    if request.end > place.sectors {
        return Reply::Offence(Offence::Fatal);
    }
    match source.chunks(&place, request) {
        Ok(Some(chunks)) => Reply::Response(Response::Chunks(Box::new(chunks))),
        Ok(None) => refused(Refusal::InvalidRequest, "Chunks not found"),
        Err(error) => trouble(error),
    }
}

/// Answers a peer's request; reading happens on a blocking thread.
pub async fn serve<S: FileSource>(
    net: &NetHandle,
    source: Arc<S>,
    peer: PeerId,
    id: ChunksId,
    request: ChunkRequest,
) -> Result<(), NetError> {
    let reply = tokio::task::spawn_blocking(move || reply_to(&*source, &request)).await;
    match reply.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
        Reply::Response(response) => net.respond(id, response).await,
        Reply::Offence(offence) => net.punish(peer, offence).await,
    }
}

/// Why sectors were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError<E> {
    /// The peer did not answer, or refused.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// What it sent is wrong; that has been held against it.
    #[error("{peer} sent wrong sectors: {source}")]
    Wrong {
        /// Who.
        peer: PeerId,
        /// What is wrong.
        source: ChunksError,
    },
    /// The peer knows a root of the flow that this node does not know, yet or any more. Worth another try.
    #[error("{peer} proved sectors for the unknown root {root} of the flow")]
    UnknownRoot {
        /// Who.
        peer: PeerId,
        /// Which root.
        root: H256,
    },
    /// This node does not know the file, or the range lies outside it.
    #[error("no such sectors: {0:?}")]
    NotAFile(ChunkRequest),
    /// Storing failed.
    #[error(transparent)]
    Sink(E),
}

/// Fetches sectors of a file from a peer, verifies and stores them. A peer that lies is banned.
pub async fn fetch<S: ChunkSink>(
    net: &NetHandle,
    sink: Arc<S>,
    peer: PeerId,
    request: ChunkRequest,
) -> Result<(), FetchError<S::Error>> {
    let place = blocking(&sink, move |sink| sink.place(request.tx_id.seq)).await.map_err(FetchError::Sink)?;
    let is_inside = |place: &FilePlace| place.tx_id == request.tx_id && request.end <= place.sectors;
    let place = place.filter(is_inside).ok_or(FetchError::NotAFile(request))?;
    let chunks = match net.request(peer, Request::GetChunks(request)).await? {
        Response::Chunks(chunks) => *chunks,
        // A successful response to a request for chunks is read as chunks.
        _ => return Err(RequestError::NotConnected(peer).into()),
    };
    let judged = blocking(&sink, move |sink| take(sink, &request, &place, &chunks)).await.map_err(FetchError::Sink)?;
    match judged {
        Ok(()) => Ok(()),
        Err(Refused::UnknownRoot(root)) => Err(FetchError::UnknownRoot { peer, root }),
        Err(Refused::Wrong(source)) => {
            net.punish(peer, source.offence()).await.map_err(|_| RequestError::Closed)?;
            Err(FetchError::Wrong { peer, source })
        }
    }
}

enum Refused {
    UnknownRoot(H256),
    Wrong(ChunksError),
}

/// Verifies and stores what a peer sent.
fn take<S: ChunkSink>(
    sink: &S,
    request: &ChunkRequest,
    place: &FilePlace,
    chunks: &ChunksWithProof,
) -> Result<Result<(), Refused>, S::Error> {
    let root = match verify_ends(request, place.start, chunks) {
        Ok(ends) => ends.root,
        Err(error) => return Ok(Err(Refused::Wrong(error))),
    };
    if !sink.is_flow_root(&root)? {
        // A root of another fork, or one that we have not read yet: the sectors must lead to it all the same.
        let verified = verify(request, place.start, chunks);
        return Ok(Err(verified.map_or_else(Refused::Wrong, Refused::UnknownRoot)));
    }
    let position = place.start.saturating_add(request.start);
    Ok(match sink.put(place, chunks, &root)? {
        Taken::Stored => Ok(()),
        Taken::Wrong { reason } => Err(Refused::Wrong(ChunksError::Proof { position, reason })),
    })
}

async fn blocking<S: Send + Sync + 'static, T: Send + 'static>(
    shared: &Arc<S>,
    work: impl FnOnce(&S) -> T + Send + 'static,
) -> T {
    let shared = Arc::clone(shared);
    let result = tokio::task::spawn_blocking(move || work(&shared)).await;
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use zgpu_core::digest::parent;

    use super::*;
    use crate::net::wire::TxId;

    /// A flow of which every sector is known: sector i is filled with the byte i.
    struct Whole(u64);

    fn sector(position: u64) -> Vec<u8> {
        vec![position as u8; BYTES_PER_SECTOR]
    }

    impl FlowNodes for Whole {
        type Error = Infallible;
        fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Infallible> {
            if height > 0 {
                let [left, right] = [2 * index, 2 * index + 1].map(|index| self.node(height - 1, index));
                return Ok(left?.zip(right?).map(|(left, right)| parent(&left, &right)));
            }
            Ok((index < self.0).then(|| if index == 0 { flow::RESERVED_LEAF } else { sector_hash(&sector(index)) }))
        }
    }

    const FILE_START: u64 = 3;

    fn request(start: u64, end: u64) -> ChunkRequest {
        ChunkRequest { tx_id: TxId { seq: 0, hash: H256::ZERO }, start, end, root_seq: 0 }
    }

    fn proven(length: u64, start: u64, end: u64) -> ChunksWithProof {
        let tree = Whole(length);
        let prove = |position| prove(&tree, length, FILE_START + position).unwrap();
        let data = (start..end).flat_map(|position| sector(FILE_START + position)).collect();
        ChunksWithProof { start, data, left: prove(start), right: prove(end - 1) }
    }

    #[test]
    fn every_range_of_every_flow_is_proven() {
        for length in [4, 5, 8, 9, 16, 17, 31] {
            let root = flow::root_at(&Whole(length), length).unwrap();
            for start in 0..length - FILE_START {
                for end in start + 1..=length - FILE_START {
                    assert_eq!(verify(&request(start, end), FILE_START, &proven(length, start, end)), Ok(root));
                }
            }
        }
    }

    #[test]
    fn every_lie_is_found_out() {
        let (asked, good) = (request(2, 9), proven(20, 2, 9));
        let offence = |change: &dyn Fn(&mut ChunksWithProof)| {
            let mut chunks = good.clone();
            change(&mut chunks);
            verify(&asked, FILE_START, &chunks).expect_err("a lie").offence()
        };
        for at in 0..good.data.len() {
            assert_eq!(offence(&|chunks| chunks.data[at] ^= 1), Offence::Fatal);
        }
        for at in 0..good.left.lemma.len() {
            assert_eq!(offence(&|chunks| chunks.left.lemma[at].0[9] ^= 1), Offence::Fatal);
            assert_eq!(offence(&|chunks| chunks.right.lemma[at].0[9] ^= 1), Offence::Fatal);
        }
        for at in 0..good.left.path.len() {
            assert_eq!(offence(&|chunks| chunks.left.path[at] ^= true), Offence::Fatal);
            assert_eq!(offence(&|chunks| chunks.right.path[at] ^= true), Offence::Fatal);
        }
        assert_eq!(offence(&|chunks| chunks.data.clear()), Offence::Fatal);
        assert_eq!(offence(&|chunks| chunks.data.truncate(7 * 256 - 1)), Offence::Fatal);
        assert_eq!(offence(&|chunks| chunks.data.truncate(6 * 256)), Offence::Low);
        assert_eq!(offence(&|chunks| chunks.start = 3), Offence::Low);
        assert_eq!(offence(&|chunks| chunks.left = FlowProof::default()), Offence::Fatal);
        assert_eq!(offence(&|chunks| chunks.right.path.push(true)), Offence::Fatal);
        let long = FlowProof { lemma: vec![H256::ZERO; 66], path: vec![true; 64] };
        assert_eq!(offence(&|chunks| chunks.left = long.clone()), Offence::Fatal);
        // Each end proven, at different lengths of the flow.
        assert_eq!(offence(&|chunks| chunks.right = proven(12, 2, 9).right), Offence::Fatal);
        // The right sectors of another file.
        assert!(verify(&asked, FILE_START + 1, &good).is_err());
        assert!(verify(&asked, u64::MAX - 1, &good).is_err());
    }

    struct Files;

    #[derive(Debug, thiserror::Error)]
    #[error("broken")]
    struct Broken;

    impl FileSource for Files {
        type Error = Broken;
        fn place(&self, seq: u64) -> Result<Option<FilePlace>, Broken> {
            let tx_id = TxId { seq, hash: H256::ZERO };
            match seq {
                0 => Ok(Some(FilePlace { tx_id, start: FILE_START, sectors: 9 })),
                1 => Ok(None),
                _ => Err(Broken),
            }
        }
        fn chunks(&self, _: &FilePlace, request: &ChunkRequest) -> Result<Option<ChunksWithProof>, Broken> {
            Ok((request.root_seq == 0).then(|| proven(20, request.start, request.end)))
        }
    }

    #[test]
    fn requests_are_answered_by_the_rules() {
        let refused = |request| match reply_to(&Files, &request) {
            Reply::Response(Response::Refused { refusal, text }) => (refusal, text),
            other => panic!("{other:?}"),
        };
        let asked = request(2, 9);
        let Reply::Response(Response::Chunks(chunks)) = reply_to(&Files, &asked) else { panic!("it is there") };
        verify(&asked, FILE_START, &chunks).unwrap();
        for (start, end) in [(2, 2), (3, 2), (0, 10), (0, 2049), (u64::MAX, 0), (8, u64::MAX)] {
            assert_eq!(reply_to(&Files, &request(start, end)), Reply::Offence(Offence::Fatal), "{start} {end}");
        }
        let with = |change: fn(&mut ChunkRequest)| {
            let mut request = asked;
            change(&mut request);
            refused(request)
        };
        assert_eq!(with(|it| it.tx_id.seq = 1), (Refusal::InvalidRequest, "Tx not found".into()));
        assert_eq!(
            with(|it| it.tx_id.hash = H256([1; 32])),
            (Refusal::InvalidRequest, "Tx not found (Reverted)".into())
        );
        assert_eq!(with(|it| it.root_seq = 1), (Refusal::InvalidRequest, "Chunks not found".into()));
        assert_eq!(with(|it| it.tx_id.seq = 2), (Refusal::ServerError, "DB error".into()));
    }
}
