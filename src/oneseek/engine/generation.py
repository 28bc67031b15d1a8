"""Asking a model: a prompt in, the answer's text out while it is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers.generation.streamers import BaseStreamer

from oneseek.engine.base_model import load_base_model
from oneseek.engine.lora import attach, load_adapter_state
from oneseek.engine.out_of_memory import is_out_of_memory
from oneseek.engine.speaker import Speaker, speaker_for
from oneseek.errors import WorkerFailed

__all__ = ["Answer", "Sampling", "Speaker", "answer", "answers", "load_with_adapter", "speaker_for", "speaking"]

_HALF = "\ufffd"  # what bytes that are no whole character are decoded to


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. `temperature` 0 takes the likeliest each time. Above it, logits are divided by it and a
    token is drawn from the likeliest ones that together have the probability `top_p` (Holtzman et al. 2019,
    arXiv:1904.09751), from `seed` on: the same for each answer, whatever was asked before."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """`tokens` were written in `seconds`, the last of them being the one that ended it where it did "stop"."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int
    seconds: float


def load_with_adapter(
    model_path: Path,
    adapter: Path,
    target_modules: Sequence[str],
    r: int,
    alpha: float,
    *,
    rslora: bool,
    dtype: str,
    quantization: Literal["4bit", "8bit"] | None,
) -> Any:
    """The base model of a directory with a trained adapter in it, ready to answer, on this machine's GPU if it has one.

    adapter: its safetensors file. dtype: torch's name of the type in which the base model computes.

    Raises:
        WorkerFailed: model or adapter can't be loaded, they do not fit each other, or memory ran out.
    """
    with _memory_named():
        model = load_base_model(model_path, getattr(torch, dtype), quantization)
        attach(model, target_modules, r, alpha, dropout=0.0, rslora=rslora)
        load_adapter_state(model, safetensors.torch.load_file(adapter))
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def answer(
    model: Any,
    speaker: Speaker,
    prompt: Sequence[int],
    sampling: Sampling,
    report: Callable[[str], None] = lambda piece: None,
) -> Answer:
    """What a transformers causal language model says after a prompt; it must be in evaluation mode.

    prompt: token ids, at least one.
    report: called with each piece of text as soon as it is certain; never with half a character. The pieces together
        are the answer's text.

    Raises:
        WorkerFailed: the model has no embedding for a token of the prompt, or memory ran out.
    """
    _require_known(model, speaker, prompt)
    ends = sorted(speaker.ends | _named_by(model))
    room = speaker.context_length - len(prompt) if speaker.context_length else sampling.max_new_tokens
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0} if sampling.temperature else {}
    ids = torch.tensor([prompt], device=model.device)
    writer = _Writer(speaker.tokenizer, frozenset(ends), report)
    torch.manual_seed(sampling.seed)
    began = time.perf_counter()
    with _memory_named():
        model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(sampling.max_new_tokens, room),
            do_sample=bool(drawn),
            num_beams=1,
            use_cache=True,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,  # nothing is padded: answers are written one at a time
            streamer=writer,
            **drawn,
        )
    return writer.answer(time.perf_counter() - began)


def answers(model: Any, speaker: Speaker, prompts: Sequence[str], max_new_tokens: int) -> tuple[str, ...]:
    """What a model in training says to each prompt, by its likeliest tokens. It leaves no trace in the training: of a
    prompt that can't be put to this model, the answer is why not."""
    with speaking(model):
        return tuple(_answer_or_reason(model, speaker, prompt, Sampling(max_new_tokens)) for prompt in prompts)


def _answer_or_reason(model: Any, speaker: Speaker, prompt: str, sampling: Sampling) -> str:
    try:
        return answer(model, speaker, speaker.encode(prompt), sampling).text
    except WorkerFailed as error:
        return f"[not asked: {error.problem}]"


@contextmanager
def speaking(model: Any) -> Iterator[None]:
    """Inside, a model is in evaluation mode, under the attention that transformers chooses for it: one made for rows
    of a training knows no cache. Afterwards all is as it was, and so are torch's random generators."""
    training = {module: module.training for module in model.modules()}
    attention = model.config._attn_implementation
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        model.eval()
        model.set_attn_implementation(None)  # transformers' own choice
        try:
            yield
        finally:
            model.set_attn_implementation(attention)
            for module, mode in training.items():
                module.training = mode


class _Writer(BaseStreamer):  # type: ignore[misc]  # transformers carries no types
    """Makes text of an answer's tokens as they come.

    A token may end in the middle of a character, and some decoders write a token otherwise at a text's beginning. So
    the tokens since the last piece are decoded together with those of the piece before it.
    """

    def __init__(self, tokenizer: Tokenizer, ends: frozenset[int], report: Callable[[str], None]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        self._report = report
        self._prompt_is_to_come = True
        self._ended = False
        self._tokens: list[int] = []
        self._last = self._written = 0  # how many tokens there were before the last piece, and with it
        self._pieces: list[str] = []

    def put(self, value: Tensor) -> None:
        """transformers gives the prompt first, then each token."""
        if self._prompt_is_to_come:
            self._prompt_is_to_come = False
            return
        token = int(value)
        if token in self._ends:
            self._ended = True
            return
        self._tokens.append(token)
        self._write(half_too=False)

    def end(self) -> None:
        self._write(half_too=True)

    def answer(self, seconds: float) -> Answer:
        reason: Literal["stop", "length"] = "stop" if self._ended else "length"
        return Answer("".join(self._pieces), reason, len(self._tokens) + self._ended, seconds)

    def _write(self, *, half_too: bool) -> None:
        """Report what is new, unless it ends in what may be half a character."""
        before = self._decode(self._tokens[self._last : self._written])
        text = self._decode(self._tokens[self._last :])
        if len(text) > len(before) and (half_too or not text.endswith(_HALF)):
            self._last, self._written = self._written, len(self._tokens)
            self._pieces.append(text[len(before) :])
            self._report(self._pieces[-1])

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


@contextmanager
def _memory_named() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        fix = "Allow shorter answers, or close what else needs memory."
        raise WorkerFailed("out_of_memory", "There is not enough memory to answer.", fix) from error


def _named_by(model: Any) -> set[int]:
    """The end tokens that the model's generation_config.json names besides."""
    named = model.generation_config.eos_token_id
    return set(named if isinstance(named, list) else [] if named is None else [named])


def _require_known(model: Any, speaker: Speaker, prompt: Sequence[int]) -> None:
    known = int(model.get_input_embeddings().weight.shape[0])
    unknown = next((token for token in prompt if token >= known), None)
    if unknown is not None:
        raise WorkerFailed(
            "refused",
            f"Token {unknown} ({speaker.tokenizer.id_to_token(unknown)!r}) of a prompt is none of the {known} tokens "
            f"that {speaker.name} has embeddings for.",
            "Copy the tokenizer.json and chat template that belong to the model's weights again.",
        )
