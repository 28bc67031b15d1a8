from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.aliases import ALIASES, TABLE
from oneseek.config.body import of_body
from oneseek.config.reference import settings
from oneseek.config.sources import Resolved, resolve, rows_of
from oneseek.errors import ConfigError


def asked(
    settings: dict[str, Any] | None = None,
    *,
    body: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    file: Path | None = None,
) -> Resolved:
    return resolve(file=file, environment=environment or {}, flags=settings or {}, body=body)


def told(answer: Resolved) -> list[tuple[str, str]]:
    return [(problem.kind, problem.field) for problem in answer.problems]


def given_values(answer: Resolved) -> dict[str, Any]:
    return {field: value for field, value, origin in rows_of(answer) if origin != "default"}


HUGGING_FACE = """
model_name_or_path: mistral-7b
train_file: rows.jsonl
validation_file: more.jsonl
num_train_epochs: 3.0
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
learning_rate: 2e-5
lr_scheduler_type: constant_with_warmup
warmup_ratio: 0.1
weight_decay: 0.01
max_grad_norm: 0.5
seed: 7
save_steps: 100
max_length: 512
lora_r: 8
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
use_rslora: true
load_in_4bit: false
load_in_8bit: true
output_dir: out
gradient_checkpointing: true
"""
AXOLOTL = """
base_model: mistral-7b
load_in_8bit: false
load_in_4bit: true
datasets:
  - path: rows.jsonl
    type: alpaca
val_set_size: 0.02
rl: dpo
sequence_len: 1024
lora_r: 8
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
lora_target_modules:
gradient_accumulation_steps: 1
micro_batch_size: 2
num_epochs: 4
lr_scheduler: cosine
learning_rate: 0.0002
weight_decay:
output_dir: ./out
gradient_checkpointing: false
"""
FACTORY = """
stage: dpo
model_name_or_path: mistral-7b
quantization_bit: 4
cutoff_len: 1024
val_size: 0.1
lora_rank: 8
lora_target: all
pref_beta: 0.2
pref_loss: ipo
"""


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (
            HUGGING_FACE,
            {
                "model.name": "mistral-7b",
                "model.quantization": "8bit",
                "data.dataset": "rows.jsonl",
                "data.validation_dataset": "more.jsonl",
                "data.max_length": 512,
                "training.num_epochs": 3,
                "training.batch_size": 4,
                "training.gradient_accumulation_steps": 2,
                "training.learning_rate": 2e-5,
                "training.lr_scheduler": "constant",
                "training.warmup_ratio": 0.1,
                "training.max_grad_norm": 0.5,
                "training.weight_decay": 0.01,
                "training.seed": 7,
                "training.checkpoint_every": 100,
                "lora.r": 8,
                "lora.alpha": 16,
                "lora.dropout": 0.05,
                "lora.use_rslora": True,
                "lora.target_modules": ("q_proj", "v_proj"),
                "output.directory": "out",
                "execution.gradient_checkpointing": "always",
            },
        ),
        (
            AXOLOTL,
            {
                "model.name": "mistral-7b",
                "model.quantization": "4bit",
                "data.dataset": "rows.jsonl",
                "data.validation_split": 0.02,
                "data.max_length": 1024,
                "training.method": "dpo",
                "training.num_epochs": 4,
                "training.batch_size": 2,
                "training.gradient_accumulation_steps": 1,
                "training.learning_rate": 0.0002,
                "training.lr_scheduler": "cosine",
                "lora.r": 8,
                "lora.alpha": 16,
                "lora.dropout": 0.05,
                "lora.target_modules": "all-linear",
                "output.directory": "./out",
                "execution.gradient_checkpointing": "never",
            },
        ),
        (
            FACTORY,
            {
                "model.name": "mistral-7b",
                "model.quantization": "4bit",
                "data.validation_split": 0.1,
                "data.max_length": 1024,
                "training.method": "dpo",
                "lora.r": 8,
                "lora.target_modules": "all-linear",
                "dpo.beta": 0.2,
                "dpo.loss": "ipo",
            },
        ),
    ],
    ids=["hugging face", "axolotl", "llama-factory"],
)
def test_a_file_of_another_tool_is_read_as_what_it_means(text: str, values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text(text)

    answer = asked(file=tmp_path / "theirs.yaml")

    assert answer.problems == ()
    assert given_values(answer) == values
    assert {note.given for note in answer.notes} == set(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({"num_train_epochs": 5}, "num_train_epochs is read as training.num_epochs."),
        ({"lora": {"lora_alpha": 8}}, "lora.lora_alpha is read as lora.alpha."),
        (
            {"per_model": {"a": {"lora": {"lora_alpha": 8}}}},
            "per_model.a.lora.lora_alpha is read as per_model.a.lora.alpha.",
        ),
        ({"dataset": "a.jsonl"}, "dataset is read as data.dataset."),
        ({"lora_target": "ALL"}, "lora_target is read as lora.target_modules: all-linear."),
        ({"load_in_8bit": False}, "load_in_8bit: false sets nothing."),
        ({"datasets": [{"path": "a.jsonl"}]}, "datasets is read as data.dataset: a.jsonl."),
    ],
)
def test_every_alias_that_is_read_is_noted(settings: dict[str, Any], note: str) -> None:
    answer = asked(settings)

    assert answer.problems == ()
    assert [each.note for each in answer.notes] == [note]


def test_the_origin_of_a_value_tells_the_name_that_it_was_given_under(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lora_rank: 4\nlora: {lora_alpha: 8}")

    answer = asked({"num_epochs": 2}, environment={"ONESEEK_LORA__LORA_DROPOUT": "0.1"}, file=tmp_path / "a.yaml")

    assert answer.origins["lora.r"] == f"file {tmp_path / 'a.yaml'} (as lora_rank)"
    assert answer.origins["lora.alpha"] == f"file {tmp_path / 'a.yaml'} (as lora.lora_alpha)"
    assert answer.origins["lora.dropout"] == "environment ONESEEK_LORA__LORA_DROPOUT (as lora.lora_dropout)"
    assert answer.origins["training.num_epochs"] == "flag (as num_epochs)"


def test_a_higher_source_wins_whatever_name_it_uses(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("lora: {r: 4}\nnum_epochs: 2\nmodel: {base_models: [a, b]}")

    answer = asked({"lora_rank": 8, "training.num_epochs": 5, "base_model": "c"}, file=tmp_path / "a.yaml")

    assert answer.problems == ()
    assert given_values(answer) == {"lora.r": 8, "training.num_epochs": 5, "model.name": "c"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"num_train_epochs": 3, "training": {"num_epochs": 5}}, ("num_train_epochs is 3", "training.num_epochs is 5")),
        ({"num_train_epochs": 3, "num_epochs": 5}, ("num_train_epochs is 3", "num_epochs is 5")),
        ({"load_in_4bit": True, "load_in_8bit": True}, ("load_in_4bit is '4bit'", "load_in_8bit is true")),
    ],
)
def test_two_names_of_one_setting_with_different_values_are_an_error_that_names_both(
    settings: dict[str, Any], named: tuple[str, ...]
) -> None:
    answer = asked(settings)

    (problem,) = answer.problems
    assert problem.kind == "conflict"
    assert all(name in problem.problem for name in named)
    assert problem.fix == f"Give {problem.field} alone."


def test_two_names_of_one_setting_with_the_same_value_are_no_conflict() -> None:
    answer = asked({"num_train_epochs": 5, "num_epochs": 5, "training": {"num_epochs": 5}})

    assert (answer.problems, answer.config.training.num_epochs) == ((), 5)
    assert answer.origins["training.num_epochs"] == "flag"


def test_a_base_model_beside_a_selection_is_a_conflict() -> None:
    assert told(asked({"base_model": "a", "model": {"base_models": ["b"]}})) == [("conflict", "model.name")]


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ([], "data.dataset is one file"),
        ([{"path": "a"}, {"path": "b"}], "data.dataset is one file"),
        ("a.jsonl", "data.dataset is one file"),
        ([{"type": "alpaca"}], "it has no path"),
        ([{"path": 5}], "it has no path"),
        (["a.jsonl"], "it has no path"),
        ([{"path": "a", "field_messages": "m", "split": "x"}], "is a file alone, without field_messages, split"),
    ],
)
def test_a_list_of_datasets_that_is_more_than_one_file_is_refused(datasets: Any, reason: str) -> None:
    (problem,) = asked({"datasets": datasets}).problems

    assert (problem.kind, problem.field) == ("value", "data.dataset")
    assert reason in problem.problem
    assert problem.fix == "Set data.dataset in place of datasets."


def test_the_value_of_an_alias_is_checked_like_the_settings_own() -> None:
    answer = asked({"num_train_epochs": -1, "lora_r": "abc", "stage": "pt", "lora_alpha": True, "val_set_size": 200})

    assert sorted(told(answer)) == [
        ("bound", "data.validation_split"),
        ("bound", "training.num_epochs"),
        ("type", "lora.alpha"),
        ("type", "lora.r"),
        ("value", "training.method"),
    ]


def test_an_alias_of_a_section_that_is_none_hides_nothing_of_what_is_wrong() -> None:
    answer = asked({"training": 5, "num_train_epochs": 3})

    assert told(answer) == [("type", "training")]


@pytest.mark.parametrize("settings", [{"training": {"lora_rank": 4}}, {"per_model": {"a": {"training": {"seed": 1}}}}])
def test_an_alias_where_no_tool_would_put_it_is_an_unknown_key(settings: dict[str, Any]) -> None:
    answer = asked(settings)

    assert [kind for kind, _ in told(answer)] == ["unknown"]
    assert answer.notes == ()


def test_every_alias_means_a_setting_and_no_two_have_one_name() -> None:
    assert len(ALIASES) == len(TABLE)
    assert [alias.field for alias in TABLE if alias.field not in settings()] == []


# -- a request's body ----------------------------------------------------------------------------------------------


def test_the_flat_body_of_the_older_interface_is_accepted() -> None:
    body = {
        "datasetId": "town",
        "baseModels": ["mistral-7b-instruct", "llama-2-7b-chat"],
        "epochs": 3,
        "learningRate": 0.0001,
        "autoStopThreshold": 0.001,
        "autoStopPatience": 3,
    }

    answer = asked(body=body)

    assert (answer.problems, answer.notes) == ((), ())
    assert given_values(answer) == {
        "data.dataset": "town",
        "model.base_models": ("mistral-7b-instruct", "llama-2-7b-chat"),
        "training.num_epochs": 3,
        "training.learning_rate": 0.0001,
        "confidence_auto_stop.threshold": 0.001,
        "confidence_auto_stop.patience": 3,
    }
    assert set(answer.origins.values()) == {"default", "HTTP body"}


def test_sections_of_a_body_may_be_nested_in_camel_case_or_as_in_a_file() -> None:
    body = {
        "adaptiveWeights": {"adjustStrategy": {"topModelBoost": 0.2}},
        "perModel": {"KB-Llama": {"lora": {"targetModules": ["q_proj"]}}},
        "live_leaderboard": {"refresh_interval": 2},
    }

    answer = asked(body=body)

    assert answer.problems == ()
    assert given_values(answer) == {
        "adaptive_weights.adjust_strategy.top_model_boost": 0.2,
        "per_model.KB-Llama.lora.target_modules": ("q_proj",),
        "live_leaderboard.refresh_interval": 2,
    }


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"epochs": 3, "training": {"numEpochs": 3}}, "as epochs and as training.numEpochs"),
        ({"training": {"num_epochs": 5}, "epochs": 3}, "as training.num_epochs and as epochs"),
        ({"training": {"num_epochs": 5, "numEpochs": 3}}, "as training.num_epochs and as training.numEpochs"),
    ],
)
def test_a_setting_given_twice_in_a_body_is_an_error(body: dict[str, Any], named: str) -> None:
    (problem,) = asked(body=body).problems

    assert (problem.kind, problem.field) == ("conflict", "training.num_epochs")
    assert named in problem.problem


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({"epoch": 3}, [("unknown", "epoch")]),
        ({"training": {"x": {}}}, [("unknown", "training.x")]),
        ({"training": 5, "epochs": -1}, [("type", "training")]),
        ({"epochs": -1, "training": 5}, [("type", "training")]),
        ({"epochs": None}, [("type", "training.num_epochs")]),
        ({"baseModels": {"a": 1}}, [("unknown", "base_models")]),
        ({"training": {}}, []),
    ],
)
def test_what_is_wrong_in_a_body_is_said_like_everywhere(body: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    assert told(asked(body=body)) == problems


def test_a_body_wins_over_environment_and_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training: {num_epochs: 4, seed: 4}")

    answer = asked(body={"epochs": 6}, environment={"ONESEEK_TRAINING__NUM_EPOCHS": "5"}, file=tmp_path / "a.yaml")

    assert (answer.config.training.num_epochs, answer.config.training.seed) == (6, 4)


def test_a_body_that_is_nested_endlessly_is_refused() -> None:
    body: dict[str, Any] = {}
    for _ in range(5000):
        body = {"a": body}

    with pytest.raises(ConfigError, match="nested too deeply"):
        of_body(body)


NAMES = st.sampled_from(
    [*ALIASES, "lora", "training", "model", "data", "per_model", "perModel", "epochs", "path", "a.b", "", "A"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(NAMES, JSON, max_size=4), st.dictionaries(NAMES, JSON, max_size=4))
def test_nothing_that_a_program_or_a_file_can_say_breaks_the_reading(
    body: dict[str, Any], flags: dict[str, Any]
) -> None:
    answer = asked(flags, body=body)

    assert {problem.kind for problem in answer.problems} <= {"unknown", "type", "bound", "value", "conflict"}
    assert all(problem.problem and problem.fix for problem in answer.problems)
