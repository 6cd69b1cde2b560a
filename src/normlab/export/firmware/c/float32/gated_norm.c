
/* A value's gate is the logistic function of a slope times the value. */
static void normalize_and_gate(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_statistics(step, arena);
    const float *in = row_of(step - 1, arena, turn), *slope = step->weight + step->channels;
    const float *multipliers = arena->coefficients, *offsets = multipliers + step->channels;
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width;)
        for (int c = 0; c < step->channels; c++, k++)
            out[k] = in[k] * logistic(slope[c] * in[k]) * multipliers[c] + offsets[c];
}
