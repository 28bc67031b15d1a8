"""What both sides of a comparison are told, and what they write down about it.

A side is a script that is called with three arguments: the case's file, the file for its marks, and the moment at which
its process was started. Standard library only, so that any environment can run it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training, the same for every side. Adam's settings are torch's defaults, gradients are clipped to norm 1, the
    learning rate is constant, everything is fp32.

    `given` is the file of rows and adapter that `ours.py` writes for the peers; `directory` is empty scratch space.
    """

    model: str
    dataset: str
    format: Literal["messages", "prompt_completion", "preference"]
    directory: str
    given: str
    threads: int
    batch_size: int
    epochs: int = 1
    method: Literal["sft", "dpo"] = "sft"
    beta: float = 0.1
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    precompute: bool = False
    learning_rate: float = 1e-3
    seed: int = 1
    max_length: int = 1024
    lora_r: int = 16
    lora_alpha: int = 32
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Case:
        fields = json.loads(path.read_text())
        return cls(**{**fields, "target_modules": tuple(fields["target_modules"])})


@dataclass(frozen=True)
class Given:
    """Tokenised rows, the order of each epoch (indices into the rows), and the file of the adapter's first values in
    PEFT's format.

    A row has `input_ids` and `labels` (-100 where nothing is learned), or, for preferences, `prompt_ids`, `chosen_ids`
    and `rejected_ids`.
    """

    rows: list[dict[str, list[int]]]
    orders: list[list[int]]
    adapter: str

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Given:
        return cls(**json.loads(path.read_text()))


class Watch(Protocol):
    """Who is told how a training goes."""

    def begins(self) -> None:
        """Everything is loaded; the training proper begins."""

    def step(self, loss: float) -> None:
        """An optimiser step was done; its loss in nats per learned token, or per pair."""

    def before(self) -> Any:
        """A context in which work is done that belongs to the training, before it begins."""


class Marks:
    """Writes one JSON line for each thing that it is told. Times are in seconds, memory in bytes."""

    def __init__(self, path: Path, started: float) -> None:
        self._file = path.open("w", buffering=1)
        self._started = started

    def begins(self) -> None:
        self._write(loss=None)

    def step(self, loss: float) -> None:
        self._write(loss=loss)

    @contextmanager
    def before(self) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        yield
        self._file.write(json.dumps({"before": time.monotonic() - wall, "cpu": time.process_time() - cpu}) + "\n")

    def _write(self, **what: Any) -> None:
        at = time.monotonic() - self._started
        mark = {"at": at, "cpu": time.process_time(), "peak_rss": peak_rss(), **what}
        self._file.write(json.dumps(mark) + "\n")


def peak_rss() -> int:
    """The most memory that this process has held at once, in bytes.

    Linux's ru_maxrss would begin at what the parent held when it started us, so its VmHWM is read instead.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def as_script(train: Callable[[Case, Watch], None]) -> None:
    """Run a side with the arguments that it was called with."""
    case, marks, started = sys.argv[1:]
    train(Case.read(Path(case)), Marks(Path(marks), float(started)))
