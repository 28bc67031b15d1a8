"""A worker in a process of its own."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from oneseek import child
from oneseek.datasets.limited import SECONDS
from oneseek.engine.interface import Assignment
from oneseek.executors.crew import Outbox
from oneseek.executors.worker import Command, encode
from oneseek.files.durable import storage_errors

KILLED = (-9, 137)
"""Exit codes of a process that was killed, by the kernel for want of memory or by somebody."""


class ProcessWorker:
    """Starts at once. Messages go to the outbox as bytes, then None when the process has ended."""

    def __init__(self, assignment: Assignment, outbox: Outbox, log: Path) -> None:
        self._log = log
        with storage_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            stderr = log.open("ab")
        with stderr:
            self._process = child.start("oneseek.executors.worker", stderr, assignment.threads)
        self._outbox = outbox
        self._write(encode(assignment))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, command: Command) -> None:
        self._write(encode(command))

    def finish(self) -> None:
        """Let it end by itself, and wait for that."""
        self._write(b"")
        self._end(wait=10)

    def kill(self) -> None:
        self._end(wait=0)

    def cause_of_death(self) -> tuple[str, str]:
        """What the operating system and the log say of a worker that has ended, and what may help."""
        problem, fix = cause_of_death(self._process.wait(), self._log.read_text(errors="replace"))
        return problem, fix or f"Its log may say more: {self._log}"

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it has died; the outbox says so

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._outbox(line)
        self._outbox(None)

    def _end(self, wait: float) -> None:
        try:
            self._process.wait(timeout=wait) if wait else self._process.kill()
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                _close(pipe)


def cause_of_death(code: int, log: str) -> tuple[str, str]:
    """What the exit code and the log of a worker's process say of its end, and what may help, if that is known."""
    if code in KILLED:
        return (
            "It was killed (exit 137); the machine may be out of memory.",
            "If it is, lower training.batch_size or data.max_length, or train fewer models at once.",
        )
    if code == -child.TIME_LIMIT_SIGNAL:
        return (
            f"Its chat template ran longer than {SECONDS:g} s on a row.",
            "Mend the base model's chat template, or select another base model.",
        )
    return f"It ended with exit code {code}.{last_words(log)}", ""


def last_words(log: str) -> str:
    """What a process that has ended said last, as a sentence to add; nothing where it said nothing."""
    last = [line for line in log.splitlines() if line.strip()][-1:]
    return f" Its last words: {last[0].strip()}" if last else ""


def _close(pipe: object) -> None:
    try:
        pipe.close()  # type: ignore[attr-defined]
    except BrokenPipeError:
        return  # what it would still have flushed was meant for a process that is gone
