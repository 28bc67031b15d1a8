"""Rows from one format into another, where nothing is lost on the way.

Conversations, and prompts with their completions, become one another by way of `messages`; preferences by way of
`preference_chat`. What a row becomes must be good in its new format and, converted back, be used just as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from oneseek.datasets.alpaca import has, prompt_of, question_of, split_prompt, split_question
from oneseek.datasets.formats import Format, check_row, normalise_row, row_digest
from oneseek.datasets.sharegpt import bare, turns_of
from oneseek.errors import DatasetError

Row = Mapping[str, Any]

_FAMILIES: Final[tuple[tuple[Format, ...], ...]] = (
    ("messages", "sharegpt", "prompt_completion", "alpaca"),
    ("preference_chat", "preference_sharegpt", "preference"),
    ("text",),
)


def targets_of(format: Format) -> tuple[Format, ...]:  # noqa: A002
    """The other formats that rows of a format can become, if nothing of them is lost."""
    family = next(family for family in _FAMILIES if format in family)
    return tuple(name for name in family if name != format)


def convert(row: Row, source: Format, target: Format) -> dict[str, Any]:
    """The row in the format `target`. It must have passed `check_row` in its own, `source`.

    Raises:
        DatasetError: `target` is none of `targets_of(source)`, or something would be lost.
    """
    try:
        return _converted_and_back(row, source, target)
    except _Lost as lost:
        raise DatasetError(
            f"The row cannot be converted from {source} to {target}: {lost}.", "Leave it in its format."
        ) from lost


def lost_by(row: Row, source: Format, target: Format) -> str | None:
    """Why `convert` refuses a row, in plain words; None where it does not."""
    try:
        _converted_and_back(row, source, target)
    except _Lost as lost:
        return str(lost)
    return None


class _Lost(Exception):
    """What would be lost, in plain words."""


def _converted_and_back(row: Row, source: Format, target: Format) -> dict[str, Any]:
    converted = _converted(row, source, target)
    fault = check_row(converted, target)
    if fault:
        raise _Lost(f"it would be refused there, because {fault.reason}")
    before = normalise_row(row, source)
    after = normalise_row(_converted(converted, target, source), source)
    if row_digest(before) != row_digest(after):
        raise _Lost(f"{_changed(before, after)} has no place in {target}")
    return converted


def _converted(row: Row, source: Format, target: Format) -> dict[str, Any]:
    if source == target:
        return dict(row)
    if target not in targets_of(source):
        raise _Lost(f"rows of {source} become {' or '.join(targets_of(source)) or 'nothing else'}")
    direct = _DIRECT.get((source, target))
    return direct(row) if direct else _FROM_HUB[target](_TO_HUB[source](row))


def _changed(before: object, after: object, where: str = "something") -> str:
    """The innermost field in which two values differ first. Which message it is of is not said: rows that lose the same
    are told together."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in before:
            if name not in after or before[name] != after[name]:
                return _changed(before[name], after.get(name), f"'{name}'")
    if isinstance(before, list) and isinstance(after, list):
        for one, other in zip(before, after, strict=False):
            if one != other:
                return _changed(one, other, where)
    return where


# -- prompts and completions ---------------------------------------------------------------------------------------


def _alpaca_to_prompt(row: Row) -> dict[str, Any]:
    return {"prompt": prompt_of(row), "completion": row["output"]}


def _prompt_to_alpaca(row: Row) -> dict[str, Any]:
    fields = split_prompt(row["prompt"])
    if fields is None:
        raise _Lost("its prompt has not the headings that say what is the instruction")
    return {**fields, "output": row["completion"]}


_DIRECT: Final[Mapping[tuple[Format, Format], Callable[[Row], dict[str, Any]]]] = {
    ("alpaca", "prompt_completion"): _alpaca_to_prompt,
    ("prompt_completion", "alpaca"): _prompt_to_alpaca,
}


# -- into messages -------------------------------------------------------------------------------------------------


def _said(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def _prompt_to_messages(row: Row) -> dict[str, Any]:
    return {"messages": [_said("user", row["prompt"]), _said("assistant", row["completion"])]}


def _alpaca_to_messages(row: Row) -> dict[str, Any]:
    turns = [*(row.get("history") or ()), (question_of(row), row["output"])]
    messages = [_said("system", row["system"])] if has(row, "system") else []
    for question, answer in turns:
        messages += [_said("user", question), _said("assistant", answer)]
    return {"messages": messages}


def _preference_to_chat(row: Row) -> dict[str, Any]:
    used = normalise_row(row, "preference")
    answers = {field: [_said("assistant", used[field])] for field in ("chosen", "rejected")}
    return {"prompt": [_said("user", used["prompt"])], **answers}


_TO_HUB: Final[Mapping[Format, Callable[[Row], dict[str, Any]]]] = {
    "messages": lambda row: normalise_row(row, "messages"),
    "sharegpt": lambda row: normalise_row(row, "sharegpt"),
    "prompt_completion": _prompt_to_messages,
    "alpaca": _alpaca_to_messages,
    "preference_chat": lambda row: normalise_row(row, "preference_chat"),
    "preference_sharegpt": lambda row: normalise_row(row, "preference_sharegpt"),
    "preference": _preference_to_chat,
}


# -- out of messages -----------------------------------------------------------------------------------------------


def _chat_to_sharegpt(row: Row) -> dict[str, Any]:
    return {"conversations": turns_of(row["messages"]), **_bare_tools(row)}


def _pair_to_sharegpt(row: Row) -> dict[str, Any]:
    answers = {field: _only_turn(turns_of(row[field]), field) for field in ("chosen", "rejected")}
    return {"conversations": turns_of(row["prompt"]), **answers, **_bare_tools(row)}


def _bare_tools(row: Row) -> dict[str, Any]:
    return {"tools": [bare(tool) for tool in row["tools"]]} if "tools" in row else {}


def _only_turn(turns: Sequence[dict[str, Any]], field: str) -> dict[str, Any]:
    if len(turns) != 1:
        raise _Lost(f"'{field}' has more than one turn")
    return turns[0]


def _chat_to_prompt(row: Row) -> dict[str, Any]:
    _require_no_tools(row, row["messages"])
    prompt, completion = _contents(row["messages"], ["user", "assistant"], "it")
    return {"prompt": prompt, "completion": completion}


def _chat_to_alpaca(row: Row) -> dict[str, Any]:
    _require_no_tools(row, row["messages"])
    turns = list(row["messages"])
    fields = {"system": turns.pop(0)["content"]} if turns[0]["role"] == "system" else {}
    if turns[-1]["role"] != "assistant":
        raise _Lost("its last question has no answer")
    texts = [turn["content"] for turn in turns]
    *history, (question, output) = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    return {**fields, **({"history": history} if history else {}), **split_question(question), "output": output}


def _pair_to_preference(row: Row) -> dict[str, Any]:
    _require_no_tools(row, [*row["prompt"], *row["chosen"], *row["rejected"]])
    (prompt,) = _contents(row["prompt"], ["user"], "'prompt'")
    answers = {field: _contents(row[field], ["assistant"], f"'{field}'")[0] for field in ("chosen", "rejected")}
    return {"prompt": prompt, **answers}


def _require_no_tools(row: Row, messages: Sequence[Row]) -> None:
    if "tools" in row or any("tool_calls" in message or message["role"] == "tool" for message in messages):
        raise _Lost("it has tools or calls of them")


def _contents(messages: Sequence[Row], roles: Sequence[str], where: str) -> list[str]:
    if [message["role"] for message in messages] != roles:
        raise _Lost(f"{where} has more than one message of the {' and one of the '.join(roles)}")
    return [message["content"] for message in messages]


_FROM_HUB: Final[Mapping[Format, Callable[[Row], dict[str, Any]]]] = {
    "messages": dict,
    "sharegpt": _chat_to_sharegpt,
    "prompt_completion": _chat_to_prompt,
    "alpaca": _chat_to_alpaca,
    "preference_chat": dict,
    "preference_sharegpt": _pair_to_sharegpt,
    "preference": _pair_to_preference,
}
