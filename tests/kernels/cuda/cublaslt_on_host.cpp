// cuBLASLt on the host: the functions that `cublaslt.py` calls, with what the library refuses.
//
// Where CUDA's headers are found they are included, and the compiler compares every signature and
// number; elsewhere cublaslt_on_host.h declares what is used. Algorithms differ as the library's
// do: in the order of their sums, in what they ask of memory and in how long they take, which is
// a clock that each product puts forward.

#ifdef CUDA_HEADERS
#include <cublasLt.h>
#else
#include "cublaslt_on_host.h"
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

namespace {

struct Handle {};

struct Layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t leading, stride = 0;
    int32_t count = 1;
};

struct Product {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t flip_a = 0, flip_b = 0;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    const uint8_t* mask = nullptr;
    char* db = nullptr;
    int64_t mask_leading = 0, mask_stride = 0, db_stride = 0;

    bool has_end() const { return epilogue != CUBLASLT_EPILOGUE_DEFAULT; }
};

struct Preference {
    uint64_t workspace = 0, implementations = ~0ull;
    uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
    uint32_t alignments[4] = {256, 256, 256, 256};
};

// What an algorithm is: data[0] of the library's structure.
enum Kind {
    IN_TURN,   // one sum
    IN_EIGHT,  // eight sums, for matrices at multiples of 16 bytes
    HALVES,    // two sums, the first of them in the workspace
    IN_PLACE,  // three sums, added to the output in another order each time, or always in the same
    KINDS
};

double clock_now = 0;
double costs[KINDS] = {4, 2, 3, 1};  // negative: fails
bool tf32_is_forced = false, in_order = false;
long long handles = 0, objects = 0, products = 0;

template <class T, class P>
T* as(P p) {
    return reinterpret_cast<T*>(p);
}

size_t size_of(cudaDataType type) {
    return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

float rounded(float x, int bits) {  // to so many bits fewer, ties to even
    uint32_t u;
    std::memcpy(&u, &x, 4);
    if (std::isnan(x)) return x;
    u += ((1u << bits >> 1) - 1) + (u >> bits & 1);
    u &= ~0u << bits;
    std::memcpy(&x, &u, 4);
    return x;
}

double read(const char* at, cudaDataType type, bool tf32) {
    if (type == CUDA_R_64F) return *as<const double>(at);
    if (type == CUDA_R_32F) {
        const float x = *as<const float>(at);
        return tf32 ? rounded(x, 13) : x;
    }
    const uint32_t u = uint32_t(*as<const uint16_t>(at)) << 16;
    float x;
    std::memcpy(&x, &u, 4);
    return x;
}

void write(char* at, cudaDataType type, double value) {
    if (type == CUDA_R_64F) {
        *as<double>(at) = value;
    } else if (type == CUDA_R_32F) {
        *as<float>(at) = float(value);
    } else {
        const float x = rounded(float(value), 16);
        uint32_t u;
        std::memcpy(&u, &x, 4);
        *as<uint16_t>(at) = std::isnan(x) ? 0x7FFF : uint16_t(u >> 16);
    }
}

template <class T>
bool take(T& place, const void* from, size_t size) {
    if (!from || size != sizeof(T)) return false;
    std::memcpy(&place, from, size);
    return true;
}

// Whether the library knows this combination of types.
bool known(const Product& p, const Layout& a, const Layout& b, const Layout& d) {
    if (a.type != b.type) return false;
    switch (p.compute) {
        case CUBLAS_COMPUTE_64F: return p.scale == CUDA_R_64F && a.type == CUDA_R_64F && d.type == CUDA_R_64F;
        case CUBLAS_COMPUTE_32F_FAST_TF32:
            return p.scale == CUDA_R_32F && a.type == CUDA_R_32F && d.type == CUDA_R_32F;
        case CUBLAS_COMPUTE_32F:
            if (p.scale != CUDA_R_32F) return false;
            if (a.type == CUDA_R_32F) return d.type == CUDA_R_32F;
            return a.type == CUDA_R_16BF && (d.type == CUDA_R_32F || d.type == CUDA_R_16BF);
        default: return false;
    }
}

// Whether the library has this end of a product, the only one that it is asked for. By the words of
// cublasLt.h a mask counts in bits, 128 at a time, and db is of the type of the output.
bool knows_end(const Product& p, const Layout& d, uint64_t k) {
    if (!p.has_end()) return true;
    return p.epilogue == CUBLASLT_EPILOGUE_DRELU_BGRAD && d.type == CUDA_R_32F && k > 1 && p.mask &&
           p.db && p.mask_leading >= int64_t(d.rows) && p.mask_leading % 128 == 0 &&
           (d.count == 1 || (p.mask_stride % 128 == 0 && p.mask_stride >= p.mask_leading * int64_t(d.columns) &&
                             p.db_stride >= int64_t(d.rows)));
}

bool sound(const Product& p, const Layout& a, const Layout& b, const Layout& d, uint64_t* k) {
    const uint64_t m = p.flip_a ? a.columns : a.rows, n = p.flip_b ? b.rows : b.columns;
    *k = p.flip_a ? a.rows : a.columns;
    for (const Layout* x : {&a, &b, &d})
        if (x->leading < int64_t(x->rows) || x->count != d.count || !x->rows || !x->columns) return false;
    if (d.count > 1 && d.stride < d.leading * int64_t(d.columns - 1) + int64_t(d.rows)) return false;
    return d.rows == m && d.columns == n && *k == (p.flip_b ? b.columns : b.rows);
}

uint64_t fingerprint(const Product& p, const Layout& a, const Layout& b, const Layout& d) {
    uint64_t h = uint64_t(p.compute) * 4 + p.flip_a * 2 + p.flip_b;
    h = (h * 4096 + p.epilogue) * 31 + uint64_t(p.mask_leading);
    for (const Layout* x : {&a, &b, &d})
        for (uint64_t y : {uint64_t(x->type), x->rows, x->columns, uint64_t(x->leading),
                           uint64_t(x->stride), uint64_t(x->count)})
            h = (h ^ y) * 1099511628211ull;
    return h;
}

uint32_t scheme_of(int kind) {
    return kind == HALVES     ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE
           : kind == IN_PLACE ? CUBLASLT_REDUCTION_SCHEME_INPLACE
                              : CUBLASLT_REDUCTION_SCHEME_NONE;
}

size_t workspace_of(Kind kind, const Layout& d) {
    return kind == HALVES ? 8 * d.rows * d.columns * d.count : 0;
}

bool at_multiples(const Layout& x, size_t bytes) {
    return x.leading * size_of(x.type) % bytes == 0 && x.stride * size_of(x.type) % bytes == 0;
}

struct Span {
    const char *begin, *end;
    Span(const void* at, const Layout& x) : begin(as<const char>(at)) {
        const int64_t last = (x.count - 1) * x.stride + x.leading * (x.columns - 1) + x.rows;
        end = begin + last * size_of(x.type);
    }
    bool meets(const Span& other) const { return begin < other.end && other.begin < end; }
};

// D, and db, of one matrix: the derivative of ReLU by the mask, and the sums over columns.
void end_with_relu(const Product& p, const Layout& d, char* D, int32_t number) {
    const uint8_t* mask = p.mask + number * p.mask_stride / 8;
    float* db = as<float>(p.db) + number * p.db_stride;
    for (uint64_t i = 0; i < d.rows; ++i) {
        float sum = 0;
        for (uint64_t j = 0; j < d.columns; ++j) {
            float& x = as<float>(D)[j * d.leading + i];
            const int64_t bit = int64_t(j) * p.mask_leading + int64_t(i);
            if (!(mask[bit / 8] >> bit % 8 & 1)) x = 0;
            sum += x;
        }
        db[i] = sum;
    }
}

template <class T>
void multiply(
    Kind kind, bool tf32, const Product& p, const Layout& a, const Layout& b, const Layout& d,
    uint64_t k, const char* A, const char* B, char* D, void* workspace) {
    const int64_t m = d.rows, n = d.columns;
    const size_t size = size_of(a.type);
    std::vector<T> left(m * k), right(k * n);  // (k, m) and (n, k): both are read along memory
    for (int64_t i = 0; i < m; ++i)
        for (uint64_t l = 0; l < k; ++l)
            left[l * m + i] = T(read(A + size * (p.flip_a ? i * a.leading + l : l * a.leading + i), a.type, tf32));
    for (int64_t j = 0; j < n; ++j)
        for (uint64_t l = 0; l < k; ++l)
            right[j * k + l] = T(read(B + size * (p.flip_b ? l * b.leading + j : j * b.leading + l), b.type, tf32));
    const uint64_t parts = kind == IN_EIGHT ? 8 : kind == IN_TURN ? 1 : kind == HALVES ? 2 : 3;
    for (int64_t j = 0; j < n; ++j) {
        std::vector<std::vector<T>> sums(parts, std::vector<T>(m, T(0)));
        for (uint64_t l = 0; l < k; ++l) {
            T* sum = sums[kind == HALVES ? 2 * l / k : l % parts].data();
            const T y = right[j * k + l];
            const T* x = &left[l * m];
            for (int64_t i = 0; i < m; ++i) sum[i] += x[i] * y;
        }
        if (kind == HALVES) std::memcpy(workspace, sums[0].data(), m * sizeof(T));
        if (kind == IN_PLACE && products % 2 && !in_order) std::swap(sums[0], sums[2]);
        for (uint64_t part = 1; part < parts; ++part)
            for (int64_t i = 0; i < m; ++i) sums[0][i] += sums[part][i];
        for (int64_t i = 0; i < m; ++i)
            write(D + size_of(d.type) * (j * d.leading + i), d.type, sums[0][i]);
    }
}

}  // namespace

extern "C" {

// For the tests.
double host_clock() { return clock_now; }
void host_cost(int kind, double cost) { costs[kind] = cost; }
void host_force_tf32(int yes) { tf32_is_forced = yes; }
void host_keep_order(int yes) { in_order = yes; }
long long host_objects() { return objects; }

size_t cublasLtGetVersion() { return 130000; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
        default: return "unrecognized status";
    }
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
    switch (status) {
        case CUBLAS_STATUS_SUCCESS: return "success";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
        case CUBLAS_STATUS_INVALID_VALUE:
            return "an unsupported value or parameter was passed to the function";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "the requested functionality is not supported";
        default: return "unrecognized status";
    }
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    ++handles;
    *handle = as<cublasLtContext>(new Handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(
    cublasLtMatmulDesc_t* made, cublasComputeType_t compute, cudaDataType_t scale) {
    if (!made) return CUBLAS_STATUS_INVALID_VALUE;
    ++objects;
    *made = as<cublasLtMatmulDescOpaque_t>(new Product{compute, scale});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t it) {
    --objects;
    delete as<Product>(it);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t it, cublasLtMatmulDescAttributes_t attribute, const void* from, size_t size) {
    Product& p = *as<Product>(it);
    bool done = false;
    switch (attribute) {
        case CUBLASLT_MATMUL_DESC_TRANSA: done = take(p.flip_a, from, size); break;
        case CUBLASLT_MATMUL_DESC_TRANSB: done = take(p.flip_b, from, size); break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE: done = take(p.epilogue, from, size); break;
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: done = take(p.db, from, size); break;
        case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: done = take(p.db_stride, from, size); break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: done = take(p.mask, from, size); break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: done = take(p.mask_leading, from, size); break;
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: done = take(p.mask_stride, from, size); break;
        default: break;
    }
    return done ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(
    cublasLtMatrixLayout_t* made, cudaDataType type, uint64_t rows, uint64_t columns, int64_t leading) {
    if (!made) return CUBLAS_STATUS_INVALID_VALUE;
    ++objects;
    *made = as<cublasLtMatrixLayoutOpaque_t>(new Layout{type, rows, columns, leading});
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t it) {
    --objects;
    delete as<Layout>(it);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(
    cublasLtMatrixLayout_t it, cublasLtMatrixLayoutAttribute_t attribute, const void* from, size_t size) {
    Layout& x = *as<Layout>(it);
    bool done = false;
    if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) done = take(x.count, from, size);
    if (attribute == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET) done = take(x.stride, from, size);
    return done ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* made) {
    if (!made) return CUBLAS_STATUS_INVALID_VALUE;
    ++objects;
    *made = as<cublasLtMatmulPreferenceOpaque_t>(new Preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t it) {
    --objects;
    delete as<Preference>(it);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t it, cublasLtMatmulPreferenceAttributes_t attribute, const void* from,
    size_t size) {
    Preference& p = *as<Preference>(it);
    bool done = false;
    switch (attribute) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: done = take(p.workspace, from, size); break;
        case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: done = take(p.schemes, from, size); break;
        case CUBLASLT_MATMUL_PREF_IMPL_MASK: done = take(p.implementations, from, size); break;
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
            done = take(p.alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], from, size);
            break;
        default: break;
    }
    return done ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a_at,
    cublasLtMatrixLayout_t b_at, cublasLtMatrixLayout_t c_at, cublasLtMatrixLayout_t d_at,
    cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t* results,
    int* found) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (wanted <= 0 || !results || !found || c_at != d_at) return CUBLAS_STATUS_INVALID_VALUE;
    const Product& p = *as<Product>(product);
    const Layout &a = *as<Layout>(a_at), &b = *as<Layout>(b_at), &d = *as<Layout>(d_at);
    const Preference& asked = *as<Preference>(preference);
    uint64_t k;
    if (!sound(p, a, b, d, &k)) return CUBLAS_STATUS_INVALID_VALUE;
    if (!known(p, a, b, d) || !knows_end(p, d, k)) return CUBLAS_STATUS_NOT_SUPPORTED;
    bool wide = std::min({asked.alignments[0], asked.alignments[1], asked.alignments[3]}) >= 16;
    for (const Layout* x : {&a, &b, &d}) wide = wide && at_multiples(*x, 16);
    *found = 0;
    for (bool tf32 : {true, false})
        for (int kind = 0; kind < KINDS && *found < wanted; ++kind) {
            if (tf32 != (p.compute == CUBLAS_COMPUTE_32F_FAST_TF32) &&
                !(tf32 && tf32_is_forced && a.type == CUDA_R_32F))
                continue;
            const uint64_t input = a.type == CUDA_R_64F    ? CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_64F
                                   : a.type == CUDA_R_16BF ? CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_16BF
                                   : tf32                  ? CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_TF32
                                                           : CUBLASLT_NUMERICAL_IMPL_FLAGS_INPUT_32F;
            const size_t need = workspace_of(Kind(kind), d);
            if ((scheme_of(kind) & ~asked.schemes) || (input & ~asked.implementations) || need > asked.workspace ||
                (kind == IN_EIGHT && !wide) || (kind == IN_PLACE && p.has_end()))
                continue;
            cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
            result = {};
            result.algo.data[0] = kind;
            result.algo.data[1] = tf32;
            result.algo.data[2] = fingerprint(p, a, b, d);
            result.workspaceSize = need;
            result.state = CUBLAS_STATUS_SUCCESS;
        }
    return *found ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(
    const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute, void* to,
    size_t size, size_t* written) {
    const uint32_t scheme = scheme_of(int(algorithm->data[0]));
    if (attribute != CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME || !to || size != sizeof scheme || !written)
        return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(to, &scheme, size);
    *written = size;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t product, const void* alpha, const void* A,
    cublasLtMatrixLayout_t a_at, const void* B, cublasLtMatrixLayout_t b_at, const void* beta,
    const void* C, cublasLtMatrixLayout_t c_at, void* D, cublasLtMatrixLayout_t d_at,
    const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t room, cudaStream_t) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    const Product& p = *as<Product>(product);
    const Layout &a = *as<Layout>(a_at), &b = *as<Layout>(b_at), &d = *as<Layout>(d_at);
    uint64_t k;
    if (!A || !B || !D || !alpha || !beta || C != D || c_at != d_at || !sound(p, a, b, d, &k))
        return CUBLAS_STATUS_INVALID_VALUE;
    const bool wide = p.scale == CUDA_R_64F;
    if ((wide ? *as<const double>(alpha) : *as<const float>(alpha)) != 1 ||
        (wide ? *as<const double>(beta) : *as<const float>(beta)) != 0)
        return CUBLAS_STATUS_NOT_SUPPORTED;  // nobody asks for it
    if (!knows_end(p, d, k) || uintptr_t(p.mask) % 16 || uintptr_t(p.db) % 4)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (algorithm->data[2] != fingerprint(p, a, b, d) || algorithm->data[0] >= KINDS)
        return CUBLAS_STATUS_INVALID_VALUE;
    const Kind kind = Kind(algorithm->data[0]);
    const auto misplaced = [&](const void* at, const Layout& x) {
        return uintptr_t(at) % (kind == IN_EIGHT ? 16 : size_of(x.type)) != 0;
    };
    const size_t need = workspace_of(kind, d);
    if (misplaced(A, a) || misplaced(B, b) || misplaced(D, d) || uintptr_t(workspace) % 16 ||
        need > room || (need && !workspace))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (costs[kind] < 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    // These would be silent on a device, and wrong.
    const Span out(D, d);
    if (out.meets(Span(A, a)) || out.meets(Span(B, b))) return CUBLAS_STATUS_INVALID_VALUE;
    for (int32_t i = 0; i < d.count; ++i) {
        const char* left = as<const char>(A) + i * a.stride * size_of(a.type);
        const char* right = as<const char>(B) + i * b.stride * size_of(b.type);
        char* to = as<char>(D) + i * d.stride * size_of(d.type);
        if (p.compute == CUBLAS_COMPUTE_64F)
            multiply<double>(kind, false, p, a, b, d, k, left, right, to, workspace);
        else
            multiply<float>(kind, algorithm->data[1], p, a, b, d, k, left, right, to, workspace);
        if (p.has_end()) end_with_relu(p, d, to, i);
    }
    ++products;
    clock_now += costs[kind];
    return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
