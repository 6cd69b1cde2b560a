"""What lies in the working folder, or in a stranger's study, is neither run nor deleted."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from environments import COMPARE, IN_ONE_PROCESS, NETWORK, TRAIN, TRAINED, normlab
from normlab import Callback, Execution, StudyConfig, compare, train
from normlab.data import load
from normlab.errors import NormlabError, RunError, UsageError
from normlab.report.data_page import write_data_page
from normlab.report.run_page import write_report
from normlab.report.study_page import write_study_report
from normlab.runs.run import Run
from normlab.study.record import Study
from serving import served

# Of Python itself, of what normlab needs, and those that they look for without needing them.
MODULES = (
    *("random", "json", "typing", "logging", "pathlib", "signal", "threading"),
    *("numpy", "torch", "PIL", "yaml", "tyro", "rich"),
    *("dill", "cuda", "pynvml", "torchcomms", "defusedxml", "normlab", "sitecustomize"),
    *("matplotlib", "scipy", "sklearn", "kornia", "pooch", "ray", "gradio", "captum", "onnx"),
)


@pytest.fixture
def folder(tmp_path):
    """A folder with modules that tell when they are imported."""
    for name in MODULES:
        path = tmp_path / f"{name}.py"
        path.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    return tmp_path


def ran(folder):
    path = folder / "ran"
    return path.read_text() if path.exists() else ""


@pytest.fixture
def run(trained, tmp_path_factory):
    return shutil.copytree(trained.path, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    path = tmp_path_factory.mktemp("picture") / "grey.png"
    Image.new("RGB", (8, 8), (99, 99, 99)).save(path)
    return path


@pytest.mark.slow(20)
def test_no_command_runs_it(folder, run, picture):
    alone = (sys.executable, "-P", "-c", IN_ONE_PROCESS)
    for commands in (  # those of a process import different libraries
        ("zoo", "norms", shlex.join(["summary", NETWORK]), "data --dataset digits"),
        (shlex.join([*TRAIN, "--out", "trained"]), f"card {run}"),
        (f"evaluate {run}", f"predict {run} {picture}", f"explain {run} {picture}"),
        (f"export {run} --to pt2", f"export {run} --to onnx", f"report {run}"),
    ):
        process = normlab(*commands, cwd=folder, command=alone)
        assert process.returncode == 0, (commands, process.stderr)
        assert not ran(folder), commands


@pytest.mark.slow(6)
def test_no_server_runs_it(folder, run, picture, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(folder)
    with served(tmp_path_factory.mktemp("served"), run, PYTHONSAFEPATH="1") as server:
        assert server.predict(picture.read_bytes())[0] == 200
        server.upload(picture.read_bytes())
    assert not ran(folder)


@pytest.mark.slow(20)
@pytest.mark.parametrize("where", [(), ("--ray", "local")])
def test_no_worker_runs_it(where, folder):
    process = normlab(*COMPARE[: -2 if where else None], *where, "--out", "study", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert not ran(folder)


@pytest.mark.slow(2)
def test_started_as_a_module_it_does_not_either(folder):
    """Python itself looks in the working folder until normlab is imported: hence few modules."""
    for name in ("random", "json", "typing", "sitecustomize", "normlab"):
        (folder / f"{name}.py").unlink()
    process = normlab(
        "data", "--dataset", "digits", cwd=folder, command=(sys.executable, "-m", "normlab")
    )
    assert process.returncode == 0, process.stderr
    assert not ran(folder)


@pytest.mark.slow(5)
def test_only_a_normalization_that_is_asked_for_is_imported(folder):
    (folder / "mine.py").write_text(
        "import helper\nfrom torch import nn\n\n\nclass Norm(nn.Identity):\n    pass\n"
    )
    (folder / "helper.py").write_text("import random\n")
    process = normlab(*TRAIN, "--norm", "mine:Norm", "--out", "run", cwd=folder)
    assert process.returncode == 0, process.stderr
    assert not ran(folder)


def test_the_path_is_as_before_afterwards(folder, monkeypatch):
    from normlab.layers import norms

    (folder / "another.py").write_text("from torch.nn import Identity\n")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = [*sys.path]
    norms.find("another:Identity")
    assert sys.path == before
    assert sys.modules.pop("another")


STUDY = StudyConfig(
    network=NETWORK,
    dataset="digits",
    recipe="demo",
    epochs=1,
    seeds=1,
    norms=("bn",),
)


@pytest.mark.slow(2)
def test_what_a_user_keeps_in_a_study_stays(tmp_path):
    compare(STUDY, tmp_path / "study", quiet=True)
    kept = [tmp_path / "study" / name for name in ("data/mine", "tmp/mine", "mine", ".mine")]
    for path in kept:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    compare(STUDY, tmp_path / "study", quiet=True)
    assert all(path.read_text() == "mine" for path in kept)


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoint.pt", "checkpoint-before.pt", "metrics.jsonl", "teacher.npy"),
        *("report.html", "figures"),
    ],
)
def test_no_run_is_trained_where_a_user_keeps_files_of_its_names(name, tmp_path):
    mine = tmp_path / name
    if name == "figures":
        mine.mkdir()
        mine /= "mistakes.png"
    mine.write_text("mine")
    with pytest.raises(RunError, match=rf"{re.escape(name)} already exists, and .* no run"):
        train(TRAINED, tmp_path, Execution(threads=1), quiet=True)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "config.json").exists()


def test_a_run_that_was_killed_before_it_had_settings_is_trained_anew(tmp_path):
    class Kill(Callback):
        def on_step_end(self, state):
            raise SystemExit

    with pytest.raises(SystemExit):
        train(TRAINED, tmp_path, Execution(threads=1), callbacks=[Kill()], quiet=True)
    (tmp_path / "config.json").unlink()
    assert train(TRAINED, tmp_path, Execution(threads=1), quiet=True).finished


@pytest.mark.slow(2)
def test_nothing_is_written_or_deleted_through_a_link(trained, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "curves.png").write_text("mine")
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    shutil.rmtree(run / "figures", ignore_errors=True)
    (run / "figures").symlink_to(elsewhere)
    with pytest.raises(NormlabError, match="figures is a symbolic link"):
        write_report([Run.open(run)])
    study = tmp_path / "study"
    compare(STUDY, study, quiet=True)
    (study / "figures").symlink_to(elsewhere)
    with pytest.raises(NormlabError, match="figures is a symbolic link"):
        write_study_report(Study.open(study))
    shutil.rmtree(study / "runs")
    (study / ".normlab-data").symlink_to(elsewhere)
    with pytest.raises(NormlabError, match="normlab-data is a symbolic link"):
        compare(STUDY, study, quiet=True)
    assert [path.name for path in elsewhere.iterdir()] == ["curves.png"]
    assert (elsewhere / "curves.png").read_text() == "mine"


WRITING = [  # a command, without --out; the file; what normlab wrote there before
    (("data", "--dataset", "digits", "--recipe", "demo"), "digits.html"),
    (("report", "run"), "page.html"),
    (("explain", "run", "x.png"), "why.png"),
    (("export", "run", "--to", "pt2"), "mine.pt2"),
]


@pytest.fixture
def beside_a_run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "x.png")
    return tmp_path


@pytest.mark.slow(4)
@pytest.mark.parametrize(("command", "name"), WRITING)
def test_a_file_of_the_user_is_not_overwritten_and_one_of_normlab_is(
    command, name, beside_a_run, cli, monkeypatch
):
    monkeypatch.chdir(beside_a_run)
    file = Path(name)
    Image.new("RGB", (9, 9), "blue").save(file, "PNG")
    mine = file.read_bytes()
    code, _, errors = cli(*command, "--out", name)
    assert (code, errors.count("\n")) == (2, 1)
    assert re.search(rf"{name} already exists, and .*: delete it", errors)
    assert file.read_bytes() == mine
    file.unlink()
    for _ in range(2):
        code, _, errors = cli(*command, "--out", name)
        assert code == 0, errors
    assert file.read_bytes() != mine


@pytest.mark.slow(3)
@pytest.mark.parametrize("count", [1, 2])
def test_nor_are_figures_of_the_user_beside_a_page(trained, tmp_path, count):
    """Mistakes are removed where they are left out."""
    runs = [Run.open(shutil.copytree(trained.path, tmp_path / str(k))) for k in range(count)]
    page = tmp_path / "report.html"
    (tmp_path / "figures").mkdir()
    for name in ("curves", "mistakes"):
        figure = tmp_path / "figures" / f"{name}.png"
        figure.write_text("mine")
        refused = rf"{name}\.png already exists, and normlab did not write"
        with pytest.raises(UsageError, match=refused):
            write_report(runs, page, images=False)
        assert figure.read_text() == "mine"
        assert not page.exists()
        figure.unlink()
    for _ in range(2):
        assert write_report(runs, page, images=False) == page
        assert (figure.parent / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "pipe"])
def test_what_is_no_file_is_not_replaced(kind, tmp_path):
    out = tmp_path / "data.html"
    make = {"folder": out.mkdir, "link to nothing": lambda: out.symlink_to("x")}
    make.get(kind, lambda: os.mkfifo(out))()
    mode = out.lstat().st_mode
    with pytest.raises(UsageError, match="already exists"):
        write_data_page(load("digits"), out, recipe_steps=())
    assert out.lstat().st_mode == mode
