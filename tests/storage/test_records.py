"""Dataclasses from JSON: types, ranges, and what is wrong in one line."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normlab.data.augment import STEPS
from normlab.ranges import LARGEST, Positive, Range, Share
from normlab.recipes import RECIPES, AugmentStep
from normlab.storage.records import MalformedError, build, parse


@dataclass(frozen=True, kw_only=True)
class Record:
    name: str
    share: Share
    count: Positive | None = None
    rate: Annotated[float | None, Range(above=0, below=1)] = None
    shares: tuple[Share, ...] = ()
    free: float = 0.0
    flag: bool = False
    kind: Literal["a", "b"] = "a"


WHOLE = {"name": "x", "share": 0.5}


@pytest.mark.parametrize(
    "values",
    [
        {"share": 0},
        {"share": 1.0},
        {"count": LARGEST},
        {"count": None, "rate": None},
        {"rate": 5e-324},
        {"shares": [0, 0.5, 1]},
        {"free": -1e300, "flag": True, "kind": "b"},
    ],
)
def test_values_in_their_ranges_are_taken(values):
    built = build(Record, WHOLE | values)
    for name, value in values.items():
        expected = tuple(value) if isinstance(value, list) else value
        assert getattr(built, name) == expected


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"share": 1.1}, "share must be at least 0 and at most 1, not 1.1"),
        ({"share": 10**400}, "share must be at least 0 and at most 1, not 1000"),
        ({"share": -1}, "share must be at least 0 and at most 1, not -1"),
        ({"share": math.nan}, "share must be finite, not nan"),
        ({"share": True}, "share must be a number, not True"),
        ({"count": 0}, "count must be at least 1 and at most 1,000,000,000, not 0"),
        ({"count": 1e18}, "count must be int | None, not 1e+18"),
        ({"rate": 0}, "rate must be above 0 and below 1, not 0"),
        ({"shares": [0.5, 2]}, "shares must be at least 0 and at most 1, not 2"),
        ({"shares": [0.5, math.inf]}, "shares must be finite, not inf"),
        ({"free": -math.inf}, "free must be finite, not -inf"),
        ({"kind": "c"}, "kind must be Literal['a', 'b'], not 'c'"),
        ({"flag": 1}, "flag must be bool, not 1"),
        ({"more": 1}, "Record has no 'more'"),
    ],
)
def test_other_values_are_named(values, problem):
    with pytest.raises(MalformedError) as caught:
        build(Record, WHOLE | values)
    assert str(caught.value).startswith(problem)


@given(st.floats() | st.integers())
def test_a_range_is_what_it_says(number):
    allowed = Range(at_least=-1, below=2)
    assert (number in allowed) == (-1 <= number < 2)
    assert number not in Range(above=number if number == number else 0)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", '{"a": -Infinity}', "", "[" * 10_000, "{'a'}"]
)
def test_what_is_not_json_is_refused_in_one_line(text):
    with pytest.raises(MalformedError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


def test_records_know_the_steps_of_augmentation():
    assert AugmentStep.__args__ == tuple(STEPS)
    for name, recipe in RECIPES.items():
        fields = {field: getattr(recipe, field) for field in recipe.__dataclass_fields__}
        assert build(type(recipe), fields) == recipe, name
