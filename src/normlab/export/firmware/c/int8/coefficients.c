
/* A row of value * multiplier + offset, both in units of 2^-16. It may be the row that is read. */
static void multiply_add(const struct step *step, const uint8_t *in, int32_t sign,
                         const int32_t *multipliers, const int32_t *offsets, uint8_t *out)
{
    for (int k = 0; k < step->width;)
        for (int c = 0; c < step->channels; c++, k++) {
            int32_t value = (value_of(in[k], sign) * multipliers[c] + offsets[c]) >> 16;
            out[k] = limited(value + step->own_sign, step->own_sign);
        }
}
