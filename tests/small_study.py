"""A small study on the embedded digits, and what of it does not depend on the clock."""

import json

from normlab.config import StudyConfig

LINE = "C:4 P C:6 P GAP FC"
CONFIG = StudyConfig(
    network=LINE,
    norms=("bn", "ln"),
    seeds=2,
    dataset="digits",
    recipe="demo",
    epochs=2,
    batch_sizes=(32,),
)


def content(path):
    """study.json without what depends on the clock."""
    read = json.loads((path / "study.json").read_text())
    return {key: value for key, value in read.items() if key != "costs"}
