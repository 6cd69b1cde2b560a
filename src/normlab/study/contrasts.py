"""What a study means to test: the family of contrasts that tests and intervals are corrected for.

The family is fixed by the study's configuration, before any result is known. It includes pairs in
every setting, because the page is about the setting with the highest mean, and that is chosen by
the results: tests of that setting alone would find a difference where there is none twice as often
as they should.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from normlab.config import StudyConfig
from normlab.errors import UsageError
from normlab.study.plan import Arm, Setting, settings, varying
from normlab.wording import listed

DEFAULT = ("pairs", "changes")


@dataclass(frozen=True)
class Contrast:
    """The difference of two normalizations, or how it changes from one setting to another.

    Attributes:
        first, second: The arms in one setting; the difference is first minus second.
        reference: The same normalizations in the setting whose difference is subtracted; None for
            a difference in one setting.
    """

    first: Arm
    second: Arm
    reference: tuple[Arm, Arm] | None = None

    @property
    def key(self) -> frozenset[frozenset[str]]:
        """Equal for contrasts that are the same but for the sign."""
        first, second = self.reference or (None, None)
        plus = frozenset(arm.name for arm in (self.first, second) if arm)
        minus = frozenset(arm.name for arm in (self.second, first) if arm)
        return frozenset((plus, minus))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that it is made from."""
        return (self.first, self.second, *(self.reference or ()))


def family(study: StudyConfig, arms: Sequence[Arm]) -> tuple[Contrast, ...]:
    """The contrasts that a study tests, each once.

    Raises:
        UsageError: A contrast is not one of these arms.
    """
    by_setting = settings(arms)
    contrasts: dict[frozenset[frozenset[str]], Contrast] = {}
    for text in study.contrasts or DEFAULT:
        found = list(expand(text, by_setting))
        if study.contrasts and not found:
            raise UsageError(f"--contrasts: this study has no {text}: leave it out")
        for contrast in found:
            contrasts.setdefault(contrast.key, contrast)
    return tuple(contrasts.values())


def expand(text: str, by_setting: Mapping[Setting, Sequence[Arm]]) -> Iterator[Contrast]:
    """The contrasts that a word or a contrast of `--contrasts` stands for.

    Args:
        text: `pairs`: all pairs of normalizations in each setting. `changes`: along each axis, how
            the difference of the first normalization from each other changes against the first
            value. `bn,gn`: bn minus gn in each setting; `bn,gn@batch2`: in one;
            `bn,gn@batch2,batch32`: the first setting's difference minus the second's.
        by_setting: The arms of each setting, as `settings` returns them.

    Raises:
        UsageError: It is none of these.
    """
    if text == "pairs":
        for arms in by_setting.values():
            yield from (Contrast(*pair) for pair in combinations(arms, 2))
    elif text == "changes":
        yield from _changes(by_setting)
    else:
        yield from _stated(text, by_setting)


def _changes(by_setting: Mapping[Setting, Sequence[Arm]]) -> Iterator[Contrast]:
    origin = next(iter(by_setting))
    for axis in varying(by_setting):
        for setting, (first, *others) in by_setting.items():
            before, *before_others = by_setting[replace(setting, **{axis: getattr(origin, axis)})]
            if before != first:
                for other, before_other in zip(others, before_others, strict=True):
                    yield Contrast(first, other, (before, before_other))


def _stated(text: str, by_setting: Mapping[Setting, Sequence[Arm]]) -> Iterator[Contrast]:
    named, _, places = text.partition("@")
    norms = named.split(",")
    if len(norms) != 2 or norms[0] == norms[1]:
        raise UsageError(
            f"--contrasts must be pairs, changes, or two normalizations, such as bn,gn or "
            f"bn,gn@batch2,batch32, not {text!r}"
        )
    in_setting = {_name(arms[0]): {arm.norm: arm for arm in arms} for arms in by_setting.values()}
    compared = next(iter(in_setting.values()))
    for norm in norms:
        if norm not in compared:
            raise UsageError(
                f"--contrasts: {text!r} has {norm!r}, not one of {listed([*compared])}"
            )
    asked = places.split(",") if places else []
    for place in asked:
        if place not in in_setting:
            known = [name for name in in_setting if name]
            settings_are = f"the settings are {listed(known)}" if known else "there is one setting"
            raise UsageError(f"--contrasts: {text!r} has {place!r}; {settings_are}")
    if len(asked) > 2 or len(set(asked)) < len(asked):
        raise UsageError(f"--contrasts: {text!r} must have two different settings at most")
    first, second = norms
    if len(asked) == 2:
        here, there = (in_setting[place] for place in asked)
        yield Contrast(here[first], here[second], (there[first], there[second]))
    else:
        for place in asked or in_setting:
            yield Contrast(in_setting[place][first], in_setting[place][second])


def _name(arm: Arm) -> str:
    """A setting's name: that of its arms without the normalization, such as `batch2`."""
    return arm.name.removeprefix(arm.norm.replace(":", ".")).removeprefix("-")
