
/* How many turns of the step before come before a turn. */
static int turns_needed(const struct step *step, int turn)
{
    const struct step *source = step - 1;
    int needed = turn * step->stride - step->border + step->window;
    return step->whole || needed > source->turns ? source->turns : needed;
}

/* Of the steps whose source has the rows that they read next, the last one runs. */
int @name@(const uint8_t *pixels, @score@ *scores, struct @name@_arena *arena)
{
    const int last = @steps@ - 1;
    uint16_t *done = arena->done;
    arena->pixels = pixels;
    memset(done, 0, sizeof arena->done);
    while (done[last] < steps[last].turns) {
        int k = last;
        while (k > 0 && done[k - 1] < turns_needed(&steps[k], done[k]))
            k--;
        steps[k].run(&steps[k], arena, done[k]);
        if (steps[k].count > 0) /* all but the last step, which has no rows */
            finish(&steps[k], arena, done[k]);
        done[k]++;
    }
    int best = 0;
    for (int c = 1; c < @classes@; c++)
        if (arena->logits[c] > arena->logits[best])
            best = c;
@scores@
    return best;
}
