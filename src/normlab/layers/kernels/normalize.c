/* Normalization with its activation and dropout on the CPU, for maps that lie channels last.

   x is N samples of P pixels of C channels, float32 or bfloat16. Every normalization of the kind
   (x - mean) / deviation * weight + bias is one affine map per sample and channel, so four passes
   serve them all, and the small algebra between them is the caller's:

       moments         per sample and channel: the mean, and the sum of squared deviations from it
       apply           y = dropout(relu(x * scale + shift)) + residual, where there is one
       backward_sums   per sample and channel: the sums of g and of g * (x - centre)
       backward_apply  gradient of x = g * of_gradient + x * of_input + constant

   where g is the gradient of x * scale + shift: the masks of relu and dropout are computed again,
   not stored. A coefficient has a row of C values for each sample, or one row for all. */

#include "common.h"

typedef struct {
    const void *x, *dy, *residual;
    void *out;
    const float *scale, *shift, *centre;
    const float *of_gradient, *of_input, *constant;
    float *sums, *products; /* moments: mean and sum of squares */
    int64_t samples, pixels, channels, each; /* each: 1 where a sample has rows of its own */
    int32_t half, relu, threads;             /* half: bfloat16 */
    uint32_t threshold, seed;                /* dropout: probability in 2^-32, and its draws */
} Pass;

/* What dropout multiplies a value by, from a hash of the value's place (MurmurHash3's finalizer,
   Appleby 2011): the backward pass finds the same again. */
INLINE float kept(uint32_t place, uint32_t seed, uint32_t threshold, float scale) {
    uint32_t h = place * 0x9e3779b1u + seed;
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    h ^= h >> 16;
    return h < threshold ? 0.0f : scale;
}

INLINE void moments(const Pass *p, int64_t n, int half, int relu, int drop) {
    (void)relu, (void)drop;
    const int64_t channels = p->channels, length = tile_length(channels);
    float origin[TILE], sum[TILE], square[TILE];
    /* Deviations are taken from the mean of eight pixels, or fewer: little is left to cancel. */
    memset(sum, 0, length * sizeof *sum);
    const int64_t looks = p->pixels < 8 ? p->pixels : 8;
    for (int64_t i = 0; i < looks; i++) {
        const int64_t pixel = n * p->pixels + (3 * i + 1) * p->pixels / (3 * looks);
        for (int64_t c = 0; c < channels; c++)
            sum[c] += load(p->x, pixel * channels + c, half) / looks;
    }
    fill(origin, sum, channels, length);
    memset(sum, 0, length * sizeof *sum);
    memset(square, 0, length * sizeof *square);
    const int64_t whole = p->pixels * channels, end = (n + 1) * whole;
    for (int64_t base = n * whole; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        for (int64_t j = 0; j < size; j++) {
            float d = load(p->x, base + j, half) - origin[j];
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

INLINE void apply(const Pass *p, int64_t n, int half, int relu, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? 1 / (1 - threshold * 0x1p-32f) : 1;
    const void *x = p->x, *residual = p->residual;
    void *y = p->out;
    float a[TILE], b[TILE];
    fill(a, p->scale + p->each * n * channels, channels, length);
    fill(b, p->shift + p->each * n * channels, channels, length);
    const int64_t whole = p->pixels * channels, end = (n + 1) * whole;
    for (int64_t base = n * whole; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
#pragma GCC ivdep
        for (int64_t j = 0; j < size; j++) {
            float z = load(x, base + j, half) * a[j] + b[j];
            if (relu)
                z = z < 0 ? 0 : z;
            if (drop)
                z *= kept(base + j, seed, threshold, scale);
            if (residual)
                z += load(residual, base + j, half);
            store(y, base + j, half, z);
        }
    }
}

INLINE void backward_sums(const Pass *p, int64_t n, int half, int relu, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? 1 / (1 - threshold * 0x1p-32f) : 1;
    const void *x = p->x, *dy = p->dy;
    float a[TILE], b[TILE], m[TILE], sum[TILE], product[TILE];
    fill(a, p->scale + p->each * n * channels, channels, length);
    fill(b, p->shift + p->each * n * channels, channels, length);
    fill(m, p->centre + p->each * n * channels, channels, length);
    memset(sum, 0, length * sizeof *sum);
    memset(product, 0, length * sizeof *product);
    const int64_t whole = p->pixels * channels, end = (n + 1) * whole;
    for (int64_t base = n * whole; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        for (int64_t j = 0; j < size; j++) {
            float value = load(x, base + j, half), g = load(dy, base + j, half);
            if (drop)
                g *= kept(base + j, seed, threshold, scale);
            if (relu)
                g = value * a[j] + b[j] <= 0 ? 0 : g;
            sum[j] += g;
            product[j] += g * (value - m[j]);
        }
    }
    fold(p->sums + n * channels, sum, channels, length);
    fold(p->products + n * channels, product, channels, length);
}

INLINE void backward_apply(const Pass *p, int64_t n, int half, int relu, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? 1 / (1 - threshold * 0x1p-32f) : 1;
    const void *x = p->x, *dy = p->dy;
    void *dx = p->out;
    float a[TILE], b[TILE], q[TILE], r[TILE], s[TILE];
    fill(a, p->scale + p->each * n * channels, channels, length);
    fill(b, p->shift + p->each * n * channels, channels, length);
    fill(q, p->of_gradient + p->each * n * channels, channels, length);
    fill(r, p->of_input + p->each * n * channels, channels, length);
    fill(s, p->constant + p->each * n * channels, channels, length);
    const int64_t whole = p->pixels * channels, end = (n + 1) * whole;
    for (int64_t base = n * whole; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
#pragma GCC ivdep
        for (int64_t j = 0; j < size; j++) {
            float value = load(x, base + j, half), g = load(dy, base + j, half);
            if (drop)
                g *= kept(base + j, seed, threshold, scale);
            if (relu)
                g = value * a[j] + b[j] <= 0 ? 0 : g;
            store(dx, base + j, half, g * q[j] + value * r[j] + s[j]);
        }
    }
}

/* A pass over all samples; one loop is compiled for each kind of value, activation and dropout. */
#define DEFINE(pass)                                            \
    void normlab_##pass(const Pass *p) {                        \
        _Pragma("omp parallel for num_threads(p->threads)")     \
        for (int64_t n = 0; n < p->samples; n++)                \
            switch (p->half << 2 | p->relu << 1 | (p->threshold > 0)) { \
            case 0: pass(p, n, 0, 0, 0); break;                 \
            case 1: pass(p, n, 0, 0, 1); break;                 \
            case 2: pass(p, n, 0, 1, 0); break;                 \
            case 3: pass(p, n, 0, 1, 1); break;                 \
            case 4: pass(p, n, 1, 0, 0); break;                 \
            case 5: pass(p, n, 1, 0, 1); break;                 \
            case 6: pass(p, n, 1, 1, 0); break;                 \
            default: pass(p, n, 1, 1, 1);                       \
            }                                                   \
    }

DEFINE(moments)
DEFINE(apply)
DEFINE(backward_sums)
DEFINE(backward_apply)
