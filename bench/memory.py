"""What `estimate` says of memory and disk, beside what real runs took: `python bench/memory.py`.

Each row of memory is a worker process of its own that trains three steps, evaluates, keeps a checkpoint and exports;
its memory is the peak of its resident set. The disk is the most bytes that the output directory of a run held. Takes
about ten minutes; `--quick` takes the first rows only, and proves nothing but that the script works.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from compare import say
from experiments import Workshop, whole_run
from ours import assignment
from shapes import SIZES, SMALL, TINY, Shape
from words import completions, preferences

from oneseek import estimate
from oneseek.engine.interface import Assignment, EpochResult, Exported, Prepared
from oneseek.executors.processes import ProcessWorker
from oneseek.executors.worker import Beat, Export, Failure, TrainEpoch, decode_message
from oneseek.registry.capabilities import lora_targets
from oneseek.registry.discover import describe

STEPS, ROW = 3, 256  # optimiser steps of a training, tokens of a row
QUICK = 2


@dataclass(frozen=True, kw_only=True)
class Load:
    """One training: how much of what is computed at once."""

    shape: Shape
    tokens: int
    checkpointing: bool = False
    method: Literal["sft", "dpo"] = "sft"
    lora_r: int = 16
    row: int = ROW

    @property
    def name(self) -> str:
        again = ", activations twice" if self.checkpointing else ""
        return f"{self.shape.name}, {self.method}, r {self.lora_r}, {self.tokens:,} tokens in rows of {self.row}{again}"


@dataclass(frozen=True)
class Found:
    """Bytes. `loaded` is the peak before the first step, which is part of the whole."""

    load: Load
    estimated: int
    measured: int
    loaded: int


MIDDLE = SIZES[-1]
LOADS = (
    *(Load(shape=TINY, tokens=tokens) for tokens in (256, 512, 1024, 2048, 4096)),
    *(Load(shape=TINY, tokens=tokens, checkpointing=True) for tokens in (512, 1024, 2048, 4096)),
    *(Load(shape=TINY, tokens=1024, lora_r=r) for r in (8, 64)),
    Load(shape=TINY, tokens=1024, row=1024),
    *(Load(shape=TINY, tokens=tokens, method="dpo", row=64) for tokens in (512, 1024, 2048)),
    Load(shape=TINY, tokens=1024, method="dpo", row=64, checkpointing=True),
    *(Load(shape=MIDDLE, tokens=1024, checkpointing=again) for again in (False, True)),
    *(Load(shape=SMALL, tokens=tokens) for tokens in (256, 512, 1024)),
    *(Load(shape=SMALL, tokens=tokens, checkpointing=True) for tokens in (256, 1024)),
    *(Load(shape=SMALL, tokens=512, lora_r=r) for r in (8, 64)),
    Load(shape=SMALL, tokens=512, method="dpo", row=64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    print("| load | estimated | measured | before the first step | estimated too much |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        shop = Workshop(Path(scratch))
        for load in LOADS[:QUICK] if options.quick else LOADS:
            say(load.name)
            print(line(measure(shop, load)), flush=True)
        print("\n| disk | estimated | measured |\n|---|---|---|")
        for lora_r in (16, 64):
            estimated, measured = disk(shop, lora_r)
            print(f"| tiny, r {lora_r}, 4 epochs | {estimated / 2**20:,.0f} | {measured / 2**20:,.0f} |", flush=True)


def measure(shop: Workshop, load: Load) -> Found:
    """Train the load in a worker of its own.

    Raises:
        RuntimeError: the worker could not.
    """
    told = _assignment(shop, load)
    info = describe(Path(told.model_path))
    needed = estimate.memory(
        info,
        lora_r=load.lora_r,
        targets=told.target_modules,
        tokens=load.tokens,
        threads=told.threads,
        checkpointing=load.checkpointing,
    )
    loaded, measured = _train(told)
    return Found(load, needed.total, measured, loaded)


def line(found: Found) -> str:
    sizes = (f"{size / 2**20:,.0f}" for size in (found.estimated, found.measured, found.loaded))
    ratio = f"{found.estimated / found.measured - 1:+.0%}"
    return f"| {found.load.name} | {' | '.join(sizes)} | {ratio} |"


def disk(shop: Workshop, lora_r: int) -> tuple[int, int]:
    """What a run of four epochs with checkpoints inside them should have on disk, and the most that it had, looked at a
    hundred times a second."""
    draw, into, name = random.Random(0), shop.path(""), shop.trio()[0]
    rows = shop.rows(completions([64] * 65, draw))
    settings = {"lora.r": lora_r, "training.checkpoint_every": 2, "output.directory": str(into)}
    sizes: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            sizes.append(sum(_sizes(into)))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        whole_run(shop, rows, (name,), epochs=4, settings=settings)
    finally:
        over.set()
        watching.join()
    info = describe(shop.models / name)
    return estimate.disk(info, lora_r, lora_targets(info, "all-linear"), inside_epochs=True).total, max(sizes)


def _sizes(directory: Path) -> Iterator[int]:
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                yield (Path(folder) / name).stat().st_size
            except FileNotFoundError:  # it has just been renamed
                continue


def _assignment(shop: Workshop, load: Load) -> Assignment:
    """Steps of two batches each, as full as rows of this length make them."""
    draw, batch = random.Random(0), 2 * load.tokens // load.row
    if load.method == "dpo":  # a pair is its row and, on average, the learned two fifths once more
        batch = max(1, round(batch / 1.4))
    lengths = [load.row] * (STEPS * batch + 1)
    rows = preferences(lengths, draw) if load.method == "dpo" else completions(lengths, draw)
    form: Literal["preference", "prompt_completion"] = "preference" if load.method == "dpo" else "prompt_completion"
    case = shop.case(load.shape, rows, format=form, method=load.method, threads=1, batch_size=batch, lora_r=load.lora_r)
    return msgspec.structs.replace(
        assignment(case), token_budget=load.tokens, gradient_checkpointing=load.checkpointing
    )


def _train(told: Assignment) -> tuple[int, int]:
    """The peaks before the first step, and at the end."""
    said: queue.Queue[bytes | None] = queue.Queue()
    worker = ProcessWorker(told, said.put, Path(told.directory) / "log")
    try:
        _answer(said, Prepared)
        loaded = _peak(worker)
        worker.send(TrainEpoch(epoch=1, learning_rates=(1e-3,), excluded_validation_rows=()))
        _answer(said, EpochResult)
        worker.send(Export(epoch=1, learning_rates=(1e-3,)))
        _answer(said, Exported)
        return loaded, _peak(worker)
    finally:
        worker.kill()


def _answer(said: queue.Queue[bytes | None], wanted: type) -> None:
    while (data := said.get()) is not None:
        message = decode_message.decode(data)
        if isinstance(message, wanted):
            return
        if isinstance(message, Failure):
            raise RuntimeError(message.problem)
        if not isinstance(message, Beat):
            say(f"  {type(message).__name__}")
    raise RuntimeError("The worker died.")


def _peak(worker: ProcessWorker) -> int:
    status = Path(f"/proc/{worker._process.pid}/status").read_text()
    return next(int(entry.split()[1]) * 1024 for entry in status.splitlines() if entry.startswith("VmHWM:"))


if __name__ == "__main__":
    main()
