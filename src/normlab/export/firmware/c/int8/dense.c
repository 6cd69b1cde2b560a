
/* One result of a layer that reads its whole source. */
static int32_t dense(const struct step *step, struct @name@_arena *arena, int c)
{
    const struct step *source = step - 1;
    int size = source->height * source->width;
    const int8_t *filter = step->filters + (int32_t)c * size;
    int32_t sum = 0, sign = source->sign;
    for (int y = 0; y < source->height; y++) {
        const uint8_t *row = row_of(source, arena, y);
        for (int k = 0; k < source->width; k++)
            sum += value_of(row[k], sign) * *filter++;
    }
    return scaled(sum, step->multipliers[c], step->offsets[c], step->shift);
}
