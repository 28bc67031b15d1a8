"""Where the assistant's turns are in a rendered conversation.

They are read from the template's `{% generation %}` tags; where it has none, from how the rendering grows turn by turn,
or round a mark in the answer's place. Nothing is guessed: a template that does not show where its answers are is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from oneseek.chat.template import ChatTemplate, Message, Tools
from oneseek.errors import DatasetError

# Noncharacters: no text for interchange holds them (Unicode 16, section 23.7).
_BEGIN: Final = "\ufdd0"
_END: Final = "\ufdd1"
_ANSWER: Final = "\ufdd2"


class Span(msgspec.Struct, frozen=True):
    """Characters `start` up to, not including, `end` of a text."""

    start: int
    end: int

    def of(self, text: str) -> str:
        return text[self.start : self.end]


def find_turns(
    messages: Sequence[Message], text: str, template: ChatTemplate, tools: Tools | None = None
) -> list[Span]:
    """The assistant's turns with their end markers, in order and disjoint.

    One for each tagged block, empty ones too, where the template has generation tags; else one for each message of the
    assistant. `text` is what the template renders of `messages` and `tools`.

    Raises:
        DatasetError: the template does not let them be found, or one of its renderings fails.
        ModelError: the template does what the sandbox forbids.
    """
    if template.has_generation_tags:
        return _tagged_turns(messages, text, template, tools)
    return _Growth(messages, text, template, tools).turns()


def turns_after(prompt: Sequence[Message], messages: Sequence[Message], turns: Sequence[Span]) -> list[Span]:
    """Of the turns of `messages`, as `find_turns` gives them, those that come after the messages of `prompt`, with
    which `messages` begins.

    Raises:
        DatasetError: there are answers in the prompt, and not one turn for each answer.
    """
    before = len(spoken(prompt))
    if before and len(turns) != len(spoken(messages)):
        raise _hidden_answers("its generation tags do not tell those in the prompt from those after it")
    return list(turns[before:])


def _tagged_turns(messages: Sequence[Message], text: str, template: ChatTemplate, tools: Tools | None) -> list[Span]:
    if _BEGIN in text or _END in text:
        raise _reserved("U+FDD0 or U+FDD1", "these characters")
    marked = template.render(messages, tools=tools, generation_marks=(_BEGIN, _END))
    pieces = re.split(f"([{_BEGIN}{_END}])", marked)  # text, mark, text, mark, …, text
    if "".join(pieces[::2]) != text or pieces[1::2] != [_BEGIN, _END] * (len(pieces) // 4):
        raise _hidden_answers("its generation tags are nested, or what stands in them is changed afterwards")
    ends = [0]
    for piece in pieces[::2]:
        ends.append(ends[-1] + len(piece))
    turns = [Span(start, end) for start, end in zip(ends[1:-1:2], ends[2:-1:2], strict=True)]
    if all(turn.start == turn.end for turn in turns):
        raise _hidden_answers("its generation tags mark nothing in this conversation")
    return turns


class _Marked(msgspec.Struct, frozen=True):
    """A conversation in which a mark stands for each answer, its rendering, and where the marks are in that."""

    messages: list[Message]
    text: str
    places: tuple[int, ...]


class _Growth:
    """How the rendering of one conversation grows, turn by turn.

    Where each turn begins and ends is read from the rendering of what precedes it and of what ends with it. A template
    may render a turn otherwise once others follow (its thought is taken out, the text's end is not there yet). Its
    place is then read from a second rendering, in which a mark stands for each answer; all text round the answer must
    be equal in both, or the row is refused.
    """

    def __init__(self, messages: Sequence[Message], text: str, template: ChatTemplate, tools: Tools | None) -> None:
        self._messages, self._text, self._template = messages, text, template
        self._render = partial(template.render, tools=tools) if tools else template.render
        self._spoken = spoken(messages)

    def turns(self) -> list[Span]:
        prompt = self._standing_prompt()
        marked: _Marked | None = None
        turns: list[Span] = []
        reached = 0
        for nth, index in enumerate(self._spoken):
            turn = self._grown_turn(index, prompt)
            if turn is None or turn.start < reached:
                marked = marked or self._marked(index)
                turn = self._turn_round_mark(nth, marked)
            if turn.start < reached:
                raise _hidden_answers(f"message {index + 1} begins before the answer ahead of it ends")
            turns.append(turn)
            reached = turn.end
        if all(turn.start == turn.end for turn in turns):
            raise _hidden_answers("there is no assistant turn in what it renders")
        return turns

    def _standing_prompt(self) -> str:
        """The generation prompt of a template that prints it even where none is asked for; "" for all others.

        It is what follows the end of the last answer's turn. That end is told by a question put after it: what stands
        between the two is the end of a turn and the header of a question, and the latter also begins a conversation.
        """
        if self._prompted(len(self._messages)) != self._text or not self._spoken:
            return ""
        last = self._spoken[-1]
        history, answer, question = self._messages[:last], self._messages[last], {"role": "user", "content": _ANSWER}
        if self._render([*history, answer, question]).startswith(self._render([*history, answer])):
            return ""
        marked = [*history, _with_mark(answer, last)]
        between = self._render([*marked, question]).split(_ANSWER)
        opening = self._template.render([question]).split(_ANSWER)[0].removeprefix(self._template.bos_token)
        after = self._render(marked).split(_ANSWER)
        if len(between) == 3 and len(after) == 2 and between[1].endswith(opening):
            end = between[1].removesuffix(opening)
            prompt = after[1].removeprefix(end)
            if after[1].startswith(end) and self._render(history).endswith(prompt):
                return prompt
        raise _hidden_answers("it prints its generation prompt even where none is asked for, or rewrites history")

    def _prompted(self, index: int) -> str:
        """What stands before message `index`, up to where the assistant would begin to speak."""
        return self._render(self._messages[:index], add_generation_prompt=True)

    def _grown_turn(self, index: int, standing_prompt: str) -> Span | None:
        """A turn that stands in the text as in the rendering that ends with it, but for an EOS at a text's end."""
        before = self._prompted(index)
        until = self._text if index + 1 == len(self._messages) else self._render(self._messages[: index + 1])
        until = until.removesuffix(standing_prompt)
        if not (self._text.startswith(before) and until.startswith(before)):
            return None
        end = self._end_of(until.removeprefix(before), self._text, len(before))
        return None if end is None else Span(len(before), end)

    def _end_of(self, ending: str, text: str, at: int = 0) -> int | None:
        """Where `ending` ends that begins at `at`, with its EOS or without; None where it is not there."""
        for end in (ending, ending.removesuffix(self._template.eos_token)):
            if text.startswith(end, at):
                return at + len(end)
        return None

    def _marked(self, index: int) -> _Marked:
        if any(_ANSWER in content_of(message) for message in self._messages):
            raise _reserved("U+FDD2", "this character")
        messages = list(self._messages)
        for place in self._spoken:
            messages[place] = _with_mark(messages[place], place)
        text = self._render(messages)
        places = tuple(at for at, char in enumerate(text) if char == _ANSWER)
        if len(places) != len(self._spoken):
            raise _hidden_answers(f"not every answer stands once in what it renders (message {index + 1})")
        return _Marked(messages, text, places)

    def _turn_round_mark(self, nth: int, marked: _Marked) -> Span:
        """From the generation prompt before an answer, or from the answer where the history has another prompt, to
        the end that the answer's turn has when it is the last."""
        index, mark = self._spoken[nth], marked.places[nth]
        start = self._answer_start(index, mark, marked)
        limit, marked_limit = len(self._text), len(marked.text)
        if nth + 1 < len(self._spoken):
            limit, marked_limit, _ = self._beginning(self._spoken[nth + 1], marked)
        after = marked.text[mark + 1 : marked_limit]  # from the end of the answer to the next one's header
        tail = self._render(marked.messages[: index + 1]).rpartition(_ANSWER)[2]
        answer_end = limit - len(after)
        if answer_end >= start and self._text.startswith(after, answer_end):
            end = self._end_of(tail, after)
            if end is not None:
                return Span(start, answer_end + end)
        raise _hidden_answers(f"it renders message {index + 1} otherwise once others follow")

    def _answer_start(self, index: int, mark: int, marked: _Marked) -> int:
        history, marked_history, before = self._beginning(index, marked)
        if self._text.startswith(before):
            return len(before)
        header = marked.text[marked_history:mark]
        if self._text.startswith(header, history):
            return history + len(header)
        raise _hidden_answers(f"the header of message {index + 1} depends on what is in it")

    def _beginning(self, index: int, marked: _Marked) -> tuple[int, int, str]:
        """How long the history before message `index` is, in the text and in the marked text; and it with a prompt."""
        history, marked_history = self._render(self._messages[:index]), self._render(marked.messages[:index])
        before = self._prompted(index)
        grows = self._text.startswith(history) and marked.text.startswith(marked_history)
        if not (grows and before.startswith(history)):
            raise _hidden_answers(f"what comes before message {index + 1} changes with it")
        return len(history), len(marked_history), before


# -- messages ------------------------------------------------------------------------------------------------------


def spoken(messages: Sequence[Message]) -> list[int]:
    """The places of the assistant's messages."""
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


def content_of(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def function_name(call: Mapping[str, Any]) -> str:
    """What a tool call calls, or a tool is called, in either of the forms in use; "" where it does not say."""
    inside = call.get("function")
    name = (inside if isinstance(inside, Mapping) else call).get("name")
    return name if isinstance(name, str) else ""


def with_function_name(call: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same call or tool by another name."""
    inside = call.get("function")
    if isinstance(inside, Mapping):
        return {**call, "function": {**inside, "name": name}}
    return {**call, "name": name}


def _with_mark(message: Message, index: int) -> Message:
    """The message with a mark for its content or, where it only calls tools, for the name of its last call."""
    if content_of(message).strip():
        return {**message, "content": _ANSWER}
    *calls, last = message.get("tool_calls") or [{}]
    if not function_name(last):
        raise _hidden_answers(f"message {index + 1} is empty, which leaves nothing to find it by")
    return {**message, "tool_calls": [*calls, with_function_name(last, _ANSWER)]}


# -- refusals ------------------------------------------------------------------------------------------------------


def _hidden_answers(why: str) -> DatasetError:
    return DatasetError(
        f"The chat template does not let the answers be found: {why}.",
        "Put {% generation %} and {% endgeneration %} round the assistant's turns in the template, or select another "
        "base model.",
    )


def _reserved(names: str, them: str) -> DatasetError:
    return DatasetError(
        f"The conversation holds {names}, which Unicode reserves and OneSeek marks answers with.",
        f"Remove {them} from the row.",
    )
