"""What a chat template does, found out by rendering short conversations with it.

A template may run for ever or fill the memory: for one that is not trusted, call this in a limited process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from oneseek.chat.render import render_messages
from oneseek.chat.template import ChatTemplate, Message
from oneseek.errors import DatasetError, ModelError


class TemplateTraits(msgspec.Struct, frozen=True, kw_only=True):
    """What a template does with conversations.

    `answers`: how its answers are found: by its `{% generation %}` tags, by how the text grows, or not at all.
    `ends_with` is what it writes after an answer, as far as it is learned; `ends_with_eos`: that has the tokenizer's
    eos_token in it. `default_system`: it writes a system text of its own where the conversation has none.
    `tools`: it prints the tools of a row; `tool_calls` and `tool_results`: those of a conversation.
    `refusals` are its own words, by what it refused: `chat`, `several turns`, `system`, `tools`, `tool calls`.
    """

    renders: bool
    answers: Literal["tags", "growth", "hidden"]
    ends_with: str = ""
    ends_with_eos: bool = False
    several_turns: bool = False
    system: bool = False
    default_system: str = ""
    generation_prompt: bool = False
    tools: bool = False
    tool_calls: bool = False
    tool_results: bool = False
    refusals: dict[str, str] = {}


# Words that no template writes by itself.
_SYSTEM, _ASKED, _SAID, _TOOL, _ARGUMENT, _RESULT = "zqsystem", "zqasked", "zqsaid", "zqtool", "zqargument", "zqresult"

_CHAT: tuple[Message, ...] = ({"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID})
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "Looks something up.",
            "parameters": {"type": "object", "properties": {_ARGUMENT: {"type": "string"}}, "required": [_ARGUMENT]},
        },
    }
]
_CALL = {"id": "call00001", "type": "function", "function": {"name": _TOOL, "arguments": {_ARGUMENT: "x"}}}
_CALLING: tuple[Message, ...] = (
    {"role": "user", "content": _ASKED},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
)
_RESULTING: tuple[Message, ...] = (
    *_CALLING,
    {"role": "tool", "name": _TOOL, "tool_call_id": "call00001", "content": _RESULT},
    {"role": "assistant", "content": _SAID},
)


def probe(template: ChatTemplate) -> TemplateTraits:
    """Render half a dozen short conversations. A template that refuses one, or breaks on it, has that as a trait."""
    trial = _Trial(template)
    if trial.text("chat", _CHAT) is None:
        return TemplateTraits(renders=False, answers="hidden", refusals=trial.refusals)
    ending, found = _ending(template)
    two_turns = trial.text("several turns", (*_CHAT, *_CHAT))
    system = trial.text("system", ({"role": "system", "content": _SYSTEM}, *_CHAT))
    prompted = trial.text("chat", _CHAT[:1], add_generation_prompt=True)
    results = trial.text("tool calls", _RESULTING, tools=_TOOLS)
    return TemplateTraits(
        renders=True,
        answers="hidden" if not found else "tags" if template.has_generation_tags else "growth",
        ends_with=ending,
        ends_with_eos=bool(template.eos_token) and template.eos_token in ending,
        several_turns=two_turns is not None,
        system=system is not None and _SYSTEM in system,
        default_system=_own_words(two_turns, template.bos_token, ending),
        generation_prompt=prompted is not None and prompted != trial.text("chat", _CHAT[:1]),
        tools=_ARGUMENT in (trial.text("tools", _CHAT, tools=_TOOLS) or ""),
        tool_calls=_ARGUMENT in (trial.text("tool calls", _CALLING) or ""),
        tool_results=_RESULT in (results or ""),
        refusals=trial.refusals,
    )


class _Trial:
    """Renderings of one template; what it refuses is kept in `refusals`, the first words for each `what`."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        self.refusals: dict[str, str] = {}

    def text(self, what: str, messages: Sequence[Message], **more: Any) -> str | None:
        try:
            return self._template.render(messages, **more)
        except (DatasetError, ModelError) as error:
            self.refusals.setdefault(what, error.problem)
            return None


def _ending(template: ChatTemplate) -> tuple[str, bool]:
    """What is learned after an answer, and whether the answer is found at all."""
    try:
        rendered = render_messages(_CHAT, template)
    except (DatasetError, ModelError):
        return "", False
    last = rendered.supervised[-1].of(rendered.text)
    return last.rpartition(_SAID)[2], _SAID in last


def _own_words(two_turns: str | None, bos: str, ending: str) -> str:
    """What a template writes before the first question and not before the second.

    A turn's opening marks stand before both of them: the longest text in which both prefixes end. `ending` is what
    closes the answer before the second.
    """
    if two_turns is None or _SAID not in two_turns:
        return ""
    first = two_turns.partition(_ASKED)[0]
    second = two_turns.partition(_SAID)[2].partition(_ASKED)[0].removeprefix(ending)
    marks = first
    while not second.endswith(marks):
        marks = marks[1:]
    return first.removesuffix(marks).removeprefix(bos).strip()
