"""A storm of kills: a server's queue, whose supervisor is killed again and again while runs go on.

    python -m support.queue_storm DIRECTORY KILLS SEED RUNS

Supervisors are forked from a process that has imported everything, so that a kill costs milliseconds. Half of them die
by SIGKILL after a random time, half on a drawn call of what changes anything, just before or just after it. Each
accepts what is not yet accepted and looks after everything, as a server does; there are RUNS at least, and more as long
as nobody was killed often enough. Prints what is left at the end as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from oneseek.config.sources import Resolved
from oneseek.events import EpochCommitted, RunFinished, RunQueued, RunResumed
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.runs import describe
from oneseek.runs.queue import Supervisor
from oneseek.runs.recorder import Recorder
from oneseek.state.database import Database
from oneseek.state.queue import Queue
from support.runs import Town

EPOCHS = 2


def storm(town: Town, kills: int, seed: int, wanted: int) -> dict[str, Any]:
    """Supervisors until `kills` of them were killed and `wanted` runs are over; what went wrong."""
    dice = random.Random(seed)
    killed, wrong = 0, set[str]()
    deadline = time.monotonic() + 250
    while True:
        trap = _trap(dice) if killed < kills and dice.random() < 0.5 else None
        child = os.fork()
        if child == 0:
            _supervise(town, wanted, trap)
        if killed < kills:
            _wait(child, 5.0 if trap else dice.uniform(0.01, 0.6))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        wrong |= _doubled(town)
        if not os.WIFSIGNALED(status):
            if killed >= kills:
                break
            wanted += 1
        if time.monotonic() > deadline:
            wrong.add("it takes too long")
            break
    return {"killed": killed, "wrong": sorted(wrong | _faults(town)), "complete": len(_queued(town))}


def _supervise(town: Town, wanted: int, trap: Callable[[], None] | None) -> None:
    """What a server does, until all runs are over; with a trap, it dies at that call."""
    signal.alarm(120)
    if trap:
        trap()
    with closing(Database.open(town.home.database)) as database, ThreadPoolExecutor(1) as work:
        runs = Supervisor(
            town.home, Queue(database), environment=os.environ, devices=("cpu",), engine="scripted", work=work
        )
        asked = Resolved(config=town.config(training__num_epochs=EPOCHS), origins={}, problems=())
        while True:
            runs.turn()
            if len(_queued(town)) < wanted:
                runs.submit(asked)
            elif not runs.places():
                os._exit(0)
            time.sleep(0.02)


def _wait(child: int, seconds: float) -> None:
    """Until it has died by itself, but no longer than that."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        time.sleep(0.01)


def _trap(dice: random.Random) -> Callable[[], None]:
    """Lets the process die at a drawn call, the first or the second of its kind, just before or just after it."""
    place, name = dice.choice(
        [(Queue, "add"), (Queue, "begun"), (Queue, "remove"), (Recorder, "record"), (subprocess, "Popen")]
    )
    call, before = dice.choice([1, 2]), dice.random() < 0.5

    def set_trap() -> None:
        function, count = getattr(place, name), 0

        def trapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs)
            if count == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(place, name, trapped)

    return set_trap


def _queued(town: Town) -> list[RunDirectory]:
    """The runs that were ever queued, in that order; others were cut off before, and nobody was told of them."""
    found = []
    for path in town.results.runs.glob("*/journal.jsonl"):
        at = [record.at for record in read(path).records if isinstance(record.event, RunQueued)]
        if at:
            found.append((at[0], path.parent))
    return [RunDirectory(path) for _, path in sorted(found)]


def _doubled(town: Town) -> set[str]:
    """Runs that two processes have at this moment."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    having = [part for command in commands if "resume" in command for part in command if str(town.results.runs) in part]
    return {f"{run} has two processes" for run in having if having.count(run) > 1}


def _faults(town: Town) -> set[str]:
    """What is wrong when all is over: each run was trained once, to its end, after those before it in the queue."""
    wrong, before = set(), ""
    for directory in _queued(town):
        records = read(directory.journal).records
        resumed = [record.at for record in records if isinstance(record.event, RunResumed)]
        finished = [record.at for record in records if isinstance(record.event, RunFinished)]
        epochs = [record.event.epoch for record in records if isinstance(record.event, EpochCommitted)]
        status, log = describe(directory).status, town.home.run_log(directory.run_id).read_text()
        if (len(resumed), len(finished), epochs, status) != (1, 1, [1, 2], "certified") or "Error" in log:
            wrong.add(f"{directory.run_id} is {status}, resumed {resumed}, epochs {epochs}: {log}")
        elif resumed[0] < before:
            wrong.add(f"{directory.run_id} began before the one before it had ended")
        before = max([before, *finished])
    return wrong


def main() -> None:
    town = Town(Path(sys.argv[1]))
    town.add_model("alfa-1b", {"step_seconds": 0.02})
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(20)]
    town.dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Database.open(town.home.database).close()
    sys.stdout.write(json.dumps(storm(town, *map(int, sys.argv[2:5]))))


if __name__ == "__main__":
    main()
