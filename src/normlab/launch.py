"""The variables by which torchrun tells a process of which run it is a part."""

import os


def launch_variables() -> tuple[str, str]:
    """The number of processes (WORLD_SIZE) and this one's (RANK), as they are set; empty if not."""
    size, rank = (os.environ.get(name, "").strip() for name in ("WORLD_SIZE", "RANK"))
    return size, rank
