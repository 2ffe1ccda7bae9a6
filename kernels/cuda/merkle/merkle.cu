// merkle: the Keccak trees over the rows of an encoded blob.
//
// Source of the formulas: the network's DA encoder and its storage network. A leaf is keccak256 of a sector of 256 bytes: 8 scalars
// of 32 bytes, little-endian. A parent is keccak256(left . right). Rows, cosets and levels lie side by side, so that one launch
// makes one level of all trees.
// Twin: zgpu-core's tree in tests/blob.rs.
#include "../field/field.cuh"
#include "../hash/keccak.cuh"

const u32 SECTORS_PER_BLOCK = 128;
const u32 SCALARS_PER_SECTOR = 8;
const u32 WORDS_PER_SECTOR = 64;
// Lanes of a sector that the first block of keccak256 takes, of 32.
const int LANES_PER_KECCAK_BLOCK = 17;
const int LANES_PER_SECTOR = 32;

// Arguments; mirrored by `SectorArgs` on the host side.
struct SectorArgs {
    const uint4 *scalars;  // [8 count][2 x 16 bytes], Montgomery
    ulonglong2 *digests;   // [count][2 x 16 bytes]
    u32 count;
    u32 unused;
};

__device__ __forceinline__ void store_digest(ulonglong2 *place, const Lane *digest) {
    place[0] = make_ulonglong2(word(digest[0]), word(digest[1]));
    place[1] = make_ulonglong2(word(digest[2]), word(digest[3]));
}

// Grid: one thread a sector, 128 a block. The block first brings its 1,024 scalars out of Montgomery form, neighbours by
// neighbours. Shared memory: 32.3 KiB, word by word so that the threads of a warp meet in different banks.
extern "C" __global__ void __launch_bounds__(128) hash_sectors(const SectorArgs args) {
    __shared__ u32 words[WORDS_PER_SECTOR][SECTORS_PER_BLOCK + 1];
    const u32 first = blockIdx.x * SECTORS_PER_BLOCK;
    const u32 count = args.count - first < SECTORS_PER_BLOCK ? args.count - first : SECTORS_PER_BLOCK;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < count * SCALARS_PER_SECTOR; i += SECTORS_PER_BLOCK) {
        const Fr scalar = from_mont(load<Fr>(args.scalars + ((size_t)first * SCALARS_PER_SECTOR + i) * 2));
#pragma unroll
        for (u32 limb = 0; limb < 8; limb++) {
            words[i % SCALARS_PER_SECTOR * 8 + limb][i / SCALARS_PER_SECTOR] = scalar.v[limb];
        }
    }
    __syncthreads();
    if (threadIdx.x >= count) {
        return;
    }
    Lane a[25];
#pragma unroll
    for (int i = 0; i < 25; i++) {
        a[i] = lane(0);
        if (i < LANES_PER_KECCAK_BLOCK) {
            a[i].lo = words[2 * i][threadIdx.x];
            a[i].hi = words[2 * i + 1][threadIdx.x];
        }
    }
    keccak_permute(a);
#pragma unroll
    for (int i = LANES_PER_KECCAK_BLOCK; i < LANES_PER_SECTOR; i++) {
        a[i - LANES_PER_KECCAK_BLOCK].lo ^= words[2 * i][threadIdx.x];
        a[i - LANES_PER_KECCAK_BLOCK].hi ^= words[2 * i + 1][threadIdx.x];
    }
    a[LANES_PER_SECTOR - LANES_PER_KECCAK_BLOCK].lo ^= 1;
    a[16].hi ^= 0x80000000u;
    keccak_permute(a);
    store_digest(args.digests + (size_t)(first + threadIdx.x) * 2, a);
}

// Arguments; mirrored by `ParentArgs` on the host side.
struct ParentArgs {
    const ulonglong2 *left;   // digest i at 2 x 16 bytes times i stride
    const ulonglong2 *right;  // likewise
    ulonglong2 *parents;      // [count][2 x 16 bytes]
    u32 stride;
    u32 count;
};

// Grid: one thread a parent. Shared memory: none.
extern "C" __global__ void __launch_bounds__(128) hash_parents(const ParentArgs args) {
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= args.count) {
        return;
    }
    Lane children[8], digest[4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const ulonglong2 left = args.left[(size_t)index * args.stride * 2 + i];
        const ulonglong2 right = args.right[(size_t)index * args.stride * 2 + i];
        children[2 * i] = lane(left.x);
        children[2 * i + 1] = lane(left.y);
        children[2 * i + 4] = lane(right.x);
        children[2 * i + 5] = lane(right.y);
    }
    keccak256<8>(digest, children);
    store_digest(args.parents + (size_t)index * 2, digest);
}
