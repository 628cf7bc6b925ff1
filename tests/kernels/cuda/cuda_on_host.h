// CUDA on the host: enough of it to run whole kernels on one thread of the processor.
//
// Every CUDA thread of a block is a fiber that runs until it waits for others; blocks run one after
// the other. The orders of threads and blocks turn round with each launch, so that a kernel which
// forgets to wait, or whose sums depend on who comes first, gives other results the second time.
// A kernel whose threads wait for what never comes ends the process, with the reason.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

using std::fabs;
using std::exp;
using std::expm1;
using std::log;
using std::log1p;
using std::sqrt;
using std::tanh;

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __restrict__
#define __shared__ static  // blocks run one after the other
#define CUDA_ON_HOST

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

static dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace host {

// Some threads that wait for each other; those that have ended are not waited for.
struct Barrier {
    unsigned members = 0, arrived = 0, round = 0;

    void arrive() {
        if (++arrived >= members) release();
    }
    void leave() {
        if (--members && arrived >= members) release();
    }
    void release();
};

// A stack of its own, on which threads run: one after the other, until one of them waits.
struct Fiber {
    jmp_buf place;
    std::vector<char> stack;
    unsigned thread;
    bool ended;
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::vector<Barrier> warps;
static std::vector<unsigned long long> slots;  // what lanes show each other, twice 32 a warp
static Barrier block;
static Fiber* self;
static const std::function<void()>* body;
static unsigned threads, begun;      // threads of the block, and those that have begun
static unsigned long long progress;  // counts barriers released and threads ended
static bool turned;
static unsigned long long fences;    // since the library was loaded

// Shared memory of the size that a launch asks for; blocks find what is not a number in it.
static std::vector<unsigned char> shared;

// What threads have begun to copy, which is there when they have waited for it and not before.
struct Copy {
    void* to;
    const void* from;
    size_t size;
};
static std::vector<std::vector<Copy>> copies;

void Barrier::release() {
    arrived = 0;
    ++round;
    ++progress;
}

static void enter() {
    const unsigned t = self->thread;
    threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

static void wait(Barrier& barrier) {
    const unsigned round = barrier.round;
    const dim3 index = threadIdx;
    barrier.arrive();
    while (barrier.round == round) {
        Fiber* const me = self;
        if (!_setjmp(me->place)) _longjmp(scheduler, 1);
        self = me;
    }
    threadIdx = index;
}

static void run_threads() {
    for (;;) {
        while (begun < threads) {
            self->thread = turned ? threads - 1 - begun : begun;
            ++begun;
            enter();
            (*body)();
            ++progress;
            block.leave();
            warps[self->thread / 32].leave();
        }
        self->ended = true;
        if (!_setjmp(self->place)) _longjmp(scheduler, 1);  // until it is started for another block
    }
}

static void start(Fiber& fiber) {
    self = &fiber;
    fiber.ended = false;
    if (_setjmp(scheduler)) return;
    if (!fiber.stack.empty()) _longjmp(fiber.place, 1);
    ucontext_t context;
    getcontext(&context);
    fiber.stack.resize(64 * 1024);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&context, run_threads, 0);
    setcontext(&context);
}

static void run_block() {
    block = Barrier{threads};
    warps.assign((threads + 31) / 32, Barrier{});
    slots.assign(warps.size() * 64, 0);
    for (unsigned t = 0; t < threads; ++t) ++warps[t / 32].members;
    std::fill(shared.begin(), shared.end(), 0xFF);
    copies.assign(threads, {});
    unsigned started = 0;
    for (begun = 0; begun < threads;) start(fibers[started++]);
    for (bool all_ended = false; !all_ended;) {
        const unsigned long long before = progress;
        all_ended = true;
        for (unsigned i = 0; i < started; ++i) {
            if (fibers[i].ended) continue;
            all_ended = false;
            self = &fibers[i];
            if (!_setjmp(scheduler)) _longjmp(self->place, 1);
        }
        if (!all_ended && progress == before) {
            std::fprintf(stderr, "a kernel's threads wait for each other for ever\n");
            std::abort();
        }
    }
}

static void launch(
    const unsigned grid[3], const unsigned shape[3], size_t room, const std::function<void()>& f) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {shape[0], shape[1], shape[2]};
    body = &f;
    turned = !turned;
    threads = shape[0] * shape[1] * shape[2];
    if (threads > 1024 || grid[1] > 65535 || grid[2] > 65535) {
        std::fprintf(stderr, "no device has a grid or a block of that shape\n");
        std::abort();
    }
    if (fibers.size() < threads) fibers.resize(threads);
    shared = std::vector<unsigned char>(room);
    const unsigned long long blocks = 1ull * grid[0] * grid[1] * grid[2];
    for (unsigned long long i = 0; i < blocks; ++i) {
        const unsigned long long b = turned ? blocks - 1 - i : i;
        blockIdx = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]),
                    unsigned(b / grid[0] / grid[1])};
        run_block();
    }
}

// The value of x in the lane that `from` names, for the lanes of a whole warp.
template <class T>
T exchange(T x, unsigned from) {
    static_assert(sizeof(T) <= 8);
    Barrier& warp = warps[self->thread / 32];
    // By turns in two places: who shows the next value may be ahead of who reads this one.
    unsigned long long* const shown = &slots[self->thread / 32 * 64 + warp.round % 2 * 32];
    std::memcpy(shown + self->thread % 32, &x, sizeof x);
    wait(warp);
    if (from < 32) std::memcpy(&x, shown + from, sizeof x);
    return x;
}

// Kernels as functions of an array of pointers to their arguments, with a letter for each type.
template <class P>
constexpr char letter() {
    return std::is_pointer_v<P> ? 'p' : std::is_same_v<P, double> ? 'd' : 'i';
}

template <class... P, size_t... I>
void call(void (*kernel)(P...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(args[I])...);
}

template <class... P>
const char* types(void (*)(P...)) {
    static const char letters[] = {letter<P>()..., 0};
    return letters;
}

template <class... P>
void launch(
    void (*kernel)(P...), const unsigned* grid, const unsigned* shape, size_t room, void** args) {
    launch(grid, shape, room, [=] { call(kernel, args, std::index_sequence_for<P...>()); });
}

}  // namespace host

static inline void __syncthreads() { host::wait(host::block); }
static inline void __syncwarp() { host::wait(host::warps[host::self->thread / 32]); }
static inline void __threadfence() { ++host::fences; }

template <class T>
T* shared_memory() {
    return reinterpret_cast<T*>(host::shared.data());
}

template <class T>
void copy_async(T* to, const T* from) {
    host::copies[host::self->thread].push_back({to, from, sizeof(T)});
}

static inline void copy_async_wait() {
    for (const host::Copy& copy : host::copies[host::self->thread])
        std::memcpy(copy.to, copy.from, copy.size);
    host::copies[host::self->thread].clear();
}

template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
    return host::exchange(x, host::self->thread % 32 ^ mask);
}

template <class T>
T __shfl_down_sync(unsigned, T x, unsigned delta) {
    return host::exchange(x, host::self->thread % 32 + delta);
}

static inline unsigned atomicInc(unsigned* at, unsigned most) {
    const unsigned before = *at;
    *at = before >= most ? 0 : before + 1;
    return before;
}

template <class T>
T __ldcg(const T* at) {
    return *at;
}

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, sizeof x);
    return bits;
}

static inline float __uint_as_float(unsigned bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
