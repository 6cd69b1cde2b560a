"""The page about a study: the answer first, then what it rests on."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from normlab import notation
from normlab.data import Dataset, apply_splits, load_for
from normlab.errors import RunError
from normlab.findings import statistics
from normlab.findings import study as findings
from normlab.findings.study import Group
from normlab.network.shapes import count
from normlab.recipes import Recipe
from normlab.report import plots, study_plots
from normlab.report.figures import FigureSet, picture
from normlab.report.html import Picture, fill
from normlab.runs.run import Run
from normlab.storage.files import write_atomically
from normlab.study import predictions, tuning
from normlab.study.plan import AXES, Arm, Setting, settings, varying
from normlab.study.predictions import Predictions
from normlab.study.record import Study
from normlab.table import Table
from normlab.wording import (
    counted,
    estimated_duration,
    p_cell,
    p_value,
    percent,
    probability,
    signed_points,
    spaced,
    span,
)

Pooled = tuple[NDArray[np.float32], NDArray[np.bool_]]  # confidences, whether they are right

DISAGREEMENTS = 12
PAIRS = 45  # a forest of more cannot be read


def write_study_report(study: Study, *, data_root: Path | None = None, images: bool = True) -> Path:
    """Writes a study's page, `report.html` in its folder, and its figures as PNG, in `figures/`.

    Args:
        study: With at least one finished run.
        data_root: Where the data lies, as in `Execution`.
        images: Whether the page shows pictures of the data; else the data is not read.

    Returns:
        The page's path.

    Raises:
        RunError: No run is finished, or what a run has left is damaged.
        DataError: The data is not there.
        NormlabError: A file cannot be written.
    """
    dataset = None
    if images:
        config = study.config
        dataset = load_for(config, data_root)
        if dataset.fingerprint != study.fingerprint:
            raise RunError(
                f"{config.dataset} as found has fingerprint {dataset.fingerprint[:12]}…, the study "
                f"{study.path} was made on {study.fingerprint[:12]}…: give its own data"
            )
        dataset = apply_splits(dataset, study.arms[0].config)
    page, drawn = study.path / "report.html", FigureSet()
    write_atomically(page, render(study, dataset, drawn))
    for name, figure in drawn.items():
        plots.save(figure, study.path / "figures" / f"{name}.png")
    return page


def render(study: Study, dataset: Dataset | None, drawn: FigureSet | None = None) -> str:
    """The page as HTML, in one file that opens from disk.

    Args:
        study: With at least one finished run.
        dataset: Divided as its runs want it; None leaves pictures out.
        drawn: Gets the page's figures.
    """
    drawn = FigureSet() if drawn is None else drawn
    found = findings.groups(study)
    main = findings.main_group(found)
    axes = varying(settings(study.arms))
    runs = [Run.open(study.folder(result)) for arm in main.arms for result in study.of(arm)]
    classes = runs[0].data.classes
    given = {arm.norm: _answers(study, arm) for arm in main.arms}
    pooled = {norm: _pooled(own) for norm, own in given.items()}
    return fill(
        "study.html",
        title=f"{counted(len(main.arms), 'normalization')} on {main.setting.network}",
        about=_about(study),
        headline=findings.headline(study, found),
        main_setting=main.setting.text(axes),
        table=_table(study, [main], ()),
        every_setting=_table(study, found, axes) if axes else None,
        findings=findings.further(study, found),
        curves=drawn.inline(
            study_plots.curves(study, main), "curves", _curves_alt(main, study.images)
        ),
        curves_note="Lines: means over the seeds. Bands: from the lowest seed to the highest."
        if main.seeds > 1
        else "One run each.",
        axes=[
            {
                "name": AXES[axis].label,
                "figure": drawn.inline(
                    study_plots.against(line, axis),
                    axis.replace("_", "-"),
                    _axis_alt(line, axis, study.images),
                ),
                "caption": _axis_note(line, [other for other in axes if other != axis]),
            }
            for axis in axes
            if len(line := findings.along(found, axis)) > 1
        ],
        forest=_forest(main, study.images, drawn),
        searches=[
            _search(study, setting, arms, what, axes, drawn)
            for what in study.config.tune
            for setting, arms in settings(study.arms).items()
            if any(t.what == what and t.arm in {arm.name for arm in arms} for t in study.trials)
        ],
        classes=drawn.inline(
            study_plots.class_accuracy(_class_shares(given, len(classes)), classes),
            "classes",
            _classes_alt(given, classes),
        ),
        disagreements=_disagreements(given, classes, dataset),
        disagreement_note=_disagreement_note(given) if len(given) > 1 else "",
        single=_single(main, given) if main.seeds == 1 else [],
        calibration=_calibration(pooled),
        reliability=drawn.inline(
            study_plots.reliability(pooled), "reliability", _reliability_alt(pooled)
        ),
        settings=_settings(study, main, runs),
        runs=_runs(study),
    )


def _about(study: Study) -> str:
    done = sum(result.state == "done" for result in study.results)
    held = "held-out" if study.config.holdout else "test"
    return (
        f"{counted(done, 'run')} on {study.config.dataset}, "
        f"{counted(study.config.seeds, 'seed')}, accuracy on "
        f"{study.images:,} {held} images after the last epoch."
    )


def _answers(study: Study, arm: Arm) -> list[Predictions]:
    return [predictions.read(study.folder(result) / "answers.npz") for result in study.of(arm)]


def _table(study: Study, found: Sequence[Group], axes: Sequence[str]) -> Table:
    rows = []
    for group in found:
        for arm, mean in group.ranked:
            results = study.of(arm)
            costs = [study.costs[f"{r.arm}-{r.seed}"] for r in results]
            each = [c.seconds / len(r.accuracies) for r, c in zip(results, costs, strict=True)]
            passed = [findings.passed_epoch(result) for result in results]
            known = [epoch for epoch in passed if epoch is not None]
            half = mean.high - mean.value
            memory = max(c.peak_memory for c in costs)
            rows.append(
                (
                    arm.norm,
                    *([group.setting.text(axes)] if axes else []),
                    percent(mean.value, study.images),
                    f"± {100 * half:.2f}" if np.isfinite(half) else "–",
                    str(len(results)),
                    f"{results[0].parameters:,}",
                    _span(each),
                    f"{memory / 2**20:,.0f} MiB" if memory else "–",
                    f"{median(known):g}"
                    if len(known) == len(passed)
                    else "not all"
                    if known
                    else "never",
                )
            )
    return Table(
        caption="Accuracy: mean over the seeds and its 95% interval. An epoch: from the quickest "
        "run to the slowest, beside other work or not; where processors differ (see the settings) "
        "times do not compare. Memory: the most that a run's process held. Last column: median "
        "epoch that first passed 70%.",
        head=(
            *("norm", *(["setting"] if axes else []), "accuracy", "95%", "seeds", "parameters"),
            *("an epoch", "memory", "over 70%"),
        ),
        kinds=("name", *(["plain"] if axes else []), *["number"] * 7),
        rows=rows,
    )


def _span(seconds: Sequence[float]) -> str:
    """From the quickest run to the slowest: `20.1 to 34.5 s`."""
    return f"{span(*(f'{end(seconds):.1f}' for end in (min, max)))} s"


def _curves_alt(main: Group, images: int) -> str:
    ends = ", ".join(f"{arm.norm} {percent(mean.value, images)}" for arm, mean in main.ranked)
    return f"Mean accuracy by epoch, with the range of the seeds. It ends at: {ends}."


def _axis_alt(line: Sequence[Group], axis: str, images: int) -> str:
    said = []
    for group in line:
        arm, mean = group.ranked[0]
        where = group.setting.text([axis])
        said.append(f"at {where} {arm.norm} is highest with {percent(mean.value, images)}")
    return f"Accuracy against {AXES[axis].label}: {'; '.join(said)}."


def _axis_note(line: Sequence[Group], others: Sequence[str]) -> str:
    """What the marks are, and where on the other axes."""
    marks = "Means and their 95% intervals" if any(g.seeds > 1 for g in line) else "One run each"
    where = f", with {line[0].setting.text(others)}" if others else ""
    return f"{marks}{where}."


def _forest(main: Group, images: int, drawn: FigureSet) -> dict[str, object] | None:
    """The differences of all pairs, the better arm first; None where there are none."""
    order = [arm for arm, _ in main.ranked]
    found = [main.better_first(a, b) for k, a in enumerate(order) for b in order[k + 1 :]]
    compared = [d for d in found if d is not None and len(d.differences) > 1]
    differences = compared[:PAIRS]
    if main.seeds < 2 or not differences:
        return None
    names = {arm.name: arm.norm for arm in order}
    shown = [d for d in differences if d.shown]
    alt = f"Paired differences: {len(shown)} of {len(differences)} pairs are shown to differ"
    if shown:
        alt += ": " + ", ".join(f"{names[d.first]} above {names[d.second]}" for d in shown)
    permuted = any(d.p_permutation is not None for d in differences)
    every = len(compared)
    pairs_shown = "All pairs." if every <= PAIRS else f"The first {PAIRS} of {every} pairs."
    return {
        "figure": drawn.inline(study_plots.forest(differences, names), "forest", f"{alt}."),
        "table": Table(
            caption=f"{pairs_shown} p, Holm, is corrected for all pairs of the study, "
            f"{'p and p, permutation, are' if permuted else 'p is'} not. Wins: the probability "
            "that the first is above the second with a new seed, and its 95% interval (Bouthillier "
            "et al. 2021).",
            head=(
                *("pair", "difference", "95% interval", "p", "p, Holm"),
                *(["p, permutation"] if permuted else []),
                "wins",
            ),
            kinds=("plain", *["number"] * (5 + permuted)),
            rows=[
                (
                    f"{names[d.first]} − {names[d.second]}",
                    signed_points(d.mean.value, images),
                    findings.interval(d.mean, images).removeprefix("95% interval "),
                    p_cell(d.p),
                    p_cell(d.p_holm),
                    *([p_cell(d.p_permutation)] if permuted else []),
                    "unknown"
                    if math.isinf(d.mean.high)
                    else f"{probability(d.wins.value)} ({probability(d.wins.low)} to "
                    f"{probability(d.wins.high)})",
                )
                for d in differences
            ],
        ),
    }


def _search(
    study: Study,
    setting: Setting,
    arms: Sequence[Arm],
    what: tuning.What,
    axes: Sequence[str],
    drawn: FigureSet,
) -> dict[str, object]:
    """Every trial of a setting's arms."""
    name = spaced(tuning.FIELDS[what])
    where = f" at {setting.text(axes)}" if axes else ""
    best = [
        f"{arm.norm} {found.value:.3g}" if found else f"{arm.norm} none"
        for arm in arms
        for found in (tuning.best(study.trials, arm.name, what),)
    ]
    own = [t for t in study.trials if t.what == what and t.arm in {arm.name for arm in arms}]
    lengths = sorted({trial.epochs for trial in own})
    caption = f"Every trial, of {counted(lengths[0], 'epoch')}."
    if lengths[1:]:
        caption += (
            " The better half of the values went on, in a thicker line, to runs of "
            f"{' and of '.join(map(str, lengths[1:]))}."
        )
    lost = sum(trial.accuracy is None for trial in own)
    crosses = (
        f" Crosses at the lower edge: {lost} of {len(own)} trials, whose loss was not finite."
        if lost
        else ""
    )
    return {
        "name": f"{name}{where}",
        "figure": drawn.inline(
            study_plots.search(study.trials, arms, what),
            f"search-{what}{arms[0].name.removeprefix(arms[0].norm.replace(':', '.'))}",
            f"Search of the {name}{where}; best: {', '.join(best)}.{crosses}",
        ),
        "caption": caption + crosses,
    }


def _class_shares(
    given: dict[str, list[Predictions]], classes: int
) -> dict[str, NDArray[np.float64]]:
    """By the normalization, the accuracy of each class, the mean over the seeds."""
    shares = {}
    for norm, own in given.items():
        images = np.bincount(own[0].labels, minlength=classes)
        hits = [np.bincount(a.labels, weights=a.right, minlength=classes) for a in own]
        with np.errstate(invalid="ignore"):
            shares[norm] = np.mean(hits, axis=0) / images
    return shares


def _classes_alt(given: dict[str, list[Predictions]], classes: Sequence[str]) -> str:
    shares = _class_shares(given, len(classes))
    spread = np.ptp(np.stack([*shares.values()]), axis=0)
    widest = int(np.nanargmax(spread))
    ends = ", ".join(f"{norm} {share[widest]:.0%}" for norm, share in shares.items())
    return f"Accuracy of each class; the normalizations differ most on {classes[widest]}: {ends}."


def _disagreements(
    given: dict[str, list[Predictions]], classes: Sequence[str], dataset: Dataset | None
) -> list[Picture] | None:
    """The images on which the normalizations differ most; None where pictures are left out."""
    if dataset is None:
        return None
    split = dataset.test if dataset.holdout is None else dataset.holdout
    shares = {norm: np.mean([a.right for a in own], axis=0) for norm, own in given.items()}
    spread = np.ptp(np.stack([*shares.values()]), axis=0)
    places = [int(k) for k in np.argsort(-spread, kind="stable")[:DISAGREEMENTS] if spread[k] > 0]
    pictures = []
    for place in places:
        true = classes[split.labels[place]]
        lines = [f"{norm} {share[place]:.0%}" for norm, share in shares.items()]
        pictures.append(
            Picture(
                picture(split.images[place]),
                alt=f"{true}; right answers: {', '.join(lines)}",
                title=true,
                lines=lines,
            )
        )
    return pictures


def _disagreement_note(given: dict[str, list[Predictions]]) -> str:
    """How many images a normalization alone answers rightly, with most of its seeds."""
    mostly = {norm: np.mean([a.right for a in own], axis=0) > 0.5 for norm, own in given.items()}
    total = len(next(iter(mostly.values())))
    stacked = np.stack([*mostly.values()])
    every, nowhere = int(stacked.all(axis=0).sum()), int((~stacked).all(axis=0).sum())
    parts = []
    for norm, own in mostly.items():
        others = [other for name, other in mostly.items() if name != norm]
        alone = int((own & ~np.any(others, axis=0)).sum())
        parts.append(f"{norm} alone {alone:,}")
    return (
        f"Of {total:,} images {every:,} are answered rightly with every normalization (by most of "
        f"its seeds), {nowhere:,} with not one of them; by {', '.join(parts)}."
    )


def _single(main: Group, given: dict[str, list[Predictions]]) -> list[str]:
    """Of one network of each normalization: whether they answer equally well (McNemar's test).

    Those of different seeds are not compared: each has had other luck.
    """
    said = []
    for one, other in combinations(main.arms, 2):
        if main.accuracies[one.name].keys() != main.accuracies[other.name].keys():
            continue
        (first,), (second,) = given[one.norm], given[other.norm]
        only_first = int((first.right & ~second.right).sum())
        only_second = int((second.right & ~first.right).sum())
        p = statistics.mcnemar(only_first, only_second)
        said.append(
            f"{one.norm} alone answers {only_first:,} images rightly, {other.norm} alone "
            f"{only_second:,} (McNemar's test, {p_value(p)}). That is of these two "
            "networks: another seed makes others."
        )
    if len(said) > 1:
        said.append(f"These {len(said)} p-values are not corrected for their number.")
    return said


def _pooled(own: Sequence[Predictions]) -> Pooled:
    """The confidence in every answer, all seeds together, and whether it is right."""
    return np.concatenate([a.confidences for a in own]), np.concatenate([a.right for a in own])


def _reliability_alt(pooled: dict[str, Pooled]) -> str:
    """Whether each normalization is as sure as it is right."""
    said = (
        f"{norm} is right {right.mean():.1%} of the time, {confidences.mean():.1%} sure"
        for norm, (confidences, right) in pooled.items()
    )
    return f"Reliability: {'; '.join(said)}."


def _calibration(pooled: dict[str, Pooled]) -> Table:
    return Table(
        caption="Expected calibration error: how far confidence and share of right answers lie "
        f"apart, over {study_plots.BINS} bins, all seeds together (Guo et al. 2017).",
        head=("norm", "calibration error", "mean confidence", "right"),
        kinds=("name", "number", "number", "number"),
        rows=[
            (
                norm,
                f"{100 * study_plots.expected_calibration_error(confidences, right):.1f} points",
                f"{confidences.mean():.1%}",
                f"{right.mean():.1%}",
            )
            for norm, (confidences, right) in pooled.items()
        ],
    )


def _settings(study: Study, main: Group, runs: Sequence[Run]) -> list[tuple[str, str, bool]]:
    """Name, value, whether it is code."""
    run, machines = runs[0], [machine for run in runs for machine in run.machines]
    processors = {
        arm.norm: _listed(
            (
                f"{machine.processor} ({machine.capability})"
                for run in runs
                if run.config.norm == arm.norm
                for machine in run.machines
            ),
            between=" and ",
        )
        for arm in main.arms
    }
    parameters = count(
        notation.parse(run.layout), norm=main.arms[0].norm, classes=len(run.data.classes)
    )
    recipe = [
        (
            spaced(field.name),
            findings.in_words(findings.setting_of_each(main.arms, field.name)),
            False,
        )
        for field in dataclasses.fields(Recipe)
    ]
    return [
        ("made by", study.config.command, True),
        ("layout", run.layout, True),
        (f"parameters with {main.arms[0].norm}", f"{parameters:,}", False),
        ("recipe", f"{run.config.recipe}; in force:", False),
        *recipe,
        ("precision", study.config.precision, False),
        ("data fingerprint", study.fingerprint, True),
        ("normlab, torch", _listed(f"{m.normlab}, {m.torch}" for m in machines), False),
        ("processor", findings.in_words(processors), False),
    ]


def _listed(texts: Iterable[str], between: str = "; ") -> str:
    """Different ones, in order."""
    return between.join(dict.fromkeys(texts))


def _runs(study: Study) -> Table | None:
    """A row a run, where they are few enough to be read."""
    if len(study.results) > 100:
        return None
    rows = []
    for result in study.results:
        costs = study.costs.get(f"{result.arm}-{result.seed}")
        rows.append(
            (
                result.arm,
                str(result.seed),
                result.state,
                percent(result.accuracies[-1], study.images) if result.accuracies else "–",
                estimated_duration(costs.seconds) if costs else "–",
            )
        )
    return Table(
        caption="All runs.",
        head=("arm", "seed", "state", "accuracy", "time"),
        kinds=("name", "number", "plain", "number", "number"),
        rows=rows,
    )
