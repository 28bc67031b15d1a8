"""What has gone wrong before, and the rules that came of it: each request is refused, or warned of, with its fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import oneseek
from oneseek.cli import oneseek as command
from oneseek.preflight.finding import Finding, wire
from oneseek.registry.families import guess
from support.base_models import write_model
from support.hub import StandIn, stand_in

CHATS = [
    {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
    for n in range(20)
]
TEXTS = [{"text": f"Some text, number {n}."} for n in range(20)]

Ask = Callable[..., list[Finding]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in(monkeypatch, tmp_path / "cache") as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the three families that the lessons are about, and a dataset of each strategy."""
    write_model(tmp_path / "models" / "gpt2", family="gpt2", vocab=300, chat=False)
    write_model(tmp_path / "models" / "phi-2", family="phi", vocab=300)
    write_model(tmp_path / "models" / "llama-2-7b", family="llama", vocab=300)
    for name, rows in (("chats", CHATS), ("texts", TEXTS)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def ask(home: Path) -> Ask:
    """The findings of one request from Python."""

    def ask(model: str = "llama-2-7b", data: str = "chats", **settings: Any) -> list[Finding]:
        given = {name.replace("__", "."): value for name, value in settings.items()}
        verdict = oneseek.validate(home / f"{data}.jsonl", [model] if model else [], settings=given, root=home)
        return list(verdict.findings)

    return ask


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


def test_a_right_request_has_no_finding(ask: Ask) -> None:
    assert ask() == []
    assert ask("gpt2", "texts") == []
    assert ask("phi-2") == []


# -- LoRA targets of another architecture ----------------------------------------------------------------------------


def test_targets_of_phi_on_gpt2_are_refused_with_the_modules_that_exist(ask: Ask) -> None:
    finding = only(ask("gpt2", "texts", lora__target_modules=["q_proj", "v_proj", "k_proj", "dense"]))

    assert (finding.severity, finding.field) == ("error", "lora.target_modules")
    assert finding.problem == "gpt2 has no modules q_proj, v_proj, k_proj, dense."
    assert "It has c_attn, c_fc, c_proj." in finding.fix
    assert "'auto', which is [c_attn, c_proj]" in finding.fix


@pytest.mark.parametrize(
    ("model", "data", "targets"),
    [
        ("gpt2", "texts", ["c_attn", "c_proj"]),
        ("phi-2", "chats", ["q_proj", "v_proj", "k_proj", "dense"]),
        ("llama-2-7b", "chats", ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]),
    ],
)
def test_each_familys_own_targets_are_allowed(model: str, data: str, targets: list[str], ask: Ask) -> None:
    assert ask(model, data, lora__target_modules=targets) == []


@pytest.mark.parametrize(
    ("model_type", "targets", "chat"),
    [
        ("gpt2", {"c_attn", "c_proj"}, False),
        ("gpt_neo", {"q_proj", "v_proj", "k_proj", "o_proj"}, False),
        ("gptj", {"q_proj", "v_proj", "k_proj", "o_proj"}, False),
        ("llama", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, True),
        ("mistral", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, None),
        ("phi", {"q_proj", "v_proj", "k_proj", "dense"}, True),
    ],
)
def test_of_a_model_that_is_not_here_its_family_tells(model_type: str, targets: set[str], chat: bool | None) -> None:
    family = guess(model_type, model_type)

    assert set(family.targets) == targets
    assert chat is None or family.chat is chat


def test_lora_settings_in_the_wrong_section_are_refused_with_the_right_one(ask: Ask) -> None:
    finding = only(ask(training__r=8))

    assert (finding.severity, finding.field) == ("error", "training.r")
    assert "lora.r" in finding.fix


# -- a chat on a model without a template ----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["chat", None])
def test_chats_on_gpt2_are_refused_with_both_ways_out(strategy: str | None, ask: Ask) -> None:
    finding = only(ask("gpt2", "chats", **({"data__strategy": strategy} if strategy else {})))

    assert (finding.severity, finding.field) == ("error", "data.strategy")
    assert finding.problem == "gpt2 has no chat template."
    assert finding.fix == ("Set data.strategy to 'standard' with a dataset of text, or select a model with a template.")


# -- a dataset of another strategy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "strategy", "has", "fitting"),
    [("chats", "standard", "`messages`", "chat"), ("texts", "chat", "`text`", "standard")],
)
def test_a_dataset_of_the_other_strategy_is_refused_with_the_fitting_one(
    data: str, strategy: str, has: str, fitting: str, ask: Ask
) -> None:
    finding = only(ask(data=data, data__strategy=strategy))

    assert (finding.severity, finding.field) == ("error", "data.strategy")
    assert finding.problem == f"The dataset has {has}, but data.strategy is '{strategy}'."
    assert finding.fix.startswith(f"Set data.strategy to '{fitting}', or give a dataset whose rows have ")


# -- required fields -------------------------------------------------------------------------------------------------


def test_no_base_model_is_one_finding_that_names_both_ways_to_select(ask: Ask) -> None:
    finding = only(ask(model=""))

    assert (finding.severity, finding.field) == ("error", "model.base_models")
    assert "No base models selected" in finding.problem
    assert "--base-models" in finding.fix


@pytest.mark.parametrize("method", ["", "grpo"])
def test_a_method_that_is_none_is_refused_with_those_that_are(method: str, ask: Ask) -> None:
    finding = only(ask(training__method=method))

    assert (finding.severity, finding.field) == ("error", "training.method")
    assert "'sft' or 'dpo'" in finding.fix


def test_no_dataset_is_refused(home: Path) -> None:
    finding = only(list(oneseek.validate(base_models=["llama-2-7b"], root=home).findings))

    assert (finding.severity, finding.field) == ("error", "data.dataset")
    assert "--dataset" in finding.fix


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, 0])
@pytest.mark.parametrize(
    ("field", "recommended"),
    [
        ("training.num_epochs", "1 to 10"),
        ("training.batch_size", "1 to 8"),
        ("training.learning_rate", "1e-05 to 0.0005"),
        ("lora.r", "8 to 64"),
        ("lora.alpha", ""),
    ],
)
def test_a_number_that_cannot_be_is_refused_with_its_bound_and_range(
    field: str, recommended: str, value: int, ask: Ask
) -> None:
    finding = only(ask(**{field.replace(".", "__"): value}))

    assert (finding.severity, finding.field) == ("error", field)
    assert finding.problem == f"{field} is {value}."
    assert "greater than 0" in finding.fix
    assert recommended in finding.fix


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("training.num_epochs", 11, "numbers-in-recommended-range"),
        ("training.batch_size", 16, "numbers-in-recommended-range"),
        ("training.learning_rate", 1e-3, "numbers-in-recommended-range"),
        ("training.learning_rate", 1e-6, "numbers-in-recommended-range"),
        ("lora.r", 7, "numbers-in-recommended-range"),
        ("lora.alpha", 4, "alpha-suits-the-rank"),
    ],
)
def test_an_unusual_number_is_a_warning(field: str, value: float, rule: str, ask: Ask) -> None:
    findings = ask(**{field.replace(".", "__"): value})

    assert rule in [finding.rule for finding in findings]
    assert {finding.severity for finding in findings} == {"warning"}


# -- a model that has to be downloaded -------------------------------------------------------------------------------


def test_a_model_that_is_not_here_is_accepted_with_a_warning_that_tells_its_size(
    home: Path, tmp_path: Path, hub: StandIn
) -> None:
    hub.add("town/phi-like", write_model(tmp_path / "away", family="llama", vocab=300))

    verdict = oneseek.validate(home / "texts.jsonl", ["town/phi-like"], root=home)

    finding = only(list(verdict.findings))
    assert verdict.ok
    assert finding.rule == "downloads-are-expected"
    assert " kB are downloaded before the training begins" in finding.problem
    assert (
        finding.fix == "To have it here beforehand, download it on its card, or with oneseek models pull town/phi-like"
    )


# -- requirements of a dataset ---------------------------------------------------------------------------------------


def test_fewer_than_ten_examples_are_a_warning(home: Path, ask: Ask) -> None:
    (home / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS[:9]))

    finding = only(ask(data="few"))

    assert (finding.rule, finding.severity) == ("enough-examples", "warning")


def test_an_example_without_its_field_is_refused_by_its_line(home: Path, ask: Ask) -> None:
    rows = [*CHATS[:12], {"messages": None}, {"text": "Other."}]
    (home / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    finding = only(ask(data="mixed"))

    assert (finding.rule, finding.severity) == ("dataset-rows-are-good", "error")
    assert "line 13: field 'messages' is null" in finding.problem
    assert "line 14: " in finding.problem


# -- everywhere the same ---------------------------------------------------------------------------------------------


def test_python_and_the_command_line_say_the_same_words(
    home: Path, ask: Ask, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    asked = ["--dataset", str(home / "chats.jsonl"), "--base-models", "gpt2", "--epochs", "-1", "--lora-r", "128"]
    from_python = ask("gpt2", "chats", training__num_epochs=-1, lora__r=128)

    with pytest.raises(SystemExit) as ended:
        command.main(["validate", *asked, "--home", str(home), "--json"], standalone_mode=False)

    said = json.loads(capfdbinary.readouterr().out)
    assert ended.value.code == 2
    assert said["ok"] is False
    assert said["findings"] == [wire(finding) for finding in from_python]
    assert {tuple(finding) for finding in said["findings"]} == {
        ("rule", "severity", "field", "problem", "fix", "model", "changes")
    }
