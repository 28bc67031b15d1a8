"""A storm of kills: runs of the scripted engine, each killed again and again until it is complete.

    python -m support.storm DIRECTORY KILLS SEED inline|local

Children are forked from a process that has imported everything, so that a kill costs milliseconds. Half of them die by
SIGKILL after a random time, half on a drawn call of fsync or rename, just before or just after it: the instants at
which a careless write would show. One in four asks processes of its own what the models make of the rows; the others
know it, and are not killed while they only wait for that. Prints what is left at the end as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from oneseek import runs
from oneseek.events import EpochCommitted
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import begins, read
from oneseek.names import is_run_id
from oneseek.preflight.looking import ANEW
from oneseek.runs.submit import inspect
from support import asked_once
from support.runs import Town, adapters, everything

CURVES = {
    "alfa-1b": {"val_losses": [3.0, 2.0, 1.5, 1.6], "bits_per_byte": [1.5, 1.0, 0.75, 0.8], "step_seconds": 0.002},
    "beta-1b": {"val_losses": [4.0, 3.5, 3.0, 2.9], "bits_per_byte": [2.0, 1.75, 1.5, 1.4], "step_seconds": 0.002},
}
EPOCHS = 4
_children: set[str] = set()


def storm(town: Town, kills: int, seed: int, executor: str) -> dict[str, Any]:
    """Runs until `kills` children were killed; what differs from an undisturbed run, and what is left behind."""
    dice = random.Random(seed)
    train = partial(_train, town, executor)
    vars(ANEW)["judged"] = asked_once.judged
    inspect(town.config(), town.home)  # what the models make of the rows is what every child knows from here
    _grow_up(lambda: None, train)
    undisturbed = _runs(town)[0]
    expected, hashes = _published(town, undisturbed), _hashes(undisturbed)
    seconds = _seconds(train)
    killed = complete = 0
    differences: list[str] = []
    while killed < kills:
        before = {directory.run_id for directory in _runs(town)}
        anew = dice.random() < 0.25
        killed += _grow_up(*_fate(dice, seconds, partial(_ask_anew, train) if anew else train))
        new = [directory for directory in _runs(town) if directory.run_id not in before]
        if not new:
            continue  # it was killed before it was accepted
        (directory,) = new
        # One that is killed while it lets go is complete; its marks go with who resumes or certifies it.
        while runs.describe(directory).status != "completed" or directory.work.exists():
            if killed < kills:
                killed += _grow_up(*_fate(dice, seconds, partial(_resume, town, directory)))
            else:
                _grow_up(lambda: None, partial(_resume, town, directory))
        complete += 1
        commits = [r.event.epoch for r in read(directory.journal).records if isinstance(r.event, EpochCommitted)]
        same = (_published(town, directory), _hashes(directory)) == (expected, hashes)
        if not same or commits != list(range(1, EPOCHS + 1)):
            differences.append(directory.run_id)
    _grow_up(lambda: None, train)  # the next start sweeps what a killed one left
    paths = everything(town.home.models)
    return {
        "killed": killed,
        "complete": complete,
        "differences": differences,
        "temporary": sorted(path for path in paths if path.endswith(".tmp")),
        "orphans": _orphans(),
        "unfinished": sorted(path for path in paths if path.endswith((".reserved", "/work", "-before"))),
    }


def _fate(
    dice: random.Random, seconds: float, work: Callable[[], None]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """How a child will be killed: what it does to itself first, and its work."""
    if dice.random() < 0.5:
        delay = dice.uniform(0.001, seconds)
        return lambda: _set_alarm(delay), work
    return _trap(dice.randrange(1, 120), before=dice.random() < 0.5), work


def _set_alarm(delay: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, delay)


def _trap(call: int, *, before: bool) -> Callable[[], None]:
    """Die at the `call`-th fsync or rename."""

    def set_trap() -> None:
        count = 0

        def trapped(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count == call and before:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **kwargs)
                if count == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return wrapper

        os.fsync = trapped(os.fsync)
        Path.replace = trapped(Path.replace)  # type: ignore[method-assign]
        Path.rename = trapped(Path.rename)  # type: ignore[method-assign]

    return set_trap


def _grow_up(prepare: Callable[[], None], work: Callable[[], None]) -> int:
    """Fork a child that does the work; 1 if it was killed.

    Raises:
        RuntimeError: it failed in another way.
    """
    child = os.fork()
    _children.add(str(child))
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process like SIGKILL: nothing is tidied up
            prepare()
            work()
        except BaseException as error:  # noqa: BLE001  whatever it is, the parent must hear of it
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return 1
    if os.WEXITSTATUS(status):
        raise RuntimeError(f"a child ended with exit code {os.WEXITSTATUS(status)}")
    return 0


def _train(town: Town, executor: str) -> None:
    town.train(training__num_epochs=EPOCHS, execution__executor=executor)


def _ask_anew(work: Callable[[], None]) -> None:
    asked_once.forget()
    work()


def _resume(town: Town, directory: RunDirectory) -> None:
    town.resume(directory)


def _seconds(train: Callable[[], None]) -> float:
    began = time.monotonic()
    _grow_up(lambda: None, train)
    return time.monotonic() - began


def _runs(town: Town) -> list[RunDirectory]:
    found = [path.parent for path in town.results.runs.glob("*/journal.jsonl") if is_run_id(path.parent.name)]
    return [RunDirectory(path) for path in sorted(found) if begins(path / "journal.jsonl")]


def _published(town: Town, directory: RunDirectory) -> Any:
    """The bytes of everything that a run leaves for others, by model."""
    state = runs.describe(directory).state
    assert state is not None
    version = state.accepted.version
    return {
        key: (
            adapter,
            town.results.weights_file(version, key).read_bytes(),
            (town.results.versioned_adapter(version, key) / "adapter_model.safetensors").read_bytes(),
            town.results.metadata(version).exists(),
        )
        for key, adapter in adapters(directory).items()
    }


def _hashes(directory: RunDirectory) -> Any:
    return json.loads(directory.dna.read_text())["hashes"]


def _orphans() -> list[int]:
    """Workers of our children that are still there 10 s after the last of them is gone."""
    deadline = time.monotonic() + 10
    while alive := [p.pid for p in psutil.process_iter(["cmdline"]) if _children & set((p.info["cmdline"] or [])[-1:])]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    return alive


def main() -> None:
    root, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    town = Town(root)
    for name, curve in CURVES.items():
        town.add_model(name, curve)
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}."} for n in range(20)]
    town.dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(json.dumps(storm(town, kills, seed, sys.argv[4])))


if __name__ == "__main__":
    main()
