"""A row as the text that a model learns from, with the characters that its loss counts.

The text of a conversation is made by the base model's own chat template, in a sandbox. Which characters are the
assistant's is read from the template's `{% generation %}` tags; where it has none, from how the rendering grows turn by
turn, or round a mark in its place. Nothing is guessed: a template that does not show where its answers are is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, NoReturn

import msgspec
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from oneseek.errors import DatasetError, ModelError


class Span(msgspec.Struct, frozen=True):
    """Characters `start` up to, not including, `end` of a text."""

    start: int
    end: int


class Rendered(msgspec.Struct, frozen=True):
    """What a model learns from one row.

    `supervised` is what the loss counts: assistant turns with their end-of-turn marker, a completion or a whole text
    with its EOS. `answers` are the answers' own characters (content without surrounding blanks) inside them, and
    `answer_bytes` their UTF-8 bytes: what bits per byte is measured over. Both are ordered and disjoint. `answers` is
    empty and `answer_bytes` 0 where some answer is not found in the text as it was written, or is found twice: the row
    then has no bits per byte.
    """

    text: str
    supervised: tuple[Span, ...]
    answers: tuple[Span, ...]
    answer_bytes: int


Message = Mapping[str, Any]  # role and content, both text; an assistant's tool_calls, a tool's name and tool_call_id


def render_row(row: Mapping[str, Any], format: str, template: ChatTemplate | None, eos: str) -> Rendered:  # noqa: A002
    """A normalised row of any format.

    Args:
        row: as `datasets.formats.normalise_row` returns it.
        format: `messages`, `text` or `prompt_completion`.
        template: the base model's; only `messages` needs one.
        eos: the tokenizer's end-of-sequence token, which ends every row that no template ends.

    Raises:
        ModelError: messages without a template, or a template that does what the sandbox forbids.
        DatasetError: the template cannot render this row, or does not show where its answers are; unknown format.
    """
    match format:
        case "messages":
            if template is None:
                raise ModelError(
                    "The base model has no chat template, and the dataset's rows are messages.",
                    "Select a base model with a chat template, or give rows of text.",
                )
            return template.rendered(row["messages"])
        case "prompt_completion":
            return render_completion(row["prompt"], row["completion"], eos)
        case "text":
            return render_text(row["text"], eos)
        case _:
            raise DatasetError(f"{format!r} is not a format that can be rendered.", "Use messages, text or prompts.")


def render_text(text: str, eos: str) -> Rendered:
    """The whole text and its EOS are learned."""
    return render_completion("", text, eos)


def render_completion(prompt: str, completion: str, eos: str) -> Rendered:
    """The completion and its EOS are learned, right after the prompt: nothing is put between them."""
    text = prompt + completion + eos
    supervised = Span(len(prompt), len(text))
    content = completion.strip()
    if not content:
        return Rendered(text, (supervised,), (), 0)
    start = len(prompt) + len(completion) - len(completion.lstrip())
    return Rendered(text, (supervised,), (Span(start, start + len(content)),), len(content.encode()))


class ChatTemplate:
    """A base model's chat template, compiled once.

    Templates see what transformers shows them (`messages`, `add_generation_prompt`, the special tokens, `tools` and
    `documents` as none, `raise_exception`, `tojson`), but for them it is always the same day (`strftime_now`).
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile.

        Args:
            source: Jinja2 text.
            special_tokens: by the names that templates use, as `bos_token`.

        Raises:
            ModelError: the template has a syntax error; its line and fault are named.
        """
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise ModelError(
                f"The chat template has a syntax error in line {error.lineno}: {error.message}.", _MEND_TEMPLATE
            ) from error
        except (SyntaxError, ValueError, RecursionError) as error:  # Python's limits on what a template compiles to
            raise ModelError(f"The chat template cannot be compiled: {error}.", _MEND_TEMPLATE) from error
        self._has_generation_tags = any(name.name == _BEGIN for name in tree.find_all(nodes.Name))
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = False) -> str:
        """The conversation as text; `add_generation_prompt` ends it where the assistant would go on.

        Raises:
            DatasetError: the template refuses this conversation (its own words are given) or cannot render it.
            ModelError: the template does what the sandbox forbids.
        """
        return self._render(messages, add_generation_prompt=add_generation_prompt, begin="", end="")

    def rendered(self, messages: Sequence[Message]) -> Rendered:
        """The conversation with the spans of its assistant turns.

        Raises:
            DatasetError, ModelError: as `render`; DatasetError also when the template does not let the answers be
                found, or does not print a tool call.
        """
        text = self.render(messages)
        turns = self._tagged_turns(messages, text) if self._has_generation_tags else self._grown_turns(messages, text)
        self._require_printed_calls(messages, text, turns)
        contents = [_content(message).strip() for message in messages if message["role"] == "assistant"]
        answers = _find_answers(text, turns, contents)
        supervised = tuple(turn for turn in turns if turn.start < turn.end)
        return Rendered(text, supervised, answers, sum(len(text[a.start : a.end].encode()) for a in answers))

    def _tagged_turns(self, messages: Sequence[Message], text: str) -> list[Span]:
        if _BEGIN_MARK in text or _END_MARK in text:
            raise DatasetError(
                "The conversation holds U+FDD0 or U+FDD1, which Unicode reserves and OneSeek marks answers with.",
                "Remove these characters from the row.",
            )
        marked = self._render(messages, add_generation_prompt=False, begin=_BEGIN_MARK, end=_END_MARK)
        pieces = _MARKS.split(marked)  # text, mark, text, mark, …, text
        if "".join(pieces[::2]) != text or pieces[1::2] != [_BEGIN_MARK, _END_MARK] * (len(pieces) // 4):
            raise _hidden_answers("its generation tags are nested, or what stands in them is changed afterwards")
        ends = [0]
        for piece in pieces[::2]:
            ends.append(ends[-1] + len(piece))
        turns = [Span(start, end) for start, end in zip(ends[1:-1:2], ends[2:-1:2], strict=True)]
        if all(turn.start == turn.end for turn in turns):
            raise _hidden_answers("its generation tags mark nothing in this conversation")
        return turns

    def _grown_turns(self, messages: Sequence[Message], text: str) -> list[Span]:
        """Where each turn begins and ends is read from the rendering of what precedes it and of what ends with it.

        A template may render a turn otherwise once others follow (its thought is taken out, the text's end is not
        there yet). Its place is then read from a second rendering, in which a mark stands for each answer; all text
        round the answer must be equal in both, or the row is refused.
        """
        prompt = self._standing_prompt(messages, text)
        marked: _Marked | None = None
        turns: list[Span] = []
        for index in (number for number, message in enumerate(messages) if message["role"] == "assistant"):
            before = self.render(messages[:index], add_generation_prompt=True)
            until = text if index + 1 == len(messages) else self.render(messages[: index + 1])
            turn = _grown(text, before, until.removesuffix(prompt), self._eos)
            if turn is None or (turns and turn.start < turns[-1].end):
                marked = marked or self._marked(messages, index)
                turn = self._turn_round_mark(messages, text, index, marked)
            if turns and turn.start < turns[-1].end:
                raise _hidden_answers(f"message {index + 1} begins before the answer ahead of it ends")
            turns.append(turn)
        if all(turn.start == turn.end for turn in turns):
            raise _hidden_answers("there is no assistant turn in what it renders")
        return turns

    def _standing_prompt(self, messages: Sequence[Message], text: str) -> str:
        """The generation prompt of a template that prints it even where none is asked for; "" for all others.

        It is what follows the end of the last answer's turn. That end is told by a question put after it: what stands
        between the two is the end of a turn and the header of a question, and the latter also begins a conversation.
        """
        if self.render(messages, add_generation_prompt=True) != text:
            return ""
        spoken = [index for index, message in enumerate(messages) if message["role"] == "assistant"]
        if not spoken:
            return ""
        answered, question = list(messages[: spoken[-1] + 1]), {"role": "user", "content": _MARK}
        if self.render([*answered, question]).startswith(self.render(answered)):
            return ""
        marked = [*answered[:-1], _with_mark(answered[-1], spoken[-1])]
        between = self.render([*marked, question]).split(_MARK)
        opening = self.render([question]).split(_MARK)[0].removeprefix(self._special_tokens.get("bos_token", ""))
        after = self.render(marked).split(_MARK)
        if len(between) == 3 and len(after) == 2 and between[1].endswith(opening):
            end = between[1].removesuffix(opening)
            prompt = after[1].removeprefix(end)
            if after[1].startswith(end) and self.render(answered[:-1]).endswith(prompt):
                return prompt
        raise _hidden_answers("it prints its generation prompt even where none is asked for, or rewrites history")

    def _marked(self, messages: Sequence[Message], index: int) -> _Marked:
        if any(_MARK in _content(message) for message in messages):
            raise DatasetError(
                f"The conversation holds U+{ord(_MARK):04X}, which Unicode reserves and OneSeek marks answers with.",
                "Remove this character from the row.",
            )
        marked = [_with_mark(m, number) if m["role"] == "assistant" else m for number, m in enumerate(messages)]
        text = self.render(marked)
        places = tuple(place for place, char in enumerate(text) if char == _MARK)
        if len(places) != sum(message["role"] == "assistant" for message in messages):
            raise _hidden_answers(f"not every answer stands once in what it renders (message {index + 1})")
        return _Marked(marked, text, places)

    def _turn_round_mark(self, messages: Sequence[Message], text: str, index: int, marked: _Marked) -> Span:
        """From the generation prompt before an answer, or from the answer where the history has another prompt, to
        the end that the answer's turn has when it is the last."""
        speakers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        nth = speakers.index(index)
        mark = marked.places[nth]
        start = self._answer_start(messages, text, index, marked, mark)
        limit, marked_limit = len(text), len(marked.text)
        if nth + 1 < len(speakers):
            limit, marked_limit = self._beginning(messages, text, speakers[nth + 1], marked)
        after = marked.text[mark + 1 : marked_limit]  # from the end of the answer to the next one's header
        tail = self.render(marked.messages[: index + 1]).rpartition(_MARK)[2]
        answer_end = limit - len(after)
        if answer_end >= start and text.startswith(after, answer_end):
            for end in (tail, tail.removesuffix(self._eos)):
                if after.startswith(end):
                    return Span(start, answer_end + len(end))
        raise _hidden_answers(f"it renders message {index + 1} otherwise once others follow")

    def _answer_start(self, messages: Sequence[Message], text: str, index: int, marked: _Marked, mark: int) -> int:
        history, marked_history = self._beginning(messages, text, index, marked)
        before = self.render(messages[:index], add_generation_prompt=True)
        if text.startswith(before):
            return len(before)
        header = marked.text[marked_history:mark]
        if text.startswith(header, history):
            return history + len(header)
        raise _hidden_answers(f"the header of message {index + 1} depends on what is in it")

    def _beginning(self, messages: Sequence[Message], text: str, index: int, marked: _Marked) -> tuple[int, int]:
        """How long the history before message `index` is, in the text and in the marked text."""
        history, marked_history = self.render(messages[:index]), self.render(marked.messages[:index])
        before = self.render(messages[:index], add_generation_prompt=True)
        if not (text.startswith(history) and marked.text.startswith(marked_history) and before.startswith(history)):
            raise _hidden_answers(f"what comes before message {index + 1} changes with it")
        return len(history), len(marked_history)

    @property
    def _eos(self) -> str:
        return self._special_tokens.get("eos_token", "")

    def _require_printed_calls(self, messages: Sequence[Message], text: str, turns: Sequence[Span]) -> None:
        """A call that the template leaves out would be dropped from what is learned, and nobody would know."""
        speakers = [(number, message) for number, message in enumerate(messages, 1) if message["role"] == "assistant"]
        one_each = len(turns) == len(speakers)
        learned = "".join(text[turn.start : turn.end] for turn in turns)
        for place, (number, message) in enumerate(speakers):
            said = text[turns[place].start : turns[place].end] if one_each else learned
            for call in message.get("tool_calls") or ():
                name = _function_name(call)
                if not name:
                    raise DatasetError(
                        f"A tool call of message {number} has no function name.", "Give every call function.name."
                    )
                if name not in said:
                    raise DatasetError(
                        f"The chat template does not print the tool call {name!r} of message {number}.",
                        "Select a base model whose template takes tool calls, or remove them from the row.",
                    )

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool, begin: str, end: str) -> str:
        values = {
            **self._special_tokens,
            "tools": None,
            "documents": None,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            _BEGIN: begin,
            _END: end,
        }
        try:
            return self._template.render(values)
        except SecurityError as error:
            raise ModelError(f"The chat template does what is forbidden: {error}.", _MEND_TEMPLATE) from error
        except _WHAT_TEMPLATES_RAISE as error:
            raise DatasetError(
                f"The chat template does not render this conversation: {error}.",
                "Change the row to what the template takes, or select another base model.",
            ) from error


class _Marked(msgspec.Struct, frozen=True):
    """A conversation in which a mark stands for each answer, its rendering, and where the marks are in that."""

    messages: list[Message]
    text: str
    places: tuple[int, ...]


def _grown(text: str, before: str, until: str, eos: str) -> Span | None:
    """A turn that stands in the text as in the rendering that ends with it, but for an EOS that only ends the text."""
    if not (text.startswith(before) and until.startswith(before)):
        return None
    turn = until.removeprefix(before)
    for end in (turn, turn.removesuffix(eos)):
        if text.startswith(end, len(before)):
            return Span(len(before), len(before) + len(end))
    return None


def _with_mark(message: Message, index: int) -> Message:
    """The message with a mark for its content or, where it only calls tools, for the name of its last call."""
    if _content(message).strip():
        return {**message, "content": _MARK}
    *calls, last = message.get("tool_calls") or [{}]
    if not _function_name(last):
        raise _hidden_answers(f"message {index + 1} is empty, which leaves nothing to find it by")
    inside = last.get("function")
    named = {**last, "function": {**inside, "name": _MARK}} if isinstance(inside, Mapping) else {**last, "name": _MARK}
    return {**message, "tool_calls": [*calls, named]}


def _function_name(call: Mapping[str, Any]) -> str:
    inside = call.get("function")
    name = (inside if isinstance(inside, Mapping) else call).get("name")
    return name if isinstance(name, str) else ""


# -- the answers inside the turns ----------------------------------------------------------------------------------


def _find_answers(text: str, turns: Sequence[Span], contents: Sequence[str]) -> tuple[Span, ...]:
    """Where each answer's content stands in its turn; nothing at all when one of them is not certain."""
    if len(turns) != len(contents):
        return ()
    answers: list[Span] = []
    for turn, content in zip(turns, contents, strict=True):
        if not content:
            continue
        start = _find_answer(text[turn.start : turn.end], content)
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


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _hidden_answers(why: str) -> DatasetError:
    return DatasetError(
        f"The chat template does not let the answers be found: {why}.",
        "Put {% generation %} and {% endgeneration %} round the assistant's turns in the template, or select another "
        "base model.",
    )


# -- what a template can do ----------------------------------------------------------------------------------------

_MEND_TEMPLATE: Final = "Mend the base model's chat template, or select another base model."

# What Python raises out of a template whose expressions do not fit the conversation, and its own refusals.
_WHAT_TEMPLATES_RAISE: Final = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)

_BEGIN: Final = "oneseek_generation_begins"
_END: Final = "oneseek_generation_ends"
_BEGIN_MARK: Final = "\ufdd0"  # noncharacters: no text for interchange holds them (Unicode 16, section 23.7)
_END_MARK: Final = "\ufdd1"
_MARK: Final = "\ufdd2"
_MARKS: Final = re.compile(f"([{_BEGIN_MARK}{_END_MARK}])")


class _Sandbox(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        """Refuse at once: Jinja's own answer is a value that prints as nothing, and the template would go on."""
        raise SecurityError(f"it reaches for {attribute!r} of {type(obj).__name__!r}")


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: prints two variables round its body, which are empty unless the answers
    are being looked for."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return [_print(_BEGIN, line), nodes.Scope(body, lineno=line), _print(_END, line)]


def _print(variable: str, line: int) -> nodes.Output:
    return nodes.Output([nodes.Name(variable, "load", lineno=line)], lineno=line)


# Templates that write today's date would give other weights tomorrow from the same recipe. So it is always one day:
# the one that Llama 3.1's template falls back on where there is no clock.
_TODAY: Final = date(2024, 7, 26)


def _strftime_now(format: str) -> str:  # noqa: A002
    return _TODAY.strftime(format)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes for HTML, which no base model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
