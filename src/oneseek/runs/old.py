"""What the old system left of its runs: read, listed and shown; there is nothing in it that could be verified.

Two kinds: metadata files (`oneseek-7b-zero-v1.0.json`, also as `oneseek-7b-zero-v1.0..json`), and certified directories
without a journal. They are never loaded as anything but JSON.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from oneseek.certificate.documents import Document
from oneseek.errors import RunError
from oneseek.files.layout import Home, Results
from oneseek.names import SLUG, is_run_id, size

DOCUMENTS = ("oneseek_dna.json", "training_results.json", "live_metrics.json", "ledger_proof.json")
RENAMED = "imported.json"
"""Holds the name that a directory had before it was imported, where that was another."""
MAX_DOCUMENT = 16 * 2**20
"""Bytes. What the old system wrote has a few kilobytes."""

_METADATA = re.compile(rf"{SLUG}-v\d{{1,6}}\.\d{{1,6}}[A-Za-z0-9._-]*\.json")
_NAMED_BY_TIME = re.compile(r"run\D?(\d{4})\D?(\d\d)\D?(\d\d)\D?(\d\d)\D?(\d\d)\D?(\d\d)")


class OldRun(msgspec.Struct, frozen=True, kw_only=True):
    """`name` is that of its file or directory, `old_name` the one from before it was imported, where that was another.

    `version` is the DNA or version that it states, `created_at` the time as it was written (no zone: which one it was,
    nobody knows), `documents` what its files say, `problem` what is broken among them.
    """

    status: ClassVar[str] = "not verifiable"

    name: str
    path: Path
    old_name: str | None = None
    version: str = ""
    created_at: str = ""
    base_models: tuple[str, ...] = ()
    documents: dict[str, Document] = {}
    problem: str | None = None

    @property
    def run_id(self) -> str | None:
        """The run of this release that a metadata file names; the old system named none."""
        named = next((said.get("run_id") for said in self.documents.values()), None)
        return named if isinstance(named, str) and is_run_id(named) else None

    @property
    def reason(self) -> str:
        """Why it can't be verified."""
        if is_metadata(self.path):
            if self.run_id:
                return f"The run that it belongs to, {self.run_id}, is not here."
            return "The old system kept neither a journal nor a signature: nothing can be compared with this file."
        if (self.path / "manifest.json").exists():
            return "Its journal.jsonl is missing."
        return "The old system kept neither a journal nor a signature: nothing can be compared with these files."

    def wire(self) -> dict[str, Any]:
        """An old run for programs, by the names that a run of ours has."""
        return {
            "run_id": self.name,
            "old_name": self.old_name,
            "status": self.status,
            "verifiable": False,
            "created_at": self.created_at,
            "version": self.version,
            "base_models": list(self.base_models),
            "path": str(self.path),
            "problem": self.problem,
        }

    def detail(self) -> dict[str, Any]:
        """What programs are told of it beside that where they ask for it alone."""
        return {"reason": self.reason, "documents": self.documents}

    @property
    def other_files(self) -> list[str]:
        """What else lies in its directory, relative to it; never opened."""
        if self.path.is_file():
            return []
        known = {*DOCUMENTS, RENAMED}
        return sorted(path.name for path in self.path.glob("*") if path.name not in known)


class _Said(msgspec.Struct):
    """The fields that a listing is made of, by the old system's names."""

    dna: str = ""
    version: str = ""
    createdAt: str = ""  # noqa: N815
    timestamp: str = ""
    old_name: str | None = None
    baseModels: list[str] = []  # noqa: N815
    trained_models: list[str] | dict[str, Any] = []
    final_weights: dict[str, Any] = {}
    weights: dict[str, Any] = {}


def old_runs(home: Home) -> list[OldRun]:
    """Everything that the old system left in this home, the newest first. What can't be read has its problem."""
    results = Results(home.models)
    found = [read_old(path) for path in (*metadata_files(results), *old_directories(results))]
    return sorted(
        (run for run in found if not is_ours(run, results)), key=lambda run: (run.created_at, run.name), reverse=True
    )


def find_old(run: str, home: Home) -> OldRun | None:
    """What the old system left under a name (also the one from before it was imported) or at a path; None where that is
    nothing of its.

    Raises:
        RunError: the name is that of several files, or the file belongs to a run of this release.
    """
    path = Path(run).resolve()
    if is_metadata(path) or is_old_directory(path):
        found = read_old(path)
        if is_metadata(path) and is_ours(found, results_of(path)):
            raise RunError(f"{run} belongs to {found.run_id}.", f"oneseek runs show {found.run_id}")
        return found
    return old_named(run, home)


def old_named(name: str, home: Home) -> OldRun | None:
    """What the old system left under a name, now or before it was imported; None where that is nothing of its.

    Raises:
        RunError: the name is that of several files.
    """
    named = [old for old in old_runs(home) if name in (old.name, old.old_name)]
    if len(named) > 1:
        raise RunError(f"{name} is the name of several.", f"Write one of: {', '.join(str(old.path) for old in named)}.")
    return named[0] if named else None


def metadata_files(results: Results) -> Iterator[Path]:
    """Metadata files below a models directory, ours included, sorted."""
    for folder in (results.family, results.weights):
        yield from sorted(path for path in folder.glob(f"{SLUG}-v*.json") if is_metadata(path))


def old_directories(results: Results) -> Iterator[Path]:
    """Certified directories without a journal below a models directory, sorted."""
    folders = {path.parent for name in DOCUMENTS for path in results.runs.glob(f"*/{name}")}
    yield from sorted(folder for folder in folders if is_old_directory(folder))


def is_metadata(path: Path) -> bool:
    return _METADATA.fullmatch(path.name) is not None and path.is_file()


def is_old_directory(path: Path) -> bool:
    if path.is_symlink() or not path.is_dir() or (path / "journal.jsonl").exists():
        return False
    return any((path / name).exists() for name in DOCUMENTS)


def is_ours(run: OldRun, results: Results) -> bool:
    """Whether it is metadata of a run of this release, which is here."""
    return is_metadata(run.path) and run.run_id is not None and results.run(run.run_id).journal.exists()


def results_of(metadata: Path) -> Results:
    """The models directory of a metadata file, which lies in the family's directory or in its weights/."""
    family = metadata.parent if metadata.parent.name == SLUG else metadata.parent.parent
    return Results(family.parent)


def read_old(path: Path) -> OldRun:
    """What a metadata file or an old certified directory says."""
    files = [path] if path.is_file() else [path / name for name in (*DOCUMENTS, RENAMED) if (path / name).exists()]
    documents: dict[str, Document] = {}
    said: list[_Said] = []
    problems = []
    for file in files:
        try:
            documents[file.name] = read_document(file)[1]
            said.append(msgspec.convert(documents[file.name], _Said))
        except RunError as error:
            problems.append(error.problem)
        except msgspec.ValidationError as error:
            problems.append(f"{file}: {error}.")
    trained = _first(said, "baseModels") or _first(said, "trained_models") or _first(said, "final_weights")
    return OldRun(
        name=path.name,
        path=path,
        old_name=_first(said, "old_name"),
        version=_first(said, "dna") or _first(said, "version") or "",
        created_at=_first(said, "createdAt") or _first(said, "timestamp") or _time_in(path.name),
        base_models=tuple(trained or _first(said, "weights") or ()),
        documents={name: document for name, document in documents.items() if name != RENAMED},
        problem=" ".join(problems) or None,
    )


def read_document(path: Path) -> tuple[bytes, Document]:
    """A document's bytes and what they say, NaN as None: Python writes a bare NaN, which JSON doesn't have.

    Raises:
        RunError: it is no regular file, too large, not readable, or holds no JSON object.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise RunError(f"{path} is a link or no file.", "Put the file itself there.")
        if found.st_size > MAX_DOCUMENT:
            raise RunError(
                f"{path} has {size(found.st_size)}; a document of a run has {size(MAX_DOCUMENT)} at most.",
                "Remove it, or what is in it that is not of a run.",
            )
        data = path.read_bytes()
        document = json.loads(data.decode("utf-8-sig"), parse_constant=lambda _: None)
        msgspec.json.encode(document)  # no half of a surrogate pair, no number that other programs can't read
    except OSError as error:
        raise RunError(f"{path} can't be read: {error.strerror}.", "Give yourself permission to read it.") from error
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise RunError(f"{path} is not JSON: {error}.", "Restore it from a backup, or remove it.") from error
    if not isinstance(document, dict):
        raise RunError(f"{path} holds no JSON object.", "Restore it from a backup, or remove it.")
    return data, document


def name_here(name: str) -> str | None:
    """The name of an old run's directory in our form, without colons; None where it has no date and time.

    >>> name_here("run:2023-11-22:14:30:25")
    'run-20231122-143025'
    """
    if is_run_id(name):
        return name
    time = _NAMED_BY_TIME.fullmatch(name)
    return "run-{}{}{}-{}{}{}".format(*time.groups()) if time else None


def _time_in(name: str) -> str:
    time = _NAMED_BY_TIME.match(name)
    return "{}-{}-{}T{}:{}:{}".format(*time.groups()) if time else ""


def _first(said: list[_Said], field: str) -> Any:
    """What the first document says that has the field."""
    return next((value for each in said if (value := getattr(each, field))), None)
