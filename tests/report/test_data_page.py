import dataclasses

import numpy as np
import pytest

from made_up import CLASSES, Page, dataset
from normlab.errors import UsageError
from normlab.report.data_page import render, write_data_page

STEPS = ("mirror", "color-jitter", "affine", "vertical-flip")


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.fixture(scope="module")
def page(data):
    return Page(render(data, recipe_steps=STEPS))


def test_it_shows_images_means_and_every_augmentation(page):
    alts = [a["alt"] for a in page.all("img")]
    assert alts.count("") == 40  # their captions name the classes
    assert [alt for alt in alts if alt.startswith("Mean image")] == [
        f"Mean image of {name}" for name in CLASSES
    ]
    strips = [alt.removeprefix("Images, ") for alt in alts if alt.startswith("Images, ")]
    assert strips == [
        *("original", "horizontal flip", "vertical flip", "cutout", "greyscale"),
        *("original", "mirror", "color jitter", "affine", "vertical flip", "all of them"),
    ]
    assert "An image is mirrored in every other epoch." in page.text


def test_it_says_what_the_recipe_does_not_use(data, page):
    assert "The recipe does not use cutout or greyscale." in page.text
    text = Page(render(data, recipe_steps=("shift",))).text
    assert "does not use horizontal flip, vertical flip, cutout or greyscale." in text
    assert "mirrored" not in text
    assert "The recipe" not in Page(render(data, recipe_steps=())).text


def test_it_has_the_statistics(page, data):
    mean = data.train.images.mean(axis=(0, 2, 3)) / 255
    variance = data.train.images.var(axis=(0, 2, 3)) / 255**2
    for k, name in enumerate(("red", "green", "blue")):
        low, high = data.train.images[:, k].min() / 255, data.train.images[:, k].max() / 255
        values = (low, high, mean[k], np.sqrt(variance[k]), variance[k])
        assert " ".join([name, *(f"{value:.4f}" for value in values)]) in page.text
    assert "train 200 200 × 3 × 32 × 32 uint8" in page.text
    assert "cat 20 10" in page.text
    assert data.fingerprint in page.text


@pytest.mark.slow(1)
def test_the_images_shown_depend_only_on_the_seed(data):
    assert render(data, recipe_steps=STEPS) == render(data, recipe_steps=STEPS)
    assert render(data, recipe_steps=STEPS) != render(data, recipe_steps=STEPS, seed=1)


def test_hostile_names_without_a_recipe(data, tmp_path):
    hostile = dataclasses.replace(
        data, classes=("<script>x</script>", *CLASSES[1:]), notes=("<i>note</i>",), fingerprint="x"
    )
    path = write_data_page(hostile, str(tmp_path / "data.html"), recipe_steps=())
    assert path == tmp_path / "data.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.all("script")
    assert "<script>x</script>" in page.text
    assert "<i>note</i>" in page.text
    assert "In training" not in page.text


@pytest.mark.slow(1)
def test_it_replaces_a_page_about_the_same_data_alone(data, tmp_path):
    out = tmp_path / "page.html"
    for _ in range(2):
        write_data_page(data, out, recipe_steps=())
    written = out.read_text(encoding="utf-8")
    other = dataclasses.replace(data, name='folder:"<photos>')
    with pytest.raises(UsageError, match=r"page.html already exists, and it is not a page about"):
        write_data_page(other, out, recipe_steps=())
    assert out.read_text(encoding="utf-8") == written
    out.unlink()
    for _ in range(2):
        write_data_page(other, out, recipe_steps=())


def test_the_error_for_an_unknown_step_lists_the_steps(data):
    with pytest.raises(UsageError, match=r"no augmentation 'afine': there are .*affine"):
        render(data, recipe_steps=("afine",))
