"""A stand-in for the Hugging Face Hub: a real server on this machine, asked by the real client."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_made_up"


class Hub(ThreadingHTTPServer):
    """Repositories of models in memory, as far as an upload needs them.

    Attributes:
        repositories: The files of each, by their names; both by the names that the client gives.
        refuses: A part of an address, and the status with which it is answered.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.objects, self.refuses = {}, {}, ("", 0)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content=None, status=200):
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        content = self.body()
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self.server.objects[digest] = content
        self.answer()

    def do_POST(self):
        content, hub = self.body(), self.server
        part, status = hub.refuses
        if part and part in self.path:
            self.answer({"error": "no"}, status)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "who are you?"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in hub.repositories else 200
            hub.repositories.setdefault(name, {})
            self.answer({"url": f"{hub.address}/{name}"}, status)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": [{"message": "no licence"}]})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(content)["files"]]
            modes = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            files = [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]
            self.answer({"files": files})
        elif self.path.endswith("/objects/batch"):
            self.answer(
                {"transfer": "basic", "objects": [*map(self.link, json.loads(content)["objects"])]}
            )
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", self.path):
            hub.repositories[found[1]] |= self.committed(content)
            self.answer(
                {"commitUrl": f"{hub.address}/{found[1]}/commit/{'0' * 40}", "commitOid": "0" * 40}
            )
        else:
            self.answer({"error": self.path}, 404)

    def link(self, wanted):
        href = f"{self.server.address}/objects/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": href}}}

    def committed(self, content):
        files = {}
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        return files
