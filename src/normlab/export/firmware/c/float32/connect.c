
static void connect(const struct step *step, struct @name@_arena *arena, int turn)
{
    float *out = row_of(step, arena, turn);
    for (int c = 0; c < step->channels; c++)
        out[c] = dense(step, arena, c);
}
