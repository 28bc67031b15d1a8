"""The formats of a row: which one it has, whether it can be used, and the form in which it is used.

A row is what one line of JSONL, or one element of a JSON array, decodes to. Rules judge and never repair: a row that
`check_row` refuses is reported as it stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

Format = Literal["messages", "text", "prompt_completion", "preference", "preference_chat"]
Strategy = Literal["chat", "standard"]
Method = Literal["sft", "dpo"]

STRATEGY_OF: Final[Mapping[Format, Strategy]] = {
    "messages": "chat",
    "text": "standard",
    "prompt_completion": "standard",
    "preference": "standard",
    "preference_chat": "chat",
}

METHOD_OF: Final[Mapping[Format, Method]] = {
    "messages": "sft",
    "text": "sft",
    "prompt_completion": "sft",
    "preference": "dpo",
    "preference_chat": "dpo",
}

# In the order in which they are looked for: exports of preferences often carry a whole chat as `messages` beside their
# three fields, and exports of chats a rendered `text` beside their `messages`. Preferences come as text or as messages,
# in the same fields; their values tell which.
FIELDS_OF: Final[Mapping[Format, tuple[str, ...]]] = {
    "preference": ("prompt", "chosen", "rejected"),
    "preference_chat": ("prompt", "chosen", "rejected"),
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}

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

_DEEPEST: Final = 32  # levels of lists and objects in tool_calls; far above any real call, far below Python's stack


def detect(row: object) -> Format | None:
    """The format that a row's fields have, whatever else is in it. A field that is null counts as absent."""
    if not isinstance(row, dict):
        return None
    found: Format | None = next(
        (name for name, fields in FIELDS_OF.items() if all(row.get(field) is not None for field in fields)), None
    )
    return _preference_of(row) if found == "preference" else found


def check_row(row: object, format: Format) -> str | None:  # noqa: A002
    """Why a row cannot be used in a dataset of this format, in plain words; None where it can."""
    if not isinstance(row, dict):
        return f"the row is {_kind(row)}, not an object"
    missing = next((field for field in FIELDS_OF[format] if row.get(field) is None), None)
    if missing is not None:
        own = detect(row)
        if own is not None:
            return f"the row's format is {own}, the dataset's is {format}"
        return f"field '{missing}' is {'null' if missing in row else 'missing'}"
    if METHOD_OF[format] == "dpo" and (reason := _check_same_kind(row)):
        return reason
    check = _check_messages if STRATEGY_OF[format] == "chat" else _check_text
    reason = next((reason for field in FIELDS_OF[format] if (reason := check(row[field], f"'{field}'"))), None)
    return reason or _check_whole(row, format)


def normalise_row(row: Mapping[str, Any], format: Format) -> dict[str, Any]:  # noqa: A002
    """Only the fields that are used, content parts joined. The row must have passed `check_row`."""
    fields = FIELDS_OF[format]
    if STRATEGY_OF[format] == "chat":
        return {field: [_normalise_message(message) for message in row[field]] for field in fields}
    return {field: row[field] for field in fields}


def row_digest(row: Mapping[str, Any]) -> bytes:
    """SHA-256 (32 bytes) of a normalised row as JSON with sorted keys: equal rows have equal digests."""
    return hashlib.sha256(_canonical(row)).digest()


def _preference_of(row: Mapping[str, Any]) -> Format | None:
    """What most of the three fields hold, so that a stray one misleads no other row; None where none is of any use."""
    values = [row[field] for field in FIELDS_OF["preference"]]
    texts, lists = (sum(isinstance(value, kind) for value in values) for kind in (str, list))
    if not texts and not lists:
        return None
    return "preference_chat" if lists > texts else "preference"


def _canonical(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")


def _check_whole(row: Mapping[str, Any], format: Format) -> str | None:  # noqa: A002
    """What the fields don't show one by one: who speaks after whom, and that chosen and rejected differ."""
    if format == "messages":
        return _check_order(row["messages"], "'messages'") or _check_somebody_answers(row["messages"])
    if METHOD_OF[format] == "sft":
        return None
    reason = _check_prompt_and_answers(row) if format == "preference_chat" else None
    return reason or _check_difference(normalise_row(row, format))


def _check_same_kind(row: Mapping[str, Any]) -> str | None:
    """Looked at before the fields one by one: where they differ, none of them is more at fault than the others."""
    kinds = {field: _kind(row[field]) for field in FIELDS_OF["preference"]}
    if len(set(kinds.values())) == 1:
        return None
    listed = ", ".join(f"{field} is {kind}" for field, kind in kinds.items())
    return f"{listed}: all three must be text, or all three lists of messages"


def _check_messages(messages: object, where: str) -> str | None:
    if not isinstance(messages, list):
        return f"{where} is {_kind(messages)}, not a list"
    if not messages:
        return f"{where} is empty"
    reasons = (_check_message(message, _nth(number, where)) for number, message in enumerate(messages, 1))
    return next((reason for reason in reasons if reason), None)


def _nth(number: int, where: str) -> str:
    """`message 2`, with its field where a row has several lists of messages."""
    return f"message {number}" if where == "'messages'" else f"message {number} of {where}"


def _check_message(message: object, where: str) -> str | None:
    if not isinstance(message, dict):
        return f"{where} is {_kind(message)}, not an object"
    role = message.get("role")
    if role is None:
        return f"{where} has no role"
    if not isinstance(role, str):
        return f"the role of {where} is {_kind(role)}, not text"
    if role not in ROLES:
        return f"{where} has the unknown role {role[:40]!r} (known: {', '.join(ROLES)})"
    calls = message.get("tool_calls") or None
    if calls is not None:
        return _check_calls(calls, role, where) or _check_content(message.get("content"), where, may_be_empty=True)
    # A tool that found nothing says nothing.
    return _check_content(message.get("content"), where, may_be_empty=role == "tool")


def _check_content(content: object, where: str, *, may_be_empty: bool) -> str | None:
    if content is None:
        return None if may_be_empty else f"{where} has no content"
    if isinstance(content, list):
        for part in content:
            reason = _check_part(part, where)
            if reason:
                return reason
        content = _joined(content)
    if may_be_empty and isinstance(content, str) and not content.strip():
        return None
    return _check_text(content, f"the content of {where}")


def _check_part(part: object, where: str) -> str | None:
    if not isinstance(part, dict):
        return f"a content part of {where} is {_kind(part)}, not an object"
    if part.get("type") != "text":
        return f"{where} has a content part of type {str(part.get('type'))[:40]!r}; only text can be trained on"
    if not isinstance(part.get("text"), str):
        return f"the text of a content part of {where} is {_kind(part.get('text'))}, not text"
    return None


def _check_calls(calls: object, role: str, where: str) -> str | None:
    if role != "assistant":
        return f"{where} has tool_calls, which only an assistant makes"
    if not isinstance(calls, list):
        return f"tool_calls of {where} is {_kind(calls)}, not a list"
    if not all(isinstance(call, dict) for call in calls):
        return f"tool_calls of {where} holds something that is not an object"
    return _check_value(calls, f"tool_calls of {where}", _DEEPEST)


def _check_value(value: object, where: str, levels: int) -> str | None:
    """What is passed on as it stands must be encodable again wherever the row goes."""
    if levels < 0:
        return f"{where} is nested too deeply"
    if isinstance(value, str):
        return None if _encodable(value) else f"{where} holds half of a surrogate pair, which is not a character"
    if isinstance(value, dict):
        inside: list[object] = [*value.keys(), *value.values()]
    elif isinstance(value, list):
        inside = value
    else:
        return None
    return next((reason for item in inside if (reason := _check_value(item, where, levels - 1))), None)


def _check_order(messages: list[dict[str, Any]], where: str, before: str | None = None) -> str | None:
    for number, message in enumerate(messages, 1):
        role = message["role"]
        if role not in _NEXT[before]:
            expected = " or ".join(_NEXT[before])
            place = "comes first" if before is None else f"follows {before}"
            return f"roles out of order: {_nth(number, where)} is {role} and {place}, where {expected} belongs"
        before = role
    return None


def _check_somebody_answers(messages: list[dict[str, Any]]) -> str | None:
    roles = {message["role"] for message in messages}
    if roles == {"system"}:
        return "there is only a system message"
    return None if "assistant" in roles else "there is no assistant turn"


def _check_prompt_and_answers(row: Mapping[str, Any]) -> str | None:
    prompt, last = row["prompt"], row["prompt"][-1]["role"]
    reason = _check_order(prompt, "'prompt'")
    if reason or last not in ("user", "tool"):
        return reason or f"roles out of order: 'prompt' ends with {last}, where user or tool belongs"
    answers = (_check_order(row[field], f"'{field}'", "the prompt") for field in ("chosen", "rejected"))
    return next((reason for reason in answers if reason), None)


def _check_difference(used: Mapping[str, Any]) -> str | None:
    # As JSON: in Python 1, 1.0 and true are equal, and an argument of a tool call may differ in just that.
    same = _canonical(used["chosen"]) == _canonical(used["rejected"])
    return "'chosen' and 'rejected' are the same" if same else None


def _check_text(value: object, where: str) -> str | None:
    if not isinstance(value, str):
        return f"{where} is {_kind(value)}, not text"
    if not value.strip():
        return f"{where} is empty"
    return None if _encodable(value) else f"{where} holds half of a surrogate pair, which is not a character"


def _normalise_message(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    used: dict[str, Any] = {
        "role": message["role"],
        "content": _joined(content) if isinstance(content, list) else content or "",
    }
    if message["role"] == "assistant" and message.get("tool_calls"):
        used["tool_calls"] = message["tool_calls"]
    if message["role"] == "tool":
        # Templates name the call that a result belongs to; what is not text there is nothing they could print.
        used |= {name: message[name] for name in ("name", "tool_call_id") if _is_text(message.get(name))}
    return used


def _joined(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and _encodable(value)


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
