"""Whole studies in real processes: finished, stopped, killed and resumed."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from harness import processes_of
from holding import held, holding
from normlab import Run, StudyConfig, evaluate, recipes
from normlab.cli import main
from normlab.data import load
from normlab.errors import RunError, UsageError
from normlab.study import local, predictions, tuning
from normlab.study.compare import compare
from normlab.study.plan import plan
from normlab.study.record import Result, Study, predictions_of
from small_study import CONFIG, LINE, content, run_here


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A study that ran without a disturbance."""
    out = tmp_path_factory.mktemp("study") / "whole"
    return compare(CONFIG, out, quiet=True, workers=2)


@pytest.mark.quick
def test_a_study_records_every_run_as_training_measured_it(finished):
    assert [(r.arm, r.seed, r.state) for r in finished.results] == [
        (arm, seed, "done") for arm in ("bn", "ln") for seed in (0, 1)
    ]
    for result in finished.results:
        run = Run.open(finished.folder(result))
        assert run.config == finished.arm(result.arm).run_config(result.seed)
        assert result.accuracies == tuple(epoch.accuracy for epoch in run.epochs)
        assert run.machines[-1].threads == 1
        kept = predictions_of(run)
        evaluation = evaluate(run.network(), run.dataset())
        assert np.array_equal(kept.predictions, evaluation.predictions)
        assert np.array_equal(kept.labels, evaluation.labels)
        np.testing.assert_allclose(kept.confidences, evaluation.probabilities.max(1), rtol=1e-6)
        assert kept.correct.mean() == pytest.approx(run.last.accuracy)
        assert kept.peak_memory > 100e6
    assert not (finished.path / ".normlab-data").exists()


@pytest.mark.quick
def test_an_opened_study_equals_the_written_one(finished):
    again = Study.open(finished.path)
    assert again == dataclasses.replace(finished, path=again.path)


def test_the_table_has_one_row_per_run(finished):
    head, *rows = (finished.path / "study.csv").read_text().splitlines()
    assert head.startswith("arm,norm,network")
    first = dict(zip(head.split(","), rows[0].split(","), strict=True))
    assert len(rows) == 4
    assert first["learning_rate"] == repr(0.01 * 2**0.5)
    assert float(first["last_accuracy"]) == finished.results[0].accuracies[-1]


def test_a_finished_study_whose_weights_were_left_out_trains_nothing(finished, tmp_path):
    out = tmp_path / "study"
    shutil.copytree(finished.path, out)
    for weights in out.glob("runs/*/model.safetensors"):
        weights.unlink()
    again = compare(CONFIG, out, quiet=True, workers=2)
    assert [r.state for r in again.results] == ["done"] * 4
    assert content(out) == content(finished.path)
    assert runs_of(out) == 0


def test_a_temporary_file_left_by_a_kill_is_removed_but_other_files_are_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(local, "run_jobs", run_here)
    config = dataclasses.replace(CONFIG, norms=("ln",), seeds=1, epochs=1)
    out = tmp_path / "study"
    out.mkdir()
    (out / ".study-abcd1234.json").touch()
    study = compare(config, out, quiet=True)
    assert study.results[0].state == "done"
    assert sorted(path.name for path in out.iterdir()) == ["runs", "study.csv", "study.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".studious-note.json").touch()
    with pytest.raises(RunError, match="holds something other than a study"):
        compare(config, tmp_path / "other", quiet=True)


def test_finished_runs_are_kept(finished):
    before = {path: path.stat().st_mtime_ns for path in finished.path.glob("runs/*/*")}
    assert compare(CONFIG, finished.path, quiet=True) == finished
    assert {path: path.stat().st_mtime_ns for path in finished.path.glob("runs/*/*")} == before


def test_another_study_in_the_folder_is_refused_with_the_differences(finished):
    other = dataclasses.replace(CONFIG, norms=("bn",), epochs=3)
    with pytest.raises(RunError) as caught:
        compare(other, finished.path, quiet=True)
    assert "norms was bn ln, is bn; epochs was 2, is 3" in str(caught.value)


@pytest.mark.slow(4)
def test_more_seeds_are_added_and_recorded(finished, tmp_path, capsys):
    out = tmp_path / "study"
    shutil.copytree(finished.path, out)
    kept = {path: path.read_bytes() for path in out.glob("runs/*/config.json")}
    more = dataclasses.replace(CONFIG, seeds=3)
    compare(more, out, dry_run=True)
    assert "note: 3 seeds, planned with 2: the page says so" in capsys.readouterr().out
    assert Study.open(out).config == CONFIG  # a dry run changes nothing
    study = compare(more, out, quiet=True, workers=2)
    assert Study.open(out) == study
    assert study.earlier_seeds == (2,)
    assert [(r.arm, r.seed, r.state) for r in study.results] == [
        (arm, seed, "done") for arm in ("bn", "ln") for seed in range(3)
    ]
    assert [r for r in study.results if r.seed < 2] == list(finished.results)
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert compare(more, out, quiet=True) == study  # the same command resumes it
    capsys.readouterr()
    main(["report", str(out), "--no-images"])
    assert "3 seeds (2 planned, 1 added later)" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"seeds": 1}, "seeds was 2, is 1"),
        ({"seeds": 3, "epochs": 3}, "epochs was 2, is 3"),
        ({"contrasts": ("bn,ln",)}, "contrasts was none, is bn,ln"),
        ({"seeds": 3, "looks": 2}, "looks was 1, is 2"),
        ({"margin": 2.0}, "margin was 0.5, is 2.0"),
    ],
)
def test_what_a_study_planned_stays(change, problem, finished):
    before = (finished.path / "study.json").read_bytes()
    with pytest.raises(RunError, match=problem):
        compare(dataclasses.replace(CONFIG, **change), finished.path, quiet=True)
    assert (finished.path / "study.json").read_bytes() == before


def test_a_recipe_that_has_changed_is_refused_with_the_differences(finished, monkeypatch):
    changed = dataclasses.replace(recipes.find("demo"), momentum=0.5)
    monkeypatch.setitem(recipes.RECIPES, "demo", changed)
    with pytest.raises(RunError, match=r"bn's momentum was 0\.9, is 0\.5; ln's momentum"):
        compare(CONFIG, finished.path, quiet=True)


def test_the_table_and_the_page_have_the_recorded_recipes(finished, tmp_path, monkeypatch):
    shutil.copytree(finished.path, tmp_path / "study")
    study = Study.open(tmp_path / "study")
    before = (finished.path / "study.csv").read_text()
    changed = dataclasses.replace(recipes.find("demo"), weight_decay=0.5)
    monkeypatch.setitem(recipes.RECIPES, "demo", changed)
    study.write()
    assert (study.path / "study.csv").read_text() == before
    main(["report", str(study.path), "--no-images"])
    page = (study.path / "report.html").read_text()
    assert re.search(r"weight decay</th><td>\s*0\s*<", page)


@pytest.mark.slow(1)
def test_a_damaged_run_or_another_studys_run_does_not_stop_the_others(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(local, "run_jobs", run_here)
    out = tmp_path / "study"
    shutil.copytree(finished.path, out)
    (out / "runs" / "bn-0" / "answers.npz").write_bytes(b"no archive")
    with (out / "runs" / "bn-1" / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    shutil.rmtree(out / "runs" / "ln-1")
    shutil.copytree(out / "runs" / "ln-0", out / "runs" / "ln-1")
    study = compare(CONFIG, out, quiet=True)
    problems = [result.problem for result in study.results]
    assert [result.state for result in study.results] == ["failed", "failed", "done", "failed"]
    assert problems[0].startswith("runs/bn-0/answers.npz cannot be read")
    assert "metrics.jsonl, line 3, is damaged" in problems[1]
    assert "holds another run: seed was 0, is 1. Delete it, or move it" in problems[3]
    metrics = out / "runs" / "ln-0" / "metrics.jsonl"
    metrics.rename(out / "moved")
    assert (
        "ln-0 has no metrics.jsonl: delete the"
        in compare(CONFIG, out, quiet=True).results[2].problem
    )
    (out / "moved").rename(metrics)
    (out / "runs" / "bn-0" / "answers.npz").unlink()
    for name in ("bn-1", "ln-1"):
        shutil.rmtree(out / "runs" / name)
    assert compare(CONFIG, out, quiet=True).results == finished.results


@pytest.mark.parametrize("new", [False, True])
def test_what_another_process_did_in_the_meantime_counts(new, finished, tmp_path, monkeypatch):
    """As where Ctrl-C stopped a study, and the command is repeated before it has ended."""
    out = tmp_path / "study"
    if not new:
        shutil.copytree(finished.path, out)
        waiting = Result(arm="bn", seed=0)
        dataclasses.replace(finished, path=out).with_result(waiting).write()

    def ended(*_, **__):  # it is announced after it was read, before its folder is locked
        shutil.copytree(finished.path, out, dirs_exist_ok=True)

    monkeypatch.setattr("normlab.study.compare.announce", ended)
    assert [result.state for result in compare(CONFIG, out).results] == ["done"] * 4
    assert content(out) == content(finished.path)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.bin").touch()
    with pytest.raises(RunError, match="holds something other than a study"):
        compare(CONFIG, tmp_path, quiet=True)
    assert (tmp_path / "data" / "mine.bin").exists()


@pytest.mark.parametrize(
    ("epochs", "tune", "seeds", "trials", "more"),
    [
        (16, ("lr",), 1, 28, 4),
        (16, ("lr",), 3, 84, 12),
        (2, ("lr",), 1, 20, 4),  # with 2 epochs, the first two rungs are the same runs
        (16, ("lr", "augment"), 1, 28 + 4, 4),
        (16, ("augment",), 3, 12, None),
        (16, ("batch-size", "lr"), 1, 18 + 28, 4),
    ],
)
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    epochs, tune, seeds, trials, more, tmp_path, capsys
):
    config = dataclasses.replace(CONFIG, tune=tune, tune_seeds=seeds, epochs=epochs, batch_sizes=())
    compare(config, tmp_path / "study", dry_run=True, workers=3)
    output = capsys.readouterr().out
    assert f"4 runs, after {trials} of a search, 3 at a time: about " in output
    assert ("searched" in output) == (tune != ("augment",))
    assert ("beyond it, 3 times at most" in output) == (more is not None)
    assert more is None or f": each time {more} runs more, about " in output
    assert ("smaller batches take longer" in output) == ("batch-size" in tune)
    assert not (tmp_path / "study").exists()


def test_a_dry_run_names_each_setting_and_warns(tmp_path, capsys):
    more = dataclasses.replace(CONFIG, batch_sizes=(4, 32), label_noise=(0.0, 0.2), seeds=1)
    compare(more, tmp_path / "study", dry_run=True, workers=1)
    output = capsys.readouterr().out
    assert output.startswith("warning: batches of 4: bn will take")
    assert output.count(LINE) == 1
    assert "digits, recipe demo, batch size 4, label noise 0.2, 1 seed\n" in output
    assert len(re.findall(r"^ +bn +\d", output, re.MULTILINE)) == 4
    assert "\n8 runs, 1 at a time: about " in output


def test_a_dry_run_on_a_remote_cluster_estimates_the_time_of_one_core(tmp_path, capsys):
    compare(CONFIG, tmp_path / "study", dry_run=True, ray="10.0.0.5:6379")
    assert re.search(r"4 runs, on Ray: about \d+ (s|min) of one core\n", capsys.readouterr().out)


def test_a_dry_run_counts_finished_runs(finished, tmp_path, capsys):
    compare(CONFIG, finished.path, dry_run=True)
    assert "4 runs, all of them done\n" in capsys.readouterr().out
    out = tmp_path / "study"
    shutil.copytree(finished.path, out)
    failed = dataclasses.replace(finished.results[0], state="failed")
    dataclasses.replace(finished, path=out).with_result(failed).write()
    compare(CONFIG, out, dry_run=True, workers=3)
    assert "4 runs, 3 of them done, 3 at a time: about " in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["{", '{"schema": 2}', '{"schema": 99}', "[]"])
def test_a_damaged_record_is_refused_in_one_line(damage, finished, tmp_path):
    shutil.copytree(finished.path, tmp_path / "study")
    (tmp_path / "study" / "study.json").write_text(damage)
    with pytest.raises(RunError, match=r"^[^\n]*study.json[^\n]*(damaged|schema)[^\n]*$"):
        Study.open(tmp_path / "study")


def test_a_programming_error_is_not_reported_as_damage(finished, monkeypatch):
    def build(*_):
        raise TypeError("a mistake in the program")

    monkeypatch.setattr("normlab.study.record.build", build)
    with pytest.raises(TypeError, match="a mistake in the program"):
        Study.open(finished.path)


def test_report_renders_the_page_again(finished, capsys):
    main(["report", str(finished.path), "--no-images"])
    assert capsys.readouterr().out == f"report: {finished.path / 'report.html'}\n"
    page = (finished.path / "report.html").read_text()
    assert "What the numbers say" in page
    assert "<img" not in page
    with pytest.raises(SystemExit):
        main(["report", str(finished.path), "--out", "elsewhere.html"])
    assert "takes neither --out nor --published" in capsys.readouterr().err


# Stopped and killed


def start(out, *more, **environment):
    """Starts `normlab compare` in a new process; its environment identifies it."""
    command = [sys.executable, "-m", "normlab", "compare", LINE, "--dataset", "digits"]
    settings = "--recipe demo --seeds 2 --epochs 2 --batch-sizes 32 --norms bn ln --workers 2"
    return subprocess.Popen(
        [*command, *settings.split(), "--out", str(out), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"STUDY": str(out)} | environment,
    )


def wait_for(condition, process, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def runs_of(out):
    return len(list(out.glob("runs/*/model.safetensors")))


@pytest.mark.slow(20)
def test_a_killed_study_resumes_to_the_same_result(finished, tmp_path, monkeypatch):
    out, hold = tmp_path / "study", tmp_path / "hold"
    process = start(out, **holding(hold, before="checkpoint-before.pt"))
    wait_for(lambda: len(held(hold)) == 2, process)  # both in their first epoch of two
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert runs_of(out) < 4
    monkeypatch.setattr("normlab.study.compare.PATIENCE", 600)  # a busy machine is slow
    again = compare(CONFIG, out, quiet=True, workers=1)  # waits for the killed study's runs
    assert [r.state for r in again.results] == ["done"] * 4
    assert content(out) == content(finished.path)


@pytest.mark.slow(15)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_killed_run_fails_with_the_reason_and_is_tried_again(finished, tmp_path):
    out, hold = tmp_path / "study", tmp_path / "hold"
    process = start(out, **holding(hold, before="bn-0/checkpoint-before.pt"))
    wait_for(lambda: held(hold), process)
    (child,) = held(hold)
    assert parent_of(Path("/proc", str(child))) == process.pid
    os.kill(child, signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "failed: it was ended by SIGKILL: was there too little memory?" in output
    states = [r.state for r in Study.open(out).results]
    assert states == ["failed"] + ["done"] * 3
    assert compare(CONFIG, out, quiet=True).results == finished.results
    assert content(out) == content(finished.path)


def parent_of(path):
    return int((path / "stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow(20)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_ctrl_c_stops_a_study_and_the_same_command_resumes_it(finished, tmp_path):
    out, hold = tmp_path / "study", tmp_path / "hold"
    process = start(out, **holding(hold, before="checkpoint-before.pt"))
    wait_for(lambda: len(held(hold)) == 2, process)  # both in their first epoch of two
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130
    assert re.fullmatch(r"normlab: stopped; [^\n]* repeat the command\n", errors)
    assert not processes_of(f"STUDY={out}")  # no run continues alone
    assert {r.state for r in Study.open(out).results} <= {"stopped", "waiting", "done"}
    process = start(out)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert content(out) == content(finished.path)


def test_a_second_study_in_the_same_folder_is_refused(finished, tmp_path, monkeypatch):
    import fcntl

    monkeypatch.setattr("normlab.study.compare.PATIENCE", 0.5)
    folder = os.open(finished.path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is working in"):
            compare(CONFIG, finished.path, quiet=True)
    finally:
        os.close(folder)


@pytest.mark.slow(4)
def test_a_run_that_diverges_does_not_stop_the_others(tmp_path):
    config = dataclasses.replace(CONFIG, norms=("none", "ln"), seeds=1, learning_rate=1e6)
    study = compare(config, tmp_path / "study", quiet=True, workers=2)
    states = {result.arm: result.state for result in study.results}
    assert states["none"] == "failed"
    (failed,) = (r for r in study.results if r.arm == "none")
    assert re.fullmatch(
        r"the loss became (inf|nan) in epoch 1, step \d+, at learning rate [\d.e+]+: a lower "
        "--learning-rate may train it, and --tune lr looks for one",
        failed.problem,
    )
    assert str(tmp_path) not in (study.path / "study.json").read_text()  # the folder may be moved


# The search


@pytest.mark.slow(50)
def test_a_resumed_search_gives_the_same_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(local, "run_jobs", run_here)
    monkeypatch.setattr(tuning, "FACTORS", (0.5, 1.0, 2.0, 4.0))
    rate = {"learning_rate": 0.004}  # too low
    config = dataclasses.replace(
        CONFIG,
        seeds=1,
        tune=("lr", "augment"),
        tune_seeds=2,
        norms=("bn", "ln"),
        channels="colour",
        **rate,
    )
    whole = compare(config, tmp_path / "whole", quiet=True, workers=2)
    assert all(0 <= trial.accuracy <= 1 for trial in whole.trials)
    extensions = set()
    for arm in whole.arms:
        rates = tuning.in_round(whole.trials, arm.name, tuning.Round("lr"))
        assert arm.config.learning_rate == tuning.best(rates).value
        extensions.add(tuning.added(rates))
        assert len(rates) == 2 * (4 + 2 + 2 + sum(tuning.added(rates)))
        steps = tuning.in_round(whole.trials, arm.name, tuning.Round("augment"))
        assert {t.value for t in steps} == {"none", "shift"}
        found = tuning.best(steps).value
        assert arm.recipe.augment == (() if found == "none" else (found,))
    ((below, above),) = extensions  # for both alike
    assert below == 0 < above <= tuning.BEYOND * tuning.EXTENSIONS
    # As if the study had been killed: in the first round's rungs, while its values were extended,
    # and in the second round. Folders may be missing of trials that the record has.
    beyond = f"*-lr{max(t.value for t in rates):g}-*"
    first = tuple(trial for trial in whole.trials if trial.what == "lr")
    grid = max(t.value for t in rates if t.rung == 0)
    for place, (lost, known) in enumerate(
        [
            ([f"ln-lr{rates[0].value:g}-*"], ()),
            ([beyond], ()),
            (["bn-augment*"], first),
            (["ln-augment*"], ()),
            (["*"], first),
            ([beyond], tuple(t for t in first if t.value <= grid)),
            ([t.name for t in first if t.rung == 0], first[:5]),
        ]
    ):
        part = tmp_path / str(place)
        shutil.copytree(whole.path, part)
        shutil.rmtree(part / "runs")
        folders = {folder for each in lost for folder in part.glob(f"tuning/{each}")}
        assert folders
        for folder in folders:
            shutil.rmtree(folder)
        record = Study.open(part)
        begun = tuple(Result(arm=r.arm, seed=r.seed) for r in record.results)
        arms = tuple(plan(config, classes=10, images=1437, shape=(3, 32, 32)))
        dataclasses.replace(record, results=begun, arms=arms, trials=known, costs={}).write()
        # Two seeds of two arms try 4 + 2 + 2 rates, of which 2 + 2 are the same runs, and 2
        # augmentations. Extensions of the rates, too, are in `first`.
        if left := {5: 27, len(first): 8}.get(len(known)):
            compare(config, part, dry_run=True)
            assert f"2 runs, after {left} of a search" in capsys.readouterr().out
        compare(config, part, quiet=True, workers=1)
        assert content(part) == content(whole.path)
        if {trial.name for trial in known} <= {folder.name for folder in folders}:
            # What was known was not run again.
            folders = {folder.name for folder in part.glob("tuning/*")}
            assert folders == {trial.name for trial in whole.trials if trial not in known}
    # An arm that is searched later has as many trials as the others, wherever its best value is.
    of_ln = [t for t in rates if t.value <= grid]
    assert tuning.edges(of_ln) == (False, True)
    trials = tuple(t for t in whole.trials if t.arm == "bn" and (t.what != "lr" or t.value <= grid))
    dataclasses.replace(record, results=begun, trials=trials, costs={}).write()
    shutil.rmtree(part / "runs")
    late = compare(config, part, quiet=True, workers=1)
    assert tuning.in_round(late.trials, "ln", tuning.Round("lr")) == of_ln


@pytest.mark.slow(8)
def test_an_arm_whose_search_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    """All trials of none diverge. A file blocks one trial of rms, until it is deleted."""
    monkeypatch.setattr(tuning, "FACTORS", (0.5, 1.0, 2.0, 4.0))
    norms = ("none", "rms", "ln")
    config = dataclasses.replace(
        CONFIG, norms=norms, seeds=1, tune=("lr",), tune_seeds=1, learning_rate=1e6
    )
    rms, lr = plan(config, classes=10, images=1437, shape=(1, 32, 32))[1], tuning.Round("lr")
    blocked = tmp_path / "study" / "tuning" / tuning.rung_of(lr, 0, config, rms, ())[0].name

    def with_a_blocked_trial(*arguments, **options):
        if not blocked.parent.exists():
            blocked.parent.mkdir()
            blocked.touch()
        return run_here(*arguments, **options)

    monkeypatch.setattr(local, "run_jobs", with_a_blocked_trial)
    study = compare(config, tmp_path / "study", quiet=True, workers=2)
    none, second, third = study.results
    assert (none.state, second.state, third.state) == ("failed", "failed", "done")
    assert none.problem.startswith("its loss was not finite with any learning rate that was tried")
    assert second.problem.startswith(f"its search failed, at {blocked.name}: ")
    assert [trial.accuracy for trial in study.trials if trial.arm == "none"] == [None] * 4
    assert not study.folder(none).exists()
    blocked.unlink()
    study = compare(config, tmp_path / "study", quiet=True, workers=2)
    assert [result.state for result in study.results] == ["failed", "done", "done"]
    late, before = (tuning.in_round(study.trials, name, lr) for name in ("rms", "ln"))
    assert len(late) == len(before)  # wherever the best value of the late arm is
    assert tuning.added(late) == tuning.added(before)


# The processes


@pytest.mark.slow(3)
def test_closing_run_jobs_stops_the_runs(tmp_path, finished):
    from normlab.data import load, shared
    from normlab.study.job import Job

    shared.write(load("digits"), tmp_path / "data")
    config = dataclasses.replace(finished.arms[0].run_config(5), epochs=500)
    job = Job(config=config, out=tmp_path / "run", data=tmp_path / "data")
    reports = local.run_jobs([job], 1)
    for _ in reports:
        if (tmp_path / "run" / "metrics.jsonl").exists():
            break
    reports.close()
    run = Run.open(tmp_path / "run")
    assert not run.finished
    assert (run.path / "checkpoint.pt").exists()


def test_damaged_predictions_are_refused(tmp_path, finished):
    path = tmp_path / "answers.npz"
    with pytest.raises(RunError, match="cannot be read"):
        predictions.read(path, images=360, classes=10)
    whole = next(finished.path.glob("runs/*/answers.npz")).read_bytes()
    for damaged in (b"PK no archive", b"", whole[: len(whole) // 2], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(RunError, match="cannot be read"):
            predictions.read(path, images=360, classes=10)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--norms", "gm"], "did you mean gn?"),
        (["--layouts", "C:3 Q"], "unknown block 'Q'"),
        (["--contrasts", "bn,rms"], "'bn,rms' has 'rms', not one of bn, gn and ln"),
        (["--looks", "0"], "--looks must be at least 1 and at most 100, not 0"),
        (["--margin", "nan"], "--margin must be finite, not nan"),
    ],
)
def test_the_command_line_refuses_in_one_line(arguments, problem, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["compare", LINE, "--dataset", "digits", "--out", str(tmp_path / "s"), *arguments])
    assert caught.value.code == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_a_study_that_could_not_be_read_again_is_refused_before_anything_is_written(tmp_path):
    study = StudyConfig(
        **{"network": "C:2 P GAP FC", "dataset": "digits", "recipe": "demo", "norms": ("bn",)},
        label_noise=(0.1, 0.1000000001),  # their arms would share a name, and a folder
    )
    with pytest.raises(UsageError, match="could not be read again: two of its arms have one name"):
        compare(study, tmp_path / "study")
    assert not (tmp_path / "study").exists()


def test_a_study_with_the_widths_of_an_older_solver_is_resumed_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "run_jobs", run_here)
    config = dataclasses.replace(
        CONFIG, network="C P C GAP FC", budgets=(700,), norms=("bn",), epochs=1
    )
    (arm,) = plan(config, classes=10, images=1437, shape=(1, 32, 32))
    older = dataclasses.replace(arm.config, network="C:4 P C:6 GAP FC")
    assert arm.config.network != older.network
    record = Study(
        path=tmp_path / "study",
        config=config,
        arms=(dataclasses.replace(arm, config=older),),
        images=360,
        fingerprint=load("digits").fingerprint,
        results=tuple(Result(arm="bn", seed=seed) for seed in (0, 1)),
    )
    (tmp_path / "study").mkdir()
    record.write()
    done = compare(config, tmp_path / "study", quiet=True)
    assert [result.state for result in done.results] == ["done", "done"]
    assert {Run.open(done.folder(result)).layout for result in done.results} == {older.network}
    other = dataclasses.replace(older, network="C:4 P C:6 C:6 GAP FC")
    record = dataclasses.replace(record, arms=(dataclasses.replace(arm, config=other),))
    record.write()
    with pytest.raises(RunError, match=r"bn's network was 'C:4 P C:6 C:6 GAP FC', is 'C:"):
        compare(config, tmp_path / "study", quiet=True)
