/* The images of a batch, from bytes to float32 between 0 and 1 in channels-last memory. Some are
   mirrored; then each is moved, and what comes from outside of it is 0. */

#include "common.h"

typedef struct {
    const uint8_t *images; /* of all samples there are: a plane of H x W pixels for each channel */
    float *out;
    const int64_t *places; /* of each sample: which image it is */
    const int64_t *down, *right; /* how far its window lies below and right of the image */
    const uint8_t *mirrored;     /* 1 if it is mirrored; none is: 0 */
    int64_t samples, channels, height, width;
    int32_t threads;
} Batch;

INLINE int64_t between(int64_t value, int64_t least, int64_t most) {
    return value < least ? least : value > most ? most : value;
}

/* Rows of pixels are copied plane by plane: `shares` has the float32 of each byte. */
static void convert(const Batch *p, int64_t n, const float *shares) {
    const int64_t width = p->width, channels = p->channels, right = p->right[n];
    const int64_t first = between(-right, 0, width), last = between(width - right, 0, width);
    const int mirrored = p->mirrored && p->mirrored[n];
    float *out = p->out + n * p->height * width * channels;
    for (int64_t h = 0; h < p->height; h++, out += width * channels) {
        const int64_t row = h + p->down[n];
        const int inside = row >= 0 && row < p->height;
        if (!inside || last - first < width)
            memset(out, 0, width * channels * sizeof *out);
        if (!inside)
            continue;
        for (int64_t c = 0; c < channels; c++) {
            const uint8_t *from =
                p->images + ((p->places[n] * channels + c) * p->height + row) * width;
            if (mirrored)
                for (int64_t w = first; w < last; w++)
                    out[w * channels + c] = shares[from[width - 1 - right - w]];
            else
                for (int64_t w = first; w < last; w++)
                    out[w * channels + c] = shares[from[right + w]];
        }
    }
}

static void batch_samples(const void *arguments, int64_t first, int64_t last, int64_t thread) {
    float shares[256];
    (void)thread;
    for (int value = 0; value < 256; value++)
        shares[value] = value / 255.0f;
    for (int64_t n = first; n < last; n++)
        convert(arguments, n, shares);
}

void normlab_batch(const Batch *p) {
    normlab_share(batch_samples, p, p->samples, p->threads);
}
