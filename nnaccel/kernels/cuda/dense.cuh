// The dense layer beside its matrix products: twins of `dense` and `dense_vjp` in
// maths/layers/dense.py.

#pragma once

#include "activations.cuh"
#include "memory.cuh"
#include "precision.cuh"
#include "sums.cuh"

// Z += b and A = g(Z), (N, H). A may be Z, or null where only `half` is read; Z is kept only where
// the derivative reads it. The launch geometry is that of `minibatch`.
template <class T, class G>
__global__ void __launch_bounds__(THREADS) bias_activation(
    T* Z, const T* b, T* A, Bf16* half, Index N, Index H, double parameter) {
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= N) return;
    const Index first = Index(blockIdx.y) * blockDim.x + threadIdx.x;
    const Index step = Index(gridDim.y) * blockDim.x;
    const T c = T(parameter);
    const auto run = [&](Index column, auto count) {
        constexpr int V = decltype(count)::value;
        const Index i = row * H + column;
        Pack<T, V> z = load<V>(Z + i), a;
        for (int v = 0; v < V; ++v) {
            z.x[v] += b[column + v];
            a.x[v] = G::forward(z.x[v], c);
        }
        if (G::reads_Z) store(Z + i, z);
        if (A) store(A + i, a);
        store_half(half, i, a);
    };
    constexpr int V = PACK<T>;
    if (H % V == 0 && aligned(Z, A, half)) {
        for (Index column = first * V; column < H; column += step * V) run(column, Constant<V>());
    } else {
        for (Index column = first; column < H; column += step) run(column, Constant<1>());
    }
}

// Z = X W + b and A = g(Z) for H <= 32, in one launch instead of a product and `bias_activation`.
// X: (N, D).   W: (D, H).   tf32: whether both are rounded to TF32.   A, half: as in
// `bias_activation`.   A warp computes a row, OUTPUTS columns at a time: its lanes share out D and
// then add up their sums. A block is 32 x blockDim.y threads.
template <class T, class S, class G>
__global__ void __launch_bounds__(128) narrow_dense(
    const S* __restrict__ X, const S* __restrict__ W, const T* __restrict__ b, T* Z, T* A,
    Bf16* half, Index N, Index D, Index H, double parameter, Index tf32) {
    constexpr int OUTPUTS = 8;
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= N) return;
    const int lane = threadIdx.x, last = int(H) - 1;
    const bool shorten = sizeof(S) == sizeof(float) && tf32;
    T mine = 0;  // the output of this lane
    for (int first = 0; first <= last; first += OUTPUTS) {
        T sums[OUTPUTS] = {};
#pragma unroll 4
        for (Index d = lane; d < D; d += LANES) {
            const T x = X[row * D + d], factor = shorten ? to_tf32(x) : x;
            const S* at = W + d * H;
#pragma unroll
            for (int i = 0; i < OUTPUTS; ++i) {
                const T w = at[first + i < last ? first + i : last];
                sums[i] += factor * (shorten ? to_tf32(w) : w);
            }
        }
#pragma unroll
        for (int i = 0; i < OUTPUTS; ++i) {
            T sum = sums[i];
            for (int far = LANES / 2; far; far /= 2) sum += __shfl_xor_sync(WARP, sum, far);
            if (first + i == lane) mine = sum;
        }
    }
    if (lane > last) return;
    const T z = mine + b[lane];
    const Pack<T, 1> a = {{G::forward(z, T(parameter))}};
    if (G::reads_Z) Z[row * H + lane] = z;
    if (A) store(A + row * H + lane, a);
    store_half(half, row * H + lane, a);
}

inline constexpr int ROWS = THREADS / LANES;  // of a block of `activation_vjp`

// The sum of x over threadIdx.y, in the threads where that is 0.
template <class T>
__device__ T sum_of_rows(T x) {
    __shared__ T sums[ROWS][LANES];
    __syncthreads();
    sums[threadIdx.y][threadIdx.x] = x;
    __syncthreads();
    if (threadIdx.y == 0)
        for (int y = 1; y < ROWS; ++y) x += sums[y][threadIdx.x];
    return x;
}

// dZ = dA g'(Z), written over dA or to `half` alone, and db = the sum of dZ over rows.
// dA: (N, H).   db: (H,).   read: (N, H), Z where the derivative reads it, else A.
// A block is 32 columns x 8 rows and strides down over the rows. The gridDim.y blocks of the same
// columns leave their sums in partials (gridDim.y, H), which the last of them adds up.
template <class T, class S, class G>
__global__ void __launch_bounds__(THREADS) activation_vjp(
    T* dA, const S* __restrict__ read, Bf16* half, T* db, Index N, Index H, double parameter,
    T* partials, unsigned* counters) {
    constexpr int TOGETHER = 4;  // rows that are read together, to wait for memory once
    const Index column = Index(blockIdx.x) * LANES + threadIdx.x;
    const Index step = Index(gridDim.y) * ROWS;
    const T c = T(parameter);
    T sum = 0;
    for (Index first = Index(blockIdx.y) * ROWS + threadIdx.y; column < H && first < N;
         first += TOGETHER * step) {
        T da[TOGETHER], y[TOGETHER];
#pragma unroll
        for (int s = 0; s < TOGETHER; ++s) {
            const Index row = first + s * step, i = row * H + column;
            da[s] = row < N ? dA[i] : T(0);
            y[s] = row < N ? T(read[i]) : T(0);
        }
#pragma unroll
        for (int s = 0; s < TOGETHER; ++s) {
            const Index row = first + s * step, i = row * H + column;
            if (row >= N) break;
            const Pack<T, 1> dZ = {{G::vjp(da[s], y[s], y[s], c)}};
            if (!half) store(dA + i, dZ);
            store_half(half, i, dZ);
            sum += dZ.x[0];
        }
    }
    sum = sum_of_rows(sum);
    if (threadIdx.y == 0 && column < H) partials[blockIdx.y * H + column] = sum;
    if (!is_last_block(counters + blockIdx.x, gridDim.y)) return;
    sum = 0;
    for (unsigned y = threadIdx.y; column < H && y < gridDim.y; y += ROWS)
        sum += __ldcg(partials + y * H + column);
    sum = sum_of_rows(sum);
    if (threadIdx.y == 0 && column < H) db[column] = sum;
}
