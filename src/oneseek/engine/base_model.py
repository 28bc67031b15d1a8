"""A base model from its directory: safetensors only, no code of its own, nothing made up."""

from __future__ import annotations

from pathlib import Path

import safetensors
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForCausalLM

from oneseek.engine.out_of_memory import is_out_of_memory
from oneseek.engine.quantization import Quantization, loading_options, multiply_whole
from oneseek.errors import WorkerFailed

_INSTALL = "Run pip install 'oneseek[quantization]'."


def load_base_model(path: Path, dtype: torch.dtype, quantization: Quantization | None = None) -> nn.Module:
    """The causal language model of a directory, from safetensors only, without running any of its code.

    It is on the CPU; a quantised one on the device that computes, with each linear layer but the head a
    `QuantizedLinear`.

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
            **(loading_options(quantization, dtype) if quantization else {}),
        )
    except ImportError as error:  # what packs a model now, or packed it as its config.json says
        fix = _INSTALL if quantization else "Select a model that is not quantised, or install what is named."
        raise _unloadable(path, error, fix) from error
    except (OSError, ValueError, KeyError, RuntimeError, StrictDataclassError, safetensors.SafetensorError) as error:
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
    if quantization:
        multiply_whole(module, dtype)
    return module


def _unloadable(path: Path, error: Exception, fix: str) -> WorkerFailed:
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return WorkerFailed("refused", f"{path} can't be loaded: {reason}", fix)
