//! What the tests share: a device, the plain twins of the kernels, and the vectors.

#![allow(dead_code, reason = "every test binary uses a part of it")]

pub(crate) mod blob;

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tiny_keccak::{Hasher, Keccak};
use zgpu_core::work::{DrawJob, ScanHit, ScanItem};
use zgpu_shaders::{PoraDevice, Tuning};

/// When set to 1, a machine without an adapter fails the tests instead of skipping them.
const REQUIRE: &str = "ZGPU_REQUIRE_WGPU";

/// The first device; `None`, with the reason printed, where a machine has no adapter.
pub(crate) fn device() -> Option<PoraDevice> {
    device_tuned(Tuning::default())
}

/// [`device`], with other bounds on the pieces of work.
pub(crate) fn device_tuned(tuning: Tuning) -> Option<PoraDevice> {
    there_is_a_device().then(|| PoraDevice::open_tuned(0, tuning).expect("a listed device opens"))
}

/// Whether there is a device; where there is none, the reason is printed.
pub(crate) fn there_is_a_device() -> bool {
    let (devices, unusable) = zgpu_shaders::list();
    if devices.is_empty() {
        assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{REQUIRE}=1, but: {unusable:?}");
        eprintln!("skipped, no wgpu device: {unusable:?}");
    }
    !devices.is_empty()
}

/// A device that the tests of a binary take turns on, so that its kernels are compiled once.
pub(crate) fn shared() -> Option<MutexGuard<'static, PoraDevice>> {
    static SHARED: OnceLock<Option<Mutex<PoraDevice>>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| device().map(Mutex::new)).as_ref()?;
    Some(shared.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn keccak256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Keccak::v256();
    parts.iter().for_each(|part| hasher.update(part));
    let mut digest = [0; 32];
    hasher.finalize(&mut digest);
    digest
}

fn blake2b_512(parts: &[&[u8]]) -> [u8; 64] {
    let mut state = blake2b_simd::State::new();
    parts.iter().for_each(|part| {
        state.update(part);
    });
    *state.finalize().as_array()
}

/// A number as 32 bytes, big-endian.
pub(crate) fn u256_be(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What a draw gives for one nonce.
pub(crate) struct Drawn {
    pub(crate) pad_seed: [u8; 64],
    pub(crate) pad: Vec<u8>,
    pub(crate) recall_seed: [u8; 32],
}

/// The twin of `draw_pads`.
pub(crate) fn draw(job: &DrawJob, number: u32) -> Drawn {
    let pad_seed = blake2b_512(&[&job.miner_id, &job.nonce(number), &job.subtask_digest, &job.range_digest]);
    let mut cell = pad_seed;
    let mut pad = Vec::new();
    for _ in 0..256 {
        let front = keccak256(&[&cell]);
        cell[..32].copy_from_slice(&front);
        let back = keccak256(&[&cell]);
        cell[32..].copy_from_slice(&back);
        pad.extend_from_slice(&cell);
    }
    Drawn { pad_seed, pad, recall_seed: keccak256(&[&cell]) }
}

/// The twin of the hash in `scan_items`: quality of one seal of a load.
pub(crate) fn quality(drawn: &Drawn, load: &[u8], seal: usize) -> [u8; 32] {
    let sealed = &load[seal * 4096..][..4096];
    let quarter = &drawn.pad[seal % 4 * 4096..][..4096];
    let mixed: Vec<u8> = sealed.iter().zip(quarter).map(|(p, q)| p ^ q).collect();
    let hash = blake2b_512(&[&u256_be(seal as u64), &drawn.pad_seed, &[0; 32], &mixed]);
    hash[..32].try_into().expect("half of it")
}

/// The twin of `scan`.
pub(crate) fn scan(pads: &[Drawn], loads: &[u8], items: &[ScanItem], target: &[u8; 32]) -> Vec<ScanHit> {
    let mut hits = Vec::new();
    for (number, item) in (0..).zip(items) {
        let load = &loads[item.load_slot as usize * 262_144..][..262_144];
        for seal in (0..64).filter(|seal| item.available >> seal & 1 == 1) {
            let quality = quality(&pads[item.pad_slot as usize], load, seal);
            if quality <= *target {
                hits.push(ScanHit { item: number, seal: seal as u32, quality });
            }
        }
    }
    hits
}

/// The twin of `seal_units`, one seal.
pub(crate) fn seal(first_mask: &[u8; 32], data: &mut [u8]) {
    let mut mask = *first_mask;
    for unit in data.chunks_exact_mut(32) {
        unit.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        mask = keccak256(&[unit]);
    }
}

/// Bytes that look random: keccak256 of a seed and a counter, one after the other.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let block = |counter: u64| keccak256(&[&seed.to_be_bytes(), &counter.to_be_bytes()]);
    let mut bytes: Vec<u8> = (0..length.div_ceil(32) as u64).flat_map(block).collect();
    bytes.truncate(length);
    bytes
}

/// A draw of `count` nonces, the other fields from a seed.
pub(crate) fn job(seed: u64, count: u32) -> DrawJob {
    let field = |name: &str| keccak256(&[name.as_bytes(), &seed.to_be_bytes()]);
    DrawJob {
        miner_id: field("miner"),
        nonce_base: field("nonce"),
        count,
        subtask_digest: field("subtask"),
        range_digest: field("range"),
    }
}
