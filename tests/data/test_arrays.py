"""Arrays as data sets: in memory, and in a file as numpy.savez writes it."""

import io
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import normlab
from normlab import RunConfig
from normlab.data import from_arrays, load
from normlab.errors import DataError, UsageError
from normlab.inference.predict import Predictor

RANDOM = np.random.default_rng(0)
LABELS = np.arange(20) % 2


def images(count=20, height=28, width=28, channels=(3,), dtype=np.uint8):
    return RANDOM.integers(0, 256, (count, height, width, *channels)).astype(dtype)


def save(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def error_of(function, *arguments, **options):
    with pytest.raises(DataError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- In memory ---


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_arrays_of_the_right_size_stay_as_they_are(channels):
    x, y = images(channels=channels), LABELS
    dataset = from_arrays(x, y, x[:4], y[:4], size=28)
    assert dataset.name == "arrays"
    assert dataset.classes == ("0", "1")
    assert dataset.shape == (channels[0] if channels else 1, 28, 28)
    expected = (x if channels else x[..., None]).transpose(0, 3, 1, 2)
    assert (dataset.train.images == expected).all()
    assert dataset.train.labels.tolist() == y.tolist()
    assert dataset.train.labels.dtype == np.int64
    (note,) = dataset.notes
    assert note.startswith(
        "4 of 4 test images are training images, too (test image 0 = train image 0, "
    )


def test_arrays_are_cropped_and_resized_as_pictures_are():
    from normlab.data.images import to_pixels

    x = images(height=40, width=60)
    dataset = from_arrays(x, LABELS, x[:4], LABELS[:4], size=24)
    assert dataset.notes[0] == "images were resized from 60 × 40 to 24 × 24 pixels"
    for pixels, array in zip(dataset.train.images, x, strict=True):
        assert (pixels == to_pixels(Image.fromarray(array), 24)).all()
    note = from_arrays(images(), LABELS).notes[1]
    assert note == (
        "images were resized from 28 × 28 to 32 × 32 pixels: --size 28 leaves them as they are"
    )


def test_grey_arrays_in_colour_and_colours_in_grey():
    grey = images(channels=())
    dataset = from_arrays(grey, LABELS, channels="colour", size=28)
    assert dataset.shape == (3, 28, 28)
    assert (dataset.train.images == dataset.train.images[:, :1]).all()
    assert from_arrays(images(), LABELS, channels="grey", size=28).shape == (1, 28, 28)
    equal = np.repeat(grey[..., None], 3, axis=3)
    again = from_arrays(equal, LABELS, size=28)
    assert again.shape == (1, 28, 28)
    assert again.fingerprint == from_arrays(grey, LABELS, size=28).fingerprint


def test_labels_may_be_text_or_any_integers_or_in_a_column():
    x = images()
    text = from_arrays(x, ["dog", "cat"] * 10)
    assert text.classes == ("cat", "dog")
    numbers = from_arrays(x, np.where(LABELS, 7, -3)[:, None])
    assert numbers.classes == ("-3", "7")
    named = from_arrays(x, LABELS, classes=("a", "b", "never"))
    assert named.classes == ("a", "b", "never")
    assert set(numbers.train.labels) == {0, 1}


def test_without_test_images_a_fifth_is_drawn_by_seed():
    x = images(40)
    y = np.arange(40) % 2
    dataset = from_arrays(x, y, size=28)
    assert (len(dataset.train), len(dataset.test)) == (32, 8)
    assert dataset.notes == (
        "the data has no test images: 8 of its 40 images were set aside to test on",
    )
    assert from_arrays(x, y, size=28, split_seed=1).fingerprint != dataset.fingerprint


def test_images_to_choose_by_are_held_out():
    x = images(30)
    y = np.arange(30) % 2
    dataset = from_arrays(x[:20], y[:20], x[20:24], y[20:24], x_val=x[24:], y_val=y[24:])
    assert dataset.holdout is not None
    assert len(dataset.holdout) == 6
    assert dataset.notes[0] == "x_val has 6 images to choose settings by, x_test is for the end"
    dataset = from_arrays(x[:20], y[:20], x_val=x[20:], y_val=y[20:])
    assert len(dataset.test) == 10
    assert dataset.notes[0] == "x_val has the test images"


def test_arrays_are_trained_on_and_predicted(tmp_path):
    x = images(channels=())
    dataset = from_arrays(x[:16], LABELS[:16], x[16:], LABELS[16:], size=28)
    config = RunConfig(
        network="c:2 GAP FC", dataset=dataset.name, recipe="demo", epochs=1, batch_size=4
    )
    run = normlab.train(config, tmp_path / "run", dataset=dataset, quiet=True)
    predictor = Predictor(run.network(), run.data.classes)
    expected = predictor.probabilities(dataset.test.images)
    for given_, row in zip(x[16:], expected, strict=True):
        (prediction,) = predictor.predict(given_)
        assert np.allclose(prediction.probabilities, row, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "problem"),
    [
        (
            images(dtype=np.float32),
            "x_train is float32, 20 × 28 × 28 × 3: expected uint8, 0 to 255 "
            "(from values of 0 to 1: (x_train * 255).round().astype('uint8'))",
        ),
        (
            images(dtype=np.int64),
            "x_train is int64, 20 × 28 × 28 × 3: expected uint8, 0 to 255 "
            "(from integers of 0 to 255: x_train.astype('uint8'))",
        ),
        (images(channels=(2,)), "x_train is uint8, 20 × 28 × 28 × 2: expected uint8, N × H × W,"),
        (images(channels=(4,)), "with transparency: leave it out, x_train[..., :3]"),
        (images().transpose(0, 3, 1, 2), "channels first: put them last, x_train.transpose(0, 2,"),
        (images().reshape(20, -1), "x_train is uint8, 20 × 2352: expected uint8, N × H × W"),
        (images()[..., None], "x_train is uint8, 20 × 28 × 28 × 3 × 1: expected"),
        (images(0), "x_train has no images"),
        (np.float64(3), "x_train is float64, a single value: expected"),
        ([["a"]], "x_train is <U1, 1 × 1: expected"),
    ],
)
def test_other_images_are_refused_with_what_came(x, problem):
    assert problem in error_of(from_arrays, x, LABELS)


@pytest.mark.parametrize(
    ("y", "problem"),
    [
        (LABELS[:-1], "x_train has images without labels: 20 images, y_train has 19 labels"),
        (np.arange(21), "y_train has labels without images: 21 labels, x_train has 20 images"),
        (LABELS.astype(float), "y_train is float64, 20: expected integers or text"),
        (np.eye(20), "from one column for each class: y_train.argmax(axis=1)"),
        (np.full(20, None), "y_train is object, 20: expected integers or text"),
        (np.zeros(20, int), "training images of 1 class, '0': two or more are needed"),
        (np.array(["a", "b\n"] * 10), "has a class 'b\\n': rename it, without control characters"),
        (3, "y_train is int64, a single value: expected"),
    ],
)
def test_other_labels_are_refused_with_what_came(y, problem):
    assert problem in error_of(from_arrays, images(), y)


def test_splits_that_do_not_fit_are_refused():
    x, y = images(), LABELS
    assert "x_test and y_test belong together" in error_of(from_arrays, x, y, x)
    assert "x_val and y_val belong together" in error_of(from_arrays, x, y, y_val=y)
    text = error_of(from_arrays, x, y, images(height=30), y)
    assert text.startswith("x_test has images of 3 × 30 × 28, x_train of 3 × 28 × 28")
    assert error_of(from_arrays, x, y, x, y + 1) == "y_test has the label 2, y_train has not"
    text = error_of(from_arrays, x, y, classes=("only",))
    assert text == "y_train has the label 1, there is no such class among 1"
    with pytest.raises(UsageError, match="--size must be"):
        from_arrays(x, y, size=8)


def test_text_labels_that_differ_by_unicode_normalization_alone_are_one_class():
    y = ["caf\u00e9", "cafe\u0301", "tea", "tea"] * 5
    assert from_arrays(images(), y).classes == ("caf\u00e9", "tea")


# --- In a file ---


def test_a_file_with_kerass_names(tmp_path):
    x, y = images(channels=()), LABELS
    name = save(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[:4], y_test=y[:4], extra=y)
    dataset = load(name, size=28)
    assert dataset.name == name
    assert dataset.shape == (1, 28, 28)
    assert dataset.fingerprint == from_arrays(x, y, x[:4], y[:4], size=28).fingerprint
    assert dataset.notes[0] == "left out: extra of a.npz"


def test_a_file_with_medmnists_names(tmp_path):
    x, y = images(30), (np.arange(30) % 2)[:, None].astype(np.uint8)
    parts = {"train": slice(20), "val": slice(20, 26), "test": slice(26, 30)}
    arrays = {f"{part}_images": x[where] for part, where in parts.items()}
    arrays |= {f"{part}_labels": y[where] for part, where in parts.items()}
    dataset = load(save(tmp_path / "a.npz", **arrays), size=28)
    assert (len(dataset.train), len(dataset.holdout or ()), len(dataset.test)) == (20, 6, 4)
    assert dataset.notes == (
        "val_images has 6 images to choose settings by, test_images is for the end",
    )


def test_a_run_finds_its_file_where_it_was_moved(tmp_path):
    from normlab.training.loop import train

    name = save(tmp_path / "a.npz", x_train=images(), y_train=LABELS)
    config = RunConfig(
        network="c:2 GAP FC", dataset=name, recipe="demo", epochs=1, batch_size=4, size=28
    )
    run = train(config, tmp_path / "run", quiet=True)
    (tmp_path / "a.npz").rename(tmp_path / "b.npz")
    assert "a.npz cannot be read: No such file" in error_of(run.dataset)
    assert run.dataset(tmp_path / "b.npz").shape == (3, 28, 28)


def test_a_data_root_beside_the_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="says where the pictures are: leave out --data-root"):
        load("npz:a.npz", data_root=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"x_train": images(dtype=np.float32), "y_train": LABELS}, "x_train is float32, 20 × 28"),
        ({"x_train": images()}, "a.npz has x_train: expected x_train and y_train or train_images"),
        ({"y_train": LABELS}, "a.npz has y_train: expected x_train and y_train"),
        ({}, "a.npz has nothing: expected x_train and y_train"),
        (
            {"x_train": images(), "y_train": np.full(20, None)},
            "cannot be read as a file of arrays: Object arrays cannot be loaded",
        ),
        ({"x_train": images(), "y_train": LABELS * 0}, "training images of 1 class, '0'"),
        (
            {"x_train": images(), "y_train": LABELS, "x_test": images(2), "y_test": LABELS},
            "y_test has labels without images: 20 labels, x_test has 2 images",
        ),
    ],
)
def test_other_arrays_in_a_file_are_refused_with_what_came(arrays, problem, tmp_path):
    assert problem in error_of(load, save(tmp_path / "a.npz", **arrays))


def content(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def one_array():
    file = io.BytesIO()
    np.save(file, images())
    return file.getvalue()


class Marker:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path):
    hostile = np.array([Marker(str(tmp_path / "marker"))] * 20)
    name = save(tmp_path / "a.npz", x_train=images(), y_train=hostile)
    assert "Object arrays cannot be loaded" in error_of(load, name)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "damaged", [b"", b"no archive", one_array(), content(x_train=images(), y_train=LABELS)[:5000]]
)
def test_a_damaged_file_is_refused(damaged, tmp_path):
    (tmp_path / "a.npz").write_bytes(damaged)
    text = error_of(load, f"npz:{tmp_path / 'a.npz'}")
    assert text.startswith(f"{tmp_path / 'a.npz'} cannot be read as a file of arrays: ")
    if damaged == one_array():
        assert text.endswith(": it holds one array, not several with names")


def test_a_file_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", b"")
        archive.writestr("y_train.npy", b"")
        for info in archive.filelist:
            info.file_size = 2**34
    assert "it unpacks to more than 16 GB" in error_of(load, f"npz:{tmp_path / 'a.npz'}")


def test_a_header_that_claims_more_than_there_is_is_refused(tmp_path):
    head = io.BytesIO()
    claim = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000)}
    np.lib.format.write_array_header_1_0(head, claim)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x_train.npy", head.getvalue())
        archive.writestr("y_train.npy", head.getvalue())
    assert "cannot be read as a file of arrays" in error_of(load, f"npz:{tmp_path / 'a.npz'}")


WHOLE = content(x_train=images(8, 16, 16, ()), y_train=LABELS[:8])


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(share=st.floats(0, 1, exclude_max=True), junk=st.binary(max_size=8))
def test_a_damaged_file_gives_an_error_or_images(share, junk, tmp_path):
    place = int(share * len(WHOLE))
    (tmp_path / "a.npz").write_bytes(WHOLE[:place] + junk + WHOLE[place + len(junk) :])
    try:
        dataset = load(f"npz:{tmp_path / 'a.npz'}", size=16)
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert dataset.train.images.shape[1:] == (1, 16, 16)
