"""Step by step, our losses are TRL's: the same rows, the same batches, the same adapter to begin with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import ours
import pytest
import trl_peer
from case import Case

from support.tiny_models import TARGETS, Family, chat_rows, write_model, write_rows

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT then sets it to True
]
STEPS, BATCH = 10, 2


@pytest.fixture(autouse=True)
def _nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL counts its uses on a server."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class Losses:
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.kept: list[float] = []

    def begins(self) -> None:
        """Nothing to keep yet."""

    def step(self, loss: float) -> None:
        self.kept.append(loss)

    def before(self) -> AbstractContextManager[None]:
        return nullcontext()


def preferences(count: int) -> list[dict[str, Any]]:
    """Each row's own answer is preferred to that of the row after it."""
    turns = [row["messages"][:2] for row in chat_rows(count + 1)]
    return [
        {"prompt": f"{question['content']} ", "chosen": answer["content"], "rejected": other["content"]}
        for (question, answer), (_, other) in pairwise(turns)
        if answer != other
    ]


def case_for(directory: Path, family: Family, rows: list[dict[str, Any]], **fields: Any) -> Case:
    """`STEPS` steps on `rows`; one more row is set aside for validation."""
    write_model(directory / family, family)
    return Case(
        model=str(directory / family),
        dataset=str(write_rows(directory / "rows.jsonl", rows[: STEPS * BATCH + 1])),
        directory=str(directory / "ours"),
        given=str(directory / "given.json"),
        threads=1,
        batch_size=BATCH,
        learning_rate=5e-3,
        max_length=128,
        lora_r=4,
        lora_alpha=8,
        target_modules=TARGETS[family],
        **fields,
    )


def losses_of_both(case: Case) -> tuple[list[float], list[float]]:
    """Ours and TRL's, of every step."""
    mine, theirs = Losses(), Losses()
    ours.give(case).write(Path(case.given))
    ours.train(case, mine)
    trl_peer.train(replace(case, directory=f"{case.directory}-trl"), theirs)
    return mine.kept, theirs.kept


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_losses_of_fine_tuning_are_those_of_trl(family: Family, tmp_path: Path) -> None:
    case = case_for(tmp_path, family, chat_rows(40), format="messages")

    mine, theirs = losses_of_both(case)

    assert len(mine) == STEPS
    assert mine == pytest.approx(theirs, rel=0, abs=1e-4)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_losses_of_preference_optimisation_are_those_of_trl(
    family: Family, kind: Literal["sigmoid", "ipo"], tmp_path: Path
) -> None:
    case = case_for(tmp_path, family, preferences(40), format="preference", method="dpo", loss=kind)

    mine, theirs = losses_of_both(case)

    assert len(mine) == STEPS
    assert mine == pytest.approx(theirs, rel=0, abs=5e-4)


def test_reference_log_probabilities_taken_beforehand_change_no_loss(tmp_path: Path) -> None:
    case = case_for(tmp_path, "llama", preferences(40), format="preference", method="dpo", precompute=True)

    mine, theirs = losses_of_both(case)

    assert mine == pytest.approx(theirs, rel=0, abs=5e-4)
