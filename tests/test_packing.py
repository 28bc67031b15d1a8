"""Packed rows: the same losses as padded ones, no example sees another, and who can't be packed is found out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from oneseek.engine.batch import padded_nats
from oneseek.engine.examples import IGNORED, Example
from oneseek.engine.packing import can_pack, packed_nats

pytestmark = pytest.mark.engine

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
    "max_position_embeddings": 128,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 128, "attn_pdrop": 0.0}
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 97, "state_size": 4}


def model(family: str, **config: Any) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, f"{family}ForCausalLM", None) or getattr(transformers, f"{family}LMHeadModel")
    return made(getattr(transformers, f"{family}Config")(**config)).eval()


def example(length: int, seed: int) -> Example:
    ids = torch.randint(97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    learned = range(length // 2, length)
    return Example(
        input_ids=tuple(ids),
        labels=tuple(token if place in learned else IGNORED for place, token in enumerate(ids)),
        answer_mask=(False,) * length,
        answer_bytes=0,
        truncated=False,
    )


EXAMPLES = [example(length, seed) for seed, length in enumerate((40, 7, 23, 2, 31))]


def nats(made: Any, examples: Sequence[Example]) -> Tensor:
    with torch.no_grad():
        return packed_nats(made, examples, CPU)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("Llama", SIZES),
        ("Qwen2", SIZES),
        ("Mistral", {**SIZES, "sliding_window": 8}),
        ("Phi3", {**SIZES, "pad_token_id": 0}),
        ("GPT2", GPT2),
    ],
)
def test_packed_losses_and_gradients_are_those_of_padded_rows(family: str, config: dict[str, Any]) -> None:
    padded, packed = model(family, **config), model(family, **config)

    assert can_pack(packed, EXAMPLES, CPU)

    expected, found = padded_nats(padded, EXAMPLES, CPU), packed_nats(packed, EXAMPLES, CPU)
    assert torch.allclose(expected, found, atol=1e-5)
    expected.sum().backward()  # type: ignore[no-untyped-call]
    found.sum().backward()  # type: ignore[no-untyped-call]
    pairs = zip(padded.parameters(), packed.parameters(), strict=True)
    assert all(torch.allclose(one.grad, other.grad, atol=1e-4) for one, other in pairs if one.grad is not None)


def test_no_example_sees_another() -> None:
    made = model("Llama", **SIZES)
    assert can_pack(made, EXAMPLES, CPU)
    before = nats(made, EXAMPLES)

    for place in range(len(EXAMPLES)):
        changed = [*EXAMPLES]
        changed[place] = example(len(EXAMPLES[place].input_ids), seed=99)
        after = nats(made, changed)

        start = sum(e.supervised_tokens for e in EXAMPLES[:place])
        end = start + EXAMPLES[place].supervised_tokens
        assert torch.equal(before[:start], after[:start])
        assert torch.equal(before[end:], after[end:])
        assert not torch.equal(before[start:end], after[start:end])


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("Bloom", BLOOM),
        ("Mamba", MAMBA),
        ("Gemma2", {**SIZES, "head_dim": 8, "sliding_window": 64}),
    ],
)
def test_who_cannot_be_packed_is_found_by_trying_and_left_as_it_was(family: str, config: dict[str, Any]) -> None:
    made = model(family, **config)
    own = made.config._attn_implementation
    before = padded_nats(made, EXAMPLES, CPU)

    assert not can_pack(made, EXAMPLES, CPU)

    assert made.config._attn_implementation == own
    assert torch.equal(padded_nats(made, EXAMPLES, CPU), before)


def test_running_out_of_memory_while_trying_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("oneseek.engine.packing.packed_nats", exhausted)

    with pytest.raises(RuntimeError, match="allocate memory"):
        can_pack(model("Llama", **SIZES), EXAMPLES, CPU)
