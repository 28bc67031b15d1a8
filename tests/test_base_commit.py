"""An adapter names the base model that it was trained on: on the hub by id and commit, else by its directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from peft import PeftConfig
from torch import nn

from oneseek import runs
from oneseek.engine.epochs import assignment_digest
from oneseek.engine.lora import adapter_config, attach
from oneseek.files.layout import Home
from support.runs import Town
from support.tiny_models import assignment

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def from_the_hub(town: Town, name: str) -> Home:
    """A home in which the base model is in the cache, as it came from the hub."""
    cache = town.root / "cache"
    repository = cache / f"models--org--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.move(town.home.models / name, repository / "snapshots" / COMMIT)
    return Home(town.root, town.home.models, cache)


def named_in(path: Path) -> dict[str, Any]:
    config = json.loads((path / "adapter_config.json").read_text())
    return {name: config[name] for name in ("base_model_name_or_path", "revision") if name in config}


def test_a_model_from_the_hub_is_named_by_id_and_commit(town: Town) -> None:
    home = from_the_hub(town, "alfa-1b")
    config = town.config("alfa-1b", training__num_epochs=1)

    with runs.submit(config, home, engine="scripted") as run:
        runs.train(run)

    (model,) = run.state.accepted.models
    assert named_in(run.directory.adapter("alfa-1b")) == {
        "base_model_name_or_path": "org/alfa-1b",
        "revision": COMMIT,
    }
    assert model.path == str(home.cache / "models--org--alfa-1b" / "snapshots" / COMMIT)  # type: ignore[operator]
    card = (run.directory.adapter("alfa-1b") / "README.md").read_text()
    assert f"from_pretrained('org/alfa-1b', revision='{COMMIT}')" in card


def test_a_model_of_this_machine_is_named_by_its_directory(town: Town) -> None:
    directory, _ = town.train("alfa-1b", training__num_epochs=1)

    assert named_in(directory.adapter("alfa-1b")) == {
        "base_model_name_or_path": str(town.home.models / "alfa-1b"),
    }


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_peft_reads_the_commit_of_a_real_adapter(tmp_path: Path, revision: str | None) -> None:
    model = nn.ModuleDict({"q_proj": nn.Linear(4, 4)})
    attach(model, ["q_proj"], 2, 4.0, 0.0)

    config = adapter_config(model, "org/alfa-1b", ["q_proj"], 2, 4.0, 0.0, revision=revision)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    read = PeftConfig.from_pretrained(str(tmp_path))

    assert (read.base_model_name_or_path, read.revision) == ("org/alfa-1b", revision)
    assert ("revision" in config) == (revision is not None)


def test_where_a_model_came_from_decides_no_weight(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    local = assignment(tmp_path, rows, tmp_path)

    hub = msgspec.structs.replace(local, hub_id="org/alfa-1b", revision=COMMIT)

    assert assignment_digest(hub) == assignment_digest(local)
