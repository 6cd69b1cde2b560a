
/* Each turn adds a row to the channels' sums. The last one stores the means. */
static void average_map(const struct step *step, struct @name@_arena *arena, int turn)
{
    const struct step *source = step - 1;
    const float *row = row_of(source, arena, turn);
    int channels = step->channels;
    for (int c = 0; c < channels && turn == 0; c++)
        arena->sums[c] = 0;
    for (int k = 0; k < source->width; k += channels)
        for (int c = 0; c < channels; c++)
            arena->sums[c] = arena->sums[c] + row[k + c];
    if (turn + 1 < step->turns)
        return;
    float *out = step->count == 0 ? arena->logits : row_of(step, arena, 0); /* 0: the last step */
    for (int c = 0; c < channels; c++)
        out[c] = arena->sums[c] / (float)(source->height * source->columns);
}
