"""Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from oneseek.engine.epochs import Evaluation
from oneseek.engine.forward import Forward
from oneseek.engine.lora import disabled
from oneseek.engine.pairs import Pair
from oneseek.events import Preference


@dataclass
class DirectPreferenceOptimisation:
    """A step's loss is the mean over its pairs.

    The base model's log-probabilities of both answers, which every loss refers to, are computed once, under the
    disabled adapter, and kept with the checkpoints.
    """

    training: Sequence[Pair]
    validation: Sequence[Pair]
    beta: float
    kind: Literal["sigmoid", "ipo"]
    label_smoothing: float
    incomparable: tuple[int, ...] = ()
    _reference: dict[int, Tensor] = field(default_factory=dict)  # id of a pair: (2,), chosen and rejected

    def usable(self, item: Pair) -> bool:
        """An answer that was cut off whole can't be preferred to another."""
        return item.chosen.supervised_tokens > 0 and item.rejected.supervised_tokens > 0

    def units(self, items: Sequence[Pair]) -> int:
        return sum(map(self.usable, items))

    def loss(self, forward: Forward, items: Sequence[Pair]) -> Tensor:
        return self._losses(self._ratios(forward, items), items).sum()

    @torch.no_grad()
    def begin(self, forward: Forward, token_budget: int) -> None:
        if self._reference:
            return
        with disabled(forward.model):
            for batch in forward.batches(self._pairs(), token_budget):
                found = log_probabilities(forward, batch).cpu()
                self._reference |= {id(pair): each for pair, each in zip(batch, found, strict=True)}

    def evaluate(self, forward: Forward, token_budget: int, excluded: Collection[int]) -> Evaluation:
        usable = [pair for pair in self.validation if self.usable(pair)]
        losses, rewards = [], []
        for batch in forward.batches(usable, token_budget):
            ratios = self._ratios(forward, batch).double()
            losses.append(self._losses(ratios, batch))
            rewards.append(self.beta * ratios)
        chosen, rejected = torch.cat(rewards).unbind(1)
        return Evaluation(
            float(torch.cat(losses).mean()),
            preference=Preference(
                reward_chosen=float(chosen.mean()),
                reward_rejected=float(rejected.mean()),
                margin=float((chosen - rejected).mean()),
                accuracy=float((chosen > rejected).double().mean()),
            ),
        )

    def state(self) -> dict[str, Tensor]:
        return {"reference": torch.stack([self._reference[id(pair)] for pair in self._pairs()])}  # (pairs, 2)

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._reference = {id(pair): each for pair, each in zip(self._pairs(), state["reference"], strict=True)}

    def _pairs(self) -> list[Pair]:
        return [pair for pair in (*self.training, *self.validation) if self.usable(pair)]

    def _ratios(self, forward: Forward, pairs: Sequence[Pair]) -> Tensor:
        """How much more likely each answer became than the base model finds it: (pairs, 2), nats."""
        reference = torch.stack([self._reference[id(pair)] for pair in pairs])
        return log_probabilities(forward, pairs) - reference.to(forward.device)

    def _losses(self, ratios: Tensor, pairs: Sequence[Pair]) -> Tensor:
        """(pairs,). IPO compares means per token, so that long answers do not weigh more (Azar et al. 2023,
        arXiv:2310.12036, equation 17); smoothing is that of Mitchell's conservative DPO (2023)."""
        if self.kind == "ipo":
            lengths = [[pair.chosen.supervised_tokens, pair.rejected.supervised_tokens] for pair in pairs]
            ratios = ratios / torch.tensor(lengths, device=ratios.device)
            return (ratios[:, 0] - ratios[:, 1] - 1 / (2 * self.beta)).square()
        margins = self.beta * (ratios[:, 0] - ratios[:, 1])
        return -logsigmoid(margins) * (1 - self.label_smoothing) - logsigmoid(-margins) * self.label_smoothing


def log_probabilities(forward: Forward, pairs: Sequence[Pair]) -> Tensor:
    """The log-probability of both answers of each pair, in nats: (pairs, 2), chosen first."""
    lengths = [answer.supervised_tokens for pair in pairs for answer in (pair.chosen, pair.rejected)]
    each = torch.split(forward.nats(pairs), lengths)
    return -torch.stack([part.sum() for part in each]).view(-1, 2)
