"""However torch says that memory ran out, a run is told in one way."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from oneseek.errors import WorkerFailed

P = ParamSpec("P")
R = TypeVar("R")


def is_out_of_memory(error: BaseException) -> bool:
    """torch says in three ways that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def naming_memory(method: Callable[P, R]) -> Callable[P, R]:
    """A method that raises WorkerFailed("out_of_memory") where memory runs out in it."""

    @wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise _failed(error) from error
            raise

    return guarded


def _failed(error: BaseException) -> WorkerFailed:
    first = (str(error).splitlines() or [""])[0]
    return WorkerFailed(
        "out_of_memory",
        f"Memory ran out: {first or 'no more could be allocated'}",
        "Lower data.max_length, set execution.gradient_checkpointing to always, or train fewer models at once.",
    )
