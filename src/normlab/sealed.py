"""JSON that carries its own checksum: what was changed or damaged is noticed when it is read."""

import hashlib
import json
from typing import Any


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """The content with its checksum."""
    return content | {"checksum": _checksum(content)}


def unseal(content: dict[str, Any]) -> dict[str, Any]:
    """The content without its checksum.

    Raises:
        ValueError: The checksum is missing or does not fit.
    """
    content = dict(content)
    if content.pop("checksum", None) != _checksum(content):
        raise ValueError("its checksum does not fit: it was changed since normlab wrote it")
    return content


def _checksum(content: dict[str, Any]) -> str:
    """The first half of the SHA-256 (hex) of the content as plain JSON, in its own order."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
