// The loss: twins of `softmax_cross_entropy` in maths/losses.py, for class numbers, and of
// `l2_penalty` in maths/network.py.

#pragma once

#include "dense.cuh"
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

// The weights of examples, of one network or of several; null: all are 1.
template <class T>
struct Weights {
    const T* at;
    Index gap, network_gap;  // elements from one example to the next, and from network to network

    __device__ T of(Index example) const {
        return at ? at[network() * network_gap + example * gap] : T(1);
    }
};

// loss = mean of -w log softmax(Z)[Y] and dZ = w (softmax(Z) - [k = Y]) / N, (N, K); db = the sum of
// dZ over rows, where K <= 32 and db is not null.   lanes: those of a row, the power of two from K
// on, at most 32.   partials: (networks, gridDim.x, 33).   loss, counter: (networks,).
template <class T>
__global__ void __launch_bounds__(THREADS) softmax_cross_entropy(
    const T* Z, const void* Y, Index kind, const T* weights, Index weights_gap,
    Index weights_network_gap, T* loss, T* dZ, Bf16* half, T* db, Index db_gap, Index N, Index K,
    Index lanes, T* partials, unsigned* counter) {
    __shared__ T columns[THREADS];
    const Weights<T> weight = {weights, weights_gap, weights_network_gap};
    Z += network() * N * K;
    dZ += network() * N * K;
    half = moved(half, network() * N * K);
    db = moved(db, network() * db_gap);
    partials += network() * gridDim.x * (LANES + 1);
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
        const T w = end ? weight.of(row) : T(1), log_S = log(S), share = w / T(N);
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
    if (!is_last_block(counter + network(), gridDim.x)) return;
    losses = 0;
    for (Index i = threadIdx.x; i < gridDim.x; i += THREADS)
        losses += __ldcg(partials + i * (LANES + 1) + LANES);
    losses = block_sum(losses);
    if (threadIdx.x == 0) loss[network()] = losses / T(N);
    if (db && column < K) {
        sum = 0;
#pragma unroll 16
        for (Index i = 0; i < gridDim.x; ++i) sum += __ldcg(partials + i * (LANES + 1) + column);
        db[column] = sum;
    }
}

// The output layer Z = X W + b with K <= 32 units, and `softmax_cross_entropy` of its logits, in one
// launch instead of `narrow_dense` and that. A warp takes a row through both: each lane has a logit.
// A block is 32 lanes x 8 rows and strides down over the rows.   Z, dZ: (N, K).   loss, db, tf32 and
// counter: as of those two.   partials: (networks, gridDim.x, 2, 32).
template <class T, class S>
__global__ void __launch_bounds__(THREADS, blocks<T>(3, 2)) dense_cross_entropy(
    const S* __restrict__ X, Index X_gap, const S* __restrict__ W, Index W_gap,
    const T* __restrict__ b, Index b_gap, Index tf32, const void* Y, Index kind, const T* weights,
    Index weights_gap, Index weights_network_gap, T* Z, T* loss, T* dZ, Bf16* half, T* db,
    Index db_gap, Index N, Index D, Index K, T* partials, unsigned* counter) {
    const Weights<T> weight = {weights, weights_gap, weights_network_gap};
    X += network() * X_gap;
    W += network() * W_gap;
    Z += network() * N * K;
    dZ += network() * N * K;
    half = moved(half, network() * N * K);
    partials += network() * gridDim.x * 2 * LANES;
    const int lane = threadIdx.x;
    const bool there = lane < K, shorten = sizeof(S) == sizeof(float) && tf32;
    const T bias = there ? b[network() * b_gap + lane] : T(0);
    Pack<T, 2> sum = {};  // of dZ, and of the loss
    for (Index row = Index(blockIdx.x) * ROWS + threadIdx.y; row < N;
         row += Index(gridDim.x) * ROWS) {
        const T product = narrow_product<T>(X + row * D, W, D, K, shorten);
        const T z = there ? product + bias : -T(infinity());
        T top = z;
        for (int far = LANES / 2; far; far /= 2) {
            const T other = __shfl_xor_sync(WARP, top, far);
            top = other > top ? other : top;
        }
        const T e = exp(z - top);
        T total = e;
        for (int far = LANES / 2; far; far /= 2) total += __shfl_xor_sync(WARP, total, far);
        if (!there) continue;
        const Index y = class_of(Y, kind, row), i = row * K + lane;
        const T w = weight.of(row);
        const Pack<T, 1> d = {{(e / total - T(lane == y)) * (w / T(N))}};
        Z[i] = z;
        store(dZ + i, d);
        store_half(half, i, d);
        sum.x[0] += d.x[0];
        if (lane == y) sum.x[1] += w * (log(total) - (z - top));
    }
    sum = sum_of_rows(sum);
    T* mine = partials + Index(blockIdx.x) * 2 * LANES + lane;
    if (threadIdx.y == 0)
        for (int v = 0; v < 2; ++v) mine[v * LANES] = sum.x[v];
    if (!is_last_block(counter + network(), gridDim.x)) return;
    sum = {};
    for (unsigned block = threadIdx.y; block < gridDim.x; block += ROWS)
        for (int v = 0; v < 2; ++v)
            sum.x[v] += __ldcg(partials + (Index(block) * 2 + v) * LANES + lane);
    sum = sum_of_rows(sum);
    if (threadIdx.y) return;
    for (int far = LANES / 2; far; far /= 2) sum.x[1] += __shfl_xor_sync(WARP, sum.x[1], far);
    if (lane == 0) loss[network()] = sum.x[1] / T(N);
    if (db && there) db[network() * db_gap + lane] = sum.x[0];
}

// Numbers of a row that a thread of `wide_cross_entropy` holds in registers: four loads of 16 bytes.
template <class T>
constexpr int HELD = 64 / sizeof(T);

// The values of a row's threads, `width` of them, joined by f; each gets the same. All threads of a
// block must call it, with the same width, a power of two from 32 on.
template <class T, class F>
__device__ T over_row(T x, int width, F f) {
    __shared__ T found[THREADS / LANES];
    for (int far = LANES / 2; far; far /= 2) x = f(x, __shfl_xor_sync(WARP, x, far));
    if (width == LANES) return x;
    const int warp = threadIdx.x / LANES, warps = width / LANES, first = warp / warps * warps;
    __syncthreads();  // those of an earlier call have been read
    if (threadIdx.x % LANES == 0) found[warp] = x;
    __syncthreads();
    x = found[first];
    for (int i = 1; i < warps; ++i) x = f(x, found[first + i]);
    return x;
}

// One row of `wide_cross_entropy`, read V numbers at a time; the part of this thread in its loss.
template <int V, class T>
__device__ T row_cross_entropy(const T* z, T* dZ, Index K, Index y, T w, T share, int width) {
    constexpr int PACKS = HELD<T> / V;
    const int lane = threadIdx.x % width;
    const auto column = [&](int p) { return Index(p * width + lane) * V; };
    Pack<T, V> x[PACKS];
#pragma unroll
    for (int p = 0; p < PACKS; ++p)
        if (column(p) < K) x[p] = load<V>(z + column(p));
    T top = K ? z[0] : T(0), S = 0, logit = 0;
    bool has_class = false;
#pragma unroll
    for (int p = 0; p < PACKS; ++p)
        for (int v = 0; v < V && column(p) < K; ++v) top = x[p].x[v] > top ? x[p].x[v] : top;
    top = over_row(top, width, [](T a, T b) { return b > a ? b : a; });
#pragma unroll
    for (int p = 0; p < PACKS; ++p)
        for (int v = 0; v < V && column(p) < K; ++v) {
            if (column(p) + v == y) {
                logit = x[p].x[v] - top;
                has_class = true;
            }
            S += x[p].x[v] = exp(x[p].x[v] - top);
        }
    S = over_row(S, width, [](T a, T b) { return a + b; });
#pragma unroll
    for (int p = 0; p < PACKS; ++p) {
        if (column(p) >= K) break;
        for (int v = 0; v < V; ++v)
            x[p].x[v] = (x[p].x[v] / S - T(column(p) + v == y)) * share;
        store(dZ + column(p), x[p]);
    }
    return has_class ? w * (log(S) - logit) : T(0);
}

// `softmax_cross_entropy` for more than 32 classes, HELD times `width` at most, without db. A row is
// read once, by `width` threads that keep it in registers.   partials: (networks, gridDim.x).
template <class T>
__global__ void __launch_bounds__(THREADS) wide_cross_entropy(
    const T* Z, const void* Y, Index kind, const T* weights, Index weights_gap,
    Index weights_network_gap, T* loss, T* dZ, Index N, Index K, Index width, T* partials,
    unsigned* counter) {
    const Weights<T> weight = {weights, weights_gap, weights_network_gap};
    Z += network() * N * K;
    dZ += network() * N * K;
    const int rows = THREADS / int(width);
    const bool packed = K % PACK<T> == 0 && aligned(Z, dZ);
    T sum = 0;
    for (Index first = Index(blockIdx.x) * rows; first < N; first += Index(gridDim.x) * rows) {
        const Index row = first + threadIdx.x / int(width);
        const Index end = row < N ? K : 0;  // no columns where there is no row
        const Index y = end ? class_of(Y, kind, row) : 0;
        const T w = end ? weight.of(row) : T(1), share = w / T(N);
        const T* z = Z + row * K;
        sum += packed ? row_cross_entropy<PACK<T>>(z, dZ + row * K, end, y, w, share, int(width))
                      : row_cross_entropy<1>(z, dZ + row * K, end, y, w, share, int(width));
    }
    partials += network() * gridDim.x;
    if (grid_sum(sum, partials, counter + network()) && threadIdx.x == 0)
        loss[network()] = sum / T(N);
}

// value += l2/2 |W|^2 and grads += l2 W, for the n weights at the start of the P parameters of each
// network.   value, counter: (networks,).   partials: (networks, gridDim.x).
template <class T>
__global__ void __launch_bounds__(THREADS) l2_penalty(
    T* value, T* grads, const T* params, Index n, Index P, double l2, T* partials,
    unsigned* counter) {
    const T amount = T(l2);
    grads += network() * P;
    params += network() * P;
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
    partials += network() * gridDim.x;
    if (grid_sum(sum, partials, counter + network()) && threadIdx.x == 0)
        value[network()] += T(0.5 * l2) * sum;
}
