/* 2 x 2 max pooling with stride 2, for maps in channels-last memory: N samples of H x W pixels of C
   channels, float32 or bfloat16. An odd last row or column is ignored.

       forward   y = the largest of the four values; NaN counts as larger than any number
       backward  dx: dy goes to the first of the four values that equals y

   The channels of a pixel are processed in blocks of one vector's length. The last block ends at
   the last channel, so it may process some channels a second time. */

#include "common.h"

typedef struct {
    const void *x, *y, *dy;
    void *out;
    int64_t samples, height, width, channels;
    int32_t bfloat16, threads;
} Pool;

INLINE float larger(float a, float b) {
    float most = a > b ? a : b;
    return a != a ? a : most;
}

/* Stores a value that came from a map of the same type: nothing is rounded. */
INLINE void put(void *y, int64_t i, int bfloat16, float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (bfloat16)
        ((uint16_t *)y)[i] = bits >> 16;
    else
        ((float *)y)[i] = value;
}

INLINE void forward(const Pool *p, int64_t n, int bfloat16, int64_t block) {
    const int64_t c = p->channels, row = p->width * c;
    const void *x = p->x;
    void *y = p->out;
    int64_t output = n * (p->height / 2) * (p->width / 2) * c;
    for (int64_t h = 0; h < p->height / 2; h++)
        for (int64_t w = 0; w < p->width / 2; w++, output += c)
            for (int64_t start = 0; start < c; start += block) {
                const int64_t first = start < c - block ? start : c - block, o = output + first,
                              i = (n * p->height + 2 * h) * row + 2 * w * c + first;
                INDEPENDENT
                for (int64_t j = 0; j < block; j++) {
                    float top = larger(load(x, i + j, bfloat16), load(x, i + c + j, bfloat16));
                    float low = larger(load(x, i + row + j, bfloat16), load(x, i + row + c + j, bfloat16));
                    put(y, o + j, bfloat16, larger(top, low));
                }
            }
}

INLINE void backward(const Pool *p, int64_t n, int bfloat16, int64_t block) {
    const int64_t c = p->channels, row = p->width * c;
    const void *x = p->x, *y = p->y, *dy = p->dy;
    void *dx = p->out;
    int64_t output = n * (p->height / 2) * (p->width / 2) * c;
    for (int64_t h = 0; h < p->height / 2; h++)
        for (int64_t w = 0; w < p->width / 2; w++, output += c)
            for (int64_t start = 0; start < c; start += block) {
                const int64_t first = start < c - block ? start : c - block, o = output + first,
                              i = (n * p->height + 2 * h) * row + 2 * w * c + first;
                INDEPENDENT
                for (int64_t j = 0; j < block; j++) {
                    const float most = load(y, o + j, bfloat16), g = load(dy, o + j, bfloat16);
                    float rest = g; /* what no earlier value has taken */
                    const float a = load(x, i + j, bfloat16) == most ? rest : 0;
                    rest = load(x, i + j, bfloat16) == most ? 0 : rest;
                    const float b = load(x, i + c + j, bfloat16) == most ? rest : 0;
                    rest = load(x, i + c + j, bfloat16) == most ? 0 : rest;
                    const float d = load(x, i + row + j, bfloat16) == most ? rest : 0;
                    rest = load(x, i + row + j, bfloat16) == most ? 0 : rest;
                    put(dx, i + j, bfloat16, a);
                    put(dx, i + c + j, bfloat16, b);
                    put(dx, i + row + j, bfloat16, d);
                    put(dx, i + row + c + j, bfloat16, rest);
                }
            }
}

#define DEFINE(pass)                                        \
    static void pass##_samples(const void *arguments, int64_t first, int64_t last, \
                               int64_t thread) {            \
        const Pool *p = arguments;                          \
        (void)thread;                                       \
        for (int64_t n = first; n < last; n++)              \
            switch (p->bfloat16 << 2 | (p->channels >= 16) << 1 | (p->channels >= 8)) { \
            case 0: pass(p, n, 0, 1); break;                \
            case 1: pass(p, n, 0, 8); break;                \
            case 3: pass(p, n, 0, 16); break;               \
            case 4: pass(p, n, 1, 1); break;                \
            case 5: pass(p, n, 1, 8); break;                \
            default: pass(p, n, 1, 16);                     \
            }                                               \
    }                                                       \
    void normlab_pool_##pass(const Pool *p) {               \
        normlab_share(pass##_samples, p, p->samples, p->threads); \
    }

DEFINE(forward)
DEFINE(backward)
