"""Figures of this machine, by `make bench`: start-up, reading rows, training a tiny model.

Absolute times of shared machines say little; compare figures of one run with each other. Results go to
bench/results/latest.json.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oneseek.datasets.read import read_dataset
from oneseek.demo.families import MODELS
from oneseek.demo.make import make_base_model, write_dataset
from oneseek.engine.create import create
from oneseek.engine.interface import Assignment
from oneseek.files.layout import Home

RUNS = 5


def median(measure: Callable[[], float], runs: int = RUNS) -> dict[str, float]:
    values = [measure() for _ in range(runs)]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def wall(*command: str) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def rows_per_cpu_second(path: Path) -> float:
    began = time.process_time()
    count = len(read_dataset(path).rows)
    return count / (time.process_time() - began)


def training(home: Home) -> dict[str, float]:
    """Tokens per second of wall time and of CPU time, one thread, demo model and data; the first epoch warms up."""
    model = MODELS[0]
    make_base_model(model, home.models / model.directory)
    dataset = write_dataset(home)
    trainer = create(
        Assignment(
            engine="torch",
            key=model.directory,
            model_path=str(home.models / model.directory),
            dataset_path=str(dataset),
            dataset_sha256=hashlib.sha256(dataset.read_bytes()).hexdigest(),
            format="messages",
            strategy="chat",
            validation_split=0.1,
            max_length=512,
            directory=str(home.root / "work"),
            threads=1,
            seed=1,
            num_epochs=4,
            batch_size=8,
            gradient_accumulation_steps=1,
            lr_scheduler="linear",
            warmup_ratio=0.0,
            max_grad_norm=1.0,
            weight_decay=0.0,
            lora_r=16,
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        )
    )
    prepared = trainer.prepare()
    trainer.train_epoch(1, [1e-4], (), lambda _: None)
    began, cpu = time.perf_counter(), time.process_time()
    for epoch in (2, 3, 4):
        trainer.train_epoch(epoch, [1e-4] * epoch, (), lambda _: None)
    tokens = 3 * prepared.training_tokens
    return {
        "tokens_per_second": tokens / (time.perf_counter() - began),
        "tokens_per_cpu_second": tokens / (time.process_time() - cpu),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch), Path(scratch) / "models")
        rows = Path(scratch) / "rows.jsonl"
        turns = [{"role": "user", "content": "When is it open?"}, {"role": "assistant", "content": "At nine."}]
        rows.write_text("".join(f"{json.dumps({'id': n, 'messages': turns})}\n" for n in range(100_000)))
        figures = {
            "help_seconds": median(lambda: wall(sys.executable, "-m", "oneseek", "--help")),
            "bare_python_seconds": median(lambda: wall(sys.executable, "-c", "pass")),
            "rows_per_cpu_second": median(lambda: rows_per_cpu_second(rows)),
            "training": training(home),
        }
    results = Path(__file__).parent / "results" / "latest.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
