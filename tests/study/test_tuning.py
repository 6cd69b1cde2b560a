"""The search of settings: the same trials for every arm, halved in rungs, beyond its edges."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normlab.config import MAX_SEEDS, StudyConfig
from normlab.study import tuning
from normlab.study.plan import held_out, plan
from normlab.study.tuning import Round

LR, WD = Round("lr"), Round("wd")
STUDY = StudyConfig(
    network="C:4 GAP FC", dataset="digits", recipe="demo", tune=("lr", "wd"), tune_seeds=1
)
EVERY = ("muon", "batch-size", "lr", "augment", "label-smoothing", "lr")
ARMS = plan(STUDY, classes=10, images=1437, shape=(1, 32, 32))


def search(of, accuracy, arm=ARMS[0], study=STUDY):
    """All trials of an arm, with an accuracy for each value and rung."""
    trials, done = [], ()
    for rung in of.rungs:
        trials_of_rung = tuning.rung_of(of, rung, study, arm, done)
        done = [dataclasses.replace(t, accuracy=accuracy(t.value, rung)) for t in trials_of_rung]
        trials += done
    return trials


@pytest.mark.parametrize("of", [LR, WD])
def test_every_normalization_gets_the_same_trials(of):
    first, *others = (tuning.rung_of(of, 0, STUDY, arm, ()) for arm in ARMS)
    for other in others:
        assert [(t.value, t.epochs) for t in other] == [(t.value, t.epochs) for t in first]
    counts = {len(search(of, lambda value, rung: value / 100, arm)) for arm in ARMS}
    assert counts == {8 + 4 + 2}


def test_the_grid_is_logarithmic_around_the_recipes_learning_rate():
    values = tuning.grid(LR, STUDY, ARMS[0])
    assert values == pytest.approx([0.01 * 2**k for k in (-4, -3, -2, -1, 0, 1, 2, 3)])


def test_each_rung_keeps_the_better_half_and_runs_it_longer():
    trials = search(LR, lambda value, rung: 1 - abs(value - 0.02))
    by_rung = [[t.value for t in trials if t.rung == rung] for rung in range(3)]
    best = sorted(by_rung[0], key=lambda value: abs(value - 0.02))
    assert by_rung[1] == sorted(best[:4])
    assert by_rung[2] == sorted(best[:2])
    assert [t.epochs for t in trials] == [2] * 8 + [5] * 4 + [10] * 2
    assert tuning.best(trials).value == 0.02
    assert tuning.best(trials[:-2]) is None  # not finished


def test_a_diverged_trial_is_the_worst_and_if_all_diverged_there_is_no_best():
    trials = search(LR, lambda value, rung: None if value > 0.01 else 0.1)
    assert all(t.value <= 0.01 for t in trials if t.rung)
    assert tuning.best(search(LR, lambda value, rung: None)) is None


def test_the_smaller_of_two_equal_values_wins():
    assert tuning.best(search(WD, lambda value, rung: 0.5)).value == 0.0


@given(st.permutations(range(8)))
def test_an_optimum_at_the_edge_is_recognized(order):
    values = tuning.grid(LR, STUDY, ARMS[0])
    trials = search(LR, lambda value, rung: order[values.index(value)] / 8)
    assert tuning.edges(trials) == (order.index(7) == 0, order.index(7) == 7)


def test_no_weight_decay_is_not_an_edge():
    assert tuning.edges(search(WD, lambda value, rung: 1 - value)) == (False, False)
    assert tuning.edges(search(WD, lambda value, rung: value)) == (False, True)


def test_where_all_values_are_equal_none_is_an_edge():
    """A search that learned nothing, such as one at chance, is no reason for more of it."""
    assert tuning.edges(search(LR, lambda value, rung: 0.1)) == (False, False)


def test_values_beyond_an_edge_go_on_in_its_ratio_and_have_all_epochs():
    trials = search(LR, lambda value, rung: value)
    more = tuning.extension(LR, STUDY, ARMS[0], trials, (0, 2))
    assert [t.value for t in more] == pytest.approx([0.16, 0.32])
    assert {(t.epochs, t.rung) for t in more} == {(10, 2)}
    below = tuning.extension(LR, STUDY, ARMS[0], trials, (1, 0))
    assert [t.value for t in below] == pytest.approx([0.01 / 32])
    assert tuning.extension(WD, STUDY, ARMS[0], search(WD, lambda v, _: v), (2, 0)) == []
    assert tuning.added([*trials, *more, *below]) == (1, 2)
    assert tuning.added(trials) == (0, 0)
    # The values found are among those tried with all epochs.
    done = [dataclasses.replace(t, accuracy=0.9 - t.value) for t in more]
    assert tuning.best([*trials, *done]).value == pytest.approx(0.16)
    assert tuning.edges([*trials, *done]) == (False, False)


def test_extensions_stay_in_the_range_of_a_setting():
    study = dataclasses.replace(STUDY, tune=("label-smoothing", "batch-size"))
    of = Round("label-smoothing")
    trials = search(of, lambda value, rung: value, study=study)
    assert [t.value for t in tuning.extension(of, study, ARMS[0], trials, (2, 2))] == [0.8]
    of = Round("batch-size")  # the recipe's is 16
    trials = search(of, lambda value, rung: 1 / value, study=study)
    values = [t.value for t in tuning.extension(of, study, ARMS[0], trials, (2, 2))]
    assert values == [2, 128, 256]
    assert all(isinstance(value, int) for value in values)


def test_each_value_is_tried_with_seeds_that_no_run_of_the_study_has():
    study = dataclasses.replace(STUDY, tune_seeds=3)
    trials = tuning.rung_of(LR, 0, study, ARMS[0], ())
    assert len(trials) == 8 * 3
    assert {t.seed for t in trials} == {MAX_SEEDS, MAX_SEEDS + 1, MAX_SEEDS + 2}
    assert len({t.name for t in trials}) == len(trials)


def test_values_are_ranked_by_their_failures_and_then_by_the_mean_over_the_seeds():
    study = dataclasses.replace(STUDY, tune_seeds=2)
    low, middle, high, *_ = tuning.grid(LR, study, ARMS[0])
    accuracies = {low: (0.5, 0.5), middle: (0.2, 0.7), high: (0.9, None)}
    trials = [
        dataclasses.replace(trial, accuracy=accuracies.get(trial.value, (0.1, 0.1))[trial.seed % 2])
        for trial in tuning.rung_of(LR, 0, study, ARMS[0], ())
    ]
    ranked = [each.value for each in tuning.tried(trials)]
    assert ranked[:2] == [low, middle]
    assert ranked[-1] == high  # a lost seed does not help it
    kept = tuning.rung_of(LR, 1, study, ARMS[0], trials)
    assert high not in {trial.value for trial in kept}


def test_settings_of_every_kind_are_searched_in_rounds():
    study = dataclasses.replace(STUDY, tune=EVERY)
    rounds = tuning.rounds(study)
    assert [(of.what, of.turn) for of in rounds] == [*((what, 0) for what in EVERY[:5]), ("lr", 1)]
    assert rounds[-1].label == "learning rate (search 2)"
    arm = ARMS[0]
    for of in rounds:
        values = tuning.grid(of, study, arm)
        for trial in tuning.rung_of(of, of.rungs[0], study, arm, ()):
            assert tuning.is_value(of.what, trial.value)
            recipe = arm.with_settings(tuning.settings_of(of.what, trial.value, arm)).recipe
            assert getattr(recipe, tuning.KNOBS[of.what].field) in (trial.value, recipe.augment)
        trials = search(of, lambda value, rung: 0.5, arm=arm, study=study)
        assert len(tuning.finalists(trials)) >= min(2, len(values))
    assert set(tuning.fields(study)) == {
        *("muon", "batch_size", "learning_rate", "augment", "label_smoothing"),
    }


def test_augmentations_are_all_tried_with_all_epochs_and_have_no_edge():
    study = dataclasses.replace(STUDY, recipe="seed", tune=("augment",))
    (arm,) = plan(
        dataclasses.replace(study, norms=("bn",)), classes=10, images=1437, shape=(1, 32, 32)
    )
    trials = search(Round("augment"), lambda value, rung: len(value) / 100, arm, study)
    assert [t.value for t in trials] == ["none", "shift", "color-jitter+affine+vertical-flip"]
    assert {t.epochs for t in trials} == {20}
    assert tuning.edges(trials) == (False, False)
    assert tuning.extension(Round("augment"), study, arm, trials, (2, 2)) == []
    config = tuning.config_of(trials[2], arm, 10)
    assert config.augment == ("color-jitter", "affine", "vertical-flip")
    assert not tuning.is_value("augment", "../shift")


def test_the_learning_rate_goes_with_the_batch_size_that_was_found():
    study = dataclasses.replace(STUDY, tune=("batch-size", "lr"))
    arm = ARMS[0].with_settings(tuning.settings_of("batch-size", 64, ARMS[0]))
    assert (arm.recipe.batch_size, arm.recipe.learning_rate) == (64, 0.02)
    assert arm.recipe.learning_rate in tuning.grid(LR, study, arm)
    assert tuning.grid(LR, study, ARMS[1]) == tuning.grid(LR, STUDY, ARMS[1])


def test_a_trial_is_measured_on_held_out_images():
    done = search(WD, lambda value, rung: value)[:8]
    (trial, *_) = tuning.rung_of(WD, 1, STUDY, ARMS[1], done)
    config = tuning.config_of(trial, ARMS[1], held_out(STUDY, 1437))
    assert (config.holdout, config.epochs, config.seed) == (143, 5, MAX_SEEDS)
    assert config.weight_decay == trial.value
    assert config.norm == "gn"
    assert held_out(StudyConfig(network="", holdout=77), 1437) == 77
    assert held_out(StudyConfig(network=""), 50_000) == 5000


@pytest.mark.parametrize(("epochs", "rungs"), [(19, [4, 9, 19]), (10, [2, 5, 10]), (1, [1, 1, 1])])
def test_the_length_of_a_rung(epochs, rungs):
    assert [tuning.rung_epochs(epochs, rung) for rung in range(3)] == rungs
