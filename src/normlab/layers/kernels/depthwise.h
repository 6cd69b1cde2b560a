/* A depthwise 3 × 3 convolution, and what it computes of one sample. */

#ifndef NORMLAB_DEPTHWISE_H
#define NORMLAB_DEPTHWISE_H

#include "common.h"

typedef struct {
    const void *x, *dy;
    void *out;           /* y, or the gradient of x */
    const float *weight; /* 9 × C */
    float *d_weight;     /* 9 × C */
    float *sums;         /* of each thread: those of its samples, and of one; at most 9 × (C + 16) each */
    int64_t samples, height, width, channels;
    int32_t bfloat16, threads;
} Depthwise;

/* y of sample n. */
void normlab_depthwise_of(const Depthwise *p, int64_t n);

/* The gradient of x of sample n. Its gradients of the weights are added to the sums of a thread,
   which `begin` sets to 0, and which `end` adds up. */
void normlab_depthwise_begin(const Depthwise *p);
void normlab_depthwise_gradients_of(const Depthwise *p, int64_t n, int64_t thread);
void normlab_depthwise_end(const Depthwise *p);

#endif
