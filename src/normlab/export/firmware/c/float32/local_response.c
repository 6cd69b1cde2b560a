
static void divide_by_neighbours(const struct step *step, struct @name@_arena *arena, int turn)
{
    int channels = step->channels;
    const float *in = row_of(step - 1, arena, turn);
    float *out = row_of(step, arena, turn);
    for (int x = 0; x < step->columns; x++) {
        for (int c = 0; c < channels; c++) {
            float squares = 0;
            for (int k = c > 2 ? c - 2 : 0; k < channels && k <= c + 2; k++)
                squares = squares + in[k] * in[k];
            float root = sqrtf(2.0f + 1e-4f * squares);
            out[c] = in[c] / (root * sqrtf(root));
        }
        in += channels;
        out += channels;
    }
}
