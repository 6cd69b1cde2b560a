import io
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console
from torch import nn

from normlab.data import Dataset, Split
from normlab.inference.evaluate import Evaluation, evaluate

CLASSES = ("a", "b", "c")


class Colour(nn.Module):
    """Logits that are the mean of each channel, the left half counted twice."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        return self.scale * (images.mean((2, 3)) + images[..., :16].mean((2, 3)))


@pytest.fixture(scope="module")
def coloured():
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (1203, 3, 32, 32), dtype=np.uint8)
    images //= generator.integers(1, 4, (1203, 3, 1, 1), dtype=np.uint8)
    labels = generator.integers(0, 3, 1203)
    return Dataset("made up", CLASSES, Split(images[:3], labels[:3]), Split(images, labels))


def reference(images):
    scaled = images / 255.0
    logits = 10 * (scaled.mean((2, 3)) + scaled[..., :16].mean((2, 3)))
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


@pytest.mark.parametrize("tta", [None, "flip"])
def test_every_image_is_evaluated_in_order(coloured, tta):
    split = coloured.test
    expected = reference(split.images)
    if tta:
        expected = (expected + reference(split.images[..., ::-1])) / 2
    evaluation = evaluate(Colour(), coloured, tta=tta)
    np.testing.assert_allclose(evaluation.probabilities, expected, atol=1e-5)
    likelihood = -np.log(expected[np.arange(len(split)), split.labels]).mean()
    assert evaluation.loss == pytest.approx(likelihood, rel=1e-5)
    assert evaluation.accuracy == (expected.argmax(1) == split.labels).mean()
    assert evaluation.tta == tta


@pytest.mark.parametrize("fails", [False, True])
def test_every_layer_s_mode_is_restored(fails, coloured, monkeypatch):
    network = nn.Sequential(nn.BatchNorm2d(3).eval(), Colour())  # the first is frozen by itself
    seen = []

    def forward(self, images):
        seen.append([layer.training for layer in network.modules()])
        if fails:
            raise RuntimeError("no answer")
        return images.mean((2, 3))

    monkeypatch.setattr(Colour, "forward", forward)
    with pytest.raises(RuntimeError, match="no answer") if fails else nullcontext():
        evaluate(network, coloured)
    assert seen[0] == [False, False, False]
    assert [layer.training for layer in network.modules()] == [True, False, True]


def test_a_missing_holdout_is_refused(coloured):
    with pytest.raises(ValueError, match="nothing was held out"):
        evaluate(Colour(), coloured, "holdout")
    swapped = Dataset("made up", CLASSES, coloured.test, coloured.train).hold_out(50)
    held_out = evaluate(Colour(), swapped, "holdout")
    assert held_out.split == "holdout"
    assert len(held_out.labels) == 50


def printed(evaluation):
    console = Console(file=io.StringIO(), width=80)
    console.print(evaluation)
    return console.file.getvalue()


def test_the_table_counts_every_class_and_all_images():
    labels = np.repeat([0, 0, 1, 1], [1500, 500, 100, 900])
    predictions = np.repeat([0, 1, 0, 1], [1500, 500, 100, 900])
    evaluation = Evaluation(
        "test", ("airplane", "[red]x[/red]", "<b>"), labels, np.eye(3, dtype="f")[predictions], 0.5
    )
    text = printed(evaluation)
    assert "test: balanced accuracy 82.50%, accuracy 80.00% (2,400 of 3,000), loss 0.5000" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["airplane", "2,000", "1,500", "75.00%"] in rows
    assert ["[red]x[/red]", "1,000", "900", "90.0%"] in rows
    assert ["<b>", "0", "0", "–"] in rows
    assert ["all", "3,000", "2,400", "80.00%"] in rows
    html = evaluation._repr_html_()
    assert "<td>&lt;b&gt;</td>" in html
    assert html.count("<tr>") == 5


def test_an_unknown_augmentation_is_refused(coloured):
    with pytest.raises(ValueError, match="no test-time augmentation 'rot'"):
        evaluate(Colour(), coloured, tta="rot")


@settings(max_examples=100)
@given(st.data(), st.integers(1, 40))
def test_metrics_follow_from_the_probabilities(data, count):
    labels = data.draw(arrays.arrays(np.int64, count, elements=st.integers(0, 2)))
    weights = data.draw(
        arrays.arrays(np.float32, (count, 3), elements=st.floats(1 / 16, 1, width=32))
    )
    probabilities = weights / weights.sum(1, keepdims=True)
    evaluation = Evaluation("test", CLASSES, labels, probabilities, loss=1.0)
    predictions = probabilities.argmax(1)
    matrix = np.zeros((3, 3), int)
    for true, predicted in zip(labels, predictions, strict=True):
        matrix[true, predicted] += 1
    np.testing.assert_array_equal(evaluation.confusion, matrix)
    assert evaluation.correct == np.trace(matrix)
    for k in range(3):
        share = evaluation.class_accuracy[k]
        assert (
            np.isnan(share)
            if (labels == k).sum() == 0
            else share == pytest.approx((predictions[labels == k] == k).mean())
        )
    mistakes = evaluation.mistakes(10)
    assert len(mistakes) == min(10, count - evaluation.correct)
    assert all(predictions[i] != labels[i] for i in mistakes)
    confidence = probabilities[mistakes].max(1)
    assert all(confidence[:-1] >= confidence[1:])
    pairs = evaluation.confused_pairs(3)
    assert all(
        matrix[true, predicted] == n > 0 and true != predicted for true, predicted, n in pairs
    )
    counts = [n for *_, n in pairs]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) <= count - evaluation.correct


def test_what_is_no_split_is_refused(coloured):
    with pytest.raises(ValueError, match="no split 'bogus': there are train, holdout, test"):
        evaluate(Colour(), coloured, "bogus")
