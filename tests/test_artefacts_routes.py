"""What a run left behind, over HTTP: listed, sent, verified, certified; and nothing of anything else."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import CliRunner
from fastapi import FastAPI

from oneseek.cli import oneseek
from oneseek.files.layout import Home, Results, RunDirectory
from oneseek.server import artefacts, download
from oneseek.server.artefacts import routes
from support.certified import CertifiedTown, certified
from support.ledger_service import Stage, stage
from support.routes import Got, application, finder, request
from support.runs import Town

__all__ = ["certified"]

SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def stand() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture
def home(certified: CertifiedTown, tmp_path: Path) -> Home:
    """A home of its own with two certified runs."""
    root = Path(shutil.copytree(certified.home.root, tmp_path / "home", symlinks=True))
    return Home(root, root / "models")


@pytest.fixture
def run(certified: CertifiedTown, home: Home) -> RunDirectory:
    return Results(home.models).run(certified.run.name)


@pytest.fixture
def app(home: Home) -> Iterator[FastAPI]:
    with ThreadPoolExecutor(1) as work:
        yield application(routes(finder(home), home, {}, work), home)


@pytest.fixture
def address(app: FastAPI, stand: Stage) -> str:
    return stand.play(app)


def path_of(run: RunDirectory, rest: str) -> str:
    return f"/api/runs/{run.run_id}/{rest}"


def listed(address: str, run: RunDirectory) -> dict[str, dict[str, Any]]:
    answer = request(address, path_of(run, "artefacts"))
    assert answer.status == 200
    return {each["path"]: each for each in answer.json["artefacts"]}


# -- the listing ---------------------------------------------------------------------------------------------------


def test_every_file_is_listed_with_its_size_and_what_it_was_sealed_with(address: str, run: RunDirectory) -> None:
    found = listed(address, run)

    files = {path.relative_to(run.root).as_posix(): path for path in run.root.rglob("*") if path.is_file()}
    assert list(found) == sorted(files)
    assert {name: each["size"] for name, each in found.items()} == {n: p.stat().st_size for n, p in files.items()}
    sealed = json.loads(run.manifest.read_bytes())["files"]
    assert {name: each["sha256"] for name, each in found.items()} == {
        name: sealed[name]["sha256"] if name in sealed else None for name in files
    }
    assert found["journal.jsonl"]["sha256"] == hashlib.sha256(run.journal.read_bytes()).hexdigest()


def test_links_and_what_a_run_works_with_are_not_listed(address: str, run: RunDirectory, tmp_path: Path) -> None:
    before = listed(address, run)
    (tmp_path / "secret").write_text(SECRET)
    (run.root / "link").symlink_to(tmp_path / "secret")
    (run.root / "folder").symlink_to(tmp_path)
    os.mkfifo(run.root / "pipe")
    run.work.mkdir()
    (run.work / "process.json").write_text("{}")

    found = listed(address, run)

    assert found == before


def test_a_name_that_is_no_utf8_keeps_no_other_from_being_listed(address: str, run: RunDirectory) -> None:
    (run.root / os.fsdecode(b"odd-\xff")).write_bytes(b"")

    found = listed(address, run)

    assert {"odd-\ufffd", "journal.jsonl"} <= set(found)


def test_digests_of_a_manifest_that_nobody_signed_are_not_told(address: str, run: RunDirectory) -> None:
    run.manifest.write_bytes(run.manifest.read_bytes().replace(b'"dna"', b'"dna" ', 1))

    found = listed(address, run)

    assert {each["sha256"] for each in found.values()} == {None}


# -- one file ------------------------------------------------------------------------------------------------------


def test_a_file_comes_whole_as_an_attachment(address: str, run: RunDirectory) -> None:
    name = next(name for name in listed(address, run) if name.endswith("adapter_model.safetensors"))

    answer = request(address, path_of(run, f"artefacts/{name}"))

    assert (answer.status, answer.body) == (200, (run.root / name).read_bytes())
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="adapter_model.safetensors"'


@pytest.mark.parametrize(
    "name",
    ["räksmörgås.txt", 'say "hi"; x=1.txt', "back\\slash", "semi;colon", "100%.txt", "%2e%2e", "a b", "sub/né", "x\r"],
    ids=ascii,
)
def test_a_file_of_any_name_is_sent_under_that_name(address: str, run: RunDirectory, name: str) -> None:
    path = run.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name, newline="")

    answer = request(address, path_of(run, f"artefacts/{quote(name)}"))

    last = name.rpartition("/")[2]
    assert (answer.status, answer.body.decode()) == (200, name)
    assert answer.headers["Content-Disposition"].endswith(f"; filename*=UTF-8''{quote(last, safe='')}")
    assert answer.headers["Content-Disposition"].count('"') == 2


HOSTILE = [
    "", "/", ".", "..", "../", "../../../keys/run-signer.pem", "..%2f..%2f..%2fkeys%2frun-signer.pem",
    "%2e%2e/%2e%2e/%2e%2e/keys/run-signer.pem", "%252e%252e%252fkeys", "..%5c..%5c..%5ckeys", "..\\..\\keys",
    "adapters/../../../../keys/run-signer.pem", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "C:%5cboot.ini",
    "journal.jsonl%00", "%00", "journal.jsonl%00.txt", "journal.jsonl/", "./journal.jsonl", "adapters/./x",
    "journal.jsonl%0a", "journal.jsonl%0a%0a", "%0ajournal.jsonl", "journal.jsonl%20", "JOURNAL.JSONL", "adapters",
    "adapters/", "link", "folder", "folder/secret", "folder/", "inner", "pipe", "work/process.json", "work", "%ff", "~",
    "journal.jsonl;x", "journal.jsonl%3f", "a/" * 2000, "x" * 5000, "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name)[:40])
def test_what_is_not_in_the_listing_is_not_there(address: str, run: RunDirectory, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (run.root / "link").symlink_to(tmp_path / "secret")
    (run.root / "folder").symlink_to(tmp_path)
    (run.root / "inner").symlink_to("journal.jsonl")
    os.mkfifo(run.root / "pipe")
    run.work.mkdir()
    (run.work / "process.json").write_text(SECRET)

    answer = request(address, path_of(run, f"artefacts/{name}"))

    assert answer.status == 404
    assert answer.json["error"]["message"]
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("run_id", ["..", "%2e%2e", ".%2f", "run-20251122-143025", "%00", "oneseek-certified", "%0a"])
@pytest.mark.parametrize("rest", ["artefacts", "artefacts/journal.jsonl", "archive", "verify"])
def test_of_a_run_that_is_not_there_there_is_nothing(address: str, run_id: str, rest: str) -> None:
    answer = request(address, f"/api/runs/{run_id}/{rest}")

    assert answer.status == 404
    assert set(answer.json) == {"error"}


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_comes_after_the_listing_leads_nowhere(
    address: str, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    files = artefacts._files(run)
    name = next(name for name in files if name.endswith("adapter_config.json"))
    monkeypatch.setattr(artefacts, "_files", lambda _: files)
    (tmp_path / "adapter_config.json").write_text(SECRET)
    path = run.root / name
    if swapped == "file":
        path.unlink()
        path.symlink_to(tmp_path / "adapter_config.json")
    else:
        shutil.rmtree(path.parent)
        path.parent.symlink_to(tmp_path)

    answer = request(address, path_of(run, f"artefacts/{name}"))

    assert answer.status == 404
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=10-", slice(10, None)),
        ("bytes=-10", slice(-10, None)),
        ("bytes=5-5", slice(5, 6)),
        ("bytes=0-999999999999", slice(0, None)),
        ("bytes=-999999999999", slice(0, None)),
        ("Bytes=1-2", slice(1, 3)),
    ],
)
def test_a_part_is_sent_where_one_is_asked_for(address: str, run: RunDirectory, asked: str, part: slice) -> None:
    whole = run.journal.read_bytes()
    start, stop, _ = part.indices(len(whole))

    answer = request(address, path_of(run, "artefacts/journal.jsonl"), headers={"Range": asked})

    assert (answer.status, answer.body) == (206, whole[part])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
    assert answer.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=-", "bytes=9-0", "bytes=0-1,5-6", "lines=0-1", "0-1", "bytes=a-b", "bytes=" + "9" * 30]
)
def test_a_range_that_is_none_is_answered_with_the_whole_file(address: str, run: RunDirectory, asked: str) -> None:
    answer = request(address, path_of(run, "artefacts/journal.jsonl"), headers={"Range": asked})

    assert (answer.status, answer.body) == (200, run.journal.read_bytes())


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_part_behind_the_end_is_refused_with_the_size(address: str, run: RunDirectory, asked: str) -> None:
    answer = request(address, path_of(run, "artefacts/journal.jsonl"), headers={"Range": asked})

    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{run.journal.stat().st_size}"


def test_an_empty_file_is_sent_and_has_no_parts(address: str, run: RunDirectory) -> None:
    (run.root / "empty").write_bytes(b"")

    whole = request(address, path_of(run, "artefacts/empty"))
    part = request(address, path_of(run, "artefacts/empty"), headers={"Range": "bytes=0-"})

    assert (whole.status, whole.body, part.status) == (200, b"", 416)


def test_who_has_a_file_already_does_not_get_it_again(address: str, run: RunDirectory) -> None:
    path = path_of(run, "artefacts/journal.jsonl")
    tag = request(address, path).headers["ETag"]

    same = [request(address, path, headers={"If-None-Match": each}) for each in (tag, f'"x", W/{tag}', "*")]
    part = request(address, path, headers={"If-Range": tag, "Range": "bytes=0-3"})
    with run.journal.open("ab") as file:
        file.write(b"more\n")
    other = request(address, path, headers={"If-None-Match": tag})
    whole = request(address, path, headers={"If-Range": tag, "Range": "bytes=0-3"})

    assert [(each.status, each.body) for each in same] == [(304, b"")] * 3
    assert (part.status, other.status, whole.status) == (206, 200, 200)
    assert whole.body == run.journal.read_bytes()


@pytest.mark.parametrize("change", [b"", b"shorter", b"x" * 1000], ids=["emptied", "shorter", "as long"])
def test_a_file_that_is_overwritten_while_it_is_sent_ends_broken_off(
    address: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, change: bytes
) -> None:
    path = run.root / "notes"
    path.write_bytes(b"n" * 1000)
    os.utime(path, (1, 1))
    monkeypatch.setattr(download, "_BLOCK", 100)
    meddle(monkeypatch, download, "blocks", lambda: path.write_bytes(change))

    with pytest.raises(IncompleteRead):
        request(address, path_of(run, "artefacts/notes"))


def test_a_file_that_grows_while_it_is_sent_is_what_it_was(
    address: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run.journal.read_bytes()
    monkeypatch.setattr(download, "_BLOCK", 100)
    meddle(monkeypatch, download, "blocks", lambda: run.journal.write_bytes(before + b"more\n"))

    answer = request(address, path_of(run, "artefacts/journal.jsonl"))

    assert (answer.status, answer.body) == (200, before)


def meddle(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, act: Any) -> None:
    """Do something when the second block of what is sent was taken."""
    real = getattr(module, name)

    def meddled(*arguments: Any) -> Iterator[bytes]:
        for count, block in enumerate(real(*arguments)):
            if count == 1:
                act()
            yield block

    monkeypatch.setattr(module, name, meddled)


# -- the archive ---------------------------------------------------------------------------------------------------


def unpacked(archive: bytes, into: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(archive)) as found:
        found.extractall(into, filter="data")
    return into


def test_an_unpacked_archive_is_the_certified_run(address: str, run: RunDirectory, home: Home, tmp_path: Path) -> None:
    answer = request(address, path_of(run, "archive"))

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{run.run_id}.tar"'
    copy = unpacked(answer.body, tmp_path / "elsewhere") / run.run_id
    checked = CliRunner().invoke(oneseek, ["verify", str(copy), "--home", str(home.root)])
    assert (checked.exit_code, "Certified: " in checked.output) == (0, True)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == {
        copy / path.relative_to(run.root): path.read_bytes() for path in run.root.rglob("*") if path.is_file()
    }


def test_an_archive_is_the_same_each_time_and_names_nobody(address: str, run: RunDirectory) -> None:
    first, second = (request(address, path_of(run, "archive")).body for _ in range(2))

    assert first == second
    with tarfile.open(fileobj=io.BytesIO(first)) as found:
        members = found.getmembers()
    assert [each.name for each in members] == sorted(each.name for each in members)
    assert {(each.uid, each.gid, each.uname, each.gname, each.mode, each.isreg()) for each in members} == {
        (0, 0, "", "", 0o644, True)
    }


def test_an_archive_holds_files_of_any_name_and_no_links(address: str, run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (run.root / "link").symlink_to(tmp_path / "secret")
    odd = ["né", "a\nb", "d" * 120, os.fsdecode(b"odd-\xff"), "f/" * 60 + "last"]
    for name in odd:
        (run.root / name).parent.mkdir(parents=True, exist_ok=True)
        (run.root / name).write_text("here")

    answer = request(address, path_of(run, "archive"))

    with tarfile.open(fileobj=io.BytesIO(answer.body), errors="surrogateescape") as found:
        names = {each.name for each in found}
    assert {f"{run.run_id}/{name}" for name in odd} <= names
    assert f"{run.run_id}/link" not in names
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("change", ["grown", "replaced", "gone", "new"])
def test_an_archive_of_a_run_that_changes_meanwhile_ends_broken_off(
    address: str, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    last = run.root / "zzz"
    last.write_bytes(b"z")
    changes = {
        "grown": lambda: last.write_bytes(b"zz"),
        "replaced": lambda: run.recipe.replace(last),
        "gone": last.unlink,
        "new": lambda: (run.root / "aaa").write_bytes(b""),
    }
    meddle(monkeypatch, artefacts, "_members", changes[change])

    with pytest.raises(IncompleteRead):
        request(address, path_of(run, "archive"))


def test_there_is_no_archive_of_a_run_that_still_writes(address: str, run: RunDirectory) -> None:
    import fcntl

    run.work.mkdir()
    with run.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        answer = request(address, path_of(run, "archive"))

    assert answer.status == 409
    assert "is running" in answer.json["error"]["message"]


def test_memory_stays_flat_however_large_the_files_are(app: FastAPI, run: RunDirectory) -> None:
    size = 300 << 20
    with (run.root / "weights").open("wb") as file:
        file.truncate(size)

    for rest in ("archive", "artefacts/weights"):
        tracemalloc.start()
        sent = asyncio.run(streamed(app, path_of(run, rest)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert sent >= size
        assert peak < 8 << 20


async def streamed(app: FastAPI, path: str) -> int:
    """How many bytes an application sends; they are let go one by one."""
    total = 0

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal total
        total += len(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"", "asgi": {}}
    await app(scope, receive, send)
    return total


# -- verified and certified ----------------------------------------------------------------------------------------


def test_a_certified_run_is_verified_as_on_the_command_line(address: str, run: RunDirectory, home: Home) -> None:
    answer = request(address, path_of(run, "verify"))

    said = CliRunner().invoke(oneseek, ["verify", run.run_id, "--home", str(home.root), "--json"])
    assert (answer.status, answer.json) == (200, json.loads(said.stdout))
    assert answer.json["ok"] is True


def test_what_a_run_was_made_of_is_read_too_where_it_is_asked_for(address: str, run: RunDirectory) -> None:
    alone = request(address, path_of(run, "verify")).json["checks"]
    checked = request(address, path_of(run, "verify?sources=true")).json["checks"]

    assert [each["result"] for each in alone if each["name"] in ("dataset", "base models")] == ["not checkable"] * 2
    assert [each["result"] for each in checked if each["name"] in ("dataset", "base models")] == ["ok"] * 2


def test_a_lie_is_told_and_no_path_of_the_server(address: str, run: RunDirectory, home: Home) -> None:
    for number in range(1001):
        (run.root / f"{number}").touch()

    answer = request(address, path_of(run, "verify"))

    assert answer.json["ok"] is False
    assert f"oneseek-certified/{run.run_id} holds more than 1000 files" in answer.body.decode()
    assert str(home.root) not in answer.body.decode()


def certify(address: str, run: RunDirectory) -> Got:
    return request(address, path_of(run, "certify"), "POST")


def test_a_completed_run_is_certified_and_doing_it_again_says_so(address: str, run: RunDirectory) -> None:
    run.ledger_proof.unlink()

    first, second = certify(address, run), certify(address, run)

    assert (first.status, second.status) == (200, 200)
    assert [(each.json["status"], each.json["already"]) for each in (first, second)] == [
        ("certified", False),
        ("certified", True),
    ]
    assert run.ledger_proof.exists()


def test_what_keeps_a_run_from_being_certified_is_told_without_paths(
    address: str, run: RunDirectory, home: Home
) -> None:
    run.ledger_proof.unlink()
    (run.root / "stranger.txt").write_text("who are you?")

    answer = certify(address, run)

    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert "stranger.txt" in answer.json["problem"]
    assert answer.json["fix"]
    assert str(home.root) not in answer.body.decode()


def test_a_run_that_is_not_complete_is_not_certified(address: str, home: Home) -> None:
    with Town(home.root).submit("alfa-1b", data__bad_rows="quarantine") as accepted:
        directory = RunDirectory(home.models / accepted.directory.root.relative_to(home.models))

    answer = certify(address, directory)

    assert answer.status == 409
    assert answer.json["error"]["message"] == f"{directory.run_id} is not complete, so it can't be certified."
    assert str(home.root) not in answer.body.decode()


def test_the_routes_are_described(app: FastAPI) -> None:
    described = json.loads(json.dumps(app.openapi()))

    paths = described["paths"]
    answers = {path: set(methods[next(iter(methods))]["responses"]) for path, methods in paths.items()}
    assert answers["/api/runs/{run_id}/artefacts/{path}"] >= {"200", "206", "304", "404", "416"}
    assert set(described["components"]["schemas"]) >= {"Artefacts", "Verified", "Certification", "ErrorBody"}
