"""Attention of a packed row, token by token, as its definition says: what quicker ways are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def attention_by_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scaling: float | None = None,
    window: int | None = None,
    shared: Sequence[int] = (),
) -> Tensor:
    """As `engine.varlen.attend`, in the dtype of the tensors: (1, T, heads, width)."""
    group = query.shape[1] // key.shape[1]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    k, v = (part[0].repeat_interleave(group, dim=0) for part in (key, value))  # (heads, T, width)
    found, begin, before = [], 0, 0
    for index, length in enumerate(lengths):
        prompt = range(before, before + (shared[index] if shared else 0))
        for token in range(begin, begin + length):
            seen = [*prompt, *range(begin, token + 1)]
            places = torch.tensor(seen[-window:] if window else seen, device=query.device)
            scores = (k[:, places] @ query[0, :, token, :, None])[..., 0] * scale  # (heads, seen)
            found.append((scores.softmax(dim=-1)[:, None] @ v[:, places])[:, 0])  # (heads, width)
        before, begin = begin, begin + length
    return torch.stack(found)[None]


def packed_row(
    lengths: Sequence[int], heads: int, key_heads: int, width: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Random query (1, heads, T, width), key and value (1, key heads, T, width), each with a gradient to come."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, sum(lengths), width, generator=generator).to(device, dtype).requires_grad_()
        for count in (heads, key_heads, key_heads)
    )
    return query, key, value
