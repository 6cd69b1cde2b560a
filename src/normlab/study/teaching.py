"""A study's teacher: its outputs are computed once, and all runs of the study learn from them."""

import dataclasses
from collections.abc import Sequence

import torch

from normlab.config import StudyConfig
from normlab.data import Dataset
from normlab.errors import RunError
from normlab.storage.files import remove_leftovers
from normlab.study.plan import Arm, held_out
from normlab.study.record import Study
from normlab.training import teachers


def find(study: StudyConfig, dataset: Dataset) -> teachers.TeacherNetwork | None:
    """The teacher of a study; None if it has none.

    Raises:
        UsageError: It does not fit the data, or it saw the images that settings are searched on.
        RunError: It is not finished, or damaged.
    """
    teachers.check_settings(study)
    if study.teacher is None:
        return None
    teacher = teachers.find(study.teacher)
    teacher.check(dataset, held_out=held_out_to_choose(study, dataset), split_seed=study.split_seed)
    return teacher


def teach(
    record: Study,
    teacher: teachers.TeacherNetwork,
    arms: Sequence[Arm],
    dataset: Dataset,
    device: torch.device,
) -> tuple[Study, Dataset]:
    """The study with its teacher recorded, and its whole data set with the teacher's outputs.

    They are kept in the study's folder, so that seeds that are added later learn from the same.

    Raises:
        UsageError: The outputs are no logits.
        RunError: They are damaged, or the study's runs had another teacher.
    """
    file, before = record.path / teachers.TABLE, record.teacher
    remove_leftovers(file)
    if before is not None and (before.name, before.weights) != (teacher.name, teacher.weights):
        raise RunError(
            f"{record.path} learned from other weights of {before.name} "
            f"({before.weights[:12]}…, now {teacher.weights[:12]}…): choose another --out"
        )
    mirror = any(arm.recipe.mirror for arm in arms)
    if before is not None and file.exists():
        return record, teachers.read(file, dataset, before, mirror=mirror)
    dataset = teacher.teach(
        dataset,
        held_out=held_out_to_choose(record.config, dataset),
        split_seed=record.config.split_seed,
        mirror=mirror,
        device=device,
    )
    found = teachers.recorded(dataset)
    if before is not None and before != found:
        raise RunError(
            f"{file} is missing, and {before.name} gives other outputs on this machine than the "
            "study's runs learned from: put the file back, or choose another --out"
        )
    teachers.write(file, dataset)
    return dataclasses.replace(record, teacher=found), dataset


def held_out_to_choose(study: StudyConfig, dataset: Dataset) -> int:
    """How many images are held out when settings are chosen; 0 if none are."""
    return held_out(study, dataset.to_train_or_choose) if study.tune else study.holdout
