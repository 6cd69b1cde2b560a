"""Augmentation of whole batches, with separate random draws for each image.

A step maps images (float32, N × C × S × S, values 0 to 1) and a CPU generator to images of the
same shape and range. All draws come from that generator, so they are the same on every device.
Recipes consist of `STEPS`. `normlab data` also shows the transformations in `PREVIEW`, applied to
every image.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

Step = Callable[[Tensor, Generator], Tensor]


def augment(images: Tensor, steps: Sequence[str], generator: Generator) -> Tensor:
    """Applies a recipe's steps, by their names in `STEPS`, in order."""
    for name in steps:
        images = STEPS[name](images, generator)
    return images


def color_jitter(images: Tensor, generator: Generator) -> Tensor:
    """Scales brightness, contrast and saturation by 0.9 to 1.1; rotates hue by up to 36°.

    Each image has its own factors. The order of the four changes is drawn for the whole batch. An
    image in one channel has neither saturation nor hue: it keeps its values there.
    """
    import kornia.enhance  # here: most recipes do without, and each run would load it

    brightness, contrast, saturation = (_uniform(images, generator, 0.9, 1.1) for _ in range(3))
    hue = _uniform(images, generator, -0.1, 0.1) * 2 * math.pi
    adjustments = (
        lambda x: kornia.enhance.adjust_brightness_accumulative(x, brightness),
        lambda x: kornia.enhance.adjust_contrast_with_mean_subtraction(x, contrast),
        lambda x: kornia.enhance.adjust_saturation_with_gray_subtraction(x, saturation),
        lambda x: kornia.enhance.adjust_hue(x, hue),
    )
    for index in torch.randperm(4, generator=generator).tolist():
        if images.shape[1] == 3 or index < 2:
            images = adjustments[index](images)
    return images.clamp(0, 1)


def affine(images: Tensor, generator: Generator) -> Tensor:
    """Shears along x by up to 10° and scales by 0.8 to 1.2; nearest pixel, black outside."""
    shear = torch.tan(torch.deg2rad(_uniform(images, generator, -10, 10)))
    scale = _uniform(images, generator, 0.8, 1.2)
    zero = torch.zeros_like(scale)
    # The inverse map, from output coordinates to input coordinates.
    rows = (1 / scale, shear / scale, zero), (zero, 1 / scale, zero)
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def shift(images: Tensor, generator: Generator) -> Tensor:
    """Moves each image by up to a sixteenth of its side along each axis, black outside.

    That is up to 2 pixels of 32, and of 28.
    """
    count, side = len(images), images.shape[2]
    reach = furthest_shift(side)
    windows = F.pad(images, (reach,) * 4).unfold(2, side, 1).unfold(3, side, 1)
    down, right = (draw_shifts(count, side, generator) + reach).to(images.device)
    return windows[torch.arange(count, device=images.device), :, down, right]


def furthest_shift(side: int) -> int:
    """How many pixels `shift` moves an image of this side at most."""
    return round(side / 16)


def draw_shifts(count: int, side: int, generator: Generator) -> Tensor:
    """How far `shift` moves its window down and right for each image, in pixels, int64 2 × N."""
    reach = furthest_shift(side)
    return torch.randint(0, 2 * reach + 1, (2, count), generator=generator) - reach


def scale(images: Tensor, generator: Generator) -> Tensor:
    """Scales each image about its centre by 0.85 to 1.15; bilinear, black outside."""
    inverse = 1 / _uniform(images, generator, 0.85, 1.15)  # from output to input coordinates
    zero = torch.zeros_like(inverse)
    rows = (inverse, zero, zero), (zero, inverse, zero)
    matrix = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    scaled = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return scaled.clamp(0, 1)  # weights of a pixel can add up to more than 1 in the last digit


def light(images: Tensor, generator: Generator) -> Tensor:
    """Scales brightness, contrast and saturation by 0.8 to 1.2, in this order. Hue stays.

    With x an image's values, m its mean luma, g a pixel's luma, and b, c, s the factors drawn for
    the image: b x; then m + c (x - m); then g + s (x - g). Each result is cut to 0 to 1. In one
    channel the luma is the value.
    """
    brightness, contrast, saturation = (
        _uniform(images, generator, 0.8, 1.2)[:, None, None, None] for _ in range(3)
    )
    images = (brightness * images).clamp(0, 1)
    mean = greyscale(images, generator).mean(dim=(1, 2, 3), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp(0, 1)
    return torch.lerp(greyscale(images, generator), images, saturation).clamp(0, 1)


def mirror(images: Tensor, generator: Generator) -> Tensor:
    """Mirrors each image with probability one half.

    For pictures of what a recipe does: in training, an image is mirrored in every other epoch.
    """
    return torch.where(_coin(images, generator), images.flip(3), images)


def vertical_flip(images: Tensor, generator: Generator) -> Tensor:
    """Turns each image upside down with probability one half."""
    return torch.where(_coin(images, generator), images.flip(2), images)


def cutout(images: Tensor, generator: Generator) -> Tensor:
    """Blackens a square that lies inside the image; its side is a quarter of the image's.

    DeVries & Taylor 2017, Improved Regularization of Convolutional Neural Networks with Cutout,
    arXiv:1708.04552 (there the square may reach over the edge, and its size is tuned).
    """
    side = images.shape[2]
    hole = side // 4
    top, left = torch.randint(
        0, side - hole + 1, (2, len(images), 1, 1, 1), generator=generator
    ).to(images.device)
    x = torch.arange(side, device=images.device)
    y = x[:, None]
    inside = (y >= top) & (y < top + hole) & (x >= left) & (x < left + hole)
    return images.masked_fill(inside, 0.0)


def greyscale(images: Tensor, generator: Generator) -> Tensor:
    """The luma of each image, in all its channels. Draws nothing."""
    del generator
    if images.shape[1] == 1:
        return images
    from kornia.color import rgb_to_grayscale

    grey: Tensor = rgb_to_grayscale(images)
    return grey.expand_as(images)


STEPS: dict[str, Step] = {
    "color-jitter": color_jitter,
    "affine": affine,
    "vertical-flip": vertical_flip,
    "shift": shift,
    "scale": scale,
    "light": light,
}

PREVIEW: dict[str, Step] = {
    "horizontal flip": lambda images, _: images.flip(3),
    "vertical flip": lambda images, _: images.flip(2),
    "cutout": cutout,
    "greyscale": greyscale,
}


def _uniform(images: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    draws = torch.rand(len(images), generator=generator) * (high - low) + low
    return draws.to(images.device)


def _coin(images: Tensor, generator: Generator) -> Tensor:
    return (torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5).to(images.device)
