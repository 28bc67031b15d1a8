"""What a thousand viewers of a run take: `python bench/live.py [--viewers 1000] [--rate 10] [--seconds 20] [--save]`.

A process appends records to a run's journal, `oneseek serve` watches it, and a third process is all the viewers, who
check that every record comes once and in order. A latency is the time from just before a record is appended, as its
timestamp says, to when a viewer has it. It is measured with one event a message and with batches; then again beside a
viewer that reads nothing, and while a dataset is uploaded as fast as the server takes it. --save writes
bench/results/live.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from compare import say
from filelock import FileLock
from goals import Goal

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from oneseek.events import EpochStarted  # noqa: E402
from oneseek.files.layout import Home, Results, RunDirectory  # noqa: E402
from oneseek.journal.file import Writer  # noqa: E402
from oneseek.state.access import Access  # noqa: E402
from oneseek.state.database import Database  # noqa: E402
from support.histories import accepted, planned, progress  # noqa: E402

RESULTS = HERE / "results" / "live.json"
BOUND = 250.0  # ms
MODELS = ("alfa", "beta")
SCENARIOS = (
    ("one event a message", False, ""),
    ("batches", True, ""),
    ("one event a message, one viewer stalled", False, "stalled"),
    ("batches, one viewer stalled", True, "stalled"),
    ("one event a message, an upload running", False, "upload"),
    ("batches, an upload running", True, "upload"),
)


@dataclass(frozen=True)
class Measured:
    """Latencies in ms over all viewers and records. `lost` are records that did not come, or not in order. `cpu` is
    the share of one core that the server took, `rss` its memory in MB, `uploaded` in MB/s."""

    what: str
    delivered: int
    lost: int
    p50: float
    p99: float
    longest: float
    cpu: float
    rss: float
    uploaded: float

    @property
    def cells(self) -> str:
        goal = Goal(what=self.what, bound=BOUND, side="at most", values=[self.p99], unit="ms")
        times = f"{self.p50:.0f} | {self.p99:.0f} | {self.longest:.0f}"
        taken = f"{100 * self.cpu:.0f} % | {self.rss:.0f} | {self.uploaded:.0f}"
        return f"| {self.what} | {self.delivered:,} | {self.lost} | {times} | {taken} | {goal.verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10, help="records a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--only", type=int, nargs="*", help="scenarios by number, from 0")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    count = round(options.rate * options.seconds)
    print("| viewers get | delivered | lost | p50 ms | p99 ms | longest ms | server | MB | upload MB/s | p99 |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    found = []
    with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as (address, token, process):
        for number, (what, batch, beside) in enumerate(SCENARIOS):
            if options.only is None or number in options.only:
                run = begun(Path(scratch), number)
                measuring = Measuring(address, token, process, run, options.viewers, options.rate, count)
                found.append(measuring.measured(what, batch, beside))
                print(found[-1].cells, flush=True)
    if options.save:
        on = {"cores": os.cpu_count(), "viewers": options.viewers, "rate": options.rate, "seconds": options.seconds}
        RESULTS.write_text(json.dumps({**on, "measured": [asdict(each) for each in found]}, indent=1) + "\n")


@contextmanager
def served(root: Path) -> Iterator[tuple[str, str, psutil.Process]]:
    """`oneseek serve` in a process of its own: its address, a token, the process."""
    home = Home(root, root / "models")
    with closing(Database.open(home.database)) as database:
        access = Access(database)
        access.administer(access.new_link(), secrets.token_urlsafe(), "bench")
        _, token = access.create_token("bench", "run")
    command = [sys.executable, "-m", "oneseek", "serve", "--home", str(root), "--port", "0", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            said = server.stdout.readline() if server.stdout else ""
            yield urlsplit(said.split()[-1]).netloc, token, psutil.Process(server.pid)
        finally:
            server.terminate()


def begun(root: Path, number: int) -> RunDirectory:
    """A run that trains: three records."""
    run = Results(root / "models").run(f"run-20251122-14302{number}")
    run.work.mkdir(parents=True)
    with Writer(run.journal) as writer:
        for event in (accepted(*MODELS), planned(*MODELS), EpochStarted(epoch=1, learning_rates={})):
            writer.append(event, durable=True)
    return run


@dataclass(frozen=True)
class Measuring:
    """One run, watched from its beginning to its last record."""

    address: str
    token: str
    server: psutil.Process
    run: RunDirectory
    viewers: int
    rate: float
    count: int

    def measured(self, what: str, batch: bool, beside: str) -> Measured:
        say(f"{what}: {self.viewers} viewers, {self.count} records")
        path = f"/ws/training?runId={self.run.run_id}&after=3" + ("&batch=1" if batch else "")
        with ExitStack() as beside_it:
            if beside == "stalled":
                beside_it.enter_context(silent(self.address, path, self.token))
            watching = self._part("watch", self.address, path, self.token, str(self.viewers), str(self.count))
            if watching.stdout is None or watching.stdout.readline() != "ready\n":
                raise RuntimeError("the viewers could not connect")
            sent: list[int] = []
            if beside == "upload":
                beside_it.enter_context(uploading(self.address, self.token, sent))
            cpu, began = sum(self.server.cpu_times()[:2]), time.monotonic()
            writing = self._part("write", str(self.run.root), str(self.rate), str(self.count))
            told = json.loads(watching.stdout.read())
            seconds = time.monotonic() - began
            cpu = (sum(self.server.cpu_times()[:2]) - cpu) / seconds
            writing.wait()
            watching.wait()
            return Measured(
                what=what,
                cpu=cpu,
                rss=self.server.memory_info().rss / 1e6,
                uploaded=sum(sent) / 1e6 / seconds,
                **told,
            )

    @staticmethod
    def _part(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)


@contextmanager
def silent(address: str, path: str, token: str) -> Iterator[socket.socket]:
    """A viewer that reads nothing."""
    host, _, port = address.partition(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(upgrade(address, path, token))
        yield connection


@contextmanager
def uploading(address: str, token: str, sent: list[int]) -> Iterator[None]:
    """A dataset that does not end is sent as fast as it is taken; then it is broken off."""
    said = [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "y" * 400}]
    chunk = (json.dumps({"messages": said}) + "\n").encode() * 300
    ended = threading.Event()

    def send() -> None:
        connection = HTTPConnection(address)
        connection.putrequest("POST", "/api/datasets?name=endless.jsonl")
        connection.putheader("Authorization", f"Bearer {token}")
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        while not ended.is_set():
            connection.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            sent.append(len(chunk))
        connection.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# -- the process that trains ---------------------------------------------------------------------------------------


def write(root: str, rate: str, count: str) -> None:
    """Append records at a steady pace."""
    run = RunDirectory(Path(root))
    with FileLock(run.lock), Writer(run.journal) as writer:
        began = time.monotonic()
        for step in range(int(count)):
            time.sleep(max(0.0, began + step / float(rate) - time.monotonic()))
            writer.append(progress(MODELS[step % 2], 1, step, int(count)), durable=False)


# -- the process of the viewers ------------------------------------------------------------------------------------

_RECORD = re.compile(rb'"type":"progress","seq":(\d+),.*?"timestamp":"([^"]+)"')


def upgrade(address: str, path: str, token: str) -> bytes:
    """What opens a WebSocket."""
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {address}",
        f"Authorization: Bearer {token}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


class Watching(asyncio.Protocol):
    """One viewer: frames are taken apart by hand, so that a thousand viewers take little of the machine."""

    def __init__(self, hello: bytes, last: int, latencies: list[float]) -> None:
        self.opened = asyncio.get_running_loop().create_future()
        self.done = asyncio.get_running_loop().create_future()
        self.lost = 0
        self._hello = hello
        self._last = last
        self._latencies = latencies
        self._seq = 3
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._hello)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        self._data += data
        if not self.opened.done():
            head, found, rest = self._data.partition(b"\r\n\r\n")
            if not found:
                return
            if b" 101 " not in head:
                self.opened.set_exception(RuntimeError(self._data.decode()))
                return
            self._data = rest
            self.opened.set_result(None)
        while (frame := self._frame()) is not None:
            for seq, at in _RECORD.findall(frame):
                self._take(int(seq), now - moment(at))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _take(self, seq: int, latency: float) -> None:
        self.lost += seq != self._seq + 1
        self._seq = seq
        self._latencies.append(1000 * latency)
        if seq == self._last and not self.done.done():
            self.done.set_result(None)

    def _frame(self) -> bytes | None:
        """The next whole frame; a ping is answered."""
        data = self._data
        if len(data) < 2:
            return None
        length, begin = data[1], 2
        if length >= 126:
            begin = 4 if length == 126 else 10
            length = int.from_bytes(data[2:begin], "big")
        if len(data) < begin + length:
            return None
        self._data = data[begin + length :]
        payload = data[begin : begin + length]
        if data[0] & 15 == 9:
            self._transport.write(b"\x8a" + bytes([0x80 | length]) + bytes(4) + payload)
        return payload


_moments: dict[bytes, float] = {}


def moment(at: bytes) -> float:
    """A timestamp in seconds; a thousand viewers get each."""
    if at not in _moments:
        _moments[at] = datetime.fromisoformat(at.decode()).astimezone(UTC).timestamp()
    return _moments[at]


async def watch(address: str, path: str, token: str, viewers: str, count: str) -> None:
    """Connect everybody, say so, and tell what came."""
    loop, latencies = asyncio.get_running_loop(), list[float]()
    host, _, port = address.partition(":")
    watching: list[Watching] = []
    for _ in range(int(viewers)):
        hello = upgrade(address, path, token)
        _, viewer = await loop.create_connection(lambda: Watching(hello, 3 + int(count), latencies), host, int(port))  # noqa: B023
        watching.append(viewer)
        await viewer.opened
    await asyncio.sleep(1)
    print("ready", flush=True)
    await asyncio.gather(*(viewer.done for viewer in watching))
    print(json.dumps(summary(latencies, sum(each.lost for each in watching), int(viewers) * int(count))), flush=True)


def summary(latencies: Sequence[float], out_of_order: int, expected: int) -> dict[str, float]:
    ordered = sorted(latencies) or [float("nan")]
    return {
        "delivered": len(latencies),
        "lost": out_of_order + expected - len(latencies),
        "p50": ordered[len(ordered) // 2],
        "p99": ordered[int(0.99 * len(ordered))],
        "longest": ordered[-1],
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", *given]:
            write(*given)
        case ["watch", *given]:
            asyncio.run(watch(*given))
        case _:
            main()
