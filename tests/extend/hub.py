"""A hub on this machine: the part of huggingface.co's HTTP interface that its client asks for.

As there: small files are served as they stand, weights by a redirect to another place, whose hash
and size the first answer names; who may not see a repository is told 401, as for one that is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

GATED = "owner/gated"


class Hub:
    """Repositories by name, each a folder at a commit per revision, and what was asked for."""

    def __init__(self) -> None:
        self.revisions: dict[str, dict[str, Path]] = {}
        self.asked: list[str] = []
        self.url = self.store = ""
        self.stop: Callable[[], None] = lambda: None  # a GET of /stop calls it: nobody answers then

    def push(self, name: str, folder: Path, revision: str = "main") -> str:
        """Put a folder at a revision; its commit."""
        commit = hashlib.sha1(f"{name} {revision} {folder}".encode()).hexdigest()
        self.revisions.setdefault(name, {}).update({revision: folder, commit: folder})
        return commit

    def commit(self, name: str, revision: str) -> str:
        """The commit that a revision of a repository stands for."""
        folder = self.revisions[name][revision]
        found = (key for key, value in self.revisions[name].items() if value == folder)
        return next(key for key in found if len(key) == 40)


@contextmanager
def serve(hub: Hub) -> Generator[Hub]:
    """The hub at `hub.url`, its weights at `hub.store`, on the loopback interface only."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))

    def answer() -> None:
        server.serve_forever(poll_interval=0.05)
        server.server_close()

    hub.stop = server.shutdown
    thread = Thread(target=answer)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.store = f"http://localhost:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()


class _Answers(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0].strip("/")
        if path == "stop":
            return self._send(200, b"", {}) or self.hub.stop()
        if path.startswith("api/models/"):
            return self._about(path.removeprefix("api/models/"))
        if path.startswith("blobs/"):
            return self._send(200, Path("/" + path.removeprefix("blobs/")).read_bytes(), {})
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self._refused(name, revision) or self._file(name, revision, file)

    do_GET = do_HEAD

    def log_message(self, *words: Any) -> None:
        """Nothing on stderr."""

    def _refused(self, name: str, revision: str) -> bool:
        if name == GATED:
            status = 403 if self.headers.get("Authorization") else 401
            self._no(status, "GatedRepo", f"Access to model {name} is restricted.")
        elif name not in self.hub.revisions:
            if self.headers.get("Authorization"):
                self._no(404, "RepoNotFound", "Repository not found")
            else:  # what anonymous users are told, with no code
                self._send(401, b"", {"X-Error-Message": "Invalid username or password."})
        elif revision not in self.hub.revisions[name]:
            self._no(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return False
        return True

    def _file(self, name: str, revision: str, file: str) -> None:
        place = self.hub.revisions[name][revision] / file
        headers = {"X-Repo-Commit": self.hub.commit(name, revision)}
        if not place.is_file():
            return self._no(404, "EntryNotFound", "Entry not found", headers)
        content = place.read_bytes()
        if place.suffix != ".safetensors":
            etag = hashlib.sha1(content).hexdigest()
            return self._send(200, content, headers | {"ETag": f'"{etag}"'})
        headers |= {"X-Linked-Size": str(len(content))}
        headers |= {"X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"'}
        return self._send(302, b"", headers | {"Location": f"{self.hub.store}/blobs{place}"})

    def _about(self, path: str) -> None:
        for word in ("/revision/", "/tree/"):
            name, found, rest = path.partition(word)
            if found:
                break
        revision, _, inside = (rest or "main").partition("/")
        if self._refused(name, revision):
            return None
        folder = self.hub.revisions[name][revision]
        if word == "/tree/" and found:
            if inside and not (folder / inside).is_dir():
                return self._no(404, "EntryNotFound", "Entry not found")
            return self._json(
                [{"type": "file", "path": each.name, "size": each.stat().st_size, "oid": "0" * 40}
                 for each in folder.iterdir()]
            )  # fmt: skip
        files = [{"rfilename": each.name} for each in folder.iterdir()]
        commit = self.hub.commit(name, revision)
        return self._json({"id": name, "modelId": name, "sha": commit, "siblings": files})

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _no(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        wrong = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, b"", wrong | (headers or {}))

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)
