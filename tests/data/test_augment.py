"""The steps against their definitions, written out in float64 with the same draws."""

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab.data.augment import PREVIEW, STEPS, augment
from normlab.recipes import RECIPES
from normlab.seeding import generator


def images(count, seed=0):
    return torch.rand(count, 3, 32, 32, generator=generator(seed, "test images"))


def uniform(draws, count, low, high):
    return (torch.rand(count, generator=draws) * (high - low) + low).double().numpy()


def luma(x):
    return (0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2])[None]


def turn_hue(x, turn):
    flat = x.reshape(3, -1).T
    turned = []
    for red, green, blue in flat:
        hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
        turned.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    return np.array(turned).T.reshape(x.shape)


def test_color_jitter_is_its_definition():
    x = images(4)
    draws = generator(3, "augment")
    brightness, contrast, saturation = (uniform(draws, 4, 0.9, 1.1) for _ in range(3))
    hue = uniform(draws, 4, -0.1, 0.1)
    order = torch.randperm(4, generator=draws).tolist()
    expected = []
    for i, image in enumerate(x.double().numpy()):
        adjustments = [
            lambda y, i=i: y * brightness[i],
            lambda y, i=i: y * contrast[i] + luma(y).mean() * (1 - contrast[i]),
            lambda y, i=i: y * saturation[i] + luma(y) * (1 - saturation[i]),
            lambda y, i=i: turn_hue(y, hue[i]),
        ]
        for k in order:
            image = adjustments[k](image).clip(0, 1)
        expected.append(image)
    actual = STEPS["color-jitter"](x, generator(3, "augment"))
    np.testing.assert_allclose(actual.double().numpy(), np.stack(expected), atol=2e-5)


def test_affine_takes_the_nearest_pixel_and_black_outside():
    x = images(6) * 0.9 + 0.1
    draws = generator(5, "augment")
    shear = np.tan(np.deg2rad(uniform(draws, 6, -10, 10)))
    scale = uniform(draws, 6, 0.8, 1.2)
    actual = STEPS["affine"](x, generator(5, "augment")).numpy()
    centre = 15.5
    agreeing = 0
    for i in range(6):
        for row in range(32):
            for column in range(32):
                down, right = row - centre, column - centre
                source = (
                    down / scale[i] + centre,
                    (right + shear[i] * down) / scale[i] + centre,
                )
                if any(abs(s % 1 - 0.5) < 1e-3 for s in source):
                    continue  # a tie between two pixels: either is nearest
                y, z = (math.floor(s + 0.5) for s in source)
                inside = 0 <= y < 32 and 0 <= z < 32
                expected = x[i, :, y, z].numpy() if inside else np.zeros(3)
                np.testing.assert_array_equal(actual[i, :, row, column], expected)
                agreeing += 1
    assert agreeing > 0.99 * 6 * 32 * 32


def test_affine_draws_stay_in_their_range_and_use_it():
    corners = STEPS["affine"](torch.ones(2_000, 3, 32, 32), generator(0, "augment"))
    black_rows = (corners[:, 0, :, 16] == 0).sum(1)
    assert black_rows.max() == 6  # scale 0.8 shows 25.6 of 32 rows
    # A row is black if its outermost pixel, 15.5 from the centre, maps to beyond 16.
    none_black = (1.2 - 15.5 / 16) / 0.4
    assert (black_rows == 0).float().mean().item() == pytest.approx(none_black, abs=0.03)


def test_shift_moves_by_up_to_two_pixels():
    x = torch.zeros(500, 3, 32, 32)
    x[:, :, 10, 20] = 1
    shifted = STEPS["shift"](x, generator(0, "augment"))
    places = {tuple(place[2:].tolist()) for place in shifted.nonzero()}
    assert places == {(y, z) for y in range(8, 13) for z in range(18, 23)}
    assert shifted.sum() == x.sum()


@pytest.mark.parametrize(("size", "reach"), [(16, 1), (28, 2), (64, 4), (128, 8)])
def test_shift_moves_by_up_to_a_sixteenth_of_the_side(size, reach):
    x = torch.zeros(3000, 1, size, size)
    x[:, :, 10, 9] = 1
    rows, columns = STEPS["shift"](x, generator(0, "augment"))[:, 0].nonzero()[:, 1:].T
    assert (rows.min(), rows.max()) == (10 - reach, 10 + reach)
    assert (columns.min(), columns.max()) == (9 - reach, 9 + reach)


@pytest.mark.parametrize("name", STEPS)
def test_one_channel_is_augmented_as_three_equal_ones(name):
    grey = images(8)[:, :1]
    one, three = (
        STEPS[name](x, generator(2, "augment")) for x in (grey, grey.expand(-1, 3, 32, 32))
    )
    torch.testing.assert_close(one.expand_as(three), three, atol=2e-6, rtol=0)


def test_vertical_flip_flips_half_of_the_images():
    x = images(400)
    flipped = STEPS["vertical-flip"](x, generator(0, "augment"))
    turned = (flipped == x.flip(2)).flatten(1).all(dim=1)
    kept = (flipped == x).flatten(1).all(dim=1)
    assert torch.all(turned ^ kept)
    assert 150 < turned.sum() < 250


def test_preview_transformations():
    x = images(3)
    draws = generator(0, "preview")
    assert torch.equal(PREVIEW["horizontal flip"](x, draws), x.flip(3))
    assert torch.equal(PREVIEW["vertical flip"](x, draws), x.flip(2))
    grey = PREVIEW["greyscale"](x, draws)
    for image, original in zip(grey, x, strict=True):
        np.testing.assert_allclose(image[0], luma(original.double())[0], atol=1e-3)
        assert torch.equal(image[0], image[1])
    cut = PREVIEW["cutout"](x + 0.01, draws)
    for image in cut:
        rows, columns = (image[0] == 0).nonzero().T
        assert len(rows) == 64
        assert rows.max() - rows.min() == columns.max() - columns.min() == 7


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([*STEPS, *PREVIEW]),
    st.integers(1, 9),
    st.sampled_from([1, 3]),
    st.integers(16, 128),
    st.integers(0, 2**32),
)
def test_every_step_is_deterministic_and_keeps_shape_and_range(name, count, channels, size, seed):
    step = (STEPS | PREVIEW)[name]
    x = torch.rand(count, channels, size, size, generator=generator(seed, "test images"))
    x = x.contiguous(memory_format=torch.channels_last)
    before = x.clone()
    once = step(x, generator(seed, "augment"))
    assert once.shape == x.shape
    assert once.dtype == torch.float32
    assert once.min() >= 0
    assert once.max() <= 1
    assert torch.equal(x, before)
    assert torch.equal(step(x, generator(seed, "augment")), once)


def test_scale_matches_bilinear_sampling_in_float64():
    x = images(3)
    factors = torch.rand(3, generator=generator(5, "augment")).double() * 0.3 + 0.85
    cells = (torch.arange(32, dtype=torch.float64) + 0.5) / 16 - 1  # centres of pixels, -1 to 1
    for image, factor, actual in zip(
        x, factors, STEPS["scale"](x, generator(5, "augment")), strict=True
    ):
        place = (cells / factor + 1) * 16 - 0.5  # in input pixels
        weights = (1 - (place[:, None] - torch.arange(32)).abs()).clamp(min=0)
        expected = weights @ image.double() @ weights.T
        torch.testing.assert_close(actual.double(), expected, atol=1e-4, rtol=0)


def test_light_matches_its_formula_in_float64():
    x = images(4)
    draws = generator(5, "augment")
    factors = zip(*(uniform(draws, 4, 0.8, 1.2) for _ in range(3)), strict=True)
    expected = []
    for image, (brightness, contrast, saturation) in zip(x.double().numpy(), factors, strict=True):
        y = (brightness * image).clip(0, 1)
        y = (luma(y).mean() + contrast * (y - luma(y).mean())).clip(0, 1)
        expected.append((luma(y) + saturation * (y - luma(y))).clip(0, 1))
    actual = STEPS["light"](x, generator(5, "augment"))
    np.testing.assert_allclose(actual.double().numpy(), np.stack(expected), atol=1e-5)


def test_light_leaves_a_grey_image_grey_and_hue_as_it_is():
    grey = images(2)[:, :1]
    colour = STEPS["light"](grey.expand(-1, 3, -1, -1), generator(1, "augment"))
    one = STEPS["light"](grey, generator(1, "augment"))
    torch.testing.assert_close(colour, one.expand(-1, 3, -1, -1), atol=1e-5, rtol=0)


def test_each_image_of_a_batch_has_its_own_draws():
    x = images(1).expand(16, 3, 32, 32)
    for name in ("color-jitter", "affine", "shift", "scale", "light"):
        different = STEPS[name](x, generator(0, "augment")).flatten(1).unique(dim=0)
        assert len(different) > 8


def test_recipes_name_existing_steps():
    for recipe in RECIPES.values():
        assert augment(images(2), recipe.augment, generator(0, "augment")).shape == (2, 3, 32, 32)
