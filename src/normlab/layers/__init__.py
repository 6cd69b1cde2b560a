"""The layers of networks: normalizations, activations, pooling, and their compiled passes."""
