"""The one door to runs: submit, train, certify, resume, stop, find, ask. Command line and Python come through here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from oneseek.events import RunInterrupted, RunStopped
from oneseek.events.state import RunState
from oneseek.executors.answering import AnswerFinished, Generated, TokenGenerated
from oneseek.files.layout import Home, RunDirectory
from oneseek.runs import stopping
from oneseek.runs.certify import Certified, certify
from oneseek.runs.devices import DeviceLock, Waiting, devices, unheard
from oneseek.runs.find import KnownRun, describe, dna_of, find, list_runs, needs_no_process, status
from oneseek.runs.generate import generate
from oneseek.runs.importing import Imported, import_runs
from oneseek.runs.machine import Device, Machine, machine
from oneseek.runs.old import OldRun, find_old, old_runs
from oneseek.runs.recorder import Recorder, Watch, is_running, nobody
from oneseek.runs.rehearse import Rehearsal
from oneseek.runs.reproduce import Reproduction, reproduce
from oneseek.runs.resume import resume
from oneseek.runs.stopping import stop
from oneseek.runs.submit import inspect, submit
from oneseek.runs.train import train
from oneseek.runs.validate import Verdict, validate
from oneseek.runs.verify import Verified, verify

__all__ = [
    "AnswerFinished",
    "Certified",
    "Device",
    "Generated",
    "Imported",
    "KnownRun",
    "Machine",
    "OldRun",
    "Recorder",
    "Rehearsal",
    "Reproduction",
    "Result",
    "TokenGenerated",
    "Verdict",
    "Verified",
    "Watch",
    "certify",
    "complete",
    "describe",
    "find",
    "find_old",
    "generate",
    "import_runs",
    "inspect",
    "is_running",
    "list_runs",
    "machine",
    "needs_no_process",
    "nobody",
    "old_runs",
    "reproduce",
    "result",
    "resume",
    "status",
    "stop",
    "submit",
    "train",
    "validate",
    "verify",
]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run. `base_models` are the keys of the verified ones, the champion's adapter the best of them;
    `failed_models` says why others are not among them. Unfinished runs have no dna and no champion; `not_certified`
    says why a complete one is not in the ledger yet."""

    run_id: str
    status: str
    dna: str | None
    certified_dir: str
    champion: str | None
    base_models: tuple[str, ...]
    failed_models: dict[str, str]
    not_certified: str | None = None

    def wire(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)  # type: ignore[no-any-return]


def complete(
    run: Recorder, home: Home, environment: Mapping[str, str] = os.environ, waiting: Waiting = unheard
) -> Result:
    """Take an accepted run to its end, then seal it and enter it in the ledger. One that can't take it is no error: the
    run is complete, and `not_certified` says why.

    environment: as of `certify`; what is trained on follows from this process's own.
    waiting: told the name of the device, once, where another run has it.

    Raises:
        OneSeekError, KeyboardInterrupt: as in `train` and `certify`.
    """
    with run, DeviceLock(home, devices(os.environ)[0]) as device:
        if run.state.over or _its_turn(run, device, waiting):
            train(run)
    certified = certify(run.directory, home, environment) if run.state.over else None
    return result(run.directory, run.state, certified)


def _its_turn(run: Recorder, device: DeviceLock, waiting: Waiting) -> bool:
    """Wait until the device is the run's. False where it was asked to stop before that, which is recorded."""
    try:
        if device.wait(waiting, lambda: stopping.asked(run.directory) is not None):
            return True
    except KeyboardInterrupt:
        run.record_if_possible(RunInterrupted(cause="Ctrl-C"))
        raise
    run.record(RunStopped())
    return False


def result(directory: RunDirectory, state: RunState, certified: Certified | None = None) -> Result:
    """What became of a run, from its journal and its oneseek_dna.json."""
    return Result(
        run_id=state.run_id,
        status=status(directory, state),
        dna=dna_of(directory, state),
        certified_dir=str(directory.root),
        champion=state.result.champion if state.result else None,
        base_models=tuple(state.verified),
        failed_models=state.quarantined,
        not_certified=f"{certified.problem} {certified.fix}".strip() if certified and certified.problem else None,
    )
