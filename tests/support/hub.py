"""A hub on loopback that speaks real HTTP: file listings, redirects to a second host for large files, ranges, refusals,
and connections that break."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pytest_socket import enable_socket, socket_allow_hosts

_PIECE = 64 << 10  # bytes
_WITH_LFS = (".safetensors", ".bin", "tokenizer.json")


@dataclass(frozen=True)
class Request:
    """What somebody asked for. `range` and `token` are from its headers, "" where there was none."""

    method: str
    path: str
    range: str
    token: str
    host: str


@dataclass
class Faults:
    """What goes wrong next. `break_after`: bytes of a body after which the connection is cut, one for each answer of
    the second host. `flips`: that many answers of it have a flipped byte. `statuses`: by path, a status instead of an
    answer. `silence`: seconds before each answer. `pause`: seconds after each piece of a large file. `no_ranges`: every
    answer begins at the first byte. `send_more`: that many bytes too many. `move_to`: the address that large files are
    said to be at."""

    break_after: list[int] = field(default_factory=list)
    flips: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    silence: float = 0.0
    pause: float = 0.0
    no_ranges: bool = False
    send_more: int = 0
    move_to: str = ""


class StandIn:
    """The hub. `address` is its HF_ENDPOINT; `requests` what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults = Faults()
        self._models: dict[str, dict[str, bytes]] = {}
        self._commits: dict[str, str] = {}
        self._refs: dict[tuple[str, str], str] = {}
        self.gated: dict[str, str] = {}
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, far)) for far in (False, True)]
        self._threads = [
            threading.Thread(target=lambda server=server: server.serve_forever(poll_interval=0.01), daemon=True)
            for server in self._servers
        ]
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.daemon_threads = True
            thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    @property
    def far_address(self) -> str:
        """Where the large files are."""
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}"

    def close(self) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()

    def add(self, hub_id: str, directory: Path, revisions: Sequence[str] = ("main",), *, opened_by: str = "") -> str:
        """Publish a directory's files; the commit. opened_by: the token without which its files are refused."""
        files = {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
        commit = hashlib.sha1(repr(sorted((name, hashlib.sha256(b).hexdigest()) for name, b in files.items())).encode())
        self._models[commit.hexdigest()] = files
        self._commits[commit.hexdigest()] = hub_id
        for revision in (*revisions, commit.hexdigest()):
            self._refs[hub_id, revision] = commit.hexdigest()
        if opened_by:
            self.gated[hub_id] = opened_by
        return commit.hexdigest()

    def listing(self, hub_id: str, revision: str) -> dict[str, Any] | None:
        commit = self._refs.get((hub_id, revision))
        if commit is None:
            return None
        siblings = []
        for name, data in self._models[commit].items():
            entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_sha1(data)}
            if name.endswith(_WITH_LFS):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return {"id": hub_id, "sha": commit, "siblings": siblings, "gated": hub_id in self.gated}

    def knows(self, hub_id: str) -> bool:
        return any(known == hub_id for known, _ in self._refs)

    def file(self, hub_id: str, revision: str, name: str) -> tuple[str, bytes] | None:
        commit = self._refs.get((hub_id, revision), "")
        data = self._models.get(commit, {}).get(name)
        return None if data is None else (commit, data)

    def blob(self, digest: str) -> bytes:
        return next(data for files in self._models.values() for data in files.values() if sha256(data) == digest)

    @property
    def bytes_asked(self) -> list[str]:
        """The ranges that were asked of the host of the large files."""
        return [request.range for request in self.requests if request.host == self.far_address]


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[StandIn]:
    """A hub that HF_ENDPOINT names, with an empty cache, no token, and no way to any other host."""
    enable_socket()
    socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(cache.with_name("no-token")))
    hub = StandIn()
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    try:
        yield hub
    finally:
        hub.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _handler(hub: StandIn, far: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            host = hub.far_address if far else hub.address
            hub.requests.append(Request(self.command, path, self.headers.get("Range", ""), token, host))
            time.sleep(hub.faults.silence)
            try:
                self._serve(path, token)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # a client that has read enough hangs up

        def _serve(self, path: str, token: str) -> None:
            if status := hub.faults.statuses.get(path):
                return self._refuse(status)
            if far:
                return self._send(hub.blob(path.removeprefix("/")), flawed=True)
            if api := re.fullmatch(r"/api/models/([^/]+(?:/[^/]+)?)/revision/(.+)", path):
                listing = hub.listing(api[1], api[2])
                if listing is None:
                    known = hub.knows(api[1])
                    return self._refuse(404 if known else 401, "RevisionNotFound" if known else "RepoNotFound")
                return self._send(json.dumps(listing).encode())
            resolve = re.fullmatch(r"/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)", path)
            if resolve is None:
                return self._refuse(404)
            if resolve[1] in hub.gated and hub.gated[resolve[1]] != token:
                return self._refuse(403 if token else 401, "GatedRepo")
            found = hub.file(resolve[1], resolve[2], resolve[3])
            if found is None:
                return self._refuse(404, "EntryNotFound")
            commit, data = found
            if resolve[3].endswith(_WITH_LFS):
                return self._redirect(commit, data)
            return self._send(data, {"X-Repo-Commit": commit, "ETag": f'"{git_sha1(data)}"'})

        def _redirect(self, commit: str, data: bytes) -> None:
            self.send_response(302)
            self.send_header("Location", hub.faults.move_to or f"{hub.far_address}/{sha256(data)}?signature=secret")
            self.send_header("X-Repo-Commit", commit)
            self.send_header("X-Linked-Etag", f'"{sha256(data)}"')
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _refuse(self, status: int, code: str = "") -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _send(self, data: bytes, headers: dict[str, str] | None = None, *, flawed: bool = False) -> None:
            size, begin, end = len(data), 0, len(data)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted and not hub.faults.no_ranges:
                begin, end = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
                if begin >= size:
                    self._refuse(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
            else:
                self.send_response(200)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            if flawed and hub.faults.flips:
                hub.faults.flips -= 1
                data = data[:-1] + bytes([data[-1] ^ 1])
            body = data[begin:end] + b"x" * (hub.faults.send_more if flawed else 0)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if flawed and hub.faults.break_after:
                self.wfile.write(body[: hub.faults.break_after.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return
            at_once = _PIECE if flawed and hub.faults.pause else max(1, len(body))
            for start in range(0, len(body), at_once):
                self.wfile.write(body[start : start + at_once])
                time.sleep(hub.faults.pause if flawed else 0)

    return Handler
