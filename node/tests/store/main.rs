//! The store: files in and out, proofs at every length of the flow, sealed loads, hostile input, full disks, kills.

mod chunks;
mod kills;
mod model;
mod reverted;
#[path = "../support/sample.rs"]
mod sample;
mod shares;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tempfile::TempDir;
use zgpu_core::{
    H256,
    digest::keccak256,
    file::{FileProof, FileTree, SubmissionNode},
    flow::{fold_siblings, place, tree_height},
    tree::{sector_hash, unbalanced_root, zero_root},
    units::{BYTES_PER_LOAD, BYTES_PER_SEAL, BYTES_PER_SECTOR, SEALS_PER_LOAD, SECTORS_PER_LOAD, SECTORS_PER_SEAL},
};
use zgpu_node::store::{Put, SealTask, SealedLoad, Settings, Store, StoreError, Transaction};

use sample::{Sample, transaction};

const MINER: H256 = H256([0x11; 32]);
const CONTEXT: H256 = H256([0x22; 32]);

/// Tests run on small disks too.
fn settings() -> Settings {
    Settings { reserve_bytes: 1 << 20, write_buffer_bytes: 16 << 20, ..Settings::default() }
}

fn open(dir: &TempDir) -> Store {
    Store::open_with(dir.path(), settings()).unwrap()
}

/// Seals one seal, by the definition: each 32-byte word is mixed with the hash of the sealed word before it.
fn seal(miner: &H256, context: &H256, first_sector: u64, data: &[u8]) -> Vec<u8> {
    let mut position = [0; 32];
    position[24..].copy_from_slice(&first_sector.to_be_bytes());
    let mut mask = keccak256(&[&miner.0, &context.0, &position]);
    let mut sealed = Vec::with_capacity(data.len());
    for word in data.chunks(32) {
        let mixed: Vec<u8> = word.iter().zip(mask.0).map(|(byte, mask)| byte ^ mask).collect();
        mask = keccak256(&[&mixed]);
        sealed.extend(mixed);
    }
    sealed
}

fn seal_of(load: u64, seal_index: usize, context: &H256, load_bytes: &[u8]) -> Vec<u8> {
    let first_sector = load * SECTORS_PER_LOAD as u64 + (seal_index * SECTORS_PER_SEAL) as u64;
    seal(&MINER, context, first_sector, &load_bytes[seal_index * BYTES_PER_SEAL..(seal_index + 1) * BYTES_PER_SEAL])
}

fn seals_in(mask: u64) -> impl Iterator<Item = usize> {
    (0..SEALS_PER_LOAD).filter(move |seal| mask >> seal & 1 == 1)
}

/// Seals what is asked for and stores it.
fn seal_task(store: &Store, task: SealTask, context: H256) -> Result<(), StoreError> {
    let data = store.load(task.load)?.expect("a task names a known load");
    assert_eq!(task.seals & !data.known, 0, "only known seals are to be sealed");
    let seals: Vec<(u32, H256)> = seals_in(task.seals).map(|seal| (seal as u32, context)).collect();
    let bytes =
        seals_in(task.seals).flat_map(|seal| seal_of(task.load, seal, &context, &data.bytes)).collect::<Vec<_>>();
    store.put_sealed(&MINER, &[SealedLoad { load: task.load, revision: data.revision, seals: &seals, bytes: &bytes }])
}

fn seal_everything(store: &Store) -> Vec<SealTask> {
    let tasks = store.unsealed(&MINER, 0, u64::MAX, 10_000).unwrap();
    tasks.iter().for_each(|task| seal_task(store, *task, CONTEXT).unwrap());
    tasks
}

/// Every available seal is the plain sealing of its data; returns how many there are.
fn check_seals(store: &Store) -> u32 {
    check_new_seals(store, &mut BTreeMap::new())
}

/// As [`check_seals`], without those that `checked` says were checked before; adds to it.
fn check_new_seals(store: &Store, checked: &mut BTreeMap<u64, u64>) -> u32 {
    let mut sealed = vec![0xee; BYTES_PER_LOAD];
    let mut count = 0;
    for (load, available) in store.sealed_loads(&MINER, 0..u64::MAX).unwrap() {
        let before = checked.insert(load, available).unwrap_or(0);
        if available & !before == 0 {
            continue;
        }
        let data = store.load(load).unwrap().unwrap();
        assert_eq!(store.read_sealed(&MINER, load, &mut sealed).unwrap(), available);
        for (index, bytes) in sealed.chunks(BYTES_PER_SEAL).enumerate() {
            if available >> index & 1 == 1 {
                let context = store.seal_context(load, index as u32).unwrap().unwrap();
                assert!(bytes == seal_of(load, index, &context, &data.bytes), "load {load} seal {index}");
            } else {
                assert!(bytes.iter().all(|byte| *byte == 0), "what is not available reads as zeros");
            }
        }
        count += (available & !before).count_ones();
    }
    count
}

/// The flow as plain arrays.
struct Twin {
    leaves: Vec<H256>,
    bytes: Vec<u8>,
}

impl Twin {
    fn new() -> Self {
        Twin { leaves: vec![H256::ZERO], bytes: vec![0; BYTES_PER_SECTOR] }
    }

    fn add(&mut self, start: u64, sample: &Sample) {
        self.bytes.resize(start as usize * BYTES_PER_SECTOR, 0);
        self.bytes.extend(&sample.data);
        let end = start + sample.tree.shape().padded_sectors();
        self.bytes.resize(end as usize * BYTES_PER_SECTOR, 0);
        let from = self.leaves.len() * BYTES_PER_SECTOR;
        self.leaves.extend(self.bytes[from..].chunks(BYTES_PER_SECTOR).map(sector_hash));
    }

    fn root_at(&self, length: u64) -> H256 {
        let mut leaves = self.leaves[..length as usize].to_vec();
        leaves.resize(1 << tree_height(length), zero_root(0));
        unbalanced_root(&leaves).unwrap()
    }

    fn seal_root(&self, seal: usize) -> H256 {
        unbalanced_root(&self.leaves[seal * SECTORS_PER_SEAL..(seal + 1) * SECTORS_PER_SEAL]).unwrap()
    }
}

/// Appendix A.5 of the protocol sheet: the twin that judges sealed data is itself right.
#[test]
fn plain_sealing_gives_the_seal_of_the_sheet() {
    let data: Vec<u8> = (0..BYTES_PER_SEAL).map(|i| i as u8).collect();
    let sealed = seal(&keccak256(&[b"minerId"]), &keccak256(&[b"44"]), 3 * 1024 + 11 * 16, &data);
    let digest = keccak256(&[&sealed]).to_string();
    assert_eq!(digest, "0xb269d1c2bd1d5276ef34ce34f1a1de20e4c101ed69655df653f7071a5040bb18");
}

#[test]
fn files_of_many_sizes_come_back_with_proofs_at_every_length() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let sizes = [1, 256, 300, 5_000, 262_143, 262_144, 262_145, 70_000, 100, 4_096, 3 << 20, 257, 9_000];
    let samples: Vec<Sample> = (0..).zip(sizes).map(|(seed, size)| Sample::new(size, seed)).collect();
    let mut twin = Twin::new();
    let mut lengths = vec![1];
    for sample in &samples {
        let transaction = sample.transaction(&store);
        store.append(&transaction).unwrap();
        twin.add(transaction.start, sample);
        assert_eq!(store.flow_length(), twin.leaves.len() as u64);
        assert_eq!(store.length_after(transaction.seq).unwrap(), Some(store.flow_length()));
        lengths.push(store.flow_length());
        let status = store.status(transaction.seq).unwrap().unwrap();
        assert_eq!((status.segments, status.stored, status.finalised), (sample.segments(), 0, false));
        assert!(matches!(store.finalise(transaction.seq), Err(StoreError::Incomplete { stored: 0, .. })));
    }
    // Roots are known before any data.
    for length in &lengths {
        assert_eq!(store.root_at(*length).unwrap(), twin.root_at(*length), "{length}");
    }
    assert!(store.root_at(0).is_err());
    assert!(store.root_at(store.flow_length() + 1).is_err());

    let mut uploads: Vec<(u64, u64)> =
        (0..).zip(&samples).flat_map(|(seq, sample)| (0..sample.segments()).map(move |index| (seq, index))).collect();
    uploads.shuffle(&mut StdRng::seed_from_u64(7));
    for (done, (seq, index)) in uploads.iter().enumerate() {
        let sample = &samples[*seq as usize];
        let proof = sample.tree.proof(*index).unwrap();
        assert_eq!(store.read_segment(*seq, *index).unwrap(), None);
        assert_eq!(store.segment_proof(*seq, *index).unwrap(), None);
        assert!(store.missing_segments(*seq, 0, 100).unwrap().contains(index));
        assert_eq!(store.put_segment(*seq, *index, sample.segment(*index), &proof).unwrap(), Put::Stored);
        assert_eq!(store.put_segment(*seq, *index, sample.segment(*index), &proof).unwrap(), Put::Known);
        assert!(!store.missing_segments(*seq, 0, 100).unwrap().contains(index));
        // A proof is there at once, whatever else is missing.
        assert_eq!(store.segment_proof(*seq, *index).unwrap(), Some(proof));
        if done == uploads.len() / 2 {
            drop(store);
            store = open(&dir);
        }
    }
    for seq in 0..samples.len() as u64 {
        store.finalise(seq).unwrap();
        store.finalise(seq).unwrap();
    }
    drop(store);
    let store = open(&dir);

    assert_eq!(store.next_seq(), samples.len() as u64);
    for (seq, sample) in (0..).zip(&samples) {
        let status = store.status(seq).unwrap().unwrap();
        assert_eq!((status.segments, status.stored, status.finalised), (sample.segments(), sample.segments(), true));
        assert_eq!(store.transactions_by_root(&sample.tree.root()).unwrap(), [seq]);
        for index in 0..sample.segments() {
            assert_eq!(store.read_segment(seq, index).unwrap().unwrap(), sample.segment(index));
            let proof = store.segment_proof(seq, index).unwrap().unwrap();
            proof.verify(sample.tree.shape(), &sample.tree.root(), index, sample.segment(index)).unwrap();
        }
        assert_eq!(store.read_segment(seq, sample.segments()).unwrap(), None);
    }
    // Every sector but the reserved one is known now: data, padding and gaps.
    let loads = (twin.leaves.len() as u64).div_ceil(SECTORS_PER_LOAD as u64);
    for load in 0..loads {
        let data = store.load(load).unwrap().unwrap();
        let from = load as usize * BYTES_PER_LOAD;
        let expected = &twin.bytes[from..twin.bytes.len().min(from + BYTES_PER_LOAD)];
        assert!(data.bytes[..expected.len()] == *expected, "load {load}");
        let seals = expected.len() / BYTES_PER_SEAL;
        let all = if seals == SEALS_PER_LOAD { u64::MAX } else { (1 << seals) - 1 };
        assert_eq!(data.known, if load == 0 { all & !1 } else { all }, "load {load}");
    }
    assert_eq!(store.load(loads).unwrap(), None);
    assert_eq!(store.load(u64::MAX).unwrap(), None);
    // Proofs of seals, at every length that holds them.
    for length in &lengths {
        let root = twin.root_at(*length);
        for seal in (1..*length as usize / SECTORS_PER_SEAL).step_by(23) {
            let siblings = store.seal_proof(*length, (seal * SECTORS_PER_SEAL) as u64).unwrap();
            assert_eq!(fold_siblings(twin.seal_root(seal), seal as u64, &siblings), root, "{length} {seal}");
        }
    }
    let length = store.flow_length();
    for (flow_length, position) in
        [(length + 1, 16), (length, 17), (length, length / 16 * 16 + 16), (length, u64::MAX - 15)]
    {
        assert!(matches!(store.seal_proof(flow_length, position), Err(StoreError::NoProof { .. })));
    }
}

#[test]
fn proofs_of_seals_need_only_the_data_of_their_own_file() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let mut twin = Twin::new();
    let samples: Vec<Sample> =
        (0..).zip([20_000, 9_000, 300_000, 5_000, 2 << 20]).map(|(seed, size)| Sample::new(size, seed)).collect();
    for sample in &samples {
        let transaction = sample.transaction(&store);
        store.append(&transaction).unwrap();
        twin.add(transaction.start, sample);
    }
    // One small file in a load that it shares, and one segment in the middle of the large one.
    for (seq, index) in [(1, 0), (4, 3)] {
        let sample = &samples[seq as usize];
        store.put_segment(seq, index, sample.segment(index), &sample.tree.proof(index).unwrap()).unwrap();
        let first = store.transaction(seq).unwrap().unwrap().start + index * SECTORS_PER_LOAD as u64;
        for length in [store.length_after(seq).unwrap().unwrap(), store.flow_length()] {
            let siblings = store.seal_proof(length, first + 16).unwrap();
            let seal = first as usize / 16 + 1;
            assert_eq!(fold_siblings(twin.seal_root(seal), seal as u64, &siblings), twin.root_at(length));
        }
    }
    // Nothing is invented about data that is not there.
    let missing = store.transaction(4).unwrap().unwrap().start + 5 * SECTORS_PER_LOAD as u64;
    assert!(matches!(store.seal_proof(store.flow_length(), missing), Err(StoreError::Flow(_))));
    // In the shared load, the small file and the gaps can be sealed, and neither seal 0 nor the other file, 4 to 8.
    let tasks = store.unsealed(&MINER, 0, u64::MAX, 1).unwrap();
    assert_eq!(tasks, [SealTask { load: 0, seals: !1 & !(0x1f << 4) }]);
}

#[test]
fn hostile_segments_and_transactions_are_refused() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let sample = Sample::new(BYTES_PER_LOAD * 3 + 1000, 1);
    let other = Sample::new(BYTES_PER_LOAD * 3 + 1000, 2);
    let good = sample.transaction(&store);

    let mut wrong = good.clone();
    wrong.start += 1;
    assert!(matches!(store.append(&wrong), Err(StoreError::Placement { .. })));
    let mut wrong = good.clone();
    wrong.data_root.0[0] ^= 1;
    assert!(matches!(store.append(&wrong), Err(StoreError::DataRoot { .. })));
    let mut wrong = good.clone();
    wrong.seq = 1;
    assert!(matches!(store.append(&wrong), Err(StoreError::OutOfOrder { expected: 0, got: 1 })));
    let mut wrong = good.clone();
    wrong.nodes.reverse();
    assert!(matches!(store.append(&wrong), Err(StoreError::Flow(_))));
    let mut wrong = good.clone();
    wrong.nodes[0].height = u32::MAX;
    assert!(matches!(store.append(&wrong), Err(StoreError::Flow(_))));
    wrong.nodes.clear();
    assert!(matches!(store.append(&wrong), Err(StoreError::Flow(_))));
    assert_eq!((store.flow_length(), store.next_seq()), (1, 0));

    store.append(&good).unwrap();
    store.append(&good).unwrap();
    let mut wrong = good.clone();
    wrong.size_bytes -= 1;
    assert!(matches!(store.append(&wrong), Err(StoreError::Conflict { seq: 0 })));

    let proof = sample.tree.proof(1).unwrap();
    let data = sample.segment(1);
    let refused = |seq: u64, index: u64, data: &[u8], proof: &FileProof| {
        let error = store.put_segment(seq, index, data, proof).unwrap_err();
        assert!(error.is_callers_fault(), "{error}");
    };
    refused(1, 1, data, &proof);
    refused(0, 0, data, &proof);
    refused(0, 2, data, &proof);
    refused(0, 4, data, &proof);
    refused(0, u64::MAX, data, &proof);
    refused(0, 1, &data[1..], &proof);
    refused(0, 1, &[], &proof);
    refused(0, 1, &vec![0; 2 * BYTES_PER_LOAD], &proof);
    refused(0, 1, &[data, &[0]].concat(), &proof);
    refused(0, 1, other.segment(1), &proof);
    refused(0, 1, other.segment(1), &other.tree.proof(1).unwrap());
    refused(0, 1, data, &FileProof { lemma: vec![], path: vec![] });
    refused(0, 1, data, &FileProof { lemma: vec![proof.lemma[0]; 100_002], path: vec![true; 100_000] });
    let mut changed = data.to_vec();
    changed[77] ^= 4;
    refused(0, 1, &changed, &proof);
    for at in 0..proof.lemma.len() {
        let mut proof = proof.clone();
        proof.lemma[at].0[31] ^= 1;
        refused(0, 1, data, &proof);
    }
    assert_eq!(store.status(0).unwrap().unwrap().stored, 0);
    assert!(store.status(1).unwrap().is_none());
    assert!(store.finalise(1).is_err());
    assert!(store.read_segment(9, 0).is_err());

    // Zeros that fill the last sector are no part of the file, anything else there is refused.
    let last = sample.segment(3);
    let proof = sample.tree.proof(3).unwrap();
    refused(0, 3, &[last, &[0; 23], &[1]].concat(), &proof);
    refused(0, 3, &[last, &[0; 25]].concat(), &proof);
    assert_eq!(store.put_segment(0, 3, &[last, &[0; 24]].concat(), &proof).unwrap(), Put::Stored);
    assert_eq!(store.read_segment(0, 3).unwrap().unwrap(), last);

    // A length that does not fit the nodes: the flow goes on, but no data can belong to it.
    let mut odd = other.transaction(&store);
    odd.size_bytes = 5;
    store.append(&odd).unwrap();
    assert!(matches!(
        store.put_segment(1, 0, other.segment(0), &other.tree.proof(0).unwrap()),
        Err(StoreError::NotAFile { seq: 1, size: 5 })
    ));
}

fn kib_used(dir: &Path) -> u64 {
    let used = Command::new("du").arg("-sk").arg(dir).output().unwrap().stdout;
    String::from_utf8(used).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn submissions_of_zeros_are_known_and_take_no_space() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let empty = kib_used(dir.path());
    let nodes =
        vec![SubmissionNode { root: zero_root(25), height: 25 }, SubmissionNode { root: zero_root(22), height: 22 }];
    let size = (1u64 << 25 | 1 << 22) * 256 - 100;
    let zeros = transaction(&store, size, nodes);
    store.append(&zeros).unwrap();
    assert_eq!(zeros.start, 1 << 25);
    let status = store.status(0).unwrap().unwrap();
    assert_eq!((status.stored, status.finalised), (36 << 10, true));
    let shape = zeros.shape().unwrap();
    for index in [0, 777, (32 << 10) - 1, 32 << 10, (36 << 10) - 1] {
        let data = store.read_segment(0, index).unwrap().unwrap();
        assert!(data.iter().all(|byte| *byte == 0));
        store.segment_proof(0, index).unwrap().unwrap().verify(&shape, &zeros.data_root, index, &data).unwrap();
    }
    // The gap in front of it is known too, but for the reserved sector.
    assert_eq!(store.load(0).unwrap().unwrap().known, u64::MAX - 1);
    assert_eq!(store.load(5).unwrap().unwrap().known, u64::MAX);
    let length = store.flow_length();
    for seal in [1, 70, 5 << 21, (1 << 21) - 1, 1 << 21, length / 16 - 1] {
        let siblings = store.seal_proof(length, (seal * 16) % length).unwrap();
        let seal = (seal * 16) % length / 16;
        assert_eq!(fold_siblings(zero_root(4), seal, &siblings), store.root_at(length).unwrap());
    }
    let tasks = store.unsealed(&MINER, 0, length, 3).unwrap();
    let all = u64::MAX;
    assert_eq!(
        tasks.iter().map(|task| (task.load, task.seals)).collect::<Vec<_>>(),
        [(0, all - 1), (1, all), (2, all)]
    );
    let tasks = store.unsealed(&MINER, 60_000, 61_000 * 1024 + 100, 10_000).unwrap();
    assert_eq!(tasks.len(), 1001);
    assert_eq!(tasks[1000], SealTask { load: 61_000, seals: (1 << 6) - 1 });
    let grown = kib_used(dir.path()) - empty;
    assert!(grown < 1024, "{grown} KiB for zeros");
}

#[test]
fn zeros_inside_a_file_and_in_its_padding_become_known() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    // 67 segments, padded to 72: [64, 8] loads; the second node and the padding are zeros.
    let mut sample = Sample::new(BYTES_PER_LOAD * 66 + 999, 3);
    sample.data[BYTES_PER_LOAD * 64..].fill(0);
    sample.tree = FileTree::read(*sample.tree.shape(), &sample.data[..], |_| ()).unwrap();
    let transaction = sample.transaction(&store);
    assert_eq!(transaction.nodes[1], SubmissionNode { root: zero_root(13), height: 13 });
    store.append(&transaction).unwrap();
    assert_eq!(store.status(0).unwrap().unwrap().stored, 3);
    assert_eq!(store.missing_segments(0, 60, 100).unwrap(), [60, 61, 62, 63]);
    assert_eq!(store.missing_segments(0, 0, 2).unwrap(), [0, 1]);
    for index in 0..sample.segments() {
        let put = store.put_segment(0, index, sample.segment(index), &sample.tree.proof(index).unwrap()).unwrap();
        assert_eq!(put, if index < 64 { Put::Stored } else { Put::Known });
    }
    store.finalise(0).unwrap();

    // Padding in whole segments behind data.
    let sample = Sample::new(BYTES_PER_LOAD * 66 + 999, 4);
    let seq = sample.add(&store);
    let (start, length) = (store.transaction(seq).unwrap().unwrap().start, store.flow_length());
    for segment in [66, 67, 71] {
        let load = start / 1024 + segment;
        assert_eq!(store.load(load).unwrap().unwrap().known, u64::MAX);
        let siblings = store.seal_proof(length, load * 1024 + 1008).unwrap();
        assert_eq!(fold_siblings(zero_root(4), load * 64 + 63, &siblings), store.root_at(length).unwrap());
    }
}

#[test]
fn a_cut_flow_forgets_what_was_behind_and_goes_on() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let kept = Sample::new(20_000, 1);
    kept.add(&store);
    let (length, root) = (store.flow_length(), store.root_at(store.flow_length()).unwrap());
    seal_everything(&store);
    let sealed_before = store.sealed_loads(&MINER, 0..u64::MAX).unwrap();

    let gone = Sample::new(30_000, 2);
    let large = Sample::new(700_000, 3);
    gone.add(&store);
    large.add(&store);
    seal_everything(&store);
    let stale = store.load(0).unwrap().unwrap();

    store.truncate(9).unwrap();
    assert_eq!(store.next_seq(), 3);
    store.truncate(1).unwrap();
    let check = |store: &Store| {
        assert_eq!((store.next_seq(), store.flow_length()), (1, length));
        assert_eq!(store.root_at(length).unwrap(), root);
        assert!(store.transaction(1).unwrap().is_none());
        assert!(store.transactions_by_root(&gone.tree.root()).unwrap().is_empty());
        assert_eq!(store.read_segment(0, 0).unwrap().unwrap(), kept.data);
        assert_eq!(store.sealed_loads(&MINER, 0..u64::MAX).unwrap(), sealed_before);
        assert_eq!(store.load(1).unwrap(), None);
        check_seals(store);
    };
    check(&store);

    // What was sealed from data before the cut is refused.
    let first = length.div_ceil(16) as usize;
    let bytes = seal_of(0, first, &CONTEXT, &stale.bytes);
    let seals = [(first as u32, CONTEXT)];
    let sealed = SealedLoad { load: 0, revision: stale.revision, seals: &seals, bytes: &bytes };
    assert!(matches!(store.put_sealed(&MINER, &[sealed]), Err(StoreError::Stale { load: 0 })));
    drop(store);
    let store = open(&dir);
    check(&store);

    // Another history over the same sectors.
    let instead = Sample::new(700_001, 4);
    let seq = instead.add(&store);
    assert_eq!(seq, 1);
    seal_everything(&store);
    check_seals(&store);
    let mut twin = Twin::new();
    for (seq, sample) in [(0, &kept), (1, &instead)] {
        twin.add(store.transaction(seq).unwrap().unwrap().start, sample);
    }
    assert_eq!(store.root_at(store.flow_length()).unwrap(), twin.root_at(store.flow_length()));
    store.truncate(0).unwrap();
    assert_eq!((store.next_seq(), store.flow_length(), store.root_at(1).unwrap()), (0, 1, H256::ZERO));
    assert_eq!(store.load(0).unwrap(), None);
    assert!(store.sealed_loads(&MINER, 0..u64::MAX).unwrap().is_empty());
}

#[test]
fn damaged_seals_are_found_dropped_and_sealed_anew() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    Sample::new(5 * BYTES_PER_LOAD, 1).add(&store);
    let tasks = seal_everything(&store);
    assert!(store.unsealed(&MINER, 0, u64::MAX, 100).unwrap().is_empty());
    let total = check_seals(&store);
    assert_eq!(total, tasks.iter().map(|task| task.seals.count_ones()).sum::<u32>());
    drop(store);

    let path = dir.path().join("sealed/00000000.sealed");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    // The gap in loads 0 to 3 and the file in loads 4 to 8 are sealed. Change a bit in seal 7 of load 5,
    // tear load 6 in the middle of seal 20, and put a right seal in a wrong place of load 7.
    let at = |load: u64, seal: u64| load * BYTES_PER_LOAD as u64 + seal * BYTES_PER_SEAL as u64;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at(5, 7) + 1234).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at(5, 7) + 1234).unwrap();
    file.write_all_at(&vec![0; 44 * BYTES_PER_SEAL - 2048], at(6, 20) + 2048).unwrap();
    let mut seal = vec![0; BYTES_PER_SEAL];
    file.read_exact_at(&mut seal, at(7, 1)).unwrap();
    file.write_all_at(&seal, at(7, 2)).unwrap();

    let store = open(&dir);
    let mut buffer = vec![0; BYTES_PER_LOAD];
    assert_eq!(store.read_sealed(&MINER, 5, &mut buffer).unwrap(), !(1 << 7));
    assert!(buffer[7 * BYTES_PER_SEAL..8 * BYTES_PER_SEAL].iter().all(|byte| *byte == 0));
    assert_eq!(store.seal_context(5, 7).unwrap(), None);
    assert_eq!(store.seal_context(5, 8).unwrap(), Some(CONTEXT));
    let mut seen = 0;
    assert_eq!(store.verify_sealed(&MINER, |_| seen += 1).unwrap(), 44 + 1);
    assert_eq!(seen, tasks.len());
    drop(store);
    let store = open(&dir);
    let todo = store.unsealed(&MINER, 0, u64::MAX, 100).unwrap();
    let expected = [(5, 1 << 7), (6, u64::MAX << 20), (7, 1 << 2)];
    assert_eq!(todo.iter().map(|task| (task.load, task.seals)).collect::<Vec<_>>(), expected);
    todo.iter().for_each(|task| seal_task(&store, *task, CONTEXT).unwrap());
    assert_eq!(check_seals(&store), total);

    // A file that lost its end, and one that is gone.
    file.set_len(at(8, 30)).unwrap();
    assert_eq!(store.read_sealed(&MINER, 8, &mut buffer).unwrap(), 0);
    drop(store);
    fs::remove_file(&path).unwrap();
    let store = open(&dir);
    assert!(store.verify_sealed(&MINER, |_| ()).unwrap() > 0);
    assert!(store.sealed_loads(&MINER, 0..u64::MAX).unwrap().is_empty());
    seal_everything(&store);
    assert_eq!(check_seals(&store), total);
    drop(store);
    fs::rename(dir.path().join("sealed"), dir.path().join("elsewhere")).unwrap();
    assert!(matches!(Store::open_with(dir.path(), settings()), Err(StoreError::SealedMissing { .. })));
}

#[test]
fn seals_follow_contexts_miners_and_the_contextualised_length() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    Sample::new(2 * BYTES_PER_LOAD, 1).add(&store);
    assert_eq!(store.transaction(0).unwrap().unwrap().start, 2048);
    // Only what lies wholly below the contextualised length.
    assert!(store.unsealed(&MINER, 0, 16, 10).unwrap().is_empty());
    assert_eq!(store.unsealed(&MINER, 0, 47, 10).unwrap(), [SealTask { load: 0, seals: 2 }]);
    let task = SealTask { load: 2, seals: u64::MAX };
    assert_eq!(store.unsealed(&MINER, 2, 3 * 1024, 10).unwrap(), [task]);
    seal_task(&store, task, CONTEXT).unwrap();
    assert_eq!(store.unsealed(&MINER, 2, 3 * 1024 + 33, 10).unwrap(), [SealTask { load: 3, seals: 3 }]);
    assert_eq!(store.unsealed(&MINER, 0, u64::MAX, 1).unwrap()[0].load, 0);

    // A seal of another context replaces the first; contexts that vanish take only their own seals along.
    let other = H256([0x33; 32]);
    seal_task(&store, SealTask { load: 2, seals: 0xff }, other).unwrap();
    assert_eq!(store.seal_context(2, 0).unwrap(), Some(other));
    assert_eq!(check_seals(&store), 64);
    assert_eq!(store.drop_seals_with_context(&other).unwrap(), 8);
    assert_eq!(store.drop_seals_with_context(&other).unwrap(), 0);
    assert_eq!(store.sealed_loads(&MINER, 0..100).unwrap(), [(2, u64::MAX << 8)]);
    assert_eq!(store.sealed_loads(&MINER, 0..2).unwrap(), []);
    assert_eq!(store.unsealed(&MINER, 2, u64::MAX, 1).unwrap(), [SealTask { load: 2, seals: 0xff }]);

    // Wrong seals.
    let data = store.load(3).unwrap().unwrap();
    let put = |load: u64, seals: &[(u32, H256)], bytes: &[u8]| {
        store.put_sealed(&MINER, &[SealedLoad { load, revision: data.revision, seals, bytes }])
    };
    let bytes = vec![1; 2 * BYTES_PER_SEAL];
    assert!(matches!(put(3, &[(64, CONTEXT), (0, CONTEXT)], &bytes), Err(StoreError::Seal { seal: 64, .. })));
    assert!(matches!(put(3, &[(5, CONTEXT), (5, CONTEXT)], &bytes), Err(StoreError::Seal { seal: 5, .. })));
    assert!(matches!(put(3, &[(5, CONTEXT)], &bytes), Err(StoreError::SealedLength { expected: 4096, got: 8192 })));
    assert!(matches!(put(4, &[(0, CONTEXT), (1, CONTEXT)], &bytes), Err(StoreError::Seal { load: 4, .. })));
    assert!(matches!(put(0, &[(0, CONTEXT), (1, CONTEXT)], &bytes), Err(StoreError::Seal { load: 0, seal: 0, .. })));
    assert!(matches!(put(u64::MAX, &[(0, CONTEXT), (1, CONTEXT)], &bytes), Err(StoreError::Seal { .. })));
    assert!(matches!(store.read_sealed(&MINER, 2, &mut [0; 5]), Err(StoreError::SealedLength { .. })));

    // The store is tied to one miner until its seals are discarded.
    let stranger = H256([0x44; 32]);
    assert_eq!(store.miner_id().unwrap(), Some(MINER));
    assert!(matches!(store.unsealed(&stranger, 0, 16, 10), Err(StoreError::OtherMiner { stored: MINER, .. })));
    assert!(matches!(store.put_sealed(&stranger, &[]), Err(StoreError::OtherMiner { .. })));
    assert!(matches!(store.sealed_loads(&stranger, 0..1), Err(StoreError::OtherMiner { .. })));
    store.discard_seals().unwrap();
    assert_eq!(store.miner_id().unwrap(), None);
    assert_eq!(fs::read_dir(dir.path().join("sealed")).unwrap().count(), 0);
    assert_eq!(store.unsealed(&stranger, 0, u64::MAX, 100).unwrap().len(), 4);
}

#[test]
fn many_uploads_at_once() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let samples: Vec<Sample> = (0..6).map(|seed| Sample::new(40_000 + 200_000 * seed as usize, seed)).collect();
    for sample in &samples {
        store.append(&sample.transaction(&store)).unwrap();
    }
    std::thread::scope(|scope| {
        for (seq, sample) in (0..).zip(&samples) {
            for _ in 0..2 {
                let store = store.clone();
                scope.spawn(move || {
                    for index in 0..sample.segments() {
                        store
                            .put_segment(seq, index, sample.segment(index), &sample.tree.proof(index).unwrap())
                            .unwrap();
                    }
                    store.finalise(seq).unwrap();
                });
            }
        }
        let sealer = store.clone();
        scope.spawn(move || {
            while sealer.status(5).unwrap().is_none_or(|status| !status.finalised) {
                for task in sealer.unsealed(&MINER, 0, u64::MAX, 3).unwrap() {
                    seal_task(&sealer, task, CONTEXT).unwrap();
                }
            }
        });
    });
    seal_everything(&store);
    assert!(store.unsealed(&MINER, 0, u64::MAX, 3).unwrap().is_empty());
    // A search from the start finds nothing that the remembered place would hide.
    drop(store);
    let store = open(&dir);
    assert!(store.unsealed(&MINER, 0, u64::MAX, 3).unwrap().is_empty());
    for (seq, sample) in (0..).zip(&samples) {
        for index in 0..sample.segments() {
            assert_eq!(store.read_segment(seq, index).unwrap().unwrap(), sample.segment(index));
        }
    }
    check_seals(&store);
}

#[test]
fn a_store_that_cannot_be_used_says_why() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let error = Store::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    store.put_note("progress", b"17").unwrap();
    assert!(store.put_note("progress", &vec![0; (1 << 20) + 1]).is_err());
    drop(store);
    assert_eq!(open(&dir).note("progress").unwrap().unwrap(), b"17");
    assert_eq!(open(&dir).note("other").unwrap(), None);

    let db_path = dir.path().join("db");
    let columns = rocksdb::DB::list_cf(&rocksdb::Options::default(), &db_path).unwrap();
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &db_path, &columns).unwrap();
    db.put("schema", 77u32.to_be_bytes()).unwrap();
    drop(db);
    let error = Store::open(dir.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Schema { found: 77, .. }), "{error}");

    let foreign = TempDir::new().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, foreign.path().join("db"), ["blocks"]).unwrap());
    let error = Store::open(foreign.path()).map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::NotAStore { .. }), "{error}");

    let file = foreign.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("store")).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("choose a folder") && !error.is_callers_fault(), "{error}");

    // A creation that was interrupted before the schema was written is taken up again.
    let half = TempDir::new().unwrap();
    drop(rocksdb::DB::open_cf(&options, half.path().join("db"), ["node", "extent"]).unwrap());
    assert_eq!(open(&half).flow_length(), 1);
}

#[test]
fn a_full_disk_refuses_writes_and_keeps_what_is_there() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let sample = Sample::new(BYTES_PER_LOAD, 1);
    sample.add(&store);
    drop(store);
    let full = Settings { reserve_bytes: u64::MAX / 2, ..settings() };
    let store = Store::open_with(dir.path(), full).unwrap();
    let more = Sample::new(1000, 2);
    let transaction = more.transaction(&store);
    assert!(matches!(store.append(&transaction), Err(StoreError::DiskFull { .. })));
    assert_eq!(store.next_seq(), 1);
    let data = store.load(1).unwrap().unwrap();
    let seals = [(0, CONTEXT)];
    let sealed = SealedLoad { load: 1, revision: data.revision, seals: &seals, bytes: &data.bytes[..BYTES_PER_SEAL] };
    assert!(matches!(store.put_sealed(&MINER, &[sealed]), Err(StoreError::DiskFull { .. })));
    assert_eq!(store.read_segment(0, 0).unwrap().unwrap(), sample.data);
    drop(store);
    let store = open(&dir);
    assert_eq!(more.add(&store), 1);
}

/// Runs this test binary again for one test alone, with `folder` to work in.
fn child(test: &str, folder: &Path, wrapper: &[&str]) -> Command {
    let binary = std::env::current_exe().unwrap();
    let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
    words.push(binary.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", test, "--nocapture", "--ignored"]).env("STORE_TEST_FOLDER", folder);
    command
}

fn child_folder() -> std::path::PathBuf {
    std::env::var_os("STORE_TEST_FOLDER").expect("its parent test starts it").into()
}

/// Uploads and seals to a real small disk until it is full, makes room, and goes on.
#[test]
fn a_small_disk_fills_up_and_is_freed() {
    let dir = TempDir::new().unwrap();
    let mount = format!("mount -t tmpfs -o size=64m none {} && exec \"$0\" \"$@\"", dir.path().display());
    let wrapper = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount.as_str()];
    let can_mount = Command::new("unshare")
        .args(["--map-root-user", "--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(dir.path())
        .status()
        .is_ok_and(|status| status.success());
    if !can_mount {
        eprintln!("skipped: this system lets nobody mount a small disk in a namespace of its own");
        return;
    }
    let output = child("fill_a_small_disk", dir.path(), &wrapper).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "the child of a_small_disk_fills_up_and_is_freed"]
fn fill_a_small_disk() {
    let folder = child_folder();
    let ballast = folder.join("ballast");
    fs::write(&ballast, vec![0; 24 << 20]).unwrap();
    let settings = Settings { reserve_bytes: 6 << 20, write_buffer_bytes: 2 << 20, ..Settings::default() };
    let store = Store::open_with(&folder, settings).unwrap();
    let mut samples = Vec::new();
    let upload = |samples: &mut Vec<Sample>| -> Result<(), StoreError> {
        let sample = Sample::new(3 * BYTES_PER_LOAD, samples.len() as u64);
        let transaction = sample.transaction(&store);
        let seq = samples.len() as u64;
        if store.transaction(seq)?.is_none() {
            store.append(&transaction)?;
        }
        for index in 0..sample.segments() {
            store.put_segment(seq, index, sample.segment(index), &sample.tree.proof(index).unwrap())?;
        }
        store.finalise(seq)?;
        samples.push(sample);
        Ok(())
    };
    let fill = |samples: &mut Vec<Sample>| loop {
        if let Err(error) = upload(samples) {
            assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
            return samples.len();
        }
    };
    let check = |samples: &[Sample]| {
        for (seq, sample) in (0..).zip(samples) {
            assert!(store.status(seq).unwrap().unwrap().finalised);
            for index in 0..sample.segments() {
                assert_eq!(store.read_segment(seq, index).unwrap().unwrap(), sample.segment(index));
            }
        }
    };
    let first = fill(&mut samples);
    assert!(first > 3, "{first}");
    check(&samples);
    fs::remove_file(&ballast).unwrap();
    let second = fill(&mut samples);
    assert!(second > first, "{second} after {first}");
    check(&samples);
}

/// Prints how fast segments and seals are stored; run with `--ignored --nocapture`.
#[test]
#[ignore = "measures; run it alone"]
fn throughput() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let sample = Sample::new(128 << 20, 1);
    let proofs: Vec<FileProof> = (0..sample.segments()).map(|index| sample.tree.proof(index).unwrap()).collect();
    let mib = (sample.data.len() >> 20) as f64;
    let rate = |what: &str, start: Instant| println!("{what}: {:.0} MiB/s", mib / start.elapsed().as_secs_f64());

    let start = Instant::now();
    for (index, proof) in (0..).zip(&proofs) {
        proof.verify(sample.tree.shape(), &sample.tree.root(), index, sample.segment(index)).unwrap();
    }
    rate("verify alone, 1 thread", start);
    for threads in [1, 4] {
        let transaction = sample.transaction(&store);
        store.append(&transaction).unwrap();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (store, sample, proofs) = (&store, &sample, &proofs);
                scope.spawn(move || {
                    for index in (thread..sample.segments()).step_by(threads as usize) {
                        store
                            .put_segment(transaction.seq, index, sample.segment(index), &proofs[index as usize])
                            .unwrap();
                    }
                });
            }
        });
        rate(&format!("put_segment, {threads} threads"), start);
        store.finalise(transaction.seq).unwrap();
    }
    let first = store.transaction(0).unwrap().unwrap().start / SECTORS_PER_LOAD as u64;
    let seals: Vec<(u32, H256)> = (0..SEALS_PER_LOAD as u32).map(|seal| (seal, CONTEXT)).collect();
    for at_once in [1, 64] {
        let start = Instant::now();
        for batch in (first..).zip(sample.data.chunks(BYTES_PER_LOAD)).collect::<Vec<_>>().chunks(at_once) {
            let loads: Vec<SealedLoad<'_>> = batch
                .iter()
                .map(|(load, bytes)| SealedLoad {
                    load: load + 512 * (at_once as u64 / 64),
                    revision: 0,
                    seals: &seals,
                    bytes,
                })
                .collect();
            store.put_sealed(&MINER, &loads).unwrap();
        }
        rate(&format!("put_sealed, {at_once} loads a call"), start);
    }
    let mut buffer = vec![0; BYTES_PER_LOAD];
    let start = Instant::now();
    for (load, bytes) in (first..).zip(sample.data.chunks(BYTES_PER_LOAD)) {
        assert_eq!(store.read_sealed(&MINER, load, &mut buffer).unwrap(), u64::MAX);
        assert!(buffer == bytes);
    }
    rate("read_sealed with checksums", start);
    let start = Instant::now();
    for load in first..first + 512 {
        assert_eq!(store.load(load).unwrap().unwrap().known, u64::MAX);
    }
    rate("load", start);
}

/// Prints how fast a narrower shard frees 1 GiB of data and its seals, and how much of the disk; run with
/// `--ignored --nocapture`.
#[test]
#[ignore = "measures; run it alone"]
fn dropping_half_of_two_gib() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut sample = Sample::new(256 << 20, 1);
    for turn in 0..8u8 {
        sample.data.iter_mut().for_each(|byte| *byte ^= turn);
        sample.tree = FileTree::read(*sample.tree.shape(), &sample.data[..], |_| ()).unwrap();
        sample.add(&store);
    }
    let first = store.transaction(0).unwrap().unwrap().start / SECTORS_PER_LOAD as u64;
    let seals: Vec<(u32, H256)> = (0..SEALS_PER_LOAD as u32).map(|seal| (seal, CONTEXT)).collect();
    let bytes = sample.segment(0);
    for from in (first..first + 8192).step_by(64) {
        let loads: Vec<SealedLoad<'_>> =
            (from..from + 64).map(|load| SealedLoad { load, revision: 0, seals: &seals, bytes }).collect();
        store.put_sealed(&MINER, &loads).unwrap();
    }
    println!("before: {} loads, {} MiB on disk", store.used_loads().unwrap(), kib_used(dir.path()) >> 10);
    let start = Instant::now();
    store.used_loads().unwrap();
    println!("used_loads: {:?}", start.elapsed());
    store.set_shard(zgpu_core::shard::Shard::new(1, 2).unwrap()).unwrap();
    for limit in [2048, 2048, 1] {
        let start = Instant::now();
        let dropped = store.drop_outside_shard(limit).unwrap();
        println!(
            "drop_outside_shard: {dropped} loads in {:?}, {} MiB on disk",
            start.elapsed(),
            kib_used(dir.path()) >> 10
        );
    }
}
