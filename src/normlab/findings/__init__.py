"""What the numbers say: statistics, and conclusions in words."""
