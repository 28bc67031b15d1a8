"""Rendering and tokenising in a process with little time and memory: what comes back, and what ends it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneseek.datasets.formats import UsedFormat
from oneseek.datasets.limited import Answer, Order, PromptTokens, RowTokens, Traits, Trouble, judged, measured
from oneseek.datasets.tokens import IGNORED, encoder_of
from oneseek.errors import ModelError
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import describe
from support.tiny_models import CHAT_TEMPLATE, chat_rows, write_tokenizer

ROWS = list(enumerate(chat_rows(6), 11))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    path = tmp_path_factory.mktemp("models") / "town"
    write_tokenizer(path)
    return describe(path)


def templated(model: ModelInfo, template: str) -> ModelInfo:
    return msgspec.structs.replace(model, chat_template=template)


def answers(model: ModelInfo, rows: list[tuple[int, dict[str, Any]]], **more: Any) -> list[Answer]:
    order = {"format": "messages", "max_length": 2048, **more}
    return list(judged(Order(model=model, **order), rows))


def test_rows_are_counted_as_training_encodes_them(model: ModelInfo) -> None:
    encoder = encoder_of(model, "messages", 2048)
    examples = [encoder.encode(row)[0] for _, row in ROWS]

    first, *counted = answers(model, ROWS)

    assert isinstance(first, Traits)
    assert first.traits is not None
    assert first.traits.renders
    assert counted == [
        RowTokens(
            line=line,
            tokens=len(example.input_ids),
            supervised=example.supervised_tokens,
            answer_bytes=example.answer_bytes,
            learnable=True,
            comparable=True,
        )
        for (line, _), example in zip(ROWS, examples, strict=True)
    ]


def test_a_row_that_is_cut_before_its_answer_leaves_nothing_to_learn(model: ModelInfo) -> None:
    encoder = encoder_of(model, "messages", 2048)
    example = encoder.encode(ROWS[0][1])[0]
    start = int((example.labels != IGNORED).argmax())

    _, before, _ = answers(model, [ROWS[0], ROWS[0]], max_length=start)
    _, after, _ = answers(model, [ROWS[0], ROWS[0]], max_length=start + 1)

    assert isinstance(before, RowTokens)
    assert isinstance(after, RowTokens)
    assert (before.tokens, before.truncated, before.learnable) == (len(example.input_ids), True, False)
    assert (after.supervised, after.learnable, after.comparable) == (1, True, False)


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("text", {"text": "biblioteket 8-16"}),
        ("prompt_completion", {"prompt": "a: ", "completion": "b"}),
        ("preference", {"prompt": "a: ", "chosen": "b", "rejected": "c d e"}),
    ],
)
def test_plain_rows_need_no_template(model: ModelInfo, form: UsedFormat, row: dict[str, Any]) -> None:
    plain = msgspec.structs.replace(model, chat_template=None)
    examples = encoder_of(plain, form, 2048).encode(row)

    first, counted = answers(plain, [(1, row)], format=form)

    assert first == Traits(None)
    assert isinstance(counted, RowTokens)
    assert counted.tokens == max(len(example.input_ids) for example in examples)
    assert counted.supervised == sum(example.supervised_tokens for example in examples)


def test_a_row_that_the_template_refuses_is_answered_with_its_words_and_the_next_goes_on(model: ModelInfo) -> None:
    picky = templated(
        model, "{% if messages[0].content == 'no' %}{{ raise_exception('Not this.') }}{% endif %}" + CHAT_TEMPLATE
    )
    refused = {"messages": [{"role": "user", "content": "no"}, {"role": "assistant", "content": "x"}]}

    _, bad, good = answers(picky, [(1, refused), ROWS[0]])

    assert isinstance(bad, RowTokens)
    assert isinstance(good, RowTokens)
    assert "Not this." in (bad.refusal or "")
    assert bad.fix
    assert good.refusal is None


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def test_a_template_that_loops_for_ever_is_killed_and_its_row_named(model: ModelInfo) -> None:
    bomb = templated(model, "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}" + CHAT_TEMPLATE)
    looping = {"messages": [{"role": "user", "content": "loop"}, {"role": "assistant", "content": "x"}]}
    began = time.monotonic()

    *_, good, bad = answers(bomb, [ROWS[0], (7, looping), ROWS[1]])

    assert isinstance(good, RowTokens)
    assert good.refusal is None
    assert isinstance(bad, RowTokens)
    assert bad.line == 7
    assert bad.refusal == "The chat template runs longer than 2 s."
    assert time.monotonic() - began < 60


def test_a_template_that_always_loops_is_a_trouble_of_the_model(model: ModelInfo) -> None:
    (trouble,) = answers(templated(model, LOOP), ROWS)

    assert trouble == Trouble(
        f"{model.display_name}: The chat template runs longer than 2 s.",
        "Mend the base model's chat template, or select another base model.",
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 10000000000 }}",
        "{% set ns = namespace(x='a' * 1000000) %}{% for i in range(30) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ],
    ids=["at once", "doubling"],
)
def test_a_template_that_fills_the_memory_is_refused(model: ModelInfo, template: str) -> None:
    said = answers(templated(model, template + CHAT_TEMPLATE), [ROWS[0]])

    assert any(isinstance(each, Trouble) or (isinstance(each, RowTokens) and each.refusal is not None) for each in said)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch MARK') }}",
        "{{ messages.append.__self__.__class__.__base__.__subclasses__() }}",
    ],
)
def test_a_template_that_tries_to_escape_is_refused_and_does_nothing(
    model: ModelInfo, template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    said = answers(templated(model, template + CHAT_TEMPLATE), [ROWS[0]])

    assert all(each.refusal is not None for each in said if isinstance(each, RowTokens))
    assert list(tmp_path.iterdir()) == []


def test_a_template_that_is_none_is_a_trouble(model: ModelInfo) -> None:
    (trouble,) = answers(templated(model, "{% for"), ROWS)

    assert isinstance(trouble, Trouble)
    assert "syntax error" in trouble.problem


def test_prompts_are_counted_or_refused_by_their_number(model: ModelInfo) -> None:
    picky = templated(
        model, "{% if messages[0].content == 'no' %}{{ raise_exception('Not this.') }}{% endif %}" + CHAT_TEMPLATE
    )

    _, first, second = answers(picky, [], prompts={1: "Open?", 3: "no"})

    assert isinstance(first, PromptTokens)
    assert isinstance(second, PromptTokens)
    assert (first.number, first.tokens > 3, first.refusal) == (1, True, None)
    assert (second.number, "Not this." in (second.refusal or "")) == (3, True)


def test_a_model_that_cannot_be_used_with_any_row_is_an_error_of_the_model(model: ModelInfo, tmp_path: Path) -> None:
    absent = msgspec.structs.replace(model, path=str(tmp_path))

    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        list(measured(absent, "messages", ROWS, 2048))


def test_who_stops_listening_leaves_no_process_behind(model: ModelInfo) -> None:
    def endless() -> Iterator[tuple[int, dict[str, Any]]]:
        while True:
            yield ROWS[0]

    told = measured(model, "messages", endless(), 2048)

    assert next(told).line == ROWS[0][0]
    told.close()
