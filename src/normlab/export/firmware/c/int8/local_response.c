
/* Sums of squares are integers; what follows are single floats: two square roots, a division. */
static void divide_by_neighbours(const struct step *step, struct @name@_arena *arena, int turn)
{
    int channels = step->channels, sign = step[-1].sign;
    const uint8_t *in = row_of(step - 1, arena, turn);
    uint8_t *out = row_of(step, arena, turn);
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) {
            int32_t squares = 0;
            for (int k = c > 2 ? c - 2 : 0; k < channels && k <= c + 2; k++)
                squares += value_of(in[k], sign) * value_of(in[k], sign);
            float root = sqrtf(2.0f + step->floats[0] * (float)squares);
            float factor = step->floats[1] / (root * sqrtf(root));
            int32_t result = rounded((float)value_of(in[c], sign) * factor, 1000.0f);
            out[c] = limited(result + step->own_sign, step->own_sign);
        }
        in += channels;
        out += channels;
    }
}
