"""A run's network as C by other compilers, in the form that `emulate.py` runs.

    pip install emx-onnx-cgen bakenn onnx onnxruntime onnxscript

Their pictures are in another form than normlab's: a function of ours brings them into it. Its code,
and the memory of that picture, do not count.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

import normlab
from normlab.export.exporter import eager, sample_of
from normlab.export.firmware import prove
from normlab.export.folding import InferenceModel

CALIBRATION_IMAGES = 16  # for bakenn, which takes seconds for each


class NotAvailableError(Exception):
    """A compiler is not installed, or does not take the network."""


@dataclass(frozen=True, kw_only=True)
class Made:
    """A program by another compiler.

    Attributes:
        title: The compiler and its version.
        numbers: What it computes with: int8 or float32.
        boards: The boards that it is for.
        files: The header and the C file of our function.
        sources: The compiler's C files.
        flags: What it needs of the C compiler.
        arena: Bytes of the memory that its caller places.
        stack: Bytes of stack that are enough.
        scores: Its own reference: from pixels to scores.
        tolerance: Of the program's scores from these.
        portable: Whether it is for any processor.
    """

    title: str
    numbers: str
    boards: Sequence[str] = ("M4", "M3")
    files: dict[str, str]
    sources: Sequence[Path]
    flags: Sequence[str]
    arena: int
    stack: int = 2**16
    scores: Callable
    tolerance: float
    portable: bool = True


_HEADER = """#include <stdint.h>
#define PEER_CLASSES {classes}
struct peer_arena {{ {logit} logits[{classes}]; }};
int peer(const uint8_t *pixels, {score} *scores, struct peer_arena *arena);
"""
_BEST = """    int best = 0;
    for (int c = 0; c < PEER_CLASSES; c++) {
        arena->logits[c] = scores[c];
        best = scores[c] > scores[best] ? c : best;
    }
    return best;
}
"""


def emx(run, folder, data_root, *, int8=False):
    """emx-onnx-cgen, of normlab's ONNX file: no buffers are shared, all are on the stack."""
    beside = Path(sys.executable).parent / "emx-onnx-cgen"
    command = str(beside) if beside.exists() else shutil.which("emx-onnx-cgen")
    if command is None:
        raise NotAvailableError("emx-onnx-cgen is not installed: pip install emx-onnx-cgen")
    model, source = folder / "network.onnx", folder / "network.c"
    normlab.export_run(run, "onnx", model, int8=int8, data_root=data_root)
    subprocess.run(
        [
            *(command, "compile", model, source, "--model-name", "network"),
            *("--input-dim", "images:0=1", "--large-temp-threshold", "0"),
            *("--large-weight-threshold", "0"),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    classes, (channels, height, width) = len(run.data.classes), run.config.shape
    code = f"""#include "peer.h"
void network(const uint8_t images[1][{channels}][{height}][{width}], float scores[1][{classes}]);
static uint8_t images[1][{channels}][{height}][{width}];
int peer(const uint8_t *pixels, float *scores, struct peer_arena *arena)
{{
    for (int k = 0; k < {height * width}; k++)
        for (int c = 0; c < {channels}; c++)
            images[0][c][0][k] = *pixels++;
    network(images, (float (*)[{classes}])scores);
{_BEST}"""
    from normlab.export.formats import onnx

    return Made(
        title=f"emx-onnx-cgen {metadata.version('emx-onnx-cgen')}",
        numbers="int8 in QDQ" if int8 else "float32",
        files={
            "peer.h": _HEADER.format(classes=classes, logit="float", score="float"),
            "peer.c": code,
        },
        sources=[source],
        flags=("-std=c11", "-w"),
        arena=0,
        stack=2**21,
        scores=onnx.load(model.read_bytes(), threads=1) if int8 else eager(run.network()),
        tolerance=1e-4,
    )


def bakenn(run, folder, data_root, *, cmsis=False):
    """bakenn, of the network with BatchNorm folded, calibrated on training images."""
    try:
        import bakenn
        from bakenn.frontends import capture_torch_export
    except ImportError:
        raise NotAvailableError("bakenn is not installed: pip install bakenn") from None
    network = InferenceModel(run.network())
    images = sample_of(run.dataset(data_root).train, CALIBRATION_IMAGES).images
    inputs = (torch.from_numpy(images) / 255 - network.input_mean) / network.input_std
    if not run.layout.endswith("GAP FC"):
        raise NotAvailableError("bakenn takes networks here that end in GAP FC")
    options = bakenn.CBackendOptions()
    if cmsis:
        options = bakenn.CBackendOptions(
            kernel_policy=bakenn.KernelPolicy.STATIC_PRIORITY,
            enable_cmsis_nn=True,
            target=bakenn.CORTEX_M4,
        )
    try:
        graph = capture_torch_export(_Plain(network).eval(), inputs[:1])
        quantized = bakenn.quantize_float_graph(graph, list(inputs.split(1)))
        compiled = bakenn.compile(
            quantized, folder / "made", model_name="peer", backend_options=options
        )
    except bakenn.BakeNNError as error:
        raise NotAvailableError(f"bakenn does not take the network: {error}") from None
    made, plan = compiled.artifacts, compiled.plan
    form = plan.tensors[plan.inputs[0]].tensor_type.qparams
    std, mean = network.input_std.flatten().double(), network.input_mean.flatten().double()
    # A byte p becomes round(((p / 255 - mean) / std) / scale) + zero point: in units of 2^-16.
    factors = (65536 / (255 * std * form.scale)).round().int().tolist()
    offsets = (65536 * (form.zero_point - mean / (std * form.scale)) + 32768).round().int().tolist()
    classes, channels = len(run.data.classes), run.config.shape[0]
    arena = compiled.memory_report.arena_bytes
    code = f"""#include "peer.h"
#include "{made.header.name}"
static int8_t input[BKNN_PEER_INPUT_BYTES];
static uint8_t memory[{max(arena, 1)}] __attribute__((aligned(BKNN_PEER_ARENA_ALIGNMENT)));
int peer(const uint8_t *pixels, int8_t *scores, struct peer_arena *arena)
{{
    static const int32_t factors[] = {{{", ".join(map(str, factors))}}};
    static const int32_t offsets[] = {{{", ".join(map(str, offsets))}}};
    for (unsigned k = 0; k < sizeof input; k++) {{
        int32_t value = (pixels[k] * factors[k % {channels}] + offsets[k % {channels}]) >> 16;
        input[k] = value < -128 ? -128 : value > 127 ? 127 : value;
    }}
    bknn_peer_infer(memory, input, scores);
{_BEST}"""

    def scores(pixels):
        values = pixels.transpose(0, 2, 3, 1) * np.array(factors) + np.array(offsets)
        values = np.clip(values >> 16, -128, 127).astype(np.int8)
        found = [np.asarray(bakenn.run_reference(plan, value[None])) for value in values]
        return np.concatenate(found)

    return Made(
        title=f"bakenn {metadata.version('bakenn')}{' with CMSIS-NN' if cmsis else ''}",
        numbers="int8",
        boards=("M4",) if cmsis else ("M4", "M3"),
        files={
            "peer.h": _HEADER.format(classes=classes, logit="int32_t", score="int8_t"),
            "peer.c": code,
        },
        sources=[
            made.model_source,
            made.weights_source,
            made.kernels_source,
            *made.support_sources,
        ],
        flags=(
            "-std=c11",
            "-w",
            "-DBAKENN_CMSIS_NN_BUILTIN_MEMORY",
            *(f"-I{path}" for path in (made.output_dir, *made.support_include_dirs)),
        ),
        arena=arena,
        scores=scores,
        tolerance=0,
        portable=not cmsis,
    )


class _Plain(torch.nn.Module):
    """A network without the reshapings that bakenn does not take."""

    def __init__(self, network):
        super().__init__()
        self.blocks, self.linear = network.blocks[:-2], network.blocks[-1].linear

    def forward(self, x):
        """N × C × H × W to logits."""
        return self.linear(self.blocks(x).mean((2, 3)))


PEERS = (emx, partial(emx, int8=True), bakenn, partial(bakenn, cmsis=True))

_MAIN = """#include "peer.h"
#include <stdio.h>
int main(void)
{
    static uint8_t pixels[PIXELS];
    static struct peer_arena arena;
    SCORE scores[PEER_CLASSES];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1)
        putchar(peer(pixels, scores, &arena));
    return 0;
}
"""


def classify(made, pixels):
    """The classes of pictures, uint8 N × C × H × W, by a program compiled for this machine."""
    score = "float" if "float *scores" in made.files["peer.h"] else "int8_t"
    with tempfile.TemporaryDirectory() as build:
        for file, text in {**made.files, "main.c": _MAIN}.items():
            Path(build, file).write_text(text)
        define = (f"-DPIXELS={pixels[0].size}", f"-DSCORE={score}")
        subprocess.run(
            [
                *(prove.compiler(), "-O3", "-ffp-contract=off", *made.flags, *define, "-I."),
                *("main.c", "peer.c", *made.sources, "-o", "program", "-lm"),
            ],
            cwd=build, check=True,
        )  # fmt: skip
        content = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).tobytes()
        done = subprocess.run(
            [Path(build, "program")], input=content, capture_output=True, check=True
        )
    return np.frombuffer(done.stdout, np.uint8)
