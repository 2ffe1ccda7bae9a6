//! One suite for every backend: equal inputs give equal bytes, and the plain twin judges.
//!
//! A backend that is not here is passed over with a reason; ZGPU_REQUIRE_WGPU=1, ZGPU_REQUIRE_CUDA=1 and
//! ZGPU_REQUIRE_ALL_CPU_LEVELS=1 turn that into a failure.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use zgpu_core::{
    device::{BackendKind, DeviceError, UnusableDevice},
    units::{BYTES_PER_LOAD, BYTES_PER_SEAL, SEALS_PER_LOAD},
    work::{DrawJob, ScanHit, ScanItem},
};
use zgpu_miner::{
    MineRange,
    check::{check_vectors, parse_vectors},
    cpu::{CpuDevice, Level},
    engine::{EngineOptions, engine_on},
    plain,
    seam::{Prospector, Sealer},
};

const VECTORS: &str = include_str!("../vectors/pora.json");

/// Says why a backend is passed over, or fails when the variable asks for it.
fn absent(variable: &str, why: String) {
    assert!(std::env::var(variable).as_deref() != Ok("1"), "{variable}=1, but {why}");
    eprintln!("passed over: {why}");
}

fn reasons(backend: BackendKind, unusable: &[UnusableDevice]) -> String {
    let reasons: Vec<String> = unusable.iter().map(|device| format!("{}: {}", device.name, device.reason)).collect();
    format!("there is no {backend} device ({})", reasons.join("; "))
}

fn cpu(level: Level) -> Option<CpuDevice> {
    match CpuDevice::with_threads(level, 2) {
        Ok(device) => Some(device),
        Err(error) => {
            absent("ZGPU_REQUIRE_ALL_CPU_LEVELS", error.to_string());
            None
        }
    }
}

fn emulated() -> Option<zgpu_kernels::emulated::PoraDevice> {
    Some(zgpu_kernels::emulated::PoraDevice::open(0).expect("the host can run the kernels"))
}

fn wgpu() -> Option<zgpu_shaders::PoraDevice> {
    let (usable, unusable) = zgpu_shaders::list();
    match usable.first() {
        Some(device) => Some(zgpu_shaders::PoraDevice::open(device.index).expect("a listed device opens")),
        None => {
            absent("ZGPU_REQUIRE_WGPU", reasons(BackendKind::Wgpu, &unusable));
            None
        }
    }
}

fn cuda() -> Option<zgpu_kernels::PoraDevice> {
    let (usable, unusable) = zgpu_kernels::list();
    match usable.first() {
        Some(device) => Some(zgpu_kernels::PoraDevice::open(device.index).expect("a listed device opens")),
        None => {
            absent("ZGPU_REQUIRE_CUDA", reasons(BackendKind::Cuda, &unusable));
            None
        }
    }
}

/// The suite for one backend; `$cases` random cases.
macro_rules! conformance {
    ($name:ident, $open:expr, $cases:literal) => {
        mod $name {
            use super::*;

            #[test]
            fn vector_file() {
                $open.into_iter().for_each(super::vector_file);
            }
            #[test]
            fn edges_of_ranges() {
                $open.into_iter().for_each(super::edges_of_ranges);
            }
            #[test]
            fn availability_and_targets() {
                $open.into_iter().for_each(super::availability_and_targets);
            }
            #[test]
            fn random_work_equals_the_twin() {
                $open.into_iter().for_each(|device| super::random_work(device, $cases));
            }
            #[test]
            fn sealing() {
                $open.into_iter().for_each(super::sealing);
            }
            #[test]
            fn wrong_shapes_are_refused() {
                $open.into_iter().for_each(super::wrong_shapes);
            }
            #[test]
            fn lanes_share_loads() {
                $open.into_iter().for_each(super::lanes_share_loads);
            }
        }
    };
}

conformance!(cpu_avx512, cpu(Level::Avx512), 48);
conformance!(cpu_avx2, cpu(Level::Avx2), 48);
conformance!(cpu_portable, cpu(Level::Portable), 48);
conformance!(cuda_emulated, emulated(), 6);
conformance!(wgsl, wgpu(), 6);
conformance!(cuda_card, cuda(), 48);

/// Bytes that depend on the seed in every bit.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut word = seed;
    let words = std::iter::repeat_with(move || {
        word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

fn noise32(seed: u64) -> [u8; 32] {
    noise(seed, 32).try_into().unwrap()
}

fn job(seed: u64, count: u32) -> DrawJob {
    DrawJob {
        miner_id: noise32(seed),
        nonce_base: noise32(seed + 1),
        count,
        subtask_digest: noise32(seed + 2),
        range_digest: noise32(seed + 3),
    }
}

fn twin_pads(job: &DrawJob) -> Vec<plain::Pad> {
    let draw = |i| plain::draw(&job.miner_id, &job.nonce(i), &job.subtask_digest, &job.range_digest);
    (0..job.count).map(draw).collect()
}

fn seal_of(load: &[u8], seal: usize) -> &[u8; BYTES_PER_SEAL] {
    load[seal * BYTES_PER_SEAL..].first_chunk().unwrap()
}

fn twin_hits(pads: &[plain::Pad], loads: &[Vec<u8>], items: &[ScanItem], target: &[u8; 32]) -> Vec<ScanHit> {
    let mut hits = Vec::new();
    for (index, item) in items.iter().enumerate() {
        for seal in (0..SEALS_PER_LOAD).filter(|seal| item.available >> seal & 1 == 1) {
            let load = &loads[item.load_slot as usize];
            let quality = plain::quality(&pads[item.pad_slot as usize], seal, seal_of(load, seal));
            if quality <= *target {
                hits.push(ScanHit { item: index as u32, seal: seal as u32, quality });
            }
        }
    }
    hits
}

fn vector_file<P: Prospector + Sealer + 'static>(device: P) {
    let mut engine = engine_on(device, EngineOptions::default()).unwrap();
    let mut reports = Vec::new();
    let summary = check_vectors(VECTORS, engine.as_mut(), &mut |report| reports.push(report.to_string())).unwrap();
    assert_eq!((summary.passed, summary.failed), (8, 0), "{reports:#?}");
    assert_eq!(reports.len(), 8);

    // A file that is wrong in one digit of one quality fails in that case alone.
    let quality = parse_vectors(VECTORS).unwrap()[5].qualities[63].to_string();
    let last = if quality.ends_with('0') { '1' } else { '0' };
    let wrong = VECTORS.replace(&quality, &format!("{}{last}", &quality[..65]));
    let mut failed = Vec::new();
    let mut collect = |report: zgpu_miner::CaseReport| {
        if !report.passed() {
            failed.push(report);
        }
    };
    let summary = check_vectors(&wrong, engine.as_mut(), &mut collect).unwrap();
    assert_eq!(summary.to_string(), "7 passed, 1 failed");
    assert!(failed[0].title.starts_with("case 5:"));
    assert_eq!(failed[0].mismatches.len(), 1);
    assert_eq!(failed[0].mismatches[0].what, "quality of seal 63");
}

/// The device draws for the range's digest; where its seeds lead must be where the twin's lead.
fn edges_of_ranges<P: Prospector>(mut device: P) {
    let whole =
        |loads: u64| MineRange { start_position: 0, mining_length: loads * 1024, shard_id: 0, shard_mask: u64::MAX };
    let ranges = [
        whole(2),
        whole(3),
        whole(1 << 25),
        MineRange { shard_id: 31, shard_mask: !31, ..whole(1000) },
        MineRange { start_position: 3 << 25, mining_length: (1 << 35) * 32, shard_id: 5, shard_mask: !31 },
    ];
    // More nonces than a vector or a subgroup holds, and no multiple of either.
    let mut pads = device.alloc_pads(37).unwrap();
    let mut seeds = vec![[9; 32]; 99];
    for (i, range) in ranges.iter().enumerate() {
        let mut job = DrawJob { range_digest: range.digest().0, ..job(100 + i as u64, 37) };
        // The counter in the nonce wraps within this draw.
        job.nonce_base[24..].copy_from_slice(&(u64::MAX - 11).to_be_bytes());
        device.draw(&job, &mut pads, &mut seeds).unwrap();
        let twins = twin_pads(&job);
        assert_eq!(seeds.len(), 37);
        for (slot, (seed, twin)) in seeds.iter().zip(&twins).enumerate() {
            assert_eq!(*seed, twin.recall_seed, "range {i}, nonce {slot}");
            let load = range.recall(seed);
            let first = range.start_position / 1024;
            assert!(load.is_none_or(|load| load >= first && load - first <= range.loads() && range.reaches(load)));
            if let Some(pad) = device.read_pad(&pads, slot as u32).unwrap() {
                assert!(pad[..] == twin.bytes[..], "range {i}, pad of nonce {slot}");
            }
        }
    }
    device.draw(&job(1, 0), &mut pads, &mut seeds).unwrap();
    assert!(seeds.is_empty());
}

fn availability_and_targets<P: Prospector>(mut device: P) {
    let job = job(7, 3);
    let (mut seeds, mut hits) = (Vec::new(), Vec::new());
    let mut pads = device.alloc_pads(3).unwrap();
    device.draw(&job, &mut pads, &mut seeds).unwrap();
    let loads: Vec<Vec<u8>> = vec![vec![0; BYTES_PER_LOAD], vec![0xff; BYTES_PER_LOAD], noise(3, BYTES_PER_LOAD)];
    let mut memory = device.alloc_loads(3).unwrap();
    device.upload_loads(&mut memory, 0, &loads.concat()).unwrap();
    let masks = [0, 1, 1 << 63, u64::MAX, 0x5555_5555_5555_5555, 0x1111_1111_1111_1111, 0xf0f0_0000_0000_8001];
    let items: Vec<ScanItem> = (0u32..)
        .zip(masks)
        .flat_map(|(i, available)| (0..3).map(move |load_slot| ScanItem { pad_slot: i % 3, load_slot, available }))
        .collect();
    let twins = twin_pads(&job);
    let all = twin_hits(&twins, &loads, &items, &[0xff; 32]);
    let expected: u32 = items.iter().map(|item| item.available.count_ones()).sum();
    assert_eq!(all.len() as u32, expected);
    device.scan(&pads, &memory, &items, &[0xff; 32], &mut hits).unwrap();
    assert_eq!(hits, all);
    // What was in the list before is gone.
    device.scan(&pads, &memory, &items, &[0; 32], &mut hits).unwrap();
    assert_eq!(hits, []);
    device.scan(&pads, &memory, &[], &[0xff; 32], &mut hits).unwrap();
    assert_eq!(hits, []);

    // A quality that equals the target wins, and one that is larger by one in the last place does not.
    let mut sorted = all.clone();
    sorted.sort_by_key(|hit| hit.quality);
    for place in [0, sorted.len() / 2] {
        let target = sorted[place].quality;
        device.scan(&pads, &memory, &items, &target, &mut hits).unwrap();
        assert_eq!(hits, all.iter().copied().filter(|hit| hit.quality <= target).collect::<Vec<_>>());
        let mut below = target;
        below[31] = below[31].checked_sub(1).expect("this quality does not end in a zero byte");
        device.scan(&pads, &memory, &items, &below, &mut hits).unwrap();
        assert_eq!(hits, all.iter().copied().filter(|hit| hit.quality < target).collect::<Vec<_>>());
    }
}

fn random_work<P: Prospector>(device: P, cases: u32) {
    let device = std::cell::RefCell::new(device);
    let items = prop::collection::vec((any::<u32>(), any::<u32>(), any::<u64>()), 1..5);
    let strategy = (any::<u64>(), 1..20u32, 1..3u32, items, any::<[u8; 32]>());
    let mut runner = TestRunner::new(Config { cases, ..Config::default() });
    runner
        .run(&strategy, |(seed, count, slots, items, target)| {
            let mut device = device.borrow_mut();
            let job = job(seed >> 8, count);
            let mut pads = device.alloc_pads(count).unwrap();
            let (mut seeds, mut hits) = (Vec::new(), Vec::new());
            device.draw(&job, &mut pads, &mut seeds).unwrap();
            let twins = twin_pads(&job);
            prop_assert_eq!(&seeds, &twins.iter().map(|pad| pad.recall_seed).collect::<Vec<_>>());
            let loads: Vec<Vec<u8>> = (0..slots).map(|i| noise(seed ^ u64::from(i), BYTES_PER_LOAD)).collect();
            let mut memory = device.alloc_loads(slots).unwrap();
            for (slot, load) in loads.iter().enumerate().rev() {
                device.upload_loads(&mut memory, slot as u32, load).unwrap();
            }
            let items: Vec<ScanItem> = items
                .into_iter()
                .map(|(pad, load, available)| ScanItem { pad_slot: pad % count, load_slot: load % slots, available })
                .collect();
            device.scan(&pads, &memory, &items, &target, &mut hits).unwrap();
            prop_assert_eq!(&hits, &twin_hits(&twins, &loads, &items, &target));
            Ok(())
        })
        .unwrap();
}

fn sealing<P: Sealer>(mut device: P) {
    for seals in [0usize, 1, 3, 8, 9, 64, 67] {
        let raw = noise(seals as u64, seals * BYTES_PER_SEAL);
        let masks: Vec<[u8; 32]> = (0..seals as u64).map(|i| noise32(1000 + i)).collect();
        let mut data = raw.clone();
        device.seal(&masks, &mut data).unwrap();
        for (i, mask) in masks.iter().enumerate() {
            let mut twin = *seal_of(&raw, i);
            plain::seal(mask, &mut twin);
            assert!(seal_of(&data, i) == &twin, "seal {i} of {seals}");
            plain::unseal(mask, &mut twin);
            assert!(seal_of(&raw, i) == &twin, "unsealed {i} of {seals}");
        }
    }
}

fn wrong_shapes<P: Prospector + Sealer>(mut device: P) {
    fn refused<T>(result: Result<T, DeviceError>) {
        match result {
            Err(error @ DeviceError::Shape { .. }) => assert!(!error.is_fatal()),
            Err(other) => panic!("another error: {other}"),
            Ok(_) => panic!("accepted"),
        }
    }
    let (mut seeds, mut hits) = (Vec::new(), Vec::new());
    let mut pads = device.alloc_pads(4).unwrap();
    let mut loads = device.alloc_loads(2).unwrap();
    refused(device.draw(&job(1, 5), &mut pads, &mut seeds));
    device.draw(&job(1, 3), &mut pads, &mut seeds).unwrap();
    refused(device.upload_loads(&mut loads, 0, &[0; BYTES_PER_LOAD - 1]));
    refused(device.upload_loads(&mut loads, 2, &[0; BYTES_PER_LOAD]));
    refused(device.upload_loads(&mut loads, 1, &vec![0; 2 * BYTES_PER_LOAD]));
    refused(device.upload_loads(&mut loads, u32::MAX, &[0; BYTES_PER_LOAD]));
    device.upload_loads(&mut loads, 0, &vec![0; 2 * BYTES_PER_LOAD]).unwrap();
    let item = ScanItem { pad_slot: 0, load_slot: 0, available: u64::MAX };
    for wrong in [3, 4, u32::MAX] {
        refused(device.scan(&pads, &loads, &[item, ScanItem { pad_slot: wrong, ..item }], &[0; 32], &mut hits));
    }
    for wrong in [2, u32::MAX] {
        refused(device.scan(&pads, &loads, &[ScanItem { load_slot: wrong, ..item }], &[0; 32], &mut hits));
    }
    refused(device.seal(&[[0; 32]; 2], &mut [0; BYTES_PER_SEAL]));
    refused(device.seal(&[[0; 32]], &mut [0; BYTES_PER_SEAL - 1]));
    refused(device.seal(&[], &mut [0; 1]));
    // After all that it still works.
    device.scan(&pads, &loads, &[item], &[0xff; 32], &mut hits).unwrap();
    assert_eq!(hits.len(), SEALS_PER_LOAD);
}

fn lanes_share_loads<P: Prospector>(mut device: P) {
    let load = noise(77, BYTES_PER_LOAD);
    let mut loads = device.alloc_loads(2).unwrap();
    device.upload_loads(&mut loads, 1, &load).unwrap();
    let item = ScanItem { pad_slot: 1, load_slot: 1, available: u64::MAX };
    let lanes: Vec<(P, P::Loads)> = (0..2).map(|_| (device.lane().unwrap(), loads.clone())).collect();
    std::thread::scope(|scope| {
        for (lane, (mut device, loads)) in lanes.into_iter().enumerate() {
            let load = &load;
            scope.spawn(move || {
                let job = job(500 + lane as u64, 2);
                let (mut seeds, mut hits) = (Vec::new(), Vec::new());
                let mut pads = device.alloc_pads(2).unwrap();
                device.draw(&job, &mut pads, &mut seeds).unwrap();
                device.scan(&pads, &loads, &[item], &[0xff; 32], &mut hits).unwrap();
                assert_eq!(hits, twin_hits(&twin_pads(&job), &[Vec::new(), load.clone()], &[item], &[0xff; 32]));
            });
        }
    });
}
