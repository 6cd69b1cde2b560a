/* Normalization with its activation and dropout on the CPU, for maps in channels-last memory.

   x is N samples of P pixels of C channels, float32 or bfloat16. The channels are in groups, and
   the samples in parts of so many. A group of a part has one mean and one variance, so that every
   normalization of the form (x - mean) / deviation * weight + bias is one affine map per sample and
   channel: BatchNorm has a group for each channel and one part, GroupNorm a part for each sample.
   Extended BatchNorm has the groups of BatchNorm; their variances are pooled.

       forward   y = dropout(f(x * scale + shift)) + residual, if there is a residual
       backward  the gradients of x, weight and bias
       apply     as forward, with a scale and a shift for each channel

   f is the activation. The backward pass computes its gradient and the dropout mask again, instead
   of reading them. Where a part is one sample, a thread goes from its statistics to its results at
   once, while the sample is in the cache.

   Sums of several samples are taken in their order, in float64: results do not depend on the number
   of threads. */

#include "normalize.h"

INLINE void find_moments(const Normalization *p, int64_t n, int bfloat16) {
    const int64_t channels = p->channels, length = tile_length(channels);
    float origin[TILE], sum[TILE], square[TILE];
    /* Deviations are taken from the mean of up to eight pixels, so that little cancels. */
    memset(sum, 0, length * sizeof *sum);
    const int64_t probes = p->pixels < 8 ? p->pixels : 8;
    const float share = 1.0f / probes;
    for (int64_t i = 0; i < probes; i++) {
        const int64_t pixel = n * p->pixels + (3 * i + 1) * p->pixels / (3 * probes);
        for (int64_t c = 0; c < channels; c++)
            sum[c] += load(p->x, pixel * channels + c, bfloat16) * share;
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

void normlab_moments_of(const Normalization *p, int64_t n) {
    if (p->bfloat16)
        find_moments(p, n, 1);
    else
        find_moments(p, n, 0);
}

/* If variances are pooled, replaces each channel's value by the mean of all. */
INLINE void pool_variances(const Normalization *p, double *values) {
    double sum = 0;
    if (!p->pooled)
        return;
    for (int64_t c = 0; c < p->channels; c++)
        sum += values[c];
    for (int64_t c = 0; c < p->channels; c++)
        values[c] = sum / p->channels;
}

void normlab_statistics(const Normalization *p, int64_t part) {
    const int64_t channels = p->channels, members = channels / p->groups;
    const float *means = p->sums + part * p->part * channels;
    const float *squares = p->products + part * p->part * channels;
    float *scale = p->scale + part * channels, *shift = p->shift + part * channels;
    double mean[TILE], square[TILE]; /* of channels: summed over the samples */
    memset(mean, 0, channels * sizeof *mean);
    memset(square, 0, channels * sizeof *square);
    if (p->centred)
        for (int64_t n = 0; n < p->part; n++)
            for (int64_t c = 0; c < channels; c++)
                mean[c] += means[n * channels + c];
    for (int64_t first = 0; first < channels; first += members) { /* now the group's mean */
        double sum = 0;
        for (int64_t c = first; c < first + members; c++)
            sum += mean[c];
        for (int64_t c = first; c < first + members; c++)
            mean[c] = sum / (p->part * members);
    }
    for (int64_t n = 0; n < p->part; n++)
        for (int64_t c = 0; c < channels; c++) {
            const double d = means[n * channels + c] - mean[c];
            square[c] += squares[n * channels + c] + d * d * p->pixels;
        }
    const double count = (double)p->part * members * p->pixels;
    pool_variances(p, square);
    for (int64_t g = 0, c = 0; g < p->groups; g++) {
        const int64_t cell = part * p->groups + g;
        double sum = 0;
        for (int64_t i = g * members; i < (g + 1) * members; i++)
            sum += square[i];
        const float centre = mean[c], rstd = 1 / sqrtf(sum / count + p->eps);
        p->mean[cell] = centre;
        p->rstd[cell] = rstd;
        for (; c < (g + 1) * members; c++) {
            scale[c] = p->weight[c] * rstd;
            shift[c] = (p->bias ? p->bias[c] : 0) - centre * scale[c];
        }
        if (p->running_mean) { /* the variance there is the unbiased one */
            const double newest = p->momentum, rest = 1 - newest; /* 1: nothing of it remains */
            p->running_mean[g] = rest * p->running_mean[g] + newest * centre;
            if (!p->pooled || g == 0)
                p->running_variance[g] = rest * p->running_variance[g] + newest * (sum / (count - 1));
        }
    }
}

INLINE void apply(const Normalization *p, int64_t n, int bfloat16, int activation, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const int64_t row = n / p->part * channels;
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? dropout_scale(threshold) : 1;
    const void *x = p->x, *residual = p->residual;
    void *y = p->out;
    float a[TILE], b[TILE];
    fill(a, p->scale + row, channels, length);
    fill(b, p->shift + row, channels, length);
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

/* With g the gradient of x * scale + shift: the sums over a sample of g and of g * (x - mean), for
   each channel, in `sums` and `products`. */
INLINE void sum_gradients(const Normalization *p, int64_t n, int bfloat16, int activation, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const int64_t row = n / p->part * channels;
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? dropout_scale(threshold) : 1;
    const void *x = p->x, *dy = p->dy;
    float a[TILE], b[TILE], m[TILE], sum[TILE], product[TILE];
    fill(a, p->scale + row, channels, length);
    fill(b, p->shift + row, channels, length);
    spread_means(p, n, m);
    fill(m, m, channels, length);
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

/* The gradient of x is rstd * (weight * g - sum(weight * g) / D - (x - mean) * rstd^2 *
   sum(weight * g * (x - mean)) / D), with g as above and D the number of values of a group; where
   variances are pooled, the last sum is the mean of the groups'. That is g * scale + x * factor +
   constant. The latter two for a part. */
void normlab_find_gradient(const Normalization *p, int64_t part) {
    const int64_t channels = p->channels, members = channels / p->groups;
    const float count = (float)(p->part * p->pixels * members);
    double sum[TILE], product[TILE]; /* of channels: summed over the samples */
    memset(sum, 0, channels * sizeof *sum);
    memset(product, 0, channels * sizeof *product);
    for (int64_t n = part * p->part; n < (part + 1) * p->part; n++)
        for (int64_t c = 0; c < channels; c++) {
            sum[c] += p->sums[n * channels + c];
            product[c] += p->products[n * channels + c];
        }
    for (int64_t c = 0; c < channels; c++)
        product[c] *= p->weight[c];
    pool_variances(p, product);
    for (int64_t g = 0; g < p->groups; g++) {
        const int64_t cell = part * p->groups + g, first = g * members;
        const float rstd = p->rstd[cell];
        double of_sums = 0, of_products = 0;
        for (int64_t c = first; c < first + members; c++) {
            of_sums += p->weight[c] * sum[c];
            of_products += product[c];
        }
        const float factor = -(rstd * rstd * rstd) * (float)of_products / count;
        const float rest = p->centred ? rstd * (float)of_sums / count : 0;
        for (int64_t c = part * channels + first; c < part * channels + first + members; c++) {
            p->factor[c] = factor;
            p->constant[c] = -factor * p->mean[cell] - rest;
        }
    }
}

INLINE void apply_gradients(const Normalization *p, int64_t n, int bfloat16, int activation, int drop) {
    const int64_t channels = p->channels, length = tile_length(channels);
    const int64_t row = n / p->part * channels;
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? dropout_scale(threshold) : 1;
    const void *x = p->x, *dy = p->dy;
    void *dx = p->out;
    float a[TILE], b[TILE], r[TILE], s[TILE];
    fill(a, p->scale + row, channels, length);
    fill(b, p->shift + row, channels, length);
    fill(r, p->factor + row, channels, length);
    fill(s, p->constant + row, channels, length);
    const int64_t sample_size = p->pixels * channels, end = (n + 1) * sample_size;
    for (int64_t base = n * sample_size; base < end; base += length) {
        const int64_t size = end - base < length ? end - base : length;
        INDEPENDENT
        for (int64_t j = 0; j < size; j++) {
            float value = load(x, base + j, bfloat16), g = load(dy, base + j, bfloat16);
            if (drop)
                g *= dropout_factor(base + j, seed, threshold, scale);
            g = activate_backward(value * a[j] + b[j], g, activation);
            store(dx, base + j, bfloat16, g * a[j] + value * r[j] + s[j]);
        }
    }
}

void normlab_sum_samples(const Normalization *p) {
    const int64_t channels = p->channels, members = channels / p->groups;
    double sum[TILE], product[TILE];
    memset(sum, 0, channels * sizeof *sum);
    memset(product, 0, channels * sizeof *product);
    for (int64_t n = 0; n < p->samples; n++)
        for (int64_t g = 0, c = 0; g < p->groups; g++) {
            const double rstd = p->rstd[n / p->part * p->groups + g];
            for (; c < (g + 1) * members; c++) {
                sum[c] += p->sums[n * channels + c];
                product[c] += p->products[n * channels + c] * rstd;
            }
        }
    for (int64_t c = 0; c < channels; c++) {
        p->d_weight[c] = product[c];
        if (p->d_bias)
            p->d_bias[c] = sum[c];
    }
}

void normlab_apply_of(const Normalization *p, int64_t n) {
#define APPLY(...) apply(p, n, __VA_ARGS__)
    EACH_KIND(p, APPLY)
}

void normlab_sum_gradients_of(const Normalization *p, int64_t n) {
#define SUM_GRADIENTS(...) sum_gradients(p, n, __VA_ARGS__)
    EACH_KIND(p, SUM_GRADIENTS)
}

void normlab_apply_gradients_of(const Normalization *p, int64_t n) {
#define APPLY_GRADIENTS(...) apply_gradients(p, n, __VA_ARGS__)
    EACH_KIND(p, APPLY_GRADIENTS)
}

EACH(Normalization, each_moments, normlab_moments_of(p, n);)
EACH(Normalization, each_apply, normlab_apply_of(p, n);)
EACH(Normalization, each_forward, normlab_moments_of(p, n); normlab_statistics(p, n); normlab_apply_of(p, n);)
EACH(Normalization, each_sum, normlab_sum_gradients_of(p, n);)
EACH(Normalization, each_gradient, normlab_apply_gradients_of(p, n);)
EACH(Normalization, each_backward,
     normlab_sum_gradients_of(p, n);
     normlab_find_gradient(p, n);
     normlab_apply_gradients_of(p, n);)

void normlab_apply(const Normalization *p) {
    normlab_share(each_apply, p, p->samples, p->threads);
}

void normlab_forward(const Normalization *p) {
    if (p->part == 1 && !p->running_mean) {
        normlab_share(each_forward, p, p->samples, p->threads);
        return;
    }
    normlab_share(each_moments, p, p->samples, p->threads);
    each_part(normlab_statistics, p);
    normlab_share(each_apply, p, p->samples, p->threads);
}

void normlab_backward(const Normalization *p) {
    if (p->part == 1)
        normlab_share(each_backward, p, p->samples, p->threads);
    else {
        normlab_share(each_sum, p, p->samples, p->threads);
        each_part(normlab_find_gradient, p);
        normlab_share(each_gradient, p, p->samples, p->threads);
    }
    normlab_sum_samples(p);
}
