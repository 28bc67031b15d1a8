"""Attention inside each stretch of a packed row in one call, on GPUs that FlashAttention 2 (Dao 2023,
arXiv:2307.08691) runs on. One call per stretch, as CPUs are given, would keep a GPU waiting for the next."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor


def is_usable(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend` can be called: bf16 or fp16 on a GPU from NVIDIA's Ampere on, with heads that the kernel takes.

    torch knows its kernel's limits, the backward pass's among them. It pads a head's width to a multiple of 8 for other
    callers, but not for this one.
    """
    grouped = query.shape[1] != key.shape[1]
    asked = torch.backends.cuda.SDPAParams(query, key, value, None, 0.0, True, grouped)
    fits = query.shape[3] % 8 == 0 and torch.backends.cuda.can_use_flash_attention(asked)
    return fits and _kernel_takes("window_size")


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scaling: float | None = None,
    window: int | None = None,
    shared: Sequence[int] = (),
) -> Tensor:
    """Causal attention of T tokens that stand side by side in stretches of `lengths`, each for itself: (1, T, heads,
    width).

    query: (1, heads, T, width); key, value: (1, key heads, T, width), with heads a multiple of key heads.
    scaling: of the scores; 1 / sqrt(width) when None.
    window: how many tokens each sees at most, itself included.
    shared: for each stretch, how many first tokens of the stretch before it are seen as if they stood before its own.
    """
    from torch.nn.attention.varlen import varlen_attn

    row = _row(tuple(lengths), tuple(shared), query.device)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (T, heads, width)
    if row.seen is not None:
        k, v = k.index_select(0, row.seen), v.index_select(0, row.seen)
    grouped: dict[str, Any] = {"enable_gqa": q.shape[1] != k.shape[1]} if _kernel_takes("enable_gqa") else {}
    found: Any = varlen_attn(
        q,
        k,
        v,
        row.asking,
        row.asked,
        row.longest_asking,
        row.longest_asked,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),  # tokens to the left and right of one's own
        **grouped,
    )
    attended: Tensor = found[None]
    return attended


@cache
def _kernel_takes(setting: str) -> bool:
    """Scale and window came with torch 2.11. With 2.12 fewer key heads, which it always took, had to be announced."""
    from torch.nn.attention.varlen import varlen_attn

    return setting in inspect.signature(varlen_attn).parameters


class _Row(NamedTuple):
    """What the kernel is told of a row. `seen` are the places of the keys, where they are not each token's own.

    asking, asked: (stretches + 1,), int32, where each stretch of queries and of keys begins, and where the last ends.
    """

    asking: Tensor
    asked: Tensor
    longest_asking: int
    longest_asked: int
    seen: Tensor | None


@lru_cache(maxsize=2)  # all layers ask about the same row, and each copy to a GPU waits for it
def _row(lengths: tuple[int, ...], shared: tuple[int, ...], device: torch.device) -> _Row:
    begins = [0, *accumulate(lengths)]
    asking = torch.tensor(begins, dtype=torch.int32, device=device)
    if not any(shared):
        return _Row(asking, asking, max(lengths), max(lengths), None)
    seen: list[int] = []
    asked = [0]
    for index, count in enumerate(shared):
        if count:
            seen += range(begins[index - 1], begins[index - 1] + count)
        seen += range(begins[index], begins[index + 1])
        asked.append(len(seen))
    return _Row(
        asking,
        torch.tensor(asked, dtype=torch.int32, device=device),
        max(lengths),
        max(length + count for length, count in zip(lengths, shared, strict=True)),
        torch.tensor(seen, device=device),
    )
