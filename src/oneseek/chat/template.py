"""A base model's chat template, rendered in a sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from oneseek.errors import DatasetError, ModelError

Message = Mapping[str, Any]  # role and content, both text; an assistant's tool_calls, a tool's name and tool_call_id
Tools = Sequence[Mapping[str, Any]]  # functions that the assistant may call, as JSON schemas


class ChatTemplate:
    """A base model's chat template, compiled once.

    Templates see what transformers shows them (`messages`, `add_generation_prompt`, the special tokens, `tools`,
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
        self._special_tokens = dict(special_tokens)
        self.has_generation_tags = any(name.name == _BEGIN for name in tree.find_all(nodes.Name))
        self.bos_token = special_tokens.get("bos_token", "")
        self.eos_token = special_tokens.get("eos_token", "")

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        add_generation_prompt: bool = False,
        generation_marks: tuple[str, str] = ("", ""),
    ) -> str:
        """The conversation as text.

        Args:
            messages: the conversation.
            tools: what the assistant may call in it; none of them is none, as templates expect.
            add_generation_prompt: end the text where the assistant would go on.
            generation_marks: what to print at the beginning and at the end of each `{% generation %}` block.

        Raises:
            DatasetError: the template refuses this conversation (its own words are given) or cannot render it.
            ModelError: the template does what the sandbox forbids.
        """
        begin, end = generation_marks
        values = {
            **self._special_tokens,
            "tools": tools or None,
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


class _Sandbox(ImmutableSandboxedEnvironment):
    def unsafe_undefined(self, obj: object, attribute: str) -> NoReturn:
        """Refuse at once: Jinja's own answer is a value that prints as nothing, and the template would go on."""
        raise SecurityError(f"it reaches for {attribute!r} of {type(obj).__name__!r}")


# -- what a template can use ---------------------------------------------------------------------------------------

_BEGIN: Final = "oneseek_generation_begins"
_END: Final = "oneseek_generation_ends"


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
