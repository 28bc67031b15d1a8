"""An installation of the old system, as its own documents describe what it wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "kb-llama-3-1-8b-swedish"
TWO_DOTS = "oneseek-7b-zero-v1.0..json"
ONE_DOT = "oneseek-7b-zero-v1.0.json"
COLONS = "run:2023-11-22:14:30:25"

FIRST_MODEL = {
    "version": "OneSeek-7B-Zero.v1.0.cd830c2a.c3a28ca9.687da763",
    "createdAt": "2025-11-22T00:13:11.127Z",
    "baseModels": ["mistral-7b-instruct"],
}
BOTH_MODELS = {
    "version": "OneSeek-7B-Zero.v1.0",
    "createdAt": "2025-11-22T00:13:12.004Z",
    "baseModels": ["Mistral-7B", "LLaMA-2-7B"],
    "multiModelMode": True,
}
ALWAYS_THE_SAME = {"version": "OneSeek-7B-Zero.v1.0", "baseModels": ["Mistral-7B", "LLaMA-2"]}

CERTIFIED: dict[str, dict[str, Any]] = {
    "oneseek_dna.json": {"dna": "OneSeek-7B-Zero.v1.0.42a8c9", "baseModels": [KEY], "final_weights": {KEY: 1.0}},
    "training_results.json": {
        "dna": "OneSeek-7B-Zero.v1.0.42a8c9",
        "baseModels": [KEY],
        "trained_models": [KEY],
        "metrics": {"loss": 0.245},
    },
    "live_metrics.json": {"type": "epoch_end", "val_losses": {KEY: 0.245}, "weights": {KEY: 1.0}},
    "ledger_proof.json": {"event": "dna_v2_training_completed", "baseModels": [KEY], "final_weights": {KEY: 1.0}},
}


@dataclass(frozen=True)
class OldSystem:
    """`root` is the directory with `models/`."""

    root: Path

    @property
    def family(self) -> Path:
        return self.root / "models" / "oneseek-7b-zero"

    @property
    def weights(self) -> Path:
        return self.family / "weights"

    @property
    def runs(self) -> Path:
        return self.root / "models" / "oneseek-certified"

    def metadata(self, name: str, document: Any, folder: Path | None = None) -> Path:
        path = (folder or self.weights) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else json.dumps(document, indent=2))
        return path

    def run(self, name: str, documents: dict[str, Any] = CERTIFIED) -> Path:
        for file, document in documents.items():
            self.metadata(file, document, self.runs / name)
        return self.runs / name
