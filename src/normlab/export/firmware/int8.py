"""The program in int8: a network's integers as the fields and arrays of the C program."""

import numpy as np
from numpy.typing import NDArray

from normlab.export.firmware import emit
from normlab.export.firmware.quantize import GATES, MEAN_FACTOR, Integers, Quantized
from normlab.network.memory import STEP, Memory
from normlab.network.steps import STATISTICS

_SCORES = """    for (int c = 0; c < @classes@; c++) {
        int32_t distance = (arena->logits[best] - arena->logits[c]) >> @score_shift@;
        scores[c] = (int8_t)(127 - (distance < 255 ? distance : 255));
    }"""


def source(origin: emit.Origin, network: Quantized, memory: Memory) -> emit.Source:
    """The C program of a network in integers."""
    constants = emit.Constants()
    parts: set[str] = set()
    entries = []
    for k, own in enumerate(network.steps):
        function, needed = _kernel(network, k)
        parts |= needed
        entries.append(
            {"run": function, **_fields(own, constants, last=k == len(network.steps) - 1)}
        )
        parts |= {"slopes"} if own.slopes is not None else set()
        parts |= {"table"} if own.table is not None else set()
        parts |= {"addition"} if own.addition is not None else set()
    if "gated_norm" in parts:
        constants.add("gates", "uint16_t", GATES)
    dialect = emit.Dialect(
        folder="int8",
        parts=frozenset(parts),
        entries=entries,
        values="uint8_t",
        sums="int32_t",
        score="int8_t",
        scores=_SCORES,
        meaning=(
            "The best class has 127, and a probability is proportional\n"
            "           to exp(score * SCORE_STEP)."
        ),
        defines=f"#define @NAME@_SCORE_STEP {emit.real(network.score_step)} "
        "/* nats from one score to the next */\n",
        fill={"score_shift": str(network.score_shift), "mean_factor": str(MEAN_FACTOR)},
        step_size=STEP,
    )
    return emit.source(origin, memory, dialect, constants)


def _kernel(network: Quantized, k: int) -> tuple[str, set[str]]:
    """A step's function and its parts; convolutions have one for each kind of source."""
    step, last = network.steps[k].step, k == len(network.steps) - 1
    function, parts = emit.kernel(step, last=last)
    needed = {*parts}
    if function in ("read_picture", "apply_affine", "normalize_groups"):
        needed.add("coefficients")
    if step.kind in {*STATISTICS, "pixel-norm", "local-response"}:
        needed.add("rounded")
    if function in ("convolve", "convolve_channels"):
        sign = "signed" if network.steps[k - 1].step.signed else "unsigned"
        needed.add(f"{parts[0]}_{sign}")
        function = f"{function}_{sign}"
    return function, needed


def _fields(own: Integers, constants: emit.Constants, *, last: bool) -> dict[str, object]:
    floats = None
    if own.floats:
        floats = np.concatenate([*own.floats.values(), [np.float32(own.epsilon)]])
        floats = floats.astype(np.float32)
    fields: dict[str, object] = {
        "filters": constants.filters("int8_t", own.filters, own.step),
        "multipliers": constants.name("multipliers", "int32_t", own.multipliers),
        "offsets": constants.name("offsets", "int32_t", _offsets(own, last=last)),
        "table": constants.name("table", "uint8_t", own.table),
        "slopes": constants.name("slopes", "int16_t", own.slopes),
        "floats": constants.name("floats", "float", floats),
        "shift": own.shift,
        "sign": 128 if own.step.signed else 0,
        "own_sign": _sign(own),
    }
    if own.addition is not None:
        fields |= {
            "own": own.addition.own,
            "other": own.addition.other,
            "sum_shift": own.addition.shift,
        }
    return fields


def _sign(own: Integers) -> int:
    """What is added to a value so that it is 0 to 255."""
    return -own.low


def _offsets(own: Integers, *, last: bool) -> NDArray[np.int32]:
    """The offsets; those of convolutions have the sign added, which saves its addition."""
    if not own.step.weighted or last:
        return own.offsets
    return own.offsets + np.int32(_sign(own) << own.shift)
