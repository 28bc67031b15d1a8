"""What models are trained on, and whose turn it is there: a device has one run at a time, whoever started it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from oneseek.files.durable import make_directory, storage_errors
from oneseek.files.layout import Home

VISIBLE = "CUDA_VISIBLE_DEVICES"
_CUDA = "cuda:"
_OF_CLIENTS = ("ONESEEK_SERVER", "ONESEEK_TOKEN")
_UUID = re.compile(r"(GPU|MIG)-[\w-]+")
Waiting = Callable[[str], None]
"""Told the name of the device that is waited for."""

_LOOK = 0.5
"""Seconds: whoever only looks whether a device is free has its lock for an instant."""


def devices(environment: Mapping[str, str], nodes: Path = Path("/dev")) -> tuple[str, ...]:
    """The devices that a process of this environment may use, never none: `cuda:0`, ... by CUDA's own numbers, or as
    CUDA_VISIBLE_DEVICES names them; `cpu` where there is no such device, or none is visible.

    They are counted by the files of NVIDIA's driver on Linux: torch would take seconds, and a context on each.
    """
    count = sum(re.fullmatch(r"nvidia\d+", node.name) is not None for node in nodes.glob("nvidia*"))
    names = [str(number) for number in range(count)]
    if names and (wanted := environment.get(VISIBLE)) is not None:
        # Like CUDA: the first name that is none hides itself and all behind it.
        given = (name.strip() for name in wanted.split(","))
        names = list(takewhile(lambda name: name in map(str, range(count)) or _UUID.fullmatch(name), given))
    return tuple(_CUDA + name for name in dict.fromkeys(names)) or ("cpu",)


def seeing(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run's own process, in which `device` is the only one. It trains itself: no server is asked
    to."""
    visible = {VISIBLE: device.removeprefix(_CUDA)} if device.startswith(_CUDA) else {}
    return {name: value for name, value in environment.items() if name not in _OF_CLIENTS} | visible


class DeviceLock:
    """A device's lock. Left as a context manager, it is let go."""

    def __init__(self, home: Home, device: str) -> None:
        self.device = device
        self._path = home.device_lock(device)
        self._lock = FileLock(self._path)

    def taken(self, seconds: float = _LOOK) -> bool:
        """Take it, if it becomes free within so many seconds; says whether it is ours.

        Raises:
            StorageError: its file could not be made.
        """
        with storage_errors(self._path):
            make_directory(self._path.parent)
            try:
                self._lock.acquire(timeout=seconds, poll_interval=0.05)
            except Timeout:
                return False
        return True

    def wait(self, waiting: Waiting, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Take it when it becomes free. False where `given_up` said so before that.

        waiting: told the name of the device, once, where another run has it.
        """
        if self.taken():
            return True
        waiting(self.device)
        while not given_up():
            if self.taken():
                return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def is_busy(home: Home, device: str) -> bool:
    """Whether a process has the device."""
    with DeviceLock(home, device) as lock:
        return not lock.taken(0)


def unheard(device: str) -> None:
    """Is told of nothing."""
