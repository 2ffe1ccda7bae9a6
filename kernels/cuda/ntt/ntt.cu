// ntt: from the bytes of a blob to field elements, and number-theoretic transforms over Fr between rows and coefficients.
//
// Source of the formulas: packing and erasure code of the network's DA encoder; Stockham's self-sorting transform. N = R C values
// lie as R rows of C, value (rho, kappa) belongs to the point shift * omega^(kappa R + rho), coefficient j = jr C + jc to x^j.
// So both are matrices R x C, and a transform is one of C points along the rows, one of R points along the columns, and a factor
// omega^(rho jc) between them: rows first for coefficients, columns first for values. Nothing is transposed or bit-reversed.
//
// A transform of n0 points along either is one pass for every 10 bits at most. M elements at a time (a row, or the whole matrix),
// with s = product of the radixes of earlier passes (times C along columns) and n = n0 / that product, a pass of radix r does
//   y[q + s (r p + k)] = omega_n^(p k) sum_{j<r} x[q + s p + (M / r) j] omega_r^(j k)    q < s, p < n / r, k < r
// from one buffer to another. A block does it for r w = 1024 elements: w neighbours q + s p. It reads w neighbours r times and
// writes min(s, w) neighbours, the same pass again in smaller radixes inside shared memory between them.
//
// Elements are Montgomery, 32 bytes (field/field.cuh). Powers of w, the root of unity of order 2^lg_order = 4 N, come from two
// tables: w^(e mod 2^lg_low) and w^(e div 2^lg_low 2^lg_low); those of order 1024 from a third one.
// Twin: ark-poly in tests/blob.rs.
#include "../field/field.cuh"

const u32 BYTES_PER_RAW_SCALAR = 31;
// The order of the largest group of roots of unity in Fr, as log2.
const u32 LG_TWO_ADIC_ORDER = 28;
// Elements that a block transforms; four for each of its threads.
const u32 LG_POINTS_PER_TILE = 10;
const u32 POINTS_PER_TILE = 1 << LG_POINTS_PER_TILE;

// Tables -------------------------------------------------------------------------------------------------------------

// Arguments; mirrored by `TwiddleArgs` on the host side.
struct TwiddleArgs {
    uint4 *powers;  // [count][2 x 16 bytes]
    u32 lg_order;   // order of the root of unity
    u32 lg_step;    // step between two exponents
    u32 count;
    u32 unused;
};

// a^(2^count)
__device__ __forceinline__ Fr square_times(Fr a, u32 count) {
#pragma unroll 1
    for (u32 i = 0; i < count; i++) {
        a = sqr(a);
    }
    return a;
}

// powers[i] = w^(i 2^lg_step), w of order 2^lg_order: 5^((r-1) / 2^lg_order). Grid: one thread a power. Shared memory: none.
extern "C" __global__ void __launch_bounds__(128) build_twiddles(const TwiddleArgs args) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= args.count) {
        return;
    }
    // 5^((r-1) / 2^28), times 2^256.
    const u32 root[8] = {0x80d13d9cu, 0x636e7355u, 0x2445ffd6u, 0xa22bf374u,
                         0x1eb203d8u, 0x56452ac0u, 0x2963f9e7u, 0x1860ef94u};
    Fr base;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        base.v[i] = root[i];
    }
    base = square_times(base, LG_TWO_ADIC_ORDER - args.lg_order + args.lg_step);
    Fr power = Fr::one();
#pragma unroll 1
    for (int bit = 31; bit >= 0; bit--) {
        power = sqr(power);
        if ((index >> bit) & 1) {
            power = mul(power, base);
        }
    }
    store(args.powers + (size_t)index * 2, power);
}

// Packing ------------------------------------------------------------------------------------------------------------

// Arguments; mirrored by `UnpackArgs` on the host side.
struct UnpackArgs {
    const u32 *data;  // [data_bytes] bytes, and readable up to the word that has the last one
    uint4 *elements;  // [count][2 x 16 bytes]
    u32 data_bytes;
    u32 length;  // the last 4 bytes of the matrix, little-endian
    u32 count;
    u32 unused;
};

// Word `index` of the data, zeros behind its end.
__device__ __forceinline__ u32 data_word(const UnpackArgs &args, u32 index) {
    const u32 first = index * 4;
    if (first >= args.data_bytes) {
        return 0;
    }
    const u32 word = __ldg(args.data + index), rest = args.data_bytes - first;
    return rest >= 4 ? word : word & ((1u << (8 * rest)) - 1);
}

// Scalars of 31 bytes, little-endian, as elements. The bytes are data, zeros, and the length at the very end of the last scalar.
// Grid: one thread a scalar. Shared memory: none.
extern "C" __global__ void __launch_bounds__(128) unpack_scalars(const UnpackArgs args) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= args.count) {
        return;
    }
    const u32 first = index * BYTES_PER_RAW_SCALAR, shift = 8 * (first % 4);
    Fr scalar;
    u32 low = data_word(args, first / 4);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const u32 high = data_word(args, first / 4 + i + 1);
        scalar.v[i] = __funnelshift_r(low, high, shift);
        low = high;
    }
    scalar.v[7] &= 0x00ffffff;
    if (index == args.count - 1) {
        scalar.v[6] |= args.length << 24;
        scalar.v[7] |= args.length >> 8;
    }
    store(args.elements + (size_t)index * 2, to_mont(scalar));
}

// Arguments; mirrored by `CanonicalArgs` on the host side.
struct CanonicalArgs {
    const uint4 *elements;  // [count][2 x 16 bytes], Montgomery
    uint4 *scalars;         // [count][2 x 16 bytes]
    u32 count;
    u32 unused;
};

// Elements as scalars of 32 bytes, little-endian. Grid: one thread a scalar. Shared memory: none.
extern "C" __global__ void __launch_bounds__(128) read_elements(const CanonicalArgs args) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index < args.count) {
        store(args.scalars + (size_t)index * 2, from_mont(load<Fr>(args.elements + (size_t)index * 2)));
    }
}

// Transforms ---------------------------------------------------------------------------------------------------------

// Arguments; mirrored by `PassArgs` on the host side.
struct PassArgs {
    const uint4 *input;         // [N][2 x 16 bytes]
    uint4 *output;              // [N][2 x 16 bytes], other memory
    const uint4 *tile_powers;   // [1024] powers of the root of unity of order 1024
    const uint4 *low_powers;    // [2^lg_low] w^e
    const uint4 *high_powers;   // [2^(lg_order - lg_low)] w^(e 2^lg_low)
    u32 lg_order;               // of w
    u32 lg_low;
    u32 lg_scalars;             // N
    u32 lg_columns;             // C
    u32 lg_unit;                // M
    u32 lg_radix;               // r, at most 2^10
    u32 lg_stride;              // s
    u32 lg_size;                // n
    u32 inverse;                // 1: omega^-1 in place of omega
    u32 between;                // 1: the factor omega^(rho jc) at the end, of row and column of the result
    u32 shift;                  // input j times w^(shift j)
    u32 scale;                  // 1: 1/N at the end
};

// w^exponent, exponent below the order of w.
__device__ __forceinline__ Fr power(const PassArgs &args, u32 exponent) {
    const Fr low = load_constant<Fr>(args.low_powers + (size_t)(exponent & ((1u << args.lg_low) - 1)) * 2);
    const Fr high = load_constant<Fr>(args.high_powers + (size_t)(exponent >> args.lg_low) * 2);
    return mul(low, high);
}

// The root of unity of order 1024 to a power below it, or its inverse.
__device__ __forceinline__ Fr tile_power(const PassArgs &args, u32 exponent) {
    const u32 place = args.inverse ? (POINTS_PER_TILE - exponent) % POINTS_PER_TILE : exponent;
    return load_constant<Fr>(args.tile_powers + (size_t)place * 2);
}

// Limb-wise, so that neighbouring threads meet in different banks, with a gap after every 32 words for those four apart.
struct Tile {
    u32 limbs[8][POINTS_PER_TILE + POINTS_PER_TILE / 32];
};

__device__ __forceinline__ Fr tile_load(const Tile &tile, u32 place) {
    Fr r;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        r.v[i] = tile.limbs[i][place + place / 32];
    }
    return r;
}

__device__ __forceinline__ void tile_store(Tile &tile, u32 place, const Fr &a) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
        tile.limbs[i][place + place / 32] = a.v[i];
    }
}

// Grid: one block for every tile of min(1024, M) elements. A thread has elements i, i + L/4, i + L/2, i + 3 L/4 of its L.
// Shared memory: 33 KiB.
extern "C" __global__ void __launch_bounds__(256) ntt_pass(const PassArgs args) {
    __shared__ Tile tile;
    const u32 lg_points = args.lg_unit < LG_POINTS_PER_TILE ? args.lg_unit : LG_POINTS_PER_TILE;
    const u32 lg_width = lg_points - args.lg_radix;
    const u32 quarter = 1u << (lg_points - 2);
    const bool active = threadIdx.x < quarter;
    const u32 order_mask = (1u << args.lg_order) - 1;
    // The tile's elements q + s p of its unit begin at `first`.
    const u32 lg_tiles_per_unit = args.lg_unit - lg_points;
    const u32 unit = (blockIdx.x >> lg_tiles_per_unit) << args.lg_unit;
    const u32 first = (blockIdx.x & ((1u << lg_tiles_per_unit) - 1)) << lg_width;

    Fr x[4];
    if (active) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            const u32 place = threadIdx.x + i * quarter;
            const u32 column = place & ((1u << lg_width) - 1), j = place >> lg_width;
            const u32 from = unit + first + column + (j << (args.lg_unit - args.lg_radix));
            x[i] = load<Fr>(args.input + (size_t)from * 2);
            if (args.shift != 0) {
                x[i] = mul(x[i], power(args, (from * args.shift) & order_mask));
            }
        }
    }

    // The tile's own passes, of radix 4 and at the end 2. Now s and n are those of the tile: s begins with its width.
    u32 lg_s = lg_width, lg_n = args.lg_radix;
#pragma unroll 1
    while (lg_n > 0) {
        const u32 lg_r = lg_n >= 2 ? 2 : 1;
        const u32 lg_root = LG_POINTS_PER_TILE - lg_n;
        if (active) {
            if (lg_r == 2) {
                const u32 q = threadIdx.x & ((1u << lg_s) - 1), p = threadIdx.x >> lg_s;
                const Fr a = add(x[0], x[2]), b = sub(x[0], x[2]), c = add(x[1], x[3]);
                const Fr d = mul(sub(x[1], x[3]), tile_power(args, POINTS_PER_TILE / 4));
                x[0] = add(a, c);
                x[1] = mul(add(b, d), tile_power(args, p << lg_root));
                x[2] = mul(sub(a, c), tile_power(args, (2 * p) << lg_root));
                x[3] = mul(sub(b, d), tile_power(args, (3 * p) << lg_root));
#pragma unroll
                for (u32 k = 0; k < 4; k++) {
                    tile_store(tile, q + ((4 * p + k) << lg_s), x[k]);
                }
            } else {
                // n = 2: no factor, and s is half of the tile.
#pragma unroll
                for (u32 i = 0; i < 2; i++) {
                    const u32 q = threadIdx.x + i * quarter;
                    tile_store(tile, q, add(x[i], x[i + 2]));
                    tile_store(tile, q + (1u << lg_s), sub(x[i], x[i + 2]));
                }
            }
        }
        lg_n -= lg_r;
        lg_s += lg_r;
        __syncthreads();
        if (active) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                x[i] = tile_load(tile, threadIdx.x + i * quarter);
            }
        }
        __syncthreads();
    }

    if (!active) {
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        // Neighbours in the result go to neighbouring threads: along k where s is 1, along q else.
        const u32 place = threadIdx.x + i * quarter;
        const u32 column = place & ((1u << lg_width) - 1), k = place >> lg_width;
        const u32 q = (first + column) & ((1u << args.lg_stride) - 1), p = (first + column) >> args.lg_stride;
        const u32 to = unit + q + (((p << args.lg_radix) + k) << args.lg_stride);
        u32 exponent = (p * k) << (args.lg_order - args.lg_size);
        if (args.between) {
            exponent += ((to >> args.lg_columns) * (to & ((1u << args.lg_columns) - 1))) << (args.lg_order - args.lg_scalars);
        }
        if (args.inverse) {
            exponent = 0 - exponent;
        }
        exponent &= order_mask;
        if (exponent != 0) {
            x[i] = mul(x[i], power(args, exponent));
        }
        if (args.scale) {
            // 1/N as 2^256 / N, one bit: N is 8 at least, so it is below the modulus.
            Fr factor;
            const u32 bit = 256 - args.lg_scalars;
#pragma unroll
            for (u32 limb = 0; limb < 8; limb++) {
                factor.v[limb] = limb == bit / 32 ? 1u << (bit % 32) : 0;
            }
            x[i] = mul(x[i], factor);
        }
        store(args.output + (size_t)to * 2, x[i]);
    }
}
