"""Dataclasses from the JSON that a file holds, every type checked."""

import inspect
import reprlib
from typing import Any, TypeVar, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

T = TypeVar("T")
EVERY_ITEM = CollectionCheckStrategy.ALL_ITEMS


class MalformedError(ValueError):
    """A file's content is not what it should be: it is damaged, or another program's.

    Only checks of content raise it. A programming error is another type and is never taken for
    damage.
    """


def entry(content: Any, name: str, kind: type[T]) -> T:
    """The value of a JSON object's key.

    Raises:
        MalformedError: The content is not an object, it has no such key, or the value is not of
            this type.
    """
    if not isinstance(content, dict):
        raise MalformedError(f"an object was expected, not {reprlib.repr(content)}")
    if name not in content:
        raise MalformedError(f"it has no {name!r}")
    value = content[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise MalformedError(f"{name} must be {kind.__name__}, not {reprlib.repr(value)}")
    return value


def build(kind: type[T], content: Any) -> T:
    """A dataclass from a JSON object that holds its fields' values. Lists become tuples.

    Raises:
        MalformedError: A field is missing, unknown, or of another type.
    """
    if not isinstance(content, dict):
        raise MalformedError(f"{kind.__name__} must be an object, not {reprlib.repr(content)}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    hints = get_type_hints(kind)
    for name, value in fields.items():
        if name not in hints:
            raise MalformedError(f"{kind.__name__} has no {reprlib.repr(name)}")
        try:
            check_type(value, hints[name], collection_check_strategy=EVERY_ITEM)
        except TypeCheckError:
            wanted = inspect.formatannotation(hints[name])
            raise MalformedError(f"{name} must be {wanted}, not {reprlib.repr(value)}") from None
    try:
        inspect.signature(kind).bind(**fields)
    except TypeError as error:  # a field without a default is missing
        raise MalformedError(f"{kind.__name__}: {error}") from None
    return kind(**fields)
