
static float hard_swish(float value)
{
    float gate = value + 3.0f;
    gate = gate < 0 ? 0 : gate > 6.0f ? 6.0f : gate;
    return value * gate / 6.0f;
}
