
/* A row of a convolution. */
static void convolve(const struct step *step, struct @name@_arena *arena, int y)
{
    const struct step *source = step - 1;
    int first = y * step->stride - step->border, channels = step->channels;
    int from = first < 0 ? -first : 0;
    int to = source->height - first < step->window ? source->height - first : step->window;
    int length = step->window * source->channels, size = step->window * length;
    const float *rows[3];
    float *out = row_of(step, arena, y);
    for (int i = from; i < to; i++)
        rows[i] = row_of(source, arena, first + i) - step->border * source->channels;
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) {
            float sum = 0;
            for (int i = from; i < to; i++) {
                const float *pixel = rows[i] + x * step->stride * source->channels;
                const float *filter = step->filters + c * size + i * length;
                for (int k = 0; k < length; k++)
                    sum = sum + pixel[k] * filter[k];
            }
            *out++ = sum * step->weight[c] + step->bias[c];
        }
    }
}
