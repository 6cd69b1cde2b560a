"""What a trained network answers on pictures of all kinds, through the command line and Python."""

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
from normlab.cli import main
from normlab.data import load
from normlab.errors import DataError, RunError, UsageError
from normlab.inference.predict import find_pictures
from normlab.runs.checkpoint import save_weights
from peculiar import ANSWERED, REFUSED
from tampering import rewrite

# The command, and in the end the most memory that its process held: what a process has that starts
# another counts as the other's, but in this file.
WATCHED = """
import re, sys
from normlab.cli import main
main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that can tell digits apart."""
    config = normlab.RunConfig(
        network="C:8 P C:16 P GAP FC", dataset="digits", recipe="demo", epochs=3, learning_rate=0.05
    )
    return normlab.train(config, tmp_path_factory.mktemp("run") / "digits", quiet=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The first twenty test images as files, all of the formats that are read."""
    folder = tmp_path_factory.mktemp("pictures")
    for k, image in enumerate(load("digits").test.images[:20]):
        suffix = ("png", "bmp", "webp", "jpg")[k % 4]
        options = {"lossless": True} if suffix == "webp" else {"quality": 100}
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{k:02}.{suffix}", **options)
    return folder


@pytest.fixture
def said(capsys):
    """Runs a command and gives its exit code, output and errors."""

    def command(*arguments):
        code = 0
        try:
            main([*map(str, arguments)])
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return command


# Python


def test_the_answers_are_those_of_an_evaluation(run):
    expected = normlab.evaluate(run.network(), run.dataset())
    images = run.dataset().test.images
    trained = normlab.load(run.path)
    answers = trained.predict(images.transpose(0, 2, 3, 1))
    found = np.stack([answer.probabilities for answer in answers])
    np.testing.assert_allclose(found, expected.probabilities, atol=1e-5)
    assert [answer.label for answer in answers] == [str(k) for k in expected.predictions]
    assert trained.classes == run.data.classes


def test_paths_pil_images_and_arrays_are_answered_alike(run, pictures):
    trained = normlab.load(run.path)
    path = pictures / "00.png"
    image = Image.open(path)
    for picture in (path, str(path), image, np.asarray(image), [path]):
        (answer,) = trained.predict(picture)
        np.testing.assert_allclose(
            answer.probabilities, trained.predict(path)[0].probabilities, atol=1e-6
        )
    assert trained.predict(path)[0].name == str(path)
    assert trained.predict([]) == []


def test_an_answer_ranks_its_classes(run, pictures):
    (answer,) = normlab.load(run.path).predict(pictures / "00.png")
    top = answer.top(10)
    assert top[0] == (answer.label, answer.probability)
    assert [p for _, p in top] == sorted((p for _, p in top), reverse=True)
    assert sum(p for _, p in top) == pytest.approx(1, abs=1e-5)


def test_it_is_a_module(run):
    trained = normlab.load(run.path)
    assert not trained.training
    assert not trained.network.training
    logits = trained(torch.rand(3, 3, 32, 32))
    assert logits.shape == (3, 10)


def test_in_training_mode_it_answers_the_same_and_stays_as_it_is(run, pictures):
    trained = normlab.load(run.path)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    expected = trained.predict(pictures / "00.png")[0].probabilities
    trained.train()
    answered = trained.predict([pictures / "00.png", pictures / "01.bmp"])[0].probabilities
    np.testing.assert_allclose(answered, expected, atol=1e-6)
    assert trained.training
    assert trained.network.training
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_file_stands_for_its_folder(run, pictures):
    (expected,) = normlab.load(run.path).predict(pictures / "00.png")
    (answer,) = normlab.load(run.path / "model.safetensors").predict(pictures / "00.png")
    assert np.array_equal(answer.probabilities, expected.probabilities)


@pytest.mark.parametrize("image", [Image.new("RGB", (0, 0)), Image.new("La", (40, 40))])
def test_an_image_of_no_use_is_refused(run, image):
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
def test_what_is_no_picture_is_refused(run, picture, problem):
    with pytest.raises(TypeError, match=problem):
        normlab.load(run.path).predict(picture)


def test_a_file_that_is_no_picture_is_refused(run, tmp_path):
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(DataError, match="it is no PNG, JPEG, WebP or BMP"):
        normlab.load(run.path).predict(tmp_path / "x.png")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is no run's folder"):
        normlab.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema": 99}, "has schema 99, this normlab reads schema"),
        ({"layout": "C:8 Q GAP FC"}, "is damaged: unknown block 'Q'"),
        ({"layout": "C:8 P C:9 P GAP FC"}, "is another network's"),
        # Would take 30 GB, were it built before its size is compared with the file's.
        ({"layout": "C:8 P C:4096 " + "C:4096 " * 50 + "P GAP FC"}, "the layout's parameters take"),
        ({"recipe": 7}, "is damaged"),
        ({"run": {"network": "nano", "norm": "xyz"}}, r"config\.json makes no .*: no norm.* 'xyz'"),
        ({"layout": "C:8" + " P" * 7 + " GAP FC"}, r"config\.json makes no network: "),
    ],
)
def test_an_untrusted_folder_is_refused_in_a_line(run, tmp_path, change, problem):
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
def test_weights_of_no_use_are_refused(run, tmp_path, tensor, value, problem):
    shutil.copy(run.path / "config.json", tmp_path)
    network = run.network()
    network.state_dict()[tensor].view(-1)[0] = value
    save_weights(tmp_path / "model.safetensors", network)
    with pytest.raises(RunError, match=rf"model\.safetensors is damaged: .*{problem}"):
        normlab.load(tmp_path)


def test_names_of_wide_characters_stand_in_line(run, said, tmp_path):
    for name in ("a.png", "日本.png"):
        Image.new("L", (32, 32)).save(tmp_path / name)
    _, output, _ = said("predict", run.path, tmp_path)
    first, second = (line.partition("%")[0] for line in output.splitlines())
    assert cell_len(first) == cell_len(second)


def test_answers_that_are_no_numbers_are_refused(run):
    trained = normlab.load(run.path)
    for weight in trained.network.weights:
        weight.data *= 1e30
    with pytest.raises(RunError, match="answers with no numbers"):
        trained.predict(np.full((32, 32, 3), 128, np.uint8))


# Pictures unlike training's


@pytest.mark.parametrize(
    ("image", "note"),
    [
        (Image.new("RGB", (300, 20), "red"), "of 300 × 20 pixels only the square at the centre"),
        (Image.new("RGB", (9, 7), "red"), "9 × 7 pixels are enlarged"),
        (Image.new("RGB", (40, 21), "red"), "40 × 21 pixels are enlarged"),
        (Image.effect_noise((64, 64), 90), "it is greyscale"),
        (Image.effect_noise((64, 64), 90).convert("RGB"), "it is greyscale"),
        (Image.new("I;16", (64, 64), 40000), "it is greyscale"),
    ],
)
def test_a_picture_unlike_training_s_gets_a_note(image, note, run):
    trained = normlab.load(run.path)
    trained.expected = ()  # as of a network that was trained on colours
    (answer,) = trained.predict(image)
    assert any(said.startswith(note) for said in answer.notes)


def test_a_picture_on_its_side_is_noted_as_it_is_seen(run, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (100, 30), "red").save(tmp_path / "a.jpg", exif=exif)
    (answer,) = normlab.load(run.path).predict(tmp_path / "a.jpg")
    assert answer.notes[0].startswith("of 30 × 100 pixels")


def test_an_orientation_that_is_none_is_left_alone(run, tmp_path):
    entry = struct.pack("<HHI4s", ExifTags.Base.Orientation, 2, 4, b"up\0\0")  # 2: text
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + struct.pack("<I", 0)
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert image.getexif()[ExifTags.Base.Orientation].startswith("up")
    assert normlab.load(run.path).predict(tmp_path / "a.png")[0].notes == ("it has colours",)


def test_a_usual_picture_gets_none(run):
    colours = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    trained = normlab.load(run.path)
    trained.expected = ()  # as of a network that was trained on colours
    assert trained.predict(colours)[0].notes == ()


def test_where_training_s_were_grey_colours_are_noted(run, pictures):
    trained = normlab.load(run.path)
    assert trained.predict(pictures / "00.png")[0].notes == ()
    red = Image.new("RGB", (32, 32), "red")
    assert trained.predict(red)[0].notes == ("it has colours",)


def test_of_an_animated_picture_the_first_frame_is_seen(run, tmp_path):
    frames = [Image.effect_noise((40, 40), 50 + k).convert("RGB") for k in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    trained = normlab.load(run.path)
    (answer,) = trained.predict(tmp_path / "a.webp")
    (first,) = trained.predict(frames[0])
    np.testing.assert_allclose(answer.probabilities, first.probabilities, atol=1e-6)
    assert "of its frames only the first is seen" in answer.notes


# The command line


def test_a_line_a_picture(run, pictures, said):
    code, output, errors = said("predict", run.path, pictures)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert len(lines) == 20
    answers = normlab.load(run.path).predict(sorted(pictures.iterdir()))
    for line, answer in zip(lines, answers, strict=True):
        assert line.startswith(answer.name)
        assert f"{answer.label} {answer.probability:6.1%}" in line


def test_json_and_csv_hold_all_probabilities(run, pictures, said):
    _, output, _ = said("predict", run.path, pictures / "0*.png", "--json")
    (answer, *_) = map(json.loads, output.splitlines())
    (expected,) = normlab.load(run.path).predict(pictures / "00.png")
    assert answer["class"] == expected.label
    # In a batch of another size the last bits differ.
    np.testing.assert_allclose(
        [*answer["probabilities"].values()], expected.probabilities, atol=1e-6
    )
    _, output, _ = said("predict", run.path, pictures / "0*.png", "--csv")
    first = next(csv.DictReader(io.StringIO(output)))
    assert first["picture"] == str(pictures / "00.png")
    assert float(first["3"]) == pytest.approx(answer["probabilities"]["3"], rel=1e-4)


@pytest.mark.slow(1)
def test_the_standard_input_is_a_picture(run, pictures):
    done = subprocess.run(
        [sys.executable, "-m", "normlab", "predict", run.path, "-", "--json"],
        input=(pictures / "00.png").read_bytes(),
        capture_output=True,
        check=True,
    )
    (expected,) = normlab.load(run.path).predict(pictures / "00.png")
    assert json.loads(done.stdout)["probability"] == pytest.approx(expected.probability, rel=1e-5)


def test_what_cannot_be_read_is_named_and_the_others_are_answered(run, pictures, said, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    code, output, errors = said("predict", run.path, tmp_path / "bad.png", pictures / "00.png")
    assert code == 1
    assert len(output.splitlines()) == 1
    assert "bad.png cannot be read as an image" in errors
    assert errors.splitlines()[-1] == "normlab: 1 of 2 pictures could not be read"


@pytest.mark.slow(1)
def test_of_peculiar_files_each_is_answered_or_named_with_what_is_wrong(run, tmp_path):
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
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    expected = normlab.load(run.path).predict([path for path, *_ in in_order(ANSWERED)])
    for answer, prediction in zip(answers, expected, strict=True):
        assert answer["picture"] == prediction.name
        assert answer["notes"] == list(prediction.notes)
        assert answer["probability"] == pytest.approx(prediction.probability, abs=1e-5)
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
def test_what_makes_no_sense_is_refused_in_one_line(arguments, problem, run, said):
    code, output, errors = said("predict", run.path, *arguments)
    assert (code, output) == (2, "")
    assert problem in errors


def test_names_with_control_characters_leave_the_terminal_alone(run, said, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a\x1b[31m\n.png")
    _, output, _ = said("predict", run.path, tmp_path)
    assert "\x1b" not in output
    assert len(output.splitlines()) == 1


@pytest.fixture
def hostile(run, tmp_path):
    """A copy of a run whose classes' names would colour the terminal and break the line."""
    folder = tmp_path / "hostile"
    shutil.copytree(run.path, folder)
    name_classes(folder, [f"{k}\x1b[31m\n" for k in range(10)])
    return folder


def name_classes(folder, names):
    """Gives a run's classes other names."""
    data = json.loads((folder / "config.json").read_text())["data"]
    rewrite(folder / "config.json", data=data | {"classes": names})


def test_classes_with_control_characters_leave_the_terminal_alone(hostile, pictures, said):
    for form in ((), ("--csv",), ("--json",)):
        _, output, _ = said("predict", hostile, pictures / "00.png", *form)
        assert "\x1b" not in output
        assert len(output.splitlines()) == 1 + (form == ("--csv",))
    _, _, errors = said("explain", hostile, pictures / "00.png", "--classes", "cat")
    assert "\x1b" not in errors
    assert len(errors.splitlines()) == 1


def test_two_classes_of_one_name_are_refused(hostile):
    name_classes(hostile, ["a"] * 10)
    with pytest.raises(RunError, match="two of its classes have one name"):
        normlab.load(hostile)


@pytest.mark.slow(5)
def test_many_pictures_get_a_progress_bar_and_take_no_more_memory(run, tmp_path):
    """On a terminal, with the answers in a file."""
    picture = io.BytesIO()  # 300 kB unpacked: 700 more that were kept would be 200 MB
    Image.new("RGB", (400, 250), "red").save(picture, "PNG")
    peaks = {}
    for count in (300, 1000):
        folder = tmp_path / str(count)
        folder.mkdir()
        for k in range(count):
            (folder / f"{k:04}.png").write_bytes(picture.getvalue())
        terminal, ours = pty.openpty()
        with (tmp_path / "answers.csv").open("w") as answers:
            process = subprocess.Popen(
                [sys.executable, "-c", WATCHED, "predict", run.path, folder, "--csv"],
                stdout=answers,
                stderr=ours,
                env=os.environ | {"TERM": "xterm", "OMP_NUM_THREADS": "1"},
            )
        os.close(ours)
        shown = b""
        with suppress(OSError):  # the terminal's other side was closed
            while part := os.read(terminal, 4096):
                shown += part
        os.close(terminal)
        assert process.wait() == 0
        assert b"Asking" in shown
        assert b"100%" in shown
        *answered, peak = (tmp_path / "answers.csv").read_text().splitlines()
        assert len(answered) == 1 + count
        peaks[count] = int(peak)
    assert peaks[1000] < peaks[300] + 100_000  # kB


def test_folders_patterns_and_files_name_pictures(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "folder.png").mkdir()
    (tmp_path / "a" / ".thumbnails").mkdir()
    for name in ("2.png", "1.jpg", "b/3.WEBP", "readme.txt", "._1.jpg", ".thumbnails/1.jpg"):
        (tmp_path / "a" / name).touch()
    monkeypatch.chdir(tmp_path)
    assert find_pictures(["a"]) == ["a/1.jpg", "a/2.png", "a/b/3.WEBP"]
    assert find_pictures(["a/*.png", "-"]) == ["a/2.png", "-"]
    assert find_pictures(["**/*.jpg"]) == ["a/1.jpg"]
    assert find_pictures(["a/.th*/*.jpg"]) == ["a/.thumbnails/1.jpg"]
    monkeypatch.chdir(tmp_path / "a" / ".thumbnails")
    assert find_pictures(["."]) == ["1.jpg"]  # who is in a hidden folder means it
    monkeypatch.chdir(tmp_path)
    assert find_pictures([str(tmp_path / "a" / "*.jpg")]) == [str(tmp_path / "a" / "1.jpg")]
    with pytest.raises(UsageError, match="there is no such picture"):
        find_pictures(["b"])
