//! The protocol's vectors: every case of `miner/vectors/pora.json` was checked against the on-chain verifier.

mod support;

use serde_json::Value;
use support::{keccak256, shared, u256_be};
use zgpu_core::work::{DrawJob, ScanItem};

fn bytes<const N: usize>(case: &Value, field: &str) -> [u8; N] {
    let text = case[field].as_str().unwrap_or_else(|| panic!("{field} is a string"));
    let mut out = [0; N];
    hex::decode_to_slice(text.trim_start_matches("0x"), &mut out).unwrap_or_else(|error| panic!("{field}: {error}"));
    out
}

#[test]
fn every_case_seals_draws_and_scans_to_the_published_bytes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../miner/vectors/pora.json");
    let file: Value =
        serde_json::from_slice(&std::fs::read(path).expect("the vectors are there")).expect("they are JSON");
    let cases = file["cases"].as_array().expect("a list of cases");
    assert_eq!(cases.len(), 8);
    let Some(mut device) = shared() else { return };
    let mut pads = device.alloc_pads(1).expect("a pad");
    let mut loads = device.alloc_loads(1).expect("a load");

    for (number, case) in cases.iter().enumerate() {
        // The raw load, by its rule: word w is keccak256("zgpu-public/N/data/" + decimal w).
        let rule = case["raw_chunk_rule"].as_str().expect("a rule");
        let prefix = rule.split('"').nth(1).expect("a quoted prefix");
        let mut load: Vec<u8> =
            (0..8192).flat_map(|word| keccak256(&[prefix.as_bytes(), word.to_string().as_bytes()])).collect();

        let position: u64 = case["recall_position"].as_str().expect("a number").parse().expect("in decimal");
        let (miner, context) = (bytes::<32>(case, "miner_id"), bytes::<32>(case, "seal_context_digest"));
        let masks: Vec<_> =
            (0..64).map(|seal| keccak256(&[&miner, &context, &u256_be(position + 16 * seal)])).collect();
        device.seal(&masks, &mut load).expect("a seal");
        assert_eq!(keccak256(&[&load]), bytes(case, "sealed_chunk_keccak"), "case {number}: sealed load");

        let job = DrawJob {
            miner_id: miner,
            nonce_base: bytes(case, "nonce"),
            count: 1,
            subtask_digest: bytes(case, "subtask_digest"),
            range_digest: bytes(case, "range_digest"),
        };
        let mut recall_seeds = Vec::new();
        device.draw(&job, &mut pads, &mut recall_seeds).expect("a draw");
        assert_eq!(recall_seeds, [bytes(case, "recall_seed")], "case {number}: recall seed");
        let (pad, seed) = device.read_pad(&pads, 0).expect("a pad");
        assert_eq!(seed, bytes(case, "pad_seed"), "case {number}: pad seed");
        assert_eq!(keccak256(&[&pad]), bytes(case, "scratch_pad_keccak"), "case {number}: pad");

        device.upload_loads(&mut loads, 0, &load).expect("an upload");
        let items = [ScanItem { pad_slot: 0, load_slot: 0, available: u64::MAX }];
        let mut hits = Vec::new();
        device.scan(&pads, &loads, &items, &[0xff; 32], &mut hits).expect("a scan");
        assert_eq!(hits.len(), 64);
        let qualities = case["qualities"].as_array().expect("a list of qualities");
        for (seal, (hit, quality)) in hits.iter().zip(qualities).enumerate() {
            let quality = quality.as_str().expect("a string").trim_start_matches("0x");
            assert_eq!((hit.item, hit.seal), (0, seal as u32));
            assert_eq!(hex::encode(hit.quality), quality, "case {number}, seal {seal}");
        }
    }
}
