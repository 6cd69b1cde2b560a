"""What a study's page is made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from normlab.findings.contrasts import Change
from normlab.findings.groups import Group, changes, group_by_setting, main_group
from normlab.runs.run import Run
from normlab.study.plan import Arm
from normlab.study.predictions import Predictions
from normlab.study.record import Study, predictions_of

MAX_LINES = 14  # more lines and their legend cannot be read


@dataclass(frozen=True)
class StudyData:
    """A study with its groups and the files of its runs, each read when it is first used.

    Every property raises RunError if no run is finished, or if a file of a run is missing or
    damaged.
    """

    study: Study

    @cached_property
    def groups(self) -> list[Group]:
        """The groups in which a run trained."""
        return group_by_setting(self.study)

    @cached_property
    def main(self) -> Group:
        """The group that the page is mostly about."""
        return main_group(self.groups)

    @cached_property
    def changes(self) -> list[Change]:
        """The planned changes of differences that more than one seed measures."""
        return [c for c in changes(self.study, self.groups) if len(c.change.differences) > 1]

    @cached_property
    def runs(self) -> list[Run]:
        """The runs of the main group that trained."""
        return [
            self.study.run(result)
            for arm in self.main.arms
            for result in self.main.trained(self.study, arm)
        ]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.runs[0].data.classes

    @cached_property
    def predictions(self) -> dict[str, list[Predictions]]:
        """For each normalization of the main group the predictions of its runs."""
        return {
            arm.norm: [predictions_of(run) for run in self.runs if run.config.norm == arm.norm]
            for arm in self.main.arms
        }


def drawn(main: Group, arms: Sequence[Arm]) -> list[Arm]:
    """The arms that a figure has lines for: those of the main group's best normalizations."""
    if len(main.arms) <= MAX_LINES:
        return [*arms]
    best = {arm.norm for arm, _ in main.ranked[:MAX_LINES]}
    return [arm for arm in arms if arm.norm in best]


def left_out(main: Group) -> str:
    """A sentence for the caption if a figure does not have all arms."""
    if len(main.arms) <= MAX_LINES:
        return ""
    return f" The {MAX_LINES} best of {len(main.arms)} normalizations are drawn."
