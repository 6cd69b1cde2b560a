/* A step computes one row of its map at each turn. It reads the rows of the step before it. */
struct step {
    void (*run)(const struct step *step, struct @name@_arena *arena, int turn);
    float (*activation)(float value);     /* or NULL */
    const float *filters;
    const float *weight, *bias;           /* per channel; EvoNorm's slopes and bounds follow weight */
    const float *slopes;                  /* of negative values, per channel, or NULL */
    float epsilon, branch;                /* of a normalization; the factor of what is added to a skip */
    uint32_t at;                          /* where its rows lie: values after the arena's first */
    uint16_t count, slot;                 /* row y lies in slot y % count; values of a slot */
    uint16_t width, padding;              /* values of a row; zeros at each of its ends */
    uint16_t height, columns, channels, turns;
    uint16_t window, groups;
    int16_t skip;                         /* the step whose rows are added, or -1 */
    uint8_t stride, border;
    uint8_t whole;                        /* whether all turns of the step before come first */
    uint8_t centred;                      /* of a normalization: 1 if its deviation is from the mean,
                                             2 if it subtracts the mean, too */
};

static const struct step steps[@steps@];

static float *row_of(const struct step *step, struct @name@_arena *arena, int y)
{
    return arena->rows + step->at + (uint32_t)(y % step->count) * step->slot + step->padding;
}
