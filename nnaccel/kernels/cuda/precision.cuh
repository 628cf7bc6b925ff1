// Factors of products in TF32 and bfloat16: `rounded` of maths/precision.py, on the bits.

#pragma once

#include "memory.cuh"

// x without its last `bits` bits, rounded to nearest, ties to even.
__device__ inline float round_bits(float x, int bits) {
    const unsigned u = __float_as_uint(x), last = u >> bits & 1;
    return x == x ? __uint_as_float((u + (1u << bits >> 1) - 1 + last) & ~0u << bits) : x;
}

__device__ inline float to_tf32(float x) { return round_bits(x, 13); }
__device__ inline double to_tf32(double x) { return x; }  // float64 is never anything else

struct Bf16 {
    unsigned short bits;

    Bf16() = default;
    __device__ explicit Bf16(float x) : bits(__float_as_uint(round_bits(x, 16)) >> 16) {
        if (x != x) bits = 0x7FFF;  // the upper half of a NaN may be that of an infinity
    }
    __device__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

// Stores float32 numbers in bfloat16 as well, where `half` is not null.
template <int V, class T>
__device__ void store_half(Bf16* half, Index i, const Pack<T, V>& pack) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (!half) return;
        Pack<Bf16, V> y;
        for (int v = 0; v < V; ++v) y.x[v] = Bf16(pack.x[v]);
        store(half + i, y);
    }
}

// half = X in bfloat16, n numbers.
template <class T>
__global__ void __launch_bounds__(THREADS) to_bf16(const T* X, Bf16* half, Index n) {
    for_each_pack<T>(n, aligned(X, half), [&](Index i, auto count) {
        store_half(half, i, load<decltype(count)::value>(X + i));
    });
}
