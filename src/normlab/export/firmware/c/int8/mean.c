
/* Each turn adds a row to the channels' sums. The last one stores the means. */
static void average_map(const struct step *step, struct @name@_arena *arena, int turn)
{
    const struct step *source = step - 1;
    const uint8_t *row = row_of(source, arena, turn);
    int channels = step->channels;
    if (turn == 0)
        memset(arena->sums, 0, sizeof arena->sums);
    for (int k = 0; k < source->width; k += channels)
        for (int c = 0; c < channels; c++)
            arena->sums[c] += value_of(row[k + c], source->sign);
    if (turn + 1 < step->turns)
        return;
    for (int c = 0; c < channels; c++) {
        int32_t sum = arena->sums[c] * @mean_factor@;
        int32_t value = scaled(sum, step->multipliers[0], step->offsets[0], step->shift);
        if (step->count == 0) /* the last step */
            arena->logits[c] = value;
        else
            row_of(step, arena, 0)[c] = limited(value + step->sign, step->sign);
    }
}
