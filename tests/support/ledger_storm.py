"""A storm of kills over ledgers: writers that append to one ledger, each killed in the middle of it.

    python -m support.ledger_storm DIRECTORY KILLS SEED

Writers are forked from a process that has imported everything. Each appends batch after batch and tells, through a
pipe, which statement it was given which index for. Half of them die by a signal after a random time, half just before
or just after a drawn call of fsync or rename, or before a drawn statement of SQL that writes. Often two write at
once. After each death the ledger is opened and audited, and must hold all that was ever told. Prints what is wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from oneseek.errors import OneSeekError
from oneseek.ledger import checkpoint, store
from oneseek.ledger.audit import audit
from oneseek.ledger.checkpoint import Checkpoint
from support.ledgers import in_home, statement

PER_LEDGER = 10  # kills, before another ledger is begun: beginnings are killed too
LONGEST = 0.04  # seconds until a writer dies
CALLS = 70  # of which one is drawn
PER_WRITER = 1000  # statements: no writer lives to make as many
_WRITES = ("BEGIN", "COMMIT", "CREATE", "INSERT", "PRAGMA")


class Ledger:
    """One ledger, and what was told of it: statements by index, and checkpoints."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.told: dict[int, bytes] = {}
        self.kept: list[tuple[str, Checkpoint]] = []

    def look(self) -> list[str]:
        """What is wrong with it."""
        try:
            with closing(in_home(self.root)) as log:
                audit(log, self.kept)
                entries = log.entries(0, sys.maxsize)
                newest = checkpoint.read(log.checkpoint(), log.key)
        except OneSeekError as error:
            return [str(error)]
        self.kept.append((f"kill {len(self.kept)}", newest))
        there = dict(enumerate(map(store.unstamped, entries)))
        return [f"{self.root}: entry {index} is lost" for index, data in self.told.items() if there.get(index) != data]


def storm(root: Path, kills: int, seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    killed = told = 0
    wrong: list[str] = []
    ledger = Ledger(root / "0")
    while killed < kills and not wrong:
        if len(ledger.kept) >= PER_LEDGER:
            told += len(ledger.told)
            ledger = Ledger(root / str(killed))
        reading, writing = os.pipe()
        writers = [_fork(dice, ledger, (killed + n) * PER_WRITER, writing) for n in range(dice.choice((1, 1, 2)))]
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:  # noqa: PTH123  a descriptor has no path
            for line in pipe:
                index, number = map(int, line.split())
                ledger.told[index] = statement(number)
        for writer in writers:
            _, status = os.waitpid(writer, 0)
            killed += 1
            if not os.WIFSIGNALED(status):
                wrong.append(f"a writer ended by itself, with {os.WEXITSTATUS(status)}")
        wrong += ledger.look()
    left = root.rglob("*.tmp")
    return {
        "killed": killed,
        "told": told + len(ledger.told),
        "wrong": wrong,
        "temporary": [str(path) for path in left if path.name != "log.checkpoint.tmp"],  # the next write replaces it
    }


def _fork(dice: random.Random, ledger: Ledger, first: int, pipe: int) -> int:
    """A writer that will die."""
    delay, call, before = dice.uniform(0.001, LONGEST), dice.randrange(1, CALLS), dice.random() < 0.5
    trapped = dice.random() < 0.5
    batches = [dice.randrange(1, 4) for _ in range(PER_WRITER // 4)]
    child = os.fork()
    if child == 0:
        try:
            if trapped:
                _set_trap(call, before=before)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process like SIGKILL: nothing is tidied up
            signal.setitimer(signal.ITIMER_REAL, 20 * LONGEST if trapped else delay)
            _write(ledger.root, first, batches, pipe)
        except BaseException as error:  # noqa: BLE001  whatever it is, the parent must hear of it
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(3)
    return child


def _write(root: Path, first: int, batches: list[int], pipe: int) -> None:
    log, number = in_home(root), first
    for size in batches:
        numbers = range(number, number + size)
        logged = log.append([statement(each) for each in numbers])
        lines = [f"{each.proof.index} {number}\n" for each, number in zip(logged, numbers, strict=True)]
        os.write(pipe, "".join(lines).encode())
        number += size


def _set_trap(call: int, *, before: bool) -> None:
    """Die at the `call`-th call that makes something last."""
    count = 0

    def step(now: bool) -> None:
        if count == call and now:
            os.kill(os.getpid(), signal.SIGKILL)

    def trapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            step(before)
            result = function(*args, **kwargs)
            step(True)
            return result

        return wrapper

    def traced(sql: str) -> None:
        nonlocal count
        if sql.startswith(_WRITES):
            count += 1
            step(True)

    connect = store._connect

    def connected(path: Path, how: str) -> sqlite3.Connection:
        connection = connect(path, how)
        connection.set_trace_callback(traced)
        return connection

    os.fsync = trapped(os.fsync)
    Path.replace = trapped(Path.replace)  # type: ignore[method-assign]
    store._connect = connected


if __name__ == "__main__":
    sys.stdout.write(json.dumps(storm(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
