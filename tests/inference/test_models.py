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


def test_the_models_are_small():
    assert {path.parent.name for path in FOLDER.glob("*/model.safetensors")} == set(MODELS)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 250 * 1024


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_what_its_config_says(model):
    run = normlab.Run.open(FOLDER / model)
    assert run.summary.parameters < {"micro": 50_000, "nano": 5_000}[model]
    assert run.config.network == model
    assert run.last.epoch <= 19
    assert normlab.load(model=model).classes[3] == "cat"


@pytest.mark.slow(8)
@pytest.mark.skipif(not os.environ.get("NORMLAB_DATA"), reason="NORMLAB_DATA names no CIFAR-10")
@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_the_accuracy_in_its_metrics(model):
    run = normlab.Run.open(FOLDER / model)
    evaluation = normlab.evaluate(run.network(), run.dataset())
    assert evaluation.accuracy == pytest.approx(run.last.accuracy, abs=5e-4)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_predicts_without_a_download(model, tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    main(["predict", "--model", model, str(tmp_path / "noise.png")])
    output = capsys.readouterr().out
    assert any(name in output for name in normlab.load(model=model).classes)


def test_an_unknown_name_is_refused():
    with pytest.raises(UsageError, match="no model 'huge': there are"):
        normlab.load(model="huge")
    with pytest.raises(TypeError, match="a run's folder or the name of a model"):
        normlab.load()
