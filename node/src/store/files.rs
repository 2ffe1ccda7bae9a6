//! Files: their segments come in, each with a proof, and go out again.

use std::{ops::Range, sync::PoisonError};

use tokio::sync::broadcast;
use zgpu_core::{
    digest::parent,
    file::{FileProof, FileShape, submission_root},
    flow::{self, FlowNode, FlowNodes},
    tree::zero_root,
    units::{BYTES_PER_SECTOR, LG_SECTORS_PER_LOAD, SECTORS_PER_LOAD},
};

use super::{
    Column, Inner, Store, StoreError, Transaction,
    chunks::check_sectors,
    columns::key_number,
    loads::{Extent, ExtentKind},
    share::Share,
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;

/// Segments that are copied in one write, 8 MiB.
const SEGMENTS_PER_COPY: u64 = 32;

/// How much of a file is stored. Segments outside the shard do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Segments of the file that hold data and belong to the shard.
    pub segments: u64,
    /// Those of them that are stored.
    pub stored: u64,
    /// All are stored, and the file was finalised.
    pub finalised: bool,
    /// It was pruned: no data is kept for it, finalised or not.
    pub pruned: bool,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is stored now.
    Stored,
    /// It was stored before.
    Known,
    /// It is what it should be, and lies outside the shard: it is not stored.
    Outside,
}

impl Transaction {
    /// Lengths of its file; fails when the length that it claims does not fit its nodes.
    pub fn shape(&self) -> Result<FileShape, StoreError> {
        let refused = StoreError::NotAFile { seq: self.seq, size: self.size_bytes };
        match FileShape::new(self.size_bytes) {
            Ok(shape) if shape.node_heights().iter().eq(self.nodes.iter().map(|node| &node.height)) => Ok(shape),
            _ => Err(refused),
        }
    }

    /// Sectors of the flow that segment `index` takes, padding and all.
    pub(super) fn segment_sectors(&self, shape: &FileShape, index: u64) -> Range<u64> {
        let start = self.start + index * PER_LOAD;
        start..start + shape.segment_sectors(index) as u64
    }

    /// The load of each of its segments that hold data: segment i lies in the i-th of them.
    pub(super) fn loads(&self, shape: &FileShape) -> Range<u64> {
        let first = self.start / PER_LOAD;
        first..first + shape.segments()
    }

    /// Which node holds segment `index`, if that node is at least a load.
    fn node_of_segment(&self, index: u64) -> Option<usize> {
        let mut first = 0;
        for (which, node) in self.nodes.iter().enumerate() {
            let segments = 1 << node.height.checked_sub(LG_SECTORS_PER_LOAD)?;
            if index < first + segments {
                return Some(which);
            }
            first += segments;
        }
        None
    }

    /// Nodes of the flow tree that the verified proof of segment `index` tells: on its way up inside the
    /// submission's node, both children at each height.
    pub(super) fn nodes_of_proof(&self, index: u64, proof: &FileProof) -> Vec<FlowNode> {
        let Some(which) = self.node_of_segment(index) else { return Vec::new() };
        let steps = (self.nodes[which].height - LG_SECTORS_PER_LOAD) as usize;
        let mut nodes = Vec::with_capacity(2 * steps);
        let mut hash = proof.lemma[0];
        let mut at = (self.start >> LG_SECTORS_PER_LOAD) + index;
        for (height, (sibling, is_left)) in
            (LG_SECTORS_PER_LOAD..).zip(proof.lemma[1..].iter().zip(&proof.path).take(steps))
        {
            nodes.push(FlowNode { height, index: at, hash });
            nodes.push(FlowNode { height, index: at ^ 1, hash: *sibling });
            hash = if *is_left { parent(&hash, sibling) } else { parent(sibling, &hash) };
            at /= 2;
        }
        nodes
    }
}

impl Store {
    /// Stores segment `index` of a file after its proof has been verified against the data root. Durable on return.
    ///
    /// `data` is as long as the file has bytes in that segment; zeros that fill its last sector may follow. A segment
    /// that is stored already is verified and accepted again. Any number of uploads may go on at once.
    pub fn put_segment(&self, seq: u64, index: u64, data: &[u8], proof: &FileProof) -> Result<Put, StoreError> {
        let inner = &*self.inner;
        let (transaction, _) = inner.stored_transaction(seq)?;
        let shape = transaction.shape()?;
        let data = without_fill(data, shape.segment_bytes(index));
        proof.verify(&shape, &transaction.data_root, index, data)?;
        let nodes = transaction.nodes_of_proof(index, proof);

        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        if inner.find_transaction(seq)?.is_none_or(|(now, _)| now != transaction) {
            return Err(StoreError::Reverted { seq });
        }
        inner.put_segments(&transaction, &shape, index..index + 1, &nodes, |_| data)
    }

    /// Marks a file as complete once all its segments of the shard are stored; its padding becomes known zeros. Durable on
    /// return.
    ///
    /// The proof of its last segment has shown that the padding holds zeros. A store that never saw that proof, because
    /// the segment lies in another shard, leaves the padding unknown.
    pub fn finalise(&self, seq: u64) -> Result<(), StoreError> {
        let _chain = self.inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        self.inner.finalise(seq)
    }

    /// Sequence numbers of files, each told once it is finalised on disk. A file may be told twice. One without data here,
    /// because it is zeros or lies in other shards, is not told. A receiver that lags behind by
    /// [`super::FINALISED_BACKLOG`] files misses some.
    pub fn watch_finalised(&self) -> broadcast::Receiver<u64> {
        self.inner.finalised.subscribe()
    }

    /// Transactions from `from_seq` on that want data: neither finalised nor pruned. Ascending, at most `limit`.
    pub fn unfinished(&self, from_seq: u64, limit: usize) -> Result<Vec<u64>, StoreError> {
        let inner = &*self.inner;
        let mut iterator = inner.iterator(Column::Unfinished);
        iterator.seek(from_seq.max(inner.share().from_seq).to_be_bytes());
        let mut found = Vec::new();
        while let Some(key) = iterator.key().filter(|_| found.len() < limit) {
            found.push(key_number(key)?);
            iterator.next();
        }
        iterator.status().map_err(|source| inner.failed(source))?;
        Ok(found)
    }

    /// How much of the file of transaction `seq` is stored, or `None` when there is no such transaction.
    pub fn status(&self, seq: u64) -> Result<Option<Status>, StoreError> {
        let inner = &*self.inner;
        let Some((transaction, _)) = inner.find_transaction(seq)? else { return Ok(None) };
        let pruned = inner.is_pruned(seq);
        let finalised = !pruned && inner.has(Column::Finalised, &seq.to_be_bytes())?;
        let shape = match transaction.shape() {
            Ok(shape) if !pruned => shape,
            _ => return Ok(Some(Status { segments: 0, stored: 0, finalised, pruned })),
        };
        let share = inner.share();
        let segments = share.count(transaction.loads(&shape));
        let stored = if finalised { segments } else { inner.stored_segments(&transaction, &shape, &share)? };
        Ok(Some(Status { segments, stored, finalised, pruned }))
    }

    /// True when the file of transaction `seq` was finalised and is not pruned. Unlike [`Store::status`] it counts no
    /// segments.
    pub fn is_finalised(&self, seq: u64) -> Result<bool, StoreError> {
        Ok(!self.inner.is_pruned(seq) && self.inner.has(Column::Finalised, &seq.to_be_bytes())?)
    }

    /// True when segment `index` of the file of transaction `seq` is stored.
    pub fn has_segment(&self, seq: u64, index: u64) -> Result<bool, StoreError> {
        let (transaction, _) = self.inner.stored_transaction(seq)?;
        let shape = transaction.shape()?;
        Ok(index < shape.segments() && self.inner.is_known(transaction.segment_sectors(&shape, index))?)
    }

    /// True when segment `index` belongs to the shard and is not stored, and data is taken for the transaction.
    pub fn wants_segment(&self, seq: u64, index: u64) -> Result<bool, StoreError> {
        let inner = &*self.inner;
        let (transaction, _) = inner.stored_transaction(seq)?;
        let shape = transaction.shape()?;
        let is_kept = index < shape.segments() && inner.share().contains(transaction.loads(&shape).start + index);
        Ok(is_kept
            && !inner.is_pruned(seq)
            && !inner.has(Column::Finalised, &seq.to_be_bytes())?
            && !inner.is_known(transaction.segment_sectors(&shape, index))?)
    }

    /// Segments of the shard from `from` on that are not stored, ascending, at most `limit`. None when the file is pruned.
    pub fn missing_segments(&self, seq: u64, from: u64, limit: usize) -> Result<Vec<u64>, StoreError> {
        let (transaction, _) = self.inner.stored_transaction(seq)?;
        match self.inner.is_pruned(seq) {
            true => Ok(Vec::new()),
            false => self.inner.missing_segments(&transaction, from, limit),
        }
    }

    /// Data of segment `index` of a file, without padding, or `None` when it is not stored.
    pub fn read_segment(&self, seq: u64, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let inner = &*self.inner;
        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let (transaction, _) = inner.stored_transaction(seq)?;
        inner.read_segment(&transaction, index)
    }

    /// Sectors of a file's data, counted from its start, or `None` when one of them is not stored. The last sector of the
    /// file is filled with zeros. Sectors behind it are refused.
    pub fn read_sectors(&self, seq: u64, sectors: Range<u64>) -> Result<Option<Vec<u8>>, StoreError> {
        let inner = &*self.inner;
        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let (transaction, _) = inner.stored_transaction(seq)?;
        inner.read_sectors(&transaction, sectors)
    }

    /// Gives transaction `to` the data of the finalised transaction `from` of the same file, and finalises it. True when
    /// that is done; false when `from` is not finalised, the two do not have the same nodes, or something of `to` is still
    /// missing because `from` has it in other shards. Durable on return.
    ///
    /// Equal nodes commit to equal padded data, so nothing is verified again.
    pub fn copy_file(&self, from: u64, to: u64) -> Result<bool, StoreError> {
        let inner = &*self.inner;
        let segments = {
            let ((source, _), (target, _)) = (inner.stored_transaction(from)?, inner.stored_transaction(to)?);
            let Ok(shape) = target.shape() else { return Ok(false) };
            if source.nodes != target.nodes || inner.is_pruned(to) {
                return Ok(false);
            }
            shape.segments()
        };
        let mut first = 0;
        while first < segments {
            // The lock is let go between batches, so that the log goes on; both are looked at anew each time.
            let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
            let ((source, _), (target, _)) = (inner.stored_transaction(from)?, inner.stored_transaction(to)?);
            if source.nodes != target.nodes || !self.is_finalised(from)? || inner.is_pruned(to) {
                return Ok(false);
            }
            let end = segments.min(first + SEGMENTS_PER_COPY);
            inner.copy_segments(&source, &target, first..end)?;
            first = end;
        }
        match self.finalise(to) {
            Err(StoreError::Incomplete { .. } | StoreError::Pruned { .. }) => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Proof that segment `index` belongs to the file, or `None` when it is not stored.
    pub fn segment_proof(&self, seq: u64, index: u64) -> Result<Option<FileProof>, StoreError> {
        let inner = &*self.inner;
        let _chain = inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let (transaction, _) = inner.stored_transaction(seq)?;
        inner.segment_proof(&transaction, index)
    }
}

/// `data` without zeros behind its `expected` bytes, as long as they only fill its last sector.
fn without_fill(data: &[u8], expected: usize) -> &[u8] {
    match data.split_at_checked(expected) {
        Some((head, fill))
            if data.len() <= expected.next_multiple_of(BYTES_PER_SECTOR) && fill.iter().all(|byte| *byte == 0) =>
        {
            head
        }
        _ => data,
    }
}

impl Inner {
    /// See [`Store::finalise`]. The caller keeps the log from changing.
    pub(super) fn finalise(&self, seq: u64) -> Result<(), StoreError> {
        let (transaction, _) = self.stored_transaction(seq)?;
        if self.is_pruned(seq) {
            return Err(StoreError::Pruned { seq });
        }
        if self.has(Column::Finalised, &seq.to_be_bytes())? {
            return Ok(());
        }
        let shape = transaction.shape()?;
        let share = self.share();
        let segments = share.count(transaction.loads(&shape));
        if !self.missing_segments(&transaction, 0, 1)?.is_empty() {
            let stored = self.stored_segments(&transaction, &shape, &share)?;
            return Err(StoreError::Incomplete { seq, stored, segments });
        }
        let mut batch = self.batch()?;
        let padding = transaction.start + shape.segments() * PER_LOAD..transaction.end();
        let is_padded = padding.start < padding.end
            && !self.is_known(padding.clone())?
            && self.is_padding_shown(&transaction, &shape, &share)?;
        if is_padded {
            batch.extent(Extent { start: padding.start, end: padding.end, kind: ExtentKind::Zeros });
        }
        batch.put(Column::Finalised, &seq.to_be_bytes(), &[]);
        batch.delete(Column::Unfinished, &seq.to_be_bytes());
        batch.commit()?;
        if is_padded {
            self.scan.lower(padding.start / PER_LOAD);
        }
        if segments > 0 {
            // An error says that nobody listens.
            let _ = self.finalised.send(seq);
        }
        Ok(())
    }

    /// True when the padding behind the last segment of a file is known to be zeros: that segment was stored, which takes
    /// a proof of it, or another proof has shown the nodes over it.
    fn is_padding_shown(
        &self,
        transaction: &Transaction,
        shape: &FileShape,
        share: &Share,
    ) -> Result<bool, StoreError> {
        let loads = transaction.loads(shape);
        if share.contains(loads.end - 1) {
            return Ok(true);
        }
        let mut at = loads.end << LG_SECTORS_PER_LOAD;
        while at < transaction.end() {
            // Behind the last segment, the node is made of parts that double in size.
            let height = at.trailing_zeros().min((transaction.end() - at).ilog2());
            if self.node(height, at >> height)? != Some(zero_root(height)) {
                return Ok(false);
            }
            at += 1 << height;
        }
        Ok(true)
    }

    /// See [`Store::missing_segments`]. The caller keeps the log from changing.
    fn missing_segments(&self, transaction: &Transaction, from: u64, limit: usize) -> Result<Vec<u64>, StoreError> {
        let shape = transaction.shape()?;
        let (share, loads) = (self.share(), transaction.loads(&shape));
        let mut missing = Vec::new();
        let mut next = from;
        let mut add = |gap: Range<u64>| {
            let mut load = share.next(loads.start + gap.start);
            while let Some(found) = load.filter(|load| *load < loads.start + gap.end && missing.len() < limit) {
                missing.push(found - loads.start);
                load = share.next(found + 1);
            }
            missing.len() < limit
        };
        self.each_stored(transaction, &shape, from, |stored| {
            let goes_on = add(next..stored.start);
            next = stored.end;
            goes_on
        })?;
        add(next..shape.segments());
        Ok(missing)
    }

    /// See [`Store::read_segment`]. The caller keeps the log from changing.
    pub(super) fn read_segment(&self, transaction: &Transaction, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let shape = transaction.shape()?;
        if index >= shape.segments() {
            return Ok(None);
        }
        let sectors = transaction.segment_sectors(&shape, index);
        let Some(extent) = self.extent_at(sectors.start)?.filter(|extent| extent.end >= sectors.end) else {
            return Ok(None);
        };
        let mut bytes = vec![0; shape.segment_sectors(index) * BYTES_PER_SECTOR];
        if extent.kind == ExtentKind::Data {
            self.read_data(extent, &mut bytes)?;
        }
        bytes.truncate(shape.segment_bytes(index));
        Ok(Some(bytes))
    }

    /// See [`Store::read_sectors`]. The caller keeps the log from changing.
    pub(super) fn read_sectors(
        &self,
        transaction: &Transaction,
        sectors: Range<u64>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        check_sectors(transaction, &transaction.shape()?, &sectors)?;
        let within = transaction.start + sectors.start..transaction.start + sectors.end;
        if !self.is_known(within.clone())? {
            return Ok(None);
        }
        let mut bytes = vec![0; (sectors.end - sectors.start) as usize * BYTES_PER_SECTOR];
        let mut extents = self.extents(within.start)?;
        while let Some(extent) = extents.current()?.filter(|extent| extent.start < within.end) {
            if extent.kind == ExtentKind::Data {
                let mut whole = vec![0; (extent.end - extent.start) as usize * BYTES_PER_SECTOR];
                self.read_data(extent, &mut whole)?;
                let (from, to) = (extent.start.max(within.start), extent.end.min(within.end));
                let at = |sector: u64, start: u64| (sector - start) as usize * BYTES_PER_SECTOR;
                bytes[at(from, within.start)..at(to, within.start)]
                    .copy_from_slice(&whole[at(from, extent.start)..at(to, extent.start)]);
            }
            extents.next();
        }
        Ok(Some(bytes))
    }

    /// See [`Store::segment_proof`]. The caller keeps the log from changing.
    pub(super) fn segment_proof(&self, transaction: &Transaction, index: u64) -> Result<Option<FileProof>, StoreError> {
        let shape = transaction.shape()?;
        if index >= shape.segments() || !self.is_known(transaction.segment_sectors(&shape, index))? {
            return Ok(None);
        }
        let fold = |from: usize| submission_root(&transaction.nodes[from..]);
        let which = transaction.node_of_segment(index);
        // The last segment may be made of several nodes that are smaller than a load: all from the first such on.
        let first_small = || transaction.nodes.iter().take_while(|node| node.height >= LG_SECTORS_PER_LOAD).count();
        let node = which.unwrap_or_else(first_small);
        let mut path = Vec::new();
        let mut lemma = Vec::new();
        match which {
            Some(node) => {
                let at = (transaction.start >> LG_SECTORS_PER_LOAD) + index;
                let end = transaction.end();
                lemma.push(flow::node_at(self, end, LG_SECTORS_PER_LOAD, at)?);
                for height in LG_SECTORS_PER_LOAD..transaction.nodes[node].height {
                    let step = at >> (height - LG_SECTORS_PER_LOAD);
                    lemma.push(flow::node_at(self, end, height, step ^ 1)?);
                    path.push(step.is_multiple_of(2));
                }
                if let Some(right) = fold(node + 1) {
                    lemma.push(right);
                    path.push(true);
                }
            }
            None => lemma.extend(fold(node)),
        }
        for left in transaction.nodes[..node].iter().rev() {
            lemma.push(left.root);
            path.push(false);
        }
        if !path.is_empty() {
            lemma.push(transaction.data_root);
        }
        Ok(Some(FileProof { lemma, path }))
    }

    /// Copies segments, padding and all, with the nodes of the tree that lie inside the transaction's nodes.
    fn copy_segments(
        &self,
        source: &Transaction,
        target: &Transaction,
        segments: Range<u64>,
    ) -> Result<(), StoreError> {
        let shape = target.shape()?;
        let share = self.share();
        let mut batch = self.batch()?;
        let mut lowest = u64::MAX;
        for index in segments {
            let to = target.segment_sectors(&shape, index);
            if !share.contains(to.start / PER_LOAD) || self.is_known(to.clone())? {
                continue;
            }
            let from = source.start + index * PER_LOAD..source.start + index * PER_LOAD + (to.end - to.start);
            if !self.is_known(from.clone())? {
                continue;
            }
            lowest = lowest.min(to.start / PER_LOAD);
            let mut extents = self.extents(from.start)?;
            while let Some(extent) = extents.current()?.filter(|extent| extent.start < from.end) {
                let copy = Extent {
                    start: extent.start.max(from.start) - from.start + to.start,
                    end: extent.end.min(from.end) - from.start + to.start,
                    kind: extent.kind,
                };
                if extent.kind == ExtentKind::Data {
                    let data = self.get(Column::Data, &extent.start.to_be_bytes())?;
                    let data = data.ok_or(StoreError::Corrupt { what: "range of data" })?;
                    batch.put(Column::Data, &copy.start.to_be_bytes(), &data);
                }
                batch.extent(copy);
                extents.next();
            }
            self.copy_nodes(&mut batch, source, target, index)?;
        }
        batch.commit()?;
        self.scan.lower(lowest);
        Ok(())
    }

    /// Copies the nodes that begin with segment `index`, as far as they lie below the transaction's own node.
    fn copy_nodes(
        &self,
        batch: &mut super::Batch<'_>,
        source: &Transaction,
        target: &Transaction,
        index: u64,
    ) -> Result<(), StoreError> {
        let Some(which) = target.node_of_segment(index) else { return Ok(()) };
        let (from, to) = ((source.start >> LG_SECTORS_PER_LOAD) + index, (target.start >> LG_SECTORS_PER_LOAD) + index);
        for height in LG_SECTORS_PER_LOAD..target.nodes[which].height {
            let step = height - LG_SECTORS_PER_LOAD;
            // Each node of a transaction is aligned to its size, so both have a node there or neither.
            if !to.is_multiple_of(1 << step) {
                break;
            }
            if let Some(hash) = self.node(height, from >> step)? {
                batch.nodes(&[FlowNode { height, index: to >> step, hash }]);
            }
        }
        Ok(())
    }

    fn stored_segments(&self, transaction: &Transaction, shape: &FileShape, share: &Share) -> Result<u64, StoreError> {
        let mut stored = 0;
        let first = transaction.loads(shape).start;
        self.each_stored(transaction, shape, 0, |segments| {
            stored += share.count(first + segments.start..first + segments.end);
            true
        })?;
        Ok(stored)
    }

    /// Tells ranges of stored segments of a file from segment `from` on, ascending, as long as `each` wants more.
    pub(super) fn each_stored(
        &self,
        transaction: &Transaction,
        shape: &FileShape,
        from: u64,
        mut each: impl FnMut(Range<u64>) -> bool,
    ) -> Result<(), StoreError> {
        let end = transaction.start + shape.padded_sectors();
        let mut next = from;
        if from >= shape.segments() {
            return Ok(());
        }
        let mut extents = self.extents(transaction.start + from * PER_LOAD)?;
        while let Some(extent) = extents.current()?.filter(|extent| extent.start < end) {
            // An extent holds whole segments of a file, or lies in its padding.
            let first = (extent.start.max(transaction.start) - transaction.start) / PER_LOAD;
            let last = (extent.end.min(end) - transaction.start).div_ceil(PER_LOAD).min(shape.segments());
            if first.max(next) < last {
                if !each(first.max(next)..last) {
                    return Ok(());
                }
                next = last;
            }
            extents.next();
        }
        Ok(())
    }
}
