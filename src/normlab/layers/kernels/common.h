/* Shared by the passes: loading and storing values of two types, tiles, and threads.

   Maps are in channels-last memory. A pass goes over a map in tiles. The coefficients of the
   channels are repeated until they fill whole vectors, so that the inner loops run over plain
   arrays, whatever the number of channels. Arithmetic and sums are in float32. */

#ifndef NORMLAB_COMMON_H
#define NORMLAB_COMMON_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Before a loop whose stores change nothing that it loads later. */
#ifdef __clang__
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* A pass over its samples from `first` to before `last`, on the thread of this number; and over all
   of them, by threads.c. */
typedef void Samples(const void *pass, int64_t first, int64_t last, int64_t thread);
void normlab_share(Samples *samples, const void *pass, int64_t count, int32_t threads);

/* A function of the type Samples that does the same with each sample n of a pass p. */
#define EACH(Pass, name, ...)                                                         \
    static void name(const void *pass, int64_t first, int64_t last, int64_t thread) { \
        const Pass *p = pass;                                                         \
        (void)thread;                                                                 \
        for (int64_t n = first; n < last; n++) {                                      \
            __VA_ARGS__                                                               \
        }                                                                             \
    }

enum { TILE = 4096 }; /* values; the caller passes no maps of more channels */

INLINE float widen(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* Rounds to nearest, ties to even. NaN stays NaN. */
INLINE uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
    return value != value ? nan : rounded;
}

INLINE float load(const void *x, int64_t i, int bfloat16) {
    return bfloat16 ? widen(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

INLINE void store(void *y, int64_t i, int bfloat16, float value) {
    if (bfloat16)
        ((uint16_t *)y)[i] = narrow(value);
    else
        ((float *)y)[i] = value;
}

INLINE int64_t tile_length(int64_t channels) {
    int64_t pixels = 1;
    while ((channels * pixels % 32 || channels * pixels < 256) && channels * pixels * 2 <= TILE)
        pixels *= 2;
    return channels * pixels;
}

/* Repeats a row: the tile has a power of two of them. */
INLINE void fill(float *tile, const float *row, int64_t channels, int64_t length) {
    memmove(tile, row, channels * sizeof *row);
    for (int64_t filled = channels; filled < length; filled *= 2)
        memcpy(tile + filled, tile, filled * sizeof *tile);
}

/* Sums the columns of a tile that belong to the same channel, half on half. */
INLINE void fold(float *row, float *tile, int64_t channels, int64_t length) {
    for (int64_t half = length / 2; half >= channels; half /= 2)
        for (int64_t j = 0; j < half; j++)
            tile[j] += tile[half + j];
    memcpy(row, tile, channels * sizeof *row);
}

#endif
