"""Runs that are there: by id or path, and all of them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from pydantic import ValidationError

from oneseek.certificate.documents import dna_in
from oneseek.certificate.seal import is_certified
from oneseek.config.schema import TrainingConfig
from oneseek.errors import CertificateInvalid, JournalDamaged, RunError
from oneseek.events.state import RunState, replay
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read
from oneseek.names import is_run_id, nearest_name
from oneseek.runs.recorder import is_running


class KnownRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it is listed. `status` is the journal's word, corrected by whether a process is behind it. `dna` is that
    of a complete run, `problem` what of it can't be read."""

    run_id: str
    directory: Path
    status: str
    created_at: str
    state: RunState | None = None
    dna: str | None = None
    problem: str | None = None


def find(run: str, home: Home) -> RunDirectory:
    """The run with an id, or at a path.

    Raises:
        RunError: there is none; the nearest id is named.
    """
    if is_run_id(run):
        directory = Results(home.models).run(run)
        if directory.journal.exists():
            return directory
        known = [path.parent.name for path in Results(home.models).runs.glob("*/journal.jsonl")]
        near = nearest_name(run, known)
        raise RunError(
            f"There is no run {run} in {Results(home.models).runs}.",
            f"Did you mean {near}?" if near else "`oneseek runs list` shows the runs there are.",
        )
    path = Path(run)
    if os.path.isfile(path / "journal.jsonl"):  # noqa: PTH113  says no to a name that is too long
        return RunDirectory(path.resolve())
    raise RunError(
        f"{run!r} is neither a run id nor a run's directory.", "Write it as run-20251122-143025, or as its path."
    )


def list_runs(home: Home) -> list[KnownRun]:
    """Every run of this home, the newest first. One that can't be read is listed with its problem."""
    directories = [RunDirectory(path.parent) for path in Results(home.models).runs.glob("*/journal.jsonl")]
    return sorted((describe(directory) for directory in directories), key=lambda run: run.run_id, reverse=True)


def describe(directory: RunDirectory) -> KnownRun:
    """One run, from its journal; where that can't be read or was written by another release, its problem."""
    try:
        records = read(directory.journal).records
        state = replay(record.event for record in records)
        if state:
            TrainingConfig.model_validate(state.config)
        dna = dna_of(directory, state) if state else None
    except (OSError, JournalDamaged, CertificateInvalid, ValidationError) as error:
        return KnownRun(
            run_id=directory.run_id,
            directory=directory.root,
            status="damaged",
            created_at="",
            problem=getattr(error, "problem", str(error)),
        )
    return KnownRun(
        run_id=directory.run_id,
        directory=directory.root,
        status=status(directory, state),
        created_at=records[0].at if records else "",
        state=state,
        dna=dna,
    )


def dna_of(directory: RunDirectory, state: RunState) -> str | None:
    """The DNA of a run; None as long as it is not complete.

    Raises:
        CertificateInvalid: its oneseek_dna.json names none.
    """
    return dna_in(directory.dna.read_bytes()) if state.over and directory.dna.exists() else None


def status(directory: RunDirectory, state: RunState | None) -> str:
    """What is true of a run now: a journal that says "training" without a process behind it was interrupted, a
    finished one whose `work/` is still there has not yet written all its files, and a completed one is certified when
    its files prove it."""
    if state is None:
        return "interrupted"
    unfinished = state.status in ("preparing", "training", "stopping") or (state.over and directory.work.exists())
    if unfinished and not is_running(directory):
        return "interrupted"
    return "certified" if state.status == "completed" and is_certified(directory) else state.status
