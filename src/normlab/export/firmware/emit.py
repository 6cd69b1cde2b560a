"""The C program of a network: its header and its source, from the parts in `c/`."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.errors import UsageError
from normlab.export.firmware.quantize import MEAN_FACTOR, Integers, Quantized
from normlab.network.memory import Memory
from normlab.network.steps import Step

_FOLDER = Path(__file__).parent / "c"
_WIDEST = 2**16 - 1

# The parts, in the order in which the program needs them.
_PARTS = (
    "start", "slopes", "table", "addition", "coefficients", "rounded", "input", "convolution",
    "convolution_signed", "convolution_unsigned", "depthwise", "depthwise_signed",
    "depthwise_unsigned", "dense", "connect", "classify",
    "maximum", "average", "mean", "group_norm", "pixel_norm", "affine",
)  # fmt: skip
_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long main register restrict return short signed sizeof static struct switch "
    "typedef union unsigned void volatile while steps".split()
)


def identifier(text: str) -> str:
    """A name for C that resembles a text: `micro-bn-0` becomes `micro_bn_0`."""
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40].rstrip("_")
    if not name or name[0].isdigit() or name in _KEYWORDS:
        name = f"net_{name}".rstrip("_")
    return name


def c_string(text: str) -> str:
    """A text as a string literal; what is not plain ASCII are octal escapes of its UTF-8 bytes."""
    plain = {*range(32, 127)} - {*b'"\\?'}
    content = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in content) + '"'


def array(values: NDArray[Any]) -> str:
    """A C initializer, in lines of 100 columns."""
    flat = values.ravel()
    numbers = [_float(v) for v in flat] if flat.dtype.kind == "f" else [str(int(v)) for v in flat]
    lines, line = [], "   "
    for number in numbers:
        if len(line) + len(number) > 97:
            lines.append(line)
            line = "   "
        line += f" {number},"
    return "{\n" + "\n".join([*lines, line]) + "\n}"


def _float(value: Any) -> str:
    text = f"{float(value):.9g}"
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


@dataclass(frozen=True)
class _Kernel:
    """The function that runs a step, and the parts that it needs."""

    function: str
    parts: tuple[str, ...]


def _kernel(step: Step, source: Step | None, *, last: bool) -> _Kernel:
    match step.kind:
        case "input":
            return _Kernel("read_picture", ("coefficients", "input"))
        case "affine":
            return _Kernel("apply_affine", ("coefficients", "affine"))
        case "maximum":
            return _Kernel("pool_maximum", ("maximum",))
        case "average":
            return _Kernel("pool_average", ("average",))
        case "mean":
            return _Kernel("average_map", ("mean",))
        case "group-norm" | "rms-norm":
            return _Kernel("normalize_groups", ("coefficients", "rounded", "group_norm"))
        case "pixel-norm":
            return _Kernel("normalize_pixels", ("rounded", "pixel_norm"))
    assert source is not None
    if last:
        return _Kernel("classify", ("dense", "classify"))
    if step.kind == "convolution" and step.window == step.source[1:]:
        return _Kernel("connect", ("dense", "connect"))
    sign = "signed" if source.signed else "unsigned"
    if step.kind == "depthwise":
        return _Kernel(f"convolve_channels_{sign}", ("depthwise", f"depthwise_{sign}"))
    return _Kernel(f"convolve_{sign}", ("convolution", f"convolution_{sign}"))


class _Constants:
    """The program's arrays: each content once."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.size = 0
        self._names: dict[tuple[str, bytes], str] = {}

    def name(self, kind: str, c_type: str, values: NDArray[Any] | None) -> str:
        """The name of an array with these values; `NULL` for None or no values."""
        if values is None or values.size == 0:
            return "NULL"
        key = (c_type, values.tobytes())
        if key not in self._names:
            self._names[key] = f"{kind}_{len(self._names)}"
            self.text.append(
                f"static const {c_type} {self._names[key]}[{values.size}] = {array(values)};"
            )
            self.size += values.nbytes
        return self._names[key]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The program's text.

    Attributes:
        header: NAME.h.
        program: NAME.c.
        constants: Bytes of its arrays, without the table of steps.
    """

    header: str
    program: str
    constants: int


def source(
    name: str,
    network: Quantized,
    memory: Memory,
    *,
    classes: Iterable[str],
    about: Mapping[str, str],
) -> Source:
    """The C program of a network.

    Args:
        name: A C identifier, in lower case.
        network: Its integers.
        memory: Where its rows lie.
        classes: The classes' names.
        about: What the header says about its origin: names and texts.

    Raises:
        UsageError: A row is longer than the program's tables allow.
    """
    refuse_wide_rows(memory)
    constants = _Constants()
    parts = {"start"}
    entries = []
    for k, own in enumerate(network.steps):
        kernel = _kernel(
            own.step, memory.steps[k - 1] if k else None, last=k == len(memory.steps) - 1
        )
        parts |= {*kernel.parts}
        entries.append(_entry(own, memory, k, kernel.function, constants))
        parts |= {
            part
            for part, used in (
                ("slopes", own.slopes is not None),
                ("table", own.table is not None),
                ("addition", own.addition is not None),
            )
            if used
        }
    fill = {
        "name": name,
        "classes": str(memory.steps[-1].target[0]),
        "steps": str(len(memory.steps)),
        "score_shift": str(network.score_shift),
        "mean_factor": str(MEAN_FACTOR),
    }
    body = "".join((_FOLDER / f"{part}.c").read_text() for part in _PARTS if part in parts)
    run = (_FOLDER / "run.c").read_text()
    math = "#include <math.h>\n" if {"rounded"} & parts else ""
    program = "\n".join(
        [
            f"/* {_comment(name, about)} */",
            f'#include "{name}.h"\n\n{math}#include <string.h>\n',
            filled(body, fill),
            _finish(name, parts),
            *constants.text,
            "",
            f"static const struct step steps[{len(entries)}] = {{",
            *entries,
            "};",
            filled(run, fill),
        ]
    )
    return Source(
        header=_header(name, network, memory, classes, about),
        program=program,
        constants=constants.size,
    )


def refuse_wide_rows(memory: Memory) -> None:
    """UsageError where a row is longer than the program's tables allow."""
    for rows in memory.rows:
        if rows.slot_size > _WIDEST:
            raise UsageError(
                f"a row of {rows.width:,} values is longer than a C program's {_WIDEST:,} bytes: "
                "use a narrower network"
            )


def filled(text: str, fill: Mapping[str, str]) -> str:
    """A text with its `@words@` filled in."""
    return re.sub(r"@(\w+)@", lambda match: fill[match[1]], text)


def _entry(own: Integers, memory: Memory, k: int, function: str, constants: _Constants) -> str:
    """A step's entry in the program's table: what is 0 or NULL is left out."""
    step, rows = own.step, memory.rows[k]
    before = memory.steps[k - 1] if k else None
    last = k == len(memory.steps) - 1
    filters = own.filters
    if filters is not None and step.kind == "depthwise":
        filters = filters[..., 0].transpose(1, 2, 0)
    floats = None
    if own.floats:
        numbers = [own.floats[part] for part in ("scale", "weight", "bias")]
        floats = np.concatenate([*numbers, [np.float32(own.epsilon)]]).astype(np.float32)
    addition = own.addition
    channels, height, columns = step.target
    fields: dict[str, object] = {
        "run": function,
        "filters": constants.name("filters", "int8_t", filters),
        "multipliers": constants.name("multipliers", "int32_t", own.multipliers),
        "offsets": constants.name("offsets", "int32_t", own.offsets),
        "table": constants.name("table", "uint8_t", own.table),
        "slopes": constants.name("slopes", "int16_t", own.slopes),
        "floats": constants.name("floats", "float", floats),
        "own": addition.own if addition else 0,
        "other": addition.other if addition else 0,
        "at": 0 if last else rows.offset,
        "count": 0 if last else rows.count,
        "slot": rows.slot_size,
        "width": rows.width,
        "padding": rows.padding,
        "height": height,
        "columns": columns,
        "channels": channels,
        "turns": step.turns,
        "window": step.window[0],
        "groups": step.groups,
        "low": own.low,
        "high": own.high,
        "sum_low": addition.low if addition else 0,
        "sum_high": addition.high if addition else 0,
        "skip": -1 if step.skip is None else step.skip,
        "stride": step.stride,
        "border": step.padding,
        "shift": own.shift,
        "sum_shift": addition.shift if addition else 0,
        "sign": 128 if step.signed else 0,
        "whole": int(
            step.kind in ("group-norm", "rms-norm")
            or (before is not None and before.kind == "mean")
        ),
        "centred": int(step.kind == "group-norm"),
    }
    set_fields = [f".{key} = {value}" for key, value in fields.items() if value not in (0, "NULL")]
    lines, line = [], "    {"
    for text in set_fields:
        if len(line) + len(text) > 97:
            lines.append(line.rstrip())
            line = "     "
        line += f"{text}, "
    return "\n".join([*lines, line.rstrip(", ") + "},"])


def _finish(name: str, parts: set[str]) -> str:
    """What is done to a row after its step's function: as much as the network needs."""
    lines = [
        "/* What comes after a row's values: activation, addition, zeros at its ends. */",
        f"static void finish(const struct step *step, struct {name}_arena *arena, int turn)",
        "{",
        "    uint8_t *row = row_of(step, arena, turn);",
    ]
    if "slopes" in parts:
        lines += ["    if (step->slopes)", "        apply_slopes(step, row);"]
    if "table" in parts:
        lines += ["    if (step->table)", "        apply_table(step, row);"]
    if "addition" in parts:
        lines += ["    if (step->skip >= 0)", "        add_skip(step, arena, row, turn);"]
    lines += [
        "    memset(row - step->padding, 0, step->padding);",
        "    memset(row + step->width, 0, step->padding);",
        "}",
        "",
    ]
    return "\n".join(lines)


def _comment(name: str, about: Mapping[str, str]) -> str:
    """The origin, as the content of a comment: nothing in it can end the comment."""
    lines = [f"{name}, a network trained with normlab.", ""]
    lines += [f"{key}: {json.dumps(value)}" for key, value in about.items()]
    return "\n   ".join(line.replace("*/", "* /").replace("/*", "/ *") for line in lines)


def _header(
    name: str,
    network: Quantized,
    memory: Memory,
    classes: Iterable[str],
    about: Mapping[str, str],
) -> str:
    channels, height, width = memory.steps[0].source
    upper = name.upper()
    names = ", \\\n    ".join(map(c_string, classes))
    areas = [
        ("const uint8_t *", "pixels", 1),
        ("int32_t ", "logits", memory.steps[-1].target[0]),
        ("int32_t ", "sums", memory.sums),
        ("int32_t ", "coefficients", memory.coefficients),
        ("uint16_t ", "done", len(memory.steps)),
        ("uint8_t ", "rows", max(memory.size, 1)),
    ]
    fields = "\n".join(
        f"    {kind}{field};" if field == "pixels" else f"    {kind}{field}[{count}];"
        for kind, field, count in areas
        if count
    )
    return f"""/* {_comment(name, about)} */
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
#define {upper}_SCORE_STEP {_float(network.score_step)} /* nats from one score to the next */
#define {upper}_CLASS_NAMES {{ \\
    {names}}}

/* Working memory: {memory.arena:,} bytes where a pointer has {4}. Its content need not be kept. */
struct {name}_arena {{
{fields}
}};

/* Classifies a picture.

   pixels: HEIGHT x WIDTH x CHANNELS bytes: rows from top to bottom, pixels from left to right,
           red, green, blue.
   scores: CLASSES results. The best class has 127, and a probability is proportional to
           exp(score * SCORE_STEP).
   Returns the best class, from 0. It keeps nothing between calls, and needs no heap. */
int {name}(const uint8_t *pixels, int8_t *scores, struct {name}_arena *arena);

#ifdef __cplusplus
}}
#endif
#endif
"""
