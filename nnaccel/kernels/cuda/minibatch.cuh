// Minibatches: the twin of `minibatch` in maths/minibatch.py.

#pragma once

#include "memory.cuh"
#include "precision.cuh"

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
        for (Index i = first * V; i < D; i += step * V) {
            const Pack<S, V> source = load<V>(from + i);
            Pack<T, V> target;
            for (int v = 0; v < V; ++v) target.x[v] = T(source.x[v]);
            if (X_rows) store(X_rows + row * D + i, target);
            store_half(half, row * D + i, target);
        }
    } else {
        for (Index i = first; i < D; i += step) {
            const Pack<T, 1> target = {{T(from[i])}};
            if (X_rows) store(X_rows + row * D + i, target);
            store_half(half, row * D + i, target);
        }
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
