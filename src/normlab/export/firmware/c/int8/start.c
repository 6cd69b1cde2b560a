/* A step computes one row of its map at each turn. It reads the rows of the step before it. */
struct step {
    void (*run)(const struct step *step, struct @name@_arena *arena, int turn);
    const int8_t *filters;
    const int32_t *multipliers, *offsets; /* per channel */
    const uint8_t *table;                 /* the activation of each byte, or NULL */
    const int16_t *slopes;                /* of negative values, times 2^12, per channel, or NULL */
    const float *floats;                  /* of a normalization */
    int32_t own, other;                   /* factors of the row and of the skip's row in their sum */
    uint32_t at;                          /* where its rows lie: bytes after the arena's first */
    uint16_t count, slot;                 /* row y lies in slot y % count; bytes of a slot */
    uint16_t width, padding;              /* bytes of a row; bytes of zeros at each of its ends */
    uint16_t height, columns, channels, turns;
    uint16_t window, groups;
    int16_t skip;                         /* the step whose rows are added, or -1 */
    uint8_t stride, border, shift, sum_shift;
    uint8_t sign;                         /* 128 where its bytes are -128 to 127, 0 where 0 to 255 */
    uint8_t own_sign;                     /* the same before the skip is added */
    uint8_t whole;                        /* whether all turns of the step before come first */
    uint8_t centred;                      /* of a normalization: 1 if its deviation is from the mean,
                                             2 if it subtracts the mean, too */
};

static const struct step steps[@steps@];

static uint8_t *row_of(const struct step *step, struct @name@_arena *arena, int y)
{
    return arena->rows + step->at + (uint32_t)(y % step->count) * step->slot + step->padding;
}

/* The nearest byte of a value that has the sign added. */
static inline uint8_t limited(int32_t value, int32_t sign)
{
    return (uint8_t)((value < 0 ? 0 : value > 255 ? 255 : value) ^ sign);
}

/* A byte's value, where `sign` is the map's. */
static inline int32_t value_of(uint8_t byte, int32_t sign)
{
    return (byte ^ sign) - sign;
}

static inline int32_t signed_or_not(uint8_t byte, int is_signed)
{
    return is_signed ? (int8_t)byte : byte;
}

/* A sum of products in units of the output. Shifts of negative numbers round down. The offsets of
   convolutions have the sign added. */
static inline int32_t scaled(int32_t sum, int32_t multiplier, int32_t offset, int shift)
{
    return ((int32_t)(((int64_t)sum * multiplier) >> 32) + offset) >> shift;
}
