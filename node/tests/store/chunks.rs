//! Ranges of sectors between stores.

use std::{collections::HashMap, convert::Infallible, ops::Range};

use zgpu_core::flow::{self, FlowNode, FlowNodes, SectorProof, append, genesis_nodes};
use zgpu_node::store::ProvenSectors;

use super::*;

/// A node that knows everything, in memory: it makes proofs without a store.
pub(crate) struct Peer {
    nodes: HashMap<(u32, u64), H256>,
    lengths: Vec<u64>,
}

impl FlowNodes for Peer {
    type Error = Infallible;
    fn node(&self, height: u32, index: u64) -> Result<Option<H256>, Infallible> {
        Ok(self.nodes.get(&(height, index)).copied())
    }
}

impl Peer {
    pub(crate) fn new() -> Self {
        let mut peer = Peer { nodes: HashMap::new(), lengths: vec![1] };
        peer.learn(genesis_nodes().to_vec());
        peer
    }

    /// A peer that has read the same log as the store.
    pub(crate) fn of(store: &Store) -> Self {
        let mut peer = Peer::new();
        (0..store.next_seq()).for_each(|seq| peer.append(&store.transaction(seq).unwrap().unwrap()));
        peer
    }

    fn learn(&mut self, nodes: Vec<FlowNode>) {
        self.nodes.extend(nodes.into_iter().map(|node| ((node.height, node.index), node.hash)));
    }

    pub(crate) fn append(&mut self, transaction: &Transaction) {
        let length = *self.lengths.last().unwrap();
        let heights: Vec<u32> = transaction.nodes.iter().map(|node| node.height).collect();
        let placement = place::<Infallible>(length, &heights).unwrap();
        let nodes = append(self, length, &placement, &transaction.nodes).unwrap();
        self.learn(nodes);
        self.lengths.push(placement.end);
    }

    /// Learns every node over a file.
    pub(crate) fn take(&mut self, start: u64, sample: &Sample) {
        let mut level: Vec<H256> = sample.data.chunks(BYTES_PER_SECTOR).map(sector_hash).collect();
        level.resize(sample.tree.shape().padded_sectors() as usize, zero_root(0));
        let mut first = start;
        for height in 0.. {
            self.learn((first..).zip(&level).map(|(index, hash)| FlowNode { height, index, hash: *hash }).collect());
            if !first.is_multiple_of(2) || level.len() < 2 {
                break;
            }
            first /= 2;
            level = level.chunks_exact(2).map(|pair| zgpu_core::digest::parent(&pair[0], &pair[1])).collect();
        }
    }

    /// Sectors of a file that it took, with proofs in the flow right after transaction `root_seq`.
    pub(crate) fn chunks(&self, start: u64, sample: &Sample, sectors: Range<u64>, root_seq: u64) -> ProvenSectors {
        let length = self.length_after(root_seq);
        let mut data = sample.data.clone();
        data.resize(sample.tree.shape().sectors() as usize * BYTES_PER_SECTOR, 0);
        let data = data[sectors.start as usize * BYTES_PER_SECTOR..sectors.end as usize * BYTES_PER_SECTOR].to_vec();
        let prove = |sector: u64| SectorProof {
            leaf: flow::node_at(self, length, 0, sector).unwrap(),
            siblings: flow::siblings_at(self, length, 0, sector).unwrap(),
        };
        let (left, right) = (prove(start + sectors.start), prove(start + sectors.end - 1));
        ProvenSectors { start: sectors.start, data, left, right, root: flow::root_at(self, length).unwrap() }
    }

    pub(crate) fn length_after(&self, seq: u64) -> u64 {
        self.lengths[seq as usize + 1]
    }
}

/// Hands what a store or a peer gave to another store.
pub(crate) fn put(store: &Store, seq: u64, chunks: &ProvenSectors, flow_length: u64) -> Result<Put, StoreError> {
    let end = chunks.start + (chunks.data.len() / BYTES_PER_SECTOR) as u64;
    store.put_chunks(seq, chunks.start..end, &chunks.data, &chunks.left, &chunks.right, flow_length)
}

/// Sectors of segment `index` that hold data.
pub(crate) fn segment_range(sample: &Sample, index: u64) -> Range<u64> {
    let first = index * SECTORS_PER_LOAD as u64;
    first..sample.tree.shape().sectors().min(first + SECTORS_PER_LOAD as u64)
}

#[test]
fn files_of_all_sizes_travel_between_stores() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (giver, mut taker) = (open(&one), open(&two));
    let sectors = [1, 2, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025, 16385];
    let sizes = sectors.iter().flat_map(|sectors| [sectors * 256 - 1, sectors * 256, sectors * 256 + 1]);
    let samples: Vec<Sample> = (0..).zip(sizes).map(|(seed, size)| Sample::new(size, seed)).collect();
    let mut peer = Peer::new();
    for sample in &samples {
        let transaction = sample.transaction(&giver);
        giver.append(&transaction).unwrap();
        taker.append(&transaction).unwrap();
        peer.append(&transaction);
    }
    let last = giver.next_seq() - 1;
    for (seq, sample) in (0..).zip(&samples) {
        let start = giver.transaction(seq).unwrap().unwrap().start;
        assert_eq!(giver.chunks(seq, 0..1, last).unwrap(), None);
        sample.upload(&giver, seq);
        peer.take(start, sample);
        // The last segments first; each with the newest root, the oldest, or one in between.
        for index in (0..sample.segments()).rev() {
            let root_seq = seq + (index * 7) % (last - seq + 1);
            let range = segment_range(sample, index);
            let chunks = giver.chunks(seq, range.clone(), root_seq).unwrap().unwrap();
            assert_eq!(chunks, peer.chunks(start, sample, range, root_seq));
            assert_eq!(Some(chunks.root), giver.length_after(root_seq).unwrap().map(|at| giver.root_at(at).unwrap()));
            let length = giver.length_after(root_seq).unwrap().unwrap();
            assert_eq!(put(&taker, seq, &chunks, length).unwrap(), Put::Stored);
            assert_eq!(put(&taker, seq, &chunks, length).unwrap(), Put::Known);
            // What was taken can be given on at once, to peers and to clients.
            assert_eq!(taker.chunks(seq, segment_range(sample, index), root_seq).unwrap(), Some(chunks));
            assert_eq!(taker.segment_proof(seq, index).unwrap(), Some(sample.tree.proof(index).unwrap()));
        }
        taker.finalise(seq).unwrap();
        if seq == last / 2 {
            drop(taker);
            taker = open(&two);
        }
    }
    assert!(taker.unfinished(0, 100).unwrap().is_empty());
    for (seq, sample) in (0..).zip(&samples) {
        for index in 0..sample.segments() {
            assert_eq!(taker.read_segment(seq, index).unwrap().unwrap(), sample.segment(index));
        }
    }
    // Padding became known too: both stores know the same, load for load.
    for load in 0..giver.flow_length().div_ceil(SECTORS_PER_LOAD as u64) {
        let (given, taken) = (giver.load(load).unwrap().unwrap(), taker.load(load).unwrap().unwrap());
        assert_eq!((given.known, given.known_ranges()), (taken.known, taken.known_ranges()), "load {load}");
        assert!(given.bytes == taken.bytes, "load {load}");
    }
}

#[test]
fn ranges_of_several_segments_and_parts_of_them() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let sample = Sample::new(5 * BYTES_PER_LOAD + 700, 1);
    let transaction = sample.transaction(&store);
    store.append(&transaction).unwrap();
    let mut peer = Peer::of(&store);
    peer.take(transaction.start, &sample);
    let chunks = |range: Range<u64>| peer.chunks(transaction.start, &sample, range, 0);
    let length = store.flow_length();
    // A part of a segment is right, and nothing that can be kept.
    for range in [0..1023, 5..1024, 1025..2048, 100..1900, 5 * 1024 + 1..5 * 1024 + 3] {
        let error = put(&store, 0, &chunks(range), length).unwrap_err();
        assert!(matches!(error, StoreError::NoWholeSegment { .. }) && error.is_callers_fault(), "{error}");
    }
    assert_eq!(put(&store, 0, &chunks(1000..3073), length).unwrap(), Put::Stored);
    assert_eq!(store.missing_segments(0, 0, 9).unwrap(), [0, 3, 4, 5]);
    assert_eq!(put(&store, 0, &chunks(1024..3072), length).unwrap(), Put::Known);
    assert_eq!(put(&store, 0, &chunks(2048..4096), length).unwrap(), Put::Stored);
    assert_eq!(put(&store, 0, &chunks(3072 + 1024..5 * 1024 + 3), length).unwrap(), Put::Stored);
    assert_eq!(store.missing_segments(0, 0, 9).unwrap(), [0]);
    // Ranges that begin and end anywhere are given out again.
    for range in [1024..1025, 1500..2600, 3000..5123, 5122..5123, 4000..4001] {
        assert_eq!(store.chunks(0, range.clone(), 0).unwrap(), Some(chunks(range)));
    }
    assert_eq!(store.chunks(0, 1023..1025, 0).unwrap(), None);
    for range in [7..7, 0..5124, 5123..5124, u64::MAX - 1..u64::MAX] {
        assert!(matches!(store.chunks(0, range, 0), Err(StoreError::NoSuchSectors { .. })));
    }
    assert!(matches!(store.chunks(0, 1024..1025, 1), Err(StoreError::UnknownTransaction { .. })));
    assert!(matches!(store.chunks(1, 0..1, 0), Err(StoreError::UnknownTransaction { .. })));
    // A root from before the file.
    let more = Sample::new(100, 2);
    let seq = more.add(&store);
    assert!(matches!(store.chunks(seq, 0..1, 0), Err(StoreError::NoProof { .. })));
}

#[test]
fn lies_about_chunks_are_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let sample = Sample::new(3 * BYTES_PER_LOAD + 20_000, 1);
    let (before, after) = (Sample::new(3000, 2), Sample::new(900_000, 3));
    for sample in [&before, &sample, &after] {
        store.append(&sample.transaction(&store)).unwrap();
    }
    let start = store.transaction(1).unwrap().unwrap().start;
    let mut peer = Peer::of(&store);
    peer.take(start, &sample);
    let lengths: Vec<u64> = (0..3).map(|seq| store.length_after(seq).unwrap().unwrap()).collect();
    let good = peer.chunks(start, &sample, 1024..2048, 2);
    let refused = |change: &dyn Fn(&mut ProvenSectors)| {
        let mut chunks = good.clone();
        change(&mut chunks);
        let error = put(&store, 1, &chunks, lengths[2]).unwrap_err();
        assert!(error.is_callers_fault(), "{error}");
        error
    };
    for at in [0, 1, 255, 256, 131_072, 262_143] {
        assert!(matches!(refused(&|chunks| chunks.data[at] ^= 1), StoreError::RangeProof { .. }));
    }
    for at in 0..good.left.siblings.len() {
        assert!(matches!(refused(&|chunks| chunks.left.siblings[at].0[7] ^= 1), StoreError::RangeProof { .. }));
        assert!(matches!(refused(&|chunks| chunks.right.siblings[at].0[7] ^= 1), StoreError::RangeProof { .. }));
    }
    refused(&|chunks| chunks.left.leaf.0[0] ^= 1);
    refused(&|chunks| std::mem::swap(&mut chunks.left, &mut chunks.right));
    refused(&|chunks| chunks.left.siblings.push(H256::ZERO));
    refused(&|chunks| chunks.left.siblings.truncate(3));
    refused(&|chunks| chunks.start = 0);
    refused(&|chunks| chunks.start = u64::MAX - 2000);
    refused(&|chunks| chunks.data.clear());
    refused(&|chunks| chunks.data.truncate(300));
    refused(&|chunks| chunks.left.siblings.clear());
    // The right proof for another length, and lengths that are none.
    for length in [0, 1, lengths[0], lengths[1], lengths[2] - 1, lengths[2] + 1, u64::MAX] {
        let error = put(&store, 1, &good, length).unwrap_err();
        assert!(matches!(error, StoreError::RangeProof { .. }), "{length}: {error}");
    }
    // The right sectors of another file.
    assert!(put(&store, 2, &good, lengths[2]).is_err());
    assert!(matches!(put(&store, 3, &good, lengths[2]), Err(StoreError::UnknownTransaction { .. })));
    let short = store.put_chunks(1, 1024..2048, &good.data[..500], &good.left, &good.right, lengths[2]);
    assert!(matches!(short, Err(StoreError::SectorBytes { expected: 262_144, got: 500 })));
    assert_eq!(store.status(1).unwrap().unwrap().stored, 0);
    assert_eq!(store.segment_proof(1, 1).unwrap(), None);
    assert_eq!(put(&store, 1, &good, lengths[2]).unwrap(), Put::Stored);
}

/// The chain takes any nodes: a file whose padding is not zeros can be submitted, and must not be completed.
#[test]
fn padding_must_be_zeros() {
    // Claimed length, and the length of the file whose nodes are submitted for it.
    for (claimed, real) in [(17 * 256, 18 * 256), (17 * 256 - 10, 17 * 256), (1, 256), (1025 * 256, 1152 * 256 - 1)] {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        let sample = Sample::new(real, 5);
        let mut transaction = sample.transaction(&store);
        transaction.size_bytes = claimed as u64;
        store.append(&transaction).unwrap();
        let shape = transaction.shape().unwrap();
        let mut peer = Peer::of(&store);
        peer.take(transaction.start, &sample);
        let index = shape.segments() - 1;
        let chunks = peer.chunks(transaction.start, &sample, index * 1024..shape.sectors(), 0);
        let error = put(&store, 0, &chunks, store.flow_length()).unwrap_err();
        assert!(matches!(error, StoreError::Padding { seq: 0, size } if size == claimed as u64), "{claimed}: {error}");
        assert!(store.finalise(0).is_err());
    }
}
