"""DNA: three hashes that say which data, which recipe and which weights belong together.

There is no clock, path or machine in it: the same DNA twice means the same three hashes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import rfc8785

from oneseek.events.state import RunState
from oneseek.names import FAMILY


class Dna(msgspec.Struct, frozen=True, kw_only=True):
    """Hex SHA-256 of the dataset file's bytes, of the recipe's canonical JSON, of the verified adapters' tensors."""

    dataset: str
    recipe: str
    weights: str

    def name(self, version: str) -> str:
        """`OneSeek-7B-Zero.v1.0.<dataset8>.<recipe8>.<weights8>`."""
        return f"{FAMILY}.v{version}.{self.dataset[:8]}.{self.recipe[:8]}.{self.weights[:8]}"


# What a person may change without changing a weight has no place in the recipe.
_NOT_TRAINING = ("model", "output", "execution", "live_leaderboard", "metadata")
# The rows used are told by their digests, whichever file they came from and whatever was left out of it.
_TOLD_BY_ROWS = ("dataset", "validation_dataset", "bad_rows")
_SEEN_NOT_LEARNED = ("checkpoint_every", "sample_prompts", "sample_tokens")


def recipe(state: RunState) -> dict[str, Any]:
    """Everything that the weights follow from: settings, rows with their split, base models with their targets."""
    config = {name: section for name, section in state.config.items() if name not in _NOT_TRAINING}
    config["model"] = {"quantization": state.config["model"]["quantization"]}
    config["data"] = {name: value for name, value in config["data"].items() if name not in _TOLD_BY_ROWS}
    config["training"] = {name: value for name, value in config["training"].items() if name not in _SEEN_NOT_LEARNED}
    config["training"]["rank_by"] = state.rank_by  # what the adaptive weights really followed
    if config["training"]["method"] != "dpo":
        del config["dpo"]
    config["data"]["strategy"] = state.accepted.dataset.strategy
    config["per_model"] = {key: part for key, part in config["per_model"].items() if key in state.keys}
    return {
        "config": config,
        "rows": {"format": state.accepted.dataset.format, "sha256": state.accepted.dataset.rows_sha256},
        "base_models": {
            model.key: {
                "weights": model.weights_sha256,
                "config": model.config_sha256,
                "tokenizer": model.tokenizer_sha256,
                "template": model.template_sha256,
                "target_modules": list(model.target_modules),
            }
            for model in state.accepted.models
        },
    }


def recipe_sha256(document: dict[str, Any]) -> str:
    """Of the RFC 8785 form, so that white space and the order of keys play no part."""
    return hashlib.sha256(rfc8785.dumps(document)).hexdigest()
