"""The page of records: accuracy against parameters, of our studies and of published networks.

    python benchmarks/records.py [--results results] [--out docs/records.md]

Reads the studies in a folder (`normlab compare`) and `published-networks.csv` beside them. Writes
the page and, beside it, its figure, `records.svg`. An arm counts if it trained on all of CIFAR-10
and was measured on its test images; those of `ghost-bn`, which imitate small batches, do not. Sizes
and accuracies in int8 come from `benchmarks/export-*.json` in that folder.
"""

import argparse
import csv
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from matplotlib.patches import Rectangle

from normlab import notation
from normlab.errors import RunError
from normlab.network import zoo
from normlab.network.summary import summarize
from normlab.report import plots
from normlab.runs.run import Run
from normlab.storage.files import write_atomically
from normlab.study.record import Study

ROOT = Path(__file__).parent.parent
HEAD = """# Records

Accuracy on CIFAR-10 against the number of parameters. `python benchmarks/records.py` makes this
page and its figure, from the studies in [results](../results) and from
[published-networks.csv](../results/published-networks.csv).

![Accuracy against parameters](records.svg)
"""
OURS = """
## Networks of normlab

Test accuracy after the last epoch, mean and standard deviation over seeds, without test-time
augmentation, on [a copy of CIFAR-10](../results/README.md) that differs from the published files in
21 of the 10,000 test images. Parameters: all that the network needs at inference. MACs:
multiply-accumulates for one image. int8: bytes of the exported file and the accuracy of one run in
int8, where they were measured.
`sprint` stands here once for each study: `sprint` searched the learning rate alone,
`sprint-statistics` the weight decay and the shift too, `sprint-sgd` trained without Muon, and
`sprint-batch8` compared two batch sizes.
`ghost-bn` is left out: it shows what small batches cost.
"""
TAUGHT = """
## With a teacher

The same, trained on the outputs of a larger network, too.
"""
OTHERS = """
## Published by others

Accuracies as published, some of the best epoch on the test images. A target is what a benchmark
asks for. The `gn` and `ln` of ERA have BatchNorm in most blocks. The numbers from papers (arXiv)
are second-hand: they come from quotations of the papers' tables. NASNet's is from the paper on
LEMONADE. The parameters of μNAS are its 11.4 kB, at one byte each. The list is not complete;
[more of the assignment](results.md).
"""


@dataclass(frozen=True)
class Row:
    """A point of the figure. Accuracies in percent, one for each seed of ours."""

    network: str
    norm: str
    parameters: int
    accuracies: tuple[float, ...]
    epochs: int | None
    macs: int | None = None
    int8_bytes: int | None = None
    int8_accuracy: float | None = None  # of one run
    runs: int | None = None
    source: str = ""
    batch_size: int | None = None
    taught: bool = False
    study: str = ""  # the folder in results

    @property
    def accuracy(self):
        return statistics.mean(self.accuracies)


def counts(study):
    """Whether a study trained on all of CIFAR-10 and was measured on its test images."""
    return study.config.dataset == "cifar10" and not study.config.holdout


def rows_of(study, int8):
    """A row for each arm with finished runs, on all images, with right labels and whole batches."""
    for arm in study.arms:
        results = [result for result in study.of(arm) if result.state == "done"]
        config = arm.config
        if not results or config.train_images or config.label_noise:
            continue
        if arm.norm.startswith("ghost-bn"):
            continue
        layout = layout_of(study, results[0], config.network)
        size, accuracy = int8.get((layout, arm.norm), (None, None))
        yield Row(
            network=zoo.short_name(arm.setting.network),
            norm=arm.norm,
            parameters=results[0].parameters,
            accuracies=tuple(100 * result.accuracies[-1] for result in results),
            epochs=arm.recipe.epochs,
            batch_size=arm.recipe.batch_size,
            macs=summarize(layout, norm=arm.norm).macs,
            int8_bytes=size,
            int8_accuracy=accuracy,
            taught=bool(getattr(config, "teacher", None)),
            study=study.path.name,
        )


def layout_of(study, result, network):
    """The layout that was trained: a run's own if it is there, for a named network may change."""
    try:
        return Run.open(study.folder(result)).layout
    except RunError:
        return notation.format(notation.parse(zoo.find(network)))


def int8_files(folder):
    """The bytes of int8 files and their accuracies in percent, by layout and normalization."""
    files = {}
    for file in sorted((folder / "benchmarks").glob("export-*.json")):
        content = json.loads(file.read_text())
        if "int8" in content["bytes"]:
            accuracy = 100 * content["correct"]["int8"] / content["test_images"]
            files[content["layout"], content["norm"]] = content["bytes"]["int8"], accuracy
    return files


def read_published(file):
    """The published networks."""
    with file.open(newline="") as lines:
        return [
            Row(
                network=row["network"],
                norm=row["norm"],
                parameters=int(row["parameters"]),
                accuracies=(float(row["accuracy"]),),
                epochs=int(row["epochs"]) if row["epochs"] else None,
                int8_bytes=int(row["int8_bytes"]) if row["int8_bytes"] else None,
                runs=int(row["runs"]) if row["runs"] else None,
                source=row["source"],
            )
            for row in csv.DictReader(lines)
        ]


def number(value):
    return "" if value is None else f"{value:,}"


def accuracy_text(row):
    if len(row.accuracies) == 1:
        return f"{row.accuracy:g}" if row.source else f"{row.accuracy:.2f}"
    return f"{row.accuracy:.2f} ± {statistics.stdev(row.accuracies):.2f}"


def int8_text(row):
    accuracy = "" if row.int8_accuracy is None else f" ({row.int8_accuracy:.2f}%)"
    return f"{number(row.int8_bytes)}{accuracy}"


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def our_table(rows):
    head = ["network", "norm", "parameters", "MACs", "int8", "epochs", "batch", "seeds"]
    head += ["accuracy", "study"]
    return table(
        head,
        [
            [
                *(f"`{row.network}`", f"`{row.norm}`", number(row.parameters), number(row.macs)),
                *(int8_text(row), number(row.epochs), number(row.batch_size)),
                *(str(len(row.accuracies)), accuracy_text(row)),
                f"[{row.study}](../results/{row.study}/report.html)",
            ]
            for row in sorted(rows, key=lambda row: (row.parameters, -row.accuracy))
        ],
    )


def their_table(rows):
    return table(
        ["network", "norm", "parameters", "int8", "epochs", "runs", "accuracy", "source"],
        [
            [
                *(row.network, f"`{row.norm}`" if row.norm else "", number(row.parameters)),
                *(number(row.int8_bytes), number(row.epochs), number(row.runs)),
                accuracy_text(row),
                f"<{row.source}>",
            ]
            for row in sorted(rows, key=lambda row: (row.parameters, -row.accuracy))
        ],
    )


@plots.styled
def figure(ours, published):
    """Accuracy against parameters: our normalizations in colours, the published points in grey."""
    drawn = plots.Chart(figsize=(1.4 * plots.WIDTH, plots.WIDTH))
    paper = Rectangle((0, 0), 1, 1, transform=drawn.transFigure, color=plots.PAPER, zorder=-1)
    drawn.add_artist(paper)  # for readers whose page is dark
    axes = drawn.subplots()
    axes.set_xscale("log")
    for k, norm in enumerate(sorted({row.norm for row in ours})):
        for taught in (False, True):
            rows = [row for row in ours if (row.norm, row.taught) == (norm, taught)]
            if rows:
                axes.errorbar(
                    [row.parameters for row in rows],
                    [row.accuracy for row in rows],
                    [statistics.stdev(r.accuracies) if len(r.accuracies) > 1 else 0 for r in rows],
                    linestyle="none",
                    marker=plots.MARKERS[k % len(plots.MARKERS)],
                    color=plots.color_of(k),
                    markerfacecolor="none" if taught else plots.color_of(k),
                    label=f"normlab, {norm}{', taught' if taught else ''}",
                )
    axes.plot(
        [row.parameters for row in published],
        [row.accuracy for row in published],
        *("x",),
        color=plots.MUTED,
        label="published by others",
    )
    highest = {row.network: row for row in sorted(published, key=lambda row: row.accuracy)}
    for row in highest.values():  # one label for each network, on the side that has room
        crowded = any(
            row.parameters < other.parameters < 1.5 * row.parameters
            and abs(row.accuracy - other.accuracy) < 1
            for other in published
        )
        axes.annotate(
            row.network,
            (row.parameters, row.accuracy),
            xytext=(-5, 3) if crowded else (5, -9),
            textcoords="offset points",
            horizontalalignment="right" if crowded else "left",
            fontsize=7,
            color=plots.MUTED,
        )
    axes.set_xlim(right=5 * max(row.parameters for row in (*ours, *published)))
    axes.set(xlabel="parameters", ylabel="test accuracy, %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(visible=True)
    axes.legend(loc="lower right", fontsize=8)
    return drawn


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/records.md")
    options = parser.parse_args()
    int8 = int8_files(options.results)
    studies = [Study.open(f.parent) for f in sorted(options.results.glob("*/study.json"))]
    ours = [row for study in studies if counts(study) for row in rows_of(study, int8)]
    if not ours:
        parser.error(f"{options.results} has no study of CIFAR-10 with finished runs")
    published = read_published(options.results / "published-networks.csv")
    page = HEAD + OURS + "\n" + our_table([row for row in ours if not row.taught])
    if any(row.taught for row in ours):
        page += TAUGHT + "\n" + our_table([row for row in ours if row.taught])
    page += OTHERS + "\n" + their_table(published)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, page)
    write_atomically(options.out.with_name("records.svg"), plots.svg(figure(ours, published)))
    print(f"{options.out}: {len(ours)} of ours, {len(published)} published")


if __name__ == "__main__":
    main()
