"""Commands with `--server`: the same words and exit codes as here, while the work is done there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from oneseek.cli import oneseek
from oneseek.cli.watching import Lines
from oneseek.client import Client
from oneseek.errors import AccessRefused, RunUnknown, TrainingFailed
from oneseek.preflight.finding import PreflightError
from support.remote import Remote, remote
from support.runs import Town

ASKED = ("--base-models", "alfa-1b", "beta-1b", "--epochs", "1", "--executor", "inline")


@pytest.fixture
def there(town: Town) -> Iterator[Remote]:
    with remote(town) as found:
        yield found


@pytest.fixture
def rows(town: Town, tmp_path: Path) -> str:
    """A dataset of somebody else."""
    path = tmp_path / "mine.jsonl"
    path.write_bytes(town.dataset.read_bytes())
    return str(path)


def do(there: Remote, *arguments: str, token: str | None = None) -> Result:
    environment = {"ONESEEK_SERVER": there.url, "ONESEEK_TOKEN": there.token() if token is None else token}
    return CliRunner().invoke(oneseek, list(arguments), env=environment)


def run_id_of(town: Town) -> str:
    (directory,) = town.results.runs.glob("run-*")
    return directory.name


def test_a_training_there_is_shown_as_one_here_and_its_dataset_is_sent_first(
    there: Remote, town: Town, rows: str, tmp_path: Path
) -> None:
    done = do(there, "train", "--dataset", rows, *ASKED)
    assert done.exception is None, done.output

    run_id = run_id_of(town)
    here = CliRunner().invoke(oneseek, ["runs", "watch", run_id, "--home", str(town.root)], env={"ONESEEK_SERVER": ""})
    again = do(there, "runs", "watch", run_id)

    def shown(text: str) -> list[str]:
        return [line for line in text.splitlines() if "is certified" not in line]

    assert shown(done.stdout) == shown(here.stdout) == shown(again.stdout)
    assert f"{run_id} is certified: oneseek-certified/{run_id}" in done.stdout
    assert "Champion:" in done.stdout
    with there.client() as client:
        assert [each["name"] for each in client._ask("GET", "/api/datasets")["datasets"]] == ["mine.jsonl"]


def test_events_for_programs_are_those_of_the_wire_and_the_result_is_last(there: Remote, town: Town, rows: str) -> None:
    done = do(there, "train", "--dataset", rows, "--json", *ASKED)
    *events, result = map(json.loads, done.stdout.splitlines())

    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["type"] == "training_complete"
    assert (result["run_id"], result["status"]) == (run_id_of(town), "certified")


def test_everything_that_is_wrong_is_told_as_here_and_nothing_is_started(there: Remote, town: Town, rows: str) -> None:
    wrong = ("train", "--dataset", rows, "--base-models", "nobody", "--epochs", "0", "--set", "lora.alhpa=3")

    done = do(there, *wrong)
    here = CliRunner().invoke(oneseek, [*wrong, "--home", str(town.root)], env={"ONESEEK_SERVER": ""})

    assert isinstance(done.exception, PreflightError)
    assert isinstance(here.exception, PreflightError)
    assert str(done.exception) == str(here.exception)
    assert done.exception.exit_code == 2
    assert not town.results.runs.exists()


def test_who_does_not_want_to_watch_is_told_how_to_and_a_waiting_run_is_stopped_and_resumed(
    there: Remote, town: Town, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(there.served.runs, "turn", lambda: None)  # it waits

    begun = do(there, "train", "--dataset", rows, "--no-watch", *ASKED)
    run_id = run_id_of(town)
    stopped = do(there, "stop", run_id)
    seen = do(there, "runs", "watch", run_id)
    resumed = do(there, "resume", run_id, "--no-watch", "--json")

    assert begun.stdout == f"{run_id} is queued. Watch it: oneseek runs watch {run_id} --server {there.url}\n"
    assert f"oneseek resume {run_id} --server {there.url}" in stopped.stdout
    assert f"{run_id} is stopped" in seen.stdout
    assert f"Go on with: oneseek resume {run_id} --server {there.url}" in seen.stdout
    assert json.loads(resumed.stdout)["status"] == "queued"


def test_ctrl_c_leaves_the_run_alone_and_says_so(
    there: Remote, town: Town, rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(there.served.runs, "turn", lambda: None)
    monkeypatch.setattr(Lines, "__call__", interrupted)

    done = do(there, "train", "--dataset", rows, *ASKED)

    assert done.exit_code == 1  # Abort, which main() makes 130
    assert f"{run_id_of(town)} goes on at {there.url}." in done.stderr
    with there.client() as client:
        assert client.run(run_id_of(town))["status"] == "queued"


def test_a_training_that_fails_there_fails_here(there: Remote, town: Town, rows: str) -> None:
    for name in ("alfa-1b", "beta-1b"):
        town.script(name, {"fail": {"epoch": 1, "kind": "diverged", "times": 1}})

    done = do(there, "train", "--dataset", rows, *ASKED)

    assert isinstance(done.exception, TrainingFailed), done.output
    assert f"Go on with: oneseek resume {run_id_of(town)} --server {there.url}" in done.stdout


def test_who_is_not_known_and_what_is_not_there_are_refused(there: Remote) -> None:
    nobody = do(there, "runs", "watch", "run-20251122-143025", token="")
    nothing = do(there, "stop", "run-20251122-143025")

    assert isinstance(nobody.exception, AccessRefused)
    assert "ONESEEK_TOKEN" in nobody.exception.fix
    assert isinstance(nothing.exception, RunUnknown)


def test_no_watch_without_a_server_is_refused(town: Town) -> None:
    done = CliRunner().invoke(oneseek, ["train", "--no-watch", "--home", str(town.root)])

    assert done.exit_code == 2
    assert "--server" in done.stderr


def test_no_option_takes_the_token(there: Remote) -> None:
    command = oneseek.get_command(None, "train")  # type: ignore[arg-type]

    assert command is not None
    assert [name for option in command.params for name in option.opts if "token" in name] == []
    assert Client(there.url, "secret-0123456789").url == there.url
