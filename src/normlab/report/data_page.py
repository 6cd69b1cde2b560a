"""The page about a data set."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normlab import plots
from normlab.augment import PREVIEW, STEPS, Step, augment
from normlab.data.dataset import Dataset
from normlab.data.describe import CHANNELS, Description, describe
from normlab.files import write_atomically
from normlab.report.figures import inline_svg, picture
from normlab.report.html import Picture, Table, fill

EXAMPLES = 40
STRIP = 6  # images beside one another: on a phone still wider than their 32 pixels


class Strips(NamedTuple):
    """Rows of images, the first as they are, the others after an operation."""

    title: str
    about: str
    rows: list[tuple[str, str]]
    width: int


def write_data_page(
    dataset: Dataset, out: Path, *, recipe_steps: Sequence[str], seed: int = 0
) -> Path:
    """Writes a page of what a data set holds and what augmentation makes of it.

    Args:
        dataset: The data.
        out: The page.
        recipe_steps: Names in `normlab.augment.STEPS`, in order: what a recipe does.
        seed: Draws the images that are shown, and the augmentations.

    Returns:
        The page's path.

    Raises:
        NormlabError: The page cannot be written.
    """
    write_atomically(out, render(dataset, recipe_steps=recipe_steps, seed=seed))
    return out


def render(dataset: Dataset, *, recipe_steps: Sequence[str], seed: int = 0) -> str:
    """The page as HTML, in one file that opens from disk."""
    description = describe(dataset)
    drawn = np.random.default_rng(seed).permutation(len(dataset.train))[:EXAMPLES]
    examples = dataset.train.take(drawn)
    shown = examples.images[:STRIP]
    total = sum(split.shape[0] for split in description.splits)
    strips = [
        _strips(
            "On every image",
            "The images as they are, and after each transformation.",
            plots.augmented(shown, PREVIEW, seed),
        )
    ]
    if recipe_steps:
        steps: dict[str, Step] = {name: STEPS[name] for name in recipe_steps}
        steps["all of them"] = lambda images, generator: augment(images, recipe_steps, generator)
        strips.append(
            _strips(
                "In training",
                "The recipe's steps, each with random draws for every image, and all in order.",
                plots.augmented(shown, steps, seed),
            )
        )
    return fill(
        "data.html",
        title=dataset.name,
        about=f"{total:,} images of {len(dataset.classes)} classes, 3 × 32 × 32 pixels.",
        notes=dataset.notes,
        counts=_counts(description),
        splits=Table(
            caption="Splits",
            head=("split", "shape", "type"),
            kinds=("plain", "plain", "plain"),
            rows=[(s.name, " × ".join(map(str, s.shape)), s.dtype) for s in description.splits],
        ),
        channels=_channels(description),
        examples=[
            Picture(picture(image), alt=dataset.classes[label], title=dataset.classes[label])
            for image, label in zip(examples.images, examples.labels, strict=True)
        ],
        means=[
            Picture(picture(image), alt=f"Mean image of {name}", title=name)
            for name, image in plots.mean_pictures(description).items()
        ],
        histograms=inline_svg(
            plots.channel_histograms(description),
            "histograms",
            "Histograms of the three channels; means, of 255: "
            + ", ".join(
                f"{name} {255 * mean:.0f}"
                for name, mean in zip(CHANNELS, description.mean, strict=True)
            )
            + ".",
        ),
        augmentations=strips,
        fingerprint=dataset.fingerprint,
    )


def _counts(description: Description) -> Table:
    splits = description.splits
    return Table(
        caption="Images of each class",
        head=("class", *(split.name for split in splits)),
        kinds=("name", *("number" for _ in splits)),
        rows=[
            (name, *(f"{split.counts[k]:,}" for split in splits))
            for k, name in enumerate(description.classes)
        ],
        foot=("all", *(f"{split.shape[0]:,}" for split in splits)),
    )


def _channels(description: Description) -> Table:
    d = description
    columns = (d.minimum, d.maximum, d.mean, d.std, d.variance)
    return Table(
        caption="Pixels of the training images, on a scale from 0 to 1",
        head=("channel", "min", "max", "mean", "std", "variance"),
        kinds=("plain", "number", "number", "number", "number", "number"),
        rows=[
            (name, *(f"{column[k]:.4f}" for column in columns)) for k, name in enumerate(CHANNELS)
        ],
    )


def _strips(title: str, about: str, rows: dict[str, NDArray[np.uint8]]) -> Strips:
    width = 32 * next(iter(rows.values())).shape[0]
    return Strips(
        title,
        about,
        [
            (name.replace("-", " "), picture(np.concatenate([*row], axis=2)))
            for name, row in rows.items()
        ],
        width,
    )
