"""Which process it is, also when its pid has become another's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

import msgspec
import psutil

_SAME_START = 2.0
"""Seconds. Linux tells when a process began from when it was itself booted, which it rounds anew each time it is asked;
no pid comes round again as fast as this."""


class Process(msgspec.Struct, frozen=True):
    """A process; `started` is psutil's create_time of it, in seconds since 1970."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> Self:
        """The one that has a pid now.

        Raises:
            psutil.NoSuchProcess: nobody has it.
        """
        return cls(pid, psutil.Process(pid).create_time())

    @classmethod
    def this(cls) -> Self:
        return cls.of(os.getpid())

    def living(self) -> psutil.Process | None:
        """The process itself; None where it has ended, whoever may have its pid by now."""
        try:
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.started) < _SAME_START
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def written(path: Path) -> Process | None:
    """The process that a process.json names; None where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Process)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
