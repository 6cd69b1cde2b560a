"""Pages that predict in a browser: a real Chromium, against PyTorch."""

import base64
import json
import re
from dataclasses import replace
from math import gcd

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

import made_up
import normlab
from normlab.data import load
from normlab.errors import RunError, UsageError
from normlab.inference.pictures import read
from normlab.inference.predict import find_model
from normlab.layers.activations import ACTIVATIONS
from normlab.layers.norms import REGISTRY, registry
from normlab.layers.norms.none import Affine
from normlab.network.model import Network
from normlab.network.zoo import ZOO
from normlab.runs.checkpoint import save_weights
from random_networks import layouts, randomize

DIGITS = load("digits", channels="colour")
HOSTILE = ("</script><script>document.title='x'</script>", "<!--<script>", "'\"&lt;\\u0041", "a\nb")
TOLERANCE = 1e-4  # of a probability


def random_run(folder, layout, *, norm="bn", activation="relu", classes=DIGITS.classes, seed=0):
    """A run with random weights and statistics, whose predictions differ from image to image."""
    return random_run_of((3, 32, 32), folder, layout, norm, activation, classes, seed)


def random_run_of(
    shape, folder, layout, norm="bn", activation="relu", classes="0123456789", seed=0
):
    network = Network(
        layout, norm=norm, activation=activation, classes=len(classes), shape=shape, seed=seed
    ).eval()
    random = torch.Generator().manual_seed(seed)
    randomize(network, random)
    with torch.no_grad():
        pixels = torch.rand(20, *shape, generator=random)
        network.weights[-1].div_(network(pixels).std(0).mean().clamp(min=1e-3))
    run = made_up.run(
        folder,
        layout=network.layout,
        classes=classes,
        network=layout,
        norm=norm,
        activation=activation,
        dataset="digits",
        size=shape[1],
        channels="grey" if shape[0] == 1 else "colour",
    )
    per_channel = {"mean": (0.3,) * shape[0], "std": (0.4,) * shape[0]}
    replace(run, data=replace(run.data, **per_channel)).write_config()
    save_weights(folder / "model.safetensors", network)
    return normlab.Run.open(folder)


@pytest.fixture
def visit(browser):
    """Opens a page from its file. It may request nothing, and log no error."""
    opened = []

    def visit(path, width=1280):
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(120_000)  # milliseconds; machines differ fivefold
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.goto(path.as_uri())
        page.locator("#check[data-largest]").wait_for()
        opened.append((page, requests, errors))
        return page

    yield visit
    for page, requests, errors in opened:
        own = page.url
        page.close()
        assert {url for url in requests if not url.startswith("data:")} == {own}
        assert errors == []


def by_page(page, pixels):
    """The page's probabilities for exact pixels."""
    answers = page.evaluate(
        """([count, content]) => {
            const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
            const size = bytes.length / count;
            return Array.from({length: count}, (_, n) =>
                [...normlab.probabilities(0, bytes.subarray(n * size, (n + 1) * size))]);
        }""",
        [len(pixels), base64.b64encode(pixels.tobytes()).decode()],
    )
    return np.array(answers, dtype=np.float32)


def assert_equal_to_pytorch(page, run, pixels):
    expected = normlab.load(run.path).probabilities(pixels)
    np.testing.assert_allclose(by_page(page, pixels), expected, atol=TOLERANCE)
    assert float(page.locator("#check").get_attribute("data-largest")) <= TOLERANCE
    assert "Checked in this browser" in page.locator("#check").inner_text()


# The network


@pytest.mark.slow(1)
@pytest.mark.parametrize("norm", REGISTRY)
def test_every_normalization_predicts_as_pytorch(norm, visit, tmp_path):
    run = random_run(tmp_path, "C:8 D:8s2 C:8+*2 D:8a*2 C:8v A P FC", norm=norm)
    page = visit(normlab.export_run(run, "html").path)
    assert_equal_to_pytorch(page, run, DIGITS.test.images[:100])


@pytest.mark.slow(3)
@pytest.mark.parametrize("norm", ["bn", "gn"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_predicts_as_pytorch(activation, norm, visit, tmp_path):
    run = random_run(
        tmp_path, "C:8 c:12 D:12a+ P c:12s2 C:12*2 GAP FC", norm=norm, activation=activation
    )
    page = visit(normlab.export_run(run, "html").path)
    assert_equal_to_pytorch(page, run, DIGITS.test.images[:100])


def norms_of(inputs, channels):
    """The normalizations of a block; ln-channel needs more than one channel."""
    names = [n for n in REGISTRY if n != "ln-channel" or min(inputs, channels) > 1]
    return [*names, f"gn={gcd(inputs, channels)}"]


@pytest.mark.slow(1)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 64, 64)])
def test_images_of_other_shapes_are_predicted_as_by_pytorch(shape, visit, tmp_path):
    run = random_run_of(shape, tmp_path, ZOO["nano"].layout, "gn")
    page = visit(normlab.export_run(run, "html").path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    assert_equal_to_pytorch(page, run, pixels)


@pytest.mark.slow(8)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_network_predicts_as_pytorch(data, visit, tmp_path_factory):
    shape = data.draw(st.sampled_from([(3, 32, 32), (1, 28, 28), (3, 17, 17), (1, 16, 16)]))
    line = data.draw(layouts(norms_of, shape=shape, most=5, between=True))
    norm = data.draw(st.sampled_from(["bn", "gn", "ln", "none", "proxy-ln"]))
    activation = data.draw(st.sampled_from([*ACTIVATIONS]))
    folder = tmp_path_factory.mktemp("any")
    run = random_run_of(shape, folder, line, norm, activation, seed=data.draw(st.integers(0, 99)))
    page = visit(normlab.export_run(run, "html").path)
    pixels = np.random.default_rng(0).integers(0, 256, (5, *shape), dtype=np.uint8)
    assert_equal_to_pytorch(page, run, pixels)


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    ("model", "size", "milliseconds"), [("nano", 80e3, 100), ("micro", 400e3, 600)]
)
def test_the_models_that_come_with_normlab_are_small_fast_and_equal(
    model, size, milliseconds, visit, cli, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, output, errors = cli("export", "--model", model, "--to", "html")
    assert (code, errors) == (0, "")
    assert output.startswith(f"{model}.html: ")
    path = tmp_path / f"{model}.html"
    assert path.stat().st_size < size
    page = visit(path)
    predictor = normlab.load(model=model)
    random = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    pixels = np.concatenate([made_up.split(range(60)).images, random])
    found = by_page(page, pixels)
    np.testing.assert_allclose(found, predictor.probabilities(pixels), atol=TOLERANCE)
    times = page.evaluate(
        """pixels => Array.from({length: 20}, () => {
            const start = performance.now();
            normlab.probabilities(0, pixels);
            return performance.now() - start;
        })""",
        pixels[0].ravel().tolist(),
    )
    assert np.median(times) < milliseconds


# Pictures


def pixels_of(page, path, run=0):
    """What a network of the page sees of a file."""
    return np.array(
        page.evaluate(
            """async ([k, type, content]) => {
                const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
                return [...await normlab.pixels(k, new Blob([bytes], {type}))];
            }""",
            [run, f"image/{path.suffix[1:]}", base64.b64encode(path.read_bytes()).decode()],
        )
    )


@pytest.mark.slow(3)
def test_pictures_are_converted_as_predict_converts_them(visit, tmp_path):
    runs = [
        random_run_of((3, 32, 32), tmp_path / "colour", "c:4 GAP FC"),
        random_run_of((1, 28, 28), tmp_path / "grey", "c:4 GAP FC"),
    ]
    page = visit(normlab.export_run(runs, "html").path)
    random = np.random.default_rng(0)
    for width, height in ((32, 32), (33, 100), (640, 427), (9, 20), (1, 1), (400, 3)):
        small = random.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
        image = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
        kept = tmp_path / "kept.png"
        image.save(kept)
        turned = tmp_path / "turned.jpeg"
        exif = image.getexif()
        exif[0x0112] = 6  # on its side
        image.save(turned, exif=exif, quality=95, subsampling=0)
        clear = tmp_path / "clear.png"
        image.putalpha(Image.fromarray(random.integers(0, 256, (height, width), np.uint8)))
        image.save(clear)
        linear = tmp_path / "linear.png"  # a browser would convert its colours
        gamma = PngInfo()
        gamma.add(b"gAMA", (100_000).to_bytes(4, "big"))
        image.convert("RGB").save(linear, pnginfo=gamma)
        deep = tmp_path / "deep.png"  # 16 bits
        Image.fromarray(random.integers(0, 65536, (height, width), np.uint16)).save(deep)
        files = ((kept, 0), (linear, 0), (turned, 2), (deep, 2), (clear, 3))
        for path, allowed in files:
            for k, run in enumerate(runs):
                predictor = normlab.load(run.path)
                expected = predictor.pixels([read(path, predictor.size)])[0].ravel()
                difference = np.abs(pixels_of(page, path, k) - expected).max()
                assert difference <= allowed, (path.name, width, height, k)


def answers(page):
    """What the page says of each run: its answer, and its bars."""
    page.locator(".bars li").first.wait_for()
    sections = page.locator(".run").all()
    return [
        (s.locator(".answer").inner_text(), s.locator(".bars li").all_inner_texts())
        for s in sections
    ]


def shown(prediction):
    return {name: f"{100 * share:.1f}%" for name, share in prediction.top(len(prediction.classes))}


@pytest.fixture(scope="module")
def classroom(tmp_path_factory):
    """Three normalizations, and the page about them."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        random_run(folder / name, "C:8 P C:16 P P FC", norm=name) for name in ("bn", "gn", "ln")
    ]
    return runs, normlab.export_run(runs, "html")


def test_three_normalizations_predict_a_picture_side_by_side(visit, classroom, tmp_path):
    runs, written = classroom
    assert written.path.parent == runs[0].path.parent
    assert written.names == ("bn", "gn", "ln")
    page = visit(written.path)
    picture = tmp_path / "digit.png"
    Image.fromarray(DIGITS.test.images[0].transpose(1, 2, 0)).resize((300, 200)).save(picture)
    page.locator("input[type=file]").set_input_files(picture)
    for run, (answer, bars) in zip(runs, answers(page), strict=True):
        (expected,) = normlab.load(run.path).predict(picture)
        assert answer == f"{expected.label}, {100 * expected.probability:.1f}%"
        assert dict(line.split() for line in bars) == shown(expected)
    tops = page.locator(".run").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
    assert len({*tops}) == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_fits_any_screen_and_is_used_by_keyboard(width, scheme, visit, classroom):
    page = visit(classroom[1].path, width)
    page.emulate_media(color_scheme=scheme)
    paper = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#examples') !== null"):
            break
    page.keyboard.press("Enter")
    assert len(answers(page)) == 3
    assert page.locator("#examples [aria-pressed=true]").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_camera_takes_a_picture(visit, classroom):
    page = visit(classroom[1].path)
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the picture").click()
    assert len(answers(page)) == 3
    assert page.locator("#video").is_hidden()


def test_a_picture_is_dropped_or_pasted(visit, classroom):
    page = visit(classroom[1].path)
    for kind, transfer in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """async ([kind, transfer]) => {
                const canvas = new OffscreenCanvas(40, 30);
                canvas.getContext("2d").fillRect(5, 5, 20, 20);
                const files = new DataTransfer();
                files.items.add(new File([await canvas.convertToBlob()], `${kind}.png`));
                const event = new Event(kind, {bubbles: true, cancelable: true});
                event[transfer] = files;
                document.body.dispatchEvent(event);
            }""",
            [kind, transfer],
        )
        page.get_by_label(f"{kind}.png").wait_for()
        assert len(answers(page)) == 3


def test_of_many_classes_the_ten_most_probable_are_shown(visit, tmp_path):
    run = random_run(tmp_path, "C:4 GAP FC", classes=[f"class {k}" for k in range(40)])
    page = visit(normlab.export_run(run, "html").path)
    page.locator("#examples button").nth(2).dispatch_event("click")  # hidden
    ((answer, bars),) = answers(page)
    image = DIGITS.test.images[DIGITS.test.labels == 1][0]
    (expected,) = normlab.load(run.path).predict(image.transpose(1, 2, 0))
    assert answer == f"{expected.label}, {100 * expected.probability:.1f}%"
    assert [line.split("\n")[0] for line in bars] == [name for name, _ in expected.top(10)]


def test_a_file_that_is_no_picture_is_refused_in_a_sentence(visit, classroom, tmp_path):
    page = visit(classroom[1].path)
    (tmp_path / "a.png").write_text("no picture")
    page.locator("input[type=file]").set_input_files(tmp_path / "a.png")
    page.get_by_text("This browser cannot read a.png as a picture: try a PNG or a JPEG.").wait_for()
    assert page.locator(".bars li").count() == 0


# The file


def test_hostile_names_are_shown_as_text(visit, tmp_path):
    classes = (*HOSTILE, *"456789")
    run = random_run(tmp_path / "a'\"<b>&", "c:4 GAP FC", classes=classes)
    page = visit(normlab.export_run(run, "html").path)
    page.locator("#examples button").first.dispatch_event("click")  # hidden
    bars = " ".join(" ".join(answers(page)[0][1]).split())
    for name in HOSTILE:
        assert " ".join(name.split()) in bars
    assert page.title() == "normlab: a'\"<b>&"
    assert page.locator("h2", has_text="a'\"<b>&").count() == 1
    assert page.evaluate("document.scripts.length") == 2


def test_the_policy_admits_the_page_s_own_script_and_style_only(visit, classroom):
    content = classroom[1].path.read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', content)
    assert "unsafe" not in policy
    assert "http" not in policy
    assert not re.findall(r"<[^>]+\s(?:on\w+|style)=", content.partition("<script")[0])
    (text,) = re.findall(r'type="application/json">(.*?)</script>', content)
    assert [network["classes"] for network in json.loads(text)] == [[*"0123456789"]] * 3


def test_nothing_that_was_put_into_the_page_runs(browser, classroom, tmp_path):
    put = "<script>document.title='x'</script><img src=x onerror=\"document.title='x'\"></main>"
    changed = tmp_path / "changed.html"
    changed.write_text(classroom[1].path.read_text().replace("</main>", put, 1))
    page = browser.new_page()
    page.goto(changed.as_uri())
    page.locator("#check[data-largest]").wait_for()
    assert page.title() == "normlab: bn, gn, ln"
    page.close()


def test_a_browser_that_computes_otherwise_is_told(visit, classroom, tmp_path):
    content = classroom[1].path.read_text()
    (text,) = re.findall(r'type="application/json">(.*?)</script>', content)
    expected = json.loads(text)[1]["expected"]
    changed = tmp_path / "changed.html"
    zeros = base64.b64encode(bytes(4 * 20 * 10)).decode()
    changed.write_text(content.replace(expected, zeros))
    page = visit(changed)
    assert (
        "This browser's probabilities differ from PyTorch's by up to 0."
        in page.locator("#check").inner_text()
    )


def test_a_page_names_no_folder_of_this_machine(classroom, tmp_path):
    run = classroom[0][0]
    moved = replace(run, config=replace(run.config, dataset=f"folder:{tmp_path}/pictures"))
    content = normlab.export_run(moved, "html", tmp_path / "a.html").path.read_text()
    assert str(tmp_path) not in content
    assert str(run.path.parent) not in content


@pytest.mark.slow(3)
def test_digits_are_shown_only_if_a_network_has_learned_them(classroom, visit, tmp_path):
    nano = normlab.Run.open(find_model("nano"))
    other = visit(normlab.export_run(nano, "html", tmp_path / "other.html").path)
    assert not other.locator("#examples").is_visible()
    assert "Its classes: airplane, automobile, bird," in other.locator(".run").inner_text()
    both = [nano, classroom[0][0]]
    mixed = visit(normlab.export_run(both, "html", tmp_path / "mixed.html").path)
    assert mixed.locator("#examples").is_visible()
    assert "nano learned other classes, and can only answer" in mixed.locator("main").inner_text()
    assert "learned other classes" not in classroom[1].path.read_text()


# What is refused


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_weights_that_are_not_finite_are_refused(value, cli, tmp_path):
    run = random_run(tmp_path, "C:4 GAP FC", norm="gn")
    network = run.network()
    with torch.no_grad():
        network.weights[-1].fill_(value)
    save_weights(tmp_path / "model.safetensors", network)
    code, output, errors = cli("export", tmp_path, "--to", "html")
    assert (code, output) == (1, "")
    assert "finite" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "model.html").exists()


def test_custom_code_is_refused(cli, tmp_path, monkeypatch):
    (tmp_path / "own_norms.py").write_text(
        "from torch import nn\n"
        "class Own(nn.Identity):\n    def __init__(self, shape): super().__init__()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NORMLAB_NORMS", "own_norms")
    run = random_run(tmp_path / "run", "C:4 GAP FC", norm="own_norms:Own")
    code, output, errors = cli("export", run.path, "--to", "html")
    assert (code, output) == (2, "")
    assert "its normalization is own_norms:Own, which is Python: export it to onnx" in errors
    assert errors.count("\n") == 1
    assert not (run.path / "model.html").exists()


def test_a_custom_network_is_refused(tmp_path):
    run = made_up.run(tmp_path, layout="own_nets:net", network="own_nets:net")
    with pytest.raises(UsageError, match="its network is own_nets:net, which is Python: export it"):
        normlab.export_run(run, "html")
    assert [*tmp_path.iterdir()] == []


def test_a_normalization_that_the_page_does_not_know_is_refused(cli, tmp_path, monkeypatch):
    """Also where it is derived from one that the page knows."""
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    entry = {"formula": "", "paper": "", "axes": "none", "parameters": "2·C"}

    @normlab.register("mine", takes_activation=True, **entry)
    class Mine(Affine):
        def forward(self, x):
            return -super().forward(x)

    random_run(tmp_path, "C:4 GAP FC", norm="mine")
    code, output, errors = cli("export", tmp_path, "--to", "html")
    assert (code, output) == (2, "")
    assert "its normalization is mine, and Mine is a layer that the page does not know" in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "model.html").exists()


def test_a_registered_normalization_may_have_pytorchs_dropout(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    entry = {"formula": "", "paper": "", "axes": "all", "parameters": "2·C·H·W"}

    @normlab.register("mine", **entry)
    def mine(shape):
        return nn.Sequential(nn.LayerNorm(shape), nn.Dropout(0.1))

    random_run(tmp_path, "C:4 GAP FC", norm="mine")
    assert cli("export", tmp_path, "--to", "html")[0] == 0
    assert (tmp_path / "model.html").exists()


def test_other_formats_take_one_run_and_a_page_has_no_int8(classroom, cli):
    folders = [run.path for run in classroom[0]]
    code, _, errors = cli("export", *folders, "--to", "pt2")
    assert (code, errors) == (2, "normlab: expected one run's folder, or --model NAME, got 3\n")
    code, _, errors = cli("export", folders[0], "--to", "html", "--int8")
    assert (code, errors) == (2, "normlab: --to html has no int8: leave out --int8\n")


def test_only_a_page_is_overwritten(classroom, cli, tmp_path):
    out = tmp_path / "a.html"
    for _ in range(2):
        assert cli("export", *[r.path for r in classroom[0]], "--to", "html", "--out", out)[0] == 0
    out.write_text("<p>mine")
    with pytest.raises(UsageError, match="normlab did not write it"):
        normlab.export_run(classroom[0], "html", out)
    with pytest.raises(UsageError, match=r"end its name with \.html"):
        normlab.export_run(classroom[0], "html", tmp_path / "model.safetensors")
    assert out.read_text() == "<p>mine"


def test_a_run_given_twice_and_an_unfinished_one_are_refused(classroom, tmp_path):
    run = classroom[0][0]
    with pytest.raises(UsageError, match="given twice"):
        normlab.export_run([run, run], "html")
    (tmp_path / "config.json").write_bytes((run.path / "config.json").read_bytes())
    with pytest.raises(RunError, match="is its training finished"):
        normlab.export_run(normlab.Run.open(tmp_path), "html")
