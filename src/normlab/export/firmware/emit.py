"""The C program of a network: its header and its source, from the parts in `c/`."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from normlab.network.memory import Memory
from normlab.network.steps import STATISTICS, Step
from normlab.network.zoo import ZOO

PARTS = Path(__file__).parent / "c"
COLOURS = {1: "grey", 3: "red, green, blue"}  # by the number of channels


def identifier(text: str) -> str:
    """A name for C that resembles a text: `micro-bn-0` becomes `micro_bn_0`, `int` `net_int`.

    What is one word could be a word of C or of its library, and so could what ends with `_t`.
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40].rstrip("_")
    safe = name in ZOO or ("_" in name and not name.endswith("_t") and not name[0].isdigit())
    return name if safe else f"net_{name}".rstrip("_")


def c_string(text: str) -> str:
    """A text as a string literal; what is not plain ASCII are octal escapes of its UTF-8 bytes."""
    plain = {*range(32, 127)} - {*b'"\\?'}
    content = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in content) + '"'


def array(values: NDArray[Any]) -> str:
    """A C initializer, in lines of 100 columns."""
    flat = values.ravel()
    numbers = [real(v) for v in flat] if flat.dtype.kind == "f" else [str(int(v)) for v in flat]
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(number) > 97:
            lines.append(line)
            line = "   "
        line += f" {number},"
    return "{\n" + "\n".join([*lines, line]) + "\n}"


def real(value: Any) -> str:
    """A float32 as a C literal, exact."""
    text = f"{float(value):.9g}"
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a program's text says of the network.

    Attributes:
        name: A C identifier, in lower case.
        classes: The classes' names.
        about: Names and texts.
    """

    name: str
    classes: Sequence[str]
    about: Mapping[str, str]


class Constants:
    """The program's arrays. Filters that several steps share are one."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.size = 0
        self._shared: dict[tuple[int, str], str] = {}

    def name(self, kind: str, c_type: str, values: NDArray[Any] | None) -> str:
        """Adds an array and names it; `NULL` for None or no values."""
        if values is None or values.size == 0:
            return "NULL"
        name = f"{kind}_{len(self.text)}"
        self.add(name, c_type, values)
        return name

    def add(self, name: str, c_type: str, values: NDArray[Any]) -> None:
        """Adds an array of this name."""
        self.text.append(f"static const {c_type} {name}[{values.size}] = {array(values)};")
        self.size += values.nbytes

    def filters(self, c_type: str, values: NDArray[Any] | None, step: Step) -> str:
        """The same for a step's filters, which all applications of a block share."""
        if values is None:
            return "NULL"
        key = (step.block, step.kind)
        if key not in self._shared:
            self._shared[key] = self.name("filters", c_type, values)
        return self._shared[key]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The program's text.

    Attributes:
        header: NAME.h.
        program: NAME.c.
        constants: Bytes of its arrays and its table of steps, where a pointer has 4.
    """

    header: str
    program: str
    constants: int


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What differs between programs in int8 and in float32.

    Attributes:
        folder: The folder of `c/` with its parts.
        parts: The parts that the network needs, beside `start`.
        entries: The fields of each step in the program's table, beside those of all programs.
        values: The C type of a value; so are `sums` of logits and sums, `score` of a score.
        sums: As above.
        score: As above.
        scores: The last lines of the function, which fill `scores`.
        meaning: What a score is, for the header's comment.
        defines: Further lines of the header.
        fill: Further words of the parts.
        step_size: Bytes of a step in the program's table, where a pointer has 4.
    """

    folder: str
    parts: frozenset[str]
    entries: Sequence[Mapping[str, object]]
    values: str
    sums: str
    score: str
    scores: str
    meaning: str
    defines: str = ""
    fill: Mapping[str, str]
    step_size: int


# The parts, in the order in which a program needs them.
_ORDER = (
    *(
        "start",
        "slopes",
        "exponential",
        "logistic",
        "relu",
        "leaky",
        "hard_swish",
        "silu",
        "gelu",
        "tanh",
    ),
    *("table", "activation", "addition", "coefficients", "rounded", "input", "convolution"),
    *("convolution_signed", "convolution_unsigned", "depthwise", "depthwise_signed"),
    *("depthwise_unsigned", "dense", "connect", "classify", "maximum", "average", "mean"),
    *("moments", "group_statistics", "group_norm", "gated_norm", "bounded_norm"),
    *("pixel_norm", "affine", "map_affine", "local_response"),
)
# What is done to a row after its step's function: the part, the condition and the call.
_FINISH = (
    ("slopes", "step->slopes", "apply_slopes(step, row)"),
    ("table", "step->table", "apply_table(step, row)"),
    ("activation", "step->activation", "activate(step, row)"),
    ("addition", "step->skip >= 0", "add_skip(step, arena, row, turn)"),
)


# Of a normalization: 1 if its deviation is from the mean, 2 if it subtracts the mean, too.
_CENTRED = {"group-norm": 2, "deviation-norm": 1, "gated-norm": 1, "bounded-norm": 1}


def source(origin: Origin, memory: Memory, dialect: Dialect, constants: Constants) -> Source:
    """The C program of a network.

    Args:
        origin: What its files say of the network.
        memory: Where its rows lie.
        dialect: Its parts and its steps' numbers.
        constants: The arrays that the steps name.
    """
    parts = {"start", *dialect.parts}
    fill = {
        "name": origin.name,
        "classes": str(memory.steps[-1].target[0]),
        "steps": str(len(memory.steps)),
        "score": dialect.score,
        **dialect.fill,
    }
    fill["scores"] = filled(dialect.scores, fill)
    body = "".join(
        Path(PARTS, dialect.folder, f"{part}.c").read_text() for part in _ORDER if part in parts
    )
    acle = "\n#if defined __ARM_FEATURE_DSP\n#include <arm_acle.h>\n#endif\n"
    program = "\n".join(
        [
            f"/* {_comment(origin)} */",
            f'#include "{origin.name}.h"\n',
            *(["#include <math.h>"] if "sqrtf" in body else []),
            f"#include <string.h>\n{acle if 'convolution' in parts else ''}",
            filled(body, fill),
            _finish(origin.name, dialect, parts),
            *constants.text,
            "",
            f"static const struct step steps[{len(dialect.entries)}] = {{",
            *(_entry(memory, k, fields) for k, fields in enumerate(dialect.entries)),
            "};",
            "",
            filled((PARTS / "run.c").read_text(), fill).lstrip("\n"),
        ]
    )
    return Source(
        header=_header(origin, memory, dialect),
        program=program,
        constants=constants.size + dialect.step_size * len(dialect.entries),
    )


def kernel(step: Step, *, last: bool) -> tuple[str, tuple[str, ...]]:
    """The function that runs a step, and the parts that it needs, where both dialects agree."""
    match step.kind:
        case "input":
            return "read_picture", ("input",)
        case "affine":
            return "apply_affine", ("affine",)
        case "map-affine":
            return "apply_map_affine", ("map_affine",)
        case "local-response":
            return "divide_by_neighbours", ("local_response",)
        case "maximum":
            return "pool_maximum", ("maximum",)
        case "average":
            return "pool_average", ("average",)
        case "mean":
            return "average_map", ("mean",)
        case "group-norm" | "rms-norm" | "deviation-norm":
            return "normalize_groups", ("moments", "group_statistics", "group_norm")
        case "gated-norm":
            return "normalize_and_gate", ("moments", "group_statistics", "gated_norm")
        case "bounded-norm":
            return "divide_by_deviations", ("moments", "bounded_norm")
        case "pixel-norm":
            return "normalize_pixels", ("pixel_norm",)
        case "depthwise":
            return "convolve_channels", ("depthwise",)
    if last:
        return "classify", ("dense", "classify")
    if step.window == step.source[1:] and not step.padding:
        return "connect", ("dense", "connect")
    return "convolve", ("convolution",)


def filled(text: str, fill: Mapping[str, str]) -> str:
    """A text with its `@words@` filled in."""
    return re.sub(r"@(\w+)@", lambda match: fill[match[1]], text)


def _entry(memory: Memory, k: int, own: Mapping[str, object]) -> str:
    """A step's entry in the program's table: what is 0 or NULL is left out."""
    step, rows = memory.steps[k], memory.rows[k]
    before = memory.steps[k - 1] if k else None
    last = k == len(memory.steps) - 1
    channels, height, columns = step.target
    whole_map = step.kind in STATISTICS
    fields: dict[str, object] = {
        **own,
        "at": 0 if last else rows.offset // rows.item,
        "count": 0 if last else rows.count,
        "slot": rows.slot_size // rows.item,
        "width": rows.width,
        "padding": rows.padding,
        "height": height,
        "columns": columns,
        "channels": channels,
        "turns": step.turns,
        "window": step.window[0],
        "groups": step.groups,
        "skip": -1 if step.skip is None else step.skip,
        "stride": step.stride,
        "border": step.padding,
        "whole": int(whole_map or (before is not None and before.kind == "mean")),
        "centred": _CENTRED.get(step.kind, 0),
    }
    lines, line = [], "    {"
    for key, value in fields.items():
        if value in (0, "NULL"):
            continue
        text = f".{key} = {value}"
        if len(line) + len(text) > 97:
            lines.append(line.rstrip())
            line = "     "
        line += f"{text}, "
    return "\n".join([*lines, line.rstrip(", ") + "},"])


def _finish(name: str, dialect: Dialect, parts: set[str]) -> str:
    """The function that is called after a step's own: as much of it as the network needs."""
    lines = [
        "/* What comes after a row's values: activation, addition, zeros at its ends. */",
        f"static void finish(const struct step *step, struct {name}_arena *arena, int turn)",
        "{",
        f"    {dialect.values} *row = row_of(step, arena, turn);",
    ]
    for part, condition, call in _FINISH:
        if part in parts:
            lines += [f"    if ({condition})", f"        {call};"]
    lines += [
        "    memset(row - step->padding, 0, step->padding * sizeof *row);",
        "    memset(row + step->width, 0, step->padding * sizeof *row);",
        "}",
        "",
    ]
    return "\n".join(lines)


def _comment(origin: Origin) -> str:
    """The origin, as the content of a comment: nothing in it can end the comment."""
    lines = [f"{origin.name}: a network trained with normlab."]
    lines += [f"{key}: {json.dumps(value)}" for key, value in origin.about.items()]
    return "\n   ".join(line.replace("*/", "* /").replace("/*", "/ *") for line in lines)


def _header(origin: Origin, memory: Memory, dialect: Dialect) -> str:
    channels, height, width = memory.steps[0].source
    name, upper = origin.name, origin.name.upper()
    names = ", \\\n    ".join(map(c_string, origin.classes))
    areas = [
        (dialect.sums, "logits", memory.steps[-1].target[0]),
        (dialect.sums, "sums", memory.sums),
        (dialect.sums, "coefficients", memory.coefficients),
        ("uint16_t", "done", len(memory.steps)),
        (dialect.values, "rows", max(memory.size // memory.item, 1)),
    ]
    fields = "\n".join(f"    {kind} {field}[{count}];" for kind, field, count in areas if count)
    return f"""/* {_comment(origin)} */
#ifndef {upper}_H
#define {upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_CHANNELS {channels}
#define {upper}_HEIGHT {height}
#define {upper}_WIDTH {width}
#define {upper}_CLASSES {memory.steps[-1].target[0]}
{filled(dialect.defines, {"NAME": upper})}#define {upper}_CLASS_NAMES {{ \\
    {names}}}

/* Working memory: {memory.arena:,} bytes where a pointer has 4. Its content need not be kept. */
struct {name}_arena {{
    const uint8_t *pixels;
{fields}
}};

/* Classifies a picture.

   pixels: HEIGHT x WIDTH x CHANNELS bytes: rows from top to bottom, pixels from left to right,
           a pixel's values in the order {COLOURS[channels]}.
   scores: CLASSES results. {dialect.meaning}
   Returns the best class, from 0. It keeps nothing between calls, and needs no heap. */
int {name}(const uint8_t *pixels, {dialect.score} *scores, struct {name}_arena *arena);

#ifdef __cplusplus
}}
#endif
#endif
"""
