"""What networks are made of: normalizations, activations, pooling, their compiled passes."""
