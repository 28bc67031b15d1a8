"""The workers of a run: one per model, as many loaded at once as were planned, watched, and replaced when lost.

Where not all fit, a worker stays loaded until another needs its place, and every round of commands begins with those
that are loaded: of n models on k places, n - k are loaded anew in an epoch. Who leaves loses nothing, for its adapter
and optimiser state are in its newest checkpoint.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from oneseek.engine.interface import Assignment, Damaged, EpochResult, Exported, Prepared, Progress
from oneseek.errors import TrainingFailed
from oneseek.events import (
    AnyEvent,
    CheckpointDamaged,
    EpochFinished,
    ModelFailed,
    ModelVerified,
    ProgressReported,
    WorkerRestarted,
)
from oneseek.executors.worker import Beat, Command, Export, Failure, Message, TrainEpoch, decode_message

Outbox = Callable[[bytes | None], None]
POLL_SECONDS = 0.25
_STOPPED_SECONDS = 3.0  # between two turns of the loop, which take POLL_SECONDS and the writing of a record


class Worker(Protocol):
    """A worker as the crew sees it. It prepares its model by itself when it starts, and says so."""

    def send(self, command: Command) -> None: ...
    def finish(self) -> None: ...
    def kill(self) -> None: ...
    def cause_of_death(self) -> tuple[str, str]: ...


class Crew:
    """Carries out one command per model at a time and yields what happens as events.

    start: makes a worker for an assignment; the worker calls its outbox with each message, and with None at its end.
    at_once: how many workers are loaded at most.
    poll: called a few times a second; what it raises ends the work.
    silence: seconds without any message after which a worker counts as frozen, and is killed.
    tries: how often a crashed worker's command is tried before its model is given up.

    Raises, while it works, TrainingFailed for what is no model's fault (a full disk) and whatever `poll` raises.
    """

    def __init__(
        self,
        assignments: Mapping[str, Assignment],
        start: Callable[[Assignment, Outbox], Worker],
        *,
        at_once: int,
        silence: float,
        tries: int,
        poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._assignments = assignments
        self._start = start
        self.at_once = at_once
        self._silence = silence
        self._tries = tries
        self._poll = poll
        self._workers: dict[str, Worker] = {}
        self._hires: dict[str, int] = {}  # what a worker that was let go still says does not count
        self._inbox: queue.Queue[tuple[str, int, bytes | None]] = queue.Queue()
        self.prepared: dict[str, Prepared] = {}

    def prepare(self) -> Iterator[AnyEvent]:
        """Every model loaded once; afterwards `prepared` holds what each found."""
        return (_event(key, message, 0) for key, message in self._carry_out(dict.fromkeys(self._assignments), epoch=0))

    def train_epoch(
        self, epoch: int, learning_rates: Mapping[str, list[float]], excluded: tuple[int, ...]
    ) -> Iterator[AnyEvent]:
        """One epoch of every model that `learning_rates` names (rates of epochs 1 to `epoch`).

        Ends with an EpochFinished or a ModelFailed of each; at EpochFinished its checkpoint is whole on disk.
        """
        commands = {
            key: TrainEpoch(epoch=epoch, learning_rates=tuple(rates), excluded_validation_rows=excluded)
            for key, rates in learning_rates.items()
        }
        return (_event(key, message, epoch) for key, message in self._carry_out(commands, epoch))

    def verify(self, epochs: Mapping[str, int], learning_rates: Mapping[str, list[float]]) -> Iterator[AnyEvent]:
        """Each model's adapter of its epoch written, read back and checked: a ModelVerified or a ModelFailed."""
        commands = {
            key: Export(epoch=epoch, learning_rates=tuple(learning_rates[key][:epoch])) for key, epoch in epochs.items()
        }
        last = max(epochs.values(), default=0)
        return (_event(key, message, last) for key, message in self._carry_out(commands, last))

    def dismiss(self, key: str) -> None:
        """A model has left: its worker's memory is free again."""
        if worker := self._workers.pop(key, None):
            worker.kill()

    def close(self) -> None:
        for key in list(self._workers):
            self.dismiss(key)

    def _carry_out(
        self, commands: Mapping[str, Command | None], epoch: int
    ) -> Iterator[tuple[str, Message | WorkerRestarted]]:
        """Messages of all workers until each has answered its command (None: has prepared) or failed for good."""
        waiting = sorted(commands, key=lambda key: key not in self._workers)
        heard: dict[str, float] = {}
        attempts = dict.fromkeys(commands, 1)
        self._last_turn = time.monotonic()
        while waiting or heard:
            while waiting and len(heard) < self.at_once:
                key = waiting.pop(0)
                self._make_room(key, heard)
                self._give(key, commands[key])
                heard[key] = time.monotonic()
            self._poll()
            for key, message in self._messages(heard):
                heard[key] = time.monotonic()
                match message:
                    case Failure(kind="fatal"):
                        raise TrainingFailed(f"{key}: {message.problem}", message.fix)
                    case Failure(kind="crashed") if attempts[key] < self._tries:
                        self.dismiss(key)
                        attempts[key] += 1
                        restarted = WorkerRestarted(
                            model=key, epoch=epoch, attempt=attempts[key], cause=message.problem
                        )
                        yield key, restarted
                        self._give(key, commands[key])
                        continue
                    case Prepared():
                        self._require_as_before(key, message)
                    case Beat():
                        continue
                    case _:
                        yield key, message
                answer = Prepared if commands[key] is None else EpochResult | Exported
                if isinstance(message, Failure | answer):
                    del heard[key]
                    if isinstance(message, Failure):
                        self.dismiss(key)

    def _messages(self, heard: dict[str, float]) -> Iterator[tuple[str, Message]]:
        """The next message, if one comes soon; deaths, and silences once everything said has been heard."""
        try:
            key, hire, data = self._inbox.get(timeout=POLL_SECONDS)
        except queue.Empty:
            pass
        else:
            if hire == self._hires[key] and key in heard:
                yield key, self._read(key, data)
            elif hire == self._hires[key] and data is None:
                self.dismiss(key)  # it died at rest: the next command gets a new one
        now = time.monotonic()
        stopped, self._last_turn = now - self._last_turn > _STOPPED_SECONDS, now
        if stopped:  # this process did not run (Ctrl-Z, a machine asleep), and can't say who was silent
            heard |= dict.fromkeys(heard, now)
        elif self._inbox.empty():
            for key in [key for key, last in heard.items() if now - last > self._silence]:
                problem = f"It gave no sign of life for {self._silence:g} s."
                yield (
                    key,
                    Failure(kind="crashed", problem=problem, fix="Raise execution.worker_timeout if it was busy."),
                )

    def _read(self, key: str, data: bytes | None) -> Message:
        if data is None:
            problem, fix = self._workers[key].cause_of_death()
            return Failure(kind="crashed", problem=problem, fix=fix)
        try:
            return decode_message.decode(data)
        except msgspec.DecodeError as error:
            return Failure(kind="crashed", problem=f"It said something that can't be read: {error}.", fix="")

    def _require_as_before(self, key: str, found: Prepared) -> None:
        """A worker that takes another's place must find what that one found, or it would compute other bits."""
        before = self.prepared.setdefault(key, found)
        if found != before:
            changed = [name for name in found.__struct_fields__ if getattr(found, name) != getattr(before, name)]
            raise TrainingFailed(
                f"{key}: {', '.join(changed)} changed while the run was under way.",
                "Put back what it was started with, then resume the run.",
            )

    def _give(self, key: str, command: Command | None) -> None:
        if key not in self._workers:
            hire = self._hires[key] = self._hires.get(key, 0) + 1
            self._workers[key] = self._start(self._assignments[key], lambda data: self._inbox.put((key, hire, data)))
        if command is not None:
            self._workers[key].send(command)

    def _make_room(self, key: str, working: Collection[str]) -> None:
        """End a worker that has nothing to do, if all places are taken and `key` has none."""
        if key not in self._workers and len(self._workers) >= self.at_once:
            resting = next(other for other in self._workers if other not in working)
            self._workers.pop(resting).finish()


def _event(key: str, message: Message | WorkerRestarted, epoch: int) -> AnyEvent:
    match message:
        case WorkerRestarted():
            return message
        case Progress():
            return ProgressReported(model=key, **_fields(message))
        case EpochResult():
            return EpochFinished(model=key, **_fields(message))
        case Damaged():
            return CheckpointDamaged(model=key, **_fields(message))
        case Exported():
            return ModelVerified(model=key, **_fields(message))
        case Failure():
            return ModelFailed(model=key, epoch=epoch, kind=message.kind, problem=message.problem, fix=message.fix)
        case _:
            raise TypeError(f"A worker's {type(message).__name__} is not an event.")


def _fields(message: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__struct_fields__}
