//! Every key the database holds, in one place.
//!
//! Integers in keys and values are big-endian, so that keys sort by number.

use rocksdb::{BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options};
use zgpu_core::{
    H256,
    file::{FileProof, SubmissionNode},
};

use super::{PendingSegment, StoreError, Transaction};

/// Version of the layouts below; a change to any of them raises it.
pub const SCHEMA: u32 = 3;

/// The column families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// `schema` → u32; `flow` → flow length u64 ‖ next sequence number u64; `miner` → 32-byte miner id;
    /// `share` → id u64 ‖ count u64 of the shard ‖ first sector u64 that is not pruned; `sweep` → first load u64 that may
    /// have something of other shards or pruned, while that is so; `note/<name>` → bytes of the caller.
    /// RocksDB's default column family.
    Meta,
    /// Sequence number u64 → a transaction, see [`encode_transaction`].
    Transaction,
    /// Data root 32 B ‖ sequence number u64 → nothing.
    RootIndex,
    /// Sequence number u64 of a finalised transaction → nothing.
    Finalised,
    /// Sequence number u64 of a transaction with a file that is not finalised → nothing. Pruned ones may be left in it.
    Unfinished,
    /// Height u8 ‖ index u64 of a complete node of the flow tree → its hash, 32 B.
    Node,
    /// First sector u64 of a known range → length in sectors u64 ‖ 0 for zeros, 1 for data.
    /// Ranges do not overlap; a range of data lies within one load.
    Extent,
    /// First sector u64 of a range of data → its bytes; zeros fill it up to the length of the range.
    Data,
    /// Load u64 → mask u64 of its sealed seals, bit i for seal i.
    Sealed,
    /// Load u64 → contexts and checksums of its sealed seals, see [`SealRecord`].
    SealRecord,
    /// Context digest 32 B ‖ load u64 → nothing: the loads that have a seal of this context.
    ContextIndex,
    /// Flow root 32 B ‖ sequence number u64 of the transaction right after which the flow had it → nothing.
    FlowRoot,
    /// File root 32 B ‖ segment u64 → a segment whose transaction the chain has not shown yet, see [`encode_pending`].
    Pending,
    /// File root 32 B ‖ size u64 → number u64 of the transaction that was cut off ‖ bytes u64 of its segments that are kept.
    RevertedFile,
    /// File root 32 B ‖ size u64 ‖ segment u64 → a segment of such a file, see [`encode_pending`].
    Reverted,
}

impl Column {
    /// All of them.
    pub const ALL: [Column; 15] = [
        Column::Meta,
        Column::Transaction,
        Column::RootIndex,
        Column::Finalised,
        Column::Unfinished,
        Column::Node,
        Column::Extent,
        Column::Data,
        Column::Sealed,
        Column::SealRecord,
        Column::ContextIndex,
        Column::FlowRoot,
        Column::Pending,
        Column::RevertedFile,
        Column::Reverted,
    ];

    /// Name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Column::Meta => rocksdb::DEFAULT_COLUMN_FAMILY_NAME,
            Column::Transaction => "transaction",
            Column::RootIndex => "root_index",
            Column::Finalised => "finalised",
            Column::Unfinished => "unfinished",
            Column::Node => "node",
            Column::Extent => "extent",
            Column::Data => "data",
            Column::Sealed => "sealed",
            Column::SealRecord => "seal_record",
            Column::ContextIndex => "context_index",
            Column::FlowRoot => "flow_root",
            Column::Pending => "pending",
            Column::RevertedFile => "reverted_file",
            Column::Reverted => "reverted",
        }
    }

    /// Descriptor to open it with; `cache` is shared by all columns.
    pub(super) fn descriptor(self, cache: &Cache) -> ColumnFamilyDescriptor {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(cache);
        blocks.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.set_block_based_table_factory(&blocks);
        options.set_compression_type(DBCompressionType::Lz4);
        if matches!(self, Column::Data | Column::Pending | Column::Reverted) {
            // Loads stay out of the sorted files, so that compaction does not rewrite them again and again.
            options.set_enable_blob_files(true);
            options.set_min_blob_size(1024);
            options.set_blob_file_size(256 << 20);
            options.set_enable_blob_gc(true);
            options.set_write_buffer_size(32 << 20);
            // A sorted file has a few tens of bytes for each range of data. Small ones let a part of the flow be compacted
            // without touching the blobs of the rest.
            options.set_target_file_size_base(128 << 10);
        }
        ColumnFamilyDescriptor::new(self.name(), options)
    }
}

/// Key of the schema version in [`Column::Meta`].
pub(super) const META_SCHEMA: &[u8] = b"schema";
/// Key of the flow's state in [`Column::Meta`].
pub(super) const META_FLOW: &[u8] = b"flow";
/// Key of the miner id in [`Column::Meta`].
pub(super) const META_MINER: &[u8] = b"miner";
/// Key of the share that is kept in [`Column::Meta`].
pub(super) const META_SHARE: &[u8] = b"share";
/// Key of the sweep in progress in [`Column::Meta`].
pub(super) const META_SWEEP: &[u8] = b"sweep";
/// Greater than any key.
pub(super) const KEY_END: [u8; 48] = [0xff; 48];

/// Key of a note in [`Column::Meta`].
pub(super) fn note_key(name: &str) -> Vec<u8> {
    [b"note/", name.as_bytes()].concat()
}

/// Key of a node in [`Column::Node`].
pub(super) fn node_key(height: u32, index: u64) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = height as u8;
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Key in [`Column::RootIndex`], [`Column::ContextIndex`], [`Column::FlowRoot`], [`Column::Pending`] and
/// [`Column::RevertedFile`].
pub(super) fn digest_key(digest: &H256, number: u64) -> [u8; 40] {
    let mut key = [0; 40];
    key[..32].copy_from_slice(&digest.0);
    key[32..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Key in [`Column::Reverted`]; those of a file begin with its key in [`Column::RevertedFile`].
pub(super) fn reverted_key(root: &H256, size: u64, index: u64) -> [u8; 48] {
    let mut key = [0; 48];
    key[..40].copy_from_slice(&digest_key(root, size));
    key[40..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The number at the end of a key.
pub(super) fn key_number(key: &[u8]) -> Result<u64, StoreError> {
    let corrupt = || StoreError::Corrupt { what: "key" };
    let start = key.len().checked_sub(8).ok_or_else(corrupt)?;
    key[start..].try_into().map(u64::from_be_bytes).map_err(|_| corrupt())
}

/// Reads fields off the front of a value.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn new(what: &'static str, rest: &'a [u8]) -> Self {
        Fields { rest, what }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(StoreError::Corrupt { what: self.what })?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, StoreError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, StoreError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn h256(&mut self) -> Result<H256, StoreError> {
        self.array().map(H256)
    }

    pub(super) fn end(self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StoreError::Corrupt { what: self.what }) }
    }
}

/// Data root 32 B ‖ start u64 ‖ size u64 ‖ flow length before it u64 ‖ for each node: height u8 ‖ root 32 B.
pub(super) fn encode_transaction(transaction: &Transaction, length_before: u64) -> Vec<u8> {
    let mut value = transaction.data_root.0.to_vec();
    for field in [transaction.start, transaction.size_bytes, length_before] {
        value.extend(field.to_be_bytes());
    }
    for node in &transaction.nodes {
        value.push(node.height as u8);
        value.extend(node.root.0);
    }
    value
}

/// Reads [`encode_transaction`]; also returns the flow's length before the transaction.
pub(super) fn decode_transaction(seq: u64, value: &[u8]) -> Result<(Transaction, u64), StoreError> {
    let mut fields = Fields::new("transaction", value);
    let (data_root, start, size_bytes, length_before) = (fields.h256()?, fields.u64()?, fields.u64()?, fields.u64()?);
    let mut nodes = Vec::new();
    while !fields.rest.is_empty() {
        let height = u32::from(fields.u8()?);
        nodes.push(SubmissionNode { height, root: fields.h256()? });
    }
    Ok((Transaction { seq, data_root, start, size_bytes, nodes }, length_before))
}

/// Size of the file u64 ‖ steps of the path u8 ‖ a byte for each, 1 for left ‖ hashes of the lemma u8 ‖ 32 B each ‖ data.
/// `None` when the proof is longer than any can be.
pub(super) fn encode_pending(segment: &PendingSegment) -> Option<Vec<u8>> {
    let FileProof { lemma, path } = &segment.proof;
    let mut value = Vec::with_capacity(10 + path.len() + 32 * lemma.len() + segment.data.len());
    value.extend(segment.file_size.to_be_bytes());
    value.push(u8::try_from(path.len()).ok()?);
    value.extend(path.iter().map(|is_left| u8::from(*is_left)));
    value.push(u8::try_from(lemma.len()).ok()?);
    lemma.iter().for_each(|hash| value.extend(hash.0));
    value.extend(&segment.data);
    Some(value)
}

/// Reads [`encode_pending`].
pub(super) fn decode_pending(value: &[u8]) -> Result<PendingSegment, StoreError> {
    let mut fields = Fields::new("pending segment", value);
    let file_size = fields.u64()?;
    let path = (0..fields.u8()?).map(|_| fields.u8().map(|step| step == 1)).collect::<Result<_, _>>()?;
    let lemma = (0..fields.u8()?).map(|_| fields.h256()).collect::<Result<_, _>>()?;
    Ok(PendingSegment { file_size, data: fields.rest.to_vec(), proof: FileProof { lemma, path } })
}

/// What is known about the sealed seals of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SealRecord {
    /// Per seal: context digest and checksum, if it is sealed.
    pub(super) seals: Vec<Option<(H256, u64)>>,
}

impl SealRecord {
    pub(super) fn empty() -> Self {
        SealRecord { seals: vec![None; zgpu_core::units::SEALS_PER_LOAD] }
    }

    pub(super) fn available(&self) -> u64 {
        self.seals.iter().enumerate().filter(|(_, seal)| seal.is_some()).fold(0, |mask, (index, _)| mask | 1 << index)
    }

    /// Distinct contexts, in the order of their first seal.
    pub(super) fn contexts(&self) -> Vec<H256> {
        let mut contexts: Vec<H256> = Vec::new();
        for (context, _) in self.seals.iter().flatten() {
            if !contexts.contains(context) {
                contexts.push(*context);
            }
        }
        contexts
    }

    /// Mask of sealed seals u64 ‖ number of contexts u8 ‖ contexts 32 B each ‖ for each sealed seal, ascending:
    /// which context u8 ‖ checksum u64.
    pub(super) fn encode(&self) -> Vec<u8> {
        let contexts = self.contexts();
        let mut value = self.available().to_be_bytes().to_vec();
        value.push(contexts.len() as u8);
        contexts.iter().for_each(|context| value.extend(context.0));
        for (context, checksum) in self.seals.iter().flatten() {
            value.push(contexts.iter().position(|other| other == context).expect("listed above") as u8);
            value.extend(checksum.to_be_bytes());
        }
        value
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields::new("seal record", value);
        let available = fields.u64()?;
        let contexts = (0..fields.u8()?).map(|_| fields.h256()).collect::<Result<Vec<_>, _>>()?;
        let mut record = SealRecord::empty();
        for (index, seal) in record.seals.iter_mut().enumerate() {
            if available >> index & 1 == 1 {
                let context =
                    *contexts.get(fields.u8()? as usize).ok_or(StoreError::Corrupt { what: "seal record" })?;
                *seal = Some((context, fields.u64()?));
            }
        }
        fields.end()?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_written_and_cut_ones_refused() {
        let mut record = SealRecord::empty();
        record.seals[0] = Some((H256([1; 32]), 7));
        record.seals[63] = Some((H256([2; 32]), u64::MAX));
        record.seals[5] = Some((H256([1; 32]), 9));
        assert_eq!(record.available(), 1 << 63 | 1 << 5 | 1);
        let value = record.encode();
        assert_eq!(SealRecord::decode(&value).unwrap(), record);
        for length in 0..value.len() {
            assert!(SealRecord::decode(&value[..length]).is_err(), "{length}");
        }

        let nodes =
            vec![SubmissionNode { root: H256([3; 32]), height: 12 }, SubmissionNode { root: H256::ZERO, height: 9 }];
        let transaction = Transaction { seq: 4, data_root: H256([9; 32]), start: 4096, size_bytes: 1_000_000, nodes };
        let value = encode_transaction(&transaction, 77);
        assert_eq!(decode_transaction(4, &value).unwrap(), (transaction, 77));
        assert!(decode_transaction(4, &value[..value.len() - 1]).is_err());

        let proof = FileProof { lemma: vec![H256([1; 32]), H256([2; 32]), H256([3; 32])], path: vec![true] };
        let pending = PendingSegment { file_size: 300_000, data: vec![7; 500], proof };
        let value = encode_pending(&pending).unwrap();
        assert_eq!(decode_pending(&value).unwrap(), pending);
        for length in 0..value.len() - 500 {
            assert!(decode_pending(&value[..length]).is_err(), "{length}");
        }
        let long = FileProof { lemma: vec![H256::ZERO; 256], path: Vec::new() };
        assert_eq!(encode_pending(&PendingSegment { proof: long, ..pending }), None);
    }
}
