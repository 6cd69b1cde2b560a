"""What a study's runs need: their data, an executor, and the progress display."""

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from normlab.config import RunConfig
from normlab.data import Dataset, apply_splits, shared
from normlab.storage.files import refuse_link
from normlab.study import local
from normlab.study.display import StudyDisplay
from normlab.study.job import Job
from normlab.study.local import Outcome, Progress

# Executes jobs and reports on them: `local.run_jobs`, or the one of `cluster`.
Executor = Callable[[Sequence[Job]], Iterator[Progress]]


@dataclass(frozen=True)
class Resources:
    """What runs are executed with.

    Attributes:
        data_folder: Gives the folder with the data that a run needs.
        execute: Executes jobs.
        estimated_seconds: Estimated time of a whole run, by the arm's name.
        device: The device of the runs.
        console: Where progress is shown; None shows nothing.
        start: The folder with the network that the runs start from, if any.
    """

    data_folder: Callable[[RunConfig], Path]
    execute: Executor
    estimated_seconds: Mapping[str, float]
    device: torch.device
    console: Console | None
    start: Path | None = None

    def job(self, config: RunConfig, out: Path) -> Job:
        """The job of a run."""
        return Job(
            config=config,
            out=out,
            data=self.data_folder(config),
            device=self.device.type,
            start=self.start,
        )

    def run(
        self, epochs: Mapping[Job, int], seconds: Mapping[Job, float], *, images: int
    ) -> Generator[tuple[Job, Outcome]]:
        """Runs jobs and shows their progress. If it is closed early, the runs stop.

        Args:
            epochs: The jobs, with their numbers of epochs.
            seconds: The estimated time of each job.
            images: Number of images that accuracy is measured on.

        Yields:
            Each job when it has ended, with its outcome.
        """
        with StudyDisplay(self.console, epochs, seconds, images=images) as display:
            for progress in self.execute(list(epochs)):
                display.update(progress)
                yield from progress.ended.items()


@contextmanager
def executor(
    ray: str | None, workers: int, lock: int | None, device: torch.device
) -> Iterator[Executor]:
    """What executes jobs: processes of this machine, or Ray."""
    if ray is None:
        yield partial(local.run_jobs, workers=workers, keep_open=lock)
        return
    from normlab.study.cluster import on_ray

    gpus = 1 / workers if device.type == "cuda" else 0
    with on_ray(ray, cores=workers, gpus=gpus) as execute:
        yield execute


@contextmanager
def shared_data(folder: Path, dataset: Dataset) -> Iterator[Callable[[RunConfig], Path]]:
    """Gives runs a folder with their data.

    Data is written once for all runs with the same splits, and deleted at the end.

    Args:
        folder: A folder of normlab alone: what it holds is deleted.
        dataset: The data set, whole.

    Raises:
        NormlabError: The folder is a symbolic link.
    """

    def data_folder(config: RunConfig) -> Path:
        parts = (config.holdout, config.train_images, config.label_noise)
        subfolder = folder / "-".join(map(str, parts))
        if not (subfolder / "dataset.json").exists():
            shared.write(apply_splits(dataset, config), subfolder)
        return subfolder

    refuse_link(folder)
    shutil.rmtree(folder, ignore_errors=True)  # left by a study that was killed
    try:
        yield data_folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
