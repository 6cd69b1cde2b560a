
static void apply_map_affine(const struct step *step, struct @name@_arena *arena, int turn)
{
    const float *weight = step->weight + turn * step->width;
    const float *bias = step->bias + turn * step->width;
    const float *in = row_of(step - 1, arena, turn);
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width; k++)
        out[k] = in[k] * weight[k] + bias[k];
}
