"""What `make docs` adds to the pages in this folder: generated pages, and other files.

Pages link to files of the repository outside this folder. Such a file is copied into the site. A
link to a folder becomes plain text.
"""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import normlab
from normlab import recipes
from normlab.network import zoo

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs"
COPIED = "repository"  # the folder of the site that holds what is copied
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages, and the files that pages link to."""
    waiting = list(files.documentation_pages())
    for name, text in GENERATED.items():
        files.append(File.generated(config, name, content=text()))
    while waiting:
        page = waiting.pop()
        for _, _, target, _ in LINK.findall(page.content_string):
            path = _linked(page, target)
            if path.is_file() and files.get_file_from_path(_place(path)) is None:
                copy = File.generated(config, _place(path), abs_src_path=str(path))
                files.append(copy)
                waiting += [copy] if copy.is_documentation_page() else []
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turns links into links to the site's files, or into text."""

    def link(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        path = _linked(page.file, target)
        if path.is_dir():
            return text
        here = os.path.relpath(_place(path), Path(page.file.src_uri).parent)
        return f"{mark}[{text}]({here}{anchor or ''})"

    return LINK.sub(link, markdown)


def _linked(page: File, target: str) -> Path:
    """What a page links to, in the repository."""
    name = page.src_uri
    folder = ROOT if name.startswith(f"{COPIED}/") else PAGES
    path = ((folder / name.removeprefix(f"{COPIED}/")).parent / target).resolve()
    if not path.exists() and path not in {PAGES / made for made in GENERATED}:
        raise PluginError(f"{name} links to {target}, which does not exist")
    return path


def _place(path: Path) -> str:
    """Where a file of the repository is in the site."""
    if path.is_relative_to(PAGES):
        return path.relative_to(PAGES).as_posix()
    return f"{COPIED}/{path.relative_to(ROOT).as_posix()}"


def _commands() -> str:
    """The help of every command, as it is printed."""
    text = ["# Commands", "", *_help(), ""]
    listed = re.findall(r"^│   • (\S+)", _run_help(), re.MULTILINE)
    for command in listed:
        text += [f"## normlab {command}", "", *_help(command), ""]
    return "\n".join(text)


def _help(*command: str) -> list[str]:
    return ["```text", *_run_help(*command).rstrip().splitlines(), "```"]


def _run_help(*command: str) -> str:
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    arguments = [sys.executable, "-m", "normlab", *command, "--help"]
    return subprocess.run(
        arguments, env=environment, capture_output=True, text=True, check=True
    ).stdout


def _networks() -> str:
    """The named networks, and the settings of each recipe."""
    text = [
        "# Networks and recipes",
        "",
        "`normlab zoo` lists the networks that have a name:",
        "",
        *_row("network", "what it is", "layout"),
        *_row("---", "---", "---"),
    ]
    for name, entry in zoo.ZOO.items():
        text += _row(f"`{name}`", entry.about, f"`{entry.layout}`")
    text += [
        "",
        "A network has the recipe of its name if there is one, else `seed`; pictures of your own",
        "have `own`, with 20 to 200 epochs, the fewer images the more. `--recipe` names another.",
        "",
        *_row("recipe", "its settings"),
        *_row("---", "---"),
    ]
    for name, recipe in recipes.RECIPES.items():
        used = {key: value for key, value in dataclasses.asdict(recipe).items() if value}
        text += _row(f"`{name}`", _settings(used))
    text += ["", "What a search found for one normalization:", ""]
    for (name, norm), found in recipes.TUNED.items():
        text += [f"- `{name}` with `{norm}`: {_settings(found) or 'the same'}"]
    return "\n".join(text)


def _row(*cells: str) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _settings(settings: dict[str, object]) -> str:
    """As a list: `batch size 64, nesterov, augment shift and light`."""
    text = []
    for key, value in settings.items():
        if isinstance(value, tuple):
            value = " and ".join(value) or "nothing"
        text.append(key.replace("_", " ") + ("" if value is True else f" {value}"))
    return ", ".join(text)


def _names() -> str:
    """A section for every public name."""
    text = [
        "# Python",
        "",
        "What `import normlab` offers. `normlab.NAME` is imported when it is used.",
    ]
    for name in sorted(normlab.__all__, key=str.casefold):
        text += ["", f"::: normlab.{name}"]
    return "\n".join(text)


GENERATED = {"cli.md": _commands, "api.md": _names, "networks.md": _networks}
