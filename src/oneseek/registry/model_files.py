"""The files that describe a base model, as bytes, and JSON of unknown quality in them."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

JSON_FILES = (
    "README.md",
    "config.json",
    "generation_config.json",
    "oneseek.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
)
"""The small files that are read whole."""

ProblemKind = Literal[
    "no-key",
    "no-config",
    "broken-config",
    "foreign-code",
    "unknown-type",
    "not-causal-lm",
    "quantized",
    "no-weights",
    "only-pickle",
    "broken-index",
    "missing-shard",
    "truncated-weights",
    "broken-header",
    "no-tokenizer",
    "broken-tokenizer",
    "unreadable",
    "collision",
]


class ModelProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a base model cannot be trained as it lies there, and what to do about it."""

    kind: ProblemKind
    problem: str
    fix: str


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know about a model directory without reading its weights.

    `sizes`: bytes of every file directly in it. `contents`: the bytes of those in JSON_FILES that are there.
    `headers`: the first bytes of every safetensors file, as many as `header_bytes_needed` says.
    `unreadable`: files that are there and could not be read, with the reason.
    `token_texts`: from tokenizer.json, the tokens of the ids in `token_ids_wanted`; `highest_token_id` where that was
    read. `transformers_has_it`: the installed transformers has a causal language model of the model_type; None where
    that is not known. `renamings`: how it renames the tensors of that type when it loads them, in order.
    """

    directory: str
    path: str
    sizes: dict[str, int]
    contents: dict[str, bytes]
    headers: dict[str, bytes]
    unreadable: dict[str, str]
    token_texts: dict[int, str] = {}
    highest_token_id: int | None = None
    transformers_has_it: bool | None = None
    renamings: tuple[tuple[str, str], ...] = ()


def json_object(files: ModelFiles, name: str, kind: ProblemKind, problems: list[ModelProblem]) -> dict[str, Any]:
    """A file's JSON object; {} where the file is not there, and with a problem where it is something else."""
    if name not in files.contents:
        return {}
    document = object_or_none(files.contents[name])
    if document is None:
        problems.append(
            ModelProblem(
                kind=kind, problem=f"{name} is not a JSON object.", fix=f"Copy the model's {name} again, or correct it."
            )
        )
    return document or {}


def object_or_none(data: bytes) -> dict[str, Any] | None:
    # Python's own reader, because config.json files in the wild hold Infinity, which JSON does not have.
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def text_or_none(value: Any) -> str | None:
    """Text that can be written as UTF-8: JSON escapes can spell halves of characters, which cannot."""
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value


def printable(text: str) -> str:
    """Without control characters: a name is shown in terminals."""
    return "".join(char for char in text if char.isprintable())
