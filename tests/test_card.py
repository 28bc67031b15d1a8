"""The model card: what a hub reads, and text where somebody would like it to be more."""

from __future__ import annotations

import ast
import re
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from oneseek.certificate.card import card, code
from oneseek.certificate.dna import Dna
from oneseek.events.state import RunState
from support.runs import Town

DNA = Dna(dataset="a" * 64, recipe="b" * 64, weights="c" * 64)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = [
    "<script>alert(1)</script>",
    "](https://evil.example) ![x](https://evil.example/x.png)",
    "`` ` ```\n# heading\n---\nlicense: mit\n---",
    "a | b |\n\n| --- |",
    "https://evil.example www.evil.example @somebody &lt;b&gt;",
    "\"\"\"'''\\ + {braces} %s: [1, 2] # comment",
    "\x85",
    "\u2028two",
    "\u202egnirts\u0000\u007f\u0085\u2028\ufeff",
    "ÅÄÖ 漢字 😀",
    "- ",
    " ",
    "~",
    "null",
    "`",
]
NAMES = st.sampled_from(HOSTILE) | st.text(st.characters(codec="utf-8"), min_size=1)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> RunState:
    town = Town(tmp_path_factory.mktemp("town"))
    town.add_model("alfa-1b", {"val_losses": [3.0, 2.0, 2.5], "bits_per_byte": [1.5, 1.0, 1.25]})
    town.add_model("beta-1b", {"val_losses": [4.0], "bits_per_byte": [2.0]})
    town.dataset.write_text("".join(f'{{"prompt": "Q{n}?", "completion": "A {n}."}}\n' for n in range(20)))
    return town.train(training__num_epochs=3, training__seed=7, lora__r=8, lora__alpha=24)[1]


def named(state: RunState, name: str, **changes: Any) -> RunState:
    """The run with another display name of its first model."""
    first, *others = state.accepted.models
    models = (msgspec.structs.replace(first, display_name=name, **changes), *others)
    return msgspec.structs.replace(state, accepted=msgspec.structs.replace(state.accepted, models=models))


def read(text: str) -> tuple[dict[str, Any], list[Token]]:
    """The front matter, and the Markdown behind it, flat."""
    _, front, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    tokens: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        tokens += [token, *(token.children or [])]
    return yaml.safe_load(front), tokens


def rows(tokens: list[Token]) -> list[list[str]]:
    """The cells of every row of every table, as written."""
    found: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            found.append([])
        elif token.type == "td_open":
            found[-1].append(tokens[place + 1].content)
    return found


def test_the_front_matter_says_what_a_hub_asks_for(state: RunState) -> None:
    front, _ = read(card(named(state, "Alfa 1B", hub_id="org/alfa-1b", revision=COMMIT), "alfa-1b", DNA))

    assert front == {
        "base_model": "org/alfa-1b",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "oneseek", "sft"],
    }


def test_the_card_says_what_the_adapter_was_made_from_and_how(state: RunState) -> None:
    text = card(state, "alfa-1b", DNA)
    said = {row[0]: row[1] for row in rows(read(text)[1]) if len(row) == 2}

    assert said["File"] == "`rows.jsonl`"
    assert said["SHA-256"] == f"`{state.accepted.dataset.sha256}`"
    assert said["Rows"] == "18 trained on, 2 to validate"
    assert said["Epochs"] == "3 of 3; kept: epoch 2"
    assert said["LoRA"] == "r 8, alpha 24.0, dropout 0.0"
    assert said["Seed"] == "7"
    assert said["DNA"] == "`OneSeek-7B-Zero.v1.0.aaaaaaaa.bbbbbbbb.cccccccc`"
    assert said["Run"] == f"`{state.run_id}`"
    assert "`oneseek verify PATH --key KEYS`" in text
    assert "`oneseek ledger key`" in text


def test_the_card_says_what_was_reached_epoch_by_epoch(state: RunState) -> None:
    text = card(state, "alfa-1b", DNA)

    reached = [row for row in rows(read(text)[1]) if len(row) == 5]

    assert [row[0] for row in reached] == ["1", "**2** (kept)", "3"]
    assert [row[2:4] for row in reached] == [["3.0000", "1.5000"], ["2.0000", "1.0000"], ["2.5000", "1.2500"]]
    assert [row[4] for row in reached] == [f"{commit.weights['alfa-1b']:.4f}" for commit in state.committed]
    assert "Place 1 of 2" in text
    assert "Place 2 of 2" in card(state, "beta-1b", DNA)


def test_preferences_and_answers_are_shown_where_there_are_any(town: Town) -> None:
    rows = '{{"prompt": "Q{n}?", "chosen": "Yes {n}.", "rejected": "No {n}."}}\n'
    town.dataset.write_text("".join(rows.format(n=n) for n in range(20)))
    _, state = town.train("alfa-1b", training__method="dpo", training__num_epochs=1)
    (commit,) = state.committed
    answered = msgspec.structs.replace(commit.results["alfa-1b"], samples=("<b>No</b>",))
    prompted = {**state.config, "training": {**state.config["training"], "sample_prompts": ["Are you | sure?"]}}
    state = msgspec.structs.replace(
        state,
        accepted=msgspec.structs.replace(state.accepted, config=prompted),
        committed=(msgspec.structs.replace(commit, results={"alfa-1b": answered}),),
    )

    text = card(state, "alfa-1b", DNA)

    assert "direct preference optimisation, sigmoid loss, beta 0.1" in text
    assert "| `Are you \\| sure?` | `<b>No</b>` |" in text


def test_the_code_loads_the_base_model_at_its_commit(state: RunState) -> None:
    local = card(state, "alfa-1b", DNA)
    hub = card(named(state, "Alfa", hub_id="org/alfa-1b", revision=COMMIT), "alfa-1b", DNA)

    assert "from_pretrained('path/to/alfa-1b')" in local
    assert f"from_pretrained('org/alfa-1b', revision='{COMMIT}')" in hub


@given(NAMES)
def test_a_hostile_name_stays_text(state: RunState, name: str) -> None:
    plain, hostile = card(state, "alfa-1b", DNA), card(named(state, name), "alfa-1b", DNA)

    front, tokens = read(hostile)
    expected_front, expected = read(plain)

    assert front == {**expected_front, "base_model": name}
    assert [token.type for token in tokens] == [token.type for token in expected]
    (program,) = (token.content for token in tokens if token.type == "fence")
    texts = [str(node.value) for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Constant)]
    assert f"path/to/{name}" in texts


@given(NAMES)
def test_a_code_span_is_one_span_with_the_printable_text(name: str) -> None:
    (inline,) = (token for token in MarkdownIt("commonmark").parse(code(name)) if token.type == "inline")

    (span,) = inline.children or []
    assert span.type == "code_inline"
    assert span.content.strip() == "".join(char if char.isprintable() else " " for char in name).strip()
