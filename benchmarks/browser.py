"""The page of `normlab export --to html`: its size, and the time for a picture in Chromium.

    python benchmarks/browser.py [--repetitions 7] [--out FILE]

For each network that comes with normlab, the page and PyTorch (`normlab.load(…).probabilities` on
one thread) predict one image at a time, in alternating turns of 20. A page's time is that of its
program from exact pixels. The conversion of a photograph of 12 megapixels is measured too. It needs
playwright and Chromium. Times need an idle machine.
"""

import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from common import alternate, parser, report, show
from playwright.sync_api import sync_playwright

import normlab
from normlab.inference.predict import MODELS, find_model

IMAGES = 20  # of a turn
PHOTOGRAPH = (4032, 3024)
PREDICT = """(count) => {
  const pixels = new Uint8Array(3 * 32 * 32).map((_, k) => (k * 37) % 256);
  const start = performance.now();
  for (let k = 0; k < count; k++) normlab.probabilities(0, pixels);
  return (performance.now() - start) / count;
}"""
CONVERT = """async ([width, height]) => {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const colours = context.createLinearGradient(0, 0, width, height);
  colours.addColorStop(0, "navy");
  colours.addColorStop(1, "orange");
  context.fillStyle = colours;
  context.fillRect(0, 0, width, height);
  const file = await canvas.convertToBlob({type: "image/jpeg"});
  const start = performance.now();
  await normlab.pixels(0, file);
  return performance.now() - start;
}"""


def by_pytorch(model):
    """Milliseconds for an image."""
    network = normlab.load(model=model)
    pixels = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(1, 3, 32, 32)
    network.probabilities(pixels)
    start = perf_counter()
    for _ in range(IMAGES):
        network.probabilities(pixels)
    return 1000 * (perf_counter() - start) / IMAGES


def main():
    options = parser(__doc__, repetitions=7).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        browser = playwright.chromium.launch(
            executable_path=next(filter(None, map(shutil.which, names)), None),
            args=["--no-sandbox", "--disable-gpu"],
        )
        sizes, contenders = {}, {}
        for model in MODELS:
            run = normlab.Run.open(find_model(model))
            written = normlab.export_run(run, "html", Path(folder, f"{model}.html"))
            sizes[model] = written.size
            page = browser.new_page()
            page.goto(written.path.as_uri())
            page.locator("#check[data-largest]").wait_for()
            contenders[f"{model}, page"] = partial(page.evaluate, PREDICT, IMAGES)
            contenders[f"{model}, PyTorch"] = partial(by_pytorch, model)
        contenders["photograph"] = partial(page.evaluate, CONVERT, PHOTOGRAPH)
        turns = alternate(contenders, options.repetitions)
        version = browser.version
        browser.close()
    medians = {name: statistics.median(times) for name, times in turns.items()}
    show(
        f"a page in Chromium {version}",
        ("network", "size", "page", "PyTorch"),
        [
            (
                model,
                f"{sizes[model] / 1000:.1f} kB",
                f"{medians[f'{model}, page']:.1f} ms",
                f"{medians[f'{model}, PyTorch']:.1f} ms",
            )
            for model in MODELS
        ],
    )
    print(f"converting a photograph of 12 megapixels: {medians['photograph']:.0f} ms")
    report(
        options.out,
        ("playwright",),
        chromium=version,
        bytes=sizes,
        milliseconds=turns,
        medians=medians,
    )


if __name__ == "__main__":
    main()
