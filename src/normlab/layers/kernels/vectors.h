/* Vectors of channels. */

#ifndef NORMLAB_VECTORS_H
#define NORMLAB_VECTORS_H

#include "common.h"

/* Vectors of so many float32. Rounded to bfloat16, a NaN stays one if its lower half is 0, as that
   of every NaN that arithmetic makes. */
#define VECTOR(lanes)                                                                      \
    typedef float float##lanes __attribute__((vector_size(4 * lanes)));                    \
    typedef uint32_t bits##lanes __attribute__((vector_size(4 * lanes)));                  \
    typedef uint16_t half##lanes __attribute__((vector_size(2 * lanes)));                  \
    INLINE float##lanes get##lanes(const void *x, int64_t i, int bfloat16) {               \
        float##lanes value;                                                                \
        if (bfloat16) {                                                                    \
            half##lanes half;                                                              \
            memcpy(&half, (const uint16_t *)x + i, sizeof half);                           \
            const bits##lanes wide = __builtin_convertvector(half, bits##lanes) << 16;     \
            memcpy(&value, &wide, sizeof value);                                           \
        } else                                                                             \
            memcpy(&value, (const float *)x + i, sizeof value);                            \
        return value;                                                                      \
    }                                                                                      \
    INLINE void put##lanes(void *y, int64_t i, int bfloat16, float##lanes value) {         \
        if (bfloat16) {                                                                    \
            bits##lanes bits;                                                              \
            memcpy(&bits, &value, sizeof bits);                                            \
            const half##lanes half =                                                       \
                __builtin_convertvector((bits + 0x7fff + (bits >> 16 & 1)) >> 16, half##lanes); \
            memcpy((uint16_t *)y + i, &half, sizeof half);                                 \
        } else                                                                             \
            memcpy((float *)y + i, &value, sizeof value);                                  \
    }

VECTOR(8)
#ifdef __AVX512F__
VECTOR(16)
#define WIDE(pass) pass##16
enum { WIDEST = 16 };
#else /* there are too few registers, or they are too narrow, for vectors of 16 */
#define WIDE(pass) pass##8
enum { WIDEST = 8 };
#endif

INLINE int64_t lanes_of(int64_t channels) {
    return channels < WIDEST ? 8 : WIDEST;
}

INLINE int64_t vectors_of(int64_t channels) {
    return (channels + lanes_of(channels) - 1) / lanes_of(channels);
}

/* The first of some channels that are taken at once: the last ones overlap those before. */
INLINE int64_t start_of(int64_t number, int64_t size, int64_t channels) {
    return (number + 1) * size < channels ? number * size : channels - size;
}

#endif
