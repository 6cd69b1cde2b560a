import numpy as np
import pytest

from made_up import evaluation
from normlab.errors import RunError
from normlab.study import predictions


@pytest.mark.slow(5)
def test_a_flipped_bit_is_refused_in_one_line_or_changes_nothing(tmp_path):
    path = tmp_path / "answers.npz"
    original = predictions.of(evaluation([[3, 1], [0, 2]]), peak_memory=12345)
    predictions.write(original, path)
    content = path.read_bytes()
    refused = 0
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            loaded = predictions.read(path, images=6, classes=2)
        except RunError as error:
            assert str(error).startswith(f"{path} ")
            assert str(error).isprintable()
            assert len(str(error)) < len(str(path)) + 200
            refused += 1
        else:
            for name in ("predictions", "confidences", "labels", "peak_memory"):
                np.testing.assert_array_equal(getattr(loaded, name), getattr(original, name), name)
    assert refused > 4 * len(content)


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_file_that_is_not_an_archive_is_refused_with_what_to_do(content, tmp_path):
    (tmp_path / "answers.npz").write_bytes(content)
    with pytest.raises(RunError, match=r"cannot be read: .* normlab compare makes it again"):
        predictions.read(tmp_path / "answers.npz", images=6, classes=2)
    with pytest.raises(RunError, match="No such file"):
        predictions.read(tmp_path / "none.npz", images=6, classes=2)
