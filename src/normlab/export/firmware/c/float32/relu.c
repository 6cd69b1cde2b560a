
static float relu(float value)
{
    return value > 0 ? value : 0;
}
