"""A base model from its directory: safetensors only, no code of its own, nothing made up."""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from oneseek.errors import WorkerFailed


def load_base_model(path: Path, dtype: torch.dtype) -> nn.Module:
    """The causal language model of a directory, on the CPU, from safetensors only, without running any of its code.

    Raises:
        WorkerFailed: it can't be loaded, or its files lack a weight (which transformers would draw at random).
        RuntimeError, MemoryError: memory ran out; `is_out_of_memory` tells.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except ImportError as error:  # a quantised model, as its config.json says, needs the library that packed it
        raise _unloadable(path, error, "Select a model that is not quantised, or install what is named.") from error
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        if is_out_of_memory(error):
            raise
        raise _unloadable(path, error, "Download or convert it again.") from error
    missing = sorted(str(name) for name in {*loading["missing_keys"], *loading["mismatched_keys"]})
    if missing:
        raise WorkerFailed(
            "refused",
            f"{path} lacks {len(missing)} weights that its config.json asks for, the first being {missing[0]}.",
            "Download it again.",
        )
    module: nn.Module = model
    return module


def is_out_of_memory(error: BaseException) -> bool:
    """torch says in three ways that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def _unloadable(path: Path, error: Exception, fix: str) -> WorkerFailed:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return WorkerFailed("refused", f"{path} can't be loaded: {reason}", fix)
