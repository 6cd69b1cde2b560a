"""The upload of a run's network to the Hugging Face Hub, by the library huggingface_hub."""

import re
import warnings
from dataclasses import dataclass
from typing import Any

from normlab.errors import NormlabError, RunError, UsageError, one_line, printable
from normlab.runs.run import Run
from normlab.table import Table

# What `normlab.load`, `report` and a new card read. The page stays here: it may show pictures of
# the data.
FILES = ("README.md", "config.json", "metrics.jsonl", "model.safetensors")
_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_WHAT_TO_DO = {
    401: "log in with `hf auth login`, or set $HF_TOKEN",
    403: "your token may not write there",
}


@dataclass(frozen=True)
class Upload:
    """What is to be uploaded, and where to.

    Attributes:
        repository: OWNER/NAME.
        endpoint: The Hub's address: https://huggingface.co, unless $HF_ENDPOINT says otherwise.
        files: The content of each file, by its name.
    """

    repository: str
    endpoint: str
    files: dict[str, bytes]

    @property
    def table(self) -> Table:
        """The files with their sizes, and where they go."""
        total = sum(map(len, self.files.values()))
        return Table(
            caption=f"To {self.endpoint}/{self.repository} (if it does not exist, it is created as "
            "a public repository):",
            head=("file", "bytes"),
            kinds=("name", "number"),
            rows=[(name, f"{len(content):,}") for name, content in self.files.items()],
            foot=("all", f"{total:,}"),
        )


def prepare(run: Run, repository: str) -> Upload:
    """Reads the files of a run that are to be uploaded. Nothing is sent.

    Args:
        run: A finished run with its card.
        repository: OWNER/NAME.

    Raises:
        UsageError: huggingface_hub is missing, or no repository can have this name.
        RunError: The run is not finished, has no card, or a file of it is missing or damaged.
    """
    hub = _library()
    if not _NAME.fullmatch(repository):
        raise UsageError(f"expected OWNER/NAME, such as me/micro-bn, not {repository!r}")
    try:
        hub.utils.validate_repo_id(repository)
    except ValueError as error:
        raise UsageError(f"no repository can be named {repository!r}: {_line(error)}") from None
    run.network()  # whether its weights are there, and are its own
    if not run.epochs:
        raise RunError(f"{run.path} has no metrics.jsonl: its accuracy is not known")
    if not (run.path / "README.md").exists():
        raise RunError(f"{run.path} has no card: `normlab card {run.path}` writes it")
    try:
        files = {name: (run.path / name).read_bytes() for name in FILES}
    except OSError as error:
        raise RunError(f"{error.filename} cannot be read: {error.strerror}") from None
    return Upload(repository, hub.HfApi().endpoint, files)


def push(upload: Upload) -> str:
    """Uploads files in one commit, into a repository that is made if it is not there.

    The token is the one that huggingface_hub finds.

    Returns:
        The repository's address.

    Raises:
        NormlabError: The Hub cannot be reached or refuses it. Then no file is changed there.
    """
    hub = _library()
    from httpx import HTTPError  # huggingface_hub's

    api = hub.HfApi(endpoint=upload.endpoint)
    additions = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in upload.files.items()
    ]
    hub.utils.disable_progress_bars()
    try:
        with warnings.catch_warnings(action="ignore"):  # on what a card's metadata could have, too
            made = api.create_repo(upload.repository, exist_ok=True)
            api.create_commit(made.repo_id, additions, commit_message="Upload by normlab")
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # the last by its hf_xet
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        reason = _line(error) if status is None else f"the server answered {status}"
        hint = f": {_WHAT_TO_DO[status]}" if status in _WHAT_TO_DO else ""
        raise NormlabError(
            f"{upload.repository} could not be uploaded to {upload.endpoint} ({reason}){hint}"
        ) from None
    return f"{upload.endpoint}/{made.repo_id}"


def _library() -> Any:
    """huggingface_hub, which is imported only here: it is an extra."""
    try:
        import huggingface_hub.utils
    except ImportError:
        raise UsageError(
            'push needs the library huggingface_hub: pip install "normlab[hub]"'
        ) from None
    return huggingface_hub


def _line(error: Exception) -> str:
    """What an error says, on one line that is not long."""
    text = printable(one_line(error)) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"
