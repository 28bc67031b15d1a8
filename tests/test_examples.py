"""Tokens, labels and answer tokens of a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from oneseek.chat.render import Rendered, render_completion
from oneseek.chat.template import ChatTemplate
from oneseek.chat.turns import Span
from oneseek.engine.examples import (
    IGNORED,
    Encoder,
    NumberedRow,
    encode_rows,
    label,
    load_tokenizer,
    numbered_rows,
)
from oneseek.errors import WorkerFailed
from support.tiny_models import assignment

TEMPLATE = ChatTemplate(
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    {"bos_token": "<s>", "eos_token": "</s>"},
)
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Öppet nu"}]}


def byte_tokenizer(*, trim_offsets: bool = False) -> Tokenizer:
    """A token for every byte, for runs of spaces, and for <s> and </s>; <s> is put before plain text."""
    merges = [("Ġ", "Ġ"), ("ĠĠ", "ĠĠ")]
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ĠĠ", "ĠĠĠĠ"]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, merges))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=trim_offsets),
            processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]),
        ]
    )
    return tokenizer


def encoder(format: str, max_length: int = 100, bos: str = "<s>", eos: str = "</s>") -> Encoder:  # noqa: A002
    chat = format == "messages"
    tokens = {"bos_token": bos, "eos_token": eos}
    return Encoder(byte_tokenizer(), TEMPLATE if chat else None, tokens, format, max_length)


def without_leading_token(plain: Encoder) -> Encoder:
    plain.tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return plain


def learned(tokenizer: Tokenizer, labels: tuple[int, ...]) -> list[str | None]:
    return [tokenizer.id_to_token(label) for label in labels if label != IGNORED]


def test_a_chat_is_learned_on_its_assistant_turns_alone() -> None:
    chat = encoder("messages")

    example = chat.encode(CHAT)

    assert learned(chat.tokenizer, example.labels) == [*"ÃĸppetĠnu", "</s>", "Ċ"]
    assert sum(example.answer_mask) == len("Öppet nu".encode()) == example.answer_bytes
    assert [chat.tokenizer.id_to_token(i) for i in example.input_ids].count("<s>") == 1
    assert not example.truncated


def test_a_completion_is_learned_with_its_end_and_its_prompt_is_not() -> None:
    plain = encoder("prompt_completion")

    example = plain.encode({"prompt": "a b", "completion": " cd"})

    assert learned(plain.tokenizer, example.labels) == ["Ġ", "c", "d", "</s>"]
    assert plain.tokenizer.id_to_token(example.input_ids[0]) == "<s>"
    assert (sum(example.answer_mask), example.answer_bytes) == (2, 2)


def test_a_text_is_learned_whole_but_for_the_token_that_begins_it() -> None:
    plain = encoder("text")

    example = plain.encode({"text": "abc"})

    assert learned(plain.tokenizer, example.labels) == ["a", "b", "c", "</s>"]
    assert [plain.tokenizer.id_to_token(token) for token in example.input_ids] == ["<s>", *"abc", "</s>"]
    assert example.labels[0] == IGNORED


def test_the_first_token_is_never_learned_since_nothing_predicts_it() -> None:
    bare = byte_tokenizer()
    rendered = render_completion("", "abc", "")

    example = label(bare.encode(rendered.text, add_special_tokens=False), rendered, 100)

    assert learned(bare, example.labels) == ["b", "c"]
    assert example.answer_mask == (False, True, True)


@pytest.mark.parametrize(("bos", "before"), [("<s>", "<s>"), ("", "</s>"), ("<unknown>", "</s>")])
def test_plain_text_gets_a_token_before_it_that_predicts_its_first(bos: str, before: str) -> None:
    plain = without_leading_token(encoder("text", bos=bos))

    example = plain.encode({"text": "åbc"})

    assert [plain.tokenizer.id_to_token(token) for token in example.input_ids] == [before, *"Ã¥bc", "</s>"]
    assert learned(plain.tokenizer, example.labels) == [*"Ã¥bc", "</s>"]
    assert sum(example.answer_mask) == example.answer_bytes == 4


def test_a_token_before_plain_text_counts_towards_the_length() -> None:
    plain = without_leading_token(encoder("text", max_length=3))

    example = plain.encode({"text": "abc"})

    assert (len(example.input_ids), example.truncated) == (3, True)
    assert not without_leading_token(encoder("text", max_length=5)).encode({"text": "abc"}).truncated


def test_a_first_character_that_nothing_predicts_has_no_bytes_to_count() -> None:
    bare = without_leading_token(encoder("text", bos="", eos=""))

    example = bare.encode({"text": "abc"})

    assert learned(bare.tokenizer, example.labels) == ["b", "c"]
    assert sum(example.answer_mask) == example.answer_bytes == 2


def test_a_row_without_a_token_has_no_bytes_to_count() -> None:
    bare = without_leading_token(encoder("text", bos="", eos=""))
    bare.tokenizer.normalizer = normalizers.Replace("x", "")

    example = bare.encode({"text": "xx"})

    assert (example.input_ids, example.answer_bytes) == ((), 0)


def test_a_row_that_the_template_refuses_is_named_by_its_line() -> None:
    refused = {"messages": [*CHAT["messages"], {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}]}

    with pytest.raises(WorkerFailed) as failed:
        encode_rows(encoder("messages"), [NumberedRow(3, CHAT), NumberedRow(8, refused)], "town.jsonl")

    assert failed.value.kind == "refused"
    assert failed.value.problem.startswith("town.jsonl, line 8: ")
    assert failed.value.fix


def test_rows_keep_the_lines_that_they_stand_on(tmp_path: Path) -> None:
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("".join(f'\n{{"text": "row {number}"}}\n' for number in range(6)))

    sides = numbered_rows(assignment(tmp_path, dataset, tmp_path, format="text", strategy="standard"))

    lines = [(line, row["text"]) for side in sides for line, row in side]
    assert sorted(lines) == [(2 * number + 2, f"row {number}") for number in range(6)]


def test_a_row_is_cut_from_its_end_and_says_so() -> None:
    whole = encoder("text").encode({"text": "abcdef"})

    cut = encoder("text", max_length=4).encode({"text": "abcdef"})

    assert cut.truncated
    assert (cut.input_ids, cut.labels, cut.answer_mask) == (
        whole.input_ids[:4],
        whole.labels[:4],
        whole.answer_mask[:4],
    )
    assert not encoder("text", max_length=len(whole.input_ids)).encode({"text": "abcdef"}).truncated


def test_a_token_that_only_touches_a_learned_span_is_not_learned() -> None:
    tokenizer = byte_tokenizer()
    rendered = Rendered("abcdef", (Span(2, 4),), (Span(2, 3),), 1)

    example = label(tokenizer.encode(rendered.text, add_special_tokens=False), rendered, 100)

    assert learned(tokenizer, example.labels) == ["c", "d"]
    assert example.answer_mask == (False, False, True, False, False, False)


def test_a_token_that_straddles_the_beginning_of_a_learned_span_is_learned() -> None:
    tokenizer = byte_tokenizer()
    rendered = Rendered("a    b", (Span(3, 6),), (), 0)

    example = label(tokenizer.encode(rendered.text, add_special_tokens=False), rendered, 100)

    assert learned(tokenizer, example.labels) == ["ĠĠĠĠ", "b"]


def test_indentation_is_learned_even_where_the_tokenizer_trims_white_space_off_its_offsets() -> None:
    tokenizer = byte_tokenizer(trim_offsets=True)
    rendered = render_completion("a:", "\n    b", "")

    example = label(tokenizer.encode(rendered.text), rendered, 100)

    assert learned(tokenizer, example.labels) == ["Ċ", "ĠĠĠĠ", "b"]


def test_the_truncation_and_padding_of_a_tokenizer_file_are_left_out(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    loaded = load_tokenizer(tmp_path)

    assert len(loaded.encode("abcdef", add_special_tokens=False).ids) == 6


@pytest.mark.parametrize("content", [None, b"", json.dumps({"model": {}}).encode()])
def test_a_model_without_a_readable_tokenizer_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(WorkerFailed) as failed:
        load_tokenizer(tmp_path)

    assert failed.value.kind == "refused"
    assert "tokenizer.json" in failed.value.problem
