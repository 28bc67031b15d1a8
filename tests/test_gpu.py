"""What only a GPU can show: its kernels, bf16, and that training on it is right and repeatable."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from oneseek.datasets.tokens import IGNORED, Example
from oneseek.engine import varlen
from oneseek.engine.create import create
from oneseek.engine.forward import Forward, choose_forward
from oneseek.engine.interface import Damaged, EpochResult, Prepared, Progress
from oneseek.engine.lora import LoraLinear
from oneseek.engine.quantization import Quantization
from oneseek.estimate import memory
from oneseek.registry.discover import describe
from support.attention import attention_by_definition, packed_row
from support.tiny_models import TARGETS, assignment, chat_rows, write_model, write_rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

CUDA = torch.device("cuda")
LENGTHS = (130, 1, 64, 257, 30)
SHARED = (0, 1, 0, 40, 0)
WITH_QUANTIZATIONS = [None, *(pytest.param(name, marks=needs_bitsandbytes) for name in ("4bit", "8bit"))]
RATES = [1e-2] * 3


def ignore(report: Progress | Damaged) -> None:
    assert isinstance(report, Progress)


def llama(**changes: Any) -> Any:
    """Four layers in bf16, with weights large enough that a mistake shows."""
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "initializer_range": 0.05,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).to(CUDA, torch.bfloat16).eval()


def example(length: int, seed: int) -> Example:
    ids = np.random.default_rng(seed).integers(1000, size=length, dtype=np.int32)
    labels = np.where(np.arange(length) <= length // 2, IGNORED, ids).astype(np.int32)
    return Example(ids, labels, np.zeros(length, dtype=np.bool_), answer_bytes=0, truncated=False)


EXAMPLES = [example(length, seed) for seed, length in enumerate(LENGTHS)]


# -- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [(), SHARED], ids=["apart", "sharing prompts"])
@pytest.mark.parametrize("window", [None, 48])
@pytest.mark.parametrize(("key_heads", "width"), [(8, 64), (2, 64), (4, 128)])
def test_the_kernel_computes_attention_as_its_definition_says(
    key_heads: int, width: int, window: int | None, shared: Sequence[int]
) -> None:
    row = packed_row(LENGTHS, 8, key_heads, width, torch.bfloat16, "cuda")
    q, k, v = exact = [part.detach().float().requires_grad_() for part in row]

    assert varlen.is_usable(*row)
    found = varlen.attend(*row, LENGTHS, None, window, shared)
    expected = attention_by_definition(q, k, v, LENGTHS, None, window, shared)
    found.float().square().sum().backward()  # type: ignore[no-untyped-call]
    expected.square().sum().backward()  # type: ignore[no-untyped-call]

    assert largest_difference(found, expected) < 0.02
    for part, other in zip(row, exact, strict=True):
        assert part.grad is not None
        assert other.grad is not None
        assert largest_difference(part.grad, other.grad) < 0.02


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """As a share of the largest value. bf16 has eight bits: a rounding is up to 0.004 of a value."""
    return float((found.float() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_kernel_is_not_asked_for_what_it_does_not_compute(dtype: torch.dtype) -> None:
    assert not varlen.is_usable(*packed_row(LENGTHS, 8, 8, 64, dtype, "cuda"))
    assert not varlen.is_usable(*packed_row(LENGTHS, 8, 8, 60, torch.bfloat16, "cuda"))
    assert not varlen.is_usable(*packed_row(LENGTHS, 8, 8, 264, torch.bfloat16, "cuda"))


# -- packed rows -----------------------------------------------------------------------------------------------------


def test_a_llama_in_bf16_is_packed_and_its_losses_are_those_of_padded_rows() -> None:
    model = llama()
    plain = Forward(model, CUDA, "padded", head=None, own_attention=model.config._attn_implementation)

    with torch.no_grad():
        padded = torch.cat([plain.nats([one]) for one in EXAMPLES])
        forward = choose_forward(model, EXAMPLES, CUDA)
        packed = forward.nats(EXAMPLES)

    assert forward.attention == "packed"
    assert forward.head is model.lm_head
    difference = (padded - packed).abs()
    assert difference.mean() < 0.02  # nats; a place counted wrongly makes 0.07 and more
    assert difference.max() < 0.5


def test_no_example_sees_another() -> None:
    forward = choose_forward(llama(), EXAMPLES, CUDA)

    def losses(examples: Sequence[Example]) -> tuple[Tensor, ...]:
        return torch.split(forward.nats(examples), [one.supervised_tokens for one in examples])

    with torch.no_grad():
        before = losses(EXAMPLES)
        for place, one in enumerate(EXAMPLES):
            others = [*EXAMPLES[:place], example(len(one.input_ids), seed=99), *EXAMPLES[place + 1 :]]
            after = losses(others)

            same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert same == [index != place or one.supervised_tokens == 0 for index in range(len(EXAMPLES))]


# -- LoRA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_of_the_thin_lora_are_those_that_autograd_finds(bias: bool) -> None:
    torch.manual_seed(0)
    base = nn.Linear(256, 128, bias=bias, device=CUDA, dtype=torch.bfloat16).requires_grad_(False)
    layer = LoraLinear(base, r=8, alpha=16, dropout=0.0).to(CUDA)
    nn.init.normal_(layer.lora_b, std=0.1)
    x = torch.randn(300, 256, device=CUDA, dtype=torch.bfloat16).requires_grad_()
    exact = [part.detach().float().requires_grad_() for part in (x, layer.lora_a, layer.lora_b)]

    layer(x).float().square().sum().backward()
    low = nn.functional.linear(exact[0], exact[1])
    own = nn.functional.linear(exact[0], base.weight.float(), base.bias.float() if bias else None)
    (own + nn.functional.linear(low, exact[2]) * 2).square().sum().backward()  # type: ignore[no-untyped-call]

    assert layer.lora_a.dtype == layer.lora_b.dtype == torch.float32
    for part, other in zip((x, layer.lora_a, layer.lora_b), exact, strict=True):
        assert part.grad is not None
        assert other.grad is not None
        assert largest_difference(part.grad, other.grad) < 0.02


# -- whole trainings -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "llama", "llama")


def trained(
    base: Path, directory: Path, epochs: Sequence[int], quantization: Quantization | None, **changes: Any
) -> tuple[Prepared, list[EpochResult]]:
    dataset = write_rows(directory.parent / "rows.jsonl", chat_rows(24))
    trainer = create(assignment(base, dataset, directory, quantization=quantization, **changes))
    prepared = trainer.prepare()
    return prepared, [trainer.train_epoch(epoch, RATES[:epoch], (), ignore) for epoch in epochs]


@pytest.mark.parametrize("quantization", WITH_QUANTIZATIONS)
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True], ids=["activations kept", "activations computed twice"])
def test_a_training_learns_and_resumes_to_the_same_bits(
    base: Path, tmp_path: Path, quantization: Quantization | None, checkpointing: bool
) -> None:
    how = {"gradient_checkpointing": checkpointing, "lora_dropout": 0.1}

    prepared, through = trained(base, tmp_path / "through", [1, 2, 3], quantization, **how)
    trained(base, tmp_path / "broken off", [1], quantization, **how)
    _, resumed = trained(base, tmp_path / "broken off", [2, 3], quantization, **how)

    assert (prepared.device, prepared.dtype, prepared.attention) == ("cuda", "bfloat16", "packed")
    assert through[-1].val_loss < through[0].val_loss
    assert [result.checkpoint for result in resumed] == [result.checkpoint for result in through[1:]]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model whose weights are the most of what it needs."""
    directory = write_model(tmp_path_factory.mktemp("wide") / "llama", "llama")
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "head_dim": 256}
    LlamaForCausalLM(LlamaConfig.from_pretrained(directory, **sizes)).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("quantization", WITH_QUANTIZATIONS)
def test_a_training_takes_no_more_memory_than_estimated(
    wide: Path, tmp_path: Path, quantization: Quantization | None
) -> None:
    need = memory(describe(wide), lora_r=4, targets=TARGETS["llama"], tokens=512, quantization=quantization)

    _, (result,) = trained(wide, tmp_path / "work", [1], quantization, token_budget=512)

    assert result.memory_bytes < need.total - need.runtime


@needs_bitsandbytes
def test_a_packed_base_takes_less_memory_than_a_whole_one(wide: Path, tmp_path: Path) -> None:
    whole, four, eight = (
        trained(wide, tmp_path / str(quantization), [1], quantization)[1][0].memory_bytes
        for quantization in (None, "4bit", "8bit")
    )

    assert four < eight < whole
