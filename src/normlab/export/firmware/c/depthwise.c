
/* A row of a depthwise convolution, whose filters are rows x columns x channels. */
static void convolve_depthwise(const struct step *step, struct @name@_arena *arena, int y)
{
    const struct step *source = step - 1;
    int first = y * step->stride - step->border, channels = step->channels;
    int from = first < 0 ? -first : 0;
    int to = source->height - first < step->window ? source->height - first : step->window;
    int32_t sign = source->sign;
    uint8_t *out = row_of(step, arena, y);
    const uint8_t *rows[3];
    for (int i = from; i < to; i++)
        rows[i] = row_of(source, arena, first + i) - step->border * channels;
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) {
            int32_t sum = 0;
            for (int i = from; i < to; i++) {
                const uint8_t *pixel = rows[i] + x * step->stride * channels + c;
                const int8_t *filter = step->filters + i * step->window * channels + c;
                for (int j = 0; j < step->window; j++)
                    sum += value_of(pixel[j * channels], sign) * filter[j * channels];
            }
            int32_t value = scaled(sum, step->multipliers[c], step->offsets[c], step->shift);
            out[c] = (uint8_t)limited(value, step->low, step->high);
        }
        out += channels;
    }
}
