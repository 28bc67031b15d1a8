from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek import names
from oneseek.errors import ConfigError, SelectionError

KEYS = ("kb-llama-3-1-8b-swedish", "llama-2-7b-chat", "mistral-7b", "qwen-2-5-7b")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Mistral-7B-Instruct", "mistral-7b-instruct"),
        ("KB-Llama-3.1-8B-Swedish", "kb-llama-3-1-8b-swedish"),
        ("llama-2-7b-chat", "llama-2-7b-chat"),
        ("Qwen-2.5-7B", "qwen-2-5-7b"),
        ("gemma_2_9b", "gemma-2-9b"),
        ("KBLab/KB-Llama-3.1", "kb-llama-3-1"),
        ("  Ångström 7B/ ", "angstrom-7b"),
    ],
)
def test_a_model_name_becomes_its_key(name: str, key: str) -> None:
    assert names.normalize_model_name(name) == key


@given(st.text())
def test_a_key_is_its_own_key_and_safe_as_a_file_name(text: str) -> None:
    key = names.normalize_model_name(text)

    assert names.normalize_model_name(key) == key
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ("Mistral-7B", "mistral-7b"),
        ("kb-llama", "kb-llama-3-1-8b-swedish"),
        ("kbllama31", "kb-llama-3-1-8b-swedish"),
        ("KBLab/KB-Llama-3.1-8B-Swedish", "kb-llama-3-1-8b-swedish"),
    ],
)
def test_a_selection_finds_its_model_on_the_first_level_that_matches(wanted: str, key: str) -> None:
    assert names.match_selection(wanted, KEYS) == key


def test_an_equal_key_wins_over_keys_that_contain_it() -> None:
    assert names.match_selection("mistral-7b", ("mistral-7b", "mistral-7b-instruct")) == "mistral-7b"


def test_a_longer_name_never_selects_a_shorter_key() -> None:
    with pytest.raises(SelectionError, match="No base model matches 'mistral-7b-instruct'") as refused:
        names.match_selection("mistral-7b-instruct", ("mistral-7b", "gemma-2-9b"))

    assert "mistral-7b" in refused.value.fix


def test_a_name_of_two_models_is_refused_and_both_are_named() -> None:
    with pytest.raises(SelectionError) as refused:
        names.match_selection("llama", KEYS)

    assert "kb-llama-3-1-8b-swedish, llama-2-7b-chat" in refused.value.problem


def test_a_name_without_letters_or_digits_is_refused() -> None:
    with pytest.raises(SelectionError, match="is not a model name"):
        names.match_selection("--", KEYS)


@pytest.mark.parametrize(
    ("declared", "name_or_path", "shown"),
    [
        ("Our Llama", "meta/KB-Llama-3.1", "Our Llama"),
        (None, "KBLab/KB-Llama-3.1", "KB-Llama-3.1"),
        (None, "somewhere/else", "kb_llama_3.1"),
        (None, None, "kb_llama_3.1"),
        ("  ", None, "kb_llama_3.1"),
    ],
)
def test_the_display_name_is_declared_or_original_or_the_directorys(
    declared: str | None, name_or_path: str | None, shown: str
) -> None:
    assert names.display_name("kb-llama-3-1", "kb_llama_3.1", declared, name_or_path) == shown


def test_a_run_id_has_no_colon_and_counts_on_within_a_second() -> None:
    now = datetime(2025, 11, 22, 14, 30, 25, tzinfo=UTC)

    assert names.run_id(now) == "run-20251122-143025"
    assert names.run_id(now, 2) == "run-20251122-143025-2"
    assert names.is_run_id("run-20251122-143025-2")
    assert not names.is_run_id("run:2025-11-22")


def test_the_next_version_is_one_minor_step_above_the_highest() -> None:
    assert names.next_version([]) == (1, 0)
    assert names.next_version([(1, 0), (1, 9), (1, 2)]) == (1, 10)
    assert names.next_version([(1, 9), (2, 0)]) == (2, 1)


@pytest.mark.parametrize("text", ["1", "1.0.0", "one", "", "1.x", "-1.0"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a version"):
        names.parse_version(text)


@pytest.mark.parametrize(
    ("file", "version"),
    [
        ("oneseek-7b-zero-v1.0.json", (1, 0)),
        ("oneseek-7b-zero-v1.0..json", (1, 0)),
        ("oneseek-7b-zero-v2.13-mistral-7b.pth", (2, 13)),
        ("mistral-7b-adapter", None),
    ],
)
def test_the_version_of_a_file_is_read_from_its_name(file: str, version: tuple[int, int] | None) -> None:
    assert names.version_of_file(file) == version


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (2_100_000, "2.1 MB"),
        (2_940_000_000, "2.94 GB"),
        (999_999_999_999, "1.00 TB"),
        (1_500_000_000_000_000, "1500.00 TB"),
    ],
)
def test_a_size_is_written_in_the_largest_unit_of_which_there_is_one(count: int, text: str) -> None:
    assert names.size(count) == text
