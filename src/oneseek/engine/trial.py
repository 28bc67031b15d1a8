"""How a base model would be computed, found out by loading it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from oneseek.datasets.tokens import IGNORED, Example
from oneseek.engine.base_model import load_base_model
from oneseek.engine.forward import choose_forward
from oneseek.engine.interface import Computed
from oneseek.engine.out_of_memory import naming_memory

_LENGTHS = (40, 7, 23)  # tokens; every model's context holds them


@naming_memory
def computed(model_path: Path) -> Computed:
    """What a training would choose for this model.

    Raises:
        WorkerFailed: it can't be loaded, or memory ran out.
    """
    model = load_base_model(model_path, torch.float32)
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    items = [_example(length, vocabulary) for length in _LENGTHS]
    return choose_forward(model, items, torch.device("cpu")).computed


def _example(length: int, vocabulary: int) -> Example:
    """Tokens drawn at random, the second half of them learned."""
    ids = np.random.default_rng(length).integers(vocabulary, size=length, dtype=np.int32)
    labels = np.where(np.arange(length) < length // 2, IGNORED, ids).astype(np.int32)
    return Example(ids, labels, np.zeros(length, dtype=np.bool_), answer_bytes=0, truncated=False)
