//! Files of random bytes, and their way into a store.

// Each test uses a part of it.
#![allow(dead_code)]

use rand::{RngCore, SeedableRng, rngs::StdRng};
use zgpu_core::{
    H256,
    file::{FileShape, FileTree, SubmissionNode, submission_root},
    flow::place,
    units::{BYTES_PER_LOAD, BYTES_PER_SECTOR},
};
use zgpu_node::store::{Put, Store, StoreError, Transaction};

/// A file and its tree.
pub(crate) struct Sample {
    pub(crate) data: Vec<u8>,
    pub(crate) tree: FileTree,
}

impl Sample {
    /// Random bytes; the same seed gives the same ones.
    pub(crate) fn new(size: usize, seed: u64) -> Self {
        let mut data = vec![0; size];
        StdRng::seed_from_u64(seed).fill_bytes(&mut data);
        Sample::of(data)
    }

    /// These bytes.
    pub(crate) fn of(data: Vec<u8>) -> Self {
        let shape = FileShape::new(data.len() as u64).unwrap();
        let tree = FileTree::read(shape, &data[..], |_| ()).unwrap();
        Sample { data, tree }
    }

    pub(crate) fn root(&self) -> H256 {
        self.tree.root()
    }

    pub(crate) fn segments(&self) -> u64 {
        self.tree.shape().segments()
    }

    /// Segment `index`, as long as it is.
    pub(crate) fn segment(&self, index: u64) -> &[u8] {
        self.data.chunks(BYTES_PER_LOAD).nth(index as usize).unwrap()
    }

    /// Segment `index` with its last sector filled with zeros, as it travels.
    pub(crate) fn whole_sectors(&self, index: u64) -> Vec<u8> {
        let mut bytes = self.segment(index).to_vec();
        bytes.resize(bytes.len().next_multiple_of(BYTES_PER_SECTOR), 0);
        bytes
    }

    /// What the chain reports when it is submitted to the flow as the store has it.
    pub(crate) fn transaction(&self, store: &Store) -> Transaction {
        transaction(store, self.data.len() as u64, self.tree.submission_nodes())
    }

    /// Appends what the chain would report, and returns its number.
    pub(crate) fn append(&self, store: &Store) -> u64 {
        append(store, self.data.len() as u64, self.tree.submission_nodes())
    }

    /// Stores segment `index`, if the store wants it.
    pub(crate) fn put_segment(&self, store: &Store, seq: u64, index: u64) {
        let is_wanted = store.wants_segment(seq, index).unwrap();
        let put = store.put_segment(seq, index, self.segment(index), &self.tree.proof(index).unwrap()).unwrap();
        assert_eq!(put == Put::Stored, is_wanted, "segment {index}: {put:?}");
    }

    /// Stores all of it.
    pub(crate) fn upload(&self, store: &Store, seq: u64) {
        (0..self.segments()).for_each(|index| self.put_segment(store, seq, index));
        store.finalise(seq).unwrap();
    }

    /// Appends and stores it.
    pub(crate) fn add(&self, store: &Store) -> u64 {
        let seq = self.append(store);
        self.upload(store, seq);
        seq
    }

    /// True when the store gives all of it back.
    pub(crate) fn is_in(&self, store: &Store, seq: u64) -> bool {
        let segment = |index| store.read_segment(seq, index).unwrap();
        (0..self.segments()).flat_map(|index| segment(index).unwrap()).eq(self.data.iter().copied())
    }
}

/// What the chain reports for these nodes, behind what the store has.
pub(crate) fn transaction(store: &Store, size_bytes: u64, nodes: Vec<SubmissionNode>) -> Transaction {
    let heights: Vec<u32> = nodes.iter().map(|node| node.height).collect();
    let start = place::<StoreError>(store.flow_length(), &heights).unwrap().start;
    Transaction { seq: store.next_seq(), data_root: submission_root(&nodes).unwrap(), start, size_bytes, nodes }
}

/// Appends it, and returns its number.
pub(crate) fn append(store: &Store, size_bytes: u64, nodes: Vec<SubmissionNode>) -> u64 {
    let transaction = transaction(store, size_bytes, nodes);
    store.append(&transaction).unwrap();
    transaction.seq
}
