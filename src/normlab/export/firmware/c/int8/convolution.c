
#if defined __ARM_FEATURE_DSP
/* Bytes 0 and 2 of a word as two 16-bit numbers. */
static inline int16x2_t even(uint32_t word, int is_signed)
{
    return is_signed ? __sxtb16((int8x4_t)word) : (int16x2_t)__uxtb16(word);
}

/* Bytes 1 and 3: the instruction rotates its operand, which the compiler does not use by itself. */
static inline int16x2_t odd(uint32_t word, int is_signed)
{
    int16x2_t pair;
    if (is_signed)
        __asm__("sxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    else
        __asm__("uxtb16 %0, %1, ror #8" : "=r"(pair) : "r"(word));
    return pair;
}

static inline uint32_t word_at(const void *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}
#endif

/* Adds the products of two pixels with two filters, n values each, to four sums. */
static inline void multiply(const uint8_t *x, const uint8_t *y, const int8_t *v, const int8_t *w,
                            int n, int is_signed, int32_t *sums)
{
    int32_t xv = sums[0], xw = sums[1], yv = sums[2], yw = sums[3];
#if defined __ARM_FEATURE_DSP
    for (; n >= 4; n -= 4) {
        uint32_t a = word_at(v), c = word_at(x), b, d;
        int16x2_t p = even(a, 1), q = even(c, is_signed), r, t;
        xv = __smlad(q, p, xv);
        d = word_at(y), t = even(d, is_signed);
        yv = __smlad(t, p, yv);
        b = word_at(w), r = even(b, 1);
        xw = __smlad(q, r, xw);
        yw = __smlad(t, r, yw);
        p = odd(a, 1), q = odd(c, is_signed);
        xv = __smlad(q, p, xv);
        t = odd(d, is_signed);
        yv = __smlad(t, p, yv);
        r = odd(b, 1);
        xw = __smlad(q, r, xw);
        yw = __smlad(t, r, yw);
        x += 4, y += 4, v += 4, w += 4;
    }
#endif
    for (; n > 0; n--) {
        int32_t c = signed_or_not(*x++, is_signed), d = signed_or_not(*y++, is_signed);
        int32_t a = *v++, b = *w++;
        xv += c * a, xw += c * b, yv += d * a, yw += d * b;
    }
    sums[0] = xv, sums[1] = xw, sums[2] = yv, sums[3] = yw;
}

/* A row of a convolution, two pixels and two channels at a time. */
static inline void convolve(const struct step *step, struct @name@_arena *arena, int y,
                            int is_signed)
{
    const struct step *source = step - 1;
    int first = y * step->stride - step->border, channels = step->channels;
    int from = first < 0 ? -first : 0;
    int to = source->height - first < step->window ? source->height - first : step->window;
    int length = step->window * source->channels, size = step->window * length;
    int distance = step->stride * source->channels;
    int shift = step->shift, sign = step->own_sign;
    const int32_t *multipliers = step->multipliers, *offsets = step->offsets;
    const uint8_t *rows[3];
    uint8_t *out = row_of(step, arena, y);
    for (int i = from; i < to; i++)
        rows[i] = row_of(source, arena, first + i) - step->border * source->channels;
    for (int x = 0; x < step->columns; x += 2) {
        int second = x + 1 < step->columns;
        for (int c = 0; c < channels; c += 2) {
            int32_t sums[4] = {0, 0, 0, 0};
            int more = c + 1 < channels;
            for (int i = from; i < to; i++) {
                const uint8_t *pixel = rows[i] + x * distance;
                const int8_t *filter = step->filters + c * size + i * length;
                multiply(pixel, second ? pixel + distance : pixel, filter,
                         more ? filter + size : filter, length, is_signed, sums);
            }
            int32_t multiplier = multipliers[c], offset = offsets[c];
            out[c] = limited(scaled(sums[0], multiplier, offset, shift), sign);
            if (second)
                out[channels + c] = limited(scaled(sums[2], multiplier, offset, shift), sign);
            if (more) {
                multiplier = multipliers[c + 1], offset = offsets[c + 1];
                out[c + 1] = limited(scaled(sums[1], multiplier, offset, shift), sign);
                if (second)
                    out[channels + c + 1] = limited(scaled(sums[3], multiplier, offset, shift), sign);
            }
        }
        out += 2 * channels;
    }
}
