"""A model card: the README.md with which a run's folder can be put on the Hugging Face Hub."""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from normlab.data import source_of
from normlab.data.sources import hf
from normlab.errors import UsageError
from normlab.findings.run import ACCURACY, images_measured
from normlab.network import zoo
from normlab.report.rendering import render_template
from normlab.runs.provenance import started_from, taught_by
from normlab.runs.run import Run
from normlab.runs.trust import custom_code, custom_networks
from normlab.storage.files import exists, write_atomically
from normlab.storage.reading import read_text
from normlab.wording import decimals, listed, percent


def write_card(runs: Sequence[Run], out: Path | None = None) -> Path:
    """Writes the model card of a run; with its weights and config.json it makes a folder to upload.

    Args:
        runs: The run, and repeats of it with other seeds, for the spread of its accuracy.
        out: The card. Default: `README.md` in the first run's folder.

    Raises:
        UsageError: The runs differ in more than the seed; or the path is a folder or has another
            text.
        RunError: A run has not finished.
        NormlabError: The card cannot be written.
    """
    path = out or runs[0].path / "README.md"
    text = model_card(runs)
    if os.path.isdir(path):  # noqa: PTH112 — of a folder that cannot be read, Path raises
        raise UsageError(f"{path} is a folder: name a file")
    if exists(path) and _text(path) != text:
        raise UsageError(f"{path} already exists: delete it, or choose another --out")
    write_atomically(path, text)
    return path


def _text(path: Path) -> str | None:
    """The text of a file, whichever line ends it has; None if it is not text.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return read_text(path).replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise UsageError(
            f"{path} already exists and cannot be read: {error.strerror}; choose another --out"
        ) from None


def model_card(runs: Sequence[Run]) -> str:
    """The model card in Markdown, with the metadata that the Hugging Face Hub reads.

    Raises:
        UsageError: The runs differ in more than the seed.
        RunError: A run has not finished.
    """
    run = runs[0]
    _check_repeats(runs)
    for each in runs:
        each.network()  # RunError if its weights are missing or not its own
    images = images_measured(run)
    return (
        render_template(
            "card.md",
            metadata={name: json.dumps(value) for name, value in _metadata(run).items()},
            title=_title(run),
            run=run,
            function=custom_networks(run.layout),
            modules=sorted({code.module for code in custom_code(run.config.norm, run.layout)}),
            measured=ACCURACY[run.split].capitalize(),
            images=images,
            accuracy=percent(run.last.accuracy, images),
            repeats=_repeats(runs) if len(runs) > 1 else None,
            augmentation=[*run.recipe.augment, *(["mirror"] if run.recipe.mirror else [])],
            decimals=decimals,
            started_from=started_from,
            taught_by=taught_by,
            plain=_plain,
        )
        + "\n"
    )


def _check_repeats(runs: Sequence[Run]) -> None:
    """UsageError if runs are not repeats of the first."""
    first = runs[0]
    for other in runs[1:]:
        config, other_config = (dataclasses.asdict(run.config) for run in (first, other))
        differing = [k for k, value in config.items() if other_config[k] != value and k != "seed"]
        if first.layout != other.layout:
            differing.append("layout")
        if first.data.fingerprint != other.data.fingerprint:
            differing.append("data")
        if differing:
            raise UsageError(
                f"{other.path} is not a repeat of {first.path}: they differ in {listed(differing)}"
            )
    if len({run.config.seed for run in runs}) < len(runs):
        raise UsageError("two of the runs have the same seed: give repeats with different seeds")


def _title(run: Run) -> str:
    """Network, normalization and seed: the folders in a study are named by the last two only."""
    config = run.config
    return f"{zoo.folder_name(config.network)}-{config.norm}-{config.seed}"


def _metadata(run: Run) -> dict[str, object]:
    """The metadata at the top; its values are written as JSON, which is YAML too."""
    dataset, on_hub = _data_names(run)
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset, "type": on_hub or dataset, "split": run.split},
        "metrics": [
            {
                "type": "accuracy",
                "value": run.last.accuracy,
                "name": f"{ACCURACY[run.split]}, last epoch",
            }
        ],
    }
    metadata: dict[str, object] = {
        "library_name": "normlab",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "tiny", run.config.norm.partition("=")[0]],
        "metrics": ["accuracy"],
        "model-index": [{"name": _title(run), "results": [result]}],
    }
    if on_hub:
        metadata["datasets"] = [on_hub]
    return metadata


def _data_names(run: Run) -> tuple[str, str | None]:
    """The data set's name for readers, and its name on the Hub if it is there."""
    name = run.config.dataset
    source = source_of(name)
    if name.startswith("hf:"):
        on_hub = hf.name_on_hub(name, run.data.notes)
        return (name.removeprefix("hf:") if on_hub else "own pictures"), on_hub
    return (name, source.HUB_NAME) if source and source.PUBLIC else ("own pictures", None)


def _repeats(runs: Sequence[Run]) -> dict[str, str]:
    """The seeds, and the mean and standard deviation of accuracy in percent."""
    shares = [100 * run.last.accuracy for run in runs]
    return {
        "seeds": ", ".join(str(run.config.seed) for run in runs),
        "mean": f"{statistics.mean(shares):.2f}",
        "deviation": f"{statistics.stdev(shares):.2f}",
    }


def _plain(text: str) -> str:
    """Text on one line, without the characters that mean something in Markdown."""
    return "".join(c for c in text if c.isprintable() and c not in "`|<>[]*")
