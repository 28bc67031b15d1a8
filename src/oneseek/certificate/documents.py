"""The documents of a finished run, each a function of its journal's state. Field names are those of the old system."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import to_builtins

from oneseek.certificate.dna import Dna
from oneseek.errors import CertificateInvalid
from oneseek.events import EpochFinished, RunFinished
from oneseek.events.state import RunState
from oneseek.events.wire import epoch_end, leaderboard, sample_prompts, samples
from oneseek.names import FAMILY, versioned

Document = dict[str, Any]


def oneseek_dna(state: RunState, result: RunFinished, dna: Dna) -> Document:
    """oneseek_dna.json. `baseModels` are keys here and in every certified file: the models actually trained."""
    return {
        "dna": dna.name(state.accepted.version),
        "version": state.accepted.version,
        "run_id": state.run_id,
        "baseModels": list(state.verified),
        "final_weights": result.final_weights,
        "hashes": {"dataset": dna.dataset, "recipe": dna.recipe, "weights": dna.weights},
        "quarantined": result.quarantined,
    }


class _Named(msgspec.Struct):
    dna: str


def dna_in(document: bytes) -> str:
    """The DNA that the bytes of oneseek_dna.json name.

    Raises:
        CertificateInvalid: they name none.
    """
    try:
        return msgspec.json.decode(document, type=_Named).dna
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CertificateInvalid(f"oneseek_dna.json can't be read: {error}.", "Restore it from a backup.") from error


def training_results(state: RunState, result: RunFinished, dna: Dna) -> Document:
    """training_results.json: what was reached, model by model and epoch by epoch."""
    return {
        "dna": dna.name(state.accepted.version),
        "run_id": state.run_id,
        "baseModels": list(state.verified),
        "trained_models": list(state.verified),
        "multiModelMode": len(state.keys) > 1,
        "champion": result.champion,
        "final_weights": result.final_weights,
        "quarantined": result.quarantined,
        "stopped_by": result.reason,
        "epochs": state.epochs_done,
        "ranked_by": state.rank_by,
        "metrics": {
            key: {
                **_measured(state.committed[verified.epoch - 1].results[key]),
                "epoch": verified.epoch,
                "lora_b_norm": verified.lora_b_norm,
                "output_difference": verified.output_difference,
            }
            for key, verified in state.verified.items()
        },
        "leaderboard": leaderboard(state),
        "training_history": [
            {
                "epoch": commit.epoch,
                "models": {key: _measured(measured) for key, measured in commit.results.items()},
                "weights": commit.weights,
                "lr_multipliers": commit.learning_rates,
                "total_loss": commit.total_loss,
                "current_change": commit.auto_stop.current_change,
                **samples(commit),
            }
            for commit in state.committed
        ],
        **sample_prompts(state),
    }


def live_metrics(state: RunState, timestamp: str) -> Document:
    """live_metrics.json: the last `epoch_end`, as listeners got it."""
    return {
        "type": "epoch_end",
        "run_id": state.run_id,
        "baseModels": list(state.keys),
        **epoch_end(state.committed[-1], state),
        "timestamp": timestamp,
    }


def version_metadata(state: RunState, result: RunFinished, dna: Dna, created_at: str) -> Document:
    """oneseek-7b-zero-v<version>.json. `baseModels` are display names here."""
    names = {model.key: model.display_name for model in state.accepted.models}
    version = state.accepted.version
    return {
        "version": f"{FAMILY}.v{version}",
        "createdAt": created_at,
        "dna": dna.name(version),
        "run_id": state.run_id,
        "baseModels": [names[key] for key in state.verified],
        "modelSpecificWeights": {key: f"{versioned(version, key)}.pth" for key in state.verified},
        "final_weights": result.final_weights,
        "champion": result.champion,
        "multiModelMode": len(state.keys) > 1,
        "quarantined": result.quarantined,
    }


def _measured(result: EpochFinished) -> Document:
    return {
        "train_loss": result.train_loss,
        "val_loss": result.val_loss,
        "bits_per_byte": result.bits_per_byte,
        "learning_rate": result.learning_rate,
        "gradient_norm": result.gradient_norm,
        "tokens_per_second": result.tokens_per_second,
        "memory_bytes": result.memory_bytes,
        **({"preference": to_builtins(result.preference)} if result.preference else {}),
    }
