// Memory access of all kernels: 16 bytes at a time where everything is aligned.
//
// The conventions of these files. Each kernel is the twin of a function of nnaccel/maths, which the
// head of its file names; matrix products are cuBLASLt's. Matrices are (rows, columns), row-major,
// with the letters of the equations. Arguments are pointers, `Index` and `double`: CuPy makes them
// of arrays and of Python's numbers. A number that may change from step to step comes as a pair
// `x_at`, `x`: it lies on the device at `x_at`, or is `x` where that pointer is null.
//
// With bfloat16 products, a kernel whose result is a factor of a product also writes it in bfloat16
// to `half`, or there alone where nothing else reads it. The pointer is null in other precisions.
//
// Several networks are as many layers of a grid: `network()` is the number of one. What they do not
// share lies one after the other, or so many elements apart as an argument `.._gap` says.
//
// The same input gives the same bits: every sum has a fixed order, and no floating number is added
// to atomically. NaN passes through every kernel, so that divergence shows.

#pragma once

using Index = long long;

inline constexpr unsigned WARP = 0xffffffff;  // all lanes of a warp
inline constexpr int LANES = 32;
inline constexpr int THREADS = 256;           // of a block, but for `narrow_dense`

// Blocks that a multiprocessor has room for at least, by the registers that this leaves a thread. Left
// to itself, a compiler makes room for more, and keeps numbers in local memory for it.
template <class T>
constexpr int blocks(int of_float, int of_double) {
    return sizeof(T) == sizeof(float) ? of_float : of_double;
}

// The number of the network that this block computes for.
__device__ inline Index network() { return blockIdx.z; }

// A pointer moved by so many elements, unless it is null.
template <class T>
__device__ T* moved(T* at, Index by) {
    return at ? at + by : at;
}

// A number that is part of a type, for arguments that are known when a kernel is compiled.
template <int V>
struct Constant {
    static constexpr int value = V;
};

template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
    T x[V];
};

template <class T>
constexpr int PACK = 16 / sizeof(T);  // elements that are read together

template <int V, class T>
__device__ Pack<T, V> load(const T* at) {
    return *reinterpret_cast<const Pack<T, V>*>(at);
}

template <int V, class T>
__device__ void store(T* at, const Pack<T, V>& pack) {
    *reinterpret_cast<Pack<T, V>*>(at) = pack;
}

template <class... P>
__device__ bool aligned(const P*... at) {
    return ((reinterpret_cast<unsigned long long>(at) | ...) & 15) == 0;
}

__device__ inline float infinity() { return __uint_as_float(0x7f800000); }

// Calls f(i, Constant<V>) for packs of V elements that begin at i and together cover 0 .. n - 1.
template <class T, class F>
__device__ void for_each_pack(Index n, bool packed, F f) {
    constexpr int V = PACK<T>;
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    const Index threads = Index(gridDim.x) * blockDim.x;
    const Index whole = packed ? n - n % V : 0;
#pragma unroll 1
    for (Index i = thread * V; i < whole; i += threads * V) f(i, Constant<V>());
#pragma unroll 1
    for (Index i = whole + thread; i < n; i += threads) f(i, Constant<1>());
}

// The number of a pair `x_at`, `x`.
template <class T>
__device__ T scalar(const T* at, double value) {
    return at ? *at : T(value);
}
