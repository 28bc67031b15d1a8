"""Sides of a case, each a process of its own, in turns; figures are compared within a round only.

Machines drift by a third within minutes, so a ratio is always of two processes that ran one after the other.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from case import Case, Given
from shapes import Shape

BENCH = Path(__file__).parent
TOLERANCE = {"sft": 1e-4, "dpo": 5e-4}  # nats; what the parity tests allow


@dataclass(frozen=True)
class Side:
    """Who trains: its script, the Python of its own environment (None: this one), and what it changes in the case."""

    name: str
    script: str
    python: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


OURS = Side("OneSeek", "ours.py")


@dataclass(frozen=True)
class Measured:
    """What one process did. `tokens` are those that `seconds` and `cpu_seconds` were spent on; `started` is the time
    from the start of the process to the end of its first optimiser step. Seconds and bytes."""

    losses: list[float]
    tokens: int
    seconds: float
    cpu_seconds: float
    peak_rss: int
    started: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def tokens_per_cpu_second(self) -> float:
        return self.tokens / self.cpu_seconds


@dataclass(frozen=True)
class Round:
    """One turn of every side; `gemm` is the machine's rate in FLOP/s at the case's products, just after it."""

    sides: dict[str, Measured]
    gemm: float

    def without(self, names: Collection[str]) -> Round:
        return Round({name: side for name, side in self.sides.items() if name not in names}, self.gemm)

    def as_json(self) -> dict[str, Any]:
        return {"gemm_flops_per_second": self.gemm, "sides": {name: asdict(side) for name, side in self.sides.items()}}


@dataclass(frozen=True)
class Comparison:
    """Rounds of one case. `flops` are those of the timed steps, `warm_up` the steps that are not timed; `failed` are
    the peers that did not train it, each with the last line that it said."""

    name: str
    case: Case
    rounds: list[Round]
    flops: int
    warm_up: int
    failed: Mapping[str, str]

    def ratios(self, peer: str, figure: str) -> list[float]:
        """Ours over the peer's, round by round; none where the losses differ, since other work was done."""
        if self.loss_difference(peer) > TOLERANCE[self.case.method]:
            return []
        sides = [(each.sides[OURS.name], each.sides[peer]) for each in self.rounds]
        return [getattr(ours, figure) / getattr(theirs, figure) for ours, theirs in sides]

    def loss_difference(self, peer: str) -> float:
        """The largest difference between the losses of one step, in nats."""
        pairs = (
            (mine, theirs)
            for each in self.rounds
            for mine, theirs in zip(each.sides[OURS.name].losses, each.sides[peer].losses, strict=True)
        )
        return max(abs(mine - theirs) for mine, theirs in pairs)

    def values(self, side: str, figure: str) -> list[float]:
        return [getattr(each.sides[side], figure) for each in self.rounds]

    def gemm_shares(self, side: str) -> list[float]:
        return [self.flops / each.sides[side].seconds / each.gemm for each in self.rounds]

    def as_json(self) -> dict[str, Any]:
        peers = [name for name in self.rounds[0].sides if name != OURS.name]
        return {
            "flops": self.flops,
            "warm_up_steps": self.warm_up,
            "loss_difference": {peer: self.loss_difference(peer) for peer in peers},
            "failed": dict(self.failed),
            "rounds": [each.as_json() for each in self.rounds],
        }


def compare(name: str, case: Case, shape: Shape, peers: Sequence[Side], rounds: int, warm_up: int) -> Comparison:
    """Run ours, the peers and the GEMM, `rounds` times in turns.

    Raises:
        RuntimeError: a side of this environment failed. A peer with an environment of its own is left out instead.
    """
    path = Path(f"{case.given}.case")
    case.write(path)
    run_script([sys.executable, "ours.py", "give", str(path)], case.threads)
    given = Given.read(Path(case.given))
    steps = steps_of(given, case.batch_size)
    timed = steps[warm_up:]
    tokens = sum(sum(lengths) for lengths, _ in timed)
    done: list[Round] = []
    failed: dict[str, str] = {}
    for number in range(1, rounds + 1):
        sides = {}
        for side in (OURS, *(peer for peer in peers if peer.name not in failed)):
            say(f"{name}, round {number} of {rounds}: {side.name}")
            try:
                sides[side.name] = measure(side, case, warm_up, len(steps), tokens)
            except RuntimeError as error:
                if side.python is None:
                    raise
                failed[side.name] = last_line(error)
        done.append(Round(sides, gemm(shape, case.threads, tokens // len(timed))["flops_per_second"]))
    flops = sum(shape.step_flops(lengths, learned, case.lora_r) for lengths, learned in timed)
    return Comparison(name, case, [each.without(failed) for each in done], flops, warm_up, failed)


def measure(side: Side, case: Case, warm_up: int, count: int, tokens: int) -> Measured:
    """Train the case in a process of its own. count: its optimiser steps. tokens: those after the first `warm_up`.

    Raises:
        RuntimeError: the process failed, or did another number of steps.
    """
    with tempfile.TemporaryDirectory(dir=Path(case.directory).parent) as scratch:
        own = Case(**{**asdict(case), **side.changes, "directory": str(Path(scratch) / "work")})
        own.write(Path(scratch) / "case.json")
        marks = Path(scratch) / "marks.jsonl"
        marks.touch()  # a script that ends without a mark has done no step
        arguments = [f"{scratch}/case.json", str(marks), str(time.monotonic())]
        run_script([side.python or sys.executable, side.script, *arguments], case.threads)
        lines = [json.loads(line) for line in marks.read_text().splitlines()]
    steps = [line for line in lines if "at" in line]  # the first is the beginning of the training
    if len(steps) != count + 1:
        raise RuntimeError(f"{side.script} did {max(0, len(steps) - 1)} optimiser steps where the case has {count}.")
    before = [line for line in lines if "before" in line]
    return Measured(
        losses=[step["loss"] for step in steps[1:]],
        tokens=tokens,
        seconds=steps[-1]["at"] - steps[warm_up]["at"] + sum(line["before"] for line in before),
        cpu_seconds=steps[-1]["cpu"] - steps[warm_up]["cpu"] + sum(line["cpu"] for line in before),
        peak_rss=steps[-1]["peak_rss"],
        started=steps[1]["at"],
    )


def gemm(shape: Shape, threads: int, tokens: int) -> dict[str, Any]:
    """What gemm.py prints, at the products of `shape`."""
    specification = {"threads": threads, "tokens": tokens, "layers": shape.layers, "products": shape.products}
    return dict(json.loads(run_script([sys.executable, "gemm.py", json.dumps(specification)], threads)))


def steps_of(given: Given, batch_size: int) -> list[tuple[list[int], int]]:
    """For every optimiser step the lengths of its rows in tokens, both answers of a pair with their prompt, and the
    number of learned tokens."""
    sizes = [_sizes(row) for row in given.rows]
    steps = []
    for order in given.orders:
        for start in range(0, len(order), batch_size):
            rows = [sizes[index] for index in order[start : start + batch_size]]
            steps.append(([length for lengths, _ in rows for length in lengths], sum(learned for _, learned in rows)))
    return steps


def _sizes(row: Mapping[str, Sequence[int]]) -> tuple[list[int], int]:
    if "input_ids" in row:
        return [len(row["input_ids"])], sum(label != -100 for label in row["labels"])
    prompt, answers = len(row["prompt_ids"]), [len(row["chosen_ids"]), len(row["rejected_ids"])]
    return [prompt + answer for answer in answers], sum(answers)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def last_line(error: Exception) -> str:
    """What a script said last before it failed."""
    return str(error).strip().splitlines()[-1]


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def run_script(command: Sequence[str], threads: int | None = None) -> str:
    """Run a script of this folder, with so many threads of OpenMP; what it printed.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    no_gpu = {"CUDA_VISIBLE_DEVICES": ""}  # all sides on the CPU, whatever build of torch theirs is
    environment = {**os.environ, **quiet, **no_gpu, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    done = subprocess.run(command, cwd=BENCH, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout
