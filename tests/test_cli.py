"""The commands as a person runs them, in a process of their own if that matters."""

import os
import pty
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness import EXECUTION, TINY, StopAt
from harness import TRAIN as TINY_TRAIN
from holding import held, holding, release
from normlab import __version__
from normlab.cli import _COMMANDS, _default_out, _default_study, main
from normlab.config import RunConfig, StudyConfig
from normlab.data.cifar import layouts
from normlab.errors import InterruptedRunError, UsageError
from normlab.inference.evaluate import evaluate
from normlab.network import zoo
from normlab.network.zoo import ZOO
from normlab.runs.run import Run
from normlab.training.loop import train

NORMLAB = [sys.executable, "-m", "normlab"]
TRAIN = [
    *("train", "C:6 P C:8 GAP FC", "--dataset", "digits", "--recipe", "demo"),
    *("--batch-size", "64", "--threads", "1"),
]
ENVIRONMENT = os.environ | {"COLUMNS": "100", "NORMLAB_DATA": "", "PYTHONWARNINGS": "error"}


def run(*arguments, **options):
    return subprocess.run(
        [*NORMLAB, *arguments], capture_output=True, text=True, env=ENVIRONMENT, **options
    )


def test_names_with_control_characters_leave_the_terminal_alone(cli, tmp_path):
    (tmp_path / "a\x1b[31m\nb").mkdir()
    code, _, errors = cli("report", str(tmp_path / "a\x1b[31m\nb"))
    assert code == 1
    assert errors == (
        f"normlab: {tmp_path}/a\ufffd[31m\ufffdb is not a run's folder: it has no config.json\n"
    )
    _, _, errors = cli("summary", "C:8 P\x1b[31m GAP")
    assert errors.splitlines()[1:] == ["  C:8 P\ufffd[31m GAP", "       ^"]


def test_what_is_no_runs_folder_is_told_apart(cli, trained, tmp_path):
    study = tmp_path / "study"
    for run in (tmp_path / "runs/a-0", tmp_path / "runs/b-0", study / "runs/bn-0"):
        run.mkdir(parents=True)
        shutil.copy(trained.path / "config.json", run)
    (study / "study.json").write_text("{}")
    (tmp_path / "a.txt").touch()
    for path, instead in (
        ("nowhere", "it does not exist"),
        ("runs", f"give the folders in it, such as {tmp_path}/runs/a-0"),
        ("runs/a-0/config.json", f"it is a file: give {tmp_path}/runs/a-0"),
        ("a.txt", "it is a file"),
        (
            "study",
            f"it is a study's, which `normlab report` takes alone; its runs are in {study}/runs",
        ),
    ):
        code, _, errors = cli("report", trained.path, tmp_path / path)
        assert code == 1
        assert errors == f"normlab: {tmp_path / path} is not a run's folder: {instead}\n"


def test_help_lists_the_commands_and_each_has_help_with_an_example(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for name in _COMMANDS:
        assert f"• {name}" in out
        code, text, _ = cli(name, "--help")
        assert code == 0
        assert f"$ normlab {name}" in text


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("train", "`tensorboard` into RUN/tensorboard, `mlflow` where"),
        ("train", "beside it leave room for your own program."),
        ("compare", "on the cluster at ADDRESS, whose nodes must all see the study's folder."),
    ],
)
def test_help_does_not_keep_the_lines_of_docstrings(command, text, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert text in cli(command, "--help")[1]


def test_the_version(cli):
    assert cli("--version") == (0, f"normlab {__version__}\n", "")


def test_tab_completion_knows_the_commands(cli):
    code, out, _ = cli("--tyro-print-completion", "bash")
    assert code == 0
    assert all(name in out for name in _COMMANDS)


@pytest.mark.slow(4)
def test_train_with_piped_output(tmp_path, cli, monkeypatch):
    done = run(*TRAIN, "--epochs", "2", "--norm", "gn", "--seed", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert re.search(r"(?m)^about \d+ s for 2 epochs$", done.stdout)
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert re.fullmatch(
        r"epoch 2/2  train loss \d\.\d{4} accuracy \d+\.\d\d%  "
        r"test loss \d\.\d{4} accuracy \d+\.\d\d%  rate \S+  \d+\.\d s",
        lines[1],
    )
    accuracy = re.search(r"test loss \S+ accuracy (\S+)%", lines[1])[1]
    correct = round(float(accuracy) * 3.6)
    assert f"\n{correct} of 360 test images classified correctly ({accuracy[:-1]}" in done.stdout
    folder = (
        tmp_path
        / re.search(
            r"report: (runs/digits/C6-P-C8-GAP-FC-[0-9a-f]{6}-gn-3)/report\.html$",
            done.stdout.strip(),
        )[1]
    )
    assert (folder / "report.html").stat().st_size > 10_000
    assert not (folder / "checkpoint.pt").exists()

    monkeypatch.chdir(tmp_path)
    code, output, errors = cli(*TRAIN, "--epochs", "2", "--norm", "gn", "--seed", "3")
    assert (code, output, errors.count("\n")) == (1, "", 1)
    at = folder.relative_to(tmp_path)
    assert f"{at} holds a finished run: normlab report {at} makes its page" in errors

    code, output, errors = cli("evaluate", folder)
    last = Run.open(folder).last
    assert code == 0, errors
    assert f"test: accuracy {last.accuracy:.1%} (" in output
    assert f", loss {last.loss:.4f}" in output
    assert f"the run's folder states {last.accuracy:.1%}: the same" in output
    for digit in range(10):
        assert re.search(rf"(?m)^\W*{digit}\W", output)


def test_a_dry_run_prints_the_time_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, errors = cli(*TRAIN, "--epochs", "40", "--dry-run")
    assert (code, errors) == (0, "")
    layout, *_, settings, time = out.splitlines()
    assert layout == TRAIN[1]
    assert settings.startswith("recipe demo, float32, seed 0, on ")
    assert re.fullmatch(r"about \d+ (s|min) for 40 epochs", time)
    assert not any(tmp_path.iterdir())


def test_a_dry_run_cannot_resume(cli, trained):
    code, _, errors = cli("train", "--resume", trained.path, "--dry-run")
    assert (code, errors.count("\n")) == (2, 1)
    assert "--resume takes the settings from the run" in errors


@pytest.mark.slow(5)
def test_ctrl_c_saves_the_run_and_says_how_to_resume_it(tmp_path, cli, monkeypatch):
    hold = tmp_path / "hold"
    process = subprocess.Popen(
        [*NORMLAB, *TRAIN, "--epochs", "4", "--out", "run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT | holding(hold, before="checkpoint-before.pt", stdin=False),
    )  # fmt: skip
    while not held(hold):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    release(hold)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert errors.count("\n") == 1
    command = re.search(r"To resume: normlab (train --resume run --threads 1)$", errors.strip())[1]
    monkeypatch.chdir(tmp_path)
    code, _, errors = cli(*command.split())
    assert code == 0, errors
    assert [e.epoch for e in Run.open(tmp_path / "run").epochs] == [1, 2, 3, 4]
    assert (tmp_path / "run" / "report.html").exists()


def test_ctrl_c_that_makes_an_import_fail_is_reported_in_one_line(monkeypatch, capsys):
    """As when it interrupts a C++ module, which turns it into another error."""

    def load(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupt:
            raise ImportError("initialization failed") from interrupt

    monkeypatch.setattr("normlab.data.load_for", load)
    with pytest.raises(SystemExit) as ended:
        main(["data", "--dataset", "digits"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "normlab: interrupted\n"
    monkeypatch.setattr("normlab.data.load_for", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["data", "--dataset", "digits"])


# Rich draws ten times a second; an epoch of the test may be shorter.
DRAWS_EACH_STEP = """
from functools import partialmethod
from rich.progress import Progress
Progress.update = partialmethod(Progress.update, refresh=True)
from normlab.__main__ import main
main()
"""


@pytest.mark.slow(6)
def test_a_live_bar_in_a_terminal(tmp_path):
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", DRAWS_EACH_STEP, *TRAIN, "--epochs", "3"],
        cwd=tmp_path, env=ENVIRONMENT | {"TERM": "xterm-256color", "COLUMNS": "120"},
        stdout=secondary, stderr=secondary, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(secondary)
    shown = b""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            piece = os.read(primary, 65536)
        except OSError:  # on Linux: the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(primary)
    assert process.wait(timeout=600) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert re.search(
        r"epoch 2/3 .*batch \d+/23 loss \d\.\d{3} [\d,]+ images/s +about \d+ s left", text
    )
    assert len(re.findall(r"\repoch \d/3  train loss", text)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["summary", "C:12 Q c"], 2, "normlab: unknown block 'Q': expected C, c, D, P, A, GAP or FC"
         "\n  C:12 Q c\n       ^\n"),
        (["summary", "seed-bn", "--norm", "gm"], 2, "did you mean gn?"),
        (["summary", "assignment", "--norm", "ln-full", "--budget", "5000"], 2, "1,119 too many"),
        (["train"], 2, "expected a network"),
        (["train", "seed-bn", "--resume", "x"], 2, "--resume takes the settings from the run"),
        (["train", "--resume", "nowhere"], 1, "nowhere is not a run's folder"),
        (["train", "seed-bn", "--data-root", "/nowhere"], 1, "/nowhere"),
        (["train", "seed-bn", "--dataset", "digit"], 2, "digits"),
        (["train", "seed-bn", "--dataset", "digits", "--recipe", "x"], 2, "no recipe 'x'"),
        (["evaluate", "nowhere"], 1, "nowhere is not a run's folder"),
        (["report", "nowhere"], 1, "nowhere is not a run's folder"),
        (["report"], 2, "expected one run's folder or more"),
        (["data", "--recipe", "x", "--dataset", "digits"], 2, "no recipe 'x'"),
        (["data", "--dataset", "folder:/nowhere"], 1, "/nowhere"),
        (["nonsense"], 2, "nonsense"),
        (["summary", "seed-bn", "--budget", "many"], 2, "many"),
        (["summary", "seed-bn", "--budget", "0"], 2, "--budget must be at least 1"),
        (["summary", "nano", "--ram", "10k"], 2, "10,944 bytes of RAM with bn, 704 more than"),
        (["summary", "nano", "--macs", "1.25M"], 2, "248,756 more than --macs 1,250,000"),
        (["summary", "nano", "--flash", "0"], 2, "--flash must be at least 1"),
        (["summary", "nano", "--board", "uno"], 2, "microbit-v2"),
        (["train", "nano", "--dataset", "digits", "--flash", "7k"], 2, "more than --flash 7,168"),
    ],
)  # fmt: skip
def test_wrong_usage_gives_a_message_and_an_exit_code(arguments, code, message, cli):
    got, out, err = cli(*arguments)
    assert got == code
    assert message in err
    assert out == ""
    assert "Traceback" not in err
    if err.startswith("normlab:") and "^" not in err:
        assert err.count("\n") == 1


@pytest.mark.slow(3)
def test_missing_data_gives_one_line_that_says_what_to_do():
    done = run("train", "seed-bn", "--data-root", "/nowhere")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "--dataset digits" in done.stderr
    assert "cifar-10-binary.tar.gz" in done.stderr


@pytest.mark.slow(1)
def test_held_out_images_can_be_evaluated(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli(*TRAIN, "--epochs", "1", "--holdout", "100", "--out", "run")
    assert code == 0, err
    assert "holdout loss" in out
    code, out, err = cli("evaluate", "run", "--split", "holdout", "--tta", "flip")
    assert code == 0, err
    assert "states" not in out  # the folder has no figure with test-time augmentation
    code, out, err = cli("evaluate", "run", "--split", "holdout")
    assert "the same" in out


def test_evaluate_refuses_a_hold_out_that_the_run_lacks(trained, cli):
    code, _, err = cli("evaluate", str(trained.path), "--split", "holdout")
    assert code == 2
    assert "held no images out" in err


@pytest.mark.slow(3)
def test_several_runs_on_one_page(trained, tmp_path, cli):
    page = tmp_path / "page.html"
    shutil.copytree(trained.path, tmp_path / "other")
    runs = [str(trained.path), str(tmp_path / "other")]
    code, out, err = cli("report", *runs, "--out", str(page))
    assert code == 0, err
    assert f"report: {page}" in out
    assert page.read_text().count("<svg") >= 3


@pytest.mark.slow(5)
def test_the_flags_of_report_take_effect(trained, tmp_path, cli):
    page = tmp_path / "page.html"
    published = Path(__file__).parent.parent / "results" / "published-runs.csv"
    shutil.copytree(trained.path, tmp_path / "run")
    arguments = ["report", str(tmp_path / "run"), "--out", str(page)]
    assert cli(*arguments)[0] == 0
    left_out = "The pictures were left out of this page"
    assert left_out not in page.read_text()
    assert "published seed-bn" not in page.read_text()
    assert cli(*arguments, "--no-images", "--published", str(published))[0] == 0
    assert left_out in page.read_text()
    assert "published seed-bn" in page.read_text()


@pytest.mark.slow(3)
def test_cifar10_from_a_data_root_through_training_report_and_evaluation(
    tmp_path, cli, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NORMLAB_DATA", raising=False)
    monkeypatch.setattr(layouts, "RECORDS", 40)
    generator = np.random.default_rng(0)
    root = tmp_path / "somewhere" / "cifar-10-batches-bin"
    root.mkdir(parents=True)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        records = generator.integers(0, 256, (40, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(40) % 10
        (root / f"{name}.bin").write_bytes(records.tobytes())
    place = ["--data-root", "somewhere"]
    code, out, err = cli("train", "c:2 GAP FC", "--epochs", "1", *place)
    assert code == 0, err
    assert "cifar10: 200 training and 40 test images" in out
    (folder,) = (tmp_path / "runs" / "cifar10").iterdir()
    assert (folder / "report.html").exists()
    code, out, err = cli("evaluate", str(folder), *place, "--tta", "flip")
    assert code == 0, err
    run = Run.open(folder)
    expected = evaluate(run.network(), run.dataset(Path("somewhere")), tta="flip")
    assert expected.headline in out
    assert "averaged over test-time augmentation (flip)" in out
    assert cli("evaluate", str(folder))[0] == 1


@pytest.mark.parametrize(
    ("flag", "text", "number"),
    [
        ("--ram", "10k", 10_240),
        ("--ram", "8192", 8_192),
        ("--flash", "0.0625M", 65_536),
        ("--flash", "64K", 65_536),
        ("--macs", "2M", 2_000_000),
        ("--macs", "1.5m", 1_500_000),
        ("--macs", "900k", 900_000),
        ("--budget", "5k", 5_000),
    ],
)
def test_numbers_of_limits_may_end_in_k_or_m(flag, text, number, cli):
    """Of bytes, k is 1,024; of multiply-accumulates and parameters, 1,000."""
    code, short, _ = cli("summary", "assignment", flag, text)
    assert code == 0
    assert short == cli("summary", "assignment", flag, number)[1]
    assert short != cli("summary", "assignment", flag, number // 2)[1]


@pytest.mark.parametrize(
    "text", ["32kB", "1.2.3", "k", "-32k", "0.0001k", "1e4", "", "٣٢k", "9" * 99]
)
def test_what_is_no_number_of_a_limit_is_refused(text, cli):
    code, out, err = cli("summary", "assignment", f"--ram={text}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("normlab: --ram must be a whole number such as 32768, 32k or 1.5M, not ")


def test_the_budgets_of_a_study_may_end_in_k(monkeypatch):
    configs = []
    monkeypatch.setattr(
        "normlab.study.compare.compare", lambda config, *_, **__: configs.append(config)
    )
    main(["compare", "assignment", "--budgets", "1.5k", "5000", "--dry-run"])
    assert configs[0].budgets == (1_500, 5_000)


@pytest.mark.slow(4)
def test_a_run_records_its_limits_and_stays_within_them(tmp_path, cli):
    flags = ("--ram", "6k", "--flash", "12k", "--macs", "1M", "--board", "microbit-v2")
    code, _, err = cli(
        *("train", "C P C P C GAP FC", "--dataset", "digits", "--recipe", "demo", "--epochs", "1"),
        *("--channels", "colour", "--out", tmp_path / "run", *flags),
    )
    assert code == 0, err
    run = Run.open(tmp_path / "run")
    limits = (run.config.ram, run.config.flash, run.config.macs, run.config.board)
    assert limits == (6_144, 12_288, 1_000_000, "microbit-v2")
    assert run.summary.memory.arena <= 6_144
    assert run.summary.memory.constants <= 12_288
    assert 900_000 < run.summary.macs <= 1_000_000


def test_the_default_folders_of_different_runs_differ():
    names = {
        str(_default_out(RunConfig(network=network, **settings)))
        for network in ("seed-bn", "assignment", "C:8 GAP FC", "C:9 GAP FC")
        for settings in (
            *({}, {"norm": "gn"}, {"budget": 5000}, {"dataset": "digits"}, {"seed": 1}),
            *({"activation": "silu"}, {"ram": 9000}, {"flash": 9000}, {"board": "pico"}),
        )
    }
    assert len(names) == 36
    assert "runs/cifar10/seed-bn-silu-0" in names
    assert "runs/cifar10/seed-bn-0" in names
    assert "runs/cifar10/seed-bn-gn-0" in names
    assert "runs/cifar10/assignment-5000-bn-0" in names
    assert "runs/digits/assignment-bn-0" in names


@pytest.mark.parametrize(
    ("dataset", "part"),
    [
        ("cifar100", "cifar100"),
        ("cifar100:coarse", "cifar100-coarse"),
        ("folder:photos", "folder-photos"),
        ("folder:../My photos (2)/", "folder-My-photos-2"),
        ("folder:../..", None),
        ("folder:/", "folder"),
        ("npz:a/digits.npz", "npz-digits"),
        ("hf:uoft-cs/cifar100:plain", "hf-cifar100-plain"),
        ("folder:" + "é" * 255, "folder-" + "é" * 50),
    ],
)
def test_the_default_folders_of_different_data_differ(dataset, part, tmp_path, monkeypatch):
    (tmp_path / "b" / "c").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "b" / "c")
    part = part or f"folder-{tmp_path.name}"
    assert _default_out(RunConfig(network="nano", dataset=dataset)).parts[:-1] == ("runs", part)
    study = StudyConfig(network="nano", dataset=dataset)
    assert _default_study(study).parts == ("studies", part, "nano")


@pytest.mark.parametrize(
    ("layout", "begin"),
    [
        ("C:8 P C:16 P C:16 GAP FC", "C8-P-C16-P-C16-GAP-FC-"),
        ("C1 C2 c3 P1 C3 C4 C5 c6 P2 C7 C8 C9 GAP C10", "C1-C2-c3-P1-C3-C4-C5-c6-"),
        ("C:12/ln-full+ GAP FC", "C12lnfull-GAP-FC-"),
        ("C:1111111111111111111111111111111 P", "layout-"),
    ],
)
def test_a_layouts_folders_have_its_beginning_in_their_name(layout, begin, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, study = RunConfig(network=layout, seed=3), StudyConfig(network=layout)
    assert re.fullmatch(begin + "[0-9a-f]{6}-bn-3", _default_out(run).name)
    assert re.fullmatch(begin + "[0-9a-f]{6}", _default_study(study).name)
    # Folders of earlier versions, which had the hash alone, are found again.
    name = zoo.short_name(layout)
    for folder in (Path(f"runs/cifar10/{name}-bn-3"), Path(f"studies/cifar10/{name}")):
        folder.mkdir(parents=True)
    assert _default_out(run) == Path(f"runs/cifar10/{name}-bn-3")
    assert _default_study(study) == Path(f"studies/cifar10/{name}")


@pytest.mark.slow(4)
def test_a_file_in_the_current_folder_does_not_shadow_a_library(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('not the library')")
    script = Path(sys.executable).parent / "normlab"
    done = subprocess.run(
        [script, "summary", "seed-bn"], cwd=tmp_path, capture_output=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr


def test_the_summary_is_a_table_that_fits_80_columns(monkeypatch, cli):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("summary", "seed-ln")
    assert code == 0
    layout, *table = out.splitlines()
    assert layout == ZOO["seed-ln"].layout
    assert max(map(len, table)) <= 80
    assert re.search(r"all +42,140 +11,202,496", out)
    assert "296 running statistics" in out
    assert re.search(r"C:32vs2/ln-full +ln-full +32 × 3 × 3 +6,336 +51,840 +30", out)


def test_a_narrow_terminal_cuts_no_table(monkeypatch, cli):
    monkeypatch.setenv("COLUMNS", "40")
    _, out, _ = cli("summary", "seed-ln")
    assert re.search(r"C:32vs2/ln-full +ln-full +32 × 3 × 3 +6,336 +51,840 +30", out)


def test_the_summary_takes_an_activation_and_names_it(cli):
    code, out, _ = cli("summary", "C:8 D:12a GAP FC", "--activation", "prelu")
    assert code == 0
    assert "Layers, normalization bn, activation prelu" in out
    assert re.search(r"D:12a +bn +12 × 32 × 32 +228 ", out)  # 8 · 9 + 8 · 12 + 3 · (8 + 12)
    code, out, _ = cli("summary", "seed-bn", "--activation", "swish")
    assert code == 2


def test_zoo_and_norms_list_their_entries(cli):
    code, out, _ = cli("zoo")
    assert code == 0
    assert "seed-ln" in out
    assert "C1 C2 c3 P1" in out
    code, out, _ = cli("norms")
    assert code == 0
    assert re.search(r"(?m)^ln-channel$", out)
    with_scale = re.findall(
        r"(?m)^(\S+)\n.*\n    a residual branch is multiplied by a learned", out
    )
    assert with_scale == ["none", "lrn", "sws"]
    assert "arXiv:1803.08494" in out


def test_data_prints_figures_and_writes_a_page(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("data", "--dataset", "digits", "--recipe", "demo")
    assert code == 0, err
    assert "uint8" in out
    assert "page: digits.html" in out
    assert Path("digits.html").stat().st_size > 10_000
    assert "Images, mirror" not in Path("digits.html").read_text(encoding="utf-8")
    cli("data", "--dataset", "digits", "--recipe", "line")
    assert "Images, mirror" in Path("digits.html").read_text(encoding="utf-8")


def test_data_describes_the_images_as_they_would_be_trained(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        for k in range(20):
            path = Path("photos", name, f"{k}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (10, 10), (12 * k, 50, 200)).save(path)
    Path("photos/cat/broken.png").write_bytes(b"no picture")
    code, _, errors = cli("data", "--dataset", "folder:photos")
    assert code == 1
    assert "--skip-unreadable" in errors
    flags = ("--skip-unreadable", "--holdout", "7", "--size", "24", "--channels", "grey")
    code, output, errors = cli("data", "--dataset", "folder:photos", *flags)
    assert code == 0, errors
    assert re.search(r"holdout +7 +7 × 1 × 24 × 24", output)
    flags += ("--out", "page.html")
    pages = {}
    for seed in ("0", "1", "0"):
        cli("data", "--dataset", "folder:photos", *flags, "--split-seed", seed)
        page = Path("page.html").read_text(encoding="utf-8")
        assert pages.setdefault(seed, page) == page
    assert pages["0"] != pages["1"]


@pytest.mark.slow(1)
def test_a_custom_normalization_from_the_current_folder(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "halving.py").write_text(
        "from torch import nn\n"
        "print('imported')\n"
        "class Halve(nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        return x / 2\n"
    )
    code, _, errors = cli(*TRAIN, "--epochs", "1", "--norm", "halving:Halve")
    assert code == 0, errors
    (folder,) = (tmp_path / "runs" / "digits").iterdir()
    assert folder.name.endswith("-halving.Halve-0")
    assert (folder / "model.safetensors").exists()
    # The folder can come from anyone: the code that it names is not run unless the user allows it.
    del sys.modules["halving"]  # as in a new process
    code, output, errors = cli("evaluate", folder)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "names the normalization halving:Halve, which is code: if you trust" in errors
    assert "put NORMLAB_NORMS=halving before the command" in errors
    monkeypatch.setenv("NORMLAB_NORMS", "other halving")
    code, output, errors = cli("evaluate", folder)
    del sys.modules["halving"]
    assert code == 0, errors
    assert output.startswith("imported\n")
    assert "the run's folder states" in output


@pytest.mark.slow(4)
def test_a_stopped_run_says_which_custom_module_to_trust(tmp_path, cli, monkeypatch):
    (tmp_path / "own_slow.py").write_text(
        "import os, signal\n"
        "from torch import nn\n"
        "class Slow(nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        if x.requires_grad and not os.path.exists('seen'):\n"
        "            open('seen', 'w').close()\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "        return x / 2\n"
    )
    line = "C:6/own_slow:Slow P C:8 GAP FC"
    stopped = run("train", line, *TRAIN[2:], "--epochs", "2", "--out", "r", cwd=tmp_path)
    assert stopped.returncode == 130, stopped.stderr
    command = re.search(r"To resume: (.*)$", stopped.stderr.strip())[1]
    assert command == "NORMLAB_NORMS=own_slow normlab train --resume r --threads 1"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NORMLAB_NORMS", "own_slow")
    code, _, errors = cli(*command.split()[2:])
    del sys.modules["own_slow"]
    assert code == 0, errors


def test_a_stopped_run_gets_the_command_that_resumes_it(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InterruptedRunError):
        train(TINY, "r u", EXECUTION, callbacks=[StopAt(0, 1)], quiet=True)
    code, _, errors = cli(*TRAIN, "--out", "r u")
    command = "normlab train --resume 'r u'"
    assert code == 1
    assert errors == f"normlab: r u holds a run that can be resumed: {command} --threads 1\n"
    for words in (["evaluate"], ["predict", "a.png"], ["export", "--to", "onnx"], ["report"]):
        code, _, errors = cli(words[0], "r u", *words[1:])
        assert code == 1
        assert errors == f"normlab: r u is not finished: resume it with {command}\n"
    code, _, errors = cli(*TRAIN, "--teacher", "r u", "--out", "other")
    assert code == 1
    assert errors == f"normlab: --teacher r u is not finished: resume it with {command}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["data", "--dataset", "digits", "--recipe", "demo", "--out", "file/a.html"],
        ["export", "--model", "nano", "--to", "html", "--out", "file/a.html"],
        ["explain", "--model", "nano", "a.png", "--out", "file/a.png"],
    ],
)
def test_another_place_is_suggested_where_a_file_cannot_be_written(
    command, cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    Image.new("RGB", (32, 32)).save("a.png")
    code, _, errors = cli(*command)
    reason = "cannot be written: File exists. Name another place with --out"
    assert (code, errors.splitlines()[-1]) == (1, f"normlab: {command[-1]} {reason}")


@pytest.mark.slow(3)
def test_a_page_that_cannot_be_written_leaves_a_complete_run(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # the page has more bytes
    try:
        code, _, errors = cli(*TINY_TRAIN, "a b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 1
    assert errors == (
        "normlab: a b/report.html cannot be written: File too large. "
        "The run is complete; for its page: normlab report 'a b'\n"
    )
    assert Run.open("a b").finished


@pytest.mark.parametrize(
    "config",
    [
        StudyConfig(network="C:8 P GAP FC", norms=("bn", "gn=2"), batch_sizes=(2, 8), untuned=True),
        StudyConfig(network="nano", seeds=3, tune=("lr", "wd"), epochs=2, label_noise=(0.0, 0.2)),
    ],
)
def test_a_studys_command_gives_its_configuration(config, monkeypatch):
    configs = []

    def compare(config, *arguments, **options):
        configs.append(config)
        raise UsageError("enough")

    monkeypatch.setattr("normlab.study.compare.compare", compare)
    with pytest.raises(SystemExit):
        main(shlex.split(config.command)[1:])
    assert configs == [config]


def test_a_network_taken_for_a_ray_address_gets_a_hint(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "--ray", "micro"])
    assert "before --ray, which took micro as an address" in capsys.readouterr().err


@pytest.mark.slow(1)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "command", [["norms"], ["--help"], ["--version"], ["predict", "--model", "nano", "{}", "-"]]
)
def test_an_unwritable_output_is_reported_in_one_line(command, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    buffered = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*NORMLAB, *(a.format(tmp_path / "a.png") for a in command)],
            stdin=subprocess.DEVNULL,  # not a picture
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=buffered,
        )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == "normlab: the output cannot be written: No space left on device"
    assert "Exception" not in done.stderr


def test_another_os_error_is_not_taken_for_an_unwritable_output(monkeypatch):
    def fail():
        raise OSError("libcudart.so.99: cannot open shared object file")

    monkeypatch.setitem(_COMMANDS, "norms", fail)
    with pytest.raises(OSError, match=r"libcudart\.so\.99"):
        main(["norms"])


@pytest.mark.slow(1)
def test_an_ascii_output_gets_other_characters_escaped():
    ascii_alone = ENVIRONMENT | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*NORMLAB, "norms"], capture_output=True, text=True, env=ascii_alone)
    assert (done.returncode, done.stderr) == (0, "")
    assert "starts at \\u221a6" in done.stdout


@pytest.mark.slow(1)
def test_a_reader_that_closes_the_pipe_is_not_an_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*NORMLAB, "norms"], stdout=writer, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")  # 128 + SIGPIPE, as a shell has it
