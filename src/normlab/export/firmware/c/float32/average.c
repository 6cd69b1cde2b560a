
static void pool_average(const struct step *step, struct @name@_arena *arena, int y)
{
    const struct step *source = step - 1;
    const float *above = row_of(source, arena, 2 * y), *below = row_of(source, arena, 2 * y + 1);
    float *out = row_of(step, arena, y);
    int channels = step->channels;
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++)
            *out++ = ((above[c] + above[channels + c]) + (below[c] + below[channels + c])) * 0.25f;
        above += 2 * channels;
        below += 2 * channels;
    }
}
