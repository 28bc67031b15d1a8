"""What takes a processor for long, done in processes of its own: the server answers others meanwhile."""

from __future__ import annotations

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

Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Job:
    who: str
    function: Callable[[], Any]
    answer: Future[Any] = field(default_factory=Future)


class Work(Executor):
    """Processes that do one thing after the other, started when they are needed. They have the server's environment:
    what they check and verify depends on it.

    Of one who asks (`ASKING`), `share` things are done at once, the next when one of them is done: however many there
    are, others find a process that is free.

    One that is killed takes the others with it, and what they were at is lost: that is a Failed with a fix, and the
    next thing is done by new ones. What needs more than `memory` bytes is a Failed too: some hundred bytes of Parquet
    can stand for gigabytes of rows.
    """

    def __init__(self, processes: int = PROCESSES, share: int = SHARE, memory: int | None = None) -> None:
        self._processes = processes
        self._memory = memory or max(LEAST_MEMORY, psutil.virtual_memory().total // 4)
        self._share = share
        self._sharing = threading.Lock()
        self._given = Counter[str]()  # to the processes, by who asked
        self._waiting: defaultdict[str, deque[_Job]] = defaultdict(deque)
        self._renewing = threading.Lock()
        self._pool = self._new_pool()

    def submit(self, fn: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        """`fn` and everything with it must be picklable, and so must what it returns or raises."""
        job = _Job(ASKING.get(), partial(_carry_out, self._memory, fn, *args, **kwargs))
        job.answer.set_running_or_notify_cancel()  # what another process may have begun can't be taken back
        with self._sharing:
            if job.who and self._given[job.who] >= self._share:
                self._waiting[job.who].append(job)
                return job.answer
            self._given[job.who] += 1
        self._give(job)
        return job.answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once they have done everything; with `cancel_futures` at once, in the middle of anything:
        then nobody waits for it any more."""
        with self._sharing:
            never_begun = [job for waiting in self._waiting.values() for job in waiting]
            self._waiting.clear()
        for job in never_begun:
            job.answer.set_exception(_lost())
        with self._renewing:
            if cancel_futures:
                for process in list((self._pool._processes or {}).values()):
                    process.kill()
            self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _give(self, job: _Job) -> None:
        with self._renewing:
            try:
                inner = self._pool.submit(job.function)
            except BrokenProcessPool:
                self._pool = self._new_pool()
                inner = self._pool.submit(job.function)
        inner.add_done_callback(lambda done: self._take_back(job, done))

    def _take_back(self, job: _Job, done: Future[Any]) -> None:
        _pass_on(done, job.answer)
        with self._sharing:
            if not self._waiting[job.who]:
                del self._waiting[job.who]
                self._given[job.who] -= 1
                return
            following = self._waiting[job.who].popleft()
        # In another thread: this is one of the pool, which may hold the lock that is needed to submit.
        threading.Thread(target=self._give, args=(following,), name="work", daemon=True).start()

    def _new_pool(self) -> ProcessPoolExecutor:
        spawning = multiprocessing.get_context("spawn")  # a fork would copy locks that threads here hold just now
        return ProcessPoolExecutor(self._processes, spawning, _begin, (self._memory,))


def _pass_on(done: Future[Answer], answer: Future[Answer]) -> None:
    error = None if done.cancelled() else done.exception()
    if done.cancelled() or isinstance(error, BrokenProcessPool):
        answer.set_exception(_lost())
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


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
