/* What a normalization with its activation and dropout computes from one value, and the steps of
   normalize.c that pointwise.c has in common with it.

   The compiler gets the activations of activations.py as a macro, ACTIVATIONS(X, pass). It expands
   to X(pass, number, value, gradient) for each of them; number 0 is no activation. */

#ifndef NORMLAB_NORMALIZE_H
#define NORMLAB_NORMALIZE_H

#include <math.h>

#include "common.h"

typedef struct {
    const void *x, *dy, *residual;
    void *out;                   /* y, or the gradient of x */
    const float *weight, *bias;  /* of each channel; no bias: 0 */
    float *mean, *rstd;          /* of each group of each part: rstd is 1 / deviation */
    float *scale, *shift;        /* of each channel of each part */
    float *running_mean, *running_variance; /* of each group (one variance if pooled): what forward updates */
    float *d_weight, *d_bias;    /* the gradients of weight and bias */
    float *sums, *products;      /* of each channel of each sample: what a first loop finds */
    float *factor, *constant;    /* of each channel of each part, in backward */
    int64_t samples, pixels, channels, groups, part; /* part: its number of samples */
    int32_t bfloat16, activation, threads, centred; /* centred: 0 if the mean is taken as 0 */
    int32_t pooled; /* 1 if the groups have one variance, the mean of theirs */
    uint32_t threshold, seed; /* dropout: its probability in units of 2^-32, its random seed */
    float eps, momentum;
} Normalization;

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

/* What dropout multiplies kept values by, in double as in dropout.py. */
INLINE float dropout_scale(uint32_t threshold) {
    return (float)(1 / (1 - threshold * 0x1p-32));
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

/* pass(bfloat16, activation, drop) with constants, so that it is compiled for each type, activation,
   and dropout or none. */
#define LOOPS(pass, number, value, gradient)         \
    case number << 2: pass(0, number, 0); break;     \
    case number << 2 | 1: pass(0, number, 1); break; \
    case number << 2 | 2: pass(1, number, 0); break; \
    case number << 2 | 3: pass(1, number, 1); break;
#define EACH_KIND(p, pass)                                                       \
    switch ((p)->activation << 2 | (p)->bfloat16 << 1 | ((p)->threshold > 0)) { \
        ACTIVATIONS(LOOPS, pass)                                                 \
    }

/* The means of sample n's groups, for each channel. */
INLINE void spread_means(const Normalization *p, int64_t n, float *row) {
    const int64_t members = p->channels / p->groups;
    for (int64_t g = 0, c = 0; g < p->groups; g++)
        for (; c < (g + 1) * members; c++)
            row[c] = p->mean[n / p->part * p->groups + g];
}

/* Of sample n: the mean of each channel, in `sums`, and its sum of squared deviations from it, in
   `products`. */
void normlab_moments_of(const Normalization *p, int64_t n);

/* From the moments of a part's samples: the statistics of its groups, and the affine map of each
   channel. Updates the running statistics. */
void normlab_statistics(const Normalization *p, int64_t part);

/* y of sample n. */
void normlab_apply_of(const Normalization *p, int64_t n);

/* Of sample n, with g the gradient of x * scale + shift: the sums of g and of g * (x - mean) for
   each channel, in `sums` and `products`. */
void normlab_sum_gradients_of(const Normalization *p, int64_t n);

/* From the sums of a part's samples: the gradient of x is g * scale + x * factor + constant. */
void normlab_find_gradient(const Normalization *p, int64_t part);

/* A step for each part of the samples. */
INLINE void each_part(void (*step)(const Normalization *p, int64_t part), const Normalization *p) {
    for (int64_t part = 0; part < p->samples / p->part; part++)
        step(p, part);
}

/* The gradient of x of sample n. */
void normlab_apply_gradients_of(const Normalization *p, int64_t n);

/* From the sums of all samples: the gradients of weight and bias. */
void normlab_sum_samples(const Normalization *p);

#endif
