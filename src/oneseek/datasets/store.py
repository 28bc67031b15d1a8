"""Datasets that a home keeps: each file under the SHA-256 of its bytes, with what is known of it beside it.

`datasets/<sha256>.jsonl` (or another ending) is the file, `datasets/<sha256>.meta.json` its description. The file is
put there first: a description that is there describes a file that is whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock

from oneseek.datasets.containers import Progress
from oneseek.datasets.formats import Format
from oneseek.datasets.read import scan
from oneseek.datasets.scan import Container, ProblemGroup, Scan
from oneseek.errors import DatasetError, DatasetUnknown, StorageError
from oneseek.files.durable import TEMP_SUFFIX, copy_file, sha256_file, storage_errors, sync_directory, write_json
from oneseek.files.layout import Home

LONGEST_NAME: Final = 120  # characters
SHORTEST_PREFIX: Final = 8  # hex digits of a hash that may stand for it

_META: Final = ".meta.json"
_ENDINGS: Final = (".jsonl", ".json", ".csv", ".parquet")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = re.compile(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}")


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A dataset in the store. `sha256` is of its bytes; `rows` can be used, `bad_rows` are the others by kind.
    `added_at` is UTC, as 2026-11-21T07:19:00Z."""

    name: str
    sha256: str
    size_bytes: int
    format: Format
    container: Container
    rows: int
    bad_rows: tuple[ProblemGroup, ...]
    added_at: str


class Damaged(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the store that cannot be used, and why."""

    sha256: str
    problem: str
    fix: str


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in a store: datasets by name, then what is damaged."""

    datasets: tuple[Stored, ...]
    damaged: tuple[Damaged, ...]


def add(
    home: Home,
    source: Path,
    name: str | None = None,
    *,
    progress: Progress | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[Stored, str | None]:
    """Keep a copy of `source` under `name`, its file's name unless given. The same content is kept once: adding it
    again under another name renames it, and the name that it had is returned beside it.

    progress: is told how far the reading is.

    Raises:
        DatasetError: the file cannot be read as a dataset, the name cannot be one or other content has it, or the file
            changes meanwhile.
        StorageError: it could not be written.
    """
    given = checked(source.name if name is None else name)
    found = scan(source, longest=0, drawn=0, progress=progress)
    return keep(home, source, found, given, rename=name is not None, now=now)


def keep(
    home: Home,
    source: Path,
    found: Scan,
    name: str,
    *,
    rename: bool = True,
    move: bool = False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> tuple[Stored, str | None]:
    """As `add`, of a file that was scanned already, under a name that was checked.

    rename: what is there under another name gets this one. move: the file itself is taken; it must be on disk, and in a
        directory of the home. What is kept already stays where it is.
    """
    with _alone(home):
        entry = _entry(home, found.sha256, thoroughly=True)
        known = entry if isinstance(entry, Stored) else None
        if known and (name == known.name or not rename):
            return known, None
        stored = msgspec.structs.replace(known, name=name) if known else _described(found, name, now())
        _refuse_taken(home, stored)
        if known is None:
            _take_in(source, path_of(home, stored), found.sha256, move=move)
        write_json(_meta(home, stored.sha256), msgspec.to_builtins(stored))
    return stored, known.name if known else None


def listing(home: Home) -> Listing:
    """Every entry. Sizes are compared, contents are not: that is done when a dataset is used.

    Raises:
        StorageError: the directory cannot be read.
    """
    entries = [_entry(home, sha256) for sha256 in _hashes(home)]
    datasets = sorted((entry for entry in entries if isinstance(entry, Stored)), key=lambda entry: entry.name)
    return Listing(datasets=tuple(datasets), damaged=tuple(entry for entry in entries if isinstance(entry, Damaged)))


def get(home: Home, given: str, *, thoroughly: bool = True) -> Stored:
    """The dataset of a name, or of the first digits of a hash.

    thoroughly: its content is compared with the hash, which reads all of it; else its size alone.

    Raises:
        DatasetUnknown: there is none.
        DatasetError: there are several, or it is damaged.
    """
    entry = _whole(home, given, thoroughly=thoroughly)
    if entry is None:
        raise _unknown(home, given)
    return entry


def find(home: Home, given: str, digest: Callable[[Path], str] = sha256_file) -> Path | None:
    """The file that a name means in the home's datasets/: one that somebody put there under that name, else the stored
    dataset of that name or hash; None where there is neither.

    digest: of a file's bytes.

    Raises:
        DatasetError: there are several of that name, or it is damaged.
    """
    plain = home.datasets / given
    with suppress(OSError):  # a name that is too long for a file
        if plain.parent == home.datasets and plain.is_file() and not _is_ours(given):
            return plain
    entry = _whole(home, given, digest=digest)
    return None if entry is None else path_of(home, entry)


def remove(home: Home, given: str, refuse: Callable[[str], None] = lambda _: None) -> Stored | Damaged:
    """Remove a dataset, damaged or not, by its name or the first digits of its hash; what it was.

    refuse: is told the hash before, and raises where the dataset has to stay.

    Raises:
        DatasetUnknown: there is none.
        DatasetError: there are several.
        StorageError: it could not be removed.
    """
    with _alone(home):
        entry = _chosen(home, given)
        if entry is None:
            raise _unknown(home, given)
        refuse(entry.sha256)
        with storage_errors(home.datasets):
            for path in (_meta(home, entry.sha256), *_files(home, entry.sha256)):
                path.unlink(missing_ok=True)
            sync_directory(home.datasets)
    return entry


def is_kept(home: Home, path: Path) -> bool:
    """Whether the file of a dataset is there and nobody is removing it just now.

    Raises:
        StorageError: the store can't be locked.
    """
    with _alone(home):
        return path.is_file()


def path_of(home: Home, stored: Stored) -> Path:
    """Where its file is."""
    return home.datasets / f"{stored.sha256}.{stored.container}"


def stored_name(path: Path) -> str:
    """What people call a dataset's file: the name that the store has for it, else its own."""
    described = path.with_name(f"{path.stem}{_META}")
    if _HASH.fullmatch(path.stem):
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return msgspec.json.decode(described.read_bytes(), type=Stored).name
    return path.name


# -- entries -------------------------------------------------------------------------------------------------------


def _is_ours(name: str) -> bool:
    """A file that the store keeps for itself."""
    return name.startswith(".") or name.endswith(_META)


def _described(found: Scan, name: str, at: datetime) -> Stored:
    return Stored(
        name=name,
        sha256=found.sha256,
        size_bytes=found.size_bytes,
        format=found.format,
        container=found.container,
        rows=found.rows,
        bad_rows=found.problems,
        added_at=at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _refuse_taken(home: Home, wanted: Stored) -> None:
    """No two datasets have one name: it would mean neither."""
    for other in listing(home).datasets:
        if other.name == wanted.name and other.sha256 != wanted.sha256:
            raise DatasetError(
                f"The name {wanted.name!r} is taken: the stored dataset {other.sha256[:12]} has it, with "
                f"{other.rows:,} rows of {other.format}.",
                f"Give another: --name NAME; or remove that one: oneseek data remove {other.sha256[:12]}",
            )


def _take_in(source: Path, target: Path, sha256: str, *, move: bool) -> None:
    with storage_errors(target):
        if target.is_file() and sha256_file(target) == sha256:
            return  # only its description was missing; and it may be the very file that is added
        target.unlink(missing_ok=True)  # what is there belongs to no whole entry
    try:
        if move:
            _move(source, target)
        else:
            copy_file(source, target)
    except StorageError:
        target.with_name(target.name + TEMP_SUFFIX).unlink(missing_ok=True)  # half a file on a full disk
        raise
    if sha256_file(target) != sha256:
        target.unlink()
        raise DatasetError(f"{source} changed while it was read.", "Add it again when nothing writes to it.")


def _move(source: Path, target: Path) -> None:
    with storage_errors(target):
        source.replace(target)
        sync_directory(target.parent)


def _entry(
    home: Home, sha256: str, *, thoroughly: bool = False, digest: Callable[[Path], str] = sha256_file
) -> Stored | Damaged | None:
    """What the store has under a hash; only `thoroughly` compares contents."""
    meta, files = _meta(home, sha256), _files(home, sha256)
    try:
        if not meta.is_file():
            return _damaged(sha256, "has no description") if files else None
        stored = msgspec.json.decode(meta.read_bytes(), type=Stored)
        if stored.sha256 != sha256 or _reason_against(stored.name):
            return _damaged(sha256, f"has a damaged description, {meta.name}")
        path = path_of(home, stored)
        if not path.is_file():
            return _damaged(sha256, f"({stored.name}) has lost its file")
        if path.stat().st_size != stored.size_bytes or (thoroughly and digest(path) != sha256):
            return _damaged(sha256, f"({stored.name}) has another content than was added")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _damaged(sha256, f"has a damaged description, {meta.name}")
    except OSError as error:
        return _damaged(sha256, f"cannot be read: {error.strerror or error}")
    return stored


def _damaged(sha256: str, what: str) -> Damaged:
    return Damaged(
        sha256=sha256,
        problem=f"The stored dataset {sha256[:12]} {what}.",
        fix=f"Add its file again (oneseek data add FILE), or remove it: oneseek data remove {sha256[:12]}",
    )


def _chosen(home: Home, given: str) -> Stored | Damaged | None:
    """The entry that a name or a hash means. No name looks like a hash."""
    prefix = given.lower() if _PREFIX.fullmatch(given.lower()) else None
    entries = [entry for sha256 in _hashes(home) if (entry := _entry(home, sha256))]
    if prefix:
        found = [entry for entry in entries if entry.sha256.startswith(prefix)]
    else:
        found = [entry for entry in entries if isinstance(entry, Stored) and entry.name == given]
    if len(found) > 1:
        hashes = ", ".join(entry.sha256[:12] for entry in found)
        raise DatasetError(f"{len(found)} stored datasets are called {given!r}: {hashes}.", "Name one by its hash.")
    return found[0] if found else None


def _whole(
    home: Home, given: str, *, thoroughly: bool = True, digest: Callable[[Path], str] = sha256_file
) -> Stored | None:
    entry = _chosen(home, given)
    if thoroughly and isinstance(entry, Stored):
        entry = _entry(home, entry.sha256, thoroughly=True, digest=digest)
    if isinstance(entry, Damaged):
        raise DatasetError(entry.problem, entry.fix)
    return entry


def _unknown(home: Home, given: str) -> DatasetUnknown:
    known = ", ".join(repr(entry.name) for entry in listing(home).datasets[:10])
    return DatasetUnknown(
        f"There is no stored dataset {given[:80]!r}; " + (f"there are {known}." if known else "none is stored."),
        "See what is stored: oneseek data list",
    )


# -- names and paths -----------------------------------------------------------------------------------------------


def checked(name: str) -> str:
    """A name that a dataset can have.

    Raises:
        DatasetError: it cannot.
    """
    reason = _reason_against(name)
    if reason:
        raise DatasetError(f"{name[:80]!r} cannot be the name of a dataset: {reason}.", "Give another: --name NAME")
    return name


def _reason_against(name: str) -> str | None:
    if not name.strip(". "):
        return "it is empty"
    if name != name.strip() or name.startswith("-"):
        return "it begins or ends with a blank, or begins with a hyphen"
    if len(name) > LONGEST_NAME:
        return f"it is longer than {LONGEST_NAME} characters"
    if not name.isprintable():
        return "it holds characters that cannot be printed"
    if "/" in name or "\\" in name:
        return "it holds a / or \\"
    return "it looks like a hash" if _PREFIX.fullmatch(name.lower()) else None


def _meta(home: Home, sha256: str) -> Path:
    return home.datasets / f"{sha256}{_META}"


def _files(home: Home, sha256: str) -> list[Path]:
    return [path for ending in _ENDINGS if (path := home.datasets / f"{sha256}{ending}").is_file()]


def _hashes(home: Home) -> list[str]:
    """Of every file here that is called by one; whatever else lies in the directory is none of the store's."""
    if not home.datasets.is_dir():
        return []
    with storage_errors(home.datasets):
        names = [path.name.partition(".") for path in home.datasets.iterdir()]
    return sorted({stem for stem, _, ending in names if _HASH.fullmatch(stem) and f".{ending}" in (_META, *_ENDINGS)})


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """One process at a time changes the store."""
    with storage_errors(home.datasets):
        home.datasets.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home.datasets / ".store.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
