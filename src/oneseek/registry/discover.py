"""Base models on disk: find their directories, read what describes them (never the weights), take their digests."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from oneseek.errors import ModelError
from oneseek.files.durable import sha256_bytes, sha256_file
from oneseek.names import SLUG, collisions, match_selection
from oneseek.registry.cache import Repository, repositories
from oneseek.registry.capabilities import ModelInfo, model_info, model_type, with_problem
from oneseek.registry.installed import causal_types, renamings
from oneseek.registry.model_files import JSON_FILES, ModelFiles, ModelProblem, object_or_none
from oneseek.registry.safetensors import PROBE_BYTES, header_bytes_needed
from oneseek.registry.tokenizer import token_ids_wanted
from oneseek.registry.vocabulary import Vocabulary, parse_vocabulary

_SPECIAL = (SLUG, "oneseek-certified")
_MARKS = ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_WEIGHT_ENDINGS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".gguf")
# What a download adds: a model in the cache that has one of these problems is not whole.
_OF_PARTS = {"no-config", "no-weights", "missing-shard", "no-tokenizer"}

Read = Callable[[Path, str | None], ModelInfo]
"""How a model's directory is read; its name where that is another than the directory's."""

MAX_SMALL_FILE = 64 * 2**20
"""Bytes. Templates of tens of kilobytes, shard indices of a few megabytes and tokenizers of thirty exist; nothing that
is read whole comes near this."""


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """The base models found, by key; `collisions` are keys that several directories have, with their paths.

    `shadowed` are the paths in the cache of those that are passed over, because the models directory has their key.
    """

    models: tuple[ModelInfo, ...]
    collisions: dict[str, list[str]]
    shadowed: dict[str, list[str]] = {}

    def wire(self) -> list[dict[str, Any]]:
        """What programs are told of the models."""
        return [info.wire() | {"shadows": self.shadowed.get(info.key, [])} for info in self.models]


class ModelDigests(msgspec.Struct, frozen=True, kw_only=True):
    """SHA-256 in hex. `weights_sha256` is over the lines that `sha256sum *.safetensors` prints, in byte order of names;
    `tokenizer_sha256` over that line of tokenizer.json and the special tokens that apply, as sorted JSON, wherever they
    are written; the others over config.json and the text of the chat template that applies."""

    weights_sha256: str
    config_sha256: str
    tokenizer_sha256: str
    template_sha256: str | None


def discover(models_dir: Path, cache: Path | None = None, read: Read | None = None) -> Discovery:
    """Every base model in `models_dir/oneseek-7b-zero/base_models/`, in `models_dir/` itself and in the cache.

    Left out: oneseek-7b-zero and oneseek-certified, links, names that begin with a dot or end in .tmp, and directories
    without any file of a model. Of a model in the cache the commit of `main` is taken, else the newest. One whose key a
    directory has is passed over: who puts a model there wants that one.
    cache: the Hugging Face cache (`cache_directory`); None leaves it out. read: how a directory is read, `described`
        unless given.
    Raises:
        ModelError: one of the directories is there and cannot be listed.
    """
    read = read or described
    places = [*_directories(models_dir / SLUG / "base_models"), *_directories(models_dir)]
    models = [read(path, None) for path in places]
    taken = {info.key for info in models}
    cached = list(_cached(cache, read)) if cache else []
    shadowed: dict[str, list[str]] = defaultdict(list)
    for info in cached:
        if info.key in taken:
            shadowed[info.key].append(info.path)
    models = sorted(
        [*models, *(info for info in cached if info.key not in taken)], key=lambda info: (info.key, info.path)
    )
    paths: dict[str, list[str]] = defaultdict(list)
    for info in models:
        paths[info.key].append(info.path)
    clashes = collisions(paths)
    return Discovery(
        models=tuple(
            with_problem(info, _collision(info, clashes[info.key])) if info.key in clashes else info for info in models
        ),
        collisions=clashes,
        shadowed=dict(shadowed),
    )


def selected(names: Iterable[str], models_dir: Path, cache: Path | None = None) -> list[ModelInfo]:
    """The base models of a selection that are here, each once. Nobody is asked where there are no names.

    Raises:
        SelectionError: a name means none, or several.
        ModelError: as `discover`.
    """
    wanted = list(names)
    known = {info.key: info for info in discover(models_dir, cache).models} if wanted else {}
    return [known[key] for key in dict.fromkeys(match_selection(name, known) for name in wanted)]


def describe(path: Path) -> ModelInfo:
    """The base model in one directory. Never raises for a bad model: what is wrong is in its `problems`."""
    return described(path, None)


def described(path: Path, name: str | None) -> ModelInfo:
    """The same of a model that may be called otherwise than its directory."""
    return model_info(read_model_files(path, name=name))


def describe_cached(repository: Repository, commit: str, read: Read = described) -> ModelInfo:
    """The same of a snapshot in the Hugging Face cache. Problems that a download solves say how to download.

    `missing_bytes` are those of the shards that its index promises and that are not there: 0 also where nothing tells.
    """
    path = repository.snapshot(commit)
    info = read(path, repository.name)
    pull = f"Download what is missing: oneseek models pull {repository.hub_id}"
    return msgspec.structs.replace(
        info,
        problems=tuple(
            msgspec.structs.replace(problem, fix=pull) if problem.kind in _OF_PARTS else problem
            for problem in info.problems
        ),
        source="cache",
        hub_id=repository.hub_id,
        revision=commit,
        missing_bytes=max(0, _promised_bytes(path) - info.size_bytes) if lacks_parts(info) else 0,
    )


def is_whole(path: Path) -> bool:
    """Whether nothing of a model's files is missing. A pull fetches the weights last, so with them all is there."""
    return path.is_dir() and not lacks_parts(describe(path))


def lacks_parts(info: ModelInfo) -> bool:
    """Whether a download would add what is missing."""
    return any(problem.kind in _OF_PARTS for problem in info.problems)


def _promised_bytes(path: Path) -> int:
    """Bytes of all tensors, as a shard index says."""
    try:
        index = object_or_none((path / "model.safetensors.index.json").read_bytes()) or {}
    except FileNotFoundError:
        return 0
    metadata = index.get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    return size if type(size) is int else 0


def digests(path: Path) -> ModelDigests:
    """What the recipe records of a base model. Reads every byte of its weights, in blocks.

    Raises:
        ModelError: a file that it needs is missing or cannot be read.
    """
    names = [file.name for file in path.glob("*.safetensors")]
    if not names:
        raise ModelError(f"{path} has no safetensors file.", "Put the model's safetensors files into the directory.")
    try:
        return digests_from(
            describe(path), {name: sha256_file(path / name) for name in (*names, "config.json", "tokenizer.json")}
        )
    except OSError as error:
        raise ModelError(
            f"{error.filename or path} cannot be read: {error.strerror or error}.",
            "Make sure that the file is there and readable.",
        ) from error


def digests_from(info: ModelInfo, sha256: Mapping[str, str]) -> ModelDigests:
    """What the recipe records of a base model, from the digests of its safetensors files, config.json and
    tokenizer.json (name to SHA-256 in hex)."""
    names = sorted((name for name in sha256 if name.endswith(".safetensors")), key=os.fsencode)
    lines = [f"{sha256[name]}  {name}\n" for name in names]
    tokens = msgspec.json.encode(info.special_tokens, order="sorted").decode()
    return ModelDigests(
        weights_sha256=hashlib.sha256(os.fsencode("".join(lines))).hexdigest(),
        config_sha256=sha256["config.json"],
        tokenizer_sha256=sha256_bytes(f"{sha256['tokenizer.json']}  tokenizer.json\n{tokens}".encode()),
        template_sha256=None if info.chat_template is None else sha256_bytes(info.chat_template.encode()),
    )


def read_model_files(path: Path, name: str | None = None) -> ModelFiles:
    """Names, sizes and the describing bytes of a model directory: of a safetensors file only its header.

    name: what the model is called, where the directory is not named after it.
    """
    sizes: dict[str, int] = {}
    contents: dict[str, bytes] = {}
    headers: dict[str, bytes] = {}
    unreadable: dict[str, str] = {}
    try:
        files = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        files, unreadable[name or path.name] = [], error.strerror or str(error)
    for file in files:
        try:
            sizes[file.name] = file.stat().st_size
            if file.name.endswith(".safetensors"):
                headers[file.name] = _header(file, sizes[file.name])
            elif file.name in JSON_FILES and sizes[file.name] > MAX_SMALL_FILE:
                unreadable[file.name] = f"it is {sizes[file.name]:,} bytes, and should be a small file"
            elif file.name in JSON_FILES:
                contents[file.name] = file.read_bytes()
        except OSError as error:
            unreadable[file.name] = error.strerror or str(error)
    absolute = path.absolute()
    return model_files(
        name or absolute.name,
        absolute,
        sizes,
        contents,
        headers,
        unreadable,
        vocabulary=lambda: read_vocabulary(absolute / "tokenizer.json"),
    )


def model_files(
    name: str,
    path: Path,
    sizes: dict[str, int],
    contents: dict[str, bytes],
    headers: dict[str, bytes],
    unreadable: dict[str, str],
    vocabulary: Callable[[], Vocabulary | None],
) -> ModelFiles:
    """What was read of a model, with what else tells of it: tokens named by their ids alone, and transformers' types.

    vocabulary: reads tokenizer.json, which can be large; asked only where a token is known by nothing but its id.
    """
    kind, types = model_type(contents), causal_types()
    ids = token_ids_wanted(contents)
    known = vocabulary() if ids else None
    texts = {number: known.text_of(number) for number in ids.values()} if known else {}
    return ModelFiles(
        directory=name,
        path=str(path),
        sizes=sizes,
        contents=contents,
        headers=headers,
        unreadable=unreadable,
        token_texts={number: text for number, text in texts.items() if text is not None},
        highest_token_id=known.highest_id if known else None,
        transformers_has_it=None if kind is None or types is None else kind in types,
        renamings=renamings(kind or ""),
    )


def highest_token_id(path: Path) -> int | None:
    """The highest id in a tokenizer.json; None where it is no tokenizer."""
    vocabulary = read_vocabulary(path)
    return vocabulary.highest_id if vocabulary else None


def with_highest_token_id(info: ModelInfo, read: Callable[[Path], int | None] = highest_token_id) -> ModelInfo:
    """The same model with the highest id in its tokenizer.json, which is read unless it was."""
    if info.highest_token_id is not None:
        return info
    return msgspec.structs.replace(info, highest_token_id=read(Path(info.path) / "tokenizer.json"))


def read_vocabulary(path: Path) -> Vocabulary | None:
    """The tokens of a tokenizer.json; None where it is not there, cannot be read, or is no tokenizer."""
    try:
        return parse_vocabulary(path.read_bytes()) if path.stat().st_size <= MAX_SMALL_FILE else None
    except OSError:
        return None  # it may have no tokenizer, which is a problem of its own; else its loader says why


def _header(file: Path, size: int) -> bytes:
    with file.open("rb") as opened:
        probe = opened.read(PROBE_BYTES)
        return probe + opened.read(max(0, header_bytes_needed(probe, size) - len(probe)))


def _cached(cache: Path, read: Read) -> Iterator[ModelInfo]:
    for repository in repositories(cache):
        commit = repository.offered()
        if commit and _holds_a_model(repository.snapshot(commit)):
            yield describe_cached(repository, commit, read)


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
        fix=f"Delete one of them from the cache, or put the one to train into the models directory as {info.key}/."
        if info.source == "cache"
        else "Rename one of the directories, or move it out of the models directory.",
    )
