"""A storm of kills over databases: writers that put runs into one queue, each killed in the middle of it.

    python -m support.state_storm DIRECTORY KILLS SEED

Writers are forked from a process that has imported everything; often two write at once. Each tells, through a pipe, of
every run whose `add` has returned. A third dies while it opens the database, the others some moments after they have
told of a drawn number of runs: so a busy machine makes the storm slower, not weaker. After each death the database is
opened: it must be whole, and hold all that was ever told, with no hole in the order. Prints what is wrong.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import alembic.command  # noqa: F401  so that the writers need not import it
from alembic.runtime import migration  # noqa: F401

from oneseek.errors import OneSeekError
from oneseek.state.database import Database
from oneseek.state.queue import Queue

PER_DATABASE = 8  # kills, before another one is begun: beginnings are killed too
OPENING = 0.12  # seconds that opening takes at most, where the tables have to be made
ADDING = 0.004  # seconds that an `add` or two take
MOST = 12  # runs that a writer tells of before it dies


def storm(root: Path, kills: int, seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    killed = acknowledged = 0
    wrong: list[str] = []
    path, told = root / "0" / "oneseek.db", set[str]()
    while killed < kills and not wrong:
        if killed % PER_DATABASE == 0:
            acknowledged += len(told)
            path, told = root / str(killed) / "oneseek.db", set()
        reading, writing = os.pipe()
        writers = [_fork(dice, path, f"{killed}-{n}", writing) for n in range(dice.choice((1, 2)))]
        os.close(writing)
        with open(reading, encoding="ascii") as pipe:  # noqa: PTH123  a descriptor has no path
            told |= {line.rstrip("\n") for line in pipe}
        for writer in writers:
            _, status = os.waitpid(writer, 0)
            if not os.WIFSIGNALED(status):
                wrong.append(f"a writer ended by itself, with {os.WEXITSTATUS(status)}")
        killed += 1
        wrong += _look(path, told)
    return {"killed": killed, "told": acknowledged + len(told), "wrong": wrong}


def _look(path: Path, told: set[str]) -> list[str]:
    """What is wrong with it."""
    try:
        with closing(Database.open(path)) as database:
            entries = Queue(database).entries()
    except OneSeekError as error:
        return [str(error)]
    with closing(sqlite3.connect(path)) as connection:
        check = connection.execute("PRAGMA integrity_check").fetchall()
    lost = told - {entry.run_id for entry in entries}
    return (
        [f"{path}: {run_id} is lost" for run_id in lost]
        + [f"{path}: {fault}" for (fault,) in check if fault != "ok"]
        + ["the order has holes"] * ([entry.position for entry in entries] != [*range(len(entries))])
    )


def _fork(dice: random.Random, path: Path, name: str, pipe: int) -> int:
    """A writer that will die."""
    first = dice.choice((0, dice.randrange(1, MOST), dice.randrange(1, MOST)))
    delay = 0.0001 + dice.uniform(0, ADDING if first else OPENING)
    child = os.fork()
    if child == 0:
        try:
            _write(path, name, first, delay, pipe)
        except BaseException as error:  # noqa: BLE001  whatever it is, the parent must hear of it
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(3)
    return child


def _write(path: Path, name: str, first: int, delay: float, pipe: int) -> None:
    """Begin to die with the run of number `first`; 0 is before there is any."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process like SIGKILL: nothing is tidied up
    queue: Queue | None = None
    for number in range(10_000):
        if number == first:
            signal.setitimer(signal.ITIMER_REAL, delay)
        queue = queue or Queue(Database.open(path))
        queue.add(f"run-{name}-{number}", "cpu")
        os.write(pipe, f"run-{name}-{number}\n".encode())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(storm(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
