"""A small Hub on 127.0.0.1: the parts of its protocol that downloads and pushes of the real client use.

Files are real bytes in memory, commits are real revisions. `faults` makes the next requests for a path misbehave.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

SIGNATURE = "5" * 32
"""Part of the addresses that downloads are sent on to; nobody should ever see it."""


@dataclass
class Fault:
    """What the server does to matching requests, `times` times."""

    match: str
    kind: str
    """A status number, or cut (half the body), flip (one wrong byte), hang, nohub (no Hub headers), redirect."""
    times: int = 10**9
    headers: dict[str, str] = field(default_factory=dict)
    method: str = ""


@dataclass
class Repo:
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    private: bool = False

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main" and self.commits:
            return self.commits[-1]
        return next((c for c in self.commits if c[0] == revision), None)

    def commit(self, files: dict[str, bytes]) -> str:
        whole = {**(self.commits[-1][1] if self.commits else {}), **files}
        seed = repr(sorted((k, hashlib.sha256(v).hexdigest()) for k, v in whole.items())) + str(len(self.commits))
        oid = hashlib.sha1(seed.encode()).hexdigest()
        self.commits.append((oid, whole))
        return oid


@dataclass
class Hub:
    url: str = ""
    token: str = ""
    """When set, pushes and private repositories need it."""
    repos: dict[str, Repo] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Plain downloads at /upstream/<name>, as an author's web server has them."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    released: threading.Event = field(default_factory=threading.Event)

    def add(self, repo: str, files: dict[str, bytes], *, private: bool = False) -> str:
        entry = self.repos.setdefault(repo, Repo(private=private))
        return entry.commit(files)

    def gets(self, part: str) -> int:
        """How many GETs asked for a path holding `part`."""
        return sum(method == "GET" and part in path for method, path in self.requests)


@contextmanager
def serve() -> Iterator[Hub]:
    """A running Hub, stopped at the end of the block."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.body = self.read_body()
        self.state.requests.append((self.command, path))
        self.state.headers.append({k.lower(): v for k, v in self.headers.items()})
        self.fault = self.take_fault(path)
        if self.fault and self.fault.kind == "hang":
            self.state.released.wait(120)
            self.close_connection = True
            return
        if self.fault and self.fault.kind == "redirect" and path.startswith("/upstream/"):
            self.reply(302, b"", self.fault.headers)
            return
        if self.fault and self.fault.kind.isdigit():
            self.reply(int(self.fault.kind), b'{"error": "as asked"}', self.fault.headers)
            return
        for pattern, method in _ROUTES:
            if found := re.fullmatch(pattern, path):
                getattr(self, method)(*found.groups())
                return
        self.reply(404, b"")

    def take_fault(self, path: str) -> Fault | None:
        for fault in self.state.faults:
            if fault.match in path and fault.times > 0 and fault.method in ("", self.command):
                if fault.kind in ("cut", "flip") and self.command != "GET":
                    continue
                fault.times -= 1
                return fault
        return None

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            out = b""
            while size := int(self.rfile.readline().strip(), 16):
                out += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return out
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if not headers or "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.kind == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        if self.fault and self.fault.kind == "flip":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.wfile.write(body)

    def reply_json(self, value: Any, status: int = 200) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply_file(self, data: bytes, headers: dict[str, str]) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and int(asked[1]) < len(data):
            start, end = int(asked[1]), int(asked[2] or len(data) - 1)
            span = {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
            self.reply(206, data[start : end + 1], {**headers, **span})
        else:
            self.reply(200, data, headers)

    def allowed(self, repo: str, *, write: bool = False) -> Repo | None:
        given = self.headers.get("Authorization", "")
        found = self.state.repos.get(repo)
        if self.state.token and given != f"Bearer {self.state.token}" and (write or (found and found.private)):
            self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
            return None
        if found is None:
            # The Hub does not tell strangers whether a repository exists.
            self.reply(404 if given else 401, b"", {"X-Error-Code": "RepoNotFound"})
        return found

    # downloads

    def resolve(self, repo: str, revision: str, name: str) -> None:
        found = self.allowed(repo)
        if found is None:
            return
        at = found.at(revision)
        if at is None:
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        commit, files = at
        if name not in files:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = files[name]
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Accept-Ranges": "bytes"}
        if not (self.fault and self.fault.kind == "nohub"):
            headers |= {"X-Repo-Commit": commit}
            if name.endswith(".safetensors"):
                headers |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": headers["ETag"]}
        if self.fault and self.fault.kind == "redirect":
            # As the Hub does it: to a store on another host, whose address is signed.
            self.state.files[headers["ETag"].strip('"')] = data
            store = self.state.url.replace("127.0.0.1", "localhost")
            address = f"{store}/upstream/{headers['ETag'].strip(chr(34))}?X-Amz-Signature={SIGNATURE}"
            self.reply(302, b"", {**headers, "Location": address})
            return
        self.reply_file(data, headers)

    def upstream(self, name: str) -> None:
        if name in self.state.files:
            self.reply_file(self.state.files[name], {})
        else:
            self.reply(404, b"")

    def info(self, repo: str, revision: str = "main") -> None:
        found = self.allowed(repo)
        at = found.at(revision) if found else None
        if found and at:
            siblings = [{"rfilename": name} for name in at[1]]
            self.reply_json({"id": repo, "sha": at[0], "private": found.private, "siblings": siblings, "tags": []})
        elif found:
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})

    # pushes

    def create(self) -> None:
        if self.state.token and self.headers.get("Authorization") != f"Bearer {self.state.token}":
            self.reply(401, b"")
            return
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        url = {"url": f"{self.state.url}/{repo}"}
        if repo in self.state.repos:
            self.reply_json(url, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.state.repos[repo] = Repo(private=private)
        self.reply_json(url)

    def validate_yaml(self) -> None:
        self.reply_json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self.allowed(repo, write=True) is None:
            return
        modes = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".png")) else "regular",
                "shouldIgnore": False,
            }
            for f in json.loads(self.body)["files"]
        ]
        self.reply_json({"files": modes})

    def lfs_batch(self, repo: str) -> None:
        if self.allowed(repo, write=True) is None:
            return
        objects = [
            {
                "oid": o["oid"],
                "size": o["size"],
                "actions": {"upload": {"href": f"{self.state.url}/lfs/{o['oid']}", "header": {}}},
            }
            for o in json.loads(self.body)["objects"]
        ]
        self.reply_json({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self.reply(400, b"")
            return
        self.state.uploads[oid] = self.body
        self.reply(200, b"")

    def commit(self, repo: str, revision: str) -> None:
        found = self.allowed(repo, write=True)
        if found is None:
            return
        files = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                files[item["value"]["path"]] = self.state.uploads[item["value"]["oid"]]
        oid = found.commit(files)
        self.reply_json({"commitUrl": f"{self.state.url}/{repo}/commit/{oid}", "commitOid": oid})


_ROUTES = [
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate_yaml"),
    (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
    (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
    (r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", "info"),
    (r"/api/models/([^/]+/[^/]+)", "info"),
    (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
    (r"/lfs/([0-9a-f]{64})", "lfs_put"),
    (r"/upstream/([^/]+)", "upstream"),
    (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
]
