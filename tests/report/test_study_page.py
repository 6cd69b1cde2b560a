"""The page about a study, for synthetic studies."""

import csv
import dataclasses
import re
import time

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from made_up import Page, dataset
from made_up import study as made_up
from normlab.errors import RunError
from normlab.findings.groups import group_by_setting
from normlab.findings.study import headline
from normlab.report import search_figures, study_figures
from normlab.report.study_data import StudyData
from normlab.report.study_page import render, write_study_report
from normlab.runs.run import Run
from normlab.study import predictions, tuning
from normlab.study.record import Study, predictions_of


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(study):
    return Page(render(study, dataset(20, study.images)))


def test_the_headline_comes_first(study, page):
    text = "".join(page.words)
    first, second, third = headline(study, group_by_setting(study))
    assert text.index(first) < text.index(second) < text.index(third) < text.index("What the num")


def test_the_page_begins_with_what_all_its_runs_have_in_common(tmp_path):
    fixed = {"batch_sizes": (64,), "train_images": (20_000,), "label_noise": (0.1, 0.2)}
    study = made_up(tmp_path, seeds=2, trials=False, **fixed)
    text = " ".join(Page(render(study, None)).words)
    assert (
        f"12 runs on {study.config.dataset}, batches of 64, 20,000 training images, 2 seeds, "
        "accuracy on 2,000 test images after the last epoch."
    ) in text


def test_the_page_is_one_file_without_scripts_or_links(page):
    assert not any(tag == "script" for tag, _ in page.tags)
    for _, attributes in page.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("data:", "#"))


def test_every_figure_says_what_it_shows(page):
    figures = [a for tag, a in page.tags if tag == "svg"]
    assert len(figures) == 5
    labels = [a["aria-label"] for a in figures]
    assert all(len(label) > 30 for label in labels)
    assert any("bn above gn" in label for label in labels)
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 12
    assert all("; correct with bn" in a["alt"] for a in pictures)


def test_the_tables_have_the_measured_numbers(study, page):
    text = "".join(page.words)
    for wanted in ("4,888", "700 MiB", "15.8 s", "1.28", "0.09 to 2.47", "calibration error"):
        assert wanted in text
    for result in study.results:
        assert f"{result.accuracies[-1]:.2%}" in text


@pytest.mark.slow(1)
def test_the_settings_name_the_processor_of_each_normalization(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "ln"))
    assert "processor A processor @ 2.40GHz (AVX2)" in Page(render(study, None)).text
    run = Run.open(tmp_path / "runs" / "ln-1")
    other = dataclasses.replace(run.machines[0], processor="Another", from_epoch=2)
    dataclasses.replace(run, machines=(*run.machines, other)).write_config()
    text = Page(render(study, None)).text
    first = "A processor @ 2.40GHz (AVX2)"
    assert f"processor bn {first}, ln {first} and Another (AVX2)" in text


def test_the_page_says_that_pictures_were_left_out(study):
    page = Page(render(study, None))
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "The pictures were left out of this page." in "".join(page.words)


def test_single_networks_are_compared_by_mcnemars_test(tmp_path):
    study = made_up(tmp_path, seeds=1, norms=("bn", "ln"))
    bn, ln = (predictions_of(Run.open(tmp_path / "runs" / f"{n}-0")).correct for n in ("bn", "ln"))
    only_bn, only_ln = int((bn & ~ln).sum()), int((ln & ~bn).sum())
    p = binomtest(only_bn, only_bn + only_ln).pvalue
    text = "".join(Page(render(study, None)).words)
    counts = f"by bn only: {only_bn} images; by ln only: {only_ln} (McNemar's"
    assert f"Classified correctly {counts}" in text
    assert (f"p = {p:.3f}" if p >= 0.001 else "p < 0.001") in text


def test_networks_of_different_seeds_are_not_compared(tmp_path):
    study = made_up(tmp_path, seeds=2)
    left = {("bn", 0), ("gn", 1), ("ln", 1)}
    results = tuple(
        r if (r.arm, r.seed) in left else dataclasses.replace(r, state="waiting", accuracies=())
        for r in study.results
    )
    text = Page(render(dataclasses.replace(study, results=results), None)).text
    compared = re.findall(
        r"Classified correctly by (\w+) only: \d+ images; by (\w+) only: \d", text
    )
    assert compared == [("gn", "ln")]


def test_without_spread_there_are_no_intervals(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "ln"))
    accuracies = {"bn": (0.75,), "ln": (0.5,)}
    results = [dataclasses.replace(r, accuracies=accuracies[r.arm]) for r in study.results]
    text = "".join(Page(render(dataclasses.replace(study, results=tuple(results)), None)).words)
    assert "no interval, because the seeds show no spread" in text
    assert "With a new seed" not in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_negative_numbers_have_a_minus_sign(tmp_path):
    close = {"bn": 0.78, "gn": 0.7795}
    text = "".join(Page(render(made_up(tmp_path, means=close, norms=("bn", "gn")), None)).words)
    assert re.search(r"\s−\d\.\d\d to \d", text)
    assert not re.search(r"\s-\d", text)


def test_arms_with_fewer_seeds_are_on_the_page(tmp_path):
    study = made_up(tmp_path, seeds=3)
    failed = [
        dataclasses.replace(r, state="failed", problem="no good", accuracies=())
        if r.arm == "bn" and r.seed
        else r
        for r in study.results
    ]
    page = render(dataclasses.replace(study, results=tuple(failed)), None)
    assert "gn trained with 3 of 3 seeds, bn with 1 of 3" in page


def rows(page, table):
    """The rows of a page's table, as text."""
    body = page.split("<tbody>")[1 + table].partition("</tbody>")[0]
    return [" ".join(Page(row).text.split()) for row in body.split("<tr>")[1:]]


def test_the_table_says_how_often_each_trained(tmp_path):
    """bn diverges with a seed and ends at chance with another at 32, and with all at 8."""
    study = made_up(tmp_path, seeds=3, batch_sizes=(8, 32), norms=("bn", "gn"))

    def lost(result):
        if result.arm == "gn-batch8" or (result.arm, result.seed) == ("bn-batch32", 0):
            return dataclasses.replace(result, state="failed", problem="nan", accuracies=())
        if result.arm == "bn-batch8" or (result.arm, result.seed) == ("bn-batch32", 2):
            return dataclasses.replace(result, accuracies=(0.1, 0.1))
        return result

    study = dataclasses.replace(study, results=tuple(map(lost, study.results)))
    page = render(study, None)
    head = Page(page.partition("<tbody>")[0]).text
    assert "accuracy 95% seeds trained parameters" in head
    gn, bn = rows(page, 0)
    assert re.match(r"gn [\d.]+% ± [\d.]+ 3 of 3 4,888", gn)
    assert re.match(r"bn [\d.]+% – 1 of 3 4,888 .* not all$", bn)
    every = rows(page, 1)
    assert every[2:] == [f"{norm} batch size 8 – – 0 of 3 – – – never" for norm in ("bn", "gn")]
    text = Page(page).text
    assert "8 of 12 runs on cifar10, 3 seeds" in text
    assert "batch size 32, where the mean is highest, failed runs counted as 0." in text
    assert "at 8, nothing could be trained" in text
    assert "bn-batch32 2 at chance 10.00%" in text
    assert "bn-batch32 0 failed –" in text
    assert "means over the seeds with which each trained" in text
    assert not re.search(
        r"\b(nan|inf)\b", text.replace("with seed 0: nan", "").replace(": nan", "")
    )


@pytest.mark.slow(1)
def test_pairs_whose_failures_differ_have_no_p_value(tmp_path):
    study = made_up(tmp_path, seeds=5, batch_sizes=(8, 32), norms=("bn", "gn"))
    failed = tuple(
        dataclasses.replace(r, state="failed", problem="no good", accuracies=())
        if r.arm.startswith("bn") and r.seed in (1, 3)
        else r
        for r in study.results
    )
    page = Page(render(dataclasses.replace(study, results=failed), None))
    assert re.search(
        r"bn − gn, batch size 8 [\d.]+ [−\d.]+ to [\d.]+ unknown unknown 60% \(\d+% to \d+%\)",
        page.text,
    )
    assert "a failed run counts as a loss." in page.text
    assert "Hollow marks: some seeds failed, and the mean is over the others." in page.text
    labels = [a["aria-label"] for a in page.all("svg")]
    assert "Paired differences of 2 pairs; none shown to differ." in labels
    whole = Page(render(study, None)).text
    for word in ("unknown", "failed", "Hollow", "with which each trained", "counted as 0"):
        assert word not in whole.replace("A run did not train if it failed", "")


@pytest.mark.slow(1)
def test_one_pair_is_not_called_all_pairs(tmp_path):
    text = Page(render(made_up(tmp_path / "pair", norms=("bn", "gn")), None)).text
    for word in ("All pairs", "all 1", "Holm", "1 pairs"):
        assert word not in text
    text = Page(render(made_up(tmp_path / "alone", norms=("bn",)), None)).text
    for word in ("all 0", "pairs", "Holm"):
        assert word not in text


def test_the_settings_are_resolved_and_include_the_command(tmp_path):
    study = made_up(tmp_path, network="line-5k", seeds=2, trials=False)
    text = Page(render(study, None)).text
    assert "normlab compare line-5k --norms bn gn ln --seeds 2" in text
    assert "batch size bn 64, gn 128, ln 64" in text
    assert "learning rate bn 0.2, gn 0.4, ln 0.2" in text
    assert "schedule one-cycle" in text
    assert "the default" not in text


def test_each_setting_has_a_search_with_every_trial(tmp_path):
    study = made_up(tmp_path, seeds=2, batch_sizes=(8, 32), norms=("bn", "gn"))
    trials = [
        dataclasses.replace(t, accuracy=None) if t.arm == "gn-batch8" and t.rung == 0 else t
        for t in study.trials
    ]
    page = Page(render(dataclasses.replace(study, trials=tuple(trials)), None))
    labels = [a["aria-label"] for a in page.all("svg") if "Search of" in a["aria-label"]]
    assert len(labels) == 2
    assert labels[0].startswith("Search of the learning rate at batch size 8; best: bn ")
    assert labels[0].endswith("lower edge: 8 of 28 trials, whose loss was not finite.")
    assert "Crosses" not in labels[1]
    assert page.text.count("8 of 28 trials, whose loss was not finite") == 1


def test_a_searched_batch_size_is_written_in_full(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn",), tune=("batch-size",))
    trials = tuple(dataclasses.replace(t, value=8 * t.value) for t in study.trials)
    (search,) = search_figures.searches(StudyData(dataclasses.replace(study, trials=trials)))
    assert search.alt == "Search of the batch size; best: bn 1,024."
    assert search.figure.axes[0].get_title(loc="left") == "bn: 1,024"


@pytest.mark.parametrize("norms", [("bn",), ("bn", "gn", "ln"), ("bn", "gn", "ln", "none", "rms")])
def test_each_normalization_has_a_panel_with_its_trials_in_a_search(norms, tmp_path):
    study = made_up(tmp_path, seeds=2, norms=norms)
    trials = tuple(
        dataclasses.replace(t, accuracy=0.7 + 0.01 * norms.index(t.arm) + 0.001 * t.rung)
        for t in study.trials
    )
    (search,) = search_figures.searches(StudyData(dataclasses.replace(study, trials=trials)))
    figure = search.figure
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == len(norms)
    values = sorted({t.value for t in trials})
    for axes, norm in zip(panels, norms, strict=True):
        best = tuning.best([t for t in trials if t.arm == norm]).value
        assert axes.get_title(loc="left") == f"{norm}: {best:.4g}"
        dotted, *rungs = (line for line in axes.lines if line.get_linestyle() != "None")
        assert set(dotted.get_xdata()) == {values.index(best)}
        assert {place for line in rungs for place in map(tuple, line.get_xydata())} == {
            (values.index(t.value), t.accuracy) for t in trials if t.arm == norm
        }
    assert "Below the axis" not in search.caption


def test_trials_far_below_the_best_are_counted_below_the_axis(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "gn"))
    trials = tuple(
        dataclasses.replace(t, accuracy=0.5 if t.rung == 0 and t.arm == "gn" else 0.8)
        for t in study.trials
    )
    (search,) = search_figures.searches(StudyData(dataclasses.replace(study, trials=trials)))
    below = sum(t.accuracy == 0.5 for t in trials)
    assert 0 < below < len(trials)
    assert f" Below the axis: {below} of {len(trials)} trials." in search.caption
    figure = search.figure
    figure.draw_without_rendering()
    assert {round(axes.get_ylim()[0], 6) for axes in figure.axes if axes.axison} == {0.6}


@pytest.mark.parametrize(
    ("epochs", "caption"),
    [
        (8, "Every value was tried in runs of 2 epochs. The better half of the values went on to "
         "runs of 4 and of 8 epochs, drawn with thicker lines. Dotted: the best value. Crosses"),
        (1, "Every value was tried in runs of 1 epoch. Dotted: the best value. Crosses"),
    ],
)  # fmt: skip
def test_the_caption_gives_the_length_of_the_trials(epochs, caption, tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "gn"))
    trials = [
        dataclasses.replace(t, epochs=tuning.rung_epochs(epochs, t.rung), accuracy=None)
        for t in study.trials
    ]
    assert caption in Page(render(dataclasses.replace(study, trials=tuple(trials)), None)).text


def test_single_runs_have_no_intervals(tmp_path):
    study = made_up(tmp_path, seeds=1, batch_sizes=(8, 32), norms=("bn", "gn"))
    page = render(study, None)
    assert page.count("One run each.") == 2  # by epoch, and against the batch size
    assert "Means and their 95% intervals" not in page
    assert "Bands" not in page
    assert "1 seed, accuracy" in page


@pytest.mark.slow(2)
def test_the_page_says_which_p_values_are_corrected(tmp_path):
    five = render(made_up(tmp_path / "five"), None)
    assert "contrasts: the intervals and p (Bonferroni); not correct" in five
    six = render(made_up(tmp_path / "six", seeds=6), None)
    assert "not corrected: p and p (permutation). " in six
    single = render(made_up(tmp_path / "one", seeds=1), None)
    assert "These 3 p-values are not corrected for their number." in single


@pytest.mark.slow(1)
def test_changes_of_differences_have_a_figure_and_a_table(tmp_path):
    means = {"bn-batch8": 0.6, "gn-batch8": 0.7, "bn-batch32": 0.75, "gn-batch32": 0.65}
    study = made_up(
        tmp_path, seeds=5, means=means, batch_sizes=(8, 32), norms=("bn", "gn"), trials=False
    )
    page = Page(render(study, None))
    (figure,) = (a for tag, a in page.tags if tag == "svg" and "Changes" in a["aria-label"])
    assert figure["aria-label"] == (
        "Changes of differences: 1 of 1 are shown: bn − gn, batch size 32 minus 8."
    )
    assert "Grey band: what counts as equal, ±0.5 points." in page.text
    assert "The difference between bn and gn depends on the batch size" in page.text
    failed = dataclasses.replace(study.results[0], state="failed", problem="no", accuracies=())
    study = dataclasses.replace(study, results=(failed, *study.results[1:]))
    assert "Changes of differences" not in Page(render(study, None)).text


def test_planned_pairs_of_every_setting_are_in_the_figure_and_the_table(tmp_path):
    means = {"bn-batch8": 0.6, "gn-batch8": 0.7, "ln-batch8": 0.65}
    planned = ("bn,gn@batch8", "ln,gn@batch32")
    study = made_up(tmp_path, means=means, batch_sizes=(8, 32), contrasts=planned, trials=False)
    page = Page(render(study, None))
    (figure,) = (a for tag, a in page.tags if tag == "svg" and "Paired" in a["aria-label"])
    shown = "shown: gn above ln, batch size 32; gn above bn, batch size 8."
    assert figure["aria-label"] == f"Paired differences of 2 pairs; {shown}"
    _, _, table = page.text.partition("All planned pairs.")
    assert re.search(r"gn − ln, batch size 32 [\d.]+ .* gn − bn, batch size 8 [\d.]+ ", table)
    assert "2 show a difference: gn is above bn at batch size 8; gn is above ln at" in page.text
    assert re.search(r"At batch size 8, gn is shown to be above bn \([\d.]+ points", page.text)


def test_long_layouts_leave_the_figures_room(tmp_path):
    layout = "C:8 C:8 P C:16 C:16 P C:32 C:32 P GAP FC:64 FC"
    study = made_up(
        tmp_path, seeds=3, network="nano", layouts=(layout,), norms=("bn", "gn"),
        trials=False,
    )  # fmt: skip
    data = StudyData(study)
    (changes,) = study_figures.changes(data)
    (along,) = [f for f in study_figures.accuracy(data) if f.name == "network"]
    for figure in (changes.figure, along.figure):
        figure.draw_without_rendering()
        (axes,) = figure.axes
        assert axes.get_window_extent().width > 0.5 * figure.bbox.width
        assert axes.xaxis.label.get_window_extent().x1 <= figure.bbox.x1


def test_an_axis_of_accuracies_ends_at_0_and_100_percent(tmp_path):
    study = made_up(tmp_path, seeds=2, batch_sizes=(8, 32), norms=("bn", "gn"), trials=False)
    results = [
        dataclasses.replace(r, accuracies=(*r.accuracies[:-1], 0.3 + 0.6 * r.seed))
        for r in study.results
    ]
    data = StudyData(dataclasses.replace(study, results=tuple(results)))
    (figure,) = [f for f in study_figures.accuracy(data) if f.name == "batch-size"]
    assert figure.figure.axes[0].get_ylim() == (0, 1)


@pytest.mark.slow(1)
def test_each_axis_has_a_figure(tmp_path):
    study = made_up(
        tmp_path, seeds=3, batch_sizes=(8, 32), label_noise=(0.0, 0.2), norms=("bn", "gn")
    )
    page = render(study, None)
    text = "".join(Page(page).words)
    assert "Accuracy against batch size" in text
    assert "Accuracy against label noise" in text
    assert "Means and their 95% intervals, with label noise 0." in text
    main, _, every = page.partition("The same for every setting")
    assert main.count("<tr>") == 1 + 2
    assert every.partition("</details>")[0].count("<tr>") == 1 + 2 * 4


@pytest.mark.slow(6)
def test_the_page_of_a_hundred_arms_is_fast(tmp_path, recwarn):
    norms = tuple(f"ghost-bn={k}" for k in range(2, 102))
    study = made_up(
        tmp_path,
        network="C:8 P C:16 GAP FC",
        recipe="nano",
        seeds=3,
        norms=norms,
        means={norm: 0.75 - 0.003 * k for k, norm in enumerate(norms)},
        images=500,
    )
    start = time.process_time()  # of this process: others do not count
    page = write_study_report(study, images=False)
    assert time.process_time() - start < 30
    assert page.stat().st_size < 10e6
    assert not [w for w in recwarn if "layout" in str(w.message)]  # no figure without room
    text = Page(page.read_text()).text
    assert text.count("The 14 best of 100 normalizations are drawn.") == 4
    assert "4,845 more pairs are in the table." in text
    assert "The first 45 of 4950 pairs. Corrected for the study's 4,950 contrasts: the" in text


def test_all_arms_of_a_usual_study_are_drawn(page):
    assert "are drawn" not in page.text


def test_hostile_class_names_are_text(tmp_path):
    classes = ("<script>alert(1)</script>", "a\nb", '"><img src=x>', "$x$", *"efghij")
    study = made_up(tmp_path, seeds=2, classes=classes, images=500)
    page = Page(render(study, dataset(20, 500, classes)))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "<script>alert(1)</script>" in "".join(page.words)
    assert all(a["src"].startswith("data:image/png") for t, a in page.tags if t == "img")


@pytest.mark.slow(10)
def test_the_page_of_a_thousand_runs_is_fast(tmp_path):
    study = made_up(
        tmp_path,
        seeds=100,
        norms=("bn", "gn", "ln", "none", "rms"),
        batch_sizes=(8, 32),
        images=1000,
        trials=False,
    )
    assert len(study.results) == 1000
    start = time.process_time()  # of this process: others do not count
    page = write_study_report(study, images=False)
    assert time.process_time() - start < 30
    assert page.stat().st_size < 10e6


@pytest.mark.slow(1)
def test_the_figures_are_also_written_beside_the_page(tmp_path):
    study = made_up(tmp_path, seeds=2, batch_sizes=(8, 32))
    write_study_report(study, images=False)
    written = {figure.stem: figure for figure in (tmp_path / "figures").iterdir()}
    several = {"search-lr-batch8", "search-lr-batch32", "changes"}
    assert written.keys() == {"curves", "batch-size", "forest", "classes", "reliability"} | several
    for figure in written.values():
        with Image.open(figure) as picture:
            assert picture.format == "PNG"


def test_a_single_image_is_classified_correctly_with_every_normalization(tmp_path):
    study = made_up(tmp_path, seeds=2, norms=("bn", "gn"), images=10, trials=False)
    for result in study.results:
        path = study.run(result).path / "answers.npz"
        answers = predictions.read(path, images=10, classes=10)
        wrong = (answers.labels + 1) % 10
        wrong[0] = answers.labels[0]
        predictions.write(dataclasses.replace(answers, predictions=wrong), path)
    assert "Of 10 images, 1 is classified correctly with every" in Page(render(study, None)).text


def test_one_normalization_has_no_disagreement(tmp_path):
    text = Page(render(made_up(tmp_path, seeds=2, norms=("gn",)), None)).text
    assert "1 normalization on nano" in text
    assert "disagree" not in text


def test_missing_predictions_are_named(tmp_path):
    study = made_up(tmp_path, seeds=2)
    (tmp_path / "runs" / "gn-1" / "answers.npz").unlink()
    with pytest.raises(RunError, match=r"gn-1/answers\.npz cannot be read"):
        render(study, None)


@pytest.mark.slow(1)
def test_other_data_is_refused(tmp_path):
    study = made_up(tmp_path, seeds=2, dataset="digits")
    with pytest.raises(RunError, match=r"has fingerprint .*, but the study .* was made on ababab"):
        write_study_report(study)
    assert write_study_report(study, images=False).exists()


@pytest.mark.parametrize(
    ("norms", "recipe", "said"),
    [
        (("bn", "none"), "nano", True),
        (("bn", "none"), "demo", False),
        (("bn", "gn"), "nano", False),
    ],
)
def test_the_page_says_what_muon_makes_of_none(norms, recipe, said, tmp_path):
    study = made_up(tmp_path, seeds=2, norms=norms, recipe=recipe, epochs=19, trials=False)
    text = Page(render(study, None)).text
    assert ("With Muon, the normalization none is a weight normalization" in text) == said


def recalibrated(path, norms):
    """A study whose accuracies were 3 points lower before statistics were measured anew."""
    made = made_up(path, norms=norms, seeds=3, trials=False, recalibrate=True)
    results = tuple(
        dataclasses.replace(
            result,
            without_recalibration=result.accuracies[-1] - 0.03 * ("bn" in result.arm),
        )
        for result in made.results
    )
    made = dataclasses.replace(made, results=results)
    made.write()
    return Study.open(path)


def test_accuracy_is_shown_with_and_without_recalibration(tmp_path):
    study = recalibrated(tmp_path / "study", ("bn", "ghost-bn=2", "gn"))
    text = Page(render(study, None)).text
    assert "running statistics were measured anew" in text
    assert text.count(" 3.00 ") == 2
    assert " 0.00 " in text
    header, *rows = csv.reader((tmp_path / "study" / "study.csv").read_text().splitlines())
    assert header[-1] == "without_recalibration"
    assert [float(row[-1]) for row in rows] == [r.without_recalibration for r in study.results]


def test_a_study_without_recalibration_does_not_mention_it(study, page):
    assert "measured anew" not in page.text
    assert "recalibrat" not in (study.path / "study.json").read_text()
    assert "recalibrat" not in (study.path / "study.csv").read_text()


@pytest.mark.slow(1)
def test_ghost_batches_have_a_figure_along_the_images_of_their_statistics(tmp_path):
    norms = ("bn", "ghost-bn=2", "ghost-bn=8", "gn")
    study = recalibrated(tmp_path / "study", norms)
    page = Page(render(study, None))
    (alt,) = (a["aria-label"] for a in page.all("svg") if "images in batch" in a["aria-label"])
    assert " at 2 to " in alt
    assert " at 128" in alt  # nano's batch
    assert "Hollow: running statistics as training left them." in page.text
    (figure,) = (f for f in study_figures.accuracy(StudyData(study)) if f.name == "statistics")
    over, beside = figure.figure.axes
    assert [int(tick) for tick in over.get_xticks()] == [2, 8, 128]
    assert [label.get_text() for label in beside.get_xticklabels()] == ["gn"]
    alone = recalibrated(tmp_path / "alone", norms[:-1])
    (figure,) = (f for f in study_figures.accuracy(StudyData(alone)) if f.name == "statistics")
    assert [axes.axison for axes in figure.figure.axes] == [True, False]


def test_two_batch_normalizations_have_no_such_figure(tmp_path):
    study = recalibrated(tmp_path / "study", ("bn", "ghost-bn=2", "gn"))
    assert "images in bn's statistics" not in Page(render(study, None)).text


@pytest.mark.parametrize("unbalanced", [True, False])
def test_the_page_of_unbalanced_classes_leads_with_balanced_accuracy(tmp_path, unbalanced):
    labels = (np.arange(2000) % (4 if unbalanced else 2) == 0).astype(np.int64)
    study = made_up(
        tmp_path / "study",
        seeds=2,
        means=dict.fromkeys(("bn", "gn", "ln"), 0.9),
        classes=("daisy", "rose"),
        labels=labels,
        trials=False,
    )
    text = Page(render(study, None)).text
    assert ("Balanced accuracy: the mean of the classes' accuracies" in text) == unbalanced
    if unbalanced:
        assert text.index("balanced accuracy") < text.index("time per epoch")
        assert (
            "of 2,000 test images, daisy has 1,500 and rose 500; always answering daisy would get "
            "a balanced accuracy of 50.00% and an accuracy of 75.00%."
        ) in text
