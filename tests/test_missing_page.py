"""What is answered where there is nothing: a page for people, the one form of errors for programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from oneseek.server.access import is_for_people
from support.runs import Town
from support.server import Served, served

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(Town(tmp_path_factory.mktemp("missing") / "home")) as whole:
        whole.client.follow_redirects = False
        yield whole


@pytest.mark.parametrize("path", ["/nothing", "/models/", "/runs/one/two", "/train.html"])
def test_people_see_a_page_with_the_way_back_where_there_is_none(server: Served, path: str) -> None:
    answer = server.client.get(path, headers={**server.token("read"), **BROWSER})

    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert 'href="/runs"' in answer.text
    assert "aria-current" not in answer.text


def test_the_page_speaks_the_language_of_who_asks(server: Served) -> None:
    answer = server.client.get("/nothing", headers={**server.token("read"), **BROWSER, "Accept-Language": "sv"})

    assert '<html lang="sv"' in answer.text


@pytest.mark.parametrize(
    ("method", "path", "accepted"),
    [
        ("GET", "/nothing", "*/*"),
        ("GET", "/nothing", "application/json"),
        ("GET", "/api/nothing", BROWSER["Accept"]),
        ("GET", "/api/runs/run-20260101-000000", BROWSER["Accept"]),
        ("GET", "/assets/0123456789ab/ui.js", BROWSER["Accept"]),
        ("POST", "/nothing", BROWSER["Accept"]),
    ],
)
def test_programs_get_the_one_form_of_errors(server: Served, method: str, path: str, accepted: str) -> None:
    answer = server.client.request(method, path, headers={**server.token("run"), "Accept": accepted})

    assert answer.status_code == 404
    assert answer.json()["error"].keys() == {"code", "message", "fix"}


def test_who_is_not_known_logs_in_before_anything_is_said_about_an_address(server: Served) -> None:
    person = server.client.get("/nothing?a=1", headers=BROWSER)
    program = server.client.get("/nothing", headers={"Accept": "*/*"})
    with_a_wrong_token = server.client.get("/nothing", headers=BROWSER | {"Authorization": "Bearer osk_guessed"})

    assert (person.status_code, person.headers["Location"]) == (303, "/login?next=%2Fnothing%3Fa%3D1")
    assert program.status_code == with_a_wrong_token.status_code == 401


def test_every_page_is_for_people_whatever_they_accept() -> None:
    assert is_for_people("GET", "/runs/run-20260101-000000", "")
    assert not is_for_people("POST", "/runs", "text/html")
    assert not is_for_people("GET", "/ws/training", "text/html")
