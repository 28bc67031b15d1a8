"""Check 7: each verified model's adapter is whole, is the one that was verified, and does what was asked for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import msgspec
import numpy as np

from oneseek.certificate.checks.evidence import Evidence
from oneseek.certificate.checks.weights import feed, weights_file
from oneseek.certificate.contents import ADAPTER_CONFIG
from oneseek.certificate.tensors import Tensor
from oneseek.errors import CertificateInvalid
from oneseek.events import SelectedModel
from oneseek.events.state import RunState
from oneseek.files.durable import sha256_bytes
from oneseek.registry.discover import MAX_SMALL_FILE
from oneseek.registry.model_files import ModelFiles, object_or_none
from oneseek.registry.tokenizer import chat_template, special_tokens, token_ids_wanted
from oneseek.registry.vocabulary import parse_vocabulary

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

_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_MOST_GUESSES = 1_000_000
_LONGEST_TOKEN = 100  # characters of one that ends or begins a text
_NORM = 1e-3
"""How far the norm may be, relatively, from that which the machine computed that trained it."""

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
        _check_tokenizer(evidence, {model.key: model for model in state.accepted.models}[key])
    return f"{', '.join(state.verified)}: whole, finite, not zero, and as verified; tokenizers of the base models"


def _check_tensors(name: str, tensors: Iterable[Tensor], state: RunState, key: str) -> None:
    """One tensor at a time, so that no more than that is in memory."""
    shapes: dict[str, tuple[int, ...]] = {}
    digest, square = hashlib.sha256(), 0.0
    for tensor, dtype, shape, data in tensors:
        shapes[tensor] = tuple(shape)
        numbers = _numbers(name, tensor, dtype, data)
        if not np.isfinite(numbers).all():
            raise CertificateInvalid(f"{name}: {tensor} holds a number that is not finite.")
        if tensor.endswith(_B):
            square += float(np.square(numbers, dtype=np.float64).sum())
        feed(digest, (tensor, dtype, shape, data))
    for tensor, shape in shapes.items():
        if len(shape) != 2 or not _is_paired(tensor, shapes, _asked(state, key)["r"]):
            raise CertificateInvalid(f"{name}: {tensor} {list(shape)} is no half of a LoRA pair.")
    if not square:
        raise CertificateInvalid(f"{name}: LoRA B is zero, so that the adapter does nothing.")
    verified = state.verified[key]
    if (found := digest.hexdigest()) != (meant := verified.tensors_sha256):
        raise CertificateInvalid(f"{name}: the digest of its tensors is {found}; {meant} was verified.")
    if not math.isclose(norm := math.sqrt(square), verified.lora_b_norm, rel_tol=_NORM):
        raise CertificateInvalid(f"{name}: the norm of LoRA B is {norm}; {verified.lora_b_norm} was verified.")


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


def _check_tokenizer(evidence: Evidence, model: SelectedModel) -> None:
    """What makes a text of a conversation, and tokens of a text, is the base model's own, and names no code."""
    folder, directory = f"adapters/{model.key}", evidence.directory
    contents = {
        name: directory.read(f"{folder}/{name}")
        for name in (*_TEMPLATES, "tokenizer_config.json", "special_tokens_map.json")
        if f"{folder}/{name}" in directory.files
    }
    for name, data in contents.items():
        if "auto_map" in (object_or_none(data) or {}):
            raise CertificateInvalid(f"{folder}/{name}: auto_map names Python code, which no run uses.")
    template = chat_template(contents)
    if model.template_sha256 is None:
        for name in _TEMPLATES:
            if contents.get(name, b"").strip():
                raise CertificateInvalid(f"{folder}/{name}: by the journal, the base model has no chat template.")
    if model.template_sha256 != (None if template is None else sha256_bytes(template.encode())):
        raise CertificateInvalid(f"{folder}: its chat template is not that of the base model.")
    start = f"{directory.sha256(f'{folder}/tokenizer.json')}  tokenizer.json\n"
    for tokens in _special_tokens(evidence, f"{folder}/tokenizer.json", contents):
        text = start.encode() + msgspec.json.encode(tokens, order="sorted")
        if sha256_bytes(text) == model.tokenizer_sha256:
            return
    raise CertificateInvalid(f"{folder}: its tokenizer is not that of the base model.")


def _special_tokens(evidence: Evidence, tokenizer: str, contents: Mapping[str, bytes]) -> Iterator[dict[str, str]]:
    """What the special tokens of the base model may be. As a rule the files name them all. What they leave out, the
    base model's configuration may name by its id, which is not here: so it is no token, or any of the vocabulary."""
    files = ModelFiles(
        directory="", path="", sizes={}, contents=dict(contents), headers={}, unreadable={}, token_texts={}
    )
    named = special_tokens(files, [])
    yield named
    unnamed = token_ids_wanted({**contents, "config.json": json.dumps({"eos_token_id": 0, "bos_token_id": 0}).encode()})
    if not unnamed or evidence.directory.files.get(tokenizer, 0) > MAX_SMALL_FILE:
        return
    vocabulary = parse_vocabulary(b"".join(evidence.directory.blocks(tokenizer)))
    if vocabulary is None:
        return
    added = [token.content for token in vocabulary.added_tokens]
    # A pair is looked for among all tokens only where they are few: special tokens are nearly always added ones.
    every = [*added, *(text if isinstance(text, str) else text[0] for text in vocabulary.model.vocab)]
    likely = every if len(every) ** len(unnamed) <= _MOST_GUESSES else added
    texts = [text for text in dict.fromkeys(likely) if len(text) <= _LONGEST_TOKEN]
    if len(texts) ** len(unnamed) > _MOST_GUESSES:
        return
    for chosen in product([None, *texts], repeat=len(unnamed)):
        yield {**{token: text for token, text in zip(unnamed, chosen, strict=True) if text}, **named}


def _asked(state: RunState, key: str) -> dict[str, Any]:
    """The settings of a model's adapter, as they stand in the journal."""
    override = state.config["per_model"].get(key, {})
    return {**state.config["lora"], **override.get("lora", {})}
