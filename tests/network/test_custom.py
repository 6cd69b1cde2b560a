"""Networks of the user's own: `module:function` in place of a layout."""

import dataclasses
import importlib
import json
import pickle
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import normlab
from environments import on_few_images
from harness import EXECUTION, InterruptAt
from normlab import Network, RunConfig, StudyConfig, norms, recipes
from normlab.errors import InterruptedRunError, RunError, UsageError
from normlab.inference.explain import class_maps
from normlab.network.summary import summarize
from normlab.report.card import write_card
from normlab.study import local
from normlab.study.compare import compare
from normlab.training.optimizers import trained_by_muon
from normlab.training.setup import data_card, new_network
from normlab.training.step import TrainStep
from small_study import run_here

ROOT = Path(__file__).parents[2]
RESNET = "examples.resnet20:resnet20"

NETS = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Net(nn.Module):
    def __init__(self, norm, classes):
        super().__init__()
        self.classifier = nn.Linear(12, classes)  # not in the order of its use
        self.first = norm.conv2d(3, 8, 3, 2, 1, bias=False)
        self.stem = norm(8)
        self.conv = norm.conv2d(8, 12, 3, 2, 1, bias=False)
        self.norm = norm(12, activate=True)
        self.hidden = nn.Linear(12, 12)

    def forward(self, x):
        x = F.relu_(self.stem(self.first(x)))  # in place
        x = F.dropout(self.norm(self.conv(x)), 0.1, self.training)
        return self.classifier(F.relu(self.hidden(x.mean((2, 3)))))


def net(norm, classes):
    return Net(norm, classes)


class Odd(nn.Module):
    '''A shared module, tied and reparametrized weights, an own parameter, frozen statistics.'''

    def __init__(self, norm, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.shared = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), norm(8, activate=True))
        self.again = self.shared
        self.tied = nn.Conv2d(8, 8, 3, 1, 1)
        self.tied.weight = self.shared[0].weight
        self.own = nn.BatchNorm2d(8)
        self.scaled = weight_norm(nn.Conv2d(8, 8, 1))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(8, classes)

    def train(self, mode=True):
        super().train(mode)
        self.own.eval()
        return self

    def forward(self, x):
        x = self.again(self.shared(self.conv(x)))
        x = self.own(self.scaled(self.tied(x))) * self.scale
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def odd(norm, classes):
    return Odd(norm, classes)


def shaped(norm, classes, shape):
    return nn.Sequential(
        norm.conv2d(shape[0], 8, 3), norm(8, activate=True), nn.Flatten(),
        nn.Linear(8 * (shape[1] - 2) * (shape[2] - 2), classes),
    )


def masked(norm, classes):
    made = Net(norm, classes)
    made.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    return made


def complex_numbers(norm, classes):
    made = Net(norm, classes)
    made.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    return made


class Branched(nn.Module):
    def __init__(self, norm, classes):
        super().__init__()
        self.stem = norm.conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = norm(8, activate=True)
        self.branch = nn.Conv2d(8, 8, 3, 1, 1)
        nn.init.zeros_(self.branch.weight)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = self.norm(self.stem(x))
        return self.head((x + self.branch(x)).mean((2, 3)))


def branched(norm, classes):
    return Branched(norm, classes)


def shapes(norm, classes):
    return nn.Sequential(nn.Conv2d(3, 8, 1), norm(8))


def tuples(norm, classes):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    return Pair()


def number(norm, classes):
    return 3


def raising(norm, classes):
    raise RuntimeError("no\\nway")


def leaving(norm, classes):
    raise SystemExit("bye")


def arguments(channels):
    return None


def failing(norm, classes):
    return nn.Sequential(nn.Conv2d(4, 8, 1))


def channels(norm, classes):
    return nn.Sequential(nn.Conv2d(3, 8, 1), norm(12))


def flat(norm, classes):
    return nn.Sequential(nn.Flatten(), norm(3072), nn.Linear(3072, classes))


def viewing(norm, classes):
    class View(nn.Module):
        def forward(self, x):
            return x.view(len(x), -1)

    return nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), View(), nn.Linear(1024, classes))


def unused(norm, classes):
    made = nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))
    made[0].forgotten = norm(8)
    return made


def plain(norm, classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 8), norm(8), nn.Flatten(), nn.Linear(128, classes)
    )


def one_by_one(norm, classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 32), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, classes)
    )


def linear(norm, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, classes))


KEPT = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def kept(norm, classes):
    return KEPT


value = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """The module `nets_of_a_test` in the working folder, not imported yet."""
    (tmp_path / "nets_of_a_test.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "nets_of_a_test", raising=False)
    importlib.invalidate_caches()
    yield "nets_of_a_test"
    sys.modules.pop("nets_of_a_test", None)


@pytest.fixture
def from_the_root(monkeypatch):
    """The working folder is the repository."""
    monkeypatch.chdir(ROOT)


def tiny(nets, **settings):
    given = {"norm": "bn", "epochs": 2, "train_images": 64} | settings
    return RunConfig(network=f"{nets}:net", dataset="digits", recipe="demo", **given)


def first_network(network, norm, recipe, seed=0):
    config = RunConfig(network=network, norm=norm, recipe=recipe, dataset="digits", seed=seed)
    dataset = normlab.data.load("digits")
    return new_network(config, recipes.resolve(config), data_card(dataset, holdout=0))[0]


# Building


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nope", "nets_of_a_test:nope: nets_of_a_test has no function nope"),
        ("channel", "nets_of_a_test has no function channel: did you mean channels?"),
        ("value", "nets_of_a_test has no function value"),
        ("shapes", r"must map N × 3 × 32 × 32 to N × 10, .*: two images gave \(2, 8, 32, 32\)"),
        ("tuples", "two images gave tuple"),
        ("number", "nets_of_a_test:number with gn must return a torch.nn.Module, not int"),
        ("raising", "nets_of_a_test:raising with gn failed: RuntimeError: no way"),
        ("leaving", "nets_of_a_test:leaving with gn failed: SystemExit: bye"),
        ("arguments", "failed: TypeError: .*unexpected keyword argument 'norm'"),
        ("failing", "applied to two images of 3 × 32 × 32, failed: RuntimeError: .*4 channels"),
        ("channels", r"norm\(12\) expects N × 12 × H × W, not 2 × 8 × 32 × 32"),
        ("flat", r"norm\(3072\) expects N × 3072 × H × W, not 2 × 3072"),
        ("viewing", r"applied to two images of 3 × 32 × 32, failed: RuntimeError: .*Use .reshape"),
        ("unused", "has a normalization that it does not use, 0.forgotten"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(name, problem, nets):
    with pytest.raises(UsageError, match=problem) as caught:
        Network(f"{nets}:{name}", norm="gn")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "masked",
            "mask has values that are not finite, which a run cannot store; a",
        ),
        ("complex_numbers", "phase has numbers of type torch.complex64, which a run cannot store"),
    ],
)
def test_what_a_run_cannot_store_is_refused_before_training(name, problem, nets, tmp_path):
    with pytest.raises(UsageError, match=problem):
        normlab.train(
            dataclasses.replace(tiny(nets), network=f"{nets}:{name}"), tmp_path / "run", quiet=True
        )
    assert not (tmp_path / "run").exists()


def test_a_residual_branch_that_starts_at_zero_is_trained_by_muon(nets, tmp_path):
    config = dataclasses.replace(tiny(nets), network=f"{nets}:branched", recipe="line", epochs=1)
    run = normlab.train(config, tmp_path / "run", quiet=True)
    assert run.network().blocks[0].module.branch.weight.any()


def test_a_module_that_is_made_once_is_refused(nets):
    """A run would start with the trained weights of the one before it."""
    with pytest.raises(UsageError, match="kept with gn must make a new module at each call"):
        Network(f"{nets}:kept", norm="gn")


@pytest.mark.parametrize(
    ("network", "options", "problem"),
    [
        ("no_such_module:f", (), "no_such_module:f: No module named 'no_such_module'. Is the file"),
        ("nets_of_a_test:plain", ("--norm", "gn-ws"), "Make them with norm.conv2d(…) in place of"),
        ("nets_of_a_test:net", ("--norm", "gn=3"), "nets_of_a_test:net with gn=3, applied to two"),
        ("nets_of_a_test:net", ("--norm", "no"), "no normalization 'no'"),
        ("nets_of_a_test:net", ("--budget", "9000"), "a parameter budget does not apply, leave it"),
    ],
)
@pytest.mark.parametrize("command", ["train", "summary"])
def test_the_command_line_says_so_in_one_line(command, network, options, problem, nets, cli):
    data = ("--dataset", "digits", "--recipe", "demo") if command == "train" else ()
    code, _, errors = cli(command, network, *options, *data)
    assert code == 2
    assert problem in errors
    assert errors.count("\n") == 1


def test_a_study_refuses_a_budget(nets):
    study = StudyConfig(network=f"{nets}:net", budgets=(500,), dataset="digits", recipe="demo")
    with pytest.raises(UsageError, match="is your own network: a parameter budget does not apply"):
        compare(study, "study", dry_run=True, quiet=True)


def test_it_stands_alone_in_a_layout(nets):
    with pytest.raises(UsageError, match="your own network stands alone"):
        Network(f"C:8 {nets}:net GAP FC")
    with pytest.raises(UsageError, match="':x' is not an option"):
        Network("C:x")  # a mistyped layout, as before


def test_a_module_that_fails_on_import_is_named(nets):
    Path("breaks_on_import.py").write_text("1 / 0")
    with pytest.raises(UsageError, match="importing breaks_on_import failed: ZeroDivisionError"):
        Network("breaks_on_import:f")


def test_a_function_that_takes_the_shape_gets_that_of_the_images(nets, tmp_path):
    network = Network(f"{nets}:shaped", norm="gn", shape=(1, 20, 20))
    assert network(torch.rand(2, 1, 20, 20)).shape == (2, 10)
    table = summarize(f"{nets}:shaped", norm="gn", shape=(1, 20, 20))
    assert table.parameters == sum(p.numel() for p in network.parameters())
    run = normlab.train(
        dataclasses.replace(tiny(nets, epochs=1), network=f"{nets}:shaped"), tmp_path, quiet=True
    )
    assert run.config.shape == (1, 32, 32)
    assert normlab.Run.open(tmp_path).network().shape == (1, 32, 32)


def test_a_function_that_takes_no_shape_gets_colour_unless_told_otherwise(nets, tmp_path):
    run = normlab.train(tiny(nets, epochs=1), tmp_path / "run", quiet=True)
    assert run.config.shape == (3, 32, 32)
    problem = r"net with bn, which takes no shape, applied to two images of 1 × 32 × 32, failed: "
    with pytest.raises(UsageError, match=problem):
        normlab.train(tiny(nets, channels="grey"), tmp_path / "grey", quiet=True)
    study = StudyConfig(network=f"{nets}:net", dataset="digits", recipe="demo", seeds=1)
    shape = {
        name: normlab.compare(
            dataclasses.replace(study, network=f"{nets}:{name}"), tmp_path / name, dry_run=True
        )
        .arms[0]
        .config.shape
        for name in ("net", "shaped")
    }
    assert shape == {"net": (3, 32, 32), "shaped": (1, 32, 32)}


def test_a_batch_that_it_cannot_be_trained_on_is_refused_before_training(nets, tmp_path):
    config = dataclasses.replace(
        tiny(nets), network=f"{nets}:one_by_one", batch_size=9, train_images=64
    )
    with pytest.raises(UsageError, match="one_by_one with bn cannot be trained on a batch of 1"):
        normlab.train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("norm", norms.REGISTRY)
def test_every_normalization_can_be_in_it(norm, nets):
    torch.manual_seed(0)
    network = Network(f"{nets}:net", norm=norm, classes=7)
    images = torch.rand(4, 3, 32, 32)
    assert network(images).shape == (4, 7)
    network(images).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("norm", ["bn", "gn", "sws", "dyt", "proxy-gn", "none"])
def test_the_runs_activation_follows_where_it_is_asked_for(norm, nets):
    relu, prelu, silu = (
        Network(f"{nets}:net", norm=norm, activation=name) for name in ("relu", "prelu", "silu")
    )
    assert prelu.counted_parameters - relu.counted_parameters == 12  # one of two is activated
    table = summarize(f"{nets}:net", norm=norm, activation="prelu")
    assert (table.parameters, table.activation) == (prelu.counted_parameters, "prelu")
    images = torch.rand(4, 3, 32, 32)
    torch.manual_seed(0)
    with_relu = relu(images)
    torch.manual_seed(0)
    assert not torch.allclose(silu(images), with_relu, atol=1e-4)


def test_normalizations_with_one_seed_start_from_the_same_weights(nets):
    networks = [Network(f"{nets}:net", norm=norm, seed=5).state_dict() for norm in ("bn", "none")]
    shared = [n for n in networks[0] if n in networks[1] and "layer" not in n]
    assert "blocks.0.module.first.weight" in shared
    for name in shared:
        assert torch.equal(networks[0][name], networks[1][name])
    other = Network(f"{nets}:net", norm="bn", seed=6).state_dict()
    first = "blocks.0.module.first.weight"
    assert not torch.equal(other[first], networks[0][first])


def test_the_callers_generator_is_left_alone(nets):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Network(f"{nets}:net", norm="gn")
    normlab.summarize(f"{nets}:net", norm="gn")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("training", [True, False])
def test_it_computes_what_the_module_computes_with_pytorchs_layers(training, nets):
    network = Network(f"{nets}:net", norm="bn", classes=10).train(training)
    network.to(memory_format=torch.channels_last)
    module = sys.modules[nets]

    class Plain:
        conv2d = nn.Conv2d

        def __call__(self, channels, activate=False):
            bn = nn.BatchNorm2d(channels)
            return nn.Sequential(bn, nn.ReLU()) if activate else bn

    plain = module.net(Plain(), 10).train(training)
    own = list(network.parameters())
    with torch.no_grad():
        for ours, theirs in zip(own, plain.parameters(), strict=True):
            theirs.copy_(ours)
    images = torch.rand(8, 3, 32, 32).to(memory_format=torch.channels_last)
    outputs = []
    for network_, x in ((network, images), (plain, images)):
        torch.manual_seed(1)
        outputs.append(network_(x))
        outputs[-1].square().sum().backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(own, plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)


# The layer table


def test_resnet20_is_the_published_one(from_the_root):
    table = normlab.summarize(RESNET, norm="bn")
    convolutions = [row for row in table.rows if row.macs and len(row.shape) == 3]
    assert len(convolutions) == 19
    assert [row.shape for row in convolutions[::6]] == [
        *((16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8)),
    ]
    weights = 432 + 6 * 2304 + 4608 + 5 * 9216 + 18432 + 5 * 36864
    assert table.parameters == weights + 2 * (7 * 16 + 6 * 32 + 6 * 64) + 650 == 269_722
    assert table.running_statistics == 2 * (7 * 16 + 6 * 32 + 6 * 64)
    assert table.macs == 40_551_040
    assert "the parameter budget, open widths" in table.note
    # As torchinfo counts them, biases included.
    torchinfo = pytest.importorskip("torchinfo")
    network = Network(RESNET, norm="bn")
    counted = torchinfo.summary(network, (1, 3, 32, 32), verbose=0)
    assert counted.trainable_params == table.parameters


def test_the_layer_table_counts_each_weight_once(nets):
    table = normlab.summarize(f"{nets}:odd", norm="gn")
    network = Network(f"{nets}:odd", norm="gn")
    assert table.parameters == sum(p.numel() for p in network.parameters())
    rows = {row.block: row for row in table.rows}
    assert rows["tied"].parameters == 8  # its bias
    # Used twice.
    assert rows["shared.0"].macs == 2 * 8 * 8 * 9 * 16 * 16
    assert rows["shared.1"].normalization == "gn=4"
    assert rows["unused"].shape == ()
    assert rows["Odd"].parameters == 8


# First weights and optimizers


def test_muon_trains_what_mixes_channels_but_the_classifier(nets):
    network = first_network(f"{nets}:net", "gn", "micro")
    module = network.blocks[0].module
    weights = trained_by_muon(network, recipes.find("micro"))
    assert [id(w) for w in weights] == [
        id(layer.weight) for layer in (module.first, module.conv, module.hidden)
    ]
    sgd, muon = (
        s.optimizer for s in TrainStep(network, recipes.find("micro"), "float32").optimizers
    )
    assert [id(p) for p in sgd.decaying] == [id(module.classifier.weight)]
    assert sgd.weight_decay == 5e-4
    assert len(sgd.others) == 2 * 2 + 2
    assert len(muon.weights) == 3


@pytest.mark.parametrize("network", ["net", "odd"])
@pytest.mark.parametrize("recipe", ["micro", "sprint", "demo"])
@pytest.mark.parametrize("norm", ["bn", "gn", "ln", "none", "lrn", "evonorm-s0", "frn"])
def test_an_update_at_a_vanishing_rate_leaves_the_answers_as_they_were(norm, recipe, network, nets):
    network = first_network(f"{nets}:{network}", norm, recipe).train()
    inputs, labels = torch.rand(16, 3, 32, 32), torch.arange(16) % 10

    def answers():
        torch.manual_seed(0)
        with torch.no_grad():
            return network(inputs)

    before = answers()
    TrainStep(network, recipes.find(recipe), "float32").step(1e-9, inputs, labels)
    moved = (answers() - before).abs().max() / before.abs().max()
    assert moved < (1e-3 if norms.REGISTRY[norm].scale_invariant else 1e-5)


@pytest.mark.parametrize("norm", ["none", "lrn", "evonorm-s0"])
def test_a_normalization_makes_up_for_muons_norm(norm, from_the_root):
    """Only for the convolution before it, which is known by its output."""
    with_muon, without = (
        first_network(RESNET, norm, recipe).eval() for recipe in ("micro", "demo")
    )
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(with_muon(images), without(images), rtol=1e-3, atol=1e-5)


# Runs


@pytest.fixture
def trained_net(nets, tmp_path):
    """A run of two epochs."""
    return normlab.train(tiny(nets), tmp_path / "run", EXECUTION, quiet=True)


@pytest.mark.parametrize("network", ["net", "odd"])
@pytest.mark.parametrize("recipe", ["demo", "sprint"])
def test_an_interrupted_run_ends_with_the_same_bits(recipe, network, nets, tmp_path):
    config = dataclasses.replace(tiny(nets, batch_size=16), network=f"{nets}:{network}")
    config = dataclasses.replace(config, recipe=recipe, norm="none")
    whole = normlab.train(config, tmp_path / "whole", EXECUTION, quiet=True)
    with pytest.raises(InterruptedRunError) as stopped:
        normlab.train(
            config, tmp_path / "parts", EXECUTION, callbacks=[InterruptAt((1, 2))], quiet=True
        )
    assert "To resume: NORMLAB_NETWORKS=nets_of_a_test normlab train --resume" in str(stopped.value)
    parts = normlab.resume(tmp_path / "parts", EXECUTION, quiet=True)
    expected, found = (run.network().state_dict() for run in (whole, parts))
    assert expected.keys() == found.keys()
    for name in expected:
        assert torch.equal(expected[name], found[name]), name
    assert [e.loss for e in whole.epochs] == [e.loss for e in parts.epochs]


def test_a_run_records_its_function_and_its_parameters(trained_net):
    run = normlab.Run.open(trained_net.path)
    assert (run.config.network, run.layout) == ("nets_of_a_test:net",) * 2
    assert run.parameters == run.summary.parameters == 1406
    assert run.digest == trained_net.digest
    assert trained_net.last.accuracy == pytest.approx(
        normlab.evaluate(run.network(), run.dataset()).accuracy
    )


def test_opening_a_run_imports_nothing_that_was_not_vouched_for(trained_net, monkeypatch):
    del sys.modules["nets_of_a_test"]
    Path("nets_of_a_test.py").write_text("open('ran', 'w').close()\n" + NETS)
    with pytest.raises(RunError, match="names the network nets_of_a_test:net, which is code: if"):
        normlab.Run.open(trained_net.path)
    monkeypatch.setenv("NORMLAB_NORMS", "nets_of_a_test")  # normalizations are another question
    with pytest.raises(RunError, match="put NORMLAB_NETWORKS=nets_of_a_test before the command"):
        normlab.load(trained_net.path)
    assert not Path("ran").exists()
    monkeypatch.setenv("NORMLAB_NETWORKS", "other nets_of_a_test")
    assert normlab.load(trained_net.path).predict(torch.zeros(32, 32, 3).byte().numpy())
    assert Path("ran").exists()


@pytest.mark.parametrize("function", ["os:_exit", "os:system", "builtins:exec", "sys:exit"])
def test_a_forged_run_makes_no_other_function_run(function, trained, tmp_path):
    """Modules that are imported already count as trusted."""
    from normlab.storage.checksums import add_checksum, read_json, verify_checksum

    content = verify_checksum(read_json(trained.path / "config.json", 2, "run"))
    content |= {"layout": function, "parameters": 3}
    (tmp_path / "config.json").write_text(json.dumps(add_checksum(content)))
    with pytest.raises(RunError, match="makes no network"):
        _ = normlab.Run.open(tmp_path).summary


def test_a_function_that_changed_is_refused(trained_net, monkeypatch):
    wider = NETS.replace("8, 12, 3, 2", "8, 13, 3, 2").replace("(12", "(13").replace("12)", "13)")
    Path("nets_of_a_test.py").write_text(wider)
    del sys.modules["nets_of_a_test"]
    importlib.invalidate_caches()
    monkeypatch.setenv("NORMLAB_NETWORKS", "nets_of_a_test")
    with pytest.raises(RunError, match=r"makes 1,\d{3} parameters, the run in .* has 1,406: its"):
        normlab.Run.open(trained_net.path).network()


@pytest.mark.slow(5)
def test_page_card_heat_maps_and_export(trained_net, tmp_path):
    page = normlab.write_report([trained_net]).read_text()
    assert "nets_of_a_test:net" in page
    assert "do not apply" in page
    card = write_card([trained_net]).read_text()
    assert "Its code is a function that is not in this folder:\n\n    nets_of_a_test:net\n" in card
    assert "NORMLAB_NETWORKS=nets_of_a_test normlab predict model" in card
    maps = class_maps(trained_net.network(), trained_net.dataset().test, 10)
    assert maps.max() == 1
    for kind in ("pt2", "onnx"):
        exported = normlab.export_run(trained_net, kind, tmp_path / f"net.{kind}")
        assert exported.difference < 1e-5


@pytest.mark.slow(2)
def test_odd_networks_are_saved_and_exported(nets, tmp_path):
    config = dataclasses.replace(tiny(nets), network=f"{nets}:odd", recipe="sprint", norm="gn")
    run = normlab.train(config, tmp_path / "run", EXECUTION, quiet=True)
    reopened = normlab.Run.open(run.path)
    module = reopened.network().blocks[0].module
    assert torch.equal(module.tied.weight, module.shared[0].weight)
    exported = normlab.export_run(reopened, "onnx", tmp_path / "odd.onnx")
    assert exported.difference < 1e-5


def test_a_network_without_maps_has_no_heat_maps(nets):
    network = Network(f"{nets}:linear", norm="gn").eval()
    test = normlab.data.load("digits").test
    with pytest.raises(
        UsageError, match="nets_of_a_test:linear has no maps of more than one pixel"
    ):
        class_maps(network, test, 10)


@pytest.mark.slow(5)
def test_a_study_of_two_arms_trains_stops_and_resumes(nets, tmp_path, monkeypatch):
    study = StudyConfig(
        network=f"{nets}:net",
        norms=("bn", "none"),
        seeds=2,
        dataset="digits",
        recipe="demo",
        epochs=1,
        train_images=(64,),
    )
    with monkeypatch.context() as patch:
        patch.setattr(local, "run_jobs", run_here)
        done = compare(study, tmp_path / "study", workers=2, quiet=True)
    assert [result.state for result in done.results] == ["done"] * 4
    assert {result.parameters for result in done.results} == {1406}
    page = normlab.write_study_report(done).read_text()
    assert "nets_of_a_test:net" in page
    (tmp_path / "study" / "runs" / "bn-1" / "answers.npz").unlink()  # its process opens the run
    again = compare(study, tmp_path / "study", workers=2, quiet=True)
    assert again.results == done.results
    del sys.modules[nets]  # a study is opened without importing what it names
    reopened = normlab.Study.open(tmp_path / "study")
    assert nets not in sys.modules
    with pytest.raises(RunError, match="NORMLAB_NETWORKS=nets_of_a_test"):
        reopened.run(reopened.results[0])


@pytest.mark.slow(15)
def test_the_page_of_the_documentation(tmp_path, cli, monkeypatch):
    """Its function, and its commands one after the other. The study's runs have processes."""
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "own-network.md").read_text()
    (code,) = re.findall(r"(?s)```python\n(.*?)```", page)
    (tmp_path / "my_nets.py").write_text(code)
    commands = re.findall(r"(?m)^    ((?:NORMLAB_NETWORKS=\w+ )?normlab .*)$", page)
    assert len(commands) == 4
    for command in commands:
        words = shlex.split(command)
        with monkeypatch.context() as patch:
            if "=" in words[0]:
                patch.setenv(*words.pop(0).split("="))
            code, output, errors = cli(*on_few_images(words[1:]))
        del sys.modules["my_nets"]  # none trusts it because another has imported it
        assert code == 0, (command, errors)
    assert "the run's folder states" in output


@pytest.mark.slow(4)
def test_the_example_trains(from_the_root, tmp_path):
    config = RunConfig(
        network=RESNET, norm="gn", dataset="digits", recipe="demo", epochs=2, train_images=320
    )
    run = normlab.train(config, tmp_path / "run", EXECUTION, quiet=True)
    assert run.last.train_loss < run.epochs[0].train_loss


def test_it_is_a_scikit_learn_classifier(nets):
    train = normlab.data.load("digits").train
    images, labels = train.images[:64, 0], train.labels[:64]
    classifier = normlab.Classifier(network=f"{nets}:net", recipe="demo", epochs=1, device="cpu")
    classifier.fit(images, labels)
    expected = classifier.predict(images)
    assert list(pickle.loads(pickle.dumps(classifier)).predict(images)) == [*expected]
