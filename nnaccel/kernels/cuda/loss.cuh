// The loss: twins of `softmax_cross_entropy` in maths/losses.py, for class numbers, and of
// `l2_penalty` in maths/network.py.

#pragma once

#include "memory.cuh"
#include "precision.cuh"
#include "sums.cuh"

// The class of an example; kind is the size of its integer type in bytes, negative if signed.
__device__ inline Index class_of(const void* Y, Index kind, Index i) {
    switch (kind) {
        case 1: return static_cast<const unsigned char*>(Y)[i];
        case 2: return static_cast<const unsigned short*>(Y)[i];
        case 4: return static_cast<const unsigned*>(Y)[i];
        case -1: return static_cast<const signed char*>(Y)[i];
        case -2: return static_cast<const short*>(Y)[i];
        case -4: return static_cast<const int*>(Y)[i];
        default: return static_cast<const Index*>(Y)[i];
    }
}

// loss = mean of -w log softmax(Z)[Y] and dZ = w (softmax(Z) - [k = Y]) / N, (N, K); db = the sum of
// dZ over rows, where K <= 32 and db is not null.   lanes: those of a row, the power of two from K
// on, at most 32.   partials: (gridDim.x, 33).
template <class T>
__global__ void __launch_bounds__(THREADS) softmax_cross_entropy(
    const T* Z, const void* Y, Index kind, const T* weights, T* loss, T* dZ, Bf16* half, T* db,
    Index N, Index K, Index lanes, T* partials, unsigned* counter) {
    __shared__ T columns[THREADS];
    const int width = int(lanes), lane = threadIdx.x % width, rows = THREADS / width;
    T losses = 0, sum = 0;
    for (Index first = Index(blockIdx.x) * rows; first < N; first += Index(gridDim.x) * rows) {
        const Index row = first + threadIdx.x / width;
        const Index end = row < N ? K : 0;  // no columns where there is no row
        const T* z = Z + row * K;
        T top = end ? z[0] : T(0), S = 0;
        for (Index k = lane; k < end; k += width) top = z[k] > top ? z[k] : top;
        for (int far = width / 2; far; far /= 2) {
            const T other = __shfl_xor_sync(WARP, top, far);
            top = other > top ? other : top;
        }
        for (Index k = lane; k < end; k += width) S += exp(z[k] - top);
        for (int far = width / 2; far; far /= 2) S += __shfl_xor_sync(WARP, S, far);
        const Index y = end ? class_of(Y, kind, row) : 0;
        const T w = weights && end ? weights[row] : T(1), log_S = log(S), share = w / T(N);
        for (Index k = lane; k < end; k += width) {
            const Pack<T, 1> d = {{(exp(z[k] - top) / S - T(k == y)) * share}};
            store(dZ + row * K + k, d);
            store_half(half, row * K + k, d);
            sum += d.x[0];
            if (k == y) losses += w * (log_S - (z[k] - top));
        }
    }
    T* mine = partials + Index(blockIdx.x) * (LANES + 1);
    losses = block_sum(losses);
    if (threadIdx.x == 0) mine[LANES] = losses;
    columns[threadIdx.x] = sum;
    __syncthreads();
    const int column = threadIdx.x;
    if (db && column < K) {
        sum = 0;
        for (int row = 0; row < rows; ++row) sum += columns[row * width + column];
        mine[column] = sum;
    }
    if (!is_last_block(counter, gridDim.x)) return;
    losses = 0;
    for (Index i = threadIdx.x; i < gridDim.x; i += THREADS)
        losses += __ldcg(partials + i * (LANES + 1) + LANES);
    losses = block_sum(losses);
    if (threadIdx.x == 0) *loss = losses / T(N);
    if (db && column < K) {
        sum = 0;
#pragma unroll 16
        for (Index i = 0; i < gridDim.x; ++i) sum += __ldcg(partials + i * (LANES + 1) + column);
        db[column] = sum;
    }
}

// value += l2/2 |W|^2 and grads += l2 W, for the n weights at the start of params.
template <class T>
__global__ void __launch_bounds__(THREADS) l2_penalty(
    T* value, T* grads, const T* params, Index n, double l2, T* partials, unsigned* counter) {
    const T amount = T(l2);
    T sum = 0;
    for_each_pack<T>(n, aligned(grads, params), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> g = load<V>(grads + i);
        const Pack<T, V> w = load<V>(params + i);
        for (int v = 0; v < V; ++v) {
            g.x[v] += amount * w.x[v];
            sum += w.x[v] * w.x[v];
        }
        store(grads + i, g);
    });
    if (grid_sum(sum, partials, counter) && threadIdx.x == 0) *value += T(0.5 * l2) * sum;
}
