//! Random work: every kernel against its plain twin, also where work is cut into many small pieces.

mod support;

use proptest::prelude::*;
use support::{device_tuned, draw, job, noise, scan, seal, shared};
use zgpu_core::work::{DrawJob, ScanItem};
use zgpu_shaders::{PoraDevice, Tuning};

const LOAD: usize = 262_144;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn check_draw(device: &mut PoraDevice, job: &DrawJob, to_read: &[u32]) {
    let mut pads = device.alloc_pads(job.count).expect("pads");
    let mut recall_seeds = vec![[9; 32]; 3];
    device.draw(job, &mut pads, &mut recall_seeds).expect("a draw");
    assert_eq!((recall_seeds.len(), pads.drawn()), (job.count as usize, job.count));
    for number in 0..job.count {
        let twin = draw(job, number);
        assert_eq!(recall_seeds[number as usize], twin.recall_seed, "recall seed of nonce {number}");
        if to_read.contains(&number) {
            let (pad, seed) = device.read_pad(&pads, number).expect("a drawn pad");
            assert_eq!(seed, twin.pad_seed, "pad seed of nonce {number}");
            assert!(pad[..] == twin.pad[..], "pad of nonce {number}");
        }
    }
}

/// Draws, uploads, scans and compares with the twin; returns how many hits there were.
fn check_scan(
    device: &mut PoraDevice,
    seed: u64,
    nonces: u32,
    slots: u32,
    items: &[ScanItem],
    target: &[u8; 32],
) -> usize {
    let job = job(seed, nonces);
    let mut pads = device.alloc_pads(nonces).expect("pads");
    device.draw(&job, &mut pads, &mut Vec::new()).expect("a draw");
    let bytes = noise(seed, slots as usize * LOAD);
    let mut loads = device.alloc_loads(slots).expect("loads");
    device.upload_loads(&mut loads, 0, &bytes).expect("an upload");

    let mut hits = Vec::new();
    device.scan(&pads, &loads, items, target, &mut hits).expect("a scan");
    let drawn: Vec<_> = (0..nonces).map(|number| draw(&job, number)).collect();
    assert_eq!(hits, scan(&drawn, &bytes, items, target));
    hits.len()
}

fn check_seal(device: &mut PoraDevice, seed: u64, seals: usize) {
    let mut data = noise(seed, seals * 4096);
    let masks: Vec<[u8; 32]> = noise(!seed, seals * 32).as_chunks().0.to_vec();
    let mut twin = data.clone();
    twin.chunks_exact_mut(4096).zip(&masks).for_each(|(data, mask)| seal(mask, data));
    device.seal(&masks, &mut data).expect("a seal");
    assert!(data == twin, "{seals} seals of seed {seed}");
}

proptest! {
    #![proptest_config(cases(6))]

    #[test]
    fn draw_equals_its_twin(seed: u64, count in 1u32..90, low_byte_up: bool) {
        let Some(mut device) = shared() else { return Ok(()) };
        let mut job = job(seed, count);
        if low_byte_up {
            // The counter passes from its low word into its high word within the draw.
            job.nonce_base[28..].copy_from_slice(&(u32::MAX - count / 2).to_be_bytes());
        }
        check_draw(&mut device, &job, &[0, count / 2, count - 1]);
    }

    #[test]
    fn scan_equals_its_twin(
        seed: u64,
        items in prop::collection::vec((0u32..4, 0u32..3, any::<u64>()), 0..9),
        strictness in 0u32..4,
    ) {
        let Some(mut device) = shared() else { return Ok(()) };
        let items: Vec<_> = items
            .into_iter()
            .map(|(pad_slot, load_slot, available)| ScanItem { pad_slot, load_slot, available })
            .collect();
        let mut target = [0xff; 32];
        target[0] >>= strictness;
        check_scan(&mut device, seed, 4, 3, &items, &target);
    }

    #[test]
    fn seal_equals_its_twin(seed: u64, seals in 1usize..80) {
        let Some(mut device) = shared() else { return Ok(()) };
        check_seal(&mut device, seed, seals);
    }
}

#[test]
fn a_nonce_counter_wraps_around() {
    let Some(mut device) = shared() else { return };
    let mut job = job(5, 6);
    job.nonce_base[24..].fill(0xff);
    check_draw(&mut device, &job, &[0, 5]);
}

#[test]
fn a_draw_spans_buffers_and_submissions() {
    // A tile holds 16 pads; a submission has at most 5 nonces, so that its ends meet no tile's ends.
    let tuning = Tuning { binding_bytes: Some(LOAD as u64), submission: Some(5), ..Tuning::default() };
    let Some(mut device) = device_tuned(tuning) else { return };
    check_draw(&mut device, &job(7, 37), &[0, 4, 5, 15, 16, 17, 31, 32, 36]);
}

#[test]
fn a_scan_spans_buffers_and_submissions() {
    // One load a tile, 16 pads a tile, 7 items a submission.
    let tuning = Tuning { binding_bytes: Some(LOAD as u64), submission: Some(7), ..Tuning::default() };
    let Some(mut device) = device_tuned(tuning) else { return };
    let items: Vec<_> = (0..40)
        .map(|n| ScanItem { pad_slot: n * 7 % 20, load_slot: n * 5 % 6, available: 0x8001 << (n % 48) })
        .collect();
    let mut target = [0xff; 32];
    target[0] = 0x7f;
    let hits = check_scan(&mut device, 11, 20, 6, &items, &target);
    assert!((10..70).contains(&hits), "{hits} of 80 seals meet half of the range");
}

#[test]
fn more_tile_pairs_than_dispatches_of_a_submission() {
    // 5 pad tiles and 14 load tiles: 70 pairs, and a submission has at most 64 dispatches.
    let tuning = Tuning { binding_bytes: Some(LOAD as u64), ..Tuning::default() };
    let Some(mut device) = device_tuned(tuning) else { return };
    let items: Vec<_> =
        (0..70).map(|n| ScanItem { pad_slot: n % 5 * 16, load_slot: n % 14, available: 1 << (n % 64) }).collect();
    // A software device starts with small submissions; after some scans one of them takes all items.
    for seed in 12..16 {
        assert_eq!(check_scan(&mut device, seed, 65, 14, &items, &[0xff; 32]), 70);
    }
}

#[test]
fn hits_that_do_not_fit_are_found_all_the_same() {
    // Room for 100 hits, and 5 x 64 of them.
    let tuning = Tuning { hit_capacity: Some(100), ..Tuning::default() };
    let Some(mut device) = device_tuned(tuning) else { return };
    let mut items: Vec<_> =
        (0..5).map(|n| ScanItem { pad_slot: n % 2, load_slot: n % 3, available: u64::MAX }).collect();
    assert_eq!(check_scan(&mut device, 13, 2, 3, &items, &[0xff; 32]), 320);
    // Exactly the room, and one hit more.
    items.truncate(2);
    items[1].available = (1 << 36) - 1;
    assert_eq!(check_scan(&mut device, 14, 2, 3, &items, &[0xff; 32]), 100);
    items[1].available = (1 << 37) - 1;
    assert_eq!(check_scan(&mut device, 15, 2, 3, &items, &[0xff; 32]), 101);
}

#[test]
fn sealing_spans_slots() {
    let tuning = Tuning { submission: Some(3), ..Tuning::default() };
    let Some(mut device) = device_tuned(tuning) else { return };
    for seals in [1, 2, 3, 4, 6, 7, 10] {
        check_seal(&mut device, seals as u64, seals);
    }
}

#[test]
fn seal_count_may_pass_a_full_slot() {
    let Some(mut device) = shared() else { return };
    check_seal(&mut device, 3, 1100);
}

#[test]
fn an_upload_takes_several_steps() {
    // A step has 64 loads.
    let Some(mut device) = shared() else { return };
    let items: Vec<_> =
        [0, 63, 64, 69].map(|load_slot| ScanItem { pad_slot: 0, load_slot, available: 1 << 63 | 1 }).to_vec();
    assert_eq!(check_scan(&mut device, 17, 1, 70, &items, &[0xff; 32]), 8);
}
