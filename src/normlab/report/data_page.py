"""The page about a data set."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from normlab.data.augment import PREVIEW, STEPS, Step, mirror
from normlab.data.dataset import Dataset
from normlab.data.describe import CHANNELS, Description, describe
from normlab.errors import UsageError
from normlab.report import plots
from normlab.report.embed import picture
from normlab.report.rendering import PageFigure, Picture, render_template
from normlab.runs.isolation import isolated
from normlab.storage.files import refuse_foreign, write_atomically
from normlab.wording import listed, shape_text

RECIPE_STEPS: dict[str, Step] = {"mirror": mirror, **STEPS}
_IN_RECIPES = {"horizontal flip": "mirror", "vertical flip": "vertical-flip"}  # of PREVIEW
EXAMPLES = 40
STRIP = 6  # images per row: on a phone each is still wider than 32 pixels


@isolated()
def write_data_page(
    dataset: Dataset, out: Path | str, *, recipe_steps: Sequence[str], seed: int = 0
) -> Path:
    """Writes a page about the contents of a data set and the effect of augmentation.

    Args:
        dataset: The data.
        out: The page.
        recipe_steps: The augmentation of a recipe: `mirror` if it mirrors, and names in
            `normlab.augment.STEPS`, in order.
        seed: Of the random choice of images and the augmentations.

    Returns:
        The path of the page.

    Raises:
        UsageError: A step does not exist, or a file has the page's name that is no page about this
            data set.
        NormlabError: The page cannot be written.
    """
    out = Path(out)
    mark = Markup('<meta name="data-set" content="{}">').format(dataset.name)
    refuse_foreign(out, mark.encode(errors="replace"), f"it is not a page about {dataset.name}")
    write_atomically(out, render(dataset, recipe_steps=recipe_steps, seed=seed))
    return out


def render(dataset: Dataset, *, recipe_steps: Sequence[str], seed: int = 0) -> str:
    """The page as HTML, in one file that opens from disk."""
    for name in recipe_steps:
        if name not in RECIPE_STEPS:
            raise UsageError(f"no augmentation {name!r}: there are {', '.join(RECIPE_STEPS)}")
    description = describe(dataset)
    splits, channels, classes = description.tables()
    drawn = np.random.default_rng(seed).permutation(len(dataset.train))[:EXAMPLES]
    examples = dataset.train.take(drawn)
    shown = examples.images[:STRIP]
    about = "The original images, and the same images after each transformation."
    if recipe_steps:
        unused = [name for name in PREVIEW if _IN_RECIPES.get(name) not in recipe_steps]
        about += f" The recipe does not use {listed(unused, 'or')}."
    augmentations = [
        (
            "On every image",
            about,
            _strips(plots.augmented(shown, PREVIEW, seed)),
        )
    ]
    if recipe_steps:
        steps = {name: RECIPE_STEPS[name] for name in recipe_steps}
        every = [*steps.values()]
        steps["all of them"] = lambda images, generator: reduce(
            lambda changed, step: step(changed, generator), every, images
        )
        mirrored = " An image is mirrored in every other epoch." if "mirror" in steps else ""
        augmentations.append(
            (
                "In training",
                "The steps of the recipe, each drawn anew for every image, then all in order."
                + mirrored,
                _strips(plots.augmented(shown, steps, seed)),
            )
        )
    total = sum(split.shape[0] for split in description.splits)
    shape, side = shape_text(dataset.shape), dataset.shape[1]
    return render_template(
        "data.html",
        title=dataset.name,
        data_set=dataset.name,
        about=f"{total:,} images of {len(dataset.classes)} classes, {shape} pixels.",
        notes=dataset.notes,
        splits=splits,
        channels=channels,
        classes=classes,
        examples=[
            Picture(picture(image), alt="", title=dataset.classes[label], size=side)
            for image, label in zip(examples.images, examples.labels, strict=True)
        ],
        means=[
            Picture(picture(image), alt=f"Mean image of {name}", title=name, size=side)
            for name, image in plots.mean_pictures(description).items()
        ],
        figures=_figures(description),
        augmentations=augmentations,
        side=side,
        strip_width=side * len(shown),
        fingerprint=dataset.fingerprint,
    )


def _figures(description: Description) -> list[PageFigure]:
    channels = CHANNELS[len(description.mean)]
    means = zip(channels, description.mean, strict=True)
    return [
        PageFigure(
            name="histograms",
            draw=lambda: plots.channel_histograms(description),
            alt=f"Histograms of {listed(channels)}; means, of 255: "
            f"{', '.join(f'{name} {255 * mean:.0f}' for name, mean in means)}.",
            title="Values of each channel",
            caption="All pixels of the training images; dashed: the mean.",
        )
    ]


def _strips(rows: dict[str, NDArray[np.uint8]]) -> list[tuple[str, str]]:
    """Each row of images as one picture, with its name."""
    return [
        (name.replace("-", " "), picture(np.concatenate([*row], axis=2)))
        for name, row in rows.items()
    ]
