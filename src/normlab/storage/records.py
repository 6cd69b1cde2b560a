"""Dataclasses from the JSON that a file holds, every type and every range checked."""

import dataclasses
import inspect
import json
import math
import reprlib
from collections.abc import Hashable, Mapping
from functools import cache
from types import NoneType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from normlab.errors import UsageError
from normlab.ranges import Range

T = TypeVar("T")
EVERY_ITEM = CollectionCheckStrategy.ALL_ITEMS


class MalformedError(ValueError):
    """A file's content is not what it should be: it is damaged, or another program's.

    Only checks of content raise it. A programming error is another type and is never taken for
    damage.
    """


def parse(text: str) -> Any:
    """JSON as the standard defines it, without NaN and infinity.

    Raises:
        MalformedError: It is not JSON, or it is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except MalformedError:
        raise
    except ValueError as error:
        raise MalformedError(str(error)) from None
    except RecursionError:
        raise MalformedError("it is nested too deeply") from None


def _refuse_constant(name: str) -> None:
    raise MalformedError(f"{name} is not a number")


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
        MalformedError: A field is missing, unknown, of another type or out of its range.
    """
    if not isinstance(content, dict):
        raise MalformedError(f"{kind.__name__} must be an object, not {reprlib.repr(content)}")
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    check(kind, fields)
    return kind(**fields)


def stated(record: Any, *if_given: str) -> dict[str, Any]:
    """A dataclass's fields as a file has them: some only if they are not the default.

    Args:
        record: The dataclass.
        if_given: These fields, which older files lack.
    """
    default = {field.name: field.default for field in dataclasses.fields(record)}
    return {
        name: value
        for name, value in dataclasses.asdict(record).items()
        if name not in if_given or value != default[name]
    }


def check(kind: type[Any], fields: Mapping[Any, Any]) -> None:
    """Checks the values of a dataclass's fields.

    Raises:
        MalformedError: A field is missing, unknown, of another type or out of its `Range`.
    """
    types, ranges = _hints(kind)  # type: ignore[arg-type]  # a class can be hashed
    for name, value in fields.items():
        if name not in types:
            raise MalformedError(f"{kind.__name__} has no {reprlib.repr(name)}")
        try:
            if type(value) is not types[name]:  # in most fields it is
                check_type(value, types[name], collection_check_strategy=EVERY_ITEM)
        except TypeCheckError:
            wanted = _text(types[name])
            raise MalformedError(f"{name} must be {wanted}, not {reprlib.repr(value)}") from None
        check_range(name, value, ranges[name])
    try:
        _signature(kind).bind(**fields)  # type: ignore[arg-type]
    except TypeError as error:  # a field without a default is missing
        raise MalformedError(f"{kind.__name__}: {error}") from None


def check_settings(settings: object) -> None:
    """Refuses settings that a file could not hold: what is written must be readable again.

    Args:
        settings: A dataclass of `config`.

    Raises:
        UsageError: A field is of another type or out of its `Range`; it is named as its flag.
    """
    try:
        check(type(settings), vars(settings))
    except MalformedError as error:
        name, _, problem = str(error).partition(" ")
        raise UsageError(f"--{name.replace('_', '-')} {problem}") from None


def check_range(name: str, value: Any, allowed: Range | None) -> None:
    """Raises MalformedError if a number, or one in a tuple, is not finite or out of its range."""
    for item in value if isinstance(value, tuple) else (value,):
        if isinstance(item, float) and not math.isfinite(item):
            raise MalformedError(f"{name} must be finite, not {item}")
        if allowed is not None and isinstance(item, bool):  # Python takes it for 0 or 1
            raise MalformedError(f"{name} must be a number, not {item}")
        if allowed is not None and not isinstance(item, str | None) and item not in allowed:
            raise MalformedError(f"{name} must be {allowed}, not {reprlib.repr(item)}")


@cache
def _hints(kind: Hashable) -> tuple[dict[str, Any], dict[str, Range | None]]:
    """A dataclass's types and ranges, by its fields."""
    annotated = get_type_hints(kind, include_extras=True)
    ranges = {name: _range(hint) for name, hint in annotated.items()}
    return get_type_hints(kind), ranges


@cache
def _signature(kind: Hashable) -> inspect.Signature:
    """What a dataclass is made with."""
    return inspect.signature(kind)  # type: ignore[arg-type]  # a class can be called


def _text(hint: Any) -> str:
    """A type as text: `int | None`."""
    if get_origin(hint) is Union:
        return " | ".join(map(_text, get_args(hint)))
    return "None" if hint is NoneType else inspect.formatannotation(hint)


def _range(hint: Any) -> Range | None:
    """The range in an annotation, or in a part of it: of a union, or of a tuple's items."""
    stated = [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Range)]
    inner = [_range(part) for part in getattr(hint, "__args__", ())]
    return next((found for found in (*stated, *inner) if found is not None), None)
