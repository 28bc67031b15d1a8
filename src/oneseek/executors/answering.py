"""A process in which one base model answers prompts, without its adapter and with it.

As with a worker, the questions come as a line of JSON on standard input and the answers leave as lines of JSON on
standard output, while they are written. The process ends when who asked is gone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from oneseek import child
from oneseek.errors import ModelError, OneSeekError, StorageError, WorkerFailed
from oneseek.executors.processes import last_words
from oneseek.executors.worker import Failure, encode, failure

Variant = Literal["base", "adapter"]


class Adapter(msgspec.Struct, frozen=True, kw_only=True):
    """A trained adapter: its safetensors file, and how it is put into the base model."""

    file: str
    target_modules: tuple[str, ...]
    r: int
    alpha: float
    rslora: bool


class Questions(msgspec.Struct, frozen=True, kw_only=True):
    """What one model is asked. `base`: the model without its adapter answers too, first. `dtype` is torch's name of it;
    the other numbers are those of `engine.generation.Sampling`."""

    model: str
    model_path: str
    strategy: Literal["chat", "standard"]
    dtype: str
    quantization: Literal["4bit", "8bit"] | None
    adapter: Adapter
    base: bool
    prompts: tuple[str, ...]
    system: str | None
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int


class TokenGenerated(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="token"):
    """An answer grew by `text`, which holds whole characters only. `prompt` counts from 0."""

    model: str
    variant: Variant
    prompt: int
    text: str


class AnswerFinished(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="answer"):
    """An answer is whole. It ended with an end token ("stop") or was cut off ("length")."""

    model: str
    variant: Variant
    prompt: int
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    tokens_per_second: float


Generated = TokenGenerated | AnswerFinished
Begun = Callable[[subprocess.Popen[bytes]], object]
Send = Callable[[Generated | Failure], None]

decode_message: msgspec.json.Decoder[Generated | Failure] = msgspec.json.Decoder(Generated | Failure)


def ask(questions: Questions, begun: Begun = lambda _: None) -> Iterator[Generated]:
    """Every answer of one model as it is written, in the order of the prompts. Closing the iterator ends the process.

    begun: told the process, so that another thread can kill it while this one waits for its next word.

    Raises:
        ModelError: the base model can't be loaded, or can't be asked this.
        WorkerFailed: memory ran out, or the process was lost.
        StorageError: the disk failed.
    """
    with tempfile.TemporaryFile() as log, child.running("oneseek.executors.answering", log) as process:
        begun(process)
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it has died, which the end of its output says
            process.stdin.write(encode(questions) + b"\n")
            process.stdin.flush()
        for line in process.stdout:
            message = decode_message.decode(line)
            if isinstance(message, Failure):
                raise _error(questions.model, message)
            yield message
        if code := process.wait():
            raise _lost(questions.model, code, log)


def answer(questions: Questions, send: Send) -> None:
    """What the process does: every prompt put to the base model, then to the adapter.

    Raises:
        OneSeekError: it can't be done.
    """
    from oneseek.engine.generation import Sampling, load_with_adapter, speaker_for
    from oneseek.engine.generation import answer as answer_one
    from oneseek.engine.lora import disabled

    path, adapter = Path(questions.model_path), questions.adapter
    speaker = speaker_for(path, questions.strategy)
    prompts = [speaker.encode(prompt, questions.system) for prompt in questions.prompts]
    model = load_with_adapter(
        path,
        Path(adapter.file),
        adapter.target_modules,
        adapter.r,
        adapter.alpha,
        rslora=adapter.rslora,
        dtype=questions.dtype,
        quantization=questions.quantization,
    )
    sampling = Sampling(questions.max_new_tokens, questions.temperature, questions.top_p, questions.seed)

    def put(number: int, variant: Variant) -> None:
        which: dict[str, Any] = {"model": questions.model, "variant": variant, "prompt": number}
        said = answer_one(
            model, speaker, prompts[number], sampling, lambda piece: send(TokenGenerated(**which, text=piece))
        )
        send(
            AnswerFinished(
                **which,
                text=said.text,
                finish_reason=said.finish_reason,
                tokens=said.tokens,
                tokens_per_second=said.tokens / said.seconds,
            )
        )

    for number in range(len(prompts)):
        if questions.base:
            with disabled(model):
                put(number, "base")
        put(number, "adapter")


def main() -> None:
    """The process. It ends by os._exit: a thread that waits for input would hold up any other end."""
    messages = child.begin()
    questions = msgspec.json.decode(sys.stdin.buffer.readline(), type=Questions)
    threading.Thread(target=_end_with_input, daemon=True).start()

    def send(message: Generated | Failure) -> None:
        messages.write(encode(message) + b"\n")

    try:
        answer(questions, send)
    except Exception as error:  # noqa: BLE001  whatever went wrong, who asked is told
        send(failure(error))
    sys.stderr.flush()
    os._exit(0)


def _end_with_input() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _error(model: str, failed: Failure) -> OneSeekError:
    problem = f"{model}: {failed.problem}"
    match failed.kind:
        case "refused":
            return ModelError(problem, failed.fix)
        case "fatal":
            return StorageError(problem, failed.fix)
        case "out_of_memory":
            return WorkerFailed("out_of_memory", problem, failed.fix)
        case _:
            return WorkerFailed("crashed", problem, failed.fix)


def _lost(model: str, code: int, log: IO[bytes]) -> WorkerFailed:
    """The process ended without a word."""
    if code in (-9, 137):
        fix = "If it is, close what else needs memory, or ask a smaller model."
        return WorkerFailed("crashed", f"{model}: its process was killed; the machine may be out of memory.", fix)
    log.seek(0)
    words = last_words(log.read().decode(errors="replace"))
    return WorkerFailed("crashed", f"{model}: its process ended with exit code {code}.{words}", "Ask again.")


if __name__ == "__main__":
    main()
