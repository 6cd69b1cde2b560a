/* 2 x 2 max pooling with stride 2, for maps in channels-last memory: N samples of H x W pixels of C
   channels, float32 or bfloat16. An odd last row or column is ignored.

       forward   y = the largest of the four values; NaN counts as larger than any number
       backward  dx: dy goes to the first of the four values that equals y

   The channels of a pixel are processed as vectors. The last one ends at the last channel, so it may
   process some channels a second time. */

#include "vectors.h"

VECTOR(1)
VECTOR(4)

typedef struct {
    const void *x, *y, *dy;
    void *out;
    int64_t samples, height, width, channels;
    int32_t bfloat16, threads;
} Pool;

#define FOR_EACH_VECTOR(lanes)                                                             \
    const int64_t c = p->channels, row = p->width * c;                                     \
    int64_t o = n * (p->height / 2) * (p->width / 2) * c;                                  \
    for (int64_t h = 0; h < p->height / 2; h++)                                            \
        for (int64_t w = 0; w < p->width / 2; w++, o += c)                                 \
            for (int64_t v = 0; v * lanes < c; v++)

#define POOL(lanes)                                                                        \
    INLINE float##lanes either##lanes(bits##lanes mask, float##lanes a, float##lanes b) {  \
        return (float##lanes)((mask & (bits##lanes)a) | (~mask & (bits##lanes)b));         \
    }                                                                                      \
    INLINE float##lanes larger##lanes(float##lanes a, float##lanes b) {                    \
        return either##lanes((bits##lanes)((a > b) | (a != a)), a, b);                     \
    }                                                                                      \
    /* Stores values that came from a map of the same type: nothing is rounded. */         \
    INLINE void copy##lanes(void *y, int64_t i, int bfloat16, float##lanes value) {        \
        const half##lanes half = __builtin_convertvector((bits##lanes)value >> 16, half##lanes); \
        if (bfloat16)                                                                      \
            memcpy((uint16_t *)y + i, &half, sizeof half);                                 \
        else                                                                               \
            put##lanes(y, i, 0, value);                                                    \
    }                                                                                      \
    INLINE void forward##lanes(const Pool *p, int64_t n, int bfloat16) {                   \
        FOR_EACH_VECTOR(lanes) {                                                           \
            const int64_t first = start_of(v, lanes, c);                                   \
            const int64_t i = (n * p->height + 2 * h) * row + 2 * w * c + first;           \
            const float##lanes top = larger##lanes(get##lanes(p->x, i, bfloat16),          \
                                                   get##lanes(p->x, i + c, bfloat16)),     \
                               low = larger##lanes(get##lanes(p->x, i + row, bfloat16),    \
                                                   get##lanes(p->x, i + row + c, bfloat16)); \
            copy##lanes(p->out, o + first, bfloat16, larger##lanes(top, low));             \
        }                                                                                  \
    }                                                                                      \
    INLINE void backward##lanes(const Pool *p, int64_t n, int bfloat16) {                  \
        FOR_EACH_VECTOR(lanes) {                                                           \
            const int64_t first = start_of(v, lanes, c);                                   \
            const int64_t i = (n * p->height + 2 * h) * row + 2 * w * c + first;           \
            const int64_t places[] = {i, i + c, i + row};                                  \
            const float##lanes most = get##lanes(p->y, o + first, bfloat16), zero = {0};   \
            float##lanes rest = get##lanes(p->dy, o + first, bfloat16); /* not taken yet */ \
            for (int k = 0; k < 3; k++) {                                                  \
                const bits##lanes equal =                                                  \
                    (bits##lanes)(get##lanes(p->x, places[k], bfloat16) == most);          \
                copy##lanes(p->out, places[k], bfloat16, either##lanes(equal, rest, zero)); \
                rest = either##lanes(equal, zero, rest);                                   \
            }                                                                              \
            copy##lanes(p->out, i + row + c, bfloat16, rest);                              \
        }                                                                                  \
    }

POOL(1)
POOL(4)
POOL(8)
#ifdef __AVX512F__
POOL(16)
#endif

/* Which vectors fit the channels: 0 to 3 for 1, 4, 8 and the most lanes. */
INLINE int vectors(const Pool *p) {
    return (p->channels >= 4) + (p->channels >= 8) + (p->channels >= WIDEST);
}

#define DEFINE(pass)                                                                       \
    EACH(Pool, pass##_samples,                                                             \
         switch (p->bfloat16 << 2 | vectors(p)) {                                          \
         case 0: pass##1(p, n, 0); break;                                                  \
         case 1: pass##4(p, n, 0); break;                                                  \
         case 2: pass##8(p, n, 0); break;                                                  \
         case 3: WIDE(pass)(p, n, 0); break;                                               \
         case 4: pass##1(p, n, 1); break;                                                  \
         case 5: pass##4(p, n, 1); break;                                                  \
         case 6: pass##8(p, n, 1); break;                                                  \
         default: WIDE(pass)(p, n, 1);                                                     \
         })                                                                                \
    void normlab_pool_##pass(const Pool *p) {                                              \
        normlab_share(pass##_samples, p, p->samples, p->threads);                          \
    }

DEFINE(forward)
DEFINE(backward)
