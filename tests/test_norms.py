"""Each normalization against PyTorch's own layer or the formula written out in float64."""

import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normlab import norms
from normlab.errors import UsageError
from normlab.summary import summarize

SHAPE = (12, 5, 6)
EPSILON = 1e-5


def standardize(x, axes):
    mean = x.mean(axes, keepdim=True)
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    return (x - mean) / torch.sqrt(variance + EPSILON)


def by_group(x, groups):
    n, c, h, w = x.shape
    return standardize(x.reshape(n, groups, c // groups, h, w), (2, 3, 4)).reshape(x.shape)


def per_channel(p):
    return p[:, None, None]


# From the input and the layer's parameters, by name, to what the layer must give.
REFERENCES = {
    "none": lambda x, p: x + per_channel(p["bias"]),
    "bn": lambda x, p: (
        standardize(x, (0, 2, 3)) * per_channel(p["weight"]) + per_channel(p["bias"])
    ),
    "gn": lambda x, p: by_group(x, 4) * per_channel(p["weight"]) + per_channel(p["bias"]),
    "gn=3": lambda x, p: by_group(x, 3) * per_channel(p["weight"]) + per_channel(p["bias"]),
    "ln": lambda x, p: (
        standardize(x, (1, 2, 3)) * per_channel(p["weight"]) + per_channel(p["bias"])
    ),
    "ln-full": lambda x, p: standardize(x, (1, 2, 3)) * p["weight"] + p["bias"],
    "ln-channel": lambda x, p: (
        standardize(x, (1,)) * per_channel(p["norm.weight"]) + per_channel(p["norm.bias"])
    ),
    "in": lambda x, p: standardize(x, (2, 3)) * per_channel(p["weight"]) + per_channel(p["bias"]),
    "rms": lambda x, p: (
        x / torch.sqrt((x**2).mean((1, 2, 3), keepdim=True) + EPSILON) * per_channel(p["weight"])
    ),
}


def with_random_parameters(layer):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def test_every_normalization_has_a_reference():
    assert set(norms.REGISTRY) == {name.partition("=")[0] for name in REFERENCES}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", REFERENCES)
def test_forward_and_backward_match_the_formula_in_float64(name, memory_format):
    layer = with_random_parameters(norms.build(name, SHAPE, activate=False))
    x = (3 * torch.randn(7, *SHAPE) + 2).to(memory_format=memory_format).requires_grad_()
    upstream = torch.randn(7, *SHAPE)
    output = layer(x)
    (output * upstream).sum().backward()

    x64 = x.detach().double().requires_grad_()
    p64 = {k: v.detach().double().requires_grad_() for k, v in layer.named_parameters()}
    expected = REFERENCES[name](x64, p64)
    (expected * upstream.double()).sum().backward()

    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-4, rtol=1e-4)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), p64[key].grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "torchs_own"),
    [
        ("bn", lambda x: F.batch_norm(x, None, None, training=True)),
        ("gn=6", lambda x: F.group_norm(x, 6)),
        ("ln", lambda x: F.group_norm(x, 1)),
        ("ln-full", lambda x: F.layer_norm(x, SHAPE)),
        ("ln-channel", lambda x: F.layer_norm(x.movedim(1, -1), SHAPE[:1]).movedim(-1, 1)),
        ("in", lambda x: F.instance_norm(x)),
        ("rms", lambda x: F.rms_norm(x, SHAPE, eps=EPSILON)),
    ],
)
def test_at_its_first_weights_it_is_pytorchs_own(name, torchs_own):
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(norms.build(name, SHAPE, activate=False)(x), torchs_own(x))


@pytest.mark.parametrize("name", REFERENCES)
def test_an_activation_follows_where_it_is_asked_for(name):
    x = torch.randn(4, *SHAPE)
    plain = norms.build(name, SHAPE, activate=False)(x)
    torch.testing.assert_close(norms.build(name, SHAPE, activate=True)(x), plain.clamp(min=0))


@pytest.mark.parametrize("name", REFERENCES)
def test_the_documented_number_of_parameters_is_the_real_one(name):
    formula = norms.find(name)[0].parameters.replace("·", "*")
    c, h, w = SHAPE
    expected = eval(formula, {"C": c, "H": h, "W": w})
    layer = norms.build(name, SHAPE, activate=True)
    assert sum(p.numel() for p in layer.parameters()) == expected


def test_every_entry_is_documented():
    for entry in norms.REGISTRY.values():
        assert entry.formula
        assert entry.axes
        assert entry.paper


def test_batch_norm_uses_running_statistics_in_evaluation():
    layer = norms.build("bn", SHAPE, activate=False)
    x = 3 * torch.randn(64, *SHAPE) + 2
    for _ in range(200):
        layer(x)
    values = x.double().movedim(1, 0).flatten(1)
    expected = (x.double() - per_channel(values.mean(1))) / torch.sqrt(
        per_channel(values.var(1)) + EPSILON
    )
    torch.testing.assert_close(layer.eval()(x).double(), expected, atol=1e-4, rtol=1e-4)


@given(st.integers(1, 300))
def test_groups_default_to_the_largest_divisor_up_to_4(channels):
    groups = norms.default_groups(channels)
    assert channels % groups == 0
    assert groups == max(g for g in (1, 2, 3, 4) if channels % g == 0)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("gn=5", SHAPE, "5 groups do not divide 12 channels"),
        ("gm", SHAPE, "no normalization 'gm': did you mean gn?"),
        ("xyzzy", SHAPE, "no normalization 'xyzzy': it is one of none, bn"),
        ("bn=3", SHAPE, "bn takes no number"),
        ("gn=", SHAPE, "must be a whole number above 0"),
        ("gn=0", SHAPE, "must be a whole number above 0"),
        ("gn=x", SHAPE, "must be a whole number above 0"),
        ("in", (8, 1, 1), "in over a 1 × 1 map is constant"),
        ("ln-channel", (1, 4, 4), "over one channel is constant"),
        ("no_such_module:Norm", SHAPE, "No module named 'no_such_module'"),
        ("math:NoNorm", SHAPE, "math has no NoNorm"),
        (":X", SHAPE, "importing  failed"),
        (".a:X", SHAPE, "importing .a failed"),
        ("math:sqrt", SHAPE, "it failed: TypeError"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(name, shape, problem):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        norms.build(name, shape, activate=True)
    assert problem in str(caught.value)


OWN = """
import torch
from torch import nn

class HalfNorm(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.full((shape[0],), 0.5))

    def forward(self, x):
        return x * self.weight[:, None, None]
"""


def test_a_users_layer_that_changes_the_shape_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_cut.py").write_text(OWN.replace("x * self", "x[..., 1:] * self"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=r"it must keep the shape .*, not make \(2, 12, 5, 5\)"):
        norms.build("own_cut:HalfNorm", SHAPE, activate=True)
    sys.modules.pop("own_cut")


def test_a_users_own_layer_by_module_and_class(tmp_path, monkeypatch):
    (tmp_path / "own_half_norm.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    layer = norms.build("own_half_norm:HalfNorm", SHAPE, activate=True)
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(layer(x), (x / 2).clamp(min=0))
    sys.modules.pop("own_half_norm")


def test_a_layer_registered_in_python(monkeypatch):
    monkeypatch.setattr(norms, "REGISTRY", dict(norms.REGISTRY))

    @norms.register(
        "scale", formula="x · w", paper="none", axes="none", parameters="1", argument="w"
    )
    class Scale(nn.Module):
        def __init__(self, shape, number):
            super().__init__()
            self.factor = float(number)

        def forward(self, x):
            return x * self.factor

    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(norms.build("scale=3", SHAPE, activate=False)(x), x * 3)


def test_a_notebooks_cell_that_is_run_again_replaces_its_layer(monkeypatch):
    monkeypatch.setattr(norms, "REGISTRY", dict(norms.REGISTRY))
    for size in (1, 2):

        @norms.register("mine", formula="", paper="", axes="", parameters="")
        class Mine(nn.Module):
            def __init__(self, shape, size=size):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(size, shape[0], 1, 1))

            def forward(self, x):
                return x * self.weight.prod(0)

        assert summarize("C:4 GAP FC", norm="mine").rows[0].parameters == 27 * 4 + size * 4
    with pytest.raises(ValueError, match="registered already"):
        norms.register("mine", formula="", paper="", axes="", parameters="")(nn.Identity)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError"),
        ("missing_name", "NameError"),
        ("import math; math.missing", "AttributeError"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_users_module_that_cannot_be_imported(content, problem, tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"^--norm own_broken:X: .*{problem}[^\n]*$"):
        norms.find("own_broken:X")


@pytest.mark.parametrize("name", ["bn", "a b", "a+", "a:b", "a=2", "1st", ""])
def test_a_name_that_is_taken_or_cannot_be_written_is_refused(name):
    before = dict(norms.REGISTRY)
    with pytest.raises(ValueError, match=r"registered already, by normlab|written"):
        norms.register(name, formula="", paper="", axes="", parameters="")(nn.Identity)
    assert before == norms.REGISTRY


@settings(max_examples=25)
@given(
    name=st.sampled_from(["ln", "gn", "in", "rms", "ln-channel", "ln-full"]),
    batch=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
def test_normalizations_apart_from_batch_norm_treat_each_image_alone(name, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    layer = norms.build(name, SHAPE, activate=True)
    x = torch.randn(batch, *SHAPE, generator=generator)
    alone = torch.cat([layer(image[None]) for image in x])
    np.testing.assert_allclose(layer(x).detach(), alone.detach(), atol=1e-5)
