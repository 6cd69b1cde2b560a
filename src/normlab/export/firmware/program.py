"""A program's text with the reference for its results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from normlab.export.firmware import emit, float32, int8, reference
from normlab.export.firmware.parameters import Parameters
from normlab.export.firmware.quantize import quantize
from normlab.network.memory import Memory


@dataclass(frozen=True, kw_only=True)
class Firmware:
    """A program, and what it must compute.

    Attributes:
        source: Its text.
        memory: Where its rows lie.
        score: The C type of a score.
        logits: From pixels, uint8 N × C × H × W, to logits, N × classes.
        scores: From logits to scores.
    """

    source: emit.Source
    memory: Memory
    score: Literal["int8_t", "float"]
    logits: Callable[[NDArray[np.uint8]], NDArray[Any]]
    scores: Callable[[NDArray[Any]], NDArray[Any]]


def in_integers(
    origin: emit.Origin,
    memory: Memory,
    parameters: Sequence[Parameters],
    calibration: NDArray[np.uint8],
) -> Firmware:
    """The program in int8. Raises what `quantize` raises."""
    network = quantize(memory.steps, parameters, calibration)
    return Firmware(
        source=int8.source(origin, network, memory),
        memory=memory,
        score="int8_t",
        logits=partial(reference.logits, network),
        scores=partial(reference.scores, network),
    )


def in_floats(origin: emit.Origin, memory: Memory, parameters: Sequence[Parameters]) -> Firmware:
    """The program in single floats."""
    return Firmware(
        source=float32.source(origin, parameters, memory),
        memory=memory,
        score="float",
        logits=partial(float32.logits, memory.steps, parameters),
        scores=lambda logits: logits,
    )
