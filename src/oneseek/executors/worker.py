"""A worker: one model's trainer, commands in, messages out.

The same loop serves a thread and a process. As a process (`python -m oneseek.executors.worker`) commands come as JSON
lines on standard input and messages leave as JSON lines on standard output. The end of standard input means that the
run's process is gone: the worker ends at once, so that nothing outlives its run.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from oneseek import child
from oneseek.engine.create import create
from oneseek.engine.interface import Assignment, Damaged, EpochResult, Exported, Prepared, Progress
from oneseek.errors import OneSeekError, StorageError, WorkerFailed
from oneseek.files.durable import storage_cause

BEAT_SECONDS = 1.0
LOCK_SECONDS = 30.0


class TrainEpoch(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Train `epoch`; `learning_rates` are those of epochs 1 to `epoch`."""

    epoch: int
    learning_rates: tuple[float, ...]
    excluded_validation_rows: tuple[int, ...]


class Export(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Write and check the adapter of `epoch`."""

    epoch: int
    learning_rates: tuple[float, ...]


class Beat(msgspec.Struct, frozen=True, tag=True):
    """The worker is alive."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The command could not be carried out; the worker has ended.

    Kinds are those of WorkerFailed, and `fatal`: no fault of the model's, so the whole run fails and can be resumed.
    """

    kind: str
    problem: str
    fix: str


Command = TrainEpoch | Export
Message = Beat | Prepared | Progress | Damaged | EpochResult | Exported | Failure
Send = Callable[[Message], None]

encode = msgspec.json.encode
decode_command: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
decode_message: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def serve(assignment: Assignment, next_command: Callable[[], Command | None], send: Send) -> None:
    """Prepare, then carry out commands until there are none; a failure is sent, and ends the worker."""
    try:
        trainer = create(assignment)
        send(trainer.prepare())
        while command := next_command():
            if isinstance(command, TrainEpoch):
                send(trainer.train_epoch(command.epoch, command.learning_rates, command.excluded_validation_rows, send))
            else:
                send(trainer.export(command.epoch, command.learning_rates, send))
    except Exception as error:  # noqa: BLE001  whatever a model can do to a worker is that worker's failure
        send(failure(error))


def failure(error: Exception) -> Failure:
    """What a worker says of an error that ends it."""
    match error:
        case WorkerFailed():
            return Failure(kind=error.kind, problem=error.problem, fix=error.fix)
        case StorageError():
            return Failure(kind="fatal", problem=error.problem, fix=error.fix)
        case OneSeekError():
            return Failure(kind="refused", problem=error.problem, fix=error.fix)
        case MemoryError():
            fix = "Use a smaller batch_size or max_length."
            return Failure(kind="out_of_memory", problem="Out of memory.", fix=fix)
        case _:
            traceback.print_exception(error)
            kind = "fatal" if isinstance(error, OSError) and storage_cause(error) else "crashed"
            return Failure(kind=kind, problem=f"{type(error).__name__}: {error}", fix="")


def main() -> None:
    """The process of one worker. It ends by os._exit: a thread that waits for input would hold up any other end."""
    messages = child.begin()
    writing = threading.Lock()

    def send(message: Message) -> None:
        with writing:
            messages.write(encode(message) + b"\n")

    try:
        _work(send)
    except Timeout:
        problem = "Another worker of this run is still alive, and would not end."
        send(Failure(kind="fatal", problem=problem, fix="End it (oneseek.executors.worker is in its command line)."))
    except OSError as error:
        send(Failure(kind="fatal", problem=str(error), fix="Check the disk."))
    except BaseException:  # noqa: BLE001  whatever it is, the log must have it before the process is gone
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _work(send: Send) -> None:
    assignment = msgspec.json.decode(sys.stdin.buffer.readline(), type=Assignment)
    commands: queue.Queue[Command | None] = queue.Queue()
    threading.Thread(target=_listen, args=(commands,), daemon=True).start()
    threading.Thread(target=_beat, args=(send,), daemon=True).start()
    # An orphan of a killed run may still be writing here for a moment: its successor waits until it is gone.
    directory = Path(assignment.directory)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / "worker.lock", timeout=LOCK_SECONDS):
        serve(assignment, commands.get, send)


def _listen(commands: queue.Queue[Command | None]) -> None:
    for line in sys.stdin.buffer:
        if line == b"\n":  # an orderly end
            commands.put(None)
        else:
            commands.put(decode_command.decode(line))
    os._exit(1)


def _beat(send: Send) -> None:
    pause = threading.Event()
    while not pause.wait(BEAT_SECONDS):
        send(Beat())


if __name__ == "__main__":
    main()
