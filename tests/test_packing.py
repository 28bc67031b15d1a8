"""Packed rows: the same losses as padded ones, no example sees another, and who can't be packed is found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from oneseek.engine.batch import padded_nats
from oneseek.engine.examples import IGNORED, Example
from oneseek.engine.head import CHUNK, head_nats
from oneseek.engine.packing import Packing, try_packing

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


def packed(made: Any) -> Packing:
    packing = try_packing(made, EXAMPLES, CPU)
    assert packing is not None
    return packing


@pytest.mark.parametrize(
    ("family", "config", "plain_head"),
    [
        ("Llama", SIZES, True),
        ("Qwen2", SIZES, True),
        ("Mistral", {**SIZES, "sliding_window": 8}, True),
        ("Phi3", {**SIZES, "pad_token_id": 0}, True),
        ("Phi", {**SIZES, "num_key_value_heads": 4}, True),
        ("GPT2", GPT2, True),
        ("Cohere", {**SIZES, "logit_scale": 0.25}, False),
    ],
)
def test_packed_losses_and_gradients_are_those_of_padded_rows(
    family: str, config: dict[str, Any], plain_head: bool
) -> None:
    one, other = model(family, **config), model(family, **config)
    for made in (one, other):
        made.get_output_embeddings().requires_grad_(False)  # the head is frozen in LoRA, and gets no gradient here

    packing = packed(other)

    assert packing.head is (other.get_output_embeddings() if plain_head else None)
    expected, found = padded_nats(one, EXAMPLES, CPU), packing.nats(EXAMPLES, CPU)
    assert torch.allclose(expected, found, atol=1e-5)
    expected.sum().backward()  # type: ignore[no-untyped-call]
    found.sum().backward()  # type: ignore[no-untyped-call]
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-4) for a, b in pairs if a.grad is not None)


def test_no_example_sees_another() -> None:
    made = model("Llama", **SIZES)
    packing = packed(made)
    before = packing.nats(EXAMPLES, CPU)

    for place in range(len(EXAMPLES)):
        changed = [*EXAMPLES]
        changed[place] = example(len(EXAMPLES[place].input_ids), seed=99)
        after = packing.nats(changed, CPU)

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

    assert try_packing(made, EXAMPLES, CPU) is None

    assert made.config._attn_implementation == own
    assert torch.equal(padded_nats(made, EXAMPLES, CPU), before)


def test_running_out_of_memory_while_trying_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> Tensor:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Packing, "nats", exhausted)

    with pytest.raises(RuntimeError, match="allocate memory"):
        try_packing(model("Llama", **SIZES), EXAMPLES, CPU)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, CHUNK, CHUNK + 3])
def test_the_heads_losses_and_gradients_in_chunks_are_those_of_the_whole(tokens: int, bias: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, 8, generator=draw, requires_grad=True)
    weight, offset = torch.randn(97, 8, generator=draw), torch.randn(97, generator=draw) if bias else None
    targets = torch.randint(97, (tokens,), generator=draw)
    shares = torch.rand(tokens, generator=draw)

    logits = torch.nn.functional.linear(hidden, weight, offset)
    whole = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (expected,) = torch.autograd.grad((whole * shares).sum(), hidden)
    chunked = head_nats(hidden, weight, offset, targets)
    (found,) = torch.autograd.grad((chunked * shares).sum(), hidden)

    assert torch.allclose(whole, chunked, atol=1e-5)
    assert torch.allclose(expected, found, atol=1e-5)
