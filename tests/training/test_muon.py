import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from normlab.training.muon import Muon, norm_factor, orthogonalize


@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_orthogonalizing_brings_singular_values_near_one_and_keeps_directions(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator)
    u, s, v = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    flat = u.T @ orthogonalize(matrix).double().numpy() @ v.T
    values = np.diag(flat)
    np.testing.assert_allclose(flat, np.diag(values), atol=1e-4)
    assert values.max() < 1.25
    large = s > 0.1 * np.linalg.norm(s)
    assert (values[large] > 0.65).all()


def test_a_step_is_momentum_orthogonalized_on_weights_of_norm_root_outputs():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 2, 3, 3).to(memory_format=torch.channels_last))
    optimizer = Muon([weight], momentum=0.9)
    expected, momentum = weight.detach().double(), torch.zeros(6, 18, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(6, 2, 3, 3)
        weight.grad = gradient.clone()
        optimizer.step(0.05)
        g = gradient.double().flatten(1)
        momentum = 0.9 * momentum + g
        expected = expected * 6**0.5 / expected.norm()
        expected -= 0.05 * orthogonalize(g + 0.9 * momentum).view_as(expected)
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_weight_of_zeros_stays_until_its_first_update_and_then_has_muons_norm():
    weight = torch.nn.Parameter(torch.zeros(6, 2, 3, 3))
    assert not (norm_factor(weight) * weight).any()
    optimizer, gradient = Muon([weight]), torch.randn(6, 2, 3, 3)
    weight.grad = torch.zeros_like(weight)
    optimizer.step(0.05)
    assert not weight.any()
    for _ in range(2):
        weight.grad = gradient
        optimizer.step(0.05)
    assert 6**0.5 - 0.2 < weight.norm() < 6**0.5 + 0.2


def test_a_tall_matrix_moves_further():
    """By √(outputs / inputs): its outputs then change as much as a wide matrix's."""
    moved = {}
    for rows, columns in ((4, 16), (16, 4)):
        weight = torch.nn.Parameter(torch.randn(rows, columns))
        weight.data *= rows**0.5 / weight.data.norm()
        before = weight.detach().clone()
        weight.grad = torch.randn(rows, columns)
        Muon([weight]).step(1.0)
        moved[rows] = torch.linalg.svdvals(weight.detach() - before).median().item()
    assert moved[16] / moved[4] == pytest.approx(2, rel=0.4)


def test_momenta_are_all_that_it_keeps():
    def run(steps, optimizer, weight, start=0):
        for step in range(start, start + steps):
            weight.grad = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
            optimizer.step(0.1)

    whole = torch.nn.Parameter(torch.ones(4, 5))
    run(6, Muon([whole]), whole)
    parted = torch.nn.Parameter(torch.ones(4, 5))
    first = Muon([parted])
    run(3, first, parted)
    second = Muon([parted])
    second.momenta = {parted: first.momenta[parted].clone()}
    run(3, second, parted, start=3)
    assert torch.equal(whole, parted)
