//! Requests and responses: one request per stream, `varint length | snappy frames`; a response has a result byte in front.

use std::io;

use futures::{AsyncRead, AsyncReadExt};
use zgpu_core::{H256, units::BYTES_PER_SECTOR};

use super::{
    snappy::{SnappyError, compress_frames, decompress_frames},
    ssz::{self, Reader, SszError, Writer},
    types::{BYTES_PER_SHARDED_FILE, BYTES_PER_STATUS, BYTES_PER_TX_ID, ShardedFile, Status, TxId},
};

/// Most sectors that one request may ask for: two segments.
pub const MAX_SECTORS_PER_REQUEST: u64 = 2048;
/// Most hashes in a [`Request::DataByHash`].
pub const MAX_HASHES_PER_REQUEST: usize = 1024;
/// Longest text of an error response, in bytes.
pub const MAX_ERROR_BYTES: usize = 256;
/// The number that a ping carries, and its answer.
pub const PING_VALUE: u64 = 1;

/// Hashes of a flow proof: leaf, a sibling for each of 64 levels, root.
const MAX_LEMMA: usize = 66;
/// Steps of a flow proof.
const MAX_PATH: usize = 64;
const BYTES_PER_HASH: usize = 32;
const BYTES_PER_CHUNK_REQUEST: usize = BYTES_PER_TX_ID + 3 * 8;
const MAX_DATA_BYTES: usize = MAX_SECTORS_PER_REQUEST as usize * BYTES_PER_SECTOR;
const BYTES_PER_TWO_OFFSETS: usize = 2 * ssz::BYTES_PER_OFFSET;
const BYTES_OF_CHUNKS_HEAD: usize = ssz::BYTES_PER_OFFSET + 8;
/// Shortest response with chunks: no data, empty proofs.
const MIN_CHUNKS_BYTES: usize = BYTES_PER_TWO_OFFSETS + BYTES_OF_CHUNKS_HEAD + 3 * BYTES_PER_TWO_OFFSETS;
/// Longest response with chunks.
const MAX_CHUNKS_BYTES: usize = MIN_CHUNKS_BYTES + MAX_DATA_BYTES + 2 * (MAX_LEMMA * BYTES_PER_HASH + MAX_PATH);

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Which network and which shard; the first thing between two nodes.
    Status,
    /// The sender is about to disconnect.
    Goodbye,
    /// Is the peer there?
    Ping,
    /// Data by hashes. Part of the network's protocols, but no node answers it.
    DataByHash,
    /// "I have the file that you asked for"; no response.
    AnswerFile,
    /// Sectors of a file, with a proof.
    GetChunks,
}

impl Method {
    /// All of them.
    pub const ALL: [Method; 6] =
        [Method::Status, Method::Goodbye, Method::Ping, Method::DataByHash, Method::AnswerFile, Method::GetChunks];

    /// Name under which streams for it are negotiated.
    pub fn protocol(self) -> &'static str {
        match self {
            Method::Status => "/zgs/req/status/1/ssz_snappy",
            Method::Goodbye => "/zgs/req/goodbye/1/ssz_snappy",
            Method::Ping => "/zgs/req/ping/1/ssz_snappy",
            Method::DataByHash => "/zgs/req/data_by_hash/1/ssz_snappy",
            Method::AnswerFile => "/zgs/req/answer_file/1/ssz_snappy",
            Method::GetChunks => "/zgs/req/get_chunks/1/ssz_snappy",
        }
    }

    /// True when a response follows.
    pub fn is_answered(self) -> bool {
        matches!(self, Method::Status | Method::Ping | Method::GetChunks)
    }

    /// Fewest and most plain bytes of a request.
    fn request_bytes(self) -> (usize, usize) {
        match self {
            Method::Status => (BYTES_PER_STATUS, BYTES_PER_STATUS),
            Method::Goodbye | Method::Ping => (8, 8),
            Method::DataByHash => (0, MAX_HASHES_PER_REQUEST * BYTES_PER_HASH),
            Method::AnswerFile => (BYTES_PER_SHARDED_FILE, BYTES_PER_SHARDED_FILE),
            Method::GetChunks => (BYTES_PER_CHUNK_REQUEST, BYTES_PER_CHUNK_REQUEST),
        }
    }

    /// Fewest and most plain bytes of a successful response; `None` when there is none.
    fn response_bytes(self) -> Option<(usize, usize)> {
        match self {
            Method::Status => Some((BYTES_PER_STATUS, BYTES_PER_STATUS)),
            Method::Ping => Some((8, 8)),
            Method::GetChunks => Some((MIN_CHUNKS_BYTES, MAX_CHUNKS_BYTES)),
            Method::Goodbye | Method::DataByHash | Method::AnswerFile => None,
        }
    }
}

/// Why a peer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goodbye {
    /// It shuts down.
    ClientShutdown,
    /// Other network, or nothing in common.
    IrrelevantNetwork,
    /// Something went wrong.
    Fault,
    /// It could not find out which network this is.
    UnableToVerifyNetwork,
    /// It has enough peers.
    TooManyPeers,
    /// Our score is too low.
    BadScore,
    /// We are banned.
    Banned,
    /// Our address is banned.
    BannedIp,
    /// None of those known here.
    Unknown(u64),
}

impl Goodbye {
    /// Reads a reason.
    pub fn from_code(code: u64) -> Self {
        match code {
            1 => Goodbye::ClientShutdown,
            2 => Goodbye::IrrelevantNetwork,
            3 => Goodbye::Fault,
            128 => Goodbye::UnableToVerifyNetwork,
            129 => Goodbye::TooManyPeers,
            250 => Goodbye::BadScore,
            251 => Goodbye::Banned,
            252 => Goodbye::BannedIp,
            other => Goodbye::Unknown(other),
        }
    }

    /// Its number.
    pub fn code(self) -> u64 {
        match self {
            Goodbye::ClientShutdown => 1,
            Goodbye::IrrelevantNetwork => 2,
            Goodbye::Fault => 3,
            Goodbye::UnableToVerifyNetwork => 128,
            Goodbye::TooManyPeers => 129,
            Goodbye::BadScore => 250,
            Goodbye::Banned => 251,
            Goodbye::BannedIp => 252,
            Goodbye::Unknown(code) => code,
        }
    }
}

/// Asks for sectors of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRequest {
    /// The file's transaction.
    pub tx_id: TxId,
    /// First sector, counted from the start of the file.
    pub start: u64,
    /// Sector behind the last one.
    pub end: u64,
    /// The proof shall lead to the flow root right after this transaction.
    pub root_seq: u64,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// See [`Method::Status`].
    Status(Status),
    /// See [`Method::Goodbye`].
    Goodbye(Goodbye),
    /// See [`Method::Ping`].
    Ping(u64),
    /// See [`Method::DataByHash`].
    DataByHash(Vec<H256>),
    /// See [`Method::AnswerFile`].
    AnswerFile(ShardedFile),
    /// See [`Method::GetChunks`].
    GetChunks(ChunkRequest),
}

impl Request {
    /// What is asked.
    pub fn method(&self) -> Method {
        match self {
            Request::Status(_) => Method::Status,
            Request::Goodbye(_) => Method::Goodbye,
            Request::Ping(_) => Method::Ping,
            Request::DataByHash(_) => Method::DataByHash,
            Request::AnswerFile(_) => Method::AnswerFile,
            Request::GetChunks(_) => Method::GetChunks,
        }
    }

    /// Its SSZ form.
    pub fn to_ssz(&self) -> Vec<u8> {
        match self {
            Request::Status(status) => status.to_bytes(),
            Request::Goodbye(reason) => reason.code().to_le_bytes().to_vec(),
            Request::Ping(value) => value.to_le_bytes().to_vec(),
            Request::DataByHash(hashes) => hashes.iter().flat_map(|hash| hash.0).collect(),
            Request::AnswerFile(file) => file.to_bytes(),
            Request::GetChunks(request) => Writer::new(BYTES_PER_CHUNK_REQUEST)
                .fixed(&request.tx_id.to_bytes())
                .fixed(&request.start.to_le_bytes())
                .fixed(&request.end.to_le_bytes())
                .fixed(&request.root_seq.to_le_bytes())
                .finish(),
        }
    }

    /// Reads its SSZ form.
    pub fn from_ssz(method: Method, bytes: &[u8]) -> Result<Self, SszError> {
        Ok(match method {
            Method::Status => Request::Status(Status::from_bytes(bytes)?),
            Method::Goodbye => Request::Goodbye(Goodbye::from_code(read_u64("goodbye", bytes)?)),
            Method::Ping => Request::Ping(read_u64("ping", bytes)?),
            Method::DataByHash => {
                Request::DataByHash(ssz::fixed_items("hashes", bytes, MAX_HASHES_PER_REQUEST)?.map(H256).collect())
            }
            Method::AnswerFile => Request::AnswerFile(ShardedFile::from_bytes(bytes)?),
            Method::GetChunks => {
                let mut reader = Reader::new("chunk request", bytes, BYTES_PER_CHUNK_REQUEST)?;
                let tx_id = TxId::read(&mut reader);
                let request = ChunkRequest { tx_id, start: reader.u64(), end: reader.u64(), root_seq: reader.u64() };
                reader.end()?;
                Request::GetChunks(request)
            }
        })
    }

    /// The bytes that go on the stream.
    pub fn to_wire(&self) -> Result<Vec<u8>, SnappyError> {
        compress_frames(&self.to_ssz())
    }

    /// Reads a request from a stream.
    pub async fn read<R: AsyncRead + Unpin>(method: Method, source: &mut R) -> Result<Self, RpcError> {
        let (min, max) = method.request_bytes();
        Ok(Request::from_ssz(method, &decompress_frames(source, min, max).await?)?)
    }
}

fn read_u64(what: &'static str, bytes: &[u8]) -> Result<u64, SszError> {
    let mut reader = Reader::new(what, bytes, 8)?;
    let value = reader.u64();
    reader.end()?;
    Ok(value)
}

/// Proof that a sector lies at a place of the flow: as it travels, checked for size alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowProof {
    /// The sector's hash, its siblings from bottom to top, the root.
    pub lemma: Vec<H256>,
    /// For each sibling: true when the running node is the left child.
    pub path: Vec<bool>,
}

/// Sectors of a file, proven by their first and their last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunksWithProof {
    /// First sector, counted from the start of the file.
    pub start: u64,
    /// Their bytes.
    pub data: Vec<u8>,
    /// Proof of the first sector.
    pub left: FlowProof,
    /// Proof of the last sector.
    pub right: FlowProof,
}

/// The way in which a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The request makes no sense to the peer.
    InvalidRequest,
    /// The peer is in trouble.
    ServerError,
    /// The peer does not have it.
    ResourceUnavailable,
    /// We ask too often.
    RateLimited,
    /// Any other number.
    Unknown(u8),
}

impl Refusal {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Refusal::InvalidRequest,
            2 => Refusal::ServerError,
            3 => Refusal::ResourceUnavailable,
            139 => Refusal::RateLimited,
            other => Refusal::Unknown(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            Refusal::InvalidRequest => 1,
            Refusal::ServerError => 2,
            Refusal::ResourceUnavailable => 3,
            Refusal::RateLimited => 139,
            // 0 would be taken for success.
            Refusal::Unknown(0) => 255,
            Refusal::Unknown(code) => code,
        }
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Ping`].
    Ping(u64),
    /// To [`Request::GetChunks`].
    Chunks(Box<ChunksWithProof>),
    /// The request is refused.
    Refused {
        /// In which way.
        refusal: Refusal,
        /// Why, as the peer words it.
        text: String,
    },
    /// Nothing: the request has no response.
    None,
}

/// Why a request or a response cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The stream is broken, or holds too much.
    #[error(transparent)]
    Snappy(#[from] SnappyError),
    /// The bytes are no such message.
    #[error(transparent)]
    Ssz(#[from] SszError),
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl RpcError {
    /// True when the peer sent something wrong; false when the connection failed or broke off.
    pub fn is_peers_fault(&self) -> bool {
        match self {
            RpcError::Ssz(_) => true,
            RpcError::Snappy(SnappyError::Stream(error)) | RpcError::Io(error) => {
                // The decoder reports a broken chunk as an I/O error of these kinds.
                matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::Other)
            }
            RpcError::Snappy(_) => true,
        }
    }
}

impl Response {
    /// The bytes that go on the stream: result byte, length, frames.
    pub fn to_wire(&self) -> Result<Vec<u8>, SnappyError> {
        let (code, payload) = match self {
            Response::None => return Ok(Vec::new()),
            Response::Status(status) => (0, status.to_bytes()),
            Response::Ping(value) => (0, value.to_le_bytes().to_vec()),
            Response::Chunks(chunks) => (0, write_chunks(chunks)),
            Response::Refused { refusal, text } => {
                (refusal.code(), text.as_bytes()[..text.floor_char_boundary(MAX_ERROR_BYTES)].to_vec())
            }
        };
        let mut wire = vec![code];
        wire.extend(compress_frames(&payload)?);
        Ok(wire)
    }

    /// Reads the response to a request of `method` from a stream; nothing is read when it has none.
    pub async fn read<R: AsyncRead + Unpin>(method: Method, source: &mut R) -> Result<Self, RpcError> {
        let Some((min, max)) = method.response_bytes() else { return Ok(Response::None) };
        let mut code = [0];
        source.read_exact(&mut code).await?;
        if code[0] != 0 {
            let text = decompress_frames(source, 0, MAX_ERROR_BYTES).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            return Ok(Response::Refused { refusal: Refusal::from_code(code[0]), text });
        }
        let bytes = decompress_frames(source, min, max).await?;
        Ok(match method {
            Method::Status => Response::Status(Status::from_bytes(&bytes)?),
            Method::Ping => Response::Ping(read_u64("ping", &bytes)?),
            Method::GetChunks => Response::Chunks(Box::new(read_chunks(&bytes)?)),
            Method::Goodbye | Method::DataByHash | Method::AnswerFile => Response::None,
        })
    }
}

fn write_chunks(chunks: &ChunksWithProof) -> Vec<u8> {
    let data = Writer::new(BYTES_OF_CHUNKS_HEAD).variable(&chunks.data).fixed(&chunks.start.to_le_bytes()).finish();
    let proof = |proof: &FlowProof| {
        let lemma: Vec<u8> = proof.lemma.iter().flat_map(|hash| hash.0).collect();
        let path: Vec<u8> = proof.path.iter().map(|step| u8::from(*step)).collect();
        Writer::new(BYTES_PER_TWO_OFFSETS).variable(&lemma).variable(&path).finish()
    };
    let (left, right) = (proof(&chunks.left), proof(&chunks.right));
    let proofs = Writer::new(BYTES_PER_TWO_OFFSETS).variable(&left).variable(&right).finish();
    Writer::new(BYTES_PER_TWO_OFFSETS).variable(&data).variable(&proofs).finish()
}

/// Two fields, both of them variable.
fn read_two<'a>(what: &'static str, bytes: &'a [u8]) -> Result<[&'a [u8]; 2], SszError> {
    let mut reader = Reader::new(what, bytes, BYTES_PER_TWO_OFFSETS)?;
    let offsets = [reader.offset(), reader.offset()];
    reader.fields(offsets)
}

fn read_chunks(bytes: &[u8]) -> Result<ChunksWithProof, SszError> {
    let [chunks, proofs] = read_two("chunks with proof", bytes)?;
    let mut reader = Reader::new("chunks", chunks, BYTES_OF_CHUNKS_HEAD)?;
    let (data, start) = (reader.offset(), reader.u64());
    let [data] = reader.fields([data])?;
    let proof = |bytes| {
        let [lemma, path] = read_two("flow proof", bytes)?;
        let lemma = ssz::fixed_items("lemma", lemma, MAX_LEMMA)?.map(H256).collect();
        Ok(FlowProof { lemma, path: ssz::flags("path", path, MAX_PATH)? })
    };
    let [left, right] = read_two("range proof", proofs)?;
    let data = ssz::bytes_up_to("chunk data", data, MAX_DATA_BYTES)?;
    Ok(ChunksWithProof { start, data, left: proof(left)?, right: proof(right)? })
}
