"""OneSeek from Python: the same as the command line, with results instead of tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oneseek import runs
from oneseek.config.sources import Resolved, resolve
from oneseek.files.layout import Home
from oneseek.registry.cache import cache_directory
from oneseek.runs import AnswerFinished, KnownRun, Result, Verdict, Verified, Watch, nobody


def home(root: str | Path | None = None, models_dir: str | Path | None = None) -> Home:
    """Where things are: the arguments, else ONESEEK_HOME and MODELS_DIR, else the current directory and its models/;
    and the Hugging Face cache, where its own variables say."""
    where = Path(root or os.environ.get("ONESEEK_HOME") or ".")
    return Home(
        root=where,
        models=Path(models_dir or os.environ.get("MODELS_DIR") or where / "models"),
        cache=cache_directory(os.environ),
    )


def train(
    dataset: str | Path | None = None,
    base_models: Sequence[str] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    root: str | Path | None = None,
    models_dir: str | Path | None = None,
    watch: Watch = nobody,
) -> Result:
    """Train a LoRA adapter for each of `base_models` on `dataset`, certify the run, and return what became of it.

    settings: any setting by its dotted name, as {"training.num_epochs": 5}.
    watch: called after each journal record with the record and the run's state.

    Raises:
        PreflightError: with every finding, where something would have made the run fail.
        Failed: training failed; the run's journal says where it got to.
    """
    resolved = _resolved(dataset, base_models, settings, config)
    at = home(root, models_dir)
    return runs.complete(runs.submit(resolved.config, at, problems=resolved.problems, watch=watch), at)


def validate(
    dataset: str | Path | None = None,
    base_models: Sequence[str] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    root: str | Path | None = None,
    models_dir: str | Path | None = None,
    rehearse: bool = False,
) -> Verdict:
    """Everything that would make `train` with these arguments fail, and what it would take; nothing is started.

    rehearse: where nothing is wrong, also take each model through one step, evaluation, save and reload, and throw
        all of it away.
    """
    resolved = _resolved(dataset, base_models, settings, config)
    return runs.validate(resolved.config, home(root, models_dir), problems=resolved.problems, rehearsed=rehearse)


def resume(
    run: str | Path,
    *,
    root: str | Path | None = None,
    models_dir: str | Path | None = None,
    watch: Watch = nobody,
) -> Result:
    """Go on with a run that was stopped or broken off, by its id or directory, to the same bits.

    Raises:
        RunError: it is complete, running, or its data or base models have changed.
    """
    at = home(root, models_dir)
    return runs.complete(runs.resume(runs.find(str(run), at), watch), at)


def verify(
    run: str | Path,
    *,
    keys: Sequence[str | Path] = (),
    dataset: str | Path | None = None,
    validation_dataset: str | Path | None = None,
    base_models: str | Path | None = None,
    root: str | Path | None = None,
    models_dir: str | Path | None = None,
) -> Verified:
    """Whether a run, by its id or any copy of its directory, is what was certified; `checks` says what was looked at.

    keys: files of public keys to trust besides this home's own, as `oneseek ledger key` prints them.
    dataset, validation_dataset, base_models: what it should have been made of, where that is at hand.
    """
    return runs.verify(
        str(run),
        home(root, models_dir),
        keys=[Path(key) for key in keys],
        dataset=Path(dataset) if dataset else None,
        validation_dataset=Path(validation_dataset) if validation_dataset else None,
        base_models=Path(base_models) if base_models else None,
    )


def generate(
    run: str | Path,
    prompts: Sequence[str],
    *,
    models: Sequence[str] | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system: str | None = None,
    base: bool = True,
    root: str | Path | None = None,
    models_dir: str | Path | None = None,
) -> Iterator[AnswerFinished]:
    """Ask the adapters of a finished run, and the base models beside them: each answer when it is whole.

    The arguments and errors are those of `oneseek.runs.generate`, which also tells the answers while they are written.
    """
    told = runs.generate(
        runs.find(str(run), home(root, models_dir)),
        prompts,
        models=models,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        system=system,
        base=base,
    )
    return (event for event in told if isinstance(event, AnswerFinished))


def _resolved(
    dataset: str | Path | None,
    base_models: Sequence[str],
    settings: Mapping[str, Any] | None,
    config: str | Path | None,
) -> Resolved:
    flags = dict(settings or {})
    if dataset is not None:
        flags["data.dataset"] = str(dataset)
    if base_models:
        flags["model.base_models"] = list(base_models)
    return resolve(file=Path(config) if config else None, environment=os.environ, flags=flags)


def find_runs(root: str | Path | None = None, models_dir: str | Path | None = None) -> list[KnownRun]:
    """Every run of a home, the newest first."""
    return runs.list_runs(home(root, models_dir))
