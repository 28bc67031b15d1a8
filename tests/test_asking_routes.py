"""Questions over HTTP: answers while they are written, one generation at a time, nothing left of who leaves."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil
import pytest

import oneseek
from oneseek import runs
from oneseek.errors import ModelError, OneSeekError, RunError, StorageError, WorkerFailed
from oneseek.files.layout import Home, RunDirectory
from oneseek.runs import AnswerFinished, Generated, TokenGenerated
from oneseek.server import asking
from oneseek.server.asking import LONGEST_PROMPT, MOST_PROMPTS, Ask, Questions, routes
from oneseek.server.places import hiding
from support.certified import CertifiedTown, certified
from support.ledger_service import Stage, stage
from support.routes import application, finder, request
from support.tiny_models import chat_rows, write_model, write_rows

__all__ = ["certified"]

SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]
OPEN = {"prompts": ["Open?"]}


@pytest.fixture(scope="module")
def stand() -> Iterator[Stage]:
    with stage() as found:
        yield found


Play = Callable[[Ask], str]


@pytest.fixture
def play(stand: Stage, certified: CertifiedTown) -> Play:
    """The address of the route over what stands in for `runs.generate`."""
    return lambda ask: stand.play(
        application(routes(finder(certified.home), hiding(certified.home), ask), certified.home)
    )


@pytest.fixture
def path(certified: CertifiedTown) -> str:
    return path_of(certified.run.name)


def path_of(run_id: str) -> str:
    return f"/api/runs/{run_id}/generate"


def token(text: str = "At nine.") -> TokenGenerated:
    return TokenGenerated(model="alfa-1b", variant="adapter", prompt=0, text=text)


def answer(text: str = "At nine.") -> AnswerFinished:
    said = {"model": "alfa-1b", "variant": "adapter", "prompt": 0, "text": text}
    return msgspec.convert(
        {"type": "answer", **said, "finish_reason": "stop", "tokens": 2, "tokens_per_second": 1.0}, AnswerFinished
    )


class Begun:
    """A connection on which a question was asked and no more is known yet."""

    def __init__(self, address: str, path: str) -> None:
        self.connection = HTTPConnection(urlsplit(address).netloc, timeout=30)
        self.connection.request("POST", path, json.dumps(OPEN), {"Content-Type": "application/json"})

    def answer(self) -> HTTPResponse:
        return self.connection.getresponse()

    def close(self) -> None:
        self.connection.close()


def soon(holds: Callable[[], object], within: float = 5.0) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < within
        time.sleep(0.01)
    return time.monotonic() - began


class Talking:
    """Stands in for `runs.generate`: a process as a model's, whose next word is waited for without end."""

    def __init__(self) -> None:
        self.first: tuple[Generated, ...] = ()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.ended = 0

    def __call__(self, directory: RunDirectory, *, begun: Any, **_: Any) -> Generator[Generated, None, None]:
        with subprocess.Popen(SLEEPS, stdout=subprocess.PIPE) as process:
            try:
                self.processes.append(process)
                begun(process)
                yield from self.first
                assert process.stdout is not None
                process.stdout.read()
                raise WorkerFailed("crashed", "Its process was killed.")
            finally:
                process.kill()
                self.ended += 1

    @property
    def alive(self) -> bool:
        return any(process.poll() is None for process in self.processes)


@pytest.fixture
def talking(stand: Stage) -> Iterator[Talking]:
    """None of its processes outlives the test, whatever the server does about them."""
    found = Talking()
    yield found
    for process in found.processes:
        process.kill()


# -- answers -------------------------------------------------------------------------------------------------------


def test_each_line_is_sent_as_it_comes(play: Play, path: str) -> None:
    goes_on = threading.Event()

    def ask(directory: RunDirectory, **_: Any) -> Generator[Generated, None, None]:
        yield token("At ")
        assert goes_on.wait(20)
        yield answer()

    with closing(Begun(play(ask), path)) as asked:
        told = asked.answer()
        first = told.readline()
        goes_on.set()
        rest = told.read()

    assert (told.status, told.headers["Content-Type"]) == (200, "application/x-ndjson")
    assert first == msgspec.json.encode(token("At ")) + b"\n"
    assert rest == msgspec.json.encode(answer()) + b"\n"


def test_all_of_a_generation_runs_on_one_thread(play: Play, path: str) -> None:
    threads = []

    def ask(directory: RunDirectory, **_: Any) -> Generator[Generated, None, None]:
        for number in range(20):
            threads.append(threading.get_ident())
            yield token(str(number))
        threads.append(threading.get_ident())

    told = request(play(ask), path, "POST", OPEN)

    assert [line["text"] for line in told.lines] == [str(number) for number in range(20)]
    assert len(set(threads)) == 1


def test_what_is_asked_reaches_the_models_as_it_was_asked(play: Play, path: str, certified: CertifiedTown) -> None:
    asked: list[dict[str, Any]] = []

    def ask(directory: RunDirectory, **given: Any) -> Generator[Generated, None, None]:
        asked.append({"directory": directory.root, **given})
        yield answer()

    address = play(ask)
    everything = {
        "prompts": ["a", "b"], "models": ["alfa"], "maxNewTokens": 5, "temperature": 0.5, "topP": 0.9, "seed": 3,
        "system": "Be short.", "base": False,
    }  # fmt: skip
    request(address, path, "POST", everything)
    request(address, path, "POST", OPEN)

    for given in asked:
        assert given.pop("directory") == certified.run
        del given["begun"]
    own = inspect.signature(runs.generate).parameters
    assert asked[0] == {
        "prompts": ["a", "b"], "models": ["alfa"], "max_new_tokens": 5, "temperature": 0.5, "top_p": 0.9, "seed": 3,
        "system": "Be short.", "base": False,
    }  # fmt: skip
    assert asked[1] == {"prompts": ["Open?"], **{name: own[name].default for name in asked[0] if name != "prompts"}}


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "prompts"),
        ({"prompts": ["a"] * (MOST_PROMPTS + 1)}, "prompts"),
        ({"prompts": ["a" * (LONGEST_PROMPT + 1)]}, "prompts"),
        ({"prompts": "a"}, "prompts"),
        ({"prompts": [], }, "There is no prompt."),
        ({"prompts": [" "]}, "Prompt 1 is empty."),
        ({"prompts": ["a"], "maxNewTokens": 0}, "max_new_tokens is 0."),
        ({"prompts": ["a"], "temperature": -1}, "temperature is -1"),
        ({"prompts": ["a"], "topP": 2}, "top_p is 2"),
        ({"prompts": ["a"], "seed": 2**63}, "seed is"),
        ({"prompts": ["a"], "seed": "1"}, "seed"),
        ({"prompts": ["a"], "models": ["gamma"]}, "No base model matches"),
        ({"prompts": ["a"], "system": 1}, "system"),
        ({"prompts": ["a"], "max_new_tokens": 1}, "max_new_tokens"),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value),
)  # fmt: skip
def test_what_can_not_be_asked_is_refused_with_the_reason(
    play: Play, path: str, body: dict[str, Any], says: str
) -> None:
    told = request(play(runs.generate), path, "POST", body)

    assert (told.status, told.headers["Content-Type"]) == (400, "application/json")
    assert says in told.json["error"]["message"]


def test_a_run_that_is_not_there_can_not_be_asked(play: Play) -> None:
    told = request(play(runs.generate), path_of("run-20991122-143025"), "POST", OPEN)

    assert (told.status, told.json["error"]["code"]) == (404, "RunUnknown")


def test_a_question_is_said_to_be_json(play: Play, path: str) -> None:
    told = request(play(runs.generate), path, "POST", OPEN, {"Content-Type": "text/plain"})

    assert told.status == 415


@pytest.mark.parametrize(
    ("error", "status"),
    [(RunError("It is training."), 409), (ModelError("It has no template."), 400), (StorageError("It is full."), 507)],
    ids=["run", "model", "storage"],
)
def test_what_fails_before_the_first_line_has_its_own_status(
    play: Play, path: str, error: OneSeekError, status: int
) -> None:
    told = request(play(failing(error)), path, "POST", OPEN)

    assert (told.status, told.json["error"]["message"]) == (status, error.problem)


def test_what_fails_later_is_the_last_line(play: Play, path: str) -> None:
    told = request(play(failing(WorkerFailed("out_of_memory", "No memory.", "Ask less."), token())), path, "POST", OPEN)

    assert told.status == 200
    assert told.lines == [
        msgspec.to_builtins(token()),
        {"error": {"code": "WorkerFailed", "message": "No memory.", "fix": "Ask less."}},
    ]


def test_what_nobody_foresaw_says_nothing_of_itself_but_to_the_log(
    play: Play, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    address = play(failing(ZeroDivisionError("secret"), token()))

    with caplog.at_level(logging.ERROR, "oneseek.server"):
        told = request(address, path, "POST", OPEN)

    assert told.lines[-1]["error"]["message"] == "The server failed."
    assert b"secret" not in told.body
    assert "ZeroDivisionError: secret" in caplog.text


@pytest.mark.parametrize("said", [(), (token(),)], ids=["before", "later"])
def test_errors_name_no_path_of_the_server(
    play: Play, path: str, certified: CertifiedTown, said: tuple[Generated, ...]
) -> None:
    error = StorageError(f"{certified.home.models}/alfa-1b is gone.", f"oneseek resume {certified.run}")

    told = request(play(failing(error, *said)), path, "POST", OPEN)

    assert "alfa-1b is gone." in told.body.decode()
    assert str(certified.home.root) not in told.body.decode()


def failing(error: Exception, *first: Generated) -> Ask:
    def ask(directory: RunDirectory, **_: Any) -> Generator[Generated, None, None]:
        yield from first
        raise error

    return ask


# -- one at a time, and no longer than it is waited for ------------------------------------------------------------


def test_one_question_waits_for_the_one_before(play: Play, path: str) -> None:
    goes_on, at_once, most = threading.Event(), [], []

    def ask(directory: RunDirectory, **_: Any) -> Generator[Generated, None, None]:
        at_once.append(1)
        most.append(len(at_once))
        yield token()
        assert goes_on.wait(20)
        at_once.pop()

    address = play(ask)
    with closing(Begun(address, path)) as first, closing(Begun(address, path)) as second:
        early = first.answer().readline()
        goes_on.set()
        late = second.answer().readline()

    assert early == late == msgspec.json.encode(token()) + b"\n"
    assert most == [1, 1]


def test_who_has_waited_long_enough_is_told_when_to_come_again(
    play: Play, path: str, talking: Talking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.2)
    talking.first = (token(),)
    address = play(talking)

    with closing(Begun(address, path)) as first:
        first.answer().readline()
        told = request(address, path, "POST", OPEN)

    assert told.status == 429
    assert told.headers["Retry-After"].isdigit()
    soon(lambda: talking.ended == 1)


@pytest.mark.parametrize("said", [(), (token(),)], ids=["before the first line", "after it"])
def test_who_leaves_takes_the_models_process_along_within_a_second(
    play: Play, path: str, talking: Talking, said: tuple[Generated, ...]
) -> None:
    talking.first = said
    address = play(talking)
    asked = Begun(address, path)
    soon(lambda: talking.processes)
    if said:
        asked.answer().readline()

    asked.close()

    assert soon(lambda: not talking.alive) < 1
    talking.first = (token(), answer())
    with closing(Begun(address, path)) as later:
        assert later.answer().readline() == msgspec.json.encode(token()) + b"\n"
    soon(lambda: talking.ended == 2)


def test_a_process_that_begins_after_its_client_left_is_ended_at_once(play: Play, path: str, talking: Talking) -> None:
    begins, waiting = threading.Event(), threading.Event()

    def ask(directory: RunDirectory, **given: Any) -> Generator[Generated, None, None]:
        waiting.set()
        assert begins.wait(20)
        yield from talking(directory, **given)

    with closing(Begun(play(ask), path)):
        assert waiting.wait(20)
    time.sleep(0.2)  # the server sees it go

    begins.set()

    soon(lambda: talking.ended == 1)
    assert not talking.alive


def test_who_leaves_while_waiting_is_not_waited_for(play: Play, path: str) -> None:
    goes_on, asked = threading.Event(), []

    def ask(directory: RunDirectory, **_: Any) -> Generator[Generated, None, None]:
        asked.append(1)
        yield token()
        assert goes_on.wait(20)

    address = play(ask)
    with closing(Begun(address, path)) as first:
        first.answer().readline()
        Begun(address, path).close()
        time.sleep(0.2)  # the server sees it go
        with closing(Begun(address, path)) as third:
            goes_on.set()
            third.answer().read()

    assert len(asked) == 2


def test_who_does_not_read_keeps_no_other_from_asking(
    play: Play, path: str, talking: Talking, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.3)
    talking.first = tuple(token("x" * 1_000_000) for _ in range(40))
    address = play(talking)

    with closing(Begun(address, path)):
        soon(lambda: talking.ended == 1)
        talking.first = (token(),)
        with closing(Begun(address, path)) as other:
            first = other.answer().readline()

    assert first == msgspec.json.encode(token()) + b"\n"
    soon(lambda: talking.ended == 2)
    assert not any(record.exc_info for record in caplog.records)


# -- a real model --------------------------------------------------------------------------------------------------


@pytest.mark.engine
def test_a_real_model_answers_and_ends_with_who_asked(stand: Stage, tmp_path: Path) -> None:
    home = Home(tmp_path, tmp_path / "models")
    write_model(home.models / "tiny-gpt2", "gpt2")
    rows = write_rows(tmp_path / "rows.jsonl", chat_rows(12))
    settings = {"training.num_epochs": 1, "execution.executor": "inline"}
    run = oneseek.train(rows, ["tiny-gpt2"], root=tmp_path, settings=settings)
    address = stand.play(application(routes(finder(home))))
    before = children()

    told = request(address, path_of(run.run_id), "POST", {"prompts": ["Open?"], "maxNewTokens": 4})
    left = Begun(address, path_of(run.run_id))
    soon(lambda: children() > before, 20)
    left.close()
    gone = soon(lambda: children() <= before)

    answers = [line for line in told.lines if line["type"] == "answer"]
    assert [(each["variant"], each["tokens"]) for each in answers] == [("base", 4), ("adapter", 4)]
    for each in answers:
        pieces = [line["text"] for line in told.lines if (line["type"], line["variant"]) == ("token", each["variant"])]
        assert "".join(pieces) == each["text"]
    assert gone < 1


def children() -> set[int]:
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "oneseek.executors.answering" in process.cmdline()
    }


def test_the_body_is_described_with_the_limits() -> None:
    described = application(routes(lambda _: RunDirectory(Path()))).openapi()

    prompts = described["components"]["schemas"][Questions.__name__]["properties"]["prompts"]
    assert (prompts["maxItems"], prompts["items"]["maxLength"]) == (MOST_PROMPTS, LONGEST_PROMPT)
