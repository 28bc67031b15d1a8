"""Everything wrong with a request, what it would take, and on demand a rehearsal: said before compute is spent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec

from oneseek.config.parse import ConfigProblem
from oneseek.config.schema import TrainingConfig
from oneseek.engine.interface import EngineName
from oneseek.estimate import Reading, RunEstimate, run_estimate
from oneseek.files.layout import Home
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, in_order, wire
from oneseek.preflight.looking import ANEW, Looking
from oneseek.runs.devices import DeviceLock, devices
from oneseek.runs.machine import Machine, machine
from oneseek.runs.rehearse import Rehearsal, Watch, findings, rehearse
from oneseek.runs.staff import cores
from oneseek.runs.submit import dataset_used, inspect


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What preflight says of a request. `estimate` is of the models that were found, None without any. Of `rows` usable
    rows, `rows_looked_at` were put to the models' templates and tokenizers. `machine` is what it was judged on.
    `rehearsal` is there where one was asked for, else `not_rehearsed` says what stood in its way."""

    findings: tuple[Finding, ...]
    estimate: RunEstimate | None
    rows: int = 0
    rows_looked_at: int = 0
    machine: Machine
    rehearsal: Rehearsal | None = None
    not_rehearsed: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the run would start: no finding is an error."""
        return all(finding.severity != "error" for finding in self.findings)

    def wire(self) -> dict[str, Any]:
        """The verdict as `--json` and HTTP write it."""
        told: dict[str, Any] = {
            "ok": self.ok,
            "findings": [wire(finding) for finding in self.findings],
            "estimate": self.estimate.wire() if self.estimate is not None else None,
            "rows": self.rows,
            "rows_looked_at": self.rows_looked_at,
            "machine": msgspec.to_builtins(self.machine),
        }
        if self.rehearsal is not None or self.not_rehearsed is not None:
            told |= {"rehearsal": msgspec.to_builtins(self.rehearsal), "not_rehearsed": self.not_rehearsed}
        return told


def validate(
    config: TrainingConfig,
    home: Home,
    *,
    problems: Sequence[ConfigProblem] = (),
    trained_on: Sequence[str] = (),
    looking: Looking = ANEW,
    rehearsed: bool = False,
    engine: EngineName = "torch",
    watch: Watch = lambda key, stage: None,
) -> Verdict:
    """Judge a request as `submit` does, and start nothing.

    trained_on: the devices that there are to train on; those of this process unless given. looking: anew, unless
        somebody asks again and again.
    rehearsed: where nothing else is wrong, each model goes through one step, evaluation, save and reload, and all of it
        is thrown away; unless a run has the device. watch: told the key of a model and what it begins with.
    """
    facts, found = inspect(config, home, problems=problems, looking=looking)
    verdict = Verdict(
        findings=found,
        estimate=estimated(config, facts),
        rows=facts.dataset.rows if facts.dataset is not None else 0,
        rows_looked_at=max((tokens.rows for tokens in facts.tokens.values()), default=0),
        machine=machine(home, trained_on or devices(os.environ)),
    )
    if not rehearsed:
        return verdict
    if why := _why_not(verdict, facts):
        return msgspec.structs.replace(verdict, not_rehearsed=why)
    dataset = dataset_used(facts, config)
    with DeviceLock(home, devices(os.environ)[0]) as device:
        if not device.taken():
            busy = f"{device.device} is busy. Rehearse again when it is free."
            return msgspec.structs.replace(verdict, not_rehearsed=busy)
        done = rehearse(config, facts.models, dataset, facts.longest_row, engine=engine, watch=watch)
    return msgspec.structs.replace(
        verdict, findings=in_order((*found, *findings(done, facts.free_memory_bytes))), rehearsal=done
    )


def _why_not(verdict: Verdict, facts: Facts) -> str | None:
    """What stands in the way of a rehearsal."""
    if not verdict.ok:
        return "correct the errors first."
    away = [model.hub_id or model.key for model in facts.models if model.source == "hub"]
    return f"not here yet: {', '.join(away)}. Download first: oneseek models pull {' '.join(away)}" if away else None


def estimated(config: TrainingConfig, facts: Facts) -> RunEstimate | None:
    """What the run would take, in memory, on the disk and in time, with their parts; None without models."""
    if not facts.models or facts.free_memory_bytes is None:
        return None
    rows = _rows(config, facts)
    return run_estimate(
        config,
        facts.models,
        free_bytes=facts.free_memory_bytes,
        cores=cores(config),
        longest_row=facts.longest_row,
        reading={key: Reading(*rows, tokens.mean) for key, tokens in facts.tokens.items() if rows is not None},
    )


def _rows(config: TrainingConfig, facts: Facts) -> tuple[int, int] | None:
    """How many rows are trained and validated on; None where there is no dataset that could be split."""
    if facts.dataset is None or not facts.dataset.rows:
        return None
    if facts.validation is not None:
        return facts.dataset.rows, facts.validation.rows
    aside = max(1, round(config.data.validation_split * facts.dataset.rows))
    return facts.dataset.rows - aside, aside
