"""Names that a terminal would obey if they were printed as they are."""

import shutil

import pytest

from tampering import read, replaced, write

ESCAPE = "\x1b[31m\x1b]0;title\x07"


@pytest.fixture
def odd(trained, tmp_path):
    """A finished run in a folder whose name has escapes, and so have its classes and notes."""
    run = tmp_path / f"run{ESCAPE}"
    shutil.copytree(trained.path, run)
    content = read(run / "config.json")
    for field in ("classes", "notes"):
        texts = [f"{text}{ESCAPE}" for text in content["data"][field]] or [ESCAPE]
        content = replaced(content, ("data", field), texts)
    write(run / "config.json", content)
    return run


@pytest.mark.slow(1)
@pytest.mark.parametrize("command", ["report", "card", "evaluate"])
def test_a_path_is_printed_without_escapes(command, odd, cli):
    code, output, errors = cli(command, odd)
    assert code == 0, errors
    assert output
    assert (output + errors).replace("\n", "").isprintable()


def test_an_error_is_printed_without_escapes(odd, cli):
    (odd / "config.json").write_text("{}")
    code, output, errors = cli("report", odd)
    assert (code, output) == (1, "")
    assert "is damaged" in errors
    assert errors.rstrip("\n").isprintable()
