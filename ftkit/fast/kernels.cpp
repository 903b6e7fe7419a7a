// Element-wise parts of a decoder layer, each one pass over memory. Compiled on the user's machine by
// ftkit/fast/compiled.py, called through ctypes on raw pointers; the plain versions are in torch.
//
// T is bf16 (kept as its 16 bits) or float; sums are float. Rows are spread over `threads` threads where they
// have at least GRAIN numbers in all: waking a thread takes as long as it would take one to do less.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

struct bf16 {
    uint16_t bits;
};

static inline float load(const float* p) { return *p; }
static inline float load(const bf16* p) {
    uint32_t wide = uint32_t(p->bits) << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
}
static inline void store(float* p, float x) { *p = x; }
static inline void store(bf16* p, float x) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t wide;
    std::memcpy(&wide, &x, 4);
    uint32_t rounded = (wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16;
    p->bits = uint16_t((wide & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}
template <class T> static inline float round_to(float x) { T t; store(&t, x); return load(&t); }

// exp to 2 units in the last place of float, zero below the normal numbers; written to become vectors
static inline float fast_exp(float x) {
    float clamped = x < -87.f ? -87.f : (x > 88.f ? 88.f : x);  // NaN passes both comparisons
    float n = std::nearbyint(clamped * 1.44269504088896341f);
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    int32_t bits;
    std::memcpy(&bits, &p, 4);
    bits += int32_t(n) << 23;
    float y;
    std::memcpy(&y, &bits, 4);
    return x < -87.f ? 0.f : y;
}
static inline float sigmoid(float x) { return 1.f / (1.f + fast_exp(-x)); }
static inline float fast_tanh(float x) { return 1.f - 2.f / (1.f + fast_exp(2.f * x)); }

static const int64_t GRAIN = 32768;  // as torch's own
#define PRAGMA(text) _Pragma(#text)
#define ROWS(numbers) PRAGMA(omp parallel for num_threads(threads) schedule(static) if ((numbers) >= GRAIN))
#define VECTOR _Pragma("omp simd")

// ---- RMS norm: y = x / rms(x) * (offset + w), as transformers rounds it -------------------------------
template <class T>
static void rms_norm(const T* x, const T* w, float offset, float eps, T* y, int64_t y_stride, float* inverse,
                     int64_t rows, int64_t n, int64_t threads) {
    ROWS(rows * n) for (int64_t i = 0; i < rows; ++i) {
        const T* in = x + i * n;
        T* out = y + i * y_stride;
        float s = 0;
        _Pragma("omp simd reduction(+ : s)") for (int64_t j = 0; j < n; ++j) {
            float v = load(in + j);
            s += v * v;
        }
        float r = 1.f / std::sqrt(s / n + eps);
        inverse[i] = r;
        if (offset == 0.f) {
            VECTOR for (int64_t j = 0; j < n; ++j)
                store(out + j, load(w + j) * round_to<T>(load(in + j) * r));
        } else {
            VECTOR for (int64_t j = 0; j < n; ++j) store(out + j, (offset + load(w + j)) * (load(in + j) * r));
        }
    }
}

template <class T>
static void rms_norm_back(const T* dy, const T* x, const T* w, float offset, const float* inverse, T* dx,
                          int64_t rows, int64_t n, int64_t threads) {
    ROWS(rows * n) for (int64_t i = 0; i < rows; ++i) {
        const T *g = dy + i * n, *in = x + i * n;
        T* out = dx + i * n;
        float r = inverse[i], s = 0;
        _Pragma("omp simd reduction(+ : s)") for (int64_t j = 0; j < n; ++j)
            s += load(g + j) * (offset + load(w + j)) * load(in + j);
        float c = s * r * r * r / n;
        VECTOR for (int64_t j = 0; j < n; ++j)
            store(out + j, load(g + j) * (offset + load(w + j)) * r - load(in + j) * c);
    }
}

// ---- rotary positions: halves of each head turned by the token's angles -------------------------------
// x and y: (tokens, heads, size) by strides of token and head; cos, sin: (tokens, size)
template <class T>
static void rotary(const T* x, int64_t x_token, int64_t x_head, const T* cos, const T* sin, float sign, T* y,
                   int64_t y_token, int64_t y_head, int64_t tokens, int64_t heads, int64_t size, int64_t threads) {
    int64_t half = size / 2;
    ROWS(tokens * heads * size) for (int64_t t = 0; t < tokens; ++t) {
        const T *c = cos + t * size, *s = sin + t * size;
        for (int64_t h = 0; h < heads; ++h) {
            const T* in = x + t * x_token + h * x_head;
            T* out = y + t * y_token + h * y_head;
            VECTOR for (int64_t j = 0; j < half; ++j) {
                float a = load(in + j), b = load(in + j + half);
                // the transpose (sign -1) swaps which half's sine meets which
                float sa = sign > 0 ? load(s + j) : load(s + j + half);
                float sb = sign > 0 ? load(s + j + half) : load(s + j);
                store(out + j, a * load(c + j) - sign * b * sa);
                store(out + j + half, b * load(c + j + half) + sign * a * sb);
            }
        }
    }
}

// ---- gated activation: y = act(gate) * up, gate and up side by side -------------------------------------
enum { SILU = 0, GELU_TANH = 1 };
static inline float activate(int kind, float x) {
    if (kind == SILU) return x * sigmoid(x);
    return 0.5f * x * (1.f + fast_tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}
static inline float derivative(int kind, float x) {
    if (kind == SILU) {
        float s = sigmoid(x);
        return s * (1.f + x * (1.f - s));
    }
    float t = fast_tanh(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.f + t) + 0.5f * x * (1.f - t * t) * 0.7978845608f * (1.f + 0.134145f * x * x);
}

template <class T, int K>
static void gate(const T* both, T* y, int64_t y_stride, int64_t rows, int64_t n, int64_t threads) {
    ROWS(rows * n) for (int64_t i = 0; i < rows; ++i) {
        const T *g = both + i * 2 * n, *u = g + n;
        T* out = y + i * y_stride;
        VECTOR for (int64_t j = 0; j < n; ++j)
            store(out + j, round_to<T>(activate(K, load(g + j))) * load(u + j));
    }
}

// dy is replaced by y, made again
template <class T, int K>
static void gate_back(T* dy, const T* both, T* dboth, int64_t rows, int64_t n, int64_t threads) {
    ROWS(rows * n) for (int64_t i = 0; i < rows; ++i) {
        const T *g = both + i * 2 * n, *u = g + n;
        T *d = dy + i * n, *dg = dboth + i * 2 * n, *du = dg + n;
        VECTOR for (int64_t j = 0; j < n; ++j) {
            float gj = load(g + j), uj = load(u + j), dj = load(d + j);
            float a = round_to<T>(activate(K, gj));
            store(du + j, dj * a);
            store(dg + j, dj * uj * derivative(K, gj));
            store(d + j, a * uj);
        }
    }
}

// ---- attention weights of one block: softmax over the keys that a query may see -------------------------
// scores: (heads, queries, keys), replaced. Query i stands at position first + i of its row, key j at j.
template <class T>
static void attend(T* scores, float scale, int64_t heads, int64_t queries, int64_t keys, int64_t first,
                   int64_t window, int64_t threads) {
    ROWS(heads * queries * keys) for (int64_t row = 0; row < heads * queries; ++row) {
        T* s = scores + row * keys;
        int64_t place = first + row % queries;
        int64_t end = place + 1 < keys ? place + 1 : keys;
        int64_t begin = window > 0 && place + 1 > window ? place + 1 - window : 0;
        float line[8192];
        std::vector<float> longer;
        float* v = line;
        if (keys > 8192) { longer.resize(keys); v = longer.data(); }
        float top = -std::numeric_limits<float>::infinity();
        VECTOR for (int64_t j = begin; j < end; ++j) v[j] = load(s + j) * scale;
        _Pragma("omp simd reduction(max : top)") for (int64_t j = begin; j < end; ++j) top = v[j] > top ? v[j] : top;
        float total = 0;
        _Pragma("omp simd reduction(+ : total)") for (int64_t j = begin; j < end; ++j) { v[j] = fast_exp(v[j] - top); total += v[j]; }
        float r = 1.f / total;
        for (int64_t j = 0; j < begin; ++j) store(s + j, 0.f);
        VECTOR for (int64_t j = begin; j < end; ++j) store(s + j, v[j] * r);
        for (int64_t j = end; j < keys; ++j) store(s + j, 0.f);
    }
}

// d: gradient of the weights, replaced by that of the (scaled, uncapped) products
template <class T>
static void attend_back(T* d, const T* weights, float scale, int64_t rows, int64_t keys, int64_t threads) {
    ROWS(rows * keys) for (int64_t row = 0; row < rows; ++row) {
        T* g = d + row * keys;
        const T* w = weights + row * keys;
        float s = 0;
        _Pragma("omp simd reduction(+ : s)") for (int64_t j = 0; j < keys; ++j) s += load(g + j) * load(w + j);
        VECTOR for (int64_t j = 0; j < keys; ++j) {
            float p = load(w + j);
            store(g + j, p == 0.f ? 0.f : p * (load(g + j) - s) * scale);
        }
    }
}

// ---- log-probabilities of targets from a slice of logits --------------------------------------------------
// logits: (rows, n); replaced, where `slope` is set, by onehot(target) - softmax, times the slope of scale and cap
template <class T>
static void logprobs(T* logits, const int64_t* targets, float scale, float cap, float* out, float* entropy,
                     int64_t* best, int64_t slope, int64_t rows, int64_t n, int64_t threads) {
    ROWS(rows * n) for (int64_t i = 0; i < rows; ++i) {
        T* z = logits + i * n;
        std::vector<float> v(n);
        float* p = v.data();
        VECTOR for (int64_t j = 0; j < n; ++j) p[j] = load(z + j) * scale;
        if (cap > 0.f) VECTOR for (int64_t j = 0; j < n; ++j) p[j] = cap * fast_tanh(p[j] / cap);
        float top = -std::numeric_limits<float>::infinity();
        _Pragma("omp simd reduction(max : top)") for (int64_t j = 0; j < n; ++j) top = p[j] > top ? p[j] : top;
        int64_t where = 0;
        while (where + 1 < n && !(p[where] == top)) ++where;
        float total = 0, moment = 0;
        for (int64_t block = 0; block < n; block += 4096) {  // blocks keep the float sums exact enough
            int64_t stop = block + 4096 < n ? block + 4096 : n;
            float some = 0, part = 0;
            _Pragma("omp simd reduction(+ : some, part)") for (int64_t j = block; j < stop; ++j) {
                float shifted = p[j] - top, e = fast_exp(shifted);
                some += e;
                part += e == 0.f ? 0.f : e * shifted;
            }
            total += some;
            moment += part;
        }
        float lse = top + std::log(total), chosen = p[targets[i]];
        out[i] = chosen - lse;
        entropy[i] = std::log(total) - moment / total;
        best[i] = where;
        if (!slope) continue;
        float r = 1.f / total;
        int64_t t = targets[i];
        float last = 1.f - fast_exp(chosen - top) * r;
        if (cap > 0.f) {
            last *= scale * (1.f - (chosen / cap) * (chosen / cap));
            VECTOR for (int64_t j = 0; j < n; ++j)
                store(z + j, -fast_exp(p[j] - top) * r * scale * (1.f - (p[j] / cap) * (p[j] / cap)));
        } else {
            last *= scale;
            VECTOR for (int64_t j = 0; j < n; ++j) store(z + j, -fast_exp(p[j] - top) * r * scale);
        }
        store(z + t, last);
    }
}

// ---- One token at a time: y = W x + bias + s B (A x), and one query over all keys ------------------------
// Four rows at once: one sum alone would wait for its own last addition.
template <class T> struct Four {
    const T *a, *b, *c, *d;
    Four(const T* x, int64_t stride, int64_t at, int64_t count)  // the last row again where there are no more
        : a(x + at * stride), b(x + std::min(at + 1, count - 1) * stride),
          c(x + std::min(at + 2, count - 1) * stride), d(x + std::min(at + 3, count - 1) * stride) {}
    void times(const float* x, int64_t n, float* sums) const {
        float s = 0, t = 0, u = 0, v = 0;
        _Pragma("omp simd reduction(+ : s, t, u, v)") for (int64_t j = 0; j < n; ++j) {
            s += load(a + j) * x[j];
            t += load(b + j) * x[j];
            u += load(c + j) * x[j];
            v += load(d + j) * x[j];
        }
        sums[0] = s; sums[1] = t; sums[2] = u; sums[3] = v;
    }
};

template <class T>
static void one_linear(const T* x, const T* w, int64_t w_stride, const T* bias, const float* a, const float* b,
                       float scale, int64_t rank, T* y, int64_t inputs, int64_t outputs, int64_t threads) {
    std::vector<float> wide(inputs), h(rank);
    VECTOR for (int64_t j = 0; j < inputs; ++j) wide[j] = load(x + j);
    const float* in = wide.data();
    for (int64_t r = 0; r < rank; ++r) {
        float s = 0;
        _Pragma("omp simd reduction(+ : s)") for (int64_t j = 0; j < inputs; ++j) s += a[r * inputs + j] * in[j];
        h[r] = s * scale;
    }
    ROWS(outputs * inputs) for (int64_t block = 0; block < outputs; block += 4) {
        float sums[4];
        Four<T>(w, w_stride, block, outputs).times(in, inputs, sums);
        for (int64_t i = block; i < std::min(block + 4, outputs); ++i) {
            float s = sums[i - block] + (bias ? load(bias + i) : 0.f);
            for (int64_t r = 0; r < rank; ++r) s += b[i * rank + r] * h[r];
            store(y + i, s);
        }
    }
}

template <class T>
static void one_query(const T* q, const T* k, int64_t k_head, const T* v, int64_t v_head, float scale, T* y,
                      int64_t heads, int64_t each, int64_t keys, int64_t size, int64_t threads) {
    // A quarter: 9 heads of 64 over 256 keys take 25 us on one thread, and 12 us to wake another.
    ROWS(heads * keys * size / 4) for (int64_t i = 0; i < heads; ++i) {
        const T* query = q + i * size;
        const T* key = k + i / each * k_head;
        const T* value = v + i / each * v_head;
        std::vector<float> weight(keys + 3), out(size, 0.f), in(size);
        for (int64_t j = 0; j < size; ++j) in[j] = load(query + j) * scale;
        float top = -std::numeric_limits<float>::infinity(), total = 0;
        for (int64_t n = 0; n < keys; n += 4) Four<T>(key, size, n, keys).times(in.data(), size, &weight[n]);
        for (int64_t n = 0; n < keys; ++n) top = weight[n] > top ? weight[n] : top;
        for (int64_t n = 0; n < keys; ++n) {
            weight[n] = fast_exp(weight[n] - top);
            total += weight[n];
        }
        for (int64_t n = 0; n < keys; ++n) {
            const T* row = value + n * size;
            float w = weight[n];
            VECTOR for (int64_t j = 0; j < size; ++j) out[j] += w * load(row + j);
        }
        for (int64_t j = 0; j < size; ++j) store(y + i * size + j, out[j] / total);
    }
}

#define BOTH(T, suffix)                                                                                          \
    void rms_norm_##suffix(const void* x, const void* w, float offset, float eps, void* y, int64_t y_stride,     \
                           void* inverse, int64_t rows, int64_t n, int64_t threads) {                                \
        rms_norm((const T*)x, (const T*)w, offset, eps, (T*)y, y_stride, (float*)inverse, rows, n, threads);     \
    }                                                                                                            \
    void rms_norm_back_##suffix(const void* dy, const void* x, const void* w, float offset, const void* inverse, \
                                void* dx, int64_t rows, int64_t n, int64_t threads) {                                \
        rms_norm_back((const T*)dy, (const T*)x, (const T*)w, offset, (const float*)inverse, (T*)dx, rows, n,    \
                      threads);                                                                                  \
    }                                                                                                            \
    void rotary_##suffix(const void* x, int64_t x_token, int64_t x_head, const void* cos, const void* sin,       \
                         float sign, void* y, int64_t y_token, int64_t y_head, int64_t tokens, int64_t heads,    \
                         int64_t size, int64_t threads) {                                                            \
        rotary((const T*)x, x_token, x_head, (const T*)cos, (const T*)sin, sign, (T*)y, y_token, y_head, tokens, \
               heads, size, threads);                                                                            \
    }                                                                                                            \
    void gate_##suffix(int64_t kind, const void* both, void* y, int64_t y_stride, int64_t rows, int64_t n,           \
                       int64_t threads) {                                                                            \
        if (kind == SILU) gate<T, SILU>((const T*)both, (T*)y, y_stride, rows, n, threads);                      \
        else gate<T, GELU_TANH>((const T*)both, (T*)y, y_stride, rows, n, threads);                              \
    }                                                                                                            \
    void gate_back_##suffix(int64_t kind, void* dy, const void* both, void* dboth, int64_t rows, int64_t n,          \
                            int64_t threads) {                                                                       \
        if (kind == SILU) gate_back<T, SILU>((T*)dy, (const T*)both, (T*)dboth, rows, n, threads);               \
        else gate_back<T, GELU_TANH>((T*)dy, (const T*)both, (T*)dboth, rows, n, threads);                       \
    }                                                                                                            \
    void attend_##suffix(void* scores, float scale, int64_t heads, int64_t queries, int64_t keys,                \
                         int64_t first, int64_t window, int64_t threads) {                                           \
        attend((T*)scores, scale, heads, queries, keys, first, window, threads);                                 \
    }                                                                                                            \
    void attend_back_##suffix(void* d, const void* weights, float scale, int64_t rows, int64_t keys,             \
                              int64_t threads) {                                                                     \
        attend_back((T*)d, (const T*)weights, scale, rows, keys, threads);                                       \
    }                                                                                                            \
    void logprobs_##suffix(void* logits, const void* targets, float scale, float cap, void* out, void* entropy,  \
                           void* best, int64_t slope, int64_t rows, int64_t n, int64_t threads) {                        \
        logprobs((T*)logits, (const int64_t*)targets, scale, cap, (float*)out, (float*)entropy, (int64_t*)best,  \
                 slope, rows, n, threads);                                                                       \
    }                                                                                                            \
    void one_linear_##suffix(const void* x, const void* w, int64_t w_stride, const void* bias, const void* a,    \
                             const void* b, float scale, int64_t rank, void* y, int64_t inputs, int64_t outputs, \
                             int64_t threads) {                                                                  \
        one_linear((const T*)x, (const T*)w, w_stride, (const T*)bias, (const float*)a, (const float*)b, scale,  \
                   rank, (T*)y, inputs, outputs, threads);                                                       \
    }                                                                                                            \
    void one_query_##suffix(const void* q, const void* k, int64_t k_head, const void* v, int64_t v_head,         \
                            float scale, void* y, int64_t heads, int64_t each, int64_t keys, int64_t size,       \
                            int64_t threads) {                                                                   \
        one_query((const T*)q, (const T*)k, k_head, (const T*)v, v_head, scale, (T*)y, heads, each, keys, size,  \
                  threads);                                                                                      \
    }

extern "C" {
BOTH(bf16, bf16)
BOTH(float, f32)
}
