
static void normalize_groups(const struct step *step, struct @name@_arena *arena, int turn)
{
    if (turn == 0)
        take_statistics(step, arena);
    multiply_add(step, row_of(step - 1, arena, turn), 128, arena->coefficients,
                 arena->coefficients + step->channels, row_of(step, arena, turn));
}
