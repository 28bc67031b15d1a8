"""Sample prompts that a model can't take are refused before a run starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from oneseek.config.parse import parse
from oneseek.datasets.read import scan
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, check
from oneseek.preflight.tokens import tokens_of
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import describe
from support.base_models import write_model
from support.tiny_models import write_tokenizer

Find = Callable[..., list[Finding]]

PICKY = (
    "{% for m in messages %}{% if 'x' in m.content %}{{ raise_exception('no x here') }}{% endif %}"
    "{{ m.content }}{% endfor %}{% if add_generation_prompt %}{{ generation(bos_token) }}{% endif %}"
)
TAKES_NO_X = PICKY.partition("{% if add_generation_prompt %}")[0]


ROWS = {
    "chat": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "standard": {"text": "a b"},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    path = tmp_path_factory.mktemp("models") / "llama"
    write_model(path)
    write_tokenizer(path)
    return describe(path)


@pytest.fixture
def found(tmp_path: Path) -> Find:
    """What is found about sample prompts, with the model's own template in its own process."""

    def find(model: ModelInfo, *prompts: str, strategy: str = "chat") -> list[Finding]:
        rows = tmp_path / "rows.jsonl"
        rows.write_text(json.dumps(ROWS[strategy]) + "\n")
        config, problems = parse({"training": {"sample_prompts": list(prompts)}})
        assert problems == ()
        dataset = scan(rows)
        tokens, _ = tokens_of([model], dataset, None, config)
        findings = check(config, Facts(models=(model,), dataset=dataset, tokens=tokens))
        return [finding for finding in findings if finding.field == "training.sample_prompts"]

    return find


@pytest.mark.parametrize("strategy", ["chat", "standard"])
@pytest.mark.parametrize("empty", ["", " \n"], ids=["empty", "blank"])
def test_an_empty_prompt_is_refused_once_by_its_number(
    found: Find, llama: ModelInfo, empty: str, strategy: str
) -> None:
    (finding,) = found(llama, "Open?", empty, strategy=strategy)

    assert (finding.severity, finding.field) == ("error", "training.sample_prompts")
    assert finding.problem == "Sample prompt 2 is empty."


def test_a_prompt_that_the_template_refuses_is_named_with_the_model_and_its_words(
    found: Find, llama: ModelInfo
) -> None:
    picky = msgspec.structs.replace(llama, chat_template=TAKES_NO_X)

    (finding,) = found(picky, "Open?", "Why x?")

    assert (finding.severity, finding.field, finding.model) == ("error", "training.sample_prompts", llama.key)
    assert finding.problem.startswith(f"Sample prompt 2 ('Why x?') can't be put to {llama.display_name}: ")
    assert "no x here" in finding.problem
    assert finding.fix == "Shorten it or remove it from training.sample_prompts, or select another base model."


def test_a_template_is_asked_to_begin_an_answer(found: Find, llama: ModelInfo) -> None:
    (finding,) = found(msgspec.structs.replace(llama, chat_template=PICKY), "Open?")

    assert "generation" in finding.problem


def test_prompts_that_a_model_takes_are_allowed(found: Find, llama: ModelInfo) -> None:
    assert found(llama, "När öppnar biblioteket?", "And?") == []


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused(found: Find, llama: ModelInfo) -> None:
    narrow = msgspec.structs.replace(llama, context_length=40)

    (finding,) = found(narrow, "biblioteket " * 100)

    assert "the model reads 40 and must answer in them" in finding.problem
    assert found(narrow, "x") == []


def test_plain_text_meets_no_template(found: Find, llama: ModelInfo) -> None:
    picky = msgspec.structs.replace(llama, chat_template=TAKES_NO_X)

    assert found(picky, "Why x?", strategy="standard") == []


def test_a_sample_prompt_that_is_no_text_is_answered_with_what_they_are() -> None:
    _, (problem,) = parse({"training": {"sample_prompts": [1]}})

    assert problem.fix == "Set training.sample_prompts to a list of texts."
