"""No answer says where the server keeps its files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from oneseek.datasets import store
from oneseek.errors import StorageError
from oneseek.files.layout import Home
from oneseek.server.places import hiding
from support.runs import Town
from support.server import Served, served

HOME = Home(Path("/srv/one"), Path("/srv/one/models"), Path("/var/cache/hub"))


@pytest.fixture
def server(town: Town) -> Iterator[Served]:
    with served(town) as whole:
        yield whole


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("/srv/one/datasets/a.jsonl is damaged.", "datasets/a.jsonl is damaged."),
        ("There is no ledger in /srv/one yet.", "There is no ledger in one yet."),
        ("Run: chmod 600 '/srv/one/oneseek.db'", "Run: chmod 600 'oneseek.db'"),
        ("/srv/one/models/alfa and /var/cache/hub/beta", "alfa and beta"),
        ("/srv/one.", "one."),
        ("/srv/one-more/a, /srv/one.d/a and /mnt/srv/one/a", "/srv/one-more/a, /srv/one.d/a and /mnt/srv/one/a"),
        ("https://example.org/srv/one/a", "https://example.org/srv/one/a"),
    ],
)
def test_what_lies_in_a_directory_of_the_server_is_called_by_its_place_there(said: str, told: str) -> None:
    assert hiding(HOME)(said) == told


def test_all_texts_of_a_document_are_told_so_and_nothing_else_is_changed() -> None:
    told = hiding(HOME)({"a": ["/srv/one/b", ("/srv/one/c", 1)], "d": {"e": "/srv/one/f"}, "g": None, "h": 0.5})

    assert told == {"a": ["b", ["c", 1]], "d": {"e": "f"}, "g": None, "h": 0.5}


def test_a_dataset_of_the_store_is_called_by_its_name(town: Town) -> None:
    kept, _ = store.add(town.home, town.dataset, "Mina rader")
    path = store.path_of(town.home, kept)
    hide = hiding(town.home)

    assert hide(f"2 of 4 rows of {path} cannot be used.") == "2 of 4 rows of Mina rader cannot be used."
    assert hide(f"{path}.tmp and {town.home.datasets}/{'0' * 64}.jsonl") == (
        f"datasets/{path.name}.tmp and datasets/{'0' * 64}.jsonl"
    )


def test_a_link_to_the_home_is_no_way_round(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    hide = hiding(Home(tmp_path / "link", tmp_path / "link" / "models"))

    assert hide(f"{tmp_path}/link/a, {tmp_path}/real/a") == "a, a"


def test_a_home_that_is_not_named_is_no_directory_of_everybody() -> None:
    assert hiding(Home(Path("/"), Path("/models")))("/etc/hosts") == "/etc/hosts"


def test_a_stranger_is_not_told_where_the_database_is(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(server.town.home.database)

    def full(secret: str) -> Any:
        raise StorageError(f"{where} could not be used: disk I/O error.", f"Look at {where}.")

    monkeypatch.setattr(server.access, "of_token", full)

    answer = server.client.get("/api/runs", headers={"Authorization": "Bearer osk_x"})

    assert answer.status_code == 507
    assert answer.json()["error"]["message"] == "oneseek.db could not be used: disk I/O error."
    assert where not in answer.text


def test_the_error_of_a_route_names_no_place(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    where = server.town.home.root

    def full() -> Any:
        raise StorageError(f"{where}/models can't be read.", f"Look at {where}.")

    monkeypatch.setattr(server.runs, "active", full)

    answer = server.client.get("/api/training/active", headers=server.token("read"))

    assert (answer.status_code, answer.json()["error"]["message"]) == (507, "models can't be read.")
    assert str(where) not in answer.text


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_names_no_place_whether_it_fails_or_not(
    server: Served, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    where = server.town.home.root
    headers = server.token("run")

    def done(*_: object, **__: object) -> Any:
        if fails:
            raise StorageError(f"{where}/models can't be written.", f"Look at {where}.")
        return {"wrote": f"{where}/models/a"}

    monkeypatch.setattr("oneseek.server.models.convert_model", done)
    monkeypatch.setattr("oneseek.server.models.pickled", lambda model: where)
    begun = server.client.post("/api/models/alfa-1b/convert", headers=headers).json()

    followed = server.client.get(f"/api/tasks/{begun['id']}/events", headers=headers).text
    alone = server.client.get(f"/api/tasks/{begun['id']}", headers=headers)
    listed = server.client.get("/api/tasks", headers=headers).text

    assert alone.json()["status"] == ("failed" if fails else "done")
    assert not any(str(where) in text for text in (followed, alone.text, listed))


def test_a_run_that_can_not_be_read_is_listed_without_its_place(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server.town.submit("alfa-1b") as run:
        run_id = run.directory.run_id

    def denied(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(import_module("oneseek.runs.find"), "read", denied)

    listed = server.client.get("/api/runs", headers=server.token("read"))

    (told,) = listed.json()["runs"]
    assert (told["run_id"], told["status"]) == (run_id, "damaged")
    assert told["problem"] == "It can't be read: Permission denied."
    assert str(server.town.root) not in listed.text
