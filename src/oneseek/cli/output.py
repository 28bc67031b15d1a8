"""How values are written: JSON for programs; a console, transfers and durations for people."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from rich.console import Console

from oneseek.names import size

PIPE_WIDTH = 110


def terminal() -> Console:
    """Standard output; a pipe, which has no width, gets room for a table."""
    return Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=PIPE_WIDTH)


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def write_line(value: Any) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
    sys.stdout.flush()


def transfer(done: int, total: int, bytes_per_second: float) -> str:
    """How far a download is: `12.0 MB / 45.1 MB, 3.2 MB/s, 10 s left`."""
    parts = [f"{size(done)} / {size(total)}"]
    if bytes_per_second:
        left = (total - done) / bytes_per_second
        parts += [f"{size(round(bytes_per_second))}/s", f"{duration(left)} left"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`2 h 05 min`, `3 min 20 s` or `12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def visible(text: str) -> str:
    """What a model wrote, without the characters that would command a terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)
