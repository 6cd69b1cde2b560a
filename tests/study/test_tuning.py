"""The search of settings: the same trials for every arm, halved in rungs."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normlab.config import StudyConfig
from normlab.study import tuning
from normlab.study.plan import held_out, plan

STUDY = StudyConfig(network="C:4 GAP FC", dataset="digits", recipe="demo", tune=("lr", "wd"))
ARMS = plan(STUDY, classes=10, images=1437)


def search(what, accuracy, arm=ARMS[0]):
    """All trials of an arm, with an accuracy for each value and rung."""
    trials, done = [], ()
    for rung in range(len(tuning.SHARES)):
        trials_of_rung = tuning.rung_of(what, rung, STUDY, arm, done)
        done = [dataclasses.replace(t, accuracy=accuracy(t.value, rung)) for t in trials_of_rung]
        trials += done
    return trials


@pytest.mark.parametrize("what", ["lr", "wd"])
def test_every_normalization_gets_the_same_trials(what):
    first, *others = (tuning.rung_of(what, 0, STUDY, arm, ()) for arm in ARMS)
    for other in others:
        assert [(t.value, t.epochs) for t in other] == [(t.value, t.epochs) for t in first]
    counts = {len(search(what, lambda value, rung: value, arm)) for arm in ARMS}
    assert counts == {8 + 4 + 2}


def test_the_grid_is_logarithmic_around_the_recipes_learning_rate():
    values = tuning.grid("lr", STUDY, ARMS[0])
    assert values == pytest.approx([0.01 * 2**k for k in (-4, -3, -2, -1, 0, 1, 2, 3)])


def test_each_rung_keeps_the_better_half_and_runs_it_longer():
    trials = search("lr", lambda value, rung: 1 - abs(value - 0.02))
    by_rung = [[t.value for t in trials if t.rung == rung] for rung in range(3)]
    best = sorted(by_rung[0], key=lambda value: abs(value - 0.02))
    assert by_rung[1] == sorted(best[:4])
    assert by_rung[2] == sorted(best[:2])
    assert [t.epochs for t in trials] == [2] * 8 + [5] * 4 + [10] * 2
    assert tuning.best(trials, "bn", "lr").value == 0.02
    assert tuning.best(trials[:-2], "bn", "lr") is None  # not finished


def test_a_diverged_trial_is_the_worst_and_if_all_diverged_there_is_no_best():
    trials = search("lr", lambda value, rung: None if value > 0.01 else 0.1)
    assert all(t.value <= 0.01 for t in trials if t.rung)
    assert tuning.best(search("lr", lambda value, rung: None), "bn", "lr") is None


def test_the_smaller_of_two_equal_values_wins():
    trials = search("wd", lambda value, rung: 0.5)
    assert tuning.best(trials, "bn", "wd").value == 0.0


@given(st.permutations(range(8)))
def test_an_optimum_at_the_edge_is_recognized(order):
    values = tuning.grid("lr", STUDY, ARMS[0])
    trials = search("lr", lambda value, rung: order[values.index(value)] / 8)
    found = tuning.best(trials, "bn", "lr")
    assert tuning.on_edge(found, trials) == (order.index(7) in (0, 7))


def test_a_trial_is_measured_on_held_out_images():
    (trial, *_) = tuning.rung_of("wd", 1, STUDY, ARMS[1], search("wd", lambda v, r: v)[:8])
    config = tuning.config_of(trial, ARMS[1], held_out(STUDY, 1437))
    assert (config.holdout, config.epochs, config.seed) == (143, 5, 0)
    assert config.weight_decay == trial.value
    assert config.norm == "gn"
    assert held_out(StudyConfig(network="", holdout=77), 1437) == 77
    assert held_out(StudyConfig(network=""), 50_000) == 5000


@pytest.mark.parametrize(("epochs", "rungs"), [(19, [4, 9, 19]), (10, [2, 5, 10]), (1, [1, 1, 1])])
def test_the_length_of_a_rung(epochs, rungs):
    assert [tuning.rung_epochs(epochs, rung) for rung in range(3)] == rungs
