// A whole epoch of a small network in one launch, a block for each network. It is the twin of
// `minibatch`, `value_and_grad` and `adam_update` of nnaccel/maths, step after step, for dense
// layers and the three common losses.
//
// Parameters, gradient, minibatch and activations stay in shared memory. A warp takes its examples
// through all layers and back without waiting for another. Then the threads share out the sums over
// examples, and then the update, with three barriers a step. The next minibatch comes in meanwhile.

#pragma once

#include "activations.cuh"
#include "memory.cuh"
#include "shared_memory.cuh"

// A dense layer with D inputs, H units and activation g. from_W and from_b are offsets in the flat
// vectors; W, b, input (but for X), A and dZ are offsets in shared memory.   tiles: of dW, of all
// layers up to this one.
struct alignas(16) LayerOffsets {
    int D, H, g, from_W, from_b, W, b, input, A, dZ, tiles, none;
};

inline constexpr int FIELDS = sizeof(LayerOffsets) / sizeof(int);

// Calls f with an activation, unless it is the identity.
// g: its index in ACTIVATIONS of small_network.py.
template <class F>
__device__ void with_activation(int g, F f) {
    switch (g) {
        case 1: f(Sigmoid()); break;
        case 2: f(Tanh()); break;
        case 3: f(Relu()); break;
        case 4: f(LeakyRelu()); break;
        case 5: f(Softplus()); break;
        case 6: f(Elu()); break;
        case 7: f(Selu()); break;
    }
}

enum SmallLoss { CROSS_ENTROPY, BINARY_CROSS_ENTROPY, SQUARED_ERROR };

// The part of this lane in the loss of one example, and its dZ.   Z, dZ: columns of K numbers.
// Y: the class, or a column of K.   share: the weight of the example over the number of examples.
template <class T>
__device__ T small_loss(
    int loss, const T* Z, const T* Y, T share, T* dZ, int K, int stride, int part, int parts) {
    T value = 0;
    if (loss == CROSS_ENTROPY) {
        T top = Z[0], S = 0;
        for (int k = part; k < K; k += parts) top = Z[k * stride] > top ? Z[k * stride] : top;
        for (int far = LANES / 2; far * parts >= LANES; far /= 2) {
            const T other = __shfl_xor_sync(WARP, top, far);
            top = other > top ? other : top;
        }
        for (int k = part; k < K; k += parts) {
            const T e = exp(Z[k * stride] - top);
            dZ[k * stride] = e;
            S += e;
        }
        for (int far = LANES / 2; far * parts >= LANES; far /= 2)
            S += __shfl_xor_sync(WARP, S, far);
        const T y = Y[0], log_S = log(S);
        for (int k = part; k < K; k += parts) {
            const bool right = T(k) == y;
            dZ[k * stride] = (dZ[k * stride] / S - T(right)) * share;
            if (right) value = log_S - (Z[k * stride] - top);
        }
    } else {
        for (int k = part; k < K; k += parts) {
            const T z = Z[k * stride], y = Y[k * stride];
            if (loss == BINARY_CROSS_ENTROPY) {
                const T e = exp(-fabs(z));
                dZ[k * stride] = ((z < 0 ? e : T(1)) / (1 + e) - y) * share;
                value += log1p(e) + (z < 0 ? T(0) : z) - z * y;
            } else {
                dZ[k * stride] = (z - y) * share;
                value += T(0.5) * (z - y) * (z - y);
            }
        }
    }
    return value * share;
}

// Steps `begin` .. `begin + steps - 1` of Adam for network number blockIdx.x.
//
// params, mu, nu: (networks, P).   X: (N, D), `row` numbers from row to row.   Y: (N, C), or class
// numbers as T with C = 1.   order: (N,).   scalars: (steps of the epoch, 3), see `scalars_of` in
// dense_plan.py.   records: (steps of the epoch, networks).   logits: (networks, N, K) or null.
// offsets: (layers, FIELDS), as LayerOffsets.   slopes: (layers,), parameters of the activations.
// n_padded: the size of the parameters in shared memory, of which the first n_weights are weights:
// rows of W have an odd length there, so that reading down meets no bank conflicts.
// moments: 2 n_padded numbers a network, or null where they fit into shared memory.
// full: the size of a minibatch by which the gradient of any is divided, or 0 for its own.
// n_buffers: 2 where the next minibatch comes in beside this one, else 1.   columns, example_lanes,
// sharing_lanes: see `Geometry` in small_network.py.
// The arguments are many because a launch passes numbers one by one.
// One block a multiprocessor: left to itself, a compiler may make room for two of them, and keep
// numbers in local memory for it.
template <class T, int V>
__global__ void __launch_bounds__(V > 1 ? 512 : sizeof(T) == 4 ? 768 : 640, 1) small_epoch(
    T* params, T* mu, T* nu, Index P, const Index* offsets, const T* slopes, Index layers,
    const T* X, Index row, const T* Y, Index C, const T* weights, const Index* order, Index N,
    Index batch, Index full, Index begin, Index steps, const T* scalars, double beta_1, double beta_2,
    double l2, Index loss, T* records, T* logits, T* moments, Index n_padded, Index n_weights,
    Index n_buffers, Index columns, Index example_lanes, Index sharing_lanes) {
    const int L = int(layers), stride = int(columns), padded = int(n_padded), n_w = int(n_weights);
    const int thread = threadIdx.x, threads = blockDim.x;
    const int lane = thread % LANES, warp = thread / LANES, warps = threads / LANES;
    Index* const index = shared_memory<Index>();
    LayerOffsets* const layer = reinterpret_cast<LayerOffsets*>(index + 2 * stride);
    T* const memory = reinterpret_cast<T*>(index + 2 * stride + L * FIELDS / 2);
    for (int i = thread; i < L * FIELDS; i += threads)
        reinterpret_cast<int*>(layer)[i] = int(offsets[i]);
    __syncthreads();

    const int D = layer[0].D, K = layer[L - 1].H, targets = int(C), buffers = int(n_buffers);
    T* const batches = memory;
    T* const labels = batches + buffers * D * stride;
    T* const shares = labels + buffers * targets * stride;
    T* const ones = shares + buffers * stride;
    T* const p = ones + stride;
    T* const grads = p + padded;
    T* const partials = grads + padded;
    params += blockIdx.x * P;
    mu += blockIdx.x * P;
    nu += blockIdx.x * P;
    // Moments come last, so that the offsets of layers do not depend on where they are.
    T* const m = moments ? moments + Index(blockIdx.x) * 2 * padded
                         : memory + layer[L - 1].dZ + K * stride;
    T* const s = m + padded;

    const auto each_parameter = [&](auto f) {
        for (int l = 0; l < L; ++l) {
            const LayerOffsets at = layer[l];
            for (int i = thread; i < at.D * at.H; i += threads)
                f(at.from_W + i, at.W + i / at.H * (at.H | 1) + i % at.H);
            for (int i = thread; i < at.H; i += threads) f(at.from_b + i, at.b + i);
        }
    };
    for (int i = thread; i < padded; i += threads) p[i] = grads[i] = m[i] = s[i] = 0;
    for (int i = thread; i < stride; i += threads) ones[i] = 1;
    __syncthreads();
    each_parameter([&](int from, int to) {
        p[to] = params[from];
        m[to] = mu[from];
        s[to] = nu[from];
    });

    // `width` lanes of a warp have V examples each, and its other lanes have the same ones; all
    // warps together take `reach` examples. The next minibatch is fetched from the other end, by
    // warps that may have no examples themselves.
    const int width = int(example_lanes), parts = LANES / width, part = lane / width;
    const int reach = warps * width * V;
    const int other = ((warps - 1 - warp) * width + lane % width) * V;
    const int end = int(begin + steps);
    const auto size = [&](int step) {
        const int left = int(N) - step * int(batch);
        return step >= end ? 0 : left < int(batch) ? left : int(batch);
    };
    const auto fetch_index = [&](int step) {
        const int B = size(step);
        for (int i = threads - 1 - thread; i < B; i += threads)
            copy_async(index + step % 2 * stride + i, order + step * batch + i);
    };
    const auto fetch_batch = [&](int step) {
        const int B = size(step), buffer = step & (buffers - 1);
        for (int i = other; i < B; i += reach)
            for (int v = 0; v < V && i + v < B; ++v) {
                const Index example = index[step % 2 * stride + i + v];
                T* to = batches + buffer * D * stride + i + v;
                for (int d = part; d < D; d += parts)
                    copy_async(to + d * stride, X + example * row + d);
                to = labels + buffer * targets * stride + i + v;
                for (int c = part; c < targets; c += parts)
                    copy_async(to + c * stride, Y + example * targets + c);
                if (weights && part == 0)
                    copy_async(shares + buffer * stride + i + v, weights + example);
            }
    };
    fetch_index(int(begin));
    copy_async_wait();
    __syncthreads();
    fetch_batch(int(begin));
    fetch_index(int(begin) + 1);
    copy_async_wait();
    __syncthreads();

    const T b1 = T(beta_1), rest_1 = T(1 - beta_1), b2 = T(beta_2), rest_2 = T(1 - beta_2);
#pragma unroll 1
    for (int step = int(begin); step < end; ++step) {
        const int B = size(step), buffer = step & (buffers - 1);
        const T* x = batches + buffer * D * stride;
        if (buffers == 2) fetch_batch(step + 1);
        fetch_index(step + 2);

        // Forward and back. Columns from B on are never read.
        const T rows = T(full ? int(full) : B), share = T(B) / rows, penalty = T(l2) * share;
        T value = 0;
        for (int first = warp * width * V; first < B; first += reach) {
            const int i = first + lane % width * V;
            for (int l = 0; l < L; ++l) {
                const LayerOffsets at = layer[l];
                const T slope = slopes[l];
                T* const A = memory + at.A + i;
                multiply<V, true>(
                    (l ? memory + at.input : x) + i, p + at.W, p + at.b, A, at.D, at.H, at.H | 1, 1,
                    stride, part, parts);
                with_activation(at.g, [&](auto g) {
                    const auto forward = [&](T z, T) { return g.forward(z, slope); };
                    update_units<V>(A, A, at.H, stride, part, parts, forward);
                });
                __syncwarp();
            }
            const T* Z = memory + layer[L - 1].A + i;
            T* dZ = memory + layer[L - 1].dZ + i;
#pragma unroll 1
            for (int v = 0; v < V; ++v) {
                const bool there = i + v < B;
                const T weight = weights ? shares[buffer * stride + i + v] : T(1);
                const T found = small_loss(
                    int(loss), Z + v, labels + buffer * targets * stride + i + v, weight / rows,
                    dZ + v, K, stride, part, parts);
                if (!there) continue;
                value += found;
                if (!logits) continue;
                T* to = logits + ((blockIdx.x * N) + step * batch + i + v) * K;
                for (int k = part; k < K; k += parts) to[k] = Z[k * stride + v];
            }
            for (int l = L - 1; l >= 0; --l) {
                const LayerOffsets at = layer[l];
                const T slope = slopes[l];
                dZ = memory + at.dZ + i;
                with_activation(at.g, [&](auto g) {
                    const auto vjp = [&](T dA, T a) { return g.vjp(dA, T(0), a, slope); };
                    update_units<V>(dZ, memory + at.A + i, at.H, stride, part, parts, vjp);
                });
                if (l == 0) break;
                __syncwarp();
                multiply<V, false>(
                    dZ, p + at.W, static_cast<const T*>(nullptr), memory + layer[l - 1].dZ + i,
                    at.H, at.D, 1, at.H | 1, stride, part, parts);
            }
        }
        if (penalty != 0)
            for (int i = thread; i < n_w; i += threads) value += T(0.5) * penalty * p[i] * p[i];
        for (int far = LANES / 2; far; far /= 2) value += __shfl_xor_sync(WARP, value, far);
        if (lane == 0) partials[warp] = value;
        // Loaded early, since they come from global memory.
        const T rate = scalars[3 * step], e = scalars[3 * step + 1], keep = scalars[3 * step + 2];
        __syncthreads();

        // The gradient. The last warp, which has least to do, adds up the loss.
        const int sharing = int(sharing_lanes), some = LANES / sharing, tiles = layer[L - 1].tiles;
        for (int first = warp * some; first < tiles; first += warps * some) {
            const int tile = first + lane / sharing;
            int l = 0;
            while (l < L - 1 && tile >= layer[l].tiles) ++l;
            const LayerOffsets at = layer[l];
            small_gradient<V>(
                l ? memory + at.input : x, ones, memory + at.dZ, grads + at.W, grads + at.b, at.D,
                at.H, tile - (l ? layer[l - 1].tiles : 0), tile < tiles, B, stride, lane % sharing,
                sharing);
        }
        if (warp == warps - 1) {
            value = lane < warps ? partials[lane] : T(0);
            for (int far = LANES / 2; far; far /= 2) value += __shfl_xor_sync(WARP, value, far);
            if (lane == 0) records[Index(step) * gridDim.x + blockIdx.x] = value / share;
        }
        __syncthreads();

        if (buffers == 1) fetch_batch(step + 1);

        // The update: W := keep W - rate m / (sqrt(v) + e), the corrections being in rate and e
        for (int i = thread; i < padded; i += threads) {
            T w = p[i], g = grads[i];
            if (i < n_w) {
                if (penalty != 0) g += penalty * w;
                w *= keep;
            }
            const T first = b1 * m[i] + rest_1 * g, second = b2 * s[i] + rest_2 * (g * g);
            m[i] = first;
            s[i] = second;
            p[i] = w - rate * first / (sqrt(second) + e);
        }
        copy_async_wait();
        __syncthreads();
    }
    each_parameter([&](int to, int from) {
        params[to] = p[from];
        mu[to] = m[from];
        nu[to] = s[from];
    });
}
