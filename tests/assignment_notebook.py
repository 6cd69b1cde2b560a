"""The assignment's notebook, executed on the digits: `make notebook` writes its outputs anew."""

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parent.parent / "examples" / "assignment.ipynb"


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """A copy of a notebook with the outputs of its cells.

    Args:
        notebook: It is unchanged.
        folder: The folder in which its kernel works; its name is in no output.
    """
    settings = {"NORMLAB_NOTEBOOK_DATASET": "digits", "OMP_NUM_THREADS": "1"}
    client = NotebookClient(
        nbformat.from_dict(notebook),
        timeout=1800,
        record_timing=False,
        resources={"metadata": {"path": folder}},
    )
    return client.execute(env=os.environ | settings)


if __name__ == "__main__":
    written = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        executed = execute(written, Path(folder))
    executed.metadata = written.metadata  # the kernel adds the version of Python
    nbformat.write(executed, NOTEBOOK)
