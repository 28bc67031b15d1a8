"""A process that rehearses one model's training, and leaves nothing behind.

It is started and told its assignment as a worker is. Whoever started it owns the directory that it writes to.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from oneseek import child
from oneseek.engine.create import create
from oneseek.engine.interface import Assignment
from oneseek.engine.rehearsal import Measured, Stage
from oneseek.engine.rehearsal import rehearse as rehearse_here
from oneseek.executors.processes import KILLED, cause_of_death
from oneseek.executors.worker import Failure, encode, failure


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the process is told; the directory of the assignment is one to throw away."""

    assignment: Assignment
    learning_rate: float


class Entered(msgspec.Struct, frozen=True, tag=True):
    """The rehearsal has come to a stage."""

    stage: Stage


_decode: msgspec.json.Decoder[Entered | Measured | Failure] = msgspec.json.Decoder(Entered | Measured | Failure)


def rehearse(assignment: Assignment, learning_rate: float, enter: Callable[[Stage], None]) -> Measured | Failure:
    """Rehearse an assignment in a process and a directory of its own, both of which are gone when this returns or
    raises; what it took, or why it failed.

    enter: told each stage as it begins. What it raises ends the rehearsal.
    """
    with tempfile.TemporaryDirectory(prefix="oneseek-rehearsal-") as scratch, tempfile.TemporaryFile() as log:
        directory = Path(scratch) / "worker"
        directory.mkdir()
        order = Order(
            assignment=msgspec.structs.replace(assignment, directory=str(directory)), learning_rate=learning_rate
        )
        with child.running("oneseek.executors.rehearsing", log, assignment.threads) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            stage: Stage = "loading"
            with suppress(BrokenPipeError):  # it has died, which the end of its output says
                process.stdin.write(encode(order) + b"\n")
                process.stdin.flush()
            for line in process.stdout:
                message = _decode.decode(line)
                if not isinstance(message, Entered):
                    return message
                stage = message.stage
                enter(stage)
            return _lost(process.wait(), stage, log)


def _lost(code: int, stage: Stage, log: IO[bytes]) -> Failure:
    """The process ended without a word."""
    log.seek(0)
    problem, fix = cause_of_death(code, log.read().decode(errors="replace"))
    kind = "out_of_memory" if code in KILLED else "crashed"
    return Failure(kind=kind, problem=f"While {stage}: {problem}", fix=fix)


def main() -> None:
    """The process. It ends by os._exit: a thread that waits for input would hold up any other end."""
    messages = child.begin()
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    threading.Thread(target=_end_with_input, daemon=True).start()

    def send(message: Entered | Measured | Failure) -> None:
        messages.write(encode(message) + b"\n")

    try:
        send(rehearse_here(create(order.assignment), order.learning_rate, lambda stage: send(Entered(stage))))
    except Exception as error:  # noqa: BLE001  whatever went wrong, who asked is told
        send(failure(error))
    sys.stderr.flush()
    os._exit(0)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
