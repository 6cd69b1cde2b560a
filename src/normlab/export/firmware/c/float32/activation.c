
static void activate(const struct step *step, float *row)
{
    for (int k = 0; k < step->width; k++)
        row[k] = step->activation(row[k]);
}
