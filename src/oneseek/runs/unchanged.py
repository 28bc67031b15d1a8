"""Whether what a run was accepted with is still there, bit for bit."""

from __future__ import annotations

from pathlib import Path

from oneseek.events import SelectedModel
from oneseek.events.state import RunState
from oneseek.files.durable import sha256_file
from oneseek.registry.discover import digests, is_whole

_PARTS = {"weights": "weights", "config": "config.json", "tokenizer": "tokenizer", "template": "chat template"}


def changes(state: RunState) -> list[str]:
    """What is another than when the run was accepted, in words; weights trained on it would fit no recipe."""
    dataset = state.accepted.dataset
    changed = _changes_of_file("dataset", dataset.path, dataset.sha256)
    if dataset.validation_path is not None:
        changed += _changes_of_file("validation dataset", dataset.validation_path, dataset.validation_sha256)
    for model in state.accepted.models:
        if model.key in state.live and not is_awaited(model, state):
            changed += changes_of(model)
    return changed


def is_awaited(model: SelectedModel, state: RunState) -> bool:
    """Whether a base model is still to come from the hub: until the run is planned, it may."""
    return state.planned is None and model.hub_id is not None and not is_whole(Path(model.path))


def _changes_of_file(name: str, path: str, sha256: str | None) -> list[str]:
    if not Path(path).is_file():
        return [f"the {name} {path} is gone"]
    return [] if sha256_file(Path(path)) == sha256 else [f"the {name} {path} has changed"]


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
