"""Heat maps: against their definitions, through the command line, in the report."""

import io
import shutil
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import normlab
from normlab.cli import main
from normlab.data import load
from normlab.errors import UsageError
from normlab.inference.evaluate import to_input
from normlab.inference.explain import class_maps, grad_cam, occlusion
from normlab.report import plots
from normlab.report.run_page import write_report


@pytest.fixture(scope="module")
def images():
    return load("digits", channels="colour").test.images[:6]


@pytest.fixture
def picture(images, tmp_path):
    path = tmp_path / "digit.png"
    Image.fromarray(images[0].transpose(1, 2, 0)).resize((90, 60)).save(path)
    return path


@pytest.mark.parametrize("norm", ["bn", "gn", "ln"])
def test_grad_cam_of_pooled_maps_is_the_class_activation_map(images, norm):
    """Before GAP and FC, the gradients are FC's weights (section 3.1 of the paper)."""
    network = normlab.Network("C:6 P C:10 P C:12 GAP FC", norm=norm, seed=1).eval()
    inputs = to_input(torch.from_numpy(images))
    targets = torch.tensor([0, 3, 9, 1, 1, 5])
    with torch.no_grad():
        maps = (inputs - network.input_mean[:, None, None]) / network.input_std[:, None, None]
        for block in network.blocks[:-2]:
            maps = block(maps)
        weights = network.blocks[-1].linear.weight[targets]
        expected = F.relu((weights[:, :, None, None] * maps).sum(1, keepdim=True))
        expected = F.interpolate(expected, (32, 32), mode="bilinear")[:, 0].numpy()
    expected /= expected.max(axis=(1, 2), keepdims=True).clip(1e-12)
    np.testing.assert_allclose(grad_cam(network, inputs, targets), expected, atol=1e-5)


def test_occlusion_is_the_mean_over_the_patches_that_cover_a_pixel(images):
    network = normlab.Network("C:6 P C:8 GAP FC", seed=2).eval()
    network.input_mean.copy_(torch.tensor([0.2, 0.5, 0.7]))
    image = to_input(torch.from_numpy(images[:1]))
    sums, counts = np.zeros((32, 32)), np.zeros((32, 32))
    with torch.no_grad():
        uncovered = network(image).softmax(1)[0, 4].item()
        for y in range(0, 25, 2):
            for x in range(0, 25, 2):
                covered = image.clone()
                covered[0, :, y : y + 8, x : x + 8] = network.input_mean[:, None, None]
                fall = uncovered - network(covered).softmax(1)[0, 4].item()
                sums[y : y + 8, x : x + 8] += fall
                counts[y : y + 8, x : x + 8] += 1
    np.testing.assert_allclose(occlusion(network, image, 4), sums / counts, atol=1e-6)


def test_class_maps_are_means_over_the_first_100_images_of_each_class(trained):
    network, split = trained.network(), trained.dataset().train
    maps = class_maps(network, split, 11)
    assert maps.shape == (11, 32, 32)
    assert np.isnan(maps[10]).all()
    threes = torch.from_numpy(split.images[split.labels == 3][:100])
    mean = grad_cam(network, to_input(threes), torch.full((100,), 3)).mean(axis=0)
    np.testing.assert_allclose(maps[3], mean, atol=1e-5)


def test_a_picture_is_explained_for_chosen_classes(trained, picture):
    predictor = normlab.load(trained.path)
    explanation = normlab.explain(predictor, picture)
    assert [m.label for m in explanation.maps] == [explanation.prediction.label]
    assert explanation.picture.shape == (3, 256, 256)
    two = normlab.explain(predictor, picture, ("7", "2"))
    assert [m.label for m in two.maps] == ["7", "2"]
    probabilities = dict(zip(predictor.classes, two.prediction.probabilities, strict=True))
    assert [m.probability for m in two.maps] == [probabilities["7"], probabilities["2"]]
    figure = plots.explanation(two)
    assert [axes.get_title(loc="left") for axes in figure.axes[::3]] == [
        f"{m.label} {m.probability:.1%}" for m in two.maps
    ]


def test_a_class_or_a_map_that_is_missing_is_refused(trained, picture, monkeypatch):
    predictor = normlab.load(trained.path)
    with pytest.raises(UsageError, match="no class 'cat': there are 0, 1"):
        normlab.explain(predictor, picture, ("cat",))
    pointwise = normlab.Predictor(normlab.Network("FC"), predictor.classes)
    with pytest.raises(UsageError, match="FC has no maps of more than one pixel"):
        normlab.explain(pointwise, picture)
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    with pytest.raises(UsageError, match=r'pip install "normlab\[explain\]"'):
        normlab.explain(predictor, picture)


def test_the_command_draws_a_figure(trained, picture, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(["explain", str(trained.path), str(picture), "--classes", "1", "8"])
    output = capsys.readouterr().out
    assert str(picture) in output
    assert "digit-explained.png" in output
    with Image.open(tmp_path / "digit-explained.png") as figure:
        assert figure.size[0] == 750
    stream = io.TextIOWrapper(io.BytesIO(picture.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stream)
    main(["explain", str(trained.path), "-", "--out", "why.png"])
    assert (tmp_path / "why.png").exists()
    assert capsys.readouterr().out.startswith("-  ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "expected a run's folder and a picture"),
        (["{run}"], "expected a picture after the run's folder"),
        (["{run}", "--classes", "1", "a.png"], "expected the picture before --classes, which"),
        (["{run}", "a.png", "b.png"], "expected one picture, got 2"),
        (["{run}", "a.png", "--out", "why.jpg"], "--out why.jpg: the figure is a PNG"),
        (["{run}", "{run}"], "is a folder: give a picture in it"),
        (["{run}", "none.png"], "none.png cannot be read"),
        (["{run}", "a" * 300 + ".png"], ".png cannot be read"),
        (["none", "a.png"], "none is not a run's folder"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(trained, arguments, problem, capsys):
    with pytest.raises(SystemExit):
        main(["explain", *(a.format(run=trained.path) for a in arguments)])
    errors = capsys.readouterr().err
    assert problem in errors
    assert errors.count("\n") == 1


@pytest.mark.slow(2)
def test_the_report_shows_where_the_network_looks(trained, tmp_path, monkeypatch):
    shutil.copytree(trained.path, tmp_path / "run")  # the report writes figures into it
    run = normlab.Run.open(tmp_path / "run")
    page = write_report([run]).read_text()
    assert "Where the network looks" in page
    assert 'alt="3: brightest ' in page
    monkeypatch.setitem(sys.modules, "captum", None)
    monkeypatch.delitem(sys.modules, "captum.attr", raising=False)
    page = write_report([run]).read_text()
    assert "There are no heat maps: heat maps need captum" in page
