"""How the learning rate rises and falls over a training. Pure arithmetic."""

from __future__ import annotations

import math
from typing import Literal

Kind = Literal["linear", "cosine", "constant"]


def warmup_steps(total: int, ratio: float) -> int:
    """Optimiser steps of the warm-up: the share `ratio` of `total`, rounded up.

    The product of two floats may lie a hair above the whole number that was meant (0.07 of 100 is not 8).
    """
    return min(total, math.ceil(ratio * total - 1e-9))


def schedule_factor(step: int, total: int, warmup: int, kind: Kind) -> float:
    """What the learning rate is multiplied by at optimiser step `step` (from 0) of `total`; in (0, 1].

    Rises in a line from 1/warmup to 1 over `warmup` steps. Then it falls in a line that would reach zero at step
    `total`, or along half a cosine that does (Loshchilov and Hutter 2017, without restarts), or stays.
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "constant":
        return 1.0
    done = (step - warmup) / (total - warmup)
    return 1.0 - done if kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
