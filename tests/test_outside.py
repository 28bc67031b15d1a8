"""Runs that another program trains: their journal follows from what it reports, and from nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from oneseek import runs
from oneseek.cli import oneseek
from oneseek.errors import ConfigError, RunError, RunUnknown
from oneseek.events import AutoStop, EpochCommitted, RunAccepted, RunFailed, RunFinished, RunResumed
from oneseek.events.state import RunState
from oneseek.events.wire import epoch_end, leaderboard
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.journal.file import read as journal
from oneseek.runs.outside import Report, read, report
from support.runs import Town, events

RUN = "run-20231122-143025"
ALFA, BETA = "mistral-7b-instruct", "llama-2-7b-chat"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, tmp_path / "models")


def place(home: Home, run_id: str = RUN) -> RunDirectory:
    return Results(home.models.resolve()).run(run_id)


def tell(home: Home, epoch: int, alfa: float | None = None, beta: float | None = None, **more: Any) -> RunState:
    losses: dict[str, Any] = {"val_losses": {ALFA: alfa, BETA: beta}} if (alfa, beta) != (None, None) else {}
    return report(home, RUN, Report(**({"epoch": epoch, "total_epochs": 3, **losses} | more)))[0]


def test_the_report_of_the_old_system_is_understood(home: Home) -> None:
    body = {
        "epoch": 1,
        "total_epochs": 5,
        "val_losses": {"Mistral-7B-Instruct": 3.17, "Llama-2-7B-Chat": 4.03},
        "weights": {"Mistral-7B-Instruct": 1.48, "Llama-2-7B-Chat": 0.71},
        "lr_multipliers": {"Mistral-7B-Instruct": 0.000148, "Llama-2-7B-Chat": 0.000071},
        "total_loss": 3.98,
        "auto_stop_info": {"remaining": 2, "threshold": 0.001, "current_change": 0.0023},
        "type": "epoch_end",
        "progress_percent": 20,
        "timestamp": "2023-11-22T14:30:25.123Z",
    }

    state, begun = report(home, RUN, read(body))

    assert begun
    assert (state.status, state.epochs_done, state.total_epochs) == ("training", 1, 5)
    assert [model.display_name for model in state.accepted.models] == ["Mistral-7B-Instruct", "Llama-2-7B-Chat"]
    shown = epoch_end(state.committed[-1], state)
    assert shown["val_losses"] == {ALFA: 3.17, BETA: 4.03}
    assert shown["weights"] == {ALFA: 1.48, BETA: 0.71}
    assert shown["lr_multipliers"] == {ALFA: 0.000148, BETA: 0.000071}
    assert shown["total_loss"] == 3.98
    assert shown["auto_stop_info"] == body["auto_stop_info"]
    assert [(row["rank"], row["model"]) for row in leaderboard(state)] == [(1, ALFA), (2, BETA)]


@given(st.sampled_from(["valLosses", "val_losses"]), st.sampled_from(["totalEpochs", "total_epochs"]))
def test_both_spellings_say_the_same(losses: str, total: str) -> None:
    body = {"epoch": 1, losses: {"a_b": 1.0}, total: 2, "autoStopInfo": {"remaining": 1, "threshold": 0.1}}

    assert read(body) == read(
        {"epoch": 1, "valLosses": {"a_b": 1.0}, "totalEpochs": 2, "auto_stop_info": body["autoStopInfo"]}
    )


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, "epoch"),
        ({"epoch": "1"}, "epoch"),
        ({"epoch": -1}, "epoch"),
        ({"epoch": 1, "losses": {}}, "losses"),
        ({"epoch": 1, "weights": {"a": 0}}, "weights"),
        ({"epoch": 1, "totalEpochs": 1, "total_epochs": 1}, "totalEpochs twice"),
        ({"epoch": 1, "failed": ""}, "failed"),
    ],
)
def test_what_is_no_report_is_refused(body: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read(body)


def test_a_run_is_told_to_its_end(home: Home) -> None:
    tell(home, 0, base_models=(ALFA, BETA))
    waiting = runs.describe(place(home))
    tell(home, 1, 3.0, 4.0)
    tell(home, 2, 2.0, 3.5)
    state = tell(home, 3, 1.5, 3.0, done=True)

    assert (waiting.status, state.status) == ("preparing", "completed")
    assert [event.epoch for event in events(place(home)) if isinstance(event, EpochCommitted)] == [1, 2, 3]
    assert events(place(home))[-1] == RunFinished(
        champion=ALFA, final_weights={ALFA: 0.5, BETA: 0.5}, quarantined={}, reason="all_epochs"
    )
    assert not place(home).work.exists()
    assert not runs.is_running(place(home))


def test_what_is_not_reported_is_not_made_up(home: Home) -> None:
    tell(home, 1, 3.0, 4.0)
    tell(home, 2, 2.5, 4.0, weights={ALFA: 1.5, BETA: 0.5})
    state = tell(home, 3, 2.0, 4.0)

    first, second, third = state.committed
    assert (first.weights, second.weights) == ({ALFA: 1.0, BETA: 1.0}, {ALFA: 1.5, BETA: 0.5})
    assert third.weights == second.weights
    assert first.learning_rates == third.learning_rates == {}
    assert [row["lr_multiplier"] for row in leaderboard(state)] == [None, None]
    assert third.auto_stop == AutoStop(remaining=None, threshold=0.001, current_change=0.25, triggered=False)
    assert (first.total_loss, state.rank_by) == (3.5, "val_loss")


def test_where_bits_per_byte_are_told_they_rank(home: Home) -> None:
    state = tell(home, 1, 3.0, 4.0, bits_per_byte={ALFA: 1.2, BETA: 1.1})

    assert [row["model"] for row in leaderboard(state)] == [BETA, ALFA]
    with pytest.raises(ConfigError, match="bitsPerByte"):
        tell(home, 2, 3.0, 4.0, bits_per_byte={ALFA: 1.2})


def test_a_model_without_a_loss_is_out_from_then_on(home: Home) -> None:
    tell(home, 1, 3.0, 4.0)
    tell(home, 2, 2.0, None)
    state = tell(home, 3, 1.0, 4.0, weights={ALFA: 1.5, BETA: 0.5}, done=True)

    assert state.quarantined == {BETA: "It reported no loss."}
    assert [list(commit.results) for commit in state.committed] == [[ALFA, BETA], [ALFA], [ALFA]]
    assert events(place(home))[-1] == RunFinished(
        champion=ALFA, final_weights={ALFA: 1.0}, quarantined=state.quarantined, reason="all_epochs"
    )
    assert tell(home, 3, 1.0, 4.0, done=True) == state


@pytest.mark.parametrize("ending", [{}, {"done": True}, {"failed": "Out of memory."}])
def test_the_same_report_twice_changes_nothing(home: Home, ending: dict[str, Any]) -> None:
    tell(home, 1, 3.0, 4.0)
    once = tell(home, 2, 2.0, 3.0, **ending)
    bytes_once = place(home).journal.read_bytes()

    twice = tell(home, 2, 2.0, 3.0, **ending)

    assert twice == once
    assert place(home).journal.read_bytes() == bytes_once


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1.0, 2.0, None]), st.booleans(), st.booleans()), max_size=8)
)
def test_whatever_is_reported_the_journal_is_one_that_replays_and_epochs_are_in_order(
    tmp_path_factory: pytest.TempPathFactory, reports: list[tuple[int, float | None, bool, bool]]
) -> None:
    root = tmp_path_factory.mktemp("home")
    home, state = Home(root, root / "models"), None

    for epoch, loss, done, failed in reports:
        try:
            state = tell(home, epoch, loss, 1.0, base_models=(ALFA, BETA), done=done, failed="x" if failed else None)
        except (ConfigError, RunError):
            continue

    if state:
        epochs = [event.epoch for event in events(place(home)) if isinstance(event, EpochCommitted)]
        assert epochs == list(range(1, len(epochs) + 1))
        assert runs.describe(place(home)).state == state


@pytest.mark.parametrize(
    ("epoch", "losses", "problem"),
    [
        (1, (3.0, 4.0), "Epoch 1 .* can't be reported: 2 of 3 are there"),
        (2, (9.0, 3.0), f"another loss of {ALFA}"),
        (4, (1.0, 1.0), "Epoch 4"),
    ],
)
def test_an_epoch_out_of_order_or_told_otherwise_is_a_conflict(
    home: Home, epoch: int, losses: tuple[float, float], problem: str
) -> None:
    tell(home, 1, 3.0, 4.0)
    tell(home, 2, 2.0, 3.0)
    before = place(home).journal.read_bytes()

    with pytest.raises(RunError, match=problem):
        tell(home, epoch, *losses)

    assert place(home).journal.read_bytes() == before


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (Report(epoch=1, val_losses={ALFA: 1.0}), "how long it is to be"),
        (Report(epoch=1, total_epochs=2), "names no model"),
        (Report(epoch=2, total_epochs=2, val_losses={ALFA: 1.0}), "Epoch 2 .* 0 of 2"),
        (Report(epoch=1, total_epochs=2, base_models=(ALFA, BETA), val_losses={ALFA: 1.0}), f"nothing of {BETA}"),
        (Report(epoch=1, total_epochs=2, base_models=(ALFA,), val_losses={ALFA: 1.0, BETA: 1.0}), "no model of"),
        (Report(epoch=1, total_epochs=2, val_losses={"a": 1.0, "A": 1.0}), "two are the same"),
        (Report(epoch=1, total_epochs=2, val_losses={"..": 1.0}), "no model's name"),
        (Report(epoch=1, total_epochs=2, val_losses={ALFA: 1.0}, done=True, failed="x"), "done and failed"),
    ],
)
def test_a_first_report_that_begins_nothing_leaves_nothing(home: Home, first: Report, problem: str) -> None:
    with pytest.raises((ConfigError, RunError), match=problem):
        report(home, RUN, first)

    assert not place(home).root.exists()


@pytest.mark.parametrize(
    "run_id", ["", "..", "run-1", "../run-20231122-143025", "run-20231122-143025/x", "run-20231122-143025\0"]
)
def test_what_is_no_run_id_is_unknown(home: Home, run_id: str) -> None:
    with pytest.raises(RunUnknown):
        report(home, run_id, Report(epoch=1, total_epochs=1, val_losses={ALFA: 1.0}))

    assert not home.models.exists()


def test_a_run_that_failed_goes_on_with_its_next_epoch(home: Home) -> None:
    tell(home, 1, 3.0, 4.0, failed="The machine went down.")
    failed = runs.describe(place(home))
    state = tell(home, 2, 2.0, 3.0)

    assert (failed.status, state.status, state.epochs_done) == ("failed", "training", 2)
    assert RunFailed(problem="The machine went down.") in events(place(home))
    assert RunResumed(epoch=1) in events(place(home))


def test_our_own_runs_are_nobody_elses_to_report(town: Town) -> None:
    with town.submit() as run:
        running = run.directory.run_id
        with pytest.raises(RunError, match="trained by OneSeek"):
            report(town.home, running, Report(epoch=1, total_epochs=1, val_losses={"alfa-1b": 1.0}))

    with pytest.raises(RunError, match="trained by OneSeek"):
        report(town.home, running, Report(epoch=1, total_epochs=1, val_losses={"alfa-1b": 1.0}))


def test_an_id_under_which_something_else_lies_is_taken(home: Home) -> None:
    place(home).root.mkdir(parents=True)
    (place(home).root / "training_results.json").write_text("{}")

    with pytest.raises(RunError, match="taken already"):
        tell(home, 1, 3.0, 4.0)


def test_a_beginning_that_was_broken_off_is_begun_again(home: Home) -> None:
    place(home).work.mkdir(parents=True)
    place(home).lock.touch()

    assert tell(home, 1, 3.0, 4.0).epochs_done == 1


def test_of_reports_at_once_one_begins_the_run(home: Home) -> None:
    with ThreadPoolExecutor(4) as pool:
        told = list(
            pool.map(lambda _: report(home, RUN, Report(epoch=1, total_epochs=1, val_losses={ALFA: 1.0})), range(4))
        )

    assert sorted(begun for _, begun in told) == [False, False, False, True]
    assert sum(isinstance(event, EpochCommitted | RunAccepted) for event in events(place(home))) == 2


def test_such_a_run_is_listed_and_never_broken_off_for_want_of_a_process(home: Home) -> None:
    tell(home, 1, 3.0, 4.0)

    (known,) = runs.list_runs(home)

    assert known.status == "training"
    assert known.wire()["base_models"] == [ALFA, BETA]
    assert not known.wire()["verifiable"]


@pytest.mark.parametrize("done", [False, True])
def test_nothing_is_done_with_it_that_needs_its_weights(home: Home, done: bool) -> None:
    tell(home, 1, 3.0, 4.0, done=done)
    before = journal(place(home).journal)
    attempts: dict[str, Callable[[], object]] = {
        "resumed": lambda: runs.resume(place(home)),
        "certified": lambda: runs.certify(place(home), home, {}),
        "asked": lambda: runs.generate(place(home), ["Hello"]),
        "reproduced": lambda: runs.reproduce(place(home), home),
    }

    for word, attempt in attempts.items():
        with pytest.raises(RunError, match=f"another program.* can't be {word}"):
            attempt()

    assert journal(place(home).journal) == before
    assert not runs.is_running(place(home))


def test_verify_says_that_it_is_never_certified(home: Home) -> None:
    tell(home, 1, 3.0, 4.0, done=True)

    found = runs.verify(RUN, home, environment={})

    assert not found.ok
    (said,) = [check for check in found.checks if check.name == "journal"]
    assert (said.result, "never certified" in said.detail) == ("failed", True)


@pytest.mark.parametrize("command", ["list", "show", "watch"])
def test_the_command_line_shows_it(home: Home, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(home, 1, 3.0, 4.0, done=True)
    arguments = ["runs", command, *([RUN] if command != "list" else []), "--home", str(home.root)]

    said = CliRunner().invoke(oneseek, arguments, env=dict(os.environ))

    assert said.exit_code == 0, said.output
    assert RUN in said.output
    assert "resume" not in said.output
    assert "ledger submit" not in said.output


def test_what_is_not_reported_is_not_known_rather_than_nought(home: Home) -> None:
    tell(home, 1, 3.0, 4.0)
    state = tell(home, 2, 3.5, 4.5)

    result = state.committed[-1].results[ALFA]
    assert (result.train_loss, result.learning_rate, result.tokens_per_second) == (None, None, None)
    body = epoch_end(state.committed[-1], state)
    assert body["train_losses"] == {ALFA: None, BETA: None}
    assert body["overfitting"] == []
    assert leaderboard(state)[0]["tokens_per_second"] is None
