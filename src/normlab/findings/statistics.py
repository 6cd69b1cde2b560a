"""Intervals and tests for differences measured with few seeds.

The arms of a study share their seeds: with the same seed, all start from the same convolutions and
see the same batches. Arms are therefore compared by their paired differences, seed by seed, which
removes much of the variation between seeds. Intervals and tests are Student's: they assume that the
differences are independent draws from a normal distribution. Five numbers cannot show whether they
are. A permutation test, which needs no normal distribution, is reported beside them from six seeds
on; with fewer seeds its smallest p-value is above 5%, whatever the data. (A bootstrap does not help
either: with five seeds its percentile interval misses the true mean far more often than its level
says.)

A run that failed is not a run that never was: that one arm lost a seed says something about the
arm, and the seeds it kept are no random sample. Between arms that failed with different seeds no
test is given, and in the probability of winning a failed run counts as a loss.

Where several differences are tested, tests and intervals are corrected together (Bonferroni): a
difference is shown exactly if its interval leaves 0 out, and all intervals of the family hold at
once with 95%. Dunn 1961, Multiple Comparisons Among Means, Journal of the American Statistical
Association 56. Holm's test finds a little more, but has no intervals that agree with it and still
say how large a difference is (Strassburger & Bretz 2008, Statistics in Medicine 27).

A test that compares two arms is a column of the study page's table of pairs: see `PAIR_TESTS`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import combinations

import numpy as np
import scipy  # scipy.stats is loaded where it is used: that takes a second, and its tests are slow
from numpy.typing import NDArray

LEVEL = 0.95
POWER = 0.8
CHANCE = 0.01  # how often a network that guesses is taken for one that was trained
NEAR_CHANCE = 1.2  # × 1/classes: above it an accuracy is not that of chance, however few the images
SIGN_FLIPS = 100_000  # at most, in a permutation test: all of them up to 16 differences


@dataclass(frozen=True)
class Estimate:
    """An estimated number with its 95% confidence interval.

    Attributes:
        value: The estimate.
        low: The lower end of the interval; -inf if the values have no spread.
        high: The upper end; inf if the values have no spread.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """The paired differences between two arms, `first` minus `second`.

    Attributes:
        first, second: The names of the arms.
        differences: float64, one value for each tested seed that both arms have, in order.
        comparisons: The number of comparisons that test and intervals are corrected for.
        planned: Whether the study meant to test it. What it did not is never shown.
        added: The same for the seeds that were added later, which are not tested.
        only_first, only_second, neither: With how many other seeds only the first arm trained, only
            the second, or none of them; added seeds count.
    """

    first: str
    second: str
    differences: NDArray[np.float64]
    comparisons: int = 1
    planned: bool = True
    added: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    only_first: int = 0
    only_second: int = 0
    neither: int = 0

    @property
    def swapped(self) -> "Difference":
        """The second arm minus the first."""
        return replace(
            self,
            first=self.second,
            second=self.first,
            differences=-self.differences,
            added=-self.added,
            only_first=self.only_second,
            only_second=self.only_first,
        )

    @property
    def same_failures(self) -> bool:
        """Whether both arms failed with the same seeds, or with none."""
        return not (self.only_first or self.only_second)

    @property
    def failed(self) -> int:
        """With how many seeds an arm failed, or both."""
        return self.only_first + self.only_second + self.neither

    @cached_property
    def mean(self) -> Estimate:
        """The mean difference, with Student's interval, simultaneous for all comparisons."""
        return mean(self.differences, self.comparisons)

    @cached_property
    def p(self) -> float:
        """The two-sided p-value of the paired t test; NaN if the arms' failures differ."""
        return paired_t(self.differences) if self.same_failures else math.nan

    @property
    def p_corrected(self) -> float:
        """`p`, corrected for all comparisons (Bonferroni); a difference is shown below 5%."""
        return self.p if math.isnan(self.p) else min(1.0, self.comparisons * self.p)

    @cached_property
    def p_permutation(self) -> float | None:
        """The two-sided p-value of the sign-flip test; None if it cannot reach 5%, else as `p`."""
        p = sign_flip(self.differences)
        return p if p is None or self.same_failures else math.nan

    @cached_property
    def wins(self) -> Estimate:
        """The probability that `first` is above `second` with a new seed.

        If a run failed, wins are counted, with all seeds: a normal distribution does not describe
        failures.
        """
        if not self.failed:
            return probability_above_zero(self.differences, self.comparisons)
        trained = np.concatenate((self.differences, self.added))
        won = int((trained > 0).sum()) + self.only_first
        return share_of_wins(won, len(trained) + self.failed, self.comparisons)

    @property
    def shown(self) -> bool:
        """Whether the seeds show a difference at the 5% level over all comparisons."""
        return self.planned and self.p_corrected < 1 - LEVEL

    def equivalent(self, margin: float) -> bool:
        """Whether the seeds show that the true difference is within ±`margin`.

        The two one-sided tests have 2.5% each, over all comparisons: they show it exactly if the
        interval of the mean lies within ±`margin`.
        """
        p = self.comparisons * equivalence(self.differences, margin)
        return self.planned and self.same_failures and p < (1 - LEVEL) / 2


@dataclass(frozen=True)
class PairTest:
    """A statistical test of two arms.

    Attributes:
        label: The heading of its column.
        p: The p-value; None if the test does not apply, NaN if it is not known.
        corrected: Whether the p-value is corrected for the number of comparisons.
    """

    label: str
    p: Callable[[Difference], float | None]
    corrected: bool = False


PAIR_TESTS = (
    PairTest("p", lambda difference: difference.p),
    PairTest("p (Bonferroni)", lambda difference: difference.p_corrected, corrected=True),
    PairTest("p (permutation)", lambda difference: difference.p_permutation),
)


def mean(values: Sequence[float] | NDArray[np.float64], comparisons: int = 1) -> Estimate:
    """The mean with Student's 95% interval.

    Args:
        values: One value or more.
        comparisons: The number of means whose intervals shall hold at once with 95%.

    Raises:
        ValueError: There are no values.
    """
    array = _finite(values)
    center = float(array.mean())
    if np.ptp(array) == 0:  # one value, or equal values: the spread is not known
        return Estimate(center, -math.inf, math.inf)
    quantile = -scipy.special.stdtrit(len(array) - 1, (1 - LEVEL) / 2 / comparisons)
    half = float(quantile * _standard_error(array))
    return Estimate(center, center - half, center + half)


def differences(
    *groups: Mapping[str, Sequence[float]],
    comparisons: int | None = None,
    tested: int | None = None,
) -> list[list[Difference]]:
    """Compares all pairs of arms in each group, seed by seed, and corrects all together.

    Args:
        groups: The arms of each group by name, each with one value (an accuracy) per seed. All arms
            have the same order of seeds; NaN means that a seed has no value yet, −inf that its run
            failed. A pair is compared over the seeds that both arms have; a pair without a common
            tested seed is left out.
        comparisons: The number of comparisons to correct for; None: the number of pairs.
        tested: The number of seeds that are tested, the first ones; None: all.

    Returns:
        For each group its pairs.

    Raises:
        ValueError: The arms of a group differ in their number of seeds, or a value is +inf.
    """
    pairs: list[tuple[int, Difference]] = []
    for k, arms in enumerate(groups):
        by_name = {name: np.asarray(values, dtype=np.float64) for name, values in arms.items()}
        if len({values.shape for values in by_name.values()}) > 1:
            raise ValueError("the arms must have the same seeds")
        for first, second in combinations(by_name, 2):
            pair = _pair(first, by_name[first], second, by_name[second], tested)
            if len(pair.differences):
                pairs.append((k, pair))
    compared: list[list[Difference]] = [[] for _ in groups]
    for k, pair in pairs:
        compared[k].append(replace(pair, comparisons=comparisons or len(pairs)))
    return compared


def _pair(
    first: str,
    a: NDArray[np.float64],
    second: str,
    b: NDArray[np.float64],
    tested: int | None,
) -> Difference:
    """Two arms, seed by seed, not corrected for other comparisons yet."""
    ended = ~(np.isnan(a) | np.isnan(b))
    failed_a, failed_b = ended & np.isneginf(a), ended & np.isneginf(b)
    both = ended & ~failed_a & ~failed_b
    is_tested = np.arange(len(a)) < (len(a) if tested is None else tested)
    return Difference(
        first,
        second,
        _subtracted(a, b, both & is_tested),
        added=_subtracted(a, b, both & ~is_tested),
        only_first=int((ended & ~failed_a & failed_b).sum()),
        only_second=int((ended & failed_a & ~failed_b).sum()),
        neither=int((failed_a & failed_b).sum()),
    )


def _subtracted(
    a: NDArray[np.float64], b: NDArray[np.float64], where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """The differences of some seeds. Rounded: values that differ in the last bit are equal."""
    found = a[where] - b[where]
    return np.round(_finite(found), 12) if len(found) else found


def paired_t(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """The two-sided p-value of the paired t test; NaN if the differences have no spread."""
    array = _finite(differences)
    if np.ptp(array) == 0:
        return math.nan
    t = array.mean() / _standard_error(array)
    return float(2 * scipy.special.stdtr(len(array) - 1, -abs(t)))


def equivalence(differences: Sequence[float] | NDArray[np.float64], margin: float) -> float:
    """The p-value that the true mean difference is not within ±`margin`; NaN without a spread.

    The larger p-value of two one-sided t tests: Schuirmann 1987, Journal of Pharmacokinetics and
    Biopharmaceutics 15.

    Args:
        differences: One value for each seed.
        margin: Above 0, in the unit of the differences.
    """
    array = _finite(differences)
    if np.ptp(array) == 0:
        return math.nan
    t = (abs(array.mean()) - margin) / _standard_error(array)  # of the test with the larger one
    return float(scipy.special.stdtr(len(array) - 1, t))


def sign_flip(differences: Sequence[float] | NDArray[np.float64]) -> float | None:
    """The two-sided p-value of the sign-flip permutation test of paired differences.

    Without an effect, each difference is as likely with the opposite sign. The test is exact up to
    16 differences; beyond, it draws `SIGN_FLIPS` sign patterns, always the same ones.

    Returns:
        The p-value; None below six differences, where even the clearest outcome, 2 of the 2ⁿ sign
        patterns, is not below 5%.
    """
    array = _finite(differences)
    if 2 / 2 ** len(array) > 1 - LEVEL:
        return None
    test = scipy.stats.permutation_test(
        (array,),
        # Rounded: sums that are equal but for rounding are ties, sums around 0 too.
        lambda flipped, axis: np.abs(flipped.sum(axis=axis)).round(12),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=SIGN_FLIPS,
        batch=10_000,  # bounds the memory
        rng=0,
    )
    return float(test.pvalue)


def probability_above_zero(
    differences: Sequence[float] | NDArray[np.float64], comparisons: int = 1
) -> Estimate:
    """The probability that a new difference is above 0, with its 95% interval.

    Bouthillier et al. 2021, Accounting for Variance in Machine Learning Benchmarks,
    arXiv:2103.03098, section 4, recommend it for comparing two algorithms. For normally distributed
    differences it is Φ(μ / σ). The interval is the exact one for μ / σ, by the noncentral t
    distribution (Hedges & Olkin 1985, Statistical Methods for Meta-Analysis, chapter 5), because a
    bootstrap of few seeds is too narrow. It leaves 50% out exactly if the mean's leaves 0 out.

    Args:
        differences: One value for each seed.
        comparisons: The number of intervals that shall hold at once with 95%.
    """
    array = _finite(differences)
    if len(array) == 1:
        return Estimate(math.nan, 0.0, 1.0)
    center, spread = float(array.mean()), float(array.std(ddof=1))
    if np.ptp(array) == 0:
        value = 0.5 if center == 0 else float(center > 0)
        return Estimate(value, 0.0, 1.0)  # no spread was seen: a new seed may give anything
    root = math.sqrt(len(array))
    tail = (1 - LEVEL) / 2 / comparisons
    ends = [
        _noncentrality(abs(root * center / spread), len(array) - 1, share)
        for share in (1 - tail, tail)
    ]
    low, high = ends if center >= 0 else (-ends[1], -ends[0])
    return Estimate(
        float(scipy.special.ndtr(center / spread)),
        float(scipy.special.ndtr(low / root)),
        float(scipy.special.ndtr(high / root)),
    )


def _noncentrality(t: float, degrees: int, share: float) -> float:
    """The noncentrality with which a noncentral t value is at most `t`, from 0, with a probability.

    By integration: scipy's own inverse is wrong where the probability is near 0 or 1, as it is
    where many comparisons are corrected for.
    """
    farthest = math.sqrt(scipy.special.chdtri(degrees, 1e-16) / degrees)
    return float(
        scipy.optimize.brentq(
            lambda shift: _at_most(t, degrees, shift) - share, -10.0, 10.0 + t * farthest
        )
    )


def _at_most(t: float, degrees: int, shift: float) -> float:
    """The probability that (Z + shift) / S is at most `t`, for a normal Z and S = χ / √degrees.

    The integral is over Z where S decides, and over S elsewhere: there its step is not steep.
    """
    if t > 10:
        z, weights = _normal()
        above = scipy.special.chdtrc(degrees, degrees * np.maximum((z + shift) / t, 0) ** 2)
        return float(weights @ above)
    s, weights = _chi(degrees)
    return float(weights @ scipy.special.ndtr(t * s - shift))


@cache
def _normal() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of a normal variable, and their weights in an integral."""
    z, weights = _gauss_legendre(-9.0, 9.0)
    return z, weights * scipy.stats.norm.pdf(z)


@cache
def _chi(degrees: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of χ / √degrees, and their weights in an integral."""
    s, weights = _gauss_legendre(
        *np.sqrt(scipy.special.chdtri(degrees, [1 - 1e-15, 1e-16]) / degrees)
    )
    return s, weights * 2 * degrees * s * scipy.stats.chi2.pdf(degrees * s**2, degrees)


def _gauss_legendre(low: float, high: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes between two limits, and their weights."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    return (low + high) / 2 + (high - low) / 2 * nodes, (high - low) / 2 * weights


def share_of_wins(won: int, seeds: int, comparisons: int = 1) -> Estimate:
    """The probability of winning with a new seed, from the number of seeds that won.

    The interval is the exact one of Clopper & Pearson 1934, Biometrika 26. It assumes nothing but
    that the seeds are independent.

    Args:
        won: The number of seeds that won.
        seeds: The number of seeds.
        comparisons: The number of intervals that shall hold at once with 95%.
    """
    level = 1 - (1 - LEVEL) / comparisons
    interval = scipy.stats.binomtest(won, seeds).proportion_ci(level, method="exact")
    return Estimate(won / seeds, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Choice:
    """The choice of the value with the highest mean among several that were tried with seeds.

    Attributes:
        spread: The standard deviation between seeds at one value, pooled over the best two.
        loss: The upper 95% limit of how far the true mean of the chosen value is below that of the
            second-best; 0 if the second-best is not within the noise.
    """

    spread: float
    loss: float


def choice(values: Sequence[Sequence[float]]) -> Choice | None:
    """How much the choice of the first of several values, the one of highest mean, owes to luck.

    The limit is that of multiple comparisons with the best (Hsu 1984, Constrained Simultaneous
    Confidence Intervals for Multiple Comparisons with the Best, Annals of Statistics 12, 1136-1144)
    for the second-best value: mean_second - mean_chosen + t s sqrt(1/n_second + 1/n_chosen), and at
    least 0. It holds for the value that was chosen by the same data, because t is Bonferroni's for
    all values that might have been chosen. The spread s is that of the two alone: values that fail
    or end at chance vary by other amounts. It assumes independent normal draws; values that are
    tried with the same seeds vary together, which makes the limit larger than it had to be.

    Args:
        values: For each value the measurements with its seeds; the highest mean first.

    Returns:
        None with one value, with one seed each, or if the seeds show no spread.
    """
    if len(values) < 2:
        return None
    chosen, second = (np.asarray(value, dtype=np.float64) for value in values[:2])
    freedom = len(chosen) + len(second) - 2
    if not freedom:
        return None
    squares = sum(((group - group.mean()) ** 2).sum() for group in (chosen, second))
    spread = math.sqrt(squares / freedom)
    if spread <= 1e-12:
        return None
    t = -scipy.special.stdtrit(freedom, (1 - LEVEL) / (len(values) - 1))
    noise = t * spread * math.sqrt(1 / len(chosen) + 1 / len(second))
    return Choice(spread, max(0.0, float(second.mean() - chosen.mean() + noise)))


def power(difference: float, spread: float, seeds: int, comparisons: int = 1) -> float:
    """The power of a paired t test: the probability that it detects a true difference.

    Args:
        difference: The true mean difference.
        spread: The standard deviation of the differences, in the same unit.
        seeds: The number of seeds, at least 2.
        comparisons: The number of comparisons. The level is 5% over all of them (Bonferroni).
    """
    if spread == 0:
        return float(difference != 0)
    degrees = seeds - 1
    limit = -float(scipy.special.stdtrit(degrees, (1 - LEVEL) / 2 / comparisons))
    shift = abs(difference) / spread * math.sqrt(seeds)
    unseen = scipy.special.nctdtr(degrees, shift, [limit, -limit])
    below, far_below = np.nan_to_num(unseen)  # scipy returns NaN where a share is too small
    return float(1 - (below - far_below))


def seeds_needed(difference: float, spread: float, comparisons: int = 1) -> int | None:
    """The number of seeds that gives a power of 80% (see `power`); None above 10,000 seeds."""
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
    """The 95% interval of a standard deviation, for normally distributed values.

    Fisher 1925, Statistical Methods for Research Workers, section 20 (chi-squared).

    Args:
        spread: The sample standard deviation, with `seeds` − 1 degrees of freedom.
        seeds: The number of values, at least 2.
    """
    degrees = seeds - 1
    low, high = (
        spread * (degrees / scipy.stats.chi2.ppf(p, degrees)) ** 0.5 for p in (0.975, 0.025)
    )
    return float(low), float(high)


def proportion_interval(correct: int, images: int) -> tuple[float, float]:
    """The 95% interval of a share of images: Wilson's score interval (1927, JASA 22)."""
    z = scipy.special.ndtri((1 + LEVEL) / 2)
    scale = 1 + z**2 / images
    center = (correct / images + z**2 / (2 * images)) / scale
    variance = correct * (images - correct) / images**2
    half = z * math.sqrt(variance / images + z**2 / (4 * images**2)) / scale
    return max(0.0, float(center - half)), min(1.0, float(center + half))


def above_chance(correct: int, images: int, classes: int) -> bool:
    """Whether a network classifies more images correctly than one that guesses.

    The exact one-sided binomial test of a share of 1/classes, at the level `CHANCE`. With few
    images it shows little: more than `NEAR_CHANCE` times 1/classes is not chance either.
    """
    p = scipy.special.bdtrc(correct - 1, images, 1 / classes) if correct else 1.0
    return bool(p < CHANCE) or correct * classes > NEAR_CHANCE * images


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value that two networks are equally accurate on the same images.

    McNemar 1947, Psychometrika 12, as the exact binomial test. It compares these two networks, not
    the ways they were trained: another seed makes other networks.

    Args:
        only_first: The number of images that only the first network classifies correctly.
        only_second: The number of images that only the second network classifies correctly.
    """
    differing = only_first + only_second
    return float(scipy.stats.binomtest(only_first, differing).pvalue) if differing else 1.0


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))


def _finite(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"expected one finite number or more, got {values}")
    return array
