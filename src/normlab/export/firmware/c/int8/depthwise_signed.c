
static void convolve_channels_signed(const struct step *step, struct @name@_arena *arena, int turn)
{
    convolve_channels(step, arena, turn, 1);
}
