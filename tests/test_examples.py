"""Tokens, labels and answer tokens of a row."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from oneseek import child
from oneseek.chat.render import Rendered, render_completion
from oneseek.chat.template import ChatTemplate
from oneseek.chat.turns import Span
from oneseek.datasets.formats import UsedFormat
from oneseek.datasets.tokens import IGNORED, Encoder, Example, label, load_tokenizer
from oneseek.engine import examples
from oneseek.engine.examples import NumberedRow, encode_rows, encoder_for, numbered_rows
from oneseek.errors import ModelError, WorkerFailed
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


def encoder(format: UsedFormat, max_length: int = 100, bos: str = "<s>", eos: str = "</s>") -> Encoder:  # noqa: A002
    chat = format == "messages"
    tokens = {"bos_token": bos, "eos_token": eos}
    return Encoder(byte_tokenizer(), TEMPLATE if chat else None, tokens, format, max_length)


def without_leading_token(plain: Encoder) -> Encoder:
    plain.tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return plain


def learned(tokenizer: Tokenizer, labels: Iterable[int]) -> list[str | None]:
    return [tokenizer.id_to_token(label) for label in labels if label != IGNORED]


def contents(example: Example) -> tuple[object, ...]:
    """All that an example holds, in a form that compares."""
    arrays = (example.input_ids, example.labels, example.answer_mask)
    return (*((array.dtype, array.tolist()) for array in arrays), example.answer_bytes, example.truncated)


def test_a_chat_is_learned_on_its_assistant_turns_alone() -> None:
    chat = encoder("messages")

    example = chat.encode(CHAT)[0]

    assert learned(chat.tokenizer, example.labels) == [*"ÃĸppetĠnu", "</s>", "Ċ"]
    assert sum(example.answer_mask) == len("Öppet nu".encode()) == example.answer_bytes
    assert [chat.tokenizer.id_to_token(i) for i in example.input_ids].count("<s>") == 1
    assert not example.truncated


def test_a_completion_is_learned_with_its_end_and_its_prompt_is_not() -> None:
    plain = encoder("prompt_completion")

    example = plain.encode({"prompt": "a b", "completion": " cd"})[0]

    assert learned(plain.tokenizer, example.labels) == ["Ġ", "c", "d", "</s>"]
    assert plain.tokenizer.id_to_token(example.input_ids[0]) == "<s>"
    assert (sum(example.answer_mask), example.answer_bytes) == (2, 2)


def test_a_text_is_learned_whole_but_for_the_token_that_begins_it() -> None:
    plain = encoder("text")

    example = plain.encode({"text": "abc"})[0]

    assert learned(plain.tokenizer, example.labels) == ["a", "b", "c", "</s>"]
    assert [plain.tokenizer.id_to_token(token) for token in example.input_ids] == ["<s>", *"abc", "</s>"]
    assert example.labels[0] == IGNORED


def test_the_first_token_is_never_learned_since_nothing_predicts_it() -> None:
    bare = byte_tokenizer()
    rendered = render_completion("", "abc", "")

    example = label(bare.encode(rendered.text, add_special_tokens=False), rendered, 100)

    assert learned(bare, example.labels) == ["b", "c"]
    assert example.answer_mask.tolist() == [False, True, True]


@pytest.mark.parametrize(("bos", "before"), [("<s>", "<s>"), ("", "</s>"), ("<unknown>", "</s>")])
def test_plain_text_gets_a_token_before_it_that_predicts_its_first(bos: str, before: str) -> None:
    plain = without_leading_token(encoder("text", bos=bos))

    example = plain.encode({"text": "åbc"})[0]

    assert [plain.tokenizer.id_to_token(token) for token in example.input_ids] == [before, *"Ã¥bc", "</s>"]
    assert learned(plain.tokenizer, example.labels) == [*"Ã¥bc", "</s>"]
    assert sum(example.answer_mask) == example.answer_bytes == 4


def test_a_token_before_plain_text_counts_towards_the_length() -> None:
    plain = without_leading_token(encoder("text", max_length=3))

    example = plain.encode({"text": "abc"})[0]

    assert (len(example.input_ids), example.truncated) == (3, True)
    assert not without_leading_token(encoder("text", max_length=5)).encode({"text": "abc"})[0].truncated


def test_a_first_character_that_nothing_predicts_has_no_bytes_to_count() -> None:
    bare = without_leading_token(encoder("text", bos="", eos=""))

    example = bare.encode({"text": "abc"})[0]

    assert learned(bare.tokenizer, example.labels) == ["b", "c"]
    assert sum(example.answer_mask) == example.answer_bytes == 2


def test_a_row_without_a_token_has_no_bytes_to_count() -> None:
    bare = without_leading_token(encoder("text", bos="", eos=""))
    bare.tokenizer.normalizer = normalizers.Replace("x", "")

    example = bare.encode({"text": "xx"})[0]

    assert (len(example.input_ids), len(example.labels), example.answer_bytes) == (0, 0, 0)


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


def test_a_validation_dataset_is_validated_on_whole_and_the_other_trained_on_whole(tmp_path: Path) -> None:
    dataset, validation = tmp_path / "rows.jsonl", tmp_path / "validation.jsonl"
    dataset.write_text('{"text": "a"}\n{"text": "b"}\n')
    validation.write_text('{"text": "a"}\n')
    told = msgspec.structs.replace(
        assignment(tmp_path, dataset, tmp_path, format="text", strategy="standard"),
        validation_path=str(validation),
        validation_sha256=hashlib.sha256(validation.read_bytes()).hexdigest(),
    )

    training, validating = numbered_rows(told)

    assert (training, validating) == ([(1, {"text": "a"}), (2, {"text": "b"})], [(1, {"text": "a"})])
    validation.write_text('{"text": "c"}\n')
    with pytest.raises(WorkerFailed, match=r"validation\.jsonl has changed"):
        numbered_rows(told)


def test_a_row_is_cut_from_its_end_and_says_so() -> None:
    whole = encoder("text").encode({"text": "abcdef"})[0]

    cut = encoder("text", max_length=4).encode({"text": "abcdef"})[0]

    assert cut.truncated
    assert contents(replace(cut, truncated=False)) == contents(
        replace(whole, input_ids=whole.input_ids[:4], labels=whole.labels[:4], answer_mask=whole.answer_mask[:4])
    )
    assert not encoder("text", max_length=len(whole.input_ids)).encode({"text": "abcdef"})[0].truncated


def test_a_token_that_only_touches_a_learned_span_is_not_learned() -> None:
    tokenizer = byte_tokenizer()
    rendered = Rendered("abcdef", (Span(2, 4),), (Span(2, 3),), 1)

    example = label(tokenizer.encode(rendered.text, add_special_tokens=False), rendered, 100)

    assert learned(tokenizer, example.labels) == ["c", "d"]
    assert example.answer_mask.tolist() == [False, False, True, False, False, False]


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

    with pytest.raises(ModelError) as failed:
        load_tokenizer(tmp_path)

    assert "tokenizer.json" in failed.value.problem


# -- labels, against the definition spelled out token by token ------------------------------------------------------


@dataclass
class Offsets:
    """What labels need of a tokenizer's `Encoding`."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    special_tokens_mask: list[int]

    def __len__(self) -> int:
        return len(self.ids)


def defined(encoding: Offsets, rendered: Rendered, max_length: int, leading: tuple[int, ...]) -> tuple[object, ...]:
    spans = [Span(0, 0) for _ in leading]
    covered = 0
    for (start, end), added in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        spans.append(Span(0, 0) if added else Span(covered if start == end else start, end))
        covered = covered if added else max(covered, end)
    learned, answers = (
        [any(t.start < s.end and t.end > s.start and t.end > t.start for s in marked) for t in spans]
        for marked in (rendered.supervised, rendered.answers)
    )
    learned[:1] = [False] * len(learned[:1])
    ids = [*leading, *encoding.ids]
    counted = rendered.answer_bytes if any(answers[1:]) else 0
    if counted and answers[0]:
        first = next(span.start for span, answer in zip(spans[1:], answers[1:], strict=True) if answer)
        counted = sum(len(rendered.text[max(a.start, first) : a.end].encode()) for a in rendered.answers)
    return (
        (np.int32, [token if mark else IGNORED for token, mark in zip(ids, learned, strict=True)][:max_length]),
        (np.bool_, [mark and answer for mark, answer in zip(learned, answers, strict=True)][:max_length]),
        counted,
        len(ids) > max_length,
    )


@st.composite
def tokens_and_spans(draw: st.DrawFn, length: int = 24) -> tuple[Offsets, Rendered]:
    """Tokens that cover anything or nothing, some of them added, and ordered disjoint spans, some of them empty."""
    place = st.integers(0, length)
    tokens = draw(st.lists(st.tuples(place, st.integers(0, 4), st.booleans()), max_size=20))
    if draw(st.booleans()):  # as most tokenizers give them
        tokens.sort()
    offsets = [(start, min(start + width, length)) for start, width, _ in tokens]
    ends = [sorted(draw(st.lists(place, max_size=8))) for _ in range(2)]
    supervised, answers = ([Span(*pair) for pair in zip(each[::2], each[1::2], strict=False)] for each in ends)
    text = draw(st.text("aå€𝄞 ", min_size=length, max_size=length))
    size = sum(len(answer.of(text).encode()) for answer in answers)
    return (
        Offsets(draw(st.permutations(range(len(tokens)))), offsets, [int(added and 1) for *_, added in tokens]),
        Rendered(text, tuple(supervised), tuple(answers), size),
    )


NOTHING_INSIDE_A_SPAN = Offsets([0, 1], [(4, 8), (5, 5)], [0, 0]), Rendered("a" * 24, (Span(0, 20),), (), 0)


@example(NOTHING_INSIDE_A_SPAN, 25, ())
@given(tokens_and_spans(), st.integers(0, 25), st.sampled_from([(), (99,), (98, 99)]))
def test_labels_are_what_their_definition_says(
    case: tuple[Offsets, Rendered], max_length: int, leading: tuple[int, ...]
) -> None:
    encoding, rendered = case

    example = label(encoding, rendered, max_length, leading)  # type: ignore[arg-type]

    assert contents(example)[1:] == defined(encoding, rendered, max_length, leading)
    assert example.input_ids.tolist() == [*leading, *encoding.ids][:max_length]
    learned = [mark for mark, token in zip(example.answer_mask, example.labels, strict=True) if token != IGNORED]
    assert (example.learned_answer_marks, example.supervised_tokens) == (learned, len(learned))


def test_many_rows_are_encoded_as_each_is_alone() -> None:
    texts = encoder("text", max_length=7)
    rows = [NumberedRow(number, {"text": "å€ b  " * (number % 3) + str(number)}) for number in range(600)]

    encoded = encode_rows(texts, rows, "town.jsonl")

    assert [contents(example) for example in encoded] == [contents(texts.encode(row)[0]) for _, row in rows]


# -- what is kept between runs -------------------------------------------------------------------------------------


SAYS_ALL = "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
ANOTHER = SAYS_ALL.replace("[", "<").replace("]", ">")
TEXTS = [NumberedRow(number, {"text": f"row {number}"}) for number in range(5)]


def model_directory(place: Path, *, tokenizer: Tokenizer | None = None, **settings: Any) -> Path:
    place.mkdir(exist_ok=True)
    (tokenizer or byte_tokenizer()).save(str(place / "tokenizer.json"))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": SAYS_ALL, **settings}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    (place / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return place


def caching(tmp_path: Path, model: Path | None = None, **changes: Any) -> Encoder:
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("{}")
    fields = {"format": "text", "strategy": "standard", "cache_directory": str(tmp_path / "cache"), **changes}
    return encoder_for(assignment(model or model_directory(tmp_path / "model"), dataset, tmp_path, **fields))


def kept(tmp_path: Path) -> int:
    return len(list((tmp_path / "cache").iterdir()))


def test_what_comes_out_of_the_cache_is_what_was_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*TEXTS, NumberedRow(9, {"text": "å€ " * 80})]
    made = encode_rows(caching(tmp_path), rows, "town.jsonl")
    monkeypatch.setattr(Encoder, "encode_texts", None)  # nothing can be encoded again

    found = encode_rows(caching(tmp_path), rows, "town.jsonl")

    assert [contents(example) for example in found] == [contents(example) for example in made]
    assert {example.truncated for example in found} == {False, True}
    assert kept(tmp_path) == 1


def test_no_rows_come_out_of_the_cache_as_no_examples(tmp_path: Path) -> None:
    assert [encode_rows(caching(tmp_path), [], "town.jsonl") for _ in range(2)] == [[], []]


def test_without_a_cache_directory_nothing_is_kept(tmp_path: Path) -> None:
    encode_rows(caching(tmp_path, cache_directory=None), TEXTS, "town.jsonl")

    assert not (tmp_path / "cache").exists()


def test_a_damaged_file_is_not_used_and_written_again(tmp_path: Path) -> None:
    made = encode_rows(caching(tmp_path), TEXTS, "town.jsonl")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))

    again = encode_rows(caching(tmp_path), TEXTS, "town.jsonl")

    assert [contents(example) for example in again] == [contents(example) for example in made]
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "rows",
    [
        TEXTS[:4],
        [TEXTS[1], TEXTS[0], *TEXTS[2:]],
        [NumberedRow(0, {"text": "row 0."}), *TEXTS[1:]],
        [NumberedRow(0, {"text": "row 0\nrow 1"}), *TEXTS[2:]],
    ],
    ids=["fewer", "another order", "other text", "text that holds a line break"],
)
def test_other_rows_are_encoded_anew(tmp_path: Path, rows: list[NumberedRow]) -> None:
    encode_rows(caching(tmp_path), TEXTS, "town.jsonl")

    encode_rows(caching(tmp_path), rows, "town.jsonl")

    assert kept(tmp_path) == 2


def test_the_order_of_an_object_in_a_row_counts_since_templates_print_it(tmp_path: Path) -> None:
    chat = caching(
        tmp_path,
        model_directory(
            tmp_path / "model",
            chat_template="{% for m in messages %}[{{ m.role }}]{{ (m.tool_calls or '')|string }}{{ m.content }}</s>"
            "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}",
        ),
        format="messages",
        strategy="chat",
    )

    def row(*arguments: str) -> NumberedRow:
        call = {"function": {"name": "find", "arguments": dict.fromkeys(arguments, 1)}}
        asked = {"role": "user", "content": "Hi"}
        return NumberedRow(1, {"messages": [asked, {"role": "assistant", "content": "", "tool_calls": [call]}]})

    one, other = (encode_rows(chat, [row(*order)], "town.jsonl")[0] for order in ("ab", "ba"))

    assert contents(one) != contents(other)
    assert kept(tmp_path) == 2


def test_the_lines_of_rows_are_no_part_of_what_they_are_encoded_to(tmp_path: Path) -> None:
    encode_rows(caching(tmp_path), TEXTS, "town.jsonl")

    encode_rows(caching(tmp_path), [NumberedRow(line + 7, row) for line, row in TEXTS], "elsewhere.jsonl")

    assert kept(tmp_path) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "prompt_completion"},
        {"max_length": 4},
    ],
    ids=["format", "length"],
)
def test_another_assignment_encodes_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = [NumberedRow(1, {"text": "a", "prompt": "a", "completion": "b"})]
    encode_rows(caching(tmp_path), rows, "town.jsonl")

    encode_rows(caching(tmp_path, **changes), rows, "town.jsonl")

    assert kept(tmp_path) == 2


@pytest.mark.parametrize("change", ["tokenizer", "template", "special token"])
def test_another_model_encodes_anew(tmp_path: Path, change: str) -> None:
    form, rows = ("messages", [NumberedRow(1, CHAT)]) if change == "template" else ("text", TEXTS)
    encode_rows(caching(tmp_path, format=form), rows, "town.jsonl")
    tokenizer = byte_tokenizer()
    if change == "tokenizer":
        tokenizer.normalizer = normalizers.Lowercase()
    settings = {"template": {"chat_template": ANOTHER}, "special token": {"eos_token": "<s>"}}.get(change, {})

    other = model_directory(tmp_path / "model", tokenizer=tokenizer, **settings)
    encode_rows(caching(tmp_path, other, format=form), rows, "town.jsonl")

    assert kept(tmp_path) == 2


@pytest.mark.parametrize("what", ["oneseek", "tokenizers", "jinja2"])
def test_another_version_encodes_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    encode_rows(caching(tmp_path), TEXTS, "town.jsonl")
    monkeypatch.setattr(examples, "version", lambda library: "99" if library == what else version(library))
    if what == "oneseek":
        monkeypatch.setattr(examples, "ENCODING", examples.ENCODING + 1)

    encode_rows(caching(tmp_path), TEXTS, "town.jsonl")

    assert kept(tmp_path) == 2


def test_the_number_of_the_encoding_is_that_of_what_rows_are_encoded_to() -> None:
    """Once this fails, `ENCODING` has to be raised, and the digest written down anew."""
    chat = {"messages": [*CHAT["messages"], {"role": "user", "content": "å  \n"}, *CHAT["messages"][1:]]}
    rows: dict[UsedFormat, list[dict[str, Any]]] = {
        "messages": [chat, CHAT],
        "prompt_completion": [{"prompt": "a b", "completion": "  cd\n"}],
        "text": [{"text": "€ abc"}, {"text": "a" * 200}],
    }
    found = [contents(encoder(name).encode(row)[0]) for name, each in rows.items() for row in each]

    digest = hashlib.sha256(repr(found).encode()).hexdigest()

    assert (examples.ENCODING, digest[:16]) == (1, "aae9b86b7589ef2a")


@pytest.mark.parametrize(("threads", "parallel"), [(1, "false"), (3, "true")])
def test_a_process_tokenises_with_its_share_of_the_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, parallel: str
) -> None:
    environments: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: environments.append(env))

    child.start("a.module", subprocess.DEVNULL, threads)

    (environment,) = environments
    assert (environment["TOKENIZERS_PARALLELISM"], environment["RAYON_NUM_THREADS"]) == (parallel, str(threads))
