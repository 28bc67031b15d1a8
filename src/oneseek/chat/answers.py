"""What a rendering must show: the answers' own characters, the tool calls, and the tools."""

from __future__ import annotations

from collections.abc import Sequence

from oneseek.chat.template import ChatTemplate, Message, Tools
from oneseek.chat.turns import Span, content_of, function_name, spoken, with_function_name
from oneseek.errors import DatasetError


def find_answers(messages: Sequence[Message], text: str, turns: Sequence[Span]) -> tuple[Span, ...]:
    """Where each answer's content stands in its turn; nothing at all when one of them is not certain."""
    contents = [content_of(messages[index]).strip() for index in spoken(messages)]
    if len(turns) != len(contents):
        return ()
    answers: list[Span] = []
    for turn, content in zip(turns, contents, strict=True):
        if not content:
            continue
        start = _find_answer(turn.of(text), content)
        if start is None:
            return ()
        answers.append(Span(turn.start + start, turn.start + start + len(content)))
    return tuple(answers)


def _find_answer(turn: str, content: str) -> int | None:
    """At the beginning of the turn, or else at the only place where it stands: a turn may hold markup such as
    `assistant`, and an answer that is such a word must not be found there."""
    blanks = len(turn) - len(turn.lstrip())
    if turn.startswith(content, blanks):
        return blanks
    start = turn.find(content)
    return start if start >= 0 and turn.find(content, start + 1) < 0 else None


def require_printed_calls(messages: Sequence[Message], text: str, turns: Sequence[Span]) -> None:
    """A call that the template leaves out would be dropped from what is learned, and nobody would know.

    Raises:
        DatasetError: a tool call without a name, or one whose name is not in its turn.
    """
    speaking = spoken(messages)
    said = [turn.of(text) for turn in turns]
    if len(turns) != len(speaking):  # nobody knows which turn is whose
        said = ["".join(said)] * len(speaking)
    for index, turn in zip(speaking, said, strict=True):
        for call in messages[index].get("tool_calls") or ():
            name = function_name(call)
            if not name:
                raise DatasetError(
                    f"A tool call of message {index + 1} has no function name.", "Give every call function.name."
                )
            if name not in turn:
                raise DatasetError(
                    f"The chat template does not print the tool call {name!r} of message {index + 1}.",
                    "Select a base model whose template takes tool calls, or remove them from the row.",
                )


def require_printed_tools(messages: Sequence[Message], tools: Tools, template: ChatTemplate) -> None:
    """Tools that the template leaves out would be lost, and the model would learn to call what it was never shown.

    They are looked for by other names than their own, which also stand in the calls.

    Raises:
        DatasetError: a tool without a name, or one that the template does not print.
    """
    marks = [f"tool_{number}_of_oneseek" for number in range(len(tools))]
    marked = [with_function_name(tool, mark) for tool, mark in zip(tools, marks, strict=True)]
    text = template.render(messages, tools=marked)
    for number, (tool, mark) in enumerate(zip(tools, marks, strict=True), 1):
        name = function_name(tool)
        if not name:
            raise DatasetError(f"Tool {number} of the row has no function name.", "Give every tool function.name.")
        if mark not in text:
            raise DatasetError(
                f"The chat template does not print the row's tool {name!r}.",
                "Select a base model whose template takes tools, or remove `tools` from the row.",
            )
