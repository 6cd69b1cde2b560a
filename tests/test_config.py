"""The settings of runs and studies: their order in files, which runs of older versions rely on."""

import dataclasses
from pathlib import Path

from normlab import Recipe, RunConfig, StudyConfig
from normlab.config import (
    WRITTEN_IF_GIVEN,
    DataConfig,
    TrainingConfig,
    field_order,
    recorded,
)
from normlab.runs.provenance import DataCard
from normlab.runs.run import Run

RUN = RunConfig(
    network="C:4 GAP FC",
    norm="gn=2",
    dataset="digits",
    recipe="demo",
    budget=500,
    batch_size=32,
    learning_rate=0.5,
    train_images=100,
    label_noise=0.1,
    seed=3,
)

STUDY = StudyConfig(
    network="nano",
    holdout=10,
    norms=("bn", "gn=2"),
    seeds=3,
    layouts=("line",),
    budgets=(5000,),
    batch_sizes=(8, 32),
    groups=(2,),
    train_images=(100, 1000),
    label_noise=(0.0, 0.2),
    tune=("lr",),
    recipe="micro",
    untuned=True,
    epochs=2,
    learning_rate=0.1,
    weight_decay=0.0,
    precision="bfloat16",
)
ADDED = ["contrasts", "margin", "looks"]  # by later versions; written only if given
ADDED_TO_RUNS = [
    *("muon", "label_smoothing", "augment", "recalibrate", "branches", "activation"),
    *("teacher", "teacher_weight", "teacher_temperature"),
    *("size", "channels", "image_column", "label_column"),
    *("balance", "start_from"),
    *("ram", "flash", "macs", "board"),
]


def names(kind):
    return [field.name for field in dataclasses.fields(kind)]


def test_a_run_has_the_digest_that_earlier_versions_gave_it():
    """A checkpoint holds it: with another digest, a stopped run could not be resumed."""
    run = Run(
        path=Path("run"),
        config=RUN,
        recipe=Recipe(
            epochs=10,
            batch_size=32,
            learning_rate=0.5,
            nesterov=True,
            schedule="one-cycle",
            augment=("shift",),
        ),
        layout="C:4 GAP FC",
        data=DataCard(
            fingerprint=64 * "f",
            classes=("a", "b"),
            train=100,
            holdout=0,
            test=50,
            mean=(0.25, 0.5, 0.75),
            std=(0.5, 0.5, 0.5),
        ),
        machines=(),
    )
    assert run.digest == "98de485c8722b6cd2c99b620b3c9fdc29d2ae9b1c6bc011ffdd8dac75d2672ac"
    assert dataclasses.replace(run, stopped_after=3).digest == run.digest


def test_files_record_the_settings_in_the_order_of_earlier_versions():
    data = ["dataset", "holdout", "split_seed", "skip_unreadable"]
    assert list(recorded(RUN)) == [
        *data,
        *("network", "norm", "budget", "recipe", "untuned", "epochs", "batch_size"),
        *("learning_rate", "weight_decay", "train_images", "label_noise", "precision", "seed"),
    ]
    assert list(recorded(STUDY)) == [
        *data,
        *("network", "norms", "seeds", "layouts", "budgets", "batch_sizes", "groups"),
        *("train_images", "label_noise", "tune", "recipe", "untuned", "epochs"),
        *("learning_rate", "weight_decay", "precision"),
        "tune_seeds",
    ]
    assert (*ADDED, *ADDED_TO_RUNS) == WRITTEN_IF_GIVEN


def test_a_run_records_settings_that_earlier_versions_lack_only_if_it_has_them():
    given = {"muon": 0.0, "label_smoothing": 0.0, "augment": (), "recalibrate": True}
    given |= {"branches": "repvgg", "activation": "silu"}
    given |= {"teacher": "micro", "teacher_weight": 0.5, "teacher_temperature": 4.0}
    given |= {"size": 28, "channels": "grey", "image_column": "img", "label_column": "fine"}
    given |= {"balance": True, "start_from": "micro"}
    given |= {"ram": 32768, "flash": 65536, "macs": 2_000_000, "board": "pico"}
    for name, value in given.items():
        assert recorded(dataclasses.replace(RUN, **{name: value}))[name] == value
    assert not set(given) & set(recorded(RUN))


def test_a_relu_is_what_a_run_does_not_state_and_a_study_does():
    """A study without it takes each network's own; a run has had that filled in."""
    assert "activation" not in recorded(dataclasses.replace(RUN, activation="relu"))
    assert recorded(dataclasses.replace(STUDY, activation="relu"))["activation"] == "relu"
    assert "activation" not in recorded(STUDY)
    assert dataclasses.replace(STUDY, activation="silu").command.endswith(" --activation silu")


def test_colour_is_what_a_run_does_not_state():
    """Runs of earlier versions had three channels."""
    assert "channels" not in recorded(dataclasses.replace(RUN, channels="colour"))
    colour = dataclasses.replace(STUDY, channels="colour")
    assert recorded(colour)["channels"] == "colour"
    assert " --channels colour" in colour.command


def test_the_weight_and_temperature_of_a_teacher_are_recorded_where_there_is_one():
    """A later version may have other defaults."""
    taught = recorded(dataclasses.replace(RUN, teacher="micro"))
    assert (taught["teacher_weight"], taught["teacher_temperature"]) == (0.9, 2.0)


def test_the_seeds_of_a_search_are_recorded_where_there_is_one():
    """Searches of earlier versions had one seed and do not state it."""
    assert recorded(STUDY)["tune_seeds"] == 3
    assert "tune_seeds" not in recorded(dataclasses.replace(STUDY, tune=()))
    once = dataclasses.replace(STUDY, tune_seeds=1)
    assert "tune_seeds" not in recorded(once)
    assert "--tune-seeds 1" in once.command


def test_a_studys_command_gives_its_settings_in_the_order_of_earlier_versions():
    assert STUDY.command == (
        "normlab compare nano --holdout 10 --norms bn gn=2 --seeds 3 --layouts line "
        "--budgets 5000 --batch-sizes 8 32 --groups 2 --train-images 100 1000 "
        "--label-noise 0.0 0.2 --tune lr --recipe micro --untuned --epochs 2 "
        "--learning-rate 0.1 --weight-decay 0.0 --precision bfloat16"
    )


def test_a_setting_without_a_place_in_the_order_comes_last():
    @field_order("network", "dataset")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(DataConfig):
        network: str
        activation: str = "relu"

    data = [name for name in names(DataConfig) if name != "dataset"]
    assert names(Config) == ["network", "dataset", *data, "activation"]
    assert list(dataclasses.asdict(Config(network="nano"))) == names(Config)


def test_runs_and_studies_share_their_training_settings():
    shared = set(names(TrainingConfig))
    assert {"recipe", "untuned", "epochs", "learning_rate", "weight_decay", "precision"} <= shared
    assert shared <= set(names(RunConfig)) & set(names(StudyConfig))
