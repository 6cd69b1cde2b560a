
static float gelu(float value)
{
    return value * logistic(1.59576912f * (value + 0.044715f * (value * value * value)));
}
