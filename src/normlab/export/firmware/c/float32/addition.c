
static void add_skip(const struct step *step, struct @name@_arena *arena, float *row, int y)
{
    const float *other = row_of(&steps[step->skip], arena, y);
    for (int k = 0; k < step->width; k++)
        row[k] = row[k] * step->branch + other[k];
}
