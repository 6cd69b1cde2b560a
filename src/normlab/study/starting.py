"""The network that a study's runs start from: checked once, and kept in the study's folder.

The runs read that copy, on whatever node of a cluster. Another network is refused when seeds are
added.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from normlab.config import StudyConfig
from normlab.data import Dataset
from normlab.errors import RunError, UsageError
from normlab.network.model import Network
from normlab.runs.provenance import Start
from normlab.runs.run import Run
from normlab.storage.files import refuse_link, remove_leftovers, write_atomically
from normlab.study.plan import Arm
from normlab.study.record import Study
from normlab.study.teaching import held_out_to_choose
from normlab.training import starts
from normlab.training.seen_images import refuse_seen_images

FOLDER = "start"  # in the study's


def find(study: StudyConfig, out: Path, dataset: Dataset) -> Run | None:
    """The start of a study; None if it has none.

    A study that goes on takes its own copy where the network that it names is gone.

    Args:
        study: The study's settings.
        out: Its folder.
        dataset: Its data set.

    Raises:
        UsageError: There is no such network, or it saw images that measure its runs.
        RunError: It is not finished, or damaged.
    """
    starts.check_settings(study)
    try:
        run = starts.find(study)
    except UsageError:
        if study.start_from is None or not (out / FOLDER / "model.safetensors").is_file():
            raise
        run = Run.open(out / FOLDER)
    if run is not None:
        refuse_seen_images(run, study, dataset, held_out=held_out_to_choose(study, dataset))
    return run


def fits(run: Run, arms: Sequence[Arm], dataset: Dataset) -> dict[str, Start]:
    """What each arm keeps of the start, by the arm's name.

    Raises:
        UsageError: An arm can keep nothing.
    """
    return {
        arm.name: starts.copy_weights(
            Network(
                arm.config.network,
                norm=arm.norm,
                activation=arm.config.activation,
                classes=len(dataset.classes),
                shape=dataset.shape,
            ),
            run,
            f"--start-from {arm.config.start_from}, {arm.name}",
        )
        for arm in arms
    }


def recorded(record: Study, run: Run) -> Study:
    """The study with its start recorded.

    Raises:
        RunError: The study's runs started from other weights.
    """
    found, before = starts.recorded(run), record.start
    if before is not None and before != found:
        raise RunError(
            f"{record.path} started from other weights ({before.name}, {before.weights[:12]}…, now "
            f"{found.name}, {found.weights[:12]}…): choose another --out"
        )
    return dataclasses.replace(record, start=found)


def keep(record: Study, run: Run) -> Path:
    """The folder in the study that holds the start's weights and settings, written if necessary.

    Raises:
        NormlabError: It cannot be written, or is a symbolic link.
    """
    folder = record.path / FOLDER
    refuse_link(folder)
    for name in ("model.safetensors", "config.json"):
        remove_leftovers(folder / name)
        content = (run.path / name).read_bytes()
        if not (folder / name).exists() or (folder / name).read_bytes() != content:
            write_atomically(folder / name, content)
    return folder
