//! The three loops of PoRA over a group of lanes, and their entry points, one set for each instruction set.

use zgpu_core::{
    units::{
        BYTES_PER_CELL, BYTES_PER_LOAD, BYTES_PER_PAD, BYTES_PER_SEAL, CELLS_PER_PAD, SEALS_PER_LOAD, SEALS_PER_PAD,
    },
    work::DrawJob,
};

use super::{blake2b, keccak, lanes::Lanes};

/// Bytes of a BLAKE2b block.
const BYTES_PER_BLOCK: usize = 128;
/// Blocks of a seal.
const BLOCKS_PER_SEAL: usize = BYTES_PER_SEAL / BYTES_PER_BLOCK;
/// Seals of a load that are mixed with the same quarter of a pad.
const SEALS_PER_QUARTER: usize = SEALS_PER_LOAD / SEALS_PER_PAD;

/// Little-endian word `i` of some bytes.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u64 {
    u64::load(&bytes[8 * i..])
}

/// Draws nonces `first` to `first + LANES - 1` of a job.
///
/// `pads`: 16 KiB for each; `pad_seeds`, `recall_seeds`: one for each lane, as bytes; lanes beyond are left alone.
/// Twin: [`crate::plain::draw`].
#[inline(always)]
fn draw<L: Lanes>(
    job: &DrawJob,
    first: u32,
    pads: &mut [u8],
    pad_seeds: &mut [[u8; 64]],
    recall_seeds: &mut [[u8; 32]],
) {
    let mut counters = [0u64; 8];
    for (lane, counter) in counters.iter_mut().enumerate().take(L::LANES) {
        *counter = word(&job.nonce(first.wrapping_add(lane as u32)), 3);
    }
    let mut message = [L::splat(0); 16];
    for (i, part) in [&job.miner_id, &job.nonce_base, &job.subtask_digest, &job.range_digest].into_iter().enumerate() {
        for w in 0..4 {
            message[4 * i + w] = L::splat(word(part, w));
        }
    }
    message[7] = L::from_words(&counters);
    let mut cell = blake2b::start::<L>();
    blake2b::compress(&mut cell, &message, BYTES_PER_BLOCK as u64, true);
    L::transpose_out(&cell, pad_seeds.as_flattened_mut(), BYTES_PER_CELL);
    for i in 0..CELLS_PER_PAD {
        let low = keccak::hash_cell(&cell);
        cell = [low[0], low[1], low[2], low[3], cell[4], cell[5], cell[6], cell[7]];
        let high = keccak::hash_cell(&cell);
        cell = [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]];
        L::transpose_out(&cell, &mut pads[i * BYTES_PER_CELL..], BYTES_PER_PAD);
    }
    let seed = keccak::hash_cell(&cell);
    for (w, words) in seed.iter().enumerate() {
        for (seed, word) in recall_seeds.iter_mut().zip(words.to_words()).take(L::LANES) {
            seed[8 * w..8 * w + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Brings a load into the order in which `scan` reads it: for each group of LANES seals with the same quarter, in turn
/// word 0 of each, word 1 of each, and so on. `load`, `into`: 256 KiB.
#[inline(always)]
fn arrange<L: Lanes>(load: &[u8], into: &mut [u8]) {
    let groups = into.chunks_exact_mut(L::LANES * BYTES_PER_SEAL).enumerate();
    for (group, into) in groups {
        let rows = &load[first_seal::<L>(group) * BYTES_PER_SEAL..];
        for (i, into) in into.chunks_exact_mut(L::LANES * BYTES_PER_CELL).enumerate() {
            let words = L::transpose_in(&rows[i * BYTES_PER_CELL..], SEALS_PER_PAD * BYTES_PER_SEAL);
            for (word, into) in words.into_iter().zip(into.chunks_exact_mut(8 * L::LANES)) {
                word.store(into);
            }
        }
    }
}

/// Seal in lane 0 of a group; the next lane has the seal 4 further on.
#[inline(always)]
fn first_seal<L: Lanes>(group: usize) -> usize {
    let groups_per_quarter = SEALS_PER_QUARTER / L::LANES;
    group / groups_per_quarter + SEALS_PER_PAD * L::LANES * (group % groups_per_quarter)
}

/// A load to hash against a pad.
pub(super) struct ScanJob<'a> {
    /// 16 KiB.
    pub(super) pad: &'a [u8],
    pub(super) pad_seed: &'a [u8; 64],
    /// 256 KiB as `arrange` left them.
    pub(super) load: &'a [u8],
    /// Bit `i`: seal `i` is there.
    pub(super) available: u64,
    /// A big-endian integer.
    pub(super) target: &'a [u8; 32],
}

/// Hashes every available seal and reports those with a quality of at most the target: seal, quality.
///
/// Twin: [`crate::plain::quality`].
#[inline(always)]
fn scan<L: Lanes>(job: &ScanJob<'_>, report: &mut dyn FnMut(u32, [u8; 32])) {
    let target_head = u64::from_be_bytes(*job.target.first_chunk().expect("32 bytes"));
    let groups = job.load[..BYTES_PER_LOAD].chunks_exact(L::LANES * BYTES_PER_SEAL).enumerate();
    for (group, seals) in groups {
        let first = first_seal::<L>(group);
        let mut present = [false; 8];
        for (lane, present) in present.iter_mut().enumerate().take(L::LANES) {
            *present = job.available >> (first + SEALS_PER_PAD * lane) & 1 == 1;
        }
        if present == [false; 8] {
            continue;
        }
        let quarter = &job.pad[first % SEALS_PER_PAD * BYTES_PER_SEAL..][..BYTES_PER_SEAL];
        let state = hash_group::<L>(first, job.pad_seed, quarter, seals);
        let heads = state[0].to_words();
        for (lane, head) in heads.into_iter().enumerate().take(L::LANES) {
            if present[lane] && head.swap_bytes() <= target_head {
                let mut quality = [0u8; 32];
                for (w, bytes) in quality.chunks_exact_mut(8).enumerate() {
                    bytes.copy_from_slice(&state[w].to_words()[lane].to_le_bytes());
                }
                if quality <= *job.target {
                    report((first + SEALS_PER_PAD * lane) as u32, quality);
                }
            }
        }
    }
}

/// PoRA hashes of the seals in one group: words 0 to 3 of the result are the quality.
#[inline(always)]
fn hash_group<L: Lanes>(first: usize, pad_seed: &[u8; 64], quarter: &[u8], seals: &[u8]) -> [L; 8] {
    let mut indices = [0u64; 8];
    for (lane, index) in indices.iter_mut().enumerate() {
        *index = ((first + SEALS_PER_PAD * lane) as u64).swap_bytes();
    }
    let mut message = [L::splat(0); 16];
    message[3] = L::from_words(&indices);
    for w in 0..8 {
        message[4 + w] = L::splat(word(pad_seed, w));
    }
    let mut state = blake2b::start::<L>();
    blake2b::compress(&mut state, &message, BYTES_PER_BLOCK as u64, false);
    for block in 0..BLOCKS_PER_SEAL {
        let seals = &seals[block * L::LANES * BYTES_PER_BLOCK..][..L::LANES * BYTES_PER_BLOCK];
        let pad = &quarter[block * BYTES_PER_BLOCK..][..BYTES_PER_BLOCK];
        for w in 0..16 {
            message[w] = L::load(&seals[8 * L::LANES * w..]).xor(L::splat(word(pad, w)));
        }
        let bytes = (block + 2) * BYTES_PER_BLOCK;
        blake2b::compress(&mut state, &message, bytes as u64, block + 1 == BLOCKS_PER_SEAL);
    }
    state
}

/// Seals LANES consecutive seals in place; one mask for each.
///
/// Twin: [`crate::plain::seal`].
#[inline(always)]
fn seal<L: Lanes>(first_masks: &[[u8; 32]], data: &mut [u8]) {
    let mut mask = [L::splat(0); 4];
    for (w, mask) in mask.iter_mut().enumerate() {
        let mut words = [0u64; 8];
        for (lane, words) in words.iter_mut().enumerate().take(L::LANES) {
            *words = word(&first_masks[lane], w);
        }
        *mask = L::from_words(&words);
    }
    for pair in 0..BYTES_PER_SEAL / BYTES_PER_CELL {
        let rows = &mut data[pair * BYTES_PER_CELL..];
        let m = L::transpose_in(rows, BYTES_PER_SEAL);
        let low = [m[0].xor(mask[0]), m[1].xor(mask[1]), m[2].xor(mask[2]), m[3].xor(mask[3])];
        mask = keccak::hash_unit(&low);
        let high = [m[4].xor(mask[0]), m[5].xor(mask[1]), m[6].xor(mask[2]), m[7].xor(mask[3])];
        mask = keccak::hash_unit(&high);
        let sealed = [low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]];
        L::transpose_out(&sealed, rows, BYTES_PER_SEAL);
    }
}

type DrawEntry = unsafe fn(&DrawJob, u32, &mut [u8], &mut [[u8; 64]], &mut [[u8; 32]]);
type ScanEntry = unsafe fn(&ScanJob<'_>, &mut dyn FnMut(u32, [u8; 32]));

/// One instruction set's entry points. Each may be called only where that set is there.
pub(super) struct Kernels {
    /// Nonces, or seals, in a group.
    pub(super) lanes: usize,
    pub(super) draw: DrawEntry,
    pub(super) arrange: unsafe fn(&[u8], &mut [u8]),
    pub(super) scan: ScanEntry,
    pub(super) seal: unsafe fn(&[[u8; 32]], &mut [u8]),
}

macro_rules! entry_points {
    ($name:ident, $lanes:ty $(, $feature:literal)?) => {
        pub(super) mod $name {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            fn draw(job: &DrawJob, first: u32, pads: &mut [u8], pad_seeds: &mut [[u8; 64]], recall: &mut [[u8; 32]]) {
                super::draw::<$lanes>(job, first, pads, pad_seeds, recall);
            }
            $(#[target_feature(enable = $feature)])?
            fn arrange(load: &[u8], into: &mut [u8]) {
                super::arrange::<$lanes>(load, into);
            }
            $(#[target_feature(enable = $feature)])?
            fn scan(job: &ScanJob<'_>, report: &mut dyn FnMut(u32, [u8; 32])) {
                super::scan::<$lanes>(job, report);
            }
            $(#[target_feature(enable = $feature)])?
            fn seal(first_masks: &[[u8; 32]], data: &mut [u8]) {
                super::seal::<$lanes>(first_masks, data);
            }

            pub(in super::super) const KERNELS: Kernels =
                Kernels { lanes: <$lanes as Lanes>::LANES, draw, arrange, scan, seal };
        }
    };
}

entry_points!(portable, u64);
#[cfg(target_arch = "x86_64")]
entry_points!(avx2, super::super::lanes::Avx2, "avx2");
#[cfg(target_arch = "x86_64")]
entry_points!(avx512, super::super::lanes::Avx512, "avx512f");
