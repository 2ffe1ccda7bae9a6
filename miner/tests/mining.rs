//! The whole way: a small flow in memory, sealed, mined and answered; and what goes wrong on it.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ruint::aliases::U256;
use zgpu_core::{
    H256,
    device::{BackendChoice, BackendKind, DeviceError, DeviceInfo},
    digest::keccak256,
    flow::RESERVED_LEAF,
    tree::{sector_hashes, unbalanced_levels},
    units::{BYTES_PER_SEAL, SEALS_PER_LOAD},
    work::{DrawJob, ScanHit, ScanItem},
};
use zgpu_miner::{
    Answer, ChainRules, Engine, HeldLoad, Hit, LoadSource, MineCounters, MineError, MineRange, Puzzle, Refusal, Shard,
    check_answer,
    cpu::{CpuDevice, Level},
    engine::{EngineOptions, engine_on, open_at},
    open, plain,
    seam::{Prospector, Sealer},
};

const LOADS: u64 = 16;
const LOAD_SECTORS: u64 = 1024;

/// A flow of 16 loads in one epoch, its tree, and its loads sealed for one miner.
struct World {
    puzzle: Puzzle,
    levels: Vec<Vec<H256>>,
    sealed: Vec<Vec<u8>>,
    seal_context: H256,
}

impl World {
    fn new() -> World {
        let (miner_id, seal_context) = (keccak256(&[b"miner"]), keccak256(&[b"epoch 1"]));
        let raw: Vec<Vec<u8>> = (0..LOADS)
            .map(|load| (0..8192u32).flat_map(|w| keccak256(&[&load.to_le_bytes(), &w.to_le_bytes()]).0).collect())
            .collect();
        let mut leaves: Vec<H256> = raw.iter().flat_map(|load| sector_hashes(load)).collect();
        leaves[0] = RESERVED_LEAF;
        let levels = unbalanced_levels(leaves);
        let mut engine = open(BackendChoice::Cpu).unwrap();
        let sealed = (0u64..)
            .zip(raw)
            .map(|(load, mut data)| {
                let start = |seal: u64| load * LOAD_SECTORS + 16 * seal;
                let masks: Vec<_> =
                    (0..64).map(|seal| plain::first_mask(&miner_id, &seal_context, start(seal))).collect();
                engine.seal(&masks, &mut data).unwrap();
                data
            })
            .collect();
        let flow_length = LOADS * LOAD_SECTORS;
        let puzzle = Puzzle {
            generation: 42,
            miner_id,
            context_digest: keccak256(&[b"context"]),
            flow_root: levels[14][0],
            flow_length,
            subtask_digest: keccak256(&[b"subtask"]),
            pora_target: U256::MAX >> 8,
            range: MineRange::choose(flow_length, Shard::WHOLE, 0).unwrap(),
        };
        World { puzzle, levels, sealed, seal_context }
    }

    fn answer(&self, hit: &Hit) -> Answer {
        let seal = self.sealed[hit.load as usize][hit.seal as usize * BYTES_PER_SEAL..].first_chunk().unwrap();
        let index = (hit.recall_position() / 16) as usize;
        let proof = (4..14).map(|height| self.levels[height][(index >> (height - 4)) ^ 1]).collect();
        Answer::new(&self.puzzle, hit, self.seal_context, *seal, proof)
    }

    fn rules(&self) -> ChainRules {
        ChainRules { max_shards: 8, seal_epoch_start: 0, seal_epoch_end: self.puzzle.flow_length }
    }
}

/// A source that holds some loads, and counts what is read.
struct Memory {
    loads: Mutex<BTreeMap<u64, (Vec<u8>, u64)>>,
    read: Mutex<BTreeMap<u64, usize>>,
    version: AtomicU64,
}

impl Memory {
    fn new(world: &World, held: &[(u64, u64)]) -> Memory {
        let load = |(load, available): &(u64, u64)| (*load, (world.sealed[*load as usize].clone(), *available));
        Memory {
            loads: Mutex::new(held.iter().map(load).collect()),
            read: Mutex::default(),
            version: AtomicU64::new(0),
        }
    }
}

impl LoadSource for Memory {
    fn held(&self) -> Vec<HeldLoad> {
        self.loads
            .lock()
            .unwrap()
            .iter()
            .map(|(load, (_, available))| HeldLoad { load: *load, available: *available })
            .collect()
    }
    fn read(&self, load: u64, into: &mut [u8]) -> io::Result<u64> {
        *self.read.lock().unwrap().entry(load).or_default() += 1;
        let loads = self.loads.lock().unwrap();
        let (bytes, available) = loads.get(&load).ok_or(io::ErrorKind::NotFound)?;
        into.copy_from_slice(bytes);
        Ok(*available)
    }
    fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }
}

fn cpu(threads: usize) -> CpuDevice {
    CpuDevice::open(0).map(|device| CpuDevice::with_threads(device.level(), threads).unwrap()).unwrap()
}

/// Mines until so many nonces are drawn, and returns the hits.
fn mine(
    engine: &mut dyn Engine,
    puzzle: &Puzzle,
    source: &Memory,
    nonces: u64,
) -> (Result<(), MineError>, Vec<Hit>, MineCounters) {
    let progress = MineCounters::default();
    let mut hits = Vec::new();
    let stop = || progress.nonces.load(Ordering::Relaxed) >= nonces;
    let result = engine.mine(puzzle, source, &stop, &mut |hit| hits.push(hit), &progress);
    (result, hits, progress)
}

const ALL: u64 = u64::MAX;

#[test]
fn every_hit_makes_an_answer_that_the_contract_accepts() {
    let world = World::new();
    // Load 3 lacks its odd seals; loads 0, 1, 2, 4, 6, 8, 10 … are not held.
    let held = [(3, 0x5555_5555_5555_5555), (5, ALL), (7, ALL), (9, ALL), (15, 1)];
    let source = Memory::new(&world, &held);
    let mut engine = engine_on(cpu(2), EngineOptions::default()).unwrap();
    let (result, hits, progress) = mine(engine.as_mut(), &world.puzzle, &source, 2048);
    result.unwrap();
    // 2048 nonces, 5 of 16 loads, about 225 of 5 * 64 seals, 1 of 256 wins: about 112.
    assert!((50..250).contains(&hits.len()), "{}", hits.len());
    let counts = progress.get();
    assert_eq!(counts.hits, hits.len() as u64);
    assert_eq!(counts.stale, 0);
    assert!(counts.nonces >= 2048 && counts.loads < counts.nonces / 2);
    for hit in &hits {
        assert_eq!(hit.generation, 42);
        let available = held.iter().find(|(load, _)| *load == hit.load).map(|(_, available)| *available).unwrap();
        assert_eq!(available >> hit.seal & 1, 1);
        assert_eq!(check_answer(&world.answer(hit), &world.puzzle, &world.rules()), Ok(hit.quality));
    }
    for load in [3, 5, 7, 9] {
        assert!(hits.iter().any(|hit| hit.load == load), "no hit in load {load}");
    }
    let mut distinct = hits.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), hits.len());
    assert!(source.read.lock().unwrap().keys().all(|load| held.iter().any(|(held, _)| held == load)));
}

#[test]
fn streamed_loads_give_hits_like_resident_ones() {
    let world = World::new();
    let source = Memory::new(&world, &(1..LOADS).map(|load| (load, ALL)).collect::<Vec<_>>());
    // Room for nothing but a window; room for a few loads beside it.
    for (memory_bytes, some_resident) in [(512 << 10, false), (4 << 20, true)] {
        let options = EngineOptions { memory_bytes: Some(memory_bytes) };
        let mut engine = engine_on(cpu(2), options).unwrap();
        let (result, hits, progress) = mine(engine.as_mut(), &world.puzzle, &source, 3000);
        result.unwrap();
        for hit in &hits {
            assert_eq!(check_answer(&world.answer(hit), &world.puzzle, &world.rules()), Ok(hit.quality));
        }
        for load in (1..LOADS).filter(|load| !some_resident || *load < 5) {
            assert!(hits.iter().any(|hit| hit.load == load), "no hit in load {load}: {progress:?}");
        }
        // A sweep reads a load once for all the draws that wait for it.
        let counts = progress.get();
        assert!(counts.reads < counts.loads, "{counts:?}");
    }
    assert!(!source.read.lock().unwrap().contains_key(&0));
}

/// Two lanes at once, resident and streamed, on the backends that need no card.
#[test]
fn other_backends_mine_too() {
    let world = World::new();
    let source = Memory::new(&world, &(1..LOADS).map(|load| (load, ALL)).collect::<Vec<_>>());
    for memory_bytes in [8 << 20, 1 << 20] {
        let options = EngineOptions { memory_bytes: Some(memory_bytes) };
        let emulated = zgpu_kernels::emulated::PoraDevice::open(0).expect("the host can run the kernels");
        let mut engines = vec![engine_on(emulated, options).unwrap()];
        if let Some(adapter) = zgpu_shaders::list().0.first() {
            engines.push(open_at(BackendKind::Wgpu, adapter.index, options).unwrap());
        }
        for engine in &mut engines {
            let (result, hits, progress) = mine(engine.as_mut(), &world.puzzle, &source, 200);
            result.unwrap();
            // 200 nonces, nearly all held, of 64 seals each, 1 of 256 wins: about 47.
            assert!(hits.len() > 10, "{}: {progress:?}", engine.info().name);
            for hit in &hits {
                assert_eq!(check_answer(&world.answer(hit), &world.puzzle, &world.rules()), Ok(hit.quality));
            }
        }
    }
}

#[test]
fn loads_stay_in_fast_memory_while_the_source_is_unchanged() {
    let world = World::new();
    let source = Memory::new(&world, &[(2, ALL), (4, ALL), (6, ALL)]);
    let mut engine = engine_on(cpu(1), EngineOptions::default()).unwrap();
    let puzzle = Puzzle { pora_target: U256::ZERO, ..world.puzzle.clone() };
    let reads = |source: &Memory| std::mem::take(&mut *source.read.lock().unwrap()).into_iter().collect::<Vec<_>>();
    mine(engine.as_mut(), &puzzle, &source, 100).0.unwrap();
    assert_eq!(reads(&source), [(2, 1), (4, 1), (6, 1)]);
    mine(engine.as_mut(), &Puzzle { generation: 43, ..puzzle.clone() }, &source, 100).0.unwrap();
    assert_eq!(reads(&source), []);
    // More seals of one load, another load more, one less.
    source.loads.lock().unwrap().get_mut(&2).unwrap().1 = 7;
    source.loads.lock().unwrap().insert(8, (world.sealed[8].clone(), ALL));
    source.loads.lock().unwrap().remove(&6);
    mine(engine.as_mut(), &puzzle, &source, 100).0.unwrap();
    assert_eq!(reads(&source), [(2, 1), (8, 1)]);
    source.loads.lock().unwrap().insert(6, (world.sealed[6].clone(), ALL));
    mine(engine.as_mut(), &puzzle, &source, 100).0.unwrap();
    assert_eq!(reads(&source), [(6, 1)]);
    source.version.store(1, Ordering::Relaxed);
    mine(engine.as_mut(), &puzzle, &source, 100).0.unwrap();
    assert_eq!(reads(&source), [(2, 1), (4, 1), (6, 1), (8, 1)]);
    // Loads sealed for one miner are nothing for another.
    mine(engine.as_mut(), &Puzzle { miner_id: H256([1; 32]), ..puzzle }, &source, 100).0.unwrap();
    assert_eq!(reads(&source), [(2, 1), (4, 1), (6, 1), (8, 1)]);
}

#[test]
fn bytes_that_change_under_the_engine_are_stale_and_no_disagreement() {
    let world = World::new();
    let source = Memory::new(&world, &[(5, ALL)]);
    let mut engine = engine_on(cpu(1), EngineOptions::default()).unwrap();
    let (result, hits, _) = mine(engine.as_mut(), &world.puzzle, &source, 512);
    result.unwrap();
    assert!(!hits.is_empty());
    source.loads.lock().unwrap().get_mut(&5).unwrap().0.fill(1);
    let (result, hits, progress) = mine(engine.as_mut(), &world.puzzle, &source, 512);
    result.unwrap();
    assert_eq!(hits, []);
    assert!(progress.get().stale > 0);
    source.version.store(1, Ordering::Relaxed);
    let (result, hits, progress) = mine(engine.as_mut(), &world.puzzle, &source, 512);
    result.unwrap();
    assert!(!hits.is_empty());
    assert_eq!(progress.get().stale, 0);
    // A load that goes is not read again by name, and no error.
    source.loads.lock().unwrap().clear();
    let none = mine(engine.as_mut(), &world.puzzle, &source, 512).0.unwrap_err();
    assert_eq!(none.to_string(), "none of the 0 loads held lies in the mining range of 16 loads");
}

#[test]
fn stop_is_honoured_soon() {
    let world = World::new();
    let source = Memory::new(&world, &(0..LOADS).map(|load| (load, ALL)).collect::<Vec<_>>());
    for memory_bytes in [None, Some(4 << 20)] {
        let mut engine = engine_on(cpu(1), EngineOptions { memory_bytes }).unwrap();
        let puzzle = Puzzle { pora_target: U256::ZERO, ..world.puzzle.clone() };
        let progress = MineCounters::default();
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running = scope.spawn(|| {
                let stop = || stopped.load(Ordering::Relaxed);
                engine.mine(&puzzle, &source, &stop, &mut |_| (), &progress).unwrap();
                Instant::now()
            });
            while progress.get().loads == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            stopped.store(true, Ordering::Relaxed);
            let told = Instant::now();
            let late = running.join().unwrap().saturating_duration_since(told);
            // The aim is 100 ms; the rest is for test machines that do other things besides.
            assert!(late < Duration::from_millis(600), "{late:?}");
        });
    }
}

#[test]
fn puzzles_that_cannot_be_mined_are_refused() {
    let world = World::new();
    let source = Memory::new(&world, &[(5, ALL)]);
    let mut engine = engine_on(cpu(1), EngineOptions::default()).unwrap();
    let mut refused = |puzzle: Puzzle| mine(engine.as_mut(), &puzzle, &source, 1).0.unwrap_err().to_string();
    let good = &world.puzzle;
    let range = |range: MineRange| Puzzle { range, ..good.clone() };
    assert_eq!(
        refused(range(MineRange { mining_length: 1023, ..good.range })),
        "the mining range has 1023 sectors, a load has 1024"
    );
    assert_eq!(
        refused(range(MineRange { mining_length: 2048, ..good.range })),
        "the mining range is refused: Mining range too short: 2048 sectors, at least 16384"
    );
    assert_eq!(
        refused(range(MineRange { shard_mask: 0, ..good.range })),
        "a flow of 16384 sectors cannot be shared among 18446744073709551616 shards"
    );
    assert_eq!(
        refused(range(MineRange { shard_mask: !1, shard_id: 0, ..good.range })),
        "none of the 1 loads held lies in the mining range of 16 loads"
    );
    assert!(source.read.lock().unwrap().is_empty());
}

#[test]
fn a_source_that_fails_is_named() {
    struct Broken;
    impl LoadSource for Broken {
        fn held(&self) -> Vec<HeldLoad> {
            vec![HeldLoad { load: 4, available: ALL }]
        }
        fn read(&self, _: u64, _: &mut [u8]) -> io::Result<u64> {
            Err(io::Error::other("the disk is on fire"))
        }
    }
    let world = World::new();
    let mut engine = engine_on(cpu(1), EngineOptions::default()).unwrap();
    let result = engine.mine(&world.puzzle, &Broken, &|| false, &mut |_| (), &MineCounters::default());
    assert_eq!(result.unwrap_err().to_string(), "load 4 cannot be read: the disk is on fire");
}

/// A device that computes well until a switch is thrown, then flips one bit of what it reports.
struct Faulty {
    device: CpuDevice,
    broken: Arc<AtomicBool>,
}

impl Sealer for Faulty {
    fn seal(&mut self, first_masks: &[[u8; 32]], data: &mut [u8]) -> Result<(), DeviceError> {
        self.device.seal(first_masks, data)
    }
}

impl Prospector for Faulty {
    type Pads = <CpuDevice as Prospector>::Pads;
    type Loads = <CpuDevice as Prospector>::Loads;

    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }
    fn lane(&self) -> Result<Self, DeviceError> {
        Ok(Faulty { device: self.device.lane()?, broken: self.broken.clone() })
    }
    fn preferred_batch(&self) -> u32 {
        64
    }
    fn alloc_pads(&mut self, capacity: u32) -> Result<Self::Pads, DeviceError> {
        self.device.alloc_pads(capacity)
    }
    fn draw(&mut self, job: &DrawJob, pads: &mut Self::Pads, seeds: &mut Vec<[u8; 32]>) -> Result<(), DeviceError> {
        self.device.draw(job, pads, seeds)
    }
    fn alloc_loads(&mut self, capacity: u32) -> Result<Self::Loads, DeviceError> {
        self.device.alloc_loads(capacity)
    }
    fn upload_loads(&mut self, loads: &mut Self::Loads, first_slot: u32, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.upload_loads(loads, first_slot, bytes)
    }
    fn scan(
        &mut self,
        pads: &Self::Pads,
        loads: &Self::Loads,
        items: &[ScanItem],
        target: &[u8; 32],
        hits: &mut Vec<ScanHit>,
    ) -> Result<(), DeviceError> {
        self.device.scan(pads, loads, items, target, hits)?;
        if self.broken.load(Ordering::Relaxed) {
            hits.iter_mut().take(1).for_each(|hit| hit.quality[31] ^= 1);
        }
        Ok(())
    }
}

#[test]
fn a_device_that_disagrees_with_the_twin_is_quarantined() {
    let world = World::new();
    let source = Memory::new(&world, &[(5, ALL), (6, ALL)]);
    let broken = Arc::new(AtomicBool::new(false));
    let faulty = || Faulty { device: cpu(1), broken: broken.clone() };
    let mut engine = engine_on(faulty(), EngineOptions::default()).unwrap();
    let (result, hits, _) = mine(engine.as_mut(), &world.puzzle, &source, 300);
    result.unwrap();
    assert!(!hits.is_empty());
    broken.store(true, Ordering::Relaxed);
    let (result, hits, _) = mine(engine.as_mut(), &world.puzzle, &source, 100_000);
    assert!(matches!(result, Err(MineError::Disagreement(_))), "{result:?}");
    assert_eq!(hits, []);
    // It stays out of use even when it would compute well again.
    broken.store(false, Ordering::Relaxed);
    assert!(matches!(mine(engine.as_mut(), &world.puzzle, &source, 300).0, Err(MineError::Quarantined { .. })));
    // And one that is broken from the start does not open.
    broken.store(true, Ordering::Relaxed);
    let error = engine_on(faulty(), EngineOptions::default()).err().unwrap();
    assert!(error.is_fatal() && error.to_string().contains("its scanning differs"), "{error}");
}

#[test]
fn answers_are_refused_for_each_rule() {
    let world = World::new();
    let source = Memory::new(&world, &(1..LOADS).map(|load| (load, ALL)).collect::<Vec<_>>());
    let mut engine = open(BackendChoice::Cpu).unwrap();
    let hit = mine(engine.as_mut(), &world.puzzle, &source, 500).1[0];
    let (good, rules) = (world.answer(&hit), world.rules());
    let check = |change: &dyn Fn(&mut Answer)| {
        let mut answer = good.clone();
        change(&mut answer);
        check_answer(&answer, &world.puzzle, &rules).unwrap_err()
    };
    assert!(matches!(check(&|answer| answer.miner_id = H256::ZERO), Refusal::NoMiner));
    assert!(matches!(check(&|answer| answer.context_digest.0[0] ^= 1), Refusal::Context { .. }));
    assert!(matches!(check(&|answer| answer.range.mining_length -= 1), Refusal::Range(_)));
    assert!(matches!(check(&|answer| answer.range.shard_mask = !15), Refusal::Range(_)));
    assert!(matches!(check(&|answer| answer.recall_position = u64::MAX), Refusal::SealEpoch { .. }));
    assert!(matches!(check(&|answer| answer.sealed_context_digest = H256::ZERO), Refusal::NoSealContext));
    assert!(matches!(check(&|answer| answer.sealed_context_digest.0[9] ^= 1), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.sealed_data[4095] ^= 1), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.sealed_data[0] ^= 1), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.merkle_proof[3].0[0] ^= 1), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.merkle_proof.truncate(9)), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.merkle_proof.push(H256::ZERO)), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.merkle_proof = vec![H256::ZERO; 1000]), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.recall_position ^= 16), Refusal::Proof { .. }));
    assert!(matches!(check(&|answer| answer.seal_offset ^= 1), Refusal::Recall { .. }));
    assert!(matches!(check(&|answer| answer.seal_offset = SEALS_PER_LOAD as u64), Refusal::NoSuchSeal { got: 64 }));
    assert!(matches!(check(&|answer| answer.seal_offset = u64::MAX), Refusal::NoSuchSeal { .. }));
    let another_nonce = check(&|answer| answer.nonce.0[0] ^= 1);
    assert!(matches!(another_nonce, Refusal::Recall { .. } | Refusal::Quality { .. }), "{another_nonce}");

    let harder = Puzzle { pora_target: U256::ZERO, ..world.puzzle.clone() };
    assert!(matches!(check_answer(&good, &harder, &rules), Err(Refusal::Quality { .. })));
    let empty = Puzzle { context_digest: keccak256(&[]), ..world.puzzle.clone() };
    let answer = Answer { context_digest: keccak256(&[]), ..good.clone() };
    assert_eq!(check_answer(&answer, &empty, &rules), Err(Refusal::EmptyContext));
    // The epoch has to contain the seal's last sector, its end included.
    let end = good.recall_position + 16;
    let epoch = |start, end| ChainRules { seal_epoch_start: start, seal_epoch_end: end, ..rules };
    assert!(check_answer(&good, &world.puzzle, &epoch(end - 1, end)).is_ok());
    assert!(check_answer(&good, &world.puzzle, &epoch(end, end + 1)).is_err());
    assert!(check_answer(&good, &world.puzzle, &epoch(0, end - 1)).is_err());
}

#[test]
fn engines_of_every_kind_are_opened_by_name() {
    for (text, choice) in [
        ("auto", BackendChoice::Auto),
        ("cpu", BackendChoice::Cpu),
        ("cuda", BackendChoice::Cuda),
        ("wgpu", BackendChoice::Wgpu),
    ] {
        assert_eq!(text.parse(), Ok(choice));
        assert_eq!(choice.to_string(), text);
        match open(choice) {
            Ok(engine) => assert!(choice != BackendChoice::Auto || !engine.info().software),
            Err(error) => {
                assert!(error.is_fatal() && choice != BackendChoice::Cpu && choice != BackendChoice::Auto, "{error}")
            }
        }
    }
    assert_eq!(
        "gpu".parse::<BackendChoice>().unwrap_err().to_string(),
        "\"gpu\" is no backend; there are auto, cpu, cuda and wgpu"
    );
    let (usable, _) = zgpu_miner::devices();
    assert!(usable.iter().any(|device| device.level == Level::Portable.to_string()));
}
