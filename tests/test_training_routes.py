"""Training over HTTP: what is asked for, what is refused and in which words, and how it goes."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oneseek import runs
from oneseek.cli import oneseek
from oneseek.config.reference import settings
from oneseek.datasets import store
from oneseek.events import RunAccepted, RunQueued
from oneseek.preflight.finding import PreflightError
from oneseek.preflight.finding import body as body_of
from oneseek.server import training
from oneseek.server.places import hiding
from oneseek.server.settings import MOST, requested
from support.runs import Town, events, everything
from support.supervised import ASKED, START, Desk, desk

NOWHERE = "run-20000101-000000"


@pytest.fixture
def at(town: Town) -> Iterator[Desk]:
    with desk(town, {}) as opened:
        yield opened


# -- started -----------------------------------------------------------------------------------------------------------


def test_a_started_run_is_accepted_and_waits_for_its_turn(at: Desk) -> None:
    answer = at.client.post(START, json=ASKED | {"epochs": 2, "device": "cpu"})

    told = answer.json()
    assert answer.status_code == 202
    assert (told["status"], told["version"], told["device"], told["position"]) == ("queued", "1.0", "cpu", 0)
    accepted, queued = events(at.runs.find(told["run_id"]))
    assert isinstance(accepted, RunAccepted)
    assert (accepted.config["training"]["num_epochs"], accepted.dataset.training_rows) == (2, 18)
    assert queued == RunQueued(device="cpu")


def test_settings_may_be_flat_or_in_sections_in_either_spelling(at: Desk) -> None:
    flat = ASKED | {"learningRate": 0.0002, "autoStopPatience": 2}
    camel = {
        "data": {"dataset": "rows.jsonl"},
        "model": {"baseModels": ["alfa-1b", "beta-1b"]},
        "training": {"learningRate": 0.0002},
        "confidenceAutoStop": {"patience": 2},
    }
    own = {"model": {"base_models": "alfa-1b,beta-1b"}, "confidence_auto_stop": {"patience": 2}}
    bodies = (flat, camel, camel | own | {"confidenceAutoStop": {}})

    asked = [at.client.post(START, json=body).json()["run_id"] for body in bodies]

    first, *others = (events(at.runs.find(run))[0] for run in asked)
    assert isinstance(first, RunAccepted)
    assert all(isinstance(other, RunAccepted) and other.config == first.config for other in others)


def test_warnings_are_told_and_refuse_nothing(at: Desk) -> None:
    told = at.client.post(START, json=ASKED | {"epochs": 50}).json()

    (warning,) = told["warnings"]
    assert (warning["severity"], warning["field"]) == ("warning", "training.num_epochs")
    assert "training.num_epochs is 50" in warning["problem"]
    assert warning["fix"]


def test_everything_wrong_is_told_at_once_and_nothing_is_started(at: Desk) -> None:
    before = everything(at.town.root)

    answer = at.client.post(
        START,
        json={
            "datasetId": "/etc/passwd",
            "baseModels": ["alfa-1b", "../beta-1b", "gamma"],
            "epocs": 2,
            "learningRate": -1,
            "output": {"directory": "/tmp"},
            "device": "cuda:7",
            "lora": {"r": 2000},
        },
    )

    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "PreflightError")
    assert error["message"].startswith("Nothing was started: 8 errors")
    assert {finding["field"] for finding in error["findings"] if finding["severity"] == "error"} == {
        "data.dataset",
        "model.base_models",  # a path, and a name that nobody has
        "epocs",
        "training.learning_rate",
        "output.directory",
        "device",
        "lora.r",
    }
    assert next(each for each in error["findings"] if each["field"] == "epocs")["fix"].startswith("Did you mean")
    assert everything(at.town.root) == before


# -- no place of this machine ------------------------------------------------------------------------------------------

HOSTILE = (
    "/etc/passwd",
    "../datasets/rows.jsonl",
    "..",
    ".",
    "./rows.jsonl",
    "~/rows.jsonl",
    "~root",
    "datasets/rows.jsonl",
    "..\\rows.jsonl",
    "C:\\rows.jsonl",
    "file:///etc/passwd",
    "http://169.254.169.254/latest",
    "%2e%2e%2frows.jsonl",
    "rows.jsonl/",
    ".store.lock",
    "x" * 5000,
    "nobody-has-this.jsonl",
)


@pytest.mark.parametrize(
    ("written", "field"),
    [
        (lambda given: {"datasetId": given}, "data.dataset"),
        (lambda given: {"data": {"dataset": given}}, "data.dataset"),
        (lambda given: {"train_file": given}, "data.dataset"),
        (lambda given: {"datasets": [{"path": given}]}, "data.dataset"),
        (lambda given: {"datasetId": "rows.jsonl", "data": {"validationDataset": given}}, "data.validation_dataset"),
        (lambda given: {"datasetId": "rows.jsonl", "eval_dataset": given}, "data.validation_dataset"),
    ],
    ids=["flat", "nested", "alias", "list", "validation", "validation-alias"],
)
def test_a_dataset_is_none_of_this_machines_files(town: Town, written: Any, field: str) -> None:
    for given in (*HOSTILE, str(town.dataset)):
        asked = requested(written(given), {}, town.home, ("cpu",))

        (about,) = asked.problems
        assert about.field == field
        assert about.problem.startswith(f"{field} is ")
        assert about.fix.startswith("Upload it first: POST /api/datasets")
        assert getattr(asked.config.data, field.partition(".")[2]) is None


def test_a_file_in_the_servers_working_directory_is_no_dataset(
    at: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(at.town.dataset, tmp_path / "mine.jsonl")
    monkeypatch.chdir(tmp_path)

    found = at.findings(ASKED | {"datasetId": "mine.jsonl"})

    assert [finding["field"] for finding in found if finding["severity"] == "error"] == ["data.dataset"]


def test_a_file_there_does_not_stand_before_the_dataset_of_its_name(
    at: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text("not rows\n")
    monkeypatch.chdir(tmp_path)

    accepted = events(at.runs.find(at.start()))[0]

    assert isinstance(accepted, RunAccepted)
    assert accepted.dataset.path == str(at.town.dataset.resolve())


@pytest.mark.parametrize("by", ["name", "hash", "prefix"])
def test_a_stored_dataset_goes_by_its_name_or_hash(at: Desk, by: str) -> None:
    kept, _ = store.add(at.town.home, at.town.dataset, "Mina rader")
    at.town.dataset.unlink()

    name = {"name": kept.name, "hash": kept.sha256, "prefix": kept.sha256[:8]}[by]

    assert at.start(datasetId=name)


@pytest.mark.parametrize(
    "written",
    [
        lambda given: {"baseModels": ["beta-1b", given]},
        lambda given: {"baseModels": f"beta-1b,{given}"},
        lambda given: {"model": {"name": given}},
        lambda given: {"model_name_or_path": given},
    ],
    ids=["list", "commas", "name", "alias"],
)
def test_a_base_model_is_no_path(town: Town, written: Any) -> None:
    for given in ("../alfa-1b", "/models/alfa-1b", "~/alfa-1b", "models\\alfa-1b", "https://hub.example/a/b"):
        asked = requested(written(given), {}, town.home, ("cpu",))

        (about,) = asked.problems
        assert about.field in ("model.base_models", "model.name")
        assert about.problem.endswith("which is a path.")
        assert given not in asked.config.model.selection


@pytest.mark.parametrize(
    "body", [{"output": {"directory": "elsewhere"}}, {"output_dir": "/tmp/elsewhere"}], ids=["own", "alias"]
)
def test_where_results_go_is_not_for_requests_to_say(at: Desk, body: dict[str, Any]) -> None:
    found = at.findings(ASKED | body, START)

    (about,) = (finding for finding in found if finding["severity"] == "error")
    assert (about["field"], about["fix"]) == ("output.directory", "Remove output.directory.")


def test_the_servers_own_environment_may_name_its_files(town: Town, tmp_path: Path) -> None:
    elsewhere = shutil.copy(town.dataset, tmp_path / "elsewhere.jsonl")
    town.dataset.unlink()

    with desk(town, {"ONESEEK_DATA__DATASET": str(elsewhere), "BASE_MODELS": "alfa-1b"}) as at:
        answer = at.client.post(START, json={})

    assert answer.status_code == 202


def test_of_every_setting_that_is_a_text_it_was_decided_whether_it_names_a_place() -> None:
    texts = {field for field, setting in settings().items() if setting.kind in ("text", "names")}

    assert texts == {
        *("model.base_models", "model.name", "data.dataset", "data.validation_dataset", "output.directory"),
        *("training.sample_prompts", "lora.target_modules", "output.version"),  # these name none
    }


# -- bodies that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"[]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"epochs": 1' + b"0" * 400 + b"}", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"{}", "text/plain", 415),
        (b" " * ((1 << 20) + 1), "application/json", 413),
    ],
    ids=["list", "broken", "number", "deep", "text", "large"],
)
def test_what_is_no_body_of_settings_is_refused(at: Desk, body: bytes, kind: str, status: int) -> None:
    for path in (START, "/api/validate", "/api/validate?rehearse=true"):
        answer = at.client.post(path, content=body, headers={"Content-Type": kind})

        assert answer.status_code == status, path
        assert set(answer.json()["error"]) - {"findings"} == {"code", "message", "fix"}


def test_a_body_of_far_too_many_settings_is_refused_before_each_is_looked_at(at: Desk) -> None:
    answer = at.client.post("/api/validate?partial=true", json={f"unknown{n}": n for n in range(MOST + 1)})

    assert answer.status_code == 400
    assert "1,001 settings" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [START, "/api/validate", "/api/validate?partial=true", "/api/validate?rehearse=true"])
@pytest.mark.parametrize("levels", [100, 900])
def test_a_body_that_is_nested_too_deeply_is_refused_before_it_is_handed_to_another_process(
    at: Desk, monkeypatch: pytest.MonkeyPatch, path: str, levels: int
) -> None:
    handed: list[object] = []
    monkeypatch.setattr(ThreadPoolExecutor, "submit", lambda _, *given: handed.append(given))
    body = b'{"lora":' * levels + b"{}" + b"}" * levels  # 900: it can be read, but not pickled

    answer = at.client.post(path, content=body, headers={"Content-Type": "application/json"})

    assert (answer.status_code, handed) == (400, [])
    assert answer.json()["error"]["message"] == "The body is nested too deeply."


def test_what_is_asked_for_reaches_another_process_whole(town: Town) -> None:
    asked = requested(ASKED | {"perModel": {"alfa-1b": {"lora": {"r": 4}}}, "epocs": 1}, {}, town.home, ("cpu",))

    assert pickle.loads(pickle.dumps(asked)) == asked


# -- judged ------------------------------------------------------------------------------------------------------------


def test_a_good_request_is_told_what_it_would_take(at: Desk) -> None:
    before = everything(at.town.root)

    answer = at.client.post("/api/validate", json=ASKED)

    config = at.town.config("alfa-1b", "beta-1b")
    verdict = runs.validate(config.model_copy(update={"execution": type(config.execution)()}), at.town.home).wire()
    assert answer.status_code == 200
    moment: dict[str, Any] = {"estimate": None, "machine": None}  # of which the memory that is free is another now
    assert answer.json() | moment == json.loads(json.dumps(verdict)) | moment
    assert answer.json()["estimate"] is not None
    assert everything(at.town.root) == before


def test_a_form_that_is_being_filled_is_told_what_is_missing_with_200(at: Desk) -> None:
    partial = at.client.post("/api/validate?partial=true", json={"epochs": 0})
    whole = at.client.post("/api/validate", json={"epochs": 0})

    assert (partial.status_code, partial.json()["ok"]) == (200, False)
    assert whole.status_code == 400
    assert whole.json()["error"]["findings"] == partial.json()["findings"]
    assert {"training.num_epochs", "data.dataset", "model.base_models"} <= {
        finding["field"] for finding in partial.json()["findings"]
    }


@pytest.fixture
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oneseek.runs.validate", partial(runs.validate, engine="scripted"))


@pytest.mark.usefixtures("_scripted")
def test_a_rehearsal_is_a_task_and_its_result_the_verdict(at: Desk) -> None:
    answer = at.client.post("/api/validate?rehearse=true", json=ASKED)

    assert (answer.status_code, answer.json()["kind"]) == (202, "rehearsal")
    ended = at.ended(answer.json()["id"])
    assert (ended.status, ended.error) == ("done", None)
    assert ended.result["ok"]
    assert {each["key"] for each in ended.result["rehearsal"]["models"]} == {"alfa-1b", "beta-1b"}


def test_the_same_settings_in_another_order_are_the_same_rehearsal() -> None:
    assert training._about(ASKED) == training._about(dict(reversed(ASKED.items())))
    assert training._about(ASKED) != training._about(ASKED | {"epochs": 2})


@pytest.mark.usefixtures("_scripted")
def test_what_would_be_refused_is_not_rehearsed(at: Desk) -> None:
    answer = at.client.post("/api/validate?rehearse=true", json=ASKED | {"epochs": 0})

    assert answer.status_code == 400
    assert at.tasks.list() == []


def test_a_rehearsal_can_be_cancelled(at: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = runs.validate

    def endless(*args: Any, rehearsed: bool = False, watch: Any = None, **more: Any) -> Any:
        while rehearsed:
            watch("alfa-1b", "loading")
            time.sleep(0.01)
        return judge(*args, **more)

    monkeypatch.setattr("oneseek.runs.validate", endless)
    task = at.client.post("/api/validate?rehearse=true", json=ASKED).json()["id"]

    at.tasks.cancel(task)

    assert at.ended(task).status == "cancelled"


def test_what_somebody_asked_who_has_gone_is_not_begun(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, judged, enough = training.judged, list[Any](), threading.Event()

    def watched(body: dict[str, Any], *more: Any) -> Any:
        judged.append(body["epochs"])
        enough.wait(30)
        return judge(body, *more)

    monkeypatch.setattr(training, "judged", watched)
    with desk(town, {}) as at:  # where two things are done at once

        async def ask(epochs: int, gone: asyncio.Event) -> int | None:
            status = None
            said = [{"type": "http.request", "body": json.dumps({"epochs": epochs}).encode(), "more_body": False}]

            async def receive() -> Any:
                if said:
                    return said.pop()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                nonlocal status
                status = message.get("status", status)

            headers = [(b"content-type", b"application/json")]
            scope = {"type": "http", "method": "POST", "path": "/api/validate", "query_string": b"partial=true"}
            await at.client.app(scope | {"headers": headers}, receive, send)
            return status

        async def type_ten_times() -> list[int | None]:
            keys = [asyncio.Event() for _ in range(10)]
            asked = [asyncio.create_task(ask(epochs, gone)) for epochs, gone in enumerate(keys, 1)]
            await asyncio.sleep(0.3)
            for gone in keys[:-1]:
                gone.set()
            left = await asyncio.gather(*asked[:-1])
            enough.set()
            return [*left, await asked[-1]]

        statuses = asyncio.run(type_ten_times())

    assert judged == [1, 2, 10]
    assert statuses == [408] * 9 + [200]


def test_what_was_found_is_said_again_where_it_holds_up_nobody_else(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[object] = []

    def speaking(_: object) -> Callable[[Any], Any]:
        def tell(document: Any) -> Any:
            loops.append(asyncio._get_running_loop())
            return document

        return tell

    monkeypatch.setattr(training, "speaking", speaking)
    with desk(town, {}) as at:
        at.client.post("/api/validate?partial=true", json=ASKED)
        at.client.post(START, json=ASKED)

    assert loops == [None, None]


SAME = (
    ({"epochs": 0}, ("--epochs", "0")),
    ({"epocs": "3"}, ("--set", "epocs=3")),
    ({"lora": {"rank": 3}}, ("--set", "lora.rank=3")),
    ({"baseModels": ["gamma-1b"]}, ("--base-models", "gamma-1b")),
    ({"training": {"method": "dpo"}}, ("--method", "dpo")),
    ({"data": {"strategy": "standard"}, "learningRate": 5}, ("--strategy", "standard", "--learning-rate", "5")),
    ({"output": {"version": "1"}}, ("--version", "1")),
    ({"execution": {"executor": "ray"}}, ("--executor", "ray")),
    ({"datasetId": "bad.jsonl"}, ("--dataset", "bad.jsonl")),
)


@pytest.mark.parametrize(("body", "flags"), SAME, ids=range(len(SAME)))
def test_the_same_request_is_refused_in_the_same_words_by_http_and_by_the_command_line(
    at: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: dict[str, Any], flags: tuple[str, ...]
) -> None:
    (at.town.home.datasets / "bad.jsonl").write_text('{"messages": []}\n{"messages": 3}\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    asked = ("--dataset", "rows.jsonl") * ("--dataset" not in flags)
    asked += ("--base-models", "alfa-1b") * ("--base-models" not in flags)

    http = at.client.post(START, json={"datasetId": "rows.jsonl", "baseModels": "alfa-1b"} | body)
    command = CliRunner().invoke(oneseek, ["train", "--home", str(at.town.root), *asked, *flags, "--json"])

    assert http.status_code == 400
    assert isinstance(command.exception, PreflightError)
    assert http.json()["error"] == json.loads(hiding(at.town.home)(json.dumps(body_of(command.exception))))


# -- how it goes -------------------------------------------------------------------------------------------------------


def test_a_run_is_seen_with_its_metrics_and_its_leaderboard(at: Desk) -> None:
    directory, state = at.town.train(training__num_epochs=2)

    metrics = at.client.get(f"/api/training/{directory.run_id}/metrics").json()
    leaderboard = at.client.get(f"/api/training/{directory.run_id}/leaderboard").json()

    assert (metrics["run_id"], metrics["status"]) == (directory.run_id, "completed")
    assert metrics["weights"] == state.weights
    assert [epoch["epoch"] for epoch in metrics["training_history"]] == [1, 2]
    assert [row["rank"] for row in leaderboard["leaderboard"]] == [1, 2]
    assert leaderboard["progress_percent"] == 100


def test_what_is_no_run_is_404(at: Desk) -> None:
    for run in (NOWHERE, "run-1", "..%2f", "%2e%2e%5c", "oneseek-certified", "%00", f"{NOWHERE}%0A"):
        for view in ("metrics", "leaderboard"):
            assert at.client.get(f"/api/training/{run}/{view}").status_code == 404, (run, view)
        if run != NOWHERE:
            assert at.client.post(f"/api/training/{run}/metrics", json=REPORT).status_code == 404, run


def test_runs_that_wait_or_train_are_active(at: Desk) -> None:
    over, _ = at.town.train(training__num_epochs=1)
    waiting = at.start()

    told = at.client.get("/api/training/active").json()["runs"]

    assert [run["run_id"] for run in told] == [waiting]
    assert over.run_id != waiting


# -- reported from outside ---------------------------------------------------------------------------------------------

REPORT = {"epoch": 1, "totalEpochs": 2, "valLosses": {"alfa": 3.0, "beta": 2.0}}


def test_a_run_that_is_trained_elsewhere_is_shown_like_all(at: Desk) -> None:
    path = f"/api/training/{NOWHERE}"

    first, again = (at.client.post(f"{path}/metrics", json=REPORT) for _ in range(2))

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["run_id"] == NOWHERE
    assert at.client.get(f"{path}/metrics").json()["val_losses"] == {"alfa": 3.0, "beta": 2.0}
    assert [row["model"] for row in at.client.get(f"{path}/leaderboard").json()["leaderboard"]] == ["beta", "alfa"]


def test_nobody_reports_for_a_run_of_ours(at: Desk) -> None:
    ours = at.start()

    assert at.client.post(f"/api/training/{ours}/metrics", json=REPORT).status_code == 409


# -- described ---------------------------------------------------------------------------------------------------------


def test_every_route_says_in_the_openapi_document_what_it_asks_and_answers(at: Desk) -> None:
    document = at.client.get("/openapi.json").json()

    for path, methods in document["paths"].items():
        for method, described in methods.items():
            done = next(answer for status, answer in described["responses"].items() if status.startswith("2"))
            assert described["description"], (path, method)
            assert "schema" in str(done) or done.keys() == {"description"}, (path, method)
            if method in ("post", "patch"):
                assert "example" in described["requestBody"]["content"]["application/json"], (path, method)
                assert {"408", "413", "415"} <= described["responses"].keys(), (path, method)
            if "{" in path:
                assert "404" in described["responses"], (path, method)
