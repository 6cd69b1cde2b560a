
/* The nearest integer of a float within a limit. */
static int32_t rounded(float value, float limit)
{
    value = value < -limit ? -limit : value > limit ? limit : value;
    return (int32_t)(value + (value < 0 ? -0.5f : 0.5f));
}
