// sort: the digits of scalars, sorted by bucket, and the buckets cut into tasks, sorted by length.
//
// Formulas and structures: msm/part.cuh. A counting sort in shared memory, twice over the scalars: the first time digits
// are counted, the second time they find their places. Digits of zero have no entry. Tasks are in order of length, the
// longest first, so that the threads of a warp in accumulate_buckets have equally many entries.
// The parts of a set share its rooms: each goes through all digits, and knows from the number of entries in the ranges
// before its own where its shares begin.
// In: scalars, 32 bytes each, in Montgomery form. Out: entries, tasks, merges.
// Grid: one block of 256 a part. Shared memory: 21 KiB. Twin: ark-ec in tests/commit, through the sums.
#include "part.cuh"

const u32 THREADS_PER_SORT = 256;  // not above the buckets of any part
// Classes of tasks: class 0 is long ones, then 64 entries down to none.
const u32 CLASSES = ENTRIES_PER_TASK + 2;

// Arguments; mirrored by `SortArgs` on the host side.
struct SortArgs {
    const uint4 *coefficients;  // source 0: [N][2]
    const uint4 *coset_0;       // sources 1 to 3: [N][2]
    const uint4 *coset_1;
    const uint4 *coset_2;
    const Part *parts;  // [grid]
    u32 *entries;
    Task *tasks;
    Merge *merges;
};

// s + offset, to be shifted out from the low end.
struct Digits {
    u32 v[OFFSET_WORDS];
};

__device__ __forceinline__ Digits load_digits(const uint4 *place, const Part &part) {
    const Fr s = from_mont(load<Fr>(place));
    Digits r;
    u32 carry = 0;
#pragma unroll
    for (int i = 0; i < OFFSET_WORDS; i++) {
        const u64 sum = (u64)(i < 8 ? s.v[i] : 0) + part.offset[i] + carry;
        r.v[i] = (u32)sum;
        carry = (u32)(sum >> 32);
    }
    return r;
}

// The lowest window, as the number of a bucket from 0 with bit 31 for a negative digit; NONE for a digit of zero.
__device__ __forceinline__ u32 take_digit(Digits &digits, u32 bits) {
    const int digit = (int)(digits.v[0] & ((1u << bits) - 1)) - (int)(1u << (bits - 1));
#pragma unroll
    for (int i = 0; i < OFFSET_WORDS; i++) {
        digits.v[i] = __funnelshift_r(digits.v[i], i + 1 < OFFSET_WORDS ? digits.v[i + 1] : 0, bits);
    }
    if (digit == 0) {
        return NONE;
    }
    return digit > 0 ? (u32)digit - 1 : ((u32)-digit - 1) | NEGATIVE;
}

__device__ __forceinline__ u32 class_of(u32 entries) {
    return entries > ENTRIES_PER_TASK ? 0 : 1 + ENTRIES_PER_TASK - entries;
}

extern "C" __global__ void __launch_bounds__(256) sort_digits(const SortArgs args) {
    __shared__ u32 places[MAX_BUCKETS];  // entries of each bucket, then where its next one goes
    __shared__ u32 classes[CLASSES];     // likewise for the tasks of each length
    __shared__ u32 entries_before[THREADS_PER_SORT], extras_before[THREADS_PER_SORT], merges_before[THREADS_PER_SORT];
    __shared__ u32 entries_below[THREADS_PER_SORT];  // in the ranges before; then, in the first place, by all threads
    __shared__ u32 entries_total, extras_total, merges_total;

    const Part &part = args.parts[blockIdx.x];
    const uint4 *scalars = part.source == 0   ? args.coefficients
                           : part.source == 1 ? args.coset_0
                           : part.source == 2 ? args.coset_1
                                              : args.coset_2;
    scalars += (size_t)part.first_scalar * 2;
    const u32 thread = threadIdx.x;
    const u32 buckets = part.buckets, low = part.range * buckets;
    const bool is_last = low + buckets == 1u << (part.bits - 1);
    for (u32 bucket = thread; bucket < buckets; bucket += THREADS_PER_SORT) {
        places[bucket] = 0;
    }
    for (u32 i = thread; i < CLASSES; i += THREADS_PER_SORT) {
        classes[i] = 0;
    }
    __syncthreads();

    u32 below = 0;
#pragma unroll 1
    for (u32 i = thread; i < part.points; i += THREADS_PER_SORT) {
        Digits digits = load_digits(scalars + (size_t)i * 2, part);
        u32 next = part.first_window;
#pragma unroll 1
        for (u32 window = 0; window < part.windows; window++) {
            const u32 digit = take_digit(digits, part.bits);
            if (window == next) {
                next += part.stride;
                const u32 bucket = (digit & ~NEGATIVE) - low;
                if (digit != NONE && bucket < buckets) {
                    atomicAdd(&places[bucket], 1u);
                } else if (digit != NONE && (digit & ~NEGATIVE) < low) {
                    below++;
                }
            }
        }
    }
    __syncthreads();

    // Each thread has a run of buckets; what lies before the run is the sum over the threads before.
    const u32 run = buckets / THREADS_PER_SORT;
    u32 entries = 0, extras = 0, merges = 0;
#pragma unroll 1
    for (u32 bucket = thread * run; bucket < (thread + 1) * run; bucket++) {
        const u32 count = places[bucket], length = entries_per_task(count);
        const u32 whole = count / length, rest = count % length;
        const u32 tasks = whole + (rest > 0 || whole == 0 ? 1 : 0);
        entries += count;
        extras += tasks - 1;
        merges += tasks > 1 ? 1 : 0;
        if (whole > 0) {
            atomicAdd(&classes[class_of(length)], whole);
        }
        if (tasks > whole) {
            atomicAdd(&classes[class_of(rest)], 1u);
        }
    }
    entries_before[thread] = entries;
    extras_before[thread] = extras;
    merges_before[thread] = merges;
    entries_below[thread] = below;
    __syncthreads();
    if (thread == 0) {
        entries = extras = merges = below = 0;
#pragma unroll 1
        for (u32 i = 0; i < THREADS_PER_SORT; i++) {
            const u32 own_entries = entries_before[i], own_extras = extras_before[i], own_merges = merges_before[i];
            entries_before[i] = entries;
            extras_before[i] = extras;
            merges_before[i] = merges;
            entries += own_entries;
            extras += own_extras;
            merges += own_merges;
            below += entries_below[i];
        }
        entries_below[0] = below;
        entries_total = entries;
        extras_total = extras;
        merges_total = merges;
        u32 tasks = 0;
#pragma unroll 1
        for (u32 i = 0; i < CLASSES; i++) {
            const u32 own_tasks = classes[i];
            classes[i] = tasks;
            tasks += own_tasks;
        }
    }
    __syncthreads();
    // A range of e entries has at most e / 64 extras and merges, rounded down, and so have ranges together.
    below = entries_below[0];
    const u32 first_entry = part.first_entry + below, share = below / ENTRIES_PER_TASK;
    const u32 first_extra = part.first_extra + share, first_merge = part.first_merge + share;
    const u32 first_task = part.first_task + low + share;
    const u32 capacity = (is_last ? part.points * part.slots : below + entries_total) / ENTRIES_PER_TASK - share;
    entries = entries_before[thread];
    extras = extras_before[thread];
    merges = merges_before[thread];
#pragma unroll 1
    for (u32 bucket = thread * run; bucket < (thread + 1) * run; bucket++) {
        const u32 count = places[bucket], length = entries_per_task(count);
        places[bucket] = entries;
        const u32 bucket_extra = extras;
        u32 done = 0, tasks = 0;
        do {
            const u32 left = count - done, own = left < length ? left : length;
            Task task;
            task.part = blockIdx.x;
            task.first_entry = first_entry + entries + done;
            task.entry_count = own;
            task.sum = tasks == 0 ? part.first_bucket + bucket : first_extra + extras++;
            args.tasks[first_task + atomicAdd(&classes[class_of(own)], 1u)] = task;
            done += own;
            tasks++;
        } while (done < count);
        entries += count;
        if (tasks > 1) {
            Merge merge;
            merge.bucket = part.first_bucket + bucket;
            merge.first_extra = first_extra + bucket_extra;
            merge.count = tasks - 1;
            merge.unused = 0;
            args.merges[first_merge + merges++] = merge;
        }
    }
    // The rest of the rooms is empty.
    for (u32 i = extras_total + thread; i < capacity; i += THREADS_PER_SORT) {
        args.tasks[first_task + buckets + i].sum = NONE;
    }
    for (u32 i = merges_total + thread; i < capacity; i += THREADS_PER_SORT) {
        args.merges[first_merge + i].bucket = NONE;
    }
    __syncthreads();

#pragma unroll 1
    for (u32 i = thread; i < part.points; i += THREADS_PER_SORT) {
        Digits digits = load_digits(scalars + (size_t)i * 2, part);
        u32 next = part.first_window, slot = 0;
#pragma unroll 1
        for (u32 window = 0; window < part.windows; window++) {
            const u32 digit = take_digit(digits, part.bits);
            if (window == next) {
                next += part.stride;
                const u32 bucket = (digit & ~NEGATIVE) - low;
                if (digit != NONE && bucket < buckets) {
                    const u32 place = atomicAdd(&places[bucket], 1u);
                    args.entries[first_entry + place] = (i * part.slots + slot) | (digit & NEGATIVE);
                }
                slot++;
            }
        }
    }
}
