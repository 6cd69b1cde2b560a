"""The precision of a network's products in training: float32 or bfloat16."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from normlab.config import Precision


@contextmanager
def products_in(precision: Precision, device: torch.device) -> Iterator[None]:
    """Computes convolutions and matrix products in a precision; bfloat16 by PyTorch's autocast.

    On processors for which oneDNN has no products of bfloat16, PyTorch's own take ten times as long
    as those of float32. There the products are rounded alike, but computed in float32.
    """
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        if device.type == "cpu" and not has_bfloat16_products():
            with RoundedProducts():
                yield
        else:
            yield


@cache
def has_bfloat16_products() -> bool:
    """Whether oneDNN has products of bfloat16 for this processor."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class RoundedProducts(TorchFunctionMode):
    """Within autocast, rounds what is multiplied to bfloat16, multiplies in float32, and rounds.

    Instructions for bfloat16 multiply exactly and add in float32, too: only the order of their
    sums is another. The same holds for the gradients.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        multiplied = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if (
            func not in (torch.conv2d, F.linear)
            or not torch.is_autocast_enabled("cpu")
            or any(value.dtype not in (torch.float32, torch.bfloat16) for value in multiplied)
        ):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            named = {name: _rounded(value) for name, value in kwargs.items()}
            return func(*map(_rounded, args), **named).bfloat16()


def _rounded(value: Any) -> Any:
    """A tensor rounded to bfloat16, as float32; other values as they are."""
    return value.bfloat16().float() if isinstance(value, Tensor) else value
