"""Base models on disk: which directories count, what is wrong with them, and their digests."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import pytest

from oneseek.errors import ModelError
from oneseek.registry import discover as discovering
from oneseek.registry.cache import cache_directory
from oneseek.registry.capabilities import ModelInfo, lora_targets
from oneseek.registry.discover import (
    describe,
    digests,
    discover,
    is_whole,
    read_model_files,
    with_highest_token_id,
)
from oneseek.registry.vocabulary import Vocabulary
from support.base_models import CHAT_TEMPLATE, SPECIAL_TOKENS, write_model


def kinds(info: ModelInfo) -> list[str]:
    return [problem.kind for problem in info.problems]


def keys(models_dir: Path) -> list[str]:
    return [info.key for info in discover(models_dir).models]


# -- which directories count ---------------------------------------------------------------------------------------


def test_models_are_found_in_both_places_and_sorted_by_key(tmp_path: Path) -> None:
    write_model(tmp_path / "Mistral_7B", family="mistral")
    write_model(tmp_path / "oneseek-7b-zero" / "base_models" / "KB-Llama-3.1-8B-Swedish")

    assert keys(tmp_path) == ["kb-llama-3-1-8b-swedish", "mistral-7b"]
    assert discover(tmp_path).collisions == {}


def test_special_hidden_temporary_and_linked_directories_are_left_out(tmp_path: Path) -> None:
    write_model(tmp_path / "real")
    outside = write_model(tmp_path / "elsewhere" / "outside")
    for name in ("oneseek-7b-zero", "oneseek-certified", "OneSeek-Certified", ".cache", "half.tmp"):
        shutil.copytree(outside, tmp_path / name)
    (tmp_path / "linked").symlink_to(outside, target_is_directory=True)
    (tmp_path / "oneseek-7b-zero" / "base_models").mkdir()
    (tmp_path / "oneseek-7b-zero" / "base_models" / "linked-too").symlink_to(outside, target_is_directory=True)

    assert keys(tmp_path) == ["real"]


def test_directories_and_files_that_hold_no_part_of_a_model_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("hello")
    (tmp_path / "config.json").write_text("{}")

    assert keys(tmp_path) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "pytorch_model.bin"])
def test_any_part_of_a_model_makes_a_directory_appear_with_its_problems(tmp_path: Path, name: str) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / name).write_text("{}")

    (found,) = discover(tmp_path).models

    assert found.key == "part"
    assert not found.usable


def test_a_models_directory_that_is_not_there_holds_no_models(tmp_path: Path) -> None:
    assert discover(tmp_path / "nowhere").models == ()


def test_a_models_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ModelError, match=r"cannot be listed.*--models-dir"):
        discover(tmp_path / "file")


def test_two_directories_with_one_key_are_both_listed_and_both_refused(tmp_path: Path) -> None:
    first = write_model(tmp_path / "gemma_2_9b", seed=1)
    second = write_model(tmp_path / "oneseek-7b-zero" / "base_models" / "Gemma-2-9B", seed=2)
    write_model(tmp_path / "other")

    found = discover(tmp_path)

    assert found.collisions == {"gemma-2-9b": sorted([str(first), str(second)])}
    assert [(info.key, kinds(info)) for info in found.models] == [
        ("gemma-2-9b", ["collision"]),
        ("gemma-2-9b", ["collision"]),
        ("other", []),
    ]
    problems = {info.path: info.problems[0].problem for info in found.models if info.problems}
    assert problems[str(first)] == f"{second} has the same key, 'gemma-2-9b'."
    assert problems[str(second)] == f"{first} has the same key, 'gemma-2-9b'."


# -- what is in a directory ----------------------------------------------------------------------------------------


def test_a_model_in_shards_is_described_like_one_in_a_single_file(tmp_path: Path) -> None:
    whole = describe(write_model(tmp_path / "a" / "m"))
    sharded = describe(write_model(tmp_path / "b" / "m", shards=3))

    assert sharded.usable
    assert sharded.linear_modules == whole.linear_modules
    assert sharded.linear_paths == whole.linear_paths
    assert sharded.parameters == whole.parameters
    assert sharded.size_bytes == sum(file.stat().st_size for file in (tmp_path / "b" / "m").glob("*.safetensors"))


def test_only_the_headers_of_weight_files_are_read(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "m", hidden=64) / "model.safetensors"
    header_length = int.from_bytes(weights.read_bytes()[:8], "little")

    files = read_model_files(tmp_path / "m")

    assert len(files.headers["model.safetensors"]) == 8 + header_length < weights.stat().st_size / 4


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
def test_the_chat_template_is_found_wherever_it_lies(
    tmp_path: Path, place: Literal["tokenizer_config.json", "chat_template.jinja", "chat_template.json"]
) -> None:
    info = describe(write_model(tmp_path / "m", template_file=place))

    assert info.chat_template == CHAT_TEMPLATE


def test_a_model_without_a_chat_template_is_usable_and_says_so(tmp_path: Path) -> None:
    info = describe(write_model(tmp_path / "m", chat=False))

    assert info.usable
    assert info.chat_template is None


def test_a_declared_display_name_is_read_from_oneseek_json(tmp_path: Path) -> None:
    info = describe(write_model(tmp_path / "m", display_name="KB-Llama-3.1-8B-Swedish"))

    assert (info.key, info.display_name) == ("m", "KB-Llama-3.1-8B-Swedish")


def test_special_tokens_and_the_absolute_path_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)

    info = describe(Path("m"))

    assert info.path == str(tmp_path / "m")
    assert info.special_tokens["eos_token"] == "</s>"


def hub_gpt2(directory: Path, **config: Any) -> Path:
    """As the hub has it: the tokenizer's own files name no token."""
    write_model(directory, family="gpt2", chat=False, config=config)
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    return directory


@pytest.mark.parametrize("eos", [3, [3, 0]])
def test_an_end_that_only_config_json_names_is_looked_up_in_the_tokenizer(tmp_path: Path, eos: Any) -> None:
    info = describe(hub_gpt2(tmp_path / "m", eos_token_id=eos))

    assert info.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_an_end_that_only_generation_config_names_is_looked_up_too(tmp_path: Path) -> None:
    directory = hub_gpt2(tmp_path / "m", eos_token_id=None, bos_token_id=None)
    (directory / "generation_config.json").write_text('{"eos_token_id": [3, 9]}')

    assert describe(directory).special_tokens == {"eos_token": "</s>"}


@pytest.mark.parametrize(
    ("document", "texts"),
    [
        ({"model": {"vocab": {"a": 0, "</s>": 3}}, "added_tokens": []}, {"eos_token": "</s>"}),
        ({"model": {"vocab": [["<s>", 0.0], ["b", -1], ["<x>", -2], ["</u>", -3.5]]}}, {"eos_token": "</u>"}),
        (
            {"model": {"vocab": {"b": 3}}, "added_tokens": [{"id": 3, "content": "<end>"}, {"id": 9, "content": "x"}]},
            {"eos_token": "<end>"},
        ),
        ({"model": {"vocab": {"a": 0}}}, {}),
        ({"model": {"vocab": 5}}, {}),
        ({"model": 5}, {}),
        ([], {}),
    ],
)
def test_a_token_is_found_in_every_kind_of_vocabulary(tmp_path: Path, document: Any, texts: Any) -> None:
    directory = hub_gpt2(tmp_path / "m", bos_token_id=None)
    (directory / "tokenizer.json").write_text(json.dumps(document))

    assert describe(directory).special_tokens == texts


def test_the_tokenizer_is_read_once_and_only_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    there = discovering.read_vocabulary

    def watched(path: Path) -> Vocabulary | None:
        read.append(path.parent.name)
        return there(path)

    monkeypatch.setattr(discovering, "read_vocabulary", watched)
    names_its_tokens, names_none = write_model(tmp_path / "a", vocab=64), hub_gpt2(tmp_path / "b", vocab_size=64)

    described = [describe(names_its_tokens), describe(names_none)]
    assert read == ["b"]

    assert [with_highest_token_id(info).highest_token_id for info in described] == [63, 63]
    assert read == ["b", "a"]


# -- what can be wrong with it -------------------------------------------------------------------------------------


def test_no_config(tmp_path: Path) -> None:
    (write_model(tmp_path / "m") / "config.json").unlink()

    assert kinds(describe(tmp_path / "m")) == ["no-config"]


def test_an_adapter_among_the_base_models_is_called_one(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "config.json").rename(directory / "adapter_config.json")

    assert "adapter" in describe(directory).problems[0].problem


def test_no_weights_names_files_that_are_not_loaded(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "model.safetensors").rename(directory / "weights.safetensors")

    info = describe(directory)

    assert kinds(info) == ["no-weights"]
    assert "weights.safetensors" in info.problems[0].problem


def test_a_weight_file_without_a_tensor_is_no_weights(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}")

    assert kinds(describe(directory)) == ["no-weights"]


def test_only_pickled_weights_are_refused_with_the_command_that_converts_them(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "Old_Model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")

    info = describe(directory)

    assert kinds(info) == ["only-pickle"]
    assert "oneseek models convert old-model" in info.problems[0].fix
    assert info.size_bytes == (directory / "pytorch_model.bin").stat().st_size


def test_a_trainers_saved_arguments_are_no_weights(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "model.safetensors").rename(directory / "training_args.bin")

    assert kinds(describe(directory)) == ["no-weights"]


def test_a_single_weight_file_is_preferred_to_shards_beside_it(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", shards=2)
    write_model(directory, layers=3)
    (directory / "model.safetensors.index.json").write_text("{")

    info = describe(directory)

    assert info.usable
    assert info.size_bytes == (directory / "model.safetensors").stat().st_size


def test_pickles_beside_safetensors_are_ignored(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "training_args.bin").write_bytes(b"x")
    (directory / "pytorch_model.bin").write_bytes(b"x")

    assert describe(directory).usable


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_weights_are_found_from_the_header_alone(tmp_path: Path, keep: int) -> None:
    weights = write_model(tmp_path / "m") / "model.safetensors"
    os.truncate(weights, keep % weights.stat().st_size)

    info = describe(tmp_path / "m")

    assert kinds(info) == ["truncated-weights"]
    assert info.problems[0].problem.startswith("model.safetensors is cut off")


def test_a_broken_header_is_found(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "m") / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:8] + b"?" + content[9:])

    assert kinds(describe(tmp_path / "m")) == ["broken-header"]


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "m") / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n")

    (problem,) = describe(tmp_path / "m").problems

    assert problem.kind == "truncated-weights"
    assert "git lfs pull" in problem.fix


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (write_model(tmp_path / "m", shards=2) / "model-00002-of-00002.safetensors").unlink()

    (problem,) = describe(tmp_path / "m").problems

    assert problem.kind == "missing-shard"
    assert "model-00002-of-00002.safetensors" in problem.problem


def test_a_shard_outside_the_directory_is_never_opened(tmp_path: Path) -> None:
    secret = write_model(tmp_path / "secret") / "model.safetensors"
    directory = write_model(tmp_path / "m", shards=2)
    index = {"weight_map": {"lm_head.weight": f"../secret/{secret.name}"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    info = describe(directory)

    assert kinds(info) == ["missing-shard"]
    assert info.parameters == 0


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": {"a": 1}}', '{"weight_map": {}}'])
def test_a_broken_index_is_one_problem(tmp_path: Path, index: str) -> None:
    directory = write_model(tmp_path / "m", shards=2)
    (directory / "model.safetensors.index.json").write_text(index)

    assert kinds(describe(directory)) == ["broken-index"]


def test_an_index_that_promises_a_tensor_that_is_not_there_is_broken(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", shards=2)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.9.made_up.weight"] = "model-00001-of-00002.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    info = describe(directory)

    assert kinds(info) == ["broken-index"]
    assert "model.layers.9.made_up.weight" in info.problems[0].problem


@pytest.mark.parametrize("left", ["nothing", "an empty file", "tokenizer.model"])
def test_no_tokenizer(tmp_path: Path, left: str) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "tokenizer.json").unlink()
    if left == "an empty file":
        (directory / "tokenizer.json").touch()
    elif left == "tokenizer.model":
        (directory / left).write_bytes(b"sentencepiece")

    (problem,) = describe(directory).problems

    assert problem.kind == "no-tokenizer"
    assert "tokenizer.json" in problem.fix


AUTO_MAP = {"auto_map": {"AutoConfig": "modeling_m.Config", "AutoModelForCausalLM": "modeling_m.Model"}}


@pytest.mark.parametrize("model_type", ["made_up_99", "auto", "", "llama/../llama", '", "'])
def test_code_that_a_model_brings_is_refused_where_there_is_no_other(tmp_path: Path, model_type: str) -> None:
    directory = write_model(tmp_path / "m", config={**AUTO_MAP, "model_type": model_type})

    assert "foreign-code" in kinds(describe(directory))


def test_a_config_with_infinity_and_code_is_read_as_the_models_own_library_writes_it(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", config={**AUTO_MAP, "time_step_limit": [0.0, math.inf]})

    assert kinds(describe(directory)) == []


@pytest.mark.parametrize("model_type", ["llama", "phi3", "falcon", "gemma3_text", "gpt-sw3"])
def test_code_that_a_model_brings_is_no_problem_where_transformers_has_its_own(tmp_path: Path, model_type: str) -> None:
    directory = write_model(tmp_path / "m", config={**AUTO_MAP, "model_type": model_type})

    assert kinds(describe(directory)) == []


def test_a_model_that_is_no_causal_lm_is_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", config={"architectures": ["T5ForConditionalGeneration"]})

    assert kinds(describe(directory)) == ["not-causal-lm"]


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "merges.txt").touch()

    assert kinds(describe(tmp_path / "m")) == ["no-config", "no-weights", "no-tokenizer"]


def test_a_describing_file_of_absurd_size_is_not_read(tmp_path: Path) -> None:
    os.truncate(write_model(tmp_path / "m") / "config.json", 2**31)

    assert kinds(describe(tmp_path / "m")) == ["unreadable"]


def test_a_directory_that_cannot_be_listed_is_only_that(tmp_path: Path) -> None:
    (problem,) = describe(tmp_path / "gone").problems

    assert problem.kind == "unreadable"
    assert "No such file" in problem.problem


# -- digests -------------------------------------------------------------------------------------------------------


def test_the_digest_of_the_weights_is_what_sha256sum_makes_of_their_list(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", shards=3)
    command = "LC_ALL=C; export LC_ALL; sha256sum *.safetensors | sha256sum"

    printed = subprocess.run(["sh", "-c", command], cwd=directory, capture_output=True, check=True, text=True).stdout

    assert digests(directory).weights_sha256 == printed.split()[0]


def test_digests_are_of_config_tokenizer_and_the_templates_text(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", template_file="chat_template.json")

    found = digests(directory)

    assert found.config_sha256 == hashlib.sha256((directory / "config.json").read_bytes()).hexdigest()
    tokenizer = hashlib.sha256((directory / "tokenizer.json").read_bytes()).hexdigest()
    tokens = json.dumps(SPECIAL_TOKENS, sort_keys=True, separators=(",", ":"))
    assert found.tokenizer_sha256 == hashlib.sha256(f"{tokenizer}  tokenizer.json\n{tokens}".encode()).hexdigest()
    assert found.template_sha256 == hashlib.sha256(CHAT_TEMPLATE.encode()).hexdigest()


def test_the_same_template_in_another_place_has_the_same_digest(tmp_path: Path) -> None:
    first = write_model(tmp_path / "a", template_file="chat_template.jinja")
    second = write_model(tmp_path / "b", template_file="tokenizer_config.json")

    assert digests(first) == digests(second)


def test_another_end_token_is_another_tokenizer(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    before = digests(directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings["eos_token"] = settings["pad_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))

    assert digests(directory).tokenizer_sha256 != before.tokenizer_sha256


def test_one_flipped_bit_in_the_weights_changes_their_digest_and_no_other(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", chat=False)
    before = digests(directory)
    weights = directory / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    after = digests(directory)

    assert after.weights_sha256 != before.weights_sha256
    assert (after.config_sha256, after.tokenizer_sha256) == (before.config_sha256, before.tokenizer_sha256)
    assert after.template_sha256 is None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_digests_of_a_model_without_one_of_its_files_are_refused(tmp_path: Path, name: str) -> None:
    directory = write_model(tmp_path / "m")
    (directory / name).unlink()

    with pytest.raises(ModelError, match="safetensors" if name == "model.safetensors" else name):
        digests(directory)


# -- against the libraries that will load them ---------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_modules_are_those_that_peft_adapts_in_a_model_saved_by_transformers(tmp_path: Path, family: str) -> None:
    import peft
    import transformers

    settings: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = (
        transformers.GPT2Config(
            vocab_size=64, n_embd=16, n_head=2, n_layer=2, n_positions=32, bos_token_id=2, eos_token_id=3
        )
        if family == "gpt2"
        else transformers.LlamaConfig(intermediate_size=24, num_key_value_heads=1, **settings)
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "m")
    parameters = sum(parameter.numel() for parameter in model.parameters())

    info = describe(tmp_path / "m")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=family == "gpt2", task_type="CAUSAL_LM")
    )

    theirs = {name.split(".lora_A")[0] for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert set(info.linear_paths) == {name.removeprefix("base_model.model.") for name in theirs}
    assert set(lora_targets(info, "all-linear")) == {name.rsplit(".", 1)[-1] for name in theirs}
    assert info.parameters == parameters
    assert {module.conv1d for module in info.linear_modules} == {family == "gpt2"}
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert sum(module.parameters_at(4) for module in info.linear_modules) == trainable


@pytest.mark.engine
def test_code_beside_a_model_that_transformers_has_is_not_run(tmp_path: Path) -> None:
    import torch

    from oneseek.engine.base_model import load_base_model

    directory = write_model(tmp_path / "m", config=AUTO_MAP)
    (directory / "modeling_m.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w').close()\n")

    model = load_base_model(directory, torch.float32)

    assert type(model).__module__ == "transformers.models.llama.modeling_llama"
    assert not (tmp_path / "marker").exists()


@pytest.mark.engine
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "phi", "mixtral"])
def test_the_models_that_tests_are_made_of_load_whole_and_speak(tmp_path: Path, family: Any) -> None:
    import torch
    import transformers

    directory = write_model(tmp_path / "m", family=family, vocab=260, shards=2)

    model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    messages = [{"role": "user", "content": "Hej på dig"}]
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        logits = model(ids).logits

    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert tokenizer.decode(ids[0]) == "<s>user\nHej på dig</s>\n"
    assert tokenizer.eos_token == describe(directory).special_tokens["eos_token"]
    assert torch.isfinite(logits).all()
    assert logits.shape == (1, ids.shape[1], 260)


def test_an_encoder_and_decoder_that_names_neither_type_nor_architecture_is_described_like_any_other(
    tmp_path: Path,
) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "config.json").write_text('{"is_encoder_decoder": true}')

    assert "not-causal-lm" in kinds(describe(directory))


# -- the Hugging Face cache ----------------------------------------------------------------------------------------

COMMIT, NEWER = "a" * 40, "b" * 40


def write_snapshot(cache: Path, repository: str = "models--Org--Alfa-1B", commit: str = COMMIT, **model: Any) -> Path:
    """A model as the hub's programs leave it: links in a snapshot to files that are named by their digest."""
    snapshot = write_model(cache / repository / "snapshots" / commit, **model)
    (cache / repository / "blobs").mkdir(exist_ok=True)
    for file in list(snapshot.iterdir()):
        blob = cache / repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        file.symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


def write_ref(cache: Path, commit: str, repository: str = "models--Org--Alfa-1B", revision: str = "main") -> None:
    ref = cache / repository / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HUGGINGFACE_HUB_CACHE": "/old"}, "/old"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({}, "~/.cache/huggingface/hub"),
        ({"HF_HOME": "~/hf"}, "~/hf/hub"),
    ],
    ids=["cache", "old-name", "home", "xdg", "nothing", "tilde"],
)
def test_the_cache_is_where_the_hubs_own_programs_have_it(environment: dict[str, str], expected: str) -> None:
    assert cache_directory(environment) == Path(expected).expanduser()


def test_models_of_the_cache_are_listed_by_their_name_on_the_hub(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "cache")
    write_ref(tmp_path / "cache", COMMIT)
    write_model(tmp_path / "models" / "beta-1b")

    found = discover(tmp_path / "models", tmp_path / "cache")

    assert [(info.key, info.source) for info in found.models] == [("alfa-1b", "cache"), ("beta-1b", "directory")]
    alfa = found.models[0]
    assert (alfa.display_name, alfa.path) == ("Alfa-1B", str(path))
    assert (alfa.hub_id, alfa.revision, alfa.missing_bytes, alfa.usable) == ("Org/Alfa-1B", COMMIT, 0, True)


def test_without_a_cache_only_the_models_directory_counts(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "cache")

    assert discover(tmp_path / "models").models == ()
    assert discover(tmp_path / "models", tmp_path / "nowhere").models == ()


def test_a_directory_passes_over_the_model_of_its_key_in_the_cache_and_says_so(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "cache")
    write_model(tmp_path / "models" / "Alfa_1B")

    found = discover(tmp_path / "models", tmp_path / "cache")

    assert [(info.key, info.source, info.usable) for info in found.models] == [("alfa-1b", "directory", True)]
    assert found.shadowed == {"alfa-1b": [str(path)]}
    assert found.collisions == {}


def test_two_organisations_with_one_model_name_are_both_listed_and_both_refused(tmp_path: Path) -> None:
    first = write_snapshot(tmp_path / "cache")
    second = write_snapshot(tmp_path / "cache", "models--Other--alfa-1b")

    found = discover(tmp_path / "models", tmp_path / "cache")

    assert found.collisions == {"alfa-1b": sorted([str(first), str(second)])}
    assert [kinds(info) for info in found.models] == [["collision"], ["collision"]]
    assert "models directory as alfa-1b/" in found.models[0].problems[0].fix


def test_the_commit_of_main_is_listed_else_the_one_begun_last(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    os.utime(write_snapshot(cache), ns=(1, 1))
    os.utime(write_snapshot(cache, commit=NEWER, seed=1), ns=(2, 2))

    newest = discover(tmp_path, cache).models[0].revision
    write_ref(cache, COMMIT)

    assert newest == NEWER
    assert discover(tmp_path, cache).models[0].revision == COMMIT


@pytest.mark.parametrize("ref", ["../../outside", "c" * 40, "", "main"], ids=["hostile", "gone", "empty", "word"])
def test_a_ref_that_names_no_snapshot_counts_for_nothing(tmp_path: Path, ref: str) -> None:
    write_snapshot(tmp_path / "cache")
    write_ref(tmp_path / "cache", ref)
    write_model(tmp_path / "cache" / "outside")

    assert [info.revision for info in discover(tmp_path, tmp_path / "cache").models] == [COMMIT]


def test_datasets_empty_repositories_and_other_files_are_left_out(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "datasets--Org--rows" / "snapshots" / COMMIT).mkdir(parents=True)
    (cache / "models--Org--begun" / "blobs").mkdir(parents=True)
    (cache / "models--Org--nothing" / "snapshots" / COMMIT).mkdir(parents=True)
    (cache / "models--Org--odd" / "snapshots" / "not-a-commit").mkdir(parents=True)
    (cache / "models--Org--file").write_text("")
    (cache / ".locks").mkdir()

    assert discover(tmp_path, cache).models == ()


def test_a_model_that_is_not_whole_says_how_to_fetch_the_rest(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path / "cache", shards=2, hidden=64)
    lost = path / "model-00002-of-00002.safetensors"
    size = lost.stat().st_size
    lost.resolve().unlink()

    (info,) = discover(tmp_path, tmp_path / "cache").models

    assert kinds(info) == ["missing-shard"]
    assert info.problems[0].fix == "Download what is missing: oneseek models pull Org/Alfa-1B"
    assert 0.9 * size < info.missing_bytes <= size  # the index counts tensors, without the headers
    assert not is_whole(path)


@pytest.mark.parametrize("metadata", ["{}", '{"metadata": []}', '{"metadata": {"total_size": "much"}}', "["])
def test_a_shard_index_that_tells_no_size_leaves_it_untold(tmp_path: Path, metadata: str) -> None:
    path = write_snapshot(tmp_path / "cache", shards=2)
    (path / "model.safetensors.index.json").resolve().write_text(metadata)

    (info,) = discover(tmp_path, tmp_path / "cache").models

    assert not info.usable
    assert info.missing_bytes == 0


def test_a_problem_that_no_download_solves_keeps_its_fix(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "cache", config={"architectures": ["BertModel"]})

    (info,) = discover(tmp_path, tmp_path / "cache").models

    assert kinds(info) == ["not-causal-lm"]
    assert "pull" not in info.problems[0].fix


def test_a_cache_that_cannot_be_listed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")

    with pytest.raises(ModelError, match=r"cannot be listed.*HF_HUB_CACHE"):
        discover(tmp_path, tmp_path / "cache")


def test_a_snapshot_has_the_digests_of_a_directory_with_the_same_files(tmp_path: Path) -> None:
    assert digests(write_snapshot(tmp_path / "cache")) == digests(write_model(tmp_path / "plain"))
