"""`oneseek models show`: what a base model can do, for people and for programs."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from oneseek.cli import oneseek
from oneseek.registry.discover import describe
from support.base_models import write_model


def shown(models: Path, *arguments: str) -> str:
    done = CliRunner().invoke(oneseek, ["models", "show", *arguments, "--models-dir", str(models)])
    assert done.exit_code == 0, done.output
    return done.output


def document(models: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(shown(models, *arguments, "--json"))
    return found


def test_the_matrix_of_what_is_trained_by_default_is_shown(tmp_path: Path) -> None:
    model = write_model(tmp_path / "small", family="gpt2", hidden=16)
    (model / "README.md").write_text("---\nlicense: mit\n---\n")

    text = shown(tmp_path, "small")

    assert "6 of 8 linear layers, 67% of their parameters" in text
    assert "mit" in text
    assert [line.split("│")[5].strip() for line in text.splitlines() if "│ c_" in line] == ["yes", "no", "yes"]


def test_targets_by_name_show_what_they_would_train(tmp_path: Path) -> None:
    write_model(tmp_path / "small", layers=3)

    cover = document(tmp_path, "small", "--target-modules", "q_proj", "layers.0.self_attn.v_proj,lm_head")["coverage"]

    statuses = {module["name"]: module["status"] for module in cover["modules"]}
    assert cover["targets"] == ["layers.0.self_attn.v_proj", "lm_head", "q_proj"]
    assert (statuses["q_proj"], statuses["v_proj"], statuses["k_proj"]) == ("matched", "partial", "not asked for")
    assert statuses["lm_head"] == "absent"
    assert (cover["trained_places"], cover["places"]) == (4, 21)


def test_what_the_chat_template_does_is_found_out_by_rendering(tmp_path: Path) -> None:
    write_model(tmp_path / "chatty", vocab=300)
    write_model(tmp_path / "silent", vocab=300, chat=False)

    template = document(tmp_path, "chatty")["template"]

    assert (template["answers"], template["system"], template["ends_with_eos"]) == ("growth", True, True)
    assert document(tmp_path, "silent")["template"] is None
    assert "takes a system text" in shown(tmp_path, "chatty")


def test_a_template_that_never_ends_is_stopped_and_the_rest_is_shown(tmp_path: Path) -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    write_model(tmp_path / "endless", vocab=300, template=endless)

    text = shown(tmp_path, "endless")

    assert "is not loaded and tried in time" in text
    assert "q_proj" in text


def test_a_model_whose_header_is_larger_than_its_file_is_shown_with_that(tmp_path: Path) -> None:
    model = write_model(tmp_path / "cut")
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")

    found = document(tmp_path, "cut")

    assert [problem["kind"] for problem in found["problems"]] == ["broken-header"]
    assert not found["usable"]
    assert found["coverage"]["modules"] == []


def test_a_model_that_names_code_is_shown_as_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "code", config={"auto_map": {"AutoModel": "x.X"}, "model_type": "of_its_own"})

    (problem,) = document(tmp_path, "code")["problems"]

    assert problem["kind"] == "foreign-code"
    assert "not run" in problem["problem"]


def test_a_list_in_a_narrow_terminal_keeps_keys_whole_and_says_below_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "ekvik-llama-3-1-8b-instruct-swedish"
    write_model(tmp_path / key)
    write_model(tmp_path / "old").joinpath("model.safetensors").rename(tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "tokenizer.json").unlink()
    monkeypatch.setattr("oneseek.cli.output.PIPE_WIDTH", 80)

    done = CliRunner().invoke(oneseek, ["models", "list", "--models-dir", str(tmp_path)])

    problems = [f"✗ old: {trouble.problem} {trouble.fix}" for trouble in describe(tmp_path / "old").problems]
    table, notes = done.output.split("\n✗", maxsplit=1)
    assert key in table
    assert "…" not in table
    assert max(map(len, table.splitlines())) <= 80
    assert "Type oneseek" not in table
    assert len(problems) == 2
    assert f"✗{notes}".splitlines() == problems


def test_what_is_long_in_a_narrow_terminal_never_begins_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "chatty", vocab=300)
    monkeypatch.setattr("oneseek.cli.output.PIPE_WIDTH", 60)

    lines = shown(tmp_path, "chatty").splitlines()

    (chat,) = [line for line in lines if line.startswith("  chat template ")]
    assert chat.endswith("takes no tools")


def test_parameters_that_nothing_tells_are_not_called_0(tmp_path: Path) -> None:
    write_model(tmp_path / "old").joinpath("model.safetensors").rename(tmp_path / "old" / "pytorch_model.bin")

    assert "  parameters    not known\n" in shown(tmp_path, "old")
    assert document(tmp_path, "old")["parameters"] == 0
