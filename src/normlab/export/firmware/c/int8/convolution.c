
#if defined __ARM_FEATURE_DSP
/* Bytes 0 and 2 of a word as two 16-bit numbers. */
static inline int16x2_t even(uint32_t word, int is_signed)
{
    return is_signed ? __sxtb16((int8x4_t)word) : (int16x2_t)__uxtb16(word);
}

/* Bytes 1 and 3. */
static inline int16x2_t odd(uint32_t word, int is_signed)
{
    return even(word >> 8 | word << 24, is_signed);
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
        uint32_t a = word_at(v), b = word_at(w), c = word_at(x), d = word_at(y);
        int16x2_t left = even(c, is_signed), right = even(d, is_signed), filter = even(a, 1);
        xv = __smlad(left, filter, xv);
        yv = __smlad(right, filter, yv);
        filter = even(b, 1);
        xw = __smlad(left, filter, xw);
        yw = __smlad(right, filter, yw);
        left = odd(c, is_signed), right = odd(d, is_signed), filter = odd(a, 1);
        xv = __smlad(left, filter, xv);
        yv = __smlad(right, filter, yv);
        filter = odd(b, 1);
        xw = __smlad(left, filter, xw);
        yw = __smlad(right, filter, yw);
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

static inline void store(const struct step *step, int c, int32_t sum, uint8_t *out)
{
    int32_t value = scaled(sum, step->multipliers[c], step->offsets[c], step->shift);
    out[c] = (uint8_t)limited(value, step->low, step->high);
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
            store(step, c, sums[0], out);
            if (more)
                store(step, c + 1, sums[1], out);
            if (second) {
                store(step, c, sums[2], out + channels);
                if (more)
                    store(step, c + 1, sums[3], out + channels);
            }
        }
        out += 2 * channels;
    }
}
