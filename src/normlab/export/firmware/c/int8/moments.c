
/* Sums of the source's channels and of their squares, as integers: the first of the arena's
   coefficients, and those after them. */
static void add_up(const struct step *step, struct @name@_arena *arena)
{
    const struct step *source = step - 1;
    int channels = step->channels;
    int32_t *sums = arena->coefficients, *squares = sums + channels;
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
}
