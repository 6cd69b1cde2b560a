"""Stratified, seeded splits: the same on every machine and with every version of NumPy."""

import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError

HOLD_OUT, SUBSET, _NOISE, _NOISY_CLASS = range(4)  # purposes; test splits draw as hold-outs


def stratified(
    labels: NDArray[np.int64], count: int, seed: int, purpose: int = HOLD_OUT
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws `count` indices, stratified by class.

    The classes' shares are whole numbers that add up to `count`: each class gets its proportional
    share rounded down, and the remaining indices go to the largest remainders (lower class first).

    Args:
        labels: int64, N.
        count: Number of indices to draw.
        seed: 0 or more.
        purpose: With one seed, draws for different purposes are independent.

    Returns:
        The drawn indices and all others: int64, `count` and N - `count`, both ascending.

    Raises:
        DataError: A class would have no image on one of the two sides.
        ValueError: The seed is negative.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    shares = _shares(sizes, count)
    for label, size, share in zip(classes, sizes, shares, strict=True):
        if not 0 < share < size:
            raise DataError(
                f"{count} of {len(labels)} images cannot be set apart: {share} of the {size} "
                f"images of class {label} would go, and each side needs at least one"
            )
    return _draw(labels, shares, seed, purpose)


def a_fifth(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws a stratified fifth for testing: from a small class at least one, and not all.

    The shares of the classes are otherwise those of `stratified`. Returns what that returns.

    Raises:
        DataError: A class has a single image.
    """
    classes, sizes = np.unique(labels, return_counts=True)
    if sizes.min() < 2:
        raise DataError(f"class {classes[sizes.argmin()]} has one image: two or more are needed")
    count = max(round(len(labels) / 5), len(classes))
    shares = _shares(sizes, count).clip(1, sizes - 1)
    return _draw(labels, shares, seed, HOLD_OUT)


def _shares(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The classes' shares of `count`, by the largest remainders."""
    total = sizes.sum()
    if not 0 < count < total:
        raise DataError(
            f"{count} of {total} images cannot be set apart: each side needs at least one"
        )
    shares, remainders = np.divmod(count * sizes, total)
    shares[np.argsort(-remainders, kind="stable")[: count - shares.sum()]] += 1
    return shares


def _draw(
    labels: NDArray[np.int64], shares: NDArray[np.int64], seed: int, purpose: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Taking the k images of a class with the smallest random keys draws k at random. The keys are
    # PCG64's raw integers: NumPy guarantees their stream, but not that of Generator's methods.
    keys = _keys(len(labels), seed, purpose)
    chosen = np.zeros(len(labels), dtype=bool)
    for label, share in zip(np.unique(labels), shares, strict=True):
        places = np.flatnonzero(labels == label)
        chosen[places[np.argsort(keys[places], kind="stable")[:share]]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def relabeled(
    labels: NDArray[np.int64], share: float, classes: int, seed: int
) -> NDArray[np.int64]:
    """Replaces a stratified random share of the labels by another class.

    The other class is uniform: symmetric label noise, as in Zhang et al. 2017, Understanding Deep
    Learning Requires Rethinking Generalization, arXiv:1611.03530, section 2.2, except that no
    drawn label keeps its class.

    Raises:
        DataError: It is no share between 0 and 1, or a class would have no image with a correct
            label, or none with a wrong one.
    """
    if not 0 < share < 1:
        raise DataError(f"a share of wrong labels is above 0 and below 1, not {share}")
    drawn, _ = stratified(labels, round(share * len(labels)), seed, purpose=_NOISE)
    steps = 1 + _keys(len(labels), seed, _NOISY_CLASS)[drawn] % np.uint64(classes - 1)
    noisy = labels.copy()
    noisy[drawn] = (labels[drawn] + steps.astype(np.int64)) % classes
    return noisy


def _keys(count: int, seed: int, purpose: int) -> NDArray[np.uint64]:
    keys: NDArray[np.uint64] = np.random.PCG64((seed, purpose) if purpose else seed).random_raw(
        count
    )
    return keys
