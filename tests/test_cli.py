"""The command line as a person or a program meets it: exit codes, words, and what is left on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oneseek.cli import LazyGroup, main
from oneseek.cli.options import SETTINGS
from oneseek.config.reference import settings
from support.base_models import write_model
from support.runs import Town, everything


class Said:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.text = " ".join((out + err).split())

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def say(town: Town, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `oneseek …` in the town's home, with the scripted engine behind it."""
    from oneseek.runs import submit

    monkeypatch.chdir(town.root)
    monkeypatch.setenv("ONESEEK_HOME", str(town.root))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("oneseek.runs.submit", lambda *a, **k: submit(*a, **k, engine="scripted"))

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["oneseek", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfdbinary.readouterr()
        return Said(code, out.decode(), err.decode())

    return run


def train(*more: str) -> tuple[str, ...]:
    return ("train", "--dataset", "datasets/rows.jsonl", "--executor", "inline", "--epochs", "1", *more)


BOTH = ("--base-models", "alfa-1b", "beta-1b")


@pytest.mark.parametrize(
    "selection",
    [
        ("--base-models", "alfa-1b", "beta-1b"),
        ("--base-models", "alfa-1b,beta-1b"),
        ("--base-models", "Alfa_1B", "--base-models", "beta"),
    ],
)
def test_models_are_selected_by_spaces_commas_or_repetition(say: Any, selection: tuple[str, ...]) -> None:
    said = say(*train(*selection))

    assert said.code == 0, said.text
    assert "Training 2 selected model(s):" in said.out


def test_nothing_selected_is_an_error_and_nothing_is_trained(say: Any, town: Town) -> None:
    before = everything(town.root)

    said = say(*train())

    assert said.code == 2
    assert "No base models selected. Base models MUST be selected" in said.text
    assert everything(town.root) == before


def test_one_selected_model_is_the_only_one_trained(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_MODELS", "beta-1b")

    said = say(*train("--json"))

    assert said.code == 0
    assert said.lines[0]["base_models"] == ["beta-1b"]
    assert said.lines[0]["available_models"] == ["alfa-1b", "beta-1b"]
    assert said.lines[0]["multiModelMode"] is False
    assert said.lines[-1]["base_models"] == ["beta-1b"]


def test_several_selected_models_are_multi_model_mode(say: Any, town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_MODELS", "alfa-1b,beta-1b")

    say(*train())

    metadata = json.loads(town.results.metadata("1.0").read_text())
    assert metadata["multiModelMode"] is True
    assert metadata["baseModels"] == ["alfa-1b", "beta-1b"]
    assert town.results.metadata("1.0").name == "oneseek-7b-zero-v1.0.json"


def test_json_prints_the_events_and_then_the_result(say: Any) -> None:
    said = say(*train(*BOTH, "--json"))

    *events, result = said.lines
    assert events[0]["type"] == "run_accepted"
    assert events[-1]["type"] == "training_complete"
    assert {"weight_adjustment", "epoch_end", "progress"} <= {event["type"] for event in events}
    assert set(result) == {
        "run_id", "status", "dna", "certified_dir", "champion", "base_models", "failed_models",
        "not_certified",
    }  # fmt: skip
    assert result["status"] == "certified"
    assert Path(result["certified_dir"], "oneseek_dna.json").exists()


def test_a_failing_model_is_said_loudly_and_the_exit_code_is_zero(say: Any, town: Town) -> None:
    town.script("beta-1b", {"fail": {"epoch": 1, "kind": "diverged"}})

    said = say(*train(*BOTH))

    assert said.code == 0
    assert "beta-1b is quarantined" in said.text
    assert "beta-1b was quarantined" in said.text


def test_a_run_whose_models_all_fail_exits_1_with_the_cause(say: Any, town: Town) -> None:
    for name in ("alfa-1b", "beta-1b"):
        town.script(name, {"fail": {"epoch": 1, "kind": "out_of_memory"}})

    said = say(*train(*BOTH))

    assert said.code == 1
    assert "No model is left" in said.text
    assert "Fix:" in said.text
    assert "Traceback" not in said.text


DATASETS = {
    "empty": b"",
    "binary": bytes(range(256)) * 10,
    "half broken": b'{"text": "a"}\n{"text": \n{"text": "c"}\n{"txt": 1}\n',
    "utf-16": '{"text": "a"}\n'.encode("utf-16"),
    "no rows": b"[]",
    "one row": b'{"text": "a"}\n',
}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "empty"),
        ("binary", "not text"),
        ("half broken", "line 2"),
        ("half broken", "line 4"),
        ("utf-16", "UTF-16"),
        ("no rows", "is empty"),
        ("one row", "Add rows that differ"),
    ],
)
def test_a_bad_dataset_refuses_the_run_with_the_reason(say: Any, town: Town, name: str, words: str) -> None:
    town.dataset.write_bytes(DATASETS[name])
    before = everything(town.root)

    said = say(*train(*BOTH))

    assert said.code == 2
    assert words.lower() in said.text.lower(), said.text
    assert "Traceback" not in said.text
    assert everything(town.root) == before


def test_a_missing_dataset_is_named(say: Any) -> None:
    said = say("train", "--dataset", "nowhere.jsonl", *BOTH)

    assert said.code == 2
    assert "nowhere.jsonl" in said.text


def broken(directory: Path, how: str) -> None:
    weights = directory / "model.safetensors"
    match how:
        case "no weights":
            weights.unlink()
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "only pickles":
            weights.rename(directory / "pytorch_model.bin")
        case "no config":
            (directory / "config.json").unlink()


@pytest.mark.parametrize("how", ["no weights", "truncated", "only pickles", "no config"])
def test_a_broken_model_directory_refuses_the_run_and_is_listed_with_its_reason(say: Any, town: Town, how: str) -> None:
    write_model(town.home.models / "broken-1b")
    broken(town.home.models / "broken-1b", how)

    refused = say(*train("--base-models", "broken-1b", "--json"))
    listed = say("models", "list", "--json")

    assert refused.code == 2
    model = next(model for model in json.loads(listed.out)["models"] if model["key"] == "broken-1b")
    assert model["usable"] is False
    findings = json.loads(refused.out)["error"]["findings"]
    fixes = [finding["fix"] for finding in findings if finding["model"] == "broken-1b"]
    assert model["problems"][0]["fix"] in fixes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--epochs", "-1"), "training.num_epochs is -1"),
        (("--learning-rate", "fast"), "training.learning_rate"),
        (("--target-modules", "c_attn"), "c_attn"),
        (("--set", "training.epochs=3"), "num_epochs"),
        (("--set", "nonsense"), "section.field=value"),
        (("--method", "dpo"), "training.method"),
        (("--executor", "ray"), "Ray"),
        (("--version", "one"), "version"),
        (("--config", "pj.yaml"), "console output"),
        (("--base-models", "1b"), "alfa-1b, beta-1b"),
        (("--base-models", "gamma"), "No base model matches"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_a_fix(
    say: Any, town: Town, arguments: tuple[str, ...], words: str
) -> None:
    (town.root / "pj.yaml").write_text("[SUCCESS] Mistral 7B found\n")
    before = everything(town.root)

    said = say(*train(*(BOTH if "--base-models" not in arguments else ()), *arguments))

    assert said.code == 2
    assert words in said.text, said.text
    assert "Traceback" not in said.text
    assert everything(town.root) == before


def test_all_findings_come_at_once(say: Any) -> None:
    said = say("train", "--dataset", "nowhere.jsonl", "--epochs", "-1", "--set", "training.sede=3", "--json")

    error = json.loads(said.out)["error"]
    fields = {finding["field"] for finding in error["findings"]}
    assert said.code == 2
    assert {"training.num_epochs", "training.sede", "data.dataset", "model.base_models"} <= fields
    assert all(finding["fix"] for finding in error["findings"])


def test_an_output_that_cannot_be_written_refuses_the_run(say: Any, town: Town) -> None:
    (town.root / "file").write_text("not a directory")

    said = say(*train(*BOTH, "--set", "output.directory=file/results"))

    assert said.code == 2
    assert "file" in said.text


def test_config_show_tells_every_value_and_where_it_comes_from(
    say: Any, town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    (town.root / "train.yaml").write_text("training: {num_epochs: 4, seed: 7}\n")
    monkeypatch.setenv("BASE_MODELS", "alfa-1b")

    said = say("config", "show", "--config", "train.yaml", "--seed", "9", "--json")

    shown = json.loads(said.out)
    assert shown["training.num_epochs"] == {"value": 4, "origin": "file train.yaml"}
    assert shown["training.seed"] == {"value": 9, "origin": "flag"}
    assert shown["model.base_models"] == {"value": ["alfa-1b"], "origin": "environment BASE_MODELS"}
    assert shown["lora.r"]["origin"] == "default"
    assert say("config", "show").code == 0


def test_runs_are_listed_shown_and_watched(say: Any) -> None:
    run_id = say(*train(*BOTH, "--json")).lines[-1]["run_id"]

    listed = json.loads(say("runs", "list", "--json").out)["runs"]
    shown = json.loads(say("runs", "show", run_id, "--json").out)
    watched = say("runs", "watch", run_id, "--json").lines

    assert [run["run_id"] for run in listed] == [run_id]
    assert shown["status"] == "certified"
    assert [row["rank"] for row in shown["leaderboard"]] == [1, 2]
    assert watched[0]["type"] == "run_accepted"
    assert watched[-1]["status"] == "certified"
    for command in (("runs", "list"), ("runs", "show", run_id), ("runs", "watch", run_id)):
        said = say(*command)
        assert said.code == 0
        assert run_id in said.text


@pytest.mark.parametrize("command", [("runs", "show"), ("resume",), ("stop",), ("runs", "watch")])
@pytest.mark.parametrize("run", ["run-19990101-000000", "../../etc/passwd", "nonsense"])
def test_a_run_that_is_not_there_is_refused(say: Any, command: tuple[str, ...], run: str) -> None:
    said = say(*command, run)

    assert said.code == 2
    assert "Fix:" in said.text


def test_a_complete_run_is_neither_resumed_nor_stopped(say: Any) -> None:
    run_id = say(*train(*BOTH, "--json")).lines[-1]["run_id"]

    assert "is complete" in say("resume", run_id).text
    assert "is not running" in say("stop", run_id).text


def test_models_are_shown_by_any_name_that_selects_them(say: Any) -> None:
    said = say("models", "show", "Alfa", "--json")

    assert json.loads(said.out)["key"] == "alfa-1b"
    assert json.loads(said.out)["lora_targets"]
    assert say("models", "show", "alfa").code == 0
    assert say("models", "show", "nobody").code == 2


def test_an_empty_home_says_what_to_do(say: Any, tmp_path: Path) -> None:
    for command in (("models", "list"), ("runs", "list")):
        said = say(*command, "--home", str(tmp_path / "empty"))
        assert said.code == 0
        assert "No " in said.text


@pytest.mark.parametrize("command", [(), ("train",), ("resume",), ("stop",), ("demo",), ("models", "list"), ("runs",)])
def test_every_command_has_help(say: Any, command: tuple[str, ...]) -> None:
    said = say(*command, "--help")

    assert said.code == 0
    assert "Usage:" in said.out


def test_the_flags_are_settings_that_exist() -> None:
    assert {field for _, field, _ in SETTINGS} <= set(settings())


def test_the_commands_in_help_are_those_that_load() -> None:
    group = LazyGroup("oneseek")

    assert all(group.get_command(None, name) is not None for name in group.commands_by_name)  # type: ignore[arg-type]
    assert group.get_command(None, "nonsense") is None  # type: ignore[arg-type]


def test_a_terminal_without_our_signs_is_no_reason_to_fail() -> None:
    code = """
import click
from oneseek import cli

@cli.oneseek.command("told")
def told():
    click.echo("✓ in order")
    click.echo("✗ not in order", err=True)

cli.LazyGroup.get_command = lambda self, context, name: told
cli.main()
"""
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}

    done = subprocess.run(
        [sys.executable, "-c", code, "told"], capture_output=True, text=True, env=environment, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "? in order\n", "? not in order\n")


def test_help_and_refusals_never_import_torch(town: Town) -> None:
    code = """
import sys, runpy
try:
    runpy.run_module("oneseek", run_name="__main__", alter_sys=True)
finally:
    print("torch" in sys.modules, "transformers" in sys.modules)
"""
    environment = {**os.environ, "ONESEEK_HOME": str(town.root)}

    for arguments in (("--help",), train(), ("models", "list"), ("runs", "list")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, check=False
        )
        assert done.stdout.splitlines()[-1] == "False False"
