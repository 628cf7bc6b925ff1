// The piecewise linear encoding of numbers: the twin of `piecewise_linear` in
// maths/layers/piecewise_linear.py.

#pragma once

#include "memory.cuh"
#include "precision.cuh"

// A = [X, clip((x_j - low) slope, 0, 1) for each bin, of the input j].
// X: (N, D).   of, low, slope: (n_bins,).   A: (N, D + n_bins), and likewise `half`.
// The launch geometry is that of `minibatch`, over the columns of A.
template <class T>
__global__ void __launch_bounds__(THREADS) encode(
    const T* X, T* A, Bf16* half, const Index* of, const T* low, const T* slope, Index N, Index D,
    Index n_bins) {
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= N) return;
    const Index first = Index(blockIdx.y) * blockDim.x + threadIdx.x;
    const Index step = Index(gridDim.y) * blockDim.x, width = D + n_bins;
    const T* x = X + row * D;
    const auto run = [&](Index column, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> a;
        for (int v = 0; v < V; ++v) {
            const Index t = column + v - D;
            if (t < 0) {
                a.x[v] = x[column + v];
                continue;
            }
            const T share = (x[of[t]] - low[t]) * slope[t], positive = share < 0 ? T(0) : share;
            a.x[v] = positive > 1 ? T(1) : positive;
        }
        store(A + row * width + column, a);
        store_half(half, row * width + column, a);
    };
    constexpr int V = PACK<T>;
    if (width % V == 0 && aligned(A, half)) {
        for (Index i = first * V; i < width; i += step * V) run(i, Constant<V>());
    } else {
        for (Index i = first; i < width; i += step) run(i, Constant<1>());
    }
}
