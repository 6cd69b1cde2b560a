
static void convolve_signed(const struct step *step, struct @name@_arena *arena, int turn)
{
    convolve(step, arena, turn, 1);
}
