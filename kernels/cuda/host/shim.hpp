// What the kernels use of CUDA C++, in plain C++: a build for the host runs the same sources.
//
// Threads of a block run one after the other. A kernel without barriers simply runs to its end, thread by thread. A kernel with
// __syncthreads() runs each thread as a fiber with a stack of its own: a thread runs until it reaches the barrier or its end,
// then the next one does; when all have arrived, the first goes on. So:
//   - __shared__ variables are one copy for the running block (static, declared inside the kernel or a function it calls);
//     they are not cleared between blocks, and at most 48 KiB of a block's may be shared, as on a card;
//   - every thread of a block reaches every barrier: a thread that has returned while another waits ends the program;
//   - there are no warps: no shuffles, no votes, and nothing may rely on threads of a warp running in step;
//   - blocks run in any order and side by side on the host's cores, sharing only what they update atomically.
// emulate.cpp lists the kernels and says which have barriers.
#pragma once

#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __constant__ static const
#define __shared__ static thread_local
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

struct alignas(8) uint2 {
    uint32_t x, y;
};

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};

struct Index {
    uint32_t x;
};

// Where the running thread of the grid is; each host thread runs blocks of its own.
inline thread_local Index threadIdx, blockIdx, blockDim, gridDim;

// The barrier of a block, in emulate.cpp.
void __syncthreads();

inline uint2 make_uint2(uint32_t x, uint32_t y) {
    return {x, y};
}

inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    return {x, y, z, w};
}

inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) {
    return {x, y};
}

template <typename T>
inline T __ldg(const T *place) {
    return *place;
}

inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t bits) {
    const uint64_t both = ((uint64_t)high << 32) | low;
    return (uint32_t)((both << (bits & 31)) >> 32);
}

inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t bits) {
    const uint64_t both = ((uint64_t)high << 32) | low;
    return (uint32_t)(both >> (bits & 31));
}

inline uint32_t __umulhi(uint32_t a, uint32_t b) {
    return (uint32_t)(((uint64_t)a * b) >> 32);
}

inline uint32_t __brev(uint32_t a) {
    uint32_t r = 0;
    for (int i = 0; i < 32; i++) {
        r |= ((a >> i) & 1) << (31 - i);
    }
    return r;
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t both = ((uint64_t)high << 32) | low;
    uint32_t result = 0;
    for (int i = 0; i < 4; i++) {
        const uint32_t source = (selector >> (4 * i)) & 7;
        result |= (uint32_t)((both >> (8 * source)) & 0xff) << (8 * i);
    }
    return result;
}

inline uint32_t atomicAdd(uint32_t *place, uint32_t value) {
    return __atomic_fetch_add(place, value, __ATOMIC_RELAXED);
}
