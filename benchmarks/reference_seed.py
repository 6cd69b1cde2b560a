"""The network `seed-bn` and the recipe `seed` in plain PyTorch, as a student writes it, timed.

    make bench-seed        # builds its environment (several GB) and runs it there
    python benchmarks/reference_seed.py [--batches 150] [--epochs 11] [--seeds 3] [--out OUT.json]

The baseline for normlab's speed, so it does not use normlab: torchvision's transforms on single
pictures, a DataLoader with two workers and otherwise PyTorch's defaults, and an eager contiguous
float32 model on the CPU. CIFAR-10 is read from its binary version in $NORMLAB_DATA.

It does not train until 70%. The published run first passes 70% in epoch 11. The time until then is
extrapolated from some batches of an epoch (after a warm-up), separately for each seed:

    epoch = time to the first training batch + 781 × time per training batch
          + time to the first test batch + 156 × time per test batch

The time per batch is the mean: workers deliver batches in bursts, so the median alone misleads. Run
it on an otherwise idle machine: its three processes already share the cores.
"""

import argparse
import csv
import json
import os
import platform
import statistics
import sys
import tarfile
import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import PIL
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

# --- What a student writes ----------------------------------------------------------------------

BATCH_SIZE = 64
WORKERS = 2

normalize = [
    transforms.ToTensor(),
    transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
]
train_transform = transforms.Compose(
    [
        transforms.ColorJitter(0.1, 0.1, 0.1, 0.1),
        transforms.RandomAffine(degrees=0, shear=10, scale=(0.8, 1.2)),
        transforms.RandomVerticalFlip(0.5),
        *normalize,
    ]
)
test_transform = transforms.Compose(normalize)


class CIFAR10(Dataset):
    """Like torchvision's, for the binary version: one byte of label, then 3 × 32 × 32 of pixels."""

    def __init__(self, files, transform):
        records = np.concatenate([np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files])
        self.labels = records[:, 0].tolist()
        self.images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def block(inputs, outputs, padding=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Dropout(0.025),
    )


class Net(nn.Module):
    """C:12 C:24 C:24+ c:12 P C:24 C:24 C:32v c:20 P C:42v C:42+ c:10 GAP."""

    def __init__(self):
        super().__init__()
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
        self.pool = nn.MaxPool2d(2, 2)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        x = self.block1b(self.block1a(x))
        x = x + self.block1c(x)
        x = self.pool(self.transition1(x))
        x = self.block2c(self.block2b(self.block2a(x)))
        x = self.pool(self.transition2(x))
        x = self.block3a(x)
        x = x + self.block3b(x)
        x = self.gap(self.transition3(x))
        return F.log_softmax(x.flatten(1), dim=1)


def train(model, loader, optimizer):
    model.train()
    loss_sum = correct = 0
    for images, labels in loader:
        optimizer.zero_grad()
        output = model(images)
        loss = F.nll_loss(output, labels)
        loss.backward()
        optimizer.step()
        loss_sum += loss.item()
        correct += output.argmax(dim=1).eq(labels).sum().item()
    return loss_sum, correct


def test(model, loader):
    model.eval()
    loss_sum = correct = 0
    with torch.no_grad():
        for images, labels in loader:
            output = model(images)
            loss_sum += F.nll_loss(output, labels, reduction="sum").item()
            correct += output.argmax(dim=1).eq(labels).sum().item()
    return loss_sum, correct


# --- The timing ---------------------------------------------------------------------------------

PARAMETERS = 48_020
WARM_UP = 10  # discarded batches: more than the workers prefetch, 2 each
TEST_BATCHES = 20
PUBLISHED = Path(__file__).parent.parent / "results" / "published-runs.csv"


class Timed:
    """A loader that stops after the warm-up and so many batches, and times them."""

    def __init__(self, loader, batches):
        self.loader = loader
        self.batches = batches

    def __iter__(self):
        moments = [time.perf_counter()]
        for batch in islice(self.loader, WARM_UP + self.batches + 1):
            moments.append(time.perf_counter())
            yield batch
        # From one batch to the next: the step on it, and the wait for the next.
        self.start_up, *seconds = (after - before for before, after in pairwise(moments))
        self.seconds = seconds[WARM_UP:]

    def epoch_seconds(self):
        return self.start_up + (len(self.loader) - 1) * statistics.mean(self.seconds)


def measure(seed, train_set, test_set, batches, epochs):
    """The seconds of one repetition: the start of an epoch, with a new model and new loaders."""
    torch.manual_seed(seed)
    model = Net()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if parameters != PARAMETERS:
        sys.exit(f"seed-bn has {PARAMETERS:,} parameters, this network {parameters:,}")
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=6, gamma=0.2)
    options = {"batch_size": BATCH_SIZE, "num_workers": WORKERS}
    training = Timed(DataLoader(train_set, shuffle=True, **options), batches)
    testing = Timed(DataLoader(test_set, **options), TEST_BATCHES)

    train(model, training, optimizer)
    test(model, testing)
    scheduler.step()

    epoch = training.epoch_seconds() + testing.epoch_seconds()
    return {
        "seed": seed,
        "seconds_per_training_batch": mean_and_median(training.seconds),
        "seconds_per_test_batch": mean_and_median(testing.seconds),
        "start_up_seconds": {"training": training.start_up, "test": testing.start_up},
        "epoch_seconds": epoch,
        "seconds_to_70": epochs * epoch,
    }


def mean_and_median(seconds):
    return {"mean": statistics.mean(seconds), "median": statistics.median(seconds)}


def read_data():
    """The training and the test set; an archive is extracted into a temporary folder."""
    if not os.environ.get("NORMLAB_DATA"):
        sys.exit("set NORMLAB_DATA to the folder that holds CIFAR-10's binary version")
    root = Path(os.environ["NORMLAB_DATA"])
    for folder in (root / "cifar-10-batches-bin", root):
        if (folder / "test_batch.bin").is_file():
            return read_folder(folder)
    archive = root / "cifar-10-binary.tar.gz"
    if not archive.is_file():
        sys.exit(f"{root} holds neither {archive.name} nor its .bin files")
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        return read_folder(Path(folder) / "cifar-10-batches-bin")


def read_folder(folder):
    train_files = [folder / f"data_batch_{k}.bin" for k in range(1, 6)]
    test_files = [folder / "test_batch.bin"]
    return CIFAR10(train_files, train_transform), CIFAR10(test_files, test_transform)


def epochs_to_70():
    """The epoch in which the published BatchNorm run first passed 70%: 11."""
    with PUBLISHED.open(newline="") as file:
        return next(
            int(row["epoch"])
            for row in csv.DictReader(file)
            if row["norm"] == "bn" and float(row["test_accuracy"]) > 70
        )


def processor():
    """The CPU's name: from a file on Linux, from Python elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def main():
    published_epochs = epochs_to_70()
    most = 50_000 // BATCH_SIZE - WARM_UP - 1
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batches", type=int, default=150, help="timed training batches per seed")
    parser.add_argument("--epochs", type=int, default=published_epochs, help="epochs until 70%%")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    if not 1 <= options.batches <= most:
        parser.error(f"--batches must be 1 to {most}")
    if min(options.epochs, options.seeds) < 1:
        parser.error("--epochs and --seeds must be at least 1")

    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }
    threads = torch.get_num_threads()
    print(", ".join(f"{name} {value}" for name, value in (machine | versions).items()))
    print(f"{threads} threads, {WORKERS} DataLoader workers, batches of {BATCH_SIZE}")

    data = read_data()
    repetitions = []
    for seed in range(options.seeds):
        result = measure(seed, *data, options.batches, options.epochs)
        repetitions.append(result)
        batch = result["seconds_per_training_batch"]["mean"]
        print(
            f"seed {seed}: {1e3 * batch:.1f} ms per training batch"
            f" ({BATCH_SIZE / batch:.0f} images/s),"
            f" {1e3 * result['seconds_per_test_batch']['mean']:.1f} ms per test batch,"
            f" {result['epoch_seconds']:.1f} s per epoch, {result['seconds_to_70']:.0f} s to 70%",
            flush=True,
        )
    median = statistics.median(repetition["seconds_to_70"] for repetition in repetitions)
    method = (
        f"extrapolated to {options.epochs} epochs from {options.batches} training batches and "
        f"{TEST_BATCHES} test batches, after {WARM_UP} of each as a warm-up; not trained to 70%"
    )
    source = "--epochs"
    if options.epochs == published_epochs:
        source = f"the published bn run's first epoch above 70% in results/{PUBLISHED.name}"
    print(f"median {median:.0f} s to 70%, {method}")
    print(f"epochs from: {source}")
    if options.out:
        report = {
            "machine": machine,
            "versions": versions,
            "threads": threads,
            "workers": WORKERS,
            "batch_size": BATCH_SIZE,
            "batches": {
                "warm_up": WARM_UP,
                "training": options.batches,
                "test": TEST_BATCHES,
            },
            "epochs": options.epochs,
            "epochs_from": source,
            "method": method,
            "repetitions": repetitions,
            "median_seconds_to_70": median,
        }
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
