//! One suite for everything that runs the kernels, against the plain twin and against vectors that the on-chain verifier
//! agreed to. It runs on the sources compiled as host code, on the embedded PTX by an interpreter, and on a card if there is
//! one; `ZGPU_REQUIRE_NVRTC=1` and `ZGPU_REQUIRE_CUDA=1` turn the skips into failures.

mod ptx;
mod twin;

use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use zgpu_core::device::DeviceError;
use zgpu_core::units::{BYTES_PER_LOAD, BYTES_PER_PAD, BYTES_PER_SEAL, SEALS_PER_LOAD};
use zgpu_core::work::{DrawJob, ScanHit, ScanItem};
use zgpu_kernels::Cuda;
use zgpu_kernels::emulated::Host;
use zgpu_kernels::pora::{Device, Loads, Pads};
use zgpu_kernels::runtime::Runtime;

use ptx::PtxHost;

const ALL_SEALS: u64 = u64::MAX;
const ANY_QUALITY: [u8; 32] = [0xff; 32];

macro_rules! suite {
    ($backend:ident, $runtime:ty, $ready:expr, [$($test:ident),* $(,)?]) => {
        mod $backend {
            $(
                #[test]
                fn $test() {
                    if $ready {
                        super::$test::<$runtime>();
                    }
                }
            )*
        }
    };
}

suite!(
    emulated,
    super::Host,
    true,
    [
        vectors_agree,
        published_seal_and_ticket_agree,
        nonces_count_up_and_wrap,
        a_scan_finds_exactly_the_hits_of_the_twin,
        a_target_is_compared_as_one_big_endian_number,
        more_hits_than_room_are_all_found,
        lanes_share_pads_and_loads,
        wrong_shapes_are_refused_with_both_numbers,
        draws_equal_the_twin,
        seals_equal_the_twin,
        scans_equal_the_twin,
    ]
);
suite!(
    ptx_interpreted,
    super::PtxHost,
    super::has_ptx(),
    [
        vectors_agree,
        published_seal_and_ticket_agree,
        a_scan_finds_exactly_the_hits_of_the_twin,
        a_target_is_compared_as_one_big_endian_number,
    ]
);
suite!(
    card,
    super::Cuda,
    super::has_card(),
    [
        vectors_agree,
        published_seal_and_ticket_agree,
        nonces_count_up_and_wrap,
        a_scan_finds_exactly_the_hits_of_the_twin,
        a_target_is_compared_as_one_big_endian_number,
        more_hits_than_room_are_all_found,
        lanes_share_pads_and_loads,
        wrong_shapes_are_refused_with_both_numbers,
        draws_equal_the_twin,
        seals_equal_the_twin,
        scans_equal_the_twin,
    ]
);

/// Says why on stderr, or fails when `variable` asks for it, if something is missing.
fn ready(has: bool, variable: &str, reason: &str) -> bool {
    assert!(has || std::env::var_os(variable).is_none(), "{variable} is set, but {reason}");
    if !has {
        eprintln!("skipped: {reason}");
    }
    has
}

fn has_ptx() -> bool {
    ready(
        !zgpu_kernels::images::all().is_empty(),
        "ZGPU_REQUIRE_NVRTC",
        "this build holds no kernels; run scripts/setup",
    )
}

fn has_card() -> bool {
    let (usable, unusable) = zgpu_kernels::list();
    let reason =
        unusable.first().map_or_else(|| "no card".to_owned(), |other| format!("{}: {}", other.name, other.reason));
    ready(!usable.is_empty(), "ZGPU_REQUIRE_CUDA", &reason)
}

fn device<R: Runtime>() -> Device<R> {
    Device::open(0).expect("the device is there")
}

/// Bytes that look random and depend on `name` alone.
fn noise(name: &str, len: usize) -> Vec<u8> {
    (0u32..).flat_map(|i| twin::keccak256(format!("{name} {i}").as_bytes())).take(len).collect()
}

fn digest(name: &str) -> [u8; 32] {
    twin::keccak256(name.as_bytes())
}

fn job(count: u32) -> DrawJob {
    DrawJob {
        miner_id: digest("miner"),
        nonce_base: digest("nonce"),
        count,
        subtask_digest: digest("subtask"),
        range_digest: digest("range"),
    }
}

/// Draws on the device; the pads' content shows in what a scan makes of them.
fn draw<R: Runtime>(device: &mut Device<R>, job: &DrawJob) -> (Pads<R>, Vec<[u8; 32]>) {
    let mut pads = device.alloc_pads(job.count).expect("memory for pads");
    let mut recall_seeds = vec![[1; 32]; 3];
    device.draw(job, &mut pads, &mut recall_seeds).expect("a draw");
    (pads, recall_seeds)
}

fn upload<R: Runtime>(device: &mut Device<R>, loads: &[Vec<u8>]) -> Loads<R> {
    let mut memory = device.alloc_loads(loads.len() as u32).expect("memory for loads");
    device.upload_loads(&mut memory, 0, &loads.concat()).expect("an upload");
    memory
}

fn vectors_agree<R: Runtime>() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../miner/vectors/pora.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("vectors")).expect("JSON");
    let cases = file["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 8);
    let mut device = device::<R>();
    for case in cases {
        let field = |name: &str| -> Vec<u8> {
            let text = case[name].as_str().expect("text");
            hex::decode(text.trim_start_matches("0x")).expect("hex")
        };
        let field32 = |name: &str| -> [u8; 32] { field(name).try_into().expect("32 bytes") };
        let rule = case["raw_chunk_rule"].as_str().expect("text");
        let prefix = rule.split('"').nth(1).expect("a quoted prefix");

        // Seal the raw load. The position counts sectors; a seal has 16.
        let position: u64 = case["recall_position"].as_str().expect("text").parse().expect("a number");
        let mut load: Vec<u8> = (0..BYTES_PER_LOAD / 32).flat_map(|word| digest(&format!("{prefix}{word}"))).collect();
        let masks: Vec<[u8; 32]> = (0..SEALS_PER_LOAD as u64)
            .map(|seal| {
                let mut start = [0; 32];
                start[24..].copy_from_slice(&(position + 16 * seal).to_be_bytes());
                twin::keccak256(&[field("miner_id"), field("seal_context_digest"), start.to_vec()].concat())
            })
            .collect();
        device.seal(&masks, &mut load).expect("a seal");
        assert_eq!(twin::keccak256(&load), field32("sealed_chunk_keccak"));

        let job = DrawJob {
            miner_id: field32("miner_id"),
            nonce_base: field32("nonce"),
            count: 1,
            subtask_digest: field32("subtask_digest"),
            range_digest: field32("range_digest"),
        };
        let pad = twin::draw(&job, 0);
        assert_eq!(pad.seed.to_vec(), field("pad_seed"));
        assert_eq!(twin::keccak256(&pad.bytes), field32("scratch_pad_keccak"));
        let (pads, recall_seeds) = draw(&mut device, &job);
        assert_eq!(recall_seeds, [field32("recall_seed")]);

        let loads = upload(&mut device, &[load]);
        let items = [ScanItem { pad_slot: 0, load_slot: 0, available: ALL_SEALS }];
        let mut hits = Vec::new();
        device.scan(&pads, &loads, &items, &ANY_QUALITY, &mut hits).expect("a scan");
        let qualities: Vec<String> = hits.iter().map(|hit| format!("0x{}", hex::encode(hit.quality))).collect();
        assert_eq!(Value::from(qualities), case["qualities"]);
    }
}

fn published_seal_and_ticket_agree<R: Runtime>() {
    // Appendix of the protocol's fact sheet: miner id, context and nonce are hashes of words.
    let miner_id = digest("minerId");
    let mut start = [0; 32];
    start[30..].copy_from_slice(&3248u16.to_be_bytes());
    let mask = twin::keccak256(&[miner_id, digest("44"), start].concat());
    let mut sealed: Vec<u8> = (0..BYTES_PER_SEAL).map(|i| i as u8).collect();
    let mut device = device::<R>();
    device.seal(&[mask], &mut sealed).expect("a seal");
    assert_eq!(hex::encode(&sealed[..32]), "c8a1a6f7e3720279ad1f9ddc73e68e7beec65ce04ee27fc0011c6529ce85365c");
    assert_eq!(hex::encode(&sealed[4064..]), "78d9d0f719821b82fde91fe764b610501bbdb78a4650ca4ca88ad12f7b60b3f1");

    let job = DrawJob {
        miner_id,
        nonce_base: digest("nonce"),
        count: 1,
        subtask_digest: digest("subtask"),
        range_digest: hex::decode("0428b8d537318479957e9cfcb45d2c3913808f11bfc15ef366eda4cf589fa3c0")
            .expect("hex")
            .try_into()
            .expect("32 bytes"),
    };
    let (pads, recall_seeds) = draw(&mut device, &job);
    assert_eq!(hex::encode(recall_seeds[0]), "b4c8db2cfa042669157f1f8ffd57c2f4e05ee0c5e0e2108e68a60106245a442c");
    let mut load = vec![0; BYTES_PER_LOAD];
    load[11 * BYTES_PER_SEAL..][..BYTES_PER_SEAL].copy_from_slice(&sealed);
    let loads = upload(&mut device, &[load]);
    let mut hits = Vec::new();
    let items = [ScanItem { pad_slot: 0, load_slot: 0, available: 1 << 11 }];
    device.scan(&pads, &loads, &items, &ANY_QUALITY, &mut hits).expect("a scan");
    assert_eq!(hits.len(), 1);
    assert_eq!(hex::encode(hits[0].quality), "528aa39154f5e6568da275462c07cff795e92edf96f7a9f62429f79edb304e36");
}

fn nonces_count_up_and_wrap<R: Runtime>() {
    let mut job = job(130);
    job.nonce_base[24..].copy_from_slice(&(u64::MAX - 64).to_be_bytes());
    let (_, recall_seeds) = draw(&mut device::<R>(), &job);
    assert_eq!(recall_seeds.len(), 130);
    for i in [0, 1, 63, 64, 65, 127, 128, 129] {
        assert_eq!(recall_seeds[i as usize], twin::draw(&job, i).recall_seed, "nonce {i}");
    }
}

fn a_scan_finds_exactly_the_hits_of_the_twin<R: Runtime>() {
    let job = job(3);
    let pads_twin: Vec<twin::Pad> = (0..3).map(|i| twin::draw(&job, i)).collect();
    let loads_twin: Vec<Vec<u8>> = (0..5).map(|i| noise(&format!("load {i}"), BYTES_PER_LOAD)).collect();
    let mut device = device::<R>();
    let (pads, _) = draw(&mut device, &job);
    let loads = upload(&mut device, &loads_twin);
    let item = |pad_slot, load_slot, available| ScanItem { pad_slot, load_slot, available };
    let items = [
        item(0, 0, ALL_SEALS),
        item(2, 4, 0x8000_0000_0000_0001),
        item(1, 3, 0),
        item(1, 2, 0x0123_4567_89ab_cdef),
        item(0, 1, ALL_SEALS),
    ];
    let every = twin::scan(&pads_twin, &loads_twin, &items, &ANY_QUALITY);
    assert_eq!(every.len(), 64 + 2 + 32 + 64);

    // A target equal to a quality admits it; one less does not.
    let mut qualities: Vec<[u8; 32]> = every.iter().map(|hit| hit.quality).collect();
    qualities.sort_unstable();
    let mut targets = vec![[0; 32], ANY_QUALITY, qualities[0], qualities[80]];
    for equal in [qualities[0], qualities[80]] {
        let mut less = equal;
        let place = less.iter().rposition(|&byte| byte != 0).expect("not zero");
        less[place] -= 1;
        less[place + 1..].fill(0xff);
        targets.push(less);
    }
    let mut hits = Vec::new();
    for target in targets {
        device.scan(&pads, &loads, &items, &target, &mut hits).expect("a scan");
        assert_eq!(hits, twin::scan(&pads_twin, &loads_twin, &items, &target), "target {}", hex::encode(target));
    }
    device.scan(&pads, &loads, &[], &ANY_QUALITY, &mut hits).expect("a scan of nothing");
    assert!(hits.is_empty());
}

fn a_target_is_compared_as_one_big_endian_number<R: Runtime>() {
    // Targets that differ from a quality in one byte only, at each place.
    let job = job(1);
    let load = noise("load", BYTES_PER_LOAD);
    let pad = twin::draw(&job, 0);
    let quality = twin::quality(&pad, 5, &load[5 * BYTES_PER_SEAL..][..BYTES_PER_SEAL]);
    let mut device = device::<R>();
    let (pads, _) = draw(&mut device, &job);
    let loads = upload(&mut device, &[load]);
    let items = [ScanItem { pad_slot: 0, load_slot: 0, available: 1 << 5 }];
    let mut hits = Vec::new();
    for place in 0..32 {
        let mut target = quality;
        target[place] = quality[place].wrapping_add(1);
        device.scan(&pads, &loads, &items, &target, &mut hits).expect("a scan");
        assert_eq!(hits.len(), usize::from(quality <= target), "byte {place} more");
        target[place] = quality[place].wrapping_sub(1);
        device.scan(&pads, &loads, &items, &target, &mut hits).expect("a scan");
        assert_eq!(hits.len(), usize::from(quality <= target), "byte {place} less");
    }
}

fn more_hits_than_room_are_all_found<R: Runtime>() {
    // 300 items x 64 seals, more than the 16,384 hits that one launch keeps.
    let job = job(1);
    let load = noise("load", BYTES_PER_LOAD);
    let pad = twin::draw(&job, 0);
    let expected: Vec<[u8; 32]> =
        load.chunks(BYTES_PER_SEAL).enumerate().map(|(seal, sealed)| twin::quality(&pad, seal, sealed)).collect();
    let mut device = device::<R>();
    let (pads, _) = draw(&mut device, &job);
    let loads = upload(&mut device, &[load]);
    let items = [ScanItem { pad_slot: 0, load_slot: 0, available: ALL_SEALS }; 300];
    let mut hits = Vec::new();
    device.scan(&pads, &loads, &items, &ANY_QUALITY, &mut hits).expect("a scan");
    assert_eq!(hits.len(), 300 * SEALS_PER_LOAD);
    for (place, hit) in hits.iter().enumerate() {
        let (item, seal) = (place / SEALS_PER_LOAD, place % SEALS_PER_LOAD);
        assert_eq!(*hit, ScanHit { item: item as u32, seal: seal as u32, quality: expected[seal] });
    }
}

fn lanes_share_pads_and_loads<R: Runtime>() {
    let job = job(1);
    let mut first = device::<R>();
    let mut second = first.lane().expect("a lane");
    let (pads, _) = draw(&mut first, &job);
    let mut loads = upload(&mut first, &[noise("load", BYTES_PER_LOAD)]);
    let items = [ScanItem { pad_slot: 0, load_slot: 0, available: 1 }];
    let (mut here, mut there) = (Vec::new(), Vec::new());
    let clone = loads.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| second.scan(&pads, &clone, &items, &ANY_QUALITY, &mut there).expect("a scan"));
        first.scan(&pads, &loads, &items, &ANY_QUALITY, &mut here).expect("a scan");
    });
    assert_eq!(here.len(), 1);
    assert_eq!(here, there);

    let fresh = noise("other", BYTES_PER_LOAD);
    let refused = first.upload_loads(&mut loads, 0, &fresh);
    assert!(matches!(refused, Err(DeviceError::Shape { expected: 1, got: 2, .. })), "{refused:?}");
    drop(clone);
    first.upload_loads(&mut loads, 0, &fresh).expect("sole owner again");
    second.scan(&pads, &loads, &items, &ANY_QUALITY, &mut there).expect("a scan");
    assert_ne!(here, there);
}

fn wrong_shapes_are_refused_with_both_numbers<R: Runtime>() {
    #[track_caller]
    fn refused(result: Result<(), DeviceError>, numbers: (u64, u64)) {
        match result {
            Err(DeviceError::Shape { expected, got, .. }) => assert_eq!((expected, got), numbers),
            other => panic!("{other:?}"),
        }
    }
    let mut device = device::<R>();
    let mut pads = device.alloc_pads(2).expect("memory");
    let mut loads = device.alloc_loads(3).expect("memory");
    assert_eq!((pads.capacity(), pads.drawn(), loads.slots()), (2, 0, 3));
    let (mut seeds, mut hits) = (Vec::new(), Vec::new());
    refused(device.draw(&job(3), &mut pads, &mut seeds), (2, 3));
    let item = |pad_slot, load_slot| [ScanItem { pad_slot, load_slot, available: 1 }];
    refused(device.scan(&pads, &loads, &item(0, 0), &ANY_QUALITY, &mut hits), (0, 0));
    device.draw(&job(1), &mut pads, &mut seeds).expect("a draw");
    refused(device.scan(&pads, &loads, &item(1, 0), &ANY_QUALITY, &mut hits), (1, 1));
    refused(device.scan(&pads, &loads, &item(0, 3), &ANY_QUALITY, &mut hits), (3, 3));
    refused(device.upload_loads(&mut loads, 0, &vec![0; BYTES_PER_LOAD + 1]), (262_144, 262_145));
    refused(device.upload_loads(&mut loads, 3, &vec![0; BYTES_PER_LOAD]), (3, 4));
    refused(device.upload_loads(&mut loads, u32::MAX, &vec![0; BYTES_PER_LOAD]), (3, 1 << 32));
    refused(device.seal(&[[0; 32]; 2], &mut [0; 4096]), (8192, 4096));
    refused(device.seal(&[], &mut [0; 1]), (0, 1));

    device.upload_loads(&mut loads, 3, &[]).expect("nothing to upload");
    device.seal(&[], &mut []).expect("nothing to seal");
    device.draw(&job(0), &mut pads, &mut seeds).expect("nothing to draw");
    assert_eq!((pads.drawn(), seeds.len()), (0, 0));
    // More than any card has.
    for (result, bytes) in [
        (device.alloc_pads(u32::MAX).map(drop), u64::from(u32::MAX) * BYTES_PER_PAD as u64),
        (device.alloc_loads(u32::MAX).map(drop), u64::from(u32::MAX) * BYTES_PER_LOAD as u64),
    ] {
        assert!(matches!(result, Err(DeviceError::OutOfMemory { wanted, .. }) if wanted == bytes), "{result:?}");
    }
    assert!(device.preferred_batch() > 0);
    assert!(Device::<R>::open(1000).is_err());
}

fn config() -> ProptestConfig {
    // A failing case is printed; nothing is stored beside the sources.
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

fn draws_equal_the_twin<R: Runtime>() {
    proptest!(config(), |(miner_id: [u8; 32], nonce_base: [u8; 32], subtask_digest: [u8; 32], range_digest: [u8; 32])| {
        let job = DrawJob { miner_id, nonce_base, count: 2, subtask_digest, range_digest };
        let (_, recall_seeds) = draw(&mut device::<R>(), &job);
        for i in 0..2 {
            prop_assert_eq!(recall_seeds[i as usize], twin::draw(&job, i).recall_seed);
        }
    });
}

fn seals_equal_the_twin<R: Runtime>() {
    proptest!(config(), |(masks in prop::collection::vec(any::<[u8; 32]>(), 0..4), seed: u64)| {
        let data = noise(&seed.to_string(), masks.len() * BYTES_PER_SEAL);
        let (mut ours, mut plain) = (data.clone(), data);
        device::<R>().seal(&masks, &mut ours).expect("a seal");
        for (mask, seal) in masks.iter().zip(plain.chunks_mut(BYTES_PER_SEAL)) {
            twin::seal(*mask, seal);
        }
        prop_assert!(ours == plain);
    });
}

fn scans_equal_the_twin<R: Runtime>() {
    proptest!(config(), |(
        load_seed: u64, nonce_base: [u8; 32], available: u64, target_top: u8,
        slots in prop::collection::vec((0u32..2, 0u32..3), 1..4),
    )| {
        let job = DrawJob { nonce_base, ..job(2) };
        let pads_twin = [twin::draw(&job, 0), twin::draw(&job, 1)];
        let loads_twin: Vec<Vec<u8>> = (0..3).map(|i| noise(&format!("{load_seed} {i}"), BYTES_PER_LOAD)).collect();
        let items: Vec<ScanItem> =
            slots.into_iter().map(|(pad_slot, load_slot)| ScanItem { pad_slot, load_slot, available }).collect();
        let mut target = ANY_QUALITY;
        target[0] = target_top;
        let mut device = device::<R>();
        let (pads, _) = draw(&mut device, &job);
        let loads = upload(&mut device, &loads_twin);
        let mut hits = Vec::new();
        device.scan(&pads, &loads, &items, &target, &mut hits).expect("a scan");
        prop_assert_eq!(hits, twin::scan(&pads_twin, &loads_twin, &items, &target));
    });
}
