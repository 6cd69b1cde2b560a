"""PyTorch's exported program, for `torch.export.load`. It needs torch alone."""

import io

import torch
from torch.export import ExportedProgram

from normlab.export.formats import Format
from normlab.export.program import Pixels, PredictFn, Probabilities


def write(program: ExportedProgram, metadata: dict[str, str]) -> bytes:
    """The content of a pt2 file; the metadata are its extra files."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=metadata)
    return content.getvalue()


def load(content: bytes) -> PredictFn:
    """Predicts with PyTorch."""
    network = torch.export.load(io.BytesIO(content)).module()

    def predict(pixels: Pixels) -> Probabilities:
        probabilities: Probabilities = network(torch.from_numpy(pixels)).numpy()
        return probabilities

    return predict


FORMAT = Format(suffix=".pt2", write=write, load=load)
