"""The few model families that are known by name: what `auto` means for them, and what is guessed of a model whose files
are not here yet. Everything else is read from a model's own files."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from oneseek.names import normalize_model_name

_SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Usual LoRA targets, and whether its models have a chat template: None where that differs."""

    targets: tuple[str, ...]
    chat: bool | None = None


FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(targets=("c_attn", "c_proj"), chat=False),
    "gpt_neo": Family(targets=("q_proj", "k_proj", "v_proj", "o_proj"), chat=False),
    "gptj": Family(targets=("q_proj", "k_proj", "v_proj", "o_proj"), chat=False),
    "llama": Family(targets=_SEVEN, chat=True),
    "mistral": Family(targets=_SEVEN),
    "phi": Family(targets=("q_proj", "k_proj", "v_proj", "dense"), chat=True),
}
"""By the `model_type` of config.json."""

AUTO = ("gpt2", "llama", "mistral", "phi")
"""Those whose targets are what `auto` means for a model that is here."""

_ANY = Family(targets=("q_proj", "k_proj", "v_proj", "o_proj"))

WITHOUT_LIMIT = ("bloom",)
"""Model types with ALiBi (Press et al. 2022, arXiv:2108.12409) that do not say so in config.json: they read any length,
and `seq_length` is what they were trained on."""

# https://github.com/huggingface/peft/blob/v0.21.2/src/peft/tuners/tuners_utils.py (_check_lora_target_modules_mamba)
PEFT_REFUSES: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"), ("conv1d", "out_proj")
)
"""Module names on which PEFT puts no adapter, by model_type."""


def guess(model_type: str, name: str) -> Family:
    """The family of a model whose files are not here: by its model_type where that is known, else by its name.

    Of several families in the name (`mistral-llama-8b`) the one that comes last counts.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    letters = normalize_model_name(name).replace("-", "")
    named = {family: letters.rfind(family.replace("_", "")) for family in FAMILIES}
    last = max(named, key=lambda family: named[family])
    return FAMILIES[last] if named[last] >= 0 else _ANY
