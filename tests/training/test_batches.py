"""The augmented batches of a run."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from normlab.data import Dataset, Split
from normlab.inference.evaluate import to_input
from normlab.layers import kernels
from normlab.recipes import Recipe
from normlab.training.batches import Batches
from passes import compiled


def dataset(count, channels=3, side=32):
    """Noise; each image has its own label."""
    shape = (count, channels, side, side)
    pixels = np.random.default_rng(count).integers(0, 256, shape, dtype=np.uint8)
    split = Split(pixels, np.arange(count, dtype=np.int64))
    return Dataset(name="noise", classes=tuple(map(str, range(count))), train=split, test=split)


def batches(data, seed=0, **own):
    plain = {"epochs": 4, "batch_size": 16, "learning_rate": 0.1, "schedule": "step"}
    return Batches(data, Recipe(**{**plain, **own}), seed, torch.device("cpu"))


def epoch_of(drawn, epoch):
    """An epoch's images sorted by label, and the labels in the order of the batches."""
    parts = [drawn(epoch, step) for step in range(drawn.steps)]
    inputs, labels = (torch.cat(both) for both in zip(*parts, strict=True))
    return inputs[labels.argsort()], labels


@settings(max_examples=20)
@given(st.integers(1, 90), st.integers(1, 40), st.integers(0, 3))
def test_an_epoch_sees_every_image_once_and_its_last_batch_is_the_rest(count, size, epoch):
    data = dataset(count)
    drawn = batches(data, batch_size=size)
    labels = [drawn(epoch, step)[1] for step in range(drawn.steps)]
    assert [len(part) for part in labels] == [size] * (count // size) + [count % size] * (
        count % size > 0
    )
    inputs, seen = epoch_of(drawn, epoch)
    assert sorted(seen.tolist()) == list(range(count))
    assert seen.dtype == torch.int64
    assert torch.equal(inputs, torch.from_numpy(data.train.images) / 255)


def test_each_epoch_and_each_seed_has_its_own_order():
    data = dataset(60)
    orders = [epoch_of(batches(data, seed), epoch)[1] for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert all(order.tolist() != list(range(60)) for order in orders)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("augment", [(), ("shift",), ("color-jitter", "affine", "vertical-flip")])
def test_batches_are_float32_from_0_to_1_and_channels_last(mirror, augment):
    inputs, _ = batches(dataset(40), mirror=mirror, augment=augment)(1, 0)
    assert inputs.shape == (16, 3, 32, 32)
    assert inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert 0 <= inputs.min() < 0.1
    assert 0.9 < inputs.max() <= 1


@settings(max_examples=10)
@given(st.permutations([(epoch, step) for epoch in range(3) for step in range(3)]))
def test_a_batch_depends_only_on_its_seed_epoch_and_step(order):
    own = {"mirror": True, "augment": ("shift", "color-jitter")}
    data = dataset(40)
    drawn = batches(data, 3, **own)
    got = {place: drawn(*place) for place in (*order, order[0])}
    for place in order[:4]:
        inputs, labels = batches(data, 3, **own)(*place)
        assert torch.equal(got[place][0], inputs)
        assert torch.equal(got[place][1], labels)


def test_batches_leave_torchs_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    batches(dataset(40), mirror=True, augment=("shift",))(0, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_epoch_or_step_gets_another_augmentation():
    data = dataset(16)
    data.train.images[:] = data.train.images[0]  # so that only augmentation tells batches apart
    drawn = [
        batches(data, seed, batch_size=8, augment=("shift",))(epoch, step)[0]
        for seed in (0, 1)
        for epoch in (0, 1)
        for step in (0, 1)
    ]
    for k, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[k + 1 :])


def mirrored(data, drawn, epoch):
    """The images that were mirrored in an epoch. Each is the original or its mirror image."""
    inputs, _ = epoch_of(drawn, epoch)
    plain = torch.from_numpy(data.train.images) / 255
    as_it_is = (inputs == plain).flatten(1).all(1)
    turned = (inputs == plain.flip(3)).flatten(1).all(1)
    assert torch.equal(as_it_is, ~turned)
    return turned


@pytest.mark.parametrize("seed", [0, 1])
def test_each_image_is_mirrored_in_every_other_epoch_and_half_of_them_at_first(seed):
    data = dataset(500)
    drawn = batches(data, seed, batch_size=128, mirror=True)
    first, *later = (mirrored(data, drawn, epoch) for epoch in range(4))
    assert 200 <= first.sum() <= 300  # 4.5 standard deviations about 250
    for epoch, turned in enumerate(later, 1):
        assert torch.equal(turned, first ^ bool(epoch % 2))
    assert not torch.equal(first, mirrored(data, batches(data, seed + 2, mirror=True), 0))


def test_without_mirroring_no_image_is_mirrored():
    data = dataset(50)
    assert not any(mirrored(data, batches(data), epoch).any() for epoch in range(3))


@compiled
@settings(max_examples=40)
@given(
    channels=st.sampled_from([1, 3]),
    side=st.integers(8, 70),
    mirror=st.booleans(),
    augment=st.sampled_from([(), ("shift",), ("shift", "light"), ("light", "shift")]),
    threads=st.integers(1, 3),
)
@example(3, 8, True, ("shift",), 1)
@example(1, 40, True, ("shift", "light"), 2)
def test_the_compiled_pass_makes_the_batches_that_pytorch_makes(
    channels, side, mirror, augment, threads
):
    drawn = batches(dataset(21, channels, side), mirror=mirror, augment=augment)
    before, run, made = torch.get_num_threads(), kernels.batch, []
    torch.set_num_threads(threads)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "batch", lambda *given: (made.append(given), run(*given))[1])
            by_a_pass = [drawn(epoch, step) for epoch in range(2) for step in range(2)]
    finally:
        torch.set_num_threads(before)
    assert len(made) == 4
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "library", lambda: None)
        expected = [drawn(epoch, step) for epoch in range(2) for step in range(2)]
    for (inputs, labels), (others, others_labels) in zip(by_a_pass, expected, strict=True):
        assert torch.equal(inputs, others)
        assert inputs.stride() == others.stride()
        assert torch.equal(labels, others_labels)


def test_batches_of_one_channel_say_that_channels_are_last():
    """By their strides: PyTorch's convolutions take others for channels first."""
    grey = dataset(20, channels=1, side=16)
    for inputs in (batches(grey)(0, 0)[0], to_input(torch.from_numpy(grey.train.images))):
        assert inputs.stride() == (256, 1, 16, 1)
