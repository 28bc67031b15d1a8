"""A row as the text that a model learns from, with the characters that its loss counts.

The text of a conversation is made by the base model's own chat template, in a sandbox. Which characters are the
assistant's is read from the template's `{% generation %}` tags; where it has none, from how the rendering grows turn by
turn. Nothing is guessed: a template that does not show where its answers are is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
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
    `documents` as none, `raise_exception`, `tojson`), except `strftime_now`: a rendering must not depend on the clock.
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
                found: its rendering of the first turns is not how the rendering of all begins.
        """
        text = self.render(messages)
        turns = self._tagged_turns(messages, text) if self._has_generation_tags else self._grown_turns(messages, text)
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
        """Turn i spans from the rendering of what precedes it, asking for an answer, to the rendering with it."""
        turns: list[Span] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self.render(messages[:index], add_generation_prompt=True)
            until = text if index + 1 == len(messages) else self.render(messages[: index + 1])
            turn = Span(len(before), len(until))
            after_last = not turns or turns[-1].end <= turn.start
            if not (text.startswith(until) and until.startswith(before) and after_last):
                raise _hidden_answers(f"its rendering does not grow turn by turn (message {index + 1})")
            turns.append(turn)
        if all(turn.start == turn.end for turn in turns):
            raise _hidden_answers("there is no assistant turn in what it renders")
        return turns

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
