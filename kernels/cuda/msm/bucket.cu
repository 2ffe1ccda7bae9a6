// bucket: from sorted digits to sums.
//
// Formulas and structures: msm/part.cuh; points: curve/point.cuh.
//   accumulate_buckets   a task's entries, added up: the hot loop of an encoder, 10 products an entry
//   merge_tasks          buckets of several tasks, added up
//   reduce_segments      16 neighbours into one: with (S_i, W_i) for i < n, (sum S_i, sum W_i + unit sum i S_i). Applied
//                        until one is left, with units 1, 16, 256, .., this is the sum of i S_i: two additions a bucket
//                        and no multiplication by i. Buckets begin at 1, so the first round has i + 1 in place of i.
// At full size, 9.96 M point-scalar products (N = 2^20) are cut into 24 windows in sets of 1,024 points, 22 in sets of 2,048,
// 20 in sets of 4,096 to 16,384 and 17 in the larger ones: 210 M entries at 10 products and 7.1 M buckets at 31, 2.3 G in
// all. At 61 G products/s, the limit of an H200's multipliers, that is 38 ms. Traffic: 64 bytes of table an entry, for rows
// mostly from the second-level cache, and 128 bytes a bucket there and back: 15 GB, 3 ms beside it.
// Grid: one thread a task, a merge, or a segment, blocks of 128. Shared memory: none. Twin: ark-ec in tests/commit.
#include "part.cuh"

const u32 SEGMENT = 16;

// Arguments; mirrored by `BucketArgs` on the host side.
struct BucketArgs {
    const Part *parts;
    const u32 *entries;
    const Task *tasks;    // [task_count]
    const Merge *merges;  // [merge_count]
    uint4 *sums;          // [..][8]: buckets, then extras
    u32 task_count;
    u32 merge_count;
};

// Arguments; mirrored by `ReduceArgs` on the host side.
struct ReduceArgs {
    const uint4 *in;  // [count][length][S] at first, else [count][length][S, W], 8 vectors each
    uint4 *out;       // [count][S, W], and [count][W] at last
    u32 count;
    u32 length;  // of a segment: 1 to 16
    u32 lg_unit;
    u32 first;
    u32 last;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(128, 4) accumulate_buckets(const BucketArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.task_count) {
        return;
    }
    const Task task = args.tasks[thread];
    if (task.sum == NONE) {
        return;
    }
    const uint4 *bases = args.parts[task.part].bases;
    const u32 *entries = args.entries + task.first_entry;
    Point sum = infinity();
#pragma unroll 1
    for (u32 i = 0; i < task.entry_count; i++) {
        const u32 entry = entries[i];
        const Affine p = load_affine(bases + (size_t)(entry & ~NEGATIVE) * VECTORS_PER_AFFINE);
        sum = add(sum, negated_if((entry & NEGATIVE) != 0, p));
    }
    store_point(args.sums + (size_t)task.sum * VECTORS_PER_POINT, sum);
}

extern "C" __global__ void __launch_bounds__(128) merge_tasks(const BucketArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.merge_count) {
        return;
    }
    const Merge merge = args.merges[thread];
    if (merge.bucket == NONE) {
        return;
    }
    uint4 *bucket = args.sums + (size_t)merge.bucket * VECTORS_PER_POINT;
    Point sum = load_point(bucket);
#pragma unroll 1
    for (u32 i = 0; i < merge.count; i++) {
        sum = add(sum, load_point(args.sums + (size_t)(merge.first_extra + i) * VECTORS_PER_POINT));
    }
    store_point(bucket, sum);
}

extern "C" __global__ void __launch_bounds__(128, 3) reduce_segments(const ReduceArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= args.count) {
        return;
    }
    const size_t step = args.first ? VECTORS_PER_POINT : 2 * VECTORS_PER_POINT;
    const uint4 *in = args.in + (size_t)thread * args.length * step;
    // From the end: `plain` is the sum of the S so far, `weighted` the sum of all that `plain` has been. Then `weighted` is
    // doubled, as the sum of two equal points, and takes the W. One copy of the addition serves all rounds: what it adds to
    // and the other of the two change places after every round while there are S.
    Point total = infinity(), other = infinity();
    const u32 weighing = 2 * args.length, doubling = weighing + args.lg_unit;
    const u32 rounds = args.first ? weighing : doubling + args.length;
#pragma unroll 1
    for (u32 round = 0; round < rounds; round++) {
        Point p = other;
        if (round < weighing && round % 2 == 0) {
            p = load_point(in + (args.length - 1 - round / 2) * step);
        } else if (round == weighing - 1 && !args.first) {
            p = infinity();
        } else if (round >= doubling) {
            p = load_point(in + (round - doubling) * step + VECTORS_PER_POINT);
        } else if (round >= weighing) {
            p = total;
        }
        const Point sum = add(total, p);
        // After the last round with S the places stay as they are: total is `weighted` from then on.
        total = chosen(round < weighing - 1, other, sum);
        other = chosen(round < weighing - 1, sum, other);
    }
    const Point &plain = other, &weighted = total;
    if (args.last) {
        store_point(args.out + (size_t)thread * VECTORS_PER_POINT, weighted);
    } else {
        uint4 *out = args.out + (size_t)thread * 2 * VECTORS_PER_POINT;
        store_point(out, plain);
        store_point(out + VECTORS_PER_POINT, weighted);
    }
}
