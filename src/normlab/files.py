"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path

from normlab.errors import NormlabError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader finds the old content or the new one, never a part.

    Args:
        path: The file; its folder is made where it is missing.
        content: Bytes, or text, which is written as UTF-8.

    Raises:
        NormlabError: The file cannot be written (no space, no permission); the old one is intact.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it readable by its owner alone
        temporary.replace(path)
    except OSError as error:
        raise NormlabError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
