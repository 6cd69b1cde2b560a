"""Intervals and tests: against scipy, against counting by hand, and by their error rates."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from normlab.findings import statistics

ACCURACIES = [86.1, 86.9, 86.4, 86.6, 86.2]
OTHERS = [85.2, 86.0, 85.9, 85.1, 85.4]

finite = st.floats(-100, 100).map(lambda x: round(x, 3))
few = st.lists(finite, min_size=2, max_size=12)


def studies(seeds, count, *, difference=0.0):
    """Simulated studies of three arms that share what a seed does; the first is better."""
    rng = np.random.default_rng(seeds)
    for _ in range(count):
        shared = rng.normal(86, 0.4, seeds)
        a, b, c = (shared + rng.normal(0, 0.3, seeds) for _ in range(3))
        yield {"bn": a + difference, "gn": b, "ln": c}


# Estimates


@given(few)
def test_the_mean_has_scipys_interval(values):
    estimate = statistics.mean(values)
    assert estimate.value == pytest.approx(np.mean(values))
    if np.ptp(values):  # else there is no spread to judge by
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-9)
    else:
        assert (estimate.low, estimate.high) == (-math.inf, math.inf)


def test_one_value_has_no_interval():
    assert statistics.mean([0.7]) == statistics.Estimate(0.7, -math.inf, math.inf)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0]]])
def test_what_is_no_row_of_numbers_is_refused(values):
    with pytest.raises(ValueError, match="expected one finite number or more"):
        statistics.mean(values)


# Differences


def test_a_pair_is_compared_seed_by_seed():
    ((found,),) = statistics.differences({"bn": ACCURACIES, "ln": OTHERS})
    test = stats.ttest_rel(ACCURACIES, OTHERS)
    assert (found.first, found.second) == ("bn", "ln")
    assert found.differences == pytest.approx([0.9, 0.9, 0.5, 1.5, 0.8])
    assert found.mean.value == pytest.approx(0.92)
    assert (found.mean.low, found.mean.high) == pytest.approx(tuple(test.confidence_interval()))
    assert found.p == found.p_holm == pytest.approx(test.pvalue)
    assert found.p_permutation is None
    assert found.shown


def test_what_all_arms_of_a_seed_share_changes_nothing():
    shared = np.array([0.0, 3.0, -1.0, 2.0, 5.0])
    plain = statistics.differences({"bn": ACCURACIES, "ln": OTHERS})[0][0]
    moved = statistics.differences({"bn": ACCURACIES + shared, "ln": OTHERS + shared})[0][0]
    assert moved.p == pytest.approx(plain.p)
    assert moved.wins.value == pytest.approx(plain.wins.value)


def test_all_pairs_are_compared_and_corrected_together():
    arms = {"bn": ACCURACIES, "gn": OTHERS, "ln": ACCURACIES[::-1], "none": [10.0] * 5}
    (found,) = statistics.differences(arms)
    assert [(d.first, d.second) for d in found] == list(itertools.combinations(arms, 2))
    assert [d.p_holm for d in found] == statistics.holm([d.p for d in found])


@given(few)
def test_swapping_two_arms_turns_the_difference_round(values):
    others = [value + k for k, value in enumerate(values)]
    ((one,),) = statistics.differences({"a": values, "b": others})
    ((other,),) = statistics.differences({"b": others, "a": values})
    assert one.mean.value == pytest.approx(-other.mean.value)
    assert one.p == pytest.approx(other.p)
    assert one.wins.value == pytest.approx(1 - other.wins.value)
    assert one.wins.low == pytest.approx(1 - other.wins.high, abs=1e-4)


def test_pairs_of_all_groups_are_corrected_together():
    arms = {"bn": ACCURACIES, "gn": OTHERS}
    others = {"bn": OTHERS, "gn": ACCURACIES[::-1], "ln": [1.0, 2.0, 4.0, 3.0, 9.0]}
    groups = statistics.differences(arms, others)
    assert [len(group) for group in groups] == [1, 3]
    pairs = [d for group in groups for d in group]
    assert [d.p_holm for d in pairs] == statistics.holm([d.p for d in pairs])
    assert groups[0][0].p_holm > statistics.differences(arms)[0][0].p_holm


def test_one_seed_shows_nothing():
    ((found,),) = statistics.differences({"bn": [90.0], "ln": [10.0]})
    assert math.isnan(found.p)
    assert math.isnan(found.p_holm)
    assert not found.shown
    assert (found.wins.low, found.wins.high) == (0.0, 1.0)


def test_equal_arms_do_not_differ():
    ((found,),) = statistics.differences({"bn": ACCURACIES, "ln": ACCURACIES})
    assert math.isnan(found.p)
    assert (found.wins.value, found.shown) == (0.5, False)


@pytest.mark.parametrize("difference", [0.8 / 360, 4 / 360, 1 / 3])
@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_equal_differences_show_nothing_for_they_have_no_spread(difference, seeds):
    other = np.arange(seeds) / 360
    ((found,),) = statistics.differences({"bn": other + difference, "ln": other})
    assert not found.shown
    assert math.isinf(found.mean.high)
    assert (found.wins.value, found.wins.low, found.wins.high) == (1.0, 0.0, 1.0)


@pytest.mark.slow(1)
@pytest.mark.parametrize("seeds", [2, 3])
def test_accuracies_of_few_images_show_no_more_than_chance_either(seeds):
    """They are multiples of 1/360, and ties are common."""
    false = 0
    for study in studies(seeds, 1000):
        rounded = {name: np.round(values / 100 * 360) / 360 for name, values in study.items()}
        false += any(d.shown for d in statistics.differences(rounded)[0])
    assert false <= 65


def test_a_pair_is_compared_over_the_seeds_that_both_have():
    arms = {"bn": ACCURACIES, "gn": [math.nan, *OTHERS[1:]], "ln": [85.0, *[math.nan] * 4]}
    (found,) = statistics.differences(arms)
    assert [(d.first, d.second, len(d.differences)) for d in found] == [
        ("bn", "gn", 4),
        ("bn", "ln", 1),
    ]
    ((alone,),) = statistics.differences({"bn": ACCURACIES[1:], "gn": OTHERS[1:]})
    assert found[0].p == alone.p


def test_arms_of_different_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        statistics.differences({"bn": ACCURACIES, "ln": OTHERS[:3]})


# Tests


def test_holm_by_hand():
    # 4 · 0.005, 3 · 0.01, then 2 · 0.03 and 1 · 0.04, which may not be below it
    corrected = statistics.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_counts_what_is_not_known():
    assert statistics.holm([math.nan, 0.02])[1] == 0.04


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferronis(p):
    corrected = statistics.holm(p)
    for raw, own in zip(p, corrected, strict=True):
        assert raw <= own <= min(1, len(p) * raw)
    ranked = [own for _, own in sorted(zip(p, corrected, strict=True))]
    assert ranked == sorted(ranked)


@given(st.lists(finite, min_size=6, max_size=8))
def test_the_permutation_test_counts_all_signings(values):
    signings = itertools.product((1, -1), repeat=len(values))
    means = [abs(np.mean(np.multiply(values, signs))) for signs in signings]
    seen = abs(np.mean(values))
    as_far = sum(m >= seen - 1e-9 for m in means)
    assert statistics.sign_flip(values) == pytest.approx(as_far / len(means))


@pytest.mark.parametrize("seeds", [6, 16, 17, 40])
def test_the_permutation_test_is_scipys(seeds):
    values = np.random.default_rng(seeds).normal(0.45, 1, seeds)
    expected = stats.permutation_test(
        (values,),
        lambda values, axis: values.mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=99_999,
        batch=1000,
        rng=1,
    ).pvalue
    chance = 0 if seeds <= 16 else math.sqrt(2 * expected / 99_999)  # of two draws of signings
    assert abs(statistics.sign_flip(values) - expected) <= 4 * chance + 1e-12


@pytest.mark.parametrize(("seeds", "smallest"), [(5, None), (6, 2 / 64), (8, 2 / 256)])
def test_the_permutation_test_stands_only_where_it_can_reject(seeds, smallest):
    assert statistics.sign_flip(np.arange(1.0, seeds + 1)) == smallest


def test_mcnemar_is_the_binomial_test_of_the_images_that_tell_them_apart():
    assert statistics.mcnemar(10, 25) == pytest.approx(stats.binomtest(10, 35).pvalue)
    assert statistics.mcnemar(0, 0) == 1.0
    assert statistics.mcnemar(5, 0) == pytest.approx(2 / 32)


# Error rates


@pytest.mark.slow(2)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_without_a_difference_at_most_a_twentieth_of_studies_shows_one(seeds):
    false = sum(
        any(d.shown for d in statistics.differences(study)[0]) for study in studies(seeds, 1000)
    )
    assert false <= 65  # 5% and two standard errors of a share of 1,000


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_a_mean_holds_it_as_often_as_it_says(seeds):
    pairs = [np.subtract(study["bn"], study["gn"]) for study in studies(seeds, 1000)]
    held = sum(e.low <= 0 <= e.high for e in map(statistics.mean, pairs))
    assert abs(held / 1000 - 0.95) <= 0.014


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_winning_holds_it_as_often_as_it_says(seeds):
    rng = np.random.default_rng(seeds)
    truth = stats.norm.cdf(0.4 / 0.5)
    held = 0
    for _ in range(1000):
        wins = statistics.probability_above_zero(rng.normal(0.4, 0.5, seeds))
        held += wins.low <= truth <= wins.high
    assert abs(held / 1000 - 0.95) <= 0.014


@pytest.mark.slow(1)
@pytest.mark.parametrize(("seeds", "difference"), [(3, 1.5), (5, 0.6), (5, 1.0), (10, 0.5)])
def test_a_planted_difference_is_seen_as_often_as_predicted(seeds, difference):
    """In one pair; Holm's correction can only see more of several than the prediction says."""
    spread = 0.3 * math.sqrt(2)
    seen = 0
    for study in studies(seeds, 1000, difference=difference):
        ((pair,),) = statistics.differences({"bn": study["bn"], "gn": study["gn"]})
        seen += pair.shown
    predicted = statistics.power(difference, spread, seeds)
    error = math.sqrt(predicted * (1 - predicted) / 1000)
    assert abs(seen / 1000 - predicted) <= 3 * error


@pytest.mark.slow(1)
def test_of_three_pairs_a_difference_is_seen_at_least_as_often_as_predicted():
    seen = 0
    for study in studies(5, 1000, difference=1.0):
        seen += statistics.differences(study)[0][0].shown
    predicted = statistics.power(1.0, 0.3 * math.sqrt(2), 5, comparisons=3)
    assert seen / 1000 >= predicted - 0.03
    assert predicted < statistics.power(1.0, 0.3 * math.sqrt(2), 5)


@given(st.floats(0.05, 3), st.integers(1, 10))
def test_the_seeds_needed_are_the_fewest_that_suffice(effect, comparisons):
    seeds = statistics.seeds_needed(effect, 1.0, comparisons)
    assert statistics.power(effect, 1.0, seeds, comparisons) >= 0.8
    if seeds > 2:
        assert statistics.power(effect, 1.0, seeds - 1, comparisons) < 0.8


def test_some_differences_no_study_can_see():
    assert statistics.seeds_needed(0.0, 1.0) is None
    assert statistics.seeds_needed(0.5, 0.0) == 2


def test_a_test_sees_every_difference_without_spread_and_none_at_its_level():
    assert [statistics.power(difference, 0.0, 3) for difference in (1.0, 0.5, 0.0)] == [1, 1, 0]
    assert statistics.power(0.0, 1.0, 5) == pytest.approx(0.05)
    assert statistics.power(0.0, 1.0, 5, comparisons=10) == pytest.approx(0.005)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_interval_of_a_spread_holds_the_true_one_19_times_in_20(seeds):
    spreads = np.random.default_rng(0).normal(0, 2, (20_000, seeds)).std(1, ddof=1)
    low, high = statistics.spread_interval(1.0, seeds)
    assert statistics.spread_interval(3.0, seeds) == pytest.approx((3 * low, 3 * high))
    assert np.mean((low * spreads < 2) & (high * spreads > 2)) == pytest.approx(0.95, abs=0.005)


def test_the_seeds_needed_are_a_whole_number_and_of_one_pair_where_nothing_is_said():
    for effect in (0.05, 0.3, 1.0):
        needed = statistics.seeds_needed(effect, 1.0)
        assert isinstance(needed, int)
        assert needed == statistics.seeds_needed(effect, 1.0, comparisons=1)
    effect = 0.029  # ten thousand seeds see it alone, and not among a thousand pairs
    assert statistics.seeds_needed(effect, 1.0) <= 10_000
    assert statistics.seeds_needed(effect, 1.0, comparisons=1000) is None


def test_the_probability_of_winning_is_that_of_normal_differences():
    differences = [1.0, 3.0, 2.0, 7.0]
    share = np.mean(differences) / np.std(differences, ddof=1)
    assert statistics.probability_above_zero(differences).value == pytest.approx(
        stats.norm.cdf(share)
    )
    one = statistics.probability_above_zero([1.0])
    assert math.isnan(one.value)
    assert (one.low, one.high) == (0, 1)


def test_drawn_signings_count_what_was_seen_and_are_the_same_every_time():
    clear = np.arange(1.0, 41.0)  # of 2⁴⁰ signings, two lie as far: none is drawn
    assert statistics.sign_flip(clear) == 1 / 100_001
    unclear = np.random.default_rng(5).normal(0.3, 1.0, 40)
    assert statistics.sign_flip(unclear) == statistics.sign_flip(unclear)
