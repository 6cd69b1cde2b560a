"""Pages as PDF: by a real Chromium, and by programs that fail as one can."""

import os
import re
import sys
import time
from pathlib import Path

import pytest

from made_up import study as made_up
from normlab.errors import NormlabError, UsageError
from normlab.report import pdf

# Finds out where to print.
PRINTS = 'for a; do case $a in --print-to-pdf=*) out=${a#*=};; esac; done\n'  # fmt: skip


@pytest.fixture
def page(tmp_path):
    page = tmp_path / "report.html"
    page.write_text("<!DOCTYPE html><title>A page</title><h1>A page</h1>")
    return page


@pytest.fixture
def chromium(tmp_path, monkeypatch):
    """Puts a shell script in the place of Chromium."""

    def chromium(script):
        path = tmp_path / "bin" / "chromium"
        path.parent.mkdir()
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)

    return chromium


def pages_of(content):
    return len(re.findall(rb"/Type /Page\b", content))


@pytest.mark.slow(5)
def test_a_study_is_printed_into_a_pdf_beside_its_page(browser, tmp_path, cli):
    study = made_up(tmp_path / "study", seeds=2, images=200)
    for _ in range(2):  # its own PDF is written anew
        code, out, errors = cli("report", study.path, "--no-images", "--pdf")
        assert (code, errors) == (0, "")
        assert out.splitlines()[-1] == f"PDF: {study.path / 'report.pdf'}"
    content = (study.path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert 2 < pages_of(content) < 8
    assert not [*study.path.glob(".*")]


@pytest.mark.slow(2)
def test_a_page_without_its_pdf_says_that_the_old_one_is_older(tmp_path, cli):
    study = made_up(tmp_path / "study", seeds=2, images=200)
    command = ("report", study.path, "--no-images")
    page = f"report: {study.path / 'report.html'}"
    assert cli(*command) == (0, f"{page}\n", "")
    printed = study.path / "report.pdf"
    printed.write_bytes(b"%PDF-1.4 old\n%%EOF\n" + pdf.PDF_MARK)
    note = f"note: {printed} is older than the page: --pdf prints it anew"
    assert cli(*command) == (0, f"{page}\n{note}\n", "")


@pytest.mark.skipif(sys.platform == "darwin", reason="Chrome is not on the path there")
def test_without_chromium_nothing_is_computed(tmp_path, monkeypatch, cli):
    study = made_up(tmp_path / "study", seeds=2, images=200)
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, errors = cli("report", study.path, "--no-images", "--pdf")
    assert (code, out) == (2, "")
    assert errors == (
        "normlab: a PDF needs Chromium or Chrome, and neither was found: install one, or print the "
        "page from a browser\n"
    )
    assert not (study.path / "report.html").exists()


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo first >&2; echo it is broken >&2; exit 1", r"could not print .*: it is broken$"),
        ("exit 0", r"could not print .*report\.html$"),
        (f"{PRINTS}printf '%%PDF-1.4 half' > $out", r"could not print .*report\.html$"),
    ],
)
def test_a_chromium_that_fails_leaves_the_old_file(script, problem, page, chromium):
    chromium(script)
    old = b"%PDF- old\n" + pdf.PDF_MARK
    page.with_suffix(".pdf").write_bytes(old)
    with pytest.raises(NormlabError, match=problem) as raised:
        pdf.write_pdf(page)
    assert "\n" not in str(raised.value)
    assert page.with_suffix(".pdf").read_bytes() == old
    assert {path.name for path in page.parent.iterdir()} == {"report.html", "report.pdf", "bin"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.slow(2)
def test_a_chromium_that_hangs_is_ended_with_its_helpers(page, chromium, monkeypatch, tmp_path):
    helper = tmp_path / "helper"
    chromium(f"sleep 1000 & echo $! > {helper}.part; mv {helper}.part {helper}; wait")
    monkeypatch.setattr(pdf, "SECONDS", 2)
    with pytest.raises(NormlabError, match=r"took longer than 2 seconds to print .*: it was ended"):
        pdf.write_pdf(page)
    assert not page.with_suffix(".pdf").exists()
    number = int(helper.read_text())
    while _runs(number):  # it has been killed; init has to notice
        time.sleep(0.05)


def _runs(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_cannot_be_started_is_named(page, chromium):
    chromium("")
    (page.parent / "bin" / "chromium").write_text("#!/nowhere/sh\n")
    with pytest.raises(NormlabError, match=r"chromium cannot be started: No such file"):
        pdf.write_pdf(page)


def test_a_pdf_of_others_is_not_overwritten(page, chromium):
    chromium("exit 1")
    page.with_suffix(".pdf").write_bytes(b"%PDF-1.4 my thesis %%EOF")
    with pytest.raises(UsageError, match=r"report\.pdf already exists"):
        pdf.write_pdf(page)
    with pytest.raises(UsageError, match=r"the page is HTML, and the PDF goes beside it: name it"):
        pdf.write_pdf(page.with_suffix(".pdf"))


def test_a_pdf_is_whole(page, chromium):
    chromium(f"{PRINTS}printf '%%PDF-1.4 whole\\n%%%%EOF\\n' > $out")
    written = pdf.write_pdf(page)
    assert written == page.with_suffix(".pdf")
    assert written.read_bytes() == b"%PDF-1.4 whole\n%%EOF\n" + pdf.PDF_MARK


def test_a_page_of_any_name_is_printed(page, chromium, tmp_path):
    chromium(f'for last; do :; done; printf "%s" "$last" > {tmp_path}/asked; exit 1')
    odd = page.rename(tmp_path / "--a b#?.html")
    with pytest.raises(NormlabError, match="could not print"):
        pdf.write_pdf(odd)
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("file:///")
    assert asked.endswith("/--a%20b%23%3F.html")
