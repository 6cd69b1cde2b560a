"""Synthetic runs, evaluations, images and studies, to test pages and figures with."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from normlab.config import RunConfig, StudyConfig
from normlab.data.dataset import Dataset, Split
from normlab.inference.evaluate import Evaluation
from normlab.network import zoo
from normlab.network.model import Network
from normlab.recipes import resolve
from normlab.runs.metrics import Epoch
from normlab.runs.provenance import DataCard, Machine
from normlab.runs.run import Run
from normlab.study import predictions, tuning
from normlab.study.plan import plan
from normlab.study.record import Costs, Result, Study

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LAYOUT = "C:12 C:24 C:24+ c:12 P C:24 C:24 C:32v c:20 P C:42v C:42+ c GAP"
MACHINE = Machine(
    from_epoch=1,
    processor="A processor @ 2.40GHz",
    capability="AVX2",
    device="cpu",
    threads=2,
    kernels="compiled",
    python="3.11.9",
    torch="2.13.0",
    normlab="0.1.0",
)


def epochs(accuracies, *, train=None, losses=None, train_losses=None, split="test"):
    """Epochs with these accuracies; the other numbers are derived from them unless given."""
    count = len(accuracies)
    train = train or [a - 0.02 for a in accuracies]
    losses = losses or [2.3 * (1 - a) for a in accuracies]
    train_losses = train_losses or [2.3 * (1 - a) for a in train]
    return tuple(
        Epoch(
            epoch=k + 1,
            train_loss=train_losses[k],
            train_accuracy=train[k],
            split=split,
            loss=losses[k],
            accuracy=accuracies[k],
            learning_rate=0.01,
            seconds=53.0,
        )
        for k in range(count)
    )


def rising(last=0.7141, count=20):
    """Accuracies that rise to `last` as in training."""
    return [last - 0.3 * 0.75**k + 0.3 * 0.75 ** (count - 1) for k in range(count)]


def run(
    path=Path("bn"),
    *,
    accuracies=None,
    layout=LAYOUT,
    classes=CLASSES,
    train=50_000,
    holdout=0,
    test=10_000,
    fingerprint="ab" * 32,
    notes=(),
    curve=None,
    **config,
):
    """A run; other keywords are settings of its configuration."""
    config = RunConfig(**{"network": "seed-bn", "holdout": holdout, **config})
    split = "holdout" if holdout else "test"
    return Run(
        path=Path(path),
        config=config,
        recipe=resolve(config),
        layout=layout,
        data=DataCard(
            fingerprint=fingerprint,
            classes=tuple(classes),
            train=train - holdout,
            holdout=holdout,
            test=test,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.247, 0.2435, 0.2616),
            notes=tuple(notes),
        ),
        machines=(MACHINE,),
        epochs=curve or epochs(accuracies or rising(), split=split),
    )


def evaluation(matrix, *, classes=None, split="test", seed=0):
    """An evaluation with this confusion matrix, its images in a random order."""
    matrix = np.asarray(matrix)
    count = len(matrix)
    labels, predictions = (
        np.repeat(axis.ravel(), matrix.ravel()) for axis in np.indices(matrix.shape)
    )
    order = np.random.default_rng(seed).permutation(len(labels))
    labels, predictions = labels[order], predictions[order]
    confidence = np.random.default_rng(seed + 1).uniform(0.55, 0.999, len(labels))
    probabilities = np.empty((len(labels), count), dtype=np.float32)
    probabilities[:] = ((1 - confidence) / max(1, count - 1))[:, None]
    probabilities[np.arange(len(labels)), predictions] = confidence
    return Evaluation(
        split=split,
        classes=tuple(classes or CLASSES[:count]),
        labels=labels.astype(np.int64),
        probabilities=probabilities,
        loss=0.81,
    )


# 10,000 images, 7,141 on the diagonal; cats are taken for dogs.
MATRIX = np.array(
    [
        [761, 22, 41, 24, 18, 6, 12, 11, 73, 32],
        [19, 839, 4, 8, 2, 4, 11, 2, 27, 84],
        [71, 5, 578, 74, 97, 66, 72, 24, 8, 5],
        [22, 9, 68, 496, 68, 186, 92, 38, 12, 9],
        [18, 4, 73, 61, 671, 31, 74, 62, 5, 1],
        [12, 3, 54, 171, 52, 631, 28, 42, 4, 3],
        [4, 5, 44, 56, 37, 22, 823, 4, 4, 1],
        [14, 2, 29, 43, 72, 68, 9, 752, 3, 8],
        [86, 33, 12, 14, 7, 4, 7, 3, 812, 22],
        [33, 101, 8, 14, 4, 5, 9, 17, 31, 778],
    ]
)


def split(labels, seed=0):
    """Images whose class is visible: a coloured disc on a gradient."""
    labels = np.asarray(labels, dtype=np.int64)
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:32, :32]
    images = np.empty((len(labels), 3, 32, 32), dtype=np.uint8)
    for k, label in enumerate(labels):
        disc = (y - random.uniform(10, 22)) ** 2 + (x - random.uniform(10, 22)) ** 2 < 70
        color = 127 + 127 * np.cos(label * 0.7 + np.array([0, 2, 4]))
        back = 40 + 5 * np.array([y, (x + y) / 2, x])
        images[k] = np.where(disc, color[:, None, None], back)
    return Split(images, labels)


def dataset(train=200, test=100, classes=CLASSES):
    """A small data set of such images."""
    labels = np.arange(max(train, test)) % len(classes)
    return Dataset("made-up", tuple(classes), split(labels[:train]), split(labels[:test], seed=1))


class Page(HTMLParser):
    """A parsed page: its text, and its tags with their attributes."""

    def __init__(self, content):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("style", "title"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


PUBLISHED = "norm,epoch,train_loss,train_accuracy,test_loss,test_accuracy\n" + "".join(
    f"bn,{k},{1.66 - 0.04 * k},{36 + 1.6 * k},{1.5 - 0.03 * k},{42 + 1.5 * k}\n"
    for k in range(1, 21)
)


def study(
    path, *, seeds=5, means=None, images=2000, classes=CLASSES, labels=None, trials=True, **config
):
    """A synthetic study in a folder, with the records and predictions of its runs, without weights.

    Args:
        path: The folder.
        seeds: The number of seeds.
        means: Mean accuracies after the last epoch, by the names of arms; others get a default.
        images: The number of images in the test split.
        classes: The names of the classes.
        labels: The images' classes; by default all in turn.
        trials: Whether settings were searched.
        config: Other settings of the study.
    """
    config = StudyConfig(
        **{"network": "nano", "norms": ("bn", "gn", "ln"), "seeds": seeds, "tune_seeds": 1}
        | {"tune": ("lr",)}
        | config
    )
    if not trials:
        config = dataclasses.replace(config, tune=(), tune_seeds=3)
    arms = plan(config, classes=len(classes), images=50_000, shape=(3, 32, 32))
    random = np.random.default_rng(0)
    labels = np.arange(images) % len(classes) if labels is None else labels
    shared = random.normal(0, 0.004, seeds)
    hard = random.uniform(0, 1, images)
    results, costs = [], {}
    for k, arm in enumerate(arms):
        mean = (means or {}).get(arm.name, 0.78 - 0.012 * k)
        layout = Network(zoo.find(arm.config.network), classes=len(classes)).layout
        for seed in range(seeds):
            share = mean + shared[seed] + random.normal(0, 0.003)
            right = hard + random.normal(0, 0.1, images) < share
            wrong = (labels + random.integers(1, len(classes), images)) % len(classes)
            confidence = np.clip(0.95 - 0.5 * hard + random.normal(0, 0.05, images), 0.2, 1)
            accuracies = rising(float(right.mean()), count=arm.recipe.epochs)
            made = run(
                path / "runs" / f"{arm.name}-{seed}",
                accuracies=accuracies,
                classes=classes,
                test=images,
                layout=layout,
                **{
                    field.name: getattr(arm.run_config(seed), field.name)
                    for field in dataclasses.fields(arm.config)
                },
            )
            made.path.mkdir(parents=True)
            made.write_config()
            made.write_metrics()
            predictions.write(
                predictions.Predictions(
                    predictions=np.where(right, labels, wrong),
                    confidences=confidence.astype(np.float32),
                    labels=labels,
                    peak_memory=700 * 2**20,
                ),
                made.path / "answers.npz",
            )
            results.append(
                Result(
                    arm=arm.name,
                    seed=seed,
                    state="done",
                    accuracies=tuple(accuracies),
                    parameters=4888,
                )
            )
            costs[f"{arm.name}-{seed}"] = Costs(seconds=300.0 + k, peak_memory=700 * 2**20)
    made_up = Study(
        path=path,
        config=config,
        arms=tuple(arms),
        images=images,
        fingerprint="ab" * 32,
        trials=tuple(searched(config, arms)) if trials else (),
        results=tuple(results),
        costs=costs,
    )
    made_up.write()
    return made_up


def searched(config, arms):
    """The trials of a search: the best value is in the middle for the first arm, then moves up."""
    noise = np.random.default_rng(1).normal(0, 0.004 * (config.tune_seeds > 1), 100)
    for of in tuning.rounds(config):
        for k, arm in enumerate(arms):
            done = ()
            for rung in of.rungs:
                asked = tuning.rung_of(of, rung, config, arm, done)
                values = tuning.grid(of, config, arm)
                middle = (len(values) - 1) // 2
                done = [
                    dataclasses.replace(
                        trial,
                        accuracy=max(
                            0.0,
                            0.6
                            + 0.04 * rung
                            - 0.02 * abs(values.index(trial.value) - middle - k)
                            + noise[(trial.seed * 7 + values.index(trial.value) + 31 * k) % 100],
                        ),
                    )
                    for trial in asked
                ]
                yield from done
