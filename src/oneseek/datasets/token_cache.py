"""Encoded rows kept between runs, under a digest of all that they were made of.

A cache is a convenience: what can't be read or written is said in the log, and made again. Nothing read from it is
used before its digest was checked.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from oneseek.errors import StorageError
from oneseek.files.durable import storage_errors, write_bytes

FILES_KEPT = 64
BYTES_KEPT = 4 * 2**30  # of all files together; some 800 million tokens

_SUFFIX = ".tokens"
_DIGEST_BYTES = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenCache:
    """Files named by their keys in one directory. Those that were used last are kept, within the two bounds above."""

    directory: Path

    def get(self, key: str) -> memoryview | None:
        """What was put under a key, writable; None where it is not there or not what was written."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                stored = bytearray(os.fstat(file.fileno()).st_size)
                file.readinto(stored)
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s could not be read, so its rows are encoded again: %s.", path, error.strerror or error)
            return None
        content = memoryview(stored)[_DIGEST_BYTES:]
        if stored[:_DIGEST_BYTES] != _digest(key, content):
            _log.warning("%s is damaged, so its rows are encoded again.", path)
            return None
        return content

    def put(self, key: str, content: bytes) -> None:
        """Keep `content` under a key, unless it is larger than all that may be kept."""
        if _DIGEST_BYTES + len(content) > BYTES_KEPT:
            return
        path = self._path(key)
        # Models that share a tokenizer are encoded side by side, each of them writing the same file.
        own = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            with storage_errors(path):
                self.directory.mkdir(parents=True, exist_ok=True)
                write_bytes(own, _digest(key, content) + content)
                own.replace(path)
                self._prune()
        except StorageError as error:
            _log.warning("Encoded rows are not kept for other runs: %s", error)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_SUFFIX}"

    def _prune(self) -> None:
        """Remove the files that were not used for longest; also what an interrupted write left, once it is old."""
        total = 0
        for kept, (_, size, path) in enumerate(sorted(map(_used, self.directory.glob(f"*{_SUFFIX}*")), reverse=True)):
            total += size
            if kept >= FILES_KEPT or total > BYTES_KEPT:
                path.unlink(missing_ok=True)


def _used(path: Path) -> tuple[int, int, Path]:
    """When a file was last used, in nanoseconds, and its bytes. One that another run has just removed counts as old."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return 0, 0, path
    return stat.st_mtime_ns, stat.st_size, path


def _digest(key: str, content: bytes | memoryview) -> bytes:
    """Of the key too: a file under another's name is no less damaged."""
    digest = hashlib.sha256(key.encode())
    digest.update(content)
    return digest.digest()
