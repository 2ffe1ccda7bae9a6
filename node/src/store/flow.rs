//! The flow: transactions in their order, and the tree over all sectors.

use std::{
    collections::HashMap,
    sync::{PoisonError, atomic::Ordering},
};

use zgpu_core::{
    H256,
    file::submission_root,
    flow::{self, FlowError, FlowNodes},
    tree::zero_root,
    units::{LG_SECTORS_PER_LOAD, MAX_FLOW_HEIGHT, SECTORS_PER_LOAD, SECTORS_PER_SEAL},
};

use super::{
    Column, FlowState, Inner, Store, StoreError, Transaction,
    columns::{SealRecord, decode_transaction, digest_key, encode_transaction, key_number, node_key},
    loads::{Extent, ExtentKind},
    lock,
};

impl Store {
    /// Appends a transaction of the chain; transactions come in order of their sequence numbers. Durable on return.
    ///
    /// Where it comes to lie is computed anew and must be where the chain says. A transaction that is stored already
    /// is accepted again. Gaps, and nodes that are roots of zeros, become known zeros and take no space. A file that is
    /// zeros, or has no segment in the shard, is finalised; one whose data was kept when the flow was cut gets it back.
    pub fn append(&self, transaction: &Transaction) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let _alone = inner.chain.write().unwrap_or_else(PoisonError::into_inner);
        let state = *lock(&inner.flow);
        let seq = transaction.seq;
        if seq < state.next_seq {
            let stored = inner.stored_transaction(seq)?;
            return if stored.0 == *transaction { Ok(()) } else { Err(StoreError::Conflict { seq }) };
        }
        if seq > state.next_seq {
            return Err(StoreError::OutOfOrder { expected: state.next_seq, got: seq });
        }
        let heights: Vec<u32> = transaction.nodes.iter().map(|node| node.height).collect();
        let placement = flow::place::<std::convert::Infallible>(state.length, &heights)?;
        if placement.start != transaction.start {
            return Err(StoreError::Placement { seq, expected: placement.start, got: transaction.start });
        }
        let root = submission_root(&transaction.nodes).expect("a placed submission has a node");
        if root != transaction.data_root {
            return Err(StoreError::DataRoot { seq, expected: root, got: transaction.data_root });
        }

        let mut batch = inner.batch()?;
        let added = flow::append(inner, state.length, &placement, &transaction.nodes)?;
        batch.nodes(&added);
        let added = added.into_iter().map(|node| ((node.height, node.index), node.hash)).collect();
        let root = flow::root_at(&Overlay { inner, added }, placement.end)?;
        batch.put(Column::FlowRoot, &digest_key(&root, seq), &[]);
        batch.put(Column::Transaction, &seq.to_be_bytes(), &encode_transaction(transaction, state.length));
        batch.put(Column::RootIndex, &digest_key(&transaction.data_root, seq), &[]);
        let mut lowest_known = u64::MAX;
        let mut zeros = |start: u64, end: u64| {
            if start < end {
                batch.extent(Extent { start, end, kind: ExtentKind::Zeros });
                lowest_known = lowest_known.min(start);
            }
        };
        zeros(state.length, placement.start);
        let is_zero = |index: usize| transaction.nodes[index].root == zero_root(heights[index]);
        let all_zero = (0..heights.len()).all(is_zero);
        if all_zero {
            zeros(placement.start, placement.end);
        } else {
            // A smaller node shares its load with others of the file, whose data is stored as one range.
            for (index, start) in placement.node_starts.iter().enumerate() {
                if heights[index] >= LG_SECTORS_PER_LOAD && is_zero(index) {
                    zeros(*start, start + (1 << heights[index]));
                }
            }
        }
        let mut share = inner.share();
        let is_pruned = placement.start < share.from;
        let loads = transaction.shape().map(|shape| transaction.loads(&shape));
        if all_zero || loads.as_ref().is_ok_and(|loads| !is_pruned && share.count(loads.clone()) == 0) {
            batch.put(Column::Finalised, &seq.to_be_bytes(), &[]);
        } else if loads.is_ok() {
            batch.put(Column::Unfinished, &seq.to_be_bytes(), &[]);
        }
        let state = FlowState { length: placement.end, next_seq: seq + 1 };
        batch.flow(state);
        batch.commit()?;
        if is_pruned {
            share.from_seq = state.next_seq;
            *lock(&inner.share) = share;
        }
        // Data that comes back is there before anybody hears of the transaction.
        *lock(&inner.flow) = state;
        inner.restore_reverted(transaction);
        inner.publish(state);
        inner.scan.lower(lowest_known / SECTORS_PER_LOAD as u64);
        Ok(())
    }

    /// Takes back the transactions from `from_seq` on, with everything that the store has behind the flow's length
    /// before them: nodes, data and seals. Durable on return. No transaction from there on is fine.
    ///
    /// Data of the files is put aside, up to [`super::Settings::reverted_bytes`], and comes back with their roots.
    pub fn truncate(&self, from_seq: u64) -> Result<(), StoreError> {
        let inner = &*self.inner;
        let _alone = inner.chain.write().unwrap_or_else(PoisonError::into_inner);
        let _seals = lock(&inner.seal_writes);
        let next_seq = lock(&inner.flow).next_seq;
        if from_seq >= next_seq {
            return Ok(());
        }
        let length = inner.stored_transaction(from_seq)?.1;
        inner.keep_reverted(from_seq..next_seq);
        let mut batch = inner.batch()?;
        for seq in from_seq..next_seq {
            let (transaction, _) = inner.stored_transaction(seq)?;
            batch.delete(Column::RootIndex, &digest_key(&transaction.data_root, seq));
            batch.delete(Column::FlowRoot, &digest_key(&flow::root_at(inner, transaction.end())?, seq));
        }
        batch.delete_from(Column::Transaction, &from_seq.to_be_bytes());
        batch.delete_from(Column::Finalised, &from_seq.to_be_bytes());
        batch.delete_from(Column::Unfinished, &from_seq.to_be_bytes());
        for height in 0..MAX_FLOW_HEIGHT {
            // Node i at this height is complete when its end, (i + 1) << height, is within the flow.
            batch.delete_range(Column::Node, &node_key(height, length >> height), &node_key(height + 1, 0));
        }
        batch.delete_from(Column::Extent, &length.to_be_bytes());
        batch.delete_from(Column::Data, &length.to_be_bytes());
        inner.truncate_seals(&mut batch, length)?;
        let state = FlowState { length, next_seq: from_seq };
        batch.flow(state);
        batch.commit()?;
        {
            let mut share = lock(&inner.share);
            share.from_seq = share.from_seq.min(from_seq);
        }
        inner.revision.fetch_add(1, Ordering::SeqCst);
        inner.publish(state);
        Ok(())
    }

    /// Root of the flow when it had `flow_length` sectors.
    pub fn root_at(&self, flow_length: u64) -> Result<H256, StoreError> {
        let length = self.flow_length();
        if flow_length == 0 || flow_length > length {
            return Err(FlowError::<StoreError>::OutOfFlow { height: 0, index: flow_length.max(1) - 1, length }.into());
        }
        Ok(flow::root_at(&*self.inner, flow_length)?)
    }

    /// Length of the flow when it had this root: the latest such length, since zeros may be appended without the root
    /// changing. `None` when no transaction led to it.
    pub fn length_with_root(&self, root: &H256) -> Result<Option<u64>, StoreError> {
        match self.inner.numbers_behind(Column::FlowRoot, &root.0)?.last() {
            Some(seq) => self.length_after(*seq),
            None => Ok(None),
        }
    }

    /// Node `index` at `height` of the flow tree as it is now, zeros behind the flow; `None` when too little is known.
    pub fn node(&self, height: u32, index: u64) -> Result<Option<H256>, StoreError> {
        let _chain = self.inner.chain.read().unwrap_or_else(PoisonError::into_inner);
        let length = self.flow_length();
        if height >= MAX_FLOW_HEIGHT || index.checked_mul(1 << height).is_none_or(|start| start >= length) {
            return Err(FlowError::<StoreError>::OutOfFlow { height, index, length }.into());
        }
        match flow::node_at(&*self.inner, length, height, index) {
            Ok(hash) => Ok(Some(hash)),
            Err(FlowError::Unknown { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The transaction with this sequence number.
    pub fn transaction(&self, seq: u64) -> Result<Option<Transaction>, StoreError> {
        Ok(self.inner.find_transaction(seq)?.map(|(transaction, _)| transaction))
    }

    /// Length of the flow right after this transaction.
    pub fn length_after(&self, seq: u64) -> Result<Option<u64>, StoreError> {
        Ok(self.transaction(seq)?.map(|transaction| transaction.end()))
    }

    /// Sequence numbers of the transactions with this data root, ascending.
    pub fn transactions_by_root(&self, root: &H256) -> Result<Vec<u64>, StoreError> {
        self.inner.numbers_behind(Column::RootIndex, &root.0)
    }
}

impl Transaction {
    /// First sector behind it in the flow.
    pub fn end(&self) -> u64 {
        self.nodes.iter().fold(self.start, |end, node| end + (1 << node.height))
    }
}

impl Inner {
    /// A transaction, and the flow's length before it.
    pub(super) fn find_transaction(&self, seq: u64) -> Result<Option<(Transaction, u64)>, StoreError> {
        self.get(Column::Transaction, &seq.to_be_bytes())?.map(|value| decode_transaction(seq, &value)).transpose()
    }

    /// A transaction that must be there, and the flow's length before it.
    pub(super) fn stored_transaction(&self, seq: u64) -> Result<(Transaction, u64), StoreError> {
        self.find_transaction(seq)?
            .ok_or_else(|| StoreError::UnknownTransaction { seq, next: lock(&self.flow).next_seq })
    }

    /// Takes back the seals that have sectors at `length` or behind.
    fn truncate_seals(&self, batch: &mut super::Batch<'_>, length: u64) -> Result<(), StoreError> {
        let first = length / SECTORS_PER_LOAD as u64;
        let kept_seals = length % SECTORS_PER_LOAD as u64 / SECTORS_PER_SEAL as u64;
        let mut iterator = self.iterator(Column::SealRecord);
        iterator.seek(first.to_be_bytes());
        while let Some((key, value)) = iterator.item() {
            let load = key_number(key)?;
            let mut record = SealRecord::decode(value)?;
            let before = record.contexts();
            let kept = if load == first { kept_seals as usize } else { 0 };
            record.seals[kept..].fill(None);
            batch.seal_record(load, &before, &record);
            iterator.next();
        }
        iterator.status().map_err(|source| self.failed(source))
    }
}

/// The stored tree with nodes that are about to be stored.
struct Overlay<'a> {
    inner: &'a Inner,
    added: HashMap<(u32, u64), H256>,
}

impl FlowNodes for Overlay<'_> {
    type Error = StoreError;

    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, StoreError> {
        match self.added.get(&(height, index)) {
            Some(hash) => Ok(Some(*hash)),
            None => self.inner.node(height, index),
        }
    }
}

impl FlowNodes for Inner {
    type Error = StoreError;

    /// A stored node, or the root of zeros for one whose sectors are all known zeros.
    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, StoreError> {
        if let Some(value) = self.get(Column::Node, &node_key(height, index))? {
            return value.try_into().map(|hash| Some(H256(hash))).map_err(|_| StoreError::Corrupt { what: "node" });
        }
        let (start, end) = (index << height, (index + 1) << height);
        let around = self.extent_at(start)?;
        let is_zeros = around.is_some_and(|extent| extent.kind == ExtentKind::Zeros && extent.end >= end);
        Ok(is_zeros.then(|| zero_root(height)))
    }
}
