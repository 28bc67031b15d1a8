"""How many tokens a base model reads, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oneseek.registry.families import WITHOUT_LIMIT

_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "max_target_positions",
    "context_length",
)
_STRETCHED = ("linear", "dynamic", "yarn")


def context_length(config: Mapping[str, Any]) -> int | None:
    """The tokens that the model reads at most; None where it has no limit (ALiBi) or states none.

    Rotary positions that are scaled reach further than they were trained: where the original length is stated, `factor`
    times that, if it is more. Where it is not, the stated length is taken to be the original one only in the older form
    of the setting (`type`), whose documentation asked for that; in the newer (`rope_type`) models state the whole.
    """
    if config.get("alibi") is True or config.get("model_type") in WITHOUT_LIMIT:
        return None
    stated = positive(config, *_NAMES)
    scaling = config.get("rope_scaling") or config.get("rope_parameters")
    if stated is None or not isinstance(scaling, Mapping):
        return stated
    factor = _factor(scaling)
    if factor is None or scaling.get("rope_type", scaling.get("type")) not in _STRETCHED:
        return stated
    original = positive(scaling, "original_max_position_embeddings")
    if original is None:
        original = stated if "rope_type" not in scaling else 0
    return max(stated, int(original * factor))


def positive(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and 0 < value < 2**63), None)


def _factor(scaling: Mapping[str, Any]) -> float | None:
    factor = scaling.get("factor")
    return float(factor) if isinstance(factor, int | float) and 1 <= factor < 2**20 else None
