"""Tiny base models on disk, made in milliseconds and without torch: config, weights and tokenizer as transformers
writes them, so that the real engine can train what the other tests only describe."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

Family = Literal["llama", "gpt2", "mistral", "phi", "mixtral"]
Shapes = dict[str, tuple[int, ...]]

CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
SPECIAL_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}

_ARCHITECTURES: dict[Family, str] = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "mistral": "MistralForCausalLM",
    "phi": "PhiForCausalLM",
    "mixtral": "MixtralForCausalLM",
}
_COMMON = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ\n.,?!:'-0123456789"


def write_model(
    directory: Path,
    *,
    family: Family = "llama",
    layers: int = 2,
    hidden: int = 16,
    vocab: int = 64,
    context: int = 128,
    chat: bool = True,
    template: str = CHAT_TEMPLATE,
    template_file: Literal[
        "tokenizer_config.json", "chat_template.jinja", "chat_template.json"
    ] = "tokenizer_config.json",
    tokenizer: bool = True,
    shards: int = 1,
    seed: int = 0,
    display_name: str | None = None,
    config: dict[str, Any] | None = None,
) -> Path:
    """Write a base model into `directory` (made if need be) and return it.

    hidden: width, a multiple of 4; the MLP is twice as wide (four times in GPT-2), there are 2 heads.
    vocab: at least 5. The tokenizer spells bytes, the most common first; from 260 on it knows every byte and loses
    nothing, below that rare characters become <unk>.
    chat: with a chat template, `template`, in `template_file`.
    shards: 1 is model.safetensors, more are numbered files and model.safetensors.index.json.
    seed: other seeds, other weights.
    display_name: written into oneseek.json when given. config: what config.json says besides, or instead.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = {**_config(family, layers, hidden, vocab, context), **(config or {})}
    (directory / "config.json").write_text(json.dumps(document))
    write_weights(directory, weight_shapes(family, layers, hidden, vocab, context), shards=shards, seed=seed)
    if tokenizer:
        (directory / "tokenizer.json").write_text(tokenizer_json(vocab))
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            **SPECIAL_TOKENS,
        }
        if chat and template_file == "tokenizer_config.json":
            settings["chat_template"] = template
        elif chat and template_file == "chat_template.json":
            (directory / template_file).write_text(json.dumps({"chat_template": template}))
        elif chat:
            (directory / template_file).write_text(template)
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    if display_name is not None:
        (directory / "oneseek.json").write_text(json.dumps({"display_name": display_name}))
    return directory


def write_weights(directory: Path, shapes: Shapes, *, shards: int = 1, seed: int = 0) -> None:
    """Write F32 tensors: norms 1, biases 0, everything else normal with standard deviation 0.08."""
    random = np.random.default_rng(seed)
    tensors = {name: _values(name, shape, random) for name, shape in shapes.items()}
    if shards == 1:
        (directory / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
        return
    weight_map = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        part = {tensor: tensors[tensor] for tensor in list(tensors)[number::shards]}
        (directory / name).write_bytes(save(part, metadata={"format": "pt"}))
        weight_map.update(dict.fromkeys(part, name))
    size = sum(values.nbytes for values in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def weight_shapes(family: Family, layers: int, hidden: int, vocab: int, context: int = 128) -> Shapes:
    """Names and shapes of a family's tensors, as transformers saves them. GPT-2's linears are (in, out)."""
    if family == "gpt2":
        return _gpt2_shapes(layers, hidden, vocab, context)
    shapes: Shapes = {"model.embed_tokens.weight": (vocab, hidden), "lm_head.weight": (vocab, hidden)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        shapes[f"{at}.self_attn.q_proj.weight"] = (hidden, hidden)
        if family == "phi":
            shapes.update(_phi_rest(at, hidden))
            continue
        shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (hidden, hidden)
        shapes[f"{at}.self_attn.k_proj.weight"] = (hidden // 2, hidden)
        shapes[f"{at}.self_attn.v_proj.weight"] = (hidden // 2, hidden)
        if family == "mixtral":
            shapes[f"{at}.block_sparse_moe.gate.weight"] = (2, hidden)
            for expert in range(2):
                for name, shape in (
                    ("w1", (2 * hidden, hidden)),
                    ("w2", (hidden, 2 * hidden)),
                    ("w3", (2 * hidden, hidden)),
                ):
                    shapes[f"{at}.block_sparse_moe.experts.{expert}.{name}.weight"] = shape
        else:
            shapes[f"{at}.mlp.gate_proj.weight"] = (2 * hidden, hidden)
            shapes[f"{at}.mlp.up_proj.weight"] = (2 * hidden, hidden)
            shapes[f"{at}.mlp.down_proj.weight"] = (hidden, 2 * hidden)
    if family == "phi":
        last: Shapes = {"model.final_layernorm.weight": (hidden,), "model.final_layernorm.bias": (hidden,)}
        return {**shapes, **last, "lm_head.bias": (vocab,)}
    return {**shapes, "model.norm.weight": (hidden,)}


@lru_cache
def tokenizer_json(vocab: int) -> str:
    """A tokenizer.json of `vocab` tokens: the special ones, then single bytes; no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelt = {
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(c)[0][0]: c for c in _COMMON
    }
    ordered = [*spelt, *(symbol for symbol in alphabet if symbol not in spelt)]
    tokens = [*SPECIAL_TOKENS.values(), *ordered][:vocab]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS.values()]
    )
    return str(tokenizer.to_str())


def _config(family: Family, layers: int, hidden: int, vocab: int, context: int) -> dict[str, Any]:
    common = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "vocab_size": vocab,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "dtype": "float32",
    }
    if family == "gpt2":
        return {**common, "n_layer": layers, "n_embd": hidden, "n_head": 2, "n_positions": context}
    return {
        **common,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 2,
        "num_key_value_heads": 2 if family == "phi" else 1,
        "max_position_embeddings": context,
        "tie_word_embeddings": False,
        **({"num_local_experts": 2, "num_experts_per_tok": 1} if family == "mixtral" else {}),
    }


def _gpt2_shapes(layers: int, hidden: int, vocab: int, context: int) -> Shapes:
    shapes: Shapes = {"transformer.wte.weight": (vocab, hidden), "transformer.wpe.weight": (context, hidden)}
    for layer in range(layers):
        at = f"transformer.h.{layer}"
        for norm in ("ln_1", "ln_2"):
            shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (hidden,)
        for name, shape in {
            "attn.c_attn": (hidden, 3 * hidden),
            "attn.c_proj": (hidden, hidden),
            "mlp.c_fc": (hidden, 4 * hidden),
            "mlp.c_proj": (4 * hidden, hidden),
        }.items():
            shapes[f"{at}.{name}.weight"], shapes[f"{at}.{name}.bias"] = shape, shape[1:]
    return {**shapes, "transformer.ln_f.weight": (hidden,), "transformer.ln_f.bias": (hidden,)}


def _phi_rest(at: str, hidden: int) -> Shapes:
    shapes: Shapes = {f"{at}.input_layernorm.bias": (hidden,), f"{at}.self_attn.q_proj.bias": (hidden,)}
    for name, shape in {
        "self_attn.k_proj": (hidden, hidden),
        "self_attn.v_proj": (hidden, hidden),
        "self_attn.dense": (hidden, hidden),
        "mlp.fc1": (2 * hidden, hidden),
        "mlp.fc2": (hidden, 2 * hidden),
    }.items():
        shapes[f"{at}.{name}.weight"], shapes[f"{at}.{name}.bias"] = shape, shape[:1]
    return shapes


def _values(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    if name.endswith(".bias"):
        return np.zeros(shape, dtype=np.float32)
    if len(shape) == 1:
        return np.ones(shape, dtype=np.float32)
    return random.standard_normal(shape, dtype=np.float32) * np.float32(0.08)
