"""What is told of a run to somebody who was not there from the beginning."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given

from oneseek.config.schema import TrainingConfig
from oneseek.events import AnyEvent, DownloadProgressed, EpochCommitted, RunFailed, RunFinished
from oneseek.events.state import RunState, apply, begin, replay
from oneseek.events.wire import detail, initial_state, leaderboard, metrics, standings, wire
from support.histories import accepted, committed, finished, histories, planned, progress

AT = "2025-11-22T14:30:25.123Z"
REPEATED = {"type", "seq", "run_id", "timestamp", "total_epochs", "quarantined", "progress_percent"}


def state_after(*events: AnyEvent, **settings: Any) -> RunState:
    state = replay([accepted(config=TrainingConfig.model_validate(settings)), planned(), *events])
    assert state is not None
    return state


def test_before_the_first_epoch_nothing_is_measured_and_all_weigh_the_same() -> None:
    told = metrics(AT, state_after(), "training")

    assert (told["current_epoch"], told["total_epochs"], told["progress_percent"]) == (0, 3, 0)
    assert told["val_losses"] == told["bits_per_byte"] == {"alfa": None, "beta": None}
    assert (told["weights"], told["lr_multipliers"]) == ({"alfa": 1.0, "beta": 1.0}, {})
    assert (told["total_loss"], told["auto_stop_info"], told["training_history"]) == (None, None, [])


def test_metrics_are_those_of_the_last_epoch_that_holds() -> None:
    commit = committed(1, {"alfa": 3.0, "beta": 4.0}, weights={"alfa": 1.3, "beta": 0.7})
    told = metrics(AT, state_after(commit, progress("alfa", 2, 1)), "interrupted")

    assert (told["run_id"], told["status"], told["timestamp"]) == ("run-20251122-143025", "interrupted", AT)
    assert (told["current_epoch"], told["val_losses"]) == (1, {"alfa": 3.0, "beta": 4.0})
    assert (told["weights"], told["lr_multipliers"]) == ({"alfa": 1.3, "beta": 0.7}, {"alfa": 1e-4, "beta": 1e-4})
    assert told["total_loss"] == pytest.approx(3.5)
    assert told["auto_stop_info"]["threshold"] == 0.001


def test_a_model_that_left_has_no_loss_and_its_cause_is_told() -> None:
    told = metrics(AT, state_after(committed(1, {"alfa": 3.0}, quarantined={"beta": "NaN"})), "training")

    assert told["val_losses"] == {"alfa": 3.0, "beta": None}
    assert told["quarantined"] == {"beta": "NaN"}


def test_what_is_not_to_be_displayed_is_told_all_the_same() -> None:
    hidden = {"live_leaderboard": {"display": {"show_weights": False, "show_loss_per_model": False}}}

    told = metrics(AT, state_after(committed(1, {"alfa": 3.0, "beta": 4.0}), **hidden), "training")

    assert told["display"]["show_weights"] is told["display"]["show_loss_per_model"] is False
    assert told["weights"] == {"alfa": 1.0, "beta": 1.0}
    assert told["val_losses"]["alfa"] == 3.0


@given(histories())
def test_the_history_is_what_listeners_were_told_epoch_by_epoch(events: list[AnyEvent]) -> None:
    state, heard = begin(events[0]), []
    for event in events[1:]:
        state = apply(state, event)
        if isinstance(event, EpochCommitted):
            body = wire(1, AT, event, state)
            heard.append({name: value for name, value in body.items() if name not in REPEATED})

    assert metrics(AT, state, "training")["training_history"] == heard


def test_the_history_of_a_finished_run_is_no_other() -> None:
    rising = committed(2, {"alfa": 1.0}, results={"alfa": finished("alfa", 2, 1.5, val_loss=2.5)})
    falling = committed(3, {"alfa": 1.0}, results={"alfa": finished("alfa", 3, 1.0, val_loss=2.2)})
    events = (committed(1, {"alfa": 2.0}), rising, falling)
    end = RunFinished(champion="alfa", final_weights={"alfa": 1.0}, quarantined={"beta": "late"}, reason="all_epochs")

    told = metrics(AT, state_after(*events, end), "certified")["training_history"]

    assert told == metrics(AT, state_after(*events), "training")["training_history"]
    assert [epoch["overfitting"] for epoch in told] == [[], ["alfa"], []]


def test_standings_are_the_leaderboard_and_how_far_the_run_is() -> None:
    state = state_after(committed(1, {"alfa": 4.0, "beta": 3.0}))

    told = standings(AT, state, "training")

    fields = ("run_id", "status", "current_epoch", "total_epochs", "auto_stop_info", "progress_percent", "timestamp")
    assert set(told) == {*fields, "leaderboard"}
    assert told["leaderboard"] == leaderboard(state)
    assert (told["leaderboard"][0]["rank"], told["leaderboard"][0]["model"]) == (1, "beta")


@given(histories())
def test_the_first_that_a_listener_gets_is_metrics_and_leaderboard_at_every_moment(events: list[AnyEvent]) -> None:
    state = begin(events[0])
    for seq, event in enumerate(events[1:], start=2):
        state = apply(state, event)

        told = initial_state(seq, AT, state, "training")

        assert (told["type"], told["seq"]) == ("initial_state", seq)
        assert metrics(AT, state, "training").items() <= told.items()
        assert told["leaderboard"] == leaderboard(state)
        assert set(told["progress"]) == set(state.progress)
        assert msgspec.json.decode(msgspec.json.encode(told)) == told


def test_a_listener_is_told_what_only_earlier_events_said() -> None:
    download = DownloadProgressed(model="beta", done_bytes=1, total_bytes=4, bytes_per_second=1.0)
    downloading = replay([accepted(), download])
    failed = state_after(RunFailed(problem="The disk is full.", fix="Free some."))
    end = RunFinished(champion="alfa", final_weights={"alfa": 1.0}, quarantined={}, reason="auto_stop")
    assert downloading is not None

    assert initial_state(2, AT, downloading, "preparing")["downloads"]["beta"]["seconds_left"] == 3
    assert initial_state(3, AT, failed, "failed")["failure"] == {"problem": "The disk is full.", "fix": "Free some."}
    assert initial_state(3, AT, state_after(end), "completed")["result"]["champion"] == "alfa"
    assert initial_state(2, AT, state_after(), "training")["failure"] is None


def test_the_answers_to_sample_prompts_are_told_by_epoch_where_there_are_some() -> None:
    answered = committed(1, {"alfa": 1.0}, results={"alfa": finished("alfa", 1, 1.0, samples=("Hej.",))})
    state = state_after(answered, committed(2, {"alfa": 1.0}), training={"sample_prompts": ["Hi?"]})

    told = detail(state)

    assert told["sample_prompts"] == ["Hi?"]
    assert told["samples"] == [{"epoch": 1, "samples": {"alfa": ["Hej."]}}]
    assert set(detail(state_after(committed(1, {"alfa": 1.0})))) == {"leaderboard"}
    assert detail(None) == {"leaderboard": []}
