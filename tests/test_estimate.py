from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.estimate import adapter_parameters, disk, longest_row_bound, memory, models_at_once, row_length
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.registry.discover import describe
from support.base_models import write_model

MIB = 2**20


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """2 layers, 16 channels, 32 in the MLP, 64 tokens."""
    return describe(write_model(tmp_path_factory.mktemp("models") / "llama", family="llama"))


def test_memory_is_what_its_formula_says(llama: ModelInfo) -> None:
    targets = ["q_proj", "v_proj"]

    needed = memory(llama, 4, targets, 3, 10, 2)

    channels = 2 * (2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 32))  # q o, k v of one head, gate up down
    trainable = 2 * 4 * ((16 + 16) + (16 + 8))
    assert adapter_parameters(llama, 4, targets) == trainable
    assert needed.weights == 4 * llama.parameters
    assert needed.adapter == needed.optimizer == 8 * trainable
    assert needed.activations == int(30 * 4 * (channels + 2 * 2 * 4 + 4 * 16 * 2) * 2.25)
    assert needed.logits == 3 * 30 * 64 * 4
    assert needed.total == needed.runtime + needed.weights + 16 * trainable + needed.activations + needed.logits


@given(batch=st.integers(1, 64), length=st.integers(1, 4096), r=st.integers(1, 256))
def test_memory_grows_with_batch_length_and_rank(llama: ModelInfo, batch: int, length: int, r: int) -> None:
    targets = lora_targets(llama, "all-linear")
    total = memory(llama, r, targets, batch, length, 1).total

    assert memory(llama, r, targets, batch + 1, length, 1).total > total
    assert memory(llama, r, targets, batch, length + 1, 1).total > total
    assert memory(llama, r + 1, targets, batch, length, 1).total > total
    assert memory(llama, r, targets[:2], batch, length, 1).total < total


def test_a_target_counts_by_the_end_of_its_path(llama: ModelInfo) -> None:
    assert adapter_parameters(llama, 4, ["self_attn.q_proj"]) == adapter_parameters(llama, 4, ["q_proj"]) > 0
    assert adapter_parameters(llama, 4, ["proj"]) == 0


@pytest.mark.parametrize(
    ("rows", "length"),
    [([], 128), ([{"text": "x" * 50}, {"text": "y"}], 61), ([{"text": "å"}], 13), ([{"text": "x" * 500}], 128)],
)
def test_a_row_is_as_long_as_its_bytes_the_context_or_max_length_whichever_is_least(
    llama: ModelInfo, rows: list[dict[str, str]], length: int
) -> None:
    longest = longest_row_bound(rows)

    assert row_length(llama, 2048, longest) == length
    assert row_length(llama, 10, longest) == 10
    assert row_length(msgspec.structs.replace(llama, context_length=None), 2048, None) == 2048


@given(rows=st.lists(st.dictionaries(st.text(max_size=3), st.text() | st.integers() | st.none()), max_size=4))
def test_no_row_has_more_bytes_than_the_bound_says(rows: list[dict[str, Any]]) -> None:
    bound = longest_row_bound(rows)

    lengths = [len("".join(value for value in row.values() if isinstance(value, str)).encode()) for row in rows]
    assert (bound is None) == (rows == [])
    assert all(length <= (bound or 0) for length in lengths)


def test_disk_holds_three_checkpoints_and_four_adapters(llama: ModelInfo) -> None:
    assert disk(llama, 4, ["q_proj"]) == (3 * 12 + 4 * 4) * adapter_parameters(llama, 4, ["q_proj"])


@pytest.mark.parametrize(
    ("estimates", "free", "expected"),
    [
        ([400, 400], 1000, 2),
        ([400, 401], 1000, 1),
        ([100] * 9, 10_000, 9),
        ([5000], 1000, 1),
        ([], 1000, 1),
        ([700, 50, 50], 1000, 3),
        ([790, 50, 50], 1000, 1),
    ],
)
def test_as_many_models_run_at_once_as_fit_in_four_fifths_of_the_free_memory(
    estimates: list[int], free: int, expected: int
) -> None:
    assert models_at_once([estimate * MIB for estimate in estimates], free * MIB) == expected


@given(estimates=st.lists(st.integers(1, 10**12), max_size=8), free=st.integers(0, 10**13))
def test_any_so_many_models_fit_unless_it_is_one(estimates: list[int], free: int) -> None:
    number = models_at_once(estimates, free)

    assert 1 <= number <= max(1, len(estimates))
    assert number == 1 or sum(sorted(estimates)[-number:]) <= free * 0.8
