"""The model card, read back as the Hugging Face Hub reads it."""

import dataclasses
import shutil

import pytest
from huggingface_hub import ModelCard

import normlab
from normlab.cli import main
from normlab.errors import RunError, UsageError
from normlab.report.card import model_card, write_card


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "digits-bn-0")
    return normlab.Run.open(tmp_path / "digits-bn-0")


def with_accuracy(run, path, seed, accuracy):
    """A repeat of a run with another accuracy."""
    shutil.copytree(run.path, path)
    last = dataclasses.replace(run.last, accuracy=accuracy)
    config = dataclasses.replace(run.config, seed=seed)
    return dataclasses.replace(run, path=path, config=config, epochs=(*run.epochs[:-1], last))


def test_the_hub_can_read_the_metadata(run):
    card = ModelCard(model_card([run]))
    assert card.data.library_name == "normlab"
    assert card.data.pipeline_tag == "image-classification"
    assert "bn" in card.data.tags
    (result,) = card.data.eval_results
    assert result.metric_type == "accuracy"
    assert result.metric_value == run.last.accuracy
    assert result.dataset_split == "test"


@pytest.mark.parametrize(
    ("name", "notes", "called", "on_hub"),
    [
        ("digits", (), "digits", None),
        ("cifar10", (), "cifar10", "uoft-cs/cifar10"),
        ("cifar100:coarse", (), "cifar100:coarse", "uoft-cs/cifar100"),
        ("hf:AI-Lab-Makerere/beans", (), "AI-Lab-Makerere/beans", "AI-Lab-Makerere/beans"),
        ("hf:uoft-cs/cifar100:plain", (), "uoft-cs/cifar100:plain", "uoft-cs/cifar100"),
        ("hf:mine/beans", ("read from a folder, not from the Hub",), "own pictures", None),
        ("hf:/home/me/beans", (), "own pictures", None),
        ("folder:photos", (), "own pictures", None),
        ("npz:digits.npz", (), "own pictures", None),
    ],
)
def test_the_data_set_is_named(run, name, notes, called, on_hub):
    config = dataclasses.replace(run.config, dataset=name)
    data = dataclasses.replace(run.data, notes=notes)
    card = ModelCard(model_card([dataclasses.replace(run, config=config, data=data)]))
    (result,) = card.data.eval_results
    assert (result.dataset_name, result.dataset_type) == (called, on_hub or called)
    assert card.data.datasets == ([on_hub] if on_hub else None)


def test_the_text_agrees_with_the_run(run):
    text = model_card([run])
    for fact in (
        run.layout,
        f"{run.summary.parameters:,} parameters",
        "with the normalization `bn` and the activation `relu`, trained",
        run.data.fingerprint,
        f"{run.data.train:,} training images",
        "after the last epoch (3)",
        "One run, seed 0",
        "is not known from one run",
        *(f"`{name}`" for name in run.data.classes),
    ):
        assert fact in text


@pytest.mark.parametrize("activation", ["hard-swish", "gelu"])
def test_the_text_names_the_activation(run, activation):
    config = dataclasses.replace(run.config, activation=activation)
    assert f"and the activation `{activation}`, trained" in model_card(
        [dataclasses.replace(run, config=config)]
    )


def test_a_run_that_a_callback_ended_says_after_how_many_epochs(run):
    assert "stopped after" not in model_card([run])
    stopped = dataclasses.replace(run, stopped_after=1)
    assert f": {run.recipe.epochs} epochs (stopped after 1), batch " in model_card([stopped])


def test_card_weights_and_configuration_make_a_folder_that_loads(run, tmp_path, capsys):
    write_card([run])
    uploaded = tmp_path / "uploaded"
    uploaded.mkdir()
    for name in ("README.md", "config.json", "model.safetensors"):
        shutil.copy(run.path / name, uploaded)
    images = run.dataset().test.images[:50]
    expected = normlab.load(run.path).probabilities(images)
    assert (normlab.load(uploaded).probabilities(images) == expected).all()
    with pytest.raises(RunError, match=r"has no metrics\.jsonl: its accuracy is not known"):
        model_card([normlab.Run.open(uploaded)])
    capsys.readouterr()
    main(["evaluate", str(uploaded)])
    assert "states" not in capsys.readouterr().out


def test_repeats_give_a_mean_and_a_standard_deviation(run, tmp_path):
    first = dataclasses.replace(
        run, epochs=(*run.epochs[:-1], dataclasses.replace(run.last, accuracy=0.90))
    )
    others = [with_accuracy(run, tmp_path / f"{k}", k, 0.90 + k / 100) for k in (1, 2)]
    text = model_card([first, *others])
    assert "over the seeds 0, 1, 2 the mean is 91.00 ± 1.00%" in text
    assert "not known from one run" not in text


def test_runs_that_are_not_repeats_are_refused(run, tmp_path):
    other = with_accuracy(run, tmp_path / "other", 1, 0.5)
    norm = dataclasses.replace(other, config=dataclasses.replace(other.config, norm="gn"))
    with pytest.raises(UsageError, match=r"not a repeat of .*: they differ in norm$"):
        model_card([run, norm])
    with pytest.raises(UsageError, match="same seed"):
        model_card([run, run])
    (run.path / "model.safetensors").unlink()
    with pytest.raises(RunError, match="is its training finished"):
        model_card([run])


def test_names_cannot_break_the_card(run):
    classes = ("a|b", "`x`", "<script>alert(1)</script>", "two\nlines", *run.data.classes[4:])
    hostile = dataclasses.replace(run, data=dataclasses.replace(run.data, classes=classes))
    text = model_card([hostile])
    assert "<script>" not in text
    assert "`ab`, `x`, `scriptalert(1)/script`, `twolines`" in text
    assert ModelCard(text).data.model_name == "C12-P-C24-P-D32-GAP-FC-5935d4-bn-0"


def test_the_command_does_not_overwrite_another_text(run, capsys):
    main(["card", str(run.path)])
    assert capsys.readouterr().out == f"card: {run.path / 'README.md'}\n"
    main(["card", str(run.path)])  # the same text is no conflict
    (run.path / "README.md").write_text("my own words")
    with pytest.raises(SystemExit):
        main(["card", str(run.path)])
    assert "already exists" in capsys.readouterr().err
    assert (run.path / "README.md").read_text() == "my own words"
    with pytest.raises(SystemExit):
        main(["card", str(run.path), "--out", str(run.path)])
    assert capsys.readouterr().err == f"normlab: {run.path} is a folder: name a file\n"
    with pytest.raises(SystemExit):
        main(["card"])
    assert "expected a run's folder" in capsys.readouterr().err
