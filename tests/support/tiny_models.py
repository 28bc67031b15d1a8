"""Real, tiny base models: random weights in transformers' own classes, and a tokenizer trained on the spot."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from oneseek.engine.interface import Assignment

Family = Literal["llama", "gpt2"]

SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}\n"
    "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
)
TARGETS: dict[Family, tuple[str, ...]] = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj"),
}
_PLACES = ("biblioteket", "the harbour", "simhallen", "the school", "återvinningen", "town hall", "museet", "the pool")


def write_model(directory: Path, family: Family, *, seed: int = 0) -> Path:
    """A model of about 30,000 parameters, without dropout of its own; context 256 tokens."""
    import torch  # whoever only wants rows need not wait for it
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    shared = write_tokenizer(directory)
    torch.manual_seed(seed)
    if family == "llama":
        llama = LlamaConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            **shared,
        )
        model = LlamaForCausalLM(llama)
    else:
        gpt2 = GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=256, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **shared
        )
        model = GPT2LMHeadModel(gpt2)
    with torch.no_grad():  # random weights as drawn give logits near zero, in which no mistake shows
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    model.save_pretrained(directory)
    return directory


def write_tokenizer(directory: Path) -> dict[str, Any]:
    """A tokenizer trained on the spot, with a chat template; what a model's configuration must know of it."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE, **SPECIAL_TOKENS}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    ids = {f"{name}_id": tokenizer.token_to_id(token) for name, token in SPECIAL_TOKENS.items()}
    return {"vocab_size": tokenizer.get_vocab_size(), **ids}


def chat_rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Different chats of one or two turns, of quite different lengths."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        turns = draw.choice((1, 1, 2))
        messages = []
        for _ in range(turns):
            hours = ", ".join(f"{draw.randint(6, 12)}-{draw.randint(13, 22)}" for _ in range(draw.randint(1, 4)))
            messages += [
                {"role": "user", "content": f"Number {number}: when is {draw.choice(_PLACES)} open?"},
                {"role": "assistant", "content": f"Öppet {hours} at {draw.choice(_PLACES)}."},
            ]
        rows.append({"messages": messages})
    return rows


def preference_rows(count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Different questions, each with an answer that is preferred and one that is not, of different lengths."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        hours = ", ".join(f"{draw.randint(6, 12)}-{draw.randint(13, 22)}" for _ in range(draw.randint(1, 3)))
        rejected = " ".join(["Vet inte."] * draw.randint(1, 4))
        rows.append(
            {
                "prompt": [{"role": "user", "content": f"Number {number}: when is {draw.choice(_PLACES)} open?"}],
                "chosen": [{"role": "assistant", "content": f"Öppet {hours}."}],
                "rejected": [{"role": "assistant", "content": f"{rejected} {number}"}],
            }
        )
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def assignment(model: Path, dataset: Path, directory: Path, family: Family = "llama", **changes: Any) -> Assignment:
    """What a small training of `model` on `dataset` depends on; `changes` replace fields."""
    fields: dict[str, Any] = {
        "engine": "torch",
        "key": f"tiny-{family}",
        "model_path": str(model),
        "dataset_path": str(dataset),
        "dataset_sha256": hashlib.sha256(dataset.read_bytes()).hexdigest(),
        "format": "messages",
        "strategy": "chat",
        "validation_split": 0.2,
        "max_length": 128,
        "directory": str(directory),
        "threads": 1,
        "seed": 7,
        "num_epochs": 3,
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_scheduler": "cosine",
        "warmup_ratio": 0.2,
        "max_grad_norm": 0.5,
        "weight_decay": 0.01,
        "lora_r": 4,
        "lora_alpha": 8.0,
        "lora_dropout": 0.0,
        "target_modules": TARGETS[family],
    }
    return Assignment(**{**fields, **changes})


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL_TOKENS.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (message["content"] for row in chat_rows(40, seed=1) for message in row["messages"])
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIAL_TOKENS["bos_token"]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]),
        ]
    )
    return tokenizer
