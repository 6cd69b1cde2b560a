
/* A row of a 3 x 3 depthwise convolution. */
static void convolve_channels(const struct step *step, struct @name@_arena *arena, int y)
{
    const struct step *source = step - 1;
    int first = y * step->stride - step->border, channels = step->channels;
    int from = first < 0 ? -first : 0;
    int to = source->height - first < 3 ? source->height - first : 3;
    const float *rows[3];
    float *out = row_of(step, arena, y);
    for (int i = from; i < to; i++)
        rows[i] = row_of(source, arena, first + i) - step->border * channels;
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) {
            float sum = 0;
            for (int i = from; i < to; i++) {
                const float *pixel = rows[i] + x * step->stride * channels + c;
                const float *filter = step->filters + 9 * c + 3 * i;
                sum = sum + pixel[0] * filter[0];
                sum = sum + pixel[channels] * filter[1];
                sum = sum + pixel[2 * channels] * filter[2];
            }
            *out++ = sum * step->weight[c] + step->bias[c];
        }
    }
}
