//! A writer that is killed at random moments, and what must be there afterwards.

use zgpu_core::shard::Shard;

use super::{
    chunks::{Peer, put, segment_range},
    *,
};

const PER_LOAD: u64 = SECTORS_PER_LOAD as u64;

/// Content of file number `seq` as the child of the kill test uploads it; `life` changes when it was reverted.
fn kill_sample(seq: u64, life: u64) -> Sample {
    let sizes = [700, 262_144, 5_000, 600_000, 90_000, 12_345];
    Sample::new(sizes[(seq + life) as usize % sizes.len()], seq << 32 | life)
}

fn say(words: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "@{words}").unwrap();
    out.flush().unwrap();
}

#[test]
#[ignore = "the child of what_was_acknowledged_survives_kills"]
fn work_until_killed() {
    let folder = child_folder();
    let store = Store::open_with(&folder, settings()).unwrap();
    let life: u64 = std::env::var("STORE_TEST_LIFE").unwrap().parse().unwrap();
    say(format_args!("ready"));
    let mut random = StdRng::seed_from_u64(life);
    let first = store.next_seq();
    // Number that the content of a file is made of.
    let mut contents: BTreeMap<u64, u64> = BTreeMap::new();
    // Kills hit a sweep that goes on, too.
    while store.drop_outside_shard(3).unwrap() > 0 {}
    // Each of these lives halves the shard, until one load in eight is kept.
    if life % 6 == 3 && store.shard().count < 8 {
        let half = store.shard().halves().unwrap()[random.random_range(0..2)];
        say(format_args!("shard {} {}", half.id, half.count));
        store.set_shard(half).unwrap();
        while store.drop_outside_shard(3).unwrap() > 0 {}
        say(format_args!("clean {}", store.shard()));
    }
    loop {
        let seq = store.next_seq();
        let sample = kill_sample(seq, life);
        contents.insert(seq, seq);
        store.append(&sample.transaction(&store)).unwrap();
        say(format_args!("append {seq} {seq} {life}"));
        fill(&store, seq, &sample, &mut random);
        for task in store.unsealed(&MINER, 0, u64::MAX, 4).unwrap() {
            seal_task(&store, task, CONTEXT).unwrap();
            say(format_args!("seal {} {}", task.load, task.seals));
        }
        if random.random_ratio(1, 9) {
            let from = store.next_seq().saturating_sub(2);
            let length = from.checked_sub(1).map_or(1, |last| store.length_after(last).unwrap().unwrap());
            say(format_args!("truncating {from} {}", length / PER_LOAD));
            store.truncate(from).unwrap();
            // Mostly the chain shows the same again, here in another order.
            if from >= first && random.random_ratio(2, 3) {
                for (seq, content) in [(from, contents[&(from + 1)]), (from + 1, contents[&from])] {
                    let sample = kill_sample(content, life);
                    contents.insert(seq, content);
                    say(format_args!("again {seq} {content} {life}"));
                    store.append(&sample.transaction(&store)).unwrap();
                    if store.is_finalised(seq).unwrap() {
                        say(format_args!("back {seq}"));
                        continue;
                    }
                    // Elsewhere in the flow, other segments lie in the shard.
                    assert!(store.shard().count > 1, "nobody has to upload it anew");
                    say(format_args!("append {seq} {content} {life}"));
                    fill(&store, seq, &sample, &mut random);
                }
            }
        }
        if random.random_ratio(1, 40) {
            let sector = store.flow_length() / 2;
            say(format_args!("prune {}", sector / PER_LOAD * PER_LOAD));
            while store.prune_below(sector, 3).unwrap() > 0 {}
        }
    }
}

/// Stores and finalises a file: by its segments as a client has them, or as a peer gives them.
fn fill(store: &Store, seq: u64, sample: &Sample, random: &mut StdRng) {
    let start = store.transaction(seq).unwrap().unwrap().start;
    let mut peer = None;
    if random.random_ratio(1, 3) {
        let peer = peer.insert(Peer::of(store));
        peer.take(start, sample);
    }
    for index in 0..sample.segments() {
        let stored = match &peer {
            None => store.put_segment(seq, index, sample.segment(index), &sample.tree.proof(index).unwrap()),
            Some(peer) => {
                let chunks = peer.chunks(start, sample, segment_range(sample, index), seq);
                put(store, seq, &chunks, store.flow_length())
            }
        };
        match stored.unwrap() {
            Put::Stored | Put::Known => say(format_args!("segment {seq} {index}")),
            Put::Outside => {}
        }
    }
    store.finalise(seq).unwrap();
    say(format_args!("finalise {seq}"));
}

#[derive(Default)]
struct Acknowledged {
    /// Number and life that its content is made of.
    content: (u64, u64),
    segments: BTreeSet<u64>,
    finalised: bool,
}

/// What the child has said, and what follows from it.
#[derive(Default)]
struct Heard {
    files: BTreeMap<u64, Acknowledged>,
    seals: BTreeMap<u64, u64>,
    /// Masks of seals that were checked.
    checked: BTreeMap<u64, u64>,
    /// Files that were finalised before the cut, with their content: when they are there, their data is.
    returning: BTreeMap<u64, (u64, u64)>,
    /// Shard and pruned sectors, as last announced: the change may have happened or not.
    shard: Shard,
    pruned: u64,
    counts: BTreeMap<String, u64>,
}

impl Heard {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |index: usize| words[index].parse::<u64>().unwrap();
        *self.counts.entry(words[0].into()).or_default() += 1;
        match words[0] {
            "ready" => {}
            "shard" => self.shard = Shard::new(number(1), number(2)).unwrap(),
            "clean" => assert_eq!(words[1], self.shard.to_string()),
            "prune" => self.pruned = self.pruned.max(number(1)),
            "append" => {
                let content = (number(2), number(3));
                self.returning.remove(&number(1));
                self.files.insert(number(1), Acknowledged { content, ..Default::default() });
            }
            "segment" => assert!(self.files.get_mut(&number(1)).unwrap().segments.insert(number(2))),
            "finalise" => self.files.get_mut(&number(1)).unwrap().finalised = true,
            "seal" => *self.seals.entry(number(1)).or_default() |= number(2),
            "truncating" => {
                self.files.split_off(&number(1));
                self.returning.clear();
                self.seals.retain(|load, _| *load < number(2));
                self.checked.retain(|load, _| *load < number(2));
            }
            "again" => {
                self.returning.insert(number(1), (number(2), number(3)));
            }
            "back" => {
                let content = self.returning.remove(&number(1)).unwrap();
                self.files.insert(number(1), Acknowledged { content, finalised: true, ..Default::default() });
            }
            other => panic!("unknown word {other}"),
        }
    }

    fn check(&mut self, store: &Store, life: u64) -> u32 {
        for (seq, content) in std::mem::take(&mut self.returning) {
            // The kill came between the cut and the acknowledgement of the return.
            if seq < store.next_seq() && self.shard.count == 1 {
                assert!(store.is_finalised(seq).unwrap() || store.is_pruned(seq).unwrap(), "{seq} in life {life}");
                self.files.insert(seq, Acknowledged { content, finalised: true, ..Default::default() });
            }
        }
        assert!(self.files.keys().next_back().is_none_or(|last| *last < store.next_seq()));
        assert!(self.shard.is_within(&store.shard()) && store.pruned_below() <= self.pruned);
        let is_kept = |load: u64| self.shard.contains(load) && load * PER_LOAD >= self.pruned;
        for (seq, file) in &self.files {
            let sample = kill_sample(file.content.0, file.content.1);
            let stored = store.transaction(*seq).unwrap().unwrap();
            assert_eq!(stored.data_root, sample.tree.root());
            let status = store.status(*seq).unwrap().unwrap();
            assert!(!file.finalised || status.finalised || status.pruned, "{seq} in life {life}");
            for index in (0..sample.segments()).filter(|index| file.finalised || file.segments.contains(index)) {
                if stored.start < self.pruned || !is_kept(stored.start / PER_LOAD + index) {
                    continue;
                }
                assert_eq!(store.read_segment(*seq, index).unwrap().as_deref(), Some(sample.segment(index)));
                let proof = store.segment_proof(*seq, index).unwrap().unwrap();
                proof.verify(sample.tree.shape(), &sample.tree.root(), index, sample.segment(index)).unwrap();
            }
        }
        let available: BTreeMap<u64, u64> = store.sealed_loads(&MINER, 0..u64::MAX).unwrap().into_iter().collect();
        for (load, mask) in self.seals.iter().filter(|(load, _)| is_kept(**load)) {
            assert_eq!(available.get(load).copied().unwrap_or(0) & mask, *mask, "load {load} in life {life}");
        }
        // Nothing damaged is trusted, whether acknowledged or not.
        let checked = check_new_seals(store, &mut self.checked);
        assert_eq!(store.verify_sealed(&MINER, |_| ()).unwrap(), 0);
        store.root_at(store.flow_length()).unwrap();
        checked
    }
}

#[test]
fn what_was_acknowledged_survives_kills() {
    let dir = TempDir::new().unwrap();
    let mut random = StdRng::seed_from_u64(99);
    let mut heard = Heard::default();
    let mut seals_checked = 0;
    for life in 0..20 {
        let mut running = child("kills::work_until_killed", dir.path(), &["env"])
            .env("STORE_TEST_LIFE", life.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(running.stdout.take().unwrap());
        let patience = Duration::from_micros(random.random_range(1_000..700_000));
        let (sender, receiver) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            for line in stdout.lines() {
                let Ok(line) = line else { break };
                // The harness prints its own words in front of the first line.
                if let Some((_, words)) = line.split_once('@') {
                    let _ = sender.send(words.to_string());
                }
            }
        });
        heard.hear(&receiver.recv_timeout(Duration::from_secs(60)).expect("the child starts"));
        std::thread::sleep(patience);
        running.kill().unwrap();
        running.wait().unwrap();
        reader.join().unwrap();
        receiver.try_iter().for_each(|line| heard.hear(&line));
        seals_checked += heard.check(&open(&dir), life);
    }
    let counts = &heard.counts;
    assert!(counts.values().sum::<u64>() > 200 && seals_checked > 200, "too little to mean anything: {counts:?}");
    println!("{counts:?}, {seals_checked} seals checked");
}
