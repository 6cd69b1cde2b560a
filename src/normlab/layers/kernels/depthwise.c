/* Depthwise 3 × 3 convolution with stride 1 and a border of zeros, for channels-last memory.

   A thread goes along the rows of a sample with some channels, one vector, at a time. It keeps the
   nine weights and the 3 × 3 values around the current pixel in registers: a step to the right
   loads three values. Where the channels are no multiple of a vector, the last ones overlap the
   ones before.

       forward   y = sum over (i, j) of w[i][j] * x at row + i - 1, column + j - 1
       backward  the gradients of x and w, from the same values around each pixel of dy:
                 dx = sum over (i, j) of w[2 - i][2 - j] * dy there, and
                 dw[2 - i][2 - j] = sum over the pixels of x * dy there */

#include "depthwise.h"
#include "vectors.h"

#define GET(lanes, v, x, i)                                       \
    if (up) v[0] = get##lanes(x, (i) - row, bfloat16);            \
    v[1] = get##lanes(x, i, bfloat16);                            \
    if (two) v[2] = get##lanes(x, (i) + row, bfloat16);           \
    if (three) v[3] = get##lanes(x, (i) + 2 * row, bfloat16);

/* The rows that backward goes along with the same channels: enough pixels to keep nine sums in
   registers for, few enough that the other channels' pixels stay in the cache. */
INLINE int64_t strip(const Depthwise *p) {
    return (63 + p->width) / p->width;
}

/* Some rows of one sample, from row h, and the channels from c to before c + lanes. Forward: two
   rows, if there are two. Backward: a strip; `sums` has the sums of its vector so far. */
#define PASSES(lanes)                                                                      \
    INLINE void forward##lanes(const Depthwise *p, int64_t n, int64_t h, int64_t c,        \
                               int bfloat16) {                                             \
        typedef float##lanes vec;                                                          \
        const int64_t channels = p->channels, row = p->width * channels;                   \
        const int64_t start = (n * p->height + h) * row + c, end = start + row;            \
        const int up = h > 0, two = h < p->height - 1, three = h < p->height - 2;          \
        vec w[9], left[4] = {{0}}, here[4] = {{0}}, right[4] = {{0}};                      \
        for (int k = 0; k < 9; k++)                                                        \
            w[k] = get##lanes(p->weight, k * channels + c, 0);                             \
        GET(lanes, here, p->x, start)                                                      \
        for (int64_t i = start; i < end; i += channels) {                                  \
            if (i + channels < end) {                                                      \
                GET(lanes, right, p->x, i + channels)                                      \
            } else                                                                         \
                right[0] = right[1] = right[2] = right[3] = (vec){0};                      \
            vec y = (vec){0}, z = (vec){0};                                                \
            for (int k = 0; k < 3; k++) {                                                  \
                y += left[k] * w[3 * k] + here[k] * w[3 * k + 1] + right[k] * w[3 * k + 2]; \
                z += left[k + 1] * w[3 * k] + here[k + 1] * w[3 * k + 1]                   \
                    + right[k + 1] * w[3 * k + 2];                                         \
            }                                                                              \
            put##lanes(p->out, i, bfloat16, y);                                            \
            if (two)                                                                       \
                put##lanes(p->out, i + row, bfloat16, z);                                  \
            for (int k = 0; k < 4; k++)                                                    \
                left[k] = here[k], here[k] = right[k];                                     \
        }                                                                                  \
    }                                                                                      \
    INLINE void backward##lanes(const Depthwise *p, int64_t n, int64_t h, int64_t c,       \
                                int bfloat16, float *sums) {                               \
        typedef float##lanes vec;                                                          \
        const int64_t channels = p->channels, row = p->width * channels;                   \
        const int64_t last = h + strip(p) < p->height ? h + strip(p) : p->height;          \
        vec w[9], dw[9];                                                                   \
        for (int k = 0; k < 9; k++) {                                                      \
            w[k] = get##lanes(p->weight, (8 - k) * channels + c, 0);                       \
            dw[k] = get##lanes(sums, k * lanes, 0);                                        \
        }                                                                                  \
        for (; h < last; h++) {                                                            \
            const int64_t start = (n * p->height + h) * row + c, end = start + row;        \
            const int up = h > 0, two = h < p->height - 1, three = 0;                      \
            vec left[4] = {{0}}, here[4] = {{0}}, right[4] = {{0}};                        \
            GET(lanes, here, p->dy, start)                                                 \
            for (int64_t i = start; i < end; i += channels) {                              \
                if (i + channels < end) {                                                  \
                    GET(lanes, right, p->dy, i + channels)                                 \
                } else                                                                     \
                    right[0] = right[1] = right[2] = (vec){0};                             \
                const vec x = get##lanes(p->x, i, bfloat16);                               \
                vec dx = (vec){0};                                                         \
                for (int k = 0; k < 3; k++) {                                              \
                    dx += left[k] * w[3 * k] + here[k] * w[3 * k + 1]                      \
                        + right[k] * w[3 * k + 2];                                         \
                    dw[3 * k] += x * left[k];                                              \
                    dw[3 * k + 1] += x * here[k];                                          \
                    dw[3 * k + 2] += x * right[k];                                         \
                }                                                                          \
                put##lanes(p->out, i, bfloat16, dx);                                       \
                for (int k = 0; k < 3; k++)                                                \
                    left[k] = here[k], here[k] = right[k];                                 \
            }                                                                              \
        }                                                                                  \
        for (int k = 0; k < 9; k++)                                                        \
            put##lanes(sums, k * lanes, 0, dw[k]);                                         \
    }

PASSES(8)
#ifdef __AVX512F__
PASSES(16)
#endif

INLINE int64_t size_of_sums(const Depthwise *p) {
    return 9 * lanes_of(p->channels) * vectors_of(p->channels);
}

/* The vectors of the channels, each with its first channel. */
#define EACH_VECTOR(c)                                                                     \
    for (int64_t block = 0, c = 0; block < vectors_of(p->channels) &&                      \
         (c = start_of(block, lanes, p->channels), 1); block++)

void normlab_depthwise_of(const Depthwise *p, int64_t n) {
    const int64_t lanes = lanes_of(p->channels);
    for (int64_t h = 0; h < p->height; h += 2)
        EACH_VECTOR(c)
            switch (p->bfloat16 << 1 | (lanes == WIDEST)) {
            case 0: forward8(p, n, h, c, 0); break;
            case 1: WIDE(forward)(p, n, h, c, 0); break;
            case 2: forward8(p, n, h, c, 1); break;
            default: WIDE(forward)(p, n, h, c, 1);
            }
}

void normlab_depthwise_gradients_of(const Depthwise *p, int64_t n, int64_t thread) {
    const int64_t lanes = lanes_of(p->channels), size = size_of_sums(p);
    float *all = p->sums + 2 * thread * size, *sums = all + size;
    memset(sums, 0, size * sizeof *sums);
    for (int64_t h = 0; h < p->height; h += strip(p))
        EACH_VECTOR(c) {
            float *own = sums + 9 * block * lanes;
            switch (p->bfloat16 << 1 | (lanes == WIDEST)) {
            case 0: backward8(p, n, h, c, 0, own); break;
            case 1: WIDE(backward)(p, n, h, c, 0, own); break;
            case 2: backward8(p, n, h, c, 1, own); break;
            default: WIDE(backward)(p, n, h, c, 1, own);
            }
        }
    for (int64_t j = 0; j < size; j++)
        all[j] += sums[j];
}

void normlab_depthwise_begin(const Depthwise *p) {
    memset(p->sums, 0, 2 * p->threads * size_of_sums(p) * sizeof *p->sums);
}

void normlab_depthwise_end(const Depthwise *p) {
    const int64_t lanes = lanes_of(p->channels), size = size_of_sums(p);
    for (int64_t thread = 1; thread < p->threads; thread++)
        for (int64_t j = 0; j < size; j++)
            p->sums[j] += p->sums[2 * thread * size + j];
    EACH_VECTOR(c)
        for (int64_t k = 0; k < 9; k++)
            memcpy(p->d_weight + (8 - k) * p->channels + c, p->sums + (9 * block + k) * lanes,
                   lanes * sizeof *p->sums);
}

EACH(Depthwise, each_forward, normlab_depthwise_of(p, n);)
EACH(Depthwise, each_backward, normlab_depthwise_gradients_of(p, n, thread);)

void normlab_depthwise_forward(const Depthwise *p) {
    normlab_share(each_forward, p, p->samples, p->threads);
}

void normlab_depthwise_backward(const Depthwise *p) {
    normlab_depthwise_begin(p);
    normlab_share(each_backward, p, p->samples, p->threads);
    normlab_depthwise_end(p);
}
