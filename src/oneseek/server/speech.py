"""In which language who asks is answered: what is said to people, findings and errors, and nothing that is data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from oneseek.server.pages import findings
from oneseek.server.pages.words import preferred, remembered
from oneseek.server.places import Hide

LANGUAGE: ContextVar[str] = ContextVar("LANGUAGE", default="en")
"""Of who asks for what is done in this context."""

_TEXTS: Final = ("problem", "fix", "message", "warning")
_SAID: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("error", "failure", "findings", "problems", "damaged", "warnings"), ("problem", "fix", "message")),
    **dict.fromkeys(("examples", "modules"), ("reason",)),
}
"""What is said, by the name under which it stands in a document."""

_DEEPER: Final = frozenset({"bad_rows", "coverage", "datasets", "models", "result", "runs", "tasks", *_SAID})


def language_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The language that was chosen on a page, else the one that the header Accept-Language asks for."""
    found = {name.lower(): value.decode("latin-1") for name, value in headers}
    return preferred(remembered("language", found.get(b"cookie", "")), found.get(b"accept-language", ""))


def spoken(document: Any) -> Any:
    """A document of dicts, lists and plain values, with what it says in the language of who asks. What can't be said in
    it stays English, with `language` beside it."""
    language = LANGUAGE.get()
    return document if language == "en" else _spoken(document, language, _TEXTS)


def speaking(hide: Hide) -> Hide:
    """The same after `hide`."""
    return lambda document: spoken(hide(document))


def _spoken(document: Any, language: str, names: tuple[str, ...]) -> Any:
    if isinstance(document, (list, tuple)):
        return [_spoken(each, language, names) for each in document]
    if isinstance(document, str):
        return findings.said({"text": document}, language, "text")["text"] if names != _TEXTS else document
    if not isinstance(document, dict):
        return document
    told = findings.said(document, language, *names)
    inside = {
        name: _spoken(value, language, _SAID.get(name, _TEXTS)) for name, value in told.items() if name in _DEEPER
    }
    return told | inside
