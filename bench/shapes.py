"""The shapes of the models that are trained, and what a step on them costs in floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama with tied embeddings; every linear layer of its decoder gets LoRA."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int = 1024

    @property
    def products(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the seven linear layers of one decoder block."""
        kv = self.hidden * self.kv_heads // self.heads
        wide = self.intermediate
        attention = [(self.hidden, self.hidden), (self.hidden, kv), (self.hidden, kv), (self.hidden, self.hidden)]
        return [*attention, (self.hidden, wide), (self.hidden, wide), (wide, self.hidden)]

    @property
    def linear_parameters(self) -> int:
        return self.layers * sum(inputs * outputs for inputs, outputs in self.products)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.hidden * (self.vocabulary + 2 * self.layers + 1)

    def lora_parameters(self, r: int) -> int:
        return self.layers * sum(r * (inputs + outputs) for inputs, outputs in self.products)

    def step_flops(self, lengths: Sequence[int], learned: int, r: int) -> int:
        """Floating-point operations that a step cannot do without, a multiplication and an addition counted as two.

        lengths: of the step's rows in tokens. learned: tokens with a label. With T tokens, frozen linear layers cost
        4 T each parameter (forward, and backward with respect to activations only), LoRA 6 T each parameter, causal
        attention 6 hidden n^2 for each layer and row of n tokens (half of the square, forward once, backward twice),
        and the head 4 hidden vocabulary for each learned token.
        """
        linear = 4 * self.linear_parameters * sum(lengths)
        lora = 6 * self.lora_parameters(r) * sum(lengths)
        attention = 6 * self.hidden * self.layers * sum(n * n for n in lengths)
        return linear + lora + attention + 4 * self.hidden * self.vocabulary * learned


TINY = Shape("tiny", hidden=256, layers=8, heads=8, kv_heads=8, intermediate=704, vocabulary=4096)
SMALL = Shape("small", hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocabulary=49152)
SIZES = (
    Shape("2M", hidden=128, layers=8, heads=4, kv_heads=4, intermediate=352, vocabulary=4096),
    TINY,
    Shape("17M", hidden=384, layers=8, heads=6, kv_heads=6, intermediate=1056, vocabulary=4096),
    Shape("40M", hidden=512, layers=12, heads=8, kv_heads=8, intermediate=1408, vocabulary=4096),
)
