"""The whole log, read from its first entry to its last: every hash, every checkpoint, in memory that does not grow."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from oneseek.errors import LedgerDamaged, ProofInvalid
from oneseek.ledger import checkpoint
from oneseek.ledger.checkpoint import Checkpoint
from oneseek.ledger.entry import Entry
from oneseek.ledger.log import Log
from oneseek.ledger.merkle import Hash, completed, leaf_hash, root
from oneseek.ledger.store import Store, leaves, unstamped

AT_ONCE: Final = 1024
"""Entries that are read in one go: four bundles."""

_KEEP: Final = "Keep the log as it is, to find out what happened; then restore it from a backup that passes this audit."
_decode: Final = msgspec.json.Decoder(Entry).decode


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in order. `root` is in hex; `checkpoints` are those of the log itself that were compared, `kept`
    those that others had kept."""

    origin: str
    entries: int
    root: str
    checkpoints: int
    kept: int


def audit(log: Log, kept: Iterable[tuple[str, Checkpoint]] = ()) -> Audit:
    """Whether a log is all that it and others remember: every entry can be read, times never go back, every hash of
    the tree is the one that follows from the entries, and so is the root of its newest checkpoint and of those that
    were kept. Of a store on this machine also every checkpoint that it ever signed, the digests that entries are found
    by, that there is nothing besides, and the checkpoint beside the key.

    A time that lies in the future is no lie that a log tells of itself: one entry from a clock that was ahead dates all
    that follow until the clocks have caught up.

    kept: (where, checkpoint), of run directories for instance.

    Raises:
        LedgerDamaged: it is not. The first lie is named.
        LedgerUnavailable, StorageError: it could not be read.
    """
    signed = _signed(log)
    newest = signed[-1][1]
    known = [*kept]
    roots: dict[int, list[tuple[str, Hash]]] = defaultdict(list)
    for name, said in (*signed, *known):
        if said.origin != newest.origin:
            raise _lie(f"{name} has a checkpoint of {said.origin!r}; this is the log {newest.origin!r}")
        if said.size > newest.size:
            raise _lie(f"{name} has a checkpoint of size {said.size}; this log has only {newest.size} entries")
        roots[said.size].append((name, said.root))
    _walk(log, newest.size, roots)
    if isinstance(log, Store):
        log.check()
    return Audit(
        origin=newest.origin,
        entries=newest.size,
        root=newest.root.hex(),
        checkpoints=len(signed),
        kept=len(known),
    )


def _walk(log: Log, size: int, roots: dict[int, list[tuple[str, Hash]]]) -> None:
    peaks: dict[int, Hash] = {}  # by level, the last complete subtree: all that the next entry, and the root, need
    time = ""

    def peak(level: int, _: int) -> Hash:
        return peaks[level]

    _compare(roots[0], 0, root(0, peak))
    for index, data in _entries(log, size):
        time = _time(index, data, time)
        for level, at, found in list(completed(index, leaf_hash(data), peak)):
            if log.node(level, at) != found:
                raise _lie(f"{leaves(level, at)}: not what was logged; the tree has another hash")
            peaks[level] = found
        if index + 1 in roots:
            _compare(roots[index + 1], index + 1, root(index + 1, peak))


def _compare(said: list[tuple[str, Hash]], size: int, found: Hash) -> None:
    for name, expected in said:
        if expected != found:
            raise _lie(f"{name}: the tree of size {size} has another root than it is signed for")


def _time(index: int, data: bytes, last: str) -> str:
    """The time of an entry, which must not be before the last."""
    try:
        found = _decode(data).timestamp
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _lie(f"entry {index}: it can't be read: {error}") from error
    if found < last:
        raise _lie(f"entry {index}: its time, {found}, is before that of the entry before it, {last}")
    return found


def _entries(log: Log, size: int) -> Iterator[tuple[int, bytes]]:
    for start in range(0, size, AT_ONCE):
        stop = min(start + AT_ONCE, size)
        found = log.entries(start, stop)
        if len(found) < stop - start:
            raise _lie(f"entry {start + len(found)}: it is gone; the newest checkpoint says {size} entries")
        yield from enumerate(found, start)
        if isinstance(log, Store):
            _check_digests(start, found, log.digests(start, stop))


def _check_digests(start: int, entries: list[bytes], digests: list[bytes]) -> None:
    for index, (data, digest) in enumerate(zip(entries, digests, strict=True), start):
        if hashlib.sha256(unstamped(data)).digest() != digest:
            raise _lie(f"entry {index}: it is found by another statement than it holds")


def _signed(log: Log) -> list[tuple[str, Checkpoint]]:
    """What the log itself has signed, the newest last."""
    if isinstance(log, Store):
        return [_read(f"checkpoint of size {size}", note, log, size) for size, note in reversed(log.checkpoints())]
    return [_read("the newest checkpoint", log.checkpoint(), log)]


def _read(name: str, note: str, log: Log, size: int | None = None) -> tuple[str, Checkpoint]:
    try:
        found = checkpoint.read(note, log.key)
    except ProofInvalid as error:
        raise _lie(f"{name}: {error.problem.rstrip('.')}") from error
    if size not in (None, found.size):
        raise _lie(f"{name}: it is signed for {found.size} entries")
    return name, found


def _lie(what: str) -> LedgerDamaged:
    return LedgerDamaged(f"{what[0].upper()}{what[1:]}.", _KEEP)
