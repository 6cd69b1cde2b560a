"""What comes with a C program: a test with ten drawn pictures, a Makefile, a page."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.errors import printable
from normlab.export.firmware import emit
from normlab.export.firmware.program import Firmware

PICTURES = 10
BESIDE = ("test.c", "Makefile", "README.md")  # the program


def pictures(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Ten drawn pictures, uint8 N × C × H × W: blurred patches of random colours, with noise."""
    channels, height, width = shape
    random = np.random.default_rng(0)
    coarse = random.uniform(0, 255, (PICTURES, channels, 5, 5))
    drawn = _between(_between(coarse, height, 2), width, 3)
    noise = random.normal(0, 12, drawn.shape)
    return np.clip(drawn + noise, 0, 255).astype(np.uint8)


def _between(values: NDArray[np.float64], count: int, axis: int) -> NDArray[np.float64]:
    """Values at `count` places between those given, along an axis."""
    place = np.linspace(0, values.shape[axis] - 1.001, count)
    first = place.astype(int)
    share = place - first
    share = share[:, None] if axis == 2 else share
    low, high = values.take(first, axis), values.take(first + 1, axis)
    between: NDArray[np.float64] = low * (1 - share) + high * share
    return between


def project(name: str, firmware: Firmware, classes: tuple[str, ...]) -> dict[str, str]:
    """The folder's files and their content."""
    text, memory = firmware.source, firmware.memory
    drawn = pictures(memory.steps[0].source)
    logits = firmware.logits(drawn)
    channels, height, width = memory.steps[0].source
    fill = {
        "name": name,
        "NAME": name.upper(),
        "count": str(PICTURES),
        "pictures": _rows(drawn.transpose(0, 2, 3, 1)),
        "score": firmware.score,
        "expected": _rows(firmware.scores(logits)),
        "best": emit.array(logits.argmax(1)),
        "library": " and `sqrtf`" if "<math.h>" in text.program else "",
        "arena": f"{memory.arena:,}",
        "constants": f"{text.constants:,}",
        "shape": f"{height} × {width} × {channels}",
        "colours": emit.COLOURS[channels],
        "classes": "\n".join(f"{k}. {_plain(c)}" for k, c in enumerate(classes)),
    }
    return {
        f"{name}.h": text.header,
        f"{name}.c": text.program,
        **{file: emit.filled((emit.PARTS / file).read_text("utf-8"), fill) for file in BESIDE},
    }


def _rows(values: NDArray[Any]) -> str:
    """An initializer of an array of arrays."""
    return "{\n" + ",\n".join(emit.array(row) for row in values) + "}"


def _plain(text: str) -> str:
    """A name in a list of Markdown: on one line, as code, which has no markup."""
    content = printable(text)
    longest = max((len(run) for run in _runs(content)), default=0)
    fence, room = "`" * (longest + 1), " " * (longest > 0)
    return f"{fence}{room}{content}{room}{fence}"


def _runs(text: str) -> list[str]:
    """The runs of backticks in a text."""
    return ["`" * len(part) for part in "".join(c if c == "`" else " " for c in text).split()]
