// draw: from nonces to scratch pads and recall seeds.
//
// Source of the formulas: PoRA scratch pad of the 0G Storage contracts.
//   pad_seed = blake2b-512(miner_id . nonce . subtask_digest . range_digest)             128 bytes in, 64 out
//   d = pad_seed; 256 times: d[0..32] = keccak256(d); d[32..64] = keccak256(d); append d  16 KiB
//   recall_seed = keccak256(d)
// Grid: one thread a nonce, any block size; threads beyond count do nothing. Shared memory: none. Twin: tests/twin.
#include "../hash/blake2b.cuh"
#include "../hash/keccak.cuh"

const int CELLS_PER_PAD = 256;
const int VECTORS_PER_CELL = 4;

// Arguments of both kernels; mirrored by `DrawArgs` on the host side.
struct DrawArgs {
    u64 message[16];  // the 128 bytes hashed for nonce 0 of the job, as little-endian words
    u64 nonce_low;    // the last 8 bytes of that nonce as a big-endian integer
    uint4 *pads;      // [count][256 cells][4 x 16 bytes]
    ulonglong2 *pad_seeds;     // [count][4 x 16 bytes]
    ulonglong2 *recall_seeds;  // [count][2 x 16 bytes], big-endian integers as the hash gives them
    u32 count;
    u32 unused;
};

// In: args.message, args.nonce_low. Out: args.pad_seeds.
extern "C" __global__ void __launch_bounds__(128) seed_pads(const DrawArgs args) {
    const u32 slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= args.count) {
        return;
    }
    Lane h[8], m[16];
#pragma unroll
    for (int i = 0; i < 16; i++) {
        m[i] = lane(args.message[i]);
    }
    const Lane nonce_low = lane(args.nonce_low + slot);
    m[7].lo = swap_bytes(nonce_low.hi);
    m[7].hi = swap_bytes(nonce_low.lo);
    blake2b_start(h);
    blake2b_compress(h, m, 128, ~0u);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        args.pad_seeds[(size_t)slot * 4 + i] = make_ulonglong2(word(h[2 * i]), word(h[2 * i + 1]));
    }
}

// In: args.pad_seeds. Out: args.pads, args.recall_seeds. 513 chained permutations; six blocks, 24 warps, on a multiprocessor.
// A thread writes whole 32-byte pieces of its own pad: a tenth of a percent of its time, and the pads lie as scan_items reads them.
extern "C" __global__ void __launch_bounds__(128, 6) draw_pads(const DrawArgs args) {
    const u32 slot = blockIdx.x * blockDim.x + threadIdx.x;
    if (slot >= args.count) {
        return;
    }
    Lane d[8], half[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const ulonglong2 words = args.pad_seeds[(size_t)slot * 4 + i];
        d[2 * i] = lane(words.x);
        d[2 * i + 1] = lane(words.y);
    }
    uint4 *cell = args.pads + (size_t)slot * (CELLS_PER_PAD * VECTORS_PER_CELL);
#pragma unroll 1
    for (int i = 0; i < CELLS_PER_PAD; i++) {
        keccak256<8>(half, d);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            d[j] = half[j];
        }
        keccak256<8>(half, d);
#pragma unroll
        for (int j = 0; j < 4; j++) {
            d[4 + j] = half[j];
        }
#pragma unroll
        for (int j = 0; j < VECTORS_PER_CELL; j++) {
            cell[j] = make_uint4(d[2 * j].lo, d[2 * j].hi, d[2 * j + 1].lo, d[2 * j + 1].hi);
        }
        cell += VECTORS_PER_CELL;
    }
    keccak256<8>(half, d);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        args.recall_seeds[(size_t)slot * 2 + i] = make_ulonglong2(word(half[2 * i]), word(half[2 * i + 1]));
    }
}
