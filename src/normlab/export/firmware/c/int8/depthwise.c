
/* Three neighbouring pixels of a channel with a row of its filter. */
static inline int32_t weigh(const uint8_t *pixel, const int8_t *filter, int channels,
                            int is_signed)
{
    return signed_or_not(pixel[0], is_signed) * filter[0]
        + signed_or_not(pixel[channels], is_signed) * filter[1]
        + signed_or_not(pixel[2 * channels], is_signed) * filter[2];
}

/* A row of a 3 x 3 depthwise convolution. */
static inline void convolve_channels(const struct step *step, struct @name@_arena *arena, int y,
                                     int is_signed)
{
    const struct step *source = step - 1;
    int first = y * step->stride - step->border, channels = step->channels;
    int from = first < 0 ? -first : 0;
    int to = source->height - first < 3 ? source->height - first : 3;
    int shift = step->shift, sign = step->own_sign;
    uint8_t *out = row_of(step, arena, y);
    const uint8_t *rows[3] = {0};
    for (int i = from; i < to; i++)
        rows[i] = row_of(source, arena, first + i) - step->border * channels;
    for (int x = 0; x < step->columns; x++) {
        const int8_t *filter = step->filters;
        const int32_t *multiplier = step->multipliers, *offset = step->offsets;
        const uint8_t *end = out + channels;
        int at = x * step->stride * channels;
        if (to - from == 3) {
            const uint8_t *above = rows[0] + at, *here = rows[1] + at, *below = rows[2] + at;
            for (; out < end; filter += 9) {
                int32_t sum = weigh(above++, filter, channels, is_signed)
                    + weigh(here++, filter + 3, channels, is_signed)
                    + weigh(below++, filter + 6, channels, is_signed);
                *out++ = limited(scaled(sum, *multiplier++, *offset++, shift), sign);
            }
        }
        for (; out < end; filter += 9, at++) { /* at the upper or lower border */
            int32_t sum = 0;
            for (int i = from; i < to; i++)
                sum += weigh(rows[i] + at, filter + 3 * i, channels, is_signed);
            *out++ = limited(scaled(sum, *multiplier++, *offset++, shift), sign);
        }
    }
}
