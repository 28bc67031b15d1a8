from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oneseek.config.sources import Resolved, assignments, load, resolve, rows_of
from oneseek.errors import ConfigError


def resolved(
    file: Path | None = None, environment: dict[str, str] | None = None, flags: dict[str, Any] | None = None
) -> Resolved:
    return resolve(file=file, environment=environment or {}, flags=flags or {})


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = written(tmp_path / "train.yaml", "training: {num_epochs: 4, batch_size: 4, seed: 4}")
    environment = {"ONESEEK_TRAINING__NUM_EPOCHS": "5", "ONESEEK_TRAINING__BATCH_SIZE": "5"}

    answer = resolved(file, environment, {"training.num_epochs": 6})

    training = answer.config.training
    assert (training.num_epochs, training.batch_size, training.seed, training.keep) == (6, 5, 4, "best")
    assert answer.origins["training.num_epochs"] == "flag"
    assert answer.origins["training.batch_size"] == "environment ONESEEK_TRAINING__BATCH_SIZE"
    assert answer.origins["training.seed"] == f"file {file}"
    assert answer.origins["training.keep"] == "default"
    assert answer.problems == ()


def test_every_setting_has_a_row_with_its_origin() -> None:
    rows = rows_of(resolved(environment={"BASE_MODELS": "a,b"}, flags={"per_model.a.lora.r": "4"}))

    assert ("model.base_models", ("a", "b"), "environment BASE_MODELS") in rows
    assert ("per_model.a.lora.r", 4, "flag") in rows
    assert ("lora.r", 16, "default") in rows
    assert ("live_leaderboard.display.show_weights", True, "default") in rows


@pytest.mark.parametrize("text", ["", "   "])
def test_an_empty_base_models_variable_selects_nothing_and_hides_nothing(text: str, tmp_path: Path) -> None:
    file = written(tmp_path / "train.yaml", "model: {base_models: [a]}")

    answer = resolved(file, {"BASE_MODELS": text})

    assert answer.config.model.selection == ("a",)


@pytest.mark.parametrize(
    ("below", "above"), [("name: a", {"model.base_models": ["b"]}), ("base_models: [a, c]", {"model": {"name": "b"}})]
)
def test_a_higher_selection_replaces_a_lower_one_said_the_other_way(
    below: str, above: dict[str, Any], tmp_path: Path
) -> None:
    file = written(tmp_path / "train.yaml", f"model: {{{below}}}")

    answer = resolved(file, flags=above)

    assert answer.problems == ()
    assert answer.config.model.selection == ("b",)
    assert sorted({answer.origins["model.name"], answer.origins["model.base_models"]}) == ["default", "flag"]


def test_two_selections_in_one_file_conflict(tmp_path: Path) -> None:
    file = written(tmp_path / "train.yaml", "model: {name: a, base_models: [b]}")

    answer = resolved(file)

    assert [problem.kind for problem in answer.problems] == ["conflict"]


def test_a_value_that_was_not_taken_has_the_default_as_origin() -> None:
    answer = resolved(flags={"training.num_epochs": -1})

    assert answer.config.training.num_epochs == 3
    assert answer.origins["training.num_epochs"] == "default"


def test_flags_that_are_none_were_not_given() -> None:
    answer = resolved(flags={"training.num_epochs": None, "data": {"dataset": None}})

    assert answer.problems == ()
    assert answer.origins["data.dataset"] == "default"


# -- environment ---------------------------------------------------------------------------------------------------


def test_variables_reach_nested_settings_switches_lists_and_single_models() -> None:
    environment = {
        "ONESEEK_ADAPTIVE_WEIGHTS__ADJUST_STRATEGY__TOP_MODEL_BOOST": "0.5",
        "ONESEEK_ADAPTIVE_WEIGHTS__ENABLED": "false",
        "ONESEEK_METADATA__USE_ATOMIC_WRITES": "true",
        "ONESEEK_LORA__TARGET_MODULES": "[q_proj, v_proj]",
        "ONESEEK_PER_MODEL__KB_LLAMA_3_1__LORA__R": "4",
        "ONESEEK_OUTPUT__VERSION": "1.10",
    }

    answer = resolved(environment=environment)

    assert answer.problems == ()
    assert answer.config.adaptive_weights.adjust_strategy.top_model_boost == 0.5
    assert answer.config.adaptive_weights.enabled is False
    assert answer.config.lora.target_modules == ("q_proj", "v_proj")
    assert answer.config.lora_for("kb-llama-3-1").r == 4
    assert answer.config.output.version == "1.10"


def test_locations_and_secrets_are_no_settings() -> None:
    answer = resolved(
        environment={"ONESEEK_HOME": "/x", "MODELS_DIR": "/y", "HF_TOKEN": "secret", "LEDGER_TOKEN": "secret"}
    )

    assert answer.problems == ()
    assert "secret" not in repr(answer)
    assert set(answer.origins.values()) == {"default"}


def test_a_variable_with_one_underscore_too_few_is_not_passed_over() -> None:
    answer = resolved(environment={"ONESEEK_TRAINING_NUM_EPOCHS": "5"})

    assert [problem.kind for problem in answer.problems] == ["unknown"]
    assert answer.problems[0].fix == "Did you mean ONESEEK_TRAINING__NUM_EPOCHS?"


def test_a_switch_in_a_variable_is_none_where_a_number_belongs() -> None:
    answer = resolved(environment={"ONESEEK_TRAINING__NUM_EPOCHS": "true"})

    assert [(problem.kind, problem.field) for problem in answer.problems] == [("type", "training.num_epochs")]


def test_a_variable_of_an_unknown_setting_is_refused() -> None:
    answer = resolved(environment={"ONESEEK_TRAINING__EPOCH": "5"})

    assert [problem.field for problem in answer.problems] == ["training.epoch"]


def test_a_variable_with_a_bracket_left_open_is_a_problem_among_the_others() -> None:
    answer = resolved(environment={"ONESEEK_LORA__TARGET_MODULES": "[a", "ONESEEK_LORA__R": "0"})

    assert [problem.field for problem in answer.problems] == ["lora.target_modules", "lora.r"]
    assert "ONESEEK_LORA__TARGET_MODULES" in answer.problems[0].problem


def test_a_variable_names_models_with_spaces_in_them_between_commas() -> None:
    answer = resolved(environment={"BASE_MODELS": "my model, plain"})

    assert answer.config.model.selection == ("my model", "plain")


def test_two_variables_for_one_setting_conflict() -> None:
    answer = resolved(environment={"BASE_MODELS": "a", "ONESEEK_MODEL__BASE_MODELS": "b"})

    assert [problem.kind for problem in answer.problems] == ["conflict"]


# -- --set ---------------------------------------------------------------------------------------------------------


def test_assignments_become_nested_settings_and_the_last_one_wins() -> None:
    given = assignments(
        ["training.num_epochs=5", "lora.target_modules=[a, b]", "training.num_epochs=6", "data.dataset=a=b #1: x"]
    )

    assert given == {
        "training": {"num_epochs": "6"},
        "lora": {"target_modules": ["a", "b"]},
        "data": {"dataset": "a=b #1: x"},
    }


@pytest.mark.parametrize("text", ["training.num_epochs", "=5", "training.=5", "", "a=[b", "a=[&x [*x]]"])
def test_an_assignment_that_sets_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        assignments([text])

    assert refused.value.fix


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "training:\n  learning_rate: 1e-4\n"),
        ("a.yml", "\ufefftraining: {learning_rate: 0.0001}"),
        ("a.TOML", "[training]\nlearning_rate = 1e-4\n"),
        ("a.json", '{"training": {"learning_rate": 1e-4}}'),
        ("a.json", '\ufeff{"training": {"learning_rate": 1e-4}}'),
    ],
)
def test_the_same_settings_can_be_written_in_three_formats(name: str, text: str, tmp_path: Path) -> None:
    answer = resolved(written(tmp_path / name, text))

    assert answer.problems == ()
    assert answer.config.training.learning_rate == 1e-4
    assert answer.origins["training.learning_rate"].startswith("file ")


@pytest.mark.parametrize("name", ["a.yaml", "a.toml", "a.json"])
def test_an_empty_file_sets_nothing(name: str, tmp_path: Path) -> None:
    assert load(written(tmp_path / name, "")) == {}


def test_names_of_a_files_list_are_taken_as_they_are(tmp_path: Path) -> None:
    file = written(tmp_path / "a.yaml", "model: {base_models: [my model, plain]}")

    assert resolved(file).config.model.selection == ("my model", "plain")


def test_an_alias_may_be_used_beside_what_it_stands_for(tmp_path: Path) -> None:
    text = "lora: &l {r: 4}\nper_model: {x: {lora: *l}}\nmodel: {name: &n x, base_models: [*n]}\n"

    answer = resolved(written(tmp_path / "a.yaml", text))

    assert (answer.problems, answer.config.model.selection) == ((), ("x",))


@pytest.mark.parametrize("number", ["1" + "0" * 400, "0x" + "f" * 9000])
def test_an_endless_number_in_a_file_is_one_problem(number: str, tmp_path: Path) -> None:
    answer = resolved(written(tmp_path / "a.yaml", f"data: {{max_length: {number}}}\n? {number}\n: 1\n"))

    assert [problem.kind for problem in answer.problems] == ["unknown", "bound"]


def test_a_section_without_settings_keeps_what_lies_below(tmp_path: Path) -> None:
    answer = resolved(written(tmp_path / "a.yaml", "training:\n  # num_epochs: 5\nlora:\n  r: 4\n"))

    assert answer.problems == ()
    assert answer.config.lora.r == 4


@pytest.mark.parametrize("name", ["pj.yaml", "PJ.YAML", "Pj.Yaml"])
def test_pj_yaml_is_refused_by_its_name_even_with_settings_in_it(name: str, tmp_path: Path) -> None:
    file = written(tmp_path / name, "training: {num_epochs: 1}")

    with pytest.raises(ConfigError) as refused:
        load(file)

    assert "console output and never configuration" in refused.value.problem


def test_pj_yaml_is_refused_under_another_name_too(tmp_path: Path) -> None:
    written(tmp_path / "pj.yaml", "training: {num_epochs: 1}")
    (tmp_path / "train.yaml").symlink_to(tmp_path / "pj.yaml")

    with pytest.raises(ConfigError, match="console output"):
        load(tmp_path / "train.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "[SUCCESS] Mistral 7B found at C:\\models\\mistral-7b-instruct\n[MODE] Dual-Model Training Enabled\n",
        "======================================================================\nPyTorch Dual-Model Training\n",
        'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: no models\n',
        "ValueError: No base models selected from admin panel\n",
        "Loading\ntorch.cuda.OutOfMemoryError: out of memory\n",
        "[ERROR] one\n",
    ],
)
@pytest.mark.parametrize("name", ["train.yaml", "train.toml", "train.json"])
def test_console_output_is_refused_by_its_content(name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path / name, text))

    assert "is console output, not configuration" in refused.value.problem


def test_settings_that_quote_console_output_are_settings(tmp_path: Path) -> None:
    file = written(tmp_path / "train.yaml", "# [ERROR] was here\ndata:\n  dataset: |-\n    ValueError: x\n")

    assert load(file) == {"data": {"dataset": "ValueError: x"}}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "training:\n  seed: 1\n  seed: 2\n", "line 3: 'seed' is given twice"),
        ("a.json", '{"training": {"seed": 1, "seed": 2}}', "'seed' is given twice"),
        ("a.toml", "[training]\nseed = 1\nseed = 2\n", "Cannot overwrite a value"),
        ("a.yaml", "training: {seed: 1\n", "line 2"),
        ("a.json", "{", "line 1"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", '{"training":' + '{"a":' * 600 + "1" + "}" * 601, "nested too deeply"),
        ("a.yaml", "- a\n- b\n", "holds ['a', 'b'], not settings"),
        ("a.yaml", "just words", "holds 'just words', not settings"),
        ("a.yaml", "a: &a {x: 1}\nb: [" + "*a, " * 25 + "]\n", "more than 24 aliases"),
        ("a.yaml", "\n" * 200_000 + "]", "line 200001"),
        ("a.yaml", "model: &m {name: a, x: *m}\n", "line 1: 'm' stands for what it is part of"),
        ("a.yaml", "model:\n  base_models: &l [*l]\n", "line 2: 'l' stands for what it is part of"),
        ("a.yaml", "model: &m {name: a, x: {y: [*m]}}\n", "'m' stands for what it is part of"),
        ("a.ini", "x", "does not end in .yaml, .yml, .toml, .json"),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_is_refused_with_the_reason(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path / name, text))

    assert said in refused.value.problem
    assert refused.value.fix


def test_merge_keys_of_yaml_are_no_duplicates(tmp_path: Path) -> None:
    text = "lora: &l {r: 4, alpha: 8}\nper_model:\n  a:\n    lora:\n      <<: *l\n      r: 2\n"

    answer = resolved(written(tmp_path / "a.yaml", text))

    assert answer.problems == ()
    assert answer.config.lora_for("a").r == 2
    assert answer.config.lora_for("a").alpha == 8


def test_a_file_that_is_not_there_not_a_file_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory.yaml").mkdir()
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")

    for name in ("absent.yaml", "a\0.yaml", "loop.yaml", "directory.yaml", "large.yaml", "binary.yaml"):
        with pytest.raises(ConfigError) as refused:
            load(tmp_path / name)
        assert name.strip("a\0") in refused.value.problem
        assert refused.value.fix


def test_what_is_wrong_carries_its_change_and_is_told_where_it_comes_from(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("training: {batchsize: 4}\noutput: {version: 1.0}")

    above = resolve(file=tmp_path / "a.yaml", environment={"ONESEEK_TRAINING__BATCHSIZE": "4"}, flags={})
    sent = resolve(file=None, environment={}, flags={"data.r": 8}, body={"output": {"version": 1.0}})

    assert {problem.field: (bool(problem.changes), above.given[problem.field]) for problem in above.problems} == {
        "training.batchsize": (True, "environment ONESEEK_TRAINING__BATCHSIZE"),
        "output.version": (True, f"file {tmp_path / 'a.yaml'}"),
    }
    assert {problem.field: (bool(problem.changes), sent.given[problem.field]) for problem in sent.problems} == {
        "data.r": (True, "flag"),
        "output.version": (True, "HTTP body"),
    }
