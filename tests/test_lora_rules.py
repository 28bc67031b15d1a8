"""Where the adapters go: refused and allowed, with the modules that exist and the line to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from oneseek.config.parse import parse
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Change, Finding
from oneseek.preflight.rules import lora
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import describe
from support.base_models import write_model
from test_coverage import HYBRID, MIXER, model_of


def found(models: list[ModelInfo], targets: Any, **per_model: Any) -> list[Finding]:
    config, problems = parse(
        {
            "model": {"base_models": [model.key for model in models]},
            "lora": {"target_modules": targets},
            "per_model": {key.replace("_", "-"): {"lora": own} for key, own in per_model.items()},
        }
    )
    assert problems == ()
    facts = Facts(models=tuple(models))
    judges = (
        lora.lora_targets_exist,
        lora.lora_targets_can_be_trained,
        lora.lora_targets_take_effect,
        lora.lora_targets_reach_every_layer,
    )
    return [finding for judge in judges for finding in judge(config, facts)]


def test_phis_targets_on_gpt2_name_what_there_is_and_the_line_to_type(tmp_path: Path) -> None:
    gpt2 = describe(write_model(tmp_path / "gpt-2", family="gpt2"))

    (finding,) = found([gpt2], ["q_proj", "v_proj", "k_proj", "dense"])

    assert (finding.rule, finding.severity, finding.field) == ("lora-targets-exist", "error", "lora.target_modules")
    assert finding.problem == "gpt-2 has no modules q_proj, v_proj, k_proj, dense."
    assert finding.fix == ("It has c_attn, c_fc, c_proj. Set lora.target_modules to 'auto', which is [c_attn, c_proj].")
    assert finding.changes == (Change("lora.target_modules", "auto"),)


def test_the_fix_for_one_of_several_models_leaves_the_others_alone(tmp_path: Path) -> None:
    gpt2 = describe(write_model(tmp_path / "gpt-2", family="gpt2"))
    llama = describe(write_model(tmp_path / "llama"))

    (finding,) = found([llama, gpt2], ["q_proj"])
    (own,) = found([gpt2], "auto", gpt_2={"target_modules": ["q_proj"]})

    assert (finding.model, finding.changes) == ("gpt-2", (Change("per_model.gpt-2.lora.target_modules", "auto"),))
    assert own.field == own.changes[0].field == "per_model.gpt-2.lora.target_modules"


def test_where_every_model_that_reads_it_fails_the_fix_is_the_setting_of_all(tmp_path: Path) -> None:
    gpt2 = describe(write_model(tmp_path / "gpt-2", family="gpt2"))
    llama = describe(write_model(tmp_path / "llama"))

    both = found([llama, gpt2], ["Wqkv"])
    spared = found([llama, gpt2], ["Wqkv"], llama={"target_modules": ["q_proj"]})

    assert [(finding.model, finding.changes) for finding in both] == [
        ("llama", (Change("lora.target_modules", "auto"),)),
        ("gpt-2", (Change("lora.target_modules", "auto"),)),
    ]
    assert both[1].fix == ("It has c_attn, c_fc, c_proj. Set lora.target_modules to 'auto', which suits each model.")
    assert [finding.changes for finding in spared] == [(Change("lora.target_modules", "auto"),)]


def test_a_selected_model_that_could_not_be_judged_keeps_the_setting_of_all(tmp_path: Path) -> None:
    gpt2 = describe(write_model(tmp_path / "gpt-2", family="gpt2"))
    config, _ = parse({"model": {"base_models": ["gpt-2", "gone"]}, "lora": {"target_modules": ["q_proj"]}})

    (finding,) = lora.lora_targets_exist(config, Facts(models=(gpt2,)))

    assert finding.changes == (Change("per_model.gpt-2.lora.target_modules", "auto"),)


def test_the_modules_that_a_model_has_are_allowed(tmp_path: Path) -> None:
    gpt2 = describe(write_model(tmp_path / "gpt-2", family="gpt2"))

    for targets in ("auto", "all-linear", ["c_attn"], ["c_attn", "mlp.c_proj", "c_fc"]):
        assert [f for f in found([gpt2], targets) if f.severity == "error"] == []


def test_a_head_or_an_embedding_is_told_plainly(tmp_path: Path) -> None:
    gpt2 = describe(write_model(tmp_path / "gpt-2", family="gpt2"))

    (finding,) = found([gpt2], ["c_attn", "wte", "lm_head", "nope"])

    assert finding.problem == (
        "gpt-2 has no module nope. lm_head of gpt-2 can't be adapted: it is the model's output head, and shares its "
        "weight with the embedding. wte of gpt-2 can't be adapted: it is an embedding."
    )


def test_a_module_of_some_layers_is_a_warning_with_the_numbers(tmp_path: Path) -> None:
    info = model_of(tmp_path / "hybrid", HYBRID)

    (finding,) = found([info], ["q_proj"])

    assert (finding.rule, finding.severity) == ("lora-targets-reach-every-layer", "warning")
    assert finding.problem == "hybrid: q_proj is in 2 of 4 layers (1, 3). 3 of 6 linear layers are trained."
    assert found([info], "auto") == found([info], "all-linear") == []


def test_a_target_in_every_layer_is_no_warning(tmp_path: Path) -> None:
    assert found([describe(write_model(tmp_path / "llama"))], ["q_proj", "self_attn.v_proj"]) == []


def test_what_takes_no_adapter_is_refused(tmp_path: Path) -> None:
    mamba = model_of(tmp_path / "mamba", MIXER, "mamba")

    dt, out = found([mamba], ["dt_proj", "in_proj", "mixer.out_proj"])

    assert (dt.rule, dt.severity, out.severity) == ("lora-targets-can-be-trained", "error", "error")
    assert "learns nothing" in dt.problem
    assert out.problem == (
        "mamba: no adapter can be put on out_proj: PEFT refuses an adapter on it in models of the type mamba."
    )
    assert "'auto', which is [in_proj]" in out.fix


def test_what_a_gpu_goes_past_is_a_warning_where_peft_takes_it(tmp_path: Path) -> None:
    jamba = model_of(tmp_path / "jamba", MIXER, "jamba")

    (finding,) = found([jamba], ["in_proj", "out_proj"])

    assert (finding.rule, finding.severity) == ("lora-targets-take-effect", "warning")
    assert "on a GPU" in finding.problem


def test_a_model_of_which_everything_is_left_out_is_refused_with_the_reasons(tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in MIXER.items() if "in_proj" not in name}
    mamba = model_of(tmp_path / "mamba", shapes, "mamba")

    for targets in ("auto", "all-linear"):
        (finding,) = found([mamba], targets)
        assert (finding.rule, finding.severity) == ("lora-targets-exist", "error")
        assert "x_proj is left out" in finding.problem


def test_a_model_that_is_not_here_yet_is_not_judged(tmp_path: Path) -> None:
    known = describe(write_model(tmp_path / "llama"))
    unseen = msgspec.structs.replace(known, source="hub", linear_modules=(), linear_paths=(), linear_sizes=())

    assert found([unseen], ["anything"]) == found([unseen], "auto") == []
