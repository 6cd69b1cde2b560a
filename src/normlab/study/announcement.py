"""What a study prints before it begins: what will be run, and the estimated time."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console

from normlab.config import StudyConfig
from normlab.network import zoo
from normlab.network.custom import NOT_APPLIED
from normlab.network.shapes import count
from normlab.notation import is_custom, parse
from normlab.runs.machine import busy
from normlab.runs.provenance import Start
from normlab.study import estimate, tuning
from normlab.study.plan import Arm, settings, varying, warnings
from normlab.study.record import Study
from normlab.table import Table
from normlab.training.progress import print_line, recipe_advice
from normlab.wording import counted, estimated_duration, listed


def announce(
    study: Study,
    arms: Sequence[Arm],
    *,
    classes: int,
    estimated_seconds: Mapping[str, float],
    starts: Mapping[str, Start],
    workers: int,
    ray: str | None,
    console: Console,
) -> None:
    """Prints the planned arms, and the time that the remaining runs will take.

    Args:
        study: The study, with its results so far.
        arms: The planned arms.
        classes: Number of classes of the data set.
        estimated_seconds: Time of a whole run, by the arm's name.
        starts: What each arm keeps of the network that it starts from, by the arm's name.
        workers: Number of runs at a time.
        ray: As in `compare`.
        console: Where to print.
    """
    for warning in warnings(arms):
        print_line(f"warning: {warning}", console)
    first = arms[0]
    if advice := recipe_advice(study.config.dataset, first.config.recipe, first.recipe):
        print_line(f"note: {advice}", console)
    by_setting = settings(arms)
    axes = varying(by_setting)
    previous = ""
    for setting, compared in by_setting.items():
        config = compared[0].config
        line = zoo.find(config.network)
        if line != previous:
            print_line(line, console)
            if is_custom(line):
                print_line(f"note: {line} {NOT_APPLIED}", console)
        previous = line
        caption = [study.config.dataset, f"recipe {config.recipe}"]
        caption += [setting.text(axes)] if axes else []
        caption += [f"taught by {study.config.teacher}"] if study.config.teacher else []
        caption += [f"started from {study.config.start_from}"] if study.config.start_from else []
        caption += ["balanced"] if study.config.balance else []
        caption += [counted(study.config.seeds, "seed")]
        rows = [
            _row(arm, line, classes, study.config, estimated_seconds[arm.name]) for arm in compared
        ]
        console.print(
            Table(
                caption=", ".join(caption),
                head=("norm", "parameters", "epochs", "batch", "rate", "decay", "time per run"),
                kinds=("name", *["number"] * 6),
                rows=rows,
            ),
            crop=False,
        )
    for start, names in _by_start(starts).items():
        print_line(
            f"{listed(names)}: {start.kept:,} parameters of {start.name} ({start.note})", console
        )
    if study.earlier_seeds:
        print_line(
            f"note: {study.config.seeds} seeds, planned with {study.earlier_seeds[0]}: the page "
            f"says so, and tests are over {study.tested_seeds}",
            console,
        )
    console.print(_total(study, arms, estimated_seconds, workers, ray), highlight=False)
    for note in _notes(study, arms, estimated_seconds):
        print_line(f"note: {note}", console)
    if console.is_terminal and ray is None and (hint := busy()):
        print_line(f"note: {hint}", console)


def _by_start(starts: Mapping[str, Start]) -> dict[Start, list[str]]:
    """The arms that keep the same of their start."""
    arms: dict[Start, list[str]] = {}
    for name, start in starts.items():
        arms.setdefault(start, []).append(name)
    return arms


def _row(arm: Arm, line: str, classes: int, config: StudyConfig, seconds: float) -> tuple[str, ...]:
    searched = dict.fromkeys(tuning.fields(config), "searched")
    return (
        arm.norm,
        f"{_parameters(arm, line, classes):,}",
        str(arm.recipe.epochs),
        searched.get("batch_size", str(arm.recipe.batch_size)),
        searched.get("learning_rate", f"{arm.recipe.learning_rate:.4g}"),
        searched.get("weight_decay", f"{arm.recipe.weight_decay:.4g}"),
        estimated_duration(seconds),
    )


def _parameters(arm: Arm, line: str, classes: int) -> int:
    activation = zoo.activation_of(line, arm.config.activation)
    return count(
        parse(line),
        norm=arm.norm,
        classes=classes,
        shape=arm.config.shape,
        activation=activation,
    )


def _total(
    study: Study,
    arms: Sequence[Arm],
    estimated_seconds: Mapping[str, float],
    workers: int,
    ray: str | None,
) -> str:
    """How many runs there are, and the time of those that remain."""
    runs = counted(len(study.results), "run")
    remaining = [estimated_seconds[r.arm] for r in study.results if r.state != "done"]
    if not remaining:
        return f"{runs}, all of them done"
    done = len(study.results) - len(remaining)
    trials = [
        seconds
        for arm in _to_search(study, arms)
        for seconds in _trial_seconds(study, arm, estimated_seconds[arm.name])
    ]
    if ray in (None, "local"):
        where = f"{workers} at a time"
        time = estimated_duration(estimate.total([*trials, *remaining], workers))
    else:  # the number of cores is not known yet
        where, time = "on Ray", f"{estimated_duration(sum([*trials, *remaining]))} of one core"
    return (
        f"{runs}{f', {done} of them done' if done else ''}"
        f"{f', after {len(trials)} of a search' if trials else ''}, {where}: about {time}"
    )


def _to_search(study: Study, arms: Sequence[Arm]) -> list[Arm]:
    """The arms whose settings are still to be found."""
    return [a for a in arms if not tuning.is_searched(study.trials, a.name, study.config)]


def _trial_seconds(study: Study, arm: Arm, whole_run: float) -> list[float]:
    """The time of each trial that an arm's search still needs, without extensions."""
    config, epochs = study.config, arm.recipe.epochs
    seconds = []
    for of in tuning.rounds(config):
        planned: list[float] = []
        values = len(tuning.grid(of, config, arm))
        lengths = [tuning.rung_epochs(epochs, rung) for rung in of.rungs]
        for place, (rung, length) in enumerate(zip(of.rungs, lengths, strict=True)):
            if length not in lengths[:place]:  # else these are the runs of the previous rung
                number = tuning.kept(values, rung) if place else values
                each = estimate.part(whole_run, length, epochs)
                planned += [each] * number * config.tune_seeds
        trials = tuning.in_round(study.trials, arm.name, of)
        done = {(trial.value, trial.epochs, trial.seed) for trial in trials}
        seconds += planned[len(done) :]  # extensions come after all that were planned
    return seconds


def _notes(
    study: Study, arms: Sequence[Arm], estimated_seconds: Mapping[str, float]
) -> Iterator[str]:
    """What may make the search longer than estimated."""
    config, searched = study.config, _to_search(study, arms)
    if searched and any(tuning.KNOBS[what].ordered for what in config.tune):
        values = tuning.BEYOND * config.tune_seeds
        time = estimated_duration(values * sum(estimated_seconds[arm.name] for arm in searched))
        yield (
            "where a normalization is best at the smallest or the largest value of a search, all "
            f"try {counted(tuning.BEYOND, 'value')} beyond it, {tuning.EXTENSIONS} times at most: "
            f"each time {counted(values * len(searched), 'run')} more, about {time} of one core"
        )
    if searched and "batch-size" in config.tune:
        yield "the time is that of the recipe's batch size: runs with smaller batches take longer"
