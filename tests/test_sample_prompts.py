"""Sample prompts that a model can't take are refused before a run starts."""

from __future__ import annotations

import msgspec
import pytest

from oneseek.config.parse import parse
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, registered
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import describe
from support.base_models import write_model

PICKY = (
    "{% for m in messages %}{% if 'x' in m.content %}{{ raise_exception('no x here') }}{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ generation(bos_token) }}{% endif %}"
)
TAKES_NO_X = PICKY.partition("{% if add_generation_prompt %}")[0]


@pytest.fixture
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    path = tmp_path_factory.mktemp("models") / "llama"
    write_model(path)
    return describe(path)


def found(model: ModelInfo, *prompts: str, strategy: str = "chat") -> list[Finding]:
    config, problems = parse({"data": {"strategy": strategy}, "training": {"sample_prompts": list(prompts)}})
    assert problems == ()
    return list(registered()["sample-prompts-can-be-asked"](config, Facts(models=(model,))))


@pytest.mark.parametrize("strategy", ["chat", "standard"])
@pytest.mark.parametrize("empty", ["", " \n"], ids=["empty", "blank"])
def test_an_empty_prompt_is_refused_once_by_its_number(llama: ModelInfo, empty: str, strategy: str) -> None:
    (finding,) = found(llama, "Open?", empty, strategy=strategy)

    assert (finding.severity, finding.field) == ("error", "training.sample_prompts")
    assert finding.problem == "Sample prompt 2 is empty."


def test_a_prompt_that_the_template_refuses_is_named_with_the_model_and_its_words(llama: ModelInfo) -> None:
    picky = msgspec.structs.replace(llama, chat_template=TAKES_NO_X)

    (finding,) = found(picky, "Open?", "Why x?")

    assert (finding.severity, finding.field, finding.model) == ("error", "training.sample_prompts", llama.key)
    assert finding.problem.startswith(f"Sample prompt 2 ('Why x?') can't be put to {llama.display_name}: ")
    assert "no x here" in finding.problem
    assert finding.fix == "Remove it from training.sample_prompts, or select another base model."


def test_a_template_is_asked_to_begin_an_answer(llama: ModelInfo) -> None:
    (finding,) = found(msgspec.structs.replace(llama, chat_template=PICKY), "Open?")

    assert "generation" in finding.problem


def test_prompts_that_a_model_takes_are_allowed(llama: ModelInfo) -> None:
    assert found(llama, "När öppnar biblioteket?", "And?") == []


def test_plain_text_meets_no_template(llama: ModelInfo) -> None:
    picky = msgspec.structs.replace(llama, chat_template=TAKES_NO_X)

    assert found(picky, "Why x?", strategy="standard") == []


def test_a_sample_prompt_that_is_no_text_is_answered_with_what_they_are() -> None:
    _, (problem,) = parse({"training": {"sample_prompts": [1]}})

    assert problem.fix == "Set training.sample_prompts to a list of texts."
