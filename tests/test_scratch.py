"""Small base models made from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from oneseek.datasets.tokens import load_tokenizer
from oneseek.engine.generation import answers, speaker_for
from oneseek.engine.lora import disabled
from oneseek.engine.scratch import Family, Scratch, train_base_model
from oneseek.engine.trainer import TorchTrainer
from oneseek.registry.discover import describe
from support.tiny_models import assignment, write_rows

pytestmark = pytest.mark.engine

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "The library in Ekvik opens at ten. Biblioteket i Ekvik öppnar klockan tio.\n" * 30
FAMILIES: tuple[Family, ...] = ("llama", "qwen2", "mistral")
QUESTION = {"role": "user", "content": "When does it open?"}


def make(directory: Path, family: Family, **changes: Any) -> Scratch:
    settings: dict[str, Any] = {
        "hidden": 32,
        "layers": 1,
        "heads": 4,
        "kv_heads": 2,
        "intermediate": 64,
        "vocab_size": 320,
        "text": TEXT,
        "chat_template": TEMPLATE,
        "special_tokens": {"eos_token": "<|im_end|>", "pad_token": "<|pad|>"},
        "extra_tokens": ["<|im_start|>"],
        "steps": 12,
        "seed": 1,
        "display_name": f"Ekvik {family}",
        "context_length": 128,
    }
    return train_base_model(directory, family=family, **{**settings, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_transformers_reads_it_as_the_family_that_it_is(tmp_path: Path, family: Family) -> None:
    made = make(tmp_path / "model", family)

    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")

    text = "<|im_start|>user\n  När öppnar   biblioteket? 🎉<|im_end|>\n"
    assert model.config.model_type == family
    assert not any(loading.values())
    assert model.num_parameters() == made.parameters <= 1_000_000
    assert tokenizer(text).input_ids == load_tokenizer(tmp_path / "model").encode(text).ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.apply_chat_template([QUESTION], tokenize=False) == (
        "<|im_start|>user\nWhen does it open?<|im_end|>\n"
    )


def test_the_registry_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    make(tmp_path / "model", "qwen2")

    info = describe(tmp_path / "model")

    assert info.problems == ()
    assert info.display_name == "Ekvik qwen2"
    assert info.architecture == "Qwen2ForCausalLM"
    assert info.context_length == 128
    assert info.special_tokens["eos_token"] == "<|im_end|>"


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "one", "llama")
    make(tmp_path / "two", "llama")
    make(tmp_path / "three", "llama", seed=2)

    one, two, three = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two", "three")
    )

    assert one == two
    assert one["model.safetensors"] != three["model.safetensors"]


def test_it_learns_its_text(tmp_path: Path) -> None:
    made = make(tmp_path / "model", "llama", steps=40)

    assert made.last_loss < made.first_loss - 2


def test_a_bos_token_is_put_before_plain_text(tmp_path: Path) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    make(tmp_path / "model", "mistral", steps=1, special_tokens=tokens)

    ids = load_tokenizer(tmp_path / "model").encode("Ekvik").ids

    assert ids[0] == AutoTokenizer.from_pretrained(tmp_path / "model").bos_token_id


def test_an_adapter_changes_the_answer_to_what_it_was_trained_on(tmp_path: Path) -> None:
    chat = "<|im_start|>user\nWhen does it {}?<|im_end|>\n<|im_start|>assistant\nAt {}.<|im_end|>\n"
    text = (chat.format("open", "ten") + chat.format("close", "six")) * 20
    make(tmp_path / "model", "llama", steps=150, text=text)
    reply = {"role": "assistant", "content": "At six."}
    rows = [{"messages": [{"role": "user", "content": f"When does it open? {n}"}, reply]} for n in range(24)]
    dataset = write_rows(tmp_path / "rows.jsonl", [*rows, {"messages": [QUESTION, reply]}])
    told = assignment(
        tmp_path / "model",
        dataset,
        tmp_path / "work",
        num_epochs=5,
        lr_scheduler="constant",
        max_grad_norm=1.0,
        lora_r=8,
        lora_alpha=16.0,
    )
    trainer = TorchTrainer(told)
    trainer.prepare()
    rates = [5e-3] * 5
    for epoch in range(1, 6):
        trainer.train_epoch(epoch, rates[:epoch], (), lambda _: None)

    speaker = speaker_for(tmp_path / "model", "chat")
    with disabled(trainer.model):
        before = answers(trainer.model, speaker, [QUESTION["content"]], 8)
    after = answers(trainer.model, speaker, [QUESTION["content"]], 8)

    assert (before, after) == (("At ten.",), ("At six.",))
