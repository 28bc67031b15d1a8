"""README.md of an adapter: a model card that says what it was made from, how, what was reached, and how to use it.

Names and settings come from outside: they stand in code spans, where Markdown knows no markup, no HTML and no links.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from oneseek.certificate.dna import Dna
from oneseek.certificate.provenance import file_name
from oneseek.config.schema import TrainingConfig
from oneseek.events import SelectedModel
from oneseek.events.state import RunState
from oneseek.events.wire import leaderboard
from oneseek.names import FAMILY

Row = tuple[Any, ...]


def card(state: RunState, key: str, dna: Dna) -> str:
    """The model card of the verified model `key`, Markdown with front matter as the Hugging Face hub reads it."""
    model = next(model for model in state.accepted.models if model.key == key)
    rank = next(row["rank"] for row in leaderboard(state) if row["model"] == key)
    parts = [
        _front_matter(state, model),
        f"# {FAMILY} v{state.accepted.version}: LoRA adapter for {code(model.display_name)}",
        f"Place {rank} of {len(state.keys)} among the base models that the run trained on the same rows, ranked by "
        f"{_METRICS[state.rank_by]}.",
        "## What it was trained on",
        _table(("", ""), _data(state)),
        "## How",
        _table(("", ""), _settings(state, model)),
        "## What was reached",
        _reached(state, key),
        *_samples(state, key),
        "## How to load it",
        _loading(model),
        "## Where it comes from",
        _table(("", ""), _origin(state, model, dna)),
        "`oneseek verify PATH --key KEYS` checks that all of this belongs together. PATH is the run's directory (this "
        "adapter is also published outside of it), KEYS the public keys of whoever trained it (`oneseek ledger key`).",
    ]
    return "\n\n".join(parts) + "\n"


def code(value: object) -> str:
    """`value` as a code span: its text on one line, between more backticks than it holds in a row."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if text[:1] == "`" or text[-1:] == "`" or not text.strip() else ""
    return f"{fence}{space}{text}{space}{fence}"


_METRICS = {"bits_per_byte": "bits per byte", "val_loss": "validation loss"}


def _front_matter(state: RunState, model: SelectedModel) -> str:
    fields: dict[str, Any] = {
        "base_model": model.hub_id or model.display_name,
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "oneseek", state.config["training"]["method"]],
    }
    plain = fields["base_model"].isprintable()  # other line ends than \n are lost by YAML, unless they are escaped
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=plain)}---"


def _data(state: RunState) -> Iterator[Row]:
    used = state.accepted.dataset
    yield "File", code(file_name(used.path))
    yield "SHA-256", code(used.sha256)
    if used.validation_path is not None:
        yield "Validation file", code(file_name(used.validation_path))
        yield "SHA-256", code(used.validation_sha256)
    yield "Format", f"{code(used.format)}, as {used.strategy}"
    yield "Rows", f"{used.training_rows} trained on, {used.validation_rows} to validate"
    if used.quarantined_rows:
        yield "Left out", f"{used.quarantined_rows} rows that could not be used (in the run's quarantine files)"


def _settings(state: RunState, model: SelectedModel) -> Iterator[Row]:
    config = TrainingConfig.model_validate(state.config)
    training, lora = config.training_for(model.key), config.lora_for(model.key)
    preferences = f"direct preference optimisation, {config.dpo.loss} loss, beta {config.dpo.beta}"
    yield "Method", preferences if training.method == "dpo" else "supervised fine-tuning"
    yield "Epochs", f"{state.epochs_done} of {state.total_epochs}; kept: epoch {state.verified[model.key].epoch}"
    yield "Learning rate", f"{training.learning_rate} times its adaptive weight, {training.lr_scheduler}"
    yield "Rows of an optimiser step", training.batch_size * training.gradient_accumulation_steps
    yield "Longest example", f"{config.data.max_length} tokens"
    yield "LoRA", f"r {lora.r}, alpha {lora.alpha}, dropout {lora.dropout}" + (", rsLoRA" if lora.use_rslora else "")
    yield "Target modules", " ".join(map(code, model.target_modules))
    yield "Quantization", config.model.quantization or "none"
    yield "Seed", training.seed


def _reached(state: RunState, key: str) -> str:
    """Losses in nats per token (in DPO per pair), epoch by epoch."""
    learned = [(commit.results[key], commit.weights) for commit in state.committed if key in commit.results]
    kept = state.verified[key].epoch
    preferred = any(result.preference for result, _ in learned)
    rows = [
        (
            f"**{result.epoch}** (kept)" if result.epoch == kept else result.epoch,
            _number(result.train_loss),
            _number(result.val_loss),
            _number(result.preference.accuracy if result.preference else result.bits_per_byte),
            _number(weights.get(key)),
        )
        for result, weights in learned
    ]
    last = "Preferences right" if preferred else "Bits per byte"
    return _table(("Epoch", "Training loss", "Validation loss", last, "Adaptive weight after it"), rows)


def _samples(state: RunState, key: str) -> Iterator[str]:
    """What the kept adapter answers to the sample prompts; nothing where there are none."""
    said = state.committed[state.verified[key].epoch - 1].results[key].samples
    if said:
        yield "## What it says"
        yield _table(
            ("Prompt", "Answer"),
            zip(map(code, state.config["training"]["sample_prompts"]), map(code, said), strict=True),
        )


def _loading(model: SelectedModel) -> str:
    where = model.hub_id or f"path/to/{model.display_name}"
    revision = f", revision={model.revision!r}" if model.hub_id and model.revision else ""
    return f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained({where!r}{revision})
model = PeftModel.from_pretrained(base, ".")
tokenizer = AutoTokenizer.from_pretrained(".")
```"""


def _origin(state: RunState, model: SelectedModel, dna: Dna) -> Iterator[Row]:
    yield "DNA", code(dna.name(state.accepted.version))
    yield "Run", code(state.run_id)
    if model.hub_id:
        yield "Base model", f"{code(model.hub_id)} at commit {code(model.revision)}"
    yield "Base model's weights", code(model.weights_sha256)
    yield "Made with", f"OneSeek {code(state.accepted.oneseek_version)}"


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    """Even in a code span, a bar would end the cell."""
    return str(value).replace("|", r"\|")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
