import gc
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cifar10_files import tar, write_all
from normlab.data import load
from normlab.data.cifar import download
from normlab.data.cifar.files import PUBLISHED
from normlab.data.sources import cifar10
from normlab.errors import DataError

ARCHIVE = "cifar-10-binary.tar.gz"


class Server(ThreadingHTTPServer):
    """Answers each request as the next word of its script says."""

    daemon_threads = False  # closing the server waits for its answers

    def __init__(self, content):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.script = []
        self.asked = 0
        self.stopped = threading.Event()

    def answers(self, *script):
        self.script = list(script)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked += 1
        answer = server.script.pop(0)
        if answer == "error":
            self.send_error(503)
            return
        if answer == "hang":
            server.stopped.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        bodies = {
            "whole": server.content,
            "short": server.content[:100_000],
            "other": bytes(len(server.content)),
        }
        self.wfile.write(bodies[answer])

    def log_message(self, *_):
        pass


# pooch leaves the connection of a failed attempt to the garbage collector, which warns about it.
# The fixture collects it before the next test; that takes long if many modules are imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.slow(1),
]


@pytest.fixture
def server(made_up, monkeypatch):
    """A local server in place of the authors' page, with an invented archive."""
    content = tar(made_up.binary(), "cifar-10-batches-bin")
    server = Server(content)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(download, "SITE", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setitem(PUBLISHED, ARCHIVE, hashlib.md5(content).hexdigest())
    monkeypatch.setattr("time.sleep", lambda _: None)  # between two attempts
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()
    gc.collect()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache" / "normlab"


def content_of(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_it_is_downloaded_once(server, cache, made_up):
    server.answers("whole")
    first = load("cifar10")
    assert (first.test.images.reshape(20, -1) == made_up.pixels[5]).all()
    assert first.notes == ()
    assert content_of(cache) == [ARCHIVE]
    assert load("cifar10").fingerprint == first.fingerprint
    assert server.asked == 1


@pytest.mark.parametrize("trouble", ["error", "short", "other"])
def test_a_failed_download_is_retried(trouble, server, cache):
    server.answers(trouble, "whole")
    assert len(load("cifar10").train) == 100
    assert server.asked == 2
    assert content_of(cache) == [ARCHIVE]


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("error", "the server answered 503"),
        ("short", "no full answer"),
        ("other", "checksum mismatch"),
        ("hang", "no full answer: ReadTimeout"),
    ],
)
def test_after_two_failures_one_line_says_what_to_do(trouble, reason, server, cache, monkeypatch):
    if trouble == "hang":
        monkeypatch.setattr(download, "TIMEOUT", 0.2)
    server.answers(trouble, trouble)
    with pytest.raises(DataError) as caught:
        load("cifar10")
    text = str(caught.value)
    while server.asked < 2:  # the second request may not have arrived yet
        threading.Event().wait(0.01)
    assert server.asked == 2
    assert "\n" not in text
    for hint in (
        reason,
        f"{download.SITE}/{ARCHIVE}",
        str(cache),
        "--data-root",
        "--dataset digits",
    ):
        assert hint in text
    assert content_of(cache) == []


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        (("mikro",), "did you mean micro?"),
        (("nano", "--layouts", "mikro"), "did you mean micro?"),
        (("nano", "--norms", "bn", "gm"), "did you mean gn"),
        (("nano", "--recipe", "mikro"), "did you mean micro?"),
        (("nano", "--dataset", "cifar1"), "did you mean cifar10"),
    ],
)
def test_a_study_refuses_what_is_misspelt_before_a_download(typed, hint, cli, tmp_path):
    code, _, errors = cli("compare", *typed, "--out", tmp_path / "study")
    assert (code, errors.count("\n")) == (2, 1)
    assert hint in errors


@pytest.mark.usefixtures("made_up")
def test_an_unreachable_server_gives_one_line(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(DataError, match=r"could not be downloaded \(no full answer") as caught:
        load("cifar10")
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written_is_named(server, cache):
    write_all(cache.parent.parent, {"cache": b"a file where the cache folder should be"})
    with pytest.raises(DataError, match=str(cache)):
        load("cifar10")
    assert server.asked == 0


def test_a_damaged_archive_in_the_cache_is_downloaded_again(server, cache):
    write_all(cache, {ARCHIVE: server.content[:-1]})
    server.answers("whole")
    assert load("cifar10").notes == ()
    assert (cache / ARCHIVE).read_bytes() == server.content


def test_files_extracted_into_the_cache_are_used(server, cache, made_up):
    write_all(cache / "cifar-10-batches-bin", made_up.binary())
    assert load("cifar10").notes[0].startswith("not checked")
    assert server.asked == 0


def test_nothing_is_downloaded_if_a_folder_is_named(server, tmp_path, monkeypatch):
    with pytest.raises(DataError):
        load("cifar10", data_root=tmp_path)
    monkeypatch.setenv("NORMLAB_DATA", str(tmp_path))
    with pytest.raises(DataError):
        load("cifar10")
    assert server.asked == 0


def test_a_pipe_gets_one_plain_line(server, capfd, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    server.answers("short", "whole")
    load("cifar10")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"Downloading CIFAR-10 from {download.SITE}/{ARCHIVE}")


def test_a_terminal_gets_a_bar(server, capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
    server.answers("short", "whole")
    load("cifar10")
    out, err = capfd.readouterr()
    assert out == ""
    assert "Downloading CIFAR-10" in err
    size = f"{len(server.content) / 1e3:.1f}"
    assert f"{size}/{size} kB" in err


def test_what_is_cached_or_in_a_named_folder_needs_no_download(server, monkeypatch, tmp_path):
    assert cifar10.needs_download()
    server.answers("whole")
    load("cifar10")
    assert not cifar10.needs_download()
    archive = next(tmp_path.rglob(ARCHIVE))
    archive.write_bytes(archive.read_bytes()[:-1])
    assert cifar10.needs_download()  # `load` would download it again
    monkeypatch.setenv("NORMLAB_DATA", str(tmp_path))
    assert not cifar10.needs_download()  # `load` searches only there
    assert server.asked == 1
