"""What a base model's files say about it: headers, modules, templates, tokens, problems."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.errors import ModelError
from oneseek.registry.capabilities import ModelInfo, lora_targets, missing_targets, model_info
from oneseek.registry.context import context_length
from oneseek.registry.discover import describe
from oneseek.registry.model_files import ModelFiles
from oneseek.registry.modules import LinearModule, fused_experts, linear_modules
from oneseek.registry.safetensors import MAX_HEADER_BYTES, TensorInfo, parse_safetensors_header
from oneseek.registry.tokenizer import chat_template, token_ids_wanted
from support.base_models import weight_shapes, write_model

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "max_position_embeddings": 128,
}
SHAPES = {"model.layers.0.self_attn.q_proj.weight": (16, 16), "model.layers.0.self_attn.k_proj.weight": (8, 16)}


def tensors_of(shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> dict[str, TensorInfo]:
    tensors, start = {}, 0
    for name, shape in shapes.items():
        end = start + 4 * math.prod(shape)
        tensors[name] = TensorInfo(dtype=dtype, shape=shape, start=start, end=end)
        start = end
    return tensors


def header_of(entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def files_of(
    directory: str = "llama-a",
    config: Any = CONFIG,
    shapes: dict[str, tuple[int, ...]] | None = None,
    **contents: Any,
) -> ModelFiles:
    """A healthy model's files; keywords add files by name with __ for a dot, None takes one away."""
    shapes = shapes or {**SHAPES, "lm_head.weight": (64, 16)}
    header = header_of(
        {name: entry(list(tensor.shape), tensor.start, tensor.end) for name, tensor in tensors_of(shapes).items()}
    )
    data = sum(4 * math.prod(shape) for shape in shapes.values())
    named = {name.replace("__", "."): value for name, value in contents.items()}
    written = {"config.json": config, "tokenizer_config.json": {}, **named}
    encoded = {
        name: value if isinstance(value, bytes) else json.dumps(value).encode()
        for name, value in written.items()
        if value is not None
    }
    sizes = {"tokenizer.json": 10, "model.safetensors": len(header) + data}
    return ModelFiles(
        directory=directory,
        path=f"/models/{directory}",
        sizes={**sizes, **{name: len(content) for name, content in encoded.items()}},
        contents=encoded,
        headers={"model.safetensors": header},
        unreadable={},
    )


def kinds(info: ModelInfo) -> list[str]:
    return [problem.kind for problem in info.problems]


# -- safetensors header --------------------------------------------------------------------------------------------


def test_a_header_gives_each_tensor_its_type_shape_and_place() -> None:
    header = header_of({"__metadata__": {"format": "pt"}, "b": entry([2, 3], 8, 20, "BF16"), "a": entry([2], 0, 8)})

    tensors = parse_safetensors_header(header, len(header) + 20)

    assert tensors == {
        "a": TensorInfo(dtype="F32", shape=(2,), start=0, end=8),
        "b": TensorInfo(dtype="BF16", shape=(2, 3), start=8, end=20),
    }


@pytest.mark.parametrize(
    ("entries", "missing_bytes", "kind", "words"),
    [
        ({"a": entry([2], 0, 8)}, 1, "truncated-weights", "need 8 bytes, 7 are there"),
        ({"a": entry([2], 0, 8)}, -1, "broken-header", "1 bytes behind its last tensor"),
        ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, -4, "broken-header", "'b' overlaps"),
        ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, -12, "broken-header", "'b' leaves a gap"),
        ({"a": entry([3], 0, 8)}, 0, "broken-header", "'a' of F32 [3] can't be 8 bytes long"),
        ({"a": entry([2], 8, 0)}, 0, "broken-header", "gap"),
        ({"a": entry([2], 0, 8, "F31")}, 0, "broken-header", "unknown type 'F31'"),
        ({"a": entry([-2], 0, 8)}, 0, "broken-header", ">= 0"),
        ({"a": entry([2**80], 0, 8)}, 0, "broken-header", "header"),
        ({"a": {"dtype": "F32"}}, 0, "broken-header", "shape"),
        ({"a": 7}, 0, "broken-header", "object"),
        ([], 0, "broken-header", "array"),
    ],
)
def test_a_header_that_cannot_be_true_is_refused_with_its_fault(
    entries: Any, missing_bytes: int, kind: str, words: str
) -> None:
    header = header_of(entries)

    with pytest.raises(ModelError) as refusal:
        parse_safetensors_header(header, len(header) + 8 - missing_bytes)

    assert getattr(refusal.value, "kind", None) == kind
    assert words in refusal.value.problem
    assert refusal.value.fix


@pytest.mark.parametrize(
    ("prefix", "file_size", "words"),
    [
        (b"", 0, "cut off"),
        (struct.pack("<Q", 500) + b"{}", 10, "its header is 500 bytes, the whole file 10"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), 2**40, "100,000,000 is the most"),
        (struct.pack("<Q", 20) + b"{}", 100, "only 2 were read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", 130, "Git LFS pointer"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", 12, "broken header"),
        (struct.pack("<Q", 27) + b'{"__metadata__":{"\xff":"pt"}}', 35, "broken header"),
        (struct.pack("<Q", 200_005) + b'{"a":' + b"[" * 200_000, 200_013, "broken header"),
    ],
)
def test_bytes_that_are_no_safetensors_file_are_refused(prefix: bytes, file_size: int, words: str) -> None:
    with pytest.raises(ModelError) as refusal:
        parse_safetensors_header(prefix, file_size)

    assert words in refusal.value.problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["F32", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a", "__metadata__"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    header=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()),
    length=st.none() | st.integers(0, 2**64 - 1),
    file_size=st.integers(0, 2**50),
)
def test_any_bytes_are_a_header_or_a_model_error(header: bytes, length: int | None, file_size: int) -> None:
    prefix = struct.pack("<Q", len(header) if length is None else length) + header

    try:
        tensors = parse_safetensors_header(prefix, file_size)
    except ModelError as error:
        assert error.problem  # noqa: PT017
        assert error.fix  # noqa: PT017
    else:
        assert all(0 <= tensor.start <= tensor.end <= file_size for tensor in tensors.values())


# -- modules -------------------------------------------------------------------------------------------------------


def test_a_llamas_linear_modules_are_counted_over_its_layers() -> None:
    modules = linear_modules(tensors_of(weight_shapes("llama", layers=3, hidden=16, vocab=64)))

    assert [(module.name, module.in_features, module.out_features, module.count) for module in modules] == [
        ("down_proj", 32, 16, 3),
        ("gate_proj", 16, 32, 3),
        ("k_proj", 16, 8, 3),
        ("o_proj", 16, 16, 3),
        ("q_proj", 16, 16, 3),
        ("up_proj", 16, 32, 3),
        ("v_proj", 16, 8, 3),
    ]
    assert not any(module.conv1d for module in modules)


def test_gpt2_stores_its_weights_the_other_way_round_and_the_biases_tell() -> None:
    modules = linear_modules(tensors_of(weight_shapes("gpt2", layers=2, hidden=16, vocab=64)))

    assert modules == (
        LinearModule(name="c_attn", in_features=16, out_features=48, count=2, conv1d=True),
        LinearModule(name="c_fc", in_features=16, out_features=64, count=2, conv1d=True),
        LinearModule(name="c_proj", in_features=16, out_features=16, count=2, conv1d=True),
        LinearModule(name="c_proj", in_features=64, out_features=16, count=2, conv1d=True),
    )


@pytest.mark.parametrize(
    ("shapes", "conv1d"),
    [
        ({"h.0.a.weight": (4, 8), "h.0.a.bias": (8,)}, True),
        ({"h.0.a.weight": (4, 8), "h.0.a.bias": (4,)}, False),
        ({"h.0.a.weight": (4, 4), "h.0.a.bias": (4,)}, False),
        ({"h.0.a.weight": (4, 8)}, False),
        ({"h.0.a.weight": (4, 8), "h.0.a.bias": (8,), "h.0.b.weight": (4, 8), "h.0.b.bias": (4,)}, False),
    ],
    ids=["bias as wide as the rows", "as many as the rows", "square", "no bias", "they contradict"],
)
def test_conv1d_is_told_by_the_biases(shapes: dict[str, tuple[int, ...]], conv1d: bool) -> None:
    modules = linear_modules(tensors_of(shapes))

    assert {module.conv1d for module in modules} == {conv1d}


@pytest.mark.parametrize(
    "name",
    [
        "lm_head.weight",
        "model.embed_tokens.weight",
        "model.layers.0.embed_positions.weight",
        "h.0.wte.weight",
        "model.layers.0.post_norm.weight",
        "h.0.ln_1.weight",
        "model.layers.0.mlp.gate.weight",
        "model.layers.0.mlp.shared_expert_gate.weight",
        "model.layers.0.router.weight",
        "model.layers.0.router.proj.weight",
        "model.layers.0.mlp.experts.3.up_proj.weight",
        "model.layers.0.self_attn.q_proj.scales",
    ],
)
def test_heads_embeddings_norms_routers_and_experts_are_no_decoder_linears(name: str) -> None:
    modules = linear_modules(tensors_of({name: (8, 8)}))

    assert modules == ()


def test_names_that_only_resemble_a_router_or_a_norm_are_linears() -> None:
    tensors = tensors_of({"h.0.gate_proj.weight": (8, 8), "h.0.shared_expert.up_proj.weight": (8, 8)})

    assert [module.name for module in linear_modules(tensors)] == ["gate_proj", "up_proj"]


def test_whole_number_weights_of_a_quantised_model_are_not_adapted() -> None:
    assert linear_modules(tensors_of({"h.0.q_proj.weight": (8, 8)}, dtype="U8")) == ()


def test_experts_are_reported_apart_fused_or_one_by_one() -> None:
    tensors = tensors_of(
        {
            "model.layers.0.mlp.experts.gate_up_proj": (2, 16, 8),
            "model.layers.1.mlp.experts.0.w1.weight": (16, 8),
            "model.layers.1.mlp.experts.1.w1.weight": (16, 8),
            "model.layers.2.mixer.conv1d.weight": (16, 1, 4),
        }
    )

    assert fused_experts(tensors) == ("model.layers.0.mlp.experts.gate_up_proj", "model.layers.1.mlp.experts.*.w1")


def test_lora_parameters_of_a_module_follow_from_its_shape_count_and_rank() -> None:
    module = LinearModule(name="k_proj", in_features=16, out_features=8, count=3, conv1d=False)

    assert module.parameters_at(rank=4) == 3 * (4 * 16 + 8 * 4)


# -- targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gpt2", ("c_attn", "c_proj")),
        ("llama", ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")),
        ("mistral", ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")),
        ("phi", ("dense", "k_proj", "q_proj", "v_proj")),
        ("mixtral", ("k_proj", "o_proj", "q_proj", "v_proj")),
    ],
)
def test_auto_targets_suit_the_family(tmp_path: Path, family: Any, expected: tuple[str, ...]) -> None:
    info = describe(write_model(tmp_path / "m", family=family))

    assert lora_targets(info, "auto") == expected
    assert missing_targets(info, expected) == ()


def test_auto_names_nothing_that_the_model_has_not() -> None:
    info = model_info(files_of())

    assert lora_targets(info, "auto") == ("k_proj", "q_proj")


def test_auto_is_all_linear_where_the_familys_names_do_not_fit() -> None:
    info = model_info(files_of(config={**CONFIG, "model_type": "gpt2"}))

    assert lora_targets(info, "auto") == ("k_proj", "q_proj")


def test_all_linear_is_every_decoder_linear(tmp_path: Path) -> None:
    info = describe(write_model(tmp_path / "m", family="phi"))

    assert lora_targets(info, "all-linear") == ("dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj")


MOE: dict[str, tuple[int, ...]] = {
    "model.layers.0.self_attn.q_proj.weight": (8, 8),
    "model.layers.0.mlp.gate_proj.weight": (16, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.layers.1.mlp.shared_experts.gate_proj.weight": (16, 8),
    "model.layers.1.mlp.experts.0.gate_proj.weight": (16, 8),
    "model.layers.1.mlp.experts.0.down_proj.weight": (8, 16),
}
MIXER: dict[str, tuple[int, ...]] = {
    "backbone.layers.0.mixer.A_log": (8, 4),
    "backbone.layers.0.mixer.conv1d.weight": (8, 1, 4),
    "backbone.layers.0.mixer.in_proj.weight": (16, 8),
    "backbone.layers.0.mixer.x_proj.weight": (6, 8),
    "backbone.layers.0.mixer.dt_proj.weight": (8, 2),
    "backbone.layers.0.mixer.out_proj.weight": (8, 8),
}


@pytest.mark.parametrize("requested", ["auto", "all-linear"])
@pytest.mark.parametrize("model_type", ["deepseek_v3", "mistral"])
def test_modules_that_share_their_name_with_experts_are_left_out_and_said_so(requested: str, model_type: str) -> None:
    info = model_info(files_of(config={**CONFIG, "model_type": model_type}, shapes=MOE))

    assert lora_targets(info, requested) == ("q_proj",)
    assert sorted(info.left_out) == ["down_proj", "gate_proj"]
    assert "expert" in info.left_out["gate_proj"]
    assert lora_targets(info, ["gate_proj"]) == ("gate_proj",)


def test_a_model_without_experts_leaves_nothing_out(tmp_path: Path) -> None:
    assert describe(write_model(tmp_path / "m")).left_out == {}


def test_linears_that_a_state_space_layer_does_not_call_are_left_out() -> None:
    info = model_info(files_of(shapes={**MIXER, "backbone.layers.0.mixer.D": (8,)}))

    assert lora_targets(info, "auto") == lora_targets(info, "all-linear") == ("in_proj",)
    assert sorted(info.left_out) == ["dt_proj", "out_proj", "x_proj"]


def test_linear_attention_has_decays_too_and_calls_its_output_projection() -> None:
    info = model_info(files_of(shapes=MIXER))

    assert "out_proj" in lora_targets(info, "auto")


def test_a_requested_list_is_taken_as_it_is_sorted_and_each_once() -> None:
    assert lora_targets(model_info(files_of()), ("q_proj", "made_up", "q_proj")) == ("made_up", "q_proj")


def test_missing_targets_match_whole_segments_at_the_end_of_a_path(tmp_path: Path) -> None:
    info = describe(write_model(tmp_path / "m", family="gpt2"))

    missing = missing_targets(
        info, ("c_proj", "attn.c_proj", "transformer.h.0.attn.c_attn", "proj", "c_attn.c_proj", "q_proj")
    )

    assert missing == ("proj", "c_attn.c_proj", "q_proj")


# -- config, size, tokenizer ---------------------------------------------------------------------------------------


def test_a_healthy_model_is_described_and_usable() -> None:
    info = model_info(files_of())

    assert info.usable
    assert (info.key, info.model_type, info.architecture) == ("llama-a", "llama", "LlamaForCausalLM")
    assert (info.vocab_size, info.hidden_size, info.layers, info.context_length) == (64, 16, 1, 128)
    assert info.parameters == 16 * 16 + 8 * 16 + 64 * 16
    assert info.dtypes == {"F32": info.parameters}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [({"logit_scale": 0.0625}, True), ({"final_logit_softcapping": 30.0}, True), ({"logits_scaling": 1.0}, False)],
)
def test_a_model_that_scales_or_caps_its_logits_makes_them_all_itself(
    tmp_path: Path, setting: dict[str, float], expected: bool
) -> None:
    directory = write_model(tmp_path / "m")
    config = json.loads((directory / "config.json").read_text()) | setting
    (directory / "config.json").write_text(json.dumps(config))

    assert describe(directory).scaled_logits is expected


def test_gpt2s_own_names_for_sizes_are_understood(tmp_path: Path) -> None:
    info = describe(write_model(tmp_path / "m", family="gpt2", layers=3, hidden=8, context=32))

    assert (info.hidden_size, info.layers, info.context_length) == (8, 3, 32)


def test_masks_and_rotary_frequencies_of_older_checkpoints_are_no_parameters() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "h.0.attn.bias": (1, 1, 8, 8),
        "h.0.attn.masked_bias": (),
        "h.0.rotary_emb.inv_freq": (4,),
        "h.0.q.weight": (2, 2),
    }
    tensors = tensors_of(shapes)
    header = header_of({name: entry(list(t.shape), t.start, t.end) for name, t in tensors.items()})
    files = files_of()
    files.headers["model.safetensors"] = header
    files.sizes["model.safetensors"] = len(header) + 4 * (64 + 1 + 4 + 4)

    info = model_info(files)

    assert (info.problems, info.parameters) == ((), 4)


@pytest.mark.parametrize(
    ("declared", "name_or_path", "expected"),
    [
        ({"display_name": "My Llama"}, "org/Llama-A", "My Llama"),
        (None, "org/Llama-A", "Llama-A"),
        (None, "org/Other", "llama-a"),
        ({}, None, "llama-a"),
        ({"display_name": "\x1b[31mred"}, None, "[31mred"),
        ({"display_name": 7}, None, "llama-a"),
    ],
)
def test_the_display_name_is_declared_else_the_origins_else_the_directorys(
    declared: Any, name_or_path: str | None, expected: str
) -> None:
    files = files_of(config={**CONFIG, "_name_or_path": name_or_path}, oneseek__json=declared)

    assert model_info(files).display_name == expected


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, None),
        ({"tokenizer_config.json": {"chat_template": "T"}}, "T"),
        ({"tokenizer_config.json": {"chat_template": " \n"}}, None),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "tool_use", "template": "X"}, {"name": "default", "template": "D"}]
                }
            },
            "D",
        ),
        ({"tokenizer_config.json": {"chat_template": [{"name": "tool_use", "template": "X"}]}}, None),
        ({"chat_template.json": {"chat_template": "J"}}, "J"),
        ({"chat_template.json": {"chat_template": "J"}, "tokenizer_config.json": {"chat_template": "T"}}, "T"),
        ({"chat_template.jinja": b"{{ file }}", "tokenizer_config.json": {"chat_template": "T"}}, "{{ file }}"),
        ({"tokenizer_config.json": [1]}, None),
    ],
)
def test_the_chat_template_is_found_in_its_three_places_in_order(contents: Any, expected: str | None) -> None:
    encoded = {
        name: value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in contents.items()
    }

    assert chat_template(encoded) == expected


def test_special_tokens_are_read_as_text_or_object_and_the_tokenizers_own_file_wins() -> None:
    files = files_of(
        tokenizer_config__json={
            "eos_token": {"content": "</s>", "lstrip": False},
            "bos_token": None,
            "add_bos_token": True,
        },
        special_tokens_map__json={"eos_token": "<old>", "pad_token": "<pad>", "additional_special_tokens": ["<x>"]},
    )

    assert model_info(files).special_tokens == {"eos_token": "</s>", "pad_token": "<pad>"}


def test_tokens_that_the_tokenizers_files_do_not_name_are_those_of_the_ids_in_the_configuration() -> None:
    config = {**CONFIG, "eos_token_id": [7, 8], "bos_token_id": 5}
    files = files_of(config=config, tokenizer_config__json={"model_max_length": 8})

    found = model_info(msgspec.structs.replace(files, token_texts={7: "<end>", 5: "<start>"}))

    assert token_ids_wanted(files.contents) == {"eos_token": 7, "bos_token": 5}
    assert found.special_tokens == {"eos_token": "<end>", "bos_token": "<start>"}


@pytest.mark.parametrize(
    ("contents", "wanted"),
    [
        ({}, {}),
        ({"config": {"eos_token_id": 3}}, {"eos_token": 3}),
        ({"generation_config": {"eos_token_id": [4, 5]}}, {"eos_token": 4}),
        ({"config": {"eos_token_id": 3}, "generation_config": {"eos_token_id": 4}}, {"eos_token": 3}),
        ({"config": {"eos_token_id": None}, "generation_config": {"eos_token_id": 4}}, {"eos_token": 4}),
        ({"config": {"eos_token_id": 3}, "tokenizer_config": {"eos_token": "</s>"}}, {}),
        ({"config": {"eos_token_id": 3}, "special_tokens_map": {"eos_token": "</s>"}}, {}),
        ({"config": {"bos_token_id": 3}, "tokenizer_config": {"bos_token": None}}, {}),
        ({"config": {"eos_token_id": []}}, {}),
        ({"config": {"eos_token_id": "3"}}, {}),
        ({"config": {"eos_token_id": True}}, {}),
        ({"config": [1]}, {}),
    ],
)
def test_token_ids_are_only_asked_for_where_the_tokenizers_files_say_nothing(contents: Any, wanted: Any) -> None:
    encoded = {f"{name}.json": json.dumps(value).encode() for name, value in contents.items()}

    assert token_ids_wanted(encoded) == wanted


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("model.embed_tokens.weight", 70),
        ("transformer.wte.weight", 70),
        ("wte.weight", 70),
        ("gpt_neox.embed_in.weight", 70),
        ("transformer.word_embeddings.weight", 70),
        ("backbone.embeddings.weight", 70),
        ("transformer.wpe.weight", 64),
        ("model.embed_positions.weight", 64),
        ("model.layers.0.embed_tokens.weight", 64),
    ],
)
def test_the_embeddings_rows_are_those_of_the_stored_matrix_else_the_vocabularys(name: str, rows: int) -> None:
    info = model_info(files_of(shapes={**SHAPES, name: (70, 16)}))

    assert info.embedding_rows == rows


# -- problems that the files alone show ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (None, "no-config"),
        (b"{", "broken-config"),
        (b"[1]", "broken-config"),
        (b"\xff\xfe\x00", "broken-config"),
        (b"[" * 200_000, "broken-config"),
        ({}, "broken-config"),
        ({**CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}, "foreign-code"),
        ({**CONFIG, "architectures": ["BertForMaskedLM"]}, "not-causal-lm"),
        ({**CONFIG, "is_encoder_decoder": True}, "not-causal-lm"),
        ({**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized"),
        ({**CONFIG, "quantization_config": {"load_in_4bit": True}}, "quantized"),
        ({**CONFIG, "compression_config": {"format": "x"}}, "quantized"),
    ],
)
def test_a_config_that_cannot_be_trained_is_a_problem_with_a_fix(config: Any, kind: str) -> None:
    info = model_info(files_of(config=config))

    assert kinds(info) == [kind]
    assert not info.usable
    assert info.problems[0].fix


def test_a_model_that_brings_code_is_usable_where_transformers_has_its_own() -> None:
    files = files_of(config={**CONFIG, "auto_map": {"AutoModelForCausalLM": "modeling_x.X"}})

    assert model_info(msgspec.structs.replace(files, transformers_has_it=True)).problems == ()


def test_the_way_that_a_model_was_quantised_is_said() -> None:
    info = model_info(files_of(config={**CONFIG, "quantization_config": {"quant_method": "fp8"}}))

    assert "fp8" in info.problems[0].problem
    assert "can't be trained in this release" in info.problems[0].problem


@pytest.mark.parametrize("nothing", [None, {}, False])
def test_no_quantisation_is_no_problem(nothing: Any) -> None:
    assert model_info(files_of(config={**CONFIG, "quantization_config": nothing})).usable


@pytest.mark.parametrize("architectures", [["GPT2LMHeadModel"], ["QwenX", "QwenForCausalLM"], [], None])
def test_causal_language_models_go_by_either_ending_or_none(architectures: Any) -> None:
    assert kinds(model_info(files_of(config={**CONFIG, "architectures": architectures}))) == []


def test_a_config_with_infinity_is_read_as_the_models_own_library_writes_it() -> None:
    config = json.dumps({**CONFIG, "time_step_limit": [0.0, math.inf]}).encode()

    assert model_info(files_of(config=config)).usable


def test_a_directory_without_a_letter_or_digit_cannot_be_selected() -> None:
    assert kinds(model_info(files_of(directory="模型"))) == ["no-key"]


def test_a_broken_tokenizer_config_is_a_problem() -> None:
    assert kinds(model_info(files_of(tokenizer_config__json=b"{"))) == ["broken-tokenizer"]


@given(
    config=json_values | st.dictionaries(st.sampled_from([*CONFIG, "auto_map", "_name_or_path"]), json_values),
    tokenizer=json_values | st.dictionaries(st.sampled_from(["chat_template", "eos_token"]), json_values),
    index=st.dictionaries(st.just("weight_map"), json_values),
)
def test_no_config_however_strange_stops_the_description(config: Any, tokenizer: Any, index: Any) -> None:
    files = files_of(config=config, tokenizer_config__json=tokenizer, model__safetensors__index__json=index)
    del files.sizes["model.safetensors"]

    info = model_info(files)

    assert not info.usable
    assert all(problem.problem and problem.fix for problem in info.problems)


@pytest.mark.parametrize(
    ("config", "shapes", "refused"),
    [
        ({"is_decoder": False}, {"bert.encoder.layer.0.attention.self.query.weight": (8, 8)}, True),
        ({"is_decoder": True}, {"bert.encoder.layer.0.attention.self.query.weight": (8, 8)}, False),
        ({"is_decoder": False}, {"transformer.h.0.attn.c_attn.weight": (8, 24)}, False),
        ({"causal": False}, {"transformer.attentions.0.q_lin.weight": (8, 8)}, True),
        ({"causal": True}, {"transformer.attentions.0.q_lin.weight": (8, 8)}, False),
    ],
)
def test_an_encoder_saved_as_a_language_model_is_refused(config: Any, shapes: Any, refused: bool) -> None:
    info = model_info(files_of(config={**CONFIG, **config}, shapes=shapes))

    assert kinds(info) == (["not-causal-lm"] if refused else [])


@pytest.mark.parametrize(("has_it", "expected"), [(True, []), (None, []), (False, ["unknown-type"])])
def test_a_type_that_the_installed_transformers_does_not_know_is_refused(has_it: Any, expected: list[str]) -> None:
    files = files_of(config={**CONFIG, "model_type": "llama99"})

    info = model_info(msgspec.structs.replace(files, transformers_has_it=has_it))

    assert kinds(info) == expected
    assert all("'llama99'" in problem.problem and "upgrade" in problem.fix for problem in info.problems)


def test_tensors_go_by_the_names_that_they_have_when_they_are_loaded() -> None:
    files = files_of(shapes={"model.layers.0.attention.dense.weight": (8, 8), **SHAPES})
    renamings = ((r"\.attention\.", ".self_attn."), (r"\.self_attn\.dense\.", ".self_attn.o_proj."))

    info = model_info(msgspec.structs.replace(files, renamings=renamings))

    assert lora_targets(info, "all-linear") == ("k_proj", "o_proj", "q_proj")
    assert "model.layers.0.self_attn.o_proj" in info.linear_paths


def test_an_embeddings_part_with_layers_of_its_own_has_linear_modules() -> None:
    tensors = tensors_of({"model.image_embed.encoder.layers.0.fc1.weight": (8, 8)})

    assert [module.name for module in linear_modules(tensors)] == ["fc1"]


def test_what_state_space_layers_with_heads_keep_is_no_expert() -> None:
    mixer: dict[str, tuple[int, ...]] = {"layers.0.mamba.A_log": (2, 8, 4), "layers.0.mamba.dt_proj_weight": (2, 8, 2)}

    assert fused_experts(tensors_of(mixer)) == ()


# -- licence and context -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readme", "expected"),
    [
        (b"---\nlicense: apache-2.0\nlanguage: sv\n---\n# Model", "apache-2.0"),
        (b"---\nlanguage: sv\nlicense: 'other'\nlicense_name: llama3.1\n---\n", "llama3.1"),
        (b"---\nlicense: \x1b[31mred\n---\n", "[31mred"),
        (b"---\nlanguage: sv\n---\nlicense: mit", None),
        (b"# Model\nlicense: mit", None),
        (b"---\nlicense:\n- mit\n---\n", None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
)
def test_the_licence_is_what_the_readmes_front_matter_names(readme: bytes, expected: str | None) -> None:
    assert model_info(files_of(README__md=readme)).licence == expected


def test_a_readme_that_cannot_be_read_stands_in_no_ones_way() -> None:
    files = files_of()
    files.unreadable["README.md"] = "permission denied"

    assert model_info(files).usable


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024, "n_ctx": 512}, 1024),
        ({"max_seq_len": 2048}, 2048),
        ({"seq_length": 8192}, 8192),
        ({"max_position_embeddings": True}, None),
        ({}, None),
        ({"text_config": {"max_position_embeddings": 300}}, 300),
        ({"alibi": True, "max_position_embeddings": 2048}, None),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2}}, 8192),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 131072),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 163840,
                "rope_parameters": {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": math.inf}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": "4"}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": ["linear"], "factor": 4}}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": "linear"}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
    ],
)
def test_the_context_length_is_what_the_configuration_comes_to(config: Any, expected: int | None) -> None:
    assert context_length(_text(config)) == expected
    assert model_info(files_of(config={"model_type": "llama", **config})).context_length == expected


def _text(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, **config.get("text_config", {})}


def test_sizes_of_a_model_of_several_parts_are_those_of_its_language_model() -> None:
    info = model_info(files_of(config={"model_type": "llama", "text_config": {"hidden_size": 8, "vocab_size": 64}}))

    assert (info.hidden_size, info.vocab_size) == (8, 64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_hidden_layers": 3}, "config.json has 3 layers, the weights have 1."),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1, where a whole number above 0 belongs."),
        ({"hidden_size": "64", "vocab_size": None}, "hidden_size is '64', vocab_size is None, where a whole number"),
        ({"num_attention_heads": True}, "num_attention_heads is True, where a whole number above 0 belongs."),
    ],
    ids=["layers", "negative", "text and null", "switch"],
)
def test_a_config_that_does_not_describe_the_weights_is_refused(change: dict[str, Any], says: str) -> None:
    info = model_info(files_of(config={**CONFIG, **change}))

    assert [problem.kind for problem in info.problems] == ["broken-config"]
    assert says in info.problems[0].problem
    assert info.problems[0].fix


@pytest.mark.parametrize("sizes", [[1, 2], [64]])
def test_a_size_for_each_layer_is_a_size(sizes: list[int]) -> None:
    assert model_info(files_of(config={**CONFIG, "num_attention_heads": sizes})).usable
