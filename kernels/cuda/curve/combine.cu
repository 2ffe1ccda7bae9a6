// combine: linear combinations of points, as lists made once for a shape of blob.
//
// After the buckets, a commitment is a few thousand points that are added, and multiplied by scalars known beforehand: sums
// of MSMs to nodes and blocks, then the G1-NTTs of the quotients. Points lie in one array; each launch works through a range
// of a list, one thread an entry, and an entry reads only what earlier launches wrote.
//   sum_points        out = sum of +-terms, with `doublings` doublings between two terms (Horner)
//   split_scalars     s = w^exponent / 2^halvings -> k1, k2 with s = k1 + k2 lambda mod r, as signed digits
//   multiply_points   out = s in, by k1 in + k2 phi(in), phi(x, y) = (beta x, y) = lambda (x, y)
//   normalise_points  affine coordinates
// Source of the formulas: Gallant, Lambert, Vanstone, "Faster point multiplication on elliptic curves with efficient
// endomorphisms" (2001). lambda = 0xb3c4d79d41a917585bfc41088d8daaa78b17ea66b99c90dd, and the lattice of (i, j) with
// i + j lambda = 0 mod r has the basis (a1, -b1), (a2, a1): both k are below 2^128 in magnitude.
// At full size there are 34 k products of 2,200 products of Fq each, in five launches of at most 7,500 threads: 76 M, 1.2 ms
// at 61 G/s, but such a launch has one warp a scheduler and takes the time of one thread, about half a millisecond; and 34 k
// sums of at most 16 terms in eight launches, tens of microseconds each.
// Grid: one thread an entry, blocks of 128. Shared memory: none. Twin: ark-ec and ark-ff in tests/commit.
#include "point.cuh"

const u32 BITS_PER_DIGIT = 4;
const int DIGITS = 33;
const u32 MULTIPLES = 8;
const int LIMBS = 5;  // of k and of most that it is made of; arithmetic is mod 2^160
const u32 LG_ROOT_ORDER = 28;

// Out of a list of sums; mirrored by `Sum` on the host side.
struct Sum {
    u32 first_term;
    u32 term_count;
    u32 doublings;
    u32 out;
};

// Mirrored by `Multiply` on the host side.
struct Multiply {
    u32 in;
    u32 out;
    u32 scalar;
};

// A scalar to split: the 2^lg_order-th root of unity, to the power `exponent`, halved so often; mirrored by `Scalar`.
struct Scalar {
    u32 lg_order;
    u32 exponent;
    u32 halvings;
};

// k1 and k2, each plus 0x8...8 of 33 digits: digit i is the i-th group of four bits less 8.
struct Split {
    u32 k[2][LIMBS];
};

// Arguments; mirrored by `SumArgs`, `SplitArgs`, `MultiplyArgs`, `NormaliseArgs` on the host side.
struct SumArgs {
    uint4 *points;     // [..][8]
    const Sum *sums;   // [count]
    const u32 *terms;  // indices of points, with bit 31 for the opposite
    u32 count;
    u32 unused;
};

struct SplitArgs {
    const Scalar *scalars;  // [count]
    Split *splits;          // [count]
    u32 count;
    u32 unused;
};

struct MultiplyArgs {
    uint4 *points;               // [..][8]
    const Multiply *multiplies;  // [count]
    const Split *splits;
    uint4 *multiples;  // [8][count][8]: scratch
    u32 count;
    u32 unused;
};

struct NormaliseArgs {
    const uint4 *points;  // [..][8]
    const uint2 *places;  // [count]: index of a point, place of its affine form among the results
    uint4 *results;       // [..][4]
    u32 count;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(128) sum_points(const SumArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.count) {
        return;
    }
    const Sum sum = args.sums[thread];
    Point total = infinity();
    // A doubling is the sum of two equal points: it is rare, and one copy of the formulas is enough.
    u32 doublings = 0;
#pragma unroll 1
    for (u32 i = 0; i < sum.term_count;) {
        Point p = total;
        if (doublings > 0) {
            doublings--;
        } else {
            const u32 term = args.terms[sum.first_term + i++];
            p = load_point(args.points + (size_t)(term & ~NEGATIVE) * VECTORS_PER_POINT);
            p = negated_if((term & NEGATIVE) != 0, p);
            doublings = sum.doublings;
        }
        total = add(total, p);
    }
    store_point(args.points + (size_t)sum.out * VECTORS_PER_POINT, total);
}

// out = the words of a b from word `first` on, mod 2^160.
template <int A, int B>
__device__ __forceinline__ void words_product(u32 (&out)[LIMBS], const u32 (&a)[A], const u32 (&b)[B], int first) {
    u32 product[A + B];
#pragma unroll
    for (int i = 0; i < A + B; i++) {
        product[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < A; i++) {
        u32 carry = 0;
#pragma unroll
        for (int j = 0; j < B; j++) {
            const u64 sum = (u64)a[i] * b[j] + product[i + j] + carry;
            product[i + j] = (u32)sum;
            carry = (u32)(sum >> 32);
        }
        product[i + B] = carry;
    }
#pragma unroll
    for (int i = 0; i < LIMBS; i++) {
        out[i] = product[first + i];
    }
}

// a + sign b mod 2^160, for a sign of 1 or -1.
__device__ __forceinline__ void words_accumulate(u32 (&a)[LIMBS], const u32 (&b)[LIMBS], bool subtract) {
    u64 carry = subtract ? 1 : 0;
#pragma unroll
    for (int i = 0; i < LIMBS; i++) {
        carry += (u64)a[i] + (subtract ? ~b[i] : b[i]);
        a[i] = (u32)carry;
        carry >>= 32;
    }
}

extern "C" __global__ void __launch_bounds__(128) split_scalars(const SplitArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.count) {
        return;
    }
    const Scalar scalar = args.scalars[thread];

    // The 2^28-th root of unity 5^((r-1)/2^28) in Montgomery form, then the root asked for, its power, and the halvings.
    const u32 root[8] = {0x80d13d9cu, 0x636e7355u, 0x2445ffd6u, 0xa22bf374u, 0x1eb203d8u, 0x56452ac0u, 0x2963f9e7u, 0x1860ef94u};
    Fr base;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        base.v[i] = root[i];
    }
#pragma unroll 1
    for (u32 i = scalar.lg_order; i < LG_ROOT_ORDER; i++) {
        base = sqr(base);
    }
    Fr s = Fr::one();
#pragma unroll 1
    for (int bit = (int)LG_ROOT_ORDER - 1; bit >= 0; bit--) {
        s = sqr(s);
        if ((scalar.exponent >> bit) & 1) {
            s = mul(s, base);
        }
    }
#pragma unroll 1
    for (u32 i = 0; i < scalar.halvings; i++) {
        // s/2, or (s + r)/2 if s is odd: r is.
        const u32 odd = 0u - (s.v[0] & 1);
        u32 r[8], sum[8];
#pragma unroll
        for (int j = 0; j < 8; j++) {
            r[j] = FrModulus::p(j) & odd;
        }
        words_add(sum, s.v, r);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            s.v[j] = __funnelshift_r(sum[j], j < 7 ? sum[j + 1] : 0, 1);
        }
    }
    s = from_mont(s);

    // (s, 0) = c1 (a1, -b1) + c2 (a2, a1) over the rationals has c1 = s a1 / r and c2 = s b1 / r. Rounding both down leaves
    // k1 = s - c1 a1 - c2 a2 and k2 = c1 b1 - c2 a1.
    const u32 a1[LIMBS] = {0x94d213e3u, 0x89d32568u, 0, 0, 0};
    const u32 a2[LIMBS] = {0x1221250bu, 0x0be4e154u, 0xeeb859fdu, 0x6f4d8248u, 0};
    const u32 b1[LIMBS] = {0x7d4f1128u, 0x8211bbebu, 0xeeb859fcu, 0x6f4d8248u, 0};
    const u32 a1_over_r[LIMBS] = {0xc7e0b3d7u, 0xd91d232eu, 0x00000002u, 0x00000000u, 0x00000000u};  // 2^256 a1 / r, rounded down
    const u32 b1_over_r[LIMBS] = {0x391eb18du, 0x7a7bd9d4u, 0xa773d2cfu, 0x4ccef014u, 0x00000002u};
    u32 c1[LIMBS], c2[LIMBS], product[LIMBS], k1[LIMBS], k2[LIMBS];
    words_product(c1, s.v, a1_over_r, 8);
    words_product(c2, s.v, b1_over_r, 8);
    const u32 offset[LIMBS] = {0x88888888u, 0x88888888u, 0x88888888u, 0x88888888u, 0x8u};
#pragma unroll
    for (int i = 0; i < LIMBS; i++) {
        k1[i] = s.v[i];
    }
    words_product(product, c1, a1, 0);
    words_accumulate(k1, product, true);
    words_product(product, c2, a2, 0);
    words_accumulate(k1, product, true);
    words_accumulate(k1, offset, false);
    words_product(k2, c1, b1, 0);
    words_product(product, c2, a1, 0);
    words_accumulate(k2, product, true);
    words_accumulate(k2, offset, false);
#pragma unroll
    for (int i = 0; i < LIMBS; i++) {
        args.splits[thread].k[0][i] = k1[i];
        args.splits[thread].k[1][i] = k2[i];
    }
}

// 33 x 4 doublings and 66 + 7 additions: about 2,200 products.
extern "C" __global__ void __launch_bounds__(128) multiply_points(const MultiplyArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.count) {
        return;
    }
    const Multiply multiply = args.multiplies[thread];
    const Split &split = args.splits[multiply.scalar];
    const u32 beta_limbs[8] = {0xd782e155u, 0x71930c11u, 0xffbe3323u, 0xa6bb947cu,
                               0xd4741444u, 0xaa303344u, 0x26594943u, 0x2c3b3f0du};
    Fq beta;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        beta.v[i] = beta_limbs[i];
    }
    // 1, 2, .., 8 times the point. Neighbours in a warp lie side by side.
    const size_t step = (size_t)args.count * VECTORS_PER_POINT;
    uint4 *multiples = args.multiples + (size_t)thread * VECTORS_PER_POINT;
    Point total = load_point(args.points + (size_t)multiply.in * VECTORS_PER_POINT);
    store_point(multiples, total);
    // Rounds below 0 make the multiples, with the same copy of the addition that the digits use.
#pragma unroll 1
    for (int round = 1 - (int)MULTIPLES; round < DIGITS; round++) {
        const int place = DIGITS - 1 - round;
        if (round == 0) {
            total = infinity();
        }
#pragma unroll 1
        for (u32 doubling = 0; round > 0 && doubling < BITS_PER_DIGIT; doubling++) {
            total = doubled(total);
        }
#pragma unroll 1
        for (int half = 0; half < (round < 0 ? 1 : 2); half++) {
            const int digit = round < 0 ? 1 : (int)((split.k[half][place / 8] >> (place % 8 * BITS_PER_DIGIT)) & 15) - 8;
            if (digit == 0) {
                continue;
            }
            Point p = load_point(multiples + (size_t)((digit < 0 ? -digit : digit) - 1) * step);
            if (half == 1) {
                p.x = mul(p.x, beta);
            }
            total = add(total, negated_if(digit < 0, p));
        }
        if (round < 0) {
            store_point(multiples + (size_t)(MULTIPLES + round) * step, total);
        }
    }
    store_point(args.points + (size_t)multiply.out * VECTORS_PER_POINT, total);
}

// 1/zzz gives 1/zz = (zz/zzz)^2. Infinity has zz = zzz = 0 and becomes zeros.
extern "C" __global__ void __launch_bounds__(128) normalise_points(const NormaliseArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.count) {
        return;
    }
    const uint2 place = args.places[thread];
    const Point p = load_point(args.points + (size_t)place.x * VECTORS_PER_POINT);
    const Fq inverse = inv(p.zzz);
    Affine r;
    r.x = mul(p.x, sqr(mul(p.zz, inverse)));
    r.y = mul(p.y, inverse);
    store_affine(args.results + (size_t)place.y * VECTORS_PER_AFFINE, r);
}
