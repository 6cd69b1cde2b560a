"""Images of other sizes and in one channel, from the data to the last file made of a run."""

import dataclasses
import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import normlab
from made_up import Page, split
from normlab.data import Dataset, Split, load
from normlab.data.images import resized, to_grey
from normlab.errors import RunError, UsageError
from normlab.inference.evaluate import to_input
from normlab.report.card import model_card
from normlab.report.data_page import render
from normlab.study import local
from normlab.study.compare import compare
from normlab.study.record import Study
from small_study import run_here
from tampering import rewrite

ROOT = Path(__file__).parents[1]
LINE = "C:6 P C:8 C:8+*2 D:8 P C:8 GAP FC"
DISCS = [0, 1, 2, 3] * 30


def pictures(folder, size):
    """A folder of coloured discs in two parts, larger than any network's input."""
    for part, seed in (("train", 0), ("test", 1)):
        drawn = split(DISCS[: 120 if part == "train" else 40], seed=seed)
        for k, (image, label) in enumerate(
            zip(resized(drawn.images, size), drawn.labels, strict=True)
        ):
            path = folder / part / f"disc{label}" / f"{k:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return folder


@pytest.fixture(scope="module", params=["28 grey", "64 in colour"])
def run(request, tmp_path_factory):
    """A run at 28 × 28 × 1, and one at 64 × 64 × 3."""
    folder = tmp_path_factory.mktemp("shapes")
    data = {"dataset": "digits", "size": 28, "train_images": 300}
    if request.param != "28 grey":
        data = {"dataset": f"folder:{pictures(folder / 'pictures', 80)}", "size": 64}
    config = normlab.RunConfig(network=LINE, norm="gn", recipe="demo", epochs=2, **data)
    return normlab.train(config, folder / "run", quiet=True)


def png(run, tmp_path, index=0):
    """A test image of a run as a picture's file."""
    image = run.dataset().test.images[index]
    path = tmp_path / "picture.png"
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    Image.fromarray(pixels).save(path)
    return path


def test_a_run_records_its_shape_and_is_evaluated_as_it_was_trained(run):
    opened = normlab.Run.open(run.path)
    stated = json.loads((run.path / "config.json").read_text())["run"]
    assert (stated["size"], stated.get("channels", "colour")) in {(28, "grey"), (64, "colour")}
    channels, size, _ = opened.config.shape
    assert (size, channels) in {(28, 1), (64, 3)}
    assert len(opened.data.mean) == len(opened.data.std) == channels
    assert opened.dataset().shape == opened.network().shape == (channels, size, size)
    assert opened.summary.rows[0].shape == (6, size, size)
    assert opened.summary.rows[0].parameters == 9 * channels * 6 + 2 * 6
    evaluation = normlab.evaluate(opened.network(), opened.dataset())
    assert evaluation.accuracy == opened.last.accuracy


def test_a_picture_of_the_size_is_predicted_as_in_the_evaluation(run, tmp_path):
    predictor = normlab.load(run.path)
    expected = normlab.evaluate(run.network(), run.dataset()).probabilities[0]
    (prediction,) = predictor.predict(png(run, tmp_path))
    np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-5)
    assert prediction.notes == ()
    large = Image.open(png(run, tmp_path)).resize((300, 200))
    assert predictor.predict(large)[0].notes == ()
    small = Image.open(png(run, tmp_path)).resize((20, 20))
    assert predictor.predict(small)[0].notes == ("20 × 20 pixels are enlarged",)


@pytest.mark.skipif(find_spec("captum") is None, reason="captum is not installed")
def test_heat_maps_have_the_size(run, tmp_path):
    size = run.config.size
    explained = normlab.explain(normlab.load(run.path), png(run, tmp_path))
    (maps,) = explained.maps
    assert maps.grad_cam.shape == maps.occlusion.shape == (size, size)
    assert np.isfinite(maps.occlusion).all()
    assert explained.picture.shape == (3, 256, 256)
    normlab.plots.explanation(explained)


@pytest.mark.slow(10)
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="ONNX Runtime is not installed")
def test_exports_predict_what_pytorch_predicts(run, tmp_path):
    import onnxruntime

    pixels = run.dataset().test.images
    with torch.inference_mode():
        expected = run.network()(to_input(torch.from_numpy(pixels))).softmax(1).numpy()
    onnx = normlab.export_run(run, "onnx", tmp_path / "a.onnx")
    session = onnxruntime.InferenceSession(onnx.path)
    assert session.get_inputs()[0].shape == ["batch", *run.config.shape]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["input"]) == [*run.config.shape]
    np.testing.assert_allclose(session.run(None, {"images": pixels})[0], expected, atol=1e-5)
    pt2 = normlab.export_run(run, "pt2", tmp_path / "a.pt2")
    found = torch.export.load(pt2.path).module()(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    int8 = normlab.export_run(run, "onnx", tmp_path / "b.onnx", int8=True)
    assert int8.quantized.float_correct == (expected.argmax(1) == run.dataset().test.labels).sum()
    assert int8.size < onnx.size


@pytest.mark.slow(1)
def test_page_and_card_show_the_shape(run, tmp_path):
    channels, size, _ = run.config.shape
    page = Page(normlab.write_report([run], tmp_path / "page.html").read_text())
    assert f"size {size}" in page.text
    assert f"channels {run.config.channels}" in page.text
    shown = [a for a in page.all("img") if "taken for" in a["alt"]]
    assert shown
    assert {(a["width"], a["height"]) for a in shown} == {(str(size), str(size))}
    text = model_card([run])
    assert f"| input | {'grey' if channels == 1 else 'RGB'}, {size} × {size}, normalized" in text
    assert f"resized to {size} × {size}{' grey' if channels == 1 else ''} pixels" in text


@pytest.mark.slow(3)
@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
def test_a_server_says_what_the_networks_see(run, trained, tmp_path):
    from normlab.inference.picture_process import PictureReader
    from normlab.serve.demo_page import sizes
    from normlab.serve.served_run import ServedRun
    from normlab.serve.server import _explain_all

    runs = [ServedRun("one", run), ServedRun("two", trained)]
    sees = "28 × 28 grey pixels" if run.config.size == 28 else "64 × 64 pixels"
    assert sizes(runs) == f"{sees} or 32 × 32 pixels"
    reader = PictureReader()
    content = png(run, tmp_path).read_bytes()
    try:
        one, two = _explain_all(reader, runs, content)
    finally:
        reader.close()
    for result, path in ((one, run.path), (two, trained.path)):
        (expected,) = normlab.load(path).predict(content)
        np.testing.assert_allclose(
            result.prediction.probabilities, expected.probabilities, atol=1e-5
        )
        assert result.prediction.notes == expected.notes


def test_a_data_page_of_grey_images():
    dataset = load("digits", size=28)
    page = Page(render(dataset, recipe_steps=("color-jitter", "affine", "shift")))
    assert "1,797 images of 10 classes, 1 × 28 × 28 pixels." in page.text
    assert "train 1,437 1437 × 1 × 28 × 28 uint8" in page.text
    strips = [a for a in page.all("img") if a["alt"].startswith("Images, ")]
    assert {(a["width"], a["height"]) for a in strips} == {("168", "28")}


# Runs and studies of earlier versions


def test_the_committed_run_on_digits_keeps_three_channels_and_its_accuracy():
    run = normlab.Run.open(ROOT / "results" / "assignment-gn-0")
    assert "size" not in json.loads((run.path / "config.json").read_text())["run"]
    assert run.config.shape == (3, 32, 32)
    evaluation = normlab.evaluate(run.network(), run.dataset())
    assert evaluation.accuracy == run.last.accuracy
    assert evaluation.loss == pytest.approx(run.last.loss, abs=1e-6)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("run", {"channels": "grey"}),
        ("run", {"size": 8}),
        ("run", {"size": 64.5}),
        ("data", {"mean": [0.5]}),
        ("data", {"std": [0.5, 0.5]}),
    ],
)
def test_a_record_whose_shape_is_not_its_datas_is_damaged(part, change, trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    rewrite(file, **{part: json.loads(file.read_text())[part] | change})
    with pytest.raises(RunError, match=r"config\.json is damaged: "):
        normlab.Run.open(tmp_path / "run")


@pytest.mark.slow(2)
def test_a_study_has_the_shape_of_its_data_and_an_older_one_keeps_three_channels(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(local, "run_jobs", run_here)
    config = normlab.StudyConfig(
        network="C P C GAP FC", norms=("bn", "ln"), budgets=(700,), seeds=1, dataset="digits",
        recipe="demo", epochs=1, train_images=(100,), size=28,
    )  # fmt: skip
    study = compare(config, tmp_path / "new", quiet=True, workers=1)
    grey = [arm.config for arm in study.arms]
    assert {each.shape for each in grey} == {(1, 28, 28)}
    assert len({each.network for each in grey}) == 1  # solved once, for images of this shape
    assert Study.open(tmp_path / "new") == study
    assert {study.run(result).config.shape for result in study.results} == {(1, 28, 28)}
    assert compare(config, tmp_path / "new", quiet=True) == study  # nothing is left to do
    page = normlab.write_study_report(study)
    assert 'width="28" height="28"' in page.read_text()

    colour = dataclasses.replace(config, channels="colour")
    older = compare(colour, tmp_path / "old", quiet=True, workers=1)
    assert {arm.config.network for arm in older.arms} != {each.network for each in grey}
    # As an earlier version wrote it, which had no such setting.
    older = dataclasses.replace(older, config=config)
    older.write()
    arms = json.loads((tmp_path / "old" / "study.json").read_text())["arms"]
    assert not any("channels" in arm["config"] for arm in arms)
    again = compare(dataclasses.replace(config, seeds=2), tmp_path / "old", quiet=True, workers=1)
    assert {again.run(result).config.shape for result in again.results} == {(3, 28, 28)}


# What is refused, and Python


def test_size_and_channels_of_the_images_given_are_recorded(tmp_path):
    small = load("digits", size=20)
    few = dataclasses.replace(small, train=small.train.take(range(40)))
    config = normlab.RunConfig(network="C:2 GAP FC", dataset="mine", recipe="demo", epochs=1)
    run = normlab.train(config, tmp_path / "run", dataset=few, quiet=True)
    assert run.config.shape == (1, 20, 20)
    for asked, problem in (
        ({"size": 28}, "--size 28: the images given have 20"),
        ({"channels": "colour"}, "--channels colour: the images given have grey"),
    ):
        wrong = dataclasses.replace(config, **asked)
        with pytest.raises(UsageError, match=problem):
            normlab.train(wrong, tmp_path / "wrong", dataset=few, quiet=True)
    for shape in ((3, 20, 24), (2, 20, 20), (1, 8, 8)):
        images = Split(np.zeros((4, *shape), np.uint8), np.arange(4) % 2)
        odd = Dataset("odd", ("a", "b"), images, images)
        with pytest.raises(UsageError, match=r"images of|--size must be at least 16"):
            normlab.train(config, tmp_path / "odd", dataset=odd, quiet=True)
    assert not (tmp_path / "odd").exists()


def test_a_teacher_that_sees_other_images_is_refused(trained, tmp_path):
    config = normlab.RunConfig(
        network="C:2 GAP FC", dataset="digits", recipe="demo", epochs=1, teacher=str(trained.path)
    )
    problem = r"sees images of 3 × 32 × 32, the student of 1 × 32 × 32: give both the same --size"
    with pytest.raises(UsageError, match=problem):
        normlab.train(config, tmp_path / "run", quiet=True)


def test_the_summary_of_a_grey_network(cli):
    code, out, _ = cli("summary", "C:24 P C:30 GAP FC", "--size", 28, "--channels", "grey")
    assert code == 0
    assert "24 × 28 × 28" in out
    assert "264" in out  # 9 · 24 and bn's 48, not 27 · 24 and 48
    code, _, err = cli("summary", "nano", "--size", 8)
    assert code == 2
    assert "--size must be at least 16 and at most 128, not 8" in err
    code, _, err = cli("summary", "C:4 P P P P P C:4 GAP FC", "--size", 16)
    assert code == 2
    assert "P has no pixels left to pool: with images of 16 × 16, the maps are 1 × 1 here" in err


def test_too_many_classes_say_by_how_much_the_budget_is_exceeded(cli):
    code, _, err = cli(
        "summary", "assignment", "--classes", 10_000, "--budget", 5_000, "--channels", "grey"
    )
    assert code == 2
    assert "too many to stay below the budget of 5,000" in err


def test_the_classifier_takes_the_shape_of_its_images():
    images, labels = load("digits", size=24).train.images[:60, 0], load("digits").train.labels[:60]
    options = {"network": "C:4 P C:4 GAP FC", "recipe": "demo", "epochs": 1}
    fitted = normlab.Classifier(**options).fit(images, labels)
    assert fitted.trained_.network.shape == (1, 24, 24)
    whole = fitted.predict_proba(images)
    inputs = to_input(torch.from_numpy(images[:, None]))
    expected = fitted.trained_(inputs).softmax(1).detach().numpy()
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    np.testing.assert_array_equal(fitted.predict_proba(images[..., None]), whole)
    (one,) = fitted.trained_.predict(images[0][:, :, None])
    np.testing.assert_allclose(one.probabilities, expected[0], atol=1e-5)
    colour = np.stack([images, images, 255 - images], axis=3)
    assert normlab.Classifier(**options).fit(colour, labels).trained_.network.shape == (3, 24, 24)
    assert np.isclose(
        fitted.predict_proba(colour),
        fitted.trained_.probabilities(to_grey(colour.transpose(0, 3, 1, 2))),
        atol=1e-5,
    ).all()
    assert normlab.Classifier(**options).fit([*images], labels).trained_.network.shape[1] == 32
    small = normlab.Classifier(**options, size=16, channels="colour").fit(images, labels)
    assert small.trained_.network.shape == (3, 16, 16)
