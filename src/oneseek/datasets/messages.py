"""Conversations: what a list of messages must be, and the form in which it is used.

The form is Hugging Face's for chat templates: `{"role": ..., "content": text}`; an assistant's `tool_calls` and a row's
`tools` as `{"type": "function", "function": {...}}`, a call's arguments as an object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from oneseek.datasets.faults import Fault, check_text, check_value, encodable, kind_of

ROLES: Final = ("system", "user", "assistant", "tool")

# Who may speak after whom; None is the start of the conversation, "the prompt" what both answers of a pair follow.
_NEXT: Final[Mapping[str | None, tuple[str, ...]]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
    "the prompt": ("assistant",),
}


def check_messages(messages: object, where: str) -> Fault | None:
    """Each message by itself; `check_order` judges them together.

    where: the field that holds them, in quotes, as in all functions here.
    """
    if not isinstance(messages, list):
        return Fault("wrong-type", f"{where} is {kind_of(messages)}, not a list")
    if not messages:
        return Fault("empty-content", f"{where} is empty")
    for number, message in enumerate(messages, 1):
        fault = _check_message(message, number, where)
        if fault is not None:
            return fault
    return None


def check_order(speakers: Iterable[tuple[int, str]], where: str, before: str | None = None) -> Fault | None:
    """Whether each role may speak after the one before it.

    speakers: the number of each message and its role. before: the role that speaks ahead of them, "the prompt", or
    None where they begin the conversation.
    """
    for number, role in speakers:
        if role not in _NEXT[before]:
            expected = " or ".join(_NEXT[before])
            place = "comes first" if before is None else f"follows {before}"
            return Fault(
                "roles-out-of-order",
                f"roles out of order: {nth(number, where)} is {role} and {place}, where {expected} belongs",
            )
        before = role
    return None


def check_somebody_answers(roles: Iterable[str]) -> Fault | None:
    spoken = set(roles)
    if "assistant" in spoken:
        return None
    only_system = spoken == {"system"}
    return Fault("no-assistant-turn", "there is only a system message" if only_system else "there is no assistant turn")


def check_tools(row: Mapping[str, Any]) -> Fault | None:
    """The functions that a row offers to the model: a list of objects, or JSON text of one."""
    if not row.get("tools"):
        return None
    tools = _read(row["tools"])
    if isinstance(tools, str):
        return Fault("wrong-type", "'tools' is text, but not JSON of a list") if tools.strip() else None
    return _check_objects(tools, "'tools'")


def speakers(messages: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, str]]:
    """Of checked messages, what `check_order` takes."""
    return enumerate([message["role"] for message in messages], 1)


def normalise_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Only what is used of a checked message, content parts joined."""
    content = message.get("content")
    role = message["role"]
    used: dict[str, Any] = {"role": role, "content": _joined(content) if isinstance(content, list) else content or ""}
    if role == "assistant":
        if message.get("tool_calls"):
            used["tool_calls"] = [as_function(call) for call in message["tool_calls"]]
    elif role == "tool":
        # Templates name the call that a result belongs to; what is not text there is nothing they could print.
        used |= {name: message[name] for name in ("name", "tool_call_id") if _is_text(message.get(name))}
    return used


def normalise_tools(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """`{"tools": [...]}` of a checked row; nothing where it has none."""
    tools = _read(row["tools"]) if row.get("tools") else None
    return {"tools": [as_function(tool) for tool in tools]} if isinstance(tools, list) and tools else {}


def as_function(described: dict[str, Any]) -> dict[str, Any]:
    """A tool or a call of one in the one form that templates are written for.

    Arguments are often given as JSON text, as OpenAI's interface does. Templates print them as JSON, so the text would
    be quoted once more.
    """
    if not isinstance(described.get("function"), dict):
        if not isinstance(described.get("name"), str):
            return described
        described = {"type": "function", "function": described}
    function = described["function"]
    if isinstance(function.get("arguments"), str):
        arguments = _read(function["arguments"])
        if isinstance(arguments, dict):
            return {**described, "function": {**function, "arguments": arguments}}
    return described


def check_calls(calls: object, where: str) -> Fault | None:
    """The calls of one message of the assistant."""
    return _check_objects(calls, f"tool_calls of {where}")


def nth(number: int, where: str) -> str:
    """`message 2`, with its field where a row has several lists of messages."""
    return f"message {number}" if where == "'messages'" else f"message {number} of {where}"


def _check_message(message: object, number: int, where: str) -> Fault | None:
    if not isinstance(message, dict):
        return Fault("wrong-type", f"{nth(number, where)} is {kind_of(message)}, not an object")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        return _bad_role(role, nth(number, where))
    if len(message) > 2 and (fault := _check_unread(message, nth(number, where))):
        return fault
    calls = message.get("tool_calls")
    if calls:
        where = nth(number, where)
        if role != "assistant":
            return Fault("unsupported-content", f"{where} has tool_calls, which only an assistant makes")
        return check_calls(calls, where) or _check_content(content, where, may_be_empty=True)
    if isinstance(content, str) and content.isascii() and not content.isspace() and content:
        return None  # nearly all messages, and no words are made for them
    # A tool that found nothing says nothing.
    return _check_content(content, nth(number, where), may_be_empty=role == "tool")


def _check_unread(message: Mapping[str, Any], where: str) -> Fault | None:
    """Fields that say what is to be learned, which nobody here reads: leaving them out would teach something else."""
    if message.get("weight") == 0 and message["role"] == "assistant":
        return Fault("unsupported-content", f"{where} has weight 0, but every answer of a chat is learned")
    for name, instead in _UNREAD.items():
        if message.get(name):
            return Fault("unsupported-content", f"{where} has {name}, which is not read: {instead}")
    return None


_UNREAD: Final[Mapping[str, str]] = {
    "function_call": "write tool_calls",
    "reasoning_content": "write it into the content as the template does, or remove it",
}


def _bad_role(role: object, where: str) -> Fault:
    if role is None:
        return Fault("missing-field", f"{where} has no role")
    if not isinstance(role, str):
        return Fault("wrong-type", f"the role of {where} is {kind_of(role)}, not text")
    return Fault("unknown-role", f"{where} has the unknown role {role[:40]!r} (known: {', '.join(ROLES)})")


def _check_content(content: object, where: str, *, may_be_empty: bool) -> Fault | None:
    if content is None and not may_be_empty:
        return Fault("missing-field", f"{where} has no content")
    if isinstance(content, list):
        for part in content:
            fault = _check_part(part, where)
            if fault:
                return fault
        content = _joined(content)
    return check_text(content, f"the content of {where}", may_be_empty=may_be_empty)


def _check_part(part: object, where: str) -> Fault | None:
    if not isinstance(part, dict):
        return Fault("wrong-type", f"a content part of {where} is {kind_of(part)}, not an object")
    if part.get("type") != "text":
        kind = str(part.get("type"))[:40]
        return Fault("unsupported-content", f"{where} has a content part of type {kind!r}; only text can be trained on")
    if not isinstance(part.get("text"), str):
        return Fault("wrong-type", f"the text of a content part of {where} is {kind_of(part.get('text'))}, not text")
    return None


def _check_objects(values: object, where: str) -> Fault | None:
    if not isinstance(values, list):
        return Fault("wrong-type", f"{where} is {kind_of(values)}, not a list")
    if not all(isinstance(value, dict) for value in values):
        return Fault("wrong-type", f"{where} holds something that is not an object")
    return check_value([as_function(value) for value in values], where)


def _read(value: object) -> object:
    """What JSON text says; the text itself where it is not JSON, and whatever else as it is."""
    if not isinstance(value, str) or not encodable(value):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _joined(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and encodable(value)
