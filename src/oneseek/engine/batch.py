"""Rows put together for one forward pass, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from oneseek.engine.examples import IGNORED, Example


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest. All tensors are (rows, tokens)."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """Pad examples on the right with token 0, which nothing attends to and nobody learns."""
    longest = max(len(example.input_ids) for example in examples)

    def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
        whole = [[*row, *[filler] * (longest - len(row))] for row in rows]
        return torch.tensor(whole, dtype=torch.long, device=device)  # of empty rows torch would make floats

    return Batch(
        input_ids=padded([e.input_ids for e in examples], 0),
        attention_mask=padded([[1] * len(e.input_ids) for e in examples], 0),
        labels=padded([e.labels for e in examples], IGNORED),
    )


def padded_nats(model: nn.Module, examples: Sequence[Example], device: torch.device) -> Tensor:
    """Cross-entropy in nats of every learned token given the tokens before it, in fp32: (learned,), row by row."""
    batch = collate(examples, device)
    targets = batch.labels[:, 1:]
    learned = targets != IGNORED
    predicted = logits(model, batch)[:, :-1][learned].float()  # (learned, vocab)
    return nn.functional.cross_entropy(predicted, targets[learned], reduction="none")


def logits(model: nn.Module, batch: Batch) -> Tensor:
    """(rows, tokens, vocab), in the model's dtype."""
    output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    found: Tensor = output.logits
    return found
