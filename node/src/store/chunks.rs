//! Ranges of a file's sectors between nodes: they travel with proofs of their two ends in the flow.
//!
//! Such a proof says more than one of a segment in its file: it holds as well for a file that shares its load with others,
//! of which nothing but roots may be known.

use std::{ops::Range, sync::PoisonError};

use zgpu_core::{
    H256,
    file::FileShape,
    flow::{self, FlowNode, SectorProof},
    tree::{sector_hashes, zero_root},
    units::{BYTES_PER_SECTOR, LG_SECTORS_PER_LOAD, SECTORS_PER_LOAD},
};

use super::{
    Column, Inner, Put, Store, StoreError, Transaction,
    columns::node_key,
    loads::{Extent, ExtentKind},
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;

/// Sectors of a file with proofs of the first and of the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenSectors {
    /// First sector, counted from the start of the file.
    pub start: u64,
    /// Their bytes; zeros fill the last sector of the file.
    pub data: Vec<u8>,
    /// Proof of the first one.
    pub left: SectorProof,
    /// Proof of the last one.
    pub right: SectorProof,
    /// Root of the flow that the proofs lead to.
    pub root: H256,
}

impl Transaction {
    /// The sectors in the flow and the height of each of its nodes.
    pub(super) fn placed_nodes(&self) -> impl Iterator<Item = (Range<u64>, u32)> {
        self.nodes.iter().scan(self.start, |start, node| {
            let sectors = *start..*start + (1 << node.height);
            *start = sectors.end;
            Some((sectors, node.height))
        })
    }
}

impl Store {
    /// Sectors of a file, counted from its start, with proofs that lead to the root of the flow right after transaction
    /// `root_seq`; `None` when one of them, or a node that their proofs need, is not there.
    ///
    /// Sectors that the file does not have, and a root of a flow without them, are refused.
    pub fn chunks(&self, seq: u64, sectors: Range<u64>, root_seq: u64) -> Result<Option<ProvenSectors>, StoreError> {
        let inner = &*self.inner;
        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let (transaction, _) = inner.stored_transaction(seq)?;
        let Some(data) = inner.read_sectors(&transaction, sectors.clone())? else { return Ok(None) };
        let length = inner.stored_transaction(root_seq)?.0.end();
        let (first, last) = (transaction.start + sectors.start, transaction.start + sectors.end - 1);
        if last >= length {
            let reason = "the flow did not have it then";
            return Err(StoreError::NoProof { position: last, length, reason });
        }
        let prove = || {
            let tree = inner.load_nodes(first / PER_LOAD)?;
            let left = tree.sector_proof(length, first)?;
            let right = match last / PER_LOAD == first / PER_LOAD {
                true => tree.sector_proof(length, last)?,
                false => inner.load_nodes(last / PER_LOAD)?.sector_proof(length, last)?,
            };
            Ok((left, right))
        };
        let (left, right) = match prove() {
            Err(StoreError::Flow(flow::FlowError::Unknown { .. })) => return Ok(None),
            proofs => proofs?,
        };
        let root = left.root(first);
        Ok(Some(ProvenSectors { start: sectors.start, data, left, right, root }))
    }

    /// Stores the whole segments among sectors of a file, counted from its start, after their proofs have been verified
    /// against the root of the flow when it had `flow_length` sectors. Durable on return.
    ///
    /// `data` has whole sectors. With the end of the file, the proof has to show that its padding is zeros.
    pub fn put_chunks(
        &self,
        seq: u64,
        sectors: Range<u64>,
        data: &[u8],
        left: &SectorProof,
        right: &SectorProof,
        flow_length: u64,
    ) -> Result<Put, StoreError> {
        let inner = &*self.inner;
        let (transaction, _) = inner.stored_transaction(seq)?;
        if inner.is_pruned(seq) {
            return Err(StoreError::Pruned { seq });
        }
        let shape = transaction.shape()?;
        check_sectors(&transaction, &shape, &sectors)?;
        let expected = (sectors.end - sectors.start).saturating_mul(BYTES_PER_SECTOR as u64);
        if data.len() as u64 != expected {
            return Err(StoreError::SectorBytes { expected, got: data.len() });
        }
        let position = transaction.start + sectors.start;
        let wrong = |reason| StoreError::RangeProof { position, length: flow_length, reason };
        if flow_length < transaction.end() {
            return Err(wrong("the flow did not have the file then"));
        }
        if flow_length > self.flow_length() {
            return Err(wrong("the flow is shorter than that"));
        }
        if left.siblings.len() as u32 != flow::tree_height(flow_length) {
            return Err(wrong("it does not have the height of that flow"));
        }
        let range =
            flow::check_range(position, sector_hashes(data), left, right, LG_SECTORS_PER_LOAD).map_err(wrong)?;

        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        if inner.find_transaction(seq)?.is_none_or(|(now, _)| now != transaction) {
            return Err(StoreError::Reverted { seq });
        }
        if flow_length > self.flow_length() {
            return Err(wrong("the flow is shorter than that"));
        }
        match flow::root_at(inner, flow_length) {
            Ok(root) if root == range.root => {}
            Ok(_) => return Err(wrong("it leads to another root")),
            Err(flow::FlowError::Unknown { .. }) => return Err(wrong("no transaction ended there")),
            Err(error) => return Err(error.into()),
        }
        if sectors.end == shape.sectors() {
            check_padding(&transaction, &shape, data, right)?;
        }
        let segments = sectors.start.div_ceil(PER_LOAD)..match sectors.end == shape.sectors() {
            true => shape.segments(),
            false => sectors.end / PER_LOAD,
        };
        if segments.is_empty() {
            return Err(StoreError::NoWholeSegment { seq, start: sectors.start, end: sectors.end });
        }
        let nodes = nodes_inside(&transaction, range.nodes);
        inner.put_segments(&transaction, &shape, segments, &nodes, |index| {
            let from = (index * PER_LOAD - sectors.start) as usize * BYTES_PER_SECTOR;
            &data[from..from + shape.segment_bytes(index)]
        })
    }
}

/// Refuses sectors that the file does not have.
pub(super) fn check_sectors(
    transaction: &Transaction,
    shape: &FileShape,
    sectors: &Range<u64>,
) -> Result<(), StoreError> {
    if sectors.start < sectors.end && sectors.end <= shape.sectors() {
        return Ok(());
    }
    let Range { start, end } = *sectors;
    Err(StoreError::NoSuchSectors { seq: transaction.seq, start, end, sectors: shape.sectors() })
}

/// Checks that all is zeros behind the end of the file, up to the end of the transaction. `data` ends with the file's last
/// sector, `right` proves that one.
///
/// The padding lies within the last node, which is balanced: it is made of what lies right of the last sector there.
fn check_padding(
    transaction: &Transaction,
    shape: &FileShape,
    data: &[u8],
    right: &SectorProof,
) -> Result<(), StoreError> {
    let fill = (shape.sectors() * BYTES_PER_SECTOR as u64 - shape.size()) as usize;
    let last = transaction.start + shape.sectors() - 1;
    let height = transaction.nodes.last().map_or(0, |node| node.height);
    let is_right = |level: &u32| last >> level & 1 == 0;
    let is_zero = data[data.len() - fill..].iter().all(|byte| *byte == 0)
        && (0..height).filter(is_right).all(|level| right.siblings[level as usize] == zero_root(level));
    match is_zero {
        true => Ok(()),
        false => Err(StoreError::Padding { seq: transaction.seq, size: shape.size() }),
    }
}

/// Those of the nodes that lie below a node of the transaction: others are known already, or not complete.
fn nodes_inside(transaction: &Transaction, nodes: Vec<FlowNode>) -> Vec<FlowNode> {
    let is_inside = |node: &FlowNode| {
        transaction.placed_nodes().any(|(sectors, height)| {
            node.height < height
                && node.index >= sectors.start >> node.height
                && node.index < sectors.end >> node.height
        })
    };
    nodes.into_iter().filter(is_inside).collect()
}

impl Inner {
    /// Stores segments of a file that are verified and not stored yet, with nodes of the tree that their proofs show. Of
    /// segments outside the shard, the nodes alone are kept. The caller keeps the log from changing.
    pub(super) fn put_segments<'a>(
        &self,
        transaction: &Transaction,
        shape: &FileShape,
        segments: Range<u64>,
        nodes: &[FlowNode],
        data: impl Fn(u64) -> &'a [u8],
    ) -> Result<Put, StoreError> {
        if self.is_pruned(transaction.seq) {
            return Err(StoreError::Pruned { seq: transaction.seq });
        }
        let share = self.share();
        let mut batch = self.batch()?;
        let mut lowest = None;
        let mut put = Put::Outside;
        for index in segments {
            let sectors = transaction.segment_sectors(shape, index);
            if self.is_known(sectors.clone())? {
                put = if lowest.is_none() { Put::Known } else { put };
                continue;
            }
            if !share.contains(sectors.start / PER_LOAD) {
                continue;
            }
            batch.extent(Extent { start: sectors.start, end: sectors.end, kind: ExtentKind::Data });
            batch.put(Column::Data, &sectors.start.to_be_bytes(), data(index));
            lowest = lowest.or(Some(sectors.start / PER_LOAD));
            put = Put::Stored;
        }
        // A proof that came before has shown all its nodes.
        let mut shows_more = lowest.is_some();
        for node in nodes {
            shows_more = shows_more || !self.has(Column::Node, &node_key(node.height, node.index))?;
        }
        if shows_more {
            batch.nodes(nodes);
            batch.commit()?;
        }
        if let Some(load) = lowest {
            self.scan.lower(load);
        }
        Ok(put)
    }
}
