"""Training images per second of `seed-bn`: normlab, plain PyTorch, Lightning and Keras.

    python benchmarks/throughput.py [--threads 2] [--repetitions 7] [--out OUT.json]

The benchmark compares whole training steps (batch, forward, cross-entropy, backward, update) of one
network: batch size 64, SGD 0.01 with momentum 0.9, float32, the same CIFAR-10 images from
$NORMLAB_DATA, in memory, shuffled, without augmentation; once with the dropout of the recipe `seed`
and once without dropout.

    normlab           the step of `normlab train`: its batches, from uint8 images; its compiled
                      passes; channels last; glibc's malloc configured to keep memory
    normlab bfloat16  the same with --precision bfloat16, if the processor computes in bfloat16;
                      other arithmetic, so not part of the comparison
    PyTorch           eager torch.nn layers in contiguous memory, with a loop as a student writes it
    PyTorch           the same in channels_last memory, as an experienced user writes it
      channels_last
    Lightning         the same module with Trainer(barebones=True), given ready batches: a
                      DataLoader, which gathers single images, would only slow it down
    Keras             the same layers and train_on_batch on TensorFlow, its fastest back end on a
                      CPU; channels last; the default of jit_compile

All but normlab get float32 images that were standardized beforehand, so their steps need no time
for that.

Each contender runs in a separate process, pinned to as many cores as it has threads: the malloc
setting of normlab applies to a whole process. The contenders alternate in blocks of steps and sleep
in between. The first block of each is discarded. A ratio is the median of the repetitions' ratios.

Finally it checks that normlab and PyTorch compute the same, from equal weights, on equal batches,
without dropout: the relative error of the gradients of some batches against float64 (about 1e-6 if
only rounding differs, up to 1e-2 if rounding moved a value across a ReLU's zero or changed the
maximum of a pool), and the largest relative difference of the losses up to a step. Training
amplifies every difference, so the difference of PyTorch in channels_last memory from PyTorch is
given too.
"""

import dataclasses
import logging
import os
import statistics
import warnings
from functools import partial
from importlib import metadata
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from common import (
    Training,
    Worker,
    alternate,
    cifar10_part,
    computes_in_bfloat16,
    median_ratio,
    medians,
    parser,
    report,
    show,
)
from torch import nn

from normlab import recipes
from normlab.data.describe import channel_statistics

NETWORK, PARAMETERS = "seed-bn", 48_020
RECIPE = dataclasses.replace(recipes.find("seed"), augment=())
IMAGES = 12_800  # from the training split
LOSSES_AT = (1, 10, 50, 100)
GRADIENTS = 10


# --- The contenders, each built from the data, the dropout and the threads ----------------------


def normlab(dataset, dropout, threads, precision="float32"):
    recipe = dataclasses.replace(RECIPE, dropout=dropout)
    return Training(NETWORK, dataset, recipe, threads, precision)


class SeedBN(nn.Module):
    """C:12 C:24 C:24+ c:12 P C:24 C:24 C:32v c:20 P C:42v C:42+ c:10 GAP."""

    def __init__(self, dropout):
        super().__init__()

        def block(inputs, outputs, padding=1):
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
                *([nn.Dropout(dropout)] if dropout else []),
            )

        self.block1a = block(3, 12)
        self.block1b = block(12, 24)
        self.block1c = block(24, 24)
        self.transition1 = nn.Conv2d(24, 12, 1, bias=False)
        self.block2a = block(12, 24)
        self.block2b = block(24, 24)
        self.block2c = block(24, 32, padding=0)
        self.transition2 = nn.Conv2d(32, 20, 1, bias=False)
        self.block3a = block(20, 42, padding=0)
        self.block3b = block(42, 42)
        self.transition3 = nn.Conv2d(42, 10, 1, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.block1b(self.block1a(x))
        x = x + self.block1c(x)
        x = self.pool(self.transition1(x))
        x = self.block2c(self.block2b(self.block2a(x)))
        x = self.pool(self.transition2(x))
        x = self.block3a(x)
        x = x + self.block3b(x)
        return self.gap(self.transition3(x)).flatten(1)


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=RECIPE.learning_rate, momentum=RECIPE.momentum)


def step(network, optimizer, inputs, labels):
    loss = F.cross_entropy(network(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


class PyTorch:
    def __init__(self, dataset, dropout, threads, memory_format=torch.contiguous_format):
        torch.set_num_threads(threads)
        self.network = SeedBN(dropout).to(memory_format=memory_format)
        check(parameter.numel() for parameter in self.network.parameters())
        self.optimizer = sgd(self.network)
        images, labels = standardized(dataset.train)
        self.images = torch.from_numpy(images).contiguous(memory_format=memory_format)
        self.labels = torch.from_numpy(labels)

    def __call__(self, steps):
        start = perf_counter()
        for inputs, labels in Shuffled(self.images, self.labels, steps):
            step(self.network, self.optimizer, inputs, labels)
        return steps * RECIPE.batch_size / (perf_counter() - start)


class Lightning(PyTorch):
    def __init__(self, dataset, dropout, threads):
        import lightning.pytorch as lightning

        super().__init__(dataset, dropout, threads)
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning")

        class Module(lightning.LightningModule):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def training_step(self, batch):
                inputs, labels = batch
                return F.cross_entropy(self.network(inputs), labels)

            def configure_optimizers(self):
                return sgd(self.network)

            def on_train_epoch_start(self):
                self.start = perf_counter()

            def on_train_epoch_end(self):
                self.seconds = perf_counter() - self.start

        self.module = Module(self.network)
        self.trainer = partial(
            lightning.Trainer, accelerator="cpu", devices=1, max_epochs=1, barebones=True
        )

    def __call__(self, steps):
        # A block is an epoch, timed inside it, so the start of the Trainer is excluded.
        self.trainer().fit(self.module, Shuffled(self.images, self.labels, steps))
        return steps * RECIPE.batch_size / self.module.seconds


class Shuffled:
    """Batches of shuffled images, `steps` of them."""

    def __init__(self, images, labels, steps):
        self.images, self.labels, self.steps = images, labels, steps

    def __len__(self):
        return self.steps

    def __iter__(self):
        order = torch.randperm(len(self.labels))
        for indices in order.split(RECIPE.batch_size)[: self.steps]:
            yield self.images[indices], self.labels[indices]


class Keras:
    def __init__(self, dataset, dropout, threads):
        os.environ["KERAS_BACKEND"] = "tensorflow"
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        import keras
        import tensorflow
        from keras import layers

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)

        def block(x, outputs, padding="same"):
            x = layers.Conv2D(outputs, 3, padding=padding, use_bias=False)(x)
            x = layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x)
            x = layers.ReLU()(x)
            return layers.Dropout(dropout)(x) if dropout else x

        def transition(x, outputs):
            return layers.Conv2D(outputs, 1, use_bias=False)(x)

        images = keras.Input((32, 32, 3))
        x = block(block(images, 12), 24)
        x = layers.add([x, block(x, 24)])
        x = layers.MaxPooling2D()(transition(x, 12))
        x = block(block(block(x, 24), 24), 32, "valid")
        x = layers.MaxPooling2D()(transition(x, 20))
        x = block(x, 42, "valid")
        x = layers.add([x, block(x, 42)])
        logits = layers.GlobalAveragePooling2D()(transition(x, 10))
        self.model = keras.Model(images, logits)
        check(int(np.prod(weights.shape)) for weights in self.model.trainable_weights)
        self.model.compile(
            keras.optimizers.SGD(RECIPE.learning_rate, momentum=RECIPE.momentum),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        self.images, self.labels = standardized(dataset.train)
        self.images = np.ascontiguousarray(self.images.transpose(0, 2, 3, 1))
        self.draw = np.random.default_rng(0)

    def __call__(self, steps):
        start = perf_counter()
        order = self.draw.permutation(len(self.labels))
        for step in range(steps):
            indices = order[step * RECIPE.batch_size : (step + 1) * RECIPE.batch_size]
            self.model.train_on_batch(self.images[indices], self.labels[indices])
        return steps * RECIPE.batch_size / (perf_counter() - start)


def standardized(split):
    """Images standardized per channel, float32 N × 3 × 32 × 32, and labels, int64."""
    mean, std = (values[:, None, None] for values in channel_statistics(split.images))
    return ((split.images / np.float32(255) - mean) / std).astype(np.float32), split.labels


def check(sizes):
    if (parameters := sum(sizes)) != PARAMETERS:
        raise ValueError(f"{NETWORK} has {PARAMETERS:,} parameters, this network {parameters:,}")


# --- The measurements ---------------------------------------------------------------------------


def race(dataset, dropout, threads, repetitions, steps):
    """Images per second of every contender, per block."""
    contenders = {
        "normlab": normlab,
        "PyTorch": PyTorch,
        "PyTorch channels_last": partial(PyTorch, memory_format=torch.channels_last),
        "Lightning": Lightning,
        "Keras": Keras,
    }
    if computes_in_bfloat16():
        contenders["normlab bfloat16"] = partial(normlab, precision="bfloat16")
    workers = {
        name: Worker(build, dataset, dropout, threads, cores=threads)
        for name, build in contenders.items()
    }
    rates = alternate(
        {name: partial(worker, steps) for name, worker in workers.items()}, repetitions
    )
    for worker in workers.values():
        worker.close()
    return {
        "dropout": dropout,
        "images_per_second": rates,
        "median_images_per_second": medians(rates),
        "normlab_over": {
            name: median_ratio(rates["normlab"], rate)
            for name, rate in rates.items()
            if not name.startswith("normlab")
        },
    }


class Arithmetic:
    """normlab and PyTorch from the same initial weights, on the same batches, without dropout."""

    def __init__(self, dataset, threads):
        self.training = normlab(dataset, 0.0, threads)
        self.network = self.training.network
        self.weights = [weights.detach().clone() for weights in self.network.parameters()]

    def __call__(self):
        """The gradient errors of GRADIENTS batches, and the losses of the steps."""
        batches = [self.training.batches(0, step) for step in range(max(LOSSES_AT))]
        exact = self.plain(torch.float64)
        plain = {
            "PyTorch": self.plain(torch.float32),
            "PyTorch channels_last": self.plain(torch.float32, torch.channels_last),
        }
        errors = {name: [] for name in ("normlab", *plain)}
        for batch in batches[:GRADIENTS]:
            reference = gradient(exact, *batch)
            for name, network in {"normlab": self.network, **plain}.items():
                error = (gradient(network, *batch) - reference).norm() / reference.norm()
                errors[name].append(error.item())
        rate = RECIPE.learning_rate
        losses = {"normlab": [self.training.train_step.step(rate, *batch)[0] for batch in batches]}
        for name, network in plain.items():
            optimizer = sgd(network)
            losses[name] = [step(network, optimizer, *batch) for batch in batches]
        return errors, losses

    def plain(self, dtype, memory_format=torch.contiguous_format):
        """PyTorch's network with normlab's normalization of the inputs."""
        network = SeedBN(0.0)
        with torch.no_grad():
            for parameter, weights in zip(network.parameters(), self.weights, strict=True):
                parameter.copy_(weights)
        mean, std = self.network.input_mean[:, None, None], self.network.input_std[:, None, None]

        class Standardize(nn.Module):
            def forward(self, inputs):
                return ((inputs - mean) / std).to(dtype, memory_format=memory_format)

        network.to(dtype=dtype, memory_format=memory_format)
        return nn.Sequential(Standardize(), network)


def gradient(network, inputs, labels):
    """The gradient of the loss with respect to all weights, as one float64 vector."""
    network.zero_grad()
    F.cross_entropy(network(inputs), labels).backward()
    return torch.cat([weights.grad.double().flatten() for weights in network.parameters()])


def differences(losses, other):
    """The largest relative difference of two sequences of losses, up to some of their steps."""
    relative = [abs(a - b) / abs(b) for a, b in zip(losses, other, strict=True)]
    return {step: max(relative[:step]) for step in LOSSES_AT}


def main():
    arguments = parser(__doc__, repetitions=7, threads=2, steps=20)
    options = arguments.parse_args()
    if options.steps > IMAGES // RECIPE.batch_size:
        arguments.error(f"--steps must be at most {IMAGES // RECIPE.batch_size}")
    dataset = cifar10_part(IMAGES)

    races = []
    for dropout in (RECIPE.dropout, 0.0):
        result = race(dataset, dropout, options.threads, options.repetitions, options.steps)
        races.append(result)
        show(
            f"Training images per second, {NETWORK}, batch {RECIPE.batch_size}, dropout {dropout}, "
            f"threads {options.threads}",
            ("", "median", "lowest", "highest", "normlab over it"),
            [
                (
                    name,
                    f"{result['median_images_per_second'][name]:,.0f}",
                    f"{min(rates):,.0f}",
                    f"{max(rates):,.0f}",
                    f"{result['normlab_over'][name]:.2f}" if name in result["normlab_over"] else "",
                )
                for name, rates in result["images_per_second"].items()
            ],
        )
    worker = Worker(Arithmetic, dataset, options.threads, cores=options.threads)
    errors, losses = worker()
    worker.close()
    show(
        f"Relative error of {GRADIENTS} batches' gradients, against float64",
        ("", "median", "largest"),
        [
            (name, f"{statistics.median(values):.1e}", f"{max(values):.1e}")
            for name, values in errors.items()
        ],
    )
    apart = {
        "normlab from PyTorch": differences(losses["normlab"], losses["PyTorch"]),
        "PyTorch channels_last from PyTorch": differences(
            losses["PyTorch channels_last"], losses["PyTorch"]
        ),
    }
    show(
        "Largest relative difference of the losses up to a step",
        ("", *map(str, LOSSES_AT)),
        [
            (name, *(f"{value:.1e}" for value in largest.values()))
            for name, largest in apart.items()
        ],
    )
    report(
        options.out,
        ("lightning", "keras", *metadata.packages_distributions()["tensorflow"]),
        network=NETWORK,
        threads=options.threads,
        batch_size=RECIPE.batch_size,
        steps_a_block=options.steps,
        races=races,
        gradient_errors=errors,
        losses=losses,
        largest_relative_difference_of_losses=apart,
    )


if __name__ == "__main__":
    main()
