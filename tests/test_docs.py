"""The pages on data: every command in them is run, on real photographs where it can be."""

import dataclasses
import functools
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from environments import on_few_images
from normlab import cli as command_line
from normlab.config import DataConfig
from normlab.data import source_of
from normlab.data.sources import hf
from normlab.recipes import OWN_EPOCHS, RECIPES, SHOWN, find, own_epochs

DOCS = Path(__file__).parent.parent / "docs"
DOWNLOADED = re.compile(r"cifar100|hf:(?!downloads)")


def commands(page):
    """The indented lines that are commands."""
    text = (DOCS / page).read_text()
    return [shlex.split(line)[1:] for line in re.findall(r"^    (normlab .+)$", text, re.MULTILINE)]


def shown_commands():
    """Every command that the README and a page show, but for synopses such as `RUN [RUN ...]`."""
    for page in (DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))):
        shown = re.findall(r"^    (?:\$ |\w+=\S+ )*(normlab .+)$", page.read_text(), re.MULTILINE)
        for line in shown:
            if not re.search(r"\[|RUN \.\.\.", line):
                yield pytest.param(shlex.split(line, comments=True)[1:], id=f"{page.name}: {line}")


@pytest.mark.parametrize("arguments", [*shown_commands()])
def test_a_command_that_is_shown_is_one(arguments, monkeypatch, cli):
    """Its flags are read; it does not run."""
    read = []
    commands = command_line._COMMANDS
    for name, command in commands.items():
        monkeypatch.setitem(
            commands, name, functools.wraps(command)(lambda *_, **__: read.append(1))
        )
    assert cli(*arguments) == (0, "", "")
    assert read == [1]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Five parts of each of scikit-learn's two photographs, and one more to predict."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("building", "flower"), load_sample_images().images, strict=True):
        for k in range(5):
            file = tmp_path / "photos" / name / f"{k + 1}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            top, left = 40 * k, 80 * k
            Image.fromarray(image[top : top + 240, left : left + 240]).save(file)
    (tmp_path / "new-photos").mkdir()
    Image.fromarray(image[100:340, 150:390]).save(tmp_path / "new-photos" / "a.jpg")
    return tmp_path


@pytest.mark.slow(4)
def test_ten_photos_are_looked_at_trained_on_explained_and_exported(photos, cli):
    pytest.importorskip("captum")
    pytest.importorskip("onnxruntime")
    run = commands("own-pictures.md")
    assert [command[0] for command in run] == [
        *("data", "train", "predict", "evaluate", "explain", "export"),
    ]
    outputs = {}
    for command in run:
        short = ("--epochs", "2") if command[0] == "train" else ()
        code, outputs[command[0]], errors = cli(*command, *short)
        assert code == 0, errors
    page = (DOCS / "own-pictures.md").read_text()
    (note,) = re.findall(r"^    (note: .+)$", page, re.MULTILINE)
    assert note in outputs["data"]
    assert "runs/photos/report.html" in outputs["train"]
    assert outputs["predict"].startswith("new-photos/a.jpg  ")
    for name in ("folder-photos.html", "why.png", "runs/photos/model.onnx"):
        assert (photos / name).is_file()


def test_the_data_sets_of_the_page_are_read(photos, cli):
    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    np.savez(photos / "digits.npz", x_train=grey[:, 2:30, 2:30], y_train=digits.target)
    run = commands("data.md")
    assert len(run) == 8
    for command in run:
        name = command[command.index("--dataset") + 1]
        assert source_of(name) is not None
        if DOWNLOADED.match(name) or name.startswith("hf:"):
            continue
        code, _, errors = cli(*command)
        assert code == 0, errors


def test_settings_of_the_page_are_flags():
    flags = {word for command in commands("data.md") for word in command if word.startswith("--")}
    known = {f"--{name.replace('_', '-')}" for name in DataConfig.__dataclass_fields__}
    assert flags <= known


@pytest.mark.filterwarnings("default")  # of the library
def test_the_folder_of_a_repositorys_files_is_read(photos, cli):
    datasets = pytest.importorskip("datasets")
    folder = photos / "downloads" / "fashion_mnist"
    folder.mkdir(parents=True)
    pictures = [Image.fromarray(np.full((28, 28), 9 * k, np.uint8)) for k in range(10)]
    datasets.Dataset.from_dict(
        {"image": pictures, "label": [k % 2 for k in range(10)]},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["shirt", "coat"])}
        ),
    ).to_parquet(folder / "train-00000-of-00001.parquet")
    (command,) = (c for c in commands("data.md") if "hf:downloads/fashion_mnist" in c)
    code, output, errors = cli(*command)
    assert code == 0, errors
    assert "8 × 1 × 28 × 28" in output


def test_the_program_of_the_page_runs(photos):
    (program,) = re.findall(r"```python\n(.+?)```", (DOCS / "data.md").read_text(), re.DOTALL)
    names = {}
    exec(compile(program, "data.md", "exec"), names)
    assert names["run"].data.classes == ("round", "square")
    assert names["run"].config.size == 28


def test_the_spellings_of_the_page_are_those_of_the_sources():
    page = (DOCS / "data.md").read_text()
    assert f"`{hf.SPELLING}`" in page


@pytest.mark.slow(2)
def test_few_and_unequal_pictures_are_trained_on(photos, cli):
    (photos / "photos" / "flower" / "5.jpg").unlink()
    run = commands("few-pictures.md")
    outputs = []
    for command in run:
        code, output, errors = cli(*command, "--epochs", "2")
        assert code == 0, errors
        outputs.append(output)
    started, balanced = outputs
    page = (DOCS / "few-pictures.md").read_text()
    (line,) = re.findall(r"^    (started from .+)\)$", page, re.MULTILINE)
    assert line in started
    assert (
        "balanced: in the loss, an image of flower has weight 1.17, an image of building 0.875"
        in balanced
    )


def test_the_recipe_of_the_page_is_own():
    page = (DOCS / "few-pictures.md").read_text()
    recipe = find("own")
    table = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", page, re.MULTILINE))
    assert table["batch size"] == str(recipe.batch_size)
    assert table["learning rate, schedule"].startswith(
        f"{recipe.learning_rate:g}, up for a quarter"
    )
    decays = f"{recipe.weight_decay:g}, {recipe.label_smoothing:g}"
    assert table["weight decay, label smoothing"] == decays
    assert f"momentum {recipe.momentum:g}; Muon at {recipe.muon:g} of" in table["optimizer"]
    assert {f"`{step}`" for step in recipe.augment} <= table.keys()
    assert recipe.mirror
    fewest, most = OWN_EPOCHS
    assert table["epochs"] == (
        f"{SHOWN:,} / training images, rounded up, but at least {fewest} and at most {most}"
    )
    assert [own_epochs(images) for images in (100, 1000, 50_000)] == [200, 60, 20]


@pytest.mark.slow(6)
@pytest.mark.parametrize(
    "page", ["README.md", "classifier.md", "explain.md", "notebook.md", "predict.md"]
)
def test_the_python_of_a_page_runs(page, trained, tmp_path, monkeypatch):
    """In one namespace, with the runs, pictures and arrays that it names."""
    if page == "explain.md":
        pytest.importorskip("captum")
    monkeypatch.chdir(tmp_path)
    for name in ("first", "digits/nano-bn-0") if page != "README.md" else ():
        shutil.copytree(trained.path, tmp_path / "runs" / name)
    digits = load_digits()
    digits.update({name: digits[name][:100] for name in ("images", "data", "target")})
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: digits)  # fewer
    monkeypatch.setitem(RECIPES, "demo", dataclasses.replace(RECIPES["demo"], epochs=1))
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)[..., None].repeat(3, axis=-1)
    for name in ("seven.png", "cat.jpg"):
        Image.fromarray(images[7]).resize((32, 32)).save(name)
    known = {"images": images[:50], "labels": digits.target[:50], "others": images[50:]}
    text = (DOCS.parent / page if page == "README.md" else DOCS / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, known)


@pytest.mark.slow(15)
def test_a_normalization_of_ones_own_is_trained_compared_and_opened_again(
    tmp_path, cli, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "own-normalization.md").read_text()
    (module,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_norms.py").write_text(module)
    shown = re.findall(r"^    (?:NORMLAB_NORMS=(\w+) )?(normlab .+)$", text, re.MULTILINE)
    assert len(shown) == 3
    for trusted, command in shown:
        with monkeypatch.context() as patch:
            if trusted:
                patch.setenv("NORMLAB_NORMS", trusted)
            code, output, errors = cli(*on_few_images(shlex.split(command)[1:]))
        del sys.modules["my_norms"]  # none trusts it because another has imported it
        assert code == 0, errors
    assert "accuracy" in output
