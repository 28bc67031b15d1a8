"""Runs that are there: by id or path, and all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError

from oneseek.certificate.documents import dna_in
from oneseek.certificate.seal import content, is_certified
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.store import stored_name
from oneseek.engine.interface import EngineName
from oneseek.errors import CertificateInvalid, JournalDamaged, RunError, RunUnknown
from oneseek.events import DatasetUsed, RunFailed, RunFinished, RunInterrupted, RunQueued, RunResumed, RunStopped
from oneseek.events.state import RunState, replay
from oneseek.events.wire import auto_stop_info, detail, leading
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.files.remembered import Remembered
from oneseek.journal.file import read
from oneseek.journal.record import Record
from oneseek.names import is_run_id, nearest_name
from oneseek.runs.old import OldRun, find_old
from oneseek.runs.recorder import is_published, is_running


class KnownRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is listed. `status` is the journal's word, corrected by whether a process is behind it. `last_at` is
    when its last record was written, `seconds` how long it has been trained up to then. `dna` is that of a complete
    run, `problem` what of it can't be read."""

    run_id: str
    directory: Path
    status: str
    created_at: str
    last_at: str = ""
    seconds: float = 0.0
    state: RunState | None = None
    dna: str | None = None
    problem: str | None = None

    def wire(self) -> dict[str, Any]:
        """A run for programs. `leader` is who is ahead, the champion in the end; `bits_per_byte` and `val_loss` are
        the leader's."""
        body: dict[str, Any] = {
            "run_id": self.run_id,
            "status": self.status,
            "created_at": self.created_at,
            "certified_dir": str(self.directory),
            "problem": self.problem,
            "verifiable": self.status == "certified",
        }
        if self.state:
            accepted, failure = self.state.accepted, self.state.failure
            leader = leading(self.state)
            body |= {
                "version": accepted.version,
                "engine": accepted.engine,
                "dna": self.dna,
                "dataset": _dataset(accepted.dataset),
                "base_models": list(self.state.keys),
                "display_names": {model.key: model.display_name for model in accepted.models},
                "multiModelMode": len(self.state.keys) > 1,
                "current_epoch": self.state.epochs_done,
                "total_epochs": self.state.total_epochs,
                "progress_percent": self.state.progress_percent,
                "auto_stop_info": auto_stop_info(self.state, self.state.auto_stop),
                "champion": self.state.result.champion if self.state.result else None,
                "leader": leader["model"] if leader else None,
                "rank_by": self.state.rank_by,
                "bits_per_byte": leader["bits_per_byte"] if leader else None,
                "val_loss": leader["val_loss"] if leader else None,
                "failed_models": self.state.quarantined,
                "failure": {"problem": failure.problem, "fix": failure.fix} if failure else None,
                "seconds": self.seconds,
                "ended_at": None if self.status in _GOING_ON else self.last_at,
            }
        return body

    def detail(self) -> dict[str, Any]:
        """What is told of it beside that where it is asked for alone. `config` are its settings, every one of them,
        `reason` why it ended: all epochs, or auto-stop."""
        if self.state is None:
            return detail(None)
        result = self.state.result
        return detail(self.state) | {
            "config": self.state.config,
            "warnings": list(self.state.accepted.warnings),
            "final_weights": result.final_weights if result else None,
            "reason": result.reason if result else None,
        }


def _dataset(used: DatasetUsed) -> dict[str, Any] | None:
    """What a run is trained on, by the name that it has here; None where nobody told us."""
    if not used.sha256:
        return None
    return {
        "name": stored_name(Path(used.path)),
        "sha256": used.sha256,
        "format": used.format,
        "strategy": used.strategy,
        "rows": used.training_rows + used.validation_rows,
        "training_rows": used.training_rows,
        "validation_rows": used.validation_rows,
        "quarantined_rows": used.quarantined_rows,
        "validation_name": stored_name(Path(used.validation_path)) if used.validation_path else None,
    }


def find(run: str, home: Home) -> RunDirectory:
    """The run with an id, or at a path.

    Raises:
        RunUnknown: there is none, and the nearest id is named.
        RunError: it is one of the old system.
    """
    if is_run_id(run):
        directory = Results(home.models).run(run)
        if directory.journal.exists():
            return directory
        _refuse_old(run, home)
        known = [path.parent.name for path in Results(home.models).runs.glob("*/journal.jsonl")]
        near = nearest_name(run, known)
        raise RunUnknown(
            f"There is no run {run} in {Results(home.models).runs}.",
            f"Did you mean {near}?" if near else "`oneseek runs list` shows the runs there are.",
        )
    path = Path(run)
    if run and os.path.isfile(path / "journal.jsonl"):  # noqa: PTH113  says no to a name that is too long
        return RunDirectory(path.resolve())
    _refuse_old(run, home)
    raise RunUnknown(
        f"{run!r} is neither a run id nor a run's directory.", "Write it as run-20251122-143025, or as its path."
    )


def place(run: str, home: Home) -> Path:
    """The directory of a run by its id, by a path, or by a name of the old system. It may hold anything: nothing in it
    is looked at.

    Raises:
        RunError: there is none; see `find`.
    """
    known = Results(home.models).run(run).root if is_run_id(run) else Path(run)
    if run and os.path.isdir(known):  # noqa: PTH112  says no to a name that is too long
        return known
    old = _old(run, home)
    return old.path if old and old.path.is_dir() else find(run, home).root


def _old(run: str, home: Home) -> OldRun | None:
    try:
        return find_old(run, home) if run else None
    except (OSError, ValueError):  # a name that is too long to be one
        return None


def _refuse_old(run: str, home: Home) -> None:
    old = _old(run, home)
    if old is None:
        return
    if old.run_id or (old.path / "manifest.json").exists():
        raise RunError(f"{run} has no journal here. {old.reason}", "Restore the run's directory from a backup.")
    raise RunError(
        f"{run} is of the old system: it has no journal, so it can't be certified, reproduced, resumed, watched or "
        "asked, only listed and shown.",
        f"oneseek runs show {run}",
    )


def list_runs(home: Home) -> list[KnownRun]:
    """Every run of this home, the newest first. One that can't be read is listed with its problem."""
    directories = [RunDirectory(path.parent) for path in Results(home.models).runs.glob("*/journal.jsonl")]
    return sorted((describe(directory) for directory in directories), key=lambda run: run.run_id, reverse=True)


def describe(directory: RunDirectory) -> KnownRun:
    """One run, from its journal; where that can't be read or was written by another release, its problem."""
    try:
        running = is_running(directory)
        told = _TOLD.get(directory.journal, (directory.journal,), lambda: _read(directory.journal))
        dna = dna_of(directory, told.state) if told.state else None
    except (OSError, RunError, JournalDamaged, CertificateInvalid, ValidationError, RecursionError) as error:
        return KnownRun(
            run_id=directory.run_id,
            directory=directory.root,
            status="damaged",
            created_at="",
            problem=_said(error),
        )
    return KnownRun(
        run_id=directory.run_id,
        directory=directory.root,
        status=status(directory, told.state, running=running),
        created_at=told.created_at,
        last_at=told.last_at,
        seconds=told.seconds,
        state=told.state,
        dna=dna,
    )


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a journal alone tells of a run."""

    state: RunState | None
    created_at: str
    last_at: str
    seconds: float
    bytes: int


_TOLD: Remembered[_Told] = Remembered(64 << 20, lambda told: told.bytes)
_CERTIFIED: Remembered[bool] = Remembered(10_000)
_GOING_ON = ("queued", "preparing", "training", "stopping")


def _read(journal: Path) -> _Told:
    found = read(journal)
    records = found.records
    state = replay(record.event for record in records)
    if state:
        TrainingConfig.model_validate(state.config)
    return _Told(
        state=state,
        created_at=records[0].at if records else "",
        last_at=records[-1].at if records else "",
        seconds=seconds_trained(records),
        bytes=found.whole,
    )


def seconds_trained(records: Iterable[Record]) -> float:
    """How long a run has been at it, by the times of its records: neither while it waited for its turn, nor between
    being broken off and taken up again."""
    seconds, going = 0.0, True
    for before, after in pairwise(records):
        if isinstance(before.event, _BREAKS):
            going = isinstance(before.event, RunResumed)
        if going and not isinstance(after.event, RunQueued | RunResumed | RunInterrupted):
            seconds += (datetime.fromisoformat(after.at) - datetime.fromisoformat(before.at)).total_seconds()
    return round(max(0.0, seconds), 3)


_BREAKS = (RunQueued, RunStopped, RunInterrupted, RunResumed, RunFailed, RunFinished)


def _said(error: Exception) -> str:
    """Without the path that the system's own words have: it is told to whoever may read what there is."""
    if isinstance(error, OSError):
        return f"It can't be read: {error.strerror}."
    return str(getattr(error, "problem", error))


def dna_of(directory: RunDirectory, state: RunState) -> str | None:
    """The DNA of a run; None as long as it is not complete.

    Raises:
        CertificateInvalid: its oneseek_dna.json names none.
    """
    if not state.over or not os.path.lexists(directory.dna):
        return None
    document = content(directory.dna)
    if document is None:
        raise CertificateInvalid("oneseek_dna.json is no regular file of a usual size.", "Restore it from a backup.")
    return dna_in(document)


def status(directory: RunDirectory, state: RunState | None, *, running: bool = False) -> str:
    """What is true of a run now: a journal that says "training" without a process behind it was interrupted, a
    finished one may not have written all its files yet, and a completed one is certified when its files prove it. One
    that is trained outside has no process here: it is what it was reported to be.

    running: whether a process had it before its journal was read. One that lets go after that may have written more
    than `state` knows.
    """
    if state is None:
        return "interrupted"
    if state.accepted.engine == "outside":
        return state.status
    if not running and not is_running(directory):  # asked first: who has let go has written everything
        going = state.status in ("preparing", "training", "stopping")
        if going or (state.over and not is_published(directory)):
            return "interrupted"
    return "certified" if state.status == "completed" and _is_certified(directory) else state.status


def _is_certified(directory: RunDirectory) -> bool:
    files = (directory.manifest, directory.signature, directory.ledger_proof)
    return _CERTIFIED.get(directory.root, files, lambda: is_certified(directory))


def needs_no_process(state: RunState) -> bool:
    """Whether a run goes on though nobody trains it here: it waits for its turn, or is trained outside."""
    outside = state.accepted.engine == "outside" and state.status in ("preparing", "training")
    return outside or state.status == "queued"


def engine_of(state: RunState, done: str) -> EngineName:
    """What trains a run here.

    done: what was to be done with it, as `resumed`.
    Raises:
        RunError: it is trained outside.
    """
    if state.accepted.engine == "outside":
        raise RunError(
            f"{state.run_id} is trained by another program, which only reports how it goes: it can't be {done}.",
            "Do that where it is trained.",
        )
    return state.accepted.engine
