import json
import shutil
import sys

import pytest

from normlab.errors import RunError
from normlab.runs.metrics import SCHEMA
from normlab.runs.run import Run
from normlab.storage.checksums import add_checksum
from tampering import rewrite


@pytest.fixture
def copy(trained, tmp_path):
    """A folder of a run that a test may damage."""
    shutil.copytree(trained.path, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_run_gives_its_epochs_network_and_data(trained):
    assert trained.name == "trained"
    assert trained.split == "test"
    assert trained.last is trained.epochs[-1]
    assert trained.best.accuracy == max(e.accuracy for e in trained.epochs)
    assert trained.first_above(2.0) is None
    threshold = trained.epochs[1].accuracy - 1e-9
    assert trained.first_above(threshold).accuracy > threshold
    assert trained.seconds == pytest.approx(sum(e.seconds for e in trained.epochs))
    assert trained.summary.layout == trained.layout
    assert sum(p.numel() for p in trained.network().parameters()) == trained.summary.parameters
    assert trained.dataset().fingerprint == trained.data.fingerprint


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", f'{{"schema": {SCHEMA}}}'),
        json.dumps(add_checksum({"schema": SCHEMA})),
        json.dumps(add_checksum({"schema": SCHEMA, "run": 3})),
    ],
)
def test_a_damaged_configuration_is_reported_in_one_line(copy, content):
    (copy / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json is damaged[^\n]*$"):
        Run.open(copy)


def test_an_unknown_field_or_an_invalid_layout_is_damage(copy):
    content = json.loads((copy / "config.json").read_text())
    for name, message in (
        ("colour", "'colour'"),
        ("a\nb", r"'a\\nb'"),
        ("x" * 5000, "'x+\\.\\.\\.x+'"),
    ):
        rewrite(copy / "config.json", run=content["run"] | {name: 1})
        with pytest.raises(RunError, match=rf"is damaged: RunConfig has no {message}$"):
            Run.open(copy)
    rewrite(copy / "config.json", run=content["run"], layout="C:12 Q")
    with pytest.raises(RunError, match=r"config\.json is damaged: unknown block 'Q'"):
        Run.open(copy)


@pytest.mark.parametrize(
    ("kernels", "readable"),
    [
        *((name, True) for name in ("gcc", "clang", "torch", "compiled", "gcc, one thread")),
        *((name, True) for name in ("prebuilt-arm64", "prebuilt-x86-64-v3, one thread")),
        *((name, False) for name in ("", "gc", "gcc, two threads", "torch, one thread", "gcc\n")),
    ],
)
def test_what_the_compiled_passes_were_is_one_of_few_names(copy, kernels, readable):
    (machine,) = json.loads((copy / "config.json").read_text())["machines"]
    rewrite(copy / "config.json", machines=[machine | {"kernels": kernels}])
    if readable:
        assert Run.open(copy).machines[0].kernels == kernels
    else:
        with pytest.raises(RunError, match=r"config\.json is damaged: no kernels are called"):
            Run.open(copy)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("run", "norm", 5),
        ("run", "seed", "0"),
        ("recipe", "schedule", "zz"),
        ("recipe", "augment", [1]),
        ("data", "train", "x"),
        ("data", "classes", "abc"),
    ],
)
def test_a_field_of_the_wrong_type_is_damage(copy, part, field, value):
    content = json.loads((copy / "config.json").read_text())
    rewrite(copy / "config.json", **{part: content[part] | {field: value}})
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        Run.open(copy)


def test_unreadable_metrics_are_refused(copy):
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text()
    metrics.write_text(lines.replace('"accuracy": 0', '"accuracy": "a", "x": 0', 1))
    with pytest.raises(RunError, match="line 1, is damaged"):
        Run.open(copy)
    metrics.write_bytes(b"\xff\n")
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(copy)
    metrics.unlink()
    metrics.mkdir()
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(copy)
    with pytest.raises(RunError, match="is not a run's folder"):
        Run.open(copy / "config.json")


def test_another_schema_is_refused_in_one_line(copy):
    rewrite(copy / "config.json", schema=99)
    with pytest.raises(RunError, match=f"schema 99, this normlab reads schema {SCHEMA}: open it"):
        Run.open(copy)
    rewrite(copy / "config.json", schema=SCHEMA)
    metrics = copy / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace(f'"schema": {SCHEMA}', '"schema": 9'))
    with pytest.raises(RunError, match=r"metrics\.jsonl.* has schema 9"):
        Run.open(copy)


def test_files_edited_by_hand_are_refused(copy):
    config = copy / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RunError, match=r"config\.json is damaged: checksum mismatch"):
        Run.open(copy)
    config.write_text(json.dumps(json.loads(text)))  # whitespace does not change the content
    metrics = copy / "metrics.jsonl"
    line = metrics.read_text().splitlines()[1]
    better = line.replace('"accuracy": 0.', '"accuracy": 0.9')
    assert better != line
    metrics.write_text(metrics.read_text().replace(line, better))
    with pytest.raises(RunError, match=r"line 2, is damaged: checksum mismatch"):
        Run.open(copy)


def test_a_finished_run_without_its_last_lines_is_refused(copy):
    metrics = copy / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: it holds 2 of 3 epochs"):
        Run.open(copy)


def test_emptied_metrics_are_refused_but_weights_without_metrics_can_be_read(copy):
    metrics = copy / "metrics.jsonl"
    line = metrics.read_text().partition("\n")[0]
    for content in ("", line[:20], line):
        metrics.write_text(content)
        with pytest.raises(RunError, match=r"metrics\.jsonl is damaged: it holds 0 of 3 epochs"):
            Run.open(copy)
    metrics.unlink()  # as in a folder for the Hub
    assert Run.open(copy).network()


def test_a_damaged_line_of_metrics_is_named_but_an_incomplete_last_one_is_ignored(copy):
    (copy / "model.safetensors").unlink()
    metrics = copy / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text("".join(lines[:2]) + lines[2][:20])
    assert len(Run.open(copy).epochs) == 2
    metrics.write_text(lines[0] + "{}\n" + lines[2])
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2, is damaged"):
        Run.open(copy)
    metrics.write_text(lines[0] + lines[2])
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2, is damaged: epoch 3"):
        Run.open(copy)
    metrics.unlink()
    with pytest.raises(RunError, match="has not finished its first epoch"):
        _ = Run.open(copy).last


def test_other_data_is_refused(copy):
    content = json.loads((copy / "config.json").read_text())
    rewrite(copy / "config.json", data=content["data"] | {"fingerprint": "f" * 64})
    with pytest.raises(
        RunError, match=r"has fingerprint [0-9a-f]{12}…, but the run .* ffffffffffff…"
    ):
        Run.open(copy).dataset()


@pytest.mark.parametrize("mistake", [TypeError, KeyError, AttributeError, ValueError])
def test_a_programming_error_is_not_taken_for_damage(mistake, copy, monkeypatch):
    def wrong(*_):
        raise mistake("a mistake in the program")

    with monkeypatch.context() as patch:
        patch.setattr("normlab.notation.format", wrong)
        with pytest.raises(mistake, match="a mistake in the program"):
            Run.open(copy)
    assert Run.open(copy)


def test_a_configuration_nested_too_deeply_is_damaged_whatever_the_depth(copy):
    """Near the limit of recursion, json.loads still reads what json.dumps no longer writes."""
    limit = sys.getrecursionlimit()
    for depth in range(limit - 150, limit + 50):
        nested = "[" * depth + "]" * depth
        (copy / "config.json").write_text(f'{{"schema": {SCHEMA}, "run": {nested}}}')
        with pytest.raises(RunError, match=r"config\.json is damaged[^\n]*$"):
            Run.open(copy)


@pytest.mark.parametrize("epoch", [0, -1, 3, 4, True, "2"])
def test_a_run_can_be_stopped_only_before_its_last_epoch(copy, epoch):
    rewrite(copy / "config.json", stopped_after=epoch)
    with pytest.raises(RunError, match=r"config\.json is damaged: .*stopped.after"):
        Run.open(copy)
