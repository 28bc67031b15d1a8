"""Findings and errors in Swedish: everything that a page can be told, by rules that mix no languages."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from string import Formatter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.chat.probe import TemplateTraits
from oneseek.config.parse import parse
from oneseek.errors import RunError
from oneseek.events import RunFailed
from oneseek.preflight import registered
from oneseek.preflight.facts import Facts, RowRefusal, Trouble, Wanted
from oneseek.preflight.finding import check
from oneseek.registry.model_files import ModelProblem
from oneseek.server import speech
from oneseek.server.pages import findings
from oneseek.server.pages.findings import DIRECTORY
from support.runs import Town
from support.sentences import SOURCE, VALUE, said_in
from support.server import Served, served
from test_changes import MENDED, raw
from test_preflight import dataset, facts, gpt2, llama, tokens, with_rows

SWEDISH = findings.translator("sv")
PHRASES: dict[str, str] = json.loads((DIRECTORY / "sv.json").read_text("utf-8"))

NOT_FOR_PAGES = (
    "__init__",
    "__main__",
    "certificate/checks/",  # what `verify` says of a run's files: in test_spoken_checks.py
    "certificate/documents",
    "certificate/keys",
    "certificate/ledger_proof",
    "certificate/manifest",
    "certificate/provenance",
    "certificate/signature",
    "cli/",
    "client",
    "config/reference",
    "config/sources",  # files and variables: a body has neither
    "config/text",
    "demo/",
    "ledger/",  # there too
    "preflight/finding",
    "runs/importing",
    "runs/ledger",
    "runs/outside",  # said to the program that reports
    "runs/publish",
    "runs/reproduce",
    "runs/verify",
    "server/ledger.py",  # a service of its own
    "server/listening",
    "server/pages/",
    "server/serve",
)
PARTS = {
    "Restore it from a backup. \x00",
    "it reaches for \x00 of \x00",
    "The dataset \x00 is \x00.",
    "\x00: \x00 must be text, or \x00 lists of messages",
    "there is no 'prompt', and 'chosen' and 'rejected' do not begin with the same \x00",
    "The stored dataset \x00 \x00.",
    "It can be trained on as it is\x00.",
    "\x00 cannot be \x00 without changing something else in the file.",
    "The run is completed all the same. \x00",
    "The run is completed all the same, but not entered. \x00",
    "The validation dataset \x00.",
    "It has \x00. \x00",
    "Leave \x00 out. \x00",
    "\x00: \x00. \x00 are trained.",
    "\x00 has no linear module that LoRA can adapt.\x00\x00",
    "\x00 is not here yet: \x00 are downloaded before the training begins, and only then can it be tried on the rows."
    "\x00",
    "\x00, or close other programs.",
    "Loading base models in \x00 needs \x00, which \x00 not installed.",
    "\x00: once rows are cut to \x00 tokens, nothing is left to learn in \x00 (\x00).",
    "\x00: once rows are cut to \x00 tokens, nothing is left to learn in \x00 (\x00), among them all rows \x00.",
    "\x00 has no journal here. \x00",
    "Set it \x00.",
    "No model is left. \x00",
    "There is an administrator already. \x00",
    "This needs the scope \x00; the \x00 has \x00.",
    "This \x00 has \x00 requests and sockets open.",
    "There is no \x00 \x00.",
    "\x00/\x00 \x00.",
    "The adapter of epoch \x00 does nothing: \x00\x00 is \x00.",
    "Not one token of the \x00 \x00 rows is learned by \x00.",
    "The \x00 became \x00 in \x00.",
    "\x00: its process ended with exit code \x00.\x00",
    "No model could be prepared. \x00",
    # kinds, and what programmers are told
    "truncated-weights",
    "broken-header",
    "all_epochs",
    "auto_stop",
}
"""Whose values are phrases, which the examples of rules and routes below have."""


def modules() -> list[str]:
    found = (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    return sorted(name for name in found if not name.startswith(NOT_FOR_PAGES) and said_in(name))


def say(text: str) -> str | None:
    assert SWEDISH is not None
    return SWEDISH.say(text)


def english_in(text: str) -> set[str]:
    """Words that no Swedish sentence has, outside of what is quoted."""
    plain = re.sub(r"'[^']*'|`[^`]*`|\"[^\"]*\"", "", text)
    return set(re.findall(r"(?<![\w/'-])(?:the|is|are|of|and|or|not|which|its|has|rows?|be)(?![\w'/-])", plain))


# -- everything is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", modules())
def test_every_problem_and_fix_of_a_module_is_said_in_swedish(module: str) -> None:
    missing = {
        (line, text) for line, text in said_in(module) if text not in PARTS and say(text.replace(VALUE, "7")) is None
    }

    assert missing == set()


def test_what_is_left_to_examples_is_still_said_somewhere() -> None:
    assert {text for module in modules() for _, text in said_in(module)} >= PARTS


LONG = with_rows("text", tuple({"text": f"{n}" * 2000} for n in range(10)))
REFUSED = {"q_proj": "PEFT refuses an adapter on it in models of the type x"}
CUT = {"llama": tokens(unlearnable=(3, 4), truncated=9, longest=90)}
EXAMPLES: dict[str, tuple[dict[str, Any], Facts]] = {
    name: (asked, at) for name, (_, asked, at, _) in MENDED.items()
} | {
    "nothing": ({"model": {"base_models": []}, "data": {"dataset": None}}, facts(models=(), wanted=(), dataset=None)),
    "unknown": ({"epocs": 3, "training": {"num_epochs": "many", "epochs": 0}, "lora": {"r": 0.5}, "data": 5}, facts()),
    "unreadable": ({}, facts(dataset=None, dataset_error=Trouble("The dataset x is empty.", "Add examples."))),
    "few": ({}, facts(dataset=dataset(rows=5))),
    "equal": ({}, facts(dataset=dataset(rows=12, equal=True))),
    "uneven": ({}, facts(dataset=with_rows("text", tuple({"text": "same" if n < 50 else "other"} for n in range(99))))),
    "none left": ({"data": {"bad_rows": "quarantine"}}, facts(dataset=dataset(rows=0, bad=12))),
    "other rows": ({"data": {"validation_dataset": "b"}}, facts(dataset=dataset("text"), validation=dataset())),
    "some shared": (
        {"data": {"validation_dataset": "b"}},
        facts(dataset=dataset("text"), validation=with_rows("text", ({"text": "text 1"}, {"text": "new"}))),
    ),
    "no name": (
        {},
        facts(wanted=(Wanted("lama", trouble=Trouble("No base model matches 'lama'.", "The nearest are: a, b.")),)),
    ),
    "two names": ({}, facts(wanted=(Wanted("llama", key="llama"), Wanted("Lla", key="llama")))),
    "an override": ({"per_model": {"lama": {"lora": {"r": 8}}, "zz": {"lora": {"r": 8}}}}, facts()),
    "a broken model": (
        {},
        facts(
            llama(
                problems=(ModelProblem(kind="no-config", problem="There is no config.json.", fix="Download it again."),)
            )
        ),
    ),
    "a download": ({}, facts(msgspec.structs.replace(llama(), source="hub", hub_id="o/l", missing_bytes=12 * 10**9))),
    "no template": ({}, facts(gpt2())),
    "no end": ({}, facts(msgspec.structs.replace(llama(), special_tokens={}), dataset=dataset("text"))),
    "high ids": ({}, facts(msgspec.structs.replace(llama(), highest_token_id=600, embedding_rows=512))),
    "no memory": ({}, facts(free_memory_bytes=200 * 2**20)),
    "little disk": ({}, facts(free_disk_bytes=1000)),
    "absent modules": ({"lora": {"target_modules": ["nope", "lm_head"]}}, facts(llama(), gpt2(chat=True))),
    "forbidden modules": (
        {"lora": {"target_modules": ["q_proj"]}},
        facts(msgspec.structs.replace(llama(), forbidden=REFUSED, left_out=REFUSED)),
    ),
    "fused": (
        {},
        facts(msgspec.structs.replace(gpt2(chat=True), linear_modules=(), linear_paths=(), fused_experts=("e",))),
    ),
    "partial modules": (
        {"lora": {"target_modules": ["layers.0.q_proj"]}},
        facts(msgspec.structs.replace(llama(), linear_sizes=(1, 1, 1, 1))),
    ),
    "cut rows": ({"data": {"max_length": 64}}, facts(llama(), gpt2(chat=True), tokens=CUT | {"gpt-2": tokens()})),
    "all cut": ({}, facts(tokens={"llama": tokens(unlearnable=tuple(range(1, 21)), truncated=20, comparable=0)})),
    "context": ({"data": {"max_length": 256}}, facts(tokens={"llama": tokens(truncated=1, longest=300)})),
    "endless": (
        {},
        facts(tokens={"llama": tokens(traits=TemplateTraits(renders=True, answers="tags", ends_with=" "))}),
    ),
    "refused rows": (
        {},
        facts(
            tokens={
                "llama": tokens(
                    refused=(
                        RowRefusal(52, "The chat template does not render this conversation: No 17!.", "Add examples."),
                        RowRefusal(60, "", ""),
                    )
                )
            }
        ),
    ),
    "prompts": (
        {"training": {"sample_prompts": ["a", "b", " "]}},
        facts(
            tokens={
                "llama": tokens(
                    prompts={1: 128}, refused_prompts={2: "The chat template needs more than 2 GiB of memory."}
                )
            }
        ),
    ),
    "places": (
        {},
        facts(
            output_error=Trouble("/out could not be written: permission is denied.", "Check the disk, then try again."),
            key_error=Trouble("k is a public key.", "Name the private key that belongs to it."),
            ledger_url_error=Trouble("LEDGER_URL is not the address of a ledger.", "Ask again."),
            ledger_error=Trouble(
                "LEDGER_TOKEN is missing: the service that LEDGER_URL names takes no entry without.",
                "The run is completed all the same, but not entered. Ask again.",
            ),
        ),
    ),
}


def found(name: str) -> list[Any]:
    sections, known = EXAMPLES[name]
    config, problems = parse(raw(sections) if sections.get("data") != 5 else {**raw({}), **sections})
    return list(check(config, msgspec.structs.replace(known, config_problems=problems)))


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_a_rule_says_is_said_in_swedish_without_a_word_of_english(name: str) -> None:
    said = {text: say(text) for finding in found(name) for text in (finding.problem, finding.fix)}

    assert said
    real = {text: again for text, again in said.items() if "reason" not in text}  # rows are made up there
    assert [text for text, again in real.items() if again is None] == []
    assert {text: words for text, again in real.items() if (words := english_in(again or ""))} == {}


def test_no_rule_is_without_an_example() -> None:
    said = {finding.rule for name in EXAMPLES for finding in found(name)}

    assert set(registered()) - said == set()


# -- how it is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("english", "swedish"),
    [
        ("GPT-2 has no chat template.", "GPT-2 saknar chattmall."),
        (
            "The dataset has 8 usable row(s); fewer than 10 rarely help.",
            "Datasetet har 8 användbara rader; färre än 10 gör sällan någon nytta.",
        ),
        (
            "Set training.num_epochs to a whole number greater than 0 and at most 1000000 (recommended 1 to 10).",
            "Sätt training.num_epochs till ett heltal större än 0 och högst "
            "1\N{NO-BREAK SPACE}000\N{NO-BREAK SPACE}000 (rekommenderat: 1 till 10).",
        ),
        (
            "per_model.llama.training.learning_rate is 0.02, outside the recommended 1e-05 to 0.0005.",
            "per_model.llama.training.learning_rate är 0,02, utanför det rekommenderade intervallet 1e-05 till 0,0005.",
        ),
        ("training.learning_rate is -0.5.", "training.learning_rate är -0,5."),
        ("training.learning_rate is '0.5 '.", "training.learning_rate är '0.5 '."),
        # What may be typed into a file, and what is no number, stays as it is typed there.
        (
            "Set training.learning_rate to 0.0005, unless you mean it.",
            "Sätt training.learning_rate till 0.0005, om det inte är avsiktligt.",
        ),
        ("metadata.version is 01.5.", "metadata.version är 01.5."),
        (
            "2 of 1,242 rows of my rows.jsonl cannot be used:\n  line 3: field 'text' is null\n"
            "  and 1 more: broken-json",
            "2 av 1\N{NO-BREAK SPACE}242 rader i my rows.jsonl kan inte användas:\n  rad 3: fältet 'text' är null\n"
            "  och 1 till: trasig JSON",
        ),
        (
            "LLAMA needs 26.1 GiB of memory (weights 20.0 GiB, activations 6.1 GiB), and 1.5 GiB are free.",
            "LLAMA behöver 26,1 GiB minne (vikter 20,0 GiB, aktiveringar 6,1 GiB), och 1,5 GiB är ledigt.",
        ),
        (
            "The chat template does not render this conversation: Roles must alternate! Please. So it is with 2 of 20 "
            "rows.",
            "Chattmallen kan inte återge den här konversationen: Roles must alternate! Please. "
            "Så är det med 2 av 20 rader.",
        ),
        (
            "The dataset has `prompt`, `chosen` and `rejected` as text, but data.strategy is 'chat'.",
            "Datasetet har `prompt`, `chosen` och `rejected` som text, men data.strategy är 'chat'.",
        ),
        ("Ask again. Add examples.", "Fråga igen. Lägg till exempel."),
        ("", ""),
    ],
)
def test_values_stay_and_phrases_are_said_again(english: str, swedish: str) -> None:
    assert say(english) == swedish


@pytest.mark.parametrize(
    "text",
    [
        "Nobody has said this in Swedish.",
        "Ask again. Nobody has said this in Swedish.",
        "Nobody knows what it is and how to go on has no chat template.",
        "line 3: nobody has said this",
        "training.seed is what nobody has said.",
        "x" * (findings.LONGEST + 1),
    ],
)
def test_what_cannot_be_said_whole_is_not_said(text: str) -> None:
    assert say(text) is None


def test_a_document_is_said_whole_or_marked_as_english() -> None:
    whole = {"problem": "GPT-2 has no chat template.", "fix": "Ask again.", "field": "x", "model": None}
    half = whole | {"fix": "Nobody has said this."}

    assert findings.said(whole, "sv", "problem", "fix") == whole | {
        "problem": "GPT-2 saknar chattmall.",
        "fix": "Fråga igen.",
    }
    assert findings.said(half, "sv", "problem", "fix") == half | {"language": "en"}
    assert findings.said(half, "en", "problem", "fix") is half


def test_places_of_a_phrase_are_those_of_what_is_said_instead() -> None:
    def places(text: str) -> list[str]:
        return sorted(place.lstrip("+=#?%.") for _, place, _, _ in Formatter().parse(text) if place is not None)

    assert {english for english, said in PHRASES.items() if places(english.removeprefix("~")) != places(said)} == set()
    assert list(PHRASES) == sorted(PHRASES)


@given(st.text(max_size=200))
def test_whatever_is_a_value_is_said_as_it_is_or_not_at_all(value: str) -> None:
    said = say(f"There is no run {value!r}.")

    assert said in (None, f"Det finns ingen körning {value!r}.")


@given(st.lists(st.sampled_from([*PHRASES, ", ", " and ", ". ", ": ", "\n", "7", "is", "'"]), max_size=30))
def test_no_text_takes_long(parts: list[str]) -> None:
    text = "".join(parts)
    began = time.process_time()

    assert SWEDISH is not None
    SWEDISH._say(text)  # which remembers nothing

    assert time.process_time() - began < 2


def test_a_list_of_hundreds_is_given_up_rather_than_tried_for_ever() -> None:
    began = time.process_time()

    for joint in (", ", " and ", "; ", ": ", " or "):
        say(f"The dataset has {joint.join(['nobody knows'] * 700)}, but data.strategy is 'chat'.")

    assert time.process_time() - began < 10


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(town: Town) -> Iterator[Served]:
    with served(town) as whole:
        yield whole


def test_a_form_is_judged_in_the_language_of_its_page(server: Served) -> None:
    headers, body = server.token("run"), {"datasetId": "rows.jsonl", "epochs": 0}

    def asked(**more: str) -> list[dict[str, Any]]:
        answer = server.client.post("/api/validate?partial=true", json=body, headers=headers | more)
        told: list[dict[str, Any]] = answer.json()["findings"]
        return told

    english, swedish, chosen = asked(), asked(**{"Accept-Language": "sv"}), asked(Cookie="language=sv")
    meanwhile = [asked(**{"Accept-Language": "sv", "Cookie": f"language={tab}"}) for tab in ("en", "sv")]
    elsewhere = asked(**{"Accept-Language": "sv-SE,sv;q=0.9", "Cookie": "language=en"})

    assert [finding["problem"] for finding in english] == [
        "No base models selected. Base models MUST be selected by an administrator; discovered models are never "
        "trained unasked.",
        "training.num_epochs is 0.",
    ]
    assert [finding["problem"] for finding in swedish] == [
        "Inga basmodeller är valda. Basmodeller MÅSTE väljas av en administratör; modeller som hittas tränas aldrig "
        "utan att någon har bett om det.",
        "training.num_epochs är 0.",
    ]
    assert (chosen, meanwhile, elsewhere) == (swedish, [swedish, swedish], english)
    assert [{**finding, "problem": "", "fix": ""} for finding in swedish] == [
        {**finding, "problem": "", "fix": ""} for finding in english
    ]


def test_what_is_refused_is_refused_in_swedish(server: Served) -> None:
    headers = server.token("run") | {"Accept-Language": "sv-SE,sv;q=0.9,en;q=0.8"}

    def error(method: str, path: str, **more: Any) -> dict[str, Any]:
        told: dict[str, Any] = server.client.request(method, path, **{"headers": headers} | more).json()["error"]
        return told

    assert error("GET", "/api/runs", headers={"Accept-Language": "sv"})["message"] == "Det är inte känt vem som frågar."
    assert error("GET", "/api/runs/run-20260101-000000")["message"].startswith("Det finns ingen körning")
    assert error("GET", "/api/nothing") == {
        "code": "NotFound",
        "message": "Det finns inte.",
        "fix": "Se /openapi.json.",
    }
    assert error("POST", "/api/runs/run-20260101-000000/stop", json={"when": "soon"})["message"] == (
        "Det som skickades går inte att läsa: ogiltigt värde 'soon' i `$.when`: välj 'after-epoch', 'now', 'kill'."
    )
    refused = error("POST", "/api/admin/training/start-dna-v2", json={"epochs": 0})
    assert refused["message"].startswith("Ingenting startades: det finns ")
    assert {finding["problem"] for finding in refused["findings"]} >= {"training.num_epochs är 0."}


def test_what_is_not_known_in_swedish_says_that_it_is_english(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.runs, "find", _unheard_of)

    told = server.client.get(
        "/api/runs/run-20260101-000000", headers=server.token("read") | {"Accept-Language": "sv"}
    ).json()

    assert told == {
        "error": {"code": "RunError", "message": "Nobody said this.", "fix": "Ask again.", "language": "en"}
    }


def _unheard_of(run_id: str) -> None:
    raise RunError("Nobody said this.", "Ask again.")


def test_a_task_that_failed_and_a_broken_model_say_why_in_swedish(server: Served) -> None:
    (server.town.home.models / "alfa-1b" / "tokenizer.json").unlink()
    headers = server.token("run") | {"Accept-Language": "sv"}
    task = server.client.post("/api/models/beta-1b/convert", headers=headers)

    models = server.client.get("/api/models", headers=headers).json()["models"]

    assert task.status_code == 404 or task.json()["error"]
    (problem,) = next(model for model in models if model["key"] == "alfa-1b")["problems"]
    assert (problem["kind"], problem["problem"]) == ("no-tokenizer", "Det finns ingen tokenizer.json.")


def test_rows_of_a_dataset_are_nobodys_words_but_its_own(server: Served) -> None:
    row: dict[str, Any] = {"text": "GPT-2 has no chat template.", "problem": "Nobody said this.", "fix": "Ask again."}
    path = server.town.dataset.with_name("odd.jsonl")
    path.write_text("".join(json.dumps(row | {"number": n}) + "\n" for n in range(3)) + '{"text": null}\n')
    headers = server.token("run") | {"Accept-Language": "sv"}

    sent = server.client.post("/api/datasets?name=odd.jsonl", content=path.read_bytes(), headers=headers).json()
    shown = server.client.get("/api/datasets/odd.jsonl/preview", headers=headers).json()

    assert sent["first"][0] == row | {"number": 0}
    assert row["text"] in json.dumps(shown)
    assert "language" not in json.dumps([sent, shown])
    assert sent["bad_rows"][0]["examples"] == [{"line": 4, "reason": "fältet 'text' är null"}]


def test_a_run_that_failed_says_why_in_swedish_and_its_warnings_too(server: Served) -> None:
    with server.town.submit(training__num_epochs=50) as run:
        run.record(RunFailed(problem="No model is left.", fix="Start a new run."))

    told = server.client.get(
        f"/api/runs/{run.directory.run_id}", headers=server.token("read") | {"Accept-Language": "sv"}
    ).json()

    assert told["failure"] == {"problem": "Ingen modell är kvar.", "fix": "Starta en ny körning."}
    assert told["warnings"] == ["training.num_epochs är 50, utanför det rekommenderade intervallet 1 till 10."]
    assert told["config"]["training"]["num_epochs"] == 50


@pytest.mark.parametrize("cookie", ["language=sv", "a=b; language=sv", 'x="; language=sv', "language", "\xff=\xfe; ;;"])
def test_whatever_the_cookies_are_the_language_is_one_there_is(cookie: str) -> None:
    assert speech.language_of([(b"Cookie", cookie.encode("latin-1"))]) in ("en", "sv")


def test_what_was_made_to_take_long_stays_english_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    passing = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: next(passing) * speech.PATIENCE / 3)
    document = {"findings": [{"problem": "training.num_epochs is 0.", "fix": ""} for _ in range(3)]}

    token = speech.LANGUAGE.set("sv")
    told = speech.spoken(document)["findings"]
    speech.LANGUAGE.reset(token)

    assert told[0]["problem"] == "training.num_epochs är 0."
    assert told[2] == {"problem": "training.num_epochs is 0.", "fix": "", "language": "en"}


def test_nobody_speaks_swedish_after_the_one_who_asked_for_it(server: Served) -> None:
    headers = server.token("read")

    server.client.get("/api/nothing", headers=headers | {"Accept-Language": "sv"})

    assert server.client.get("/api/nothing", headers=headers).json()["error"]["message"] == "Not Found"
    assert speech.LANGUAGE.get() == "en"
