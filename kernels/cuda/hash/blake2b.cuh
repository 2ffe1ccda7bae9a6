// BLAKE2b-512 compression, one message per thread.
//
// Source of the formulas: RFC 7693; no key, no personalisation, 64 bytes of output.
// Inputs and outputs: chaining value h[8] and block m[16] as little-endian 64-bit words.
// Cost: 12 rounds of 8 mixings, all unrolled (40 KiB of code), because the order of the message words changes every round.
// Shared memory: none. Twin: tests/twin.
#pragma once

#include "word.cuh"

__device__ __forceinline__ Lane rotate_right_32(Lane a) {
    Lane r;
    r.lo = a.hi;
    r.hi = a.lo;
    return r;
}

__device__ __forceinline__ Lane rotate_right_24(Lane a) {
    Lane r;
    r.lo = __byte_perm(a.lo, a.hi, 0x6543);
    r.hi = __byte_perm(a.lo, a.hi, 0x2107);
    return r;
}

__device__ __forceinline__ Lane rotate_right_16(Lane a) {
    Lane r;
    r.lo = __byte_perm(a.lo, a.hi, 0x5432);
    r.hi = __byte_perm(a.lo, a.hi, 0x1076);
    return r;
}

// One mixing of the words a, b, c, d with two message words. Half of its sums run on the multiply-add pipe alone; more would make
// that pipe the one to wait for where wide products run at a quarter of its rate.
__device__ __forceinline__ void blake2b_mix(Lane &a, Lane &b, Lane &c, Lane &d, Lane x, Lane y) {
    a = add(add_by_multiply(a, x), b);
    d = rotate_right_32(xor2(d, a));
    c = add_by_multiply(d, c);
    b = rotate_right_24(xor2(b, c));
    a = add(add_by_multiply(a, y), b);
    d = rotate_right_16(xor2(d, a));
    c = add(c, d);
    b = rotate_left(xor2(b, c), 1);
}

__device__ __forceinline__ u64 blake2b_iv(int i) {
    const u64 iv[8] = {0x6a09e667f3bcc908ull, 0xbb67ae8584caa73bull, 0x3c6ef372fe94f82bull, 0xa54ff53a5f1d36f1ull,
                       0x510e527fade682d1ull, 0x9b05688c2b3e6c1full, 0x1f83d9abfb41bd6bull, 0x5be0cd19137e2179ull};
    return iv[i];
}

// The chaining value before the first block: digest length 64, no key, fanout and depth 1.
__device__ __forceinline__ void blake2b_start(Lane (&h)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        h[i] = lane(blake2b_iv(i) ^ (i == 0 ? 0x01010040ull : 0ull));
    }
}

// h <- compress(h, m): bytes_so_far counts this block too; last is all ones for the last block and zero for the others.
__device__ __forceinline__ void blake2b_compress(Lane (&h)[8], const Lane (&m)[16], u32 bytes_so_far, u32 last) {
    const unsigned char sigma[10][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    };
    Lane v[16];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        v[i] = h[i];
        v[i + 8] = lane(blake2b_iv(i));
    }
    v[12].lo ^= bytes_so_far;
    v[14].lo ^= last;
    v[14].hi ^= last;

#pragma unroll
    for (int round = 0; round < 12; round++) {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            // Four columns, then four diagonals.
            const int diagonal = i / 4, x = i % 4;
            blake2b_mix(v[x], v[4 + (x + diagonal) % 4], v[8 + (x + 2 * diagonal) % 4], v[12 + (x + 3 * diagonal) % 4],
                        m[sigma[round % 10][2 * i]], m[sigma[round % 10][2 * i + 1]]);
        }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
        h[i] = xor3(h[i], v[i], v[i + 8]);
    }
}
