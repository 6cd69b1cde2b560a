"""A model card: the README.md with which a run's folder can be put on the Hugging Face Hub."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from normlab.errors import UsageError
from normlab.findings.run import ACCURACY, IMAGES, images_measured
from normlab.network import zoo
from normlab.runs.run import Run
from normlab.storage.files import write_atomically
from normlab.wording import listed, percent


def write_card(runs: Sequence[Run], out: Path | None = None) -> Path:
    """Writes a run's model card; with its weights and config.json it makes a folder to upload.

    Args:
        runs: The run, and repeats of it with other seeds, for the spread of its accuracy.
        out: The card. Default: `README.md` in the first run's folder.

    Raises:
        UsageError: The runs differ in more than the seed; another text, or a folder, stands there.
        RunError: A run has not finished.
        NormlabError: The card cannot be written.
    """
    path = out or runs[0].path / "README.md"
    text = model_card(runs)
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    if path.exists() and path.read_text(encoding="utf-8", errors="replace") != text:
        raise UsageError(f"{path} is there already: delete it, or choose another --out")
    write_atomically(path, text)
    return path


def model_card(runs: Sequence[Run]) -> str:
    """A run's model card in Markdown, with the metadata that the Hugging Face Hub reads.

    Raises what `write_card` raises of runs.
    """
    run = runs[0]
    _refuse_others(runs)
    for each in runs:
        each.network()  # RunError where its weights are not there or not its own
    sections = (
        _metadata(run),
        f"# {_plain(_title(run))}",
        _about(run),
        "## Intended use",
        _use(run),
        "## Accuracy",
        _accuracy(runs),
        "## Data and training",
        _training(run),
        "## Limits",
        _limits(runs),
        "## How to load it",
        _loading(),
    )
    return "\n\n".join(sections) + "\n"


def _refuse_others(runs: Sequence[Run]) -> None:
    """UsageError where runs are no repeats of the first."""
    first = runs[0]
    for other in runs[1:]:
        ours, theirs = (run.config.to_dict() for run in (first, other))
        differing = [k for k, value in ours.items() if theirs[k] != value and k != "seed"]
        if first.layout != other.layout:
            differing.append("layout")
        if first.data.fingerprint != other.data.fingerprint:
            differing.append("data")
        if differing:
            raise UsageError(
                f"{other.path} is no repeat of {first.path}: they differ in {listed(differing)}"
            )
    if len({run.config.seed for run in runs}) < len(runs):
        raise UsageError("two of the runs have the same seed: they are no repeats of each other")


def _title(run: Run) -> str:
    """Network, normalization and seed: a study's folders say only the last two."""
    config = run.config
    return f"{zoo.short_name(config.network)}-{config.norm}-{config.seed}"


def _metadata(run: Run) -> str:
    """The YAML at the top, its values written as JSON, which YAML contains."""
    known = run.config.dataset in ("cifar10", "digits")
    dataset = run.config.dataset if known else "own pictures"
    content: dict[str, object] = {
        "library_name": "normlab",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "tiny", run.config.norm.partition("=")[0]],
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": _title(run),
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {"name": dataset, "type": dataset, "split": run.split},
                        "metrics": [
                            {
                                "type": "accuracy",
                                "value": run.last.accuracy,
                                "name": f"{ACCURACY[run.split]}, last epoch",
                            }
                        ],
                    }
                ],
            }
        ],
    }
    if run.config.dataset == "cifar10":
        content["datasets"] = ["uoft-cs/cifar10"]
    lines = (f"{name}: {json.dumps(value)}" for name, value in content.items())
    return "\n".join(("---", *lines, "---"))


def _about(run: Run) -> str:
    summary = run.summary
    return (
        f"An image classifier of {summary.parameters:,} parameters and "
        f"{summary.running_statistics:,} running statistics, {summary.macs:,} multiply-accumulates "
        f"for an image, with the normalization `{run.config.norm}`, trained by normlab. Its layout "
        f"in normlab's notation:\n\n    {run.layout}"
    )


def _use(run: Run) -> str:
    return (
        "It says which of these classes is on a picture: "
        f"{', '.join(f'`{_plain(name)}`' for name in run.data.classes)}. It is meant for "
        "teaching, for comparing normalizations, and for devices with kilobytes of memory; not for "
        "decisions about people, nor where a wrong answer does harm."
    )


def _accuracy(runs: Sequence[Run]) -> str:
    run = runs[0]
    images = images_measured(run)
    text = (
        f"{ACCURACY[run.split].capitalize()} after the last epoch ({run.last.epoch}), without "
        f"test-time augmentation: **{percent(run.last.accuracy, images)}** of {images:,} images; "
        f"loss {run.last.loss:.4f}."
    )
    if len(runs) == 1:
        return f"{text} One run, seed {run.config.seed}: another seed ends elsewhere."
    shares = [each.last.accuracy for each in runs]
    seeds = ", ".join(str(each.config.seed) for each in runs)
    return (
        f"{text} This is seed {run.config.seed}; over the seeds {seeds} the mean is "
        f"{100 * statistics.mean(shares):.2f} ± {100 * statistics.stdev(shares):.2f}% (standard "
        "deviation)."
    )


def _training(run: Run) -> str:
    data, recipe = run.data, run.recipe
    augmentation = [*recipe.augment, *(["mirror"] if recipe.mirror else [])]
    held = f", {data.holdout:,} held out" if data.holdout else ""
    rows = {
        "data": f"`{_plain(run.config.dataset)}`: {data.train:,} training images{held}, "
        f"{data.test:,} test images",
        "fingerprint": f"SHA-256 of pixels and labels `{data.fingerprint}`",
        "input": "RGB, 32 × 32, normalized inside the network by the training images' mean "
        f"({', '.join(f'{v:.4f}' for v in data.mean)}) and standard deviation "
        f"({', '.join(f'{v:.4f}' for v in data.std)})",
        "recipe": f"`{run.config.recipe}`: {recipe.epochs} epochs, batch {recipe.batch_size}, peak "
        f"learning rate {recipe.learning_rate:g}, {recipe.schedule}, "
        f"augmentation: {', '.join(augmentation) or 'none'}",
        "precision": run.config.precision,
        "seed": str(run.config.seed),
        "machines": "; ".join(
            f"{_plain(m.processor)}, {m.device}, torch {m.torch}, normlab {m.normlab}"
            for m in run.machines
        ),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"| | |\n| --- | --- |\n{table}\n\n`config.json` has every setting."


def _limits(runs: Sequence[Run]) -> str:
    run = runs[0]
    said = [
        "It answers one of its classes whatever is on the picture, and can be sure and wrong.",
        "A picture is cropped to the square at its centre and shrunk to 32 × 32 pixels.",
        *(f"On the data: {_plain(note)}." for note in run.data.notes),
    ]
    if run.split == "holdout":
        said.append(f"It was measured on {IMAGES['holdout']}; the test split was not read.")
    if len(runs) == 1:
        said.append("How much its accuracy depends on the seed is not known from one run.")
    return "\n".join(f"- {sentence}" for sentence in said)


def _loading() -> str:
    return (
        "With this folder in `model`:\n\n```python\nimport normlab\n\n"
        'trained = normlab.load("model")\nprint(trained.predict("picture.jpg")[0].top(3))\n```\n\n'
        "or `normlab predict model picture.jpg`. The weights are safetensors: nothing in the "
        "folder is executed."
    )


def _plain(text: str) -> str:
    """Text that means nothing in Markdown and keeps to its line."""
    return "".join(c for c in text if c.isprintable() and c not in "`|<>[]*")
