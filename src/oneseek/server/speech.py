"""In which language who asks is answered: what is said to people, findings and errors, and nothing that is data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any, Final

import msgspec

from oneseek.server.pages import findings
from oneseek.server.pages.words import LANGUAGES, preferred, remembered
from oneseek.server.places import Hide

PATIENCE: Final = 2.0
"""Seconds in which all of a document is said. Only what was made to take long takes longer."""

LANGUAGE: ContextVar[str] = ContextVar("LANGUAGE", default="en")
"""Of who asks for what is done in this context."""

_TEXTS: Final = ("problem", "fix", "message", "warning", "cause", "failed_models", "not_rehearsed", "quarantined")
_SAID: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("error", "failure", "findings", "problems", "damaged", "warnings"), ("problem", "fix", "message")),
    **dict.fromkeys(("examples", "modules"), ("reason",)),
    "checks": ("detail",),
}
"""What is said, by the name under which it stands in a document."""

_DEEPER: Final = frozenset(
    {"bad_rows", "coverage", "datasets", "leaderboard", "models", "rehearsal", "result", "runs", "tasks", *_SAID}
)


def language_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The one language that the header Accept-Language names: a page asks in its own, whatever was chosen in another
    tab meanwhile. Else the one that was chosen, else the first that is known of those that the header lists."""
    found = {name.lower(): value.decode("latin-1") for name, value in headers}
    accepted = found.get(b"accept-language", "")
    if accepted in LANGUAGES:
        return accepted
    return preferred(remembered("language", found.get(b"cookie", "")), accepted)


def spoken(document: Any, *names: str) -> Any:
    """A document of dicts, lists and plain values, with what it says in the language of who asks. What can't be said in
    it stays English, with `language` beside it. names: of texts that only this document has."""
    language = LANGUAGE.get()
    return document if language == "en" else _Saying(language).all(document, (*_TEXTS, *names))


def spoken_json(text: str) -> str:
    """The same of a document as JSON."""
    return text if LANGUAGE.get() == "en" else msgspec.json.encode(spoken(msgspec.json.decode(text))).decode()


def speaking(hide: Hide) -> Hide:
    """The same after `hide`."""
    return lambda document: spoken(hide(document))


class _Saying:
    """One document that is said again, until PATIENCE is over."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._until = time.monotonic() + PATIENCE

    def all(self, document: Any, names: tuple[str, ...]) -> Any:
        if isinstance(document, (list, tuple)):
            return [self.all(each, names) for each in document]
        if isinstance(document, str):
            return self._own({"text": document}, ("text",))["text"] if names != _TEXTS else document
        if not isinstance(document, dict):
            return document
        told = self._own(document, names)
        inside = {name: self.all(value, _SAID.get(name, _TEXTS)) for name, value in told.items() if name in _DEEPER}
        return told | inside

    def _own(self, document: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        """What is said in a document itself, not in those inside it."""
        if time.monotonic() < self._until:
            return findings.said(document, self._language, *names)
        return document | {"language": "en"} if any(document.get(name) for name in names) else document
