"""Base models in 4 and 8 bits: packed by bitsandbytes, multiplied whole. Where it is installed, on the CPU as well."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from oneseek.config.parse import parse
from oneseek.config.schema import TrainingConfig
from oneseek.engine.base_model import load_base_model
from oneseek.engine.create import create
from oneseek.engine.interface import Damaged, EpochResult, Progress
from oneseek.engine.lora import LoraLinear, adapter_config, adapter_parameters, adapter_state, attach
from oneseek.engine.quantization import Quantization, QuantizedLinear, loading_options
from oneseek.errors import WorkerFailed
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import check
from support.tiny_models import TARGETS, Family, assignment, chat_rows, write_model, write_rows

pytestmark = pytest.mark.engine
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
FAMILIES: tuple[Family, ...] = ("llama", "gpt2")
QUANTIZATIONS: tuple[Quantization, ...] = ("4bit", "8bit")
MEAN_ERROR = {"4bit": 0.15, "8bit": 0.01}  # of a weight's mean magnitude
MAPS = Path("/proc/self/maps")
IDS = torch.tensor([[5, 9, 40, 77, 200, 31, 6]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: write_model(root / family, family) for family in FAMILIES}


def quantized_linears(model: nn.Module) -> dict[str, QuantizedLinear]:
    return {path: module for path, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def a_linear(bases: dict[Family, Path], quantization: Quantization, family: Family = "llama") -> QuantizedLinear:
    return next(iter(quantized_linears(load_base_model(bases[family], torch.float32, quantization)).values()))


# -- loading ---------------------------------------------------------------------------------------------------------


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_layer_but_the_head_is_packed_and_close_to_what_it_was(
    bases: dict[Family, Path], family: Family, quantization: Quantization
) -> None:
    plain: Any = load_base_model(bases[family], torch.float32)

    model: Any = load_base_model(bases[family], torch.float32, quantization)

    packed = quantized_linears(model)
    assert {path.rpartition(".")[2] for path in packed} >= set(TARGETS[family])
    assert type(model.get_output_embeddings()) is nn.Linear
    for path, layer in packed.items():
        own = plain.get_submodule(path).weight.detach()
        weight = own.t() if family == "gpt2" else own  # (out, in)
        assert (layer.out_features, layer.in_features) == layer.weight.shape == weight.shape
        assert layer.was_conv1d == (family == "gpt2")
        assert (layer.weight - weight).abs().mean() < MEAN_ERROR[quantization] * weight.abs().mean()
        assert layer.packed.nbytes * (8 if quantization == "4bit" else 4) == weight.nbytes


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_model_loaded_twice_is_the_same_bits(bases: dict[Family, Path], quantization: Quantization) -> None:
    one, other = (load_base_model(bases["llama"], torch.float32, quantization) for _ in range(2))

    assert torch.equal(logits(one), logits(other))


@needs_bitsandbytes
@pytest.mark.skipif(not MAPS.is_file(), reason="this system does not list the files that are mapped into memory")
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_file_of_whole_weights_does_not_stay_in_memory(
    bases: dict[Family, Path], quantization: Quantization
) -> None:
    model = load_base_model(bases["llama"], torch.float32, quantization)

    assert quantized_linears(model)
    assert str(bases["llama"]) not in MAPS.read_text()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_without_bitsandbytes_the_refusal_says_what_to_install(
    bases: dict[Family, Path], quantization: Quantization, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr("transformers.quantizers.quantizer_bnb_8bit.is_bitsandbytes_available", lambda: False)

    with pytest.raises(WorkerFailed) as raised:
        load_base_model(bases["llama"], torch.float32, quantization)

    assert raised.value.kind == "refused"
    assert "bitsandbytes" in raised.value.problem
    assert "oneseek[quantization]" in raised.value.fix


# -- multiplying -----------------------------------------------------------------------------------------------------


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_product_and_its_gradient_are_those_of_the_whole_weight(
    bases: dict[Family, Path], family: Family, quantization: Quantization
) -> None:
    layer = a_linear(bases, quantization, family)
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, layer.in_features, requires_grad=True)
    twin = x.detach().clone().requires_grad_()

    found, expected = layer(x), nn.functional.linear(twin, layer.weight, layer.bias)
    found.square().sum().backward()
    expected.square().sum().backward()  # type: ignore[no-untyped-call]

    assert torch.allclose(found, expected, atol=1e-6)
    assert x.grad is not None
    assert twin.grad is not None
    assert torch.allclose(x.grad, twin.grad, atol=1e-5)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_row_with_outliers_changes_no_other_row(bases: dict[Family, Path], quantization: Quantization) -> None:
    layer = a_linear(bases, quantization)
    rows = torch.randn(8, layer.in_features).clamp(-3, 3)
    rows[5, 4] = 5.9
    changed = rows.clone()
    changed[0, 4] = 50.0  # LLM.int8 computes a column with such a value in another way, for all rows

    assert torch.equal(layer(rows)[1:], layer(changed)[1:])


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_there_is_a_gradient_after_an_evaluation_too(bases: dict[Family, Path], quantization: Quantization) -> None:
    model: Any = load_base_model(bases["llama"], torch.float32, quantization).eval()
    logits(model)
    embedded = model.get_input_embeddings()(IDS).detach().requires_grad_()

    model.train()(inputs_embeds=embedded, use_cache=False).logits.sum().backward()

    assert embedded.grad is not None
    assert embedded.grad.abs().min() > 0


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_no_whole_weight_is_kept_for_the_backward_pass(bases: dict[Family, Path], quantization: Quantization) -> None:
    layer = a_linear(bases, quantization)
    adapted = LoraLinear(layer, r=2, alpha=4, dropout=0.0)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        adapted(torch.randn(3, layer.in_features, requires_grad=True))
        layer(torch.randn(3, layer.in_features, requires_grad=True))

    assert kept
    assert all(tensor.shape != layer.weight.shape for tensor in kept)


def widened(base: Path, target: Path) -> Path:
    """A model as `base` with 64 inputs to each layer: with 32, bitsandbytes' own product is wrong on CPUs."""
    config = AutoConfig.from_pretrained(base)
    config.hidden_size = 64
    if hasattr(config, "intermediate_size"):
        config.intermediate_size, config.head_dim = 128, 16
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(target)
    return target


# -- the adapter -----------------------------------------------------------------------------------------------------


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_an_adapter_are_those_on_the_unpacked_weights(
    bases: dict[Family, Path], family: Family, quantization: Quantization
) -> None:
    quantized: Any = load_base_model(bases[family], torch.float32, quantization)
    unpacked: Any = load_base_model(bases[family], torch.float32)
    with torch.no_grad():
        for path, layer in quantized_linears(quantized).items():
            weight = layer.weight.t() if family == "gpt2" else layer.weight
            unpacked.get_submodule(path).weight.copy_(weight)
    for model in (quantized, unpacked):
        torch.manual_seed(0)
        attach(model, TARGETS[family], r=4, alpha=8, dropout=0.0)
        with torch.no_grad():
            for parameter in adapter_parameters(model).values():
                parameter.normal_(std=0.2)

    for model in (quantized, unpacked):
        model(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()

    expected = adapter_parameters(unpacked)
    for name, parameter in adapter_parameters(quantized).items():
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, expected[name].grad, atol=1e-5), name  # type: ignore[arg-type]


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # PEFT calls it
@pytest.mark.parametrize("packed_base", [True, False], ids=["packed base", "whole base"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_the_adapter_onto_the_packed_and_onto_the_whole_base(
    bases: dict[Family, Path], tmp_path: Path, family: Family, quantization: Quantization, packed_base: bool
) -> None:
    base_path = widened(bases[family], tmp_path / "base")
    ours: Any = load_base_model(base_path, torch.float32, quantization if packed_base else None).eval()
    torch.manual_seed(0)
    attach(ours, TARGETS[family], r=4, alpha=8, dropout=0.0)
    with torch.no_grad():
        for parameter in adapter_parameters(ours).values():
            parameter.normal_(std=0.2)
    config = adapter_config(ours, str(base_path), TARGETS[family], r=4, alpha=8, dropout=0.0)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(adapter_state(ours), tmp_path / "adapter_model.safetensors")
    options = loading_options(quantization, torch.float32) if packed_base else {}

    base = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32, **options)
    theirs = PeftModel.from_pretrained(base, tmp_path).train()  # so that bitsandbytes, too, multiplies in fp32

    assert torch.allclose(logits(theirs), logits(ours), atol=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_training_on_a_packed_base_learns_and_resumes_to_the_same_bits(
    bases: dict[Family, Path], tmp_path: Path, quantization: Quantization
) -> None:
    dataset = write_rows(tmp_path / "rows.jsonl", chat_rows(24))
    rates = [1e-2] * 3

    def trained(name: str, *epochs: int) -> list[EpochResult]:
        trainer = create(assignment(bases["llama"], dataset, tmp_path / name, quantization=quantization))
        trainer.prepare()
        return [trainer.train_epoch(epoch, rates[:epoch], (), ignore) for epoch in epochs]

    through = trained("through", 1, 2, 3)
    trained("broken off", 1)
    resumed = trained("broken off", 2, 3)

    assert through[-1].val_loss < through[0].val_loss
    assert [result.checkpoint for result in resumed] == [result.checkpoint for result in through[1:]]


def ignore(report: Progress | Damaged) -> None:
    assert isinstance(report, Progress)


# -- preflight -------------------------------------------------------------------------------------------------------


def config_for(quantization: Literal["4bit", "8bit"] | None) -> TrainingConfig:
    config, problems = parse({"model": {"base_models": ["llama"], "quantization": quantization}})
    assert problems == ()
    return config


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_quantisation_without_its_packages_is_refused_with_the_words_to_type(quantization: Quantization) -> None:
    facts = Facts(missing_packages=("accelerate", "bitsandbytes"))

    findings = [f for f in check(config_for(quantization), facts) if f.field == "model.quantization"]

    assert [(f.rule, f.severity) for f in findings] == [("quantization-has-its-packages", "error")]
    assert (
        findings[0].problem == f"Loading base models in {quantization} needs accelerate and bitsandbytes, "
        "which are not installed."
    )
    assert "pip install 'oneseek[quantization]'" in findings[0].fix


@pytest.mark.parametrize(
    ("quantization", "missing"), [("4bit", ()), (None, ("bitsandbytes",))], ids=["installed", "not asked for"]
)
def test_quantisation_with_its_packages_or_not_asked_for_is_allowed(
    quantization: Quantization | None, missing: tuple[str, ...]
) -> None:
    findings = check(config_for(quantization), Facts(missing_packages=missing))

    assert "model.quantization" not in [finding.field for finding in findings]
