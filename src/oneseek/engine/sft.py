"""Supervised fine-tuning: the cross-entropy of the learned tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oneseek.datasets.tokens import Example
from oneseek.engine.epochs import Evaluation
from oneseek.engine.forward import Forward, learned


@dataclass(frozen=True)
class SupervisedFineTuning:
    """A step's loss is the sum of the cross-entropies of its learned tokens over their number, however it is cut into
    batches."""

    training: Sequence[Example]
    validation: Sequence[Example]

    def usable(self, item: Example) -> bool:
        return item.supervised_tokens > 0

    def units(self, items: Sequence[Example]) -> int:
        return learned(items)

    def loss(self, forward: Forward, items: Sequence[Example]) -> Tensor:
        return forward.nats(items).sum()

    def begin(self, forward: Forward, token_budget: int) -> None:
        """Nothing is needed before."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to set."""

    @property
    def incomparable(self) -> tuple[int, ...]:
        return tuple(index for index, example in enumerate(self.validation) if not _comparable(example))

    def evaluate(self, forward: Forward, token_budget: int, excluded: Collection[int]) -> Evaluation:
        """Nats per learned token, and bits per byte of the answers; None where no row is left to tell them of."""
        usable = [example for example in self.validation if self.usable(example)]
        nats = torch.cat([forward.nats(batch).double().cpu() for batch in forward.batches(usable, token_budget)])
        left_out = {*excluded, *self.incomparable}
        counted = {id(example): index not in left_out for index, example in enumerate(self.validation)}
        answers = [counted[id(example)] and mark for example in usable for mark in example.learned_answer_marks]
        answer_nats = float(nats[torch.tensor(answers)].sum())
        answer_bytes = sum(example.answer_bytes for example in self.validation if counted[id(example)])
        bits_per_byte = answer_nats / (math.log(2) * answer_bytes) if answer_bytes else None
        return Evaluation(float(nats.sum()) / len(nats), bits_per_byte)


def _comparable(example: Example) -> bool:
    """Whether the whole answers of a row are there to be counted in bytes."""
    return not example.truncated and example.answer_bytes > 0
