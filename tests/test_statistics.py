"""How long rows are: counted exactly, by hand and with a real tokenizer."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.datasets import statistics
from oneseek.datasets.limited import RowTokens
from oneseek.datasets.statistics import (
    HISTOGRAM,
    Lengths,
    characters,
    file_statistics,
    lengths,
    model_statistics,
    token_statistics,
)
from oneseek.errors import DatasetError, ModelError
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import describe
from support.base_models import write_model


def answer(line: int, tokens: int, *, supervised: int = 1, limit: int = 100) -> RowTokens:
    return RowTokens(
        line=line, tokens=tokens, supervised=supervised, truncated=tokens > limit, learnable=supervised > 0
    )


def test_lengths_are_what_they_are_by_hand() -> None:
    assert lengths([5, 1, 3, 11]) == Lengths(rows=4, total=20, mean=5.0, median=4.0, p95=11, max=11)


def test_no_rows_have_no_length() -> None:
    assert lengths([]) == Lengths(rows=0, total=0, mean=0.0, median=0.0, p95=0, max=0)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=200))
def test_of_any_rows_the_lengths_are_those_of_the_sorted_list(values: list[int]) -> None:
    found = lengths(values)

    ordered = sorted(values)
    middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    assert found.rows == len(values)
    assert found.total == sum(values)
    assert math.isclose(found.mean, sum(values) / len(values))
    assert found.median == middle
    assert found.p95 == ordered[-(-95 * len(values) // 100) - 1]
    assert found.max == ordered[-1]


@pytest.mark.parametrize(
    ("row", "count"),
    [
        ({"text": "åäö"}, 3),
        ({"prompt": "ab", "completion": "cde"}, 5),
        (
            {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "", "tool_calls": [{}]}]},
            2,
        ),
        ({"messages": [{"role": "user", "content": "ab"}], "tools": [{"type": "function"}]}, 2),
        (
            {
                "prompt": [{"role": "user", "content": "a"}],
                "chosen": [{"role": "assistant", "content": "bc"}],
                "rejected": [{"role": "assistant", "content": "d"}],
            },
            4,
        ),
    ],
    ids=["text", "prompt", "calls", "tools", "preference"],
)
def test_characters_are_those_of_what_is_said(row: dict[str, Any], count: int) -> None:
    assert characters(row) == count


def test_rows_are_counted_by_what_becomes_of_them() -> None:
    answers = [
        answer(1, 10, supervised=4),
        answer(2, 101, supervised=50),
        answer(3, 20, supervised=0),
        RowTokens(line=4, refusal="The chat template runs longer than 2 s on this row."),
    ]

    found = token_statistics(answers, rows=6, max_length=100)

    assert found.tokens == lengths([10, 101, 20])
    assert (found.truncated, found.supervised, found.unlearnable) == (1, 54, 1)
    assert (found.refused, found.unmeasured) == (1, 2)
    assert [refusal.line for refusal in found.refusals] == [4]
    assert found.truncated_share == pytest.approx(1 / 3)


def test_the_first_refusals_are_named_and_all_are_counted() -> None:
    found = token_statistics([RowTokens(line=line, refusal="no") for line in range(1, 9)], rows=8, max_length=100)

    assert [refusal.line for refusal in found.refusals] == [1, 2, 3]
    assert found.refused == 8
    assert found.truncated_share == 0.0


@given(st.lists(st.integers(0, 2**20), max_size=100))
def test_every_row_is_in_the_one_bin_that_it_belongs_to(values: list[int]) -> None:
    found = token_statistics([answer(1, value) for value in values], rows=len(values), max_length=100)

    ends = (*HISTOGRAM[1:], math.inf)
    expected = [sum(begin <= value < end for value in values) for begin, end in zip(HISTOGRAM, ends, strict=True)]
    assert [one.rows for one in found.histogram] == expected
    assert [one.at_least for one in found.histogram] == list(HISTOGRAM)


# -- with a tokenizer ----------------------------------------------------------------------------------------------

ROWS = [(1, {"text": "abc"}), (2, {"text": "a" * 30}), (5, {"text": "ab"})]
SHA = "ab" * 32


@pytest.fixture
def model(tmp_path: Path) -> ModelInfo:
    """A model whose tokenizer has a token for each letter; texts get one before and one after them."""
    return describe(write_model(tmp_path / "model", vocab=64, chat=False))


def count(model: ModelInfo, kept: Path, **changes: Any) -> statistics.TokenStatistics:
    wanted = {"count": 3, "dataset_sha256": SHA, "max_length": 16, "kept": kept, **changes}
    rows = wanted.pop("rows", ROWS)
    return model_statistics(model, "text", rows, **wanted)


def test_tokens_are_those_of_the_models_own_tokenizer(model: ModelInfo, tmp_path: Path) -> None:
    found = count(model, tmp_path / "kept")

    assert found.tokens == lengths([5, 32, 4])
    assert found.truncated == 1
    assert found.supervised == 4 + 15 + 3
    assert (found.unlearnable, found.refused, found.unmeasured) == (0, 0, 0)


def test_what_was_counted_is_kept_and_the_rows_are_not_read_again(model: ModelInfo, tmp_path: Path) -> None:
    first = count(model, tmp_path / "kept")

    again = count(model, tmp_path / "kept", rows=(pytest.fail("read again") for _ in range(1)))

    assert again == first


@pytest.mark.parametrize("changes", [{"dataset_sha256": "cd" * 32}, {"max_length": 8}], ids=["dataset", "length"])
def test_another_question_is_counted_anew(model: ModelInfo, tmp_path: Path, changes: dict[str, Any]) -> None:
    count(model, tmp_path / "kept")

    assert count(model, tmp_path / "kept", rows=ROWS[:1], count=1, **changes).tokens.rows == 1


def test_another_tokenizer_is_counted_anew(model: ModelInfo, tmp_path: Path) -> None:
    count(model, tmp_path / "kept")
    tokenizer = Path(model.path) / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")

    assert count(model, tmp_path / "kept", rows=ROWS[:1], count=1).tokens.rows == 1


def test_other_special_tokens_are_counted_anew(model: ModelInfo, tmp_path: Path) -> None:
    count(model, tmp_path / "kept")
    other = msgspec.structs.replace(model, special_tokens={"eos_token": "</s>"})

    assert count(other, tmp_path / "kept", rows=ROWS[:1], count=1).tokens.rows == 1


def test_another_version_of_the_tokenizers_counts_anew(
    model: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count(model, tmp_path / "kept")
    monkeypatch.setattr(statistics, "version", lambda library: f"{library} 99")

    assert count(model, tmp_path / "kept", rows=ROWS[:1], count=1).tokens.rows == 1


def test_counts_that_ended_early_are_not_kept(
    model: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = [answer(1, 5), RowTokens(line=2, refusal="The process ended (SIGKILL).")]
    with monkeypatch.context() as once:
        once.setattr(statistics, "measured", lambda *_: iter(killed))
        assert count(model, tmp_path / "kept").unmeasured == 1

    assert count(model, tmp_path / "kept").unmeasured == 0


def test_kept_counts_that_are_damaged_are_made_again(
    model: ModelInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = count(model, tmp_path / "kept")
    (path,) = (tmp_path / "kept").iterdir()
    path.write_bytes(b'{"max_length": ')

    with caplog.at_level(logging.WARNING):
        assert count(model, tmp_path / "kept") == first
    assert "counted again" in caplog.text
    assert count(model, tmp_path / "kept", rows=()) == first


def test_counts_that_cannot_be_kept_are_told_all_the_same(
    model: ModelInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "kept").write_text("a file where the directory belongs")

    found = count(model, tmp_path / "kept")

    assert found.tokens.rows == 3
    assert "are not kept" in caplog.text


def test_a_model_that_cannot_be_used_keeps_no_other_from_being_counted(model: ModelInfo, tmp_path: Path) -> None:
    broken = describe(write_model(tmp_path / "broken", tokenizer=False))
    (tmp_path / "rows.jsonl").write_text('{"text": "abc"}\n{"text": ""}\n{"text": "ab"}\n')

    found = file_statistics(tmp_path / "rows.jsonl", [broken, model], 16, tmp_path / "kept")

    assert list(found.unusable) == ["broken"]
    assert "no tokenizer.json" in found.unusable["broken"].problem
    assert found.unusable["broken"].fix
    assert found.models["model"].tokens == lengths([5, 4])
    assert [(group.kind, group.count) for group in found.bad_rows] == [("empty-content", 1)]


@pytest.mark.parametrize("reading", ["Counting characters", "Counting tokens of model"])
def test_a_file_that_changes_between_its_readings_is_refused_and_nothing_is_kept(
    model: ModelInfo, tmp_path: Path, reading: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "abc"}\n')

    def change(what: str) -> None:
        if what == reading:
            rows.write_text('{"text": "abcd"}\n')

    with pytest.raises(DatasetError, match="changed after it was first read"):
        file_statistics(rows, [model], 16, tmp_path / "kept", change)
    assert not (tmp_path / "kept").exists()


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    model = describe(write_model(tmp_path / "model", tokenizer=False))

    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        count(model, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
