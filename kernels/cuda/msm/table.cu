// table: multiples of fixed bases, for MSMs without doublings.
//
// A run of bases has `slots` affine points each, slot i being 2^(i d) times the base, d doublings apart; the slots of one
// base lie side by side. Each launch pair fills one slot of a piece of a run from the slot before: doublings in XYZZ
// coordinates, then affine form by batched inversion (Montgomery's trick, 32 points an inversion).
// Cost in products: 9 d and about 20 a slot. At full size 4.7 M bases x 2,800: 13 G, once.
// Source of the formulas: curve/point.cuh.
// In: the bases or the slots before, 64 bytes each, x and y in Montgomery form. Out: the slots.
// Grid: one thread a base for extend_table, one for 32 bases for normalise_table. Shared memory: none. Twin: ark-ec in
// tests/commit, through the sums that are made of the tables.
#include "../curve/point.cuh"

const u32 POINTS_PER_INVERSION = 32;

// Arguments of both kernels; mirrored by `TableArgs` on the host side.
struct TableArgs {
    const uint4 *in;  // base i of the piece: 4 vectors at in + i in_stride
    uint4 *out;       // likewise
    uint4 *scratch;   // [3][count][2]: zz, zzz, products of zzz
    u32 in_stride;    // in vectors of 16 bytes
    u32 out_stride;
    u32 doublings;
    u32 count;
};

extern "C" __global__ void __launch_bounds__(128) extend_table(const TableArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.count) {
        return;
    }
    const uint4 *in = args.in + (size_t)thread * args.in_stride;
    Affine base;
    base.x = load<Fq>(in);
    base.y = load<Fq>(in + 2);
    Point p = point(base);
#pragma unroll 1
    for (u32 i = 0; i < args.doublings; i++) {
        p = doubled(p);
    }
    uint4 *out = args.out + (size_t)thread * args.out_stride;
    store(out, p.x);
    store(out + 2, p.y);
    store(args.scratch + (size_t)thread * 2, p.zz);
    store(args.scratch + ((size_t)args.count + thread) * 2, p.zzz);
}

// Thread t has the bases t, t + threads, ..: neighbours in a warp read neighbours in memory. No zzz is zero: bases are
// points of prime order, and not infinity.
extern "C" __global__ void __launch_bounds__(128) normalise_table(const TableArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    const u32 threads = (args.count + POINTS_PER_INVERSION - 1) / POINTS_PER_INVERSION;
    if (thread >= threads) {
        return;
    }
    const uint4 *zz = args.scratch, *zzz = args.scratch + (size_t)args.count * 2;
    uint4 *products = args.scratch + (size_t)args.count * 4;
    Fq product = Fq::one();
    u32 last = thread;
#pragma unroll 1
    for (u32 i = thread; i < args.count; i += threads) {
        store(products + (size_t)i * 2, product);
        product = mul(product, load<Fq>(zzz + (size_t)i * 2));
        last = i;
    }
    Fq inverse = inv(product);
#pragma unroll 1
    for (u32 i = last;; i -= threads) {
        const Fq own = mul(inverse, load<Fq>(products + (size_t)i * 2));
        inverse = mul(inverse, load<Fq>(zzz + (size_t)i * 2));
        uint4 *out = args.out + (size_t)i * args.out_stride;
        store(out, mul(load<Fq>(out), sqr(mul(load<Fq>(zz + (size_t)i * 2), own))));
        store(out + 2, mul(load<Fq>(out + 2), own));
        if (i == thread) {
            break;
        }
    }
}
