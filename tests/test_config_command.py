from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from oneseek.cli import main
from oneseek.config.json_schema import json_schema


@pytest.fixture
def say(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `oneseek …` in an empty directory; its exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["oneseek", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    return run


def test_config_schema_prints_the_schema_alone(say: Any) -> None:
    code, out, err = say("config", "schema")

    assert (code, err) == (0, "")
    assert json.loads(out) == json_schema()


def test_what_was_given_under_another_tools_name_is_noted_and_shown_with_that_name(say: Any) -> None:
    Path("theirs.yaml").write_text("lora_rank: 4\nsequence_len: 512\n")

    code, out, err = say("config", "show", "--config", "theirs.yaml", "--set", "num_epochs=2", "--json")

    assert (code, err.splitlines()) == (
        0,
        [
            "Note: lora_rank is read as lora.r.",
            "Note: sequence_len is read as data.max_length.",
            "Note: num_epochs is read as training.num_epochs.",
        ],
    )
    shown = json.loads(out)
    assert shown["lora.r"] == {"value": 4, "origin": "file theirs.yaml (as lora_rank)"}
    assert shown["data.max_length"] == {"value": 512, "origin": "file theirs.yaml (as sequence_len)"}
    assert shown["training.num_epochs"] == {"value": 2, "origin": "flag (as num_epochs)"}


def test_notes_are_said_before_a_request_is_refused(say: Any) -> None:
    Path("theirs.yaml").write_text("num_train_epochs: -1\n")

    code, _, err = say("train", "--config", "theirs.yaml")

    assert code == 2
    assert err.startswith("Note: num_train_epochs is read as training.num_epochs.\n")
    assert "training.num_epochs is -1." in err


def test_two_names_with_different_values_are_refused_with_both(say: Any) -> None:
    Path("both.yaml").write_text("lora_rank: 4\nlora: {r: 8}\n")

    code, out, _ = say("config", "show", "--config", "both.yaml", "--json")

    (finding,) = json.loads(out)["error"]["findings"]
    assert code == 2
    assert finding["problem"] == "lora.r is 8 and lora_rank is 4, but both mean lora.r."
    assert finding["fix"] == "Give lora.r alone."


@pytest.mark.parametrize("columns", [80, 110])
def test_origins_are_shown_whole_however_narrow_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, say: Any
) -> None:
    monkeypatch.setattr("oneseek.cli.output.PIPE_WIDTH", columns)
    Path("theirs.yaml").write_text("gradient_accumulation_steps: 4\nmodel_name_or_path: mistral-7b-instruct\n")

    _, out, _ = say("config", "show", "--config", "theirs.yaml")

    assert max(map(len, out.splitlines())) <= columns
    for column, wanted in ((-2, "file theirs.yaml (as gradient_accumulation_steps)"), (-3, "mistral-7b-instruct")):
        cells = [line.split("│")[column].strip() for line in out.splitlines() if line.startswith("│")]
        assert wanted.replace(" ", "") in "".join(cells).replace(" ", "")


def test_what_train_takes_config_show_takes(say: Any) -> None:
    code, out, _ = say("config", "show", "--home", "elsewhere", "--models-dir", "models", "--epochs", "2", "--json")

    assert code == 0
    assert json.loads(out)["training.num_epochs"] == {"value": 2, "origin": "flag"}


def test_errors_of_settings_are_counted_without_a_word_about_starting(say: Any) -> None:
    Path("wrong.yaml").write_text("bf16: true\nlora: {r: 0}\n")

    code, _, err = say("config", "show", "--config", "wrong.yaml")

    assert code == 2
    assert "Error: 2 errors in the settings." in err
    assert "started" not in err


def test_help_names_every_kind_of_dataset(say: Any) -> None:
    _, out, _ = say("train", "--help")

    words = " ".join(out.split())
    for kind in ("JSONL", "JSON", "CSV", "Parquet", "messages", "ShareGPT", "text", "prompt and completion", "Alpaca"):
        assert kind in words
    assert "preferences), or the name of a stored dataset." in words
