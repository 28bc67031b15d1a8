"""Typed bodies: decoded from JSON and nothing else, described by the same types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient

from oneseek.server import bodies, errors


class Part(msgspec.Struct):
    number: int


class Sent(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    base_models: list[str]
    part: Part | None = None


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(responses=bodies.EVERYWHERE)
    errors.install(app)
    bodies.describe(app)

    @app.post(
        "/parts/{number}",
        openapi_extra=bodies.asks(Sent, {"baseModels": ["alfa"]}),
        responses={**bodies.answers(Part, Part(1), status=201), **bodies.refuses(409)},
    )
    def make(number: int, sent: Annotated[Sent, bodies.received(Sent)]) -> Response:
        return bodies.answer(Part(number + len(sent.base_models)), 201)

    @app.post("/anything")
    def anything(sent: Annotated[dict[str, Any], bodies.received(dict[str, Any])]) -> Response:
        return bodies.answer(sent)

    return TestClient(app)


def test_a_body_is_decoded_and_an_answer_encoded_by_their_types(client: TestClient) -> None:
    answer = client.post("/parts/2", json={"baseModels": ["alfa", "beta"], "part": {"number": 1}})

    assert (answer.status_code, answer.json()) == (201, {"number": 4})
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b'{"baseModels": 3}', "$.baseModels"),
        (b'{"baseModels": [], "basemodels": []}', "basemodels"),
        (b'{"part": {"number": 1}}', "baseModels"),
        (b"[]", "object"),
        (b"{", "truncated"),
        (b"\xff", "malformed"),
        (b"[" * 100_000, "array"),
        (b"", "malformed|truncated"),
    ],
    ids=["type", "unknown", "missing", "list", "broken", "encoding", "deep", "empty"],
)
def test_another_body_is_refused_with_what_is_wrong_in_it(client: TestClient, content: bytes, named: str) -> None:
    answer = client.post("/parts/2", content=content, headers={"Content-Type": "application/json"})

    assert answer.status_code == 400
    message = answer.json()["error"]["message"].lower()
    assert any(part.lower() in message for part in named.split("|")), message


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_is_not_said_to_be_json_is_refused(client: TestClient, kind: str) -> None:
    answer = client.post("/parts/2", content=b'{"baseModels": []}', headers={"Content-Type": kind} if kind else {})

    assert answer.status_code == 415


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not(client: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * (bodies.LARGEST_BODY // 10)

    at_once = client.post("/parts/2", content=b" " * (bodies.LARGEST_BODY + 1), headers=JSON)
    in_chunks = client.post("/parts/2", content=chunks(), headers=JSON)

    assert [at_once.status_code, in_chunks.status_code] == [413, 413]


def test_a_body_that_is_nested_without_end_is_refused(client: TestClient) -> None:
    answer = client.post("/anything", content=b'{"a":' + b"[" * 100_000, headers=JSON)

    assert answer.status_code == 400


JSON = {"Content-Type": "application/json"}


def test_the_description_holds_the_types_and_no_status_that_is_never_answered(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    post = document["paths"]["/parts/{number}"]["post"]
    schemas = document["components"]["schemas"]
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Sent"}
    assert post["requestBody"]["content"]["application/json"]["example"] == {"baseModels": ["alfa"]}
    assert post["responses"]["201"]["content"]["application/json"]["example"] == {"number": 1}
    assert schemas["Sent"]["required"] == ["baseModels"]
    assert schemas["Part"]["properties"]["number"] == {"type": "integer"}
    assert {"201", "400", "401", "403", "409", "421"} <= set(post["responses"])
    assert "422" not in post["responses"]
    assert "HTTPValidationError" not in schemas
