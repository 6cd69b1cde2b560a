import pytest

from normlab import notation
from normlab.network.checks import check_trainable, small_batch_warnings
from normlab.notation import LayoutError


def test_a_single_value_per_channel_is_refused_with_a_caret_under_the_block():
    blocks = notation.parse("C:4 P P P P P C:4/ln C:4 c GAP")
    check_trainable(blocks, norm="bn", classes=10, batches=(2,), shape=(3, 32, 32))
    check_trainable(blocks, norm="ln", classes=10, batches=(1,), shape=(3, 32, 32))
    message = "bn cannot be trained on 4 × 1 × 1 and a batch of 1,"
    with pytest.raises(LayoutError, match=message) as caught:
        check_trainable(blocks, norm="bn", classes=10, batches=(1,), shape=(3, 32, 32))
    assert caught.value.start == len("C:4 P P P P P C:4/ln ")


def test_each_process_takes_the_statistics_of_its_own_part():
    used = [("bn", 12), ("sync-bn", 12), ("ghost-bn=4", 64), ("gn", 2)]
    assert [warning.partition(" will")[0] for warning in small_batch_warnings(used)] == [
        "virtual batches of 4: ghost-bn=4"
    ]
    assert [
        warning.partition(" will")[0] for warning in small_batch_warnings(used, processes=2)
    ] == [
        "batches of 6 for each process: bn",
        "virtual batches of 4: ghost-bn=4",
    ]
    (warning,) = small_batch_warnings([("ghost-bn=4", 6), ("sync-bn", 16)], processes=2)
    assert warning.startswith("batches of 3 for each process: ghost-bn=4 will take")
