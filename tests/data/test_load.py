import subprocess
import sys

import pytest

from normlab.data import load, source_of, sources
from normlab.errors import UsageError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("CIFAR-10", "cifar10"),
        ("cifar", "cifar10"),
        ("digit", "digits"),
        ("flder:/pictures", "folder:PATH"),
        ("folder:", "folder:PATH"),
    ],
)
def test_a_misspelled_name_gets_the_nearest_one_as_a_hint(name, meant):
    with pytest.raises(UsageError, match=f"did you mean {meant}") as caught:
        load(name)
    assert all(known in str(caught.value) for known in ("cifar10", "digits", "folder:PATH"))


def test_an_unknown_name_gets_the_list_of_data_sets():
    with pytest.raises(UsageError) as caught:
        load("weather")
    assert str(caught.value).endswith(
        "there are cifar10, cifar100[:coarse], digits, folder:PATH, hf:OWNER/NAME[:CONFIG], "
        "npz:FILE"
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100:coarse", "digits", "npz:a.npz"])
def test_only_image_files_can_be_skipped(name):
    with pytest.raises(UsageError, match=f"^{name} has no image files to skip: leave out --skip"):
        load(name, skip_unreadable=True)


@pytest.mark.parametrize("name", ["cifar10", "digits", "folder:a", "npz:a.npz"])
@pytest.mark.parametrize("column", ["image_column", "label_column"])
def test_only_tables_have_columns(name, column):
    with pytest.raises(UsageError, match=f"^{name} has no columns: leave out --image-column"):
        load(name, **{column: "x"})


def test_digits_need_no_data_root(tmp_path):
    assert load("digits", data_root=tmp_path).fingerprint == load("digits").fingerprint


def test_importing_the_package_imports_no_source():
    code = (
        "import sys, normlab.data; "
        "print({'torch', 'sklearn', 'pooch', 'PIL', 'rich'} & set(sys.modules) or 'none')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"


NOISE = """
import numpy as np
from normlab.data.dataset import Dataset, Split
SPELLING = "noise:SEED"
PUBLIC = False
HUB_NAME = None
MIRRORABLE = HAS_IMAGE_FILES = HAS_COLUMNS = False

def load(config, data_root):
    draws = np.random.default_rng(int(config.place))
    images = draws.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    half = Split(images[:10], np.arange(10) % 2)
    return Dataset(config.dataset, ("a", "b"), half, Split(images[10:], np.arange(10) % 2))
"""


def test_a_new_data_set_is_one_module(tmp_path, monkeypatch):
    (tmp_path / "noise.py").write_text(NOISE)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    dataset = load("noise:3")
    assert dataset.name == "noise:3"
    assert len(dataset.train) == 10
    assert not source_of("noise:3").MIRRORABLE
    for name in ("noise", "noise:", "nois:3"):
        with pytest.raises(UsageError, match="noise:SEED"):
            load(name)
