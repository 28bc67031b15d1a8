"""A server that is killed: `oneseek serve` over scripted models, again and again, and those who watch meanwhile.

    python -m support.killed

Each line of standard input, HOME PORT, starts a server, forked from this process that has imported everything, so that
one more costs milliseconds. The line may end with a trap: a call at which the server dies, such as `before
oneseek.state.queue Queue.add`. What it does in processes of its own is then done in threads, so that it dies there too.
When it has ended, `ended STATUS` is written.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial, reduce
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Literal

import websocket

from oneseek.cli import main as oneseek
from oneseek.runs import queue
from oneseek.runs.process import written
from oneseek.server import serve, uploads
from oneseek.state.access import Access
from support.ledger_service import allow_loopback
from support.routes import Got
from support.runs import Town
from support.state import database

HERE = Path(__file__).parent.parent
RUN = {"datasetId": "rows.jsonl", "baseModels": ["alfa-1b"], "epochs": 2, "execution": {"executor": "inline"}}


class Site:
    """A home and the server that it has now; its address and its token outlast it."""

    def __init__(self, town: Town, nursery: subprocess.Popen[str], port: int, token: str) -> None:
        self.town = town
        self.port = port
        self.headers = {"Authorization": f"Bearer {token}"}
        self.status: int | None = 0
        self._nursery = nursery

    def start(self, trap: str = "") -> None:
        """A server, once it answers."""
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(f"{self.town.root} {self.port} {trap}\n")
        self._nursery.stdin.flush()
        self.pid = int(self._nursery.stdout.readline())
        self.status = None
        while True:
            try:
                self.ask("GET", "/healthz")
                return
            except OSError:
                os.kill(self.pid, 0)  # as long as there is one
                time.sleep(0.01)

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        """What it ended with: minus the signal, where it was killed."""
        os.kill(self.pid, how)
        return self.ended()

    def ended(self) -> int:
        """Once it has ended by itself."""
        assert self._nursery.stdout
        for line in self._nursery.stdout:
            if line.startswith("ended "):
                self.status = os.waitstatus_to_exitcode(int(line.split()[1]))
                return self.status
        raise AssertionError(self.faults)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> Got:
        """body: bytes, or what is sent as JSON."""
        sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, sent, {"Content-Type": "application/json", **self.headers, **headers})
            answer = connection.getresponse()
            return Got(answer.status, answer.headers, answer.read())

    def run(self, **more: Any) -> str:
        """The id of a run that was just accepted."""
        answer = self.ask("POST", "/api/admin/training/start-dna-v2", RUN | more)
        assert answer.status == 202, answer.body
        return str(answer.json["run_id"])

    def until(self, run_id: str, *statuses: str, seconds: float = 60) -> dict[str, Any]:
        """A run, once it has one of these statuses."""
        deadline = time.monotonic() + seconds
        while True:
            known: dict[str, Any] = self.ask("GET", f"/api/runs/{run_id}").json
            if known["status"] in statuses:
                return known
            assert time.monotonic() < deadline, (known["status"], self.faults, self.run_log(run_id))
            time.sleep(0.05)

    def emptied(self, seconds: float = 10) -> None:
        """Wait until nothing runs or waits."""
        deadline = time.monotonic() + seconds
        while places := self.ask("GET", "/api/queue").json["queue"]:
            assert time.monotonic() < deadline, (places, self.faults)
            time.sleep(0.05)

    def run_log(self, run_id: str) -> str:
        path = self.town.home.run_log(run_id)
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> str:
        return _log(self.town.root).read_text()

    @property
    def faults(self) -> list[str]:
        """Lines of the log that nobody should have to read."""
        return [line for line in self.log.splitlines() if '"level": "error"' in line or "Traceback" in line]


class Watcher(threading.Thread):
    """Somebody who watches a run to its end, and comes back when the server was gone with what it knows."""

    def __init__(self, site: Site, run_id: str, over: Literal["socket", "events"], form: str = "wire") -> None:
        super().__init__(daemon=True)
        self.seqs: list[int] = []
        self.kinds: list[str] = []
        self.texts: list[str] = []
        self.came = 0
        self.over = False
        self._site = site
        self._query = f"form={form}&after="
        self._run_id = run_id
        self._watch = self._socket if over == "socket" else self._events
        self.start()

    @property
    def last(self) -> int:
        return self.seqs[-1] if self.seqs else 0

    def run(self) -> None:
        while not self.over:
            try:
                self._watch()
            except (OSError, HTTPException, websocket.WebSocketException):
                time.sleep(0.02)

    def _socket(self) -> None:
        url = f"ws://127.0.0.1:{self._site.port}/ws/training?runId={self._run_id}&{self._query}{self.last}"
        with socket.create_connection(("127.0.0.1", self._site.port), 20) as connection:
            viewer = websocket.create_connection(url, socket=connection, header=self._site.headers)
            self.came += 1
            while True:
                kind, data = viewer.recv_data()
                if kind == websocket.ABNF.OPCODE_CLOSE:
                    self.over = int.from_bytes(data[:2]) == 1000
                    return
                self._take(data.decode())

    def _events(self) -> None:
        path = f"/api/training/{self._run_id}/events?{self._query}0"
        headers = {**self._site.headers, "Last-Event-ID": str(self.last)}
        with closing(HTTPConnection("127.0.0.1", self._site.port, timeout=20)) as connection:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            self.came += 1
            self.over = answer.status == 204
            for line in answer:
                if line.startswith(b"data: ") and line.endswith(b"\n"):
                    self._take(line[6:-1].decode())

    def _take(self, text: str) -> None:
        message = json.loads(text)
        if message.get("type") != "heartbeat":
            self.seqs.append(message["seq"])
            self.kinds.append(message.get("type", "record"))
            self.texts.append(text)


@contextmanager
def nursery(*prefix: str) -> Iterator[subprocess.Popen[str]]:
    """Where servers are forked, one at a time; by a command that begins with `prefix`."""
    command = [*prefix, sys.executable, "-m", "support.killed"]
    with subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def site(town: Town, nursery: subprocess.Popen[str]) -> Iterator[Site]:
    """A home without a server yet. In the end there is none, and nothing is trained there."""
    allow_loopback()
    with closing(database(town.home.database)) as opened:
        _, token = Access(opened).create_token("test", "admin")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = Site(town, nursery, port, token)
    try:
        yield found
    finally:
        if found.status is None:
            found.end()
        for path in town.results.runs.glob("*/work/process.json"):
            if (process := written(path)) and (living := process.living()):
                living.kill()


def _log(root: Path) -> Path:
    return root.with_name("server.log")


def main() -> None:
    for line in sys.stdin:
        root, port, *trap = line.split()
        child = os.fork()
        if child == 0:
            _serve(Path(root), port, trap)
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"ended {status}\n")
        sys.stdout.flush()


def _serve(root: Path, port: str, trap: Sequence[str]) -> None:
    with _log(root).open("ab") as log, Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(log.fileno(), 2)
    vars(serve).update(Supervisor=partial(queue.Supervisor, engine="scripted"))
    uploads._LEFT = 0  # homes for tests may be small
    if trap:
        vars(serve).update(Work=lambda: ThreadPoolExecutor(2))
        _set_trap(*trap)
    sys.argv[1:] = ["serve", "--home", str(root), "--port", port]
    oneseek()
    sys.exit()


def _set_trap(at: str, module: str, name: str) -> None:
    """Let the process die at the first call of a function, `before` or `after` it."""
    *path, last = name.split(".")
    place = reduce(getattr, path, importlib.import_module(module))
    function = getattr(place, last)

    def trapped(*args: Any, **kwargs: Any) -> Any:
        if at == "after":
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(place, last, trapped)


if __name__ == "__main__":
    main()
