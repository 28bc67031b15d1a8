"""Preferences on their way from the lines of a file to the two texts that a model learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from oneseek.chat.render import render_preference
from oneseek.chat.template import ChatTemplate
from oneseek.config.parse import parse
from oneseek.datasets.formats import check_row, detect, normalise_row
from oneseek.preflight import gather
from oneseek.preflight.facts import Facts
from oneseek.preflight.finding import Finding, check
from support.base_models import CHAT_TEMPLATE, SPECIAL_TOKENS, write_model

PLAIN = {"prompt": "Fråga: När öppnar badet?\nSvar:", "chosen": " Klockan nio.", "rejected": " Vet inte."}
CHAT = {
    "prompt": [
        {"role": "user", "content": "Hej!"},
        {"role": "assistant", "content": "Hej, vad vill du veta?"},
        {"role": "user", "content": "När öppnar badet?"},
    ],
    "chosen": [{"role": "assistant", "content": "Klockan nio 🏊."}],
    "rejected": [{"role": "assistant", "content": "Vet inte."}],
}


def numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The row with another chosen answer."""
    chosen = row["chosen"]
    if isinstance(chosen, str):
        return {**row, "chosen": f"{chosen} {number}"}
    return {**row, "chosen": [{**chosen[0], "content": f"{chosen[0]['content']} {number}"}]}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "chatty-1b")
    write_model(tmp_path / "models" / "plain-1b", family="gpt2", chat=False)
    return tmp_path


def judged(home: Path, rows: list[dict[str, Any]], model: str, method: str) -> tuple[Facts, tuple[Finding, ...]]:
    """What preflight gathers and finds for these rows, written to a file."""
    path = home / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, problems = parse(
        {"model": {"base_models": [model]}, "data": {"dataset": str(path)}, "training": {"method": method}}
    )
    facts = gather.gather(config, problems, home / "models", home, home / "models")
    return facts, check(config, facts)


@pytest.mark.parametrize(
    ("row", "model", "text", "learned"),
    [
        (
            CHAT,
            "chatty-1b",
            "<s>user\nHej!</s>\n<s>assistant\nHej, vad vill du veta?</s>\n"
            "<s>user\nNär öppnar badet?</s>\n<s>assistant\n",
            ("Klockan nio 🏊. 0</s>\n", "Vet inte.</s>\n"),
        ),
        (PLAIN, "plain-1b", "Fråga: När öppnar badet?\nSvar:", (" Klockan nio. 0</s>", " Vet inte.</s>")),
    ],
    ids=["messages", "text"],
)
def test_preferences_of_a_file_are_learned_after_their_prompt(
    home: Path, row: dict[str, Any], model: str, text: str, learned: tuple[str, str]
) -> None:
    facts, findings = judged(home, [numbered(row, number) for number in range(10)], model, "dpo")

    assert findings == ()
    assert facts.dataset is not None
    source = facts.models[0].chat_template
    template = ChatTemplate(source, facts.models[0].special_tokens) if source else None
    pair = render_preference(facts.dataset.rows[0], str(facts.dataset.format), template, "</s>")
    assert [rendered.text[: rendered.supervised[0].start] for rendered in pair] == [text, text]
    assert tuple(rendered.supervised[0].of(rendered.text) for rendered in pair) == learned


def test_a_dataset_of_preferences_is_refused_until_the_method_fits_it(home: Path) -> None:
    rows = [numbered(CHAT, number) for number in range(10)]

    _, (refused,) = judged(home, rows, "chatty-1b", "sft")
    _, allowed = judged(home, rows, "chatty-1b", "dpo")

    assert refused.rule == "dataset-fits-method"
    assert "training.method: dpo" in refused.fix
    assert allowed == ()


@pytest.mark.parametrize("pair", [CHAT, PLAIN], ids=["messages", "text"])
def test_messages_beside_a_preference_change_nothing(home: Path, pair: dict[str, Any]) -> None:
    bare = [numbered(pair, number) for number in range(10)]
    model = "chatty-1b" if pair is CHAT else "plain-1b"

    facts, findings = judged(home, [{"messages": CHAT["prompt"], **row} for row in bare], model, "dpo")
    _, (refused,) = judged(home, [{"messages": CHAT["prompt"], **row} for row in bare], model, "sft")

    assert findings == ()
    assert facts.dataset is not None
    assert list(facts.dataset.rows) == bare
    assert refused.rule == "dataset-fits-method"
    assert refused.fix.startswith("Set training.method: dpo, or keep only `messages`")


def test_a_first_row_with_a_field_of_another_kind_is_the_only_one_refused(home: Path) -> None:
    rows = [{**CHAT, "chosen": "Klockan nio."}, *(numbered(CHAT, number) for number in range(10))]

    facts, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert finding.problem.splitlines()[1:] == [
        "line 1: prompt is a list, chosen is text, rejected is a list: all three must be text, or all three lists of "
        "messages"
    ]
    assert facts.dataset is not None
    assert len(facts.dataset.rows) == 10


def test_a_first_row_of_no_usable_kind_does_not_decide_the_format(home: Path) -> None:
    rows = [{"prompt": {}, "chosen": 1, "rejected": {}}, *(numbered(CHAT, number) for number in range(10))]

    facts, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert finding.problem.splitlines()[1].startswith("line 1: ")
    assert facts.dataset is not None
    assert facts.dataset.format == "preference_chat"
    assert len(facts.dataset.rows) == 10


def test_a_file_of_text_prompts_with_lists_of_answers_is_one_finding_that_names_the_kinds(home: Path) -> None:
    rows = [{**numbered(CHAT, number), "prompt": "Hej!", "messages": CHAT["prompt"]} for number in range(10)]

    _, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert finding.rule == "dataset-rows-are-good"
    assert finding.problem.splitlines()[1].startswith("line 1: prompt is text, chosen is a list, rejected is a list:")


def test_preferences_of_messages_need_a_model_with_a_template(home: Path) -> None:
    _, findings = judged(home, [numbered(CHAT, number) for number in range(10)], "plain-1b", "dpo")

    assert [finding.rule for finding in findings] == ["chat-needs-a-template"]


def test_every_pair_that_cannot_be_used_is_named_with_its_line(home: Path) -> None:
    rows = [
        *(numbered(CHAT, number) for number in range(10)),
        PLAIN,
        {**CHAT, "rejected": CHAT["chosen"]},
        {**CHAT, "chosen": [*CHAT["prompt"], *CHAT["chosen"]]},
        {**CHAT, "prompt": CHAT["prompt"][:2]},
        {"prompt": CHAT["prompt"], "chosen": CHAT["chosen"]},
    ]

    _, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert finding.rule == "dataset-rows-are-good"
    assert finding.problem.splitlines()[1:] == [
        "line 11: 'prompt' is text, not a list",
        "line 12: 'chosen' and 'rejected' are the same",
        "line 13: roles out of order: message 1 of 'chosen' is user and follows the prompt, where assistant belongs",
        "line 14: roles out of order: 'prompt' ends with assistant, where user or tool belongs",
        "line 15: field 'rejected' is missing",
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufdd0\ufdd1\ufdd2"), max_size=6).filter(
    str.strip
)


def turns(first: str, then: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Messages of two speakers in turn, begun and ended by the first."""
    contents = st.lists(st.tuples(TEXT, TEXT), max_size=2).flatmap(
        lambda pairs: TEXT.map(lambda last: [*(content for pair in pairs for content in pair), last])
    )
    return contents.map(
        lambda texts: [{"role": (first, then)[place % 2], "content": text} for place, text in enumerate(texts)]
    )


@settings(deadline=None)
@given(
    row=st.fixed_dictionaries({"prompt": TEXT, "chosen": TEXT, "rejected": TEXT})
    | st.fixed_dictionaries(
        {
            "prompt": turns("user", "assistant"),
            "chosen": turns("assistant", "user"),
            "rejected": turns("assistant", "user"),
        }
    )
)
def test_whatever_pair_is_good_gives_two_texts_with_something_to_learn_in_each(row: dict[str, Any]) -> None:
    form = detect(row)
    assert form in ("preference", "preference_chat")
    assume(check_row(row, form) is None)

    pair = render_preference(normalise_row(row, form), form, ChatTemplate(CHAT_TEMPLATE, SPECIAL_TOKENS), "</s>")

    first, second = (rendered.text[: rendered.supervised[0].start] for rendered in pair)
    assert first == second
    assert pair[0].text != pair[1].text
    assert all(rendered.answers and rendered.answer_bytes for rendered in pair)
