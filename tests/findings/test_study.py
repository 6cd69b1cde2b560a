"""Findings about synthetic studies."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_up import study as made_up
from normlab.errors import RunError
from normlab.findings import statistics
from normlab.findings import study as findings
from normlab.findings.groups import group_by_setting, main_group
from normlab.findings.study import headline
from normlab.study.record import Result


def sentences(study):
    """The answer, in words and in numbers; the sentence after it; the further findings."""
    groups = group_by_setting(study)
    words, numbers, following, *_ = headline(study, groups)
    return (f"{words} {numbers}", following), findings.further(study, groups)


def in_words(study):
    """The headline's first sentence."""
    return headline(study, group_by_setting(study))[0]


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("usual"))


def test_the_headline_names_the_best_and_the_certainty(usual):
    (best, certainty), _ = sentences(usual)
    means = {arm.name: np.mean([r.accuracies[-1] for r in usual.of(arm)]) for arm in usual.arms}
    assert best.startswith(
        "bn is best: shown to be above gn and ln. Its mean accuracy is "
        f"{means['bn']:.2%} over 5 seeds; it is 1.28 points above gn (95% interval 0.09 to 2.47, "
        "corrected p = 0.039) and 2.74 points above ln ("
    )
    assert certainty.startswith("With a new seed, bn would be above gn with a probability of 97%")


def test_the_headline_says_what_cannot_be_shown(tmp_path):
    same = {"bn": 0.78, "gn": 0.7795, "ln": 0.72}
    (best, _), _ = sentences(made_up(tmp_path / "same", means=same, seeds=3))
    assert best.startswith("bn is best: shown to be above ln; it is not shown to be above gn. Its ")
    none = {"bn": 0.78, "gn": 0.7795, "ln": 0.7795}
    study = made_up(tmp_path / "none", means=none, seeds=3)
    assert (
        in_words(study) == "bn has the highest mean accuracy; it is not shown to be above ln or gn."
    )


def test_the_differences_agree_with_the_tests(usual):
    (group,) = group_by_setting(usual)
    accuracies = {arm.name: [r.accuracies[-1] for r in usual.of(arm)] for arm in usual.arms}
    (expected,) = statistics.differences(accuracies)
    assert [d.p_corrected for d in group.differences] == [d.p_corrected for d in expected]
    bn, gn, _ = group.arms
    there, back = group.difference(bn, gn), group.difference(gn, bn)
    assert back.mean.value == -there.mean.value
    assert back.p_corrected == there.p_corrected
    assert back.shown == there.shown


def test_the_headline_says_where_the_best_changes_along_an_axis(tmp_path):
    means = {
        f"{norm}-batch{batch}": 0.78 - 0.01 * k - 0.2 * (norm == "bn" and batch == 2)
        for batch in (2, 8, 32)
        for k, norm in enumerate(("bn", "gn"))
    }
    study = made_up(tmp_path, means=means, batch_sizes=(2, 8, 32), norms=("bn", "gn"))
    (_, changes), _ = sentences(study)
    assert changes.startswith("The highest mean depends on the batch size: gn at 2 (1")
    assert changes.endswith("points above bn, shown) and bn at 8 to 32.")


def test_leads_that_are_shown_and_not_shown_are_distinguished(tmp_path):
    leads = {2: 0.2, 8: 0.001, 32: -0.02, 64: -0.03}  # of gn before bn
    means = {f"bn-batch{batch}": 0.7 + 0.001 * batch for batch in leads}
    means |= {f"gn-batch{b}": means[f"bn-batch{b}"] + lead for b, lead in leads.items()}
    means["bn-batch2"] -= 0.3
    means["gn-batch2"] -= 0.3
    study = made_up(tmp_path, means=means, batch_sizes=tuple(leads), norms=("bn", "gn"))
    (_, changes), further = sentences(study)
    first, second, rest = changes.partition("batch size: ")[2].split(" points above bn, ")
    assert first.startswith("gn at 2 (")
    assert second.startswith("shown), gn at 8 (")
    assert rest == "not shown) and bn at 32 to 64."
    assert further[0].startswith("With a new seed, bn would be above gn with a probability of")


def test_only_the_nearest_rivals_have_numbers_in_the_headline(tmp_path):
    norms = ("bn", "gn", "ln", "none", "rms", "frn")
    (best, _), _ = sentences(made_up(tmp_path, norms=norms, network="line-5k", trials=False))
    assert best.startswith(
        "bn is best: shown to be above ln, rms and frn; it is not shown to be above gn or none. "
    )
    assert best.count("95% interval") == 3


def test_equal_means_are_both_the_highest(tmp_path):
    study = made_up(tmp_path, seeds=1, norms=("bn", "gn", "ln"))
    last = {"bn": 0.6, "gn": 0.6, "ln": 0.5}
    results = tuple(dataclasses.replace(r, accuracies=(0.4, last[r.arm])) for r in study.results)
    (best, _), further = sentences(dataclasses.replace(study, results=results))
    assert best.startswith("bn and gn have the highest accuracy; one seed cannot show a difference")
    assert best.endswith("Their mean accuracy is 60.00% (one run).")
    assert "No run passed 70%." in further


def test_many_optima_at_the_edge_share_one_sentence(tmp_path):
    study = made_up(tmp_path, seeds=2, batch_sizes=(2, 8, 32), norms=("bn", "gn", "ln"))
    trials = tuple(dataclasses.replace(t, accuracy=t.value / 100) for t in study.trials)
    best = {t.arm: max(o.value for o in trials if o.arm == t.arm) for t in trials}
    trials = tuple(dataclasses.replace(t, value=best[t.arm]) if t.rung == 2 else t for t in trials)
    (edge,) = (s for s in sentences(dataclasses.replace(study, trials=trials))[1] if "edge" in s)
    assert edge.startswith("The best learning rate for bn-batch2 (0.4), gn-batch2 (0.4), ")
    assert " and 3 more arms lies at the edge" in edge


@pytest.mark.parametrize(
    ("state", "why"),
    [("failed", "nothing could be trained"), ("waiting", "no run is finished")],
)
def test_no_normalization_leads_where_no_run_is_finished(tmp_path, state, why):
    def without(study, *sizes):
        arms = {arm.name for arm in study.arms if arm.setting.batch_size in sizes}
        results = (
            Result(arm=r.arm, seed=r.seed, state=state, problem="broke") if r.arm in arms else r
            for r in study.results
        )
        return dataclasses.replace(study, results=tuple(results))

    study = made_up(tmp_path, batch_sizes=(8, 32, 64), norms=("bn", "ln"))
    (_, changes), _ = sentences(study)
    assert changes == "At every batch size that was tried, bn has the highest mean."
    (_, changes), _ = sentences(without(study, 8))
    assert changes == f"At batch size 32 and 64, bn has the highest mean; at 8, {why}."
    (_, changes), further = sentences(without(study, 8, 32))
    assert changes == f"At batch size 64, bn has the highest mean; at 8 and 32, {why}."
    assert further[0].startswith("With a new seed, bn would be above ln with a probability of")


def test_a_recipe_that_was_made_with_bn_is_named(tmp_path):
    def about(norms, trials=False):
        place = tmp_path / f"{'-'.join(norms)}{trials}"
        study = made_up(place, network="line", norms=norms, trials=trials)
        return [sentence for sentence in sentences(study)[1] if "made with bn" in sentence]

    start = "The recipe line was made with bn"
    left_out = f"{start}, and the settings found best for gn are left out"
    assert about(("bn", "gn", "none")) == [f"{left_out}: this may favour bn."]
    searched = about(("bn", "gn", "none"), trials=True)
    assert searched == [f"{left_out}: this may favour bn in all settings but the learning rate."]
    assert about(("bn", "none")) == [f"{start}: this may favour bn."]
    assert about(("gn", "none")) == [f"{left_out}."]
    own = f"{start}: this may favour bn in every setting that was not searched for each"
    assert about(("bn", "gn")) == [f"{own} normalization."]
    assert about(("gn", "ln")) == [f"{start}."]
    assert about(("bn",)) == []


@pytest.mark.parametrize("network", ["micro", "line", "nano", "line-5k", "sprint"])
def test_every_recipe_that_was_made_with_bn_says_so(tmp_path, network):
    study = made_up(tmp_path, network=network, seeds=2, trials=False, images=200)
    (sentence,) = (s for s in sentences(study)[1] if "made with bn" in s)
    assert sentence.startswith(f"The recipe {network} was made with bn: this may favour bn")


def test_other_recipes_do_not_say_that_they_were_made_with_bn(tmp_path):
    study = made_up(tmp_path, recipe="seed", seeds=2, trials=False, images=200)
    assert not any("made with bn" in sentence for sentence in sentences(study)[1])


@pytest.mark.parametrize(
    ("network", "sentence"),
    [
        ("micro", "The layout of micro was chosen with bn alone: this too may favour bn."),
        ("line-5k", "The layout of line-5k was chosen with bn, gn and ln, in trials that were not"),
        ("seed-bn", None),
        ("C:4 GAP FC", None),
    ],
)
def test_the_page_says_with_what_a_named_layout_was_chosen(tmp_path, network, sentence):
    study = made_up(tmp_path, network=network, seeds=2, trials=False, images=200)
    found = [s for s in sentences(study)[1] if "was chosen with" in s]
    assert len(found) == (sentence is not None)
    assert sentence is None or found[0].startswith(sentence)


def test_the_headline_says_that_the_best_never_changes(tmp_path):
    study = made_up(tmp_path, label_noise=(0.0, 0.2), norms=("bn", "ln"))
    (_, changes), _ = sentences(study)
    assert changes == "At every label noise that was tried, bn has the highest mean."


def test_one_seed_shows_no_difference_and_one_normalization_has_no_rival(tmp_path):
    (best, _), further = sentences(made_up(tmp_path / "a", seeds=1))
    assert "(one run)" in best
    assert "one seed cannot show a difference between normalizations" in best
    assert not any("Student" in sentence for sentence in further)
    (best, _), _ = sentences(made_up(tmp_path / "b", norms=("gn",)))
    assert best.startswith("Nothing was compared with gn. Its mean accuracy is ")


def test_an_optimum_at_the_edge_is_flagged(usual):
    trials = tuple(
        dataclasses.replace(t, accuracy=t.value) if t.arm == "gn" else t for t in usual.trials
    )
    # The last rung of gn, as if the largest values were the best.
    top = sorted({t.value for t in trials if t.arm == "gn"})[-2:]
    last = [t for t in trials if (t.arm, t.rung) == ("gn", 2)]
    moved = {
        old: dataclasses.replace(old, value=v, accuracy=v / 10)
        for old, v in zip(last, top, strict=True)
    }
    trials = tuple(moved.get(t, t) for t in trials)
    _, further = sentences(dataclasses.replace(usual, trials=trials))
    edge = [sentence for sentence in further if "lies at the edge" in sentence]
    assert edge == [
        "The best learning rate for gn (3.2) lies at the edge of the searched values: a better one "
        "may lie beyond."
    ]
    assert any("with 14 runs each on held-out images" in sentence for sentence in further)


def test_failed_and_unfinished_runs_are_named(usual):
    results = list(usual.results)
    results[0] = dataclasses.replace(results[0], state="failed", problem="no space")
    results[6] = dataclasses.replace(results[6], state="waiting", accuracies=())
    study = dataclasses.replace(usual, results=tuple(results))
    (best, _), further = sentences(study)
    assert best.startswith(
        "gn has the highest mean accuracy if failed runs count as zero; it is not shown to be "
        "above ln; there is no test against bn, because their failures differ. "
    )
    assert "over 4 seeds" in best
    assert "gn trained with 4 of 4 seeds, bn with 4 of 5: over the 3 seeds with which both" in best
    assert "bn with seed 0 failed: no space." in further
    assert "1 of 15 runs are not finished: this is not the final result." in further


def without(study, *runs):
    """The study if these runs had failed; each is (arm, seed)."""
    results = [
        dataclasses.replace(r, state="failed", problem="no good", accuracies=())
        if (r.arm, r.seed) in runs
        else r
        for r in study.results
    ]
    return dataclasses.replace(study, results=tuple(results))


def test_each_pair_is_compared_over_the_seeds_that_both_have_finished(usual):
    whole = {d.first + d.second: d for d in group_by_setting(usual)[0].differences}
    study = without(usual, *(("bn", seed) for seed in range(1, 5)))
    (group,) = group_by_setting(study)
    pairs = {d.first + d.second: d for d in group.differences}
    assert {pair: len(d.differences) for pair, d in pairs.items()} == {
        "bngn": 1,
        "bnln": 1,
        "gnln": 5,
    }
    assert np.array_equal(pairs["gnln"].differences, whole["gnln"].differences)
    assert group.mean(group.arms[1]).value == group_by_setting(usual)[0].mean(group.arms[1]).value
    (best, _), further = sentences(study)
    assert best.startswith(
        "gn is best if failed runs count as zero: shown to be above ln; there is no test against "
    )
    assert "points above ln (" in best
    assert "; gn trained with 5 of 5 seeds, bn with 1 of 5: over the one seed with which " in best
    assert any(s.startswith("ln trained with 5 of 5 seeds, bn with 1 of 5:") for s in further)
    assert "bn failed with 4 seeds; with seed 1: no good." in further


def test_a_mean_that_is_highest_only_because_seeds_are_missing_is_not_above(usual):
    """gn is better with each seed that bn has, but worse with two seeds that bn has not run yet."""
    last = {"bn": (0.70, 0.71, 0.69), "gn": (0.72, 0.7305, 0.7095, 0.5, 0.5), "ln": (0.3,) * 5}
    results = tuple(
        dataclasses.replace(r, accuracies=(*r.accuracies[:-1], last[r.arm][r.seed]))
        if r.seed < len(last[r.arm])
        else dataclasses.replace(r, state="waiting", accuracies=())
        for r in usual.results
    )
    (best, certainty), _ = sentences(dataclasses.replace(usual, results=results))
    assert best.startswith(
        "bn is best: shown to be above ln; but over the seeds that both finished, "
    )
    assert (
        "gn is shown to be above it. Its mean accuracy is 70.00% over 3 seeds; it is 2.00 " in best
    )
    assert "−" not in best.split("points below gn over the seeds that both finished (")[1]
    assert certainty.startswith("With a new seed, gn would be above bn with a probability of over")


def test_arms_without_a_common_seed_are_named_and_not_compared(usual):
    rest = [("bn", 1), ("bn", 2), ("bn", 3), ("bn", 4), ("gn", 0)]
    waiting = (
        dataclasses.replace(r, state="waiting", accuracies=()) if (r.arm, r.seed) in rest else r
        for r in usual.results
    )
    (best, _), _ = sentences(dataclasses.replace(usual, results=tuple(waiting)))
    assert "not shown to be above gn (no seed in common) or ln (one seed in common)." in best
    _, further = sentences(without(usual, *rest))
    never = "gn trained with 4 of 5 seeds, bn with 1 of 5, but never both with the same one."
    assert never in further


def test_the_headline_names_arms_that_could_not_be_trained(tmp_path, usual):
    (best, certainty), _ = sentences(without(usual, *(("bn", seed) for seed in range(5))))
    assert best.startswith("gn ")
    assert best.endswith("; bn could not be trained.")
    assert certainty.startswith("With a new seed, gn would be above ln")
    means = {f"{n}-batch{b}": 0.7 + 0.05 * (b == 64) for b in (8, 64) for n in ("bn", "gn")}
    study = made_up(tmp_path, seeds=2, means=means, batch_sizes=(8, 64), norms=("bn", "gn"))
    (_, changes), _ = sentences(without(study, ("bn-batch8", 0), ("bn-batch8", 1)))
    assert changes.endswith("; bn could not be trained at batch size 8.")


def test_recipes_that_differ_are_named(tmp_path):
    equal = made_up(tmp_path / "equal", network="sprint", trials=False)
    assert not any("Besides the normalization" in sentence for sentence in sentences(equal)[1])
    study = made_up(tmp_path / "differing", network="line-5k", trials=False)
    (sentence,) = (s for s in sentences(study)[1] if s.startswith("Besides the normalization"))
    assert "batch size (bn 64, gn 128, ln 64)" in sentence
    assert any("see the images in the same order" in sentence for sentence in sentences(study)[1])


def test_learning_rates_that_are_only_scaled_are_not_called_best(tmp_path):
    study = made_up(tmp_path, network="nano", batch_sizes=(32,), trials=False, seeds=2)
    best, scaled = (
        next(s for s in sentences(study)[1] if s.startswith(start))
        for start in ("Besides the normalization", "The arms differ in their learning rate")
    )
    assert "label smoothing (bn 0, gn 0, ln 0.1)" in best
    assert "learning rate" not in best
    assert "(bn 0.2828, gn 0.2828, ln 0.2)" in scaled
    assert "scaled to the compared batch size" in scaled
    assert any("the square root of the batch size" in sentence for sentence in sentences(study)[1])


def test_a_learning_rate_chosen_on_the_measured_images_is_reported(tmp_path, usual):
    study = made_up(tmp_path, holdout=2000, seeds=2)
    assert any("chosen on the same held-out images" in sentence for sentence in sentences(study)[1])
    assert not any("chosen on the same" in sentence for sentence in sentences(usual)[1])


def test_a_study_without_a_finished_run_has_no_findings(usual):
    waiting = tuple(dataclasses.replace(r, state="waiting") for r in usual.results)
    with pytest.raises(RunError, match="has no finished run yet"):
        group_by_setting(dataclasses.replace(usual, results=waiting))


def test_the_missing_permutation_test_is_explained(tmp_path, usual):
    assert any("permutation" in sentence for sentence in sentences(usual)[1])
    six = made_up(tmp_path, seeds=6)
    assert not any("permutation" in sentence for sentence in sentences(six)[1])


def test_the_main_setting_has_the_highest_mean(tmp_path):
    means = {"bn-batch8": 0.6, "gn-batch8": 0.7, "bn-batch64": 0.65, "gn-batch64": 0.66}
    study = made_up(tmp_path, means=means, batch_sizes=(8, 64), norms=("bn", "gn"))
    assert main_group(group_by_setting(study)).setting.batch_size == 8


# Runs that failed


def at_chance(study, *runs):
    """The study if these runs had ended at chance; each is (arm, seed)."""
    results = [
        dataclasses.replace(r, accuracies=(*r.accuracies[:-1], 0.1))
        if (r.arm, r.seed) in runs
        else r
        for r in study.results
    ]
    return dataclasses.replace(study, results=tuple(results))


TWO = (("bn", 1), ("bn", 3))


@pytest.mark.parametrize("lost", [without, at_chance])
def test_an_arm_that_failed_with_two_seeds_is_neither_first_nor_shown_to_be_above(usual, lost):
    (best, certainty), further = sentences(lost(usual, *TWO))
    assert "there is no test against bn, because their failures differ. Its mean acc" in best
    assert "Its mean accuracy is 76.17% " in best
    assert (
        "; gn trained with 5 of 5 seeds, bn with 3 of 5: over the 3 seeds with which both" in best
    )
    assert "both trained, bn is 1.73 points above gn." in best  # no interval: no random sample
    assert not any("bn is shown" in s or "above bn" in s for s in [best, *further])
    assert "corrected" not in best.partition("; gn trained with")[2]
    assert certainty == (
        "With a new seed, bn would be above gn with a probability of 60% (95% interval 10% to "
        "97%), where a failed run counts as a loss."
    )
    assert any("the seeds that are left are not a random sample" in s for s in further)
    assert any(s.startswith("ln trained with 5 of 5 seeds, bn with 3 of 5: ") for s in further)
    assert "bn with 3 of 5 seeds" in next(s for s in further if "first passed 70%" in s)


def with_accuracies(study, accuracies, *, earlier_seeds=()):
    """A study whose runs end at these accuracies; None has failed."""
    results = tuple(
        Result(arm=result.arm, seed=result.seed, state="failed", problem="its loss is not finite")
        if accuracies[result.arm][result.seed] is None
        else dataclasses.replace(result, accuracies=(0.3, accuracies[result.arm][result.seed]))
        for result in study.results
    )
    return dataclasses.replace(study, results=results, earlier_seeds=earlier_seeds)


def test_a_tie_claims_no_more_for_one_than_is_shown_of_it(tmp_path):
    study = made_up(tmp_path, seeds=3, norms=("bn", "gn", "ln"))
    values = {"bn": (0.8, 0.81, 0.82), "gn": (0.86, 0.75, 0.82), "ln": (0.6, 0.612, 0.622)}
    assert in_words(with_accuracies(study, values)) == (
        "bn and gn have the highest mean accuracy; their means are equal; bn is shown to be above "
        "ln."
    )
    values["gn"] = (0.82, 0.8, 0.81)
    assert in_words(with_accuracies(study, values)) == (
        "bn and gn are best: shown to be above ln; their means are equal."
    )


def test_a_failure_with_an_added_seed_counts_everywhere(usual):
    values = {
        "bn": (0.8, 0.81, 0.82, None, None),
        "gn": (0.7, 0.711, 0.72, 0.71, 0.71),
        "ln": (0.6, 0.612, 0.622, 0.61, None),
    }
    study = with_accuracies(usual, values, earlier_seeds=(3,))
    (best, certainty), further = sentences(study)
    assert "there is no test against ln and bn, because their failures differ" in best
    assert certainty.startswith("With a new seed, bn would be above gn with a probability of 60% (")
    assert certainty.endswith("), where a failed run counts as a loss.")
    assert "bn is 9.97 points above gn" in " ".join([best, *further])
    assert any("over the 4 seeds with which both trained, gn is" in s for s in [best, *further])
    (group,) = group_by_setting(study)
    assert not any(pair.shown for pair in group.differences)


def test_what_is_shown_of_arms_that_lost_the_same_seeds_is_said_to_hold_for_the_others(usual):
    values = {
        "bn": (0.8, 0.81, 0.82, 0.8, None),
        "gn": (0.7, 0.7101, 0.7203, 0.7, None),
        "ln": (0.6, 0.612, 0.622, 0.6, None),
    }
    (best, _), further = sentences(with_accuracies(usual, values))
    assert best.startswith("bn is best: shown to be above gn and ln.")
    assert any("holds for seeds with which both train" in s for s in further)
    values = {norm: (*accuracies[:4], accuracies[0]) for norm, accuracies in values.items()}
    _, further = sentences(with_accuracies(usual, values))
    assert not any("holds for seeds with which both train" in s for s in further)


def test_what_the_planned_pairs_show_is_said_where_not_all_were_planned(tmp_path):
    norms, means = ("bn", "gn", "ln", "in"), {"bn": 0.8, "gn": 0.7, "ln": 0.6, "in": 0.6}
    study = made_up(tmp_path, norms=norms, means=means, contrasts=("gn,bn", "gn,ln", "in,ln"))
    assert sentences(study)[0][1] == (
        "Of the 3 pairs that the study planned to test, 2 show a difference: bn is above gn; gn is "
        "above ln."
    )
    failed = tuple(
        dataclasses.replace(r, state="failed", problem="no good", accuracies=())
        if r.arm == "in"
        else r
        for r in study.results
    )  # it was planned all the same
    assert sentences(dataclasses.replace(study, results=failed))[0][1].startswith(
        "Of the 3 pairs that the study planned to test, 2 show a difference: "
    )
    noise = np.random.default_rng(0).normal(0.7, 0.01, len(study.results))
    results = tuple(
        dataclasses.replace(r, accuracies=(*r.accuracies[:-1], share))
        for r, share in zip(study.results, noise, strict=True)
    )
    assert sentences(dataclasses.replace(study, results=results))[0][1] == (
        "Of the 3 pairs that the study planned to test, none shows a difference."
    )
    for contrasts in ((), ("pairs",), ("bn,gn",)):  # the other sentences say all of it
        study = made_up(tmp_path / f"but {contrasts}", norms=norms, contrasts=contrasts)
        assert not any("planned to test, " in s for s in sentences(study)[0])


def test_a_pair_that_was_not_planned_has_no_probability(tmp_path):
    study = made_up(tmp_path, contrasts=("gn,ln",))
    (best, certainty), _ = sentences(study)
    assert "the study did not plan to test it against gn" in best
    assert certainty == (
        "The study did not plan to test bn against gn: it does not say which would be above with a "
        "new seed."
    )


def test_arms_that_failed_with_different_ones_of_two_seeds_have_no_seed_in_common(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "gn"))
    (best, certainty), further = sentences(
        with_accuracies(study, {"bn": (0.8, None), "gn": (None, 0.7)})
    )
    assert best.startswith(
        "bn has the highest mean accuracy; there is no test against gn, because their failures "
        "differ."
    )
    assert "but never both with the same one" in best
    assert certainty == "bn and gn never trained with the same seed."
    assert "It could not be tested: runs failed, are not finished, or are equal." in further


def test_numbers_over_the_planned_seeds_say_so_beside_means_over_all(usual):
    values = {"bn": (0.8, 0.81, 0.82, 0.9, 0.9), "gn": (0.7, 0.711, 0.72, 0.6, 0.6)}
    values["ln"] = (0.5, 0.511, 0.519, 0.5, 0.5)
    (best, _), _ = sentences(with_accuracies(usual, values, earlier_seeds=(3,)))
    assert "84.60% over 5 seeds; it is 9.97 points above gn (over the 3 planned seeds, 95%" in best
    (best, _), _ = sentences(with_accuracies(usual, values))
    assert "planned" not in best


def test_a_run_that_ended_at_chance_is_named_like_one_that_diverged(usual):
    _, further = sentences(at_chance(usual, *TWO))
    assert (
        "bn failed with 2 seeds; with seed 1: it ended at chance, with 10.00% of 2,000 images."
        in further
    )
    (best, _), _ = sentences(at_chance(usual, *(("bn", seed) for seed in range(5))))
    assert best.endswith("; bn could not be trained.")
    others = ((norm, seed) for norm in ("gn", "ln") for seed in range(5))
    (best, certainty), _ = sentences(at_chance(usual, *others))
    assert best.startswith(
        "Only bn trained; nothing can be compared with it. Its mean accuracy is "
    )
    assert best.endswith("; gn could not be trained; ln could not be trained.")
    assert certainty == "Only bn trained, so there is no difference to measure."


def test_arms_that_failed_with_the_same_seeds_are_compared(usual):
    (best, _), further = sentences(without(usual, *((n, s) for n in ("bn", "gn") for s in (1, 3))))
    assert best.startswith("ln has the highest mean accuracy if failed runs count as zero; ")
    (tested,) = (s for s in further if s.startswith("bn ") and "gn" in s and "corrected p" in s)
    assert "(1.73 points, 95% interval 0.18 to 3.28, corrected p = " in tested
    every = ((norm, seed) for norm in ("bn", "gn", "ln") for seed in (1, 3))
    (best, certainty), _ = sentences(without(usual, *every))
    assert best.startswith("bn ")
    assert "Its mean accuracy is 77.73% over 3 of 5 seeds" in best
    assert best.endswith(
        "; bn failed with 2 of 5 seeds; gn failed with 2 of 5 seeds; ln failed with 2 of 5 seeds."
    )
    assert "probability of 60%" in certainty


def test_without_failures_nothing_is_said_of_them(usual):
    everything = " ".join(s for part in sentences(usual) for s in part)
    for word in ("fail", "trained with", "chance", "count as"):
        assert word not in everything


@given(st.data())
def test_the_first_sentence_has_no_number(usual, data):
    runs = [(r.arm, r.seed) for r in usual.results]
    lost = data.draw(st.lists(st.sampled_from(runs), unique=True, max_size=14))
    study = data.draw(st.sampled_from([without, at_chance]))(usual, *lost)
    words, numbers, *_ = headline(study, group_by_setting(study))
    assert not any(character.isdigit() for character in words)
    assert "%" in numbers
    assert words.endswith(".")
    assert numbers.endswith(".")


def test_a_study_whose_runs_all_end_at_chance_has_findings(usual):
    every = [(r.arm, r.seed) for r in usual.results]
    (best, _), _ = sentences(at_chance(usual, *every))
    assert best.startswith(
        "bn, gn and ln have the highest mean accuracy; their means are equal; no run "
    )
    assert "; no run of the study is above chance. Their mean accuracy is 10.00% over 5 s" in best


def test_a_failure_cannot_make_a_setting_the_main_one(tmp_path):
    """At 64 bn is better with the seeds that are left, but two of five have failed."""
    means = {"bn-batch8": 0.7, "gn-batch8": 0.69, "bn-batch64": 0.75, "gn-batch64": 0.65}
    study = made_up(tmp_path, means=means, batch_sizes=(8, 64), norms=("bn", "gn"))
    assert main_group(group_by_setting(study)).setting.batch_size == 64
    failing = without(study, ("bn-batch64", 0), ("bn-batch64", 4))
    main = main_group(group_by_setting(failing))
    assert main.setting.batch_size == 8
    (_, changes), _ = sentences(failing)
    assert changes == (
        "The highest mean depends on the batch size: bn at 8 and gn at 64; bn failed with 2 of 5 "
        "seeds at batch size 64."
    )


@given(st.data())
def test_no_failure_improves_an_arm_or_a_setting(usual, data):
    runs = [(r.arm, r.seed) for r in usual.results if r.arm != "ln"]
    failed = data.draw(st.lists(st.sampled_from(runs), unique=True, max_size=8))
    arm, seed = more = data.draw(st.sampled_from([run for run in runs if run not in failed]))
    (before,), (after,) = (
        group_by_setting(without(usual, *failures)) for failures in (failed, [*failed, more])
    )
    for group in (before, after):
        assert [a for a, _ in group.ranked] == sorted(group.arms, key=group.score, reverse=True)
    scores = [
        next((group.score(a) for a in group.arms if a.name == arm), 0.0)
        for group in (before, after)
    ]
    assert scores[1] < scores[0]
    assert seed in after.failed[arm]
    assert after.score(after.ranked[0][0]) <= before.score(before.ranked[0][0])


# Where there is nothing to say


def test_one_pair_is_not_corrected_and_no_pair_has_no_test(tmp_path):
    two = made_up(tmp_path / "two", norms=("bn", "gn"))
    about = [s for s in sentences(two)[1] if "Student" in s]
    assert len(about) == 1
    assert "pairs" not in about[0]
    one = sentences(made_up(tmp_path / "one", norms=("bn",)))[1]
    assert not any("pairs" in s or "Student" in s for s in one)


@pytest.mark.parametrize("value", [0.75, 1 / 3, 0.3])
def test_seeds_without_a_spread_need_no_number_of_seeds(usual, value):
    last = {"bn": value, "gn": value - 0.1 / 3, "ln": value - 0.05}
    results = tuple(
        dataclasses.replace(r, accuracies=(*r.accuracies[:-1], last[r.arm] + r.seed / 90))
        for r in usual.results
    )
    (best, _), further = sentences(dataclasses.replace(usual, results=results))
    assert "no interval, because the seeds show no spread)" in best
    assert not any("seeds (" in s or "Student" in s for s in further)
    assert not any("unknown" in s for s in [best, *further])


def test_one_more_is_not_more_ones(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "gn", "ln"), batch_sizes=(8, 32))
    results = tuple(
        r
        if (r.arm, r.seed) == ("bn-batch8", 0)
        else dataclasses.replace(r, state="failed", problem="no good", accuracies=())
        for r in study.results
    )
    assert "Runs of 1 more arm failed." in sentences(dataclasses.replace(study, results=results))[1]


def test_a_lead_that_is_not_shown_says_how_many_seeds_would_show_it(tmp_path):
    means = {"bn": 0.78, "gn": 0.777, "ln": 0.72}
    study = made_up(tmp_path, means=means, seeds=3)
    (sentence,) = (s for s in sentences(study)[1] if "would show it" in s)
    words = sentence.rpartition("If ")[2]
    assert words.startswith("bn is as far above gn as it seems here, about ")
    assert int(words.split("about ")[1].split()[0].replace(",", "")) > 3


def test_a_lead_that_is_shown_needs_no_more_seeds(usual):
    assert not any("would show it" in sentence for sentence in sentences(usual)[1])


def test_accuracy_that_still_rises_is_named(usual):
    assert not any("still rose" in sentence for sentence in sentences(usual)[1])
    results = tuple(
        dataclasses.replace(
            r, accuracies=(*r.accuracies[:-2], r.accuracies[-1] - 0.06, r.accuracies[-1])
        )
        if r.arm == "gn"
        else r
        for r in usual.results
    )
    (sentence,) = (
        s for s in sentences(dataclasses.replace(usual, results=results))[1] if "still rose" in s
    )
    assert sentence == (
        "In the last epoch the accuracy of gn still rose by 6.00 points: with more epochs, "
        "the order may change."
    )


def test_a_single_learning_rate_is_named(tmp_path, usual):
    study = made_up(tmp_path, recipe="demo", trials=False, batch_sizes=(8,), learning_rate=0.05)
    text = " ".join(sentences(study)[1])
    assert "The learning rate is 0.05 at the recipe's batch size, scaled with" in text
    assert "One learning rate was tried." in text
    assert "One learning rate was tried." not in " ".join(sentences(usual)[1])
