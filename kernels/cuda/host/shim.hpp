// What the kernels use of CUDA C++, in plain C++: a build for the host runs the same sources, one thread after the other.
#pragma once

#include <cstddef>
#include <cstdint>

#define __device__
#define __global__
#define __constant__ static const
#define __forceinline__ inline
#define __launch_bounds__(...)

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
inline thread_local Index threadIdx, blockIdx, blockDim;

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

inline uint32_t __umulhi(uint32_t a, uint32_t b) {
    return (uint32_t)(((uint64_t)a * b) >> 32);
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
