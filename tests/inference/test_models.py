"""The networks that come with normlab."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import normlab
from normlab.cli import main
from normlab.errors import UsageError
from normlab.inference.predict import MODELS

FOLDER = Path(normlab.__file__).parent / "models"


def test_they_are_small_together():
    weights = [*FOLDER.glob("*/model.safetensors")]
    assert {path.parent.name for path in weights} == set(MODELS)
    assert sum(path.stat().st_size for path in weights) < 250_000


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_what_its_folder_says(model):
    run = normlab.Run.open(FOLDER / model)
    assert run.summary.parameters < {"micro": 50_000, "nano": 5_000}[model]
    assert run.config.network == model
    assert run.last.epoch <= 19
    assert normlab.load(model=model).classes[3] == "cat"


@pytest.mark.slow(4)
@pytest.mark.skipif(
    not os.environ.get("NORMLAB_DATA"), reason="NORMLAB_DATA does not say where CIFAR-10 is"
)
@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_as_accurate_as_its_folder_says(model):
    run = normlab.Run.open(FOLDER / model)
    evaluation = normlab.evaluate(run.network(), run.dataset())
    assert evaluation.accuracy == pytest.approx(run.last.accuracy, abs=5e-4)


@pytest.mark.parametrize("model", MODELS)
def test_it_answers_straight_after_the_install(model, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    main(["predict", "--model", model, str(tmp_path / "noise.png")])
    said = capsys.readouterr().out
    assert any(name in said for name in normlab.load(model=model).classes)


def test_another_name_is_refused():
    with pytest.raises(UsageError, match="no model 'huge': there is"):
        normlab.load(model="huge")
    with pytest.raises(TypeError, match="a run's folder or the name of a model"):
        normlab.load()
