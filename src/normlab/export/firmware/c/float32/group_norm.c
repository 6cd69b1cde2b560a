
/* Multipliers and offsets from the statistics of the whole source: the mean, then the mean of the
   squared distances from it. */
static void take_statistics(const struct step *step, struct @name@_arena *arena)
{
    const struct step *source = step - 1;
    int channels = step->channels, size = channels / step->groups;
    float *multipliers = arena->coefficients, *offsets = multipliers + channels;
    float count = (float)(size * source->height * source->columns);
    for (int g = 0; g < step->groups; g++) {
        float mean = 0, variance = 0;
        for (int pass = step->centred ? 0 : 1; pass < 2; pass++) {
            float sum = 0;
            for (int y = 0; y < source->height; y++) {
                const float *row = row_of(source, arena, y) + g * size;
                for (int x = 0; x < source->columns; x++, row += channels)
                    for (int c = 0; c < size; c++) {
                        float distance = row[c] - mean;
                        sum = sum + (pass == 0 ? row[c] : distance * distance);
                    }
            }
            if (pass == 0)
                mean = sum / count;
            else
                variance = sum / count;
        }
        float reciprocal = 1.0f / sqrtf(variance + step->epsilon);
        for (int c = g * size; c < (g + 1) * size; c++) {
            multipliers[c] = step->weight[c] * reciprocal;
            offsets[c] = step->bias[c] - mean * multipliers[c];
        }
    }
}

static void normalize_groups(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_statistics(step, arena);
    const float *in = row_of(step - 1, arena, turn);
    const float *multipliers = arena->coefficients, *offsets = multipliers + step->channels;
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width;)
        for (int c = 0; c < step->channels; c++, k++)
            out[k] = in[k] * multipliers[c] + offsets[c];
}
