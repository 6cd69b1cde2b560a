"""What a study's page is made from."""

from dataclasses import dataclass
from functools import cached_property

from normlab.findings.contrasts import Change
from normlab.findings.groups import Group, changes, group_by_setting, main_group
from normlab.runs.run import Run
from normlab.study.plan import settings, varying
from normlab.study.predictions import Predictions
from normlab.study.record import Study, answers_of


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
    def axes(self) -> list[str]:
        """The axes along which the study varies."""
        return varying(settings(self.study.arms))

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
            arm.norm: [answers_of(run) for run in self.runs if run.config.norm == arm.norm]
            for arm in self.main.arms
        }
