"""Runs of another installation are brought into this home: documents of the old system, and certified runs of ours.

Each comes whole, in one rename, or not at all; nothing that is here is ever overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from oneseek.certificate.contents import allowed
from oneseek.certificate.keys import Pins
from oneseek.certificate.manifest import NOT_LISTED
from oneseek.certificate.verify import verify
from oneseek.errors import RunError
from oneseek.events.state import RunState
from oneseek.files.durable import (
    copy_file,
    remove_directory,
    sha256_file,
    storage_errors,
    sync_directory,
    write_bytes,
    write_directory,
)
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.files.spelling import spelt
from oneseek.names import format_version, is_run_id, version_of_file
from oneseek.runs.find import describe
from oneseek.runs.old import (
    DOCUMENTS,
    RENAMED,
    is_metadata,
    is_old_directory,
    is_ours,
    metadata_files,
    name_here,
    old_directories,
    read_document,
    read_old,
    results_of,
)
from oneseek.runs.turn import turn

_NOBODY = Pins(frozenset(), frozenset())


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run that was found. `name` is the one that it has here; `problem` says why it was refused."""

    source: Path
    name: str
    outcome: Literal["imported", "here already", "refused"]
    verifiable: bool
    problem: str | None = None


class Imported(msgspec.Struct, frozen=True):
    """`left` are the adapters, weights and other files that were not copied, and stay where they are."""

    runs: tuple[Brought, ...]
    left: tuple[Path, ...]


def import_runs(path: Path, home: Home) -> Imported:
    """Bring in what `path` is: a metadata file, a run's directory, a models directory, or an installation with a
    models directory below. One that is refused keeps no other out.

    Raises:
        RunError: there is nothing to import, or it is in this home already.
        StorageError: something could not be written; what came before it is here.
    """
    results = Results(home.models.resolve())
    found = list(_found(path.resolve()))
    if not found:
        raise RunError(
            f"There is nothing of a run in {path}.",
            "Name a metadata file (oneseek-7b-zero-v1.0.json), a run's directory, a models directory, or the directory "
            "that has it.",
        )
    if any(source.parent in (results.family, results.weights, results.runs) for source in found):
        raise RunError(f"{path} is in this home already.", "`oneseek runs list` shows it.")
    with turn(results):
        brought = tuple(_bring(source, results) for source in found)
    return Imported(brought, tuple(sorted({stays for source in found for stays in _left(source)})))


def _found(path: Path) -> Iterator[Path]:
    """What there is to bring in; metadata of this release goes with its run, which holds all that it says."""
    if is_metadata(path) or is_old_directory(path) or RunDirectory(path).journal.is_file():
        yield path
        return
    for root in (path, path / "models"):
        results = Results(root)
        yield from (file for file in metadata_files(results) if not is_ours(read_old(file), results))
        yield from old_directories(results)
        yield from sorted(journal.parent for journal in results.runs.glob("*/journal.jsonl"))


def _left(source: Path) -> Iterator[Path]:
    """What lies around a run and is not copied with it."""
    results = results_of(source) if is_metadata(source) else RunDirectory(source).results
    yield from results.adapters.glob("*")
    for folder in (results.family, results.weights):
        yield from folder.glob("*.pth")
    if is_old_directory(source):
        yield from (path for path in source.glob("*") if path.name not in (*DOCUMENTS, RENAMED))


def _bring(source: Path, results: Results) -> Brought:
    ours = RunDirectory(source).journal.is_file()
    try:
        if is_metadata(source):
            name, is_new = _metadata(source, results)
        else:
            name, is_new = _certified_run(source, results) if ours else _old_directory(source, results)
    except (RunError, OSError) as error:
        return Brought(source=source, name=source.name, outcome="refused", verifiable=ours, problem=str(error))
    return Brought(source=source, name=name, outcome="imported" if is_new else "here already", verifiable=ours)


def _metadata(source: Path, results: Results) -> tuple[str, bool]:
    data, _ = read_document(source)
    run_id = read_old(source).run_id
    if run_id:
        raise RunError(f"{source} belongs to {run_id}.", "Import that run's directory.")
    version = format_version(version_of_file(source.name) or (0, 0))
    if results.reservation(version).exists():
        raise RunError(f"A run here is taking version {version}.", "Import it when that run has ended.")
    target = (results.family if source.parent == results_of(source).family else results.weights) / source.name
    if os.path.lexists(target):
        return source.name, _unless_other(target, same=_holds(target, data))
    write_bytes(target, data)
    return source.name, True


def _old_directory(source: Path, results: Results) -> tuple[str, bool]:
    name = name_here(source.name)
    if name is None:
        raise RunError(
            f"{source} is not named as a run, with its date and time.", "Rename it, as to run-20231122-143025."
        )
    documents = [source / each for each in (*DOCUMENTS, RENAMED) if os.path.lexists(source / each)]
    files = {path.name: read_document(path)[0] for path in documents}
    if name != source.name:
        files[RENAMED] = spelt({"old_name": source.name})
    target = results.run(name).root
    if os.path.lexists(target):
        here = {path.relative_to(target).as_posix(): path for path in target.rglob("*")}
        same = here.keys() == files.keys() and all(_holds(here[each], files[each]) for each in files)
        return name, _unless_other(target, same=same)
    with _appearing(target, results) as staging:
        write_directory(staging, files)
    return name, True


def _certified_run(source: Path, results: Results) -> tuple[str, bool]:
    known = describe(RunDirectory(source))
    if known.state is None or known.status != "certified":
        raise RunError(
            f"{source} is {known.status}, not certified. {known.problem or ''}".rstrip(),
            "Complete and certify it where it was trained, then import it.",
        )
    name = known.state.run_id
    if not is_run_id(name):
        raise RunError(
            f"{source} says that it is the run {name!r}, which is no run id.",
            f"Look at it where it is: oneseek verify {source}",
        )
    files = _files_of_a_run(source, known.state)
    target = results.run(name).root
    if os.path.lexists(target):
        here = {path.relative_to(target).as_posix() for path in target.rglob("*") if not path.is_dir()}
        same = here == set(files) and all(sha256_file(source / each) == sha256_file(target / each) for each in files)
        return name, _unless_other(target, same=same)
    with _appearing(target, results) as staging:
        for file in files:
            copy_file(source / file, staging / file)
        _require_consistent(staging, source)
        for folder in {staging, *(path for path in staging.rglob("*") if path.is_dir())}:
            sync_directory(folder)
    return name, True


def _require_consistent(copy: Path, source: Path) -> None:
    """Whether what was copied is what was certified, by whomever: whose key it is, is for those to say who verify it.

    Raises:
        RunError: it is not; the first failed check says why.
    """
    for check in verify(copy, pins=_NOBODY).checks:
        if check.result == "failed" and check.name != "keys":
            raise RunError(
                f"{source} is not what was certified: check {check.number} ({check.name}): {check.detail}",
                f"Look at it where it is: oneseek verify {source}",
            )


def _files_of_a_run(source: Path, state: RunState) -> list[str]:
    """Every file of a certified run, relative to its directory: documents and tensors, never a pickle or a program.

    Raises:
        RunError: there is a link among them, or a file that belongs to no run.
    """
    files = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if path.is_symlink() or not path.is_file() or not (name in allowed(state) or name in NOT_LISTED):
            raise RunError(f"{path} is a link, or belongs to no run.", "Remove it, then import the run.")
        files.append(name)
    return files


def _unless_other(target: Path, *, same: bool) -> bool:
    """False, since nothing is new, where what stands at `target` is the same."""
    if not same:
        raise RunError(f"{target} is here already, and is another.", "Another --home can have this one.")
    return False


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data


@contextmanager
def _appearing(target: Path, results: Results) -> Iterator[Path]:
    """A directory to be filled, which then becomes `target`. What a broken-off import left there is removed."""
    staging = results.family / "importing.tmp"
    with storage_errors(target):
        remove_directory(staging)
        try:
            yield staging
            staging.rename(target)
            sync_directory(staging.parent)
            sync_directory(target.parent)
        finally:
            remove_directory(staging)
