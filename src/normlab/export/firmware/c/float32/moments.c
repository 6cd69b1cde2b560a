
/* The mean of a group of the source's channels, and with it the deviation: the root of the mean of
   the squared distances from it. */
static float deviation_of(const struct step *step, struct @name@_arena *arena, int g, float *mean)
{
    const struct step *source = step - 1;
    int channels = step->channels, size = channels / step->groups;
    float count = (float)(size * source->height * source->columns), variance = 0;
    *mean = 0;
    for (int pass = step->centred ? 0 : 1; pass < 2; pass++) {
        float sum = 0;
        for (int y = 0; y < source->height; y++) {
            const float *row = row_of(source, arena, y) + g * size;
            for (int x = 0; x < source->columns; x++, row += channels)
                for (int c = 0; c < size; c++) {
                    float distance = row[c] - *mean;
                    sum = sum + (pass == 0 ? row[c] : distance * distance);
                }
        }
        if (pass == 0)
            *mean = sum / count;
        else
            variance = sum / count;
    }
    return sqrtf(variance + step->epsilon);
}
