"""Which layers a LoRA request would train, told from the files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.registry.coverage import coverage
from oneseek.registry.discover import describe
from oneseek.registry.families import FAMILIES, guess
from support.base_models import Shapes, weight_shapes, write_model, write_weights

# Every second layer has attention, the others a convolution; the first has a dense block, the others experts.
HYBRID: Shapes = {
    "model.embed_tokens.weight": (64, 8),
    "lm_head.weight": (64, 8),
    "head.transform.q_proj.weight": (8, 8),
    **{f"model.layers.{n}.self_attn.q_proj.weight": (8, 8) for n in (1, 3)},
    **{f"model.layers.{n}.conv.in_proj.weight": (24, 8) for n in (0, 2)},
    "model.layers.0.mlp.gate_proj.weight": (16, 8),
    **{f"model.layers.{n}.mlp.gate.weight": (4, 8) for n in (1, 2, 3)},
    **{f"model.layers.{n}.mlp.experts.{e}.gate_proj.weight": (16, 8) for n in (1, 2, 3) for e in (0, 1)},
}
MIXER: Shapes = {
    f"backbone.layers.{n}.mixer.{name}": shape
    for n in (0, 1)
    for name, shape in {
        "A_log": (8, 4),
        "D": (8,),
        "in_proj.weight": (16, 8),
        "x_proj.weight": (6, 8),
        "dt_proj.weight": (8, 2),
        "out_proj.weight": (8, 8),
    }.items()
}


def model_of(directory: Path, shapes: Shapes, model_type: str = "llama") -> ModelInfo:
    write_model(directory, config={"model_type": model_type})
    write_weights(directory, shapes)
    return describe(directory)


def rows(info: ModelInfo, requested: Any) -> dict[str, tuple[str, int, int]]:
    """Status, layers trained and layers there are, by module."""
    return {row.name: (row.status, len(row.trained), row.layers) for row in coverage(info, requested).modules}


def test_auto_trains_every_layer_of_a_llama_whole(tmp_path: Path) -> None:
    found = coverage(describe(write_model(tmp_path / "m", layers=3)), "auto")

    assert {row.status for row in found.modules} == {"matched"}
    assert {row.trained for row in found.modules} == {(0, 1, 2)}
    assert (found.trained_places, found.places) == (21, 21)
    assert found.trained_parameters == found.parameters


def test_the_share_is_of_places_and_of_parameters(tmp_path: Path) -> None:
    found = coverage(describe(write_model(tmp_path / "m", family="gpt2", layers=2, hidden=16)), ["attn.c_proj"])

    assert (found.trained_places, found.places) == (2, 8)
    assert found.trained_parameters == 2 * 16 * 16
    assert found.parameters == 2 * (16 * 48 + 16 * 16 + 2 * 16 * 64)
    assert found.paths == ("transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj")


def test_modules_that_only_some_layers_have_are_partial(tmp_path: Path) -> None:
    info = model_of(tmp_path / "m", HYBRID)

    assert rows(info, "all-linear") == {
        "gate_proj": ("left out", 0, 4),
        "in_proj": ("partial", 2, 4),
        "q_proj": ("partial", 2, 4),
    }
    assert coverage(info, ["in_proj"]).modules[1].trained == (0, 2)


def test_one_layer_asked_for_by_its_path_is_partial_too(tmp_path: Path) -> None:
    info = describe(write_model(tmp_path / "m", layers=2))

    assert rows(info, ["layers.1.self_attn.q_proj"])["q_proj"] == ("partial", 1, 2)


def test_a_layer_outside_the_stack_is_counted_where_its_name_is_a_target(tmp_path: Path) -> None:
    found = coverage(model_of(tmp_path / "m", HYBRID), ["q_proj"])

    assert found.paths == (
        "head.transform.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.3.self_attn.q_proj",
    )


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nope", ""),
        ("lm_head", "it is the model's output head"),
        ("embed_tokens", "it is an embedding"),
        ("gate", "it is a router"),
        ("model.layers.9.self_attn.q_proj", ""),
    ],
)
def test_an_absent_target_says_what_it_is_instead(tmp_path: Path, target: str, reason: str) -> None:
    (row,) = coverage(model_of(tmp_path / "m", HYBRID), [target]).of("absent")

    assert (row.name, row.reason) == (target, reason)


def test_experts_and_a_tied_head_are_told_too(tmp_path: Path) -> None:
    mixtral = describe(write_model(tmp_path / "mixtral", family="mixtral"))
    gpt2 = describe(write_model(tmp_path / "gpt2", family="gpt2"))

    assert "expert" in coverage(mixtral, ["w1"]).of("absent")[0].reason
    assert "shares its weight" in coverage(gpt2, ["lm_head"]).of("absent")[0].reason


def test_what_peft_refuses_and_what_is_never_trained_is_forbidden(tmp_path: Path) -> None:
    mamba = model_of(tmp_path / "mamba", MIXER, "mamba")
    jamba = model_of(tmp_path / "jamba", MIXER, "jamba")

    assert {row.name for row in coverage(mamba, ["dt_proj", "in_proj", "out_proj"]).of("forbidden")} == {
        "dt_proj",
        "out_proj",
    }
    assert [row.name for row in coverage(jamba, ["dt_proj", "out_proj"]).of("forbidden")] == ["dt_proj"]
    assert coverage(mamba, ["out_proj"]).paths == ()
    assert lora_targets(mamba, "auto") == lora_targets(jamba, "auto") == ("in_proj",)


def test_a_module_in_a_list_of_modules_is_named_with_the_lists_name(tmp_path: Path) -> None:
    shapes: Shapes = {f"transformer.h.{n}.ffn.{part}.weight": (8, 8) for n in (0, 1) for part in (0, 2)}
    info = model_of(tmp_path / "m", shapes, "ctrl")

    assert lora_targets(info, "auto") == ("ffn.0", "ffn.2")
    assert rows(info, "auto") == {"ffn.0": ("matched", 2, 2), "ffn.2": ("matched", 2, 2)}


@given(
    requested=st.sampled_from(["auto", "all-linear"])
    | st.lists(st.sampled_from(["q_proj", "in_proj", "gate_proj", "layers.1.self_attn.q_proj", "no", "lm_head"]))
)
def test_the_parts_of_the_matrix_add_up(requested: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    info = _hybrid(tmp_path_factory)

    found = coverage(info, requested)

    assert found == coverage(info, requested)
    assert found.trained_places == len(found.paths) <= found.places == len(info.linear_paths) + 1
    assert found.parameters == sum(info.linear_sizes)
    for row in found.modules:
        assert set(row.trained) <= set(row.present)
        assert (row.status in ("matched", "partial")) == (row.trained_places > 0)


_made: dict[str, ModelInfo] = {}


def _hybrid(factory: pytest.TempPathFactory) -> ModelInfo:
    if "hybrid" not in _made:
        _made["hybrid"] = model_of(factory.mktemp("hybrid") / "m", HYBRID)
    return _made["hybrid"]


# -- models that are not here yet ----------------------------------------------------------------------------------


def unseen(model_type: str, hub_id: str, tmp_path: Path) -> ModelInfo:
    known = describe(write_model(tmp_path / "m"))
    return msgspec.structs.replace(
        known, model_type=model_type, source="hub", hub_id=hub_id, linear_modules=(), linear_paths=(), linear_sizes=()
    )


@pytest.mark.parametrize(
    ("model_type", "hub_id", "family", "chat"),
    [
        ("gpt2", "org/whatever", "gpt2", False),
        ("", "openai-community/gpt2-medium", "gpt2", False),
        ("", "EleutherAI/gpt-neo-1.3B", "gpt_neo", False),
        ("", "EleutherAI/gpt-j-6b", "gptj", False),
        ("", "meta-llama/Llama-3.1-8B", "llama", True),
        ("", "microsoft/phi-2", "phi", True),
        ("mistral", "org/some-llama", "mistral", None),
    ],
)
def test_the_family_of_a_model_that_is_not_here_is_guessed(
    tmp_path: Path, model_type: str, hub_id: str, family: str, chat: bool | None
) -> None:
    info = unseen(model_type, hub_id, tmp_path)

    assert lora_targets(info, "auto") == tuple(sorted(FAMILIES[family].targets))
    assert guess(model_type, hub_id).chat is chat


def test_a_model_of_no_known_family_gets_the_usual_four(tmp_path: Path) -> None:
    assert lora_targets(unseen("", "org/Unheard", tmp_path), "auto") == ("k_proj", "o_proj", "q_proj", "v_proj")


def test_what_a_model_that_is_not_here_lacks_is_not_said(tmp_path: Path) -> None:
    assert coverage(unseen("", "org/Unheard", tmp_path), ["anything"]).modules == ()


def test_the_family_of_a_model_that_is_here_does_not_stand_against_its_files(tmp_path: Path) -> None:
    info = model_of(tmp_path / "m", weight_shapes("gpt2", 1, 8, 64), "llama")

    assert lora_targets(info, "auto") == ("c_attn", "c_fc", "c_proj")
