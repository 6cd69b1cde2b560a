
static void connect(const struct step *step, struct @name@_arena *arena, int turn)
{
    uint8_t *out = row_of(step, arena, turn);
    for (int c = 0; c < step->channels; c++)
        out[c] = limited(dense(step, arena, c), step->own_sign);
}
