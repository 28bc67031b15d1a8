"""Asking the adapters of a run, and the base models beside them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from oneseek.certificate.tensors import tensors_digest
from oneseek.config.schema import TrainingConfig
from oneseek.errors import ConfigError, ModelError, RunError, StorageError
from oneseek.events import ModelVerified, SelectedModel
from oneseek.events.state import RunState, replay
from oneseek.executors.answering import Adapter, Generated, Questions, ask
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.names import match_selection
from oneseek.runs.publish import read_tensors


def generate(
    directory: RunDirectory,
    prompts: Sequence[str],
    *,
    models: Iterable[str] | None = None,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system: str | None = None,
    base: bool = True,
) -> Generator[Generated, None, None]:
    """Put every prompt to the verified models of a finished run, and tell their answers while they are written.

    One model answers after the other, each in a process of its own; closing the generator ends it. To each prompt the
    base model answers first (unless `base` is False), then the adapter.

    models: names as in a selection; None is all verified ones, in the run's order.
    max_new_tokens: longest answer. temperature 0 takes the likeliest token each time; above it, tokens are drawn from
        the likeliest ones that have the probability `top_p` together, from `seed` on.
    system: a system message before each prompt, where the run's data were chats.

    Raises, before anything is started:
        ConfigError: a prompt or a number can't be used.
        RunError: the run has not finished.
        SelectionError: a name matches no verified model, or several.
        ModelError: a base model is gone.
        StorageError: an adapter is not what was verified.
        JournalDamaged: the journal is not what was written.
    Raises, while iterating:
        ModelError: a model can't be loaded, or can't be asked this.
        WorkerFailed: memory ran out, or a process was lost.
    """
    state = _finished(directory)
    _require_text(prompts, system)
    _require_sense(max_new_tokens, temperature, top_p, seed)
    if system is not None and state.accepted.dataset.strategy != "chat":
        raise ConfigError(
            f"{state.run_id} was trained on plain text, which has no system message.",
            "Leave the system message away, or write it into the prompt.",
        )
    keys = list(state.verified)
    chosen = keys if models is None else [match_selection(name, keys) for name in models]
    config = TrainingConfig.model_validate(state.config)
    dtypes = {plan.key: plan.dtype for plan in state.planned.models} if state.planned else {}
    asked = [
        Questions(
            model=model.key,
            model_path=model.path,
            strategy=state.accepted.dataset.strategy,
            dtype=dtypes[model.key],
            quantization=config.model.quantization,
            adapter=_adapter(directory, model, state.verified[model.key], config),
            base=base,
            prompts=tuple(prompts),
            system=system,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        for model in state.accepted.models
        if model.key in chosen
    ]
    return _one_after_the_other(asked)


def _one_after_the_other(asked: Sequence[Questions]) -> Generator[Generated, None, None]:
    for questions in asked:
        yield from ask(questions)


def _finished(directory: RunDirectory) -> RunState:
    state = replay(record.event for record in read(directory.journal).records)
    if state is None or not state.over or directory.work.exists():
        raise RunError(
            f"{directory.run_id} has no verified adapters yet.",
            f"Wait for its end, or take it there with `oneseek resume {directory.run_id}`.",
        )
    return state


def _adapter(directory: RunDirectory, model: SelectedModel, verified: ModelVerified, config: TrainingConfig) -> Adapter:
    if not Path(model.path).is_dir():
        raise ModelError(
            f"The base model {model.path} is gone, and the adapter of {model.key} is nothing without it.",
            "Put it back there, or name other models.",
        )
    folder = directory.adapter(model.key)
    try:
        intact = tensors_digest(read_tensors(folder)) == verified.tensors_sha256
    except (OSError, ModelError) as error:
        raise StorageError(f"{folder} can't be read: {error}.", _RESTORE) from error
    if not intact:
        raise StorageError(f"{folder} does not hold the adapter that was verified.", _RESTORE)
    lora = config.lora_for(model.key)
    return Adapter(
        file=str(folder / "adapter_model.safetensors"),
        target_modules=model.target_modules,
        r=lora.r,
        alpha=lora.alpha,
        rslora=lora.use_rslora,
    )


_RESTORE = "Restore the run's directory from a backup, or name other models."


def _require_text(prompts: Sequence[str], system: str | None) -> None:
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise ConfigError("There is an empty prompt." if prompts else "There is no prompt.", "Write what to ask.")
    for text in (*prompts, system or ""):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"{text!r} is not UTF-8.", "Write it as UTF-8 text.")


def _require_sense(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    for name, value, allowed, bounds in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature <= 100, "from 0 to 100"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        ("seed", seed, 0 <= seed < 2**32, "from 0 to 2^32 - 1"),
    ):
        if not allowed:
            raise ConfigError(f"{name} is {value}.", f"Set it {bounds}.")
