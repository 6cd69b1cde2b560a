
static float silu(float value)
{
    return value * logistic(value);
}
