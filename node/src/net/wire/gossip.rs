//! Gossip: topics, messages, their ids, and the signature of an announcement.
//!
//! A message is the SSZ form of its payload, compressed as one raw snappy block.

use libp2p::{Multiaddr, PeerId, identity::PublicKey, multiaddr::Protocol};
use sha2::{Digest, Sha256};

use super::{
    snappy::{SnappyError, compress_block, decompress_block},
    ssz::{self, BYTES_PER_OFFSET, Reader, SszError, Writer},
    types::{BYTES_PER_SHARD_CONFIG, BYTES_PER_SHARDED_FILE, BYTES_PER_TX_ID, ShardConfig, ShardedFile, TxId},
};

/// Most plain or compressed bytes of a message, 10 MiB.
pub const MAX_MESSAGE_BYTES: usize = 10 << 20;
/// Most files in one announcement; more are a breach of the protocol.
pub const MAX_FILES_PER_ANNOUNCEMENT: usize = 256;
/// Most announcements in one message.
pub const MAX_ANNOUNCEMENTS: usize = 64;
/// Bytes of a message id.
pub const BYTES_PER_MESSAGE_ID: usize = 20;

/// Longest peer id: one with an identity or SHA-256 multihash is shorter.
const MAX_PEER_ID_BYTES: usize = 128;
const MAX_ADDRESS_BYTES: usize = 1024;
/// Longest signature: those of secp256k1 keys have at most 72 bytes.
const MAX_SIGNATURE_BYTES: usize = 256;
const BYTES_PER_TIMESTAMP: usize = 4;
/// Fixed part of an announcement: offset of the files, shard, offsets of peer and address.
const ANNOUNCEMENT_HEAD: usize = BYTES_PER_SHARD_CONFIG + 3 * BYTES_PER_OFFSET;
/// Fixed part of a signed announcement: two offsets and the time of sending.
const SIGNED_HEAD: usize = 2 * BYTES_PER_OFFSET + BYTES_PER_TIMESTAMP;
/// Fixed part of a timed message of variable length.
const TIMED_HEAD: usize = BYTES_PER_OFFSET + BYTES_PER_TIMESTAMP;
const FIND_FILE_HEAD: usize = BYTES_PER_TX_ID + BYTES_PER_OFFSET;
const BYTES_PER_RANGE: usize = BYTES_PER_TX_ID + 2 * 8;
const ANNOUNCE_CHUNKS_HEAD: usize = BYTES_PER_RANGE + 2 * BYTES_PER_OFFSET;
/// Domain in front of the hashed fields of a message id.
const VALID_MESSAGE_DOMAIN: [u8; 4] = [1, 0, 0, 0];

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// A neighbour has a new file.
    NewFile,
    /// A neighbour looks for a file.
    AskFile,
    /// Somebody looks for a file.
    FindFile,
    /// Somebody has files.
    AnnounceFile,
    /// Somebody keeps another shard than before.
    AnnounceShardConfig,
    /// Somebody looks for sectors.
    FindChunks,
    /// Somebody has sectors.
    AnnounceChunks,
}

impl Topic {
    /// All of them.
    pub const ALL: [Topic; 7] = [
        Topic::NewFile,
        Topic::AskFile,
        Topic::FindFile,
        Topic::AnnounceFile,
        Topic::AnnounceShardConfig,
        Topic::FindChunks,
        Topic::AnnounceChunks,
    ];

    /// Name on the network.
    pub fn name(self) -> &'static str {
        match self {
            Topic::NewFile => "/eth2/new_file_v2/ssz_snappy",
            Topic::AskFile => "/eth2/ask_file/ssz_snappy",
            Topic::FindFile => "/eth2/find_file_v2/ssz_snappy",
            Topic::AnnounceFile => "/eth2/announce_file_v2/ssz_snappy",
            Topic::AnnounceShardConfig => "/eth2/announce_shard_config_v2/ssz_snappy",
            Topic::FindChunks => "/eth2/find_chunks_v2/ssz_snappy",
            Topic::AnnounceChunks => "/eth2/announce_chunks_v2/ssz_snappy",
        }
    }

    /// The topic of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Topic::ALL.into_iter().find(|topic| topic.name() == name)
    }

    /// True for what goes to direct neighbours only.
    pub fn is_for_neighbours(self) -> bool {
        matches!(self, Topic::NewFile | Topic::AskFile)
    }
}

/// A payload and when it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed<T> {
    /// The payload.
    pub inner: T,
    /// Unix time in seconds.
    pub timestamp: u32,
}

/// A question for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FindFile {
    /// The file's transaction.
    pub tx_id: TxId,
    /// The shard that is looked for, if not all.
    pub shard: Option<ShardConfig>,
}

/// A node tells which files it has and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAnnouncement {
    /// The files' transactions.
    pub tx_ids: Vec<TxId>,
    /// What the node keeps of them.
    pub shard: ShardConfig,
    /// The node: bytes of its peer id.
    pub peer_id: Vec<u8>,
    /// Where it listens: bytes of a multiaddress without the peer id.
    pub address: Vec<u8>,
}

/// An announcement with the announcer's signature. Others may send it again with a new time of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAnnouncement {
    /// What is signed.
    pub announcement: Timed<FileAnnouncement>,
    /// Signature over the SSZ form of `announcement`.
    pub signature: Vec<u8>,
    /// Unix time in seconds at which it was sent last. Not signed.
    pub resend_timestamp: u32,
}

/// Sectors of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// The file's transaction.
    pub tx_id: TxId,
    /// First sector, counted from the start of the file.
    pub start: u64,
    /// Sector behind the last one.
    pub end: u64,
}

/// A node tells which sectors it has and where it can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkAnnouncement {
    /// Which sectors.
    pub range: ChunkRange,
    /// The node: bytes of its peer id.
    pub peer_id: Vec<u8>,
    /// Where it listens: bytes of a multiaddress without the peer id.
    pub address: Vec<u8>,
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// See [`Topic::NewFile`].
    NewFile(Timed<ShardedFile>),
    /// See [`Topic::AskFile`].
    AskFile(Timed<ShardedFile>),
    /// See [`Topic::FindFile`].
    FindFile(Timed<FindFile>),
    /// See [`Topic::AnnounceFile`].
    AnnounceFile(Vec<SignedAnnouncement>),
    /// See [`Topic::AnnounceShardConfig`].
    AnnounceShardConfig(Timed<ShardConfig>),
    /// See [`Topic::FindChunks`].
    FindChunks(Timed<ChunkRange>),
    /// See [`Topic::AnnounceChunks`].
    AnnounceChunks(Timed<ChunkAnnouncement>),
}

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// The block is broken, or too large.
    #[error(transparent)]
    Snappy(#[from] SnappyError),
    /// The bytes are no such message.
    #[error(transparent)]
    Ssz(#[from] SszError),
}

impl Message {
    /// Where it is published.
    pub fn topic(&self) -> Topic {
        match self {
            Message::NewFile(_) => Topic::NewFile,
            Message::AskFile(_) => Topic::AskFile,
            Message::FindFile(_) => Topic::FindFile,
            Message::AnnounceFile(_) => Topic::AnnounceFile,
            Message::AnnounceShardConfig(_) => Topic::AnnounceShardConfig,
            Message::FindChunks(_) => Topic::FindChunks,
            Message::AnnounceChunks(_) => Topic::AnnounceChunks,
        }
    }

    /// Its SSZ form.
    pub fn to_ssz(&self) -> Vec<u8> {
        match self {
            Message::NewFile(file) | Message::AskFile(file) => {
                write_timed_fixed(&file.inner.to_bytes(), file.timestamp)
            }
            Message::FindFile(find) => {
                let option = find.inner.shard.map_or(vec![0], |shard| [&[1], &shard.to_bytes()[..]].concat());
                let inner = Writer::new(FIND_FILE_HEAD).fixed(&find.inner.tx_id.to_bytes()).variable(&option).finish();
                write_timed_variable(&inner, find.timestamp)
            }
            Message::AnnounceFile(announcements) => {
                let items: Vec<_> = announcements.iter().map(SignedAnnouncement::to_ssz).collect();
                ssz::write_variable_items(&items)
            }
            Message::AnnounceShardConfig(shard) => write_timed_fixed(&shard.inner.to_bytes(), shard.timestamp),
            Message::FindChunks(find) => write_timed_fixed(&find.inner.to_bytes(), find.timestamp),
            Message::AnnounceChunks(chunks) => {
                let inner = Writer::new(ANNOUNCE_CHUNKS_HEAD)
                    .fixed(&chunks.inner.range.to_bytes())
                    .variable(&chunks.inner.peer_id)
                    .variable(&chunks.inner.address)
                    .finish();
                write_timed_variable(&inner, chunks.timestamp)
            }
        }
    }

    /// Reads the SSZ form of a message of `topic`.
    pub fn from_ssz(topic: Topic, bytes: &[u8]) -> Result<Self, SszError> {
        Ok(match topic {
            Topic::NewFile => Message::NewFile(read_timed_fixed(bytes, BYTES_PER_SHARDED_FILE, ShardedFile::read)?),
            Topic::AskFile => Message::AskFile(read_timed_fixed(bytes, BYTES_PER_SHARDED_FILE, ShardedFile::read)?),
            Topic::FindFile => Message::FindFile(read_timed_variable(bytes, read_find_file)?),
            Topic::AnnounceFile => {
                let items = ssz::variable_items("announcements", bytes, MAX_ANNOUNCEMENTS)?;
                Message::AnnounceFile(items.map(SignedAnnouncement::from_ssz).collect::<Result<_, _>>()?)
            }
            Topic::AnnounceShardConfig => {
                Message::AnnounceShardConfig(read_timed_fixed(bytes, BYTES_PER_SHARD_CONFIG, ShardConfig::read)?)
            }
            Topic::FindChunks => Message::FindChunks(read_timed_fixed(bytes, BYTES_PER_RANGE, ChunkRange::read)?),
            Topic::AnnounceChunks => Message::AnnounceChunks(read_timed_variable(bytes, read_announce_chunks)?),
        })
    }

    /// The bytes that are published.
    pub fn to_wire(&self) -> Result<Vec<u8>, SnappyError> {
        compress_block(&self.to_ssz())
    }

    /// Reads published bytes.
    pub fn from_wire(topic: Topic, bytes: &[u8]) -> Result<Self, MessageError> {
        Ok(Message::from_ssz(topic, &decompress_block(bytes, MAX_MESSAGE_BYTES)?)?)
    }
}

impl ChunkRange {
    fn to_bytes(self) -> Vec<u8> {
        Writer::new(BYTES_PER_RANGE)
            .fixed(&self.tx_id.to_bytes())
            .fixed(&self.start.to_le_bytes())
            .fixed(&self.end.to_le_bytes())
            .finish()
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        ChunkRange { tx_id: TxId::read(reader), start: reader.u64(), end: reader.u64() }
    }
}

fn write_timed_fixed(inner: &[u8], timestamp: u32) -> Vec<u8> {
    Writer::new(inner.len() + BYTES_PER_TIMESTAMP).fixed(inner).fixed(&timestamp.to_le_bytes()).finish()
}

fn write_timed_variable(inner: &[u8], timestamp: u32) -> Vec<u8> {
    Writer::new(TIMED_HEAD).variable(inner).fixed(&timestamp.to_le_bytes()).finish()
}

fn read_timed_fixed<T>(
    bytes: &[u8],
    inner_bytes: usize,
    read: impl FnOnce(&mut Reader<'_>) -> T,
) -> Result<Timed<T>, SszError> {
    let mut reader = Reader::new("timed message", bytes, inner_bytes + BYTES_PER_TIMESTAMP)?;
    let timed = Timed { inner: read(&mut reader), timestamp: reader.u32() };
    reader.end()?;
    Ok(timed)
}

fn read_timed_variable<T>(bytes: &[u8], read: impl FnOnce(&[u8]) -> Result<T, SszError>) -> Result<Timed<T>, SszError> {
    let mut reader = Reader::new("timed message", bytes, TIMED_HEAD)?;
    let (inner, timestamp) = (reader.offset(), reader.u32());
    let [inner] = reader.fields([inner])?;
    Ok(Timed { inner: read(inner)?, timestamp })
}

fn read_find_file(bytes: &[u8]) -> Result<FindFile, SszError> {
    let mut reader = Reader::new("question for a file", bytes, FIND_FILE_HEAD)?;
    let (tx_id, option) = (TxId::read(&mut reader), reader.offset());
    let [option] = reader.fields([option])?;
    let what = "optional shard";
    let shard = match option {
        [0] => None,
        [1, rest @ ..] => {
            let mut reader = Reader::new(what, rest, BYTES_PER_SHARD_CONFIG)?;
            let shard = ShardConfig::read(&mut reader);
            reader.end()?;
            Some(shard)
        }
        [0, ..] => return Err(SszError::Length { what, expected: 1, got: option.len() }),
        [got, ..] => return Err(SszError::Flag { what, got: *got }),
        [] => return Err(SszError::Length { what, expected: 1, got: 0 }),
    };
    Ok(FindFile { tx_id, shard })
}

fn read_announce_chunks(bytes: &[u8]) -> Result<ChunkAnnouncement, SszError> {
    let mut reader = Reader::new("announcement of chunks", bytes, ANNOUNCE_CHUNKS_HEAD)?;
    let (range, offsets) = (ChunkRange::read(&mut reader), [reader.offset(), reader.offset()]);
    let [peer_id, address] = reader.fields(offsets)?;
    Ok(ChunkAnnouncement {
        range,
        peer_id: ssz::bytes_up_to("peer id", peer_id, MAX_PEER_ID_BYTES)?,
        address: ssz::bytes_up_to("address", address, MAX_ADDRESS_BYTES)?,
    })
}

impl Timed<FileAnnouncement> {
    /// The bytes that are signed.
    pub fn to_ssz(&self) -> Vec<u8> {
        let tx_ids: Vec<u8> = self.inner.tx_ids.iter().flat_map(TxId::to_bytes).collect();
        let inner = Writer::new(ANNOUNCEMENT_HEAD)
            .variable(&tx_ids)
            .fixed(&self.inner.shard.to_bytes())
            .variable(&self.inner.peer_id)
            .variable(&self.inner.address)
            .finish();
        write_timed_variable(&inner, self.timestamp)
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        read_timed_variable(bytes, |bytes| {
            let mut reader = Reader::new("announcement", bytes, ANNOUNCEMENT_HEAD)?;
            let (tx_ids, shard) = (reader.offset(), ShardConfig::read(&mut reader));
            let offsets = [tx_ids, reader.offset(), reader.offset()];
            let [tx_ids, peer_id, address] = reader.fields(offsets)?;
            // The protocol's limit on files is a rule for messages that can be read, with a penalty of its own.
            let tx_ids = ssz::fixed_items::<BYTES_PER_TX_ID>("files", tx_ids, MAX_MESSAGE_BYTES / BYTES_PER_TX_ID)?;
            let read_id = |bytes: [u8; BYTES_PER_TX_ID]| {
                let mut reader = Reader::new("transaction id", &bytes, BYTES_PER_TX_ID)?;
                Ok(TxId::read(&mut reader))
            };
            Ok(FileAnnouncement {
                tx_ids: tx_ids.map(read_id).collect::<Result<_, SszError>>()?,
                shard,
                peer_id: ssz::bytes_up_to("peer id", peer_id, MAX_PEER_ID_BYTES)?,
                address: ssz::bytes_up_to("address", address, MAX_ADDRESS_BYTES)?,
            })
        })
    }
}

impl SignedAnnouncement {
    fn to_ssz(&self) -> Vec<u8> {
        Writer::new(SIGNED_HEAD)
            .variable(&self.announcement.to_ssz())
            .variable(&self.signature)
            .fixed(&self.resend_timestamp.to_le_bytes())
            .finish()
    }

    fn from_ssz(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new("signed announcement", bytes, SIGNED_HEAD)?;
        let offsets = [reader.offset(), reader.offset()];
        let resend_timestamp = reader.u32();
        let [announcement, signature] = reader.fields(offsets)?;
        Ok(SignedAnnouncement {
            announcement: Timed::from_ssz(announcement)?,
            signature: ssz::bytes_up_to("signature", signature, MAX_SIGNATURE_BYTES)?,
            resend_timestamp,
        })
    }

    /// Signs an announcement with the node's key; `announcement.inner.peer_id` must be the key's.
    pub fn sign(
        announcement: Timed<FileAnnouncement>,
        key: &libp2p::identity::Keypair,
    ) -> Result<Self, libp2p::identity::SigningError> {
        let signature = key.sign(&announcement.to_ssz())?;
        let resend_timestamp = announcement.timestamp;
        Ok(SignedAnnouncement { announcement, signature, resend_timestamp })
    }

    /// True when the announcer's key, which its peer id holds, has signed it.
    pub fn is_signed(&self) -> bool {
        let key = self.peer_id().and_then(|peer| {
            let multihash = peer.as_ref();
            // Only the identity multihash, code 0, holds the key itself.
            (multihash.code() == 0).then(|| PublicKey::try_decode_protobuf(multihash.digest()).ok())?
        });
        key.is_some_and(|key| key.verify(&self.announcement.to_ssz(), &self.signature))
    }

    /// The announcer.
    pub fn peer_id(&self) -> Option<PeerId> {
        PeerId::from_bytes(&self.announcement.inner.peer_id).ok()
    }

    /// Where the announcer listens.
    pub fn address(&self) -> Option<Multiaddr> {
        Multiaddr::try_from(self.announcement.inner.address.clone()).ok()
    }
}

/// Id of a message: what everybody takes for the same message.
///
/// First 20 bytes of the SHA-256 of `01 00 00 00 | source | topic | plain data | sequence number (u64, little-endian)`.
pub fn message_id(source: &[u8], topic: &str, plain: &[u8], sequence_number: u64) -> [u8; BYTES_PER_MESSAGE_ID] {
    let mut hasher = Sha256::new();
    hasher.update(VALID_MESSAGE_DOMAIN);
    hasher.update(source);
    hasher.update(topic);
    hasher.update(plain);
    hasher.update(sequence_number.to_le_bytes());
    *hasher.finalize().first_chunk().expect("a SHA-256 digest has 32 bytes")
}

/// True when `address` starts with an IP address that can be reached from everywhere, or with a name, and goes on with TCP.
pub fn is_public(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let is_public = match parts.next() {
        Some(Protocol::Ip4(ip)) => is_public_ip4(ip),
        Some(Protocol::Ip6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => is_public_ip4(ip),
            None => {
                let first = ip.segments()[0];
                // Unique local fc00::/7, link local fe80::/10, documentation 2001:db8::/32.
                let is_reserved =
                    first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80 || ip.segments()[..2] == [0x2001, 0x0db8];
                !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_reserved
            }
        },
        Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)) => true,
        _ => false,
    };
    is_public && matches!(parts.next(), Some(Protocol::Tcp(port)) if port != 0)
}

fn is_public_ip4(ip: std::net::Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    // Shared 100.64/10, benchmarks 198.18/15, IETF 192.0.0/24, reserved 240/4, "this network" 0/8.
    let is_reserved =
        (a == 100 && b & 0xc0 == 64) || (a == 198 && b & 0xfe == 18) || [a, b, c] == [192, 0, 0] || a >= 240 || a == 0;
    !ip.is_private()
        && !ip.is_loopback()
        && !ip.is_link_local()
        && !ip.is_broadcast()
        && !ip.is_documentation()
        && !ip.is_multicast()
        && !is_reserved
}
