"""The export of a trained adapter: what lies in it, and when it counts as verified. The same for both engines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import safetensors

from oneseek.certificate.contents import ADAPTER_CONFIG, ADAPTER_WEIGHTS, TOKENIZER_FILES
from oneseek.certificate.tensors import Tensor, tensors_digest
from oneseek.engine.interface import Exported
from oneseek.errors import WorkerFailed
from oneseek.files.durable import write_directory

PREFIX = "base_model.model."  # PEFT writes the model as it sees it, wrapped twice
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"


def adapter_path(directory: Path) -> Path:
    """The adapter in PEFT's format, in a trainer's own `directory`."""
    return directory / "export" / "adapter"


def weights_path(directory: Path) -> Path:
    """The same tensors in torch's own format."""
    return directory / "export" / "weights.pth"


def write(directory: Path, *, adapter: bytes, weights: bytes, config: bytes, model_path: Path) -> None:
    """Write `export/` whole, with the base model's tokenizer and chat template beside the adapter.

    Raises:
        StorageError: it could not be written.
    """
    files = {f"adapter/{ADAPTER_CONFIG}": config, f"adapter/{ADAPTER_WEIGHTS}": adapter}
    for name in TOKENIZER_FILES:
        if (model_path / name).is_file():
            files[f"adapter/{name}"] = _without_code((model_path / name).read_bytes(), name)
    write_directory(directory / "export", {**files, "weights.pth": weights})


def _without_code(data: bytes, name: str) -> bytes:
    """A tokenizer's file as an adapter carries it. `auto_map` names code of the base model, which does not go along."""
    if name != "tokenizer_config.json" or b'"auto_map"' not in data:
        return data
    config = json.loads(data)
    config.pop("auto_map", None)
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


def read_adapter(directory: Path) -> bytes:
    """The adapter's tensors as they lie on disk."""
    return (adapter_path(directory) / ADAPTER_WEIGHTS).read_bytes()


def verified(epoch: int, adapter: bytes, lora_b_norm: float, output_difference: float) -> Exported:
    """What was exported, if it does anything.

    adapter: the safetensors file as read back; its digest is over these tensors.

    Raises:
        WorkerFailed: LoRA B is zero or not finite, or the adapter changes no output.
    """
    for name, value in (("The L2 norm of LoRA B", lora_b_norm), ("The difference to the base", output_difference)):
        if not (math.isfinite(value) and value > 0):
            raise WorkerFailed(
                "refused",
                f"The adapter of epoch {epoch} does nothing: {name[0].lower()}{name[1:]} is {value}.",
                "Raise training.learning_rate or training.num_epochs.",
            )
    return Exported(
        epoch=epoch,
        tensors_sha256=tensors_digest(_tensors(adapter)),
        lora_b_norm=lora_b_norm,
        output_difference=output_difference,
    )


def _tensors(adapter: bytes) -> Iterator[Tensor]:
    for name, tensor in safetensors.deserialize(adapter):  # type: ignore[no-untyped-call]
        yield name, tensor["dtype"], tensor["shape"], bytes(tensor["data"])
