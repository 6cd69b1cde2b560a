"""Files that a forger wrote, with right checksums: refused in one line, in little memory."""

import csv
import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import struct
import tempfile
import zipfile
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import normlab
from harness import run_code
from made_up import study as made_up_study
from normlab.config import StudyConfig
from normlab.errors import NormlabError, RunError, UsageError
from normlab.findings import study as findings
from normlab.findings.groups import group_by_setting
from normlab.inference.evaluate import Evaluation
from normlab.inference.predict import Prediction
from normlab.network.model import Network
from normlab.report.card import model_card, write_card
from normlab.report.plots import read_published
from normlab.report.prediction_lines import as_text, write_predictions
from normlab.report.run_page import render, write_report
from normlab.runs.checkpoint import Checkpoint, header, load_latest
from normlab.runs.run import Run
from normlab.storage.cells import cell
from normlab.study import predictions
from normlab.study.compare import compare
from normlab.study.record import Study, predictions_of
from tampering import places, read, replaced, rewrite, write

NANO = Path(normlab.__file__).parent / "models" / "nano"
VALUES = [
    *(None, True, 0, -1, -5, 2, 10**9, 10**18, 10**400, 0.5, -0.5, 1e300, float("nan")),
    *(float("inf"), "", "abc", "\ud800", "\x1b[2J\n", "../x", [], [[]], {}, {"a": 1}),
    *([float("nan")], ["x", "x"], [1e308] * 3),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@pytest.fixture
def nano(tmp_path):
    """A run with its weights, of a network that comes with normlab."""
    return Path(shutil.copytree(NANO, tmp_path / "nano"))


@pytest.fixture
def forged_study(tmp_path):
    """A study's folder, without weights."""
    made_up_study(tmp_path / "s", seeds=2, images=100, norms=("bn", "gn"), batch_sizes=(32, 64))
    return tmp_path / "s"


def one_line(use, *arguments):
    """Uses a file: any error but a short one of one line is a fault. Returns the error's text."""
    try:
        use(*arguments)
    except NormlabError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        return str(error)
    return ""


def use_run(path):
    """What commands do with a run, but for its data and its page."""
    run = Run.open(path)
    run.network()
    model_card([run])


def use_study(path):
    study = Study.open(path)
    groups = group_by_setting(study)
    findings.headline(study, groups)
    findings.further(study, groups)


# Values


@pytest.mark.slow(3)
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_every_value_of_a_run_is_checked_when_it_is_opened(name, trained, tmp_path):
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    content = read(run / name)
    for place in places(content):
        for value in VALUES:
            write(run / name, replaced(content, place, value))
            one_line(use_run, run)


@pytest.mark.slow(20)
def test_every_value_of_a_study_is_checked_when_it_is_opened(forged_study):
    content = read(forged_study / "study.json")
    for place in places(content):
        for value in VALUES:
            write(forged_study / "study.json", replaced(content, place, value))
            one_line(use_study, forged_study)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        *(("data", "test", value) for value in (-5, 10**12)),
        *(("data", "train", value) for value in (0, -1)),
        *(("data", "std", value) for value in ([0, 1, 1], [1, 1, -1])),
        ("data", "holdout", 5),
        ("data", "classes", []),
        ("data", "fingerprint", 5),
        ("recipe", "epochs", 0),
        ("recipe", "epochs", 1e18),
        ("recipe", "dropout", 1.0),
        ("recipe", "augment", ["no-such-step"]),
        ("recipe", "batch_size", True),
        ("run", "learning_rate", -0.1),
        ("run", "label_noise", 1.5),
    ],
)
def test_a_number_out_of_its_range_is_named(part, field, value, nano):
    write(nano / "config.json", replaced(read(nano / "config.json"), (part, field), value))
    with pytest.raises(RunError, match=r"config\.json is damaged: .*(must be|holds out)"):
        Run.open(nano)


@pytest.mark.parametrize("accuracy", [2, -1, 1e300, float("nan"), float("inf"), 10**400])
def test_an_accuracy_is_a_share(accuracy, nano):
    write(nano / "metrics.jsonl", replaced(read(nano / "metrics.jsonl"), (1, "accuracy"), accuracy))
    with pytest.raises(
        RunError, match=r"metrics\.jsonl, line 2, is damaged: (accuracy|NaN|Infini)"
    ):
        Run.open(nano)


def test_epochs_of_another_split_or_more_than_planned_are_refused(nano):
    lines = read(nano / "metrics.jsonl")
    write(nano / "metrics.jsonl", replaced(lines, (0, "split"), "holdout"))
    with pytest.raises(RunError, match="line 1, is damaged: it was measured on holdout"):
        Run.open(nano)
    write(nano / "metrics.jsonl", [*lines, lines[-1] | {"epoch": len(lines) + 1}])
    with pytest.raises(RunError, match=f"it holds {len(lines) + 1} of {len(lines)} epochs"):
        Run.open(nano)


def test_numbers_of_images_that_the_data_do_not_have_are_refused(trained, tmp_path):
    """0 test images would leave nothing to measure accuracy on."""
    shutil.copytree(trained.path, tmp_path / "run")
    content = read(tmp_path / "run" / "config.json")
    for field, value in (("test", 1), ("train", 10**6), ("test", 0)):
        write(tmp_path / "run" / "config.json", replaced(content, ("data", field), value))
        if value:
            with pytest.raises(RunError, match=rf"states [0-9,]+ {field} images, digits has"):
                Run.open(tmp_path / "run").dataset()
        else:
            assert "measured on" in one_line(Run.open, tmp_path / "run")


def test_a_run_with_training_images_only_has_no_card(nano):
    (nano / "metrics.jsonl").unlink()
    write(nano / "config.json", replaced(read(nano / "config.json"), ("data", "test"), 0))
    with pytest.raises(RunError, match="has only training images: there is no accuracy to report"):
        model_card([Run.open(nano)])


@pytest.mark.parametrize(
    "forge",
    [
        lambda s: s | {"images": "abc"},
        lambda s: s | {"images": 0},
        lambda s: s | {"fingerprint": 5},
        lambda s: s | {"arms": []},
        lambda s: s | {"arms": s["arms"][1:]},
        lambda s: s | {"arms": [*s["arms"][1:], s["arms"][1]]},
        lambda s: s | {"results": s["results"][1:]},
        lambda s: s | {"results": [*s["results"], s["results"][0]]},
        lambda s: s | {"results": [s["results"][0], *s["results"][:-1]]},
        lambda s: replaced(s, ("results", 0, "accuracies"), []),
        lambda s: replaced(s, ("results", 0, "accuracies"), [float("nan")]),
        lambda s: replaced(s, ("results", 0, "accuracies"), [0.5] * 10**5),
        lambda s: replaced(s, ("costs", "bn-batch32-0", "seconds"), float("nan")),
        lambda s: s | {"costs": {}},
        lambda s: s | {"costs": s["costs"] | {"../x-0": s["costs"]["bn-batch32-0"]}},
        lambda s: s | {"trials": [*s["trials"], s["trials"][0]]},
        lambda s: replaced(s, ("trials", 0, "arm"), "ln"),
        lambda s: replaced(s, ("trials", 0, "rung"), 3),
        lambda s: replaced(s, ("study", "seeds"), 10**9),
        lambda s: replaced(s, ("study", "seeds"), 10_000),
        lambda s: replaced(s, ("study", "batch_sizes"), list(range(1, 10**5))),
        lambda s: json.loads(json.dumps(s).replace('"gn', '"../gn')),
    ],
)
def test_the_parts_of_a_study_must_fit_together(forge, forged_study):
    write(forged_study / "study.json", forge(read(forged_study / "study.json")))
    with pytest.raises(RunError, match=r"study\.json is damaged"):
        Study.open(forged_study)


def test_a_study_is_opened_without_importing_what_it_names(forged_study, tmp_path, monkeypatch):
    """Not even for its page: the runs in its folder must be those that it states."""
    (tmp_path / "strangers_module.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    text = json.dumps(read(forged_study / "study.json"))
    text = text.replace('"gn', '"strangers_module.Norm').replace(
        '"norm": "strangers_module.Norm"', '"norm": "strangers_module:Norm"'
    )
    content = json.loads(text)
    content["study"]["norms"] = ["bn", "strangers_module:Norm"]
    write(forged_study / "study.json", content)
    for folder in (forged_study / "runs").glob("gn-*"):
        folder.rename(folder.with_name(f"strangers_module.Norm{folder.name[2:]}"))
    study = Study.open(forged_study)
    assert any(arm.norm == "strangers_module:Norm" for arm in study.arms)
    stranger = next(r for r in study.results if r.arm.startswith("strangers"))
    with pytest.raises(RunError, match=r"is not the run that .*study\.json states"):
        study.run(stranger)


def test_a_study_of_very_many_seeds_is_refused_before_they_are_counted_out(tmp_path):
    with pytest.raises(
        UsageError, match="--seeds must be at least 1 and at most 10,000, not 1000000000"
    ):
        compare(StudyConfig(network="nano", dataset="digits", seeds=10**9), tmp_path / "s")


def forged_answers(**arrays):
    file = io.BytesIO()
    whole = {
        "predictions": np.zeros(3, np.uint16),
        "confidences": np.full(3, 0.5, np.float32),
        "labels": np.zeros(3, np.uint16),
        "peak_memory": np.int64(5),
    }
    np.savez_compressed(file, **(whole | arrays))
    return file.getvalue()


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.full(3, 7, np.uint16)},
        {"predictions": np.full(3, -1)},
        {"confidences": np.full(3, np.nan, np.float32)},
        {"confidences": np.full(3, 5, np.float32)},
        {"labels": np.zeros((3, 1), np.uint16)},
        {"predictions": np.zeros(10**8, np.uint16)},  # 200 MB in a file of 200 kB
        {"extra": np.zeros(10**8, np.uint16)},
        {"peak_memory": np.int64(-1)},
        {"labels": np.array(["a", "b", "c"])},
    ],
)
def test_predictions_of_other_shapes_or_values_are_refused(arrays, tmp_path):
    (tmp_path / "answers.npz").write_bytes(forged_answers(**arrays))
    with pytest.raises(RunError, match=r"answers\.npz cannot be read"):
        predictions.read(tmp_path / "answers.npz", images=3, classes=2)


@pytest.mark.slow(3)
@settings(max_examples=60)
@given(data=st.data())
def test_a_forged_run_is_refused_or_reported(data, trained, tmp_path_factory):
    run = Path(shutil.copytree(trained.path, tmp_path_factory.mktemp("forged") / "run"))
    name = data.draw(st.sampled_from(["config.json", "metrics.jsonl"]))
    content = read(run / name)
    place = data.draw(st.sampled_from([*places(content)]))
    write(run / name, replaced(content, place, data.draw(JSON)))

    def evaluate_and_report():
        opened = Run.open(run)
        network, dataset = opened.network(), opened.dataset()
        evaluation = normlab.evaluate(network, dataset, opened.split)
        render([opened], [evaluation], None)

    one_line(evaluate_and_report)


@pytest.mark.slow(4)
@settings(max_examples=60)
@given(data=st.data())
def test_a_forged_study_is_refused_or_reported(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("forged") / "study"
    made_up_study(folder, seeds=2, images=50, norms=("bn", "gn"))
    name = data.draw(st.sampled_from(["study.json", "study.json", "runs/bn-0/config.json"]))
    content = read(folder / name)
    place = data.draw(st.sampled_from([*places(content)]))
    write(folder / name, replaced(content, place, data.draw(JSON)))

    def report():
        study = Study.open(folder)
        study.write()
        groups = group_by_setting(study)
        findings.headline(study, groups)
        findings.further(study, groups)
        for result in study.results:
            if result.state == "done":
                predictions_of(study.run(result))

    one_line(report)


# Weights and checkpoints


def safetensors_file(path, tensors, types):
    """Writes a sparse file of zeros. `tensors` are shapes, `types` the names of their types."""
    entries, end = {}, 0
    for name, shape in tensors.items():
        kind = types.get(name, "F32")
        start, end = end, end + int(kind[1:]) // 8 * int(np.prod(shape, dtype=object))
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + end)


_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}


# Run in a process of its own: it counts the memory that it took, and stops at 8 GB.
LIMITED = """
import resource, sys
from normlab.errors import NormlabError
from normlab.runs.run import Run
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
try:
    Run.open(sys.argv[1]).network()
except NormlabError as error:
    print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 400_000, grown  # kB: PyTorch itself, and no weights
"""


WIDE = "C:8 P " + "C:4096 " * 40 + "GAP FC"


@pytest.mark.parametrize(
    ("layout", "extra", "cut", "problem"),
    [
        (None, 10**10, False, "has 40,000,0.* bytes, at most 4,294,967,296 are expected"),
        (None, 10**9, False, "is another network's: it has a tensor extra too many"),
        (None, 10**9, True, "is damaged: it has .* bytes, its header describes 4,000,0"),
        (WIDE, 10**9, False, "is damaged or another network's: it holds 1,000,0"),
        (WIDE, 0, False, "has 23,5.* bytes, at most"),  # exactly what the layout has
        (WIDE, 0, True, "is damaged: it has .* bytes, its header describes 23,5"),
    ],
)
def test_a_header_is_compared_with_the_layout_before_memory_is_allocated(
    layout, extra, cut, problem, nano
):
    if layout:
        rewrite(nano / "config.json", layout=layout)
    if extra:
        shapes = header(NANO / "model.safetensors")
    else:
        with torch.device("meta"):
            shapes = Network(layout, norm="bn").state_dict()
    tensors = {name: tuple(tensor.shape) for name, tensor in shapes.items()}
    types = {name: _NAMES[tensor.dtype] for name, tensor in shapes.items()}
    path = nano / "model.safetensors"
    safetensors_file(path, tensors | ({"extra": (extra,)} if extra else {}), types)
    if cut:
        os.truncate(path, 100_000)
    code, output, errors = run_code(LIMITED, str(nano), environment=os.environ)
    assert code == 0, errors
    assert re.search(problem, output), output
    assert output.count("\n") == 1


def test_a_tensor_of_an_unknown_type_or_an_impossible_shape_is_refused(nano):
    path = nano / "model.safetensors"
    for dtype, shape in (("F8_E4M3", [4]), ("F32", [2**62, 2**62, 0]), ("X", [1])):
        size = 4 if dtype != "F32" else 0
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}
        head = json.dumps({"a\x1b\nb": entry}).encode()
        path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(size))
        assert one_line(header, path) or one_line(Run.open(nano).network)


def write_checkpoint(path, content):
    """Writes a checkpoint's file with a valid checksum."""
    path.write_bytes(f"normlab-checkpoint 3 {sha256(content).hexdigest()}\n".encode() + content)


def saved(state, **options):
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def compressed(content):
    """An archive of torch.save, compressed: a megabyte may hold a gigabyte."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    return file.getvalue()


STATE = {"run": "own", "model": {"w": torch.zeros(3)}, "optimizer": [], "epoch": 1, "step": 0}
SCRIPT = {"a/constants.pkl": pickle.dumps(()), "a/data.pkl": b"", "a/version": b"3"}


def torchscript():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in SCRIPT.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        *(saved(STATE | {field: "x"}) for field in ("epoch", "step", "loss_sum", "model")),
        *(saved(STATE | {"epoch": epoch}) for epoch in (-1, 10**12, True, 0.5)),
        saved(STATE | {"loss_sum": float("nan")}),
        saved(STATE | {"model": {"w": 5}}),
        saved(STATE | {"model": {"w": torch.empty(3, device="meta")}}),
        saved(STATE | {"model": {"w": torch.zeros(3).to_sparse()}}),
        saved(STATE | {"optimizer": {"a": 1}}),
        compressed(saved(STATE)),
        saved(STATE, _use_new_zipfile_serialization=False),
        pickle.dumps(STATE["run"]),
        torchscript(),
    ],
)
def test_a_forged_checkpoint_is_refused_without_a_warning(content, tmp_path, recwarn, capfd):
    write_checkpoint(tmp_path / "checkpoint.pt", content)
    with pytest.raises(RunError, match=r"checkpoint\.pt is damaged: it is not a checkpoint"):
        Checkpoint.load(tmp_path / "checkpoint.pt")
    assert not recwarn.list
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "checkpoint.pt").open("wb") as file:
        file.truncate(40 * 10**9)
    with pytest.raises(RunError, match=r"it has 40,000,000,000 bytes, at most 4,294,967,296"):
        load_latest(tmp_path / "checkpoint.pt", "own")


# Files that are none


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("config.json", Run.open),
        ("metrics.jsonl", Run.open),
        ("model.safetensors", lambda path: Run.open(path).network()),
        ("checkpoint.pt", lambda path: load_latest(path / "checkpoint.pt", "own")),
        ("study.json", Study.open),
        ("answers.npz", lambda path: predictions_of(Run.open(path))),
        ("README.md", lambda path: write_card([Run.open(path)])),
        ("published.csv", lambda path: read_published(path / "published.csv")),
    ],
)
def test_a_pipe_is_refused(name, use, nano):
    """A pipe without a writer would be waited for without end."""
    (nano / name).unlink(missing_ok=True)
    os.mkfifo(nano / name)
    with pytest.raises(NormlabError, match=rf"{name} .*cannot be read: it is not a regular file"):
        use(nano)


def test_a_device_is_refused(nano):
    (nano / "config.json").unlink()
    (nano / "config.json").symlink_to("/dev/zero")
    with pytest.raises(RunError, match="it is not a regular file"):
        Run.open(nano)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_sparse_file_is_not_read(name, nano):
    with (nano / name).open("wb") as file:
        file.truncate(40 * 10**9)
    with pytest.raises(RunError, match="it has 40,000,000,000 bytes, at most"):
        Run.open(nano)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no users to change to")
def test_a_readme_that_may_not_be_read_stops_no_card():
    run = Run.open(NANO)
    model_card([run])  # loads what another user may not be allowed to read
    with tempfile.TemporaryDirectory() as folder, as_nobody(folder):
        run = dataclasses.replace(run, path=Path(shutil.copytree(NANO, Path(folder, "run"))))
        (run.path / "README.md").write_text("kept")
        (run.path / "README.md").chmod(0)
        with pytest.raises(UsageError, match=r"README\.md already exists and cannot be read: P"):
            write_card([run])
        assert write_card([run], run.path / "CARD.md").exists()


@contextmanager
def as_nobody(folder):
    """Takes root's rights to read everything away from this process, but for a folder."""
    user = os.geteuid()
    if user:
        yield
        return
    Path(folder).chmod(0o777)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_readme_that_is_not_text_is_not_overwritten(nano):
    (nano / "README.md").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match=r"README\.md already exists: delete it"):
        write_card([Run.open(nano)])


# Text that others read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((text, f"'{text}") for text in ("=1+1", "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "＝1")),
        *((text, text) for text in ("-5", "+1.5e-3", "cat", "a=b", "", "-1.25")),
        ("\t=1+1", "\N{REPLACEMENT CHARACTER}=1+1"),
        ("\x1b[2Ja\u200bb", "\N{REPLACEMENT CHARACTER}[2Ja\N{REPLACEMENT CHARACTER}b"),
        (-5, -5),
        (0.5, 0.5),
        (None, None),
    ],
)
def test_no_text_from_outside_becomes_a_formula(text, expected):
    assert cell(text) == expected


def test_predictions_and_studies_write_no_formulas(capsys, forged_study):
    classes = ("=cmd", "-1", "@x")
    prediction = Prediction("+1-1.png", classes, np.array([0.7, 0.2, 0.1], np.float32), ("-note",))
    write_predictions([prediction], ["+1-1.png"], classes, "csv")
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["picture", "class", "probability", "'=cmd", "-1", "'@x", "notes"]
    assert row[:2] == ["'+1-1.png", "'=cmd"]
    assert row[-1] == "'-note"
    study = Study.open(forged_study)
    failed = study.failed(study.results[0], "=HYPERLINK(\x1b[31m)")
    study.with_result(failed).write()
    table = (forged_study / "study.csv").read_text()
    assert "'=HYPERLINK(\N{REPLACEMENT CHARACTER}[31m)" in table


def test_hidden_characters_are_shown(capsys):
    name = "cat\x1b[2J\u200b\u3164\u202e.png"
    prediction = Prediction(name, (name, "dog"), np.array([0.7, 0.3], np.float32), (name,))
    text = as_text(prediction)
    assert text.isprintable()
    assert text.count("\N{REPLACEMENT CHARACTER}") == 12
    table = Evaluation("test", (name, "dog"), np.array([0, 1]), np.eye(2, dtype=np.float32), 0.1)
    Console(width=200).print(table)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.slow(1)
def test_one_page_of_a_run_is_written_for_text_that_cannot_be_encoded(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run")
    content = read(tmp_path / "run" / "config.json")
    content = replaced(content, ("run", "network"), "\ud800")
    write(tmp_path / "run" / "config.json", replaced(content, ("data", "notes"), ["\ud800"]))
    assert write_report([Run.open(tmp_path / "run")]).exists()
    assert model_card([Run.open(tmp_path / "run")])
