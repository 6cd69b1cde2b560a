"""Which runs of a study count as failed: those that broke off, and those that ended at chance.

A run that ended at chance has finished, but its network classifies no more images correctly than
one that guesses. It failed like a run that diverged, whose loss it happened to keep finite.
"""

from normlab.findings import statistics
from normlab.study.record import Result, Study


def at_chance(study: Study) -> set[tuple[str, int]]:
    """The arms and seeds of the finished runs that ended at chance.

    See `statistics.above_chance`. Where classes are not equally frequent, a network that always
    predicts the most frequent one is above 1/classes, and is not found.

    Raises:
        RunError: The folder of a finished run, which has the classes, is missing or damaged.
    """
    done = [result for result in study.results if result.state == "done"]
    if not done:
        return set()
    classes = len(study.run(done[0]).data.classes)
    return {(r.arm, r.seed) for r in done if not _is_above_chance(r, study.images, classes)}


def _is_above_chance(result: Result, images: int, classes: int) -> bool:
    correct = round(result.accuracies[-1] * images)
    return statistics.above_chance(correct, images, classes)
