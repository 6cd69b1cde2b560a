
/* Multipliers and offsets from the statistics of the whole source. */
static void take_statistics(const struct step *step, struct @name@_arena *arena)
{
    int channels = step->channels, size = channels / step->groups;
    float *multipliers = arena->coefficients, *offsets = multipliers + channels;
    for (int g = 0; g < step->groups; g++) {
        float mean, reciprocal = 1.0f / deviation_of(step, arena, g, &mean);
        if (step->centred == 1)
            mean = 0;
        for (int c = g * size; c < (g + 1) * size; c++) {
            multipliers[c] = step->weight[c] * reciprocal;
            offsets[c] = step->bias[c] - mean * multipliers[c];
        }
    }
}
