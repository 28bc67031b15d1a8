"""Runs as a server has them: accepted here, queued for a device, each trained by a process of its own.

The server only starts, signals and finds these processes again; killing it hurts none of them. A run is queued by a
record in its journal first and by a row in the database then, and leaves in the same order: whatever was cut off
between the two, `turn` puts right.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

import msgspec
import psutil

from oneseek.config.parse import ConfigProblem
from oneseek.config.schema import TrainingConfig
from oneseek.config.sources import Resolved
from oneseek.datasets.store import is_kept
from oneseek.engine.interface import EngineName
from oneseek.errors import ConfigError, JournalDamaged, OneSeekError, RunError, RunUnknown, StorageError
from oneseek.events import AnyEvent, RunFailed, RunFinished, RunQueued, RunStopped
from oneseek.files.durable import make_directory, storage_errors
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read
from oneseek.names import is_run_id
from oneseek.preflight.finding import Finding, wire
from oneseek.runs import stopping
from oneseek.runs.devices import is_busy, seeing
from oneseek.runs.find import KnownRun, describe, engine_of
from oneseek.runs.process import Process, written
from oneseek.runs.recorder import Recorder, is_running, nobody
from oneseek.runs.submit import submit
from oneseek.state.queue import Entry, Queue

PATIENCE: Final = 10.0
"""Seconds from asking a process to end to killing it and all that it started."""

ACTIVE: Final = ("queued", "preparing", "training", "stopping")
"""What a run is as long as it goes on."""

HALTED: Final = ("stopped", "interrupted", "failed")
"""What a run is that can be resumed."""

_log = logging.getLogger("oneseek.queue")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run is: `position` among those that wait for its device, 0 being next, None for one that waits no more;
    `pid` of the process that trains it."""

    run_id: str
    device: str
    position: int | None
    status: str
    pid: int | None


class Accepted(Place, frozen=True, kw_only=True):
    """A run that was accepted just now. `warnings` refused nothing."""

    version: str
    warnings: tuple[Finding, ...]

    def wire(self) -> dict[str, Any]:
        return {**msgspec.to_builtins(self), "warnings": list(map(wire, self.warnings))}


class Supervisor:
    """The queue of every device, and the processes of the runs. Any number of threads may use it; nothing in it waits
    for a run, but `resume` for one that is just ending."""

    def __init__(
        self,
        home: Home,
        queue: Queue,
        *,
        environment: Mapping[str, str],
        devices: Sequence[str],
        engine: EngineName = "torch",
        work: Executor,
    ) -> None:
        """environment: what the runs' processes get. work: where requests are judged, which takes a while."""
        self.devices = tuple(devices)
        self._home = Home(home.root.resolve(), home.models.resolve(), home.cache)
        self._queue = queue
        self._environment = environment
        self._engine = engine
        self._work = work
        self._lock = threading.RLock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped: set[str] = set()
        self._told_to_end: list[tuple[psutil.Process, float]] = []
        self._unattended: dict[str, str] = {}
        self._last: dict[str, tuple[tuple[int, int], AnyEvent | None]] = {}

    # -- what is asked of it ---------------------------------------------------------------------------------------

    def submit(self, resolved: Resolved, device: str | None = None) -> Accepted:
        """Accept a run and put it at the end of a device's queue: of the one with the shortest unless it is named.

        Raises:
            PreflightError: with all findings, where one of them is an error. Nothing was written.
            ConfigError: there is no such device, or the run would not be where this server looks for it.
        """
        where = self._device(device)
        output = resolved.config.output.directory
        if output is not None and Path(output).resolve() != self._home.models:
            raise ConfigError(
                f"output.directory is {output!r}; the runs of a server are in its own models directory.",
                "Leave output.directory away.",
            )
        run_id, version, warnings = self._work.submit(
            _accept, resolved.config, self._home, resolved.problems, self._engine, where
        ).result()
        place = self._enqueue(self.find(run_id), where)
        return Accepted(**msgspec.structs.asdict(place), version=version, warnings=warnings)

    def resume(self, run_id: str, device: str | None = None) -> Place:
        """Let a run that is stopped, interrupted or failed wait for its turn. Whether what it was started with is still
        there is looked at then, and said in its log.

        Raises:
            RunUnknown: there is none.
            RunError: it is complete, running, waiting already, or trained outside.
            JournalDamaged: its journal is not what was written.
            ConfigError: there is no such device.
        """
        directory, where = self.find(run_id), self._device(device)
        self._await_end(directory)
        with self._lock:
            if self._is_taken(directory):
                raise RunError(f"{run_id} is running already.", "Stop it first.")
            known = describe(directory)
            if known.status in ("completed", "certified"):
                raise RunError(f"{run_id} is complete.", "Start a new run.")
            with Recorder.reopen(directory, nobody) as run:
                engine_of(run.state, "resumed")
                if run.state.status == "queued":
                    raise RunError(f"{run_id} waits for its turn already.", "See it with GET /api/queue.")
                if not run.state.over:
                    run.record(RunQueued(device=where))
            return self._enqueue(directory, where)

    def stop(self, run_id: str, when: Literal["after-epoch", "now", "kill"]) -> None:
        """Stop a run: after the epoch that it is in, at once, or by ending its process, which is killed with all that
        it started where it has not ended after PATIENCE. One that waits leaves the queue. All of them can be resumed.

        Raises:
            RunUnknown: there is none.
            RunError: it neither runs nor waits here.
        """
        directory = self.find(run_id)
        with self._lock:
            entry = self._entry(run_id)
            if entry and entry.pid is None and not self._has_process(entry):
                self.dequeue(run_id)
                return
            process = self._process(directory, entry)
            if when != "kill" and (process is None or is_running(directory)):
                stopping.stop(directory, now=when == "now")
                return
            if process is None:
                raise RunError(f"{run_id} has no process here that could be ended.", "See what it is: GET /api/queue.")
            # Asked to stop before it has taken the run, too: a request would be forgotten then.
            self._stopped.add(run_id)
            with suppress(psutil.NoSuchProcess):
                process.terminate()
            self._told_to_end.append((process, time.monotonic() + PATIENCE))

    def move(self, run_id: str, position: int) -> Place:
        """Let a run that waits be next on its device (0), or later; past the end is last.

        Raises:
            RunUnknown: it is not in the queue.
            RunError: it waits no more.
        """
        return self._place(self._queue.move(run_id, position))

    def dequeue(self, run_id: str) -> None:
        """Take a run that waits out of the queue; it is stopped then.

        Raises:
            RunUnknown: it is not in the queue.
            RunError: it waits no more.
        """
        with self._lock:
            entry = self._entry(run_id)
            if entry is None:
                raise RunUnknown(f"{run_id} is not in the queue.", "See what is with GET /api/queue.")
            if entry.pid is not None or self._has_process(entry):
                raise RunError(f"{run_id} waits no more: it is running.", "Stop it.")
            self._leave(entry)

    def places(self) -> tuple[Place, ...]:
        """Everything that runs or waits, by device: first what runs, then what waits, in order."""
        return tuple(map(self._place, self._queue.entries()))

    def find(self, run_id: str) -> RunDirectory:
        """The run with an id; a path is none.

        Raises:
            RunUnknown: there is no such run.
        """
        if is_run_id(run_id) and (directory := self._directory(run_id)).journal.exists():
            return directory
        raise RunUnknown(f"There is no run {run_id[:80]!r}.", "See the page Runs, or GET /api/runs.")

    def active(self) -> list[KnownRun]:
        """The runs that go on, whoever started them, the newest first."""
        known = sorted(map(describe, self._unfinished()), key=lambda run: run.run_id, reverse=True)
        return [run for run in known if run.status in ACTIVE]

    # -- what it does by itself ------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Look after everything once: to be called again and again, about every second. Processes that have ended leave
        the queue, runs that were queued and forgotten join it, and each device that is free gets its next run.

        Raises:
            StorageError: the database can't be used, or the home is away.
            OSError: no process can be started.
        """
        with self._lock:
            if not self._home.root.is_dir():  # no run of it has ended, and no other home is made in its place
                raise StorageError(f"The home {self._home.root} is not there any more.", "Put it back.")
            self._kill_the_deaf()
            taken = set()
            for entry in self._queue.entries():
                with self._apart(entry.run_id):
                    if self._has_process(entry):
                        taken.add(entry.device)
                    elif entry.device not in self.devices:
                        self._queue.remove(entry.run_id)  # forgotten, as below: it joins another device's queue
            self._find_forgotten()
            for device in self.devices:
                if device not in taken and not is_busy(self._home, device):
                    self._start_next(device)

    @contextmanager
    def _apart(self, run_id: str) -> Iterator[None]:
        """What fails of one run keeps no other waiting. It is said once, and tried again in the next turn."""
        try:
            yield
        except (OneSeekError, OSError) as error:
            if self._unattended.get(run_id) != str(error):
                _log.error("unattended", extra={"run_id": run_id, "problem": str(error)})
            self._unattended[run_id] = str(error)
        else:
            self._unattended.pop(run_id, None)

    def _has_process(self, entry: Entry) -> bool:
        """Whether a process of ours has the run; else the entry is removed, unless the run still waits."""
        directory = self._directory(entry.run_id)
        if (child := self._children.get(entry.run_id)) and child.poll() is not None:
            del self._children[entry.run_id]
        if entry.pid is None and _is_marked(self._home.run_log(entry.run_id)):
            # A server was killed when it had just started it. What the process is, it says itself in a moment.
            if trainer := _trainer(directory):
                self._queue.begun(entry.run_id, trainer.pid, trainer.create_time())
            return True
        if entry.pid is not None and Process(entry.pid, entry.started or 0.0).living():
            return True
        if entry.pid is not None and (child := self._children.pop(entry.run_id, None)):
            child.wait()  # it has ended since it was looked at
        if is_running(directory) or (entry.pid is None and not self._waits(directory)):
            self._queue.remove(entry.run_id)  # somebody took it up at a terminal
        elif entry.pid is not None:
            self._leave(entry)
        return False

    def _leave(self, entry: Entry) -> None:
        """Out of the queue. A process that ended before it had the run leaves the journal saying that it waits: then it
        failed, unless it was stopped."""
        directory = self._directory(entry.run_id)
        if isinstance(self._last_event(directory), RunQueued):
            wanted = entry.pid is None or entry.run_id in self._stopped
            log = f"Its log says why (GET /api/runs/{entry.run_id}/log). Mend that, then resume it."
            with Recorder.reopen(directory, nobody) as run:
                run.record(RunStopped() if wanted else RunFailed(problem="Its process ended before it began.", fix=log))
        self._stopped.discard(entry.run_id)
        self._queue.remove(entry.run_id)

    def _find_forgotten(self) -> None:
        """Runs whose journal says that they wait: a server was killed before it had put them into the queue."""
        known = {entry.run_id for entry in self._queue.entries()}
        for directory in self._unfinished():
            if directory.run_id in known:
                continue
            event = None
            with self._apart(directory.run_id):
                event = None if is_running(directory) else self._last_event(directory)
            if isinstance(event, RunQueued):
                self._queue.add(directory.run_id, event.device if event.device in self.devices else self.devices[0])

    def _start_next(self, device: str) -> None:
        waiting = (entry for entry in self._queue.entries() if entry.device == device and entry.position == 0)
        if entry := next(waiting, None):
            self._start(entry)

    def _start(self, entry: Entry) -> None:
        directory, path = self._directory(entry.run_id), self._home.run_log(entry.run_id)
        with storage_errors(path):
            make_directory(path.parent)
            log = path.open("ab")
        with log:
            if not _mark(log):
                return
            self._children[entry.run_id] = child = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "oneseek", "resume", str(directory.root)),
                    *("--home", str(self._home.root), "--models-dir", str(self._home.models)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=seeing(entry.device, self._environment),
                start_new_session=True,
            )
        process = Process.of(child.pid)
        self._queue.begun(entry.run_id, process.pid, process.started)

    def _kill_the_deaf(self) -> None:
        """Processes that were told to end and have not."""
        now = time.monotonic()
        for process, deadline in tuple(self._told_to_end):
            if not process.is_running() or now >= deadline:
                _kill(process)
                self._told_to_end.remove((process, deadline))

    def _await_end(self, directory: RunDirectory) -> None:
        """A process that has said how its run ended has that run for another moment."""
        deadline = time.monotonic() + PATIENCE
        while describe(directory).status in HALTED and time.monotonic() < deadline:
            with self._lock:
                if not self._is_taken(directory):
                    return
            time.sleep(0.05)

    def _is_taken(self, directory: RunDirectory) -> bool:
        entry = self._entry(directory.run_id)
        return self._has_process(entry) if entry else is_running(directory)

    # -- what it knows ---------------------------------------------------------------------------------------------

    def _enqueue(self, directory: RunDirectory, device: str) -> Place:
        """Put it at the end, unless `turn` was quicker: then it may even have ended by now. Where the database can't be
        written, `turn` does it as soon as it can: the journal says that the run waits."""
        with self._lock:
            try:
                entry = self._entry(directory.run_id)
                if entry is None and self._waits(directory):
                    entry = self._queue.add(directory.run_id, device)
            except StorageError as error:
                if not isinstance(self._last_event(directory), RunQueued):
                    raise
                _log.error("not yet in the queue", extra={"run_id": directory.run_id, "problem": str(error)})
                entry = None
        if entry:
            return self._place(entry)
        return Place(run_id=directory.run_id, device=device, position=None, status=describe(directory).status, pid=None)

    def _entry(self, run_id: str) -> Entry | None:
        return next((entry for entry in self._queue.entries() if entry.run_id == run_id), None)

    def _place(self, entry: Entry) -> Place:
        return Place(
            run_id=entry.run_id,
            device=entry.device,
            position=entry.position,
            status=describe(self._directory(entry.run_id)).status,
            pid=entry.pid,
        )

    def _device(self, wanted: str | None) -> str:
        if wanted is None:
            taken = [entry.device for entry in self._queue.entries()]
            return min(self.devices, key=taken.count)
        if wanted not in self.devices:
            raise ConfigError(f"There is no device {wanted[:80]!r} here.", f"Name one of: {', '.join(self.devices)}.")
        return wanted

    def _directory(self, run_id: str) -> RunDirectory:
        return Results(self._home.models).run(run_id)

    def _unfinished(self) -> Iterator[RunDirectory]:
        """The runs of which there is a `work/`."""
        for work in sorted(Results(self._home.models).runs.glob("*/work")):
            if is_run_id(work.parent.name) and (directory := RunDirectory(work.parent)).journal.exists():
                yield directory

    def _waits(self, directory: RunDirectory) -> bool:
        """Whether a run that no process has is to be taken up: it waits for its turn, or only its files are missing."""
        event = self._last_event(directory)
        return isinstance(event, RunQueued) or (isinstance(event, RunFinished) and directory.work.exists())

    def _last_event(self, directory: RunDirectory) -> AnyEvent | None:
        """The last record of a journal, which is read again only where it has changed; None where it can't be read."""
        try:
            found = directory.journal.lstat()
            seen = found.st_size, found.st_mtime_ns
            if self._last.get(directory.run_id, (None, None))[0] != seen:
                records = read(directory.journal).records
                self._last[directory.run_id] = seen, records[-1].event if records else None
        except (FileNotFoundError, RunError, JournalDamaged):
            return None
        return self._last[directory.run_id][1]

    def _process(self, directory: RunDirectory, entry: Entry | None) -> psutil.Process | None:
        """The process that trains a run. While a run is accepted, or resumed, it is this server that has it, or its
        child: neither is ever signalled."""
        if entry and entry.pid is not None:
            return Process(entry.pid, entry.started or 0.0).living()
        found = _trainer(directory)
        with suppress(psutil.NoSuchProcess):
            if found and os.getpid() not in (found.pid, found.ppid()):
                return found
        return None


def _accept(
    config: TrainingConfig, home: Home, problems: Sequence[ConfigProblem], engine: EngineName, device: str
) -> tuple[str, str, tuple[Finding, ...]]:
    """Accept a run that waits for its turn from its second record on; its id, its version and what it was warned of."""
    warnings: list[Finding] = []
    with submit(config, home, problems=problems, warn=warnings.extend, engine=engine) as run:
        used = run.state.accepted.dataset
        if not all(is_kept(home, Path(path)) for path in (used.path, used.validation_path) if path):
            run.record(RunStopped())
            raise RunError(f"The dataset of {run.directory.run_id} was removed just now.", "Upload it, then try again.")
        run.record(RunQueued(device=device))
        return run.directory.run_id, run.state.accepted.version, tuple(warnings)


def _trainer(directory: RunDirectory) -> psutil.Process | None:
    """The process that a run's own file names, where it has the run: a file that came from somewhere else may name any
    process of this machine, but only the one that has the run has its lock open."""
    process = written(directory.process)
    found = process.living() if process else None
    try:
        return found if found and str(directory.lock) in (file.path for file in found.open_files()) else None
    except psutil.Error:  # it has ended just now, or is another user's
        return None


def _kill(process: psutil.Process) -> None:
    """Kill a process and, where it leads a group as those do that were started here, all that it started."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        if sys.platform != "win32" and process.is_running() and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


# A process that is started holds a lock on its log from the instant at which it exists, since what it writes to is the
# open file that was locked: however early the server is killed, the next one starts no second process for the run.


def _mark(log: BinaryIO) -> bool:
    """Lock a log that is open; whoever inherits it keeps the lock. False where another process has it."""
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without flock: the run's own lock lets only one process train it
            return True
    return True


def _is_marked(path: Path) -> bool:
    """Whether a process has the lock on this log."""
    if sys.platform != "win32":
        import fcntl

        try:
            with path.open("rb") as log:
                fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there is none, or no flock
            return False
    return False
