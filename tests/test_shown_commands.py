"""The commands that the README and the pages show, run one after another on few of the digits.

The pages on data, on pictures, networks and normalizations of one's own have tests of their own.
"""

import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if not re.match("data|few-|own-", path.name)
]
# What a command has that is not run here, and why.
NOT_HERE = {
    "serve": "it serves until it is stopped",
    "push": "it needs a hub",
    "--ray": "it needs a cluster",
    "--resume": "it needs a run that was stopped",
    "--teacher": "a teacher must know the same classes",
    "results/": "it writes into the repository",
}
RUNS = ("micro-bn-0", "nano-bn-0", "seed-bn-0", "bn-0", "gn-0", "ln-0")  # that pages name
WORDS = {"PICTURE": "seven.png", "RUN": "runs/digits/nano-bn-0"}


def reason(line):
    """Why a line is not run; empty if it is."""
    return next((why for part, why in NOT_HERE.items() if part in line), "")


def shown(page):
    """A page's commands as they are written, and whether the page shows an error after each."""
    text = page.read_text()
    for prompt, line, after in re.findall(
        r"^    (\$ )?(?:\w+=\S+ )*normlab (.+)(?=\n(.*))", text, re.MULTILINE
    ):
        yield re.sub(r" \[.*?\]", "", line), bool(prompt) and after.startswith("    normlab: ")


def runnable(page):
    """Those of its commands that are run here."""
    return [(line, fails) for line, fails in shown(page) if not reason(line)]


def on_digits(line):
    """The words of a command, for few images of the digits and one epoch."""
    words = []
    for word in shlex.split(line, comments=True):
        parts = re.split(r"\{(.+?)\}", WORDS.get(word, word).replace("cifar10/", "digits/"))
        parts[1::2] = [part.split(",") for part in parts[1::2]]
        words += ["".join(p) for p in product(*([p] if isinstance(p, str) else p for p in parts))]
    command = words[0]
    if "--model" in words and command == "export":  # its check needs CIFAR-10
        at = words.index("--model")
        words[at : at + 2] = [WORDS["RUN"]]
    if command == "train" and "digits" in words:  # another line may have trained it
        words += ["--out", "runs/" + re.sub(r"\W+", "-", line)]
    if command in ("train", "compare", "data") and "--dataset" not in words:
        words += ["--dataset", "digits"]
    if command in ("train", "compare"):
        words += ["--epochs", "1"]
        words += ["--train-images", "256"] if "digits" in words else []
    if command == "compare" and "--dry-run" not in words:
        words += ["--dry-run"]
    return words


@pytest.mark.slow(20)
@pytest.mark.parametrize("page", [*filter(runnable, PAGES)], ids=lambda page: page.name)
def test_the_commands_of_a_page_run(page, trained, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    used = {word for line, _ in runnable(page) for word in on_digits(line) if "train" not in line}
    for name in RUNS:
        if f"runs/digits/{name}" in used:
            shutil.copytree(trained.path, tmp_path / "runs/digits" / name)
    shutil.copy(ROOT / "examples/resnet20.py", tmp_path)
    for name in ("seven.png", "new.jpg", "scans/a.png", *(f"photos/a/{k}.png" for k in range(9))):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (9, 99, 199)).save(name)
    shutil.copytree("photos/a", "photos/b")
    for line, fails in runnable(page):
        code, _, errors = cli(*on_digits(line))
        assert bool(code) == fails, f"{line}\n{errors}"


def test_each_reason_not_to_run_a_command_has_a_command():
    lines = [line for page in PAGES for line, _ in shown(page)]
    for part in NOT_HERE:
        assert any(part in line for line in lines), part
