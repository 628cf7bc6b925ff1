// The kernels around the steps of a CUDA graph: the twin of the loop in kernels/epoch.py.
//
// A captured step has the addresses and numbers of the time when it was captured. What differs from
// step to step, or from epoch to epoch, it finds on the device at fixed addresses: `begin` writes
// there before an epoch, and `tick`, the last kernel of each step, writes for the next step.

#pragma once

#include "memory.cuh"
#include "sums.cuh"

template <class T>
struct Epoch {
    const T* table;      // (steps, n): the optimizer's numbers in each step
    Index n;
    const Index* order;  // (N,): the examples, `batch` a step
    Index N, batch;
    T* losses;           // (steps, networks)
    T* logits;           // (kept, stride) or null: a ring of the logits of `kept` steps
    Index kept, stride;
    Index step;          // the one under way
};

static_assert(sizeof(Epoch<double>) <= 128, "the memory that graphs.py makes for it");

// Copies the numbers of a step and its examples to where the step finds them, if there is one.
template <class T>
__device__ void prepare(const Epoch<T>& epoch, Index step, T* numbers, Index* index) {
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    const Index threads = Index(gridDim.x) * blockDim.x;
    const Index first = step * epoch.batch, left = epoch.N - first;
    if (left <= 0) return;
    for (Index i = thread; i < epoch.n; i += threads) numbers[i] = epoch.table[step * epoch.n + i];
    for (Index i = thread; i < left && i < epoch.batch; i += threads)
        index[i] = epoch.order[first + i];
}

// Begins an epoch.   count: the updates before it.
template <class T>
__global__ void __launch_bounds__(THREADS) begin(
    Epoch<T>* at, const T* table, Index n, const Index* order, Index N, Index batch, T* losses,
    T* logits, Index kept, Index stride, T* numbers, Index* index, int* count_at, Index count) {
    const Epoch<T> epoch = {table, n, order, N, batch, losses, logits, kept, stride, 0};
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *at = epoch;
        *count_at = int(count);
    }
    prepare(epoch, 0, numbers, index);
}

// Ends a step.   loss: (networks,).   Z: its logits, `size` numbers.
template <class T>
__global__ void __launch_bounds__(THREADS) tick(
    Epoch<T>* at, const T* loss, Index networks, const T* Z, Index size, T* numbers, Index* index,
    int* count_at, unsigned* counter) {
    const Epoch<T> epoch = *at;
    if (blockIdx.x == 0)
        for (Index i = threadIdx.x; i < networks; i += THREADS)
            epoch.losses[epoch.step * networks + i] = loss[i];
    if (epoch.logits) {
        T* to = epoch.logits + epoch.step % epoch.kept * epoch.stride;
        for_each_pack<T>(size, aligned(Z, to), [&](Index i, auto count) {
            store(to + i, load<decltype(count)::value>(Z + i));
        });
    }
    prepare(epoch, epoch.step + 1, numbers, index);
    if (is_last_block(counter, gridDim.x) && threadIdx.x == 0) {
        at->step = epoch.step + 1;
        ++*count_at;
    }
}
