//! BLAKE2b's compression function over lanes.
//!
//! Source: RFC 7693. Unkeyed, 64-byte output, no salt and no personalisation.

use super::lanes::Lanes;

const IV: [u64; 8] = [
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
];

/// Parameter block of an unkeyed hash with 64 bytes of output, fan-out 1, depth 1.
const PARAMETERS: u64 = 0x0101_0040;

/// State before the first block.
#[inline(always)]
pub(super) fn start<L: Lanes>() -> [L; 8] {
    [
        L::splat(IV[0] ^ PARAMETERS),
        L::splat(IV[1]),
        L::splat(IV[2]),
        L::splat(IV[3]),
        L::splat(IV[4]),
        L::splat(IV[5]),
        L::splat(IV[6]),
        L::splat(IV[7]),
    ]
}

/// The mixing function G on words of `v`, with two message words.
macro_rules! mix {
    ($v:ident, $a:literal, $b:literal, $c:literal, $d:literal, $x:expr, $y:expr) => {
        $v[$a] = $v[$a].add($v[$b]).add($x);
        $v[$d] = $v[$d].xor($v[$a]).rotr32();
        $v[$c] = $v[$c].add($v[$d]);
        $v[$b] = $v[$b].xor($v[$c]).rotr24();
        $v[$a] = $v[$a].add($v[$b]).add($y);
        $v[$d] = $v[$d].xor($v[$a]).rotr16();
        $v[$c] = $v[$c].add($v[$d]);
        $v[$b] = $v[$b].xor($v[$c]).rotr63();
    };
}

/// Mixes one block of 16 words into the state. `bytes`: message bytes up to and with this block; `last`: the final block.
#[inline(always)]
pub(super) fn compress<L: Lanes>(h: &mut [L; 8], m: &[L; 16], bytes: u64, last: bool) {
    let final_mask = if last { u64::MAX } else { 0 };
    let mut v = [
        h[0],
        h[1],
        h[2],
        h[3],
        h[4],
        h[5],
        h[6],
        h[7],
        L::splat(IV[0]),
        L::splat(IV[1]),
        L::splat(IV[2]),
        L::splat(IV[3]),
        L::splat(IV[4] ^ bytes),
        L::splat(IV[5]),
        L::splat(IV[6] ^ final_mask),
        L::splat(IV[7]),
    ];
    macro_rules! round {
        ($s0:literal, $s1:literal, $s2:literal, $s3:literal, $s4:literal, $s5:literal, $s6:literal, $s7:literal,
         $s8:literal, $s9:literal, $s10:literal, $s11:literal, $s12:literal, $s13:literal, $s14:literal, $s15:literal) => {
            mix!(v, 0, 4, 8, 12, m[$s0], m[$s1]);
            mix!(v, 1, 5, 9, 13, m[$s2], m[$s3]);
            mix!(v, 2, 6, 10, 14, m[$s4], m[$s5]);
            mix!(v, 3, 7, 11, 15, m[$s6], m[$s7]);
            mix!(v, 0, 5, 10, 15, m[$s8], m[$s9]);
            mix!(v, 1, 6, 11, 12, m[$s10], m[$s11]);
            mix!(v, 2, 7, 8, 13, m[$s12], m[$s13]);
            mix!(v, 3, 4, 9, 14, m[$s14], m[$s15]);
        };
    }
    round!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    round!(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    round!(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4);
    round!(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8);
    round!(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13);
    round!(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9);
    round!(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11);
    round!(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10);
    round!(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5);
    round!(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0);
    round!(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    round!(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3);
    h[0] = h[0].xor3(v[0], v[8]);
    h[1] = h[1].xor3(v[1], v[9]);
    h[2] = h[2].xor3(v[2], v[10]);
    h[3] = h[3].xor3(v[3], v[11]);
    h[4] = h[4].xor3(v[4], v[12]);
    h[5] = h[5].xor3(v[5], v[13]);
    h[6] = h[6].xor3(v[6], v[14]);
    h[7] = h[7].xor3(v[7], v[15]);
}
