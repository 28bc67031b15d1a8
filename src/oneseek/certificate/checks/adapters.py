"""Check 7: each verified model's adapter is whole, is the one that was verified, and does what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from oneseek.certificate.checks.evidence import Evidence
from oneseek.certificate.checks.weights import weights_file
from oneseek.certificate.contents import ADAPTER_CONFIG
from oneseek.certificate.tensors import Tensor, tensors_digest
from oneseek.errors import CertificateInvalid
from oneseek.events.state import RunState

_A, _B = ".lora_A.weight", ".lora_B.weight"
_ALWAYS: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False, True),
    "inference_mode": (True,),
    "init_lora_weights": (True,),
    "modules_to_save": (None,),
    "use_dora": (False,),
}
"""Fields of adapter_config.json that no setting decides, and what they may be: others could change what it does."""

_NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def check_adapters(evidence: Evidence) -> str:
    """Exactly the verified models have one, and each is what the journal says."""
    state = evidence.finished[0]
    there = {name.split("/")[1] for name in evidence.directory.files if name.startswith("adapters/")}
    for key in sorted(there ^ state.verified.keys()):
        raise CertificateInvalid(f"adapters/{key} is {'not that of a verified model' if key in there else 'missing'}.")
    for key in state.verified:
        _check_tensors(weights_file(key), evidence.read_tensors(key), state, key)
        _check_config(evidence, state, key)
    return f"{', '.join(state.verified)}: whole, finite, not zero, and as verified"


def _check_tensors(name: str, tensors: list[Tensor], state: RunState, key: str) -> None:
    shapes = {tensor: tuple(shape) for tensor, _, shape, _ in tensors}
    for tensor, shape in shapes.items():
        if len(shape) != 2 or not _is_paired(tensor, shapes, _asked(state, key)["r"]):
            raise CertificateInvalid(f"{name}: {tensor} {list(shape)} is no half of a LoRA pair.")
    values = {tensor: _numbers(name, tensor, dtype, data) for tensor, dtype, _, data in tensors}
    for tensor, numbers in values.items():
        if not np.isfinite(numbers).all():
            raise CertificateInvalid(f"{name}: {tensor} holds a number that is not finite.")
    if not any(numbers.any() for tensor, numbers in values.items() if tensor.endswith(_B)):
        raise CertificateInvalid(f"{name}: LoRA B is zero, so that the adapter does nothing.")
    if (found := tensors_digest(tensors)) != (verified := state.verified[key].tensors_sha256):
        raise CertificateInvalid(f"{name}: the digest of its tensors is {found}; {verified} was verified.")


def _is_paired(name: str, shapes: Mapping[str, tuple[int, ...]], r: int) -> bool:
    """Whether it is (r, in) with a B beside it, or (out, r) with an A."""
    if name.endswith(_A):
        return shapes[name][0] == r and name.removesuffix(_A) + _B in shapes
    return name.endswith(_B) and shapes[name][1] == r and name.removesuffix(_B) + _A in shapes


def _numbers(name: str, tensor: str, dtype: str, data: bytes) -> Any:
    if dtype not in _NUMBERS:
        raise CertificateInvalid(f"{name}: {tensor} is of the type {dtype}, which no adapter of a run has.")
    return np.frombuffer(data, dtype=_NUMBERS[dtype])


def _check_config(evidence: Evidence, state: RunState, key: str) -> None:
    name = f"adapters/{key}/{ADAPTER_CONFIG}"
    model = {model.key: model for model in state.accepted.models}[key]
    lora, said = _asked(state, key), evidence.read_document(name)
    asked = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.hub_id or model.path,
        **({} if model.revision is None else {"revision": model.revision}),
        "r": lora["r"],
        "lora_alpha": lora["alpha"],
        "lora_dropout": lora["dropout"],
        "use_rslora": lora["use_rslora"],
        "target_modules": sorted(model.target_modules),
    }
    for field in {**asked, **said}:
        if field in asked and said.get(field) != asked[field]:
            raise CertificateInvalid(f"{name}: {field} is {said.get(field)!r}; by the journal it is {asked[field]!r}.")
        if field not in asked and said[field] not in _ALWAYS.get(field, ()):
            raise CertificateInvalid(f"{name}: {field} is {said[field]!r}, which no adapter of a run has.")


def _asked(state: RunState, key: str) -> dict[str, Any]:
    """The settings of a model's adapter, as they stand in the journal."""
    override = state.config["per_model"].get(key, {})
    return {**state.config["lora"], **override.get("lora", {})}
