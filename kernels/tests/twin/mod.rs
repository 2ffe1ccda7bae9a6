//! The plain twin of the kernels: the formulas as the protocol states them, one after the other.

use blake2b_simd::{Params, State};
use tiny_keccak::{Hasher, Keccak};
use zgpu_core::units::{BYTES_PER_SEAL, CELLS_PER_PAD, SEALS_PER_PAD, UNITS_PER_SEAL};
use zgpu_core::work::{DrawJob, ScanHit, ScanItem};

pub(crate) fn keccak256(bytes: &[u8]) -> [u8; 32] {
    let mut keccak = Keccak::v256();
    keccak.update(bytes);
    let mut digest = [0; 32];
    keccak.finalize(&mut digest);
    digest
}

fn blake2b() -> State {
    Params::new().hash_length(64).to_state()
}

/// Scratch pad, pad seed and recall seed of nonce `i` of a job.
pub(crate) struct Pad {
    pub(crate) bytes: Vec<u8>,
    pub(crate) seed: [u8; 64],
    pub(crate) recall_seed: [u8; 32],
}

pub(crate) fn draw(job: &DrawJob, i: u32) -> Pad {
    let mut state = blake2b();
    state.update(&job.miner_id).update(&job.nonce(i)).update(&job.subtask_digest).update(&job.range_digest);
    let seed: [u8; 64] = *state.finalize().as_array();
    let mut d = seed;
    let mut bytes = Vec::new();
    for _ in 0..CELLS_PER_PAD {
        for half in [0..32, 32..64] {
            let digest = keccak256(&d);
            d[half].copy_from_slice(&digest);
        }
        bytes.extend_from_slice(&d);
    }
    Pad { bytes, seed, recall_seed: keccak256(&d) }
}

/// Quality of one seal, whatever the target.
pub(crate) fn quality(pad: &Pad, seal: usize, sealed: &[u8]) -> [u8; 32] {
    let mut index = [0; 32];
    index[31] = seal as u8;
    let quarter = &pad.bytes[seal % SEALS_PER_PAD * BYTES_PER_SEAL..][..BYTES_PER_SEAL];
    let mixed: Vec<u8> = sealed.iter().zip(quarter).map(|(a, b)| a ^ b).collect();
    let mut state = blake2b();
    state.update(&index).update(&pad.seed).update(&[0; 32]).update(&mixed);
    state.finalize().as_bytes()[..32].try_into().expect("32 of 64 bytes")
}

/// The hits of a scan, in order.
pub(crate) fn scan(pads: &[Pad], loads: &[Vec<u8>], items: &[ScanItem], target: &[u8; 32]) -> Vec<ScanHit> {
    let mut hits = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let load = &loads[item.load_slot as usize];
        for (seal, sealed) in load.chunks(BYTES_PER_SEAL).enumerate() {
            let quality = quality(&pads[item.pad_slot as usize], seal, sealed);
            if item.available >> seal & 1 == 1 && quality <= *target {
                hits.push(ScanHit { item: index as u32, seal: seal as u32, quality });
            }
        }
    }
    hits
}

/// Seals 4 KiB in place.
pub(crate) fn seal(first_mask: [u8; 32], data: &mut [u8]) {
    assert_eq!(data.len(), UNITS_PER_SEAL * 32);
    let mut mask = first_mask;
    for unit in data.chunks_mut(32) {
        unit.iter_mut().zip(mask).for_each(|(byte, m)| *byte ^= m);
        mask = keccak256(unit);
    }
}
