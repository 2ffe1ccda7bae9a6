//! The store as peers see it: files that they may ask for, and a place for what they send.

use zgpu_core::{H256, flow::SectorProof};

use crate::{
    net::{
        chunks::{ChunkSink, FilePlace, FileSource, Taken},
        wire::{
            ShardConfig, TxId,
            rpc::{ChunkRequest, ChunksWithProof, FlowProof},
        },
    },
    store::{Store, StoreError, Transaction},
};

/// See the module documentation.
pub(super) struct Shelf(pub(super) Store);

/// Id of a transaction on the network.
pub(super) fn tx_id(transaction: &Transaction) -> TxId {
    let Transaction { seq, data_root, start, size_bytes, nodes } = transaction;
    TxId::new(*seq, data_root, *start, *size_bytes, nodes)
}

impl Shelf {
    /// Where the file of a transaction lies; `None` when there is no such transaction, or it holds no file.
    pub(super) fn find(&self, seq: u64) -> Result<Option<FilePlace>, StoreError> {
        let Some(transaction) = self.0.transaction(seq)? else { return Ok(None) };
        let Ok(shape) = transaction.shape() else { return Ok(None) };
        Ok(Some(FilePlace { tx_id: tx_id(&transaction), start: transaction.start, sectors: shape.sectors() }))
    }

    /// True when all of this file that belongs to our shard is here.
    pub(super) fn has(&self, tx_id: &TxId) -> Result<bool, StoreError> {
        let is_same = self.find(tx_id.seq)?.is_some_and(|place| place.tx_id == *tx_id);
        Ok(is_same && self.0.is_finalised(tx_id.seq)?)
    }

    /// What this node keeps.
    pub(super) fn shard(&self) -> ShardConfig {
        let shard = self.0.shard();
        ShardConfig { num_shard: shard.count, shard_id: shard.id }
    }
}

impl FileSource for Shelf {
    type Error = StoreError;

    fn place(&self, seq: u64) -> Result<Option<FilePlace>, StoreError> {
        self.find(seq)
    }

    fn chunks(&self, place: &FilePlace, request: &ChunkRequest) -> Result<Option<ChunksWithProof>, StoreError> {
        let proven = match self.0.chunks(place.tx_id.seq, request.start..request.end, request.root_seq) {
            Ok(proven) => proven,
            // Such as the root of a transaction that only the peer knows yet.
            Err(error) if error.is_callers_fault() => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(proven) = proven else { return Ok(None) };
        let first = place.start + request.start;
        let last = place.start + request.end - 1;
        Ok(Some(ChunksWithProof {
            start: proven.start,
            data: proven.data,
            left: to_wire(proven.left, first, proven.root),
            right: to_wire(proven.right, last, proven.root),
        }))
    }
}

impl ChunkSink for Shelf {
    type Error = StoreError;

    fn place(&self, seq: u64) -> Result<Option<FilePlace>, StoreError> {
        self.find(seq)
    }

    fn is_flow_root(&self, root: &H256) -> Result<bool, StoreError> {
        Ok(self.0.length_with_root(root)?.is_some())
    }

    fn put(&self, place: &FilePlace, chunks: &ChunksWithProof, root: &H256) -> Result<Taken, StoreError> {
        let seq = place.tx_id.seq;
        let Some(length) = self.0.length_with_root(root)? else { return Err(StoreError::Reverted { seq }) };
        let sectors = chunks.start..chunks.start + (chunks.data.len() / zgpu_core::units::BYTES_PER_SECTOR) as u64;
        let (left, right) = (from_wire(&chunks.left), from_wire(&chunks.right));
        match self.0.put_chunks(seq, sectors, &chunks.data, &left, &right, length) {
            Ok(_) => Ok(Taken::Stored),
            Err(StoreError::RangeProof { reason, .. }) => Ok(Taken::Wrong { reason }),
            Err(error) => Err(error),
        }
    }
}

fn to_wire(proof: SectorProof, position: u64, root: H256) -> FlowProof {
    let path = (0..proof.siblings.len()).map(|step| position >> step & 1 == 0).collect();
    let mut lemma = vec![proof.leaf];
    lemma.extend(proof.siblings);
    lemma.push(root);
    FlowProof { lemma, path }
}

/// The form of the proof has been checked: a leaf, siblings, a root.
fn from_wire(proof: &FlowProof) -> SectorProof {
    let leaf = proof.lemma.first().copied().unwrap_or_default();
    let siblings = proof.lemma.get(1..=proof.path.len()).unwrap_or_default().to_vec();
    SectorProof { leaf, siblings }
}
