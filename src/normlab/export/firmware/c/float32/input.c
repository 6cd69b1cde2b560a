
static void read_picture(const struct step *step, struct @name@_arena *arena, int turn)
{
    const uint8_t *in = arena->pixels + (int32_t)turn * step->width;
    float *out = row_of(step, arena, turn);
    for (int k = 0; k < step->width; k++)
        out[k] = (float)in[k] * step->weight[k % step->channels] + step->bias[k % step->channels];
}
