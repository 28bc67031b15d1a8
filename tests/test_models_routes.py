"""Base models over HTTP: listed and shown as the command does, downloaded and converted as tasks."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from fastapi import FastAPI
from starlette.testclient import TestClient

from oneseek.cli import oneseek
from oneseek.files.layout import Home
from oneseek.registry.hub import HubErrorKind
from oneseek.server import bodies, errors, models, tasks
from oneseek.server.places import hiding
from oneseek.server.tasks import Tasks
from support.base_models import write_model
from support.hub import StandIn, stand_in

ID = "oneseek-test/Gamma-1B"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub-cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[StandIn]:
    with stand_in(monkeypatch, cache) as found:
        yield found


@pytest.fixture
def home(tmp_path: Path, cache: Path) -> Home:
    found = Home(tmp_path / "home", tmp_path / "home" / "models", cache)
    write_model(found.models / "Alfa-1B")
    write_model(found.models / "beta-1b", family="gpt2", chat=False)
    return found


@pytest.fixture
def some() -> Iterator[Tasks]:
    found = Tasks()
    yield found
    found.close()


@pytest.fixture
def client(home: Home, some: Tasks) -> TestClient:
    app = FastAPI(responses=bodies.EVERYWHERE)
    app.include_router(models.routes(home, some, os.environ))
    app.include_router(tasks.routes(some, hiding(home)))
    errors.install(app, hiding(home))
    bodies.describe(app)
    return TestClient(app, raise_server_exceptions=False)


def command(home: Home, *arguments: str) -> Any:
    """What a command says to programs, its paths told as names."""
    told = CliRunner().invoke(oneseek, [*arguments, "--home", str(home.root), "--json"]).output
    return json.loads(told.replace(f"{home.models}/", ""))


def ended(client: TestClient, task: dict[str, Any]) -> Any:
    deadline = time.monotonic() + 30
    while (told := client.get(f"/api/tasks/{task['id']}").json())["status"] in ("waiting", "running"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return told


def pickled(directory: Path) -> Path:
    """A model whose weights are only there as something that would run code."""
    write_model(directory)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": 1}))
    return directory


# -- listed and shown ----------------------------------------------------------------------------------------------


def test_models_are_listed_as_the_command_lists_them_without_paths(
    hub: StandIn, home: Home, client: TestClient
) -> None:
    pickled(home.models / "old")

    answer = client.get("/api/models")

    assert answer.json() == command(home, "models", "list")
    assert [model["path"] for model in answer.json()["models"]] == ["Alfa-1B", "beta-1b", "old"]
    assert str(home.root.parent) not in answer.text


@pytest.mark.parametrize("targets", [[], ["q_proj", "nothing"], ["all-linear"]], ids=["auto", "named", "all"])
def test_a_model_is_shown_as_the_command_shows_it(
    hub: StandIn, home: Home, client: TestClient, targets: list[str]
) -> None:
    answer = client.get("/api/models/alfa-1b", params={"targetModules": ",".join(targets)})

    flags = ["--target-modules", *targets] if targets else []
    assert answer.json() == command(home, "models", "show", "alfa-1b", *flags)
    assert answer.json()["template"]["renders"] is True
    assert str(home.root) not in answer.text


def test_a_problem_that_names_a_directory_names_it_without_its_place(
    hub: StandIn, home: Home, client: TestClient
) -> None:
    write_model(home.models / "alfa_1b")

    told = client.get("/api/models")

    problems = [problem["problem"] for model in told.json()["models"] for problem in model["problems"]]
    assert "alfa_1b has the same key, 'alfa-1b'." in problems
    assert str(home.root) not in told.text


def test_a_model_on_the_hub_is_shown_with_what_a_download_takes(
    hub: StandIn, home: Home, cache: Path, client: TestClient, tmp_path: Path
) -> None:
    commit = hub.add(ID, write_model(tmp_path / "there"))

    answer = client.get(f"/api/models/{ID}")

    told = answer.json()
    assert (told["source"], told["hub_id"], told["revision"], told["usable"]) == ("hub", ID, commit, True)
    assert told["missing_bytes"] > 0
    assert str(cache) not in answer.text


HOSTILE = [
    "none", "alfa", "ALFA-1B", "..%2f..%2fetc", "%2e%2e", "..%5calfa-1b", "a%00b", "alfa%0a-1b", "%ff", "x" * 3000,
    "%2fetc%2fpasswd", "http:%2f%2f169.254.169.254%2flatest", "file:%2f%2f%2fetc%2fpasswd", "-rf", "$(id)", "a@b@c",
]  # fmt: skip


@pytest.mark.parametrize("key", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_no_key_of_a_model_is_not_found_and_the_hub_is_not_asked(
    hub: StandIn, home: Home, client: TestClient, key: str
) -> None:
    shown = client.get(f"/api/models/{key}")
    converted = client.post(f"/api/models/{key}/convert")

    assert (shown.status_code, converted.status_code in (404, 405)) == (404, True)
    assert hub.requests == []
    assert str(home.root) not in shown.text + converted.text


# -- downloaded ----------------------------------------------------------------------------------------------------


def test_a_download_is_a_task_that_tells_how_far_it_is_and_names_no_place(
    hub: StandIn, home: Home, cache: Path, client: TestClient, tmp_path: Path
) -> None:
    commit = hub.add(ID, write_model(tmp_path / "there"))

    answer = client.post("/api/models/pull", json={"name": ID})
    done = ended(client, answer.json())

    assert answer.status_code == 202
    assert (done["kind"], done["about"]) == ("pull", {"model": ID, "revision": commit})
    assert (done["status"], done["result"]) == ("done", {"model": ID, "revision": commit, "key": "gamma-1b"})
    assert done["progress"]["done"] == done["progress"]["total"] > 0
    listed = {model["key"]: model["source"] for model in client.get("/api/models").json()["models"]}
    assert listed["gamma-1b"] == "cache"
    assert client.post("/api/models/pull", json={"name": "gamma-1b"}).json()["about"] == done["about"]
    assert str(cache) not in json.dumps(done)


def test_the_same_download_is_one_task_and_can_be_cancelled(
    hub: StandIn, client: TestClient, some: Tasks, tmp_path: Path
) -> None:
    hub.add(ID, write_model(tmp_path / "there"))
    hub.faults.silence = 0.1

    first = client.post("/api/models/pull", json={"name": ID}).json()
    again = client.post("/api/models/pull", json={"name": ID}).json()
    client.delete(f"/api/tasks/{first['id']}")

    assert again["id"] == first["id"]
    assert ended(client, first)["status"] == "cancelled"


def test_a_download_that_fails_says_why_and_what_to_do(
    hub: StandIn, home: Home, cache: Path, client: TestClient, tmp_path: Path
) -> None:
    hub.add(ID, write_model(tmp_path / "there"))
    cache.mkdir()
    (cache / "models--oneseek-test--Gamma-1B").write_text("in the way")

    failed = ended(client, client.post("/api/models/pull", json={"name": ID}).json())

    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "StorageError"
    assert "models--oneseek-test--Gamma-1B could not be written" in failed["error"]["message"]
    assert str(cache) not in json.dumps(failed)


@pytest.mark.parametrize(
    ("kind", "status"), [("missing", 404), ("gated", 400), ("no-safetensors", 400), ("offline", 502), ("busy", 502)]
)
def test_what_the_hub_refuses_is_told_at_once(
    hub: StandIn,
    client: TestClient,
    some: Tasks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    status: int,
) -> None:
    directory = write_model(tmp_path / "there")
    if kind == "no-safetensors":
        (directory / "model.safetensors").unlink()
    if kind != "missing":
        hub.add(ID, directory, opened_by="hf_token" if kind == "gated" else "")
    if kind == "offline":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    if kind == "busy":
        hub.faults.statuses[f"/api/models/{ID}/revision/main"] = 503

    answer = client.post("/api/models/pull", json={"name": ID})

    assert answer.status_code == status
    assert answer.json()["error"]["fix"]
    assert some.list() == []


def test_every_trouble_with_the_hub_has_a_status() -> None:
    assert set(models.STATUSES) == set(get_args(HubErrorKind))


@pytest.mark.parametrize(
    "name",
    [
        *("", "alfa-1b", "nothing", "../../etc", "a/../b", "http://169.254.169.254/latest", "file:///etc/passwd"),
        *("org/name@../../x", "org/name@", "org/na me", "org/name\n", "org/name\0", "//host/x", "a/b/c", "-/-", "@a/b"),
    ],
    ids=range(16),
)
def test_what_is_no_id_of_the_hub_is_refused_and_nobody_is_asked(
    hub: StandIn, client: TestClient, some: Tasks, name: str
) -> None:
    answer = client.post("/api/models/pull", json={"name": name})

    assert answer.status_code == 400
    assert "is not the id of a model on the hub" in answer.json()["error"]["message"]
    assert hub.requests == []
    assert some.list() == []


# -- converted -----------------------------------------------------------------------------------------------------


def test_a_model_with_safetensors_is_not_converted(hub: StandIn, client: TestClient, some: Tasks) -> None:
    answer = client.post("/api/models/alfa-1b/convert")

    assert answer.status_code == 400
    assert "has safetensors already" in answer.json()["error"]["message"]
    assert some.list() == []


def test_a_conversion_is_a_task_that_can_be_cancelled(
    hub: StandIn, home: Home, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled(home.models / "old")
    asked: list[Path] = []

    def convert(path: Path, beat: Any) -> tuple[str, ...]:
        asked.append(path)
        while len(asked) > 1:
            beat()
            time.sleep(0.01)
        return ("model.safetensors",)

    monkeypatch.setattr(models, "convert_model", convert)

    done = ended(client, client.post("/api/models/old/convert").json())
    second = client.post("/api/models/old/convert").json()
    client.delete(f"/api/tasks/{second['id']}")

    assert (done["kind"], done["result"]) == ("convert", {"key": "old", "written": ["model.safetensors"]})
    assert asked[0] == home.models / "old"
    assert ended(client, second)["status"] == "cancelled"


@pytest.mark.engine
def test_a_pickle_that_is_none_of_tensors_alone_fails_with_a_fix_and_without_the_place(
    hub: StandIn, home: Home, client: TestClient
) -> None:
    pickled(home.models / "old")

    failed = ended(client, client.post("/api/models/old/convert").json())

    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "ModelError"
    assert failed["error"]["fix"]
    assert str(home.root) not in json.dumps(failed)
    assert sorted(path.name for path in (home.models / "old").glob("*.safetensors")) == []


@pytest.mark.engine
def test_a_conversion_that_is_cancelled_leaves_nothing(hub: StandIn, home: Home, client: TestClient) -> None:
    before = {path.name for path in pickled(home.models / "old").iterdir()}

    task = client.post("/api/models/old/convert").json()
    client.delete(f"/api/tasks/{task['id']}")

    assert ended(client, task)["status"] == "cancelled"
    assert {path.name for path in (home.models / "old").iterdir()} == before
