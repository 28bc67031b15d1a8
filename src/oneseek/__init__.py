"""OneSeek: one LoRA adapter per selected base model, trained side by side on the same rows.

import oneseek

result = oneseek.train(dataset="rows.jsonl", base_models=["mistral-7b", "llama-2-7b"])
print(result.champion, result.certified_dir)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "find_runs", "generate", "resume", "train", "validate", "verify"]

if TYPE_CHECKING:
    from oneseek.api import find_runs, generate, resume, train, validate, verify


def __getattr__(name: str) -> Any:
    """`import oneseek` stays quick: the rest is imported when it is used."""
    if name in __all__:
        from oneseek import api

        return getattr(api, name)
    raise AttributeError(f"module 'oneseek' has no attribute {name!r}")
