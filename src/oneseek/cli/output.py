"""How values are written: JSON for programs, sizes for people."""

from __future__ import annotations

import sys
from typing import Any

import msgspec


def write_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.flush()


def size(count: int) -> str:
    """Bytes in the largest decimal unit that leaves a number of at least 1."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
