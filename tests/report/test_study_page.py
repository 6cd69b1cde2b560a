"""The page about a study, on studies that no training made."""

import time

import pytest
from scipy.stats import binomtest

from made_up import Page, dataset
from made_up import study as made_up
from normlab.errors import RunError
from normlab.report.study_page import render, write_study_report
from normlab.study import answers
from normlab.study.findings import groups, headline


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(study):
    return Page(render(study, dataset(20, study.images)))


def test_the_answer_stands_first(study, page):
    text = "".join(page.words)
    first, second = headline(groups(study), study.images)
    assert text.index(first) < text.index(second) < text.index("What the numbers say")


def test_it_is_one_file_without_scripts_or_addresses(page):
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
    assert all("right answers: bn" in a["alt"] for a in pictures)


def test_its_tables_hold_what_was_measured(study, page):
    text = "".join(page.words)
    for wanted in ("4,888", "700 MiB", "15.8 s", "1.28", "0.45 to 2.11", "calibration error"):
        assert wanted in text
    for result in study.results:
        assert f"{result.accuracies[-1]:.2%}" in text


def test_without_pictures_it_says_so(study):
    page = Page(render(study, None))
    assert not any(tag == "img" for tag, _ in page.tags)
    assert "The pictures were left out of this page." in "".join(page.words)


def test_of_one_seed_the_networks_are_compared_by_mcnemars_test(tmp_path):
    study = made_up(tmp_path, seeds=1, norms=("bn", "ln"))
    bn, ln = (
        answers.read(tmp_path / "runs" / f"{n}-0" / "answers.npz").right for n in ("bn", "ln")
    )
    only_bn, only_ln = int((bn & ~ln).sum()), int((ln & ~bn).sum())
    p = binomtest(only_bn, only_bn + only_ln).pvalue
    text = "".join(Page(render(study, None)).words)
    assert f"bn alone answers {only_bn} images rightly, ln alone {only_ln} (McNemar's test" in text
    assert (f"p = {p:.3f}" if p >= 0.001 else "p < 0.001") in text


def test_each_axis_has_its_figure(tmp_path):
    study = made_up(
        tmp_path, seeds=3, batch_sizes=(8, 32), label_noise=(0.0, 0.2), norms=("bn", "gn")
    )
    text = "".join(Page(render(study, None)).words)
    assert "Accuracy against batch size" in text
    assert "Accuracy against label noise" in text


def test_hostile_class_names_are_text(tmp_path):
    classes = ("<script>alert(1)</script>", "a\nb", '"><img src=x>', "$x$", *"efghij")
    study = made_up(tmp_path, seeds=2, classes=classes, images=500)
    page = Page(render(study, dataset(20, 500, classes)))
    assert not any(tag == "script" for tag, _ in page.tags)
    assert "<script>alert(1)</script>" in "".join(page.words)
    assert all(a["src"].startswith("data:image/png") for t, a in page.tags if t == "img")


def test_a_study_of_a_thousand_runs_makes_its_page_in_time(tmp_path):
    study = made_up(
        tmp_path,
        seeds=25,
        norms=("bn", "gn", "ln", "none"),
        batch_sizes=(2, 8, 32, 64, 128),
        label_noise=(0.0, 0.2),
        images=1000,
        trials=False,
    )
    assert len(study.results) == 1000
    start = time.perf_counter()
    content = render(study, None)
    assert time.perf_counter() - start < 10
    assert len(content.encode()) < 10e6


def test_answers_that_are_missing_are_named(tmp_path):
    study = made_up(tmp_path, seeds=2)
    (tmp_path / "runs" / "gn-1" / "answers.npz").unlink()
    with pytest.raises(RunError, match=r"gn-1/answers\.npz cannot be read"):
        render(study, None)


def test_other_data_is_refused(tmp_path):
    study = made_up(tmp_path, seeds=2, dataset="digits")
    with pytest.raises(RunError, match=r"has fingerprint .*, the study .* was made on ababab"):
        write_study_report(study)
    assert write_study_report(study, images=False).exists()
