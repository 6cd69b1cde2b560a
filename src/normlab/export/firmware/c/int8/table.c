
static void apply_table(const struct step *step, uint8_t *row)
{
    for (int k = 0; k < step->width; k++)
        row[k] = step->table[row[k]];
}
