"""The training loop, its step, and one run on several processes."""
