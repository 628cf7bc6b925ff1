// The kernels around the steps of a CUDA graph: the twin of the loop in kernels/epoch.py.
//
// A captured step has the addresses and numbers of the time when it was captured. What differs from
// step to step, or from epoch to epoch, it finds on the device at fixed addresses: `begin` writes
// there before an epoch, and the last kernel of each step writes for the next one: that of the update,
// with `end_step`, or else `tick`.

#pragma once

#include "memory.cuh"
#include "minibatch.cuh"
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
    T* numbers;          // (n,): where a step finds its numbers,
    Index* index;        // (batch,): its examples,
    int* count;          // and the updates before it
    Rows<T> rows;        // the data, where its minibatch is taken for it
};

static_assert(sizeof(Epoch<double>) <= 256, "the memory that graphs.py makes for it");

// Copies the numbers of a step and its examples to where the step finds them, if there is one.
template <class T>
__device__ void prepare(const Epoch<T>& epoch, Index step, Index thread, Index threads) {
    const Index first = step * epoch.batch, left = epoch.N - first;
    if (left <= 0) return;
    for (Index i = thread; i < epoch.n; i += threads) epoch.numbers[i] = epoch.table[step * epoch.n + i];
    for (Index i = thread; i < left && i < epoch.batch; i += threads)
        epoch.index[i] = epoch.order[first + i];
}

// Takes the minibatch of a step, if there is one, where steps do not take theirs themselves.
template <class T>
__device__ void take_rows(const Epoch<T>& epoch, Index step, Index thread, Index threads) {
    const Index first = step * epoch.batch, left = epoch.N - first;
    if (left <= 0 || !epoch.rows.X) return;
    gather(epoch.rows, epoch.order + first, left < epoch.batch ? left : epoch.batch, thread, threads);
}

// Begins an epoch.   count: the updates before it.   X and what follows: as of `Rows`.
template <class T>
__global__ void __launch_bounds__(THREADS) begin(
    Epoch<T>* at, const T* table, Index n, const Index* order, Index N, Index batch, T* losses,
    T* logits, Index kept, Index stride, T* numbers, Index* index, int* count_at, Index count,
    const void* X, Index bytes, Index X_stride, Index D, T* X_rows, Bf16* half, const void* Y,
    void* Y_rows, Index unit, Index units, const T* weights, T* weight_rows) {
    const Epoch<T> epoch = {
        table, n, order, N, batch, losses, logits, kept, stride, 0, numbers, index, count_at,
        {X, bytes, X_stride, D, X_rows, half, Y, Y_rows, unit, units, weights, weight_rows}};
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *at = epoch;
        *count_at = int(count);
    }
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    const Index threads = Index(gridDim.x) * blockDim.x;
    prepare(epoch, 0, thread, threads);
    take_rows(epoch, 0, thread, threads);
}

// Ends a step by `threads` threads, of which this is number `thread`: takes down its loss (networks,)
// and its logits Z, `size` numbers, and puts in place what the next one finds.
template <class T>
__device__ void take_down(
    const Epoch<T>& epoch, const T* loss, Index networks, const T* Z, Index size, Index thread,
    Index threads) {
    for (Index i = thread; i < networks; i += threads)
        epoch.losses[epoch.step * networks + i] = loss[i];
    if (epoch.logits) {
        T* to = epoch.logits + epoch.step % epoch.kept * epoch.stride;
        constexpr int V = PACK<T>;
        const Index whole = aligned(Z, to) ? size - size % V : 0;
        for (Index i = thread * V; i < whole; i += threads * V) store(to + i, load<V>(Z + i));
        for (Index i = whole + thread; i < size; i += threads) to[i] = Z[i];
    }
    prepare(epoch, epoch.step + 1, thread, threads);
}

// The step that follows is the one under way.
template <class T>
__device__ void step_on(Epoch<T>* at) {
    ++at->step;
    ++*at->count;
}

// Ends a step in the kernel of its update. All blocks take the rows of the next minibatch, which no
// kernel reads by then; the last one, when the others have read what it changes, does the rest.
// at: null where the step goes on.
template <class T>
__device__ void end_step(
    Epoch<T>* at, const T* loss, Index networks, const T* Z, Index size, unsigned* counter) {
    if (!at) return;
    take_rows(
        *at, at->step + 1, Index(blockIdx.x) * blockDim.x + threadIdx.x,
        Index(gridDim.x) * blockDim.x);
    if (!is_last_block(counter, gridDim.x)) return;
    const Epoch<T> epoch = *at;
    __syncthreads();  // all have read it
    take_down(epoch, loss, networks, Z, size, threadIdx.x, blockDim.x);
    if (threadIdx.x == 0) step_on(at);
}

// The same in a kernel of its own, by all its blocks.
template <class T>
__global__ void __launch_bounds__(THREADS, blocks<T>(4, 3)) tick(
    Epoch<T>* at, const T* loss, Index networks, const T* Z, Index size, unsigned* counter) {
    const Epoch<T> epoch = *at;
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    const Index threads = Index(gridDim.x) * blockDim.x;
    take_down(epoch, loss, networks, Z, size, thread, threads);
    take_rows(epoch, epoch.step + 1, thread, threads);
    if (is_last_block(counter, gridDim.x) && threadIdx.x == 0) step_on(at);
}
