"""Preference rows as pairs of token sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from oneseek.chat.template import ChatTemplate
from oneseek.datasets.formats import UsedFormat
from oneseek.datasets.token_cache import TokenCache
from oneseek.datasets.tokens import IGNORED, Encoder
from oneseek.engine.examples import NumberedRow
from oneseek.engine.pairs import Pair, encode_pairs
from oneseek.errors import WorkerFailed

TEMPLATE = ChatTemplate(
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    {"bos_token": "<s>", "eos_token": "</s>"},
)
QUESTION = {"role": "user", "content": "Open?"}


def byte_tokenizer() -> Tokenizer:
    """A token for every byte, for `bc`, and for <s> and </s>; <s> is put before plain text."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "bc"]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [("b", "c")]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ids = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(single="<s> $A", special_tokens=ids)]
    )
    return tokenizer


TOKENIZER = byte_tokenizer()


def encoder(format: UsedFormat = "preference", max_length: int = 100) -> Encoder:  # noqa: A002
    template = TEMPLATE if format == "preference_chat" else None
    return Encoder(TOKENIZER, template, {"bos_token": "<s>", "eos_token": "</s>"}, format, max_length)


def text_row(prompt: str, chosen: str, rejected: str) -> NumberedRow:
    return NumberedRow(1, {"prompt": prompt, "chosen": chosen, "rejected": rejected})


def chat_row(chosen: str, rejected: str) -> NumberedRow:
    answers = {"chosen": chosen, "rejected": rejected}
    replies = {name: [{"role": "assistant", "content": content}] for name, content in answers.items()}
    return NumberedRow(1, {"prompt": [QUESTION], **replies})


def written(ids: Any) -> str:
    return "".join(str(TOKENIZER.id_to_token(int(token))) for token in ids if token != IGNORED)


def one(row: NumberedRow, encoder: Encoder) -> Pair:
    (pair,) = encode_pairs(encoder, [row], "town.jsonl")
    return pair


def test_both_answers_follow_the_prompt_and_are_learned_with_their_ends() -> None:
    pair = one(text_row("a b:", " yes", " no"), encoder())

    assert [written(each.input_ids) for each in (pair.chosen, pair.rejected)] == ["<s>aĠb:Ġyes</s>", "<s>aĠb:Ġno</s>"]
    assert [written(each.labels) for each in (pair.chosen, pair.rejected)] == ["Ġyes</s>", "Ġno</s>"]
    assert [each.answer_bytes for each in (pair.chosen, pair.rejected)] == [3, 2]


def test_of_a_chat_the_prompt_is_shared_up_to_where_the_answers_are_learned() -> None:
    pair = one(chat_row("Yes", "No"), encoder("preference_chat"))

    assert written(pair.chosen.input_ids[: pair.shared]) == "<s>[user]ĠOpen?</s>[assistant]Ġ"
    assert [written(each.labels) for each in (pair.chosen, pair.rejected)] == ["Yes</s>", "No</s>"]


def test_what_answers_have_in_common_is_not_shared_since_it_is_learned_in_both() -> None:
    pair = one(text_row("a:", "yes", "yet"), encoder())

    assert written(pair.chosen.input_ids[: pair.shared]) == "<s>a:"


def test_a_token_that_joins_prompt_and_answer_is_not_shared() -> None:
    pair = one(text_row("ab", "c", "d"), encoder())

    assert [written(each.input_ids) for each in (pair.chosen, pair.rejected)] == ["<s>abc</s>", "<s>abd</s>"]
    assert written(pair.chosen.labels) == "bc</s>"
    assert written(pair.chosen.input_ids[: pair.shared]) == "<s>a"


def test_each_answer_is_cut_at_its_own_end() -> None:
    pair = one(text_row("abc", "d", "defgh"), encoder(max_length=5))

    assert (pair.chosen.truncated, pair.rejected.truncated) == (False, True)
    assert (len(pair.chosen.input_ids), len(pair.rejected.input_ids), pair.shared) == (5, 5, 3)


def test_a_prompt_that_fills_the_length_is_shared_whole_and_nothing_is_learned() -> None:
    pair = one(text_row("a d e f", "yes", "no"), encoder(max_length=5))

    assert pair.shared == len(pair.chosen.input_ids) == len(pair.rejected.input_ids) == 5
    assert pair.chosen.supervised_tokens == pair.rejected.supervised_tokens == 0


@given(*(st.text("abc", max_size=4) for _ in range(3)), st.integers(1, 12))
def test_no_shared_token_is_learned_and_the_one_after_differs_or_is(a: str, b: str, c: str, length: int) -> None:
    pair = one(text_row(a, b + "x", c + "y"), encoder(max_length=length))

    sides = (pair.chosen, pair.rejected)
    ahead = [each.input_ids[: pair.shared].tolist() for each in sides]
    assert ahead[0] == ahead[1]
    assert all((each.labels[: pair.shared] == IGNORED).all() for each in sides)
    if pair.shared < min(len(each.input_ids) for each in sides):
        differ = pair.chosen.input_ids[pair.shared] != pair.rejected.input_ids[pair.shared]
        assert differ or any(each.labels[pair.shared] != IGNORED for each in sides)


def test_pairs_keep_the_order_of_their_rows_and_come_out_of_the_cache_the_same(tmp_path: Path) -> None:
    rows = [text_row(f"{number}:", "yes", "no" * number) for number in range(300)]
    cached = replace(encoder(), cache=TokenCache(tmp_path))

    made, found = (encode_pairs(cached, rows, "town.jsonl") for _ in range(2))

    assert [written(pair.chosen.input_ids) for pair in made] == [f"<s>{number}:yes</s>" for number in range(300)]
    for pair, again in zip(made, found, strict=True):
        assert pair.shared == again.shared
        for side in ("chosen", "rejected"):
            assert np.array_equal(getattr(pair, side).input_ids, getattr(again, side).input_ids)
            assert np.array_equal(getattr(pair, side).labels, getattr(again, side).labels)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_row_that_the_template_refuses_is_named_by_its_line() -> None:
    refused = {"prompt": [QUESTION], "chosen": [{"role": "assistant", "content": ""}], "rejected": []}

    with pytest.raises(WorkerFailed) as failed:
        encode_pairs(encoder("preference_chat"), [chat_row("Yes", "No"), NumberedRow(8, refused)], "town.jsonl")

    assert failed.value.kind == "refused"
    assert failed.value.problem.startswith("town.jsonl, line 8: ")
