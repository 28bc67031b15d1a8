from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneseek.datasets.formats import (
    FIELDS_OF,
    METHOD_OF,
    STRATEGY_OF,
    USED_AS,
    Fault,
    Format,
    check_row,
    detect,
    no_format,
    normalise_row,
    row_digest,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FORMATS: list[Format] = list(USED_AS)


def turn(role: str, content: object = "hej") -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [turn(role) for role in roles]}


def said(speaker: str, value: object = "hej") -> dict[str, Any]:
    return {"from": speaker, "value": value}


def shared(*speakers: str, **fields: object) -> dict[str, Any]:
    return {"conversations": [said(speaker) for speaker in speakers]} | fields


def shared_pair(**fields: object) -> dict[str, Any]:
    right = {"conversations": [said("human")], "chosen": said("gpt", "ja"), "rejected": said("gpt", "nej")}
    return right | fields


def task(**fields: object) -> dict[str, Any]:
    return {"instruction": "Översätt.", "input": "Good morning", "output": "God morgon"} | fields


def reason_of(fault: Fault | None) -> str:
    """The words of a refusal."""
    assert fault is not None
    return fault.reason


def pair(**fields: object) -> dict[str, Any]:
    return {"prompt": "hur?", "chosen": "så", "rejected": "inte så"} | fields


def chat_pair(**fields: object) -> dict[str, Any]:
    right = {"prompt": [turn("user")], "chosen": [turn("assistant", "ja")], "rejected": [turn("assistant", "nej")]}
    return right | fields


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (chat("user", "assistant"), "messages"),
        ({"text": "hej"}, "text"),
        ({"prompt": "hur?", "completion": "så"}, "prompt_completion"),
        ({"text": "hej", "messages": []}, "messages"),
        ({"text": "hej", "messages": None}, "text"),
        ({"prompt": "hur?"}, None),
        (pair(), "preference"),
        (chat_pair(), "preference_chat"),
        (pair(completion="så", text="hur? så"), "preference"),
        (pair(messages=[]), "preference"),
        (chat_pair(**chat("user", "assistant"), text="hej"), "preference_chat"),
        (pair(rejected=None, messages=[]), "messages"),
        (pair(rejected=None, completion="så"), "prompt_completion"),
        (pair(rejected=None), None),
        (pair(prompt=None), "preference"),
        (pair(prompt=None, text="hur? så"), "preference"),
        (pair(prompt=None, messages=[]), "messages"),
        (pair(prompt=None, conversations=[]), "preference_sharegpt"),
        (chat_pair(prompt=None), "preference_chat"),
        (chat_pair(prompt=None, messages=[], conversations=[]), "preference_chat"),
        (pair(prompt=None, chosen={}, rejected={}), None),
        (shared("human", "gpt"), "sharegpt"),
        (shared("human", "gpt", text="hej"), "sharegpt"),
        (shared_pair(), "preference_sharegpt"),
        (shared_pair(prompt="hur?"), "preference"),
        (shared_pair(rejected=None), "sharegpt"),
        (task(), "alpaca"),
        (task(text="hela"), "alpaca"),
        (task(input=None), "alpaca"),
        (task(output=None), None),
        (pair(chosen=[]), "preference"),
        (pair(prompt=[], rejected=[]), "preference_chat"),
        (pair(chosen=7), "preference"),
        (pair(prompt={}, chosen=7, rejected=[]), "preference_chat"),
        (pair(prompt={}, chosen=7, rejected={}), None),
        (pair(prompt={}, chosen={}, rejected={}, messages=[]), None),
        ({"instruction": "gör", "output": ""}, "alpaca"),
        ({}, None),
        (["text"], None),
        ("text", None),
    ],
)
def test_the_format_is_detected_from_the_fields_of_a_row(row: object, expected: Format | None) -> None:
    assert detect(row) == expected


def test_every_format_has_fields_a_strategy_and_a_method() -> None:
    assert set(FIELDS_OF) == set(STRATEGY_OF) == set(METHOD_OF) == set(FORMATS)
    assert all(USED_AS[used] == used for used in USED_AS.values())
    assert [name for name in FORMATS if STRATEGY_OF[name] == "standard"] == [
        "text",
        "prompt_completion",
        "alpaca",
        "preference",
    ]
    assert [name for name in FORMATS if METHOD_OF[name] == "dpo"] == [
        "preference",
        "preference_chat",
        "preference_sharegpt",
    ]


@pytest.mark.parametrize(
    "roles",
    [
        ("user", "assistant"),
        ("system", "user", "assistant"),
        ("user", "assistant", "user", "assistant", "user"),
        ("user", "assistant", "tool", "tool", "assistant", "user", "assistant"),
    ],
)
def test_a_conversation_in_order_is_good(roles: tuple[str, ...]) -> None:
    assert check_row(chat(*roles), "messages") is None


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        (("assistant",), "message 1 is assistant and comes first, where system or user belongs"),
        (("system",), "only a system message"),
        (("user",), "no assistant turn"),
        (("system", "user"), "no assistant turn"),
        (("system", "assistant"), "message 2 is assistant and follows system, where user belongs"),
        (("user", "system", "assistant"), "message 2 is system"),
        (("user", "user", "assistant"), "message 2 is user"),
        (("user", "assistant", "assistant"), "message 3 is assistant"),
        (("user", "tool", "assistant"), "message 2 is tool"),
        (("user", "assistant", "tool", "user"), "message 4 is user and follows tool, where tool or assistant belongs"),
    ],
)
def test_roles_out_of_order_are_named_with_what_belongs_there(roles: tuple[str, ...], words: str) -> None:
    fault = check_row(chat(*roles), "messages")

    assert words in reason_of(fault)


@pytest.mark.parametrize(
    ("row", "format", "words"),
    [
        (["a"], "messages", "the row is a list, not an object"),
        ("a", "text", "the row is text, not an object"),
        (None, "text", "the row is null, not an object"),
        (7, "text", "the row is a number, not an object"),
        ({}, "messages", "field 'messages' is missing"),
        ({"messages": None}, "messages", "field 'messages' is null"),
        ({"prompt": "a"}, "prompt_completion", "field 'completion' is missing"),
        ({"text": "a"}, "messages", "the row's format is text, the dataset's is messages"),
        (chat("user", "assistant"), "text", "the row's format is messages, the dataset's is text"),
        ({"text": 3}, "text", "'text' is a number, not text"),
        ({"text": True}, "text", "'text' is true or false, not text"),
        ({"text": " \n"}, "text", "'text' is empty"),
        ({"text": "a\ud800"}, "text", "half of a surrogate pair"),
        ({"prompt": "a", "completion": ""}, "prompt_completion", "'completion' is empty"),
        ({"prompt": ["a"], "completion": "b"}, "prompt_completion", "'prompt' is a list, not text"),
        ({"messages": "hej"}, "messages", "'messages' is text, not a list"),
        ({"messages": []}, "messages", "'messages' is empty"),
        ({"messages": ["hej"]}, "messages", "message 1 is text, not an object"),
        ({"messages": [{"content": "hej"}]}, "messages", "message 1 has no role"),
        ({"messages": [{"role": 1, "content": "hej"}]}, "messages", "the role of message 1 is a number, not text"),
        ({"messages": [turn("user"), turn("gpt")]}, "messages", "message 2 has the unknown role 'gpt'"),
        ({"messages": [turn("\x1b[2J")]}, "messages", r"unknown role '\x1b[2J'"),
        ({"messages": [{"role": "user"}]}, "messages", "message 1 has no content"),
        ({"messages": [turn("user"), turn("assistant", " ")]}, "messages", "the content of message 2 is empty"),
        ({"messages": [turn("user", {"a": 1})]}, "messages", "the content of message 1 is an object, not text"),
        ({"messages": [turn("user", [])]}, "messages", "the content of message 1 is empty"),
        ({"messages": [turn("user", ["hej"])]}, "messages", "a content part of message 1 is text, not an object"),
        ({"messages": [turn("user", [{"type": "image_url"}])]}, "messages", "type 'image_url'; only text"),
        (
            {"messages": [turn("user", [{"type": "text"}])]},
            "messages",
            "the text of a content part of message 1 is null",
        ),
    ],
)
def test_a_bad_row_is_refused_in_plain_words(row: object, format: Format, words: str) -> None:  # noqa: A002
    fault = check_row(row, format)

    assert words in reason_of(fault)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (pair(rejected=None), "field 'rejected' is null"),
        ({"prompt": "a", "chosen": "b"}, "field 'rejected' is missing"),
        ({"text": "a"}, "the row's format is text, the dataset's is preference"),
        (pair(prompt=" "), "'prompt' is empty"),
        (pair(chosen=""), "'chosen' is empty"),
        (pair(rejected="\n"), "'rejected' is empty"),
        (pair(prompt=7, chosen=8, rejected=9), "'prompt' is a number, not text"),
        (chat_pair(), "'prompt' is a list, not text"),
        (pair(rejected="s\ud800"), "'rejected' holds half of a surrogate pair"),
        (pair(rejected="så"), "'chosen' and 'rejected' are the same"),
    ],
)
def test_a_bad_preference_of_text_is_refused_in_plain_words(row: object, words: str) -> None:
    fault = check_row(row, "preference")

    assert words in reason_of(fault)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (pair(), "'prompt' is text, not a list"),
        (chat_pair(prompt=[]), "'prompt' is empty"),
        (chat_pair(chosen=[]), "'chosen' is empty"),
        (chat_pair(chosen=[turn("assistant"), turn("gpt")]), "message 2 of 'chosen' has the unknown role 'gpt'"),
        (chat_pair(rejected=[turn("assistant", " ")]), "the content of message 1 of 'rejected' is empty"),
        (chat_pair(prompt=[{"role": "user"}]), "message 1 of 'prompt' has no content"),
        (chat_pair(prompt=[turn("assistant")]), "message 1 of 'prompt' is assistant and comes first"),
        (chat_pair(prompt=[turn("user"), turn("user")]), "message 2 of 'prompt' is user and follows user"),
        (chat_pair(prompt=[turn("user"), turn("assistant")]), "'prompt' ends with assistant, where user or tool"),
        (chat_pair(prompt=[turn("system")]), "'prompt' ends with system, where user or tool belongs"),
        (
            chat_pair(chosen=[turn("user"), turn("assistant")]),
            "roles out of order: message 1 of 'chosen' is user and follows the prompt, where assistant belongs",
        ),
        (
            chat_pair(
                prompt=[turn("user"), turn("assistant"), turn("tool")], rejected=[turn("tool"), turn("assistant")]
            ),
            "message 1 of 'rejected' is tool and follows the prompt, where assistant belongs",
        ),
        (
            chat_pair(rejected=[turn("assistant"), turn("assistant")]),
            "message 2 of 'rejected' is assistant and follows assistant, where user or tool belongs",
        ),
        (chat_pair(rejected=[turn("assistant", "ja")]), "'chosen' and 'rejected' are the same"),
        (
            chat_pair(rejected=[{**turn("assistant", [{"type": "text", "text": "ja"}]), "note": 0}]),
            "'chosen' and 'rejected' are the same",
        ),
    ],
)
def test_a_bad_preference_of_messages_is_refused_in_plain_words(row: object, words: str) -> None:
    fault = check_row(row, "preference_chat")

    assert words in reason_of(fault)


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        (pair(chosen=7), "prompt is text, chosen is a number, rejected is text"),
        (pair(prompt=[turn("user")]), "prompt is a list, chosen is text, rejected is text"),
        (chat_pair(prompt="hur?"), "prompt is text, chosen is a list, rejected is a list"),
        (chat_pair(chosen={}, rejected="nej"), "prompt is a list, chosen is an object, rejected is text"),
    ],
)
@pytest.mark.parametrize("format", ["preference", "preference_chat"])
def test_a_preference_of_several_kinds_is_refused_with_all_three_of_them(
    row: object,
    kinds: str,
    format: Format,  # noqa: A002
) -> None:
    fault = check_row(row, format)

    assert fault == Fault("wrong-type", f"{kinds}: all three must be text, or all three lists of messages")


@pytest.mark.parametrize(
    ("prompt", "chosen"),
    [
        (("user",), ("assistant",)),
        (("system", "user", "assistant", "user"), ("assistant",)),
        (("user", "assistant", "tool", "tool"), ("assistant", "user", "assistant")),
        (("user",), ("assistant", "tool", "assistant", "user")),
    ],
)
def test_a_preference_whose_answers_go_on_from_its_prompt_is_good(
    prompt: tuple[str, ...], chosen: tuple[str, ...]
) -> None:
    row = chat_pair(prompt=[turn(role) for role in prompt], chosen=[turn(role) for role in chosen])

    assert check_row(row, "preference_chat") is None


@pytest.mark.parametrize(("right", "wrong"), [(True, 1), (5, 5.0), ("5", 5)])
def test_an_argument_of_another_type_makes_another_answer(right: object, wrong: object) -> None:
    chosen, rejected = (
        [{"role": "assistant", "content": "", "tool_calls": [{"name": "book", "arguments": {"seats": seats}}]}]
        for seats in (right, wrong)
    )

    assert check_row(chat_pair(chosen=chosen, rejected=rejected), "preference_chat") is None


@pytest.mark.parametrize("content", ["", " \n", None, []])
def test_a_tool_may_answer_nothing(content: object) -> None:
    row = {"messages": [turn("user"), turn("assistant"), {"role": "tool", "content": content}, turn("assistant")]}

    assert check_row(row, "messages") is None
    assert normalise_row(row, "messages")["messages"][2]["content"] in ("", content)


def test_an_assistant_may_call_tools_without_saying_anything() -> None:
    calls = [{"type": "function", "function": {"name": "opening_hours", "arguments": {"place": "Badhuset"}}}]
    row = {
        "messages": [
            turn("user"),
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "content": "9-17", "tool_call_id": "1", "name": "opening_hours", "extra": 1},
            turn("assistant"),
        ]
    }

    fault = check_row(row, "messages")
    used = normalise_row(row, "messages")

    assert fault is None
    assert used["messages"][1] == {"role": "assistant", "content": "", "tool_calls": calls}
    assert used["messages"][2] == {
        "role": "tool",
        "content": "9-17",
        "tool_call_id": "1",
        "name": "opening_hours",
    }


def deep(levels: int) -> dict[str, Any]:
    return {"a": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": "hej", "tool_calls": [{}]}, "which only an assistant makes"),
        ({"role": "assistant", "content": "", "tool_calls": {"a": 1}}, "is an object, not a list"),
        ({"role": "assistant", "content": "", "tool_calls": ["a"]}, "something that is not an object"),
        ({"role": "assistant", "content": "", "tool_calls": [deep(100)]}, "nested too deeply"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": json.dumps(deep(100))}]},
            "nested too deeply",
        ),
        ({"role": "assistant", "content": "", "tool_calls": [{"a": "\udfff"}]}, "half of a surrogate pair"),
        ({"role": "assistant", "content": "", "tool_calls": []}, "is empty"),
        ({"role": "assistant", "content": 5, "tool_calls": [{}]}, "is a number, not text"),
    ],
)
def test_tool_calls_that_no_template_could_take_are_refused(message: dict[str, Any], words: str) -> None:
    fault = check_row({"messages": [turn("user"), message]}, "messages")

    assert words in reason_of(fault)


FUNCTION = {"name": "opening_hours", "arguments": {"place": "Badhuset"}}
CALL = {"type": "function", "function": FUNCTION}
TOOL = {"name": "opening_hours", "description": "När något öppnar.", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        FUNCTION,
        {"type": "function", "function": {**FUNCTION, "arguments": '{"place": "Badhuset"}'}},
        {**FUNCTION, "arguments": '{"place":"Badhuset"}'},
    ],
    ids=["as templates take it", "bare", "arguments as text", "bare, arguments as text"],
)
def test_tool_calls_of_every_form_are_used_in_the_one_that_templates_take(call: dict[str, Any]) -> None:
    row = {"messages": [turn("user"), {"role": "assistant", "tool_calls": [call]}]}

    fault = check_row(row, "messages")
    used = normalise_row(row, "messages")

    assert fault is None
    assert used["messages"][1] == {"role": "assistant", "content": "", "tool_calls": [CALL]}


@pytest.mark.parametrize("arguments", ["", "not JSON", "[1]", "7", '"\\ud800"', "[" * 5000])
def test_arguments_that_are_no_json_object_stay_as_they_are(arguments: str) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    row = {"messages": [turn("user"), {"role": "assistant", "tool_calls": calls}]}

    assert check_row(row, "messages") is None
    assert normalise_row(row, "messages")["messages"][1]["tool_calls"] == calls


def test_several_calls_at_once_are_followed_by_several_results() -> None:
    calling = {"role": "assistant", "content": "Jag ser efter.", "tool_calls": [CALL, CALL]}
    row = {"messages": [turn("user"), calling, turn("tool"), turn("tool"), turn("assistant")]}

    assert check_row(row, "messages") is None


def test_a_call_without_a_result_is_not_followed_by_an_answer() -> None:
    row = {"messages": [turn("user"), {"role": "assistant", "tool_calls": [CALL]}, turn("assistant")]}

    assert "message 3 is assistant and follows assistant" in reason_of(check_row(row, "messages"))


@pytest.mark.parametrize(
    ("row", "format"),
    [
        (chat("user", "assistant"), "messages"),
        (shared("human", "gpt"), "sharegpt"),
        (chat_pair(), "preference_chat"),
        (
            chat_pair(
                prompt=None, chosen=[turn("user"), turn("assistant", "a")], rejected=[turn("user"), turn("assistant")]
            ),
            "preference_chat",
        ),
        (shared_pair(), "preference_sharegpt"),
    ],
    ids=["messages", "sharegpt", "preference", "implied prompt", "preference of turns"],
)
@pytest.mark.parametrize(
    "tools",
    [[TOOL], [{"type": "function", "function": TOOL}], json.dumps([TOOL])],
    ids=["bare", "as templates take them", "text"],
)
def test_tools_of_a_row_are_used_in_the_form_that_templates_take(
    row: dict[str, Any],
    format: Format,  # noqa: A002
    tools: object,
) -> None:
    offering = {**row, "tools": tools}

    assert check_row(offering, format) is None
    assert normalise_row(offering, format)["tools"] == [{"type": "function", "function": TOOL}]


@pytest.mark.parametrize("tools", [None, "", " ", [], "[]"])
def test_no_tools_leave_nothing_behind(tools: object) -> None:
    row = chat("user", "assistant") | {"tools": tools}

    assert check_row(row, "messages") is None
    assert normalise_row(row, "messages") == chat("user", "assistant")


@pytest.mark.parametrize(
    ("tools", "kind", "words"),
    [
        ("a tool", "wrong-type", "'tools' is text, but not JSON of a list"),
        ("{}", "wrong-type", "'tools' is an object, not a list"),
        ({"a": 1}, "wrong-type", "'tools' is an object, not a list"),
        (["a"], "wrong-type", "'tools' holds something that is not an object"),
        ([deep(100)], "nested-too-deeply", "'tools' is nested too deeply"),
        (json.dumps([deep(100)]), "nested-too-deeply", "'tools' is nested too deeply"),
        ([{"name": "\ud800"}], "surrogate", "'tools' holds half of a surrogate pair"),
    ],
)
def test_tools_that_no_template_could_take_are_refused(tools: object, kind: str, words: str) -> None:
    fault = check_row(chat("user", "assistant") | {"tools": tools}, "messages")

    assert words in reason_of(fault)
    assert fault is not None
    assert fault.kind == kind


def test_turns_of_sharegpt_are_used_as_messages() -> None:
    row = {
        "system": "Var artig.",
        "conversations": [
            said("human", "När öppnar badet?"),
            said("gpt", "Jag ser efter."),
            said("function_call", json.dumps(FUNCTION)),
            said("observation", "9-17"),
            said("model", "Klockan nio."),
            said("user", "Och biblioteket?"),
            said("function_call", json.dumps([FUNCTION, CALL])),
            said("tool", ""),
            said("observation", "10-18"),
            said("assistant", "Klockan tio."),
        ],
        "id": 7,
    }

    fault = check_row(row, "sharegpt")
    used = normalise_row(row, "sharegpt")

    assert fault is None
    assert used == {
        "messages": [
            turn("system", "Var artig."),
            turn("user", "När öppnar badet?"),
            turn("assistant", "Jag ser efter.") | {"tool_calls": [CALL]},
            turn("tool", "9-17"),
            turn("assistant", "Klockan nio."),
            turn("user", "Och biblioteket?"),
            turn("assistant", "") | {"tool_calls": [CALL, CALL]},
            turn("tool", ""),
            turn("tool", "10-18"),
            turn("assistant", "Klockan tio."),
        ]
    }


@pytest.mark.parametrize("system", [None, "", " "])
def test_a_system_field_that_says_nothing_is_no_message(system: str | None) -> None:
    row = shared("human", "gpt", system=system)

    assert check_row(row, "sharegpt") is None
    assert normalise_row(row, "sharegpt") == chat("user", "assistant")


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        (shared(), "empty-content", "'conversations' is empty"),
        ({"conversations": "hej"}, "wrong-type", "'conversations' is text, not a list"),
        ({"conversations": ["hej"]}, "wrong-type", "message 1 of 'conversations' is text, not an object"),
        ({"conversations": [turn("user")]}, "missing-field", "message 1 of 'conversations' has no 'from'"),
        ({"conversations": [{"from": "human"}]}, "missing-field", "message 1 of 'conversations' has no 'value'"),
        ({"conversations": [said("human", 7)]}, "wrong-type", "'value' of message 1 of 'conversations' is a number"),
        ({"conversations": [{"from": 7, "value": "a"}]}, "wrong-type", "the 'from' of message 1 of 'conversations' is"),
        (shared("human", "bing"), "unknown-role", "is from the unknown 'bing' (known: system, human, user, gpt,"),
        ({"conversations": [said("human", " ")]}, "empty-content", "the 'value' of message 1 of 'conversations' is"),
        ({"conversations": [said("human", "\ud800")]}, "surrogate", "half of a surrogate pair"),
        (shared("human"), "no-assistant-turn", "there is no assistant turn"),
        (shared("system"), "no-assistant-turn", "there is only a system message"),
        (shared("gpt", "human"), "roles-out-of-order", "message 1 of 'conversations' is assistant and comes first"),
        (shared("human", "gpt", "gpt"), "roles-out-of-order", "message 3 of 'conversations' is assistant and follows"),
        (
            shared("system", "human", "gpt", system="hej"),
            "roles-out-of-order",
            "message 1 of 'conversations' is system and follows system, where user belongs",
        ),
        (shared("human", "gpt", system=7), "wrong-type", "'system' is a number, not text"),
        (
            shared("human", "function_call"),
            "wrong-type",
            "'value' of message 2 of 'conversations' is not JSON of a call",
        ),
        (
            {"conversations": [said("human"), said("function_call", '["a"]')]},
            "wrong-type",
            "tool_calls of message 2 of 'conversations' holds something that is not an object",
        ),
        (
            {"conversations": [said("human"), said("function_call", json.dumps(deep(100)))]},
            "nested-too-deeply",
            "nested too deeply",
        ),
    ],
)
def test_a_bad_row_of_sharegpt_is_refused_in_plain_words(row: object, kind: str, words: str) -> None:
    fault = check_row(row, "sharegpt")

    assert words in reason_of(fault)
    assert fault is not None
    assert fault.kind == kind


def test_the_fields_of_alpaca_are_used_as_a_prompt_with_headings() -> None:
    row = task(system="Svara kort.", history=[["Hej!", "Hej, vad kan jag göra?"]])

    fault = check_row(row, "alpaca")
    used = normalise_row(row, "alpaca")

    assert fault is None
    assert used == {
        "prompt": "Svara kort.\n\n### Instruction:\nHej!\n\n### Response:\nHej, vad kan jag göra?\n\n"
        "### Instruction:\nÖversätt.\n\n### Input:\nGood morning\n\n### Response:\n",
        "completion": "God morgon",
    }


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_fields_of_alpaca_that_say_nothing_get_no_heading(nothing: str | None) -> None:
    row = task(input=nothing, system=nothing)

    assert check_row(row, "alpaca") is None
    assert normalise_row(row, "alpaca")["prompt"] == "### Instruction:\nÖversätt.\n\n### Response:\n"


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        (task(instruction=""), "empty-content", "'instruction' is empty"),
        (task(output=" "), "empty-content", "'output' is empty"),
        (task(output=["a", "b"]), "wrong-type", "'output' is a list, not text"),
        (task(input=7), "wrong-type", "'input' is a number, not text"),
        (task(system=[]), "wrong-type", "'system' is a list, not text"),
        (task(input="\udfff"), "surrogate", "'input' holds half of a surrogate pair"),
        (task(history="hej"), "wrong-type", "'history' is text, not a list"),
        (task(history=[["a", "b"], ["c"]]), "wrong-type", "turn 2 of 'history' is not a list of a question and its"),
        (task(history=[["a", ""]]), "empty-content", "the answer of turn 1 of 'history' is empty"),
        (task(history=[[None, "b"]]), "wrong-type", "the question of turn 1 of 'history' is null"),
        (task(output=None), "missing-field", "field 'output' is null"),
    ],
)
def test_a_bad_row_of_alpaca_is_refused_in_plain_words(row: object, kind: str, words: str) -> None:
    fault = check_row(row, "alpaca")

    assert words in reason_of(fault)
    assert fault is not None
    assert fault.kind == kind


@pytest.mark.parametrize(
    ("row", "fields"),
    [({"prompt": "a"}, "'prompt'"), ({}, "none"), ({str(n): n for n in range(12)}, "'8', '9', …")],
)
def test_a_row_of_no_known_format_is_told_with_its_fields(row: object, fields: str) -> None:
    assert no_format(row).kind == "no-known-format"
    assert no_format(row).reason.endswith(f"{fields})")


def test_a_preference_of_objects_is_told_what_it_holds() -> None:
    fault = no_format(pair(prompt={}, chosen={}, rejected={}))

    assert fault.kind == "wrong-type"
    assert fault.reason.startswith("prompt is an object, chosen is an object, rejected is an object: all three must be")
    assert no_format(["a"]) == Fault("wrong-type", "the row is a list, not an object")


@pytest.mark.parametrize(
    ("row", "format", "kind"),
    [
        (chat("user", "gpt"), "messages", "unknown-role"),
        (chat("assistant"), "messages", "roles-out-of-order"),
        (chat("user"), "messages", "no-assistant-turn"),
        ({"messages": [turn("user", [{"type": "image_url"}])]}, "messages", "unsupported-content"),
        ({"messages": [turn("user") | {"tool_calls": [CALL]}]}, "messages", "unsupported-content"),
        ({"messages": [{"role": "user"}]}, "messages", "missing-field"),
        ({"messages": [{"content": "hej"}]}, "messages", "missing-field"),
        ({"messages": None}, "messages", "missing-field"),
        ({"text": ""}, "text", "empty-content"),
        ({"text": 7}, "text", "wrong-type"),
        ({"text": "\ud800"}, "text", "surrogate"),
        ({"text": "a"}, "messages", "other-format"),
        (pair(rejected="så"), "preference", "same-answers"),
    ],
)
def test_a_fault_is_of_the_kind_that_it_is_counted_by(row: object, format: Format, kind: str) -> None:  # noqa: A002
    fault = check_row(row, format)

    assert fault is not None
    assert fault.kind == kind


def test_normalising_keeps_only_what_is_used_and_joins_content_parts() -> None:
    row = {
        "id": 7,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "När "}, {"type": "text", "text": "öppnar ni?"}]},
            {"role": "assistant", "content": " Klockan nio. ", "weight": 1},
        ],
    }

    used = normalise_row(row, "messages")

    assert used == {"messages": [turn("user", "När öppnar ni?"), turn("assistant", " Klockan nio. ")]}


def test_normalising_plain_rows_keeps_their_text_as_it_is() -> None:
    assert normalise_row({"text": " a\n", "id": 1}, "text") == {"text": " a\n"}
    assert normalise_row({"completion": "b", "prompt": "a ", "text": "c"}, "prompt_completion") == {
        "prompt": "a ",
        "completion": "b",
    }


def test_normalising_preferences_keeps_their_three_fields_in_the_same_form_as_conversations() -> None:
    answer = {"role": "assistant", "content": [{"type": "text", "text": "ja"}], "weight": 1}

    assert normalise_row(pair(chosen=" så\n", score=2, text="x"), "preference") == pair(chosen=" så\n")
    assert normalise_row(chat_pair(chosen=[answer], score=2), "preference_chat") == chat_pair()


def test_a_row_digest_is_the_sha256_of_canonical_json() -> None:
    canonical = '{"completion":"två 😀","prompt":"ett"}'

    digest = row_digest({"prompt": "ett", "completion": "två 😀"})

    assert digest == hashlib.sha256(canonical.encode()).digest()


def test_a_row_digest_does_not_depend_on_the_order_of_fields() -> None:
    assert row_digest({"a": {"x": 1, "y": 2}, "b": "c"}) == row_digest({"b": "c", "a": {"y": 2, "x": 1}})


@settings(deadline=None)
@given(row=JSON, format=st.sampled_from(FORMATS))
def test_any_json_value_gets_a_verdict(row: object, format: Format) -> None:  # noqa: A002
    fault = check_row(row, format)

    assert fault is None or fault.reason.strip()
    assert detect(row) or no_format(row).reason.strip()


MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["system", "user", "assistant", "tool", "bot"]),
        st.text(max_size=3) | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), max_size=2),
    ),
    max_size=5,
)


TURN = st.builds(
    said,
    st.sampled_from(["system", "human", "gpt", "function_call", "observation", "bot"]),
    st.text(max_size=3) | st.just('{"name":"f"}'),
)
TURNS = st.lists(TURN, max_size=5)
WORDS = st.text("ab \n:", max_size=8)


@settings(deadline=None)
@given(
    row=st.fixed_dictionaries({"messages": MESSAGES})
    | st.fixed_dictionaries({"text": st.text()})
    | st.fixed_dictionaries({"prompt": st.text(), "completion": st.text()})
    | st.fixed_dictionaries({"prompt": st.text(), "chosen": st.text(), "rejected": st.text()})
    | st.fixed_dictionaries({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES})
    | st.fixed_dictionaries({"chosen": MESSAGES, "rejected": MESSAGES})
    | st.fixed_dictionaries({"chosen": WORDS, "rejected": WORDS})
    | st.fixed_dictionaries({"conversations": TURNS}, optional={"system": st.text(max_size=2)})
    | st.fixed_dictionaries({"conversations": TURNS, "chosen": TURN, "rejected": TURN})
    | st.fixed_dictionaries({"instruction": WORDS, "output": WORDS}, optional={"input": WORDS, "system": WORDS}),
    format=st.sampled_from(FORMATS),
)
def test_a_good_row_stays_good_and_the_same_when_normalised(row: dict[str, Any], format: Format) -> None:  # noqa: A002
    if check_row(row, format) is not None:
        return

    used = normalise_row(row, format)

    assert check_row(used, USED_AS[format]) is None
    assert normalise_row(used, USED_AS[format]) == used
    assert detect(used) == USED_AS[format]
    assert json.loads(json.dumps(used)) == used
    assert len(row_digest(used)) == 32


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"weight": 0}, "message 2 has weight 0, but every answer of a chat is learned"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "message 2 has function_call, which is not read: "),
        ({"reasoning_content": "Let me see."}, "message 2 has reasoning_content, which is not read: "),
        ({"weight": 1}, None),
        ({"function_call": None, "reasoning_content": ""}, None),
        ({"name": "anna", "id": 7}, None),
    ],
    ids=["weight 0", "old call", "thoughts", "weight 1", "empty", "others"],
)
def test_a_field_that_would_change_what_is_learned_is_refused_and_no_other(
    more: dict[str, Any], says: str | None
) -> None:
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", **more}]}

    fault = check_row(row, "messages")

    if says is None:
        assert fault is None
    else:
        assert fault is not None
        assert (fault.kind, fault.reason.startswith(says)) == ("unsupported-content", True)
