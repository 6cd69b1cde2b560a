from dataclasses import replace

import pytest
import torch
import torchinfo
from hypothesis import given
from hypothesis import strategies as st

from normlab import notation
from normlab.config import Limits
from normlab.errors import UsageError
from normlab.layers.activations import ACTIVATIONS
from normlab.network.model import Network
from normlab.network.summary import summarize
from normlab.network.zoo import ZOO
from normlab.notation import LayoutError


@pytest.mark.parametrize(
    ("name", "parameters"), [("seed-bn", 48_020), ("seed-gn", 48_020), ("seed-ln", 42_140)]
)
def test_the_published_networks_have_the_published_parameters(name, parameters):
    summary = summarize(ZOO[name].layout)
    network = Network(ZOO[name].layout)
    assert summary.parameters == parameters
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("norm", ["bn", "gn", "ln", "ln-full"])
def test_the_layer_table_agrees_with_torchinfo(name, norm):
    summary = summarize(ZOO[name].layout, norm=norm)
    network = Network(ZOO[name].layout, norm=norm)
    counted = torchinfo.summary(network, (1, 3, 32, 32), verbose=0, col_names=("mult_adds",))
    assert counted.total_params == summary.parameters
    # torchinfo counts biases and a normalization's weights as multiply-adds; normlab does not.
    convolutions = sum(
        layer.macs - (0 if layer.module.bias is None else layer.module.bias.numel())
        for layer in counted.summary_list
        if isinstance(layer.module, torch.nn.Conv2d | torch.nn.Linear)
    )
    assert convolutions == summary.macs


def _allowed(block):
    return replace(block, between=block.between and block.kind == "D")


BLOCKS = st.builds(
    notation.Block,
    kind=st.sampled_from(["C", "c", "D", "P", "A"]),
    width=st.integers(1, 9),
    valid=st.booleans(),
    stride=st.sampled_from([1, 1, 2]),
    between=st.booleans(),
    norm=st.none()
    | st.sampled_from(
        [
            "ln",
            "gn",
            "none",
            "frn",
            "evonorm-s0",
            "gn-ws",
            "sws",
            "dyt",
            "ebn",
            "evonorm-b0",
            "proxy-gn",
        ]
    ),
    residual=st.booleans(),
    repeat=st.integers(1, 2),
).map(lambda block: notation.Block(block.kind) if block.kind in "PA" else _allowed(block))


@given(
    st.lists(BLOCKS, max_size=6),
    st.sampled_from(["GAP FC", "GAP C C", "c GAP", "FC"]),
    st.sampled_from([1, 3]),
    st.sampled_from([32, 32, 28, 16, 17, 45, 64]),
)
def test_shapes_and_counts_of_the_table_are_those_of_the_modules(blocks, end, channels, size):
    shape = (channels, size, size)
    blocks = [*blocks, *notation.parse(end)]
    blocks = [b if b.kind != "c" else notation.Block("c", width=b.width) for b in blocks]
    blocks[-1 if end != "c GAP" else -2] = notation.Block(end.split()[-1 if end != "c GAP" else 0])
    blocks = [b if b.kind != "C" or b.width else notation.Block("C", width=3) for b in blocks]
    line = notation.format(blocks)
    try:
        summary = summarize(line, classes=4, budget=None, shape=shape)
    except LayoutError as error:
        assert "^" in str(error)
        if "no pixels left" in str(error):
            assert f"with images of {size} × {size}, the maps are" in str(error)
        return
    network = Network(line, classes=4, shape=shape).eval()
    assert network.shape == shape
    x = torch.rand(2, *shape)
    for module, row in zip(network.blocks, summary.rows, strict=True):
        x = module(x)
        assert x.shape == (2, *row.shape)
        assert sum(p.numel() for p in module.parameters()) == row.parameters
    assert x.shape == (2, 4, 1, 1)


def field_of(network, layers):
    """The receptive field: the pixels that an output in the middle depends on."""
    x = torch.rand(1, 3, 32, 32, dtype=torch.double, requires_grad=True)
    y = x
    for block in network.double().eval().blocks[:layers]:
        y = block(y)
    middle = y.shape[-1] // 2
    y[..., middle, middle].sum().backward()
    rows = torch.nonzero(x.grad.abs().sum((0, 1, 3))).flatten()
    return int(rows[-1] - rows[0] + 1)


@pytest.mark.parametrize(
    "line",
    ["C:4 A C:4 C:4 c:4 A C:4 GAP FC", "C:4s2 C:4+*2 A D:8 GAP FC", "C:4v Cs2:4 D:4+ GAP FC"],
)
def test_the_receptive_field_is_the_patch_that_outputs_depend_on(line):
    # Average pooling and `none` with positive weights: no pixel's influence cancels or vanishes.
    network = Network(line, norm="none")
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    rows = summarize(line, norm="none").rows
    for layers, row in enumerate(rows, start=1):
        if row.receptive_field is not None:
            assert field_of(network, layers) == row.receptive_field


@pytest.mark.parametrize("norm", ["gn", "gn-ws", "proxy-gn"])
def test_default_groups_are_shown(norm):
    rows = summarize("C:12 D:9 C:7 GAP FC", norm=norm).rows
    shown = [f"{norm}=4", f"{norm}=4, 3", f"{norm}=1", "", ""]
    assert [row.normalization for row in rows] == shown


@pytest.mark.parametrize("norm", ["bn", "gn=3", "ghost-bn=2", "ln", "none"])
def test_a_number_that_is_no_default_is_shown_as_it_was_given(norm):
    rows = summarize("C:12 D:9 GAP FC", norm=norm).rows
    assert [row.normalization for row in rows] == [norm, norm, "", ""]


@pytest.mark.parametrize("norm", ["bn", "gn", "none", "ln-channel", "frn"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_activation_is_named_and_its_slopes_are_parameters(activation, norm):
    line = "C:12 D:9 D:9a+*2 c:4 GAP FC"
    summary = summarize(line, norm=norm, activation=activation)
    network = Network(line, norm=norm, activation=activation)
    assert [row.parameters for row in summary.rows] == [
        sum(p.numel() for p in block.parameters()) for block in network.blocks
    ]
    more = summary.parameters - summarize(line, norm=norm, activation="relu").parameters
    slopes = 12 + 9 + 2 * (9 + 9) if activation == "prelu" and norm != "frn" else 0
    assert more == slopes  # frn has an activation of its own
    assert summary.table.caption == f"Layers, normalization {norm}, activation {activation}"


def test_a_named_network_has_its_own_activation(monkeypatch):
    monkeypatch.setitem(ZOO, "nano", replace(ZOO["nano"], activation="prelu"))
    assert summarize("nano").activation == "prelu"
    assert summarize("nano", activation="silu").activation == "silu"
    assert summarize(ZOO["nano"].layout).activation == "relu"
    parameters = sum(p.numel() for p in Network("nano").parameters())
    assert parameters == summarize("nano").parameters
    assert parameters > summarize("nano", activation="relu").parameters


def test_the_slopes_count_in_the_budget():
    line = ZOO["assignment"].layout
    narrow = summarize(line, activation="prelu", budget=5000)
    wide = summarize(line, activation="relu", budget=narrow.parameters + 1)
    assert narrow.parameters < 5000
    exact = summarize(narrow.layout, activation="prelu", budget=narrow.parameters + 1)
    assert exact.parameters == narrow.parameters
    assert wide.parameters <= narrow.parameters
    with pytest.raises(UsageError, match="parameters with bn, 1 too many"):
        summarize(narrow.layout, activation="prelu", budget=narrow.parameters)


def test_an_activation_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match="no activation 'swish': use one of relu, hard-swish"):
        summarize("C:8 GAP FC", activation="swish")


def test_running_statistics_are_counted_separately():
    assert summarize("C:12 D:9 GAP FC", norm="bn").running_statistics == 2 * (12 + 12 + 9)
    assert summarize("C:12 D:9 GAP FC", norm="gn").running_statistics == 0


def test_the_note_says_how_much_a_network_uses_of_its_limits():
    summary = summarize("assignment", limits=Limits(board="microbit-v2", macs=2_000_000))
    assert f"It uses {summary.parameters:,} of 50,000 parameters, " in summary.note
    assert f"{summary.macs:,} of 2,000,000 multiply-accumulates" in summary.note
    assert f"{summary.memory.arena:,} of 131,072 bytes of RAM" in summary.note
    assert "It uses" not in summarize("assignment", budget=5_000).note
