//! The most that a device can do, from the instructions that a nonce needs.
//!
//! A nonce is 513 permutations of keccak-f[1600] and 2,113 compressions of BLAKE2b; sealing takes one permutation for
//! each 32 bytes. Instructions per permutation and compression are counted below, for each instruction set.

use std::time::Instant;

use zgpu_core::{
    blob::Dimensions,
    device::{BackendKind, DeviceInfo},
    units::{BYTES_PER_UNIT, CELLS_PER_PAD, SEALS_PER_LOAD},
};

/// Permutations of a draw: two for each cell and one for the recall seed.
const KECCAKS_PER_DRAW: f64 = 2.0 * CELLS_PER_PAD as f64 + 1.0;
/// Compressions of a draw: the pad seed.
const BLAKES_PER_DRAW: f64 = 1.0;
/// Compressions of a scan: 4224 bytes for each seal.
const BLAKES_PER_SCAN: f64 = 33.0 * SEALS_PER_LOAD as f64;
/// Permutations for a GiB of sealing.
const KECCAKS_PER_GIB: f64 = (1u64 << 30) as f64 / BYTES_PER_UNIT as f64;

/// What one worker can do in a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Permutations a second.
    keccaks: f64,
    /// Compressions a second.
    blakes: f64,
}

impl Limit {
    pub(crate) fn draws(&self) -> f64 {
        1.0 / (KECCAKS_PER_DRAW / self.keccaks + BLAKES_PER_DRAW / self.blakes)
    }

    pub(crate) fn scans(&self) -> f64 {
        self.blakes / BLAKES_PER_SCAN
    }

    pub(crate) fn nonces(&self) -> f64 {
        1.0 / (1.0 / self.draws() + 1.0 / self.scans())
    }

    /// GiB a second.
    pub(crate) fn seals(&self) -> f64 {
        self.keccaks / KECCAKS_PER_GIB
    }

    pub(crate) fn times(self, workers: f64) -> Limit {
        Limit { keccaks: self.keccaks * workers, blakes: self.blakes * workers }
    }
}

/// How a CPU level's limit is computed.
pub(crate) const CPU_RULE: &str = "vector instructions of keccak-f and BLAKE2b at 2 (avx512), 3 (avx2) or 4 (portable) \
                                   a cycle, times the clock measured on one core";

/// One core's limit at a level.
///
/// keccak-f, per round: theta's columns 20 XORs (10 with three-way logic) and 5 rotates, theta on the words 25 operations
/// (30 without three-way logic), rho 24 rotates, chi 50 (25 with three-way logic), iota 1. BLAKE2b: 96 G of 6 adds, 4
/// XORs, 4 rotates, then 16 XORs with the pad and 16 (8) at the end. A rotate is 1 instruction with AVX-512 and on
/// scalars; with AVX2 it is 3, but 1 for BLAKE2b's by 32, 24 and 16.
pub(crate) fn cpu(level: &str, clock: f64) -> Option<Limit> {
    let (lanes, per_cycle, keccak_round, blake) = match level {
        "avx512" => (8.0, 2.0, 10 + 5 + 25 + 24 + 25 + 1, 96 * 14 + 16 + 8),
        "avx2" => (4.0, 3.0, 20 + 3 * 5 + 30 + 3 * 24 + 50 + 1, 96 * 16 + 16 + 16),
        "portable" => (1.0, 4.0, 20 + 5 + 30 + 24 + 50 + 1, 96 * 14 + 16 + 16),
        _ => return None,
    };
    let operations = lanes * per_cycle * clock;
    Some(Limit { keccaks: operations / f64::from(24 * keccak_round), blakes: operations / f64::from(blake) })
}

/// The least seconds that the stages of a blob take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncodeLimit {
    pub(crate) extend: f64,
    pub(crate) commit: f64,
    pub(crate) hash: f64,
}

impl EncodeLimit {
    /// All stages, one behind the other.
    pub(crate) fn blob(&self) -> f64 {
        self.extend + self.commit + self.hash
    }
}

/// Points of a table of multiples that one product of a 254-bit scalar adds up, with digits of 13 bits: with longer ones,
/// buckets of sums of 1,024 points cost more than they save.
const ADDITIONS_PER_PRODUCT: f64 = 20.0;
/// Field products of an addition of affine points with a shared inversion: 3 for its share of that, 2 for the slope and
/// the sum's y, and a square.
const PRODUCTS_PER_ADDITION: f64 = 6.0;
/// Multiply-adds with 52-bit limbs of a Montgomery product: 5 x 5 limbs, twice (the reduction), low and high halves, and
/// 5 for its factors.
const IFMA_PER_PRODUCT: f64 = 105.0;
/// Multiplications with 64-bit limbs of a Montgomery product: 4 x 4 limbs, twice, and 4 for its factors.
const MULTIPLICATIONS_PER_PRODUCT: f64 = 36.0;
/// Multiply-adds with 32-bit limbs of a Montgomery product: 8 x 8 limbs, twice, and 8 for its factors.
const WIDE_PER_PRODUCT: f64 = 136.0;

/// How the limits of encoding are computed.
pub(crate) fn encoding_rule(backend: BackendKind) -> &'static str {
    match backend {
        BackendKind::Cpu => {
            "1 + 3 + 1 + (lg R - 1)/2 products a scalar of 20 affine additions of 6 field products, three NTTs, keccak-f; \
             with avx512ifma 105 multiply-adds for 8 field products, 2 a cycle, else 36 multiplications, 1 a cycle; all \
             cores at the clock measured on one"
        }
        _ => {
            "1 + 3 + 1 + (lg R - 1)/2 products a scalar of 20 affine additions of 6 field products of 136 multiply-adds, \
             32 lanes a clock in each multiprocessor, three NTTs, keccak-f, at the boost clock of the card"
        }
    }
}

/// The limits of a device, if its clock is known.
pub(crate) fn encoding(device: &DeviceInfo, dimensions: Dimensions, host_cores: usize) -> Option<EncodeLimit> {
    let (products_per_second, keccaks_per_second) = match device.backend {
        BackendKind::Cpu => {
            let cycles = clock() * host_cores as f64;
            let products = if device.level.contains("ifma") {
                8.0 * 2.0 / IFMA_PER_PRODUCT
            } else {
                1.0 / MULTIPLICATIONS_PER_PRODUCT
            };
            let hashing = if device.level.contains("avx512") { "avx512" } else { "portable" };
            (products * cycles, cpu(hashing, cycles)?.keccaks)
        }
        _ => {
            let keccaks = cuda(device)?.keccaks;
            // 4,464 instructions a permutation at 64 lanes a clock, 136 a product at 32.
            (keccaks * 4464.0 / 64.0 * 32.0 / WIDE_PER_PRODUCT, keccaks)
        }
    };
    let (scalars, lg_rows) = (dimensions.scalars() as f64, f64::from(dimensions.lg_rows()));
    let per_scalar = 1.0 + 3.0 + 1.0 + (lg_rows - 1.0) / 2.0;
    let ntts = 3.0 * scalars / 2.0 * f64::from(dimensions.lg_scalars());
    // A leaf of 8 scalars takes two permutations, and each node above the leaves one.
    let permutations = 3.0 * scalars / 8.0 * 3.0;
    Some(EncodeLimit {
        extend: ntts / products_per_second,
        commit: scalars * per_scalar * ADDITIONS_PER_PRODUCT * PRODUCTS_PER_ADDITION / products_per_second,
        hash: permutations / keccaks_per_second,
    })
}

/// How a GPU's limit is computed.
pub(crate) const CUDA_RULE: &str = "4,464 integer instructions for keccak-f and 1,940 for BLAKE2b, 64 lanes a clock in \
                                    each multiprocessor, at the boost clock of the card";

/// Boost clocks in GHz of cards that are known, by a part of their names; a longer name comes before a shorter.
const BOOST_CLOCKS: [(&str, f64); 11] = [
    ("H200", 1.98),
    ("H100 PCIe", 1.755),
    ("H100", 1.98),
    ("A100", 1.41),
    ("V100", 1.53),
    ("L40S", 2.52),
    ("RTX 4090", 2.52),
    ("RTX 4080 SUPER", 2.55),
    ("RTX 4080", 2.505),
    ("RTX 3090", 1.695),
    ("RTX 3080", 1.71),
];

/// A CUDA card's limit; `None` when its clock is not known.
pub(crate) fn cuda(device: &DeviceInfo) -> Option<Limit> {
    if device.backend != BackendKind::Cuda || device.compute_units == 0 {
        return None;
    }
    let (_, clock) = BOOST_CLOCKS.iter().find(|(name, _)| device.name.contains(name))?;
    let instructions = 64.0 * f64::from(device.compute_units) * clock * 1e9;
    Some(Limit { keccaks: instructions / 4464.0, blakes: instructions / 1940.0 })
}

/// Clock of the core it runs on, in Hz: a chain of shift, XOR and multiplication takes 1 + 1 + 3 cycles a step on
/// every x86-64 core of the last decade.
pub(crate) fn clock() -> f64 {
    const STEPS: u32 = 200_000;
    let chain = || {
        let start = Instant::now();
        let mut word = std::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
        for _ in 0..STEPS {
            word = (word ^ word >> 7).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        std::hint::black_box(word);
        5.0 * f64::from(STEPS) / start.elapsed().as_secs_f64()
    };
    // Short and often: the fastest chain is one that nothing interrupted.
    (0..200).map(|_| chain()).fold(0.0, f64::max)
}
