"""Where a network looks: Grad-CAM and occlusion, computed by captum (the extra `explain`)."""

import unicodedata
import warnings
from collections import Counter
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
from normlab.inference.pictures import Picture, read, standard_input
from normlab.inference.predict import BATCH, Prediction, Predictor
from normlab.network.model import Network
from normlab.runs.isolation import isolated

DISPLAY_SIZE = 256  # height and width of the picture that heat maps are drawn over
PATCH, STRIDE = 4, 16  # of occlusion: one part of so many of an image's side, 8 and 2 pixels of 32
IMAGES_PER_CLASS = 100  # for a mean map: more change nothing visible


@dataclass(frozen=True)
class HeatMaps:
    """Where a network looks in a picture for one class.

    Attributes:
        label: The class.
        probability: Its predicted probability.
        grad_cam: float32, S × S, 0 to 1: how strongly a pixel supports the class, relative to the
            strongest; all 0 if no pixel supports it.
        occlusion: float32, S × S, -1 to 1: how much the class's probability falls when a pixel is
            covered; negative where it rises.
    """

    label: str
    probability: float
    grad_cam: NDArray[np.float32]
    occlusion: NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """What a network predicts for a picture, and where it looks.

    Attributes:
        prediction: The prediction.
        picture: uint8, 3 × 256 × 256: the square at the picture's centre.
        maps: One for each explained class.
    """

    prediction: Prediction
    picture: NDArray[np.uint8]
    maps: tuple[HeatMaps, ...]


@isolated()
def explain(predictor: Predictor, picture: Picture, classes: Sequence[str] = ()) -> Explanation:
    """Explains a prediction by heat maps: where the network looks in a picture.

    Args:
        predictor: From `normlab.load`.
        picture: One picture, as `predictor.predict` takes it.
        classes: The classes to explain. Default: the predicted class.

    Raises:
        DataError: The picture cannot be read.
        TypeError: It is not a picture.
        UsageError: There is no such class, the network has no maps, or captum is not installed.
    """
    # A name can be typed with composed characters, and a folder named with decomposed ones.
    labels = {unicodedata.normalize("NFC", label): label for label in predictor.classes}
    classes = [labels.get(unicodedata.normalize("NFC", name), name) for name in classes]
    for name in classes:
        if name not in predictor.classes:
            raise UsageError(
                f"no class {name!r}: there are {', '.join(map(printable, predictor.classes))}"
            )
    piped = isinstance(picture, str) and picture == "-"
    if piped:  # the standard input can be read only once; two sizes are needed
        picture = standard_input()
    loaded = read(picture, predictor.size)
    if piped:
        loaded = loaded._replace(name="-")
    (prediction,) = predictor.predict_loaded([loaded])
    image = to_input(torch.from_numpy(predictor.pixels([loaded])).to(predictor.device))
    maps = []
    for label in classes or (prediction.label,):
        target = predictor.classes.index(label)
        maps.append(
            HeatMaps(
                label=label,
                probability=float(prediction.probabilities[target]),
                grad_cam=grad_cam(predictor.network, image, torch.tensor([target]))[0],
                occlusion=occlusion(predictor.network, image, target),
            )
        )
    return Explanation(prediction, read(picture, DISPLAY_SIZE).pixels, tuple(maps))


def grad_cam(network: Network, images: Tensor, targets: Tensor) -> NDArray[np.float32]:
    """Grad-CAM of the last maps before pooling: Selvaraju et al. 2017, arXiv:1610.02391, section 3.

    Args:
        network: In eval mode.
        images: float N × C × S × S, 0 to 1.
        targets: int64, N: the class to explain in each image.

    Returns:
        float32, N × S × S, each divided by its maximum, where that is above 0.

    Raises:
        UsageError: No block's output has more than one pixel, or captum is not installed.
    """
    attr = _captum()
    maps = attr.LayerGradCam(network, _last_maps(network)).attribute(
        images, target=targets.to(images.device), relu_attributions=True
    )
    maps = attr.LayerAttribution.interpolate(maps, images.shape[2:], "bilinear")
    scaled: Tensor = maps / maps.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    return scaled[:, 0].detach().cpu().numpy()


def occlusion(network: Network, image: Tensor, target: int) -> NDArray[np.float32]:
    """How much a class's probability falls when a patch has the data's mean colour.

    The patch's side is a quarter of the image's.

    Zeiler & Fergus 2014, arXiv:1311.2901, section 4.2. A pixel's value is the mean over the patches
    that cover it.

    Args:
        network: In eval mode.
        image: float 1 × C × S × S, 0 to 1.
        target: The class.

    Returns:
        float32, S × S, -1 to 1.

    Raises:
        UsageError: captum is not installed.
    """
    channels, side = image.shape[1:3]
    with torch.inference_mode():
        falls = (
            _captum()
            .Occlusion(lambda covered: network(covered).softmax(1))
            .attribute(
                image,
                target=target,
                sliding_window_shapes=(channels, *(2 * [max(1, side // PATCH)])),
                strides=(channels, *(2 * [max(1, side // STRIDE)])),
                baselines=network.input_mean.view(1, -1, 1, 1).expand_as(image),
                perturbations_per_eval=BATCH,
            )
        )
    values: NDArray[np.float32] = falls[0, 0].float().cpu().numpy()
    return values


@isolated()
def class_maps(network: Network, split: Split, classes: int) -> NDArray[np.float32]:
    """The mean Grad-CAM of each class over its images, whatever the network predicts for them.

    Args:
        network: In eval mode.
        split: The images; the first 100 of each class are used.
        classes: Number of classes.

    Returns:
        float32, classes × S × S; NaN for a class without images.

    Raises:
        UsageError: As `grad_cam` raises it.
    """
    device = network.input_mean.device
    split = split.first_of_each_class(IMAGES_PER_CLASS, classes)
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
    """The last part whose output has more than one pixel per channel.

    A part is a block; of a custom network, a module that is used once.
    """
    used: Counter[torch.nn.Module] = Counter()
    with_maps: list[torch.nn.Module] = []

    def look(part: torch.nn.Module, _: object, output: object) -> None:
        used[part] += 1
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            with_maps.append(part)

    handles = [part.register_forward_hook(look) for part in network.parts]
    try:
        with torch.inference_mode():
            network(torch.zeros(1, *network.shape, device=network.input_mean.device))
    finally:
        for handle in handles:
            handle.remove()
    last = next((part for part in reversed(with_maps) if used[part] == 1), None)
    if last is None:
        raise UsageError(f"{network.layout} has no maps of more than one pixel to explain")
    return last


def _captum() -> ModuleType:
    try:
        with warnings.catch_warnings():
            # In notebooks captum warns of a package that its progress bars need; they are not used.
            warnings.filterwarnings("ignore", "IProgress not found")
            import captum.attr
    except ModuleNotFoundError as error:
        raise UsageError(f'heat maps need {error.name}: pip install "normlab[explain]"') from None
    module: ModuleType = captum.attr
    return module
