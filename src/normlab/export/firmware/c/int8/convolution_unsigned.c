
static void convolve_unsigned(const struct step *step, struct @name@_arena *arena, int turn)
{
    convolve(step, arena, turn, 0);
}
