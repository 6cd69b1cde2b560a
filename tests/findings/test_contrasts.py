"""Changes of differences, equality, added seeds: against scipy, and by their error rates."""

import dataclasses
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from made_up import study as made_up
from normlab.config import StudyConfig
from normlab.findings import contrasts, statistics
from normlab.findings import study as findings
from normlab.findings.groups import changes, group_by_setting
from normlab.findings.statistics import Difference
from normlab.findings.study import headline
from normlab.study.plan import plan
from normlab.study.record import Study

BATCHES = Path(__file__).parents[2] / "results" / "sprint-batches"


def sentences(study):
    groups = group_by_setting(study)
    return headline(study, groups), findings.further(study, groups)


def planned(study, **settings):
    return dataclasses.replace(study, config=dataclasses.replace(study.config, **settings))


# Changes


def test_the_change_from_batch_2_to_32_of_the_committed_study():
    """Each number from the accuracies alone, as a reader would repeat it from study.csv."""
    study = planned(Study.open(BATCHES), contrasts=("bn,gn@batch2,batch32",))
    last = {(r.arm, r.seed): r.accuracies[-1] for r in study.results if r.accuracies}
    bn2, gn2, bn32, gn32 = (
        np.array([last[arm, seed] for seed in range(5)])
        for arm in ("bn-batch2", "gn-batch2", "bn-batch32", "gn-batch32")
    )
    test = stats.ttest_1samp((bn2 - gn2) - (bn32 - gn32), 0)
    (change,) = changes(study, group_by_setting(study))
    mean = change.change.mean
    assert (mean.low, mean.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert change.change.p_corrected == pytest.approx(test.pvalue)
    assert [round(100 * x, 1) for x in (mean.value, mean.low, mean.high)] == [-5.3, -6.7, -3.9]
    assert "ln at 2 (1.55 points above bn, not tested)" in sentences(study)[0][2]
    assert sentences(study)[0][-1] == (
        "The difference between bn and gn depends on the batch size: bn − gn at batch size 2 "
        "(−1.33 points) minus the same at batch size 32 (3.97 points) is −5.30 points (95% "
        "interval −6.70 to −3.90, corrected p < 0.001)."
    )


def test_in_the_default_family_the_interval_is_wider():
    study = Study.open(BATCHES)
    found = changes(study, group_by_setting(study))
    (change,) = (c for c in found if c.change.first == "bn-batch32" and "gn" in c.change.second)
    half = stats.t.isf(0.025 / 23, 4) * stats.sem(change.change.differences)
    assert change.change.mean.high == pytest.approx(change.change.mean.value + half)
    assert change.change.p_corrected == pytest.approx(
        23 * stats.ttest_1samp(change.change.differences, 0).pvalue
    )
    (*_, text), further = sentences(study)
    assert text.startswith("The difference between bn and ln depends on the batch size: bn − ln at")
    assert text.endswith("; 8 of 8 planned changes along it are shown.")
    (family,) = (s for s in further if s.startswith("The study tests"))
    assert family.startswith(
        "The study tests 23 contrasts, by normlab's default: all pairs of normalizations in every "
        "setting and how each difference from bn changes against batch size 2."
    )


def test_a_change_of_an_arm_that_failed_with_some_seeds_is_not_tested():
    study = planned(Study.open(BATCHES), contrasts=("bn,ln@batch128,batch2", "bn,gn"))
    results = [
        dataclasses.replace(r, state="failed", accuracies=(), problem="the loss became nan")
        if r.arm == "ln-batch128" and r.seed in (1, 3)
        else r
        for r in study.results
    ]
    study = dataclasses.replace(study, results=tuple(results))
    (change,) = changes(study, group_by_setting(study))
    assert len(change.change.differences) == 3
    assert change.failures == ("ln-batch128",)
    clear = dataclasses.replace(
        change, change=dataclasses.replace(change.change, differences=np.array([1.0, 1.1, 0.9]))
    )
    assert clear.change.shown
    assert not clear.shown
    assert not clear.equivalent(50)


def test_nothing_is_said_of_changes_that_were_not_planned_or_have_one_seed(tmp_path):
    study = made_up(
        tmp_path / "a", seeds=3, batch_sizes=(8, 32), trials=False, contrasts=("pairs",)
    )
    assert len(sentences(study)[0]) == 3
    single = made_up(tmp_path / "b", seeds=1, batch_sizes=(8, 32), trials=False)
    first, further = sentences(single)
    assert len(first) == 3
    assert not any("contrasts" in sentence for sentence in further)


def test_changes_that_are_not_shown_are_not_said_to_be_absent(tmp_path):
    study = made_up(tmp_path, norms=("bn", "gn"), seeds=3, batch_sizes=(8, 32), trials=False)
    first, further = sentences(study)
    assert first[-1] == (
        "It is not shown that a difference between normalizations depends on the batch size "
        "(1 planned change)."
    )
    assert any(s.startswith("Nothing is shown to be within ±0.5 points") for s in further)


def test_what_does_not_depend_on_the_axis_is_shown_by_an_equivalence_test(tmp_path):
    study = made_up(tmp_path, norms=("bn", "gn"), seeds=3, batch_sizes=(8, 32), trials=False)
    shares = {"bn-batch8": 0.70, "gn-batch8": 0.65, "bn-batch32": 0.75, "gn-batch32": 0.70}
    noise = np.random.default_rng(0).normal(0, 0.0001, len(study.results))
    results = tuple(
        dataclasses.replace(r, accuracies=(shares[r.arm] + extra,))
        for r, extra in zip(study.results, noise, strict=True)
    )
    study = dataclasses.replace(study, results=results)
    equal = [s for s in sentences(study)[1] if s.startswith("Shown to be within")]
    assert equal == [
        "Shown to be within ±0.5 points (two one-sided tests): bn − gn, batch size 32 minus 8."
    ]
    (text,) = (s for s in sentences(planned(study, margin=0.001))[1] if "±0.001 points" in s)
    assert text.startswith("Nothing is shown")


def test_a_pair_that_was_not_planned_has_no_verdict(tmp_path):
    study = made_up(tmp_path, seeds=5, trials=False, contrasts=("bn,gn",))
    (best, numbers, *_), further = sentences(study)
    assert best == "bn is best: shown to be above gn; the study did not plan to test it against ln."
    assert "1.28 points above gn (95% interval 0.45 to 2.11, corrected p = " in numbers
    assert "ln" not in numbers
    assert not any(s.startswith("gn ") for s in further)
    assert (
        "The study tests 1 contrast, by its plan: bn,gn. It is shown exactly if its interval "
        "leaves 0 out." in further
    )


@pytest.mark.parametrize("name", ["sprint", "sprint-batches"])
def test_no_interval_without_0_stands_beside_a_difference_that_is_not_shown(name):
    for group in group_by_setting(Study.open(BATCHES.parent / name)):
        for pair in group.differences:
            assert pair.shown == (not pair.mean.low <= 0 <= pair.mean.high)


# Added seeds


def test_seeds_that_were_not_planned_change_no_verdict(tmp_path):
    """They could only turn "not shown" into "shown" more often than in 5% of studies."""
    study = made_up(tmp_path, seeds=5, trials=False)
    added = dataclasses.replace(study, earlier_seeds=(3,))
    three = made_up(tmp_path / "three", seeds=3, trials=False)
    three = dataclasses.replace(three, results=tuple(r for r in study.results if r.seed < 3))
    for pair, alone in zip(
        group_by_setting(added)[0].differences, group_by_setting(three)[0].differences, strict=True
    ):
        assert np.array_equal(pair.differences, alone.differences)
        assert pair.p_corrected == alone.p_corrected
    (_, numbers, *_), further = sentences(added)
    assert "over 5 seeds" in numbers
    (text,) = (s for s in further if "added later" in s)
    assert text.startswith(
        "The study was planned with 3 seeds and 1 look at the result; seeds were added later, to 5"
    )
    assert "over the first 3 seeds; means are over all" in text
    assert contrasts.seeds_text(added) == "5 seeds (3 planned, 2 added later)"
    assert contrasts.seeds_text(study) == "5 seeds"


def test_planned_looks_share_the_level(tmp_path):
    study = made_up(tmp_path, seeds=5, trials=False, looks=2)
    first = group_by_setting(study)[0].differences[0]
    assert first.p_corrected == pytest.approx(min(1, 6 * first.p))
    assert any("planned with 2 looks" in s and "look 1 (5 seeds)" in s for s in sentences(study)[1])
    added = dataclasses.replace(study, earlier_seeds=(3,))
    assert len(group_by_setting(added)[0].differences[0].differences) == 5
    assert any("this is look 2 (3 and 5 seeds)" in s for s in sentences(added)[1])


# Error rates


def skewed(rng, shape):
    return rng.gamma(1.5, 0.3, shape)


def collapsing(rng, shape):
    return rng.normal(0, 0.3, shape) - 60 * (rng.random(shape) < 0.1)


def normal(rng, shape):
    return rng.normal(0, 0.3, shape)


def along_an_axis(contrasts=()):
    """A study of three normalizations in two settings, without results."""
    config = StudyConfig(network="nano", batch_sizes=(8, 32), contrasts=contrasts)
    arms = tuple(plan(config, classes=10, images=50_000, shape=(3, 32, 32)))
    return Study(path=Path("x"), config=config, arms=arms, images=10_000, fingerprint="")


def verdicts(study, values):
    """Which contrasts of a study are shown, with these accuracies in points."""
    by_arm = {name: dict(enumerate(arm)) for name, arm in values.items()}
    groups = [
        {arm.name: values[arm.name] for arm in study.arms if arm.setting.batch_size == batch}
        for batch in (8, 32)
    ]
    compared = statistics.differences(*groups, comparisons=contrasts.comparisons(study))
    pairs = [pair for group in compared for pair in group]
    return [
        *(p.shown for p in pairs),
        *(c.shown for c in contrasts.changes(study, by_arm, frozenset())),
    ]


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("draw", [normal, skewed, collapsing])
def test_without_a_difference_at_most_5_percent_of_studies_show_any_contrast(seeds, draw):
    """Also with skewed arms and with arms of which every tenth seed collapses."""
    study, rng = along_an_axis(), np.random.default_rng(seeds)
    study = dataclasses.replace(study, config=dataclasses.replace(study.config, seeds=seeds))
    false = 0
    for _ in range(400):
        shared = rng.normal(86, 0.4, seeds)
        false += any(verdicts(study, {arm.name: shared + draw(rng, seeds) for arm in study.arms}))
    assert false <= 0.05 * 400 + 2 * np.sqrt(400 * 0.05 * 0.95)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize(
    ("draw", "center", "narrow", "least", "most"),
    [
        (lambda rng, size: rng.gamma(4, 0.1, size), 0.4, 0.05, 0.05, 0.075),
        (lambda rng, size: rng.gamma(1.5, 0.3, size), 0.45, 0.05, 0.07, 0.105),
        (lambda rng, size: rng.lognormal(0, 1, size), np.exp(0.5), 0.3, 0.12, 0.175),
    ],
    ids=["gamma of shape 4", "gamma of shape 1.5", "lognormal"],
)
def test_skewed_arms_against_normal_ones_of_the_same_mean_are_shown_as_often_as_the_docs_say(
    draw, center, narrow, least, most, seeds
):
    """The test assumes symmetric differences: see "What they assume" in docs/statistics.md."""
    rng, false = np.random.default_rng(seeds), 0
    for _ in range(4000):
        values = draw(rng, seeds) - center - rng.normal(0, narrow, seeds)
        false += Difference("bn", "gn", values).shown
    assert least < false / 4000 < most


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_setting_with_the_highest_mean_cannot_be_the_whole_family(seeds):
    """Chosen by the results, its pairs alone would show a difference in 8 to 10% of studies."""
    rng = np.random.default_rng(seeds)
    arms = rng.normal(0, 0.3, (4000, 5, 3, seeds))  # studies, settings, normalizations, seeds
    main = arms.mean(3).max(2).argmax(1)
    chosen = arms[np.arange(4000), main]
    p = np.stack(
        [
            stats.ttest_1samp(chosen[:, one] - chosen[:, other], 0, axis=1).pvalue
            for one, other in combinations(range(3), 2)
        ]
    ).min(0)
    assert np.mean(3 * p < 0.05) > 0.065
    assert np.mean(15 * p < 0.05) <= 0.05


@pytest.mark.parametrize("looks", [1, 2])
def test_studies_that_add_seeds_until_a_difference_is_shown_keep_the_level(looks):
    """Three seeds; if they show nothing, five. Without a correction 8.6% show a difference."""
    study = dataclasses.replace(
        along_an_axis(),
        config=StudyConfig(network="nano", norms=("bn", "gn"), seeds=3, looks=looks),
    )
    study = dataclasses.replace(
        study, arms=tuple(plan(study.config, classes=10, images=50_000, shape=(3, 32, 32)))
    )
    more = dataclasses.replace(
        study, config=dataclasses.replace(study.config, seeds=5), earlier_seeds=(3,)
    )
    rng, studies = np.random.default_rng(looks), 4000
    false = naive = 0
    for _ in range(studies):
        drawn = rng.normal(0, 0.3, 5)
        shown, uncorrected = (
            [
                Difference("bn", "gn", drawn[: look(each)], number).shown
                for each, number in ((study, numbers), (more, numbers))
            ]
            for look, numbers in (
                (lambda s: s.tested_seeds, contrasts.comparisons(study)),
                (lambda s: s.config.seeds, 1),
            )
        )
        false += any(shown)
        naive += any(uncorrected)
    assert naive / studies > 0.075
    assert false / studies <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / studies)


def test_with_two_planned_looks_the_second_can_show_what_the_first_did_not():
    rng, gained = np.random.default_rng(0), 0
    for _ in range(300):
        drawn = rng.normal(0.5, 0.3, 10)
        first, second = (Difference("bn", "gn", drawn[:n], 2).shown for n in (3, 10))
        gained += second and not first
    assert gained > 150
