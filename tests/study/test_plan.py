"""From a study's configuration to its arms."""

import dataclasses
from typing import Annotated

import pytest
import torch

from normlab import RunConfig, recipes
from normlab.config import Limits, StudyConfig, TrainingConfig
from normlab.data import load
from normlab.errors import UsageError
from normlab.layers.norms import REGISTRY
from normlab.network.model import Network
from normlab.network.summary import summarize
from normlab.network.zoo import ZOO
from normlab.study import plan as plan_module
from normlab.study.plan import Axis, Setting, plan, settings, varying, warnings
from normlab.training.batches import Batches

LINE = "C:4 P C:4 P GAP FC"


def planned(network=LINE, *, images=1437, **options):
    study = StudyConfig(network=network, dataset="digits", recipe="demo", **options)
    return plan(study, classes=10, images=images, shape=(3, 32, 32))


def test_every_normalization_is_planned_in_every_setting():
    arms = planned(norms=("bn", "gn"), batch_sizes=(16, 64), label_noise=(0.0, 0.2))
    assert [arm.name for arm in arms] == [
        *("bn-batch16-noise0", "gn-batch16-noise0", "bn-batch16-noise0.2", "gn-batch16-noise0.2"),
        *("bn-batch64-noise0", "gn-batch64-noise0", "bn-batch64-noise0.2", "gn-batch64-noise0.2"),
    ]
    for setting, compared in settings(arms).items():
        assert [arm.norm for arm in compared] == ["bn", "gn"]
        assert {arm.config.batch_size for arm in compared} == {setting.batch_size}
        assert {arm.config.label_noise for arm in compared} == {setting.label_noise}


def test_an_unused_axis_leaves_the_recipes_setting():
    (arm,) = planned(norms=("ln",))
    assert arm.name == "ln"
    given = {"network": LINE, "dataset": "digits", "recipe": "demo", "norm": "ln"}
    assert arm.config == RunConfig(**given, activation="relu", channels="colour")
    assert arm.setting.batch_size is None


def test_an_arm_has_every_training_setting_of_its_study():
    given = {
        "holdout": 20,
        "split_seed": 3,
        "skip_unreadable": True,
        "image_column": "photo",
        "label_column": "kind",
        "size": 40,
        "channels": "grey",
        "activation": "silu",
        "untuned": True,
        "epochs": 4,
        "learning_rate": 0.3,
        "weight_decay": 0.01,
        "muon": 0.2,
        "recalibrate": True,
        "branches": "repvgg",
        "balance": True,
        "start_from": "micro",
        "teacher": "nano",
        "teacher_weight": 0.7,
        "teacher_temperature": 3.0,
        "precision": "bfloat16",
    }
    settings = {field.name for field in dataclasses.fields(TrainingConfig)}
    limits = {field.name for field in dataclasses.fields(Limits)}
    assert settings - limits == {*given, "dataset", "recipe"}
    study = StudyConfig(network=LINE, dataset="digits", recipe="demo", norms=("bn",), **given)
    (arm,) = plan(study, classes=10, images=1437, shape=(1, 40, 40))
    given |= {"dataset": "digits", "recipe": "demo"}
    assert {name: getattr(arm.config, name) for name in given} == given


def test_normalizations_whose_recipes_differ_are_still_compared():
    arms = plan(StudyConfig(network="line-5k"), classes=10, images=50_000, shape=(3, 32, 32))
    assert len({recipes.resolve(arm.config).batch_size for arm in arms}) > 1
    assert len(settings(arms)) == 1


def test_arms_of_a_setting_differ_only_in_the_normalization():
    arms = planned("assignment", norms=tuple(set(REGISTRY) - {"ln-full"}), budgets=(5000,))
    configs = {dataclasses.replace(arm.config, norm="") for arm in arms}
    assert len(configs) == 1


def test_widths_are_solved_once_and_every_arm_stays_below_the_budget():
    norms = ("bn", "frn", "rms")
    arms = planned("C P C P C GAP FC", norms=norms, budgets=(3000, 20_000))
    for setting, compared in settings(arms).items():
        (line,) = {arm.config.network for arm in compared}
        parameters = {
            arm.norm: sum(p.numel() for p in Network(line, norm=arm.norm).parameters())
            for arm in compared
        }
        assert max(parameters.values()) == parameters["frn"] < setting.budget
        alone = Network("C P C P C GAP FC", norm="frn", budget=setting.budget)
        assert line == alone.layout


def test_every_arm_stays_within_the_limits():
    norms = ("bn", "gn", "ln-channel", "dyt")
    given = {"ram": 24_576, "flash": 32_768, "macs": 3_000_000, "board": "microbit-v2"}
    arms = planned("C P C P C GAP FC", norms=norms, **given)
    (line,) = {arm.config.network for arm in arms}
    for norm in norms:
        table = summarize(line, norm=norm)
        assert table.memory.arena <= given["ram"]
        assert table.memory.constants <= given["flash"]
        assert table.macs <= given["macs"]
    alone = summarize("C P C P C GAP FC", norm="gn", limits=Limits(**given))
    assert line == alone.layout  # gn needs the most RAM
    with pytest.raises(UsageError, match=r"bytes of RAM with gn, .* more than --ram 20,000"):
        planned("C:20 P C:40 GAP FC", norms=("bn", "gn"), ram=20_000)


def test_each_arm_has_the_activation_that_was_asked_for_or_its_networks_own(monkeypatch):
    own = dataclasses.replace(ZOO["nano"], layout="D D+ P D D+ P D D+ GAP FC", activation="prelu")
    monkeypatch.setitem(ZOO, "nano", own)
    networks = {"network": "nano", "layouts": ("micro", LINE), "norms": ("bn", "gn")}
    arms = planned(**networks)
    assert [arm.config.activation for arm in arms] == ["prelu"] * 2 + ["relu"] * 4
    for arm in arms[:2]:  # its slopes count in the budget
        assert arm.config.network == Network("nano", norm="bn", budget=50_000).layout
        assert arm.config.network != Network("nano", activation="relu", budget=50_000).layout
    assert {arm.config.activation for arm in planned(**networks, activation="silu")} == {"silu"}
    assert {arm.config.activation for arm in planned(**networks, activation="relu")} == {"relu"}


def test_a_named_network_keeps_its_name():
    (arm,) = planned("nano", norms=("bn",))
    assert arm.config.network == "nano"


def test_the_networks_own_recipe_is_taken():
    arms = plan(
        StudyConfig(network="nano", layouts=("micro",)),
        classes=10,
        images=50_000,
        shape=(3, 32, 32),
    )
    assert [arm.config.recipe for arm in arms] == ["nano"] * 3 + ["micro"] * 3
    assert [arm.name for arm in arms[:4]] == ["bn-nano", "gn-nano", "ln-nano", "bn-micro"]


def test_the_learning_rate_scales_with_the_square_root_of_the_batch_size():
    arms = planned(norms=("bn",), batch_sizes=(4, 16, 64))
    rates = [recipes.resolve(arm.config).learning_rate for arm in arms]
    assert rates == pytest.approx([0.005, 0.01, 0.02])
    arms = planned(norms=("bn",), batch_sizes=(64,), learning_rate=0.1)
    assert arms[0].config.learning_rate == pytest.approx(0.2)


def test_groups_replace_gn():
    arms = planned(norms=("bn", "gn", "ln"), groups=(1, 2, 4))
    assert [arm.norm for arm in arms] == ["bn", "gn=1", "gn=2", "gn=4", "ln"]


def test_all_numbers_of_groups_divide_the_solved_widths():
    arms = planned("assignment", norms=("bn", "gn"), groups=(1, 2, 4), budgets=(5000,))
    assert len(arms) == 4
    assert len({arm.config.network for arm in arms}) == 1


def test_settings_tuned_for_only_some_of_the_normalizations_are_not_used():
    alone = plan(
        StudyConfig(network="line-5k", norms=("gn",)), classes=10, images=50_000, shape=(3, 32, 32)
    )
    both = plan(
        StudyConfig(network="line-5k", norms=("gn", "in")),
        classes=10,
        images=50_000,
        shape=(3, 32, 32),
    )
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
        ({"tune": ("wd", "lr", "lr")}, "--tune: lr after lr repeats the search: leave one out"),
        (
            {"tune": ("batch-size",), "batch_sizes": (8,)},
            "--tune batch-size and --batch-sizes exclude each other: leave one out",
        ),
        ({"tune": ("lr",), "tune_seeds": 0}, "--tune-seeds must be at least 1 and at most 100"),
        ({"batch_sizes": (0,)}, "must be at least 1"),
        (
            {"batch_sizes": (8, -1)},
            "--batch-sizes must be at least 1 and at most 1,000,000,000, not -1",
        ),
        ({"holdout": 2000}, "--holdout must be below 1,437, the training images, not 2,000"),
        ({"label_noise": (1.5,)}, "--label-noise must be at least 0 and below 1, not 1.5"),
        ({"train_images": (1400,), "tune": ("lr",)}, "--train-images must be at most"),
        ({"train_images": (1438,)}, "--train-images must be at most 1,437, not 1,438"),
        ({"budgets": (5000, 50_000)}, "two of 5,000, 50,000 give the same layout-"),
        ({"batch_sizes": (10**9,), "learning_rate": 1e8}, "--learning-rate must be above 0 and"),
        ({"budgets": (100,)}, "too many to stay below the budget"),
        ({"network": "C:4 P P P P P GAP FC", "batch_sizes": (0,)}, "must be at least 1"),
        ({"tune": ("lr",), "images": 9}, "9 training images are too few for --tune: a tenth of"),
    ],
)
def test_invalid_configurations_are_refused(options, problem):
    with pytest.raises(UsageError, match=problem):
        planned(**{"network": LINE} | options)


def test_groups_that_do_not_divide_a_width_are_shown_with_their_block():
    with pytest.raises(UsageError) as caught:
        planned("C:4 P C:6 P GAP FC", groups=(4,))
    problem, line, caret = str(caught.value).splitlines()
    assert "gn=4: 4 groups do not divide 6 channels" in problem
    assert line.strip().startswith("C:4 P C:6")
    assert line[caret.index("^") :].startswith("C:6")


@pytest.mark.parametrize("kept", [None, 8])
def test_batch_norm_of_a_single_value_is_refused_in_advance(kept):
    images = {"images": 8} if kept is None else {"train_images": (kept,)}
    with pytest.raises(UsageError) as caught:
        planned("C:4 P P P P P C:8 GAP FC", norms=("bn",), batch_sizes=(1,), **images)
    problem, line, caret = str(caught.value).splitlines()
    assert "bn cannot be trained on 8 × 1 × 1 and a batch of 1" in problem
    assert line[caret.index("^") :].startswith("C:8")


@pytest.mark.parametrize("batch", [1436, 1293])  # of 1,437 images, of 1,294 in the search
def test_the_last_batch_of_an_epoch_is_checked_for_runs_and_trials(batch):
    line = "C:4 P P P P P C:8 GAP FC"
    with pytest.raises(UsageError, match="a batch of 1, which occurs in every epoch"):
        planned(line, norms=("bn",), batch_sizes=(batch,), tune=("lr",))
    assert planned(line, norms=("bn",), batch_sizes=(1293,))


def test_the_number_of_all_training_images_means_all():
    some, every = planned(norms=("bn",), train_images=(1000, 1437), tune=("lr",))
    assert (some.config.train_images, every.config.train_images) == (1000, None)
    assert (every.name, every.setting.train_images) == ("bn-images1437", 1437)


def test_runs_on_pictures_of_ones_own_have_epochs_by_their_number_of_images():
    study = StudyConfig(network=LINE, dataset="folder:photos", norms=("bn",), holdout=200)
    some, every = plan(
        dataclasses.replace(study, train_images=(1000, 1800)),
        classes=10,
        images=2000,
        shape=(3, 32, 32),
    )
    assert (some.config.recipe, some.recipe.epochs, every.recipe.epochs) == ("own", 60, 34)
    (stated,) = plan(
        dataclasses.replace(study, epochs=5), classes=10, images=2000, shape=(3, 32, 32)
    )
    assert stated.recipe.epochs == 5


def test_untuned_all_normalizations_have_the_same_recipe():
    study = StudyConfig(network="micro")
    recipe_of = {
        untuned: {arm.recipe for arm in plan(own, classes=10, images=50_000, shape=(3, 32, 32))}
        for untuned in (False, True)
        for own in (dataclasses.replace(study, untuned=untuned),)
    }
    assert len(recipe_of[False]) > 1
    assert recipe_of[True] == {recipes.find("micro")}


def test_small_batches_get_a_warning():
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


def test_arms_share_initial_convolutions_and_batches_at_each_seed():
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
        return plan(study, classes=10, images=1437, shape=(1, 32, 32))

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


def test_a_new_axis_changes_nothing_while_it_is_unused(decay_axis):
    (arm,) = decay_axis()
    assert arm.name == "bn"
    given = {"network": LINE, "dataset": "digits", "recipe": "demo", "norm": "bn"}
    assert arm.config == RunConfig(**given, activation="relu", channels="grey")
    assert arm.setting.weight_decay is None
