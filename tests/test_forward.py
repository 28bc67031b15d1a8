"""Packed rows: the same losses as padded ones, no example sees another, and who can't be packed is found out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from oneseek.datasets.tokens import IGNORED, Example
from oneseek.engine.forward import Forward, Item, choose_forward, learned, pack, pad, sequences
from oneseek.engine.forward import _other as turned
from oneseek.engine.head import CHUNK, head_nats
from oneseek.engine.pairs import Pair
from oneseek.errors import WorkerFailed

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


def of(ids: list[int], learned: range) -> Example:
    """An example of which these places are learned."""
    labels = [token if place in learned else IGNORED for place, token in enumerate(ids)]
    return Example(
        input_ids=np.array(ids, dtype=np.int32),
        labels=np.array(labels, dtype=np.int32),
        answer_mask=np.zeros(len(ids), dtype=bool),
        answer_bytes=0,
        truncated=False,
    )


def random_ids(length: int, seed: int) -> list[int]:
    ids: list[int] = torch.randint(97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return ids


def example(length: int, seed: int) -> Example:
    return of(random_ids(length, seed), range(length // 2, length))


EXAMPLES = [example(length, seed) for seed, length in enumerate((40, 7, 23, 2, 31))]


def pair(prompt: int, chosen: int, rejected: int, seed: int) -> Pair:
    """Two answers to one prompt, all of random tokens; only the answers are learned."""
    asked = random_ids(prompt, seed)
    answers = [random_ids(chosen, seed + 100), random_ids(rejected, seed + 200)]
    one, other = (of(asked + said, range(prompt, prompt + len(said))) for said in answers)
    return Pair(one, other, shared=prompt)


PAIRS = [pair(20, 11, 7, 0), pair(1, 3, 30, 1), pair(9, 1, 1, 2)]


def padded(made: Any) -> Forward:
    """The model's own way."""
    return Forward(made, CPU, "padded", head=None, own_attention=made.config._attn_implementation)


@pytest.mark.parametrize("items", [EXAMPLES, PAIRS], ids=["examples", "pairs"])
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
    family: str, config: dict[str, Any], plain_head: bool, items: list[Item]
) -> None:
    one, other = model(family, **config), model(family, **config)
    for made in (one, other):
        made.get_output_embeddings().requires_grad_(False)  # the head is frozen in LoRA, and gets no gradient here

    way = choose_forward(other, items, CPU)

    assert way.attention == "packed"
    assert way.head is (other.get_output_embeddings() if plain_head else None)
    expected, found = padded(one).nats(items), way.nats(items)
    assert torch.allclose(expected, found, atol=1e-5)
    expected.sum().backward()  # type: ignore[no-untyped-call]
    found.sum().backward()  # type: ignore[no-untyped-call]
    parameters = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.allclose(a.grad, b.grad, atol=1e-4) for a, b in parameters if a.grad is not None)


@pytest.mark.parametrize("items", [EXAMPLES, PAIRS], ids=["examples", "pairs"])
def test_no_example_sees_another(items: list[Item]) -> None:
    way = choose_forward(model("Llama", **SIZES), items, CPU)
    before = way.nats(items)

    for place in range(len(items)):
        changed = [*items]
        changed[place] = turned(items[place])
        after = way.nats(changed)

        start, end = learned(items[:place]), learned(items[: place + 1])
        assert torch.equal(before[:start], after[:start])
        assert torch.equal(before[end:], after[end:])
        assert not torch.equal(before[start:end], after[start:end])


@pytest.mark.parametrize("name", ["chosen", "rejected"])
def test_neither_answer_of_a_pair_sees_the_other(name: str) -> None:
    way = choose_forward(model("Llama", **SIZES), PAIRS, CPU)
    before = way.nats(PAIRS[:1])
    answer: Example = getattr(PAIRS[0], name)
    other = replace(answer, input_ids=np.concatenate([answer.input_ids[:20], answer.input_ids[:19:-1]]))

    after = way.nats([replace(PAIRS[0], **{name: other})])  # type: ignore[arg-type]

    chosen = slice(0, PAIRS[0].chosen.supervised_tokens)
    rejected = slice(PAIRS[0].chosen.supervised_tokens, None)
    same, different = (rejected, chosen) if name == "chosen" else (chosen, rejected)
    assert torch.equal(before[same], after[same])
    assert not torch.equal(before[different], after[different])


@pytest.mark.parametrize(
    ("family", "config", "plain_head"),
    [
        ("Bloom", BLOOM, True),
        ("Mamba", MAMBA, True),
        ("Gemma2", {**SIZES, "head_dim": 8, "sliding_window": 64}, False),
    ],
)
@pytest.mark.parametrize("items", [EXAMPLES, PAIRS], ids=["examples", "pairs"])
def test_who_cannot_be_packed_is_found_by_trying_and_padded(
    family: str, config: dict[str, Any], plain_head: bool, items: list[Item]
) -> None:
    made = model(family, **config)
    own = made.config._attn_implementation
    before = padded(made).nats(items)

    way = choose_forward(made, items, CPU)

    assert way.attention == "padded"
    assert way.head is (made.get_output_embeddings() if plain_head else None)
    assert made.config._attn_implementation == own
    assert torch.allclose(way.nats(items), before, atol=1e-5)


@pytest.mark.parametrize("items", [EXAMPLES, PAIRS], ids=["examples", "pairs"])
def test_a_model_whose_rows_change_each_other_even_padded_computes_each_by_itself(items: list[Item]) -> None:
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10_000.0}
    settings = {**SIZES, "pad_token_id": 0, "rope_parameters": factors, "original_max_position_embeddings": 12}
    made = model("Phi3", **settings)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)
    apart = torch.cat([padded(made).nats([each]) for item in items for each in sequences(item)])

    together = padded(made).nats(items)

    way = choose_forward(made, items, CPU)

    assert not torch.allclose(together, apart, atol=1e-2)
    assert way.attention == "single"
    assert torch.allclose(way.nats(items), apart, atol=1e-5)


@pytest.mark.parametrize("items", [EXAMPLES, PAIRS], ids=["examples", "pairs"])
def test_a_model_that_sees_what_it_is_asked_for_is_refused(items: list[Item]) -> None:
    settings = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    made = transformers.BertLMHeadModel(transformers.BertConfig(**settings))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0 if parameter.ndim == 2 else 1.0)

    with pytest.raises(WorkerFailed) as failed:
        choose_forward(made, items, CPU)

    assert failed.value.kind == "refused"
    assert "BertLMHeadModel looks ahead" in failed.value.problem


def test_running_out_of_memory_while_trying_is_not_taken_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    nats = Forward.nats

    def exhausted(self: Forward, items: list[Item]) -> Tensor:
        if self.attention == "packed":
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return nats(self, items)

    monkeypatch.setattr(Forward, "nats", exhausted)

    with pytest.raises(RuntimeError, match="allocate memory"):
        choose_forward(model("Llama", **SIZES), EXAMPLES, CPU)


# -- batches -------------------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12),
    budget=st.integers(1, 120),
    paired=st.booleans(),
    packed=st.booleans(),
)
def test_batches_keep_order_and_budget_and_are_as_large_as_they_may(
    lengths: list[tuple[int, int, int]], budget: int, paired: bool, packed: bool
) -> None:
    items: list[Item] = [pair(*each, seed=0) if paired else example(each[0] + 1, 0) for each in lengths]
    way = Forward(None, CPU, "packed" if packed else "padded", head=None, own_attention="")

    def size(batch: list[Item]) -> int:
        row = pack(batch) if packed else pad(batch)
        return row.ids.size

    batches = list(way.batches(items, budget))

    assert [id(item) for batch in batches for item in batch] == [id(item) for item in items]
    assert all(size(batch) <= budget or len(batch) == 1 for batch in batches)
    for batch, after in pairwise(batches):
        assert size([*batch, after[0]]) > budget


def test_rows_without_a_token_can_be_put_together() -> None:
    empty = [of([], range(0))] * 2

    assert pad(empty).ids.shape == (2, 0)
    assert pack(empty).ids.shape == (1, 0)
    assert pack(empty).ids.dtype == pad(empty).targets.dtype == "int64"


# -- the head ------------------------------------------------------------------------------------------------------


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
