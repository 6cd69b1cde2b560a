"""Intervals and tests against scipy, against counting by hand, and by their error rates."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from normlab.findings import statistics

ACCURACIES = [86.1, 86.9, 86.4, 86.6, 86.2]
OTHERS = [85.2, 86.0, 85.9, 85.1, 85.4]

finite = st.floats(-100, 100).map(lambda x: round(x, 3))
few = st.lists(finite, min_size=2, max_size=12)


def studies(seeds, count, *, difference=0.0):
    """Simulated studies of three arms that share the effects of the seed; the first is better."""
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
def test_anything_but_finite_numbers_is_refused(values):
    with pytest.raises(ValueError, match="expected one finite number or more"):
        statistics.mean(values)


# Differences


def test_a_pair_is_compared_seed_by_seed():
    ((pair,),) = statistics.differences({"bn": ACCURACIES, "ln": OTHERS})
    test = stats.ttest_rel(ACCURACIES, OTHERS)
    assert (pair.first, pair.second) == ("bn", "ln")
    assert pair.differences == pytest.approx([0.9, 0.9, 0.5, 1.5, 0.8])
    assert pair.mean.value == pytest.approx(0.92)
    assert (pair.mean.low, pair.mean.high) == pytest.approx(tuple(test.confidence_interval()))
    assert pair.p == pair.p_corrected == pytest.approx(test.pvalue)
    assert pair.p_permutation is None
    assert pair.shown


def test_effects_that_all_arms_of_a_seed_share_cancel():
    shared = np.array([0.0, 3.0, -1.0, 2.0, 5.0])
    plain = statistics.differences({"bn": ACCURACIES, "ln": OTHERS})[0][0]
    moved = statistics.differences({"bn": ACCURACIES + shared, "ln": OTHERS + shared})[0][0]
    assert moved.p == pytest.approx(plain.p)
    assert moved.wins.value == pytest.approx(plain.wins.value)


def test_all_pairs_are_compared_and_corrected_together():
    arms = {"bn": ACCURACIES, "gn": OTHERS, "ln": ACCURACIES[::-1], "none": [10.0] * 5}
    (pairs,) = statistics.differences(arms)
    assert [(d.first, d.second) for d in pairs] == list(itertools.combinations(arms, 2))
    corrected = [min(1, 6 * d.p) for d in pairs]
    assert [d.p_corrected for d in pairs] == pytest.approx(corrected, nan_ok=True)


@given(few)
def test_swapping_two_arms_negates_the_difference(values):
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
    assert [d.p_corrected for d in pairs] == [min(1, 4 * d.p) for d in pairs]
    assert groups[0][0].p_corrected > statistics.differences(arms)[0][0].p_corrected
    ((pair,),) = statistics.differences(arms, comparisons=7)
    assert pair.p_corrected == min(1, 7 * pair.p)


@given(few, st.integers(1, 60))
def test_a_difference_is_shown_exactly_if_its_intervals_leave_nothing_out(values, comparisons):
    """0 for the mean, 50% for the probability of winning: test and intervals never disagree."""
    pair = statistics.Difference("a", "b", np.array(values), comparisons)
    if abs(pair.p_corrected - 0.05) < 1e-6:
        return
    assert pair.shown == (not pair.mean.low <= 0 <= pair.mean.high)
    assert pair.shown == (not pair.wins.low <= 0.5 <= pair.wins.high)


@given(few, st.integers(1, 60), st.floats(0.01, 300))
def test_equality_is_shown_exactly_if_the_interval_lies_within_the_margin(
    values, comparisons, margin
):
    pair = statistics.Difference("a", "b", np.array(values), comparisons)
    within = -margin < pair.mean.low and pair.mean.high < margin
    if min(abs(pair.mean.low + margin), abs(pair.mean.high - margin)) > 1e-6:
        assert pair.equivalent(margin) == within


@pytest.mark.parametrize("margin", [0.2, 0.9, 2.0])
def test_the_equivalence_test_is_two_one_sided_t_tests(margin):
    values = np.subtract(ACCURACIES, OTHERS)
    center, error, degrees = values.mean(), stats.sem(values), len(values) - 1
    by_hand = max(
        stats.t.sf((center + margin) / error, degrees),
        stats.t.cdf((center - margin) / error, degrees),
    )
    assert statistics.equivalence(values, margin) == pytest.approx(by_hand)


def test_without_a_spread_nothing_is_shown_to_be_equal():
    assert math.isnan(statistics.equivalence([0.0, 0.0, 0.0], 0.5))
    assert not statistics.Difference("a", "b", np.zeros(3)).equivalent(0.5)


@pytest.mark.parametrize("seeds", [3, 10])
def test_a_difference_as_large_as_the_margin_is_rarely_shown_to_be_equal(seeds):
    rng = np.random.default_rng(seeds)
    false = sum(
        statistics.Difference("a", "b", rng.normal(0.5, 0.1, seeds)).equivalent(0.5)
        for _ in range(1000)
    )
    assert false <= 35  # 2.5% plus two standard errors


def test_what_was_not_planned_is_never_shown():
    pair = statistics.Difference("a", "b", np.array([5.0, 5.1, 4.9]), planned=False)
    assert pair.p_corrected < 0.05
    assert not pair.shown
    assert not pair.equivalent(50)


def test_one_seed_shows_no_difference():
    ((pair,),) = statistics.differences({"bn": [90.0], "ln": [10.0]})
    assert math.isnan(pair.p)
    assert math.isnan(pair.p_corrected)
    assert not pair.shown
    assert (pair.wins.low, pair.wins.high) == (0.0, 1.0)


def test_equal_arms_do_not_differ():
    ((pair,),) = statistics.differences({"bn": ACCURACIES, "ln": ACCURACIES})
    assert math.isnan(pair.p)
    assert (pair.wins.value, pair.shown) == (0.5, False)


@pytest.mark.parametrize("difference", [0.8 / 360, 4 / 360, 1 / 3])
@pytest.mark.parametrize("seeds", [2, 3, 7])
def test_equal_differences_show_nothing_because_they_have_no_spread(difference, seeds):
    other = np.arange(seeds) / 360
    ((pair,),) = statistics.differences({"bn": other + difference, "ln": other})
    assert not pair.shown
    assert math.isinf(pair.mean.high)
    assert (pair.wins.value, pair.wins.low, pair.wins.high) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("seeds", [2, 3])
def test_the_error_rate_also_holds_for_accuracies_of_few_images(seeds):
    """The accuracies are multiples of 1/360, and ties are common."""
    false = 0
    for study in studies(seeds, 1000):
        rounded = {name: np.round(values / 100 * 360) / 360 for name, values in study.items()}
        false += any(d.shown for d in statistics.differences(rounded)[0])
    assert false <= 65


def test_a_pair_is_compared_over_the_seeds_that_both_have():
    arms = {"bn": ACCURACIES, "gn": [math.nan, *OTHERS[1:]], "ln": [85.0, *[math.nan] * 4]}
    (pairs,) = statistics.differences(arms)
    assert [(d.first, d.second, len(d.differences)) for d in pairs] == [
        ("bn", "gn", 4),
        ("bn", "ln", 1),
    ]
    ((alone,),) = statistics.differences({"bn": ACCURACIES[1:], "gn": OTHERS[1:]})
    assert pairs[0].p == alone.p


FAILED = -math.inf


def test_arms_that_failed_with_different_seeds_are_not_tested():
    """bn is far above gn with each of the three seeds that it trained with, and is not shown."""
    arms = {"bn": [90.0, 91.1, 89.9, FAILED, FAILED], "gn": [80.0, 81.0, 80.0, 80.5, 80.4]}
    ((pair,),) = statistics.differences(arms)
    assert pair.differences == pytest.approx([10.0, 10.1, 9.9])
    assert statistics.paired_t(pair.differences) < 0.001
    assert math.isnan(pair.p)
    assert math.isnan(pair.p_corrected)
    assert not pair.shown
    assert not pair.same_failures
    assert (pair.only_first, pair.only_second, pair.neither) == (0, 2, 0)


def test_a_failed_run_counts_as_a_loss():
    arms = {"bn": [90.0, 91.1, 89.9, FAILED, FAILED], "gn": [80.0, 81.0, 80.0, 80.5, FAILED]}
    ((pair,),) = statistics.differences(arms)
    expected = stats.binomtest(3, 5).proportion_ci(0.95, method="exact")
    assert pair.wins == statistics.Estimate(0.6, expected.low, expected.high)
    back = pair.swapped
    assert (back.first, back.second) == ("gn", "bn")
    assert back.mean.value == -pair.mean.value
    assert back.wins.value == 0.2  # with seed 4 neither wins
    assert back.swapped.wins == pair.wins


def test_a_seed_with_which_both_failed_leaves_the_test_of_the_others():
    ((pair,),) = statistics.differences({"bn": [*ACCURACIES, FAILED], "gn": [*OTHERS, FAILED]})
    ((alone,),) = statistics.differences({"bn": ACCURACIES, "gn": OTHERS})
    assert pair.same_failures
    assert (pair.p, pair.p_corrected, pair.shown) == (alone.p, alone.p_corrected, True)
    assert pair.wins.value == 5 / 6


def test_a_run_that_is_not_finished_is_no_loss():
    ((pair,),) = statistics.differences({"bn": [*ACCURACIES, math.nan], "gn": [*OTHERS, FAILED]})
    ((alone,),) = statistics.differences({"bn": ACCURACIES, "gn": OTHERS})
    assert pair.p == alone.p
    assert pair.wins == alone.wins


def test_failures_with_added_seeds_count_and_their_accuracies_are_not_tested():
    arms = {"bn": [80.0, 81.1, 82.0, FAILED, 85.0], "gn": [70.0, 70.9, 72.0, 71.0, 71.0]}
    ((pair,),) = statistics.differences(arms, tested=3)
    assert pair.differences == pytest.approx([10.0, 10.2, 10.0])
    assert pair.added == pytest.approx([14.0])
    assert pair.wins.value == 4 / 5
    assert pair.swapped.wins.value == 1 / 5
    assert math.isnan(pair.p)
    trained = {name: [*values[:3], values[4]] for name, values in arms.items()}
    ((pair,),) = statistics.differences(trained, tested=3)
    ((alone,),) = statistics.differences({name: values[:3] for name, values in arms.items()})
    assert (pair.p, pair.wins, pair.mean) == (alone.p, alone.wins, alone.mean)


def test_a_pair_without_a_test_counts_as_a_comparison():
    arms = {"bn": [*ACCURACIES, 85.0], "gn": [*OTHERS, 84.0], "ln": [*OTHERS[::-1], FAILED]}
    (pairs,) = statistics.differences(arms)
    assert [math.isnan(pair.p) for pair in pairs] == [False, True, True]
    assert pairs[0].p_corrected == pytest.approx(3 * pairs[0].p)


@pytest.mark.parametrize(
    ("correct", "images", "classes", "above"),
    [
        (1_000, 10_000, 10, False),  # what always predicting one class gives
        (1_070, 10_000, 10, False),  # the smallest that is above chance: 1,071
        (1_071, 10_000, 10, True),
        (0, 10_000, 10, False),  # worse than guessing
        (12, 20, 2, False),
        (10, 10, 1, False),
    ],
)
def test_chance_is_told_by_the_binomial_test(correct, images, classes, above):
    assert statistics.above_chance(correct, images, classes) is above
    test = stats.binomtest(correct, images, 1 / classes, alternative="greater")
    assert above == (test.pvalue < statistics.CHANCE)


@pytest.mark.parametrize(("correct", "images"), [(9, 10), (15, 20), (5, 5), (33, 50)])
def test_few_images_make_no_failure_of_a_good_network(correct, images):
    """Of two classes: the test alone would find each of these not above chance."""
    assert stats.binomtest(correct, images, 0.5, alternative="greater").pvalue > statistics.CHANCE
    assert statistics.above_chance(correct, images, 2)


def test_arms_of_different_seeds_are_refused():
    with pytest.raises(ValueError, match="same seeds"):
        statistics.differences({"bn": ACCURACIES, "ln": OTHERS[:3]})


# Tests


@given(st.lists(finite, min_size=6, max_size=8))
def test_the_permutation_test_counts_all_sign_patterns(values):
    patterns = itertools.product((1, -1), repeat=len(values))
    means = [abs(np.mean(np.multiply(values, signs))) for signs in patterns]
    observed = abs(np.mean(values))
    as_far = sum(m >= observed - 1e-9 for m in means)
    assert statistics.sign_flip(values) == pytest.approx(as_far / len(means))


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-5])
def test_sums_that_differ_only_by_rounding_are_ties(value):
    sum_to_zero = [value, -value, value, -value, 2 * value, -2 * value]
    assert statistics.sign_flip(sum_to_zero) == 1
    assert statistics.sign_flip([3 * value] * 6) == 2 / 64


@pytest.mark.parametrize(("seeds", "smallest"), [(5, None), (6, 2 / 64), (8, 2 / 256)])
def test_the_permutation_test_is_given_only_if_it_can_reject(seeds, smallest):
    assert statistics.sign_flip(np.arange(1.0, seeds + 1)) == smallest


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_of_a_share_is_wilsons(correct, images, low, high):
    assert statistics.proportion_interval(correct, images) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_is_scipys_interval_of_any_share(share):
    expected = stats.binomtest(*share).proportion_ci(statistics.LEVEL, method="wilson")
    assert statistics.proportion_interval(*share) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_is_the_binomial_test_of_the_discordant_images():
    assert statistics.mcnemar(10, 25) == pytest.approx(stats.binomtest(10, 35).pvalue)
    assert statistics.mcnemar(0, 0) == 1.0
    assert statistics.mcnemar(5, 0) == pytest.approx(2 / 32)


# Error rates


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_an_arm_that_loses_its_worst_runs_is_not_shown_to_be_above(seeds):
    """Without a difference, but bn's runs below its mean fail: those that are left look better."""
    false = naive = 0
    for study in studies(seeds, 1000):
        kept = {name: values.copy() for name, values in study.items()}
        kept["bn"][study["bn"] < study["gn"] + 0.1] = FAILED
        false += any(d.shown and "bn" in d.first for d in statistics.differences(kept)[0])
        kept["bn"][np.isinf(kept["bn"])] = math.nan  # as if they had never been
        naive += any(d.shown and "bn" in d.first for d in statistics.differences(kept)[0])
    assert false <= 25
    assert naive > 30


@pytest.mark.slow(1)
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_winning_covers_with_failures(seeds):
    rng = np.random.default_rng(seeds)
    held = counted = 0
    for _ in range(1000):
        arms = {"bn": rng.normal(0.5, 1, seeds), "gn": rng.normal(0, 1, seeds)}
        for name, share in (("bn", 0.3), ("gn", 0.1)):
            arms[name][rng.random(seeds) < share] = FAILED
        for pair in statistics.differences(arms)[0]:
            if pair.only_first or pair.only_second or pair.neither:
                trained = stats.norm.cdf(0.5 / math.sqrt(2))
                true = 0.7 * 0.9 * trained + 0.7 * 0.1
                counted += 1
                held += pair.wins.low <= true <= pair.wins.high
    assert counted > 400
    assert held / counted > 0.95 - 0.02


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_without_a_difference_at_most_5_percent_of_studies_show_one(seeds):
    false = sum(
        any(d.shown for d in statistics.differences(study)[0]) for study in studies(seeds, 1000)
    )
    assert false <= 65  # 5% plus two standard errors of a share of 1,000


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_a_mean_has_its_nominal_coverage(seeds):
    pairs = [np.subtract(study["bn"], study["gn"]) for study in studies(seeds, 1000)]
    held = sum(e.low <= 0 <= e.high for e in map(statistics.mean, pairs))
    assert abs(held / 1000 - 0.95) <= 0.014


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_interval_of_winning_has_its_nominal_coverage(seeds):
    rng = np.random.default_rng(seeds)
    truth = stats.norm.cdf(0.4 / 0.5)
    held = 0
    for _ in range(1000):
        wins = statistics.probability_above_zero(rng.normal(0.4, 0.5, seeds))
        held += wins.low <= truth <= wins.high
    assert abs(held / 1000 - 0.95) <= 0.014


@pytest.mark.parametrize(("seeds", "difference"), [(3, 1.5), (5, 0.6), (5, 1.0), (10, 0.5)])
def test_a_true_difference_is_detected_as_often_as_predicted(seeds, difference):
    spread = 0.3 * math.sqrt(2)
    seen = 0
    for study in studies(seeds, 1000, difference=difference):
        ((pair,),) = statistics.differences({"bn": study["bn"], "gn": study["gn"]})
        seen += pair.shown
    predicted = statistics.power(difference, spread, seeds)
    error = math.sqrt(predicted * (1 - predicted) / 1000)
    assert abs(seen / 1000 - predicted) <= 3 * error


def test_in_three_pairs_a_difference_is_detected_as_often_as_predicted():
    seen = 0
    for study in studies(5, 1000, difference=1.0):
        seen += statistics.differences(study)[0][0].shown
    predicted = statistics.power(1.0, 0.3 * math.sqrt(2), 5, comparisons=3)
    assert abs(seen / 1000 - predicted) <= 0.045
    assert predicted < statistics.power(1.0, 0.3 * math.sqrt(2), 5)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_intervals_of_three_pairs_hold_at_once(seeds):
    held = 0
    for study in studies(seeds, 1000, difference=1.0):
        pairs = statistics.differences(study)[0]
        truths = (1.0, 1.0, 0.0)
        held += all(
            d.mean.low <= truth <= d.mean.high for d, truth in zip(pairs, truths, strict=True)
        )
    assert held >= 935


@given(st.floats(0.05, 3), st.integers(1, 10))
def test_the_number_of_seeds_needed_is_the_smallest(effect, comparisons):
    seeds = statistics.seeds_needed(effect, 1.0, comparisons)
    assert statistics.power(effect, 1.0, seeds, comparisons) >= 0.8
    if seeds > 2:
        assert statistics.power(effect, 1.0, seeds - 1, comparisons) < 0.8


def test_some_differences_are_too_small_for_any_study():
    assert statistics.seeds_needed(0.0, 1.0) is None
    assert statistics.seeds_needed(0.5, 0.0) == 2


def test_the_power_is_1_without_spread_and_the_level_without_a_difference():
    assert [statistics.power(difference, 0.0, 3) for difference in (1.0, 0.5, 0.0)] == [1, 1, 0]
    assert statistics.power(0.0, 1.0, 5) == pytest.approx(0.05)
    assert statistics.power(0.0, 1.0, 5, comparisons=10) == pytest.approx(0.005)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_the_interval_of_a_standard_deviation_has_its_nominal_coverage(seeds):
    spreads = np.random.default_rng(0).normal(0, 2, (20_000, seeds)).std(1, ddof=1)
    low, high = statistics.spread_interval(1.0, seeds)
    assert statistics.spread_interval(3.0, seeds) == pytest.approx((3 * low, 3 * high))
    assert np.mean((low * spreads < 2) & (high * spreads > 2)) == pytest.approx(0.95, abs=0.005)


def test_the_number_of_seeds_needed_is_an_integer_and_for_one_pair_by_default():
    for effect in (0.05, 0.3, 1.0):
        needed = statistics.seeds_needed(effect, 1.0)
        assert isinstance(needed, int)
        assert needed == statistics.seeds_needed(effect, 1.0, comparisons=1)
    effect = 0.029  # ten thousand seeds detect it in one pair, but not among a thousand
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


@pytest.mark.slow(2)
@given(
    st.sampled_from([1, 2, 4, 9, 40]),
    st.floats(-30, 30),
    st.sampled_from([1, 10, 300, 1000]),
)
def test_the_interval_of_winning_is_the_exact_one_in_any_family(degrees, t, comparisons):
    """P(T ≤ t) at both ends, by integration over S in small steps."""
    seeds = degrees + 1
    shape = np.linspace(-1, 1, seeds)
    differences = shape / shape.std(ddof=1) + t / math.sqrt(seeds)
    interval = statistics.probability_above_zero(differences, comparisons)
    tail = 0.025 / comparisons
    s = np.linspace(1e-9, math.sqrt(stats.chi2.isf(1e-12, degrees) / degrees), 200_001)
    density = 2 * degrees * s * stats.chi2.pdf(degrees * s**2, degrees)
    for end, share in ((interval.low, 1 - tail), (interval.high, tail)):
        if 1e-12 < end < 1 - 1e-12:  # beyond, a float has no digits left
            shift = stats.norm.ppf(end) * math.sqrt(seeds)
            found = integrate.simpson(density * stats.norm.cdf(t * s - shift), x=s)
            assert min(found, 1 - found) == pytest.approx(tail, rel=0.02)
            assert (found > 0.5) == (share > 0.5)
    assert (interval.low > 0.5) == (stats.t.sf(t, degrees) < tail) or t == pytest.approx(
        stats.t.isf(tail, degrees), rel=1e-6
    )


def test_nearly_equal_differences_have_an_interval():
    interval = statistics.probability_above_zero([0.6, 0.600001])
    assert interval.low > 0.999
    assert interval.high == 1


def test_drawn_sign_patterns_include_the_observed_one_and_are_reproducible():
    clear = np.arange(1.0, 41.0)  # 2 of the 2⁴⁰ sign patterns are as extreme: none is drawn
    assert statistics.sign_flip(clear) == 1 / 100_001
    unclear = np.random.default_rng(5).normal(0.3, 1.0, 40)
    assert statistics.sign_flip(unclear) == statistics.sign_flip(unclear)


# The choice of a value


def tried(rng, means, seeds, *, shared=0.0):
    """Accuracies of several values with their seeds, the one of highest mean first; their means.

    Values far below the others vary little, as those at chance do.
    """
    by_seed = rng.normal(0, shared, seeds)
    values = [mean + by_seed + rng.normal(0, 0.5 if mean > 50 else 0.05, seeds) for mean in means]
    order = sorted(range(len(means)), key=lambda k: -values[k].mean())
    return [values[k] for k in order], [means[k] for k in order]


@pytest.mark.parametrize("shared", [0.0, 1.0])
@pytest.mark.parametrize(
    "means",
    [(80, 80), (80, 80.3), (80, 80, 80, 80), (79.5, 80, 80.2, 80.4), (70, 80), (80, 80.3, 10, 10)],
)
def test_what_a_choice_lost_by_luck_is_above_its_limit_in_at_most_5_percent(means, shared):
    rng = np.random.default_rng(5)
    exceeded = 0
    for _ in range(1000):
        values, true = tried(rng, means, 3, shared=shared)
        exceeded += true[1] - true[0] > statistics.choice(values).loss
    assert exceeded <= 65  # 5%, and three standard errors


def test_the_limit_is_student_s_with_bonferroni_s_correction_for_the_other_values():
    rng = np.random.default_rng(6)
    first, second, third = (80 + rng.normal(0, 0.5, 4) for _ in range(3))
    first += 0.5
    found = statistics.choice([first, second])
    test = stats.ttest_ind(second, first, alternative="less")
    assert found.loss == pytest.approx(max(0, test.confidence_interval(0.95).high))
    assert found.spread == pytest.approx(np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2))
    corrected = statistics.choice([first, second, third])
    assert corrected.loss == pytest.approx(max(0, test.confidence_interval(0.975).high))
    assert corrected.spread == found.spread


def test_a_clear_choice_lost_nothing_and_a_choice_without_noise_is_not_judged():
    assert statistics.choice([[0.9, 0.91, 0.9], [0.5, 0.51, 0.52]]).loss == 0
    assert statistics.choice([[0.9, 0.9], [0.8, 0.8]]) is None
    assert statistics.choice([[0.9], [0.8]]) is None
    assert statistics.choice([[0.9, 0.8]]) is None
