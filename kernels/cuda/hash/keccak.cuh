// Keccak-256 of one message per thread.
//
// Source of the formulas: Keccak reference (rate 1088, capacity 512, padding 0x01 .. 0x80), as Ethereum uses it.
// State: 25 lanes, lane x + 5y; bytes of the message fill the lanes in order, little-endian.
// Cost: a message of 32 or 64 bytes is one permutation. The first round sees mostly zero lanes and the last one gives 4 lanes only;
// the 22 rounds between run as a loop of two, 6 KiB of code, so that the instruction cache nearest to the lanes holds it.
// Shared memory: none. Twin: tests/twin.
#pragma once

#include "word.cuh"

// Round constants, low and high halves side by side.
__constant__ u64 KECCAK_ROUND_CONSTANTS[24] = {
    0x0000000000000001ull, 0x0000000000008082ull, 0x800000000000808aull, 0x8000000080008000ull, 0x000000000000808bull,
    0x0000000080000001ull, 0x8000000080008081ull, 0x8000000000008009ull, 0x000000000000008aull, 0x0000000000000088ull,
    0x0000000080008009ull, 0x000000008000000aull, 0x000000008000808bull, 0x800000000000008bull, 0x8000000000008089ull,
    0x8000000000008003ull, 0x8000000000008002ull, 0x8000000000000080ull, 0x000000000000800aull, 0x800000008000000aull,
    0x8000000080008081ull, 0x8000000000008080ull, 0x0000000080000001ull, 0x8000000080008008ull,
};

// rho and pi, then chi and iota, on lanes that theta has been through. Every other rotation runs on the multiply-add pipe: that
// takes a seventh of the work off the logic pipe, and keeps the other one idle enough even where its wide products run at a
// quarter of its rate.
__device__ __forceinline__ void keccak_rho_pi_chi_iota(Lane (&a)[25], Lane round_constant) {
    const int rho[25] = {0,  1,  62, 28, 27, 36, 44, 6,  55, 20, 3,  10, 43,
                         25, 39, 41, 45, 15, 21, 8,  18, 2,  61, 56, 14};
    Lane b[25];
#pragma unroll
    for (int y = 0; y < 5; y++) {
#pragma unroll
        for (int x = 0; x < 5; x++) {
            const int i = x + 5 * y;
            b[y + 5 * ((2 * x + 3 * y) % 5)] =
                i % 2 == 1 ? rotate_left_by_multiply(a[i], rho[i]) : rotate_left(a[i], rho[i]);
        }
    }
#pragma unroll
    for (int y = 0; y < 5; y++) {
#pragma unroll
        for (int x = 0; x < 5; x++) {
            a[x + 5 * y] = xor_andnot(b[x + 5 * y], b[(x + 1) % 5 + 5 * y], b[(x + 2) % 5 + 5 * y]);
        }
    }
    a[0] = xor2(a[0], round_constant);
}

// One full round. theta is applied as a ^ column ^ rotated column, one LOP3 a half, without forming their sum first.
__device__ __forceinline__ void keccak_round(Lane (&a)[25], Lane round_constant) {
    Lane column[5], rotated[5];
#pragma unroll
    for (int x = 0; x < 5; x++) {
        column[x] = xor3(xor3(a[x], a[x + 5], a[x + 10]), a[x + 15], a[x + 20]);
    }
#pragma unroll
    for (int x = 0; x < 5; x++) {
        rotated[x] = rotate_left(column[x], 1);
    }
#pragma unroll
    for (int i = 0; i < 25; i++) {
        a[i] = xor3(a[i], column[(i + 4) % 5], rotated[(i + 1) % 5]);
    }
    keccak_rho_pi_chi_iota(a, round_constant);
}

// keccak256(message), message and digest as little-endian lanes; LANES is 4 (32 bytes) or 8 (64 bytes).
template <int LANES>
__device__ __forceinline__ void keccak256(Lane (&digest)[4], const Lane (&message)[LANES]) {
    Lane a[25];
#pragma unroll
    for (int i = 0; i < 25; i++) {
        a[i] = lane(i == LANES ? 1ull : i == 16 ? 1ull << 63 : 0ull);
        if (i < LANES) {
            a[i] = message[i];
        }
    }

    // Round 0: the lanes behind the message are constants, so theta leaves most of them equal to its own words.
    Lane column[5], theta[5];
#pragma unroll
    for (int x = 0; x < 5; x++) {
        column[x] = xor2(xor2(a[x], a[x + 5]), a[x + 15]);
    }
#pragma unroll
    for (int x = 0; x < 5; x++) {
        theta[x] = xor2(column[(x + 4) % 5], rotate_left(column[(x + 1) % 5], 1));
    }
#pragma unroll
    for (int i = 0; i < 25; i++) {
        a[i] = xor2(a[i], theta[i % 5]);
    }
    keccak_rho_pi_chi_iota(a, lane(0x0000000000000001ull));

#pragma unroll 1
    for (int round = 1; round < 23; round += 2) {
        keccak_round(a, lane(KECCAK_ROUND_CONSTANTS[round]));
        keccak_round(a, lane(KECCAK_ROUND_CONSTANTS[round + 1]));
    }
    keccak_round(a, lane(0x8000000080008008ull));
#pragma unroll
    for (int i = 0; i < 4; i++) {
        digest[i] = a[i];
    }
}

// keccak-f[1600] on all lanes, for messages of more than one block.
__device__ __forceinline__ void keccak_permute(Lane (&a)[25]) {
#pragma unroll 1
    for (int round = 0; round < 24; round += 2) {
        keccak_round(a, lane(KECCAK_ROUND_CONSTANTS[round]));
        keccak_round(a, lane(KECCAK_ROUND_CONSTANTS[round + 1]));
    }
}
