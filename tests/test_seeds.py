"""The old system's own examples, with its names: what its documents say is written must be what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from support import tiny_models
from support.runs import Town

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("seeds")]  # one training is enough for all of them

KEY = "kb-llama-3-1-8b-swedish"
DISPLAY = "KB-Llama-3.1-8B-Swedish"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """KB-Llama-3.1-8B-Swedish in a small shape, selected by its display name in BASE_MODELS, beside another model."""
    town = Town(tmp_path_factory.mktemp("old"))
    base_models = town.home.models / "oneseek-7b-zero" / "base_models"
    tiny_models.write_model(base_models / KEY, "llama")
    (base_models / KEY / "oneseek.json").write_text(json.dumps({"display_name": DISPLAY}))
    tiny_models.write_model(town.home.models / "mistral-7b-instruct", "llama", seed=1)
    tiny_models.write_rows(town.dataset, tiny_models.chat_rows(20))
    environment = {**os.environ, "BASE_MODELS": DISPLAY, "MODELS_DIR": str(town.home.models)}
    done = subprocess.run(
        [sys.executable, "-m", "oneseek", "train", "--dataset", str(town.dataset), "--epochs", "1"],
        env=environment,
        cwd=town.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Training 1 selected model(s):" in done.stdout
    return town


def test_a_selected_model_names_every_artefact_and_no_other_model_does(trained: Town) -> None:
    results = trained.results
    metadata = json.loads(results.metadata("1.0").read_text())
    (run,) = [path for path in results.runs.iterdir() if path.is_dir()]
    certified = {name: json.loads((run / f"{name}.json").read_text()) for name in ("oneseek_dna", "training_results")}
    metrics = json.loads((run / "live_metrics.json").read_text())

    assert metadata["version"] == "OneSeek-7B-Zero.v1.0"
    assert metadata["baseModels"] == [DISPLAY]
    assert metadata["modelSpecificWeights"] == {KEY: f"oneseek-7b-zero-v1.0-{KEY}.pth"}
    assert metadata["multiModelMode"] is False
    assert (results.weights / f"oneseek-7b-zero-v1.0-{KEY}.pth").is_file()
    assert (results.adapters / f"oneseek-7b-zero-v1.0-{KEY}" / "adapter_config.json").is_file()
    assert (results.adapters / f"{KEY}-adapter" / "adapter_model.safetensors").is_file()
    for document in certified.values():
        assert document["baseModels"] == [KEY]
    assert certified["oneseek_dna"]["final_weights"] == {KEY: 1.0}
    assert certified["training_results"]["trained_models"] == [KEY]
    assert set(metrics["val_losses"]) == set(metrics["weights"]) == {KEY}
    assert not [path for path in results.root.rglob("*mistral*") if results.family in path.parents]


def test_no_file_name_has_a_colon_or_two_dots_in_a_row(trained: Town) -> None:
    names = [path.name for path in trained.results.root.rglob("*")]

    assert not [name for name in names if ":" in name or ".." in name]


def test_the_weights_file_holds_the_adapters_tensors_and_loads_without_pickled_code(trained: Town) -> None:
    import safetensors.torch
    import torch

    results = trained.results

    weights = torch.load(results.weights_file("1.0", KEY), weights_only=True)
    adapter = safetensors.torch.load_file(results.versioned_adapter("1.0", KEY) / "adapter_model.safetensors")

    assert weights.keys() == adapter.keys()
    assert all(torch.equal(weights[name], adapter[name]) for name in adapter)
