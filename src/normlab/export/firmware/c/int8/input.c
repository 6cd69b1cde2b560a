
static void read_picture(const struct step *step, struct @name@_arena *arena, int turn)
{
    multiply_add(step, arena->pixels + turn * step->width, 0, step->multipliers, step->offsets,
                 row_of(step, arena, turn));
}
