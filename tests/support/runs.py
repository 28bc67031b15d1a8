"""Runs of the scripted engine in a home of their own: everything but the training itself is the real thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oneseek import runs
from oneseek.config.parse import parse
from oneseek.config.schema import TrainingConfig
from oneseek.events import AnyEvent
from oneseek.events.state import RunState
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read
from oneseek.runs import Recorder, Watch, nobody
from support.base_models import write_model


@dataclass(frozen=True)
class Town:
    """A home directory for tests."""

    root: Path

    @property
    def home(self) -> Home:
        return Home(self.root, self.root / "models")

    @property
    def dataset(self) -> Path:
        path = self.root / "datasets" / "rows.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def results(self) -> Results:
        return Results(self.home.models.resolve())

    def add_model(self, name: str, script: Mapping[str, Any] | None = None, **files: Any) -> Path:
        """A base model directory; `script` is what the scripted engine makes of it."""
        directory = self.home.models / name
        write_model(directory, **files)
        if script is not None:
            self.script(name, script)
        return directory

    def script(self, name: str, script: Mapping[str, Any]) -> None:
        (self.home.models / name / "script.json").write_text(json.dumps(script))

    def config(self, *models: str, **settings: Any) -> TrainingConfig:
        """A configuration for these models (all of the town unless named); settings as training__num_epochs=2."""
        names = models or tuple(sorted(path.name for path in self.home.models.iterdir() if path.name[0] in "ab"))
        raw: dict[str, Any] = {
            "model": {"base_models": list(names)},
            "data": {"dataset": str(self.dataset)},
            "execution": {"executor": "inline"},
        }
        for name, value in settings.items():
            *path, last = name.split("__")
            section = raw
            for part in path:
                section = section.setdefault(part, {})
            section[last] = value
        config, problems = parse(raw)
        assert not problems
        return config

    def submit(self, *models: str, watch: Watch = nobody, **settings: Any) -> Recorder:
        return runs.submit(self.config(*models, **settings), self.home, watch=watch, engine="scripted")

    def train(self, *models: str, watch: Watch = nobody, **settings: Any) -> tuple[RunDirectory, RunState]:
        """A whole run."""
        with self.submit(*models, watch=watch, **settings) as run:
            runs.train(run)
            return run.directory, run.state

    def resume(self, directory: RunDirectory) -> RunState:
        with runs.resume(directory) as run:
            runs.train(run)
            return run.state


def events(directory: RunDirectory) -> list[AnyEvent]:
    return [record.event for record in read(directory.journal).records]


def adapters(directory: RunDirectory) -> dict[str, bytes]:
    """The bytes of every adapter of a complete run, by model key."""
    return {path.parent.name: path.read_bytes() for path in directory.root.glob("adapters/*/adapter_model.safetensors")}


def everything(root: Path) -> set[str]:
    """Every path below `root`, relative to it."""
    return {str(path.relative_to(root)) for path in root.rglob("*")}
