// Activations: twins of the functions in maths/activations.py, g and its derivative side by side.
//
// c is the parameter of the activation, such as a slope. Where `reads_Z` is false, `vjp` ignores z.
// Comparisons are written so that NaN passes through them.

#pragma once

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
    template <class T> static __device__ T vjp(T dA, T, T a, T c) {
        return dA * (a > 0 ? T(1) : c);
    }
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
