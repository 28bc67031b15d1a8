"""What a training method makes of its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from oneseek.datasets.tokens import Example
from oneseek.engine.epochs import Evaluation
from oneseek.engine.forward import Forward
from oneseek.engine.pairs import Pair

T = TypeVar("T", Example, Pair)


class Objective(Protocol, Generic[T]):
    """A loss over items: examples, or pairs of them. What it returns as losses are sums over units, in nats."""

    @property
    def training(self) -> Sequence[T]: ...
    @property
    def validation(self) -> Sequence[T]: ...
    @property
    def incomparable(self) -> tuple[int, ...]:
        """Validation items of which no bits per byte can be told."""

    def usable(self, item: T) -> bool:
        """Whether there is something to learn in an item."""

    def units(self, items: Sequence[T]) -> int:
        """What a step's loss is the mean over: learned tokens, or pairs."""

    def begin(self, forward: Forward, token_budget: int) -> None:
        """Compute what is needed once, before anything is trained."""

    def loss(self, forward: Forward, items: Sequence[T]) -> Tensor:
        """The sum of the losses of items that are usable, a scalar with a gradient."""

    def evaluate(self, forward: Forward, token_budget: int, excluded: Collection[int]) -> Evaluation:
        """Over the validation items. excluded: those that bits per byte leaves out."""

    def state(self) -> dict[str, Tensor]:
        """What `begin` computed, to be kept with checkpoints."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set what `state` gave."""
