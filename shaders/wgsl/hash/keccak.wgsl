// Keccak-f[1600] and the Keccak-256 squeeze.
//
// Purpose: the permutation under every Keccak-256 of the draw, seal and tree kernels.
// Source: FIPS 202 sections 3.2 and 3.3; Keccak-256 pads with 0x01 .. 0x80 (the pre-standard rule that Ethereum uses).
// Input: 25 lanes, lane x + 5y; a 64-bit lane is vec2(low half, high half), bytes little-endian.
// Output: the first four lanes after the permutation, 32 bytes.
// Grid: none, a function of one thread. Shared memory: none. All lane numbers are literals, so that lanes live in registers.
// Twin: tiny-keccak in tests/support.

// Round constants, (low, high, 0, 0) each. A uniform and not a WGSL constant: a constant array that is indexed by the round
// would be copied into private memory by some drivers.
@group(0) @binding(7) var<uniform> keccak_rounds: array<vec4<u32>, 24>;

// Padding of a message shorter than 136 bytes ends in 0x80 at byte 135: the top bit of lane 16.
const KECCAK_LAST_BIT = vec2<u32>(0u, 0x80000000u);

struct Digest {
    lanes: array<vec2<u32>, 4>,
}

// Rotates a lane left by 1 to 31 bits. For 33 to 63, swap the halves first.
fn rotate_left(v: vec2<u32>, n: u32) -> vec2<u32> {
    return (v << vec2<u32>(n)) | (v.yx >> vec2<u32>(32u - n));
}

// One round but the last of a squeeze, in place.
fn keccak_round(state: ptr<function, array<vec2<u32>, 25>>, round: u32) {
    let c0 = (*state)[0] ^ (*state)[5] ^ (*state)[10] ^ (*state)[15] ^ (*state)[20];
    let c1 = (*state)[1] ^ (*state)[6] ^ (*state)[11] ^ (*state)[16] ^ (*state)[21];
    let c2 = (*state)[2] ^ (*state)[7] ^ (*state)[12] ^ (*state)[17] ^ (*state)[22];
    let c3 = (*state)[3] ^ (*state)[8] ^ (*state)[13] ^ (*state)[18] ^ (*state)[23];
    let c4 = (*state)[4] ^ (*state)[9] ^ (*state)[14] ^ (*state)[19] ^ (*state)[24];
    let d0 = c4 ^ rotate_left(c1, 1u);
    let d1 = c0 ^ rotate_left(c2, 1u);
    let d2 = c1 ^ rotate_left(c3, 1u);
    let d3 = c2 ^ rotate_left(c4, 1u);
    let d4 = c3 ^ rotate_left(c0, 1u);
    let b0 = (*state)[0] ^ d0;
    let b1 = rotate_left(((*state)[6] ^ d1).yx, 12u);
    let b2 = rotate_left(((*state)[12] ^ d2).yx, 11u);
    let b3 = rotate_left((*state)[18] ^ d3, 21u);
    let b4 = rotate_left((*state)[24] ^ d4, 14u);
    let b5 = rotate_left((*state)[3] ^ d3, 28u);
    let b6 = rotate_left((*state)[9] ^ d4, 20u);
    let b7 = rotate_left((*state)[10] ^ d0, 3u);
    let b8 = rotate_left(((*state)[16] ^ d1).yx, 13u);
    let b9 = rotate_left(((*state)[22] ^ d2).yx, 29u);
    let b10 = rotate_left((*state)[1] ^ d1, 1u);
    let b11 = rotate_left((*state)[7] ^ d2, 6u);
    let b12 = rotate_left((*state)[13] ^ d3, 25u);
    let b13 = rotate_left((*state)[19] ^ d4, 8u);
    let b14 = rotate_left((*state)[20] ^ d0, 18u);
    let b15 = rotate_left((*state)[4] ^ d4, 27u);
    let b16 = rotate_left(((*state)[5] ^ d0).yx, 4u);
    let b17 = rotate_left((*state)[11] ^ d1, 10u);
    let b18 = rotate_left((*state)[17] ^ d2, 15u);
    let b19 = rotate_left(((*state)[23] ^ d3).yx, 24u);
    let b20 = rotate_left(((*state)[2] ^ d2).yx, 30u);
    let b21 = rotate_left(((*state)[8] ^ d3).yx, 23u);
    let b22 = rotate_left(((*state)[14] ^ d4).yx, 7u);
    let b23 = rotate_left(((*state)[15] ^ d0).yx, 9u);
    let b24 = rotate_left((*state)[21] ^ d1, 2u);
    (*state)[0] = b0 ^ (~b1 & b2) ^ keccak_rounds[round].xy;
    (*state)[1] = b1 ^ (~b2 & b3);
    (*state)[2] = b2 ^ (~b3 & b4);
    (*state)[3] = b3 ^ (~b4 & b0);
    (*state)[4] = b4 ^ (~b0 & b1);
    (*state)[5] = b5 ^ (~b6 & b7);
    (*state)[6] = b6 ^ (~b7 & b8);
    (*state)[7] = b7 ^ (~b8 & b9);
    (*state)[8] = b8 ^ (~b9 & b5);
    (*state)[9] = b9 ^ (~b5 & b6);
    (*state)[10] = b10 ^ (~b11 & b12);
    (*state)[11] = b11 ^ (~b12 & b13);
    (*state)[12] = b12 ^ (~b13 & b14);
    (*state)[13] = b13 ^ (~b14 & b10);
    (*state)[14] = b14 ^ (~b10 & b11);
    (*state)[15] = b15 ^ (~b16 & b17);
    (*state)[16] = b16 ^ (~b17 & b18);
    (*state)[17] = b17 ^ (~b18 & b19);
    (*state)[18] = b18 ^ (~b19 & b15);
    (*state)[19] = b19 ^ (~b15 & b16);
    (*state)[20] = b20 ^ (~b21 & b22);
    (*state)[21] = b21 ^ (~b22 & b23);
    (*state)[22] = b22 ^ (~b23 & b24);
    (*state)[23] = b23 ^ (~b24 & b20);
    (*state)[24] = b24 ^ (~b20 & b21);
}

// Permutes a state between two blocks of a message.
fn keccak_f(state: ptr<function, array<vec2<u32>, 25>>) {
    for (var round = 0u; round < 24u; round++) {
        keccak_round(state, round);
    }
}

// Permutes a padded state and squeezes 32 bytes.
fn keccak256_of_state(state: ptr<function, array<vec2<u32>, 25>>) -> Digest {
    // The last round is apart: only four of its lanes are needed.
    for (var round = 0u; round < 23u; round++) {
        keccak_round(state, round);
    }
    let c0 = (*state)[0] ^ (*state)[5] ^ (*state)[10] ^ (*state)[15] ^ (*state)[20];
    let c1 = (*state)[1] ^ (*state)[6] ^ (*state)[11] ^ (*state)[16] ^ (*state)[21];
    let c2 = (*state)[2] ^ (*state)[7] ^ (*state)[12] ^ (*state)[17] ^ (*state)[22];
    let c3 = (*state)[3] ^ (*state)[8] ^ (*state)[13] ^ (*state)[18] ^ (*state)[23];
    let c4 = (*state)[4] ^ (*state)[9] ^ (*state)[14] ^ (*state)[19] ^ (*state)[24];
    let d0 = c4 ^ rotate_left(c1, 1u);
    let d1 = c0 ^ rotate_left(c2, 1u);
    let d2 = c1 ^ rotate_left(c3, 1u);
    let d3 = c2 ^ rotate_left(c4, 1u);
    let d4 = c3 ^ rotate_left(c0, 1u);
    let b0 = (*state)[0] ^ d0;
    let b1 = rotate_left(((*state)[6] ^ d1).yx, 12u);
    let b2 = rotate_left(((*state)[12] ^ d2).yx, 11u);
    let b3 = rotate_left((*state)[18] ^ d3, 21u);
    let b4 = rotate_left((*state)[24] ^ d4, 14u);
    return Digest(array<vec2<u32>, 4>(
        b0 ^ (~b1 & b2) ^ keccak_rounds[23].xy,
        b1 ^ (~b2 & b3),
        b2 ^ (~b3 & b4),
        b3 ^ (~b4 & b0),
    ));
}
