"""Rows from one format into another and back: the same, or refused with what would be lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oneseek.datasets.convert import convert, lost_by, targets_of
from oneseek.datasets.formats import USED_AS, Format, check_row, detect, normalise_row
from oneseek.errors import DatasetError

FUNCTION = {"name": "opening_hours", "arguments": {"place": "Badhuset"}}
CALL = {"type": "function", "function": FUNCTION}
TOOL = {"name": "opening_hours", "parameters": {"type": "object"}}
OFFERED = {"type": "function", "function": TOOL}


def turn(role: str, content: str, **fields: object) -> dict[str, Any]:
    return {"role": role, "content": content} | fields


def said(speaker: str, value: str) -> dict[str, Any]:
    return {"from": speaker, "value": value}


CHAT = {"messages": [turn("user", "Hur?"), turn("assistant", "Så.")]}
SHARED = {"conversations": [said("human", "Hur?"), said("gpt", "Så.")]}
PROMPT = {"prompt": "Hur?", "completion": "Så."}
TASK = {"instruction": "Hur?", "output": "Så."}
PAIR = {"prompt": "Hur?", "chosen": "Så.", "rejected": "Nej."}
CHAT_PAIR = {
    "prompt": [turn("user", "Hur?")],
    "chosen": [turn("assistant", "Så.")],
    "rejected": [turn("assistant", "Nej.")],
}
SHARED_PAIR = {"conversations": [said("human", "Hur?")], "chosen": said("gpt", "Så."), "rejected": said("gpt", "Nej.")}
CALLING = {
    "messages": [
        turn("system", "Var artig."),
        turn("user", "När öppnar badet?"),
        turn("assistant", "Jag ser efter.", tool_calls=[CALL, CALL]),
        turn("tool", "9-17"),
        turn("tool", ""),
        turn("assistant", "", tool_calls=[CALL]),
        turn("tool", "9-17"),
        turn("assistant", "Klockan nio."),
    ],
    "tools": [OFFERED],
}


@pytest.mark.parametrize(
    ("row", "source", "target", "expected"),
    [
        (CHAT, "messages", "sharegpt", SHARED),
        (CHAT, "messages", "prompt_completion", PROMPT),
        (CHAT, "messages", "alpaca", TASK),
        (SHARED, "sharegpt", "messages", CHAT),
        (SHARED, "sharegpt", "prompt_completion", PROMPT),
        (SHARED, "sharegpt", "alpaca", TASK),
        (PROMPT, "prompt_completion", "messages", CHAT),
        (PROMPT, "prompt_completion", "sharegpt", SHARED),
        (TASK, "alpaca", "messages", CHAT),
        (TASK, "alpaca", "sharegpt", SHARED),
        (
            TASK,
            "alpaca",
            "prompt_completion",
            {"prompt": "### Instruction:\nHur?\n\n### Response:\n", "completion": "Så."},
        ),
        (PAIR, "preference", "preference_chat", CHAT_PAIR),
        (PAIR, "preference", "preference_sharegpt", SHARED_PAIR),
        (CHAT_PAIR, "preference_chat", "preference", PAIR),
        (CHAT_PAIR, "preference_chat", "preference_sharegpt", SHARED_PAIR),
        (SHARED_PAIR, "preference_sharegpt", "preference", PAIR),
        (SHARED_PAIR, "preference_sharegpt", "preference_chat", CHAT_PAIR),
        ({"text": "a"}, "text", "text", {"text": "a"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_becomes_what_says_the_same_in_another_format(
    row: dict[str, Any], source: Format, target: Format, expected: dict[str, Any]
) -> None:
    assert lost_by(row, source, target) is None
    assert convert(row, source, target) == expected


def test_a_task_of_alpaca_with_all_its_fields_becomes_a_conversation_and_itself_again() -> None:
    row = {
        "system": "Svara kort.",
        "history": [["Hej!", "Hej."]],
        "instruction": "Översätt.",
        "input": "Good morning",
        "output": "God morgon",
    }

    chat = convert(row, "alpaca", "messages")

    assert chat == {
        "messages": [
            turn("system", "Svara kort."),
            turn("user", "Hej!"),
            turn("assistant", "Hej."),
            turn("user", "Översätt.\n\n### Input:\nGood morning"),
            turn("assistant", "God morgon"),
        ]
    }
    assert convert(chat, "messages", "alpaca") == row
    assert convert(convert(row, "alpaca", "prompt_completion"), "prompt_completion", "alpaca") == row


def test_calls_and_tools_become_turns_of_sharegpt_and_themselves_again() -> None:
    shared = convert(CALLING, "messages", "sharegpt")

    assert [turn["from"] for turn in shared["conversations"]] == [
        *("system", "human", "gpt", "function_call", "observation", "observation"),
        *("function_call", "observation", "gpt"),
    ]
    assert [json.loads(shared["conversations"][at]["value"]) for at in (3, 6)] == [[FUNCTION, FUNCTION], FUNCTION]
    assert shared["tools"] == [TOOL]
    assert convert(shared, "sharegpt", "messages") == CALLING


@pytest.mark.parametrize("call", [{"id": "1", **CALL}, {"function": FUNCTION}], ids=["an id", "no type"])
def test_a_call_with_more_than_its_function_is_kept_whole(call: dict[str, Any]) -> None:
    row = {"messages": [turn("user", "När?"), turn("assistant", "", tool_calls=[call])]}

    shared = convert(row, "messages", "sharegpt")

    assert json.loads(shared["conversations"][1]["value"]) == call
    assert convert(shared, "sharegpt", "messages") == row


@pytest.mark.parametrize("question", ["\n\n### Input:\nb", "a\n\n### Input:\n"])
def test_a_heading_without_an_instruction_or_an_input_is_part_of_the_question(question: str) -> None:
    row = {"messages": [turn("user", question), turn("assistant", "Så.")]}

    assert convert(row, "messages", "alpaca") == {"instruction": question, "output": "Så."}


def test_an_implied_prompt_is_written_out() -> None:
    row = {"chosen": "Hur? Så.", "rejected": "Hur? Nej."}

    assert convert(row, "preference", "preference_chat") == {
        "prompt": [turn("user", "Hur?")],
        "chosen": [turn("assistant", " Så.")],
        "rejected": [turn("assistant", " Nej.")],
    }


LONG = {"messages": [*CHAT["messages"], *CHAT["messages"]]}
ASKING = {"messages": [*CHAT["messages"], turn("user", "Hur?")]}
SYSTEM = {"messages": [turn("system", "Var artig."), *CHAT["messages"]]}
NAMED = {"messages": [*CALLING["messages"][:3], turn("tool", "9", tool_call_id="1"), turn("assistant", "Nio.")]}


@pytest.mark.parametrize(
    ("row", "source", "target", "words"),
    [
        (LONG, "messages", "prompt_completion", "it has more than one message of the user and one of the assistant"),
        (SYSTEM, "messages", "prompt_completion", "it has more than one message of the user and one of the assistant"),
        (ASKING, "messages", "alpaca", "its last question has no answer"),
        (CALLING, "messages", "alpaca", "it has tools or calls of them"),
        (CHAT | {"tools": [OFFERED]}, "messages", "prompt_completion", "it has tools or calls of them"),
        (NAMED, "messages", "sharegpt", "'tool_call_id' has no place in sharegpt"),
        (PROMPT, "prompt_completion", "alpaca", "its prompt has not the headings"),
        (
            {"prompt": "### Instruction:\n\n\n### Response:\n", "completion": "Så."},
            "prompt_completion",
            "alpaca",
            "it would be refused there, because 'instruction' is empty",
        ),
        (
            {"instruction": "a\n\n### Response:\nb", "output": "c"},
            "alpaca",
            "prompt_completion",
            "its prompt has not the headings",
        ),
        ({"text": "a"}, "text", "messages", "rows of text become nothing else"),
        (PAIR, "preference", "messages", "rows of preference become preference_chat or preference_sharegpt"),
        (
            CHAT_PAIR | {"prompt": SYSTEM["messages"][:2]},
            "preference_chat",
            "preference",
            "'prompt' has more than one message of the user",
        ),
        (
            CHAT_PAIR | {"chosen": LONG["messages"][1:]},
            "preference_chat",
            "preference_sharegpt",
            "'chosen' has more than one turn",
        ),
        (
            CHAT_PAIR | {"chosen": [turn("assistant", "Så.", tool_calls=[CALL])]},
            "preference_chat",
            "preference_sharegpt",
            "'chosen' has more than one turn",
        ),
        (CHAT_PAIR | {"tools": [OFFERED]}, "preference_chat", "preference", "it has tools or calls of them"),
    ],
)
def test_a_row_that_would_lose_something_is_refused_with_what_it_is(
    row: dict[str, Any], source: Format, target: Format, words: str
) -> None:
    assert check_row(row, source) is None

    with pytest.raises(DatasetError) as refused:
        convert(row, source, target)

    assert words in str(lost_by(row, source, target))
    assert words in refused.value.problem
    assert f"from {source} to {target}" in refused.value.problem
    assert refused.value.fix


def test_a_format_becomes_the_others_that_mean_the_same() -> None:
    assert targets_of("messages") == ("sharegpt", "prompt_completion", "alpaca")
    assert targets_of("preference") == ("preference_chat", "preference_sharegpt")
    assert targets_of("text") == ()
    assert all(source in targets_of(target) for source in USED_AS for target in targets_of(source))


# -- there and back ------------------------------------------------------------------------------------------------

WORDS = st.text("ab\n å", min_size=1, max_size=5).map("a{}".format) | st.sampled_from(
    ["a\n\n### Input:\nb", "### Response:\n", "a\n\n### Response:\nb\n\n### Instruction:\nc", "\n\n### Input:\n"]
)
CALLS = st.lists(
    st.sampled_from([CALL, FUNCTION, {"id": "1", **CALL}, {"function": FUNCTION}, {}, {"name": 7}]),
    min_size=1,
    max_size=2,
)
TOOLS = st.sampled_from([None, None, [TOOL], [OFFERED], json.dumps([TOOL])])
ASKED = st.builds(turn, st.just("user"), WORDS)
REPLY = st.builds(turn, st.just("assistant"), WORDS)
CALLED = st.builds(turn, st.just("assistant"), WORDS | st.just(""), tool_calls=CALLS)
RESULT = st.builds(turn, st.just("tool"), WORDS | st.just("")) | st.just(turn("tool", "a", name="f"))
TALK = st.lists(st.tuples(ASKED, REPLY), min_size=1, max_size=2)
WORK = st.lists(st.tuples(ASKED, CALLED, RESULT, RESULT, REPLY), min_size=1, max_size=2)
OPENING: st.SearchStrategy[list[dict[str, Any]]] = st.just([]) | WORDS.map(lambda text: [turn("system", text)])
SPEECHES = st.builds(
    lambda opening, rounds, more: [*opening, *(message for turns in rounds for message in turns), *more],
    OPENING,
    TALK | TALK | WORK,
    st.sampled_from([[], [], [turn("user", "a")]]),
)
QUESTIONS = st.just([turn("user", "a")]) | OPENING.map(lambda opening: [*opening, turn("user", "a")])
CALL_TEXTS = st.sampled_from([FUNCTION, [CALL, FUNCTION], [{}]]).map(json.dumps)
SPOKEN = st.builds(said, st.just("gpt"), WORDS) | st.builds(said, st.just("function_call"), CALL_TEXTS)
TURNS = st.lists(SPOKEN | st.builds(said, st.sampled_from(["human", "observation"]), WORDS), max_size=3).map(
    lambda turns: [said("human", "a"), *turns, said("gpt", "b")]
)
ANSWER = st.lists(REPLY | REPLY | CALLED, min_size=1, max_size=1)
ROWS: dict[Format, st.SearchStrategy[dict[str, Any]]] = {
    "messages": st.fixed_dictionaries({"messages": SPEECHES, "tools": TOOLS}),
    "sharegpt": st.fixed_dictionaries({"conversations": TURNS, "tools": TOOLS}, optional={"system": WORDS}),
    "prompt_completion": st.fixed_dictionaries(
        {"prompt": WORDS | WORDS.map("### Instruction:\n{}\n\n### Response:\n".format), "completion": WORDS}
    ),
    "alpaca": st.fixed_dictionaries(
        {"instruction": WORDS, "output": WORDS},
        optional={"input": WORDS, "system": WORDS, "history": st.lists(st.lists(WORDS, min_size=2, max_size=2))},
    ),
    "preference": st.fixed_dictionaries({"chosen": WORDS, "rejected": WORDS}, optional={"prompt": WORDS}),
    "preference_chat": st.fixed_dictionaries(
        {"prompt": QUESTIONS, "chosen": ANSWER, "rejected": ANSWER, "tools": TOOLS}
    ),
    "preference_sharegpt": st.fixed_dictionaries(
        {"conversations": st.just([said("human", "a")]), "chosen": SPOKEN, "rejected": SPOKEN, "tools": TOOLS}
    ),
}
WAYS = [(source, target) for source in ROWS for target in targets_of(source)]


@pytest.mark.parametrize(("source", "target"), WAYS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_converted_there_and_back_is_used_as_before(
    source: Format, target: Format, data: st.DataObject
) -> None:
    row = data.draw(ROWS[source])
    if check_row(row, source) is not None or lost_by(row, source, target) is not None:
        return

    there = convert(row, source, target)
    back = convert(there, target, source)

    assert check_row(there, target) is None
    assert detect(there) == target
    assert normalise_row(back, source) == normalise_row(row, source)
