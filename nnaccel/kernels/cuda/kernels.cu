// CUDA kernels, each the twin of a function of the mathematics floor; see workspace.py for who calls them.
//
// Matrices are (rows, columns), row-major, and named by the letters of the equations; matrix
// products are cuBLASLt's. A kernel is compiled when it is first asked for, for its types alone.
//
// Arguments are pointers, `Index` and `double`: what CuPy makes of arrays and of Python's numbers.
// A number that changes from step to step comes as a pair, `x_at` and `x`: where x_at is not null
// the number lies there, on the device, else it is x.
//
// With bfloat16 products the factors that nothing else reads are stored in bfloat16, and others in
// both types, by the kernel that makes them: `half` is where, or null.
//
// The same input gives the same bits: every sum has a fixed order, and there are no atomic
// operations on floating numbers. What is not a number stays one, so that divergence shows.

using Index = long long;

inline constexpr unsigned WARP = 0xffffffff;  // all lanes of a warp
inline constexpr int LANES = 32;
inline constexpr int THREADS = 256;           // in a block, but for `narrow`

// ---- Memory: 16 bytes at a time where everything is aligned

template <int V>
struct Count {
    static constexpr int value = V;
};

template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Pack {
    T x[V];
};

template <class T>
constexpr int WIDE = 16 / sizeof(T);

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

// f(i, Count<V>) for runs of V elements from i on, which together are 0 .. n - 1.
template <class T, class F>
__device__ void each(Index n, bool packed, F f) {
    constexpr int V = WIDE<T>;
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    const Index threads = Index(gridDim.x) * blockDim.x;
    const Index whole = packed ? n - n % V : 0;
#pragma unroll 1
    for (Index i = thread * V; i < whole; i += threads * V) f(i, Count<V>());
#pragma unroll 1
    for (Index i = whole + thread; i < n; i += threads) f(i, Count<1>());
}

template <class T>
__device__ T number(const T* at, double value) {
    return at ? *at : T(value);
}

// ---- Factors of products, in less than float32

// x with its last `bits` bits rounded away, ties to even.
__device__ inline float shorter(float x, int bits) {
    const unsigned u = __float_as_uint(x), last = u >> bits & 1;
    return x == x ? __uint_as_float((u + (1u << bits >> 1) - 1 + last) & ~0u << bits) : x;
}

__device__ inline float to_tf32(float x) { return shorter(x, 13); }
__device__ inline double to_tf32(double x) { return x; }  // float64 is never anything else

struct Bf16 {
    unsigned short bits;

    Bf16() = default;
    __device__ explicit Bf16(float x) : bits(__float_as_uint(shorter(x, 16)) >> 16) {
        if (x != x) bits = 0x7FFF;  // which might have lost the bits that say so
    }
    __device__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

// Stores float32 numbers in bfloat16 as well, if they have a place.
template <int V, class T>
__device__ void store_half(Bf16* half, Index i, const Pack<T, V>& pack) {
    if constexpr (sizeof(T) == sizeof(float)) {
        if (!half) return;
        Pack<Bf16, V> y;
        for (int v = 0; v < V; ++v) y.x[v] = Bf16(pack.x[v]);
        store(half + i, y);
    }
}

// X in bfloat16.
template <class T>
__global__ void __launch_bounds__(THREADS) halve(const T* X, Bf16* half, Index n) {
    each<T>(n, aligned(X, half), [&](Index i, auto count) {
        store_half(half, i, load<decltype(count)::value>(X + i));
    });
}

// ---- Sums in a fixed order

// The sum of x over a block of one dimension, in its thread 0.
template <class T>
__device__ T block_sum(T x) {
    __shared__ T sums[LANES];
    const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    for (int far = LANES / 2; far; far /= 2) x += __shfl_down_sync(WARP, x, far);
    __syncthreads();  // the sums of an earlier call have been read
    if (lane == 0) sums[warp] = x;
    __syncthreads();
    if (warp == 0) {
        x = lane < int(blockDim.x) / LANES ? sums[lane] : T(0);
        for (int far = LANES / 2; far; far /= 2) x += __shfl_down_sync(WARP, x, far);
    }
    return x;
}

// Whether this block is the last of so many to come here. It then sees what the others had written
// before they came, and the counter is 0 again.
__device__ inline bool comes_last(unsigned* counter, unsigned blocks) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0 && threadIdx.y == 0) last = atomicInc(counter, blocks - 1) == blocks - 1;
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// The sum of x over a grid of one dimension: true in one block, whose thread 0 then has it in x.
template <class T>
__device__ bool grid_sum(T& x, T* partials, unsigned* counter) {
    x = block_sum(x);
    if (threadIdx.x == 0) partials[blockIdx.x] = x;
    if (!comes_last(counter, gridDim.x)) return false;
    x = 0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) x += __ldcg(partials + i);
    x = block_sum(x);
    return true;
}

// ---- Activations: g and its derivative side by side, as in activations.py; c is the parameter.
// Comparisons are such that what is not a number comes through them.

struct Identity {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T) { return z; }
    template <class T> static __device__ T vjp(T dA, T, T, T) { return dA; }
};

struct Sigmoid {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T) {
        return T(0.5) * tanh(T(0.5) * z) + T(0.5);
    }
    template <class T> static __device__ T vjp(T dA, T, T a, T) { return dA * (a * (1 - a)); }
};

struct Tanh {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T) { return tanh(z); }
    template <class T> static __device__ T vjp(T dA, T, T a, T) { return dA * (1 - a * a); }
};

struct Relu {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T) { return z < 0 ? T(0) : z; }
    template <class T> static __device__ T vjp(T dA, T, T a, T) { return dA * T(a > 0); }
};

struct LeakyRelu {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T c) { return z < c * z ? c * z : z; }
    template <class T> static __device__ T vjp(T dA, T, T a, T c) { return dA * (a > 0 ? T(1) : c); }
};

struct Softplus {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T) {
        return (z < 0 ? T(0) : z) + log1p(exp(-fabs(z)));
    }
    template <class T> static __device__ T vjp(T dA, T, T a, T) { return dA * -expm1(-a); }
};

struct Elu {
    static constexpr bool reads_Z = false;
    template <class T> static __device__ T forward(T z, T c) { return z < 0 ? c * expm1(z) : z; }
    template <class T> static __device__ T vjp(T dA, T, T a, T c) {
        return dA * (a > 0 ? T(1) : a + c);
    }
};

struct Selu {
    static constexpr bool reads_Z = false;
    static constexpr double alpha = 1.6732632423543772848170429916717;
    static constexpr double scale = 1.0507009873554804934193349852946;
    template <class T> static __device__ T forward(T z, T) {
        return T(scale) * Elu::forward(z, T(alpha));
    }
    template <class T> static __device__ T vjp(T dA, T, T a, T) {
        return dA * (a > 0 ? T(scale) : a + T(scale * alpha));
    }
};

struct Gelu {
    static constexpr bool reads_Z = true;
    static constexpr double scale = 0.79788456080286535587989211986876;  // sqrt(2 / pi)
    static constexpr double cubic = 0.044715;
    template <class T> static __device__ T inner(T z) {
        return tanh(T(scale) * (z + T(cubic) * (z * z * z)));
    }
    template <class T> static __device__ T forward(T z, T) { return T(0.5) * z * (1 + inner(z)); }
    template <class T> static __device__ T vjp(T dA, T z, T, T) {
        const T t = inner(z), slope = T(scale) * (1 + T(3 * cubic) * (z * z));
        return dA * (T(0.5) * (1 + t + z * (1 - t * t) * slope));
    }
};

struct Silu {
    static constexpr bool reads_Z = true;
    template <class T> static __device__ T forward(T z, T c) { return z * Sigmoid::forward(z, c); }
    template <class T> static __device__ T vjp(T dA, T z, T, T c) {
        const T s = Sigmoid::forward(z, c);
        return dA * (s + z * s * (1 - s));
    }
};

struct Mish {
    static constexpr bool reads_Z = true;
    template <class T> static __device__ T forward(T z, T c) {
        return z * tanh(Softplus::forward(z, c));
    }
    template <class T> static __device__ T vjp(T dA, T z, T, T c) {
        const T t = tanh(Softplus::forward(z, c));
        return dA * (t + z * (1 - t * t) * Sigmoid::forward(z, c));
    }
};

// ---- Minibatches

template <class U>
__device__ void copy_row(const void* from, void* to, Index example, Index row, Index units) {
    const U* source = static_cast<const U*>(from) + example * units;
    U* target = static_cast<U*>(to) + row * units;
    for (Index i = threadIdx.x; i < units; i += blockDim.x) target[i] = source[i];
}

// The rows of X, Y and weights with the numbers in `index` (B,), X as T and in `half`.
// X (N, D): `stride` elements from row to row.   Y: rows of so many units of 1, 2, 4 or 8 bytes.
// A block does blockDim.y examples; blocks with another blockIdx.y do more columns of the same.
template <class T, class S>
__global__ void __launch_bounds__(THREADS) minibatch(
    const S* X, Index stride, const Index* index, T* X_rows, Bf16* half, Index B, Index D,
    const void* Y, void* Y_rows, Index unit, Index units, const T* weights, T* weight_rows) {
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= B) return;
    const Index example = index[row];
    const Index first = Index(blockIdx.y) * blockDim.x + threadIdx.x;
    const Index step = Index(gridDim.y) * blockDim.x;
    const S* from = X + example * stride;
    T* to = X_rows + row * D;
    constexpr int V = WIDE<T>;
    if (D % V == 0 && stride % V == 0 && aligned(X, X_rows, half)) {
        for (Index i = first * V; i < D; i += step * V) {
            const Pack<S, V> source = load<V>(from + i);
            Pack<T, V> target;
            for (int v = 0; v < V; ++v) target.x[v] = T(source.x[v]);
            store(to + i, target);
            store_half(half, row * D + i, target);
        }
    } else {
        for (Index i = first; i < D; i += step) {
            const Pack<T, 1> target = {{T(from[i])}};
            store(to + i, target);
            store_half(half, row * D + i, target);
        }
    }
    if (blockIdx.y) return;
    switch (unit) {
        case 1: copy_row<unsigned char>(Y, Y_rows, example, row, units); break;
        case 2: copy_row<unsigned short>(Y, Y_rows, example, row, units); break;
        case 4: copy_row<unsigned>(Y, Y_rows, example, row, units); break;
        case 8: copy_row<unsigned long long>(Y, Y_rows, example, row, units); break;
    }
    if (weights && threadIdx.x == 0) weight_rows[row] = weights[example];
}

// ---- The dense layer

// Z += b and A = g(Z), (N, H); A may be Z, or null where nothing reads it but `half`, and Z is kept
// only where the derivative reads it. The geometry is that of `minibatch`.
template <class T, class G>
__global__ void __launch_bounds__(THREADS) activate(
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
    constexpr int V = WIDE<T>;
    if (H % V == 0 && aligned(Z, A, half)) {
        for (Index column = first * V; column < H; column += step * V) run(column, Count<V>());
    } else {
        for (Index column = first; column < H; column += step) run(column, Count<1>());
    }
}

// Z = X W + b and A = g(Z) for H <= 32, in one launch instead of a product and `activate`.
// X: (N, D).   W: (D, H).   tf32: whether they are rounded to TF32.   A, half: as of `activate`.
// A warp does a row: its lanes share out D, and then add up, for some outputs at a time. A block is
// 32 x blockDim.y.
template <class T, class S, class G>
__global__ void __launch_bounds__(128) narrow(
    const S* __restrict__ X, const S* __restrict__ W, const T* __restrict__ b, T* Z, T* A,
    Bf16* half, Index N, Index D, Index H, double parameter, Index tf32) {
    constexpr int SOME = 8;
    const Index row = Index(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= N) return;
    const int lane = threadIdx.x, last = int(H) - 1;
    const bool shorten = sizeof(S) == sizeof(float) && tf32;
    T mine = 0;  // of the output with the number of the lane
    for (int first = 0; first <= last; first += SOME) {
        T sums[SOME] = {};
#pragma unroll 4
        for (Index d = lane; d < D; d += LANES) {
            const T x = X[row * D + d], factor = shorten ? to_tf32(x) : x;
            const S* at = W + d * H;
#pragma unroll
            for (int i = 0; i < SOME; ++i) {
                const T w = at[first + i < last ? first + i : last];
                sums[i] += factor * (shorten ? to_tf32(w) : w);
            }
        }
#pragma unroll
        for (int i = 0; i < SOME; ++i) {
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

inline constexpr int ROWS = THREADS / LANES;  // of a block in `derive`

// The sum of x over threadIdx.y, where that is 0.
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

// dZ = dA g'(Z) over dA, or in `half` alone, and db = its sum over rows.   dA: (N, H).   db: (H,).
// read: (N, H), Z where the derivative reads it, else A.
// A block is 32 columns x 8 rows, and goes down in strides of all the rows of the grid; the last
// block of its columns adds up what the gridDim.y of them have found, partials (gridDim.y, H).
template <class T, class S, class G>
__global__ void __launch_bounds__(THREADS) derive(
    T* dA, const S* __restrict__ read, Bf16* half, T* db, Index N, Index H, double parameter,
    T* partials, unsigned* counters) {
    constexpr int SOME = 4;  // rows that are read together, to wait for memory once
    const Index column = Index(blockIdx.x) * LANES + threadIdx.x;
    const Index step = Index(gridDim.y) * ROWS;
    const T c = T(parameter);
    T sum = 0;
    for (Index first = Index(blockIdx.y) * ROWS + threadIdx.y; column < H && first < N;
         first += SOME * step) {
        T da[SOME], y[SOME];
#pragma unroll
        for (int s = 0; s < SOME; ++s) {
            const Index row = first + s * step, i = row * H + column;
            da[s] = row < N ? dA[i] : T(0);
            y[s] = row < N ? T(read[i]) : T(0);
        }
#pragma unroll
        for (int s = 0; s < SOME; ++s) {
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
    if (!comes_last(counters + blockIdx.x, gridDim.y)) return;
    sum = 0;
    for (unsigned y = threadIdx.y; column < H && y < gridDim.y; y += ROWS)
        sum += __ldcg(partials + y * H + column);
    sum = sum_of_rows(sum);
    if (threadIdx.y == 0 && column < H) db[column] = sum;
}

// ---- The loss

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

// The mean of -w log softmax(Z)[Y] and its gradient dZ = w (softmax(Z) - [k = Y]) / N, (N, K), and
// db = the sum of dZ over rows where K <= 32 and db is not null; dZ is in `half` as well.
// So many `lanes` do a row: a power of two, K at least, or else 32.   partials: (gridDim.x, 33).
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
    if (!comes_last(counter, gridDim.x)) return;
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
    each<T>(n, aligned(grads, params), [&](Index i, auto count) {
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

// ---- Dropout: random.py's hash of (seed, step, place, element)

__device__ inline unsigned mix(unsigned x) {
    x ^= x >> 16;
    x *= 0x7FEB352Du;
    x ^= x >> 15;
    x *= 0x846CA68Bu;
    return x ^ (x >> 16);
}

inline constexpr unsigned GOLDEN = 0x9E3779B9u, BITS = 24;

// A = X M with M = 1 / keep where the draw of an element is below `threshold`, else 0; A is in `half`
// as well.
template <class T>
__global__ void __launch_bounds__(THREADS) dropout(
    const T* X, T* A, T* M, Bf16* half, Index n, Index seed, const int* step_at, Index step, Index path,
    Index threshold, double keep) {
    const unsigned moment = step_at ? unsigned(*step_at) : unsigned(step);
    const unsigned key = mix(mix((moment + unsigned(seed)) * GOLDEN) + unsigned(path));
    const T kept = 1 / T(keep);
    each<T>(n, aligned(X, A, M, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        const Pack<T, V> x = load<V>(X + i);
        Pack<T, V> a, m;
        for (int v = 0; v < V; ++v) {
            const unsigned bits = mix((unsigned(i + v) ^ key) * GOLDEN) & ((1u << BITS) - 1);
            m.x[v] = Index(bits) < threshold ? kept : T(0);
            a.x[v] = x.x[v] * m.x[v];
        }
        store(A + i, a);
        store(M + i, m);
        store_half(half, i, a);
    });
}

// ---- Optimizers, on flat vectors of n numbers; see optimizers.py for their equations. The new
// parameters are in `half` as well.

template <class T>
__global__ void __launch_bounds__(THREADS) gradient_descent(
    T* params, const T* grads, Bf16* half, Index n, const T* rate_at, double rate) {
    const T r = number(rate_at, rate);
    each<T>(n, aligned(params, grads, half), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> p = load<V>(params + i);
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) p.x[v] -= r * g.x[v];
        store(params + i, p);
        store_half(half, i, p);
    });
}

template <class T, bool nesterov>
__device__ void move(
    T* params, const T* grads, T* velocity, Bf16* half, Index n, const T* rate_at, double rate,
    double beta) {
    const T r = number(rate_at, rate), b = T(beta);
    each<T>(n, aligned(params, grads, velocity, half), [&](Index i, auto count) {
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
__global__ void __launch_bounds__(THREADS) momentum(
    T* params, const T* grads, T* velocity, Bf16* half, Index n, const T* rate_at, double rate,
    double beta) {
    move<T, false>(params, grads, velocity, half, n, rate_at, rate, beta);
}

template <class T>
__global__ void __launch_bounds__(THREADS) nesterov(
    T* params, const T* grads, T* velocity, Bf16* half, Index n, const T* rate_at, double rate,
    double beta) {
    move<T, true>(params, grads, velocity, half, n, rate_at, rate, beta);
}

template <class T>
__global__ void __launch_bounds__(THREADS) rmsprop(
    T* params, const T* grads, T* square, Bf16* half, Index n, const T* rate_at, double rate,
    double beta, double epsilon) {
    const T r = number(rate_at, rate), b = T(beta), rest = T(1 - beta), e = T(epsilon);
    each<T>(n, aligned(params, grads, square, half), [&](Index i, auto count) {
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
}

// With root = sqrt(c2): m / c1 / (sqrt(v / c2) + epsilon) = (root / c1) m / (sqrt(v) + root epsilon).
template <class T>
__global__ void __launch_bounds__(THREADS) adam(
    T* params, const T* grads, T* mu, T* nu, Bf16* half, Index n, const T* rate_at, double rate,
    const T* correction_1_at, double correction_1, const T* correction_2_at, double correction_2,
    double beta_1, double beta_2, double epsilon) {
    const T root = sqrt(number(correction_2_at, correction_2)), e = root * T(epsilon);
    const T r = number(rate_at, rate) * root / number(correction_1_at, correction_1);
    const T b1 = T(beta_1), rest_1 = T(1 - beta_1), b2 = T(beta_2), rest_2 = T(1 - beta_2);
    each<T>(n, aligned(params, grads, mu, nu, half), [&](Index i, auto count) {
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
}

template <class T>
__device__ void scale(T* x, Index n, T factor) {
    if (factor == 1) return;
    each<T>(n, aligned(x), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        Pack<T, V> y = load<V>(x + i);
        for (int v = 0; v < V; ++v) y.x[v] *= factor;
        store(x + i, y);
    });
}

template <class T>
__global__ void __launch_bounds__(THREADS) shrink(
    T* params, Index n, const T* amount_at, double amount) {
    scale(params, n, 1 - number(amount_at, amount));
}

// min(1, max_norm / |grads|), which `clip` then multiplies by.
template <class T>
__global__ void __launch_bounds__(THREADS) clip_factor(
    const T* grads, Index n, const T* max_norm_at, double max_norm, T* factor, T* partials,
    unsigned* counter) {
    T sum = 0;
    each<T>(n, aligned(grads), [&](Index i, auto count) {
        constexpr int V = decltype(count)::value;
        const Pack<T, V> g = load<V>(grads + i);
        for (int v = 0; v < V; ++v) sum += g.x[v] * g.x[v];
    });
    if (!grid_sum(sum, partials, counter) || threadIdx.x) return;
    const T norm = sqrt(sum), most = number(max_norm_at, max_norm);
    *factor = norm <= most ? T(1) : most / norm;
}

template <class T>
__global__ void __launch_bounds__(THREADS) clip(T* grads, Index n, const T* factor) {
    scale(grads, n, *factor);
}

// ---- Epochs of captured steps
//
// A step that is captured in a graph has the addresses and numbers of the time when it was
// captured. What differs from step to step, or from epoch to epoch, it finds on the device in fixed
// places: `begin` writes it there, and `tick`, the last kernel of each step, what comes next.

template <class T>
struct Epoch {
    const T* table;      // (steps, n): the optimizer's numbers in each step
    Index n;
    const Index* order;  // (N,): the examples, `batch` a step
    Index N, batch;
    T* losses;           // (steps,)
    T* logits;           // (kept, stride) or null: of a step and its successors, over and over
    Index kept, stride;
    Index step;          // that is under way
};

static_assert(sizeof(Epoch<double>) <= 128, "the room that `graphs.py` makes for it");

// The numbers of a step and its part of the order, if there is such a step.
template <class T>
__device__ void prepare(const Epoch<T>& epoch, Index step, T* numbers, Index* index) {
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    const Index threads = Index(gridDim.x) * blockDim.x;
    const Index first = step * epoch.batch, left = epoch.N - first;
    if (left <= 0) return;
    for (Index i = thread; i < epoch.n; i += threads) numbers[i] = epoch.table[step * epoch.n + i];
    for (Index i = thread; i < left && i < epoch.batch; i += threads)
        index[i] = epoch.order[first + i];
}

// count: updates before this epoch, from which `count_at` goes on.
template <class T>
__global__ void __launch_bounds__(THREADS) begin(
    Epoch<T>* at, const T* table, Index n, const Index* order, Index N, Index batch, T* losses,
    T* logits, Index kept, Index stride, T* numbers, Index* index, int* count_at, Index count) {
    const Epoch<T> epoch = {table, n, order, N, batch, losses, logits, kept, stride, 0};
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *at = epoch;
        *count_at = int(count);
    }
    prepare(epoch, 0, numbers, index);
}

// loss: of the step that ends.   Z: its logits, so many numbers.
template <class T>
__global__ void __launch_bounds__(THREADS) tick(
    Epoch<T>* at, const T* loss, const T* Z, Index size, T* numbers, Index* index, int* count_at,
    unsigned* counter) {
    const Epoch<T> epoch = *at;
    if (blockIdx.x == 0 && threadIdx.x == 0) epoch.losses[epoch.step] = *loss;
    if (epoch.logits) {
        T* to = epoch.logits + epoch.step % epoch.kept * epoch.stride;
        each<T>(size, aligned(Z, to), [&](Index i, auto count) {
            store(to + i, load<decltype(count)::value>(Z + i));
        });
    }
    prepare(epoch, epoch.step + 1, numbers, index);
    if (comes_last(counter, gridDim.x) && threadIdx.x == 0) {
        at->step = epoch.step + 1;
        ++*count_at;
    }
}

// ---- A whole epoch of a small network in one launch: a block a network
//
// Parameters, gradient, minibatch and activations stay in shared memory, transposed as in the notes:
// a row of numbers for each unit, a column for each example. A warp takes some examples through
// all layers and back, waiting for nobody: `parts` lanes share out the units of a layer for the
// same V examples. Then sums over examples are shared out, and then the update: the block waits
// three times a step. The next minibatch comes in meanwhile.

#ifndef CUDA_ON_HOST  // which has its own
template <class T>
__device__ T* shared_memory() {
    extern __shared__ double2 memory[];
    return reinterpret_cast<T*>(memory);
}

// Copies a number from global to shared memory by the time that this thread has `fetched`.
template <class T>
__device__ void fetch(T* to, const T* from) {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::
        "r"(unsigned(__cvta_generic_to_shared(to))), "l"(from), "n"(int(sizeof(T))) : "memory");
#else
    *to = *from;
#endif
}

__device__ inline void fetched() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
#endif

// A layer as the host describes it: where its W and b are in the flat vectors and in shared memory,
// where its input (but for X), A and dZ are, and the tiles of dW up to and with this layer.
struct alignas(16) Place {
    int D, H, g, from_W, from_b, W, b, input, A, dZ, tiles, none;
};

inline constexpr int FIELDS = sizeof(Place) / sizeof(int);

// Calls f with the activation of that number, if it is not the identity.
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

// f(h, Count<S>) for S units of this lane, h, h + parts, .. of H, until it has done all of its own:
// SOME together as long as there are so many, and then half as many.
template <int SOME, class F>
__device__ void units(int h, int parts, int H, F f) {
#pragma unroll 1
    for (; h + (SOME - 1) * parts < H; h += SOME * parts) f(h, Count<SOME>());
    if constexpr (SOME > 1) units<SOME / 2>(h, parts, H, f);
}

// V examples of Y = X W, or X W + b, for every `parts`th unit: X (D, ..), Y (H, ..), both of that
// stride. W[d, h] is W[d down + h across].
template <int V, bool biased, class T>
__device__ void multiply(
    const T* X, const T* W, const T* b, T* Y, int D, int H, int down, int across, int stride,
    int part, int parts) {
    units<4>(part, parts, H, [&](int h, auto count) {
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

// Y := f(Y, A) for V examples and every `parts`th of H units.
template <int V, class T, class F>
__device__ void change(T* Y, const T* A, int H, int stride, int part, int parts, F f) {
    units<V == 1 ? 4 : 1>(part, parts, H, [&](int h, auto count) {
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

enum SmallLoss { CROSS_ENTROPY, BINARY_CROSS_ENTROPY, SQUARED_ERROR };

// This lane's part of the loss of one example, and its dZ.   Z, dZ: columns of K logits.
// Y: the class, or a column of K.   share: the weight of the example over their number.
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

// One tile of [dW; db] = [X; 1] dZ, V x V numbers that are `down` and `across` apart, by `sharing`
// lanes, of which this one takes the examples from `lane` on.   X: (D, ..).   dZ: (H, ..).
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

// Some steps of Adam, from the one numbered `begin` on, for the network numbered blockIdx.x.
// params, mu, nu: (networks, P).   X: (N, D), `row` numbers from one to the next.   Y: (N, C), or
// the class numbers as T with C = 1.   order: (N,).   scalars: (steps of the epoch, 3), as below.
// records: (steps of the epoch, networks).   logits: (networks, N, K) or null.
// plan: (layers, FIELDS), see Place.   moments: room for 2 `room` numbers a network, or null where
// shared memory has it. W's rows have an odd length there, for reading down without conflicts;
// weights are the first n_weights of `room` numbers. halves: 2 where the next minibatch has a place
// of its own, and 1 where it has to wait for the place of this one. The rest is as small_network.py decides.
template <class T, int V>
__global__ void __launch_bounds__(V > 1 ? 512 : sizeof(T) == 4 ? 768 : 640) small_epoch(
    T* params, T* mu, T* nu, Index P, const Index* plan, const T* slopes, Index layers,
    const T* X, Index row, const T* Y, Index C, const T* weights, const Index* order, Index N,
    Index batch, Index begin, Index steps, const T* scalars, double beta_1, double beta_2,
    double l2, Index loss, T* records, T* logits, T* moments, Index rooms, Index n_weights,
    Index halves, Index columns, Index lanes_of_examples, Index sharing_lanes) {
    const int L = int(layers), stride = int(columns), room = int(rooms), n_w = int(n_weights);
    const int thread = threadIdx.x, threads = blockDim.x;
    const int lane = thread % LANES, warp = thread / LANES, warps = threads / LANES;
    Index* const index = shared_memory<Index>();
    Place* const place = reinterpret_cast<Place*>(index + 2 * stride);
    T* const memory = reinterpret_cast<T*>(index + 2 * stride + L * FIELDS / 2);
    for (int i = thread; i < L * FIELDS; i += threads)
        reinterpret_cast<int*>(place)[i] = int(plan[i]);
    __syncthreads();

    const int D = place[0].D, K = place[L - 1].H, targets = int(C), buffers = int(halves);
    T* const batches = memory;
    T* const answers = batches + buffers * D * stride;
    T* const shares = answers + buffers * targets * stride;
    T* const ones = shares + buffers * stride;
    T* const p = ones + stride;
    T* const grads = p + room;
    T* const partials = grads + room;
    params += blockIdx.x * P;
    mu += blockIdx.x * P;
    nu += blockIdx.x * P;
    // The host puts moments last, so that the places of layers do not depend on where they are.
    T* const m = moments ? moments + Index(blockIdx.x) * 2 * room
                         : memory + place[L - 1].dZ + K * stride;
    T* const s = m + room;

    const auto each_parameter = [&](auto f) {
        for (int l = 0; l < L; ++l) {
            const Place at = place[l];
            for (int i = thread; i < at.D * at.H; i += threads)
                f(at.from_W + i, at.W + i / at.H * (at.H | 1) + i % at.H);
            for (int i = thread; i < at.H; i += threads) f(at.from_b + i, at.b + i);
        }
    };
    for (int i = thread; i < room; i += threads) p[i] = grads[i] = m[i] = s[i] = 0;
    for (int i = thread; i < stride; i += threads) ones[i] = 1;
    __syncthreads();
    each_parameter([&](int from, int to) {
        p[to] = params[from];
        m[to] = mu[from];
        s[to] = nu[from];
    });

    // `width` lanes of a warp have V examples each, and the other parts of it the same ones; then
    // come as many again as the warps take together. The next minibatch is fetched in the same way
    // from the other end, by warps that may have no examples themselves.
    const int width = int(lanes_of_examples), parts = LANES / width, part = lane / width;
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
            fetch(index + step % 2 * stride + i, order + step * batch + i);
    };
    const auto fetch_batch = [&](int step) {
        const int B = size(step), half = step & (buffers - 1);
        for (int i = other; i < B; i += reach)
            for (int v = 0; v < V && i + v < B; ++v) {
                const Index example = index[step % 2 * stride + i + v];
                T* to = batches + half * D * stride + i + v;
                for (int d = part; d < D; d += parts) fetch(to + d * stride, X + example * row + d);
                to = answers + half * targets * stride + i + v;
                for (int c = part; c < targets; c += parts)
                    fetch(to + c * stride, Y + example * targets + c);
                if (weights && part == 0) fetch(shares + half * stride + i + v, weights + example);
            }
    };
    fetch_index(int(begin));
    fetched();
    __syncthreads();
    fetch_batch(int(begin));
    fetch_index(int(begin) + 1);
    fetched();
    __syncthreads();

    const T b1 = T(beta_1), rest_1 = T(1 - beta_1), b2 = T(beta_2), rest_2 = T(1 - beta_2);
    const T penalty = T(l2);
#pragma unroll 1
    for (int step = int(begin); step < end; ++step) {
        const int B = size(step), half = step & (buffers - 1);
        const T* x = batches + half * D * stride;
        if (buffers == 2) fetch_batch(step + 1);
        fetch_index(step + 2);

        // Forward and back. Columns from B on hold whatever they hold, and nobody reads them.
        T value = 0;
        for (int first = warp * width * V; first < B; first += reach) {
            const int i = first + lane % width * V;
            for (int l = 0; l < L; ++l) {
                const Place at = place[l];
                const T slope = slopes[l];
                T* const A = memory + at.A + i;
                multiply<V, true>(
                    (l ? memory + at.input : x) + i, p + at.W, p + at.b, A, at.D, at.H, at.H | 1, 1,
                    stride, part, parts);
                with_activation(at.g, [&](auto g) {
                    const auto forward = [&](T z, T) { return g.forward(z, slope); };
                    change<V>(A, A, at.H, stride, part, parts, forward);
                });
                __syncwarp();
            }
            const T* Z = memory + place[L - 1].A + i;
            T* dZ = memory + place[L - 1].dZ + i;
#pragma unroll 1
            for (int v = 0; v < V; ++v) {
                const bool there = i + v < B;
                const T weight = weights ? shares[half * stride + i + v] : T(1);
                const T found = small_loss(
                    int(loss), Z + v, answers + half * targets * stride + i + v, weight / T(B),
                    dZ + v, K, stride, part, parts);
                if (!there) continue;
                value += found;
                if (!logits) continue;
                T* to = logits + ((blockIdx.x * N) + step * batch + i + v) * K;
                for (int k = part; k < K; k += parts) to[k] = Z[k * stride + v];
            }
            for (int l = L - 1; l >= 0; --l) {
                const Place at = place[l];
                const T slope = slopes[l];
                dZ = memory + at.dZ + i;
                with_activation(at.g, [&](auto g) {
                    const auto vjp = [&](T dA, T a) { return g.vjp(dA, T(0), a, slope); };
                    change<V>(dZ, memory + at.A + i, at.H, stride, part, parts, vjp);
                });
                if (l == 0) break;
                __syncwarp();
                multiply<V, false>(
                    dZ, p + at.W, static_cast<const T*>(nullptr), memory + place[l - 1].dZ + i,
                    at.H, at.D, 1, at.H | 1, stride, part, parts);
            }
        }
        if (penalty != 0)
            for (int i = thread; i < n_w; i += threads) value += T(0.5) * penalty * p[i] * p[i];
        for (int far = LANES / 2; far; far /= 2) value += __shfl_xor_sync(WARP, value, far);
        if (lane == 0) partials[warp] = value;
        // Asked for now, since they come from far.
        const T rate = scalars[3 * step], e = scalars[3 * step + 1], keep = scalars[3 * step + 2];
        __syncthreads();

        // The gradient; the warp that has least to do adds up the loss.
        const int sharing = int(sharing_lanes), some = LANES / sharing, tiles = place[L - 1].tiles;
        for (int first = warp * some; first < tiles; first += warps * some) {
            const int tile = first + lane / sharing;
            int l = 0;
            while (l < L - 1 && tile >= place[l].tiles) ++l;
            const Place at = place[l];
            small_gradient<V>(
                l ? memory + at.input : x, ones, memory + at.dZ, grads + at.W, grads + at.b, at.D,
                at.H, tile - (l ? place[l - 1].tiles : 0), tile < tiles, B, stride, lane % sharing,
                sharing);
        }
        if (warp == warps - 1) {
            value = lane < warps ? partials[lane] : T(0);
            for (int far = LANES / 2; far; far /= 2) value += __shfl_xor_sync(WARP, value, far);
            if (lane == 0) records[Index(step) * gridDim.x + blockIdx.x] = value;
        }
        __syncthreads();

        if (buffers == 1) fetch_batch(step + 1);

        // The update: W := keep W - rate m / (sqrt(v) + e), the corrections being in rate and e
        for (int i = thread; i < room; i += threads) {
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
        fetched();
        __syncthreads();
    }
    each_parameter([&](int to, int from) {
        params[to] = p[from];
        mu[to] = m[from];
        nu[to] = s[from];
    });
}
