
/* Three neighbouring pixels of a channel with a row of its filter. */
static inline int32_t weigh(const uint8_t *pixel, const int8_t *filter, int channels,
                            int is_signed)
{
    return signed_or_not(pixel[0], is_signed) * filter[0]
        + signed_or_not(pixel[channels], is_signed) * filter[channels]
        + signed_or_not(pixel[2 * channels], is_signed) * filter[2 * channels];
}

/* A row of a 3 x 3 depthwise convolution, whose filters are rows x columns x channels. */
static inline void convolve_channels(const struct step *step, struct @name@_arena *arena, int y,
                                     int is_signed)
{
    const struct step *source = step - 1;
    int first = y * step->stride - step->border, channels = step->channels;
    int from = first < 0 ? -first : 0;
    int to = source->height - first < 3 ? source->height - first : 3;
    const int32_t *multiplier = step->multipliers, *offset = step->offsets;
    int32_t low = step->low, high = step->high;
    int shift = step->shift;
    uint8_t *out = row_of(step, arena, y);
    const uint8_t *rows[3] = {0};
    for (int i = from; i < to; i++)
        rows[i] = row_of(source, arena, first + i) - step->border * channels;
    for (int x = 0; x < step->columns; x++) {
        const int8_t *filter = step->filters;
        int at = x * step->stride * channels;
        for (int c = 0; c < channels; c++, at++, filter++) {
            int32_t sum = 0;
            if (to - from == 3) {
                sum = weigh(rows[0] + at, filter, channels, is_signed)
                    + weigh(rows[1] + at, filter + 3 * channels, channels, is_signed)
                    + weigh(rows[2] + at, filter + 6 * channels, channels, is_signed);
            } else {
                for (int i = from; i < to; i++)
                    sum += weigh(rows[i] + at, filter + 3 * i * channels, channels, is_signed);
            }
            *out++ = (uint8_t)limited(scaled(sum, multiplier[c], offset[c], shift), low, high);
        }
    }
}
