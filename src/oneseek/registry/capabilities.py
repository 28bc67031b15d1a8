"""What a base model is and can do, from the bytes of its own files: no disk, no torch, no table of families but one.

`model_info` is the way in: the files of one directory go in as bytes, a `ModelInfo` comes out, with every problem that
stands in the way of training named in it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from oneseek.names import display_name, normalize_model_name
from oneseek.registry.modules import (
    LinearModule,
    embedding_rows,
    fused_experts,
    is_buffer,
    left_out,
    linear_modules,
    linear_weights,
)
from oneseek.registry.safetensors import DamagedWeightsError, TensorInfo, parse_safetensors_header

JSON_FILES = (
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

# The families that seed the automatic choice; every other family gets all its linear modules.
_AUTO_TARGETS = {
    "gpt2": ("c_attn", "c_proj"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense"),
}


class ModelProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a base model cannot be trained as it lies there, and what to do about it."""

    kind: ProblemKind
    problem: str
    fix: str


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A base model, described from its own files.

    `parameters` counts the stored ones (tied weights once), `dtypes` the same by safetensors type (`BF16`);
    `size_bytes` is that of its weight files. `context_length` is in tokens. `vocab_size`, `hidden_size` and `layers`
    are 0 where config.json does not say. `linear_paths` are the whole names of the modules in `linear_modules`;
    `fused_experts` are expert weights that LoRA cannot adapt in this release. `left_out` are module names that `auto`
    and `all-linear` pass over, each with the reason. `embedding_rows` are those of the token embedding as stored, 0
    where nothing tells; `highest_token_id` is that of tokenizer.json, None where it was not read.
    """

    key: str
    display_name: str
    path: str
    model_type: str
    architecture: str
    parameters: int
    dtypes: dict[str, int]
    size_bytes: int
    context_length: int | None
    vocab_size: int
    hidden_size: int
    layers: int
    chat_template: str | None
    special_tokens: dict[str, str]
    linear_modules: tuple[LinearModule, ...]
    linear_paths: tuple[str, ...]
    fused_experts: tuple[str, ...]
    problems: tuple[ModelProblem, ...]
    left_out: dict[str, str] = {}
    embedding_rows: int = 0
    highest_token_id: int | None = None

    @property
    def usable(self) -> bool:
        return not self.problems


class ModelFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know about a model directory without reading its weights.

    `sizes`: bytes of every file directly in it. `contents`: the bytes of those in JSON_FILES that are there.
    `headers`: the first bytes of every safetensors file, as many as `header_bytes_needed` says.
    `unreadable`: files that are there and could not be read, with the reason.
    `token_texts`: from tokenizer.json, the tokens of the ids in `token_ids_wanted`; `highest_token_id` where that was
    read. `transformers_has_it`: the installed transformers has code of its own for the `type_that_brings_code`.
    """

    directory: str
    path: str
    sizes: dict[str, int]
    contents: dict[str, bytes]
    headers: dict[str, bytes]
    unreadable: dict[str, str]
    token_texts: dict[int, str] = {}
    highest_token_id: int | None = None
    transformers_has_it: bool = False


# -- a model -------------------------------------------------------------------------------------------------------


def model_info(files: ModelFiles) -> ModelInfo:
    """Describe one base model. Never raises for a bad one: what is wrong is in its `problems`."""
    key = normalize_model_name(files.directory)
    problems = [
        ModelProblem(
            kind="unreadable", problem=f"{name} cannot be read: {reason}.", fix="Check that it is there and readable."
        )
        for name, reason in sorted(files.unreadable.items())
    ]
    if not key:
        problems.append(
            ModelProblem(
                kind="no-key",
                problem=f"The directory name {files.directory!r} has no letter a-z or digit to select it by.",
                fix="Rename the directory, as in mistral-7b.",
            )
        )
    config = _config(files, problems)
    declared = _json_object(files, "oneseek.json", "broken-config", problems)
    tensors = _tensors(files, problems)
    _check_tokenizer(files, problems)
    tokenizer = _json_object(files, "tokenizer_config.json", "broken-tokenizer", problems)
    token_map = _json_object(files, "special_tokens_map.json", "broken-tokenizer", problems)
    if files.directory in files.unreadable:
        # Nobody looked inside, so nothing can be said to be missing there.
        problems = [problem for problem in problems if problem.kind == "unreadable"]
    parameters = {name: tensor for name, tensor in tensors.items() if not is_buffer(name, tensor)}
    counted: Counter[str] = Counter()
    for tensor in parameters.values():
        counted[tensor.dtype] += math.prod(tensor.shape)
    modules = linear_weights(tensors)
    return ModelInfo(
        key=key,
        display_name=_printable(
            display_name(
                key, files.directory, _string(declared.get("display_name")), _string(config.get("_name_or_path"))
            )
        ),
        path=files.path,
        model_type=_string(config.get("model_type")) or "",
        architecture=next(iter(_architectures(config)), ""),
        parameters=counted.total(),
        dtypes=dict(sorted(counted.items())),
        size_bytes=sum(files.sizes[name] for name in _weight_files(files)),
        context_length=_positive(config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        vocab_size=_positive(config, "vocab_size") or 0,
        hidden_size=_positive(config, "hidden_size", "n_embd", "d_model") or 0,
        layers=_positive(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers") or 0,
        chat_template=chat_template(files.contents),
        special_tokens={
            **_tokens_by_id(files.contents, files.token_texts),
            **_token_texts(token_map),
            **_token_texts(tokenizer),
        },
        linear_modules=linear_modules(tensors),
        linear_paths=tuple(sorted(modules)),
        fused_experts=fused_experts(tensors),
        problems=tuple(problems),
        left_out=left_out(tensors),
        embedding_rows=embedding_rows(tensors) or _positive(config, "vocab_size") or 0,
        highest_token_id=files.highest_token_id,
    )


def with_problem(info: ModelInfo, problem: ModelProblem) -> ModelInfo:
    """The same model with one more problem."""
    return msgspec.structs.replace(info, problems=(*info.problems, problem))


def lora_targets(info: ModelInfo, requested: str | Sequence[str]) -> tuple[str, ...]:
    """The modules that LoRA adapts: sorted, each once.

    `auto` is the table of the model's family, where it has one, less what the model has not; else, like `all-linear`,
    every decoder linear; both without the model's `left_out`. A list of names is taken as it is: `missing_targets` says
    which of them the model has not.
    """
    present = {module.name for module in info.linear_modules} - info.left_out.keys()
    if requested == "all-linear":
        return tuple(sorted(present))
    if requested == "auto":
        family = present.intersection(_AUTO_TARGETS.get(info.model_type, ()))
        return tuple(sorted(family or present))
    return tuple(sorted({requested} if isinstance(requested, str) else set(requested)))


def missing_targets(info: ModelInfo, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that no linear module of the model answers to.

    A name is the whole path of a module, or what its path ends in after a dot (`c_proj`, `attn.c_proj`), as in PEFT.
    """
    return tuple(
        name for name in names if not any(path == name or path.endswith(f".{name}") for path in info.linear_paths)
    )


# -- weight files --------------------------------------------------------------------------------------------------


def _tensors(files: ModelFiles, problems: list[ModelProblem]) -> dict[str, TensorInfo]:
    """The tensors of all weight files together; each file that is missing or damaged is a problem."""
    index = _index(files, problems)
    names = _safetensors_files(files, index)
    if not names:
        if not any(problem.kind == "broken-index" for problem in problems):
            problems.append(_no_safetensors(files))
        return {}
    by_file: dict[str, dict[str, TensorInfo]] = {}
    for name in names:
        if name not in files.sizes:
            problems.append(
                ModelProblem(
                    kind="missing-shard",
                    problem=f"{name} is missing; model.safetensors.index.json names it.",
                    fix="Download or copy the model again.",
                )
            )
        elif name in files.headers:
            try:
                by_file[name] = parse_safetensors_header(files.headers[name], files.sizes[name])
            except DamagedWeightsError as error:
                problems.append(
                    ModelProblem(kind=error.kind, problem=f"{name} {error.problem}.", fix=error.fix),
                )
    absent = [tensor for tensor, name in index.items() if name in by_file and tensor not in by_file[name]]
    if absent:
        problems.append(
            ModelProblem(
                kind="broken-index",
                problem=f"model.safetensors.index.json promises {len(absent)} tensor(s) that are not in their file, "
                f"{absent[0]!r} for one.",
                fix="Download or copy the model again.",
            )
        )
    tensors = {name: tensor for content in by_file.values() for name, tensor in content.items()}
    if not tensors and len(by_file) == len(names):
        problems.append(
            ModelProblem(kind="no-weights", problem=f"{', '.join(names)} holds no tensor.", fix="Download it again.")
        )
    return tensors


def _index(files: ModelFiles, problems: list[ModelProblem]) -> dict[str, str]:
    """Tensor name to file name of a sharded model; empty for one in a single file, which wins as in transformers."""
    if "model.safetensors" in files.sizes or "model.safetensors.index.json" not in files.contents:
        return {}
    index = _json_object(files, "model.safetensors.index.json", "broken-index", problems).get("weight_map")
    if isinstance(index, dict) and index and all(isinstance(name, str) for name in index.values()):
        return index
    if not any(problem.kind == "broken-index" for problem in problems):
        problems.append(
            ModelProblem(
                kind="broken-index",
                problem="model.safetensors.index.json has no weight_map from tensors to files.",
                fix="Download or copy the model again.",
            )
        )
    return {}


def _safetensors_files(files: ModelFiles, index: Mapping[str, str]) -> list[str]:
    return ["model.safetensors"] if "model.safetensors" in files.sizes else sorted(set(index.values()))


def _weight_files(files: ModelFiles) -> list[str]:
    """The weight files that are there, those that would be loaded before any others."""
    ours = [name for name in _safetensors_files(files, _index(files, [])) if name in files.sizes]
    return ours or _pickles(files)


def _pickles(files: ModelFiles) -> list[str]:
    return sorted(
        name for name in files.sizes if name.endswith((".bin", ".pt", ".pth")) and not name.startswith("training_args")
    )


def _no_safetensors(files: ModelFiles) -> ModelProblem:
    if pickles := _pickles(files):
        return ModelProblem(
            kind="only-pickle",
            problem=f"The weights are only there as pickle ({pickles[0]}), which can run code when it is loaded.",
            fix="If you trust them, convert them once with transformers: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR) writes model.safetensors.",
        )
    others = sorted(name for name in files.sizes if name.endswith((".safetensors", ".gguf")))
    return ModelProblem(
        kind="no-weights",
        problem="There is no model.safetensors and no model.safetensors.index.json"
        + (f"; {others[0]} is not loaded under that name." if others else "."),
        fix="Put the model's safetensors files into the directory.",
    )


# -- config.json ---------------------------------------------------------------------------------------------------


def _config(files: ModelFiles, problems: list[ModelProblem]) -> dict[str, Any]:
    if "config.json" not in files.sizes:
        problems.append(
            ModelProblem(
                kind="no-config",
                problem="There is no config.json."
                + (" This is an adapter, not a base model." if "adapter_config.json" in files.sizes else ""),
                fix="Copy the model's config.json into the directory.",
            )
        )
        return {}
    before = len(problems)
    config = _json_object(files, "config.json", "broken-config", problems)
    if len(problems) > before or "config.json" in files.unreadable:
        return config
    if not _string(config.get("model_type")):
        problems.append(
            ModelProblem(
                kind="broken-config",
                problem="config.json names no model_type, so nothing knows how to load the model.",
                fix="Copy the model's own config.json into the directory.",
            )
        )
    if config.get("auto_map") and not files.transformers_has_it:
        problems.append(
            ModelProblem(
                kind="foreign-code",
                problem="config.json has auto_map: the model brings Python code of its own, which is not run, and the "
                f"installed transformers has none for {config.get('model_type')!r}.",
                fix="Select a model that transformers knows, or install a transformers that knows this one.",
            )
        )
    if quantisation := config.get("quantization_config") or config.get("compression_config"):
        method = _string(quantisation.get("quant_method")) if isinstance(quantisation, dict) else None
        problems.append(
            ModelProblem(
                kind="quantized",
                problem=f"Its weights are stored quantised{f' ({_printable(method)})' if method else ''}, and such a "
                "model can't be trained in this release.",
                fix="Select the same model with its weights in bf16, fp16 or fp32.",
            )
        )
    architectures = _architectures(config)
    if config.get("is_encoder_decoder") is True or (
        architectures and not any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    ):
        problems.append(
            ModelProblem(
                kind="not-causal-lm",
                problem=f"{', '.join(architectures) or config['model_type']} is not a causal language model.",
                fix="Select a model whose config.json names an architecture that ends in ForCausalLM or LMHeadModel.",
            )
        )
    return config


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if _string(name)] if isinstance(names, list) else []


def _positive(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and 0 < value < 2**63), None)


# -- tokenizer -----------------------------------------------------------------------------------------------------


def chat_template(contents: Mapping[str, bytes]) -> str | None:
    """The chat template that applies: chat_template.jinja, else tokenizer_config.json, else chat_template.json.

    contents: file name to bytes. A list of templates counts by the one that is named `default`.
    """
    if "chat_template.jinja" in contents:
        text = contents["chat_template.jinja"].decode(errors="replace")
        return text if text.strip() else None
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = _object_or_none(contents.get(name, b"")) or {}
        chosen = template.get("chat_template")
        if isinstance(chosen, list):
            named = (item for item in chosen if isinstance(item, dict) and item.get("name") == "default")
            chosen = next(named, {}).get("template")
        if (text_or_none := _string(chosen)) and text_or_none.strip():
            return text_or_none
    return None


def type_that_brings_code(contents: Mapping[str, bytes]) -> str | None:
    """The model_type of a config.json that has auto_map, which names Python code beside the model; else None."""
    config = _object_or_none(contents.get("config.json", b"")) or {}
    return _string(config.get("model_type")) if config.get("auto_map") else None


def token_ids_wanted(contents: Mapping[str, bytes]) -> dict[str, int]:
    """`eos_token` and `bos_token` by their ids, where only config.json or generation_config.json names them.

    A tokenizer file that says null says that there is none. contents: file name to bytes.
    """
    documents = {name: _object_or_none(contents.get(f"{name}.json", b"")) or {} for name in _NAMING_TOKENS}
    said = documents["tokenizer_config"].keys() | documents["special_tokens_map"].keys()
    wanted = {}
    for token in ("eos_token", "bos_token"):
        given = (documents[name].get(f"{token}_id") for name in ("config", "generation_config"))
        ids = (value[0] if isinstance(value, list) and value else value for value in given)
        first = next((value for value in ids if type(value) is int), None)
        if token not in said and first is not None:
            wanted[token] = first
    return wanted


_NAMING_TOKENS = ("config", "generation_config", "tokenizer_config", "special_tokens_map")


def _tokens_by_id(contents: Mapping[str, bytes], texts: Mapping[int, str]) -> dict[str, str]:
    wanted = token_ids_wanted(contents)
    return {token: texts[number] for token, number in wanted.items() if texts.get(number)}


def _check_tokenizer(files: ModelFiles, problems: list[ModelProblem]) -> None:
    if files.sizes.get("tokenizer.json", 0) > 0:
        return
    slow = sorted({"tokenizer.model", "vocab.json", "merges.txt", "spiece.model"}.intersection(files.sizes))
    problems.append(
        ModelProblem(
            kind="no-tokenizer",
            problem=("tokenizer.json is empty." if "tokenizer.json" in files.sizes else "There is no tokenizer.json.")
            + (f" {slow[0]} alone is not enough." if slow else ""),
            fix="Copy the model's tokenizer.json into the directory"
            + (
                ", or make it: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) in transformers."
                if slow
                else "."
            ),
        )
    )


def _token_texts(document: Mapping[str, Any]) -> dict[str, str]:
    """Every `…_token` with its text; a token is written as text or as an object with `content`."""
    texts = {}
    for name, value in document.items():
        text = _string(value.get("content") if isinstance(value, dict) else value)
        if name.endswith("_token") and text:
            texts[name] = text
    return texts


# -- JSON of unknown quality ---------------------------------------------------------------------------------------


def _json_object(files: ModelFiles, name: str, kind: ProblemKind, problems: list[ModelProblem]) -> dict[str, Any]:
    """A file's JSON object; {} where the file is not there, and with a problem where it is something else."""
    if name not in files.contents:
        return {}
    document = _object_or_none(files.contents[name])
    if document is None:
        problems.append(
            ModelProblem(
                kind=kind, problem=f"{name} is not a JSON object.", fix=f"Copy the model's {name} again, or correct it."
            )
        )
    return document or {}


def _object_or_none(data: bytes) -> dict[str, Any] | None:
    # Python's own reader, because config.json files in the wild hold Infinity, which JSON does not have.
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _string(value: Any) -> str | None:
    """Text that can be written as UTF-8: JSON escapes can spell halves of characters, which cannot."""
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        return None
    return value


def _printable(text: str) -> str:
    """Without control characters: a name is shown in terminals."""
    return "".join(char for char in text if char.isprintable())
