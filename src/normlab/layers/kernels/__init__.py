"""The compiled passes: C sources in this folder, called through ctypes.

Where there are none, `library` returns None: PyTorch's own layers then compute the same, more
slowly, and a run records that.
"""

import ctypes
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from normlab.layers.activations import Activation
from normlab.layers.kernels import build
from normlab.layers.kernels.compilers import ACTIVATION_NUMBERS

__all__ = [
    "ACTIVATION_NUMBERS",
    "Settings",
    "batch",
    "depthwise",
    "library",
    "normalize",
    "pool",
    "separable",
    "usable",
]

MAX_CHANNELS = 4096  # TILE of common.h


class _Normalization(ctypes.Structure):
    """The struct of normalize.h, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "dy", "residual", "out")),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "mean", "rstd", "scale", "shift")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_variance")),
        *((name, ctypes.c_void_p) for name in ("d_weight", "d_bias", "sums", "products")),
        *((name, ctypes.c_void_p) for name in ("factor", "constant")),
        *((name, ctypes.c_int64) for name in ("samples", "pixels", "channels", "groups", "part")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "activation", "threads", "centred")),
        ("pooled", ctypes.c_int32),
        *((name, ctypes.c_uint32) for name in ("threshold", "seed")),
        *((name, ctypes.c_float) for name in ("eps", "momentum")),
    )


class _Pointwise(ctypes.Structure):
    """The struct of pointwise.h, field for field."""

    _anonymous_ = ("norm",)
    _fields_ = (
        ("norm", _Normalization),
        *((name, ctypes.c_void_p) for name in ("filters", "d_filters", "room")),
        ("outputs", ctypes.c_int64),
    )


class _Pool(ctypes.Structure):
    """The struct of pool.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "dy", "out")),
        *((name, ctypes.c_int64) for name in ("samples", "height", "width", "channels")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "threads")),
    )


class _Batch(ctypes.Structure):
    """The struct of batch.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("images", "out", "places", "down", "right")),
        ("mirrored", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("samples", "channels", "height", "width")),
        ("threads", ctypes.c_int32),
    )


class _Depthwise(ctypes.Structure):
    """The struct of depthwise.h, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "dy", "out", "weight", "d_weight", "sums")),
        *((name, ctypes.c_int64) for name in ("samples", "height", "width", "channels")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "threads")),
    )


class _Separable(ctypes.Structure):
    """The struct of separable.c, field for field."""

    _fields_ = (
        ("depthwise", _Depthwise),
        ("pointwise", _Pointwise),
        ("norm", _Normalization),
        ("given", ctypes.c_int32),
    )


_Pass = _Batch | _Normalization | _Pointwise | _Pool | _Depthwise | _Separable
_P = TypeVar("_P", _Normalization, _Pointwise, _Pool, _Depthwise)


def library() -> ctypes.CDLL | None:
    """The compiled passes; None if no compiler builds them, and the package has none."""
    return build.load().library


def usable(x: Tensor) -> bool:
    """Whether the passes can process these maps: N × C × H × W, on the CPU, channels last."""
    return (
        x.device.type == "cpu"
        and x.numel() > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[1] <= MAX_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


class Settings(NamedTuple):
    """What a normalization is told beside its maps and weights.

    Attributes:
        activation: The activation after the affine map, one of `ACTIVATION_NUMBERS`.
        groups: Number of groups of channels.
        part: Number of samples whose statistics are taken together; divides N. None: all.
        centred: Whether the mean is subtracted.
        pooled: Whether the groups have one variance, the mean of theirs.
        eps: Is added to the variance.
        momentum: The weight of the newest part in the running statistics.
        threshold: The dropout probability, in units of 2⁻³².
        seed: The dropout seed, 32 bits.
    """

    activation: Activation | None = None
    groups: int = 1
    part: int | None = None
    centred: bool = True
    pooled: bool = False
    eps: float = 0.0
    momentum: float = 0.0
    threshold: int = 0
    seed: int = 0


def normalize(name: str, x: Tensor, settings: Settings, **tensors: Tensor | None) -> None:
    """Runs a pass of normalize.c over x, N × C × H × W.

    Args:
        name: The pass.
        x: float32 or bfloat16, channels last; so are `dy`, `residual` and `out`.
        settings: Those of the normalization.
        tensors: The pass's other tensors, by their names in the struct: float32 and contiguous.
    """
    _call(f"normlab_{name}", _filled(_normalization(x, settings), x, tensors))


def separable(
    name: str,
    x: Tensor,
    between: Tensor,
    convolved: Tensor,
    settings: Sequence[Settings],
    *,
    depthwise: Mapping[str, Tensor | None],
    pointwise: Mapping[str, Tensor | None],
    norm: Mapping[str, Tensor | None],
    threads: int,
    given: bool = False,
) -> None:
    """Runs a pass of separable.c.

    Args:
        name: The pass.
        x: The input, float32 or bfloat16, N × C × H × W, channels last; so are all maps.
        between: What the depthwise convolution computes of it.
        convolved: What the 1 × 1 convolution computes, N × K × H × W.
        settings: Those of the normalizations before and after the 1 × 1 convolution.
        depthwise: The tensors of the depthwise convolution, by their names in the struct.
        pointwise: Those of the first normalization and of the 1 × 1 convolution.
        norm: Those of the second normalization.
        threads: Number of threads; the tensors of a pass have room for each.
        given: Whether both normalizations are given `scale` and `shift`.
    """
    first, second = (
        _normalization(maps, of) for maps, of in zip((between, convolved), settings, strict=True)
    )
    product = _Pointwise(norm=first, outputs=convolved.shape[1])
    arguments = _Separable(
        depthwise=_filled(_depthwise(x), x, depthwise, threads),
        pointwise=_filled(product, between, pointwise, threads),
        norm=_filled(second, convolved, norm, threads),
        given=given,
    )
    _call(f"normlab_separable_{name}", arguments)


def batch(images: Tensor, places: Tensor, moved: Tensor, mirrored: Tensor | None) -> Tensor:
    """Runs the pass of batch.c.

    Args:
        images: All images, uint8 M × C × H × W, contiguous, on the CPU.
        places: Which of them the batch has, int64 N.
        moved: How far the window of each lies below the image, and how far right of it, in pixels,
            int64 2 × N. What is outside of the image is 0.
        mirrored: Which of them are mirrored first, bool N. None: no image.

    Returns:
        float32 N × C × H × W, 0 to 1, channels last.
    """
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert images.device.type == "cpu"
    assert places.dtype == moved.dtype == torch.int64
    _, channels, height, width = images.shape
    out = torch.empty(
        (len(places), channels, height, width),
        dtype=torch.float32,
        device="cpu",
        memory_format=torch.channels_last,
    )
    down, right = moved.contiguous()
    places = places.contiguous()
    arguments = _Batch(samples=len(places), channels=channels, height=height, width=width)
    arguments.threads = torch.get_num_threads()
    given = {"images": images, "out": out, "places": places, "down": down, "right": right}
    for field, tensor in given.items():
        setattr(arguments, field, tensor.data_ptr())
    if mirrored is not None:
        assert mirrored.dtype == torch.bool
        assert mirrored.is_contiguous()
        arguments.mirrored = mirrored.data_ptr()
    _call("normlab_batch", arguments)
    return out


def pool(name: str, x: Tensor, **tensors: Tensor) -> None:
    """Runs a pass of pool.c over x, float32 or bfloat16, N × C × H × W, channels last."""
    samples, channels, height, width = x.shape
    arguments = _Pool(samples=samples, height=height, width=width, channels=channels)
    _call(f"normlab_pool_{name}", _filled(arguments, x, tensors))


def depthwise(name: str, x: Tensor, **tensors: Tensor) -> None:
    """Runs a pass of depthwise.c over x, as `pool`. Weights are float32 and contiguous."""
    _call(f"normlab_depthwise_{name}", _filled(_depthwise(x), x, tensors))


def _normalization(x: Tensor, settings: Settings) -> _Normalization:
    samples, channels, height, width = x.shape
    part = settings.part or samples
    assert channels % settings.groups == 0, "groups divide the channels"
    assert samples % part == 0, "a part's samples divide those of the batch"
    numbers = settings._asdict() | {
        "activation": ACTIVATION_NUMBERS[settings.activation],
        "part": part,
    }
    return _Normalization(samples=samples, pixels=height * width, channels=channels, **numbers)


def _depthwise(x: Tensor) -> _Depthwise:
    samples, channels, height, width = x.shape
    return _Depthwise(samples=samples, height=height, width=width, channels=channels)


def _filled(
    arguments: _P, x: Tensor, tensors: Mapping[str, Tensor | None], threads: int | None = None
) -> _P:
    """The arguments of a pass, with its tensors."""
    arguments.x = x.data_ptr()
    arguments.bfloat16 = int(x.dtype == torch.bfloat16)
    arguments.threads = threads or torch.get_num_threads()
    for field, tensor in tensors.items():
        if tensor is not None:
            assert tensor.dim() == 4 or (tensor.is_contiguous() and tensor.dtype == torch.float32)
            setattr(arguments, field, tensor.data_ptr())
    return arguments


def _call(name: str, arguments: _Pass) -> None:
    compiled = library()
    assert compiled is not None, "call usable() first"
    getattr(compiled, name)(ctypes.byref(arguments))
