"""The pages in a real browser."""

import time

import numpy as np
import pytest
from PIL import Image

from made_up import CLASSES, MATRIX, dataset, evaluation, run, split
from made_up import study as made_up_study
from normlab import RunConfig, train
from normlab.data.dataset import Dataset, Split
from normlab.report import data_page
from normlab.report.run_page import render, write_report
from normlab.report.study_page import render as render_study

SCRIPT = "<script>document.title='x'</script>"
HOSTILE = (
    SCRIPT,
    '"><img src=x onerror=alert(1)>',
    "a\nb",
    "</title></style></svg>",
    "w" * 10_000,
    SCRIPT * 300,
)
# The policy of the pages, sent by the server: it applies even if a page lacks it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    answers = evaluation(MATRIX // 20)
    count = len(HOSTILE)
    hostile = evaluation(MATRIX[:count, :count] // 20, classes=HOSTILE)
    pictures = split(answers.labels)
    made = {
        "run": render([run()], [answers], [pictures]),
        "runs": render([run("bn"), run("gn", norm="gn")], [answers] * 2, [pictures] * 2),
        "hostile": render(
            [run("w" * 10_000, classes=HOSTILE, notes=[*HOSTILE]), run(SCRIPT, classes=HOSTILE)],
            [hostile] * 2,
            [split(hostile.labels)] * 2,
        ),
        "study": render_study(
            made_up_study(
                folder / SCRIPT.replace("/", ""),
                batch_sizes=(8, 32),
                classes=(*HOSTILE, *"ghij"),
                images=500,
            ),
            dataset(20, 500, (*HOSTILE, *"ghij")),
        ),
        "real": real_page(folder),
        "data": data_page.render(dataset(classes=HOSTILE), recipe_steps=("affine",)),
    }
    for name, content in made.items():
        (folder / f"{name}.html").write_text(content, encoding="utf-8")
    return folder


def real_page(folder):
    """A run whose folder, data and classes have the worst names that a file system allows."""
    names = [SCRIPT.replace("/", "\N{FRACTION SLASH}"), "\"'&lt;", "w" * 255]
    pictures = folder / "<img src=x onerror=alert(1)>\n"
    random = np.random.default_rng(0)
    for split_name in ("train", "test"):
        for name in names:
            (pictures / split_name / name).mkdir(parents=True)
            for k in range(6):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(pictures / split_name / name / f"{k}{name[:200]}.png")
    config = RunConfig(network="c:2 GAP FC", dataset=f"folder:{pictures}", recipe="demo", epochs=1)
    made = train(config, folder / f"{names[0]}\n{'w' * 200}", quiet=True)
    return write_report([made]).read_text(encoding="utf-8")


@pytest.fixture
def visit(browser, pages):
    """Opens a page; returns it with the URLs it requested and its error messages."""
    opened = []

    def visit(name):
        page = browser.new_page()
        page.set_default_timeout(120_000)  # milliseconds; some machines are five times slower
        opened.append(page)
        asked, complaints = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        content = (pages / f"{name}.html").read_bytes()
        headers = {"Content-Type": "text/html", "Content-Security-Policy": POLICY}
        page.route("http://pages.invalid/", lambda r: r.fulfill(body=content, headers=headers))
        page.goto("http://pages.invalid/")
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        return page, asked, complaints

    yield visit
    for page in opened:
        page.close()


@pytest.mark.slow(1)
@pytest.mark.parametrize("name", ["run", "runs", "hostile", "real", "study", "data"])
def test_pages_fit_any_screen_and_request_nothing(visit, name):
    page, asked, complaints = visit(name)
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in asked if not url.startswith("data:")] == [page.url]
    assert complaints == []
    assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")


def test_the_figures_of_a_study_stand_side_by_side_on_a_wide_screen(visit):
    page, _, _ = visit("study")
    page.set_viewport_size({"width": 1600, "height": 900})
    boxes = page.evaluate(
        "[...document.querySelectorAll('main > .pair > div:not(.tabled)')]"
        ".map(e => e.getBoundingClientRect())"
    )
    assert boxes[1]["right"] - boxes[0]["left"] > 0.75 * 1600
    for left, right in zip(boxes[::2], boxes[1::2], strict=False):
        assert left["top"] == right["top"]
        assert left["right"] < right["left"]
    figure, table = page.evaluate(
        "['figure', 'table'].map(n => document.querySelector(`.tabled ${n}`)."
        "getBoundingClientRect())"
    )
    assert boxes[0]["bottom"] < table["top"]
    assert figure["right"] < table["left"]
    assert figure["top"] < table["bottom"]


@pytest.mark.slow(3)
def test_pages_about_ten_thousand_images_are_fast_small_and_open(visit, pages, tmp_path):
    answers = evaluation(MATRIX)
    study = made_up_study(tmp_path, seeds=2, images=len(answers.labels))
    # Noise makes the largest PNGs.
    noise = np.random.default_rng(0).integers(0, 256, (len(answers.labels), 3, 32, 32), np.uint8)
    labels = np.arange(len(noise)) % len(CLASSES)
    tested = Dataset("made-up", CLASSES, train=Split(noise, labels), test=Split(noise, labels))
    made = {
        "large-run": lambda: render([run()], [answers], [Split(noise, answers.labels)]),
        "large-study": lambda: render_study(study, tested),
    }
    for name, make in made.items():
        start = time.process_time()  # other programs may have the processor meanwhile
        content = make()
        assert time.process_time() - start < 60
        assert len(content.encode()) < 1e6
        (pages / f"{name}.html").write_text(content, encoding="utf-8")
        page, _, complaints = visit(name)
        assert complaints == []
        assert page.evaluate("document.images.length") > 10
        assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert "10,000" in page.evaluate("document.body.innerText")


def test_text_and_figures_have_enough_contrast_in_both_schemes(visit):
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


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("name", "shown"), [("hostile", HOSTILE), ("data", HOSTILE), ("study", HOSTILE[:3])]
)
def test_hostile_names_are_shown_as_text(visit, name, shown):
    page, _, _ = visit(name)
    text = page.evaluate("document.body.innerText")
    for hostile in shown:
        assert " ".join(hostile.split()) in " ".join(text.split())
    assert_harmless(page)


def test_hostile_names_of_a_real_run_are_shown_as_text(visit):
    page, _, _ = visit("real")
    text = " ".join(page.evaluate("document.body.innerText").split())
    for hostile in (SCRIPT.replace("/", "\N{FRACTION SLASH}"), "\"'&lt;", "w" * 255):
        assert hostile in text
    assert "<img src=x onerror=alert(1)>" in text
    assert_harmless(page)


def assert_harmless(page):
    """No name has become an element or an attribute."""
    assert page.title() != "x"
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('[onerror], [src]:not(img)').length") == 0
    assert page.evaluate("[...document.images].every(i => i.src.startsWith('data:'))")


def test_collapsed_sections_are_printed(visit):
    page, _, _ = visit("runs")
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = false)")
    page.emulate_media(media="print")
    shown = page.evaluate(
        "[...document.querySelectorAll('details .findings')]"
        ".every(e => e.getBoundingClientRect().height > 0)"
    )
    assert shown


@pytest.mark.parametrize("name", ["run", "runs", "study"])
def test_in_print_no_table_is_cut_and_no_heading_stands_alone(visit, name):
    page, _, _ = visit(name)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 680, "height": 960})  # an A4 page without its margins
    cut = page.evaluate(
        """[...document.querySelectorAll('table')].filter(table => {
            const place = table.closest('.pair > *') ?? document.querySelector('main');
            return table.getBoundingClientRect().right > place.getBoundingClientRect().right + 1
                || getComputedStyle(table).breakInside !== 'avoid';
        }).map(table => table.innerText)"""
    )
    assert cut == []
    alone = page.evaluate(
        """[...document.querySelectorAll('h1, h2, h3, h4, .table > .note')].filter(heading =>
            getComputedStyle(heading.closest('summary') ?? heading).breakAfter !== 'avoid'
        ).map(heading => heading.innerText)"""
    )
    assert alone == []


def contrast(one, other):
    """The contrast ratio of two colours, as defined by WCAG 2."""

    def luminance(color):
        channels = [int(c) / 255 for c in color[4:-1].split(", ")]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
