//! Files that the chain takes back and shows again.

use super::*;

#[test]
fn data_comes_back_with_its_file() {
    let dir = TempDir::new().unwrap();
    let mut store = open(&dir);
    let kept = Sample::new(20_000, 1);
    let sizes = [30_000, 700_000, 262_144, 1, 17 * BYTES_PER_LOAD + 1];
    let samples: Vec<Sample> = (2..).zip(sizes).map(|(seed, size)| Sample::new(size, seed)).collect();
    let partial = Sample::new(3 * BYTES_PER_LOAD, 99);
    kept.add(&store);
    samples.iter().for_each(|sample| assert!(sample.add(&store) > 0));
    let seq = store.next_seq();
    store.append(&partial.transaction(&store)).unwrap();
    store.put_segment(seq, 1, partial.segment(1), &partial.tree.proof(1).unwrap()).unwrap();
    seal_everything(&store);

    store.truncate(1).unwrap();
    assert_eq!(store.used_loads().unwrap(), 1);
    drop(store);
    store = open(&dir);
    // Another file in front, so that the others come to lie elsewhere; and another order.
    let other = Sample::new(50_000, 100);
    other.add(&store);
    let mut events = store.watch_finalised();
    for (done, sample) in samples.iter().rev().enumerate() {
        let transaction = sample.transaction(&store);
        store.append(&transaction).unwrap();
        let status = store.status(transaction.seq).unwrap().unwrap();
        assert_eq!((status.stored, status.finalised), (sample.segments(), true));
        assert_eq!(events.try_recv().unwrap(), transaction.seq);
        for index in 0..sample.segments() {
            assert_eq!(store.read_segment(transaction.seq, index).unwrap().unwrap(), sample.segment(index));
            assert_eq!(
                store.segment_proof(transaction.seq, index).unwrap().unwrap(),
                sample.tree.proof(index).unwrap()
            );
        }
        if done == 2 {
            drop(store);
            store = open(&dir);
            events = store.watch_finalised();
        }
    }
    // What was not complete comes back as far as it was there.
    let transaction = partial.transaction(&store);
    store.append(&transaction).unwrap();
    assert_eq!(store.missing_segments(transaction.seq, 0, 9).unwrap(), [0, 2]);
    assert_eq!(store.unfinished(0, 9).unwrap(), [transaction.seq]);
    // It came back once: what is cut off now is kept anew, and only that.
    store.truncate(transaction.seq).unwrap();
    let fresh = Sample::new(30_000, 101);
    store.append(&fresh.transaction(&store)).unwrap();
    assert!(!store.is_finalised(transaction.seq).unwrap());
    seal_everything(&store);
    check_seals(&store);
}

#[test]
fn what_is_kept_has_a_limit_in_bytes_and_in_transactions() {
    let dir = TempDir::new().unwrap();
    let settings = Settings { reverted_bytes: 1_000_000, ..settings() };
    let store = Store::open_with(dir.path(), settings).unwrap();
    let first = Sample::new(400_000, 1);
    let second = Sample::new(500_000, 2);
    let large = Sample::new(1_000_001, 3);
    let third = Sample::new(300_000, 4);
    let comes_back = |sample: &Sample| {
        let transaction = sample.transaction(&store);
        store.append(&transaction).unwrap();
        let is_back = store.is_finalised(transaction.seq).unwrap();
        if !is_back {
            assert_eq!(store.status(transaction.seq).unwrap().unwrap().stored, 0);
            store.truncate(transaction.seq).unwrap();
        }
        is_back
    };
    for sample in [&first, &second, &large, &third] {
        sample.add(&store);
    }
    store.truncate(0).unwrap();
    // Of one cut, the first files that fit.
    assert!(!comes_back(&large) && !comes_back(&third));
    assert!(comes_back(&second));
    // Of several cuts, the latest.
    third.add(&store);
    Sample::new(310_000, 5).add(&store);
    store.truncate(0).unwrap();
    assert!(!comes_back(&first), "it made room");
    assert!(comes_back(&second) && comes_back(&third));
    store.truncate(0).unwrap();

    let zeros = |store: &Store| transaction(store, 256, vec![SubmissionNode { root: zero_root(0), height: 0 }]);
    (0..500).for_each(|_| store.append(&zeros(&store)).unwrap());
    assert!(comes_back(&second));
    store.append(&zeros(&store)).unwrap();
    store.append(&zeros(&store)).unwrap();
    assert!(!comes_back(&third), "it is too old");

    let none = TempDir::new().unwrap();
    let store = Store::open_with(none.path(), Settings { reverted_bytes: 0, ..settings }).unwrap();
    let seq = first.add(&store);
    store.truncate(seq).unwrap();
    store.append(&first.transaction(&store)).unwrap();
    assert!(!store.is_finalised(seq).unwrap());
}

/// A kill between the segments and the record of a file that was to be kept leaves segments behind.
#[test]
fn segments_without_a_file_are_dropped() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    let (first, second) = (Sample::new(300_000, 1), Sample::new(300_000, 2));
    first.add(&store);
    second.add(&store);
    store.truncate(0).unwrap();
    drop(store);
    let db_path = dir.path().join("db");
    let columns = rocksdb::DB::list_cf(&rocksdb::Options::default(), &db_path).unwrap();
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &db_path, &columns).unwrap();
    let key = [&first.tree.root().0[..], &300_000u64.to_be_bytes()].concat();
    db.delete_cf(db.cf_handle("reverted_file").unwrap(), &key).unwrap();
    drop(db);
    let store = open(&dir);
    for (sample, is_back) in [(&first, false), (&second, true)] {
        let transaction = sample.transaction(&store);
        store.append(&transaction).unwrap();
        assert_eq!(store.is_finalised(transaction.seq).unwrap(), is_back);
    }
    drop(store);
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), &db_path, &columns).unwrap();
    for column in ["reverted", "reverted_file"] {
        assert_eq!(db.iterator_cf(db.cf_handle(column).unwrap(), rocksdb::IteratorMode::Start).count(), 0, "{column}");
    }
}
