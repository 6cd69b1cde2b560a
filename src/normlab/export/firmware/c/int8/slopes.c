
static void apply_slopes(const struct step *step, uint8_t *row)
{
    for (int k = 0; k < step->width; k++) {
        int32_t value = value_of(row[k], 128);
        if (value < 0) {
            value = (value * step->slopes[k % step->channels] + (1 << 11)) >> 12;
            row[k] = limited(value + 128, 128);
        }
    }
}
