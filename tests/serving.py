"""A running `normlab serve`, reached over HTTP and through Gradio's own API."""

import http.client
import io
import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

MAIN = "from normlab.cli import main; main()"


class Server:
    """A running `normlab serve`, reached over HTTP."""

    def __init__(self, process, url, log):
        self.process = process
        self.url = url
        self.host = url.removeprefix("http://")
        self.log = log

    def request(self, method, path, body=None, headers=None):
        """Sends a request; returns the response's status and content."""
        connection = http.client.HTTPConnection(self.host, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def predict(self, picture, run=None):
        query = "" if run is None else f"?run={quote(run)}"
        status, content = self.request("POST", f"/predict{query}", picture)
        return status, json.loads(content)

    def upload(self, picture, upload_id="a"):
        """Uploads a picture through Gradio's own API; returns its path."""
        form = (
            b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
            b"Content-Type: image/png\r\n\r\n" + picture + b"\r\n--xyz--\r\n"
        )
        status, content = self.request(
            "POST",
            f"/gradio_api/upload?upload_id={upload_id}",
            form,
            {"Content-Type": "multipart/form-data; boundary=xyz"},
        )
        assert status == 200, content
        return json.loads(content)[0]

    def answer(self, picture):
        """The page's event and its data for an uploaded picture, through Gradio's own API."""
        call = "/gradio_api/call/answer"
        status, content = self.request(
            "POST", call, json.dumps({"data": [picture]}), {"Content-Type": "application/json"}
        )
        assert status == 200, content
        _, content = self.request("GET", f"{call}/{json.loads(content)['event_id']}")
        event, data = content.decode().strip().splitlines()[-2:]
        return event.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    def picture_processes(self):
        """The processes that read its pictures."""
        tasks = (Path("/proc") / str(self.process.pid) / "task").iterdir()
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]

    def usage(self):
        """What the server uses: MB of memory, threads, open files, files in its folder."""
        process = Path("/proc") / str(self.process.pid)
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        (folder,) = self.log.parent.glob("normlab-*")
        return {
            "memory": int(status["VmRSS"].removesuffix("kB")) / 1024,
            "threads": int(status["Threads"]),
            "open": len([*(process / "fd").iterdir()]),
            "files": sum(len(files) for *_, files in os.walk(folder)),
        }


@contextmanager
def served(folder, *arguments, code=MAIN, **environment):
    """Runs the command for the duration of the block."""
    log = folder / "log.txt"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", *map(str, arguments), "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=os.environ | {"TMPDIR": str(folder), "NORMLAB_DATA": ""} | environment,
        )
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Server(process, re.search(r"http://[\d.:]+", line)[0], log)
    finally:
        process.terminate()
        process.communicate(timeout=600)


def predict_both_ways(server, k):
    """Sends the k-th picture over HTTP, and through Gradio as a new visitor."""
    picture = png(np.full((32, 32, 3), [k % 256, k // 256, 0], np.uint8))
    status, _ = server.predict(picture)
    assert status == 200
    path = server.upload(picture, upload_id=k)
    event, data = server.answer({"path": path, "meta": {"_type": "gradio.FileData"}})
    assert event == "complete", data


def wait_for(condition, seconds=60):
    """Waits until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
