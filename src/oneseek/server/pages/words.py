"""The languages of the page. Templates and modules are written in English; `words/sv/` says it in Swedish, a file for
each page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

DIRECTORY = Path(__file__).parent / "words"
LANGUAGES: Final = {"en": "English", "sv": "Svenska"}

_IN_A_MODULE = re.compile(
    r"""\b_n?\(\s*(?:[^"'`(),]+(?:\([^()]*\))?[^"'`(),]*,\s*)?((?:"(?:[^"\\]|\\.)*"(?:,\s*)?)+)"""
)
_LITERAL = re.compile(r'"(?:[^"\\]|\\.)*"')
_PREFERRED = re.compile(r"([a-z]+)(?:-[\w-]+)?(?:;q=([0-9.]+))?")
_LONGEST = 500  # characters of Accept-Language that are read


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """What English texts are called in a language; English has none, since nothing is another word there."""
    if language == "en":
        return {}
    words: dict[str, str] = {}
    for path in sorted((DIRECTORY / language).glob("*.json")):
        words |= json.loads(path.read_text("utf-8"))
    return words


def translator(language: str) -> Callable[..., str]:
    """What templates call as `_`: a text in a language, its `{names}` replaced by values."""
    words = catalogue(language)

    def say(text: str, **values: object) -> str:
        said = words.get(text, text)
        return said.format(**values) if values else said

    return say


def said_in(module: str) -> frozenset[str]:
    """The texts that a module passes to `_` and `_n`: double-quoted, as they stand in the catalogue."""
    texts = (json.loads(each) for found in _IN_A_MODULE.findall(module) for each in _LITERAL.findall(found))
    return frozenset(texts)


def translated(module: str, language: str) -> str:
    """A module that says its texts in a language: nothing has to be sent besides, and nothing looked up."""
    words = catalogue(language)

    def each(literal: re.Match[str]) -> str:
        text = json.loads(literal[0])
        return json.dumps(words[text], ensure_ascii=False) if text in words else literal[0]

    def call(found: re.Match[str]) -> str:
        begin = found.start(1) - found.start()
        return found[0][:begin] + _LITERAL.sub(each, found[1])

    return _IN_A_MODULE.sub(call, module)


def preferred(chosen: str | None, accepted: str) -> str:
    """The language to answer in: the one that somebody chose, else the first that the browser asks for.

    accepted: of the header Accept-Language.
    """
    if chosen in LANGUAGES:
        return str(chosen)
    asked: list[tuple[float, int, str]] = []
    for place, part in enumerate("".join(accepted[:_LONGEST].lower().split()).split(",")):
        found = _PREFERRED.fullmatch(part)
        quality = _quality(found[2]) if found else 0.0
        if found and quality > 0 and found[1] in LANGUAGES:
            asked.append((-quality, place, found[1]))
    return min(asked)[2] if asked else "en"


def remembered(name: str, cookies: str) -> str:
    """The word that a page keeps in a cookie, "" where there is none. Strangers may send the header too: nothing that
    stands in it takes long to read, or hides the word.

    cookies: of the header Cookie.
    """
    found = re.search(rf"(?:^|; ?){name}=([a-z]+)(?:;|$)", cookies)
    return found[1] if found else ""


def _quality(written: str | None) -> float:
    try:
        return float(written) if written else 1.0
    except ValueError:
        return 0.0
