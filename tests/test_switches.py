"""What the switches of adaptive weights mean for a whole run."""

from __future__ import annotations

from typing import Any

import pytest

from oneseek.preflight.finding import PreflightError
from support.runs import Town


def weights(town: Town, **settings: Any) -> list[dict[str, float]]:
    """The weights after each epoch of a run in which alfa-1b leads in all three and nobody improves in the second."""
    town.script("alfa-1b", {"val_losses": [2.0, 2.0, 1.8], "bits_per_byte": [1.0, 1.0, 0.9]})
    town.script("beta-1b", {"val_losses": [3.0, 3.0, 2.8], "bits_per_byte": [1.5, 1.5, 1.4]})
    _, state = town.train(training__num_epochs=3, confidence_auto_stop__enabled=False, **settings)
    return [dict(commit.weights) for commit in state.committed]


def test_switched_off_every_weight_is_one_after_every_epoch(town: Town) -> None:
    assert weights(town, adaptive_weights__enabled=False) == [{"alfa-1b": 1.0, "beta-1b": 1.0}] * 3


def test_without_normalising_weights_are_only_kept_between_the_limits(town: Town) -> None:
    first, second, third = weights(town, adaptive_weights__adjust_strategy__normalize_weights=False)

    assert first == {"alfa-1b": 1.3, "beta-1b": 0.6}
    assert second == third == {"alfa-1b": 1.5, "beta-1b": 0.5}


def test_adjusted_only_after_improvement_weights_rest_where_nobody_improved(town: Town) -> None:
    settings: dict[str, Any] = {"adaptive_weights__max_multiplier": 10, "adaptive_weights__min_multiplier": 0.01}

    always = weights(town, **settings)
    first, second, third = weights(town, adaptive_weights__adjust_strategy__adjust_every_epoch=False, **settings)

    assert len({commit["alfa-1b"] for commit in always}) == 3
    assert first == second == always[0]
    assert third["alfa-1b"] > second["alfa-1b"]


def test_atomic_writes_switched_off_refuse_the_run(town: Town) -> None:
    from oneseek import runs
    from oneseek.config.sources import resolve

    flags = {"metadata.use_atomic_writes": False, "model.base_models": ["alfa-1b"], "data.dataset": str(town.dataset)}
    asked = resolve(file=None, environment={}, flags=flags)

    with pytest.raises(PreflightError) as refused:
        runs.submit(asked.config, town.home, problems=asked.problems, engine="scripted")

    assert [finding.field for finding in refused.value.findings if finding.severity == "error"] == [
        "metadata.use_atomic_writes"
    ]
