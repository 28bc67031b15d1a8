"""What a chat template does is found out by rendering; what it refuses is a trait of it."""

from __future__ import annotations

import pytest

from oneseek.chat.probe import TemplateTraits, probe
from oneseek.chat.template import ChatTemplate

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}{% endfor %}"
TAGGED = (
    "{% for message in messages %}[{{ message['role'] }}]"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
)
ONE_TURN = "{% if messages | length > 2 %}{{ raise_exception('One question only') }}{% endif %}" + PLAIN
INST = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token }}[INST] {{ message['content'] }} "
    "[/INST]{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
TOOLS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for message in messages %}[{{ message['role'] }}] "
    "{{ message['content'] }}{% for call in message.get('tool_calls') or [] %}<call>{{ call['function'] | tojson }}"
    "</call>{% endfor %}{{ eos_token }}{% endfor %}"
)


def traits_of(source: str) -> TemplateTraits:
    return probe(ChatTemplate(source, {"eos_token": "</s>", "bos_token": "<s>"}))


def test_a_template_of_the_common_kind_is_described() -> None:
    traits = traits_of(CHATML)

    assert traits == TemplateTraits(
        renders=True,
        answers="growth",
        ends_with="<|im_end|>\n",
        several_turns=True,
        system=True,
        default_system="<|im_start|>system\nYou are helpful.<|im_end|>",
        generation_prompt=True,
        tool_results=True,
    )


def test_generation_tags_and_the_eos_after_an_answer_are_seen() -> None:
    assert (traits_of(TAGGED).answers, traits_of(TAGGED).ends_with_eos) == ("tags", True)
    assert (traits_of(PLAIN).answers, traits_of(PLAIN).ends_with_eos) == ("growth", True)
    assert not traits_of(PLAIN).generation_prompt


def test_an_answer_with_nothing_after_it_ends_with_nothing() -> None:
    traits = traits_of(TAGGED.replace("{{ eos_token }}", ""))

    assert (traits.ends_with, traits.ends_with_eos) == ("", False)


@pytest.mark.parametrize("source", [PLAIN, TAGGED, INST], ids=["plain", "tagged", "inst"])
def test_the_marks_that_open_each_turn_are_no_system_text(source: str) -> None:
    assert traits_of(source).default_system == ""


def test_a_refused_system_role_is_a_trait_with_the_templates_own_words() -> None:
    traits = traits_of(NO_SYSTEM)

    assert traits.renders
    assert not traits.system
    assert "System role not supported" in traits.refusals["system"]


def test_a_system_text_that_is_dropped_silently_is_not_taken() -> None:
    traits = traits_of("{% if messages[0]['role'] == 'system' %}{% set messages = messages[1:] %}{% endif %}" + PLAIN)

    assert (traits.system, traits.refusals) == (False, {})


def test_a_template_of_one_turn_says_so() -> None:
    traits = traits_of(ONE_TURN)

    assert (traits.renders, traits.several_turns) == (True, False)
    assert "One question only" in traits.refusals["several turns"]


def test_tools_their_calls_and_their_results_are_seen_where_they_are_printed() -> None:
    with_tools, without = traits_of(TOOLS), traits_of(PLAIN)

    assert (with_tools.tools, with_tools.tool_calls, with_tools.tool_results) == (True, True, True)
    assert (without.tools, without.tool_calls) == (False, False)


@pytest.mark.parametrize(
    "source",
    ["{{ raise_exception('no') }}", "{{ messages.nothing.at.all }}", "{{ ''.__class__ }}", "{{ 1 / 0 }}"],
    ids=["refusal", "undefined", "escape", "division"],
)
def test_a_template_that_breaks_on_everything_renders_nothing(source: str) -> None:
    traits = traits_of(source)

    assert (traits.renders, traits.answers) == (False, "hidden")
    assert traits.refusals["chat"]


def test_a_template_that_does_not_print_the_answer_hides_it() -> None:
    assert traits_of("{{ messages[0]['content'] }}").answers == "hidden"
