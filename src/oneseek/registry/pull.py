"""Downloading a base model from the hub into the Hugging Face cache, so that a break costs nothing but the rest.

Written for itself because `huggingface_hub` (2.4) throws a partial file away when a download is broken off, and
compares sizes, not digests. Where files lie and which locks are taken is the same: both can use one cache at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock

from oneseek.files.durable import LinksUnsupportedError, point, storage_errors, sync_directory
from oneseek.names import size
from oneseek.registry.cache import Repository
from oneseek.registry.hub import Hub, HubError, RemoteFile, RemoteModel, address, missing_bytes, without_safetensors

LARGE_BYTES = 10_000_000_000
"""A download of more is warned of, as is one of more than half of the free disk."""

_TRIES = 5
_PAUSE_SECONDS = 1.0
_RATE_AFTER_SECONDS = 1.0  # what the first buffers hold says nothing about the line


class PullProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a download is, in bytes of all the model's files; `bytes_per_second` is that of this download so
    far, 0 in its first second."""

    done: int
    total: int
    bytes_per_second: float

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.bytes_per_second if self.bytes_per_second else None


class Pull(msgspec.Struct, frozen=True, kw_only=True):
    """A download that was looked up, and could begin. `missing_bytes` is what is still to be fetched."""

    model: RemoteModel
    repository: Repository
    missing_bytes: int
    warning: str | None

    @property
    def path(self) -> Path:
        """Where the model will be."""
        return self.repository.snapshot(self.model.commit).absolute()


def look_up(hub_id: str, cache: Path, *, reserved_bytes: int = 0) -> Pull:
    """What a download of `org/name` or `org/name@revision` would fetch. Nothing is written.

    reserved_bytes: what other downloads will take of the same disk before this one.
    Raises:
        HubError: the hub has no such model, does not let us in or can't be reached, the model has no safetensors, or
            there is too little disk.
    """
    with Hub(hub_id) as hub:
        model = hub.look_up()
    repository = Repository(cache, model.hub_id)
    if not model.weights:
        raise HubError(
            "no-safetensors",
            f"{model.hub_id} has no safetensors at {model.revision}. Weights of other kinds, as pickle, are left "
            "there: they can run code when they are loaded.",
            without_safetensors(model.hub_id),
        )
    missing = missing_bytes(model, repository)
    free = _free_bytes(cache) - reserved_bytes
    if missing > free:
        raise HubError(
            "disk",
            f"{model.hub_id} takes {size(missing)} more on the disk of {cache}; {size(free)} are free.",
            "Free some space, or name a cache on another disk in HF_HUB_CACHE.",
        )
    large = missing > LARGE_BYTES or 2 * missing > free
    warning = f"{model.hub_id} is large: {size(missing)} to download, {size(free)} of disk are free."
    return Pull(model=model, repository=repository, missing_bytes=missing, warning=warning if large else None)


def pull(wanted: Pull, tell: Callable[[PullProgress], None]) -> Path:
    """Download what is missing of a model, and check everything: sizes, and the digests that the hub gives.

    What is here already is checked too, and fetched again where a byte differs. Whatever breaks it off, what was
    downloaded stays, and the next pull goes on from there.
    tell: called after every few kilobytes.
    Returns: the model's directory.
    Raises:
        HubError: the hub refuses, breaks off again and again, or sends what it says is something else.
        StorageError: it can't be written.
    """
    model, repository = wanted.model, wanted.repository
    progress = _Progress(sum(file.size for file in model.needed), tell)
    with Hub(f"{model.hub_id}@{model.commit}") as hub, storage_errors(repository.root):
        for file in model.needed:
            _make_sure_of(file, wanted, hub, progress)
        repository.remember(model.revision, model.commit)
    return wanted.path


class _Progress:
    """Counts bytes, and the seconds in which they were fetched."""

    def __init__(self, total: int, tell: Callable[[PullProgress], None]) -> None:
        self._total = total
        self._tell = tell
        self._settled = 0
        self._fetched = 0
        self._seconds = 0.0
        self._told = -1

    def settle(self, size: int) -> None:
        """A file of this size is whole."""
        self._settled += size
        self.at(0)

    def at(self, have: int) -> None:
        """The file that is being fetched has this many bytes."""
        done = self._settled + have
        if done == self._told:
            return
        self._told = done
        rate = self._fetched / self._seconds if self._seconds > _RATE_AFTER_SECONDS else 0.0
        self._tell(PullProgress(done=done, total=self._total, bytes_per_second=rate))

    def fetched(self, size: int, seconds: float) -> None:
        self._fetched += size
        self._seconds += seconds


def _make_sure_of(file: RemoteFile, wanted: Pull, hub: Hub, progress: _Progress) -> None:
    """The file lies in the snapshot, with the bytes that the hub has."""
    named = wanted.path / file.name
    blob, lock = wanted.repository.blob(file.digest), wanted.repository.lock(file.digest)
    for directory in (blob.parent, named.parent, lock.parent):
        directory.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        # Where links can't be made, the file itself lies in the snapshot.
        if not (_is(blob, file) or (not blob.exists() and _is(named, file))):
            _fetch(file, wanted, hub, progress)
        if blob.exists():
            _link(named, blob)
    progress.settle(file.size)


def _fetch(file: RemoteFile, wanted: Pull, hub: Hub, progress: _Progress) -> None:
    """Make the blob. What arrives damaged is fetched once more, from the start."""
    blob, partial = wanted.repository.blob(file.digest), wanted.repository.partial(file.digest)
    for _ in range(2):
        _download(file, wanted.model, partial, hub, progress)
        if _is(partial, file):
            partial.replace(blob)
            sync_directory(blob.parent)
            return
        partial.unlink()
    raise hub.broken(f"{file.name} has arrived twice with other bytes than the hub says it has")


def _download(file: RemoteFile, model: RemoteModel, partial: Path, hub: Hub, progress: _Progress) -> None:
    """Go on with a partial file to its end. A break is waited out as long as something comes between two of them."""
    partial.touch()
    failures = 0
    while (have := partial.stat().st_size) < file.size:
        try:
            _go_on(file, model, partial, hub, progress)
            if partial.stat().st_size == have:
                raise hub.broken(f"nothing more came of {file.name} after {have:,} of {file.size:,} bytes")
        except HubError as error:
            failures = failures + 1 if partial.stat().st_size == have else 1
            if failures > _TRIES or error.kind not in ("broken", "offline", "busy"):
                raise
            time.sleep(_PAUSE_SECONDS * 2 ** (failures - 1))


def _go_on(file: RemoteFile, model: RemoteModel, partial: Path, hub: Hub, progress: _Progress) -> None:
    """One request for the rest of a file; each piece is on disk before the next one is asked for."""
    with (
        partial.open("r+b", buffering=0) as target,
        hub.stream(address(model, file), f"bytes={target.seek(0, os.SEEK_END)}-") as (began, chunks),
    ):
        target.seek(began)
        before = time.monotonic()
        for chunk in chunks:
            target.write(chunk)
            now = time.monotonic()
            progress.fetched(len(chunk), now - before)
            progress.at(target.tell())
            before = now
            if target.tell() >= file.size:  # a server that sends more than it promised is not heard to its end
                break
        os.fsync(target.fileno())


def _is(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the bytes that the hub's digest stands for: SHA-256, or git's SHA-1 of a blob."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    with path.open("rb") as opened:
        if len(file.digest) == 64:
            return hashlib.file_digest(opened, "sha256").hexdigest() == file.digest
        begun = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        return hashlib.file_digest(opened, lambda: begun).hexdigest() == file.digest


def _link(named: Path, blob: Path) -> None:
    try:
        point(named, os.path.relpath(blob, named.parent))
    except LinksUnsupportedError:
        blob.replace(named)


def _free_bytes(cache: Path) -> int:
    return shutil.disk_usage(
        next(place for place in (cache.absolute(), *cache.absolute().parents) if place.exists())
    ).free
