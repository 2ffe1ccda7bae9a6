//! What several messages are made of: transactions, shards, the identity of a network.

use zgpu_core::{H256, digest::keccak256, file::SubmissionNode};

use super::ssz::{BYTES_PER_OFFSET, Reader, SszError, Writer};

/// Bytes of a [`TxId`].
pub const BYTES_PER_TX_ID: usize = 8 + 32;
/// Bytes of a [`ShardConfig`].
pub const BYTES_PER_SHARD_CONFIG: usize = 8 + 8;
/// Bytes of a [`NetworkIdentity`].
pub const BYTES_PER_IDENTITY: usize = 8 + 20 + 3;
/// Bytes of a [`Status`].
pub const BYTES_PER_STATUS: usize = BYTES_PER_IDENTITY + BYTES_PER_SHARD_CONFIG;
/// Bytes of a [`ShardedFile`].
pub const BYTES_PER_SHARDED_FILE: usize = BYTES_PER_TX_ID + BYTES_PER_SHARD_CONFIG;

/// Fixed part of a transaction: three offsets, the root, three numbers.
const TRANSACTION_HEAD: usize = 3 * BYTES_PER_OFFSET + 32 + 3 * 8;

/// A transaction of the flow by its number and the hash of its content: after a reorganisation of the chain another
/// transaction may have the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TxId {
    /// Sequence number.
    pub seq: u64,
    /// keccak256 of the transaction's SSZ form.
    pub hash: H256,
}

impl TxId {
    /// Id of the transaction with these contents.
    ///
    /// The hash is keccak256 of the container `stream ids | data | data root | nodes | start | size | seq`; the first two are
    /// lists that files leave empty, a node is `height + 1 | root`.
    pub fn new(seq: u64, data_root: &H256, start: u64, size_bytes: u64, nodes: &[SubmissionNode]) -> Self {
        let node = |node: &SubmissionNode| [&(u64::from(node.height) + 1).to_le_bytes(), &node.root.0[..]].concat();
        let container = Writer::new(TRANSACTION_HEAD)
            .variable(&[])
            .variable(&[])
            .fixed(&data_root.0)
            .variable(&nodes.iter().flat_map(node).collect::<Vec<u8>>())
            .fixed(&start.to_le_bytes())
            .fixed(&size_bytes.to_le_bytes())
            .fixed(&seq.to_le_bytes())
            .finish();
        TxId { seq, hash: keccak256(&[&container]) }
    }

    /// Its 40 bytes.
    pub fn to_bytes(&self) -> [u8; BYTES_PER_TX_ID] {
        let mut bytes = [0; BYTES_PER_TX_ID];
        bytes[..8].copy_from_slice(&self.seq.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hash.0);
        bytes
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        TxId { seq: reader.u64(), hash: reader.h256() }
    }
}

/// Which part of all segments a node keeps: those whose index is `shard_id` modulo `num_shard`.
///
/// As received it may make no sense; see [`ShardConfig::is_valid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShardConfig {
    /// Number of shards.
    pub num_shard: u64,
    /// Which of them.
    pub shard_id: u64,
}

impl ShardConfig {
    /// Everything.
    pub const WHOLE: ShardConfig = ShardConfig { num_shard: 1, shard_id: 0 };

    /// Its 16 bytes.
    pub fn to_bytes(&self) -> [u8; BYTES_PER_SHARD_CONFIG] {
        let mut bytes = [0; BYTES_PER_SHARD_CONFIG];
        bytes[..8].copy_from_slice(&self.num_shard.to_le_bytes());
        bytes[8..].copy_from_slice(&self.shard_id.to_le_bytes());
        bytes
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        ShardConfig { num_shard: reader.u64(), shard_id: reader.u64() }
    }

    /// The number of shards is a power of two, and the shard one of them.
    pub fn is_valid(&self) -> bool {
        self.num_shard.is_power_of_two() && self.shard_id < self.num_shard
    }

    /// True when segment `index` of the flow is in the shard. False for a shard that is not valid.
    pub fn contains(&self, index: u64) -> bool {
        self.is_valid() && index % self.num_shard == self.shard_id
    }

    /// What the network takes for two shards with common data: the finer one is made coarser by dropping low bits of
    /// its id. The data itself is divided by the low bits, so this misjudges; peers act by it nevertheless.
    pub fn is_neighbour(&self, other: &ShardConfig) -> bool {
        if !self.is_valid() || !other.is_valid() {
            return false;
        }
        let (fine, coarse) = if self.num_shard >= other.num_shard { (self, other) } else { (other, self) };
        fine.shard_id / (fine.num_shard / coarse.num_shard) == coarse.shard_id
    }

    /// True when some segment is in both shards.
    pub fn overlaps(&self, other: &ShardConfig) -> bool {
        self.is_valid()
            && other.is_valid()
            && self.shard_id % self.num_shard.min(other.num_shard)
                == other.shard_id % self.num_shard.min(other.num_shard)
    }
}

/// Version of the storage network's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolVersion {
    /// First part.
    pub major: u8,
    /// Second part.
    pub minor: u8,
    /// Third part.
    pub build: u8,
}

/// The protocol version that this build speaks: gossip topics of the second generation, shards in the status.
pub const PROTOCOL_VERSION: ProtocolVersion = ProtocolVersion { major: 0, minor: 4, build: 0 };

/// Which network a node belongs to. Nodes whose identities differ in any byte do not talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkIdentity {
    /// Id of the chain.
    pub chain_id: u64,
    /// Address of the flow contract.
    pub flow_address: [u8; 20],
    /// Version of the protocol.
    pub version: ProtocolVersion,
}

impl NetworkIdentity {
    /// Its 31 bytes, as they also stand in node records.
    pub fn to_bytes(&self) -> [u8; BYTES_PER_IDENTITY] {
        let mut bytes = [0; BYTES_PER_IDENTITY];
        bytes[..8].copy_from_slice(&self.chain_id.to_le_bytes());
        bytes[8..28].copy_from_slice(&self.flow_address);
        bytes[28..].copy_from_slice(&[self.version.major, self.version.minor, self.version.build]);
        bytes
    }

    /// Reads 31 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new("network identity", bytes, BYTES_PER_IDENTITY)?;
        let identity = Self::read(&mut reader);
        reader.end()?;
        Ok(identity)
    }

    fn read(reader: &mut Reader<'_>) -> Self {
        let (chain_id, flow_address) = (reader.u64(), reader.array());
        let [major, minor, build] = reader.array();
        NetworkIdentity { chain_id, flow_address, version: ProtocolVersion { major, minor, build } }
    }
}

/// What two nodes tell each other first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which network.
    pub identity: NetworkIdentity,
    /// What the sender keeps.
    pub shard: ShardConfig,
}

impl Status {
    /// Its 47 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        Writer::new(BYTES_PER_STATUS).fixed(&self.identity.to_bytes()).fixed(&self.shard.to_bytes()).finish()
    }

    /// Reads 47 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new("status", bytes, BYTES_PER_STATUS)?;
        let status = Status { identity: NetworkIdentity::read(&mut reader), shard: ShardConfig::read(&mut reader) };
        reader.end()?;
        Ok(status)
    }
}

/// A file, and the shard that somebody has or wants of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardedFile {
    /// The file's transaction.
    pub tx_id: TxId,
    /// Which part of it.
    pub shard: ShardConfig,
}

impl ShardedFile {
    /// Its 56 bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        Writer::new(BYTES_PER_SHARDED_FILE).fixed(&self.tx_id.to_bytes()).fixed(&self.shard.to_bytes()).finish()
    }

    /// Reads 56 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SszError> {
        let mut reader = Reader::new("sharded file", bytes, BYTES_PER_SHARDED_FILE)?;
        let file = ShardedFile::read(&mut reader);
        reader.end()?;
        Ok(file)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        ShardedFile { tx_id: TxId::read(reader), shard: ShardConfig::read(reader) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(num_shard: u64, shard_id: u64) -> ShardConfig {
        ShardConfig { num_shard, shard_id }
    }

    /// Appendix A.2 of the protocol sheet.
    #[test]
    fn transactions_have_the_ids_of_the_sheet() {
        let h256 = |text: &str| text.parse::<H256>().unwrap();
        let rows = [
            (
                ("dc924469b334aed2a19fac7252e9961aea41f8d91996366029dbe0884229bf36", 0, 1, 256, 0),
                "bcd6cd4e2db6c7530be677e09cb40f7e344df3c71972b05c9d593c3abd7db1ac",
            ),
            (
                ("b63422c1d11eb5981af9b8ebfe35a55b18e7ce7d54528727417b845fd517634f", 2, 4, 1023, 1),
                "42856550b5d23bd386c054c04943130c205ed3ac400293aaf12c40fcfc0506d1",
            ),
        ];
        for ((root, height, start, size, seq), hash) in rows {
            let nodes = [SubmissionNode { root: h256(root), height }];
            assert_eq!(TxId::new(seq, &h256(root), start, size, &nodes), TxId { seq, hash: h256(hash) });
        }
    }

    #[test]
    fn neighbours_are_judged_by_high_bits_and_data_by_low_bits() {
        assert!(shard(2, 1).is_neighbour(&shard(4, 2)));
        assert!(!shard(2, 1).is_neighbour(&shard(4, 1)));
        assert!(!shard(2, 1).overlaps(&shard(4, 2)));
        assert!(shard(2, 1).overlaps(&shard(4, 1)));
        assert!(shard(1, 0).is_neighbour(&shard(8, 7)) && shard(8, 7).is_neighbour(&shard(1, 0)));
        for wrong in [shard(0, 0), shard(3, 0), shard(4, 4), shard(u64::MAX, 1)] {
            assert!(!wrong.is_valid() && !wrong.contains(0) && !wrong.overlaps(&ShardConfig::WHOLE));
            assert!(!wrong.is_neighbour(&ShardConfig::WHOLE) && !ShardConfig::WHOLE.is_neighbour(&wrong));
        }
        assert!(shard(4, 1).contains(9) && !shard(4, 1).contains(10));
    }
}
