
/* Multipliers and offsets from the statistics of the whole source, in single floats: a few
   operations per channel. */
static void take_statistics(const struct step *step, struct @name@_arena *arena)
{
    const struct step *source = step - 1;
    int channels = step->channels, size = channels / step->groups;
    int32_t *sums = arena->coefficients, *squares = sums + channels;
    const float *scale = step->floats, *weight = scale + channels, *bias = weight + channels;
    float inverse = 1.0f / (float)(size * source->height * source->columns);
    add_up(step, arena);
    for (int first = 0; first < channels; first += size) {
        float total = 0, square = 0;
        for (int c = first; c < first + size; c++) {
            total = total + scale[c] * (float)sums[c];
            square = square + (scale[c] * scale[c]) * (float)squares[c];
        }
        float mean = step->centred ? total * inverse : 0;
        float variance = square * inverse - mean * mean;
        float reciprocal = 1.0f / sqrtf((variance > 0 ? variance : 0) + step->floats[3 * channels]);
        if (step->centred == 1)
            mean = 0;
        for (int c = first; c < first + size; c++) {
            float a = weight[c] * reciprocal;
            sums[c] = rounded(a * scale[c] * 65536.0f, 8388608.0f);
            squares[c] = rounded((bias[c] - mean * a) * 65536.0f, 536870912.0f) + 32768;
        }
    }
}
