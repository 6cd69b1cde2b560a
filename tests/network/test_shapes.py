import pytest
import torch

from normlab import notation
from normlab.errors import UsageError
from normlab.network.model import Network
from normlab.network.shapes import infer_shapes
from normlab.network.zoo import ZOO
from normlab.notation import LayoutError


def test_the_shapes_of_all_blocks_are_inferred():
    shapes = [
        p.output
        for p in infer_shapes(
            notation.parse("C:4vs2 P c GAP"), norm="bn", classes=5, shape=(3, 32, 32)
        )
    ]
    assert shapes == [(4, 15, 15), (4, 7, 7), (5, 7, 7), (5, 1, 1)]


@pytest.mark.parametrize(
    ("line", "token", "problem"),
    [
        (
            "C:4 P P P P P C:4v c GAP",
            6,
            "C:4v has no pixels left for a 3×3 filter without padding: with images of 32 × 32, the "
            "maps are 1 × 1 here",
        ),
        ("C:4 C:8+ c GAP", 1, "the input is 4 × 32 × 32, the output 8 × 32 × 32"),
        ("C:4 C:4s2*2 c GAP", 1, "* needs an output of the input's shape"),
        ("C:12", 0, "the classifier must have no normalization"),
        ("C:12 c", 1, "the network ends with a map, 10 × 32 × 32: add GAP"),
        ("C:8 D GAP", 1, "the classifier must have no normalization"),
        ("P GAP", 1, "no classifier"),
        ("C:8 c:9 GAP", 1, "the classifier's width is the number of classes, 10"),
        ("C:8 GAP P FC", 2, "only C, c and FC can follow GAP, not P"),
        ("C:8 GAP C:8/ln FC", 2, "after GAP a convolution is a plain 1×1"),
        ("C:8 FC:8 C", 2, "only FC can follow FC, not C"),
        ("C:8 P P P P P P c GAP", 6, "P has no pixels left to pool: with images of 32 × 32, "),
        ("C:8 P P P P C:8v c GAP", 5, "the maps are 2 × 2 here"),
        ("C:8 C:8/gm c GAP", 1, "did you mean gn?"),
        ("C:8 C:9/gn=2 c GAP", 1, "2 groups do not divide 9 channels"),
        ("C:8 P P P P P C:8/in c GAP", 6, "in over a 1 × 1 map is constant"),
    ],
)
def test_a_block_in_a_wrong_place_is_refused(line, token, problem):
    with pytest.raises(LayoutError) as caught:
        Network(line)
    assert problem in caught.value.problem
    assert caught.value.start == len(" ".join([*line.split()[:token], ""]))


@pytest.mark.parametrize(
    ("line", "size", "block"),
    [
        (
            "C:4 P1 P2 P3 P4 P5 C:4 GAP FC",
            16,
            "P5 has no pixels left to pool: with images of 16 × 16",
        ),
        ("C:4 P1 P2 P3 GAP FC", 7, "P3 has no pixels left to pool: with images of 7 × 7"),
        ("C:4 P P P D1:4v GAP FC", 16, "D1:4v has no pixels left for a 3×3 filter without padding"),
    ],
)
def test_the_block_that_has_no_pixels_left_is_named_with_the_size(line, size, block):
    with pytest.raises(LayoutError) as caught:
        Network(line, shape=(1, size, size))
    assert block in caught.value.problem


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 28, 28), (3, 33, 33), (3, 64, 64)])
def test_every_named_network_takes_every_size(name, shape):
    assert Network(name, shape=shape).eval()(torch.rand(2, *shape)).shape == (2, 10)


def test_an_unknown_normalization_of_the_network_is_not_an_error_of_a_block():
    with pytest.raises(UsageError, match="did you mean gn") as caught:
        Network("C:8 c GAP", norm="gm")
    assert not isinstance(caught.value, LayoutError)
