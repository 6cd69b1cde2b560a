import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normlab import RunConfig
from normlab.data.augment import STEPS
from normlab.errors import UsageError
from normlab.recipes import (
    RECIPES,
    Recipe,
    find,
    name_of,
    own_epochs,
    resolve,
    with_own_epochs,
)
from normlab.storage.records import check_settings

CONFIG = RunConfig(network="c GAP", dataset="digits", recipe="seed")


def test_the_step_schedule_is_the_published_one():
    rates = [RECIPES["seed"].learning_rate_at(step, 782) for step in range(0, 20 * 782, 782)]
    expected = [0.01] * 6 + [0.002] * 6 + [0.0004] * 6 + [0.00008] * 2
    np.testing.assert_allclose(rates, expected)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.2)
    for rate in rates:
        assert rate == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_the_step_schedule_keeps_its_rate_within_an_epoch():
    recipe = RECIPES["seed"]
    assert recipe.learning_rate_at(6 * 782 - 1, 782) == recipe.learning_rate
    assert recipe.learning_rate_at(6 * 782, 782) == pytest.approx(0.2 * recipe.learning_rate)


def test_one_cycle_rises_for_a_quarter_and_falls_to_zero():
    recipe = Recipe(epochs=4, batch_size=1, learning_rate=0.4, schedule="one-cycle")
    rates = [recipe.learning_rate_at(step, 100) for step in range(400)]
    assert max(rates) == pytest.approx(0.4, rel=0.01)
    assert abs(int(np.argmax(rates)) - 100) <= 1
    assert 0 < rates[0] < 0.005
    assert 0 < rates[-1] < 0.002
    assert np.all(np.diff(rates[:100]) > 0)
    assert np.all(np.diff(rates[101:]) < 0)


@given(
    epochs=st.integers(1, 30),
    steps=st.integers(1, 50),
    peak=st.floats(1e-6, 1e3),
    schedule=st.sampled_from(["step", "one-cycle"]),
)
def test_every_rate_is_above_0_and_at_most_the_peak(epochs, steps, peak, schedule):
    recipe = Recipe(epochs=epochs, batch_size=1, learning_rate=peak, schedule=schedule)
    for step in range(epochs * steps):
        assert 0 < recipe.learning_rate_at(step, steps) <= peak


def test_settings_of_the_configuration_override_the_recipe():
    recipe = resolve(dataclasses.replace(CONFIG, epochs=7, batch_size=5, learning_rate=0.5))
    expected = {"epochs": 7, "batch_size": 5, "learning_rate": 0.5}
    assert recipe == dataclasses.replace(RECIPES["seed"], **expected)


@pytest.mark.parametrize("name", RECIPES)
def test_without_settings_the_recipe_is_the_named_one(name):
    config = dataclasses.replace(CONFIG, recipe=name, norm="none")  # for which nothing is tuned
    assert resolve(config) == find(name) == RECIPES[name]


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_the_named_recipes_are_valid(recipe):
    assert set(recipe.augment) <= set(STEPS)
    assert recipe.epochs > 0
    assert recipe.batch_size > 0
    assert recipe.learning_rate > 0
    assert recipe.weight_decay >= 0
    for share in (recipe.dropout, recipe.label_smoothing, recipe.momentum):
        assert 0 <= share < 1


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_weight_decay_may_be_0(value):
    assert resolve(dataclasses.replace(CONFIG, weight_decay=value)).weight_decay == value


def test_an_unknown_recipe_gets_the_list_of_recipes():
    names = ", ".join(RECIPES)
    hint = r"; did you mean seed\?"
    with pytest.raises(UsageError, match=rf"^no recipe 'sede': there are {names}{hint}$"):
        find("sede")
    with pytest.raises(UsageError, match=rf"^no recipe 'x': there are {names}$"):
        find("x")


def test_a_network_with_its_own_recipe_uses_it():
    assert name_of(RunConfig(network="sprint")) == "sprint"
    assert name_of(RunConfig(network="sprint", recipe="seed")) == "seed"
    assert name_of(RunConfig(network="seed-bn")) == "seed"
    assert resolve(RunConfig(network="sprint")) == RECIPES["sprint"]


@pytest.mark.parametrize("dataset", ["folder:photos", "npz:digits.npz", "hf:zalando/fashion_mnist"])
def test_pictures_of_ones_own_have_the_recipe_own(dataset):
    for network in ("nano", "C:4 GAP FC"):
        assert name_of(RunConfig(network=network, dataset=dataset)) == "own"
        assert name_of(RunConfig(network=network, dataset=dataset, recipe="seed")) == "seed"
    assert name_of(RunConfig(network="C:4 GAP FC", dataset="cifar100")) == "seed"


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(1, 200), (300, 200), (301, 200), (302, 199), (1000, 60), (3000, 20), (10**6, 20)],
)
def test_own_shows_60_000_images_in_20_to_200_epochs(images, epochs):
    assert own_epochs(images) == epochs
    config = RunConfig(network="nano", dataset="folder:photos")
    stated = with_own_epochs(config, images)
    assert stated.epochs == resolve(stated).epochs == epochs
    for other in ({"epochs": 3}, {"recipe": "seed"}):
        unchanged = dataclasses.replace(config, **other)
        assert with_own_epochs(unchanged, images) == unchanged


def test_tuned_settings_apply_unless_the_configuration_overrides_them(monkeypatch):
    tuned = {("sprint", "gn"): {"learning_rate": 0.125, "weight_decay": 0.25}}
    monkeypatch.setattr("normlab.recipes.TUNED", tuned)
    recipe = resolve(RunConfig(network="sprint", norm="gn=2", weight_decay=0.0))
    assert (recipe.learning_rate, recipe.weight_decay) == (0.125, 0.0)
    assert resolve(RunConfig(network="sprint", norm="ln")) == RECIPES["sprint"]
    assert resolve(RunConfig(network="seed-bn", norm="gn")) == RECIPES["seed"]


def test_a_run_may_state_the_settings_that_a_search_finds():
    config = RunConfig(network="micro", muon=0.0, label_smoothing=0.0, augment=())
    recipe = resolve(config)
    assert (recipe.muon, recipe.label_smoothing, recipe.augment) == (0.0, 0.0, ())
    plain = resolve(RunConfig(network="micro"))
    assert (plain.muon, plain.label_smoothing, plain.augment) == (0.05, 0.1, ("shift",))
    for stated, problem in [
        ({"muon": -1.0}, "--muon must be at least 0 and at most 1,000,000,000, not -1.0"),
        ({"learning_rate": 1e10}, "--learning-rate must be above 0 and at most 1,000,000,000, not"),
        ({"label_smoothing": 1.5}, "--label-smoothing must be at least 0 and at most 1, not 1.5"),
        ({"augment": ("flip",)}, "--augment must be .*color-jitter.*, not .'flip'"),
    ]:
        with pytest.raises(UsageError, match=problem):
            check_settings(RunConfig(network="micro", **stated))
