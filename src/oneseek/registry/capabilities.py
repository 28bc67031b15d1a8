"""What a base model is and can do, from the bytes of its own files: no disk, no torch, no table of families but one.

`model_info` is the way in: the files of one directory go in as bytes, a `ModelInfo` comes out, with every problem that
stands in the way of training named in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from oneseek.names import display_name, normalize_model_name
from oneseek.registry.model_files import (
    ModelFiles,
    ModelProblem,
    json_object,
    object_or_none,
    printable,
    text_or_none,
)
from oneseek.registry.modules import (
    LinearModule,
    embedding_rows,
    fused_experts,
    is_buffer,
    left_out,
    linear_modules,
    linear_weights,
)
from oneseek.registry.tokenizer import chat_template, check_tokenizer, special_tokens
from oneseek.registry.weights import read_tensors, weight_files

# The families that seed the automatic choice; every other family gets all its linear modules.
_AUTO_TARGETS = {
    "gpt2": ("c_attn", "c_proj"),
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense"),
}


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A base model, described from its own files.

    `parameters` counts the stored ones (tied weights once), `dtypes` the same by safetensors type (`BF16`);
    `size_bytes` is that of its weight files. `context_length` is in tokens. `vocab_size`, `hidden_size` and `layers`
    are 0 where config.json does not say. `linear_paths` are the whole names of the modules in `linear_modules`;
    `fused_experts` are expert weights that LoRA cannot adapt in this release. `left_out` are module names that `auto`
    and `all-linear` pass over, each with the reason. `embedding_rows` are those of the token embedding as stored, 0
    where nothing tells; `highest_token_id` is that of tokenizer.json, None where it was not read. `scaled_logits`: the
    model scales or caps its logits, as its config.json says, and so has to make them all itself.
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
    scaled_logits: bool = False

    @property
    def usable(self) -> bool:
        return not self.problems


# -- a model -------------------------------------------------------------------------------------------------------


_SCALES_OF_LOGITS = ("final_logit_softcapping", "lm_head_multiplier", "logit_scale", "logit_softcap", "logits_scaling")


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
    declared = json_object(files, "oneseek.json", "broken-config", problems)
    tensors = read_tensors(files, problems)
    check_tokenizer(files, problems)
    tokens = special_tokens(files, problems)
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
        display_name=printable(
            display_name(
                key,
                files.directory,
                text_or_none(declared.get("display_name")),
                text_or_none(config.get("_name_or_path")),
            )
        ),
        path=files.path,
        model_type=text_or_none(config.get("model_type")) or "",
        architecture=next(iter(_architectures(config)), ""),
        parameters=counted.total(),
        dtypes=dict(sorted(counted.items())),
        size_bytes=sum(files.sizes[name] for name in weight_files(files)),
        context_length=_positive(config, "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
        vocab_size=_positive(config, "vocab_size") or 0,
        hidden_size=_positive(config, "hidden_size", "n_embd", "d_model") or 0,
        layers=_positive(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers") or 0,
        chat_template=chat_template(files.contents),
        special_tokens=tokens,
        linear_modules=linear_modules(tensors),
        linear_paths=tuple(sorted(modules)),
        fused_experts=fused_experts(tensors),
        problems=tuple(problems),
        left_out=left_out(tensors),
        embedding_rows=embedding_rows(tensors) or _positive(config, "vocab_size") or 0,
        highest_token_id=files.highest_token_id,
        scaled_logits=any(config.get(name) not in (None, 1, 1.0) for name in _SCALES_OF_LOGITS),
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


# -- config.json ---------------------------------------------------------------------------------------------------


def type_that_brings_code(contents: Mapping[str, bytes]) -> str | None:
    """The model_type of a config.json that has auto_map, which names Python code beside the model; else None."""
    config = object_or_none(contents.get("config.json", b"")) or {}
    return text_or_none(config.get("model_type")) if config.get("auto_map") else None


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
    config = json_object(files, "config.json", "broken-config", problems)
    if len(problems) > before or "config.json" in files.unreadable:
        return config
    if not text_or_none(config.get("model_type")):
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
        method = text_or_none(quantisation.get("quant_method")) if isinstance(quantisation, dict) else None
        problems.append(
            ModelProblem(
                kind="quantized",
                problem=f"Its weights are stored quantised{f' ({printable(method)})' if method else ''}, and such a "
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
                problem=f"{', '.join(architectures) or 'It'} is not a causal language model.",
                fix="Select a model whose config.json names an architecture that ends in ForCausalLM or LMHeadModel.",
            )
        )
    return config


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if text_or_none(name)] if isinstance(names, list) else []


def _positive(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of these settings that is a positive whole number."""
    values = (config.get(name) for name in names)
    return next((value for value in values if type(value) is int and 0 < value < 2**63), None)
