/* A depthwise-separable convolution with its normalizations: a depthwise 3 × 3 convolution, a
   normalization, a 1 × 1 convolution, a normalization, and the input added, if it is residual.

   What follows each other is computed for one sample after the other, while its maps are in the
   cache. Where statistics are those of one sample, that is everything; else all samples wait for
   the statistics of their part. */

#include "depthwise.h"
#include "pointwise.h"

typedef struct {
    Depthwise depthwise;
    Pointwise pointwise; /* its normalization is that after the depthwise convolution */
    Normalization norm;  /* its residual, if there is one, is the input of `depthwise` */
    int32_t given;       /* each channel has its scale and shift: no statistics are taken */
} Separable;

EACH(Separable, each_given,
     normlab_depthwise_of(&p->depthwise, n);
     normlab_product_of(&p->pointwise, n, thread);
     normlab_apply_of(&p->norm, n);)

EACH(Separable, each_forward,
     normlab_depthwise_of(&p->depthwise, n);
     normlab_moments_of(&p->pointwise.norm, n);
     normlab_statistics(&p->pointwise.norm, n);
     normlab_product_of(&p->pointwise, n, thread);
     normlab_moments_of(&p->norm, n);
     normlab_statistics(&p->norm, n);
     normlab_apply_of(&p->norm, n);)

EACH(Separable, each_depthwise,
     normlab_depthwise_of(&p->depthwise, n);
     normlab_moments_of(&p->pointwise.norm, n);)
EACH(Separable, each_pointwise,
     normlab_product_of(&p->pointwise, n, thread);
     normlab_moments_of(&p->norm, n);)
EACH(Separable, each_apply, normlab_apply_of(&p->norm, n);)

INLINE void add(void *sum, const void *others, int64_t start, int64_t size, int bfloat16) {
    INDEPENDENT
    for (int64_t i = start; i < start + size; i++)
        store(sum, i, bfloat16, load(sum, i, bfloat16) + load(others, i, bfloat16));
}

/* Adds the gradient of a residual's output to that of its input. */
static void add_residual(const Separable *p, int64_t n) {
    const int64_t size = p->norm.pixels * p->norm.channels;
    if (!p->norm.residual)
        return;
    if (p->norm.bfloat16)
        add(p->depthwise.out, p->norm.dy, n * size, size, 1);
    else
        add(p->depthwise.out, p->norm.dy, n * size, size, 0);
}

/* A gradient's address for sample n, so that n's maps are at the place of a thread. */
INLINE void *at_place(const Normalization *p, int64_t n, int64_t thread) {
    const int64_t size = p->pixels * p->channels * (p->bfloat16 ? 2 : 4);
    return (void *)((uintptr_t)p->out + (thread - n) * size);
}

/* The block for sample n. Gradients that are not needed after it are at the place of a thread: those
   of the maps before `norm`; where parts are single samples, also those before `pointwise`. */
static Separable at_thread(const Separable *p, int64_t n, int64_t thread) {
    Separable block = *p;
    block.pointwise.norm.dy = block.norm.out = at_place(&p->norm, n, thread);
    if (p->norm.part == 1)
        block.depthwise.dy = block.pointwise.norm.out = at_place(&p->pointwise.norm, n, thread);
    return block;
}

EACH(Separable, each_backward,
     const Separable here = at_thread(p, n, thread);
     normlab_sum_gradients_of(&p->norm, n);
     normlab_find_gradient(&p->norm, n);
     normlab_apply_gradients_of(&here.norm, n);
     normlab_product_gradients_of(&here.pointwise, n, thread);
     normlab_find_gradient(&p->pointwise.norm, n);
     normlab_finish_gradients_of(&here.pointwise, n);
     normlab_depthwise_gradients_of(&here.depthwise, n, thread);
     add_residual(p, n);)

EACH(Separable, each_sum, normlab_sum_gradients_of(&p->norm, n);)
EACH(Separable, each_pointwise_gradient,
     const Separable here = at_thread(p, n, thread);
     normlab_apply_gradients_of(&here.norm, n);
     normlab_product_gradients_of(&here.pointwise, n, thread);)
EACH(Separable, each_depthwise_gradient,
     normlab_finish_gradients_of(&p->pointwise, n);
     normlab_depthwise_gradients_of(&p->depthwise, n, thread);
     add_residual(p, n);)

static void share(Samples *samples, const Separable *p) {
    normlab_share(samples, p, p->norm.samples, p->norm.threads);
}

void normlab_separable_forward(const Separable *p) {
    if (p->given) {
        share(each_given, p);
        return;
    }
    if (p->norm.part == 1 && !p->norm.running_mean) {
        share(each_forward, p);
        return;
    }
    share(each_depthwise, p);
    each_part(normlab_statistics, &p->pointwise.norm);
    share(each_pointwise, p);
    each_part(normlab_statistics, &p->norm);
    share(each_apply, p);
}

void normlab_separable_backward(const Separable *p) {
    normlab_depthwise_begin(&p->depthwise);
    normlab_pointwise_begin(&p->pointwise);
    if (p->norm.part == 1)
        share(each_backward, p);
    else {
        share(each_sum, p);
        each_part(normlab_find_gradient, &p->norm);
        share(each_pointwise_gradient, p);
        each_part(normlab_find_gradient, &p->pointwise.norm);
        share(each_depthwise_gradient, p);
    }
    normlab_sum_samples(&p->norm);
    normlab_sum_samples(&p->pointwise.norm);
    normlab_pointwise_end(&p->pointwise);
    normlab_depthwise_end(&p->depthwise);
}
