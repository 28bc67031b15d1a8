"""Homes for a browser to look at: furnished with base models and files, and with runs that are over."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from oneseek import runs
from oneseek.config.parse import parse
from oneseek.datasets import store
from oneseek.errors import TrainingFailed
from oneseek.files.layout import Home
from support.base_models import write_model
from support.tiny_models import chat_rows, preference_rows, write_rows

RUNS = "runs.json"
QUESTION = "When is the library open?"

_PICKLED = """
import sys, torch
from safetensors.torch import load_file
torch.save(load_file(sys.argv[1]), sys.argv[2])
"""


def furnish(home: Path) -> None:
    """Base models: two that can be used for everything, one without a chat template, two that are pickled only, of
    which one can't be read. Datasets as files: chats, few chats, chats with faults, preferences."""
    models, files = home / "models", home / "files"
    write_model(models / "alfa-llama", vocab=300, context=256, display_name="Alfa-Llama")
    write_model(models / "beta-mistral", family="mistral", vocab=300, context=256, display_name="Beta-Mistral")
    write_model(models / "gpt2", family="gpt2", vocab=300, context=256, chat=False, display_name="GPT-2")
    unreadable = models / "old-pickle"
    unreadable.mkdir()
    shutil.copy(models / "gpt2" / "config.json", unreadable)
    (unreadable / "pytorch_model.bin").write_bytes(b"\x80\x02N.")
    files.mkdir()
    write_rows(files / "chats.jsonl", chat_rows(60))
    write_rows(files / "small.jsonl", chat_rows(5))
    write_rows(files / "preferences.jsonl", preference_rows(20))
    faulty: list[Any] = [*chat_rows(30)]
    faulty[7] = {"messages": [{"role": "user", "content": "Hej?"}, {"role": "assistant", "content": ""}]}
    faulty[11] = {"messages": [{"role": "bot", "content": "Hej"}]}
    write_rows(files / "faulty.jsonl", faulty)


def pickle_weights(model: Path) -> None:
    """Let the weights of a model be there as a pickle only."""
    weights = model / "model.safetensors"
    subprocess.run([sys.executable, "-c", _PICKLED, weights, model / "pytorch_model.bin"], check=True)
    weights.unlink()


def train(home: Path) -> None:
    """Runs on `chats.jsonl`, which is stored, in a furnished home. RUNS holds their ids by what they are:

    trained: two models by the real engine, two epochs, with a sample prompt. slow, fast: two models by script, the
    second with twice the learning rate and half the epochs. failed: one model that diverged in its second epoch.
    """
    layout = Home(home, home / "models")
    store.add(layout, home / "files" / "chats.jsonl")
    made = {"trained": _trained(home)}
    made["slow"] = _scripted(layout, training={"num_epochs": 4, "learning_rate": 1e-4})
    made["fast"] = _scripted(layout, training={"num_epochs": 2, "learning_rate": 2e-4})
    script = layout.models / "alfa-llama" / "script.json"
    script.write_text(json.dumps({"fail": {"epoch": 2, "kind": "diverged"}}))
    made["failed"] = _scripted(layout, model={"base_models": ["alfa-llama"]})
    script.unlink()
    (home / RUNS).write_text(json.dumps(made))


def _trained(home: Path) -> str:
    command = [sys.executable, "-m", "oneseek", "train", "--home", str(home), "--json"]
    settings = ["--dataset", "chats.jsonl", "--base-models", "alfa-llama", "beta-mistral", "--epochs", "2"]
    done = subprocess.run(
        [*command, *settings, "--sample-prompt", QUESTION],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return str(json.loads(done.stdout.splitlines()[-1])["run_id"])


def _scripted(home: Home, **settings: dict[str, Any]) -> str:
    asked = {
        "model": {"base_models": ["alfa-llama", "beta-mistral"]},
        "data": {"dataset": "chats.jsonl"},
        "execution": {"executor": "inline"},
        **settings,
    }
    config, problems = parse(asked)
    if problems:
        raise RuntimeError(str(problems))
    run = runs.submit(config, home, engine="scripted")
    with suppress(TrainingFailed):
        runs.complete(run, home, {})
    return run.state.run_id
