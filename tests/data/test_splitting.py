import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from normlab import RunConfig
from normlab.data import Dataset, Split, apply_splits, load
from normlab.data.splitting import stratified
from normlab.errors import DataError, UsageError

SEEDS = st.integers(0, 2**70)


@st.composite
def requests(draw):
    """Labels in any order, a count, a seed."""
    sizes = draw(st.lists(st.integers(2, 30), min_size=1, max_size=8))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.RandomState(draw(st.integers(0, 99))).permutation(labels)
    return labels, draw(st.integers(1, len(labels) - 1)), draw(SEEDS)


@given(requests())
def test_a_split_is_a_partition_with_proportional_shares(request):
    labels, count, seed = request
    sizes = np.bincount(labels)
    try:
        chosen, rest = stratified(labels, count, seed)
    except DataError:
        exact = count * sizes / len(labels)
        assert (exact < 1).any() or (exact > sizes - 1).any()  # else each side would get one
        return
    assert len(chosen) == count
    assert chosen.dtype == rest.dtype == np.int64
    assert (np.diff(chosen) > 0).all()
    assert (np.diff(rest) > 0).all()
    assert sorted([*chosen, *rest]) == list(range(len(labels)))
    shares = np.bincount(labels[chosen], minlength=len(sizes))
    assert (np.abs(shares - count * sizes / len(labels)) < 1).all()
    assert (shares > 0).all()
    assert (shares < sizes).all()


@given(requests())
def test_the_same_seed_gives_the_same_split(request):
    labels, count, seed = request
    try:
        first = stratified(labels, count, seed)
    except DataError:
        assume(False)
    second = stratified(labels, count, seed)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_the_largest_remainders_get_the_remaining_images():
    labels = np.repeat([0, 1, 2], [10, 14, 16])  # of 10: 2.5, 3.5, 4
    chosen, _ = stratified(labels, 10, seed=0)
    assert np.bincount(labels[chosen]).tolist() == [3, 3, 4]


def test_the_draw_is_pinned():
    # A change here changes every hold-out and every image folder's split.
    labels = np.arange(20) % 2
    assert stratified(labels, 6, seed=0)[0].tolist() == [2, 3, 8, 11, 13, 18]
    assert stratified(labels, 6, seed=1)[0].tolist() == [2, 9, 16, 17, 18, 19]


def test_all_images_of_a_class_are_equally_likely():
    labels = np.arange(20) % 2
    drawn = np.zeros(20)
    for seed in range(1000):
        drawn[stratified(labels, 6, seed)[0]] += 1
    # Each is drawn 3 times in 10: 300 of 1000, standard deviation 14.5.
    assert np.abs(drawn - 300).max() < 5 * 14.5


@pytest.mark.parametrize("count", [-1, 0, 20, 21])
def test_neither_side_may_be_empty(count):
    with pytest.raises(DataError, match=f"{count} of 20 images"):
        stratified(np.arange(20) % 2, count, seed=0)


def test_a_class_without_an_image_on_one_side_is_named():
    labels = np.repeat([0, 3], [100, 2])
    with pytest.raises(DataError, match="0 of the 2 images of class 3 would go"):
        stratified(labels, 10, seed=0)
    with pytest.raises(DataError, match="2 of the 2 images of class 3 would go"):
        stratified(labels, 90, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(UsageError, match="--split-seed must be at least 0, not -1"):
        load("digits", split_seed=-1)


def test_holding_out_moves_images_and_keeps_the_fingerprint():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, axis=1)
    images = np.ascontiguousarray(np.broadcast_to(images, (40, 3, 32, 32)))
    labels = np.arange(40) % 4
    whole = Dataset("made up", ("a", "b", "c", "d"), Split(images, labels), Split(images, labels))
    parted = whole.hold_out(8, seed=3)
    assert parted.fingerprint == whole.fingerprint
    assert len(parted.train) == 32
    assert np.bincount(parted.holdout.labels).tolist() == [2, 2, 2, 2]
    for split in (parted.train, parted.holdout):
        assert (split.images[:, 0, 0, 0] % 4 == split.labels).all()
    together = np.concatenate([parted.train.images, parted.holdout.images])[:, 0, 0, 0]
    assert sorted(together.tolist()) == list(range(40))


# --- Subsets and label noise ---


def test_a_subset_is_stratified_and_seeded():
    whole = load("digits")
    part = whole.subset(200, seed=3)
    assert len(part.train) == 200
    assert np.bincount(part.train.labels).min() >= 19
    assert part.fingerprint == whole.fingerprint
    assert len(part.test) == len(whole.test)
    assert {image.tobytes() for image in part.train.images} <= {
        image.tobytes() for image in whole.train.images
    }
    assert len(whole.subset(len(whole.train)).train) == len(whole.train)
    again, other = whole.subset(200, seed=3), whole.subset(200, seed=4)
    assert np.array_equal(part.train.images, again.train.images)
    assert not np.array_equal(part.train.images, other.train.images)


def test_subset_and_hold_out_are_drawn_independently():
    whole = load("digits")
    held = whole.hold_out(500).holdout
    kept = whole.subset(500).train
    both = {i.tobytes() for i in held.images} & {i.tobytes() for i in kept.images}
    assert 100 < len(both) < 250  # by chance 500² / 1437 = 174


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_noisy_labels_are_uniform_over_the_other_classes(share):
    whole = load("digits")
    noisy = whole.with_label_noise(share, seed=1)
    wrong = noisy.train.labels != whole.train.labels
    assert wrong.sum() == round(share * len(whole.train))
    assert noisy.train.labels.min() >= 0
    assert noisy.train.labels.max() <= 9
    steps = (noisy.train.labels - whole.train.labels)[wrong] % 10
    assert set(steps) == set(range(1, 10))
    counts = np.bincount(steps, minlength=10)[1:]
    assert counts.max() < 2 * counts.min() + 15
    by_class = np.bincount(whole.train.labels[wrong], minlength=10)
    assert np.ptp(by_class) <= 1 + share * np.ptp(np.bincount(whole.train.labels))
    assert np.array_equal(noisy.train.images, whole.train.images)
    assert np.array_equal(noisy.test.labels, whole.test.labels)
    assert np.array_equal(noisy.train.labels, whole.with_label_noise(share, seed=1).train.labels)


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, 2.0, float("nan")])
def test_a_share_of_noisy_labels_out_of_range_is_refused(share):
    with pytest.raises(DataError, match="a share of wrong labels is above 0 and below 1, not"):
        load("digits").with_label_noise(share)


def test_held_out_labels_have_no_noise():
    config = RunConfig(network="", holdout=300, train_images=400, label_noise=0.3)
    whole, divided = load("digits"), apply_splits(load("digits"), config)
    assert (len(divided.train), len(divided.holdout)) == (400, 300)
    labels = {i.tobytes(): k for i, k in zip(whole.train.images, whole.train.labels, strict=True)}
    right = [
        labels[i.tobytes()] == k
        for i, k in zip(divided.train.images, divided.train.labels, strict=True)
    ]
    assert right.count(False) == 120
    assert all(
        labels[i.tobytes()] == k
        for i, k in zip(divided.holdout.images, divided.holdout.labels, strict=True)
    )
