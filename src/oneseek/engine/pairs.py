"""Preference rows as pairs of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oneseek.datasets.tokens import IGNORED, Encoder, Example
from oneseek.engine.examples import NumberedRow, encode_rows


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt. They have their first `shared` tokens in common, none of which is learned."""

    chosen: Example
    rejected: Example
    shared: int


def encode_pairs(encoder: Encoder, rows: Sequence[NumberedRow], dataset: str) -> list[Pair]:
    """The pairs of a dataset's rows, in their order; out of the encoder's cache where they are there.

    Raises:
        WorkerFailed: the model's template refuses a row; its line is named.
    """
    answers = encode_rows(encoder, rows, dataset)
    return [
        Pair(chosen, rejected, _shared(chosen, rejected))
        for chosen, rejected in zip(answers[::2], answers[1::2], strict=True)
    ]


def _shared(chosen: Example, rejected: Example) -> int:
    """How many tokens from the first one on are equal in both and learned in neither."""
    shorter = min(len(chosen.input_ids), len(rejected.input_ids))
    parts = chosen.input_ids[:shorter] != rejected.input_ids[:shorter]
    for example in (chosen, rejected):
        parts = parts | (example.labels[:shorter] != IGNORED)
    return int(parts.argmax()) if parts.any() else shorter
