import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console

from normlab.data import Dataset, Split, load
from normlab.data.describe import channel_histograms, channel_statistics, describe


def made_up(classes=("cat", "dog", "emu"), notes=()):
    rng = np.random.default_rng(0)
    images = rng.integers(3, 200, (2500, 3, 32, 32), dtype=np.uint8)  # two chunks and a half
    images[:, 1] //= 2
    labels = rng.integers(0, len(classes), 2500)
    whole = Split(images, labels)
    return Dataset(
        "made up",
        classes,
        whole.take(np.arange(2200)),
        whole.take(np.arange(2200, 2500)),
        notes=notes,
    )


def printed(description, width=80):
    buffer = io.StringIO()
    Console(file=buffer, width=width).print(description)
    return buffer.getvalue()


IMAGES = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 4), st.just(3), st.integers(1, 4), st.integers(1, 4))
)


@given(IMAGES)
def test_channel_statistics_equal_numpys(images):
    mean, std = channel_statistics(images)
    scaled = images / 255
    assert mean.dtype == std.dtype == np.float64
    assert mean.shape == std.shape == (3,)
    assert np.allclose(mean, scaled.mean(axis=(0, 2, 3)), rtol=1e-13)
    assert np.allclose(std, scaled.std(axis=(0, 2, 3)), rtol=1e-9, atol=1e-15)


@given(st.integers(0, 255), st.integers(1, 2000))
def test_a_constant_channel_has_a_standard_deviation_of_0(value, count):
    mean, std = channel_statistics(np.full((count, 3, 1, 1), value, np.uint8))
    assert (mean == value / 255).all()
    assert (std == 0).all()


@given(IMAGES)
def test_histograms_count_every_pixel(images):
    histograms = channel_histograms(images)
    assert histograms.shape == (3, 256)
    for channel in range(3):
        for value in np.unique(images):
            assert histograms[channel, value] == (images[:, channel] == value).sum()
    assert (histograms.sum(axis=1) == images[:, 0].size).all()


def test_pixels_are_described_by_the_training_split():
    dataset = made_up()
    description = describe(dataset)
    scaled = dataset.train.images / 255
    axes = (0, 2, 3)
    assert np.array_equal(description.minimum, scaled.min(axis=axes))
    assert np.array_equal(description.maximum, scaled.max(axis=axes))
    assert np.allclose(description.mean, scaled.mean(axis=axes), rtol=1e-12)
    assert np.allclose(description.std, scaled.std(axis=axes), rtol=1e-12)
    assert np.allclose(description.variance, scaled.var(axis=axes), rtol=1e-12)
    assert np.array_equal(description.histograms, channel_histograms(dataset.train.images))
    mean, std = channel_statistics(dataset.train.images)
    assert np.array_equal(description.mean, mean)
    assert np.array_equal(description.std, std)


def test_each_class_has_its_mean_image():
    dataset = made_up()
    means = describe(dataset).class_means
    assert means.shape == (3, 3, 32, 32)
    for k in range(3):
        expected = dataset.train.images[dataset.train.labels == k].mean(axis=0) / 255
        assert np.allclose(means[k], expected, rtol=1e-12)


def test_held_out_images_are_counted_as_a_split():
    dataset = made_up()
    assert [split.name for split in describe(dataset).splits] == ["train", "test"]
    parted = describe(dataset.hold_out(300))
    assert [split.name for split in parted.splits] == ["train", "holdout", "test"]
    assert [split.shape for split in parted.splits] == [
        *((1900, 3, 32, 32), (300, 3, 32, 32), (300, 3, 32, 32))
    ]
    assert {split.dtype for split in parted.splits} == {"uint8"}
    for split in parted.splits:
        labels = dataset.hold_out(300).split(split.name).labels
        assert split.counts.tolist() == [(labels == k).sum() for k in range(3)]
    assert "holdout" in printed(parted)


def test_a_class_without_training_images_has_no_mean_image():
    images = np.ones((4, 3, 32, 32), np.uint8)
    split = Split(images, np.array([0, 0, 2, 2]))
    description = describe(Dataset("made up", ("a", "b", "c"), split, split))
    assert np.isnan(description.class_means[1]).all()
    assert np.allclose(description.class_means[[0, 2]], 1 / 255)
    assert description.splits[0].counts.tolist() == [2, 0, 2]


def test_the_tables_fit_into_80_columns():
    dataset = made_up(("a" * 100, "dog", "emu"), notes=("one image was left out",))
    text = printed(describe(dataset.hold_out(300)))
    assert max(map(len, text.splitlines())) <= 80
    assert "2,200" not in text
    for expected in ("1,900", "1900 × 3 × 32 × 32", "uint8", "red", "dog", dataset.fingerprint):
        assert expected in text
    assert "note: one image was left out" in text


def test_both_renderings_show_the_same_figures():
    description = describe(load("digits"))
    text, page = printed(description), description._repr_html_()
    for expected in ("1,437", "0.3053", "0.3757", "0.1412", "142", description.fingerprint):
        assert expected in text
        assert expected in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[red]cat[/red]", "a&b", "[/]"])
def test_a_class_name_is_escaped(name):
    description = describe(made_up(("a", "b", name), notes=(f"{name} is noted",)))
    assert printed(description, width=120).count(name) == 2
    page = description._repr_html_()
    assert "<script>" not in page
    assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
