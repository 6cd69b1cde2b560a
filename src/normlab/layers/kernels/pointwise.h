/* A normalization with its activation and dropout, then a 1 × 1 convolution, and what they compute
   of one sample. The statistics are those of normalize.h. */

#ifndef NORMLAB_POINTWISE_H
#define NORMLAB_POINTWISE_H

#include "normalize.h"

typedef struct {
    Normalization norm;   /* its `out` is y, or the gradient of x; its `dy` that of y */
    const float *filters; /* C × K forward, K × C backward */
    float *d_filters;     /* C × K; 0: not needed */
    float *room;          /* size_of_room() values of each thread: its sums, those of a sample, strips */
    int64_t outputs;      /* K */
} Pointwise;

/* y of sample n. */
void normlab_product_of(const Pointwise *p, int64_t n, int64_t thread);

/* Of sample n: the gradient of x * scale + shift, into `out`, and the sums of
   normlab_sum_gradients_of. Its gradients of the filters are added to the sums of a thread, which
   `begin` sets to 0, and which `end` adds up. */
void normlab_pointwise_begin(const Pointwise *p);
void normlab_product_gradients_of(const Pointwise *p, int64_t n, int64_t thread);
void normlab_pointwise_end(const Pointwise *p);

/* After normlab_find_gradient: the gradient of x of sample n, in `out`, from what is there. */
void normlab_finish_gradients_of(const Pointwise *p, int64_t n);

#endif
