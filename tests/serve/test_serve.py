"""The page and the API of `normlab serve`: the real server, a real browser, and load."""

import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

import normlab
from environments import quick_gcc
from normlab.cli import main
from normlab.data import load
from normlab.errors import DataError, UsageError
from normlab.report.card import write_card
from normlab.serve import kept_files
from normlab.serve.kept_files import KeptFiles
from normlab.serve.served_run import ServedRun
from peculiar import ANSWERED, REFUSED
from serving import MAIN, png, predict_both_ways, served, wait_for
from tampering import rewrite

pytestmark = pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
HOSTILE = "gn <img src=x onerror=alert(1)>"
CLIENTS, REQUESTS = 16, 200


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Two runs on the digits. The second one's name is hostile."""
    config = normlab.RunConfig(
        network="C:8 P C:16 P GAP FC", norm="gn", dataset="digits", recipe="demo", epochs=1
    )
    return trained, normlab.train(config, tmp_path_factory.mktemp("runs") / HOSTILE, quiet=True)


@pytest.fixture(scope="module")
def server(runs, tmp_path_factory):
    """The two runs, served. No test may cause a traceback or a warning."""
    with served(tmp_path_factory.mktemp("server"), *(run.path for run in runs)) as server:
        yield server
    assert "Traceback" not in server.log.read_text()
    assert "Warning" not in server.log.read_text()


@pytest.fixture(scope="module")
def digit():
    """The first test image as a PNG."""
    return png(load("digits", channels="colour").test.images[0].transpose(1, 2, 0))


# The API


@pytest.mark.quick
def test_a_request_returns_what_predict_returns(server, runs, digit):
    for run, name in zip(runs, (None, HOSTILE), strict=True):
        (expected,) = normlab.load(run.path).predict(digit)
        status, result = server.predict(digit, name)
        assert status == 200
        assert result["class"] == expected.label
        assert [*result["probabilities"]] == list(expected.classes)
        assert [*result["probabilities"].values()] == pytest.approx(
            expected.probabilities.tolist(), abs=1e-5
        )
        assert (result["picture"], result["notes"]) == ("", list(expected.notes))


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_line_in_the_documentation_works(server, digit, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text()
    (line,) = re.findall(r"(?m)^ {4}(curl \S.*/predict)$", page)
    (tmp_path / "cat.jpg").write_bytes(digit)
    line = line.replace("http://127.0.0.1:7860", server.url)
    done = subprocess.run(
        [*line.split(), "--silent"], cwd=tmp_path, capture_output=True, check=True
    )
    assert sum(json.loads(done.stdout)["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_peculiar_files_get_the_predictions_of_predict(server, trained):
    expected = normlab.load(trained.path).predict([content for content, *_ in ANSWERED.values()])
    for name, prediction in zip(ANSWERED, expected, strict=True):
        status, result = server.predict(ANSWERED[name][0])
        assert status == 200, (name, result)
        assert result["notes"] == list(prediction.notes), name
        assert result["probability"] == pytest.approx(prediction.probability, abs=1e-5), name


@pytest.mark.parametrize("name", REFUSED)
def test_an_unreadable_picture_is_refused_in_one_line(server, name):
    content, problem = REFUSED[name]
    status, result = server.predict(content)
    assert status == 400
    assert result["error"].startswith("the picture cannot be read as an image (")
    assert problem in result["error"]


def test_the_page_s_own_api_accepts_and_refuses_the_same(server):
    some = ("an animated PNG", "transparent grey", "a WEBP with EXIF data cut short")
    for name in (*some, *REFUSED):
        content = (ANSWERED | REFUSED)[name][0]
        path = server.upload(content)
        event, data = server.answer({"path": path, "meta": {"_type": "gradio.FileData"}})
        if name in ANSWERED:
            assert event == "complete", (name, data)
        else:
            assert event == "error", name
            assert data["error"].startswith("The picture cannot be read as an image ("), name


def test_an_unknown_run_is_refused_with_the_known_names(server, digit):
    assert server.predict(digit, "ln") == (
        404,
        {"error": f"no run 'ln': there are trained, {HOSTILE}"},
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_another_method_is_refused_with_the_right_command(method, server):
    status, content = server.request(method, "/predict")
    assert status == 405
    sees = "32 × 32 pixels or 32 × 32 grey pixels"
    error = (
        f"send a picture of any size, which is converted to {sees}: "
        f"curl --data-binary @picture.jpg {server.url}/predict"
    )
    assert json.loads(content) == {"error": error}


def test_a_form_is_refused_with_the_right_command(server, digit):
    form = b"--xyz\r\nContent-Disposition: form-data; name=file\r\n\r\n" + digit + b"\r\n--xyz--"
    status, content = server.request(
        "POST", "/predict", form, {"Content-Type": "multipart/form-data; boundary=xyz"}
    )
    assert status == 415
    assert "as it is, not in a form: curl --data-binary @" in json.loads(content)["error"]


@pytest.mark.parametrize("path", ["/predict", "/gradio_api/upload"])
@pytest.mark.parametrize("form", ["Content-Length: 99999999", "Transfer-Encoding: chunked"])
def test_more_than_10_mb_is_refused_before_it_has_arrived(server, path, form):
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Content-Type: multipart/form-data; boundary=xyz\r\n{form}\r\n\r\n".encode()
        )
        if "chunked" in form:
            part = b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            connection.settimeout(0.001)
            sent, response = 0, b""
            while not response and sent < 2**26:
                try:
                    response = connection.recv(12)
                except TimeoutError:
                    connection.settimeout(60)
                    with suppress(ConnectionError):  # it has answered meanwhile, and closed
                        connection.sendall(b"40000\r\n" + bytes(2**18) + b"\r\n")
                    connection.settimeout(0.001)
                    sent += 2**18
        else:
            response = connection.recv(12)
    assert response == b"HTTP/1.1 413"


def test_a_request_is_refused_when_too_many_wait(server, digit):
    with ThreadPoolExecutor(40) as clients:
        wait_for(
            lambda: (
                {*clients.map(lambda _: server.predict(digit)[0], range(8))} == {200}
                and len(server.picture_processes()) == 2
            )
        )
        readers = server.picture_processes()
        for reader in readers:
            os.kill(reader, signal.SIGSTOP)
        try:
            requests = [clients.submit(server.predict, digit) for _ in range(40)]
            done = next(as_completed(requests))  # two are in work, 32 wait, the others do not
        finally:
            for reader in readers:
                os.kill(reader, signal.SIGCONT)
    assert done.result() == (503, {"error": "too many pictures: try again"})
    assert sum(request.result()[0] == 200 for request in requests) >= 32


@pytest.mark.slow(7)
def test_a_client_that_leaves_or_stalls_frees_its_slot(trained, digit, tmp_path):
    code = (
        "from normlab.serve import arrivals, limits; "
        "arrivals.UPLOAD_TIMEOUT = limits.MAX_WAITING = 1; " + MAIN
    )
    with served(tmp_path, trained.path, code=code) as server:
        host, port = server.host.split(":")
        head = f"POST /predict HTTP/1.1\r\nHost: {server.host}\r\n"
        incomplete = head.encode() + b"Content-Length: 9\r\n\r\nfour"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(incomplete)
            assert connection.recv(12) == b"HTTP/1.1 408"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(incomplete)
        wait_for(lambda: server.predict(digit)[0] == 200)
    assert "Traceback" not in server.log.read_text()


def test_200_requests_from_16_clients(server, digit):
    def request(_):
        start = time.perf_counter()
        status, _ = server.predict(digit)
        return status, time.perf_counter() - start

    with ThreadPoolExecutor(CLIENTS) as clients:
        responses = list(clients.map(request, range(REQUESTS)))
    assert [status for status, _ in responses] == [200] * REQUESTS
    p95 = statistics.quantiles((seconds for _, seconds in responses), n=20)[-1]
    print(f"{REQUESTS} requests, {CLIENTS} clients: p95 {1000 * p95:.0f} ms")
    assert p95 < 10  # 0.3 on two busy cores


@pytest.mark.slow(3)
def test_gradio_s_own_api_serves_16_clients(server, digit, runs):
    def request(k):
        pixels = np.full((40, 40, 3), k, np.uint8)
        path = server.upload(png(pixels))
        return server.answer({"path": path, "meta": {"_type": "gradio.FileData"}})

    with ThreadPoolExecutor(CLIENTS) as clients:
        responses = list(clients.map(request, range(48)))
    assert [event for event, _ in responses] == ["complete"] * 48
    (expected,) = normlab.load(runs[1].path).predict(np.full((40, 40, 3), 7, np.uint8))
    label, notes, heat_map = responses[7][1][3:]
    shares = {each["label"]: each["confidence"] for each in label["confidences"]}
    assert shares == pytest.approx(
        dict(zip(expected.classes, expected.probabilities.tolist(), strict=True)), abs=1e-5
    )
    assert notes == ""
    status, content = server.request("GET", f"/gradio_api/file={heat_map['path']}")
    assert status == 200
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (256, 256)


# The command


@pytest.mark.slow(7)
def test_only_uploads_are_read_no_other_host_is_requested_and_ctrl_c_stops_it(
    trained, digit, tmp_path
):
    outside = tmp_path / "outside.png"
    outside.write_bytes(digit)
    with served(tmp_path, without_metrics(trained, tmp_path)) as server:
        status, result = server.predict(digit)
        assert (status, result["picture"]) == (200, "")
        mark = {"meta": {"_type": "gradio.FileData"}}
        for upload in ({"path": str(outside)}, {"path": str(outside)} | mark):
            event, data = server.answer(upload)
            assert event == "error"
            assert "not uploaded" in data["error"]
        (folder,) = tmp_path.glob("normlab-*")
        event, data = server.answer({"path": str(folder / "gone.png")})
        assert event == "error"
        assert data["error"] == "The picture is no longer kept: upload it again."
        event, data = server.answer({"path": "http://127.0.0.1:9/a.png"} | mark)
        assert (event, data["error"]) == ("error", "upload the picture itself, not its address")
        status, content = server.request("GET", "/gradio_api/file=http://127.0.0.1:9/a.png")
        error = "requests to other hosts are not allowed"
        assert (status, json.loads(content)) == (403, {"error": error})
        assert server.request("GET", f"/gradio_api/file={outside}")[0] == 403

        path = Path(server.upload(digit))
        assert path.is_relative_to(folder)
        connection = http.client.HTTPConnection(server.host)
        connection.request("GET", "/gradio_api/heartbeat/abc")  # as an open page does
        assert connection.getresponse().status == 200
        before = server.log.read_text()
        server.process.send_signal(signal.SIGINT)
        rest, _ = server.process.communicate(timeout=600)
        connection.close()
    assert server.process.returncode == 130
    assert rest == ""
    log = server.log.read_text().removeprefix(before)
    assert log.splitlines()[-1] == "normlab: interrupted"
    assert "Traceback" not in log
    assert not folder.exists()


def test_a_port_in_use_is_refused_in_one_line(trained, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SystemExit) as stop:
            main(["serve", str(trained.path), "--port", str(port)])
    assert stop.value.code == 1
    errors = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 (Address already in use): choose another --port" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "expected one run's folder or more, or --model NAME"),
        (["nowhere"], "nowhere is not a run's folder"),
        (["{run}", "{run}"], "is given twice: leave one out"),
        (["{run}", "--port", "70000"], "--port must be from 0 to 65535, not 70000"),
        (["{run}", "--host", "no.such.host.invalid"], "choose another --port or --host"),
        (["{unfinished}"], "model.safetensors"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    trained, tmp_path, arguments, problem, capsys
):
    shutil.copytree(trained.path, tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").unlink()
    names = {"run": trained.path, "unfinished": tmp_path / "run"}
    with pytest.raises(SystemExit):
        main(["serve", *(a.format(**names) for a in arguments)])
    errors = capsys.readouterr().err
    assert problem in errors
    assert errors.count("\n") == 1


def test_without_gradio_the_error_says_what_to_install(trained, monkeypatch):
    from normlab.serve import serve

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r'pip install "normlab\[serve\]"'):
        serve([trained])


# Example pictures, uploads


def test_examples_are_from_the_split_that_was_evaluated(trained, tmp_path):
    from normlab.serve.examples import load_examples

    def expected(split):
        indices = [np.flatnonzero(split.labels == k)[:2] for k in range(10)]
        pictures = split.images[np.concatenate(indices)].transpose(0, 2, 3, 1)
        return np.broadcast_to(pictures, (len(pictures), 32, 32, 3))

    examples = load_examples(trained)
    assert [name for _, name in examples] == sorted([*"0123456789"] * 2)
    np.testing.assert_array_equal(
        [picture for picture, _ in examples], expected(load("digits", channels="colour").test)
    )

    config = normlab.RunConfig(
        network="c:2 GAP FC", dataset="digits", recipe="demo", epochs=1, holdout=100
    )
    run = normlab.train(config, tmp_path / "run", quiet=True)
    examples = load_examples(run)
    holdout = run.dataset().holdout
    assert holdout.images.shape[1] == 1  # grey, and shown in three equal channels
    np.testing.assert_array_equal([picture for picture, _ in examples], expected(holdout))


def test_missing_data_is_not_downloaded(trained, tmp_path, monkeypatch, capsys):
    from normlab.serve.examples import load_examples

    monkeypatch.delenv("NORMLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = on(trained, tmp_path / "run", "cifar10")
    reason = "cifar10 is not on this machine; give its folder with --data-root."
    assert load_examples(run) == reason
    assert load_examples(on(trained, tmp_path / "moved", "folder:/nowhere")) == (
        "their data cannot be read; the server's output says why."
    )
    assert "no pictures to try: /nowhere" in capsys.readouterr().err
    with pytest.raises(DataError, match="no CIFAR-10 in"):
        load_examples(run, tmp_path)


def on(run, folder, dataset):
    """A copy of a run whose config.json names another data set."""
    shutil.copytree(run.path, folder)
    content = json.loads((folder / "config.json").read_text())
    rewrite(folder / "config.json", run=content["run"] | {"dataset": dataset})
    return normlab.Run.open(folder)


@pytest.mark.slow(17)
@pytest.mark.skipif(sys.platform != "linux", reason="a process's usage is read from /proc")
def test_100_pictures_leave_nothing_behind(trained, tmp_path):
    code = (
        "import signal; from normlab.serve import kept_files; kept_files.INTERVAL = 1; "
        "signal.signal(signal.SIGUSR1, lambda *_: setattr(kept_files, 'MAX_AGE', 0)); " + MAIN
    )
    with served(tmp_path, trained.path, code=code) as server:
        at_first = server.usage()["files"]  # the examples
        for k in range(20):
            predict_both_ways(server, k)
        before = server.usage()
        assert before["files"] > at_first
        for k in range(20, 120):
            predict_both_ways(server, k)
        after = server.usage()
        assert after["threads"] <= before["threads"] + 2
        assert after["open"] <= before["open"] + 2
        server.process.send_signal(signal.SIGUSR1)  # from now on all uploads are old
        wait_for(lambda: server.usage()["files"] == at_first)


@pytest.fixture
def kept(tmp_path):
    """A folder with an example picture, two uploads, and one that arrives."""

    def add(*names):
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.png").write_bytes(bytes(1000))

    add("gallery")
    kept = KeptFiles(tmp_path)
    kept.keep_present()
    add("first", "second")
    (tmp_path / "part").write_bytes(bytes(1000))
    return kept


def test_old_uploads_are_deleted_but_not_new_ones_and_the_gallery(kept, tmp_path, monkeypatch):
    kept.delete_old()
    assert len([*tmp_path.iterdir()]) == 4
    monkeypatch.setattr(kept_files, "MAX_AGE", -1)
    kept.delete_old()
    assert [*tmp_path.rglob("*")] == [tmp_path / "gallery", tmp_path / "gallery" / "a.png"]


def test_the_oldest_uploads_are_deleted_where_they_are_too_many(kept, tmp_path, monkeypatch):
    kept.delete_oldest()
    assert len([*tmp_path.iterdir()]) == 4
    folder = (tmp_path / "first").stat().st_size
    monkeypatch.setattr(kept_files, "MAX_BYTES", 2500 + folder)
    kept.delete_oldest()
    assert {path.name for path in tmp_path.iterdir()} == {"gallery", "second", "part"}


def test_a_page_that_goes_takes_its_files_but_not_those_of_others(kept, tmp_path):
    first, second, gallery = (tmp_path / n / "a.png" for n in ("first", "second", "gallery"))
    kept.add("one", [first, second, gallery])
    kept.add("other", [second])
    kept.delete_session("one")
    kept.delete_session("unknown")
    assert (first.exists(), second.exists(), gallery.exists()) == (False, True, True)
    kept.delete_session("other")
    assert not second.exists()


def test_a_page_may_show_more_while_old_files_are_deleted(kept, tmp_path, monkeypatch):
    """Both happen in threads; an error would end the regular deletion for good."""
    first, second = (tmp_path / name / "a.png" for name in ("first", "second"))
    kept.add("one", [first])
    exists = Path.exists

    def meanwhile(path):
        kept.add("one", [second])
        return exists(path)

    monkeypatch.setattr(kept_files, "MAX_AGE", -1)
    monkeypatch.setattr(Path, "exists", meanwhile)
    kept.delete_old()
    assert not exists(first)


def test_a_folder_that_the_system_has_emptied_is_no_error(kept, tmp_path):
    shutil.rmtree(tmp_path)
    kept.delete_old()
    kept.delete_oldest()


# The page


@pytest.fixture
def visit(browser, server):
    """Opens the page. It may send no request to another host and log no error."""
    opened = []

    def visit(width=1200, url=server.url):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.set_default_timeout(120_000)  # milliseconds; machines differ fivefold
        requests, errors = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append((message.type, message.text)))
        page.on("pageerror", lambda error: errors.append(("error", str(error))))
        page.on("dialog", lambda dialog: errors.append(("error", dialog.message)))
        page.goto(url)
        page.get_by_label("Picture", exact=True).or_(page.get_by_text("Click to Upload")).wait_for()
        opened.append((page, url, requests, errors))
        return page

    yield visit
    for page, url, requests, errors in opened:
        page.close()
        others = [u for u in requests if not u.startswith((f"{url}/", "data:", "blob:"))]
        assert others == []
        assert [text for kind, text in errors if kind == "error"] == []


def upload(page, path):
    page.locator("input[type=file]").set_input_files(path)


def probabilities(page, run):
    """The probabilities in a run's column, once they are shown."""
    column = page.locator("#answers .column > .block").filter(has_text=run)
    column.locator(".confidence-set").first.wait_for(timeout=120_000)
    rows = [text.split() for text in column.locator(".confidence-set").all_inner_texts()]
    return {row[0]: row[-1] for row in rows}


def boxes(locator):
    """Where elements are, all at the same moment: the page may be scrolling."""
    return locator.evaluate_all(
        "all => all.map(e => e.getBoundingClientRect()).map(({x, y, width, height}) => "
        "({x, y, width, height}))"
    )


def shown(prediction):
    return {name: f"{round(100 * share)}%" for name, share in prediction.top(10)}


@pytest.fixture
def picture(digit, tmp_path):
    path = tmp_path / "digit.png"
    path.write_bytes(digit)
    return path


@pytest.mark.slow(3)
def test_two_runs_predict_a_picture_side_by_side(visit, picture, runs):
    page = visit()
    upload(page, picture)
    for run, name in zip(runs, ("trained, bn", f"{HOSTILE}, gn"), strict=True):
        (expected,) = normlab.load(run.path).predict(picture)
        assert probabilities(page, name) == shown(expected)
    first, second = boxes(page.locator("#answers .column"))
    assert first["y"] == second["y"]
    assert first["x"] + first["width"] <= second["x"]
    heat_maps = page.locator("#answers img")
    heat_maps.nth(1).wait_for()
    assert heat_maps.evaluate_all("all => all.map(i => i.naturalWidth)") == [256, 256]


@pytest.mark.slow(3)
def test_on_a_phone_predictions_are_stacked_and_scrolled_to(visit, picture):
    page = visit(360)
    upload(page, picture)
    probabilities(page, "trained")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    first, second = boxes(page.locator("#answers .column"))
    assert first["y"] + first["height"] <= second["y"]
    page.wait_for_function(
        "Math.abs(document.getElementById('answers').getBoundingClientRect().top) < 100"
    )
    (samples,) = boxes(page.locator("#samples"))
    (answers,) = boxes(page.locator("#answers"))
    (uploaded,) = boxes(page.locator("#picture"))
    assert uploaded["y"] + uploaded["height"] <= answers["y"]
    assert answers["y"] + answers["height"] <= samples["y"]


@pytest.mark.slow(3)
def test_on_a_phone_an_example_is_taken_from_below_the_predictions(visit):
    page = visit(360)
    assert [box["height"] for box in boxes(page.locator("#answers .heat-map"))] == [0, 0]
    page.locator(".to-try button").nth(19).click()  # scrolls there
    probabilities(page, "trained")
    page.wait_for_function(
        "Math.abs(document.getElementById('answers').getBoundingClientRect().top) < 100"
    )


@pytest.mark.slow(3)
def test_heat_maps_far_below_are_loaded_before_their_files_are_deleted(visit, picture):
    page = visit(360)
    page.evaluate("document.getElementById('answers').style.marginTop = '9000px'")
    page.evaluate("Element.prototype.scrollIntoView = () => {}")
    upload(page, picture)
    probabilities(page, "trained")
    page.wait_for_function(
        "[...document.querySelectorAll('#answers img')].map(i => i.naturalWidth) == '256,256'"
    )
    assert page.evaluate("scrollY") == 0


@pytest.mark.slow(3)
def test_an_example_is_predicted_and_removed_again(visit, runs):
    page = visit()
    page.locator(".to-try button").nth(6).click()
    test = load("digits", channels="colour").test
    image = test.images[test.labels == 3][0]
    (expected,) = normlab.load(runs[0].path).predict(image.transpose(1, 2, 0))
    assert probabilities(page, "trained") == shown(expected)
    page.get_by_label("Remove Image").click()
    page.locator("#answers .confidence-set").first.wait_for(state="detached")
    assert page.locator("#answers img").count() == 0


@pytest.mark.slow(3)
def test_the_camera_takes_a_picture(visit):
    page = visit()
    page.get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    # A click before the camera's first image is lost.
    page.wait_for_function("document.querySelector('video').videoWidth > 0")
    page.get_by_label("capture photo").click()
    assert len(probabilities(page, "trained")) == 10


@pytest.mark.slow(2)
def test_a_file_that_is_not_a_picture_is_refused_in_a_sentence(visit, picture):
    page = visit()
    picture.write_text("no picture")
    upload(page, picture)
    page.get_by_text(
        "The picture cannot be read as an image "
        "(it is not a picture in a format that normlab reads)."
    ).wait_for()
    page.get_by_text("Click to Upload").wait_for()
    page.locator("#answers .error").first.wait_for(state="detached")
    assert page.locator("#answers .confidence-set").count() == 0


@pytest.mark.slow(2)
def test_a_picture_of_more_than_10_mb_is_refused(visit, picture):
    page = visit()
    picture.write_bytes(bytes(10 * 1024**2 + 1))
    upload(page, picture)
    page.get_by_text("exceed the maximum allowed size of 10.0 Mb").wait_for()


@pytest.mark.slow(2)
def test_peculiar_pictures_get_a_note(visit, tmp_path):
    page = visit()
    Image.new("RGB", (300, 40), "red").save(tmp_path / "wide.png")
    upload(page, tmp_path / "wide.png")
    probabilities(page, "trained")
    note = page.get_by_text(
        "Only the square at the centre of 300 × 40 pixels is seen. It has colours."
    )
    note.first.wait_for()
    assert note.count() == 2


@pytest.mark.slow(2)
def test_the_card_and_the_curl_command_are_shown(visit, server, runs):
    page = visit()
    page.get_by_text("About trained").click()
    parameters = f"{runs[0].summary.parameters:,} parameters"
    page.get_by_text(parameters).wait_for()
    assert page.get_by_text("library_name").count() == 0  # the Hub's metadata is left out
    page.get_by_text("From a program").click()
    lines = page.locator("code").filter(has_text="curl").inner_text().splitlines()
    assert lines == [
        f'curl --data-binary @picture.jpg "{server.url}/predict{which}"'
        for which in ("", f"?run={quote(HOSTILE)}")
    ]


def without_metrics(run, folder):
    """A copy of a run as it is passed on."""
    copied = folder / "copied"
    copied.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(run.path / name, copied)
    return copied


def test_a_folder_without_metrics_has_its_card(trained, tmp_path):
    folder = without_metrics(trained, tmp_path)
    write_card([trained], folder / "README.md")
    run = normlab.Run.open(folder)
    assert "Test accuracy after the last epoch" in ServedRun("copied", run).card
    (folder / "README.md").unlink()
    assert ServedRun("copied", run).card.endswith("its accuracy is unknown.")
    (folder / "README.md").write_text("# Mine\n\nA warning.\n\n---\n\nThe end.\n")
    assert "A warning." in ServedRun("copied", run).card


@pytest.mark.slow(20)
def test_without_captum_and_data_the_page_says_so_and_predicts(visit, picture, trained, tmp_path):
    run = on(trained, tmp_path / "run", "cifar10")
    code = "import sys; sys.modules['captum'] = None; from normlab.cli import main; main()"
    variables = {"XDG_CACHE_HOME": str(tmp_path)}  # where the compiled passes are missing, too
    if shutil.which("gcc"):
        variables |= quick_gcc(tmp_path)
    with served(tmp_path, run.path, code=code, **variables) as server:
        page = visit(url=server.url)
        page.get_by_text("There is no heat map: heat maps need captum").wait_for()
        page.get_by_text("There are no pictures to try: cifar10 is not on").wait_for()
        upload(page, picture)
        assert len(probabilities(page, "run, bn")) == 10
        assert page.locator("#answers img").count() == 0
