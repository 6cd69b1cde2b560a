"""Exported networks, run by ONNX Runtime and PyTorch, against the runs that they come from."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import made_up
import normlab
from normlab.data import load
from normlab.errors import NormlabError, RunError, UsageError
from normlab.export import exporter
from normlab.export.exporter import Quantized
from normlab.export.folding import InferenceModel
from normlab.export.formats.onnx import load as load_onnx
from normlab.export.formats.onnx import quantize
from normlab.inference.evaluate import to_input
from normlab.layers.activations import ACTIVATIONS
from normlab.layers.fused import FusedNorm
from normlab.layers.norms import REGISTRY
from normlab.layers.norms.batch import BatchRenorm, GhostBatchNorm, SyncBatchNorm
from normlab.layers.norms.none import Affine
from normlab.network.model import Network
from normlab.runs.checkpoint import load_weights, save_weights
from random_networks import randomize

DIGITS = load("digits", channels="colour")
FIXED = (
    "none",
    "bn",
    "ghost-bn",
    "brn",
    "sync-bn",
    "ebn",
)  # in eval mode, a weight and a bias per channel
BATCH_NORMS = (FusedNorm, GhostBatchNorm, BatchRenorm, SyncBatchNorm)
EVERY_NORM = "C:8 P " + " ".join(f"C:8/{name}+" for name in REGISTRY) + " P P FC"
EVERY_BLOCK = "C:8v C:8s2 C:8+*2 C:8/none+*2 c:6 P D:12v D:12+*2 A D:12s2 c:12*2 FC:16 FC"
NORMLAB = [sys.executable, "-m", "normlab"]
PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def random_run(folder, layout, norm="bn", activation="relu"):
    """A run on digits with random weights and statistics instead of trained ones.

    Its predictions differ from image to image: those of PyTorch's initial weights hardly do.
    """
    network = Network(layout, norm=norm, activation=activation).eval()
    random = torch.Generator().manual_seed(0)
    randomize(network, random)
    with torch.no_grad():
        logits = network(to_input(torch.from_numpy(DIGITS.test.images)))
        std, mean = torch.std_mean(logits, 0)
        classifier = network.blocks[-1].linear
        classifier.weight /= std[:, None]
        classifier.bias -= mean
        classifier.bias /= std
    run = made_up.run(
        folder,
        layout=network.layout,
        classes=DIGITS.classes,
        fingerprint=DIGITS.fingerprint,
        train=len(DIGITS.train),
        test=len(DIGITS.test),
        network=layout,
        norm=norm,
        activation=activation,
        dataset="digits",
    )
    run.write_config()
    save_weights(folder / "model.safetensors", network)
    return normlab.Run.open(folder)


def by_pytorch(path, images):
    return torch.export.load(path).module()(torch.from_numpy(images)).numpy()


def by_onnx_runtime(path, images):
    return onnxruntime.InferenceSession(path).run(None, {"images": images})[0]


def correct(path):
    return (by_onnx_runtime(path, DIGITS.test.images).argmax(1) == DIGITS.test.labels).sum()


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """A trained run, and everything exported from it."""
    folder = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(trained.path, folder)
    run = normlab.Run.open(folder)
    return {
        "run": run,
        "onnx": normlab.export_run(run, "onnx"),
        "int8": normlab.export_run(run, "onnx", int8=True),
        "pt2": normlab.export_run(run, "pt2"),
    }


# The network


@pytest.mark.parametrize("norm", REGISTRY)
def test_every_normalization_predicts_as_in_eval_mode(norm, tmp_path):
    run = random_run(tmp_path, "C:8 D:8s2 C:8+*2 D:8*2 C:8v P P FC", norm)
    network = InferenceModel(run.network())
    probabilities = network(torch.from_numpy(DIGITS.test.images))
    assert (probabilities.dtype, probabilities.requires_grad) == (torch.float32, False)
    expected = normlab.load(run.path).probabilities(DIGITS.test.images)
    np.testing.assert_allclose(probabilities.numpy(), expected, atol=1e-5)

    layers = list(network.modules())
    biases = [layer.bias is not None for layer in layers if isinstance(layer, nn.Conv2d)]
    if norm in FIXED:
        # Repeated blocks share a convolution: their normalizations stay as affine layers.
        assert biases == [True] * 3 + [False] * 3 + [True]
        assert sum(isinstance(layer, Affine) for layer in layers) == 2 + 4
        assert not any(isinstance(layer, BATCH_NORMS) for layer in layers)
    else:  # evonorm-b0 is affine after a depthwise convolution, where no activation follows
        assert biases == [norm == "evonorm-b0" and k == 1 for k in range(len(biases))]


def test_the_trained_network_is_not_changed(tmp_path):
    network = random_run(tmp_path, "C:8 C:8*2 GAP FC").network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    InferenceModel(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in network.parameters())


# The files


@pytest.mark.slow(5)
@pytest.mark.parametrize("layout", [EVERY_NORM, EVERY_BLOCK], ids=["norms", "blocks"])
@pytest.mark.parametrize(("to", "predict"), [("onnx", by_onnx_runtime), ("pt2", by_pytorch)])
def test_every_normalization_and_block_predicts_as_the_trained_network(
    layout, to, predict, tmp_path
):
    run = random_run(tmp_path, layout)
    exported = normlab.export_run(run, to)
    assert exported.path == tmp_path / f"model.{to}"
    assert exported.size == exported.path.stat().st_size
    assert (exported.images, exported.quantized) == (360, None)
    expected = normlab.load(tmp_path).probabilities(DIGITS.test.images)
    probabilities = predict(exported.path, DIGITS.test.images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert (probabilities.argmax(1) == expected.argmax(1)).all()
    assert exported.difference == pytest.approx(abs(probabilities - expected).max(), abs=1e-6)
    for n in (1, 7):  # any number of images
        np.testing.assert_allclose(
            predict(exported.path, DIGITS.test.images[:n]), expected[:n], atol=1e-5
        )
    if to == "onnx":
        int8 = load_onnx(quantize(exported.path.read_bytes(), DIGITS.train.images[:200], {}))
        # Random weights are sensitive to rounding. By chance a tenth of the classes would be equal.
        assert (int8(DIGITS.test.images).argmax(1) == expected.argmax(1)).mean() > 0.6


@pytest.mark.slow(6)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_predicts_as_the_trained_network(activation, tmp_path):
    """Folded and not, in ONNX, in pt2 and in int8; the network is read from the run's folder."""
    layout = "C:8 C:8/gn C:8+*2 P D:8a+ D:8a/gn+ P GAP FC"  # those of a gn stay as they are
    run = random_run(tmp_path, layout, "bn", activation)
    network = Network(run.layout, norm="bn", activation=activation)
    load_weights(tmp_path / "model.safetensors", network)
    pixels = DIGITS.test.images
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(pixels) / 255).softmax(1).numpy()
    np.testing.assert_allclose(normlab.load(tmp_path).probabilities(pixels), expected, atol=1e-5)
    for to, predict in (("onnx", by_onnx_runtime), ("pt2", by_pytorch)):
        exported = normlab.export_run(run, to)
        np.testing.assert_allclose(predict(exported.path, pixels), expected, atol=1e-5)
    file = (tmp_path / "model.onnx").read_bytes()
    metadata = {each.key: each.value for each in onnx.load_from_string(file).metadata_props}
    assert metadata["activation"] == activation
    int8 = load_onnx(quantize(file, DIGITS.train.images[:200], {}))(pixels)
    # Random weights are sensitive to rounding. By chance a tenth of the classes would be equal.
    assert (int8.argmax(1) == expected.argmax(1)).mean() > 0.6


def test_onnx_takes_pixels_gives_probabilities_and_has_batchnorm_folded(files):
    session = onnxruntime.InferenceSession(files["onnx"].path)
    (images,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type) == ("images", "tensor(uint8)")
    assert images.shape == ["batch", 3, 32, 32]
    assert (probabilities.name, probabilities.type) == ("probabilities", "tensor(float)")
    assert probabilities.shape == ["batch", 10]
    model = onnx.load(files["onnx"].path)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 4
    assert not {"BatchNormalization", "Sqrt", "Mul"} & {*operators}


def test_files_hold_metadata_about_their_origin(files):
    expected = {
        "classes": json.dumps([*"0123456789"]),
        "input": "[3, 32, 32]",
        "layout": "C:12 P C:24 P D:32 GAP FC",
        "norm": "bn",
        "activation": "relu",
        "seed": "0",
        "weights": sha256((files["run"].path / "model.safetensors").read_bytes()).hexdigest(),
        "fingerprint": DIGITS.fingerprint,
        "normlab": normlab.__version__,
    }
    for name in ("onnx", "int8"):
        session = onnxruntime.InferenceSession(files[name].path)
        assert session.get_modelmeta().custom_metadata_map == expected
    metadata = dict.fromkeys(expected, "")
    torch.export.load(files["pt2"].path, extra_files=metadata)
    assert metadata == expected


def test_files_name_no_folder_of_this_machine(files):
    folder = str(Path(normlab.__file__).parent).encode()
    assert not any(folder in files[name].path.read_bytes() for name in ("onnx", "int8", "pt2"))


def test_files_are_hardly_larger_than_the_weights(files):
    weights = (files["run"].path / "model.safetensors").stat().st_size
    assert files["onnx"].size < 1.3 * weights
    assert files["int8"].size < 0.7 * files["onnx"].size


def test_a_run_in_bfloat16_is_exported_in_float32(tmp_path):
    config = normlab.RunConfig(
        network="C:6 P C:8/gn GAP FC",
        dataset="digits",
        channels="colour",
        recipe="demo",
        epochs=1,
        precision="bfloat16",
    )
    run = normlab.train(config, tmp_path, quiet=True)
    exported = normlab.export_run(run, "pt2")
    probabilities = by_pytorch(exported.path, DIGITS.test.images)
    assert (probabilities.argmax(1) == DIGITS.test.labels).sum() == round(360 * run.last.accuracy)


def test_of_many_test_images_an_evenly_spaced_sample_is_compared(files, monkeypatch, tmp_path):
    monkeypatch.setattr(exporter, "CHECK_IMAGES", 50)
    batches = []
    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, x: batches.append(x) or forward(self, x))
    exported = normlab.export_run(files["run"], "pt2", tmp_path / "model.pt2")
    assert exported.images == 50
    assert [len(x) for x in batches] == [1, 49]
    places = np.linspace(0, 359, 50).astype(int)
    np.testing.assert_array_equal(
        (torch.cat(batches) * 255).round().numpy(), DIGITS.test.images[places]
    )


# Formats

GZIPPED = """
import gzip
from normlab.export.formats import Format, pt2

FORMAT = Format(
    suffix=".gz",
    write=lambda program, metadata: gzip.compress(pt2.write(program, metadata)),
    load=lambda content: pt2.load(gzip.decompress(content)),
)
"""


@pytest.mark.slow(7)
def test_a_format_is_one_file(files, tmp_path):
    folder = tmp_path / "formats"
    folder.mkdir()
    (folder / "gzipped.py").write_text(GZIPPED)
    program = (
        f"from normlab.export import formats; formats.__path__.append({str(folder)!r}); "
        "from normlab.cli import main; main()"
    )

    def export(*arguments):
        command = [sys.executable, "-c", program, "export", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True)

    assert "--to {c,gzipped,html,onnx,pt2}" in export("--help").stdout
    out = tmp_path / "model.gz"
    done = export(files["run"].path, "--to", "gzipped", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "checked against PyTorch on 360 test images: equal classes" in done.stdout
    (tmp_path / "model.pt2").write_bytes(gzip.decompress(out.read_bytes()))
    expected = normlab.load(files["run"].path).probabilities(DIGITS.test.images)
    found = by_pytorch(tmp_path / "model.pt2", DIGITS.test.images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (
        "--to gzipped has no int8" in export(files["run"].path, "--to", "gzipped", "--int8").stderr
    )


def test_an_unknown_format_is_refused_with_the_names_there_are(files):
    with pytest.raises(UsageError, match="no format 'tflite': there are c, html, onnx, pt2"):
        normlab.export_run(files["run"], "tflite")


def test_the_command_s_help_imports_no_torch():
    program = "import sys; from normlab.cli import main\ntry: main()\nfinally: print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--to {c,html,onnx,pt2}" in done.stdout
    assert not {"torch", "numpy", "onnx"} & {*done.stdout.splitlines()[-1].split()}


# int8


def test_int8_reports_accuracy_and_size(files):
    exported, quantized = files["int8"], files["int8"].quantized
    assert exported.path == files["run"].path / "model-int8.onnx"
    assert exported.size == exported.path.stat().st_size < quantized.float_size
    assert quantized.float_size == files["onnx"].size
    assert quantized.images == 360
    assert quantized.float_correct == correct(files["onnx"].path)
    assert quantized.float_correct == round(360 * files["run"].last.accuracy)
    assert quantized.correct == correct(exported.path)
    assert quantized.correct > 0.95 * quantized.float_correct


def test_int8_weights_have_seven_bits_and_a_scale_per_channel(files):
    graph = onnx.load(files["int8"].path).graph
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    filters = [
        [tensors[name] for name in node.input]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and tensors.get(node.input[0], np.empty(0)).ndim == 4
    ]
    assert sorted(len(weights) for weights, _, _ in filters) == [12, 24, 24, 32]
    for weights, scales, zeros in filters:
        assert weights.dtype == np.int8
        assert 60 <= abs(weights.astype(int)).max() <= 64
        assert len(scales) == len(weights)
        assert not zeros.any()


@pytest.mark.parametrize(
    ("right", "change"),
    [(95, "3 images lost"), (97, "1 image lost"), (98, "none lost"), (99, "1 image gained")],
)
def test_the_change_of_accuracy_is_counted_in_images(right, change):
    text = str(Quantized(float_size=1, images=100, float_correct=98, correct=right))
    assert text == f"accuracy on 100 test images: 98.0% in float32, {right}.0% in int8: {change}"


# The command line


@pytest.mark.slow(6)
def test_the_command_prints_what_it_wrote_and_nothing_else(files, tmp_path):
    out = tmp_path / "new" / "int8.onnx"
    done = subprocess.run(
        [*NORMLAB, "export", files["run"].path, "--to", "onnx", "--int8", "--out", out],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "error"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    written, checked, accuracy = done.stdout.splitlines()
    sizes = rf"{out.stat().st_size / 1000:.1f} kB, {files['onnx'].size / 1000:.1f} kB in float32"
    assert written == f"{out}: {sizes}"
    assert re.fullmatch(
        r"the float32 network was checked against PyTorch on 360 test images: equal classes, "
        r"probabilities within \d\.\de-0\d",
        checked,
    )
    assert accuracy == str(files["int8"].quantized)


def test_the_command_writes_to_out(files, cli, tmp_path):
    out = tmp_path / "digits.pt2"
    code, output, errors = cli("export", files["run"].path, "--to", "pt2", "--out", out)
    assert (code, errors) == (0, "")
    assert output.splitlines()[0] == f"{out}: {out.stat().st_size / 1000:.1f} kB"
    assert output.splitlines()[1].startswith("checked against PyTorch on 360 test images: equal")


def test_pt2_has_no_int8(files, cli):
    code, output, errors = cli("export", files["run"].path, "--to", "pt2", "--int8")
    assert (code, output) == (2, "")
    assert errors == "normlab: --to pt2 has no int8: leave out --int8\n"


def test_a_missing_library_is_named_with_its_extra(files, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, output, errors = cli("export", files["run"].path, "--to", "onnx")
    assert (code, output) == (2, "")
    assert errors == 'normlab: --to onnx needs onnxscript: pip install "normlab[export]"\n'


def test_pt2_needs_no_extra_library(files, monkeypatch, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails
    assert normlab.export_run(files["run"], "pt2", tmp_path / "model.pt2").images == 360


def test_an_unfinished_run_is_refused(files, tmp_path):
    shutil.copy(files["run"].path / "config.json", tmp_path)
    with pytest.raises(RunError, match="is its training finished"):
        normlab.export_run(normlab.Run.open(tmp_path), "onnx")


def test_other_data_is_refused(files):
    run = files["run"]
    with pytest.raises(RunError, match="was trained on 0000"):
        normlab.export_run(replace(run, data=replace(run.data, fingerprint="0" * 64)), "onnx")


# Custom normalizations

CUSTOM_NORMS = """
import torch
from torch import nn

class Scaling(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.full((shape[0], 1, 1), 2.0))
    def forward(self, x):
        return x * self.weight / x.abs().mean((1, 2, 3), keepdim=True)

class Choosing(Scaling):
    def forward(self, x):
        return x if x.mean() > 0 else -x

class Other(Scaling):
    def forward(self, x):
        return -x if torch.compiler.is_compiling() else x

class Near(Scaling):
    def forward(self, x):
        return x * 1.00002 if torch.compiler.is_compiling() else x

class Alone(Scaling):
    def forward(self, x):
        return x - x.mean(0) if len(x) > 1 else x

class Rare(Scaling):
    def forward(self, x):
        return torch.special.bessel_j0(x)
"""


@pytest.fixture
def custom_run(tmp_path, monkeypatch):
    """Makes a run with a normalization of the module above."""
    (tmp_path / "custom_norms.py").write_text(CUSTOM_NORMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "custom_norms", raising=False)
    return lambda name: random_run(
        tmp_path / "run", "C:8 P D:8+ P C:8/bn P FC", f"custom_norms:{name}"
    )


@pytest.mark.slow(2)
def test_a_custom_normalization_is_exported(custom_run):
    run = custom_run("Scaling")
    exported = normlab.export_run(run, "onnx")
    np.testing.assert_allclose(
        by_onnx_runtime(exported.path, DIGITS.test.images),
        normlab.load(run.path).probabilities(DIGITS.test.images),
        atol=1e-5,
    )


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("name", "to", "problem"),
    [
        (
            "Choosing",
            "pt2",
            "run cannot be exported to pt2: its normalization is custom_norms:Choosing",
        ),
        ("Alone", "pt2", "run cannot be exported to pt2: its normalization is custom_norms:Alone"),
        ("Rare", "onnx", "run cannot be exported to onnx: its normalization is custom_norms:Rare"),
        ("Other", "pt2", "the exported network predicts differently: another class on "),
    ],
)
def test_a_failed_export_is_one_line_and_leaves_no_file(
    name, to, problem, custom_run, cli, tmp_path
):
    run = custom_run(name)
    code, output, errors = cli("export", run.path, "--to", to)
    assert (code, output) == (1, "")
    assert problem in errors
    assert errors.count("\n") == 1
    assert "\x1b" not in errors
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_custom_network_is_blamed_and_not_its_normalization(tmp_path, monkeypatch):
    (tmp_path / "custom_networks.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Choosing(nn.Module):\n"
        "    def __init__(self, norm, classes):\n"
        "        super().__init__()\n"
        "        self.conv, self.norm = nn.Conv2d(3, 4, 3), norm(4)\n"
        "        self.head = nn.Linear(4, classes)\n"
        "    def forward(self, x):\n"
        "        x = self.norm(self.conv(x)).mean((2, 3))\n"
        "        return self.head(x if x.mean() > 0 else -x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = normlab.RunConfig(
        network="custom_networks:Choosing",
        norm="gn",
        dataset="digits",
        recipe="demo",
        epochs=1,
        train_images=64,
    )
    run = normlab.train(config, tmp_path / "run", quiet=True)
    with pytest.raises(NormlabError) as error:
        normlab.export_run(run, "pt2")
    text = f"{run.path} cannot be exported to pt2: its network is custom_networks:Choosing, which "
    assert str(error.value).startswith(f"{text}raises ")


def test_equal_classes_with_other_probabilities_are_refused(custom_run, cli):
    code, _, errors = cli("export", custom_run("Near").path, "--to", "pt2")
    assert code == 1
    assert "another class on 0 of 360 test images, probabilities up to " in errors


def test_close_probabilities_with_other_classes_are_refused(custom_run, cli):
    run = custom_run("Other")
    network = run.network()
    classifier = network.blocks[-1].linear
    with torch.no_grad():
        classifier.weight *= 1e-6  # all classes are nearly equally probable
        classifier.bias.zero_()
    save_weights(run.path / "model.safetensors", network)
    code, _, errors = cli("export", run.path, "--to", "pt2")
    assert code == 1
    changed, apart = re.search(r"another class on (\d+) of .* up to (\S+) apart", errors).groups()
    assert int(changed) > 0
    assert float(apart) < 1e-5


def test_a_run_s_own_files_are_not_overwritten(files, cli):
    weights = files["run"].path / "model.safetensors"
    before = weights.read_bytes()
    code, _, errors = cli("export", files["run"].path, "--to", "pt2", "--out", weights)
    assert code == 2
    assert errors == f"normlab: --out {weights}: end its name with .pt2\n"
    assert weights.read_bytes() == before


@pytest.mark.slow(3)
@pytest.mark.skipif(not os.environ.get("NORMLAB_DATA"), reason="NORMLAB_DATA names no CIFAR-10")
def test_a_bundled_model_is_exported_by_its_name(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = cli("export", "--model", "nano", "--to", "pt2")
    assert code == 0
    assert output.startswith("nano.pt2: ")
    assert [path.name for path in tmp_path.iterdir()] == ["nano.pt2"]


@pytest.mark.parametrize("to", ["pt2", "c"])
def test_exactly_one_run_or_model_is_exported(to, files, cli):
    for arguments in ([], [files["run"].path, "--model", "nano"]):
        code, output, errors = cli("export", *arguments, "--to", to)
        assert (code, output) == (2, "")
        assert "expected one run's folder, or --model NAME, got" in errors


def test_a_failed_export_keeps_the_file_that_was_there(files, custom_run, cli, tmp_path):
    out = tmp_path / "model.pt2"
    shutil.copy(files["pt2"].path, out)
    before = out.read_bytes()
    assert cli("export", custom_run("Other").path, "--to", "pt2", "--out", out)[0] == 1
    assert out.read_bytes() == before


# The documentation


@pytest.mark.slow(4)
@pytest.mark.parametrize("place", [0, 1], ids=["onnx", "pt2"])
def test_the_programs_in_the_documentation_work(place, files, tmp_path):
    program = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[place]
    assert "normlab" not in program
    for name in ("onnx", "pt2"):
        shutil.copy(files[name].path, tmp_path)
    image = np.full((40, 60, 3), 255, np.uint8)
    image[4:36, 14:46] = DIGITS.test.images[0].transpose(1, 2, 0)
    Image.fromarray(image).save(tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    name, probability = done.stdout.split()
    (expected,) = normlab.load(files["run"].path).predict(tmp_path / "picture.png")
    assert name == expected.label
    assert float(probability) == pytest.approx(expected.probability, abs=1e-5)
