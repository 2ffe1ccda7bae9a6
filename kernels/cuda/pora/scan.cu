// scan: hash the seals of recalled loads against scratch pads, and keep those that meet the target.
//
// Source of the formulas: PoRA ticket of the 0G Storage contracts. For every available seal i of a load:
//   mixed = seal XOR pad[(i mod 4) x 4096 ..][..4096]
//   quality = first 32 bytes of blake2b-512(u256_be(i) . pad_seed . 32 zero bytes . mixed)   33 blocks
//   hit when quality <= target, both as big-endian integers
// Grid: one thread a seal, 64 threads an item; a block of 128 is two items. A warp's lanes walk 32 seals side by side, a
// 128-byte line each, and share the four lines of the pad. Shared memory: none. Twin: tests/twin.
#include "../hash/blake2b.cuh"

const u32 SEALS_PER_LOAD = 64;
const u32 SEALS_PER_PAD = 4;
const u32 VECTORS_PER_SEAL = 256;  // of 16 bytes
const u32 VECTORS_PER_PAD = 1024;
const u32 BLOCKS_PER_SEAL = 32;  // of 128 bytes

// One load against one pad; mirrored by `ItemArgs` on the host side.
struct Item {
    u32 pad_slot;
    u32 load_slot;
    u64 available;  // bit i: seal i is there
};

// A seal that met the target; mirrored by `HitArgs` on the host side.
struct Hit {
    u32 item;
    u32 seal;
    u64 quality[4];  // 32 bytes as they come out of BLAKE2b
};

// Arguments; mirrored by `ScanArgs` on the host side.
struct ScanArgs {
    const uint4 *pads;            // [..][1024 x 16 bytes]
    const ulonglong2 *pad_seeds;  // [..][4 x 16 bytes]
    const uint4 *const *chunks;   // [..] chunks of 2^lg_loads_per_chunk loads of 256 KiB
    const Item *items;            // [item_count]
    Hit *hits;                    // [hit_capacity]
    u32 *hit_count;               // all hits, also those beyond the capacity
    u32 target[8];                // most significant word first
    u32 item_count;
    u32 hit_capacity;
    u32 lg_loads_per_chunk;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(128, 4) scan_items(const ScanArgs args) {
    const u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
    const u32 item_index = thread / SEALS_PER_LOAD;
    const u32 seal = thread % SEALS_PER_LOAD;
    if (item_index >= args.item_count) {
        return;
    }
    const Item item = args.items[item_index];
    if (!((item.available >> seal) & 1)) {
        return;
    }
    const u32 chunk = item.load_slot >> args.lg_loads_per_chunk;
    const u32 load = item.load_slot - (chunk << args.lg_loads_per_chunk);
    const uint4 *sealed = args.chunks[chunk] + ((size_t)load * SEALS_PER_LOAD + seal) * VECTORS_PER_SEAL;
    const uint4 *pad = args.pads + (size_t)item.pad_slot * VECTORS_PER_PAD + (seal % SEALS_PER_PAD) * VECTORS_PER_SEAL;

    // Block 0 is the header: the seal's index as a 256-bit big-endian integer, the pad seed, 32 zero bytes.
    Lane h[8], m[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        m[i] = lane(0);
    }
    m[3].hi = seal << 24;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const ulonglong2 words = args.pad_seeds[(size_t)item.pad_slot * 4 + i];
        m[4 + 2 * i] = lane(words.x);
        m[5 + 2 * i] = lane(words.y);
    }
    blake2b_start(h);
    // The header goes through the same copy of the compression as the rest: code that fits the instruction cache counts more here
    // than the few additions of zero that a copy of its own would save.
#pragma unroll 1
    for (u32 block = 0; block <= BLOCKS_PER_SEAL; block++) {
        if (block > 0) {
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const uint4 s = __ldg(sealed + i), p = __ldg(pad + i);
                m[2 * i].lo = s.x ^ p.x;
                m[2 * i].hi = s.y ^ p.y;
                m[2 * i + 1].lo = s.z ^ p.z;
                m[2 * i + 1].hi = s.w ^ p.w;
            }
            sealed += 8;
            pad += 8;
        }
        blake2b_compress(h, m, (block + 1) * 128, block == BLOCKS_PER_SEAL ? ~0u : 0u);
    }

    // quality <= target: the borrow of target - quality, from the least significant word up.
    u32 borrow = 0;
#pragma unroll
    for (int i = 3; i >= 0; i--) {
        const u32 low = swap_bytes(h[i].hi), high = swap_bytes(h[i].lo);
        borrow = (args.target[2 * i + 1] < low) | ((args.target[2 * i + 1] == low) & borrow);
        borrow = (args.target[2 * i] < high) | ((args.target[2 * i] == high) & borrow);
    }
    if (borrow) {
        return;
    }
    const u32 place = atomicAdd(args.hit_count, 1u);
    if (place < args.hit_capacity) {
        Hit *hit = args.hits + place;
        hit->item = item_index;
        hit->seal = seal;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            hit->quality[i] = word(h[i]);
        }
    }
}
