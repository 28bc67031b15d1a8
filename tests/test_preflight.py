from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from oneseek.chat.probe import TemplateTraits
from oneseek.config.parse import parse
from oneseek.config.schema import TrainingConfig
from oneseek.datasets.formats import METHOD_OF, Format, row_digest
from oneseek.datasets.scan import ProblemGroup, RowProblem, Sample, Scan
from oneseek.datasets.split import split
from oneseek.errors import ConfigError
from oneseek.estimate import memory_of
from oneseek.files.layout import Home
from oneseek.ledger.client import Client
from oneseek.ledger.keys import log_key
from oneseek.names import nothing_selected
from oneseek.preflight import gather
from oneseek.preflight.facts import Facts, ModelTokens, RowRefusal, Trouble, Wanted
from oneseek.preflight.finding import Change, Finding, PreflightError, check, registered, rule
from oneseek.preflight.rules import settings_findings
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.model_files import ModelProblem
from oneseek.registry.modules import LinearModule
from support.base_models import write_model

GIB = 2**30
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"


def linear(name: str, conv1d: bool = False) -> LinearModule:
    return LinearModule(name=name, in_features=64, out_features=64, count=2, conv1d=conv1d)


def model(key: str, *names: str, chat: bool = True, problems: tuple[ModelProblem, ...] = ()) -> ModelInfo:
    return ModelInfo(
        key=key,
        display_name=key.upper(),
        path=f"/models/{key}",
        model_type="gpt2" if "c_attn" in names else "llama",
        architecture="",
        parameters=100_000,
        dtypes={"F32": 100_000},
        size_bytes=400_000,
        context_length=128,
        vocab_size=512,
        hidden_size=64,
        layers=2,
        chat_template=TEMPLATE if chat else None,
        special_tokens={"eos_token": "</s>"},
        linear_modules=tuple(linear(name, conv1d="c_attn" in names) for name in names),
        linear_paths=tuple(f"layers.{layer}.{name}" for name in names for layer in (0, 1)),
        fused_experts=(),
        problems=problems,
    )


def llama(**more: Any) -> ModelInfo:
    return model("llama", "q_proj", "v_proj", **more)


def gpt2(**more: Any) -> ModelInfo:
    return model("gpt-2", "c_attn", "c_proj", "c_fc", **{"chat": False, **more})


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


ROW_OF: dict[Format, Callable[[int], dict[str, Any]]] = {
    "messages": lambda n: {"messages": said("user", str(n)) + said("assistant", "x")},
    "text": lambda n: {"text": f"text {n}"},
    "prompt_completion": lambda n: {"prompt": f"prompt {n}", "completion": "x"},
    "preference": lambda n: {"prompt": f"prompt {n}", "chosen": "x", "rejected": "y"},
    "preference_chat": lambda n: {
        "prompt": said("user", str(n)),
        "chosen": said("assistant", "x"),
        "rejected": said("assistant", f"not {n}"),
    },
}


def dataset(form: Format = "messages", rows: int = 20, bad: int = 0, equal: bool = False) -> Scan:
    numbers = [0 if equal else number for number in range(rows)]
    made = with_rows(form, tuple(ROW_OF[form](number) for number in numbers))
    reasons = tuple(RowProblem(line, f"reason {line}") for line in range(1, min(bad, 3) + 1))
    group = ProblemGroup(kind="empty-content", count=bad, examples=reasons)
    return msgspec.structs.replace(made, problems=(group,) if bad else ())


def with_rows(form: Format, rows: tuple[dict[str, Any], ...]) -> Scan:
    digests = [row_digest(row) for row in rows]
    return Scan(
        path="town.jsonl",
        sha256="0" * 64,
        size_bytes=1000,
        container="jsonl",
        format=form,
        rows=len(rows),
        problems=(),
        digests=np.frombuffer(b"".join(digest[:8] for digest in digests), dtype=">u8").astype(np.uint64),
        lines=np.arange(1, len(rows) + 1, dtype=np.uint32),
        rows_sha256=hashlib.sha256(b"".join(digests)).hexdigest(),
        longest_row=max((len(msgspec.json.encode(row)) for row in rows), default=None),
        samples=tuple(Sample(index, index + 1, row) for index, row in enumerate(rows)),
    )


def facts(*models: ModelInfo, **more: Any) -> Facts:
    models = models or (llama(),)
    given = {
        "models": models,
        "wanted": tuple(Wanted(info.key, key=info.key) for info in models),
        "available": tuple(info.key for info in models),
        "dataset": dataset(),
        "free_memory_bytes": 64 * GIB,
        "free_disk_bytes": 64 * GIB,
    }
    return Facts(**{**given, **more})


def config_for(**sections: Any) -> TrainingConfig:
    """A right configuration but for what is given, as `training={"num_epochs": 5}`."""
    right: dict[str, Any] = {"model": {"base_models": ["llama"]}, "data": {"dataset": "town.jsonl"}}
    merged = {name: {**right.get(name, {}), **sections.get(name, {})} for name in {**right, **sections}}
    config, problems = parse(merged)
    assert problems == ()
    return config


def ids(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.rule for finding in findings]


def test_a_right_request_has_no_finding() -> None:
    assert check(config_for(), facts()) == ()


# -- each rule: refused ... (that the right request above has no finding is the allowed example of each) -------------


def test_a_setting_that_cannot_be_taken_is_refused() -> None:
    config, problems = parse({"model": {"name": "llama"}, "data": {"dataset": "x"}, "training": {"num_epochs": -1}})

    (finding,) = check(config, facts(config_problems=problems))

    assert (finding.rule, finding.severity, finding.field) == ("settings-are-valid", "error", "training.num_epochs")
    assert finding.problem == "training.num_epochs is -1."


def test_nothing_selected_is_refused_in_the_words_that_everyone_uses() -> None:
    config, _ = parse({"data": {"dataset": "x"}})

    (finding,) = check(config, facts(models=(), wanted=(), available=("llama",)))

    assert (finding.rule, finding.field) == ("base-models-selected", "model.base_models")
    assert (finding.problem, finding.fix) == (nothing_selected().problem, nothing_selected().fix)


def test_a_selection_and_a_dataset_that_could_not_be_taken_are_not_called_missing() -> None:
    config, problems = parse({"model": {"base_models": 5}, "data": 5})

    findings = check(config, facts(models=(), wanted=(), dataset=None, config_problems=problems))

    assert ids(findings) == ["settings-are-valid", "settings-are-valid"]


def test_a_name_with_a_space_in_it_is_one_name(home: Path) -> None:
    write_model(home / "models" / "my model")

    config, found = gathered(home, model={"base_models": "my model,mistral"})

    assert [info.key for info in found.models] == ["my-model", "mistral-7b-instruct"]
    assert check(config, found) == ()


def test_a_name_that_matches_nothing_is_refused_with_the_nearest() -> None:
    missing = Wanted("lama", trouble=Trouble("No base model matches 'lama'.", "The nearest are: llama."))

    (finding,) = check(config_for(), facts(wanted=(missing,)))

    assert (finding.rule, finding.fix) == ("selection-matches", "The nearest are: llama.")


def test_two_names_for_one_model_are_refused() -> None:
    twice = (Wanted("llama", key="llama"), Wanted("Lla", key="llama"))

    (finding,) = check(config_for(), facts(wanted=twice))

    assert finding.rule == "selection-matches"
    assert finding.problem == "'llama' and 'Lla' mean the same base model, llama."


def test_an_override_for_a_model_that_is_not_selected_is_refused() -> None:
    (finding,) = check(config_for(per_model={"lama": {"lora": {"r": 8}}}), facts())

    assert (finding.rule, finding.field) == ("overrides-name-selected-models", "per_model.lama")
    assert finding.fix == "Did you mean per_model.llama?"


def test_an_override_is_not_judged_while_a_name_of_the_selection_has_no_model() -> None:
    missing = (Wanted("llama", key="llama"), Wanted("b", trouble=Trouble("No base model matches 'b'.", "Try c.")))

    assert ids(check(config_for(per_model={"beta": {"lora": {"r": 8}}}), facts(wanted=missing))) == [
        "selection-matches"
    ]


def test_an_override_for_a_selected_model_is_allowed() -> None:
    assert check(config_for(per_model={"llama": {"lora": {"r": 8}}}), facts()) == ()


def test_every_problem_of_a_selected_model_is_refused_and_names_it() -> None:
    pickle = ModelProblem(kind="only-pickle", problem="Only pickles.", fix="Convert.")
    clash = ModelProblem(kind="collision", problem="/b has the same key.", fix="Rename.")

    findings = check(config_for(), facts(llama(problems=(pickle, clash))))

    assert ids(findings) == ["base-models-usable"] * 2
    assert {finding.model for finding in findings} == {"llama"}
    assert findings[0].problem == "LLAMA (/models/llama): Only pickles."


def test_a_models_directory_that_cannot_be_listed_is_refused() -> None:
    (finding,) = check(config_for(), facts(models=(), wanted=(), models_error=Trouble("Not listed.", "Name another.")))

    assert (finding.rule, finding.problem) == ("base-models-usable", "Not listed.")


def test_no_dataset_is_refused() -> None:
    (finding,) = check(config_for(data={"dataset": None}), facts(dataset=None))

    assert (finding.rule, finding.field) == ("dataset-given", "data.dataset")


def test_a_dataset_that_cannot_be_read_is_refused() -> None:
    (finding,) = check(config_for(), facts(dataset=None, dataset_error=Trouble("It is empty.", "Name another.")))

    assert (finding.rule, finding.problem) == ("dataset-readable", "It is empty.")


@pytest.mark.parametrize(
    ("bad", "shown", "last"), [(1, 1, "reason 1"), (3, 3, "reason 3"), (12, 4, "and 9 more: empty-content")]
)
def test_bad_rows_are_one_finding_with_the_count_and_three_lines_of_each_kind(bad: int, shown: int, last: str) -> None:
    (finding,) = check(config_for(), facts(dataset=dataset(bad=bad)))

    head, *lines = finding.problem.splitlines()
    assert finding.rule == "dataset-rows-are-good"
    assert head == f"{bad} of {bad + 20} rows of town.jsonl cannot be used:"
    assert lines[0] == "  line 1: reason 1"
    assert (len(lines), lines[-1].endswith(last)) == (shown, True)


@pytest.mark.parametrize(
    ("strategy", "form", "needs"), [("standard", "messages", "`text`"), ("chat", "text", "`messages`")]
)
def test_a_dataset_of_the_other_strategy_is_refused_with_both_fixes(strategy: str, form: Format, needs: str) -> None:
    (finding,) = check(config_for(data={"strategy": strategy}), facts(dataset=dataset(form)))

    other = "chat" if strategy == "standard" else "standard"
    assert finding.rule == "dataset-fits-strategy"
    assert f"Set data.strategy to '{other}'" in finding.fix
    assert needs in finding.fix


@pytest.mark.parametrize(
    ("strategy", "form"), [("standard", "text"), ("chat", "messages"), (None, "text"), (None, "messages")]
)
def test_a_dataset_of_the_same_strategy_is_allowed(strategy: str | None, form: Format) -> None:
    assert check(config_for(data={"strategy": strategy}), facts(dataset=dataset(form))) == ()


@pytest.mark.parametrize(
    ("strategy", "form", "fix"),
    [
        ("chat", "preference", "Set data.strategy to 'standard', or give a dataset whose rows have {} as messages."),
        ("standard", "preference_chat", "Set data.strategy to 'chat', or give a dataset whose rows have {} as text."),
    ],
)
def test_preferences_of_the_other_strategy_are_refused_with_both_fixes(strategy: str, form: Format, fix: str) -> None:
    config = config_for(data={"strategy": strategy}, training={"method": "dpo"})

    (finding,) = check(config, facts(dataset=dataset(form)))

    assert finding.rule == "dataset-fits-strategy"
    assert finding.fix == fix.format("`prompt`, `chosen` and `rejected`")


@pytest.mark.parametrize("form", ["preference", "preference_chat"])
def test_preferences_without_dpo_are_refused_with_both_fixes(form: Format) -> None:
    (finding,) = check(config_for(), facts(dataset=dataset(form)))

    assert (finding.rule, finding.severity, finding.field) == ("dataset-fits-method", "error", "training.method")
    assert "`prompt`, `chosen` and `rejected`" in finding.problem
    assert "training.method is 'sft'" in finding.problem
    assert finding.fix == (
        "Set training.method to 'dpo', or keep only `messages`, or `text`, or `prompt` and `completion` in the rows."
    )


@pytest.mark.parametrize("form", ["messages", "text", "prompt_completion"])
def test_dpo_without_preferences_is_refused_with_both_fixes(form: Format) -> None:
    (finding,) = check(config_for(training={"method": "dpo"}), facts(dataset=dataset(form)))

    assert (finding.rule, finding.severity, finding.field) == ("dataset-fits-method", "error", "training.method")
    assert "training.method is 'dpo'" in finding.problem
    assert finding.fix.startswith("Set training.method to 'sft', or ")
    assert "`chosen` and `rejected` as text, or `prompt`, `chosen` and `rejected` as messages" in finding.fix


def test_a_method_that_could_not_be_taken_is_not_judged_by_the_dataset() -> None:
    config, problems = parse(
        {
            "model": {"base_models": ["llama"]},
            "data": {"dataset": "x"},
            "training": {"method": ""},
            "dpo": {"beta": 0.3},
        }
    )

    assert ids(check(config, facts(dataset=dataset("preference"), config_problems=problems))) == ["settings-are-valid"]


@pytest.mark.parametrize("form", ["preference", "preference_chat"])
@pytest.mark.parametrize("rank_by", ["bits_per_byte", "val_loss"])
def test_dpo_on_preferences_is_allowed(form: Format, rank_by: str) -> None:
    config = config_for(training={"method": "dpo", "rank_by": rank_by})

    assert check(config, facts(dataset=dataset(form))) == ()


def test_label_smoothing_with_ipo_is_refused() -> None:
    config = config_for(training={"method": "dpo"}, dpo={"loss": "ipo", "label_smoothing": 0.05})

    (finding,) = check(config, facts(dataset=dataset("preference")))

    assert (finding.rule, finding.severity) == ("label-smoothing-fits-the-loss", "error")
    assert finding.field == "dpo.label_smoothing"
    assert "0.05" in finding.problem


@pytest.mark.parametrize("dpo", [{"loss": "ipo"}, {"loss": "sigmoid", "label_smoothing": 0.05}])
def test_ipo_without_label_smoothing_and_label_smoothing_without_ipo_are_allowed(dpo: dict[str, Any]) -> None:
    config = config_for(training={"method": "dpo"}, dpo=dpo)

    assert check(config, facts(dataset=dataset("preference"))) == ()


@pytest.mark.parametrize("strategy", ["chat", None])
def test_chat_on_a_model_without_a_template_is_refused_with_a_fix(strategy: str | None) -> None:
    findings = check(config_for(data={"strategy": strategy}), facts(llama(), gpt2()))

    assert ids(findings) == ["chat-needs-a-template"]
    assert findings[0].problem == "GPT-2 has no chat template."
    assert "standard" in findings[0].fix


def test_a_model_without_a_template_is_allowed_for_text() -> None:
    assert check(config_for(), facts(gpt2(), dataset=dataset("text"))) == ()


def test_a_template_that_could_not_be_read_is_not_called_missing() -> None:
    broken = ModelProblem(kind="broken-tokenizer", problem="Not JSON.", fix="Copy it again.")

    assert ids(check(config_for(), facts(llama(chat=False, problems=(broken,))))) == ["base-models-usable"]


def test_targets_of_phi_on_gpt2_are_refused_with_what_gpt2_has() -> None:
    phi = ["q_proj", "v_proj", "k_proj", "dense"]

    (finding,) = check(config_for(lora={"target_modules": phi}), facts(gpt2(chat=True)))

    assert (finding.rule, finding.field, finding.model) == ("lora-targets-exist", "lora.target_modules", "gpt-2")
    assert finding.problem == "GPT-2 has no modules q_proj, v_proj, k_proj, dense."
    assert "c_attn, c_fc, c_proj" in finding.fix


def test_a_target_that_only_some_models_have_is_refused_for_the_others() -> None:
    (finding,) = check(config_for(lora={"target_modules": ["q_proj"]}), facts(llama(), gpt2(chat=True)))

    assert (finding.rule, finding.model) == ("lora-targets-exist", "gpt-2")


def test_targets_of_one_models_own_are_judged_for_it_alone() -> None:
    own = {"gpt-2": {"lora": {"target_modules": ["c_attn", "nope"]}}}

    (finding,) = check(config_for(lora={"target_modules": ["q_proj"]}, per_model=own), facts(llama(), gpt2(chat=True)))

    assert finding.field == "per_model.gpt-2.lora.target_modules"
    assert finding.problem == "GPT-2 has no module nope."


def test_a_model_with_nothing_to_adapt_is_refused() -> None:
    bare = msgspec.structs.replace(model("moe"), fused_experts=("layers.0.experts",))

    (finding,) = check(config_for(), facts(bare))

    assert finding.rule == "lora-targets-exist"
    assert "fused" in finding.problem


def test_a_model_whose_modules_could_not_be_read_is_not_said_to_have_none() -> None:
    damaged = ModelProblem(kind="truncated-weights", problem="Cut off.", fix="Copy it again.")

    assert ids(check(config_for(), facts(model("llama", problems=(damaged,))))) == ["base-models-usable"]


def moe() -> ModelInfo:
    return msgspec.structs.replace(llama(), left_out={"v_proj": "it shares its name with expert weights"})


def test_a_target_that_would_be_left_out_is_a_warning_where_it_is_asked_for() -> None:
    (finding,) = check(config_for(lora={"target_modules": ["v_proj", "q_proj"]}), facts(moe()))

    assert (finding.rule, finding.severity, finding.model) == ("lora-targets-take-effect", "warning", "llama")
    assert finding.problem == "LLAMA: an adapter on v_proj may do nothing: it shares its name with expert weights."


@pytest.mark.parametrize("targets", ["auto", "all-linear", ["q_proj"]])
def test_targets_without_those_left_out_are_allowed(targets: Any) -> None:
    assert check(config_for(lora={"target_modules": targets}), facts(moe())) == ()


def test_a_model_with_nothing_to_adapt_but_what_is_left_out_is_refused() -> None:
    bare = msgspec.structs.replace(llama(), left_out={"q_proj": "shared", "v_proj": "shared"})

    assert ids(check(config_for(), facts(bare))) == ["lora-targets-exist"]
    assert ids(check(config_for(lora={"target_modules": ["q_proj"]}), facts(bare))) == ["lora-targets-take-effect"]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("text", ["tokenizer-has-an-eos"]),
        ("prompt_completion", ["tokenizer-has-an-eos"]),
        ("preference", ["tokenizer-has-an-eos"]),
        ("messages", []),
        ("preference_chat", []),
    ],
)
def test_plain_text_without_an_end_to_learn_is_a_warning(form: Format, expected: list[str]) -> None:
    endless = msgspec.structs.replace(llama(), special_tokens={"bos_token": "<s>"})

    findings = check(config_for(training={"method": METHOD_OF[form]}), facts(endless, dataset=dataset(form)))

    assert ids(findings) == expected
    assert all(finding.severity == "warning" and finding.model == "llama" for finding in findings)


def test_a_tokenizer_that_could_not_be_read_is_not_said_to_have_no_end() -> None:
    broken = ModelProblem(kind="broken-tokenizer", problem="Not JSON.", fix="Copy it again.")
    endless = msgspec.structs.replace(llama(problems=(broken,)), special_tokens={})

    assert ids(check(config_for(), facts(endless, dataset=dataset("text")))) == ["base-models-usable"]


@pytest.mark.parametrize(("highest", "expected"), [(None, []), (511, []), (512, ["token-ids-fit-the-embedding"])])
def test_token_ids_beyond_the_embedding_are_a_warning(highest: int | None, expected: list[str]) -> None:
    odd = msgspec.structs.replace(llama(), embedding_rows=512, highest_token_id=highest)

    findings = check(config_for(), facts(odd))

    assert ids(findings) == expected
    assert all("512" in finding.problem and finding.severity == "warning" for finding in findings)


def test_token_ids_are_not_judged_where_the_embedding_is_not_known() -> None:
    odd = msgspec.structs.replace(llama(), embedding_rows=0, highest_token_id=512)

    assert check(config_for(), facts(odd)) == ()


def test_every_changed_setting_of_dpo_is_a_warning_without_it() -> None:
    findings = check(config_for(dpo={"beta": 0.3, "loss": "ipo", "label_smoothing": 0}), facts())

    assert [(finding.rule, finding.severity, finding.field) for finding in findings] == [
        ("dpo-settings-are-read", "warning", "dpo.beta"),
        ("dpo-settings-are-read", "warning", "dpo.loss"),
    ]
    assert findings[0].problem == "dpo.beta is 0.3, but training.method is 'sft', which does not read it."
    assert findings[0].fix == "Set training.method to 'dpo', or remove dpo.beta."


def test_settings_of_dpo_that_are_the_default_are_allowed_without_it() -> None:
    assert check(config_for(dpo={"beta": 0.1, "loss": "sigmoid", "label_smoothing": 0}), facts()) == ()


def test_changed_settings_of_dpo_are_allowed_with_it() -> None:
    config = config_for(training={"method": "dpo"}, dpo={"beta": 0.3, "label_smoothing": 0.1})

    assert check(config, facts(dataset=dataset("preference"))) == ()


@pytest.mark.parametrize("targets", ["auto", "all-linear", ["c_attn"]])
def test_targets_that_a_model_has_are_allowed(targets: Any) -> None:
    assert check(config_for(lora={"target_modules": targets}), facts(gpt2(chat=True))) == ()


@pytest.mark.parametrize(
    ("sections", "field"),
    [
        ({"training": {"num_epochs": 50}}, "training.num_epochs"),
        ({"training": {"learning_rate": 0.01}}, "training.learning_rate"),
        ({"lora": {"r": 4}}, "lora.r"),
        ({"per_model": {"llama": {"lora": {"r": 128, "alpha": 128}}}}, "per_model.llama.lora.r"),
    ],
)
def test_a_number_outside_its_recommended_range_is_a_warning(sections: dict[str, Any], field: str) -> None:
    (finding,) = check(config_for(**sections), facts())

    assert (finding.rule, finding.severity, finding.field) == ("numbers-in-recommended-range", "warning", field)
    assert "recommended" in finding.problem


@pytest.mark.parametrize("epochs", [1, 10])
def test_the_ends_of_a_recommended_range_are_allowed(epochs: int) -> None:
    assert check(config_for(training={"num_epochs": epochs}), facts()) == ()


def test_what_is_not_in_this_release_is_refused_in_a_plain_sentence() -> None:
    (finding,) = check(config_for(execution={"executor": "ray"}), facts())

    assert (finding.rule, finding.severity) == ("not-in-this-release", "error")
    assert finding.problem.endswith("is not in this release.")


@pytest.mark.parametrize(("rows", "expected"), [(2, ["enough-examples"]), (9, ["enough-examples"]), (10, [])])
def test_fewer_than_ten_examples_are_a_warning(rows: int, expected: list[str]) -> None:
    findings = check(config_for(training={"batch_size": 1}), facts(dataset=dataset(rows=rows)))

    assert ids(findings) == expected
    assert all(finding.severity == "warning" for finding in findings)


def test_rows_that_are_all_the_same_cannot_be_split() -> None:
    finding, duplicates = check(config_for(), facts(dataset=dataset(rows=20, equal=True)))

    assert (finding.rule, finding.severity) == ("split-possible", "error")
    assert duplicates.rule == "dataset-rows-differ"
    assert "20 usable row(s), 1 of them different" in finding.problem


def test_rows_that_are_all_refused_are_not_said_to_be_too_few_as_well() -> None:
    findings = check(config_for(), facts(dataset=dataset(rows=0, bad=3)))

    assert ids(findings) == ["dataset-rows-are-good"]


def test_one_usable_row_among_refused_ones_cannot_be_split() -> None:
    findings = check(config_for(training={"batch_size": 1}), facts(dataset=dataset(rows=1, bad=3)))

    assert ids(findings) == ["dataset-rows-are-good", "split-possible", "enough-examples"]


def test_a_validation_side_far_from_the_share_that_was_asked_for_is_a_warning() -> None:
    rows = tuple({"text": "same" if n < 50 else "other"} for n in range(99))
    two = with_rows("text", rows)

    duplicates, finding = check(config_for(), facts(dataset=two))

    assert duplicates.rule == "dataset-rows-differ"
    assert (finding.rule, finding.severity) == ("validation-has-its-share", "warning")
    assert finding.field == "data.validation_split"
    assert "49 of 99 rows" in finding.problem


@pytest.mark.parametrize("rows", [10, 14, 15, 20])
def test_a_validation_side_that_is_only_rounded_is_allowed(rows: int) -> None:
    assert check(config_for(), facts(dataset=dataset(rows=rows))) == ()


def tokens(**more: Any) -> ModelTokens:
    right = {"rows": 20, "all_rows": True, "comparable": 20, "longest": 30, "mean": 20.0}
    return ModelTokens(**{**right, **more})


def test_rows_that_a_template_refuses_are_an_error_that_names_the_line_and_the_reason() -> None:
    refused = (RowRefusal(52, "No 17!", "Mend it."), RowRefusal(60, "No 20!", "Mend it."))

    (finding,) = check(config_for(), facts(tokens={"llama": tokens(refused=refused)}))

    assert (finding.rule, finding.severity, finding.model) == ("template-takes-the-rows", "error", "llama")
    assert finding.problem == "LLAMA, line 52 of town.jsonl: No 17! So it is with 2 of 20 rows."
    assert finding.fix == "Mend it."


def test_a_template_that_cannot_be_used_at_all_is_an_error_of_its_model() -> None:
    broken = tokens(trouble=Trouble("LLAMA: syntax error.", "Mend it."), rows=0, comparable=0)

    (finding,) = check(config_for(), facts(tokens={"llama": broken}))

    assert (finding.rule, finding.field, finding.model) == ("template-takes-the-rows", "model.base_models", "llama")


@pytest.mark.parametrize(
    ("lines", "severity", "words"),
    [
        ((4,), "warning", "in 1 of 20 rows of town.jsonl (line 4)."),
        (
            tuple(range(1, 21)),
            "error",
            "in 20 of 20 rows of town.jsonl (lines 1, 2, 3, …), among them all rows to train",
        ),
    ],
    ids=["one", "all"],
)
def test_rows_without_a_token_to_learn_are_said(lines: tuple[int, ...], severity: str, words: str) -> None:
    (finding,) = check(config_for(), facts(tokens={"llama": tokens(unlearnable=lines)}))

    assert (finding.rule, finding.severity) == ("rows-leave-something-to-learn", severity)
    assert words in finding.problem


def test_a_side_of_the_split_without_a_token_to_learn_is_refused() -> None:
    rows = dataset()
    aside = tuple(rows.lines[split(rows.digests, 0.1, 42).validation].tolist())

    (finding,) = check(config_for(), facts(dataset=rows, tokens={"llama": tokens(unlearnable=aside)}))
    (sampled,) = check(config_for(), facts(dataset=rows, tokens={"llama": tokens(unlearnable=aside, all_rows=False)}))

    assert finding.severity == "error"
    assert finding.problem.endswith("among them all rows to validate on.")
    assert sampled.severity == "warning"


def test_quarantine_that_would_leave_no_row_is_refused() -> None:
    findings = check(config_for(data={"bad_rows": "quarantine"}), facts(dataset=dataset(rows=0, bad=3)))

    assert ids(findings) == ["some-row-is-left", "dataset-rows-are-good"]
    assert findings[0].problem == "None of the 3 rows of town.jsonl can be used."


def test_a_sample_is_called_one() -> None:
    (finding,) = check(config_for(), facts(tokens={"llama": tokens(unlearnable=(4, 5, 6, 7), all_rows=False)}))

    assert "4 of 20 rows (sampled)" in finding.problem
    assert "(lines 4, 5, 6, …)" in finding.problem


def test_rows_that_one_model_alone_cannot_learn_from_are_said() -> None:
    found = {"llama": tokens(), "gpt-2": tokens(unlearnable=(3,))}

    findings = check(config_for(), facts(llama(), gpt2(chat=True), tokens=found))

    assert ids(findings) == ["rows-leave-something-to-learn", "rows-survive-for-every-model"]
    assert findings[1].problem == "GPT-2 can't learn from 1 row that LLAMA can (line 3)."


@pytest.mark.parametrize(("cut", "expected"), [(1, []), (2, ["rows-fit-max-length"])])
def test_many_cut_rows_are_a_warning(cut: int, expected: list[str]) -> None:
    config = config_for(data={"max_length": 64})

    findings = check(config, facts(tokens={"llama": tokens(truncated=cut, longest=90)}))

    assert [finding.rule for finding in findings if finding.field == "data.dataset"] == expected
    assert all("Set data.max_length to 90" in finding.fix for finding in findings if finding.field == "data.dataset")


@pytest.mark.parametrize(
    ("max_length", "cut", "expected"),
    [(256, 0, True), (128, 0, False), (64, 1, False), (2048, 0, False), (2048, 1, True)],
)
def test_a_max_length_over_the_context_is_said_where_it_was_chosen_or_rows_are_cut(
    max_length: int, cut: int, expected: bool
) -> None:
    findings = check(
        config_for(data={"max_length": max_length}), facts(tokens={"llama": tokens(truncated=cut, longest=300)})
    )

    said = [finding for finding in findings if finding.rule == "max-length-fits-the-context"]
    assert bool(said) is expected
    assert all(finding.changes == (Change("data.max_length", 128),) for finding in said)


def test_rows_without_bits_per_byte_are_said_where_models_are_ranked_by_them() -> None:
    bare = {"llama": tokens(comparable=0)}

    (finding,) = check(config_for(), facts(tokens=bare))

    assert (finding.rule, finding.severity) == ("answers-can-be-compared", "warning")
    assert check(config_for(training={"rank_by": "val_loss"}), facts(tokens=bare)) == ()


@pytest.mark.parametrize(
    ("traits", "expected"),
    [
        ({"answers": "growth", "ends_with": "</s>"}, []),
        ({"answers": "tags", "ends_with": " "}, ["template-ends-the-answer"]),
        ({"answers": "hidden"}, []),
    ],
    ids=["ends", "endless", "hidden"],
)
def test_a_template_that_ends_no_answer_is_a_warning(traits: dict[str, Any], expected: list[str]) -> None:
    found = tokens(traits=TemplateTraits(renders=True, **traits))

    assert ids(check(config_for(), facts(tokens={"llama": found}))) == expected


def test_a_sample_prompt_that_cannot_be_asked_is_refused() -> None:
    config = config_for(training={"sample_prompts": ["a", "b", "c"]})
    found = {"llama": tokens(prompts={1: 5, 3: 128}, refused_prompts={2: "No b!"})}

    findings = check(config, facts(tokens=found))

    assert [(finding.rule, finding.severity) for finding in findings] == [("sample-prompts-can-be-asked", "error")] * 2
    assert "Sample prompt 2 ('b') can't be put to LLAMA: No b!" in findings[0].problem
    assert "It has 128 tokens; the model reads 128" in findings[1].problem


def test_an_empty_sample_prompt_is_refused() -> None:
    (finding,) = check(config_for(training={"sample_prompts": ["a", " "]}), facts())

    assert (finding.rule, finding.problem) == ("sample-prompts-say-something", "Sample prompt 2 is empty.")


def test_rows_that_are_there_twice_are_a_warning_with_their_lines() -> None:
    rows = (*(ROW_OF["text"](number) for number in range(12)), ROW_OF["text"](3), ROW_OF["text"](3))

    (finding,) = check(config_for(), facts(dataset=with_rows("text", rows)))

    assert (finding.rule, finding.severity) == ("dataset-rows-differ", "warning")
    assert "2 of 14 rows of town.jsonl" in finding.problem
    assert "line 13 is line 4 again, line 14 is line 4 again" in finding.problem


def test_bad_rows_that_are_to_be_quarantined_are_a_warning() -> None:
    (finding,) = check(config_for(data={"bad_rows": "quarantine"}), facts(dataset=dataset(bad=2)))

    assert (finding.rule, finding.severity) == ("dataset-rows-are-good", "warning")
    assert "quarantine.jsonl" in finding.fix


VALIDATED = {"data": {"validation_dataset": "aside.jsonl"}}


def test_a_validation_dataset_of_other_rows_is_allowed() -> None:
    aside = with_rows("text", tuple({"text": f"aside {n}"} for n in range(5)))

    assert check(config_for(**VALIDATED), facts(dataset=dataset("text", equal=False), validation=aside)) == ()


@pytest.mark.parametrize(
    ("aside", "severity", "words"),
    [
        (({"text": "text 1"}, {"text": "new"}), "warning", "1 of 2 validation rows are in the dataset, too"),
        (({"text": "text 1"},), "error", "holds nothing but rows of the dataset"),
        ((), "error", "has no usable row"),
    ],
    ids=["some", "all", "none"],
)
def test_validation_rows_that_are_trained_on_are_said(
    aside: tuple[dict[str, Any], ...], severity: str, words: str
) -> None:
    (finding,) = check(config_for(**VALIDATED), facts(dataset=dataset("text"), validation=with_rows("text", aside)))

    assert (finding.rule, finding.severity) == ("validation-dataset-fits", severity)
    assert words in finding.problem


def test_a_validation_dataset_of_another_format_is_refused() -> None:
    (finding,) = check(config_for(**VALIDATED), facts(dataset=dataset("text"), validation=dataset("messages")))

    assert (finding.rule, finding.severity) == ("validation-dataset-fits", "error")


def test_a_validation_dataset_that_cannot_be_read_is_refused() -> None:
    (finding,) = check(config_for(**VALIDATED), facts(validation_error=Trouble("It is empty.", "Name another.")))

    assert (finding.rule, finding.field) == ("dataset-readable", "data.validation_dataset")


@pytest.mark.parametrize(("alpha", "expected"), [(8, []), (7, ["alpha-suits-the-rank"]), (128, []), (129, None)])
def test_an_alpha_far_from_the_rank_is_a_warning(alpha: float, expected: list[str] | None) -> None:
    findings = check(config_for(lora={"r": 16, "alpha": alpha}), facts())

    rules = [each for each in ids(findings) if each != "numbers-in-recommended-range"]
    assert rules == (["alpha-suits-the-rank"] if expected is None else expected)


def test_a_step_of_more_rows_than_there_are_is_a_warning() -> None:
    config = config_for(training={"batch_size": 7, "gradient_accumulation_steps": 3})

    (finding,) = check(config, facts(dataset=dataset(rows=20)))

    assert (finding.rule, finding.severity) == ("batch-fits-the-rows", "warning")
    assert "takes 21 rows" in finding.problem


def test_a_download_is_told_with_its_size() -> None:
    away = msgspec.structs.replace(llama(), source="hub", hub_id="org/llama", missing_bytes=2_940_000_000)

    (finding,) = check(config_for(), facts(away))

    assert (finding.rule, finding.severity) == ("downloads-are-expected", "warning")
    assert "2.94 GB" in finding.problem
    assert finding.fix.endswith("oneseek models pull org/llama")


def test_a_signing_key_that_cannot_be_used_is_refused() -> None:
    (finding,) = check(config_for(), facts(key_error=Trouble("It is no private key.", "Name another.")))

    assert (finding.rule, finding.severity) == ("signing-key-usable", "error")


def test_an_output_that_cannot_be_written_is_refused() -> None:
    (finding,) = check(config_for(), facts(output_error=Trouble("/out could not be written.", "Name another.")))

    assert (finding.rule, finding.field) == ("output-writable", "output.directory")


def test_a_version_that_exists_is_refused_with_the_next_free_one() -> None:
    (finding,) = check(config_for(output={"version": "v1.0"}), facts(versions=("1.0", "1.1")))

    assert finding.rule == "version-is-free"
    assert "1.2" in finding.fix


def test_a_version_that_is_free_is_allowed() -> None:
    assert check(config_for(output={"version": "2.0"}), facts(versions=("1.0",))) == ()


def test_a_model_that_does_not_fit_even_with_short_rows_is_refused_and_its_parts_are_named() -> None:
    (finding,) = check(config_for(), facts(free_memory_bytes=200 * 2**20))

    assert (finding.rule, finding.severity, finding.model) == ("enough-memory", "error", "llama")
    assert "runtime 0.4 GiB" in finding.problem
    assert "0.2 GiB are free" in finding.problem


def test_a_model_whose_longest_row_may_not_fit_is_a_warning() -> None:
    many = llama().linear_modules * 800
    wide = msgspec.structs.replace(llama(), hidden_size=8192, layers=32, linear_modules=many, context_length=4096)
    long = with_rows("text", tuple({"text": f"{n}" * 2000} for n in range(10)))

    # 2,000 tokens take 9 GB even when activations are computed twice, the 20 of the other rows a tenth of one.
    (finding,) = check(config_for(), facts(wide, dataset=long, free_memory_bytes=4 * GIB))

    assert (finding.severity, finding.field) == ("warning", "model.base_models")
    assert "activations" in finding.problem
    assert check(config_for(), facts(wide, free_memory_bytes=4 * GIB)) == ()
    short = msgspec.structs.replace(wide, context_length=32)
    assert check(config_for(), facts(short, dataset=long, free_memory_bytes=4 * GIB)) == ()


def test_where_checkpointing_would_help_but_is_never_to_be_used_the_fix_says_so() -> None:
    deep = msgspec.structs.replace(llama(), layers=64, linear_modules=llama().linear_modules * 200, context_length=4096)
    long = with_rows("text", tuple({"text": f"{n}" * 2000} for n in range(10)))
    never = config_for(execution={"gradient_checkpointing": "never"})
    free = memory_of(deep, config_for(), 2048, checkpointing=True).total

    (finding,) = check(never, facts(deep, dataset=long, free_memory_bytes=free))

    assert finding.field == "execution.gradient_checkpointing"
    assert "'auto'" in finding.fix
    assert check(config_for(), facts(deep, dataset=long, free_memory_bytes=free)) == ()


def test_a_disk_too_small_for_checkpoints_is_a_warning() -> None:
    (finding,) = check(config_for(), facts(free_disk_bytes=1000))

    assert (finding.rule, finding.severity) == ("enough-disk", "warning")


# -- all together --------------------------------------------------------------------------------------------------


def test_twenty_wrong_things_give_all_findings_at_once_in_a_stable_order() -> None:
    config, problems = parse(
        {
            "model": {"base_models": ["llama", "llama", "gpt-2", "ghost"], "quantization": "4bit", "models": 1},
            "data": {"dataset": "x", "strategy": "chat", "validation_dataset": "y", "max_length": 16},
            "training": {"method": "dpo", "num_epochs": -1, "batch_size": "many", "epochs": 1, "learning_rate": 0.5},
            "lora": {"target_modules": ["nope"], "r": 0, "alpha": 1000},
            "per_model": {"llama": {"lora": {"r": 900}}, "gpt-2": {"training": {"seed": 1}}},
            "output": {"version": "1.0"},
            "execution": {"executor": "ray"},
            "nonsense": 1,
        }
    )
    pickle = ModelProblem(kind="only-pickle", problem="Only pickles.", fix="Convert.")
    wrong = facts(
        llama(problems=(pickle,)),
        gpt2(),
        wanted=(
            Wanted("llama", key="llama"),
            Wanted("llama", key="llama"),
            Wanted("gpt-2", key="gpt-2"),
            Wanted("ghost", trouble=Trouble("No base model matches 'ghost'.", "The nearest are: llama.")),
        ),
        config_problems=problems,
        dataset=dataset("text", rows=2, bad=3, equal=True),
        validation=with_rows("text", ({"text": "text 0"},)),
        output_error=Trouble("Full.", "Free space."),
        versions=("1.0",),
        missing_packages=("bitsandbytes",),
        free_memory_bytes=1000,
        free_disk_bytes=1000,
    )

    findings = check(config, wrong)

    by_severity = {
        severity: [(finding.field, finding.rule) for finding in findings if finding.severity == severity]
        for severity in ("error", "warning")
    }
    assert by_severity["error"] == [
        ("model.base_models", "base-models-usable"),
        ("model.base_models", "enough-memory"),
        ("model.base_models", "enough-memory"),
        ("model.base_models", "selection-matches"),
        ("model.base_models", "selection-matches"),
        ("model.quantization", "quantization-has-its-packages"),
        ("model.models", "settings-are-valid"),
        ("data.dataset", "dataset-rows-are-good"),
        ("data.validation_dataset", "validation-dataset-fits"),
        ("data.strategy", "chat-needs-a-template"),
        ("data.strategy", "dataset-fits-strategy"),
        ("training.method", "dataset-fits-method"),
        ("training.num_epochs", "settings-are-valid"),
        ("training.batch_size", "settings-are-valid"),
        ("training.epochs", "settings-are-valid"),
        ("lora.r", "settings-are-valid"),
        ("lora.target_modules", "lora-targets-exist"),
        ("lora.target_modules", "lora-targets-exist"),
        ("per_model.gpt-2.training.seed", "settings-are-valid"),
        ("output.directory", "output-writable"),
        ("output.version", "version-is-free"),
        ("execution.executor", "not-in-this-release"),
        ("nonsense", "settings-are-valid"),
    ]
    assert by_severity["warning"] == [
        ("data.dataset", "dataset-rows-differ"),
        ("data.dataset", "enough-examples"),
        ("data.max_length", "numbers-in-recommended-range"),
        ("training.batch_size", "batch-fits-the-rows"),
        ("training.learning_rate", "numbers-in-recommended-range"),
        ("lora.alpha", "alpha-suits-the-rank"),
        ("lora.alpha", "numbers-in-recommended-range"),
        ("per_model.llama.lora.r", "numbers-in-recommended-range"),
    ]
    assert [finding.severity for finding in findings] == ["error"] * len(by_severity["error"]) + ["warning"] * 8
    assert all(finding.problem and finding.fix for finding in findings)


def test_every_rule_says_why_it_is_there() -> None:
    assert [name for name, judge in registered().items() if not judge.__doc__] == []


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rules called dataset-given"):

        @rule
        def dataset_given(config: TrainingConfig, facts: Facts) -> Any:
            yield


def test_a_refusal_says_all_of_its_findings() -> None:
    config, problems = parse({"model": {"name": "llama"}, "data": {"dataset": "x"}, "lora": {"r": 0, "alpha": 1000}})

    error = PreflightError(check(config, facts(config_problems=problems)))

    assert error.exit_code == 2
    assert error.problem == "Nothing was started: 1 error in what was asked for."
    assert "error: lora.r: lora.r is 0." in str(error)
    assert "warning: lora.alpha: " in str(error)
    assert settings_findings(problems) == error.findings[:1]


# -- gathering -----------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "Mistral-7B-Instruct", family="mistral")
    write_model(tmp_path / "models" / "gpt_2", family="gpt2", chat=False)
    (tmp_path / "datasets").mkdir()
    rows = [json.dumps({"text": f"row {number}"}) for number in range(12)]
    (tmp_path / "datasets" / "town.jsonl").write_text("\n".join(rows))
    return tmp_path


def gathered(home: Path, output: Path | None = None, **sections: Any) -> tuple[TrainingConfig, Facts]:
    config, problems = parse({"model": {"base_models": "mistral"}, "data": {"dataset": "town.jsonl"}, **sections})
    return config, gather.gather(config, problems, Home(home, home / "models"), output or home / "models")


def test_a_right_home_gives_facts_without_findings_and_stays_as_it_was(home: Path) -> None:
    before = sorted(home.rglob("*"))

    config, found = gathered(home, home / "new" / "output")

    assert check(config, found) == ()
    assert [info.key for info in found.models] == ["mistral-7b-instruct"]
    assert found.available == ("gpt-2", "mistral-7b-instruct")
    assert found.dataset is not None
    assert found.dataset.rows == 12
    assert found.tokens["mistral-7b-instruct"].rows == 12
    assert sorted(home.rglob("*")) == before


def test_an_output_below_a_file_cannot_be_written(home: Path) -> None:
    (home / "file").write_text("in the way")

    for output in (home / "file", home / "file" / "below" / "it"):
        config, found = gathered(home, output)
        assert ids(check(config, found)) == ["output-writable"]


def test_a_disk_that_takes_no_bytes_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)

    config, found = gathered(home)

    assert ids(check(config, found)) == ["output-writable", "signing-key-usable"]


def signer(kind: str) -> bytes:
    """The PEM of a private key, or of its public half."""
    if kind == "rubbish":
        return b"hello\n"
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(CURVES.get(kind, P256))
    if kind == "public":
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_key().public_bytes(serialization.Encoding.PEM, form)
    lock = serialization.BestAvailableEncryption(b"word") if kind == "encrypted" else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


P256 = ec.SECP256R1()
CURVES = {"P-384": ec.SECP384R1()}


@pytest.mark.parametrize("of_its_own", [True, False], ids=["own", "named"])
@pytest.mark.parametrize(
    ("kind", "mode", "problem"),
    [
        ("usable", 0o600, None),
        ("usable", 0o640, "can be read by others than its owner"),
        ("P-384", 0o600, "secp384r1; runs are signed with an ECDSA key on P-256"),
        ("RSA", 0o600, "RSA"),
        ("encrypted", 0o600, "is encrypted"),
        ("public", 0o600, "is a public key"),
        ("rubbish", 0o600, "is not a private key"),
    ],
    ids=["usable", "readable by others", "P-384", "RSA", "encrypted", "public", "rubbish"],
)
def test_a_key_that_cannot_sign_is_found_before_the_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, of_its_own: bool, kind: str, mode: int, problem: str | None
) -> None:
    path = home / "keys" / "run-signer.pem" if of_its_own else home / "named.pem"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(signer(kind))
    path.chmod(mode)
    if not of_its_own:
        monkeypatch.setenv("LEDGER_PRIVATE_KEY_PATH", str(path))

    findings = check(*gathered(home))

    assert ids(findings) == ["signing-key-usable"] * (problem is not None)
    assert all(finding.severity == "error" and finding.fix for finding in findings)
    for finding in findings:
        assert str(problem) in finding.problem
        assert str(path) in finding.problem
        assert ("LEDGER_PRIVATE_KEY_PATH" in finding.problem) is not of_its_own


def test_a_named_key_stands_in_for_the_homes_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "keys").mkdir()
    (home / "keys" / "run-signer.pem").write_text("rubbish")
    named = home / "named.pem"
    named.write_bytes(signer("usable"))
    named.chmod(0o600)
    monkeypatch.setenv("LEDGER_PRIVATE_KEY_PATH", str(named))

    assert check(*gathered(home)) == ()


def test_a_named_key_that_is_not_there_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_PRIVATE_KEY_PATH", str(home / "none.pem"))

    (finding,) = check(*gathered(home))

    assert finding.rule == "signing-key-usable"
    assert "none.pem cannot be read: No such file or directory" in finding.problem


def test_a_ledgers_key_that_others_may_read_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "keys").mkdir()
    (home / "keys" / "log.ed25519").write_text("secret")

    (finding,) = check(*gathered(home))
    monkeypatch.setenv("LEDGER_URL", "https://ledger.example.org")
    monkeypatch.setenv("LEDGER_TOKEN", "0123456789abcdef")
    elsewhere = check(*gathered(home))

    assert (finding.rule, finding.severity) == ("signing-key-usable", "error")
    assert "log.ed25519 can be read by others" in finding.problem
    assert elsewhere == ()


def test_keys_that_could_not_be_made_are_found(home: Path) -> None:
    (home / "keys").write_text("in the way")

    (finding,) = check(*gathered(home))

    assert finding.rule == "signing-key-usable"
    assert f"{home / 'keys'} could not be written" in finding.problem


def test_a_ledger_that_is_no_database_is_warned_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log_key(Home(home, home / "models"))
    (home / "ledger.db").write_text("not a database, and long enough to be sure of it " * 9)

    (finding,) = check(*gathered(home))
    monkeypatch.setenv("LEDGER_URL", "https://ledger.example.org")
    monkeypatch.setenv("LEDGER_TOKEN", "0123456789abcdef")
    elsewhere = check(*gathered(home))

    assert (finding.rule, finding.severity) == ("ledger-usable", "warning")
    assert "ledger.db" in finding.problem
    assert elsewhere == ()


def test_a_ledger_that_is_gone_is_warned_of(home: Path) -> None:
    (home / "keys").mkdir()
    (home / "keys" / "log.checkpoint").write_text("signed")

    (finding,) = check(*gathered(home))

    assert (finding.rule, finding.severity) == ("ledger-usable", "warning")
    assert "ledger.db" in finding.problem
    assert "gone" in finding.problem


@pytest.mark.parametrize(
    ("url", "usable"),
    [
        ("https://ledger.example.org", True),
        ("http://127.0.0.1:8080/", True),
        ("http://[::1]:8080", True),
        ("ledger.example.org", False),
        ("ledger.example.org:8080", False),
        ("ftp://ledger.example.org", False),
        ("file:///ledger.db", False),
        ("http://", False),
        ("http://ledger:eighty", False),
        ("http://[::1", False),
        ("https://me:planted@ledger.example.org", False),
        ("https://ledger.example.org?planted", False),
        ("https://ledger.example.org/a b", False),
        ("http://localhost:8080", True),
        ("http://ledger.example.org", False),
        ("http://10.0.0.7:8080", False),
    ],
)
def test_an_address_that_is_no_ledgers_is_refused_as_the_client_refuses_it(
    home: Path, monkeypatch: pytest.MonkeyPatch, url: str, usable: bool
) -> None:
    monkeypatch.setenv("LEDGER_URL", url)
    monkeypatch.setenv("LEDGER_TOKEN", "0123456789abcdef")

    findings = check(*gathered(home))

    assert ids(findings) == ["ledger-address-valid"] * (not usable)
    assert [(each.severity, each.problem, each.fix) for each in findings] == [
        ("error", *words) for words in refused(url)
    ]
    assert "planted" not in str(findings)


@pytest.mark.parametrize("there", [True, False], ids=["rubbish", "no file"])
def test_certificates_that_cannot_be_used_are_found_before_the_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    named = home / "authorities.pem"
    if there:
        named.write_text("rubbish")
    monkeypatch.setenv("LEDGER_URL", "https://ledger.example.org")
    monkeypatch.setenv("LEDGER_TOKEN", "0123456789abcdef")
    monkeypatch.setenv("SSL_CERT_FILE", str(named))

    (finding,) = check(*gathered(home))

    assert (finding.rule, finding.severity) == ("ledger-address-valid", "error")
    assert f"SSL_CERT_FILE={named}" in finding.problem


@pytest.mark.parametrize("token", [None, "", "planted 0123456789abcdef", "planted-0123456789\n"])
def test_a_service_without_a_token_that_it_could_be_sent_is_warned_of(
    home: Path, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    monkeypatch.setenv("LEDGER_URL", "https://ledger.example.org")
    if token is not None:
        monkeypatch.setenv("LEDGER_TOKEN", token)

    (finding,) = check(*gathered(home))

    assert (finding.rule, finding.severity) == ("ledger-usable", "warning")
    assert "LEDGER_TOKEN" in finding.problem
    assert "completed all the same, but not entered" in finding.fix
    assert "planted" not in str(finding)


def refused(url: str) -> list[tuple[str, str]]:
    """What the ledger's client says to an address."""
    try:
        Client(url, token=None, known_logs=None).close()
    except ConfigError as error:
        return [(error.problem, error.fix)]
    return []


def test_a_dataset_is_found_as_given_before_the_homes_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gather.dataset_path("town.jsonl", Home(home, home / "models")) == home / "datasets" / "town.jsonl"

    monkeypatch.chdir(home / "datasets")

    assert gather.dataset_path("town.jsonl", Home(home, home / "models")) == Path("town.jsonl")
    assert gather.dataset_path("absent.jsonl", Home(home, home / "models")) == Path("absent.jsonl")


@pytest.mark.parametrize("name", ["absent.jsonl", "x" * 5000, "."])
def test_a_dataset_that_cannot_be_read_is_a_fact(name: str, home: Path) -> None:
    config, found = gathered(home, data={"dataset": name})

    assert ids(check(config, found)) == ["dataset-readable"]


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_is_no_path_is_refused_before_anything_is_looked_for(text: str, home: Path) -> None:
    raw = {"model": {"base_models": [text]}, "data": {"dataset": text}, "output": {"directory": text}}
    config, problems = parse(raw)

    found = gather.gather(config, problems, Home(home, home / "models"), Path(config.output.directory or home))

    assert ids(check(config, found)) == ["settings-are-valid"] * 3


def test_a_token_beyond_the_embedding_is_found_for_selected_models_alone(home: Path) -> None:
    for name in ("Mistral-7B-Instruct", "gpt_2"):
        tokenizer = home / "models" / name / "tokenizer.json"
        document = json.loads(tokenizer.read_text())
        added = {"id": 64, "content": "<|im_start|>", "special": True}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        document["added_tokens"].append({**added, **flags})
        tokenizer.write_text(json.dumps(document))

    config, found = gathered(home)

    assert [(finding.rule, finding.model) for finding in check(config, found)] == [
        ("token-ids-fit-the-embedding", "mistral-7b-instruct")
    ]


def test_names_that_match_none_or_several_are_facts(home: Path) -> None:
    write_model(home / "models" / "mistral-7b")

    config, found = gathered(home, model={"base_models": ["ghost", "mistral", "gpt2", "gpt-2"]})

    assert [wanted.key for wanted in found.wanted] == [None, None, "gpt-2", "gpt-2"]
    assert [info.key for info in found.models] == ["gpt-2"]
    assert ids(check(config, found)) == ["selection-matches"] * 3


def test_two_directories_with_one_key_are_refused_when_selected(home: Path) -> None:
    write_model(home / "models" / "gpt-2", family="gpt2", chat=False)

    config, found = gathered(home, model={"base_models": ["gpt-2"]})

    (finding,) = check(config, found)
    assert finding.rule == "base-models-usable"
    assert str(home / "models" / "gpt_2") in finding.problem


def test_a_models_directory_that_is_a_file_is_a_fact(home: Path) -> None:
    (home / "file").write_text("in the way")
    config, problems = parse({"model": {"base_models": "mistral"}, "data": {"dataset": "town.jsonl"}})

    found = gather.gather(config, problems, Home(home, home / "file"), home)

    assert ids(check(config, found)) == ["base-models-usable"]


def test_versions_of_earlier_runs_are_found(home: Path) -> None:
    for name in ("weights/oneseek-7b-zero-v1.0..json", "lora_adapters/oneseek-7b-zero-v2.3-gpt-2", "weights/other"):
        (home / "models" / "oneseek-7b-zero" / name).mkdir(parents=True)

    _, found = gathered(home)

    assert found.versions == ("1.0", "2.3")
