"""A worker as a thread of this process: for tests, and for debugging a trainer."""

from __future__ import annotations

import queue
import threading

from oneseek.engine.interface import Assignment
from oneseek.executors.crew import Outbox
from oneseek.executors.worker import Command, Message, encode, serve


class _Abandoned(BaseException):
    """Unwinds a trainer that nobody waits for any more."""


class InlineWorker:
    """Same behaviour as ProcessWorker, without its isolation: a crash of the interpreter is a crash of the run."""

    def __init__(self, assignment: Assignment, outbox: Outbox) -> None:
        self._outbox = outbox
        self._abandoned = threading.Event()
        self._commands: queue.Queue[Command | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, args=(assignment,), daemon=True)
        self._thread.start()

    def send(self, command: Command) -> None:
        self._commands.put(command)

    def finish(self) -> None:
        self._commands.put(None)
        self._thread.join()

    def kill(self) -> None:
        self._abandoned.set()
        self._commands.put(None)
        self._thread.join(timeout=10)

    def cause_of_death(self) -> tuple[str, str]:
        return "Its thread has ended.", ""

    def _run(self, assignment: Assignment) -> None:
        try:
            serve(assignment, self._commands.get, self._send)
        except _Abandoned:
            pass
        finally:
            self._outbox(None)

    def _send(self, message: Message) -> None:
        if self._abandoned.is_set():
            raise _Abandoned
        self._outbox(encode(message))
