
static void pool_maximum(const struct step *step, struct @name@_arena *arena, int y)
{
    const struct step *source = step - 1;
    const uint8_t *above = row_of(source, arena, 2 * y), *below = row_of(source, arena, 2 * y + 1);
    uint8_t *out = row_of(step, arena, y);
    int channels = step->channels, sign = step->sign;
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) { /* without the sign, bytes are in the values' order */
            int a = above[c] ^ sign, b = above[channels + c] ^ sign;
            int d = below[c] ^ sign, e = below[channels + c] ^ sign;
            a = a > b ? a : b;
            d = d > e ? d : e;
            *out++ = (uint8_t)((a > d ? a : d) ^ sign);
        }
        above += 2 * channels;
        below += 2 * channels;
    }
}
