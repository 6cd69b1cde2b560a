"""SGD, against PyTorch's."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from normlab.training.sgd import SGD


@given(
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    nesterov=st.booleans(),
    decay=st.sampled_from([0.0, 5e-4, 0.1]),
    used=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_it_equals_pytorchs_to_the_last_bit(momentum, nesterov, decay, used, seed):
    """Also where weights have no gradient in some steps."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3, 3, 3), (5, 4), (4,), (1,)]
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    ours[0].data = ours[0].data.contiguous(memory_format=torch.channels_last)
    theirs = [nn.Parameter(weight.detach().clone()) for weight in ours]
    sgd = SGD(ours[:2], ours[2:], weight_decay=decay, momentum=momentum, nesterov=nesterov)
    pytorch = torch.optim.SGD(
        [{"params": theirs[:2], "weight_decay": decay}, {"params": theirs[2:]}],
        momentum=momentum,
        nesterov=nesterov and momentum > 0,
    )
    for step, with_gradient in enumerate(used):
        for own, other, has_gradient in zip(ours, theirs, with_gradient, strict=True):
            own.grad = torch.randn(own.shape, generator=generator) if has_gradient else None
            other.grad = own.grad.clone() if has_gradient else None
        for group in pytorch.param_groups:
            group["lr"] = 0.1 * step
        pytorch.step()
        sgd.step(0.1 * step)
        assert all(torch.equal(own, other) for own, other in zip(ours, theirs, strict=True))


def test_it_keeps_nothing_before_the_first_step_and_without_momentum():
    weight = nn.Parameter(torch.ones(3))
    plain = SGD([weight], [], weight_decay=0.0, momentum=0.0, nesterov=False)
    weight.grad = torch.ones(3)
    plain.step(0.25)
    assert weight.tolist() == [0.75] * 3
    assert not plain.momenta
