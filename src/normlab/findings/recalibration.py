"""What it brought to measure running statistics anew."""

from normlab.findings import statistics
from normlab.findings.groups import Group
from normlab.findings.statistics import Estimate
from normlab.study.plan import Arm
from normlab.study.record import Study


def without_recalibration(study: Study, group: Group, arm: Arm) -> Estimate | None:
    """The mean accuracy of an arm before its running statistics were measured anew.

    It is over the runs that trained. None if a run does not record it.
    """
    measured = [result.without_recalibration for result in group.trained(study, arm)]
    known = [accuracy for accuracy in measured if accuracy is not None]
    return statistics.mean(known) if known and len(known) == len(measured) else None
