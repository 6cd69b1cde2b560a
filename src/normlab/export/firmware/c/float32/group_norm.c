
static void normalize_groups(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_statistics(step, arena);
    const float *in = row_of(step - 1, arena, turn);
    const float *multipliers = arena->coefficients, *offsets = multipliers + step->channels;
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width;)
        for (int c = 0; c < step->channels; c++, k++)
            out[k] = in[k] * multipliers[c] + offsets[c];
}
