"""The layers of networks, and their compiled passes.

They are normalizations, activations, dropout, depthwise convolution and pooling.
"""
