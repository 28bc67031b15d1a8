"""Datasets over HTTP: what is sent is kept whole or not at all, and looked at, counted, converted, fetched, removed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import pickle
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from httpx2 import Response
from starlette.testclient import TestClient

from oneseek.datasets import store
from oneseek.datasets.read import JudgedRow
from oneseek.files.layout import Home
from oneseek.server import bodies, datasets, errors, uploads
from oneseek.server.datasets import Added, Dataset, Preview
from oneseek.server.places import hiding
from support.base_models import write_model
from support.runs import Town
from support.server import served

ROWS = b'{"text": "one"}\n{"text": "two"}\n{"text": ""}\n{"text": "one"}\n'
CHAT = b'{"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "At nine."}]}\n'
LARGEST = 3 << 20

Call = Callable[..., Response]


class InUse:
    """Which runs use which dataset."""

    def __init__(self) -> None:
        self.runs: dict[str, list[str]] = {}

    def __call__(self, sha256: str) -> Sequence[str]:
        return self.runs.get(sha256, [])


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home", tmp_path / "home" / "models")


@pytest.fixture
def in_use() -> InUse:
    return InUse()


@pytest.fixture
def app(home: Home, in_use: InUse) -> Iterator[FastAPI]:
    found = FastAPI(responses=bodies.EVERYWHERE)
    with ThreadPoolExecutor(1) as work:
        found.include_router(datasets.routes(home, work, in_use, largest=LARGEST))
        errors.install(found, hiding(home))
        bodies.describe(found)
        yield found


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def send(client: TestClient) -> Call:
    """Send rows under a name."""

    def sent(content: Any = ROWS, name: str = "rows.jsonl", **headers: str) -> Response:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        return client.post("/api/datasets", params={"name": name}, content=content, headers=named)

    return sent


def said(answer: Response) -> str:
    """What an error says, in the one form."""
    error = answer.json()["error"]
    assert {"code", "message", "fix"} <= set(error)
    return f"{error['message']} {error['fix']}"


def kept(home: Home) -> list[str]:
    """Every file below datasets/ but locks."""
    if not home.datasets.exists():
        return []
    return sorted(path.name for path in home.datasets.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


# -- sent ----------------------------------------------------------------------------------------------------------


def test_what_is_sent_is_kept_under_its_hash_and_described_as_inspect_does(home: Home, send: Call) -> None:
    answer = send()

    sha256 = hashlib.sha256(ROWS).hexdigest()
    assert answer.status_code == 201
    told = msgspec.json.decode(answer.content, type=Added)
    assert (told.name, told.sha256, told.size_bytes, told.rows) == ("rows.jsonl", sha256, len(ROWS), 3)
    assert (told.format, told.container, told.used_as) == ("text", "jsonl", "text")
    assert (told.strategy, told.method, told.converts_to) == ("standard", "sft", ())
    assert [(group.kind, group.count) for group in told.bad_rows] == [("empty-content", 1)]
    assert told.duplicates.examples == ((4, 1),)
    assert told.first == ({"text": "one"}, {"text": "two"}, {"text": ""})
    assert kept(home) == [f"{sha256}.jsonl", f"{sha256}.meta.json"]
    assert store.path_of(home, store.get(home, "rows.jsonl")).read_bytes() == ROWS


def test_the_file_that_arrived_is_the_one_that_is_kept_not_a_copy_of_it(
    home: Home, send: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "copy_file", lambda *_: pytest.fail("copied"))

    assert send().status_code == 201


def test_the_file_is_on_the_disk_before_it_is_said_to_be_kept(
    home: Home, send: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fsync

    def noted(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    monkeypatch.setattr(os, "fsync", noted)

    send()

    assert store.path_of(home, store.get(home, "rows.jsonl")).stat().st_ino in synced


def test_the_same_content_again_is_the_one_that_is_there(home: Home, send: Call) -> None:
    first = send().json()

    again, under_another_name = send(), send(name="town")

    assert (again.status_code, under_another_name.status_code) == (200, 200)
    assert again.json() == under_another_name.json() == first
    assert kept(home) == [f"{first['sha256']}.jsonl", f"{first['sha256']}.meta.json"]


def test_a_file_that_comes_in_many_pieces_is_kept_to_the_byte(home: Home, send: Call) -> None:
    rows = b"".join(b'{"text": "%d"}\n' % number for number in range(150_000))
    pieces = [rows[at : at + 300_007] for at in range(0, len(rows), 300_007)]

    answer = send(iter(pieces))

    assert (answer.status_code, answer.json()["sha256"]) == (201, hashlib.sha256(rows).hexdigest())
    assert store.path_of(home, store.get(home, "rows.jsonl")).read_bytes() == rows


@pytest.mark.parametrize(
    "kind", ["", "application/x-www-form-urlencoded", "application/json", "text/csv", "application/octet-stream"]
)
def test_a_file_may_be_called_by_any_type(send: Call, kind: str) -> None:
    assert send(Content_Type=kind).status_code == 201


def test_csv_is_told_by_its_name(send: Call) -> None:
    answer = send(b"text\none\ntwo\n", "rows.CSV")

    assert answer.json()["container"] == "csv"
    assert answer.json()["rows"] == 2


def test_a_form_is_refused_with_the_line_to_type(home: Home, client: TestClient) -> None:
    answer = client.post("/api/datasets?name=rows.jsonl", files={"file": ("rows.jsonl", ROWS)})

    assert answer.status_code == 415
    assert "curl --data-binary @rows.jsonl" in said(answer)
    assert kept(home) == []


def test_a_file_that_is_no_dataset_is_refused_with_its_reason_and_nothing_is_kept(home: Home, send: Call) -> None:
    answers = {
        name: send(content, name)
        for name, content in {
            "notes.txt": b"not rows\n",
            "empty.jsonl": b"",
            "my rows.gz": b"\x1f\x8b\x08\0\0\0",
            "picture.png": b"\x89PNG\0\0",
        }.items()
    }

    assert {answer.status_code for answer in answers.values()} == {400}
    assert {answer.json()["error"]["code"] for answer in answers.values()} == {"DatasetError"}
    assert "line 1" in said(answers["notes.txt"])
    assert "The dataset empty.jsonl is empty." in said(answers["empty.jsonl"])
    assert "gunzip -c 'my rows.gz' > rows.jsonl" in said(answers["my rows.gz"])
    assert "not text" in said(answers["picture.png"])
    assert kept(home) == []
    assert not any(str(home.root) in answer.text or ".uploads" in answer.text for answer in answers.values())


HOSTILE = [
    "", " ", ".", "..", "../rows.jsonl", "..\\rows.jsonl", "/etc/passwd", "a/b.jsonl", "a\\b.jsonl", "a\0b.jsonl",
    "a\nb", "\x1b[2J", "a\u202eb", "-rf", "x" * 121, "deadbeef", "..%2f..%2fetc%2fpasswd/", "C:\\rows.jsonl",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_that_could_mislead_is_refused_before_the_body_is_read(home: Home, send: Call, name: str) -> None:
    def rows() -> Iterator[bytes]:
        yield ROWS

    answer = send(rows(), name)

    assert answer.status_code == 400
    assert "cannot be the name" in said(answer)
    assert not home.root.exists()


@pytest.mark.parametrize("name", ["rows.jsonl;rm -rf ~", "$(id).jsonl", "..%2f..%2frows", "räksmörgås 🦐.jsonl"])
def test_a_name_that_is_only_strange_stays_a_name(home: Home, send: Call, name: str) -> None:
    answer = send(name=name)

    assert (answer.status_code, answer.json()["name"]) == (201, name)
    assert kept(home) == [f"{answer.json()['sha256']}{ending}" for ending in (".jsonl", ".meta.json")]


def test_a_name_that_other_content_has_is_refused_and_nothing_is_kept(home: Home, send: Call) -> None:
    send()
    before = kept(home)

    answer = send(CHAT)

    assert answer.status_code == 400
    assert "is taken" in said(answer)
    assert kept(home) == before


# -- too large, broken off, another digest, a full disk ---------------------------------------------------------------


def test_what_is_said_to_be_too_large_is_refused_before_it_is_read(home: Home, app: FastAPI) -> None:
    status, _, read = asked_of(app, [ROWS], {"content-length": str(LARGEST + 1)})

    assert (status, read) == (413, 0)
    assert kept(home) == []


def test_what_turns_out_too_large_is_refused_when_it_does_and_the_file_is_gone(home: Home, app: FastAPI) -> None:
    row = json.dumps({"text": "x" * 999_000}).encode() + b"\n"
    endless = [row] * 20

    status, _, read = asked_of(app, endless, {})

    assert status == 413
    assert read == LARGEST // len(row) + 1
    assert kept(home) == []


def test_what_breaks_off_leaves_nothing(home: Home, app: FastAPI) -> None:
    status, body, _ = asked_of(app, [ROWS, None], {})

    assert status == 400
    assert b"broke off" in body
    assert kept(home) == []


def test_a_request_that_is_dropped_in_the_middle_leaves_nothing(home: Home, app: FastAPI) -> None:
    """As a server does that ends."""
    reached = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield ROWS * 40_000
        reached.set()
        await asyncio.sleep(60)

    async def drop() -> list[str]:
        request = asyncio.create_task(_asked(app, body(), {}))
        await reached.wait()
        there = kept(home)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        return there

    there = asyncio.run(drop())

    assert len(there) == 1
    assert kept(home) == []


@pytest.mark.parametrize("header", ["Content-Digest", "Digest"])
def test_the_digest_that_a_request_tells_is_compared(home: Home, send: Call, header: str) -> None:
    def digest(of: bytes) -> str:
        found = base64.b64encode(hashlib.sha256(of).digest()).decode()
        return f"md5=:abc:, sha-256=:{found}:" if header == "Content-Digest" else f"SHA-256={found}"

    wrong = send(**{header: digest(b"other")})
    after = kept(home)
    right = send(**{header: digest(ROWS)})

    assert (wrong.status_code, after) == (400, [])
    assert "another SHA-256" in said(wrong)
    assert right.status_code == 201


@pytest.mark.parametrize("value", ["sha-256=", "sha-256=:YWJj:", "sha-256=:%%%:", "sha-256=:räka:"])
def test_a_digest_that_is_none_is_refused(home: Home, app: FastAPI, value: str) -> None:
    status, body, read = asked_of(app, [ROWS], {"content-digest": value})

    assert (status, read) == (400, 0)
    assert b"Content-Digest holds no SHA-256" in body
    assert kept(home) == []


def test_a_digest_of_another_algorithm_is_passed_over(send: Call) -> None:
    assert send(Content_Digest="sha-512=:AAAA:").status_code == 201


def test_a_disk_without_room_is_told_before_anything_is_written(
    home: Home, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(home.root.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=uploads._LEFT + 100))

    announced = asked_of(app, [ROWS], {"content-length": "101"})
    streamed = asked_of(app, [ROWS * 2], {})

    assert (announced[0], announced[2]) == (507, 0)
    assert streamed[0] == 507
    assert b"Free some space" in announced[1]
    assert kept(home) == []


def test_a_home_that_cannot_be_written_is_told_without_its_place(home: Home, send: Call) -> None:
    home.root.mkdir()
    home.datasets.write_text("in the way")

    answer = send()

    assert answer.status_code == 507
    assert "datasets/.uploads could not be written" in said(answer)
    assert str(home.root) not in answer.text


def test_what_a_killed_server_left_is_swept_and_nothing_else(home: Home, send: Call) -> None:
    send()
    before = kept(home)
    (home.uploads / "left.tmp").mkdir(parents=True)
    (home.uploads / "left.jsonl").write_bytes(ROWS)

    uploads.sweep(home)
    uploads.sweep(home)

    assert kept(home) == before
    assert not home.uploads.exists()


def asked_of(app: Any, pieces: Sequence[bytes | None], headers: dict[str, str]) -> tuple[int, bytes, int]:
    """Send a body piece by piece; None breaks the connection off. Status, body, and how many pieces were taken."""

    async def body() -> AsyncIterator[bytes | None]:
        for piece in pieces:
            yield piece

    return asyncio.run(_asked(app, body(), headers))


async def _asked(app: Any, body: AsyncIterator[bytes | None], headers: dict[str, str]) -> tuple[int, bytes, int]:
    taken, sent = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal taken
        try:
            piece = await anext(body)
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        taken += 1
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/api/datasets", "raw_path": b"/api/datasets", "scheme": "http",
        "query_string": b"name=rows.jsonl", "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0"},
        "headers": [(name.encode(), value.encode("utf-8")) for name, value in headers.items()],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent), taken


# -- looked at -----------------------------------------------------------------------------------------------------


def test_datasets_are_listed_by_name_with_what_is_damaged(home: Home, client: TestClient, send: Call) -> None:
    send()
    other = send(CHAT, "chat.jsonl").json()
    store.path_of(home, store.get(home, "chat.jsonl")).write_bytes(b"x")

    told = client.get("/api/datasets").json()

    assert [each["name"] for each in told["datasets"]] == ["rows.jsonl"]
    assert [each["sha256"] for each in told["damaged"]] == [other["sha256"]]


@pytest.mark.parametrize("by", ["name", "hash", "digits"])
def test_a_dataset_is_found_by_its_name_and_by_its_hash(client: TestClient, send: Call, by: str) -> None:
    sha256 = send().json()["sha256"]

    answer = client.get(f"/api/datasets/{ {'name': 'rows.jsonl', 'hash': sha256, 'digits': sha256[:8]}[by] }")

    told = msgspec.json.decode(answer.content, type=Dataset)
    assert (told.name, told.sha256, told.strategy) == ("rows.jsonl", sha256, "standard")


@pytest.mark.parametrize("method_and_end", ["GET ", "GET /preview", "GET /statistics", "GET /content", "DELETE "])
@pytest.mark.parametrize(
    "id_",
    ["none", "..%2f..%2foneseek.db", "%2e%2e", "..%5crows", "a%00b", "rows%0a", "%ff%fe", "x" * 3000, "0" * 64,
     "plain.jsonl", ".store.lock", "~", "%2fetc%2fpasswd"],
    ids=range(13),
)  # fmt: skip
def test_what_is_not_in_the_store_is_not_found_whatever_lies_in_its_directory(
    home: Home, client: TestClient, send: Call, method_and_end: str, id_: str
) -> None:
    send()
    (home.datasets / "plain.jsonl").write_bytes(ROWS)
    before = kept(home)
    method, _, end = method_and_end.partition(" ")

    answer = client.request(method, f"/api/datasets/{id_}{end}")

    assert answer.status_code in (404, 405)  # 405: after decoding, that is another path
    assert str(home.root) not in answer.text
    assert kept(home) == before


def test_a_preview_is_the_first_rows_as_they_stand_with_what_is_wrong(client: TestClient, send: Call) -> None:
    send(b'<b>no</b>\n{"text": "</script><script>alert(1)</script>"}\n{"text": 3}\n[1]\n{"text": "five"}\n')

    answer = client.get("/api/datasets/rows.jsonl/preview?rows=4")

    rows = msgspec.json.decode(answer.content, type=Preview).rows
    assert answer.headers["content-type"] == "application/json"
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert [row.row for row in rows] == [None, {"text": "</script><script>alert(1)</script>"}, {"text": 3}, [1]]
    assert rows[0].problem
    assert rows[0].problem.startswith("broken JSON")
    assert (rows[1].problem, rows[2].problem) == (None, "'text' is a number, not text")


def test_a_preview_has_five_rows_and_none_that_is_too_long_to_be_shown(client: TestClient, send: Call) -> None:
    send(json.dumps({"text": "x" * (1 << 20)}).encode() + b"\n" + ROWS * 2)

    rows = client.get("/api/datasets/rows.jsonl/preview").json()["rows"]

    assert len(rows) == 5
    assert rows[0]["row"] is None
    assert "not shown" in rows[0]["problem"]


@pytest.mark.parametrize("query", ["rows=0", "rows=21", "rows=-1", "rows=x", "rows=1e3", "rows=9" + "9" * 400])
def test_a_preview_of_another_number_of_rows_is_refused(client: TestClient, send: Call, query: str) -> None:
    send()

    assert client.get(f"/api/datasets/rows.jsonl/preview?{query}").status_code == 400


def test_a_preview_reads_no_more_than_it_shows(client: TestClient, send: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    send()
    seen: list[int] = []

    def counted(path: Path) -> Iterator[JudgedRow]:
        for line in range(1, 1000):
            seen.append(line)
            yield JudgedRow(line, b"{}", {}, None)

    monkeypatch.setattr(datasets, "rows_of", counted)
    client.get("/api/datasets/rows.jsonl/preview?rows=3")

    assert seen == [1, 2, 3]


def test_statistics_count_characters_and_the_tokens_of_each_model(home: Home, client: TestClient, send: Call) -> None:
    write_model(home.models / "alfa-1b", vocab=260)
    send(CHAT)

    answer = client.get("/api/datasets/rows.jsonl/statistics?baseModels=alfa-1b&maxLength=16")

    told = answer.json()
    assert answer.status_code == 200
    assert (told["path"], told["characters"]["total"]) == ("rows.jsonl", 13)
    assert list(told["models"]) == ["alfa-1b"]
    assert (told["models"]["alfa-1b"]["max_length"], told["models"]["alfa-1b"]["truncated"]) == (16, 1)
    assert str(home.root) not in answer.text


@pytest.mark.parametrize(("what", "function"), [("statistics", "_counted"), ("preview", "_previewed")])
def test_nothing_is_read_for_who_has_gone_before_it_was_begun(
    home: Home, in_use: InUse, monkeypatch: pytest.MonkeyPatch, what: str, function: str
) -> None:
    begun: list[object] = []
    monkeypatch.setattr(datasets, function, lambda *asked: begun.append(asked))
    app, enough = FastAPI(), threading.Event()
    statuses = []

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    with ThreadPoolExecutor(1) as work:
        app.include_router(datasets.routes(home, work, in_use, largest=LARGEST))
        errors.install(app, hiding(home))
        work.submit(enough.wait, 30)
        scope = {
            "type": "http",
            "method": "GET",
            "path": f"/api/datasets/rows/{what}",
            "query_string": b"",
            "headers": [],
        }
        asyncio.run(app(scope, gone, send))
        enough.set()

    assert (begun, statuses[0]) == ([], 408)


@pytest.mark.parametrize(
    "query", ["maxLength=7", "maxLength=1" + "0" * 30, "baseModels=none", "baseModels=..%2f..%2fetc", "baseModels=%00"]
)
def test_statistics_of_what_is_not_there_are_refused(home: Home, client: TestClient, send: Call, query: str) -> None:
    write_model(home.models / "alfa-1b")
    send(CHAT)

    answer = client.get(f"/api/datasets/rows.jsonl/statistics?{query}")

    assert answer.status_code == 400
    assert str(home.root) not in answer.text


# -- fetched, converted, removed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "disposition"),
    [
        ("rows.jsonl", 'attachment; filename="rows.jsonl"'),
        ('a "b".html', "attachment; filename=\"a__b_.html\"; filename*=UTF-8''a%20%22b%22.html"),
        ("räka.jsonl", "attachment; filename=\"r_ka.jsonl\"; filename*=UTF-8''r%C3%A4ka.jsonl"),
    ],
    ids=["plain", "quotes", "unicode"],
)
def test_the_content_comes_as_a_file_to_be_saved(client: TestClient, send: Call, name: str, disposition: str) -> None:
    sha256 = send(name=name).json()["sha256"]

    answer = client.get(f"/api/datasets/{sha256}/content")

    assert answer.content == ROWS
    assert answer.headers["content-disposition"] == disposition
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["etag"] == f'"{sha256}"'


def test_a_dataset_is_converted_into_one_of_another_name(home: Home, client: TestClient, send: Call) -> None:
    source = send(CHAT).json()

    answer = client.post("/api/datasets/rows.jsonl/convert", json={"to": "sharegpt", "name": "turns.parquet"})

    told = msgspec.json.decode(answer.content, type=Added)
    assert answer.status_code == 201
    assert (told.name, told.format, told.container, told.rows) == ("turns.parquet", "sharegpt", "parquet", 1)
    assert [each.name for each in store.listing(home).datasets] == ["rows.jsonl", "turns.parquet"]
    assert len(kept(home)) == 4
    assert told.sha256 != source["sha256"]


def test_a_conversion_that_changes_nothing_leaves_the_source_its_name(
    home: Home, client: TestClient, send: Call
) -> None:
    send(b'{"text":"one"}\n')
    before = kept(home)

    answer = client.post("/api/datasets/rows.jsonl/convert", json={"to": "text", "name": "other.jsonl"})

    assert (answer.status_code, answer.json()["name"]) == (200, "rows.jsonl")
    assert kept(home) == before


def test_fields_that_a_conversion_leaves_out_are_told(client: TestClient, send: Call) -> None:
    send(b'{"prompt": "a", "completion": "b", "source": "c"}\n')

    answer = client.post(
        "/api/datasets/rows.jsonl/convert", json={"to": "messages", "name": "chat", "container": "jsonl"}
    )

    assert answer.json()["error" if answer.status_code >= 400 else "left_out"] == ["source"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"to": "messages", "name": "new.jsonl"}, "cannot be converted to messages"),
        ({"to": "text", "name": "../new.jsonl"}, "cannot be the name"),
        ({"to": "text", "name": "new"}, "does not say by its ending"),
        ({"to": "text", "name": "new.jsonl", "container": "csv"}, "would not be read as CSV"),
        ({"to": "text", "name": "new.jsonl"}, "1 row of rows.jsonl cannot be converted"),
        ({"to": "nothing", "name": "new.jsonl"}, "Invalid enum value"),
        ({"to": "text", "name": "new.jsonl", "output": "/etc/passwd"}, "unknown field"),
        ({"to": "text"}, "missing required field"),
    ],
    ids=range(8),
)
def test_a_conversion_that_cannot_be_leaves_nothing(
    home: Home, client: TestClient, send: Call, body: dict[str, str], words: str
) -> None:
    send()
    before = kept(home)

    answer = client.post("/api/datasets/rows.jsonl/convert", json=body)

    assert answer.status_code == 400
    assert words in said(answer)
    assert kept(home) == before
    assert str(home.root) not in answer.text
    assert ".uploads" not in answer.text


@pytest.mark.parametrize("used_as", ["data__dataset", "data__validation_dataset"])
def test_what_a_run_learns_from_or_is_measured_by_stays_until_it_is_over(town: Town, used_as: str) -> None:
    rows = town.root / "sent.jsonl"
    rows.write_bytes(CHAT * 3 + CHAT.replace(b"When", b"Where") * 9)
    store.add(town.home, rows, "sent")
    settings: dict[str, Any] = {used_as: str(rows)}

    with served(town) as server, town.submit("alfa-1b", **settings) as run:
        held = server.client.delete("/api/datasets/sent", headers=server.token("run"))

    assert held.status_code == 409
    assert run.directory.run_id in held.json()["error"]["message"]
    assert store.get(town.home, "sent")


def test_a_dataset_is_removed_unless_a_run_uses_it(home: Home, client: TestClient, send: Call, in_use: InUse) -> None:
    sha256 = send().json()["sha256"]
    in_use.runs[sha256] = ["run-20261121-071900"]

    used = client.delete("/api/datasets/rows.jsonl")
    in_use.runs.clear()
    free = client.delete("/api/datasets/rows.jsonl")

    assert used.status_code == 409
    assert "run-20261121-071900" in said(used)
    assert (free.status_code, free.json()) == (200, {"removed": sha256, "name": "rows.jsonl"})
    assert kept(home) == []


def test_a_damaged_dataset_can_be_removed_by_its_hash(home: Home, client: TestClient, send: Call) -> None:
    sha256 = send().json()["sha256"]
    (home.datasets / f"{sha256}.meta.json").write_bytes(b"{")

    assert client.get(f"/api/datasets/{sha256}").status_code == 400
    assert client.delete(f"/api/datasets/{sha256}").json() == {"removed": sha256, "name": None}
    assert kept(home) == []


# -- what leaves this process --------------------------------------------------------------------------------------


def test_what_is_done_in_another_process_gets_there_and_back(home: Home, send: Call) -> None:
    told = msgspec.json.decode(send(CHAT).content, type=Added)

    assert pickle.loads(pickle.dumps(told)) == told
    for value in (datasets._taken_in, datasets._converted, datasets._previewed, datasets._counted, home):
        assert pickle.loads(pickle.dumps(value)) == value
    asked = datasets.Conversion(to="text", name="x")
    assert pickle.loads(pickle.dumps(asked)) == asked
    for found in (datasets._previewed(home, "rows.jsonl", 1), datasets._counted(home, "rows.jsonl", (), 8)):
        assert pickle.loads(pickle.dumps(found)) == found


def test_the_document_of_the_api_names_what_every_route_takes_and_answers(app: FastAPI) -> None:
    document = app.openapi()

    paths = {f"{method} {path}" for path, methods in document["paths"].items() for method in methods}
    assert paths == {
        "get /api/datasets", "post /api/datasets", "get /api/datasets/{dataset}", "delete /api/datasets/{dataset}",
        "get /api/datasets/{dataset}/preview", "get /api/datasets/{dataset}/statistics",
        "get /api/datasets/{dataset}/content",
        "post /api/datasets/{dataset}/convert",
    }  # fmt: skip
    sent = document["paths"]["/api/datasets"]["post"]
    assert set(sent["responses"]) == {"200", "201", "400", "401", "403", "413", "415", "421", "429", "507"}
    msgspec.convert(sent["responses"]["201"]["content"]["application/json"]["example"], Added)


def test_a_part_of_its_file_can_be_asked_for(home: Home, client: TestClient, send: Call) -> None:
    name, whole = send().json()["name"], client.get("/api/datasets/rows.jsonl/content").content

    part = client.get(f"/api/datasets/{name}/content", headers={"Range": "bytes=3-9"})
    behind = client.get(f"/api/datasets/{name}/content", headers={"Range": f"bytes={len(whole)}-"})

    assert (part.status_code, part.content) == (206, whole[3:10])
    assert (behind.status_code, behind.json()["error"]["code"]) == (416, "RangeNotSatisfiable")
