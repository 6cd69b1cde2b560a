"""Numbers, names and lists as text."""

import math

import pytest

from normlab import wording


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.percent(0.71414, 10_000), "71.41%"),
        (wording.percent(0.9666, 360), "96.7%"),
        (wording.signed_points(-0.0045, 10_000), "−0.45"),
        (wording.signed_points(-0.00001, 10_000), "0.00"),
        (wording.points(0.0125, 10_000), "1.25 points"),
        (wording.points(0.0125, 100), "1.2 points"),
        (wording.points_range(-0.0045, 0.0125, 10_000), "−0.45 to 1.25"),
        (wording.probability(0.87), "87%"),
        (wording.probability(0.999), "over 99%"),
        (wording.probability(0.001), "under 1%"),
        (wording.p_value(0.0312), "p = 0.031"),
        (wording.p_value(0.0001), "p < 0.001"),
        (wording.p_value(math.nan), "p unknown"),
        (wording.p_cell(0.0312), "0.0312"),
        (wording.p_cell(0.00001), "< 0.0001"),
        (wording.p_cell(math.nan), "unknown"),
        (wording.p_cell(None), "–"),
        (wording.large_number(12_656_560), "12.7 million"),
        (wording.large_number(1_200_000_000), "1.2 billion"),
        (wording.large_number(999_960_000), "1.0 billion"),
        (wording.large_number(999_940_000), "999.9 million"),
        (wording.large_number(48_020), "48,020"),
        (wording.kilobytes(73_600), "73.6 kB"),
        (wording.decimals([0.4914, 0.48216]), "0.4914, 0.4822"),
    ],
)
def test_numbers(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.counted(1, "seed"), "1 seed"),
        (wording.counted(5, "seed"), "5 seeds"),
        (wording.counted(10_000, "image"), "10,000 images"),
        (wording.listed(["a"]), "a"),
        (wording.listed(["a", "b", "c"]), "a, b and c"),
        (wording.listed(["a", "b"], last="or"), "a or b"),
        (wording.distinct(["b", "a", "b"]), "b; a"),
        (wording.distinct(["b", "a", "b"], between=" and "), "b and a"),
        (wording.by_name({"bn": "64", "gn": "128"}), "bn 64, gn 128"),
        (wording.by_name({"bn": "64", "gn": "64"}), "64"),
        (wording.span("8", "128"), "8 to 128"),
        (wording.span("8", "8"), "8"),
        (wording.spaced("learning_rate"), "learning rate"),
    ],
)
def test_lists_and_names(text, expected):
    assert text == expected


@pytest.mark.parametrize(
    ("value", "exact", "rounded"),
    [
        (True, "yes", "yes"),
        (False, "no", "no"),
        (None, "none", "none"),
        (1000, "1,000", "1,000"),
        (0.282842712, "0.282842712", "0.2828"),
        (("shift", "affine"), "shift then affine", "shift then affine"),
        ((), "none", "none"),
        ("one-cycle", "one-cycle", "one-cycle"),
    ],
)
def test_settings(value, exact, rounded):
    assert wording.setting_value(value) == exact
    assert wording.rounded_setting(value) == rounded


@pytest.mark.parametrize(
    ("value", "expected"), [(1000, "1,000"), (0.2, "0.2"), (None, "all"), ("nano", "nano")]
)
def test_values_of_an_axis(value, expected):
    assert wording.axis_value(value) == expected


@pytest.mark.parametrize(
    ("seconds", "measured", "estimated"),
    [
        (4.2, "4.2 s", "4 s"),
        (9.97, "10 s", "10 s"),
        (45, "45 s", "45 s"),
        (59.7, "1 min 0 s", "60 s"),
        (125, "2 min 5 s", "2 min"),
        (3780, "1 h 3 min", "63 min"),
        (11_100, "3 h 5 min", "3 h 05 min"),
    ],
)
def test_durations(seconds, measured, estimated):
    assert wording.duration(seconds) == measured
    assert wording.estimated_duration(seconds) == estimated


def test_ranges_of_seconds():
    assert wording.seconds_range([34.46, 20.1, 25]) == "20.1 to 34.5 s"
    assert wording.seconds_range([20.1, 20.1]) == "20.1 s"
