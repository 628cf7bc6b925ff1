// Minibatches: the twin of `minibatch` in maths/minibatch.py.

#pragma once

#include "memory.cuh"
#include "precision.cuh"

// V numbers from `from` on, cast to T: in `to` at i, unless that is null, and in `half`.
template <int V, class T, class S>
__device__ void cast(const S* from, T* to, Bf16* half, Index i) {
    const Pack<S, V> source = load<V>(from);
    Pack<T, V> target;
    for (int v = 0; v < V; ++v) target.x[v] = T(source.x[v]);
    if (to) store(to + i, target);
    store_half(half, i, target);
}

template <class U>
__device__ void copy_row(const void* from, void* to, Index example, Index row, Index units) {
    const U* source = static_cast<const U*>(from) + example * units;
    U* target = static_cast<U*>(to) + row * units;
    for (Index i = threadIdx.x; i < units; i += blockDim.x) target[i] = source[i];
}

// X_rows, Y_rows, weight_rows = the rows `index` (B,) of X, Y and weights; X is cast to T. X_rows is
// null where only `half` is read.
// X: (N, D), `stride` elements from row to row.   Y: rows of `units` units of `unit` bytes, which
// are 1, 2, 4 or 8.   A block takes blockDim.y examples; blockIdx.y numbers their columns.
template <class T, class S>
__global__ void __launch_bounds__(THREADS) minibatch(
    const S* X, Index stride, const Index* index, T* X_rows, Bf16* half, Index B, Index D,
    const void* Y, void* Y_rows, Index unit, Index units, const T* weights, T* weight_rows) {
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= B) return;
    const Index example = index[row];
    const Index first = Index(blockIdx.y) * blockDim.x + threadIdx.x;
    const Index step = Index(gridDim.y) * blockDim.x;
    const S* from = X + example * stride;
    constexpr int V = PACK<T>;
    if (D % V == 0 && stride % V == 0 && aligned(X, X_rows, half)) {
        for (Index i = first * V; i < D; i += step * V)
            cast<V>(from + i, X_rows, half, row * D + i);
    } else {
        for (Index i = first; i < D; i += step) cast<1>(from + i, X_rows, half, row * D + i);
    }
    if (blockIdx.y) return;
    switch (unit) {
        case 1: copy_row<unsigned char>(Y, Y_rows, example, row, units); break;
        case 2: copy_row<unsigned short>(Y, Y_rows, example, row, units); break;
        case 4: copy_row<unsigned>(Y, Y_rows, example, row, units); break;
        case 8: copy_row<unsigned long long>(Y, Y_rows, example, row, units); break;
    }
    if (weights && threadIdx.x == 0) weight_rows[row] = weights[example];
}

// A data set whose next minibatch is taken at the end of a step, and where that goes: the arguments of
// `minibatch`, with X of type T or, where `bytes` is not 0, of unsigned char. X is null where the step
// takes its minibatch itself.
template <class T>
struct Rows {
    const void* X;
    Index bytes, stride, D;
    T* X_rows;
    Bf16* half;
    const void* Y;
    void* Y_rows;
    Index unit, units;
    const T* weights;
    T* weight_rows;
};

template <class T, class S>
__device__ void gather_X(
    const Rows<T>& rows, const Index* index, Index B, Index thread, Index threads) {
    const S* X = static_cast<const S*>(rows.X);
    const auto run = [&](auto count) {
        constexpr int V = decltype(count)::value;
        const unsigned packs = unsigned(rows.D / V), all = unsigned(B) * packs;
        for (unsigned i = unsigned(thread); i < all; i += unsigned(threads)) {
            const unsigned row = i / packs;
            const Index column = Index(i - row * packs) * V;
            cast<V>(
                X + index[row] * rows.stride + column, rows.X_rows, rows.half,
                row * rows.D + column);
        }
    };
    constexpr int V = PACK<T>;
    if (rows.D % V == 0 && rows.stride % V == 0 && aligned(X, rows.X_rows, rows.half))
        run(Constant<V>());
    else
        run(Constant<1>());
}

template <class U>
__device__ void gather_units(
    const void* from, void* to, const Index* index, Index B, Index units, Index thread,
    Index threads) {
    const U* source = static_cast<const U*>(from);
    U* target = static_cast<U*>(to);
    for (Index i = thread; i < B * units; i += threads)
        target[i] = source[index[i / units] * units + i % units];
}

// Takes the examples index (B,), with `threads` threads of which this is number `thread`.
template <class T>
__device__ void gather(
    const Rows<T>& rows, const Index* index, Index B, Index thread, Index threads) {
    if (rows.bytes) gather_X<T, unsigned char>(rows, index, B, thread, threads);
    else gather_X<T, T>(rows, index, B, thread, threads);
    const auto Y = [&](auto unit) {
        gather_units<decltype(unit)>(
            rows.Y, rows.Y_rows, index, B, rows.units, thread, threads);
    };
    switch (rows.unit) {
        case 1: Y((unsigned char)0); break;
        case 2: Y((unsigned short)0); break;
        case 4: Y(0u); break;
        case 8: Y(0ull); break;
    }
    if (rows.weights)
        for (Index i = thread; i < B; i += threads) rows.weight_rows[i] = rows.weights[index[i]];
}
