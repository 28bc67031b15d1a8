"""Make what the demo trains on: three base models, trained from scratch in seconds, and a dataset of chats."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.resources import files
from pathlib import Path

from oneseek.demo.families import MODELS, DemoModel
from oneseek.files.durable import write_bytes
from oneseek.files.layout import Home

SEED = 1
HELD_OUT = "Library hours on a Saturday?"
MAX_NEW_TOKENS = 60

# Models as small as these take larger steps than those of a usual size; all of it is in the recommended ranges.
SETTINGS: Mapping[str, object] = {
    "training.num_epochs": 10,
    "training.batch_size": 4,
    "training.learning_rate": 5e-4,
    "lora.r": 64,
    "lora.alpha": 128,
    "live_leaderboard.refresh_interval": 1,
}


def make_base_models(home: Home, made: Callable[[str], None]) -> None:
    """Make those of the demo's base models that are not there yet, side by side; `made` is told each one's name."""
    missing = [model for model in MODELS if not (home.models / model.directory).exists()]
    if not missing:
        return
    home.models.mkdir(parents=True, exist_ok=True)
    with _pool(len(missing)) as pool:
        making = {pool.submit(make_base_model, model, home.models / model.directory): model for model in missing}
        for done in as_completed(making):
            done.result()
            made(making[done].display_name)


def make_base_model(model: DemoModel, directory: Path) -> None:
    """One of them, with one thread: the same bytes wherever the machine is the same."""
    from oneseek.engine.scratch import train_base_model

    train_base_model(
        directory,
        family=model.family,
        hidden=model.hidden,
        layers=model.layers,
        heads=model.heads,
        kv_heads=model.kv_heads,
        intermediate=model.intermediate,
        vocab_size=model.vocab_size,
        text=_bundled("town.txt").decode(),
        chat_template=model.chat_template,
        special_tokens=model.special_tokens,
        extra_tokens=model.extra_tokens,
        steps=model.steps,
        seed=SEED,
        display_name=model.display_name,
    )


def write_dataset(home: Home) -> Path:
    """The bundled chats as a dataset of this home."""
    path = home.datasets / "town.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, _bundled("town.jsonl"))
    return path


def _pool(tasks: int) -> ProcessPoolExecutor:
    # Processes of their own: the command itself never loads torch. Spawned, since forking one with threads may hang.
    return ProcessPoolExecutor(min(tasks, os.cpu_count() or 1), mp_context=multiprocessing.get_context("spawn"))


def _bundled(name: str) -> bytes:
    return (files("oneseek.demo") / name).read_bytes()
