"""From what the models reached in an epoch to everything that the run decides from it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from oneseek.config.schema import TrainingConfig
from oneseek.events import EpochCommitted, RunFinished
from oneseek.events.state import RunState
from oneseek.policy import auto_stop
from oneseek.policy.ranking import ranking, usable
from oneseek.policy.weights import adjust, final_weights


def learning_rates(config: TrainingConfig, weights: Mapping[str, float]) -> dict[str, float]:
    """Base learning rate times adaptive weight, by model key."""
    return {key: config.training_for(key).learning_rate * weight for key, weight in weights.items()}


def learning_rates_so_far(state: RunState, config: TrainingConfig) -> dict[str, list[float]]:
    """The learning rates of epochs 1 to the next one, for each live model."""
    first = learning_rates(config, dict.fromkeys(state.keys, 1.0))
    return {key: [first[key], *(commit.learning_rates[key] for commit in state.committed)] for key in state.live}


def commit(state: RunState, config: TrainingConfig) -> EpochCommitted:
    """The record that ends an epoch in which every live model has finished or failed: results, the weights and
    learning rates of the next, auto-stop, who left.

    A model leaves when it failed, or when its ranked metric is not a number.
    """
    metrics = {key: getattr(result, state.rank_by) for key, result in state.finished.items()}
    quarantined = {key: failure.problem for key, failure in state.failing.items()}
    for key, value in metrics.items():
        if not usable(value):
            quarantined[key] = f"Its {state.rank_by} is not a number."
    live = tuple(key for key in state.live if key not in quarantined)
    results = {key: state.finished[key] for key in live}
    now = {key: metrics[key] for key in live}
    history = [{key: state.metric(key, epoch) for key in state.keys} for epoch in range(1, state.epochs_done + 1)] + [
        now
    ]
    improved = any((best := state.metric(key, state.best_epoch(key))) is not None and now[key] < best for key in live)
    weights = adjust(
        {key: state.weights[key] for key in live},
        now,
        config.adaptive_weights,
        improved=improved or not state.committed,
    )
    return EpochCommitted(
        epoch=state.next_epoch,
        results=results,
        weights=weights,
        learning_rates=learning_rates(config, weights),
        total_loss=math.fsum(result.val_loss for result in results.values()) / len(results) if results else None,
        auto_stop=auto_stop.decide(history, config.confidence_auto_stop),
        quarantined={key: quarantined[key] for key in state.keys if key in quarantined},
    )


def finish(state: RunState) -> RunFinished:
    """The record that ends a run of which at least one model is verified.

    The champion is the verified model whose kept adapter has the lowest ranked metric; its weights are those of the
    last epoch, scaled to sum 1.0 over the verified models.
    """
    left = {key: failure.problem for key, failure in state.failing.items() if key not in state.verified}
    reached = {key: state.metric(key, verified.epoch) for key, verified in state.verified.items()}
    stopped = state.auto_stop is not None and state.auto_stop.triggered
    return RunFinished(
        champion=ranking(reached)[0],
        final_weights=final_weights({key: state.weights[key] for key in state.verified}),
        quarantined={**state.quarantined, **left},
        reason="auto_stop" if stopped else "all_epochs",
    )
