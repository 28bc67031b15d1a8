"""The formats of a row: which one it has, whether it can be used, and the form in which it is used.

A row is what one line of JSONL, or one element of a JSON array, decodes to. Rules judge and never repair: a row that
`check_row` refuses is reported as it stands.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec

from oneseek.datasets.alpaca import check_alpaca, prompt_of
from oneseek.datasets.faults import Fault, FaultKind, check_text, kind_of
from oneseek.datasets.messages import (
    check_messages,
    check_order,
    check_somebody_answers,
    check_tools,
    normalise_message,
    normalise_tools,
    speakers,
)
from oneseek.datasets.preference import shared_messages, shared_text
from oneseek.datasets.sharegpt import check_turn, check_turns, messages_of, turn_speakers

__all__ = [
    "COLUMNS_OF",
    "FIELDS_OF",
    "METHOD_OF",
    "STRATEGY_OF",
    "USED_AS",
    "Fault",
    "FaultKind",
    "Format",
    "Holds",
    "Method",
    "Strategy",
    "UsedFormat",
    "canonical",
    "check_row",
    "detect",
    "no_format",
    "normalise_row",
    "row_digest",
]

Row = Mapping[str, Any]
UsedFormat = Literal["messages", "text", "prompt_completion", "preference", "preference_chat"]
Format = Literal[
    "messages",
    "sharegpt",
    "text",
    "prompt_completion",
    "alpaca",
    "preference",
    "preference_chat",
    "preference_sharegpt",
]
Strategy = Literal["chat", "standard"]
Method = Literal["sft", "dpo"]
Holds = Literal["text", "messages", "turns", "turn", "history", "tools"]

USED_AS: Final[Mapping[Format, UsedFormat]] = {
    "messages": "messages",
    "sharegpt": "messages",
    "text": "text",
    "prompt_completion": "prompt_completion",
    "alpaca": "prompt_completion",
    "preference": "preference",
    "preference_chat": "preference_chat",
    "preference_sharegpt": "preference_chat",
}
"""The form in which each format's rows are used: that of `normalise_row`."""

STRATEGY_OF: Final[Mapping[Format, Strategy]] = {
    name: "chat" if used in ("messages", "preference_chat") else "standard" for name, used in USED_AS.items()
}
METHOD_OF: Final[Mapping[Format, Method]] = {
    name: "dpo" if used in ("preference", "preference_chat") else "sft" for name, used in USED_AS.items()
}

FIELDS_OF: Final[Mapping[Format, tuple[str, ...]]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "text": ("text",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "preference": ("chosen", "rejected"),
    "preference_chat": ("chosen", "rejected"),
    "preference_sharegpt": ("conversations", "chosen", "rejected"),
}
"""The fields that no row of a format can do without. A preference's `prompt` may be implied."""

COLUMNS_OF: Final[Mapping[Format, Mapping[str, Holds]]] = {
    "messages": {"messages": "messages", "tools": "tools"},
    "sharegpt": {"system": "text", "conversations": "turns", "tools": "tools"},
    "text": {"text": "text"},
    "prompt_completion": {"prompt": "text", "completion": "text"},
    "alpaca": {"system": "text", "history": "history", "instruction": "text", "input": "text", "output": "text"},
    "preference": {"prompt": "text", "chosen": "text", "rejected": "text"},
    "preference_chat": {"prompt": "messages", "chosen": "messages", "rejected": "messages", "tools": "tools"},
    "preference_sharegpt": {
        "system": "text",
        "conversations": "turns",
        "chosen": "turn",
        "rejected": "turn",
        "tools": "tools",
    },
}
"""The fields that each format uses, needed or not, and what they hold; in CSV and Parquet its columns."""

_ANSWERS: Final = ("chosen", "rejected")
_PAIR: Final = ("prompt", *_ANSWERS)

# Where one of these stands beside two texts without a prompt, it is the prompt: what the texts happen to begin with,
# both, is not.
_LIKE_A_PROMPT: Final = ("instruction", "question", "query", "input", "context", "system", "messages", "conversations")


def detect(row: object) -> Format | None:
    """The format that a row's fields have, whatever else is in it. A field that is null counts as absent.

    Exports of preferences often carry a whole chat as `messages` or `conversations` beside their own fields, and
    exports of chats a rendered `text`: so preferences are looked for first and text last. But two texts without a
    prompt are the weakest sign of a preference.
    """
    if not isinstance(row, dict):
        return None
    fields = {name for name, value in row.items() if value is not None}
    if fields.issuperset(_PAIR):
        return _preference_of(row)
    if fields.issuperset(_ANSWERS) and all(isinstance(row[field], list) for field in _ANSWERS):
        return "preference_chat"
    order: tuple[Format, ...] = (
        "preference_sharegpt",
        "messages",
        "sharegpt",
        "prompt_completion",
        "alpaca",
        "preference",
        "text",
    )
    found = next((name for name in order if fields.issuperset(FIELDS_OF[name])), None)
    return _preference_of(row) if found == "preference" else found


def no_format(row: object) -> Fault:
    """Why `detect` finds no format in a row."""
    if not isinstance(row, dict):
        return _not_an_object(row)
    if all(row.get(field) is not None for field in _ANSWERS):
        return _mixed_kinds(row)
    shown = ", ".join(repr(str(field)[:40]) for field in list(row)[:10])
    more = ", …" if len(row) > 10 else ""
    return Fault("no-known-format", f"the row has no known format (fields: {shown or 'none'}{more})")


def check_row(row: object, format: Format) -> Fault | None:  # noqa: A002
    """Why a row cannot be used in a dataset of this format; None where it can."""
    if not isinstance(row, dict):
        return _not_an_object(row)
    for field in FIELDS_OF[format]:
        if row.get(field) is None:
            own = detect(row)
            if own is not None and own != format:
                return Fault("other-format", f"the row's format is {own}, the dataset's is {format}")
            return Fault("missing-field", f"field '{field}' is {'null' if field in row else 'missing'}")
    return _CHECKS[format](row)


def normalise_row(row: Row, format: Format) -> dict[str, Any]:  # noqa: A002
    """The row in the form `USED_AS[format]`, with only the fields that are used. It must have passed `check_row`."""
    return _NORMAL_FORMS[format](row)


def row_digest(row: Row) -> bytes:
    """SHA-256 (32 bytes) of a normalised row as JSON with sorted keys: equal rows have equal digests."""
    return hashlib.sha256(canonical(row)).digest()


def canonical(value: object) -> bytes:
    """JSON with sorted keys, of a normalised row or a part of it."""
    return msgspec.json.encode(value, order="sorted")


# -- one format after the other ------------------------------------------------------------------------------------


def _check_chat(row: Row) -> Fault | None:
    messages = row["messages"]
    fault = check_messages(messages, "'messages'")
    if fault:
        return fault
    roles = [message["role"] for message in messages]
    return check_order(enumerate(roles, 1), "'messages'") or check_somebody_answers(roles) or check_tools(row)


def _chat(row: Row) -> dict[str, Any]:
    return {"messages": [normalise_message(message) for message in row["messages"]], **normalise_tools(row)}


def _check_sharegpt(row: Row) -> Fault | None:
    fault = _check_turns_in_order(row)
    return fault or check_somebody_answers(role for _, role in turn_speakers(row["conversations"])) or check_tools(row)


def _sharegpt(row: Row) -> dict[str, Any]:
    return {"messages": messages_of(row["conversations"], row.get("system")), **normalise_tools(row)}


def _check_turns_in_order(row: Row) -> Fault | None:
    where = "'conversations'"
    fault = check_turns(row["conversations"], where) or check_text(row.get("system"), "'system'", may_be_empty=True)
    before = "system" if row.get("system") else None
    return fault or check_order(turn_speakers(row["conversations"]), where, before)


def _check_fields(*fields: str) -> Callable[[Row], Fault | None]:
    return lambda row: next((fault for field in fields if (fault := check_text(row[field], f"'{field}'"))), None)


def _fields(*fields: str) -> Callable[[Row], dict[str, Any]]:
    return lambda row: {field: row[field] for field in fields}


def _alpaca(row: Row) -> dict[str, Any]:
    return {"prompt": prompt_of(row), "completion": row["output"]}


# -- preferences ---------------------------------------------------------------------------------------------------


def _preference_of(row: Row) -> Format | None:
    """What most of the fields hold, so that a stray one misleads no other row; None where none is of any use."""
    values = [row.get(field) for field in _PAIR]
    texts, lists = (sum(isinstance(value, kind) for value in values) for kind in (str, list))
    if not texts and not lists:
        return None
    return "preference_chat" if lists > texts else "preference"


def _check_preference(row: Row) -> Fault | None:
    implied = row.get("prompt") is None
    fields = _ANSWERS if implied else _PAIR
    fault = _check_kinds(row, fields) or _check_fields(*fields)(row)
    if fault:
        return fault
    other = next((field for field in _LIKE_A_PROMPT if row.get(field) is not None), None) if implied else None
    if other is not None:
        return Fault("missing-field", f"there is no 'prompt'; if '{other}' is it, give it that name")
    used = _preference(row)
    if not used["prompt"].strip():
        return _no_prompt("words")
    return _check_difference(used)


def _preference(row: Row) -> dict[str, Any]:
    if row.get("prompt") is not None:
        return {field: row[field] for field in _PAIR}
    chosen, rejected = row["chosen"], row["rejected"]
    end = shared_text(chosen, rejected)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def _check_preference_chat(row: Row) -> Fault | None:
    implied = _prompt_is_implied(row)
    fields = _ANSWERS if implied else _PAIR
    fault = _check_kinds(row, fields) or next(
        (fault for field in fields if (fault := check_messages(row[field], f"'{field}'"))), None
    )
    fault = fault or (_check_conversations(row) if implied else _check_prompt_and_answers(row))
    return fault or check_tools(row) or _check_difference(_preference_chat(row))


def _preference_chat(row: Row) -> dict[str, Any]:
    chosen, rejected = ([normalise_message(message) for message in row[field]] for field in _ANSWERS)
    if not _prompt_is_implied(row):
        prompt = [normalise_message(message) for message in row["prompt"]]
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **normalise_tools(row)}
    end = shared_messages(chosen, rejected)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:], **normalise_tools(row)}


def _prompt_is_implied(row: Row) -> bool:
    """Whether the answers are whole conversations: without a `prompt`, or with one that is the text of a question in
    them."""
    prompt, chosen = row.get("prompt"), row["chosen"]
    if prompt is None or not (isinstance(prompt, str) and isinstance(chosen, list)):
        return prompt is None
    questions = (message for message in chosen if isinstance(message, dict) and message.get("role") == "user")
    return any(question.get("content") == prompt for question in questions)


def _check_prompt_and_answers(row: Row) -> Fault | None:
    last = row["prompt"][-1]["role"]
    fault = check_order(speakers(row["prompt"]), "'prompt'")
    if fault or last not in _ASKING:
        return fault or _ends_with(last, "'prompt'")
    answers = (check_order(speakers(row[field]), f"'{field}'", "the prompt") for field in _ANSWERS)
    return next((fault for fault in answers if fault), None)


def _check_conversations(row: Row) -> Fault | None:
    orders = (check_order(speakers(row[field]), f"'{field}'") for field in _ANSWERS)
    fault = next((fault for fault in orders if fault), None)
    return fault or (None if _preference_chat(row)["prompt"] else _no_prompt("messages and then answer"))


def _check_preference_sharegpt(row: Row) -> Fault | None:
    fault = _check_turns_in_order(row)
    if fault:
        return fault
    *_, (_, last) = turn_speakers(row["conversations"])
    if last not in _ASKING:
        return _ends_with(last, "'conversations'")
    for field in _ANSWERS:
        fault = check_turn(row[field], f"'{field}'") or check_order(
            turn_speakers([row[field]]), f"'{field}'", "the prompt"
        )
        if fault:
            return fault
    return check_tools(row) or _check_difference(_preference_sharegpt(row))


def _preference_sharegpt(row: Row) -> dict[str, Any]:
    return {
        "prompt": messages_of(row["conversations"], row.get("system")),
        "chosen": messages_of([row["chosen"]]),
        "rejected": messages_of([row["rejected"]]),
        **normalise_tools(row),
    }


_ASKING: Final = ("user", "tool")  # after whom the assistant may speak


def _ends_with(role: str, where: str) -> Fault:
    return Fault("roles-out-of-order", f"roles out of order: {where} ends with {role}, where user or tool belongs")


def _check_kinds(row: Row, fields: tuple[str, ...]) -> Fault | None:
    """Looked at before the fields one by one: where they differ, none of them is more at fault than the others."""
    return _mixed_kinds(row) if len({kind_of(row[field]) for field in fields}) > 1 else None


def _mixed_kinds(row: Row) -> Fault:
    fields = [field for field in _PAIR if row.get(field) is not None]
    listed = ", ".join(f"{field} is {kind_of(row[field])}" for field in fields)
    them = "all three" if len(fields) > 2 else "both"
    return Fault("wrong-type", f"{listed}: {them} must be text, or {them} lists of messages")


def _no_prompt(what: str) -> Fault:
    return Fault(
        "missing-field", f"there is no 'prompt', and 'chosen' and 'rejected' do not begin with the same {what}"
    )


def _check_difference(used: Row) -> Fault | None:
    # As JSON: in Python 1, 1.0 and true are equal, and an argument of a tool call may differ in just that.
    same = canonical(used["chosen"]) == canonical(used["rejected"])
    return Fault("same-answers", "'chosen' and 'rejected' are the same") if same else None


# -- all of them ---------------------------------------------------------------------------------------------------


def _not_an_object(row: object) -> Fault:
    return Fault("wrong-type", f"the row is {kind_of(row)}, not an object")


_CHECKS: Final[Mapping[Format, Callable[[Row], Fault | None]]] = {
    "messages": _check_chat,
    "sharegpt": _check_sharegpt,
    "text": _check_fields("text"),
    "prompt_completion": _check_fields("prompt", "completion"),
    "alpaca": check_alpaca,
    "preference": _check_preference,
    "preference_chat": _check_preference_chat,
    "preference_sharegpt": _check_preference_sharegpt,
}
_NORMAL_FORMS: Final[Mapping[Format, Callable[[Row], dict[str, Any]]]] = {
    "messages": _chat,
    "sharegpt": _sharegpt,
    "text": _fields("text"),
    "prompt_completion": _fields("prompt", "completion"),
    "alpaca": _alpaca,
    "preference": _preference,
    "preference_chat": _preference_chat,
    "preference_sharegpt": _preference_sharegpt,
}
