import pytest

from normlab import notation
from normlab.errors import UsageError
from normlab.network.model import Network
from normlab.network.shapes import check_trainable, infer_shapes, small_batch_warnings
from normlab.notation import LayoutError


def test_placing_knows_every_shape():
    shapes = [
        p.output for p in infer_shapes(notation.parse("C:4vs2 P c GAP"), norm="bn", classes=5)
    ]
    assert shapes == [(4, 15, 15), (4, 7, 7), (5, 7, 7), (5, 1, 1)]


@pytest.mark.parametrize(
    ("line", "token", "problem"),
    [
        ("C:4 P P P P P C:4v c GAP", 6, "does not fit a map of 1 × 1"),
        ("C:4 C:8+ c GAP", 1, "+ needs an output of its input's shape: 4 × 32 × 32 goes in, 8"),
        ("C:4 C:4s2*2 c GAP", 1, "* needs an output of its input's shape"),
        ("C:12", 0, "the classifier is bare"),
        ("C:12 c", 1, "the network ends with a map, 10 × 32 × 32: add GAP"),
        ("C:8 D GAP", 1, "the classifier is bare"),
        ("P GAP", 1, "no classifier"),
        ("C:8 c:9 GAP", 1, "the classifier's width is the number of classes, 10"),
        ("C:8 GAP P FC", 2, "after GAP come C, c or FC, not P"),
        ("C:8 GAP C:8/ln FC", 2, "after GAP a convolution is 1×1 and bare"),
        ("C:8 FC:8 C", 2, "after FC comes nothing but FC, not C"),
        ("C:8 P P P P P P c GAP", 6, "nothing is left to pool: the map is 1 × 1"),
        ("C:8 P P P P C:8v c GAP", 5, "does not fit a map of 2 × 2"),
        ("C:8 C:8/gm c GAP", 1, "did you mean gn?"),
        ("C:8 C:9/gn=2 c GAP", 1, "2 groups do not divide 9 channels"),
        ("C:8 P P P P P C:8/in c GAP", 6, "in over a 1 × 1 map is constant"),
    ],
)
def test_blocks_that_cannot_stand_where_they_stand(line, token, problem):
    with pytest.raises(LayoutError) as caught:
        Network(line)
    assert problem in caught.value.problem
    assert caught.value.start == len(" ".join([*line.split()[:token], ""]))


def test_an_unknown_normalization_of_the_network_is_no_blocks_fault():
    with pytest.raises(UsageError, match="did you mean gn") as caught:
        Network("C:8 c GAP", norm="gm")
    assert not isinstance(caught.value, LayoutError)


def test_a_single_value_for_a_channel_is_refused_with_its_block():
    blocks = notation.parse("C:4 P P P P P C:4/ln C:4 c GAP")
    check_trainable(blocks, norm="bn", classes=10, batches=(2,))
    check_trainable(blocks, norm="ln", classes=10, batches=(1,))
    with pytest.raises(
        LayoutError, match="bn cannot be trained here, on 4 × 1 × 1 and batches of 1,"
    ) as caught:
        check_trainable(blocks, norm="bn", classes=10, batches=(1,))
    assert caught.value.start == len("C:4 P P P P P C:4/ln ")


def test_of_several_processes_each_takes_statistics_of_its_own_part():
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
