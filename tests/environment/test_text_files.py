"""Text as other programs save it: other encodings, marks, line ends; names that look the same."""

import codecs
import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

import normlab
from made_up import PUBLISHED
from made_up import study as made_up_study
from normlab.errors import NormlabError, RunError, UsageError
from normlab.inference.explain import explain
from normlab.inference.predict import Predictor
from normlab.network.model import Network
from normlab.notation import parse
from normlab.report.card import write_card
from normlab.report.plots import read_published
from normlab.runs.run import Run
from normlab.study.record import Study
from tampering import read, replaced

NANO = Path(normlab.__file__).parent / "models" / "nano"
SAVED = {
    "UTF-8 with a mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "all of Windows": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
}


@pytest.fixture
def nano(tmp_path):
    return Path(shutil.copytree(NANO, tmp_path / "nano"))


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_records_are_read_however_they_were_saved(save, nano, tmp_path):
    expected = Run.open(nano)
    for name in ("config.json", "metrics.jsonl"):
        (nano / name).write_bytes(save((nano / name).read_text()))
    assert Run.open(nano) == expected
    study = made_up_study(tmp_path / "study", seeds=2, images=50, norms=("bn", "gn"))
    file = study.path / "study.json"
    file.write_bytes(save(file.read_text()))
    assert Study.open(study.path) == study


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_published_curves_are_read_however_they_were_saved(save, tmp_path):
    path = tmp_path / "published.csv"
    path.write_text(PUBLISHED)
    expected = read_published(path)
    path.write_bytes(save(PUBLISHED))
    assert read_published(path) == expected


def test_a_card_with_other_line_ends_is_the_same_card(nano):
    card = write_card([Run.open(nano)])
    card.write_bytes(card.read_bytes().replace(b"\n", b"\r\n"))
    assert write_card([Run.open(nano)]) == card


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (PUBLISHED.replace(",", ";").encode(), "it has no column 'norm', or no commas"),
        (PUBLISHED.encode() + b"b\xe9,1,1,50,1,50\n", "can't decode byte"),
        (PUBLISHED.encode() + b"bn,21,nan,50,1,50\n", "losses must be"),
        (PUBLISHED.encode() + b"bn,21,1,500,1,50\n", "accuracies must be from 0 to 100"),
        (PUBLISHED.encode() + b"bn,21,1e300,50,1,50\n", "losses must be"),
        (b"\0" * 100, "it has no column 'norm', or no commas"),
    ],
)
def test_other_tables_are_refused_in_one_line(content, problem, tmp_path):
    path = tmp_path / "published.csv"
    path.write_bytes(content)
    with pytest.raises(NormlabError, match=problem) as caught:
        read_published(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        '{"schema": 2, "x": NaN}',
        '{"schema": 2, "x": -Infinity}',
        "[" * 10_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
        '{"schema": ' + "1" * 5000 + "}",
        '{"schema": "' + "1" * 50_000 + '\\u001b\\n"}',
        "\ufeff\ufeff{}",
        "",
    ],
)
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "study.json"])
def test_other_json_is_refused_in_one_line(text, name, nano):
    (nano / name).write_text(f"{text}\n", encoding="utf-8")
    with pytest.raises(RunError, match=name) as caught:
        (Study if name == "study.json" else Run).open(nano)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_number_of_thousands_of_digits_is_refused():
    with pytest.raises(UsageError, match="the width must be from 1 to 4096"):
        parse("C:" + "9" * 5000)
    for norm in ("gn=" + "9" * 5000, "gn=" + "9" * 400):
        with pytest.raises(UsageError, match="must be a whole number above 0"):
            Network("C:4 GAP FC", norm=norm)


def test_an_epoch_of_1e18_is_refused_in_one_line(nano):
    content = replaced(read(nano / "config.json"), ("recipe", "epochs"), 1e18)
    (nano / "config.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="is damaged"):
        Run.open(nano)
    lines = (nano / "metrics.jsonl").read_text().splitlines()
    (nano / "metrics.jsonl").write_text(lines[0].replace('"epoch": 1,', '"epoch": 1e18,') + "\n")
    with pytest.raises(RunError, match="damaged"):
        Run.open(nano)


def test_a_class_is_found_however_its_accents_are_composed():
    pytest.importorskip("captum")
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    predictor = Predictor(Network("C:4 GAP FC", classes=2).eval(), (decomposed, "tea"))
    picture = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    (maps,) = explain(predictor, picture, [composed]).maps
    assert maps.label == decomposed
