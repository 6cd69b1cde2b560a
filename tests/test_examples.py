"""The examples: a custom normalization, and the assignment's notebook in a real kernel."""

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import normlab
from normlab import RunConfig
from normlab.layers.norms import registry

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_custom_normalization_trains_under_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    runpy.run_path(str(EXAMPLES / "own_normalization.py"))
    config = RunConfig(
        network="C:6 P C:8/l1 GAP FC", norm="l1", dataset="digits", recipe="demo", epochs=2
    )
    run = normlab.train(config, tmp_path / "run", quiet=True)
    assert run.last.train_loss < run.epochs[0].train_loss
    assert run.summary.rows[0].normalization == "l1"
    assert run.summary.rows[0].parameters == 9 * 6 + 2 * 6


@pytest.fixture(scope="module")
def written():
    """The notebook in the repository."""
    return nbformat.read(EXAMPLES / "assignment.ipynb", as_version=4)


@pytest.fixture(scope="module")
def executed(written, tmp_path_factory):
    """The notebook on the digits, and the folder it was executed in."""
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NORMLAB_NOTEBOOK_DATASET", "digits")
        patch.setenv("OMP_NUM_THREADS", "1")  # as the other tests
        client = NotebookClient(
            nbformat.from_dict(written), timeout=1800, resources={"metadata": {"path": folder}}
        )
        return client.execute(), folder


def printed(notebook):
    return "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream" and output.name == "stdout"
    )


def test_the_committed_notebook_has_no_outputs(written):
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


@pytest.mark.slow(30)
def test_the_notebook_prints_the_conclusions_of_its_runs(executed):
    notebook, folder = executed
    runs = [normlab.Run.open(folder / "runs" / "assignment-digits" / n) for n in ("bn", "gn", "ln")]
    assert all(run.finished and run.last.accuracy > 0.3 for run in runs)
    evaluations = [normlab.evaluate(run.network(), run.dataset()) for run in runs]
    output = printed(notebook)
    for sentences in (
        *map(normlab.analysis.analyze, runs, evaluations),
        normlab.analysis.compare(runs, evaluations),
    ):
        assert "".join(f"- {sentence}\n" for sentence in sentences) in output
    for run in runs:
        assert f"- fewer than 5,000 parameters ({run.summary.parameters:,}): yes" in output
    assert (folder / "runs" / "assignment-digits" / "report.html").exists()


@pytest.mark.slow(30)
def test_the_notebook_shows_its_figures_and_tables_without_warnings(executed):
    notebook, _ = executed
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if "data" in output]
    # Grid, means, histograms, two of augmentations, curves, classes; mistakes and confusion of each
    # run; three digits.
    assert sum("image/png" in data for data in shown) == 7 + 2 * 3 + 3
    assert sum("<table>" in data.get("text/html", "") for data in shown) == 1 + 2 + 3 + 1 + 3
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
