
/* One result of a layer that reads its whole source. */
static float dense(const struct step *step, struct @name@_arena *arena, int c)
{
    const struct step *source = step - 1;
    const float *filter = step->filters + (int32_t)c * source->height * source->width;
    float sum = 0;
    for (int y = 0; y < source->height; y++) {
        const float *row = row_of(source, arena, y);
        for (int k = 0; k < source->width; k++)
            sum = sum + row[k] * *filter++;
    }
    return sum * step->weight[c] + step->bias[c];
}
