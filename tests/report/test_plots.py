import dataclasses
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from made_up import CLASSES, MATRIX, PUBLISHED, dataset, epochs, evaluation, rising, run, split
from normlab.data.augment import PREVIEW
from normlab.data.describe import describe
from normlab.errors import NormlabError
from normlab.report import plots
from normlab.report.embed import inline_svg

HOSTILE = ("<script>alert(1)</script>", "$x_{", "two\nlines", "猫", "w" * 300, '"quoted" & more')


@pytest.fixture(scope="module")
def data():
    return dataset()


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(PUBLISHED)
    return path


def texts(figure):
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves_draw_every_number():
    curve = epochs([0.4, 0.5, 0.6], train=[0.3, 0.4, 0.5], losses=[3, 2, 1], train_losses=[4, 3, 2])
    loss, accuracy = plots.curves([run(curve=curve)]).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[4, 3, 2], [3, 2, 1]]
    assert [list(line.get_ydata()) for line in accuracy.lines] == [[0.3, 0.4, 0.5], [0.4, 0.5, 0.6]]
    assert all(list(line.get_xdata()) == [1, 2, 3] for line in loss.lines)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 50, 300])
def test_ticks_are_whole_epochs(count):
    figure = plots.curves([run(accuracies=rising(count=count) if count > 1 else [0.4])])
    plots.png(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == int(tick) for tick in ticks)


def test_accuracies_are_in_percent():
    figure = plots.curves([run()], quantities=["accuracy"])
    plots.png(figure)
    assert "70%" in [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def test_runs_differ_in_more_than_colour():
    runs = [run(name) for name in "abcdefg"]
    lines = plots.curves(runs, quantities=["loss"]).axes[0].lines
    looks = {(line.get_marker(), line.get_linestyle()) for line in lines}
    assert len({line.get_color() for line in lines}) == 7
    assert len(looks) == 14


def test_bars_of_many_runs_differ_in_colour_or_hatch():
    answers = evaluation(np.eye(3, dtype=int) * 4)
    figure = plots.class_accuracy(dict.fromkeys("abcdefghijklmnopqrst", answers))
    bars = [bars.patches[0] for bars in figure.axes[0].containers]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 20


def test_what_a_figure_in_a_page_points_to_is_there():
    answers = evaluation(np.eye(3, dtype=int) * 4)
    svg = inline_svg(plots.class_accuracy(dict.fromkeys("abcdefghij", answers)), "bars", "Bars")
    linked = {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)}
    assert any(name.startswith("bars-h") for name in linked)  # a hatch
    assert linked <= {*re.findall(r' id="([^"]+)"', svg)}
    assert not re.search(r'fill="#', svg)  # colours are variables: the page has a dark mode


def test_counts_are_legible_on_every_cell():
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3), on paper, however full the cell."""
    figure = plots.confusion(evaluation(np.array([[100, 1, 0], [40, 60, 0], [5, 15, 80]])))

    def luminance(color):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    figure.draw_without_rendering()
    (cells,) = figure.axes[0].collections
    for *color, opacity in cells.get_facecolor():
        cell = luminance(1 - opacity * (1 - np.array(color)))
        assert (cell + 0.05) / (luminance(mpl.colors.to_rgb(plots.INK)) + 0.05) > 4.5
    assert {t.get_color() for t in figure.axes[0].texts} == {plots.INK}


def test_the_legend_names_the_runs_and_the_lines():
    assert labels(plots.curves([run()])) == ["test", "training"]
    assert labels(plots.curves([run("a"), run("b")])) == ["a", "b", "test", "training"]
    assert labels(plots.curves([run(holdout=5_000)])) == ["held out", "training"]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["C8-P-C16-GAP-FC-364961-bn-0", "C8-P-C16-GAP-FC-364961-gn=8-0"], ["…bn-0", "…gn=8-0"]),
        (["C8-P-C16-GAP-FC-364961-bn-0", "C8-P-C16-GAP-FC-364961-bn-1"], ["…bn-0", "…bn-1"]),
        (["müller anna/line-bn-0", "li/line-bn-0"], ["müller anna/line-bn-0", "li/line-bn-0"]),
        (["seed-bn-0", "seed-gn-0"], ["seed-bn-0", "seed-gn-0"]),
        (["first-of-all-networks-bn-0", "other"], ["first-of-a…tworks-bn-0", "other"]),
    ],
)
def test_labels_of_runs_keep_what_differs(names, shown):
    assert plots.run_labels(names) == shown


def test_a_legend_of_long_names_fits_the_figure():
    runs = [run(f"{letter}8-P-C16-P-C16-GAP-FC-364961-bn-0") for letter in "CDS"]
    for figure in (
        plots.curves(runs),
        plots.class_accuracy({str(r.path): evaluation(MATRIX) for r in runs}),
    ):
        assert len(set(labels(figure))) == len(labels(figure))
        plots.png(figure)
        assert figure.legends[0].get_window_extent().x1 <= figure.bbox.x1


def test_the_run_is_drawn_over_the_published_curve(published):
    bn = plots.read_published(published)["bn"]
    assert bn.label == "published seed-bn"
    assert len(bn.accuracy) == 20
    assert bn.accuracy[0] == pytest.approx(0.435)
    assert bn.train_loss[0] == pytest.approx(1.62)
    figure = plots.curves([run()], [bn])
    assert "published seed-bn" in labels(figure)
    for axes, values in zip(figure.axes, (bn.loss, bn.accuracy), strict=True):
        background = next(
            x for x in axes.lines if list(x.get_ydata()) == pytest.approx(list(values))
        )
        line = axes.lines[-1]
        assert line.get_zorder() > background.get_zorder()
        assert line.get_linewidth() > background.get_linewidth()


@pytest.mark.parametrize(
    "content",
    ["norm,epoch\nbn,1\n", "norm,train_loss\nbn,x\n", b"\xff\xfe\0", PUBLISHED.partition("\n")[0]],
)
def test_a_file_without_published_curves_is_named(tmp_path, content):
    path = tmp_path / "other.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(NormlabError, match=r"other\.csv holds no published curves"):
        plots.read_published(path)


def test_a_missing_file_of_published_curves_is_named(tmp_path):
    with pytest.raises(NormlabError, match=r"none\.csv cannot be read"):
        plots.read_published(tmp_path / "none.csv")


def test_confusion_writes_the_counts():
    written = texts(plots.confusion(evaluation(MATRIX)))
    assert {"186", "171", "cat", "truck", "true class", "predicted class"} <= set(written)
    many = np.eye(30, dtype=int)
    assert "1" not in texts(
        plots.confusion(evaluation(many, classes=[f"c{k}x" for k in range(30)]))
    )


def test_class_accuracy_of_one_run_has_numbers_and_intervals():
    figure = plots.class_accuracy({"bn": evaluation(MATRIX)})
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(
        list(MATRIX.diagonal() / 1000)
    )
    cat = axes.lines[3].get_xdata()
    assert cat[0] < 0.496 < cat[1]
    assert "50%" in texts(figure)


def test_class_accuracy_of_several_runs_is_grouped():
    both = {"bn": evaluation(MATRIX), "gn": evaluation(MATRIX.T)}
    figure = plots.class_accuracy(both)
    assert len(figure.axes[0].patches) == 20
    assert labels(figure) == ["bn", "gn"]
    assert figure.axes[0].get_xlabel() == "test accuracy"
    mixed = both | {"gn": evaluation(MATRIX, split="holdout")}
    assert plots.class_accuracy(mixed).axes[0].get_xlabel() == "accuracy"
    assert not figure.axes[0].lines


def test_a_class_without_images_is_labelled():
    figure = plots.class_accuracy({"bn": evaluation([[3, 1], [0, 0]])})
    assert "no images" in texts(figure)
    plots.png(figure)


def test_mistakes_show_true_class_prediction_and_confidence():
    answers = evaluation([[30, 4], [2, 30]])
    figure = plots.mistakes(answers, split(answers.labels))
    captions = [axes.get_xlabel() for axes in figure.axes if axes.images]
    assert len(captions) == 6
    first = answers.mistakes()[0]
    confidence = answers.probabilities[first].max()
    true, answer = (CLASSES[k[first]] for k in (answers.labels, answers.predictions))
    assert captions[0] == f"{true}\n→ {answer}\n{confidence:.1%} sure"


def test_no_mistakes_can_be_drawn():
    perfect = evaluation([[5, 0], [0, 5]])
    figure = plots.mistakes(perfect, split(perfect.labels))
    assert "no mistakes" in texts(figure)
    plots.png(figure)


def test_labelled_grid_shows_images_with_their_classes(data):
    figure = plots.labelled_grid(data.train, data.classes)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 40
    assert [axes.get_xlabel() for axes in shown[:10]] == list(CLASSES)
    np.testing.assert_array_equal(
        shown[7].images[0].get_array(), data.train.images[7].transpose(1, 2, 0)
    )


def test_mean_images_leave_out_classes_without_images(data):
    sparse = dataclasses.replace(data, classes=(*CLASSES, "nobody"), fingerprint="x")
    figure = plots.mean_images(describe(sparse))
    assert [axes.get_xlabel() for axes in figure.axes if axes.images] == list(CLASSES)


def test_channel_histograms_name_the_means(data):
    description = describe(data)
    figure = plots.channel_histograms(description)
    assert len(figure.axes) == 3
    for axes, name, mean in zip(
        figure.axes, ("red", "green", "blue"), description.mean, strict=True
    ):
        assert axes.get_title(loc="left") == f"{name}, mean {255 * mean:.0f} of 255"
    plots.png(figure)


def test_augmentations_are_drawn_below_the_originals(data):
    images = data.train.images[:5]
    rows = plots.augmented(images, PREVIEW)
    assert list(rows) == ["original", *PREVIEW]
    np.testing.assert_array_equal(rows["original"], images)
    np.testing.assert_array_equal(rows["horizontal flip"], images[..., ::-1])
    figure = plots.augmentations(images, PREVIEW)
    assert len(figure.axes) == 5 * 5
    plots.png(figure)


def test_augmentations_depend_only_on_the_seed(data):
    images = data.train.images[:5]
    first, again, other = (plots.augmented(images, PREVIEW, seed)["cutout"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_figures_are_written_whole(tmp_path):
    path = tmp_path / "new" / "confusion.png"
    plots.save(plots.confusion(evaluation(MATRIX)), str(path))
    with Image.open(path) as image:
        assert image.width == 750
    assert [p.name for p in path.parent.iterdir()] == ["confusion.png"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NormlabError, match="cannot be written"):
        plots.save(plots.confusion(evaluation(MATRIX)), tmp_path / "file" / "x.png")


@pytest.mark.slow(1)
def test_any_name_can_be_drawn():
    matrix = 3 * np.eye(6, dtype=int) + np.eye(6, k=1, dtype=int)
    answers = evaluation(matrix, classes=HOSTILE)
    for figure in (
        plots.confusion(answers),
        plots.class_accuracy({"$_{ a": answers, "b\nc": answers}),
        plots.mistakes(answers, split(answers.labels)),
        plots.curves([run("$_{x"), run("猫")]),
    ):
        assert plots.png(figure).startswith(b"\x89PNG")
        assert b"<script>" not in plots.svg(figure)


def test_a_heat_map_over_a_picture_is_brightest_where_it_is_greatest():
    heat = np.zeros((8, 8), np.float32)
    heat[1, 6] = 0.3
    drawn = plots.heat_over(np.full((3, 64, 80), 100, np.uint8), heat)
    assert drawn.shape == (3, 64, 80)
    assert drawn.dtype == np.uint8
    row, column = np.unravel_index(drawn.sum(axis=0).argmax(), (64, 80))
    assert (row // 8, column // 10) == (1, 6)
    corner = 0.65 * plots.colored(np.zeros((1, 1, 1), np.float32))[0, :, 0, 0]
    np.testing.assert_allclose(drawn[:, -1, 0], 0.35 * 100 + corner, atol=1)


def test_global_settings_are_not_changed(data):
    before = dict(mpl.rcParams)
    for figure in (plots.curves([run()]), plots.labelled_grid(data.train, data.classes, 5)):
        assert isinstance(figure, Figure)
        plots.png(figure)
        plots.svg(figure)
    assert dict(mpl.rcParams) == before


def test_a_notebook_shows_a_figure_without_pyplot():
    assert plots.curves([run()])._repr_png_().startswith(b"\x89PNG")


def test_curves_are_told_apart_by_colour_or_marker():
    assert len({(plots.color_of(k), plots.marker_of(k)) for k in range(30)}) == 30


@pytest.mark.parametrize("quantities", [[], ["bogus"], ["loss", "bogus"]])
def test_an_unknown_quantity_is_refused(quantities):
    with pytest.raises(ValueError, match="quantities must be of"):
        plots.curves([run()], quantities=quantities)
