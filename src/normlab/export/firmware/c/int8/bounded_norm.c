
/* The deviations of the source's channels, as floats in place of their sums. */
static void take_deviations(const struct step *step, struct @name@_arena *arena)
{
    const struct step *source = step - 1;
    int channels = step->channels;
    int32_t *sums = arena->coefficients, *squares = sums + channels;
    const float *scale = step->floats;
    float inverse = 1.0f / (float)(source->height * source->columns);
    add_up(step, arena);
    for (int c = 0; c < channels; c++) {
        float mean = scale[c] * (float)sums[c] * inverse;
        float variance = scale[c] * scale[c] * (float)squares[c] * inverse - mean * mean;
        float deviation = sqrtf((variance > 0 ? variance : 0) + scale[5 * channels]);
        memcpy(&sums[c], &deviation, sizeof deviation);
    }
}

/* Single floats: two products, two sums and a division per value. */
static void divide_by_deviations(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_deviations(step, arena);
    int channels = step->channels;
    const float *weight = step->floats + channels, *bias = weight + channels;
    const float *slope = bias + channels, *bound = slope + channels;
    const uint8_t *in = row_of(step - 1, arena, turn);
    uint8_t *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width;)
        for (int c = 0; c < channels; c++, k++) {
            float value = (float)value_of(in[k], 128), deviation;
            memcpy(&deviation, &arena->coefficients[c], sizeof deviation);
            float divisor = slope[c] * value + deviation;
            divisor = divisor > bound[c] ? divisor : bound[c];
            int32_t result = rounded(value * weight[c] / divisor + bias[c], 1000.0f);
            out[k] = limited(result + step->own_sign, step->own_sign);
        }
}
