// The kernels as host code: each function runs blocks first .. first + count of a grid, thread after thread.
#define ZGPU_HOST
#include "shim.hpp"

#include "../pora/draw.cu"
#include "../pora/scan.cu"
#include "../seal/seal.cu"

template <typename Args>
static void run(void (*kernel)(Args), const void *args, uint32_t first, uint32_t count, uint32_t threads) {
    blockDim.x = threads;
    for (uint32_t block = first; block < first + count; block++) {
        blockIdx.x = block;
        for (uint32_t thread = 0; thread < threads; thread++) {
            threadIdx.x = thread;
            kernel(*static_cast<const Args *>(args));
        }
    }
}

extern "C" void zgpu_emulate_seed_pads(const void *args, uint32_t first, uint32_t count, uint32_t threads) {
    run<const DrawArgs>(seed_pads, args, first, count, threads);
}

extern "C" void zgpu_emulate_draw_pads(const void *args, uint32_t first, uint32_t count, uint32_t threads) {
    run<const DrawArgs>(draw_pads, args, first, count, threads);
}

extern "C" void zgpu_emulate_scan_items(const void *args, uint32_t first, uint32_t count, uint32_t threads) {
    run<const ScanArgs>(scan_items, args, first, count, threads);
}

extern "C" void zgpu_emulate_seal_units(const void *args, uint32_t first, uint32_t count, uint32_t threads) {
    run<const SealArgs>(seal_units, args, first, count, threads);
}
