"""The documentation as a site: built as `make docs` builds it, which checks every link."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import normlab

ROOT = Path(__file__).parent.parent
TAGS = 'script|img|iframe|link rel="stylesheet"'
LOADED = re.compile(rf'<(?:{TAGS})[^>]* (?:src|href)="(https?:[^"]+)')


@pytest.mark.slow(7)
def test_the_site_has_every_page_command_and_public_name_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )
    pages = {
        path.relative_to(tmp_path / "site").parent.as_posix(): path.read_text()
        for path in (tmp_path / "site").rglob("index.html")
    }
    written = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert written | {"cli", "api", "."} <= pages.keys()
    for command in ("train", "compare", "predict", "norms"):
        assert f'id="normlab-{command}"' in pages["cli"]
    assert [name for name in normlab.__all__ if f'id="normlab.{name}"' not in pages["api"]] == []
    assert {url for page in pages.values() for url in LOADED.findall(page)} == set()
    copied = "repository/results/benchmarks/predict.json"
    assert copied in pages["predict"]
    assert (tmp_path / "site" / copied).is_file()
