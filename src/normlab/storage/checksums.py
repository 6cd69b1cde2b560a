"""JSON files that carry a checksum of their content: a change or damage is noticed on reading."""

import hashlib
import json
import os
import reprlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from normlab.errors import RunError
from normlab.storage.reading import read_text
from normlab.storage.records import MalformedError, entry, parse


def read_json(file: Path, schema: int, kind: str) -> dict[str, Any]:
    """The content of the file that makes a folder a `kind` ("run", "study").

    Its checksum is not verified yet.

    Raises:
        RunError: The file is missing, is not a JSON object, or another normlab wrote it.
    """
    try:
        content: dict[str, Any] = parse(read_text(file))
        written = entry(content, "schema", object)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{file.parent} is not a {kind}'s folder: {_instead(file)}") from None
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from None
    except (MalformedError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is damaged, or not a {kind}'s: {error}") from None
    if written != schema:
        raise RunError(
            f"{file} has schema {reprlib.repr(written)}, this normlab reads schema {schema}: "
            "open it with the version of normlab that wrote it"
        )
    return content


def _instead(file: Path) -> str:
    """What a folder is that lacks this file, and what to give in its place."""
    folder = file.parent
    with suppress(OSError):  # what cannot be looked into has no such file
        if not os.path.lexists(folder):
            return "it does not exist"
        if not folder.is_dir():
            owner = folder.parent
            return f"it is a file: give {owner}" if (owner / file.name).exists() else "it is a file"
        if (folder / "study.json").exists():
            runs = folder / "runs"
            return f"it is a study's, which `normlab report` takes alone; its runs are in {runs}"
        if held := sorted(path.parent for path in folder.glob(f"*/{file.name}")):
            return f"give the folders in it, such as {held[0]}"
    return f"it has no {file.name}"


def add_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its checksum."""
    return content | {"checksum": _checksum(content)}


def verify_checksum(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its checksum.

    Raises:
        MalformedError: The checksum is missing or does not match.
    """
    content = dict(content)
    stated = content.pop("checksum", None)
    try:
        expected = _checksum(content)
    except RecursionError:  # json.dumps allows a little less depth than json.loads
        raise MalformedError("it is nested too deeply") from None
    if stated != expected:
        raise MalformedError("checksum mismatch: it was changed since normlab wrote it")
    return content


def _checksum(content: dict[str, Any]) -> str:
    """The first half of the SHA-256 (hex) of the content as plain JSON, in its own order."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
