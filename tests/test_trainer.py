"""Supervised fine-tuning computes what a plain loop over transformers and PEFT computes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.torch
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from oneseek.datasets.tokens import IGNORED, Example
from oneseek.engine.base_model import load_base_model
from oneseek.engine.interface import Damaged, Progress
from oneseek.engine.lora import adapter_parameters, adapter_state
from oneseek.engine.order import draw, row_order
from oneseek.engine.trainer import TorchTrainer
from oneseek.errors import WorkerFailed
from support.tiny_models import TARGETS, Family, assignment, chat_rows, write_model, write_rows

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),  # PEFT calls it
]
FAMILIES: tuple[Family, ...] = ("llama", "gpt2")
RATE = 5e-3
CLIP = 0.25


def ignore(message: Progress | Damaged) -> None:
    """For reports that a test is not about."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: write_model(root / family, family) for family in FAMILIES}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", chat_rows(25))


def prepared(model: Path, rows: Path, directory: Path, family: Family = "llama", **changes: Any) -> TorchTrainer:
    trainer = TorchTrainer(assignment(model, rows, directory, family, **changes))
    trainer.prepare()
    return trainer


# -- the oracle ----------------------------------------------------------------------------------------------------


def steps_of(trainer: TorchTrainer, epoch: int) -> list[list[Example]]:
    """The rows of every optimiser step of an epoch."""
    a, training = trainer.assignment, trainer.objective.training
    order = [training[row] for row in row_order(a.seed, epoch, len(training))]
    size = a.batch_size * a.gradient_accumulation_steps
    return [order[start : start + size] for start in range(0, len(order), size)]


def plain_example(tokenizer: Any, row: dict[str, Any]) -> tuple[list[int], list[int], list[bool]]:
    """Ids, labels and answer tokens, written down by hand from the template in tiny_models."""
    text, kinds = "<s>", [" "] * 3
    for message in row["messages"]:
        content, answers = message["content"], message["role"] == "assistant"
        text += f"[{message['role']}] {content}</s>\n"
        kinds += [" "] * len(f"[{message['role']}] ")
        kinds += ["a" if answers else " "] * len(content) + ["s" if answers else " "] * len("</s>\n")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    covered = [set(kinds[start:end]) for start, end in encoded["offset_mapping"]]
    labels = [i if kind & {"a", "s"} else -100 for i, kind in zip(encoded["input_ids"], covered, strict=True)]
    return encoded["input_ids"], labels, ["a" in kind for kind in covered]


def plain_training(
    base: Path, family: Family, adapter: dict[str, Tensor], steps: Sequence[Sequence[tuple[list[int], list[int]]]]
) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step: padded batches of two, two batches a step, PEFT's layers, one AdamW."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=list(TARGETS[family]),
        task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )
    model = get_peft_model(model, settings).train()
    trained = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == adapter.keys()
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(adapter[name])
    optimizer = torch.optim.AdamW(trained.values(), lr=RATE, weight_decay=0.01)
    warmup, total = 3, 15  # a fifth of three epochs of five steps
    found = []
    for number, step in enumerate(steps):
        factor = min((number + 1) / warmup, (1 + math.cos(math.pi * max(0, number - warmup) / (total - warmup))) / 2)
        optimizer.param_groups[0]["lr"] = RATE * factor
        tokens = sum(label != -100 for _, labels in step for label in labels)
        loss = 0.0
        for start in (0, 2):
            batch = step[start : start + 2]
            longest = max(len(ids) for ids, _ in batch)
            ids = torch.tensor([row + [2] * (longest - len(row)) for row, _ in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in batch])
            labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in batch])
            output = model(input_ids=ids, attention_mask=mask).logits
            summed = nn.functional.cross_entropy(
                output[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
            )
            (summed / tokens).backward()  # type: ignore[no-untyped-call]
            loss += float(summed.detach()) / tokens
        norm = float(nn.utils.clip_grad_norm_(trained.values(), CLIP))
        optimizer.step()
        optimizer.zero_grad()
        found.append((loss, norm))
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_five_steps_have_the_losses_of_a_plain_loop_over_transformers_and_peft(
    bases: dict[Family, Path], rows: Path, tmp_path: Path, family: Family
) -> None:
    trainer = prepared(bases[family], rows, tmp_path, family, max_grad_norm=CLIP)
    adapter = adapter_state(trainer.model)
    tokenizer = AutoTokenizer.from_pretrained(bases[family])
    plain = [plain_example(tokenizer, json.loads(line)) for line in rows.read_text(encoding="utf-8").splitlines()]
    labels = {tuple(ids): labels for ids, labels, _ in plain}
    steps = [[(e.input_ids.tolist(), labels[tuple(e.input_ids)]) for e in step] for step in steps_of(trainer, 1)]
    reports: list[Any] = []

    trainer.train_epoch(1, [RATE], (), reports.append)

    expected = plain_training(bases[family], family, adapter, steps)
    assert len(expected) == len(reports) == 5
    for report, (loss, norm) in zip(reports, expected, strict=True):
        assert report.loss == pytest.approx(loss, abs=1e-5)
        assert report.gradient_norm == pytest.approx(norm, rel=1e-4)
    assert min(norm for _, norm in expected) > CLIP  # so that clipping was on
    assert expected[-1][0] < expected[0][0] - 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_exported_gives_the_same_logits_in_plain_peft(
    bases: dict[Family, Path], rows: Path, tmp_path: Path, family: Family
) -> None:
    trainer = prepared(bases[family], rows, tmp_path, family)
    trainer.train_epoch(1, [RATE], (), ignore)
    exported = trainer.export(1, [RATE], ignore)
    example = trainer.objective.validation[0]
    ids, labels = torch.from_numpy(example.input_ids)[None].long(), torch.from_numpy(example.labels)[None].long()

    base = AutoModelForCausalLM.from_pretrained(bases[family], dtype=torch.float32).eval()
    with torch.no_grad():
        before = base(input_ids=ids).logits
        by_peft = PeftModel.from_pretrained(base, str(tmp_path / "export" / "adapter")).eval()
        after = by_peft(input_ids=ids).logits
        trainer.model.set_attn_implementation("sdpa")  # its packed attention takes no padded rows
        ours = trainer.model(input_ids=ids).logits

    assert (after - ours).abs().max() <= 1e-5
    learned = labels[:, 1:] != IGNORED

    def nats(found: Tensor) -> Tensor:
        return cross_entropy(found[:, :-1][learned], labels[:, 1:][learned], reduction="none")

    assert float((nats(after) - nats(before)).abs().max()) == pytest.approx(exported.output_difference, abs=1e-4)


def test_both_exported_files_hold_the_same_tensors(bases: dict[Family, Path], rows: Path, tmp_path: Path) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)
    trainer.train_epoch(1, [RATE], (), ignore)
    exported = trainer.export(1, [RATE], ignore)

    pth = torch.load(tmp_path / "export" / "weights.pth", weights_only=True)
    adapter = safetensors.torch.load_file(tmp_path / "export" / "adapter" / "adapter_model.safetensors")

    assert pth.keys() == adapter.keys() == adapter_state(trainer.model).keys()
    assert all(torch.equal(pth[name], adapter[name]) for name in pth)
    norm = math.sqrt(sum(float(tensor.square().sum()) for name, tensor in pth.items() if "lora_B" in name))
    assert exported.lora_b_norm == pytest.approx(norm, rel=1e-5)


# -- the loss and what it is over ----------------------------------------------------------------------------------


def test_validation_loss_and_bits_per_byte_are_those_of_the_answers(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)
    result = trainer.train_epoch(1, [RATE], (1,), ignore)
    tokenizer = AutoTokenizer.from_pretrained(bases["llama"])
    by_ids = {}
    for line in rows.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids, labels, answers = plain_example(tokenizer, row)
        size = sum(len(m["content"].encode()) for m in row["messages"] if m["role"] == "assistant")
        by_ids[tuple(ids)] = (labels, answers, size)

    trainer.model.set_attn_implementation("sdpa")  # its packed attention takes no padded rows
    nats = tokens = answer_nats = answer_bytes = 0.0
    for index, example in enumerate(trainer.objective.validation):
        labels, answers, size = by_ids[tuple(example.input_ids)]
        with torch.no_grad():
            row_logits = (
                trainer.model.eval()(input_ids=torch.from_numpy(example.input_ids)[None].long()).logits[0].double()
            )
        surprise = -row_logits.log_softmax(-1)
        for position in range(1, len(labels)):
            if labels[position] != -100:
                here = float(surprise[position - 1, labels[position]])
                nats, tokens = nats + here, tokens + 1
                answer_nats += here if answers[position] and index != 1 else 0.0
        answer_bytes += size if index != 1 else 0

    assert len(trainer.objective.validation) == 5
    assert result.val_loss == pytest.approx(nats / tokens, rel=1e-5)
    assert result.bits_per_byte == pytest.approx(answer_nats / math.log(2) / answer_bytes, rel=1e-5)


def test_a_validation_row_that_was_cut_has_no_part_in_bits_per_byte(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = TorchTrainer(assignment(bases["llama"], rows, tmp_path, max_length=60))
    cut = trainer.prepare().incomparable_validation_rows
    whole = [example for index, example in enumerate(trainer.objective.validation) if index not in cut]

    bits = trainer.train_epoch(1, [RATE], (), ignore).bits_per_byte
    trainer.objective = replace(cast("Any", trainer.objective), validation=whole)
    of_whole_rows = trainer.train_epoch(1, [RATE], (), ignore).bits_per_byte

    assert 0 < len(cut) < 5
    assert bits == pytest.approx(of_whole_rows, rel=1e-5)


def test_whatever_else_draws_random_numbers_in_the_process_does_not_change_the_training(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    checkpoints = []
    for name, draws in (("alone", 0), ("disturbed", 7)):
        trainer = prepared(bases["llama"], rows, tmp_path / name, lora_dropout=0.2)
        for epoch in (1, 2):
            torch.rand(draws)
            checkpoints.append(trainer.train_epoch(epoch, [RATE] * epoch, (), ignore).checkpoint)

    assert checkpoints[:2] == checkpoints[2:]


def test_every_seed_epoch_and_purpose_draws_from_a_stream_of_its_own() -> None:
    seeds = {draw(seed, epoch, use) for seed in range(20) for epoch in range(20) for use in ("order", "dropout")}

    assert len(seeds) == 800
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_how_a_step_is_cut_into_batches_does_not_change_it(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    losses = []
    for token_budget in (10_000, 150, 1):
        trainer = prepared(bases["llama"], rows, tmp_path / str(token_budget), token_budget=token_budget)
        reports: list[Any] = []
        trainer.train_epoch(1, [RATE], (), reports.append)
        losses.append([report.loss for report in reports])

    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


def test_recomputed_activations_change_no_bit_of_the_training(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    adapters = []
    for recomputed in (False, True):
        settings: dict[str, Any] = {"gradient_checkpointing": recomputed, "lora_dropout": 0.2}
        trainer = prepared(bases["llama"], rows, tmp_path / str(recomputed), **settings)
        calls: list[int] = []
        trainer.model.model.layers[0].mlp.up_proj.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        trainer.train_epoch(1, [RATE], (), ignore)
        adapters.append((adapter_state(trainer.model), len(calls)))

    (kept, calls_once), (again, calls_twice) = adapters
    assert all(torch.equal(kept[name], again[name]) for name in kept)
    assert calls_twice > calls_once


def test_of_a_sample_prompt_that_cannot_be_put_to_the_model_the_reason_is_recorded_and_training_goes_on(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    asked = prepared(bases["llama"], rows, tmp_path / "asked", sample_prompts=("word " * 300, "When?"), sample_tokens=4)
    plain = prepared(bases["llama"], rows, tmp_path / "plain").train_epoch(1, [RATE], (), ignore)

    result = asked.train_epoch(1, [RATE], (), ignore)

    assert result.samples[0].startswith("[not asked: ")
    assert "256" in result.samples[0]
    assert not result.samples[1].startswith("[")
    assert result.checkpoint == plain.checkpoint


def test_the_training_loss_of_an_epoch_weighs_every_token_alike(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path, batch_size=7, gradient_accumulation_steps=1)
    reports: list[Any] = []

    result = trainer.train_epoch(1, [RATE], (), reports.append)

    tokens = [sum(example.supervised_tokens for example in step) for step in steps_of(trainer, 1)]
    weighted = sum(report.loss * count for report, count in zip(reports, tokens, strict=True)) / sum(tokens)
    assert result.train_loss == pytest.approx(weighted)
    assert len(set(tokens)) > 1


def test_a_step_without_a_learned_token_changes_no_weight_and_counts(
    bases: dict[Family, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path, gradient_accumulation_steps=1, weight_decay=0.5)
    mute = [replace(e, labels=np.full_like(e.labels, IGNORED)) for e in trainer.objective.training[:2]]
    trainer.objective = replace(cast("Any", trainer.objective), training=[*mute, *trainer.objective.training[2:4]])
    trainer._steps = 2
    monkeypatch.setattr("oneseek.engine.trainer.row_order", lambda seed, epoch, count: range(count))
    initial = adapter_state(trainer.model)
    trainer._enter((RATE,), anew=True)

    steps = [trainer._step(1, 0, RATE)]
    after_the_first = adapter_state(trainer.model)
    steps.append(trainer._step(1, 1, RATE))
    reports: list[Any] = []
    trainer.train_epoch(1, [RATE], (), reports.append)

    assert (steps[0].units, steps[0].tokens) == (0, 0)
    assert steps[1].units > 0
    assert all(torch.equal(initial[name], after_the_first[name]) for name in initial)
    assert not all(torch.equal(initial[name], value) for name, value in adapter_state(trainer.model).items())
    assert [report.step for report in reports] == [2]  # where nothing is learned there is no loss to report


def test_every_epoch_has_its_own_order_of_the_same_rows(bases: dict[Family, Path], rows: Path, tmp_path: Path) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)

    orders = [
        [example.input_ids.tolist() for step in steps_of(trainer, epoch) for example in step] for epoch in (1, 2, 1)
    ]

    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(e.input_ids.tolist() for e in trainer.objective.training)


def test_counts_are_of_what_is_really_trained_on(bases: dict[Family, Path], rows: Path, tmp_path: Path) -> None:
    whole = prepared(bases["llama"], rows, tmp_path)
    begins = sorted(next(i for i, label in enumerate(e.labels) if label != IGNORED) for e in whole.objective.training)
    limit = begins[10]  # about half of the rows are cut before their first answer, the others within it
    trainer = TorchTrainer(assignment(bases["llama"], rows, tmp_path, max_length=limit))

    found = trainer.prepare()

    examples = trainer.objective.training
    assert found.truncated_rows == sum(len(e.input_ids) == limit and e.truncated for e in examples) > 0
    assert found.training_tokens == sum(len(e.input_ids) for e in examples)
    assert found.supervised_tokens == sum(label != IGNORED for e in examples for label in e.labels)
    assert found.rows_without_labels == sum(set(e.labels) == {IGNORED} for e in examples) > 0
    assert found.incomparable_validation_rows == tuple(
        i for i, e in enumerate(trainer.objective.validation) if e.truncated
    )
    assert found.parameters == 36_000
    assert found.trainable_parameters == sum(tensor.numel() for tensor in adapter_state(trainer.model).values())
    assert (found.dtype, found.device, found.threads) == ("float32", "cpu", 1)


def test_rows_are_never_longer_than_the_models_context(bases: dict[Family, Path], rows: Path, tmp_path: Path) -> None:
    long = write_rows(
        tmp_path / "long.jsonl",
        [
            {"messages": [{"role": "user", "content": f"{n}"}, {"role": "assistant", "content": f"{n} ö" * 200}]}
            for n in range(4)
        ],
    )

    trainer = prepared(bases["llama"], long, tmp_path / "work", max_length=4096)

    assert {len(example.input_ids) for example in trainer.objective.training} == {256}


# -- what can go wrong ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_is_a_divergence_and_leaves_no_checkpoint(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)
    trainer.train_epoch(1, [RATE], (), ignore)

    with pytest.raises(WorkerFailed) as failed:
        trainer.train_epoch(2, [RATE, 1e38], (), ignore)

    assert failed.value.kind == "diverged"
    assert "epoch 2" in failed.value.problem
    assert not (tmp_path / "epoch-2").exists()


def test_a_gradient_that_is_not_finite_is_a_divergence_too(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)
    next(iter(adapter_parameters(trainer.model).values())).register_hook(lambda gradient: gradient + math.inf)  # type: ignore[no-untyped-call]

    with pytest.raises(WorkerFailed) as failed:
        trainer.train_epoch(1, [RATE], (), ignore)

    assert failed.value.kind == "diverged"
    assert "gradient norm" in failed.value.problem


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_memory_that_ran_out_is_said_so_whoever_says_it(
    bases: dict[Family, Path], rows: Path, tmp_path: Path, error: Exception
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)

    def exhaust(*_: object) -> None:
        raise error

    trainer.model.base_model.register_forward_pre_hook(exhaust)

    with pytest.raises(WorkerFailed) as failed:
        trainer.train_epoch(1, [RATE], (), ignore)

    assert failed.value.kind == "out_of_memory"
    assert "max_length" in failed.value.fix


def test_an_error_that_is_not_about_memory_stays_what_it_is(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)

    def fail(*_: object) -> None:
        raise RuntimeError("size mismatch")

    trainer.model.base_model.register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="size mismatch"):
        trainer.train_epoch(1, [RATE], (), ignore)


def test_an_adapter_that_learned_nothing_is_refused(bases: dict[Family, Path], rows: Path, tmp_path: Path) -> None:
    trainer = prepared(bases["llama"], rows, tmp_path)
    trainer.train_epoch(1, [0.0], (), ignore)

    with pytest.raises(WorkerFailed) as failed:
        trainer.export(1, [0.0], ignore)

    assert failed.value.kind == "refused"
    assert "LoRA B is 0.0" in failed.value.problem


def test_rows_whose_answers_are_all_cut_off_are_refused(bases: dict[Family, Path], rows: Path, tmp_path: Path) -> None:
    trainer = TorchTrainer(assignment(bases["llama"], rows, tmp_path, max_length=8))

    with pytest.raises(WorkerFailed) as failed:
        trainer.prepare()

    assert failed.value.kind == "refused"
    assert "max_length" in failed.value.fix


def test_a_token_that_the_model_has_no_row_for_is_refused_naming_it_and_the_vocabulary(
    bases: dict[Family, Path], rows: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(bases["llama"], model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][0], "id": size, "content": "harbour"})
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))

    with pytest.raises(WorkerFailed) as failed:
        TorchTrainer(assignment(model, rows, tmp_path / "work")).prepare()

    assert failed.value.kind == "refused"
    assert f"token {size} ('harbour')" in failed.value.problem
    assert f"{size} tokens" in failed.value.problem
    assert f"{rows}, line " in failed.value.problem
    assert "tokenizer.json" in failed.value.fix


@pytest.mark.parametrize("seed", range(4))
def test_a_row_without_a_token_does_not_stop_the_training(bases: dict[Family, Path], tmp_path: Path, seed: int) -> None:
    model = tmp_path / "model"
    shutil.copytree(bases["llama"], model)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Replace", "pattern": {"String": "\u200b"}, "content": ""}
    tokenizer["post_processor"] = None
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (model / "tokenizer_config.json").write_text("{}")
    (model / "generation_config.json").unlink()
    (model / "config.json").write_text(
        json.dumps(json.loads((model / "config.json").read_text()) | {"bos_token_id": None, "eos_token_id": None})
    )
    texts = [*("\u200b" * n for n in range(1, 5)), *(f"row number {n}" for n in range(4))]
    dataset = write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in texts])
    settings: dict[str, Any] = {
        "format": "text",
        "strategy": "standard",
        "seed": seed,
        "validation_split": 0.5,
        "batch_size": 1,
    }
    trainer = TorchTrainer(assignment(model, dataset, tmp_path / "work", **settings))

    prepared = trainer.prepare()
    result = trainer.train_epoch(1, [RATE], (), ignore)
    exported = trainer.export(1, [RATE], ignore)

    empty = [index for index, example in enumerate(trainer.objective.validation) if not len(example.input_ids)]
    assert empty
    assert set(empty) <= set(prepared.incomparable_validation_rows)
    assert math.isfinite(result.val_loss)
    assert exported.output_difference > 0


def test_a_model_that_lacks_a_weight_is_refused_not_filled_with_random_numbers(
    bases: dict[Family, Path], tmp_path: Path
) -> None:
    tensors = safetensors.torch.load_file(bases["llama"] / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    for path in bases["llama"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(WorkerFailed) as failed:
        load_base_model(tmp_path, torch.float32)

    assert failed.value.kind == "refused"
    assert "model.layers.1.mlp.up_proj.weight" in failed.value.problem


@pytest.mark.parametrize("broken", ["model.safetensors", "config.json"])
def test_a_model_that_can_not_be_loaded_is_refused(bases: dict[Family, Path], tmp_path: Path, broken: str) -> None:
    for path in bases["llama"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:100])

    with pytest.raises(WorkerFailed) as failed:
        load_base_model(tmp_path, torch.float32)

    assert failed.value.kind == "refused"
    assert str(tmp_path) in failed.value.problem


@pytest.mark.parametrize(
    "config",
    [
        {"intermediate_size": 64},
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    ],
    ids=["shapes that do not fit", "a quantisation that is not installed"],
)
def test_a_model_that_its_config_does_not_fit_is_refused(
    bases: dict[Family, Path], tmp_path: Path, config: dict[str, Any]
) -> None:
    shutil.copytree(bases["llama"], tmp_path, dirs_exist_ok=True)
    document = json.loads((tmp_path / "config.json").read_text()) | config
    (tmp_path / "config.json").write_text(json.dumps(document))

    with pytest.raises(WorkerFailed) as failed:
        load_base_model(tmp_path, torch.float32)

    assert failed.value.kind == "refused"
    assert str(tmp_path) in failed.value.problem
    assert failed.value.fix


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_memory_that_runs_out_while_a_model_is_loaded_is_not_called_a_bad_model(
    bases: dict[Family, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def exhaust(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", exhaust)

    with pytest.raises(WorkerFailed) as failed:
        TorchTrainer(assignment(bases["llama"], rows, tmp_path)).prepare()

    assert failed.value.kind == "out_of_memory"


def test_code_in_a_model_directory_is_not_run(bases: dict[Family, Path], tmp_path: Path) -> None:
    for path in bases["llama"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')\n")

    with pytest.raises(WorkerFailed):
        load_base_model(tmp_path, torch.float32)

    assert not (tmp_path / "marker").exists()
