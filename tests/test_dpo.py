"""Direct preference optimisation: its losses, what they refer to, and what is told of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from oneseek.datasets.tokens import IGNORED, Example
from oneseek.engine.dpo import DirectPreferenceOptimisation
from oneseek.engine.interface import Progress
from oneseek.engine.pairs import Pair
from oneseek.engine.trainer import TorchTrainer
from oneseek.errors import WorkerFailed
from support.tiny_models import assignment, preference_rows, write_model, write_rows

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
]

RATE = 5e-3
BETA = 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("bases") / "tiny-llama", "llama")


def prepared(base: Path, directory: Path, **changes: Any) -> TorchTrainer:
    rows = write_rows(directory.parent / f"{directory.name}.jsonl", preference_rows(20))
    settings = {"method": "dpo", "format": "preference_chat", "dpo_beta": BETA, **changes}
    trainer = TorchTrainer(assignment(base, rows, directory, **settings))
    trainer.prepare()
    return trainer


def log_probability(model: Any, answer: Example) -> float:
    """Of the learned tokens, by the definition."""
    with torch.no_grad():
        logits: Tensor = model(input_ids=torch.from_numpy(answer.input_ids)[None].long()).logits[0].double()
    said = logits.log_softmax(-1)
    places = [place for place, label in enumerate(answer.labels) if label != IGNORED]
    return sum(float(said[place - 1, answer.labels[place]]) for place in places)


def ratios(model: Any, reference: Any, pair: Pair) -> tuple[float, float]:
    chosen, rejected = (
        log_probability(model, answer) - log_probability(reference, answer) for answer in (pair.chosen, pair.rejected)
    )
    return chosen, rejected


def sigmoid_loss(chosen: float, rejected: float, smoothing: float) -> float:
    margin = BETA * (chosen - rejected)
    return (1 - smoothing) * math.log1p(math.exp(-margin)) + smoothing * math.log1p(math.exp(margin))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_validation_loss_and_rewards_are_those_of_the_definition(
    base: Path, tmp_path: Path, loss: str, smoothing: float
) -> None:
    trainer = prepared(base, tmp_path / "work", dpo_loss=loss, dpo_label_smoothing=smoothing)
    result = trainer.train_epoch(1, [RATE], (), lambda _: None)
    trainer.export(1, [RATE], lambda _: None)

    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    again = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    tuned = PeftModel.from_pretrained(again, str(tmp_path / "work" / "export" / "adapter")).eval()
    losses, chosen_rewards, rejected_rewards = [], [], []
    for pair in cast("DirectPreferenceOptimisation", trainer.objective).validation:
        chosen, rejected = ratios(tuned, reference, pair)
        chosen_rewards.append(BETA * chosen)
        rejected_rewards.append(BETA * rejected)
        means = chosen / pair.chosen.supervised_tokens - rejected / pair.rejected.supervised_tokens
        ipo = (means - 1 / (2 * BETA)) ** 2
        losses.append(ipo if loss == "ipo" else sigmoid_loss(chosen, rejected, smoothing))

    count = len(losses)
    assert result.preference is not None
    assert result.val_loss == pytest.approx(sum(losses) / count, rel=1e-4)
    assert result.preference.reward_chosen == pytest.approx(sum(chosen_rewards) / count, abs=1e-4)
    assert result.preference.reward_rejected == pytest.approx(sum(rejected_rewards) / count, abs=1e-4)
    margins = [chosen - rejected for chosen, rejected in zip(chosen_rewards, rejected_rewards, strict=True)]
    assert result.preference.margin == pytest.approx(sum(margins) / count, abs=1e-4)
    assert result.preference.accuracy == sum(margin > 0 for margin in margins) / count


@pytest.mark.parametrize(("loss", "first"), [("sigmoid", math.log(2)), ("ipo", 1 / (2 * BETA) ** 2)])
def test_the_first_step_finds_the_model_equal_to_its_reference_and_later_ones_learn(
    base: Path, tmp_path: Path, loss: str, first: float
) -> None:
    reports: list[Any] = []

    trainer = prepared(base, tmp_path / "work", dpo_loss=loss)
    results = [trainer.train_epoch(epoch, [RATE] * epoch, (), reports.append) for epoch in (1, 2, 3)]

    losses = [report.loss for report in reports if isinstance(report, Progress)]
    assert losses[0] == pytest.approx(first, rel=1e-5)
    assert results[-1].val_loss < first
    assert results[-1].preference is not None
    assert results[-1].preference.accuracy > 0.5
    assert results[-1].bits_per_byte is None


def test_the_reference_is_computed_once_and_kept_with_every_checkpoint(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = prepared(base, tmp_path / "work", lora_dropout=0.3)
    trainer.train_epoch(1, [RATE], (), lambda _: None)
    before = trainer.objective.state()["reference"]

    resumed = prepared(base, tmp_path / "work", lora_dropout=0.3)
    monkeypatch.setattr(DirectPreferenceOptimisation, "begin", None)  # nobody computes it again
    resumed.train_epoch(2, [RATE, RATE], (), lambda _: None)

    assert before.shape == (20, 2)
    assert torch.equal(resumed.objective.state()["reference"], before)


def test_the_prompt_of_a_pair_is_computed_once(base: Path, tmp_path: Path) -> None:
    trainer = TorchTrainer(prepared(base, tmp_path / "work").assignment)

    found = trainer.prepare()

    pairs = cast("DirectPreferenceOptimisation", trainer.objective).training
    apart = sum(len(answer.input_ids) for pair in pairs for answer in (pair.chosen, pair.rejected))
    assert all(pair.shared > 10 for pair in pairs)
    assert found.training_tokens == apart - sum(pair.shared for pair in pairs)


def test_a_pair_with_an_answer_that_was_cut_off_whole_is_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    whole = cast("DirectPreferenceOptimisation", prepared(base, tmp_path / "whole").objective).training
    limit = sorted(pair.shared for pair in whole)[8] + 1

    trainer = prepared(base, tmp_path / "cut", max_length=limit)
    found = TorchTrainer(trainer.assignment).prepare()
    result = trainer.train_epoch(1, [RATE], (), lambda _: None)

    assert 0 < found.rows_without_labels < len(whole)
    assert found.truncated_rows > found.rows_without_labels
    assert math.isfinite(result.val_loss)


def test_pairs_that_are_all_cut_off_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed) as failed:
        prepared(base, tmp_path / "work", max_length=9)

    assert failed.value.kind == "refused"
    assert "max_length" in failed.value.fix
