/* Normalization with its activation and dropout on the CPU, for maps in channels-last memory.

   x is N samples of P pixels of C channels, float32 or bfloat16. Every normalization of the form
   (x - mean) / deviation * weight + bias is one affine map per sample and channel. So four passes
   serve them all; the caller does the small computations between them:

       moments         per sample and channel: the mean, and the sum of squared deviations from it
       apply           y = dropout(f(x * scale + shift)) + residual, if there is a residual
       backward_sums   per sample and channel: the sums of g and of g * (x - centre)
       backward_apply  the gradient of x: g * gradient_factor + x * input_factor + constant

   f is the activation, and g is the gradient of x * scale + shift: the activation's gradient and
   the dropout mask are computed again, not stored. A coefficient has C values for each sample, or
   C values for all samples together.

   The compiler gets the activations of activations.py as a macro, ACTIVATIONS(X, pass). It expands
   to X(pass, number, value, gradient) for each of them; number 0 is no activation. */

#include "common.h"

typedef struct {
    const void *x, *dy, *residual;
    void *out;
    const float *scale, *shift, *centre;
    const float *gradient_factor, *input_factor, *constant;
    float *sums, *products; /* moments: the mean and the sum of squares */
    int64_t samples, pixels, channels, per_sample; /* per_sample: 1 if coefficients are */
    int32_t bfloat16, activation, threads;
    uint32_t threshold, seed; /* dropout: its probability in units of 2^-32, its random seed */
} Pass;

/* 1 / (1 + e^-z), to about 1e-7, or 1e-6 of the value where z is far below 0. Plain arithmetic, so
   that it becomes vector instructions: e^-z = 2^t = 2^n 2^r with a whole n and |r| <= 1/2, and 2^r
   is a polynomial with the smallest relative error (7.5e-8). */
INLINE float logistic(float z) {
    const float wanted = z * -1.44269504f;
    const float t = wanted > 126 ? 126 : wanted < -126 ? -126 : wanted;
    const float round = 0x1.8p23f; /* float32 has no fractions there */
    const float shifted = t + round, r = t - (shifted - round);
    float sum = 0.00132764669f;
    sum = sum * r + 0.00967554129f;
    sum = sum * r + 0.0555071329f;
    sum = sum * r + 0.240221197f;
    sum = sum * r + 0.693146967f;
    sum = sum * r + 1;
    uint32_t bits, n;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&n, &shifted, sizeof n);
    bits += n << 23; /* the last bits of `shifted` are n: this is 2^n times the sum */
    memcpy(&sum, &bits, sizeof sum);
    return 1 / (1 + sum);
}

INLINE float silu_slope(float z) {
    const float s = logistic(z);
    return s + s * (1 - s) * z;
}

INLINE float hard_logistic(float z) {
    const float s = z * (1.0f / 6) + 0.5f, most = s > 1 ? 1 : s;
    return most < 0 ? 0 : most;
}

/* GELU by tanh is z * logistic(gelu_exponent(z)). */
INLINE float gelu_exponent(float z) {
    return 1.59576912f * z + 0.0713548163f * z * z * z;
}

INLINE float gelu_slope(float z) {
    const float s = logistic(gelu_exponent(z));
    return s + s * (1 - s) * z * (1.59576912f + 3 * 0.0713548163f * z * z);
}

#define VALUE(pass, number, value, gradient) \
    case number: return value;
#define GRADIENT(pass, number, value, gradient) \
    case number: return gradient;

INLINE float activate(float z, int activation) {
    switch (activation) { ACTIVATIONS(VALUE, ) }
    return z;
}

/* The gradient of z, from the gradient g of its activation. */
INLINE float activate_backward(float z, float g, int activation) {
    switch (activation) { ACTIVATIONS(GRADIENT, ) }
    return g;
}

/* The factor by which dropout multiplies a value: 0 or scale. It comes from a hash of the value's
   index (MurmurHash3's finalizer, Appleby 2011), so the backward pass computes the same factor. */
INLINE float dropout_factor(uint32_t index, uint32_t seed, uint32_t threshold, float scale) {
    uint32_t h = index * 0x9e3779b1u + seed;
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    return h < threshold ? 0.0f : scale;
}

INLINE void moments(const Pass *p, int64_t n, int bfloat16, int activation, int drop) {
    (void)activation, (void)drop;
    const int64_t channels = p->channels, length = tile_length(channels);
    float origin[TILE], sum[TILE], square[TILE];
    /* Deviations are taken from the mean of up to eight pixels, so that little cancels. */
    memset(sum, 0, length * sizeof *sum);
    const int64_t probes = p->pixels < 8 ? p->pixels : 8;
    for (int64_t i = 0; i < probes; i++) {
        const int64_t pixel = n * p->pixels + (3 * i + 1) * p->pixels / (3 * probes);
        for (int64_t c = 0; c < channels; c++)
            sum[c] += load(p->x, pixel * channels + c, bfloat16) / probes;
    }
    fill(origin, sum, channels, length);
    memset(sum, 0, length * sizeof *sum);
    memset(square, 0, length * sizeof *square);
    const int64_t sample_size = p->pixels * channels, end = (n + 1) * sample_size;
    for (int64_t base = n * sample_size; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        for (int64_t j = 0; j < size; j++) {
            float d = load(p->x, base + j, bfloat16) - origin[j];
            sum[j] += d;
            square[j] += d * d;
        }
    }
    float *mean = p->sums + n * channels, *squares = p->products + n * channels;
    fold(mean, sum, channels, length);
    fold(squares, square, channels, length);
    for (int64_t c = 0; c < channels; c++) {
        float shift = mean[c] / p->pixels, rest = squares[c] - shift * mean[c];
        squares[c] = rest < 0 ? 0 : rest;
        mean[c] = origin[c] + shift;
    }
}

INLINE void apply(const Pass *p, int64_t n, int bfloat16, int activation, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? 1 / (1 - threshold * 0x1p-32f) : 1;
    const void *x = p->x, *residual = p->residual;
    void *y = p->out;
    float a[TILE], b[TILE];
    fill(a, p->scale + p->per_sample * n * channels, channels, length);
    fill(b, p->shift + p->per_sample * n * channels, channels, length);
    const int64_t sample_size = p->pixels * channels, end = (n + 1) * sample_size;
    for (int64_t base = n * sample_size; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        INDEPENDENT
        for (int64_t j = 0; j < size; j++) {
            float z = activate(load(x, base + j, bfloat16) * a[j] + b[j], activation);
            if (drop)
                z *= dropout_factor(base + j, seed, threshold, scale);
            if (residual)
                z += load(residual, base + j, bfloat16);
            store(y, base + j, bfloat16, z);
        }
    }
}

INLINE void backward_sums(const Pass *p, int64_t n, int bfloat16, int activation, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? 1 / (1 - threshold * 0x1p-32f) : 1;
    const void *x = p->x, *dy = p->dy;
    float a[TILE], b[TILE], m[TILE], sum[TILE], product[TILE];
    fill(a, p->scale + p->per_sample * n * channels, channels, length);
    fill(b, p->shift + p->per_sample * n * channels, channels, length);
    fill(m, p->centre + p->per_sample * n * channels, channels, length);
    memset(sum, 0, length * sizeof *sum);
    memset(product, 0, length * sizeof *product);
    const int64_t sample_size = p->pixels * channels, end = (n + 1) * sample_size;
    for (int64_t base = n * sample_size; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        for (int64_t j = 0; j < size; j++) {
            float value = load(x, base + j, bfloat16), g = load(dy, base + j, bfloat16);
            if (drop)
                g *= dropout_factor(base + j, seed, threshold, scale);
            g = activate_backward(value * a[j] + b[j], g, activation);
            sum[j] += g;
            product[j] += g * (value - m[j]);
        }
    }
    fold(p->sums + n * channels, sum, channels, length);
    fold(p->products + n * channels, product, channels, length);
}

INLINE void backward_apply(const Pass *p, int64_t n, int bfloat16, int activation, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? 1 / (1 - threshold * 0x1p-32f) : 1;
    const void *x = p->x, *dy = p->dy;
    void *dx = p->out;
    float a[TILE], b[TILE], q[TILE], r[TILE], s[TILE];
    fill(a, p->scale + p->per_sample * n * channels, channels, length);
    fill(b, p->shift + p->per_sample * n * channels, channels, length);
    fill(q, p->gradient_factor + p->per_sample * n * channels, channels, length);
    fill(r, p->input_factor + p->per_sample * n * channels, channels, length);
    fill(s, p->constant + p->per_sample * n * channels, channels, length);
    const int64_t sample_size = p->pixels * channels, end = (n + 1) * sample_size;
    for (int64_t base = n * sample_size; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        INDEPENDENT
        for (int64_t j = 0; j < size; j++) {
            float value = load(x, base + j, bfloat16), g = load(dy, base + j, bfloat16);
            if (drop)
                g *= dropout_factor(base + j, seed, threshold, scale);
            g = activate_backward(value * a[j] + b[j], g, activation);
            store(dx, base + j, bfloat16, g * q[j] + value * r[j] + s[j]);
        }
    }
}

/* A pass over all samples. One loop is compiled for each type, activation, and dropout or none. */
#define LOOPS(pass, number, value, gradient)          \
    case number << 2: pass(p, n, 0, number, 0); break;     \
    case number << 2 | 1: pass(p, n, 0, number, 1); break; \
    case number << 2 | 2: pass(p, n, 1, number, 0); break; \
    case number << 2 | 3: pass(p, n, 1, number, 1); break;

#define DEFINE(pass)                                                         \
    static void pass##_samples(const void *arguments, int64_t first, int64_t last) { \
        const Pass *p = arguments;                                           \
        for (int64_t n = first; n < last; n++)                               \
            switch (p->activation << 2 | p->bfloat16 << 1 | (p->threshold > 0)) { \
                ACTIVATIONS(LOOPS, pass)                                     \
            }                                                                \
    }                                                                        \
    void normlab_##pass(const Pass *p) {                                     \
        normlab_share(pass##_samples, p, p->samples, p->threads);            \
    }

DEFINE(moments)
DEFINE(apply)
DEFINE(backward_sums)
DEFINE(backward_apply)
