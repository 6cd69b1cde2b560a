"""Exported networks compared with the trained one: size, accuracy, latency, images per second.

    python benchmarks/export.py RUN [--threads 1 2] [--repetitions 7] [--out OUT.json]

Contenders, from uint8 images, N × 3 × 32 × 32, to probabilities:

    PyTorch         `normlab.load(RUN).probabilities`: eager, channels last, with normlab's compiled
                    passes if they are built
    torch.compile   the same, with the network compiled by Inductor for each shape
    ONNX Runtime    the file of `normlab export RUN --to onnx`
    int8            the file of `normlab export RUN --to onnx --int8`

All run in one process, with each number of threads, in alternating turns of half a second: first
one image at a time, then 256 at a time. The first turn of each is discarded, because it compiles.
So is the first call of each turn, because threads of the previous contender may still spin. Latency
and images per second are medians of the repetitions.

Size is that of the file that a network is loaded from (PyTorch: model.safetensors, which also needs
the layout). Accuracy is on the whole test split. Times need an idle machine.
"""

import statistics
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from common import alternate, parser, positive, report, show

import normlab
from normlab.export.exporter import count_correct, export_run
from normlab.export.formats import onnx
from normlab.wording import percent

SECONDS = 0.5  # of a turn
BATCHES = (1, 256)


def images_per_second(predict, pixels, threads):
    torch.set_num_threads(threads)  # ONNX Runtime's are set in its session
    predict(pixels)
    start, calls = perf_counter(), 0
    while perf_counter() - start < SECONDS:
        predict(pixels)
        calls += 1
    return calls * len(pixels) / (perf_counter() - start)


def contenders(run, files, threads):
    """Each contender's prediction function, on so many threads."""
    torch.compiler.reset()
    compiled = normlab.load(run.path)
    compiled.compile(dynamic=False, fullgraph=True)  # else it may silently run uncompiled
    return {
        "PyTorch": normlab.load(run.path).probabilities,
        "torch.compile": compiled.probabilities,
        "ONNX Runtime": onnx.load(files["float32"], threads),
        "int8": onnx.load(files["int8"], threads),
    }


def main():
    options = parser(__doc__, repetitions=7)
    options.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    options.add_argument("--threads", type=positive, nargs="+", default=[1, 2])
    options.add_argument("--data-root", type=Path, metavar="FOLDER", help="the folder of its data")
    options = options.parse_args()

    run = normlab.Run.open(options.run)
    test = run.dataset(options.data_root).test
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name, int8 in (("float32", False), ("int8", True)):
            path = Path(folder, f"{name}.onnx")
            export_run(run, "onnx", path, int8=int8, data_root=options.data_root)
            files[name] = path.read_bytes()
    weights = (run.path / "model.safetensors").stat().st_size
    sizes = {
        "PyTorch": weights,
        "torch.compile": weights,
        "ONNX Runtime": len(files["float32"]),
        "int8": len(files["int8"]),
    }

    correct, measured, rows = {}, [], []
    for threads in options.threads:
        predictors = contenders(run, files, threads)
        speeds = {}
        for batch in BATCHES:
            turns = {
                name: partial(images_per_second, predict, test.images[:batch], threads)
                for name, predict in predictors.items()
            }
            speeds[batch] = alternate(turns, options.repetitions)
        correct = correct or {
            name: count_correct(predict, test) for name, predict in predictors.items()
        }
        for name in predictors:
            latencies = [1000 / speed for speed in speeds[1][name]]
            rates = speeds[256][name]
            measured.append(
                {
                    "name": name,
                    "threads": threads,
                    "milliseconds_one_image": latencies,
                    "images_per_second_256": rates,
                }
            )
            rows.append(
                (
                    name,
                    str(threads),
                    f"{sizes[name] / 1000:,.1f} kB",
                    percent(correct[name] / len(test), len(test)),
                    f"{statistics.median(latencies):.2f} ms",
                    f"{statistics.median(rates):,.0f}",
                )
            )
    show(
        f"{run.layout}, {run.config.norm}",
        ("", "threads", "size", "accuracy", "one image", "images/s at 256"),
        rows,
    )
    report(
        options.out,
        packages=("onnx", "onnxscript", "onnxruntime"),
        run=run.name,
        layout=run.layout,
        norm=run.config.norm,
        fingerprint=run.data.fingerprint,
        bytes=sizes,
        test_images=len(test),
        correct=correct,
        measured=measured,
    )


if __name__ == "__main__":
    main()
