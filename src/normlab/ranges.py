"""Ranges of numbers, stated beside a dataclass's fields: `Annotated[float, Range(at_least=0)]`.

`storage.records` checks them: when a file is read, and before settings are used that it will hold.
"""

import sys
from dataclasses import dataclass
from typing import Annotated

LARGEST = 10**9  # more images, epochs or steps than anyone has


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that a field, or each item of a tuple, may be. NaN and infinity never are."""

    at_least: float = -sys.float_info.max
    above: float | None = None
    at_most: float = sys.float_info.max
    below: float | None = None

    def __contains__(self, number: float) -> bool:
        return (
            self.at_least <= number <= self.at_most
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def __str__(self) -> str:
        """As in an error: `at least 0 and below 1`."""
        bounds = {
            "above": self.above,
            "at least": self.at_least,
            "below": self.below,
            "at most": self.at_most,
        }
        stated = [
            f"{word} {bound:,}"
            for word, bound in bounds.items()
            if bound is not None and abs(bound) < sys.float_info.max
        ]
        return " and ".join(stated) or "finite"


Seed = Annotated[int, Range(at_least=-(2**63), below=2**63)]
Count = Annotated[int, Range(at_least=0, at_most=LARGEST)]
Positive = Annotated[int, Range(at_least=1, at_most=LARGEST)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
Seconds = Annotated[float, Range(at_least=0, at_most=LARGEST)]
