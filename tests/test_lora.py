"""LoRA in a model, and in PEFT's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from oneseek.engine.base_model import load_base_model
from oneseek.engine.lora import (
    LoraLinear,
    adapter_config,
    adapter_parameters,
    adapter_state,
    attach,
    disabled,
    load_adapter_state,
)
from oneseek.errors import WorkerFailed
from oneseek.registry.capabilities import lora_targets
from oneseek.registry.discover import describe
from support.tiny_models import TARGETS, Family, write_model

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
]
FAMILIES: tuple[Family, ...] = ("llama", "gpt2")
IDS = torch.tensor([[5, 9, 40, 77, 200, 31, 6]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: write_model(root / family, family) for family in FAMILIES}


def load(path: Path) -> Any:
    return load_base_model(path, torch.float32).eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def adapted(path: Path, family: Family, *, trained: bool = True) -> Any:
    """A model with an adapter whose B is not zero any more."""
    model = load(path)
    torch.manual_seed(3)
    attach(model, TARGETS[family], r=4, alpha=8, dropout=0.1)
    if trained:
        with torch.no_grad():
            for parameter in adapter_parameters(model).values():
                parameter.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_adapter_changes_nothing(bases: dict[Family, Path], family: Family) -> None:
    before = logits(load(bases[family]))

    after = logits(adapted(bases[family], family, trained=False))

    assert torch.equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_disabled_adapter_leaves_the_base_model(bases: dict[Family, Path], family: Family) -> None:
    base = logits(load(bases[family]))
    model = adapted(bases[family], family)

    with disabled(model):
        inside = logits(model)

    assert torch.equal(inside, base)
    assert (logits(model) - base).abs().max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapter_is_trained(bases: dict[Family, Path], family: Family) -> None:
    model = adapted(bases[family], family)

    model(input_ids=IDS, use_cache=False).logits.square().mean().backward()

    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if name.endswith(("lora_a", "lora_b"))}
    assert all(parameter.dtype == torch.float32 for parameter in adapter_parameters(model).values())


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_peft_gives_the_same_logits_with_an_adapter_of_ours(
    bases: dict[Family, Path], family: Family, tmp_path: Path
) -> None:
    model = adapted(bases[family], family)
    config = adapter_config(model, str(bases[family]), TARGETS[family], r=4, alpha=8, dropout=0.1)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(adapter_state(model), tmp_path / "adapter_model.safetensors")

    by_peft = PeftModel.from_pretrained(load(bases[family]), str(tmp_path)).eval()

    assert (logits(by_peft) - logits(model)).abs().max() <= 1e-5
    assert by_peft.peft_config["default"].fan_in_fan_out is (family == "gpt2")
    assert set(get_peft_model_state_dict(by_peft)) == set(adapter_state(model))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_adapter_that_peft_wrote_gives_the_same_logits_here(bases: dict[Family, Path], family: Family) -> None:
    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=list(TARGETS[family]),
        task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
        init_lora_weights=False,
    )
    by_peft = get_peft_model(load(bases[family]), settings).eval()
    model = adapted(bases[family], family, trained=False)

    load_adapter_state(model, get_peft_model_state_dict(by_peft))

    assert (logits(by_peft) - logits(model)).abs().max() <= 1e-5
    assert (logits(by_peft) - logits(load(bases[family]))).abs().max() > 0.01


def test_a_name_means_a_whole_path_or_its_last_parts(bases: dict[Family, Path]) -> None:
    chosen = attach(load(bases["llama"]), ["model.layers.1.mlp.up_proj", "self_attn.v_proj"], r=2, alpha=4, dropout=0)

    assert chosen == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.mlp.up_proj",
    ]


def test_a_target_that_does_not_exist_is_refused_and_what_exists_is_named(bases: dict[Family, Path]) -> None:
    with pytest.raises(WorkerFailed) as failed:
        attach(load(bases["gpt2"]), ["c_attn", "q_proj"], r=2, alpha=4, dropout=0)

    assert failed.value.kind == "refused"
    assert "'q_proj'" in failed.value.problem
    assert "c_attn" in failed.value.fix
    assert "c_fc" in failed.value.fix


@pytest.mark.parametrize("name", ["embed_tokens", "proj", "self_attn"])
def test_a_name_of_something_that_is_not_a_linear_layer_is_refused(bases: dict[Family, Path], name: str) -> None:
    with pytest.raises(WorkerFailed):
        attach(load(bases["llama"]), [name], r=2, alpha=4, dropout=0)


def test_an_adapter_of_another_shape_is_refused(bases: dict[Family, Path]) -> None:
    model = adapted(bases["llama"], "llama")
    state = adapter_state(model)
    name = next(iter(state))
    state[name] = state[name][:1]

    with pytest.raises(WorkerFailed) as failed:
        load_adapter_state(model, state)

    assert name in failed.value.problem


def test_the_first_values_follow_from_torchs_seed(bases: dict[Family, Path]) -> None:
    one = adapter_state(adapted(bases["llama"], "llama", trained=False))
    torch.rand(5)
    two = adapter_state(adapted(bases["llama"], "llama", trained=False))

    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(tensor.abs().sum() > 0 for name, tensor in one.items() if "lora_A" in name)


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    layer = LoraLinear(torch.nn.Linear(64, 8), r=4, alpha=4, dropout=0.5)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 64)

    training = [layer.train()(x) for _ in range(2)]
    evaluation = [layer.eval()(x) for _ in range(2)]

    assert not torch.equal(*training)
    assert torch.equal(*evaluation)


def test_models_may_change_a_layers_output_in_place() -> None:
    layer = LoraLinear(nn.Linear(4, 4), r=2, alpha=4, dropout=0.0)
    x = torch.randn(3, 4)

    expected = layer(x) + 1
    output = layer(x)
    output += 1
    output.sum().backward()

    assert torch.equal(output, expected)
    assert layer.lora_b.grad is not None


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 8 / 16), (True, 8 / 4)])
def test_rank_stabilised_lora_scales_by_the_root_of_the_rank_here_and_in_peft(
    bases: dict[Family, Path], tmp_path: Path, rslora: bool, scaling: float
) -> None:
    model = load(bases["llama"])
    attach(model, ("q_proj", "down_proj"), r=16, alpha=8, dropout=0.0, rslora=rslora)
    layers = [layer for layer in model.modules() if isinstance(layer, LoraLinear)]
    for layer in layers:
        nn.init.normal_(layer.lora_b)
    config = adapter_config(model, str(bases["llama"]), ("q_proj", "down_proj"), 16, 8, 0.0, rslora=rslora)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(adapter_state(model), tmp_path / "adapter_model.safetensors")

    by_peft = PeftModel.from_pretrained(load(bases["llama"]), str(tmp_path)).eval()

    assert {layer.scaling for layer in layers} == {scaling}
    assert torch.allclose(logits(by_peft), logits(model), atol=1e-5)


def test_a_layer_shows_the_weight_and_bias_of_its_base() -> None:
    base = torch.nn.Linear(4, 3)

    layer = LoraLinear(base, r=2, alpha=4, dropout=0)

    assert layer.weight is base.weight
    assert layer.bias is base.bias
    assert LoraLinear(torch.nn.Linear(4, 3, bias=False), r=2, alpha=4, dropout=0).bias is None
    assert sorted(dict(layer.named_parameters())) == ["base.bias", "base.weight", "lora_a", "lora_b"]


# -- models whose modules are not what their names say -------------------------------------------------------------

SMALL: dict[str, Any] = {
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}


def odd_model(directory: Path, kind: str) -> Path:
    """A model of a family with experts or state-space layers, saved by transformers."""
    torch.manual_seed(0)
    config: Any
    match kind:
        case "deepseek_v3":
            latent = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
            groups = {"qk_nope_head_dim": 8, "n_group": 1, "topk_group": 1, "n_routed_experts": 4}
            dense = {"first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4}
            config = transformers.DeepseekV3Config(**{**SMALL, **MOE, **latent, **groups, **dense})
        case "qwen2_moe":
            config = transformers.Qwen2MoeConfig(**SMALL, **MOE, num_experts=4, shared_expert_intermediate_size=16)
        case "mamba":
            config = transformers.MambaConfig(vocab_size=260, hidden_size=32, num_hidden_layers=2, state_size=4)
        case _:
            every = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
            config = transformers.JambaConfig(**SMALL, **every, num_experts=2, mamba_d_state=4, use_mamba_kernels=False)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", ["deepseek_v3", "qwen2_moe", "mamba", "jamba"])
def test_plain_peft_gives_the_same_logits_on_models_with_experts_or_state_space_layers(
    kind: str, tmp_path: Path
) -> None:
    base = odd_model(tmp_path / "base", kind)
    targets = lora_targets(describe(base), "auto")
    model = load(base)
    attach(model, targets, r=4, alpha=8, dropout=0.0)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.normal_(std=0.2)
    (tmp_path / "adapter").mkdir()
    config = adapter_config(model, str(base), targets, r=4, alpha=8, dropout=0.0)
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(adapter_state(model), tmp_path / "adapter" / "adapter_model.safetensors")

    by_peft = PeftModel.from_pretrained(load(base), str(tmp_path / "adapter")).eval()

    assert (logits(by_peft) - logits(model)).abs().max() <= 1e-5
    assert (logits(model) - logits(load(base))).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["mamba", "jamba"])
def test_every_adapter_of_a_state_space_model_learns(kind: str, tmp_path: Path) -> None:
    base = odd_model(tmp_path / "base", kind)
    model = load(base)
    attach(model, lora_targets(describe(base), "all-linear"), r=2, alpha=4, dropout=0.0)

    model.train()(input_ids=IDS, use_cache=False).logits.square().mean().backward()

    untouched = [
        name
        for name, parameter in adapter_parameters(model).items()
        if "lora_B" in name and (parameter.grad is None or not parameter.grad.any())
    ]
    assert untouched == []


def test_a_state_space_model_runs_with_an_adapter_where_its_weight_is_read_directly(tmp_path: Path) -> None:
    base = odd_model(tmp_path / "base", "mamba")
    model = load(base)

    attach(model, ["dt_proj"], r=2, alpha=4, dropout=0.0)

    assert torch.equal(logits(model), logits(load(base)))


def written_out(layer: LoraLinear, x: Tensor) -> Tensor:
    """The layer's definition, left to autograd."""
    low = nn.functional.linear(layer.dropout(x), layer.lora_a)
    base: Tensor = layer.base(x)
    return base + nn.functional.linear(low, layer.lora_b) * layer.scaling


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_output_and_gradients_are_those_that_autograd_finds_for_the_definition(
    kind: str, bias: bool, dropout: float
) -> None:
    torch.manual_seed(1)
    base = Conv1D(5, 7) if kind == "conv1d" else nn.Linear(7, 5, bias=bias)
    layer = LoraLinear(base, r=3, alpha=6, dropout=dropout).double()
    layer.requires_grad_(False)
    layer.lora_a.requires_grad_(True)
    layer.lora_b.requires_grad_(True)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)
    inputs = (x, layer.lora_a, layer.lora_b)
    weights = torch.randn(2, 4, 5, dtype=torch.float64)

    found = []
    for compute in (lambda: layer(x), lambda: written_out(layer, x)):
        torch.manual_seed(2)  # the same elements are dropped
        output = compute()
        found.append((output, *torch.autograd.grad((output * weights).sum(), inputs)))

    for ours, autograds in zip(*found, strict=True):
        assert torch.allclose(ours, autograds, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    torch.manual_seed(0)
    base = Conv1D(5, 7) if kind == "conv1d" else nn.Linear(7, 5, bias=kind == "linear")
    layer = LoraLinear(base.requires_grad_(False), r=3, alpha=6, dropout=0.0).double()
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 4, 7, dtype=torch.float64, requires_grad=True)

    def adapted(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(layer, {"lora_a": a, "lora_b": b}, (x,))
        return found

    expected = base(x) + x @ layer.lora_a.t() @ layer.lora_b.t() * 2
    assert torch.allclose(layer(x), expected)
    assert torch.autograd.gradcheck(adapted, (x, layer.lora_a, layer.lora_b))
