import dataclasses
import re

import numpy as np
import pytest
from PIL import Image

from made_up import CLASSES, MATRIX, PUBLISHED, Page, epochs, evaluation, rising, run, split
from normlab.data import load
from normlab.data.dataset import Split
from normlab.errors import NormlabError, RunError, UsageError
from normlab.network.boards import BOARDS
from normlab.network.model import Network
from normlab.report import plots
from normlab.report.embed import picture
from normlab.report.run_page import render, runs_table, write_report
from normlab.runs.checkpoint import save_weights
from normlab.runs.run import Run

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "two\nlines", "w" * 300)
SMALL = "C:6 P c GAP"
CAT = "53.3%"  # 24 of 45


@pytest.fixture(scope="module")
def answers():
    return evaluation(MATRIX // 20)


@pytest.fixture(scope="module")
def content(answers):
    return render([run()], [answers], [split(answers.labels)])


@pytest.fixture(scope="module")
def page(content):
    return Page(content)


def finished(path, *, seed=0, **config):
    """A finished run on the digits, as training leaves it, with an untrained network."""
    digits = load("digits", channels="colour")
    shape = run(
        path, network=SMALL, layout=SMALL, dataset="digits", recipe="demo", seed=seed, **config
    )
    held = shape.config.holdout
    card = dataclasses.replace(
        shape.data,
        fingerprint=digits.fingerprint,
        classes=digits.classes,
        train=len(digits.train) - held,
        test=len(digits.test),
    )
    made = dataclasses.replace(
        shape,
        data=card,
        recipe=dataclasses.replace(shape.recipe, epochs=2),
        epochs=epochs([0.1, 0.12], split="holdout" if held else "test"),
    )
    made.write_config()
    made.write_metrics()
    save_weights(path / "model.safetensors", Network(SMALL, seed=seed))
    return Run.open(path)


def test_the_page_of_one_run_is_complete(page):
    for words in (
        "71.41%",
        "of 10,000 images, one run",
        "epoch 20, chosen on the test images: optimistic",
        "What the numbers say",
        "48,020",
        "12,656,560",
        "448 running statistics are kept beside the parameters",
        "24 × 32 × 32",
        "color-jitter then affine then vertical-flip",
        "ab" * 32,
        "A processor @ 2.40GHz",
        "17 min 40 s",
        "50,000 training, 10,000 test",
    ):
        assert words in page.text, words
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert set(headings[1:]) == {"h2"}


def test_the_page_opens_from_disk_and_loads_nothing(page, content):
    policy = next(m for m in page.all("meta") if "http-equiv" in m)
    assert policy["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not page.all("script")
    links = [a[k] for _, a in page.tags for k in ("src", "href") if k in a]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "http" not in re.sub(r"data:[^\"]+|http-equiv", "", content)
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]


@pytest.mark.parametrize(
    ("layout", "norm", "fits"),
    [
        ("C:12 D:16 D:16+ P D:24 GAP FC", "gn", ["yes"] * 5),
        ("C:64 C:96 C:96+ GAP FC", "gn", ["no", "yes", "yes", "yes", "yes"]),
        ("C:128 C:320 C:320 GAP FC", "gn", ["no", "no", "no", "yes", "yes"]),
        ("C:8 P C:400 C:400 C:400 GAP FC", "bn", ["no", "no", "no", "yes", "no"]),
    ],
)
def test_a_run_is_shown_beside_the_boards_that_it_fits(layout, norm, fits, answers):
    made = run(network=layout, layout=layout, norm=norm)
    page = Page(render([made], [answers], None))
    memory = made.summary.memory
    assert (
        f"In int8: {memory.constants:,} bytes of flash beside a few kB of code, "
        f"{memory.arena:,} bytes of RAM"
    ) in page.text
    assert "the picture: 3,072 bytes of RAM" in page.text
    for board, expected in zip(sorted(BOARDS.values(), key=lambda b: b.ram), fits, strict=True):
        flash = f"{memory.constants / board.flash:.1%} of {board.flash:,}"
        ram = f"{memory.arena / board.ram:.1%} of {board.ram:,}"
        assert f"{board.title} {flash} {ram} {expected}" in page.text
        within = memory.arena <= board.ram and memory.constants <= board.flash
        assert within == (expected == "yes")
    if memory.arena > 131_072:
        assert f"{memory.arena - 131_072:,} bytes of RAM too many" in page.text


@pytest.mark.parametrize(
    ("layout", "norm", "reason"),
    [
        (
            SMALL,
            "torch.nn:Identity",
            "the normalization torch.nn:Identity has no C: use one of bn,",
        ),
        ("C:10 GAP C:10+", "bn", "C:10+: the classifier of a C program adds no input"),
    ],
)
def test_a_run_without_a_c_program_says_why(layout, norm, reason, answers):
    page = Page(render([run(network=layout, layout=layout, norm=norm)], [answers], None))
    assert f"There is no C program: {reason}" in page.text
    assert "micro:bit" not in page.text


@pytest.mark.slow(2)
def test_ids_are_unique_and_references_resolve(answers):
    pictures = split(answers.labels)
    content = render([run("a"), run("b")], [answers] * 2, [pictures] * 2)
    ids = [a["id"] for _, a in Page(content).tags if "id" in a]
    assert ids
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", content)) <= {
        pair for name in ids for pair in ((name, ""), ("", name))
    }


def test_figures_take_the_page_s_colours_and_say_what_they_show(page, content):
    figures = page.all("svg")
    assert len(figures) == 5
    for figure in figures:
        assert figure["role"] == "img"
        assert figure["aria-label"].endswith(".")
    shown = " ".join(figure["aria-label"] for figure in figures)
    assert "test accuracy ends at 71.41%" in shown
    assert f"cat {CAT}, deer" in shown
    assert "most often cat was taken for dog" in shown
    svgs = "".join(re.findall(r"<svg.*?</svg>", content, re.DOTALL))
    assert "currentColor" in svgs
    assert "var(--color-0)" in svgs
    assert not re.search(r"#[0-9a-f]{6}", svgs)
    assert "DejaVu" not in svgs


def test_the_training_log_has_every_epoch_and_the_learning_rate(page):
    for epoch in run().epochs:
        shown = f"{epoch.epoch} {epoch.train_loss:.4f} {epoch.train_accuracy:.2%} {epoch.loss:.4f} "
        assert f"{shown}{epoch.accuracy:.2%} 0.01 53.0" in page.text
    assert (
        "epoch training loss training accuracy test loss test accuracy learning rate" in page.text
    )
    (curve,) = (a for a in page.all("svg") if a["aria-label"].startswith("Learning rate"))
    assert curve["aria-label"] == "Learning rate over 20 epochs: from 0.01 down to 8e-05."


@pytest.mark.parametrize(
    ("recipe", "says"),
    [("line", "from 0.0158 up to 0.396 and down to 0.00528"), ("seed", "0.01 throughout")],
)
def test_the_course_of_the_learning_rate_is_told(recipe, says, answers):
    two = run(recipe=recipe, epochs=2, accuracies=(0.5, 0.6))
    page = Page(render([two], [answers], None))
    (curve,) = (a for a in page.all("svg") if a["aria-label"].startswith("Learning rate"))
    assert says in curve["aria-label"]


@pytest.mark.parametrize(
    ("network", "budget", "shown"),
    [("assignment", None, "50,000"), ("assignment", 20_000, "20,000"), ("nano", None, "none")],
)
def test_the_budget_in_force_is_shown(network, budget, shown, answers):
    page = Page(render([run(network=network, budget=budget)], [answers], None))
    assert f" budget {shown} " in page.text


@pytest.mark.slow(2)
def test_the_mean_of_the_images_is_beside_a_heat_map_where_pictures_may_be_shown(answers):
    pictures, maps = split(answers.labels), np.random.default_rng(0).random((10, 32, 32), "f")
    for shown, count in (([pictures], 2), (None, 1)):
        page = Page(render([run()], [answers], shown, maps=[maps]))
        about_maps = page.text.partition("Where the network looks")[2]
        assert ("beside the mean of these images" in about_maps) == (count == 2)
        images = [a for a in page.all("img") if "taken for" not in a["alt"]]
        assert len(images) == 10 * count
    mean = pictures.images[np.flatnonzero(pictures.labels == 3)[:100]].mean(0)
    assert picture(mean.round().astype(np.uint8)) in render(
        [run()], [answers], [pictures], maps=[maps]
    )


def test_the_gallery_has_the_most_confident_mistakes(page, answers):
    pictures = [a for a in page.all("img") if "taken for" in a["alt"]]
    assert len(pictures) == 20
    assert all(p["src"].startswith("data:image/png;base64,") for p in pictures)
    first = answers.mistakes()[0]
    true, answer = (CLASSES[k[first]] for k in (answers.labels, answers.predictions))
    assert pictures[0]["alt"] == f"{true}, taken for {answer}"
    assert f"{true} → {answer} {answers.probabilities[first].max():.1%}" in page.text


def test_pictures_can_be_left_out(answers):
    page = Page(render([run()], [answers], None))
    assert not page.all("img")
    assert "The pictures were left out of this page." in page.text


def test_a_run_that_a_callback_ended_says_after_how_many_epochs(answers, page):
    assert "stopped after" not in page.text
    stopped = dataclasses.replace(run(), stopped_after=8)
    assert "stopped after 8 epochs, by a callback" in Page(render([stopped], [answers], None)).text


def test_no_mistakes_and_one_epoch():
    perfect = evaluation([[9, 0], [0, 9]])
    text = Page(
        render(
            [run(accuracies=[1.0], test=18, classes=CLASSES[:2])],
            [perfect],
            [split(perfect.labels)],
        )
    ).text
    assert "No image of this split was misclassified." in text
    assert "Most frequent mistakes" not in text


def test_a_loss_of_smoothed_labels_is_explained(answers, page):
    assert "smoothed" not in page.text
    smooth = dataclasses.replace(run().recipe, label_smoothing=0.1)
    text = Page(render([dataclasses.replace(run(), recipe=smooth)], [answers], None)).text
    assert "The training loss is that of smoothed labels, and so higher than without" in text


def test_held_out_is_never_called_test(answers):
    held = dataclasses.replace(answers, split="holdout")
    text = Page(render([run(holdout=5_000)], [held], None)).text
    assert "Held-out accuracy, last epoch" in text
    assert "chosen on the held-out images: optimistic" in text
    assert "The test split was not read." in text
    assert "45,000 training, 5,000 held out, 10,000 test" in text
    assert "test accuracy" not in text.lower()
    assert "test images" not in text


@pytest.mark.slow(1)
def test_hostile_names_are_text():
    matrix = MATRIX[:4, :4] // 20
    answers = evaluation(matrix, classes=HOSTILE)
    hostile = run("<b>name", classes=HOSTILE, notes=["<i>note</i>"])
    other = run("b", classes=HOSTILE)
    content = render([hostile, other], [answers] * 2, [split(answers.labels)] * 2)
    page = Page(content)
    assert not page.all("script")
    assert not [a for a in page.all("img") if not a["src"].startswith("data:image/png;base64,")]
    assert "<script>alert(1)</script>" in page.text
    assert "<b>name" in page.text
    assert "<i>note</i>" in page.text


@pytest.mark.slow(1)
def test_characters_that_are_invalid_in_files_are_replaced():
    """Names of folders may have control characters, invalid in XML, and surrogates, in UTF-8."""
    answers = evaluation(MATRIX[:2, :2] // 20, classes=("cat\0", "dog\udcff"))
    runs = [run(name, classes=answers.classes) for name in ("a\x1b\ufffe", "b\udcff")]
    content = render(runs, [answers] * 2, [split(answers.labels)] * 2)
    assert "b?" in Page(content.encode().decode()).text
    for svg in re.findall(r"<svg.*?</svg>", content, re.DOTALL):
        assert not re.search("[\0\x1b\ufffe]", svg.partition(">")[2])
    assert "a\N{REPLACEMENT CHARACTER}" in content


@pytest.mark.slow(2)
def test_several_runs_are_compared_first(answers):
    runs = [run("bn"), run("gn", norm="gn", accuracies=rising(0.69))]
    page = Page(render(runs, [answers, answers], None))
    text = page.text
    assert text.index("Highest last-epoch accuracy: bn") < text.index("Each run")
    assert len([a for a in page.all("details") if a["class"] == "run"]) == 2
    assert "gn 69.00% gn 48,020 12,656,560 69.00% (20) never 17 min 40 s" in text
    assert f"cat {CAT} {CAT} deer" in text
    assert len(page.all("svg")) == 3 + 2 * 5


@pytest.mark.slow(1)
def test_runs_of_different_classes_can_share_a_page(answers):
    other = evaluation([[9, 1], [2, 8]], classes=("x", "y"))
    runs = [run("a"), run("b", classes=("x", "y"), test=20, fingerprint="00")]
    assert (
        "a and b are measured on different images"
        in Page(render(runs, [answers, other], None)).text
    )


@pytest.mark.slow(1)
def test_the_page_of_a_run_on_ten_thousand_images_is_small():
    answers = evaluation(MATRIX)
    assert len(render([run()], [answers], [split(answers.labels)])) < 500_000


@pytest.mark.slow(3)
def test_write_report_of_one_run(tmp_path):
    trained = finished(tmp_path / "bn")
    path = write_report([trained])
    assert path == tmp_path / "bn" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert f"of {trained.data.test} images, one run" in page.text
    figures = tmp_path / "bn" / "figures"
    expected = {"curves.png", "class-accuracy.png", "confusion.png"}
    assert {p.name for p in figures.iterdir()} == {*expected, "mistakes.png"}
    for figure in figures.iterdir():
        with Image.open(figure) as image:
            image.verify()

    write_report([trained], images=False)  # and pictures of the first report are removed
    content = path.read_text(encoding="utf-8")
    assert "\u2192" not in content  # heat maps, which remain, are not pictures of the data
    assert "The pictures were left out" in content
    assert {p.name for p in figures.iterdir()} == expected


@pytest.mark.slow(1)
def test_write_report_of_several_runs_loads_their_data_once(tmp_path, monkeypatch):
    runs = [finished(tmp_path / "runs" / name, seed=k) for k, name in enumerate("ab")]
    loads = []
    dataset = Run.dataset
    monkeypatch.setattr(Run, "dataset", lambda self, root: loads.append(1) or dataset(self, root))
    path = write_report(runs)
    assert path == tmp_path / "runs" / "report.html"
    assert loads == [1]
    assert {p.name for p in (tmp_path / "runs/figures").iterdir()} == {
        "curves.png",
        "class-accuracy.png",
    }


@pytest.mark.slow(3)
def test_two_pages_in_a_folder_have_their_own_figures(tmp_path):
    runs = [finished(tmp_path / "runs" / name, seed=k) for k, name in enumerate("abc")]
    write_report(runs[:2], tmp_path / "first.html")
    before = (tmp_path / "first-figures/curves.png").read_bytes()
    write_report(runs[1:], tmp_path / "second.html")
    assert (tmp_path / "second-figures/curves.png").read_bytes() != before
    assert (tmp_path / "first-figures/curves.png").read_bytes() == before
    assert not (tmp_path / "figures").exists()


@pytest.mark.slow(2)
def test_with_held_out_images_the_test_images_are_not_read(tmp_path, monkeypatch):
    class Sealed(Split):
        def __getattribute__(self, name):
            assert name not in ("images", "labels"), "the test split was read"
            return super().__getattribute__(name)

    trained = finished(tmp_path / "bn", holdout=100)
    dataset = Run.dataset

    def sealed(self, root):
        data = dataset(self, root)
        return dataclasses.replace(data, test=Sealed(data.test.images, data.test.labels))

    monkeypatch.setattr(Run, "dataset", sealed)
    page = Page(write_report([trained]).read_text(encoding="utf-8"))
    assert "of 100 images, one run" in page.text


def test_an_unfinished_run_is_refused(tmp_path):
    trained = finished(tmp_path / "bn")
    (tmp_path / "bn/model.safetensors").unlink()
    with pytest.raises(RunError):
        write_report([trained])
    assert not (tmp_path / "bn/report.html").exists()


@pytest.mark.slow(2)
def test_a_page_elsewhere_with_a_published_curve(tmp_path):
    published = tmp_path / "published.csv"
    published.write_text(PUBLISHED)
    out = tmp_path / "pages" / "bn.html"
    trained = finished(tmp_path / "bn")
    assert write_report([trained], str(out), published=str(published)) == out
    content = out.read_text(encoding="utf-8")
    assert "Grey: published seed-bn." in Page(content).text
    loss, accuracy, *_ = re.findall(r"<svg.*?</svg>", content, re.DOTALL)
    assert "published seed-bn" in loss
    assert "published seed-bn" in accuracy
    overlaid = plots.curves([trained], [plots.read_published(published)["bn"]])
    assert (tmp_path / "pages/bn-figures/curves.png").read_bytes() == plots.png(overlaid)
    assert not (tmp_path / "bn/report.html").exists()
    assert not (tmp_path / "bn/figures").exists()
    assert (tmp_path / "pages/bn-figures/mistakes.png").exists()
    write_report([trained], out, images=False)
    assert not (tmp_path / "pages/bn-figures/mistakes.png").exists()
    with pytest.raises(UsageError, match="has curves for bn: no run here"):
        write_report([finished(tmp_path / "gn", norm="gn")], published=published)


def test_no_run_and_a_run_given_twice_are_refused(tmp_path):
    with pytest.raises(UsageError, match="expected one run or more"):
        write_report([])
    again = tmp_path / "x" / ".." / "bn"
    with pytest.raises(UsageError, match=rf"{again} is given twice"):
        write_report([run(tmp_path / "bn"), run(tmp_path / "gn"), run(again)])


def test_runs_without_a_common_folder_need_an_output_path():
    with pytest.raises(UsageError, match="say where the page should be written"):
        write_report([run("/normlab-a/x"), run("/normlab-b/y")])


def test_a_page_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NormlabError, match="cannot be written"):
        write_report([finished(tmp_path / "bn")], tmp_path / "file" / "page.html")


def test_the_page_of_an_unbalanced_set_leads_with_balanced_accuracy():
    flowers = evaluation([[81, 9], [15, 15]], classes=("daisy", "rose"))
    own = run(accuracies=[0.5, 0.8], classes=("daisy", "rose"), test=120, dataset="folder:flowers")
    text = Page(render([own], [flowers], None)).text
    assert text.index("Balanced test accuracy") < text.index("Test accuracy, last epoch")
    assert "the classes are unbalanced: mean of their accuracies" in text


@pytest.mark.slow(2)
def test_only_runs_on_cifar10_say_when_they_first_passed_70_percent(answers):
    own, other = run(dataset="folder:flowers"), run("b", dataset="folder:flowers")
    one, both = render([own], [answers], None), render([own, other], [answers] * 2, None)
    for content in (one, both):
        text = Page(content).text.lower()
        assert "above 70%" not in text
        assert "passed 70%" not in text
    assert "First above 70%" in Page(render([run()], [answers], None)).text
    mixed = runs_table([run(), other])
    assert [row[mixed.head.index("first above 70%")] for row in mixed.rows] == ["12", "–"]
