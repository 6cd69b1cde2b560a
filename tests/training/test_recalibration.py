"""Running statistics that are measured anew after the last epoch."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import normlab
from made_up import CLASSES, split
from normlab.config import RunConfig
from normlab.data.dataset import Dataset
from normlab.errors import InterruptedRunError
from normlab.inference.evaluate import to_input
from normlab.layers import norms
from normlab.network.model import Network
from normlab.training.recalibration import recalibrate

LAYOUT = "C:6 P C:6+ C:8 GAP FC"
IMAGES = torch.from_numpy(split([k % 10 for k in range(730)]).images)  # two batches
STATISTICS = [name for name in norms.REGISTRY if name.endswith("bn")]


def network(norm, **options):
    torch.manual_seed(0)
    return Network(LAYOUT, norm=norm, classes=10, dropout=0.0, **options)


def statistics(network):
    return {k: v.clone() for k, v in network.state_dict().items() if "running" in k}


def in_float64(network, images, order):
    """The mean over two batches of each channel's mean and unbiased variance, layer by layer."""
    expected = {}
    layers = [(n, m) for n, m in network.named_modules() if hasattr(m, "running_var")]
    network.eval()
    batches = order.tensor_split(2)
    for name, layer in layers:
        seen = []

        def look(_, inputs, seen=seen):
            seen.append(inputs[0].double())

        handle = layer.register_forward_pre_hook(look)
        for places in batches:
            with torch.no_grad():
                network.train()
                network(to_input(images[places]))
        handle.remove()
        weights = torch.tensor([len(places) for places in batches]).double() / len(order)
        expected[f"{name}.running_mean"] = sum(
            w * x.mean((0, 2, 3)) for w, x in zip(weights, seen, strict=True)
        )
        expected[f"{name}.running_var"] = sum(
            w * x.var((0, 2, 3)) for w, x in zip(weights, seen, strict=True)
        )
    return expected


def test_statistics_are_the_means_over_the_training_images():
    net = network("bn")
    order = torch.randperm(len(IMAGES))
    expected = in_float64(net, IMAGES, order)
    recalibrate(net, IMAGES, order)
    found = statistics(net)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-5)


def test_pytorchs_layers_are_measured_anew_too_whatever_their_momentum():
    torch.manual_seed(0)
    nets = [
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, momentum=momentum))
        for momentum in (0.1, None)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    for net in nets:
        assert recalibrate(net, IMAGES, torch.arange(len(IMAGES)))
    assert [net[1].momentum for net in nets] == [0.1, None]
    assert torch.equal(nets[0][1].running_mean, nets[1][1].running_mean)
    assert torch.equal(nets[0][1].running_var, nets[1][1].running_var)
    assert nets[0][1].running_mean.any()


def test_ghost_bn_measures_whole_batches_as_bn_does():
    order = torch.arange(len(IMAGES))
    found = []
    for norm in ("bn", "ghost-bn=2"):
        net = network(norm)
        recalibrate(net, IMAGES, order)
        found.append(list(statistics(net).values()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", STATISTICS)
def test_every_batch_normalization_forgets_its_old_statistics(norm):
    found = []
    for start in (0.0, 5.0):
        net = network(norm)
        for name, buffer in net.named_buffers():
            if name.endswith("running_mean"):
                buffer += start
        recalibrate(net, IMAGES, torch.arange(len(IMAGES)))
        found.append(list(statistics(net).values()))
    assert found[0]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_weights_modes_and_momentum_stay():
    net = network("bn")
    momenta = [m.momentum for m in net.modules() if hasattr(m, "momentum")]
    weights = [p.clone() for p in net.parameters()]
    net.train()
    recalibrate(net, IMAGES, torch.arange(len(IMAGES)))
    assert all(module.training for module in net.modules())
    assert [m.momentum for m in net.modules() if hasattr(m, "momentum")] == momenta
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), weights, strict=True))


def test_dropout_is_off_and_comes_back():
    torch.manual_seed(0)
    net = Network(LAYOUT, norm="bn", classes=10, dropout=0.4)
    plain = network("bn")
    plain.load_state_dict(net.state_dict())
    for each in (net, plain):
        recalibrate(each, IMAGES, torch.arange(len(IMAGES)))
    for one, other in zip(statistics(net).values(), statistics(plain).values(), strict=True):
        assert torch.equal(one, other)
    assert {m.dropout for m in net.modules() if isinstance(getattr(m, "dropout", None), float)} == {
        0.4
    }


@pytest.mark.parametrize("norm", ["gn", "ln", "none", "rms", "proxy-gn"])
def test_a_network_without_running_statistics_stays_as_it_is(norm):
    """No image is looked at: over a training split that takes seconds."""
    net = network(norm)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.register_forward_pre_hook(lambda *_: pytest.fail("it looks at images"))
    assert not recalibrate(net, IMAGES, torch.arange(len(IMAGES)))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def data():
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 10, n) for n in (600, 200))
    return Dataset(name="made up", train=split(train), test=split(test, 1), classes=CLASSES)


CONFIG = RunConfig(
    network=LAYOUT, recipe="demo", norm="ghost-bn=4", epochs=2, dataset="digits", recalibrate=True
)


def test_a_run_records_the_accuracy_with_and_without(tmp_path):
    plain = normlab.train(
        dataclasses.replace(CONFIG, recalibrate=False), tmp_path / "a", dataset=data(), quiet=True
    )
    run = normlab.train(CONFIG, tmp_path / "b", dataset=data(), quiet=True)
    assert run.epochs[0].without_recalibration is None
    assert run.last.without_recalibration == plain.last.accuracy
    assert run.last.train_loss == plain.last.train_loss
    evaluation = normlab.evaluate(run.network(), data())
    assert evaluation.accuracy == run.last.accuracy  # what is saved is what was measured
    assert normlab.Run.open(tmp_path / "b").epochs == run.epochs
    without = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    assert all("without_recalibration" not in line for line in without)
    assert "recalibrate" not in json.loads((tmp_path / "a/config.json").read_text())["run"]


class StopAtLastEpoch(normlab.Callback):
    def on_step_end(self, state):
        if state.epoch == 1 and state.step == 5:
            raise InterruptedRunError("stopped")


@pytest.mark.slow(2)
def test_a_stopped_run_ends_the_same(tmp_path):
    whole = normlab.train(CONFIG, tmp_path / "a", dataset=data(), quiet=True)
    with pytest.raises(InterruptedRunError):
        normlab.train(
            CONFIG, tmp_path / "b", dataset=data(), quiet=True, callbacks=[StopAtLastEpoch()]
        )
    resumed = normlab.resume(tmp_path / "b", dataset=data(), quiet=True)
    assert resumed.last.without_recalibration == whole.last.without_recalibration
    for one, other in zip(
        whole.network().state_dict().values(),
        resumed.network().state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)
