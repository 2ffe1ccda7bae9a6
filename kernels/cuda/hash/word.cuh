// Words: 64-bit lanes held as two 32-bit halves, and the few operations that the hashes are made of.
//
// A GPU has 32-bit registers and no 64-bit logic, so both hashes spend their time here. Each function below is one or two
// machine instructions; the device spells them in PTX where the compiler would otherwise merge them into longer forms,
// the host build (host/shim.hpp) has the same meaning in plain C++.
#pragma once

#ifdef ZGPU_HOST
#include "../host/shim.hpp"
#endif

typedef unsigned int u32;
typedef unsigned long long u64;

// A 64-bit word: lo has bits 0..31.
struct Lane {
    u32 lo, hi;
};

__device__ __forceinline__ Lane lane(u64 word) {
    Lane l;
    l.lo = (u32)word;
    l.hi = (u32)(word >> 32);
    return l;
}

__device__ __forceinline__ u64 word(Lane l) {
    return ((u64)l.hi << 32) | l.lo;
}

__device__ __forceinline__ Lane xor2(Lane a, Lane b) {
    Lane r;
    r.lo = a.lo ^ b.lo;
    r.hi = a.hi ^ b.hi;
    return r;
}

// a ^ b ^ c in one LOP3.
__device__ __forceinline__ u32 xor3(u32 a, u32 b, u32 c) {
#ifdef ZGPU_HOST
    return a ^ b ^ c;
#else
    u32 r;
    asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
#endif
}

__device__ __forceinline__ Lane xor3(Lane a, Lane b, Lane c) {
    Lane r;
    r.lo = xor3(a.lo, b.lo, c.lo);
    r.hi = xor3(a.hi, b.hi, c.hi);
    return r;
}

// a ^ (~b & c) in one LOP3.
__device__ __forceinline__ u32 xor_andnot(u32 a, u32 b, u32 c) {
#ifdef ZGPU_HOST
    return a ^ (~b & c);
#else
    u32 r;
    asm("lop3.b32 %0, %1, %2, %3, 0xd2;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
#endif
}

__device__ __forceinline__ Lane xor_andnot(Lane a, Lane b, Lane c) {
    Lane r;
    r.lo = xor_andnot(a.lo, b.lo, c.lo);
    r.hi = xor_andnot(a.hi, b.hi, c.hi);
    return r;
}

// Rotation towards the high end by a constant 0 <= bits < 64: two funnel shifts, or none for 0 and 32.
__device__ __forceinline__ Lane rotate_left(Lane a, int bits) {
    const bool swap = bits >= 32;
    const u32 low = swap ? a.hi : a.lo;
    const u32 high = swap ? a.lo : a.hi;
    Lane r;
    r.lo = __funnelshift_l(high, low, bits & 31);
    r.hi = __funnelshift_l(low, high, bits & 31);
    return r;
}

// The multiply-add pipe ------------------------------------------------------------------------------------------------
// Logic, shifts and plain sums share one pipe, and hashing waits for it; multiply-adds run on another one beside it. So a part
// of the sums and rotations below are products by a power of two. The powers lie where the compiler cannot know their values,
// or it would turn the products back into shifts.

__constant__ u32 POWERS_OF_TWO[32] = {
    1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,  1u << 8,  1u << 9,  1u << 10,
    1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15, 1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21,
    1u << 22, 1u << 23, 1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31,
};

// a + b: the low halves on the logic pipe with a carry out, the high halves on the multiply-add pipe.
__device__ __forceinline__ Lane add(Lane a, Lane b) {
#ifdef ZGPU_HOST
    return lane(word(a) + word(b));
#else
    Lane r;
    asm("add.cc.u32 %0, %2, %4; madc.lo.u32 %1, %5, %6, %3;"
        : "=&r"(r.lo), "=r"(r.hi)
        : "r"(a.lo), "r"(a.hi), "r"(b.lo), "r"(b.hi), "r"(POWERS_OF_TWO[0]));
    return r;
#endif
}

// a + b on the multiply-add pipe alone: one wide product with b as the addend (a register pair that is best left in place), and a
// narrow one.
__device__ __forceinline__ Lane add_by_multiply(Lane a, Lane b) {
#ifdef ZGPU_HOST
    return add(a, b);
#else
    Lane r;
    asm("mad.lo.cc.u32 %0, %2, %6, %4; madc.hi.u32 %1, %2, %6, %5; mad.lo.u32 %1, %3, %6, %1;"
        : "=&r"(r.lo), "=&r"(r.hi)
        : "r"(a.lo), "r"(a.hi), "r"(b.lo), "r"(b.hi), "r"(POWERS_OF_TWO[0]));
    return r;
#endif
}

// The same as rotate_left, on the multiply-add pipe alone: four products in place of two funnel shifts.
__device__ __forceinline__ Lane rotate_left_by_multiply(Lane a, int bits) {
    const bool swap = bits >= 32;
    const u32 low = swap ? a.hi : a.lo;
    const u32 high = swap ? a.lo : a.hi;
    const u32 power = POWERS_OF_TWO[bits & 31];
    Lane r;
    r.lo = low * power + __umulhi(high, power);
    r.hi = high * power + __umulhi(low, power);
    return r;
}

__device__ __forceinline__ u32 swap_bytes(u32 a) {
    return __byte_perm(a, 0, 0x0123);
}
