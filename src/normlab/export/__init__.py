"""A trained network for use without normlab: ONNX, or PyTorch's exported program."""
