"""From a study's configuration to its arms: what is run, with what settings, paired by seeds."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from normlab import notation, recipes
from normlab.config import RunConfig, StudyConfig
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.network import zoo
from normlab.network.checks import check_trainable, small_batch_warnings
from normlab.network.shapes import count, norms_of
from normlab.network.widths import solve
from normlab.wording import axis_value

AXES = {
    "network": "network",
    "budget": "budget",
    "batch_size": "batch size",
    "train_images": "training images",
    "label_noise": "label noise",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the normalizations that are compared with one another have in common.

    Attributes:
        network: A name or a layout, as it was asked for.
        budget: Parameters to stay below, or None.
        batch_size: Images a step, or None for each one's recipe's.
        train_images: Training images, or None for all.
        label_noise: Share of wrong training labels.
    """

    network: str
    budget: int | None
    batch_size: int | None
    train_images: int | None
    label_noise: float

    def text(self, axes: Iterable[str]) -> str:
        """What it is along some axes: `batch size 8, label noise 0.2`."""
        return ", ".join(f"{AXES[axis]} {axis_value(getattr(self, axis))}" for axis in axes)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A normalization in a setting: what is repeated with every seed.

    Attributes:
        name: Tells the arms apart; of a folder.
        norm: The normalization.
        setting: What it is compared in.
        config: Of its runs, but for the seed.
        recipe: What that comes to: recipes may change after a study was made.
    """

    name: str
    norm: str
    setting: Setting
    config: RunConfig
    recipe: recipes.Recipe

    def run_config(self, seed: int) -> RunConfig:
        """The configuration of its run with a seed."""
        return dataclasses.replace(self.config, seed=seed)

    def with_settings(self, settings: Mapping[str, Any]) -> "Arm":
        """The same with other settings of its runs."""
        config = dataclasses.replace(self.config, **settings)
        return dataclasses.replace(self, config=config, recipe=recipes.resolve(config))


def held_out(study: StudyConfig, images: int) -> int:
    """How many images the search holds out: as many as the study, else 5,000 or a tenth."""
    return study.holdout or min(5000, images // 10)


def plan(study: StudyConfig, *, classes: int, images: int) -> list[Arm]:
    """A study's arms, setting by setting.

    Args:
        study: What is compared.
        classes: Of the data set.
        images: Of its training split, before any is held out or left aside.

    Raises:
        UsageError: A normalization is unknown or given twice, a number makes no sense, or an arm
            could not be built or trained: with the block.
    """
    if study.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, not {study.seeds}")
    compared = _norms(study)
    networks = (study.network, *study.layouts)
    axes = (
        networks,
        study.budgets or (None,),
        study.batch_sizes or (None,),
        study.train_images or (None,),
        study.label_noise or (0.0,),
    )
    for values in (*axes, study.tune):
        if len(set(values)) < len(values):
            raise UsageError(f"a value is given twice: {', '.join(map(str, values))}")
    if not 0 <= study.holdout < images:
        raise UsageError(
            f"--holdout must be 0 or more and below {images:,}, the training images, not "
            f"{study.holdout:,}"
        )
    for size in study.batch_sizes:
        if size < 1:
            raise UsageError(f"--batch-sizes must be above 0, not {size}")
    whole = images - study.holdout
    searched = images - held_out(study, images) if study.tune else whole
    for number in study.train_images:
        if not (0 < number <= searched or number == whole):
            raise UsageError(
                f"--train-images must be above 0 and at most {searched:,}, not {number:,}"
            )
    for share in study.label_noise:
        if not 0 <= share < 1:
            raise UsageError(f"--label-noise must be 0 or more and below 1, not {share}")
    lines = {
        (network, budget): _solve_once(network, compared, classes, budget)
        for network, budget in product(networks, axes[1])
    }
    for network in networks:
        if len({lines[network, budget] for budget in axes[1]}) < len(axes[1]):
            raise UsageError(
                f"--budgets: two of {', '.join(f'{b:,}' for b in study.budgets)} give the same "
                f"{zoo.short_name(network)}: leave one out, or leave widths open to be solved"
            )
    arms = []
    for network, budget, batch, kept, noise in product(*axes):
        solved = lines[network, budget]
        own = zoo.find(network)
        line = network if notation.format(notation.parse(own)) == solved else solved
        recipe_name = recipes.name_of(RunConfig(network=network, recipe=study.recipe))
        values_named = (
            zoo.short_name(network),
            str(budget),
            f"batch{batch}",
            f"images{kept}",
            f"noise{noise:g}",
        )
        varying = [name for name, own in zip(values_named, axes, strict=True) if len(own) > 1]
        # What was found for some of the normalizations alone would favour them.
        found = [recipes.tuned_settings(recipe_name, norm) for norm in compared]
        for norm in compared:
            config = RunConfig(
                dataset=study.dataset,
                holdout=study.holdout,
                split_seed=study.split_seed,
                skip_unreadable=study.skip_unreadable,
                network=line,
                norm=norm,
                recipe=recipe_name,
                untuned=study.untuned or (any(found) and None in found),
                epochs=study.epochs,
                learning_rate=study.learning_rate,
                weight_decay=study.weight_decay,
                train_images=None if kept == whole else kept,
                label_noise=noise,
                precision=study.precision,
            )
            recipe = recipes.resolve(config)
            if batch is not None:
                rate = recipe.learning_rate * math.sqrt(batch / recipe.batch_size)
                config = dataclasses.replace(config, batch_size=batch, learning_rate=rate)
                recipe = recipes.resolve(config)
            batches = {
                size
                for most in (whole, searched)
                for used in (min(kept or most, most),)
                for size in (min(used, recipe.batch_size), used % recipe.batch_size)
            }
            check_trainable(
                notation.parse(solved), norm=norm, classes=classes, batches=sorted(batches - {0})
            )
            arms.append(
                Arm(
                    name="-".join((norm.replace(":", "."), *varying)),
                    norm=norm,
                    setting=Setting(
                        network=network,
                        budget=budget,
                        batch_size=batch,
                        train_images=kept,
                        label_noise=noise,
                    ),
                    config=config,
                    recipe=recipe,
                )
            )
    return arms


def settings(arms: Sequence[Arm]) -> dict[Setting, list[Arm]]:
    """The arms by what they are compared in."""
    by_setting: dict[Setting, list[Arm]] = {}
    for arm in arms:
        by_setting.setdefault(arm.setting, []).append(arm)
    return by_setting


def varying(compared: Iterable[Setting]) -> list[str]:
    """The axes along which settings differ, by their names in `Setting`."""
    own = list(compared)
    return [name for name in AXES if len({getattr(setting, name) for setting in own}) > 1]


def warnings(arms: Sequence[Arm]) -> Iterator[str]:
    """What to expect of the settings that were asked for."""
    return small_batch_warnings(
        (name, arm.recipe.batch_size)
        for arm in arms
        for name in norms_of(notation.parse(zoo.find(arm.config.network)), arm.norm)
    )


def _norms(study: StudyConfig) -> tuple[str, ...]:
    compared = study.norms
    if study.groups:
        if "gn" not in compared:
            raise UsageError("--groups are gn's: add gn to --norms")
        expanded = [f"gn={groups}" for groups in study.groups]
        at = compared.index("gn")
        compared = (*compared[:at], *expanded, *compared[at + 1 :])
    for norm in compared:
        entry, _ = norms.find(norm)
        if ":" not in norm and not entry.layer.startswith("normlab."):
            raise UsageError(
                f"{norm} is known to this program alone, and each run is a process of its own: "
                "name it module:Class"
            )
        if compared.count(norm) > 1:
            raise UsageError(f"{norm} is given twice: leave one out")
    if not compared:
        raise UsageError("expected one normalization or more after --norms")
    return compared


def _solve_once(network: str, compared: Sequence[str], classes: int, budget: int | None) -> str:
    """The layout that all normalizations get: the widest in which each stays below the budget."""
    blocks = notation.parse(zoo.find(network))
    largest: dict[str, int] = {}
    problem: UsageError | None = None
    for norm in compared:
        line = solve(blocks, norm=norm, classes=classes, budget=budget)
        try:
            largest[notation.format(line)] = max(
                count(line, norm=other, classes=classes) for other in compared
            )
        except UsageError as error:  # its groups do not divide these widths
            problem = problem or error
    if not largest:
        assert problem is not None
        raise problem
    return min(largest, key=lambda line: largest[line])
