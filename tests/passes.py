"""The compiled passes under test: where they are, and the maps that they take."""

import pytest
import torch

from normlab.layers import kernels
from normlab.training.precision import products_in

DTYPES = (torch.float32, torch.bfloat16)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "bfloat16"])
compiled = pytest.mark.skipif(
    kernels.library() is None, reason="no compiler here builds the passes"
)


def maps(shape, *, seed=0, dtype=torch.float32, mean=0.0, deviation=1.0):
    """N × C × H × W, channels last."""
    draws = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=draws) + mean) * deviation
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def products_of(dtype):
    """Products in the precision of maps of this type."""
    return products_in("bfloat16" if dtype == torch.bfloat16 else "float32", torch.device("cpu"))
