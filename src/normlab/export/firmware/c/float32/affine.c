
static void apply_affine(const struct step *step, struct @name@_arena *arena, int turn)
{
    const float *in = row_of(step - 1, arena, turn);
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width; k++)
        out[k] = in[k] * step->weight[k % step->channels] + step->bias[k % step->channels];
}
