//! Random work against a plain model of the flow, its files and what is kept of them.

use zgpu_core::shard::Shard;

use super::{
    chunks::{Peer, put, segment_range},
    *,
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;
const STEPS: usize = 160;

/// A transaction, and what the store should have of its file.
#[derive(Clone)]
struct File {
    sample: usize,
    start: u64,
    end: u64,
    /// Segments on disk, in the shard or left over.
    stored: BTreeSet<u64>,
    finalised: bool,
}

/// Everything that the store should know, in plain collections.
struct Model {
    files: Vec<File>,
    shard: Shard,
    pruned: u64,
    /// By sample: segments of files that were cut off.
    reverted: BTreeMap<usize, BTreeSet<u64>>,
    /// Leaves of the whole flow, and the root after each transaction.
    twin: Twin,
    roots: Vec<H256>,
}

impl Model {
    fn new() -> Self {
        Model {
            files: Vec::new(),
            shard: Shard::WHOLE,
            pruned: 0,
            reverted: BTreeMap::new(),
            twin: Twin::new(),
            roots: Vec::new(),
        }
    }

    fn keeps(&self, load: u64) -> bool {
        self.shard.contains(load) && load * PER_LOAD >= self.pruned
    }

    fn is_pruned(&self, file: &File) -> bool {
        file.start < self.pruned
    }

    fn wanted(&self, file: &File, sample: &Sample) -> Vec<u64> {
        (0..sample.segments()).filter(|index| self.keeps(file.start / PER_LOAD + index)).collect()
    }

    fn is_complete(&self, file: &File, sample: &Sample) -> bool {
        self.wanted(file, sample).iter().all(|index| file.stored.contains(index))
    }

    fn append(&mut self, transaction: &Transaction, which: usize, sample: &Sample) {
        let (start, end) = (transaction.start, transaction.end());
        let mut file = File { sample: which, start, end, stored: BTreeSet::new(), finalised: false };
        if !self.is_pruned(&file) {
            let wanted = self.wanted(&file, sample);
            if let Some(kept) = self.reverted.remove(&which) {
                file.stored = kept.into_iter().filter(|index| wanted.contains(index)).collect();
            }
            file.finalised = self.is_complete(&file, sample);
        }
        self.files.push(file);
        self.twin.add(start, sample);
        self.roots.push(self.twin.root_at(end));
    }

    fn truncate(&mut self, from: usize) {
        for file in self.files.drain(from..) {
            if file.start >= self.pruned && !file.stored.is_empty() {
                self.reverted.entry(file.sample).or_insert(file.stored);
            }
        }
        let length = self.files.last().map_or(1, |file| file.end) as usize;
        self.twin.leaves.truncate(length);
        self.twin.bytes.truncate(length * BYTES_PER_SECTOR);
        self.roots.truncate(from);
    }

    fn put(&mut self, seq: usize, index: u64) -> Put {
        let load = self.files[seq].start / PER_LOAD + index;
        if self.files[seq].stored.contains(&index) {
            return Put::Known;
        }
        if !self.keeps(load) {
            return Put::Outside;
        }
        self.files[seq].stored.insert(index);
        Put::Stored
    }

    /// Narrows the shard: more files are complete.
    fn narrow(&mut self, shard: Shard, samples: &[Sample]) {
        self.shard = shard;
        self.finalise_complete(samples);
    }

    fn finalise_complete(&mut self, samples: &[Sample]) {
        for seq in 0..self.files.len() {
            let file = &self.files[seq];
            if !self.is_pruned(file) && self.is_complete(file, &samples[file.sample]) {
                self.files[seq].finalised = true;
            }
        }
    }

    /// Data of a file that was cut off goes to another transaction of it that waits.
    fn reopen(&mut self, samples: &[Sample]) {
        for seq in 0..self.files.len() {
            let file = self.files[seq].clone();
            if file.finalised || self.is_pruned(&file) {
                continue;
            }
            let Some(kept) = self.reverted.remove(&file.sample) else { continue };
            let wanted = self.wanted(&file, &samples[file.sample]);
            self.files[seq].stored.extend(kept.into_iter().filter(|index| wanted.contains(index)));
            self.files[seq].finalised = self.is_complete(&self.files[seq], &samples[file.sample]);
        }
    }

    fn sweep(&mut self) {
        let (shard, pruned) = (self.shard, self.pruned);
        for file in &mut self.files {
            let first = file.start / PER_LOAD;
            file.stored.retain(|index| shard.contains(first + index) && (first + index) * PER_LOAD >= pruned);
        }
    }
}

fn check(store: &Store, model: &Model, samples: &[Sample], random: &mut StdRng) {
    assert_eq!((store.next_seq(), store.shard()), (model.files.len() as u64, model.shard));
    assert_eq!(store.flow_length(), model.twin.leaves.len() as u64);
    let waiting: Vec<u64> = (0..)
        .zip(&model.files)
        .filter(|(_, file)| !model.is_pruned(file) && !file.finalised)
        .map(|(seq, _)| seq)
        .collect();
    assert_eq!(store.unfinished(0, 1000).unwrap(), waiting);
    for (seq, file) in (0..).zip(&model.files) {
        let sample = &samples[file.sample];
        let status = store.status(seq).unwrap().unwrap();
        let is_pruned = model.is_pruned(file);
        assert_eq!((status.finalised, status.pruned), (file.finalised && !is_pruned, is_pruned), "file {seq}");
        let wanted = model.wanted(file, sample);
        let missing: Vec<u64> = wanted.iter().copied().filter(|index| !file.stored.contains(index)).collect();
        if is_pruned {
            assert!(store.missing_segments(seq, 0, 99).unwrap().is_empty());
        } else {
            assert_eq!((status.segments, status.stored), (wanted.len() as u64, (wanted.len() - missing.len()) as u64));
            assert_eq!(store.missing_segments(seq, 0, 99).unwrap(), missing);
        }
        for index in 0..sample.segments() {
            let expected = file.stored.contains(&index).then(|| sample.segment(index));
            assert_eq!(store.read_segment(seq, index).unwrap().as_deref(), expected, "file {seq} segment {index}");
            assert_eq!(
                store.segment_proof(seq, index).unwrap(),
                expected.map(|_| sample.tree.proof(index).unwrap()),
                "file {seq} segment {index}"
            );
        }
        let length = store.length_after(seq).unwrap().unwrap();
        assert_eq!(store.root_at(length).unwrap(), model.roots[seq as usize]);
        // Proofs of some stored sector at some later length.
        if let Some(index) = file.stored.first() {
            let range = segment_range(sample, *index);
            let sector = file.start + random.random_range(range);
            let root_seq = random.random_range(seq as usize..model.files.len());
            let length = store.length_after(root_seq as u64).unwrap().unwrap();
            let proof = store.sector_proof(length, sector).unwrap();
            assert_eq!(proof.leaf, model.twin.leaves[sector as usize]);
            assert_eq!(proof.root(sector), model.roots[root_seq]);
        }
    }
    // What is known of a load is right, and only what is kept is to be sealed.
    let loads = store.flow_length().div_ceil(PER_LOAD);
    let load = random.random_range(0..loads);
    if let Some(data) = store.load(load).unwrap() {
        for range in data.known_ranges() {
            let from = load as usize * BYTES_PER_LOAD + range.start * BYTES_PER_SECTOR;
            let bytes = &data.bytes[range.start * BYTES_PER_SECTOR..range.end * BYTES_PER_SECTOR];
            assert!(*bytes == model.twin.bytes[from..from + bytes.len()], "load {load}");
        }
    }
    for task in store.unsealed(&MINER, 0, u64::MAX, 1000).unwrap() {
        assert!(model.keeps(task.load), "{task:?}");
    }
    let used: BTreeSet<u64> = model
        .files
        .iter()
        .flat_map(|file| file.stored.iter().map(|index| file.start / PER_LOAD + index))
        .chain(store.sealed_loads(&MINER, 0..u64::MAX).unwrap().into_iter().map(|(load, _)| load))
        .collect();
    let counted = store.used_loads().unwrap();
    if store.has_leftovers() {
        // Seals that are not kept count as long as they are there.
        assert!(counted >= used.len() as u64);
    } else {
        assert_eq!(counted, used.len() as u64);
    }
}

#[test]
fn random_work_leaves_what_the_model_says() {
    let sizes =
        [1, 255, 256, 257, 5000, 90_000, 17 * 256 + 1, 262_143, 262_144, 262_145, 500_000, 1_400_000, 1_025 * 256];
    let samples: Vec<Sample> = (0..).zip(sizes).map(|(seed, size)| Sample::new(size, seed)).collect();
    for seed in 0..3 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir);
        let mut model = Model::new();
        for step in 0..STEPS {
            let files = model.files.len();
            let seq = if files == 0 { 0 } else { random.random_range(0..files) };
            match random.random_range(0..100) {
                // Few files, so that the same ones come again and again.
                _ if files == 0 => append(&store, &mut model, &samples, &mut random),
                0..20 => append(&store, &mut model, &samples, &mut random),
                20..50 => upload(&store, &mut model, &samples, seq, &mut random),
                50..65 => sync(&store, &mut model, &samples, seq, &mut random),
                65..75 => {
                    let file = &model.files[seq];
                    let is_ready = !model.is_pruned(file) && model.is_complete(file, &samples[file.sample]);
                    assert_eq!(store.finalise(seq as u64).is_ok(), is_ready);
                    model.files[seq].finalised |= is_ready;
                }
                75..83 => copy(&store, &mut model, &samples, seq, &mut random),
                83..88 => {
                    let from = files - random.random_range(1..=files.min(4));
                    store.truncate(from as u64).unwrap();
                    model.truncate(from);
                }
                88..90 if model.shard.count < 4 => {
                    let half = model.shard.halves().unwrap()[random.random_range(0..2)];
                    store.set_shard(half).unwrap();
                    model.narrow(half, &samples);
                }
                90..92 => {
                    if store.has_leftovers() {
                        model.finalise_complete(&samples);
                    }
                    while store.drop_outside_shard(random.random_range(1..9)).unwrap() > 0 {}
                    model.sweep();
                }
                92..94 if step > STEPS / 2 => {
                    let sector = random.random_range(0..=store.flow_length() / 3);
                    let pruned = sector / PER_LOAD * PER_LOAD;
                    if store.has_leftovers() || pruned > model.pruned {
                        model.pruned = model.pruned.max(pruned);
                        model.finalise_complete(&samples);
                    }
                    while store.prune_below(sector, 3).unwrap() > 0 {}
                    model.sweep();
                }
                94..97 => {
                    seal_everything(&store);
                    check_seals(&store);
                }
                _ => {
                    drop(store);
                    store = open(&dir);
                    model.reopen(&samples);
                }
            }
            if step % 4 == 0 {
                check(&store, &model, &samples, &mut random);
            }
        }
        check(&store, &model, &samples, &mut random);
    }
}

fn append(store: &Store, model: &mut Model, samples: &[Sample], random: &mut StdRng) {
    let which = random.random_range(0..samples.len());
    let transaction = samples[which].transaction(store);
    store.append(&transaction).unwrap();
    model.append(&transaction, which, &samples[which]);
}

fn upload(store: &Store, model: &mut Model, samples: &[Sample], seq: usize, random: &mut StdRng) {
    let sample = &samples[model.files[seq].sample];
    for _ in 0..random.random_range(1..=sample.segments()) {
        let index = random.random_range(0..sample.segments());
        let put = store.put_segment(seq as u64, index, sample.segment(index), &sample.tree.proof(index).unwrap());
        match model.is_pruned(&model.files[seq]) {
            true => assert!(matches!(put, Err(StoreError::Pruned { .. }))),
            false => assert_eq!(put.unwrap(), model.put(seq, index), "file {seq} segment {index}"),
        }
    }
}

/// Takes a segment as a peer gives it.
fn sync(store: &Store, model: &mut Model, samples: &[Sample], seq: usize, random: &mut StdRng) {
    let (sample, start) = (&samples[model.files[seq].sample], model.files[seq].start);
    let mut peer = Peer::of(store);
    peer.take(start, sample);
    let index = random.random_range(0..sample.segments());
    let root_seq = random.random_range(seq..model.files.len()) as u64;
    let chunks = peer.chunks(start, sample, segment_range(sample, index), root_seq);
    let length = peer.length_after(root_seq);
    match model.is_pruned(&model.files[seq]) {
        true => assert!(matches!(put(store, seq as u64, &chunks, length), Err(StoreError::Pruned { .. }))),
        false => assert_eq!(put(store, seq as u64, &chunks, length).unwrap(), model.put(seq, index)),
    }
    // What is stored is given on as the peer gives it.
    let given = store.chunks(seq as u64, segment_range(sample, index), root_seq).unwrap();
    assert_eq!(given, model.files[seq].stored.contains(&index).then_some(chunks));
}

/// Copies a file to another transaction of it.
fn copy(store: &Store, model: &mut Model, samples: &[Sample], from: usize, random: &mut StdRng) {
    let which = model.files[from].sample;
    let twins: Vec<usize> = (0..model.files.len()).filter(|seq| model.files[*seq].sample == which).collect();
    let to = twins[random.random_range(0..twins.len())];
    let source = model.files[from].clone();
    let can = source.finalised && !model.is_pruned(&source) && !model.is_pruned(&model.files[to]);
    if can {
        for index in model.wanted(&model.files[to], &samples[which]) {
            if source.stored.contains(&index) {
                model.files[to].stored.insert(index);
            }
        }
        model.files[to].finalised |= model.is_complete(&model.files[to], &samples[which]);
    }
    let is_done = can && model.files[to].finalised;
    assert_eq!(store.copy_file(from as u64, to as u64).unwrap(), is_done);
}
