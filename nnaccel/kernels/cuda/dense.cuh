// The dense layer beside its matrix products: twins of `dense` and `dense_vjp` in
// maths/layers/dense.py.

#pragma once

#include "activations.cuh"
#include "memory.cuh"
#include "precision.cuh"
#include "sums.cuh"

// A mask has a bit for each number of A (N, H), the lowest bit of a word first: whether it is
// positive, and so the derivative of ReLU 1. That is what cuBLASLt's epilogue DRELU_BGRAD reads, by
// the tests of NVIDIA's nvmath-python. cublasLt.h wants H to be a multiple of 128: then the lanes of
// a warp are in one row, and eight of them have the four bits each that make a word.
template <int V, class T>
__device__ void store_mask(unsigned* mask, Index i, const Pack<T, V>& a) {
    if constexpr (V == 4) {
        if (!mask) return;
        const int place = threadIdx.x % 8 * V;
        unsigned bits = 0;
        for (int v = 0; v < V; ++v) bits |= unsigned(a.x[v] > 0) << (place + v);
        for (int far = 4; far; far /= 2) bits |= __shfl_xor_sync(WARP, bits, far);
        if (!place) mask[i / 32] = bits;
    }
}

template <class G> inline constexpr bool HAS_MASK = false;
template <> inline constexpr bool HAS_MASK<Relu> = true;

// Z += b and A = g(Z), (N, H). A may be Z, or null where only `half` is read; Z is kept only where
// the derivative reads it. mask: of ReLU, or null; see `store_mask`. The launch geometry is that of
// `minibatch`, for each network.
template <class T, class G>
__global__ void __launch_bounds__(THREADS, blocks<T>(6, 4)) bias_activation(
    T* Z, const T* b, Index b_gap, T* A, Bf16* half, unsigned* mask, Index N, Index H,
    double parameter) {
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= N) return;
    Z += network() * N * H;
    b += network() * b_gap;
    A = moved(A, network() * N * H);
    half = moved(half, network() * N * H);
    mask = moved(mask, network() * N * H / 32);
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
        if constexpr (HAS_MASK<G>) store_mask(mask, i, a);
    };
    constexpr int V = PACK<T>;
    if (H % V == 0 && aligned(Z, A, half)) {
        for (Index column = first * V; column < H; column += step * V) run(column, Constant<V>());
    } else {
        for (Index column = first; column < H; column += step) run(column, Constant<1>());
    }
}

// The product of a row x (D,) with W (D, H), H <= 32, by a warp: a lane has one output, and lanes
// beyond H have anything. OUTPUTS columns at a time: the lanes share out D and then add up their
// sums.   shorten: whether both factors are rounded to TF32.
template <class T, class S>
__device__ T narrow_product(const S* x, const S* W, Index D, Index H, bool shorten) {
    constexpr int OUTPUTS = 8;
    const int lane = threadIdx.x, last = int(H) - 1;
    T mine = 0;
    for (int first = 0; first <= last; first += OUTPUTS) {
        T sums[OUTPUTS] = {};
#pragma unroll 4
        for (Index d = lane; d < D; d += LANES) {
            const T now = x[d], factor = shorten ? to_tf32(now) : now;
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
    return mine;
}

// Z = X W + b and A = g(Z) for H <= 32, in one launch instead of a product and `bias_activation`.
// X: (N, D).   W: (D, H).   tf32: whether both are rounded to TF32.   A, half: as in
// `bias_activation`.   A warp computes a row; a block is 32 x blockDim.y threads.
template <class T, class S, class G>
__global__ void __launch_bounds__(128, blocks<T>(6, 4)) narrow_dense(
    const S* __restrict__ X, Index X_gap, const S* __restrict__ W, Index W_gap,
    const T* __restrict__ b, Index b_gap, T* Z, T* A, Bf16* half, Index N, Index D, Index H,
    double parameter, Index tf32) {
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= N) return;
    b += network() * b_gap;
    Z += network() * N * H;
    A = moved(A, network() * N * H);
    half = moved(half, network() * N * H);
    const int lane = threadIdx.x;
    const bool shorten = sizeof(S) == sizeof(float) && tf32;
    const T sum = narrow_product<T>(
        X + network() * X_gap + row * D, W + network() * W_gap, D, H, shorten);
    if (lane >= H) return;
    const T z = sum + b[lane];
    const Pack<T, 1> a = {{G::forward(z, T(parameter))}};
    if (G::reads_Z) Z[row * H + lane] = z;
    if (A) store(A + row * H + lane, a);
    store_half(half, row * H + lane, a);
}

inline constexpr int ROWS = THREADS / LANES;  // of a block of 32 columns

// The sums of x over threadIdx.y, in the threads where that is 0.
template <int V, class T>
__device__ Pack<T, V> sum_of_rows(const Pack<T, V>& x) {
    __shared__ T sums[V][ROWS][LANES];
    __syncthreads();
    for (int v = 0; v < V; ++v) sums[v][threadIdx.y][threadIdx.x] = x.x[v];
    __syncthreads();
    Pack<T, V> sum = x;
    if (threadIdx.y == 0)
        for (int y = 1; y < ROWS; ++y)
            for (int v = 0; v < V; ++v) sum.x[v] += sums[v][y][threadIdx.x];
    return sum;
}

// `activation_vjp` with V columns a thread.
template <int V, class G, class T, class S>
__device__ void activation_vjp_of(
    T* dA, const S* __restrict__ read, Bf16* half, T* db, Index N, Index H, T c, T* partials,
    unsigned* counter) {
    constexpr int TOGETHER = 4;  // rows that are read together, to wait for memory once
    const Index column = (Index(blockIdx.x) * LANES + threadIdx.x) * V;
    const Index step = Index(gridDim.y) * ROWS;
    Pack<T, V> sum = {};
    for (Index first = Index(blockIdx.y) * ROWS + threadIdx.y; column < H && first < N;
         first += TOGETHER * step) {
        Pack<T, V> da[TOGETHER];
        Pack<S, V> y[TOGETHER];
#pragma unroll
        for (int s = 0; s < TOGETHER; ++s) {
            const Index row = first + s * step, i = row * H + column;
            if (row >= N) break;
            da[s] = load<V>(dA + i);
            y[s] = load<V>(read + i);
        }
#pragma unroll
        for (int s = 0; s < TOGETHER; ++s) {
            const Index row = first + s * step, i = row * H + column;
            if (row >= N) break;
            Pack<T, V> dZ;
            for (int v = 0; v < V; ++v) {
                dZ.x[v] = G::vjp(da[s].x[v], T(y[s].x[v]), T(y[s].x[v]), c);
                sum.x[v] += dZ.x[v];
            }
            if (!half) store(dA + i, dZ);
            store_half(half, i, dZ);
        }
    }
    sum = sum_of_rows(sum);
    if (threadIdx.y == 0 && column < H) store(partials + blockIdx.y * H + column, sum);
    if (!is_last_block(counter, gridDim.y)) return;
    sum = {};
    for (unsigned y = threadIdx.y; column < H && y < gridDim.y; y += ROWS)
        for (int v = 0; v < V; ++v) sum.x[v] += __ldcg(partials + y * H + column + v);
    sum = sum_of_rows(sum);
    if (threadIdx.y == 0 && column < H)
        for (int v = 0; v < V; ++v) db[column + v] = sum.x[v];
}

// dZ = dA g'(Z), written over dA or to `half` alone, and db = the sum of dZ over rows.
// dA: (N, H).   db: (H,).   read: (N, H), Z where the derivative reads it, else A.   wide: whether a
// thread takes 16 bytes of dA, at which everything is aligned then, or one number.
// A block is 32 threads along the columns x 8 rows and strides down over the rows. The gridDim.y
// blocks of the same columns leave their sums in partials (networks, gridDim.y, H), which the last of
// them adds up.
template <class T, class S, class G>
__global__ void __launch_bounds__(THREADS, blocks<T>(3, 2)) activation_vjp(
    T* dA, const S* __restrict__ read, Bf16* half, T* db, Index db_gap, Index N, Index H,
    double parameter, Index wide, T* partials, unsigned* counters) {
    dA += network() * N * H;
    read += network() * N * H;
    half = moved(half, network() * N * H);
    db += network() * db_gap;
    partials += network() * gridDim.y * H;
    counters += network() * gridDim.x + blockIdx.x;
    if (wide)
        activation_vjp_of<PACK<T>, G>(dA, read, half, db, N, H, T(parameter), partials, counters);
    else
        activation_vjp_of<1, G>(dA, read, half, db, N, H, T(parameter), partials, counters);
}
