"""Small base models trained from nothing, for `oneseek demo`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from oneseek.files.durable import write_directory

Family = Literal["llama", "qwen2", "mistral"]

_CLASSES = {
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
}
_BLOCK = 64  # tokens in one row of packed text
_ROWS = 8  # rows in one step
_WARMUP = 20  # steps
_INITIAL_STD = 0.05  # the usual 0.02 is for wide models: at a width of 128 half the steps would go into growing it


@dataclass(frozen=True)
class Scratch:
    """What was made. `text_tokens` is the length of the text; losses are nats per token, `seconds` wall time."""

    parameters: int
    vocab_size: int
    text_tokens: int
    first_loss: float
    last_loss: float
    seconds: float


def train_base_model(
    directory: Path,
    *,
    family: Family,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    vocab_size: int,
    text: str,
    chat_template: str,
    special_tokens: Mapping[str, str],
    extra_tokens: Sequence[str] = (),
    steps: int,
    seed: int,
    display_name: str,
    context_length: int = 512,
    learning_rate: float = 5e-3,
    threads: int = 1,
) -> Scratch:
    """Train a tokenizer and a causal language model of `family`'s shape on `text`, and save both as transformers does.

    The same arguments give the same bytes on the same machine: the steps are counted, not timed.

    hidden, intermediate: widths; heads must divide hidden, kv_heads heads.
    vocab_size: at most this many tokens, the 256 bytes and the special tokens included.
    special_tokens: by transformers' names, at least `eos_token` and `pad_token`; a `bos_token` is put before plain
        text. extra_tokens: others that `chat_template` writes, such as `<|im_start|>`.
    steps: optimiser steps of 8 rows of 64 tokens, drawn from the text by `seed`.
    learning_rate: the highest, reached in 20 steps; from there it falls in a line to a tenth.

    Raises:
        StorageError: the directory could not be written. It appears whole or not at all.
    """
    began = time.perf_counter()
    torch.set_num_threads(threads)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = _train_tokenizer(text, vocab_size, special_tokens, extra_tokens)
    config = _config(family, tokenizer, special_tokens)
    config.update(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        initializer_range=_INITIAL_STD,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context_length,
    )
    config_class, model_class = _CLASSES[family]
    torch.manual_seed(seed)
    config["architectures"] = [model_class]
    model = getattr(transformers, model_class)(getattr(transformers, config_class)(**config))
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    losses = _train(model, ids, steps, learning_rate, seed)
    write_directory(directory, _files(model, tokenizer, chat_template, special_tokens, context_length, display_name))
    return Scratch(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocab_size=tokenizer.get_vocab_size(),
        text_tokens=len(ids),
        first_loss=losses[0],
        last_loss=losses[-1],
        seconds=time.perf_counter() - began,
    )


def _train_tokenizer(
    text: str, vocab_size: int, special_tokens: Mapping[str, str], extra_tokens: Sequence[str]
) -> Tokenizer:
    """Byte-level BPE (as GPT-2): no text is unknown to it. Its offsets keep white space."""
    special = list(dict.fromkeys([*special_tokens.values(), *extra_tokens]))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_without(text, special).splitlines(), trainer)
    steps: list[Any] = [processors.ByteLevel(trim_offsets=False)]
    if bos := special_tokens.get("bos_token"):
        ids = [(bos, tokenizer.token_to_id(bos))]
        steps.append(processors.TemplateProcessing(single=f"{bos} $A", special_tokens=ids))
    tokenizer.post_processor = processors.Sequence(steps)
    return tokenizer


def _without(text: str, special: Sequence[str]) -> str:
    """The text without special tokens, whose spelling is not to be learned as words."""
    for token in special:
        text = text.replace(token, " ")
    return text


def _config(family: Family, tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> dict[str, Any]:
    ids = {f"{name}_id": tokenizer.token_to_id(token) for name, token in special_tokens.items()}
    config = {"bos_token_id": None, **ids, "vocab_size": tokenizer.get_vocab_size(), "tie_word_embeddings": True}
    return config | ({"sliding_window": None} if family == "mistral" else {})


def _train(model: Any, ids: Tensor, steps: int, learning_rate: float, seed: int) -> list[float]:
    """The loss of each step, in nats per token."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    model.train()
    losses = []
    length = min(_BLOCK, len(ids) - 1)
    for step in range(steps):
        starts = torch.randint(len(ids) - length, (_ROWS,), generator=generator)
        rows = torch.stack([ids[start : start + length + 1] for start in starts.tolist()])  # (rows, length + 1)
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / _WARMUP) * (1.0 - 0.9 * step / steps)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _files(
    model: Any,
    tokenizer: Tokenizer,
    chat_template: str,
    special_tokens: Mapping[str, str],
    context_length: int,
    display_name: str,
) -> dict[str, bytes]:
    """A model directory as transformers reads it."""
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **special_tokens,
    }
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight")  # the embedding again; safetensors stores nothing twice
    return {
        "config.json": model.config.to_json_string(use_diff=False).encode(),
        "model.safetensors": safetensors.torch.save(state, metadata={"format": "pt"}),
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(settings),
        "chat_template.jinja": chat_template.encode(),
        "oneseek.json": _json({"display_name": display_name}),
    }


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
