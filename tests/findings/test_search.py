"""What the page says about the search: equality, edges, failures and noise."""

import dataclasses

import pytest

from made_up import study as made_up
from normlab.findings.search import searches
from normlab.study import tuning
from normlab.study.record import Study


def with_accuracies(study, change):
    """The study with other accuracies of its trials."""
    trials = tuple(dataclasses.replace(t, accuracy=change(t)) for t in study.trials)
    return dataclasses.replace(study, trials=trials)


def test_a_search_with_one_seed_says_what_it_always_said(tmp_path):
    study = made_up(tmp_path, seeds=2, images=200)
    assert searches(study) == [
        "The learning rate was searched for every normalization with 14 runs each on held-out "
        "images, over the same values."
    ]
    assert searches(Study.open(tmp_path)) == searches(study)


def test_the_noise_of_a_search_and_what_luck_may_have_cost(tmp_path):
    study = made_up(tmp_path, seeds=2, images=200, norms=("bn", "gn"), tune_seeds=3)
    equal, noise = searches(study)
    assert equal.endswith(
        "with 42 runs each on held-out images, over the same values, each with 3 seeds."
    )
    assert noise.startswith(
        "The noise of this search: near the best learning rate, accuracy varies between seeds with "
        "a standard deviation of 0."
    )
    clear = with_accuracies(study, lambda t: 0.8 - t.value + 1e-4 * (t.seed % 3))
    assert searches(clear)[-1].endswith(
        "with a standard deviation of 0.01 (bn) and 0.01 (gn) points. No second-best value is "
        "within this noise."
    )
    # Equal means: Student's t of 4 degrees of freedom × 1 point × √(2/3).
    lucky = with_accuracies(study, lambda t: 0.8 + 0.01 * (t.seed % 3))
    (loss,) = (s for s in searches(lucky) if "second-best" in s)
    assert loss.endswith(
        " The second-best value is within this noise for bn and gn: with that value, an arm might "
        "have been better by up to 1.74 points (bn) and 1.74 points (gn). That much may have been "
        "lost by bad luck (95% limits)."
    )


def test_no_more_can_have_been_lost_than_there_was_to_gain(tmp_path):
    study = made_up(tmp_path, seeds=2, images=200, norms=("bn", "gn"), tune_seeds=2)
    wild = with_accuracies(study, lambda t: 0.4 if t.seed % 2 else 0.9)
    (loss,) = (s for s in searches(wild) if "second-best" in s)
    assert "better by up to 35.00 points (bn) and 35.00 points (gn)" in loss  # the mean is 65%


def test_extensions_are_stated(tmp_path):
    study = made_up(tmp_path, seeds=2, images=200, norms=("bn", "gn"))
    of = tuning.Round("lr")
    more = []
    for arm in study.arms:
        done = tuning.in_round(study.trials, arm.name, of)
        added = tuning.extension(of, study.config, arm, done, (2, 4))
        more += [dataclasses.replace(t, accuracy=0.1) for t in added]
    equal, extended = searches(dataclasses.replace(study, trials=(*study.trials, *more)))
    assert "with 20 runs each" in equal
    assert extended == (
        "The best learning rate of some arm was at the edge of the values, so all arms also tried "
        "2 smaller and 4 larger values."
    )
    unequal = dataclasses.replace(study, trials=(*study.trials, *more[:1]))
    assert (
        searches(unequal)[0]
        == "The searches of the learning rate had different numbers of runs: bn 15 and gn 14."
    )


def test_a_best_value_that_did_not_train_with_every_seed_is_named(tmp_path):
    study = made_up(tmp_path, seeds=2, images=200, norms=("bn", "gn"), tune_seeds=3)
    failing = with_accuracies(
        study, lambda t: None if (t.arm, t.seed % 3) == ("gn", 0) else t.accuracy
    )
    assert "At its best learning rate, not every seed trained: gn with 2 of 3." in searches(failing)


@pytest.mark.parametrize("what", ["augment", "label-smoothing", "muon", "batch-size", "wd"])
def test_every_setting_has_its_sentence(tmp_path, what):
    study = made_up(tmp_path, seeds=2, images=200, norms=("bn", "gn"), tune=(what,), tune_seeds=2)
    equal, *_ = searches(study)
    assert equal.startswith(f"The {tuning.KNOBS[what].label} was searched for every normalization")
