"""A network's program as ONNX and as pt2, and how either is asked."""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from normlab.export.folding import InferenceModel
from normlab.layers.activations import ACTIVATIONS

if TYPE_CHECKING:
    import onnx

Pixels = NDArray[np.uint8]
Probabilities = NDArray[np.float32]
PredictFn = Callable[[Pixels], Probabilities]
"""From pixels, uint8 N × 3 × 32 × 32, to probabilities, float32 N × classes."""

QUANTIZED = (
    *("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool"),
    *(operator for activation in ACTIVATIONS.values() for operator in activation.int8_operators),
)
CALIBRATION_BATCH = 100


def trace(network: InferenceModel) -> ExportedProgram:
    """PyTorch's program of a network, for batches of any size. Raises whatever cannot be traced."""
    images = torch.zeros((2, 3, 32, 32), dtype=torch.uint8)
    batch = torch.export.Dim("batch")
    with _quiet():
        program = torch.export.export(network, (images,), dynamic_shapes={"images": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # which names folders of this machine
    return program


def to_pt2(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The program as `torch.export.load` reads it; metadata are its extra files."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=metadata)
    return content.getvalue()


def to_onnx(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The program as ONNX, its input `images`, its output `probabilities`."""
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: "batch"}},
            verbose=False,
        )
    assert exported is not None
    return _serialized(exported.model_proto, metadata)


def to_int8(content: bytes, images: Pixels, metadata: dict[str, str]) -> bytes:
    """ONNX with weights and activations in 8 bits, by ONNX Runtime's static quantization.

    Weights get a scale for each channel. Of activations, those of convolutions, ReLUs and pools get
    the range that they have on the images given; normalizations that are left compute in float32.

    Args:
        content: The network in float32.
        images: What the ranges are taken from.
        metadata: As in the float32 file.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            starts = range(0, len(images), CALIBRATION_BATCH)
            self.batches = (images[k : k + CALIBRATION_BATCH] for k in starts)

        def get_next(self) -> dict[str, Pixels] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with tempfile.TemporaryDirectory() as folder:
        prepared, quantized = Path(folder, "prepared.onnx"), Path(folder, "quantized.onnx")
        quant_pre_process(onnx.load_from_string(content), prepared)
        quantization.quantize_static(
            prepared,
            quantized,
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Weights of 7 bits: where a processor adds two products in 16 bits, as those with AVX2
            # alone do, 8 bits overflow, and accuracy would be less there than was measured here.
            reduce_range=True,
        )
        model = onnx.load(quantized)
    _shorten_names(model.graph)
    return _serialized(model, metadata)


def open_pt2(content: bytes) -> PredictFn:
    """Asks a pt2 file by PyTorch."""
    network = torch.export.load(io.BytesIO(content)).module()

    def ask(pixels: Pixels) -> Probabilities:
        answers: Probabilities = network(torch.from_numpy(pixels)).numpy()
        return answers

    return ask


def open_onnx(content: bytes, threads: int = 0) -> PredictFn:
    """Asks an ONNX file by ONNX Runtime on the CPU; 0 threads are its own choice."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def ask(pixels: Pixels) -> Probabilities:
        (answers,) = session.run(None, {"images": pixels})
        return answers  # type: ignore[no-any-return]

    return ask


def _shorten_names(graph: "onnx.GraphProto") -> None:
    """Gives values numbers for names, and nodes none: names are half of a tiny network in int8."""
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name:  # an input that is left out has none
                    names[place] = short.setdefault(name, f"{len(short):x}")
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, f"{len(short):x}")


def _serialized(model: "onnx.ModelProto", metadata: dict[str, str]) -> bytes:
    """A model without what its making left in it, and with the metadata given.

    The exporter names the origin of every node, with folders of this machine, and the shape of
    every value, which readers infer: more bytes than a tiny network's weights.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output):
        del part.metadata_props[:]
    del graph.value_info[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch's exporters speak of missing torchvision, of themselves, and print what they trace.

    What goes wrong they raise.
    """
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
