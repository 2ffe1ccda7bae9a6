// The kernels as host code, called by name: blocks first .. first + count of a grid.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <ucontext.h>

// Behind the system's headers: it takes names that they use.
#define ZGPU_HOST
#include "shim.hpp"

#include "../curve/combine.cu"
#include "../merkle/merkle.cu"
#include "../msm/bucket.cu"
#include "../msm/sort.cu"
#include "../msm/table.cu"
#include "../ntt/ntt.cu"
#include "../pora/draw.cu"
#include "../pora/scan.cu"
#include "../seal/seal.cu"
#include "../slice/slice.cu"

namespace {

// Threads of a block that meet at barriers ----------------------------------------------------------------------------

const size_t STACK_BYTES = 128 << 10;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done;
};

// What the fibers of this host thread run, and where they return to.
struct Block {
    ucontext_t scheduler;
    Fiber *running = nullptr;
    void (*call)(const void *) = nullptr;
    const void *args = nullptr;
};
thread_local Block block;

void start_fiber() {
    block.call(block.args);
    block.running->done = true;
}

void prepare(Fiber &fiber) {
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = &block.scheduler;
    makecontext(&fiber.context, start_fiber, 0);
}

// Runs one block: every thread to its next barrier or its end, until all have ended.
void run_fibers(Fiber *fibers, uint32_t threads) {
    for (uint32_t i = 0; i < threads; i++) {
        prepare(fibers[i]);
    }
    for (uint32_t done = 0; done < threads;) {
        if (done > 0) {
            std::fprintf(stderr, "a thread of a block has ended while another waits at a barrier\n");
            std::abort();
        }
        for (uint32_t i = 0; i < threads; i++) {
            threadIdx.x = i;
            block.running = &fibers[i];
            swapcontext(&block.scheduler, &fibers[i].context);
            done += fibers[i].done;
        }
    }
    block.running = nullptr;
}

// The table of kernels -------------------------------------------------------------------------------------------------

template <typename Args>
Args args_of(void (*)(Args));

template <auto kernel>
void call(const void *args) {
    typedef decltype(args_of(kernel)) Args;
    kernel(*static_cast<const Args *>(args));
}

struct Kernel {
    const char *name;
    void (*call)(const void *);
    bool barriers;
};

#define KERNEL(name) {#name, call<name>, false}
#define KERNEL_WITH_BARRIERS(name) {#name, call<name>, true}

const Kernel KERNELS[] = {
    KERNEL(seed_pads),
    KERNEL(draw_pads),
    KERNEL(scan_items),
    KERNEL(seal_units),
    KERNEL(build_twiddles),
    KERNEL(unpack_scalars),
    KERNEL(read_elements),
    KERNEL_WITH_BARRIERS(ntt_pass),
    KERNEL_WITH_BARRIERS(hash_sectors),
    KERNEL(hash_parents),
    KERNEL(write_slices),
    KERNEL(extend_table),
    KERNEL(normalise_table),
    KERNEL_WITH_BARRIERS(sort_digits),
    KERNEL(accumulate_buckets),
    KERNEL(merge_tasks),
    KERNEL(reduce_segments),
    KERNEL(sum_points),
    KERNEL(split_scalars),
    KERNEL(multiply_points),
    KERNEL(normalise_points),
};

}  // namespace

void __syncthreads() {
    if (block.running == nullptr) {
        std::fprintf(stderr, "a kernel with barriers is listed without them\n");
        std::abort();
    }
    swapcontext(&block.running->context, &block.scheduler);
}

// False when there is no such kernel.
extern "C" bool zgpu_emulate(const char *name, const void *args, uint32_t first, uint32_t count, uint32_t blocks,
                             uint32_t threads) {
    for (const Kernel &kernel : KERNELS) {
        if (std::strcmp(kernel.name, name) != 0) {
            continue;
        }
        std::unique_ptr<Fiber[]> fibers;
        if (kernel.barriers) {
            fibers.reset(new Fiber[threads]);
            for (uint32_t i = 0; i < threads; i++) {
                fibers[i].stack.reset(new char[STACK_BYTES]);
            }
        }
        block.call = kernel.call;
        block.args = args;
        blockDim.x = threads;
        gridDim.x = blocks;
        for (uint32_t index = first; index < first + count; index++) {
            blockIdx.x = index;
            if (kernel.barriers) {
                run_fibers(fibers.get(), threads);
            } else {
                for (uint32_t thread = 0; thread < threads; thread++) {
                    threadIdx.x = thread;
                    kernel.call(args);
                }
            }
        }
        return true;
    }
    return false;
}

// Field arithmetic by itself: r = op(a, b), or op(a), on 32 bytes each. False when there is no such operation.
template <typename F>
static bool field_operation(const char *name, const F &a, const F &b, F &r) {
    const struct {
        const char *name;
        F (*run)(const F &, const F &);
    } operations[] = {
        {"add", [](const F &a, const F &b) { return add(a, b); }},
        {"sub", [](const F &a, const F &b) { return sub(a, b); }},
        {"mul", [](const F &a, const F &b) { return mul(a, b); }},
        {"neg", [](const F &a, const F &) { return neg(a); }},
        {"dbl", [](const F &a, const F &) { return dbl(a); }},
        {"sqr", [](const F &a, const F &) { return sqr(a); }},
        {"inv", [](const F &a, const F &) { return inv(a); }},
        {"to_mont", [](const F &a, const F &) { return to_mont(a); }},
        {"from_mont", [](const F &a, const F &) { return from_mont(a); }},
        {"zero", [](const F &, const F &) { return F::zero(); }},
        {"one", [](const F &, const F &) { return F::one(); }},
        {"is_zero", [](const F &a, const F &) { return is_zero(a) ? F::one() : F::zero(); }},
        {"equal", [](const F &a, const F &b) { return equal(a, b) ? F::one() : F::zero(); }},
    };
    for (const auto &operation : operations) {
        if (std::strcmp(operation.name, name) == 0) {
            r = operation.run(a, b);
            return true;
        }
    }
    return false;
}

// The same by the field's name, Fq or Fr.
extern "C" bool zgpu_emulate_field(const char *field, const char *name, const uint32_t *a, const uint32_t *b, uint32_t *r) {
    const auto run = [&](auto x, auto y, auto z) {
        std::memcpy(x.v, a, sizeof x.v);
        std::memcpy(y.v, b, sizeof y.v);
        const bool known = field_operation(name, x, y, z);
        std::memcpy(r, z.v, sizeof z.v);
        return known;
    };
    return std::strcmp(field, "Fq") == 0 ? run(Fq(), Fq(), Fq()) : run(Fr(), Fr(), Fr());
}
