
static void apply_affine(const struct step *step, struct @name@_arena *arena, int turn)
{
    multiply_add(step, row_of(step - 1, arena, turn), step[-1].sign, step->multipliers,
                 step->offsets, row_of(step, arena, turn));
}
