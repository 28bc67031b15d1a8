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
from oneseek.datasets.formats import Fault, Format, check_row, detect, normalise_row
from oneseek.files.layout import Home
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
    facts = gather.gather(config, problems, Home(home, home / "models"), home / "models")
    return facts, check(config, facts)


def told(finding: Finding) -> list[str]:
    """The rows that a finding names, in the order of their lines."""
    rows = [line.strip() for line in finding.problem.splitlines()[1:]]
    return sorted(rows, key=lambda row: int(row.split()[1].rstrip(":")))


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
    pair = render_preference(facts.dataset.samples[0].row, str(facts.dataset.format), template, "</s>")
    assert [rendered.text[: rendered.supervised[0].start] for rendered in pair] == [text, text]
    assert tuple(rendered.supervised[0].of(rendered.text) for rendered in pair) == learned


def test_a_dataset_of_preferences_is_refused_until_the_method_fits_it(home: Path) -> None:
    rows = [numbered(CHAT, number) for number in range(10)]

    _, (refused,) = judged(home, rows, "chatty-1b", "sft")
    _, allowed = judged(home, rows, "chatty-1b", "dpo")

    assert refused.rule == "dataset-fits-method"
    assert "training.method to 'dpo'" in refused.fix
    assert allowed == ()


@pytest.mark.parametrize("pair", [CHAT, PLAIN], ids=["messages", "text"])
def test_messages_beside_a_preference_change_nothing(home: Path, pair: dict[str, Any]) -> None:
    bare = [numbered(pair, number) for number in range(10)]
    model = "chatty-1b" if pair is CHAT else "plain-1b"

    facts, findings = judged(home, [{"messages": CHAT["prompt"], **row} for row in bare], model, "dpo")
    _, (refused,) = judged(home, [{"messages": CHAT["prompt"], **row} for row in bare], model, "sft")

    assert findings == ()
    assert facts.dataset is not None
    assert [sample.row for sample in facts.dataset.samples] == bare
    assert refused.rule == "dataset-fits-method"
    assert refused.fix.startswith("Set training.method to 'dpo', or keep only `messages`")


def test_a_first_row_with_a_field_of_another_kind_is_the_only_one_refused(home: Path) -> None:
    rows = [{**CHAT, "chosen": "Klockan nio."}, *(numbered(CHAT, number) for number in range(10))]

    facts, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert told(finding) == [
        "line 1: prompt is a list, chosen is text, rejected is a list: all three must be text, or all three lists of "
        "messages"
    ]
    assert facts.dataset is not None
    assert facts.dataset.rows == 10


def test_a_first_row_of_no_usable_kind_does_not_decide_the_format(home: Path) -> None:
    rows = [{"prompt": {}, "chosen": 1, "rejected": {}}, *(numbered(CHAT, number) for number in range(10))]

    facts, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert told(finding)[0].startswith("line 1: ")
    assert facts.dataset is not None
    assert facts.dataset.format == "preference_chat"
    assert facts.dataset.rows == 10


def test_a_file_of_text_prompts_with_lists_of_answers_is_one_finding_that_names_the_kinds(home: Path) -> None:
    rows = [{**numbered(CHAT, number), "prompt": "Hej!", "messages": CHAT["prompt"]} for number in range(10)]

    _, (finding,) = judged(home, rows, "chatty-1b", "dpo")

    assert finding.rule == "dataset-rows-are-good"
    assert told(finding)[0].startswith("line 1: prompt is text, chosen is a list, rejected is a list:")


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
    assert told(finding) == [
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


# -- prompts that are implied --------------------------------------------------------------------------------------


def turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def pair(chosen: object, rejected: object, **fields: object) -> dict[str, Any]:
    return {"chosen": chosen, "rejected": rejected} | fields


ASKED = [turn("system", "Var artig."), turn("user", "När öppnar badet?")]
YES, NO = turn("assistant", "Klockan nio."), turn("assistant", "Vet inte.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt", "answers"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is", (" blue.", " green.")),
        ("The sky is black.", "The sky is blue.", "The sky is", (" black.", " blue.")),
        ("### Response:\nJa", "### Response:\nJo", "### Response:\n", ("Ja", "Jo")),
        ("Fråga: A?\nSvar: \tJa", "Fråga: A?\nSvar: \tNej", "Fråga: A?\nSvar:", (" \tJa", " \tNej")),
        (
            "\n\nHuman: Hej\n\nAssistant: Hej på dig!",
            "\n\nHuman: Hej\n\nAssistant: Hejdå",
            "\n\nHuman: Hej\n\nAssistant:",
            (" Hej på dig!", " Hejdå"),
        ),
        ("A? Ja.", "A? Ja. Absolut.", "A?", (" Ja.", " Ja. Absolut.")),
        ("问题？答案：是", "问题？答案：不", "问题？答案：", ("是", "不")),
    ],
    ids=["a word", "within a word", "a line break", "blanks", "turns", "one goes on", "no blanks"],
)
def test_what_two_texts_begin_with_is_their_prompt_up_to_the_last_whole_word(
    chosen: str, rejected: str, prompt: str, answers: tuple[str, str]
) -> None:
    row = pair(chosen, rejected)

    fault = check_row(row, "preference")
    used = normalise_row(row, "preference")

    assert detect(row) == "preference"
    assert fault is None
    assert used == {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


@pytest.mark.parametrize(
    ("chosen", "rejected", "cut"),
    [
        ([*ASKED, YES], [*ASKED, NO], 2),
        ([*ASKED, YES, turn("user", "Tack!"), YES], [*ASKED, YES, turn("user", "Tack!"), NO], 4),
        ([*ASKED, YES, turn("user", "Tack!"), YES], [*ASKED, YES, turn("user", "Jaså."), YES], 2),
        ([*ASKED, YES], [*ASKED, YES, turn("user", "Tack!")], 2),
        ([*ASKED, YES, turn("tool", "9"), turn("tool", "10"), YES], [*ASKED, YES, turn("tool", "9"), NO], 2),
    ],
    ids=["one question", "two questions", "after an equal answer", "one goes on", "before a result more"],
)
def test_what_two_conversations_begin_with_is_their_prompt_up_to_where_the_assistant_speaks(
    chosen: list[dict[str, Any]], rejected: list[dict[str, Any]], cut: int
) -> None:
    row = pair(chosen, rejected)

    fault = check_row(row, "preference_chat")
    used = normalise_row(row, "preference_chat")

    assert detect(row) == "preference_chat"
    assert fault is None
    assert used == {"prompt": chosen[:cut], "chosen": chosen[cut:], "rejected": rejected[cut:]}


def test_a_prompt_of_text_that_is_the_question_of_whole_conversations_says_nothing_new() -> None:
    row = pair([*ASKED, YES], [*ASKED, NO], prompt="När öppnar badet?", messages=[*ASKED, YES])

    fault = check_row(row, "preference_chat")
    used = normalise_row(row, "preference_chat")

    assert detect(row) == "preference_chat"
    assert fault is None
    assert used == {"prompt": ASKED, "chosen": [YES], "rejected": [NO]}


@pytest.mark.parametrize(
    ("row", "format", "kind", "words"),
    [
        (pair("Ja", "Nej"), "preference", "missing-field", "do not begin with the same words"),
        (pair("\nJa", "\nNej"), "preference", "missing-field", "do not begin with the same words"),
        (pair("Ja", "Ja, tack"), "preference", "missing-field", "do not begin with the same words"),
        (pair("A? Ja.", "A? Ja."), "preference", "same-answers", "are the same"),
        (pair("A? Ja", ""), "preference", "empty-content", "'rejected' is empty"),
        (pair("A? Ja", "A? Nej", question="A?"), "preference", "missing-field", "if 'question' is it, give it that"),
        (pair("A? Ja", [NO]), "preference", "wrong-type", "chosen is text, rejected is a list: both must be text, or"),
        (pair([YES], [NO]), "preference_chat", "roles-out-of-order", "message 1 of 'chosen' is assistant and comes"),
        (
            pair([*ASKED, YES], [turn("user", "Hej"), NO]),
            "preference_chat",
            "missing-field",
            "there is no 'prompt', and 'chosen' and 'rejected' do not begin with the same messages and then answer",
        ),
        (pair([*ASKED, YES], ASKED), "preference_chat", "missing-field", "and then answer"),
        (pair([*ASKED, YES], [*ASKED, YES]), "preference_chat", "same-answers", "are the same"),
        (pair([*ASKED, YES], [*ASKED, turn("assistant", "")]), "preference_chat", "empty-content", "of 'rejected'"),
        (
            pair([*ASKED, YES], [*ASKED, NO], prompt="Hej"),
            "preference_chat",
            "wrong-type",
            "prompt is text, chosen is a list, rejected is a list: all three must be text",
        ),
    ],
)
def test_an_implied_prompt_that_is_not_there_is_said_in_plain_words(
    row: dict[str, Any],
    format: Format,  # noqa: A002
    kind: str,
    words: str,
) -> None:
    fault = check_row(row, format)

    assert isinstance(fault, Fault)
    assert fault.kind == kind
    assert words in fault.reason


@given(
    prompt=st.text("ab c\n:é", max_size=20),
    chosen=st.text("ab c\n:é", max_size=8),
    rejected=st.text("ab c\n:é", max_size=8),
)
def test_prompt_and_answers_of_two_texts_put_together_are_the_texts(prompt: str, chosen: str, rejected: str) -> None:
    row = pair(prompt + chosen, prompt + rejected)
    assume(check_row(row, "preference") is None)

    used = normalise_row(row, "preference")

    assert used["prompt"] + used["chosen"] == row["chosen"]
    assert used["prompt"] + used["rejected"] == row["rejected"]
    assert all(text.strip() for text in used.values())


# -- ShareGPT ------------------------------------------------------------------------------------------------------


def said(speaker: str, value: object) -> dict[str, Any]:
    return {"from": speaker, "value": value}


SHARED = {
    "conversations": [said("human", "När öppnar badet?")],
    "chosen": said("gpt", "Klockan nio."),
    "rejected": said("gpt", "Vet inte."),
}


def test_a_preference_of_turns_is_used_as_messages() -> None:
    row = SHARED | {"system": "Var artig.", "score": 7}

    assert detect(row) == "preference_sharegpt"
    assert check_row(row, "preference_sharegpt") is None
    assert normalise_row(row, "preference_sharegpt") == {"prompt": ASKED, "chosen": [YES], "rejected": [NO]}


def test_an_answer_of_a_preference_may_be_a_call() -> None:
    row = SHARED | {"chosen": said("function_call", '{"name": "opening_hours", "arguments": {}}')}

    fault = check_row(row, "preference_sharegpt")
    used = normalise_row(row, "preference_sharegpt")

    assert fault is None
    assert used["chosen"][0]["tool_calls"][0]["function"]["name"] == "opening_hours"


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"conversations": []}, "empty-content", "'conversations' is empty"),
        ({"conversations": [said("gpt", "a")]}, "roles-out-of-order", "message 1 of 'conversations' is assistant"),
        (
            {"conversations": [said("human", "a"), said("gpt", "b")]},
            "roles-out-of-order",
            "'conversations' ends with assistant, where user or tool belongs",
        ),
        ({"chosen": "Klockan nio."}, "wrong-type", "'chosen' is text, not an object"),
        ({"chosen": said("bot", "a")}, "unknown-role", "'chosen' is from the unknown 'bot'"),
        ({"rejected": said("human", "a")}, "roles-out-of-order", "'rejected' is user and follows the prompt"),
        ({"rejected": said("gpt", " ")}, "empty-content", "the 'value' of 'rejected' is empty"),
        ({"rejected": said("gpt", "Klockan nio.")}, "same-answers", "are the same"),
        ({"system": 7}, "wrong-type", "'system' is a number"),
        ({"tools": "x"}, "wrong-type", "'tools' is text, but not JSON"),
        ({"rejected": None}, "other-format", "the row's format is sharegpt, the dataset's is preference_sharegpt"),
    ],
)
def test_a_bad_preference_of_turns_is_refused_in_plain_words(fields: dict[str, Any], kind: str, words: str) -> None:
    fault = check_row(SHARED | fields, "preference_sharegpt")

    assert isinstance(fault, Fault)
    assert fault.kind == kind
    assert words in fault.reason
