"""Predictions for pictures of all kinds, from Python and on the command line."""

import csv
import io
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from rich.cells import cell_len

import normlab
from normlab.data import load
from normlab.errors import DataError, RunError, UsageError
from normlab.inference.finding import find_pictures
from normlab.runs.checkpoint import save_weights
from peculiar import ANSWERED, REFUSED
from tampering import rewrite

# The command, then its process's peak memory. It is read from this file because other measures
# include the memory of the process that started it.
COMMAND_WITH_PEAK_MEMORY = """
import re, sys
from normlab.cli import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that can tell digits apart."""
    config = normlab.RunConfig(
        network="C:8 P C:16 P GAP FC",
        dataset="digits",
        channels="colour",
        recipe="demo",
        epochs=3,
        learning_rate=0.05,
    )
    return normlab.train(config, tmp_path_factory.mktemp("run") / "digits", quiet=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The first twenty test images as files, in all supported formats."""
    folder = tmp_path_factory.mktemp("pictures")
    for k, image in enumerate(load("digits", channels="colour").test.images[:20]):
        suffix = ("png", "bmp", "webp", "jpg")[k % 4]
        options = {"lossless": True} if suffix == "webp" else {"quality": 100}
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{k:02}.{suffix}", **options)
    return folder


# Python


def test_predictions_equal_those_of_an_evaluation(run):
    expected = normlab.evaluate(run.network(), run.dataset())
    images = run.dataset().test.images
    predictor = normlab.load(run.path)
    predictions = predictor.predict(images.transpose(0, 2, 3, 1))
    probabilities = np.stack([prediction.probabilities for prediction in predictions])
    np.testing.assert_allclose(probabilities, expected.probabilities, atol=1e-5)
    assert [prediction.label for prediction in predictions] == [
        str(k) for k in expected.predictions
    ]
    assert predictor.classes == run.data.classes


def test_paths_pil_images_and_arrays_get_equal_predictions(run, pictures):
    predictor = normlab.load(run.path)
    path = pictures / "00.png"
    image = Image.open(path)
    for picture in (path, str(path), image, np.asarray(image), [path]):
        (prediction,) = predictor.predict(picture)
        np.testing.assert_allclose(
            prediction.probabilities, predictor.predict(path)[0].probabilities, atol=1e-6
        )
    assert predictor.predict(path)[0].name == str(path)
    assert predictor.predict([]) == []


def test_top_sorts_the_classes_by_probability(run, pictures):
    (prediction,) = normlab.load(run.path).predict(pictures / "00.png")
    top = prediction.top(10)
    assert top[0] == (prediction.label, prediction.probability)
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
    assert sum(p for _, p in top) == pytest.approx(1, abs=1e-5)


def test_a_predictor_is_a_module(run):
    predictor = normlab.load(run.path)
    assert not predictor.training
    assert not predictor.network.training
    logits = predictor(torch.rand(3, 3, 32, 32))
    assert logits.shape == (3, 10)


def test_training_mode_does_not_matter_and_is_restored(run, pictures):
    predictor = normlab.load(run.path)
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    expected = predictor.predict(pictures / "00.png")[0].probabilities
    predictor.train()
    probabilities = predictor.predict([pictures / "00.png", pictures / "01.bmp"])[0].probabilities
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert predictor.training
    assert predictor.network.training
    for name, value in predictor.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_file_loads_its_folder(run, pictures):
    (expected,) = normlab.load(run.path).predict(pictures / "00.png")
    (prediction,) = normlab.load(run.path / "model.safetensors").predict(pictures / "00.png")
    assert np.array_equal(prediction.probabilities, expected.probabilities)


@pytest.mark.parametrize("image", [Image.new("RGB", (0, 0)), Image.new("La", (40, 40))])
def test_an_unusable_image_is_refused(run, image):
    with pytest.raises(DataError, match=f"a PIL image of mode {image.mode}, .* cannot be used"):
        normlab.load(run.path).predict(image)


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (np.zeros((32, 32, 3)), "expected uint8"),
        (np.zeros(32, np.uint8), "expected uint8"),
        (7, "not iterable"),
        ([7], "expected a path, bytes, a PIL image or an array, got int"),
    ],
)
def test_an_argument_that_is_not_a_picture_is_refused(run, picture, problem):
    with pytest.raises(TypeError, match=problem):
        normlab.load(run.path).predict(picture)


def test_a_file_that_is_not_a_picture_is_refused(run, tmp_path):
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(DataError, match="it is not a picture in a format that normlab reads"):
        normlab.load(run.path).predict(tmp_path / "x.png")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run's folder"):
        normlab.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 99}, "has schema 99, this normlab reads schema"),
        ({"layout": "C:8 Q GAP FC"}, "is damaged: unknown block 'Q'"),
        ({"layout": "C:8 P C:9 P GAP FC"}, "is another network's"),
        # Building it would take 30 GB: its size must be compared with the file's first.
        ({"layout": "C:8 P C:4096 " + "C:4096 " * 50 + "P GAP FC"}, "the layout's parameters take"),
        ({"recipe": 7}, "is damaged"),
        ({"run": {"network": "nano", "norm": "xyz"}}, r"config\.json makes no .*: no norm.* 'xyz'"),
        ({"layout": "C:8" + " P" * 7 + " GAP FC"}, r"config\.json makes no network: "),
    ],
)
def test_an_untrusted_folder_is_refused_in_one_line(run, tmp_path, change, problem):
    (tmp_path / "config.json").write_bytes((run.path / "config.json").read_bytes())
    rewrite(tmp_path / "config.json", **change)
    (tmp_path / "model.safetensors").write_bytes((run.path / "model.safetensors").read_bytes())
    with pytest.raises(RunError, match=problem) as caught:
        normlab.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("tensor", "value", "problem"),
    [
        ("input_std", 0.0, "input_std has a value that is not above 0"),
        ("blocks.0.conv.weight", float("nan"), "conv.weight has values that are not finite"),
        ("blocks.0.conv.weight", float("inf"), "conv.weight has values that are not finite"),
    ],
)
def test_unusable_weights_are_refused(run, tmp_path, tensor, value, problem):
    shutil.copy(run.path / "config.json", tmp_path)
    network = run.network()
    network.state_dict()[tensor].view(-1)[0] = value
    save_weights(tmp_path / "model.safetensors", network)
    with pytest.raises(RunError, match=rf"model\.safetensors is damaged: .*{problem}"):
        normlab.load(tmp_path)


def test_names_with_wide_characters_are_aligned(run, cli, tmp_path):
    for name in ("a.png", "日本.png"):
        Image.new("L", (32, 32)).save(tmp_path / name)
    _, output, _ = cli("predict", run.path, tmp_path)
    first, second = (line.partition("%")[0] for line in output.splitlines())
    assert cell_len(first) == cell_len(second)


def test_outputs_that_are_not_finite_are_refused(run):
    predictor = normlab.load(run.path)
    for weight in predictor.network.weights:
        weight.data *= 1e30
    with pytest.raises(RunError, match="outputs are not finite"):
        predictor.predict(np.full((32, 32, 3), 128, np.uint8))


# Pictures unlike the training images


@pytest.mark.parametrize(
    ("image", "note"),
    [
        (Image.new("RGB", (300, 20), "red"), "only the square at the centre of 300 × 20 pixels"),
        (Image.new("RGB", (9, 7), "red"), "9 × 7 pixels are enlarged"),
        (Image.new("RGB", (40, 21), "red"), "40 × 21 pixels are enlarged"),
        (Image.effect_noise((64, 64), 90), "it is greyscale"),
        (Image.effect_noise((64, 64), 90).convert("RGB"), "it is greyscale"),
        (Image.new("I;16", (64, 64), 40000), "it is greyscale"),
    ],
)
def test_a_picture_unlike_the_training_images_gets_a_note(image, note, run):
    predictor = normlab.load(run.path)
    predictor.expected_notes = ()  # as for a network trained on colours
    (prediction,) = predictor.predict(image)
    assert any(text.startswith(note) for text in prediction.notes)


def test_a_note_gives_the_size_after_rotation(run, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (100, 30), "red").save(tmp_path / "a.jpg", exif=exif)
    (prediction,) = normlab.load(run.path).predict(tmp_path / "a.jpg")
    assert prediction.notes[0].startswith("only the square at the centre of 30 × 100 pixels")


def test_an_invalid_orientation_is_ignored(run, tmp_path):
    entry = struct.pack("<HHI4s", ExifTags.Base.Orientation, 2, 4, b"up\0\0")  # 2: text
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert image.getexif()[ExifTags.Base.Orientation].startswith("up")
    assert normlab.load(run.path).predict(tmp_path / "a.png")[0].notes == ("it has colours",)


def test_a_usual_picture_gets_no_note(run):
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    predictor = normlab.load(run.path)
    predictor.expected_notes = ()  # as for a network trained on colours
    assert predictor.predict(colours)[0].notes == ()


def test_colours_are_noted_if_the_training_images_were_grey(run, pictures):
    predictor = normlab.load(run.path)
    assert predictor.predict(pictures / "00.png")[0].notes == ()
    red = Image.new("RGB", (32, 32), "red")
    assert predictor.predict(red)[0].notes == ("it has colours",)


def test_the_first_frame_of_an_animation_is_predicted(run, tmp_path):
    frames = [Image.effect_noise((40, 40), 50 + k).convert("RGB") for k in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    predictor = normlab.load(run.path)
    (prediction,) = predictor.predict(tmp_path / "a.webp")
    (first,) = predictor.predict(frames[0])
    np.testing.assert_allclose(prediction.probabilities, first.probabilities, atol=1e-6)
    assert "only the first of its frames is seen" in prediction.notes


# The command line


def test_one_line_per_picture(run, pictures, cli):
    code, output, errors = cli("predict", run.path, pictures)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert len(lines) == 20
    predictions = normlab.load(run.path).predict(sorted(pictures.iterdir()))
    for line, prediction in zip(lines, predictions, strict=True):
        assert line.startswith(prediction.name)
        assert f"{prediction.label} {prediction.probability:6.1%}" in line


def test_json_and_csv_contain_all_probabilities(run, pictures, cli):
    _, output, _ = cli("predict", run.path, pictures / "0*.png", "--json")
    (prediction, *_) = map(json.loads, output.splitlines())
    (expected,) = normlab.load(run.path).predict(pictures / "00.png")
    assert prediction["class"] == expected.label
    # The last bits depend on the batch size.
    np.testing.assert_allclose(
        [*prediction["probabilities"].values()], expected.probabilities, atol=1e-6
    )
    _, output, _ = cli("predict", run.path, pictures / "0*.png", "--csv")
    first = next(csv.DictReader(io.StringIO(output)))
    assert first["picture"] == str(pictures / "00.png")
    assert float(first["3"]) == pytest.approx(prediction["probabilities"]["3"], rel=1e-4)


@pytest.mark.slow(3)
def test_the_standard_input_is_a_picture(run, pictures):
    done = subprocess.run(
        [sys.executable, "-m", "normlab", "predict", run.path, "-", "--json"],
        input=(pictures / "00.png").read_bytes(),
        capture_output=True,
        check=True,
    )
    (expected,) = normlab.load(run.path).predict(pictures / "00.png")
    assert json.loads(done.stdout)["probability"] == pytest.approx(expected.probability, rel=1e-5)


def test_unreadable_pictures_are_named_and_the_others_predicted(run, pictures, cli, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    code, output, errors = cli("predict", run.path, tmp_path / "bad.png", pictures / "00.png")
    assert code == 1
    assert len(output.splitlines()) == 1
    assert "bad.png cannot be read as an image" in errors
    assert errors.splitlines()[-1] == "normlab: 1 of 2 pictures could not be read"


@pytest.mark.slow(2)
def test_peculiar_files_are_predicted_or_named_with_the_problem(run, tmp_path):
    def in_order(table):
        return sorted(((tmp_path / f"{name}.png", *row) for name, row in table.items()))

    for path, content, *_ in in_order(ANSWERED | REFUSED):
        path.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "normlab", "predict", run.path, tmp_path, "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    expected = normlab.load(run.path).predict([path for path, *_ in in_order(ANSWERED)])
    for row, prediction in zip(rows, expected, strict=True):
        assert row["picture"] == prediction.name
        assert row["notes"] == list(prediction.notes)
        assert row["probability"] == pytest.approx(prediction.probability, abs=1e-5)
    *problems, last = done.stderr.splitlines()
    for line, (path, _, problem) in zip(problems, in_order(REFUSED), strict=True):
        assert line.startswith(f"normlab: {path} cannot be read as an image (")
        assert problem in line
    total = len(ANSWERED) + len(REFUSED)
    assert last == f"normlab: {len(REFUSED)} of {total} pictures could not be read"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nothing.png"], "nothing.png: there is no such picture, nor a folder with pictures"),
        (["*.gif"], "there is no such picture"),
        ([""], "'': there is no such picture"),
        (["a" * 300 + ".png"], "there is no such picture"),
        ([], "expected a picture after the run's folder"),
        (["x.png", "--json", "--csv"], "--json and --csv exclude each other"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, problem, run, cli):
    code, output, errors = cli("predict", run.path, *arguments)
    assert (code, output) == (2, "")
    assert problem in errors


def test_control_characters_in_names_are_not_printed(run, cli, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a\x1b[31m\n.png")
    _, output, _ = cli("predict", run.path, tmp_path)
    assert "\x1b" not in output
    assert len(output.splitlines()) == 1


@pytest.fixture
def hostile(run, tmp_path):
    """A copy of a run whose class names hold terminal colours and line breaks."""
    folder = tmp_path / "hostile"
    shutil.copytree(run.path, folder)
    name_classes(folder, [f"{k}\x1b[31m\n" for k in range(10)])
    return folder


def name_classes(folder, names):
    """Renames a run's classes."""
    data = json.loads((folder / "config.json").read_text())["data"]
    rewrite(folder / "config.json", data=data | {"classes": names})


def test_control_characters_in_class_names_are_not_printed(hostile, pictures, cli):
    for style in ((), ("--csv",), ("--json",)):
        _, output, _ = cli("predict", hostile, pictures / "00.png", *style)
        assert "\x1b" not in output
        assert len(output.splitlines()) == 1 + (style == ("--csv",))
    _, _, errors = cli("explain", hostile, pictures / "00.png", "--classes", "cat")
    assert "\x1b" not in errors
    assert len(errors.splitlines()) == 1


def test_duplicate_class_names_are_refused(hostile):
    name_classes(hostile, ["a"] * 10)
    with pytest.raises(RunError, match="two of its classes have one name"):
        normlab.load(hostile)


@pytest.mark.slow(9)
def test_many_pictures_show_a_progress_bar_and_take_no_more_memory(run, tmp_path):
    """On a terminal, with the predictions in a file."""
    picture = io.BytesIO()  # 300 kB decoded: keeping 700 more would take 200 MB
    Image.new("RGB", (400, 250), "red").save(picture, "PNG")
    peaks = {}
    for count in (300, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for k in range(count):
            (folder / f"{k:04}.png").write_bytes(picture.getvalue())
        terminal, child_end = pty.openpty()
        with (tmp_path / "predictions.csv").open("w") as file:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    COMMAND_WITH_PEAK_MEMORY,
                    "predict",
                    run.path,
                    folder,
                    "--csv",
                ],
                stdout=file,
                stderr=child_end,
                env=os.environ | {"TERM": "xterm", "OMP_NUM_THREADS": "1"},
            )
        os.close(child_end)
        display = b""
        with suppress(OSError):  # the process closed its end
            while part := os.read(terminal, 4096):
                display += part
        os.close(terminal)
        assert process.wait() == 0
        assert b"Predicting" in display
        assert b"100%" in display
        *rows, peak = (tmp_path / "predictions.csv").read_text().splitlines()
        assert len(rows) == 1 + count
        peaks[count] = int(peak)
    assert peaks[1000] < peaks[300] + 100_000  # kB


def test_folders_patterns_and_files_name_pictures(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "folder.png").mkdir()
    (tmp_path / "a" / ".thumbnails").mkdir()
    for name in ("2.png", "1.jpg", "b/3.WEBP", "readme.txt", "._1.jpg", ".thumbnails/1.jpg"):
        (tmp_path / "a" / name).touch()
    monkeypatch.chdir(tmp_path)

    def found(inputs):
        return find_pictures(inputs)[0]

    assert found(["a"]) == ["a/1.jpg", "a/2.png", "a/b/3.WEBP"]
    assert found(["a/*.png", "-"]) == ["a/2.png", "-"]
    assert found(["**/*.jpg"]) == ["a/1.jpg"]
    assert found(["a/.th*/*.jpg"]) == ["a/.thumbnails/1.jpg"]
    monkeypatch.chdir(tmp_path / "a" / ".thumbnails")
    assert found(["."]) == ["1.jpg"]  # the hidden folder itself was named
    monkeypatch.chdir(tmp_path)
    assert found([str(tmp_path / "a" / "*.jpg")]) == [str(tmp_path / "a" / "1.jpg")]
    with pytest.raises(UsageError, match="there is no such picture"):
        found(["b"])
