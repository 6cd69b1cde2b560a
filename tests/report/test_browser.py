"""The pages in a real browser."""

import time

import numpy as np
import pytest

from made_up import CLASSES, MATRIX, dataset, evaluation, run, split
from made_up import study as made_up_study
from normlab.data.dataset import Dataset, Split
from normlab.report import data_page
from normlab.report.page import render
from normlab.report.study_page import render as render_study

HOSTILE = (
    "<script>document.title='x'</script>",
    '"><img src=x onerror=alert(1)>',
    "a\nb",
    "w" * 400,
)


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    answers = evaluation(MATRIX // 20)
    hostile = evaluation(MATRIX[:4, :4] // 20, classes=HOSTILE)
    pictures = split(answers.labels)
    made = {
        "run": render([run()], [answers], [pictures]),
        "runs": render([run("bn"), run("gn", norm="gn")], [answers] * 2, [pictures] * 2),
        "hostile": render(
            [run("w" * 200, classes=HOSTILE, notes=["w" * 400]), run("b", classes=HOSTILE)],
            [hostile] * 2,
            [split(hostile.labels)] * 2,
        ),
        "study": render_study(
            made_up_study(
                folder / "study", batch_sizes=(8, 32), classes=(*HOSTILE, *"efghij"), images=500
            ),
            dataset(20, 500, (*HOSTILE, *"efghij")),
        ),
        "data": data_page.render(dataset(), recipe_steps=("affine",)),
    }
    for name, content in made.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser, pages):
    """Opens a page and gives it with what it asked for and what it complained of."""
    opened = []

    def visit(name):
        page = browser.new_page()
        page.set_default_timeout(120_000)  # milliseconds; machines differ fivefold
        opened.append(page)
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((pages / f"{name}.html").as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return page, asked, complaints

    yield visit
    for page in opened:
        page.close()


@pytest.mark.parametrize("name", ["run", "runs", "hostile", "study", "data"])
def test_it_fits_any_screen_and_asks_for_nothing(visit, name):
    page, asked, complaints = visit(name)
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert complaints == []
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_pages_about_ten_thousand_images_are_made_in_time_stay_small_and_open(
    visit, pages, tmp_path
):
    answers = evaluation(MATRIX)
    study = made_up_study(tmp_path, seeds=2, images=len(answers.labels))
    # Noise: no PNGs are larger.
    noise = np.random.default_rng(0).integers(0, 256, (len(answers.labels), 3, 32, 32), np.uint8)
    labels = np.arange(len(noise)) % len(CLASSES)
    tested = Dataset("made-up", CLASSES, train=Split(noise, labels), test=Split(noise, labels))
    made = {
        "large-run": lambda: render([run()], [answers], [Split(noise, answers.labels)]),
        "large-study": lambda: render_study(study, tested),
    }
    for name, make in made.items():
        start = time.perf_counter()
        content = make()
        assert time.perf_counter() - start < 60
        assert len(content.encode()) < 1e6
        (pages / f"{name}.html").write_text(content, encoding="utf-8")
        page, _, complaints = visit(name)
        assert complaints == []
        assert page.evaluate("document.images.length") > 10
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert "10,000" in page.evaluate("document.body.innerText")


def test_text_and_figures_stand_out_from_the_paper_in_both_schemes(visit):
    page, _, _ = visit("run")
    for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 27)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert page.evaluate("getComputedStyle(document.querySelector('svg text')).fill") == ink
        assert contrast(ink, paper) > 12
        colors = page.evaluate(
            """[...Array(7).keys()].map(index => {
                const probe = document.body.appendChild(document.createElement('i'));
                probe.style.color = `var(--color-${index})`;
                return getComputedStyle(probe).color;
            })"""
        )
        for color in colors:
            assert contrast(color, paper) > 4.4


def test_text_in_figures_is_legible_on_a_phone(visit):
    page, _, _ = visit("runs")
    page.set_viewport_size({"width": 360, "height": 800})
    sizes = page.evaluate(
        "[...document.querySelectorAll('svg text')]"
        ".map(t => parseFloat(getComputedStyle(t).fontSize)"
        " * t.ownerSVGElement.clientWidth / t.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert min(sizes) > 6.5


def test_hostile_names_stand_there_as_text(visit):
    page, _, _ = visit("hostile")
    assert page.title() == "2 runs compared"
    assert page.evaluate("document.scripts.length") == 0
    text = page.evaluate("document.body.innerText")
    assert HOSTILE[0] in text
    assert HOSTILE[1] in text


def test_what_is_folded_is_printed(visit):
    page, _, _ = visit("runs")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    page.emulate_media(media="print")
    shown = page.evaluate(
        "[...document.querySelectorAll('details .findings')]"
        ".every(e => e.getBoundingClientRect().height > 0)"
    )
    assert shown


def contrast(one, other):
    """Contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(color):
        channels = [int(c) / 255 for c in color[4:-1].split(", ")]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
