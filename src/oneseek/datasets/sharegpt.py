"""ShareGPT's turns (`from`, `value`) as messages, and back.

A `function_call` holds JSON of one call or of a list of calls. It belongs to the assistant's turn right before it, or
is a turn without words. An `observation` is what a tool answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from oneseek.datasets.faults import Fault, check_text, encodable, kind_of
from oneseek.datasets.messages import as_function, check_calls, nth

_CALL: Final = "function_call"

ROLE_OF: Final[Mapping[str, str]] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    _CALL: "assistant",
    "observation": "tool",
    "tool": "tool",
}


def check_turns(turns: object, where: str) -> Fault | None:
    """Each turn by itself; `check_order` judges them together.

    where: the field that holds them, in quotes.
    """
    if not isinstance(turns, list):
        return Fault("wrong-type", f"{where} is {kind_of(turns)}, not a list")
    if not turns:
        return Fault("empty-content", f"{where} is empty")
    numbered = enumerate(turns, 1)
    return next((fault for number, turn in numbered if (fault := check_turn(turn, nth(number, where)))), None)


def check_turn(turn: object, where: str) -> Fault | None:
    if not isinstance(turn, dict):
        return Fault("wrong-type", f"{where} is {kind_of(turn)}, not an object")
    for field in ("from", "value"):
        if turn.get(field) is None:
            return Fault("missing-field", f"{where} has no '{field}'")
    speaker, value = turn["from"], turn["value"]
    if not isinstance(speaker, str):
        return Fault("wrong-type", f"the 'from' of {where} is {kind_of(speaker)}, not text")
    if speaker not in ROLE_OF:
        return Fault("unknown-role", f"{where} is from the unknown {speaker[:40]!r} (known: {', '.join(ROLE_OF)})")
    silent = ROLE_OF[speaker] == "tool"  # a tool that found nothing says nothing
    fault = check_text(value, f"the 'value' of {where}", may_be_empty=silent)
    return fault or (_check_call(value, where) if speaker == _CALL else None)


def turn_speakers(turns: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Of checked turns, what `check_order` takes: a call that goes on with the assistant's turn does not count."""
    before = None
    for number, turn in enumerate(turns, 1):
        role = ROLE_OF[turn["from"]]
        if turn["from"] != _CALL or before != role:
            yield number, role
        before = role


def messages_of(turns: Iterable[Mapping[str, Any]], system: str | None = None) -> list[dict[str, Any]]:
    """The messages that checked turns stand for, in the form in which messages are used."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system and system.strip() else []
    for turn in turns:
        role = ROLE_OF[turn["from"]]
        if turn["from"] != _CALL:
            messages.append({"role": role, "content": turn["value"]})
            continue
        if not messages or messages[-1]["role"] != role:
            messages.append({"role": role, "content": ""})
        calls = messages[-1].setdefault("tool_calls", [])
        calls += [as_function(call) for call in _calls_in(turn["value"])]
    return messages


def turns_of(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turns for messages in the form in which they are used. What turns have no place for is left out."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        calls = [bare(call) for call in message.get("tool_calls", ())]
        if message["content"] or not calls:
            turns.append({"from": _FROM[message["role"]], "value": message["content"]})
        if calls:
            value = msgspec.json.encode(calls if len(calls) > 1 else calls[0]).decode()
            turns.append({"from": _CALL, "value": value})
    return turns


def bare(described: dict[str, Any]) -> dict[str, Any]:
    """A tool or a call as ShareGPT writes it: the function alone, where that says all."""
    inside = described.get("function")
    if isinstance(inside, dict) and as_function(inside) == described:
        return inside
    return described


_FROM: Final = {"system": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def _check_call(value: str, where: str) -> Fault | None:
    calls = _calls_in(value)
    if not calls:
        return Fault("wrong-type", f"the 'value' of {where} is not JSON of a call")
    return check_calls(calls, where)


def _calls_in(value: str) -> list[Any]:
    try:
        calls = msgspec.json.decode(value) if encodable(value) else None
    except (msgspec.DecodeError, RecursionError):
        return []
    if isinstance(calls, dict):
        return [calls]
    return calls if isinstance(calls, list) else []
