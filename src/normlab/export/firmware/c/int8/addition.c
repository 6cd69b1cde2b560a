
static void add_skip(const struct step *step, struct @name@_arena *arena, uint8_t *row, int y)
{
    const struct step *skip = &steps[step->skip];
    const uint8_t *other = row_of(skip, arena, y);
    int32_t sign = step->own_sign, half = 1 << step->sum_shift >> 1;
    for (int k = 0; k < step->width; k++) {
        int32_t sum = value_of(row[k], sign) * step->own;
        sum += value_of(other[k], skip->sign) * step->other + half;
        row[k] = limited((sum >> step->sum_shift) + step->sign, step->sign);
    }
}
