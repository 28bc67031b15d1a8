"""What findings offer to change: settings that are the fix by themselves, for programs that write them down."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from oneseek.config.parse import parse
from oneseek.config.reference import settings
from oneseek.config.schema import TrainingConfig
from oneseek.preflight.facts import Facts, ModelTokens, Wanted
from oneseek.preflight.finding import Change, Finding, check, wire
from oneseek.registry.capabilities import ModelInfo
from test_preflight import GIB, dataset, facts, gpt2, llama, moe, tokens, with_rows

LLAMA: dict[str, dict[str, Any]] = {"model": {"base_models": ["llama"]}, "data": {"dataset": "town.jsonl"}}
LONG = with_rows("text", tuple({"text": f"{n}" * 2000} for n in range(10)))
DPO: dict[str, Any] = {"training": {"method": "dpo"}}


def wide() -> ModelInfo:
    modules = llama().linear_modules * 800
    return msgspec.structs.replace(llama(), hidden_size=8192, layers=32, linear_modules=modules, context_length=4096)


def raw(sections: dict[str, Any]) -> dict[str, Any]:
    return {name: {**LLAMA.get(name, {}), **sections.get(name, {})} for name in {**LLAMA, **sections}}


def judged(sections: dict[str, Any], known: Facts) -> tuple[Finding, ...]:
    config, problems = parse(sections)
    return check(config, msgspec.structs.replace(known, config_problems=problems))


def changed(sections: dict[str, Any], changes: tuple[Change, ...]) -> dict[str, Any]:
    """The same settings once somebody has taken what a finding offers."""
    made: dict[str, Any] = json.loads(json.dumps(sections))
    for change in changes:
        *path, name = change.field.split(".")
        section = made
        for part in path:
            section = section.setdefault(part, {})
        section.pop(name, None)
        if change.value is not None:
            section[name] = list(change.value) if isinstance(change.value, tuple) else change.value
    return made


MENDED: dict[str, tuple[str, dict[str, Any], Facts, list[tuple[str, Any]]]] = {
    "epochs below their bound": (
        "settings-are-valid",
        {"training": {"num_epochs": -1}},
        facts(),
        [("training.num_epochs", 1)],
    ),
    "a rate above its bound": (
        "settings-are-valid",
        {"training": {"learning_rate": "3"}},
        facts(),
        [("training.learning_rate", 5e-4)],
    ),
    "too many epochs": (
        "numbers-in-recommended-range",
        {"training": {"num_epochs": 50}},
        facts(),
        [("training.num_epochs", 10)],
    ),
    "a small rate": (
        "numbers-in-recommended-range",
        {"training": {"learning_rate": 1e-7}},
        facts(),
        [("training.learning_rate", 1e-5)],
    ),
    "a rank of one model": (
        "numbers-in-recommended-range",
        {"lora": {"alpha": 64}, "per_model": {"llama": {"lora": {"r": 128}}}},
        facts(),
        [("per_model.llama.lora.r", 64)],
    ),
    "an alpha": ("alpha-suits-the-rank", {"lora": {"r": 64, "alpha": 8}}, facts(), [("lora.alpha", 128)]),
    "an alpha with rsLoRA": (
        "alpha-suits-the-rank",
        {"lora": {"r": 16, "alpha": 64, "use_rslora": True}},
        facts(),
        [("lora.alpha", 8)],
    ),
    "a batch": (
        "batch-fits-the-rows",
        {"training": {"batch_size": 7, "gradient_accumulation_steps": 3}},
        facts(),
        [("training.batch_size", 2), ("training.gradient_accumulation_steps", 1)],
    ),
    "smoothing": (
        "label-smoothing-fits-the-loss",
        {**DPO, "dpo": {"loss": "ipo", "label_smoothing": 0.05}},
        facts(dataset=dataset("preference")),
        [("dpo.label_smoothing", 0)],
    ),
    "a setting of dpo": ("dpo-settings-are-read", {"dpo": {"beta": 0.3}}, facts(), [("dpo.beta", None)]),
    "an executor": (
        "not-in-this-release",
        {"execution": {"executor": "ray"}},
        facts(),
        [("execution.executor", "local")],
    ),
    "bad rows": ("dataset-rows-are-good", {}, facts(dataset=dataset(bad=3)), [("data.bad_rows", "quarantine")]),
    "a strategy": (
        "dataset-fits-strategy",
        {"data": {"strategy": "standard"}},
        facts(),
        [("data.strategy", "chat")],
    ),
    "a method": ("dataset-fits-method", {}, facts(dataset=dataset("preference")), [("training.method", "dpo")]),
    "validation rows that are trained on": (
        "validation-dataset-fits",
        {"data": {"validation_dataset": "same.jsonl"}},
        facts(dataset=dataset("text"), validation=dataset("text")),
        [("data.validation_dataset", None)],
    ),
    "chat without a template": (
        "chat-needs-a-template",
        {"data": {"strategy": "chat"}},
        facts(gpt2(), dataset=dataset("text")),
        [("data.strategy", "standard")],
    ),
    "chat without a template before there is a dataset": (
        "chat-needs-a-template",
        {"data": {"strategy": "chat", "dataset": None}},
        facts(gpt2(), dataset=None),
        [("data.strategy", "standard")],
    ),
    "absent modules": (
        "lora-targets-exist",
        {"lora": {"target_modules": ["nope"]}},
        facts(),
        [("lora.target_modules", "auto")],
    ),
    "modules without effect": (
        "lora-targets-take-effect",
        {"lora": {"target_modules": ["v_proj", "q_proj"]}},
        facts(moe()),
        [("lora.target_modules", "auto")],
    ),
    "packages": (
        "quantization-has-its-packages",
        {"model": {"base_models": ["llama"], "quantization": "4bit"}},
        facts(missing_packages=("bitsandbytes",)),
        [("model.quantization", None)],
    ),
    "a version": (
        "version-is-free",
        {"output": {"version": "1.0"}},
        facts(versions=("1.0",)),
        [("output.version", None)],
    ),
    "an empty prompt": (
        "sample-prompts-say-something",
        {"training": {"sample_prompts": ["a", " ", "b"]}},
        facts(),
        [("training.sample_prompts", ("a", "b"))],
    ),
    "nothing but an empty prompt": (
        "sample-prompts-say-something",
        {"training": {"sample_prompts": [" "]}},
        facts(),
        [("training.sample_prompts", None)],
    ),
    "no room without checkpointing": (
        "enough-memory",
        {"execution": {"gradient_checkpointing": "never"}},
        facts(wide(), dataset=LONG, free_memory_bytes=12 * GIB),
        [("execution.gradient_checkpointing", "auto")],
    ),
    "bits per byte of nothing": (
        "answers-can-be-compared",
        {},
        facts(tokens={"llama": tokens(comparable=0)}),
        [("training.rank_by", "val_loss")],
    ),
}


@pytest.mark.parametrize(("rule", "sections", "known", "expected"), MENDED.values(), ids=MENDED)
def test_the_change_that_a_finding_offers_is_its_fix(
    rule: str, sections: dict[str, Any], known: Facts, expected: list[tuple[str, Any]]
) -> None:
    asked = raw(sections)

    finding = next(each for each in judged(asked, known) if each.rule == rule)

    assert finding.changes == tuple(Change(field, value) for field, value in expected)
    mended = changed(asked, finding.changes)
    if "validation_dataset" not in mended["data"]:
        known = msgspec.structs.replace(known, validation=None)
    same = (rule, finding.field, finding.severity)
    assert [each for each in judged(mended, known) if (each.rule, each.field, each.severity) == same] == []


def test_rows_that_need_more_memory_than_there_is_are_offered_the_length_that_fits() -> None:
    known = facts(wide(), dataset=LONG, free_memory_bytes=4 * GIB)

    (finding,) = judged(raw({}), known)

    ((field, fitting),) = [(change.field, change.value) for change in finding.changes]
    assert (finding.rule, field) == ("enough-memory", "data.max_length")
    assert f"Set data.max_length to {fitting}," in finding.fix
    assert judged(raw({"data": {"max_length": fitting}}), known) == ()
    assert judged(raw({"data": {"max_length": fitting + 2}}), known) != ()


@pytest.mark.parametrize(
    ("found", "rule"),
    [
        (tokens(unlearnable=(4,), longest=90), "rows-leave-something-to-learn"),
        (tokens(truncated=9, longest=90), "rows-fit-max-length"),
        (tokens(truncated=20, comparable=0, longest=90), "answers-can-be-compared"),
    ],
)
@pytest.mark.parametrize(("longest", "room"), [(90, 90), (300, 128)])
def test_cut_rows_are_offered_the_room_that_the_context_has(
    found: ModelTokens, rule: str, longest: int, room: int
) -> None:
    found = msgspec.structs.replace(found, longest=longest)
    asked = {limit: raw({"data": {"max_length": limit}}) for limit in (64, 128)}

    offered, none = (
        next(each for each in judged(asked[limit], facts(tokens={"llama": found})) if each.rule == rule)
        for limit in (64, 128)
    )

    assert offered.changes == (Change("data.max_length", room),)
    assert none.changes == ()


def test_a_name_that_is_there_twice_is_offered_to_be_there_once() -> None:
    names = ("llama", "gpt-2", "Llama 1", "ghost")
    keys = ("llama", "gpt-2", "llama", None)
    wanted = tuple(Wanted(name, key=key) for name, key in zip(names, keys, strict=True))

    findings = judged(raw({"model": {"base_models": [*names]}}), facts(llama(), gpt2(chat=True), wanted=wanted))

    (twice,) = (each for each in findings if each.rule == "selection-matches")
    assert twice.changes == (Change("model.base_models", ("llama", "gpt-2", "ghost")),)


def test_chat_rows_are_offered_no_strategy_that_would_refuse_them() -> None:
    (finding,) = judged(raw({}), facts(gpt2()))

    assert (finding.rule, finding.changes) == ("chat-needs-a-template", ())


def test_the_modules_of_one_of_several_models_are_changed_for_it_alone() -> None:
    known = facts(moe(), gpt2(chat=True))

    own = {"gpt-2": {"lora": {"target_modules": ["c_attn"]}}}
    own |= {"llama": {"lora": {"target_modules": ["v_proj", "q_proj"]}}}

    (finding,) = judged(raw({"per_model": own}), known)

    assert finding.changes == (Change("per_model.llama.lora.target_modules", "auto"),)
    assert finding.fix == "Leave v_proj out, or set per_model.llama.lora.target_modules to 'auto'."


def test_programs_are_told_changes_with_null_for_what_goes() -> None:
    finding = Finding(
        rule="r",
        severity="warning",
        field="a.b",
        problem="p",
        fix="f",
        changes=(Change("a.b", None), Change("c.d", ("x",))),
        meant=True,
    )

    assert json.loads(msgspec.json.encode(wire(finding))) == {
        "rule": "r",
        "severity": "warning",
        "field": "a.b",
        "problem": "p",
        "fix": "f",
        "model": None,
        "changes": [{"field": "a.b", "value": None}, {"field": "c.d", "value": ["x"]}],
    }


@pytest.mark.parametrize("field", [name for name, each in settings().items() if each.recommended])
def test_every_number_outside_its_bounds_is_offered_one_that_is_recommended(field: str) -> None:
    section: dict[str, Any] = {}
    *path, name = field.split(".")
    inner = section
    for part in path:
        inner = inner.setdefault(part, {})
    offered = []
    for number in (-1e12, 1e12):
        inner[name] = number
        _, problems = parse(section)
        offered += [dict(problem.changes)[field] for problem in problems if problem.kind == "bound"]

    assert offered
    for number in offered:
        inner[name] = number
        config, problems = parse(section)
        assert problems == ()
        assert not [each for each in check(config, Facts()) if each.rule == "numbers-in-recommended-range"]
        assert isinstance(config, TrainingConfig)
