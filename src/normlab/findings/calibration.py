"""Calibration: whether networks are as confident as they are accurate."""

import numpy as np
from numpy.typing import NDArray

BINS = 15  # of confidence, as in Guo et al. 2017


def calibration_bins(
    confidences: NDArray[np.float32], correct: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, accuracy and number of predictions of each bin that is not empty.

    Args:
        confidences: float32, N: the probability of the predicted class, 0 to 1.
        correct: bool, N: which predictions are correct.
    """
    bins = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    full = counts > 0
    sums = np.bincount(bins, weights=confidences, minlength=BINS)[full]
    hits = np.bincount(bins, weights=correct, minlength=BINS)[full]
    return sums / counts[full], hits / counts[full], counts[full]


def expected_calibration_error(
    confidences: NDArray[np.float32], correct: NDArray[np.bool_]
) -> float:
    """The mean distance between confidence and accuracy over the bins, from 0 to 1.

    Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
    Arguments: see `calibration_bins`.
    """
    centers, shares, counts = calibration_bins(confidences, correct)
    return float(np.abs(centers - shares) @ counts / counts.sum())
