// slice: all slices of an encoded blob, as the bytes that go to signers.
//
// Source: the wire format of the network's DA services. With R rows of C scalars and depth = lg R, slice i (row i mod R of coset
// i / R) is, integers as u64, everything little-endian:
//   i, i | erasure commitment 64 | row, C | row 32 C | depth | depth x (commitment 64, quotient 64) of the siblings from depth 1
//   down | high commitment 64 | 3 coset roots 32 | depth | depth x sibling digest 32, bottom up | i | row root 32
// A point is x . y, 32 bytes each; the last byte carries 0x80 where y > p - y and 0x40 for the point at infinity, all else of
// which is zero. The leaf of row rho in the tree of points is rho with its bits reversed.
// Also the roots of the blob: erasure commitment 64 without flags, 3 coset roots 32, storage root 32.
// Every part of a slice begins at a multiple of 8 bytes, and slices are no multiple of 16: words are of 8 bytes.
// Shared memory: none. Twin: tests/blob.rs.
#include "../field/field.cuh"

const u32 COSETS = 3;
const u32 WORDS_PER_POINT = 8;   // of 8 bytes, here and below
const u32 WORDS_PER_DIGEST = 4;

// Arguments; mirrored by `SliceArgs` on the host side.
struct SliceArgs {
    const uint4 *cosets[3];  // [R][C][2 x 16 bytes], Montgomery
    const uint4 *nodes;      // [3][2 R - 2 nodes][commitment, quotient][4 x 16 bytes]: x, y Montgomery, zeros for infinity
    const uint4 *totals;     // [erasure commitment, high commitment][4 x 16 bytes], likewise
    const u64 *digests;      // [3 R][4 words] row roots, then each level above them, half as many, up to 3 coset roots
    const u64 *storage_root; // [4 words]
    u64 *slices;             // [3 R][words of a slice]
    u64 *roots;              // [24 words]
    u32 lg_rows;
    u32 lg_columns;
};

// Writes a coordinate without flags.
template <typename F>
__device__ __forceinline__ void write_element(u64 *to, const F &a) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
        to[i] = ((u64)a.v[2 * i + 1] << 32) | a.v[2 * i];
    }
}

// Writes coordinate 0 (x) or 1 (y) of a point, with flags if wanted.
__device__ __forceinline__ void write_coordinate(u64 *point, const uint4 *from, u32 coordinate, bool flags) {
    Fq a = from_mont(load<Fq>(from + 2 * coordinate));
    if (coordinate == 1 && flags) {
        // y is zero for no point but the one at infinity: the curve has odd order.
        const Fq negative = neg(a);
        u32 difference[8];
        const u32 larger = words_sub(difference, negative.v, a.v);
        a.v[7] |= is_zero(a) ? 0x40000000u : larger & 0x80000000u;
    }
    write_element(point + 4 * coordinate, a);
}

// Grid: one block a slice, any block size; the scalars of the row go round among the threads, then the coordinates of the
// points, then the words of all else. Block 0 writes the roots of the blob too.
extern "C" __global__ void __launch_bounds__(256) write_slices(const SliceArgs args) {
    const u32 rows = 1u << args.lg_rows, columns = 1u << args.lg_columns, depth = args.lg_rows;
    const u32 index = blockIdx.x, coset = index >> args.lg_rows, row = index & (rows - 1);
    const u32 points_at = 13 + 4 * columns;
    const u32 roots_at = points_at + WORDS_PER_POINT * (2 * depth + 1);
    const u32 path_at = roots_at + WORDS_PER_DIGEST * COSETS + 1;
    const u32 end_at = path_at + WORDS_PER_DIGEST * depth;
    u64 *slice = args.slices + (size_t)index * (end_at + 1 + WORDS_PER_DIGEST);

    const uint4 *scalars = (coset == 0 ? args.cosets[0] : coset == 1 ? args.cosets[1] : args.cosets[2]) + (size_t)row * columns * 2;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < columns; i += blockDim.x) {
        write_element(slice + 12 + 4 * i, from_mont(load<Fr>(scalars + 2 * i)));
    }

    // Points: the siblings' commitments and quotients, then the high commitment, then the erasure commitment.
    const u32 leaf = __brev(row) >> (32 - depth);
    const uint4 *nodes = args.nodes + (size_t)coset * (2 * rows - 2) * 8;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < 2 * (2 * depth + 2); i += blockDim.x) {
        const u32 point = i / 2, d = point / 2 + 1;
        const uint4 *from;
        u64 *to = slice + points_at + WORDS_PER_POINT * point;
        if (point < 2 * depth) {
            const u32 node = (1u << d) - 2 + ((leaf >> (depth - d)) ^ 1);
            from = nodes + (size_t)node * 8 + point % 2 * 4;
        } else if (point == 2 * depth) {
            from = args.totals + 4;
        } else {
            from = args.totals;
            to = slice + 2;
        }
        write_coordinate(to, from, i % 2, true);
    }

    // Digests: the coset roots, the path, the row root.
    const u32 root_words = WORDS_PER_DIGEST * COSETS;
    const u64 *coset_roots = args.digests + (size_t)WORDS_PER_DIGEST * COSETS * (2 * rows - 2);
#pragma unroll 1
    for (u32 i = threadIdx.x; i < root_words + WORDS_PER_DIGEST * (depth + 1); i += blockDim.x) {
        const u32 digest = i / WORDS_PER_DIGEST, part = i % WORDS_PER_DIGEST;
        if (digest < COSETS) {
            slice[roots_at + i] = coset_roots[i];
        } else if (digest < COSETS + depth) {
            // The levels below `height` have 3 (2 R - 2 R / 2^height) digests.
            const u32 height = digest - COSETS, level = COSETS * (2 * rows - ((2 * rows) >> height));
            const u32 sibling = level + (index >> height ^ 1);
            slice[path_at + i - root_words] = args.digests[(size_t)sibling * WORDS_PER_DIGEST + part];
        } else {
            slice[end_at + 1 + part] = args.digests[(size_t)index * WORDS_PER_DIGEST + part];
        }
    }

    // Integers.
    if (threadIdx.x == 0) {
        slice[0] = slice[1] = slice[end_at] = index;
        slice[10] = row;
        slice[11] = columns;
        slice[points_at - 1] = slice[path_at - 1] = depth;
    }
    if (index != 0) {
        return;
    }
#pragma unroll 1
    for (u32 i = threadIdx.x; i < 2 + root_words + WORDS_PER_DIGEST; i += blockDim.x) {
        if (i < 2) {
            write_coordinate(args.roots, args.totals, i, false);
        } else {
            const u32 place = i - 2;
            args.roots[WORDS_PER_POINT + place] = place < root_words ? coset_roots[place] : args.storage_root[place - root_words];
        }
    }
}
