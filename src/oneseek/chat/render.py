"""A row as the text that a model learns from, with the characters that its loss counts; a preference as two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from oneseek.chat.answers import find_answers, require_printed_calls, require_printed_tools
from oneseek.chat.template import ChatTemplate, Message, Tools
from oneseek.chat.turns import Span, find_turns, turns_after
from oneseek.errors import DatasetError, ModelError


class Rendered(msgspec.Struct, frozen=True):
    """What a model learns from one row, or from one answer of a preference.

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


def render_row(row: Mapping[str, Any], format: str, template: ChatTemplate | None, eos: str) -> Rendered:  # noqa: A002
    """A normalised row of any format but preferences, which are two texts each.

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
            return render_messages(row["messages"], _needed(template), row.get("tools"))
        case "prompt_completion":
            return render_completion(row["prompt"], row["completion"], eos)
        case "text":
            return render_text(row["text"], eos)
        case _:
            raise DatasetError(f"{format!r} is not a format that can be rendered.", "Use messages, text or prompts.")


def render_preference(
    row: Mapping[str, Any],
    format: str,  # noqa: A002
    template: ChatTemplate | None,
    eos: str,
) -> tuple[Rendered, Rendered]:
    """The chosen and the rejected answer of a normalised row, each after the whole prompt.

    The loss counts what follows the prompt alone, also where the prompt holds answers. Before that the two texts are
    equal, unless the template writes the prompt otherwise for a longer answer.

    Args:
        row: as `datasets.formats.normalise_row` returns it.
        format: `preference` or `preference_chat`.
        template: the base model's; only `preference_chat` needs one.
        eos: the tokenizer's end-of-sequence token, which ends both answers where no template ends them.

    Raises:
        ModelError, DatasetError: as `render_row`; DatasetError also when the template does not let the answers be told
            from those in the prompt.
    """
    prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
    match format:
        case "preference_chat":
            template, tools = _needed(template), row.get("tools")
            return render_reply(prompt, chosen, template, tools), render_reply(prompt, rejected, template, tools)
        case "preference":
            return render_completion(prompt, chosen, eos), render_completion(prompt, rejected, eos)
        case _:
            raise DatasetError(f"{format!r} is not a format of preferences.", "Use preference or preference_chat.")


def render_messages(messages: Sequence[Message], template: ChatTemplate, tools: Tools | None = None) -> Rendered:
    """The assistant's turns of a conversation are learned. `tools` are those that it may call.

    Raises:
        DatasetError, ModelError: as `ChatTemplate.render`; DatasetError also when the template does not let the
            answers be found, or does not print a tool or a tool call.
    """
    return render_reply((), messages, template, tools)


def render_reply(
    prompt: Sequence[Message], reply: Sequence[Message], template: ChatTemplate, tools: Tools | None = None
) -> Rendered:
    """The assistant's turns in `reply` are learned, those in `prompt` are not.

    Raises:
        DatasetError, ModelError: as `render_messages`; DatasetError also when the template does not let the turns of
            the two be told apart.
    """
    messages = [*prompt, *reply]
    text = template.render(messages, tools=tools)
    if tools:
        require_printed_tools(messages, tools, template)
    turns = find_turns(messages, text, template, tools)
    require_printed_calls(messages, text, turns)
    learned = turns_after(prompt, messages, turns)
    answers = find_answers(reply, text, learned)
    supervised = tuple(turn for turn in learned if turn.start < turn.end)
    return Rendered(text, supervised, answers, sum(len(answer.of(text).encode()) for answer in answers))


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


def _needed(template: ChatTemplate | None) -> ChatTemplate:
    if template is None:
        raise ModelError(
            "The base model has no chat template, and the dataset's rows are messages.",
            "Select a base model with a chat template, or give rows of text.",
        )
    return template
