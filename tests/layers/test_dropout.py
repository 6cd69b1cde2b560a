"""Dropout: the same draws by the compiled passes and by PyTorch."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normlab.layers import kernels, norms
from normlab.layers.dropout import Dropout, draw, drop
from normlab.network.model import Network
from passes import compiled

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
by_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def by_the_passes(shape, probability, *, seed, dtype):
    """Maps of ones after the dropout of the compiled passes."""
    torch.manual_seed(seed)
    drawn = draw(probability)
    x = torch.ones(shape, dtype=dtype).contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x)
    one = torch.ones(1, shape[1])
    settings = kernels.Settings(**drawn._asdict())
    kernels.normalize("apply", x, settings, out=y, scale=one, shift=0 * one)
    return y


def by_pytorch(x, probability, *, seed):
    torch.manual_seed(seed)
    return drop(x, probability, training=True)


@compiled
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9)),
    probability=st.floats(2**-32, 1, exclude_max=True),
    seed=st.integers(0, 2**63),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_pytorch_drops_the_values_that_the_compiled_passes_drop(shape, probability, seed, dtype):
    expected = by_the_passes(shape, probability, seed=seed, dtype=dtype)
    y = by_pytorch(torch.ones(shape, dtype=dtype), probability, seed=seed)
    assert torch.equal(y == 0, expected == 0)
    # The passes take 1 − p in float32.
    rtol = 2**-22 / (1 - probability) + (2**-8 if dtype == torch.bfloat16 else 0)
    torch.testing.assert_close(y, expected, rtol=rtol, atol=0)


def murmur(index, seed):
    h = (index * 0x9E3779B1 + seed) % 2**32
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


@by_dtype
def test_the_values_below_the_threshold_of_the_hash_are_dropped(dtype):
    y = by_pytorch(torch.ones(3, 7, 5, 4, dtype=dtype), 0.3, seed=5)
    torch.manual_seed(5)
    threshold, seed = draw(0.3)
    hashes = torch.tensor([murmur(index, seed) for index in range(y.numel())])
    last = y.permute(0, 2, 3, 1).flatten()
    assert torch.equal(last == 0, hashes < threshold)
    assert y.dtype == dtype


@by_dtype
def test_the_layout_of_maps_does_not_matter(dtype):
    x = torch.rand(5, 6, 8, 4).add(1).to(dtype)
    expected = by_pytorch(x, 0.4, seed=1)
    forms = {
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "a part of larger maps": torch.cat([x, x], 3)[..., :4],
        "in rows": x.reshape(5, 6, 32, 1),
        "a transposed": x.transpose(0, 1).contiguous().transpose(0, 1),
    }
    for name, form in forms.items():
        y = by_pytorch(form, 0.4, seed=1)
        assert torch.equal(y.reshape(x.shape), expected), name
        if name != "a part of larger maps":
            assert y.stride() == form.stride(), name


def test_other_devices_draw_the_same():
    devices = ["meta", *(["cuda"] if torch.cuda.is_available() else [])]
    x = torch.ones(3, 4, 5, 6)
    expected = by_pytorch(x, 0.4, seed=1)
    following = torch.rand(1)
    for device in devices:
        y = by_pytorch(x.to(device), 0.4, seed=1)
        assert y.device.type == device
        assert torch.equal(torch.rand(1), following)
        if device != "meta":
            assert torch.equal(y.cpu(), expected)


def test_the_gradient_is_dropped_where_the_values_are():
    x = torch.rand(3, 4, 5, 6).requires_grad_()
    y = by_pytorch(x, 0.4, seed=1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient * x, y)
    assert torch.equal(gradient == 0, y == 0)


def test_bfloat16_keeps_its_mean():
    """The scale is not rounded to bfloat16, which would add 1/500 to every value."""
    x = torch.full((64, 16, 16, 16), 1.5, dtype=torch.bfloat16)
    y = by_pytorch(x, 0.19, seed=1)
    kept = y[y != 0]
    assert kept.unique().tolist() == [torch.tensor(1.5 / 0.81).bfloat16().item()]


def test_what_is_not_a_number_stays_so():
    assert by_pytorch(torch.full((2, 3, 4, 4), torch.nan), 0.5, seed=1).isnan().all()


@pytest.mark.parametrize("probability", [-0.1, 1.0, 1.5, float("nan")])
def test_an_invalid_probability_is_refused(probability):
    with pytest.raises(ValueError, match="dropout must be 0 or more and below 1"):
        drop(torch.ones(1, 1, 1, 1), probability, training=True)


def test_in_eval_mode_and_without_a_probability_nothing_is_drawn():
    x = torch.rand(2, 3, 4, 4)
    state = torch.get_rng_state()
    assert drop(x, 0.5, training=False) is x
    assert drop(x, 0.0, training=True) is x
    assert Dropout(0.5).eval()(x) is x
    assert torch.equal(state, torch.get_rng_state())


# Whole networks


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm", [*norms.REGISTRY, "ghost-bn=2", "gn=3"])
@pytest.mark.parametrize("activation", ["relu", "prelu"])
def test_a_network_drops_the_same_with_and_without_the_passes(norm, activation, dtype, monkeypatch):
    images = torch.rand(6, 3, 12, 12).contiguous(memory_format=torch.channels_last)
    outputs, used = [], []
    usable = kernels.usable
    for with_passes in (True, False):
        network = Network(
            "C:6 C:6/rms P C:6+ D:12 GAP FC",
            norm=norm,
            activation=activation,
            classes=10,
            dropout=0.4,
            shape=(3, 12, 12),
        )

        def asked(x, with_passes=with_passes):
            used.append(with_passes and usable(x))
            return used[-1]

        monkeypatch.setattr(kernels, "usable", asked)
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            outputs.append(network(images).float())
    assert any(used) or norm == "ln-full"  # its output is not channels last
    rough = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(*outputs, rtol=rough, atol=rough)


COMPILED = """if True:
    import sys
    import torch
    from normlab.network.model import Network
    layout = "C:4 C:4+ C:4/none P C:5/ln-full GAP FC"
    network = Network(layout, norm="gn", classes=10, dropout=0.3, shape=(3, 12, 12))
    images = torch.rand(4, 3, 12, 12)
    compiled = torch.compile(network, fullgraph=True, backend=sys.argv[1])
    for seed in range(2):
        outcomes = []
        for run in (network, compiled):
            torch.manual_seed(seed)
            y = run(images)
            gradients = torch.autograd.grad(y.square().sum(), [*network.parameters()])
            outcomes.append((y, *gradients, torch.rand(1)))
        torch.testing.assert_close(*outcomes, rtol=1e-5, atol=1e-5)
"""
# One compiler at a time, which is not first asked for each set of instructions whether it works.
QUICK_INDUCTOR = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_VEC_ISA_OK": "1"}
needs_cpp = pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs g++")


@pytest.mark.slow(30)
@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=needs_cpp)]
)
def test_so_does_a_network_that_torch_compiles_in_one_graph(backend):
    """Its compiler would draw from generators of its own, or take two draws for one."""
    command = [sys.executable, "-c", COMPILED, backend]
    subprocess.run(command, env=os.environ | QUICK_INDUCTOR, check=True)
