"""How both engines reach a state, keep it and find it again."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from oneseek.engine import checkpoint
from oneseek.engine.interface import Assignment, Damaged, Progress, Report

STATE = "state.json"
_WHERE_THINGS_ARE = ("model_path", "dataset_path", "directory", "cache_directory")
_WHAT_IS_SHOWN_OR_KEPT = ("checkpoint_every", "sample_prompts", "sample_tokens")


@dataclass(frozen=True)
class EpochSums:
    """What an epoch's training measured. `loss` is nats per supervised token, `gradient_norm` the mean over steps."""

    loss: float
    gradient_norm: float
    tokens_per_second: float


class EpochTrainer(ABC):
    """A training whose state after an epoch is a function of the assignment and the learning rates so far.

    The state in memory is named by those learning rates; None while an epoch is under way, and after one that failed.
    Every epoch's checkpoint is the same, byte for byte, whether it was trained at once, or again after a loss.
    """

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.directory = Path(assignment.directory)
        self._trained: tuple[float, ...] | None = None

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
    def _train(self, epoch: int, learning_rate: float, report: Report) -> EpochSums:
        """Go from the state of `epoch` - 1 to that of `epoch`."""

    def _reach(self, learning_rates: Sequence[float], report: Report) -> None:
        """Bring the state after as many epochs as there are learning rates into memory.

        What lies between the newest usable checkpoint and there is trained again, without evaluation and progress
        reports: those belong to the epoch that was asked for.
        """
        rates = tuple(learning_rates)
        if self._trained == rates:
            return
        self._trained = None
        epoch = self._load_newest(rates, report)
        for again in range(epoch + 1, len(rates) + 1):
            self._train(again, rates[again - 1], _only_damage(report))
            self._keep(rates[:again])
        self._trained = rates

    def _train_next(self, learning_rates: Sequence[float], report: Report) -> EpochSums:
        """Train the last epoch that `learning_rates` names. Its state counts only once `_keep` wrote it."""
        self._reach(learning_rates[:-1], report)
        self._trained = None
        return self._train(len(learning_rates), learning_rates[-1], report)

    def _keep(self, learning_rates: Sequence[float]) -> str:
        """Write the checkpoint of the state in memory; the SHA-256 of its manifest."""
        rates = tuple(learning_rates)
        description = {"assignment": assignment_digest(self.assignment), "learning_rates": rates}
        files = {**self._state(), STATE: json.dumps(description, indent=2).encode() + b"\n"}
        digest = checkpoint.write(self.directory, len(rates), files)
        self._trained = rates
        return digest

    def _load_newest(self, rates: tuple[float, ...], report: Report) -> int:
        """Load the newest intact checkpoint on the way to `rates`; its epoch, 0 where training begins anew.

        A checkpoint of other learning rates or of another assignment is whole, but of another training: passed over.
        """
        expected = assignment_digest(self.assignment)
        at_most = len(rates)
        while True:
            epoch, files, damaged = checkpoint.newest_intact(self.directory, at_most)
            for lost, problem in damaged:
                report(Damaged(epoch=lost, problem=problem))
            if epoch == 0:
                self._begin()
                return 0
            description = json.loads(files[STATE])
            if description == {"assignment": expected, "learning_rates": list(rates[:epoch])}:
                self._restore(files)
                return epoch
            at_most = epoch - 1


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
