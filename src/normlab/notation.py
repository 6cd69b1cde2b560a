"""The notation: a network is a line of text, made of tokens separated by spaces.

    C1 C2 c3 P1 C3 C4 C5 c6 P2 C7 C8 C9 GAP C10

A token is a kind, a label (digits, which have no effect) and options:

    C     3×3 convolution, normalization, activation, dropout
    c     1×1 convolution only
    D     3×3 depthwise convolution, normalization, then as C with a 1×1 convolution
    P, A  2×2 max pooling, 2×2 average pooling
    GAP   global average pooling; after it C and c are 1×1 and bare
    FC    fully connected layer

    :24   output width (default: solved from the budget)
    v     no padding ("valid")
    s2    stride 2
    a     D: an activation after its first normalization, too
    /gn=3 normalization of this block
    +     the block's input is added to its output
    *3    applied three times, with the same convolution weights and three normalizations

A network of the user's own, `module:function`, is a single token that stands for the whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from normlab.errors import UsageError
from normlab.own_code import REFERENCE


class LayoutError(UsageError):
    """An error in a layout, with a caret under its position.

    Attributes:
        line: The layout.
        start: The position in it, counted from 0.
        problem: What is wrong there, and what was expected.
    """

    def __init__(self, line: str, start: int, problem: str) -> None:
        self.line = re.sub(r"\s", " ", line)
        self.start = start
        self.problem = problem
        super().__init__(f"{problem}\n  {self.line}\n  {' ' * start}^")


@dataclass(frozen=True)
class Block:
    """One token of a layout.

    Attributes:
        kind: `C`, `c`, `D`, `P`, `A`, `GAP` or `FC`; or the `module:function` of a custom network.
        label: Digits for readers, to tell blocks apart; they have no effect.
        width: Output channels; None if the budget decides.
        valid: Whether the convolution has no padding.
        stride: 1 or 2.
        between: Whether an activation stands between the two convolutions of a `D`, too.
        norm: The block's own normalization, by its name in the registry; None for the network's.
        residual: Whether the input is added to the output.
        repeat: Number of times the block is applied, with the same convolution weights.
    """

    kind: str
    label: str = ""
    width: int | None = None
    valid: bool = False
    stride: int = 1
    between: bool = False
    norm: str | None = None
    residual: bool = False
    repeat: int = 1

    @property
    def custom(self) -> bool:
        """Whether it is a custom network, `module:function`, and so the only block."""
        return ":" in self.kind

    @property
    def weighted(self) -> bool:
        """Whether it has weights, and so a width; pooling has none."""
        return self.kind in ("C", "c", "D", "FC")

    def __str__(self) -> str:
        return "".join(
            (
                self.kind,
                self.label,
                f":{self.width}" if self.width is not None else "",
                "v" if self.valid else "",
                "s2" if self.stride == 2 else "",
                "a" if self.between else "",
                f"/{self.norm}" if self.norm is not None else "",
                "+" if self.residual else "",
                f"*{self.repeat}" if self.repeat != 1 else "",
            )
        )


MAX_WIDTH = 4096  # far more than a tiny network needs, and quick to count

_HEAD = re.compile(r"(GAP|FC|[CcDPA])([0-9]*)")
_WORD = re.compile(r"[A-Za-z]\w*")  # `conv`, `Conv2d`, `fc`; a block's letters are part of one
_LETTERS = re.compile(r"(GAP|FC|[CcDPA])[0-9]*(s[0-9]+|[vas])*[A-Za-z]?")  # at most one is wrong
_SEPARATOR = re.compile(r"[,;|>→-]")
# Blocks by the names that other libraries have for them.
_OTHER_NAMES = {
    **dict.fromkeys(("conv", "conv2d", "convolution"), "C"),
    **dict.fromkeys(("d", "depthwise", "separable"), "D"),
    **dict.fromkeys(("p", "pool", "maxpool", "maxpool2d"), "P"),
    **dict.fromkeys(("a", "avgpool", "avgpool2d"), "A"),
    **dict.fromkeys(("gap", "globalavgpool"), "GAP"),
    **dict.fromkeys(("fc", "linear", "dense"), "FC"),
}
_NORM = r"[A-Za-z_][A-Za-z0-9_.-]*(?::[A-Za-z_][A-Za-z0-9_]*)?(?:=[0-9]+)?"
_OPTIONS = {
    "width": re.compile(r":([0-9]+)"),
    "valid": re.compile(r"(v)"),
    "stride": re.compile(r"s([0-9]+)"),
    "between": re.compile(r"(a)"),
    "norm": re.compile(rf"/({_NORM})"),
    "residual": re.compile(r"(\+)"),
    "repeat": re.compile(r"\*([0-9]+)"),
}
_SPACES = "separate blocks with spaces alone"
# The options that each kind takes.
_ALLOWED = {
    "C": frozenset(_OPTIONS) - {"between"},
    "D": frozenset(_OPTIONS),
    "c": frozenset({"width", "stride", "residual", "repeat"}),
    "FC": frozenset({"width"}),
    "P": frozenset[str](),
    "A": frozenset[str](),
    "GAP": frozenset[str](),
}
_SPELLING = {
    "width": ":24", "valid": "v", "stride": "s2", "between": "a", "norm": "/gn", "residual": "+",
    "repeat": "*3",
}  # fmt: skip


def parse(line: str) -> tuple[Block, ...]:
    """Reads a layout.

    Raises:
        LayoutError: A token is not part of the notation; a caret shows where.
    """
    tokens = list(re.finditer(r"\S+", line))
    if not tokens:
        raise LayoutError(line, 0, "the layout is empty: expected blocks such as C:12 P c GAP")
    if len(tokens) == 1 and is_custom(line.strip()):
        return (Block(line.strip()),)
    return tuple(_parse_token(line, token.start(), token.end()) for token in tokens)


def is_block(token: str) -> bool:
    """Whether a word is a block, with or without a mistake in its options."""
    head = _HEAD.match(token)
    return head is not None and not token[head.end() : head.end() + 1].isalpha()


def is_custom(token: str) -> bool:
    """Whether a token names a custom network, `module:function`: `C:24` and the like do not."""
    named = REFERENCE.fullmatch(token)
    return named is not None and not _HEAD.fullmatch(named[1])


def format(blocks: Sequence[Block]) -> str:
    """The layout as text, options in the notation's order: the inverse of `parse`."""
    return " ".join(map(str, blocks))


def error_at(blocks: Sequence[Block], index: int, problem: str) -> LayoutError:
    """An error with its caret under the block with this index."""
    return LayoutError(format(blocks), len(format([*blocks[:index], Block("")])), problem)


def _in_range(digits: str) -> bool:
    """Whether a number is from 1 to MAX_WIDTH. Python reads no number of thousands of digits."""
    return len(digits) < 100 and 1 <= int(digits) <= MAX_WIDTH


def _parse_token(line: str, start: int, end: int) -> Block:
    if is_custom(line[start:end]):
        raise LayoutError(line, start, "your own network stands alone: remove other blocks")
    word, head = _WORD.match(line, start, end), _HEAD.match(line, start, end)
    if head is None or (word and not _LETTERS.fullmatch(word.group())):
        if _SEPARATOR.match(line, start, end):
            raise LayoutError(line, start, _SPACES)
        unknown = word.group() if word else line[start:end]
        meant = _OTHER_NAMES.get(unknown.lower().replace("_", ""))
        hint = f"did you mean {meant}? E" if meant else "e"
        raise LayoutError(
            line, start, f"unknown block {unknown!r}: {hint}xpected C, c, D, P, A, GAP or FC"
        )
    kind, label = head.groups()
    options: dict[str, str] = {}
    position = head.end()
    while position < end:
        matches = ((option, p.match(line, position, end)) for option, p in _OPTIONS.items())
        option, match = next((pair for pair in matches if pair[1]), ("", None))
        if match is None:
            takes = [_SPELLING[o] for o in _OPTIONS if o in _ALLOWED[kind]]
            expected = f"{kind} takes {' '.join(takes)}" if takes else f"{kind} takes no options"
            rest = line[position:end]
            if _SEPARATOR.match(rest):
                raise LayoutError(line, position, _SPACES)
            raise LayoutError(line, position, f"{rest!r} is not an option: {expected}")
        if option not in _ALLOWED[kind]:
            raise LayoutError(line, position, f"{kind} does not take {match.group()!r}: remove it")
        if option in options:
            raise LayoutError(line, position, f"{match.group()!r} is a second {option}: remove one")
        if option in ("width", "repeat") and not _in_range(match.group(1)):
            raise LayoutError(line, position, f"the {option} must be from 1 to {MAX_WIDTH}")
        if option == "stride" and match.group(1) != "2":
            raise LayoutError(line, position, f"stride {match.group(1)}: the only stride is s2")
        options[option] = match.group(1)
        position = match.end()
    return Block(
        kind,
        label,
        width=int(options["width"]) if "width" in options else None,
        valid="valid" in options,
        stride=int(options.get("stride", 1)),
        between="between" in options,
        norm=options.get("norm"),
        residual="residual" in options,
        repeat=int(options.get("repeat", 1)),
    )
