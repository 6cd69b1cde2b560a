"""How sure one can be of a difference, from few repeats: intervals and tests.

A study's arms share their seeds: at a seed, all start from the same convolutions and see the same
batches. So arms are compared by their differences seed by seed, from which much of what the seed
does has gone. Intervals and tests are Student's: they take the differences to be draws from a
normal distribution, independent of one another. Five numbers cannot show whether they are; a
permutation test, which needs no normal distribution, stands beside them from six seeds on: with
fewer its smallest p is above 5%, whatever the data. (Nor does a bootstrap help: from five seeds its
percentile interval leaves out the true mean far more often than it says.)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

LEVEL = 0.95
POWER = 0.8
SIGNINGS = 100_000  # at most, of a permutation test; a multiple of 8


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated, and the 95% interval around it.

    Attributes:
        value: The estimate.
        low: The interval's lower end; -inf where no spread was observed.
        high: The upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """What the seeds say of two arms, `first` minus `second`.

    Attributes:
        first, second: The arms' names.
        differences: float64, seeds: of the seeds that both have, in their order.
        p_holm: `p`, corrected for all the pairs that are compared; to be held against 5%.
    """

    first: str
    second: str
    differences: NDArray[np.float64]
    p_holm: float

    @cached_property
    def mean(self) -> Estimate:
        """Of the differences, with Student's interval."""
        return mean(self.differences)

    @cached_property
    def p(self) -> float:
        """Of the paired t test, two-sided: how often chance alone brings a mean as far from 0."""
        return paired_t(self.differences)

    @cached_property
    def p_permutation(self) -> float | None:
        """Of the sign-flip test; None where it cannot reach 5%."""
        return sign_flip(self.differences)

    @cached_property
    def wins(self) -> Estimate:
        """The probability that `first` is above `second` on a new seed."""
        return probability_above_zero(self.differences)

    @property
    def shown(self) -> bool:
        """Whether the seeds show a difference: at 5%, over all pairs."""
        return self.p_holm < 1 - LEVEL


def mean(values: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """The mean, with Student's 95% interval.

    Raises:
        ValueError: There are no values.
    """
    array = _finite(values)
    center = float(array.mean())
    if np.ptp(array) == 0:  # one value, or equal ones: no spread was seen to judge by
        return Estimate(center, -math.inf, math.inf)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(array) - 1) * stats.sem(array))
    return Estimate(center, center - half, center + half)


def differences(*groups: Mapping[str, Sequence[float]]) -> list[list[Difference]]:
    """All pairs of arms in each group, compared seed by seed and corrected all together.

    Args:
        groups: Arms that are compared with one another, by name: a number for each seed (an
            accuracy), all in the same order of seeds; NaN where there is none. A pair is compared
            over the seeds that both have, and left out where there are none.

    Raises:
        ValueError: Arms of a group differ in their number of seeds, or a value is infinite.
    """
    gaps: list[tuple[int, str, str, NDArray[np.float64]]] = []
    for k, arms in enumerate(groups):
        values = {name: np.asarray(own, dtype=np.float64) for name, own in arms.items()}
        if len({own.shape for own in values.values()}) > 1:
            raise ValueError("the arms must have the same seeds")
        for first, second in combinations(values, 2):
            gap = values[first] - values[second]
            gap = gap[~(np.isnan(values[first]) | np.isnan(values[second]))]
            if len(gap):
                # Rounded, for what differs by the last bit alone does not differ.
                gaps.append((k, first, second, np.round(_finite(gap), 12)))
    compared: list[list[Difference]] = [[] for _ in groups]
    corrected = holm([paired_t(gap) for *_, gap in gaps])
    for (k, first, second, gap), p in zip(gaps, corrected, strict=True):
        compared[k].append(Difference(first, second, gap, p))
    return compared


def paired_t(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """The p of the paired t test, two-sided; NaN where the differences have no spread."""
    array = _finite(differences)
    if np.ptp(array) == 0:
        return math.nan
    return float(stats.ttest_1samp(array, 0.0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected so that any false one among them comes at their level.

    Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of
    Statistics 6. A p that is not known (NaN) stays so, and counts among them.
    """
    corrected, highest = [math.nan] * len(p), 0.0
    known = [k for k in range(len(p)) if not math.isnan(p[k])]
    for rank, k in enumerate(sorted(known, key=lambda k: p[k])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[k]))
        corrected[k] = highest
    return corrected


def sign_flip(differences: Sequence[float] | NDArray[np.float64]) -> float | None:
    """The permutation test of paired differences: p, two-sided; exact up to sixteen seeds.

    Without an effect each difference could as well have the other sign. None where not even the
    clearest outcome, 2 of the 2ⁿ signings, is below 5%: below six differences.
    """
    array = _finite(differences)
    if 2 / 2 ** len(array) > 1 - LEVEL:
        return None
    exact = 2 ** len(array) <= SIGNINGS
    signings = 2 ** len(array) if exact else SIGNINGS
    draws = np.random.default_rng(0)
    sums = np.full(signings, array.sum())
    for place, difference in enumerate(array):  # one by one: all at once would fill the memory
        turned: NDArray[np.integer]
        if exact:
            turned = np.arange(signings) >> place & 1
        else:
            turned = np.unpackbits(np.frombuffer(draws.bytes(signings // 8), np.uint8))
        sums -= 2 * difference * turned
    rounding = 1e-12 * np.abs(array).sum()
    as_far = int((np.abs(sums) >= abs(array.sum()) - rounding).sum())
    # What was seen is a signing too; among all of them it is counted already.
    return as_far / signings if exact else (as_far + 1) / (signings + 1)


def probability_above_zero(differences: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """The probability that a new difference is above 0, with its 95% interval.

    What Bouthillier et al. 2021, Accounting for Variance in Machine Learning Benchmarks,
    arXiv:2103.03098, section 4, ask of two algorithms. For normal differences it is Φ(μ / σ); the
    interval is the exact one for μ / σ, by the noncentral t distribution (Hedges & Olkin 1985,
    Statistical Methods for Meta-Analysis, chapter 5), since a bootstrap of few seeds is too narrow.
    """
    array = _finite(differences)
    if len(array) == 1:
        return Estimate(math.nan, 0.0, 1.0)
    center, spread = float(array.mean()), float(array.std(ddof=1))
    if np.ptp(array) == 0:
        sure = 0.5 if center == 0 else float(center > 0)
        return Estimate(sure, 0.0, 1.0)  # no spread was seen; that says nothing of a new seed
    root = math.sqrt(len(array))
    t, tail = root * center / spread, (1 - LEVEL) / 2
    low, high = (special.nctdtrinc(len(array) - 1, share, t) for share in (1 - tail, tail))
    return Estimate(
        float(stats.norm.cdf(center / spread)),
        float(stats.norm.cdf(low / root)),
        float(stats.norm.cdf(high / root)),
    )


def power(difference: float, spread: float, seeds: int, comparisons: int = 1) -> float:
    """How often a paired t test of so many seeds would see a true difference.

    Args:
        difference: The true mean.
        spread: The standard deviation of the differences, in the same unit.
        seeds: At least 2.
        comparisons: How many pairs are compared: the level is 5% over them (Bonferroni's, which
            Holm's is never below).
    """
    if spread == 0:
        return float(difference != 0)
    degrees = seeds - 1
    limit = float(stats.t.ppf(1 - (1 - LEVEL) / 2 / comparisons, degrees))
    shift = abs(difference) / spread * math.sqrt(seeds)
    unseen = special.nctdtr(degrees, shift, [limit, -limit])
    below, far_below = np.nan_to_num(unseen)  # scipy has NaN where a share is too small for it
    return float(1 - (below - far_below))


def seeds_needed(difference: float, spread: float, comparisons: int = 1) -> int | None:
    """How many seeds it takes to see a true difference four times in five; None above 10,000."""
    low, high = 2, 10_000
    if power(difference, spread, high, comparisons) < POWER:
        return None
    while low < high:
        middle = (low + high) // 2
        if power(difference, spread, middle, comparisons) < POWER:
            low = middle + 1
        else:
            high = middle
    return low


def spread_interval(spread: float, seeds: int) -> tuple[float, float]:
    """The 95% interval of a standard deviation that so many normally distributed numbers gave.

    Fisher 1925, Statistical Methods for Research Workers, section 20 (chi-squared).

    Args:
        spread: The deviation, with one degree of freedom less than there are numbers.
        seeds: How many numbers, at least 2.
    """
    freedom = seeds - 1
    low, high = (spread * (freedom / stats.chi2.ppf(p, freedom)) ** 0.5 for p in (0.975, 0.025))
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Of two single networks on the same images: p, two-sided, that they answer equally well.

    McNemar 1947, Psychometrika 12, as the exact binomial test. It speaks of these two networks, not
    of how they were made: another seed makes other networks.

    Args:
        only_first: Images that the first alone answers rightly.
        only_second: Images that the second alone does.
    """
    differing = only_first + only_second
    return float(stats.binomtest(only_first, differing).pvalue) if differing else 1.0


def _finite(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"expected one finite number or more, got {values}")
    return array
