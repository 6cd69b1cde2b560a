import numpy as np

from normlab.data import load


def test_the_digits_are_always_the_same():
    digits = load("digits")
    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")
    assert digits.notes == ()
    assert np.bincount(digits.train.labels).tolist() == [
        *(142, 145, 142, 146, 145),
        *(146, 145, 143, 139, 144),
    ]
    assert np.bincount(digits.test.labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    assert digits.fingerprint == "3169e9e951693713b28c4200c7b81470bf272314a636ed8b9df04edabca15dbd"
    colour = load("digits", channels="colour")  # as in runs of earlier versions
    assert colour.fingerprint == "ff2adbddfa5654b8a7bf93856be0b145fbebe7b3318781c7277445208c6bc1c8"


def test_the_split_does_not_depend_on_the_split_seed():
    assert load("digits", split_seed=7).fingerprint == load("digits").fingerprint


def test_digits_are_enlarged_four_times_and_scaled_to_255():
    images = load("digits", channels="colour").train.images
    assert images.shape == (1437, 3, 32, 32)
    assert images.dtype == np.uint8
    assert (images == images[:, :1]).all()
    small = images[:, :, ::4, ::4]
    assert (images == np.kron(small, np.ones((4, 4), dtype=np.uint8))).all()
    greys = [0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255]
    assert np.unique(images).tolist() == greys
