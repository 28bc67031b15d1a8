"""A form is judged at every key press: what is remembered for it says what looking anew would say."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oneseek.datasets import limited
from oneseek.datasets.limited import RowTokens
from oneseek.datasets.tokens import IGNORED, Encoder, Example, encoder_of
from oneseek.errors import DatasetError, ModelError
from oneseek.files import remembered
from oneseek.preflight import looking
from oneseek.preflight.looking import ANEW, Remembering
from oneseek.registry.capabilities import ModelInfo
from oneseek.registry.discover import described
from oneseek.runs.validate import validate
from oneseek.server.settings import requested
from support.base_models import CHAT_TEMPLATE, write_model
from support.runs import Town

ASKED: dict[str, Any] = {"datasetId": "rows.jsonl", "baseModels": ["alfa-1b", "beta-1b"]}


@pytest.fixture(autouse=True)
def _ticks_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was just written is not remembered: here it was written long ago."""
    monkeypatch.setattr(remembered, "TICK", -(10**9))


@pytest.fixture(autouse=True)
def models_are_asked_once() -> None:
    """Not here: what starts a process is what these tests are about."""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[limited.Order]:
    """What processes were asked to judge."""
    asked: list[limited.Order] = []
    judge = limited.judged

    def judged(order: limited.Order, *more: Any) -> Iterator[limited.Answer]:
        asked.append(order)
        return judge(order, *more)

    monkeypatch.setattr(limited, "judged", judged)
    return asked


def verdict(town: Town, seen: Remembering | looking.Looking, **more: Any) -> dict[str, Any]:
    """Without what is another figure at every moment."""
    wanted = requested(ASKED | more, {}, town.home, ("cpu",), seen)
    told = validate(wanted.config, town.home, problems=wanted.problems, looking=seen).wire()
    return {name: value for name, value in told.items() if name not in ("machine", "estimate")}


def test_what_is_typed_that_no_token_depends_on_starts_no_process(town: Town, children: list[limited.Order]) -> None:
    seen = Remembering()
    first = verdict(town, seen)
    asked = len(children)

    later = [verdict(town, seen, learningRate=rate) for rate in (2e-4, 3e-4)]
    cut = [verdict(town, seen, data={"maxLength": limit}) for limit in (8, 24, 60, 2048)]

    assert asked == len(children) == 2
    assert later == [first, first]
    assert cut == [verdict(town, ANEW, data={"maxLength": limit}) for limit in (8, 24, 60, 2048)]
    assert len({json.dumps(each) for each in cut}) > 2


def test_another_prompt_is_no_reason_to_count_the_rows_again(town: Town, children: list[limited.Order]) -> None:
    seen = Remembering()
    verdict(town, seen)
    asked = len(children)
    long = "Open? " * 40

    told = verdict(town, seen, training={"samplePrompts": ["Open?", long]})
    again = verdict(town, seen, training={"samplePrompts": ["Open?", long], "learningRate": 2e-4})

    assert [len(order.prompts) for order in children[asked:]] == [2, 2]
    assert told == again == verdict(town, ANEW, training={"samplePrompts": ["Open?", long]})
    assert "sample-prompts-can-be-asked" in {finding["rule"] for finding in told["findings"]}


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGES: dict[str, Callable[[Town], object]] = {
    "a row": lambda town: town.dataset.write_text(town.dataset.read_text().replace("Question 7?", "x" * 900)),
    "a row that is bad": lambda town: rewrite(town.dataset, '"role": "user", "content": "Question 7?"', '"role": "u"'),
    "no dataset": lambda town: town.dataset.unlink(),
    "a template": lambda town: write_model(
        town.home.models / "alfa-1b", template="{{ raise_exception('No!') }}" + CHAT_TEMPLATE
    ),
    "no template": lambda town: write_model(town.home.models / "alfa-1b", chat=False),
    "a tokenizer": lambda town: (town.home.models / "alfa-1b" / "tokenizer.json").write_text("{}"),
    "no tokenizer": lambda town: (town.home.models / "alfa-1b" / "tokenizer.json").unlink(),
    "a shorter context": lambda town: write_model(town.home.models / "alfa-1b", context=24),
    "no model": lambda town: shutil.rmtree(town.home.models / "alfa-1b"),
    "cut weights": lambda town: (town.home.models / "alfa-1b" / "model.safetensors").write_bytes(b"xx"),
    "another model of its key": lambda town: shutil.copytree(
        town.home.models / "alfa-1b", town.home.models / "oneseek-7b-zero" / "base_models" / "Alfa 1B"
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_on_the_disk_is_seen(town: Town, change: Callable[[Town], object]) -> None:
    seen = Remembering()
    before = verdict(town, seen)
    assert before == verdict(town, seen)

    change(town)

    assert verdict(town, seen) == verdict(town, ANEW) != before


def test_validation_rows_are_remembered_beside_the_others(town: Town, children: list[limited.Order]) -> None:
    aside = town.dataset.with_name("aside.jsonl")
    aside.write_text(town.dataset.read_text().replace("Question", "Another question"))
    seen, both = Remembering(), {"data": {"validationDataset": "aside.jsonl"}}
    verdict(town, seen)

    told = verdict(town, seen, **both)
    asked = len(children)

    assert told == verdict(town, seen, **both)
    assert len(children) == asked == 4
    assert told == verdict(town, ANEW, **both)


# -- rows, whatever they are cut to ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Encoder]:
    model = described(write_model(tmp_path_factory.mktemp("models") / "llama", vocab=300, context=512), None)
    plain = msgspec.structs.replace(model, chat_template=None)
    return {
        "messages": _uncut(encoder_of(model, "messages", 2**31 - 1)),
        "text": _uncut(encoder_of(plain, "text", 2**31 - 1)),
        "preference": _uncut(encoder_of(plain, "preference", 2**31 - 1)),
    }


def _uncut(encoder: Encoder) -> Encoder:
    return Encoder(**{**vars(encoder), "max_length": 2**31 - 1})


words = st.text("ab åö\n", max_size=12)
ROWS = {
    "messages": st.builds(
        lambda asked, said: {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]},
        words,
        words,
    ),
    "text": st.builds(lambda text: {"text": text}, words),
    "preference": st.builds(
        lambda prompt, chosen, rejected: {"prompt": prompt, "chosen": chosen, "rejected": rejected}, words, words, words
    ),
}


@pytest.mark.parametrize("form", ROWS)
@given(data=st.data())
def test_a_row_that_is_cut_later_is_what_it_would_be_if_it_were_cut_at_once(
    encoders: dict[str, Encoder], form: str, data: st.DataObject
) -> None:
    row, limit, other = data.draw(ROWS[form]), data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    encoder = encoders[form]

    at_once = limited._row(encoder, 1, row, limit)
    later = limited._row(encoder, 1, row, other).cut_to(limit)

    assert later == msgspec.structs.replace(at_once, supervised=later.supervised)
    if at_once.refusal is None:
        examples = [_cut(example, limit) for example in encoder.encode(row)]
        supervised = [int((example.labels != IGNORED).sum()) for example in examples]
        differ = len({tuple(example.input_ids.tolist()) for example in examples}) == len(examples)
        assert at_once.learnable == (min(supervised) > 0 and differ)
        assert at_once.truncated == any(example.truncated for example in examples)


def _cut(example: Example, limit: int) -> Example:
    return Example(
        example.input_ids[:limit],
        example.labels[:limit],
        example.answer_mask[:limit],
        example.answer_bytes,
        truncated=len(example.input_ids) > limit,
    )


# -- what is not remembered, or only briefly ---------------------------------------------------------------------------


def test_a_process_that_was_killed_is_asked_again_and_one_that_takes_too_long_is_not(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ending(fix: str) -> Callable[..., Iterator[limited.Answer]]:
        def judged(order: limited.Order, *more: Any) -> Iterator[limited.Answer]:
            asked.append(order.model.key)
            yield limited.Traits(None)
            yield RowTokens(line=1, refusal="It ended.", fix=fix)

        return judged

    seen = Remembering()
    monkeypatch.setattr(limited, "judged", ending("Free some memory."))
    killed = [verdict(town, seen) for _ in range(2)]
    lost = len(asked)
    monkeypatch.setattr(limited, "judged", ending(limited.MEND))
    slow = [verdict(town, seen) for _ in range(3)]

    assert killed[0] == killed[1]
    assert slow[0] == slow[2]
    assert (lost, len(asked) - lost) == (4, 2)


def test_the_hub_is_asked_about_a_model_once_a_minute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, asked, now = described(write_model(tmp_path / "a"), None), list[str](), [0.0]

    def remote(hub_id: str) -> ModelInfo:
        asked.append(hub_id)
        if hub_id == "org/gated":
            raise ModelError("Gated.", "Accept it.")
        return model

    monkeypatch.setattr(looking, "describe_remote", remote)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = Remembering()

    found = [seen.describe_remote("org/a") for now[0] in (0.0, 30.0, 59.0, 61.0)]
    for now[0] in (100.0, 109.0, 111.0):
        with pytest.raises(ModelError, match=r"^Gated\. Accept it\.$") as caught:
            seen.describe_remote("org/gated")
        caught.value.problem = "Said by somebody else."

    assert found == [model] * 4
    assert asked == ["org/a"] * 2 + ["org/gated"] * 2


def test_another_hub_or_token_is_asked_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = 0

    def remote(hub_id: str) -> ModelInfo:
        nonlocal asked
        asked += 1
        return described(tmp_path, None)

    monkeypatch.setattr(looking, "describe_remote", remote)
    seen = Remembering()

    seen.describe_remote("org/a")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    seen.describe_remote("org/a")

    assert asked == 2


def test_nothing_is_written_to_the_disk_at_every_key_press(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, written = Remembering(), list[Path]()

    for _ in range(3):
        seen.written(town.root, written.append)
    with pytest.raises(DatasetError):
        seen.written(town.home.models, _fails)
    with pytest.raises(DatasetError):
        seen.written(town.home.models, _fails)

    assert written == [town.root]


def _fails(directory: Path) -> None:
    raise DatasetError("No.", "")
