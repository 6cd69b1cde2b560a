"""From a study's configuration to its arms."""

import dataclasses
from typing import Annotated

import pytest
import torch

from normlab import RunConfig, recipes
from normlab.config import StudyConfig
from normlab.data import load
from normlab.errors import UsageError
from normlab.layers.norms import REGISTRY
from normlab.network.model import Network
from normlab.study import plan as plan_module
from normlab.study.plan import Axis, Setting, plan, settings, varying, warnings
from normlab.training.step import Batches

LINE = "C:4 P C:4 P GAP FC"


def planned(network=LINE, *, images=1437, **options):
    study = StudyConfig(network=network, dataset="digits", recipe="demo", **options)
    return plan(study, classes=10, images=images)


def test_every_normalization_in_every_setting():
    arms = planned(norms=("bn", "gn"), batch_sizes=(16, 64), label_noise=(0.0, 0.2))
    assert [arm.name for arm in arms] == [
        *("bn-batch16-noise0", "gn-batch16-noise0", "bn-batch16-noise0.2", "gn-batch16-noise0.2"),
        *("bn-batch64-noise0", "gn-batch64-noise0", "bn-batch64-noise0.2", "gn-batch64-noise0.2"),
    ]
    for setting, alike in settings(arms).items():
        assert [arm.norm for arm in alike] == ["bn", "gn"]
        assert {arm.config.batch_size for arm in alike} == {setting.batch_size}
        assert {arm.config.label_noise for arm in alike} == {setting.label_noise}


def test_an_axis_that_is_not_asked_for_leaves_the_recipes_setting():
    (arm,) = planned(norms=("ln",))
    assert arm.name == "ln"
    assert arm.config == RunConfig(network=LINE, dataset="digits", recipe="demo", norm="ln")
    assert arm.setting.batch_size is None


def test_normalizations_whose_recipes_differ_are_still_compared():
    arms = plan(StudyConfig(network="line-5k"), classes=10, images=50_000)
    assert len({recipes.resolve(arm.config).batch_size for arm in arms}) > 1
    assert len(settings(arms)) == 1


def test_arms_of_a_setting_differ_in_the_normalization_alone():
    arms = planned("assignment", norms=tuple(set(REGISTRY) - {"ln-full"}), budgets=(5000,))
    configs = {dataclasses.replace(arm.config, norm="") for arm in arms}
    assert len(configs) == 1


def test_widths_are_solved_once_and_every_arm_stays_below_the_budget():
    norms = ("bn", "frn", "rms")
    arms = planned("C P C P C GAP FC", norms=norms, budgets=(3000, 20_000))
    for setting, alike in settings(arms).items():
        (line,) = {arm.config.network for arm in alike}
        parameters = {
            arm.norm: sum(p.numel() for p in Network(line, norm=arm.norm).parameters())
            for arm in alike
        }
        assert max(parameters.values()) == parameters["frn"] < setting.budget
        alone = Network("C P C P C GAP FC", norm="frn", budget=setting.budget)
        assert line == alone.layout


def test_a_name_of_the_zoo_stays_a_name():
    (arm,) = planned("nano", norms=("bn",))
    assert arm.config.network == "nano"


def test_the_networks_own_recipe_is_taken():
    arms = plan(StudyConfig(network="nano", layouts=("micro",)), classes=10, images=50_000)
    assert [arm.config.recipe for arm in arms] == ["nano"] * 3 + ["micro"] * 3
    assert [arm.name for arm in arms[:4]] == ["bn-nano", "gn-nano", "ln-nano", "bn-micro"]


def test_the_learning_rate_goes_with_the_square_root_of_the_batch():
    arms = planned(norms=("bn",), batch_sizes=(4, 16, 64))
    rates = [recipes.resolve(arm.config).learning_rate for arm in arms]
    assert rates == pytest.approx([0.005, 0.01, 0.02])
    arms = planned(norms=("bn",), batch_sizes=(64,), learning_rate=0.1)
    assert arms[0].config.learning_rate == pytest.approx(0.2)


def test_groups_take_the_place_of_gn():
    arms = planned(norms=("bn", "gn", "ln"), groups=(1, 2, 4))
    assert [arm.norm for arm in arms] == ["bn", "gn=1", "gn=2", "gn=4", "ln"]


def test_with_groups_the_widths_are_those_that_all_of_them_divide():
    arms = planned("assignment", norms=("bn", "gn"), groups=(1, 2, 4), budgets=(5000,))
    assert len(arms) == 4
    assert len({arm.config.network for arm in arms}) == 1


def test_what_was_found_for_some_normalizations_alone_is_left_out():
    alone = plan(StudyConfig(network="line-5k", norms=("gn",)), classes=10, images=50_000)
    both = plan(StudyConfig(network="line-5k", norms=("gn", "in")), classes=10, images=50_000)
    assert recipes.resolve(alone[0].config).augment == ()
    assert [recipes.resolve(arm.config) for arm in both] == [recipes.find("line-5k")] * 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"norms": ("bn", "gm")}, "no normalization 'gm': did you mean gn?"),
        ({"norms": ("bn", "bn")}, "bn is given twice"),
        ({"norms": ()}, "expected one normalization or more"),
        ({"norms": ("bn",), "groups": (2,)}, "add gn to --norms"),
        ({"groups": (3,)}, "3 groups do not divide 4 channels"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"batch_sizes": (8, 8)}, "a value is given twice: 8, 8"),
        ({"tune": ("lr", "lr")}, "a value is given twice: lr, lr"),
        ({"batch_sizes": (0,)}, "must be above 0"),
        ({"batch_sizes": (8, -1)}, "--batch-sizes must be above 0, not -1"),
        ({"holdout": 2000}, "--holdout must be 0 or more and below 1,437, the training images, "),
        ({"label_noise": (1.5,)}, "--label-noise must be 0 or more and below 1"),
        ({"train_images": (1400,), "tune": ("lr",)}, "--train-images must be above 0 and at most"),
        ({"train_images": (1438,)}, "--train-images must be above 0 and at most 1,437, not 1,438"),
        ({"budgets": (5000, 50_000)}, "two of 5,000, 50,000 give the same layout-"),
        ({"budgets": (100,)}, "too many to stay below the budget"),
        ({"network": "C:4 P P P P P GAP FC", "batch_sizes": (0,)}, "must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, problem):
    network = options.pop("network", LINE)
    with pytest.raises(UsageError, match=problem):
        planned(network, **options)


def test_groups_that_do_not_divide_are_shown_in_their_block():
    with pytest.raises(UsageError) as caught:
        planned("C:4 P C:6 P GAP FC", groups=(4,))
    problem, line, caret = str(caught.value).splitlines()
    assert "gn=4: 4 groups do not divide 6 channels" in problem
    assert line.strip().startswith("C:4 P C:6")
    assert line[caret.index("^") :].startswith("C:6")


@pytest.mark.parametrize("kept", [None, 8])
def test_batch_norm_of_a_single_value_is_refused_before_anything_runs(kept):
    images = {"images": 8} if kept is None else {"train_images": (kept,)}
    with pytest.raises(UsageError) as caught:
        planned("C:4 P P P P P C:8 GAP FC", norms=("bn",), batch_sizes=(1,), **images)
    problem, line, caret = str(caught.value).splitlines()
    assert "bn cannot be trained on 8 × 1 × 1 and a batch of 1" in problem
    assert line[caret.index("^") :].startswith("C:8")


@pytest.mark.parametrize("batch", [1436, 1293])  # of 1,437 images, of 1,294 in the search
def test_the_last_batches_of_the_runs_and_of_the_search_are_tried(batch):
    line = "C:4 P P P P P C:8 GAP FC"
    with pytest.raises(UsageError, match="a batch of 1, which every epoch has"):
        planned(line, norms=("bn",), batch_sizes=(batch,), tune=("lr",))
    assert planned(line, norms=("bn",), batch_sizes=(1293,))


def test_all_images_are_a_number_of_training_images_too():
    some, every = planned(norms=("bn",), train_images=(1000, 1437), tune=("lr",))
    assert (some.config.train_images, every.config.train_images) == (1000, None)
    assert (every.name, every.setting.train_images) == ("bn-images1437", 1437)


def test_untuned_all_normalizations_have_the_same_recipe():
    study = StudyConfig(network="micro")
    recipe_of = {
        untuned: {arm.recipe for arm in plan(own, classes=10, images=50_000)}
        for untuned in (False, True)
        for own in (dataclasses.replace(study, untuned=untuned),)
    }
    assert len(recipe_of[False]) > 1
    assert recipe_of[True] == {recipes.find("micro")}


def test_small_batches_get_a_warning_that_says_what_to_expect():
    (warning,) = warnings(planned(norms=("bn", "gn", "brn"), batch_sizes=(2, 4, 8)))
    assert warning.startswith("batches of 2, 4: bn, brn will take means")
    assert "expect lower accuracy" in warning
    assert not list(warnings(planned(norms=("gn", "ln"), batch_sizes=(2,))))
    (warning,) = warnings(planned(norms=("ghost-bn=2", "ghost-bn", "gn=2"), batch_sizes=(64,)))
    assert warning.startswith("virtual batches of 2: ghost-bn=2 will take")
    both = list(warnings(planned(norms=("ghost-bn=2", "bn"), batch_sizes=(4, 64))))
    assert [warning.partition(" will")[0] for warning in both] == [
        "virtual batches of 2: ghost-bn=2",
        "batches of 4: bn",
    ]
    (warning,) = warnings(planned("C:4/bn P GAP FC", norms=("ln",), batch_sizes=(4,)))
    assert warning.startswith("batches of 4: bn will take")
    assert not list(warnings(planned(norms=("bn",), batch_sizes=(8, 32))))


# Pairing


def test_at_a_seed_arms_share_their_first_convolutions_and_their_batches():
    arms = planned("C:6 P D:8 P C:8+ GAP FC", norms=("bn", "gn", "ln", "none", "gn-ws"))
    dataset = load("digits")
    firsts = []
    for seed in (0, 1):
        weights, batches = [], []
        for arm in arms:
            config = arm.run_config(seed)
            network = Network(config.network, norm=config.norm, seed=config.seed)
            weights.append(torch.cat([weight.flatten() for weight in network.weights]))
            made = Batches(dataset, recipes.resolve(config), config.seed, torch.device("cpu"))
            batches.append([made(1, 0), made(2, 5)])
        assert all(torch.equal(weights[0], other) for other in weights)
        for own in batches:
            for (images, labels), (first_images, first_labels) in zip(own, batches[0], strict=True):
                assert torch.equal(images, first_images)
                assert torch.equal(labels, first_labels)
        firsts.append(weights[0])
    assert not torch.equal(*firsts)


# A new axis


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecayStudy(StudyConfig):
    """A study's configuration with one more flag."""

    weight_decays: tuple[float, ...] = ()


def check_decay(value, _):
    if value is not None and value < 0:
        raise UsageError(f"--weight-decays must be at least 0, not {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecaySetting(Setting):
    """A setting with one more axis."""

    weight_decay: Annotated[
        float | None,
        Axis(
            label="weight decay",
            values=lambda study: study.weight_decays or (None,),
            spell=lambda value: f"decay{value}",
            check=check_decay,
            apply=lambda config, value, _: dataclasses.replace(config, weight_decay=value),
        ),
    ] = None


@pytest.fixture
def decay_axis(monkeypatch):
    monkeypatch.setattr(plan_module, "Setting", DecaySetting)
    monkeypatch.setattr(plan_module, "AXES", plan_module.axes_of(DecaySetting))

    def planned_decays(*decays, **options):
        study = DecayStudy(
            **{"network": LINE, "dataset": "digits", "recipe": "demo", "norms": ("bn",)},
            **{"weight_decays": decays, **options},
        )
        return plan(study, classes=10, images=1437)

    return planned_decays


def test_a_new_axis_is_a_flag_and_one_field_of_the_setting(decay_axis):
    arms = decay_axis(0.0, 0.5, batch_sizes=(16, 64))
    assert [arm.name for arm in arms] == [
        *("bn-batch16-decay0.0", "bn-batch16-decay0.5"),
        *("bn-batch64-decay0.0", "bn-batch64-decay0.5"),
    ]
    assert [arm.recipe.weight_decay for arm in arms] == [0, 0.5, 0, 0.5]
    assert varying(arm.setting for arm in arms) == ["batch_size", "weight_decay"]
    assert arms[1].setting.text(["weight_decay"]) == "weight decay 0.5"
    assert len(settings(arms)) == 4


def test_the_values_of_a_new_axis_are_checked(decay_axis):
    with pytest.raises(UsageError, match=r"^--weight-decays must be at least 0, not -1$"):
        decay_axis(-1)
    with pytest.raises(UsageError, match="a value is given twice"):
        decay_axis(0.5, 0.5)


def test_a_new_axis_that_is_not_used_changes_nothing(decay_axis):
    (arm,) = decay_axis()
    assert arm.name == "bn"
    assert arm.config == RunConfig(network=LINE, dataset="digits", recipe="demo", norm="bn")
    assert arm.setting.weight_decay is None
