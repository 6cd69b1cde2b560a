"""From a study's configuration to its arms: what is run, with what settings, paired by seeds."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Annotated, Any, get_type_hints

from normlab import notation, recipes
from normlab.config import Limits, NoiseShare, RunConfig, StudyConfig, TrainingConfig
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network import zoo
from normlab.network.checks import check_trainable, small_batch_warnings
from normlab.network.shapes import count, norms_of
from normlab.network.widths import solve
from normlab.ranges import Positive
from normlab.storage.records import check_settings
from normlab.wording import axis_value


@dataclass(frozen=True, kw_only=True)
class Images:
    """The numbers of training images that a study has.

    Attributes:
        whole: Images that a run can train on.
        searched: Images that a trial of the search can train on: it holds some out.
    """

    whole: int
    searched: int


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A quantity that a study can vary.

    Attributes:
        label: Its name in sentences.
        values: Its values, from the study's configuration.
        spell: A value in an arm's name.
        check: Raises UsageError for a value that makes no sense.
        apply: A run's configuration with a value; the default leaves it as it is.
    """

    label: str
    values: Callable[[StudyConfig], tuple[Any, ...]]
    spell: Callable[[Any], str]
    check: Callable[[Any, Images], None] = lambda *_: None
    apply: Callable[[RunConfig, Any, Images], RunConfig] = lambda config, *_: config


def _apply_batch_size(config: RunConfig, size: int | None, _: Images) -> RunConfig:
    """The learning rate scales with the square root of the batch size."""
    if size is None:
        return config
    recipe = recipes.resolve(config)
    rate = recipe.learning_rate * math.sqrt(size / recipe.batch_size)
    return dataclasses.replace(config, batch_size=size, learning_rate=rate)


def _check_train_images(number: int | None, images: Images) -> None:
    if number is not None and number > images.searched and number != images.whole:
        raise UsageError(f"--train-images must be at most {images.searched:,}, not {number:,}")


def _apply_train_images(config: RunConfig, number: int | None, images: Images) -> RunConfig:
    return dataclasses.replace(config, train_images=None if number == images.whole else number)


def _apply_label_noise(config: RunConfig, share: float, _: Images) -> RunConfig:
    return dataclasses.replace(config, label_noise=share)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the normalizations of one comparison have in common: a value on each axis.

    This is the table of a study's axes: each field is one of them. study.json has its fields in
    this order.
    """

    # Networks and budgets are applied together, by solving the layout's widths.
    network: Annotated[
        str,
        Axis(
            label="network",
            values=lambda study: (study.network, *study.layouts),
            spell=zoo.short_name,
        ),
    ]
    """A name or a layout, as it was asked for."""

    budget: Annotated[
        Positive | None,
        Axis(
            label="budget",
            values=lambda study: study.budgets or (None,),
            spell=str,
        ),
    ]
    """Number of parameters to stay below, or None."""

    batch_size: Annotated[
        Positive | None,
        Axis(
            label="batch size",
            values=lambda study: study.batch_sizes or (None,),
            spell=lambda size: f"batch{size}",
            apply=_apply_batch_size,
        ),
    ]
    """Images per step, or None for each recipe's own."""

    train_images: Annotated[
        Positive | None,
        Axis(
            label="training images",
            values=lambda study: study.train_images or (None,),
            spell=lambda number: f"images{number}",
            check=_check_train_images,
            apply=_apply_train_images,
        ),
    ]
    """Number of training images, or None for all."""

    label_noise: Annotated[
        NoiseShare,
        Axis(
            label="label noise",
            values=lambda study: study.label_noise or (0.0,),
            spell=lambda share: f"noise{share:g}",
            apply=_apply_label_noise,
        ),
    ]
    """Share of wrong training labels, 0 to 1."""

    def text(self, axes: Iterable[str]) -> str:
        """Its values on some axes: `batch size 8, label noise 0.2`."""
        return ", ".join(f"{AXES[axis].label} {axis_value(getattr(self, axis))}" for axis in axes)


def axes_of(setting: type[Setting]) -> dict[str, Axis]:
    """The axes of a class of settings, by the names of its fields."""
    hints = get_type_hints(setting, include_extras=True)
    axes = {
        field: [extra for extra in hint.__metadata__ if isinstance(extra, Axis)]
        for field, hint in hints.items()
    }
    return {field: axis for field, (axis,) in axes.items()}


AXES = axes_of(Setting)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A normalization in a setting: what is repeated with every seed.

    Attributes:
        name: Its unique name, and its folders' name.
        norm: The normalization.
        setting: The setting that it is compared in.
        config: The configuration of its runs, except for the seed.
        recipe: The recipe in force. It is recorded because recipes may change later.
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
        """The arm with other settings of its runs."""
        config = dataclasses.replace(self.config, **settings)
        return dataclasses.replace(self, config=config, recipe=recipes.resolve(config))


def plan(study: StudyConfig, *, classes: int, images: int, shape: Shape) -> list[Arm]:
    """A study's arms, setting by setting.

    Args:
        study: What is compared.
        classes: Number of classes of the data set.
        images: Size of its training split, before any hold-out or subset.
        shape: Shape (C, S, S) of an image.

    Raises:
        UsageError: A normalization is unknown or given twice, a number is out of its range, or
            an arm cannot be built or trained: then with the block.
    """
    check_settings(study)
    compared = _normalizations(study)
    values = {field: axis.values(study) for field, axis in AXES.items()}
    _refuse_repeated_values(values.values())
    _refuse_impossible_search(study)
    available = _available_images(study, images)
    for field, axis in AXES.items():
        for value in values[field]:
            axis.check(value, available)
    lines = _solve_layouts(study, compared, classes, shape)
    arms = []
    for setting, norm, name in _points(values, compared):
        line = lines[setting.network, setting.budget]
        config = _run_config(study, setting, line, norm, compared, available, shape)
        check_settings(config)  # a learning rate that is scaled can become infinite
        recipe = recipes.resolve(config)
        check_trainable(
            notation.parse(line),
            norm=norm,
            classes=classes,
            batches=_batch_sizes(recipe.batch_size, setting.train_images, available),
            shape=shape,
            activation=zoo.activation_of(setting.network, study.activation),
        )
        arms.append(Arm(name=name, norm=norm, setting=setting, config=config, recipe=recipe))
    return arms


def with_recorded_widths(planned: Sequence[Arm], recorded: Sequence[Arm]) -> list[Arm]:
    """Planned arms with the widths that their study was begun with: an older solver had others."""
    return [
        dataclasses.replace(arm, config=dataclasses.replace(arm.config, network=old.config.network))
        if _fills(old.config.network, arm.setting.network)
        else arm
        for arm, old in zip(planned, recorded, strict=True)
    ]


def _fills(solved: str, network: str) -> bool:
    """Whether a layout is that of a network, with any widths where that leaves them open."""
    try:
        filled, blocks = (notation.parse(zoo.find(each)) for each in (solved, network))
    except UsageError:
        return False
    return len(filled) == len(blocks) and all(
        block == (dataclasses.replace(wide, width=None) if block.width is None else wide)
        for wide, block in zip(filled, blocks, strict=True)
    )


def are_planned(arms: Sequence[Arm], study: StudyConfig) -> bool:
    """Whether arms are those of a configuration: their settings, normalizations and names.

    Nothing is imported, built or solved for it: the configuration may be a stranger's.
    """
    values = {field: axis.values(study) for field, axis in AXES.items()}
    compared = _with_groups(study)
    if len(arms) != math.prod(map(len, values.values())) * len(compared):
        return False  # before they are counted out: there may be very many
    points = _points(values, compared)
    return all(
        (arm.setting, arm.norm, arm.config.norm, arm.name) == (setting, norm, norm, name)
        for arm, (setting, norm, name) in zip(arms, points, strict=True)
    )


def _points(
    values: Mapping[str, Sequence[Any]], compared: Sequence[str]
) -> Iterator[tuple[Setting, str, str]]:
    """Setting, normalization and name of each arm."""
    for point in product(*values.values()):
        setting = Setting(**dict(zip(AXES, point, strict=True)))
        for norm in compared:
            yield setting, norm, _arm_name(norm, setting, values)


def held_out(study: StudyConfig, images: int) -> int:
    """How many images the search holds out: as many as the study, else 5,000 or a tenth."""
    return study.holdout or min(5000, images // 10)


def settings(arms: Sequence[Arm]) -> dict[Setting, list[Arm]]:
    """The arms, grouped by their setting."""
    by_setting: dict[Setting, list[Arm]] = {}
    for arm in arms:
        by_setting.setdefault(arm.setting, []).append(arm)
    return by_setting


def varying(compared: Iterable[Setting]) -> list[str]:
    """The axes along which settings differ, by their names in `Setting`."""
    compared = list(compared)
    return [field for field in AXES if len({getattr(s, field) for s in compared}) > 1]


def warnings(arms: Sequence[Arm]) -> Iterator[str]:
    """What to expect of the settings that were asked for."""
    return small_batch_warnings(
        (name, arm.recipe.batch_size)
        for arm in arms
        for name in norms_of(notation.parse(zoo.find(arm.config.network)), arm.norm)
    )


def _with_groups(study: StudyConfig) -> tuple[str, ...]:
    """The normalizations to compare, `gn` replaced by its numbers of groups."""
    compared = study.norms
    if not study.groups or "gn" not in compared:
        return compared
    expanded = [f"gn={groups}" for groups in study.groups]
    at = compared.index("gn")
    return (*compared[:at], *expanded, *compared[at + 1 :])


def _normalizations(study: StudyConfig) -> tuple[str, ...]:
    """The normalizations to compare; UsageError if one is unknown or given twice."""
    if study.groups and "gn" not in study.norms:
        raise UsageError("--groups is for gn: add gn to --norms")
    compared = _with_groups(study)
    for norm in compared:
        entry, _ = norms.find(norm)
        if ":" not in norm and not entry.layer.startswith("normlab."):
            raise UsageError(
                f"{norm} is known to this program only, and each run is a process of its own: "
                "name it module:Class"
            )
        if compared.count(norm) > 1:
            raise UsageError(f"{norm} is given twice: leave one out")
    if not compared:
        raise UsageError("expected one normalization or more after --norms")
    return compared


def _refuse_repeated_values(axes: Iterable[tuple[Any, ...]]) -> None:
    for values in axes:
        if len(set(values)) < len(values):
            raise UsageError(f"a value is given twice: {', '.join(map(str, values))}")


def _refuse_impossible_search(study: StudyConfig) -> None:
    if again := [what for what, after in pairwise(study.tune) if what == after]:
        raise UsageError(f"--tune: {again[0]} after {again[0]} repeats the search: leave one out")
    if "batch-size" in study.tune and study.batch_sizes:
        raise UsageError("--tune batch-size and --batch-sizes exclude each other: leave one out")


def _available_images(study: StudyConfig, images: int) -> Images:
    """The images that runs and trials can train on, of a training split of a size."""
    if study.holdout >= images:
        raise UsageError(
            f"--holdout must be below {images:,}, the training images, not {study.holdout:,}"
        )
    if study.tune and not held_out(study, images):
        raise UsageError(
            f"{images} training images are too few for --tune: a tenth of them is held out to "
            "choose settings by; leave it out, or give --holdout"
        )
    whole = images - study.holdout
    searched = images - held_out(study, images) if study.tune else whole
    return Images(whole=whole, searched=searched)


def _solve_layouts(
    study: StudyConfig, compared: Sequence[str], classes: int, shape: Shape
) -> dict[tuple[str, int | None], str]:
    """The layout of each network under each budget; UsageError if two budgets give the same."""
    networks, budgets = (AXES[axis].values(study) for axis in ("network", "budget"))
    lines = {
        (network, budget): _solve_once(
            network,
            compared,
            classes,
            budget,
            zoo.activation_of(network, study.activation),
            shape,
            study,
        )
        for network, budget in product(networks, budgets)
    }
    for network in networks:
        if len({lines[network, budget] for budget in budgets}) < len(budgets):
            raise UsageError(
                f"--budgets: two of {', '.join(f'{b:,}' for b in budgets)} give the same "
                f"{zoo.short_name(network)}: leave one out, or leave widths open to be solved"
            )
    return lines


def _solve_once(
    network: str,
    compared: Sequence[str],
    classes: int,
    budget: int | None,
    activation: str,
    shape: Shape,
    limits: Limits,
) -> str:
    """The layout for all normalizations: the widest in which each stays within all bounds."""
    blocks = notation.parse(zoo.find(network))
    largest: dict[str, int] = {}
    problem: UsageError | None = None
    solve_for = partial(solve, classes=classes, shape=shape, activation=activation, limits=limits)
    for norm in compared:
        line = solve_for(blocks, norm=norm, budget=budget)
        if notation.format(line) in largest:
            continue
        try:
            for other in compared:
                solve_for(line, norm=other, budget=None)  # it has no open width: it is checked
            largest[notation.format(line)] = max(
                count(line, norm=other, classes=classes, shape=shape, activation=activation)
                for other in compared
            )
        except UsageError as error:  # it exceeds a limit, or its widths are not divisible
            problem = problem or error
    if not largest:
        assert problem is not None
        raise problem
    return min(largest, key=lambda line: largest[line])


def _run_config(
    study: StudyConfig,
    setting: Setting,
    line: str,
    norm: str,
    compared: Sequence[str],
    available: Images,
    shape: Shape,
) -> RunConfig:
    """The configuration of an arm's runs, except for the seed."""
    network = setting.network
    named = notation.format(notation.parse(zoo.find(network))) == line
    recipe = recipes.name_of(RunConfig(network=network, dataset=study.dataset, recipe=study.recipe))
    # Tuned settings for only some of the normalizations would favour these.
    tuned = [recipes.tuned_settings(recipe, other) for other in compared]
    shared = {field.name for field in dataclasses.fields(TrainingConfig)}
    shared -= {field.name for field in dataclasses.fields(Limits)}  # the layout keeps within them
    of_arm = {
        "size": shape[1],
        "channels": "grey" if shape[0] == 1 else "colour",
        "network": network if named else line,
        "norm": norm,
        "activation": zoo.activation_of(network, study.activation),
        "recipe": recipe,
        "untuned": study.untuned or (any(tuned) and None in tuned),
    }
    config = RunConfig(**{name: getattr(study, name) for name in shared} | of_arm)
    for field, axis in AXES.items():
        config = axis.apply(config, getattr(setting, field), available)
    return recipes.with_own_epochs(config, config.train_images or available.whole)


def _arm_name(norm: str, setting: Setting, values: Mapping[str, Sequence[Any]]) -> str:
    """The normalization, and the values of the axes that vary: `gn-batch8-noise0.2`."""
    parts = [
        axis.spell(getattr(setting, field))
        for field, axis in AXES.items()
        if len(values[field]) > 1
    ]
    return "-".join((norm.replace(":", "."), *parts))


def _batch_sizes(batch_size: int, train_images: int | None, available: Images) -> list[int]:
    """The sizes of an epoch's first and last batch, in a run and in a trial of the search."""
    sizes = set()
    for most in (available.whole, available.searched):
        used = min(train_images or most, most)
        sizes |= {min(used, batch_size), used % batch_size}
    return sorted(sizes - {0})
