"""A run on disk: its folder, its checkpoint, the machine that computed it."""
