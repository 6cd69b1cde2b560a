"""Where a network looks: Grad-CAM and occlusion, both by captum (the extra `explain`)."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normlab.data.dataset import Split
from normlab.errors import UsageError, printable
from normlab.inference.evaluate import to_input
from normlab.inference.predict import BATCH, Picture, Prediction, Predictor, read
from normlab.network.model import Network

SHOWN = 256  # pixels of a side: what heat maps are drawn over
PATCH, STRIDE = 8, 2  # of the occlusion, in the network's 32 × 32 pixels
OF_EACH_CLASS = 100  # images that a mean map is over: more change nothing that is seen


@dataclass(frozen=True)
class HeatMaps:
    """Where a network looks on a picture for a class.

    Attributes:
        label: The class.
        probability: What the network gives it.
        grad_cam: float32, 32 × 32: how much a place speaks for the class, from 0 to 1 at the place
            that does most; 0 everywhere where none does.
        occlusion: float32, 32 × 32: by how much the class's probability falls when a place is
            covered; below 0 where it rises.
    """

    label: str
    probability: float
    grad_cam: NDArray[np.float32]
    occlusion: NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """What a network answers on a picture, and where it looks.

    Attributes:
        prediction: The answer.
        picture: uint8, 3 × 256 × 256: the square at the picture's centre.
        maps: For each class asked about.
    """

    prediction: Prediction
    picture: NDArray[np.uint8]
    maps: tuple[HeatMaps, ...]


def explain(trained: Predictor, picture: Picture, classes: Sequence[str] = ()) -> Explanation:
    """Where a network looks on a picture.

    Args:
        trained: From `normlab.load`.
        picture: As `trained.predict` takes it.
        classes: The classes to ask about; none: the one it answers.

    Raises:
        DataError: The picture cannot be read.
        TypeError: It is none.
        UsageError: There is no such class, the network has no maps, or captum is not installed.
    """
    for name in classes:
        if name not in trained.classes:
            raise UsageError(
                f"no class {name!r}: there are {', '.join(map(printable, trained.classes))}"
            )
    piped = isinstance(picture, str) and picture == "-"
    if piped:  # it can be read once, and is needed in two sizes
        picture = sys.stdin.buffer.read()
    name, pixels, notes = read(picture)
    name = "-" if piped else name
    prediction = trained.prediction(name, trained.probabilities(pixels[None])[0], notes)
    image = to_input(torch.from_numpy(pixels)[None].to(trained.device))
    maps = []
    for label in classes or (prediction.label,):
        target = trained.classes.index(label)
        maps.append(
            HeatMaps(
                label=label,
                probability=float(prediction.probabilities[target]),
                grad_cam=grad_cam(trained.network, image, torch.tensor([target]))[0],
                occlusion=occlusion(trained.network, image, target),
            )
        )
    _, shown, _ = read(picture, SHOWN)
    return Explanation(prediction, shown, tuple(maps))


def grad_cam(network: Network, images: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """Grad-CAM of the last maps before pooling: Selvaraju et al. 2017, arXiv:1610.02391, section 3.

    Args:
        network: In evaluation mode.
        images: float N × 3 × 32 × 32, 0 to 1.
        targets: int64, N: the classes asked about.

    Returns:
        float32, N × 32 × 32, each divided by its greatest value, where that is above 0.

    Raises:
        UsageError: No block of the network gives maps of more than a pixel, or captum is missing.
    """
    attr = _captum()
    found = attr.LayerGradCam(network, _last_maps(network)).attribute(
        images, target=targets.to(images.device), relu_attributions=True
    )
    maps = attr.LayerAttribution.interpolate(found, images.shape[2:], "bilinear")
    scaled: Tensor = maps / maps.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return scaled[:, 0].detach().cpu().numpy()


def occlusion(network: Network, image: Tensor, target: int) -> NDArray[np.float32]:
    """By how much a class's probability falls when a patch of 8 × 8 has the data's mean colour.

    Zeiler & Fergus 2014, arXiv:1311.2901, section 4.2. A place's value is the mean over the patches
    that cover it.

    Args:
        network: In evaluation mode.
        image: float 1 × 3 × 32 × 32, 0 to 1.
        target: The class.

    Returns:
        float32, 32 × 32, -1 to 1.

    Raises:
        UsageError: captum is missing.
    """
    with torch.inference_mode():
        found = (
            _captum()
            .Occlusion(lambda covered: network(covered).softmax(1))
            .attribute(
                image,
                target=target,
                sliding_window_shapes=(image.shape[1], PATCH, PATCH),
                strides=(image.shape[1], STRIDE, STRIDE),
                baselines=network.input_mean.view(1, -1, 1, 1).expand_as(image),
                perturbations_per_eval=BATCH,
            )
        )
    values: NDArray[np.float32] = found[0, 0].float().cpu().numpy()
    return values


def class_maps(network: Network, split: Split, classes: int) -> NDArray[np.float32]:
    """The mean Grad-CAM of each class over its images, whatever the network answers on them.

    Args:
        network: In evaluation mode.
        split: The images; of each class the first 100 are taken.
        classes: Number of classes.

    Returns:
        float32, classes × 32 × 32; NaN for a class that has no images.

    Raises:
        UsageError: As `grad_cam` raises it.
    """
    device = network.input_mean.device
    places = [np.flatnonzero(split.labels == k)[:OF_EACH_CLASS] for k in range(classes)]
    split = split.take(np.concatenate(places))
    sums = np.zeros((classes, *split.images.shape[2:]), np.float32)
    for start in range(0, len(split), BATCH):
        images, labels = (part[start : start + BATCH] for part in (split.images, split.labels))
        inputs = to_input(torch.from_numpy(images).to(device))
        np.add.at(sums, labels, grad_cam(network, inputs, torch.from_numpy(labels)))
    counts = np.bincount(split.labels, minlength=classes)[:, None, None]
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _last_maps(network: Network) -> torch.nn.Module:
    """The last block that gives maps of more than a pixel."""
    last = None
    x = torch.zeros(1, 3, 32, 32, device=network.input_mean.device)
    with torch.inference_mode():
        for block in network.blocks:
            x = block(x)
            if x.shape[2] * x.shape[3] > 1:
                last = block
    if last is None:
        raise UsageError(f"{network.layout} has no maps of more than a pixel to look at")
    return last


def _captum() -> ModuleType:
    try:
        with warnings.catch_warnings():
            # Its progress bars, which are not used, would like another package in notebooks.
            warnings.filterwarnings("ignore", "IProgress not found")
            import captum.attr
    except ModuleNotFoundError as error:
        raise UsageError(f'heat maps need {error.name}: pip install "normlab[explain]"') from None
    module: ModuleType = captum.attr
    return module
