"""How both engines go through an epoch, reach a state, keep it and find it again."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec

from oneseek.engine import checkpoint
from oneseek.engine.checkpoint import START, Position
from oneseek.engine.interface import Assignment, Damaged, EpochResult, Progress, Report
from oneseek.engine.machine import peak_memory_bytes
from oneseek.engine.schedule import schedule_factor, warmup_steps
from oneseek.events import Preference

STATE = "state.json"
_WHERE_THINGS_ARE = ("model_path", "hub_id", "revision", "dataset_path", "directory", "cache_directory")
_WHAT_IS_SHOWN_OR_KEPT = ("checkpoint_every", "sample_prompts", "sample_tokens")
_STEPS_KEPT = 2  # the newest inside an epoch, and the one before, should that be damaged


@dataclass(frozen=True)
class Step:
    """An optimiser step. `loss` is the mean over `units` (learned tokens, or pairs), in nats; where nothing is learned
    all is 0, and nothing is reported. `tokens` are those computed, `gradient_norm` is the L2 norm before clipping."""

    loss: float
    units: int
    tokens: int
    gradient_norm: float


@dataclass(frozen=True)
class Sums:
    """What the steps of an epoch add up to so far."""

    nats: float = 0.0
    units: int = 0
    norms: float = 0.0
    updates: int = 0

    def plus(self, step: Step) -> Sums:
        return Sums(
            self.nats + step.loss * step.units,
            self.units + step.units,
            self.norms + step.gradient_norm,
            self.updates + (step.units > 0),
        )


@dataclass(frozen=True)
class Evaluation:
    """What the validation rows say. `val_loss` is nats per learned token, or per pair."""

    val_loss: float
    bits_per_byte: float | None = None
    preference: Preference | None = None
    samples: tuple[str, ...] = ()


class EpochTrainer(ABC):
    """A training whose state is a function of the assignment, the learning rates so far and the steps done.

    The state in memory is named by those learning rates; None while an epoch is under way, and after one that failed.
    Every checkpoint is the same, byte for byte, whether it was trained at once, or again after a loss.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.directory = Path(assignment.directory)
        self._trained: tuple[float, ...] | None = None

    # -- what an engine adds --------------------------------------------------------------------------------------

    _steps: int  # optimiser steps of an epoch; known once prepared

    @abstractmethod
    def _begin(self) -> None:
        """Set the state of epoch 0."""

    @abstractmethod
    def _restore(self, files: Mapping[str, bytes]) -> None:
        """Set the state that `_state` gave."""

    @abstractmethod
    def _state(self) -> dict[str, bytes]:
        """The whole state, as files."""

    @abstractmethod
    def _enter(self, rates: tuple[float, ...], *, anew: bool) -> None:
        """Make ready for steps of the epoch that `rates` end with. anew: from the first; its randomness begins here."""

    @abstractmethod
    def _step(self, epoch: int, index: int, learning_rate: float) -> Step:
        """Optimiser step `index` (from 0) of `epoch`, at a learning rate that the schedule was applied to."""

    @abstractmethod
    def _evaluate(self, rates: tuple[float, ...], excluded: Sequence[int]) -> Evaluation:
        """Measure the state in memory, which is that after `rates`."""

    # -- an epoch -------------------------------------------------------------------------------------------------

    def train_epoch(
        self, epoch: int, learning_rates: Sequence[float], excluded_validation_rows: Sequence[int], report: Report
    ) -> EpochResult:
        """As `interface.Trainer` says. Of an epoch that was broken off, the steps that were kept are not done again."""
        rates = tuple(learning_rates[:epoch])
        done, sums = self._reach_into(rates, report)
        began = time.perf_counter()
        sums, tokens = self._train(rates, report, done, sums)
        seconds = time.perf_counter() - began
        found = self._evaluate(rates, excluded_validation_rows)
        return EpochResult(
            epoch=epoch,
            train_loss=sums.nats / sums.units,
            val_loss=found.val_loss,
            bits_per_byte=found.bits_per_byte,
            learning_rate=rates[-1],
            gradient_norm=sums.norms / sums.updates,
            tokens_per_second=tokens / seconds,
            memory_bytes=self._peak_memory(),
            checkpoint=self._keep(rates),
            preference=found.preference,
            samples=found.samples,
        )

    def _peak_memory(self) -> int:
        return peak_memory_bytes()

    def _train(self, rates: tuple[float, ...], report: Report, done: int = 0, sums: Sums = Sums()) -> tuple[Sums, int]:
        """The steps of the epoch that `rates` end with, after its first `done` ones; their sums, and the tokens of the
        steps that were done here. The state in memory is that before them, and counts again only once it is kept."""
        self._trained = None
        a, epoch, all_tokens = self.assignment, len(rates), 0
        self._enter(rates, anew=done == 0)
        total = self._steps * a.num_epochs
        warmup = warmup_steps(total, a.warmup_ratio)
        for index in range(done, self._steps):
            began = time.perf_counter()
            factor = schedule_factor((epoch - 1) * self._steps + index, total, warmup, a.lr_scheduler)
            step = self._step(epoch, index, rates[-1] * factor)
            sums, all_tokens = sums.plus(step), all_tokens + step.tokens
            if step.units:
                report(
                    Progress(
                        epoch=epoch,
                        step=index + 1,
                        steps=self._steps,
                        loss=step.loss,
                        learning_rate=rates[-1] * factor,
                        gradient_norm=step.gradient_norm,
                        tokens_per_second=step.tokens / (time.perf_counter() - began),
                    )
                )
            if a.checkpoint_every and (index + 1) % a.checkpoint_every == 0 and index + 1 < self._steps:
                self._write(Position(epoch - 1, index + 1), rates, sums)
                checkpoint.prune_steps(self.directory, _STEPS_KEPT)
        return sums, all_tokens

    # -- reaching a state -----------------------------------------------------------------------------------------

    def _reach(self, learning_rates: Sequence[float], report: Report) -> None:
        """Bring the state after as many epochs as there are learning rates into memory.

        What lies between the newest usable checkpoint and there is trained again, without evaluation and progress
        reports: those belong to the epoch that was asked for.
        """
        rates = tuple(learning_rates)
        if self._trained == rates:
            return
        position, sums = self._load_newest(rates, Position(len(rates)), report)
        self._train_up_to(rates, position, sums, report)

    def _reach_into(self, rates: tuple[float, ...], report: Report) -> tuple[int, Sums]:
        """Bring the newest state before the end of the last epoch of `rates` into memory, from that epoch's beginning
        on: how many of its steps are done, and what they add up to."""
        before = rates[:-1]
        if self._trained == before:
            return 0, Sums()
        last = len(before)
        position, sums = self._load_newest(rates, Position(last, self._steps), report)
        if position.epochs == last:
            return position.steps, sums
        self._train_up_to(before, position, sums, report)
        return 0, Sums()

    def _train_up_to(self, rates: tuple[float, ...], position: Position, sums: Sums, report: Report) -> None:
        """From `position`, which is in memory, to the end of the last epoch of `rates`."""
        for epoch in range(position.epochs + 1, len(rates) + 1):
            steps, so_far = (position.steps, sums) if epoch == position.epochs + 1 else (0, Sums())
            self._train(rates[:epoch], _only_damage(report), steps, so_far)
            self._keep(rates[:epoch])
        self._trained = rates

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _keep(self, rates: tuple[float, ...]) -> str:
        """Write the checkpoint of the state in memory; the SHA-256 of its manifest."""
        digest = self._write(Position(len(rates)), rates, Sums())
        self._trained = rates
        return digest

    def _write(self, position: Position, rates: tuple[float, ...], sums: Sums) -> str:
        description = {"assignment": assignment_digest(self.assignment), "learning_rates": rates, "sums": asdict(sums)}
        files = {**self._state(), STATE: json.dumps(description, indent=2).encode() + b"\n"}
        return checkpoint.write(self.directory, position, files)

    def _load_newest(self, rates: tuple[float, ...], at_most: Position, report: Report) -> tuple[Position, Sums]:
        """Load the newest intact checkpoint on the way to `rates`; its position, START where training begins anew.

        A checkpoint of other learning rates or of another assignment is whole, but of another training: passed over.
        """
        self._trained = None
        expected = assignment_digest(self.assignment)
        while True:
            position, files, damaged = checkpoint.newest_intact(self.directory, at_most)
            for lost, problem in damaged:
                report(Damaged(epoch=lost.epochs + (lost.steps > 0), problem=problem))
            if position == START:
                self._begin()
                return START, Sums()
            description = json.loads(files[STATE])
            its_rates = list(rates[: position.epochs + (position.steps > 0)])
            if description["assignment"] == expected and description["learning_rates"] == its_rates:
                self._restore(files)
                return position, Sums(**description["sums"])
            at_most = _just_before(position)


def _just_before(position: Position) -> Position:
    epochs, steps = position
    return Position(epochs, steps - 1) if steps else Position(epochs - 1, sys.maxsize)


def assignment_digest(assignment: Assignment) -> str:
    """SHA-256 in hex of everything in an assignment that decides a weight; not of where things are."""
    without = (*_WHERE_THINGS_ARE, *_WHAT_IS_SHOWN_OR_KEPT)
    fields = {name: value for name, value in msgspec.to_builtins(assignment).items() if name not in without}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def _only_damage(report: Report) -> Report:
    def pass_on(message: Progress | Damaged) -> None:
        if isinstance(message, Damaged):
            report(message)

    return pass_on
