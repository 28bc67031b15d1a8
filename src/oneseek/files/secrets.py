"""Files that only their owner may read: private keys."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from oneseek.errors import KeyRefused
from oneseek.files.durable import create_exclusively, storage_errors

_OTHERS = 0o077
_LARGEST = 1 << 16  # bytes; far more than any key has


def read_secret(path: Path) -> bytes:
    """The bytes of a private key's file.

    Raises:
        KeyRefused: it is not there, can't be read, is too large to be a key, or others than its owner may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise KeyRefused(
            f"The private key {path} cannot be read: {error.strerror or error}.", "Name a file that you may read."
        ) from error
    if os.name != "nt" and mode & _OTHERS:  # Windows keeps who may read a file elsewhere
        raise KeyRefused(
            f"The private key {path} can be read by others than its owner.", f"Run: chmod 600 {shlex.quote(str(path))}"
        )
    if len(content) > _LARGEST:
        raise KeyRefused(f"{path} is too large to be a private key.", "Name the key's own file.")
    return content


def keep_secret(path: Path, content: bytes) -> bool:
    """Make the file, readable by its owner alone, unless it is there; says whether it was made."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return create_exclusively(path, content, mode=0o600)
