"""What takes a processor for long, done in processes of its own: the server answers others meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from oneseek.errors import Failed
from oneseek.server import log

PROCESSES = 2

Answer = TypeVar("Answer")


class Work(Executor):
    """Processes that do one thing after the other, started when they are needed. They have the server's environment:
    what they check and verify depends on it.

    One that is killed takes the others with it, and what they were at is lost: that is a Failed with a fix, and the
    next thing is done by new ones.
    """

    def __init__(self, processes: int = PROCESSES) -> None:
        self._processes = processes
        self._renewing = threading.Lock()
        self._pool = self._new_pool()

    def submit(self, fn: Callable[..., Answer], /, *args: Any, **kwargs: Any) -> Future[Answer]:
        """`fn` and everything with it must be picklable, and so must what it returns or raises."""
        answer: Future[Answer] = Future()
        answer.set_running_or_notify_cancel()  # what another process may have begun can't be taken back
        with self._renewing:
            try:
                inner = self._pool.submit(fn, *args, **kwargs)
            except BrokenProcessPool:
                self._pool = self._new_pool()
                inner = self._pool.submit(fn, *args, **kwargs)
        inner.add_done_callback(lambda done: _pass_on(done, answer))
        return answer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes once they have done everything; with `cancel_futures` at once, in the middle of anything:
        then nobody waits for it any more."""
        with self._renewing:
            if cancel_futures:
                for process in list((self._pool._processes or {}).values()):
                    process.kill()
            self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _new_pool(self) -> ProcessPoolExecutor:
        spawning = multiprocessing.get_context("spawn")  # a fork would copy locks that threads here hold just now
        return ProcessPoolExecutor(self._processes, spawning, _begin)


def _pass_on(done: Future[Answer], answer: Future[Answer]) -> None:
    error = None if done.cancelled() else done.exception()
    if done.cancelled() or isinstance(error, BrokenProcessPool):
        answer.set_exception(
            Failed(
                "The process that was at it was killed, by the system for want of memory or by somebody.",
                "Try again; if it happens again, let less be done at once or give the machine more memory.",
            )
        )
    elif error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())


def _begin() -> None:
    """What each of the processes does first."""
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
