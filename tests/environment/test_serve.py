"""A server among clients that stall, sites that borrow its visitors' browsers, and odd settings."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normlab.cli import main
from normlab.errors import UsageError
from peculiar import jpeg_of_scans
from serving import MAIN, Server, png, served, wait_for

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed"),
    pytest.mark.skipif(sys.platform != "linux", reason="a process's usage is read from /proc"),
]
NANO = ("--model", "nano")
PICTURE = png(np.full((32, 32, 3), 70, np.uint8))
JSON = {"Content-Type": "application/json"}
MB = 1024**2


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the limits that it has. No test may cause a traceback."""
    with served(tmp_path_factory.mktemp("server"), *NANO) as server:
        yield server
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def hurried(tmp_path_factory):
    """A server that waits for a second only, and that nohup started."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from normlab.inference import picture_process; from normlab.serve import arrivals;"
        "from normlab.serve import connections; connections.HEADER_SECONDS = 1;"
        "connections.READ_SECONDS = arrivals.UPLOAD_TIMEOUT = 1;"
        "picture_process.MAX_SECONDS = 3;"
    )
    with served(tmp_path_factory.mktemp("hurried"), *NANO, code=code + MAIN) as server:
        yield server
    assert "Traceback" not in server.log.read_text()


@contextmanager
def connected(server, *parts):
    """A connection on which a part of a request was sent."""
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        for part in parts:
            connection.sendall(part.replace(b"HOST", server.host.encode()))
        yield connection


def post(path, length=9):
    return (
        f"POST {path} HTTP/1.1\r\nHost: HOST\r\nContent-Length: {length}\r\n"
        "Content-Type: multipart/form-data; boundary=xyz\r\n\r\n"
    ).encode()


# Clients that stall


@pytest.mark.parametrize("path", ["/predict", "/gradio_api/upload"])
def test_40_slow_uploads_do_not_keep_others_out(server, path):
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(server, post(path), b"--xy"))
        assert [server.predict(PICTURE)[0] for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("part", [b"", b"GET / HTTP/1.1\r\nHost: HO", post("/predict"), b"POST "])
def test_400_half_sent_requests_neither_keep_files_open_nor_others_out(server, part):
    with ExitStack() as stack:
        assert server.predict(PICTURE)[0] == 200  # the first opens what the server then keeps
        before = server.usage()["open"]
        for _ in range(400):
            stack.enter_context(connected(server, part))
        assert server.predict(PICTURE)[0] == 200
        assert server.usage()["open"] - before <= 130
    wait_for(lambda: server.usage()["open"] <= before + 2)


def test_100_open_pages_do_not_keep_programs_out(server):
    with ExitStack() as stack:
        for k in range(120):
            page = f"GET /gradio_api/heartbeat/page{k} HTTP/1.1\r\nHost: HOST\r\n\r\n".encode()
            last = stack.enter_context(connected(server, page))
            status = last.recv(12)
        assert status == b"HTTP/1.1 503"
        assert server.predict(PICTURE)[0] == 200
    wait_for(lambda: server.request("GET", "/config")[0] == 200)


@pytest.mark.slow(1)
def test_stalled_uploads_make_room_for_new_ones(server):
    """Fourteen of nine megabytes are the limit."""
    before = server.usage()["memory"]
    with ExitStack() as stack:
        first, *_ = [
            stack.enter_context(connected(server, post("/predict", 9 * MB + 1), bytes(9 * MB)))
            for _ in range(30)
        ]
        assert first.recv(12) == b"HTTP/1.1 503"
        assert server.predict(PICTURE)[0] == 200
        assert server.usage()["memory"] - before < 250


def test_uploads_that_are_kept_have_a_limit_and_the_newest_can_be_used(server):
    for k in range(15):
        path = server.upload(PICTURE + np.random.default_rng(k).bytes(9 * MB))
        assert kept_bytes(server) <= 110 * MB
    event, data = server.answer({"path": path, "meta": {"_type": "gradio.FileData"}})
    assert event == "complete", data


def kept_bytes(server):
    (folder,) = server.log.parent.glob("normlab-*")
    total = 0
    for place, _, names in os.walk(folder):  # unlike rglob, it bears that the server deletes
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def test_what_a_page_shows_is_deleted_when_the_page_goes(server):
    head = b"GET /gradio_api/heartbeat/visitor HTTP/1.1\r\nHost: HOST\r\n\r\n"
    with connected(server, head) as page:
        assert page.recv(12) == b"HTTP/1.1 200"
        path = Path(server.upload(png(np.full((40, 40, 3), 99, np.uint8))))
        picture = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        status, _ = join(server, fn_index=event_index(server), data=[picture])
        assert status == 200
        _, events = server.request("GET", "/gradio_api/queue/data?session_hash=visitor")
        heat_map = Path(re.search(rb'"path":"([^"]+/image\.png)"', events)[1].decode())
        assert path.exists()
        assert heat_map.exists()
    wait_for(lambda: not path.exists() and not heat_map.exists())


def event_index(server):
    _, config = server.request("GET", "/config")
    events = json.loads(config)["dependencies"]
    return next(event["id"] for event in events if event["api_name"] == "answer")


def join(server, **fields):
    body = json.dumps({"session_hash": "visitor", "data": []} | fields)
    return server.request("POST", "/gradio_api/queue/join", body, JSON)


@pytest.mark.slow(5)
def test_who_is_slow_is_cut_off(hurried):
    unfinished = b"GET / HTTP/1.1\r\nHost: HOST\r\nX: "
    for parts in ([unfinished], [b""], [post("/nothing"), b"123"]):  # the last is answered first
        with connected(hurried, *parts) as connection:
            while connection.recv(4096):
                pass
    for path in ("/predict", "/gradio_api/upload"):
        with connected(hurried, post(path), b"--xy") as connection:
            assert connection.recv(12) == b"HTTP/1.1 408"
    with connected(hurried, unfinished) as connection, suppress(ConnectionError):
        for _ in range(600):  # a byte now and then buys no time
            connection.sendall(b"a")
            time.sleep(0.05)
        pytest.fail("the connection is still open")
    before = hurried.usage()["open"]
    assets = b"GET /theme.css HTTP/1.1\r\nHost: HOST\r\n\r\n" * 3000
    with connected(hurried) as connection:  # a client that asks for much and reads nothing
        connection.settimeout(5)
        with suppress(TimeoutError, ConnectionError):
            connection.sendall(assets.replace(b"HOST", hurried.host.encode()))
        wait_for(lambda: hurried.usage()["open"] <= before)
    assert hurried.predict(PICTURE)[0] == 200


@pytest.mark.slow(4)
def test_a_picture_that_takes_too_long_is_given_up_and_the_next_is_answered(hurried):
    assert hurried.predict(PICTURE)[0] == 200
    slow = jpeg_of_scans(Image.new("L", (9400, 9400), 70), 100)
    status, answer = hurried.predict(slow)
    problem = "the picture cannot be read as an image (it takes longer than 3 seconds)"
    assert (status, answer) == (400, {"error": problem})
    wait_for(lambda: hurried.predict(PICTURE)[0] == 200)


@pytest.mark.slow(2)
def test_a_decoder_that_crashes_costs_one_picture(server):
    assert server.predict(PICTURE)[0] == 200  # so that it has a process that waits
    before = cpu_seconds(server.picture_processes())
    slow = jpeg_of_scans(Image.new("L", (9400, 9400), 70), 100)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(server.predict, slow)
        wait_for(lambda: cpu_seconds(server.picture_processes()) > before + 0.5)  # it decodes
        for process in server.picture_processes():
            os.kill(process, signal.SIGKILL)
        problem = "the picture cannot be read as an image (its decoder crashed)"
        assert asked.result() == (400, {"error": problem})
    assert server.predict(PICTURE)[0] == 200


def cpu_seconds(processes):
    """The time that processes have computed."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(f[11]) + int(f[12]) for f in fields) / os.sysconf("SC_CLK_TCK")


def test_where_no_process_can_be_started_a_picture_may_be_sent_again(server):
    assert server.predict(PICTURE)[0] == 200
    number = server.process.pid
    taken = {int(path.name) for path in Path(f"/proc/{number}/fd").iterdir()}
    few = [free for free in range(2 * len(taken) + 9) if free not in taken][3]  # three more
    usual = resource.prlimit(number, resource.RLIMIT_NOFILE)
    for process in server.picture_processes():
        os.kill(process, signal.SIGKILL)
        wait_for(lambda pid=process: ") Z " in Path(f"/proc/{pid}/stat").read_text())
    resource.prlimit(number, resource.RLIMIT_NOFILE, (few, usual[1]))
    try:
        status, answer = server.predict(PICTURE)
    finally:
        resource.prlimit(number, resource.RLIMIT_NOFILE, usual)
    problem = "no process can be started to read the picture (Too many open files): try again"
    assert (status, answer) == (503, {"error": problem})
    assert server.predict(PICTURE)[0] == 200


# Sites that borrow a visitor's browser


PATHS = ["/", "/config", "/theme.css", "/gradio_api/info", "/gradio_api/heartbeat/a"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://localhost:1", "null", "https://127.0.0.1", "http://[", ""],
)
def test_another_site_gets_nothing(server, path, origin):
    status, content = server.request("GET", path, headers={"Origin": origin})
    assert (status, json.loads(content)) == (
        403,
        {"error": "requests from other sites are not allowed"},
    )
    with connected(server) as connection:
        connection.sendall(
            f"OPTIONS {path} HTTP/1.1\r\nHost: {server.host}\r\nOrigin: {origin}\r\n"
            "Access-Control-Request-Method: POST\r\nConnection: close\r\n\r\n".encode()
        )
        assert b"access-control" not in connection.recv(65536).lower()


def test_another_site_can_send_no_picture_and_the_page_itself_can(server):
    for path in ("/predict", "/gradio_api/upload", "/gradio_api/queue/join"):
        foreign = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
        assert server.request("POST", path, PICTURE, foreign)[0] == 403
    assert server.request("POST", "/predict", PICTURE, {"Origin": server.url})[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example:7860", 400),
        ("", 400),
        (":80", 400),
        ("[::1", 400),
        ("a@127.0.0.1", 400),
        ("localhost", 200),
        ("LOCALHOST:7860", 200),
        ("127.0.0.1", 200),
        ("[::1]:7860", 200),
        ("192.168.1.7:7860", 200),
    ],
)
def test_only_the_server_s_own_names_and_addresses_are_answered(server, host, status):
    for path in ("/config", "/predict"):
        method = "POST" if path == "/predict" else "GET"
        assert server.request(method, path, PICTURE, {"Host": host})[0] == status


def test_a_server_for_everyone_answers_to_the_machine_s_name():
    from normlab.serve.hosts import is_own, names_of

    own = socket.gethostname()
    assert is_own(f"{own}:7860", names_of("0.0.0.0", "0.0.0.0"))
    assert is_own(f"{own.partition('.')[0]}.local", names_of("::", "::"))
    assert is_own("lab.example", names_of("lab.example", "192.0.2.1"))
    assert is_own("lab.example", names_of("Lab.Example.", "192.0.2.1"))
    assert not is_own("evil.example", names_of("0.0.0.0", "0.0.0.0"))
    # Browsers send such names in another spelling, xn--gre-6ka8i.example.
    with pytest.raises(UsageError, match=r"--name größe\.example: expected a host alone"):
        names_of("localhost", "127.0.0.1", ["größe.example"])


@pytest.mark.slow(10)
def test_names_that_the_user_gives_are_the_server_s_too_and_sigterm_stops_it(tmp_path):
    names = ("--name", "Lab.Example.", "--name", "alias")
    with served(tmp_path, *NANO, *names) as server:
        for host, status in (("lab.example", 200), ("alias:80", 200), ("evil.example", 400)):
            assert server.request("POST", "/predict", PICTURE, {"Host": host})[0] == status
        # As a browser does that has opened the page through a proxy with HTTPS.
        proxied = {"Host": "lab.example", "X-Forwarded-Proto": "https"}
        status, content = server.request("GET", "/config", headers=proxied)
        assert (status, json.loads(content)["root"]) == (200, "https://lab.example")
        for origin, status in (("https://lab.example", 200), ("https://evil.example", 403)):
            headers = proxied | {"Origin": origin}
            assert server.request("POST", "/predict", PICTURE, headers)[0] == status
        assert_stopped_by(signal.SIGTERM, server)


@pytest.mark.parametrize(
    "name", ["https://lab.example", "lab.example:80", "lab.example/a", "*", ""]
)
def test_a_name_that_is_none_is_refused(name, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["serve", *NANO, "--name", name, "--port", "0"])
    assert "expected a host alone, such as lab.example.org" in capsys.readouterr().err


# Requests that no page sends


@pytest.mark.parametrize("index", [-1, 99, 10**30, "a", None, 1.5, []])
def test_an_event_that_does_not_exist_is_refused(server, index):
    status, content = join(server, fn_index=index)
    assert 400 <= status < 500, content


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/gradio_api/queue/join", b"[" * 10_000),
        ("/gradio_api/queue/join", b"\xff"),
        ("/gradio_api/call/choose", b'{"data": []}'),
        ("/gradio_api/call/nothing", b'{"data": []}'),
        ("/gradio_api/call/v2/nothing", b'{"data": []}'),
        ("/gradio_api/run/nothing", b'{"data": []}'),
        ("/gradio_api/run/answer", b'{"data": [null]}'),  # past the queue
        (
            "/gradio_api/component_server",
            b'{"session_hash": "a", "component_id": 99, "fn_name": "x", "data": 1}',
        ),
    ],
)
def test_a_request_that_no_page_sends_is_refused(server, path, body):
    status, content = server.request("POST", path, body, JSON)
    assert 400 <= status < 500, content


def test_an_upload_without_a_file_is_refused(server):
    form = b'--xyz\r\nContent-Disposition: form-data; name="files"\r\n\r\nx\r\n--xyz--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
    status, _ = server.request("POST", "/gradio_api/upload", form, headers)
    assert status == 400


@pytest.mark.parametrize(
    "picture",
    [
        5,
        "a",
        {"path": 5},
        {"path": "\0"},
        {"path": "a", "meta": {"_type": "gradio.FileData"}},
        {"path": "../a", "url": "http://127.0.0.1:9/", "meta": {"_type": "gradio.FileData"}},
        {"path": "a" * 5000, "meta": {"_type": "gradio.FileData"}},
    ],
)
def test_an_error_names_no_folder_of_the_server(server, picture):
    event, data = server.answer(picture)
    assert event == "error"
    assert data["error"] in (
        "The request is not one that the page sends.",
        "The picture was not uploaded.",
    )
    assert str(Path.cwd()) not in json.dumps(data)


# Settings and signals


def assert_stopped_by(number, server):
    """A signal stops it and deletes the uploads."""
    path = Path(server.upload(PICTURE))
    assert path.exists()
    assert server.predict(PICTURE)[0] == 200
    readers = server.picture_processes()
    server.process.send_signal(number)
    server.process.communicate(timeout=600)
    assert server.process.returncode == 130
    assert server.log.read_text().splitlines() == ["normlab: interrupted"]
    assert [*server.log.parent.glob("normlab-*")] == []
    wait_for(lambda: not any(Path(f"/proc/{reader}").exists() for reader in readers))


@pytest.mark.slow(6)
def test_a_terminal_that_closes_stops_it(tmp_path):
    with served(tmp_path, *NANO) as server:
        assert_stopped_by(signal.SIGHUP, server)


def test_under_nohup_it_outlives_its_terminal(hurried):
    hurried.process.send_signal(signal.SIGHUP)
    assert hurried.predict(PICTURE)[0] == 200


# Of the user's: proxies, and settings of Gradio. No variable of a group hides another of it.
SETTINGS = [
    {
        **{"ALL_PROXY": "socks5://127.0.0.1:9", "https_proxy": "http://[", "no_proxy": "\n"},
        **{"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SSR_MODE": "True"},
    },
    {
        **{"all_proxy": "socks4a://x:y", "HTTP_PROXY": "no url", "NO_PROXY": "[::1,%%,"},
        **{"GRADIO_ROOT_PATH": "/elsewhere", "GRADIO_MCP_SERVER": "True"},
    },
]


@pytest.mark.slow(6)
@pytest.mark.parametrize(
    ("closed", "settings"),
    [("<&-", SETTINGS[0]), (">&-", SETTINGS[1]), ("2>&-", {}), ("<&- >&- 2>&-", {})],
)
def test_it_serves_with_closed_standard_streams_and_whatever_the_user_set(
    tmp_path, closed, settings
):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = f'exec "$0" -c "{MAIN}" serve --model nano --port {port} {closed}'
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["/bin/sh", "-c", line, sys.executable],
            stdout=subprocess.DEVNULL,
            stderr=file,
            env=os.environ | {"TMPDIR": str(tmp_path), "NORMLAB_DATA": ""} | settings,
        )
    server = Server(process, f"http://127.0.0.1:{port}", log)
    try:
        request = f"GET /config HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        wait_for(lambda: process.poll() is not None or answers(port, request), seconds=300)
        assert process.poll() is None
        assert server.predict(PICTURE)[0] == 200
        assert server.request("GET", f"/gradio_api/file={log}")[0] == 403
        _, config = server.request("GET", "/config")
        assert json.loads(config)["root"] == server.url
    finally:
        process.terminate()
        process.wait(600)
    assert process.returncode == 130
    assert [*tmp_path.glob("normlab-*")] == []
    assert "Traceback" not in log.read_text()


def answers(port, request):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(request.encode())
            return connection.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "a" * 300, "192.0.2.1", ""])
def test_a_host_that_is_not_this_machine_is_refused_in_one_line(host, cli):
    code, output, errors = cli("serve", *NANO, "--port", "0", "--host", host)
    assert (code, output, errors.count("\n")) == (1, "", 1)
    assert "choose another --port or --host" in errors
