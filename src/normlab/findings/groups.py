"""The groups of a study: the arms of one setting, which are compared with each other."""

import dataclasses
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

from normlab.errors import RunError
from normlab.findings import contrasts, statistics
from normlab.findings.failures import at_chance
from normlab.findings.statistics import Difference, Estimate
from normlab.study.plan import Arm, Setting, settings
from normlab.study.record import Result, Study


@dataclass(frozen=True)
class Group:
    """The arms that are compared in one setting, with the runs that trained.

    Attributes:
        setting: The setting that they share.
        arms: The arms that trained with at least one seed.
        accuracies: For each of them, by name, the accuracy after the last epoch by seed.
        untrained: The arms that trained with no seed, and failed with some or all.
        failed: For each arm, by name, the seeds with which it failed.
        failures: The same as text, for the arms that failed with some or all seeds.
        guessing: Whether no run of the study is above chance: then chance is no failure.
        differences: The pairs of arms with common seeds; corrected for all contrasts of the study.
    """

    setting: Setting
    arms: tuple[Arm, ...]
    accuracies: dict[str, dict[int, float]]
    untrained: tuple[Arm, ...] = ()
    failed: dict[str, frozenset[int]] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    guessing: bool = False
    differences: tuple[Difference, ...] = ()

    @cached_property
    def ranked(self) -> list[tuple[Arm, Estimate]]:
        """The arms with their means, the best by `score` first."""
        means = [(arm, self.mean(arm)) for arm in self.arms]
        return sorted(means, key=lambda pair: -self.score(pair[0]))

    @cached_property
    def seeds(self) -> int:
        """The number of seeds of the arm that has the most."""
        return max(map(len, self.accuracies.values()))

    @cached_property
    def tried(self) -> int:
        """The number of seeds with which the arm that has the most trained or failed."""
        return max(map(self.ended, self.arms))

    def mean(self, arm: Arm) -> Estimate:
        """The mean accuracy of an arm over the seeds with which it trained."""
        return self._means[arm.name]

    def score(self, arm: Arm) -> float:
        """The mean accuracy of an arm if a failed run counts as 0.

        Arms and settings are ranked by it: the mean over the seeds that are left may rise when a
        run fails, the score cannot.
        """
        return self.mean(arm).value * len(self.accuracies[arm.name]) / self.ended(arm)

    def ended(self, arm: Arm) -> int:
        """The number of seeds with which an arm trained or failed; the others are not finished."""
        return len(self.accuracies[arm.name]) + len(self.failed.get(arm.name, ()))

    def trained(self, study: Study, arm: Arm) -> list[Result]:
        """The runs of an arm that trained."""
        return [r for r in study.of(arm) if r.seed in self.accuracies[arm.name]]

    def difference(self, first: Arm, second: Arm) -> Difference | None:
        """The first arm minus the second; None if they have no common seed."""
        if pair := self._pairs.get((first.name, second.name)):
            return pair
        pair = self._pairs.get((second.name, first.name))
        return pair and pair.swapped

    def better_first(self, one: Arm, other: Arm) -> Difference | None:
        """The difference of two arms, with the better arm over their common seeds first.

        It need not be the arm that is ranked higher, for which all its seeds count.
        """
        pair = self.difference(one, other)
        return pair if pair is None or pair.mean.value >= 0 else self.difference(other, one)

    @cached_property
    def ordered_pairs(self) -> list[Difference]:
        """The pairs with common seeds, by the arms' ranks, each with the better arm first."""
        pairs = combinations([arm for arm, _ in self.ranked], 2)
        return [pair for one, other in pairs if (pair := self.better_first(one, other)) is not None]

    @cached_property
    def _means(self) -> dict[str, Estimate]:
        return {
            name: statistics.mean(list(by_seed.values()))
            for name, by_seed in self.accuracies.items()
        }

    @cached_property
    def _pairs(self) -> dict[tuple[str, str], Difference]:
        return {(pair.first, pair.second): pair for pair in self.differences}


def group_by_setting(study: Study) -> list[Group]:
    """The groups of a study in which a run trained, in the order of their settings.

    Raises:
        RunError: No run is finished, or the folder of one is missing or damaged.
    """
    chance = at_chance(study)
    finished = sum(result.state == "done" for result in study.results)
    guessing = 0 < finished == len(chance)
    if guessing:
        chance = set()
    runs: dict[str, list[Result]] = {}
    for result in study.results:
        runs.setdefault(result.arm, []).append(result)
    groups = [
        group
        for setting, arms in settings(study.arms).items()
        if (group := _group(setting, arms, runs, chance)).arms
    ]
    if not groups:
        raise RunError(f"{study.path} has no finished run yet: repeat the command that made it")
    planned = contrasts.planned_pairs(study)
    compared = statistics.differences(
        *(
            {
                name: [
                    -math.inf if seed in group.failed[name] else by_seed.get(seed, math.nan)
                    for seed in range(study.config.seeds)
                ]
                for name, by_seed in group.accuracies.items()
            }
            for group in groups
        ),
        comparisons=contrasts.comparisons(study),
        tested=study.tested_seeds,
    )
    return [
        dataclasses.replace(
            group,
            guessing=guessing,
            differences=tuple(
                dataclasses.replace(pair, planned=frozenset((pair.first, pair.second)) in planned)
                for pair in pairs
            ),
        )
        for group, pairs in zip(groups, compared, strict=True)
    ]


def _group(
    setting: Setting,
    arms: Sequence[Arm],
    runs: Mapping[str, Sequence[Result]],
    chance: Set[tuple[str, int]],
) -> Group:
    """The arms of a setting, without their differences."""
    accuracies: dict[str, dict[int, float]] = {}
    failed: dict[str, frozenset[int]] = {}
    failures: dict[str, str] = {}
    for arm in arms:
        of_arm = runs[arm.name]
        done = {r.seed: r.accuracies[-1] for r in of_arm if r.state == "done"}
        if trained := {s: a for s, a in done.items() if (arm.name, s) not in chance}:
            accuracies[arm.name] = trained
        failed[arm.name] = frozenset(
            r.seed for r in of_arm if r.state == "failed" or (arm.name, r.seed) in chance
        )
        number = len(failed[arm.name])
        if number == len(of_arm):
            failures[arm.name] = f"{arm.norm} could not be trained"
        elif number:
            failures[arm.name] = f"{arm.norm} failed with {number} of {len(of_arm)} seeds"
    return Group(
        setting,
        tuple(arm for arm in arms if arm.name in accuracies),
        accuracies,
        tuple(arm for arm in arms if failed[arm.name] and arm.name not in accuracies),
        failed,
        failures,
    )


def changes(study: Study, groups: Sequence[Group]) -> list[contrasts.Change]:
    """The planned changes of differences from one setting to another."""
    accuracies = {name: seeds for group in groups for name, seeds in group.accuracies.items()}
    failed = {name for group in groups for name, seeds in group.failed.items() if seeds}
    return contrasts.changes(study, accuracies, failed)


def main_group(groups: Sequence[Group]) -> Group:
    """The group of the arm that is best by `Group.score`: what the page is mostly about."""
    return max(groups, key=lambda group: group.score(group.ranked[0][0]))


def along(groups: Sequence[Group], axis: str) -> list[Group]:
    """The main group and the groups that differ from it only along an axis, in order."""
    main = main_group(groups).setting
    line = [
        group
        for group in groups
        if dataclasses.replace(group.setting, **{axis: getattr(main, axis)}) == main
    ]
    if any(isinstance(getattr(group.setting, axis), str | None) for group in line):
        return line
    return sorted(line, key=lambda group: getattr(group.setting, axis))
