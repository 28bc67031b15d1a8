"""What takes a processor for long, done in processes of its own: the server answers others meanwhile."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psutil

from oneseek.errors import Failed
from oneseek.names import size
from oneseek.server import log

PROCESSES = 3
SHARE = 2
"""Processes that are kept busy by one who asks; the others are for everybody else."""

LEAST_MEMORY = 2 << 30
"""Bytes that each process may have on the smallest machine; else a quarter of what there is."""

ASKING: ContextVar[str] = ContextVar("ASKING", default="")
"""Who asks for what is done in this context; nobody is held back where that is the server itself."""

_log = logging.getLogger("oneseek.server")

Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Job:
    who: str
    function: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class Work(Executor):
    """Processes that do one thing after the other, started when they are needed. They have the server's environment:
    what they check and verify depends on it. A thing goes to the first process that is free, so who asks for one after
    the other has them done where the last was: what that process remembers is of use.

    Of one who asks (`ASKING`), `share` things are done at once, the next when one of them is done: however many there
    are, others find a process that is free. What was not begun can be cancelled.

    What a process was at that is killed is lost: that is a Failed with a fix, and the next thing is done by a new one.
    What needs more than `memory` bytes is a Failed too: some hundred bytes of Parquet can stand for gigabytes of rows.
    """

    def __init__(self, processes: int = PROCESSES, share: int = SHARE, memory: int | None = None) -> None:
        self._memory = memory or max(LEAST_MEMORY, psutil.virtual_memory().total // 4)
        self._share = share
        self._changing = threading.Condition()
        self._over = False
        self._given = Counter[str]()  # what is to be done now, by who asked
        self._waiting: defaultdict[str, deque[_Job]] = defaultdict(deque)  # until something else of theirs is done
        self._next = deque[_Job]()  # until a process is free
        self._free = set(range(processes))
        self._pools: list[ProcessPoolExecutor | None] = [None] * processes

    def submit(self, fn: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        """`fn` and everything with it must be picklable, and so must what it returns or raises."""
        job = _Job(ASKING.get(), partial(_carry_out, self._memory, fn, *args, **kwargs))
        with self._changing:
            if self._over:
                raise RuntimeError("nothing is begun any more")
            if job.who and self._given[job.who] >= self._share:
                self._waiting[job.who].append(job)
            else:
                self._given[job.who] += 1
                self._next.append(job)
        self._begin_next()
        return job.answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once they have done everything; with `cancel_futures` at once, in the middle of anything:
        then nobody waits for it any more."""
        with self._changing:
            self._over = True
            never_begun = [job for waiting in self._waiting.values() for job in waiting]
            self._waiting.clear()
            if cancel_futures:
                never_begun += self._next
                self._next.clear()
        for job in never_begun:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(_lost())
        with self._changing:
            while wait and not cancel_futures and (self._next or len(self._free) < len(self._pools)):
                self._changing.wait()
            pools = [pool for pool in self._pools if pool is not None]
        for pool in pools:
            if cancel_futures:
                for process in list((pool._processes or {}).values()):
                    process.kill()
            pool.shutdown(wait, cancel_futures=cancel_futures)

    def _begin_next(self) -> None:
        """Give what is next to the processes that are free."""
        while True:
            with self._changing:
                if not self._next or not self._free:
                    return
                job = self._next.popleft()
                if not job.answer.set_running_or_notify_cancel():  # nobody waits for it any more
                    self._leave(job)
                    continue
                place = min(self._free)
                try:
                    inner = self._given_to(place, job)
                except (OSError, RuntimeError) as error:  # descriptors, memory or threads are used up just now
                    _log.error("no process can be started", exc_info=error)
                    self._pools[place] = None
                    job.answer.set_exception(_not_begun())
                    self._leave(job)
                    continue
                self._free.remove(place)
            inner.add_done_callback(partial(self._done, place, job))

    def _given_to(self, place: int, job: _Job) -> Future[Any]:
        pool = self._pools[place] or self._new_pool(place)
        try:
            return pool.submit(job.function)
        except BrokenProcessPool:
            return self._new_pool(place).submit(job.function)

    def _done(self, place: int, job: _Job, done: Future[Any]) -> None:
        _pass_on(done, job.answer)
        with self._changing:
            self._free.add(place)
            self._leave(job)
            self._changing.notify_all()
            more = bool(self._next)
        if more:
            # In another thread: this is one of the pool, which may hold the lock that is needed to submit.
            threading.Thread(target=self._begin_next, name="work", daemon=True).start()

    def _leave(self, job: _Job) -> None:
        """Make room for what else the same one asks for."""
        if waiting := self._waiting.get(job.who):
            self._next.append(waiting.popleft())
            if not waiting:
                del self._waiting[job.who]
            return
        self._given[job.who] -= 1
        if not self._given[job.who]:
            del self._given[job.who]

    def _new_pool(self, place: int) -> ProcessPoolExecutor:
        spawning = multiprocessing.get_context("spawn")  # a fork would copy locks that threads here hold just now
        pool = self._pools[place] = ProcessPoolExecutor(1, spawning, _begin, (self._memory,))
        return pool


def _pass_on(done: Future[Answer], answer: Future[Answer]) -> None:
    error = None if done.cancelled() else done.exception()
    if done.cancelled() or isinstance(error, BrokenProcessPool):
        answer.set_exception(_lost())
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


def _not_begun() -> Failed:
    return Failed(
        "No process can be started for it just now: the machine has no descriptors, memory or threads left.",
        "Try again in a moment; if it happens again, let less be done at once.",
    )


def _lost() -> Failed:
    return Failed(
        "The process that was at it was killed, by the system for want of memory or by somebody.",
        "Try again; if it happens again, let less be done at once or give the machine more memory.",
    )


def _carry_out(memory: int, fn: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
    try:
        return fn(*args, **kwargs)
    except MemoryError as error:
        raise Failed(
            f"That takes more than the {size(memory)} of memory that one request may have.",
            "Send less at once, in shorter rows; or do it on the command line, which has no such limit.",
        ) from error


def _begin(memory: int) -> None:
    """What each of the processes does first."""
    if sys.platform == "linux":
        import resource

        # Of its data, not of its address space: files that are only mapped are no memory that others lack.
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    log.begin("warning", os.environ)
    threading.Thread(target=_end_with_server, daemon=True).start()


def _end_with_server() -> None:
    """A signal of the kernel's when the parent dies would not do: that comes when the thread ends which started this
    process, and threads of a server come and go."""
    server = multiprocessing.parent_process()
    if server is not None:
        server.join()
        os._exit(1)
