"""Runs over HTTP: what is listed and shown is what the command line says, and names no place of this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from oneseek.cli import oneseek
from oneseek.datasets import store
from oneseek.events import RunFailed, RunStopped
from oneseek.events.wire import leaderboard
from oneseek.runs import outside
from oneseek.server.runs import LONGEST_TAIL, TAIL
from support.old_system import BOTH_MODELS, ONE_DOT, OldSystem
from support.runs import Town, events
from support.supervised import START, Desk, desk

NOWHERE = "run-20000101-000000"
NO_RUNS = (NOWHERE, "run-1", "..%2f", "%2e%2e%5c", "oneseek-certified", "%00", f"{NOWHERE}%0A", "x" * 3000)


@pytest.fixture
def at(town: Town) -> Iterator[Desk]:
    with desk(town, {}) as opened:
        yield opened


def said(town: Town, *command: str) -> Any:
    """What `oneseek runs ... --json` prints in the town."""
    done = CliRunner().invoke(oneseek, ["runs", *command, "--home", str(town.root), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


# -- listed and shown --------------------------------------------------------------------------------------------------


def test_runs_are_listed_as_the_command_line_lists_them_by_places_below_the_models_directory(at: Desk) -> None:
    at.town.train(training__num_epochs=1)
    waiting = at.start()
    OldSystem(at.town.root).metadata(ONE_DOT, BOTH_MODELS)

    told = at.client.get("/api/runs").json()

    expected = said(at.town, "list")
    for run in expected["runs"]:
        for place in {"certified_dir", "path"} & run.keys():
            run[place] = os.path.relpath(run[place], at.town.home.models)
    assert told == expected
    assert [run["status"] for run in told["runs"]] == ["queued", "completed", "not verifiable"]
    assert told["runs"][0]["certified_dir"] == f"oneseek-certified/{waiting}"
    assert str(at.town.root) not in json.dumps(told)


def test_a_run_is_shown_as_the_command_line_shows_it(at: Desk) -> None:
    directory, _ = at.town.train(training__num_epochs=2)

    told = at.client.get(f"/api/runs/{directory.run_id}").json()

    expected = said(at.town, "show", directory.run_id)
    data = expected["config"]["data"] | {"dataset": "rows.jsonl"}
    assert told == expected | {
        "certified_dir": f"oneseek-certified/{directory.run_id}",
        "config": expected["config"] | {"data": data},
    }
    assert [row["rank"] for row in told["leaderboard"]] == [1, 2]


def test_a_run_is_listed_with_its_rows_its_leader_and_its_time(at: Desk) -> None:
    _, state = at.town.train(training__num_epochs=2)

    (told,) = at.client.get("/api/runs").json()["runs"]

    champion = told["champion"]
    best = next(row for row in leaderboard(state) if row["model"] == champion)
    assert told["dataset"] == {
        "name": "rows.jsonl",
        "sha256": state.accepted.dataset.sha256,
        "format": "messages",
        "strategy": "chat",
        "rows": 20,
        "training_rows": 18,
        "validation_rows": 2,
        "quarantined_rows": 0,
        "validation_name": None,
    }
    assert told["display_names"] == {"alfa-1b": "alfa-1b", "beta-1b": "beta-1b"}
    assert (told["leader"], told["rank_by"], told["engine"]) == (champion, "bits_per_byte", "scripted")
    assert (told["bits_per_byte"], told["val_loss"]) == (best["bits_per_byte"], best["val_loss"])
    assert 0 <= told["seconds"] < 60
    assert told["created_at"] < told["ended_at"]
    assert told["failure"] is None


def test_a_run_that_waits_has_no_leader_and_no_end(at: Desk) -> None:
    at.start()

    (told,) = at.client.get("/api/runs").json()["runs"]

    assert (told["leader"], told["bits_per_byte"], told["val_loss"], told["ended_at"]) == (None, None, None, None)
    assert told["seconds"] == 0


def test_a_dataset_of_the_store_goes_by_its_name_as_long_as_it_is_there(at: Desk) -> None:
    store.add(at.town.home, at.town.dataset, "Mina rader")
    run_id = at.start(datasetId="Mina rader")

    told = at.client.get(f"/api/runs/{run_id}").json()
    store.remove(at.town.home, "Mina rader")
    without = at.client.get(f"/api/runs/{run_id}").json()

    assert told["dataset"]["name"] == told["config"]["data"]["dataset"] == "Mina rader"
    assert without["dataset"]["name"] == f"{told['dataset']['sha256']}.jsonl"
    assert str(at.town.root) not in json.dumps([told, without])


def test_a_run_is_shown_with_the_settings_that_start_it_again(at: Desk) -> None:
    asked = {"epochs": 1, "learningRate": 0.01, "perModel": {"alfa-1b": {"lora": {"r": 8}}}}
    first = at.client.get(f"/api/runs/{at.start(**asked)}").json()

    started = at.client.post(START, json=first["config"]).json()["run_id"]

    again = at.client.get(f"/api/runs/{started}").json()
    assert again["config"] == first["config"]
    assert first["warnings"] == [
        "training.learning_rate is 0.01, outside the recommended 1e-05 to 0.0005.",
    ]
    assert (first["final_weights"], first["reason"]) == (None, None)


def test_a_finished_run_tells_its_weights_and_why_it_ended(at: Desk) -> None:
    directory, state = at.town.train(training__num_epochs=1)

    told = at.client.get(f"/api/runs/{directory.run_id}").json()

    assert state.result is not None
    assert (told["final_weights"], told["reason"]) == (state.result.final_weights, "all_epochs")


def test_a_run_that_failed_says_why_and_names_no_place_of_the_server(at: Desk) -> None:
    with at.town.submit() as run:
        run.record(RunFailed(problem=f"No space on {at.town.root}.", fix="Free some."))

    (told,) = at.client.get("/api/runs").json()["runs"]

    assert told["failure"] == {"problem": f"No space on {at.town.root.name}.", "fix": "Free some."}
    assert told["ended_at"]


def test_what_a_run_outside_did_not_tell_is_not_known(at: Desk) -> None:
    outside.report(at.town.home, NOWHERE, outside.Report(epoch=1, total_epochs=2, val_losses={"A": 2.0, "B": 1.0}))

    (told,) = at.client.get("/api/runs").json()["runs"]

    assert (told["dataset"], told["engine"], told["leader"]) == (None, "outside", "b")
    assert (told["bits_per_byte"], told["val_loss"]) == (None, 1.0)


def test_what_the_old_system_left_is_shown_by_its_name_alone(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    path = OldSystem(at.town.root).metadata(ONE_DOT, BOTH_MODELS)
    elsewhere = OldSystem(at.town.root / "elsewhere").metadata("oneseek-7b-zero-v3.0.json", BOTH_MODELS)
    monkeypatch.chdir(elsewhere.parent)

    told = at.client.get(f"/api/runs/{ONE_DOT}").json()

    assert told == said(at.town, "show", str(path)) | {"path": f"oneseek-7b-zero/weights/{ONE_DOT}"}
    assert at.client.get(f"/api/runs/{elsewhere.name}").status_code == 404


def test_a_run_that_cannot_be_read_is_listed_with_its_problem(at: Desk) -> None:
    directory, _ = at.town.train(training__num_epochs=1)
    directory.journal.unlink()
    directory.journal.mkdir()

    (run,) = at.client.get("/api/runs").json()["runs"]

    assert (run["status"], run["problem"]) == ("damaged", "The journal is no regular file.")
    assert at.client.get(f"/api/runs/{directory.run_id}").json()["leaderboard"] == []


def test_what_is_no_run_is_404_whatever_is_done_with_it(at: Desk) -> None:
    for run in NO_RUNS:
        for method, path, body in (
            ("GET", f"/api/runs/{run}", None),
            ("GET", f"/api/runs/{run}/log", None),
            ("POST", f"/api/runs/{run}/stop", {}),
            ("POST", f"/api/runs/{run}/resume", {}),
            ("PATCH", f"/api/queue/{run}", {"position": 0}),
            ("DELETE", f"/api/queue/{run}", None),
        ):
            answer = at.client.request(method, path, json=body)

            assert answer.status_code == 404, (method, path)
            assert answer.json()["error"]["code"] in ("RunUnknown", "NotFound")


# -- stopped and resumed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["after-epoch", "now", "kill"])
def test_a_run_that_waits_is_stopped_and_can_be_resumed(at: Desk, when: str) -> None:
    run = at.start()

    stopped = at.client.post(f"/api/runs/{run}/stop", json={"when": when})
    resumed = at.client.post(f"/api/runs/{run}/resume", json={"device": "cpu"})

    assert (stopped.status_code, stopped.json()["status"]) == (202, "stopped")
    assert (resumed.status_code, resumed.json()["status"], resumed.json()["position"]) == (202, "queued", 0)
    assert RunStopped() in events(at.runs.find(run))


def test_a_run_that_is_over_is_neither_stopped_nor_resumed(at: Desk) -> None:
    directory, _ = at.town.train(training__num_epochs=1)

    for asked in ("stop", "resume"):
        answer = at.client.post(f"/api/runs/{directory.run_id}/{asked}", json={})

        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "RunError")


@pytest.mark.parametrize(
    ("asked", "body"),
    [
        ("stop", {"when": "later"}),
        ("stop", {"when": "now", "really": True}),
        ("stop", []),
        ("resume", {"device": 0}),
        ("resume", {"device": "cuda:7"}),
        ("resume", {"Device": "cpu"}),
    ],
    ids=str,
)
def test_a_body_that_says_something_else_is_refused_and_nothing_is_done(at: Desk, asked: str, body: Any) -> None:
    run = at.start()
    before = events(at.runs.find(run))

    answer = at.client.post(f"/api/runs/{run}/{asked}", json=body)

    assert answer.status_code == 400
    assert events(at.runs.find(run)) == before


# -- what its process said ---------------------------------------------------------------------------------------------


def test_of_a_log_the_end_is_told_as_plain_text(at: Desk) -> None:
    run = at.start()
    path = at.town.home.run_log(run)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"begin" + b"<script>\xff" * 20_000 + "sista åäö".encode())

    tail = at.client.get(f"/api/runs/{run}/log")
    short = at.client.get(f"/api/runs/{run}/log?bytes=11")

    assert tail.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert tail.text == path.read_bytes()[-TAIL:].decode("utf-8", "replace")
    assert short.text == "sista åäö"[-8:]


def test_no_other_part_of_a_log_can_be_asked_for(at: Desk) -> None:
    run = at.start()

    for most in ("0", "-1", str(LONGEST_TAIL + 1), "many", "1e3", ""):
        assert at.client.get(f"/api/runs/{run}/log?bytes={most}").status_code == 400, most


def test_a_run_that_was_started_elsewhere_has_no_log_here(at: Desk) -> None:
    directory, _ = at.town.train(training__num_epochs=1)

    answer = at.client.get(f"/api/runs/{directory.run_id}/log")

    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NotFound")


def test_what_a_models_worker_said_is_told_as_long_as_it_is_there(at: Desk) -> None:
    run = at.start()
    path = at.runs.find(run).worker_log("alfa-1b")
    path.parent.mkdir(parents=True)
    path.write_text("loaded\n")

    assert at.client.get(f"/api/runs/{run}/log?model=alfa-1b").text == "loaded\n"
    assert at.client.get(f"/api/runs/{run}/log?model=beta-1b").status_code == 404


def test_a_model_is_no_path(at: Desk) -> None:
    run = at.start()
    directory = at.runs.find(run)
    (directory.root / "outside.log").write_text("secret")
    (directory.work / "logs").mkdir()

    for model in ("", ".", "..", "../../outside", "%2e%2e%2f%2e%2e%2foutside", "%00", "..%5C..%5Coutside", "%C3%A9"):
        answer = at.client.get(f"/api/runs/{run}/log?model={model}")

        assert answer.status_code == 404, model
        assert "secret" not in answer.text
