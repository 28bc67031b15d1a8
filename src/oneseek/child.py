"""A process that another one starts, speaks with in lines of JSON, and takes with it when it ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, BinaryIO

TIME_LIMIT_SIGNAL = signal.SIGPROF
"""What ends a process that `cpu_limit` found at work for too long."""

_PR_SET_PDEATHSIG = 1

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "LEDGER_TOKEN", "LEDGER_PRIVATE_KEY_PATH")
"""No child needs them; some render templates that came with a model."""


@contextmanager
def running(module: str, stderr: IO[bytes] | int, threads: int = 1) -> Iterator[subprocess.Popen[bytes]]:
    """`start` a child that has ended when this has, however it ends."""
    process = start(module, stderr, threads)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):  # what was not written any more
                if pipe is not None:
                    pipe.close()


def start(module: str, stderr: IO[bytes] | int, threads: int = 1) -> subprocess.Popen[bytes]:
    """Run a module as a child of this process, its standard input and output being pipes to here.

    threads: how many of them the tokenizers library may use.
    """
    return subprocess.Popen(
        # -P: what happens to be called json.py where the command was typed is not imported.
        [sys.executable, "-P", "-m", module, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={
            **{name: value for name, value in os.environ.items() if name not in _SECRETS},
            "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false",
            "RAYON_NUM_THREADS": str(threads),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",  # whatever is needed from the hub was fetched before
        },
    )


def begin() -> BinaryIO:
    """What a child does first. It returns where its messages go, unbuffered, which nothing else writes to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _die_with_parent()
    messages = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints goes to the log, never between the messages
    return messages


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Let the kernel end this whole process when what is inside takes more than so many CPU-seconds.

    No handler in Python could: it would wait for a loop in C to return.
    """
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _die_with_parent() -> None:
    """Linux kills this process when its parent dies, even one that is stopped and would not see its input end.

    The parent's process id is the argument that the process is started with.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):
            os._exit(1)  # it died before we asked
