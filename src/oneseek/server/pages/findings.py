"""Findings and errors in the language of who reads them. They are said in English; `words/findings/` says them again.

A phrase there has places for values: `{model} has no chat template.` What stands in `{name}` is a name, a number or a
path and stays as it is; in `{#name}` there is no blank in it, `{%name}` is a size, and `{.name}` a number that a form
takes back with the signs of its language, never one that is typed into a file. `{+name}` is a phrase, said
again too, `{=name}` a phrase or a value, and `{?name}` what others have said, a library or a template, in whatever
words. A phrase that begins with `~` is only ever a part of others. Whatever can't be said so stays English, whole:
nobody is told half of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from string import Formatter
from typing import Any, Final

DIRECTORY: Final = Path(__file__).parent / "words" / "findings"

LONGEST: Final = 20_000
"""Characters of a text that is said again; findings that list rows of a dataset may be longer than anybody reads."""

_UNGROUPED: Final = 4  # digits that are read at a glance
_TRIES: Final = 2000  # ways in which phrases may lie in a text, and in the values of its phrases
_PLACES: Final = 64  # at which the words behind a value may begin
_SEAMS: Final = 80  # of a text: a finding names three rows of each kind
_DEEPEST: Final = 50  # phrases in phrases
_KINDS: Final = "+=#?%."
_LETTER: Final = re.compile(r"[^\W\d_]")
_SEAM: Final = re.compile(r"(?<=[.!?…:])\s+|\n\s*")
_END_OF_A_SENTENCE: Final = re.compile(r"[.!?]\s+[^\s\da-zåäö]|\n")
_BLANK: Final = re.compile(r"\s")
_QUOTED: Final = re.compile(r"(?<!\w)b?'[^']*'|\"[^\"]*\"|`[^`]*`")  # the sign in "the run's" opens nothing
_PROSE: Final = re.compile(r"(?<!\S)(?:and|are|can't|cannot|has|is|it|its|no|not|of|or|the|this|to|with)(?![\w/.-])")
_SIZE: Final = re.compile(r"\d[\d,.]*(?: [A-Za-z]+)?")
_PLAIN: Final = re.compile(r"(-?)(\d+)(?:\.(\d+))?(e[+-]?\d+)?")
_GROUPED: Final = re.compile(r"\d{1,3}(,\d{3})+")
_MEASURED: Final = re.compile(r"(\d+)\.(\d+)( (?:[kMGT]i?B|B|s))")


@dataclass(frozen=True)
class _Phrase:
    """`words` stand around the places: one more of them than places. `said` is what to say instead, by the places'
    names."""

    words: tuple[str, ...]
    places: tuple[str, ...]
    said: str
    part: bool

    @property
    def length(self) -> int:
        return sum(map(len, self.words))


class Translator:
    """phrases: English to the other language, as the files have them."""

    def __init__(self, phrases: Mapping[str, str]) -> None:
        made = [_phrase(english, said) for english, said in phrases.items()]
        # What has most words of its own is what was meant.
        self._phrases = sorted(made, key=lambda phrase: (-phrase.length, len(phrase.places)))
        self.say = lru_cache(1024)(self._say)

    def _say(self, text: str) -> str | None:
        """A text in the other language; None where not all of it can be said."""
        return _Saying(self._phrases).text(text) if len(text) <= LONGEST else None


class _Saying:
    """One text that is said again. How much is tried for it is bounded: parts of it come from outside."""

    def __init__(self, phrases: Sequence[_Phrase]) -> None:
        self._phrases = phrases
        self._left = _TRIES
        self._depth = 0
        self._known: dict[tuple[str, bool], str | None] = {}

    def text(self, text: str) -> str | None:
        """As one phrase, or as several, one behind the other."""
        if not text or (said := self._phrase(text)) is not None:
            return said if text else ""
        seams = [(seam.start(), seam.group(), seam.end()) for seam in _SEAM.finditer(text)][:_SEAMS]
        behind: dict[int, str | None] = {len(text): ""}  # what is said of the text from a seam on
        for start in (*(end for _, _, end in reversed(seams)), 0):
            ends = [seam for seam in seams if seam[0] > start] + [(len(text), "", len(text))]
            behind[start] = next(
                (
                    said + between + rest
                    for end, between, following in ends
                    if (rest := behind[following]) is not None and (said := self._phrase(text[start:end])) is not None
                ),
                None,
            )
        return behind[0]

    def _phrase(self, text: str, *, part: bool = False) -> str | None:
        if (text, part) not in self._known:
            self._known[text, part] = None  # a phrase of nothing but a place would ask for itself
            self._depth += 1
            if self._depth <= _DEEPEST:
                self._known[text, part] = next(self._said(text, part=part), None)
            self._depth -= 1
        return self._known[text, part]

    def _said(self, text: str, *, part: bool) -> Iterator[str]:
        for phrase in self._phrases:
            if (part or not phrase.part) and text.startswith(phrase.words[0]):
                for values in _values(phrase, text):
                    self._left -= 1
                    if self._left < 0:
                        return
                    again = self._again(phrase, values)
                    if again is not None:
                        yield phrase.said.format(**again)

    def _again(self, phrase: _Phrase, values: tuple[str, ...]) -> dict[str, str] | None:
        """The values of a phrase, those that are phrases said again."""
        said = {}
        for place, value in zip(phrase.places, values, strict=True):
            kind, name = (place[0], place[1:]) if place[0] in _KINDS else ("", place)
            again = (self._phrase(value, part=True) or self.text(value)) if kind in ("+", "=", "?") else None
            if again is None and (not _may_stay(value, kind) or self._says_more(value)):
                return None
            said[name] = _number(value, kind) if again is None else again
        return said

    def _says_more(self, value: str) -> bool:
        """Whether behind what others have said, we go on. We never do in quotes and numbers alone."""
        tails = (value[seam.end() :] for seam in _SEAM.finditer(value))
        words = (tail for tail in tails if _LETTER.search(_QUOTED.sub("", tail)))
        return any(self._phrase(each) is not None for tail in words for each in (tail, f"{tail}."))


@cache
def translator(language: str) -> Translator | None:
    """What says findings and errors in a language; None for English, in which they are said."""
    path = DIRECTORY / f"{language}.json"
    return Translator(json.loads(path.read_text("utf-8"))) if path.is_file() else None


def said(document: dict[str, Any], language: str, *names: str) -> dict[str, Any]:
    """The same document with its texts of these names in a language, and those of a dict of texts. Where one of them
    can't be said there, none is, and `language` tells that they are English."""
    speaking = translator(language)
    if speaking is None:
        return document
    again: dict[str, Any] = {}
    for name in names:
        match document.get(name):
            case str(text):
                again[name] = speaking.say(text)
            case dict(texts) if all(isinstance(text, str) for text in texts.values()):
                told = {key: speaking.say(text) for key, text in texts.items()}
                again[name] = None if None in told.values() else told
    if None in again.values():
        return document | {"language": "en"}
    return document | again


def _phrase(english: str, said: str) -> _Phrase:
    words, places = [""], []
    for literal, place, _, _ in Formatter().parse(english.removeprefix("~")):
        words[-1] += literal
        if place is not None:
            places.append(place)
            words.append("")
    return _Phrase(tuple(words), tuple(places), said, part=english.startswith("~"))


def _values(phrase: _Phrase, text: str) -> Iterator[tuple[str, ...]]:
    """What a text has in the places of a phrase, in each way in which its words can lie in the text: the shortest
    values first. How many ways are tried is bounded, since values come from outside."""
    tries = 0

    def fill(place: int, begin: int) -> Iterator[tuple[str, ...]]:
        nonlocal tries
        following = phrase.words[place + 1]
        if place + 1 == len(phrase.places):
            end = len(text) - len(following)
            if end > begin and text.endswith(following):
                yield (text[begin:end],)
            return
        end = text.find(following, begin + 1)
        while end > 0 and tries < _PLACES:
            tries += 1
            for others in fill(place + 1, end + len(following)):
                yield text[begin:end], *others
            end = text.find(following, end + 1)

    if not phrase.places:
        if text == phrase.words[0]:
            yield ()
    elif all(words in text for words in phrase.words):
        yield from fill(0, len(phrase.words[0]))


def _may_stay(value: str, kind: str) -> bool:
    """Whether a value is no English that would stand in the middle of another language."""
    match kind:
        case "?":
            return True
        case "+":
            return not _LETTER.search(value)
        case "#":
            return not (_BLANK.search(value) or _PROSE.fullmatch(value))
        case "%":
            return _SIZE.fullmatch(value) is not None
        case ".":
            return _PLAIN.fullmatch(value) is not None
        case _:
            return not (_END_OF_A_SENTENCE.search(value) or _PROSE.search(_QUOTED.sub("''", value)))


def _number(value: str, kind: str) -> str:
    """A number as people here write it; whatever may be typed into a file is left as it is typed."""
    if kind == "." and (found := _PLAIN.fullmatch(value)):
        sign, whole, fraction, power = found.groups("")
        grouped = f"{int(whole):,}".replace(",", "\N{NO-BREAK SPACE}") if len(whole) > _UNGROUPED else whole
        return f"{sign}{grouped}{fraction and f',{fraction}'}{power}"
    if _GROUPED.fullmatch(value):
        return value.replace(",", "\N{NO-BREAK SPACE}")
    return _MEASURED.sub(r"\1,\2\3", value) if _MEASURED.fullmatch(value) else value
