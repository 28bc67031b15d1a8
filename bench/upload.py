"""What sending a dataset takes of `oneseek serve`: `python bench/upload.py [--gigabytes 2] [--only 0 1] [--save]`.

Rows of several shapes are sent to the server as they are made, one file at a time, then four at once. Meanwhile the
memory of the server and of its largest process for heavy work is looked at twenty times a second, and another client
asks for something small again and again. The memory that a row takes while a file is checked is of the latter: 12 bytes
and what finding repeated rows needs. --save writes bench/results/upload.json.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.client import HTTPConnection
from itertools import repeat
from pathlib import Path

import psutil
from goals import Goal
from live import served

RESULTS = Path(__file__).parent / "results" / "upload.json"
BOUND = 32.0  # MiB that the server may grow by
MIB = 1 << 20


def chats(size: int, seed: int) -> Iterator[bytes]:
    """Rows of some 350 bytes."""
    draw = random.Random(seed).random
    turns = ({"role": "user", "content": "What is it? " * 10}, {"role": "assistant", "content": "It is so. " * 15})
    rows = ({"messages": [turns[0], {**turns[1], "content": f"{draw()} {turns[1]['content']}"}]} for _ in repeat(None))
    yield from _pieces(rows, size)


def words(size: int, seed: int) -> Iterator[bytes]:
    """Rows of 30 bytes: as many as there can be."""
    draw = random.Random(seed).getrandbits
    yield from _pieces(({"text": f"{draw(60)}"} for _ in repeat(None)), size)


def books(size: int, seed: int) -> Iterator[bytes]:
    """Rows of 60 MiB: as long as they may be."""
    for number in range(size // (60 * MIB)):
        yield b'{"text": "%d %d' % (seed, number)
        yield from repeat(b"x" * MIB, 60)
        yield b'"}\n'


def one_line(size: int, seed: int) -> Iterator[bytes]:
    """A good row, then one that never ends."""
    yield b'{"text": "%d"}\n{"text": "' % seed
    yield from repeat(b"x" * MIB, size // MIB)


def _pieces(rows: Iterator[object], size: int) -> Iterator[bytes]:
    sent = 0
    while sent < size:
        piece = b"".join(json.dumps(next(rows)).encode() + b"\n" for _ in range(3000))
        sent += len(piece)
        yield piece


Rows = Callable[[int, int], Iterator[bytes]]
SCENARIOS: tuple[tuple[str, Rows, float, int], ...] = (
    ("chats", chats, 1, 1),
    ("rows of 60 MiB", books, 1, 1),
    ("one line without an end", one_line, 1, 1),
    ("rows of 30 bytes", words, 0.1, 1),
    ("chats, four at once", chats, 0.15, 4),
)
"""What is sent, what makes it, its share of the size, and how many at once."""


@dataclass(frozen=True)
class Measured:
    """Memory in MiB: of the server `before` and at its `peak`, `worker` of the largest process beside it. `sent` and
    `described` are seconds from the beginning until the last byte was taken, and until the answer; `others` is the 99th
    percentile of another request's time, in ms."""

    what: str
    gigabytes: float
    before: float
    peak: float
    worker: float
    sent: float
    described: float
    others: float

    @property
    def cells(self) -> str:
        goal = Goal(what=self.what, bound=BOUND, side="at most", values=[self.peak - self.before], unit="MiB")
        memory = f"{self.before:.0f} | {self.peak:.0f} | {self.worker:.0f}"
        times = f"{self.sent:.0f} | {self.described:.0f} | {self.others:.0f}"
        return f"| {self.what} | {self.gigabytes:.2f} | {memory} | {times} | {goal.verdict} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--only", type=int, nargs="*", help="scenarios by number, from 0")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    print("| rows | GB | MiB before | peak | worker | sent s | answered s | others p99 ms | growth |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    found = []
    for number, (what, rows, share, at_once) in enumerate(SCENARIOS):
        if options.only is None or number in options.only:
            size = round(options.gigabytes * share * 1e9)
            with tempfile.TemporaryDirectory() as scratch, served(Path(scratch)) as (address, token, process):
                found.append(measured(what, rows, size, at_once, Client(address, token), process))
            print(found[-1].cells, flush=True)
    if options.save:
        document = {"cores": os.cpu_count(), "measured": [asdict(each) for each in found]}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n")


@dataclass(frozen=True)
class Client:
    address: str
    token: str

    def asked(self, method: str, path: str, body: Iterator[bytes] | None = None) -> None:
        """One request, answered."""
        connection = HTTPConnection(self.address, timeout=3600)
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Transfer-Encoding": "chunked"} if body else {})
        connection.request(method, path, body, headers, encode_chunked=body is not None)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status >= 400:
            raise RuntimeError(said.decode())


def measured(what: str, rows: Rows, size: int, at_once: int, client: Client, server: psutil.Process) -> Measured:
    client.asked("GET", "/api/tasks")
    before, began, done = server.memory_info().rss, time.monotonic(), threading.Event()
    sent: list[float] = []

    def send(number: int) -> None:
        def body() -> Iterator[bytes]:
            yield from rows(size, number)
            sent.append(time.monotonic() - began)

        client.asked("POST", f"/api/datasets?name=rows-{number}.jsonl", body())

    with ThreadPoolExecutor() as several:
        peaks = several.submit(watched, server, done)
        times = several.submit(timed, client, done)
        try:
            list(several.map(send, range(at_once)))
            described = time.monotonic() - began
        finally:
            done.set()
        peak, worker = peaks.result()
        others = times.result()
    return Measured(
        what=what,
        gigabytes=size * at_once / 1e9,
        before=before / MIB,
        peak=peak / MIB,
        worker=worker / MIB,
        sent=max(sent),
        described=described,
        others=1000 * sorted(others)[int(0.99 * len(others))],
    )


def watched(server: psutil.Process, done: threading.Event) -> tuple[int, int]:
    """The most memory of the server, and of one of its processes."""
    peak = worker = 0
    while not done.wait(0.05):
        peak = max(peak, server.memory_info().rss)
        for child in server.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                worker = max(worker, child.memory_info().rss)
    return peak, worker


def timed(client: Client, done: threading.Event) -> list[float]:
    """Seconds of each of many small requests."""
    times = []
    while not done.wait(0.05):
        began = time.monotonic()
        client.asked("GET", "/api/tasks")
        times.append(time.monotonic() - began)
    return times


if __name__ == "__main__":
    main()
