"""ONNX, for ONNX Runtime and other runtimes that read it. It can be quantized to int8."""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

from normlab.export.formats import Format
from normlab.export.program import Pixels, PredictFn, Probabilities, quiet
from normlab.layers.activations import ACTIVATIONS

if TYPE_CHECKING:
    import onnx

QUANTIZED_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool"),
    *(operator for activation in ACTIVATIONS.values() for operator in activation.int8_operators),
)
CALIBRATION_BATCH = 100
# ONNX Runtime reads it when it is imported: no telemetry, no device id in the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def write(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The content of an ONNX file. Its input is `images`, its output `probabilities`."""
    with quiet():
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


def load(content: bytes, threads: int = 0) -> PredictFn:
    """Predicts with ONNX Runtime on the CPU, which chooses the number of threads where it is 0."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(pixels: Pixels) -> Probabilities:
        (probabilities,) = session.run(None, {"images": pixels})
        return probabilities  # type: ignore[no-any-return]

    return predict


def quantize(content: bytes, images: Pixels, metadata: dict[str, str]) -> bytes:
    """Quantizes weights and activations to 8 bits: ONNX Runtime's static quantization.

    Weights have a scale per channel. Values are quantized at convolutions, ReLUs and pooling, with
    their range on the given images. Normalizations that were not folded compute in float32, and so
    do the other activations, but for leaky ReLU.

    Args:
        content: The ONNX file in float32.
        images: Images to calibrate the ranges with.
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
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Weights have 7 bits. Processors with AVX2 but not VNNI add two products in 16 bits:
            # weights of 8 bits overflow there, and accuracy would be lower than measured here.
            reduce_range=True,
        )
        model = onnx.load(quantized)
    _shorten_names(model.graph)
    return _serialized(model, metadata)


def _shorten_names(graph: "onnx.GraphProto") -> None:
    """Numbers the values and unnames the nodes: names are half of a tiny int8 network's bytes."""
    short = {value.name: value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        node.name = ""
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name:  # an omitted input has an empty name
                    names[k] = short.setdefault(name, f"{len(short):x}")
    for tensor in graph.initializer:
        tensor.name = short.setdefault(tensor.name, f"{len(short):x}")


def _serialized(model: "onnx.ModelProto", metadata: dict[str, str]) -> bytes:
    """The model's bytes, with the given metadata and without what the exporter recorded.

    The exporter records every node's origin, with folders of this machine, and every value's shape,
    which readers can infer. Both together take more bytes than a tiny network's weights.
    """
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output):
        del part.metadata_props[:]
    del graph.value_info[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


FORMAT = Format(
    suffix=".onnx",
    libraries=("onnx", "onnxscript", "onnxruntime"),
    write=write,
    load=load,
    quantize=quantize,
)
