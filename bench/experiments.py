"""What is measured, and how: each function runs its processes and returns figures. Seconds and bytes throughout."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from case import Case, Given
from compare import BENCH, OURS, Comparison, Side, compare, measure, run_script, say, steps_of
from shapes import SIZES, TINY, Shape
from words import chats, completions, lengths, preferences, write_rows

TRIO = ("tiny-a", "tiny-b", "tiny-c")


@dataclass(frozen=True)
class Point:
    """One point of a scaling curve."""

    x: float
    tokens_per_second: float
    peak_rss: int


@dataclass(frozen=True)
class WholeRun:
    """A run through `oneseek.train`: `seconds` from process start to its end, `training_seconds` those of its epochs,
    `started` until the first progress was heard. Of its last epoch, the sums over its workers: `tokens_per_second` and
    `peak_rss`."""

    seconds: float
    training_seconds: float
    started: float
    steps: list[tuple[int, float]]  # step of an epoch, and its tokens a second
    tokens_per_second: float
    peak_rss: int


@dataclass(frozen=True)
class Together:
    """The same models in one run, and in runs of their own one after the other."""

    together: WholeRun
    alone: list[WholeRun]

    @property
    def ratio(self) -> float:
        return sum(run.seconds for run in self.alone) / self.together.seconds

    @property
    def training_ratio(self) -> float:
        return sum(run.training_seconds for run in self.alone) / self.together.training_seconds


class Workshop:
    """A scratch directory with the models, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = root / "models"
        self.models.mkdir()
        self._files = 0

    def model(self, shape: Shape) -> Path:
        directory = self.models / shape.name
        if not directory.exists():
            run_script([sys.executable, "words.py", str(directory), shape.name, "0"], threads=1)
        return directory

    def trio(self) -> tuple[str, ...]:
        for name in TRIO:
            if not (self.models / name).exists():
                shutil.copytree(self.model(TINY), self.models / name)
        return TRIO

    def path(self, ending: str) -> Path:
        """A name that nothing has yet."""
        self._files += 1
        return self.root / f"{self._files}{ending}"

    def rows(self, rows: Iterable[dict[str, Any]]) -> str:
        return str(write_rows(self.path(".jsonl"), rows))

    def case(self, shape: Shape, rows: Iterable[dict[str, Any]], **fields: Any) -> Case:
        return Case(
            model=str(self.model(shape)),
            dataset=self.rows(rows),
            directory=str(self.path("")),
            given=str(self.path(".json")),
            **{"format": "prompt_completion", **fields},
        )


# -- against peers -------------------------------------------------------------------------------------------------


def sft(
    shop: Workshop, shape: Shape, peers: Sequence[Side], *, threads: int, rounds: int, steps: int, batch: int = 8
) -> Comparison:
    """Supervised fine-tuning; the first step is not timed."""
    draw = random.Random(0)
    rows = completions(lengths(steps * batch + 1, draw), draw)  # one row is set aside for validation
    case = shop.case(shape, rows, threads=threads, batch_size=batch)
    return compare(f"SFT {shape.name}", case, shape, peers, rounds, warm_up=1)


def dpo(shop: Workshop, peers: Sequence[Side], *, threads: int, rounds: int, steps: int, batch: int = 4) -> Comparison:
    """Direct preference optimisation, three epochs, timed from the first reference log-probability to the last step."""
    draw = random.Random(0)
    rows = preferences(lengths(steps * batch + 1, draw), draw)
    case = shop.case(TINY, rows, threads=threads, batch_size=batch, epochs=3, method="dpo", format="preference")
    return compare("DPO tiny", case, TINY, peers, rounds, warm_up=0)


# -- whole runs ----------------------------------------------------------------------------------------------------


def together(shop: Workshop, *, steps: int) -> Together:
    rows, names = shop.rows(_chat_like(8 * steps + 1)), shop.trio()
    say("three models in one run")
    at_once = whole_run(shop, rows, names, epochs=2)
    alone = []
    for name in names:
        say(f"{name} in a run of its own")
        alone.append(whole_run(shop, rows, (name,), epochs=2))
    return Together(at_once, alone)


def pair(shop: Workshop, *, steps: int) -> WholeRun:
    """Two models in one run, for the curve."""
    rows = shop.rows(_chat_like(8 * steps + 1))
    return whole_run(shop, rows, shop.trio()[:2], epochs=2)


def overhead(shop: Workshop, *, steps: int, batch: int) -> tuple[float, float]:
    """The share of an epoch's wall time, journal record to journal record, that is no optimiser step; and the seconds
    that a step took. The evaluation of one row counts as overhead."""
    say("overhead of a run")
    case = shop.case(TINY, _chat_like(batch * steps + 1), threads=2, batch_size=batch)
    case.write(Path(f"{case.given}.case"))
    run_script([sys.executable, "ours.py", "give", f"{case.given}.case"], threads=2)
    tokens = [sum(row_lengths) for row_lengths, _ in steps_of(Given.read(Path(case.given)), batch)]
    settings = {"training.batch_size": batch, "live_leaderboard.refresh_interval": 0.001}
    run = whole_run(shop, case.dataset, shop.trio()[:1], epochs=1, settings=settings)
    seconds = [tokens[step - 1] / rate for step, rate in run.steps]
    if len(seconds) != len(tokens):
        raise RuntimeError(f"{len(seconds)} of {len(tokens)} steps were reported.")
    return 1 - sum(seconds) / run.training_seconds, sum(seconds) / len(seconds)


def start_up(shop: Workshop) -> float:
    """From the start of a process that calls `oneseek.train` to the end of its first optimiser step."""
    say("start-up")
    rows = shop.rows(_chat_like(17))
    return whole_run(shop, rows, shop.trio()[:1], epochs=1).started


def whole_run(
    shop: Workshop, dataset: str, models: Sequence[str], *, epochs: int, settings: dict[str, Any] | None = None
) -> WholeRun:
    marks = shop.path(".marks")
    given = {
        "root": str(shop.root),
        "models_dir": str(shop.models),
        "dataset": dataset,
        "base_models": list(models),
        "settings": {
            "training.num_epochs": epochs,
            "training.batch_size": 8,
            "training.lr_scheduler": "constant",
            "training.learning_rate": 1e-3,
            "training.seed": 1,
            "lora.target_modules": "all-linear",
            "data.validation_split": 1e-9,
            "output.directory": str(shop.path("")),
            **(settings or {}),
        },
    }
    run_script([sys.executable, "whole_run.py", json.dumps(given), str(marks), str(time.monotonic())])
    lines = [json.loads(line) for line in marks.read_text().splitlines()]
    by_event = {name: [line for line in lines if line["event"] == name] for name in {line["event"] for line in lines}}
    progress, began = by_event["ProgressReported"], by_event["EpochStarted"]
    last = {line["model"]: line for line in by_event["EpochFinished"]}.values()
    return WholeRun(
        seconds=by_event["Done"][-1]["at"],
        training_seconds=by_event["EpochCommitted"][-1]["at"] - began[0]["at"],
        started=progress[0]["at"],
        steps=[(line["step"], line["tokens_per_second"]) for line in progress],
        tokens_per_second=sum(line["tokens_per_second"] for line in last),
        peak_rss=sum(line["memory_bytes"] for line in last),
    )


def _chat_like(count: int) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return completions(lengths(count, draw), draw)


# -- before a run --------------------------------------------------------------------------------------------------


def help_seconds() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "oneseek", "--help"], check=True, stdout=subprocess.DEVNULL, cwd=BENCH)
    return time.monotonic() - began


def inspect(shop: Workshop, rows: str) -> dict[str, Any]:
    """What checking a request of three models and these rows costs, process start included."""
    say("checking a request")
    began = time.monotonic()
    arguments = ["inspect", str(shop.root), str(shop.models), rows, *shop.trio()]
    found = json.loads(run_script([sys.executable, "checking.py", *arguments]))
    if found["errors"]:
        raise RuntimeError(f"The request has errors: {found['errors']}")
    return {**found, "seconds": time.monotonic() - began}


def read(rows: str) -> dict[str, Any]:
    """Reading and validating rows, alone."""
    return dict(json.loads(run_script([sys.executable, "checking.py", "read", rows])))


def chat_rows(shop: Workshop, count: int) -> str:
    return shop.rows(chats(count, random.Random(0)))


# -- scaling of ours -----------------------------------------------------------------------------------------------


def curves(shop: Workshop, *, steps: int, points: int) -> dict[str, list[Point]]:
    """Tokens a second and peak memory of ours: against the size of the model, the length of rows, and their number in a
    step. points: how many of each are measured, the smallest first."""
    base = {"shape": TINY, "length": 128, "batch": 8}
    axes: dict[str, list[tuple[float, dict[str, Any]]]] = {
        "parameters": [(shape.parameters, {"shape": shape}) for shape in SIZES],
        "tokens a row": [(length, {"length": length}) for length in (64, 128, 256, 512, 1024)],
        "rows a step": [(batch, {"batch": batch}) for batch in (1, 4, 8, 16, 32)],
    }
    found: dict[str, list[Point]] = {}
    for axis, values in axes.items():
        found[axis] = []
        for x, change in values[:points]:
            say(f"curve: {x} {axis}")
            found[axis].append(_point(shop, x, steps, **{**base, **change}))
    return found


def _point(shop: Workshop, x: float, steps: int, *, shape: Shape, length: int, batch: int) -> Point:
    rows = completions([length] * (steps * batch + 1), random.Random(0))
    case = shop.case(shape, rows, threads=2, batch_size=batch)
    found = measure(OURS, case, warm_up=1, count=steps, tokens=(steps - 1) * batch * length)
    return Point(x, found.tokens_per_second, found.peak_rss)
