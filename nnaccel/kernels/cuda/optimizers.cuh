// Optimizers: twins of the updates in maths/optimizers.py, in place on flat vectors of n numbers, or
// on those of several networks one after the other.
// `half` is the bfloat16 copy of the parameters. The numbers [hole, hole + skip), of which another
// launch has updated them already, are left out. In a captured step `end` and what follows are as of
// `end_step`; else `end` is null. `adam` has as many arguments as its definition.

#pragma once

#include "graph_step.cuh"
#include "memory.cuh"
#include "precision.cuh"
#include "sums.cuh"

// `for_each_pack` but for the numbers [hole, hole + skip), both multiples of a pack.
template <class T, class F>
__device__ void for_the_rest(Index n, Index hole, Index skip, bool packed, F f) {
    for_each_pack<T>(n - skip, packed, [&](Index i, auto count) {
        f(i < hole ? i : i + skip, count);
    });
}

template <class T>
__global__ void __launch_bounds__(THREADS, blocks<T>(4, 3)) gradient_descent(
    T* params, const T* grads, Bf16* half, Index n, Index hole, Index skip, const T* rate_at, double rate, Epoch<T>* end,
    const T* loss, Index networks, const T* Z, Index size, unsigned* counter) {
    const T r = scalar(rate_at, rate);
    for_the_rest<T>(n, hole, skip, aligned(params, grads, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> p = load<V>(params + i);
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) p.x[v] -= r * g.x[v];
        store(params + i, p);
        store_half(half, i, p);
    });
    end_step(end, loss, networks, Z, size, counter);
}

template <class T, bool nesterov>
__device__ void momentum_step(
    T* params, const T* grads, T* velocity, Bf16* half, Index n, Index hole, Index skip, const T* rate_at, double rate,
    double beta) {
    const T r = scalar(rate_at, rate), b = T(beta);
    for_the_rest<T>(n, hole, skip, aligned(params, grads, velocity, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> p = load<V>(params + i), u = load<V>(velocity + i);
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) {
            u.x[v] = b * u.x[v] - r * g.x[v];
            p.x[v] += nesterov ? b * u.x[v] - r * g.x[v] : u.x[v];
        }
        store(params + i, p);
        store(velocity + i, u);
        store_half(half, i, p);
    });
}

template <class T>
__global__ void __launch_bounds__(THREADS, blocks<T>(4, 3)) momentum(
    T* params, const T* grads, T* velocity, Bf16* half, Index n, Index hole, Index skip, const T* rate_at, double rate,
    double beta, Epoch<T>* end, const T* loss, Index networks, const T* Z, Index size,
    unsigned* counter) {
    momentum_step<T, false>(params, grads, velocity, half, n, hole, skip, rate_at, rate, beta);
    end_step(end, loss, networks, Z, size, counter);
}

template <class T>
__global__ void __launch_bounds__(THREADS, blocks<T>(4, 3)) nesterov(
    T* params, const T* grads, T* velocity, Bf16* half, Index n, Index hole, Index skip, const T* rate_at, double rate,
    double beta, Epoch<T>* end, const T* loss, Index networks, const T* Z, Index size,
    unsigned* counter) {
    momentum_step<T, true>(params, grads, velocity, half, n, hole, skip, rate_at, rate, beta);
    end_step(end, loss, networks, Z, size, counter);
}

template <class T>
__global__ void __launch_bounds__(THREADS, blocks<T>(4, 3)) rmsprop(
    T* params, const T* grads, T* square, Bf16* half, Index n, Index hole, Index skip, const T* rate_at, double rate,
    double beta, double epsilon, Epoch<T>* end, const T* loss, Index networks, const T* Z,
    Index size, unsigned* counter) {
    const T r = scalar(rate_at, rate), b = T(beta), rest = T(1 - beta), e = T(epsilon);
    for_the_rest<T>(n, hole, skip, aligned(params, grads, square, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> p = load<V>(params + i), s = load<V>(square + i);
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) {
            s.x[v] = b * s.x[v] + rest * (g.x[v] * g.x[v]);
            p.x[v] -= r * g.x[v] / (sqrt(s.x[v]) + e);
        }
        store(params + i, p);
        store(square + i, s);
        store_half(half, i, p);
    });
    end_step(end, loss, networks, Z, size, counter);
}

// m / c1 / (sqrt(v / c2) + epsilon) = (root / c1) m / (sqrt(v) + root epsilon), root = sqrt(c2).
template <class T>
__global__ void __launch_bounds__(THREADS, blocks<T>(4, 3)) adam(
    T* params, const T* grads, T* mu, T* nu, Bf16* half, Index n, Index hole, Index skip, const T* rate_at, double rate,
    const T* correction_1_at, double correction_1, const T* correction_2_at, double correction_2,
    double beta_1, double beta_2, double epsilon, Epoch<T>* end, const T* loss, Index networks,
    const T* Z, Index size, unsigned* counter) {
    const T root = sqrt(scalar(correction_2_at, correction_2)), e = root * T(epsilon);
    const T r = scalar(rate_at, rate) * root / scalar(correction_1_at, correction_1);
    const T b1 = T(beta_1), rest_1 = T(1 - beta_1), b2 = T(beta_2), rest_2 = T(1 - beta_2);
    for_the_rest<T>(n, hole, skip, aligned(params, grads, mu, nu, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> p = load<V>(params + i), m = load<V>(mu + i), s = load<V>(nu + i);
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) {
            m.x[v] = b1 * m.x[v] + rest_1 * g.x[v];
            s.x[v] = b2 * s.x[v] + rest_2 * (g.x[v] * g.x[v]);
            p.x[v] -= r * m.x[v] / (sqrt(s.x[v]) + e);
        }
        store(params + i, p);
        store(mu + i, m);
        store(nu + i, s);
        store_half(half, i, p);
    });
    end_step(end, loss, networks, Z, size, counter);
}

// x *= factor.
template <class T>
__device__ void scale(T* x, Index n, T factor) {
    if (factor == 1) return;
    for_each_pack<T>(n, aligned(x), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> y = load<V>(x + i);
        for (int v = 0; v < V; ++v) y.x[v] *= factor;
        store(x + i, y);
    });
}

// params *= 1 - amount, for the first n of the P parameters of each network.
template <class T>
__global__ void __launch_bounds__(THREADS) shrink_weights(
    T* params, Index n, Index P, const T* amount_at, double amount) {
    scale(params + network() * P, n, 1 - scalar(amount_at, amount));
}

// factor = min(1, max_norm / |grads|), by which `clip` then multiplies.
template <class T>
__global__ void __launch_bounds__(THREADS) clip_factor(
    const T* grads, Index n, const T* max_norm_at, double max_norm, T* factor, T* partials,
    unsigned* counter) {
    T sum = 0;
    for_each_pack<T>(n, aligned(grads), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) sum += g.x[v] * g.x[v];
    });
    if (!grid_sum(sum, partials, counter) || threadIdx.x) return;
    const T norm = sqrt(sum), most = scalar(max_norm_at, max_norm);
    *factor = norm <= most ? T(1) : most / norm;
}

template <class T>
__global__ void __launch_bounds__(THREADS) clip(T* grads, Index n, const T* factor) {
    scale(grads, n, *factor);
}
