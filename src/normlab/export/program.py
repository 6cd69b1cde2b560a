"""A network as a traced program, which every export format starts from."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from normlab.export.folding import InferenceModel

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
PredictFn = Callable[[Pixels], Probabilities]
"""From pixels, uint8 N × C × S × S, to probabilities, float32 N × classes."""


def trace(network: InferenceModel) -> ExportedProgram:
    """A network's program, for batches of any size. Raises whatever tracing raises."""
    images = torch.zeros((2, *network.shape), dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    with quiet():
        program = torch.export.export(network, (images,), dynamic_shapes={"images": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names folders of this machine
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Silences PyTorch's exporters: progress, traces, a note that torchvision is missing.

    Errors are still raised.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
