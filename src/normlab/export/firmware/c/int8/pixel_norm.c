
/* Sums and squares are integers; three float products and a sum per value follow. */
static void normalize_pixels(const struct step *step, struct @name@_arena *arena, int turn)
{
    int channels = step->channels;
    const float *weight = step->floats + 1, *bias = weight + channels;
    const uint8_t *in = row_of(step - 1, arena, turn);
    uint8_t *out = row_of(step, arena, turn);
    float per_count = step->floats[0] / (float)channels, epsilon = bias[channels];
    for (int x = 0; x < step->columns; x++) {
        int32_t sum = 0, squares = 0;
        for (int c = 0; c < channels; c++) {
            int32_t value = value_of(in[c], 128);
            sum += value;
            squares += value * value;
        }
        int64_t spread = (int64_t)channels * squares - (int64_t)sum * sum;
        float variance = (float)spread * (per_count * per_count);
        float factor = per_count * (1.0f / sqrtf(variance + epsilon));
        for (int c = 0; c < channels; c++) {
            float value = (float)(value_of(in[c], 128) * channels - sum) * factor;
            int32_t result = rounded(value * weight[c] + bias[c], 1000.0f);
            out[c] = limited(result + step->own_sign, step->own_sign);
        }
        in += channels;
        out += channels;
    }
}
