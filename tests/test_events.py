from __future__ import annotations

import typing

import pytest

from oneseek.config.schema import TrainingConfig
from oneseek.errors import JournalDamaged
from oneseek.events import (
    DISPLAY_ONLY,
    AnyEvent,
    AutoStop,
    EpochStarted,
    ModelVerified,
    RunFinished,
    RunInterrupted,
    RunPlanned,
    RunResumed,
    StopRequested,
    WorkerRestarted,
)
from oneseek.events.state import RunState, apply, replay
from oneseek.events.wire import _TABLE, leaderboard, wire
from support.histories import accepted, committed, finished, planned, progress

STARTED = EpochStarted(epoch=1, learning_rates={"alfa": 1e-4, "beta": 1e-4})


def state_after(*events: AnyEvent) -> RunState:
    state = replay([accepted(), planned(), *events])
    assert state is not None
    return state


def test_every_event_has_a_place_in_the_wire_table() -> None:
    assert set(typing.get_args(AnyEvent)) == set(_TABLE)


def test_what_decides_anything_is_never_display_only() -> None:
    deciding = {"RunAccepted", "RunPlanned", "EpochCommitted", "RunFinished", "RunResumed", "RunFailed"}

    assert not deciding & {event.__name__ for event in DISPLAY_ONLY}


def test_epoch_end_has_the_fields_and_types_that_old_listeners_know() -> None:
    stop = AutoStop(remaining=2, threshold=0.001, current_change=0.0023, triggered=False)
    commit = committed(1, {"alfa": 3.17, "beta": 4.03}, auto_stop=stop)
    state = state_after(STARTED, commit)

    event = wire(7, "2025-11-22T14:30:25.123Z", commit, state)

    assert event["type"] == "epoch_end"
    assert event["seq"] == 7
    assert event["epoch"] == 1
    assert event["val_losses"] == {"alfa": 3.17, "beta": 4.03}
    assert event["weights"] == {"alfa": 1.0, "beta": 1.0}
    assert event["lr_multipliers"] == {"alfa": 1e-4, "beta": 1e-4}
    assert event["total_loss"] == pytest.approx(3.6)
    assert event["auto_stop_info"] == {"remaining": 2, "threshold": 0.001, "current_change": 0.0023}
    assert event["progress_percent"] == pytest.approx(33.33)
    assert event["timestamp"] == "2025-11-22T14:30:25.123Z"


def test_a_quarantined_models_losses_are_null_on_the_wire() -> None:
    commit = committed(1, {"alfa": 3.0}, quarantined={"beta": "NaN"})
    state = state_after(STARTED, commit)

    event = wire(3, "", commit, state)

    assert event["val_losses"] == {"alfa": 3.0, "beta": None}
    assert event["quarantined"] == {"beta": "NaN"}
    assert state.live == ("alfa",)


def test_the_leaderboard_ranks_by_bits_per_byte_with_quarantined_models_last() -> None:
    state = replay(
        [
            accepted("a", "b", "c"),
            planned("a", "b", "c"),
            committed(1, {"a": 2.0, "b": 1.0}, quarantined={"c": "gone"}),
        ]
    )
    assert state is not None

    rows = leaderboard(state)

    assert [(row["rank"], row["model"]) for row in rows] == [(1, "b"), (2, "a"), (3, "c")]
    assert (rows[2]["status"], rows[2]["cause"]) == ("quarantined", "gone")


def test_a_model_that_could_not_be_prepared_is_quarantined_from_the_start() -> None:
    state = replay([accepted("a", "b"), planned("a", unprepared={"b": "no memory"})])

    assert state is not None
    assert state.live == ("a",)
    assert state.quarantined == {"b": "no memory"}


def test_progress_is_the_share_of_all_steps_of_all_epochs() -> None:
    config = TrainingConfig.model_validate({"training": {"num_epochs": 2}})
    begun = replay([accepted("a", "b", config=config), planned("a", "b"), STARTED])
    assert begun is not None

    half = apply(apply(begun, progress("a", 1, 5)), progress("b", 1, 0))

    assert begun.progress_percent == 0
    assert half.progress_percent == 25
    assert apply(half, finished("b", 1, 1.0)).progress_percent == 50
    assert apply(half, committed(1, {"a": 1.0, "b": 1.0})).progress_percent == 50


def test_the_best_epoch_is_the_first_with_the_lowest_ranked_metric() -> None:
    state = state_after(*(committed(epoch, {"alfa": loss}) for epoch, loss in enumerate((3.0, 1.0, 2.0, 1.0), start=1)))

    assert state.best_epoch("alfa") == 2
    assert state.kept_epoch("alfa") == 2


def test_keeping_the_last_keeps_the_last() -> None:
    config = TrainingConfig.model_validate({"training": {"keep": "last"}})
    state = replay([accepted("alfa", config=config), committed(1, {"alfa": 1.0}), committed(2, {"alfa": 2.0})])

    assert state is not None
    assert state.kept_epoch("alfa") == 2


def test_a_run_is_trained_when_epochs_patience_or_models_are_used_up() -> None:
    stop = AutoStop(remaining=0, threshold=0.001, current_change=0.0, triggered=True)

    assert not state_after(committed(1, {"alfa": 1.0})).trained
    assert state_after(*(committed(epoch, {"alfa": 1.0}) for epoch in (1, 2, 3))).trained
    assert state_after(committed(1, {"alfa": 1.0}, auto_stop=stop)).trained
    assert state_after(committed(1, {}, quarantined={"alfa": "x", "beta": "y"})).trained


def test_overfitting_is_validation_rising_while_training_falls() -> None:
    first = committed(1, {"alfa": 2.0})
    second = committed(2, {"alfa": 1.0}, results={"alfa": finished("alfa", 2, 1.5, val_loss=2.5)})
    state = state_after(first, second)

    assert wire(9, "", second, state)["overfitting"] == ["alfa"]
    assert [row["overfitting"] for row in leaderboard(state) if row["model"] == "alfa"] == [True]


def test_a_stop_request_holds_until_the_run_is_resumed() -> None:
    asked = state_after(STARTED, StopRequested(), EpochStarted(epoch=2, learning_rates={}))

    assert asked.status == "stopping"
    assert apply(asked, RunResumed(epoch=1)).status == "training"


def test_a_lost_workers_progress_is_not_shown_any_more() -> None:
    state = state_after(STARTED, progress("alfa", 1, 3))

    after = apply(state, WorkerRestarted(model="alfa", epoch=1, attempt=2, cause="killed"))

    assert "alfa" not in after.progress


def test_an_interruption_voids_what_was_verified() -> None:
    verified = ModelVerified(model="alfa", epoch=1, tensors_sha256="0" * 64, lora_b_norm=1.0, output_difference=1.0)
    state = state_after(committed(1, {"alfa": 1.0}), verified, RunInterrupted(cause="Ctrl-C"))

    assert apply(state, RunResumed(epoch=1)).verified == {}


def test_a_finished_run_is_over() -> None:
    end = RunFinished(champion="alfa", final_weights={"alfa": 1.0}, quarantined={"beta": "late"}, reason="all_epochs")
    state = state_after(committed(1, {"alfa": 1.0}), end)

    assert (state.over, state.status, state.progress_percent) == (True, "completed", 100)
    assert state.quarantined == {"beta": "late"}


def test_a_journal_begins_with_run_accepted_and_holds_it_once() -> None:
    with pytest.raises(JournalDamaged, match="begins with RunAccepted"):
        replay([RunPlanned(models=(), unprepared={}, at_once=1, rank_by="val_loss", excluded_validation_rows=())])
    with pytest.raises(JournalDamaged, match="once"):
        replay([accepted(), accepted()])
