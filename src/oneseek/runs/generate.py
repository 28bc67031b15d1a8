"""Asking the adapters of a run, and the base models beside them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from oneseek.certificate.tensors import tensors_digest
from oneseek.config.parse import shown
from oneseek.config.schema import TrainingConfig
from oneseek.errors import ConfigError, ModelError, RunError, StorageError, WorkerFailed
from oneseek.events import ModelVerified, SelectedModel
from oneseek.events.state import RunState, replay
from oneseek.executors.answering import Adapter, Begun, Generated, Questions, ask
from oneseek.files.layout import RunDirectory
from oneseek.journal.file import read
from oneseek.names import match_selection
from oneseek.runs.find import engine_of, status
from oneseek.runs.publish import read_tensors
from oneseek.runs.recorder import is_published, is_running
from oneseek.runs.resume import how_to_go_on
from oneseek.runs.unchanged import changes_of


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
    begun: Begun = lambda _: None,
) -> Generator[Generated, None, None]:
    """Put every prompt to the verified models of a finished run, and tell their answers while they are written.

    One model answers after the other, each in a process of its own; closing the generator ends it. To each prompt the
    base model answers first (unless `base` is False), then the adapter.

    models: names as in a selection; None is all verified ones, in the run's order.
    max_new_tokens: longest answer. temperature 0 takes the likeliest token each time; above it, tokens are drawn from
        the likeliest ones that have the probability `top_p` together, from `seed` on.
    system: a system message before each prompt, where the run's data were chats.
    begun: told each process, so that another thread can kill it; closing the generator takes this thread. All of the
        generator has to run on one thread: Linux kills a process whose parent thread ends.

    Raises, before anything is started:
        ConfigError: a prompt or a number can't be used.
        RunError: the run has not finished, is trained outside, or a base model is not what its adapter was trained on.
        SelectionError: a name matches no verified model, or several.
        ModelError: a base model can't be read, or one of them can't be asked this.
        StorageError: an adapter is not what was verified.
        JournalDamaged: the journal is not what was written.
    Raises, while iterating:
        ModelError: a model can't be loaded.
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
    names = keys if models is None else [match_selection(name, keys) for name in models]
    chosen = [model for model in state.accepted.models if model.key in names]
    if changed := [change for model in chosen for change in changes_of(model)]:
        raise RunError(
            f"{state.run_id} can't be asked: {'; '.join(changed)}.",
            "Put back what it was started with, or name other models.",
        )
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
        for model in chosen
    ]
    for questions in asked:
        _require_askable(questions)
    return _one_after_the_other(asked, begun)


def _one_after_the_other(asked: Sequence[Questions], begun: Begun) -> Generator[Generated, None, None]:
    for questions in asked:
        yield from ask(questions, begun)


def _finished(directory: RunDirectory) -> RunState:
    state = replay(record.event for record in read(directory.journal).records)
    if state:
        engine_of(state, "asked")
    if state is None or not state.over or not is_published(directory):
        raise RunError(
            f"{directory.run_id} is {status(directory, state)} and has no adapters to ask yet.",
            "Ask when it has ended." if is_running(directory) else how_to_go_on(directory),
        )
    return state


def _adapter(directory: RunDirectory, model: SelectedModel, verified: ModelVerified, config: TrainingConfig) -> Adapter:
    folder = directory.adapter(model.key)
    file = folder / "adapter_model.safetensors"
    try:
        intact = tensors_digest(read_tensors(folder)) == verified.tensors_sha256
    except FileNotFoundError as error:
        raise StorageError(f"{file} is gone.", _RESTORE) from error
    except OSError as error:
        raise StorageError(f"{file} can't be read: {error.strerror}.", _RESTORE) from error
    except ModelError as error:
        raise StorageError(f"{file} {error.problem}.", _RESTORE) from error
    if not intact:
        raise StorageError(f"{file} is not the adapter that was verified.", _RESTORE)
    lora = config.lora_for(model.key)
    return Adapter(
        file=str(file),
        target_modules=model.target_modules,
        r=lora.r,
        alpha=lora.alpha,
        rslora=lora.use_rslora,
    )


_RESTORE = "Restore the run's directory from a backup, or name other models."


def _require_text(prompts: Sequence[str], system: str | None) -> None:
    if not prompts:
        raise ConfigError("There is no prompt.", "Write what to ask.")
    for number, prompt in enumerate(prompts, 1):
        if not prompt.strip():
            raise ConfigError(f"Prompt {number} is empty.", "Write what to ask, or leave it away.")
    for text in (*prompts, system or ""):
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ConfigError(f"{text!r} is not UTF-8.", "Write it as UTF-8 text.")


def _require_askable(questions: Questions) -> None:
    """All prompts, before any is answered."""
    from oneseek.engine.speaker import speaker_for  # with tokenizers and numpy, which no other command waits for

    asked = questions.model
    try:
        speaker = speaker_for(Path(questions.model_path), questions.strategy)
        for number, prompt in enumerate(questions.prompts, 1):
            asked = f"{questions.model}, prompt {number} ({shown(prompt)})"
            speaker.encode(prompt, questions.system)
    except WorkerFailed as error:
        raise ModelError(f"{asked}: {error.problem}", error.fix) from error


def _require_sense(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    for name, value, allowed, bounds in (
        ("max_new_tokens", max_new_tokens, max_new_tokens >= 1, "at least 1"),
        ("temperature", temperature, 0 <= temperature <= 100, "from 0 to 100"),
        ("top_p", top_p, 0 < top_p <= 1, "above 0 and at most 1"),
        ("seed", seed, 0 <= seed < 2**32, "from 0 to 2^32 - 1"),
    ):
        if not allowed:
            raise ConfigError(f"{name} is {value}.", f"Set it {bounds}.")
