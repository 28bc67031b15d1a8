"""What verifying a run says, and why models leave it, in Swedish: over HTTP and to those who watch."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneseek import runs
from oneseek.certificate.report import NAMES
from oneseek.events import CheckpointDamaged, ModelFailed, RunFailed, RunInterrupted, WorkerRestarted
from oneseek.events.wire import _TABLE
from oneseek.files.layout import Home, Results
from oneseek.server import socket, speech
from oneseek.server.live import Message
from support.certified import CertifiedTown, certified, edit, rewrite_journal
from support.runs import Town
from support.sentences import SOURCE, VALUE, _forms, said_in
from support.server import Served, served
from test_pages_findings import english_in, say
from test_verify import INSIDERS, UNDECIDED, events_of

__all__ = ["certified"]

SWEDISH = {"Accept-Language": "sv"}
OTHERS = re.compile(r"Error\(|is no JSON document|validation error|can't be read: ")
"""Where Python, msgspec or pydantic says in its words what it makes of nonsense."""

PARTS = {
    # whose values are phrases, which the runs below have
    "\x00: it finished after \x00.",
    "\x00, \x00: a loss of \x00 is not finite.",
    "\x00, \x00: \x00 has a result of \x00, \x00.",
    "\x00, \x00: no epoch was left to train.",
    "\x00 is by the ledger \x00, which is unknown; \x00: pin it with --key FILE",
    "The \x00 \x00 is another: its SHA-256 is \x00, not \x00.",
    "Of the base model \x00 in \x00, the \x00 is another: \x00.",
    "ledger_proof.json \x00.",
    "model.sig \x00.",
    "\x00\x00 is not base64.",
    "\x00\x00 has bits that base64 leaves free.",
    "Restore it from a backup. \x00",
    "There is no \x00: the run is \x00",
    "\x00 records, each bound to the one before it; \x00 finished\x00",
    "\x00 is \x00; a run has none.",
    "Record 7 of journal.jsonl, EpochCommitted: the run is \x00, and was not resumed.",
}
WHOLE = {
    "_how_far": "There is no manifest.json: the run is {}",
    "_fault": "Record 7 of journal.jsonl, EpochCommitted: {}.",
    "certificate/signature.py": "model.sig {}.",
    "certificate/ledger_proof.py": "ledger_proof.json {}.",
    "_differences": "recipe.json: {}",
}
"""What functions say is only ever a part of."""
EXAMPLES = (
    *(f"adapters/x is {what}; a run has none." for what in ("a link", "no regular file")),
    *(
        f"Record 7 of journal.jsonl, EpochCommitted: the run is {status}, and was not resumed."
        for status in ("failed", "stopped", "interrupted")
    ),
    "journal.jsonl: it finished after 1 of 2 epochs.",
    "journal.jsonl, epoch 2: a loss of alfa is not finite.",
    "journal.jsonl, epoch 2: alfa has a result of beta, 1.",
    "journal.jsonl, epoch 2: no epoch was left to train.",
    "journal.jsonl, epoch 2: weights.alfa is 0.5; by the journal it is 0.25.",
    'journal.jsonl, RunFinished: champion is "a"; by the journal it is "b".',
    "ledger_proof.json is by the ledger x+1+2, which is unknown; manifest.json names none: pin it with --key FILE",
    "ledger_proof.json is by the ledger x+1+2, which is unknown; manifest.json names y+3+4: pin it with --key FILE",
    "ledger_proof.json: final_weights is {}; by the run's files it is {'alfa': 0.25, 'beta': 0.75}.",
    *(f"The {name} x.jsonl is another: its SHA-256 is 12, not 34." for name in ("dataset", "validation dataset")),
    *(
        f"Of the base model alfa in models/alfa, the {part} is another: {part}_sha256."
        for part in ("weights", "config", "tokenizer", "template")
    ),
    *(
        f"{name} {fault}"
        for name in ("The note's signature", "A hash of the proof", "The checkpoint's root")
        for fault in ("is not base64.", "has bits that base64 leaves free.")
    ),
    "7 records, each bound to the one before it; run-1 finished",
    "7 records, each bound to the one before it; run-1 finished, by the scripted engine, which trains nothing",
)


def checking() -> list[str]:
    """The modules that verifying a run is made of."""
    found = (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    return sorted(name for name in found if name.startswith(("certificate/", "ledger/")))


def evidence_in(module: str) -> list[str]:
    """Every text of its checks but those of parts."""
    return sorted(_every(module) - PARTS)


def _every(module: str) -> set[str]:
    """What checks give back, raise as not checkable or find."""
    tree = ast.parse((SOURCE / module).read_text("utf-8"))
    found = [text for _, text in said_in(module)]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name in ("NotCheckable", "_blame"):
            found += _forms(call.args[0])
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        whole = WHOLE.get(function.name) or (WHOLE.get(module) if function.name == "_difference" else None)
        if function.name.startswith("check_") or function.name in ("_unsealed", "_odd", "_same_rows") or whole:
            for node in ast.walk(function):
                if isinstance(node, (ast.Return, ast.Yield)) and node.value is not None:
                    found += [(whole or "{}").replace("{}", text) for text in _forms(node.value)]
    return {text for text in found if text.strip(VALUE + " .:,{}'\"")}


# -- everything is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [module for module in checking() if evidence_in(module)])
def test_every_sentence_of_a_check_is_said_in_swedish_and_in_nothing_else(module: str) -> None:
    said = {text: say(text.replace(VALUE, "7")) for text in evidence_in(module)}

    assert {text for text, again in said.items() if again is None} == set()
    assert {text: words for text, again in said.items() if (words := english_in(again or ""))} == {}


def test_the_walk_finds_what_each_check_says() -> None:
    said = [text for module in checking() for text in evidence_in(module)]

    for text in (
        f"{VALUE}; {VALUE} files, nothing missing and none besides",
        "there is no ledger here to ask",
        f"{VALUE} is an empty folder.",
        f"Record 7 of journal.jsonl, EpochCommitted: it is about {VALUE}, which is no model of the run.",
        f"recipe.json: {VALUE} is missing; by the journal it is {VALUE}.",
    ):
        assert text in said


@pytest.mark.parametrize("text", EXAMPLES)
def test_sentences_of_sentences_are_said_in_swedish(text: str) -> None:
    again = say(text)

    assert again
    assert english_in(again) == set()


def test_what_is_left_to_examples_is_still_said_somewhere() -> None:
    said = {text for module in checking() for text in _every(module)}

    assert said >= PARTS


# -- checks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(certified: CertifiedTown, tmp_path: Path) -> Home:
    """A home of its own with two certified runs."""
    root = Path(shutil.copytree(certified.home.root, tmp_path / "home", symlinks=True))
    return Home(root, root / "models")


@pytest.fixture
def server(home: Home) -> Iterator[Served]:
    with served(Town(home.root)) as whole:
        yield whole


def checks(server: Served, run: str, query: str = "", **headers: str) -> list[dict[str, Any]]:
    answer = server.client.get(f"/api/runs/{run}/verify{query}", headers=server.token("read") | headers)
    told: list[dict[str, Any]] = answer.json()["checks"]
    return told


@pytest.mark.parametrize("query", ["", "?sources=true"], ids=["alone", "with its sources"])
def test_every_check_says_in_swedish_what_was_compared(server: Served, certified: CertifiedTown, query: str) -> None:
    english = checks(server, certified.run.name, query)
    swedish = checks(server, certified.run.name, query, **SWEDISH)

    assert [check["name"] for check in swedish] == list(NAMES)
    assert [{**check, "detail": ""} for check in swedish] == [{**check, "detail": ""} for check in english]
    assert {check["detail"]: words for check in swedish if (words := english_in(check["detail"]))} == {}
    same = {said["name"] for said, again in zip(english, swedish, strict=True) if said["detail"] == again["detail"]}
    assert same == {"dna"}, "which is a name"


def test_a_check_that_failed_says_why_in_swedish(server: Served, certified: CertifiedTown, home: Home) -> None:
    edit(Results(home.models).run(certified.run.name).root / "recipe.json", "config.training.seed", 7)

    told = {check["name"]: check for check in checks(server, certified.run.name, **SWEDISH)}

    assert told["digests"]["result"] == "failed"
    assert told["digests"]["detail"].startswith("recipe.json ändrades: dess SHA-256 är ")
    assert told["documents"]["detail"] == "recipe.json är inte det som förseglades"
    assert {check["detail"]: words for check in told.values() if (words := english_in(check["detail"]))} == {}


def test_an_audit_that_finds_something_says_so_in_swedish(server: Served, home: Home) -> None:
    home.ledger.unlink()

    told = server.client.get("/api/ledger/audit", headers=server.token("read") | SWEDISH).json()

    (problem,) = told["problems"]
    assert {text: words for text in (problem["problem"], problem["fix"]) if (words := english_in(text))} == {}


@pytest.mark.parametrize("lie", [*INSIDERS, *UNDECIDED])
def test_whatever_was_forged_the_check_says_so_in_swedish(certified: CertifiedTown, tmp_path: Path, lie: str) -> None:
    root = certified.copy(tmp_path)
    if lie in INSIDERS:
        INSIDERS[lie][2](root)
    else:
        rewrite_journal(root, UNDECIDED[lie][1](events_of(certified)))
    certified.certify_anew(root)

    said = {check.detail: say(check.detail) for check in certified.verify(root).checks}

    assert {text for text, again in said.items() if again is None} == set()
    ours = {text: again for text, again in said.items() if again and not OTHERS.search(text)}
    assert {text: words for text, again in ours.items() if (words := english_in(again))} == {}


def test_a_check_that_says_what_is_not_known_in_swedish_says_that_it_is_english(
    server: Served, certified: CertifiedTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneseek.certificate.checks.files.size", lambda _: "as many as there are")

    told = {check["name"]: check for check in checks(server, certified.run.name, **SWEDISH)}

    assert told["digests"]["language"] == "en"
    assert "language" not in told["format"]


# -- why models left ---------------------------------------------------------------------------------------------------

PROBLEM = "The loss became nan in epoch 2, step 1."
AGAIN = "Förlusten blev nan i epok 2, steg 1."


@pytest.mark.parametrize(
    ("english", "swedish"),
    [
        (PROBLEM, AGAIN),
        ("The gradient norm became inf in the evaluation.", "Gradientnormen blev inf i utvärderingen."),
        (
            "Memory ran out: CUDA out of memory. Tried to allocate 2.00 GiB.",
            "Minnet tog slut: CUDA out of memory. Tried to allocate 2.00 GiB.",
        ),
        (
            "It ended with exit code 1. Its last words: ValueError: bad thing.",
            "Den avslutades med felkod 1. Det sista den sade: ValueError: bad thing.",
        ),
        (
            "It was killed (exit 137); the machine may be out of memory.",
            "Den dödades (felkod 137); maskinen kan ha slut på minne.",
        ),
        (
            "No model is left. alfa-1b: alfa has no chat template. beta-1b: Memory ran out.",
            "Ingen modell är kvar. alfa-1b: alfa saknar chattmall. beta-1b: Minnet tog slut.",
        ),
        (
            "No model could be prepared. alfa-1b: It gave no sign of life for 600 s.",
            "Ingen modell kunde förberedas. alfa-1b: Den gav inget livstecken på 600 s.",
        ),
        (
            "The adapter of epoch 3 does nothing: the L2 norm of LoRA B is 0.0.",
            "Adaptern från epok 3 gör ingenting: L2-normen för LoRA B är 0.0.",
        ),
        (
            "Not one token of the 12 validation rows is learned by alfa-1b.",
            "Inte en enda token i de 12 valideringsraderna lärs in av alfa-1b.",
        ),
        ("epoch-2/adapter.bin has 3 bytes, 5 were written.", "epoch-2/adapter.bin har 3 byte, 5 skrevs."),
        ("RuntimeError: it is not what it should be", None),
    ],
)
def test_a_cause_is_said_whole_or_not_at_all(english: str, swedish: str | None) -> None:
    assert say(english) == swedish


@pytest.fixture
def failed(town: Town) -> Iterator[tuple[Served, str]]:
    """A server, and a completed run that a model left."""
    town.script("beta-1b", {"fail": {"epoch": 2, "kind": "diverged"}})
    submitted = town.submit(training__num_epochs=2)
    runs.complete(submitted, town.home, environment={})
    with served(town) as whole:
        yield whole, submitted.directory.run_id


def test_why_a_model_left_is_said_in_swedish_wherever_it_is_asked_for(failed: tuple[Served, str]) -> None:
    server, run = failed

    def asked(path: str, **headers: str) -> str:
        return server.client.get(path, headers=server.token("read") | headers).text

    places = ["/api/runs", *(f"/api/{each}" for each in (f"runs/{run}", f"training/{run}/metrics"))]
    for path in (*places, f"/api/training/{run}/leaderboard"):
        english, swedish = asked(path), asked(path, **SWEDISH)
        assert PROBLEM in english
        assert english.replace(PROBLEM, AGAIN) == swedish, path


def told_over_the_socket(server: Served, run: str, query: str, **headers: str) -> list[str]:
    """The messages up to the last record."""
    found: list[str] = []
    with server.client.websocket_connect(
        f"ws://127.0.0.1:3001/ws/training?runId={run}{query}", headers=server.token("read") | headers
    ) as session:
        while not found or ("training_complete" not in found[-1] and "RunFinished" not in found[-1]):
            found.append(session.receive_text())
            if '"initial_state"' in found[0]:
                break
    return found


def test_who_watches_in_swedish_is_told_causes_in_swedish_and_all_else_as_it_is(failed: tuple[Served, str]) -> None:
    server, run = failed

    for query in ("", "&after=0", "&after=0&batch=1"):
        english = told_over_the_socket(server, run, query)
        swedish = told_over_the_socket(server, run, query, **SWEDISH)
        joined = "".join(english)
        assert PROBLEM in joined
        assert json.loads(_array(joined, PROBLEM, AGAIN, "Lower the rate.", "Sänk takten.")) == json.loads(
            _array("".join(swedish))
        )


def _array(joined: str, *replaced: str) -> str:
    for one, other in zip(replaced[::2], replaced[1::2], strict=True):
        joined = joined.replace(one, other)
    return "[" + joined.replace("][", ",").replace("}{", "},{").removeprefix("[").removesuffix("]") + "]"


def test_the_journals_own_lines_are_nobodys_to_say_again(failed: tuple[Served, str]) -> None:
    server, run = failed

    english = told_over_the_socket(server, run, "&form=journal")

    assert PROBLEM in "".join(english)
    assert told_over_the_socket(server, run, "&form=journal", **SWEDISH) == english


def test_every_event_that_says_something_to_people_is_known_to_who_says_it_again() -> None:
    """Of the texts of events, those that people read have these names."""
    spoken = (ModelFailed, RunFailed, RunInterrupted, WorkerRestarted, CheckpointDamaged)
    words = {"problem", "fix", "cause"}

    named = {event for event in _TABLE if words & {field.name for field in msgspec.structs.fields(event)}}

    assert named == set(spoken)
    for name in words:
        assert socket._SAYS.search(f'{{"{name}":"x"}}')
    assert socket._SAYS.search('{"quarantined":{"a":"x"}}')
    assert not socket._SAYS.search('{"quarantined":{},"warnings":[],"cause":null,"samples":["\\"cause\\":\\"x"]}')


def test_who_is_sent_events_is_told_in_swedish_too() -> None:
    message = Message(7, "training_error", json.dumps({"problem": PROBLEM, "fix": ""}, separators=(",", ":")))

    async def viewer() -> Any:
        yield [message]

    async def sent() -> str:
        say_again = partial(socket._translated, asyncio.Semaphore(1))
        found: Any = viewer()
        return "".join([part async for part in socket._stream(found, say_again, batch=False)])

    token = speech.LANGUAGE.set("sv")
    try:
        told = asyncio.run(sent())
    finally:
        speech.LANGUAGE.reset(token)

    assert told.startswith("retry: 2000\n\nid: 7\nevent: training_error\ndata: ")
    assert json.loads(told.partition("data: ")[2]) == {"problem": AGAIN, "fix": ""}


def test_who_watches_in_english_never_waits_for_what_is_said_in_swedish(monkeypatch: pytest.MonkeyPatch) -> None:
    going, release = threading.Event(), threading.Event()
    message = Message(1, "training_error", '{"problem":"x"}')

    def slowly(text: str) -> str:
        going.set()
        release.wait(30)
        return text

    async def watch() -> None:
        translating = asyncio.Semaphore(1)
        swede = asyncio.create_task(socket._translated(translating, [message]))
        await asyncio.to_thread(going.wait, 30)
        assert await socket._as_it_is([message]) == [message]
        quiet = Message(2, "progress", '{"loss":1.0}')
        assert await socket._translated(translating, [quiet]) == [quiet]
        assert not swede.done()
        release.set()
        assert await swede == [message]

    monkeypatch.setattr(socket, "spoken_json", slowly)

    asyncio.run(watch())


def test_what_a_rehearsal_says_of_its_models_is_said_in_swedish() -> None:
    token = speech.LANGUAGE.set("sv")
    try:
        found = {"key": "a", "problem": f"While training: {PROBLEM}", "fix": ""}
        measured = speech.spoken({"result": {"rehearsal": {"models": [found]}, "not_rehearsed": None}})
        refused = speech.spoken({"result": {"rehearsal": None, "not_rehearsed": "correct the errors first."}})
    finally:
        speech.LANGUAGE.reset(token)

    assert measured["result"]["rehearsal"]["models"][0]["problem"] == f"Under träningen: {AGAIN}"
    assert refused["result"]["not_rehearsed"] == "rätta felen först."


def test_a_cause_that_nobody_has_said_in_swedish_is_marked_as_english() -> None:
    token = speech.LANGUAGE.set("sv")
    try:
        known = {"type": "epoch_end", "quarantined": {"a": PROBLEM}}
        unknown = {"type": "epoch_end", "quarantined": {"a": PROBLEM, "b": "Nobody said this."}}

        assert speech.spoken(known) == {"type": "epoch_end", "quarantined": {"a": AGAIN}}
        assert speech.spoken(unknown) == unknown | {"language": "en"}
    finally:
        speech.LANGUAGE.reset(token)
