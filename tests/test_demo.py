from __future__ import annotations

import json
from importlib.resources import files

from oneseek.chat.render import render_messages
from oneseek.chat.template import ChatTemplate
from oneseek.config.parse import parse
from oneseek.datasets.formats import check_row
from oneseek.demo.families import MODELS
from oneseek.demo.make import HELD_OUT, SETTINGS

CHATS = [json.loads(line) for line in (files("oneseek.demo") / "town.jsonl").read_text("utf-8").splitlines()]
TEXT = (files("oneseek.demo") / "town.txt").read_text("utf-8")
SWEDISH = set("åäö")


def test_the_bundled_chats_are_at_least_200_good_and_different_rows() -> None:
    assert len(CHATS) >= 200
    assert [check_row(row, "messages") for row in CHATS] == [None] * len(CHATS)
    assert len({json.dumps(row) for row in CHATS}) == len(CHATS)


def test_the_bundled_chats_are_swedish_and_english() -> None:
    answers = [row["messages"][-1]["content"].lower() for row in CHATS]

    swedish = sum(bool(SWEDISH & set(answer)) for answer in answers)

    assert len(CHATS) * 0.3 < swedish < len(CHATS) * 0.7


def test_the_question_called_held_out_is_in_no_row_and_not_in_the_text() -> None:
    assert all(HELD_OUT not in json.dumps(row, ensure_ascii=False) for row in CHATS)
    assert HELD_OUT not in TEXT


def test_the_base_models_are_of_three_families_and_each_renders_every_chat() -> None:
    assert len({model.family for model in MODELS}) == 3
    for model in MODELS:
        template = ChatTemplate(model.chat_template, model.special_tokens)
        for row in CHATS:
            rendered = render_messages(row["messages"], template)
            contents = [m["content"].strip() for m in row["messages"] if m["role"] == "assistant"]
            assert [rendered.text[span.start : span.end] for span in rendered.answers] == contents


def test_the_demo_trains_inside_the_recommended_ranges() -> None:
    nested: dict[str, dict[str, object]] = {}
    for field, value in SETTINGS.items():
        section, name = field.split(".")
        nested.setdefault(section, {})[name] = value

    _, problems = parse(nested)

    assert problems == ()
