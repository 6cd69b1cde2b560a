"""Reads a pickle that anyone may have written: it runs nothing, and allocates what it holds."""

import io
import pickle
from collections.abc import Callable
from textwrap import shorten
from typing import Any, ClassVar


class Part:
    """A part of a pickled array: its arguments and its state. No code of NumPy runs."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


def read_pickle(content: bytes) -> object:
    """The pickled value: plain values, tuples as lists, and each array as a `Part`.

    Raises:
        ValueError: It holds anything else, or is damaged.
    """
    try:
        value: object = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        reason = shorten(str(error), 200)
        raise ValueError(f"a pickle of plain values and arrays was expected: {reason}") from error
    return value


def _as_list(count: int) -> Callable[[Any], None]:
    """Loads a tuple of `count` values as a list."""

    def load(reader: Any) -> None:
        reader.stack[-count:] = [reader.stack[-count:]]

    return load


def _no_bytearray(_: object) -> None:
    raise pickle.UnpicklingError("it has a bytearray, which no array needs")


# Python's own implementation: the one in C allocates memory for as many values as a pickle claims.
class _Unpickler(pickle._Unpickler):
    """Reads plain values and arrays. Any other name in a pickle is refused, not imported."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _no_bytearray,  # it too allocates what the pickle claims
        # Lists cannot be keys: a tuple of twice a tuple of twice another takes forever to hash.
        pickle.TUPLE[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
        pickle.TUPLE1[0]: _as_list(1),
        pickle.TUPLE2[0]: _as_list(2),
        pickle.TUPLE3[0]: _as_list(3),
    }

    def find_class(self, module: str, name: str) -> type[Part]:
        if (module.replace("numpy._core", "numpy.core"), name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return Part
        raise pickle.UnpicklingError(f"it names {f'{module}.{name}'!r}, which no array needs")
