
static float squashed(float value)
{
    return 1.0f - 2.0f / (exponential(2.0f * value) + 1.0f);
}
