
/* Multipliers and offsets from the statistics of the whole source. Sums and squares are integers;
   what follows are single floats, a few per channel. */
static void take_statistics(const struct step *step, struct @name@_arena *arena)
{
    const struct step *source = step - 1;
    int channels = step->channels, size = channels / step->groups;
    int32_t *sums = arena->coefficients, *squares = sums + channels;
    const float *scale = step->floats, *weight = scale + channels, *bias = weight + channels;
    float inverse = 1.0f / (float)(size * source->height * source->columns);
    memset(sums, 0, sizeof *sums * 2 * (size_t)channels);
    for (int y = 0; y < source->height; y++) {
        const uint8_t *row = row_of(source, arena, y);
        for (int k = 0; k < source->width;)
            for (int c = 0; c < channels; c++, k++) {
                int32_t value = value_of(row[k], 128);
                sums[c] += value;
                squares[c] += value * value;
            }
    }
    for (int first = 0; first < channels; first += size) {
        float total = 0, square = 0;
        for (int c = first; c < first + size; c++) {
            total = total + scale[c] * (float)sums[c];
            square = square + (scale[c] * scale[c]) * (float)squares[c];
        }
        float mean = step->centred ? total * inverse : 0;
        float variance = square * inverse - mean * mean;
        float reciprocal = 1.0f / sqrtf((variance > 0 ? variance : 0) + step->floats[3 * channels]);
        for (int c = first; c < first + size; c++) {
            float a = weight[c] * reciprocal;
            sums[c] = rounded(a * scale[c] * 65536.0f, 8388608.0f);
            squares[c] = rounded((bias[c] - mean * a) * 65536.0f, 536870912.0f) + 32768;
        }
    }
}

static void normalize_groups(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_statistics(step, arena);
    multiply_add(step, row_of(step - 1, arena, turn), 128, arena->coefficients,
                 arena->coefficients + step->channels, row_of(step, arena, turn));
}
