"""Findings about synthetic studies."""

import dataclasses

import numpy as np
import pytest

from made_up import study as made_up
from normlab.errors import RunError
from normlab.findings import statistics
from normlab.findings import study as findings
from normlab.findings.study import group_by_setting, headline, main_group
from normlab.study.record import Result


def sentences(study):
    groups = group_by_setting(study)
    return headline(study, groups)[:2], findings.further(study, groups)


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("usual"))


def test_the_headline_names_the_best_and_the_certainty(usual):
    (best, certainty), _ = sentences(usual)
    means = {arm.name: np.mean([r.accuracies[-1] for r in usual.of(arm)]) for arm in usual.arms}
    assert best.startswith(f"bn has the highest mean accuracy, {means['bn']:.2%} over 5 seeds")
    assert (
        "is shown to be above gn (1.28 points, 95% interval 0.09 to 2.47, corrected p = 0.039)"
        in best
    )
    assert "ln (2.74 points" in best
    assert certainty.startswith("With a new seed, bn would be above gn with a probability of 97%")


def test_the_headline_says_what_cannot_be_shown(tmp_path):
    same = {"bn": 0.78, "gn": 0.7795, "ln": 0.72}
    (best, _), _ = sentences(made_up(tmp_path, means=same, seeds=3))
    assert "is shown to be above ln" in best
    assert "; with these seeds no difference can be shown between it and gn (" in best


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
    assert best.count("95% interval") == 3
    assert "), rms and frn; with these seeds no difference can be shown between it and gn (" in best


def test_equal_means_are_both_the_highest(tmp_path):
    study = made_up(tmp_path, seeds=1, norms=("bn", "gn", "ln"))
    last = {"bn": 0.6, "gn": 0.6, "ln": 0.5}
    results = tuple(dataclasses.replace(r, accuracies=(0.4, last[r.arm])) for r in study.results)
    (best, _), further = sentences(dataclasses.replace(study, results=results))
    assert best.startswith("bn and gn have the highest mean accuracy, 60.00% (one run)")
    assert "No run passed 70%." in further


def test_many_optima_at_the_edge_share_one_sentence(tmp_path):
    study = made_up(tmp_path, seeds=2, batch_sizes=(2, 8, 32), norms=("bn", "gn", "ln"))
    trials = tuple(dataclasses.replace(t, accuracy=t.value / 100) for t in study.trials)
    best = {t.arm: max(o.value for o in trials if o.arm == t.arm) for t in trials}
    trials = tuple(dataclasses.replace(t, value=best[t.arm]) if t.rung == 2 else t for t in trials)
    (edge,) = (s for s in sentences(dataclasses.replace(study, trials=trials))[1] if "edge" in s)
    assert edge.startswith("The best learning rate for bn-batch2 (0.4), gn-batch2 (0.4), ")
    assert " and 3 more arms lies at the edge" in edge


@pytest.mark.parametrize("state", ["failed", "waiting"])
def test_no_normalization_leads_where_no_run_is_finished(tmp_path, state):
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
    assert changes == "At batch size 32 and 64, bn has the highest mean; at 8, no run is finished."
    (_, changes), further = sentences(without(study, 8, 32))
    assert changes == "At batch size 64, bn has the highest mean; at 8 and 32, no run is finished."
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
    assert about(("bn", "gn")) == []


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
    assert best.endswith("nothing was compared with it.")


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
    assert "over 4 seeds" in best
    assert "bn failed with 1 of 5 seeds" in best
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
    assert best.startswith("bn has the highest mean accuracy")
    assert "gn (one seed in common)" in best
    assert best.endswith("; bn failed with 4 of 5 seeds.")
    assert any(s.startswith("gn is shown to be above ln") for s in further)
    assert "bn failed with 4 seeds; with seed 1: no good." in further


def test_a_mean_that_is_highest_only_because_seeds_are_missing_is_not_above(usual):
    """gn is better with each seed that bn has, but worse with two seeds that bn does not have."""
    last = {"bn": (0.70, 0.71, 0.69), "gn": (0.72, 0.7305, 0.7095, 0.5, 0.5), "ln": (0.3,) * 5}
    results = tuple(
        dataclasses.replace(r, accuracies=(*r.accuracies[:-1], last[r.arm][r.seed]))
        if r.seed < len(last[r.arm])
        else dataclasses.replace(r, state="failed", problem="no good", accuracies=())
        for r in usual.results
    )
    (best, certainty), _ = sentences(dataclasses.replace(usual, results=results))
    assert best.startswith("bn has the highest mean accuracy, 70.00% over 3 seeds")
    assert "but over the seeds that both finished, gn (2.00 points" in best
    assert "is shown to be above it" in best
    assert "−" not in best.split("gn (")[1].split(")")[0]
    assert certainty.startswith("With a new seed, gn would be above bn with a probability of over")


def test_arms_without_a_common_seed_are_named_and_not_compared(usual):
    rest = [("bn", 1), ("bn", 2), ("bn", 3), ("bn", 4), ("gn", 0)]
    (best, _), _ = sentences(without(usual, *rest))
    assert "gn (no seed in common)" in best


def test_the_headline_names_arms_that_could_not_be_trained(tmp_path, usual):
    (best, certainty), _ = sentences(without(usual, *(("bn", seed) for seed in range(5))))
    assert best.startswith("gn has the highest mean accuracy")
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
