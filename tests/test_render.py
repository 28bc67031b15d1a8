from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from oneseek.chat.render import (
    Rendered,
    render_completion,
    render_messages,
    render_preference,
    render_reply,
    render_row,
    render_text,
)
from oneseek.chat.template import ChatTemplate
from oneseek.chat.turns import Span
from oneseek.errors import DatasetError, ModelError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

CHATML_TAGGED = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- message['content'] + '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message['content'] + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

HEADERS = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ (message.content | trim) ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

INST = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'].strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'].strip() + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported, not ' + message['role'] + '!') }}
    {%- endif %}
{%- endfor %}
"""

FORGETFUL = """
{%- for message in messages %}
    {%- if message.role == 'assistant' and loop.last %}
        {{- '<think></think>' + message.content + '</s>' }}
    {%- else %}
        {{- '[' + message.role + ']' + message.content + '</s>' }}
    {%- endif %}
{%- endfor %}
"""

BLOCKS = """
{% for message in messages %}
    {% if message.role == 'assistant' %}
    {% generation %}
{{ message.content }}
    {% endgeneration %}
    {% else %}
{{ message.role }}: {{ message.content }}
    {% endif %}
{% endfor %}
"""

# Thinks only in the turn that comes last; the turns before are rendered without.
THINKS_LAST = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {{- '<think>\\n\\n</think>\\n\\n' if loop.last else '' }}
        {{- message.content.split('</think>')[-1].lstrip('\\n') }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</tool_call>' }}
        {%- endfor %}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

ENDS_THE_TEXT = """
{%- for message in messages %}
    {{- '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}
{%- endfor %}
{{- '<|assistant|>\\n' if add_generation_prompt else eos_token }}
"""

PROMPTS_A_THOUGHT = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<User>' + message.content }}
    {%- else %}
        {{- '<Assistant>' + message.content.split('</think>')[-1] + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<Assistant><think>\\n' }}
{%- endif %}
"""

ALWAYS_PROMPTS = HEADERS.replace("{%- if add_generation_prompt %}", "{%- if true %}")

SYSTEM_IN_THE_LAST_QUESTION = """
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (messages[0].content + ' ' if loop.last and messages[0].role == 'system' else '') }}
        {{- message.content + '[/INST]' }}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

NO_PROMPT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"

STYLES = {
    "chatml": CHATML,
    "tagged": CHATML_TAGGED,
    "headers": HEADERS,
    "inst": INST,
    "blocks": BLOCKS,
    "no prompt": NO_PROMPT,
    "thinks last": THINKS_LAST,
    "ends the text": ENDS_THE_TEXT,
    "prompts a thought": PROMPTS_A_THOUGHT,
    "always prompts": ALWAYS_PROMPTS,
}


def conversation(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


def texts(rendered: Rendered, spans: tuple[Span, ...]) -> list[str]:
    return [rendered.text[span.start : span.end] for span in spans]


SWEDISH = conversation("När öppnar badet?", "Klockan nio 🏊.", "Tack!", " Varsågod, Åsa! \n")


@pytest.mark.parametrize(
    ("style", "supervised"),
    [
        ("chatml", ["Klockan nio 🏊.<|im_end|>\n", " Varsågod, Åsa! \n<|im_end|>\n"]),
        ("tagged", ["Klockan nio 🏊.<|im_end|>", " Varsågod, Åsa! \n<|im_end|>"]),
        ("headers", ["Klockan nio 🏊.<|eot_id|>", "Varsågod, Åsa!<|eot_id|>"]),
        ("inst", [" Klockan nio 🏊.</s>", " Varsågod, Åsa!</s>"]),
        ("no prompt", ["<assistant>Klockan nio 🏊.</assistant>", "<assistant> Varsågod, Åsa! \n</assistant>"]),
        (
            "thinks last",
            ["Klockan nio 🏊.<|im_end|>\n", "<think>\n\n</think>\n\n Varsågod, Åsa! \n<|im_end|>\n"],
        ),
        ("ends the text", ["Klockan nio 🏊.<|end|>\n", " Varsågod, Åsa! \n<|end|>\n</s>"]),
        ("prompts a thought", ["Klockan nio 🏊.</s>", " Varsågod, Åsa! \n</s>"]),
        ("always prompts", ["Klockan nio 🏊.<|eot_id|>", "Varsågod, Åsa!<|eot_id|>"]),
    ],
)
def test_the_loss_counts_the_assistant_turns_with_their_end_markers(style: str, supervised: list[str]) -> None:
    rendered = render_messages(SWEDISH, ChatTemplate(STYLES[style], TOKENS))

    assert texts(rendered, rendered.supervised) == supervised
    assert texts(rendered, rendered.answers) == ["Klockan nio 🏊.", "Varsågod, Åsa!"]
    assert rendered.answer_bytes == len("Klockan nio 🏊.Varsågod, Åsa!".encode()) == 33


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_rendering_is_what_transformers_renders(style: str, prompt: bool) -> None:
    template = ChatTemplate(STYLES[style], TOKENS)

    ours = template.render(SWEDISH, add_generation_prompt=prompt)

    theirs, _ = render_jinja_template(
        conversations=[SWEDISH], chat_template=STYLES[style], add_generation_prompt=prompt, **TOKENS
    )
    assert [ours] == theirs


def test_tagged_spans_are_those_that_transformers_finds() -> None:
    rendered = render_messages(SWEDISH, ChatTemplate(CHATML_TAGGED, TOKENS))

    theirs, indices = render_jinja_template(
        conversations=[SWEDISH], chat_template=CHATML_TAGGED, return_assistant_tokens_mask=True, **TOKENS
    )
    assert [rendered.text] == theirs
    assert [[(span.start, span.end) for span in rendered.supervised]] == indices


def test_what_is_set_inside_a_tag_ends_with_it_as_in_transformers() -> None:
    source = "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}"

    ours = ChatTemplate(source, {}).render(SWEDISH)

    theirs, _ = render_jinja_template(conversations=[SWEDISH], chat_template=source)
    assert [ours] == theirs == ["21"]


def test_templates_see_the_values_that_transformers_gives_them() -> None:
    source = (
        "{% if tools is none and documents is none and not unknown %}{{ bos_token }}{% endif %}"
        "{{ {'b': 'å<&', 'a': [1, none]} | tojson }}{{ {'b': 1, 'a': 2} | tojson(indent=2, sort_keys=true) }}"
        "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}\n"
    )

    ours = ChatTemplate(source, TOKENS).render(SWEDISH)

    theirs, _ = render_jinja_template(conversations=[SWEDISH], chat_template=source, **TOKENS)
    assert [ours] == theirs
    assert ours.startswith('<s>{"b": "å<&", "a": [1, null]}')


def test_the_date_that_a_template_writes_is_always_the_same() -> None:
    source = "Today is {{ strftime_now('%d %b %Y, %H:%M') }}."

    assert ChatTemplate(source, {}).render([]) == "Today is 26 Jul 2024, 00:00."


@pytest.mark.parametrize("style", ["chatml", "tagged"])
def test_every_assistant_turn_between_tool_results_is_counted(style: str) -> None:
    messages = [
        {"role": "system", "content": "Du är kommunens hjälp."},
        {"role": "user", "content": "Är badet öppet?"},
        {"role": "assistant", "content": "Jag ser efter."},
        {"role": "tool", "content": "9-17"},
        {"role": "tool", "content": "stängt idag"},
        {"role": "assistant", "content": "Nej, inte idag."},
    ]

    rendered = render_messages(messages, ChatTemplate(STYLES[style], TOKENS))

    assert texts(rendered, rendered.answers) == ["Jag ser efter.", "Nej, inte idag."]
    assert all("9-17" not in text for text in texts(rendered, rendered.supervised))


def test_consecutive_assistant_turns_are_counted_one_by_one() -> None:
    messages = [*conversation("hej", "ett"), {"role": "assistant", "content": "två"}]

    rendered = render_messages(messages, ChatTemplate(CHATML, TOKENS))

    assert texts(rendered, rendered.supervised) == ["ett<|im_end|>\n", "två<|im_end|>\n"]


def test_a_tool_call_without_words_is_learned_but_is_no_answer() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}</a>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hej"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "öppet"}]},
        {"role": "tool", "content": "ja"},
        {"role": "assistant", "content": "Ja."},
    ]

    rendered = render_messages(messages, ChatTemplate(source, {}))

    assert texts(rendered, rendered.supervised) == ['[{"name": "öppet"}]</a>', "Ja.</a>"]
    assert texts(rendered, rendered.answers) == ["Ja."]
    assert rendered.answer_bytes == 3


def test_a_turn_in_which_nothing_is_tagged_is_not_learned() -> None:
    source = CHATML_TAGGED.replace(" + '<|im_end|>' }}\n        {%- endg", " }}\n{%- endg")

    rendered = render_messages(conversation("hej", "", "är det öppet?", "Ja."), ChatTemplate(source, {}))

    assert texts(rendered, rendered.supervised) == texts(rendered, rendered.answers) == ["Ja."]


# Prints the tools with the system message, and the calls of them.
TOOLED_TAGGED = """
{%- if tools %}
    {{- '<|im_start|>system\\n' + (messages[0].content + '\\n' if messages[0].role == 'system' else '') }}
    {%- for tool in tools %}
        {{- tool | tojson + '\\n' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages if not (tools and message.role == 'system') %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}
            {{- message.content }}
            {%- for call in message.tool_calls or [] %}
                {{- '<tool_call>' + call | tojson + '</tool_call>' }}
            {%- endfor %}
            {{- '<|im_end|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n' if add_generation_prompt else '' }}
"""
TOOLED = TOOLED_TAGGED.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "När något öppnar.", "parameters": {}}}
    for name in ("opening_hours", "phone_number")
]

CALLS: list[dict[str, Any]] = [
    {"role": "user", "content": "hej"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "opening_hours", "arguments": {"a": 1}}}],
    },
    {"role": "tool", "content": "9-17"},
    {"role": "assistant", "content": "9-17"},
]


@pytest.mark.parametrize("source", [TOOLED, TOOLED_TAGGED], ids=["grown", "tagged"])
@pytest.mark.parametrize("system", [None, "Var artig."])
def test_the_tools_of_a_row_are_printed_and_not_learned(source: str, system: str | None) -> None:
    messages = [*conversation("hej", system=system), *CALLS[1:]]
    template = ChatTemplate(source, TOKENS)

    rendered = render_row({"messages": messages, "tools": TOOLS}, "messages", template, "</s>")

    theirs, _ = render_jinja_template(conversations=[messages], tools=TOOLS, chat_template=source, **TOKENS)
    assert [rendered.text] == theirs
    assert "phone_number" in rendered.text
    said = [text.removesuffix("\n") for text in texts(rendered, rendered.supervised)]
    assert said == [f"<tool_call>{json.dumps(CALLS[1]['tool_calls'][0])}</tool_call><|im_end|>", "9-17<|im_end|>"]
    assert texts(rendered, rendered.answers) == ["9-17"]


def test_tools_do_not_hide_the_end_of_a_turn_from_a_prompt_that_is_always_there() -> None:
    template = ChatTemplate(TOOLED.replace(" if add_generation_prompt else ''", ""), TOKENS)

    rendered = render_messages(conversation("hej", "goddag"), template, TOOLS)

    assert texts(rendered, rendered.supervised) == ["goddag<|im_end|>\n"]


def test_the_tools_of_a_preference_are_printed_before_both_answers() -> None:
    row = {"prompt": CALLS[:1], "chosen": CALLS[1:], "rejected": answer("Vet inte."), "tools": TOOLS}

    pair = render_preference(row, "preference_chat", ChatTemplate(TOOLED, TOKENS), "</s>")

    assert [rendered.text.count("phone_number") for rendered in pair] == [1, 1]
    assert [texts(rendered, rendered.answers) for rendered in pair] == [["9-17"], ["Vet inte."]]


@pytest.mark.parametrize("tools", [None, []])
def test_a_row_without_tools_is_rendered_as_ever(tools: list[dict[str, Any]] | None) -> None:
    template = ChatTemplate("{{ tools is none }}" + TOOLED, TOKENS)

    assert template.render(CALLS, tools=tools) == template.render(CALLS)
    assert template.render(CALLS).startswith("True")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (THINKS_LAST, "opening_hours"),
        (TOOLED.replace("tool | tojson", "'tools'"), "opening_hours"),
        (TOOLED.replace("in tools", "in tools[:1]"), "phone_number"),
    ],
    ids=["never reads them", "names none", "names the first"],
)
def test_tools_that_the_template_does_not_print_are_refused(source: str, name: str) -> None:
    with pytest.raises(DatasetError) as refused:
        render_messages(CALLS, ChatTemplate(source, TOKENS), TOOLS)

    assert refused.value.problem == f"The chat template does not print the row's tool '{name}'."
    assert "remove `tools`" in refused.value.fix


def test_a_tool_without_a_name_is_refused() -> None:
    with pytest.raises(DatasetError, match="Tool 2 of the row has no function name"):
        render_messages(CALLS, ChatTemplate(TOOLED, TOKENS), [TOOLS[0], {"type": "function", "function": {}}])


@pytest.mark.parametrize("style", ["chatml", "tagged", "ends the text"])
def test_a_tool_call_that_the_template_does_not_print_is_refused(style: str) -> None:
    with pytest.raises(DatasetError) as refused:
        render_messages(CALLS, ChatTemplate(STYLES[style], TOKENS))

    assert "'opening_hours'" in refused.value.problem
    assert "message 2" in refused.value.problem


def test_a_tool_call_without_a_function_name_is_refused() -> None:
    nameless = [CALLS[0], {**CALLS[1], "tool_calls": [{"function": {"arguments": {}}}]}, *CALLS[2:]]

    with pytest.raises(DatasetError, match="no function name"):
        render_messages(nameless, ChatTemplate(CHATML, TOKENS))


def test_a_tool_call_without_words_is_found_where_only_the_last_turn_thinks() -> None:
    rendered = render_messages(CALLS, ChatTemplate(THINKS_LAST, TOKENS))

    assert texts(rendered, rendered.supervised) == [
        '<tool_call>opening_hours {"a": 1}</tool_call><|im_end|>\n',
        "<think>\n\n</think>\n\n9-17<|im_end|>\n",
    ]


def test_a_thought_that_the_template_takes_out_of_the_history_is_not_learned_there() -> None:
    messages = conversation("hej", "<think>\nhm\n</think>\n\nGoddag", "mer", "Nej")

    rendered = render_messages(messages, ChatTemplate(THINKS_LAST, TOKENS))

    assert texts(rendered, rendered.supervised)[0] == "Goddag<|im_end|>\n"
    assert rendered.answers == ()


def test_answers_that_also_stand_in_the_markup_are_masked_where_they_are() -> None:
    messages = conversation("ord?", "think", "mer?", "im_end")

    rendered = render_messages(messages, ChatTemplate(THINKS_LAST, TOKENS))

    assert texts(rendered, rendered.supervised) == [
        "think<|im_end|>\n",
        "<think>\n\n</think>\n\nim_end<|im_end|>\n",
    ]


def test_what_follows_an_answer_and_depends_on_it_is_refused_where_only_its_place_would_tell() -> None:
    counting = THINKS_LAST.replace("{{- '<|im_end|>\\n' }}", "{{- message.content | length }}<|im_end|>")

    with pytest.raises(DatasetError, match="message 2 otherwise once others follow"):
        render_messages(SWEDISH, ChatTemplate(counting, TOKENS))


def test_text_with_the_mark_that_answers_are_found_by_is_refused_where_it_is_needed() -> None:
    messages = conversation("hej", "god\ufdd2dag", "hej", "hej")

    with pytest.raises(DatasetError, match="U\\+FDD2"):
        render_messages(messages, ChatTemplate(THINKS_LAST, TOKENS))
    assert render_messages(messages, ChatTemplate(CHATML, TOKENS)).answers


def test_a_prompt_that_is_always_there_is_not_learned_after_a_single_answer() -> None:
    rendered = render_messages(conversation("hej", "goddag"), ChatTemplate(ALWAYS_PROMPTS, TOKENS))

    assert texts(rendered, rendered.supervised) == ["goddag<|eot_id|>"]


def test_a_prompt_that_is_always_there_and_cannot_be_told_from_the_end_of_a_turn_is_refused() -> None:
    source = "A town's help.{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"

    with pytest.raises(DatasetError, match="generation prompt"):
        render_messages(conversation("hej", "goddag"), ChatTemplate("{{ messages | length }}" + source, TOKENS))


def test_a_trailing_question_is_not_learned() -> None:
    rendered = render_messages(conversation("ett", "två", "tre"), ChatTemplate(CHATML, TOKENS))

    assert texts(rendered, rendered.supervised) == ["två<|im_end|>\n"]
    assert rendered.text.endswith("tre<|im_end|>\n")


def test_an_answer_that_the_template_rewrites_has_no_bits_per_byte() -> None:
    source = CHATML.replace("message['content']", "message['content'] | upper")

    rendered = render_messages(conversation("hej", "goddag", "hej", "42"), ChatTemplate(source, TOKENS))

    assert texts(rendered, rendered.supervised) == ["GODDAG<|im_end|>\n", "42<|im_end|>\n"]
    assert rendered.answers == ()
    assert rendered.answer_bytes == 0


def test_an_answer_that_also_stands_in_the_markup_of_its_turn_is_not_guessed() -> None:
    rendered = render_messages(conversation("roll?", "assistant"), ChatTemplate(NO_PROMPT, TOKENS))

    assert rendered.answers == ()
    assert rendered.answer_bytes == 0


def test_an_answer_like_the_end_marker_is_found_at_the_beginning_of_its_turn() -> None:
    rendered = render_messages(conversation("ord?", "im_end"), ChatTemplate(CHATML, TOKENS))

    assert rendered.answers == (Span(rendered.supervised[0].start, rendered.supervised[0].start + 6),)


def test_tags_that_split_a_turn_leave_no_bits_per_byte() -> None:
    source = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n"
        "{% generation %}</a>{% endgeneration %}{% endfor %}"
    )

    rendered = render_messages([{"role": "assistant", "content": "hej"}], ChatTemplate(source, {}))

    assert texts(rendered, rendered.supervised) == ["hej", "</a>"]
    assert rendered.answers == ()


def test_tags_work_inside_macros_and_captured_blocks() -> None:
    source = (
        "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}{% set said %}{{ say(m) }}{% endset %}<{{ said }}>{% endfor %}"
    )

    rendered = render_messages([{"role": "assistant", "content": "hej"}], ChatTemplate(source, {}))

    assert rendered.text == "<hej>"
    assert texts(rendered, rendered.supervised) == ["hej"]


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% set said %}{% generation %} {{ m.content }}{% endgeneration %}{% endset %}"
        "{{ said | trim }}{% endfor %}",
        "{% for m in messages %}{% generation %}a{% generation %}{{ m.content }}{% endgeneration %}{% endgeneration %}"
        "{% endfor %}",
        "{% for m in messages %}{% if m.role == 'nobody' %}{% generation %}a{% endgeneration %}{% endif %}{% endfor %}",
    ],
)
def test_tags_that_do_not_show_the_answers_are_refused(source: str) -> None:
    with pytest.raises(DatasetError, match="does not let the answers be found"):
        render_messages(conversation("hej", "goddag"), ChatTemplate(source, {}))


def test_text_with_the_reserved_marks_is_refused_where_tags_are_used() -> None:
    messages = conversation("hej", "god\ufdd0dag")

    with pytest.raises(DatasetError, match="U\\+FDD0"):
        render_messages(messages, ChatTemplate(CHATML_TAGGED, TOKENS))
    assert render_messages(messages, ChatTemplate(CHATML, TOKENS)).answer_bytes == 9


def test_a_template_that_moves_the_system_message_is_refused_with_the_fix() -> None:
    template = ChatTemplate(SYSTEM_IN_THE_LAST_QUESTION, TOKENS)

    with pytest.raises(DatasetError) as refused:
        render_messages(conversation("hej", "goddag", system="Var artig."), template)

    assert "does not let the answers be found" in refused.value.problem
    assert "message 3" in refused.value.problem
    assert "{% generation %}" in refused.value.fix


def test_the_same_template_is_good_for_a_conversation_whose_history_it_does_not_rewrite() -> None:
    rendered = render_messages(SWEDISH, ChatTemplate(SYSTEM_IN_THE_LAST_QUESTION, TOKENS))

    assert texts(rendered, rendered.supervised) == [" Klockan nio 🏊.</s>", "  Varsågod, Åsa! \n</s>"]


def test_a_turn_that_is_marked_otherwise_once_others_follow_is_learned_as_it_stands() -> None:
    rendered = render_messages(SWEDISH, ChatTemplate(FORGETFUL, TOKENS))

    assert texts(rendered, rendered.supervised) == [
        "[assistant]Klockan nio 🏊.</s>",
        "<think></think> Varsågod, Åsa! \n</s>",
    ]


def test_a_single_turn_is_learned_with_the_thought_that_the_template_gives_it() -> None:
    rendered = render_messages(SWEDISH[:2], ChatTemplate(FORGETFUL, TOKENS))

    assert texts(rendered, rendered.supervised) == ["<think></think>Klockan nio 🏊.</s>"]
    assert texts(rendered, rendered.answers) == ["Klockan nio 🏊."]


@pytest.mark.parametrize(
    "source",
    [
        CHATML + "{{ eos_token }}",
        "{% if messages | length < 3 or not add_generation_prompt %}" + NO_PROMPT + "{% endif %}",
    ],
    ids=["more at every end", "a prompt that forgets the turns before"],
)
def test_a_template_whose_renderings_do_not_grow_turn_by_turn_is_refused(source: str) -> None:
    with pytest.raises(DatasetError, match="does not let the answers be found"):
        render_messages(SWEDISH, ChatTemplate(source, TOKENS))


def test_a_template_that_leaves_the_assistant_out_is_refused() -> None:
    source = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"

    with pytest.raises(DatasetError, match="no assistant turn"):
        render_messages(SWEDISH, ChatTemplate(source, {}))


def test_what_a_template_refuses_is_said_in_its_own_words() -> None:
    messages = conversation("hej", "goddag", system="Var artig.")

    with pytest.raises(DatasetError) as refused:
        render_messages(messages, ChatTemplate(INST, TOKENS))

    assert "Only user and assistant roles are supported, not system!" in refused.value.problem
    assert refused.value.fix


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].tool_calls[0].name }}",
        "{{ strftime_now(5) }}",
        "{{ 1 // 0 }}",
        "{{ messages[0].content.index('nowhere') }}",
        "{{ ''.encode('no such codec') }}",
        "{{ 'a' | dictsort }}",
        "{{ range(10 ** 9) | list }}",
        "{{ messages | sort(attribute='content.x') | first + [] }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_cannot_render_a_conversation_gives_no_traceback(source: str) -> None:
    with pytest.raises(DatasetError, match="does not render this conversation"):
        render_messages(SWEDISH, ChatTemplate(source, {}))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ raise_exception.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ ''['__class__'].__mro__ }}",
        "{{ ('' | attr('__class__')).__mro__ }}",
    ],
)
def test_a_template_that_reaches_out_of_the_sandbox_is_refused(source: str) -> None:
    with pytest.raises(ModelError, match="forbidden"):
        ChatTemplate(source, {}).render(SWEDISH)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("hej\n{% for m in messages %}", "line 2"),
        ("{{ a | unknown_filter }}", "unknown_filter"),
        ("{% generation %}", "line 1"),
        ("{{", "line 1"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "cannot be compiled"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "cannot be compiled"),
        ("{{ " + "9" * 5000 + " }}", "cannot be compiled"),
    ],
)
def test_a_template_with_a_fault_is_refused_naming_it(source: str, words: str) -> None:
    with pytest.raises(ModelError) as refused:
        ChatTemplate(source, {})

    assert words in refused.value.problem
    assert "chat template" in refused.value.fix


def test_a_template_without_generation_prompt_teaches_the_turn_header_too() -> None:
    rendered = render_messages(conversation("hej", "goddag"), ChatTemplate(NO_PROMPT, TOKENS))

    assert texts(rendered, rendered.supervised) == ["<assistant>goddag</assistant>"]


def test_a_completion_is_learned_and_its_prompt_is_not() -> None:
    rendered = render_completion("Fråga: hur?\n", " Så här 🙂\n", "</s>")

    assert rendered.text == "Fråga: hur?\n Så här 🙂\n</s>"
    assert texts(rendered, rendered.supervised) == [" Så här 🙂\n</s>"]
    assert texts(rendered, rendered.answers) == ["Så här 🙂"]
    assert rendered.answer_bytes == len("Så här 🙂".encode())


def test_a_whole_text_is_learned() -> None:
    rendered = render_text("\nHej då\n", "</s>")

    assert rendered == Rendered("\nHej då\n</s>", (Span(0, 12),), (Span(1, 7),), 7)


def test_a_blank_completion_is_no_answer() -> None:
    assert render_completion("a", " ", "") == Rendered("a ", (Span(1, 2),), (), 0)


def test_a_row_is_rendered_by_its_format() -> None:
    template = ChatTemplate(CHATML, TOKENS)

    assert render_row({"messages": SWEDISH}, "messages", template, "</s>") == render_messages(SWEDISH, template)
    assert render_row({"text": "a"}, "text", None, "</s>") == render_text("a", "</s>")
    assert render_row({"prompt": "a", "completion": "b"}, "prompt_completion", None, "</s>") == render_completion(
        "a", "b", "</s>"
    )


def test_messages_without_a_template_and_unknown_formats_are_refused() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        render_row({"messages": SWEDISH}, "messages", None, "</s>")
    with pytest.raises(DatasetError, match="'parquet'"):
        render_row({}, "parquet", None, "</s>")


def answer(content: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": content}]


@pytest.mark.parametrize(
    ("style", "header", "end"),
    [
        ("chatml", "<|im_start|>assistant\n", "<|im_end|>\n"),
        ("tagged", "<|im_start|>assistant\n", "<|im_end|>"),
        ("headers", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
        ("inst", " [/INST]", "</s>"),
        ("thinks last", "<|im_start|>assistant\n", "<|im_end|>\n"),
        ("ends the text", "<|assistant|>\n", "<|end|>\n</s>"),
        ("prompts a thought", "<Assistant>", "</s>"),
        ("always prompts", "<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    ],
)
def test_of_a_preference_each_answer_is_learned_after_the_prompt_and_none_in_it(
    style: str, header: str, end: str
) -> None:
    row = {"prompt": SWEDISH[:3], "chosen": answer("Varsågod!"), "rejected": answer("Jaha 🙄.")}

    chosen, rejected = render_preference(row, "preference_chat", ChatTemplate(STYLES[style], TOKENS), "</s>")

    for rendered, said in ((chosen, "Varsågod!"), (rejected, "Jaha 🙄.")):
        (turn,) = texts(rendered, rendered.supervised)
        assert turn.removeprefix("<think>\n\n</think>\n\n").strip(" ") == said + end
        assert texts(rendered, rendered.answers) == [said]
        assert rendered.answer_bytes == len(said.encode())
        assert rendered.text[: rendered.supervised[0].start].endswith(header)
        assert "Klockan nio" in rendered.text


def test_a_whole_text_of_chosen_and_rejected_is_what_the_conversation_renders_to() -> None:
    template = ChatTemplate(CHATML, TOKENS)
    row = {"prompt": SWEDISH[:1], "chosen": SWEDISH[1:], "rejected": answer("Nej.")}

    chosen, rejected = render_preference(row, "preference_chat", template, "</s>")

    assert chosen == render_messages(SWEDISH, template)
    assert rejected == render_messages([*SWEDISH[:1], *answer("Nej.")], template)


def test_answers_between_tool_results_after_the_prompt_are_learned() -> None:
    chosen = [*CALLS[1:]]
    row = {"prompt": [*SWEDISH, CALLS[0]], "chosen": chosen, "rejected": answer("Vet inte.")}

    rendered, _ = render_preference(row, "preference_chat", ChatTemplate(THINKS_LAST, TOKENS), "</s>")

    assert texts(rendered, rendered.supervised) == [
        '<tool_call>opening_hours {"a": 1}</tool_call><|im_end|>\n',
        "<think>\n\n</think>\n\n9-17<|im_end|>\n",
    ]
    assert texts(rendered, rendered.answers) == ["9-17"]


def test_an_answer_in_the_prompt_that_the_template_rewrites_takes_no_bits_per_byte_from_the_one_after_it() -> None:
    prompt = conversation("hej", "<think>\nhm\n</think>\n\nGoddag", "mer")

    rendered = render_reply(prompt, answer("Nej"), ChatTemplate(THINKS_LAST, TOKENS))

    assert texts(rendered, rendered.answers) == ["Nej"]


TWO_TAGS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}\n"
    "{% generation %}</a>{% endgeneration %}{% else %}<u>{{ m.content }}{% endif %}{% endfor %}"
)


def test_tags_that_split_a_turn_are_learned_where_the_prompt_has_no_answer() -> None:
    rendered = render_reply(SWEDISH[:1], answer("Ja."), ChatTemplate(TWO_TAGS, TOKENS))

    assert texts(rendered, rendered.supervised) == ["Ja.", "</a>"]


def test_tags_that_split_a_turn_are_refused_where_the_prompt_has_an_answer() -> None:
    with pytest.raises(DatasetError) as refused:
        render_reply(SWEDISH[:3], answer("Ja."), ChatTemplate(TWO_TAGS, TOKENS))

    assert "do not tell those in the prompt from those after it" in refused.value.problem
    assert refused.value.fix


def test_a_tool_call_in_a_prompt_that_the_template_does_not_print_is_refused() -> None:
    with pytest.raises(DatasetError, match="'opening_hours' of message 2"):
        render_reply(CALLS[:3], answer("9-17"), ChatTemplate(CHATML, TOKENS))


def test_preferences_of_text_end_in_the_eos_and_are_learned_after_the_prompt() -> None:
    row = {"prompt": "Fråga: hur?\n", "chosen": " Så 🙂\n", "rejected": "Nej"}

    chosen, rejected = render_preference(row, "preference", None, "</s>")

    assert chosen == render_completion("Fråga: hur?\n", " Så 🙂\n", "</s>")
    assert rejected == render_completion("Fråga: hur?\n", "Nej", "</s>")


def test_preferences_without_a_template_and_other_formats_are_refused() -> None:
    row = {"prompt": SWEDISH[:1], "chosen": SWEDISH[1:2], "rejected": answer("Nej.")}

    with pytest.raises(ModelError, match="no chat template"):
        render_preference(row, "preference_chat", None, "</s>")
    with pytest.raises(DatasetError, match="'messages'"):
        render_preference(row, "messages", ChatTemplate(CHATML, TOKENS), "</s>")
    with pytest.raises(DatasetError, match="'preference'"):
        render_row({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference", None, "</s>")


CONTENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1\ufdd2"), max_size=12)
ANSWER = CONTENT.filter(str.strip) | st.sampled_from(["a", "assistant", "im_end", "</s>", " å\n", "[/INST]", "< 🙂"])


def check(rendered: Rendered, contents: list[str]) -> None:
    previous = 0
    for span in rendered.supervised:
        assert previous <= span.start < span.end <= len(rendered.text)
        previous = span.end
    assert texts(rendered, rendered.answers) in ([], [content.strip() for content in contents])
    for answer in rendered.answers:
        assert any(turn.start <= answer.start and answer.end <= turn.end for turn in rendered.supervised)
    assert rendered.answer_bytes == len("".join(texts(rendered, rendered.answers)).encode())


@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None)
@given(pairs=st.lists(st.tuples(CONTENT, ANSWER), min_size=1, max_size=3))
def test_answers_are_the_stripped_contents_inside_ordered_disjoint_turns(
    style: str, pairs: list[tuple[str, str]]
) -> None:
    messages = conversation(*(content for pair in pairs for content in pair))

    rendered = render_messages(messages, ChatTemplate(STYLES[style], TOKENS))

    check(rendered, [answer for _, answer in pairs])
    assert len(rendered.supervised) == len(pairs)
    assert rendered.answers or style in ("no prompt", "thinks last", "prompts a thought")


@settings(deadline=None)
@given(prompt=CONTENT, completion=ANSWER, eos=st.sampled_from(["", "</s>"]))
def test_completions_keep_the_same_promises(prompt: str, completion: str, eos: str) -> None:
    rendered = render_completion(prompt, completion, eos)

    check(rendered, [completion])
    assert rendered.answers
    assert rendered.text[: rendered.supervised[0].start] == prompt


@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None, max_examples=50)
@given(
    history=st.lists(st.tuples(CONTENT, ANSWER), max_size=2),
    question=CONTENT,
    chosen=st.lists(ANSWER, min_size=1, max_size=2),
    rejected=ANSWER,
)
def test_chosen_and_rejected_have_one_text_up_to_what_is_learned(
    style: str, history: list[tuple[str, str]], question: str, chosen: list[str], rejected: str
) -> None:
    prompt = conversation(*(content for pair in history for content in pair), question)
    going_on = conversation("", *(content for said in chosen for content in (said, "mer")))[1:-1]
    row = {"prompt": prompt, "chosen": going_on, "rejected": answer(rejected)}

    pair = render_preference(row, "preference_chat", ChatTemplate(STYLES[style], TOKENS), "</s>")

    first, second = (rendered.text[: rendered.supervised[0].start] for rendered in pair)
    assert first == second
    assert [len(rendered.supervised) for rendered in pair] == [len(chosen), 1]
    check(pair[0], chosen)
    check(pair[1], [rejected])
