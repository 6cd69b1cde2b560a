"""An ablation of the training ingredients: held-out accuracy with and without each, over seeds.

    python benchmarks/ablation.py --out OUT.json [--only TEXT] [--epochs 6] [--seeds 3]
        [--precision bfloat16]

Every variant changes one thing of BASE and its recipe. Accuracy is on 5,000 images held out of the
training split; the test split is not read. Each run uses one thread, in a separate process. Runs
that OUT.json has already are not repeated, so the same command resumes an interrupted ablation.
CIFAR-10 comes from $NORMLAB_DATA.
"""

import argparse
import copy
import dataclasses
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
import torch.nn.functional as F
from common import Training, each_once, mixed_pool, over_seeds, positive, show
from torch import nn

from normlab.data import load
from normlab.inference.evaluate import evaluate
from normlab.layers.fused import FusedNorm
from normlab.layers.norms.sample import StandardizedConv2d
from normlab.layers.pooling import MaxPool
from normlab.recipes import Recipe
from normlab.seeding import generator
from normlab.training.batches import Batches
from normlab.training.step import TrainStep

BASE = "C:16s2 D:20 D:20+ P D:24 D:24+ P D:36 GAP FC"
SHARED = "C:16s2 D:20 D:20+*2 P D:24 D:24+*2 P D:32 GAP FC"  # narrower, to stay under 5,000
NARROW = "C:16s2 D:16 D:16+ P D:20 D:20+ P D:26 GAP FC"
TEACHER = "C:32s2 D:56 D:56+ P D:88 D:88+ P D:112 D:112+ GAP FC"
RECIPE = Recipe(
    epochs=6,
    batch_size=128,
    learning_rate=0.4,
    nesterov=True,
    muon=0.1,
    schedule="one-cycle",
    weight_decay=1e-4,
    mirror=True,
    augment=("shift",),
)


# --- Ingredients that change the network --------------------------------------------------------


def replace(network, kind, new):
    """Replaces every module of a kind by new(module)."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, new(child))


def activation(make, network):
    """Replaces the ReLUs; `make` takes the number of channels."""

    def new(norm):
        if norm.activation is None:
            return norm
        norm.activation = None
        return nn.Sequential(norm, make(len(norm.weight)))

    replace(network, FusedNorm, new)


class SqueezeAndExcitation(nn.Module):
    """Hu et al. 2018, Squeeze-and-Excitation Networks, arXiv:1709.01507, equations 2 to 4."""

    def __init__(self, channels):
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // 4)
        self.excite = nn.Linear(channels // 4, channels)

    def forward(self, x):
        weights = self.excite(F.relu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * weights[:, :, None, None].to(x.dtype)


def squeeze_and_excitation(network):
    """Adds it after the activation of every block."""

    def new(norm):
        if norm.activation is None:
            return norm
        return nn.Sequential(norm, SqueezeAndExcitation(len(norm.weight)))

    replace(network, FusedNorm, new)


def weight_standardization(network):
    """Standardizes the weights of every convolution that mixes channels."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # it leaves depthwise filters unchanged
            layer.__class__ = StandardizedConv2d


class MixedPool(nn.Module):
    def forward(self, x):
        return mixed_pool(x)


def mixed_pooling(network):
    """Replaces max pooling."""
    replace(network, MaxPool, lambda _: MixedPool())


def pass_through(network):
    """Depthwise filters start near the identity: Zagoruyko & Komodakis 2017, arXiv:1706.00388."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            with torch.no_grad():
                layer.weight[:, 0, 1, 1] += 1


def bias_rate(factor, network):
    """Multiplies the learning rate of the normalizations' biases."""
    for module in network.modules():
        if isinstance(module, FusedNorm):
            module.bias.register_hook(lambda gradient: gradient * factor)


# --- Ingredients that change the training -------------------------------------------------------


class Whitened(TrainStep):
    """The first layer's filters are the images' principal components and their negatives, fixed.

    Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, section 3.2.
    """

    def whiten(self, images):
        """Computes the filters from images, uint8 N × 3 × 32 × 32."""
        network, weight = self.network, self.network.weights[0]
        inputs = images.float() / 255 - network.input_mean[:, None, None]
        inputs /= network.input_std[:, None, None]
        patches = inputs.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).flatten(3)
        values, vectors = torch.linalg.eigh(torch.cov(patches.flatten(0, 2).T))
        components = (vectors / (values + 0.01).sqrt()).T.flip(0)[: len(weight) // 2]
        self.filters = torch.cat((components, -components)).view_as(weight)
        weight.data.copy_(self.filters)

    def step(self, rate, inputs, labels):
        measured = super().step(rate, inputs, labels)
        self.network.weights[0].data.copy_(self.filters)
        return measured


def whitening(training):
    """Computes the filters from 5,000 training images."""
    training.train_step = Whitened(training.network, training.recipe, training.precision)
    training.train_step.whiten(training.batches.images[:5000])


class Averaged(TrainStep):
    """`mean` is an exponential moving average of the weights, 1% per step."""

    def step(self, rate, inputs, labels):
        measured = super().step(rate, inputs, labels)
        values = self.network.state_dict()
        for name, mean in self.mean.state_dict().items():
            mean.lerp_(values[name], 0.01)
        return measured


def mean_of_weights(training):
    """Evaluates the mean; BatchNorm's own running means average over a shorter time."""
    for module in training.network.modules():
        if isinstance(module, FusedNorm):
            module.momentum = 0.2
    training.train_step = Averaged(training.network, training.recipe, training.precision)
    training.train_step.mean = training.evaluated = copy.deepcopy(training.network)


def replace_batches(kind, training):
    """Makes the batches with a subclass of Batches."""
    training.batches = kind(
        training.dataset, training.recipe, training.seed, training.batches.images.device
    )


class MirroredAtRandom(Batches):
    """Each image is mirrored at random in every epoch."""

    def __call__(self, epoch, step):
        if epoch != self.ordered_epoch:
            draws = generator(self.seed, "mirror", epoch)
            self.starts_mirrored = torch.rand(len(self.labels), generator=draws) < 0.5
        return super().__call__(epoch, step)


def mirrored_at_random(training):
    """Mirrors at random instead of in every other epoch."""
    replace_batches(MirroredAtRandom, training)


class SmallFirst(Batches):
    """Images are 24 × 24 in the first half of the epochs."""

    def __call__(self, epoch, step):
        inputs, labels = super().__call__(epoch, step)
        if epoch < self.recipe.epochs // 2:
            inputs = F.interpolate(inputs, size=24, mode="bilinear", antialias=True)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, labels


def small_first(training):
    """Trains on fewer pixels while the learning rate is high."""
    replace_batches(SmallFirst, training)


class Distillation(TrainStep):
    """Half of the target is a teacher's prediction: Hinton et al. 2015, arXiv:1503.02531."""

    def step(self, rate, inputs, labels):
        half = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16")
        with torch.no_grad(), half:
            predictions = self.teacher(inputs).float().softmax(1)
        with half:
            logits = self.network(inputs)
        targets = (F.one_hot(labels, predictions.shape[1]) + predictions) / 2
        self.network.zero_grad()
        F.cross_entropy(logits.float(), targets).backward()
        self.update(rate)


def distillation(training):
    """Trains the teacher with the same recipe on the same images; its time is not measured."""
    recipe = training.recipe
    teacher = Training(TEACHER, training.dataset, recipe, 1, training.precision)
    teacher(recipe.epochs * teacher.batches.steps)
    training.train_step = Distillation(training.network, recipe, training.precision)
    training.train_step.teacher = teacher.network.eval()


# --- The ablation -------------------------------------------------------------------------------


def nothing(_):
    """Changes nothing."""


@dataclass(frozen=True)
class Variant:
    """What differs from the base.

    Attributes:
        network: The layout.
        norm: Normalization.
        settings: Fields of the recipe.
        alter_network: Called with the network before training.
        alter_training: Called with the `Trial` before training.
    """

    network: str = BASE
    norm: str = "bn"
    settings: dict = field(default_factory=dict)
    alter_network: callable = nothing
    alter_training: callable = nothing


def setting(**settings):
    """A variant that changes only the recipe."""
    return Variant(settings=settings)


VARIANTS = {
    "the base": Variant(),
    "SGD alone": setting(muon=0.0),
    "SGD alone, rate 0.1": setting(muon=0.0, learning_rate=0.1),
    "SGD alone, no Nesterov": setting(muon=0.0, nesterov=False),
    "SGD alone, constant rate of 0.05": setting(muon=0.0, schedule="step", learning_rate=0.05),
    "rate 0.2": setting(learning_rate=0.2),
    "rate 0.8": setting(learning_rate=0.8),
    "batch 64": setting(batch_size=64),
    "batch 256": setting(batch_size=256),
    "no weight decay": setting(weight_decay=0.0),
    "weight decay 5e-4": setting(weight_decay=5e-4),
    "label smoothing 0.1": setting(label_smoothing=0.1),
    "dropout 0.05": setting(dropout=0.05),
    "mirrored at random": Variant(alter_training=mirrored_at_random),
    "never mirrored": setting(mirror=False),
    "upside down at random": setting(augment=("shift", "vertical-flip")),
    "no shift": setting(augment=()),
    "small images in the first half": Variant(alter_training=small_first),
    "mean of the weights": Variant(alter_training=mean_of_weights),
    "whitening first layer": Variant(alter_training=whitening),
    "biases at 8 times the rate": Variant(alter_network=partial(bias_rate, 8)),
    "depthwise filters near the identity": Variant(alter_network=pass_through),
    "SiLU": Variant(alter_network=partial(activation, lambda _: nn.SiLU())),
    "GELU": Variant(alter_network=partial(activation, lambda _: nn.GELU())),
    "PReLU": Variant(alter_network=partial(activation, nn.PReLU)),
    "squeeze-and-excitation, narrower": Variant(
        network=NARROW, alter_network=squeeze_and_excitation
    ),
    "mixed pooling": Variant(alter_network=mixed_pooling),
    "shared weights, applied twice": Variant(network=SHARED),
    "distillation": Variant(alter_training=distillation),
    "GroupNorm": Variant(norm="gn"),
    "GroupNorm, weight standardization": Variant(norm="gn", alter_network=weight_standardization),
    "LayerNorm": Variant(norm="ln"),
    "LayerNorm, weight standardization": Variant(norm="ln", alter_network=weight_standardization),
}


class Trial(Training):
    """The training of a variant with a seed; `evaluated` is the network that is evaluated."""

    def __init__(self, variant, recipe, seed, precision):
        dataset = load("cifar10").hold_out(5000, 0)
        recipe = dataclasses.replace(recipe, **variant.settings)
        super().__init__(
            variant.network, dataset, recipe, 1, precision, norm=variant.norm, seed=seed
        )
        self.evaluated = self.network
        variant.alter_network(self.network)
        self.network.to(memory_format=torch.channels_last)
        self.train_step = TrainStep(self.network, recipe, self.precision)
        variant.alter_training(self)


def run(variant, epochs, seed, precision):
    """Does one run; its record has accuracy in percent, parameters, and seconds of the steps."""
    trial = Trial(VARIANTS[variant], dataclasses.replace(RECIPE, epochs=epochs), seed, precision)
    parameters = sum(parameter.numel() for parameter in trial.network.parameters())
    start = perf_counter()
    trial(epochs * trial.batches.steps)
    seconds = perf_counter() - start
    accuracy = 100 * evaluate(trial.evaluated, trial.dataset, "holdout").accuracy
    key = {"variant": variant, "epochs": epochs, "seed": seed, "precision": precision}
    return {**key, "accuracy": accuracy, "parameters": parameters, "seconds": seconds}


def summary(runs, epochs, precision):
    """One row per variant: parameters, mean and spread, mean difference from the base, seconds."""
    by_variant = {
        name: [
            r
            for r in runs
            if (r["variant"], r["epochs"], r["precision"]) == (name, epochs, precision)
        ]
        for name in VARIANTS
    }
    accuracies = {
        name: {r["seed"]: r["accuracy"] for r in found} for name, found in by_variant.items()
    }
    return [
        (
            name,
            f"{found[0]['parameters']:,}",
            *over_seeds(accuracies[name], accuracies["the base"]),
            f"{statistics.median(r['seconds'] for r in found):.0f}",
        )
        for name, found in by_variant.items()
        if found
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only variants whose name contains this"
    )
    parser.add_argument("--epochs", type=positive, default=RECIPE.epochs)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; resumed if it exists")
    options = parser.parse_args()
    wanted = [
        {"variant": name, "epochs": options.epochs, "seed": seed, "precision": options.precision}
        for seed in range(options.seeds)
        for name in VARIANTS
        if options.only in name
    ]
    about = {"base": BASE, "recipe": dataclasses.asdict(RECIPE)}
    runs = each_once(run, wanted, options.out, options.workers, **about)
    show(
        f"Held-out accuracy in percent after {options.epochs} epochs, {options.precision}",
        ("variant", "parameters", "mean", "spread", "over the base", "seconds"),
        summary(runs, options.epochs, options.precision),
    )


if __name__ == "__main__":
    main()
