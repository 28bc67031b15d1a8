"""Rendering and tokenising in a process with little time and memory: what comes back, and what ends it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from oneseek import child
from oneseek.datasets.formats import UsedFormat
from oneseek.datasets.limited import Answer, Order, PromptTokens, RowTokens, Traits, Trouble, judged, measured
from oneseek.datasets.tokens import IGNORED, encoder_of
from oneseek.errors import DatasetError, ModelError
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
            least=int((example.labels != IGNORED).argmax()) + 1,
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
        f"{model.display_name}: The chat template is not loaded and tried in time.",
        "Mend the base model's chat template, or select another base model.",
    )


def test_a_template_that_computes_for_ever_while_it_compiles_is_killed(model: ModelInfo) -> None:
    (trouble,) = answers(templated(model, "{{ 9 ** (9 ** 9) }}" + CHAT_TEMPLATE), ROWS)

    assert isinstance(trouble, Trouble)
    assert trouble.problem == f"{model.display_name}: The chat template is not loaded and tried in time."


def test_a_template_that_loops_on_a_prompt_is_killed_and_the_prompt_named(model: ModelInfo) -> None:
    bomb = templated(model, "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}" + CHAT_TEMPLATE)

    *_, good, bad = answers(bomb, [], prompts={2: "Open?", 5: "loop", 6: "Closed?"})

    assert isinstance(good, PromptTokens)
    assert (good.number, good.refusal) == (2, None)
    assert bad == PromptTokens(number=5, refusal="The chat template runs longer than 2 s.")


def test_all_rows_together_may_take_no_more_than_their_time(model: ModelInfo) -> None:
    # Some 5 ms a row: nowhere near what one row, or trying the template, may take.
    slow = templated(model, "{% for a in range(99999) %}{% endfor %}" + CHAT_TEMPLATE)

    *_, bad = answers(slow, ROWS * 2000, seconds=2)

    assert isinstance(bad, RowTokens)
    assert bad.refusal == "The chat template takes more than 2 s for all rows."


def test_what_the_rows_raise_is_raised(model: ModelInfo) -> None:
    def broken() -> Iterator[tuple[int, dict[str, Any]]]:
        yield ROWS[0]
        raise DatasetError("It changed.", "Wait.")

    with pytest.raises(DatasetError, match=r"It changed\."):
        list(measured(model, "messages", broken(), 2048))


def test_tokens_are_counted_before_a_row_is_cut_to_the_context_too(model: ModelInfo) -> None:
    narrow = msgspec.structs.replace(model, context_length=5)

    _, row = answers(narrow, [ROWS[0]])

    assert isinstance(row, RowTokens)
    assert row.tokens == len(encoder_of(model, "messages", 2048).encode(ROWS[0][1])[0].input_ids) > 5
    assert (row.truncated, row.comparable) == (True, False)


@pytest.mark.parametrize(("limit", "learnable"), [(3, False), (2048, True)])
def test_a_pair_that_is_the_same_once_it_is_cut_prefers_nothing(model: ModelInfo, limit: int, learnable: bool) -> None:
    plain = msgspec.structs.replace(model, chat_template=None)
    row = {"prompt": "a", "chosen": "bbbbbbbb x", "rejected": "bbbbbbbb y"}

    _, pair = answers(plain, [(1, row)], format="preference", max_length=limit)

    assert isinstance(pair, RowTokens)
    assert pair.supervised > 0
    assert pair.learnable is learnable


def test_a_text_that_is_too_long_to_be_tokenised_is_refused_for_its_length(model: ModelInfo) -> None:
    plain = msgspec.structs.replace(model, chat_template=None)

    _, row = answers(plain, [(3, {"text": "z" * 4_000_001})], format="text")

    assert isinstance(row, RowTokens)
    assert row.refusal == "The row has 4,000,005 characters; more than 4,000,000 are not tokenised."


def test_the_process_of_a_template_has_no_secret(model: ModelInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    process = child.start("oneseek.datasets.limited", subprocess.DEVNULL)
    assert process.stdin is not None
    try:
        environment = Path(f"/proc/{process.pid}/environ")
        if environment.exists():
            assert b"hf_secret" not in environment.read_bytes()
    finally:
        process.kill()
        process.communicate()


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
