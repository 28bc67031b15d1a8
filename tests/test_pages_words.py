"""The page in Swedish: every text has its translation, once, with the same values in it."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from jinja2.ext import extract_from_ast

from oneseek.config.reference import settings
from oneseek.server.pages import words
from oneseek.server.pages.assets import DIRECTORY as ASSETS
from oneseek.server.pages.form import setting
from oneseek.server.pages.words import LANGUAGES, catalogue, preferred, remembered, said_in, translated, translator

TEMPLATES = ASSETS.parent / "templates"
SWEDISH = sorted((words.DIRECTORY / "sv").glob("*.json"))
_VALUE = re.compile(r"\{\w+\}")


def in_templates() -> set[str]:
    environment = Environment(autoescape=True)
    found = (
        texts
        for path in TEMPLATES.glob("*.html")
        for _, _, texts in extract_from_ast(environment.parse(path.read_text("utf-8")), gettext_functions=("_",))
    )
    # a text with values comes with a None for each of them
    return {text for texts in found for text in ([texts] if isinstance(texts, str) else texts or ()) if text}


def in_modules() -> set[str]:
    return set().union(*(said_in(path.read_text("utf-8")) for path in ASSETS.glob("*.js")))


def of_settings() -> set[str]:
    """What templates say of settings, which they name by their fields."""
    return {text for field in settings() for text in (setting(field).label, setting(field).help) if text}


def test_every_text_of_the_page_has_a_swedish_one() -> None:
    assert sorted((in_templates() | in_modules() | of_settings()) - set(catalogue("sv"))) == []


def test_no_translation_is_left_of_a_text_that_nobody_says_any_more() -> None:
    # a sentence that a template puts together from a variable can't be found in it: there is none
    assert sorted(set(catalogue("sv")) - in_templates() - in_modules() - of_settings()) == []


def test_each_text_is_translated_in_one_place() -> None:
    said = Counter(text for path in SWEDISH for text in json.loads(path.read_text("utf-8")))

    assert [text for text, times in said.items() if times > 1] == []


def test_a_translation_has_the_values_of_the_original() -> None:
    wrong = {
        text: swedish
        for text, swedish in catalogue("sv").items()
        if sorted(set(_VALUE.findall(text))) != sorted(set(_VALUE.findall(swedish)))
    }

    assert wrong == {}


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.js")), ids=lambda path: path.name)
def test_a_module_passes_only_literal_texts_that_can_be_found_in_it(path: Path) -> None:
    module = re.sub(r"^\s*(//|/?\*).*$", "", path.read_text("utf-8"), flags=re.MULTILINE)
    calls = re.findall(r"(?<![\w.$])_n?\(\s*(.)", re.sub(r"export (function|const) _n?\b[^\n]*", "", module))

    assert [first for first in calls if first in "'`"] == []


@pytest.mark.parametrize("path", sorted(ASSETS.glob("*.js")), ids=lambda path: path.name)
def test_a_module_that_is_sent_says_every_text_in_the_pages_language(path: Path) -> None:
    module = path.read_text("utf-8")

    swedish = translated(module, "sv")

    assert translated(module, "en") == module
    assert said_in(swedish) == {catalogue("sv")[text] for text in said_in(module)}


def test_only_what_is_said_is_translated() -> None:
    module = 'if (kind === "Stop") put(h("b", {}, _("Stop")), _n(all.length, "{n} run", "{n} runs", { of: "Stop" }));'

    swedish = translated(module, "sv")

    assert swedish == module.replace('_("Stop")', '_("Stoppa")').replace(
        '"{n} run", "{n} runs"', '"{n} körning", "{n} körningar"'
    )


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("sv", "sv"),
        ("sv-SE,sv;q=0.9,en;q=0.8", "sv"),
        ("en-GB,en;q=0.9,sv;q=0.8", "en"),
        ("de,fr", "en"),
        ("en;q=0.3, sv;q=0.8", "sv"),
        ("sv;q=0, en", "en"),
        ("sv;q=1.2.3, en", "en"),
    ],
)
def test_the_first_language_that_a_browser_asks_for_and_the_page_has_is_taken(accepted: str, language: str) -> None:
    assert preferred(None, accepted) == language


def test_a_language_that_was_chosen_goes_before_the_browsers() -> None:
    assert preferred("en", "sv") == "en"
    assert preferred("tlh", "sv") == "sv"


@given(st.text(max_size=300))
def test_whatever_a_browser_asks_for_it_gets_one_that_there_is(accepted: str) -> None:
    assert preferred(None, accepted) in LANGUAGES


@pytest.mark.parametrize(
    ("cookies", "word"),
    [
        ("", ""),
        ("language=sv", "sv"),
        ("oneseek=x; language=sv; theme=dark", "sv"),
        ('theme="><script>; a=\\"; language=sv', "sv"),
        ("language=../../etc; language=sv", "sv"),
        ("mylanguage=sv", ""),
        ('language="sv"', ""),
    ],
)
def test_the_word_in_a_cookie_is_found_beside_whatever_others_put_there(cookies: str, word: str) -> None:
    assert remembered("language", cookies) == word


@pytest.mark.parametrize("filling", [" ", "\t", "\\1", ";", "; ", ",", "a", "language="])
def test_headers_of_strangers_take_no_time_to_read(filling: str) -> None:
    most = 64_000 // len(filling)
    began = time.process_time()

    preferred(None, f"en{filling * most}!")
    remembered("language", f'language="{filling * most}"')

    assert time.process_time() - began < 0.1


def test_values_are_put_into_what_is_said() -> None:
    assert translator("en")("About {name}", name="<b>") == "About <b>"
