from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from oneseek.chat.render import ChatTemplate, Rendered, Span, render_completion, render_row, render_text
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

NO_PROMPT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"

STYLES = {
    "chatml": CHATML,
    "tagged": CHATML_TAGGED,
    "headers": HEADERS,
    "inst": INST,
    "blocks": BLOCKS,
    "no prompt": NO_PROMPT,
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
    ],
)
def test_the_loss_counts_the_assistant_turns_with_their_end_markers(style: str, supervised: list[str]) -> None:
    rendered = ChatTemplate(STYLES[style], TOKENS).rendered(SWEDISH)

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
    rendered = ChatTemplate(CHATML_TAGGED, TOKENS).rendered(SWEDISH)

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


def test_a_rendering_does_not_depend_on_the_clock() -> None:
    source = "{{ strftime_now('%Y') if strftime_now is defined else 'no clock' }}"

    assert ChatTemplate(source, {}).render([]) == "no clock"


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

    rendered = ChatTemplate(STYLES[style], TOKENS).rendered(messages)

    assert texts(rendered, rendered.answers) == ["Jag ser efter.", "Nej, inte idag."]
    assert all("9-17" not in text for text in texts(rendered, rendered.supervised))


def test_consecutive_assistant_turns_are_counted_one_by_one() -> None:
    messages = [*conversation("hej", "ett"), {"role": "assistant", "content": "två"}]

    rendered = ChatTemplate(CHATML, TOKENS).rendered(messages)

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

    rendered = ChatTemplate(source, {}).rendered(messages)

    assert texts(rendered, rendered.supervised) == ['[{"name": "öppet"}]</a>', "Ja.</a>"]
    assert texts(rendered, rendered.answers) == ["Ja."]
    assert rendered.answer_bytes == 3


def test_a_turn_in_which_nothing_is_tagged_is_not_learned() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hej"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "öppet"}]},
        {"role": "tool", "content": "ja"},
        {"role": "assistant", "content": "Ja."},
    ]

    rendered = ChatTemplate(
        CHATML_TAGGED.replace(" + '<|im_end|>' }}\n        {%- endg", " }}\n{%- endg"), {}
    ).rendered(messages)

    assert texts(rendered, rendered.supervised) == texts(rendered, rendered.answers) == ["Ja."]


def test_a_trailing_question_is_not_learned() -> None:
    rendered = ChatTemplate(CHATML, TOKENS).rendered(conversation("ett", "två", "tre"))

    assert texts(rendered, rendered.supervised) == ["två<|im_end|>\n"]
    assert rendered.text.endswith("tre<|im_end|>\n")


def test_an_answer_that_the_template_rewrites_has_no_bits_per_byte() -> None:
    source = CHATML.replace("message['content']", "message['content'] | upper")

    rendered = ChatTemplate(source, TOKENS).rendered(conversation("hej", "goddag", "hej", "42"))

    assert texts(rendered, rendered.supervised) == ["GODDAG<|im_end|>\n", "42<|im_end|>\n"]
    assert rendered.answers == ()
    assert rendered.answer_bytes == 0


def test_an_answer_that_also_stands_in_the_markup_of_its_turn_is_not_guessed() -> None:
    rendered = ChatTemplate(NO_PROMPT, TOKENS).rendered(conversation("roll?", "assistant"))

    assert rendered.answers == ()
    assert rendered.answer_bytes == 0


def test_an_answer_like_the_end_marker_is_found_at_the_beginning_of_its_turn() -> None:
    rendered = ChatTemplate(CHATML, TOKENS).rendered(conversation("ord?", "im_end"))

    assert rendered.answers == (Span(rendered.supervised[0].start, rendered.supervised[0].start + 6),)


def test_tags_that_split_a_turn_leave_no_bits_per_byte() -> None:
    source = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n"
        "{% generation %}</a>{% endgeneration %}{% endfor %}"
    )

    rendered = ChatTemplate(source, {}).rendered([{"role": "assistant", "content": "hej"}])

    assert texts(rendered, rendered.supervised) == ["hej", "</a>"]
    assert rendered.answers == ()


def test_tags_work_inside_macros_and_captured_blocks() -> None:
    source = (
        "{% macro say(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
        "{% for m in messages %}{% set said %}{{ say(m) }}{% endset %}<{{ said }}>{% endfor %}"
    )

    rendered = ChatTemplate(source, {}).rendered([{"role": "assistant", "content": "hej"}])

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
        ChatTemplate(source, {}).rendered(conversation("hej", "goddag"))


def test_text_with_the_reserved_marks_is_refused_where_tags_are_used() -> None:
    messages = conversation("hej", "god\ufdd0dag")

    with pytest.raises(DatasetError, match="U\\+FDD0"):
        ChatTemplate(CHATML_TAGGED, TOKENS).rendered(messages)
    assert ChatTemplate(CHATML, TOKENS).rendered(messages).answer_bytes == 9


def test_a_template_that_rewrites_history_is_refused_with_the_fix() -> None:
    template = ChatTemplate(FORGETFUL, TOKENS)

    with pytest.raises(DatasetError) as refused:
        template.rendered(SWEDISH)

    assert "does not let the answers be found" in refused.value.problem
    assert "message 2" in refused.value.problem
    assert "{% generation %}" in refused.value.fix


def test_the_same_template_is_good_for_a_conversation_whose_history_it_does_not_rewrite() -> None:
    rendered = ChatTemplate(FORGETFUL, TOKENS).rendered(SWEDISH[:2])

    assert texts(rendered, rendered.supervised) == ["<think></think>Klockan nio 🏊.</s>"]
    assert texts(rendered, rendered.answers) == ["Klockan nio 🏊."]


@pytest.mark.parametrize(
    "source",
    [
        CHATML + "{{ eos_token }}",
        CHATML.replace("assistant\\n' }}", "assistant\\n<think>' }}"),
        "{% if messages | length < 3 or not add_generation_prompt %}" + NO_PROMPT + "{% endif %}",
    ],
    ids=["more at every end", "a prompt that is not in the history", "a prompt that forgets the turns before"],
)
def test_a_template_whose_renderings_do_not_grow_turn_by_turn_is_refused(source: str) -> None:
    with pytest.raises(DatasetError, match="does not let the answers be found"):
        ChatTemplate(source, TOKENS).rendered(SWEDISH)


def test_a_template_that_leaves_the_assistant_out_is_refused() -> None:
    source = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"

    with pytest.raises(DatasetError, match="no assistant turn"):
        ChatTemplate(source, {}).rendered(SWEDISH)


def test_what_a_template_refuses_is_said_in_its_own_words() -> None:
    messages = conversation("hej", "goddag", system="Var artig.")

    with pytest.raises(DatasetError) as refused:
        ChatTemplate(INST, TOKENS).rendered(messages)

    assert "Only user and assistant roles are supported, not system!" in refused.value.problem
    assert refused.value.fix


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].tool_calls[0].name }}",
        "{{ strftime_now('%Y') }}",
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
        ChatTemplate(source, {}).rendered(SWEDISH)


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
    rendered = ChatTemplate(NO_PROMPT, TOKENS).rendered(conversation("hej", "goddag"))

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

    assert render_row({"messages": SWEDISH}, "messages", template, "</s>") == template.rendered(SWEDISH)
    assert render_row({"text": "a"}, "text", None, "</s>") == render_text("a", "</s>")
    assert render_row({"prompt": "a", "completion": "b"}, "prompt_completion", None, "</s>") == render_completion(
        "a", "b", "</s>"
    )


def test_messages_without_a_template_and_unknown_formats_are_refused() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        render_row({"messages": SWEDISH}, "messages", None, "</s>")
    with pytest.raises(DatasetError, match="'parquet'"):
        render_row({}, "parquet", None, "</s>")


CONTENT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1"), max_size=12)
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

    rendered = ChatTemplate(STYLES[style], TOKENS).rendered(messages)

    check(rendered, [answer for _, answer in pairs])
    assert len(rendered.supervised) == len(pairs)
    assert rendered.answers or style == "no prompt"


@settings(deadline=None)
@given(prompt=CONTENT, completion=ANSWER, eos=st.sampled_from(["", "</s>"]))
def test_completions_keep_the_same_promises(prompt: str, completion: str, eos: str) -> None:
    rendered = render_completion(prompt, completion, eos)

    check(rendered, [completion])
    assert rendered.answers
    assert rendered.text[: rendered.supervised[0].start] == prompt
