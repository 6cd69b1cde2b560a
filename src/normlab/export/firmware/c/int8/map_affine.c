
static void apply_map_affine(const struct step *step, struct @name@_arena *arena, int turn)
{
    const int32_t *multipliers = step->multipliers + turn * step->width;
    const int32_t *offsets = step->offsets + turn * step->width;
    const uint8_t *in = row_of(step - 1, arena, turn);
    uint8_t *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width; k++) {
        int32_t value = (value_of(in[k], 128) * multipliers[k] + offsets[k]) >> 16;
        out[k] = limited(value + step->own_sign, step->own_sign);
    }
}
