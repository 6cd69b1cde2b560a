/* A normalization with its activation and dropout, then a 1 × 1 convolution, for channels-last
   memory: y = h · filters for each pixel, where h = dropout(f(x * scale + shift)) has C channels
   and y has K.

   A thread goes over a sample in strips of pixels. It computes h of a strip, which stays in the
   cache, and multiplies it: h as a whole is never in memory, and backward computes it again.

   Products are taken for some pixels and vectors of channels at a time, with sums in registers.
   Where the channels are no multiple of a vector, the last vector overlaps the one before. Products
   of bfloat16 are those of rounded values, added in float32. */

#include "pointwise.h"
#include "vectors.h"

enum { STRIP = 64 }; /* pixels: a multiple of ROWS, and of the pixels of a tile of 8 channels */
#ifdef __AVX512F__
enum { ROWS = 8 }; /* pixels or channels whose sums, of two vectors each, are in registers */
#else
enum { ROWS = 4 };
#endif

/* The coefficients of a sample's channels, repeated as a tile. */
struct coefficients {
    int64_t length;
    float scale[TILE], shift[TILE], mean[TILE], factor[TILE], constant[TILE];
};

/* --- Products --- */

/* y of ROWS pixels and `count` vectors of channels, from a of `inner` channels. The pixels from
   `rows` on are computed, but not stored. */
#define PRODUCT(lanes, count)                                                              \
    INLINE void multiply##lanes##x##count(const float *a, int64_t inner, const float *filters, \
                                          int64_t outputs, int64_t vector, void *y,        \
                                          int64_t start, int64_t rows, int bfloat16) {     \
        float##lanes sums[ROWS][count];                                                    \
        int64_t c[count];                                                                  \
        for (int v = 0; v < count; v++)                                                    \
            c[v] = start_of(vector + v, lanes, outputs);                                   \
        for (int i = 0; i < ROWS; i++)                                                     \
            for (int v = 0; v < count; v++)                                                \
                sums[i][v] = (float##lanes){0};                                            \
        for (int64_t k = 0; k < inner; k++) {                                              \
            float##lanes weights[count];                                                   \
            for (int v = 0; v < count; v++)                                                \
                weights[v] = get##lanes(filters, k * outputs + c[v], 0);                   \
            for (int i = 0; i < ROWS; i++)                                                 \
                for (int v = 0; v < count; v++)                                            \
                    sums[i][v] += a[i * inner + k] * weights[v];                           \
        }                                                                                  \
        for (int i = 0; i < ROWS; i++)                                                     \
            for (int v = 0; v < count; v++)                                                \
                if (i < rows)                                                              \
                    put##lanes(y, start + i * outputs + c[v], bfloat16, sums[i][v]);       \
    }

/* Adds a' · dy to `sums`, for ROWS channels of a from k on and `count` vectors of dy. */
#define OUTER(lanes, count)                                                                \
    INLINE void outer##lanes##x##count(const float *a, int64_t inner, int64_t k,           \
                                       const float *dy, int64_t outputs, int64_t vector,   \
                                       int64_t rows, float *sums) {                        \
        float##lanes products[ROWS][count];                                                \
        int64_t c[count];                                                                  \
        for (int v = 0; v < count; v++)                                                    \
            c[v] = start_of(vector + v, lanes, outputs);                                   \
        for (int v = 0; v < count; v++)                                                    \
            for (int i = 0; i < ROWS; i++)                                                 \
                products[i][v] = get##lanes(sums, (v * ROWS + i) * lanes, 0);              \
        for (int64_t row = 0; row < rows; row++) {                                         \
            float##lanes values[count];                                                    \
            for (int v = 0; v < count; v++)                                                \
                values[v] = get##lanes(dy, row * outputs + c[v], 0);                       \
            for (int i = 0; i < ROWS; i++)                                                 \
                for (int v = 0; v < count; v++)                                            \
                    products[i][v] += a[row * inner + k + i] * values[v];                  \
        }                                                                                  \
        for (int v = 0; v < count; v++)                                                    \
            for (int i = 0; i < ROWS; i++)                                                 \
                put##lanes(sums, (v * ROWS + i) * lanes, 0, products[i][v]);               \
    }

/* The same for a strip. */
#define STRIPS(lanes)                                                                      \
    PRODUCT(lanes, 1)                                                                      \
    PRODUCT(lanes, 2)                                                                      \
    OUTER(lanes, 1)                                                                        \
    OUTER(lanes, 2)                                                                        \
    INLINE void multiply##lanes(const float *a, int64_t inner, const float *filters,       \
                                int64_t outputs, void *y, int64_t start, int64_t rows,     \
                                int bfloat16) {                                            \
        const int64_t vectors = vectors_of(outputs);                                       \
        for (int64_t i = 0; i < rows; i += ROWS, a += ROWS * inner, start += ROWS * outputs) { \
            int64_t v = 0;                                                                 \
            for (; v + 2 <= vectors; v += 2)                                               \
                multiply##lanes##x2(a, inner, filters, outputs, v, y, start, rows - i, bfloat16); \
            if (v < vectors)                                                               \
                multiply##lanes##x1(a, inner, filters, outputs, v, y, start, rows - i, bfloat16); \
        }                                                                                  \
    }                                                                                      \
    static void outer##lanes(const float *a, int64_t inner, const float *dy, int64_t outputs, \
                             int64_t rows, float *sums) {                                  \
        const int64_t vectors = vectors_of(outputs), size = ROWS * lanes;                  \
        for (int64_t b = 0; b * ROWS < inner; b++) {                                       \
            const int64_t k = start_of(b, ROWS, inner);                                    \
            int64_t v = 0;                                                                 \
            for (; v + 2 <= vectors; v += 2, sums += 2 * size)                             \
                outer##lanes##x2(a, inner, k, dy, outputs, v, rows, sums);                 \
            if (v < vectors) {                                                             \
                outer##lanes##x1(a, inner, k, dy, outputs, v, rows, sums);                 \
                sums += size;                                                              \
            }                                                                              \
        }                                                                                  \
    }

STRIPS(8)
#ifdef __AVX512F__
STRIPS(16)
#endif

static void multiply(const float *a, int64_t inner, const float *filters, int64_t outputs, void *y,
                     int64_t start, int64_t rows, int bfloat16) {
    switch (bfloat16 << 1 | (lanes_of(outputs) == WIDEST)) {
    case 0: multiply8(a, inner, filters, outputs, y, start, rows, 0); break;
    case 1: WIDE(multiply)(a, inner, filters, outputs, y, start, rows, 0); break;
    case 2: multiply8(a, inner, filters, outputs, y, start, rows, 1); break;
    default: WIDE(multiply)(a, inner, filters, outputs, y, start, rows, 1);
    }
}

static void outer(const float *a, int64_t inner, const float *dy, int64_t outputs, int64_t rows,
                  float *sums) {
    if (lanes_of(outputs) == WIDEST)
        WIDE(outer)(a, inner, dy, outputs, rows, sums);
    else
        outer8(a, inner, dy, outputs, rows, sums);
}

/* The sums of `outer`, of all its channels. */
INLINE int64_t size_of_sums(const Pointwise *p) {
    const int64_t blocks = (p->norm.channels + ROWS - 1) / ROWS;
    return blocks * vectors_of(p->outputs) * ROWS * lanes_of(p->outputs);
}

INLINE int64_t size_of_room(const Pointwise *p) {
    return STRIP * (2 * p->norm.channels + p->outputs) + 2 * size_of_sums(p);
}

/* --- Strips --- */

/* h of some values from the index `start` on, for the products: of bfloat16 it is rounded. */
INLINE void activate_strip(const Normalization *p, const struct coefficients *of, int64_t start,
                           int64_t size, float *h, int bfloat16, int activation, int drop) {
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? dropout_scale(threshold) : 1;
    const void *x = p->x;
    for (int64_t base = 0; base < size; base += of->length) {
        const int64_t count = size - base < of->length ? size - base : of->length;
        INDEPENDENT
        for (int64_t j = 0; j < count; j++) {
            const int64_t i = start + base + j;
            float z = activate(load(x, i, bfloat16) * of->scale[j] + of->shift[j], activation);
            if (drop)
                z *= dropout_factor(i, seed, threshold, scale);
            h[base + j] = bfloat16 ? widen(narrow(z)) : z;
        }
    }
}

/* From dh, the gradient of h: g, the gradient of x * scale + shift, into `out`. Adds g and
   g * (x - mean) to the tiles `sum` and `product`. */
INLINE void sum_strip(const Normalization *p, const struct coefficients *of, int64_t start, int64_t size,
                      const float *dh, float *sum, float *product, int bfloat16, int activation,
                      int drop) {
    const uint32_t threshold = p->threshold, seed = p->seed;
    const float scale = drop ? dropout_scale(threshold) : 1;
    const void *x = p->x;
    void *out = p->out;
    for (int64_t base = 0; base < size; base += of->length) {
        const int64_t count = size - base < of->length ? size - base : of->length;
        INDEPENDENT
        for (int64_t j = 0; j < count; j++) {
            const int64_t i = start + base + j;
            const float value = load(x, i, bfloat16);
            float g = dh[base + j];
            if (drop)
                g *= dropout_factor(i, seed, threshold, scale);
            g = activate_backward(value * of->scale[j] + of->shift[j], g, activation);
            sum[j] += g;
            product[j] += g * (value - of->mean[j]);
            store(out, i, bfloat16, g);
        }
    }
}

static void activate_some(const Normalization *p, const struct coefficients *of, int64_t start,
                          int64_t size, float *h) {
#define ACTIVATE(...) activate_strip(p, of, start, size, h, __VA_ARGS__)
    EACH_KIND(p, ACTIVATE)
}

static void sum_some(const Normalization *p, const struct coefficients *of, int64_t start, int64_t size,
                     const float *dh, float *sum, float *product) {
#define SUM(...) sum_strip(p, of, start, size, dh, sum, product, __VA_ARGS__)
    EACH_KIND(p, SUM)
}

INLINE void load_strip(const Normalization *p, int64_t start, int64_t size, float *dy, int bfloat16) {
    const void *from = p->dy;
    INDEPENDENT
    for (int64_t j = 0; j < size; j++)
        dy[j] = load(from, start + j, bfloat16);
}

/* Products are taken of ROWS pixels: those after the last one are 0. */
INLINE void clear_tail(float *strip, int64_t rows, int64_t width) {
    memset(strip + rows * width, 0, (ROWS - 1 - (rows - 1) % ROWS) * width * sizeof *strip);
}

/* --- Samples --- */

static void find_coefficients(const Normalization *p, int64_t n, struct coefficients *of) {
    const int64_t channels = p->channels, row = n / p->part * channels;
    of->length = tile_length(channels);
    fill(of->scale, p->scale + row, channels, of->length);
    fill(of->shift, p->shift + row, channels, of->length);
}

void normlab_product_of(const Pointwise *p, int64_t n, int64_t thread) {
    const Normalization *norm = &p->norm;
    const int64_t channels = norm->channels;
    float *h = p->room + thread * size_of_room(p);
    struct coefficients of;
    find_coefficients(norm, n, &of);
    for (int64_t first = 0; first < norm->pixels; first += STRIP) {
        const int64_t rows = norm->pixels - first < STRIP ? norm->pixels - first : STRIP;
        const int64_t pixel = n * norm->pixels + first;
        activate_some(norm, &of, pixel * channels, rows * channels, h);
        clear_tail(h, rows, channels);
        multiply(h, channels, p->filters, p->outputs, norm->out, pixel * p->outputs, rows,
                 norm->bfloat16);
    }
}

void normlab_product_gradients_of(const Pointwise *p, int64_t n, int64_t thread) {
    const Normalization *norm = &p->norm;
    const int64_t channels = norm->channels, outputs = p->outputs, size = size_of_sums(p);
    float *all = p->room + thread * size_of_room(p), *of_sample = all + size;
    float *h = of_sample + size, *dh = h + STRIP * channels, *dy = dh + STRIP * channels;
    float sum[TILE], product[TILE];
    struct coefficients of;
    find_coefficients(norm, n, &of);
    spread_means(norm, n, of.mean);
    fill(of.mean, of.mean, channels, of.length);
    memset(sum, 0, of.length * sizeof *sum);
    memset(product, 0, of.length * sizeof *product);
    memset(of_sample, 0, size * sizeof *of_sample);
    for (int64_t first = 0; first < norm->pixels; first += STRIP) {
        const int64_t rows = norm->pixels - first < STRIP ? norm->pixels - first : STRIP;
        const int64_t pixel = n * norm->pixels + first;
        activate_some(norm, &of, pixel * channels, rows * channels, h);
        if (norm->bfloat16)
            load_strip(norm, pixel * outputs, rows * outputs, dy, 1);
        else
            load_strip(norm, pixel * outputs, rows * outputs, dy, 0);
        if (p->d_filters)
            outer(h, channels, dy, outputs, rows, of_sample);
        clear_tail(dy, rows, outputs);
        multiply(dy, outputs, p->filters, channels, dh, 0, rows, 0);
        sum_some(norm, &of, pixel * channels, rows * channels, dh, sum, product);
    }
    fold(norm->sums + n * channels, sum, channels, of.length);
    fold(norm->products + n * channels, product, channels, of.length);
    for (int64_t j = 0; j < size; j++)
        all[j] += of_sample[j];
}

INLINE void finish_gradients(const Normalization *p, int64_t n, int bfloat16) {
    const int64_t channels = p->channels, row = n / p->part * channels;
    const int64_t size = p->pixels * channels, end = (n + 1) * size;
    const void *x = p->x;
    void *out = p->out;
    struct coefficients of;
    find_coefficients(p, n, &of);
    fill(of.factor, p->factor + row, channels, of.length);
    fill(of.constant, p->constant + row, channels, of.length);
    for (int64_t base = n * size; base < end; base += of.length) {
        const int64_t count = end - base < of.length ? end - base : of.length;
        INDEPENDENT
        for (int64_t j = 0; j < count; j++) {
            const float g = load(out, base + j, bfloat16), value = load(x, base + j, bfloat16);
            store(out, base + j, bfloat16, g * of.scale[j] + value * of.factor[j] + of.constant[j]);
        }
    }
}

void normlab_finish_gradients_of(const Pointwise *p, int64_t n) {
    if (p->norm.bfloat16)
        finish_gradients(&p->norm, n, 1);
    else
        finish_gradients(&p->norm, n, 0);
}

void normlab_pointwise_begin(const Pointwise *p) {
    for (int64_t thread = 0; thread < p->norm.threads; thread++)
        memset(p->room + thread * size_of_room(p), 0, size_of_sums(p) * sizeof *p->room);
}

void normlab_pointwise_end(const Pointwise *p) {
    const int64_t channels = p->norm.channels, outputs = p->outputs;
    if (!p->d_filters)
        return;
    const int64_t size = size_of_sums(p), lanes = lanes_of(outputs);
    for (int64_t thread = 1; thread < p->norm.threads; thread++)
        for (int64_t j = 0; j < size; j++)
            p->room[j] += p->room[thread * size_of_room(p) + j];
    const float *from = p->room;
    for (int64_t b = 0; b * ROWS < channels; b++)
        for (int64_t v = 0; v < vectors_of(outputs); v++)
            for (int64_t i = 0; i < ROWS; i++, from += lanes)
                memcpy(p->d_filters + (start_of(b, ROWS, channels) + i) * outputs
                           + start_of(v, lanes, outputs),
                       from, lanes * sizeof *from);
}
