
/* e^value, within a few units of its last bit: 2^n times the series of what is left. */
static float exponential(float value)
{
    value = value < -87.0f ? -87.0f : value > 87.0f ? 87.0f : value;
    int32_t n = (int32_t)(value * 1.44269504f + (value < 0 ? -0.5f : 0.5f));
    float r = value - (float)n * 0.693359375f - (float)n * -2.12194440e-4f;
    float sum = 1.0f + r * (1.0f / 6.0f);
    sum = 1.0f + r * sum * (1.0f / 5.0f);
    sum = 1.0f + r * sum * (1.0f / 4.0f);
    sum = 1.0f + r * sum * (1.0f / 3.0f);
    sum = 1.0f + r * sum * (1.0f / 2.0f);
    sum = 1.0f + r * sum;
    uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}
