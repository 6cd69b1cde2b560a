"""The page about a study: the result first, then the evidence."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np

from normlab.data import Dataset, apply_splits, load_recorded
from normlab.errors import RunError
from normlab.findings import contrasts, statistics
from normlab.findings import study as findings
from normlab.findings.fairness import settings_by_norm
from normlab.findings.groups import Group
from normlab.findings.recalibration import without_recalibration
from normlab.findings.run import IMAGES, TARGET, has_target, unbalanced
from normlab.inference.evaluate import is_unbalanced
from normlab.recipes import Recipe
from normlab.report import plots, prediction_figures, search_figures, study_figures
from normlab.report.embed import picture
from normlab.report.rendering import PageFigure, Picture, render_template
from normlab.report.study_data import StudyData
from normlab.runs.isolation import isolated
from normlab.runs.provenance import started_from, taught_by
from normlab.storage.files import refuse_link, write_atomically
from normlab.study.plan import Arm
from normlab.study.predictions import Predictions
from normlab.study.record import Study
from normlab.table import Table
from normlab.wording import (
    by_name,
    counted,
    distinct,
    estimated_duration,
    listed,
    p_value,
    percent,
    seconds_range,
    signed_points,
    spaced,
)

DISAGREEMENTS = 12  # pictures
MAX_SINGLE = 10  # pairs of single networks that are compared
MAX_RUNS = 100  # a table of more runs cannot be read


@isolated()
def write_study_report(study: Study, *, data_root: Path | None = None, images: bool = True) -> Path:
    """Writes `report.html` in the folder of a study, and its figures as PNG in `figures/`.

    Args:
        study: A study with at least one finished run.
        data_root: The folder of the data, as in `Execution`.
        images: Whether the page shows pictures of the data; if not, the data is not read.

    Returns:
        The path of the page.

    Raises:
        RunError: No run is finished, or a file of a run is missing or damaged.
        DataError: The data is missing.
        NormlabError: A file cannot be written.
    """
    dataset = _dataset(study, data_root) if images else None
    data = StudyData(study)
    figures = _figures(data)
    page, folder = study.path / "report.html", study.path / "figures"
    refuse_link(folder)
    write_atomically(page, _render(data, figures, dataset))
    for section in figures.values():
        for figure in section:
            plots.save(figure.figure, folder / f"{figure.name}.png")
    return page


def render(study: Study, dataset: Dataset | None) -> str:
    """The page as HTML, in one file that opens from disk.

    Args:
        study: A study with at least one finished run.
        dataset: The data set with the study's splits; None leaves pictures out.
    """
    data = StudyData(study)
    return _render(data, _figures(data), dataset)


def _dataset(study: Study, root: Path | None) -> Dataset:
    """The data set of a study with its splits."""
    config = study.arms[0].config  # it says whether the images have colour
    dataset = load_recorded(config, root)
    if dataset.fingerprint != study.fingerprint:
        raise RunError(
            f"{config.dataset} as found here has fingerprint {dataset.fingerprint[:12]}…, but the "
            f"study {study.path} was made on {study.fingerprint[:12]}…: give the study's own data"
        )
    return apply_splits(dataset, config)


def _figures(data: StudyData) -> dict[str, list[PageFigure]]:
    """The figures by their places in the page."""
    return {
        "accuracy": study_figures.accuracy(data),
        "differences": [*study_figures.differences(data), *study_figures.changes(data)],
        "searches": search_figures.searches(data),
        "predictions": prediction_figures.predictions(data),
    }


def _render(data: StudyData, figures: dict[str, list[PageFigure]], dataset: Dataset | None) -> str:
    study, main, groups, axes = data.study, data.main, data.groups, data.study.axes
    several = len(data.predictions) > 1
    return render_template(
        "study.html",
        title=f"{counted(len(main.arms), 'normalization')} on {main.setting.network}",
        about=_about(study),
        headline=findings.headline(study, groups),
        main_setting=_main_setting(data),
        balanced=_balanced(data),
        table=_table(study, [main], (), ()),
        every_setting=_table(study, groups, _nowhere_trained(data), axes) if axes else None,
        recalibration=_recalibration(data),
        none_note=_none_note(study),
        findings=findings.further(study, groups),
        figures=figures,
        disagreement_note=_disagreement_note(data.predictions) if several else "",
        single=_single_runs(main, data.predictions) if main.seeds == 1 else [],
        disagreements=None
        if dataset is None
        else _disagreements(data.predictions, data.classes, dataset),
        settings=_settings(data),
        runs=_runs(data),
    )


def _about(study: Study) -> str:
    config = study.config
    done = sum(result.state == "done" for result in study.results)
    held = "held-out" if config.holdout else "test"
    planned = len(study.results)
    runs = counted(done, "run") if done == planned else f"{done:,} of {counted(planned, 'run')}"
    fixed = (
        (config.batch_sizes, "batches of {:,}"),
        (config.train_images, "{:,} training images"),
        (config.label_noise, "label noise of {:g}"),
    )
    parts = (
        f"{runs} on {config.dataset}",
        *(text.format(*values) for values, text in fixed if len(values) == 1 and values[0]),
        contrasts.seeds_text(study),
        f"accuracy on {study.images:,} {held} images after the last epoch.",
    )
    return ", ".join(parts)


def _balanced(data: StudyData) -> Table | None:
    """Balanced accuracy of unbalanced classes; None of others."""
    labels = next(iter(data.predictions.values()))[0].labels
    if not is_unbalanced(labels):
        return None
    images = IMAGES["holdout" if data.study.config.holdout else "test"]
    rows = []
    for norm, of_runs in data.predictions.items():
        shares = [
            np.mean([run.correct[labels == k].mean() for k in np.unique(labels)]) for run in of_runs
        ]
        rows.append((norm, percent(float(np.mean(shares)), len(labels)), str(len(shares))))
    return Table(
        caption="Balanced accuracy: the mean of the classes' accuracies, over the seeds with which "
        f"the normalization trained. {unbalanced(labels, data.classes, images)} All other numbers "
        "of this page are of accuracy over all images.",
        head=("norm", "balanced accuracy", "seeds"),
        kinds=("name", "number", "number"),
        rows=rows,
    )


def _recalibration(data: StudyData) -> Table | None:
    """Accuracy with and without recalibrated statistics; None if they were not recalibrated."""
    study, main = data.study, data.main
    rows = []
    for arm, mean in main.ranked:
        if (without := without_recalibration(study, main, arm)) is not None:
            rows.append(
                (
                    arm.norm,
                    percent(mean.value, study.images),
                    percent(without.value, study.images),
                    signed_points(mean.value - without.value, study.images),
                )
            )
    if not rows:
        return None
    return Table(
        caption="After the last epoch, running statistics were measured anew over the training "
        "images, unaugmented and with the final weights (Wu & Johnson 2021, arXiv:2105.07576, "
        "section 3). All other numbers of this page are with recalibration. A normalization "
        "without running statistics is the same with and without.",
        head=("norm", "recalibrated", "as training left them", "difference in points"),
        kinds=("name", "number", "number", "number"),
        rows=rows,
    )


def _none_note(study: Study) -> str:
    """What Muon makes of `none`, if an arm has both."""
    if not any(arm.norm == "none" and arm.recipe.muon for arm in study.arms):
        return ""
    return (
        "With Muon, the normalization none is a weight normalization (Salimans & Kingma 2016, "
        "arXiv:1602.07868): Muon keeps the weights of each convolution that mixes channels at a "
        "fixed norm, and a factor for each channel learns the scale. Only the activations are not "
        "normalized."
    )


def _main_setting(data: StudyData) -> str:
    """What the first two sentences, the table and the figures are about; empty without an axis."""
    if not data.study.axes:
        return ""
    failed = any(result.state == "failed" for result in data.study.results) or any(
        group.failures for group in data.groups
    )
    counting = ", failed runs counted as 0" if failed else ""
    return f"{data.main.setting.text(data.study.axes)}, where the mean is highest{counting}"


def _nowhere_trained(data: StudyData) -> list[Arm]:
    """The arms of settings in which no run trained, and some failed."""
    with_runs = {group.setting for group in data.groups}
    ended = {result.arm for result in data.study.results if result.state in ("done", "failed")}
    return [a for a in data.study.arms if a.setting not in with_runs and a.name in ended]


def _table(
    study: Study, groups: Sequence[Group], untrained: Sequence[Arm], axes: Sequence[str]
) -> Table:
    """One row per normalization in each group, and one per arm of settings without a group."""

    def names(arm: Arm) -> tuple[str, ...]:
        return (arm.norm, arm.setting.text(axes)) if axes else (arm.norm,)

    target = has_target(study.config.dataset)
    columns = 7 if target else 6
    rows = []
    for group in groups:
        rows += [(*names(arm), *_measured(study, group, arm)[:columns]) for arm, _ in group.ranked]
        rows += [(*names(arm), *_not_measured(study)[:columns]) for arm in group.untrained]
    rows += [(*names(arm), *_not_measured(study)[:columns]) for arm in untrained]
    return Table(
        caption="Accuracy: mean over the seeds with which the normalization trained, and its 95% "
        "interval. A run did not train if it failed, or if its final accuracy is not above that of "
        f"guessing (binomial test, p < {statistics.CHANCE:g}, and at most "
        f"{statistics.NEAR_CHANCE:g} / classes). Time per epoch: from the fastest run to the "
        "slowest, with or without other work on the machine; times on different processors (see "
        "the settings) cannot be compared. Memory: the peak of a run's process."
        + (f" Last column: median epoch that first passed {TARGET:.0%}." if target else ""),
        head=(
            *("norm", *(["setting"] if axes else []), "accuracy", "95%", "seeds trained"),
            *("parameters", "time per epoch", "memory"),
            *([f"over {TARGET:.0%}"] if target else []),
        ),
        kinds=("name", *(["plain"] if axes else []), *["number"] * columns),
        rows=rows,
    )


def _measured(study: Study, group: Group, arm: Arm) -> tuple[str, ...]:
    """The cells of an arm that trained."""
    mean, results = group.mean(arm), group.trained(study, arm)
    costs = [study.costs[r.name] for r in results]
    epoch_seconds = [
        cost.seconds / len(result.accuracies) for result, cost in zip(results, costs, strict=True)
    ]
    epochs = findings.passed_epochs(study, group, arm)
    passed = [epoch for epoch in epochs if epoch is not None]
    half = mean.high - mean.value
    memory = max(c.peak_memory for c in costs)
    return (
        percent(mean.value, study.images),
        f"± {100 * half:.2f}" if np.isfinite(half) else "–",
        f"{len(results)} of {study.config.seeds}",
        f"{results[0].parameters:,}",
        seconds_range(epoch_seconds),
        f"{memory / 2**20:,.0f} MiB" if memory else "–",
        f"{median(passed):g}" if len(passed) == len(epochs) else "not all" if passed else "never",
    )


def _not_measured(study: Study) -> tuple[str, ...]:
    """The cells of an arm that trained with no seed."""
    return ("–", "–", f"0 of {study.config.seeds}", "–", "–", "–", "never")


def _disagreement_note(by_norm: Mapping[str, Sequence[Predictions]]) -> str:
    """How many images only one normalization classifies correctly, with most of its seeds."""
    mostly = {
        norm: np.mean([run.correct for run in runs], axis=0) > 0.5 for norm, runs in by_norm.items()
    }
    stacked = np.stack([*mostly.values()])
    all_correct, none_correct = stacked.all(axis=0), ~stacked.any(axis=0)
    agreed = int(all_correct.sum())
    only_one = stacked.sum(axis=0) == 1
    alone = [f"{norm} {int((correct & only_one).sum()):,}" for norm, correct in mostly.items()]
    return (
        f"Of {stacked.shape[1]:,} images, {agreed:,} {'is' if agreed == 1 else 'are'} classified "
        "correctly with every normalization (by most of its seeds) and "
        f"{int(none_correct.sum()):,} with none; "
        f"with only one normalization: {listed(alone)}."
    )


def _single_runs(main: Group, by_norm: Mapping[str, Sequence[Predictions]]) -> list[str]:
    """Whether single networks are equally accurate (McNemar's test).

    Networks of different seeds are not compared: the seeds may explain their difference.
    """
    sentences = []
    pairs = [
        (one, other)
        for (one, _), (other, _) in combinations(main.ranked, 2)
        if main.accuracies[one.name].keys() == main.accuracies[other.name].keys()
    ]
    for one, other in pairs[:MAX_SINGLE]:
        (first,), (second,) = by_norm[one.norm], by_norm[other.norm]
        only_first = int((first.correct & ~second.correct).sum())
        only_second = int((second.correct & ~first.correct).sum())
        p = statistics.mcnemar(only_first, only_second)
        sentences.append(
            f"Classified correctly by {one.norm} only: {counted(only_first, 'image')}; by "
            f"{other.norm} only: {only_second:,} (McNemar's test, {p_value(p)}). This compares "
            "these two networks: another seed gives other networks."
        )
    if len(sentences) > 1:
        sentences.append(f"These {len(sentences)} p-values are not corrected for their number.")
    if len(pairs) > MAX_SINGLE:
        sentences.append(f"{counted(len(pairs) - MAX_SINGLE, 'more pair')} can be compared.")
    return sentences


def _disagreements(
    by_norm: Mapping[str, Sequence[Predictions]], classes: Sequence[str], dataset: Dataset
) -> list[Picture]:
    """The images on which the normalizations differ most."""
    split = dataset.test if dataset.holdout is None else dataset.holdout
    shares = {
        norm: np.mean([run.correct for run in runs], axis=0) for norm, runs in by_norm.items()
    }
    spread = np.ptp(np.stack([*shares.values()]), axis=0)
    places = [int(k) for k in np.argsort(-spread, kind="stable")[:DISAGREEMENTS] if spread[k] > 0]
    pictures = []
    for place in places:
        true = classes[split.labels[place]]
        lines = [f"{norm} {share[place]:.0%}" for norm, share in shares.items()]
        pictures.append(
            Picture(
                picture(split.images[place]),
                alt=f"{true}; correct with {', '.join(lines)} of the seeds",
                title=true,
                lines=lines,
                size=split.images.shape[2],
            )
        )
    return pictures


def _settings(data: StudyData) -> list[tuple[str, str, bool]]:
    """Name, value, whether it is code."""
    study, arms, runs = data.study, data.main.arms, data.runs
    run, machines = runs[0], [machine for run in runs for machine in run.machines]
    processors = {
        arm.norm: distinct(
            (
                f"{machine.processor} ({machine.capability})"
                for run in runs
                if run.config.norm == arm.norm
                for machine in run.machines
            ),
            between=" and ",
        )
        for arm in arms
    }
    recipe = [
        (spaced(field.name), by_name(settings_by_norm(arms, field.name)), False)
        for field in dataclasses.fields(Recipe)
    ]
    return [
        ("command", study.config.command, True),
        ("layout", run.layout, True),
        (f"parameters with {run.config.norm}", f"{run.summary.parameters:,}", False),
        ("recipe", f"{run.config.recipe}, with these settings:", False),
        *recipe,
        ("activation", distinct(run.summary.activation for run in runs), False),
        ("precision", study.config.precision, False),
        *([("classes weighted in the loss", "yes", False)] if study.config.balance else []),
        *([("start", started_from(study.start, study.config), False)] if study.start else []),
        *([("teacher", taught_by(study.teacher, study.config), False)] if study.teacher else []),
        ("data fingerprint", study.fingerprint, True),
        ("normlab, torch", distinct(f"{m.normlab}, {m.torch}" for m in machines), False),
        ("processor", by_name(processors), False),
    ]


def _runs(data: StudyData) -> Table | None:
    """One row per run; None if there are too many to read."""
    study = data.study
    if len(study.results) > MAX_RUNS:
        return None
    at_chance = {
        (result.arm, result.seed) for result in findings.ended_at_chance(study, data.groups)
    }
    rows = []
    for result in study.results:
        costs = study.costs.get(result.name)
        rows.append(
            (
                result.arm,
                str(result.seed),
                "at chance" if (result.arm, result.seed) in at_chance else result.state,
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
