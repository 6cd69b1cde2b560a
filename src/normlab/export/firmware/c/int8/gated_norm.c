
static const uint16_t gates[256]; /* the logistic function of -8 to 8, times 2^15 */

/* A value's gate is the logistic function of a slope times the value. */
static void normalize_and_gate(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_statistics(step, arena);
    const int32_t *multipliers = arena->coefficients, *offsets = multipliers + step->channels;
    const uint8_t *in = row_of(step - 1, arena, turn);
    uint8_t *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width;)
        for (int c = 0; c < step->channels; c++, k++) {
            int32_t value = value_of(in[k], 128);
            int32_t place = (value * step->multipliers[c] + 32768) >> 16;
            int32_t gated = value * gates[limited(place + 128, 0)];
            int32_t product = (int32_t)(((int64_t)gated * multipliers[c]) >> 15);
            out[k] = limited(((product + offsets[c]) >> 16) + step->own_sign, step->own_sign);
        }
}
