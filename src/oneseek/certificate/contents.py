"""Which files a certified run has: those that must be there, and none besides but those that may be."""

from __future__ import annotations

from pathlib import Path

from oneseek.events.state import RunState
from oneseek.files.layout import RunDirectory

CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""What an adapter carries of its base model's tokenizer, as far as the base model has it."""

_RUN = RunDirectory(Path())


def required(state: RunState) -> frozenset[str]:
    """The files that a run's manifest must list, by their path in its directory, with slashes."""
    documents = {_RUN.journal, _RUN.recipe, _RUN.dna, _RUN.training_results, _RUN.live_metrics, _RUN.provenance}
    return _names(documents) | _of_adapters(state, ADAPTER_CONFIG, ADAPTER_WEIGHTS, CARD)


def allowed(state: RunState) -> frozenset[str]:
    """The files that a run's manifest may list: those, and what not every run has."""
    return required(state) | _of_adapters(state, *TOKENIZER_FILES) | _quarantines(state)


def folders(state: RunState) -> frozenset[str]:
    """The folders in a run's directory; none of them is empty."""
    adapters = {_RUN.adapter(key) for key in state.verified}
    return _names(adapters | {path.parent for path in adapters})


def _of_adapters(state: RunState, *names: str) -> frozenset[str]:
    return _names({_RUN.adapter(key) / name for key in state.verified for name in names})


def _quarantines(state: RunState) -> frozenset[str]:
    """Which of the two there are, the journal does not say: rows of either dataset may have been left out."""
    dataset = state.accepted.dataset
    if not dataset.quarantined_rows:
        return frozenset()
    return _names({_RUN.quarantine} | ({_RUN.validation_quarantine} if dataset.validation_path else set()))


def _names(paths: set[Path]) -> frozenset[str]:
    return frozenset(path.as_posix() for path in paths)
