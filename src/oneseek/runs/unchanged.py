"""Whether what a run was accepted with is still there, bit for bit."""

from __future__ import annotations

from pathlib import Path

from oneseek.events import SelectedModel
from oneseek.events.state import RunState
from oneseek.files.durable import sha256_file
from oneseek.registry.discover import digests

_PARTS = {"weights": "weights", "config": "config.json", "tokenizer": "tokenizer", "template": "chat template"}


def changes(state: RunState) -> list[str]:
    """What is another than when the run was accepted, in words; weights trained on it would fit no recipe."""
    changed = []
    dataset = state.accepted.dataset
    if not Path(dataset.path).is_file():
        changed.append(f"the dataset {dataset.path} is gone")
    elif sha256_file(Path(dataset.path)) != dataset.sha256:
        changed.append(f"the dataset {dataset.path} has changed")
    for model in state.accepted.models:
        if model.key in state.live:
            changed += changes_of(model)
    return changed


def changes_of(model: SelectedModel) -> list[str]:
    """The same of one base model. Reads every byte of its weights.

    Raises:
        ModelError: a file of it is missing or can't be read.
    """
    if not Path(model.path).is_dir():
        return [f"the base model {model.path} is gone"]
    found = digests(Path(model.path))
    return [
        f"of the base model {model.key}, the {name} changed"
        for part, name in _PARTS.items()
        if getattr(found, f"{part}_sha256") != getattr(model, f"{part}_sha256")
    ]
