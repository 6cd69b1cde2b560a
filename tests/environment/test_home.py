"""The home folder: nothing appears in it but normlab's cache, and nobody needs one."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from environments import IN_ONE_PROCESS, quick_gcc
from harness import TRAIN

HIDDEN = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR")


@pytest.fixture(scope="module", autouse=True)
def without_optimization(tmp_path_factory):
    """A new home has no compiled passes yet."""
    with pytest.MonkeyPatch.context() as patch:
        if shutil.which("gcc"):
            patch.setenv("PATH", quick_gcc(tmp_path_factory.mktemp("gcc"))["PATH"])
        yield


def run(home, folder, *arguments, start=("-m", "normlab"), **variables):
    """A command with this home folder; it ends well and writes nothing to the standard error."""
    environment = {k: v for k, v in os.environ.items() if k not in HIDDEN}
    ended = subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        env=environment | {"HOME": str(home)} | variables,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def files(home):
    return {str(path.relative_to(home)) for path in home.rglob("*") if not path.is_dir()}


@pytest.fixture
def folder(tmp_path):
    """A folder with a picture, and a place for a run."""
    (tmp_path / "work").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "work" / "x.png")
    return tmp_path / "work"


@pytest.mark.slow(11)
def test_nothing_appears_in_an_empty_home_but_the_cache(tmp_path, folder):
    pytest.importorskip("captum")
    pytest.importorskip("onnxruntime")
    home = tmp_path / "home"
    home.mkdir()
    commands = (
        shlex.join([*TRAIN, "run"]),
        "report run",
        "evaluate run",
        "data --dataset digits",
        "predict run x.png",
        "explain run x.png",
        "export run --to pt2",
        "export run --to onnx",
        "export run --to onnx --int8",
        "export run --to c --unproved",
        "card run",
    )
    run(home, folder, *commands, start=("-c", IN_ONE_PROCESS))
    strangers = {f for f in files(home) if not f.startswith(".cache/normlab")}
    assert not strangers


@pytest.mark.slow(15)
@pytest.mark.parametrize("home", ["a file", "missing below /proc"])
def test_without_a_home_that_can_be_written_no_library_says_so(home, tmp_path, folder):
    (tmp_path / "file").touch()
    home = {"a file": tmp_path / "file", "missing below /proc": Path("/proc/nowhere")}[home]
    output = run(home, folder, *TRAIN, "run")
    assert "report: run/report.html" in output
    assert "atplotlib" not in output
    assert (folder / "run" / "figures" / "curves.png").exists()


@pytest.mark.slow(4)
def test_the_library_leaves_the_users_settings_of_matplotlib_alone(tmp_path):
    """Only the command's own process has folders and a backend of its own."""
    code = (
        "import os; before = dict(os.environ); import normlab; normlab.plots.curves; "
        "assert dict(os.environ) == before; import logging; "
        "assert logging.getLogger('matplotlib').level == logging.NOTSET"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env=os.environ | {"HOME": str(tmp_path)}
    )


@pytest.mark.slow(2)
def test_a_cache_folder_that_is_no_absolute_path_is_not_made_here(tmp_path):
    """The standard for such folders says so; a "~" that was not expanded would become a folder."""
    run(tmp_path, tmp_path, "data", "--dataset", "digits", XDG_CACHE_HOME="~/cache")
    assert (tmp_path / ".cache" / "normlab-matplotlib").is_dir()
    assert not (tmp_path / "~").exists()
