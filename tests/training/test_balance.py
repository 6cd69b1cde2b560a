"""Classes that are weighted in the loss."""

import dataclasses

import numpy as np
import pytest
import torch

import normlab
from harness import StopAt
from normlab import recipes
from normlab.config import RunConfig
from normlab.data import from_arrays
from normlab.errors import InterruptedRunError
from normlab.network.model import Network
from normlab.training.batches import Batches, class_weights
from normlab.training.step import TrainStep

LINE = "C:4 P C:6 P GAP FC"
CONFIG = RunConfig(network=LINE, recipe="demo", epochs=2, batch_size=8)


def dataset(counts, test=(2, 2, 2)):
    """Noise in three classes, with these numbers of training images."""
    draw = np.random.default_rng(0)
    return from_arrays(
        *(
            each
            for numbers in (counts, test)
            for each in (
                draw.integers(0, 256, (sum(numbers), 32, 32, 3), np.uint8),
                np.repeat(np.arange(3), numbers),
            )
        ),
        classes=("ant", "bee", "cat"),
    )


def train(config, out, data):
    return normlab.train(config, out, dataset=data, quiet=True)


def test_weights_are_inverse_frequencies_whose_mean_over_images_is_1():
    labels = np.repeat([0, 1, 3], [60, 30, 10])  # class 2 has no images
    weights = class_weights(labels)
    np.testing.assert_allclose(weights, [100 / 3 / 60, 100 / 3 / 30, 0, 100 / 3 / 10], rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)
    assert class_weights(np.repeat([0, 1, 2], 7)) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("taught", [False, True])
def test_a_step_matches_the_formula_in_float64(smoothing, taught):
    recipe = recipes.Recipe(
        epochs=1,
        batch_size=16,
        learning_rate=0.1,
        schedule="step",
        momentum=0.0,
        label_smoothing=smoothing,
    )
    draws = torch.Generator().manual_seed(0)
    inputs = torch.rand(16, 3, 32, 32, generator=draws)
    labels = torch.randint(3, (16,), generator=draws)
    logits = 4 * torch.randn(16, 3, generator=draws)
    counts = [25, 10, 5]
    batches = Batches(dataset(counts), recipe, 0, torch.device("cpu"))
    net = Network(LINE, classes=3, seed=1).train()
    exact = Network(LINE, classes=3, seed=1).double().train()
    share, rate = (0.7 if taught else 0.0), 0.1
    log_q, log_p = exact(inputs.double()).log_softmax(1), logits.double().log_softmax(1)
    picked = log_q[torch.arange(16), labels]
    of_labels = -((1 - smoothing) * picked + smoothing * log_q.mean(1))
    of_teacher = (log_p.exp() * (log_p - log_q)).sum(1)
    weights = torch.tensor([40 / 3 / n for n in counts], dtype=torch.float64)[labels]
    expected = (weights * ((1 - share) * of_labels + share * of_teacher)).sum() / 16
    expected.backward()
    step = TrainStep(net, recipe, "float32", teacher_weight=share)
    loss, _ = step.step(rate, inputs, labels, logits if taught else None, batches.weights(labels))
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, found), reference in zip(net.named_parameters(), exact.parameters(), strict=True):
        moved = reference.detach() - rate * reference.grad
        torch.testing.assert_close(found.double(), moved, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(("counts", "equal"), [((12, 12, 12), True), ((20, 12, 4), False)])
def test_equal_classes_change_nothing_to_the_bit(tmp_path, counts, equal):
    data = dataset(counts)
    plain = train(CONFIG, tmp_path / "plain", data)
    balanced = train(dataclasses.replace(CONFIG, balance=True), tmp_path / "balanced", data)
    assert (plain.last.train_loss == balanced.last.train_loss) == equal
    one, other = (run.network().state_dict() for run in (plain, balanced))
    assert all(torch.equal(one[name], other[name]) for name in one) == equal


def test_a_stopped_run_ends_with_the_same_weights(tmp_path):
    config, data = dataclasses.replace(CONFIG, balance=True), dataset((20, 12, 4))
    whole = train(config, tmp_path / "whole", data)
    with pytest.raises(InterruptedRunError):
        normlab.train(
            config, tmp_path / "stopped", dataset=data, callbacks=[StopAt(1, 2)], quiet=True
        )
    resumed = normlab.resume(tmp_path / "stopped", dataset=data, quiet=True)
    one, other = (run.network().state_dict() for run in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert resumed.last.train_loss == whole.last.train_loss


def test_a_run_says_what_its_classes_count(tmp_path, capsys):
    config = dataclasses.replace(CONFIG, balance=True)
    normlab.train(config, tmp_path / "a", dataset=dataset((20, 12, 4)))
    assert "balanced: in the loss, an image of cat has weight 3, an image of ant 0.6" in (
        capsys.readouterr().out
    )
    assert normlab.Run.open(tmp_path / "a").config.balance
    normlab.train(config, tmp_path / "b", dataset=dataset((12, 12, 12)))
    assert "all classes have equally many training images: --balance changes nothing" in (
        capsys.readouterr().out
    )


@pytest.mark.slow(1)
def test_a_balanced_run_finds_the_rare_class_where_a_plain_one_does_not(tmp_path):
    """Brightness tells the classes apart, but not surely; one has 95% of the images."""
    draw = np.random.default_rng(1)
    counts = [190, 10]
    labels = np.repeat([0, 1], counts)
    level = np.where(labels, 150, 110)[:, None, None] + draw.normal(0, 30, (200, 1, 1))
    images = np.broadcast_to(level, (200, 32, 32)).clip(0, 255).astype(np.uint8)
    data = from_arrays(images, labels, images, labels)
    config = RunConfig(network=LINE, recipe="demo", epochs=8)
    found = {}
    for balance in (False, True):
        run = train(dataclasses.replace(config, balance=balance), tmp_path / str(balance), data)
        found[balance] = normlab.evaluate(run.network(), data)
    assert found[True].balanced_accuracy > found[False].balanced_accuracy + 0.1
