"""Alpaca's fields as one text, and back: `instruction`, `input`, `output`; `system` and `history` where a row has them.

The text has a heading for each part, with an empty line between parts:

    ### Instruction:
    Translate to Swedish.

    ### Input:
    Good morning

    ### Response:

What follows the last heading is the output. A system text stands before the first heading, and each earlier question
and answer of `history` as an instruction and a response of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from oneseek.datasets.faults import Fault, check_text, kind_of

_INSTRUCTION: Final = "### Instruction:\n"
_INPUT: Final = "### Input:\n"
_RESPONSE: Final = "### Response:\n"
_GAP: Final = "\n\n"
_HEADING: Final = re.compile(r"(?:\A|\n\n)### (Instruction|Input|Response):\n")


def check_alpaca(row: Mapping[str, Any]) -> Fault | None:
    fields = {"instruction": False, "input": True, "output": False, "system": True}
    texts = (
        check_text(row.get(field), f"'{field}'", may_be_empty=may_be_empty) for field, may_be_empty in fields.items()
    )
    return next((fault for fault in texts if fault), None) or _check_history(row.get("history"))


def prompt_of(row: Mapping[str, Any]) -> str:
    """What stands before the output of a checked row."""
    parts = [row["system"]] if has(row, "system") else []
    for question, answer in row.get("history") or ():
        parts += [_INSTRUCTION + question, _RESPONSE + answer]
    parts.append(_INSTRUCTION + row["instruction"])
    if has(row, "input"):
        parts.append(_INPUT + row["input"])
    return _GAP.join([*parts, _RESPONSE])


def split_prompt(prompt: str) -> dict[str, Any] | None:
    """The fields, but for the output, whose `prompt_of` is this; None where there are none."""
    system, *rest = _HEADING.split(prompt)
    names, texts = rest[::2], rest[1::2]
    asked = len(names) - (3 if names[-2:-1] == ["Input"] else 2)  # the place of the last instruction
    if asked < 0:
        return None
    fields: dict[str, Any] = {"system": system} if system else {}
    if asked:
        fields["history"] = [list(turn) for turn in zip(texts[:asked:2], texts[1:asked:2], strict=False)]
    fields["instruction"] = texts[asked]
    if names[asked + 1] == "Input":
        fields["input"] = texts[asked + 1]
    return fields if prompt_of(fields) == prompt else None


def question_of(row: Mapping[str, Any]) -> str:
    """The instruction of a checked row, and its input under its heading."""
    return _GAP.join([row["instruction"], *([_INPUT + row["input"]] if has(row, "input") else [])])


def split_question(question: str) -> dict[str, Any]:
    """The fields whose `question_of` is this."""
    instruction, _, given = question.partition(_GAP + _INPUT)
    whole = not (instruction.strip() and given.strip())
    return {"instruction": question} if whole else {"instruction": instruction, "input": given}


def has(row: Mapping[str, Any], field: str) -> bool:
    """Whether a field of a checked row holds more than blanks."""
    return bool(row.get(field) and row[field].strip())


def _check_history(history: object) -> Fault | None:
    if history is None:
        return None
    if not isinstance(history, list):
        return Fault("wrong-type", f"'history' is {kind_of(history)}, not a list")
    for number, turn in enumerate(history, 1):
        if not isinstance(turn, list) or len(turn) != 2:
            return Fault("wrong-type", f"turn {number} of 'history' is not a list of a question and its answer")
        for text, name in zip(turn, ("question", "answer"), strict=True):
            fault = check_text(text, f"the {name} of turn {number} of 'history'")
            if fault:
                return fault
    return None
