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
    Format,
    check_row,
    detect,
    normalise_row,
    row_digest,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FORMATS: list[Format] = ["messages", "text", "prompt_completion", "preference", "preference_chat"]


def turn(role: str, content: object = "hej") -> dict[str, Any]:
    return {"role": role, "content": content}


def chat(*roles: str) -> dict[str, Any]:
    return {"messages": [turn(role) for role in roles]}


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
        (pair(prompt=None), None),
        (pair(chosen=[]), "preference"),
        (pair(prompt=[], rejected=[]), "preference_chat"),
        (pair(chosen=7), "preference"),
        (pair(prompt={}, chosen=7, rejected=[]), "preference_chat"),
        (pair(prompt={}, chosen=7, rejected={}), None),
        (pair(prompt={}, chosen={}, rejected={}, messages=[]), None),
        ({"instruction": "gör", "output": "gjort"}, None),
        ({}, None),
        (["text"], None),
        ("text", None),
    ],
)
def test_the_format_is_detected_from_the_fields_of_a_row(row: object, expected: Format | None) -> None:
    assert detect(row) == expected


def test_every_format_has_fields_a_strategy_and_a_method() -> None:
    assert set(FIELDS_OF) == set(STRATEGY_OF) == set(METHOD_OF) == set(FORMATS)
    assert {name for name in FORMATS if STRATEGY_OF[name] == "chat"} == {"messages", "preference_chat"}
    assert {name for name in FORMATS if METHOD_OF[name] == "dpo"} == {"preference", "preference_chat"}


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
    reason = check_row(chat(*roles), "messages")

    assert reason is not None
    assert words in reason


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
    reason = check_row(row, format)

    assert reason is not None
    assert words in reason


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
    reason = check_row(row, "preference")

    assert reason is not None
    assert words in reason


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
            chat_pair(rejected=[{**turn("assistant", [{"type": "text", "text": "ja"}]), "weight": 0}]),
            "'chosen' and 'rejected' are the same",
        ),
    ],
)
def test_a_bad_preference_of_messages_is_refused_in_plain_words(row: object, words: str) -> None:
    reason = check_row(row, "preference_chat")

    assert reason is not None
    assert words in reason


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
    reason = check_row(row, format)

    assert reason == f"{kinds}: all three must be text, or all three lists of messages"


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

    reason = check_row(row, "messages")
    used = normalise_row(row, "messages")

    assert reason is None
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
        ({"role": "assistant", "content": "", "tool_calls": [{"a": "\udfff"}]}, "half of a surrogate pair"),
        ({"role": "assistant", "content": "", "tool_calls": []}, "is empty"),
        ({"role": "assistant", "content": 5, "tool_calls": [{}]}, "is a number, not text"),
    ],
)
def test_tool_calls_that_no_template_could_take_are_refused(message: dict[str, Any], words: str) -> None:
    reason = check_row({"messages": [turn("user"), message]}, "messages")

    assert reason is not None
    assert words in reason


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
    reason = check_row(row, format)

    assert reason is None or reason.strip()


MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content},
        st.sampled_from(["system", "user", "assistant", "tool", "bot"]),
        st.text(max_size=3) | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text()}), max_size=2),
    ),
    max_size=5,
)


@settings(deadline=None)
@given(
    row=st.fixed_dictionaries({"messages": MESSAGES})
    | st.fixed_dictionaries({"text": st.text()})
    | st.fixed_dictionaries({"prompt": st.text(), "completion": st.text()})
    | st.fixed_dictionaries({"prompt": st.text(), "chosen": st.text(), "rejected": st.text()})
    | st.fixed_dictionaries({"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES}),
    format=st.sampled_from(FORMATS),
)
def test_a_good_row_stays_good_and_the_same_when_normalised(row: dict[str, Any], format: Format) -> None:  # noqa: A002
    if check_row(row, format) is not None:
        return

    used = normalise_row(row, format)

    assert check_row(used, format) is None
    assert normalise_row(used, format) == used
    assert detect(used) == format
    assert json.loads(json.dumps(used)) == used
    assert len(row_digest(used)) == 32
