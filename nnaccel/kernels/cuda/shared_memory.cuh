// Matrices in the shared memory of a block, for small_network.cuh.
//
// They are transposed as in the notes: a row of numbers for each unit, a column for each example.
// `parts` lanes of a warp hold the same examples and share out the units; this one has the number
// `part`. `stride` is the distance between rows.

#pragma once

#include "memory.cuh"

#ifndef CUDA_ON_HOST  // cuda_on_host.h has its own of these three
template <class T>
__device__ T* shared_memory() {
    extern __shared__ double2 memory[];
    return reinterpret_cast<T*>(memory);
}

// Begins to copy a number from global to shared memory; it is there after `copy_async_wait`.
template <class T>
__device__ void copy_async(T* to, const T* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::
        "r"(unsigned(__cvta_generic_to_shared(to))), "l"(from), "n"(int(sizeof(T))) : "memory");
#else
    *to = *from;
#endif
}

__device__ inline void copy_async_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
#endif

// Calls f(h, Constant<S>) for the units h, h + parts, .. < H of this lane: S units a call while
// there are S, then half as many, and so on.
template <int S, class F>
__device__ void for_each_unit(int h, int parts, int H, F f) {
#pragma unroll 1
    for (; h + (S - 1) * parts < H; h += S * parts) f(h, Constant<S>());
    if constexpr (S > 1) for_each_unit<S / 2>(h, parts, H, f);
}

// V examples of Y = X W, or of X W + b, for every `parts`th unit.
// X: (D, ..).   Y: (H, ..).   W[d, h] is W[d down + h across].
template <int V, bool biased, class T>
__device__ void multiply(
    const T* X, const T* W, const T* b, T* Y, int D, int H, int down, int across, int stride,
    int part, int parts) {
    for_each_unit<4>(part, parts, H, [&](int h, auto count) {
        constexpr int S = decltype(count)::value;
        T sums[S][V];
        const T *x = X, *w[S];
#pragma unroll
        for (int s = 0; s < S; ++s) {
            w[s] = W + (h + s * parts) * across;
            for (int v = 0; v < V; ++v) sums[s][v] = biased ? b[h + s * parts] : T(0);
        }
#pragma unroll 2
        for (int d = 0; d < D; ++d) {
            const Pack<T, V> now = load<V>(x);
            x += stride;
#pragma unroll
            for (int s = 0; s < S; ++s) {
                for (int v = 0; v < V; ++v) sums[s][v] += now.x[v] * *w[s];
                w[s] += down;
            }
        }
#pragma unroll
        for (int s = 0; s < S; ++s) {
            Pack<T, V> y;
            for (int v = 0; v < V; ++v) y.x[v] = sums[s][v];
            store(Y + (h + s * parts) * stride, y);
        }
    });
}

// Y = f(Y, A) for V examples and every `parts`th of H units.
template <int V, class T, class F>
__device__ void update_units(T* Y, const T* A, int H, int stride, int part, int parts, F f) {
    for_each_unit<V == 1 ? 4 : 1>(part, parts, H, [&](int h, auto count) {
        constexpr int S = decltype(count)::value;
        Pack<T, V> y[S], a[S];
#pragma unroll
        for (int s = 0; s < S; ++s) {
            y[s] = load<V>(Y + (h + s * parts) * stride);
            a[s] = load<V>(A + (h + s * parts) * stride);
        }
#pragma unroll
        for (int s = 0; s < S; ++s) {
            for (int v = 0; v < V; ++v) y[s].x[v] = f(y[s].x[v], a[s].x[v]);
            store(Y + (h + s * parts) * stride, y[s]);
        }
    });
}

// One tile of [dW; db] = [X; 1] dZ: V x V numbers, `down` rows and `across` columns apart.
// X: (D, ..).   dZ: (H, ..).   `sharing` lanes compute the tile together; this one takes the
// examples lane, lane + sharing, ..   there: whether there is a tile of that number.
template <int V, class T>
__device__ void small_gradient(
    const T* X, const T* ones, const T* dZ, T* dW, T* db, int D, int H, int tile, bool there, int B,
    int stride, int lane, int sharing) {
    const int down = (D + V) / V, across = (H + V - 1) / V;
    const int d0 = tile / across, h0 = tile - d0 * across;
    const T *x[V], *z[V];
    T sums[V][V] = {};
#pragma unroll
    for (int i = 0; i < V; ++i) {
        const int d = d0 + i * down, h = h0 + i * across;
        x[i] = d < D ? X + d * stride : ones;
        z[i] = dZ + (h < H ? h : H - 1) * stride;
    }
    const int end = there ? B : 0;
#pragma unroll (V == 1 ? 4 : 1)
    for (int i = lane; i < end; i += sharing) {
        T a[V], d[V];
#pragma unroll
        for (int j = 0; j < V; ++j) {
            a[j] = x[j][i];
            d[j] = z[j][i];
        }
#pragma unroll
        for (int j = 0; j < V * V; ++j) sums[j / V][j % V] += a[j / V] * d[j % V];
    }
#pragma unroll
    for (int j = 0; j < V * V; ++j) {
        T sum = sums[j / V][j % V];
        for (int far = sharing / 2; far; far /= 2) sum += __shfl_xor_sync(WARP, sum, far);
        const int d = d0 + j / V * down, h = h0 + j % V * across;
        if (lane || !there || h >= H) continue;
        if (d < D) dW[d * (H | 1) + h] = sum;
        else if (d == D) db[h] = sum;
    }
}
