// Dropout: the twin of `dropout` in maths/layers/dropout.py, with the hash of maths/random.py, so
// that a mask depends on (seed, step, place in the network, element) alone.

#pragma once

#include "memory.cuh"
#include "precision.cuh"

__device__ inline unsigned mix(unsigned x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}

inline constexpr unsigned GOLDEN = 0x9E3779B9u, BITS = 24;

// A = X M with M = 1 / keep where the draw of an element is below `threshold`, else 0. X and A have n
// elements for each network, M has n for all.
template <class T>
__global__ void __launch_bounds__(THREADS) dropout(
    const T* X, T* A, T* M, Bf16* half, Index n, Index seed, const int* step_at, Index step,
    Index path, Index threshold, double keep) {
    const unsigned moment = step_at ? unsigned(*step_at) : unsigned(step);
    const unsigned key = mix(mix((moment + unsigned(seed)) * GOLDEN) + unsigned(path));
    const T kept = 1 / T(keep);
    const bool first = network() == 0;
    X += network() * n;
    A += network() * n;
    half = moved(half, network() * n);
    for_each_pack<T>(n, aligned(X, A, M, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        const Pack<T, V> x = load<V>(X + i);
        Pack<T, V> a, m;
        for (int v = 0; v < V; ++v) {
            const unsigned bits = mix((unsigned(i + v) ^ key) * GOLDEN) & ((1u << BITS) - 1);
            m.x[v] = Index(bits) < threshold ? kept : T(0);
            a.x[v] = x.x[v] * m.x[v];
        }
        store(A + i, a);
        if (first) store(M + i, m);
        store_half(half, i, a);
    });
}
