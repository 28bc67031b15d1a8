"""The one door to runs: submit and train, resume, stop, find, ask. Command line and Python come through here."""

from __future__ import annotations

from typing import Any

import msgspec

from oneseek.certificate.documents import Document
from oneseek.errors import StorageError
from oneseek.events.state import RunState
from oneseek.executors.answering import AnswerFinished, Generated, TokenGenerated
from oneseek.files.layout import RunDirectory
from oneseek.runs.find import KnownRun, describe, find, list_runs, status
from oneseek.runs.generate import generate
from oneseek.runs.recorder import Recorder, Watch, is_running, nobody
from oneseek.runs.rehearse import Rehearsal
from oneseek.runs.resume import resume
from oneseek.runs.stopping import stop
from oneseek.runs.submit import inspect, submit
from oneseek.runs.train import train
from oneseek.runs.validate import Verdict, validate

__all__ = [
    "AnswerFinished",
    "Generated",
    "KnownRun",
    "Recorder",
    "Rehearsal",
    "Result",
    "TokenGenerated",
    "Verdict",
    "Watch",
    "describe",
    "find",
    "generate",
    "inspect",
    "is_running",
    "list_runs",
    "nobody",
    "result",
    "resume",
    "status",
    "stop",
    "submit",
    "train",
    "validate",
]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run. `base_models` are the keys of the verified ones, the champion's adapter the best of them;
    `failed_models` says why others are not among them. Unfinished runs have no dna and no champion."""

    run_id: str
    status: str
    dna: str | None
    certified_dir: str
    champion: str | None
    base_models: tuple[str, ...]
    failed_models: dict[str, str]

    def wire(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def result(directory: RunDirectory, state: RunState) -> Result:
    """What became of a run, from its journal and its oneseek_dna.json."""
    return Result(
        run_id=state.run_id,
        status=status(directory, state),
        dna=_dna(directory)["dna"] if state.over and directory.dna.exists() else None,
        certified_dir=str(directory.root),
        champion=state.result.champion if state.result else None,
        base_models=tuple(state.verified),
        failed_models=state.quarantined,
    )


def _dna(directory: RunDirectory) -> Document:
    try:
        return msgspec.json.decode(directory.dna.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StorageError(f"{directory.dna} can't be read: {error}.", "Restore the run from a backup.") from error
