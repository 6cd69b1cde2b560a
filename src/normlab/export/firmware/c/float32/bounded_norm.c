
/* Divides by a constant, or by the value times a slope plus its map's deviation, if larger. */
static void divide_by_deviations(const struct step *step, struct @name@_arena *arena, int turn)
{
    int channels = step->channels;
    float *deviations = arena->coefficients, mean;
    for (int c = 0; c < channels && turn == 0; c++)
        deviations[c] = deviation_of(step, arena, c, &mean);
    const float *in = row_of(step - 1, arena, turn);
    const float *slope = step->weight + channels, *bound = slope + channels;
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width;)
        for (int c = 0; c < channels; c++, k++) {
            float divisor = slope[c] * in[k] + deviations[c];
            divisor = divisor > bound[c] ? divisor : bound[c];
            out[k] = in[k] / divisor * step->weight[c] + step->bias[c];
        }
}
