"""Everything that is drawn: which row comes when, and the seeds of what else is random."""

from __future__ import annotations

import hashlib

import torch


def row_order(seed: int, epoch: int, count: int) -> list[int]:
    """The order in which epoch `epoch` (from 1) takes the training rows: indices 0 to `count` - 1."""
    generator = torch.Generator().manual_seed(draw(seed, epoch, "order"))
    return torch.randperm(count, generator=generator).tolist()


def draw(seed: int, epoch: int, purpose: str) -> int:
    """A seed of its own for every epoch and purpose: neighbouring seeds and epochs share no stream."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # torch takes 63 bits without a sign
