// BN254's two prime fields: Fq, the coordinates of points, and Fr, the scalars.
//
// Source of the formulas: Montgomery multiplication (CIOS), R = 2^256. An element x is held as x R mod p, fully reduced, in
// eight 32-bit limbs, the lowest first: 32 bytes, little-endian, the form in which points and scalars lie in device memory.
// Shared memory: none. Twin: ark-ff in tests/field.rs.
//
// The same API for F = Fq and F = Fr, every function __device__ and inlined unless noted:
//   F::zero(), F::one()                the elements 0 and 1
//   add(a, b), sub(a, b), neg(a), dbl(a)
//   mul(a, b), sqr(a)                  about 136 wide products each
//   is_zero(a), equal(a, b)            bool
//   to_mont(a), from_mont(a)           between x and x R mod p; a below p
//   reduce_once(a)                     a below 2p, as plain limbs, to a mod p
//   inv(a)                             a^(p-2), 0 for 0: 254 squarings in a loop, not inlined; for roots of batch inversions
//   load<F>(place), store(place, a)    32 bytes, 16-byte aligned, two vector accesses; place is uint4 * into device memory
//   load_constant<F>(place)            the same through the read-only cache; memory that no kernel writes meanwhile
//   a.v[i]                             the limbs
// Equal inputs give equal limbs on the device and on the host; every result is below p.
#pragma once

#include "../hash/word.cuh"

struct FqModulus {
    // p = 36 u^4 + 36 u^3 + 24 u^2 + 6 u + 1 with u = 4965661367192848881.
    __device__ static constexpr u32 p(int i) {
        constexpr u32 limbs[8] = {0xd87cfd47u, 0x3c208c16u, 0x6871ca8du, 0x97816a91u,
                                  0x8181585du, 0xb85045b6u, 0xe131a029u, 0x30644e72u};
        return limbs[i];
    }
    // 2^256 mod p
    __device__ static constexpr u32 one(int i) {
        constexpr u32 limbs[8] = {0xc58f0d9du, 0xd35d438du, 0xf5c70b3du, 0x0a78eb28u,
                                  0x7879462cu, 0x666ea36fu, 0x9a07df2fu, 0x0e0a77c1u};
        return limbs[i];
    }
    // 2^512 mod p
    __device__ static constexpr u32 square(int i) {
        constexpr u32 limbs[8] = {0x538afa89u, 0xf32cfc5bu, 0xd44501fbu, 0xb5e71911u,
                                  0x0a417ff6u, 0x47ab1effu, 0xcab8351fu, 0x06d89f71u};
        return limbs[i];
    }
    // -1/p mod 2^32 and 2^64
    static constexpr u32 INVERSE = (u32)0x87d20782e4866389ull;
    static constexpr u64 INVERSE_64 = 0x87d20782e4866389ull;
};

struct FrModulus {
    // r = 36 u^4 + 36 u^3 + 18 u^2 + 6 u + 1, the order of the group of points.
    __device__ static constexpr u32 p(int i) {
        constexpr u32 limbs[8] = {0xf0000001u, 0x43e1f593u, 0x79b97091u, 0x2833e848u,
                                  0x8181585du, 0xb85045b6u, 0xe131a029u, 0x30644e72u};
        return limbs[i];
    }
    // 2^256 mod r
    __device__ static constexpr u32 one(int i) {
        constexpr u32 limbs[8] = {0x4ffffffbu, 0xac96341cu, 0x9f60cd29u, 0x36fc7695u,
                                  0x7879462eu, 0x666ea36fu, 0x9a07df2fu, 0x0e0a77c1u};
        return limbs[i];
    }
    // 2^512 mod r
    __device__ static constexpr u32 square(int i) {
        constexpr u32 limbs[8] = {0xae216da7u, 0x1bb8e645u, 0xe35c59e3u, 0x53fe3ab1u,
                                  0x53bb8085u, 0x8c49833du, 0x7f4e44a5u, 0x0216d0b1u};
        return limbs[i];
    }
    // -1/r mod 2^32 and 2^64
    static constexpr u32 INVERSE = (u32)0xc2e1f593efffffffull;
    static constexpr u64 INVERSE_64 = 0xc2e1f593efffffffull;
};

template <typename Modulus>
struct Field {
    u32 v[8];

    __device__ __forceinline__ static Field zero() {
        Field r;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            r.v[i] = 0;
        }
        return r;
    }

    __device__ __forceinline__ static Field one() {
        Field r;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            r.v[i] = Modulus::one(i);
        }
        return r;
    }
};

typedef Field<FqModulus> Fq;
typedef Field<FrModulus> Fr;

// Words --------------------------------------------------------------------------------------------------------------
// Sums and products of eight words. On the device each is one chain of carries, spelled in PTX.

// r = a + b mod 2^256. Neither sum of two elements leaves 256 bits: 2p is below 2^255.
__device__ __forceinline__ void words_add(u32 (&r)[8], const u32 (&a)[8], const u32 (&b)[8]) {
#ifdef ZGPU_HOST
    u64 carry = 0;
    for (int i = 0; i < 8; i++) {
        carry += (u64)a[i] + b[i];
        r[i] = (u32)carry;
        carry >>= 32;
    }
#else
    asm("add.cc.u32 %0, %8, %16; addc.cc.u32 %1, %9, %17; addc.cc.u32 %2, %10, %18; addc.cc.u32 %3, %11, %19;"
        "addc.cc.u32 %4, %12, %20; addc.cc.u32 %5, %13, %21; addc.cc.u32 %6, %14, %22; addc.u32 %7, %15, %23;"
        : "=&r"(r[0]), "=&r"(r[1]), "=&r"(r[2]), "=&r"(r[3]), "=&r"(r[4]), "=&r"(r[5]), "=&r"(r[6]), "=r"(r[7])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), "r"(b[0]), "r"(b[1]),
          "r"(b[2]), "r"(b[3]), "r"(b[4]), "r"(b[5]), "r"(b[6]), "r"(b[7]));
#endif
}

// r = a - b mod 2^256; returns all ones if b is the larger, else 0.
__device__ __forceinline__ u32 words_sub(u32 (&r)[8], const u32 (&a)[8], const u32 (&b)[8]) {
#ifdef ZGPU_HOST
    u64 borrow = 0;
    for (int i = 0; i < 8; i++) {
        const u64 difference = (u64)a[i] - b[i] - borrow;
        r[i] = (u32)difference;
        borrow = difference >> 63;
    }
    return 0u - (u32)borrow;
#else
    u32 borrow;
    asm("sub.cc.u32 %0, %9, %17; subc.cc.u32 %1, %10, %18; subc.cc.u32 %2, %11, %19; subc.cc.u32 %3, %12, %20;"
        "subc.cc.u32 %4, %13, %21; subc.cc.u32 %5, %14, %22; subc.cc.u32 %6, %15, %23; subc.cc.u32 %7, %16, %24;"
        "subc.u32 %8, 0, 0;"
        : "=&r"(r[0]), "=&r"(r[1]), "=&r"(r[2]), "=&r"(r[3]), "=&r"(r[4]), "=&r"(r[5]), "=&r"(r[6]), "=&r"(r[7]),
          "=r"(borrow)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), "r"(b[0]), "r"(b[1]),
          "r"(b[2]), "r"(b[3]), "r"(b[4]), "r"(b[5]), "r"(b[6]), "r"(b[7]));
    return borrow;
#endif
}

// Arithmetic ---------------------------------------------------------------------------------------------------------

// a mod p for a below 2p.
template <typename M>
__device__ __forceinline__ Field<M> reduce_once(const Field<M> &a) {
    Field<M> r;
    u32 p[8], reduced[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        p[i] = M::p(i);
    }
    const u32 below = words_sub(reduced, a.v, p);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        r.v[i] = below ? a.v[i] : reduced[i];
    }
    return r;
}

template <typename M>
__device__ __forceinline__ Field<M> add(const Field<M> &a, const Field<M> &b) {
    Field<M> sum;
    words_add(sum.v, a.v, b.v);
    return reduce_once(sum);
}

template <typename M>
__device__ __forceinline__ Field<M> dbl(const Field<M> &a) {
    return add(a, a);
}

template <typename M>
__device__ __forceinline__ Field<M> sub(const Field<M> &a, const Field<M> &b) {
    Field<M> r, difference;
    const u32 below = words_sub(difference.v, a.v, b.v);
    u32 p[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        p[i] = M::p(i) & below;
    }
    words_add(r.v, difference.v, p);
    return r;
}

template <typename M>
__device__ __forceinline__ bool is_zero(const Field<M> &a) {
    return (a.v[0] | a.v[1] | a.v[2] | a.v[3] | a.v[4] | a.v[5] | a.v[6] | a.v[7]) == 0;
}

template <typename M>
__device__ __forceinline__ bool equal(const Field<M> &a, const Field<M> &b) {
    u32 difference = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        difference |= a.v[i] ^ b.v[i];
    }
    return difference == 0;
}

template <typename M>
__device__ __forceinline__ Field<M> neg(const Field<M> &a) {
    return sub(Field<M>::zero(), a);
}

#ifdef ZGPU_HOST

// a b / 2^256 mod p, on 64-bit limbs.
template <typename M>
inline Field<M> mul(const Field<M> &a, const Field<M> &b) {
    typedef unsigned __int128 u128;
    u64 x[4], y[4], p[4], t[5] = {0, 0, 0, 0, 0};
    for (int i = 0; i < 4; i++) {
        x[i] = ((u64)a.v[2 * i + 1] << 32) | a.v[2 * i];
        y[i] = ((u64)b.v[2 * i + 1] << 32) | b.v[2 * i];
        p[i] = ((u64)M::p(2 * i + 1) << 32) | M::p(2 * i);
    }
    // p is below 2^254, so t stays below 2^256 between two rounds and its fifth limb takes all that a round adds.
    for (int i = 0; i < 4; i++) {
        u128 carry = 0;
        for (int j = 0; j < 4; j++) {
            carry += (u128)x[j] * y[i] + t[j];
            t[j] = (u64)carry;
            carry >>= 64;
        }
        t[4] = (u64)carry;
        const u64 m = t[0] * M::INVERSE_64;
        carry = ((u128)m * p[0] + t[0]) >> 64;
        for (int j = 1; j < 4; j++) {
            carry += (u128)m * p[j] + t[j];
            t[j - 1] = (u64)carry;
            carry >>= 64;
        }
        t[3] = t[4] + (u64)carry;
    }
    Field<M> r;
    for (int i = 0; i < 4; i++) {
        r.v[2 * i] = (u32)t[i];
        r.v[2 * i + 1] = (u32)(t[i] >> 32);
    }
    return reduce_once(r);
}

template <typename M>
inline Field<M> sqr(const Field<M> &a) {
    return mul(a, a);
}

#else

// Four wide products side by side, the multiplicands every other limb: x += (a0 + a2 2^64 + a4 2^128 + a6 2^192) b. The carry
// goes into `top`, a word that has room for it. mad.lo and madc.hi of one product become one IMAD.WIDE.
__device__ __forceinline__ void wide_mad(u32 (&x)[8], u32 &top, u32 a0, u32 a2, u32 a4, u32 a6, u32 b) {
    asm("mad.lo.cc.u32 %0, %9, %13, %0; madc.hi.cc.u32 %1, %9, %13, %1;"
        "madc.lo.cc.u32 %2, %10, %13, %2; madc.hi.cc.u32 %3, %10, %13, %3;"
        "madc.lo.cc.u32 %4, %11, %13, %4; madc.hi.cc.u32 %5, %11, %13, %5;"
        "madc.lo.cc.u32 %6, %12, %13, %6; madc.hi.cc.u32 %7, %12, %13, %7;"
        "addc.u32 %8, %8, 0;"
        : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3]), "+r"(x[4]), "+r"(x[5]), "+r"(x[6]), "+r"(x[7]), "+r"(top)
        : "r"(a0), "r"(a2), "r"(a4), "r"(a6), "r"(b));
}

// The same where the sum is known to stay below 2^256.
__device__ __forceinline__ void wide_mad(u32 (&x)[8], u32 a0, u32 a2, u32 a4, u32 a6, u32 b) {
    asm("mad.lo.cc.u32 %0, %8, %12, %0; madc.hi.cc.u32 %1, %8, %12, %1;"
        "madc.lo.cc.u32 %2, %9, %12, %2; madc.hi.cc.u32 %3, %9, %12, %3;"
        "madc.lo.cc.u32 %4, %10, %12, %4; madc.hi.cc.u32 %5, %10, %12, %5;"
        "madc.lo.cc.u32 %6, %11, %12, %6; madc.hi.u32 %7, %11, %12, %7;"
        : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3]), "+r"(x[4]), "+r"(x[5]), "+r"(x[6]), "+r"(x[7])
        : "r"(a0), "r"(a2), "r"(a4), "r"(a6), "r"(b));
}

// Moves one word down: low += x[1], then x = (x >> 64) + (a1 + a3 2^64 + ..) b, taking the carry of the first sum.
__device__ __forceinline__ void wide_mad_down(u32 (&x)[8], u32 &low, u32 a1, u32 a3, u32 a5, u32 a7, u32 b) {
    u32 y[8];
    asm("add.cc.u32 %8, %8, %9;"
        "madc.lo.cc.u32 %0, %16, %20, %10; madc.hi.cc.u32 %1, %16, %20, %11;"
        "madc.lo.cc.u32 %2, %17, %20, %12; madc.hi.cc.u32 %3, %17, %20, %13;"
        "madc.lo.cc.u32 %4, %18, %20, %14; madc.hi.cc.u32 %5, %18, %20, %15;"
        "madc.lo.cc.u32 %6, %19, %20, 0; madc.hi.u32 %7, %19, %20, 0;"
        : "=&r"(y[0]), "=&r"(y[1]), "=&r"(y[2]), "=&r"(y[3]), "=&r"(y[4]), "=&r"(y[5]), "=&r"(y[6]), "=&r"(y[7]), "+r"(low)
        : "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(x[4]), "r"(x[5]), "r"(x[6]), "r"(x[7]), "r"(a1), "r"(a3), "r"(a5), "r"(a7),
          "r"(b));
#pragma unroll
    for (int i = 0; i < 8; i++) {
        x[i] = y[i];
    }
}

// Adds m p, with m such that the lowest word of x becomes 0.
template <typename M>
__device__ __forceinline__ void cancel_lowest(u32 (&x)[8], u32 (&y)[8]) {
    const u32 m = x[0] * M::INVERSE;
    wide_mad(y, M::p(1), M::p(3), M::p(5), M::p(7), m);
    wide_mad(x, y[7], M::p(0), M::p(2), M::p(4), M::p(6), m);
}

// a b / 2^256 mod p. Two accumulators, x for the words at even places and y for those at odd ones, so that all products stay
// in register pairs; the roles change with every word of b. Their sum x + 2^32 y stays below 2p < 2^255 between two rounds and
// below 2^288 within one, so that only the carries of x leave their accumulator, into the top of y.
template <typename M>
__device__ __forceinline__ Field<M> mul(const Field<M> &a, const Field<M> &b) {
    u32 x[8], y[8];
#pragma unroll
    for (int j = 0; j < 8; j += 2) {
        const u64 even = (u64)a.v[j] * b.v[0], odd = (u64)a.v[j + 1] * b.v[0];
        x[j] = (u32)even;
        x[j + 1] = (u32)(even >> 32);
        y[j] = (u32)odd;
        y[j + 1] = (u32)(odd >> 32);
    }
    cancel_lowest<M>(x, y);
#pragma unroll
    for (int i = 1; i < 8; i += 2) {
        wide_mad_down(x, y[0], a.v[1], a.v[3], a.v[5], a.v[7], b.v[i]);
        wide_mad(y, x[7], a.v[0], a.v[2], a.v[4], a.v[6], b.v[i]);
        cancel_lowest<M>(y, x);
        if (i < 7) {
            wide_mad_down(y, x[0], a.v[1], a.v[3], a.v[5], a.v[7], b.v[i + 1]);
            wide_mad(x, y[7], a.v[0], a.v[2], a.v[4], a.v[6], b.v[i + 1]);
            cancel_lowest<M>(x, y);
        }
    }
    // The lowest word of y is 0 now: the result is x + (y >> 32).
    Field<M> r;
    u32 high[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        high[i] = i < 7 ? y[i + 1] : 0;
    }
    words_add(r.v, x, high);
    return reduce_once(r);
}

template <typename M>
__device__ __forceinline__ Field<M> sqr(const Field<M> &a) {
    return mul(a, a);
}

#endif

template <typename M>
__device__ __forceinline__ Field<M> to_mont(const Field<M> &a) {
    Field<M> square;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        square.v[i] = M::square(i);
    }
    return mul(a, square);
}

template <typename M>
__device__ __forceinline__ Field<M> from_mont(const Field<M> &a) {
    Field<M> one = Field<M>::zero();
    one.v[0] = 1;
    return mul(a, one);
}

// a^(p-2): 1/a, and 0 for 0.
template <typename M>
__device__ __noinline__ Field<M> inv(const Field<M> a) {
    Field<M> r = Field<M>::one();
#pragma unroll 1
    for (int i = 253; i >= 0; i--) {
        // The lowest word of both moduli is odd and at least 2, so p - 2 differs from p in that word alone.
        u32 word = 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            word = i / 32 == j ? M::p(j) - (j == 0 ? 2 : 0) : word;
        }
        r = sqr(r);
        if ((word >> (i % 32)) & 1) {
            r = mul(r, a);
        }
    }
    return r;
}

// Memory -------------------------------------------------------------------------------------------------------------

template <typename F>
__device__ __forceinline__ F from_vectors(uint4 low, uint4 high) {
    F r;
    r.v[0] = low.x;
    r.v[1] = low.y;
    r.v[2] = low.z;
    r.v[3] = low.w;
    r.v[4] = high.x;
    r.v[5] = high.y;
    r.v[6] = high.z;
    r.v[7] = high.w;
    return r;
}

template <typename F>
__device__ __forceinline__ F load(const uint4 *place) {
    return from_vectors<F>(place[0], place[1]);
}

template <typename F>
__device__ __forceinline__ F load_constant(const uint4 *place) {
    return from_vectors<F>(__ldg(place), __ldg(place + 1));
}

template <typename M>
__device__ __forceinline__ void store(uint4 *place, const Field<M> &a) {
    place[0] = make_uint4(a.v[0], a.v[1], a.v[2], a.v[3]);
    place[1] = make_uint4(a.v[4], a.v[5], a.v[6], a.v[7]);
}
