"""What each ingredient of training gives: held-out accuracy with it and without, over seeds.

    python benchmarks/ablation.py --out OUT.json [--only TEXT] [--epochs 6] [--seeds 3]
        [--precision bfloat16]

Every variant is BASE and its recipe but for one thing. 5,000 images of the training split are held
out to judge by; the test split is not read. A run is on one thread, in a process of its own. What
OUT.json holds already is not run again, so that an interrupted ablation goes on. CIFAR-10 comes
from $NORMLAB_DATA.
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
from common import Training, each_once, positive, show
from torch import nn

from normlab.data import load
from normlab.inference.evaluate import evaluate
from normlab.layers.fused import FusedNorm
from normlab.layers.norms.sample import StandardizedConv2d
from normlab.layers.pooling import MaxPool
from normlab.recipes import Recipe
from normlab.seeding import generator
from normlab.training.step import Batches, TrainStep

BASE = "C:16s2 D:20 D:20+ P D:24 D:24+ P D:36 GAP FC"
SHARED = "C:16s2 D:20 D:20+*2 P D:24 D:24+*2 P D:32 GAP FC"  # a little narrower, so under 5,000
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


# --- Ingredients that alter the network ---------------------------------------------------------


def replace(network, kind, new):
    """Puts new(module) in the place of every module of a kind."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, kind):
                setattr(module, name, new(child))


def activation(make, network):
    """Another one than ReLU; `make` takes the channels."""

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
    """After every block's activation."""

    def new(norm):
        if norm.activation is None:
            return norm
        return nn.Sequential(norm, SqueezeAndExcitation(len(norm.weight)))

    replace(network, FusedNorm, new)


def weight_standardization(network):
    """In every convolution that mixes channels."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):  # which leaves depthwise filters as they are
            layer.__class__ = StandardizedConv2d


class MixedPool(nn.Module):
    """Half maximum, half mean: Lee et al. 2016, arXiv:1509.08985, equation 2."""

    def forward(self, x):
        return (F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)) / 2


def mixed_pooling(network):
    """In the place of the maximum."""
    replace(network, MaxPool, lambda _: MixedPool())


def pass_through(network):
    """Depthwise filters start near the identity: Zagoruyko & Komodakis 2017, arXiv:1706.00388."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups > 1:
            with torch.no_grad():
                layer.weight[:, 0, 1, 1] += 1


def bias_rate(times, network):
    """A learning rate of its own for the normalizations' biases."""
    for module in network.modules():
        if isinstance(module, FusedNorm):
            module.bias.register_hook(lambda gradient: gradient * times)


# --- Ingredients that alter the training --------------------------------------------------------


class Whitened(TrainStep):
    """The first layer's filters are the images' components and their opposites, for good.

    Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, section 3.2.
    """

    def whiten(self, images):
        """Sets the filters by images, uint8 N × 3 × 32 × 32."""
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
    """Of 5,000 training images."""
    training.descent = Whitened(training.network, training.recipe, training.precision)
    training.descent.whiten(training.batches.images[:5000])


class Averaged(TrainStep):
    """`mean` follows the weights by 1% a step."""

    def step(self, rate, inputs, labels):
        measured = super().step(rate, inputs, labels)
        values = self.network.state_dict()
        for name, mean in self.mean.state_dict().items():
            mean.lerp_(values[name], 0.01)
        return measured


def mean_of_weights(training):
    """What is evaluated; BatchNorm's own running means are shorter."""
    for module in training.network.modules():
        if isinstance(module, FusedNorm):
            module.momentum = 0.2
    training.descent = Averaged(training.network, training.recipe, training.precision)
    training.descent.mean = training.evaluated = copy.deepcopy(training.network)


def replace_batches(kind, training):
    """Has a subclass of Batches make the batches."""
    training.batches = kind(
        training.dataset, training.recipe, training.seed, training.batches.images.device
    )


class MirroredAtRandom(Batches):
    """Each image is mirrored or not in every epoch anew."""

    def __call__(self, epoch, step):
        if epoch != self.ordered_epoch:
            draws = generator(self.seed, "mirror", epoch)
            self.starts_mirrored = torch.rand(len(self.labels), generator=draws) < 0.5
        return super().__call__(epoch, step)


def mirrored_at_random(training):
    """Instead of in every other epoch."""
    replace_batches(MirroredAtRandom, training)


class SmallFirst(Batches):
    """Images of 24 × 24 in the first half of the epochs."""

    def __call__(self, epoch, step):
        inputs, labels = super().__call__(epoch, step)
        if epoch < self.recipe.epochs // 2:
            inputs = F.interpolate(inputs, size=24, mode="bilinear", antialias=True)
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        return inputs, labels


def small_first(training):
    """Fewer pixels while the learning rate is high."""
    replace_batches(SmallFirst, training)


class Distillation(TrainStep):
    """Half of the target is a larger network's answer: Hinton et al. 2015, arXiv:1503.02531."""

    def step(self, rate, inputs, labels):
        half = torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16")
        with torch.no_grad(), half:
            answers = self.teacher(inputs).float().softmax(1)
        with half:
            logits = self.network(inputs)
        targets = (F.one_hot(labels, answers.shape[1]) + answers) / 2
        self.network.zero_grad()
        F.cross_entropy(logits.float(), targets).backward()
        self.update(rate)


def distillation(training):
    """The teacher is trained by the same recipe on the same images; its time is not counted."""
    recipe = training.recipe
    teacher = Training(TEACHER, training.dataset, recipe, 1, training.precision)
    teacher(recipe.epochs * teacher.batches.steps)
    training.descent = Distillation(training.network, recipe, training.precision)
    training.descent.teacher = teacher.network.eval()


# --- The ablation -------------------------------------------------------------------------------


def nothing(changed):
    """As it is."""


@dataclass(frozen=True)
class Variant:
    """What differs from the base: the layout, settings, and what is done before the first step."""

    network: str = BASE
    norm: str = "bn"
    settings: dict = field(default_factory=dict)
    alter: callable = nothing
    change: callable = nothing


def setting(**settings):
    """A variant of the recipe alone."""
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
    "mirrored at random": Variant(change=mirrored_at_random),
    "never mirrored": setting(mirror=False),
    "upside down at random": setting(augment=("shift", "vertical-flip")),
    "no shift": setting(augment=()),
    "small images in the first half": Variant(change=small_first),
    "mean of the weights": Variant(change=mean_of_weights),
    "whitening first layer": Variant(change=whitening),
    "biases at 8 times the rate": Variant(alter=partial(bias_rate, 8)),
    "depthwise filters near the identity": Variant(alter=pass_through),
    "SiLU": Variant(alter=partial(activation, lambda _: nn.SiLU())),
    "GELU": Variant(alter=partial(activation, lambda _: nn.GELU())),
    "PReLU": Variant(alter=partial(activation, nn.PReLU)),
    "squeeze-and-excitation, narrower": Variant(network=NARROW, alter=squeeze_and_excitation),
    "mixed pooling": Variant(alter=mixed_pooling),
    "shared weights, applied twice": Variant(network=SHARED),
    "distillation": Variant(change=distillation),
    "GroupNorm": Variant(norm="gn"),
    "GroupNorm, weight standardization": Variant(norm="gn", alter=weight_standardization),
    "LayerNorm": Variant(norm="ln"),
    "LayerNorm, weight standardization": Variant(norm="ln", alter=weight_standardization),
}


class Trial(Training):
    """A variant's training with a seed; `evaluated` is what is judged in the end."""

    def __init__(self, variant, recipe, seed, precision):
        dataset = load("cifar10").hold_out(5000, 0)
        recipe = dataclasses.replace(recipe, **variant.settings)
        super().__init__(
            variant.network, dataset, recipe, 1, precision, norm=variant.norm, seed=seed
        )
        self.evaluated = self.network
        variant.alter(self.network)
        self.network.to(memory_format=torch.channels_last)
        self.descent = TrainStep(self.network, recipe, self.precision)
        variant.change(self)


def run(variant, epochs, seed, precision):
    """One run: accuracy in percent, parameters, seconds of the steps."""
    trial = Trial(VARIANTS[variant], dataclasses.replace(RECIPE, epochs=epochs), seed, precision)
    parameters = sum(parameter.numel() for parameter in trial.network.parameters())
    start = perf_counter()
    trial(epochs * trial.batches.steps)
    seconds = perf_counter() - start
    accuracy = 100 * evaluate(trial.evaluated, trial.dataset, "holdout").accuracy
    key = {"variant": variant, "epochs": epochs, "seed": seed, "precision": precision}
    return {**key, "accuracy": accuracy, "parameters": parameters, "seconds": seconds}


def summary(runs, epochs, precision):
    """A row for each variant: parameters, mean and spread, the mean difference from the base."""
    by_seed = {
        name: {
            r["seed"]: r
            for r in runs
            if (r["variant"], r["epochs"], r["precision"]) == (name, epochs, precision)
        }
        for name in VARIANTS
    }
    base, rows = by_seed["the base"], []
    for name, own in by_seed.items():
        if not own:
            continue
        accuracies = [r["accuracy"] for r in own.values()]
        spread = f"{statistics.stdev(accuracies):.2f}" if len(own) > 1 else "one run"
        paired = [r["accuracy"] - base[seed]["accuracy"] for seed, r in own.items() if seed in base]
        gain = f"{statistics.mean(paired):+.2f}" if paired else "–"
        parameters = next(iter(own.values()))["parameters"]
        seconds = statistics.median(r["seconds"] for r in own.values())
        mean = f"{statistics.mean(accuracies):.2f}"
        rows.append((name, f"{parameters:,}", mean, spread, gain, f"{seconds:.0f}"))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="variants with this in the name")
    parser.add_argument("--epochs", type=positive, default=RECIPE.epochs)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, gone on with")
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
