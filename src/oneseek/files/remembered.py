"""What follows from files is worked out once, as long as they stay as they are."""

from __future__ import annotations

import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeVar

TICK: Final = 100_000_000
"""Nanoseconds. The clock that files are stamped with stands still in between: two changes in one tick have one time."""

Identity = tuple[int, int, int, int, int] | None
"""Of a file: device, inode, size, and when its content and its entry were changed, in ns; None where there is none."""

Found = TypeVar("Found")


class Remembered(Generic[Found]):
    """Answers by key, each for as long as the files that it was made of have the identities that they had then. Of more
    than `most` in weight, those that nobody has asked for the longest are forgotten. For several threads.

    weight: of an answer; None where it is not to be remembered.
    """

    def __init__(self, most: int, weight: Callable[[Found], int | None] = lambda _: 1) -> None:
        self._most = most
        self._weigh = weight
        self._weight = 0
        self._known: OrderedDict[Hashable, tuple[tuple[Identity, ...], Found, int]] = OrderedDict()
        self._changing = threading.Lock()

    def get(self, key: Hashable, files: Iterable[Path], find: Callable[[], Found]) -> Found:
        """What `find` answers, now or when it was asked last.

        What changes while it is read is not remembered, and neither is what was changed a tick ago: a second change
        could look the same. What `find` raises is raised here, and not remembered.
        """
        paths = tuple(files)
        now = identities(paths)
        with self._changing:
            known = self._known.get(key)
            if known is not None and known[0] == now:
                self._known.move_to_end(key)
                return known[1]
        found = find()
        if identities(paths) == now and _settled(now):
            self._keep(key, now, found)
        return found

    def _keep(self, key: Hashable, now: tuple[Identity, ...], found: Found) -> None:
        weight = self._weigh(found)
        with self._changing:
            if (before := self._known.pop(key, None)) is not None:
                self._weight -= before[2]
            if weight is None or weight > self._most:
                return
            self._known[key] = now, found, weight
            self._weight += weight
            while self._weight > self._most:
                _, (_, _, lighter) = self._known.popitem(last=False)
                self._weight -= lighter


class Briefly(Generic[Found]):
    """Answers by key, each for some seconds; for what nothing tells of that it has changed. For several threads."""

    def __init__(self, seconds: Callable[[Found], float], most: int = 200) -> None:
        self._seconds = seconds
        self._most = most
        self._known: OrderedDict[Hashable, tuple[float, Found]] = OrderedDict()
        self._changing = threading.Lock()

    def get(self, key: Hashable, find: Callable[[], Found]) -> Found:
        """What `find` answers, now or when it was asked last. What it raises is raised here, and not remembered."""
        with self._changing:
            known = self._known.get(key)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        found = find()
        with self._changing:
            self._known[key] = time.monotonic() + self._seconds(found), found
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return found


def identities(paths: Iterable[Path]) -> tuple[Identity, ...]:
    """Those of files, links not followed; a link to a file has that of the file beside it."""
    return tuple(each for path in paths for each in _identity(path))


def _identity(path: Path) -> tuple[Identity, ...]:
    try:
        found = path.lstat()
        both = (found, path.stat()) if stat.S_ISLNK(found.st_mode) else (found,)
    except (OSError, ValueError):
        return (None,)
    return tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in both)


def _settled(now: tuple[Identity, ...]) -> bool:
    newest = max((each[4] for each in now if each is not None), default=0)  # which nobody can set
    return time.time_ns() - newest > TICK
