// seal: XOR the units of a seal with a chain of masks.
//
// Source of the formulas: sealing in the 0G Storage contracts. For the 128 units of 32 bytes of a seal, in order:
//   sealed_i = data_i XOR mask_i;  mask_{i+1} = keccak256(sealed_i)
// The chain is sequential, so a seal is one thread's work and throughput comes from many seals.
// In: data [count][4096 bytes], masks [count][32 bytes] with mask_0. Out: data, in place.
// Grid: one thread a seal, any block size. Shared memory: none. Twin: tests/twin.
#include "../hash/keccak.cuh"

const int UNITS_PER_SEAL = 128;

// Arguments; mirrored by `SealArgs` on the host side.
struct SealArgs {
    uint4 *data;         // [count][256 x 16 bytes]
    const uint4 *masks;  // [count][2 x 16 bytes]
    u32 count;
    u32 unused;
};

extern "C" __global__ void __launch_bounds__(128) seal_units(const SealArgs args) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= args.count) {
        return;
    }
    uint4 *unit = args.data + (size_t)index * (UNITS_PER_SEAL * 2);
    Lane mask[4], sealed[4];
#pragma unroll
    for (int j = 0; j < 2; j++) {
        const uint4 words = args.masks[(size_t)index * 2 + j];
        mask[2 * j].lo = words.x;
        mask[2 * j].hi = words.y;
        mask[2 * j + 1].lo = words.z;
        mask[2 * j + 1].hi = words.w;
    }
#pragma unroll 1
    for (int i = 0; i < UNITS_PER_SEAL; i++) {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint4 words = unit[j];
            sealed[2 * j].lo = words.x ^= mask[2 * j].lo;
            sealed[2 * j].hi = words.y ^= mask[2 * j].hi;
            sealed[2 * j + 1].lo = words.z ^= mask[2 * j + 1].lo;
            sealed[2 * j + 1].hi = words.w ^= mask[2 * j + 1].hi;
            unit[j] = words;
        }
        unit += 2;
        if (i + 1 < UNITS_PER_SEAL) {
            keccak256<4>(mask, sealed);
        }
    }
}
