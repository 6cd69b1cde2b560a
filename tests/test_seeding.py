import torch
from hypothesis import given
from hypothesis import strategies as st

from normlab.seeding import generator, seed_for

ARGUMENTS = st.tuples(
    st.integers(0, 2**40), st.sampled_from(["order", "augment"]), st.integers(0, 99)
)


@given(ARGUMENTS, ARGUMENTS)
def test_draws_are_equal_for_equal_arguments_and_differ_otherwise(one, other):
    first, second = (torch.rand(8, generator=generator(*place)) for place in (one, other))
    assert torch.equal(first, second) == (one == other)


def test_the_order_of_use_does_not_matter():
    generator(0, "order", 0)
    later = torch.rand(3, generator=generator(0, "augment", 5))
    assert torch.equal(later, torch.rand(3, generator=generator(0, "augment", 5)))


def test_seeds_are_pinned():
    # A changed seed would change every recorded run: this value is part of the format.
    assert seed_for(0, "order", 1) == 4374215849138048446
    assert 0 <= seed_for(-1, "x") < 2**63
