"""Uploads to a stand-in for the Hugging Face Hub, by its real client."""

import os
import pty
import shutil
import subprocess
import sys
import threading

import pytest

import normlab
from environments import assert_one_line
from environments import normlab as command
from hub import TOKEN, Hub

pytest.importorskip("huggingface_hub")

FILES = ["README.md", "config.json", "metrics.jsonl", "model.safetensors"]


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(trained, tmp_path, cli):
    """A run's folder with its card, and what else a folder may have."""
    shutil.copytree(trained.path, tmp_path / "run")
    assert cli("card", tmp_path / "run")[0] == 0
    (tmp_path / "run" / "report.html").write_text("pictures")
    (tmp_path / "run" / "notes.txt").write_text("mine")
    return tmp_path / "run"


@pytest.fixture
def variables(hub, tmp_path):
    return {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",  # the stand-in has no such storage
    }


@pytest.mark.slow(7)
def test_what_is_uploaded_is_said_and_loads(run, hub, variables, tmp_path):
    for _ in range(2):  # the second time the repository is there
        done = command("push", run, "me/micro-bn", "--yes", cwd=tmp_path, **variables)
        assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        f"To {hub.address}/me/micro-bn (if it does not exist, it is created as a"
    )
    for name in FILES:
        size = f"{(run / name).stat().st_size:,}"
        assert [name, size] in [line.split() for line in lines]
    assert lines[-1] == f"uploaded: {hub.address}/me/micro-bn"
    assert [*hub.repositories] == ["me/micro-bn"]
    uploaded = hub.repositories["me/micro-bn"]
    assert sorted(uploaded) == FILES
    (tmp_path / "downloaded").mkdir()
    for name, content in uploaded.items():
        (tmp_path / "downloaded" / name).write_bytes(content)
    images = normlab.Run.open(run).dataset().test.images[:20]
    expected = normlab.load(run).probabilities(images)
    assert (normlab.load(tmp_path / "downloaded").probabilities(images) == expected).all()


@pytest.mark.slow(2)
@pytest.mark.parametrize(("answer", "uploads"), [("y", True), ("no", False), ("", False)])
def test_it_asks_first(answer, uploads, run, hub, variables, tmp_path):
    terminal, child_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "normlab", "push", str(run), "me/micro-bn"],
        env=os.environ | variables,
        stdin=child_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(child_end)
    os.write(terminal, f"{answer}\n".encode())
    out, errors = process.communicate()
    os.close(terminal)
    assert "upload? [y/N] " in out
    assert process.returncode == (0 if uploads else 1)
    assert errors == ("" if uploads else "normlab: nothing was uploaded\n")
    assert [*hub.repositories] == (["me/micro-bn"] if uploads else [])


@pytest.mark.slow(2)
def test_without_a_terminal_it_refuses(run, hub, variables, tmp_path):
    done = command("push", run, "me/micro-bn", cwd=tmp_path, **variables)
    assert_one_line(done, code=2)
    assert "there is no terminal to ask in: give --yes to upload without asking" in done.stderr
    assert "model.safetensors" in done.stdout
    assert hub.repositories == {}


@pytest.mark.slow(4)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"HF_TOKEN": "hf_wrong"},
            r"the server answered 401): log in with `hf auth login`, or set $H",
        ),
        ({"refuses": ("create", 403)}, "the server answered 403): your token may not write there"),
        ({"refuses": ("commit", 400)}, "(the server answered 400)"),
        ({"HF_HUB_OFFLINE": "1"}, "could not be uploaded to http://127.0.0.1:"),
    ],
)
def test_a_hub_that_refuses_gives_one_line(change, problem, run, hub, variables, tmp_path):
    hub.refuses = change.get("refuses", hub.refuses)
    told = {name: value for name, value in change.items() if name != "refuses"}
    done = command("push", run, "me/micro-bn", "--yes", cwd=tmp_path, **variables | told)
    assert_one_line(done)
    assert "me/micro-bn could not be uploaded to http://127.0.0.1:" in done.stderr
    assert problem in done.stderr
    assert not hub.repositories.get("me/micro-bn")


def test_what_cannot_be_uploaded_is_refused_in_one_line(run, cli, tmp_path):
    def error(*arguments):
        code, _, errors = cli("push", *arguments)
        assert code in (1, 2)
        assert errors.count("\n") == 1
        return errors

    assert "expected OWNER/NAME, such as me/micro-bn, not 'micro'" in error(run, "micro")
    assert "no repository can be named 'me/a--b': " in error(run, "me/a--b")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pytorch_model.bin").write_bytes(b"weights")
    assert "is not a run's folder" in error(tmp_path / "elsewhere", "me/b")
    (run / "metrics.jsonl").rename(tmp_path / "metrics.jsonl")
    assert "has no metrics.jsonl: its accuracy is not known" in error(run, "me/b")
    (tmp_path / "metrics.jsonl").rename(run / "metrics.jsonl")
    (run / "README.md").unlink()
    assert f"has no card: `normlab card {run}` writes it" in error(run, "me/b")
    (run / "README.md").mkdir()
    assert "README.md cannot be read: Is a directory" in error(run, "me/b")
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors" in error(run, "me/b")
    weights.unlink()
    assert "is its training finished?" in error(run, "me/b")


def test_without_the_library_it_says_which(run, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, errors = cli("push", run, "me/b", "--yes")
    assert (code, errors) == (
        2,
        'normlab: push needs the library huggingface_hub: pip install "normlab[hub]"\n',
    )
