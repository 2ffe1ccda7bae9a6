//! Keccak-f[1600] over lanes, and keccak256 of the two short messages that PoRA is made of.
//!
//! Source: the Keccak reference (theta, rho, pi, chi, iota); word x + 5y of a state is the reference's A[x, y].

use super::lanes::Lanes;

const ROUND_CONSTANTS: [u64; 24] = [
    0x0000000000000001,
    0x0000000000008082,
    0x800000000000808a,
    0x8000000080008000,
    0x000000000000808b,
    0x0000000080000001,
    0x8000000080008081,
    0x8000000000008009,
    0x000000000000008a,
    0x0000000000000088,
    0x0000000080008009,
    0x000000008000000a,
    0x000000008000808b,
    0x800000000000008b,
    0x8000000000008089,
    0x8000000000008003,
    0x8000000000008002,
    0x8000000000000080,
    0x000000000000800a,
    0x800000008000000a,
    0x8000000080008081,
    0x8000000000008080,
    0x0000000080000001,
    0x8000000080008008,
];

/// The padding of Keccak-256 behind a message of whole words, in the 17 words of a block: a 1 bit, zeros, a 1 bit.
const FIRST_PAD_WORD: u64 = 1;
const LAST_PAD_WORD: u64 = 1 << 63;

/// Applies all 24 rounds.
#[inline(always)]
pub(super) fn permute<L: Lanes>(mut a: [L; 25]) -> [L; 25] {
    for constant in &ROUND_CONSTANTS {
        a = round(a, *constant);
    }
    a
}

#[inline(always)]
fn round<L: Lanes>(a: [L; 25], constant: u64) -> [L; 25] {
    macro_rules! column {
        ($x:literal) => {
            a[$x].xor3(a[$x + 5], a[$x + 10]).xor3(a[$x + 15], a[$x + 20])
        };
    }
    let c = [column!(0), column!(1), column!(2), column!(3), column!(4)];
    let r = [c[0].rotl::<1>(), c[1].rotl::<1>(), c[2].rotl::<1>(), c[3].rotl::<1>(), c[4].rotl::<1>()];
    let d = [c[4].xor(r[1]), c[0].xor(r[2]), c[1].xor(r[3]), c[2].xor(r[4]), c[3].xor(r[0])];
    // Word `i` after theta, rotated: what pi then moves.
    macro_rules! rho {
        ($i:literal, $rotation:literal) => {
            a[$i].theta(c[($i + 4) % 5], r[($i + 1) % 5], d[$i % 5]).rotl::<$rotation>()
        };
    }
    let b0 = a[0].theta(c[4], r[1], d[0]);
    let b1 = rho!(6, 44);
    let b2 = rho!(12, 43);
    let b3 = rho!(18, 21);
    let b4 = rho!(24, 14);
    let b5 = rho!(3, 28);
    let b6 = rho!(9, 20);
    let b7 = rho!(10, 3);
    let b8 = rho!(16, 45);
    let b9 = rho!(22, 61);
    let b10 = rho!(1, 1);
    let b11 = rho!(7, 6);
    let b12 = rho!(13, 25);
    let b13 = rho!(19, 8);
    let b14 = rho!(20, 18);
    let b15 = rho!(4, 27);
    let b16 = rho!(5, 36);
    let b17 = rho!(11, 10);
    let b18 = rho!(17, 15);
    let b19 = rho!(23, 56);
    let b20 = rho!(2, 62);
    let b21 = rho!(8, 55);
    let b22 = rho!(14, 39);
    let b23 = rho!(15, 41);
    let b24 = rho!(21, 2);
    [
        b0.chi(b1, b2).xor(L::splat(constant)),
        b1.chi(b2, b3),
        b2.chi(b3, b4),
        b3.chi(b4, b0),
        b4.chi(b0, b1),
        b5.chi(b6, b7),
        b6.chi(b7, b8),
        b7.chi(b8, b9),
        b8.chi(b9, b5),
        b9.chi(b5, b6),
        b10.chi(b11, b12),
        b11.chi(b12, b13),
        b12.chi(b13, b14),
        b13.chi(b14, b10),
        b14.chi(b10, b11),
        b15.chi(b16, b17),
        b16.chi(b17, b18),
        b17.chi(b18, b19),
        b18.chi(b19, b15),
        b19.chi(b15, b16),
        b20.chi(b21, b22),
        b21.chi(b22, b23),
        b22.chi(b23, b24),
        b23.chi(b24, b20),
        b24.chi(b20, b21),
    ]
}

/// keccak256 of a message of 8 words (a cell of a scratch pad).
#[inline(always)]
pub(super) fn hash_cell<L: Lanes>(m: &[L; 8]) -> [L; 4] {
    let (o, first, last) = (L::splat(0), L::splat(FIRST_PAD_WORD), L::splat(LAST_PAD_WORD));
    let state = permute([
        m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], first, o, o, o, o, o, o, o, last, o, o, o, o, o, o, o, o,
    ]);
    [state[0], state[1], state[2], state[3]]
}

/// keccak256 of a message of 4 words (a sealed unit).
#[inline(always)]
pub(super) fn hash_unit<L: Lanes>(m: &[L; 4]) -> [L; 4] {
    let (o, first, last) = (L::splat(0), L::splat(FIRST_PAD_WORD), L::splat(LAST_PAD_WORD));
    let state = permute([m[0], m[1], m[2], m[3], first, o, o, o, o, o, o, o, o, o, o, o, last, o, o, o, o, o, o, o, o]);
    [state[0], state[1], state[2], state[3]]
}
