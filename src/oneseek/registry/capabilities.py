"""What a base model is and can do, from the bytes of its own files: no disk and no torch.

`model_info` is the way in: the files of one directory go in as bytes, a `ModelInfo` comes out, with every problem that
stands in the way of training named in it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from oneseek.names import display_name, normalize_model_name
from oneseek.registry.context import context_length, positive
from oneseek.registry.families import AUTO, FAMILIES, PEFT_REFUSES, guess
from oneseek.registry.licence import licence
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
    beside,
    embedding_rows,
    fused_experts,
    is_buffer,
    left_out,
    linear_modules,
    linear_weights,
    module_name,
    never_adapted,
)
from oneseek.registry.safetensors import TensorInfo
from oneseek.registry.tokenizer import chat_template, check_tokenizer, special_tokens
from oneseek.registry.weights import read_tensors, weight_files


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A base model, described from its own files.

    `parameters` counts the stored ones (tied weights once), `dtypes` the same by safetensors type (`BF16`);
    `size_bytes` is that of its weight files. `context_length` is in tokens. `vocab_size`, `hidden_size` and `layers`
    are 0 where config.json does not say. `linear_paths` are the whole names of the modules in `linear_modules`;
    `linear_sizes` are their parameters, in the same order. `beside` are the paths of all other matrices, each with what
    it is. `fused_experts` are expert weights that LoRA cannot adapt in this release. `left_out` are module names that
    `auto` and `all-linear` pass over, each with the reason; among them those of `forbidden`, on which an adapter is
    refused or never trained. `licence` is what its README.md declares. `embedding_rows` are those of the token
    embedding as stored, 0 where nothing tells; `highest_token_id` is that of tokenizer.json, None where it was not
    read. `scaled_logits`: the model scales or caps its logits, as its config.json says, and so has to make them all
    itself.
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
    linear_sizes: tuple[int, ...] = ()
    beside: dict[str, str] = {}
    left_out: dict[str, str] = {}
    forbidden: dict[str, str] = {}
    licence: str | None = None
    embedding_rows: int = 0
    highest_token_id: int | None = None
    scaled_logits: bool = False
    source: Literal["directory", "cache", "hub"] = "directory"
    hub_id: str | None = None
    revision: str | None = None
    missing_bytes: int = 0

    @property
    def usable(self) -> bool:
        return not self.problems

    @property
    def unseen(self) -> bool:
        """Whether its modules are not known yet, because it was not downloaded and nothing described it."""
        return self.source == "hub" and not self.linear_paths

    def wire(self) -> dict[str, Any]:
        """What programs are told of it."""
        return {
            "key": self.key,
            "display_name": self.display_name,
            "path": self.path,
            "model_type": self.model_type,
            "architecture": self.architecture,
            "parameters": self.parameters,
            "size_bytes": self.size_bytes,
            "context_length": self.context_length,
            "has_chat_template": self.chat_template is not None,
            "lora_targets": list(lora_targets(self, "auto")),
            "linear_modules": [
                {"name": part.name, "in": part.in_features, "out": part.out_features, "places": part.count}
                for part in self.linear_modules
            ],
            "source": self.source,
            "hub_id": self.hub_id,
            "revision": self.revision,
            "missing_bytes": self.missing_bytes,
            "left_out": self.left_out,
            "forbidden": self.forbidden,
            "licence": self.licence,
            "usable": self.usable,
            "problems": [{"kind": part.kind, "problem": part.problem, "fix": part.fix} for part in self.problems],
        }


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
        if name != "README.md"  # only the licence is read from it
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
    tensors = {_renamed(name, files.renamings): tensor for name, tensor in read_tensors(files, problems).items()}
    _check_sizes(config, tensors, problems)
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
    kinds = {problem.kind for problem in problems}
    if modules and "not-causal-lm" not in kinds and _looks_both_ways(config, modules):
        problems.append(_not_causal("It is an encoder: each token sees the tokens after it"))
    forbidden = _forbidden(text_or_none(config.get("model_type")) or "", modules, tensors)
    sizes = _text_config(config)
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
        context_length=context_length(sizes),
        vocab_size=positive(sizes, "vocab_size") or 0,
        hidden_size=positive(sizes, "hidden_size", "n_embd", "d_model") or 0,
        layers=positive(sizes, "num_hidden_layers", "n_layer", "num_layers", "n_layers") or 0,
        chat_template=chat_template(files.contents),
        special_tokens=tokens,
        linear_modules=linear_modules(tensors),
        linear_paths=tuple(sorted(modules)),
        linear_sizes=tuple(math.prod(modules[path]) for path in sorted(modules)),
        beside=beside(tensors),
        fused_experts=fused_experts(tensors),
        problems=tuple(problems),
        left_out={**left_out(tensors), **forbidden},
        forbidden=forbidden,
        licence=licence(files.contents),
        embedding_rows=embedding_rows(tensors) or positive(sizes, "vocab_size") or 0,
        highest_token_id=files.highest_token_id,
        scaled_logits=any(sizes.get(name) not in (None, 1, 1.0) for name in _SCALES_OF_LOGITS),
    )


def _forbidden(model_type: str, modules: Iterable[str], tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    refused = {module_name(path) for path in modules}.intersection(PEFT_REFUSES.get(model_type, ()))
    reason = f"PEFT refuses an adapter on it in models of the type {model_type}"
    return {**dict.fromkeys(sorted(refused), reason), **never_adapted(tensors)}


def with_problem(info: ModelInfo, problem: ModelProblem) -> ModelInfo:
    """The same model with one more problem."""
    return msgspec.structs.replace(info, problems=(*info.problems, problem))


def lora_targets(info: ModelInfo, requested: str | Sequence[str]) -> tuple[str, ...]:
    """The modules that LoRA adapts: sorted, each once.

    `auto` is the table of the model's family, where it has one, less what the model has not; else, like `all-linear`,
    every decoder linear; both without the model's `left_out`. A list of names is taken as it is: `missing_targets` says
    which of them the model has not. Of a model that is not here yet, both are the guess of `families`.
    """
    if isinstance(requested, str) and info.unseen:
        return tuple(sorted(guess(info.model_type, info.hub_id or info.key).targets))
    present = {module.name for module in info.linear_modules} - info.left_out.keys()
    if requested == "all-linear":
        return tuple(sorted(present))
    if requested == "auto":
        family = present.intersection(FAMILIES[info.model_type].targets if info.model_type in AUTO else ())
        return tuple(sorted(family or present))
    return tuple(sorted({requested} if isinstance(requested, str) else set(requested)))


def missing_targets(info: ModelInfo, names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that no linear module of the model answers to; none where its modules are not known yet."""
    if info.unseen:
        return ()
    return tuple(name for name in names if not any(answers_to(path, name) for path in info.linear_paths))


def answers_to(path: str, name: str) -> bool:
    """Whether a target means the module of a path: its whole path, or what that ends in after a dot (`c_proj`,
    `attn.c_proj`), as in PEFT."""
    return path == name or path.endswith(f".{name}")


# -- config.json ---------------------------------------------------------------------------------------------------


def model_type(contents: Mapping[str, bytes]) -> str | None:
    """The model_type that config.json names. contents: file name to bytes."""
    return text_or_none((object_or_none(contents.get("config.json", b"")) or {}).get("model_type"))


def _text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of the language model, which those of several parts keep apart."""
    text = config.get("text_config")
    return {**config, **text, "model_type": config.get("model_type")} if isinstance(text, dict) else config


def _looks_both_ways(config: Mapping[str, Any], paths: Iterable[str]) -> bool:
    """Whether an encoder was saved as a language model: then every token sees the ones after it.

    Older config.json files of decoders say `is_decoder: false` too; their layers are in no encoder.
    """
    in_encoder = all("encoder" in path.split(".") for path in paths)
    return config.get("causal") is False or (config.get("is_decoder") is False and in_encoder)


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
    elif config.get("model_type") and files.transformers_has_it is False:
        problems.append(
            ModelProblem(
                kind="unknown-type",
                problem="The installed transformers has no causal language model of the type "
                f"{printable(str(config.get('model_type')))!r}.",
                fix="Select another base model, or install a transformers that knows this one: "
                "pip install --upgrade transformers.",
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
        problems.append(_not_causal(f"{', '.join(architectures) or 'It'} is not a causal language model"))
    return config


_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")


def _check_sizes(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo], problems: list[ModelProblem]) -> None:
    """A config.json that no model can be built from, or one with more layers than the weights have."""
    wrong = [name for name in _SIZES if name in config and not _is_size(config[name])]
    if wrong:
        values = ", ".join(f"{name} is {config[name]!r}"[:80] for name in wrong)
        problems.append(_broken_config(f"In config.json {values}, where a whole number above 0 belongs"))
        return
    layers = config.get("num_hidden_layers")
    stored = 1 + max((int(found[1]) for name in tensors if (found := _LAYER.search(name))), default=-1)
    if isinstance(layers, int) and 0 < stored < layers:
        problems.append(_broken_config(f"config.json has {layers} layers, the weights have {stored}"))


def _is_size(value: Any) -> bool:
    """Some families have a list, of a size for each layer."""
    return isinstance(value, list) or (type(value) is int and value > 0)


def _broken_config(problem: str) -> ModelProblem:
    return ModelProblem(
        kind="broken-config", problem=f"{problem}.", fix="Copy the config.json that came with these weights."
    )


def _not_causal(problem: str) -> ModelProblem:
    return ModelProblem(
        kind="not-causal-lm",
        problem=f"{problem}.",
        fix="Select a model whose config.json names an architecture that ends in ForCausalLM or LMHeadModel.",
    )


def _renamed(name: str, renamings: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in renamings:
        name = re.sub(pattern, replacement, name)
    return name


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [name for name in names if text_or_none(name)] if isinstance(names, list) else []
