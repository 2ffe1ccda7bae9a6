// Parts, entries and tasks: what the kernels of an MSM hand to one another.
//
// Source of the formulas: the bucket method (Pippenger, "On the evaluation of powers and related problems", 1976) with
// fixed bases. With digits of c bits, s + sum_j 2^(c j + c - 1) = sum_j e_j 2^(c j) gives s = sum_j d_j 2^(c j) with the
// signed digits d_j = e_j - 2^(c-1), each by itself. Bucket b = 1..2^(c-1) sums the multiples 2^(c j) P_i with d_j = b,
// less those with d_j = -b; the MSM is the sum of b times bucket b.
// A set has buckets of its own: a tile of the points of an MSM, and every stride-th window. The rest of the windows is in
// other sets, which are added with doublings in between. With a stride of 1 all windows are in the tables. A part is a
// range of at most 4,096 buckets of a set.
#pragma once

#include "../curve/point.cuh"

const u32 NONE = ~0u;
const u32 MAX_BUCKETS = 4096;  // of a part: as many counters as fit in shared memory
const int OFFSET_WORDS = 9;

// Mirrored by `Part` on the host side.
struct Part {
    const uint4 *bases;  // of its first point: [points][slots][4]
    u32 source;          // of its scalars: 0 the coefficients, 1 + k coset k
    u32 first_scalar;
    u32 points;
    u32 bits;     // c, 9 to 16
    u32 windows;  // of a scalar
    u32 stride;   // it has the windows first_window + i stride: slot i
    u32 first_window;
    u32 slots;
    u32 range;    // it has buckets range x buckets + 1 to (range + 1) x buckets of the set
    u32 buckets;
    // Where the set's rooms begin, and, of buckets, the part's.
    u32 first_entry;  // room for points x slots
    u32 first_task;   // room for 2^(c-1) + points x slots / ENTRIES_PER_TASK
    u32 first_bucket;
    u32 first_extra;  // sums beyond the buckets': room for points x slots / ENTRIES_PER_TASK
    u32 first_merge;  // as much room
    u32 offset[OFFSET_WORDS];  // sum_j 2^(c j + c - 1)
};

// One thread's share of a bucket: an entry is a point of the part's table, with bit 31 for its opposite.
struct Task {
    u32 part;
    u32 first_entry;
    u32 entry_count;
    u32 sum;  // where the sum goes; NONE: no task
};

// A bucket of several tasks: sums[bucket] += sums[first_extra ..][.. count].
struct Merge {
    u32 bucket;  // NONE: no merge
    u32 first_extra;
    u32 count;
    u32 unused;
};

// A task has 64 entries at most, about three times the usual bucket; in a bucket so full that it would need more than 64
// tasks it has 512, so that neither a task nor a merge is ever a long chain.
const u32 ENTRIES_PER_TASK = 64;
const u32 ENTRIES_PER_LONG_TASK = 512;

__device__ __forceinline__ u32 entries_per_task(u32 entries) {
    return entries <= ENTRIES_PER_TASK * ENTRIES_PER_TASK ? ENTRIES_PER_TASK : ENTRIES_PER_LONG_TASK;
}
