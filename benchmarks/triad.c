/* McCalpin's STREAM triad, a = b + s c: 3 × 4 bytes are moved for each element. */

#include <stdint.h>

void triad(float *a, const float *b, const float *c, int64_t n, int64_t times, int threads) {
#pragma omp parallel num_threads(threads)
    for (int64_t t = 0; t < times; t++) {
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < n; i++)
            a[i] = b[i] + 3.0f * c[i];
        __asm__ volatile("" ::: "memory"); /* each time is computed */
    }
}
