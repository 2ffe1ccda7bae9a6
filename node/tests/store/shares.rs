//! Stores that keep a part of the flow: shards, and what is pruned.

use zgpu_core::shard::Shard;

use super::{chunks::Peer, *};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;

fn shard(id: u64, count: u64) -> Shard {
    Shard::new(id, count).unwrap()
}

/// Numbers of the segments of a file that lie in a shard.
fn inside(store: &Store, seq: u64, sample: &Sample, shard: Shard) -> Vec<u64> {
    let first = store.transaction(seq).unwrap().unwrap().start / PER_LOAD;
    (0..sample.segments()).filter(|index| shard.contains(first + index)).collect()
}

/// Hands in every segment, whether the store wants it or not.
fn offer(store: &Store, seq: u64, sample: &Sample) -> Vec<Put> {
    let put = |index| store.put_segment(seq, index, sample.segment(index), &sample.tree.proof(index).unwrap()).unwrap();
    (0..sample.segments()).map(put).collect()
}

#[test]
fn files_are_complete_with_the_segments_of_the_shard() {
    let sectors = [1, 255, 256, 257, 960, 1023, 1024, 1025, 2048, 5000, 16385];
    let mut sizes: Vec<usize> = sectors.iter().flat_map(|sectors| [sectors * 256 - 1, sectors * 256 + 1]).collect();
    sizes.push(1);
    let samples: Vec<Sample> = (0..).zip(sizes).map(|(seed, size)| Sample::new(size, seed)).collect();
    let shards = [shard(0, 2), shard(1, 2), shard(0, 4), shard(1, 4), shard(2, 4), shard(3, 4), Shard::WHOLE];
    let mut known: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for shard in shards {
        let dir = TempDir::new().unwrap();
        let mut store = open(&dir);
        store.set_shard(shard).unwrap();
        for sample in &samples {
            store.append(&sample.transaction(&store)).unwrap();
        }
        drop(store);
        store = open(&dir);
        assert_eq!(store.shard(), shard);
        let mut events = store.watch_finalised();
        let mut used = BTreeSet::new();
        for (seq, sample) in (0..).zip(&samples) {
            let wanted = inside(&store, seq, sample, shard);
            let first = store.transaction(seq).unwrap().unwrap().start / PER_LOAD;
            used.extend(wanted.iter().map(|index| first + index));
            assert_eq!(store.missing_segments(seq, 0, 100).unwrap(), wanted);
            assert_eq!(
                store.missing_segments(seq, 1, 1).unwrap(),
                wanted.iter().copied().filter(|index| *index > 0).take(1).collect::<Vec<_>>()
            );
            let status = store.status(seq).unwrap().unwrap();
            assert_eq!((status.segments, status.stored), (wanted.len() as u64, 0));
            // Nothing to wait for: finalised with the transaction.
            assert_eq!(status.finalised, wanted.is_empty());
            assert_eq!(store.unfinished(seq, 1).unwrap().first() == Some(&seq), !wanted.is_empty());
            let puts = offer(&store, seq, sample);
            for (index, put) in (0..).zip(puts) {
                let is_inside = wanted.contains(&index);
                assert_eq!(put, if is_inside { Put::Stored } else { Put::Outside });
                assert!(!store.wants_segment(seq, index).unwrap());
                assert_eq!(store.has_segment(seq, index).unwrap(), is_inside);
                let data = store.read_segment(seq, index).unwrap();
                assert_eq!(data.as_deref(), is_inside.then(|| sample.segment(index)));
                assert_eq!(
                    store.segment_proof(seq, index).unwrap(),
                    is_inside.then(|| sample.tree.proof(index).unwrap())
                );
            }
            // A lie about a segment that is not wanted is refused all the same.
            let mut wrong = sample.segment(0).to_vec();
            wrong[0] ^= 1;
            assert!(store.put_segment(seq, 0, &wrong, &sample.tree.proof(0).unwrap()).is_err());
            store.finalise(seq).unwrap();
            assert!(store.is_finalised(seq).unwrap());
            assert_eq!(events.try_recv().ok(), (!wanted.is_empty()).then_some(seq));
        }
        assert!(store.unfinished(0, 10).unwrap().is_empty());
        assert_eq!(store.used_loads().unwrap(), used.len() as u64);
        let tasks = store.unsealed(&MINER, 0, u64::MAX, 10_000).unwrap();
        assert!(tasks.iter().all(|task| shard.contains(task.load)));
        for task in &tasks {
            known.entry(task.load).or_default().push(task.seals);
        }
        for task in tasks.iter().rev().take(10) {
            seal_task(&store, *task, CONTEXT).unwrap();
        }
        let sealed = store.sealed_loads(&MINER, 0..u64::MAX).unwrap();
        assert!(sealed.iter().map(|(load, _)| load).eq(tasks[tasks.len() - 10..].iter().map(|task| &task.load)));
        check_seals(&store);
        // Seals of other shards are not taken, even of zeros that are known.
        if shard.count > 1 {
            let load = (0..).find(|load| !shard.contains(*load)).unwrap();
            let data = store.load(load).unwrap().unwrap();
            let seals = [(3, CONTEXT)];
            let sealed = SealedLoad { load, revision: data.revision, seals: &seals, bytes: &[0; BYTES_PER_SEAL] };
            assert!(matches!(store.put_sealed(&MINER, &[sealed]), Err(StoreError::Seal { .. })));
        }
        // Proofs do not depend on what is kept.
        let length = store.flow_length();
        let root = store.root_at(length).unwrap();
        for load in used {
            let sector = load * PER_LOAD + 5 * 16;
            if sector < length && store.load(load).unwrap().unwrap().known >> 5 & 1 == 1 {
                assert_eq!(store.sector_proof(length, sector).unwrap().root(sector), root);
            }
        }
    }
    // Two halves, four quarters and the whole know the same of each load, padding and gaps too.
    assert!(known.values().all(|masks| masks.len() == 3 && masks.iter().all(|mask| *mask == masks[0])), "{known:?}");
}

/// Padding in whole loads is known from a proof of the last segment alone; without one, nothing is claimed about it.
#[test]
fn padding_of_other_shards_is_known_when_it_was_shown() {
    let sample = Sample::new(16385 * 256, 1);
    for is_shown in [true, false] {
        let dir = TempDir::new().unwrap();
        let store = open(&dir);
        store.set_shard(shard(1, 2)).unwrap();
        store.append(&sample.transaction(&store)).unwrap();
        let first = store.transaction(0).unwrap().unwrap().start / PER_LOAD;
        assert!(first.is_multiple_of(2), "segment 16 is the last and lies outside, segment 17 is padding");
        for index in (0..17).filter(|index| is_shown || index % 2 == 1) {
            store.put_segment(0, index, sample.segment(index), &sample.tree.proof(index).unwrap()).unwrap();
        }
        store.finalise(0).unwrap();
        let known = store.load(first + 17).unwrap().map_or(0, |load| load.known);
        assert_eq!(known, if is_shown { u64::MAX } else { 0 });
    }
}

#[test]
fn a_narrower_shard_frees_what_lies_outside() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let samples: Vec<Sample> = (0..)
        .zip([64 * BYTES_PER_LOAD, 5000, 3 * BYTES_PER_LOAD, 300])
        .map(|(seed, size)| Sample::new(size, seed))
        .collect();
    for sample in &samples[..2] {
        sample.add(&store);
    }
    // Two segments of the third file, one of either half; nothing of the fourth.
    let transaction = samples[2].transaction(&store);
    store.append(&transaction).unwrap();
    for index in [0, 2] {
        store.put_segment(2, index, samples[2].segment(index), &samples[2].tree.proof(index).unwrap()).unwrap();
    }
    store.append(&samples[3].transaction(&store)).unwrap();
    seal_everything(&store);
    let (used, kib) = (store.used_loads().unwrap(), kib_used(dir.path()));
    assert_eq!(store.drop_outside_shard(100).unwrap(), 0);

    // The half with segments 0 and 2 of the third file: it is complete now.
    let half = shard(transaction.start / PER_LOAD % 2, 2);
    let fourth = store.transaction(3).unwrap().unwrap().start / PER_LOAD;
    let mut shards = store.watch_shard();
    let mut events = store.watch_finalised();
    let revision = store.revision();
    store.set_shard(half).unwrap();
    assert_eq!((store.shard(), *shards.borrow_and_update()), (half, half));
    assert!(store.revision() > revision && store.has_leftovers());
    assert_eq!(events.try_recv(), Ok(2));
    assert_eq!(store.is_finalised(3).unwrap(), !half.contains(fourth));
    // Neither sealed nor mined any more, before anything is deleted.
    let sealed = store.sealed_loads(&MINER, 0..u64::MAX).unwrap();
    assert!(sealed.iter().all(|(load, _)| half.contains(*load)) && sealed.len() > 30);
    for wrong in [Shard::WHOLE, shard(1 - half.id, 2), shard(1 - half.id, 4)] {
        let error = store.set_shard(wrong).unwrap_err();
        assert!(matches!(error, StoreError::WiderShard { .. }) && error.is_callers_fault(), "{error}");
    }
    assert!(matches!(store.set_shard(Shard { id: 2, count: 2 }), Err(StoreError::Shard(_))));

    let mut dropped = 0;
    for step in 0.. {
        if step == 3 {
            drop(store);
            store = open(&dir);
            assert!(store.has_leftovers());
        }
        match store.drop_outside_shard(5).unwrap() {
            0 => break,
            count => dropped += count,
        }
        assert!(step < 100);
    }
    assert!(!store.has_leftovers());
    assert_eq!(store.used_loads().unwrap(), used - dropped);
    // The gap in front of the first file was sealed as well: 32 loads of it, as many of the file, and one of the third.
    assert_eq!(dropped, 65);
    for (seq, sample) in (0..3).zip(&samples) {
        let kept = inside(&store, seq, sample, half);
        for index in 0..sample.segments() {
            let expected = (kept.contains(&index) && !(seq == 2 && index == 1)).then(|| sample.segment(index));
            assert_eq!(store.read_segment(seq, index).unwrap().as_deref(), expected);
        }
    }
    check_seals(&store);
    assert_eq!(store.verify_sealed(&MINER, |_| ()).unwrap(), 0);
    // Data and sealed bytes of 32 loads are 16 MiB. The database deletes its files a little later.
    let deadline = Instant::now() + Duration::from_secs(60);
    while kib_used(dir.path()) + (14 << 10) > kib {
        assert!(Instant::now() < deadline, "{} KiB of {kib} are still used", kib_used(dir.path()));
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(store);
    let store = open(&dir);
    assert_eq!((store.shard(), store.has_leftovers()), (half, false));
    assert_eq!(store.drop_outside_shard(5).unwrap(), 0);
}

#[test]
fn what_is_pruned_stays_so() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let early: Vec<Sample> = (0..4).map(|seed| Sample::new(300_000 + seed as usize, seed)).collect();
    for sample in &early[..3] {
        sample.add(&store);
    }
    store.append(&early[3].transaction(&store)).unwrap();
    seal_everything(&store);
    // A pricing chunk of zeros, and a file behind it.
    let nodes = vec![SubmissionNode { root: zero_root(25), height: 25 }];
    store.append(&transaction(&store, 256 << 25, nodes)).unwrap();
    let late = Sample::new(600_000, 9);
    let late_seq = late.add(&store);
    let task = store.unsealed(&MINER, (1 << 16) - 2, u64::MAX, 4).unwrap();
    task.iter().for_each(|task| seal_task(&store, *task, CONTEXT).unwrap());
    assert_eq!(fs::read_dir(dir.path().join("sealed")).unwrap().count(), 3);
    let lengths: Vec<u64> = (0..store.next_seq()).map(|seq| store.length_after(seq).unwrap().unwrap()).collect();
    let roots: Vec<H256> = lengths.iter().map(|length| store.root_at(*length).unwrap()).collect();

    // In front of the third file's load, rounded down; then the rest of the pricing chunk.
    let third = store.transaction(2).unwrap().unwrap().start;
    assert!(store.prune_below(third + 700, 100).unwrap() > 0);
    let pruned = |store: &Store| (0..store.next_seq()).filter(|seq| store.is_pruned(*seq).unwrap()).collect::<Vec<_>>();
    assert_eq!((pruned(&store), store.pruned_below()), (vec![0, 1], third));
    assert_eq!(store.unfinished(0, 9).unwrap(), [3]);
    let mut steps = 0;
    while store.prune_below(1 << 25, 1).unwrap() > 0 {
        steps += 1;
        if steps == 1 {
            drop(store);
            store = open(&dir);
        }
    }
    assert!(steps > 1);
    let check = |store: &Store| {
        assert_eq!(pruned(store), [0, 1, 2, 3]);
        assert!(store.unfinished(0, 9).unwrap().is_empty());
        for (seq, sample) in (0..4).zip(&early) {
            let status = store.status(seq).unwrap().unwrap();
            assert!(status.pruned && !status.finalised && !store.is_finalised(seq).unwrap());
            assert_eq!(store.transactions_by_root(&sample.tree.root()).unwrap(), [seq]);
            assert_eq!(store.read_segment(seq, 0).unwrap(), None);
            assert!(store.missing_segments(seq, 0, 9).unwrap().is_empty());
            let refused = store.put_segment(seq, 0, sample.segment(0), &sample.tree.proof(0).unwrap());
            assert!(matches!(refused, Err(StoreError::Pruned { .. })));
            assert!(matches!(store.finalise(seq), Err(StoreError::Pruned { .. })));
            assert!(!store.wants_segment(seq, 0).unwrap());
        }
        let status = store.status(late_seq).unwrap().unwrap();
        assert!(status.finalised && !status.pruned);
        assert_eq!(store.read_segment(late_seq, 1).unwrap().unwrap(), late.segment(1));
        assert!(store.sealed_loads(&MINER, 0..1 << 15).unwrap().is_empty());
        let unsealed = store.unsealed(&MINER, 0, u64::MAX, 1).unwrap();
        assert!(unsealed.iter().all(|task| task.load >= 1 << 15));
        for (length, root) in lengths.iter().zip(&roots) {
            assert_eq!(store.root_at(*length).unwrap(), *root);
        }
        let sector = store.transaction(late_seq).unwrap().unwrap().start + 17;
        assert_eq!(store.sector_proof(lengths[5], sector).unwrap().root(sector), roots[5]);
    };
    check(&store);
    assert_eq!(fs::read_dir(dir.path().join("sealed")).unwrap().count(), 2, "the file of the chunk is gone");
    assert_eq!(store.prune_below(0, 9).unwrap(), 0);
    drop(store);
    let store = open(&dir);
    check(&store);

    // The chain takes it all back; what it shows again there is pruned as well, and gets nothing back.
    store.truncate(2).unwrap();
    assert_eq!(pruned(&store), [0, 1]);
    let again = early[2].transaction(&store);
    store.append(&again).unwrap();
    assert_eq!(pruned(&store), [0, 1, 2]);
    assert!(store.unfinished(0, 9).unwrap().is_empty());
    assert!(matches!(store.finalise(2), Err(StoreError::Pruned { seq: 2 })));
    assert!(!store.copy_file(2, 2).unwrap());
    let mut peer = Peer::of(&store);
    peer.take(again.start, &early[2]);
    let chunks = peer.chunks(again.start, &early[2], 0..1024, 2);
    assert!(matches!(super::chunks::put(&store, 2, &chunks, store.flow_length()), Err(StoreError::Pruned { .. })));
}

#[test]
fn twins_share_their_data_as_far_as_the_shard_has_it() {
    let sample = Sample::new(5 * BYTES_PER_LOAD + 100, 1);
    let small = Sample::new(9000, 2);
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    store.set_shard(shard(0, 2)).unwrap();
    for sample in [&sample, &small, &sample, &small, &sample] {
        store.append(&sample.transaction(&store)).unwrap();
    }
    // Files of 6 segments start on multiples of 4 loads.
    let seqs = [0, 2, 4];
    offer(&store, 0, &sample);
    assert!(!store.copy_file(0, 2).unwrap(), "it is not finalised");
    store.finalise(0).unwrap();
    for seq in [2, 4] {
        assert!(store.copy_file(0, seq).unwrap());
    }
    for seq in seqs {
        let kept = inside(&store, seq, &sample, store.shard());
        assert_eq!(kept, [0, 2, 4]);
        for index in 0..6 {
            let expected = kept.contains(&index).then(|| sample.segment(index));
            assert_eq!(store.read_segment(seq, index).unwrap().as_deref(), expected);
        }
    }
    // A twin that lies in the other shard is finalised and has nothing to give.
    let loads: Vec<u64> = [1, 3].map(|seq| store.transaction(seq).unwrap().unwrap().start / PER_LOAD).to_vec();
    assert!(loads.iter().all(|load| !load.is_multiple_of(2)), "{loads:?}");
    let filler = Sample::new(900 * 256, 3);
    store.append(&filler.transaction(&store)).unwrap();
    store.append(&small.transaction(&store)).unwrap();
    let seq = store.next_seq() - 1;
    assert!(store.shard().contains(store.transaction(seq).unwrap().unwrap().start / PER_LOAD));
    assert!(store.is_finalised(1).unwrap() && !store.is_finalised(seq).unwrap());
    assert!(!store.copy_file(1, seq).unwrap());
    assert!(store.wants_segment(seq, 0).unwrap());
    assert_eq!(offer(&store, seq, &small), [Put::Stored]);
    store.finalise(seq).unwrap();
}

#[test]
fn contexts_of_seals_are_listed_once() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    assert!(store.seal_contexts().unwrap().is_empty());
    Sample::new(4 * BYTES_PER_LOAD, 1).add(&store);
    let contexts = [H256([0; 32]), H256([0x55; 32]), H256([0xff; 32])];
    let tasks = store.unsealed(&MINER, 0, u64::MAX, 100).unwrap();
    for (task, context) in tasks.iter().zip(contexts.iter().cycle()) {
        seal_task(&store, *task, *context).unwrap();
    }
    assert_eq!(store.seal_contexts().unwrap(), contexts);
    assert!(store.drop_seals_with_context(&contexts[1]).unwrap() > 0);
    assert_eq!(store.seal_contexts().unwrap(), [contexts[0], contexts[2]]);
}

#[test]
fn a_store_of_the_schema_before_is_taken_over() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let samples: Vec<Sample> = (0..5).map(|seed| Sample::new(200_000 * (seed as usize + 1), seed)).collect();
    for (seq, sample) in (0..).zip(&samples) {
        store.append(&sample.transaction(&store)).unwrap();
        if seq % 2 == 0 {
            sample.upload(&store, seq);
        }
    }
    let mut odd = samples[0].transaction(&store);
    odd.size_bytes = 5;
    store.append(&odd).unwrap();
    drop(store);
    let db_path = dir.path().join("db");
    let columns = rocksdb::DB::list_cf(&rocksdb::Options::default(), &db_path).unwrap();
    let mut db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &db_path, &columns).unwrap();
    for new in ["unfinished", "reverted", "reverted_file"] {
        db.drop_cf(new).unwrap();
    }
    db.put("schema", 2u32.to_be_bytes()).unwrap();
    drop(db);
    for _ in 0..2 {
        let store = open(&dir);
        assert_eq!(store.unfinished(0, 9).unwrap(), [1, 3]);
        assert_eq!(store.shard(), Shard::WHOLE);
        for (seq, sample) in (0..).zip(&samples).step_by(2) {
            assert!(store.is_finalised(seq).unwrap());
            assert_eq!(store.read_segment(seq, 0).unwrap().unwrap(), sample.segment(0));
        }
    }
    let store = open(&dir);
    samples[1].upload(&store, 1);
    assert_eq!(store.unfinished(0, 9).unwrap(), [3]);
}
