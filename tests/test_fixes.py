from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import tomlkit
import yaml
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.parse import parse
from oneseek.config.text import settings_in
from oneseek.errors import ConfigError
from oneseek.preflight.finding import Change, Finding
from oneseek.preflight.fixes import difference, fixed
from oneseek.preflight.rules import settings_findings


def finding(*changes: tuple[str, Any]) -> Finding:
    return Finding(
        severity="error",
        field="x",
        problem="p",
        fix="f",
        changes=tuple(Change(field, value) for field, value in changes),
    )


def changed_lines(text: str, suffix: str, *changes: tuple[str, Any]) -> list[str]:
    """What differs, as - and + lines."""
    diff = difference(text, fixed(text, suffix, [finding(*changes)]), "train")
    return [line for line in diff.splitlines()[3:] if line[0] in "+-"]


MESSY = """\
# my settings
model:
    base_models: [ kb-llama ,  'mistral' ]   # two
    # about nothing

training:
    num_epochs:   100   # how many
    # about the rate
    learning_rate: 1e-4
    seed: 0x10
lora: {r: 4,alpha: 8, target_modules:
   [a, b]}   # flow
data:
    dataset: >-
       a
       b
    # not yet
output: {version: "1.10"}
execution:   # nothing here yet
metadata:
# end
"""


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (("training.num_epochs", 10), ["-    num_epochs:   100   # how many", "+    num_epochs:   10   # how many"]),
        (("training.num_epochs", None), ["-    num_epochs:   100   # how many"]),
        (("training.num_epochs", 100), []),
        (("training.seed", None), ["-    seed: 0x10"]),
        (("training.method", "dpo"), ["+    method: dpo"]),
        (("training.learning_rate", 1e-5), ["-    learning_rate: 1e-4", "+    learning_rate: 1.0e-05"]),
        (("lora.alpha", None), ["-lora: {r: 4,alpha: 8, target_modules:", "+lora: {r: 4,target_modules:"]),
        (("lora.dropout", 0.1), ["-   [a, b]}   # flow", "+   [a, b], dropout: 0.1}   # flow"]),
        (
            ("lora.target_modules", "auto"),
            [
                "-lora: {r: 4,alpha: 8, target_modules:",
                "-   [a, b]}   # flow",
                "+lora: {r: 4,alpha: 8, target_modules: auto}   # flow",
            ],
        ),
        (("model.base_models", ("a b", "1.10")), ["+    base_models: [a b, \"1.10\"]   # two"]),
        (("output.version", None), ['-output: {version: "1.10"}']),
        (("data.strategy", "chat"), ["+    strategy: chat"]),
        (("data.dataset", "c.jsonl"), ["-    dataset: >-", "-       a", "-       b", "+    dataset: c.jsonl"]),
        (("execution.executor", "inline"), ["+    executor: inline"]),
        (("metadata.temp_suffix", ".tmp"), ["+    temp_suffix: .tmp"]),
        (("dpo.beta", 0.2), ["+dpo:", "+    beta: 0.2"]),
        (("per_model.a.lora.r", 2), ["+per_model:", "+    a:", "+        lora:", "+            r: 2"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_only_the_lines_of_the_changed_setting_differ(change: tuple[str, Any], lines: list[str]) -> None:
    told = changed_lines(MESSY, ".yaml", change)

    if change[0] == "model.base_models":
        told = told[1:]
    assert told == lines


def test_several_findings_are_fixed_in_one_text() -> None:
    text = fixed(
        "lora:\n  r: 0\n", ".yaml", [finding(("lora.r", 8)), finding(("lora.alpha", 16), ("data.strategy", "chat"))]
    )

    assert text == "lora:\n  r: 8\n  alpha: 16\ndata:\n  strategy: chat\n"


@pytest.mark.parametrize(
    ("text", "change", "fixed_text"),
    [
        ("", ("lora.r", 8), "lora:\n  r: 8\n"),
        ("# only this", ("lora.r", 8), "# only this\nlora:\n  r: 8\n"),
        ("lora: {}\n", ("lora.r", 8), "lora: {r: 8}\n"),
        ("lora:\r\n  r: 4\r\n", ("lora.alpha", 8), "lora:\r\n  r: 4\r\n  alpha: 8\r\n"),
        ("lora:\n  r: 4", ("lora.alpha", 8), "lora:\n  r: 4\n  alpha: 8\n"),
        ("lora:\n  r: 4 # four\n", ("lora.r", None), ""),
        ("lora:\n  target_modules:\n  - a\n  - b # c\nseed: 1\n", ("lora.target_modules", "auto"),
         "lora:\n  target_modules: auto # c\nseed: 1\n"),
        ("lora:\n  r:\n", ("lora.r", 8), "lora:\n  r: 8\n"),
        ("output: {directory: a}\n", ("output.version", "1.0"), 'output: {directory: a, version: "1.0"}\n'),
        ("output: {directory: a}\n", ("output.directory", "yes"), 'output: {directory: "yes"}\n'),
        ("num_train_epochs: 100\n", ("training.num_epochs", 10), "num_train_epochs: 10\n"),
        ("lora_rank: 4\nlora: {r: 4}\n", ("lora.r", None), ""),
        ("load_in_4bit: true\n", ("model.quantization", "8bit"), "model:\n  quantization: 8bit\n"),
        ("per_model:\n  my.model:\n    lora: {r: 4}\n", ("per_model.my.model.lora.r", 8),
         "per_model:\n  my.model:\n    lora: {r: 8}\n"),
    ],
)  # fmt: skip
def test_settings_are_written_where_a_person_would_write_them(
    text: str, change: tuple[str, Any], fixed_text: str
) -> None:
    assert fixed(text, ".yaml", [finding(change)]) == fixed_text


@pytest.mark.parametrize(
    ("text", "change", "fixed_text"),
    [
        ('{\n\t"lora": {\n\t\t"r": 4,\n\t\t"alpha": 1e1\n\t}\n}\n', ("lora.r", 8),
         '{\n\t"lora": {\n\t\t"r": 8,\n\t\t"alpha": 1e1\n\t}\n}\n'),
        ('{\n  "lora": {\n    "r": 4\n  }\n}', ("lora.alpha", 8.5),
         '{\n  "lora": {\n    "r": 4,\n    "alpha": 8.5\n  }\n}'),
        ('{"lora":{"r":4,"alpha":8}}', ("lora.alpha", None), '{"lora":{"r":4}}'),
        ('{"lora":{"r":4}}', ("lora.r", None), "{}"),
        ('{"lora":{"r":4}}', ("model.base_models", ["å"]), '{"lora":{"r":4}, "model": {"base_models": ["å"]}}'),
        ("{}", ("training.learning_rate", 1e-5), '{"training": {"learning_rate": 1e-05}}'),
    ],
)  # fmt: skip
def test_json_keeps_its_form(text: str, change: tuple[str, Any], fixed_text: str) -> None:
    assert fixed(text, ".json", [finding(change)]) == fixed_text


@pytest.mark.parametrize(
    ("suffix", "text", "fixed_text"),
    [
        (".yaml", "training:\n  batchsize: 4\nbf16: true\n", "training:\n  batch_size: 4\n"),
        (".json", '{"training": {"batchsize": 4}, "bf16": true}', '{"training": {"batch_size": 4}}'),
        (".toml", "bf16 = true\n\n[training]\nbatchsize = 4\n", "\n[training]\nbatch_size = 4\n"),
    ],
)
def test_an_unknown_key_is_removed_or_moved_to_where_it_belongs(suffix: str, text: str, fixed_text: str) -> None:
    _, problems = parse(settings_in(text, suffix))

    assert fixed(text, suffix, settings_findings(problems)) == fixed_text


def test_an_empty_json_file_is_given_its_braces() -> None:
    assert json.loads(fixed("", ".json", [finding(("lora.r", 8))])) == {"lora": {"r": 8}}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (("training.num_epochs", 10), ["-num_epochs = 100 # how many", "+num_epochs = 10 # how many"]),
        (("training.num_epochs", None), ["-num_epochs = 100 # how many"]),
        (("lora.alpha", 8), ["-lora = {r = 4}", "+lora = {r = 4,alpha = 8}"]),
        (("dpo.beta", 0.2), ["+", "+[dpo]", "+beta = 0.2"]),
        (("per_model.a.lora.r", None), ["-[per_model.a.lora]", "-r = 2"]),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_toml_keeps_its_comments(change: tuple[str, Any], lines: list[str]) -> None:
    text = """\
# my settings
lora = {r = 4}

[training]   # how
num_epochs = 100 # how many
# about the rate
learning_rate = 1e-4

[per_model.a.lora]
r = 2
"""

    assert changed_lines(text, ".toml", change) == lines


@pytest.mark.parametrize(
    ("text", "change"),
    [
        ("lora: &l {r: 4}\nper_model: {x: {lora: *l}}\n", ("lora.r", 8)),
        ("lora: &l {r: 4}\nper_model: {x: {lora: *l}}\n", ("per_model.x.lora.r", 8)),
        ("training: {seed: &s 4}\nlora: {r: *s}\n", ("lora.r", 8)),
        ("training: 5\n", ("training.seed", 8)),
    ],
)
def test_a_change_that_would_change_something_else_is_refused(text: str, change: tuple[str, Any]) -> None:
    with pytest.raises(ConfigError, match="cannot be set to 8 without changing something else") as refused:
        fixed(text, ".yaml", [finding(change)])

    assert refused.value.fix


def test_the_same_text_has_no_difference_and_another_one_names_the_file_that_is_kept() -> None:
    assert difference("a\n", "a\n", "t.yaml") == ""
    assert difference("a\n", "b", "t.yaml") == "--- t.yaml.orig\n+++ t.yaml\n@@ -1 +1 @@\n-a\n+b\n"


VALUES = st.one_of(
    st.integers(-10, 10),
    st.booleans(),
    st.sampled_from([0.1, 1e-5, 2.5e-7, 1e20]),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=6),
    st.lists(st.sampled_from(["q_proj", "yes", "a, b", "1.0", "", "{x}", "- z", "a: b", "#", "å"]), max_size=3),
)
NAMES = {
    "lora": ("r", "alpha", "dropout"),
    "training": ("seed", "num_epochs"),
    "data": ("dataset",),
    "model": ("name",),
}
TREES = st.fixed_dictionaries(
    {},
    optional={
        section: st.fixed_dictionaries({}, optional=dict.fromkeys(names, VALUES)) for section, names in NAMES.items()
    },
)
FIELDS = st.sampled_from([f"{section}.{name}" for section, names in NAMES.items() for name in names])
FORMS: dict[str, list[Callable[[dict[str, Any]], str]]] = {
    ".yaml": [
        lambda tree: yaml.safe_dump(tree, allow_unicode=True),
        lambda tree: yaml.safe_dump(tree, default_flow_style=True),
        lambda tree: yaml.safe_dump(tree, default_flow_style=None, indent=4),
    ],
    ".json": [json.dumps, lambda tree: json.dumps(tree, indent="\t", ensure_ascii=False)],
    ".toml": [tomlkit.dumps],
}


@given(
    TREES,
    st.sampled_from([(suffix, form) for suffix, forms in FORMS.items() for form in forms]),
    FIELDS,
    VALUES | st.none(),
)
def test_whatever_a_file_holds_exactly_the_wanted_setting_differs_afterwards(
    tree: dict[str, Any], form: tuple[str, Any], field: str, value: Any
) -> None:
    suffix, dump = form
    section, name = field.split(".")
    text = dump(tree)
    wanted = {**settings_in(text, suffix)}
    wanted[section] = {**wanted.get(section, {}), name: value}
    if value is None:
        del wanted[section][name]

    done = settings_in(fixed(text, suffix, [finding((field, value))]), suffix)

    assert {key: inner for key, inner in done.items() if inner} == {
        key: inner for key, inner in wanted.items() if inner
    }
