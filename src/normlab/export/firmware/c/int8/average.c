
static void pool_average(const struct step *step, struct @name@_arena *arena, int y)
{
    const struct step *source = step - 1;
    const uint8_t *above = row_of(source, arena, 2 * y), *below = row_of(source, arena, 2 * y + 1);
    uint8_t *out = row_of(step, arena, y);
    int channels = step->channels, sign = step->sign;
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) {
            int32_t sum = value_of(above[c], sign) + value_of(above[channels + c], sign);
            sum += value_of(below[c], sign) + value_of(below[channels + c], sign);
            *out++ = (uint8_t)((sum + 2) >> 2);
        }
        above += 2 * channels;
        below += 2 * channels;
    }
}
