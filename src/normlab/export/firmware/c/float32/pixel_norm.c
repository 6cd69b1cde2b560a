
static void normalize_pixels(const struct step *step, struct @name@_arena *arena, int turn)
{
    int channels = step->channels;
    const float *in = row_of(step - 1, arena, turn);
    float *out = row_of(step, arena, turn);
    for (int x = 0; x < step->columns; x++) {
        float sum = 0, squares = 0;
        for (int c = 0; c < channels; c++)
            sum = sum + in[c];
        float mean = sum / (float)channels;
        for (int c = 0; c < channels; c++)
            squares = squares + (in[c] - mean) * (in[c] - mean);
        float reciprocal = 1.0f / sqrtf(squares / (float)channels + step->epsilon);
        for (int c = 0; c < channels; c++)
            out[c] = (in[c] - mean) * reciprocal * step->weight[c] + step->bias[c];
        in += channels;
        out += channels;
    }
}
