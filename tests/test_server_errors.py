"""The one form of every error, and which status it has."""

from __future__ import annotations

import inspect
import pickle
from http import HTTPStatus

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from oneseek import errors as tree
from oneseek.errors import OneSeekError, RunError, RunUnknown, StorageError, WorkerFailed
from oneseek.preflight.finding import Finding, PreflightError
from oneseek.registry.hub import HubError
from oneseek.server import errors

FINDING = Finding(rule="r", severity="error", field="data.dataset", problem="There is none.", fix="Upload one.")
KINDS = [
    kind for _, kind in inspect.getmembers(tree, inspect.isclass) if issubclass(kind, OneSeekError) and kind.__module__
]


def app_that_raises(error: Exception) -> TestClient:
    app = FastAPI()
    errors.install(app)

    @app.get("/")
    def fail() -> None:
        raise error

    @app.get("/number/{number}")
    def number(number: int) -> None: ...

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_tree_has_a_status(kind: type[OneSeekError]) -> None:
    error = kind.__new__(kind)

    assert errors.status_of(error) in set(HTTPStatus)
    assert errors.status_of(error) >= 400


def test_the_nearest_kind_decides_the_status() -> None:
    assert errors.status_of(RunUnknown("There is none.")) == 404
    assert errors.status_of(RunError("It is running.")) == 409
    assert errors.status_of(HubError("gated", "Gated.", "Ask.")) == 400


def test_an_error_is_answered_with_code_message_and_fix() -> None:
    answer = app_that_raises(StorageError("The disk is full.", "Free some space.")).get("/")

    assert answer.status_code == 507
    assert answer.json() == {
        "error": {"code": "StorageError", "message": "The disk is full.", "fix": "Free some space."}
    }


def test_a_refused_request_is_answered_with_all_findings() -> None:
    answer = app_that_raises(PreflightError((FINDING, FINDING))).get("/")

    assert answer.status_code == 400
    assert [each["fix"] for each in answer.json()["error"]["findings"]] == ["Upload one.", "Upload one."]


def test_what_nobody_foresaw_tells_nothing_of_itself_but_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    answer = app_that_raises(ValueError("a secret")).get("/")

    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.json()["error"]["fix"]
    assert [record.name for record in caplog.records if "ValueError: a secret" in (record.exc_text or "")] == [
        "oneseek.server"
    ]


def test_an_unknown_path_a_wrong_method_and_a_wrong_parameter_take_the_same_form() -> None:
    client = app_that_raises(ValueError())

    answers = [client.get("/nowhere"), client.post("/"), client.get("/number/x")]

    assert [answer.status_code for answer in answers] == [404, 405, 400]
    assert all(set(answer.json()["error"]) == {"code", "message", "fix"} for answer in answers)


@pytest.mark.parametrize(
    "error",
    [
        StorageError("The disk is full.", "Free some space."),
        HubError("disk", "The disk is full.", "Free some space."),
        WorkerFailed("crashed", "It died.", "Try again."),
        PreflightError((FINDING,)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_on_the_other_side_of_a_process(error: OneSeekError) -> None:
    other = pickle.loads(pickle.dumps(error))

    assert type(other) is type(error)
    assert other.__dict__ == error.__dict__
    assert str(other) == str(error)
    assert other.args == error.args


def test_codes_are_the_same_by_every_python() -> None:
    codes = {status: errors.code_of(status) for status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 416, 421, 429)}

    assert codes == {
        400: "BadRequest",
        401: "Unauthorized",
        403: "Forbidden",
        404: "NotFound",
        405: "MethodNotAllowed",
        408: "RequestTimeout",
        409: "Conflict",
        413: "ContentTooLarge",
        415: "UnsupportedMediaType",
        416: "RangeNotSatisfiable",
        421: "MisdirectedRequest",
        429: "TooManyRequests",
    }
