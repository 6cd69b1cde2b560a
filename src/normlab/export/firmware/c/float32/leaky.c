
static float leaky(float value)
{
    return value < 0 ? 0.01f * value : value;
}
