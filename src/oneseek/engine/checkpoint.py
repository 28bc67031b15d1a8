"""Checkpoints: directories that are whole or not there, and are checked before anything in them is loaded.

    epoch-3/             after three epochs
      <files>
      manifest.json      SHA-256 and size of each file, written last
    epoch-4-step-20/     20 optimiser steps into the fourth

A directory is built as `epoch-3.tmp`, every file is flushed to disk, then it is renamed (threats.md, "power cut in
checkpoint"). One flipped bit in a tensor would load silently, so digests are compared first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from oneseek.errors import WorkerFailed
from oneseek.files.durable import TEMP_SUFFIX, remove_directory, storage_errors, write_directory

MANIFEST = "manifest.json"


class Position(NamedTuple):
    """How far a training is: whole epochs, and optimiser steps into the next. Ordered as they are reached."""

    epochs: int
    steps: int = 0

    @property
    def name(self) -> str:
        """`epoch-3`, or `epoch-4-step-20`."""
        return f"epoch-{self.epochs + 1}-step-{self.steps}" if self.steps else f"epoch-{self.epochs}"


START = Position(0)


def write(directory: Path, position: Position, files: Mapping[str, bytes]) -> str:
    """Put the checkpoint of `position` into a trainer's own `directory`, over one that may be there.

    Returns the SHA-256 in hex of its manifest.

    Raises:
        StorageError: it could not be written.
    """
    manifest = _manifest(files)
    write_directory(directory / position.name, {**files, MANIFEST: manifest})
    return hashlib.sha256(manifest).hexdigest()


def read(directory: Path, position: Position) -> dict[str, bytes]:
    """The files of the checkpoint of `position`, without the manifest, after every digest was compared.

    Raises:
        WorkerFailed: a file is missing, unexpected, or not what was written; the problem names it.
    """
    checkpoint = directory / position.name
    manifest = _read_manifest(checkpoint)
    found = {path.name for path in checkpoint.iterdir()} - {MANIFEST}
    for name in sorted(found ^ set(manifest)):
        raise _damaged(checkpoint / name, "is missing" if name in manifest else "is not in the manifest")
    return {name: _read_file(checkpoint / name, entry) for name, entry in manifest.items()}


def newest_intact(directory: Path, at_most: Position) -> tuple[Position, dict[str, bytes], list[tuple[Position, str]]]:
    """The newest checkpoint that is whole and not after `at_most`.

    Returns its position and files (START and none where there is no such checkpoint), and the damaged ones met on the
    way, newest first, each with its problem.
    """
    damaged: list[tuple[Position, str]] = []
    for position in sorted((there for there in _positions(directory) if there <= at_most), reverse=True):
        try:
            return position, read(directory, position), damaged
        except WorkerFailed as error:
            damaged.append((position, error.problem))
    return START, {}, damaged


def prune(directory: Path, keep: Collection[Position]) -> None:
    """Remove all checkpoints but those in `keep`.

    Raises:
        StorageError: one could not be removed.
    """
    for position in _positions(directory) - set(keep):
        checkpoint = directory / position.name
        leftover = checkpoint.with_name(f"{checkpoint.name}.old{TEMP_SUFFIX}")
        with storage_errors(checkpoint):
            remove_directory(leftover)
            checkpoint.rename(leftover)  # never a checkpoint with half of its files
            remove_directory(leftover)


def prune_steps(directory: Path, keep: int) -> None:
    """Remove the checkpoints inside epochs but the newest `keep` (at least one).

    Raises:
        StorageError: one could not be removed.
    """
    there = _positions(directory)
    inside = sorted(position for position in there if position.steps)
    prune(directory, there - set(inside[:-keep]))


def _manifest(files: Mapping[str, bytes]) -> bytes:
    entries = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in sorted(files.items())
    }
    return json.dumps(entries, indent=2).encode() + b"\n"


def _read_manifest(checkpoint: Path) -> dict[str, dict[str, object]]:
    """The manifest, which must be byte for byte as `_manifest` writes it: no bit of it is free."""
    path = checkpoint / MANIFEST
    try:
        data = path.read_bytes()
        entries = json.loads(data)
        intact = data == json.dumps(entries, indent=2).encode() + b"\n" and all(
            set(entry) == {"sha256", "size"} for entry in entries.values()
        )
    except OSError as error:
        raise _damaged(path, f"can't be read ({error.strerror})") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise _damaged(path, "is not a manifest") from error
    if not intact:
        raise _damaged(path, "is not a manifest")
    return dict(entries)


def _read_file(path: Path, entry: Mapping[str, object]) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, f"can't be read ({error.strerror})") from error
    if len(data) != entry["size"]:
        raise _damaged(path, f"has {len(data)} bytes, {entry['size']} were written")
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise _damaged(path, "is not what was written: its SHA-256 differs")
    return data


def _damaged(path: Path, problem: str) -> WorkerFailed:
    return WorkerFailed("crashed", f"{path.parent.name}/{path.name} {problem}.", "The one before is used.")


def _positions(directory: Path) -> set[Position]:
    if not directory.is_dir():
        return set()
    names = (re.fullmatch(r"epoch-([1-9]\d*)(?:-step-([1-9]\d*))?", path.name) for path in directory.iterdir())
    return {Position(int(name[1]) - 1, int(name[2])) if name[2] else Position(int(name[1])) for name in names if name}
