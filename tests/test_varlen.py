"""What the variable-length kernel is told, with a stand-in for it that does what its documentation says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen as kernels

from oneseek.engine import varlen
from support.attention import attention_by_definition, packed_row

pytestmark = pytest.mark.engine
LENGTHS = (5, 1, 9, 4)
SHARED = (0, 1, 0, 6)


def documented(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """Attention of stretches of queries to stretches of keys, whose last tokens stand at the same place."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert enable_gqa == (query.shape[1] != key.shape[1])
    found = []
    stretches = zip(_cut(query, cu_seq_q), _cut(key, cu_seq_k), _cut(value, cu_seq_k), strict=True)
    for q, k, v in stretches:
        own = torch.arange(len(k) - len(q), len(k))[:, None]
        distance = own - torch.arange(len(k))
        left, right = (len(k) if side < 0 else side for side in window_size)
        seen = (distance >= -right) & (distance <= left)
        found.append(
            torch.nn.functional.scaled_dot_product_attention(
                q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), seen, scale=scale, enable_gqa=enable_gqa
            ).transpose(0, 1)
        )
    return torch.cat(found)


def _cut(part: Tensor, at: Tensor) -> tuple[Tensor, ...]:
    return torch.split(part, at.diff().tolist())


def documented_before(*given: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
    """torch 2.11: fewer key heads need not be announced."""
    query, key = given[:2]
    return documented(*given, scale=scale, window_size=window_size, enable_gqa=query.shape[1] != key.shape[1])


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernels, "varlen_attn", documented)
    varlen._kernel_takes.cache_clear()
    yield
    varlen._kernel_takes.cache_clear()


@pytest.mark.parametrize("shared", [(), SHARED], ids=["apart", "sharing prompts"])
@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_each_token_sees_its_own_stretch_and_what_it_shares(
    key_heads: int, window: int | None, shared: Sequence[int]
) -> None:
    row = packed_row(LENGTHS, 4, key_heads, 8, torch.float64, "cpu")
    twin = packed_row(LENGTHS, 4, key_heads, 8, torch.float64, "cpu")

    found = varlen.attend(*row, LENGTHS, 0.3, window, shared)
    expected = attention_by_definition(*twin, LENGTHS, 0.3, window, shared)

    assert found.shape == (1, sum(LENGTHS), 4, 8)
    assert torch.allclose(found, expected)
    found.square().sum().backward()  # type: ignore[no-untyped-call]
    expected.square().sum().backward()  # type: ignore[no-untyped-call]
    for part, other in zip(row, twin, strict=True):
        assert torch.allclose(part.grad, other.grad)  # type: ignore[arg-type]


def test_a_row_is_told_to_the_kernel_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    @wraps(documented)
    def listening(*given: Any, **named: Any) -> Tensor:
        told.append(given)
        return documented(*given, **named)

    monkeypatch.setattr(kernels, "varlen_attn", listening)
    row = packed_row(LENGTHS, 4, 2, 8, torch.float64, "cpu")

    for _ in range(2):
        varlen.attend(*row, [*LENGTHS], shared=[*SHARED])

    assert all(first is second for first, second in zip(told[0][3:5], told[1][3:5], strict=True))


def test_the_kernel_of_an_older_torch_is_not_told_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "varlen_attn", documented_before)
    row = packed_row(LENGTHS, 4, 2, 8, torch.float64, "cpu")

    found = varlen.attend(*row, LENGTHS, window=3)

    assert torch.allclose(found, attention_by_definition(*row, LENGTHS, window=3))


def test_the_kernel_of_the_installed_torch_takes_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    row = packed_row(LENGTHS, 4, 2, 8, torch.bfloat16, "meta")  # shapes without numbers: no GPU is needed

    found = varlen.attend(*row, LENGTHS, 0.3, 3, SHARED)
    found.sum().backward()  # type: ignore[no-untyped-call]

    assert found.shape == (1, sum(LENGTHS), 4, 8)
    assert all(part.grad is not None and part.grad.shape == part.shape for part in row)


def test_the_kernel_is_not_used_on_the_cpu() -> None:
    row = packed_row(LENGTHS, 4, 2, 64, torch.bfloat16, "cpu")

    assert not varlen.is_usable(*row)
