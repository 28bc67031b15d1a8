"""The settings as the Train form shows them: all of them, with sliders that say nothing that would be refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.config.parse import parse
from oneseek.config.reference import settings
from oneseek.server.pages.form import NEVER_SHOWN, SHOWN_FIRST, figure, others, setting
from oneseek.server.pages.help import HELP

NUMBERS = [field for field, known in settings().items() if known.recommended is not None]


def test_every_setting_is_on_the_form_once_unless_a_reason_is_given() -> None:
    asked = [*SHOWN_FIRST, *(field for fields in others().values() for field in fields)]

    assert sorted([*asked, *NEVER_SHOWN]) == sorted(settings())


def test_no_two_settings_that_are_shown_have_the_same_name() -> None:
    labels = [setting(field).label for field in settings() if field not in NEVER_SHOWN]

    assert sorted(labels) == sorted(set(labels))


def test_every_setting_that_is_shown_is_explained_to_who_fills_in_a_form() -> None:
    assert sorted(HELP) == sorted(field for field in settings() if field not in NEVER_SHOWN)
    assert [field for field, text in HELP.items() if len(text) < 40 or not text.endswith(".") or "`" in text] == []


@pytest.mark.parametrize("field", NUMBERS)
def test_a_slider_holds_the_default_and_the_recommended_range(field: str) -> None:
    shown = setting(field)

    knob = shown.knob
    assert knob is not None
    assert isinstance(shown.default, int | float)
    default = math.log10(shown.default) if knob.log else shown.default
    assert knob.low <= default <= knob.high
    assert knob.low <= knob.band[0] < knob.band[1] <= knob.high


@pytest.mark.parametrize("field", NUMBERS)
def test_both_ends_of_a_slider_are_values_that_are_taken(field: str) -> None:
    knob = setting(field).knob
    assert knob is not None

    for end in (knob.low, knob.high):
        value = 10**end if knob.log else end
        section, name = field.rpartition(".")[::2]
        asked: dict[str, object] = {name: int(value) if setting(field).kind == "whole number" else value}
        for part in reversed(section.split(".")):
            asked = {part: asked}
        _, problems = parse(asked)
        assert problems == (), (field, value)


@pytest.mark.parametrize(
    ("value", "english", "swedish"),
    [
        (2048, "2,048", "2\N{NO-BREAK SPACE}048"),
        (0.05, "0.05", "0,05"),
        (5e-4, "5e-4", "5e-4"),
        (1.25e-5, "1.25e-5", "1,25e-5"),
        (1.0, "1", "1"),
        (0, "0", "0"),
    ],
)
def test_numbers_are_written_with_the_signs_of_the_language(value: float, english: str, swedish: str) -> None:
    assert figure(value, "en") == english
    assert figure(value, "sv") == swedish


@given(st.floats(min_value=1e-9, max_value=1e9))
def test_a_number_that_is_written_is_read_as_nearly_the_same(value: float) -> None:
    assert float(figure(value, "en", grouped=False)) == pytest.approx(value, rel=1e-4)
