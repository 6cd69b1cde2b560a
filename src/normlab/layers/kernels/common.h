/* What the passes share: values of two kinds, and tiles.

   Maps lie channels last. A pass goes over them in tiles: coefficients that belong to channels are
   repeated until they fill whole vectors, so that its loops run over plain arrays, whatever the
   number of channels is. Arithmetic and sums are float32. */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum { TILE = 4096 }; /* values; the caller refuses more channels */

INLINE float widen(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

/* To the nearest, ties to even; a NaN stays one. */
INLINE uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, nan = bits >> 16 | 0x40;
    return value != value ? nan : rounded;
}

INLINE float load(const void *x, int64_t i, int half) {
    return half ? widen(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

INLINE void store(void *y, int64_t i, int half, float value) {
    if (half)
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

INLINE void fill(float *tile, const float *row, int64_t channels, int64_t length) {
    for (int64_t start = 0; start < length; start += channels)
        memcpy(tile + start, row, channels * sizeof *row);
}

/* Adds up the tile's columns that belong to one channel. */
INLINE void fold(float *row, const float *tile, int64_t channels, int64_t length) {
    memcpy(row, tile, channels * sizeof *row);
    for (int64_t start = channels; start < length; start += channels)
        for (int64_t c = 0; c < channels; c++)
            row[c] += tile[start + c];
}
