"""The examples: a custom normalization, and the assignment's notebook in a real kernel."""

import re
import runpy
from itertools import groupby
from pathlib import Path

import nbformat
import pytest

import normlab
from assignment_notebook import NOTEBOOK, execute
from normlab import RunConfig
from normlab.layers.norms import registry

EXAMPLES = Path(__file__).parent.parent / "examples"
WORDS = ("text/plain", "text/html")  # what an output has in words


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
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(written, tmp_path_factory):
    """The notebook on the digits, and the folder it was executed in."""
    folder = tmp_path_factory.mktemp("notebook")
    return execute(written, folder), folder


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook):
    return "".join(
        output.text
        for output in outputs(notebook)
        if output.output_type == "stream" and output.name == "stdout"
    )


def texts(output):
    """All that an output says in words."""
    return [output.get("text", ""), *(output.get("data", {}).get(kind, "") for kind in WORDS)]


def test_the_committed_notebook_has_the_outputs_of_the_digits(written):
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    shown = outputs(written)
    assert {output.output_type for output in shown} == {"stream", "display_data", "execute_result"}
    assert not [o for o in shown if o.output_type == "stream" and o.name != "stdout"]
    trained = [t for o in shown for t in texts(o) if "digits: 1,437 training and 360 test" in t]
    assert len(trained) == 2 * 3  # as HTML and as text
    conclusions = printed(written)
    assert conclusions.count("of the 360 test images are classified correctly") == 3
    assert (
        conclusions.count("- more than 70% (") == conclusions.count(" of 360 test images): ") == 3
    )
    assert NOTEBOOK.stat().st_size < 650_000


def test_the_committed_notebook_says_nothing_of_the_machine(written):
    for text in (text for output in outputs(written) for text in texts(output)):
        assert not re.search(r"(?<![\w.<])/\w+|\w:\\\\|://|\d\.\d+\.\d+\.\d", text), text
    assert written.metadata.keys() == {"kernelspec", "language_info"}
    assert {key for cell in written.cells for key in cell.metadata} == set()


def test_the_committed_outputs_are_those_of_the_committed_cells(written, executed):
    def kinds(cell):
        return [kind for kind, _ in groupby(o.get("name", sorted(o.get("data", ""))) for o in cell)]

    def words(cell):
        return "".join(text for output in cell for text in texts(output))

    notebook, _ = executed
    before_training = True
    for kept, anew in zip(written.cells, notebook.cells, strict=True):
        before_training &= "## 4. " not in kept.source
        if kept.cell_type == "code":
            assert kinds(kept.outputs) == kinds(anew.outputs)
            assert words(kept.outputs) == words(anew.outputs) or not before_training


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


def test_the_notebook_shows_its_figures_and_tables_without_warnings(executed):
    notebook, _ = executed
    shown = [output.data for output in outputs(notebook) if "data" in output]
    # Grid, means, histograms, two of augmentations, curves, classes; mistakes and confusion of each
    # run; three digits.
    assert sum("image/png" in data for data in shown) == 7 + 2 * 3 + 3
    # The data, the layers, the runs, each evaluation.
    assert sum("<table>" in data.get("text/html", "") for data in shown) == 1 + 1 + 1 + 3
    assert not [o for o in outputs(notebook) if o.output_type == "stream" and o.name == "stderr"]
