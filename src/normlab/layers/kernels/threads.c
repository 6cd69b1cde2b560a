/* Shares the samples of a pass among threads.

   The threads are those of the OpenMP library that torch has loaded. The caller looks these three
   functions up there: they are what GCC makes of `#pragma omp parallel`, and LLVM's and Intel's
   libraries have them too. So a process has one set of threads, and no compiler needs an OpenMP
   library of its own. NULL: one thread. */

#include "common.h"

void (*normlab_parallel)(void (*work)(void *), void *job, unsigned threads, unsigned flags);
int (*normlab_thread_number)(void), (*normlab_thread_count)(void);

struct job {
    Samples *samples;
    const void *pass;
    int64_t count;
};

/* Each thread has the same samples in every pass, so that it finds them in its own cache. */
static void work(void *data) {
    const struct job *job = data;
    const int64_t threads = normlab_thread_count(), own = normlab_thread_number();
    job->samples(job->pass, job->count * own / threads, job->count * (own + 1) / threads, own);
}

void normlab_share(Samples *samples, const void *pass, int64_t count, int32_t threads) {
    struct job job = {samples, pass, count};
    if (threads > 1 && normlab_parallel)
        normlab_parallel(work, &job, threads, 0);
    else
        samples(pass, 0, count, 0);
}
