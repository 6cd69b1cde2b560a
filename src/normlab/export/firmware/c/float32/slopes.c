
static void apply_slopes(const struct step *step, float *row)
{
    for (int k = 0; k < step->width; k++)
        if (row[k] < 0)
            row[k] = row[k] * step->slopes[k % step->channels];
}
