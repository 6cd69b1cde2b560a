"""A page as PDF: the installed Chromium prints it, with the style that pages have in print."""

import os
import shutil
import tempfile
from pathlib import Path

from normlab import programs
from normlab.errors import NormlabError, UsageError
from normlab.storage.files import refuse_foreign, write_atomically

PDF_MARK = b"% printed by normlab\n"  # a comment of PDF, at the end
NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",  # macOS
)
SECONDS = 120  # more than a page of a hundred runs takes on a slow machine


def find_chromium() -> str:
    """The path of Chromium or Chrome; UsageError if none is installed."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise UsageError(
        "a PDF needs Chromium or Chrome, and neither was found: install one, or print the page "
        "from a browser"
    )


def pdf_of(page: Path) -> Path:
    """The file that a page's PDF is written to: `report.pdf` beside `report.html`.

    Raises:
        UsageError: The page has that name itself, or another's file has it.
    """
    out = page.with_suffix(".pdf")
    if out == page:
        raise UsageError(f"{page}: the page is HTML, and the PDF goes beside it: name it .html")
    refuse_foreign(out, PDF_MARK)
    return out


def write_pdf(page: Path) -> Path:
    """Prints a page into a PDF beside it, whole or not at all.

    Args:
        page: An HTML file that normlab wrote.

    Returns:
        The path of the PDF.

    Raises:
        UsageError: There is no Chromium, or the file is there and normlab did not write it.
        NormlabError: Chromium fails, takes longer than two minutes, or the file cannot be written.
    """
    out, chromium = pdf_of(page), find_chromium()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        printed = Path(folder) / "page.pdf"
        command = [
            chromium,
            "--headless",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--no-pdf-header-footer",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # else it refuses root
            f"--user-data-dir={Path(folder) / 'profile'}",
            f"--print-to-pdf={printed}",
            page.absolute().as_uri(),
        ]
        complaints = _run(command, page)
        content = printed.read_bytes() if printed.exists() else b""
    if not content.startswith(b"%PDF-") or not content.rstrip().endswith(b"%%EOF"):
        lines = complaints.strip().splitlines()
        reason = f": {lines[-1].strip()}" if lines else ""
        raise NormlabError(f"{chromium} could not print {page}{reason}")
    write_atomically(out, content.rstrip() + b"\n" + PDF_MARK)
    return out


def _run(command: list[str], page: Path) -> str:
    """Runs Chromium, and returns what it said on its standard error."""
    try:
        return programs.run(command, seconds=SECONDS, errors_alone=True)[1]
    except OSError as error:
        raise NormlabError(f"{command[0]} cannot be started: {error.strerror}") from error
    except programs.TooSlowError as error:
        raise NormlabError(f"{error} to print {page}: it was ended") from None
