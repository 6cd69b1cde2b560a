"""Refuses a start that was trained on images which are to measure the new run."""

from normlab.config import DataConfig, RunConfig, StudyConfig
from normlab.data import Dataset, source_of
from normlab.errors import UsageError
from normlab.recipes import OWN_DATA
from normlab.runs.run import Run

_A_TEST_SPLIT = "give the test images a split of their own (test/, x_test)"


def refuse_seen_images(
    run: Run, config: RunConfig | StudyConfig, dataset: Dataset, *, held_out: int
) -> None:
    """Refuses a start that was trained on images which are to measure what begins with it.

    It may have seen the same pictures in another size, with other labels, or when a folder had
    fewer of them: splits that are drawn may then be others.

    Args:
        run: The start.
        config: The settings of the new run or study.
        dataset: Its data set.
        held_out: How many images are held out to choose settings by.

    Raises:
        UsageError: It was.
    """
    same_splits = run.data.fingerprint == dataset.fingerprint
    if not same_splits and not _same_source(run, config, dataset):
        return
    same_splits = same_splits or _same_splits(run, config, dataset)
    theirs, seed = run.config, config.split_seed
    flag = f"--start-from {config.start_from}"
    if "test" in dataset.drawn and not same_splits:
        other_seed = theirs.split_seed != seed
        raise UsageError(
            f"{flag} was trained on {dataset.name} with another test split, and saw test images of "
            "the split that is drawn here: "
            + (f"give --split-seed {theirs.split_seed}" if other_seed else _A_TEST_SPLIT)
        )
    is_drawn = dataset.holdout is None or "holdout" in dataset.drawn
    same_held_out = same_splits and (run.data.holdout, theirs.split_seed) == (held_out, seed)
    if held_out and is_drawn and not same_held_out:
        named = "" if theirs.dataset == config.dataset else f" on {config.dataset}"
        raise UsageError(
            f"{flag} saw images that are held out here to choose settings by: train it{named} with "
            f"--holdout {held_out}" + (f" --split-seed {seed}" if seed else "")
        )


def _same_source(run: Run, config: DataConfig, dataset: Dataset) -> bool:
    """Whether a run was trained on pictures of the same data set, whatever their size and labels.

    A folder of other classes has other pictures. Arrays have no source that could be compared.
    """
    kinds = run.config.kind, config.kind
    if source_of(dataset.name) is None or kinds[0] != kinds[1]:
        return False
    if kinds[0] not in OWN_DATA:  # cifar100, cifar100:coarse
        return True
    shared = {*run.data.classes} & {*dataset.classes}
    return run.config.dataset == config.dataset and (kinds[0] != "folder" or bool(shared))


def _same_splits(run: Run, config: RunConfig | StudyConfig, dataset: Dataset) -> bool:
    """Whether a run's splits of the same data set have the same pictures, in whatever size."""
    theirs, data = run.config, run.data
    if (theirs.dataset, theirs.label_column) != (config.dataset, config.label_column):
        return False
    if (theirs.split_seed, data.test) != (config.split_seed, len(dataset.test)):
        return False
    # Where a part of the images is left out, their number is not known.
    whole = theirs.train_images is None and not config.train_images
    as_many = data.train + data.holdout == dataset.to_train_or_choose
    return data.classes == dataset.classes and (as_many or not whole)
