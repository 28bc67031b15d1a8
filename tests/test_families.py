"""Base models of many families, tiny and random, train without a target named, each on the path that suits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from oneseek.cli import oneseek
from oneseek.engine.base_model import load_base_model
from oneseek.engine.lora import attach
from oneseek.engine.trainer import TorchTrainer
from oneseek.engine.trial import computed
from oneseek.registry.capabilities import lora_targets
from oneseek.registry.coverage import coverage
from oneseek.registry.discover import describe
from support.tiny_models import assignment, write_rows, write_tokenizer

pytestmark = pytest.mark.engine

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
# Class name, configuration, how it is computed. What has ALiBi, a recurrent state or capped scores can't be packed.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "GPT2LMHeadModel": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, ("packed", "chunked")),
    "GPTNeoXForCausalLM": (SIZES, ("packed", "chunked")),
    "OPTForCausalLM": ({**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32}, ("packed", "chunked")),
    "BloomForCausalLM": ({"hidden_size": 32, "n_layer": 2, "n_head": 4}, ("padded", "chunked")),
    "FalconForCausalLM": (SIZES, ("padded", "chunked")),
    "PhiForCausalLM": ({**SIZES, "num_key_value_heads": 4}, ("packed", "chunked")),
    "Phi3ForCausalLM": (SIZES, ("packed", "chunked")),
    "Qwen2ForCausalLM": (SIZES, ("packed", "chunked")),
    "Qwen3ForCausalLM": ({**SIZES, "head_dim": 8}, ("packed", "chunked")),
    "MistralForCausalLM": ({**SIZES, "sliding_window": 16}, ("packed", "chunked")),
    "GemmaForCausalLM": ({**SIZES, "head_dim": 8}, ("packed", "chunked")),
    "Gemma2ForCausalLM": ({**SIZES, "head_dim": 8}, ("padded", "own")),
    "MixtralForCausalLM": ({**SIZES, "num_local_experts": 4}, ("packed", "chunked")),
    "CohereForCausalLM": (SIZES, ("packed", "own")),
    "GraniteForCausalLM": ({**SIZES, "logits_scaling": 8.0}, ("packed", "own")),
    "Starcoder2ForCausalLM": (SIZES, ("packed", "chunked")),
    "MptForCausalLM": ({"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}, ("padded", "chunked")),
    "MambaForCausalLM": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, ("padded", "chunked")),
}


# Besides these, what is peculiar about them: layers of two kinds, a name that is only a number, names that change when
# the model is loaded, a head of several layers, shared experts.
PECULIAR: dict[str, dict[str, Any]] = {
    "Lfm3ForCausalLM": {**SIZES, "num_hidden_layers": 4},
    "CTRLLMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 48, "n_positions": 128},
    "BertLMHeadModel": {**SIZES, "is_decoder": True},
    "DeepseekV3ForCausalLM": {
        **SIZES,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 48,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
    },
}


def write_family(directory: Path, name: str) -> Path:
    ids = write_tokenizer(directory)
    made = getattr(transformers, name)
    config = made.config_class(**(FAMILIES[name][0] if name in FAMILIES else PECULIAR[name]), **ids)
    torch.manual_seed(0)
    made(config).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_of_every_family_trains_without_a_target_named_as_models_show_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oneseek.cli.models.try_model", computed)  # without a process for each family
    model = write_family(tmp_path / "models" / "tiny", name)
    texts = [f"Number {number} is open " + "every day " * (number % 4 + 1) for number in range(12)]
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    targets = lora_targets(describe(model), "auto")
    settings: dict[str, Any] = {
        "format": "text",
        "strategy": "standard",
        "target_modules": targets,
        "lora_dropout": 0.1,
    }
    trainer = TorchTrainer(assignment(model, rows, tmp_path / "work", **settings))

    prepared = trainer.prepare()
    losses = [trainer.train_epoch(epoch, [5e-3] * epoch, (), lambda _: None).val_loss for epoch in (1, 2)]
    exported = trainer.export(2, [5e-3] * 2, lambda _: None)

    shown = CliRunner().invoke(
        oneseek, ["models", "show", "tiny", "--load", "--json", "--models-dir", str(tmp_path / "models")]
    )
    assert (prepared.attention, prepared.head) == FAMILIES[name][1]
    assert losses[1] < losses[0]
    assert exported.output_difference > 0
    assert json.loads(shown.output)["computed"] == dict(zip(("attention", "head"), FAMILIES[name][1], strict=True)) | {
        "type": "Computed"
    }


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize("name", [*FAMILIES, *PECULIAR])
def test_the_matrix_of_every_family_is_what_peft_and_the_engine_put_adapters_on(name: str, tmp_path: Path) -> None:
    info = describe(write_family(tmp_path / "m", name))
    matrices = {found.targets: found for found in (coverage(info, "auto"), coverage(info, "all-linear"))}

    for targets, found in matrices.items():
        settings = LoraConfig(r=2, target_modules=list(targets), task_type="CAUSAL_LM")
        wrapped = get_peft_model(load_base_model(Path(info.path), torch.float32), settings)
        ours = attach(load_base_model(Path(info.path), torch.float32), targets, r=2, alpha=4, dropout=0)

        theirs = [path for path, module in wrapped.named_modules() if isinstance(module, LoraLayer)]
        assert list(found.paths) == sorted(path.removeprefix("base_model.model.") for path in theirs) == sorted(ours)
        assert found.paths


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_what_is_said_to_be_forbidden_on_mamba_is(tmp_path: Path) -> None:
    info = describe(write_family(tmp_path / "m", "MambaForCausalLM"))
    rows = write_rows(tmp_path / "rows.jsonl", [{"text": f"Number {number}"} for number in range(12)])
    settings: dict[str, Any] = {"format": "text", "strategy": "standard", "target_modules": ("dt_proj",)}
    trainer = TorchTrainer(assignment(tmp_path / "m", rows, tmp_path / "work", **settings))
    trainer.prepare()

    with pytest.raises(ValueError, match="incompatible"):
        get_peft_model(load_base_model(tmp_path / "m", torch.float32), LoraConfig(target_modules=["out_proj"]))
    with pytest.raises(RuntimeError, match="does not require grad"):
        trainer.train_epoch(1, [5e-3], (), lambda _: None)
    assert sorted(info.forbidden) == ["dt_proj", "out_proj"]
