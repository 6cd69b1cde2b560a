import numpy as np
import pytest

from normlab.findings.calibration import expected_calibration_error


def test_the_calibration_error_is_guos():
    random = np.random.default_rng(0)
    confidences = random.uniform(0, 1, 5000).astype(np.float32)
    confidences[:3] = (0.0, 1.0, 1 / 15)
    correct = random.uniform(0, 1, 5000) < confidences**2
    error = 0.0
    for k in range(15):
        inside = (confidences > k / 15) & (confidences <= (k + 1) / 15)
        inside |= (confidences == 0) & (k == 0)
        if inside.any():
            gap = abs(correct[inside].mean() - confidences[inside].mean())
            error += inside.mean() * gap
    measured = expected_calibration_error(confidences, correct)
    assert measured == pytest.approx(error, abs=2e-4)
    assert expected_calibration_error(np.full(9, 1.0), np.full(9, True)) == 0
