"""Base models on disk: find their directories, read what describes them (never the weights), take their digests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import msgspec

from oneseek.errors import ModelError
from oneseek.files.durable import sha256_bytes, sha256_file
from oneseek.names import SLUG, collisions
from oneseek.registry.capabilities import ModelInfo, model_info, type_that_brings_code, with_problem
from oneseek.registry.model_files import JSON_FILES, ModelFiles, ModelProblem
from oneseek.registry.safetensors import PROBE_BYTES, header_bytes_needed
from oneseek.registry.tokenizer import token_ids_wanted
from oneseek.registry.vocabulary import Vocabulary, parse_vocabulary

_SPECIAL = (SLUG, "oneseek-certified")
_MARKS = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_WEIGHT_ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")
# Templates of tens of kilobytes and shard indices of a few megabytes exist; nothing read whole comes near this.
_MAX_SMALL_FILE = 64 * 2**20


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """The base models found, by key; `collisions` are keys that several directories have, with their paths."""

    models: tuple[ModelInfo, ...]
    collisions: dict[str, list[str]]


class ModelDigests(msgspec.Struct, frozen=True, kw_only=True):
    """SHA-256 in hex. `weights_sha256` is over the lines that `sha256sum *.safetensors` prints, in byte order of names;
    `tokenizer_sha256` over that line of tokenizer.json and the special tokens that apply, as sorted JSON, wherever they
    are written; the others over config.json and the text of the chat template that applies."""

    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    template_sha256: str | None


def discover(models_dir: Path) -> Discovery:
    """Every base model in `models_dir/oneseek-7b-zero/base_models/` and in `models_dir/` itself.

    Left out: oneseek-7b-zero and oneseek-certified, links, names that begin with a dot or end in .tmp, and directories
    without any file of a model.
    Raises:
        ModelError: one of the two directories is there and cannot be listed.
    """
    places = [*_directories(models_dir / SLUG / "base_models"), *_directories(models_dir)]
    models = sorted((describe(path) for path in places), key=lambda info: (info.key, info.path))
    paths: dict[str, list[str]] = defaultdict(list)
    for info in models:
        paths[info.key].append(info.path)
    clashes = collisions(paths)
    return Discovery(
        models=tuple(
            with_problem(info, _collision(info, clashes[info.key])) if info.key in clashes else info for info in models
        ),
        collisions=clashes,
    )


def describe(path: Path) -> ModelInfo:
    """The base model in one directory. Never raises for a bad model: what is wrong is in its `problems`."""
    return model_info(read_model_files(path))


def digests(path: Path) -> ModelDigests:
    """What the recipe records of a base model. Reads every byte of its weights, in blocks.

    Raises:
        ModelError: a file that it needs is missing or cannot be read.
    """
    names = sorted((file.name for file in path.glob("*.safetensors")), key=os.fsencode)
    if not names:
        raise ModelError(f"{path} has no safetensors file.", "Put the model's safetensors files into the directory.")
    try:
        lines = [f"{sha256_file(path / name)}  {name}\n" for name in names]
        info = describe(path)
        template, tokens = info.chat_template, msgspec.json.encode(info.special_tokens, order="sorted").decode()
        return ModelDigests(
            weights_sha256=hashlib.sha256(os.fsencode("".join(lines))).hexdigest(),
            config_sha256=sha256_file(path / "config.json"),
            tokenizer_sha256=sha256_bytes(f"{sha256_file(path / 'tokenizer.json')}  tokenizer.json\n{tokens}".encode()),
            template_sha256=None if template is None else sha256_bytes(template.encode()),
        )
    except OSError as error:
        raise ModelError(
            f"{error.filename or path} cannot be read: {error.strerror or error}.",
            "Make sure that the file is there and readable.",
        ) from error


def read_model_files(path: Path) -> ModelFiles:
    """Names, sizes and the describing bytes of a model directory: of a safetensors file only its header."""
    sizes: dict[str, int] = {}
    contents: dict[str, bytes] = {}
    headers: dict[str, bytes] = {}
    unreadable: dict[str, str] = {}
    try:
        files = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        files, unreadable[path.name] = [], error.strerror or str(error)
    for file in files:
        try:
            sizes[file.name] = file.stat().st_size
            if file.name.endswith(".safetensors"):
                headers[file.name] = _header(file, sizes[file.name])
            elif file.name in JSON_FILES and sizes[file.name] > _MAX_SMALL_FILE:
                unreadable[file.name] = f"it is {sizes[file.name]:,} bytes, and should be a small file"
            elif file.name in JSON_FILES:
                contents[file.name] = file.read_bytes()
        except OSError as error:
            unreadable[file.name] = error.strerror or str(error)
    absolute = path.absolute()
    brings_code = type_that_brings_code(contents)
    ids = token_ids_wanted(contents)
    vocabulary = read_vocabulary(absolute / "tokenizer.json") if ids else None
    texts = {number: vocabulary.text_of(number) for number in ids.values()} if vocabulary else {}
    return ModelFiles(
        directory=absolute.name,
        path=str(absolute),
        sizes=sizes,
        contents=contents,
        headers=headers,
        unreadable=unreadable,
        token_texts={number: text for number, text in texts.items() if text is not None},
        highest_token_id=vocabulary.highest_id if vocabulary else None,
        transformers_has_it=brings_code is not None and brings_code in _types_in_transformers(),
    )


def with_highest_token_id(info: ModelInfo) -> ModelInfo:
    """The same model with the highest id in its tokenizer.json, which is read unless it was."""
    if info.highest_token_id is not None:
        return info
    vocabulary = read_vocabulary(Path(info.path) / "tokenizer.json")
    return msgspec.structs.replace(info, highest_token_id=vocabulary.highest_id if vocabulary else None)


def read_vocabulary(path: Path) -> Vocabulary | None:
    """The tokens of a tokenizer.json; None where it is not there, cannot be read, or is no tokenizer."""
    try:
        return parse_vocabulary(path.read_bytes()) if path.stat().st_size <= _MAX_SMALL_FILE else None
    except OSError:
        return None  # it may have no tokenizer, which is a problem of its own; else its loader says why


@cache
def _types_in_transformers() -> frozenset[str]:
    """The model types that the installed transformers has models for.

    Its table of them is read as text: importing it would take seconds. A folder's name is not always a type's
    (gemma3_text is in gemma3), so folders do not tell.
    """
    found = importlib.util.find_spec("transformers")
    places = found.submodule_search_locations if found else None
    table = Path(next(iter(places), "")) / "models" / "auto" / "modeling_auto.py" if places else None
    if table is None or not table.is_file():
        return frozenset()
    return frozenset(re.findall(r"^\s*\(\"([\w-]+)\", ", table.read_text(encoding="utf-8"), re.MULTILINE))


def _header(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        probe = opened.read(PROBE_BYTES)
        return probe + opened.read(max(0, header_bytes_needed(probe, size) - len(probe)))


def _directories(place: Path) -> Iterator[Path]:
    try:
        for path in sorted(place.iterdir()):
            name = path.name.casefold()
            if name in _SPECIAL or name.startswith(".") or name.endswith(".tmp"):
                continue
            if path.is_dir() and not path.is_symlink() and _holds_a_model(path):
                yield path
    except FileNotFoundError:
        return
    except OSError as error:
        raise ModelError(
            f"The models directory {place} cannot be listed: {error.strerror or error}.",
            "Name another one with --models-dir, or give read permission.",
        ) from error


def _holds_a_model(path: Path) -> bool:
    try:
        return any(file.name in _MARKS or file.name.endswith(_WEIGHT_ENDINGS) for file in path.iterdir())
    except PermissionError:
        # Listed with a problem: leaving it out would say that it is not there.
        return True


def _collision(info: ModelInfo, paths: list[str]) -> ModelProblem:
    others = [path for path in paths if path != info.path]
    return ModelProblem(
        kind="collision",
        problem=f"{', '.join(others)} has the same key, {info.key!r}.",
        fix="Rename one of the directories, or move it out of the models directory.",
    )
