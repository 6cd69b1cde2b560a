"""What people type: one line for a flag, a value or an argument that a command does not take.

The words that it takes are tyro's: a command's parameters, and the fields of their dataclasses.
"""

import dataclasses
import difflib
import functools
import inspect
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from tyro.conf import Positional, UseAppendAction
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from normlab.errors import UsageError
from normlab.network.zoo import ZOO
from normlab.notation import is_block
from normlab.wording import listed

Command = Callable[..., None]

# What people call values, where it is not near what normlab calls them.
_OTHER_VALUES = {
    "gpu": "cuda",
    "fp32": "float32",
    "learning-rate": "lr",
    "weight-decay": "wd",
    "swish": "silu",
}
_HAVE_COMMAS = {"--classes", "--contrasts"}  # flags whose values may have some of their own
_COMMON = 4  # letters at the begin of two words that are near: `normalization`, `norms`


def unknown_command(arguments: Sequence[str], commands: Sequence[str]) -> UsageError:
    """The error for a first word that is no command."""
    typed = arguments[0]
    hint = _did_you_mean(typed, commands)
    if networks([typed]):
        words = takewhile(lambda word: not word.startswith("-"), arguments)
        layout = typed if typed in ZOO else " ".join(words)
        quoted = f'"{layout}"' if " " in layout else layout
        hint = f"did you mean normlab train {quoted}? "
    return UsageError(f"no command {typed!r}: {hint}`normlab --help` lists the commands")


def networks(words: Sequence[str]) -> list[str]:
    """The words that are networks: names, layouts, or blocks of a layout."""
    return [word for word in words if word in ZOO or is_block(word)]


def refuse_unknown_flags(command: str, function: Command, arguments: Sequence[str]) -> None:
    """Raises UsageError for the first flag that a command does not have.

    Args:
        command: Its name.
        function: Its function.
        arguments: What follows its name.
    """
    known = flags(function)
    for argument in arguments:
        if argument == "--":
            return
        flag = argument.partition("=")[0].replace("_", "-")
        if not flag.startswith("--") or flag in known or flag.startswith("--tyro-"):
            continue
        if flag in ("--network", "--model", "--layout") and _has_network(known):
            hint = f"the network is given without a flag, as in normlab {command} micro. "
        else:
            hint = _did_you_mean(flag, known)
        raise UsageError(
            f"normlab {command} has no {flag}: {hint}`normlab {command} --help` lists the flags"
        )


def refuse_misplaced_values(command: str, function: Command, arguments: Sequence[str]) -> None:
    """Raises UsageError for the first flag that lacks its value, or has one and takes none.

    Args:
        command: Its name.
        function: Its function.
        arguments: What follows its name; its flags are known.
    """
    taking = {name: p.takes for p in _parameters(function) for name in p.names}
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=False):
        if argument == "--":
            return
        flag, equals, value = argument.partition("=")
        takes = taking.get(flag.replace("_", "-"))
        if takes in ("one", "some") and not equals and following.startswith("--"):
            raise UsageError(
                f"{flag} needs a value: `normlab {command} --help` says which it takes"
            )
        if takes == "none" and equals:
            raise UsageError(f"{flag} takes no value: leave out ={value}")


def refuse_commas(function: Command, arguments: Sequence[str]) -> None:
    """Raises UsageError for the first flag whose values are separated by commas.

    Args:
        function: The command's function.
        arguments: What follows its name.
    """
    several = {
        name for p in _parameters(function) if p.takes in ("some", "any") for name in p.names
    }
    for flag, value in _values(arguments):
        if flag == "--":
            return
        if "," not in value or flag not in several - _HAVE_COMMAS:
            continue
        if re.fullmatch(r"\d{1,3}(,\d{3})+", value):  # one number: its reader refuses it
            continue
        values = [part.strip() for part in value.split(",") if part.strip()]
        spaced = f"{flag} {shlex.join(values)}"
        raise UsageError(f"{flag} {value}: separate values with spaces: {spaced}")


def missing(command: str, function: Command, arguments: Sequence[str]) -> UsageError:
    """The error for a command that lacks an argument which it needs.

    Args:
        command: Its name.
        function: Its function.
        arguments: What follows its name.
    """
    parameters = [*_parameters(function)]
    given = {flag for flag, _ in _values(arguments)}
    words = len([*_untaken(function, arguments)])
    needed = [p.shown for p in parameters if p.required and not p.names][words:]
    needed += [p.shown for p in parameters if p.required and p.names and not given & {*p.names}]
    problem = f"needs {listed(needed)}" if needed else "cannot read these arguments"
    return UsageError(f"normlab {command} {problem}: `normlab {command} --help` says what it takes")


def flags(function: Command) -> list[str]:
    """The flags of a command's function, with their other names, and --help."""
    return ["--help", *(name for p in _parameters(function) for name in p.names)]


class _Parameter(NamedTuple):
    """A parameter of a command, as it is typed.

    Attributes:
        names: The flag and its other names; empty for what has none.
        takes: How many values: `none`, `one`, `some` or `any`, which may be none.
        required: Whether it must be given.
        shown: What stands for it in the help.
        kinds: The types of its values, and what annotates them.
    """

    names: tuple[str, ...]
    takes: str
    required: bool
    shown: str
    kinds: tuple[Any, ...]


def _parameters(function: Command) -> Iterator[_Parameter]:
    """The parameters of a command's function, and the fields of those that are dataclasses."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = get_args(hints[name])[0] if get_args(hints[name]) else hints[name]
        if dataclasses.is_dataclass(kind):
            fields = get_type_hints(kind, include_extras=True)
            for field in dataclasses.fields(kind):
                yield _parameter(field.name, fields[field.name], required=False)
        else:
            required = parameter.default is inspect.Parameter.empty
            yield _parameter(name, hints[name], required=required)


def _parameter(name: str, hint: Any, *, required: bool) -> _Parameter:
    """A parameter by its name and type, with what `tyro.conf` says of it."""
    extras = getattr(hint, "__metadata__", ())
    kind = get_args(hint)[0] if extras else hint
    names, aliases, shown = [name], list[str](), ""
    for extra in extras:
        names += [given] if (given := getattr(extra, "name", None)) else []
        aliases += getattr(extra, "aliases", None) or ()
        shown = getattr(extra, "metavar", None) or shown
    flag = f"--{names[-1].replace('_', '-')}"
    if get_origin(kind) is tuple:
        takes = "one" if UseAppendAction in extras else "some"
        required = required and Positional not in extras  # a command says what it expects
    elif any(get_origin(part) is tuple for part in get_args(kind)):
        takes = "any"
    else:
        takes = "none" if kind is bool else "one"
    kinds = tuple(_parts(hint))
    if Positional in extras:
        return _Parameter((), takes, required, shown or name.upper(), kinds)
    return _Parameter((flag, *aliases), takes, required, flag, kinds)


def _parts(hint: Any) -> Iterator[Any]:
    """What a type is made of: `int` and `None` of `int | None`. A choice is one part."""
    if get_origin(hint) in (None, Literal):
        yield hint
    else:
        for part in get_args(hint):
            yield from _parts(part)


def unexpected(
    command: str, function: Command, arguments: Sequence[str], rest: Sequence[str]
) -> UsageError:
    """The error for arguments that a command did not take.

    Args:
        command: Its name.
        function: Its function.
        arguments: What follows its name.
        rest: What of this it did not take, in order.
    """
    typed, known = rest[0], flags(function)
    untaken = [*_untaken(function, arguments)]
    before = next((flag for flag, word in untaken if word == typed), "")
    words = [word for _, word in untaken if not word.startswith("-")]
    is_layout = any(map(is_block, words)) and not any(w in ZOO or " " in w for w in words)
    if before == "--seeds":
        return UsageError("--seeds takes the number of seeds: --seeds 3 means seeds 0, 1 and 2")
    if "--layouts" in known and (typed in ZOO or " " in typed):
        return UsageError(f"give further networks with a flag: --layouts {shlex.quote(typed)}")
    if _has_network(known) and is_layout and len(words) > 1:
        return UsageError(f'put the layout in quotes: normlab {command} "{" ".join(words)}"')
    hint = f"did you mean --dataset {typed}? " if "--dataset" in known and _is_data(typed) else ""
    return UsageError(
        f"normlab {command} does not take {typed!r}: {hint}`normlab {command} --help` says what it "
        "takes"
    )


def _values(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word with the last flag up to it, which is empty if there is none.

    A flag comes with what follows its `=`, which may be nothing.
    """
    flag = ""
    for argument in arguments:
        value = argument
        if argument.startswith("--"):
            flag, _, value = argument.partition("=")
            flag = flag.replace("_", "-")
        yield flag, value


def _untaken(function: Command, arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The words that no flag takes, each with the last flag before it."""
    taking = {name: p.takes for p in _parameters(function) for name in p.names}
    left = "none"
    for argument, (flag, _) in zip(arguments, _values(arguments), strict=True):
        if argument.partition("=")[0].replace("_", "-") in taking:
            left = "none" if "=" in argument else taking[flag]
        elif left == "none":
            yield flag, argument
        elif left == "one":
            left = "none"


def readers(function: Command, arguments: Sequence[str]) -> ConstructorRegistry:
    """How the values of flags are read, and the help of a dataclass's fields.

    A value of the wrong kind raises UsageError, which names the flag.

    Args:
        function: The command's function.
        arguments: The command line, from which the flag is found.
    """
    registry = ConstructorRegistry()
    asked = False

    @registry.struct_rule
    def unwrapped(info: StructTypeInfo) -> StructConstructorSpec | None:
        """A dataclass's fields, each with its help on one line: tyro keeps a docstring's lines."""
        nonlocal asked
        if asked:  # by itself: tyro's own rule is next
            return None
        asked = True
        spec = registry.get_struct_spec(info)
        asked = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        fields = (
            dataclasses.replace(field, helptext=functools.partial(_on_one_line, field.helptext))
            for field in spec.fields
        )
        return dataclasses.replace(spec, fields=tuple(fields))

    @registry.primitive_rule
    def read(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if get_origin(info.type) is Literal:
            choices = get_args(info.type)
            return _spec(info, "{" + ",".join(choices) + "}", lambda text: _choice(text, info.type))
        if info.type in (int, float):
            return _spec(info, info.type.__name__.upper(), lambda text: _number(text, info.type))
        return None

    def _spec(
        info: PrimitiveTypeInfo, metavar: str, read: Callable[[str], Any]
    ) -> PrimitiveConstructorSpec[Any]:
        kind = info.type if isinstance(info.type, type) else str
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda texts: read(texts[0]),
            is_instance=lambda value: isinstance(value, kind),
            str_from_instance=lambda value: [str(value)],
        )

    def _choice(text: str, kind: Any) -> str:
        choices = get_args(kind)
        if text in choices:
            return text
        if "," in text:
            one = listed(choices, "or")
            raise UsageError(f"{_flag(text, kind)} takes one of {one} at a time, not {text!r}")
        hint = _did_you_mean(text, choices)
        choose = "Choose" if hint else "choose"
        raise UsageError(f"no {_flag(text, kind)} {text!r}: {hint}{choose} {listed(choices, 'or')}")

    def _number(text: str, kind: type) -> Any:
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise UsageError(f"{_flag(text, kind)} must be {what}, not {text!r}") from None

    def _flag(text: str, kind: Any) -> str:
        """The flag that a value belongs to: one that takes this kind of values."""
        kinds = {name: p.kinds for p in _parameters(function) for name in p.names}
        having = [flag for flag, value in _values(arguments) if value == text]
        # --to has a constructor of its own, which does not show its choices in the type.
        fitting = [flag for flag in having if kind in kinds.get(flag, ())]
        return next(iter(fitting or having), "")

    return registry


def unwrapped_arguments(function: Command) -> str:
    """A command's docstring, each argument on one line: tyro keeps a docstring's lines."""
    return re.sub(r"\n {8,}", " ", inspect.getdoc(function) or "")


def _on_one_line(text: str | Callable[[], str | None] | None) -> str | None:
    text = text() if callable(text) else text
    return text and " ".join(text.split())


def _has_network(flags: Sequence[str]) -> bool:
    """Whether a command with these flags takes a network."""
    return "--norm" in flags or "--norms" in flags


def _is_data(text: str) -> bool:
    """Whether a text names a data set."""
    from normlab.data.sources import names  # takes time to import

    return text.partition(":")[0] in names()


def _did_you_mean(typed: str, known: Sequence[str]) -> str:
    """`did you mean X? `; empty if nothing is near. What begins alike is nearer than the rest."""
    words = {name.strip("-"): name for name in known}
    word = typed.strip("-").lower()
    if _OTHER_VALUES.get(word) in words:
        return f"did you mean {_OTHER_VALUES[word]}? "
    alike = [
        name
        for name in words
        if word[:_COMMON].startswith(name[:_COMMON]) or name[:_COMMON].startswith(word[:_COMMON])
    ]
    near = difflib.get_close_matches(word, alike or words, n=1, cutoff=0 if alike else 0.6)
    return f"did you mean {words[near[0]]}? " if near else ""
