"""Examples side by side in one row: no padding, and none sees another.

The linear layers get one long row; attention is called once per example, on its own part of it; the head is applied
where a token is learned, and nowhere else. transformers lets a model's attention function be replaced, so that no
architecture is rewritten here. Whether a model can be packed is found by trying (`try_packing`), not by a list: one
that keeps a state along the row (state-space layers), makes positions of its own (ALiBi), or does with its attention
what our function does not, gives other numbers, and takes the padded path.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from oneseek.engine.base_model import is_out_of_memory
from oneseek.engine.batch import padded_nats
from oneseek.engine.examples import IGNORED, Example
from oneseek.engine.head import head_nats

PACKED = "oneseek_packed"
_TOLERANCE = 1e-3  # nats; what another order of summing in fp32 makes is a hundred times less
_WHAT_MODELS_RAISE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)

_row = threading.local()  # the lengths of the examples in the row that is being computed


@dataclass(frozen=True)
class Packing:
    """A model that is computed on packed rows. `head` is its output layer where that is all that follows its hidden
    states; None where the model does more with its logits (scales or caps them) and must make them itself."""

    model: Any
    head: nn.Linear | None

    def nats(self, examples: Sequence[Example], device: torch.device) -> Tensor:
        """As `batch.padded_nats`: cross-entropy of every learned token in nats, (learned,), example by example."""
        lengths = [len(example.input_ids) for example in examples]
        ids = torch.tensor([token for example in examples for token in example.input_ids], device=device)
        labels = torch.tensor([label for example in examples for label in example.labels], device=device)
        places = torch.cat([torch.arange(length, device=device) for length in lengths])
        learned = (labels != IGNORED).nonzero()[:, 0]  # the first token of an example never is
        # A mask of real tokens, or a cache, would make transformers join what we keep apart.
        inputs = {"input_ids": ids[None], "position_ids": places[None], "attention_mask": None, "use_cache": False}
        with _row_of(lengths):
            if self.head is not None:
                hidden = self.model.base_model(**inputs)[0][0, learned - 1]  # (learned, width)
                return head_nats(hidden, self.head.weight, self.head.bias, labels[learned])
            if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
                logits = self.model(**inputs, logits_to_keep=learned - 1).logits[0]  # (learned, vocab)
            else:
                logits = self.model(**inputs).logits[0, learned - 1]
        return nn.functional.cross_entropy(logits.float(), labels[learned], reduction="none")


def try_packing(model: Any, examples: Sequence[Example], device: torch.device) -> Packing | None:
    """The way of packing that gives this model the same losses, or None; the model is left with that attention.

    Tried on the longest example and two others: their losses must be those of each alone, and those of the others must
    be the same bits when the longest is replaced.

    examples: what the model will be trained on, at least one with a learned token.
    """
    by_length = sorted((e for e in examples if e.supervised_tokens), key=lambda example: -len(example.input_ids))
    probes = [by_length[0], by_length[-1], by_length[len(by_length) // 2]]
    own = model.config._attn_implementation
    model.eval()
    with torch.no_grad():
        alone = torch.cat([padded_nats(model, [probe], device) for probe in probes])
        head = model.get_output_embeddings()
        heads = [head, None] if type(head) is nn.Linear else [None]
        for packing in (Packing(model, head) for head in heads):
            try:
                model.set_attn_implementation(PACKED)
                if _agrees(packing, probes, alone, device):
                    return packing
            except _WHAT_MODELS_RAISE as error:  # a way that it can't be computed is a no, whatever it says
                if is_out_of_memory(error):
                    raise
        model.set_attn_implementation(own)
    return None


def _agrees(packing: Packing, probes: Sequence[Example], alone: Tensor, device: torch.device) -> bool:
    together = packing.nats(probes, device)
    if not torch.allclose(alone, together, rtol=0, atol=_TOLERANCE):
        return False
    other = replace(probes[0], input_ids=probes[0].input_ids[::-1])
    first = probes[0].supervised_tokens
    return torch.equal(together[first:], packing.nats([other, *probes[1:]], device)[first:])


@contextmanager
def _row_of(lengths: list[int]) -> Iterator[None]:
    _row.lengths = lengths
    try:
        yield
    finally:
        del _row.lengths


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface for a packed row of T tokens.

    query (1, heads, T, width), key and value (1, key heads, T, width); returns (1, T, heads, width).
    """
    if softcap is not None or s_aux is not None:
        raise NotImplementedError("capped scores and attention sinks are not computed here")
    parts = [torch.split(part, _row.lengths, dim=2) for part in (query, key, value)]
    attended = []
    for q, k, v in zip(*parts, strict=True):
        window = None if sliding_window is None or q.shape[2] <= sliding_window else sliding_window
        attended.append(
            nn.functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=_band(q.shape[2], window, q.device) if window else None,
                dropout_p=dropout,
                is_causal=window is None,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        )
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _band(length: int, window: int, device: torch.device) -> Tensor:
    """(length, length): each token sees itself and the `window` - 1 before it."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    return (distance >= 0) & (distance < window)


def _no_mask(*_: Any, **__: Any) -> None:
    """The examples are kept apart by calling attention once for each."""


AttentionInterface.register(PACKED, _attend)
AttentionMaskInterface.register(PACKED, _no_mask)
